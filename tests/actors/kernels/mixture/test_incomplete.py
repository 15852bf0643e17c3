"""Tests of rows in which some values are missing: densities, expected sums and samplers against exact integrals."""

import functools
import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gammaln, logsumexp
from scipy.stats import multivariate_normal, multivariate_t

from actors.kernels.mixture import gibbs as sampler
from actors.kernels.mixture.blocked_gibbs import ClassParameters, draw_classes, draw_labels, draw_log_weights
from actors.kernels.mixture.gibbs_sweep import make_tables
from actors.kernels.mixture.incomplete import (
    conditionals,
    draw_missing_values,
    find_incomplete,
    log_density_observed,
    log_predictive_loo_observed,
    log_predictive_observed,
    pairs_of_labels,
    posterior_given_labels,
)
from actors.kernels.mixture.niw import (
    NIWPrior,
    log_marginal_likelihood,
    log_predictive,
    posterior_from_labels,
)
from actors.kernels.mixture.variational import one_hot_responsibilities, variational_bayes

N, D, K = 60, 4, 3
PRIOR = NIWPrior(np.zeros(D), 1.0, D + 2.0, np.eye(D))


def rows_with_gaps(share=0.3, seed=0):
    """Return rows, their classes, which values are missing (arbitrary numbers stand there), and missing rows."""
    generator = np.random.default_rng(seed)
    truth = np.arange(N) % K
    X = 3 * generator.normal(size=(K, D))[truth] + generator.normal(size=(N, D)) @ generator.normal(size=(D, D)) / 2
    absent = generator.random((N, D)) < share
    return np.where(absent, 7.7, X), truth, absent, absent.all(axis=1)


def test_rows_without_gaps_are_not_incomplete():
    assert find_incomplete(np.zeros((3, 2), bool), np.zeros(3, bool)) is None
    assert find_incomplete(np.array([[True, True], [False, False]]), np.array([True, False])) is None


def test_rows_are_grouped_by_the_columns_that_they_have():
    absent = np.array([[True, False], [False, False], [False, True], [True, False]])
    found = find_incomplete(absent, np.zeros(4, bool))
    assert found.rows.tolist() == [0, 2, 3]
    assert np.array_equal(found.observed[found.pattern], ~absent[[0, 2, 3]])
    assert len(found.observed) == 2


# --- densities ----------------------------------------------------------------------------------------------------


def test_the_density_of_a_row_is_the_marginal_of_its_class():
    X, truth, absent, missing = rows_with_gaps()
    posterior = posterior_from_labels(X, truth, K, PRIOR)
    found = log_predictive_observed(X, find_incomplete(absent, missing), posterior, PRIOR)
    for row in np.flatnonzero(~missing):
        seen = ~absent[row]
        for k in range(K):
            r, degrees = PRIOR.r0 + posterior.counts[k], PRIOR.nu0 + posterior.counts[k] - D + 1
            scale = posterior.scale[k][np.ix_(seen, seen)] * (r + 1) / r / degrees
            expected = multivariate_t(posterior.mean[k][seen], scale, degrees).logpdf(X[row, seen])
            assert found[row, k] == pytest.approx(expected, abs=1e-9)


def test_densities_do_not_depend_on_units():
    X, truth, absent, missing = rows_with_gaps()
    incomplete, units = find_incomplete(absent, missing), np.array([1e-9, 1.0, 1e6, 1e12])
    other = NIWPrior(np.zeros(D), 1.0, D + 2.0, units**2)
    one = log_predictive_observed(X, incomplete, posterior_from_labels(X, truth, K, PRIOR), PRIOR)
    two = log_predictive_observed(X * units, incomplete, posterior_from_labels(X * units, truth, K, other), other)
    volume = np.where(absent, 0.0, np.log(units)).sum(axis=1)
    assert np.allclose(one[~missing], (two + volume[:, None])[~missing], atol=1e-7)


def test_a_row_is_left_out_of_its_class():
    X, truth, absent, missing = rows_with_gaps()
    alone = np.zeros_like(absent)
    alone[4] = [True, False, True, False]
    incomplete = find_incomplete(alone, missing)
    posterior = posterior_given_labels(X, truth, K, incomplete, PRIOR)
    found = log_predictive_loo_observed(X, truth, incomplete, posterior, PRIOR)[4]
    others = posterior_from_labels(np.delete(X, 4, axis=0), np.delete(truth, 4), K, PRIOR)
    own = find_incomplete(alone[4:5], missing[4:5])
    assert found[truth[4]] == pytest.approx(log_predictive_observed(X[4:5], own, others, PRIOR)[0, truth[4]], abs=1e-9)


