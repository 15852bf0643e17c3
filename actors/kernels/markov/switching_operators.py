"""Chains with regimes over rows that are cut into chunks, where sequences cross chunks.

Given the priors π_t of the regimes, the classes are a Markov chain whose transition matrix changes from row to row,
Σ_r π_t(r) A^r. A chunk of rows is thus a linear map of the distribution of the class before it to that of its last row,
as in :mod:`actors.kernels.markov.operators`, which has the format of summaries and messages, their source, and the
functions that compose them (`combine`, `descend`). Regimes of single rows are no part of the map, so that its size is
that of the classes alone.
"""

from __future__ import annotations

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.markov import operators
from actors.kernels.markov.inference import check_possible, logarithm
from actors.kernels.markov.operator_passes import distribution_of, normalise_rows
from actors.kernels.markov.switching import SwitchingResult, run_switching_passes
from actors.kernels.types import FloatArray, IntArray

FORGOTTEN = 1e-14
"""The rows of a map are the same if their distributions differ by no larger share of any probability."""

FORGETS_EVERY = 16
"""Rows between two comparisons of the rows of a map."""


def summarise_switching(
    evidence: FloatArray,
    starts: IntArray,
    matrices: FloatArray,
    prior: FloatArray,
    initial: FloatArray,
    continued: bool,
) -> dict[str, FloatArray]:
    """Return a chunk as a map of the distribution of the class before it to that of its last row.

    Parameters
    ----------
    evidence, starts, matrices, prior, initial
        As in :func:`actors.kernels.markov.switching.run_switching_passes`.
    continued : bool
        Whether the first row continues a sequence of the chunk before.

    Returns
    -------
    dict
        `log_operator` (K, K) and `log_weight` (K,), as of :func:`actors.kernels.markov.operators.summarise_chunk`.

    Raises
    ------
    ValueError
        If a row has no possible class.
    """
    check_possible(evidence)
    K, last = initial.size, int(starts[-2])
    likelihood = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    opens = not continued or starts.size > 2
    weight = np.zeros(K)
    if opens:
        state = (initial * likelihood[last])[None, :]
        multiply_mixed(likelihood, matrices, prior, (last + 1, len(evidence)), state, np.zeros(1))
        if continued:
            weight = logarithm(weights_before(likelihood, matrices, prior, int(starts[1])))
    else:
        state = np.eye(K)
        multiply_mixed(likelihood, matrices, prior, (0, len(evidence)), state, weight)
    operator = logarithm(state)
    normalise_rows(operator, np.zeros(len(operator)))
    operator = np.repeat(operator, K, axis=0) if opens else operator
    largest = weight.max()
    return {"log_operator": operator, "log_weight": weight - largest if largest > -np.inf else weight}


def switching_chunk(
    evidence: FloatArray,
    starts: IntArray,
    matrices: FloatArray,
    prior: FloatArray,
    initial: FloatArray,
    entering: FloatArray | None = None,
    leaving: FloatArray | None = None,
) -> SwitchingResult:
    """Return the results of the rows of a chunk, given all rows of their sequences.

    The sums over all chunks are those of all rows. Where no sequence crosses the ends of the chunk, the result is
    bit-identical to :func:`actors.kernels.markov.switching.switching_forward_backward`.

    Parameters
    ----------
    evidence, starts, matrices, prior, initial
        As in :func:`actors.kernels.markov.switching.run_switching_passes`.
    entering, leaving : ndarray of float64, shape (K,), optional
        Log-distributions of :func:`actors.kernels.markov.operators.descend`; None where no sequence crosses this end.

    Raises
    ------
    ValueError
        If a row is impossible; rows are numbered from the first of the chunk.
    """
    ends = (None if each is None else _distribution(each) for each in (entering, leaving))
    return run_switching_passes(evidence, starts, matrices, prior, initial, *ends)


def _distribution(logs: FloatArray) -> FloatArray:
    """Return a distribution (K,); uniform where rows of another chunk are impossible, whose own error names them."""
    linear = np.empty(logs.size)
    largest = distribution_of(np.ascontiguousarray(logs, np.float64), linear)
    return linear if -np.inf < largest < np.inf else np.full(logs.size, 1.0 / logs.size)


@kernel
def multiply_mixed(
    likelihood: FloatArray,
    matrices: FloatArray,
    prior: FloatArray,
    rows: tuple[int, int],
    state: FloatArray,
    log_weight: FloatArray,
) -> None:
    """Multiply `state` (M, K) by the mixed transitions and the likelihoods of rows from one to before another.

    Each of its rows is scaled to sum one, and the logarithm of its factor added to `log_weight` (M,); -inf for a row
    that became zero. As a chain forgets where it began, the rows soon are the same distribution: then one is multiplied
    for all, and the weights, which then have a common factor, stay (:mod:`actors.kernels.markov.operator_passes`).
    """
    (M, K), R = state.shape, matrices.shape[0]
    mixed, following, several = np.empty((K, K)), np.empty(K), M > 1
    for t in range(rows[0], rows[1]):
        mixed[:] = 0.0
        for r in range(R):
            for i in range(K):
                for j in range(K):
                    mixed[i, j] += prior[t, r] * matrices[r, i, j]
        for m in range(M if several else 1):
            following[:] = 0.0
            for i in range(K):
                for j in range(K):
                    following[j] += state[m, i] * mixed[i, j]
            total = 0.0
            for j in range(K):
                following[j] *= likelihood[t, j]
                total += following[j]
            for j in range(K):
                state[m, j] = following[j] / total if total > 0.0 else 1.0 / K
            if several:
                log_weight[m] += np.log(total) if total > 0.0 else -np.inf
        if several and (t - rows[0]) % FORGETS_EVERY == FORGETS_EVERY - 1:
            several = not _are_same(state)
    if M > 1 and not several:
        for m in range(1, M):
            state[m] = state[0]


@kernel
def _are_same(state: FloatArray) -> bool:
    """Return whether all rows, which sum to one, are the same distribution."""
    for m in range(1, state.shape[0]):
        for j in range(state.shape[1]):
            if not abs(state[m, j] - state[0, j]) <= FORGOTTEN * state[0, j]:
                return False
    return True


@kernel
def weights_before(likelihood: FloatArray, matrices: FloatArray, prior: FloatArray, end: int) -> FloatArray:
    """Return p(rows 0 to end - 1 | class of the row before them), (K,), relative to the largest; 0 if it is zero."""
    K, R = likelihood.shape[1], matrices.shape[0]
    backward, before = np.ones(K), np.empty(K)
    for t in range(end - 1, -1, -1):
        before[:] = 0.0
        for r in range(R):
            for i in range(K):
                for j in range(K):
                    before[i] += prior[t, r] * matrices[r, i, j] * likelihood[t, j] * backward[j]
        largest = before.max()
        for i in range(K):
            backward[i] = before[i] / largest if largest > 0.0 else 0.0
    return backward


def compile_kernels() -> None:
    """Compile the kernels that this module calls, or load them from the cache."""
    evidence, half = np.zeros((2, 2)), np.full((2, 2), 0.5)
    model = np.full((2, 2, 2), 0.5), half, half[0]
    chunk = summarise_switching(evidence, np.array([0, 2]), *model, True)
    summarise_switching(evidence, np.array([0, 1, 2]), *model, True)
    none = operators.no_message(2)
    operators.descend(none, none, chunk, operators.combine(chunk, chunk))
    switching_chunk(evidence, np.array([0, 2]), *model, none, none)
