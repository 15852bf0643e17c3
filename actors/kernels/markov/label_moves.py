"""Split-and-merge moves of labels, proposed from the order of the rows.

Typical local optima of a mixture divide one component between two classes and join two components in one class (Ueda et
al. 2000, "SMEM algorithm for mixture models"). A sequence shows both errors: two halves of one component have the same
predecessors and successors, and in a class of two components the predecessor predicts the successor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from actors.kernels.sequences import boundaries
from actors.kernels.types import FloatArray, IntArray

TINY = 1e-300
"""Added to sums that may be zero and are divided by."""


class Split(NamedTuple):
    """A division of one class into two.

    Attributes
    ----------
    strength : float
        The first singular value of the covariance in :func:`split`, in rows.
    side : ndarray (N,) float64
        The sign assigns each row of the class to one of the halves.
    """

    strength: float
    side: FloatArray


def similarity(transitions: npt.ArrayLike) -> FloatArray:
    """Return the similarity of the predecessors and successors of two classes, (K, K) in [0, 1], -1 on the diagonal.

    It is the mean of the Bhattacharyya coefficients of their rows and of their columns of the transition counts.

    Parameters
    ----------
    transitions : array_like (K, K)
        Expected numbers of transitions.
    """
    counts = np.asarray(transitions, np.float64) + TINY
    after = np.sqrt(counts / counts.sum(axis=1, keepdims=True))
    before = np.sqrt(counts / counts.sum(axis=0)).T
    alike: FloatArray = 0.5 * (after @ after.T + before @ before.T)
    np.fill_diagonal(alike, -1.0)
    return alike


def split(posterior: FloatArray, k: int, lengths: npt.ArrayLike | None = None) -> Split:
    """Return the division of class `k` by the covariance of its rows' predecessors and successors.

    It is given by the first singular pair of Σ_t P_t(k) (P_{t-1} - mean)ᵀ (P_{t+1} - mean). In a first-order chain,
    predecessor and successor are independent given the class, so this covariance is noise in a class of one component;
    in a class of two components its first singular pair separates them.

    Parameters
    ----------
    posterior : ndarray (N, K) float64
        Rows sum to one.
    k : int
        The class to divide.
    lengths : array_like of int (S,), optional
        Lengths of the sequences.
    """
    N, K = posterior.shape
    starts = boundaries(N, lengths)
    before, after = np.zeros((N, K)), np.zeros((N, K))
    before[1:], after[:-1] = posterior[:-1], posterior[1:]
    before[starts[:-1]], after[starts[1:] - 1] = 0.0, 0.0
    weights = posterior[:, k].copy()
    weights[starts[:-1]], weights[starts[1:] - 1] = 0.0, 0.0  # these rows lack a predecessor or a successor
    total = weights.sum() + TINY
    before -= weights @ before / total
    after -= weights @ after / total
    U, strengths, Vt = np.linalg.svd((before * weights[:, None]).T @ after)
    return Split(float(strengths[0]), before @ U[:, 0] + after @ Vt[0])


def split_and_merge(
    posterior: FloatArray, transitions: npt.ArrayLike, number: int, lengths: npt.ArrayLike | None = None
) -> IntArray | None:
    """Return the labels after the `number`-th move: two similar classes are merged, and a third is split.

    Parameters
    ----------
    posterior : ndarray (N, K) float64
        Rows sum to one.
    transitions : array_like (K, K)
        Expected numbers of transitions.
    number : int
        Index of the move, from 0. Moves are sorted by the sum of two ranks: the pair's by similarity, the split class's
        by strength.
    lengths : array_like of int (S,), optional
        Lengths of the sequences.

    Returns
    -------
    ndarray (N,) int64, or None
        None if there are at most `number` moves.
    """
    above = np.triu_indices(posterior.shape[1], 1)
    pairs = np.argsort(-similarity(transitions)[above], kind="stable")[: number + 1]
    labels: IntArray = posterior.argmax(axis=1).astype(np.int64)
    splits = [split(posterior, k, lengths) for k in range(posterior.shape[1])]
    strongest = [
        k
        for k in np.argsort([-candidate.strength for candidate in splits], kind="stable")
        if len(set(splits[k].side[labels == k] > 0)) == 2  # otherwise one half would be empty
    ]
    moves = []
    for pair_rank, pair in enumerate(pairs):
        kept, freed = int(above[0][pair]), int(above[1][pair])
        others = [int(k) for k in strongest if k not in (kept, freed)]
        moves += [(pair_rank + split_rank, pair_rank, kept, freed, k) for split_rank, k in enumerate(others)]
    if number >= len(moves):
        return None
    *_, kept, freed, k = sorted(moves)[number]
    labels[labels == freed] = kept
    labels[(labels == k) & (splits[k].side > 0)] = freed
    return labels
