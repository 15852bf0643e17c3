"""What a module is: its ports, the update contract, its state. Nothing here knows Ray or a coordinator.

To write a module, subclass :class:`Module`: declare ``ports`` and a ``Parameters`` dataclass, and write ``update``,
``recognize``, ``state`` and ``load_state``. Everything else (who sends to whom, when, on which machine) is the
model's business.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from actors.errors import ModuleError, NonFiniteError
from actors.messaging.kinds import Kind
from actors.messaging.message import Message
from actors.types import Array, FloatArray, State

Direction = Literal["in", "out"]
Pass = Literal["forward", "backward"]
Mode = Literal["update", "recognize", "generate", "propose"]
"""What a module can be asked for; see the methods of these names."""
Report: TypeAlias = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Port:
    """Where a module receives or sends one kind of message.

    Parameters
    ----------
    name : str
        Unique within the module.
    direction : {"in", "out"}
    pass_ : {"forward", "backward"}
        Forward is up, from the data; backward is down, from the more abstract module. A connection ``a -> b`` joins
        a's forward outputs to b's forward inputs and b's backward outputs to a's backward inputs, kind by kind.
    kind : str
        One of :data:`actors.messaging.kinds.KINDS`, or of the module class's own ``kinds``.
    optional : bool
        For an input: the module learns without it too.
    per_receiver : bool
        For an output: every receiver gets a message of its own instead of all getting the same.
    several : bool
        For an input: several senders are welcome, and the module tells them apart. Kinds that multiply (log_prob)
        may always have several.
    """

    name: str
    direction: Direction
    pass_: Pass
    kind: str
    optional: bool = False
    per_receiver: bool = False
    several: bool = False


class Inbox:
    """The messages that a module received, by port and by sender.

    Parameters
    ----------
    messages : sequence of Message
        Addressed messages; a later one replaces an earlier one of the same sender and port.
    """

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self._messages: dict[str, dict[str, Message]] = {}
        for message in messages:
            self._messages.setdefault(message.header.port, {})[message.header.sender] = message

    def __iter__(self) -> Iterator[Message]:
        return (message for by_sender in self._messages.values() for message in by_sender.values())

    def all(self, port: str) -> dict[str, Message]:
        """Return the messages on `port`, by sender, in the order in which they were delivered."""
        return self._messages.get(port, {})

    def first(self, port: str) -> Message | None:
        """Return the message on `port`, or None where none came (yet)."""
        return next(iter(self.all(port).values()), None)

    def require(self, port: str) -> Message:
        """Return the message on `port`.

        Raises
        ------
        ModuleError
            If none came.
        """
        message = self.first(port)
        if message is None:
            raise ModuleError(f"no message on port {port!r}: connect a module that sends one")
        return message

    def log_product(self, port: str, without: str | None = None) -> FloatArray | None:
        """Return the normalised product of the distributions on `port`, in the log domain.

        Parameters
        ----------
        port : str
            A port whose messages carry ``log_prob``.
        without : str, optional
            A sender whose message is left out (what came from a receiver is never sent back to it).

        Returns
        -------
        ndarray (N, K) float64, or None where no message came
            Rows are log-distributions.

        Raises
        ------
        ModuleError
            If the messages are not of one shape, or exclude each other: a row of their product is zero throughout.
        """
        factors = {sender: message["log_prob"] for sender, message in self.all(port).items() if sender != without}
        if not factors:
            return None
        if len({factor.shape for factor in factors.values()}) > 1:
            came = " and ".join(f"{factor.shape} from {sender}" for sender, factor in factors.items())
            raise ModuleError(f"the messages on port {port!r} cannot be multiplied: {came}")
        product = np.sum([factor.astype(np.float64) for factor in factors.values()], axis=0)
        norm = np.logaddexp.reduce(product, axis=1, keepdims=True)
        excluded = np.flatnonzero(norm == -np.inf)
        if len(excluded):
            raise ModuleError(f"the messages of {', '.join(factors)} exclude each other in row {excluded[0]}")
        result: FloatArray = product - norm
        return result


@dataclass(frozen=True)
class Context:
    """When and as part of what a module is asked to learn or to answer.

    Parameters
    ----------
    module : str
        The module's own name in the model.
    seed : int
        The run's seed.
    run : str
    round, step, exchange, chain : int
        Where in the schedule; together with seed and module they determine every random draw.
    temperature : float
        The power τ to which a receiver raises likelihoods, 0 < τ ≤ 1.
    learn : bool
        False in an update that only asks what has been learnt means for what comes in now (an incumbent whose
        evidence is to be known again): what follows from the inbox is rebuilt and sent, the rest stays as it is.
    proposal : int
        Which proposal is asked for, counted from 0.
    receivers : mapping of str to tuple of str
        Who receives from each output port.
    overrides : mapping
        Parameters set for this step alone.
    ordered : bool
        At recognition: whether the rows come in the order in which they happened.
    rows : int
        At generation: how many rows to make up; 0 for none.
    reporter : callable, optional
        Where :meth:`report` goes.
    """

    module: str
    seed: int = 0
    run: str = ""
    round: int = 0
    step: int = 0
    exchange: int = 0
    chain: int = 0
    temperature: float = 1.0
    learn: bool = True
    proposal: int = 0
    receivers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = True
    rows: int = 0
    reporter: Report | None = None

    @cached_property
    def generator(self) -> np.random.Generator:
        """The only source of randomness; the same on every attempt at the same update, wherever it runs."""
        return np.random.default_rng(self._seed_sequence(0))

    @property
    def torch_seed(self) -> int:
        """A seed for a torch generator, independent of :attr:`generator`'s stream."""
        return int(self._seed_sequence(1).generate_state(1, np.uint64)[0] >> 1)

    def _seed_sequence(self, stream: int) -> np.random.SeedSequence:
        name = int.from_bytes(hashlib.blake2b(self.module.encode(), digest_size=8).digest(), "little")
        position = (self.chain, self.round, self.step, self.exchange)
        return np.random.SeedSequence(self.seed, spawn_key=(name & 0xFFFFFFFF, name >> 32, *position, stream))

    @property
    def where(self) -> str:
        """Which module this is, and where in the schedule, for people."""
        inside = [f"{name} {value}" for name, value in (("exchange", self.exchange), ("chain", self.chain)) if value]
        return ", ".join([f"module {self.module!r}, round {self.round}, step {self.step}", *inside])

    def report(self, done: int, total: int, **metrics: float) -> None:
        """Tell how far the update is: `done` of `total` epochs, sweeps or samples, and any figures.

        Raises
        ------
        NonFiniteError
            If a figure is not finite: what comes after it is not worth the time.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"{self.where}: {name} is {value:g} after {done} of {total}")
        if self.reporter is not None:
            self.reporter(done, total, metrics)


@dataclass(frozen=True)
class OutgoingMessage:
    """What a module puts on one of its output ports; to every receiver, or to the one named."""

    port: str
    arrays: Mapping[str, npt.ArrayLike]
    receiver: str = ""


@dataclass(frozen=True)
class Outbox:
    """What an update or a recognition gives.

    Parameters
    ----------
    messages : sequence of OutgoingMessage
        An update's replace those of the update before: what is not sent again is withdrawn.
    metrics : mapping of str to float
        Figures of this update. ``evidence`` (nats) is what chains are selected by; ``score`` (nats) is what a module
        adds to the evidence of the module above it when exchanges or rounds are compared. All are finite: leave out
        what is not known.
    outputs : mapping of str to array
        Named results for the run directory (``z``, ``class``, ``trans_prob``, …). They hold neither NaN nor +∞; −∞, the
        logarithm of zero, may stand in them.
    """

    messages: Sequence[OutgoingMessage] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    outputs: Mapping[str, Array] = field(default_factory=dict)


P = TypeVar("P")


class Module(ABC, Generic[P]):
    """A part of a model that learns from messages and sends messages.

    Parameters
    ----------
    parameters : P
        An instance of the class's ``Parameters`` dataclass.
    """

    ports: ClassVar[tuple[Port, ...]] = ()
    kinds: ClassVar[tuple[Kind, ...]] = ()
    """Kinds of message that the ports speak and that are not built in."""
    Parameters: ClassVar[type[Any]]
    uses_gpu: ClassVar[bool] = False
    """Whether the module computes on a GPU when it is given one."""

    def __init__(self, parameters: P) -> None:
        self.parameters = parameters

    def at(self, context: Context) -> P:
        """Return the parameters for this step: the module's own, with the step's overrides."""
        return replace(self.parameters, **context.overrides) if context.overrides else self.parameters  # type: ignore[type-var]

    def prepare(self, device: str, threads: int) -> None:
        """Get ready once, before the first update: compile, allocate, move to `device` (``cpu`` or ``cuda``)."""

    @abstractmethod
    def update(self, inbox: Inbox, context: Context) -> Outbox:
        """Learn from the inbox; pure in the inbox (whose arrays are read-only), the context and the own state."""

    @abstractmethod
    def recognize(self, inbox: Inbox, context: Context) -> Outbox:
        """Answer for new data with what was learnt; learns nothing, changes no state."""

    def generate(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (a module may have nothing to show)
        """Answer on the way down: what the messages from above look like in the module's own data; learns nothing.

        With ``context.rows``, so many rows are made up: the most abstract module draws them, those below follow.
        """
        return Outbox()

    def propose(self, inbox: Inbox, context: Context) -> Outbox:  # noqa: ARG002 (most modules have none)
        """Return the `context.proposal`-th of other messages to start from than those sent last; none by default.

        A chain starts from each (:class:`actors.graph.schedule.Block`, ``moves``): the receivers with what they have
        learnt,
        this module with nothing. Proposals are asked for one by one, the most promising first; an empty outbox says
        that there is none of this number. Changes no state.
        """
        return Outbox()

    @abstractmethod
    def state(self) -> State:
        """Return everything that learning changed, such that ``update`` after ``load_state`` continues bit for bit.

        Its arrays hold neither NaN nor +∞; −∞, the logarithm of zero, may stand in them. A plain scalar may be ±∞ (a
        best loss before there is one), but not NaN (:mod:`actors.messaging.validation`).
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a state that :meth:`state` returned (arrays may be read-only: copy what changes in place)."""
