"""The events of a run: what the coordinator and its driver report, one class for each kind of event.

An event is emitted where it occurs, numbered and kept by the session until the driver has fetched it, and written to
the run's ``events.jsonl`` as one JSON object: its time, the run, the event's name, its fields (:meth:`Event.fields`),
its number and the session's incarnation. Numbers order the events; clocks differ between nodes and may be set back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, TypeAlias

from actors.graph.schedule import Position


@dataclass(frozen=True)
class Event:
    """Base class of all events."""

    event: ClassVar[str]
    """The event's name in ``events.jsonl``."""

    def fields(self) -> dict[str, Any]:
        """Return the event's fields as ``events.jsonl`` holds them."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Event:
        """Return the event with these fields; unknown fields are left out.

        Raises
        ------
        TypeError
            If a field is missing.
        """
        return cls(**{each.name: given[each.name] for each in fields(cls) if each.name in given})


# --- processes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModulePlaced(Event):
    """A module's process is running.

    Parameters
    ----------
    module : str
    node : str
        The node's address; ``local`` in the driver's own process.
    pid : int
    device : str
        ``cpu`` or ``cuda``.
    incarnation : str
        Identifies this process of the module; each restart has another one.
    schema : int
        Schema of the messages that the process reads.
    node_id : str
    log : str
        File on the node that holds the process's standard error.
    oom_kills : int
        Processes that the node's kernel has killed for want of memory until then.
    """

    event = "placed"
    module: str
    node: str
    pid: int
    device: str
    incarnation: str = ""
    schema: int = 0
    node_id: str = ""
    log: str = ""
    oom_kills: int = 0

    def fields(self) -> dict[str, Any]:
        """Return the fields; ``incarnation`` is called ``life`` in the file, and empty ones are left out."""
        given = {("life" if name == "incarnation" else name): value for name, value in super().fields().items()}
        return {name: value for name, value in given.items() if value or name in ("module", "node", "pid", "device")}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Event:
        """Return the event with these fields."""
        return super().of({**given, "incarnation": given.get("life", "")})


@dataclass(frozen=True)
class ModulePrepared(Event):
    """A module is prepared for its first update, on the device that it really uses."""

    event = "prepared"
    module: str
    device: str
    seconds: float


@dataclass(frozen=True)
class ModuleDied(Event):
    """A module's process died or did not answer in time, for the ``times``-th time in the activity ``doing``."""

    event = "lost"
    module: str
    doing: str
    times: int
    reason: str


@dataclass(frozen=True)
class ModuleRecovered(Event):
    """A new process has replaced one that died, and has loaded the module's state."""

    event = "recovered"
    module: str
    seconds: float


@dataclass(frozen=True)
class CoordinatorRestarted(Event):
    """The coordinator's process was started again and resumes the run from its last commit."""

    event = "restarted"


# --- the schedule -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundStarted(Event):
    """A round begins."""

    event = "round"
    round: int


@dataclass(frozen=True)
class UpdateEvent(Event):
    """Base class of the events of an update; exchange and temperature are given only within blocks."""

    step: int
    module: str
    round: int
    exchange: int | None = None
    temperature: float | None = None

    @classmethod
    def at(cls, step: int, module: str, position: Position, **more: Any) -> Self:
        """Return the event of step `step` at a position of the schedule."""
        if position.inside:
            more = {**more, "exchange": position.exchange, "temperature": position.temperature}
        return cls(step=step, module=module, round=position.round, **more)

    def fields(self) -> dict[str, Any]:
        """Return the fields; those of blocks are left out outside blocks."""
        return {
            name: value
            for name, value in super().fields().items()
            if value is not None or name not in ("exchange", "temperature")
        }


@dataclass(frozen=True)
class UpdateStarted(UpdateEvent):
    """A module begins an update."""

    event = "update"


@dataclass(frozen=True)
class UpdateFinished(UpdateEvent):
    """A module has finished an update.

    Parameters
    ----------
    seconds : float
        Spent inside the module in this update.
    message_bytes : int
        Size of the messages that it sent.
    metrics : mapping of str to float
    waited_seconds : float
        Between the end of the module's computing and this event: on the way, and until other answers had come.
    worker_rows, worker_seconds : mapping of str to float
        The rows of each worker, and the seconds for which it was busy with them, by its name; empty for a module in one
        process.
    """

    event = "updated"
    seconds: float = 0.0
    message_bytes: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    worker_rows: Mapping[str, float] = field(default_factory=dict)
    worker_seconds: Mapping[str, float] = field(default_factory=dict)
    waited_seconds: float = 0.0

    def fields(self) -> dict[str, Any]:
        """Return the fields, with one entry for each metric."""
        own = super().fields()
        metrics = own.pop("metrics")
        own = {name: value for name, value in own.items() if value or not name.startswith("worker_")}
        place = {name: own.pop(name) for name in ("step", "module", "round", "exchange", "temperature") if name in own}
        return {**place, **{name: value for name, value in metrics.items() if name not in place}, **own}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Event:
        """Return the event with these fields; numeric entries that are not fields are metrics."""
        own = {each.name for each in fields(cls)}
        metrics = {
            name: value
            for name, value in given.items()
            if name not in own and isinstance(value, int | float) and name not in ("time", "number", "total_seconds")
        }
        return super().of({**given, "metrics": metrics})


