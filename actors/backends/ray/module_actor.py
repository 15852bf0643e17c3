"""The code that runs on the workers: the actor class that hosts a module, and the task that runs a chain."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.backends.in_process import InProcessBackend
from actors.backends.module_host import Arrays, HostResult, ModuleHost
from actors.backends.ray.deaths import count_oom_kills, describe_crash
from actors.backends.ray.kept_inputs import KeptInputs
from actors.backends.shard_host import ShardHost, cut_to_sample
from actors.coordination.backend import ChainCall, ModuleCall, ModuleResult
from actors.coordination.chains import run_chain
from actors.coordination.events import ModulePlaced
from actors.errors import StaleIncarnationError
from actors.graph.graph import Graph
from actors.graph.schedule import Block
from actors.graph.spec import ModuleSpec, Slot
from actors.messaging.codec import pack_header
from actors.messaging.kinds import Kind, register_kind
from actors.messaging.message import SCHEMA
from actors.sharing.chunks import Extent, ShardedArrays, ShardedOutputs, restore, whole_arrays
from actors.sharing.transport import Exchange
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest, load_index

Layout: TypeAlias = Sequence[ShardedArrays | None]
"""Which of the objects of a call are in parts (:func:`actors.sharing.chunks.flatten`)."""

_RETURN_SUMS = ("accumulate", "summarise")
_RETURN_PARAMETERS = ("begin", "begin_passes", "maximise", "learnt", "begin_response")
"""Methods of workers whose answer, or the first of their answers, goes to other workers."""

_OF_CONNECTIONS = ("listen", "connect", "await_connections", "lead", "follow")
"""Methods of a worker's host that return nothing which other workers need."""

_TRACEBACK_BYTES = 20_000
"""Enough for any traceback."""


class OpenedShard(NamedTuple):
    """What a worker knows of a call when it has its rows.

    Attributes
    ----------
    continued : list of bool
        Whether each of its stretches begins within a sequence.
    starts : bool
        Whether nothing was learnt yet.
    """

    continued: list[bool]
    starts: bool


