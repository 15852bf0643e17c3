"""Compiled forward, backward and Viterbi recursions of hidden Markov models.

Source: L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech recognition", 1989,
sections III and V.A (scaling). Time is linear in the number of rows, and loops allocate nothing.

N is the number of rows, K that of classes, S that of sequences. Sequence s spans rows starts[s] to starts[s + 1] - 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.lanes import LANES, load, load_first, spread, store, store_first, total
from actors.kernels.types import FloatArray, IntArray

MIN_SCALE = 1e-30
"""Smallest likelihood of a row, given the previous rows and relative to its best class, in the linear domain."""


class ForwardBackwardBuffers(NamedTuple):
    """Arrays that the forward and the backward pass fill in.

    Attributes
    ----------
    filtered, posterior, cavity : ndarray of float64, shape (N, K)
        P(z_t | rows up to t), P(z_t | all rows) and P(z_t | all rows but t). Between the passes `cavity` has the
        predictions, P(z_t | rows before t).
    scale : ndarray of float64, shape (N,)
        p(row t | rows before t), relative to its best class.
    transitions : ndarray of float64, shape (K, K)
        Expected transitions, summed over t.
    initial : ndarray of float64, shape (K,)
        P(z_t | all rows), summed over the first rows of sequences.
    """

    filtered: FloatArray
    posterior: FloatArray
    cavity: FloatArray
    scale: FloatArray
    transitions: FloatArray
    initial: FloatArray


@kernel
def relative_rows(evidence: FloatArray, relative: FloatArray, largest: FloatArray) -> bool:
    """Fill in each row relative to its largest value, (N, K), and that value, (N,); return whether all are finite.

    numpy takes ten times as long for the largest values of short rows.
    """
    N, K = evidence.shape
    check = 0.0
    for t in range(N):
        top = evidence[t, 0]
        for k in range(1, K):
            top = evidence[t, k] if evidence[t, k] > top else top
        largest[t] = top
        for k in range(K):
            relative[t, k] = evidence[t, k] - top
            check += evidence[t, k] - evidence[t, k]  # 0, or NaN for a value that is not finite
    return check == 0.0


@kernel
def scaled_passes(
    likelihood: FloatArray,
    T: FloatArray,
    initial: FloatArray,
    ends: tuple[FloatArray, FloatArray],
    starts: IntArray,
    rows_before: int,
    messages: bool,
    out: ForwardBackwardBuffers,
) -> bool:
    """Run the forward and the backward pass in the linear domain, scaled per row (Rabiner, section V.A).

    A row is scaled after its product with the transition matrix, not before: the division is not on the way from row to
    row. The products are computed for eight classes at once, and over every second class by itself.

    Parameters
    ----------
    likelihood : ndarray of float64, shape (N, K)
        exp(log evidence - the largest of the row), with room for more columns than K
        (:func:`actors.kernels.lanes.rows_with_room`).
    T : ndarray of float64, shape (K, K)
        T[i, j] = P(z_t = j | z_t-1 = i).
    initial : ndarray of float64, shape (K,)
        Distribution of the first class of each sequence but the first.
    ends : tuple of two ndarrays of float64, shape (K,)
        Distribution of the first class of the first sequence, and backward message of the last row of the last
        sequence, normalised: `initial` and 1 / K, if no rows lie before and after.
    starts : ndarray of int64, shape (S + 1,)
        Boundaries of the sequences.
    rows_before : int
        1 if the first row stands for those before all others: its class is not that of a first row. Otherwise 0.
    messages : bool
        Whether to fill in all of `out`; otherwise `filtered`, `scale` and the sums, and the others need no rows.
    out : ForwardBackwardBuffers
        Receives the results, with room for more columns than K; its initial must be zeros.

    Returns
    -------
    bool
        False if a row is less likely than :data:`MIN_SCALE`, so that underflow may have falsified the results.
    """
    K = T.shape[0]
    forward_groups, backward_groups = in_groups(T, False, 0.0), in_groups(T, True, 0.0)
    width = LANES * len(forward_groups)
    uniform, work, pairs = np.full(K, 1.0 / K), np.zeros(2 * width), np.zeros((K, width))
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        entering = ends[0] if s == 0 else initial
        leaving = ends[1] if s == starts.shape[0] - 2 else uniform
        if not _forward(first, end, likelihood, forward_groups, entering, messages, work, out):
            return False
        if not _backward(first, end, likelihood, backward_groups, leaving, messages, work, pairs, out):
            return False
        if s == 0 and rows_before:
            out.initial[:] = 0.0
    # Σ_t P(z_t-1 = i, z_t = j | all rows) = T_ij Σ_t filtered_i weighted_j / norm; the factor T_ij is outside the loop.
    for i in range(K):
        for j in range(K):
            out.transitions[i, j] = pairs[i, j] * T[i, j]
    return True


@kernel
def in_groups(matrix: FloatArray, transposed: bool, fill: float) -> FloatArray:
    """Return the columns of a matrix (K, K), or of its transpose, in groups of eight of an even number of rows.

    Rows and columns beyond K are `fill`.
    """
    K = matrix.shape[0]
    groups = np.full(((K + LANES - 1) // LANES, (K + 1) // 2 * 2, LANES), fill)
    for i in range(K):
        for j in range(K):
            groups[j // LANES, i, j % LANES] = matrix[j, i] if transposed else matrix[i, j]
    return groups


@kernel
def product_with(work: FloatArray, at: int, groups: FloatArray, j: int) -> Any:
    """Return entries j to j + 7 of the product of a vector, which begins at `at` in `work`, with a matrix."""
    even, odd = spread(0.0), spread(0.0)
    rows = groups.shape[1]
    for i in range(0, rows, 2):
        even = even + spread(work[at + i]) * load(groups, j * rows + LANES * i)
        odd = odd + spread(work[at + i + 1]) * load(groups, j * rows + LANES * (i + 1))
    return even + odd


@kernel
def _forward(
    first: int,
    end: int,
    likelihood: FloatArray,
    groups: FloatArray,
    entering: FloatArray,
    messages: bool,
    work: FloatArray,
    out: ForwardBackwardBuffers,
) -> bool:
    """Compute predictions and filtered posteriors of a sequence; return False if a row is too unlikely.

    In the last group of a row, what is beyond the K classes is that of the next row, and is multiplied by zero. It is
    stored as zero, where the next row's follows.
    """
    K, half, inverse = likelihood.shape[1], work.shape[0] // 2, spread(1.0)
    for t in range(first, end):
        before = (t & 1) * half
        joint, row, sums = half - before, t * K, spread(0.0)
        for j in range(0, K, LANES):
            # prediction_t(j) = Σ_i filtered_t-1(i) T_ij
            if t == first:
                prediction = load_first(entering, j, K - j)
            else:
                prediction = product_with(work, before, groups, j) * inverse
            if messages:
                store(out.cavity, row + j, prediction)
            prediction = prediction * load(likelihood, row + j)
            store(work, joint + j, prediction)
            sums = sums + prediction
        scale = total(sums)
        if not scale > MIN_SCALE:
            return False
        out.scale[t], inverse = scale, spread(1.0 / scale)
        for j in range(0, K, LANES):
            store(out.filtered, row + j, load(work, joint + j) * inverse)
    return True


@kernel
def _backward(
    first: int,
    end: int,
    likelihood: FloatArray,
    groups: FloatArray,
    leaving: FloatArray,
    messages: bool,
    work: FloatArray,
    pairs: FloatArray,
    out: ForwardBackwardBuffers,
) -> bool:
    """Compute backward messages of a sequence and what follows from them; return False as `_forward`.

    Here the next row is done before, so that nothing is stored beyond the classes.
    """
    K, weighted, message, inverse = likelihood.shape[1], 0, work.shape[0] // 2, 1.0  # two vectors in `work`
    for t in range(end - 1, first - 1, -1):
        row, norms, sums = t * K, spread(0.0), spread(0.0)
        if t < end - 1:
            for j in range(0, K, LANES):
                values = load(likelihood, row + K + j) * load(work, message + j)
                store(work, weighted + j, values)
        for j in range(0, K, LANES):
            if t == end - 1:
                values = load_first(leaving, j, K - j)
            else:  # backward_t(i) = Σ_j T_ij likelihood_t+1(j) backward_t+1(j)
                values = product_with(work, weighted, groups, j) * spread(inverse)
            store(work, message + j, values)
            sums, norms = sums + values, norms + values * load(out.filtered, row + j)
        norm = total(norms)
        if not norm > MIN_SCALE:
            return False
        if t < end - 1:
            _add_transitions(t, out.filtered, weighted, inverse / norm, work, pairs)
        inverse = 1.0 / total(sums)
        if messages:
            _combine(row, message, spread(1.0 / norm), work, out)
        if t == first:
            for j in range(K):
                out.initial[j] += out.filtered[t, j] * work[message + j] / norm
    return True


@kernel
def _add_transitions(
    row: int, filtered: FloatArray, weighted: int, factor: float, work: FloatArray, pairs: FloatArray
) -> None:
    """Add the expected transition from a row to the next one, without the transition probabilities."""
    K, width = pairs.shape
    for j in range(0, width, LANES):
        values = load(work, weighted + j) * spread(factor)
        for i in range(K):
            at = i * width + j
            store(pairs, at, load(pairs, at) + spread(filtered[row, i]) * values)


@kernel
def _combine(row: int, message: int, norm: Any, work: FloatArray, out: ForwardBackwardBuffers) -> None:
    """Combine forward and backward messages of a row into its posterior, and into its cavity without its evidence.

    `norm` is the reciprocal of the sum of the products of the backward message with `filtered`.
    """
    K, sums = out.filtered.shape[1], spread(0.0)
    for j in range(0, K, LANES):
        values = load(work, message + j)
        store_first(out.posterior, row + j, values * load(out.filtered, row + j) * norm, K - j)
        sums = sums + values * load(out.cavity, row + j)
    inverse = spread(1.0 / total(sums))
    for j in range(0, K, LANES):
        store_first(out.cavity, row + j, load(work, message + j) * load(out.cavity, row + j) * inverse, K - j)


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
        As in `scaled_passes`, `log_ends` being logarithms of `ends`. `out` receives *logarithms* in
        all arrays of shape (N, K), and log p(row t | rows before t) as `scale`; its initial is not filled in.

    Returns
    -------
    int
        -1, or the first row that has probability zero given the rows before it: N, if it lies after these rows.
    """
    K = log_T.shape[0]
    work, backward = np.empty(K), np.empty(K)
    log_entering, log_leaving = log_ends
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        for t in range(first, end):
            for j in range(K):
                if t == first:
                    out.cavity[t, j] = log_entering[j] if s == 0 else log_initial[j]
                else:
                    for i in range(K):
                        work[i] = out.filtered[t - 1, i] + log_T[i, j]
                    out.cavity[t, j] = log_sum(work)
                out.filtered[t, j] = out.cavity[t, j] + evidence[t, j]
            scale = log_sum(out.filtered[t])
            if scale == -np.inf:
                return int(t)
            out.filtered[t] -= scale
            out.scale[t] = scale
        for i in range(K):
            backward[i] = log_leaving[i] if s == starts.shape[0] - 2 else -math.log(K)
            work[i] = out.filtered[end - 1, i] + backward[i]
        if log_sum(work) == -np.inf:
            return int(end)
        for t in range(end - 1, first - 1, -1):
            if t < end - 1:
                _log_backward(t, evidence, log_T, work, backward, out)
            out.posterior[t] = out.filtered[t] + backward
            out.posterior[t] -= log_sum(out.posterior[t])
            out.cavity[t] += backward
            out.cavity[t] -= log_sum(out.cavity[t])
    return -1


