"""Tests of the variational posterior of the transition matrix: its geometric mean and its bound term."""

import itertools

import numpy as np
from scipy.special import gammaln, logsumexp

from actors.kernels.markov.inference import forward_backward, transition_probabilities
from actors.kernels.markov.transition_posterior import geometric_mean, transition_bound_term


def test_the_geometric_mean_agrees_with_draws_from_the_posterior():
    counts = np.array([[3.0, 1.0, 0.5], [0.2, 5.0, 1.0], [2.0, 2.0, 2.0]])
    generator = np.random.default_rng(0)
    draws = np.stack([generator.dirichlet(row + 0.5, 200_000) for row in counts])
    expected = np.exp(np.log(draws).mean(axis=1))
    np.testing.assert_allclose(geometric_mean(counts, 0.5), expected / expected.sum(1, keepdims=True), rtol=0.02)


def test_an_unobserved_transition_gets_less_than_its_mean_and_more_than_zero():
    counts = 25.0 * np.eye(4)
    for alpha in (0.1, 1e-6):
        means = geometric_mean(counts, alpha)
        assert (means > 0).all()
        np.testing.assert_allclose(means.sum(axis=1), 1.0)
    assert geometric_mean(counts, 0.1)[0, 1] < 0.01 * transition_probabilities(counts, 0.1)[0, 1]


def test_the_bound_is_below_the_marginal_likelihood_and_near_it():
    generator = np.random.default_rng(1)
    K, N, alpha = 2, 9, 0.5
    log_evidence = np.log(generator.dirichlet(np.full(K, 0.3), N))
    paths = []
    for path in itertools.product(range(K), repeat=N):
        counts = np.zeros((K, K))
        np.add.at(counts, (path[:-1], path[1:]), 1)
        a = counts + alpha
        marginal = (gammaln(a).sum(1) - gammaln(a.sum(1)) - K * gammaln(alpha) + gammaln(K * alpha)).sum()
        paths.append(log_evidence[np.arange(N), path].sum() - np.log(K) + marginal)
    T = np.full((K, K), 1 / K)
    bounds = []
    for _ in range(30):
        fit = forward_backward(log_evidence, T, np.full(K, 1 / K))
        bounds.append(fit.log_likelihood + transition_bound_term(fit.transitions, T, alpha))
        T = geometric_mean(fit.transitions, alpha)
    assert max(bounds) <= logsumexp(paths) + 1e-9
    assert logsumexp(paths) - bounds[-1] < 1.0
