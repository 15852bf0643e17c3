"""Monitor of a run: shows and logs the events of its coordinator, and records the metrics of every commit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from actors.coordination.events import (
    BlockFinished,
    ChainFinished,
    Committed,
    Emit,
    Event,
    ModuleDied,
    ModuleProposed,
    ModuleRecovered,
    RoundReplayed,
    RunResumed,
    TimedEvent,
    UpdateFinished,
    UpdateStarted,
    ignore,
)
from actors.errors import CheckpointError
from runner.report.progress import Progress
from runner.runs.directory import RunDirectory
from runner.runs.event_log import LogPosition
from runner.runs.live import LiveFile
from runner.runs.records import RoundScores
from runner.runs.timing import ComputingTime
from runner.tracking.feed import Tracking

if TYPE_CHECKING:
    from runner.runs.client import EventStream


def event_message(event: Event) -> str:
    """Return the message about an event for the user; empty for events without one."""
    match event:
        case ModuleDied():
            return f"{event.module} died during {event.doing}: {event.reason.partition(chr(10))[0]}"
        case ModuleRecovered():
            return f"{event.module} recovered after {event.seconds:.1f} s"
        case RoundReplayed():
            return f"objects that round {event.round} needs were lost; it is repeated from the last commit"
        case RunResumed():
            return f"continuing from {event.name}"
    return ""


class RunMonitor:
    """Follows a run: shows and logs its events, and records the metrics of every commit.

    Parameters
    ----------
    directory : RunDirectory
    progress : Progress
    single : bool
        Whether every update is recorded instead of every round (for the script interface).
    since : LogPosition, optional
        Up to which events are ignored, as they were received before; by default none.
    observe : callable, optional
        Receives the metrics of every commit, as an event.
    tracking : Tracking, optional
        The callbacks, which are told every event.

    Attributes
    ----------
    scores : RoundScores
        The metrics of the last recorded commit.
    module_seconds : dict of str to float
        Seconds spent inside each module.
    commits : int
        Number of received commit events.
    resumed : bool
        Whether the run was resumed, so that earlier durations are unknown.
    learnt : bool
        Whether a step of a round has ended.
    first_output : float or None
        When it was first known that a module has learnt something (Unix time): it reported progress, or was updated.
    """

    def __init__(
        self,
        directory: RunDirectory,
        progress: Progress,
        *,
        single: bool = False,
        since: LogPosition | None = None,
        observe: Emit = ignore,
        tracking: Tracking | None = None,
    ) -> None:
        self.observe = observe
        self.tracking = Tracking() if tracking is None else tracking
        self.single = single
        self.since = since or LogPosition()
        self.directory = directory
        self.progress = progress
        self.scores = RoundScores(0, None, None)
        self.module_seconds: dict[str, float] = {}
        self.first_update: float | None = None
        self.commits = 0
        self.resumed = False
        self.learnt = False
        self.first_output: float | None = None
        self._last_recorded: float | None = None  # the last round in metrics.csv, None if it is not known
        self._started: dict[str, float] = {}  # start of the current update of each module
        self._computing = ComputingTime()
        self._explained: set[str] = set()  # sentences that were shown
        self._live = LiveFile(directory)

    def follow(self, stream: EventStream, until: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Follow a stream of events and statuses to its end, or until `until` returns True; return the last status."""
        status: dict[str, Any] = {}
        try:
            for events, status in stream:
                resumed = any(isinstance(each.event, RunResumed) and self.since.is_new(each) for each in events)
                # A restarted coordinator has saved those of the former one with which it goes on.
                if resumed or (events and not self.since.is_next(events[0])):
                    self.receive_saved()
                self._receive_all(events)
                if status:  # the coordinator has answered
                    self._receive_status(status)
                if until():
                    break
        finally:
            self._live.remove()
        return status

    def _receive_status(self, status: dict[str, Any]) -> None:
        self.module_seconds = dict(status["module_seconds"])
        self.progress.status(status)
        self._live.write(status)
        if any(activity.get("done") for activity in status.get("active", {}).values()):
            self.first_output = self.first_output or time.time()

    def settle(self) -> None:
        """Let the commits decide on the result: record those without a metrics line, and use the metrics of the newest.

        The accuracies of a commit whose event could not be read are in it, too.
        """
        self.receive_saved()
        self.catch_up()
        newest = self.directory.checkpoints.latest()
        if newest is not None and newest.round > 0 and newest.step is None and newest.round != self.scores.round:
            self.scores = self.directory.scores(newest.name)
            self.module_seconds = dict(newest.module_seconds)

    def catch_up(self, until: float = math.inf) -> None:
        """Record the unrecorded commits of complete rounds up to round `until`."""
        for commit in self.directory.unrecorded_commits(until):
            self._record(commit)

    def receive_saved(self) -> None:
        """Receive the events that a coordinator has saved because no driver fetched them."""
        for each in self.directory.import_saved_events(self.since):
            if each.incarnation:
                self.since.advance(each)
                self.resumed = True  # how long these took is known only by clocks that may have been set
                self._receive(each)

    def _receive_all(self, events: Iterable[TimedEvent]) -> None:
        """Log and show the events that are new; events without a number are those of the driver itself."""
        new = [each for each in events if not each.incarnation or self.since.is_new(each)]
        self.directory.log.append(new)
        for each in new:
            self.since.advance(each)
            self._receive(each)

    def _receive(self, timed: TimedEvent) -> None:
        when, event = timed.time if timed.elapsed is None else timed.elapsed, timed.event
        self.progress.event(event)
        self.tracking.receive(timed)
        if message := event_message(event):
            self.progress.log(message)
        if isinstance(event, BlockFinished) or (isinstance(event, UpdateFinished) and event.exchange is None):
            self.learnt |= event.round > 0
        if isinstance(event, UpdateFinished) and event.round > 0:
            self.first_output = self.first_output or time.time()
        match event:
            case UpdateFinished() if event.round > 0:
                # It did not compute before it was called; the clocks of nodes differ, and older runs do not say when.
                self._add_interval(event, when, self._started.pop(event.module, self.first_update))
            case ChainFinished() | ModuleProposed():
                self._add_interval(event, when, self.first_update)
            case UpdateStarted() if event.round > 0:
                self._started[event.module] = when
                self.first_update = when if self.first_update is None else self.first_update
            case RunResumed():
                self.resumed = True
                self.directory.metrics_file.rewind(event.round - (event.step is not None))
                self._last_recorded = None
                with self._unless_pruned(event.name):
                    self.scores = self.directory.scores(event.name)
                self.catch_up(event.round)  # newer ones are damaged, or their events are yet to be received
            case Committed():
                self.commits += 1
                # It may have been recorded before its event was received, by this or an earlier process.
                new = self.single or (event.whole and event.round > self._last_round())
                if event.round > 0 and new:
                    self._record(event.name, RoundScores(event.round, event.evidence, None, event.score))

    def _record(self, commit: str, otherwise: RoundScores | None = None) -> None:
        """Record a commit; of one that was pruned since, write what its event says, without the accuracy."""
        before = self.scores
        with self._unless_pruned(commit):
            self.scores = self.directory.record(commit)
        if self.scores is before:
            if otherwise is None:
                return
            self.scores = otherwise
            self.directory.metrics_file.append(otherwise)
        self._last_recorded = max(self.scores.round, self._last_round())
        for sentence in self.directory.rows_without_categories - self._explained:
            self._explained.add(sentence)
            self.progress.log(sentence)
        if self.scores.round > 0:
            scored = self.scores.event()
            timed = TimedEvent(time.time(), scored)
            self.directory.log.append([timed])
            self.progress.event(scored)
            self.tracking.receive(timed)
            self.observe(scored)

    @contextmanager
    def _unless_pruned(self, commit: str) -> Iterator[None]:
        """Suppress the error of a commit that was pruned after newer ones, before its event was received."""
        try:
            yield
        except CheckpointError:
            if commit in self.directory.checkpoints.names():
                raise

    def _last_round(self) -> float:
        """Return the last round that is recorded; the file is read once, as it grows with the run."""
        if self._last_recorded is None:
            self._last_recorded = self.directory.metrics_file.last_round()
        return self._last_recorded

    def _add_interval(
        self, event: UpdateFinished | ChainFinished | ModuleProposed, when: float, since: float | None
    ) -> None:
        """Add the time in which a module or a chain computed, by the coordinator's clock, not before `since`."""
        if since is not None:
            ended = max(when - max(event.waited_seconds, 0.0), since)
            self._computing.add(max(ended - max(event.seconds, 0.0), since), ended)

    def overhead_share(self) -> float | None:
        """Return the share of the time, from the first update to the end of the last, in which no module computed.

        Modules and chains that compute at the same time count once. None for a resumed run.
        """
        if self.resumed or self.first_update is None:
            return None
        return self._computing.idle_share(self.first_update)
