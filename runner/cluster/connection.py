"""The Ray cluster that a run lives on: started here, or joined."""

from __future__ import annotations

import os
import platform
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError, RpcError

from actors.backends.ray.polling import alive
from actors.coordination.placement import Node
from runner.cluster.auth import credential, private_token

POLL_SECONDS = 0.2
PROBE_SECONDS = 5.0

# Spinning OpenMP threads beside another busy process were seen to be 3 to 30 times slower than sleeping ones.
_WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class ClusterError(RuntimeError):
    """There is no such cluster, or it cannot give what was asked."""


@contextmanager
def cluster(address: str | None, code: Sequence[str] = ()) -> Iterator[str]:
    """Join the cluster at `address`, or start one on this machine for as long as the context lasts.

    A process that is in a cluster already stays in that one, and leaves it as it was.

    Parameters
    ----------
    address : str, optional
    code : sequence of str
        Packages' directories and modules' files (:func:`runner.config.shipping.code_of`): the processes of a cluster
        that is joined get them from here, those of one that is started here have them.

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
                # Where this process is refused, `ray.init` would try for 20 seconds, and say much meanwhile.
                GcsClient(address=address)
                brought: dict[str, Any] = {"env_vars": _WORKER_ENVIRONMENT}
                if code:
                    brought["py_modules"] = list(code)
                ray.init(address=address, runtime_env=brought, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = f"reached at {address}" if address else "started on this machine"
        raise ClusterError(f"no Ray cluster could be {where}: {_why(error)}") from error
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


def _why(error: Exception) -> str:
    """Say why there is no cluster."""
    if isinstance(error, AuthenticationError):
        return f"it refuses {credential()}; give the cluster's own, by RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
    if isinstance(error, RpcError):
        return f"somebody listens there, but no Ray answers ({error})"
    return str(error)


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
    while (there := len(alive())) < count:
        if time.monotonic() > until:
            raise ClusterError(
                f"cluster.nodes asks for {count}, and after {seconds:g} s (recovery.wait) the cluster has {there}: "
                "start more nodes, or ask for fewer"
            )
        if not told:
            tell(f"waiting for {count} nodes: {there} are there")
            told = True
        time.sleep(POLL_SECONDS)


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
