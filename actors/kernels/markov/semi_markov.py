"""Inference in hidden semi-Markov models: segments of rows, each with a class and a number of rows.

A sequence is cut into segments. The class of the first one has a distribution, that of each other one depends on the
class before it, and the number of rows D of a segment depends on its class. The choices at the ends of a sequence are:

- left: the first segment begins with the sequence;
- right: the last segment may go on beyond the end (it is censored), so that d rows of it have the weight P(D ≥ d).

Weights of transitions and of durations need not sum to one, as those of variational inference do not. A table of
durations ends at D_max: longer segments are left out, which leaves a lower bound of the density of the rows.

Sources: S.-Z. Yu, "Hidden semi-Markov models", Artificial Intelligence 174, 2010; M. J. Johnson and A. S. Willsky,
"Bayesian nonparametric hidden semi-Markov models", JMLR 14, 2013 (also for the censored last segment).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input
from actors.kernels.log_rows import log_sum_exp
from actors.kernels.markov.inference import (
    ForwardBackwardResult,
    RowError,
    check_possible,
    known_evidence,
    logarithm,
)
from actors.kernels.markov.segment_passes import (
    SegmentCounts,
    SegmentMessages,
    SegmentWeights,
    best_paths,
    count_passes,
    row_passes,
)
from actors.kernels.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class SegmentExpectations:
    """Expected numbers of segments, under the posterior of the segments of all sequences.

    Attributes
    ----------
    transitions : ndarray of float64, shape (K, K)
        Segments of class i that are followed by one of class j.
    initial : ndarray of float64, shape (K,)
        Segments that open a sequence.
    durations : ndarray of float64, shape (K, D)
        Segments of each duration; what censored ones have beyond the end has its distribution given what is known.
    log_likelihood : float
        Log density of all rows.
    """

    transitions: FloatArray
    initial: FloatArray
    durations: FloatArray
    log_likelihood: float


@dataclass(frozen=True, eq=False)
class SegmentResult(ForwardBackwardResult):
    """A :class:`actors.kernels.markov.inference.ForwardBackwardResult` whose `transitions` are between segments.

    Attributes
    ----------
    durations : ndarray of float64, shape (K, D)
        As in :class:`SegmentExpectations`.
    row_transitions : ndarray of float64, shape (K, K)
        Expected transitions between neighbouring rows, those within segments included.
    """

    durations: FloatArray
    row_transitions: FloatArray


def segment_weights(log_transitions: ArrayLike, log_initial: ArrayLike, log_durations: ArrayLike) -> SegmentWeights:
    """Return validated weights, with the survivor function of the durations.

    Parameters
    ----------
    log_transitions : array_like, shape (K, K)
        Log-weights of the transitions between segments; with two classes or more, the diagonal is -inf.
    log_initial : array_like, shape (K,)
        Log-weights of the class of the first segment.
    log_durations : array_like, shape (K, D)
        Log-weights of 1 to D rows.

    Raises
    ------
    ValueError
        If shapes do not fit, or if a weight is NaN or +inf.
    """
    transitions, initial, durations = (as_input(each) for each in (log_transitions, log_initial, log_durations))
    K = len(initial)
    if transitions.shape != (K, K) or durations.ndim != 2 or len(durations) != K or not durations.shape[1]:
        raise ValueError(
            f"expected weights of transitions (K, K), initial (K,) and durations (K, D), got {transitions.shape}, "
            f"{initial.shape} and {durations.shape}"
        )
    for name, values in (("transitions", transitions), ("initial", initial), ("durations", durations)):
        if not (values < np.inf).all():  # not so for NaN
            raise ValueError(f"log-weights of {name} must be finite or -inf")
    # P(D >= d), summed from the least probable end
    survival = np.logaddexp.accumulate(durations[:, ::-1], axis=1)[:, ::-1]
    return SegmentWeights(transitions, initial, durations, as_input(survival))


def expected_segments(
    log_evidence: ArrayLike, weights: SegmentWeights, lengths: ArrayLike | None = None, mask: ArrayLike | None = None
) -> SegmentExpectations:
    """Return the expected numbers of segments, by the forward-backward algorithm (Yu).

    Parameters
    ----------
    log_evidence : array_like, shape (N, K)
        log p(row t | z_t = k), up to a constant per row. -inf is allowed, but not for all classes of a row.
    weights : SegmentWeights
        Of :func:`segment_weights`.
    lengths : array_like of int, shape (S,), optional
        Lengths of the sequences.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: their log evidence is replaced by 0.

    Raises
    ------
    ValueError
        If shapes do not fit, evidence has NaN, +inf or a row of -inf, or no segments explain the rows (the message
        names the first row).
    """
    evidence, starts = _evidence(log_evidence, weights, lengths, mask)
    return _expectations(evidence, weights, starts, _no_messages(evidence))


def segment_forward_backward(
    log_evidence: ArrayLike, weights: SegmentWeights, lengths: ArrayLike | None = None, mask: ArrayLike | None = None
) -> SegmentResult:
    """Return posteriors, messages and expected numbers of segments.

    Parameters
    ----------
    log_evidence, weights, lengths, mask
        As in `expected_segments`.

    Raises
    ------
    ValueError
        As `expected_segments`.
    """
    evidence, starts = _evidence(log_evidence, weights, lengths, mask)
    messages = _no_messages(evidence)
    expected = _expectations(evidence, weights, starts, messages)
    filtered, cavity = np.empty_like(evidence), np.empty_like(evidence)
    row_passes(evidence, weights, starts, messages.ended, filtered, cavity)
    up_to_row = log_sum_exp(np.ascontiguousarray(filtered.T))
    before = np.concatenate([[0.0], up_to_row[:-1]])
    before[starts[:-1]] = 0.0
    posterior, log_cavity = _normalised(cavity + evidence), _normalised(cavity)
    np.exp(posterior, out=posterior)
    return SegmentResult(
        filtered=np.exp(_normalised(filtered)),
        posterior=posterior,
        log_cavity=log_cavity,
        transitions=expected.transitions,
        initial=expected.initial,
        row_log_likelihood=up_to_row - before,
        log_likelihood=expected.log_likelihood,
        durations=expected.durations,
        row_transitions=_row_transitions(posterior, expected.transitions, starts),
    )


def best_segmentation(
    log_evidence: ArrayLike, weights: SegmentWeights, lengths: ArrayLike | None = None, mask: ArrayLike | None = None
) -> tuple[IntArray, float]:
    """Return the classes (N,) of the most probable segments, and their log joint density with the rows.

    The last segment of a sequence is judged by the rows that it has in the sequence.

    Parameters
    ----------
    log_evidence, weights, lengths, mask
        As in `expected_segments`.

    Raises
    ------
    ValueError
        As `expected_segments`.
    """
    evidence, starts = _evidence(log_evidence, weights, lengths, mask)
    path = np.zeros(evidence.shape[1], np.int64)
    log_joint, failed = best_paths(evidence, weights, starts, path, np.empty_like(evidence))
    if failed >= 0:
        raise _impossible(evidence, weights, starts[failed : failed + 2])
    return path, float(log_joint)


def _evidence(
    log_evidence: ArrayLike, weights: SegmentWeights, lengths: ArrayLike | None, mask: ArrayLike | None
) -> tuple[FloatArray, IntArray]:
    """Return the validated log evidence as (K, N), and the boundaries of the sequences."""
    evidence, starts = known_evidence(log_evidence, lengths, mask)
    classes = len(weights.initial)
    if evidence.shape[1] != classes:
        raise ValueError(f"log evidence of {evidence.shape[1]} classes came, the weights have {classes}")
    if not np.isfinite(evidence).all():
        check_possible(evidence)
    return np.ascontiguousarray(evidence.T), starts


def _no_messages(evidence: FloatArray) -> SegmentMessages:
    return SegmentMessages(*(np.full(evidence.shape, -np.inf) for _ in range(3)))


def _expectations(
    evidence: FloatArray, weights: SegmentWeights, starts: IntArray, messages: SegmentMessages
) -> SegmentExpectations:
    """Run the backward and the forward pass of each sequence."""
    K, D = weights.durations.shape
    counts = SegmentCounts(np.zeros((K, K)), np.zeros(K), np.zeros((K, D)), np.zeros((K, D)))
    total, failed = count_passes(evidence, weights, starts, messages, counts)
    if failed >= 0:
        raise _impossible(evidence, weights, starts[failed : failed + 2])
    durations = counts.durations + complete_durations(counts.censored, weights)
    return SegmentExpectations(counts.transitions, counts.initial, durations, float(total))


def complete_durations(censored: FloatArray, weights: SegmentWeights) -> FloatArray:
    """Return the expected durations (K, D) of segments of which only the first rows are seen.

    A segment that reaches the end with d rows has the duration d' ≥ d with probability p(d') / P(D ≥ d). Row by row, a
    share p(d) / P(D ≥ d), the hazard, of those that have come as far as d ends there.
    """
    with np.errstate(invalid="ignore"):
        hazard = np.exp(weights.durations - weights.survival)
    hazard = np.where(np.isneginf(weights.survival), 0.0, hazard)
    completed, going_on = np.zeros_like(censored), np.zeros(len(censored))
    for d in range(censored.shape[1]):
        going_on = going_on + censored[:, d]
        completed[:, d] = going_on * hazard[:, d]
        going_on = going_on - completed[:, d]
    return completed


def _row_transitions(posterior: FloatArray, transitions: FloatArray, starts: IntArray) -> FloatArray:
    """Return the expected transitions (K, K) between rows: within a segment, all that are not between segments."""
    followed = posterior.sum(axis=0) - posterior[starts[1:] - 1].sum(axis=0)
    return transitions + np.diag(np.maximum(followed - transitions.sum(axis=1), 0.0))


def _normalised(logs: FloatArray) -> FloatArray:
    """Return logarithms (K, N) as log-distributions (N, K)."""
    rows = np.ascontiguousarray(logs.T)
    normalised: FloatArray = rows - log_sum_exp(rows)[:, None]
    return normalised


def _impossible(evidence: FloatArray, weights: SegmentWeights, bounds: IntArray) -> ValueError:
    """Return the error that names the first row of a sequence that no segments explain."""
    part = np.ascontiguousarray(evidence[:, bounds[0] : bounds[1]])
    filtered, cavity = np.empty_like(part), np.empty_like(part)
    row_passes(part, weights, bounds - bounds[0], np.zeros_like(part), filtered, cavity)
    row = int(bounds[0] + np.flatnonzero(filtered.max(axis=0) == -np.inf)[0])
    D = weights.durations.shape[1]
    return RowError(
        row, f"row {{}} has probability zero given the rows before it: no segments of at most {D} rows explain it"
    )


def compile_kernels() -> None:
    """Compile the kernels that this module calls, or load them from the cache."""
    evidence = np.zeros((3, 2))
    with np.errstate(divide="ignore"):
        weights = segment_weights(logarithm(1.0 - np.eye(2)), np.log([0.5, 0.5]), np.log([[0.5, 0.5], [0.5, 0.5]]))
    segment_forward_backward(evidence, weights)
    best_segmentation(evidence, weights)
