"""The recursions along a hidden Markov chain beneath `hmm`, compiled.

Source: L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech recognition", 1989,
sections III and V.A (scaling). Everything is linear in the number of rows, and loops allocate nothing.

N is the number of rows, K that of classes, S that of sequences. Sequence s spans rows starts[s] to starts[s + 1].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.kernels.jit import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEAST_SCALE = 1e-30
"""Rows less likely than this, given the rows before and relative to their best class, call for the log domain."""


class Messages(NamedTuple):
    """What forward and backward pass fill in.

    Attributes
    ----------
    prediction, filtered, backward : ndarray of float64, shape (N, K)
        P(z_t | rows before t), P(z_t | rows up to t), and p(rows after t | z_t) normalised to sum to one.
    posterior, cavity : ndarray of float64, shape (N, K)
        P(z_t | all rows) and P(z_t | all rows but t).
    log_scale : ndarray of float64, shape (N,)
        log p(row t | rows before t).
    transitions : ndarray of float64, shape (K, K)
        Expected transitions, summed over t.
    """

    prediction: Floats
    filtered: Floats
    backward: Floats
    posterior: Floats
    cavity: Floats
    log_scale: Floats
    transitions: Floats


@kernel
def scaled_passes(
    likelihood: Floats, shift: Floats, T: Floats, transposed: Floats, initial: Floats, starts: Integers, out: Messages
) -> bool:
    """Do the forward and the backward pass in the linear domain, scaled per row.

    Parameters
    ----------
    likelihood, shift : ndarray of float64, shapes (N, K), (N,)
        exp(log evidence - shift), where shift is the largest log evidence of the row.
    T, transposed : ndarray of float64, shape (K, K)
        T[i, j] = P(z_t = j | z_t-1 = i), and its transpose in C order.
    initial : ndarray of float64, shape (K,)
        Distribution of the first class of each sequence.
    starts : ndarray of int64, shape (S + 1,)
        The sequences' boundaries.
    out : Messages
        Receives the results; transitions must be zeros.

    Returns
    -------
    bool
        False if a row had next to no probability, so that underflow might have falsified the results.
    """
    K = T.shape[0]
    weighted = np.empty(K)
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        for t in range(first, end):
            if not _forward(t, t == first, likelihood, shift, T, initial, out):
                return False
        for i in range(K):
            out.backward[end - 1, i] = 1.0 / K
        _combine(end - 1, out)
        for t in range(end - 2, first - 1, -1):
            if not _backward(t, likelihood, transposed, weighted, out):
                return False
            _combine(t, out)
    # Σ_t P(z_t-1 = i, z_t = j | all rows) = T_ij Σ_t filtered_i weighted_j / norm; T stays out of the loop.
    for i in range(K):
        for j in range(K):
            out.transitions[i, j] *= T[i, j]
    return True


@kernel
def _forward(t: int, first: bool, likelihood: Floats, shift: Floats, T: Floats, initial: Floats, out: Messages) -> bool:
    """Predict and filter row t."""
    K = T.shape[0]
    prediction, filtered = out.prediction, out.filtered
    if first:
        for j in range(K):
            prediction[t, j] = initial[j]
    else:
        for j in range(K):
            prediction[t, j] = 0.0
        for i in range(K):  # prediction_t(j) = Σ_i filtered_t-1(i) T_ij
            weight = filtered[t - 1, i]
            for j in range(K):
                prediction[t, j] += weight * T[i, j]
    total = 0.0
    for j in range(K):
        filtered[t, j] = prediction[t, j] * likelihood[t, j]
        total += filtered[t, j]
    if not total > LEAST_SCALE:
        return False
    for j in range(K):
        filtered[t, j] /= total
    out.log_scale[t] = math.log(total) + shift[t]
    return True


@kernel
def _backward(t: int, likelihood: Floats, transposed: Floats, weighted: Floats, out: Messages) -> bool:
    """Pass the evidence of the rows after t back to row t, and count the transition from t to t + 1."""
    K = weighted.shape[0]
    backward, filtered, transitions = out.backward, out.filtered, out.transitions
    for j in range(K):
        weighted[j] = likelihood[t + 1, j] * backward[t + 1, j]
        backward[t, j] = 0.0
    for j in range(K):  # backward_t(i) = Σ_j T_ij likelihood_t+1(j) backward_t+1(j)
        weight = weighted[j]
        for i in range(K):
            backward[t, i] += transposed[j, i] * weight
    total, norm = 0.0, 0.0
    for i in range(K):
        total += backward[t, i]
        norm += filtered[t, i] * backward[t, i]
    if not norm > LEAST_SCALE:
        return False
    for i in range(K):
        weight = filtered[t, i] / norm
        for j in range(K):
            transitions[i, j] += weight * weighted[j]
        backward[t, i] /= total
    return True


@kernel
def _combine(t: int, out: Messages) -> None:
    """Multiply what comes from before row t with what comes from behind it, with and without the row's own evidence."""
    K = out.posterior.shape[1]
    with_own, without = 0.0, 0.0
    for k in range(K):
        out.posterior[t, k] = out.filtered[t, k] * out.backward[t, k]
        out.cavity[t, k] = out.prediction[t, k] * out.backward[t, k]
        with_own += out.posterior[t, k]
        without += out.cavity[t, k]
    for k in range(K):
        out.posterior[t, k] /= with_own
        out.cavity[t, k] /= without


