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

NEGLIGIBLE = 1e-9
"""Rows of a smaller probability of a class do not count for its split: together, they are less than one row in 10^9."""

CLASSES_PER_MOVE = 8
"""Of twice as many classes or more, the first proposal makes one move for each of these at once."""


class Split(NamedTuple):
    """A division of one class into two.

    Attributes
    ----------
    strength : float
        The first singular value of the covariance in :func:`split`, in rows.
    side : ndarray (N,) float64
        The sign assigns each row of the class to one of the halves; zero for rows of other classes.
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
    N = len(posterior)
    starts = boundaries(N, lengths)
    # Most rows are surely of another class: those left out, all splits together cost N K², not N K³.
    members = np.flatnonzero(posterior[:, k] > NEGLIGIBLE)
    first, last = (np.isin(members, edges) for edges in (starts[:-1], starts[1:] - 1))
    before, after = posterior[members - 1], posterior[(members + 1) % N]
    before[first], after[last] = 0.0, 0.0
    weights = posterior[members, k]
    weights[first | last] = 0.0  # these rows lack a predecessor or a successor
    total = weights.sum() + TINY
    before -= weights @ before / total
    after -= weights @ after / total
    U, strengths, Vt = np.linalg.svd((before * weights[:, None]).T @ after)
    side = np.zeros(N)
    side[members] = before @ U[:, 0] + after @ Vt[0]
    return Split(float(strengths[0]), side)


def split_and_merge(
    posterior: FloatArray, transitions: npt.ArrayLike, number: int, lengths: npt.ArrayLike | None = None
) -> IntArray | None:
    """Return the labels after the `number`-th proposal: two similar classes are merged, and a third is split.

    With many classes, several such moves are proposed at once: one of the best ones for each
    :data:`CLASSES_PER_MOVE` classes, no class being in two of them. One by one, they would need as many chains.

    Parameters
    ----------
    posterior : ndarray (N, K) float64
        Rows sum to one.
    transitions : array_like (K, K)
        Expected numbers of transitions.
    number : int
        Index of the proposal, from 0: the moves at once, if there are several, then single moves. Moves are sorted by
        the sum of two ranks: the pair's by similarity, the split class's by strength.
    lengths : array_like of int (S,), optional
        Lengths of the sequences.

    Returns
    -------
    ndarray (N,) int64, or None
        None if there are at most `number` moves.
    """
    K = posterior.shape[1]
    at_once = K // CLASSES_PER_MOVE
    above = np.triu_indices(K, 1)
    # Enough pairs for the moves at once, each of which excludes pairs of three classes, in the order of their ranks.
    pairs = np.argsort(-similarity(transitions)[above], kind="stable")[: number + 1 + K * (at_once > 1)]
    labels: IntArray = posterior.argmax(axis=1).astype(np.int64)
    splits = [split(posterior, k, lengths) for k in range(K)]
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
    ranked = [(kept, freed, k) for *_, kept, freed, k in sorted(moves)]
    proposals = [[move] for move in ranked]
    if at_once > 1 and len(several := _apart(ranked, at_once)) > 1:
        proposals.insert(0, several)
    if number >= len(proposals):
        return None
    for kept, freed, k in proposals[number]:
        labels[labels == freed] = kept
        labels[(labels == k) & (splits[k].side > 0)] = freed
    return labels


def _apart(moves: list[tuple[int, int, int]], most: int) -> list[tuple[int, int, int]]:
    """Return the first moves, at most `most`, that have no class in common."""
    chosen: list[tuple[int, int, int]] = []
    used: set[int] = set()
    for move in moves:
        if len(chosen) < most and used.isdisjoint(move):
            chosen.append(move)
            used.update(move)
    return chosen
