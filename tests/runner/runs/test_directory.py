"""Tests of the run directory."""

import csv
import json

import numpy as np
import pytest

from runner.runs.directory import RunDirectory, RunDirectoryError, find_run
from tests.actors.coordination.test_coordinator import model
from tests.runner.conftest import toy_run


@pytest.fixture
def directory(tmp_path):
    return toy_run(tmp_path, rounds=2)


def test_an_existing_name_gets_a_number_unless_it_was_given_explicitly(tmp_path):
    assert [RunDirectory.create(tmp_path, "toy", model()).name for _ in range(3)] == ["toy", "toy-2", "toy-3"]
    with pytest.raises(RunDirectoryError, match=r"toy: there is a run of this name; choose another --name"):
        RunDirectory.create(tmp_path, "toy", model(), exact=True)


def test_a_directory_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="file/toy: cannot be created"):
        RunDirectory.create(tmp_path / "file", "toy", model())


def test_outputs_are_text_files_in_the_numbered_directory_of_the_module(directory):
    directory.record("round-002")
    latents = np.loadtxt(directory.path / "module001_encoder" / "z_learn.txt")
    expected = directory.checkpoints.outputs(directory.checkpoints.latest(), "encoder")["z"]
    np.testing.assert_allclose(latents, expected, rtol=1e-7)


def test_wide_arrays_have_no_text_and_training_curves_no_phase(directory):
    outputs = {"x_hat": np.zeros((3, 784)), "stack": np.zeros((2, 3, 4)), "loss": np.arange(3.0), "class": np.arange(3)}
    directory.write_outputs("encoder", outputs, "learn")
    names = {path.name for path in (directory.path / "module001_encoder").iterdir()}
    texts = {"loss.txt", "class_learn.txt"}
    assert names == {"x_hat_learn.npy", "stack_learn.npy", "loss.npy", "class_learn.npy", *texts}
    assert (directory.path / "module001_encoder" / "class_learn.txt").read_text().split() == ["0", "1", "2"]


def test_outputs_of_other_rows_are_deleted_also_those_of_earlier_versions(directory):
    own = directory.path / "module001_encoder"
    directory.write_outputs("encoder", {"class": np.arange(3)}, "learn")
    directory.write_outputs("encoder", {"class": np.arange(3), "z": np.zeros((3, 2))}, "recog")
    (own / "Pdz_recog").mkdir()
    np.save(own / "Pdz_recog" / "000000000.npy", np.zeros((3, 2)))
    directory.delete_outputs("encoder", "recog")
    assert {path.name for path in own.iterdir()} == {"class_learn.npy", "class_learn.txt"}


def test_the_accuracy_of_classes_is_written_beside_them(directory):
    directory.categories = {"": np.array([5, 5, 7, 7])}
    directory.write_outputs("mirror", {"class": np.array([1, 1, 0, 1])}, "learn")
    assert float((directory.path / "module002_mirror" / "acc_learn.txt").read_text()) == 0.75


def test_metrics_have_one_line_per_round_and_empty_fields_for_unknown_values(directory):
    for commit in ("round-001", "round-002"):
        directory.record(commit)
    with (directory.path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["round"], row["accuracy"]) for row in rows] == [("1", ""), ("2", "")]
    assert [row["evidence"] for row in directory.metrics_file.rows()] == [float(row["evidence"]) for row in rows]


def test_models_are_copied_beside_the_outputs(directory):
    directory.write_models()
    copied = (directory.path / "module001_encoder" / "model.safetensors").read_bytes()
    record = directory.checkpoints.latest().modules["encoder"].files["state"]
    assert copied == (directory.checkpoints.root / record.path).read_bytes()
    assert not (directory.path / "module000_data" / "model.safetensors").exists()


def test_the_environment_file_has_versions_and_machine(directory):
    directory.write_environment("127.0.0.1:1")
    environment = json.loads((directory.path / "environment.json").read_text())
    assert {"ray", "torch", "numpy", "numba"} <= environment["packages"].keys()
    assert environment["cores"] >= 1
    assert environment["processor"]


def test_a_run_is_found_by_path_or_name_and_otherwise_the_existing_runs_are_listed(directory, tmp_path):
    (directory.path / "config.yaml").write_text("name: toy\n")
    assert find_run(str(directory.path), tmp_path / "elsewhere") == directory.path
    assert find_run("toy", tmp_path) == directory.path
    with pytest.raises(RunDirectoryError, match=r"other: no such run; the runs in .* are toy"):
        find_run("other", tmp_path)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 200])
def test_a_name_that_is_not_a_single_directory_is_rejected(tmp_path, name):
    with pytest.raises(RunDirectoryError, match="cannot be a run's name"):
        RunDirectory.create(tmp_path / "runs", name, model())
    assert not list(tmp_path.iterdir())
