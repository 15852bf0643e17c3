"""Whoever drives a run is killed, interrupted, or leaves: the run goes on, or is taken up again, with the same bits."""

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from actors.checkpoint import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import MODEL, Command, digests, events, serket, standing_cluster, wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory):
    """What an uninterrupted run leaves."""
    runs = tmp_path_factory.mktemp("expected")
    serket("run", config, "--runs", runs)
    return digests(runs / "small")


@pytest.fixture
def begun(config, tmp_path):
    """A run that is in the middle of its second round, and its directory."""
    command, path = Command("run", config, "--runs", tmp_path), tmp_path / "small"
    wait_for(path, "update", round=2, module="encoder")
    yield command, path
    if command.process.poll() is None:
        command.kill()


def resumed(path, *words):
    said = serket("resume", path, *words)
    assert "going on from" in said
    return digests(path)


def test_a_run_whose_driver_is_killed_is_resumed_with_the_same_bits(begun, expected):
    command, path = begun
    command.kill()
    assert f"go on with: serket resume {path}" in serket("inspect", path)
    assert resumed(path) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_once_stops_after_its_step(begun, expected, number):
    command, path = begun
    command.send(number)
    said = command.end(code=1)
    assert "stopping after this step" in said
    assert said.splitlines()[-1].endswith(f"go on with serket resume {path}")
    assert Checkpoints(path / "checkpoints").latest().name == "round-002-step-00"
    assert resumed(path) == expected


def test_a_run_that_is_interrupted_twice_ends_at_once(begun, expected):
    command, path = begun
    command.send(signal.SIGINT)
    wait_until(lambda: command.process.stdout.readline().startswith("stopping"))
    command.send(signal.SIGINT)
    said = command.end(code=1)
    assert "ended at once" in said
    assert "Traceback" not in said
    assert resumed(path) == expected


def test_a_run_that_is_interrupted_while_it_starts_can_be_begun_or_resumed(config, tmp_path, expected):
    command, path = Command("run", config, "--runs", tmp_path), tmp_path / "small"
    wait_until(lambda: (path / "environment.json").exists(), 60)
    command.send(signal.SIGINT)
    assert "Traceback" not in command.end(code=1)
    serket("resume", path)
    assert digests(path) == expected


def test_a_run_that_somebody_drives_is_not_resumed(config, tmp_path):
    path = tmp_path / "small"
    command = Command("run", config, "--runs", tmp_path, "--set", "schedule.rounds=1000")
    wait_for(path, "update", round=2, module="encoder")
    said = serket("resume", path, code=2)
    assert "another process drives this run" in said
    said = serket("attach", path, code=2)
    assert "another process drives this run" in said
    said = serket("stop", path)
    latest = Checkpoints(path / "checkpoints").latest()
    assert latest.step is None
    assert f"stands at {latest.name}, go on with serket resume {path}" in said
    assert f"stopped in round {latest.round}" in command.end(code=1)


def test_another_config_is_refused_with_the_difference(begun):
    command, path = begun
    command.kill()
    said = serket("resume", path, "--set", "modules.encoder.dim=7", "--set", "schedule.rounds=9", code=2)
    assert "modules.encoder.dim: 3 in the run, 7 now" in said
    assert "rounds" not in said


def test_a_run_that_does_not_go_on_anywhere_is_named(begun):
    command, path = begun
    command.kill()
    said = serket("attach", path, code=2)
    assert "on no cluster any more; it stands at round-00" in said
    assert f"go on with serket resume {path}" in said
    assert "does not go on anywhere" in serket("stop", path, code=2)


def test_detaching_needs_a_cluster_that_stays(config, tmp_path):
    assert "--detach needs a cluster that outlives this command" in serket(
        "run", config, "--runs", tmp_path, "--detach", code=2
    )
    assert not list(tmp_path.iterdir())