@dataclass(frozen=True)
class BlockFinished(Event):
    """A block's exchanges are done; ``evidence`` is that of its most abstract module that reports one."""

    event = "block"
    round: int
    step: int
    exchanges: int
    evidence: float | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields; ``evidence`` is left out where no module reports one."""
        return {name: value for name, value in super().fields().items() if value is not None}


@dataclass(frozen=True)
class ChainFinished(Event):
    """A chain of a block has ended with this evidence; ``origin`` is how it was started.

    For ``seconds`` its copies of the modules computed, in turn, until ``waited_seconds`` before this event; 0 for the
    chain of the modules themselves, whose updates have events of their own.
    """

    event = "chain"
    round: int
    step: int
    chain: int
    origin: str
    evidence: float
    seconds: float = 0.0
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class ModuleProposed(Event):
    """A module was asked for a proposal; it computed for ``seconds``, until ``waited_seconds`` before this event."""

    event = "proposed"
    round: int
    step: int
    module: str
    seconds: float
    waited_seconds: float = 0.0


@dataclass(frozen=True)
class ChainSelected(Event):
    """The chain with the highest evidence was selected; ``moves`` is the number of accepted moves."""

    event = "selected"
    round: int
    step: int
    chain: int
    origin: str
    evidence: float
    moves: int


@dataclass(frozen=True)
class Converged(Event):
    """The round did not raise the score by the schedule's tolerance; the run ends with it."""

    event = "settled"
    round: int
    score: float
    rise: float


# --- commits ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Committed(Event):
    """A commit was written; ``whole`` is whether it ends a round.

    ``score`` and ``evidence`` are those of ``metrics.csv``, for a commit that is pruned before this event is read.
    """

    event = "commit"
    round: int
    name: str
    whole: bool
    seconds: float
    score: float | None = None
    evidence: float | None = None


@dataclass(frozen=True)
class RunResumed(Event):
    """The run continues from the commit ``name``, after ``step`` steps of its round (None: after the whole round)."""

    event = "resumed"
    round: int
    step: int | None
    name: str


@dataclass(frozen=True)
class RoundReplayed(Event):
    """Objects that the round needs were lost; it is repeated from the last commit."""

    event = "replay"
    round: int
    reason: str


@dataclass(frozen=True)
class Scored(Event):
    """The driver has measured a commit; values that are not known are None."""

    event = "scores"
    round: int
    evidence: float | None = None
    score: float | None = None
    accuracy: float | None = None
    ari: float | None = None
    nmi: float | None = None
    ece: float | None = None  # expected calibration error
    accuracies: Mapping[str, float] = field(default_factory=dict)  # by module, if several are labelled


@dataclass(frozen=True)
class LogMessage(Event):
    """A sentence for the user."""

    event = "log"
    message: str


@dataclass(frozen=True)
class TimedEvent:
    """An event with its time and its number.

    Parameters
    ----------
    time : float
        Seconds since 1970 (Unix time), by the clock of the process that emitted the event.
    event : Event
    number : int
        Number of the event among those of its incarnation, from 0; -1 for events of the driver and of old runs.
    incarnation : str
        The incarnation of the coordinator that emitted the event; empty for events of the driver and of old runs.
    elapsed : float, optional
        Seconds since that incarnation began, by a clock that cannot be set; None for events that were read from a file.
    """

    time: float
    event: Event
    number: int = -1
    incarnation: str = ""
    elapsed: float | None = None


Emit: TypeAlias = Callable[[Event], None]
"""Receives events."""

EVENTS: Mapping[str, type[Event]] = {
    kind.event: kind
    for kind in (
        ModulePlaced,
        ModulePrepared,
        ModuleDied,
        ModuleRecovered,
        CoordinatorRestarted,
        RoundStarted,
        UpdateStarted,
        UpdateFinished,
        BlockFinished,
        ChainFinished,
        ModuleProposed,
        ChainSelected,
        Converged,
        Committed,
        RunResumed,
        RoundReplayed,
        Scored,
        LogMessage,
    )
}
"""All kinds of event by name."""


def parse_event(name: str, given: Mapping[str, Any]) -> Event | None:
    """Return the event called `name` with the fields `given`, None where there is no such event.

    Files of earlier versions may hold other fields; unknown ones are left out.
    """
    kind = EVENTS.get(name)
    try:
        return None if kind is None else kind.of(given)
    except TypeError:  # a field is missing
        return None


def ignore(event: Event) -> None:
    """Discard an event: the default receiver."""
