"""Exact inference in hidden Markov models over rows that are cut into chunks, where sequences cross chunks.

A chunk, or any stretch of consecutive chunks, is a linear map of the distribution of the class of the row before it to
that of its last row. `summarise_chunk` computes the map of a chunk, `combine` composes those of two neighbours,
`descend` takes what enters and what leaves a stretch to its halves, and `forward_backward_chunk` computes the results
of the rows of a chunk from what enters and leaves it. Along a fixed binary tree over the chunks, all results are the
same bits wherever the functions are called. `summarise_scores`, `combine_scores`, `descend_scores`, `trace_chunk`,
`compose_origins` and `viterbi_chunk` do the same for the most probable path, with maxima in place of sums.

Messages between stretches are log-distributions (K,): the one that *enters* is that of the class of the row before,
given all rows of its sequence up to it; the one that *leaves* is p(rows after the last row | its class), normalised as
if it were a distribution. What enters a stretch whose first row opens a sequence is ignored: any log-distribution does.
What leaves a stretch whose last row ends a sequence is uniform; `descend` sees to it inside a tree. At the ends of all
rows, `no_message` enters and leaves.

Source of the associative products: S. Särkkä and A. F. García-Fernández, "Temporal parallelization of Bayesian
smoothers", IEEE Transactions on Automatic Control 66, 2021, which S. Hassan, S. Särkkä and A. F. García-Fernández,
"Temporal parallelization of inference in hidden Markov models", IEEE Transactions on Signal Processing 69, 2021, apply
to discrete states (sums and maxima). Kept with each row of a product is its own scale, so that none underflows.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input
from actors.kernels.markov.inference import (
    ForwardBackwardResult,
    SequenceEnds,
    check_evidence,
    check_initial,
    check_transitions,
    impossible_row,
    logarithm,
    prepare,
    run_passes,
)
from actors.kernels.markov.operator_passes import (
    best_operator,
    best_product,
    have_met,
    is_forgotten,
    linear_operator,
    log_product,
    logarithmic_operator,
    normalise_rows,
    origins_of_best_paths,
)
from actors.kernels.markov.recursions import best_path, relative_rows
from actors.kernels.types import FloatArray, IntArray

WINDOWS = (64, 256)
"""Numbers of rows at each end of a stretch from which its operator is computed, if its chain forgets that fast."""


class _Chunk(NamedTuple):
    """The validated rows of a chunk and the model."""

    evidence: FloatArray
    starts: IntArray
    T: FloatArray
    initial: FloatArray
    continued: bool

    @property
    def opens(self) -> bool:
        """Return whether a sequence begins in the chunk."""
        return not self.continued or self.starts.size > 2

    @property
    def first_piece(self) -> tuple[FloatArray, tuple[int, int, int]]:
        """Return the log evidence of the first piece of a sequence, and its rows from the last to the first."""
        rows = int(self.starts[1])
        return self.evidence[:rows], (rows - 1, rows, -1)

    @property
    def last_piece(self) -> tuple[FloatArray, tuple[int, int, int]]:
        """Return the log evidence of the last piece of a sequence, and its rows but the last."""
        first = int(self.starts[-2])
        return self.evidence[first:], (0, int(self.starts[-1]) - first - 1, 1)


def _shifted(evidence: FloatArray) -> FloatArray:
    """Return the log evidence relative to the largest of each row; common factors do not change an operator."""
    shifted = np.empty_like(evidence)
    relative_rows(evidence, shifted, np.empty(len(evidence)))
    return shifted


def _chunk(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None,
    continued: bool,
    mask: ArrayLike | None,
) -> _Chunk:
    """Return the validated arguments of a function of a chunk."""
    evidence, starts = check_evidence(log_evidence, lengths, mask)
    K = evidence.shape[1]
    return _Chunk(evidence, starts, check_transitions(T, K), check_initial(initial, K), continued)


def no_message(classes: int) -> FloatArray:
    """Return the log-distribution that enters or leaves where no row of the same sequence is, (K,): uniform."""
    return np.full(classes, -math.log(classes))


def summarise_chunk(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    continued: bool = False,
    mask: ArrayLike | None = None,
) -> dict[str, FloatArray]:
    """Return a chunk as a map of the distribution of the class before it to that of its last row.

    With the class i of the row before the chunk, the map is the row i of `log_operator`, a log-distribution of the
    class of the last row, and `log_weight[i]`, the log density of the rows, relative to the most probable i. Only rows
    up to the end of i's sequence have a part in the weight, and only rows from the last beginning of a sequence on in
    the operator: if a sequence begins in the chunk, all rows of the operator are the same, the filtered distribution,
    and the weights are the backward message; if its first row begins one, all weights are 0. A class i after which the
    rows are impossible has the weight -inf.

    Parameters
    ----------
    log_evidence, T, initial, mask
        As in `forward_backward`, of the rows of the chunk.
    lengths : array_like of int, shape (S,), optional
        Lengths of the pieces of sequences inside the chunk; None is one piece.
    continued : bool
        Whether the first row continues a sequence of the chunk before.

    Returns
    -------
    dict
        `log_operator` (K, K) and `log_weight` (K,), float64.

    Raises
    ------
    ValueError
        As `forward_backward`, but not for rows that are impossible given others.
    """
    chunk = _chunk(log_evidence, T, initial, lengths, continued, mask)
    K = chunk.T.shape[0]
    evidence, last = chunk.last_piece
    if not chunk.opens:
        operator, weight = _run(evidence, chunk.T, last, chunk.T)
        operator += _shifted(evidence[-1:])
        normalise_rows(operator, weight)
        return {"log_operator": operator, "log_weight": weight}
    forward, _ = _run(evidence, chunk.T, last, chunk.initial[None, :])
    forward += _shifted(evidence[-1:])
    normalise_rows(forward, np.zeros(1))
    weight = np.zeros((1, K))
    if continued:
        evidence, first = chunk.first_piece
        weight, _ = _run(evidence, np.ascontiguousarray(chunk.T.T), first, np.ones((1, K)))
        weight -= _largest(weight)
    return {"log_operator": np.repeat(forward, K, axis=0), "log_weight": weight[0]}


def _run(
    evidence: FloatArray, T: FloatArray, rows: tuple[int, int, int], start: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the logarithms of the product of `start` (M, K) with evidence and transitions of rows, and log weights."""
    if T.min() > 0.0:  # so that nothing is impossible, and rows that are left out cannot change that
        for window in WINDOWS:
            found = _run_ends(evidence, T, rows, start, window)
            if found is not None:
                return found
    shifted = _shifted(evidence)
    state, weight = start.copy(), np.zeros(start.shape[0])
    if linear_operator(np.exp(shifted), shifted, T, rows, state, weight):
        return logarithm(state), weight
    logs, weight = logarithm(start), np.zeros(start.shape[0])
    logarithmic_operator(shifted, logarithm(T), rows, logs, weight)
    return logs, weight


