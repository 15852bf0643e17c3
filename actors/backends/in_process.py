"""The in-process transport: calls the modules directly, and runs chains one after the other."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from actors.backends.module_host import Call, Host
from actors.coordination.backend import ChainCall, Part, Ref, Result, Task
from actors.coordination.chains import run_chain
from actors.graph.graph import Graph
from actors.module import Mode
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest


class InProcess:
    """Calls the modules directly: for tests and debugging, and the yardstick for what actors cost.

    Parameters
    ----------
    modules : collection of str, optional
        Those to make; by default all.
    """

    def __init__(self, modules: Collection[str] | None = None) -> None:
        self._modules = modules
        self._hosts: dict[str, Host] = {}

    def start(self, graph: Graph) -> list[dict[str, Any]]:
        """Make the modules in this process."""
        for name in graph.modules if self._modules is None else self._modules:
            self._hosts[name] = Host(graph.modules[name], graph.slots(name))
        return [self._place(name) for name in self._hosts]

    def ready(self, module: str) -> str:
        """Prepare `module`."""
        return self._hosts[module].prepare("cpu")

    def load(self, module: str, state: Ref | None) -> None:
        """Give `module` a state, or make it anew."""
        if state is None:
            self._hosts[module].renew()
        else:
            self._hosts[module].load_state(state)

    def revive(self, module: str) -> dict[str, Any]:
        """Make `module` anew."""
        self._hosts[module].renew()
        return self._place(module)

    def submit(self, module: str, call: Call, arrays: Sequence[Ref], mode: Mode = "update") -> Task:
        """Run it here and now; what it raises is for whoever waits for the answer."""
        try:
            return self._hosts[module].ask(mode, call, arrays)
        except Exception as error:
            return error

    def collect(self, module: str, task: Task) -> Result:  # noqa: ARG002 (the protocol's)
        """Return what :meth:`submit` gave, or raise it."""
        if isinstance(task, Exception):
            raise task
        # Copies, as between actors: a module may change in place what it sent.
        messages = tuple(sent and {name: array.copy() for name, array in sent.items()} for sent in task.messages)
        return Result(task.answer, task.state, task.outputs, messages)

    def chain(self, call: ChainCall, objects: Sequence[Ref]) -> Task:
        """Run it here and now, over modules of its own."""
        return run_chain(call, objects, InProcess(call.block.modules))

    def chained(self, task: Task) -> Mapping[str, Result]:
        """Return what :meth:`chain` gave."""
        results: Mapping[str, Result] = task
        return results

    def save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task:
        """Write the objects here and now."""
        return self._hosts[module].save(request, objects)

    def saved(self, task: Task) -> Mapping[str, FileRecord]:
        """Return what :meth:`save` gave."""
        records: Mapping[str, FileRecord] = task
        return records

    def read(self, module: str, request: LoadRequest) -> Part:
        """Read it here and now."""
        heads, state, outputs, *messages = self._hosts[module].read(request)
        return Part(dict(zip(request.record.slots, heads, strict=True)), state, outputs, tuple(messages))

    def last_words(self, module: str) -> str:  # noqa: ARG002 (the protocol's)
        """Return nothing: there is no process that could die alone."""
        return ""

    def status(self, module: str) -> dict[str, Any]:
        """Say what `module` does now."""
        return self._hosts[module].status()

    def stop(self) -> None:
        """Forget the modules."""
        self._hosts.clear()

    def _place(self, module: str) -> dict[str, Any]:
        return {"module": module, "node": "local", "pid": os.getpid(), "device": "cpu"}
