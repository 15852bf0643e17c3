"""A run in a thread of its own: what it tells those who ask, and how it begins, ends and is taken up again."""

import time

import pytest

from actors.backends.in_process import InProcess
from actors.coordination.session import Plan, Session, update_job
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, model

STATES = {"data": {"values": ROWS}}


def session(root=None, graph=None, **plan):
    made = Plan(graph or model(), root=None if root is None else str(root), **plan)
    return Session(made, InProcess(), made.checkpoints())


def ended(of):
    """Wait for the end of what the session does; how it ended."""
    while not (status := of.poll(0, "", wait=10.0)[2])["ended"]:
        pass
    return status["ended"]


def test_a_new_run_waits_until_it_is_begun(tmp_path):
    new = session(tmp_path)
    new.take_up()
    assert ended(new) == "idle"
    new.begin(STATES)
    assert ended(new) == "done"
    assert Checkpoints(tmp_path).latest().round == 2


def test_events_are_told_once_and_another_sessions_from_the_beginning():
    one = session()
    one.begin(STATES)
    ended(one)
    life, events, status = one.poll(0, "")
    assert [name for name, _, _ in events][:2] == ["placed", "placed"]
    assert status["job"] == "rounds"
    assert one.poll(len(events), life)[1] == []
    assert one.poll(len(events), "another's")[1] == events


def test_no_two_events_have_the_same_time_even_where_the_clock_stands(monkeypatch):
    monkeypatch.setattr("actors.coordination.session.time.time", lambda: 7.0)
    one = session()
    for number in range(100):
        one.emit("told", {"number": number})
    times = [when for _, when, _ in one.poll(0, "")[1]]
    assert times == sorted(set(times))


def test_what_was_begun_is_not_begun_again(tmp_path):
    one = session(tmp_path)
    one.begin(STATES)
    one.begin(STATES)
    ended(one)
    assert sum(name == "round" for name, _, _ in one.poll(0, "")[1]) == 2


def test_a_session_that_comes_to_a_run_with_commits_takes_it_up_by_itself(tmp_path):
    first = session(tmp_path, model(rounds=1))
    first.begin(STATES)
    ended(first)
    heir = session(tmp_path, model(rounds=2))
    heir.begin(STATES)  # somebody who does not know better
    assert ended(heir) == "idle"
    heir.take_up()
    assert ended(heir) == "done"
    names = [name for name, _, _ in heir.poll(0, "")[1]]
    assert names[0] == "restarted"
    assert names.count("resumed") == names.count("round") == 1


def test_a_run_can_be_halted(tmp_path):
    one = session(tmp_path, model(rounds=1000, seconds=0.01))
    one.begin(STATES)
    while one.poll(0, "")[2]["round"] < 2:
        time.sleep(0.005)
    one.halt("round")
    assert ended(one) == "stopped"
    latest = Checkpoints(tmp_path).latest()
    assert latest.step is None
    assert 2 <= latest.round < 1000


def test_what_fails_is_told_to_whoever_asks(tmp_path):
    one = session(tmp_path, model(fail_in_round=2))
    one.begin(STATES)
    assert ended(one) == "failed"
    with pytest.raises(ArithmeticError, match="as the test asked"):
        one.outcome()
    assert Checkpoints(tmp_path).latest().round == 1


def test_updates_are_done_one_by_one_and_taken_up_by_another_session(tmp_path):
    one = session(tmp_path, scheduled=False)
    one.begin(STATES)
    assert ended(one) == "done"
    one.update("encoder", 1, 0)
    assert ended(one) == "done"
    assert one.poll(0, "")[2]["job"] == update_job("encoder", 1, 0)
    heir = session(tmp_path, scheduled=False)
    heir.take_up()
    assert ended(heir) == "done"
    heir.update("mirror", 1, 1)
    assert ended(heir) == "done"
    assert set(Checkpoints(tmp_path).latest().modules) == {"data", "encoder", "mirror"}


def test_a_run_is_abandoned_only_when_it_has_ended_and_nobody_asks():
    one = session()
    assert not one.abandoned(1.0)  # whoever made it will begin it, sooner or later
    one.begin(STATES)
    ended(one)
    assert not one.abandoned(60.0)
    time.sleep(0.01)
    assert one.abandoned(0.005)


def test_what_happened_in_a_run_that_nobody_watched_is_left_beside_its_commits(tmp_path):
    one = session(tmp_path, detached=True)
    one.leave_word()
    assert Checkpoints(tmp_path).notes.events() == []
    one.begin(STATES)
    ended(one)
    one.leave_word()
    notes = Checkpoints(tmp_path).notes
    assert notes.events() == one.poll(0, "")[1]
    notes.forget_events()
    notes.forget_events()
    assert notes.events() == []


@pytest.mark.parametrize("left", [b"", b"[", b"[1]", b'[["a", "b", {}]]', b'{"a": 1}', b"\xff"])
def test_a_word_that_cannot_be_read_is_none(tmp_path, left):
    (tmp_path / "unheard").mkdir()
    (tmp_path / "unheard" / "events.json").write_bytes(left)
    assert Checkpoints(tmp_path).notes.events() == []