# --- expected sums ------------------------------------------------------------------------------------------------


def test_expected_values_are_those_of_the_conditional_normal_distribution():
    X, truth, absent, missing = rows_with_gaps()
    incomplete, posterior = find_incomplete(absent, missing), posterior_from_labels(X, truth, K, PRIOR)
    pairs = pairs_of_labels(incomplete, truth)
    found = conditionals(X, incomplete, pairs, posterior.mean, posterior.scale, np.ones(len(pairs.row)))
    scatter = np.zeros((K, D, D))
    for at, row in enumerate(incomplete.rows[pairs.row]):
        o, m, k = np.flatnonzero(~absent[row]), np.flatnonzero(absent[row]), truth[row]
        S = posterior.scale[k]
        regression = S[np.ix_(m, o)] @ np.linalg.inv(S[np.ix_(o, o)])
        expected = posterior.mean[k][m] + regression @ (X[row, o] - posterior.mean[k][o])
        assert np.allclose(found.values[at, m], expected)
        assert np.array_equal(found.values[at, o], X[row, o])
        scatter[k][np.ix_(m, m)] += S[np.ix_(m, m)] - regression @ S[np.ix_(o, m)]
    assert np.allclose(found.scatter, scatter)


def test_many_patterns_are_computed_in_batches(monkeypatch):
    X, truth, absent, missing = rows_with_gaps()
    incomplete = find_incomplete(absent, missing)
    labels = np.where(missing, -1, truth)
    whole = posterior_given_labels(X, labels, K, incomplete, PRIOR)
    monkeypatch.setattr("actors.kernels.mixture.incomplete.BATCH", 5 * D * D)
    for one, other in zip(whole, posterior_given_labels(X, labels, K, incomplete, PRIOR), strict=True):
        assert np.allclose(one, other)


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_the_bound_never_falls(temperature):
    X, _, absent, missing = rows_with_gaps()
    start = np.random.default_rng(3).integers(0, K, N)
    start[missing] = -1
    objectives = []
    variational_bayes(
        X,
        one_hot_responsibilities(start, K),
        PRIOR,
        0.1,
        60,
        mask=missing,
        incomplete=find_incomplete(absent, missing),
        temperature=temperature,
        on_iteration=lambda _, objective: objectives.append(objective),
    )
    assert len(objectives) > 3
    assert np.diff(objectives).min() > -1e-8


def test_what_stands_in_the_place_of_missing_values_does_not_matter():
    X, truth, absent, missing = rows_with_gaps()
    given = one_hot_responsibilities(np.where(missing, -1, truth), K), PRIOR, 0.1, 20
    incomplete = find_incomplete(absent, missing)
    one = variational_bayes(X, *given, mask=missing, incomplete=incomplete)
    two = variational_bayes(np.where(absent, -3.0, X), *given, mask=missing, incomplete=incomplete)
    assert np.allclose(one[0], two[0])
    assert one[2] == pytest.approx(two[2])


TINY = np.array([[0.3, -0.2], [1.1, 0.9], [-0.4, 0.0], [0.8, 0.5]])
TINY_PRIOR = NIWPrior(np.zeros(2), 1.0, 4.0, np.eye(2))


def log_marginal(X, labels, classes):
    return log_marginal_likelihood(posterior_from_labels(X, labels, classes, TINY_PRIOR), TINY_PRIOR).sum()


@functools.cache
def integrated(labels, classes):
    """Return log p(rows | labels), the second value of row 3 integrated out numerically."""

    def density(value):
        X = TINY.copy()
        X[3, 1] = value
        return np.exp(log_marginal(X, np.array(labels), classes) + 10.0)

    return np.log(quad(density, -60.0, 60.0, points=[0.0, 0.5], limit=200)[0]) - 10.0


def test_the_bound_is_below_the_evidence_and_close_to_it():
    absent = np.zeros((4, 2), bool)
    absent[3, 1] = True
    incomplete = find_incomplete(absent, np.zeros(4, bool))
    _, _, bound = variational_bayes(
        TINY, np.ones((4, 1)), TINY_PRIOR, 1.0, 200, log_bias=np.zeros((4, 1)), incomplete=incomplete
    )
    evidence = integrated((0, 0, 0, 0), 1)
    assert evidence - 0.3 < bound < evidence


# --- samplers -----------------------------------------------------------------------------------------------------

ALPHA = 0.8


def dirichlet_prior(labels):
    counts = np.bincount(labels, minlength=2)
    return (gammaln(counts + ALPHA) - gammaln(ALPHA)).sum()


