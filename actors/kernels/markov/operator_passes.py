"""Compiled passes that summarise rows of a hidden Markov model as operators between distributions over classes.

An operator is stored as `log_operator` (M, K), whose rows are log-distributions of the last row's class, and as
`log_weight` (M,), log densities of the rows given each of M conditions, relative to the largest: see `operators.py`.
The fast pass works in the linear domain. Sums there are exact up to rounding unless they are as small as :data:`SAFE`;
then they are zero by construction (impossible transitions), or the logarithms are summed instead.
"""

from __future__ import annotations

import math

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.markov.recursions import log_sum
from actors.kernels.types import FloatArray, IntArray

SAFE = 1e-290
"""Smallest sum of products of probabilities that terms lost to underflow (below 1e-308 each) cannot have changed."""
UNREMARKABLE = 1e-100
"""If no sum is smaller, none is looked at: the next product, with transitions above 1e-190, stays above SAFE."""
RESCALE = 1e-50
"""A row of an operator is scaled to sum one when its sum falls below."""
FORGOTTEN = 1e-14
"""The rows of an operator are the same if their distributions differ by no larger share of any probability."""
FORGETS_EVERY = 16
"""Rows between two comparisons of the rows of an operator."""
NARROW = 24
"""Up to as many classes, products keep four sums in registers; beyond, they run along the rows of T."""


@kernel
def linear_operator(
    likelihood: FloatArray,
    shifted: FloatArray,
    T: FloatArray,
    rows: tuple[int, int, int],
    state: FloatArray,
    log_weight: FloatArray,
) -> bool:
    """Multiply `state` by (likelihood of a row, transition) for a range of rows, in the linear domain.

    As a chain forgets where it began, the rows of the product soon are the same distribution; then one is multiplied
    for all. No difference can grow again: a product with a nonnegative matrix does not increase the largest quotient of
    the ratios between the entries of two vectors (Birkhoff 1957, "Extensions of Jentzsch's theorem").

    Parameters
    ----------
    likelihood, shifted : ndarray of float64, shape (N, K)
        exp(shifted), and log evidence minus the largest of the row.
    T : ndarray of float64, shape (K, K)
        Transition matrix; its transpose for a backward message.
    rows : tuple of int
        First row, number of rows, and 1 or -1: the direction.
    state : ndarray of float64, shape (M, K)
        Receives the product; each of its rows is scaled by its own factor.
    log_weight : ndarray of float64, shape (M,)
        The logarithms of these factors are added to it, relative to the largest; -inf for a row that became zero.

    Returns
    -------
    bool
        False if underflow may have falsified the product.
    """
    M, K = state.shape
    first, count, direction = rows
    groups = (K + 3) // 4
    columns = _columns_in_fours(T, groups, 0.0)
    padded = np.zeros((M, 4 * groups))
    padded[:, :K] = state
    done = _multiply_rows(likelihood, shifted, T, columns, rows, padded, log_weight)
    if 0 <= done < count:
        source = _normalise_same(padded, log_weight)
        one, common = padded[source : source + 1].copy(), np.zeros(1)
        left = first + direction * done, count - done, direction
        done = _multiply_rows(likelihood, shifted, T, columns, left, one, common)
        for i in range(M):
            if log_weight[i] > -np.inf:
                padded[i] = one[0]
                log_weight[i] += common[0]
        subtract_largest(log_weight)
    state[:] = padded[:, :K]
    return done >= 0


@kernel
def _multiply_rows(
    likelihood: FloatArray,
    shifted: FloatArray,
    T: FloatArray,
    columns: FloatArray,
    rows: tuple[int, int, int],
    state: FloatArray,
    log_weight: FloatArray,
) -> int:
    """Multiply as `linear_operator`, until the rows of the product are the same distribution.

    `columns` is `_columns_in_fours` of T, and `state` has as many. Return the number of rows that were multiplied, -1
    if underflow may have falsified the product.
    """
    M, K = state.shape[0], T.shape[0]
    first, count, direction = rows
    current, weighted, following = state.copy(), np.zeros(state.shape), np.zeros(state.shape)
    lowest, done = np.empty(K), count
    for n in range(count):
        t = first + direction * n
        for i in range(M):
            for k in range(K):
                weighted[i, k] = current[i, k] * likelihood[t, k]
        if K <= NARROW:
            _narrow_product(weighted, columns, K, following)
        else:
            _wide_product(weighted, T, following)
        for j in range(K):
            lowest[j] = 1.0
        for i in range(M):
            for j in range(K):
                lowest[j] = following[i, j] if following[i, j] < lowest[j] else lowest[j]
        if lowest.min() < UNREMARKABLE and not _rescale(following, current, shifted[t], T, log_weight):
            return -1
        current, following = following, current
        if M > 1 and n % FORGETS_EVERY == FORGETS_EVERY - 1 and _are_same(current, K, log_weight):
            done = n + 1
            break
    state[:] = current
    return done