@kernel
def _log_backward(
    t: int,
    evidence: FloatArray,
    log_T: FloatArray,
    work: FloatArray,
    backward: FloatArray,
    out: ForwardBackwardBuffers,
) -> None:
    """Turn the backward message of row t + 1 into that of row t, and add the expected transition t → t + 1."""
    K = log_T.shape[0]
    weighted = evidence[t + 1] + backward
    for i in range(K):
        for j in range(K):
            work[j] = log_T[i, j] + weighted[j]
        backward[i] = log_sum(work)
    for i in range(K):
        work[i] = out.filtered[t, i] + backward[i]
    norm = log_sum(work)
    for i in range(K):
        for j in range(K):
            out.transitions[i, j] += math.exp(out.filtered[t, i] + log_T[i, j] + weighted[j] - norm)
    backward -= log_sum(backward)


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
    evidence: FloatArray,
    log_T: FloatArray,
    log_initial: FloatArray,
    ends: tuple[FloatArray, int],
    starts: IntArray,
    path: IntArray,
) -> tuple[float, bool]:
    """Compute the most probable path by the Viterbi algorithm (Rabiner 1989, eqs. 33 to 35).

    Rabiner's back pointers ψ are not stored: the argument of each maximum is found again on the way back, K sums a row.

    Parameters
    ----------
    evidence, log_T, log_initial, starts
        As in `log_passes`.
    ends : tuple of ndarray of float64, shape (K,), and int
        The log probability of the best path into each class of the first row, and the class of the last row, which rows
        after it have determined: `log_initial` and -1, if no rows lie before and after.
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
            delta[first, j] = (ends[0][j] if s == 0 else log_initial[j]) + evidence[first, j]
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
        following = _best_class(delta[end - 1, :K], ends[1] if s == starts.shape[0] - 2 else -1)
        top = delta[end - 1, following]
        if top == -np.inf:
            path[0] = _first_impossible_row(delta[:, :K], first)
            return float(top), check == 0.0
        log_joint, path[end - 1] = log_joint + top, following
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
def _best_class(scores: FloatArray, determined: int) -> int:
    """Return the first class of the best score (K,), or the class that is determined, if it is not -1."""
    best = max(determined, 0)
    for j in range(scores.shape[0]):
        if determined < 0 and scores[j] > scores[best]:
            best = j
    return best


@kernel
def _first_impossible_row(delta: FloatArray, first: int) -> int:
    """Return the first row from `first` on in which no class is possible, by default the last one."""
    t = first
    while t < delta.shape[0] - 1 and delta[t].max() > -np.inf:
        t += 1
    return t
