"""What prevents Ray from starting on this machine, found out before it is started.

Ray itself would wait for half a minute or longer for its own processes, and then report no cause.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psutil

from actors.limits import LOOPBACK_SECONDS

SHARED_MEMORY = Path("/dev/shm")
"""Where Ray keeps its objects on Linux."""


def machine_problem() -> str:
    """Return what prevents Ray from starting here, with the remedy; empty if nothing is known to."""
    return _optimised_python() or _home() or _shared_memory() or _loopback()


def _optimised_python() -> str:
    """Ray's modules change their own docstrings, which Python leaves out at this level of optimisation."""
    if sys.flags.optimize < 2:
        return ""
    return "Python runs without docstrings, which Ray needs: unset PYTHONOPTIMIZE, and start Python without -OO"


def _home() -> str:
    try:
        Path.home()
    except RuntimeError:
        return f"the user {os.geteuid()} of this process has no home directory: set HOME to a directory of your own"
    return ""


def _shared_memory() -> str:
    if not SHARED_MEMORY.is_dir() or os.access(SHARED_MEMORY, os.W_OK):
        return ""
    return (
        f"{SHARED_MEMORY}, where Ray keeps its objects, is not writable: mount it writable for every user "
        f"(mount -o remount,rw {SHARED_MEMORY}; in a container --shm-size=1g)"
    )


def _loopback() -> str:
    """Ray's processes connect to each other by this machine's own addresses."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=LOOPBACK_SECONDS).close()
    except OSError as error:
        return (
            f"this machine cannot connect to itself at 127.0.0.1 ({error.strerror or error}), as Ray's processes do: "
            "bring the loopback interface up (ip link set lo up), or permit it in the firewall"
        )
    return ""


def describe_limits() -> str:
    """Return the limits of this machine that may have prevented the start of Ray; empty if there are none."""
    limits = []
    soft = psutil.Process().rlimit(psutil.RLIMIT_AS)[0] if hasattr(psutil, "RLIMIT_AS") else -1
    if soft > 0:
        limits.append(f"a process may use {soft / 2**30:.1f} GiB of virtual memory (ulimit -v), Ray needs 8 or more")
    free = psutil.virtual_memory().available / 2**30
    if free < 1.0:
        limits.append(f"{free:.2f} GiB memory are free")
    return ", ".join(limits)
