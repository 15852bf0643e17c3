"""``serket new-model``: what the data are like decides the model, and the file that is written runs."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from actors.storage.checkpoints import Checkpoints
from runner.cli.app import app
from runner.commands.new_model import NewModelError, look_at, name_for
from runner.config.run_config import load_config
from runner.data.builtin import LABELLED
from runner.data.datasets import load
from runner.report.clustering_metrics import score
from tests.runner.commands.test_predict import train

STEPS, TRIALS = 32, 5
ACTIVITIES = np.array(["rest", "lift", "move", "drop"])
KINDS = np.tile(np.repeat(np.arange(4), 2), STEPS // 8 * TRIALS)


def serket(*words, code=0, answers=None):
    done = CliRunner().invoke(app, [str(word) for word in words], input=answers)
    assert done.exit_code == code, (done.output, done.exception)
    assert "Traceback" not in done.output
    return done


def write_table(path):
    """Sensor data as people have them: trials, time, two channels of different units, and labels as texts."""
    rng = np.random.default_rng(0)
    force = np.array([0.0, 1e-3, 0.0, 1e-3])[KINDS] + rng.normal(size=len(KINDS)) * 1e-4
    speed = np.array([0.0, 0.0, 500.0, 500.0])[KINDS] + rng.normal(size=len(KINDS)) * 40
    lines = [
        f"{n // STEPS},{n % STEPS / 100:.2f},{force[n]:.6g},{speed[n]:.4f},{ACTIVITIES[KINDS[n]]}\n"
        for n in range(len(KINDS))
    ]
    path.write_text("trial,time,force,speed,activity\n" + "".join(lines))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "arm.csv")
    rng = np.random.default_rng(1)
    np.savetxt("plain.txt", np.column_stack([KINDS, KINDS % 2]) * 9 + rng.normal(size=(len(KINDS), 2)))
    np.save("words.npy", rng.poisson(np.eye(4)[KINDS].repeat(3, axis=1) * 4 + 0.1))
    np.save("wide.npy", np.eye(40)[KINDS] * 300 + rng.normal(size=(len(KINDS), 40)))
    pixels, labels = LABELLED["digits"]()
    np.save("pixels.npy", (pixels[:200].reshape(200, -1) * 255).astype(np.uint8))
    np.savetxt("digits.txt", labels[:200], fmt="%d")
    return tmp_path


def types(name):
    return [module["type"] for module in yaml.safe_load(Path(f"{name}.yaml").read_text())["modules"].values()]


def accuracy(place, name, kinds=KINDS, *settings):
    """Train a written model in this process; return the accuracy of its first module with classes."""
    config = load_config(place / f"{name}.yaml")
    module = next(each for each in config.modules if each in ("gmm", "mlda"))
    path = train(place / "runs" / name, place / name, *settings)
    checkpoints = Checkpoints(path / "checkpoints")
    return score(checkpoints.outputs(checkpoints.latest(), module)["class"], kinds).accuracy


# --- a table -------------------------------------------------------------------------------------------------------


def test_columns_of_a_table_are_rows_labels_and_sequences_and_the_model_finds_the_classes(place):
    """The units of the channels differ by a factor of a million; the times are no data."""
    before = sorted(place.iterdir())
    done = serket("new-model", "arm.csv", "--labels", "activity", "--lengths", "trial")
    assert "160 rows × 2 columns in 5 sequences" in done.output
    assert "('time'), a time, is left out" in done.output
    assert "arm.yaml: train it with serket run arm.yaml" in done.output
    assert sorted(place.iterdir()) == sorted([*before, place / "arm.yaml"])  # the table is read as it is
    data = load_config(place / "arm.yaml").load_data()["data"]
    assert data.columns == ("force", "speed")
    np.testing.assert_array_equal(data.lengths, [STEPS] * TRIALS)
    np.testing.assert_array_equal(ACTIVITIES[KINDS], np.unique(ACTIVITIES)[data.categories])
    assert types("arm") == ["gmm", "markov"]
    assert accuracy(place, "arm") > 0.95


def test_columns_are_chosen_by_name_and_in_a_table_without_a_header_by_number(place):
    serket("new-model", "arm.csv", "--columns", "speed, force", "--classes", "4")
    assert yaml.safe_load(Path("arm.yaml").read_text())["data"]["columns"] == ["speed", "force"]
    serket("new-model", "plain.txt", "--columns", "2", "--classes", "2")
    assert load_config(place / "plain.yaml").load_data()["data"].observations.shape == (160, 1)


def test_coordinates_are_values_though_labels_are_often_called_y(place):
    pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["x", "y"]).to_csv("xy.csv", index=False)
    serket("new-model", "xy.csv", "--classes", "2")
    assert load_config(place / "xy.yaml").load_data()["data"].columns == ("x", "y")


@pytest.mark.parametrize("separator", [",", "\t"], ids=["csv", "tsv"])
def test_the_index_that_a_data_frame_writes_is_no_column(place, separator):
    """Of a table with tabs, too; the odd name of a column is quoted in the model file."""
    rows = pd.read_csv("arm.csv").rename(columns={"speed": "speed: mm/s"})
    name = "frame.csv" if separator == "," else "frame.tsv"
    rows.to_csv(name, sep=separator)
    serket("new-model", name, "--labels", "activity", "--lengths", "trial", "--columns", "force,speed: mm/s")
    assert load_config(place / "frame.yaml").load_data()["data"].columns == ("force", "speed: mm/s")
    refused = serket("new-model", name, "--classes", "4", "--output", "b.yaml", code=2)
    assert "--columns force,speed: mm/s" in refused.output


def test_without_labels_the_number_of_classes_is_asked_for_or_found(place):
    assert "give --classes K, or --classes auto" in serket("new-model", "plain.txt", code=2).output
    serket("new-model", "plain.txt", "--classes", "auto", "--output", "a.yaml")
    assert types("a") == ["dp_gmm", "markov"]
    serket("new-model", "plain.txt", "--classes", "4")


def test_rows_in_order_get_the_defaults_that_one_seed_is_enough_for(place):
    """Those of configs/hmm.yaml, with which single seeds reach what many random starts do."""
    serket("new-model", "plain.txt", "--classes", "4")
    model = yaml.safe_load(Path("plain.yaml").read_text())
    gmm, mm = model["modules"]["gmm"], model["modules"]["mm"]
    assert (gmm["start"], gmm["calibrate"], gmm["prior_scale"]) == ("sequence", True, "data")
    assert (mm["estimate"], mm["test_order"]) == ("variational", True)
    assert model["schedule"]["steps"][0]["chains"] == 4


def test_rows_without_order_get_no_markov_model(place):
    serket("new-model", "plain.txt", "--classes", "4", "--unordered")
    assert types("plain") == ["gmm"]
    assert accuracy(place, "plain") > 0.95


# --- other data ----------------------------------------------------------------------------------------------------


def test_counts_become_topics(place):
    assert "counts" in serket("new-model", "words.npy", "--classes", "4").output
    assert types("words") == ["mlda", "markov"]


@pytest.mark.slow
def test_topics_are_the_classes_of_the_counts(place):
    serket("new-model", "words.npy", "--classes", "4")
    assert accuracy(place, "words", KINDS, "schedule.steps.0.chains=0", "schedule.steps.0.repeat=3") > 0.9


def test_many_columns_get_principal_components(place):
    serket("new-model", "wide.npy", "--classes", "4")
    assert types("wide") == ["pca", "gmm", "markov"]


@pytest.mark.slow
def test_wide_rows_are_told_apart_by_their_components(place):
    serket("new-model", "wide.npy", "--classes", "4")
    assert accuracy(place, "wide", KINDS, "schedule.rounds=1") > 0.95


def test_pictures_get_a_network_and_pixels_are_divided(place):
    serket("new-model", "pixels.npy", "--labels", "digits.txt")
    assert types("pixels") == ["vae", "gmm", "markov"]
    config = load_config(place / "pixels.yaml")
    assert config.sources["data"].divide_by == 255
    assert config.modules["gmm"].parameters["classes"] == 10  # those of the labels


@pytest.mark.slow
def test_the_model_of_pictures_trains(place):
    serket("new-model", "pixels.npy", "--labels", "digits.txt")
    labels = np.loadtxt("digits.txt", dtype=int)
    assert (
        0.1
        <= accuracy(
            place, "pixels", labels, "modules.vae.epochs=2", "schedule.rounds=1", "schedule.steps=[vae, gmm, mm]"
        )
        <= 1.0
    )


@pytest.mark.parametrize("name", ["digits", "words", "clumps", "cycle"])
def test_built_in_data_have_models_too(place, name):
    serket("new-model", name, "--classes", "10", "--output", "built.yaml")
    expected = {
        "digits": ["vae", "gmm", "markov"],
        "words": ["mlda", "markov"],
        "clumps": ["gmm", "markov"],
        "cycle": ["gmm", "markov"],
    }
    assert types("built") == expected[name]


def test_what_a_person_should_know_of_the_rows_is_said_and_written(place):
    values = np.random.default_rng(0).normal(size=(50, 3))
    values[:, 1] = 7.0
    values[4] = np.nan
    np.save("odd.npy", values)
    output = serket("new-model", "odd.npy", "--classes", "2").output
    assert "note: 1 of the columns hold one value in every row" in output
    text = (place / "odd.yaml").read_text()
    assert "1 rows without any value are predicted, not learnt from" in text
    spread = np.random.default_rng(0).normal(size=(50, 40)) * np.linspace(1, 90, 40)
    facts = look_at(load("files", observations=_saved(place, spread)))
    assert facts.kind == "wide"
    assert "the PCA sees the largest ones alone" in facts.remarks[0]


def _saved(place, values):
    np.save(place / "values.npy", values)
    return place / "values.npy"


@pytest.mark.parametrize(
    ("data", "name"), [("a/b c.csv", "b-c"), ("é.npy", "model"), ("true.csv", "true"), ("3.npy", "3")]
)
def test_any_file_name_gives_a_name_that_a_model_may_have(place, data, name):
    assert name_for(data) == name
    serket("new-model", "plain.txt", "--classes", "4", "--output", f"{name}.yaml")
    assert load_config(place / f"{name}.yaml").name == name


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the data are not given; name a file of rows, or one of mnist, digits, words, clumps, cycle"),
        (["nope.csv", "--classes", "3"], "nope.csv: there is no such file, and no built-in data set of this name"),
        (["arm.csv", "--classes", "3"], "columns 'trial' and 'activity' seem to be no values; say what they are"),
        (
            ["arm.csv", "--lengths", "trial"],
            "column 'activity' holds texts; say what it is (--labels activity), or choose",
        ),
        (["arm.csv", "--labels", "activity"], "column 'trial' seems to be no value; say what it is (--lengths trial)"),
        (["arm.csv", "--columns", "force,sped", "--classes", "3"], "has no column 'sped'; did you mean 'speed'?"),
        (
            ["arm.csv", "--columns", "force,activity", "--classes", "3"],
            "column 'activity' holds 'rest', which is no num",
        ),
        (
            ["arm.csv", "--lengths", "activity", "--columns", "force", "--classes", "3"],
            "begins again after another one; sort",
        ),
        (
            ["arm.csv", "--labels", "time", "--columns", "time", "--classes", "3"],
            "column 2 is data and names sequences or categories",
        ),
        (["plain.txt", "--columns", "a", "--classes", "3"], "--columns names columns of a table with a header"),
        (
            ["plain.txt", "--labels", "no.txt", "--classes", "3"],
            "no.txt: there is neither such a file nor such a column",
        ),
        (["plain.txt", "--classes", "many"], "--classes is 'many'; give a whole number, or auto"),
        (["plain.txt", "--classes", "1"], "--classes is 1; give at least 2, and at most as many as there are rows"),
        (["plain.txt", "--classes", "161"], "--classes is 161; give at least 2"),
        (["words.npy", "--classes", "auto"], "of counts, give the number of topics, --classes K"),
        (["plain.txt", "--classes", "3", "--output", "a.txt"], "a.txt: a model file's name ends in .yaml"),
        (["plain.txt", "--classes", "3", "--output", "no/a.yaml"], "no/a.yaml: there is no folder no; create it"),
        (["mnist", "--classes", "3", "--labels", "x"], "--labels goes with files; mnist is a built-in data set"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_sentence_and_leaves_nothing(place, arguments, sentence):
    before = sorted(place.iterdir())
    done = serket("new-model", *arguments, "--no-ask", code=2)
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(place.iterdir()) == before


def test_no_file_is_replaced(place):
    serket("new-model", "plain.txt", "--classes", "4")
    text = (place / "plain.yaml").read_text()
    assert "plain.yaml: exists already" in serket("new-model", "plain.txt", "--classes", "3", code=2).output
    assert (place / "plain.yaml").read_text() == text


def test_an_error_is_one_of_the_config():
    assert issubclass(NewModelError, ValueError)


# --- asking --------------------------------------------------------------------------------------------------------


def test_what_is_not_given_is_asked_for_with_what_the_table_suggests(place):
    done = serket("new-model", "--ask", answers="arm.csv\n\ntrial\nforce,speed\n\ny\nmine.yaml\n")
    assert "Column of labels (- for none) [activity]" in done.output
    assert "Columns to learn from [force,speed]" in done.output
    assert "Number of classes (auto: find it) [4]" in done.output
    config = load_config(place / "mine.yaml")
    assert config.modules["gmm"].parameters["classes"] == 4
    assert config.sources["data"].sequence_column == "trial"


@pytest.mark.slow
def test_on_a_terminal_it_asks_by_itself(place):
    parent, child = pty.openpty()
    command = [sys.executable, "-c", "from runner.cli.app import main; main()", "new-model", "plain.txt"]
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, cwd=place, close_fds=True)
    os.close(child)
    os.write(parent, b"\n\n4\ny\n\n")
    said, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            block = os.read(parent, 4096)
        except OSError:
            break
        if not block:
            break
        said += block
    os.close(parent)
    assert process.wait(30) == 0, said
    assert b"Number of classes" in said
    assert types("plain") == ["gmm", "markov"]
