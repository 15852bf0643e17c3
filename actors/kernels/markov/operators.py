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

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input
from actors.kernels.markov.inference import (
    ExpectedCounts,
    LinearResult,
    PreparedRows,
    RowError,
    SequenceEnds,
    check_evidence,
    check_initial,
    check_possible,
    check_transitions,
    expected_counts_of_passes,
    impossible_row,
    logarithm,
    prepare,
    run_linear_passes,
)
from actors.kernels.markov.operator_passes import (
    best_operator,
    best_product,
    composed,
    distribution_of,
    divided,
    have_met,
    linear_operator,
    logarithmic_operator,
    normalise_rows,
    origins_of_best_paths,
    product_of_ends,
)
from actors.kernels.markov.recursions import best_path, relative_rows
from actors.kernels.types import FloatArray, IntArray

WINDOWS = (64, 256)
"""Numbers of rows at each end of a stretch from which its operator is computed, if its chain forgets that fast."""

FIRST_ROWS = 256
"""Rows through which the most probable paths are traced first; most chunks need no more."""


class ChainModel(NamedTuple):
    """Transitions and initial distribution, validated, with what functions of chunks need of them (`chain_model`)."""

    T: FloatArray
    initial: FloatArray
    log_transitions: FloatArray
    log_initial: FloatArray
    reverse: FloatArray
    none: FloatArray
    all_possible: bool


def chain_model(T: ArrayLike, initial: ArrayLike) -> ChainModel:
    """Return a model for functions of chunks; raise ValueError if it is none, as `forward_backward`."""
    first = as_input(initial)
    matrix = check_transitions(T, first.size)
    first = check_initial(first, first.size)
    reverse, none = np.ascontiguousarray(matrix.T), no_message(first.size)
    return ChainModel(matrix, first, logarithm(matrix), logarithm(first), reverse, none, bool(matrix.min() > 0.0))


