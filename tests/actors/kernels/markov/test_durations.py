"""Tests of the posteriors of durations, against integrals over their parameters and against scipy's distributions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, stats
from scipy.special import logsumexp

from actors.kernels.markov.durations import (
    SHAPES,
    duration_bound_term,
    duration_posterior,
    log_normalisers,
    mean_durations,
)

COUNTS = np.array([[0.0, 1.5, 2.25, 0.5, 1.0, 0.0], [0.0] * 6])
"""Of a class with some segments, and of one without any."""
FAMILIES = ("poisson", "negative_binomial")
D = np.arange(6)  # d - 1


def integrals(family, counts, timescale, function):
    """Return ∫ prior(θ) Π p(d | θ)^n_d function(p(· | θ), mean of D) dθ of one class, by quadrature."""

    def of_poisson(rate):
        log_p = stats.poisson.logpmf(D, rate)
        return stats.gamma.pdf(rate, 1.0, scale=timescale) * np.exp(counts @ log_p) * function(log_p, 1.0 + rate)

    def of_shape(r):
        def at(p):
            log_p = stats.nbinom.logpmf(D, r, 1.0 - p)
            prior = stats.beta.pdf(p, timescale / r, 2.0)
            return prior * np.exp(counts @ log_p) * function(log_p, 1.0 + r * p / (1.0 - p))

        parts = [integrate.quad(at, low, high, limit=400)[0] for low, high in ((0, 1e-4), (1e-4, 0.5), (0.5, 1.0))]
        return sum(parts) / len(SHAPES)

    if family == "poisson":
        return integrate.quad(of_poisson, 0.0, 60.0, limit=400)[0]
    return sum(of_shape(r) for r in SHAPES)


@pytest.mark.parametrize("family", FAMILIES)
def test_normalisers_predictions_and_means_are_the_integrals_over_the_parameters(family):
    posterior, (means, _) = duration_posterior(family, COUNTS, 3.0), mean_durations(family, COUNTS, 3.0)
    total = integrals(family, COUNTS[0], 3.0, lambda *_: 1.0)
    assert posterior.log_normalisers[0] == pytest.approx(np.log(total), abs=1e-6)
    assert_allclose(log_normalisers(family, COUNTS, 3.0), posterior.log_normalisers, rtol=1e-12, atol=1e-12)
    for d in (0, 5):
        predicted = integrals(family, COUNTS[0], 3.0, lambda log_p, _, d=d: np.exp(log_p[d])) / total
        assert np.exp(posterior.log_predictive[0, d]) == pytest.approx(predicted, rel=1e-5)
        expected = integrals(family, COUNTS[0], 3.0, lambda log_p, _, d=d: log_p[d]) / total
        assert posterior.log_weights[0, d] == pytest.approx(expected, abs=1e-5)
    mean = integrals(family, COUNTS[0], 3.0, lambda _, mean: mean) / total
    assert means[0] == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_segments_the_prior_mean_is_the_timescale(family):
    posterior = duration_posterior(family, COUNTS, 7.0)
    assert posterior.log_normalisers[1] == pytest.approx(0.0, abs=1e-12)
    assert mean_durations(family, COUNTS, 7.0)[0][1] == pytest.approx(8.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_below_the_predictions_which_sum_to_one(family):
    """E[log p] <= log E[p], by Jensen's inequality."""
    counts = np.zeros((1, 3000))
    counts[0, :9] = [0, 3, 5, 2, 2, 1, 0, 1, 1]
    posterior = duration_posterior(family, counts, 5.0)
    assert (posterior.log_weights <= posterior.log_predictive).all()
    assert logsumexp(posterior.log_predictive) == pytest.approx(0.0, abs=1e-6)


def test_intervals_of_the_poisson_are_those_of_its_gamma_posterior():
    mean, interval = mean_durations("poisson", COUNTS, 3.0, level=0.9)
    n, m = COUNTS.sum(axis=1), COUNTS @ D
    posterior = stats.gamma(1.0 + m, scale=1.0 / (1.0 / 3.0 + n))
    assert_allclose(interval, 1.0 + np.stack(posterior.interval(0.9), axis=1), rtol=1e-9)
    assert_allclose(mean, 1.0 + posterior.mean())


def test_intervals_of_the_negative_binomial_hold_draws_from_its_posterior():
    """With prior draws of r and p, and weights of their likelihood."""
    rng = np.random.default_rng(0)
    r = rng.choice(SHAPES, 200_000)
    p = np.clip(rng.beta(3.0 / r, 2.0), 1e-300, 1.0 - 1e-12)
    used = COUNTS[0] > 0.0
    weights = np.exp(COUNTS[0, used] @ stats.nbinom.logpmf(D[used, None], r, 1.0 - p))
    means = 1.0 + r * p / (1.0 - p)
    _, interval = mean_durations("negative_binomial", COUNTS, 3.0)
    for bound, probability in zip(interval[0], (0.025, 0.975), strict=True):
        assert (weights * (means <= bound)).sum() / weights.sum() == pytest.approx(probability, abs=0.004)


@pytest.mark.parametrize("family", FAMILIES)
def test_many_segments_give_the_distribution_they_were_drawn_from(family):
    rng, table = np.random.default_rng(1), np.zeros((1, 80))
    drawn = rng.poisson(9.0, 4000) if family == "poisson" else rng.negative_binomial(3, 0.25, 4000)
    np.add.at(table[0], np.minimum(drawn, 79), 1.0)
    true = stats.poisson(9.0) if family == "poisson" else stats.nbinom(3, 0.25)
    predictive = np.exp(duration_posterior(family, table, 20.0).log_predictive[0])
    assert np.abs(predictive - true.pmf(np.arange(80))).sum() < 0.05
    mean, interval = mean_durations(family, table, 20.0)
    assert interval[0, 0] < 10.0 < interval[0, 1]
    assert mean[0] == pytest.approx(10.0, rel=0.03)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bound_term_is_largest_for_the_posterior_weights(family):
    """It is log Z - Σ n E[log p], the negative divergence of the posterior from the prior, for these weights."""
    posterior = duration_posterior(family, COUNTS, 3.0)
    own = duration_bound_term(posterior, COUNTS, posterior.log_weights)
    assert own <= 0.0
    used = COUNTS > 0.0
    expected = posterior.log_normalisers.sum() - (COUNTS[used] * posterior.log_weights[used]).sum()
    assert own == pytest.approx(expected)
    impossible = np.where(used, posterior.log_weights, -np.inf)
    assert duration_bound_term(posterior, COUNTS, impossible) == pytest.approx(own)
