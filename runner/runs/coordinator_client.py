"""Client of a run's coordinator: starts or finds its actor, follows its events, and stops the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
)

from actors.backends.ray.coordinator_actor import COORDINATOR, COORDINATOR_TITLE, RemoteCoordinator, namespace_of
from actors.backends.ray.deaths import describe_memory_kills
from actors.backends.ray.module_actor import kill_process
from actors.coordination.coordinator import Halt
from actors.coordination.events import LogMessage, TimedEvent
from actors.coordination.recovery import RecoveryPolicy
from actors.coordination.session import RunSpec, update_job
from actors.errors import BackendError, CheckpointError, GraphError, ModuleFailedError, StorageError
from actors.limits import COORDINATOR_SECONDS, STOP_REQUEST_SECONDS
from actors.types import State
from runner.cluster.connection import POLL_SECONDS
from runner.cluster.errors import ClusterError, CoordinatorEndedError
from runner.runs.client import EventStream

T = TypeVar("T")

STATUS_POLL_SECONDS = 2.0
"""Time between answers to a command that only waits for the end of a run, which comes with all kept events."""

REPORT_SECONDS = 5.0
"""Time that a request may take before the reason is looked for."""


class CoordinatorSilentError(ModuleFailedError):
    """The coordinator of a run did not answer in time."""


class CoordinatorRestartingError(ModuleFailedError):
    """The process of the coordinator died, and Ray is starting it again."""


@dataclass
class CoordinatorClient:
    """Controls and follows a run through the actor of its coordinator.

    Parameters
    ----------
    coordinator : actor handle
    wait : float
        Seconds for which the coordinator may be unavailable while Ray restarts it.
    incarnation : str
        The incarnation of the coordinator that answered last.
    namespace : str
        The Ray namespace of the run's actors; empty if it is not known.
    answer : float
        Seconds within which a coordinator that has answered before must answer again. After that its process is killed,
        and Ray starts it again; other calls are repeated, as a broken connection may have lost the answer.
    """

    coordinator: Any
    wait: float = RecoveryPolicy().wait
    incarnation: str = ""
    namespace: str = ""
    answer: float = COORDINATOR_SECONDS
    _place: tuple[str, int] | None = None  # node and process id of the incarnation that answered last
    _status: dict[str, Any] = field(default_factory=dict)  # its last answer
    _started: float = field(default_factory=time.time)
    _memory_reported: bool = False
    _next_event: int = 0  # number of the first event that was not received from this incarnation

    @classmethod
    def launch(cls, spec: RunSpec, *, patience: float = 0.0) -> CoordinatorClient:
        """Start the actor of a coordinator on the cluster that this process has joined.

        Parameters
        ----------
        spec : RunSpec
        patience : float
            Seconds to wait for the end of an earlier coordinator of this name.

        Raises
        ------
        ClusterError
            If a run of this name is still on the cluster.
        """
        lifetime = "detached" if spec.detached else None
        options = {"name": COORDINATOR, "namespace": namespace_of(spec.run), "lifetime": lifetime}
        deadline = time.monotonic() + patience
        while True:
            try:
                coordinator = RemoteCoordinator.options(**options).remote(spec)
                return cls(coordinator, spec.recovery.wait, namespace=namespace_of(spec.run))
            except ValueError as error:
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"a run called {spec.run} is on this cluster already; choose another --name, "
                        f"or follow it with serket attach {spec.run}"
                    ) from error
                time.sleep(POLL_SECONDS)

    @classmethod
    def find(cls, run: str) -> CoordinatorClient:
        """Find the coordinator of `run` on the cluster that this process has joined.

        Raises
        ------
        ClusterError
            If the run is not on the cluster (any more).
        """
        try:
            return cls(ray.get_actor(COORDINATOR, namespace_of(run)), namespace=namespace_of(run))
        except ValueError as error:
            raise ClusterError("the run's coordinator is not on this cluster (any more)") from error

    def begin(self, states: Mapping[str, State], *, scheduled: bool = True) -> EventStream:
        """Start a run, and follow it; `states` are those of the sources, with the data."""
        references = {name: [ray.put(state)] for name, state in states.items()}
        job = "rounds" if scheduled else "start"
        yield from self._follow(job, lambda: self.coordinator.begin.remote(references))

    def follow(self, *, confirm: bool = True) -> EventStream:
        """Follow a run that is running.

        Parameters
        ----------
        confirm : bool
            Whether the yielded events count as received, so that the coordinator may drop them. A command that does not
            write them to the run's log leaves them to the process that does.
        """
        yield from self._follow("rounds", confirm=confirm)

    def update(self, module: str, round: int, step: int) -> EventStream:
        """Update one module, and follow the run until the update is committed."""
        job = update_job(module, round, step)
        yield from self._follow(job, lambda: self.coordinator.update.remote(module, round, step))

    def halt(self, when: Halt) -> None:
        """Make the run stop, with a commit, after the current step or round."""
        deadline = time.monotonic() + self.wait
        while True:
            try:
                ray.get(self.coordinator.halt.remote(when), timeout=min(self.wait, self.answer))
                return
            except (ActorUnavailableError, GetTimeoutError) as error:  # it is being restarted
                if isinstance(error, GetTimeoutError):
                    self._kill_unresponsive()
                if time.monotonic() > deadline:
                    raise ModuleFailedError(f"the coordinator did not answer for {self.wait:g} s\n{error}") from error
                time.sleep(POLL_SECONDS)
            except RayActorError as error:
                raise CoordinatorEndedError(f"the coordinator was ended\n{error}") from error

    def generate(self, module: str) -> dict[str, Any]:
        """Return the outputs of a module's ``generate`` for the latest messages from above."""
        for _ in range(RecoveryPolicy().tries):
            with suppress(ObjectLostError):  # the module's node died before they were fetched
                answer = self._ask(lambda: self._await(self.coordinator.generate.remote(module)))
                outputs: dict[str, Any] = _get(answer[0])
                return outputs
        raise ModuleFailedError(f"module {module!r}: its generated outputs were lost repeatedly, because its node died")

    def ended(self) -> str:
        """Return how the run ended (see :meth:`actors.coordination.session.Session.poll`); empty while it runs."""
        answer = self._ask(lambda: _get(self.coordinator.poll.remote(0, "", 0.0), timeout=self.wait))
        return str(answer[2]["ended"])

    def describe(self) -> dict[str, Any]:
        """Return the place and the activity of the coordinator and of every module."""
        return self._ask(lambda: cast("dict[str, Any]", _get(self.coordinator.describe.remote(), timeout=30)))

    def stop(self) -> None:
        """End the actors of the modules and of the coordinator; if it does not answer, without its help."""
        answered = False
        with suppress(ModuleFailedError):  # the coordinator may have ended already
            _get(self.coordinator.stop.remote(), timeout=STOP_REQUEST_SECONDS)
            answered = True
        ray.kill(self.coordinator)
        if not answered and self._place is not None:
            kill_process(self._place[0], COORDINATOR_TITLE, self._place[1])
        if not answered and self.namespace and not self._is_succeeded():
            for actor in ray.util.list_named_actors(all_namespaces=True):
                if actor["namespace"] == self.namespace and actor["name"] != COORDINATOR:
                    with suppress(ValueError):
                        ray.kill(ray.get_actor(actor["name"], self.namespace))

    def _is_succeeded(self) -> bool:
        """Return whether the run has another coordinator, to which the modules' actors belong: it was resumed."""
        try:
            return bool(ray.get_actor(COORDINATOR, self.namespace) != self.coordinator)
        except ValueError:
            return False

    def _ask(self, request: Callable[[], T]) -> T:
        """Return what `request` returns; repeat it while the coordinator is being restarted, for at most `wait` s."""
        deadline = time.monotonic() + self.wait
        while True:
            try:
                return request()
            except CoordinatorRestartingError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def _await(self, reference: Any) -> Any:
        """Return the answer of a call that may take long, while the coordinator answers others."""
        while True:
            try:
                return _get(reference, timeout=self.answer)
            except CoordinatorSilentError:
                _get(self.coordinator.poll.remote(self._next_event, self.incarnation, 0.0), timeout=self.answer)

    def _kill_unresponsive(self) -> bool:
        """Kill a coordinator that has answered before and does not any more; Ray starts it again.

        Returns
        -------
        bool
            Whether it was killed; one that was not heard of yet is waited for.
        """
        if self._place is None:
            return False
        ray.kill(self.coordinator, no_restart=False)
        kill_process(self._place[0], COORDINATOR_TITLE, self._place[1])
        self._place = None
        return True

    def _poll(self, *, confirm: bool) -> Any:
        """Ask for the events and the status; without `confirm`, all events that are kept come each time."""
        if confirm:
            return self.coordinator.poll.remote(self._next_event, self.incarnation, POLL_SECONDS)
        return self.coordinator.poll.remote(0, "", STATUS_POLL_SECONDS)

    def _follow(self, job: str, request: Callable[[], Any] | None = None, *, confirm: bool = True) -> EventStream:
        """Follow `job` to its end; `request` starts it, and is repeated if a restarted coordinator has lost it.

        Raises
        ------
        CoordinatorEndedError
            If the run was ended immediately.
        ModuleFailedError
            If the run failed, or if the coordinator does not answer for `wait` seconds.
        """
        last_answer = time.monotonic()
        if request:
            yield from self._send(request)
        while True:
            try:
                poll = self._poll(confirm=confirm)
                incarnation, events, status = ray.get(poll, timeout=min(self.wait, self.answer))
            except (ActorUnavailableError, GetTimeoutError) as error:
                if isinstance(error, GetTimeoutError) and self._kill_unresponsive():
                    sentence = f"the coordinator did not answer within {self.answer:g} s; its process is started again"
                    yield [TimedEvent(time.time(), LogMessage(sentence))], self._status
                yield self._reported_memory(), self._status
                if time.monotonic() - last_answer > self.wait:
                    why = describe_memory_kills(self._started)
                    reason = f": {why}" if why else f"\n{error}"
                    raise ModuleFailedError(f"the coordinator did not answer for {self.wait:g} s{reason}") from error
                time.sleep(POLL_SECONDS)
                continue
            except RayActorError as error:
                raise CoordinatorEndedError(f"the coordinator was ended\n{error}") from error
            last_answer = time.monotonic()
            self._place, self._status = (status["node_id"], status["pid"]), status
            if events or incarnation != self.incarnation:
                self._next_event = events[-1].number + 1 if events else 0
            self.incarnation = incarnation
            yield events, status
            if status["ended"] and request and status["job"] != job:
                yield from self._send(request)
            elif status["ended"] == "closed":  # another process ends the run, and then its coordinator
                raise CoordinatorEndedError("the run was ended immediately")
            elif status["ended"]:
                with suppress(CoordinatorRestartingError):  # the next incarnation knows the end of the run, too
                    _get(self.coordinator.outcome.remote(), timeout=self.wait)
                    return

    def _send(self, request: Callable[[], Any]) -> EventStream:
        reference, until = request(), time.monotonic() + self.wait
        while not ray.wait([reference], timeout=REPORT_SECONDS)[0] and time.monotonic() < until:
            yield self._reported_memory(), self._status
        with suppress(ActorUnavailableError, GetTimeoutError):  # the request will be repeated
            ray.get(reference, timeout=0)

    def _reported_memory(self) -> list[TimedEvent]:
        """Return a message, once, if the coordinator may be waited for because Ray kills processes of a full node."""
        why = "" if self._memory_reported else describe_memory_kills(self._started)
        if not why:
            return []
        self._memory_reported = True
        return [TimedEvent(time.time(), LogMessage(f"waiting for the coordinator: {why}"))]


_COMPLETE_ERRORS = (ModuleFailedError, GraphError, BackendError, CheckpointError, StorageError, OSError)
"""The coordinator's exceptions whose messages are complete without its traceback."""


def _get(reference: Any, timeout: float | None = None) -> Any:
    """Return the answer of a call of the coordinator; raise its exceptions with their own types."""
    try:
        return ray.get(reference, timeout=timeout)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, _COMPLETE_ERRORS):
            raise cause from None
        raise
    except ActorUnavailableError as error:
        raise CoordinatorRestartingError(f"the coordinator is being restarted\n{error}") from error
    except RayActorError as error:
        raise CoordinatorEndedError(f"the coordinator was ended\n{error}") from error
    except GetTimeoutError as error:
        raise CoordinatorSilentError(f"the coordinator did not answer within {timeout:g} s") from error