@kernel
def _are_same(state: FloatArray, K: int, log_weight: FloatArray) -> bool:
    """Return whether the rows of a product, but those of weight zero, are the same distribution."""
    source, total = -1, 0.0
    for i in range(state.shape[0]):
        if log_weight[i] == -np.inf:
            continue
        own = state[i].sum()
        if source < 0:
            source, total = i, own
        for j in range(K):
            expected = state[source, j] * (own / total)
            if not abs(state[i, j] - expected) <= FORGOTTEN * expected:
                return False
    return source >= 0


@kernel
def is_forgotten(state: FloatArray, log_weight: FloatArray) -> bool:
    """Return whether all rows of a product (M, K) are possible and the same distribution, each with its own factor."""
    return log_weight.min() > -np.inf and _are_same(state, state.shape[1], log_weight)


@kernel
def have_met(scores: FloatArray) -> bool:
    """Return whether the rows of scores (M, K) of best paths differ by a constant each, up to rounding."""
    M, K = scores.shape
    for i in range(1, M):
        lowest, largest, size = np.inf, -np.inf, 0.0
        for j in range(K):
            difference = scores[i, j] - scores[0, j]
            if not abs(difference) < np.inf:
                return False
            lowest, largest = min(lowest, difference), max(largest, difference)
            size = max(size, abs(scores[i, j]), abs(scores[0, j]))
        if largest - lowest > FORGOTTEN * size:
            return False
    return True


@kernel
def _normalise_same(state: FloatArray, log_weight: FloatArray) -> int:
    """Scale the rows of a product to sum one, their weights with them; return the first row of weight above zero."""
    source = -1
    for i in range(state.shape[0]):
        if log_weight[i] > -np.inf:
            source = i if source < 0 else source
            total = state[i].sum()
            state[i] /= total
            log_weight[i] += math.log(total)
    return source


