"""Tests of drivers that are killed or interrupted: the run is resumed, and its results are bit-identical."""

import signal
import time

import psutil
import pytest

from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import REAL, Command, Gates, digests, events, has_ended, inspect, module_pids, serket

pytestmark = pytest.mark.faults


@pytest.fixture
def waiting_run(config, address, tmp_path, gates):
    """The command and the directory of a run on the standing cluster that waits at the gate."""
    command = Command("run", config, "--runs", tmp_path, "--address", address, *gates.setting)
    gates.wait_until_reached("2-0")
    yield command, tmp_path / "small"
    if command.process.poll() is None:
        command.kill()


def resume(path, *arguments):
    """Resume a run to its end; return its digests."""
    assert "continuing from" in serket("resume", path, *arguments)
    return digests(path)


def test_the_cluster_of_a_killed_driver_ends_and_the_run_resumes_on_another_cluster(config, tmp_path, gates, expected):
    command, path = Command("run", config, "--runs", tmp_path, *gates.setting), tmp_path / "small"
    gates.wait_until_reached("2-0")
    children = [process.pid for process in psutil.Process(command.process.pid).children(recursive=True)]
    command.kill()
    assert inspect(path)["next"] == f"serket resume {path}"
    assert "on no cluster any more; the last commit is round-001" in serket("attach", path, code=2)
    assert "the run is not running; the last commit is round-001" in serket("stop", path, code=2)
    gates.open()
    wait_until(lambda: all(map(has_ended, children)), 60)
    assert resume(path) == expected


def test_ctrl_c_in_a_terminal_does_not_end_the_cluster_before_the_step_is_committed(
    config, tmp_path, gates, address, expected
):
    command, path = Command("run", config, "--runs", tmp_path, *gates.setting), tmp_path / "small"
    gates.wait_until_reached("2-0")
    command.press_ctrl_c()
    command.wait_for_output("stopping after this step; once more stops at once")
    time.sleep(2.0)  # until the coordinator has received the request
    gates.open()
    output = command.wait(code=1)
    assert output.splitlines()[-1].endswith(f"all updates are committed, continue with serket resume {path}")
    assert Checkpoints(path / "checkpoints").latest().name == "round-002-step-00"
    assert resume(path, "--address", address) == expected  # on another cluster too


def test_sigterm_in_a_block_stops_after_the_block(config, tmp_path, address, expected):
    gates, path = Gates(tmp_path / "gates", "2-1"), tmp_path / "small"
    command = Command("run", config, "--runs", tmp_path, "--address", address, *gates.setting)
    gates.wait_until_reached("2-1")
    command.send(signal.SIGTERM)
    command.wait_for_output("stopping after this step")
    time.sleep(2.0)
    gates.open()
    command.wait(code=1)
    assert Checkpoints(path / "checkpoints").latest().name == "round-002-step-02"
    status = inspect(path)
    assert (status["commits"][-1], status["next"]) == ("round-002-step-02", f"serket resume {path}")
    assert "failure" not in status
    assert resume(path, "--address", address) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_ends_an_own_cluster_after_a_commit(
    config, tmp_path, gates, address, expected, number
):
    command, path = Command("run", config, "--runs", tmp_path, *gates.setting), tmp_path / "small"
    gates.wait_until_reached("2-0")
    processes = [psutil.Process(command.process.pid), *psutil.Process(command.process.pid).children(recursive=True)]
    for process in processes:  # as a batch system and a closed terminal do
        process.send_signal(number)
    command.wait_for_output("stopping after this step")
    started = time.monotonic()
    time.sleep(2.0)  # until the coordinator has received the request
    gates.open()
    output = command.wait(code=1)
    assert time.monotonic() - started < 10
    assert output.splitlines()[-1].endswith(f"all updates are committed, continue with serket resume {path}")
    assert Checkpoints(path / "checkpoints").latest().name == "round-002-step-00"
    _, left = psutil.wait_procs(processes, timeout=10)
    assert left == []
    assert resume(path, "--address", address) == expected


def test_a_second_interrupt_ends_the_run_at_once(waiting_run, gates, address, expected):
    command, path = waiting_run
    command.send(signal.SIGINT)
    command.wait_for_output("stopping after this step")
    command.send(signal.SIGINT)
    output = command.wait(code=1)
    assert f"ended at once; all commits are complete, continue with serket resume {path}" in output
    assert "failure" not in inspect(path)
    gates.open()
    assert resume(path, "--address", address) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["the command begins", "the cluster is joined", "the actors start"])
