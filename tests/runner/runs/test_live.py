"""The live state of a run: read from its files by another process, piece by piece."""

import json
import time
from pathlib import Path

import pytest

from actors.coordination.events import (
    Committed,
    CoordinatorRestarted,
    ModuleDied,
    ModuleRecovered,
    RoundStarted,
    Scored,
    TimedEvent,
    UpdateFinished,
    UpdateStarted,
)
from runner.report.progress import format_duration
from runner.runs.live import LIVE, STALE_SECONDS, LiveFile, LiveRun
from runner.runs.outline import read_outline

CONFIG = """
name: small
data: {source: cycle}
modules: {gmm: {type: gmm, classes: 4}, mm: {type: markov}}
connections: [data -> gmm, gmm -> mm]
schedule: {rounds: 4}
"""
NOW = time.time()


@pytest.fixture
def outline(tmp_path):
    path = tmp_path / "small"
    path.mkdir()
    (path / "config.yaml").write_text(CONFIG)
    return read_outline(path)


@pytest.fixture
def driven(outline):
    """The outline of a run whose lock this process holds, as its driver."""
    with outline.directory.lock():
        yield outline


def emit(outline, *events, start=NOW):
    outline.directory.log.append([TimedEvent(start + number, event) for number, event in enumerate(events)])


def test_events_tell_what_modules_do(driven):
    live = LiveRun(driven)
    emit(driven, RoundStarted(1), UpdateStarted(0, "gmm", 1))
    state = live.poll()
    assert (state["round"], state["rounds"], state["ended"]) == (1, 4, "")
    assert [state["modules"][name]["state"] for name in ("data", "gmm", "mm")] == ["waiting", "learning", "waiting"]
    emit(driven, UpdateFinished(0, "gmm", 1, seconds=2.0, metrics={"evidence": -3.5, "score": -4.5}), start=NOW + 2)
    state = live.poll()
    assert state["modules"]["gmm"] == {
        "state": "waiting",
        "note": "learnt for 2.0 s",
        "metrics": "own evidence=-3.5 nats, own score=-4.5 nats",
    }


def test_each_event_is_read_once_and_a_line_that_is_being_written_waits(driven):
    live = LiveRun(driven)
    emit(driven, UpdateFinished(0, "gmm", 1, seconds=2.0))
    path = driven.directory.path / "events.jsonl"
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(whole[:30])
    assert live.poll()["modules"]["gmm"]["note"] == "learnt for 2.0 s"
    with path.open("ab") as file:
        file.write(whole[30:])
    assert live.poll()["modules"]["gmm"]["note"] == "learnt for 4.0 s"
    assert live.poll()["modules"]["gmm"]["note"] == "learnt for 4.0 s"


def test_rounds_give_evidence_and_the_time_left(driven):
    """Two rounds of 10 s each are done, and 2 of 4 are left: 20 s, less what the third has taken."""
    live = LiveRun(driven)
    for number in (1, 2):
        begun = time.time() - 20 + 10 * (number - 1)
        emit(driven, RoundStarted(number), start=begun)
        emit(driven, Committed(number, f"round-00{number}", True, 0.1, None, 10.0 * number), start=begun + 10)
        emit(driven, Scored(number, evidence=10.0 * number, accuracy=0.5 * number), start=begun + 10)
    emit(driven, RoundStarted(3), start=time.time())
    state = live.poll()
    assert state["evidence"] == [[1, 10.0], [2, 20.0]]
    assert state["accuracy"] == [[1, 0.5], [2, 1.0]]
    assert state["left"] in ("about 20.0 s", "about 19.9 s", "about 19.8 s")
    assert state["share"] == pytest.approx(0.5, abs=0.01)


def test_deaths_are_shown_until_the_module_is_back(driven):
    live = LiveRun(driven)
    emit(driven, RoundStarted(1), UpdateStarted(0, "gmm", 1), ModuleDied("gmm", "update", 1, "killed \x1b[31m"))
    state = live.poll()
    assert state["modules"]["gmm"]["state"] == "lost"
    assert state["faults"][0]["text"] == "gmm died during update: killed \\x1b[31m"
    emit(driven, ModuleRecovered("gmm", 1.25), CoordinatorRestarted(), start=NOW + 5)
    state = live.poll()
    assert state["modules"]["gmm"]["state"] == "waiting"
    assert [fault["text"] for fault in state["faults"][1:]] == [
        "gmm recovered after 1.2 s",
        "the coordinator was started again",
    ]


