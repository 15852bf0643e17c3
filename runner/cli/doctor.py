"""``serket doctor``: checks that everything that a run needs works here."""

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

Check = Callable[[], str]


class UnwellError(RuntimeError):
    """A check that failed; says what to do."""


def _python() -> str:
    return f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"


def _memory() -> str:
    total, free = psutil.virtual_memory().total / 2**30, psutil.virtual_memory().available / 2**30
    if free < 2:
        raise UnwellError(f"{free:.1f} of {total:.1f} GiB memory are free; a run of the default model needs about 2")
    return f"{free:.1f} of {total:.1f} GiB memory are free"


def _shared_memory() -> str:
    path = Path("/dev/shm")
    if not path.exists():
        return "no /dev/shm: Ray's object store lies in /tmp"
    free = psutil.disk_usage(str(path)).free / 2**30
    if free < 0.5:
        raise UnwellError(f"/dev/shm has {free:.2f} GiB free; Ray's object store wants more (docker: --shm-size)")
    return f"/dev/shm has {free:.1f} GiB free for Ray's object store"


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        return f"torch {torch.__version__} with {torch.cuda.device_count()} GPU ({torch.cuda.get_device_name(0)})"
    return f"torch {torch.__version__}, no GPU: networks learn on the CPU"


def _kernels() -> str:
    from actors.kernels import jit
    from actors.kernels.mixture import gibbs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each kernel warns of what is said once here
        gibbs.compile_kernels()
    kept = jit.cache_directory()
    if not kept.is_dir():
        raise UnwellError(
            f"kernels compile, but cannot be kept in {kept}: every process compiles them anew; "
            "name a directory that can be written by SERKET_CACHE_DIR"
        )
    return f"kernels compiled by numba {version('numba')}, cached in {kept}"


def _token() -> str:
    from runner.cluster.auth import asks_for_token, credential, token_fault, token_path

    if fault := token_fault():
        raise UnwellError(fault)
    if not asks_for_token():
        raise UnwellError(
            f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']}: whoever reaches a cluster of yours can run code on it; "
            "say RAY_AUTH_MODE=token"
        )
    path = token_path()
    if os.environ.get("RAY_AUTH_TOKEN"):
        state = ""
    elif path.exists():
        state = f", mode {stat.S_IMODE(path.stat().st_mode):04o}"
    else:
        state = ", which the first run makes"
    return f"token authentication, with {credential()}{state}"


def _files() -> str:
    """Look at who else could change what a run loads or leaves."""
    runs = Path("runs")
    for path in (path for path in (runs, *runs.glob("*"), *runs.glob("*/checkpoints")) if path.is_dir()):
        if path.stat().st_mode & stat.S_IWOTH:
            raise UnwellError(f"{path} can be written by everybody on this machine; say chmod o-w {path}")
    return "runs/ is not open to everybody's writing" if runs.is_dir() else "no runs/ here yet"


def _ray() -> str:
    from runner.cluster.connection import cluster

    with cluster(None) as address:
        heard = ", ".join(listening())
        return f"Ray {version('ray')} starts a cluster ({address}); while it lasts it listens on {heard or 'nothing'}"


def listening() -> list[str]:
    """Return where this process's descendants listen, but for loopback addresses: ``raylet *:41234``."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and not _loopback(connection.laddr.ip):
                    host = "*" if connection.laddr.ip in ("0.0.0.0", "::") else connection.laddr.ip
                    found.add(f"{process.name()} {host}:{connection.laddr.port}")
    return sorted(found)


def _loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback


CHECKS: tuple[Check, ...] = (_python, _memory, _shared_memory, _files, _torch, _kernels, _token, _ray)


def examine(console: Console | None = None, checks: tuple[Check, ...] = CHECKS) -> bool:
    """Run every check and print what it says.

    Returns
    -------
    bool
        Whether all is well.
    """
    console = console or Console()
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
