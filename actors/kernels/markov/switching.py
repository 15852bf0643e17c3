"""Inference in a Markov chain whose transition matrix depends on a regime of each row.

A row t has a class z_t and a regime r_t: p(z_t | z_{t-1}, r_t) = A^{r_t}[z_{t-1}, z_t]. Here the regimes of the rows
are independent given priors π_t(r), which another model sends; what the rows say of each regime goes back to it as a
likelihood. A model whose regimes form a Markov chain themselves is a hierarchical hidden Markov model.

Sources: J. D. Hamilton, "A new approach to the economic analysis of nonstationary time series and the business cycle",
Econometrica 57, 1989 (Markov switching); K. P. Murphy and M. A. Paskin, "Linear-time inference in hierarchical HMMs",
2001; J. S. Yedidia, W. T. Freeman and Y. Weiss, "Constructing free-energy approximations and generalized belief
propagation algorithms", 2005 (the sum of the parts' evidences is the Bethe free energy).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input, kernel
from actors.kernels.log_rows import softmax_of_rows
from actors.kernels.markov.inference import RowError, check_possible, known_evidence
from actors.kernels.mixture.sequence_init import kmeans_labels
from actors.kernels.types import FloatArray, IntArray

WINDOWS = (12, 6, 24, 48)
"""Rows of the windows from whose pairs of neighbours a chain starts, by the number of the chain."""

RESTARTS = 10
"""Starts of k-means."""


@dataclass(frozen=True, eq=False)
class SwitchingResult:
    """The result of :func:`switching_forward_backward`.

    Attributes
    ----------
    filtered, posterior : ndarray (N, K) float64
        P(z_t | rows up to t), and given all rows.
    log_cavity : ndarray (N, K) float64
        log P(z_t | all rows but t).
    transitions : ndarray (R, K, K) float64
        Expected numbers of transitions in each regime.
    initial : ndarray (K,) float64
        Expected numbers of sequences that begin in each class.
    log_regimes : ndarray (N, R) float64
        log p(rows | r_t = r) - log p(rows): given the priors of all *other* rows' regimes, and relative to the density
        under all priors, so that Σ_r π_t(r) exp(log_regimes) = 1. 0 for first rows of sequences, which have no regime.
    row_log_likelihood : ndarray (N,) float64
        log p(row t | rows before t of the same sequence).
    """

    filtered: FloatArray
    posterior: FloatArray
    log_cavity: FloatArray
    transitions: FloatArray
    initial: FloatArray
    log_regimes: FloatArray
    row_log_likelihood: FloatArray

    @property
    def log_likelihood(self) -> float:
        """Log density of all rows under the priors of the regimes."""
        return float(self.row_log_likelihood.sum())


def switching_forward_backward(
    log_evidence: ArrayLike,
    matrices: ArrayLike,
    prior: ArrayLike,
    initial: ArrayLike,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> SwitchingResult:
    """Return posteriors of classes, expected transitions and likelihoods of regimes.

    Parameters
    ----------
    log_evidence : array_like, shape (N, K)
        log p(row t | z_t = k), up to a constant per row.
    matrices : array_like, shape (R, K, K)
        A^r, the transitions in each regime; rows are distributions.
    prior : array_like, shape (N, R)
        π_t(r), distributions.
    initial : array_like, shape (K,)
        Of the first class of a sequence.
    lengths, mask
        As for :func:`actors.kernels.markov.inference.forward_backward`.

    Raises
    ------
    ValueError
        If shapes do not fit, or a row is impossible.
    """
    evidence, starts = known_evidence(log_evidence, lengths, mask)
    A, P, first = as_input(matrices), as_input(prior), as_input(initial)
    (N, K), R = evidence.shape, len(A)
    if A.shape != (R, K, K) or P.shape != (N, R) or first.shape != (K,):
        raise ValueError(
            f"expected matrices ({R}, {K}, {K}), priors of regimes ({N}, {R}) and initial ({K},), got {A.shape}, "
            f"{P.shape} and {first.shape}"
        )
    return run_switching_passes(evidence, starts, A, P, first)


def run_switching_passes(
    evidence: FloatArray,
    starts: IntArray,
    matrices: FloatArray,
    prior: FloatArray,
    initial: FloatArray,
    entering: FloatArray | None = None,
    leaving: FloatArray | None = None,
) -> SwitchingResult:
    """Return the result of :func:`switching_forward_backward` for rows that may be a part of their sequences.

    Parameters
    ----------
    evidence : ndarray of float64, shape (N, K)
        Log evidence, zeros in missing rows.
    starts : ndarray of int64, shape (S + 1,)
        Boundaries of the sequences, or of their parts among these rows.
    matrices, prior, initial : ndarray of float64, shapes (R, K, K), (N, R), (K,)
    entering : ndarray of float64, shape (K,), optional
        Distribution of the class of the row before these, given all rows up to it, if the first row continues its
        sequence. The transition into the first row is then among those that are counted.
    leaving : ndarray of float64, shape (K,), optional
        p(rows after the last row | its class), up to a factor, if these continue its sequence.

    Raises
    ------
    ValueError
        If a row is impossible.
    """
    check_possible(evidence)
    (N, K), R, none = evidence.shape, len(matrices), np.ones(evidence.shape[1])
    ends = none if entering is None else entering, none if leaving is None else leaving
    crossing = entering is not None, leaving is not None
    largest = evidence.max(axis=1)
    likelihood = np.exp(evidence - largest[:, None])
    filtered, backward, predicted = (np.empty((N, K)) for _ in range(3))
    scales, regimes, counts = np.empty(N), np.ones((N, R)), np.zeros((R, K, K))
    out = filtered, backward, predicted, scales, regimes, counts
    failed = switching_passes(likelihood, matrices, prior, initial, starts, ends, crossing, out)
    if failed >= 0:
        raise RowError(int(failed), "row {} has probability zero given the rows before it")
    posterior, cavity = filtered * backward, predicted * backward
    cavity /= cavity.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        log_cavity, log_regimes = np.log(cavity), np.log(regimes)
    return SwitchingResult(
        filtered,
        posterior / posterior.sum(axis=1, keepdims=True),
        log_cavity,
        counts,
        posterior[starts[int(crossing[0]) : -1]].sum(axis=0),
        log_regimes,
        np.log(scales) + largest,
    )


@kernel
def switching_passes(
    likelihood: FloatArray,
    matrices: FloatArray,
    prior: FloatArray,
    initial: FloatArray,
    starts: IntArray,
    ends: tuple[FloatArray, FloatArray],
    crossing: tuple[bool, bool],
    out: tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray],
) -> int:
    """Fill in the arrays `out` by the scaled forward and backward recursions; return -1, or the row that is impossible.

    They are `filtered`, `backward`, `predicted`, `scales`, `regimes` and `counts`. `backward` is p(rows after t | z_t)
    / p(rows after t | rows up to t); `scales` p(row t | rows before t). `ends` are what enters the first row and what
    leaves the last one, if their sequences are `crossing` the ends of these rows.
    """
    filtered, backward, predicted, scales, regimes, counts = out
    K, R = likelihood.shape[1], matrices.shape[0]
    mixed = np.empty((K, K))
    for s in range(starts.shape[0] - 1):
        begin, end = starts[s], starts[s + 1]
        first = begin if s == 0 and crossing[0] else begin + 1  # the first row to which a transition leads
        for t in range(begin, end):
            before = ends[0] if t == begin else filtered[t - 1]
            for j in range(K):
                predicted[t, j] = initial[j] if t < first else 0.0
            if t >= first:
                for r in range(R):
                    for i in range(K):
                        weight = prior[t, r] * before[i]
                        for j in range(K):
                            predicted[t, j] += weight * matrices[r, i, j]
            total = 0.0
            for j in range(K):
                filtered[t, j] = predicted[t, j] * likelihood[t, j]
                total += filtered[t, j]
            if not total > 0.0:
                return t
            scales[t] = total
            for j in range(K):
                filtered[t, j] /= total
        if crossing[1] and s == starts.shape[0] - 2:
            _set_last(backward[end - 1], filtered[end - 1], ends[1])
        else:
            backward[end - 1] = 1.0
        for t in range(end - 1, first - 1, -1):
            before = ends[0] if t == begin else filtered[t - 1]
            mixed[:] = 0.0
            for r in range(R):
                of_regime = 0.0
                for i in range(K):
                    for j in range(K):
                        follows = matrices[r, i, j] * likelihood[t, j] * backward[t, j] / scales[t]
                        mixed[i, j] += prior[t, r] * follows
                        of_regime += before[i] * follows
                        counts[r, i, j] += prior[t, r] * before[i] * follows
                regimes[t, r] = of_regime
            if t == begin:
                continue
            for i in range(K):
                total = 0.0
                for j in range(K):
                    total += mixed[i, j]
                backward[t - 1, i] = total
    return -1


@kernel
def _set_last(backward: FloatArray, filtered: FloatArray, leaving: FloatArray) -> None:
    """Set the last row's p(rows after t | z_t) / p(rows after t | rows up to t) from what leaves it, up to a factor."""
    total = 0.0
    for i in range(leaving.shape[0]):
        total += filtered[i] * leaving[i]
    for i in range(leaving.shape[0]):
        backward[i] = leaving[i] / total if total > 0.0 else 1.0


