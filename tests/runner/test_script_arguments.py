"""What scripts give to handles is checked where it is given, in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runner as srk
from actors.errors import GraphError, ModuleError
from runner.cli.inspect import inspect_run
from runner.data.errors import DataError
from runner.runs.listing import list_runs
from runner.script import read_rows

ROWS = np.repeat([[0.0, 0.0], [9.0, 0.0]], 10, axis=0) + np.random.default_rng(0).normal(size=(20, 2))


@pytest.mark.parametrize(
    ("lower", "message"),
    [
        (lambda: ROWS, r"a ndarray is no module; give rows as Observation\(rows\)"),
        (lambda: [srk.Observation(ROWS)], r"a list is no module; give the modules one by one"),
        (lambda: srk.Observation, r"the class Observation is no module; make one"),
        (lambda: None, "a NoneType is no module"),
    ],
    ids=["rows", "list", "class", "none"],
)
def test_only_modules_are_connected(lower: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        srk.GMM(2).connect(lower())


def test_a_module_is_not_connected_to_itself() -> None:
    gmm = srk.GMM(2)
    with pytest.raises(GraphError, match="cannot be connected to itself"):
        gmm.connect(gmm)
    assert not gmm.below
    assert not gmm.above


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", ".", "..", ".x", "a\0b", "a\nb", "x" * 101, "ä" * 51, 3])
def test_a_name_can_be_that_of_a_file(name: Any) -> None:
    with pytest.raises(ModuleError, match="GMM: name is "):
        srk.GMM(2, name=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clases": 3}, "^GMM: clases: unknown parameter of module type gmm.* did you mean 'classes'"),
        ({"classes": "x"}, "^GMM: classes: expected an integer of at least 1, got 'x'$"),
        ({"classes": 0, "rule": "quick"}, "^GMM: classes: expected .* got 0; rule: expected 'extrinsic' or 'tutorial'"),
    ],
)
def test_parameters_are_refused_in_the_words_of_a_model_file(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModuleError, match=message) as raised:
        srk.GMM(**options)
    assert raised.value.__suppress_context__  # no traceback of pydantic above it


def test_an_observation_shows_its_size() -> None:
    assert repr(srk.Observation(ROWS, lengths=[15, 5])) == "<Observation data: 20 rows × 2 columns in 2 sequences>"
    assert repr(srk.Observation(ROWS[:1], name="arm")) == "<Observation arm: 1 row × 2 columns in 1 sequence>"


def test_a_script_that_has_ended_is_done_and_says_under_which_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with srk.Observation(ROWS, local=True, run="arm", verbose=False) as data:
            gmm = srk.GMM(2, category=[0] * 10 + [1] * 10)
            gmm.connect(data)
            for _ in range(3):
                gmm.update()
        assert list(gmm.outputs) == sorted(gmm.outputs)
    assert "runs/arm is there already; this run is arm-2" in capsys.readouterr().err
    for run in list_runs(tmp_path / "runs"):
        assert (run.state, run.round, run.rounds, run.accuracy) == ("done", 3, None, 1.0)
    status = inspect_run(tmp_path / "runs" / "arm")
    assert status["result"]["rounds"] == 3
    assert "the run is one of a script" in status["script"]


def test_a_script_that_fails_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script() -> None:
        with srk.Observation(ROWS, local=True, run="arm", verbose=False) as data:
            gmm = srk.GMM(2)
            gmm.connect(data)
            gmm.update()
            raise KeyError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError):
        script()
    assert [run.state for run in list_runs(tmp_path / "runs")] == ["stopped"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("threads", value) for value in (0, -1, 1.5, "2", True, None)),
        *(("num_gpus", value) for value in (-1, "x", True, float("nan"), float("inf"))),
        ("load_dir", 3),
    ],
)
def test_options_of_a_process_are_checked(option: str, value: Any) -> None:
    with pytest.raises(ModuleError, match=f"GMM: {option} is "):
        srk.GMM(2, **{option: value})


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True, 2**63])
def test_a_seed_is_an_integer(seed: Any) -> None:
    with pytest.raises(ModuleError, match=r"seed is .*expected an integer of at least 0"):
        srk.Observation(ROWS, seed=seed)


@pytest.mark.parametrize("options", [{"local": "no"}, {"run": 3}])
def test_options_of_the_run_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ModuleError, match="expected"):
        srk.Observation(ROWS, **options)


@pytest.mark.parametrize("weights", [200, "abc", [[1, 2]], np.array(3)])
def test_weights_are_a_list_or_a_map(weights: Any) -> None:
    with pytest.raises(ModuleError, match="MLDA: weights is "):
        srk.MLDA(2, weights)


def test_scalars_of_numpy_and_torch_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    classes = []
    for number, (k, seed) in enumerate([(2, 5), (np.int64(2), np.uint8(5)), (torch.tensor(2), np.int32(5))]):
        gmm = srk.GMM(k)
        gmm.connect(srk.Observation(ROWS, seed=seed, local=True, run=f"r{number}"))
        gmm.update()
        classes.append(gmm.outputs["class"])
    np.testing.assert_array_equal(classes[0], classes[1])
    np.testing.assert_array_equal(classes[0], classes[2])


def test_a_module_that_is_updated_too_early_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gmm, markov = srk.GMM(2), srk.MarkovModel()
    gmm.connect(srk.Observation(ROWS, local=True))
    markov.connect(gmm)
    with pytest.raises(ModuleError, match=r"no message on port 'class_posteriors', .*update it first"):
        markov.update()


@pytest.mark.parametrize("steps", [0, -1, 1.5, "3", True, None, 10**9])
def test_rows_to_predict_are_bounded_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    gmm, markov = srk.GMM(2), srk.MarkovModel()
    gmm.connect(srk.Observation(ROWS, local=True))
    markov.connect(gmm)
    gmm.update()
    markov.update()
    with pytest.raises(DataError, match=r"steps is .*at least 1 and at most 10,000"):
        markov.predict(ROWS, steps)
    with pytest.raises(DataError, match="ordered is 'no', expected True or False"):
        gmm.recognize(ROWS, ordered="no")  # type: ignore[arg-type]


def test_a_handle_shows_its_type_and_the_parameters_that_it_was_given():
    assert repr(srk.GMM(4, prior_scale="data")) == "GMM(classes=4, prior_scale='data')"
    assert repr(srk.MarkovModel()) == "MarkovModel()"


def test_a_column_of_times_of_a_frame_is_left_out_and_said_and_so_it_is_of_new_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["force", "angle"])
    frame.insert(0, "time", np.arange(len(ROWS)) * 0.1)
    source = srk.Observation(frame)
    np.testing.assert_array_equal(source.data.observations, ROWS)
    assert "'time', a time, is left out" in source.data.notes[-1]
    assert source.data.columns == ("force", "angle")
    both = srk.Observation([frame, frame], sequences=True)
    assert both.data.observations.shape == (40, 2)
    falling = frame.iloc[::-1]  # no times by themselves, but those that the model has left out
    np.testing.assert_array_equal(read_rows(falling, "data", **source.reading).observations, ROWS[::-1])
    np.testing.assert_array_equal(read_rows(ROWS, "data", **source.reading).observations, ROWS)
    assert srk.Observation(falling).data.observations.shape == (20, 3)