def _run_ends(
    evidence: FloatArray, T: FloatArray, rows: tuple[int, int, int], start: FloatArray, window: int
) -> tuple[FloatArray, FloatArray] | None:
    """Return what `_run` returns from the first and the last rows alone; None if these are too few for it.

    After enough rows, the rows of a product are the same distribution, however different they began
    (:func:`linear_operator`): of each row of `start` is left its weight, which no later row can change. And whatever
    the distribution before the last rows, the one after them is the same, if it is for each class alone.
    """
    M, K = start.shape
    first, count, direction = rows
    if count <= 2 * window * K:  # the product of all rows takes no longer, once its rows are the same
        return None
    state, weight = start.copy(), np.zeros(M)
    if M > 1 and not _forget(evidence, T, (first, window, direction), state, weight):
        return None
    last, unused = T.copy(), np.zeros(K)  # whatever the class of the row before them
    if not _forget(evidence, T, (first + direction * (count - window), window, direction), last, unused):
        return None
    weight += np.log(state.sum(axis=1))
    return np.repeat(np.log(last[:1]), M, axis=0), weight - weight.max()


def _forget(
    evidence: FloatArray, T: FloatArray, rows: tuple[int, int, int], state: FloatArray, weight: FloatArray
) -> bool:
    """Multiply as :func:`linear_operator`; return whether the rows of the product are the same distribution."""
    first, count, direction = rows
    lowest = first if direction > 0 else first - count + 1
    shifted = _shifted(evidence[lowest : lowest + count])
    inside = first - lowest, count, direction
    return bool(linear_operator(np.exp(shifted), shifted, T, inside, state, weight)) and is_forgotten(state, weight)


