"""Tests of the order test: class frequencies of independent rows, and the penalty of a Markov chain."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from actors.kernels.markov.inference import forward_backward, transition_probabilities
from actors.kernels.markov.order_test import fit_frequencies, order_penalty

N, K = 500, 4
UNIFORM = np.full(K, 1 / K)


def noisy_evidence(classes, seed=0):
    """Return the log evidence (N, K) of noisy observations of the classes."""
    generator = np.random.default_rng(seed)
    return 2.0 * (2.0 * np.eye(K)[classes] + generator.normal(size=(len(classes), K)))


def test_the_frequencies_maximise_the_likelihood():
    log_evidence = noisy_evidence(np.random.default_rng(1).choice(K, N, p=[0.6, 0.2, 0.15, 0.05]))
    frequencies, log_likelihood = fit_frequencies(log_evidence, UNIFORM)

    def negative(free):
        return -logsumexp(log_evidence + log_softmax(np.append(free, 0.0)), axis=1).sum()

    best = minimize(negative, np.zeros(K - 1))
    assert log_likelihood == pytest.approx(-best.fun, abs=0.01)
    np.testing.assert_allclose(frequencies, np.exp(log_softmax(np.append(best.x, 0.0))), atol=0.005)


def test_very_small_evidence_does_not_overflow():
    log_evidence = noisy_evidence(np.arange(N) % K) - 1e6 * np.arange(N)[:, None]
    frequencies, log_likelihood = fit_frequencies(log_evidence, UNIFORM)
    assert np.isfinite(log_likelihood)
    assert frequencies.sum() == pytest.approx(1.0)


def log_likelihood_gain(classes, seed):
    """Return the log-likelihood ratio of a fitted chain and of the class frequencies."""
    log_evidence = noisy_evidence(classes, seed)
    T = np.random.default_rng(seed).dirichlet(np.ones(K), K)
    for _ in range(100):
        T = transition_probabilities(forward_backward(log_evidence, T, UNIFORM).transitions, 0.1)
    return forward_backward(log_evidence, T, UNIFORM).log_likelihood - fit_frequencies(log_evidence, UNIFORM)[1]


@pytest.mark.parametrize("seed", range(10))
def test_independent_rows_have_no_order_and_a_weak_order_is_detected(seed):
    generator = np.random.default_rng(seed)
    assert log_likelihood_gain(generator.integers(0, K, N), seed) < order_penalty(N, K)
    weak = np.zeros(N, np.int64)
    for t in range(1, N):
        weak[t] = (weak[t - 1] + 1) % K if generator.random() < 0.6 else generator.integers(K)
    assert log_likelihood_gain(weak, seed) > order_penalty(N, K)


def test_the_penalty_grows_with_classes_and_rows():
    assert order_penalty(3000, 10) == pytest.approx(0.5 * 81 * np.log(3000))
    assert order_penalty(100, 4) < order_penalty(1000, 4) < order_penalty(1000, 5)
