"""Markov chains over classes: transition counts, messages, forward-backward and the most probable path.

Rows come as log evidence or as distributions over K classes, shape (N, K). `lengths` says where sequences end: an
array of S positive numbers that sum to N; None is one sequence. No transition crosses a boundary.

Source: L. R. Rabiner, "A tutorial on hidden Markov models and selected applications in speech recognition", 1989.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input
from actors.kernels.markov.recursions import Floats, Integers, Messages, best_path, log_passes, scaled_passes

PAIRS_AT_ONCE = 1_000_000
"""Numbers held at once by `sampled_counts`."""


@dataclass(frozen=True, eq=False)
class Smoothed:
    """What `forward_backward` finds.

    Attributes
    ----------
    prediction : ndarray of float64, shape (N, K)
        P(z_t | rows before t of the same sequence).
    filtered : ndarray of float64, shape (N, K)
        P(z_t | rows up to t).
    backward : ndarray of float64, shape (N, K)
        p(rows after t | z_t), normalised as if it were a distribution over z_t.
    posterior : ndarray of float64, shape (N, K)
        P(z_t | all rows), gamma.
    log_cavity : ndarray of float64, shape (N, K)
        log P(z_t | all rows but t): prediction times backward message, normalised.
    transitions : ndarray of float64, shape (K, K)
        Expected number of transitions from i to j, xi summed over t.
    initial : ndarray of float64, shape (K,)
        Expected number of sequences that start in each class.
    log_likelihood : float
        Log density of all rows.
    """

    prediction: Floats
    filtered: Floats
    backward: Floats
    posterior: Floats
    log_cavity: Floats
    transitions: Floats
    initial: Floats
    log_likelihood: float

    @cached_property
    def log_prediction(self) -> Floats:
        """Log of the prediction, shape (N, K)."""
        return _log(self.prediction)

    @cached_property
    def log_backward(self) -> Floats:
        """Log of the backward message, shape (N, K)."""
        return _log(self.backward)


def boundaries(rows: int, lengths: ArrayLike | None) -> Integers:
    """Return where sequences start, and the end of the last one.

    Returns
    -------
    ndarray of int64, shape (S + 1,)
        0, …, N.

    Raises
    ------
    ValueError
        If there is no row, or lengths are not positive whole numbers that sum to the number of rows.
    """
    if rows < 1:
        raise ValueError("a sequence needs at least one row")
    if lengths is None:
        return np.array([0, rows], dtype=np.int64)
    sizes = np.asarray(lengths)
    if sizes.ndim != 1 or sizes.size == 0 or sizes.dtype.kind not in "iu" or sizes.min() < 1 or sizes.sum() != rows:
        raise ValueError(f"lengths must be positive whole numbers that sum to {rows}, they are {sizes.tolist()}")
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _pairs(P: ArrayLike, lengths: ArrayLike | None) -> tuple[Floats, Integers]:
    """Return the distributions as float64 and the rows that have a successor in their sequence."""
    rows = as_input(P)
    if rows.ndim != 2:
        raise ValueError(f"distributions must have the shape (N, K), theirs is {rows.shape}")
    _check_distributions(rows, "row {} of P")
    starts = boundaries(rows.shape[0], lengths)
    return rows, np.setdiff1d(np.arange(rows.shape[0]), starts[1:] - 1, assume_unique=True)


def _check_distributions(rows: Floats, name: str) -> None:
    """Refuse rows that are not distributions, up to float32's rounding."""
    bad = np.flatnonzero(~((rows >= 0.0).all(axis=1) & (np.abs(rows.sum(axis=1) - 1.0) <= 1e-4)))
    if bad.size:
        raise ValueError(f"{name.format(bad[0])} is not a distribution: {rows[bad[0]].tolist()}")


def expected_counts(P: ArrayLike, lengths: ArrayLike | None = None) -> Floats:
    """Return the expected transitions if neighbouring classes were independent given P: Σ_t P_t P_{t+1}ᵀ.

    Parameters
    ----------
    P : array_like, shape (N, K)
        Distributions over classes.
    lengths : array_like of int, shape (S,), optional
        Lengths of the sequences.

    Returns
    -------
    ndarray of float64, shape (K, K)
        Counts from (row) to (column).

    Raises
    ------
    ValueError
        If a row is no distribution or lengths don't add up.
    """
    rows, before = _pairs(P, lengths)
    counts: Floats = rows[before].T @ rows[before + 1]
    return counts


