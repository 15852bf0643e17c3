"""The actor around a run's session."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray

from actors.backends.fault_injection import Injector, MortalCheckpoints, MortalTransport
from actors.backends.ray.backend import RayTransport
from actors.backends.ray.metrics import Meter
from actors.coordination.coordinator import Halt
from actors.coordination.session import Event, Plan, Session
from actors.errors import BackendError
from actors.messaging.message import SCHEMA

COORDINATOR = "coordinator"
LINGER_SECONDS = float(os.environ.get("SERKET_LINGER_SECONDS", "30"))
"""So long a detached run that has ended waits for somebody to ask how."""


def namespace_of(run: str) -> str:
    """Return the Ray namespace in which the actors of `run` have their names."""
    return f"serket:{run}"


class CoordinatorActor:
    """A Ray actor around one :class:`actors.coordination.session.Session`; a second thread answers :meth:`poll`."""

    def __init__(self, plan: Plan) -> None:
        if plan.schema != SCHEMA:
            raise BackendError(
                f"the coordinator speaks messages of schema {SCHEMA} on this cluster, the driver those of schema "
                f"{plan.schema}: install the same serket-actors on both"
            )
        injector = Injector.of(plan.faults, plan.root)
        self._transport: Any = RayTransport(
            namespace_of(plan.run),
            recovery=plan.recovery,
            placement=plan.placement,
            log=lambda sentence: self._session.emit("log", {"message": sentence}),
            detached=plan.detached,
            again=bool(ray.get_runtime_context().was_current_actor_reconstructed),
            injector=injector,
        )
        checkpoints = plan.checkpoints()
        if injector is not None and plan.root is not None:
            self._transport = MortalTransport(self._transport, injector)
            checkpoints = MortalCheckpoints(plan.root, plan.keep, injector)
        self._session = Session(plan, self._transport, checkpoints, Meter(plan.run).take)
        self._session.take_up()
        if plan.detached:
            threading.Thread(target=self._leave, daemon=True).start()

    @ray.method(concurrency_group="status")
    def begin(self, states: Mapping[str, list[Any]]) -> None:
        """Begin a run; `states` holds each reference in a list, so that it arrives as a reference."""
        self._session.begin({name: reference[0] for name, reference in states.items()})

    @ray.method(concurrency_group="status")
    def update(self, module: str, round: int, step: int) -> None:
        """Let one module learn, and commit."""
        self._session.update(module, round, step)

    def generate(self, module: str) -> list[Any]:
        """Ask `module` for a generation; its outputs as a reference in a list, so that it leaves as a reference."""
        self._session.poll(0, "")  # somebody is there
        return [self._session.coordinator.generate(module)]

    @ray.method(concurrency_group="status")
    def halt(self, when: Halt) -> None:
        """Have the run stop, with a commit, after the step or the round that is being taken."""
        self._session.halt(when)

    @ray.method(concurrency_group="status")
    def outcome(self) -> None:
        """Raise what ended the run, if it failed."""
        self._session.outcome()

    @ray.method(concurrency_group="status")
    def stop(self) -> None:
        """End the modules' actors, in the middle of an update too."""
        self._session.close()
        self._transport.stop()
        self._session.leave_word()

    @ray.method(concurrency_group="status")
    def poll(self, since: int, life: str, wait: float) -> tuple[str, list[Event], dict[str, Any]]:
        """Return what is new (:meth:`actors.coordination.session.Session.poll`)."""
        return self._session.poll(since, life, wait)

    @ray.method(concurrency_group="status")
    def describe(self) -> dict[str, Any]:
        """Say where every module lives and what it does now (:func:`serket inspect`)."""
        node = {"node": ray.util.get_node_ip_address(), "node_id": ray.get_runtime_context().get_node_id()}
        own = {**node, "pid": os.getpid(), "device": "cpu"}
        return {
            COORDINATOR: {**own, **self._session.coordinator.status(), "ended": self._session.ended},
            "modules": self._session.places(),
        }

    def _leave(self) -> None:
        """Once a detached run has ended and nobody asks how, leave nothing of it on the cluster."""
        myself = ray.get_runtime_context().current_actor
        while not self._session.abandoned(LINGER_SECONDS):
            time.sleep(1.0)
        self._transport.stop()
        self._session.leave_word()
        ray.kill(myself)


RemoteCoordinator: Any = ray.remote(concurrency_groups={"status": 4}, num_cpus=0, max_restarts=-1)(CoordinatorActor)
