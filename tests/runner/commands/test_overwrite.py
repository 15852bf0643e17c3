"""Test ``serket run --overwrite``: what it deletes, and all that it leaves alone."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from actors.storage.checkpoints import Checkpoints
from actors.storage.claims import CLAIM
from runner.runs.outputs import write_arrays
from runner.runs.run_files import RunFiles
from runner.runs.state import RunRecord, read_record, write_record
from tests.conftest import wait_until
from tests.runner.commands.test_places import serket

MODEL = """
name: robot
data: {source: files, observations: x.txt}
modules:
  gmm: {type: gmm, classes: 2, iterations: 2}
  mm: {type: markov}
connections: [data -> gmm, gmm -> mm]
schedule: {rounds: 1}
report: false
"""
RUN = ("run", "model.yaml", "--local", "--overwrite")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a directory with a run called robot, whose other files are those of a recognition and of a generation."""
    path = tmp_path_factory.mktemp("overwrite")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        x = np.random.default_rng(0).normal(size=(40, 2))
        x[:20] += 9
        np.savetxt("x.txt", x)
        Path("model.yaml").write_text(MODEL)
        serket("run", "model.yaml", "--local")
        serket("recognize", "robot", "x.txt")
    return path


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def contents(path):
    return {str(each): each.lstat().st_mtime_ns for each in sorted(path.rglob("*"))}


def test_the_former_run_is_deleted_and_that_is_said(place):
    shutil.copytree("runs/robot", "runs/robot-2")
    before, other = contents(place / "runs/robot"), contents(place / "runs/robot-2")
    write_record(Path("runs/robot"), RunRecord("", own=True, pid=2**22 + 1))  # of a driver that was killed
    files = [each for each in Path("runs/robot").rglob("*") if each.is_file()]
    said = serket(*RUN, "--set", "seed=3")
    assert f"runs/robot: the former run is deleted ({len(files)} files, " in said
    assert "seed: 3" in Path("runs/robot/config.yaml").read_text()
    assert not list(Path("runs/robot").rglob("*_recog.txt"))  # of the former run
    assert set(contents(place / "runs/robot")) <= set(before)
    assert contents(place / "runs/robot-2") == other  # of that name alone
    assert read_record(Path("runs/robot")) is None


def test_a_name_that_is_free_needs_nothing_deleted(place):
    assert "deleted" not in serket(*RUN, "--name", "other")
    assert {each.name for each in Path("runs").iterdir()} == {"robot", "other"}


def test_without_the_option_the_way_is_said(place):
    assert "this run is robot-2 (--overwrite deletes the former run)" in serket("run", "model.yaml", "--local")


def test_a_mistake_in_the_new_run_leaves_the_former_one(place):
    before = contents(place / "runs")
    serket(*RUN, "--set", "data.observations=none.txt", code=2)
    serket(*RUN, "--set", "modules.gmm.classes=41", code=2)  # more than rows
    serket(*RUN, "--address", "127.0.0.1:1", code=2)  # a local run has none
    assert contents(place / "runs") == before


def test_all_outputs_of_a_network_are_files_that_runs_make(place):
    outputs = {"z": np.eye(2), "loss": np.ones(3)}  # the training curve has no phase in its name
    write_arrays(RunFiles(Path("runs/robot")), "gmm", "module001_gmm", outputs, "learn")
    assert Path("runs/robot/module001_gmm/loss.npy").exists()
    assert "runs/robot: the former run is deleted" in serket(*RUN, "--set", "seed=3")


def _note(run):
    (run / "notes.txt").write_text("mine")


def _note_beside_outputs(run):
    (run / "module001_gmm" / "notes.txt").write_text("mine")


def _link_to_a_directory(run):
    (run.parent.parent / "mine").mkdir()
    (run.parent.parent / "mine" / "z.npy").write_text("mine")
    (run / "module003_pca").symlink_to(run.parent.parent / "mine")


def _link_to_a_file(run):
    (run / "module001_gmm" / "z_learn.txt").symlink_to(run.parent.parent / "x.txt")


def _fifo(run):
    os.mkfifo(run / "checkpoints" / "round-001" / "gmm.state")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_note, "has notes.txt, a file that no run makes"),
        (_note_beside_outputs, "has module001_gmm/notes.txt, a file that no run makes"),
        (_link_to_a_directory, "has module003_pca, a link or a special file"),
        (_link_to_a_file, "has module001_gmm/z_learn.txt, a link or a special file"),
        (_fifo, "has checkpoints/round-001/gmm.state, a link or a special file"),
    ],
)
def test_what_no_run_makes_is_left_alone_with_the_run(place, change, named):
    change(place / "runs/robot")
    before = contents(place)
    said = serket(*RUN, code=2)
    assert f"runs/robot: {named}, so --overwrite deletes nothing: move it away, or choose a --name" in said
    assert contents(place) == before


def test_a_directory_that_is_no_run_is_left_alone(place):
    shutil.rmtree("runs/robot")
    Path("runs/robot").mkdir()
    Path("runs/robot/config.yaml").write_text("name: mine\n")
    assert "runs/robot: is not the directory of a run" in serket(*RUN, code=2)
    Path("runs/robot/config.yaml").unlink()
    assert "runs/robot: is not the directory of a run" in serket(*RUN, code=2)
    Path("runs/robot").rmdir()
    Path("runs/robot").write_text("a file")
    assert "runs/robot: is not the directory of a run" in serket(*RUN, code=2)
    assert Path("runs/robot").read_text() == "a file"


