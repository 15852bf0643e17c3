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
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import ray
from ray._private.resource_and_label_spec import ResourceAndLabelSpec
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RpcError
from ray.experimental.internal_kv import internal_kv_get_gcs_client
from ray.job_config import JobConfig

from actors.backends.ray.authentication import requires_token
from actors.backends.ray.lean_start import lean_start
from actors.backends.ray.polling import alive_nodes
from actors.backends.ray.proof import is_proven
from actors.backends.ray.temporary import ray_directory
from actors.coordination.placement import Node
from actors.errors import BackendError
from actors.kernels.path_safety import why_unsafe
from actors.limits import INLINED_BYTES, SHUTDOWN_SECONDS, TOKEN_PROBE_SECONDS
from actors.variables import check_variables, heaps, ray_address, trusts_clusters
from runner.cluster.auth import describe_credential, ensure_private_token, token_required
from runner.cluster.code_paths import directories_of_code
from runner.cluster.errors import ClusterError, UnprovenError
from runner.cluster.listeners import is_own_address, why_foreign
from runner.cluster.machine import describe_limits, machine_problem
from runner.cluster.processes import (
    end_processes,
    find_raylet,
    own_cluster_processes,
    running_cluster_addresses,
)
from runner.cluster.signals import deferred_signals, exit_with_message, ignored_signals
from runner.cluster.watchdog import ClusterWatchdog

POLL_SECONDS = 0.2
PROBE_SECONDS = 5.0
PROOF_SECONDS = 3.0
"""Seconds to wait for the proof of a coordinator that is starting."""

TRUST_VARIABLE = "SERKET_TRUST_CLUSTER"
"""Set to 1 in the environment, it allows to join a cluster of this machine that other users can write to."""

_WORKER_ENVIRONMENT = {
    # Beside another busy process, spinning OpenMP threads were measured to be 3 to 30 times slower than sleeping ones.
    "OMP_WAIT_POLICY": "PASSIVE",
}

OWN_CLUSTER = {"max_direct_call_object_size": INLINED_BYTES}
"""Settings of Ray for a cluster that is started here.

An answer of up to this size comes with the reply of its call, and goes on with the next one. Ray's default is 100 KB;
what is larger lies in shared memory, where every object takes about a millisecond of its daemon to be made, found and
released.
"""

HEAPS = 2
"""Heaps of glibc in a process, unless the user has set a number.

A process of Ray has 30 threads. glibc gives them up to 8 heaps a core, and what one thread frees in its heap the others
cannot use: over 4,000 rounds a coordinator grew by 8 MB, and by 4 MB with two heaps.
"""


class ExpectedRun(NamedTuple):
    """A run whose coordinator must have proved its secret to a cluster before this process joins it."""

    name: str
    secret: str


@contextmanager
def cluster(address: str | None, code: Sequence[str] = (), *, expected: ExpectedRun | None = None) -> Iterator[str]:
    """Join the cluster at `address`, or start one on this machine for the duration of the context.

    A process that is already connected keeps its connection, also after the context.

    Parameters
    ----------
    address : str, optional
    code : sequence of str
        Package directories and module files (see :mod:`runner.config.user_code`) to send to the processes of a cluster
        that is joined; the processes of a cluster that is started here can import them already.
    expected : ExpectedRun, optional
        What the cluster must prove. If it is given, the user has not named the address, so a cluster of another user of
        this machine is refused too, before it receives the token.

    Yields
    ------
    str
        The address of the cluster, by which other processes can join it.

    Raises
    ------
    UnprovenError
        If the cluster does not have the proof.
    VariableError
        If an environment variable has a value that it cannot have.
    ClusterError
        If there is no response at `address`, or the cluster has a different version of Python or Ray, or a
        different token, or if other users can write to its directory on this machine.
    """
    if ray.is_initialized():
        _check_proof(internal_kv_get_gcs_client(), address, expected)
        yield str(ray.get_runtime_context().gcs_address)
        return
    check_variables()
    address = None if address == "local" else address  # Ray's own name for a cluster started here
    if problem := machine_problem():
        raise ClusterError(
            f"no Ray cluster can be {'reached from' if address else 'started on'} this machine: {problem}"
        )
    if address is not None:
        address = _resolve_address(address, named=expected is None)
    os.environ.update(worker_environment())
    try:
        ensure_private_token(create=address is None)
        with deferred_signals(), _no_sigterm_handler():
            _start_or_join(address, code, expected)
    except KeyboardInterrupt:
        _shut_down(own=address is None)
        raise
    except ClusterError:
        raise
    except Exception as error:  # Ray raises bare ones
        where = f"reached at {address}" if address else "started on this machine"
        raise ClusterError(f"no Ray cluster could be {where}: {_failure_reason(error, own=address is None)}") from error
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        _shut_down(own=address is None)


