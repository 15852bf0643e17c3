"""A run directory of version 0.1.0 (tests/data/old_run): inspected, shown, recognized and predicted from, resumed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from runner import Model
from runner.cli.app import app
from runner.data.datasets import load
from runner.report.clustering_metrics import score
from runner.runs.directory import open_run

OLD = Path(__file__).parents[1] / "data" / "old_run"


@pytest.fixture
def run(tmp_path):
    """A copy of the run: two rounds of ``configs/hmm.yaml``, done, with events that no driver had fetched."""
    return Path(shutil.copytree(OLD, tmp_path / "old_run"))


@pytest.fixture
def data(tmp_path):
    """A hundred rows in cyclic order and their categories, as files."""
    points = load("cycle", order="cyclic")
    np.save(tmp_path / "rows.npy", points.observations)
    np.save(tmp_path / "categories.npy", points.categories)
    return tmp_path / "rows.npy", tmp_path / "categories.npy"


def serket(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def last_json(output):
    return json.loads(output.strip().splitlines()[-1])


def test_it_is_inspected(run):
    inspected = last_json(serket("inspect", run, "--json"))
    assert inspected["commits"] == ["round-000", "round-001", "round-002"]
    assert (inspected["result"]["rounds"], inspected["result"]["accuracy"]) == (2, 1.0)


def test_its_timeline_shows_the_seconds_of_each_update(run, tmp_path):
    """The log holds running totals of seconds; the last one is the sum over the module's updates and its chains."""
    serket("inspect", run, "--timeline", tmp_path / "timeline.json")
    trace = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    updates = [each for each in trace if each.get("cat") == "update"]
    assert len(updates) == sum('"event": "updated"' in line for line in (run / "events.jsonl").read_text().splitlines())
    assert all(each["dur"] >= 0 for each in updates)
    assert {each["name"] for each in trace if each["ph"] == "i"} >= {"placed", "prepared", "chain", "selected"}


def test_its_modules_recognize_new_rows(run, data):
    rows, categories = data
    assert last_json(serket("recognize", run, rows, "--categories", categories, "--json"))["accuracy"] == 1.0
    out_of_order = last_json(serket("recognize", run, rows, "--categories", categories, "--unordered", "--json"))
    assert out_of_order["accuracy"] >= 0.8


def test_it_predicts_the_next_classes(run, data, tmp_path):
    rows, categories = data
    out = tmp_path / "predicted.png"
    predicted = last_json(
        serket("predict", run, rows, "--categories", categories, "--steps", 4, "--out", out, "--json")
    )
    assert predicted["categories"] == [0, 1, 2, 3]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_it_is_resumed_for_a_further_round_with_the_events_that_were_saved(run):
    before = {path: path.read_bytes() for path in (run / "checkpoints").glob("round-00[012]/*")}
    result = last_json(serket("resume", run, "--set", "schedule.rounds=3", "--json"))
    assert (result["rounds"], result["accuracy"]) == (3, 1.0)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert open_run(run).directory.checkpoints.names()[-1] == "round-003"
    messages = [json.loads(line).get("message") for line in (run / "events.jsonl").read_text().splitlines()]
    assert messages.count("written by a coordinator nobody watched") == 1
    assert not (run / "checkpoints" / "unheard" / "events.json").exists()


def test_it_is_loaded_in_python(run, data):
    model, rows = Model.load(run), np.load(data[0])
    classes = model.predict(rows)
    assert score(classes, np.load(data[1])).accuracy == 1.0
    np.testing.assert_array_equal(model.predict_next(rows, 4).argmax(axis=1), classes[:4])
    assert model.run.metrics["round"].tolist() == [1, 2]
    assert "trained in 2 rounds" in model._repr_html_()
