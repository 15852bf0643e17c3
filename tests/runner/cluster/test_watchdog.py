"""Tests of the watchdog: what is gone or silent is named, and an orderly end is no failure."""

import signal
import subprocess
import time

import pytest

from runner.cluster import watchdog as watchdogs
from runner.cluster.watchdog import ClusterWatchdog, watch
from tests.conftest import wait_until


@pytest.fixture
def raylet():
    """A process that stands for a raylet."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_that_is_gone_is_named_at_once(raylet):
    watchdog = ClusterWatchdog(own=False, raylet=raylet.pid, answers=lambda: True)
    assert watchdog.reason() == ""
    raylet.kill()
    assert wait_until(watchdog.reason, 5) == f"the raylet of its Ray cluster, process {raylet.pid}, is gone"


def test_workers_that_are_being_started_end_with_their_own_cluster(raylet, tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(watchdogs, "exit_with_message", ended.append)
    sockets = [f"{tmp_path}/{name}/raylet" for name in ("own", "other")]
    workers = [subprocess.Popen(["sh", "-c", "sleep 60; true", f"--raylet-name={socket}"]) for socket in sockets]
    watchdog = ClusterWatchdog(own=True, raylet=raylet.pid, answers=lambda: True, socket_name=sockets[0])
    watchdog.end("it is gone", lambda: None)
    assert workers[0].wait(5) == -signal.SIGKILL
    assert (workers[1].poll(), ended) == (None, ["it is gone"])
    workers[1].kill()
    workers[1].wait()


def test_a_process_may_be_stopped_for_a_while(raylet, monkeypatch):
    monkeypatch.setattr(watchdogs, "GCS_SECONDS", 0.3)
    watchdog = ClusterWatchdog(own=True, raylet=raylet.pid, answers=lambda: True)
    raylet.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    assert watchdog.reason() == ""
    raylet.send_signal(signal.SIGCONT)
    time.sleep(0.3)
    assert watchdog.reason() == ""
    raylet.send_signal(signal.SIGSTOP)
    reason = wait_until(watchdog.reason, 5)
    assert reason.startswith(f"the raylet of its Ray cluster, process {raylet.pid}, has been stopped (SIGSTOP) for")


def test_a_joined_cluster_may_be_silent_for_a_while(monkeypatch):
    monkeypatch.setattr(watchdogs, "GCS_SECONDS", 0.3)
    answers = [False, True, False, False]
    watchdog = ClusterWatchdog(own=False, raylet=0, answers=lambda: answers.pop(0) if answers else False)
    for _ in range(3):
        assert watchdog.reason() == ""
        time.sleep(0.2)
    assert wait_until(watchdog.reason, 5).startswith("its Ray cluster has not answered for")


def test_a_cluster_that_ends_after_its_run_is_not_reported(monkeypatch):
    monkeypatch.setattr(watchdogs, "WATCH_SECONDS", 0.01)

    class Ended:
        looking = False
        reported = False

        def reason(self):
            self.looking = True
            time.sleep(0.2)  # meanwhile the run ends, and its cluster with it
            return "it is gone"

        def end(self, message, release):
            self.reported = True

    ended = Ended()
    with watch(ended, str, lambda: None):
        wait_until(lambda: ended.looking, 5)
    time.sleep(0.4)
    assert not ended.reported
