"""Whether rows come in an order: frequencies of independent rows, and what a chain must explain beyond them."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from actors.kernels.markov.inference import forward_backward, transition_probabilities
from actors.kernels.markov.order_test import cost_of_order, fit_frequencies

N, K = 500, 4
UNIFORM = np.full(K, 1 / K)


def evidence_of(classes, seed=0):
    generator = np.random.default_rng(seed)
    return 2.0 * (2.0 * np.eye(K)[classes] + generator.normal(size=(len(classes), K)))


def test_the_frequencies_are_the_most_likely_ones():
    log_evidence = evidence_of(np.random.default_rng(1).choice(K, N, p=[0.6, 0.2, 0.15, 0.05]))
    frequencies, log_likelihood = fit_frequencies(log_evidence, UNIFORM)

    def negative(free):
        return -logsumexp(log_evidence + log_softmax(np.append(free, 0.0)), axis=1).sum()

    best = minimize(negative, np.zeros(K - 1))
    assert log_likelihood == pytest.approx(-best.fun, abs=0.01)
    np.testing.assert_allclose(frequencies, np.exp(log_softmax(np.append(best.x, 0.0))), atol=0.005)


def test_far_away_rows_do_not_overflow():
    log_evidence = evidence_of(np.arange(N) % K) - 1e6 * np.arange(N)[:, None]
    frequencies, log_likelihood = fit_frequencies(log_evidence, UNIFORM)
    assert np.isfinite(log_likelihood)
    assert frequencies.sum() == pytest.approx(1.0)


def explained(classes, seed):
    """What a chain that is fitted to the rows explains beyond the classes' frequencies."""
    log_evidence = evidence_of(classes, seed)
    T = np.random.default_rng(seed).dirichlet(np.ones(K), K)
    for _ in range(100):
        T = transition_probabilities(forward_backward(log_evidence, T, UNIFORM).transitions, 0.1)
    return forward_backward(log_evidence, T, UNIFORM).log_likelihood - fit_frequencies(log_evidence, UNIFORM)[1]


@pytest.mark.parametrize("seed", range(10))
def test_no_order_is_found_where_there_is_none_and_a_weak_one_is_found(seed):
    generator = np.random.default_rng(seed)
    assert explained(generator.integers(0, K, N), seed) < cost_of_order(N, K)
    weak = np.zeros(N, np.int64)
    for t in range(1, N):
        weak[t] = (weak[t - 1] + 1) % K if generator.random() < 0.6 else generator.integers(K)
    assert explained(weak, seed) > cost_of_order(N, K)


def test_more_classes_and_more_rows_must_explain_more():
    assert cost_of_order(3000, 10) == pytest.approx(0.5 * 81 * np.log(3000))
    assert cost_of_order(100, 4) < cost_of_order(1000, 4) < cost_of_order(1000, 5)
