"""Chains with regimes, against enumeration of all classes and regimes: alone, and below a chain of the regimes."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp

from actors.kernels.markov.inference import forward_backward
from actors.kernels.markov.switching import start_counts, switching_forward_backward

N, K, R = 5, 2, 3
STARTS = [0, 3]
LENGTHS = [3, 2]


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    matrices, initial = rng.dirichlet(np.ones(K), (R, K)), rng.dirichlet(np.ones(K))
    return rng.normal(size=(N, K)), matrices, rng.dirichlet(np.ones(R), N), initial


def paths(evidence, matrices, initial):
    """Yield classes, regimes and log p(rows, classes | regimes), of two sequences."""
    for z in itertools.product(range(K), repeat=N):
        for r in itertools.product(range(R), repeat=N):
            log_p = sum(evidence[t, z[t]] for t in range(N))
            for t in range(N):
                log_p += np.log(initial[z[t]] if t in STARTS else matrices[r[t], z[t - 1], z[t]])
            yield z, r, log_p


def test_posteriors_counts_and_likelihoods_of_regimes_are_those_of_all_paths(model):
    evidence, matrices, prior, initial = model
    fit = switching_forward_backward(evidence, matrices, prior, initial, LENGTHS)
    total, posterior, cavity = 0.0, np.zeros((N, K)), np.zeros((N, K))
    counts, regimes = np.zeros((R, K, K)), np.zeros((N, R))
    for z, r, log_p in paths(evidence, matrices, initial):
        of_regimes = prior[range(N), r]
        p = np.exp(log_p) * of_regimes.prod()
        total += p
        for t in range(N):
            posterior[t, z[t]] += p
            cavity[t, z[t]] += p / np.exp(evidence[t, z[t]])
            regimes[t, r[t]] += p / of_regimes[t]
            if t not in STARTS:
                counts[r[t], z[t - 1], z[t]] += p
    assert fit.log_likelihood == pytest.approx(np.log(total), abs=1e-12)
    assert_allclose(fit.posterior, posterior / total)
    assert_allclose(np.exp(fit.log_cavity), cavity / cavity.sum(axis=1, keepdims=True))
    assert_allclose(fit.transitions, counts / total)
    assert_allclose(np.exp(fit.log_regimes), regimes / total)
    assert_allclose((prior * np.exp(fit.log_regimes)).sum(axis=1), 1.0)
    assert_allclose(fit.initial, (posterior / total)[STARTS].sum(axis=0))


def exchange(evidence, matrices, initial, upper, times=60):
    """Return posteriors of classes and regimes and the evidence, after messages between both chains."""
    prior = np.full((N, R), 1.0 / R)
    for _ in range(times):
        below = switching_forward_backward(evidence, matrices, prior, initial, LENGTHS)
        above = forward_backward(below.log_regimes, upper, np.full(R, 1.0 / R), LENGTHS)
        used, prior = prior, np.exp(above.log_cavity)
    assert_allclose(used, prior, atol=1e-9)
    return below.posterior, above.posterior, below.log_likelihood + above.log_likelihood


def of_all_paths(evidence, matrices, initial, upper):
    """Return the same of the joint model p(r) p(z | r) p(rows | z)."""
    logs, of_classes, of_regimes = [], np.zeros((N, K)), np.zeros((N, R))
    for z, r, log_p in paths(evidence, matrices, initial):
        logs.append(log_p + sum(np.log(1.0 / R if t in STARTS else upper[r[t - 1], r[t]]) for t in range(N)))
        for t in range(N):
            of_classes[t, z[t]] += np.exp(logs[-1])
            of_regimes[t, r[t]] += np.exp(logs[-1])
    evidence = logsumexp(logs)
    return of_classes / np.exp(evidence), of_regimes / np.exp(evidence), evidence


def test_two_levels_are_exact_where_classes_are_certain_and_near_where_they_are_not(model):
    """The graph of both chains has loops, over which messages are approximate, unless the classes are known."""
    _, matrices, _, initial = model
    upper = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9]])
    certain = np.where(np.eye(2)[[0, 1, 1, 0, 1]] == 1, 0.0, -200.0)
    for mine, exact in zip(
        exchange(certain, matrices, initial, upper), of_all_paths(certain, matrices, initial, upper), strict=True
    ):
        assert_allclose(mine, exact, atol=1e-9)
    soft = 1.5 * np.random.default_rng(1).normal(size=(N, K))
    found, exact = exchange(soft, matrices, initial, upper), of_all_paths(soft, matrices, initial, upper)
    assert_allclose(found[0], exact[0], atol=0.01)
    assert_allclose(found[1], exact[1], atol=0.02)
    assert found[2] == pytest.approx(exact[2], abs=0.01)


def test_one_regime_is_a_chain(model):
    evidence, matrices, _, initial = model
    mask = np.array([False, True, False, False, False])
    fit = switching_forward_backward(evidence, matrices[:1], np.ones((N, 1)), initial, LENGTHS, mask)
    chain = forward_backward(evidence, matrices[0], initial, LENGTHS, mask)
    for name in ("posterior", "log_cavity", "filtered", "row_log_likelihood", "initial"):
        assert_allclose(getattr(fit, name), getattr(chain, name), rtol=1e-9, atol=1e-12)
    assert_allclose(fit.transitions[0], chain.transitions)
    assert_allclose(fit.log_regimes, 0.0, atol=1e-12)


def test_a_row_that_is_impossible_is_named(model):
    evidence, _, prior, _ = model
    with np.errstate(divide="ignore"):
        evidence = np.where(np.arange(N)[:, None] == 1, np.log([0.0, 1.0]), evidence)
    stay = np.tile(np.eye(2), (R, 1, 1))
    with pytest.raises(ValueError, match="row 1 has probability zero"):
        switching_forward_backward(evidence, stay, prior, [1.0, 0.0], LENGTHS)
    with pytest.raises(ValueError, match="expected matrices"):
        switching_forward_backward(evidence, stay, prior[:, :1], [1.0, 0.0], LENGTHS)


def test_the_start_finds_windows_that_are_alike():
    """Rows that go round in one direction and then in the other, in two sequences."""
    cycle = np.arange(60) % 3
    rows = np.log(np.eye(3)[np.concatenate([cycle, cycle[::-1], cycle[::-1], cycle])] * 0.97 + 0.01)
    counts = start_counts(rows, 2, 12, np.array([0, 120, 240]), np.random.default_rng(0))
    shares = counts / counts.sum(axis=(1, 2), keepdims=True)
    forward = np.roll(np.eye(3), 1, axis=1) / 3
    there, back = sorted(shares, key=lambda table: -(table * forward).sum())
    assert_allclose(there, forward, atol=0.05)
    assert_allclose(back, forward.T, atol=0.05)
