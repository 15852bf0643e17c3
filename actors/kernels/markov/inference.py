"""Inference in hidden Markov models: transition counts, messages, forward-backward and Viterbi.

Rows are given as log evidence (log p(row t | z_t = k), the emission log-likelihood) or as distributions over K classes,
shape (N, K). `lengths` holds the S lengths of the sequences, which sum to N; None is one sequence. Transitions between
sequences are not counted.

Source: L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech recognition", 1989.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input
from actors.kernels.lanes import rows_with_room
from actors.kernels.markov.recursions import (
    ForwardBackwardBuffers,
    best_path,
    log_passes,
    relative_rows,
    scaled_passes,
)
from actors.kernels.sequences import boundaries, rows_with_successor
from actors.kernels.types import FloatArray, IntArray

MAX_JOINT_ENTRIES = 1_000_000
"""Joint probabilities held in memory at once by `sampled_counts`."""


_NO_ROWS = np.empty((0, 0))


@dataclass(frozen=True, eq=False)
class ForwardBackwardResult:
    """The result of `forward_backward`.

    Attributes
    ----------
    filtered : ndarray of float64, shape (N, K)
        P(z_t | rows up to t).
    posterior : ndarray of float64, shape (N, K)
        P(z_t | all rows), gamma.
    log_cavity : ndarray of float64, shape (N, K)
        log P(z_t | all rows but t), the cavity message: P(z_t | rows before t) p(rows after t | z_t), normalised.
    transitions : ndarray of float64, shape (K, K)
        Expected number of transitions from i to j, xi summed over t.
    initial : ndarray of float64, shape (K,)
        Expected number of sequences that start in each class.
    row_log_likelihood : ndarray of float64, shape (N,)
        log p(row t | rows before t of the same sequence); its sum over a sequence is the log density of the sequence.
    log_likelihood : float
        Log density of all rows.
    """

    filtered: FloatArray
    posterior: FloatArray
    log_cavity: FloatArray
    transitions: FloatArray
    initial: FloatArray
    row_log_likelihood: FloatArray
    log_likelihood: float


def _check_rows(P: ArrayLike, lengths: ArrayLike | None) -> tuple[FloatArray, IntArray]:
    """Return the validated distributions as float64, and the rows that have a successor in their sequence."""
    rows = as_input(P)
    if rows.ndim != 2:
        raise ValueError(f"distributions must have the shape (N, K), got {rows.shape}")
    _check_distributions(rows, "row {} of P")
    return rows, rows_with_successor(boundaries(rows.shape[0], lengths))


def _check_distributions(rows: FloatArray, name: str) -> FloatArray:
    """Return the sums of the rows; raise ValueError for the first row that is not a distribution (to 1e-4)."""
    sums: FloatArray = rows.sum(axis=1)
    if not (rows.min(initial=0.0) >= 0.0 and np.abs(sums - 1.0).max(initial=0.0) <= 1e-4):  # not so for NaN
        bad = np.flatnonzero(~((rows >= 0.0).all(axis=1) & (np.abs(sums - 1.0) <= 1e-4)))
        raise ValueError(f"{name.format(bad[0])} is not a distribution: {rows[bad[0]].tolist()}")
    return sums


def expected_counts(P: ArrayLike, lengths: ArrayLike | None = None) -> FloatArray:
    """Return the expected transition counts Σ_t P_t P_{t+1}ᵀ, neighbouring rows being independent given P.

    Parameters
    ----------
    P : array_like, shape (N, K)
        Distributions over classes.
    lengths : array_like of int, shape (S,), optional
        Lengths of the sequences.

    Returns
    -------
    ndarray of float64, shape (K, K)
        Entry (i, j) counts transitions from class i to class j.

    Raises
    ------
    ValueError
        If a row is not a distribution, or lengths don't sum to N.
    """
    rows, before = _check_rows(P, lengths)
    counts: FloatArray = rows[before].T @ rows[before + 1]
    return counts


def neighbour_counts(rows: FloatArray, starts: IntArray) -> FloatArray:
    """Return `expected_counts` of distributions (N, K) that are known to be valid; `starts` bound the sequences."""
    before: slice | IntArray = slice(0, -1) if starts.size == 2 else rows_with_successor(starts)
    after = slice(1, None) if isinstance(before, slice) else before + 1
    counts: FloatArray = rows[before].T @ rows[after]
    return counts


def sampled_counts(
    P: ArrayLike, num_samp: int, generator: np.random.Generator, lengths: ArrayLike | None = None
) -> IntArray:
    """Return counts of sampled transitions: for each t, num_samp times, z' ~ P_t, z ~ P_{t+1}, N[z', z] += 1.

    The two draws are independent, so a pair (z', z) has probability P_t(z') P_{t+1}(z), and the counts of the K² pairs
    among num_samp samples are multinomial. One multinomial draw per t therefore has the same distribution as the loop.

    Parameters
    ----------
    P, lengths
        As in `expected_counts`.
    num_samp : int
        Samples per pair of rows.
    generator : numpy.random.Generator
        Random generator; advanced by the draws.

    Returns
    -------
    ndarray of int64, shape (K, K)
        Counts; they sum to num_samp × (N - S).

    Raises
    ------
    ValueError
        As `expected_counts`, or if num_samp is negative.
    """
    rows, before = _check_rows(P, lengths)
    rows = rows / rows.sum(axis=1, keepdims=True)  # numpy's multinomial rejects float32 rounding errors
    K = rows.shape[1]
    counts = np.zeros(K * K, dtype=np.int64)
    chunk_size = max(1, MAX_JOINT_ENTRIES // (K * K))
    for first in range(0, before.size, chunk_size):
        chunk = before[first : first + chunk_size]
        joint = (rows[chunk][:, :, None] * rows[chunk + 1][:, None, :]).reshape(chunk.size, K * K)
        counts += generator.multinomial(num_samp, joint).sum(axis=0)
    return counts.reshape(K, K)


def transition_probabilities(counts: ArrayLike, alpha: float) -> FloatArray:
    """Return the transition matrix (N[z', z] + alpha) / (Σ_z N[z', z] + K alpha).

    Parameters
    ----------
    counts : array_like, shape (K, K)
        Counts, expected or sampled.
    alpha : float
        Pseudo-count, >= 0.

    Returns
    -------
    ndarray of float64, shape (K, K)
        Rows are distributions.

    Raises
    ------
    ValueError
        If a count or alpha is negative or not finite, or if alpha is 0 and a row has no counts.
    """
    smoothed = np.asarray(counts, dtype=np.float64) + alpha
    totals = smoothed.sum(axis=-1, keepdims=True)
    if not (alpha >= 0.0 and np.isfinite(smoothed).all() and (smoothed >= alpha).all() and (totals > 0.0).all()):
        raise ValueError(f"counts must be finite and >= 0, and alpha ({alpha}) > 0 if a row has no counts")
    probabilities: FloatArray = smoothed / totals
    return probabilities


def one_step_message(
    P: ArrayLike, T: ArrayLike, previous_log_message: ArrayLike | None = None, lengths: ArrayLike | None = None
) -> FloatArray:
    """Return the one-step message: Σ_z' P_{t-1}(z') P(z_t | z'), times the message of the previous round.

    Parameters
    ----------
    P, lengths
        As in `expected_counts`.
    T : array_like, shape (K, K)
        Transition matrix.
    previous_log_message : array_like, shape (N, K), optional
        Log of the message of the previous round, in any normalisation.

    Returns
    -------
    ndarray of float64, shape (N, K)
        Log-distributions. The message to the first row of each sequence is log P_t.

    Raises
    ------
    ValueError
        As `expected_counts`; if T's rows are not distributions, shapes differ, or a row has no possible class.
    """
    rows, before = _check_rows(P, lengths)
    message = logarithm(rows)
    message[before + 1] = logarithm(rows[before] @ check_transitions(T, rows.shape[1]))
    if previous_log_message is not None:
        previous = as_input(previous_log_message)
        if previous.shape != rows.shape:
            raise ValueError(f"the previous message must have the shape {rows.shape}, got {previous.shape}")
        message[before + 1] += previous[before + 1]
    return _normalize(message, "row {}: prediction and previous message have no class in common")


def forward_backward(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> ForwardBackwardResult:
    """Return posteriors, messages and expected transitions, by the forward-backward algorithm (Rabiner, section III).

    Parameters
    ----------
    log_evidence : array_like, shape (N, K)
        log p(row t | z_t = k), up to a constant per row (which is added to the log-likelihood). -inf is allowed, but
        not for all classes of a row.
    T : array_like, shape (K, K)
        Transition matrix; zeros are allowed.
    initial : array_like, shape (K,)
        Distribution of the first class of each sequence; zeros are allowed.
    lengths : array_like of int, shape (S,), optional
        Lengths of the sequences.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: their log evidence is replaced by 0.

    Returns
    -------
    ForwardBackwardResult

    Raises
    ------
    ValueError
        If shapes don't fit, T or initial is not a distribution, evidence has NaN, +inf or a row of -inf, or a row is
        impossible given the rows before it (the message names the row).
    """
    prepared = prepare(*known_evidence(log_evidence, lengths, mask))
    matrix, first, ends = _model_of_whole_sequences(T, initial, prepared.evidence.shape[1])
    return run_passes(prepared, matrix, first, ends)


class ExpectedCounts(NamedTuple):
    """What re-estimating the transitions needs; as in :class:`ForwardBackwardResult`."""

    transitions: FloatArray
    initial: FloatArray
    log_likelihood: float


def expected_by_model(prepared: PreparedRows, T: ArrayLike, initial: ArrayLike) -> ExpectedCounts:
    """Return the sums of `forward_backward`, bit-identical, without what it computes for each row.

    Parameters
    ----------
    prepared : PreparedRows
        Of :func:`prepare`, the same for all models.
    T, initial
        As in `forward_backward`.

    Raises
    ------
    ValueError
        As `forward_backward`, for the model and for rows that are impossible under it.
    """
    matrix, first, ends = _model_of_whole_sequences(T, initial, prepared.evidence.shape[1])
    return expected_counts_of_passes(prepared, matrix, first, ends)


def _model_of_whole_sequences(
    T: ArrayLike, initial: ArrayLike, classes: int
) -> tuple[FloatArray, FloatArray, SequenceEnds]:
    """Return the validated model, and the ends of sequences without rows before or after them."""
    matrix, first = check_transitions(T, classes), check_initial(initial, classes)
    none = np.full(classes, 1.0 / classes)
    return matrix, first, SequenceEnds(first, none, logarithm(first), np.log(none))


class SequenceEnds(NamedTuple):
    """What rows before and after an array of rows say about the classes of its first and its last row.

    Attributes
    ----------
    entering : ndarray of float64, shape (K,)
        Distribution of the class of the first row, given the rows before it.
    leaving : ndarray of float64, shape (K,)
        p(rows after the last row | its class), normalised as if it were a distribution.
    log_entering, log_leaving : ndarray of float64, shape (K,)
        Their logarithms, finite also where they are too small for float64.
    """

    entering: FloatArray
    leaving: FloatArray
    log_entering: FloatArray
    log_leaving: FloatArray


class PreparedRows(NamedTuple):
    """Rows whose part of the forward-backward algorithm that doesn't depend on transitions is done (:func:`prepare`).

    Attributes
    ----------
    evidence : ndarray of float64, shape (N, K)
        Log evidence.
    likelihood : ndarray of float64, shape (B + N, K)
        exp(log evidence - the largest of the row); 1 in the row before these, if there is one.
    largest : ndarray of float64, shape (N,)
        The largest log evidence of each row.
    starts : ndarray of int64, shape (S + 1,)
        Boundaries of the sequences, among B + N rows.
    rows_before : int
        B, 1 if a row without evidence stands for those before these: its class has the distribution that enters.
    """

    evidence: FloatArray
    likelihood: FloatArray
    largest: FloatArray
    starts: IntArray
    rows_before: int = 0


def prepare(evidence: FloatArray, starts: IntArray, rows_before: int = 0) -> PreparedRows:
    """Return prepared rows of log evidence (N, K); raise ValueError if a row has no possible class.

    `starts` are the boundaries of the sequences among these rows; with a row before them, it belongs to the first one.
    """
    N, K = evidence.shape
    likelihood, largest = rows_with_room(rows_before + N, K), np.empty(N)
    own = likelihood[rows_before:]
    if not relative_rows(evidence, own, largest):
        check_possible(evidence)
    np.exp(own, out=own)
    if rows_before:
        likelihood[0] = 1.0
        starts = starts + 1
        starts[0] = 0
    return PreparedRows(evidence, likelihood, largest, starts, rows_before)


class LinearResult(NamedTuple):
    """A :class:`ForwardBackwardResult` with the cavity messages as distributions (N, K), not as their logarithms."""

    filtered: FloatArray
    posterior: FloatArray
    cavity: FloatArray
    transitions: FloatArray
    initial: FloatArray
    row_log_likelihood: FloatArray
    log_likelihood: float


def run_passes(prepared: PreparedRows, T: FloatArray, initial: FloatArray, ends: SequenceEnds) -> ForwardBackwardResult:
    """Run the forward and the backward pass over validated rows, in the log domain where probabilities underflow.

    Parameters
    ----------
    prepared : PreparedRows
        The rows.
    T, initial : ndarray of float64, shapes (K, K), (K,)
        Transition matrix, and distribution of the first class of each sequence but the first.
    ends : SequenceEnds
        What rows before and after these say; with a row before these, its class has the distribution that enters.

    Returns
    -------
    ForwardBackwardResult

    Raises
    ------
    ValueError
        If a row is impossible given the rows before it.
    """
    fit = _scaled(prepared, T, initial, ends, messages=True)
    if fit is None:
        return _run_log_passes(prepared, T, initial, ends)
    return ForwardBackwardResult(*fit._replace(cavity=logarithm(fit.cavity, out=fit.cavity)))


def run_linear_passes(prepared: PreparedRows, T: FloatArray, initial: FloatArray, ends: SequenceEnds) -> LinearResult:
    """Return what `run_passes` does, without logarithms of the cavity messages."""
    fit = _scaled(prepared, T, initial, ends, messages=True)
    if fit is None:
        result = _run_log_passes(prepared, T, initial, ends)
        cavity: FloatArray = np.exp(result.log_cavity)
        sums = result.transitions, result.initial, result.row_log_likelihood, result.log_likelihood
        return LinearResult(result.filtered, result.posterior, cavity, *sums)
    return fit


def expected_counts_of_passes(
    prepared: PreparedRows, T: FloatArray, initial: FloatArray, ends: SequenceEnds
) -> ExpectedCounts:
    """Return the sums of `run_passes`, bit-identical, without what it computes for each row."""
    fit = _scaled(prepared, T, initial, ends, messages=False) or _run_log_passes(prepared, T, initial, ends)
    return ExpectedCounts(fit.transitions, fit.initial, fit.log_likelihood)


def _scaled(
    prepared: PreparedRows, T: FloatArray, initial: FloatArray, ends: SequenceEnds, *, messages: bool
) -> LinearResult | None:
    """Run the passes in the linear domain; return their results, or None on underflow.

    Without `messages`, `posterior` and `cavity` have no rows.
    """
    (rows, K), before = prepared.likelihood.shape, prepared.rows_before
    posterior, cavity = (rows_with_room(rows, K), rows_with_room(rows, K)) if messages else (_NO_ROWS, _NO_ROWS)
    sums = np.empty(rows), np.zeros((K, K)), np.zeros(K)
    out = ForwardBackwardBuffers(rows_with_room(rows, K), posterior, cavity, *sums)
    if not scaled_passes(prepared.likelihood, T, initial, ends[:2], prepared.starts, before, messages, out):
        return None
    row_log_likelihood: FloatArray = np.log(out.scale[before:]) + prepared.largest
    total = float(row_log_likelihood.sum())
    of_rows = out.filtered[before:], out.posterior[before:], out.cavity[before:]
    return LinearResult(*of_rows, out.transitions, out.initial, row_log_likelihood, total)


def _run_log_passes(
    prepared: PreparedRows, T: FloatArray, initial: FloatArray, ends: SequenceEnds
) -> ForwardBackwardResult:
    """Run the passes in the log domain; raise ValueError if a row is impossible given the rows before it."""
    (rows, K), before = prepared.likelihood.shape, prepared.rows_before
    evidence = np.concatenate([np.zeros((before, K)), prepared.evidence]) if before else prepared.evidence
    filtered, posterior, cavity = np.empty((3, rows, K))
    out = ForwardBackwardBuffers(filtered, posterior, cavity, np.empty(rows), np.zeros((K, K)), np.zeros(K))
    row = log_passes(evidence, logarithm(T), logarithm(initial), ends[2:], prepared.starts, out)
    if row >= 0:
        raise impossible_row(row - before, rows - before)
    for logs in (out.filtered, out.posterior):
        np.exp(logs, out=logs)
    return ForwardBackwardResult(
        filtered=out.filtered[before:],
        posterior=out.posterior[before:],
        log_cavity=out.cavity[before:],
        transitions=out.transitions,
        initial=out.posterior[prepared.starts[before:-1]].sum(axis=0),
        row_log_likelihood=out.scale[before:],
        log_likelihood=float(out.scale[before:].sum()),
    )


class RowError(ValueError):
    """A row that cannot be used.

    Parameters
    ----------
    row : int
        Its number, from the first of the rows that a function was given.
    text : str
        What is wrong; ``{}`` stands for the number.
    """

    def __init__(self, row: int, text: str) -> None:
        super().__init__(row, text)
        self.row = row
        self.text = text

    def __str__(self) -> str:
        return self.text.format(self.row)

    def after(self, rows: int) -> RowError:
        """Return the error with the row's number among more rows, of which `rows` come before those that were given."""
        return RowError(self.row + rows, self.text)


class OtherChunkError(ValueError):
    """Rows of another chunk have probability zero; the ValueError of that chunk names the row."""


def impossible_row(row: int, rows: int) -> ValueError:
    """Return the error that a row has probability zero; row -1 lies before these rows, row `rows` after them."""
    if row < 0:
        return OtherChunkError("the rows before row 0 have probability zero")
    if row >= rows:
        return OtherChunkError(f"the rows after row {rows - 1} have probability zero given the rows up to it")
    return RowError(row, "row {} has probability zero given the rows before it")


def viterbi(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> tuple[IntArray, float]:
    """Return the most probable class sequence, by the Viterbi algorithm (Rabiner, section III.B).

    Parameters
    ----------
    log_evidence, T, initial, lengths, mask
        As in `forward_backward`.

    Returns
    -------
    path : ndarray of int64, shape (N,)
        Class of each row. Of equally probable paths it is the one with the lowest class in the last row of a sequence,
        among those the one with the lowest class in the row before, and so on.
    log_joint : float
        Log joint density of path and rows, summed over sequences.

    Raises
    ------
    ValueError
        As `forward_backward`.
    """
    evidence, starts = known_evidence(log_evidence, lengths, mask)
    K = evidence.shape[1]
    path = np.empty(evidence.shape[0], dtype=np.int64)
    log_T, log_initial = logarithm(check_transitions(T, K)), logarithm(check_initial(initial, K))
    log_joint, finite = best_path(evidence, log_T, log_initial, (log_initial, -1), starts, path)
    if not finite:
        check_possible(evidence)
    if log_joint == -np.inf:
        raise impossible_row(int(path[0]), evidence.shape[0])
    return path, float(log_joint)


def logarithm(values: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """Return the logarithm, in `out` if given; -inf for 0, without a warning."""
    with np.errstate(divide="ignore"):
        logs: FloatArray = np.log(values, out=out)
    return logs


def _normalize(logs: FloatArray, name: str) -> FloatArray:
    """Return log rows normalised so that their exponentials sum to one; raise ValueError if a row is all -inf."""
    largest = logs.max(axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(largest[:, 0]))
    if bad.size:
        raise ValueError(name.format(bad[0]))
    shifted: FloatArray = logs - largest
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def check_evidence(
    log_evidence: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> tuple[FloatArray, IntArray]:
    """As `known_evidence`; raise ValueError if a row has no possible class."""
    evidence, starts = known_evidence(log_evidence, lengths, mask)
    if not np.isfinite(evidence).all():  # the maxima of short rows take longer than many algorithms on them
        check_possible(evidence)
    return evidence, starts


def known_evidence(
    log_evidence: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> tuple[FloatArray, IntArray]:
    """Return the log evidence as float64 with zeros in missing rows, and the sequence boundaries."""
    evidence = as_input(log_evidence)
    if evidence.ndim != 2:
        raise ValueError(f"log evidence must have the shape (N, K), got {evidence.shape}")
    if mask is not None:
        missing = as_input(mask, np.bool_)
        if missing.shape != evidence.shape[:1]:
            raise ValueError(f"the mask must have the shape {evidence.shape[:1]}, got {missing.shape}")
        evidence = np.where(missing[:, None], 0.0, evidence)
    return evidence, boundaries(evidence.shape[0], lengths)


def check_possible(evidence: FloatArray) -> None:
    """Raise ValueError for the first row that has NaN, +inf or no possible class."""
    bad = np.flatnonzero(~np.isfinite(evidence.max(axis=1)))
    if bad.size:
        raise RowError(int(bad[0]), "row {} of the log evidence has NaN, +inf or no possible class")


def check_transitions(T: ArrayLike, classes: int) -> FloatArray:
    """Return the transition matrix as float64, its rows normalised."""
    matrix = as_input(T)
    if matrix.shape != (classes, classes):
        raise ValueError(f"T must have the shape ({classes}, {classes}), got {matrix.shape}")
    normalized: FloatArray = matrix / _check_distributions(matrix, "row {} of T")[:, None]
    return normalized


def check_initial(initial: ArrayLike, classes: int) -> FloatArray:
    """Return the initial distribution as float64, normalised."""
    first = as_input(initial)
    if first.shape != (classes,):
        raise ValueError(f"initial must have the shape ({classes},), got {first.shape}")
    normalized: FloatArray = first / _check_distributions(first[None, :], "initial")
    return normalized


def compile_kernels() -> None:
    """Compile the kernels that this module calls, or load them from the cache."""
    evidence, T, initial = np.zeros((2, 2)), np.eye(2), np.array([1.0, 0.0])
    forward_backward(evidence, T, initial)
    forward_backward(np.array([[-100.0, 0.0]]), T, initial)  # underflows, so it needs the log domain
    viterbi(evidence, T, initial)
