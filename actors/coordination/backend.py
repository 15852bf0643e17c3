"""The backend protocol: how the coordinator reaches modules, and the types of its arguments and results.

A backend manages the modules' processes. The coordinator submits a call and collects its answer, which consists of
references (:data:`Ref`) that the coordinator passes on without reading them. :mod:`actors.backends` has the
implementations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, NamedTuple, NewType, Protocol, TypeAlias, TypeVar

from actors.coordination.events import ModulePlaced
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Position
from actors.graph.spec import Sharing
from actors.messaging.codec import unpack_header
from actors.messaging.message import Header
from actors.module import Mode
from actors.storage.manifest import FileRecord
from actors.storage.module_files import LoadRequest, SaveRequest

Ref = NewType("Ref", object)
"""A reference that coordination passes on without reading the object; in the in-process backend, the object itself."""

T = TypeVar("T")
Value = TypeVar("Value")
MessageType = TypeVar("MessageType")


class Task(Generic[T]):
    """A pending answer; each backend has its own subclass."""


@dataclass(frozen=True)
class MessageRef:
    """A message as the coordinator holds it: the header as packed by its sender, and a reference to the arrays."""

    packed_header: bytes
    arrays: Ref

    @cached_property
    def header(self) -> Header:
        """The parsed header."""
        return unpack_header(self.packed_header)


class ShardTime(NamedTuple):
    """How many rows a worker holds, and the seconds for which it was busy with them."""

    rows: int
    seconds: float


@dataclass(frozen=True, eq=False)
class ModuleResult(Generic[Value, MessageType]):
    """The result of a module's call.

    In the module's host it holds values and messages; in the coordinator, references (:data:`ResultRef`).

    Parameters
    ----------
    state, outputs
        None where there is none yet.
    messages : mapping of str to message
        By slot (:attr:`actors.graph.spec.Slot.name`); slots without a message are left out.
    metrics : mapping of str to float
    seconds : float
        Spent inside the module.
    shards : tuple of ShardTime
        Of each worker, where workers share the rows.
    ended : float
        When the module ended, by ``time.monotonic`` on its machine.
    """

    state: Value | None = None
    outputs: Value | None = None
    messages: Mapping[str, MessageType] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    shards: tuple[ShardTime, ...] = ()
    ended: float = 0.0


ResultRef: TypeAlias = ModuleResult[Ref, MessageRef]
"""A result as the coordinator holds it."""


@dataclass(frozen=True)
class ModuleCall:
    """The arguments of a module's call: the fields of its :class:`actors.module.Context`, and its inbox.

    Parameters
    ----------
    headers : tuple of bytes
        The packed headers of the messages in the inbox; their arrays are passed beside the call, one for each header.
    ports : tuple of str
        The receiving module's port for each message.
    """

    mode: Mode
    run: str
    seed: int
    round: int
    step: int
    sequence: int
    receivers: Mapping[str, tuple[str, ...]]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    exchange: int = 0
    chain: int = 0
    temperature: float = 1.0
    learn: bool = True
    proposal: int = 0
    ordered: bool = True
    order_above: bool = False
    rows: int = 0
    noise: bool = False
    headers: tuple[bytes, ...] = ()
    ports: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChainCall:
    """The arguments of a chain: its block, position and first messages; it runs on copies of the block's modules.

    Its objects are passed beside it: one state for each of the block's modules, None for a fresh start, then the arrays
    of each message in `messages`.

    Parameters
    ----------
    graph : Graph
    block : Block
    position : Position
        The position of the block, with the chain's number.
    run : str
    seed, sequence : int
        As in :class:`ModuleCall`; `sequence` is the number before the chain's first update.
    messages : tuple of (str, str, bytes)
        Sender, slot and packed header of the latest messages to the block's modules.
    sample : Sharing, optional
        The chain runs on a sample of the rows, in chunks of this size; by default on all rows.
    """

    graph: Graph
    block: Block
    position: Position
    run: str
    seed: int
    sequence: int
    messages: tuple[tuple[str, str, bytes], ...] = ()
    sample: Sharing | None = None


class Backend(Protocol):
    """Starts the modules of a graph and calls them.

    Any method may raise :class:`actors.errors.ModuleDiedError` if the module's process has died, and
    :class:`actors.errors.ObjectsLostError` if an object was lost.
    """

    def start(self, graph: Graph) -> list[ModulePlaced]:
        """Start the modules' processes and begin to prepare them; return where they run.

        A module that is not needed yet may be started later, at the latest by :meth:`await_prepared`.

        Raises
        ------
        BackendError
            If the modules' resources are not available.
        """

    def await_prepared(self, module: str) -> str:
        """Wait until `module` is prepared; return the device that it uses."""

    def load_state(self, module: str, state: Ref | None) -> None:
        """Load a state into `module`; None resets the module."""

    def restart(self, module: str) -> ModulePlaced:
        """Replace a process that died by a new one, and begin to prepare it; return where it runs.

        Raises
        ------
        ModuleFailedError
            If no node can hold it, or if it cannot be created.
        """

    def add_workers(self) -> list[ModulePlaced]:
        """Between rounds, start workers that groups lack and for which there is room now; return where they run."""

    def submit(self, module: str, call: ModuleCall, arrays: Sequence[Ref]) -> Task[ResultRef]:
        """Submit a call of `module`: an update, a recognition, a generation or a proposal."""

    def prepare_chains(self, block: Block, chains: int) -> None:
        """Begin to start processes for chains of a block, beside what the modules do now; it need not succeed."""

    def submit_chain(self, call: ChainCall, objects: Sequence[Ref | None]) -> Task[Mapping[str, ResultRef]]:
        """Submit a chain, which runs in parallel; its answer is the last result of each of the block's modules."""

    def submit_save(self, module: str, request: SaveRequest, objects: Sequence[Ref]) -> Task[Mapping[str, FileRecord]]:
        """Submit the writing of the objects of `module` to a checkpoint."""

    def submit_read(self, module: str, request: LoadRequest) -> Task[ResultRef]:
        """Submit the reading of the part of a commit of `module`; CheckpointError is raised by :meth:`collect`."""

    def collect(self, task: Task[T]) -> T:
        """Wait for the answer of a task and return it; raise the module's exception if it failed."""

    def crash_report(self, module: str) -> str:
        """Return what is known of the death of the last process of `module`, with its traceback; perhaps nothing."""

    def status(self, module: str) -> dict[str, Any]:
        """Return what `module` is doing now."""

    def stop(self) -> None:
        """End everything that :meth:`start` started."""
