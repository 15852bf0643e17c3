"""Tests of mixtures in other units: common factors, shifts, columns without variance, more classes than rows."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.mixture.columns import choose_columns
from actors.kernels.mixture.niw import NIWPrior, log_marginal_likelihood, posterior_from_labels
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox

N = 200
TRUTH = np.arange(N) % 2


def two_clusters(seed=0):
    """Return rows of two clusters, six deviations apart in the first of two columns."""
    X = np.random.default_rng(seed).normal(size=(N, 2))
    X[:, 0] += 6.0 * TRUTH
    return X


def observations(X):
    return make_message(Header("observations", "data", "observations", "gmm"), {"values": X})


def learn(X, kind="gmm", seed=0, order_above=False, **parameters):
    """Return a mixture that has learnt from the rows X, and the outbox of the update."""
    module = make_module(kind, {"iterations": 20, **({"classes": 2} if kind == "gmm" else {}), **parameters})
    context = Context("gmm", seed=seed, order_above=order_above, receivers={"class_posteriors": ("mm",)})
    return module, module.update(Inbox([observations(X)]), context)


def same_classes(labels, truth=TRUTH):
    return len(set(zip(labels.tolist(), truth.tolist(), strict=True))) == len(set(truth.tolist())) == len(set(labels))


def clear_classes(labels):
    """Return whether the two clusters were found, up to the rows at which they overlap."""
    agreement = (labels == TRUTH).mean()
    return max(agreement, 1.0 - agreement) > 0.97


MODELS = {
    "kmeans": {"start": "kmeans"},
    "sequence": {"start": "sequence"},
    "calibrated": {"calibrate": True},
    "vb": {"engine": "vb"},
    "dp_gmm": {"kind": "dp_gmm", "split_merge": 5, "most": 4},
}


@pytest.mark.parametrize("parameters", MODELS.values(), ids=MODELS)
@settings(max_examples=8, deadline=None)
@given(exponent=st.integers(-150, 150))
def test_a_common_factor_does_not_change_the_classes(parameters, exponent):
    X = two_clusters()
    expected = learn(X, prior_scale="data", **parameters)[1].outputs
    outputs = learn(X * 10.0**exponent, prior_scale="data", **parameters)[1].outputs
    assert np.array_equal(outputs["class"], expected["class"])
    np.testing.assert_allclose(outputs["mu"] / 10.0**exponent, expected["mu"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-150, 1e-12, 1e-3, 1e150])
def test_with_a_number_as_scale_clear_classes_are_found_in_any_unit(factor):
    assert same_classes(learn(two_clusters() * factor)[1].outputs["class"])


@given(exponents=st.tuples(st.integers(-150, 150), st.integers(-150, 150)))
@settings(max_examples=8, deadline=None)
def test_each_column_may_have_its_own_unit(exponents):
    X = two_clusters()
    outputs = learn(X * 10.0 ** np.array(exponents), prior_scale="data")[1].outputs
    assert np.array_equal(outputs["class"], learn(X, prior_scale="data")[1].outputs["class"])


@pytest.mark.parametrize("shift", [1e3, -1e7, 1e10])
def test_a_shift_by_many_deviations_does_not_change_the_classes(shift):
    X = two_clusters()
    moved = learn(X + shift, prior_scale="data")[1].outputs
    assert np.array_equal(moved["class"], learn(X, prior_scale="data")[1].outputs["class"])


def test_extreme_units_that_differ_by_a_power_of_two_give_the_same_bits():
    X = two_clusters()
    (one, a), (other, b) = (learn(np.ldexp(X, e), prior_scale="data") for e in (-400, 400))
    for name in ("labels", "mean", "scale", "chol", "log_det"):
        assert np.array_equal(one.state()[name], other.state()[name])
    assert np.array_equal(a.outputs["Pdz"], b.outputs["Pdz"])
    assert np.array_equal(np.ldexp(a.outputs["mu"], 800), b.outputs["mu"])
    # Densities are per unit volume: 2^800 in each of two columns.
    difference = 2 * 800 * N * np.log(2.0)
    assert a.metrics["evidence"] - b.metrics["evidence"] == pytest.approx(difference, rel=1e-12)


def test_the_classes_are_those_of_scikit_learn_on_standardised_columns():
    X = two_clusters() * [1e-12, 1e9]
    labels = GaussianMixture(2, random_state=0).fit_predict(StandardScaler().fit_transform(X))
    assert same_classes(learn(X, prior_scale="data")[1].outputs["class"], labels)


def test_the_evidence_is_that_of_the_columns_that_vary():
    X = two_clusters()
    module, outbox = learn(X)
    wide, wide_outbox = learn(np.c_[X[:, :1], np.full(N, 7.3), X[:, 1:]])
    assert wide_outbox.metrics == outbox.metrics
    assert np.array_equal(wide_outbox.outputs["Pdz"], outbox.outputs["Pdz"])
    assert np.array_equal(wide_outbox.outputs["mu"][:, [0, 2]], outbox.outputs["mu"])
    assert (wide_outbox.outputs["mu"][:, 1] == 7.3).all()
    assert same_classes(wide.state()["labels"], module.state()["labels"])


def test_a_constant_column_in_the_likelihood_would_cost_half_a_log_two_a_row():
    rows, prior = np.zeros((N, 1)), NIWPrior(np.zeros(1), 1e-9, 3.0, np.array([1e-3]))
    one = log_marginal_likelihood(posterior_from_labels(rows, np.zeros(N, int), 1, prior), prior).sum()
    two = log_marginal_likelihood(posterior_from_labels(rows, TRUTH, 2, prior), prior).sum()
    # The means' prior, almost flat, adds log r0 and terms of order log N.
    assert one - two == pytest.approx(N / 2 * np.log(2.0), abs=30)
    assert one - two > 50


@pytest.mark.parametrize(
    ("extra", "fewest"),
    [((), 20), ((1.0,), 20), ((1.0, 0.0, 5.0), 20), ("0.001", 16), ("0.01", 16)],
    ids=["none", "one constant", "three constant", "deviation 0.001", "deviation 0.01"],
)
def test_random_starts_find_clear_classes_beside_columns_that_say_nothing(extra, fewest):
    noise = np.random.default_rng(9).normal(size=(N, 1))
    columns = float(extra) * noise if isinstance(extra, str) else np.tile(extra, (N, 1))
    found = [
        clear_classes(
            learn(np.c_[two_clusters(s), columns], seed=s, start="random", iterations=100)[1].outputs["class"]
        )
        for s in range(20)
    ]
    assert sum(found) >= fewest  # before: 20, 2, 0, 2 and 2 of 20


@pytest.mark.parametrize("engine", ["gibbs", "vb"])
@pytest.mark.parametrize("start", ["random", "auto"])
def test_the_classes_are_those_without_the_constant_columns(engine, start):
    for seed in range(5):
        X, given = two_clusters(seed), {"seed": seed, "engine": engine, "start": start}
        alone, beside = (learn(rows, **given)[1].outputs["class"] for rows in (X, np.c_[X, np.full((N, 2), 7.0)]))
        assert np.array_equal(alone, beside)


@pytest.mark.parametrize("engine", ["gibbs", "vb"])
@pytest.mark.parametrize("order_above", [False, True])
def test_the_default_start_finds_clear_classes_with_every_seed(order_above, engine):
    noise = 0.001 * np.random.default_rng(9).normal(size=(N, 1))
    given = {"order_above": order_above, "engine": engine}
    assert all(
        clear_classes(learn(np.c_[two_clusters(s), noise], seed=s, **given)[1].outputs["class"]) for s in range(20)
    )


def test_recognition_ignores_what_was_constant_and_says_so(caplog):
    X = np.c_[two_clusters(), np.full(N, 3.0)]
    with caplog.at_level(logging.WARNING):
        module, outbox = learn(X)
    assert "column 3 of 3 without variance left out" in caplog.text
    caplog.clear()
    fresh = make_module("gmm", {"classes": 2})
    fresh.load_state(module.state())
    X[:, 2] = np.arange(N)
    with caplog.at_level(logging.WARNING):
        recognized = fresh.recognize(Inbox([observations(X)]), Context("gmm"))
    assert np.array_equal(recognized.outputs["class"], outbox.outputs["class"])
    assert "column 3 had one value in every row that was learnt from" in caplog.text


@pytest.mark.parametrize("parameters", MODELS.values(), ids=MODELS)
def test_identical_rows_are_one_class(parameters):
    outputs = learn(np.full((10, 3), 0.1), **parameters)[1].outputs
    assert len(set(outputs["class"])) == 1


def test_rounding_is_no_variance_but_small_deviations_are():
    X = np.c_[np.full(50, 0.1) * (1 + 1e-16 * (np.arange(50) % 3)), 1e6 + 1e-6 * np.arange(50)]
    assert choose_columns(X, np.float64).kept.tolist() == [False, True]


@pytest.mark.parametrize("start", ["auto", "random", "kmeans", "sequence"])
def test_more_classes_than_rows_are_refused(start):
    with pytest.raises(ModuleError, match="3 rows cannot start 4 classes: use at most 3"):
        learn(np.eye(3), classes=4, start=start)
