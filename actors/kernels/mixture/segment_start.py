"""A start for classes that are autoregressions: short segments of rows, merged by the evidence.

Sequences are cut into segments of about the same length. Each is a class of its own at first; the two classes whose
union raises the log marginal likelihood most, or lowers it least, become one, until K are left: the agglomeration of
K. A. Heller and Z. Ghahramani, "Bayesian hierarchical clustering", 2005, without its prior of trees, for the
matrix-normal inverse-Wishart likelihood of :mod:`actors.kernels.mixture.autoregression`, whose statistics add up.

Where the cuts fall and which pair is first changes much of the result, and the evidence does not tell which one is
right, since data are no autoregressions exactly. So several lengths of segments are tried, and rows that are together
in most of the results are together in the end: the co-association of A. L. N. Fred and A. K. Jain, "Combining multiple
clusterings using evidence accumulation", 2005, with average linkage.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from actors.kernels.mixture.autoregression import MNIWPrior, Series
from actors.kernels.special import multigammaln
from actors.kernels.types import BoolArray, FloatArray, IntArray

MAX_SEGMENTS = 400
"""Segments that are compared with each other; of many rows, segments are longer."""


class Moments(NamedTuple):
    """Sums over the rows of classes: their number, and products of residuals (of the prior mean) and regressors."""

    counts: FloatArray
    residuals: FloatArray
    crossed: FloatArray
    regressors: FloatArray

    def at(self, which: int | IntArray | BoolArray) -> Moments:
        """Return those of some classes."""
        return Moments(*(each[which] for each in self))

    def plus(self, other: Moments) -> Moments:
        """Return those of the unions with other classes."""
        return Moments(*(own + others for own, others in zip(self, other, strict=True)))


LENGTHS = (2 / 3, 5 / 6, 1.0, 7 / 6, 17 / 12)
"""Lengths of the segments of the results that are combined, as multiples of the one that is asked for."""


def consensus_of_segments(data: Series, boundaries: IntArray, classes: int, length: int, prior: MNIWPrior) -> IntArray:
    """Return the label (N,) of each row by the consensus of :func:`segment_labels` for several lengths around `length`.

    Parameters are those of :func:`segment_labels`.
    """
    lengths = {max(2, round(factor * length)) for factor in LENGTHS}
    results = [segment_labels(data, boundaries, classes, each, prior) for each in sorted(lengths)]
    return consensus(np.stack(results, axis=1), classes)


def consensus(labels: IntArray, classes: int) -> IntArray:
    """Return one label (N,) for each row from those of several clusterings (N, R), by average linkage.

    The distance of two rows is the share of clusterings that separate them. Rows with the same labels throughout are
    one from the start.
    """
    patterns, pattern_of, rows = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    U, sizes = len(patterns), rows.astype(np.float64)
    distance = (patterns[:, None] != patterns[None]).mean(axis=2)
    distance[np.tril_indices(U)] = np.inf
    distance = np.minimum(distance, distance.T)
    own, alive = np.arange(U), np.ones(U, dtype=bool)
    for _ in range(U - classes):
        kept, gone = sorted(divmod(int(np.argmin(distance)), U))
        others = alive.copy()
        others[[kept, gone]] = False
        joint = (sizes[kept] * distance[kept] + sizes[gone] * distance[gone]) / (sizes[kept] + sizes[gone])
        distance[gone], distance[:, gone] = np.inf, np.inf
        distance[kept, others], distance[others, kept] = joint[others], joint[others]
        sizes[kept] += sizes[gone]
        own[own == gone], alive[gone] = kept, False
    named: IntArray = np.unique(own, return_inverse=True)[1].reshape(-1)[pattern_of.reshape(-1)]
    return named


def segment_labels(data: Series, boundaries: IntArray, classes: int, length: int, prior: MNIWPrior) -> IntArray:
    """Return the label (N,) of each row after merging segments, each of about `length` rows into `classes` classes.

    Parameters
    ----------
    data : Series
    boundaries : ndarray of int, shape (S + 1,)
        Where the sequences begin, and N.
    classes : int
        K, at most N.
    length : int
        Rows of a segment; fewer where there were too few segments, more where there were more than
        :data:`MAX_SEGMENTS`.
    prior : MNIWPrior
    """
    N = len(data.rows)
    length = min(max(length, math.ceil(N / MAX_SEGMENTS)), max(1, N // (2 * classes)))
    sizes = [
        len(part)
        for first, last in itertools.pairwise(boundaries.tolist())
        for part in np.array_split(np.arange(first, last), max(1, round((last - first) / length)))
        if len(part)
    ]
    segments = np.repeat(np.arange(len(sizes)), sizes)
    labels: IntArray = merge_by_evidence(moments_of(data, segments, prior), classes, prior)[segments]
    return labels


def moments_of(data: Series, segments: IntArray, prior: MNIWPrior) -> Moments:
    """Return the sums over the rows of each segment, given the segment (N,) of each row."""
    residuals, own = data.following - data.regressors @ prior.mean.T, segments[data.follows]
    parts = [own == segment for segment in range(int(segments.max()) + 1)]
    return Moments(
        np.array([part.sum() for part in parts], np.float64),
        np.stack([residuals[part].T @ residuals[part] for part in parts]),
        np.stack([residuals[part].T @ data.regressors[part] for part in parts]),
        np.stack([data.regressors[part].T @ data.regressors[part] for part in parts]),
    )


def log_evidence(moments: Moments, prior: MNIWPrior) -> FloatArray:
    """Return the log marginal likelihood of the rows of each class, of rows that have regressors."""
    D, nu = len(prior.scale), prior.nu0 + moments.counts
    precision = moments.regressors + np.diag(prior.precision)
    shift = np.linalg.solve(precision, np.swapaxes(moments.crossed, -1, -2))
    scale = prior.scale + moments.residuals - moments.crossed @ shift
    scale = (scale + np.swapaxes(scale, -1, -2)) / 2.0
    evidence: FloatArray = (
        multigammaln(nu / 2.0, D)
        - multigammaln(prior.nu0 / 2.0, D)
        + 0.5 * (prior.nu0 * np.linalg.slogdet(prior.scale)[1] - nu * np.linalg.slogdet(scale)[1])
        + 0.5 * D * (np.log(prior.precision).sum() - np.linalg.slogdet(precision)[1])
        - 0.5 * moments.counts * D * math.log(math.pi)
    )
    return evidence


def merge_by_evidence(moments: Moments, classes: int, prior: MNIWPrior) -> IntArray:
    """Return the class of each segment after merging pairs, those of the largest gain first, into `classes` classes."""
    G = len(moments.counts)
    sums, labels, alive = Moments(*(each.copy() for each in moments)), np.arange(G), np.ones(G, dtype=bool)
    own, gain = log_evidence(sums, prior), np.full((G, G), -np.inf)
    for first in range(G - 1):
        others = np.arange(first + 1, G)
        joint = log_evidence(sums.at(others).plus(sums.at(first)), prior)
        gain[first, others] = joint - own[first] - own[others]
    for _ in range(G - classes):
        kept, gone = divmod(int(np.argmax(gain)), G)  # kept < gone
        for each in sums:
            each[kept] += each[gone]
        labels[labels == gone], alive[gone] = kept, False
        gain[gone], gain[:, gone] = -np.inf, -np.inf
        own[kept] = log_evidence(sums.at(np.array([kept])), prior)[0]
        others = np.flatnonzero(alive & (np.arange(G) != kept))
        joint = log_evidence(sums.at(others).plus(sums.at(kept)), prior) - own[kept] - own[others]
        gain[np.minimum(kept, others), np.maximum(kept, others)] = joint
    named: IntArray = np.unique(labels, return_inverse=True)[1].reshape(-1)
    return named