class ChunkRows:
    """The rows of a chunk, and what inference needs of them whatever the model is.

    Parameters
    ----------
    evidence_of : callable
        Returns the log evidence (n, K) of the rows from one to before another: contiguous, zeros in missing rows.
    starts : ndarray of int64, shape (S + 1,)
        Boundaries of the pieces of sequences.
    continued : bool
        Whether the first row continues a sequence of the chunk before.
    keeps : bool
        Whether the likelihood of all rows is kept, once it is known. It changes no result.
    """

    def __init__(
        self, evidence_of: Callable[[int, int], FloatArray], starts: IntArray, continued: bool, keeps: bool = True
    ) -> None:
        self.evidence_of = evidence_of
        self.starts = starts
        self.continued = continued
        self._keeps = keeps
        self._prepared: PreparedRows | None = None

    @property
    def prepared(self) -> PreparedRows:
        """All rows, with a row before them for what enters, if they continue a sequence."""
        known = self._prepared or prepare(self.evidence_of(0, len(self)), self.starts, int(self.continued))
        self._prepared = known if self._keeps else None
        return known

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def opens(self) -> bool:
        """Return whether a sequence begins in the chunk."""
        return not self.continued or self.starts.size > 2

    @cached_property
    def last(self) -> FloatArray:
        """The log evidence (1, K) of the last row relative to its largest."""
        return self.relative(len(self) - 1, len(self))

    def relative(self, first: int, end: int) -> FloatArray:
        """Return the log evidence of rows relative to the largest of each; common factors do not change an operator.

        Raises
        ------
        ValueError
            If a row has no possible class.
        """
        evidence = self.evidence_of(first, end)
        shifted = np.empty_like(evidence)
        if not relative_rows(evidence, shifted, np.empty(len(evidence))):
            try:
                check_possible(evidence)
            except RowError as error:
                raise error.after(first) from None
        return shifted

    def likelihoods(self, first: int, end: int) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Yield `likelihood` and `shifted` of rows, for kernels of operators: the exact ones, last.

        The one before, where likelihoods are kept, costs nothing, but may make a kernel refuse it.
        """
        if self._keeps:
            before = int(self.continued)
            likelihood = self.prepared.likelihood[before + first : before + end]
            yield likelihood, likelihood
        shifted = self.relative(first, end)
        yield np.exp(shifted), shifted


def chunk_rows(
    log_evidence: ArrayLike, lengths: ArrayLike | None = None, continued: bool = False, mask: ArrayLike | None = None
) -> ChunkRows:
    """Return the rows of a chunk.

    Parameters
    ----------
    log_evidence, mask
        As in `forward_backward`, of the rows of the chunk.
    lengths : array_like of int, shape (S,), optional
        Lengths of the pieces of sequences inside the chunk; None is one piece.
    continued : bool
        Whether the first row continues a sequence of the chunk before.

    Raises
    ------
    ValueError
        As `forward_backward`, for what is wrong with the rows alone.
    """
    evidence, starts = check_evidence(log_evidence, lengths, mask)
    return ChunkRows(lambda first, end: evidence[first:end], starts, continued)


def no_message(classes: int) -> FloatArray:
    """Return the log-distribution that enters or leaves where no row of the same sequence is, (K,): uniform."""
    return np.full(classes, -math.log(classes))


def summarise_chunk(rows: ChunkRows, model: ChainModel) -> dict[str, FloatArray]:
    """Return a chunk as a map of the distribution of the class before it to that of its last row.

    With the class i of the row before the chunk, the map is the row i of `log_operator`, a log-distribution of the
    class of the last row, and `log_weight[i]`, the log density of the rows, relative to the most probable i. Only rows
    up to the end of i's sequence have a part in the weight, and only rows from the last beginning of a sequence on in
    the operator: if a sequence begins in the chunk, all rows of the operator are the same, the filtered distribution,
    and the weights are the backward message; if its first row begins one, all weights are 0. A class i after which the
    rows are impossible has the weight -inf.

    Returns
    -------
    dict
        `log_operator` (K, K) and `log_weight` (K,), float64.

    Raises
    ------
    ValueError
        If a row that it needs has no possible class; not for rows that are impossible given others.
    """
    K, end = model.initial.size, len(rows)
    last_piece = int(rows.starts[-2]), end - 1, 1
    if not rows.opens:
        operator, weight = _run(rows, model.T, last_piece, model.T, model.all_possible)
        operator += rows.last
        if len(operator) == K:
            normalise_rows(operator, weight)
            return {"log_operator": operator, "log_weight": weight}
    else:
        operator, _ = _run(rows, model.T, last_piece, model.initial[None, :], model.all_possible)
        operator += rows.last
        weight = np.zeros(K)
        if rows.continued:
            first_piece = 0, int(rows.starts[1]), -1
            backward, _ = _run(rows, model.reverse, first_piece, np.ones((1, K)), model.all_possible)
            weight = backward[0] - _largest(backward)
    normalise_rows(operator, np.zeros(1))
    return {"log_operator": np.repeat(operator, K, axis=0), "log_weight": weight}


def _run(
    rows: ChunkRows, T: FloatArray, stretch: tuple[int, int, int], start: FloatArray, all_possible: bool
) -> tuple[FloatArray, FloatArray]:
    """Return the logarithms of the product of `start` (M, K) with evidence and transitions, and log weights (M,).

    If all rows of the product are the same, it has one row. `stretch` are the first row, the row after the last one,
    and 1 or -1, the direction in which rows are multiplied.
    """
    if all_possible:  # so that nothing is impossible, and rows that are left out cannot change that
        for window in WINDOWS:
            found = _run_ends(rows, T, stretch, start, window)
            if found is not None:
                return found
    first, end, direction = stretch
    if first == end:
        return logarithm(start), np.zeros(len(start))
    within = _within(end - first, direction)
    for likelihood, shifted in rows.likelihoods(first, end):
        state, weight = start.copy(), np.zeros(len(start))
        if linear_operator(likelihood, shifted, T, within, state, weight):
            return logarithm(state), weight
    logs, weight = logarithm(start), np.zeros(len(start))
    logarithmic_operator(shifted, logarithm(T), within, logs, weight)
    return logs, weight


def _within(count: int, direction: int) -> tuple[int, int, int]:
    """Return first row, number and direction for kernels that are given some rows alone."""
    return 0 if direction > 0 else count - 1, count, direction


def _ends_of(stretch: tuple[int, int, int], window: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the rows of a stretch that are multiplied first, and those that are multiplied last."""
    first, end, direction = stretch
    low, high = (first, first + window, direction), (end - window, end, direction)
    return (low, high) if direction > 0 else (high, low)


def _run_ends(
    rows: ChunkRows, T: FloatArray, stretch: tuple[int, int, int], start: FloatArray, window: int
) -> tuple[FloatArray, FloatArray] | None:
    """Return what `_run` returns from the first and the last rows alone; None if these are too few for it.

    After enough rows, the rows of a product are the same distribution, however different they began
    (:func:`linear_operator`): of each row of `start` is left its weight, which no later row can change. And whatever
    the distribution before the last rows, the one after them is the same, if it is for each class alone.
    """
    M, K = start.shape
    if stretch[1] - stretch[0] <= 2 * window * K:  # the product of all rows takes no longer, once its rows are the same
        return None
    early, late = (rows.likelihoods(*each[:2]) for each in _ends_of(stretch, window))
    for given in zip(early, late, strict=True):
        weight = np.zeros(M)
        same, logs = product_of_ends(*given, T, _within(window, stretch[2]), start, weight)
        if same:
            return logs, weight
    return None


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
    operator, weight = composed(*_given(left), *_given(right))
    return {"log_operator": operator, "log_weight": weight}


