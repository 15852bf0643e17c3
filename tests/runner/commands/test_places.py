"""Where commands read and write: paths as they are typed, names of runs, and results that stay apart."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from runner import Model
from runner.cli.app import app
from runner.config.model_files import find_model
from runner.config.run_config import load_config
from runner.sweeps.plan import parse_grid

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


@pytest.mark.parametrize(
    "setting",
    [
        "data={source: files, observations: mine.txt}",
        "data={camera: {source: files, observations: mine.txt}}",
        "data.observations=[mine.txt]",
    ],
)
def test_paths_in_maps_and_lists_are_meant_from_where_they_are_typed_too(place, monkeypatch, setting):
    (place / "below").mkdir()
    monkeypatch.chdir(place / "below")
    np.savetxt("mine.txt", np.loadtxt("../x.txt")[:20])
    if "[" in setting:
        np.save("mine.npy", np.loadtxt("mine.txt"))
        setting = setting.replace("txt", "npy")
    words = ["--set", setting, "--set", "connections=[camera -> gmm]"] if "camera" in setting else ["--set", setting]
    words += [] if setting.startswith("data=") else ["--set", "data.categories=null"]
    assert ": 20 rows" in serket("run", "../model.yaml", "--local", *words)


def test_scripts_grids_and_code_mean_paths_from_where_they_are_typed(place, monkeypatch):
    (place / "below").mkdir()
    monkeypatch.chdir(place / "below")
    np.savetxt("mine.txt", np.loadtxt("../x.txt")[:20])
    here = place / "below"
    model = Model.from_file("../model.yaml", data={"observations": "mine.txt", "categories": None})
    assert load_config(here / "m.yaml", text=model.to_yaml()).sources["data"].observations == here / "mine.txt"
    grid = parse_grid(["data.observations=mine.txt,gone.txt", "gmm.classes=2,3"], load_config(place / "model.yaml"))
    mine = [str(here / "mine.txt"), str(here / "gone.txt")]
    assert grid == {"data.observations": mine, "modules.gmm.classes": [2, 3]}
    (here / "lib").mkdir()
    settings = ["code=[lib]", "checkpoints.storage=kept", "data.lengths=[30, 30]"]
    found = find_model("../model.yaml").load(settings)
    assert found.code == [here / "lib"]
    assert found.checkpoints.storage == str(here / "kept")
    assert found.sources["data"].observations.samefile(place / "x.txt")  # what the file says starts from its folder
    said = serket("run", "../model.yaml", "--local", "--set", "data.observations=gone.txt", code=2)
    assert f"{here / 'gone.txt'}: there is no such file; correct the path\n" in said


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
    said = serket("generate", "robot", "--out", "rows.png", code=2)
    assert "--out rows.png: no module of this model decodes pictures; --out FILE.csv writes the rows" in said
    assert "classes " in serket("generate", "robot")


def test_a_dry_run_notices_that_the_data_are_missing(place):
    said = serket("run", "model.yaml", "--dry-run", "--set", "data.observations=nope.txt", code=2)
    assert "nope.txt: there is no such file" in said
