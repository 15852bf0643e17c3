"""A run's events as a timeline that Perfetto (ui.perfetto.dev) and Chrome's tracing page show.

The format is the Trace Event Format's JSON object (Google, "Trace Event Format", 2016): a complete event ("X") a span,
an instant ("i") a moment, a counter ("C") a curve; times in microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from actors.coordination.router import UpdateSeconds
from actors.storage.filesystem import storage_at
from runner.runs.directory import RunDirectory, RunDirectoryError

_COORDINATOR = "coordinator"
_MOMENTS = ("placed", "prepared", "lost", "recovered", "replay", "resumed", "selected", "chain", "settled", "log")
_CURVES = ("evidence", "score", "accuracy")
_PLACE = {"module", "total_seconds", "time", "event", "run"}


def write_timeline(directory: RunDirectory, out: Path) -> int:
    """Write a run's timeline.

    Parameters
    ----------
    directory : RunDirectory
    out : Path
        The file, JSON.

    Returns
    -------
    int
        How many updates it shows.

    Raises
    ------
    RunDirectoryError
        If the run has left no events yet, or if `out` is a directory.
    """
    if out.is_dir():
        raise RunDirectoryError(f"{out}: a directory; name the file that is to be written")
    trace = timeline(directory.name, directory.graph.modules, directory.log)
    if not trace:
        raise RunDirectoryError(f"{directory.path}: there are no events yet, so there is nothing to show")
    content = json.dumps({"traceEvents": trace, "displayTimeUnit": "ms"})
    storage_at(out.parent.resolve()).write(out.name, content.encode())
    return sum(event["ph"] == "X" and event["cat"] == "update" for event in trace)


def timeline(run: str, modules: Iterable[str], events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the trace events of a run: a track a module, one for the coordinator's rounds and commits.

    Parameters
    ----------
    run : str
    modules : iterable of str
        In the order in which they are to be shown.
    events : iterable of mapping
        As ``events.jsonl`` has them: ``time`` (Unix seconds), ``event``, and fields.
    """
    tracks = {name: number for number, name in enumerate([_COORDINATOR, *modules])}
    maker = _Maker(tracks)
    for event in events:
        maker.take(event)
    maker.close()
    if not maker.made:
        return []
    names = [{"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": f"run {run}"}}]
    for name, number in tracks.items():
        names.append({"name": "thread_name", "ph": "M", "pid": 0, "tid": number, "args": {"name": name}})
        names.append({"name": "thread_sort_index", "ph": "M", "pid": 0, "tid": number, "args": {"sort_index": number}})
    return [*names, *maker.made]


class _Maker:
    """Turns events into trace events, one after the other."""

    def __init__(self, tracks: Mapping[str, int]) -> None:
        self.made: list[dict[str, Any]] = []
        self._tracks = tracks
        self._begun: dict[str, float] = {}  # updates by module
        self._took = UpdateSeconds()
        self._round: tuple[float, Mapping[str, Any]] | None = None
        self._last = 0.0

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in the next event."""
        name, when = str(event["event"]), float(event["time"])
        if name == "restarted":  # what was begun before has ended, at the latest with the last that was heard of it
            self.close()
        self._last = max(self._last, when)
        if name == "update":
            self._begun[event["module"]] = when
        elif name == "updated":
            self._updated(event, when)
        elif name == "round":
            self._end_round(when)
            self._round = (when, event)
        elif name == "commit":
            self._span(_COORDINATOR, f"commit {event['name']}", "commit", when - event["seconds"], when, event)
            if event.get("whole"):
                self._end_round(when)
        elif name == "scores":
            for curve in _CURVES:
                if event.get(curve) is not None:
                    self._add(_COORDINATOR, curve, "C", when, args={curve: event[curve]})
        elif name in _MOMENTS:
            if name == "resumed" and event.get("step") is not None:  # in the middle of a round
                self._round = (when, event)
            self._add(str(event.get("module", _COORDINATOR)), name, "i", when, s="t", args=_arguments(event))

    def close(self) -> None:
        """Show the round that was not ended; forget the updates."""
        self._end_round(self._last)
        self._begun.clear()

    def _updated(self, event: Mapping[str, Any], when: float) -> None:
        module = str(event["module"])
        begun, inside = self._begun.pop(module, when), self._took.of(event)
        # Answers are collected one after the other; how long the module learnt it says itself.
        end = begun + inside if 0.0 < inside < when - begun else when
        place = f"round {event['round']}, step {event['step']}"
        title = f"{place}, exchange {event['exchange']}" if "exchange" in event else place
        self._span(module, title, "update", begun, end, event)

    def _end_round(self, when: float) -> None:
        if self._round is not None:
            begun, event = self._round
            self._span(_COORDINATOR, f"round {event['round']}", "round", begun, when, event)
            self._round = None

    def _span(self, track: str, title: str, category: str, begun: float, end: float, event: Mapping[str, Any]) -> None:
        self._add(track, title, "X", begun, cat=category, dur=1e6 * max(end - begun, 0.0), args=_arguments(event))

    def _add(self, track: str, title: str, phase: str, when: float, **more: Any) -> None:
        if track in self._tracks:
            placed = {
                "name": title,
                "cat": "moment",
                "ph": phase,
                "ts": 1e6 * when,
                "pid": 0,
                "tid": self._tracks[track],
            }
            self.made.append({**placed, **more})


def _arguments(event: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in _PLACE}
