"""Tests of inference in hidden semi-Markov models, against enumeration of all segments and against the Markov chain."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp

from actors.kernels.markov import inference as hmm
from actors.kernels.markov import semi_markov as hsmm


def logs(values):
    with np.errstate(divide="ignore"):
        return np.log(values)


@st.composite
def models(draw):
    """Draw log evidence, weights, lengths and mask of a few short sequences; weights do not sum to one."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    K, D = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=2))
    N = sum(lengths)
    evidence = rng.normal(size=(N, K)) * draw(st.sampled_from([0.1, 3.0, 200.0])) + 100 * rng.normal(size=(N, 1))
    evidence[rng.random((N, K)) < 0.1] = -np.inf
    evidence[np.arange(N), rng.integers(0, K, N)] = rng.normal(size=N)
    transitions = rng.random((K, K)) * (1.0 - np.eye(K) if K > 1 else 1.0)
    durations = rng.random((K, D)) * (rng.random((K, D)) < draw(st.sampled_from([1.0, 0.6])))
    durations[:, -1] = 0.3
    weights = hsmm.segment_weights(logs(transitions), logs(rng.random(K)), logs(durations))
    return evidence, weights, lengths, rng.random(N) < draw(st.sampled_from([0.0, 0.3]))


def enumerate_segments(evidence, weights):
    """Return all segmentations of one sequence as lists of (class, rows, full duration), with their log densities.

    The last segment may go on beyond the end: each of its full durations is a segmentation of its own.
    """
    N, K = evidence.shape
    D = weights.durations.shape[1]
    found = []

    def extend(segments, at, log_joint):
        for k, full in itertools.product(range(K), range(1, D + 1)):
            start = weights.transitions[segments[-1][0], k] if segments else weights.initial[k]
            rows = min(full, N - at)
            value = log_joint + start + weights.durations[k, full - 1] + evidence[at : at + rows, k].sum()
            if value == -np.inf:
                continue
            if at + full >= N:
                found.append(([*segments, (k, rows, full)], value))
            else:
                extend([*segments, (k, rows, full)], at + full, value)

    extend([], 0, 0.0)
    return [segments for segments, _ in found], np.array([value for _, value in found])


def brute_force(evidence, weights, mask):
    """Return posterior, cavity, filtered, transitions, initial, durations and log-likelihood of one sequence."""
    evidence = np.where(mask[:, None], 0.0, evidence)
    (N, K), D = evidence.shape, weights.durations.shape[1]

    def rows_of(log_evidence):
        segments, values = enumerate_segments(log_evidence, weights)
        out = np.zeros(log_evidence.shape)
        if not len(values):
            return out, segments, values
        probability = np.exp(values - logsumexp(values))
        for p, each in zip(probability, segments, strict=True):
            classes = np.repeat([k for k, _, _ in each], [rows for _, rows, _ in each])
            out[np.arange(len(out)), classes] += p
        return out, segments, values

    posterior, segments, values = rows_of(evidence)
    transitions, initial, durations = np.zeros((K, K)), np.zeros(K), np.zeros((K, D))
    for p, each in zip(np.exp(values - logsumexp(values)), segments, strict=True):
        initial[each[0][0]] += p
        for (i, _, _), (j, _, _) in itertools.pairwise(each):
            transitions[i, j] += p
        for k, _, full in each:
            durations[k, full - 1] += p
    cavity, filtered = np.zeros((N, K)), np.zeros((N, K))
    for t in range(N):
        without = evidence.copy()
        without[t] = 0.0
        cavity[t], filtered[t] = rows_of(without)[0][t], rows_of(evidence[: t + 1])[0][t]
    return posterior, cavity, filtered, transitions, initial, durations, logsumexp(values)


def possible(evidence, weights, lengths, mask):
    known = np.where(mask[:, None], 0.0, evidence)
    return all(len(enumerate_segments(part, weights)[1]) for part in np.split(known, np.cumsum(lengths)[:-1]))


