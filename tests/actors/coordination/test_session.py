"""Tests of the session: polling, start, end, and resumption of a run in a thread."""

import gc
import itertools
import sys
import time
import tracemalloc

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.events import LogMessage
from actors.coordination.session import Instrumentation, RunSpec, Session, update_job
from actors.limits import MAX_KEPT_EVENTS, MAX_UNREAD_EVENTS
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, model

STATES = {"data": {"values": ROWS}}

MAX_GROWTH = 100.0
"""Most bytes by which a coordinator and its modules may grow in a round: 2 and 26 were measured, and one path that is
kept in each round has 370."""


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


@pytest.mark.parametrize("step", [0.0, -3600.0, 3600.0])
def test_events_are_numbered_whatever_the_clock_says(step):
    times = (7.0 + step * number for number in itertools.count())
    one = session(instrumentation=Instrumentation(clock=lambda: next(times)))
    for number in range(100):
        one.emit(LogMessage(str(number)))
    incarnation, events, _ = one.poll(0, "")
    assert [each.number for each in events] == list(range(100))
    assert {each.incarnation for each in events} == {incarnation}
    assert [each.event.message for each in one.poll(60, incarnation)[1]] == [str(number) for number in range(60, 100)]


def test_events_that_a_driver_has_received_are_dropped_except_for_the_last_ones():
    one = session()
    for number in range(3 * MAX_KEPT_EVENTS):
        one.emit(LogMessage(str(number)))
    incarnation, events, _ = one.poll(0, "")
    assert len(events) == 3 * MAX_KEPT_EVENTS
    one.poll(len(events), incarnation)
    assert [each.number for each in one.poll(0, "")[1]] == list(range(2 * MAX_KEPT_EVENTS, 3 * MAX_KEPT_EVENTS))
    one.emit(LogMessage("next"))
    assert [each.number for each in one.poll(len(events), incarnation)[1]] == [len(events)]
    assert one.poll(10**9, incarnation)[1] == []  # a number that was not sent yet confirms nothing more
    one.emit(LogMessage("last"))
    assert one.poll(len(events) + 1, incarnation)[1][0].event == LogMessage("last")


def test_events_that_nobody_fetches_are_written_beside_the_commits(tmp_path):
    one = session(tmp_path, detached=True)
    emitted = 2 * MAX_UNREAD_EVENTS + 100
    for number in range(emitted):
        one.emit(LogMessage(str(number)))
    kept = one.poll(0, "")[1]
    assert len(kept) <= MAX_UNREAD_EVENTS
    one.save_events()
    files = Checkpoints(tmp_path).status_files
    saved = files.read_events()
    assert [each[3] for each in saved] == list(range(emitted))
    assert {each[4] for each in saved} == {one.incarnation}
    files.clear_events()
    assert Checkpoints(tmp_path).status_files.read_events() == []


def test_events_are_dropped_where_nothing_can_be_written(tmp_path):
    for one in (session(), session(tmp_path / "file" / "checkpoints")):
        (tmp_path / "file").touch()
        for number in range(2 * MAX_UNREAD_EVENTS):
            one.emit(LogMessage(str(number)))
        assert one.poll(0, "")[1][-1].number == 2 * MAX_UNREAD_EVENTS - 1


@pytest.mark.slow
def test_the_memory_of_a_coordinator_does_not_grow_over_five_thousand_rounds(tmp_path, capsys):
    rounds = 5000
    measured = np.zeros(rounds + 1)  # filled in: a list of what each poll measured would be measured itself
    one = session(tmp_path, model(rounds=rounds), keep=2)
    tracemalloc.start()
    try:
        one.begin(STATES)
        incarnation, since, ended = "", 0, ""
        while not ended:
            incarnation, events, status = one.poll(since, incarnation, wait=0.1)
            since, ended = events[-1].number + 1 if events else since, status["ended"]
            measured[status["round"]] = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert ended == "done"
    seen = np.flatnonzero(measured)
    seen = seen[seen >= rounds // 5]
    slope = np.polyfit(seen, measured[seen], 1)[0]
    with capsys.disabled():
        print(f"\nmemory of a coordinator over {rounds} rounds: {slope:.0f} bytes a round")
    assert abs(slope) < 200


@pytest.mark.slow
def test_a_coordinator_keeps_nothing_of_the_rounds_before_its_last_commits(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.coordination.session.MAX_KEPT_EVENTS", 100)  # those of 12 rounds
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)  # half of the time of this test, or more
    spec, received, used = RunSpec(model(rounds=200), root=str(tmp_path), keep=2), [0], {}

    def observe(event):
        if event.event == "commit":
            events = one.poll(received[0], one.incarnation)[1]
            received[0] = events[-1].number + 1 if events else received[0]
            if event.round in (80, 200):
                gc.collect()
                sys._clear_type_cache()  # keeps up to 4,096 names of attributes
                used[event.round] = tracemalloc.get_traced_memory()[0]

    one = Session(spec, InProcessBackend(), spec.checkpoints(), observe)
    tracemalloc.start()
    try:
        one.coordinator.start(STATES)
        one.coordinator.run_rounds()
    finally:
        tracemalloc.stop()
    assert (used[200] - used[80]) / 120 < MAX_GROWTH


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


def test_a_session_is_not_idle_while_it_answers_a_request_of_a_driver():
    one = session()
    one.begin(STATES)
    wait_until_ended(one)
    with one.answering():
        time.sleep(0.02)
        assert not one.close_if_idle(0.01)
    assert not one.close_if_idle(10.0)
    time.sleep(0.02)
    assert one.close_if_idle(0.01)


def test_the_events_of_a_detached_run_are_saved_beside_its_commits(tmp_path):
    one = session(tmp_path, detached=True)
    one.save_events()
    assert Checkpoints(tmp_path).status_files.read_events() == []
    one.begin(STATES)
    wait_until_ended(one)
    one.save_events()
    files = Checkpoints(tmp_path).status_files
    saved = [
        (each.event.event, each.time, each.event.fields(), each.number, each.incarnation) for each in one.poll(0, "")[1]
    ]
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
