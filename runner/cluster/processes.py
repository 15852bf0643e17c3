"""The processes of the Ray cluster that this process has started, so that none of them is left over."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress

import psutil

_ROOTS = ("raylet", "gcs_server")
"""Ray's own processes, children of the process that starts a cluster."""


def own_cluster_processes() -> set[psutil.Process]:
    """Return the processes of the cluster that this process has started: Ray's own, its agents and its workers."""
    found: set[psutil.Process] = set()
    with suppress(psutil.Error):
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                if child.name() in _ROOTS:
                    found |= {child, *child.children(recursive=True)}
    return found


def find_raylet(socket_name: str) -> int:
    """Return the process id of the raylet with this socket on this machine; 0 if it is not found.

    A process that the raylet has just forked has the same name and arguments until it becomes a worker: the oldest one
    is the raylet.
    """
    found: dict[int, float] = {}
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == "raylet" and f"--raylet_socket_name={socket_name}" in process.cmdline():
                found[process.pid] = process.create_time()
    return min(found, key=lambda pid: found[pid], default=0)


def processes_of(socket_name: str) -> set[psutil.Process]:
    """Return the processes that name a raylet's socket: the raylet, its agents, and workers that are being started.

    Workers that are being started notice the end of their raylet late, and have no parent then that tells whose they
    are. A worker that has started has another name, and ends with its raylet.
    """
    found: set[psutil.Process] = set()
    for process in psutil.process_iter() if socket_name else ():
        with suppress(psutil.Error):
            if any(word.endswith(f"={socket_name}") for word in process.cmdline()):
                found.add(process)
    return found


def running_cluster_addresses() -> list[str]:
    """Return the addresses of the clusters of which a raylet of this user or of root runs here, the newest first."""
    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == "raylet" and process.uids().real in (os.geteuid(), 0):
                flags = (word.partition("=") for word in process.cmdline())
                found += [(process.create_time(), value) for flag, _, value in flags if flag == "--gcs-address"]
    return list(dict.fromkeys(address for _, address in sorted(found, reverse=True) if address))


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def is_stopped(process: psutil.Process) -> bool:
    """Return whether a process was stopped by a signal, so that it answers nothing until it is continued."""
    try:
        return bool(process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP))
    except psutil.Error:
        return False


def end_processes(processes: Collection[psutil.Process], seconds: float) -> None:
    """Wait `seconds` for the end of processes, then end those that are left, not others that have their ids by now."""
    _, left = psutil.wait_procs(list(processes), timeout=seconds) if seconds else ((), processes)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
