"""Test normal-inverse-Wishart posteriors and predictive densities against scipy and against recomputation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import f as f_distribution
from scipy.stats import kstest, multivariate_t

from actors.kernels.mixture import niw
from actors.kernels.mixture.cholesky import factorize, rank_one_update

K, D = 3, 4


@pytest.fixture
def problem():
    """Return rows, labels of three classes (the last one empty, two rows in none) and a prior with a full scale."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, D)) @ rng.normal(size=(D, D)) + 3.0
    z = rng.integers(0, 2, 40)
    z[:2] = -1
    A = rng.normal(size=(D, D))
    return X, z, niw.NIWPrior(rng.normal(size=D), 0.7, D + 1.5, A @ A.T + 0.1 * np.eye(D))


def scipy_predictive(x, members, prior):
    """Return the log predictive density of x by textbook formulas, with explicit matrices."""
    n = len(members)
    r, nu = prior.r0 + n, prior.nu0 + n
    m = (prior.r0 * prior.mean + members.sum(axis=0)) / r
    S = prior.scale + members.T @ members + prior.r0 * np.outer(prior.mean, prior.mean) - r * np.outer(m, m)
    df = nu - len(m) + 1
    return multivariate_t.logpdf(x, loc=m, shape=S * (r + 1) / (r * df), df=df)


def test_new_rows_have_a_multivariate_student_t_density(problem):
    X, z, prior = problem
    new = np.random.default_rng(2).normal(size=(70, D)) * 4
    density = niw.log_predictive(new, niw.posterior_from_labels(X, z, K, prior), prior)
    expected = np.stack([scipy_predictive(new, X[z == k], prior) for k in range(K)], axis=1)
    assert_allclose(density, expected, rtol=1e-9)


def test_leave_one_out_density_equals_that_of_a_posterior_without_the_row(problem):
    X, z, prior = problem
    density = niw.log_predictive_loo(X, z, niw.posterior_from_labels(X, z, K, prior), prior)
    for i in range(len(X)):
        others = np.where(np.arange(len(X)) == i, -1, z)
        expected = niw.log_predictive(X[i : i + 1], niw.posterior_from_labels(X, others, K, prior), prior)
        assert_allclose(density[i], expected[0], rtol=1e-9)


def test_a_class_of_one_row_has_the_prior_density_when_that_row_is_left_out():
    prior = niw.NIWPrior(np.zeros(D), 1.0, D + 2.0, np.full(D, 0.1))
    X = np.array([[1.0, -2.0, 3.0, 0.5]])
    alone = niw.log_predictive_loo(X, [1], niw.posterior_from_labels(X, [1], 2, prior), prior)
    assert_allclose(alone[0, 1], alone[0, 0], rtol=1e-9)


def test_predictive_densities_multiply_to_the_marginal_likelihood(problem):
    X, _, prior = problem
    chained = 0.0
    for i in range(len(X)):
        posterior = niw.posterior_from_labels(X[:i], np.zeros(i, dtype=int), 1, prior)
        chained += niw.log_predictive(X[i : i + 1], posterior, prior)[0, 0]
    whole = niw.log_marginal_likelihood(niw.posterior_from_labels(X, np.zeros(len(X), dtype=int), 1, prior), prior)
    assert_allclose(whole[0], chained, rtol=1e-10)


def test_ten_thousand_rank_one_updates_agree_with_a_factorisation_from_scratch():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(200, 6))
    S, L = np.eye(6), np.eye(6)
    inside = np.zeros(200, dtype=bool)
    for i in rng.integers(0, 200, 10_000):
        sign = -1.0 if inside[i] else 1.0
        S += sign * np.outer(rows[i], rows[i])
        assert rank_one_update(L, rows[i].copy(), sign)
        inside[i] = not inside[i]
    assert_allclose(L, np.linalg.cholesky(np.eye(6) + rows[inside].T @ rows[inside]), rtol=1e-9, atol=1e-9)
    assert_allclose(np.tril(L) @ np.tril(L).T, S, rtol=1e-9, atol=1e-9)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_factorize_agrees_with_numpy(size, seed):
    A = np.random.default_rng(seed).normal(size=(size, size + 2))
    S, L = A @ A.T + 0.01 * np.eye(size), np.zeros((size, size))
    assert factorize(S, L)
    assert_allclose(L, np.linalg.cholesky(S), rtol=1e-7, atol=1e-9)


def test_matrices_that_are_not_positive_definite_are_reported():
    assert not factorize(np.array([[1.0, 2.0], [2.0, 1.0]]), np.zeros((2, 2)))
    assert not rank_one_update(np.eye(2), np.array([1.0, 1.0]), -1.0)


def test_a_vector_as_prior_scale_is_taken_as_the_diagonal():
    assert_allclose(niw.NIWPrior(np.zeros(2), 1.0, 3.0, np.array([1.0, 2.0])).scale, np.diag([1.0, 2.0]))


@pytest.mark.parametrize(
    ("mean", "r0", "nu0", "scale", "text"),
    [
        (np.zeros((2, 2)), 1.0, 3.0, np.eye(2), "vector"),
        (np.zeros(2), 1.0, 3.0, np.eye(3), "2 x 2"),
        (np.zeros(2), 0.0, 3.0, np.eye(2), "r0 > 0"),
        (np.zeros(2), 1.0, 1.0, np.eye(2), "nu0 > 1"),
        (np.zeros(2), 1.0, 3.0, -np.eye(2), "positive definite"),
        (np.full(2, np.nan), 1.0, 3.0, np.eye(2), "finite"),
    ],
)
def test_an_invalid_prior_is_refused(mean, r0, nu0, scale, text):
    with pytest.raises(ValueError, match=text):
        niw.NIWPrior(mean, r0, nu0, scale)


def test_rows_and_labels_of_wrong_shape_or_range_are_refused(problem):
    X, z, prior = problem
    with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
        niw.posterior_from_labels(X[:, :2], z, K, prior)
    with pytest.raises(ValueError, match="labels must have the shape"):
        niw.posterior_from_labels(X, z[:5], K, prior)
    with pytest.raises(ValueError, match=r"labels must lie in -1\.\.0"):
        niw.posterior_from_labels(X, z, 1, prior)


def test_drawn_rows_have_the_predictive_density():
    """Of D dimensions and f degrees of freedom, squared distances over D have the F distribution of D and f."""
    X = np.random.default_rng(0).normal(size=(40, 3)) @ np.array([[2.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.1]])
    z = np.repeat([0, 1], [8, 32])
    prior = niw.NIWPrior(mean=np.zeros(3), scale=np.eye(3), r0=1.0, nu0=5.0)
    posterior = niw.posterior_from_labels(X, z, 2, prior)
    classes = np.tile([1, 0], 10_000)
    rows = niw.sample_predictive(classes, posterior, prior, np.random.default_rng(1))
    for k in (0, 1):
        r, nu = prior.r0 + posterior.counts[k], prior.nu0 + posterior.counts[k]
        freedom = nu - 3 + 1
        shape = posterior.scale[k] * (r + 1) / (r * freedom)
        shape = np.tril(shape) + np.tril(shape, -1).T
        away = rows[classes == k] - posterior.mean[k]
        distances = np.einsum("nd,dn->n", away, np.linalg.solve(shape, away.T))
        assert kstest(distances / 3, f_distribution(3, freedom).cdf).pvalue > 1e-3
        assert_allclose(np.cov(away.T), shape * freedom / (freedom - 2), rtol=0.1, atol=0.02)
