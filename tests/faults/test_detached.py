"""Runs that go on without a driver: they are seen again, stopped, die, fail and end while nobody watches."""

import json
import os
import signal

import pytest

from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import Command, digests, events, inspected, serket

pytestmark = pytest.mark.faults


@pytest.fixture
def detached(config, tmp_path, address, gates):
    """A run that was left to itself, and waits at the gate; its directory."""
    said = serket("run", config, "--runs", tmp_path, "--address", address, "--detach", *gates.setting)
    path = tmp_path / "small"
    assert f"small goes on; see it with serket attach {path}, end it with serket stop {path}" in said
    gates.reached("2-0")
    yield path
    if "actors" in inspected(path):
        serket("stop", path, "--now")


def last_round(path):
    latest = Checkpoints(path / "checkpoints").latest()
    return latest.round if latest else 0


def test_the_run_goes_on_and_is_seen_again(detached, gates, expected):
    found = inspected(detached)["actors"]
    assert found["modules"].keys() == {"data", "encoder", "mirror"}
    assert "the run goes on; see it with serket attach" in serket("resume", detached, code=2)
    gates.open()
    assert "round 3/3  committed" in serket("attach", detached)
    assert digests(detached) == expected
    assert json.loads((detached / "result.json").read_text())["rounds"] == 3
    assert (detached / "progress.png").stat().st_size > 0
    assert "actors" not in inspected(detached)


def test_whoever_watches_may_leave_or_die(detached, gates, expected):
    leaving = Command("attach", detached)
    leaving.heard("watching small; Ctrl-C leaves it alone")
    leaving.send(signal.SIGINT)
    assert f"small goes on; see it with serket attach {detached}" in leaving.end()
    dying = Command("attach", detached)
    dying.heard("watching small")
    dying.kill()
    gates.open()
    serket("attach", detached)
    assert digests(detached) == expected
    told = [(event["event"], event.get("name")) for event in events(detached)]
    assert all(told.count(("commit", f"round-{number:03d}")) == 1 for number in range(4))


def test_it_is_stopped_after_its_round_and_resumed(detached, gates, address, expected):
    stopping = Command("stop", detached)
    stopping.heard("it stops after its round")
    gates.open()
    assert f"it stands at round-002, go on with serket resume {detached}" in stopping.end()
    serket("resume", detached, "--address", address)
    assert digests(detached) == expected


def test_it_is_resumed_and_left_again_and_tells_of_what_nobody_saw(detached, gates, address, expected):
    stopping = Command("stop", detached)
    stopping.heard("it stops after its round")
    gates.open()
    stopping.end()
    told = [(event["event"], event.get("name")) for event in events(detached)]
    assert told.count(("commit", "round-002")) == 1, "written down by who stopped it"
    said = serket("resume", detached, "--address", address, "--detach")
    assert f"small goes on; see it with serket attach {detached}" in said
    wait_until(lambda: last_round(detached) == 3, 60)
    wait_until(lambda: "actors" not in inspected(detached), 60)
    serket("attach", detached)
    assert digests(detached) == expected
    told = [(event["event"], event.get("name")) for event in events(detached)]
    assert all(told.count(("commit", f"round-{number:03d}")) == 1 for number in range(4))
    assert {event["round"] for event in events(detached) if event["event"] == "updated"} == {0, 1, 2, 3}


def test_it_is_stopped_at_once_while_somebody_watches(detached, gates, address, expected):
    watching = Command("attach", detached)
    watching.heard("watching small")
    serket("stop", detached, "--now")
    assert f"go on with serket resume {detached}" in watching.end(code=None)
    assert watching.process.returncode in (1, 2)
    assert inspected(detached).keys() == {"run", "rounds", "commits", "next"}
    gates.open()
    serket("resume", detached, "--address", address)
    assert digests(detached) == expected


def test_its_coordinator_dies_unwatched_and_the_run_ends_and_leaves_nothing_but_its_results(detached, gates, expected):
    os.kill(inspected(detached)["actors"]["coordinator"]["pid"], signal.SIGKILL)
    gates.open()
    wait_until(lambda: last_round(detached) == 3, 60)
    wait_until(lambda: "actors" not in inspected(detached), 60)
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
    said = Command("attach", path).process.communicate(timeout=120)[0]  # with the module's own traceback
    assert "the run failed: module 'encoder' raised an error" in said
    assert f"it stands at round-001, go on with serket resume {path}" in said
    assert "the run failed" in Command("attach", path).process.communicate(timeout=120)[0]


def test_a_cluster_that_cannot_be_joined_leaves_open_whether_the_run_goes_on(detached):
    said = serket("resume", detached, code=2, RAY_AUTH_TOKEN="0" * 64)
    assert "whether the run goes on is not known" in said


def test_two_runs_of_one_name_do_not_share_a_cluster(detached, config, tmp_path, address):
    said = serket("run", config, "--runs", tmp_path / "other", "--address", address, code=2)
    assert "a run called small is on this cluster already; choose another --name" in said
    assert not (tmp_path / "other" / "small").exists()
