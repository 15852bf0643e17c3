"""Lengths of sequences at recognition: they go with the rows, and results are given for each sequence."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from runner.commands.predict import predict_rows
from runner.commands.trained_run import load_last_commit
from runner.config.run_config import ConfigError, load_config
from runner.data.datasets import Dataset
from runner.data.readers import DataError
from runner.runs.directory import open_run
from runner.script import GMM, MarkovModel, Observation
from runner.script_run import ScriptRun
from tests.runner.commands.test_predict import CONFIGS, serket, train

LENGTH, COUNT = 5, 40
MODEL = """
name: steps
data: {{source: files, observations: {0}/rows.txt, categories: {0}/categories.txt, lengths: {0}/lengths.txt}}
modules:
  gmm: {{type: gmm, classes: 3, iterations: 2, prior_scale: data, start: sequence, calibrate: true}}
  mm: {{type: markov, initial: learnt, estimate: variational}}
connections: [data -> gmm, gmm -> mm]
schedule: {{rounds: 1, steps: [{{steps: [gmm, mm], repeat: 8}}, {{module: gmm, set: {{iterations: 0}}}}]}}
"""
CATEGORIES = np.tile([0, 1, 2, 2, 2], COUNT)


def draw(seed):
    """Return rows of sequences that go through three classes which overlap."""
    means = np.array([[0.0, 0.0], [2.6, 0.0], [0.0, 2.6]])
    return means[CATEGORIES] + np.random.default_rng(seed).normal(size=(len(CATEGORIES), 2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that learnt from sequences, and files with its rows, new rows, their categories and lengths."""
    folder = tmp_path_factory.mktemp("sequences")
    np.savetxt(folder / "rows.txt", draw(0))
    np.savetxt(folder / "new.txt", draw(1))
    np.savetxt(folder / "categories.txt", CATEGORIES, fmt="%d")
    np.savetxt(folder / "lengths.txt", np.full(COUNT, LENGTH), fmt="%d")
    (folder / "steps.yaml").write_text(MODEL.format(folder))
    train(folder / "steps", folder / "steps")
    return folder


def recognized(folder, *words):
    done = serket("recognize", folder / "steps", *words, "--categories", folder / "categories.txt", "--json")
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_with_lengths_each_sequence_is_recognized_as_if_it_came_alone(trained, tmp_path):
    result, said = recognized(trained, trained / "new.txt", "--lengths", trained / "lengths.txt")
    assert result["sequences"] == len(result["per_sequence"]) == COUNT
    assert "without lengths" not in said
    smoothed = np.loadtxt(trained / "steps/module002_mm/smoothed_recog.txt")
    for number in (0, 7, COUNT - 1):
        rows = slice(number * LENGTH, (number + 1) * LENGTH)
        np.savetxt(tmp_path / "one.txt", draw(1)[rows])
        np.savetxt(tmp_path / "one_length.txt", [LENGTH], fmt="%d")
        alone = serket(
            "recognize", trained / "steps", tmp_path / "one.txt", "--lengths", tmp_path / "one_length.txt", "--json"
        )
        (found,) = json.loads(alone.stdout.splitlines()[-1])["per_sequence"]
        np.testing.assert_allclose(
            np.loadtxt(trained / "steps/module002_mm/smoothed_recog.txt"), smoothed[rows], atol=1e-7
        )
        assert found["log_evidence"] == pytest.approx(result["per_sequence"][number]["log_evidence"], rel=1e-9)


def test_lengths_raise_the_accuracy_that_rows_in_one_sequence_lose(trained):
    for rows in ("rows.txt", "new.txt"):
        with_lengths, _ = recognized(trained, trained / rows, "--lengths", trained / "lengths.txt")
        without, said = recognized(trained, trained / rows)
        assert with_lengths["accuracy"] >= 0.9
        assert without["accuracy"] < with_lengths["accuracy"] - 0.05
        assert without["sequences"] == 1
        assert f"learnt from {COUNT} sequences, but the {COUNT * LENGTH} rows came without lengths" in said
        assert "--lengths FILE" in said


def test_the_accuracy_of_all_rows_is_the_mean_of_the_sequences(trained):
    result, _ = recognized(trained, trained / "new.txt", "--lengths", trained / "lengths.txt")
    shares = [each["accuracy"] for each in result["per_sequence"]]
    assert np.mean(shares) == pytest.approx(result["accuracy"])
    table = np.loadtxt(trained / "steps/module001_gmm/sequences_recog.txt")
    assert (
        (trained / "steps/module001_gmm/sequences_recog.txt")
        .read_text()
        .startswith("# sequence first_row length accuracy\n")
    )
    np.testing.assert_allclose(table[:, 1:], np.c_[np.arange(COUNT) * LENGTH, np.full(COUNT, LENGTH), shares])