def test_an_interrupt_during_the_start_leaves_no_run_or_one_that_resumes(
    config, tmp_path, address, expected, number, moment
):
    path = tmp_path / "small"
    command = Command("run", config, "--runs", tmp_path, "--address", address)
    if moment == "the command begins":
        time.sleep(0.8)
    else:
        file = "environment.json" if moment == "the actors start" else ""
        wait_until(lambda: (path / file).exists(), 60)
    command.send(number)
    if moment == "the command begins":
        code = command.process.wait(timeout=60)
        assert code != 0
        assert not path.exists()
        return
    output = command.wait(code=1)
    if path.exists():
        assert f"continue with serket resume {path}" in output
        serket("resume", path, "--address", address)
        assert digests(path) == expected
    else:
        assert output.splitlines()[-1] == "serket: interrupted"


def test_a_driven_run_rejects_other_drivers_and_stop_waits_for_its_round(waiting_run, gates):
    command, path = waiting_run
    for name in ("resume", "attach"):
        output = serket(name, path, code=2)
        assert f"another process drives this run; wait for it, or end it with serket stop {path}" in output
    stopping = Command("stop", path)
    stopping.wait_for_output("the run stops after its current round")
    gates.open()
    assert f"the last commit is round-002, continue with serket resume {path}" in stopping.wait()
    assert "stopped in round 2" in command.wait(code=1)


def test_stop_now_does_not_wait_for_the_round(waiting_run, gates, address, expected):
    command, path = waiting_run
    serket("stop", path, "--now")
    assert "the run was ended, by serket stop --now or with its cluster" in command.wait(code=1)
    assert "failure" not in inspect(path)
    gates.open()
    assert resume(path, "--address", address) == expected


def test_additional_rounds_equal_those_of_a_run_that_had_them_from_the_beginning(config, tmp_path, address, expected):
    path = tmp_path / "small"
    serket("run", config, "--runs", tmp_path, "--address", address, "--set", "schedule.rounds=2")
    assert "all 2 rounds are done; to run more, use --set schedule.rounds=N" in serket("resume", path, code=2)
    assert resume(path, "--address", address, "--set", "schedule.rounds=3") == expected


def test_another_config_is_rejected_with_the_difference_and_incomplete_lines_are_repaired(
    waiting_run, gates, address, expected
):
    command, path = waiting_run
    command.kill()
    output = serket("resume", path, "--set", "modules.encoder.dim=7", "--set", "schedule.rounds=9", code=2)
    assert "modules.encoder.dim: 3 in the run, 7 now" in output
    assert "rounds" not in output
    for name, incomplete in (("metrics.csv", "1,-2"), ("events.jsonl", '{"time": 1')):
        with (path / name).open("a") as file:
            file.write(incomplete)
    gates.open()
    assert resume(path, "--address", address) == expected
    assert len(events(path)) > 0


def test_a_run_with_chains_that_is_not_detached_ends_with_its_driver(tmp_path, gates, address):
    model, path = tmp_path / "real.yaml", tmp_path / "killed" / "real"
    model.write_text(REAL)
    serket("run", model, "--runs", tmp_path / "whole", "--address", address)
    command = Command("run", model, "--runs", tmp_path / "killed", "--address", address, *gates.setting)
    gates.wait_until_reached("2-0")
    command.kill()
    wait_until(lambda: all(map(has_ended, module_pids(path).values())), 60)
    gates.open()
    assert resume(path, "--address", address) == digests(tmp_path / "whole" / "real")


def test_detaching_requires_a_cluster_that_outlives_the_command(config, tmp_path):
    output = serket("run", config, "--runs", tmp_path, "--detach", code=2)
    assert "--detach needs a cluster that outlives this command" in output
    assert not list(tmp_path.iterdir())


def test_an_address_without_a_cluster_is_reported_at_once(config, tmp_path):
    started = time.monotonic()
    output = serket("run", config, "--runs", tmp_path, "--address", "127.0.0.1:1", code=2)
    assert "no Ray cluster could be reached at 127.0.0.1:1" in output
    assert time.monotonic() - started < 30
    assert not list(tmp_path.iterdir())
