"""The Ray transport: reaches every module through an actor of its own.

Return values belong to the caller and outlive their producer (what an actor puts dies with it), so an update returns
its answer, its state, its outputs and one object a message, all owned by the coordinator; references go in as
top-level arguments, which Ray resolves where the module is. The coordinator reads the answer alone.

Ray starts a dead actor's process again (``max_restarts``), elsewhere if need be, but repeats no call: what the process
had learnt is with the coordinator, which gives it back and asks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.backends.fault_injection import Injector
from actors.backends.module_host import Answer, Call
from actors.backends.ray.module_actor import RemoteModule, last_words_task, run_chain_task
from actors.backends.ray.placement_groups import Group, nodes, options_of
from actors.backends.ray.polling import Patience, alive, get, gone
from actors.coordination.backend import ChainCall, Part, Ref, Result, Task
from actors.coordination.placement import Bundle, Placement, allot, bundles_of, check, plan
from actors.coordination.recovery import Recovery
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
)
from actors.graph.graph import Graph
from actors.graph.spec import ModuleSpec
from actors.messaging.message import SCHEMA
from actors.module import Mode
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest

STATUS_TIMEOUT = 2.0
_WORDS_TIMEOUT = 20.0
_POLL_SECONDS = 0.1
_WHOLE = "the run is whole up to its last commit"


class RayTransport:
    """Reaches every module through an actor of its own, named as the module is.

    Parameters
    ----------
    namespace : str
        The Ray namespace of the actors' names.
    recovery : Recovery, optional
        How long to wait for answers, and for room on the cluster.
    log : callable, optional
        Receives a sentence where a choice was made (GPU or CPU) or where something is being waited for.
    placement : Placement, optional
        How the modules are laid out over the nodes.
    detached : bool
        Whether the actors outlive the process that makes them, until another one makes them anew.
    again : bool
        Whether a coordinator before this one has had all modules on this cluster: then it is worth waiting for nodes
        that can hold them. Of a new run it is said at once that there are none.
    injector : Injector, optional
        For tests: who dies where.
    """

    def __init__(
        self,
        namespace: str,
        *,
        recovery: Recovery | None = None,
        log: Callable[[str], None] | None = None,
        placement: Placement | None = None,
        detached: bool = False,
        again: bool = False,
        injector: Injector | None = None,
    ) -> None:
        self._injector = injector
        self._namespace = namespace
        self._recovery = recovery or Recovery()
        self._lifetime = "detached" if detached else None
        self._specs: dict[str, ModuleSpec] = {}
        self._gpus: dict[str, float] = {}
        self._uses_gpu: Mapping[str, bool] = {}
        self._actors: dict[str, Any] = {}
        self._slots: dict[str, int] = {}
        self._places: dict[str, dict[str, Any]] = {}
        self._prepared: dict[str, Any] = {}
        self._again = again
        self._placement = placement or Placement()
        self._group: Group | None = None
        self._bundles: dict[str, Bundle] = {}
        self._log = log or (lambda _sentence: None)

    def start(self, graph: Graph) -> list[dict[str, Any]]:
        """Make the actors, all at once, and let each prepare behind its first update."""
        self._gpus = self._allot(graph)
        for name, share in self._gpus.items():
            if graph.modules[name].resources.num_gpus == "auto" and graph.uses_gpu[name]:
                none = "the cluster has no GPU for it, so it runs on the CPU"
                self._log(f"{name}: {share:g} GPU" if share else f"{name}: {none}")
        self._specs, self._uses_gpu = dict(graph.modules), graph.uses_gpu
        for name in graph.modules:
            self._end_former(name)
        bundles = bundles_of(graph, self._gpus, self._placement)
        self._bundles = {name: bundle for bundle in bundles for name in bundle.modules}
        if self._placement.wanted:
            self._group = Group(bundles, self._placement.strategy, self._namespace)
        for name, spec in graph.modules.items():
            slots = graph.slots(name)
            made = (spec.resources, self._gpus[name])
            self._actors[name] = RemoteModule.options(
                name=name,
                namespace=self._namespace,
                **(self._group.options(name, *made) if self._group else options_of(*made)),
                max_restarts=-1,
                lifetime=self._lifetime,
            ).remote(spec, slots, graph.kinds, self._injector)
            self._slots[name] = len(slots)
        for name, actor in self._actors.items():
            self._prepared[name] = actor.prepare.remote()
        return [self._await_place(name) for name in self._actors]

    def ready(self, module: str) -> str:
        """Wait until `module` is prepared; say which device it uses."""
        device: str = self._get(module, self._prepared[module])
        spec = self._specs[module]
        if self._gpus[module] and self._uses_gpu[module] and device == "cpu":
            where = f"on node {self._places[module]['node']}, where torch finds no CUDA"
            if spec.resources.num_gpus != "auto":
                raise ModuleFailedError(
                    f"{_module(module)} was given {self._gpus[module]:g} GPU {where}: install a torch build for CUDA "
                    "there, or ask for num_gpus: auto, which makes do with the CPU"
                )
            self._log(f"{module}: was given a GPU {where}, so it runs on the CPU")
        return device

    def load(self, module: str, state: Ref | None) -> None:
        """Give `module` a state; None makes it anew."""
        self._get(module, self._actors[module].load.remote(self._life(module), state), given=[state])

    def revive(self, module: str) -> dict[str, Any]:
        """Wait for the process that Ray puts in the place of a dead one; end one that lives but does not answer."""
        place = self._await_place(module, known=self._life(module))
        self._prepared[module] = self._actors[module].prepare.remote()
        return place

    def submit(self, module: str, call: Call, arrays: Sequence[Ref], mode: Mode = "update") -> Task:
        """Ask `module`; returns one reference a returned object."""
        method = self._actors[module].ask.options(num_returns=3 + self._slots[module])
        return method.remote(self._life(module), mode, call, *arrays), arrays

    def collect(self, module: str, task: Task) -> Result:
        """Wait for the answer; the objects beside it stay where they are."""
        (answer, state, outputs, *messages), arrays = task
        found: Answer = self._get(module, answer, timeout=self._recovery.timeout, given=arrays)
        return Result(found, state, outputs, tuple(messages))

    def chain(self, call: ChainCall, objects: Sequence[Ref]) -> Task:
        """Have a chain run on whichever core of the cluster is free next.

        A chain is a task, not an actor: Ray keeps the processes, spreads them over the nodes, and runs the chain again
        where its node dies.
        """
        sizes = {name: 2 + len(call.graph.slots(name)) for name in call.block.modules}
        cpus = 1.0 if self._core_left() else 0.0
        given = run_chain_task.options(
            num_returns=1 + sum(sizes.values()), num_cpus=cpus, scheduling_strategy="SPREAD"
        ).remote(self._injector, call, *objects)
        timeout = self._recovery.timeout
        return sizes, given, timeout and timeout * call.block.updates, cpus, objects

    def chained(self, task: Task) -> Mapping[str, Result]:
        """Wait for the answers; the objects beside them stay where they are."""
        sizes, (answers, *objects), timeout, cpus, given = task
        try:
            found: Mapping[str, Answer] = self._get("", answers, timeout=timeout, given=given, cpus=cpus)
        except ModuleDiedError:
            ray.cancel(answers, force=True)  # one that hangs would keep its core
            raise
        results, first = {}, 0
        for name, size in sizes.items():
            state, outputs, *messages = objects[first : first + size]
            results[name] = Result(found[name], state, outputs, tuple(messages))
            first += size
        return results

    def save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task:
        """Have the objects of `module` written by its own actor."""
        return module, self._actors[module].save.remote(request, *objects), objects

    def saved(self, task: Task) -> Mapping[str, FileRecord]:
        """Wait for what :meth:`save` asked for."""
        module, reference, objects = task
        records: Mapping[str, FileRecord] = self._get(module, reference, own=OSError, given=objects)
        return records

    def read(self, module: str, request: LoadRequest) -> Part:
        """Have the module's own actor read its part of a commit."""
        slots = request.record.slots
        heads, state, outputs, *messages = self._actors[module].read.options(num_returns=3 + len(slots)).remote(request)
        found = self._get(module, heads, own=CheckpointError)
        return Part(dict(zip(slots, found, strict=True)), state, outputs, tuple(messages))

    def last_words(self, module: str) -> str:
        """Return the traceback that the last process of `module` left; read on its node, if that is there still."""
        place = self._places.get(module)
        if place is None:
            return ""
        where = NodeAffinitySchedulingStrategy(place["node_id"], soft=False)
        try:
            words: str = ray.get(
                last_words_task.options(scheduling_strategy=where).remote(place["log"]), timeout=_WORDS_TIMEOUT
            )
        except RayError:  # with its node
            return ""
        return words

    def status(self, module: str) -> dict[str, Any]:
        """Say what `module` does now; a module that does not answer in time says so."""
        try:
            status: dict[str, Any] = ray.get(self._actors[module].status.remote(), timeout=STATUS_TIMEOUT)
        except (GetTimeoutError, RayActorError) as error:
            return {"doing": f"no answer ({type(error).__name__})"}
        return status

    def stop(self) -> None:
        """End the actors."""
        for actor in list(self._actors.values()):  # a start may be adding to them
            ray.kill(actor)
        self._actors.clear()
        if self._group is not None:
            self._group.remove()

    def _allot(self, graph: Graph) -> dict[str, float]:
        """Divide what the cluster has among the modules; where they had room before, wait until they have it again."""
        patience = Patience(self._recovery.wait)
        while True:
            try:
                there = nodes()
                gpus = allot(graph, there, self._placement)
                check(graph, there, gpus, self._placement)
                return gpus
            except BackendError as error:
                if not self._again:
                    raise
                if patience.exhausted():
                    raise ModuleFailedError(
                        f"there is no room for the modules after {self._recovery.wait:g} s: {error}; {_WHOLE}"
                    ) from None
                if patience.tells():
                    self._log(f"waiting for room for the modules: {error}")
            time.sleep(_POLL_SECONDS)

    def _life(self, module: str) -> str:
        """Return which process of `module` the coordinator has dealt with last."""
        life: str = self._places.get(module, {}).get("life", "")
        return life

    def _core_left(self) -> bool:
        """Whether a node has a core that no module reserves: where they hold every one, chains would wait for ever.

        A module whose node has died reserves its cores wherever Ray puts it.
        """
        left = alive()
        homes = [(self._places[name]["node_id"], spec.resources.num_cpus) for name, spec in self._specs.items()]
        return any(
            resources.get("CPU", 0.0) - sum(cpus for home, cpus in homes if home == node or home not in left) >= 1.0
            for node, resources in left.items()
        )

    def _end_former(self, name: str) -> None:
        """End the actor that a coordinator before this one has left, and wait until its name is free."""
        until = time.monotonic() + self._recovery.wait
        while time.monotonic() < until:
            try:
                ray.kill(ray.get_actor(name, self._namespace))
            except ValueError:
                return
            time.sleep(0.05)
        raise ModuleFailedError(f"{_module(name)}: the actor of a coordinator before this one does not end")

    def _await_place(self, name: str, known: str = "") -> dict[str, Any]:
        """Wait until a process hosts the module that is another than the one `known`; say where it lives."""
        actor, asked = self._actors[name], None
        patience = Patience(self._recovery.wait)
        while True:
            if patience.exhausted():
                raise ModuleFailedError(
                    f"{_module(name)} has no process after {self._recovery.wait:g} s: {self._lacking(name)}; {_WHOLE}"
                )
            if patience.tells():
                self._log(f"waiting for a process for {_module(name)}: {self._lacking(name)}")
            asked = asked or actor.place.remote()
            try:
                place: dict[str, Any] = ray.get(asked, timeout=_POLL_SECONDS)
            except GetTimeoutError:  # the call waits with Ray until there is a process
                continue
            except ActorUnavailableError:
                asked = None
                time.sleep(_POLL_SECONDS)
                continue
            except RayActorError as error:
                raise ModuleFailedError(f"{_module(name)} could not be made\n{error}") from None
            asked = None
            if place.get("schema") != SCHEMA:
                raise ModuleFailedError(
                    f"{_module(name)} speaks messages of schema {place.get('schema')} on node {place['node']}, the "
                    f"coordinator those of schema {SCHEMA}: install the same serket-actors on both"
                )
            if place["life"] != known:
                self._places[name] = place
                return place
            ray.kill(actor, no_restart=False)
            time.sleep(_POLL_SECONDS)

    def _lacking(self, name: str) -> str:
        asked, there = self._bundles[name], nodes()
        return plan([asked], there, free=True)[0].missing or f"it asks for {asked.wishes}; {len(there)} nodes are there"

    def _get(
        self,
        module: str,
        reference: Any,
        *,
        timeout: float | None = None,
        own: type[Exception] | tuple[()] = (),
        given: Sequence[Ref] = (),
        cpus: float = 0.0,
    ) -> Any:
        """Return what a module answered; of a chain, the module is nameless.

        Parameters
        ----------
        module : str
        reference : ObjectRef
        timeout : float, optional
            Seconds.
        own : type of exception
            What says all that there is to say by itself.
        given : sequence of ObjectRef
            What it needs for its answer.
        cpus : float
            How many cores a chain waits for.
        """
        who = _module(module) if module else "a chain"
        try:
            return get(reference, timeout, lambda: self._check(module, who, given, cpus))
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ObjectLostError):
                raise ObjectsLostError(f"what {who} was given is lost: {_first_line(cause)}") from None
            if isinstance(cause, StaleIncarnationError):
                raise ModuleDiedError("its process is gone, and the one in its place knows nothing") from None
            if own and isinstance(cause, own):
                raise cause from None
            if isinstance(cause, NonFiniteError):  # it names the module already
                raise ModuleFailedError(str(cause)) from None
            if isinstance(cause, ModuleError | MessageError):  # they say all that there is to say
                raise ModuleFailedError(f"{who}: {cause}") from None
            raise ModuleFailedError(f"{who} raised an error\n{error}") from None
        except ObjectLostError as error:
            raise ObjectsLostError(f"what {who} answered is lost: {_first_line(error)}") from None
        except (RayActorError, WorkerCrashedError, TaskCancelledError) as error:
            raise ModuleDiedError(f"its process is gone\n{error}") from None
        except GetTimeoutError:
            raise ModuleDiedError(f"it did not answer within {timeout:g} s") from None

    def _check(self, module: str, who: str, given: Sequence[Ref], cpus: float) -> None:
        """Raise where an answer cannot come any more, whatever Ray says or does not say."""
        if module and self._places[module]["node_id"] not in alive():
            raise ModuleDiedError("its node is gone")
        if cpus and not self._core_left():
            raise ModuleDiedError("no node has a core left for it")
        lost = gone(given)
        if lost:
            raise ObjectsLostError(f"what {who} was given is lost: {lost}")


def _module(name: str) -> str:
    return f"module {name!r}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
