"""Tests of the scikit-learn estimators: scikit-learn's own checks, pipelines, routing, and accuracy beside hmmlearn."""

import pickle
import time

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from actors.errors import GraphError
from runner import Model, ModelClusterer, SequenceClusterer
from runner.data.datasets import load
from runner.report.clustering_metrics import score

ORDER = "rows are a sequence: the class of a row depends on the rows beside it"
EXPECTED_FAILURES = {
    "check_methods_sample_order_invariance": ORDER,
    "check_methods_subset_invariance": ORDER,
}
"""The checks of scikit-learn that cannot apply, with the reason."""

CENTRES = np.array([[0, 0], [3, 0], [3, 3], [0, 3]], dtype=np.float64)
CLASSES = np.arange(200) % 4
ROWS = CENTRES[CLASSES] + np.random.default_rng(0).normal(size=(200, 2))


def clusterer(**changes):
    return SequenceClusterer(**{"n_clusters": 4, "chains": 2, "max_iter": 6, "random_state": 0, **changes})


@pytest.fixture(scope="module")
def fitted():
    return clusterer().fit(ROWS)


def failures_of(estimator):
    """Return the checks that fail although they apply."""
    results = check_estimator(estimator, expected_failed_checks=EXPECTED_FAILURES, on_skip=None, on_fail=None)
    assert len(results) > 40
    assert {each["check_name"] for each in results} >= set(EXPECTED_FAILURES)
    return {each["check_name"]: each["exception"] for each in results if each["status"] == "failed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [
        SequenceClusterer(3, random_state=0, chains=0, max_iter=2),
        SequenceClusterer(3, random_state=0),
        ModelClusterer(Model(gmm={"type": "gmm", "classes": 2}, schedule={"rounds": 1}), random_state=0),
    ],
    ids=["one start", "default", "a model"],
)
def test_estimators_pass_the_checks_of_scikit_learn(estimator):
    assert failures_of(estimator) == {}


def test_each_check_that_cannot_apply_fails_because_of_the_order(fitted):
    """A row on the border of two classes gets the class that its neighbours ask for."""
    border = (CENTRES[0] + CENTRES[1]) / 2
    before = np.stack([CENTRES[3], border, CENTRES[1]])
    after = np.stack([CENTRES[0], border, CENTRES[2]])
    first, zero, one = fitted.predict(before)[1], fitted.predict(CENTRES)[0], fitted.predict(CENTRES)[1]
    assert (first, fitted.predict(after)[1]) == (zero, one)


def test_tensors_and_masked_arrays_are_what_they_mean(fitted):
    """A masked value is missing, not the number beneath the mask, whatever that is."""
    expected = fitted.predict(ROWS)
    np.testing.assert_array_equal(fitted.predict(torch.tensor(ROWS, requires_grad=True)), expected)
    mask = np.zeros(ROWS.shape, np.bool_)
    mask[::7, 1] = True
    lacking = fitted.predict(np.where(mask, np.nan, ROWS))
    masked = np.ma.masked_array(np.where(mask, 1e6, ROWS), mask)
    np.testing.assert_array_equal(fitted.predict(masked), lacking)
    np.testing.assert_array_equal(
        clusterer().fit(masked).predict(masked), clusterer().fit_predict(np.where(mask, np.nan, ROWS))
    )


def test_order_decides_where_shapes_overlap(fitted):
    assert score(fitted.labels_, CLASSES).accuracy == 1.0
    assert fitted.transition_matrix_.shape == (4, 4)
    matched = np.array([fitted.labels_[k] for k in range(4)])
    assert (fitted.transition_matrix_[matched, np.roll(matched, -1)] > 0.95).all()
    np.testing.assert_allclose(fitted.cluster_centers_[matched], CENTRES, atol=0.5)
    np.testing.assert_array_equal(fitted.labels_, fitted.predict(ROWS))
    np.testing.assert_array_equal(fitted.predict_proba(ROWS).argmax(axis=1), fitted.labels_)


def test_the_same_model_as_that_of_the_model_class(fitted):
    plain = Model.load(fitted.model_.run.path)
    np.testing.assert_array_equal(plain.predict(ROWS), fitted.predict(ROWS))
    assert fitted.score(ROWS) == plain.score(ROWS)