@kernel
def _columns_in_fours(T: FloatArray, groups: int, fill: float) -> FloatArray:
    """Return the columns of a matrix in groups of four, (groups, K, 4), with columns of `fill` at the end."""
    K = T.shape[0]
    columns = np.full((groups, K, 4), fill)
    for i in range(K):
        for j in range(K):
            columns[j // 4, i, j % 4] = T[i, j]
    return columns


@kernel
def _narrow_product(weighted: FloatArray, columns: FloatArray, K: int, out: FloatArray) -> None:
    """Compute weighted · T four columns at a time, whose sums stay in registers."""
    for group in range(columns.shape[0]):
        column, j = columns[group], 4 * group
        for i in range(weighted.shape[0]):
            sum0 = sum1 = sum2 = sum3 = 0.0
            for k in range(K):
                weight = weighted[i, k]
                sum0 += weight * column[k, 0]
                sum1 += weight * column[k, 1]
                sum2 += weight * column[k, 2]
                sum3 += weight * column[k, 3]
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = sum0, sum1, sum2, sum3


@kernel
def _wide_product(weighted: FloatArray, T: FloatArray, out: FloatArray) -> None:
    """Compute weighted · T along the rows of T."""
    K = T.shape[0]
    for i in range(weighted.shape[0]):
        for j in range(K):
            out[i, j] = 0.0
        for k in range(K):
            weight = weighted[i, k]
            for j in range(K):
                out[i, j] += weight * T[k, j]


@kernel
def _rescale(
    following: FloatArray, current: FloatArray, shifted: FloatArray, T: FloatArray, log_weight: FloatArray
) -> bool:
    """Scale the rows of a product if one has become small; return False if underflow may have falsified a row.

    A sum below SAFE is right if it is zero by construction: each of its terms has a transition, a class or an evidence
    of probability zero.
    """
    K = T.shape[0]
    smallest = 1.0
    for i in range(following.shape[0]):
        if log_weight[i] == -np.inf:
            continue
        total = 0.0
        for j in range(K):
            total += following[i, j]
            if following[i, j] < SAFE:
                for k in range(K):
                    if T[k, j] > 0.0 and current[i, k] > 0.0 and shifted[k] > -np.inf:
                        return False
        if total == 0.0:
            log_weight[i] = -np.inf
        else:
            smallest = min(smallest, total)
    if smallest < RESCALE:
        for i in range(following.shape[0]):
            if log_weight[i] > -np.inf:
                total = 0.0
                for j in range(K):
                    total += following[i, j]
                for j in range(K):
                    following[i, j] /= total
                log_weight[i] += math.log(total)
        subtract_largest(log_weight)
    return True


@kernel
def logarithmic_operator(
    shifted: FloatArray, log_T: FloatArray, rows: tuple[int, int, int], state: FloatArray, log_weight: FloatArray
) -> None:
    """Do as `linear_operator`, `state` and `log_T` being logarithms: slower, but without underflow."""
    M, K = state.shape
    first, count, direction = rows
    weighted, linear = np.empty((M, K)), np.exp(log_T)
    for n in range(count):
        t = first + direction * n
        for i in range(M):
            for k in range(K):
                weighted[i, k] = state[i, k] + shifted[t, k]
        log_product(weighted, log_T, linear, state)
        for i in range(M):
            largest = state[i].max()
            log_weight[i] += largest
            if largest > -np.inf:
                for j in range(K):
                    state[i, j] -= largest
        subtract_largest(log_weight)


@kernel
def log_product(left: FloatArray, right: FloatArray, linear_right: FloatArray, out: FloatArray) -> None:
    """Compute log(exp(left) · exp(right)), each entry exact up to rounding.

    Parameters
    ----------
    left, right : ndarray of float64, shapes (M, K), (K, J)
        Logarithms; `right` is not above 0.
    linear_right : ndarray of float64, shape (K, J)
        exp(right).
    out : ndarray of float64, shape (M, J)
        Receives the logarithms of the product.
    """
    M, K = left.shape
    J = right.shape[1]
    sums, terms = np.empty(J), np.empty(K)
    for i in range(M):
        largest = left[i].max()
        sums[:] = 0.0
        if largest > -np.inf:
            for k in range(K):
                weight = math.exp(left[i, k] - largest)
                for j in range(J):
                    sums[j] += weight * linear_right[k, j]
        for j in range(J):
            if sums[j] >= SAFE:
                out[i, j] = largest + math.log(sums[j])
            else:
                for k in range(K):
                    terms[k] = left[i, k] + right[k, j]
                out[i, j] = log_sum(terms)


@kernel
def normalise_rows(logs: FloatArray, log_weight: FloatArray) -> None:
    """Subtract from each row the logarithm of its sum, and add it to the row's weight; then the largest weight is 0.

    A row of equal numbers becomes -log K in all its bits. A row of -inf stays, with the weight -inf.
    """
    for i in range(logs.shape[0]):
        largest = logs[i].max()
        log_weight[i] += largest
        if largest > -np.inf:
            for j in range(logs.shape[1]):
                logs[i, j] -= largest
            total = log_sum(logs[i])
            log_weight[i] += total
            for j in range(logs.shape[1]):
                logs[i, j] -= total
    subtract_largest(log_weight)


@kernel
def subtract_largest(logs: FloatArray) -> None:
    """Subtract the largest of some logarithms from all of them, unless all are -inf."""
    largest = logs.max()
    if largest > -np.inf:
        for i in range(logs.shape[0]):
            logs[i] -= largest


@kernel
def best_operator(shifted: FloatArray, log_T: FloatArray, rows: tuple[int, int, int], state: FloatArray) -> None:
    """Multiply `state` by (log evidence of a row, log transition) for a range of rows, with maxima in place of sums.

    Parameters
    ----------
    shifted, log_T, rows
        As in `logarithmic_operator`.
    state : ndarray of float64, shape (M, K)
        Receives the log probability of the most probable path to each class.
    """
    M, K = state.shape
    first, count, direction = rows
    width = (K + 3) // 4 * 4
    columns = _columns_in_fours(log_T, width // 4, -np.inf)
    weighted, following = np.empty((M, K)), np.empty((M, width))
    following[:, :K] = state
    for n in range(count):
        t = first + direction * n
        for i in range(M):
            for k in range(K):
                weighted[i, k] = following[i, k] + shifted[t, k]
        if K <= NARROW:
            _narrow_best(weighted, columns, following)
        else:
            _wide_best(weighted, log_T, following)
    state[:] = following[:, :K]


@kernel
def best_product(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return max_k left[i, k] + right[k, j], relative to the largest of all."""
    K = right.shape[0]
    width = (K + 3) // 4 * 4
    out = np.empty((left.shape[0], width))
    _narrow_best(left, _columns_in_fours(right, width // 4, -np.inf), out)
    best = out[:, :K].copy()
    largest = best.max()
    return best - largest if largest > -np.inf else best


@kernel
def _wide_best(weighted: FloatArray, log_T: FloatArray, out: FloatArray) -> None:
    """Compute max_k weighted[i, k] + log_T[k, j] along the rows of log_T."""
    K = log_T.shape[0]
    for i in range(weighted.shape[0]):
        for j in range(K):
            out[i, j] = -np.inf
        for k in range(K):
            weight = weighted[i, k]
            for j in range(K):
                value = weight + log_T[k, j]
                out[i, j] = value if value > out[i, j] else out[i, j]


@kernel
def _narrow_best(weighted: FloatArray, columns: FloatArray, out: FloatArray) -> None:
    """Compute max_k weighted[i, k] + columns[k, j] four columns at a time, whose maxima stay in registers."""
    for group in range(columns.shape[0]):
        column, j = columns[group], 4 * group
        for i in range(weighted.shape[0]):
            top0 = top1 = top2 = top3 = -np.inf
            for k in range(weighted.shape[1]):
                weight = weighted[i, k]
                value0, value1 = weight + column[k, 0], weight + column[k, 1]
                value2, value3 = weight + column[k, 2], weight + column[k, 3]
                # A conditional expression is one instruction; max() or if would be a branch or a call.
                top0 = value0 if value0 > top0 else top0
                top1 = value1 if value1 > top1 else top1
                top2 = value2 if value2 > top2 else top2
                top3 = value3 if value3 > top3 else top3
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = top0, top1, top2, top3


@kernel
def origins_of_best_paths(evidence: FloatArray, log_T: FloatArray, origins: IntArray, stops: bool) -> int:
    """Find, for each class of the last row, the class of the first row on the most probable path to it.

    The sums and the choice among equal ones are those of `recursions.best_path`.

    Parameters
    ----------
    evidence : ndarray of float64, shape (N, K)
        Log evidence of one sequence; that of the first row includes the log probability of its class.
    log_T : ndarray of float64, shape (K, K)
        Log transition matrix.
    origins : ndarray of int64, shape (K,)
        Receives the classes of the first row; 0 for a class that no path reaches.
    stops : bool
        Whether to stop where all paths come from the same class, since all later ones do. Rows after that must be
        possible.

    Returns
    -------
    int
        The most probable class of the last row, the lowest of equally probable ones, or 0 if all paths come from the
        same class; -t if row t has probability zero.
    """
    N, K = evidence.shape
    scores, following = evidence[0].copy(), np.empty(K)
    new_origins = np.empty(K, np.int64)
    for i in range(K):
        origins[i] = i
    for t in range(1, N):
        for j in range(K):
            top, at = -np.inf, 0
            for i in range(K):
                value = scores[i] + log_T[i, j]
                above = value > top
                top = value if above else top
                at = i if above else at
            following[j] = top + evidence[t, j]
            new_origins[j] = origins[at]
        if following.max() == -np.inf:
            return -t
        scores[:] = following
        origins[:] = new_origins
        if stops and t % FORGETS_EVERY == 0 and origins.min() == origins.max():
            return 0
    top, best = -np.inf, 0
    for j in range(K):
        if scores[j] > top:
            top, best = scores[j], j
    return best
