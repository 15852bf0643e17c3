"""The history of a run, from its events: who worked when, the metrics of each round, deaths and recoveries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from actors.coordination.events import (
    ChainFinished,
    CoordinatorRestarted,
    Event,
    ModuleDied,
    ModulePlaced,
    ModuleRecovered,
    RoundReplayed,
    RunResumed,
    TimedEvent,
    UpdateFinished,
    UpdateStarted,
)

MAX_INCIDENTS = 200
"""Deaths and recoveries that are listed; of more, the last."""


@dataclass(frozen=True)
class Incident:
    """A death, a recovery, or a new beginning."""

    time: float
    what: str
    module: str
    details: str


@dataclass
class RunHistory:
    """What a run's events tell.

    Attributes
    ----------
    first : float
        The time of the first event.
    spans : dict of str to list of (start, seconds)
        When each module computed, in seconds since the first event.
    metrics : dict of str to dict of str to list of (round, value)
        The last values of a module's metrics in each round.
    incidents : list of Incident
    omitted : int
        Number of earlier incidents that are not listed.
    places : dict of str to str
        Where each module runs, as of the last process.
    message_bytes : dict of str to int
        The size of the messages of each module's last update.
    chains : list of (start, seconds)
        When the copies of modules in chains computed.
    """

    first: float = 0.0
    spans: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    metrics: dict[str, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)
    incidents: list[Incident] = field(default_factory=list)
    omitted: int = 0
    places: dict[str, str] = field(default_factory=dict)
    message_bytes: dict[str, int] = field(default_factory=dict)
    chains: list[tuple[float, float]] = field(default_factory=list)
    _started: dict[str, float] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, events: Iterable[TimedEvent]) -> RunHistory:
        """Return the history that events, in order, tell."""
        history = cls()
        for each in events:
            history.add(each)
        return history

    def add(self, timed: TimedEvent) -> None:
        """Add the next event."""
        when, event = timed.time, timed.event
        self.first = self.first or when
        match event:
            case ModulePlaced():
                self.places[event.module] = f"{event.node}, process {event.pid}, {event.device}"
            case UpdateStarted():
                self._started[event.module] = when
            case UpdateFinished():
                self._add_update(event, when)
            case ChainFinished(seconds=seconds) if seconds > 0:  # that of the modules themselves is in their updates
                begun = when - max(event.waited_seconds, 0.0) - seconds
                self.chains.append((max(begun - self.first, 0.0), seconds))
        incident = _incident_of(when, event)
        if incident is not None:
            self.incidents.append(incident)
            if len(self.incidents) > MAX_INCIDENTS:
                del self.incidents[0]
                self.omitted += 1

    def _add_update(self, event: UpdateFinished, when: float) -> None:
        ended = when - max(event.waited_seconds, 0.0)
        started = max(self._started.pop(event.module, ended - event.seconds), ended - max(event.seconds, 0.0))
        self.spans.setdefault(event.module, []).append((started - self.first, max(ended - started, 0.0)))
        self.message_bytes[event.module] = event.message_bytes
        if event.round < 1:
            return
        own = self.metrics.setdefault(event.module, {})
        for name, value in event.metrics.items():
            values = own.setdefault(name, [])
            if values and values[-1][0] == event.round:
                values.pop()
            values.append((event.round, float(value)))


def _incident_of(when: float, event: Event) -> Incident | None:
    match event:
        case ModuleDied():
            return Incident(when, "died", event.module, f"during {event.doing}: {event.reason}")
        case ModuleRecovered():
            return Incident(when, "recovered", event.module, f"after {event.seconds:.1f} s")
        case CoordinatorRestarted():
            return Incident(when, "restarted", "coordinator", "its process was started again")
        case RoundReplayed():
            return Incident(when, "repeated", "coordinator", f"round {event.round}: {event.reason}")
        case RunResumed():
            return Incident(when, "resumed", "coordinator", f"from {event.name}")
    return None
