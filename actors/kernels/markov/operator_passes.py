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
from actors.kernels.lanes import LANES, larger, load, load_first, smaller, spread, store
from actors.kernels.markov.recursions import in_groups, log_sum, product_with
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
        exp(shifted), and log evidence minus the largest of the row. With the likelihood in the place of `shifted`, a
        likelihood of 0 is taken for one that may not be 0: more products count as falsified.
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
    groups = in_groups(T, False, 0.0)
    padded = np.zeros((M, groups.shape[0] * LANES))
    padded[:, :K] = state
    done = _multiply_rows(likelihood, shifted, T, groups, rows, padded, log_weight)
    if 0 <= done < count:
        source = _normalise_same(padded, log_weight)
        one, common = padded[source : source + 1].copy(), np.zeros(1)
        left = first + direction * done, count - done, direction
        done = _multiply_rows(likelihood, shifted, T, groups, left, one, common)
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
    groups: FloatArray,
    rows: tuple[int, int, int],
    state: FloatArray,
    log_weight: FloatArray,
) -> int:
    """Multiply as `linear_operator`, until the rows of the product are the same distribution.

    `groups` is `in_groups` of T, and `state` has as many columns, zero beyond K. Return the number of rows that were
    multiplied, -1 if underflow may have falsified the product.
    """
    (M, width), K = state.shape, T.shape[0]
    first, count, direction = rows
    current, following, weighted = state.copy(), np.zeros((M, width)), np.zeros(M * width)
    beyond, least, done = np.zeros(width), np.empty(LANES), count
    beyond[K:] = 1.0
    for n in range(count):
        t = first + direction * n
        for j in range(0, width, LANES):
            values = load_first(likelihood, t * K + j, K - j)
            for at in range(j, M * width, width):
                store(weighted, at, load(current, at) * values)
        lowest = spread(1.0)
        for j in range(0, width, LANES):
            for at in range(0, M * width, width):
                sums = product_with(weighted, at, groups, j)
                store(following, at + j, sums)
                lowest = smaller(sums + load(beyond, j), lowest)
        store(least, 0, lowest)
        if least.min() < UNREMARKABLE and not _rescale(following, current, shifted[t], T, log_weight):
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
        if i > 0 and _are_equal(left[i], left[i - 1]):  # the rows of most operators are
            out[i] = out[i - 1]
            continue
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
def _are_equal(left: FloatArray, right: FloatArray) -> bool:
    """Return whether two arrays have the same numbers."""
    equal = True
    for k in range(left.shape[0]):
        equal = equal and left[k] == right[k]
    return equal


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
def composed(
    left: FloatArray, log_weight: FloatArray, right: FloatArray, right_weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return operator and log weights of two neighbouring stretches together, from those of each."""
    weighted = right_weight.reshape(-1, 1) + right
    operator, weight = np.empty(left.shape), log_weight.copy()
    log_product(left, weighted, np.exp(weighted), operator)
    normalise_rows(operator, weight)
    return operator, weight


@kernel
def divided(
    ends: tuple[FloatArray, FloatArray],
    left: FloatArray,
    left_weight: FloatArray,
    right: FloatArray,
    right_weight: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Return what enters the right one of two neighbouring stretches, and what leaves the left one."""
    zeros = np.zeros(left_weight.shape)
    into_right = _passed_through(ends[0], left_weight.reshape(-1, 1) + left, zeros)
    return into_right, _passed_through(ends[1], right.T.copy(), right_weight)


@kernel
def _passed_through(message: FloatArray, operator: FloatArray, log_weight: FloatArray) -> FloatArray:
    """Return the log-distribution log(weight · exp(message) · exp(operator)), normalised."""
    out = np.empty((1, message.shape[0]))
    log_product(message.reshape(1, -1), operator, np.exp(operator), out)
    out += log_weight
    normalise_rows(out, np.zeros(1))
    return out.reshape(-1)


@kernel
def distribution_of(logs: FloatArray, out: FloatArray) -> float:
    """Fill in the distribution (K,) of some logarithms, and return the largest of these; nothing if it is not finite.

    Equal logarithms give 1 / K in all bits.
    """
    largest, total = -np.inf, 0.0
    for k in range(logs.shape[0]):
        if math.isnan(logs[k]):
            return math.nan
        largest = max(largest, logs[k])
    if abs(largest) < np.inf:
        for k in range(logs.shape[0]):
            out[k] = math.exp(logs[k] - largest)
            total += out[k]
        for k in range(logs.shape[0]):
            out[k] /= total
    return largest


@kernel
def product_of_ends(
    early: tuple[FloatArray, FloatArray],
    late: tuple[FloatArray, FloatArray],
    T: FloatArray,
    rows: tuple[int, int, int],
    start: FloatArray,
    log_weight: FloatArray,
) -> tuple[bool, FloatArray]:
    """Multiply `start` by the rows that come first, and the transitions by those that come last.

    Parameters
    ----------
    early, late : tuple of two ndarrays of float64, shape (n, K)
        `likelihood` and `shifted` of :func:`linear_operator`, of the first and of the last rows of the product.
    T, rows
        As in `linear_operator`, for both.
    start : ndarray of float64, shape (M, K)
        One row needs no early rows: its weight is 0.
    log_weight : ndarray of float64, shape (M,)
        Zeros; receives the weights that `start` has after the early rows.

    Returns
    -------
    bool, ndarray of float64, shape (1, K)
        Whether the rows of both products are possible and the same distribution each; and the logarithm of the latter,
        up to a constant.
    """
    state, last = start.copy(), T.copy()
    if start.shape[0] > 1 and not _forgets(early, T, rows, state, log_weight):
        return False, last
    if not _forgets(late, T, rows, last, np.zeros(T.shape[0])):
        return False, last
    for i in range(start.shape[0]):
        log_weight[i] += math.log(state[i].sum())
    subtract_largest(log_weight)
    return True, np.log(last[:1])


@kernel
def _forgets(
    given: tuple[FloatArray, FloatArray],
    T: FloatArray,
    rows: tuple[int, int, int],
    state: FloatArray,
    log_weight: FloatArray,
) -> bool:
    """Multiply as `linear_operator`; return whether all rows of the product are possible and the same distribution."""
    if not linear_operator(given[0], given[1], T, rows, state, log_weight):
        return False
    return log_weight.min() > -np.inf and _are_same(state, state.shape[1], log_weight)


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
    groups = in_groups(log_T, False, -np.inf)
    width = groups.shape[0] * LANES
    scores, weighted = np.full((M, width), -np.inf), np.full(M * width, -np.inf)
    scores[:, :K] = state
    for n in range(count):
        t = first + direction * n
        for j in range(0, width, LANES):
            values = load_first(shifted, t * K + j, K - j)
            for at in range(j, M * width, width):
                store(weighted, at, load(scores, at) + values)
        _best_of_each(weighted, groups, scores)
    state[:] = scores[:, :K]


@kernel
def best_product(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return max_k left[i, k] + right[k, j], relative to the largest of all."""
    M, K = left.shape
    groups = in_groups(right, False, -np.inf)
    padded = np.full((M, groups.shape[0] * LANES), -np.inf)
    padded[:, :K] = left
    out = np.empty(padded.shape)
    _best_of_each(padded.reshape(-1), groups, out)
    best = out[:, :K].copy()
    largest = best.max()
    return best - largest if largest > -np.inf else best


@kernel
def _best_of_each(weighted: FloatArray, groups: FloatArray, out: FloatArray) -> None:
    """Compute max_k weighted[i, k] + right[k, j] of the matrix in `groups`, eight columns at once.

    `weighted` is flat and -inf beyond the classes; even and odd classes do not wait for each other.
    """
    M, width = out.shape
    rows = groups.shape[1]
    for at in range(0, M * width, width):
        for j in range(0, width, LANES):
            even, odd, column = spread(-np.inf), spread(-np.inf), j * rows
            for k in range(0, rows, 2):
                even = larger(spread(weighted[at + k]) + load(groups, column + LANES * k), even)
                odd = larger(spread(weighted[at + k + 1]) + load(groups, column + LANES * (k + 1)), odd)
            store(out, at + j, larger(even, odd))


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
