"""Tests of predictions with the built-in models: future rows are recognized as missing rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.registry import make_module
from actors.storage.checkpoints import Checkpoints
from runner.cli.app import app
from runner.commands import predict as prediction
from runner.commands.predict import Prediction, predict
from runner.commands.recognize import recognize
from runner.commands.trained_run import load_trained_run
from runner.config.run_config import load_config
from runner.data import datasets
from runner.data.sources import source_states
from runner.runs.directory import open_run

CONFIGS = Path(__file__).parents[3] / "configs"
SMALL = (
    "data.count=100", "modules.vae.epochs=2", "modules.vae.hidden=16", "modules.vae.latent_dim=4", "schedule.rounds=2",
)  # fmt: skip


def train(path, name, *settings):
    """Train a model in this process, and write the files of its run directory that the commands read."""
    config = load_config(CONFIGS / f"{name}.yaml", settings)  # or the path of another one, without its suffix
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config.to_yaml())
    checkpoints = Checkpoints(path / "checkpoints")
    coordinator = Coordinator(config.graph, InProcessBackend(), seed=config.seed, checkpoints=checkpoints)
    coordinator.start(source_states(config.graph, config.load_data()))
    coordinator.run_rounds()
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small runs of GMM + MM (``hmm``), of VAE + GMM + MM (``digits``) and of a model without order (``vae_gmm``)."""
    path = tmp_path_factory.mktemp("runs")
    train(path / "hmm", "hmm")
    train(path / "digits", "digits", *SMALL, "modules.mm.test_order=false")  # too little training to show an order
    few = ("modules.gmm.iterations=2", "modules.vae.epochs=1", "schedule.rounds=1", "data.count=60")
    train(path / "vae_gmm", "vae_gmm", *few)
    return path


def rows(name, count=30):
    """Return rows in order, of which the last is in the middle of a cycle."""
    source = {"hmm": "cycle", "digits": "digits", "vae_gmm": "mnist"}[name]
    offset = 0 if source == "cycle" else 40
    return {"data": datasets.load(source, count=count, offset=offset, order="cyclic")}