def sampled_counts(
    P: ArrayLike, num_samp: int, generator: np.random.Generator, lengths: ArrayLike | None = None
) -> Integers:
    """Count sampled transitions: for each t, num_samp times, z' ~ P_t, z ~ P_{t+1}, N[z', z] += 1.

    The two draws are independent, so a pair (z', z) has probability P_t(z') P_{t+1}(z), and how often each of the K²
    pairs occurs among num_samp independent ones is multinomial by definition. One multinomial draw per t therefore has
    the same distribution as the loop over samples.

    Parameters
    ----------
    P, lengths
        As in `expected_counts`.
    num_samp : int
        Samples per pair of rows.
    generator : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of int64, shape (K, K)
        Counts; they sum to num_samp × (N - S).

    Raises
    ------
    ValueError
        As `expected_counts`, or if num_samp is negative.
    """
    rows, before = _pairs(P, lengths)
    rows = rows / rows.sum(axis=1, keepdims=True)  # numpy's multinomial is stricter than float32 rows can be
    K = rows.shape[1]
    counts = np.zeros(K * K, dtype=np.int64)
    step = max(1, PAIRS_AT_ONCE // (K * K))
    for first in range(0, before.size, step):
        some = before[first : first + step]
        joint = (rows[some][:, :, None] * rows[some + 1][:, None, :]).reshape(some.size, K * K)
        counts += generator.multinomial(num_samp, joint).sum(axis=0)
    return counts.reshape(K, K)


def transition_probabilities(counts: ArrayLike, alpha: float) -> Floats:
    """Return (N[z', z] + alpha) / (Σ_z N[z', z] + K alpha).

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
        If a count or alpha is negative or not finite, or a row without counts meets alpha = 0.
    """
    smoothed = np.asarray(counts, dtype=np.float64) + alpha
    totals = smoothed.sum(axis=-1, keepdims=True)
    if not (alpha >= 0.0 and np.isfinite(smoothed).all() and (smoothed >= alpha).all() and (totals > 0.0).all()):
        raise ValueError(f"counts must be finite and >= 0, with alpha ({alpha}) > 0 where a row has none")
    probabilities: Floats = smoothed / totals
    return probabilities


def one_step_message(
    P: ArrayLike, T: ArrayLike, previous_log_message: ArrayLike | None = None, lengths: ArrayLike | None = None
) -> Floats:
    """Return the tutorial's message: P(z_t | z_{t-1}) averaged over P_{t-1}, times the message of the round before.

    Parameters
    ----------
    P, lengths
        As in `expected_counts`.
    T : array_like, shape (K, K)
        Transition probabilities.
    previous_log_message : array_like, shape (N, K), optional
        Log of the message of the round before, in any normalisation.

    Returns
    -------
    ndarray of float64, shape (N, K)
        Log-distributions. The first row of each sequence is its own posterior.

    Raises
    ------
    ValueError
        As `expected_counts`; if T's rows are no distributions, shapes differ, or a row has no possible class.
    """
    rows, before = _pairs(P, lengths)
    message = _log(rows)
    message[before + 1] = _log(rows[before] @ _check_transitions(T, rows.shape[1]))
    if previous_log_message is not None:
        previous = as_input(previous_log_message)
        if previous.shape != rows.shape:
            raise ValueError(f"the previous message must have the shape {rows.shape}, its is {previous.shape}")
        message[before + 1] += previous[before + 1]
    return _normalize(message, "row {}: prediction and previous message exclude each other")


def forward_backward(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Smoothed:
    """Infer the classes of all rows from the evidence of all rows.

    Parameters
    ----------
    log_evidence : array_like, shape (N, K)
        log p(row t | z_t = k), up to a constant per row (which goes into the log-likelihood). -inf is allowed, but not
        for a whole row.
    T : array_like, shape (K, K)
        Transition probabilities; zeros are allowed.
    initial : array_like, shape (K,)
        Distribution of the first class of each sequence; zeros are allowed.
    lengths : array_like of int, shape (S,), optional
        Lengths of the sequences.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: their evidence is flat (log evidence 0), whatever is in their place.

    Returns
    -------
    Smoothed
        The messages, posteriors and counts.

    Raises
    ------
    ValueError
        If shapes don't fit, T or initial is no distribution, evidence has NaN, +inf or a row of -inf, or a row is
        impossible given the rows before it (the text names it).
    """
    evidence, starts = _check_evidence(log_evidence, lengths, mask)
    N, K = evidence.shape
    matrix, first = _check_transitions(T, K), _check_initial(initial, K)
    shift = evidence.max(axis=1)
    a, b, c, d, e = np.empty((5, N, K))
    out = Messages(a, b, c, d, e, np.empty(N), np.zeros((K, K)))
    likelihood = np.exp(evidence - shift[:, None])
    if scaled_passes(likelihood, shift, matrix, np.ascontiguousarray(matrix.T), first, starts, out):
        log_cavity = _log(out.cavity)
    else:
        out.transitions[:] = 0.0
        row = log_passes(evidence, _log(matrix), _log(first), starts, out)
        if row >= 0:
            raise ValueError(f"row {row} has probability zero given the rows before it")
        log_cavity = out.cavity.copy()
        for logs in out[:4]:
            np.exp(logs, out=logs)
    return Smoothed(
        prediction=out.prediction,
        filtered=out.filtered,
        backward=out.backward,
        posterior=out.posterior,
        log_cavity=log_cavity,
        transitions=out.transitions,
        initial=out.posterior[starts[:-1]].sum(axis=0),
        log_likelihood=float(out.log_scale.sum()),
    )


def viterbi(
    log_evidence: ArrayLike,
    T: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> tuple[Integers, float]:
    """Return the most probable classes.

    Parameters
    ----------
    log_evidence, T, initial, lengths, mask
        As in `forward_backward`.

    Returns
    -------
    path : ndarray of int64, shape (N,)
        The classes, of all sequences.
    log_joint : float
        Log density of path and rows, summed over sequences.

    Raises
    ------
    ValueError
        As `forward_backward`.
    """
    evidence, starts = _check_evidence(log_evidence, lengths, mask)
    K = evidence.shape[1]
    path = np.zeros(evidence.shape[0], dtype=np.int64)
    log_T, log_initial = _log(_check_transitions(T, K)), _log(_check_initial(initial, K))
    log_joint = float(best_path(evidence, log_T, log_initial, starts, path))
    if log_joint == -np.inf:
        raise ValueError(f"row {path[0]} has probability zero given the rows before it")
    return path, log_joint


def _log(values: Floats) -> Floats:
    """Return the logarithm, -inf for 0 without a warning."""
    with np.errstate(divide="ignore"):
        logs: Floats = np.log(values)
    return logs


def _normalize(logs: Floats, name: str) -> Floats:
    """Return rows shifted so that their exponentials sum to one; refuse a row without a possible class."""
    largest = logs.max(axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(largest[:, 0]))
    if bad.size:
        raise ValueError(name.format(bad[0]))
    shifted: Floats = logs - largest
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _check_evidence(
    log_evidence: ArrayLike, lengths: ArrayLike | None, mask: ArrayLike | None
) -> tuple[Floats, Integers]:
    """Return the evidence as float64 with missing rows flattened, and the boundaries."""
    evidence = as_input(log_evidence)
    if evidence.ndim != 2:
        raise ValueError(f"log evidence must have the shape (N, K), its is {evidence.shape}")
    if mask is not None:
        missing = as_input(mask, np.bool_)
        if missing.shape != evidence.shape[:1]:
            raise ValueError(f"the mask must have the shape {evidence.shape[:1]}, its is {missing.shape}")
        evidence = np.where(missing[:, None], 0.0, evidence)
    bad = np.flatnonzero(~np.isfinite(evidence.max(axis=1)))
    if bad.size:
        raise ValueError(f"row {bad[0]} of the log evidence has NaN, +inf, or no possible class")
    return evidence, boundaries(evidence.shape[0], lengths)


def _check_transitions(T: ArrayLike, classes: int) -> Floats:
    """Return T as float64, rows normalised exactly."""
    matrix = as_input(T)
    if matrix.shape != (classes, classes):
        raise ValueError(f"T must have the shape ({classes}, {classes}), its is {matrix.shape}")
    _check_distributions(matrix, "row {} of T")
    return np.ascontiguousarray(matrix / matrix.sum(axis=1, keepdims=True))


def _check_initial(initial: ArrayLike, classes: int) -> Floats:
    """Return the initial distribution as float64, normalised exactly."""
    first = as_input(initial)
    if first.shape != (classes,):
        raise ValueError(f"initial must have the shape ({classes},), its is {first.shape}")
    _check_distributions(first[None, :], "initial")
    return np.ascontiguousarray(first / first.sum())


def compile_kernels() -> None:
    """Compile the kernels beneath this module, or load them from the cache."""
    evidence, T, initial = np.zeros((2, 2)), np.eye(2), np.array([1.0, 0.0])
    forward_backward(evidence, T, initial)
    forward_backward(np.array([[-100.0, 0.0]]), T, initial)  # far enough to need the log domain
    viterbi(evidence, T, initial)
