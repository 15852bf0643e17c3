"""Timeline of a run's events, for Perfetto (ui.perfetto.dev) or Chrome's tracing page.

The format is the JSON object of the Trace Event Format (Google, 2016): complete events ("X") for spans of time, instant
events ("i"), and counters ("C") for curves; times in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actors.coordination.events import (
    ChainFinished,
    ChainSelected,
    Committed,
    Converged,
    CoordinatorRestarted,
    Event,
    LogMessage,
    ModuleDied,
    ModulePlaced,
    ModulePrepared,
    ModuleRecovered,
    RoundReplayed,
    RoundStarted,
    RunResumed,
    Scored,
    TimedEvent,
    UpdateFinished,
    UpdateStarted,
)
from actors.storage.filesystem import storage_at
from runner.runs.directory import RunDirectory, RunDirectoryError

_COORDINATOR = "coordinator"
_INSTANTS = (
    ModulePlaced,
    ModulePrepared,
    ModuleDied,
    ModuleRecovered,
    RoundReplayed,
    RunResumed,
    ChainSelected,
    ChainFinished,
    Converged,
    LogMessage,
)
_CURVES = ("evidence", "score", "accuracy")


def write_timeline(directory: RunDirectory, out: Path, modules: Iterable[str] | None = None) -> int:
    """Write a run's timeline.

    Parameters
    ----------
    directory : RunDirectory
    out : Path
        The JSON file.
    modules : iterable of str, optional
        In the order of their tracks; by default those of the directory's graph.

    Returns
    -------
    int
        The number of updates in the timeline.

    Raises
    ------
    RunDirectoryError
        If the run has no events yet, or if `out` is a directory.
    """
    if out.is_dir():
        raise RunDirectoryError(f"{out}: a directory; name the file to write")
    trace = timeline(directory.name, directory.graph.modules if modules is None else modules, directory.log)
    if not trace:
        raise RunDirectoryError(f"{directory.path}: there are no events yet to show")
    content = json.dumps({"traceEvents": trace, "displayTimeUnit": "ms"})
    storage_at(out.parent.resolve()).write(out.name, content.encode())
    return sum(event["ph"] == "X" and event["cat"] == "update" for event in trace)


def timeline(run: str, modules: Iterable[str], events: Iterable[TimedEvent]) -> list[dict[str, Any]]:
    """Return the trace events of a run: one track for each module, and one for the coordinator's rounds and commits.

    Each worker of a module has a track too, below that of its module, with the seconds for which it was busy.

    Parameters
    ----------
    run : str
    modules : iterable of str
        In the order of their tracks.
    events : iterable of TimedEvent
    """
    tracks = {name: number for number, name in enumerate([_COORDINATOR, *modules])}
    builder = _TraceBuilder(tracks)
    for event in events:
        builder.add(event)
    builder.close()
    if not builder.trace:
        return []
    names = [{"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": f"run {run}"}}]
    order = {name: place for place, name in enumerate(tracks)}
    for name in sorted(builder.tracks, key=lambda each: (order[each.partition("#")[0]], builder.tracks[each])):
        number, place = builder.tracks[name], len(names) // 2
        names.append({"name": "thread_name", "ph": "M", "pid": 0, "tid": number, "args": {"name": name}})
        names.append({"name": "thread_sort_index", "ph": "M", "pid": 0, "tid": number, "args": {"sort_index": place}})
    return [*names, *builder.trace]


class _TraceBuilder:
    """Converts events, in order of time, to trace events."""

    def __init__(self, tracks: Mapping[str, int]) -> None:
        self.trace: list[dict[str, Any]] = []
        self.tracks = dict(tracks)
        self._started: dict[str, float] = {}  # start of the current update of each module
        self._round: tuple[float, int, Event] | None = None
        self._last = 0.0

    def add(self, timed: TimedEvent) -> None:
        """Add the next event."""
        when, event = timed.time, timed.event
        if isinstance(event, CoordinatorRestarted):  # the updates and round before it have ended by now
            self.close()
        self._last = max(self._last, when)
        match event:
            case UpdateFinished():
                self._end_update(event, when)
            case UpdateStarted():
                self._started[event.module] = when
            case RoundStarted():
                self._end_round(when)
                self._round = (when, event.round, event)
            case Committed():
                self._span(_COORDINATOR, f"commit {event.name}", "commit", when - event.seconds, when, event)
                if event.whole:
                    self._end_round(when)
            case Scored():
                for curve in _CURVES:
                    value = getattr(event, curve)
                    if value is not None:
                        self._append(_COORDINATOR, curve, "C", when, args={curve: value})
            case RunResumed(step=int()):  # within a round
                self._round = (when, event.round, event)
        if isinstance(event, _INSTANTS):
            track = getattr(event, "module", _COORDINATOR)
            self._append(str(track), event.event, "i", when, s="t", args=_arguments(event))

    def close(self) -> None:
        """End the current round, and discard the unfinished updates."""
        self._end_round(self._last)
        self._started.clear()

    def _end_update(self, event: UpdateFinished, when: float) -> None:
        started = self._started.pop(event.module, when)
        # Answers are collected one after the other, so the module's own measurement is more precise.
        end = started + event.seconds if 0.0 < event.seconds < when - started else when
        place = f"round {event.round}, step {event.step}"
        title = place if event.exchange is None else f"{place}, exchange {event.exchange}"
        self._span(event.module, title, "update", started, end, event)
        for worker, seconds in event.worker_seconds.items():
            self._add_worker(event, worker, title, started, seconds)

    def _add_worker(self, event: UpdateFinished, worker: str, title: str, started: float, seconds: float) -> None:
        """Add what one worker did of an update; the first one's track is that of its module, which shows it all."""
        if event.module not in self.tracks or worker == event.module:
            return
        self.tracks.setdefault(worker, len(self.tracks))
        rows = event.worker_rows.get(worker, 0.0)
        self._append(worker, title, "X", started, cat="worker", dur=1e6 * max(seconds, 0.0), args={"rows": rows})

    def _end_round(self, when: float) -> None:
        if self._round is not None:
            started, number, event = self._round
            self._span(_COORDINATOR, f"round {number}", "round", started, when, event)
            self._round = None

    def _span(self, track: str, title: str, category: str, started: float, end: float, event: Event) -> None:
        self._append(
            track, title, "X", started, cat=category, dur=1e6 * max(end - started, 0.0), args=_arguments(event)
        )

    def _append(self, track: str, title: str, phase: str, when: float, **more: Any) -> None:
        if track in self.tracks:
            placed = {
                "name": title,
                "cat": "moment",
                "ph": phase,
                "ts": 1e6 * when,
                "pid": 0,
                "tid": self.tracks[track],
            }
            self.trace.append({**placed, **more})


def _arguments(event: Event) -> dict[str, Any]:
    return {name: value for name, value in event.fields().items() if name != "module"}
