"""The live state of a run, for those who watch it from another process: read from its files, without touching it.

The driver writes ``live.json`` at most once a second while it follows a run (:class:`LiveFile`); with the events, that
is all there is to show. A detached run without a driver has no such file: its commits are read, and a caller that has
joined its cluster says what its modules do.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from actors.coordination.events import (
    BlockFinished,
    Committed,
    Converged,
    CoordinatorRestarted,
    ModuleDied,
    ModuleRecovered,
    RoundReplayed,
    RoundStarted,
    RunResumed,
    Scored,
    TimedEvent,
    UpdateFinished,
    UpdateStarted,
)
from actors.errors import CheckpointError
from actors.limits import MAX_EVENT_VALUES, MAX_LISTED_NAMES, MAX_SHOWN_FAULTS
from actors.storage.safe_files import parse_json
from runner.config.cross_checks import as_map, find_sources
from runner.report.printable import printable_line
from runner.report.progress import counts_of, format_duration, format_metrics
from runner.runs.directory import RunDirectory
from runner.runs.outline import RunOutline
from runner.runs.run_files import RunDirectoryError

LIVE = "live.json"
WRITE_SECONDS = 1.0
STALE_SECONDS = 15.0
"""Age of ``live.json`` from which on it tells nothing."""

LOCK_SECONDS = 5.0
"""Time between two looks at whether a process drives a run that has no new ``live.json``."""


@dataclass
class LiveFile:
    """Writes what the modules of a run are doing, at most once a second; failures are ignored.

    Parameters
    ----------
    directory : RunDirectory
    clock : callable
        Returns monotonic time in seconds.
    """

    directory: RunDirectory
    clock: Callable[[], float] = time.monotonic
    _written: float = field(default=-math.inf, init=False)
    _is_there: bool = field(default=False, init=False)

    def write(self, status: Mapping[str, Any]) -> None:
        """Write a status (:meth:`actors.coordination.coordinator.Coordinator.status`), unless one was just now."""
        if self.clock() - self._written < WRITE_SECONDS:
            return
        self._written, self._is_there = self.clock(), True
        active = {
            str(name): {key: value for key, value in activity.items() if isinstance(value, int | float | str)}
            for name, activity in status.get("active", {}).items()
        }
        content = {"time": time.time(), "round": status.get("round", 0), "active": json.dumps(active)}
        with suppress(OSError, ValueError), self.directory.new_file(LIVE) as file:
            file.write(json.dumps(content).encode())

    def remove(self) -> None:
        """Delete the file, as this process follows the run no longer."""
        if self._is_there:
            self._is_there = False
            self.directory.delete_file(LIVE)


@dataclass
class ModuleView:
    """What is known of a module: ``waiting``, ``learning``, ``done`` or ``lost``."""

    state: str = "waiting"
    since: float = 0.0
    seconds: float = 0.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    activity: Mapping[str, Any] = field(default_factory=dict)

    def note(self, now: float) -> str:
        """Return a line about it."""
        done, total = counts_of(self.activity)
        if self.state == "lost":
            return "died, is restarted"
        if self.state == "learning":
            return f"{done:g} of {total:g}" if total else f"learns, {format_duration(max(now - self.since, 0.0))}"
        return f"learnt for {format_duration(self.seconds)}" if self.seconds else ""


class LiveRun:
    """Follows a run by its files.

    Parameters
    ----------
    outline : RunOutline
    ask : callable, optional
        Returns the description of the actors by their coordinator, None if the run is on no cluster, or ``unknown``,
        why that cannot be known; for a run that no driver follows.
    """

    def __init__(self, outline: RunOutline, ask: Callable[[], Mapping[str, Any] | None] = lambda: None) -> None:
        self.outline = outline
        self.directory = outline.directory
        self.ask = ask
        self.modules = {name: ModuleView() for name in outline.modules}
        self.sources = set(find_sources(outline.content.get("data")))
        self.round = 0
        self.first = self.last = 0.0
        self.evidence: dict[int, float] = {}
        self.accuracy: dict[int, float] = {}
        self.faults: list[dict[str, Any]] = []
        self._offset = 0
        self._totals: dict[str, float] = {}
        self._round_started = 0.0
        self._round_seconds: dict[int, float] = {}
        self._converged = False
        self._known_commits: set[str] = set()
        self._driven = True
        self._looked = -math.inf
        self._described: Mapping[str, Any] | None = None
        self._noted: set[str] = set()  # modules that learn according to their activity alone

    def poll(self) -> dict[str, Any]:
        """Read what is new, and return the state of the run as plain values."""
        events, self._offset = self.directory.log.read_from(self._offset, self._totals)
        for each in events:
            self._add(each)
        now, result = time.time(), self._result()
        active = {} if result else self._read_activity(now)
        if not result and not self._driven:
            self._read_commits()
        ended = "done" if result else self._why_not_running()
        self._set_active({} if ended else active)
        state = {
            "run": self.directory.name,
            "round": self.round,
            "rounds": self.outline.rounds,
            "ended": ended,
            "share": 1.0 if result else self._share(),
            "elapsed": format_duration(max((self.last if ended else now) - self.first, 0.0)) if self.first else "",
            "left": "" if ended else self._left(now),
            "modules": {name: self._describe(name, now, bool(result)) for name in self.modules},
            "evidence": sorted(self.evidence.items()),
            "accuracy": sorted(self.accuracy.items()),
            "faults": self.faults,
        }
        return {key: _finite(value) for key, value in state.items()}

    def _describe(self, name: str, now: float, done: bool) -> dict[str, Any]:
        view = self.modules[name]
        state = "done" if done else view.state
        metrics = {**view.metrics, **view.activity}
        note = view.note(now) if not done else ModuleView("done", seconds=view.seconds).note(now)
        if name in self.sources and state != "lost":
            state, note = "waiting", ""
        return {"state": state, "note": note, "metrics": ", ".join(format_metrics(metrics, own=True))}

    def _add(self, timed: TimedEvent) -> None:
        when, event = timed.time, timed.event
        self.first, self.last = self.first or when, max(self.last, when)
        match event:
            case RoundStarted():
                self.round, self._round_started = event.round, when
            case UpdateStarted() if event.module in self.modules:
                self._set(event.module, "learning", when)
            case UpdateFinished() if event.module in self.modules:
                view = self.modules[event.module]
                view.seconds += event.seconds
                view.metrics = event.metrics
                self._set(event.module, "waiting", when)
            case Committed(whole=True) if event.round > 0:
                self._round_seconds[event.round] = when - self._round_started
                self._score(event.round, event.evidence, None)
            case BlockFinished(evidence=float()):
                self._score(event.round, event.evidence, None)
            case Scored():
                self._score(event.round, event.evidence, event.accuracy)
            case Converged():
                self._converged = True
            case ModuleDied() | ModuleRecovered() | CoordinatorRestarted() | RoundReplayed() | RunResumed():
                self._add_fault(event, when)

    def _add_fault(self, event: Any, when: float) -> None:
        match event:
            case ModuleDied():
                text = f"{event.module} died during {event.doing}: {event.reason}"
                self._set(event.module, "lost", when)
            case ModuleRecovered():
                text = f"{event.module} recovered after {event.seconds:.1f} s"
                self._set(event.module, "waiting", when)
            case RoundReplayed():
                text = f"round {event.round} is repeated: {event.reason}"
            case RunResumed():
                text = f"continued from {event.name}"
                self.round = event.round
            case _:
                text = "the coordinator was started again"
        if not isinstance(event, ModuleRecovered | ModuleDied):
            for name in self.modules:
                self._set(name, "waiting", when)
        shown = {"time": time.strftime("%H:%M:%S", time.localtime(when)), "text": printable_line(text, 300)}
        self.faults = [*self.faults, shown][-MAX_SHOWN_FAULTS:]

    def _set(self, module: str, state: str, when: float) -> None:
        if module in self.modules:
            view = self.modules[module]
            view.state, view.since, view.activity = state, when, {}

    def _score(self, round: int, evidence: float | None, accuracy: float | None) -> None:
        if evidence is not None:
            self.evidence[round] = float(evidence)
        if accuracy is not None:
            self.accuracy[round] = float(accuracy)

    def _read_activity(self, now: float) -> Mapping[str, Any]:
        """Return what modules are doing, as the driver has written it; without a driver, ask the coordinator."""
        live: dict[str, Any] = {}
        with suppress(RunDirectoryError):
            live = self.directory.read_json(LIVE) if (self.directory.path / LIVE).exists() else {}
        if live and now - live.get("time", 0.0) < STALE_SECONDS:
            self._driven = True
            with suppress(ValueError):
                return as_map(parse_json(live.get("active", "").encode(), MAX_EVENT_VALUES))
            return {}
        if now - self._looked > LOCK_SECONDS:  # to look takes the lock for a moment
            self._driven, self._looked = self.directory.is_locked(), now
        self._described = described = None if self._driven else self.ask()
        if not described or "unknown" in described:
            return {}
        self.round = int(described["coordinator"]["round"])
        return as_map(described["coordinator"].get("active"))

    def _set_active(self, active: Mapping[str, Any]) -> None:
        """Note what modules are doing; those of which only such a note said that they learn may have stopped."""
        for name in self._noted - set(active):
            self._set(name, "waiting", time.time())
        self._noted &= set(active)
        for name, activity in list(active.items())[:MAX_LISTED_NAMES]:
            view = self.modules.get(name)
            if view is not None and isinstance(activity, Mapping):
                if view.state == "waiting":
                    self._set(name, "learning", time.time())
                    self._noted.add(name)
                view.activity = activity

    def _read_commits(self) -> None:
        """Read evidence from the commits, which a run without a driver goes on writing."""
        with suppress(CheckpointError):
            for name in self.directory.checkpoints.names():
                if name not in self._known_commits:
                    self._known_commits.add(name)
                    manifest = self.directory.checkpoints.manifest(name)
                    self.round = max(self.round, manifest.round)
                    if manifest.round > 0 and manifest.step is None:
                        self._score(manifest.round, manifest.evidence(self.outline.modules), None)

    def _result(self) -> dict[str, Any]:
        with suppress(RunDirectoryError):
            if (self.directory.path / "result.json").exists():
                result = self.directory.read_json("result.json")
                # A run that goes on for more rounds has the result of the earlier ones.
                return {} if self.round > int(result.get("rounds", 0)) else result
        return {}

    def _why_not_running(self) -> str:
        """Return why a run that has no result is not running, and what to do; empty for a run that is."""
        if self._driven:
            return ""
        command, described = self.directory.cli_name, self._described
        if described is not None and "unknown" in described:
            return f"it is not known whether it runs: {printable_line(described['unknown'], 300)}"
        if described is not None:
            over = described["coordinator"].get("ended")
            return f"it has ended ({over}); write its results with serket attach {command}" if over else ""
        with suppress(CheckpointError, OSError):
            if failure := self.directory.checkpoints.status_files.read_failure():
                return f"failed: {printable_line(failure, 500)}"
            latest = self.directory.checkpoints.latest()
            if latest is not None and self.outline.is_done(latest):
                return f"it has ended; write its results with serket attach {command}"
        return f"it is not running, as far as is known here; continue with serket resume {command}"

    def _share(self) -> float:
        finished = max(self.round - 1, 0)
        return min((finished + self._share_of_round()) / max(self.outline.rounds, 1), 1.0)

    def _share_of_round(self) -> float:
        known = list(self._round_seconds.values())
        if not known or not self._round_started:
            return 0.0
        return min((time.time() - self._round_started) / max(sum(known) / len(known), 1e-9), 0.95)

    def _left(self, now: float) -> str:
        """Return the estimated remaining time, from the mean duration of the finished rounds."""
        known = list(self._round_seconds.values())
        left = self.outline.rounds - max(self.round - 1, 0)
        if not known or left <= 0 or self._converged:
            return ""
        seconds = left * sum(known) / len(known) - (now - self._round_started)
        return f"about {format_duration(max(seconds, 0.0))}"


def _finite(value: Any) -> Any:
    """Return plain values with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
