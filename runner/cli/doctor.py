"""Check that everything that a run needs works on this machine: ``serket doctor``."""

from __future__ import annotations

import ipaddress
import os
import platform
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape

from actors.kernels.path_safety import why_unsafe
from actors.variables import READERS, check_variables, ray_token
from runner.report.console import SafeConsole

Check = Callable[[], str]


class CheckFailedError(RuntimeError):
    """Raised by a check that fails; the message names the problem and the remedy."""


def _python() -> str:
    return f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"


def _variables() -> str:
    """Check that the environment variables that this software reads have values that they can have."""
    check_variables()
    given = [name for name in READERS if os.environ.get(name)]
    return f"environment variables: {', '.join(given)}" if given else "no environment variable is set for this software"


def _memory() -> str:
    total, free = psutil.virtual_memory().total / 2**30, psutil.virtual_memory().available / 2**30
    if free < 2:
        raise CheckFailedError(
            f"{free:.1f} of {total:.1f} GiB memory are free; a run of the default model needs about 2"
        )
    return f"{free:.1f} of {total:.1f} GiB memory are free"


def _shared_memory() -> str:
    path = Path("/dev/shm")
    if not path.exists():
        return "no /dev/shm: Ray's object store is in /tmp"
    free = psutil.disk_usage(str(path)).free / 2**30
    if free < 0.5:
        raise CheckFailedError(f"/dev/shm has {free:.2f} GiB free; Ray's object store needs more (docker: --shm-size)")
    return f"/dev/shm has {free:.1f} GiB free for Ray's object store"


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        return f"torch {torch.__version__} with {torch.cuda.device_count()} GPU ({torch.cuda.get_device_name(0)})"
    return f"torch {torch.__version__}, no GPU: networks are trained on the CPU"


def _kernels() -> str:
    from actors.kernels import jit
    from actors.kernels.mixture import gibbs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every kernel would repeat the warning that is reported below
        gibbs.compile_kernels()
    cache = jit.cache_directory()
    if problem := jit.cache_problem():
        raise CheckFailedError(
            f"kernels compile, but are not cached, so every process compiles them again: {problem}; another user could "
            f"put machine code there, so set SERKET_CACHE_DIR to a directory of your own"
        )
    if not cache.is_dir():
        raise CheckFailedError(
            f"kernels compile, but cannot be cached in {cache}, so every process compiles them again; "
            "set SERKET_CACHE_DIR to a writable directory"
        )
    return f"kernels compiled by numba {version('numba')}, cached in {cache}"


def _token() -> str:
    from runner.cluster.auth import describe_credential, token_path, token_problem, token_required

    if problem := token_problem():
        raise CheckFailedError(problem)
    if not token_required():
        raise CheckFailedError(
            "RAY_AUTH_MODE is disabled: anyone who can reach your cluster can run code on it; set RAY_AUTH_MODE=token"
        )
    path = token_path()
    if ray_token():
        state = ""
    elif path.exists():
        state = f", mode {stat.S_IMODE(path.stat().st_mode):04o}"
    else:
        state = ", which the first run creates"
    return f"token authentication, with {describe_credential()}{state}"


def _files() -> str:
    """Check that other users cannot change the files that a run reads and writes."""
    runs = Path("runs")
    for path in (path for path in (runs, *runs.glob("*"), *runs.glob("*/checkpoints")) if path.is_dir()):
        if path.stat().st_mode & stat.S_IWOTH:
            raise CheckFailedError(f"{path} is writable by every user of this machine; run chmod o-w {path}")
    return "runs/ is not writable by every user" if runs.is_dir() else "there is no runs/ directory yet"


def _state() -> str:
    """Check that other users cannot write the records of running runs."""
    from runner.runs.state import state_directory, state_problem

    path = state_directory()
    if problem := state_problem():
        raise CheckFailedError(
            f"{problem}: other users can say to which cluster your commands connect; correct that, or name a directory "
            "of your own with SERKET_STATE_DIR"
        )
    if not path.exists():
        return f"the state directory is {path}, which the first run creates"
    return f"the state directory {path} is writable by you alone, mode {stat.S_IMODE(path.stat().st_mode):04o}"


def _ray_directory() -> str:
    """Check that Ray's temporary directories are shut to other users: that for runs, and those of running clusters."""
    from actors.backends.ray.temporary import ray_directory

    path = ray_directory()
    if sessions := open_sessions():
        raise CheckFailedError(
            f"{', '.join(sessions)}: other users can replace the code and the sockets of this running Ray; stop it, "
            "and start it with RAY_TMPDIR below a directory of mode 0700 (docs/clusters.md)"
        )
    return f"Ray's temporary directory is {path}, which no other user can enter"


def open_sessions() -> list[str]:
    """Return the session directories of this user's running Ray nodes that other users can write."""
    sessions = set()
    for process in psutil.process_iter(["name", "cmdline", "uids"]):
        if process.info["name"] == "raylet" and process.info["uids"] and process.info["uids"].real == os.getuid():
            sessions |= {
                word.partition("=")[2] for word in process.info["cmdline"] if word.startswith("--session_dir=")
            }
    return sorted(session for session in sessions if why_unsafe(session))


def _ray() -> str:
    from runner.cluster.connection import cluster

    with cluster(None) as address:
        addresses = ", ".join(listening_addresses())
        return f"Ray {version('ray')} starts a cluster ({address}) that listens on {addresses or 'no address'}"


def listening_addresses() -> list[str]:
    """Return where descendants of this process listen, except on loopback addresses, as in ``raylet *:41234``."""
    addresses = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and not _is_loopback(connection.laddr.ip):
                    host = "*" if connection.laddr.ip in ("0.0.0.0", "::") else connection.laddr.ip
                    addresses.add(f"{process.name()} {host}:{connection.laddr.port}")
    return sorted(addresses)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback


CHECKS: tuple[Check, ...] = (
    _python,
    _variables,
    _memory,
    _shared_memory,
    _files,
    _torch,
    _kernels,
    _token,
    _state,
    _ray_directory,
    _ray,
)


def run_checks(console: Console | None = None, checks: tuple[Check, ...] = CHECKS) -> bool:
    """Run every check and print its result.

    Returns
    -------
    bool
        Whether every check passed.
    """
    console = console or SafeConsole(markup=True)
    healthy = True
    for check in checks:
        try:
            console.print(f"[green]ok[/green]    {escape(check())}", highlight=False, soft_wrap=True)
        except Exception as error:
            healthy = False
            console.print(
                f"[red]wrong[/red] {check.__name__.strip('_')}: {escape(str(error))}", highlight=False, soft_wrap=True
            )
    return healthy