@given(models())
@settings(max_examples=60, deadline=None)
def test_forward_backward_agrees_with_enumerating_all_segments(model):
    evidence, weights, lengths, mask = model
    if not possible(*model):
        with pytest.raises(ValueError, match=r"row \d+ has probability zero given the rows before it"):
            hsmm.segment_forward_backward(evidence, weights, lengths, mask)
        return
    fit = hsmm.segment_forward_backward(evidence, weights, lengths, mask)
    pieces = np.split(np.arange(len(evidence)), np.cumsum(lengths)[:-1])
    parts = [brute_force(evidence[rows], weights, mask[rows]) for rows in pieces]
    for found, number in ((fit.posterior, 0), (np.exp(fit.log_cavity), 1), (fit.filtered, 2)):
        assert_allclose(found, np.concatenate([part[number] for part in parts]), atol=1e-11)
    for found, number in ((fit.transitions, 3), (fit.initial, 4), (fit.durations, 5)):
        assert_allclose(found, np.sum([part[number] for part in parts], axis=0), atol=1e-10)
    totals = [part[6] for part in parts]
    assert_allclose(fit.log_likelihood, sum(totals), rtol=1e-12, atol=1e-11)
    assert_allclose(np.add.reduceat(fit.row_log_likelihood, [rows[0] for rows in pieces]), totals, atol=1e-9)
    counts = hsmm.expected_segments(evidence, weights, lengths, mask)
    for name in ("transitions", "initial", "durations", "log_likelihood"):
        assert_array_equal(getattr(counts, name), getattr(fit, name))


@given(models())
@settings(max_examples=60, deadline=None)
def test_viterbi_agrees_with_enumerating_all_segments(model):
    evidence, weights, lengths, mask = model
    if not possible(*model):
        with pytest.raises(ValueError, match=r"row \d+ has probability zero given the rows before it"):
            hsmm.best_segmentation(evidence, weights, lengths, mask)
        return
    path, log_joint = hsmm.best_segmentation(evidence, weights, lengths, mask)
    total = 0.0
    for rows in np.split(np.arange(len(evidence)), np.cumsum(lengths)[:-1]):
        segments, values = enumerate_segments(np.where(mask[rows, None], 0.0, evidence[rows]), weights)
        by_seen = {}  # full durations of the last segment are summed
        for each, value in zip(segments, values, strict=True):
            by_seen.setdefault(tuple((k, seen) for k, seen, _ in each), []).append(value)
        scores = {each: logsumexp(found) for each, found in by_seen.items()}
        best = max(scores.values())
        total += best
        alike = [np.repeat(*zip(*each, strict=True)) for each, score in scores.items() if score > best - 1e-9]
        assert any(np.array_equal(path[rows], classes) for classes in alike)
    assert_allclose(log_joint, total, rtol=1e-12, atol=1e-11)


def geometric_chain(seed, K, N, mean, scale=1.0):
    """Return evidence and a chain whose classes stay `mean` rows on average, and the same as segments of N rows."""
    rng = np.random.default_rng(seed)
    stay = 1.0 - 1.0 / mean
    leave = rng.dirichlet(np.ones(K), K) * (1.0 - np.eye(K))
    leave /= leave.sum(axis=1, keepdims=True)
    first = rng.dirichlet(np.ones(K))
    T = stay * np.eye(K) + (1.0 - stay) * leave
    durations = np.tile(np.log(1.0 - stay) + np.arange(N) * np.log(stay), (K, 1))
    return scale * rng.normal(size=(N, K)), T, first, hsmm.segment_weights(logs(leave), np.log(first), durations)


