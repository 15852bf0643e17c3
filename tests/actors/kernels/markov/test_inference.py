"""Tests of inference in hidden Markov models, against enumeration of all paths and against hmmlearn."""

import itertools

import numpy as np
import pytest
from hmmlearn import _hmmc
from hmmlearn.hmm import CategoricalHMM, GaussianHMM
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp, softmax

from actors.kernels.markov import inference as hmm


def distributions(rng, rows, K, sparse=0.0):
    """Return random distributions; a fraction `sparse` of the entries is zero."""
    values = rng.gamma(1.0, size=(rows, K)) + 1e-3
    values[rng.random((rows, K)) < sparse] = 0.0
    values[np.arange(rows), rng.integers(0, K, rows)] += 0.1
    return values / values.sum(axis=1, keepdims=True)


@st.composite
def chains(draw, sparse=0.3):
    """Draw log evidence, transition matrix, initial distribution, lengths and mask of a few short sequences."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    K = draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    N = sum(lengths)
    evidence = rng.normal(size=(N, K)) * draw(st.sampled_from([0.1, 3.0, 200.0])) + rng.normal(size=(N, 1)) * 100
    evidence[rng.random((N, K)) < 0.1] = -np.inf
    evidence[np.arange(N), rng.integers(0, K, N)] = rng.normal(size=N)
    mask = rng.random(N) < draw(st.sampled_from([0.0, 0.3]))
    return evidence, distributions(rng, K, K, sparse), distributions(rng, 1, K, sparse)[0], lengths, mask


def enumerate_paths(evidence, T, initial):
    """Return all paths of one sequence, and the log joint density of each path and the rows."""
    N, K = evidence.shape
    paths = np.array(list(itertools.product(range(K), repeat=N)))
    with np.errstate(divide="ignore"):
        joint = np.log(initial)[paths[:, 0]] + np.log(T)[paths[:, :-1], paths[:, 1:]].sum(axis=1)
    return paths, joint + evidence[np.arange(N), paths].sum(axis=1)


def normalised_paths(joint):
    """Return the posterior of the paths and the log of their total density; zeros if no path is possible."""
    top = joint.max()
    if top == -np.inf:
        return np.zeros_like(joint), -np.inf
    weights = np.exp(joint - top)
    return weights / weights.sum(), top + np.log(weights.sum())


def brute_force(evidence, T, initial, mask):
    """Return posterior, filtered, cavity, transitions and log-likelihood of one sequence."""
    N, K = evidence.shape
    evidence = np.where(mask[:, None], 0.0, evidence)
    paths, joint = enumerate_paths(evidence, T, initial)
    onehot = np.eye(K)[paths]
    weights, total = normalised_paths(joint)
    per_row = [[], [], []]
    for t in range(N):
        rows = evidence.copy()
        rows[t] = 0.0
        rows_until = evidence.copy()
        rows_until[t + 1 :] = 0.0
        for collected, used in zip(per_row, (evidence, rows_until, rows), strict=True):
            collected.append(normalised_paths(enumerate_paths(used, T, initial)[1])[0] @ onehot[:, t])
    transitions = np.einsum("p,pti,ptj->ij", weights, onehot[:, :-1], onehot[:, 1:])
    return (*(np.array(rows) for rows in per_row), transitions, total)


@given(chains())
@settings(max_examples=150, deadline=None)
def test_forward_backward_agrees_with_enumerating_all_paths(chain):
    evidence, T, initial, lengths, mask = chain
    pieces = np.split(np.arange(len(evidence)), np.cumsum(lengths)[:-1])
    expected = [brute_force(evidence[rows], T, initial, mask[rows]) for rows in pieces]
    if any(total == -np.inf for *_, total in expected):
        with pytest.raises(ValueError, match=r"row \d+ has probability zero"):
            hmm.forward_backward(evidence, T, initial, lengths, mask)
        return
    result = hmm.forward_backward(evidence, T, initial, lengths, mask)
    posterior, filtered, cavity = (np.concatenate([e[n] for e in expected]) for n in range(3))
    assert_allclose(result.posterior, posterior, atol=1e-9)
    assert_allclose(result.filtered, filtered, atol=1e-9)
    assert_allclose(np.exp(result.log_cavity), cavity, atol=1e-9)
    assert_allclose(result.transitions, sum(e[3] for e in expected), atol=1e-9)
    assert_allclose(result.initial, sum(posterior[rows[0]] for rows in pieces), atol=1e-9)
    assert_allclose(result.log_likelihood, sum(e[4] for e in expected), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("K", [1, 4, 7, 8, 9, 10, 16, 17, 33])
def test_any_number_of_classes_gives_what_the_recursions_give_in_the_log_domain(K):
    rng = np.random.default_rng(K)
    lengths = [1, 2, 40, 1, 30]
    evidence = rng.normal(size=(sum(lengths), K)) * 2.0
    T, initial = distributions(rng, K, K, 0.2), distributions(rng, 1, K)[0]
    fresh = [np.full(evidence.shape, np.nan) for _ in range(8)]  # memory that is used again has any content
    del fresh
    result = hmm.forward_backward(evidence, T, initial, lengths)
    with np.errstate(divide="ignore"):
        log_T, log_initial = np.log(T), np.log(initial)
    transitions, total = np.zeros((K, K)), 0.0
    for rows in np.split(np.arange(len(evidence)), np.cumsum(lengths)[:-1]):
        forward, backward = np.empty((len(rows), K)), np.zeros((len(rows), K))
        for n, row in enumerate(rows):
            before = logsumexp(forward[n - 1][:, None] + log_T, axis=0) if n else log_initial
            forward[n] = before + evidence[row]
        for n in range(len(rows) - 2, -1, -1):
            backward[n] = logsumexp(log_T + evidence[rows[n + 1]] + backward[n + 1], axis=1)
        total += logsumexp(forward[-1])
        assert_allclose(result.posterior[rows], softmax(forward + backward, axis=1), atol=1e-12)
        assert_allclose(result.filtered[rows], softmax(forward, axis=1), atol=1e-12)
        with np.errstate(invalid="ignore"):
            cavity = softmax(forward - evidence[rows] + backward, axis=1)
        assert_allclose(np.exp(result.log_cavity[rows]), cavity, atol=1e-12)
        for n, row in enumerate(rows[1:]):
            pairs = forward[n][:, None] + log_T + evidence[row] + backward[n + 1]
            transitions += np.exp(pairs - logsumexp(forward[-1]))
    assert_allclose(result.transitions, transitions, atol=1e-11)
    assert_allclose(result.log_likelihood, total, rtol=1e-12)


@pytest.mark.parametrize("scale", [2.0, 2000.0])  # with the larger one, linear probabilities underflow
def test_the_sums_alone_have_the_bits_of_all_results(scale):
    rng = np.random.default_rng(3)
    evidence, T, initial = rng.normal(size=(70, 10)) * scale, distributions(rng, 10, 10), distributions(rng, 1, 10)[0]
    whole = hmm.forward_backward(evidence, T, initial, [30, 40])
    sums = hmm.expected_by_model(hmm.prepare(*hmm.known_evidence(evidence, [30, 40], None)), T, initial)
    assert_array_equal(sums.transitions, whole.transitions)
    assert_array_equal(sums.initial, whole.initial)
    assert sums.log_likelihood == whole.log_likelihood


@given(chains())
@settings(max_examples=100, deadline=None)
def test_viterbi_returns_the_most_probable_of_all_paths(chain):
    evidence, T, initial, lengths, mask = chain
    evidence = np.where(mask[:, None], np.nan, evidence)
    flat = np.where(mask[:, None], 0.0, evidence)
    pieces = np.split(np.arange(len(evidence)), np.cumsum(lengths)[:-1])
    best = sum(enumerate_paths(flat[rows], T, initial)[1].max() for rows in pieces)
    if best == -np.inf:
        with pytest.raises(ValueError, match=r"row \d+ has probability zero"):
            hmm.viterbi(evidence, T, initial, lengths, mask)
        return
    path, log_joint = hmm.viterbi(evidence, T, initial, lengths, mask)
    with np.errstate(divide="ignore"):
        own = (
            sum(np.log(initial[path[rows[0]]]) + np.log(T[path[rows[:-1]], path[rows[1:]]]).sum() for rows in pieces)
            + flat[np.arange(len(path)), path].sum()
        )
    assert_allclose(log_joint, best, rtol=1e-10, atol=1e-9)
    assert_allclose(own, best, rtol=1e-10, atol=1e-9)


def long_chain(N=3000, K=5, seed=0):
    rng = np.random.default_rng(seed)
    model = GaussianHMM(K, covariance_type="spherical")
    model.startprob_, model.transmat_ = distributions(rng, 1, K)[0], distributions(rng, K, K)
    model.means_, model.covars_ = rng.normal(size=(K, 3)), np.full(K, 0.5)
    X, _ = model.sample(N, random_state=seed)
    return model, X, model._compute_log_likelihood(X)


def test_long_sequences_agree_with_hmmlearn():
    model, X, evidence = long_chain()
    lengths = [1000, 1, 1999]
    result = hmm.forward_backward(evidence, model.transmat_, model.startprob_, lengths)
    likelihood, posterior = model.score_samples(X, lengths)
    assert_allclose(result.log_likelihood, likelihood, rtol=1e-10)
    assert_allclose(result.posterior, posterior, atol=1e-9)
    path, log_joint = hmm.viterbi(evidence, model.transmat_, model.startprob_, lengths)
    expected_joint, expected_path = model.decode(X, lengths, algorithm="viterbi")
    assert_allclose(log_joint, expected_joint, rtol=1e-10)
    assert_array_equal(path, expected_path)


@pytest.mark.parametrize("K", [1, 3, 5, 11, 40])
def test_paths_through_impossible_transitions_agree_with_hmmlearn(K):
    rng = np.random.default_rng(K)
    T, initial = distributions(rng, K, K), distributions(rng, 1, K)[0]
    T = np.where(rng.random((K, K)) < 0.5, 0.0, T) + 0.1 * np.eye(K)
    T /= T.sum(axis=1, keepdims=True)
    evidence = 3.0 * rng.normal(size=(500, K))
    evidence[rng.random((500, K)) < 0.02] = -np.inf
    evidence[:, 0] = np.maximum(evidence[:, 0], -5.0)
    T[:, 0] += 0.01  # class 0 is always possible
    T /= T.sum(axis=1, keepdims=True)
    path, log_joint = hmm.viterbi(evidence, T, initial)
    expected_joint, expected_path = _hmmc.viterbi(initial, T, evidence)
    assert_array_equal(path, expected_path)
    assert_allclose(log_joint, expected_joint, rtol=1e-12)


def test_equally_probable_paths_give_the_lowest_classes_from_the_last_row_on():
    rng = np.random.default_rng(11)
    for _ in range(50):  # whole numbers, whose sums are exact
        K, lengths = int(rng.integers(2, 7)), [int(rng.integers(1, 5)), int(rng.integers(1, 5))]
        log_T, evidence = (
            rng.integers(-2, 1, (K, K)).astype(float),
            rng.integers(-1, 1, (sum(lengths), K)).astype(float),
        )
        path = np.zeros(sum(lengths), dtype=np.int64)
        hmm.best_path(evidence, log_T, np.zeros(K), (np.zeros(K), -1), np.cumsum([0, *lengths]), path)
        for rows in np.split(np.arange(sum(lengths)), lengths[:1]):
            paths = np.array(list(itertools.product(range(K), repeat=len(rows))))
            joint = log_T[paths[:, :-1], paths[:, 1:]].sum(axis=1) + evidence[rows, paths].sum(axis=1)
            best = paths[joint == joint.max()]
            assert tuple(path[rows][::-1]) == min(tuple(p[::-1]) for p in best)


def test_expected_transitions_agree_with_a_baum_welch_step_of_hmmlearn():
    rng = np.random.default_rng(2)
    T, initial, emission = distributions(rng, 4, 4), distributions(rng, 1, 4)[0], distributions(rng, 4, 6)
    symbols = rng.integers(0, 6, 500)
    model = CategoricalHMM(4, n_iter=1, init_params="", params="st", n_features=6)
    model.startprob_, model.transmat_, model.emissionprob_ = initial, T, emission
    result = hmm.forward_backward(np.log(emission[:, symbols].T), T, initial, [200, 300])
    model.fit(symbols[:, None], [200, 300])
    assert_allclose(hmm.transition_probabilities(result.transitions, 0.0), model.transmat_, atol=1e-9)
    assert_allclose(result.initial / 2, model.startprob_, atol=1e-9)


def test_a_sequence_of_100000_rows_does_not_underflow():
    model, _, evidence = long_chain()
    evidence = np.tile(evidence - 1000.0, (34, 1))[:100_000]
    result = hmm.forward_backward(evidence, model.transmat_, model.startprob_)
    assert result.log_likelihood < -1e8
    assert_allclose(result.posterior.sum(axis=1), 1.0)
    assert_allclose(result.transitions.sum(), 99_999)
    assert np.isfinite(result.log_cavity).all()


def test_several_sequences_give_the_results_of_each_sequence_alone():
    model, _, evidence = long_chain(60)
    T, initial = model.transmat_, model.startprob_
    together = hmm.forward_backward(evidence, T, initial, [20, 40])
    alone = [hmm.forward_backward(rows, T, initial) for rows in (evidence[:20], evidence[20:])]
    assert_allclose(together.posterior, np.concatenate([a.posterior for a in alone]))
    assert_allclose(together.transitions, alone[0].transitions + alone[1].transitions)
    P = together.posterior
    assert_allclose(hmm.expected_counts(P, [20, 40]), hmm.expected_counts(P[:20]) + hmm.expected_counts(P[20:]))
    message = hmm.one_step_message(P, T, None, [20, 40])
    assert_allclose(message[20:], hmm.one_step_message(P[20:], T))


def test_a_class_with_underflowing_evidence_is_kept_where_a_later_row_requires_it():
    # Class 1 is 800 nats less likely in the first row (exp underflows), but the second row is reachable from it alone.
    evidence = np.array([[0.0, -800.0], [-np.inf, 0.0]])
    result = hmm.forward_backward(evidence, np.eye(2), np.array([0.5, 0.5]))
    assert_allclose(result.posterior, [[0.0, 1.0], [0.0, 1.0]])
    assert_allclose(result.log_likelihood, np.log(0.5) - 800.0)


def test_the_error_names_the_impossible_row():
    evidence = np.array([[0.0, 0.0], [0.0, -np.inf], [-np.inf, 0.0]])
    for algorithm in (hmm.forward_backward, hmm.viterbi):
        with pytest.raises(ValueError, match="row 2 has probability zero"):
            algorithm(evidence, np.eye(2), np.array([0.5, 0.5]))


def test_sampled_counts_scatter_around_the_expected_counts():
    rng = np.random.default_rng(4)
    P, samples, lengths = distributions(rng, 300, 4), 200, [100, 200]
    counts = hmm.sampled_counts(P, samples, rng, lengths)
    assert counts.sum() == samples * (300 - 2)
    # Each cell is a sum of independent binomials.
    before = np.delete(np.arange(300), [99, 299])
    p = P[before][:, :, None] * P[before + 1][:, None, :]
    z = (counts - samples * hmm.expected_counts(P, lengths)) / np.sqrt(samples * (p * (1 - p)).sum(axis=0))
    assert np.abs(z).max() < 4.0
    assert (z**2).sum() > 2.0  # there is scatter: chi-square of about 15 degrees of freedom


def test_sampled_counts_do_not_depend_on_the_chunk_size(monkeypatch):
    P = distributions(np.random.default_rng(5), 50, 3)
    whole = hmm.sampled_counts(P, 20, np.random.default_rng(6))
    monkeypatch.setattr(hmm, "MAX_JOINT_ENTRIES", 30)
    assert_array_equal(hmm.sampled_counts(P, 20, np.random.default_rng(6)), whole)


def test_rows_in_single_precision_are_accepted_as_distributions():
    P = distributions(np.random.default_rng(7), 50, 10).astype(np.float32)
    assert hmm.sampled_counts(P, 10, np.random.default_rng(8)).sum() == 490


def test_transition_probabilities_are_smoothed_with_alpha():
    assert_allclose(hmm.transition_probabilities([[3, 1], [0, 0]], 1.0), [[4 / 6, 2 / 6], [0.5, 0.5]])
    with pytest.raises(ValueError, match="alpha"):
        hmm.transition_probabilities([[3, 1], [0, 0]], 0.0)


def test_the_one_step_message_agrees_with_its_formula():
    rng = np.random.default_rng(9)
    P, T, previous = distributions(rng, 6, 3), distributions(rng, 3, 3), distributions(rng, 6, 3)
    message = np.exp(hmm.one_step_message(P, T, np.log(previous) - 5.0, [2, 4]))
    for t in range(6):
        if t in (0, 2):
            assert_allclose(message[t], P[t])
        else:
            product = sum(P[t - 1, i] * T[i] for i in range(3)) * previous[t]
            assert_allclose(message[t], product / product.sum())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"log_evidence": np.full((4, 2), np.nan)}, "row 0 of the log evidence"),
        ({"log_evidence": np.full((4, 2), -np.inf)}, "no possible class"),
        ({"log_evidence": np.zeros(4)}, r"shape \(N, K\)"),
        ({"T": np.ones((2, 2))}, "row 0 of T is not a distribution"),
        ({"T": np.eye(3)}, "T must have the shape"),
        ({"initial": np.array([2.0, -1.0])}, "initial is not a distribution"),
        ({"initial": np.ones(1)}, "initial must have the shape"),
        ({"lengths": [1, 2]}, "sum to 4"),
        ({"lengths": [0, 4]}, "positive"),
        ({"lengths": [2.0, 2.0]}, "whole"),
        ({"mask": [True]}, "mask must have the shape"),
    ],
)
def test_invalid_inputs_are_rejected(change, text):
    arguments = {"log_evidence": np.zeros((4, 2)), "T": np.eye(2), "initial": np.full(2, 0.5), **change}
    for algorithm in (hmm.forward_backward, hmm.viterbi):
        with pytest.raises(ValueError, match=text):
            algorithm(**arguments)


@pytest.mark.parametrize("bad", [np.nan, np.inf, [-np.inf] * 11])
@pytest.mark.parametrize("row", [0, 3, 4, 9])
def test_a_row_of_evidence_without_a_value_is_named_wherever_it_is(bad, row):
    evidence = np.random.default_rng(0).normal(size=(10, 11))
    evidence[2, 3] = -np.inf  # valid: class 3 is impossible
    evidence[row, 5:] = bad if np.isscalar(bad) else bad[5:]
    evidence[row, :5] = 0.0 if np.isscalar(bad) else bad[:5]
    for algorithm in (hmm.forward_backward, hmm.viterbi):
        with pytest.raises(ValueError, match=f"row {row} of the log evidence has NaN, .inf or no possible class"):
            algorithm(evidence, np.full((11, 11), 1 / 11), np.full(11, 1 / 11), [4, 6])


@pytest.mark.parametrize("bad", [[0.5, 0.6], [-0.1, 1.1], [np.nan, 1.0]])
def test_rows_that_are_not_distributions_are_rejected(bad):
    with pytest.raises(ValueError, match="row 1 of P"):
        hmm.expected_counts([[0.5, 0.5], bad])


def test_kernels_compile_once():
    hmm.compile_kernels()
    rng = np.random.default_rng(10)
    hmm.forward_backward(np.zeros((2, 6)).T.astype(np.float32), distributions(rng, 2, 2).T.copy().T, [1, 0], [2, 4])
    assert [len(f.signatures) for f in (hmm.scaled_passes, hmm.log_passes, hmm.best_path)] == [1, 1, 1]


@pytest.mark.parametrize("lengths", [[40], [1, 9, 30], [1] * 40])
def test_counts_of_valid_rows_are_the_expected_counts(lengths):
    rows, starts = np.random.default_rng(0).dirichlet(np.ones(3), 40), np.cumsum([0, *lengths])
    counts = sum(
        (np.outer(rows[t], rows[t + 1]) for t in range(39) if t + 1 not in starts.tolist()), start=np.zeros((3, 3))
    )
    assert_allclose(hmm.neighbour_counts(rows, starts), counts, rtol=1e-13)
    assert_allclose(hmm.expected_counts(rows, lengths), counts, rtol=1e-13)
