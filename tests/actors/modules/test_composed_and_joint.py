"""GMM + MM beside one hidden Markov model that is optimised jointly (tests/support/joint_hmm.py)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_t

from tests.benchmarks.composed import compare, made, prior_for
from tests.support.joint_hmm import bound, infer, optimise, posterior


def test_the_bound_of_one_class_is_the_marginal_likelihood():
    X = np.random.default_rng(0).normal(size=(20, 2)) @ np.array([[1.0, 0.5], [0.0, 2.0]])
    prior = prior_for(X, 1)
    q = posterior(X, np.ones((20, 1)), np.array([[19.0]]), prior)
    exact = 0.0
    for t in range(20):  # the density of each row given those before it
        so_far = posterior(X[:t], np.ones((t, 1)), np.zeros((1, 1)), prior)
        degrees = so_far.nu[0] - 1.0
        shape = so_far.scale[0] * (so_far.r[0] + 1.0) / (so_far.r[0] * degrees)
        exact += multivariate_t(so_far.mean[0], shape, degrees).logpdf(X[t])
    assert bound(X, q, prior) == pytest.approx(exact, abs=1e-9)


def test_the_reference_never_lowers_its_bound_and_ends_at_a_fixed_point():
    X, classes = made(60, 3.0, seed=0)
    prior = prior_for(X, 4)
    start = posterior(X, np.eye(4)[(classes + (np.arange(60) % 3 == 0)) % 4], np.zeros((4, 4)), prior)
    q, bounds = optimise(X, start, prior)
    assert (np.diff(bounds) > -1e-9).all()
    assert len(bounds) > 3
    labels, transitions, _ = infer(X, q)
    again = posterior(X, labels, transitions, prior)
    assert_allclose(again.mean, q.mean, atol=1e-3)
    assert labels.sum() == pytest.approx(60)
    assert transitions.sum() == pytest.approx(59)


def test_the_composed_model_comes_near_the_bound_of_the_joint_one():
    found = compare(200, 4.0, seed=0, starts=1)
    assert found.composed <= found.from_composed + 1e-6
    assert found.from_composed - found.composed < 2.0  # nats of 200 rows
    assert found.from_composed > found.independent + 50.0