@kernel
def log_passes(evidence: Floats, log_T: Floats, log_initial: Floats, starts: Integers, out: Messages) -> int:
    """Do both passes in the log domain: slow (K² exponentials a row), but nothing underflows before the end.

    Parameters
    ----------
    evidence, log_T, log_initial : ndarray of float64, shapes (N, K), (K, K), (K,)
        Log evidence, log transition probabilities, log initial distribution.
    starts, out
        As in `scaled_passes`. `out` receives *logarithms* in all arrays of shape (N, K).

    Returns
    -------
    int
        -1, or the first row that has probability zero given the rows before it.
    """
    K = log_T.shape[0]
    work = np.empty(K)
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        for t in range(first, end):
            for j in range(K):
                if t == first:
                    out.prediction[t, j] = log_initial[j]
                else:
                    for i in range(K):
                        work[i] = out.filtered[t - 1, i] + log_T[i, j]
                    out.prediction[t, j] = log_sum(work)
                out.filtered[t, j] = out.prediction[t, j] + evidence[t, j]
            total = log_sum(out.filtered[t])
            if total == -np.inf:
                return int(t)
            out.filtered[t] -= total
            out.log_scale[t] = total
        out.backward[end - 1] = -math.log(K)
        for t in range(end - 1, first - 1, -1):
            if t < end - 1:
                _log_backward(t, evidence, log_T, work, out)
            out.posterior[t] = out.filtered[t] + out.backward[t]
            out.posterior[t] -= log_sum(out.posterior[t])
            out.cavity[t] = out.prediction[t] + out.backward[t]
            out.cavity[t] -= log_sum(out.cavity[t])
    return -1


@kernel
def _log_backward(t: int, evidence: Floats, log_T: Floats, work: Floats, out: Messages) -> None:
    """As `_backward`, in the log domain (the counted transitions are not logarithms)."""
    K = log_T.shape[0]
    backward = out.backward
    for i in range(K):
        for j in range(K):
            work[j] = log_T[i, j] + evidence[t + 1, j] + backward[t + 1, j]
        backward[t, i] = log_sum(work)
    for i in range(K):
        work[i] = out.filtered[t, i] + backward[t, i]
    norm = log_sum(work)
    for i in range(K):
        for j in range(K):
            pair = out.filtered[t, i] + log_T[i, j] + evidence[t + 1, j] + backward[t + 1, j]
            out.transitions[i, j] += math.exp(pair - norm)
    backward[t] -= log_sum(backward[t])


@kernel
def log_sum(values: Floats) -> float:
    """Return log Σ exp(values); -inf if all are."""
    largest = -np.inf
    for i in range(values.shape[0]):
        largest = max(largest, values[i])
    if largest == -np.inf:
        return float(largest)
    total = 0.0
    for i in range(values.shape[0]):
        total += math.exp(values[i] - largest)
    return float(largest + math.log(total))


@kernel
def best_path(evidence: Floats, log_T: Floats, log_initial: Floats, starts: Integers, path: Integers) -> float:
    """Find the most probable path (Rabiner 1989, eqs. 33 to 35).

    Parameters
    ----------
    evidence, log_T, log_initial, starts
        As in `log_passes`.
    path : ndarray of int64, shape (N,)
        Receives the classes; of equally probable ones the lowest.

    Returns
    -------
    float
        The log joint density of path and rows. If a row cannot be reached, -inf, and path[0] is that row.
    """
    N, K = evidence.shape
    source = np.zeros((N, K), dtype=np.int64)
    best, following = np.empty(K), np.empty(K)
    log_joint = 0.0
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        for t in range(first, end):
            top = -np.inf
            for j in range(K):
                following[j] = log_initial[j] if t == first else -np.inf
                if t > first:
                    for i in range(K):
                        value = best[i] + log_T[i, j]
                        if value > following[j]:
                            following[j] = value
                            source[t, j] = i
                following[j] += evidence[t, j]
                top = max(top, following[j])
            if top == -np.inf:
                path[0] = t
                return float(top)
            best[:] = following
        path[end - 1] = np.argmax(best)
        log_joint += best[path[end - 1]]
        for t in range(end - 2, first - 1, -1):
            path[t] = source[t + 1, path[t + 1]]
    return log_joint