def worker_environment() -> dict[str, str]:
    """Return the environment variables of all processes of a run; a number of heaps that the user has set is kept."""
    return {**_WORKER_ENVIRONMENT, "MALLOC_ARENA_MAX": str(heaps(HEAPS))}


def _start_or_join(address: str | None, code: Sequence[str], expected: ExpectedRun | None) -> None:
    """Start a cluster, or join one after it was examined: nothing that it says is unpickled before."""
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "job_config": JobConfig(),
    }
    quiet["job_config"]._py_driver_sys_path = directories_of_code()  # the constructor takes no empty list
    if address is None:
        with _without_stop_signals(), lean_start():
            ray.init(
                address="local",
                include_dashboard=False,
                _temp_dir=ray_directory(),
                _system_config=OWN_CLUSTER,
                **quiet,
            )
        return
    _check_token_mode(address)
    # Fails at once if the cluster rejects this process; `ray.init` would retry, and log, for 20 seconds.
    client = GcsClient(address=address)
    _check_proof(client, address, expected)
    _check_directories(client, address)
    runtime_env: dict[str, Any] = {"env_vars": worker_environment()}
    if code:
        runtime_env["py_modules"] = list(code)
    ray.init(address=address, runtime_env=runtime_env, **quiet)


@contextmanager
def _without_stop_signals() -> Iterator[None]:
    """Block SIGTERM and SIGHUP, so that the processes which are started here have them blocked.

    A batch system sends SIGTERM, and a terminal that is closed SIGHUP, to all processes of a run at once. Ray's would
    end, and with them what the run has learnt since its last commit; this process ends them after the next commit.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        node = ray._private.worker._global_node
        for processes in node.all_processes.values() if node is not None else ():
            for each in processes:  # `ray.shutdown` would wait for the effect of a signal that they do not receive
                each.process.terminate = each.process.kill


def _check_token_mode(address: str) -> None:
    """Check that a cluster requires a token if this process has one; it would not trust the cluster's own requests.

    Raises
    ------
    ClusterError
        If the cluster requires none.
    """
    if token_required() and requires_token(address, TOKEN_PROBE_SECONDS) is False:
        raise ClusterError(
            f"the Ray cluster at {address} requires no token, so everybody who reaches it can run code on it, while "
            "this command uses one: start each node with RAY_AUTH_MODE=token and the same token (docs/clusters.md), or "
            "run this command with RAY_AUTH_MODE=disabled to use the cluster as it is"
        )


def _check_proof(client: Any, address: str | None, expected: ExpectedRun | None) -> None:
    """Check that a cluster has the proof of the coordinator of a run.

    Raises
    ------
    UnprovenError
        If it has not.
    """
    if expected is not None and not is_proven(client, expected.secret, expected.name, wait=PROOF_SECONDS):
        raise UnprovenError(
            f"the cluster at {address} does not prove that it is the one on which {expected.name} was started, so "
            "nothing from it is used"
        )


_SHARED_FOLDERS = ("", "sockets", "runtime_resources", "runtime_resources/py_modules_files", "logs")
"""Folders of Ray's session directory to which Ray gives mode 0777."""


_ALIVE = 0
"""State of a node that has not died, in Ray's ``GcsNodeInfo``."""


def _check_directories(client: Any, address: str) -> None:
    """Check that other users cannot write to the session directories of a cluster's nodes on this machine.

    Raises
    ------
    ClusterError
        If they can.
    """
    if trusts_clusters():
        return
    for node in client.get_all_node_info(timeout=PROBE_SECONDS).values():
        session = getattr(node, "session_dir", "")
        if node.state != _ALIVE or not session or not is_own_address(node.node_manager_address):
            continue
        reason = next(filter(None, (why_unsafe(os.path.join(session, name)) for name in _SHARED_FOLDERS)), "")  # noqa: PTH118
        if reason:
            raise ClusterError(
                f"the Ray cluster at {address} is not joined: {reason}, so that other users can replace the code of a "
                "run; start it with RAY_TMPDIR below a directory of mode 0700 (docs/clusters.md), or set "
                f"{TRUST_VARIABLE}=1 if you trust every user of this machine"
            )