def combine(left: dict[str, FloatArray], right: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Return two neighbouring stretches of rows as one; associative up to rounding.

    Parameters
    ----------
    left, right : dict
        Of `summarise_chunk` or `combine`; `right` follows `left`.

    Returns
    -------
    dict
        As `summarise_chunk`.
    """
    operator, weight = np.empty_like(left["log_operator"]), np.array(left["log_weight"])
    weighted = right["log_weight"][:, None] + right["log_operator"]
    log_product(as_input(left["log_operator"]), weighted, np.exp(weighted), operator)
    normalise_rows(operator, weight)
    return {"log_operator": operator, "log_weight": weight}


def descend(
    entering: FloatArray, leaving: FloatArray, left: dict[str, FloatArray], right: dict[str, FloatArray]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return what enters and what leaves each of two neighbouring stretches of rows.

    Parameters
    ----------
    entering, leaving : ndarray of float64, shape (K,)
        Log-distributions that enter and leave both together; `no_message` at the ends of all rows.
    left, right : dict
        Of `summarise_chunk` or `combine`.

    Returns
    -------
    entering_left, leaving_left, entering_right, leaving_right : ndarray of float64, shape (K,)
        Log-distributions; all -inf if rows of the other stretch are impossible.
    """
    between = left["log_weight"][:, None] + left["log_operator"]
    entering_right = _multiply(as_input(entering), between, np.zeros_like(entering))
    backward = as_input(right["log_operator"].T)
    leaving_left = _multiply(as_input(leaving), backward, right["log_weight"])
    return entering, leaving_left, entering_right, leaving


def _multiply(message: FloatArray, operator: FloatArray, log_weight: FloatArray) -> FloatArray:
    """Return the log-distribution log(weight · exp(message) · exp(operator)), normalised."""
    out = np.empty((1, message.size))
    log_product(message[None, :], operator, np.exp(operator), out)
    out += log_weight
    normalise_rows(out, np.zeros(1))
    message = out.reshape(-1)
    return message


def forward_backward_chunk(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    entering: ArrayLike | None = None,
    leaving: ArrayLike | None = None,
    continued: bool = False,
) -> ForwardBackwardResult:
    """Return the results of `forward_backward` for the rows of a chunk, given all rows of their sequences.

    `transitions` includes the transition from the row before the chunk to its first row, not that from its last row;
    `initial` counts the sequences that begin in the chunk. So the sums over all chunks are those of all rows.

    Parameters
    ----------
    log_evidence, T, initial, lengths, continued, mask
        As in `summarise_chunk`.
    entering, leaving : array_like of float64, shape (K,), optional
        Log-distributions of `descend`. What enters is needed, and not ignored, if `continued`. None is `no_message`.

    Returns
    -------
    ForwardBackwardResult
        Bit-identical to `forward_backward` if no sequence crosses the ends of the chunk.

    Raises
    ------
    ValueError
        As `forward_backward`; if `continued` and nothing enters; if what enters or leaves is no log-distribution. Rows
        are numbered from the first of the chunk.
    OtherChunkError
        If the rows are possible, but rows before or after the chunk are not; the chunk of these raises ValueError.
    """
    chunk = _chunk(log_evidence, T, initial, lengths, continued, mask)
    rows, K = chunk.evidence.shape
    last = _message("leaves", leaving, K)
    if last.max() == -np.inf:
        # A row of this chunk may be impossible too; the first such row of a sequence is named.
        forward_backward_chunk(log_evidence, T, initial, lengths, mask, entering, None, continued)
        raise impossible_row(rows, rows)
    if not continued:
        ends = SequenceEnds(chunk.initial, _linear(last), logarithm(chunk.initial), last)
        return run_passes(prepare(chunk.evidence, chunk.starts), chunk.T, chunk.initial, ends)
    first = _entering(entering, K)
    # The row before the chunk is a row without evidence, whose class has the distribution that enters.
    evidence = np.concatenate([np.zeros((1, K)), chunk.evidence])
    starts = np.concatenate([[0], chunk.starts[1:] + 1])
    ends = SequenceEnds(_linear(first), _linear(last), first, last)
    result = run_passes(prepare(evidence, starts), chunk.T, chunk.initial, ends, 1)
    return dataclasses.replace(
        result,
        filtered=result.filtered[1:],
        posterior=result.posterior[1:],
        log_cavity=result.log_cavity[1:],
        initial=result.posterior[starts[1:-1]].sum(axis=0),
        row_log_likelihood=result.row_log_likelihood[1:],
        log_likelihood=float(result.row_log_likelihood[1:].sum()),
    )


def _message(name: str, message: ArrayLike | None, classes: int) -> FloatArray:
    """Return a validated log-distribution, its largest entry possibly not 0 and all -inf if rows are impossible."""
    if message is None:
        return no_message(classes)
    logs = as_input(message)
    if logs.shape != (classes,) or not logs.max() < np.inf:
        raise ValueError(f"what {name} must be logarithms of shape ({classes},), got {logs.tolist()}")
    return logs


def _entering(message: ArrayLike | None, classes: int) -> FloatArray:
    """Return what enters a chunk whose first row continues a sequence."""
    if message is None:
        raise ValueError("the first row continues a sequence, so what enters must be given")
    logs = _message("enters", message, classes)
    if logs.max() == -np.inf:
        raise impossible_row(-1, 0)
    return logs


def _linear(logs: FloatArray) -> FloatArray:
    """Return a distribution from its logarithms; equal ones give 1 / K in all bits."""
    values: FloatArray = np.exp(logs - logs.max())
    values /= values.sum()
    return values


def _largest(logs: FloatArray) -> float:
    """Return the largest of some logarithms, 0 if all are -inf."""
    largest = float(logs.max())
    return largest if largest > -np.inf else 0.0


def summarise_scores(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    continued: bool = False,
    mask: ArrayLike | None = None,
) -> dict[str, FloatArray]:
    """Return the log probabilities of the best paths through a chunk, from each class before it to each at its end.

    Parameters
    ----------
    log_evidence, T, initial, lengths, continued, mask
        As in `summarise_chunk`.

    Returns
    -------
    dict
        `log_scores` (K, K) float64: entry (i, j) is the log probability of the best path with class i in the row before
        the chunk and class j in its last row, up to a constant; only rows that i or j have a part in are included.

    Raises
    ------
    ValueError
        As `summarise_chunk`.
    """
    chunk = _chunk(log_evidence, T, initial, lengths, continued, mask)
    log_T = logarithm(chunk.T)
    evidence, last = chunk.last_piece
    scores = _run_best(evidence, log_T, last, logarithm(chunk.initial)[None, :] if chunk.opens else log_T)
    scores += _shifted(evidence[-1:])
    if chunk.opens and continued:
        evidence, first = chunk.first_piece
        before = _run_best(evidence, np.ascontiguousarray(log_T.T), first, np.zeros((1, log_T.shape[0])))
        scores = before.T + scores
    elif chunk.opens:
        scores = np.repeat(scores, log_T.shape[0], axis=0)
    return {"log_scores": scores - _largest(scores)}


def _run_best(evidence: FloatArray, log_T: FloatArray, rows: tuple[int, int, int], start: FloatArray) -> FloatArray:
    """Return the product of `start` (M, K) with evidence and transitions of rows, with maxima in place of sums.

    As in `_run`, the first and the last rows are enough for it if the best paths through them have met: each row of the
    product is then the same, up to a number of its own.
    """
    M = len(start)
    first, count, direction = rows
    windows = [window for window in WINDOWS if 2 * window < count] if log_T.min() > -np.inf else []
    for window in windows:
        scores, last = start.copy(), log_T.copy()
        _multiply_best(evidence, log_T, (first + direction * (count - window), window, direction), last)
        if M > 1:
            _multiply_best(evidence, log_T, (first, window, direction), scores)
        if have_met(last) and (M == 1 or have_met(scores)):
            return last[:1] + scores.max(axis=1, keepdims=True) if M > 1 else last[:1].copy()
    scores = start.copy()
    _multiply_best(evidence, log_T, rows, scores)
    return scores


def _multiply_best(evidence: FloatArray, log_T: FloatArray, rows: tuple[int, int, int], state: FloatArray) -> None:
    first, count, direction = rows
    lowest = first if direction > 0 else first - count + 1
    best_operator(_shifted(evidence[lowest : lowest + count]), log_T, (first - lowest, count, direction), state)


def combine_scores(left: dict[str, FloatArray], right: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Return the best paths through two neighbouring stretches of rows as those of one; see `combine`."""
    return {"log_scores": best_product(as_input(left["log_scores"]), as_input(right["log_scores"]))}


def descend_scores(entering: FloatArray, left: dict[str, FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return the log probabilities of the best paths that enter each of two neighbouring stretches of rows.

    Parameters
    ----------
    entering : ndarray of float64, shape (K,)
        Log probability of the best path to each class of the row before both, up to a constant; `no_message` where no
        row of the same sequence is.
    left : dict
        Of `summarise_scores` or `combine_scores`: the left stretch.

    Returns
    -------
    entering_left, entering_right : ndarray of float64, shape (K,)
    """
    return entering, best_product(as_input(entering)[None, :], as_input(left["log_scores"]))[0]


def trace_chunk(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    entering: ArrayLike | None = None,
    continued: bool = False,
) -> IntArray:
    """Return the class of the row before a chunk for each class of its last row, on the most probable path.

    Parameters
    ----------
    log_evidence, T, initial, lengths, mask, continued
        As in `summarise_chunk`.
    entering : array_like of float64, shape (K,), optional
        Of `descend_scores`; needed if `continued`.

    Returns
    -------
    ndarray of int64, shape (K + 1,)
        Entry j belongs to class j of the last row. The last entry, with the index -1, is for a last row that ends its
        sequence, so that the rows of the chunk determine its class. -1 in place of a class: the first row of the chunk
        opens a sequence, so that the row before it ends its own.

    Raises
    ------
    ValueError
        As `forward_backward_chunk`.
    """
    chunk = _chunk(log_evidence, T, initial, lengths, continued, mask)
    K = chunk.T.shape[0]
    origins = np.full(K + 1, -1)
    if continued:
        entered, log_T = _with_entering(chunk, entering), logarithm(chunk.T)
        best = origins_of_best_paths(entered, log_T, origins[:K], bool(log_T.min() > -np.inf))
        if best < 0:
            raise impossible_row(-best - 1, chunk.evidence.shape[0])
        origins[K] = origins[best]
        if chunk.opens:
            origins[:] = origins[K]
    return origins


def compose_origins(left: IntArray, right: IntArray) -> IntArray:
    """Return the origins of two neighbouring stretches of rows from those of each; see `trace_chunk`.

    The class of the last row of `left`, or -1, is `right[c]`, where c is that of the last row of both, or -1.
    """
    composed: IntArray = left[right]
    return composed


def viterbi_chunk(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    entering: ArrayLike | None = None,
    last_class: int = -1,
    continued: bool = False,
) -> tuple[IntArray, float]:
    """Return the part of the most probable class sequence that lies in a chunk.

    Parameters
    ----------
    log_evidence, T, initial, lengths, mask, entering, continued
        As in `trace_chunk`.
    last_class : int
        The class of the last row by `compose_origins`; -1 if that row ends its sequence.

    Returns
    -------
    path : ndarray of int64, shape (N,)
        Class of each row.
    log_joint : float
        Log joint density of path and rows, including the transition into the first row; its sum over chunks is that of
        all rows.

    Raises
    ------
    ValueError
        As `forward_backward_chunk`, or if the last class is impossible.
    """
    chunk = _chunk(log_evidence, T, initial, lengths, continued, mask)
    log_T, log_initial = logarithm(chunk.T), logarithm(chunk.initial)
    evidence, end = chunk.evidence, int(chunk.starts[1])
    if last_class >= 0:
        evidence = evidence.copy()
        evidence[-1, np.arange(evidence.shape[1]) != last_class] = -np.inf
        chunk = chunk._replace(evidence=evidence)
    if not continued:
        path = _path(evidence, log_T, log_initial, chunk.starts, 0)
        before, end = path[:0], 0
    else:
        first = _path(_with_entering(chunk, entering), log_T, np.zeros_like(log_initial), np.array([0, end + 1]), 1)
        rest = first[:0]
        if chunk.starts.size > 2:
            rest = _path(evidence[end:], log_T, log_initial, chunk.starts[1:] - end, -end)
        before, path = first[:1], np.concatenate([first[1:], rest])
    classes = np.concatenate([before, path])
    opening = chunk.starts[:-1] if not continued else chunk.starts[1:-1]
    steps = np.delete(np.arange(path.size), opening) + before.size
    log_joint = evidence[np.arange(path.size), path].sum() + log_initial[path[opening]].sum()
    return path, float(log_joint + log_T[classes[steps - 1], classes[steps]].sum())


def _with_entering(chunk: _Chunk, entering: ArrayLike | None) -> FloatArray:
    """Return the log evidence of the first piece of a sequence, after the scores of the classes of the row before."""
    return np.concatenate([_entering(entering, chunk.T.shape[0])[None, :], chunk.evidence[: chunk.starts[1]]])


def _path(
    evidence: FloatArray, log_T: FloatArray, log_initial: FloatArray, starts: IntArray, rows_before: int
) -> IntArray:
    """Return the most probable path through whole sequences; row 0 in errors is the row `rows_before`."""
    path = np.empty(evidence.shape[0], dtype=np.int64)
    log_joint, _ = best_path(evidence, log_T, log_initial, starts, path)
    if log_joint == -np.inf:
        raise impossible_row(int(path[0]) - rows_before, evidence.shape[0] - rows_before)
    return path


def compile_kernels() -> None:
    """Compile the kernels that this module calls, or load them from the cache."""
    T, initial, ends = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1.0, 0.0]), no_message(2)
    for evidence in (np.zeros((2, 2)), np.array([[-1000.0, 0.0], [0.0, 0.0]])):  # the second underflows
        chunk = summarise_chunk(evidence, T, initial, None, True)
        descend(ends, ends, chunk, combine(chunk, chunk))
        forward_backward_chunk(evidence, T, initial, None, None, ends, ends, True)
    scores = summarise_scores(np.zeros((2, 2)), T, initial)
    trace_chunk(np.zeros((2, 2)), T, initial, None, None, descend_scores(ends, combine_scores(scores, scores))[1], True)
    viterbi_chunk(np.zeros((2, 2)), T, initial)
