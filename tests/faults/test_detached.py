"""Tests of detached runs: they are attached to and stopped, die, fail and end while no driver follows them."""

import json
import os
import signal
from urllib.request import urlopen

import pytest

from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until
from tests.faults.commands import Command, digests, events, inspect, serket

pytestmark = pytest.mark.faults


@pytest.fixture
def detached(config, tmp_path, address, gates):
    """The directory of a detached run that waits at the gate."""
    output = serket("run", config, "--runs", tmp_path, "--address", address, "--detach", *gates.setting)
    path = tmp_path / "small"
    assert f"small continues; follow it with serket attach {path}, stop it with serket stop {path}" in output
    gates.wait_until_reached("2-0")
    yield path
    if "actors" in inspect(path):
        serket("stop", path, "--now")


def last_round(path):
    """Return the round of a run's last commit, 0 if there is none."""
    latest = Checkpoints(path / "checkpoints").latest()
    return latest.round if latest else 0


def names_in_log(path):
    """Return the name of each event in a run's log, with the name of the commit if it has one."""
    return [(event["event"], event.get("name")) for event in events(path)]


def test_a_detached_run_continues_and_can_be_followed(detached, gates, expected):
    actors = inspect(detached)["actors"]
    assert actors["modules"].keys() == {"data", "encoder", "mirror"}
    assert "the run is still running; see it with serket attach" in serket("resume", detached, code=2)
    gates.open()
    assert "round 3/3  committed" in serket("attach", detached)
    assert digests(detached) == expected
    assert json.loads((detached / "result.json").read_text())["rounds"] == 3
    assert (detached / "progress.png").stat().st_size > 0
    assert "actors" not in inspect(detached)


def test_the_trackers_of_a_detached_run_are_told_everything_once(config, tmp_path, address, gates):
    told, path = tmp_path / "told.jsonl", tmp_path / "small"
    tracker = f"tracking=[{{type: 'tests.support.trackers:Spy', file: {told}}}]"
    setting = ("--set", tracker, *gates.setting)
    serket("run", config, "--runs", tmp_path, "--address", address, "--detach", *setting)
    gates.wait_until_reached("2-0")
    first = [json.loads(line) for line in told.read_text().splitlines()]
    assert (first[0], first[-1]) == (["run_started", False], ["close"])
    gates.open()
    wait_until(lambda: last_round(path) == 3, 120)  # while no driver follows it
    serket("attach", path)
    later = [json.loads(line) for line in told.read_text().splitlines()][len(first) :]
    assert (later[0], later[-2:]) == (["run_started", True], [["finished", 3], ["close"]])
    for module in ("encoder", "mirror"):
        updates = [each[2:] for each in [*first, *later] if each[:2] == ["update", module]]
        assert [number for _, number in updates] == list(range(1, len(updates) + 1))
        assert {round for round, _ in updates} == {1, 2, 3}
    assert [each[1] for each in [*first, *later] if each[0] == "round"] == [1, 2, 3]


def test_a_detached_run_is_watched_whether_a_driver_follows_it_or_not(detached, gates, expected):
    watching = Command("watch", detached)
    watching.wait_for_output("http://")
    url = watching.output.splitlines()[-1].split()[0]

    def state():
        with urlopen(f"{url}state", timeout=60) as answer:
            return json.loads(answer.read())

    before = wait_until(lambda: (found := state()) and found["round"] == 2 and found)
    assert before["ended"] == ""
    assert before["modules"]["encoder"]["state"] == "learning", "as its coordinator says"
    gates.open()
    wait_until(lambda: state()["ended"].startswith("it has ended"))
    serket("attach", detached)
    after = state()
    assert (after["ended"], after["round"], len(after["evidence"])) == ("done", 3, 3)
    assert digests(detached) == expected
    watching.send(signal.SIGINT)
    watching.wait()


