"""Tests of the timeline of a run's events."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.graph.graph import Graph
from actors.graph.spec import Connection, ModuleSpec
from runner.report.timeline import timeline, write_timeline
from runner.runs.directory import RunDirectory, RunDirectoryError
from tests.support.events import timed


def update(module, begun, ended, seconds, **place):
    place = {"module": module, "round": 1, "step": 0, **place}
    begin = timed("update", begun, **place)
    return begin, timed("updated", ended, seconds=seconds, evidence=-2.0, **place)


def spans(events, category):
    trace = timeline("r", ["data", "vae", "gmm"], sorted(events, key=lambda event: event.time))
    tracks = {e["tid"]: e["args"]["name"] for e in trace if e["name"] == "thread_name"}
    return [(tracks[e["tid"]], e["name"], e["ts"] / 1e6, e["dur"] / 1e6) for e in trace if e.get("cat") == category]


def test_an_update_is_a_span_on_its_modules_track():
    assert spans(update("gmm", 10.0, 12.0, 2.0), "update") == [("gmm", "round 1, step 0", 10.0, 2.0)]


def test_updates_in_parallel_overlap_for_their_measured_seconds():
    # Both start together; the second answer is collected after the first, although it was available earlier.
    vae = update("vae", 10.0, 15.0, 5.0)
    gmm = update("gmm", 10.0, 15.1, 2.0)
    assert [(track, took) for track, _, _, took in spans([*vae, *gmm], "update")] == [("vae", 5.0), ("gmm", 2.0)]


def test_a_span_has_the_seconds_of_its_own_update():
    first, second = update("gmm", 10.0, 12.0, 2.0), update("gmm", 13.0, 16.0, 1.0, step=1)
    assert [took for *_, took in spans([*first, *second], "update")] == [2.0, 1.0]


def spans_of_file(directory, *totals):
    """Return the seconds of updates in a log of version 0.1, which holds the running totals of a module's seconds."""
    lines = []
    for number, total in enumerate(totals):
        place = {"run": "r", "module": "gmm", "round": 1, "step": number}
        lines.append({"time": 10.0 + 3.0 * number, "event": "update", **place})
        lines.append({"time": 12.9 + 3.0 * number, "event": "updated", "total_seconds": total, **place})
    (directory.path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [pytest.approx(took) for *_, took in spans(directory.log, "update")]


def test_running_totals_in_a_log_of_version_0_1_become_seconds_of_each_update(directory):
    assert spans_of_file(directory, 2.0, 3.0) == [2.0, 1.0]


def test_a_lower_total_after_a_restart_in_a_log_of_version_0_1_is_unknown(directory):
    assert spans_of_file(directory, 2.0, 1.0) == [2.0, 2.9]  # if unknown, the time between the two events


def test_rounds_and_commits_are_on_the_coordinators_track():
    rounds = [
        timed("round", 1.0, round=1),
        timed("round", 5.0, round=2),
        timed("log", 7.0, message="so"),
    ]
    commit = timed("commit", 4.0, round=1, name="round-001", whole=True, seconds=0.5)
    assert spans([*rounds, commit], "round") == [
        ("coordinator", "round 1", 1.0, 3.0),
        ("coordinator", "round 2", 5.0, 2.0),
    ]
    assert spans([*rounds, commit], "commit") == [("coordinator", "commit round-001", 3.5, 0.5)]


def test_an_interrupted_round_ends_at_its_last_event_and_continues_after_the_resumption():
    step = timed("commit", 4.0, round=1, name="round-001-step-01", whole=False, seconds=0.5)
    resumed = [
        timed("restarted", 100.0),
        timed("resumed", 101.0, round=1, step=1, name="round-001-step-01"),
    ]
    whole = timed("commit", 103.0, round=1, name="round-001", whole=True, seconds=0.5)
    begun = [timed("round", 1.0, round=1), timed("update", 3.9, module="gmm", round=1, step=0)]
    finished = timed("updated", 102.0, module="gmm", round=1, step=1, seconds=5.0)
    events = [*begun, step, *resumed, finished, whole]
    assert spans(events, "round") == [("coordinator", "round 1", 1.0, 3.0), ("coordinator", "round 1", 101.0, 2.0)]
    assert spans(events, "update") == [("gmm", "round 1, step 1", 102.0, 0.0)]


def test_exchanges_have_different_titles():
    assert spans(update("gmm", 1.0, 2.0, 1.0, exchange=3), "update")[0][1] == "round 1, step 0, exchange 3"


def test_deaths_are_instants_and_scores_are_counters():
    events = [
        timed("lost", 2.0, module="vae", doing="update", times=1, reason="gone"),
        timed("scores", 3.0, round=1, evidence=-7.5, accuracy=None),
    ]
    trace = timeline("r", ["vae"], events)
    assert [(e["name"], e["args"]) for e in trace if e["ph"] == "i"] == [
        ("lost", {"doing": "update", "times": 1, "reason": "gone"})
    ]
    assert [e["args"] for e in trace if e["ph"] == "C"] == [{"evidence": -7.5}]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(
        tmp_path, "r", Graph([ModuleSpec("data", "observation"), ModuleSpec("gmm", "gmm")], [Connection("data", "gmm")])
    )


def test_the_json_file_names_the_run_and_its_modules(directory: RunDirectory, tmp_path: Path):
    events = update("gmm", 10.0, 12.0, 2.0)
    directory.log.append(events)
    assert write_timeline(directory, tmp_path / "out.json") == 1
    content = json.loads((tmp_path / "out.json").read_text())
    named = [
        event["args"]["name"] for event in content["traceEvents"] if event["ph"] == "M" and "name" in event["args"]
    ]
    assert named == ["run r", "coordinator", "data", "gmm"]


def test_a_run_without_events_is_an_error(directory: RunDirectory, tmp_path: Path):
    with pytest.raises(RunDirectoryError, match="no events yet"):
        write_timeline(directory, tmp_path / "out.json")


def test_a_directory_as_output_file_is_an_error(directory: RunDirectory, tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=f"^{tmp_path}: a directory; name the file"):
        write_timeline(directory, tmp_path)


def test_each_worker_has_a_track_below_its_module_with_the_seconds_for_which_it_was_busy():
    begun, ended = update("vae", 10.0, 15.0, 5.0)
    shared = replace(ended.event, worker_seconds={"vae": 4.0, "vae#1": 3.0}, worker_rows={"vae": 7.0, "vae#1": 6.0})
    events = [begun, replace(ended, event=shared), *update("gmm", 16.0, 17.0, 1.0)]
    assert spans(events, "worker") == [("vae#1", "round 1, step 0", 10.0, 3.0)]
    trace = timeline("r", ["data", "vae", "gmm"], events)
    names = {e["tid"]: e["args"]["name"] for e in trace if e["name"] == "thread_name"}
    places = {names[e["tid"]]: e["args"]["sort_index"] for e in trace if e["name"] == "thread_sort_index"}
    assert sorted(places, key=places.get) == ["coordinator", "data", "vae", "vae#1", "gmm"]
    assert next(e["args"]["rows"] for e in trace if e.get("cat") == "worker") == 6.0