def serket(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done


# --- probabilities --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hmm", "digits"])
@pytest.mark.parametrize("count", [1, 27])
def test_a_prediction_is_the_filtered_posterior_of_the_last_row_times_powers_of_the_transition_matrix(
    runs, name, count
):
    data = rows(name, count)
    found = predict(open_run(runs / name), data, 3)
    observed, _ = recognize(open_run(runs / name), data, ordered=True)
    last, T = observed["mm"]["filtered"][-1], observed["mm"]["trans_prob"]
    assert found.rows == count
    np.testing.assert_allclose(found.probabilities, [last @ T, last @ T @ T, last @ T @ T @ T], atol=1e-12)


def test_a_learned_order_is_continued(runs):
    found = predict(open_run(runs / "hmm"), rows("hmm", 30), 4)
    assert [found.categories[k] for k in found.probabilities.argmax(axis=1)] == [2, 3, 0, 1]
    assert found.probabilities[0].max() > 0.9
    assert (np.diff(found.probabilities.max(axis=1)) < 0).all()  # the uncertainty increases with the step


@pytest.mark.parametrize("name", ["hmm", "digits"])
def test_the_last_of_several_sequences_is_continued(runs, name):
    data = rows(name, 27)
    parts = {"data": replace(data["data"], lengths=np.array([26, 1]))}
    alone = {"data": replace(data["data"], observations=data["data"].observations[26:], categories=None)}
    both = predict(open_run(runs / name), parts, 2).probabilities
    # The encoder's float32 sums depend on the number of rows in a batch.
    np.testing.assert_allclose(both, predict(open_run(runs / name), alone, 2).probabilities, atol=1e-6)
    assert np.abs(both - predict(open_run(runs / name), data, 2).probabilities).max() > 1e-4


@pytest.mark.parametrize("name", ["hmm", "digits"])
def test_missing_rows_have_the_prior_from_above_and_do_not_affect_the_others(runs, name):
    directory, coordinator, states = load_trained_run(open_run(runs / name))
    data, steps = rows(name, 27), 2
    given = {
        source: prediction._append_missing_rows(state, steps)
        for source, state in source_states(directory.graph, data).items()
    }
    outputs = coordinator.recognize(states, given, ordered=True)
    expected = outputs["mm"]["smoothed"]
    np.testing.assert_allclose(outputs["gmm"]["Pdz"][-steps:], expected[-steps:], atol=1e-8)
    np.testing.assert_array_equal(outputs["gmm"]["class"][-steps:], expected[-steps:].argmax(axis=1))
    observed, _ = recognize(open_run(runs / name), data, ordered=True)
    np.testing.assert_allclose(outputs["gmm"]["Pdz"][:-steps], observed["gmm"]["Pdz"], atol=1e-9)
    np.testing.assert_allclose(expected[:-steps], observed["mm"]["smoothed"], atol=1e-9)
    if name == "digits":
        vae = make_module("vae", {"latent_dim": 4, "hidden": 16})
        vae.load_state(states["vae"])
        z = outputs["gmm"]["Pdz"][-steps:] @ outputs["gmm"]["mu"]
        np.testing.assert_allclose(outputs["vae"]["z"][-steps:], z, atol=1e-5)
        np.testing.assert_allclose(outputs["vae"]["x_hat"][-steps:], vae.decode(z), atol=1e-5)
        np.testing.assert_allclose(outputs["vae"]["x_hat"][:-steps], observed["vae"]["x_hat"], atol=1e-5)
        images = predict(open_run(runs / name), data, steps).images
        np.testing.assert_allclose(images, vae.decode(outputs["gmm"]["mu"]), atol=1e-5)


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_draws_images(runs, tmp_path):
    words = ["predict", "digits", "digits", "--offset", 40, "--count", 27, "--steps", 2, "--runs", runs]
    before = sorted(runs.rglob("*"))
    done = serket(*words, "--out", tmp_path / "next.png")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["step", "class", "category", "probability"]
    found = predict(open_run(runs / "digits"), rows("digits", 27), 2)
    best = int(found.probabilities[0].argmax())
    words_of = lines[1].split()
    assert words_of[:2] == ["1", str(best)]
    assert float(words_of[-1]) == pytest.approx(found.probabilities[0, best], abs=5e-4)
    assert (tmp_path / "next.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(runs.rglob("*")) == before  # unlike a recognition, a prediction writes nothing into the run


def test_json_has_all_probabilities(runs, tmp_path):
    np.savetxt(tmp_path / "new.txt", rows("hmm", 9)["data"].observations)
    done = serket("predict", runs / "hmm", tmp_path / "new.txt", "--steps", 2, "--out", tmp_path / "x.png", "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() == {"run", "rows", "predicted", "classes"}
    assert (result["run"], result["rows"]) == ("hmm", 9)
    assert np.shape(result["predicted"]) == (2, 4)
    np.testing.assert_allclose(np.sum(result["predicted"], axis=1), 1.0)
    assert result["classes"] == np.argmax(result["predicted"], axis=1).tolist()
    assert not (tmp_path / "x.png").exists()


def test_classes_are_matched_to_categories(runs, tmp_path):
    data = rows("hmm", 9)["data"]
    np.savetxt(tmp_path / "new.txt", data.observations)
    np.savetxt(tmp_path / "labels.txt", data.categories + 7, fmt="%d")
    words = ["predict", runs / "hmm", tmp_path / "new.txt", "--categories", tmp_path / "labels.txt"]
    assert json.loads(serket(*words, "--json").stdout)["categories"] == [8]
    assert "no module of this model decodes pictures" in serket(*words).stdout


def test_only_probable_classes_are_shown():
    soft = Prediction("run", 9, np.array([[0.5, 0.4, 0.06, 0.04], [0.0, 0.02, 0.98, 0.0], [0.01] * 3 + [0.97]]))
    assert soft.shown_classes() == [[0, 1, 2], [2], [3]]
    rare = Prediction("run", 9, np.full((1, 50), 0.02))
    assert rare.shown_classes() == [[0]]


def test_one_image_is_drawn_for_each_shown_class(monkeypatch):
    drawn = []
    monkeypatch.setattr(prediction, "draw_images", lambda *drawing: drawn.append(drawing))
    images = np.arange(3.0)[:, None] * np.ones(4)
    found = Prediction("run", 9, np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]]), images, {2: 5})
    assert found.draw(Path("x.png"))
    assert drawn[0][0][:, 0].tolist() == [2, 1, 0]
    assert drawn[0][2] == ["step 1\nclass 2 = 5, p=0.75", "step 1\nclass 1, p=0.25", "step 2\nclass 0, p=1.00"]
    assert not replace(found, images=None).draw(Path("x.png"))


@pytest.mark.parametrize(
    ("run", "content", "message"),
    [
        ("vae_gmm", None, "no module of this run learns the order of the classes"),
        ("hmm", "1 2 3\n", "rows must have the shape (N, 2)"),
        ("digits", "0 0.5 1\n", "observations of shape (3,)"),
        ("hmm", "", "holds no rows of numbers"),
        ("gone", "1 2\n", "gone: no such run"),
    ],
)
def test_a_user_error_is_one_sentence_and_exit_status_2(runs, tmp_path, run, content, message):
    file = tmp_path / "new.txt"
    if content is None:
        np.savetxt(file, rows(run, 10)["data"].observations)
    else:
        file.write_text(content)
    done = serket("predict", run, file, "--runs", runs, "--out", tmp_path / "x.png", code=2)
    assert message in done.stderr
    assert len([line for line in done.stderr.splitlines() if not line.startswith("data: ")]) == 1
    assert not (tmp_path / "x.png").exists()
