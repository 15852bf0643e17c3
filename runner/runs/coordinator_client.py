"""A run on a Ray cluster, seen from the driver: its coordinator, and what it tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayTaskError,
)

from actors.errors import CheckpointError
from actors.coordination.coordinator import Halt
from actors.errors import GraphError
from actors.types import State
from actors.backends.ray.coordinator_actor import COORDINATOR, RemoteCoordinator, namespace_of
from actors.errors import ModuleFailedError
from actors.coordination.recovery import Recovery
from actors.coordination.session import Event, Plan, update_job
from actors.errors import StorageError
from actors.errors import BackendError
from runner.cluster.connection import POLL_SECONDS, ClusterError

ANSWER_SECONDS = 30.0
"""After so long a coordinator that has not answered is asked again: an answer can be lost with a link."""

Stream: TypeAlias = Iterator[tuple[list[Event], dict[str, Any]]]
"""New events, and where the run stands, several times a second."""


class CoordinatorGoneError(ModuleFailedError):
    """A run's coordinator was ended for good."""


@dataclass
class RunningModel:
    """A run's coordinator, seen from the driver.

    Parameters
    ----------
    coordinator : actor handle
    wait : float
        Seconds for which the coordinator may be away while Ray starts it again.
    life : str
        Which of the coordinator's processes was heard last.
    """

    coordinator: Any
    wait: float = Recovery().wait
    life: str = ""
    _seen: int = 0

    @classmethod
    def launch(cls, plan: Plan, *, patience: float = 0.0) -> RunningModel:
        """Start the coordinator's actor on the cluster that this process has joined.

        Parameters
        ----------
        plan : Plan
        patience : float
            Seconds to wait for the end of a coordinator of this name.

        Raises
        ------
        ClusterError
            If the run is on the cluster already.
        """
        lifetime = "detached" if plan.detached else None
        options = {"name": COORDINATOR, "namespace": namespace_of(plan.run), "lifetime": lifetime}
        until = time.monotonic() + patience
        while True:
            try:
                return cls(RemoteCoordinator.options(**options).remote(plan), plan.recovery.wait)
            except ValueError as error:
                if time.monotonic() > until:
                    raise ClusterError(
                        f"a run called {plan.run} is on this cluster already; choose another --name, "
                        f"or look at it with serket attach {plan.run}"
                    ) from error
                time.sleep(POLL_SECONDS)

    @classmethod
    def find(cls, run: str) -> RunningModel:
        """Find the coordinator of `run` on the cluster that this process has joined.

        Raises
        ------
        ClusterError
            If the run is not there (any more).
        """
        try:
            return cls(ray.get_actor(COORDINATOR, namespace_of(run)))
        except ValueError as error:
            raise ClusterError("the run's coordinator is not on this cluster (any more)") from error

    def begin(self, states: Mapping[str, State], *, scheduled: bool = True) -> Stream:
        """Begin a run, and follow it; `states` hold the sources' data."""
        references = {name: [ray.put(state)] for name, state in states.items()}
        job = "rounds" if scheduled else "start"
        yield from self._follow(job, lambda: self.coordinator.begin.remote(references))

    def follow(self) -> Stream:
        """Follow a run that goes on by itself."""
        yield from self._follow("rounds")

    def update(self, module: str, round: int, step: int) -> Stream:
        """Let one module learn."""
        job = update_job(module, round, step)
        yield from self._follow(job, lambda: self.coordinator.update.remote(module, round, step))

    def halt(self, when: Halt) -> None:
        """Have the run stop, with a commit, after the step or the round that is being taken."""
        until = time.monotonic() + self.wait
        while True:
            try:
                ray.get(self.coordinator.halt.remote(when), timeout=self.wait)
                return
            except ActorUnavailableError as error:  # it is being started again
                if time.monotonic() > until:
                    raise ModuleFailedError(f"the coordinator did not answer for {self.wait:g} s\n{error}") from error
                time.sleep(POLL_SECONDS)
            except RayActorError as error:
                raise CoordinatorGoneError(f"the coordinator was ended\n{error}") from error

    def generate(self, module: str) -> dict[str, Any]:
        """Return the outputs of `module` on the way down."""
        for _ in range(Recovery().tries):
            with suppress(ObjectLostError):  # with the module's node, on its way here
                outputs: dict[str, Any] = _get(_get(self.coordinator.generate.remote(module))[0])
                return outputs
        raise ModuleFailedError(f"module {module!r}: what it generated is lost again and again, with its node")

    def ended(self) -> str:
        """Say how the run ended (:meth:`actors.coordination.session.Session.poll`); empty while it goes on."""
        status: dict[str, Any] = _get(self.coordinator.poll.remote(0, "", 0.0), timeout=self.wait)[2]
        return str(status["ended"])

    def describe(self) -> dict[str, Any]:
        """Say where every module lives and what it does now."""
        described: dict[str, Any] = _get(self.coordinator.describe.remote(), timeout=30)
        return described

    def stop(self) -> None:
        """End the modules' actors and the coordinator's."""
        with suppress(ModuleFailedError):  # where it is gone already
            _get(self.coordinator.stop.remote(), timeout=60)
        ray.kill(self.coordinator)

    def _follow(self, job: str, ask: Callable[[], Any] | None = None) -> Stream:
        """Follow `job` to its end; `ask` for it, and again where a coordinator that was restarted knows nothing of it.

        Raises
        ------
        CoordinatorGoneError
            If somebody ended the run at once.
        ModuleFailedError
            What ended the run; or if the coordinator does not come back.
        """
        seen = time.monotonic()
        if ask:
            self._send(ask)
        while True:
            try:
                poll = self.coordinator.poll.remote(self._seen, self.life, POLL_SECONDS)
                life, events, status = ray.get(poll, timeout=min(self.wait, ANSWER_SECONDS))
            except (ActorUnavailableError, GetTimeoutError) as error:
                if time.monotonic() - seen > self.wait:
                    raise ModuleFailedError(f"the coordinator did not answer for {self.wait:g} s\n{error}") from error
                time.sleep(POLL_SECONDS)
                continue
            except RayActorError as error:
                raise CoordinatorGoneError(f"the coordinator was ended\n{error}") from error
            seen = time.monotonic()
            self._seen = len(events) + (self._seen if life == self.life else 0)
            self.life = life
            yield events, status
            if status["ended"] and ask and status["job"] != job:
                self._send(ask)
            elif status["ended"] == "closed":  # somebody ends it, and its coordinator goes next
                raise CoordinatorGoneError("the run was ended at once")
            elif status["ended"]:
                _get(self.coordinator.outcome.remote())
                return

    def _send(self, ask: Callable[[], Any]) -> None:
        with suppress(ActorUnavailableError, GetTimeoutError):  # it will be asked again
            ray.get(ask(), timeout=self.wait)


_PLAIN = (ModuleFailedError, GraphError, BackendError, CheckpointError, StorageError, OSError)
"""What of a coordinator's errors says all that there is to say."""


def _get(reference: Any, timeout: float | None = None) -> Any:
    """Return what a call on the coordinator gave, its own errors as themselves."""
    try:
        return ray.get(reference, timeout=timeout)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, _PLAIN):
            raise cause from None
        raise
    except RayActorError as error:
        raise CoordinatorGoneError(f"the coordinator was ended\n{error}") from error
    except GetTimeoutError as error:
        raise ModuleFailedError(f"the coordinator did not answer within {timeout:g} seconds") from error
