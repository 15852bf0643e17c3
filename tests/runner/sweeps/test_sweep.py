"""A sweep trains every combination, goes on where it was cut off, and reports what its runs say."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.storage.checkpoints import Checkpoints
from runner import Model
from runner.cli.app import app
from runner.config.run_config import load_config
from runner.runs.comparison import ComparedRun
from runner.runs.directory import open_run
from runner.sweeps import trials
from runner.sweeps.plan import Sweep, parse_grid, read_sweep
from runner.sweeps.summary import PointResult, Summary, TrialResult

ROWS = np.random.default_rng(0).normal(size=(60, 2)) + 6.0 * (np.arange(60) % 3)[:, None]
MODEL = """
name: arm
seed: 4
data: {source: files, observations: rows.csv, categories: labels.txt}
modules:
  gmm: {type: gmm, classes: 3, iterations: 3, prior_scale: data}
  mm: {type: markov}
connections: [data -> gmm -> mm]
schedule: {rounds: 2, steps: [gmm, mm]}
"""


def write_model(path):
    np.savetxt(path / "rows.csv", ROWS, delimiter=",", header="x,y", comments="")
    np.savetxt(path / "labels.txt", np.arange(60) % 3, fmt="%d")
    (path / "arm.yaml").write_text(MODEL)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of four trials, with what it has printed."""
    path = tmp_path_factory.mktemp("swept")
    write_model(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        return path, serket("arm.yaml", "--grid", "gmm.classes=2,3", "--seeds", "0:2", "--local")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_model(tmp_path)
    return tmp_path


def serket(*words, status=0):
    done = CliRunner().invoke(app, ["sweep", *words], prog_name="serket")
    assert done.exit_code == status, done.output
    return done


def table(sweep):
    return list(csv.DictReader((sweep / "sweep.csv").open()))


def test_every_combination_is_a_run_with_the_bits_of_the_run_alone(swept, monkeypatch):
    path, done = swept
    monkeypatch.chdir(path)
    rows = table(path / "runs/arm-sweep")
    assert [(row["modules.gmm.classes"], row["seed"]) for row in rows] == [(k, s) for k in "23" for s in "01"]
    assert {row["state"] for row in rows} == {"done"}
    alone = Model.from_file("arm.yaml", **{"modules.gmm.classes": 3, "seed": 1}).fit(progress=False)
    last = path / "runs/arm-sweep" / rows[-1]["trial"]
    assert float(rows[-1]["evidence"]) == alone.run.summary["evidence"]
    assert (Model.load(last).run.means["gmm"] == alone.run.means["gmm"]).all()
    assert Model.load(last).run.classes["gmm"].tolist() == alone.run.classes["gmm"].tolist()
    assert "4/4  3-classes-3-seed-1  evidence=" in done.stderr


def test_the_best_combination_has_the_highest_mean_evidence(swept):
    path, done = swept
    rows = table(path / "runs/arm-sweep")
    values = {k: np.array([float(row["evidence"]) for row in rows if row["modules.gmm.classes"] == k]) for k in "23"}
    best = max(values, key=lambda k: values[k].mean())
    assert f"best by mean evidence, without labels: modules.gmm.classes={best} (evidence " in done.stdout
    line = next(line.split() for line in done.stdout.splitlines() if line.startswith(best))
    assert [float(line[2]), float(line[4])] == pytest.approx([values[best].mean(), values[best].std(ddof=1)], abs=0.051)
    trial = max((row for row in rows if row["modules.gmm.classes"] == best), key=lambda row: float(row["evidence"]))
    assert f"its best run is runs/arm-sweep/{trial['trial']}" in done.stdout
    page = (path / "runs/arm-sweep/report.html").read_text()
    assert "Evidence by modules.gmm.classes" in page
    assert "Accuracy by modules.gmm.classes" in page
    assert "4 of 4 trials are done" in page


def measured(name, evidence, accuracy):
    return ComparedRun(name, None, {"evidence": evidence, "accuracy": accuracy}, [], {})


def test_accuracy_is_shown_and_decides_nothing_and_points_with_fewer_seeds_are_not_chosen(tmp_path):
    sweep = Sweep(tmp_path, {"modules.gmm.classes": [2, 3, 4]}, [0, 1], "evidence")
    figures = {2: [(-9.0, 1.0), (-8.0, 1.0)], 3: [(-7.0, 0.2), (-6.0, 0.1)], 4: [(-1.0, 0.9), None]}
    points = []
    for value, given in figures.items():
        own = [trial for trial in sweep.trials if trial.values == (value,)]
        pairs = zip(own, given, strict=True)
        results = [
            TrialResult(each, "done", "", measured(each.name, *found) if found else None) for each, found in pairs
        ]
        points.append(PointResult((value,), results))
    summary = Summary(sweep, points, "")
    assert summary.best.values == (3,)
    assert summary.best_trial.trial.seed == 1
    assert summary.points[1].show("accuracy") == "0.1500 ± 0.0707"
    assert summary.points[2].show("evidence") == "-1.0000 nats"


@pytest.mark.slow
def test_by_score_and_json(place):
    found = json.loads(serket("arm.yaml", "--grid", "gmm.classes=2,3", "--by", "score", "--local", "--json").stdout)
    assert found["by"] == "score"
    assert [trial["seed"] for trial in found["trials"]] == [4, 4]  # the model file's
    assert found["best"] == max(found["trials"], key=lambda trial: trial["score"])["trial"]


@pytest.mark.slow
def test_a_trial_that_fails_is_reported_and_the_others_are_run(place, monkeypatch):
    fit = trials.fit

    def fail(config, *given, **options):
        if config.modules["gmm"].parameters["classes"] == 2:
            raise ValueError("no memory\nis left")
        return fit(config, *given, **options)

    monkeypatch.setattr(trials, "fit", fail)
    done = serket("arm.yaml", "--grid", "gmm.classes=2,3", "--local", status=1)
    assert [(row["state"], row["reason"]) for row in table(place / "runs/arm-sweep")] == [
        ("failed", "no memory"),
        ("done", ""),
    ]
    assert "failed: 0-classes-2-seed-4: no memory" in done.stdout
    monkeypatch.undo()
    monkeypatch.chdir(place)
    serket("--resume", "runs/arm-sweep", "--local")
    assert [row["state"] for row in table(place / "runs/arm-sweep")] == ["done", "done"]


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on_and_repeats_nothing(place, monkeypatch):
    serket("arm.yaml", "--grid", "gmm.classes=2,3", "--seeds", "0:2", "--local", "--name", "whole")
    fit = trials.fit

    def interrupt(config, *given, **options):
        if config.modules["gmm"].parameters["classes"] == 3:
            raise KeyboardInterrupt
        return fit(config, *given, **options)

    monkeypatch.setattr(trials, "fit", interrupt)
    words = ("arm.yaml", "--grid", "gmm.classes=2,3", "--seeds", "0:2", "--local", "--name", "cut")
    done = serket(*words, status=1)
    assert "stopped with 2 of 4 trials left; continue with serket sweep --resume runs/cut" in done.stderr
    monkeypatch.undo()
    monkeypatch.chdir(place)
    first = place / "runs/cut/0-classes-2-seed-0"
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert "2 of 4 trials are done already" in serket("--resume", "runs/cut", "--local").stderr
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    cut, whole = table(place / "runs/cut"), table(place / "runs/whole")
    for own, other in zip(cut, whole, strict=True):
        assert {**own, "seconds": ""} == {**other, "seconds": ""}


def test_what_is_done_is_not_repeated_and_a_trial_that_was_cut_off_goes_on_from_its_last_commit(swept, place):
    sweep = shutil.copytree(swept[0] / "runs/arm-sweep", place / "again")
    (sweep / "model.yaml").write_text((sweep / "model.yaml").read_text().replace(str(swept[0]), str(place)))
    cut, done = sweep / "0-classes-2-seed-0", sweep / "1-classes-2-seed-1"
    (cut / "config.yaml").write_text((cut / "config.yaml").read_text().replace(str(swept[0]), str(place)))
    means = Model.load(cut).run.means["gmm"]
    (cut / "result.json").unlink()
    shutil.rmtree(cut / "checkpoints/round-002")
    manifest = Checkpoints(cut / "checkpoints").latest()
    plain = open_run(cut).config.plain(cut)
    Checkpoints(cut / "checkpoints").commit(replace(manifest, config=plain))  # the rows are elsewhere now
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    assert "3 of 4 trials are done already" in serket("--resume", "again", "--local").stderr
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before
    events = [each.event for each in open_run(cut).directory.log]
    assert [event.name for event in events if event.event == "resumed"] == ["round-001"]
    assert (Model.load(cut).run.means["gmm"] == means).all()
    rows, whole = table(sweep), table(swept[0] / "runs/arm-sweep")
    assert [{**row, "seconds": ""} for row in rows] == [{**row, "seconds": ""} for row in whole]


def test_a_dry_run_lists_the_trials_and_writes_nothing(place):
    before = sorted(place.rglob("*"))
    done = serket("arm.yaml", "--grid", "schedule.rounds=1,2", "--grid", "gmm.prior_scale=data,0.5", "--dry-run")
    assert "4 trials, in runs/arm-sweep/" in done.stdout
    assert "3-rounds-2-prior-scale-0.5-seed-4" in done.stdout
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("5,10", [5, 10]),
        ("1e-3, 0.5", [0.001, 0.5]),
        ("data,2", ["data", 2]),
        ("[1, 2],[3]", [[1, 2], [3]]),
        ("null", [None]),
    ],
)
def test_values_are_those_of_set_separated_by_commas(place, text, values):

    assert parse_grid([f"gmm.prior_scale={text}"], load_config(place / "arm.yaml")) == {
        "modules.gmm.prior_scale": values
    }


