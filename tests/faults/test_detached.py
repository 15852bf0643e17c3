"""Runs that go on without a driver: they are seen again, stopped, die, fail and end while nobody watches."""

import json
import os
import signal

import pytest

from actors.checkpoint import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import Command, actors, digests, events, gone, inspected, serket, wait_for

pytestmark = pytest.mark.faults


@pytest.fixture
def detached(config, tmp_path, address):
    """A run that was left to itself; its directory."""
    said = serket("run", config, "--runs", tmp_path, "--address", address, "--detach")
    path = tmp_path / "small"
    assert f"small goes on; see it with serket attach {path}, end it with serket stop {path}" in said
    yield path
    if "actors" in inspected(path):
        serket("stop", path, "--now")


def last_round(path):
    latest = Checkpoints(path / "checkpoints").latest()
    return latest.round if latest else 0


def test_the_run_goes_on_and_is_seen_again(detached, expected):
    found = inspected(detached)["actors"]
    assert found["modules"].keys() == {"data", "encoder", "mirror"}
    assert "the run goes on; see it with serket attach" in serket("resume", detached, code=2)
    assert "round 4/4  committed" in serket("attach", detached)
    assert digests(detached) == expected
    assert json.loads((detached / "result.json").read_text())["rounds"] == 4
    assert (detached / "progress.png").stat().st_size > 0
    assert "actors" not in inspected(detached)


def test_whoever_watches_may_leave_or_die(detached, expected):
    for number, code in ((signal.SIGINT, 0), (signal.SIGKILL, -9)):
        watching, seen = Command("attach", detached), len(events(detached))
        wait_until(lambda seen=seen: len(events(detached)) > seen, 60)
        watching.send(number)
        watching.end(code)
    serket("attach", detached)
    assert digests(detached) == expected
    told = [(event["event"], event.get("name")) for event in events(detached)]
    assert all(told.count(("commit", f"round-{number:03d}")) == 1 for number in range(5))


def test_it_is_stopped_after_its_round_and_resumed(detached, address, expected):
    said = serket("stop", detached)
    latest = Checkpoints(detached / "checkpoints").latest()
    assert latest.step is None
    assert f"it stands at {latest.name}, go on with serket resume {detached}" in said
    serket("resume", detached, "--address", address)
    assert digests(detached) == expected


def test_it_is_stopped_at_once_while_somebody_watches(detached, address, expected):
    watching = Command("attach", detached)
    wait_for(detached, "update", round=2)
    serket("stop", detached, "--now")
    assert f"go on with serket resume {detached}" in watching.end(code=None)
    assert watching.process.returncode in (1, 2)
    assert inspected(detached).keys() == {"run", "rounds", "commits", "next"}
    serket("resume", detached, "--address", address)
    assert digests(detached) == expected


def test_its_coordinator_dies_unwatched_and_comes_back(detached, expected):
    os.kill(inspected(detached)["actors"]["coordinator"]["pid"], signal.SIGKILL)
    wait_until(lambda: last_round(detached) == 4, 60)
    serket("attach", detached)
    assert digests(detached) == expected


def test_it_ends_unwatched_and_leaves_nothing_but_its_results(detached, expected):
    processes = [*actors(detached).values(), inspected(detached)["actors"]["coordinator"]["pid"]]
    wait_until(lambda: last_round(detached) == 4, 60)
    wait_until(lambda: all(map(gone, processes)), 60)
    assert inspected(detached)["next"] == f"serket attach {detached}"
    serket("attach", detached)
    assert digests(detached) == expected
    assert "result" in inspected(detached)


def test_what_failed_unwatched_is_told_until_it_is_resumed(config, tmp_path, address):
    fail = ("--set", "modules.encoder.fail_in_round=2")
    serket("run", config, "--runs", tmp_path, "--address", address, "--detach", *fail)
    path = tmp_path / "small"
    wait_until(lambda: "failure" in inspected(path), 60)
    assert "as the test asked" in inspected(path)["failure"]
    for word in ("attach", "attach"):
        said = Command(word, path)
        said.process.wait(timeout=120)
        text = said.process.stdout.read()
        assert said.process.returncode == 1
        assert "the run failed: module 'encoder' raised an error" in text
        assert f"it stands at round-001, go on with serket resume {path}" in text
    assert "module 'encoder' raised" in Command("inspect", path).process.stdout.read()


def test_a_cluster_that_cannot_be_joined_leaves_open_whether_the_run_goes_on(detached, expected):
    said = serket("resume", detached, code=2, RAY_AUTH_TOKEN="0" * 64)
    assert "whether the run goes on is not known" in said
    serket("attach", detached)
    assert digests(detached) == expected


def test_two_runs_of_one_name_do_not_share_a_cluster(detached, config, tmp_path, address):
    said = serket("run", config, "--runs", tmp_path / "other", "--address", address, code=2)
    assert "a run called small is on this cluster already; choose another --name" in said
    assert not (tmp_path / "other" / "small").exists()
