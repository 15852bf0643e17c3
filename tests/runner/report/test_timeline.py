"""What a run's events look like as a timeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from actors.graph.spec import Connection, ModuleSpec

from actors.graph.graph import Graph
from runner.report.timeline import timeline, write_timeline
from runner.runs.directory import RunDirectory, RunDirectoryError


def happened(event, when, /, **fields):
    return {"time": when, "run": "r", "event": event, **fields}


def update(module, begun, ended, total, **place):
    place = {"module": module, "round": 1, "step": 0, **place}
    begin = happened("update", begun, **place)
    return begin, happened("updated", ended, total_seconds=total, evidence=-2.0, **place)


def spans(events, category):
    made = timeline("r", ["data", "vae", "gmm"], sorted(events, key=lambda event: event["time"]))
    tracks = {e["tid"]: e["args"]["name"] for e in made if e["name"] == "thread_name"}
    return [(tracks[e["tid"]], e["name"], e["ts"] / 1e6, e["dur"] / 1e6) for e in made if e.get("cat") == category]


def test_an_update_is_a_span_on_its_modules_track():
    assert spans(update("gmm", 10.0, 12.0, 2.0), "update") == [("gmm", "round 1, step 0", 10.0, 2.0)]


def test_modules_that_learn_at_the_same_time_overlap_as_long_as_they_learnt():
    # Both begin at once; the second answer is read only after the first, though it was there long before.
    vae = update("vae", 10.0, 15.0, 5.0)
    gmm = update("gmm", 10.0, 15.1, 2.0)
    assert [(track, took) for track, _, _, took in spans([*vae, *gmm], "update")] == [("vae", 5.0), ("gmm", 2.0)]


def test_seconds_inside_a_module_are_those_of_the_update_not_of_all_before_it():
    first, second = update("gmm", 10.0, 12.0, 2.0), update("gmm", 13.0, 16.0, 3.0, step=1)
    assert [took for *_, took in spans([*first, *second], "update")] == [2.0, 1.0]


def test_after_a_restart_the_seconds_may_count_from_less():
    first, second = update("gmm", 10.0, 12.0, 2.0), update("gmm", 13.0, 16.0, 1.0, step=1)
    assert [took for *_, took in spans([*first, *second], "update")] == [2.0, 3.0]


def test_rounds_and_commits_are_the_coordinators():
    rounds = [happened("round", 1.0, round=1), happened("round", 5.0, round=2), happened("log", 7.0, message="so")]
    commit = happened("commit", 4.0, round=1, name="round-001", whole=True, seconds=0.5)
    assert spans([*rounds, commit], "round") == [
        ("coordinator", "round 1", 1.0, 3.0),
        ("coordinator", "round 2", 5.0, 2.0),
    ]
    assert spans([*rounds, commit], "commit") == [("coordinator", "commit round-001", 3.5, 0.5)]


def test_a_round_that_was_interrupted_ends_there_and_goes_on_where_it_is_taken_up():
    step = happened("commit", 4.0, round=1, name="round-001-step-01", whole=False, seconds=0.5)
    taken_up = [happened("restarted", 100.0), happened("resumed", 101.0, round=1, step=1, name="round-001-step-01")]
    whole = happened("commit", 103.0, round=1, name="round-001", whole=True, seconds=0.5)
    begun = [happened("round", 1.0, round=1), happened("update", 3.9, module="gmm", round=1, step=0)]
    learnt = happened("updated", 102.0, module="gmm", round=1, step=1, total_seconds=5.0)
    events = [*begun, step, *taken_up, learnt, whole]
    assert spans(events, "round") == [("coordinator", "round 1", 1.0, 3.0), ("coordinator", "round 1", 101.0, 2.0)]
    assert spans(events, "update") == [("gmm", "round 1, step 1", 102.0, 0.0)]


def test_exchanges_are_told_apart():
    assert spans(update("gmm", 1.0, 2.0, 1.0, exchange=3), "update")[0][1] == "round 1, step 0, exchange 3"


def test_deaths_are_moments_and_scores_curves():
    events = [happened("lost", 2.0, module="vae", reason="gone"), happened("scores", 3.0, evidence=-7.5, accuracy=None)]
    made = timeline("r", ["vae"], events)
    assert [(e["name"], e["args"]) for e in made if e["ph"] == "i"] == [("lost", {"reason": "gone"})]
    assert [e["args"] for e in made if e["ph"] == "C"] == [{"evidence": -7.5}]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(
        tmp_path, "r", Graph([ModuleSpec("data", "observation"), ModuleSpec("gmm", "gmm")], [Connection("data", "gmm")])
    )


def test_the_file_is_json_that_names_the_run_and_its_modules(directory: RunDirectory, tmp_path: Path):
    events = update("gmm", 10.0, 12.0, 2.0)
    directory.log.append([(e["event"], e["time"], {k: e[k] for k in e if k not in ("event", "time")}) for e in events])
    assert write_timeline(directory, tmp_path / "out.json") == 1
    content = json.loads((tmp_path / "out.json").read_text())
    named = [
        event["args"]["name"] for event in content["traceEvents"] if event["ph"] == "M" and "name" in event["args"]
    ]
    assert named == ["run r", "coordinator", "data", "gmm"]


def test_a_run_without_events_is_told_so(directory: RunDirectory, tmp_path: Path):
    with pytest.raises(RunDirectoryError, match="no events yet"):
        write_timeline(directory, tmp_path / "out.json")


def test_a_directory_is_no_file_to_write(directory: RunDirectory, tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=f"^{tmp_path}: a directory; name the file"):
        write_timeline(directory, tmp_path)