def test_the_driver_says_how_far_a_module_is_at_most_once_a_second(driven):
    now = [10.0]
    file = LiveFile(driven.directory, clock=lambda: now[0])
    live = LiveRun(driven)
    emit(driven, RoundStarted(1))

    def write(done):
        activity = {"doing": "learning", "done": done, "total": 8, "loss": 0.25, "odd": [1]}
        file.write({"round": 1, "active": {"gmm": activity}})

    write(3)
    assert live.poll()["modules"]["gmm"] == {"state": "learning", "note": "3 of 8", "metrics": "loss=0.25"}
    write(4)
    assert live.poll()["modules"]["gmm"]["note"] == "3 of 8"
    now[0] += 1.0
    write(5)
    assert live.poll()["modules"]["gmm"]["note"] == "5 of 8"
    now[0] += 1.0
    file.write({"round": 1, "active": {}})
    assert live.poll()["modules"]["gmm"]["state"] == "waiting"
    file.remove()
    assert not (driven.directory.path / LIVE).exists()


def test_an_old_or_odd_live_file_tells_nothing(driven):
    live = LiveRun(driven)
    active = json.dumps({"gmm": {"done": 1, "total": 2}})
    for content in (
        json.dumps({"time": time.time() - STALE_SECONDS - 1, "round": 1, "active": active}),
        json.dumps({"time": time.time(), "round": 1, "active": "[1"}),
        json.dumps({"time": time.time(), "round": 1, "active": json.dumps({"gmm": 3, "other": {}})}),
        json.dumps({"time": "now", "active": active}),
        "[" * 100_000,
    ):
        (driven.directory.path / LIVE).write_text(content)
        assert live.poll()["modules"]["gmm"]["state"] == "waiting"


def test_a_run_that_nobody_drives_is_asked_for(outline):
    described = {
        "coordinator": {"round": 3, "ended": "", "active": {"gmm": {"doing": "learning", "done": 1, "total": 4}}},
        "modules": {"gmm": {"node": "10.0.0.1"}, "mm": {"node": "10.0.0.1"}},
    }
    state = LiveRun(outline, ask=lambda: described).poll()
    assert (state["round"], state["modules"]["gmm"]["note"], state["ended"]) == (3, "1 of 4", "")
    assert state["modules"]["mm"]["state"] == "waiting"


@pytest.mark.parametrize(
    ("described", "sentence"),
    [
        (None, "it is not running, as far as is known here; continue with serket resume "),
        ({"unknown": "no answer"}, "it is not known whether it runs: no answer"),
        ({"coordinator": {"round": 4, "ended": "done"}}, "it has ended (done); write its results with serket attach "),
    ],
)
def test_a_run_that_does_not_run_says_what_to_do(outline, described, sentence):
    assert LiveRun(outline, ask=lambda: described).poll()["ended"].startswith(sentence)


def test_the_end_of_a_run_is_its_result(outline):
    live = LiveRun(outline)
    emit(outline, RoundStarted(4), UpdateFinished(0, "gmm", 4, seconds=1.5))
    (outline.directory.path / "result.json").write_text(json.dumps({"run": "small", "rounds": 4}))
    state = live.poll()
    assert (state["ended"], state["share"], state["left"]) == ("done", 1.0, "")
    assert state["modules"]["gmm"] == {"state": "done", "note": "learnt for 1.5 s", "metrics": ""}


def test_the_result_of_fewer_rounds_is_not_the_end_of_a_run_that_goes_on(driven):
    emit(driven, RoundStarted(5))
    (driven.directory.path / "result.json").write_text(json.dumps({"run": "small", "rounds": 4}))
    assert LiveRun(driven).poll()["ended"] == ""


def test_a_run_of_version_0_1_shows_the_seconds_of_its_modules():
    """Its log has running totals: the last one is the seconds of all updates."""
    old = Path(__file__).parents[2] / "data" / "old_run"
    totals = {}
    for line in (old / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "updated":
            totals[event["module"]] = event["total_seconds"]
    state = LiveRun(read_outline(old)).poll()
    assert state["modules"]["gmm"]["note"] == f"learnt for {format_duration(totals['gmm'])}"


def test_watching_changes_no_file(driven):
    emit(driven, RoundStarted(1), UpdateStarted(0, "gmm", 1))
    before = {path: path.read_bytes() for path in Path(driven.directory.path).rglob("*") if path.is_file()}
    live = LiveRun(driven)
    live.poll()
    live.poll()
    after = {path: path.read_bytes() for path in Path(driven.directory.path).rglob("*") if path.is_file()}
    assert before == after
