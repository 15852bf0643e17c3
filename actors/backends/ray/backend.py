"""The Ray backend: reaches every module through an actor of its own.

Return values are owned by the caller and outlive their producer (objects that an actor puts itself die with it), so a
call returns a summary, the state, the outputs and one object for each message, all owned by the coordinator. References
are passed as top-level arguments, which Ray resolves on the module's node. The coordinator fetches only the summary.

Ray restarts a dead actor (``max_restarts``), if necessary on another node, but repeats no call: the coordinator holds
the module's state, loads it into the new process and repeats the call.
"""

from __future__ import annotations

import math
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.backends.module_host import ModuleHost
from actors.backends.ray.deaths import death_reason, describe_memory_kills, memory_figures
from actors.backends.ray.groups import RayGroup
from actors.backends.ray.kept_inputs import SentInputs
from actors.backends.ray.module_actor import (
    MODULE_TITLE,
    RemoteModule,
    crash_report_task,
    kill_process,
    prepare_chain_task,
    run_chain_task,
)
from actors.backends.ray.placement_groups import ModulePlacementGroup, actor_options, nodes
from actors.backends.ray.polling import RetryTimer, alive_nodes, find_lost_object, get_with_checks
from actors.coordination.backend import ChainCall, MessageRef, ModuleCall, ModuleResult, Ref, ResultRef, Task
from actors.coordination.events import ModulePlaced
from actors.coordination.placement import (
    Bundle,
    Node,
    Placement,
    allocate_gpus,
    assign,
    assign_modules,
    check_placement,
    first_to_last,
    later_modules,
    nodes_for_more,
    resource_request,
    worker_counts,
    worker_name,
)
from actors.coordination.recovery import RecoveryPolicy
from actors.errors import (
    BackendError,
    CheckpointError,
    MessageError,
    ModuleDiedError,
    ModuleError,
    ModuleFailedError,
    NonFiniteError,
    ObjectsLostError,
    StaleIncarnationError,
    WorkerConnectionError,
    shorten_text,
)
from actors.graph.graph import Graph
from actors.graph.schedule import Block
from actors.graph.spec import ModuleSpec
from actors.limits import (
    JOIN_SECONDS,
    KILL_SECONDS,
    MAX_ERROR_CHARACTERS,
    MAX_PRINTED_LINE,
    MODULE_REPLY_SECONDS,
    STATUS_SECONDS,
)
from actors.messaging.message import SCHEMA
from actors.sharing.chunks import ShardedArrays, flatten
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest
from actors.storage.parts import assemble

_TRACEBACK_TIMEOUT = 20.0
_POLL_SECONDS = 0.1
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # in the first line of a traceback from Ray
_SAVED = "everything up to the last commit is saved"

T = TypeVar("T")


@dataclass(frozen=True)
class RayTask(Task[T]):
    """A task whose answer `wait` waits for and returns."""

    wait: Callable[[], T]


class _NoProcessError(ModuleFailedError):
    """No node has had room for a module or for a worker."""


