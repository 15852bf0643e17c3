"""Connect to a Ray cluster: start one on this machine, or join an existing one."""

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

from actors.backends.ray.polling import alive_nodes
from actors.coordination.placement import Node
from runner.cluster.auth import describe_credential, ensure_private_token

POLL_SECONDS = 0.2
PROBE_SECONDS = 5.0

# Beside another busy process, spinning OpenMP threads were measured to be 3 to 30 times slower than sleeping ones.
_WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}


class ClusterError(RuntimeError):
    """Raised when a cluster cannot be reached or does not have the requested resources."""


@contextmanager
def cluster(address: str | None, code: Sequence[str] = ()) -> Iterator[str]:
    """Join the cluster at `address`, or start one on this machine for the duration of the context.

    A process that is already connected keeps its connection, also after the context.

    Parameters
    ----------
    address : str, optional
    code : sequence of str
        Package directories and module files (see :mod:`runner.config.user_code`) to send to the processes of a cluster
        that is joined; the processes of a cluster that is started here can import them already.

    Yields
    ------
    str
        The address of the cluster, by which other processes can join it.

    Raises
    ------
    ClusterError
        If there is no response at `address`, or the cluster has a different version of Python or Ray, or a
        different token.
    """
    if ray.is_initialized():
        yield str(ray.get_runtime_context().gcs_address)
        return
    address = None if address == "local" else address  # Ray's own name for a cluster started here
    if address is not None:
        address = _resolve_address(address)
    os.environ.update(_WORKER_ENVIRONMENT)
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ensure_private_token(create=address is None)
        with _keep_sigterm_handler():
            if address is None:
                ray.init(address="local", include_dashboard=False, **quiet)
            else:
                # Fails at once if the cluster rejects this process; `ray.init` would retry, and log, for 20 seconds.
                GcsClient(address=address)
                runtime_env: dict[str, Any] = {"env_vars": _WORKER_ENVIRONMENT}
                if code:
                    runtime_env["py_modules"] = list(code)
                ray.init(address=address, runtime_env=runtime_env, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = f"reached at {address}" if address else "started on this machine"
        raise ClusterError(f"no Ray cluster could be {where}: {_failure_reason(error)}") from error
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def _resolve_address(address: str) -> str:
    """Return the address to join, with "auto" replaced by the address of the cluster on this machine.

    Raises
    ------
    ClusterError
        If no run can be started at the address. Ray itself would retry for minutes and then exit this process.
    """
    reason, resolved = "", address
    if address == "auto":
        with suppress(ConnectionError):
            resolved = str(canonicalize_bootstrap_address(address))
    if resolved == "auto":
        reason = "no Ray cluster is running on this machine; give the head node's address, HOST:6379"
    elif address.startswith("ray://"):
        reason = "ray:// addresses are for Ray Client, which cannot drive a run; give the head node's own, HOST:6379"
    elif not re.fullmatch(r".*:\d+", resolved):
        reason = "expected an address of the form HOST:PORT, for instance the head node's HOST:6379"
    elif not is_listening(resolved):
        reason = "no process is listening there"
        if resolved != address:
            reason = f"no process is listening at {resolved}, where Ray was last started"
    if reason:
        raise ClusterError(f"no Ray cluster could be reached at {address}: {reason}")
    return resolved


def _failure_reason(error: Exception) -> str:
    """Return why the connection to a cluster failed."""
    if isinstance(error, AuthenticationError):
        return f"it rejects {describe_credential()}; give the cluster's own with RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
    if isinstance(error, RpcError):
        return f"a process is listening there, but it does not respond as Ray ({error})"
    return str(error)


def await_nodes(count: int, seconds: float, report: Callable[[str], None]) -> None:
    """Wait until the cluster has `count` nodes.

    Parameters
    ----------
    count : int
    seconds : float
        Timeout.
    report : callable
        Called once with a sentence for the user if there are too few nodes at first.

    Raises
    ------
    ClusterError
        If the cluster still has fewer nodes after the timeout.
    """
    deadline, reported = time.monotonic() + seconds, False
    while (present := len(alive_nodes())) < count:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"cluster.nodes asks for {count}, and after {seconds:g} s (recovery.wait) the cluster has {present}: "
                "start more nodes, or ask for fewer"
            )
        if not reported:
            report(f"waiting for {count} nodes: the cluster has {present}")
            reported = True
        time.sleep(POLL_SECONDS)


def this_machine() -> Node:
    """Return this machine as the single node of a cluster that Ray would start here."""
    spec = ResourceAndLabelSpec().resolve(is_head=True)
    total = spec.to_resource_dict()
    return Node(f"{platform.node()} (this machine)", total, total, dict(spec.labels or {}))


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which `ray.init` replaces by one that exits this process silently."""
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


def is_listening(address: str) -> bool:
    """Return whether a process listens at an address; True for an address without a port ("auto")."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True