def test_random_state_is_the_seed(fitted):
    assert clone(fitted).fit(ROWS).score(ROWS) == fitted.score(ROWS)
    quick = {"chains": 0, "max_iter": 1}
    drawn = [clusterer(random_state=np.random.RandomState(3), **quick).fit(ROWS).model_._config.seed for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert clusterer(random_state=None, **quick).fit(ROWS).model_._config.seed != 0


def test_parameters_are_got_set_and_cloned():
    estimator = clusterer(tol=0.5)
    assert clone(estimator).get_params() == estimator.get_params()
    assert estimator.set_params(n_clusters=3).n_clusters == 3
    assert repr(estimator) == "SequenceClusterer(chains=2, max_iter=6, n_clusters=3, random_state=0, tol=0.5)"


def test_it_works_in_a_pipeline_with_frames_and_names_of_columns():
    frame = pd.DataFrame(ROWS * [1000.0, 0.001], columns=["force", "current"])
    pipeline = make_pipeline(StandardScaler(), clusterer()).set_output(transform="pandas")
    labels = pipeline.fit_predict(frame)
    assert score(labels, CLASSES).accuracy == 1.0
    assert pipeline[-1].feature_names_in_.tolist() == ["force", "current"]
    transformed = pipeline.transform(frame)
    assert list(transformed.columns) == [f"sequenceclusterer{k}" for k in range(4)]
    np.testing.assert_array_equal(transformed.to_numpy().argmax(axis=1), labels)
    with pytest.raises(ValueError, match="feature names should match"):
        pipeline[-1].predict(frame.rename(columns={"force": "torque"}))


def test_lengths_are_routed_through_a_pipeline():
    with sklearn.config_context(enable_metadata_routing=True):
        step = clusterer().set_fit_request(lengths=True).set_predict_request(lengths=True)
        pipeline = make_pipeline(StandardScaler(), step)
        pipeline.fit(ROWS, lengths=[120, 80])
        classes = pipeline.predict(ROWS, lengths=[120, 80])
    alone = clusterer().fit(StandardScaler().fit_transform(ROWS), lengths=[120, 80])
    np.testing.assert_array_equal(classes, alone.labels_)


def test_components_are_clustered_instead_of_columns():
    wide = ROWS @ np.random.default_rng(1).normal(size=(2, 12))
    estimator = clusterer(n_components=2).fit(wide)
    assert score(estimator.labels_, CLASSES).accuracy == 1.0
    assert estimator.transform(wide).shape == (200, 2)
    assert estimator.get_feature_names_out().tolist() == ["sequenceclusterer0", "sequenceclusterer1"]
    assert estimator.sample(3)[0].shape == (3, 12)


def test_it_is_pickled_with_what_it_has_learnt(fitted):
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict(ROWS), fitted.labels_)


def test_missing_rows_are_allowed(fitted):
    rows = ROWS.copy()
    rows[100] = np.nan
    assert fitted.predict(rows)[100] == fitted.labels_[100]


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (lambda: clusterer().predict(ROWS), "this SequenceClusterer is not fitted yet: call 'fit' before"),
        (lambda: clusterer().fit(ROWS[:1]), "minimum of 2 is required"),
        (lambda: clusterer().fit(ROWS[:, 0]), "Expected 2D array, got 1D array"),
        (lambda: clusterer().fit(ROWS * 1j), "Complex data not supported"),
        (lambda: clusterer().fit(np.where([True, False], np.nan, ROWS)), "column 1 has no value in any row"),
        (lambda: clusterer().fit(np.where(ROWS > 3, np.inf, ROWS)), "Input X contains infinity"),
        (lambda: clusterer(n_clusters=0).fit(ROWS), "modules.mixture.classes: "),
        (lambda: clusterer(n_clusters=500).fit(ROWS), "500"),
        (lambda: clusterer(random_state="x").fit(ROWS), "cannot be used to seed"),
        (lambda: clusterer().fit(ROWS, lengths=[3]), "lengths: the lengths do not add up to the 200 rows"),
        (lambda: ModelClusterer().fit(ROWS), "model is None; give a runner.Model, or the path of a model file"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(use, sentence):
    with pytest.raises((ValueError, GraphError, NotFittedError)) as caught:
        use()
    assert sentence in str(caught.value)


@pytest.mark.slow
def test_cross_validation_by_the_score_finds_the_number_of_classes():
    search = GridSearchCV(clusterer(chains=1), {"n_clusters": [3, 4, 5]}, cv=KFold(2), refit=False).fit(ROWS)
    assert search.best_params_ == {"n_clusters": 4}


@pytest.mark.slow
def test_digits_in_order_are_found_better_and_faster_than_by_hmmlearn():
    hmm = pytest.importorskip("hmmlearn.hmm")
    from sklearn.decomposition import PCA

    digits = load("digits", order="cyclic", count=1000)
    started = time.process_time()
    ours = SequenceClusterer(10, n_components=10, random_state=0).fit(digits.observations)
    own_seconds = time.process_time() - started
    latents = PCA(10).fit_transform(digits.observations)
    started = time.process_time()
    theirs = hmm.GaussianHMM(10, covariance_type="full", n_iter=50, random_state=0).fit(latents)
    seconds = time.process_time() - started
    accuracy = score(theirs.predict(latents), digits.categories).accuracy
    found = score(ours.labels_, digits.categories).accuracy
    print(f"accuracy {found:.4f} in {own_seconds:.1f} s; hmmlearn's {accuracy:.4f} in {seconds:.1f} s")
    assert found > max(accuracy, 0.99)
