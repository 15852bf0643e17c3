"""The session: runs a coordinator in a thread of its own, and keeps its events and status for a driver to poll.

Plain Python; :mod:`actors.backends.ray.coordinator_actor` wraps it in an actor. A session of a run that has commits
resumes the run automatically, both after a restart of its process and for a new driver.

Events have consecutive numbers. A poll names the first number that it has not received, and so confirms all earlier
ones, of which the session keeps :data:`actors.limits.MAX_KEPT_EVENTS`. If more than
:data:`actors.limits.MAX_UNREAD_EVENTS` are not confirmed, because no driver polls, they are written beside the commits.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from actors.coordination.backend import Backend, Ref
from actors.coordination.coordinator import Coordinator, Halt
from actors.coordination.events import Committed, CoordinatorRestarted, Emit, Event, ModulePlaced, TimedEvent, ignore
from actors.coordination.placement import Placement
from actors.coordination.recovery import RecoveryPolicy
from actors.errors import describe_failure
from actors.graph.graph import Graph
from actors.limits import MAX_COMMIT_EVENT_BYTES, MAX_KEPT_EVENTS, MAX_UNREAD_EVENTS
from actors.messaging.message import SCHEMA
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import Manifest
from actors.storage.status_files import NumberedEvent, SavedEvent


def update_job(module: str, round: int, step: int) -> str:
    """Return the name of the job of an update."""
    return f"{module}:{round}:{step}"


@dataclass(frozen=True)
class Instrumentation:
    """Replacements for parts of a run, for tests; None keeps a part unchanged.

    Parameters
    ----------
    make_host : callable, optional
        Creates the host of a module; has the signature of :class:`actors.backends.module_host.ModuleHost`.
    wrap_backend : callable, optional
        Returns the backend that the coordinator uses, given the real one.
    make_checkpoints : callable, optional
        Creates the run's checkpoints; has the signature of :class:`actors.storage.checkpoints.Checkpoints`.
    before_chain : callable, optional
        Called in a chain's process with the round, before the chain runs.
    clock : callable, optional
        Returns the Unix time of an event.
    """

    make_host: Callable[..., Any] | None = None
    wrap_backend: Callable[[Backend], Backend] | None = None
    make_checkpoints: Callable[[str, int | None], Checkpoints] | None = None
    before_chain: Callable[[int], None] | None = None
    clock: Callable[[], float] | None = None


@dataclass(frozen=True)
class RunSpec:
    """The specification of a run, from which a session is created.

    Parameters
    ----------
    graph : Graph
    run : str
        The run's name.
    seed : int
    root : str, optional
        Where commits are written, a path or a URL; without it, nothing is committed.
    keep : int, optional
        How many commits are kept; by default all.
    scheduled : bool
        Whether the session runs the schedule's rounds; otherwise it runs only the updates that are requested.
    detached : bool
        Whether the run outlives the process that started it.
    recovery : RecoveryPolicy
    placement : Placement
    config : mapping
        Stored in every manifest.
    instrumentation : Instrumentation
        For tests.
    schema : int
        Schema of the messages that the driver reads.
    recognizing : tuple of str
        Modules that recognize at each requested update, and do not learn; they start from given states.
    secret : str
        What the coordinator proves to know to those who connect to it later; empty for no proof.
    """

    graph: Graph
    run: str = "run"
    seed: int = 0
    root: str | None = None
    keep: int | None = None
    scheduled: bool = True
    detached: bool = False
    recovery: RecoveryPolicy = field(default_factory=RecoveryPolicy)
    placement: Placement = field(default_factory=Placement)
    config: Mapping[str, Any] = field(default_factory=dict)
    instrumentation: Instrumentation = field(default_factory=Instrumentation)
    schema: int = SCHEMA
    recognizing: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)

    def checkpoints(self) -> Checkpoints | None:
        """Return the run's checkpoints, None without `root`."""
        make = self.instrumentation.make_checkpoints or Checkpoints
        return make(self.root, self.keep) if self.root else None