def test_a_damaged_plan_is_refused(place):
    path = place / "damaged"
    path.mkdir()
    for text in ('{"grid": {}, "seeds": [1], "by": "luck"}', "[]", '{"grid": 3}', "{", '{"grid": {"a": []}}'):
        (path / "sweep.json").write_text(text)
        assert "sweep.json: is damaged; start the sweep again" in serket("--resume", str(path), status=2).stderr


def test_names_of_trials_are_plain_and_different(tmp_path):
    sweep = Sweep(tmp_path, {"modules.a.b": ["x" * 200, "../..", [1, {"a": 2}], None]}, [0, 1], "evidence")
    names = [trial.name for trial in sweep.trials]
    assert len(set(names)) == 8
    assert all(name.replace("-", "").replace(".", "").isalnum() and len(name) < 100 for name in names)


@pytest.mark.slow
@pytest.mark.ray
def test_trials_on_ray_tune_have_the_bits_of_those_in_one_process(place, monkeypatch):
    pytest.importorskip("tensorboardX", reason="Ray Tune is the extra 'sweep'")
    words = ("arm.yaml", "--grid", "gmm.classes=2,3", "--seeds", "0:2", "--name")
    serket(*words, "here", "--local")
    serket(*words, "tune", "--trials-at-once", "1")
    here, tune = table(place / "runs/here"), table(place / "runs/tune")
    assert [{**row, "seconds": ""} for row in tune] == [{**row, "seconds": ""} for row in here]
    assert sorted(path.name for path in (place / "runs/tune").iterdir() if path.is_dir()) == [
        row["trial"] for row in tune
    ]


def test_a_sweep_that_is_read_has_the_trials_that_were_planned(swept):
    sweep = read_sweep(swept[0] / "runs/arm-sweep")
    assert [(trial.values, trial.seed) for trial in sweep.trials] == [((2,), 0), ((2,), 1), ((3,), 0), ((3,), 1)]
