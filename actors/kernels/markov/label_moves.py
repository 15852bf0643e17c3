"""Moves: what the order of the rows says about classes that hold two kinds of rows, and kinds that hold two classes.

The local optima of a mixture look alike: one class too many here, one too few there (Ueda et al. 2000, "SMEM algorithm
for mixture models"). In a sequence both show. Two halves of one kind have the same predecessors and successors; and in
a class of two kinds of rows, who came before tells who comes next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from actors.kernels.markov.inference import boundaries
from actors.kernels.types import FloatArray, IntArray

TINY = 1e-300


class Split(NamedTuple):
    """How a class falls into two: how strongly (in rows), and for each row which side it is on, if it is in the class.

    Attributes
    ----------
    strength : float
    side : ndarray (N,) float64
        Positive on the one side.
    """

    strength: float
    side: FloatArray


def similarity(transitions: npt.ArrayLike) -> FloatArray:
    """Return how alike the successors and predecessors of two classes are, (K, K) in [0, 1], -1 on the diagonal.

    The mean of the Bhattacharyya coefficients of their rows and of their columns.

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
    """Return how class `k` falls into two by what its rows' predecessors tell of their successors.

    The first singular pair of Σ_t P_t(k) (P_{t-1} - mean)ᵀ (P_{t+1} - mean): within a class of one kind of rows
    predecessor and successor of a first-order chain are independent, so this covariance is noise; within a class of
    two kinds its first pair tells them apart.

    Parameters
    ----------
    posterior : ndarray (N, K) float64
    k : int
    lengths : array_like of int (S,), optional
        Lengths of the sequences.
    """
    N, K = posterior.shape
    starts = boundaries(N, lengths)
    before, after = np.zeros((N, K)), np.zeros((N, K))
    before[1:], after[:-1] = posterior[:-1], posterior[1:]
    before[starts[:-1]], after[starts[1:] - 1] = 0.0, 0.0
    weights = posterior[:, k].copy()
    weights[starts[:-1]], weights[starts[1:] - 1] = 0.0, 0.0  # no predecessor, no successor
    total = weights.sum() + TINY
    before -= weights @ before / total
    after -= weights @ after / total
    U, strengths, Vt = np.linalg.svd((before * weights[:, None]).T @ after)
    return Split(float(strengths[0]), before @ U[:, 0] + after @ Vt[0])


def split_and_merge(
    posterior: FloatArray, transitions: npt.ArrayLike, number: int, lengths: npt.ArrayLike | None = None
) -> IntArray | None:
    """Return the labels of the `number`-th move: two classes that look the same become one, a third falls into two.

    Parameters
    ----------
    posterior : ndarray (N, K) float64
        Rows sum to one.
    transitions : array_like (K, K)
        Expected numbers of transitions.
    number : int
        From 0, the most promising first: by turns the next best class to split, and the next best pair to merge.
    lengths : array_like of int (S,), optional

    Returns
    -------
    ndarray (N,) int64, or None
        None where there are no so many moves.
    """
    above = np.triu_indices(posterior.shape[1], 1)
    pairs = np.argsort(-similarity(transitions)[above], kind="stable")[: number + 1]
    labels: IntArray = posterior.argmax(axis=1).astype(np.int64)
    splits = [split(posterior, k, lengths) for k in range(posterior.shape[1])]
    strongest = [
        k
        for k in np.argsort([-found.strength for found in splits], kind="stable")
        if len(set(splits[k].side[labels == k] > 0)) == 2  # a class that stays whole would be no move
    ]
    moves = []
    for likeness, pair in enumerate(pairs):
        kept, freed = int(above[0][pair]), int(above[1][pair])
        others = [int(k) for k in strongest if k not in (kept, freed)]
        moves += [(likeness + strength, likeness, kept, freed, k) for strength, k in enumerate(others)]
    if number >= len(moves):
        return None
    *_, kept, freed, k = sorted(moves)[number]
    labels[labels == freed] = kept
    labels[(labels == k) & (splits[k].side > 0)] = freed
    return labels