def _given(stretch: dict[str, FloatArray]) -> tuple[FloatArray, FloatArray]:
    return as_input(stretch["log_operator"]), as_input(stretch["log_weight"])


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
    ends = as_input(entering), as_input(leaving)
    entering_right, leaving_left = divided(ends, *_given(left), *_given(right))
    return entering, leaving_left, entering_right, leaving


def forward_backward_chunk(
    rows: ChunkRows, model: ChainModel, entering: ArrayLike | None = None, leaving: ArrayLike | None = None
) -> LinearResult:
    """Return the results of `forward_backward` for the rows of a chunk, given all rows of their sequences.

    `transitions` includes the transition from the row before the chunk to its first row, not that from its last row;
    `initial` counts the sequences that begin in the chunk. So the sums over all chunks are those of all rows.

    Parameters
    ----------
    rows, model
        The chunk, and the model.
    entering, leaving : array_like of float64, shape (K,), optional
        Log-distributions of `descend`. What enters is needed, and not ignored, if the chunk is continued. None is
        `no_message`.

    Returns
    -------
    LinearResult
        Bit-identical to `forward_backward` if no sequence crosses the ends of the chunk.

    Raises
    ------
    ValueError
        As `forward_backward`; if the first row continues a sequence and nothing enters; if what enters or leaves is no
        log-distribution. Rows are numbered from the first of the chunk.
    OtherChunkError
        If the rows are possible, but rows before or after the chunk are not; the chunk of these raises ValueError.
    """
    ends = _sequence_ends(rows, model, entering, leaving)
    return run_linear_passes(rows.prepared, model.T, model.initial, ends)


def expected_counts_chunk(
    rows: ChunkRows, model: ChainModel, entering: ArrayLike | None = None, leaving: ArrayLike | None = None
) -> ExpectedCounts:
    """Return the sums of `forward_backward_chunk`, bit-identical, without what it computes for each row."""
    ends = _sequence_ends(rows, model, entering, leaving)
    return expected_counts_of_passes(rows.prepared, model.T, model.initial, ends)


def _sequence_ends(
    rows: ChunkRows, model: ChainModel, entering: ArrayLike | None, leaving: ArrayLike | None
) -> SequenceEnds:
    """Return what enters and what leaves, validated."""
    last, log_last, largest = _message("leaves", leaving, model)
    if largest == -math.inf:
        # A row of this chunk may be impossible too; the first such row of a sequence is named.
        expected_counts_chunk(rows, model, entering)
        raise impossible_row(len(rows), len(rows))
    if not rows.continued:
        return SequenceEnds(model.initial, last, model.log_initial, log_last)
    first, log_first = _entering(entering, model)
    return SequenceEnds(first, last, log_first, log_last)


def _message(name: str, message: ArrayLike | None, model: ChainModel) -> tuple[FloatArray, FloatArray, float]:
    """Return a distribution, its validated logarithms and the largest of these, which may not be 0.

    It is -inf where rows are impossible; the distribution has no meaning then.
    """
    logs, linear = model.none if message is None else as_input(message), np.empty(model.initial.size)
    largest = distribution_of(logs, linear) if logs.shape == linear.shape else math.inf
    if not largest < math.inf:
        raise ValueError(f"what {name} must be logarithms of shape {linear.shape}, got {logs.tolist()}")
    return linear, logs, largest


def _entering(message: ArrayLike | None, model: ChainModel) -> tuple[FloatArray, FloatArray]:
    """Return what enters a chunk whose first row continues a sequence: a distribution, and its logarithms."""
    if message is None:
        raise ValueError("the first row continues a sequence, so what enters must be given")
    linear, logs, largest = _message("enters", message, model)
    if largest == -math.inf:
        raise impossible_row(-1, 0)
    return linear, logs


def _largest(logs: FloatArray) -> float:
    """Return the largest of some logarithms, 0 if all are -inf."""
    largest = float(logs.max())
    return largest if largest > -np.inf else 0.0