class RayBackend:
    """Reaches every module through an actor of its own, with the module's name.

    Parameters
    ----------
    namespace : str
        The Ray namespace of the actors' names.
    recovery : RecoveryPolicy, optional
        How long to wait for answers, and for nodes that can hold the modules.
    log : callable, optional
        Receives a sentence for each choice between GPU and CPU, and when the run waits for resources.
    placed : callable, optional
        Receives where a module runs whose process :meth:`start` has not waited for.
    placement : Placement, optional
        Constraints on the placement of the modules on nodes.
    detached : bool
        Whether the actors outlive the process that creates them.
    restarted : bool
        Whether an earlier coordinator has had all modules on this cluster. If so, the run waits for nodes that can hold
        them; a new run fails at once if there are none.
    make_host : callable, optional
        Creates the host of a module; tests replace it.
    before_chain : callable, optional
        Called with the round before each chain; for tests.
    """

    reply_seconds = MODULE_REPLY_SECONDS
    """Least time for calls that do not learn; tests of processes that are stopped in them shorten it."""

    def __init__(
        self,
        namespace: str,
        *,
        recovery: RecoveryPolicy | None = None,
        log: Callable[[str], None] | None = None,
        placed: Callable[[ModulePlaced], None] | None = None,
        placement: Placement | None = None,
        detached: bool = False,
        restarted: bool = False,
        make_host: Callable[..., ModuleHost] | None = None,
        before_chain: Callable[[int], None] | None = None,
    ) -> None:
        self._make_host = make_host
        self._before_chain = before_chain
        self._namespace = namespace
        self._recovery = recovery or RecoveryPolicy()
        self._lifetime = "detached" if detached else None
        self._graph: Graph | None = None
        self._specs: dict[str, ModuleSpec] = {}
        self._gpus: dict[str, float] = {}
        self._uses_gpu: Mapping[str, bool] = {}
        self._actors: dict[str, Any] = {}  # by module; the further workers of a group by names of their own
        self._groups: dict[str, RayGroup] = {}
        self._slots: dict[str, tuple[str, ...]] = {}
        self._places: dict[str, ModulePlaced] = {}
        self._started = time.time()
        self._prepared: dict[str, Any] = {}
        self._sent = SentInputs()
        self._later: Sequence[str] = ()  # modules whose actors are not created yet
        self._starting: dict[str, Future[None]] = {}  # modules that are started beside what others do
        self._unresponsive: set[str] = set()  # modules that did not answer in time
        self._unreplaced: set[str] = (
            set()
        )  # lost nodes for whose workers there was no room for as long as the run waits
        self._status_requests: dict[str, Any] = {}
        self._restarted = restarted
        self._placement = placement or Placement()
        self._group: ModulePlacementGroup | None = None
        self._bundles: dict[str, Bundle] = {}
        self._log = log or (lambda _sentence: None)
        self._placed = placed or (lambda _place: None)

    def start(self, graph: Graph) -> list[ModulePlaced]:
        """Create all actors, and begin to prepare each before its first update."""
        self._gpus = self._allocate_gpus(graph)
        for name, share in self._gpus.items():
            if graph.modules[name].resources.num_gpus == "auto" and graph.uses_gpu[name]:
                none = "the cluster has no GPU for it, so it runs on the CPU"
                self._log(f"{name}: {share:g} GPU" if share else f"{name}: {none}")
        self._graph, self._specs, self._uses_gpu = graph, dict(graph.modules), graph.uses_gpu
        for name in graph.modules:
            self._end_former_actors(name)
        present = nodes(first=ray.get_runtime_context().get_node_id())
        workers = worker_counts(graph, present)
        assignments = assign_modules(graph, self._gpus, self._placement, present)
        self._bundles = {name: each.bundle for each in assignments for name in each.bundle.modules}
        if self._placement.is_constrained:
            self._group = ModulePlacementGroup(
                [each.bundle for each in assignments], self._placement.strategy, self._namespace
            )
        homes = {
            name: each.node.id
            for each in assignments
            if each.node and each.bundle.position is not None and len(present) > 1
            for name in each.bundle.modules
        }
        for name, spec in graph.modules.items():
            self._slots[name] = tuple(slot.name for slot in graph.slots(name))
            if spec.sharing is not None:
                self._groups[name] = RayGroup(self, spec, self._slots[name], workers[name])
        if self._may_start_later(present):
            self._later = later_modules(graph)
        for name in first_to_last(graph):
            for worker in [] if name in self._later else self._workers_of(name):
                self._create_actor(worker, name, homes.get(worker, ""))
        places = {name: self._begin_preparation(name) for name in self._actors}
        return [places[worker] for name in graph.modules for worker in self._workers_of(name) if worker in places]

    def _may_start_later(self, present: Sequence[Node]) -> bool:
        """Return whether processes may be started when their modules are needed: nothing is reserved, on one machine.

        Its cores are then free for what is needed first.
        """
        reserved = any(resource_request(spec.resources, self._gpus[name]) for name, spec in self._specs.items())
        return len(present) == 1 and not (self._restarted or self._groups or self._group or reserved)

    def _begin_preparation(self, worker: str) -> ModulePlaced:
        """Wait for a process, and begin to prepare its module; return where it runs."""
        place = self._await_place(worker)  # a process that halts while it is prepared has to be known by then
        self._prepared[worker] = self._actors[worker].prepare.remote()
        return replace(place, module=worker)

    def _start_later(self) -> None:
        """Create the actors of the modules that are needed later, and prepare each beside what others do."""
        names, self._later = self._later, ()
        for name in names:
            self._create_actor(name, name, "")
            waiting = self._starting[name] = Future[None]()
            threading.Thread(target=self._begin_beside, args=(name, waiting), daemon=True).start()

    def _begin_beside(self, name: str, waiting: Future[None]) -> None:
        """Begin to prepare a module in a thread of its own; `waiting` receives an exception, or that it has begun."""
        try:
            self._placed(self._begin_preparation(name))
            waiting.set_result(None)
        except Exception as error:
            waiting.set_exception(error)

    def _await_started(self, module: str) -> None:
        """Wait for the process of a module that is started later."""
        if module in self._later:
            self._start_later()
        if module in self._starting:
            self._starting[module].result()
            del self._starting[module]

    def _create_actor(self, worker: str, module: str, node: str) -> None:
        """Create the actor of a module or of one of its workers, if possible on a node."""
        assert self._graph is not None
        spec, gpus = self._graph.modules[module], self._gpus[module]
        if self._group is not None and worker in self._group:
            options = self._group.actor_options(worker, spec.resources, gpus)
        else:
            options = actor_options(spec.resources, gpus, node)
        self._actors[worker] = RemoteModule.options(
            name=worker, namespace=self._namespace, **options, max_restarts=-1, lifetime=self._lifetime
        ).remote(spec, self._graph.slots(module), self._graph.kinds, self._make_host)
        self._specs[worker], self._gpus[worker] = spec, gpus

    def await_prepared(self, module: str) -> str:
        """Wait until `module` is prepared; return the device that it uses."""
        self._await_started(module)
        for worker in reversed(self._workers_of(module)):
            device: str = self._get(worker, self._prepared[worker], timeout=self._reply_timeout)
        spec = self._specs[module]
        if self._gpus[module] and self._uses_gpu[module] and device == "cpu":
            where = f"on node {self._places[module].node}, where torch finds no CUDA"
            if spec.resources.num_gpus != "auto":
                raise ModuleFailedError(
                    f"{_module(module)} was given {self._gpus[module]:g} GPU {where}: install a torch build for CUDA "
                    "there, or ask for num_gpus: auto, which falls back to the CPU"
                )
            self._log(f"{module}: was given a GPU {where}, so it runs on the CPU")
        return device

    def load_state(self, module: str, state: Ref | None) -> None:
        """Load a state into `module`; None resets it."""
        reference = self._actors[module].load_state.remote(self._incarnation(module), state)
        self._get(module, reference, timeout=self._reply_timeout, given=[state])

    def restart(self, module: str) -> ModulePlaced:
        """Wait until Ray has restarted the actor; a process that did not answer in time is killed before.

        Of a group, those workers that are gone. It goes on with the others where there is no room for them.
        """
        return self._restart_group(module) if module in self._groups else self._restart_worker(module)

    def _restart_group(self, module: str) -> ModulePlaced:
        # Those that do not answer first: calls of others wait for their answers, and with them all later calls. The
        # first one last: if it has no process, another takes its place.
        workers = sorted(self._workers_of(module), key=lambda each: (each not in self._unresponsive, each == module))
        gone = [each for each in workers if self._is_gone(each)]
        alive, restarted, why = [each for each in workers if each not in gone], list[ModulePlaced](), ""
        for each in self._superfluous(module, gone):
            gone.remove(each)
            self._drop_worker(module, each, alive)
        fewer = "the cluster has no more cores" if len(self._workers_of(module)) < len(workers) else ""
        lost = {self._places[each].node_id for each in gone} - alive_nodes().keys()
        for each in gone:
            # The other workers of a lost node, also those of other groups, have waited, too.
            patience = STATUS_SECONDS if why or lost & self._unreplaced else self._recovery.wait
            try:
                restarted.append(replace(self._restart_worker(each, patience), module=each))
                alive.append(each)
            except _NoProcessError:
                if not alive and each in (module, gone[-1]):
                    raise
                self._unreplaced |= lost
                why = why or self._missing_resources(each)
                self._drop_worker(module, each, alive)
        if why or fewer:
            self._log(f"{module}: goes on with {_count(len(self._workers_of(module)), 'worker')}: {why or fewer}")
        return restarted[0] if restarted else self._places[module]

    def _superfluous(self, module: str, gone: Sequence[str]) -> list[str]:
        """Return those of the workers that are gone that ``workers: auto`` does not replace, as cores are gone too."""
        assert self._graph is not None
        sharing = self._graph.modules[module].sharing
        if sharing is None or sharing.workers != "auto":
            return []
        excess = len(self._workers_of(module)) - worker_counts(self._graph, nodes())[module]
        spare = [each for each in reversed(self._workers_of(module)[1:]) if each in gone]
        return spare[: max(0, excess)]

    def _drop_worker(self, module: str, worker: str, alive: Sequence[str]) -> None:
        """Remove a worker from its group; one of those that are alive takes the place of the first one."""
        ray.kill(self._actors[worker])
        removed = worker
        if worker == module:
            removed = alive[0]
            for known in (self._actors, self._places, self._prepared):
                known[module] = known[removed]
        for held in (self._actors, self._places, self._prepared, self._specs, self._gpus, self._bundles):
            held.pop(removed, None)
        self._unresponsive.discard(worker)
        self._groups[module].names = [each for each in self._groups[module].names if each != removed]

    def add_workers(self) -> list[ModulePlaced]:
        """Give groups the workers that they lack and for which nodes have room now; return where these run."""
        assert self._graph is not None
        added: list[ModulePlaced] = []
        if not self._groups:
            return added
        present = nodes(first=self._places[next(iter(self._groups))].node_id)
        wanted = worker_counts(self._graph, present)
        for module, group in self._groups.items():
            missing = wanted[module] - len(group.names)
            if missing <= 0:
                continue
            held = Counter(self._places[each].node_id for each in group.names)
            new = []
            for node in nodes_for_more(self._bundle_of_worker(module), missing, present, held):
                group.created += 1
                new.append(worker_name(module, group.created))
                self._create_actor(new[-1], module, node.id)
                self._bundles[new[-1]] = self._bundle_of_worker(module)
            added += self._await_new(module, new)
        return added

    def _bundle_of_worker(self, module: str) -> Bundle:
        spec = self._specs[module]
        request = resource_request(spec.resources, self._gpus[module])
        return Bundle((module,), request, spec.resources.label_selector)

    def _await_new(self, module: str, workers: Sequence[str]) -> list[ModulePlaced]:
        """Wait for new workers and add them to their group, in the order of the nodes; leave out those that fail."""
        group, added = self._groups[module], list[ModulePlaced]()
        for worker in workers:
            group.names.append(worker)
            try:
                place = replace(self._await_place(worker, wait=JOIN_SECONDS), module=worker)
                self._prepared[worker] = self._actors[worker].prepare.remote()
                self._get(worker, self._prepared[worker], timeout=JOIN_SECONDS)
                added.append(place)
            except (ModuleFailedError, ModuleDiedError):
                self._drop_worker(module, worker, ())
        if added:
            order = list(dict.fromkeys(self._places[each].node_id for each in group.names))
            group.names.sort(key=lambda each: order.index(self._places[each].node_id))
            self._log(f"{module}: has {_count(len(group.names), 'worker')} now")
        return added

    def _restart_worker(self, module: str, patience: float | None = None) -> ModulePlaced:
        unresponsive = module in self._unresponsive
        if unresponsive:
            self._unresponsive.discard(module)
            ray.kill(self._actors[module], no_restart=False)
        place = self._await_place(module, known=self._incarnation(module), kill=unresponsive, wait=patience)
        self._prepared[module] = self._actors[module].prepare.remote()
        return place

    def submit(self, module: str, call: ModuleCall, arrays: Sequence[Ref]) -> Task[ResultRef]:
        """Call `module`; only the summary of the answer is fetched, the objects stay on the nodes that hold them."""
        group = self._groups.get(module)
        if group is not None and call.mode == "generate" and not call.rows:  # it needs no rows: the host takes one part
            arrays = [Ref(each.overlapping(0, 1)) if isinstance(each, ShardedArrays) else each for each in arrays]
        slots, (layout, flat) = self._slots[module], flatten(arrays)
        if group is not None and call.mode in ("update", "recognize"):
            return RayTask(group.submit(call, arrays).result)
        self._await_started(module)
        method = self._actors[module].call.options(num_returns=3 + len(slots))
        incarnation, names, sent = self._incarnation(module), tuple[str, ...](), flat
        if call.mode == "update":
            names, sent = self._sent.leave_out(module, incarnation, flat)
        summary, *objects = method.remote(incarnation, call, layout, names, *sent)
        if self._later and call.mode == "update" and call.round:
            self._start_later()

        def wait() -> ResultRef:
            read, kept = self._get(module, summary, timeout=self._recovery.timeout, given=flat)
            if names:
                self._sent.note(module, incarnation, kept)
            return _result(read, objects, slots)

        return RayTask(wait)

    def prepare_chains(self, block: Block, chains: int) -> None:
        """Have processes started on free cores, and the block's modules imported and prepared in them.

        Ray starts a process where a task finds none, and keeps as many idle ones as there are free cores. A chain would
        wait for it for a second or more.
        """
        for _ in range(min(chains, self._free_cores())):
            prepare_chain_task.options(num_cpus=1.0, scheduling_strategy="SPREAD").remote(self._graph, block)

    def submit_chain(self, call: ChainCall, objects: Sequence[Ref | None]) -> Task[Mapping[str, ResultRef]]:
        """Run a chain on the next free core of the cluster.

        A chain is a task, not an actor: Ray manages the processes, spreads them over the nodes, and repeats a chain
        whose node dies.
        """
        slots = {name: tuple(slot.name for slot in call.graph.slots(name)) for name in call.block.modules}
        title = f"chain-{uuid.uuid4().hex}"
        cpus = 1.0 if self._has_free_core() else 0.0
        layout, flat = flatten(objects)
        summaries, *returned = run_chain_task.options(
            num_returns=1 + sum(2 + len(own) for own in slots.values()),
            num_cpus=cpus,
            scheduling_strategy="SPREAD",
            name=title,
        ).remote(self._before_chain, call, layout, *flat)
        timeout = self._recovery.timeout and self._recovery.timeout * call.block.updates

        def wait() -> Mapping[str, ResultRef]:
            try:
                read = self._get("", summaries, timeout=timeout, given=flat, cpus=cpus)
            except ModuleDiedError:  # a chain that hangs would occupy its core
                ray.cancel(summaries, force=True)
                for node in alive_nodes():  # a stopped process cannot follow Ray's request
                    kill_process(node, title)
                raise
            results, first = {}, 0
            for name, own in slots.items():
                results[name] = _result(read[name], returned[first : first + 2 + len(own)], own)
                first += 2 + len(own)
            return results

        return RayTask(wait)

    def submit_save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task[Mapping[str, FileRecord]]:
        """Have the objects of `module` written by its own actor, parts of them by its workers."""
        split, sent = request.split(objects), []
        for (own, given), worker in zip(split, self._savers(module, len(split)), strict=True):
            layout, flat = flatten(given)
            sent.append((self._actors[worker].save.remote(own, layout, *flat), flat))

        def wait() -> Mapping[str, FileRecord]:
            records: dict[str, FileRecord] = {}
            for reference, flat in sent:
                records |= self._get(module, reference, timeout=self._reply_timeout, reraise=OSError, given=flat)
            return records

        return RayTask(wait)

    def submit_read(self, module: str, request: LoadRequest) -> Task[ResultRef]:
        """Have the module's own actor read its part of a commit, parts of it by its workers."""
        self._await_started(module)
        requests, sent = request.split(), []
        for own, worker in zip(requests, self._savers(module, len(requests)), strict=True):
            sent.append(self._actors[worker].read.options(num_returns=3 + len(own.record.slots)).remote(own))

        def wait() -> ResultRef:
            read = [self._get(module, each[0], timeout=self._reply_timeout, reraise=CheckpointError) for each in sent]
            if len(sent) == 1:
                return _result(read[0], sent[0][1:], request.record.slots)
            objects = [[tuple(own.messages.values()), *each[1:]] for own, each in zip(read, sent, strict=True)]
            for own, each in zip(requests[1:], objects[1:], strict=True):
                each[2] = each[2] if "outputs" in own.record.files else None
            headers, *joined = assemble(request.record, read[0].outputs, objects[0], objects[1:])
            summary = ModuleResult[None, bytes](messages=dict(zip(request.record.slots, headers, strict=True)))
            return _result(summary, joined, request.record.slots)

        return RayTask(wait)

    def _savers(self, module: str, requests: int) -> list[str]:
        """Return the worker for each request of a commit: the first one, and for parts those that hold about them."""
        workers, parts = self._workers_of(module), requests - 1
        return [workers[0], *(workers[part * len(workers) // parts] for part in range(parts))]

    def collect(self, task: Task[T]) -> T:
        """Wait for the answer of a task."""
        return cast("RayTask[T]", task).wait()

    def actor(self, name: str) -> Any:
        """Return the actor of a module or of a worker."""
        return self._actors[name]

    def incarnation(self, name: str) -> str:
        """Return the known incarnation of a module or of a worker."""
        return self._incarnation(name)

    def fetch(self, module: str, reference: Any, given: Sequence[Ref]) -> Any:
        """Return an answer of a group; raise WorkerConnectionError as it is."""
        timeout = self._recovery.timeout
        return self._get(module, reference, timeout=timeout, reraise=WorkerConnectionError, given=given)

    def blame(self, module: str, workers: Callable[[], Sequence[str]]) -> None:
        """If a group did not answer in time, take `workers` for those that do not answer."""
        if module in self._unresponsive:
            self._unresponsive.discard(module)
            self._unresponsive.update(workers())

    def place(self, worker: str) -> ModulePlaced:
        """Return where a worker of a group runs."""
        return self._places[worker]

    def log(self, sentence: str) -> None:
        """Report something about a group."""
        self._log(sentence)

    def crash_report(self, module: str) -> str:
        """Return what the node of the last process of `module` knows of its death, if the node is still alive."""
        place = self._places.get(module)
        if place is None:
            return ""
        where = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
        try:
            text: str = ray.get(
                crash_report_task.options(scheduling_strategy=where).remote(place.log, place.oom_kills),
                timeout=_TRACEBACK_TIMEOUT,
            )
        except RayError:  # the node has died, too
            return ""
        return text

    def status(self, module: str) -> dict[str, Any]:
        """Return what `module` is doing now, or that it does not answer in time.

        A module that has not answered yet is not asked again, and not waited for again.
        """
        timeout = 0.0 if module in self._status_requests else STATUS_SECONDS
        try:
            request = self._status_requests.pop(module, None) or self._actors[module].status.remote()
            status: dict[str, Any] = ray.get(request, timeout=timeout)
        except GetTimeoutError as error:
            self._status_requests[module] = request
            return {"doing": f"no answer ({type(error).__name__})"}
        except RayActorError as error:
            return {"doing": f"no answer ({type(error).__name__})"}
        except KeyError:  # `stop` has ended it in the meantime
            return {"doing": "has ended"}
        return status

    def stop(self) -> None:
        """End the actors."""
        for actor in list(self._actors.values()):  # a copy: `start` may still add actors
            ray.kill(actor)
        self._actors.clear()
        if self._group is not None:
            self._group.remove()

    def _allocate_gpus(self, graph: Graph) -> dict[str, float]:
        """Divide the cluster's GPUs among the modules; a restarted run waits until its modules fit again."""
        timer = RetryTimer(self._recovery.wait)
        while True:
            try:
                present = nodes()
                gpus = allocate_gpus(graph, present, self._placement)
                check_placement(graph, present, gpus, self._placement)
                return gpus
            except BackendError as error:
                if not self._restarted:
                    raise
                if timer.expired():
                    raise ModuleFailedError(
                        f"the cluster cannot hold the modules after {self._recovery.wait:g} s: {error}; {_SAVED}"
                    ) from None
                if timer.should_log():
                    self._log(f"waiting for nodes that can hold the modules: {error}")
            time.sleep(_POLL_SECONDS)

    @property
    def _reply_timeout(self) -> float | None:
        """Seconds for calls that do not learn; None without a limit."""
        return self._recovery.timeout and max(self._recovery.timeout, self.reply_seconds)

    def _incarnation(self, module: str) -> str:
        """Return the incarnation of `module` that the coordinator knows."""
        place = self._places.get(module)
        return "" if place is None else place.incarnation

    def _workers_of(self, module: str) -> list[str]:
        """Return the names of the actors of a module's workers; the first is the module's."""
        return self._groups[module].names if module in self._groups else [module]

    def _is_gone(self, worker: str) -> bool:
        """Return whether a worker is to be replaced: it did not answer in time, died, or Ray has restarted it."""
        place = self._places[worker]
        if worker in self._unresponsive or place.node_id not in alive_nodes():
            return True
        try:
            now: ModulePlaced = ray.get(self._actors[worker].place.remote(), timeout=STATUS_SECONDS)
        except (RayError, GetTimeoutError):
            return True
        return now.incarnation != place.incarnation

    def _has_free_core(self) -> bool:
        """Return whether a node has a core that no module reserves; without one, a chain would wait forever."""
        return self._free_cores() > 0

    def _free_cores(self) -> int:
        """Return the number of cores that no module reserves.

        The cores of a module whose node has died are counted on every node, as Ray may restart it on any of them.
        """
        alive = alive_nodes()
        reserved = [
            (self._places[name].node_id, spec.resources.num_cpus)
            for name, spec in list(self._specs.items())  # a copy: another thread may add workers
            if name in self._places
        ]
        free = (
            resources.get("CPU", 0.0) - sum(cpus for home, cpus in reserved if home == node or home not in alive)
            for node, resources in alive.items()
        )
        return sum(int(max(cores, 0.0)) for cores in free)

    def _end_former_actors(self, module: str) -> None:
        """End the actors of an earlier coordinator's workers of a module, however many there are."""
        there = ray.util.list_named_actors(all_namespaces=True)
        names = [each["name"] for each in there if each["namespace"] == self._namespace]
        for name in {module, *(name for name in names if name.partition("#")[0] == module)}:
            self._end_former_actor(name)

    def _end_former_actor(self, name: str) -> None:
        """End the actor of an earlier coordinator and wait until its name is available."""
        until = time.monotonic() + self._recovery.wait
        while time.monotonic() < until:
            try:
                ray.kill(ray.get_actor(name, self._namespace))
            except ValueError:
                return
            time.sleep(0.05)
        raise ModuleFailedError(
            f"{_module(name)}: the actor of an earlier coordinator still exists after {self._recovery.wait:g} s; "
            "end that run with serket stop --now"
        )

    def _await_place(
        self, name: str, known: str = "", *, kill: bool = False, wait: float | None = None
    ) -> ModulePlaced:
        """Wait until an incarnation other than `known` hosts the module; return where it runs.

        With `kill`, the known process gets SIGKILL if Ray, which was asked to kill it, has not done so in time. By
        default, it waits as long as the recovery policy says.
        """
        actor, request = self._actors[name], None
        wait = self._recovery.wait if wait is None else wait
        timer = RetryTimer(wait)
        kill_at = time.monotonic() + KILL_SECONDS if kill else math.inf
        while True:
            if time.monotonic() > kill_at:
                kill_at = math.inf
                kill_process(self._places[name].node_id, MODULE_TITLE, self._places[name].pid)
            if timer.expired():
                raise _NoProcessError(
                    f"{_module(name)} has no process after {wait:g} s: {self._missing_resources(name)}; {_SAVED}"
                )
            if timer.should_log():
                self._log(f"waiting for a process for {_module(name)}: {self._missing_resources(name)}")
            request = request or actor.place.remote()
            try:
                place: ModulePlaced = ray.get(request, timeout=_POLL_SECONDS)
            except GetTimeoutError:  # Ray queues the call until there is a process
                continue
            except ActorUnavailableError:
                request = None
                time.sleep(_POLL_SECONDS)
                continue
            except RayActorError as error:
                raise ModuleFailedError(
                    f"{_module(name)} could not be created\n{shorten_text(str(error), MAX_ERROR_CHARACTERS)}"
                ) from None
            request = None
            if place.schema != SCHEMA:
                raise ModuleFailedError(
                    f"{_module(name)} reads messages of schema {place.schema} on node {place.node}, the "
                    f"coordinator those of schema {SCHEMA}: install the same serket-actors on both"
                )
            if place.incarnation != known:
                self._places[name] = place
                return place
            ray.kill(actor, no_restart=False)
            time.sleep(_POLL_SECONDS)

    def _missing_resources(self, name: str) -> str:
        """Return the sentence that says why no node can hold a module now."""
        bundle, present = self._bundles[name], nodes()
        missing = assign([bundle], present, free=True)[0].missing or describe_memory_kills(self._started)
        return missing or f"it asks for {bundle.describe()}; the cluster has {len(present)} nodes"

    def _get(
        self,
        module: str,
        reference: Any,
        *,
        timeout: float | None = None,
        reraise: type[Exception] | tuple[()] = (),
        given: Sequence[Ref | None] = (),
        cpus: float = 0.0,
    ) -> Any:
        """Return the answer of a module or of a chain; raise its exception as one of :mod:`actors.errors`.

        Parameters
        ----------
        module : str
            Empty for a chain.
        reference : ObjectRef
        timeout : float, optional
            Seconds.
        reraise : type of exception, optional
            An exception that is raised unchanged.
        given : sequence of ObjectRef
            The inputs of the call.
        cpus : float
            The cores that a chain waits for.
        """
        who = _module(module) if module else "a chain"
        try:
            return get_with_checks(reference, timeout, lambda: self._check(module, who, given, cpus))
        except RayTaskError as error:
            raise self._error_of_task(error, module, who, reraise) from None
        except ObjectLostError as error:
            raise ObjectsLostError(f"the result of {who} was lost: {_first_line(error)}") from None
        except OutOfMemoryError as error:
            figures = memory_figures(str(error))
            raise ModuleDiedError(f"its process was killed because its node ran out of memory{figures}") from None
        except (RayActorError, WorkerCrashedError, TaskCancelledError, NodeDiedError) as error:
            raise ModuleDiedError(f"its process {self._death_reason(self._worker_of(module, error), error)}") from None
        except GetTimeoutError:
            if module:
                self._unresponsive.add(module)
            raise ModuleDiedError(f"it did not answer within {timeout:g} s") from None

    def _error_of_task(
        self, error: RayTaskError, module: str, who: str, reraise: type[Exception] | tuple[()]
    ) -> Exception:
        """Return what stands for an exception that a call has raised, or that it got from the call of a worker."""
        cause = error.cause
        while isinstance(cause, RayTaskError):  # of a worker, passed on by the call that got its answer
            cause = cause.cause
        if isinstance(cause, RayActorError | WorkerCrashedError | NodeDiedError):  # likewise
            reason = self._death_reason(self._worker_of(module, cause), cause)
            return ModuleDiedError(f"its process {reason}")
        if isinstance(cause, ObjectLostError):
            return ObjectsLostError(f"an input of {who} was lost: {_first_line(cause)}")
        if isinstance(cause, StaleIncarnationError):
            return ModuleDiedError("its process died, and the new one does not have its state yet")
        if reraise and isinstance(cause, reraise):
            return cause
        if isinstance(cause, NonFiniteError):  # its message names the module
            return ModuleFailedError(str(cause))
        if isinstance(cause, MemoryError):
            return ModuleFailedError(
                f"{who} ran out of memory: {_first_line(cause) or 'it could not allocate more'}; use fewer rows or "
                f"give it more memory; {_SAVED}"
            )
        if isinstance(cause, ModuleError | MessageError):  # complete without the traceback
            return ModuleFailedError(_name_once(who, str(cause)))
        trace = shorten_text(_COLOURS.sub("", str(error)), MAX_ERROR_CHARACTERS)
        raised = shorten_text(f"{type(cause).__name__}: {_first_line(cause)}", MAX_PRINTED_LINE).rstrip(": ")
        return ModuleFailedError(f"{who} raised an error: {raised}\n{trace}")

    def _worker_of(self, module: str, error: Exception) -> str:
        """Return the worker of a module whose actor an error names; the module itself if it names none."""
        actor_id = getattr(error, "actor_id", None)
        names = (name for name in self._workers_of(module) if self._actors[name]._actor_id.hex() == actor_id)
        return next(names, module)

    def _death_reason(self, module: str, error: Exception) -> str:
        """Return why a process ended; Ray's own report if the cluster does not know it."""
        place = self._places.get(module)
        if place is None or place.node_id not in alive_nodes():
            return "ended with its node" if place else f"ended\n{shorten_text(str(error), MAX_ERROR_CHARACTERS)}"
        return death_reason(place.pid, place.node_id)

    def _check(self, module: str, who: str, given: Sequence[Ref | None], cpus: float) -> None:
        """Raise an exception if the answer can no longer arrive, in case Ray does not report it."""
        alive = alive_nodes() if module else {}
        if module and any(self._places[worker].node_id not in alive for worker in self._workers_of(module)):
            raise ModuleDiedError("its node died")
        if cpus and not self._has_free_core():
            raise ModuleDiedError("no node has a free core for it")
        lost = find_lost_object(given)
        if lost:
            raise ObjectsLostError(f"an input of {who} was lost: {lost}")


def _result(summary: ModuleResult[None, bytes], objects: Sequence[Any], slots: Sequence[str]) -> ResultRef:
    """Return the result that consists of a summary and the references returned with it."""
    state, outputs, *arrays = objects
    bodies = dict(zip(slots, arrays, strict=True))
    messages = {slot: MessageRef(header, bodies[slot]) for slot, header in summary.messages.items()}
    return ModuleResult(state, outputs, messages, summary.metrics, summary.seconds, ended=summary.ended)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _module(name: str) -> str:
    return f"module {name!r}"


def _name_once(who: str, text: str) -> str:
    """Return an error message with the name of the module before it, unless it begins with that name."""
    return text if text.startswith(who) else f"{who}: {text}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
