"""A run that is driven in a thread of its own while others ask how it goes: what the coordinator's actor holds.

Plain Python; :mod:`actors.backends.ray.coordinator_actor` makes an actor of it. A session that comes to a run with
commits takes the
run up by itself, so that it does not matter whether its process was restarted or somebody resumes the run.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from actors.coordination.backend import Ref, Transport
from actors.coordination.coordinator import Coordinator, Halt
from actors.coordination.placement import Placement
from actors.coordination.recovery import Recovery
from actors.coordination.router import Emit
from actors.graph.graph import Graph
from actors.messaging.message import SCHEMA
from actors.storage.checkpoints import Checkpoints

Event: TypeAlias = tuple[str, float, dict[str, Any]]
"""Name, Unix time, fields."""


def update_job(module: str, round: int, step: int) -> str:
    """Return what the job of an update is called."""
    return f"{module}:{round}:{step}"


@dataclass(frozen=True)
class Plan:
    """What a session is to drive.

    Parameters
    ----------
    graph : Graph
    run : str
        The run's name.
    seed : int
    root : str, optional
        Where commits go, a path or a URL; without it there are none.
    keep : int, optional
        How many commits stay; by default all.
    scheduled : bool
        Whether the session goes through the schedule's rounds; otherwise it waits for each update to be asked for.
    detached : bool
        Whether the run outlives the process that began it.
    recovery : Recovery
    placement : Placement
    config : mapping
        Kept in every manifest.
    faults : tuple of str
        For tests: who dies where (:mod:`actors.backends.fault_injection`).
    schema : int
        Of the messages that whoever makes the plan speaks.
    """

    graph: Graph
    run: str = "run"
    seed: int = 0
    root: str | None = None
    keep: int | None = None
    scheduled: bool = True
    detached: bool = False
    recovery: Recovery = field(default_factory=Recovery)
    placement: Placement = field(default_factory=Placement)
    config: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    schema: int = SCHEMA

    def checkpoints(self) -> Checkpoints | None:
        """Return the run's commits."""
        return Checkpoints(self.root, keep=self.keep) if self.root else None