def test_an_attached_driver_can_leave_or_die_without_an_effect_on_the_run(detached, gates, expected):
    leaving = Command("attach", detached)
    leaving.wait_for_output("watching small; Ctrl-C leaves it running")
    leaving.send(signal.SIGINT)
    assert f"small continues; follow it with serket attach {detached}" in leaving.wait()
    dying = Command("attach", detached)
    dying.wait_for_output("watching small")
    dying.kill()
    gates.open()
    serket("attach", detached)
    assert digests(detached) == expected
    names = names_in_log(detached)
    assert all(names.count(("commit", f"round-{number:03d}")) == 1 for number in range(4))


def test_a_detached_run_stops_after_its_round_and_resumes(detached, gates, address, expected):
    stopping = Command("stop", detached)
    stopping.wait_for_output("the run stops after its current round")
    gates.open()
    assert f"the last commit is round-002, continue with serket resume {detached}" in stopping.wait()
    serket("resume", detached, "--address", address)
    assert digests(detached) == expected


def test_a_run_that_is_resumed_and_detached_again_logs_every_event_once(detached, gates, address, expected):
    stopping = Command("stop", detached)
    stopping.wait_for_output("the run stops after its current round")
    gates.open()
    stopping.wait()
    assert names_in_log(detached).count(("commit", "round-002")) == 1, "serket stop writes the events to the log"
    output = serket("resume", detached, "--address", address, "--detach")
    assert f"small continues; follow it with serket attach {detached}" in output
    wait_until(lambda: last_round(detached) == 3, 60)
    wait_until(lambda: "actors" not in inspect(detached), 60)
    serket("attach", detached)
    assert digests(detached) == expected
    names = names_in_log(detached)
    assert all(names.count(("commit", f"round-{number:03d}")) == 1 for number in range(4))
    assert {event["round"] for event in events(detached) if event["event"] == "updated"} == {0, 1, 2, 3}


def test_a_detached_run_is_stopped_at_once_while_a_driver_follows_it(detached, gates, address, expected):
    attached = Command("attach", detached)
    attached.wait_for_output("watching small")
    serket("stop", detached, "--now")
    assert f"continue with serket resume {detached}" in attached.wait(code=None)
    assert attached.process.returncode in (1, 2)
    assert inspect(detached).keys() == {"run", "rounds", "commits", "next"}
    gates.open()
    serket("resume", detached, "--address", address)
    assert digests(detached) == expected


def test_a_detached_run_whose_coordinator_dies_ends_and_leaves_no_actors(detached, gates, expected):
    os.kill(inspect(detached)["actors"]["coordinator"]["pid"], signal.SIGKILL)
    gates.open()
    wait_until(lambda: last_round(detached) == 3, 60)
    wait_until(lambda: "actors" not in inspect(detached), 60)
    assert inspect(detached)["next"] == f"serket attach {detached}"
    serket("attach", detached)
    assert digests(detached) == expected
    assert "result" in inspect(detached)


def test_the_failure_of_a_detached_run_is_reported_until_the_run_is_resumed(config, tmp_path, address):
    fail = ("--set", "modules.encoder.fail_in_round=2")
    serket("run", config, "--runs", tmp_path, "--address", address, "--detach", *fail)
    path = tmp_path / "small"
    wait_until(lambda: "failure" in inspect(path), 60)
    assert "as the test asked" in inspect(path)["failure"]
    output = Command("attach", path).process.communicate(timeout=120)[0]  # includes the module's traceback
    assert "the run failed: module 'encoder' raised an error" in output
    assert f"the last commit is round-001, continue with serket resume {path}" in output
    assert "the run failed" in Command("attach", path).process.communicate(timeout=120)[0]


def test_a_run_on_a_cluster_that_cannot_be_joined_is_not_resumed(detached):
    output = serket("resume", detached, code=2, RAY_AUTH_TOKEN="0" * 64)
    assert "it is not known whether the run is still running" in output


def test_a_second_run_of_the_same_name_on_a_cluster_is_rejected(detached, config, tmp_path, address):
    output = serket("run", config, "--runs", tmp_path / "other", "--address", address, code=2)
    assert "a run called small is on this cluster already; choose another --name" in output
    assert not (tmp_path / "other" / "small").exists()