class Session:
    """Runs a coordinator in a thread, and keeps its events until they are polled.

    Parameters
    ----------
    spec : RunSpec
    backend : Backend
    checkpoints : Checkpoints, optional
    observe : callable, optional
        Also receives every event.

    Attributes
    ----------
    incarnation : str
        Identifies this session; one in a restarted process has another.
    coordinator : Coordinator
    """

    def __init__(
        self, spec: RunSpec, backend: Backend, checkpoints: Checkpoints | None, observe: Emit = ignore
    ) -> None:
        self.spec = spec
        self.incarnation = uuid.uuid4().hex
        self._backend = backend
        self._clock = spec.instrumentation.clock or time.time
        self._began = time.monotonic()
        self._events: deque[TimedEvent] = deque()
        self._next_number = 0
        self._confirmed = 0  # events with lower numbers were received by a driver
        self._saved = 0  # events with lower numbers were written beside the commits
        self._reserved: int | None = None  # the number of the event of the commit that is being written
        self._saving = threading.Lock()
        self._observe = observe
        self._changed = threading.Condition()
        self._places: dict[str, ModulePlaced] = {}
        self._thread: threading.Thread | None = None
        self._job, self._ended = "", "idle"
        self._failure: BaseException | None = None
        self._last_poll = time.monotonic()
        self._answering = 0  # requests that are being answered
        self.coordinator = Coordinator(
            spec.graph,
            backend,
            run=spec.run,
            seed=spec.seed,
            checkpoints=checkpoints,
            emit=self.emit,
            recovery=spec.recovery,
            config=spec.config,
            recognizing=spec.recognizing,
            events_of_commit=self._events_of_commit,
        )
        self._checkpoints = checkpoints
        self._started = False
        self._closing = False
        self._committed = bool(checkpoints and checkpoints.names())

    def resume_if_committed(self) -> None:
        """Resume a run that has commits; a new one waits for :meth:`begin`."""
        if self._committed:
            self.emit(CoordinatorRestarted())
            self._run_job(self._first_job, self._resume)

    def begin(self, states: Mapping[str, Ref]) -> None:
        """Start a new run from the sources' states; does nothing if the run was started before."""
        if self._thread is None and not self._committed:
            self._run_job(self._first_job, lambda: self._begin(states))

    def update(self, module: str, round: int, step: int) -> None:
        """Update one module, and commit; does nothing while another job runs."""
        if self._thread is None or not self._thread.is_alive():
            self._run_job(update_job(module, round, step), lambda: self._update(module, round, step))

    def halt(self, when: Halt) -> None:
        """Make the run stop, with a commit, after the current step or round."""
        self.coordinator.halt(when)

    def close(self) -> None:
        """Declare that the modules are about to be ended, so that their end is not reported as a failure."""
        self._closing = True

    def poll(self, since: int, incarnation: str, wait: float = 0.0) -> tuple[str, list[TimedEvent], dict[str, Any]]:
        """Return the new events and the status.

        Parameters
        ----------
        since : int
            Number of the first event that the caller has not received; earlier ones may be dropped.
        incarnation : str
            The session that sent them; if it is another one, all events that are kept are returned.
        wait : float
            Maximal time to wait for the end of the current job, in seconds.

        Returns
        -------
        incarnation : str
        events : list of TimedEvent
        status : dict
            The coordinator's status, and ``job``: the current or the last job (``start``, ``rounds``, or an update's
            ``<module>:<round>:<step>``), and ``ended``: empty while it runs, else ``idle`` (no job was started yet),
            ``done``, ``stopped``, ``closed`` (:meth:`close`) or ``failed`` (:meth:`outcome` raises the reason).
        """
        since = since if incarnation == self.incarnation else 0
        with self._changed:
            self._last_poll = time.monotonic()
            self._confirmed = max(self._confirmed, min(since, self._next_number))
            while self._events and self._events[0].number < self._confirmed - MAX_KEPT_EVENTS:
                self._events.popleft()
            self._changed.wait_for(lambda: bool(self._ended), timeout=wait)
            ended = "closed" if self._ended and self._closing else self._ended
            events = self._events_since(since)
        return self.incarnation, events, {**self.coordinator.status(), "job": self._job, "ended": ended}

    @property
    def ended(self) -> str:
        """How the run ended, as :meth:`poll` returns it."""
        return self._ended

    def outcome(self) -> None:
        """Raise the exception that ended the run, if it failed."""
        if self._failure is not None:
            raise self._failure

    def places(self) -> dict[str, dict[str, Any]]:
        """Return the place and the activity of every module."""
        return {name: {**place.fields(), **self._backend.status(name)} for name, place in list(self._places.items())}

    def save_events(self) -> None:
        """Write the events of a detached run beside its commits, for a driver that connects after this session.

        When called again, it writes only the events since.
        """
        with self._saving:
            with self._changed:
                events = self._events_since(self._saved)
            if self.spec.detached and self._checkpoints is not None and events:
                with suppress(OSError):
                    self._checkpoints.status_files.append_events([_packed(each) for each in events])
                    self._saved = events[-1].number + 1

    def idle_for(self, seconds: float) -> bool:
        """Return whether nothing polled for `seconds` after the run ended, or ten times as long before it started.

        It is not idle while it answers a request that takes long (:meth:`answering`).
        """
        if self._answering:
            return False
        silence = time.monotonic() - self._last_poll
        return bool(self._ended) and silence > (10 * seconds if self._ended == "idle" else seconds)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Answer a driver's request in this context, which counts as a sign of life from its beginning to its end."""
        with self._changed:
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._last_poll = time.monotonic()

    def close_if_idle(self, seconds: float) -> bool:
        """Close the session (:meth:`close`) if it is idle for so long (:meth:`idle_for`); return whether it was.

        A driver that polls from now on is told that the run was closed, one that has polled before prevents it.
        """
        with self._changed:
            if self.idle_for(seconds):
                self._closing = True
            return self._closing

    def emit(self, event: Event) -> None:
        """Store an event until the driver fetches it."""
        self._observe(event)
        if isinstance(event, ModulePlaced):
            self._places[event.module] = event
        with self._changed:
            timed, later = self._timed(event), []
            while self._events and self._events[-1].number > timed.number:  # emitted while the commit was written
                later.append(self._events.pop())
            self._events += [timed, *reversed(later)]
            many = self._next_number - max(self._confirmed, self._events[0].number) > MAX_UNREAD_EVENTS
        if many:
            self._save_unread_events()

    def _timed(self, event: Event) -> TimedEvent:
        """Return an event with its time and number: the reserved one for that of a commit, else the next one."""
        number, self._next_number = self._next_number, self._next_number + 1
        if isinstance(event, Committed) and self._reserved is not None:
            number, self._reserved, self._next_number = self._reserved, None, number
        return TimedEvent(self._clock(), event, number, self.incarnation, time.monotonic() - self._began)

    def _events_since(self, first: int) -> list[TimedEvent]:
        """Return the events from a number on, up to that of a commit which is being written."""
        end = self._next_number if self._reserved is None else self._reserved
        return [each for each in self._events if first <= each.number < end]

    @contextmanager
    def _events_of_commit(self, committed: Committed) -> Iterator[tuple[SavedEvent, ...]]:
        """Yield the events that a commit stores: those that no driver has fetched for certain, and its own.

        Its own gets its number before the commit is written, so that it is the same event for a driver that reads it in
        the commit, after this process has died.
        """
        with self._saving:
            with self._changed:
                unread = [_packed(each) for each in self._events_since(max(self._confirmed, self._saved))]
            if self._checkpoints is not None and len(json.dumps(unread)) > MAX_COMMIT_EVENT_BYTES:
                self._checkpoints.status_files.append_events(unread)
                self._saved, unread = unread[-1][3] + 1, []
        with self._changed:
            since = unread[-1][3] + 1 if unread else max(self._confirmed, self._saved)
            unread += [_packed(each) for each in self._events_since(since)]  # emitted meanwhile
            self._reserved, self._next_number = self._next_number, self._next_number + 1
            own = TimedEvent(self._clock(), committed, self._reserved, self.incarnation)
        try:
            yield (*unread, _packed(own))
        except BaseException:
            self._reserved = None  # there is no such commit
            raise

    def _save_unread_events(self) -> None:
        """Write the events that no driver has fetched beside the commits, and drop them."""
        with self._saving:
            with self._changed:
                unread = self._events_since(max(self._confirmed, self._events[0].number))
            if len(unread) <= MAX_UNREAD_EVENTS:  # another thread has written them
                return
            if self._checkpoints is not None:
                with suppress(OSError):  # without them, a later driver still finds the commits
                    self._checkpoints.status_files.append_events([_packed(each) for each in unread])
            with self._changed:
                while self._events and self._events[0].number <= unread[-1].number:
                    self._events.popleft()

    @property
    def _first_job(self) -> str:
        return "rounds" if self.spec.scheduled else "start"

    def _run_job(self, name: str, job: Callable[[], str]) -> None:
        self._job, self._ended, self._failure = name, "", None
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def _run(self, job: Callable[[], str]) -> None:
        try:
            if self._checkpoints is not None:
                self._checkpoints.status_files.clear_failure()
            ended = job()
        except BaseException as error:
            self._failure, ended = (None, "closed") if self._closing else (error, "failed")
            if self._checkpoints is not None and self._failure is not None:
                with suppress(OSError):  # the failure may be that nothing can be written
                    self._checkpoints.status_files.write_failure(describe_failure(error))
        with self._changed:
            self._ended = ended
            self._changed.notify_all()

    def _begin(self, states: Mapping[str, Ref]) -> str:
        self.coordinator.start(states)
        self._started = True
        return self._run_rounds()

    def _resume(self) -> str:
        self.coordinator.resume(self._save_events_of_former)
        self._started = True
        return self._run_rounds()

    def _save_events_of_former(self, manifest: Manifest) -> None:
        """Write the events in the commit from which the run resumes beside the commits, as it may be pruned."""
        if manifest.events and self._checkpoints is not None:
            self._checkpoints.status_files.append_events(manifest.events)

    def _run_rounds(self) -> str:
        if not self.spec.scheduled:
            return "done"
        self.coordinator.run_rounds()
        return self.coordinator.ended

    def _update(self, module: str, round: int, step: int) -> str:
        if not self._started:
            self.coordinator.resume(self._save_events_of_former)
            self._started = True
        self.coordinator.update(module, round, step)
        return "done"


def _packed(timed: TimedEvent) -> NumberedEvent:
    """Return an event as status files hold it."""
    return timed.event.event, timed.time, timed.event.fields(), timed.number, timed.incarnation
