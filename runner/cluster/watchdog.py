"""Watches the cluster of a run: if it is gone, the command ends with a sentence instead of waiting for it.

Ray itself waits for 60 seconds and then ends the process without a word about the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from actors.limits import GCS_SECONDS, WATCH_SECONDS
from runner.cluster.processes import end_processes, is_alive, is_stopped, own_cluster_processes, processes_of
from runner.cluster.signals import exit_with_message

_SNAPSHOT_INTERVAL = 10
"""Looks after which the list of the cluster's processes is renewed; that takes some milliseconds."""


class ClusterWatchdog:
    """Finds out whether the cluster that this process uses is still there.

    Parameters
    ----------
    own : bool
        Whether this process has started the cluster.
    raylet : int
        Process id of the raylet on this machine; 0 if it is not known.
    answers : callable
        Returns whether the cluster's control service (GCS) answers; not called for a cluster that this process has
        started, whose processes say more.
    socket_name : str
        Of the raylet; empty if it is not known.
    """

    def __init__(self, *, own: bool, raylet: int, answers: Callable[[], bool], socket_name: str = "") -> None:
        self._own = own
        self._socket_name = socket_name
        self._answers = answers
        self._watched: dict[str, psutil.Process] = {}
        self.processes = own_cluster_processes() if own else set()
        for process in self.processes:
            with suppress(psutil.Error):
                if process.name() == "gcs_server":
                    self._watched["control service (GCS)"] = process
        with suppress(psutil.Error):
            if raylet:
                self._watched["raylet"] = psutil.Process(raylet)
        self._silent_since: float | None = None
        self._looks = 0

    def reason(self) -> str:
        """Return what of the cluster is gone; empty if all of it is there."""
        self._looks += 1
        for what, process in self._watched.items():
            if not is_alive(process):
                return f"the {what} of its Ray cluster, process {process.pid}, is gone"
        if self._own and self._looks % _SNAPSHOT_INTERVAL == 0:
            self.processes |= own_cluster_processes()
            self.processes = {process for process in self.processes if is_alive(process)}
        silent = self._silent_part()
        if not silent:
            self._silent_since = None
            return ""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        waited = now - self._silent_since
        return "" if waited < GCS_SECONDS else f"{silent} for {waited:.0f} s"

    def _silent_part(self) -> str:
        """Return what of the cluster is there and does not answer; empty if all of it does."""
        for what, process in self._watched.items():
            if is_stopped(process):
                return f"the {what} of its Ray cluster, process {process.pid}, has been stopped (SIGSTOP)"
        return "" if self._own or self._answers() else "its Ray cluster has not answered"

    def end(self, message: str, release: Callable[[], None]) -> None:
        """End this process with a message and status 1, and with it the cluster that it has started."""
        with suppress(Exception):
            release()
        if self._own:
            end_processes(self.processes | own_cluster_processes() | processes_of(self._socket_name), 0.0)
        exit_with_message(message)


@contextmanager
def watch(watchdog: ClusterWatchdog, describe: Callable[[str], str], release: Callable[[], None]) -> Iterator[None]:
    """Watch a cluster in this context.

    Parameters
    ----------
    watchdog : ClusterWatchdog
    describe : callable
        Returns the message for what is gone.
    release : callable
        Restores the terminal before the process ends.
    """
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(WATCH_SECONDS):
            reason = watchdog.reason()
            if reason and not ended.is_set():  # otherwise this process itself has ended the cluster meanwhile
                watchdog.end(describe(reason), release)

    thread = threading.Thread(target=look, daemon=True, name="cluster watchdog")
    thread.start()
    try:
        yield
    except BaseException:
        ended.set()
        if reason := watchdog.reason():  # otherwise Ray would wait for the cluster at its end
            watchdog.end(describe(reason), release)
        raise
    finally:
        ended.set()
