"""Clustering metrics: the agreement of learned classes with the true categories.

Labels are used for evaluation only: no module receives any of these results.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.types import Array, FloatArray, IntArray

_BLOCK_ROWS = 1_000_000


@dataclass(frozen=True)
class Scores:
    """Metrics of the agreement of classes with categories.

    Attributes
    ----------
    accuracy : float
        Fraction of rows whose class is matched to their category (Hungarian matching), in (0, 1].
    ari : float
        Adjusted Rand index, at most 1; expected value 0 for random classes.
    nmi : float
        Mutual information, normalised by the arithmetic mean of the entropies, in [0, 1].
    ece : float or None
        Expected calibration error of the posterior (:mod:`runner.report.reliability`), in [0, 1]; None without one.
    """

    accuracy: float
    ari: float
    nmi: float
    ece: float | None = None


class Confusion(NamedTuple):
    """Confusion matrix of categories and classes, with the matched pairs on the diagonal.

    Attributes
    ----------
    matrix : ndarray of int64, shape (C, K)
        Categories in rows, classes in columns.
    categories : ndarray of int64, shape (C,)
        Labels of the rows: those with a matched class, then the others, both in ascending order.
    classes : ndarray of int64, shape (K,)
        Labels of the columns: the class matched to each category, then the unmatched ones in ascending order.
    """

    matrix: IntArray
    categories: IntArray
    classes: IntArray


def match(classes: ArrayLike, categories: ArrayLike) -> dict[int, int]:
    """Match classes to categories one to one so that as many rows as possible agree (Hungarian algorithm).

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        Learned and true labels: any integers, or floats with integer values.

    Returns
    -------
    dict of int to int
        From class to category, min(K, C) pairs; with more classes than categories, the unmatched classes are left out.

    Raises
    ------
    ValueError
        If the two are not one-dimensional, of the same length N ≥ 1, and of integer values.
    """
    counts, class_labels, category_labels = _contingency_table(classes, categories)
    rows, columns = _matching(counts)
    return {int(class_labels[column]): int(category_labels[row]) for row, column in zip(rows, columns, strict=True)}


def matched_classes(classes: ArrayLike, categories: ArrayLike) -> IntArray:
    """Return each row's class as the category to which it is matched.

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        As in `match`.

    Returns
    -------
    ndarray of int64, shape (N,)
        A class without a category, where there are more classes than categories, is -1, or one
        less than the least category if one is negative.

    Raises
    ------
    ValueError
        As in `match`.
    """
    counts, class_labels, category_labels = _contingency_table(classes, categories)
    rows, columns = _matching(counts)
    numbers = np.full(len(class_labels), min(0, int(category_labels.min())) - 1, dtype=np.int64)
    numbers[columns] = category_labels[rows]
    learned = _as_integers(classes, "classes")
    matched = np.empty(len(learned), np.int64)
    for block in _blocks(len(learned)):
        matched[block] = numbers[np.searchsorted(class_labels, learned[block])]
    return matched


def accuracy(classes: ArrayLike, categories: ArrayLike) -> float:
    """Return the fraction of rows whose class is matched to their category.

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        As in `match`.

    Returns
    -------
    float
        In (0, 1]; invariant to renaming the classes or the categories.

    Raises
    ------
    ValueError
        As in `match`.
    """
    return _accuracy(_contingency_table(classes, categories)[0])


def ari(classes: ArrayLike, categories: ArrayLike) -> float:
    """Return the adjusted Rand index (Hubert and Arabie, 1985).

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        As in `match`.

    Returns
    -------
    float
        At most 1; expected value 0 for classes that are independent of the categories.

    Raises
    ------
    ValueError
        As in `match`.
    """
    return _ari(_contingency_table(classes, categories)[0])


def nmi(classes: ArrayLike, categories: ArrayLike) -> float:
    """Return the mutual information, normalised by the arithmetic mean of the two entropies.

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        As in `match`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        As in `match`.
    """
    return _nmi(_contingency_table(classes, categories)[0])


def confusion(classes: ArrayLike, categories: ArrayLike) -> Confusion:
    """Return the confusion matrix, with the classes in the order of the categories to which they are matched.

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        As in `match`.

    Returns
    -------
    Confusion
        The counts and the labels of rows and columns.

    Raises
    ------
    ValueError
        As in `match`.
    """
    counts, class_labels, category_labels = _contingency_table(classes, categories)
    rows, columns = _matching(counts)  # rows in ascending order
    rows = np.concatenate([rows, np.setdiff1d(np.arange(len(category_labels)), rows)])
    columns = np.concatenate([columns, np.setdiff1d(np.arange(len(class_labels)), columns)])
    return Confusion(counts[np.ix_(rows, columns)], category_labels[rows], class_labels[columns])


def score(classes: ArrayLike, categories: ArrayLike) -> Scores:
    """Return all metrics of classes that a run reports; that of probabilities is None.

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        As in `match`.

    Returns
    -------
    Scores
        Accuracy, ARI and NMI.

    Raises
    ------
    ValueError
        As in `match`.
    """
    counts, _, _ = _contingency_table(classes, categories)
    return Scores(_accuracy(counts), _ari(counts), _nmi(counts))


def _matching(counts: IntArray) -> tuple[IntArray, IntArray]:
    """Return rows, ascending, and columns of a matching with the largest sum of counts."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    rows, columns = linear_sum_assignment(counts, maximize=True)
    return rows, columns