def start_counts(
    log_prob: FloatArray, regimes: int, window: int, starts: IntArray, generator: np.random.Generator
) -> FloatArray:
    """Return transitions (R, K, K) from which learning starts: those of windows that are alike.

    The rows are cut into windows; in each, pairs of neighbours are counted as if rows were independent. K-means of the
    square roots of their shares (whose Euclidean distance is Hellinger's) finds windows that are alike. A single row
    says nothing of its regime, and regimes with equal priors and equal matrices would stay equal.

    Parameters
    ----------
    log_prob : ndarray (N, K) float64
        Log-distributions of the rows' classes.
    regimes : int
        R.
    window : int
        Rows.
    starts : ndarray (S + 1,) int64
        Boundaries of the sequences.
    generator : numpy.random.Generator
    """
    P = softmax_of_rows(log_prob)
    K = P.shape[1]
    tables = []
    for first, end in pairwise(starts.tolist()):
        for begin in range(first, max(end - 1, first), window):
            rows = P[begin : min(begin + window + 1, end)]
            if len(rows) > 1:
                tables.append(rows[:-1].T @ rows[1:])
    if not tables:
        return np.zeros((regimes, K, K))
    counts = np.array(tables)
    shares = np.sqrt(counts / counts.sum(axis=(1, 2), keepdims=True)).reshape(len(counts), -1)
    labels = kmeans_labels(shares, min(regimes, len(counts)), generator, restarts=RESTARTS)
    found: FloatArray = np.zeros((regimes, K, K))
    np.add.at(found, labels, counts)
    return found


def compile_kernels() -> None:
    """Compile the kernels that this module calls, or load them from the cache."""
    switching_forward_backward(np.zeros((3, 2)), np.full((2, 2, 2), 0.5), np.full((3, 2), 0.5), np.full(2, 0.5))