def crp_prior(labels):
    counts = np.bincount(labels, minlength=2)
    occupied = counts[counts > 0]
    return np.log(ALPHA) * len(occupied) + gammaln(occupied).sum()  # (2 - M)! / 2! is 1/2 for one class and for two


def exact_posterior(log_prior):
    """Return the probability of each labelling of four rows by two classes."""
    labellings = list(itertools.product(range(2), repeat=4))
    scores = np.array([integrated(z, 2) + log_prior(np.array(z)) for z in labellings])
    return dict(zip(labellings, np.exp(scores - logsumexp(scores)), strict=True))


def collapsed_labellings(shared, sweeps, generator):
    absent = np.zeros((4, 2), bool)
    absent[3, 1] = True
    data = sampler.as_sampler_input(TINY, [0, 0, 1, 1], 2, TINY_PRIOR, None, None)
    completion = sampler.Completion(data, find_incomplete(absent, np.zeros(4, bool)), 2, TINY_PRIOR)
    tables = make_tables(TINY_PRIOR, 4, ALPHA, share_alpha=shared)
    posterior = posterior_from_labels(completion.data.rows, completion.data.labels, 2, TINY_PRIOR)
    for _ in range(sweeps):
        completion.redraw(posterior, tables, generator)
        sampler.sweep_once(completion.data, posterior, tables, generator)
        yield tuple(completion.data.labels.tolist())


def blocked_labellings(shared, sweeps, generator):
    assert not shared
    absent = np.zeros((4, 2), bool)
    absent[3, 1] = True
    incomplete = find_incomplete(absent, np.zeros(4, bool))
    rows, labels = TINY, np.array([0, 0, 1, 1])
    for _ in range(sweeps):
        posterior = posterior_from_labels(rows, labels, 2, TINY_PRIOR)
        means, chol = draw_classes(posterior, TINY_PRIOR, generator)
        drawn = ClassParameters(means, chol, draw_log_weights(posterior.counts + ALPHA, generator))
        density = log_density_observed(rows, incomplete, means, chol)
        labels = draw_labels(rows, drawn, generator, incomplete=(incomplete.rows, density))
        rows = draw_missing_values(rows, labels, incomplete, means, chol, generator)
        yield tuple(labels.tolist())


@pytest.mark.parametrize(
    ("draw", "shared", "log_prior"),
    [
        (collapsed_labellings, False, dirichlet_prior),
        (collapsed_labellings, True, crp_prior),
        (blocked_labellings, False, dirichlet_prior),
    ],
)
def test_samplers_have_the_exact_posterior_over_labellings(draw, shared, log_prior):
    exact, sweeps = exact_posterior(log_prior), 2500
    drawn = list(draw(shared, sweeps, np.random.default_rng(1)))
    shares = np.array([drawn.count(z) / sweeps for z in exact])
    assert 0.5 * np.abs(shares - np.array(list(exact.values()))).sum() < 0.06  # total variation


def test_drawn_values_have_mean_and_covariance_of_the_conditional_distribution():
    generator = np.random.default_rng(0)
    covariance = np.array([[2.0, 0.8, 0.3], [0.8, 1.0, -0.2], [0.3, -0.2, 1.5]])
    mean, rows = np.array([1.0, -1.0, 0.5]), 40000
    X = np.tile([2.0, 9.0, 9.0], (rows, 1))
    absent = np.tile([False, True, True], (rows, 1))
    incomplete = find_incomplete(absent, np.zeros(rows, bool))
    chol = np.linalg.cholesky(covariance)[None]
    drawn = draw_missing_values(X, np.zeros(rows, np.int64), incomplete, mean[None], chol, generator)
    assert np.array_equal(drawn[:, 0], X[:, 0])
    expected = mean[1:] + covariance[1:, 0] / 2.0
    left = covariance[1:, 1:] - np.outer(covariance[1:, 0], covariance[0, 1:]) / 2.0
    assert np.allclose(drawn[:, 1:].mean(axis=0), expected, atol=0.03)
    assert np.allclose(np.cov(drawn[:, 1:].T), left, atol=0.05)
    seen = log_density_observed(X[:1], find_incomplete(absent[:1], np.zeros(1, bool)), mean[None], chol)
    assert seen[0, 0] == pytest.approx(multivariate_normal(1.0, 2.0).logpdf(2.0))


def test_complete_rows_have_the_density_of_all_columns():
    X, truth, absent, missing = rows_with_gaps(share=0.1)
    posterior = posterior_from_labels(X, truth, K, PRIOR)
    found = log_predictive_observed(X, find_incomplete(absent, missing), posterior, PRIOR)
    complete = ~absent.any(axis=1)
    assert np.array_equal(found[complete], log_predictive(X, posterior, PRIOR)[complete])