class Session:
    """Drives one run.

    Parameters
    ----------
    plan : Plan
    transport : Transport
    checkpoints : Checkpoints, optional
    tell : callable, optional
        Receives every event too.
    """

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        checkpoints: Checkpoints | None,
        tell: Emit = lambda _event, _fields: None,
    ) -> None:
        self.plan = plan
        self.life = uuid.uuid4().hex
        self._transport = transport
        self._events: list[Event] = []
        self._tell = tell
        self._news = threading.Condition()
        self._places: dict[str, dict[str, Any]] = {}
        self._thread: threading.Thread | None = None
        self._job, self._ended = "", "idle"
        self._failure: BaseException | None = None
        self._last_poll = time.monotonic()
        self.coordinator = Coordinator(
            plan.graph,
            transport,
            run=plan.run,
            seed=plan.seed,
            checkpoints=checkpoints,
            emit=self.emit,
            recovery=plan.recovery,
            config=plan.config,
        )
        self._checkpoints = checkpoints
        self._alive = False
        self._closing = False
        self._committed = bool(checkpoints and checkpoints.names())

    def take_up(self) -> None:
        """Go on with a run that has commits; a new one waits for :meth:`begin`."""
        if self._committed:
            self.emit("restarted", {})
            self._work(self._first_job, self._go_on)

    def begin(self, states: Mapping[str, Ref]) -> None:
        """Begin a new run; `states` are what its sources start from. Does nothing where it has begun already."""
        if self._thread is None and not self._committed:
            self._work(self._first_job, lambda: self._begin(states))

    def update(self, module: str, round: int, step: int) -> None:
        """Let one module learn, and commit; does nothing while something else is being done."""
        if self._thread is None or not self._thread.is_alive():
            self._work(update_job(module, round, step), lambda: self._update(module, round, step))

    def halt(self, when: Halt) -> None:
        """Have the run stop, with a commit, after the step or the round that is being taken."""
        self.coordinator.halt(when)

    def close(self) -> None:
        """Expect that the modules end now, in the middle of what they do: that is no failure."""
        self._closing = True

    def poll(self, since: int, life: str, wait: float = 0.0) -> tuple[str, list[Event], dict[str, Any]]:
        """Tell what is new.

        Parameters
        ----------
        since : int
            How many events are known already.
        life : str
            Of the session that they came from; another one's do not count.
        wait : float
            Seconds to wait for the end of what is being done.

        Returns
        -------
        life : str
        events : list of Event
        status : dict
            As the coordinator's, and ``job``: what is being done or was done last (``start``, ``rounds``, or an
            update's ``<module>:<round>:<step>``), and ``ended``: empty while it goes on, else ``idle`` (nothing was
            asked for yet), ``done``, ``stopped``, ``closed`` (:meth:`close`) or ``failed`` (:meth:`outcome` says why).
        """
        self._last_poll = time.monotonic()
        since = since if life == self.life else 0
        with self._news:
            self._news.wait_for(lambda: bool(self._ended), timeout=wait)
            ended, events = self._ended, self._events[since:]
        return self.life, events, {**self.coordinator.status(), "job": self._job, "ended": ended}

    @property
    def ended(self) -> str:
        """How the run ended, as :meth:`poll` says it."""
        return self._ended

    def outcome(self) -> None:
        """Raise what ended the run, if it failed."""
        if self._failure is not None:
            raise self._failure

    def places(self) -> dict[str, dict[str, Any]]:
        """Say where every module lives and what it does now."""
        return {name: {**place, **self._transport.status(name)} for name, place in list(self._places.items())}

    def leave_word(self) -> None:
        """Leave what happened in a detached run beside its commits, for those who come when this session is gone."""
        if self.plan.detached and self._checkpoints is not None and self._events:
            with suppress(OSError):
                self._checkpoints.notes.leave_events(self._events)

    def abandoned(self, seconds: float) -> bool:
        """Whether the run has ended and nobody has asked for so long; before it begins, for ten times as long."""
        silence = time.monotonic() - self._last_poll
        return bool(self._ended) and silence > (10 * seconds if self._ended == "idle" else seconds)

    def emit(self, event: str, fields: Mapping[str, Any]) -> None:
        """Note that something happened."""
        self._tell(event, fields)
        if event == "placed":
            self._places[fields["module"]] = dict(fields)
        with self._news:
            # Who takes up where another one stopped to watch goes by the time: no two events have the same.
            after = self._events[-1][1] + 1e-6 if self._events else 0.0
            self._events.append((event, max(time.time(), after), dict(fields)))

    @property
    def _first_job(self) -> str:
        return "rounds" if self.plan.scheduled else "start"

    def _work(self, name: str, job: Callable[[], str]) -> None:
        self._job, self._ended, self._failure = name, "", None
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    def _run(self, job: Callable[[], str]) -> None:
        try:
            if self._checkpoints is not None:
                self._checkpoints.notes.forget_failure()
            ended = job()
        except BaseException as error:
            self._failure, ended = (None, "closed") if self._closing else (error, "failed")
            if self._checkpoints is not None and self._failure is not None:
                with suppress(OSError):  # the failure may be that nothing can be written
                    self._checkpoints.notes.leave_failure(str(error))
        with self._news:
            self._ended = ended
            self._news.notify_all()

    def _begin(self, states: Mapping[str, Ref]) -> str:
        self.coordinator.start(states)
        self._alive = True
        return self._rounds()

    def _go_on(self) -> str:
        self.coordinator.resume()
        self._alive = True
        return self._rounds()

    def _rounds(self) -> str:
        if not self.plan.scheduled:
            return "done"
        self.coordinator.run_rounds()
        return self.coordinator.ended

    def _update(self, module: str, round: int, step: int) -> str:
        if not self._alive:
            self.coordinator.resume()
            self._alive = True
        self.coordinator.update(module, round, step)
        return "done"
