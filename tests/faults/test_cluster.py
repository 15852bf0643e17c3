"""Tests of a cluster's bad day: its control service (GCS) or its raylet is killed or stopped, or a clock is wrong."""

import json
import os
import signal
import time
from itertools import pairwise

import psutil
import pytest

from actors.limits import GCS_SECONDS
from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults import recovery_table
from tests.faults.commands import Command, digests, events, serket

pytestmark = pytest.mark.faults

NAMES = {"gcs_server": "control service (GCS)", "raylet": "raylet"}
LEFT_SECONDS = 10.0
"""Seconds after the end of a command by which none of its processes may be left."""


def processes_below(pid):
    """Return the processes below the process `pid`, by name."""
    return [(child.name(), child) for child in psutil.Process(pid).children(recursive=True)]


def part_of(command, name):
    """Return the process id of a part of the cluster that a command has started."""
    return next(process.pid for found, process in processes_below(command.process.pid) if found == name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("part", NAMES)
def test_a_run_ends_with_a_sentence_and_resumes_if_a_part_of_its_cluster_is_gone_or_stopped(
    config, tmp_path, gates, address, expected, part, number
):
    command, path = Command("run", config, "--runs", tmp_path, *gates.setting), tmp_path / "small"
    gates.wait_until_reached("2-0")
    own, pid = [process for _, process in processes_below(command.process.pid)], part_of(command, part)
    failed_at = time.monotonic()
    os.kill(pid, number)
    output = command.wait(code=1)
    noticed = time.monotonic() - failed_at
    what = "is gone" if number == signal.SIGKILL else "has been stopped (SIGSTOP)"
    last = output.splitlines()[-1]
    assert last.startswith(f"serket: {path}: the {NAMES[part]} of its Ray cluster, process {pid}, {what}")
    assert last.endswith(f"all commits are complete, continue with serket resume {path}")
    assert noticed < (5.0 if number == signal.SIGKILL else GCS_SECONDS + 5.0)
    wait_until(lambda: not any(process.is_running() for process in own), LEFT_SECONDS)
    gates.open()
    resumed_at = time.monotonic()
    assert "continuing from round-001" in serket("resume", path, "--address", address)
    back = time.monotonic() - resumed_at
    identical = digests(path) == expected
    phase = "killed" if number == signal.SIGKILL else "stopped"
    recovery_table.ROWS.append((NAMES[part], f"{phase}; the run ends, resume takes", noticed, back, identical))
    assert identical


@pytest.mark.parametrize("part", NAMES)
def test_a_part_of_the_cluster_may_be_stopped_for_a_while(config, tmp_path, gates, expected, part):
    command, path = Command("run", config, "--runs", tmp_path, *gates.setting), tmp_path / "small"
    gates.wait_until_reached("2-0")
    pid = part_of(command, part)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(GCS_SECONDS / 2)
    os.kill(pid, signal.SIGCONT)
    gates.open()
    command.wait(code=0)
    assert digests(path) == expected


@pytest.mark.parametrize("seconds", [-3600, 3600], ids=["an hour back", "an hour ahead"])
def test_a_wrong_clock_of_the_coordinator_changes_neither_the_results_nor_their_order(
    config, tmp_path, address, expected, seconds
):
    path = tmp_path / "small"
    fault = f"coordinator:clock:2:{seconds}"
    serket("run", config, "--runs", tmp_path, "--address", address, SERKET_FAULTS=fault)
    times = [event["time"] for event in events(path) if event["event"] == "updated"]
    assert max(abs(later - earlier) for earlier, later in pairwise(times)) > 3000
    result = json.loads((path / "result.json").read_text())
    assert result["rounds"] == 3
    assert 0 <= result["overhead_share"] <= 1
    identical = digests(path) == expected
    recovery_table.ROWS.append(("coordinator's clock", f"{seconds / 3600:+.0f} h", 0.0, 0.0, identical))
    assert identical


@pytest.mark.parametrize("seconds", [-3600, 3600], ids=["an hour back", "an hour ahead"])
def test_a_detached_run_is_followed_and_resumed_although_its_coordinators_clock_is_wrong(
    config, tmp_path, gates, address, expected, seconds
):
    path = tmp_path / "small"
    detached = ("run", config, "--runs", tmp_path, "--address", address, "--detach", *gates.setting)
    serket(*detached, SERKET_FAULTS=f"coordinator:clock:2:{seconds}")
    gates.wait_until_reached("2-0")
    stopping = Command("stop", path)
    stopping.wait_for_output("the run stops after its current round")
    gates.open()
    assert "the last commit is round-002" in stopping.wait()
    serket("resume", path, "--address", address)  # with the right clock again
    assert digests(path) == expected
    names = [(event["event"], event.get("name")) for event in events(path)]
    assert all(names.count(("commit", f"round-{number:03d}")) == 1 for number in range(4))
    scored = [event["round"] for event in events(path) if event["event"] == "scores"]
    assert scored == sorted(set(scored)) == [1, 2, 3]


def test_a_coordinator_whose_clock_went_back_is_followed_from_its_end(config, tmp_path, address, expected):
    path = tmp_path / "small"
    arguments = ("run", config, "--runs", tmp_path, "--address", address, "--detach")
    serket(*arguments, SERKET_FAULTS="coordinator:clock:2:-3600")
    wait_until(lambda: Checkpoints(path / "checkpoints").names()[-1:] == ["round-003"], 60)
    serket("attach", path)
    assert digests(path) == expected
    assert json.loads((path / "result.json").read_text())["rounds"] == 3


def test_a_node_without_memory_is_named_and_ctrl_c_ends_the_wait(config, tmp_path):
    full = {"RAY_memory_usage_threshold": "0.001", "RAY_memory_monitor_refresh_ms": "200"}
    command = Command("run", config, "--runs", tmp_path, **full)
    command.wait_for_output(
        "waiting for the coordinator: Ray has killed processes because their node ran out of memory ("
    )
    command.press_ctrl_c()
    interrupted_at = time.monotonic()
    assert "ended at once; all commits are complete" in command.wait(code=1)
    assert time.monotonic() - interrupted_at < LEFT_SECONDS
