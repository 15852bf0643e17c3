"""Where commands read and write: paths as they are typed, names of runs, and results that stay apart."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from runner.cli.app import app

KINDS = np.arange(60) % 2
MODEL = """name: robot
data: {source: files, observations: x.txt, categories: c.txt}
modules: {gmm: {type: gmm, classes: 2, iterations: 3, start: kmeans}}
connections: [data -> gmm]
schedule: {rounds: 1}
"""


def serket(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("places")
    np.savetxt(home / "x.txt", np.random.default_rng(0).normal(size=(60, 2)) + 6.0 * KINDS[:, None])
    np.savetxt(home / "c.txt", KINDS, fmt="%d")
    (home / "model.yaml").write_text(MODEL)
    before = Path.cwd()
    os.chdir(home)
    serket("run", "model.yaml", "--local")
    os.chdir(before)
    return home


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_recognitions_with_a_directory_each_stay_beside_each_other_and_leave_the_run_as_it_was(place):
    np.savetxt("first.txt", np.loadtxt("x.txt")[:7])
    before = sorted((place / "runs").rglob("*"))
    serket("recognize", "robot", "first.txt", "--out", "first")
    said = serket("recognize", "robot", "x.txt", "--categories", "c.txt", "--out", "all")
    assert "results in all/module*" in said
    assert len(np.loadtxt("first/module001_gmm/class_recog.txt")) == 7
    assert len(np.loadtxt("all/module001_gmm/class_recog.txt")) == 60
    assert np.loadtxt("all/module001_gmm/acc_recog.txt") == 1.0
    assert sorted((place / "runs").rglob("*")) == before
    assert "--out all: exists already" in serket("recognize", "robot", "x.txt", "--out", "all", code=2)
    assert "there is no folder no" in serket("recognize", "robot", "x.txt", "--out", "no/all", code=2)


def test_a_recognition_in_the_runs_directory_leaves_nothing_of_the_one_before(place):
    folder = place / "runs/robot/module001_gmm"
    serket("recognize", "robot", "x.txt", "--categories", "c.txt")
    assert {"acc_recog.txt", "class_matched_recog.txt"} <= {path.name for path in folder.iterdir()}
    serket("recognize", "robot", "x.txt")
    left = {path.name for path in folder.iterdir()}
    assert "class_recog.txt" in left
    assert not {"acc_recog.txt", "class_matched_recog.txt"} & left
    assert {"acc_learn.txt", "class_learn.txt"} <= left


def test_the_run_begun_last_is_called_latest_and_a_name_that_is_taken_is_said(place):
    said = serket("run", "model.yaml", "--local", "--set", "seed=1")
    assert "runs/robot is there already; this run is robot-2" in said
    assert "run robot-2:" in serket("inspect", "latest")
    assert "rows  60" in serket("recognize", "latest", "x.txt")


def test_a_path_that_is_typed_is_meant_from_where_it_is_typed(place, monkeypatch):
    """In the folder of the model file lies another file of that name."""
    (place / "below").mkdir()
    np.savetxt(place / "below" / "x.txt", np.loadtxt("x.txt")[:20])
    monkeypatch.chdir(place / "below")
    words = ("run", "../model.yaml", "--local", "--set", "data.categories=null", "--set", "data.observations=x.txt")
    assert "data: 20 rows" in serket(*words)
    (place / "other").mkdir()
    monkeypatch.chdir(place / "other")
    assert "data: 60 rows" in serket(*words)  # there is none here, so it is the one beside the model file


@pytest.mark.parametrize("name", ["rows.csv", "rows.npy"])
def test_rows_of_a_mixture_are_drawn_with_noise_into_a_file(place, name):
    said = serket("generate", "robot", "--length", "40", "--out", name)
    assert f"rows in {name}" in said
    if name == "rows.csv":
        assert Path(name).read_text().splitlines()[0] == "column1,column2,class"
        table = np.loadtxt(name, delimiter=",", skiprows=1)
        rows, classes = table[:, :2], table[:, 2]
        means = np.loadtxt("runs/robot/module001_gmm/mu_learn.txt")
        assert np.abs(rows - means[classes.astype(int)]).max() < 6.0
        assert rows[classes == 0].std(axis=0).min() > 0.3  # samples, not the mean
    else:
        assert np.load(name).shape == (40, 2)
    assert "--out FILE.csv writes the rows" in serket("generate", "robot", "--out", "rows.png")


def test_a_dry_run_notices_that_the_data_are_missing(place):
    said = serket("run", "model.yaml", "--dry-run", "--set", "data.observations=nope.txt", code=2)
    assert "nope.txt: there is no such file" in said