class ModuleActor:
    """A Ray actor around one module's host; status calls are answered while the module learns.

    Ray restarts a dead actor by itself, and callers are not informed, so each call that depends on the module's state
    names the incarnation that it is addressed to.

    Parameters
    ----------
    spec : ModuleSpec
    slots : tuple of Slot
    kinds : tuple of Kind
        The message kinds of the model that are not built in.
    make_host : callable, optional
        Creates the host; by default :class:`actors.backends.module_host.ModuleHost`.
    """

    def __init__(
        self,
        spec: ModuleSpec,
        slots: tuple[Slot, ...],
        kinds: tuple[Kind, ...],
        make_host: Callable[..., ModuleHost] | None,
    ) -> None:
        for kind in kinds:  # another module's kind may be declared only in that module's file
            register_kind(kind, "the model")
        self._ignored = _ignore_blocked_signals()
        self._host = (make_host or (ModuleHost if spec.sharing is None else ShardHost))(spec, slots)
        self._incarnation = uuid.uuid4().hex
        self._exchange, self._alone = Exchange(), True
        self._kept = KeptInputs()

    @ray.method(concurrency_group="status")
    def place(self) -> ModulePlaced:
        """Return where this actor runs: its node, process and the device that Ray assigned."""
        return ModulePlaced(
            module=self._host.spec.name,
            node=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            device="cuda" if ray.get_gpu_ids() else "cpu",
            incarnation=self._incarnation,
            schema=SCHEMA,
            node_id=ray.get_runtime_context().get_node_id(),
            log=str(Path("/proc/self/fd/2").resolve()),  # the file to which Ray redirects standard error
            oom_kills=count_oom_kills(),
        )

    def prepare(self) -> str:
        """Prepare the module on the device that Ray assigned; return the device that the module uses."""
        return self._host.prepare("cuda" if ray.get_gpu_ids() else "cpu")

    def call(
        self, incarnation: str, call: ModuleCall, layout: Layout, names: Sequence[str], *arrays: Any
    ) -> tuple[Any, ...]:
        """Call the module; return a summary, the state, the outputs and, for each slot, the message's arrays.

        The arrays of an update have names, and None stands for those that are kept here
        (:mod:`actors.backends.ray.kept_inputs`). With the summary come the names of what is kept then.
        """
        self._begin(incarnation)
        given = self._kept.complete(names, arrays) if names else arrays
        summary, *objects = self._returned(self._host.call(call, restore(layout, given)))
        return ((summary, self._kept.names), *objects)

    def open_shard(
        self,
        incarnation: str,
        call: ModuleCall,
        overrides: Mapping[str, Any] | None,
        extents: Sequence[Extent],
        rank: int,
        layout: Layout,
        *arrays: Any,
    ) -> OpenedShard:
        """Take this worker's rows of a call, with the first worker's parameters of steps if there are others."""
        self._begin(incarnation)
        call = call if overrides is None else replace(call, overrides=overrides)
        self._alone, self._exchange.first = len(extents) == 1, rank == 0
        self._shard_host.open_shard(call, restore(layout, arrays), extents, rank)
        return OpenedShard(self._shard_host.continued, self._shard_host.starts())

    def shard(self, incarnation: str, method: str, returns: int | None, *values: Any) -> Any:
        """Call a method of this worker (:class:`actors.sharing.driver.Worker`), or of its host."""
        self._begin(incarnation)
        if method == "forget":
            return self._exchange.forget()
        if method in _OF_CONNECTIONS:
            return getattr(self._shard_host, method)(*values)
        given = self._exchange.receive(values)
        if method == "respond":
            part, sums = self._shard_host.run(method, *given)
            return (sums if self._alone else self._exchange.send_sums(sums), *self._returned(part))
        if method in ("overrides", "sample", "begin"):
            answer = getattr(self._shard_host, method)(*given)
        else:
            answer = self._shard_host.run(method, *given)
        if not self._alone and method in _RETURN_SUMS:
            answer = self._exchange.send_sums(answer)
        if not self._alone and method in _RETURN_PARAMETERS:
            first, *rest = [answer] if returns is None else answer
            answer = [self._exchange.send_parameters(first), *rest]
            answer = answer[0] if returns is None else answer
        if returns is None:
            return answer
        return tuple(answer) if returns > 1 else next(iter(answer))

    def conclude_shard(self, incarnation: str, learnt: Any, metrics: Any) -> tuple[Any, ...]:
        """End a call in its first worker; return the summary without messages, the state, and the outputs' names."""
        self._begin(incarnation)
        result = self._shard_host.conclude_call(*self._exchange.receive([learnt, metrics]))
        names = self._shard_host.output_names
        return (_summary(result, {}), result.state, names)

    def close_shard(self) -> None:
        """Release this worker's rows."""
        self._shard_host.close_shard()

    @ray.method(concurrency_group="status")
    def end_waiting(self) -> None:
        """End the connections to other workers, also while a call waits for them."""
        self._shard_host.end_waiting()

    @property
    def _shard_host(self) -> ShardHost:
        assert isinstance(self._host, ShardHost)
        return self._host

    def _begin(self, incarnation: str) -> None:
        self._check(incarnation)
        # Of this thread, which the process's own ones inherit.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._ignored)

    def _returned(self, result: HostResult) -> tuple[Any, ...]:
        headers = {slot: pack_header(message.header) for slot, message in result.messages.items()}
        sent = (result.messages.get(slot.name) for slot in self._host.slots)
        arrays = (message and message.arrays for message in sent)
        return (_summary(result, headers), result.state, result.outputs, *arrays)

    def load_state(self, incarnation: str, state: Any) -> None:
        """Load a state into the module; None resets it."""
        self._check(incarnation)
        if state is None:
            self._host.reset()
        else:
            self._host.load_state(state)

    def save(self, request: SaveRequest, layout: Layout, *objects: Any) -> dict[str, FileRecord]:
        """Write the module's part of a commit."""
        return self._host.save(request, restore(layout, objects))

    def read(self, request: LoadRequest) -> tuple[Any, ...]:
        """Read the module's part of a commit: the summary of the result, then state, outputs and messages."""
        headers, *objects = self._host.read(request)
        index = load_index(request) if "parts" in request.record.files else None
        summary = ModuleResult[Any, bytes](
            outputs=index, messages=dict(zip(request.record.slots, headers, strict=True))
        )
        return (summary, *objects)

    @ray.method(concurrency_group="status")
    def status(self) -> dict[str, Any]:
        """Return what the module is doing now."""
        return self._host.status()

    def _check(self, incarnation: str) -> None:
        if incarnation != self._incarnation:
            raise StaleIncarnationError(f"the process of {self._host.spec.name} was restarted")


