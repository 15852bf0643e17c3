"""Whether probabilities of classes hold: expected calibration errors and reliability diagrams.

Labels are used for evaluation only: no module receives any of these results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from actors.types import FloatArray, IntArray
from runner.report.clustering_metrics import matched_classes

BINS = 15
"""Number of bins, as in Guo et al. 2017."""

Binning = Literal["width", "mass"]

_ROUNDING = 1e-6
"""By how much a sum of probabilities may exceed one."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence and accuracy by bin of confidence.

    Attributes
    ----------
    confidence : ndarray of float64, shape (B,)
        Mean probability of the most probable class of the rows in each bin that has rows, in ascending order.
    accuracy : ndarray of float64, shape (B,)
        Share of these rows whose most probable class is the one matched to their category.
    rows : ndarray of int64, shape (B,)
    """

    confidence: FloatArray
    accuracy: FloatArray
    rows: IntArray

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean of |accuracy - confidence| over rows, in [0, 1]."""
        return float((self.rows * np.abs(self.accuracy - self.confidence)).sum() / self.rows.sum())


def reliability(
    confidence: ArrayLike, classes: ArrayLike, categories: ArrayLike, *, binning: Binning = "width", bins: int = BINS
) -> Reliability:
    """Compare the probability of the most probable class with how often that class is right.

    Classes are matched to categories one to one (:func:`runner.report.clustering_metrics.match`); a class without a
    category is never right. Rows of equal confidence are in one bin.

    Parameters
    ----------
    confidence : array_like, shape (N,)
        The largest probability of each row.
    classes : array_like of integers, shape (N,)
        The class that has it.
    categories : array_like of integers, shape (N,)
    binning : {"width", "mass"}
        Bins of equal width (C. Guo et al., "On calibration of modern neural networks", 2017), or of equal numbers of
        rows (M. P. Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015).
    bins : int

    Raises
    ------
    ValueError
        If the shapes differ, a confidence is not in [0, 1], or labels are not whole numbers.
    """
    sure = np.asarray(confidence, dtype=np.float64)
    labels = np.asarray(categories)
    right = matched_classes(classes, labels) == labels
    if sure.shape != right.shape:
        raise ValueError(f"{sure.shape} probabilities for {len(right)} classes; expected one of each per row")
    if not ((sure >= 0.0) & (sure <= 1.0 + _ROUNDING)).all():
        raise ValueError("expected probabilities between 0 and 1")
    number = _bin_numbers(sure, binning, bins)
    rows = np.bincount(number, minlength=bins)
    used = rows > 0
    of_bin = rows[used].astype(np.float64)
    means = np.bincount(number, sure, bins)[used] / of_bin
    return Reliability(means, np.bincount(number, right, bins)[used] / of_bin, rows[used])


def reliability_of(posterior: ArrayLike, categories: ArrayLike, *, binning: Binning = "width") -> Reliability:
    """Return :func:`reliability` of class posteriors (N, K)."""
    P = np.asarray(posterior)
    if P.ndim != 2 or 0 in P.shape:
        raise ValueError(f"expected probabilities of shape (N, K) with at least one row and class, got {P.shape}")
    return reliability(P.max(axis=1), P.argmax(axis=1), categories, binning=binning)


def _bin_numbers(confidence: FloatArray, binning: Binning, bins: int) -> IntArray:
    """Return the bin (N,) of each row, from 0 to bins - 1."""
    if binning == "width":  # (b / B, (b + 1) / B]
        return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    # Of equal confidences the last place counts, so that they share a bin.
    last = np.searchsorted(np.sort(confidence), confidence, side="right") - 1
    return np.asarray(last * bins // len(confidence), dtype=np.int64)
