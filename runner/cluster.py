"""The Ray cluster that a run lives on: started here or joined, and the run's coordinator on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Ray reads its environment when it is imported. A local cluster asks for a token by itself; a driver that joins one
# must say beforehand that it brings a token.
if "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from actors.graph import Graph, GraphError
from actors.module import State
from actors.ray_actors import COORDINATOR, ModuleFailedError, RemoteCoordinator, namespace_of
from actors.transport import TransportError

Event = tuple[str, float, dict[str, Any]]
POLL_SECONDS = 0.2

# Spinning OpenMP threads beside another busy process were seen to be 3 to 30 times slower than sleeping ones.
_WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class ClusterError(RuntimeError):
    """There is no such cluster, or it cannot give what was asked."""


@contextmanager
def cluster(address: str | None) -> Iterator[str]:
    """Join the cluster at `address`, or start one on this machine for as long as the context lasts.

    A process that is in a cluster already stays in that one, and leaves it as it was.

    Yields
    ------
    str
        The cluster's address, with which another process can join.

    Raises
    ------
    ClusterError
        If nothing answers at `address`.
    """
    if ray.is_initialized():
        yield str(ray.get_runtime_context().gcs_address)
        return
    os.environ.update(_WORKER_ENVIRONMENT)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, runtime_env={"env_vars": _WORKER_ENVIRONMENT}, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = f"reached at {address}" if address else "started on this machine"
        raise ClusterError(f"no Ray cluster could be {where}: {error}") from error
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


@dataclass
class RunningModel:
    """A run's coordinator, seen from the driver.

    Parameters
    ----------
    coordinator : actor handle
    """

    coordinator: Any
    _seen: int = 0

    @classmethod
    def launch(cls, graph: Graph, run: str, seed: int, checkpoints: str | None) -> RunningModel:
        """Start the coordinator's actor on the cluster that this process has joined."""
        options = {"name": COORDINATOR, "namespace": namespace_of(run)}
        try:
            return cls(RemoteCoordinator.options(**options).remote(graph, run, seed, checkpoints))
        except ValueError as error:
            raise ClusterError(f"a run called {run} is on this cluster already; choose another --name") from error

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

    def start(self, states: Mapping[str, State]) -> Iterator[tuple[list[Event], dict[str, Any]]]:
        """Bring the modules to life; `states` hold the sources' data."""
        references = {name: [ray.put(state)] for name, state in states.items()}
        yield from self._follow(self.coordinator.start.remote(references))

    def run_rounds(self) -> Iterator[tuple[list[Event], dict[str, Any]]]:
        """Run all rounds; yields the new events and where the run stands, several times a second, until it is done."""
        yield from self._follow(self.coordinator.run_rounds.remote())

    def update(self, module: str, round: int, step: int) -> Iterator[tuple[list[Event], dict[str, Any]]]:
        """Let one module learn."""
        yield from self._follow(self.coordinator.update.remote(module, round, step))

    def generate(self, module: str) -> dict[str, Any]:
        """Return the outputs of `module` on the way down."""
        outputs: dict[str, Any] = _get(_get(self.coordinator.generate.remote(module))[0])
        return outputs

    def describe(self) -> dict[str, Any]:
        """Say where every module lives and what it does now."""
        described: dict[str, Any] = _get(self.coordinator.describe.remote(), timeout=30)
        return described

    def stop(self) -> None:
        """End the modules' actors and the coordinator's."""
        _get(self.coordinator.stop.remote())
        ray.kill(self.coordinator)

    def _follow(self, done: Any) -> Iterator[tuple[list[Event], dict[str, Any]]]:
        finished = False
        while not finished:
            finished = bool(ray.wait([done], timeout=POLL_SECONDS)[0])
            events, status = _get(self.coordinator.poll.remote(self._seen), timeout=60)
            self._seen += len(events)
            yield events, status
        _get(done)


def _get(reference: Any, timeout: float | None = None) -> Any:
    """Return what a call on the coordinator gave, its own errors as themselves."""
    try:
        return ray.get(reference, timeout=timeout)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ModuleFailedError | GraphError | TransportError | OSError):
            raise cause from None
        raise
    except RayActorError as error:
        raise ModuleFailedError(f"the coordinator died\n{error}") from error
    except GetTimeoutError as error:
        raise ModuleFailedError(f"the coordinator did not answer within {timeout:g} seconds") from error