@pytest.mark.parametrize("scale", [0.3, 3.0, 60.0])
def test_geometric_durations_are_a_markov_chain(scale):
    N, K = 600, 4
    evidence, T, first, weights = geometric_chain(3, K, N, 8.0, scale)
    lengths, mask = [350, 249, 1], np.random.default_rng(1).random(N) < 0.2
    chain = hmm.forward_backward(evidence, T, first, lengths, mask)
    fit = hsmm.segment_forward_backward(evidence, weights, lengths, mask)
    assert_allclose(fit.posterior, chain.posterior, atol=1e-9)
    assert_allclose(fit.filtered, chain.filtered, atol=1e-9)
    assert_allclose(fit.log_cavity, chain.log_cavity, atol=1e-8)
    assert_allclose(fit.row_log_likelihood, chain.row_log_likelihood, atol=1e-8)
    assert_allclose(fit.log_likelihood, chain.log_likelihood, rtol=1e-12)
    assert_allclose(fit.row_transitions, chain.transitions, atol=1e-8)
    assert_allclose(fit.transitions, chain.transitions * (1.0 - np.eye(K)), atol=1e-8)
    path, log_joint = hsmm.best_segmentation(evidence, weights, lengths, mask)
    assert_allclose(log_joint, hmm.viterbi(evidence, T, first, lengths, mask)[1], rtol=1e-12)
    # Among missing rows, several paths are equally probable: this one is as probable as the best one of the chain.
    joint = np.where(mask, 0.0, evidence[np.arange(N), path]).sum()
    for rows in np.split(path, np.cumsum(lengths)[:-1]):
        joint += np.log(first[rows[0]]) + np.log(T[rows[:-1], rows[1:]]).sum()
    assert joint == pytest.approx(log_joint, rel=1e-12)


def test_expected_durations_of_a_markov_chain_are_geometric():
    evidence, _, _, weights = geometric_chain(0, 2, 400, 5.0, 0.0)
    fit = hsmm.segment_forward_backward(evidence, weights)
    mean = (fit.durations * np.arange(1, 401)).sum() / fit.durations.sum()
    assert mean == pytest.approx(5.0, rel=0.02)
    assert fit.durations.sum() == pytest.approx(fit.transitions.sum() + 1.0)


def test_small_probabilities_keep_their_digits():
    """A row that is very sure of its class says nothing about what the other rows say of it."""
    evidence, T, first, weights = geometric_chain(5, 3, 300, 6.0)
    evidence[20] = [0.0, -5000.0, -9000.0]
    fit = hsmm.segment_forward_backward(evidence, weights)
    assert_allclose(fit.log_cavity[20], hmm.forward_backward(evidence, T, first).log_cavity[20], atol=1e-9)


def test_likelihoods_of_any_size_are_taken():
    evidence, _, _, weights = geometric_chain(2, 3, 200, 6.0)
    shifts = np.random.default_rng(0).normal(size=(200, 1)) * 1e6
    one, other = (hsmm.segment_forward_backward(each, weights) for each in (evidence, evidence + shifts))
    assert_allclose(one.posterior, other.posterior, atol=1e-6)
    assert other.log_likelihood == pytest.approx(one.log_likelihood + shifts.sum(), rel=1e-12)


def test_rows_that_no_segments_explain_are_named():
    weights = hsmm.segment_weights(logs(1.0 - np.eye(2)), np.log([0.5, 0.5]), np.log([[0.5, 0.5], [0.5, 0.5]]))
    evidence = logs(np.eye(2)[[1, 0, 0, 0, 1]])
    for infer in (hsmm.expected_segments, hsmm.segment_forward_backward, hsmm.best_segmentation):
        with pytest.raises(ValueError, match=r"row 7 has probability zero.*no segments of at most 2 rows explain it"):
            infer(np.concatenate([np.zeros((4, 2)), evidence]), weights, [4, 5])


@pytest.mark.parametrize(
    ("shapes", "match"),
    [(((2, 2), (3,), (2, 4)), "expected weights"), (((2, 2), (2,), (2, 0)), "expected weights")],
)
def test_refuses_weights_that_do_not_fit(shapes, match):
    with pytest.raises(ValueError, match=match):
        hsmm.segment_weights(*(np.zeros(shape) for shape in shapes))
    with pytest.raises(ValueError, match="durations must be finite or -inf"):
        hsmm.segment_weights(np.zeros((2, 2)), np.zeros(2), np.full((2, 3), np.nan))
