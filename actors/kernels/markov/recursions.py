"""Compiled forward, backward and Viterbi recursions of hidden Markov models.

Source: L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech recognition", 1989,
sections III and V.A (scaling). Time is linear in the number of rows, and loops allocate nothing.

N is the number of rows, K that of classes, S that of sequences. Sequence s spans rows starts[s] to starts[s + 1] - 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.types import FloatArray, IntArray

MIN_SCALE = 1e-30
"""Smallest likelihood of a row, given the previous rows and relative to its best class, in the linear domain."""


class ForwardBackwardBuffers(NamedTuple):
    """Arrays that the forward and the backward pass fill in.

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

    prediction: FloatArray
    filtered: FloatArray
    backward: FloatArray
    posterior: FloatArray
    cavity: FloatArray
    log_scale: FloatArray
    transitions: FloatArray


@kernel
def largest_of_rows(values: FloatArray) -> FloatArray:
    """Return the largest value of each row, (N,); numpy takes ten times as long on short rows."""
    largest = np.empty(values.shape[0])
    for t in range(values.shape[0]):
        top = values[t, 0]
        for k in range(1, values.shape[1]):
            top = values[t, k] if values[t, k] > top else top
        largest[t] = top
    return largest


@kernel
def scaled_passes(
    likelihood: FloatArray,
    shift: FloatArray,
    T: FloatArray,
    transposed: FloatArray,
    initial: FloatArray,
    ends: tuple[FloatArray, FloatArray],
    starts: IntArray,
    out: ForwardBackwardBuffers,
) -> bool:
    """Run the forward and the backward pass in the linear domain, scaled per row (Rabiner, section V.A).

    Parameters
    ----------
    likelihood, shift : ndarray of float64, shapes (N, K), (N,)
        exp(log evidence - shift), where shift is the largest log evidence of the row.
    T, transposed : ndarray of float64, shape (K, K)
        T[i, j] = P(z_t = j | z_t-1 = i), and its transpose in C order.
    initial : ndarray of float64, shape (K,)
        Distribution of the first class of each sequence but the first.
    ends : tuple of two ndarrays of float64, shape (K,)
        Distribution of the first class of the first sequence, and backward message of the last row of the last
        sequence, normalised: `initial` and 1 / K, if no rows lie before and after.
    starts : ndarray of int64, shape (S + 1,)
        Boundaries of the sequences.
    out : ForwardBackwardBuffers
        Receives the results; its transitions must be zeros.

    Returns
    -------
    bool
        False if a row is less likely than :data:`MIN_SCALE`, so that underflow may have falsified the results.
    """
    K = T.shape[0]
    weighted = np.empty(K)
    entering, leaving = ends
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        for t in range(first, end):
            if not _forward(t, t == first, likelihood, shift, T, entering if s == 0 else initial, out):
                return False
        for i in range(K):
            out.backward[end - 1, i] = leaving[i] if s == starts.shape[0] - 2 else 1.0 / K
        if not _combine(end - 1, out) > MIN_SCALE:
            return False
        for t in range(end - 2, first - 1, -1):
            if not _backward(t, likelihood, transposed, weighted, out):
                return False
            _combine(t, out)
    # Σ_t P(z_t-1 = i, z_t = j | all rows) = T_ij Σ_t filtered_i weighted_j / norm; the factor T_ij is outside the loop.
    for i in range(K):
        for j in range(K):
            out.transitions[i, j] *= T[i, j]
    return True


@kernel
def _forward(
    t: int,
    first: bool,
    likelihood: FloatArray,
    shift: FloatArray,
    T: FloatArray,
    initial: FloatArray,
    out: ForwardBackwardBuffers,
) -> bool:
    """Compute prediction and filtered posterior of row t; return False if the row is too unlikely."""
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
    if not total > MIN_SCALE:
        return False
    for j in range(K):
        filtered[t, j] /= total
    out.log_scale[t] = math.log(total) + shift[t]
    return True


@kernel
def _backward(
    t: int, likelihood: FloatArray, transposed: FloatArray, weighted: FloatArray, out: ForwardBackwardBuffers
) -> bool:
    """Compute the backward message of row t and add the expected transition t → t + 1; return False as `_forward`."""
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
    if not norm > MIN_SCALE:
        return False
    for i in range(K):
        weight = filtered[t, i] / norm
        for j in range(K):
            transitions[i, j] += weight * weighted[j]
        backward[t, i] /= total
    return True


@kernel
def _combine(t: int, out: ForwardBackwardBuffers) -> float:
    """Combine forward and backward messages of row t into its posterior, and into its cavity without its evidence.

    Returns the sum of the products of filtered posterior and backward message.
    """
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
    return with_own


@kernel
def log_passes(
    evidence: FloatArray,
    log_T: FloatArray,
    log_initial: FloatArray,
    log_ends: tuple[FloatArray, FloatArray],
    starts: IntArray,
    out: ForwardBackwardBuffers,
) -> int:
    """Run both passes in the log domain: slower (K² exponentials a row), but without underflow.

    Parameters
    ----------
    evidence, log_T, log_initial : ndarray of float64, shapes (N, K), (K, K), (K,)
        Log evidence, log transition matrix, log initial distribution.
    log_ends, starts, out
        As in `scaled_passes`, `log_ends` being logarithms of `ends`. `out` receives *logarithms* in all arrays of shape
        (N, K).

    Returns
    -------
    int
        -1, or the first row that has probability zero given the rows before it: N, if it lies after these rows.
    """
    K = log_T.shape[0]
    work = np.empty(K)
    log_entering, log_leaving = log_ends
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        for t in range(first, end):
            for j in range(K):
                if t == first:
                    out.prediction[t, j] = log_entering[j] if s == 0 else log_initial[j]
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
        for i in range(K):
            out.backward[end - 1, i] = log_leaving[i] if s == starts.shape[0] - 2 else -math.log(K)
            work[i] = out.filtered[end - 1, i] + out.backward[end - 1, i]
        if log_sum(work) == -np.inf:
            return int(end)
        for t in range(end - 1, first - 1, -1):
            if t < end - 1:
                _log_backward(t, evidence, log_T, work, out)
            out.posterior[t] = out.filtered[t] + out.backward[t]
            out.posterior[t] -= log_sum(out.posterior[t])
            out.cavity[t] = out.prediction[t] + out.backward[t]
            out.cavity[t] -= log_sum(out.cavity[t])
    return -1