def test_rows_out_of_order_have_no_sequences(trained):
    result, said = recognized(trained, trained / "new.txt", "--unordered")
    assert "sequences" not in result
    assert "without lengths" not in said
    assert not (trained / "steps/module001_gmm/sequences_recog.txt").exists()


def test_offset_and_count_shorten_the_lengths(trained):
    words = ("--offset", 3, "--count", 9, "--lengths", trained / "lengths.txt", "--json")
    done = serket("recognize", trained / "steps", trained / "new.txt", *words)
    assert [each["length"] for each in json.loads(done.stdout.splitlines()[-1])["per_sequence"]] == [2, 5, 2]


def test_a_prediction_continues_the_last_sequence(trained, tmp_path):
    np.savetxt(tmp_path / "two.txt", draw(1)[: 2 * LENGTH - 3])
    np.savetxt(tmp_path / "ends.txt", [LENGTH, LENGTH - 3], fmt="%d")
    np.savetxt(tmp_path / "one.txt", draw(1)[LENGTH : 2 * LENGTH - 3])

    def predicted(*words):
        done = serket("predict", trained / "steps", *words, "--steps", 2, "--json")
        return json.loads(done.stdout.splitlines()[-1])["predicted"]

    both = predicted(tmp_path / "two.txt", "--lengths", tmp_path / "ends.txt")
    np.testing.assert_allclose(both, predicted(tmp_path / "one.txt"), atol=1e-12)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ("5\n5\n", "do not add up to the 200 rows of the observations, but to 10"),
        ("100\n-1\n101\n", "no positive integer, -1 of sequence 1"),
        ("0\n200\n", "no positive integer, 0 of sequence 0"),
        ("99.5\n100.5\n", "99.5 is no integer"),
    ],
)
def test_lengths_that_are_not_those_of_the_rows_are_refused(trained, tmp_path, lengths, said):
    (tmp_path / "lengths.txt").write_text(lengths)
    for command in ("recognize", "predict"):
        done = serket(command, trained / "steps", trained / "new.txt", "--lengths", tmp_path / "lengths.txt", code=2)
        assert said in " ".join(done.stderr.split())
        assert len([line for line in done.stderr.splitlines() if not line.startswith("data: ")]) == 1


def test_lengths_and_unordered_rows_exclude_each_other(trained):
    words = ("--lengths", trained / "lengths.txt", "--unordered")
    assert "leave out one" in serket("recognize", trained / "steps", trained / "new.txt", *words, code=2).stderr


def test_a_step_cannot_set_what_determines_the_form_of_a_state():
    with pytest.raises(ConfigError, match=r"schedule.steps.0.set.classes: cannot be set for a step.*modules.gmm"):
        load_config(CONFIGS / "mnist.yaml", ["schedule.steps=[{module: gmm, set: {classes: 4}}]"])


# --- scripts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(trained):
    """The handles of a script whose model is the trained run, without a cluster."""
    model, said = ScriptRun.__new__(ScriptRun), []
    model.directory, model._seed = open_run(trained / "steps").directory, 0
    model._observations = [Observation(draw(0), name="data")]
    model._monitor = SimpleNamespace(progress=SimpleNamespace(log=said.append))
    gmm, mm = GMM(3, name="gmm"), MarkovModel(name="mm")
    gmm._runs = mm._runs = [model]
    return SimpleNamespace(gmm=gmm, mm=mm, said=said)


def test_a_script_recognizes_new_sequences(trained, script):
    recognized(trained, trained / "new.txt", "--lengths", trained / "lengths.txt")
    found = script.gmm.recognize(draw(1), lengths=[LENGTH] * COUNT)
    assert np.array_equal(found["class"], np.loadtxt(trained / "steps/module001_gmm/class_recog.txt"))
    by_name = script.gmm.recognize({"data": draw(1)}, lengths={"data": [LENGTH] * COUNT})
    assert np.array_equal(by_name["class"], found["class"])
    assert not script.said
    script.gmm.recognize(draw(1))
    assert "came without lengths" in script.said[0]


def test_a_script_predicts_the_next_rows(trained, script):
    data = {"data": Dataset(draw(1), None, np.full(COUNT, LENGTH), "new")}
    expected = predict_rows(load_last_commit(open_run(trained / "steps").directory, 0), data, 2).probabilities
    np.testing.assert_array_equal(script.mm.predict(draw(1), 2, lengths=[LENGTH] * COUNT), expected)


def test_lengths_of_an_observation_without_rows_are_refused(script):
    with pytest.raises(DataError, match="lengths of other came, but no rows; rows came of data"):
        script.gmm.recognize(draw(1), lengths={"data": [LENGTH] * COUNT, "other": [1]})


@pytest.mark.parametrize("lengths", [[5.5, 194.5], [200, 0], [7], [[50, 50], [50, 50]], ["a"]])
def test_a_script_is_told_which_lengths_do_not_fit(script, lengths):
    with pytest.raises(DataError, match="lengths"):
        script.gmm.recognize(draw(1), lengths=lengths)