def _accuracy(counts: IntArray) -> float:
    return float(counts[_matching(counts)].sum() / counts.sum())


def _ari(counts: IntArray) -> float:
    """Return the index from the counts (C, K): of all pairs of rows, those together in both, in one, and in none."""
    rows, squares = int(counts.sum()), int((counts**2).sum())
    by_category, by_class = int((counts.sum(axis=1) ** 2).sum()), int((counts.sum(axis=0) ** 2).sum())
    both, in_class, in_category = squares - rows, by_class - squares, by_category - squares
    neither = rows**2 - in_class - in_category - squares
    if in_class == in_category == 0:
        return 1.0
    pairs = (both + in_category) * (in_category + neither) + (both + in_class) * (in_class + neither)
    return 2.0 * (both * neither - in_category * in_class) / pairs


def _nmi(counts: IntArray) -> float:
    """Return the normalised information from the counts (C, K): the bits of scikit-learn's function of all rows."""
    if counts.shape == (1, 1):
        return 1.0
    if 1 in counts.shape:
        return 0.0
    information = _mutual_information(counts.astype(np.float64))
    if information == 0:
        return 0.0
    return float(information / np.mean([_entropy(counts.sum(axis=1)), _entropy(counts.sum(axis=0))]))


def _mutual_information(counts: FloatArray) -> float:
    """Return Σ p_ij log(p_ij / (p_i p_j)), in nats, from the counts (C, K)."""
    row, column = np.nonzero(counts)
    own, total = counts[row, column], counts.sum()
    in_row, in_column = counts.sum(axis=1), counts.sum(axis=0)
    outer = -np.log(in_row[row] * in_column[column]) + math.log(in_row.sum()) + math.log(in_column.sum())
    terms = own / total * (np.log(own) - math.log(total)) + own / total * outer
    terms = np.where(np.abs(terms) < np.finfo(np.float64).eps, 0.0, terms)
    return max(float(terms.sum()), 0.0)


def _entropy(counts: IntArray) -> float:
    if len(counts) == 1:
        return 0.0
    numbers = counts.astype(np.float64)
    total = np.sum(numbers)
    return float(-np.sum((numbers / total) * (np.log(numbers) - math.log(total))))


def _as_integers(values: ArrayLike, name: str) -> IntArray:
    array: Array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected a list of at least one integer, got {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.floor(array))).all():
        raise ValueError(f"{name}: expected integers, got numbers that are not whole")
    return array.astype(np.int64, copy=False)


def _check_labels(classes: ArrayLike, categories: ArrayLike) -> tuple[IntArray, IntArray]:
    """Return classes and categories as integer arrays of the same length."""
    learned, true = _as_integers(classes, "classes"), _as_integers(categories, "categories")
    if len(learned) != len(true):
        raise ValueError(f"{len(learned)} classes for {len(true)} categories; expected one of each per row")
    return learned, true


def _contingency_table(classes: ArrayLike, categories: ArrayLike) -> tuple[IntArray, IntArray, IntArray]:
    """Return the counts (C, K) by category and class, the K classes and the C categories, both in ascending order."""
    learned, true = _check_labels(classes, categories)
    class_labels, category_labels = _distinct(learned), _distinct(true)
    shape = len(category_labels), len(class_labels)
    counts = np.zeros(shape[0] * shape[1], dtype=np.int64)
    for block in _blocks(len(learned)):
        row, column = np.searchsorted(category_labels, true[block]), np.searchsorted(class_labels, learned[block])
        cells, times = np.unique(row * shape[1] + column, return_counts=True)
        counts[cells] += times
    return counts.reshape(shape), class_labels, category_labels


def _distinct(labels: IntArray) -> IntArray:
    """Return the distinct labels in ascending order."""
    return np.unique(np.concatenate([np.unique(labels[block]) for block in _blocks(len(labels))]))


def _blocks(rows: int) -> list[slice]:
    """Return blocks of rows: what is computed of all rows at once takes several times their memory."""
    return [slice(first, first + _BLOCK_ROWS) for first in range(0, rows, _BLOCK_ROWS)]
