"""Tests of rows that lack some of their values (NaN), from Python, through a run, to what it leaves."""

import numpy as np
import pandas as pd
import pytest
import yaml

from actors.errors import ModuleError
from actors.modules.mlda.mlda import MLDA
from runner import Model, ModelClusterer
from runner.report.clustering_metrics import accuracy

GENERATOR = np.random.default_rng(0)
TRUTH = np.arange(120) % 3
WHOLE = np.array([[4.0, 0.0, 1.0], [-4.0, -4.0, 0.0], [0.0, 4.0, -3.0]])[TRUTH] + GENERATOR.normal(size=(120, 3))
X = np.where(GENERATOR.random(WHOLE.shape) < 0.25, np.nan, WHOLE)
X[11] = np.nan


def model(connections=("data -> gmm", "gmm -> mm"), **modules):
    gmm = {"type": "gmm", "classes": 3, "engine": "vb", "prior_scale": "data", "iterations": 20}
    return Model({"gmm": gmm, "mm": {"type": "markov"}, **modules}, list(connections))


@pytest.fixture(scope="module")
def trained():
    return model().fit(X, categories=TRUTH, progress=False)


def test_a_model_learns_from_and_classifies_rows_that_lack_values(trained):
    assert accuracy(np.asarray(trained.run.classes["gmm"]), TRUTH) > 0.95
    names = trained.predict(WHOLE)
    assert accuracy(names, TRUTH) > 0.97
    assert (trained.predict(X) == names).mean() > 0.95
    lacking = X[:30].copy()
    lacking[:, 1] = np.nan  # a sensor that has failed
    assert (trained.predict(lacking) == names[:30]).mean() > 0.8
    assert len(trained.predict_next(X, steps=3)) == 3
    assert np.isfinite(trained.score(X))


def test_every_form_of_a_missing_value_is_the_same(trained):
    expected = trained.predict(X)
    masked = np.ma.masked_array(np.nan_to_num(X), mask=np.isnan(X))
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    for given in (masked, frame, frame.astype("Float64")):
        assert np.array_equal(trained.predict(given), expected)
        assert np.array_equal(model().fit(given, progress=False).predict(X), expected)


def test_a_saved_model_recognizes_rows_that_lack_values(trained, tmp_path):
    trained.save(tmp_path / "saved")
    assert np.array_equal(Model.load(tmp_path / "saved").predict(X), trained.predict(X))


def test_an_estimator_takes_missing_values(trained):
    estimator = ModelClusterer(model(), random_state=0).fit(X)
    assert accuracy(estimator.predict(X), TRUTH) > 0.9


def test_latent_vectors_of_rows_that_lack_values_are_classified():
    pca = {"type": "pca", "latent_dim": 2}
    found = model(("data -> pca", "pca -> gmm", "gmm -> mm"), pca=pca).fit(X, categories=TRUTH, progress=False)
    assert accuracy(np.asarray(found.run.classes["gmm"]), TRUTH) > 0.9


def test_workers_learn_from_rows_on_disk_that_lack_values(tmp_path):
    np.save(tmp_path / "x.npy", X)
    data = {"source": "files", "observations": str(tmp_path / "x.npy"), "on_disk": True}
    gmm = {"type": "gmm", "classes": 3, "engine": "vb", "prior_scale": "data", "iterations": 20}
    raw = {"name": "disk", "data": data, "modules": {"gmm": gmm}, "connections": ["data -> gmm"]}
    raw["schedule"] = {"rounds": 1}
    found = []
    for sharing in ({}, {"workers": 1, "chunk": 16}, {"workers": 3, "chunk": 16}):
        (tmp_path / "m.yaml").write_text(yaml.safe_dump({**raw, "modules": {"gmm": {**gmm, **sharing}}}))
        fitted = Model.from_file(tmp_path / "m.yaml").fit(progress=False)
        found.append(np.asarray(fitted.run.posteriors["gmm"]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-12)
    assert np.array_equal(found[1], found[2])


def test_workers_of_autoregressions_need_whole_rows():
    ar = {"type": "ar_gmm", "classes": 3}
    sentence = (
        r"module 'gmm': row 1 of .* lacks some of its values \(\d+ rows do\), which a module of type 'ar_gmm' can use "
        "in one process only; leave workers out, or fill them in"
    )
    with pytest.raises(ModuleError, match=sentence):
        model(gmm={**ar, "workers": 2, "chunk": 32}).fit(X, progress=False)
    model(gmm=ar).fit(X, progress=False)
    model(gmm={**ar, "workers": 2, "chunk": 32}).fit(WHOLE, progress=False)


def test_a_module_that_needs_whole_rows_says_so(monkeypatch):
    setting = classmethod(lambda _, parameters: f"has {parameters.topics} topics, which need whole rows")
    monkeypatch.setattr(MLDA, "whole_rows_setting", setting)  # a module of a user may have such a parameter
    with pytest.raises(
        ModuleError, match=r"'mlda': row \d+ of data lacks some .*and it has 3 topics, which need whole"
    ):
        Model({"mlda": {"type": "mlda", "topics": 3}}, ["data -> mlda"]).fit(np.round(np.abs(X)), progress=False)


@pytest.mark.parametrize("engine", ["gibbs", "vb"])
def test_counts_may_be_missing(engine, tmp_path):
    phi = np.random.default_rng(1).dirichlet(np.full(8, 0.3), 3)
    whole = np.random.default_rng(0).multinomial(60, phi[TRUTH]).astype(float)
    counts = np.where(np.random.default_rng(2).random(whole.shape) < 0.3, np.nan, whole)
    counts[11] = np.nan
    mlda = {"type": "mlda", "topics": 3, "engine": engine, "iterations": 30}
    fitted = Model({"mlda": mlda}, ["data -> mlda"]).fit(counts, categories=TRUTH, progress=False)
    assert accuracy(np.asarray(fitted.run.classes["mlda"]), TRUTH) > 0.9
    assert accuracy(fitted.predict(whole), TRUTH) > 0.95
    fitted.save(tmp_path / "saved")
    assert np.array_equal(Model.load(tmp_path / "saved").predict(counts), fitted.predict(counts))