def _resolve_address(address: str, *, named: bool = True) -> str:
    """Return the address to join, with "auto" replaced by the address of the cluster on this machine.

    Ray would look for "auto" in a file of its temporary directory and among the processes of all users, where another
    user could lead this process to a cluster of theirs, or let it wait.

    Parameters
    ----------
    address : str
    named : bool
        Whether the user has named the address; otherwise a process of another user that listens there is refused.

    Raises
    ------
    ClusterError
        If no run can be started at the address. Ray itself would retry for minutes and then exit this process.
    """
    reason, resolved = "", address
    if address == "auto":
        given = ray_address()
        named = given not in ("", "auto", "local")
        resolved = given if named else next(iter(running_cluster_addresses()), address)
    if resolved == "auto":
        reason = "no Ray cluster of yours is running on this machine; give the head node's address, HOST:6379"
    elif resolved.startswith("ray://"):
        reason = "ray:// addresses are for Ray Client, which cannot drive a run; give the head node's own, HOST:6379"
    elif not re.fullmatch(r".*:\d+", resolved):
        reason = "expected an address of the form HOST:PORT, for instance the head node's HOST:6379"
    elif not named and (foreign := why_foreign(resolved)):
        reason = f"{foreign}; name {resolved} with --address to join it anyway"
    elif not is_listening(resolved):
        reason = "no process is listening there"
        if resolved != address:
            reason = f"no process is listening at {resolved}, the address of a node of Ray on this machine"
    if reason:
        raise ClusterError(f"no Ray cluster could be reached at {address}: {reason}")
    return resolved


def _failure_reason(error: Exception, *, own: bool) -> str:
    """Return why the connection to a cluster, or the start of one's own, failed."""
    if isinstance(error, AuthenticationError):
        return f"it rejects {describe_credential()}; give the cluster's own with RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
    if isinstance(error, RpcError):
        return f"a process is listening there, but it does not respond as Ray ({error})"
    if not own or isinstance(error, BackendError):
        return str(error)
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    limits = describe_limits()
    return f"{reason.rstrip('.')}; {f'{limits}; ' if limits else ''}serket doctor checks this machine"


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
def _no_sigterm_handler() -> Iterator[None]:
    """Keep `ray.init` from handling SIGTERM, which it would do by exiting this process silently."""
    original = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = original


def _shut_down(*, own: bool) -> None:
    """Leave the cluster; if this process has started it, end it, with the processes that do not react to that.

    Ray waits for ever for a control service that is stopped. Where that is not ours to end, this process ends.
    """
    processes = own_cluster_processes() if own else set()
    silent = "serket: the Ray cluster does not answer, so this command ends without it; all that it wrote is complete"
    action = partial(end_processes, processes, 0.0) if own else partial(exit_with_message, silent)
    overdue = threading.Timer(SHUTDOWN_SECONDS, action)
    overdue.daemon = True
    with ignored_signals():
        overdue.start()
        try:
            ray.shutdown()
        finally:
            overdue.cancel()
        end_processes(processes, POLL_SECONDS)


def make_watchdog(*, own: bool) -> ClusterWatchdog:
    """Return what watches the cluster that this process has joined or, if `own`, started."""
    address = str(ray.get_runtime_context().gcs_address)
    node = ray._private.worker.global_worker.node
    socket = str(node.raylet_socket_name) if node is not None else ""
    raylet = find_raylet(socket) if socket else 0
    return ClusterWatchdog(own=own, raylet=raylet, answers=lambda: is_answering(address), socket_name=socket)


def is_answering(address: str) -> bool:
    """Return whether the control service of the cluster that this process has joined answers.

    One that is stopped still accepts connections, and one that is gone accepts none, so both are tried.
    """
    if not is_listening(address):
        return False
    try:
        internal_kv_get_gcs_client().get_all_node_info(timeout=PROBE_SECONDS)
    except Exception:  # Ray raises several kinds of exception for a timeout or a lost connection
        return False
    return True


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