class TestOnAClusterThatStands:
    """What goes on without a driver."""

    @pytest.fixture(scope="class")
    @classmethod
    def address(cls):
        directory = Path("/tmp") / f"serket-{os.getpid()}"  # a socket's name must be short
        directory.mkdir()
        with standing_cluster(directory, SERKET_LINGER_SECONDS="4") as address:
            yield address

    @pytest.fixture
    def detached(self, config, tmp_path, address, request):
        """A run that was left to itself; its directory. Its rounds last longer than a command takes to start."""
        slow = ("--set", f"modules.encoder.seconds={getattr(request, 'param', 0.4)}")
        assert "goes on" in serket("run", config, "--runs", tmp_path, "--address", address, "--detach", *slow)
        path = tmp_path / "small"
        yield path
        if "actors" in inspected(path):
            serket("stop", path, "--now")

    def test_the_run_goes_on_and_is_seen_again(self, detached, expected):
        assert "module" not in inspected(detached).get("failure", "")
        said = serket("attach", detached)
        assert "round 5/5  committed" in said
        assert digests(detached) == expected
        assert json.loads((detached / "result.json").read_text())["rounds"] == 5
        assert "actors" not in inspected(detached)

    @pytest.mark.parametrize("detached", [4.0], indirect=True)
    def test_whoever_watches_may_leave_or_die(self, detached, expected):
        for number, code in ((signal.SIGINT, 0), (signal.SIGKILL, -9)):
            watching = Command("attach", detached)
            seen = len(events(detached))
            wait_until(lambda seen=seen: len(events(detached)) > seen)
            watching.send(number)
            watching.end(code)
            assert "actors" in inspected(detached)
        serket("attach", detached)
        assert digests(detached) == expected

    @pytest.mark.parametrize("detached", [2.5], indirect=True)
    def test_it_is_ended_after_its_round_and_resumed(self, detached, address, expected):
        said = serket("stop", detached)
        assert "stands at round-00" in said
        assert Checkpoints(detached / "checkpoints").latest().step is None
        assert Checkpoints(detached / "checkpoints").latest().round < 5
        assert resumed(detached, "--address", address) == expected

    @pytest.mark.parametrize("detached", [2.5], indirect=True)
    def test_it_is_ended_at_once_and_resumed(self, detached, address, expected):
        serket("stop", detached, "--now")
        assert "actors" not in inspected(detached)
        assert resumed(detached, "--address", address) == expected

    @pytest.mark.parametrize("detached", [2.5], indirect=True)
    def test_its_coordinator_dies_unwatched_and_comes_back(self, detached, expected):
        os.kill(inspected(detached)["actors"]["coordinator"]["pid"], signal.SIGKILL)
        serket("attach", detached)
        assert digests(detached) == expected

    def test_it_ends_unwatched_and_leaves_nothing_but_its_results(self, detached, expected):
        wait_until(lambda: (latest := Checkpoints(detached / "checkpoints").latest()) and latest.round == 5, 60)
        wait_until(lambda: "actors" not in inspected(detached), 60)
        serket("attach", detached)
        assert digests(detached) == expected
        assert (detached / "result.json").exists()

    def test_what_failed_unwatched_is_told(self, config, tmp_path, address):
        fail = ("--set", "modules.encoder.fail_in_round=2")
        serket("run", config, "--runs", tmp_path, "--address", address, "--detach", *fail)
        path = tmp_path / "small"
        wait_until(lambda: "failure" in inspected(path), 60)
        assert "as the test asked" in inspected(path)["failure"]
        said = serket("attach", path, code=1)
        assert "the run failed: module 'encoder' raised an error" in said
        assert "it stands at round-001" in said

    def test_a_run_that_was_not_detached_dies_with_its_driver(self, config, tmp_path, address, expected):
        command, path = Command("run", config, "--runs", tmp_path, "--address", address), tmp_path / "small"
        wait_for(path, "update", round=2, module="encoder")
        pid = next(e["pid"] for e in events(path) if e["event"] == "placed" and e["module"] == "encoder")
        command.kill()
        wait_until(lambda: not psutil.pid_exists(pid), 60)
        assert resumed(path, "--address", address) == expected


def inspected(path):
    return json.loads(serket("inspect", path, "--json").splitlines()[-1])