def test_a_run_behind_a_link_is_left_alone(place):
    Path("runs/robot").rename("elsewhere")
    Path("runs/robot").symlink_to(place / "elsewhere")
    before = contents(place)
    assert "runs/robot: is not the directory of a run" in serket(*RUN, code=2)
    assert contents(place) == before


@pytest.mark.parametrize("name", ["../robot", "..", "robot/", ""])
def test_no_other_directory_than_one_in_the_folder_of_runs_is_deleted(place, name):
    shutil.copytree("runs/robot", "robot")
    before = contents(place)
    serket(*RUN, "--name", name, code=0 if not name else 2)
    if name:
        assert contents(place) == before
    assert Path("robot/config.yaml").exists()


def test_a_run_that_another_process_drives_is_left_alone(place):
    before = contents(place / "runs")
    with FileLock(place / "runs/robot/.lock"):
        assert "runs/robot: another process drives this run" in serket(*RUN, code=2)
    assert contents(place / "runs") == before


def test_a_config_that_cannot_be_read_is_no_reason_to_delete(place):
    Path("runs/robot/config.yaml").write_text("[")
    assert "runs/robot: its config.yaml cannot be read" in serket(*RUN, code=2)
    assert Path("runs/robot/result.json").exists()


def test_the_rows_of_the_new_run_are_not_deleted(place):
    Path("runs/robot/data").mkdir()
    Path("x.txt").rename("runs/robot/data/x.txt")
    said = serket(*RUN, "--set", "data.observations=runs/robot/data/x.txt", code=2)
    assert "runs/robot: has rows or code of the new run, so --overwrite deletes nothing" in said
    assert Path("runs/robot/data/x.txt").exists()


def test_commits_elsewhere_are_deleted_if_they_are_those_of_the_run(place):
    elsewhere = ("--set", f"checkpoints.storage={place}/commits", "--name", "far")
    serket("run", "model.yaml", "--local", *elsewhere)
    assert (place / "commits/far/round-001").is_dir()
    said = serket(*RUN, *elsewhere[2:])
    assert f" at {place}/commits/far)" in said
    assert not list((place / "commits/far").iterdir())
    assert Path("runs/far/checkpoints/round-001").is_dir()


def test_commits_elsewhere_of_another_run_are_left_alone(place):
    elsewhere = ("--set", f"checkpoints.storage={place}/commits", "--name", "far")
    serket("run", "model.yaml", "--local", *elsewhere)
    (place / "commits/far" / CLAIM).write_text('{"token": "another"}')
    before = contents(place)
    said = serket(*RUN, *elsewhere[2:], code=2)
    assert "what is there is not claimed by this run, so --overwrite deletes nothing" in said
    assert contents(place) == before


# --- runs on Ray ----------------------------------------------------------------------------------------------------


@pytest.fixture
def detached(place, ray_cluster):
    """Return the arguments of a detached run called far on a cluster, which goes on until it is stopped."""
    arguments = ("run", "model.yaml", "--name", "far", "--address", ray_cluster, "--detach")
    yield (*arguments, "--set", "schedule.rounds=100000")
    if read_record(Path("runs/far")):
        serket("stop", "far", "--now")


def last_round():
    return Checkpoints(Path("runs/far/checkpoints")).latest().round


@pytest.mark.ray
def test_a_detached_run_is_overwritten_once_it_has_ended_and_the_new_one_is_resumed(detached):
    serket(*detached)
    said = serket(*detached, "--overwrite", code=2)
    assert "runs/far: the run is still running; see it with serket attach" in said
    serket("stop", "far", "--now")
    said = serket(*detached, "--overwrite", "--set", "seed=3")
    assert "runs/far: the former run is deleted (" in said
    assert "far continues; follow it with serket attach" in said
    assert "seed: 3" in Path("runs/far/config.yaml").read_text()
    serket("stop", "far")
    stopped_in = last_round()
    said = serket("resume", "far", "--address", detached[5], "--set", f"schedule.rounds={stopped_in + 1}")
    assert f"continuing from round-{stopped_in:03d}" in said
    assert last_round() == stopped_in + 1
    assert json.loads(Path("runs/far/result.json").read_text())["rounds"] == stopped_in + 1
    assert {event["run"] for event in map(json.loads, Path("runs/far/events.jsonl").read_text().splitlines())} == {
        "far"
    }


@pytest.mark.slow  # the test above has the way that most people go
@pytest.mark.ray
def test_a_detached_run_that_is_done_is_overwritten_once_its_result_was_fetched(detached):
    few = (*detached[:-1], "schedule.rounds=2")
    serket(*few)
    wait_until(lambda: last_round() == 2, 60)
    wait_until(lambda: "the run is done; see it with serket attach" in serket(*few, "--overwrite", code=2), 60)
    assert last_round() == 2
    serket("attach", "far")
    assert "runs/far: the former run is deleted (" in serket(*few, "--overwrite")
    serket("attach", "far")
    assert json.loads(Path("runs/far/result.json").read_text())["rounds"] == 2


@pytest.mark.slow  # the test above has the way that most people go
@pytest.mark.ray
def test_a_run_without_detach_takes_the_place_of_a_detached_one_and_the_other_way_round(detached):
    serket(*detached)
    serket("stop", "far", "--now")
    attached = [each for each in detached if each != "--detach"][:-1]
    said = serket(*attached, "schedule.rounds=2", "--overwrite")
    assert "runs/far: the former run is deleted (" in said
    assert last_round() == 2
    assert "runs/far: the former run is deleted (" in serket(*detached, "--overwrite")
    assert not Path("runs/far/result.json").exists()  # of the former run
