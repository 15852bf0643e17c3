"""The Ray actor of a run's session."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray

from actors.backends.ray.backend import RayBackend
from actors.backends.ray.metrics import PrometheusMetrics
from actors.backends.ray.proof import publish_proof
from actors.coordination.backend import Backend
from actors.coordination.coordinator import Halt
from actors.coordination.events import LogMessage, TimedEvent
from actors.coordination.session import RunSpec, Session
from actors.errors import BackendError
from actors.messaging.message import SCHEMA
from actors.variables import VariableError, linger_seconds

COORDINATOR = "coordinator"
COORDINATOR_TITLE = "CoordinatorActor"
"""How Ray calls the processes of coordinators, after ``ray::``."""


def namespace_of(run: str) -> str:
    """Return the Ray namespace in which the actors of `run` have their names."""
    return f"serket:{run}"


class CoordinatorActor:
    """A Ray actor around one :class:`actors.coordination.session.Session`; other threads answer :meth:`poll`."""

    def __init__(self, spec: RunSpec) -> None:
        if spec.schema != SCHEMA:
            raise BackendError(
                f"the coordinator reads messages of schema {SCHEMA} on this cluster, the driver those of schema "
                f"{spec.schema}: install the same serket-actors on both"
            )
        try:
            self._linger = linger_seconds()
        except VariableError as error:  # of the environment in which the cluster was started, not of the driver's
            raise BackendError(f"on the node of the coordinator, {error}") from error
        publish_proof(spec.secret, spec.run)
        self._node_id = ray.get_runtime_context().get_node_id()
        parts = spec.instrumentation
        self._backend: Backend = RayBackend(
            namespace_of(spec.run),
            recovery=spec.recovery,
            placement=spec.placement,
            log=lambda sentence: self._session.emit(LogMessage(sentence)),
            placed=lambda place: self._session.emit(place),
            detached=spec.detached,
            restarted=bool(ray.get_runtime_context().was_current_actor_reconstructed),
            make_host=parts.make_host,
            before_chain=parts.before_chain,
        )
        if parts.wrap_backend is not None:
            self._backend = parts.wrap_backend(self._backend)
        self._session = Session(spec, self._backend, spec.checkpoints(), PrometheusMetrics(spec.run).observe)
        self._session.resume_if_committed()
        if spec.detached:
            threading.Thread(target=self._end_when_idle, daemon=True).start()

    @ray.method(concurrency_group="status")
    def begin(self, states: Mapping[str, list[Any]]) -> None:
        """Start a run; `states` holds each reference in a list, so that Ray does not resolve it."""
        self._session.begin({name: reference[0] for name, reference in states.items()})

    @ray.method(concurrency_group="status")
    def update(self, module: str, round: int, step: int) -> None:
        """Update one module, and commit."""
        self._session.update(module, round, step)

    def generate(self, module: str) -> list[Any]:
        """Call ``generate`` of `module`; return the reference to its outputs in a list, so that it is not resolved."""
        with self._session.answering():
            return [self._session.coordinator.generate(module)]

    @ray.method(concurrency_group="status")
    def halt(self, when: Halt) -> None:
        """Make the run stop, with a commit, after the current step or round."""
        self._session.halt(when)

    @ray.method(concurrency_group="status")
    def outcome(self) -> None:
        """Raise the exception that ended the run, if it failed."""
        self._session.outcome()

    @ray.method(concurrency_group="status")
    def stop(self) -> None:
        """End the modules' actors, also during an update."""
        self._session.close()
        self._session.save_events()  # first: who asks for the end may kill this process before the modules have ended
        self._backend.stop()
        self._session.save_events()

    @ray.method(concurrency_group="status")
    def poll(self, since: int, incarnation: str, wait: float) -> tuple[str, list[TimedEvent], dict[str, Any]]:
        """Return the new events and the status (:meth:`actors.coordination.session.Session.poll`).

        The status also has the process id and the node of this process (``pid``, ``node_id``).
        """
        incarnation, events, status = self._session.poll(since, incarnation, wait)
        return incarnation, events, {**status, "pid": os.getpid(), "node_id": self._node_id}

    @ray.method(concurrency_group="status")
    def describe(self) -> dict[str, Any]:
        """Return the place and the activity of every module (``serket inspect``)."""
        node = {"node": ray.util.get_node_ip_address(), "node_id": ray.get_runtime_context().get_node_id()}
        own = {**node, "pid": os.getpid(), "device": "cpu"}
        return {
            COORDINATOR: {**own, **self._session.coordinator.status(), "ended": self._session.ended},
            "modules": self._session.places(),
        }

    def _end_when_idle(self) -> None:
        """End a detached run's actors after the run has ended and no driver polls it any more."""
        myself = ray.get_runtime_context().current_actor
        while not self._session.close_if_idle(self._linger):
            time.sleep(1.0)
        self._session.save_events()
        self._backend.stop()
        self._session.save_events()
        ray.kill(myself)


RemoteCoordinator: Any = ray.remote(
    concurrency_groups={"status": 4}, num_cpus=0, max_restarts=-1, enable_task_events=False
)(CoordinatorActor)
