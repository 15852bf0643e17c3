"""Tests of the session: polling, start, end, and resumption of a run in a thread."""

import time

import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.events import LogMessage
from actors.coordination.session import RunSpec, Session, update_job
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, model

STATES = {"data": {"values": ROWS}}


def session(root=None, graph=None, **fields):
    spec = RunSpec(graph or model(), root=None if root is None else str(root), **fields)
    return Session(spec, InProcessBackend(), spec.checkpoints())


def names_of(events):
    return [each.event.event for each in events]


def wait_until_ended(running):
    """Wait for the end of the session's job, and return how it ended."""
    while not (status := running.poll(0, "", wait=10.0)[2])["ended"]:
        pass
    return status["ended"]


def test_a_new_run_waits_until_it_is_started(tmp_path):
    new = session(tmp_path)
    new.resume_if_committed()
    assert wait_until_ended(new) == "idle"
    new.begin(STATES)
    assert wait_until_ended(new) == "done"
    assert Checkpoints(tmp_path).latest().round == 2


def test_events_are_returned_once_and_all_of_them_after_a_change_of_session():
    one = session()
    one.begin(STATES)
    wait_until_ended(one)
    incarnation, events, status = one.poll(0, "")
    assert names_of(events)[:2] == ["placed", "placed"]
    assert status["job"] == "rounds"
    assert one.poll(len(events), incarnation)[1] == []
    assert one.poll(len(events), "another's")[1] == events


def test_events_have_distinct_times_with_a_constant_clock(monkeypatch):
    monkeypatch.setattr("actors.coordination.session.time.time", lambda: 7.0)
    one = session()
    for number in range(100):
        one.emit(LogMessage(str(number)))
    times = [each.time for each in one.poll(0, "")[1]]
    assert times == sorted(set(times))


def test_a_run_is_started_only_once(tmp_path):
    one = session(tmp_path)
    one.begin(STATES)
    one.begin(STATES)
    wait_until_ended(one)
    assert names_of(one.poll(0, "")[1]).count("round") == 2


def test_a_session_of_a_run_with_commits_resumes_it_by_itself(tmp_path):
    first = session(tmp_path, model(rounds=1))
    first.begin(STATES)
    wait_until_ended(first)
    resumed = session(tmp_path, model(rounds=2))
    resumed.begin(STATES)  # has no effect on a run with commits
    assert wait_until_ended(resumed) == "idle"
    resumed.resume_if_committed()
    assert wait_until_ended(resumed) == "done"
    names = names_of(resumed.poll(0, "")[1])
    assert names[0] == "restarted"
    assert names.count("resumed") == names.count("round") == 1


def test_a_run_can_be_halted(tmp_path):
    one = session(tmp_path, model(rounds=1000, seconds=0.01))
    one.begin(STATES)
    while one.poll(0, "")[2]["round"] < 2:
        time.sleep(0.005)
    one.halt("round")
    assert wait_until_ended(one) == "stopped"
    latest = Checkpoints(tmp_path).latest()
    assert latest.step is None
    assert 2 <= latest.round < 1000


def test_the_outcome_of_a_failed_run_raises_its_exception(tmp_path):
    one = session(tmp_path, model(fail_in_round=2))
    one.begin(STATES)
    assert wait_until_ended(one) == "failed"
    with pytest.raises(ArithmeticError, match="as the test asked"):
        one.outcome()
    assert Checkpoints(tmp_path).latest().round == 1


def test_single_updates_continue_in_another_session(tmp_path):
    one = session(tmp_path, scheduled=False)
    one.begin(STATES)
    assert wait_until_ended(one) == "done"
    one.update("encoder", 1, 0)
    assert wait_until_ended(one) == "done"
    assert one.poll(0, "")[2]["job"] == update_job("encoder", 1, 0)
    resumed = session(tmp_path, scheduled=False)
    resumed.resume_if_committed()
    assert wait_until_ended(resumed) == "done"
    resumed.update("mirror", 1, 1)
    assert wait_until_ended(resumed) == "done"
    assert set(Checkpoints(tmp_path).latest().modules) == {"data", "encoder", "mirror"}


def test_a_session_is_idle_only_after_its_run_has_ended_and_without_polls():
    one = session()
    assert not one.idle_for(1.0)  # not started yet
    one.begin(STATES)
    wait_until_ended(one)
    assert not one.idle_for(60.0)
    time.sleep(0.01)
    assert one.idle_for(0.005)


def test_the_events_of_a_detached_run_are_saved_beside_its_commits(tmp_path):
    one = session(tmp_path, detached=True)
    one.save_events()
    assert Checkpoints(tmp_path).status_files.read_events() == []
    one.begin(STATES)
    wait_until_ended(one)
    one.save_events()
    files = Checkpoints(tmp_path).status_files
    saved = [(each.event.event, each.time, each.event.fields()) for each in one.poll(0, "")[1]]
    assert files.read_events() == saved
    files.clear_events()
    files.clear_events()
    assert files.read_events() == []


@pytest.mark.parametrize("content", [b"", b"[", b"[1]", b'[["a", "b", {}]]', b'{"a": 1}', b"\xff"])
@pytest.mark.parametrize("directory", ["unread_events", "unheard"])  # the second one is that of version 0.1
def test_an_invalid_file_of_saved_events_is_ignored(tmp_path, content, directory):
    (tmp_path / directory).mkdir()
    (tmp_path / directory / "events.json").write_bytes(content)
    assert Checkpoints(tmp_path).status_files.read_events() == []