@kernel
def _log_backward(
    t: int, evidence: FloatArray, log_T: FloatArray, work: FloatArray, out: ForwardBackwardBuffers
) -> None:
    """Compute the backward message of row t in the log domain, and add the expected transition t → t + 1."""
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
def log_sum(values: FloatArray) -> float:
    """Return log Σ exp(values); -inf if all values are -inf."""
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
def best_path(
    evidence: FloatArray, log_T: FloatArray, log_initial: FloatArray, starts: IntArray, path: IntArray
) -> tuple[float, bool]:
    """Compute the most probable path by the Viterbi algorithm (Rabiner 1989, eqs. 33 to 35).

    Rabiner's back pointers ψ are not stored: the argument of each maximum is found again on the way back, K sums a row.

    Parameters
    ----------
    evidence, log_T, log_initial, starts
        As in `log_passes`.
    path : ndarray of int64, shape (N,)
        Receives the classes. Ties are resolved from the last row of a sequence to its first: the lowest of the equally
        probable classes of the last row, then in each row the lowest of the classes that explain the next one equally
        well. Classes are equally probable if their log probabilities are the same float64 numbers.

    Returns
    -------
    log_joint : float
        The log joint density of path and rows. If a row has probability zero: -inf, and path[0] is that row.
    finite : bool
        Whether all of the evidence is finite. If it is not, it may have no valid path.
    """
    N, K = evidence.shape
    groups, half = (K + 4) // 5, (K + 1) // 2
    width = max(groups * 5, half * 2)  # classes from K on are impossible
    columns, transposed = _columns_of(log_T, groups, width)
    # Rabiner's δ_t(j): the best log joint density of rows up to t and of class j at t.
    delta = np.empty((N, width))
    delta[:, K:] = -np.inf
    log_joint, check = 0.0, 0.0
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        for j in range(K):
            delta[first, j] = log_initial[j] + evidence[first, j]
            check += evidence[first, j] - evidence[first, j]
        for t in range(first + 1, end):
            scores, out = delta[t - 1], delta[t]
            for group in range(groups):
                column = columns[group]
                top0 = top1 = top2 = top3 = top4 = -np.inf
                for i in range(K):
                    # A conditional expression is one instruction; max() or if would be a branch or a call.
                    value0, value1 = scores[i] + column[i, 0], scores[i] + column[i, 1]
                    value2, value3 = scores[i] + column[i, 2], scores[i] + column[i, 3]
                    value4 = scores[i] + column[i, 4]
                    top0 = value0 if value0 > top0 else top0
                    top1 = value1 if value1 > top1 else top1
                    top2 = value2 if value2 > top2 else top2
                    top3 = value3 if value3 > top3 else top3
                    top4 = value4 if value4 > top4 else top4
                j = 5 * group
                out[j], out[j + 1], out[j + 2], out[j + 3], out[j + 4] = top0, top1, top2, top3, top4
            for j in range(K):
                out[j] += evidence[t, j]
                check += evidence[t, j] - evidence[t, j]  # 0, or NaN for a value that is not finite
        top, following = -np.inf, 0
        for j in range(K):
            if delta[end - 1, j] > top:
                top, following = delta[end - 1, j], j
        if top == -np.inf:
            path[0] = _first_impossible_row(delta[:, :K], first)
            return float(top), check == 0.0
        log_joint += top
        path[end - 1] = following
        for t in range(end - 2, first - 1, -1):
            # The first largest sum of each half of the classes: the halves do not wait for each other, and conditional
            # expressions do not guess which class it is. A call of a function would take as long as the loop.
            into, scores, low, high, at_low, at_high = transposed[following], delta[t], -np.inf, -np.inf, 0, half
            for i in range(half):
                value_low, value_high = scores[i] + into[i], scores[half + i] + into[half + i]
                above_low, above_high = value_low > low, value_high > high
                low = value_low if above_low else low
                at_low = i if above_low else at_low
                high = value_high if above_high else high
                at_high = half + i if above_high else at_high
            path[t] = following = at_high if high > low else at_low
    return log_joint, check == 0.0


@kernel
def _columns_of(log_T: FloatArray, groups: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Return columns of a matrix in groups of five, whose maxima stay in registers, and all columns as rows."""
    K = log_T.shape[0]
    columns, transposed = np.full((groups, K, 5), -np.inf), np.full((K, width), -np.inf)
    for i in range(K):
        for j in range(K):
            columns[j // 5, i, j % 5] = transposed[j, i] = log_T[i, j]
    return columns, transposed


@kernel
def _first_impossible_row(delta: FloatArray, first: int) -> int:
    """Return the first row from `first` on in which no class is possible; there is one."""
    t = first
    while delta[t].max() > -np.inf:
        t += 1
    return t
