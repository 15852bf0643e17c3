"""Two levels of Markov models as a person uses them: model file, handles, Ray, recognition, prediction, pictures."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from runner.cli.app import app
from runner.data import datasets
from runner.data.syllables import ORDERS, builtin_sequences
from runner.model import Model
from runner.report.clustering_metrics import accuracy, match
from runner.runs.artifacts import draw_plots
from runner.runs.levels import modules_of_regimes
from runner.runs.run_report import RunReport

ROOT = Path(__file__).parents[2]
SHORT = {"data.count": 1000, "schedule.steps.0.repeat": 12, "schedule.steps.0.chains": 1}


def states_of(path):
    return {each.parent.name: each.read_bytes() for each in sorted(Path(path).glob("module*/model.safetensors"))}


@pytest.fixture(scope="module")
def trained():
    return Model.from_file(ROOT / "configs" / "words.yaml", **SHORT).fit(progress=False)


@pytest.fixture(scope="module")
def words():
    return np.concatenate([each.words for each in builtin_sequences()])


def test_the_built_in_rows_are_four_sequences_of_syllables_in_words(words):
    data = datasets.load("syllables", offset=1500)
    assert data.observations.shape == (500, 2)
    assert data.lengths.tolist() == [500]
    whole = datasets.load("syllables")
    assert whole.lengths.tolist() == [500] * 4
    inside = (words[1:] == words[:-1]) & (np.arange(1, 2000) % 500 != 0)
    follows = np.argsort(ORDERS, axis=1)  # place of each syllable in each word
    place = follows[words, whole.categories]
    steps = (place[1:] - follows[words[1:], whole.categories[:-1]])[inside] % 6
    assert np.mean(steps == 1) == pytest.approx(0.9 + 0.1 / 6, abs=0.02)
    with pytest.raises(Exception, match="would mix the sequences of syllables"):
        datasets.load("syllables", order="cyclic")


def test_the_model_file_finds_syllables_and_words(trained, words):
    assert modules_of_regimes(trained.run._run.directory.graph) == {"words"}
    assert trained.run.summary["accuracy"] > 0.93
    assert accuracy(trained.run.classes["words"], words[:1000]) > 0.95


def test_new_rows_are_recognized_after_saving_and_loading(trained, words, tmp_path):
    others = datasets.load("syllables", offset=1500)
    trained.save(tmp_path / "words")
    again = Model.load(tmp_path / "words")
    found = again.predict(others.observations, others.lengths)
    np.testing.assert_array_equal(found, trained.predict(others.observations, others.lengths))
    assert accuracy(found, others.categories) > 0.93
    assert accuracy(again.predict(others.observations, others.lengths, module="words"), words[1500:]) > 0.95


def test_the_next_syllable_is_predicted_not_the_next_word(trained):
    others = datasets.load("syllables", offset=1500)
    predicted = trained.predict_next(others.observations, 3, others.lengths)
    assert predicted.shape == (3, 6)
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0)
    # As the words go on: the most probable next syllable is one that follows the last one in a word.
    matched = match(trained.predict(others.observations, others.lengths), others.categories)
    last = others.categories[-1]
    following = {order[(order.index(last) + 1) % 6] for order in ORDERS}
    assert matched[int(predicted[0].argmax())] in following


def test_generated_rows_are_of_syllables_in_the_orders_of_words(trained):
    drawn = trained.generate(200, seed=3)
    assert set(np.unique(drawn.classes)) == set(range(6))
    matrices = trained.run.outputs["syllables"]["regime_trans_prob"]
    likely = (matrices.max(axis=0) > 0.5)[drawn.classes[:-1], drawn.classes[1:]]
    assert likely.mean() > 0.8
    means = trained.run.means["gmm"]
    distance = np.linalg.norm(drawn.rows[:, None] - means, axis=2)
    assert (distance.argmin(axis=1) == drawn.classes).mean() > 0.7  # they overlap


def test_report_and_pictures_show_both_levels(trained, tmp_path):
    directory = trained.run._run.directory
    page = RunReport(directory).render()
    for title in (
        "Classes of gmm over time",
        "Classes of words over time",
        "Transition probabilities of syllables",
        "Transition probabilities of syllables in regime 2",
        "Transition probabilities of words",
        "Durations",
    ):
        assert title in page, title
    durations = page[page.index("Durations") :][:2000]
    assert not re.search(r"\d = \d", durations)  # words have no names of syllables
    names = {path.stem for path in draw_plots(directory, tmp_path)}
    assert {"transitions_syllables_0", "transitions_syllables_2", "transitions_words", "states_words"} <= names


def test_workers_share_the_rows_of_syllables_in_words(trained, words, tmp_path):
    learnt = []
    for workers in (1, 3):
        given = {**SHORT, "modules.syllables.workers": workers, "modules.syllables.chunk": 128}
        model = Model.from_file(ROOT / "configs" / "words.yaml", **given).fit(progress=False)
        model.save(tmp_path / str(workers))
        learnt.append(model)
    assert states_of(tmp_path / "1") == states_of(tmp_path / "3") != {}
    for name in ("regime", "Pregime", "Pdz", "regime_trans_prob"):
        one, three, alone = (each.run.outputs["syllables"][name] for each in (*learnt, trained))
        np.testing.assert_array_equal(one, three)
        np.testing.assert_allclose(one, alone, atol=1e-6)  # rounding, after all exchanges
    assert accuracy(learnt[1].run.classes["words"], words[:1000]) > 0.95


def test_workers_do_not_share_the_rows_of_words_that_have_durations():
    done = CliRunner().invoke(app, ["run", "words", "--local", "--set", "modules.words.workers=2"])
    assert done.exit_code == 2
    assert "modules.words.workers: module 'words' learns durations: negative_binomial" in done.output


def test_the_example_of_the_guide(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "model_files.md").read_text(encoding="utf-8")
    part = text[text.index("### Words of syllables") :]
    code = re.search(r"```python\n(.*?)```", part, re.DOTALL).group(1)
    names = {}
    exec(compile(code, "docs/model_files.md", "exec"), names)
    assert accuracy(names["word"], words[:1500]) > 0.95
    assert names["orders"].shape == (3, 6, 6)
    assert names["next_syllables"].shape == (3, 6)


@pytest.mark.slow
@pytest.mark.ray
def test_it_learns_the_same_bits_on_ray(trained, ray_cluster):
    on_ray = Model.from_file(ROOT / "configs" / "words.yaml", **SHORT).fit(ray=True, progress=False)
    assert states_of(on_ray.run.path) == states_of(trained.run.path)
    assert len(states_of(on_ray.run.path)) == 3