def summarise_scores(rows: ChunkRows, model: ChainModel) -> dict[str, FloatArray]:
    """Return the log probabilities of the best paths through a chunk, from each class before it to each at its end.

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
    log_T, end = model.log_transitions, len(rows)
    last_piece, start = (int(rows.starts[-2]), end - 1, 1), model.log_initial[None, :] if rows.opens else log_T
    scores = _run_best(rows, log_T, last_piece, start, model.all_possible)
    scores += rows.last
    if rows.opens and rows.continued:
        first_piece, zeros = (0, int(rows.starts[1]), -1), np.zeros((1, log_T.shape[0]))
        before = _run_best(rows, logarithm(model.reverse), first_piece, zeros, model.all_possible)
        scores = before.T + scores
    elif rows.opens:
        scores = np.repeat(scores, log_T.shape[0], axis=0)
    return {"log_scores": scores - _largest(scores)}


def _run_best(
    rows: ChunkRows, log_T: FloatArray, stretch: tuple[int, int, int], start: FloatArray, all_possible: bool
) -> FloatArray:
    """Return the product of `start` (M, K) with evidence and transitions of rows, with maxima in place of sums.

    As in `_run`, the first and the last rows are enough for it if the best paths through them have met: each row of the
    product is then the same, up to a number of its own.
    """
    M, count = len(start), stretch[1] - stretch[0]
    windows = [window for window in WINDOWS if 2 * window < count] if all_possible else []
    for window in windows:
        scores, last = start.copy(), log_T.copy()
        early, late = _ends_of(stretch, window)
        _multiply_best(rows, log_T, late, last)
        if M > 1:
            _multiply_best(rows, log_T, early, scores)
        if have_met(last) and (M == 1 or have_met(scores)):
            return last[:1] + scores.max(axis=1, keepdims=True) if M > 1 else last[:1].copy()
    scores = start.copy()
    if count:
        _multiply_best(rows, log_T, stretch, scores)
    return scores


def _multiply_best(rows: ChunkRows, log_T: FloatArray, stretch: tuple[int, int, int], state: FloatArray) -> None:
    first, end, direction = stretch
    best_operator(rows.relative(first, end), log_T, _within(end - first, direction), state)


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


def trace_chunk(rows: ChunkRows, model: ChainModel, entering: ArrayLike | None = None) -> IntArray:
    """Return the class of the row before a chunk for each class of its last row, on the most probable path.

    Parameters
    ----------
    rows, model
        The chunk, and the model.
    entering : array_like of float64, shape (K,), optional
        Of `descend_scores`; needed if the chunk is continued.

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
    K = model.initial.size
    origins = np.full(K + 1, -1)
    if not rows.continued:
        return origins
    before, piece, meets = _entering(entering, model)[1], int(rows.starts[1]), model.all_possible
    for end in sorted({min(FIRST_ROWS, piece), piece}) if meets else [piece]:
        entered = np.concatenate([before[None, :], rows.evidence_of(0, end)])
        best = origins_of_best_paths(entered, model.log_transitions, origins[:K], meets)
        if best < 0:
            raise impossible_row(-best - 1, len(rows))
        origins[K] = origins[best]
        if (origins[:K] == origins[K]).all():
            break
    if rows.opens:
        origins[:] = origins[K]
    return origins


def compose_origins(left: IntArray, right: IntArray) -> IntArray:
    """Return the origins of two neighbouring stretches of rows from those of each; see `trace_chunk`.

    The class of the last row of `left`, or -1, is `right[c]`, where c is that of the last row of both, or -1.
    """
    composed_origins: IntArray = left[right]
    return composed_origins


def viterbi_chunk(
    rows: ChunkRows, model: ChainModel, entering: ArrayLike | None = None, last_class: int = -1
) -> IntArray:
    """Return the part (N,) of the most probable class sequence that lies in a chunk.

    Parameters
    ----------
    rows, model, entering
        As in `trace_chunk`.
    last_class : int
        The class of the last row by `compose_origins`; -1 if that row ends its sequence.

    Raises
    ------
    ValueError
        As `forward_backward_chunk`, or if the last class is impossible.
    """
    first = model.log_initial
    if rows.continued:
        scores = _entering(entering, model)[1]
        first = (scores[:, None] + model.log_transitions).max(axis=0)
    path = np.empty(len(rows), dtype=np.int64)
    evidence = rows.evidence_of(0, len(rows))
    log_joint, _ = best_path(evidence, model.log_transitions, model.log_initial, (first, last_class), rows.starts, path)
    if log_joint == -np.inf:
        raise impossible_row(int(path[0]), len(rows))
    return path


def compile_kernels() -> None:
    """Compile the kernels that this module calls, or load them from the cache."""
    model, ends = chain_model(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1.0, 0.0])), no_message(2)
    for evidence in (np.zeros((2, 2)), np.array([[-1000.0, 0.0], [0.0, 0.0]])):  # the second underflows
        rows = chunk_rows(evidence, None, True)
        chunk = summarise_chunk(rows, model)
        descend(ends, ends, chunk, combine(chunk, chunk))
        forward_backward_chunk(rows, model, ends, ends)
    given = np.ones((1, 2)), np.zeros((1, 2))
    product_of_ends(given, given, model.T, (0, 1, 1), model.T, np.zeros(2))
    have_met(model.log_transitions)
    rows = chunk_rows(np.zeros((2, 2)), None, True)
    scores = summarise_scores(rows, model)
    entering = descend_scores(ends, combine_scores(scores, scores))[1]
    trace_chunk(rows, model, entering)
    viterbi_chunk(rows, model, entering)
