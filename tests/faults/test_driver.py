"""Whoever drives a run is killed or interrupted: the run is taken up again, with the same bits."""

import signal
import time

import psutil
import pytest

from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import REAL, Command, Gates, actors, digests, events, gone, inspected, serket

pytestmark = pytest.mark.faults


@pytest.fixture
def begun(config, address, tmp_path, gates):
    """A run on the standing cluster that waits at the gate, and its directory."""
    command = Command("run", config, "--runs", tmp_path, "--address", address, *gates.setting)
    gates.reached("2-0")
    yield command, tmp_path / "small"
    if command.process.poll() is None:
        command.kill()


def resumed(path, *words):
    said = serket("resume", path, *words)
    assert "going on from" in said
    return digests(path)


def test_a_killed_driver_takes_its_own_cluster_along_and_the_run_is_resumed_on_another(
    config, tmp_path, gates, expected
):
    command, path = Command("run", config, "--runs", tmp_path, *gates.setting), tmp_path / "small"
    gates.reached("2-0")
    family = [process.pid for process in psutil.Process(command.process.pid).children(recursive=True)]
    command.kill()
    assert inspected(path)["next"] == f"serket resume {path}"
    assert "on no cluster any more; it stands at round-001" in serket("attach", path, code=2)
    assert "does not go on anywhere; it stands at round-001" in serket("stop", path, code=2)
    gates.open()
    wait_until(lambda: all(map(gone, family)), 60)
    assert resumed(path) == expected


def test_ctrl_c_in_a_terminal_spares_the_cluster_until_the_step_is_committed(
    config, tmp_path, gates, address, expected
):
    command, path = Command("run", config, "--runs", tmp_path, *gates.setting), tmp_path / "small"
    gates.reached("2-0")
    command.press()
    command.heard("stopping after this step (once more: at once)")
    time.sleep(2.0)  # until the coordinator knows
    gates.open()
    said = command.end(code=1)
    assert said.splitlines()[-1].endswith(f"what was learnt is committed, go on with serket resume {path}")
    assert Checkpoints(path / "checkpoints").latest().name == "round-002-step-00"
    assert resumed(path, "--address", address) == expected  # on another cluster too


def test_sigterm_in_a_block_stops_after_the_block(config, tmp_path, address, expected):
    gates, path = Gates(tmp_path / "gates", "2-1"), tmp_path / "small"
    command = Command("run", config, "--runs", tmp_path, "--address", address, *gates.setting)
    gates.reached("2-1")
    command.send(signal.SIGTERM)
    command.heard("stopping after this step")
    time.sleep(2.0)
    gates.open()
    command.end(code=1)
    assert Checkpoints(path / "checkpoints").latest().name == "round-002-step-02"
    found = inspected(path)
    assert (found["commits"][-1], found["next"]) == ("round-002-step-02", f"serket resume {path}")
    assert "failure" not in found
    assert resumed(path, "--address", address) == expected


def test_a_second_interrupt_ends_at_once(begun, gates, address, expected):
    command, path = begun
    command.send(signal.SIGINT)
    command.heard("stopping after this step")
    command.send(signal.SIGINT)
    said = command.end(code=1)
    assert f"ended at once; what was committed is whole, go on with serket resume {path}" in said
    assert "failure" not in inspected(path)
    gates.open()
    assert resumed(path, "--address", address) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["the command begins", "the cluster is joined", "the actors start"])
def test_an_interrupt_during_the_start_leaves_nothing_or_a_run_to_resume(
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
    said = command.end(code=1)
    if path.exists():
        assert f"go on with serket resume {path}" in said
        serket("resume", path, "--address", address)
        assert digests(path) == expected
    else:
        assert said.splitlines()[-1] == "serket: interrupted"


def test_nobody_else_drives_or_watches_a_run_and_stop_waits_for_its_round(begun, gates):
    command, path = begun
    for word in ("resume", "attach"):
        said = serket(word, path, code=2)
        assert f"another process drives this run; wait for it, or end it with serket stop {path}" in said
    stopping = Command("stop", path)
    stopping.heard("it stops after its round")
    gates.open()
    assert f"it stands at round-002, go on with serket resume {path}" in stopping.end()
    assert "stopped in round 2" in command.end(code=1)


def test_stop_now_does_not_wait(begun, gates, address, expected):
    command, path = begun
    serket("stop", path, "--now")
    assert "the run was ended, by serket stop --now or with its cluster" in command.end(code=1)
    assert "failure" not in inspected(path)
    gates.open()
    assert resumed(path, "--address", address) == expected


def test_more_rounds_are_those_of_a_run_that_had_them_from_the_beginning(config, tmp_path, address, expected):
    path = tmp_path / "small"
    serket("run", config, "--runs", tmp_path, "--address", address, "--set", "schedule.rounds=2")
    assert "all 2 rounds are done; for more of them say --set schedule.rounds=N" in serket("resume", path, code=2)
    assert resumed(path, "--address", address, "--set", "schedule.rounds=3") == expected


def test_another_config_is_refused_with_the_difference_and_torn_lines_are_mended(begun, gates, address, expected):
    command, path = begun
    command.kill()
    said = serket("resume", path, "--set", "modules.encoder.dim=7", "--set", "schedule.rounds=9", code=2)
    assert "modules.encoder.dim: 3 in the run, 7 now" in said
    assert "rounds" not in said
    for name, torn in (("metrics.csv", "1,-2"), ("events.jsonl", '{"time": 1')):
        with (path / name).open("a") as file:
            file.write(torn)
    gates.open()
    assert resumed(path, "--address", address) == expected
    assert len(events(path)) > 0


def test_a_run_with_chains_that_was_not_detached_goes_with_its_driver(tmp_path, gates, address):
    model, path = tmp_path / "real.yaml", tmp_path / "killed" / "real"
    model.write_text(REAL)
    serket("run", model, "--runs", tmp_path / "whole", "--address", address)
    command = Command("run", model, "--runs", tmp_path / "killed", "--address", address, *gates.setting)
    gates.reached("2-0")
    command.kill()
    wait_until(lambda: all(map(gone, actors(path).values())), 60)
    gates.open()
    assert resumed(path, "--address", address) == digests(tmp_path / "whole" / "real")


def test_detaching_needs_a_cluster_that_stays(config, tmp_path):
    said = serket("run", config, "--runs", tmp_path, "--detach", code=2)
    assert "--detach needs a cluster that outlives this command" in said
    assert not list(tmp_path.iterdir())


def test_an_address_where_nobody_listens_is_named_at_once(config, tmp_path):
    began = time.monotonic()
    said = serket("run", config, "--runs", tmp_path, "--address", "127.0.0.1:1", code=2)
    assert "no Ray cluster could be reached at 127.0.0.1:1" in said
    assert time.monotonic() - began < 30
    assert not list(tmp_path.iterdir())
