"""The in-process backend: calls the modules directly, and runs chains one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from actors.backends.module_host import Arrays, ModuleHost
from actors.backends.shard_host import ShardHost, call_group, copied, cut_to_sample
from actors.coordination.backend import ChainCall, MessageRef, ModuleCall, ModuleResult, Ref, ResultRef, Task
from actors.coordination.chains import run_chain
from actors.coordination.events import ModulePlaced
from actors.errors import ModuleFailedError, SerketError, raised_in
from actors.graph.graph import Graph
from actors.graph.schedule import Block
from actors.messaging.codec import pack_header
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest

T = TypeVar("T")


@dataclass(frozen=True)
class FinishedTask(Task[T]):
    """A task that ran when it was submitted: its answer or its exception."""

    answer: T | None = None
    error: Exception | None = None


class InProcessBackend:
    """Calls the modules directly: for tests and debugging, and to measure the overhead of actors.

    Parameters
    ----------
    modules : collection of str, optional
        The modules to create; by default all.
    workers : int, optional
        Number of workers of modules whose rows workers share; by default that of the model.
    """

    def __init__(self, modules: Collection[str] | None = None, workers: int | None = None) -> None:
        self._modules = modules
        self._workers = workers
        self._hosts: dict[str, ModuleHost] = {}
        self._groups: dict[str, list[ShardHost]] = {}

    def start(self, graph: Graph) -> list[ModulePlaced]:
        """Create the modules in this process."""
        for name in graph.modules if self._modules is None else self._modules:
            spec, slots = graph.modules[name], graph.slots(name)
            if spec.sharing is not None:
                count = self._workers or spec.sharing.workers
                count = os.cpu_count() or 1 if count == "auto" else count
                self._groups[name] = [ShardHost(spec, slots) for _ in range(count)]
            self._hosts[name] = self._groups[name][0] if spec.sharing is not None else ModuleHost(spec, slots)
        return [self._place(name) for name in self._hosts]

    def await_prepared(self, module: str) -> str:
        """Prepare `module`, in each of its workers."""
        for other in self._groups.get(module, [])[1:]:
            other.prepare("cpu")
        return self._hosts[module].prepare("cpu")

    def load_state(self, module: str, state: Ref | None) -> None:
        """Load a state into `module`; None resets it."""
        if state is None:
            self._hosts[module].reset()
        else:
            self._hosts[module].load_state(cast("dict[str, Any]", state))

    def restart(self, module: str) -> ModulePlaced:
        """Reset `module`."""
        self._hosts[module].reset()
        return self._place(module)

    def add_workers(self) -> list[ModulePlaced]:
        """Return nothing: no worker is ever missing."""
        return []

    def submit(self, module: str, call: ModuleCall, arrays: Sequence[Ref]) -> Task[ResultRef]:
        """Call the module now; :meth:`collect` raises its exception."""

        def result() -> ResultRef:
            given, group = cast("Sequence[Arrays]", arrays), self._groups.get(module)
            if group is not None and call.mode in ("update", "recognize"):
                return call_group(group, call, given)
            values = self._hosts[module].call(call, given)
            # Copied, as between actors: a module may modify an array after sending it.
            messages = {
                slot: MessageRef(pack_header(message.header), Ref(copied(message)))
                for slot, message in values.messages.items()
            }
            state, outputs = Ref(values.state), Ref(values.outputs)
            return ModuleResult(state, outputs, messages, values.metrics, values.seconds, ended=values.ended)

        return _run(result, module)

    def prepare_chains(self, block: Block, chains: int) -> None:
        """Do nothing: chains run in this process."""

    def submit_chain(self, call: ChainCall, objects: Sequence[Ref | None]) -> Task[Mapping[str, ResultRef]]:
        """Run the chain now, with its own copies of the modules."""
        return _run(lambda: run_chain(*cut_to_sample(call, objects), InProcessBackend(call.block.modules, workers=1)))

    def submit_save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task[Mapping[str, FileRecord]]:
        """Write the objects now."""

        def save() -> Mapping[str, FileRecord]:
            parts = [self._hosts[module].save(own, given) for own, given in request.split(objects)]
            return {label: record for part in parts for label, record in part.items()}

        return _run(save)

    def submit_read(self, module: str, request: LoadRequest) -> Task[ResultRef]:
        """Read the module's part of a commit now."""

        def result() -> ResultRef:
            headers, state, outputs, *arrays = self._hosts[module].read(request)
            sent = zip(request.record.slots, headers, arrays, strict=True)
            return ModuleResult(state, outputs, {slot: MessageRef(header, body) for slot, header, body in sent})

        return _run(result)

    def collect(self, task: Task[T]) -> T:
        """Return a task's answer, or raise its exception."""
        finished = cast("FinishedTask[T]", task)
        if finished.error is not None:
            raise finished.error
        return cast("T", finished.answer)

    def crash_report(self, module: str) -> str:  # noqa: ARG002 (parameter of the protocol)
        """Return an empty text: no process can die alone."""
        return ""

    def status(self, module: str) -> dict[str, Any]:
        """Return what `module` is doing now."""
        return self._hosts[module].status()

    def stop(self) -> None:
        """Discard the modules."""
        self._hosts.clear()
        self._groups.clear()

    def _place(self, module: str) -> ModulePlaced:
        return ModulePlaced(module, "local", os.getpid(), "cpu")


def _run(work: Callable[[], T], module: str = "") -> FinishedTask[T]:
    who = f"module {module!r}" if module else "a module"
    try:
        return FinishedTask(work())
    except MemoryError as error:
        reason = str(error) or "it could not allocate more"
        text = f"{who} ran out of memory: {reason}; use fewer rows or give it more memory"
        return FinishedTask(error=ModuleFailedError(text))
    except Exception as error:
        if module and not isinstance(error, SerketError):
            raised_in(module, error)
        return FinishedTask(error=error)
    except SystemExit as error:  # of a module's code: it would end this process without a word
        return FinishedTask(error=ModuleFailedError(f"{who} ended its process: it called sys.exit({error.code!r})"))
