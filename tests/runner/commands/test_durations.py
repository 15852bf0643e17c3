"""A model whose Markov model has explicit durations, from learning to the report: the answers are those of segments."""

import numpy as np
import pytest

from runner import Model
from runner.config.run_config import ConfigError
from runner.report.clustering_metrics import accuracy
from runner.runs.directory import open_run
from runner.runs.run_report import RunReport
from tests.actors.modules.test_markov_durations import MEANS, lasting_classes

GMM = {"type": "gmm", "classes": 3, "iterations": 2, "prior_scale": "data", "calibrate": True}
MM = {"type": "markov", "durations": "poisson", "max_duration": 40, "estimate": "variational"}


def rows_of(classes, seed):
    """Return rows (N, 2) of three overlapping classes."""
    centres = 2.0 * np.array([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])
    return centres[classes] + np.random.default_rng(seed).normal(size=(len(classes), 2))


@pytest.fixture(scope="module")
def learnt():
    """A model that has learnt, and the true classes of its rows."""
    classes = lasting_classes(600, 0)
    schedule = {"rounds": 1, "steps": [{"steps": ["gmm", "mm"], "repeat": 5}, "gmm"]}
    model = Model({"gmm": GMM, "mm": MM}, ["data -> gmm -> mm"], schedule=schedule, seed=1)
    return model.fit(rows_of(classes, 0), lengths=[350, 250]), classes


def test_a_model_learns_durations_with_its_classes(learnt):
    model, classes = learnt
    out = model.run.outputs["mm"]
    category = [np.bincount(classes[out["viterbi"] == k], minlength=3).argmax() for k in range(3)]
    assert sorted(category) == [0, 1, 2]
    assert accuracy(out["viterbi"], classes) > 0.93
    for k, interval in enumerate(out["duration_interval"]):
        assert interval[0] < MEANS[category[k]] < interval[1]


def test_new_rows_are_recognised_predicted_and_drawn(learnt, tmp_path):
    model, _ = learnt
    model.save(tmp_path / "saved")
    for each in (model, Model.load(tmp_path / "saved")):
        new = lasting_classes(300, 5)
        assert accuracy(each.predict(rows_of(new, 5), lengths=[100, 200]), new) > 0.9
        future = each.predict_next(rows_of(new, 5), steps=60, lengths=[100, 200])
        assert future.sum(axis=1) == pytest.approx(np.ones(60))
        starts = np.flatnonzero(np.diff(each.generate(2000, seed=0).classes, prepend=-1))
        assert np.diff(starts).mean() == pytest.approx(each.run.outputs["mm"]["mean_duration"].mean(), rel=0.35)


def test_the_report_shows_mean_durations_beside_the_transitions(learnt, tmp_path):
    model, _ = learnt
    page = RunReport(open_run(model.save(tmp_path / "saved")).directory).render()
    assert "mean rows of a segment" in page
    for mean in model.run.outputs["mm"]["mean_duration"]:
        assert f"{mean:.1f}" in page


def test_workers_are_refused_before_anything_starts():
    with pytest.raises(ConfigError, match="segments cross the chunks of workers"):
        Model({"gmm": GMM, "mm": {**MM, "workers": 2}}, ["data -> gmm -> mm"])
