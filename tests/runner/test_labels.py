"""Tests of labels for some rows in model files and in Python."""

import numpy as np
import pytest

from actors.errors import GraphError
from runner import Model
from runner.config.run_config import ConfigError, load_config
from runner.data.errors import DataError

GENERATOR = np.random.default_rng(0)
TRUTH = np.repeat([2, 0, 1], 40)[GENERATOR.permutation(120)]
X = np.array([[4.0, 0.0], [-4.0, -4.0], [0.0, 4.0]])[TRUTH] + GENERATOR.normal(size=(120, 2))
KNOWN = np.full(120, -1)
KNOWN[[int(np.flatnonzero(k == TRUTH)[0]) for k in range(3)]] = [0, 1, 2]
MODEL = """
name: told
data:
  sensors: {source: files, observations: x.csv}
  labels: {source: files, observations: known.csv, type: labels, confidence: 0.99}
modules: {gmm: {type: gmm, classes: 3, engine: vb}}
connections: [sensors -> gmm, labels -> gmm]
schedule: {rounds: 1}
"""


@pytest.fixture
def files(tmp_path):
    np.savetxt(tmp_path / "x.csv", X, delimiter=",", header="x,y", comments="")
    told = ["NA" if label < 0 else str(label) for label in KNOWN]
    (tmp_path / "known.csv").write_text("\n".join(["label", *told]) + "\n")
    (tmp_path / "m.yaml").write_text(MODEL)
    return tmp_path


def gmm(**given):
    return Model({"gmm": {"type": "gmm", "classes": 3, "engine": "vb", **given}}, ["data -> gmm"])


def test_a_model_file_names_labels_as_a_source(files):
    np.save(files / "known.npy", KNOWN)
    for known in ("known.npy", "known.csv"):
        model = Model.from_file(files / "m.yaml", **{"data.labels.observations": str(files / known)})
        model.fit(progress=False)
        assert (model.predict(X) == TRUTH).mean() > 0.95


def test_fit_takes_labels_of_some_rows(tmp_path):
    told = [None if label < 0 else int(label) for label in KNOWN]
    missing = np.where(KNOWN < 0, np.nan, KNOWN)
    expected = gmm().fit(X, labels=KNOWN, progress=False).predict(X)
    assert (expected == TRUTH).mean() > 0.95
    for given in (told, missing):
        assert np.array_equal(gmm().fit(X, labels=given, progress=False).predict(X), expected)
    model = gmm().fit(X, labels=KNOWN, categories=TRUTH, progress=False)
    model.save(tmp_path / "saved")
    assert np.array_equal(Model.load(tmp_path / "saved").predict(X), expected)


def test_workers_learn_from_labels_as_one_process_does():
    alone = gmm().fit(X, labels=KNOWN, progress=False)
    for workers in (1, 3):
        shared = gmm(workers=workers, chunk=16).fit(X, labels=KNOWN, progress=False)
        np.testing.assert_allclose(shared.predict_proba(X), alone.predict_proba(X), rtol=1e-9, atol=1e-12)


def test_categories_are_never_learnt_from():
    told = gmm().fit(X, labels=KNOWN, progress=False)
    measured = gmm().fit(X, labels=KNOWN, categories=TRUTH, progress=False)
    assert np.array_equal(told.predict_proba(X), measured.predict_proba(X))


def test_what_labels_cannot_be_is_refused(files):
    with pytest.raises(DataError, match="row 1 has the label 7; give 0 to 2, or nothing"):
        gmm().fit(X, labels=np.full(120, 7), progress=False)
    with pytest.raises(DataError, match=r"has 120 rows and data.labels 60"):
        gmm().fit(X, labels=KNOWN[:60], progress=False)
    with pytest.raises(DataError, match="labels: have the shape"):
        gmm().fit(X, labels=np.zeros((120, 2)), progress=False)
    with pytest.raises(DataError, match="labels: holds texts"):
        gmm().fit(X, labels=["a"] * 120, progress=False)
    with pytest.raises(GraphError, match="need one module that takes labels, and there is none; use a gmm, dp_gmm"):
        Model({"pca": {"type": "pca", "latent_dim": 1}}, ["data -> pca"]).fit(X, labels=KNOWN, progress=False)
    with pytest.raises(ConfigError, match="confidence: is that of labels; add type: labels"):
        load_config(files / "m.yaml", ["data.labels.type=observations"])
    with pytest.raises(ConfigError, match="module 'gmm': labels say something about rows, but nothing sends it these"):
        load_config(
            files / "m.yaml",
            ["connections=[labels -> gmm]", "data={labels: {source: files, observations: x, type: labels}}"],
        )
