"""Draws from the posterior of Markov models, against exact expectations and against integrals over the parameters."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from actors.kernels.markov.durations import draw_durations, duration_posterior, mean_durations
from actors.kernels.markov.inference import forward_backward
from actors.kernels.markov.posterior_samples import (
    SegmentPriors,
    draw_chains,
    draw_semi_markov,
    interval,
    log_dirichlet,
    sample_chain,
)
from actors.kernels.markov.segment_passes import SegmentCounts, SegmentMessages, sample_segments
from actors.kernels.markov.semi_markov import expected_segments, segment_weights

LENGTHS = np.array([5, 1, 7])
STARTS = np.array([0, 5, 6, 13])
RNG = np.random.default_rng(0)
EVIDENCE = RNG.normal(size=(13, 3))


def check_means(found, expected):
    """Check means of counts (M, …) against expectations, within 4.5 standard errors of each."""
    errors = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - expected) <= 4.5 * errors + 2e-3).all()


def test_segments_are_drawn_as_often_as_expected():
    generator, draws = np.random.default_rng(1), 2000
    log_transitions = np.where(np.eye(3, dtype=bool), -np.inf, np.log([[1, 0.3, 0.7], [0.5, 1, 0.5], [0.9, 0.1, 1]]))
    durations = np.log(generator.dirichlet(np.ones(4), 3))
    weights = segment_weights(log_transitions, np.log([0.2, 0.5, 0.3]), durations)
    exact = expected_segments(EVIDENCE, weights, LENGTHS)
    evidence = np.ascontiguousarray(EVIDENCE.T)
    messages = SegmentMessages(*(np.full(evidence.shape, -np.inf) for _ in range(3)))
    found = []
    for _ in range(draws):
        counts = SegmentCounts(np.zeros((3, 3)), np.zeros(3), np.zeros((3, 4)), np.zeros((3, 4)))
        assert sample_segments(evidence, weights, STARTS, generator.random(40), messages, counts)
        found.append(np.concatenate([each.ravel() for each in counts[:3]]))
    expected = np.concatenate([each.ravel() for each in (exact.transitions, exact.initial, exact.durations)])
    check_means(found, expected)


def test_chains_are_drawn_as_often_as_expected():
    generator, draws = np.random.default_rng(2), 2000
    transitions, initial = generator.dirichlet(np.ones(3), 3), np.array([0.6, 0.4, 0.0])
    transitions[1] = [0.0, 0.0, 1.0]
    exact = forward_backward(EVIDENCE, transitions, initial, LENGTHS)
    found, likelihood = [], np.exp(EVIDENCE)
    for _ in range(draws):
        counts, first = np.zeros((3, 3)), np.zeros(3)
        uniforms = generator.random(13)
        assert sample_chain(likelihood, transitions, initial, STARTS, uniforms, np.empty((13, 3)), counts, first)
        found.append(np.concatenate([counts.ravel(), first]))
    expected = np.concatenate([exact.transitions.ravel(), exact.initial])
    check_means(found, expected)


def test_what_is_impossible_is_not_drawn():
    none = np.zeros((2, 2))
    args = (np.array([0, 2]), np.full(2, 0.5), np.empty((2, 2)), np.zeros((2, 2)), np.zeros(2))
    assert not sample_chain(np.ones((2, 2)), none, np.full(2, 0.5), *args)
    weights = segment_weights([[-np.inf, 0.0], [0.0, -np.inf]], np.log([0.5, 0.5]), [[0.0], [0.0]])
    evidence = np.array([[0.0, 0.0], [-np.inf, -np.inf]])  # one class, whose segments have one row
    messages = SegmentMessages(*(np.full((2, 2), -np.inf) for _ in range(3)))
    counts = SegmentCounts(np.zeros((2, 2)), np.zeros(2), np.zeros((2, 1)), np.zeros((2, 1)))
    assert not sample_segments(evidence, weights, np.array([0, 2]), np.full(8, 0.5), messages, counts)


def test_the_posterior_of_a_chain_is_the_integral_over_its_transitions():
    """Of two classes: the likelihood of the rows on a grid of both rows of T, times the Beta priors."""
    evidence, alpha = 1.5 * np.random.default_rng(3).normal(size=(12, 2)), 0.7
    grid = (np.arange(60) + 0.5) / 60
    prior = stats.beta.pdf(grid, alpha, alpha)
    weights = np.array(
        [
            [
                np.exp(forward_backward(evidence, [[p, 1 - p], [q, 1 - q]], [0.5, 0.5]).log_likelihood) * a * b
                for q, b in zip(grid, prior, strict=True)
            ]
            for p, a in zip(grid, prior, strict=True)
        ]
    )
    weights /= weights.sum()
    start = np.full((2, 2), 0.5)
    draws = draw_chains(evidence, start, start[0], np.full((2, 2), alpha), 6000, np.random.default_rng(4)).transitions
    assert_allclose(draws[:, :, 0].mean(axis=0), [weights.sum(1) @ grid, weights.sum(0) @ grid], atol=0.02)
    cdf = weights.sum(axis=1).cumsum()
    low, high = interval(draws[:, 0, 0])
    assert cdf[int(low * 60)] == pytest.approx(0.025, abs=0.02)
    assert cdf[int(high * 60)] == pytest.approx(0.975, abs=0.02)


def test_the_posterior_of_durations_is_the_integral_over_their_rates():
    """Of two classes that follow each other: the likelihood of the rows on a grid of both rates, times their priors."""
    D, tau = 25, 1.0
    evidence = 1.2 * np.random.default_rng(5).normal(size=(14, 2))
    log_follow = np.array([[-np.inf, 0.0], [0.0, -np.inf]])
    grid = (np.arange(40) + 0.5) * 0.3
    log_p = [stats.poisson.logpmf(np.arange(D), rate) for rate in grid]
    log_weights = np.zeros((40, 40))
    for i, j in itertools.product(range(40), repeat=2):
        weights = segment_weights(log_follow, np.log([0.5, 0.5]), [log_p[i], log_p[j]])
        log_weights[i, j] = expected_segments(evidence, weights).log_likelihood - (grid[i] + grid[j]) / tau
    posterior = np.exp(log_weights - log_weights.max())
    posterior /= posterior.sum()
    start = segment_weights(log_follow, np.log([0.5, 0.5]), [log_p[5], log_p[5]])
    priors = SegmentPriors(1.0, False, "poisson", tau)
    draws = draw_semi_markov(evidence, start, priors, 6000, np.random.default_rng(6))
    assert_allclose(draws.transitions, np.tile(1.0 - np.eye(2), (6000, 1, 1)))
    expected = 1.0 + np.array([posterior.sum(1) @ grid, posterior.sum(0) @ grid])
    assert_allclose(draws.mean_durations.mean(axis=0), expected, atol=0.08)  # standard errors are about 0.02


@pytest.mark.parametrize("family", ["poisson", "negative_binomial"])
def test_durations_are_drawn_from_the_conjugate_posterior(family):
    counts = np.array([[0.0, 3.0, 9.0, 4.0, 1.0, 2.0], [0.0] * 6])
    generator = np.random.default_rng(7)
    drawn = [draw_durations(family, counts, 3.0, generator) for _ in range(4000)]
    means, intervals = mean_durations(family, counts, 3.0)
    found = np.array([mean[0] for _, mean in drawn])
    assert found.mean() == pytest.approx(means[0], rel=0.01)
    assert_allclose(np.quantile(found, [0.025, 0.975]), intervals[0], rtol=0.02)
    predictive = duration_posterior(family, counts, 3.0).log_predictive
    assert_allclose(np.exp([log_p[0] for log_p, _ in drawn]).mean(axis=0), np.exp(predictive[0]), atol=0.01)


def test_dirichlet_draws_are_those_of_scipy_and_small_parameters_stay_finite():
    alpha = np.array([[0.5, 2.0, 3.5]])
    generator = np.random.default_rng(8)
    drawn = np.exp([log_dirichlet(alpha, generator)[0] for _ in range(4000)])
    assert stats.kstest(drawn[:, 0], stats.beta(0.5, 5.5).cdf).pvalue > 0.001
    assert_allclose(drawn.sum(axis=1), 1.0)
    small = log_dirichlet(np.full((50, 4), 1e-3), generator)
    assert np.isfinite(small).all()
    assert_allclose(np.exp(small).sum(axis=1), 1.0)


def test_only_one_class_follows_itself():
    weights = segment_weights([[0.0]], [0.0], [np.log([0.25, 0.75])])
    draws = draw_semi_markov(
        np.zeros((6, 1)), weights, SegmentPriors(1.0, True, "negative_binomial", 1.0), 5, np.random.default_rng(9)
    )
    assert_allclose(draws.transitions, 1.0)
    assert draws.mean_durations.shape == (5, 1)