def _summary(result: ModuleResult[Any, Any], headers: Mapping[str, bytes]) -> ModuleResult[None, bytes]:
    """Return what the coordinator fetches of a result: all but the state, the outputs and the messages' arrays."""
    return ModuleResult(messages=headers, metrics=result.metrics, seconds=result.seconds, ended=result.ended)


def _ignore_blocked_signals() -> set[signal.Signals]:
    """Ignore the stop signals that this process was started with blocked; return them.

    The processes of an own cluster have them blocked, and would hand that on to processes that a module starts, which
    could then not be ended by them.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGHUP}
    if threading.current_thread() is not threading.main_thread():
        return set()
    for number in blocked:
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    return {signal.Signals(number) for number in blocked}


# Without Ray's own record of each task, which its control service keeps for 100,000 of them: 18 KB a round.
RemoteModule: Any = ray.remote(concurrency_groups={"status": 1}, enable_task_events=False)(ModuleActor)


@ray.remote(enable_task_events=False, max_retries=0)
def prepare_chain_task(graph: Graph, block: Block) -> None:
    """Import and prepare the modules of a block in this process, where chains of it will run."""
    backend = InProcessBackend(block.modules, workers=1)
    backend.start(graph)
    for module in block.modules:
        backend.await_prepared(module)


@ray.remote(enable_task_events=False)
def run_chain_task(
    before: Callable[[int], None] | None, call: ChainCall, layout: Layout, *objects: Any
) -> tuple[Any, ...]:
    """Run a chain; return the summaries by module, then each module's state, outputs and arrays by slot."""
    if before is not None:
        before(call.position.round)
    sampled = cut_to_sample(call, restore(layout, objects))
    results = run_chain(*sampled, InProcessBackend(call.block.modules, workers=1))
    summaries, returned = {}, list[Any]()
    for name, result in results.items():
        headers = {slot: message.packed_header for slot, message in result.messages.items()}
        summaries[name] = _summary(result, headers)
        sent = (result.messages.get(slot.name) for slot in call.graph.slots(name))
        outputs: Any = result.outputs
        returned += [result.state, dict(outputs) if isinstance(outputs, ShardedOutputs) else outputs]
        returned += [each and whole_arrays(each.header.kind, cast("Arrays", each.arrays)) for each in sent]
    return (summaries, *returned)


@ray.remote(num_cpus=0)
def crash_report_task(log: str, oom_kills: int) -> str:
    """Return what the node of a dead process knows of its end: a sentence, and the traceback of a crash.

    The traceback is the one that faulthandler, enabled by Ray, wrote to the process's standard error. `oom_kills` are
    the kernel's kills for want of memory before the process was started.
    """
    traceback = _crash_traceback(Path(log))
    return "\n".join(filter(None, [describe_crash(traceback, count_oom_kills() - oom_kills), traceback]))


def _crash_traceback(path: Path) -> str:
    text = path.read_bytes()[-_TRACEBACK_BYTES:].decode(errors="replace") if path.is_file() else ""
    found = text.rfind("Fatal Python error")
    return text[found:].strip() if found >= 0 else ""


MODULE_TITLE = "ModuleActor"
"""How Ray calls the processes of modules, after ``ray::``."""


def kill_process(node: str, title: str, pid: int = 0) -> None:
    """Have a process on a node receive SIGKILL, without waiting for it.

    Ray asks a process to end itself before it kills it after some seconds; one that is stopped, or whose interpreter is
    held by a call, cannot do that.

    Parameters
    ----------
    node : str
        Id of the node.
    title : str
        The beginning of the name that Ray has given to the process.
    pid : int
        Process id; by default every process with this name receives the signal.
    """
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    with suppress(RayError):
        kill_task.options(scheduling_strategy=where).remote(title, pid)


@ray.remote(num_cpus=0)
def kill_task(title: str, pid: int) -> None:
    """Kill a process, or all, on this node whose name is `title` or begins with it and a dot."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            name = process.cmdline()[:1]
            if pid in (0, process.pid) and name and name[0].split(".")[0] == f"ray::{title}":
                process.kill()
