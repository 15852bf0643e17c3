"""How a coordinator reaches modules, and has chains run beside them: what it asks of a transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from actors.backends.module_host import Answer, Call
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Position
from actors.module import Mode
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest

Ref: TypeAlias = Any
"""Stands for an object that the coordinator passes on without looking into it."""
Task: TypeAlias = Any
"""Stands for an answer that is on its way."""


@dataclass(frozen=True)
class Result:
    """What came of an update: the answer, and references to the module's state, its outputs and its messages."""

    answer: Answer
    state: Ref
    outputs: Ref
    messages: tuple[Ref, ...]


@dataclass(frozen=True)
class ChainCall:
    """A block for a chain to go through, over copies of the block's modules.

    Beside it lie its objects: a state for each of the block's modules, None for one that starts afresh, then the arrays
    of one message a head.

    Parameters
    ----------
    graph : Graph
    block : Block
    position : Position
        Where the block stands, and the chain's number.
    run : str
    seed, sequence : int
        As in :class:`actors.backends.module_host.Call`; the sequence before the chain's first update.
    heads : tuple of (str, str, bytes)
        Sender, slot and header of the messages that the block's modules had received before.
    """

    graph: Graph
    block: Block
    position: Position
    run: str
    seed: int
    sequence: int
    heads: tuple[tuple[str, str, bytes], ...] = ()


@dataclass(frozen=True)
class Part:
    """What was committed of a module: the headers of its messages by slot, and references to the rest."""

    heads: Mapping[str, bytes]
    state: Ref
    outputs: Ref
    messages: tuple[Ref, ...]


class Transport(Protocol):
    """What a coordinator asks of a transport.

    Any of these raises :class:`actors.errors.ModuleDiedError` where the module's process is gone, and
    :class:`actors.errors.ObjectsLostError` where an object is.
    """

    def start(self, graph: Graph) -> list[dict[str, Any]]:
        """Bring every module to life and begin to prepare it; say where each lives (name, node, pid, device).

        Raises
        ------
        BackendError
            If the modules' resources cannot be had.
        """

    def ready(self, module: str) -> str:
        """Wait until `module` is prepared; say which device it uses."""

    def load(self, module: str, state: Ref | None) -> None:
        """Give `module` a state; None makes it as it was before it learnt anything."""

    def revive(self, module: str) -> dict[str, Any]:
        """Put a new process in the place of a lost one, and begin to prepare it; say where it lives.

        Raises
        ------
        ModuleFailedError
            If no node can hold it, or if it cannot be made.
        """

    def submit(self, module: str, call: Call, arrays: Sequence[Ref], mode: Mode = "update") -> Task:
        """Ask `module` for an update, a recognition, a generation or a proposal."""

    def collect(self, module: str, task: Task) -> Result:
        """Wait for what :meth:`submit` asked for; raises what the module raised."""

    def chain(self, call: ChainCall, objects: Sequence[Ref]) -> Task:
        """Have a chain run (:func:`actors.coordination.chains.run_chain`), beside whatever else goes on."""

    def chained(self, task: Task) -> Mapping[str, Result]:
        """Wait for what :meth:`chain` asked for; the last answer of each of the block's modules."""

    def save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task:
        """Have the objects of `module` written to a checkpoint."""

    def saved(self, task: Task) -> Mapping[str, FileRecord]:
        """Wait for what :meth:`save` asked for."""

    def read(self, module: str, request: LoadRequest) -> Part:
        """Have `module` read what was committed of it.

        Raises
        ------
        CheckpointError
            If a file is missing or damaged.
        """

    def last_words(self, module: str) -> str:
        """Return the traceback that the last process of `module` left when it crashed; empty where it left none."""

    def status(self, module: str) -> dict[str, Any]:
        """Say what `module` does now."""

    def stop(self) -> None:
        """End everything that :meth:`start` made."""
