"""Follows a run: takes in what its coordinator tells, shows it, writes it down, and lets a person interrupt it."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from actors.coordination.router import Emit, UpdateSeconds
from actors.errors import CheckpointError
from runner.report.progress import Progress
from runner.runs.directory import RoundScores, RunDirectory

if TYPE_CHECKING:
    from runner.runs.coordinator_client import Stream

_SENTENCES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "lost": lambda f: f"{f['module']} died in {f['doing']}: {str(f['reason']).partition(chr(10))[0]}",
    "recovered": lambda f: f"{f['module']} is back after {f['seconds']:.1f} s",
    "replay": lambda f: f"what round {f['round']} stood on is lost; it begins again from the last commit",
    "resumed": lambda f: f"going on from {f['name']}",
}


class StoppedError(RuntimeError):
    """A run that was asked to stop, and did; says how to go on."""


@contextmanager
def interruptible(directory: RunDirectory) -> Iterator[None]:
    """Let whoever interrupts a run at once know how to go on with it."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(
            f"ended at once; what was committed is whole, go on with serket resume {directory.handle}"
        ) from None


class Follower:
    """Takes in what the coordinator tells: shows it, writes it down, and scores every commit.

    Parameters
    ----------
    directory : RunDirectory
    progress : Progress
    single : bool
        Whether the run is a script's, whose every update is recorded, not every round.
    since : float
        Events up to this Unix time are known already.
    measure : callable, optional
        Receives the scores of every commit, as an event.
    """

    def __init__(
        self,
        directory: RunDirectory,
        progress: Progress,
        *,
        single: bool = False,
        since: float = 0.0,
        measure: Emit = lambda _event, _fields: None,
    ) -> None:
        self.measure = measure
        self.single = single
        self.since = since
        self.directory = directory
        self.progress = progress
        self.scores = RoundScores(0, None, None)
        self.module_seconds: dict[str, float] = {}
        self.first_update: float | None = None
        self._begun: dict[str, float] = {}  # updates by module, and when each was inside it
        self._took = UpdateSeconds()
        self._spans: list[tuple[float, float]] = []
        self.last_commit: float | None = None
        self.commits = 0
        self.resumed = False

    def follow(self, stream: Stream, until: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Take in a stream of events and statuses until it ends, or until `until` says so; return the last status."""
        status: dict[str, Any] = {}
        for events, status in stream:
            new = [event for event in events if event[1] > self.since]
            self.directory.log.append(new)
            for name, when, fields in new:
                self._take(name, when, fields)
            self.module_seconds = dict(status["module_seconds"])
            self.progress.status(status)
            if until():
                break
        return status

    def catch_up(self, until: float = math.inf) -> None:
        """Record the commits of whole rounds, up to round `until`, that nobody has recorded yet."""
        for commit in self.directory.unrecorded(until):
            self._record(commit)

    def _take(self, name: str, when: float, fields: Mapping[str, Any]) -> None:
        self.progress.event(name, fields)
        sentence = _SENTENCES.get(name)
        if sentence is not None:
            self.progress.log(sentence(fields))
        if name == "update" and fields["round"] > 0:
            self._begun[fields["module"]] = when
            self.first_update = self.first_update or when
        elif name == "updated" and fields["module"] in self._begun:
            begun, inside = self._begun.pop(fields["module"]), self._took.of(fields)
            self._spans.append((begun, begun + min(max(inside, 0.0), when - begun)))
        elif name == "resumed":
            self.resumed = True
            self.directory.rewind(fields["round"] - (fields["step"] is not None))
            self.scores = self.directory.scores(fields["name"])
            self.catch_up(fields["round"])  # newer ones are damaged, or will be told of
        elif name == "commit":
            self.last_commit, self.commits = when, self.commits + 1
            # It may have been caught up with before its event came, by this process or by one before it.
            new = self.single or (fields["whole"] and fields["round"] > self.directory.last_recorded())
            if fields["round"] > 0 and new:
                self._record(fields["name"])

    def _record(self, commit: str) -> None:
        try:
            self.scores = self.directory.record(commit)
        except CheckpointError:
            if commit in self.directory.checkpoints.names():
                raise
            return  # newer ones have taken its place already
        if self.scores.round > 0:
            self.directory.log.append([("scores", time.time(), self.scores.fields())])
            self.progress.event("scores", self.scores.fields())
            self.measure("scores", self.scores.fields())

    def overhead_share(self, sources: Iterable[str]) -> float | None:
        """Return the share of the time from the first update to the last commit in which no module learnt.

        Below zero where chains learnt beside the modules, whose seconds count as theirs; None of a run that was
        interrupted.
        """
        if self.resumed:
            return None
        if self.first_update is None or self.last_commit is None or self.last_commit <= self.first_update:
            return None
        inside = sum(seconds for name, seconds in self.module_seconds.items() if name not in set(sources))
        return 1.0 - (inside - _shared(self._spans)) / (self.last_commit - self.first_update)


def _shared(spans: Iterable[tuple[float, float]]) -> float:
    """Return how many seconds of spans lie within others."""
    shared, until = 0.0, -math.inf
    for begun, ended in sorted(spans):
        shared += max(min(ended, until) - begun, 0.0)
        until = max(until, ended)
    return shared


class Interrupts:
    """Ctrl-C and SIGTERM: the first one is noted, the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def caught(self, say: Callable[[str], None]) -> Iterator[None]:
        """Catch them as long as the context lasts; where signals cannot be caught (a thread), leave them be."""

        def note(_signal: int, _frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            with suppress(RuntimeError):  # the interrupted code was writing to the same stream
                say("stopping after this step (once more: at once)")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
