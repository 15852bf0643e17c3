"""How well classes found without labels agree with the true categories.

Labels only ever measure: nothing here goes back to a module.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Agreement of classes with categories.

    Attributes
    ----------
    accuracy : float
        Share of rows whose class is matched to their category (Hungarian matching), in (0, 1].
    ari : float
        Adjusted Rand index, at most 1; about 0 for chance.
    nmi : float
        Normalised mutual information (arithmetic mean), in [0, 1].
    """

    accuracy: float
    ari: float
    nmi: float


class Confusion(NamedTuple):
    """Rows counted by category and class; `matrix`'s diagonal holds the matched pairs.

    Attributes
    ----------
    matrix : ndarray of int64, shape (C, K)
        Categories in rows, classes in columns.
    categories : ndarray of int64, shape (C,)
        Labels of the rows: ascending, but those without a class come last.
    classes : ndarray of int64, shape (K,)
        Labels of the columns: the class matched to each category, then the unmatched ones, ascending.
    """

    matrix: Ints
    categories: Ints
    classes: Ints


def match(classes: ArrayLike, categories: ArrayLike) -> dict[int, int]:
    """Match classes to categories one to one so that the most rows agree (Hungarian matching).

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        What was found and what is true; any integers, in any number (floats are taken where they are whole).

    Returns
    -------
    dict of int to int
        From class to category, min(K, C) pairs; with more classes than categories the classes left over are missing.

    Raises
    ------
    ValueError
        If the two are not equally long lists of at least one integer.
    """
    counts, found, true = _table(classes, categories)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return {int(found[column]): int(true[row]) for row, column in zip(rows, columns, strict=True)}


def accuracy(classes: ArrayLike, categories: ArrayLike) -> float:
    """Return the share of rows whose class is matched to their category.

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        As in `match`.

    Returns
    -------
    float
        In (0, 1]; renaming the classes or the categories doesn't change it.

    Raises
    ------
    ValueError
        As in `match`.
    """
    counts, _, _ = _table(classes, categories)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def ari(classes: ArrayLike, categories: ArrayLike) -> float:
    """Return the adjusted Rand index.

    Parameters
    ----------
    classes, categories : array_like of integers, shape (N,)
        As in `match`.

    Returns
    -------
    float
        At most 1; about 0 for classes that know nothing of the categories.

    Raises
    ------
    ValueError
        As in `match`.
    """
    from sklearn.metrics import adjusted_rand_score  # slow to import, and a run without categories doesn't need it

    return float(adjusted_rand_score(*_pair(classes, categories)[::-1]))


def nmi(classes: ArrayLike, categories: ArrayLike) -> float:
    """Return the mutual information, normalised by the mean of the two entropies.

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
    from sklearn.metrics import normalized_mutual_info_score  # as in ari

    return float(normalized_mutual_info_score(*_pair(classes, categories)[::-1]))


def confusion(classes: ArrayLike, categories: ArrayLike) -> Confusion:
    """Count rows by category and class, the classes in the order of the categories that they are matched to.

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
    counts, found, true = _table(classes, categories)
    rows, columns = linear_sum_assignment(counts, maximize=True)  # rows ascend
    rows = np.concatenate([rows, np.setdiff1d(np.arange(len(true)), rows)])
    columns = np.concatenate([columns, np.setdiff1d(np.arange(len(found)), columns)])
    return Confusion(counts[np.ix_(rows, columns)], true[rows], found[columns])


def score(classes: ArrayLike, categories: ArrayLike) -> Scores:
    """Measure the agreement in every way that a run reports.

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
    return Scores(accuracy(classes, categories), ari(classes, categories), nmi(classes, categories))


def _integers(values: ArrayLike, name: str) -> Ints:
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: a list of at least one integer is needed, not {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.floor(array))).all():
        raise ValueError(f"{name}: hold numbers that are not whole; give integers")
    return array.astype(np.int64)


def _pair(classes: ArrayLike, categories: ArrayLike) -> tuple[Ints, Ints]:
    found, true = _integers(classes, "classes"), _integers(categories, "categories")
    if len(found) != len(true):
        raise ValueError(f"{len(found)} classes for {len(true)} categories; one of each per row is needed")
    return found, true


def _table(classes: ArrayLike, categories: ArrayLike) -> tuple[Ints, Ints, Ints]:
    """Return the counts by category (rows) and class (columns), the classes and the categories, both ascending."""
    pair = _pair(classes, categories)
    (found, column), (true, row) = (np.unique(labels, return_inverse=True) for labels in pair)
    counts = np.zeros((len(true), len(found)), dtype=np.int64)
    np.add.at(counts, (row, column), 1)
    return counts, found, true
