"""How the coordinator reaches modules: the protocol, and the transport that calls them in its own process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from actors.checkpoint import FileRecord, SaveRequest, save
from actors.graph import Graph
from actors.host import Answer, Call, Host
from actors.module import Mode

Ref: TypeAlias = Any
"""Stands for an object that the coordinator passes on without looking into it."""
Task: TypeAlias = Any
"""Stands for an answer that is on its way."""


class TransportError(RuntimeError):
    """The transport cannot give what was asked of it (resources that no node has, a module that never starts)."""


@dataclass(frozen=True)
class Result:
    """What came of an update: the answer, and references to the module's state, its outputs and its messages."""

    answer: Answer
    state: Ref
    outputs: Ref
    messages: tuple[Ref, ...]


class Transport(Protocol):
    """What a coordinator asks of a transport."""

    def start(self, graph: Graph) -> list[dict[str, Any]]:
        """Bring every module to life and begin to prepare it; say where each lives (name, node, pid, device).

        Raises
        ------
        TransportError
            If the modules' resources cannot be had.
        """

    def ready(self, module: str) -> str:
        """Wait until `module` is prepared; say which device it uses."""

    def load(self, module: str, state: Ref) -> None:
        """Give `module` a state."""

    def submit(self, module: str, call: Call, arrays: Sequence[Ref], mode: Mode = "update") -> Task:
        """Ask `module` for an update, a recognition or a generation."""

    def collect(self, module: str, task: Task) -> Result:
        """Wait for what :meth:`submit` asked for; raises what the module raised."""

    def save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task:
        """Have the objects of `module` written to a checkpoint."""

    def saved(self, task: Task) -> Mapping[str, FileRecord]:
        """Wait for what :meth:`save` asked for."""

    def status(self, module: str) -> dict[str, Any]:
        """Say what `module` does now."""

    def stop(self) -> None:
        """End everything that :meth:`start` made."""


class InProcess:
    """Calls the modules directly: for tests and debugging, and the yardstick for what actors cost."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}

    def start(self, graph: Graph) -> list[dict[str, Any]]:
        """Make the modules in this process."""
        for name, spec in graph.modules.items():
            self._hosts[name] = Host(spec, graph.slots(name))
        return [{"module": name, "node": "local", "pid": os.getpid(), "device": "cpu"} for name in self._hosts]

    def ready(self, module: str) -> str:
        """Prepare `module`."""
        return self._hosts[module].prepare("cpu")

    def load(self, module: str, state: Ref) -> None:
        """Give `module` a state."""
        self._hosts[module].load_state(state)

    def submit(self, module: str, call: Call, arrays: Sequence[Ref], mode: Mode = "update") -> Task:
        """Run it here and now."""
        return self._hosts[module].ask(mode, call, arrays)

    def collect(self, module: str, task: Task) -> Result:  # noqa: ARG002 (the protocol's)
        """Return what :meth:`submit` gave."""
        # Copies, as between actors: a module may change in place what it sent.
        messages = tuple(sent and {name: array.copy() for name, array in sent.items()} for sent in task.messages)
        return Result(task.answer, task.state, task.outputs, messages)

    def save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task:  # noqa: ARG002 (the protocol's)
        """Write the objects here and now."""
        return save(request, objects)

    def saved(self, task: Task) -> Mapping[str, FileRecord]:
        """Return what :meth:`save` gave."""
        records: Mapping[str, FileRecord] = task
        return records

    def status(self, module: str) -> dict[str, Any]:
        """Say what `module` does now."""
        return self._hosts[module].status()

    def stop(self) -> None:
        """Forget the modules."""
        self._hosts.clear()
