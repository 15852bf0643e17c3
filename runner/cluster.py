"""The Ray cluster that a run lives on: started here or joined, and the run's coordinator on it."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

# Ray reads its environment when it is imported. A local cluster asks for a token by itself; a driver that joins one
# must say beforehand that it brings a token.
if "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray._private.services import canonicalize_bootstrap_address
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from actors.checkpoint import CheckpointError
from actors.coordinator import Halt
from actors.graph import GraphError
from actors.module import State
from actors.placement import Node
from actors.ray_coordinator import COORDINATOR, RemoteCoordinator, namespace_of
from actors.ray_metrics import Meter
from actors.ray_placement import nodes
from actors.recovery import ModuleFailedError, Recovery
from actors.session import Event, Plan, update_job
from actors.storage import StorageError
from actors.transport import TransportError
from runner.security import credential, private_token

POLL_SECONDS = 0.2
PROBE_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""After so long a coordinator that has not answered is asked again: an answer can be lost with a link."""

# Spinning OpenMP threads beside another busy process were seen to be 3 to 30 times slower than sleeping ones.
_WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class ClusterError(RuntimeError):
    """There is no such cluster, or it cannot give what was asked."""


class CoordinatorGoneError(ModuleFailedError):
    """A run's coordinator was ended for good."""


@contextmanager
def cluster(address: str | None, code: Sequence[str] = ()) -> Iterator[str]:
    """Join the cluster at `address`, or start one on this machine for as long as the context lasts.

    A process that is in a cluster already stays in that one, and leaves it as it was.

    Parameters
    ----------
    address : str, optional
    code : sequence of str
        Packages' directories and modules' files (:func:`runner.shipping.code_of`): the processes of a cluster that is
        joined get them from here, those of one that is started here have them.

    Yields
    ------
    str
        The cluster's address, with which another process can join.

    Raises
    ------
    ClusterError
        If nothing answers at `address`, or what answers has another version of Python or Ray, or another token.
    """
    if ray.is_initialized():
        yield str(ray.get_runtime_context().gcs_address)
        return
    address = None if address == "local" else address  # so Ray calls one that is started here
    if address is not None:
        address = _looked_at(address)
    os.environ.update(_WORKER_ENVIRONMENT)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        private_token(make=address is None)
        with _sigterm_left_alone():
            if address is None:
                ray.init(address="local", include_dashboard=False, **quiet)
            else:
                brought: dict[str, Any] = {"env_vars": _WORKER_ENVIRONMENT}
                if code:
                    brought["py_modules"] = list(code)
                ray.init(address=address, runtime_env=brought, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = f"reached at {address}" if address else "started on this machine"
        strange = address and isinstance(error, ConnectionError)
        why = f"; somebody listens there, but perhaps no Ray, or one that refuses {credential()}"
        raise ClusterError(f"no Ray cluster could be {where}: {error}{why if strange else ''}") from error
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def _looked_at(address: str) -> str:
    """Return an address as it is to be joined, with "auto" found.

    One where no run can go is refused: Ray would look for minutes, and then end this process.
    """
    why, found = "", address
    if address == "auto":
        with suppress(ConnectionError):
            found = str(canonicalize_bootstrap_address(address))
    if found == "auto":
        why = "no Ray runs on this machine; give the head's HOST:6379"
    elif address.startswith("ray://"):
        why = "that is a door for Ray's client, through which no run can be driven; give the head's own, HOST:6379"
    elif not re.fullmatch(r".*:\d+", found):
        why = "an address is HOST:PORT, as the head's HOST:6379"
    elif not answers(found):
        why = (
            "nobody listens there" if found == address else f"nobody listens at {found}, which Ray was last started on"
        )
    if why:
        raise ClusterError(f"no Ray cluster could be reached at {address}: {why}")
    return found


def await_nodes(count: int, seconds: float, tell: Callable[[str], None]) -> None:
    """Wait until the cluster has so many nodes.

    Parameters
    ----------
    count : int
    seconds : float
        For so long at most.
    tell : callable
        Receives a sentence where there is something to wait for.

    Raises
    ------
    ClusterError
        If there are fewer still.
    """
    until, told = time.monotonic() + seconds, False
    while (there := len(nodes())) < count:
        if time.monotonic() > until:
            raise ClusterError(
                f"cluster.nodes asks for {count}, and after {seconds:g} s (recovery.wait) the cluster has {there}: "
                "start more nodes, or ask for fewer"
            )
        if not told:
            tell(f"waiting for {count} nodes: {there} are there")
            told = True
        time.sleep(POLL_SECONDS)


def cluster_nodes() -> list[Node]:
    """Return the nodes of the cluster that this process has joined."""
    return nodes()


def this_machine() -> Node:
    """Return this machine as the one node of a cluster that Ray would start here."""
    spec = ResourceAndLabelSpec().resolve(is_head=True)
    total = spec.to_resource_dict()
    return Node(f"{platform.node()} (this machine)", total, total, dict(spec.labels or {}))


@contextmanager
def _sigterm_left_alone() -> Iterator[None]:
    """Keep what this process does about SIGTERM: `ray.init` would have it exit without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGTERM, before)


def answers(address: str) -> bool:
    """Whether anybody listens at an address; of one without a port ("auto"), nobody knows."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


Stream: TypeAlias = Iterator[tuple[list[Event], dict[str, Any]]]
"""New events, and where the run stands, several times a second."""


def metered(run: str) -> Callable[[str, Mapping[str, Any]], None]:
    """Return what makes metrics of the events that the driver knows of alone, on the cluster that it has joined."""
    return Meter(run).take


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
        """Say how the run ended (:meth:`actors.session.Session.poll`); empty while it goes on."""
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


_PLAIN = (ModuleFailedError, GraphError, TransportError, CheckpointError, StorageError, OSError)
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
