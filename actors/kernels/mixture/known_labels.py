"""Initial labels of a mixture where the classes of some rows are known."""

from __future__ import annotations

import numpy as np

from actors.kernels.types import FloatArray, IntArray

MAX_ITERATIONS = 100


def named_as_known(labels: IntArray, known: IntArray, classes: int) -> IntArray:
    """Return labels (N,) with their classes named as the known ones (N,; -1 for none), which they take over.

    The names are those under which most known labels agree (Hungarian method).
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    told = (known >= 0) & (labels >= 0)
    agreement = np.zeros((classes, classes))
    np.add.at(agreement, (labels[told], known[told]), 1.0)
    names = np.arange(classes)
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    names[rows] = columns
    named = np.where(labels >= 0, names[labels], -1)
    return np.where(known >= 0, known, named).astype(np.int64)


def seeded_kmeans(X: FloatArray, labels: IntArray, known: IntArray, classes: int) -> IntArray:
    """Return labels (N,) by k-means in which the rows of known classes (-1: unknown) stay where they are.

    A class begins at the mean of its known rows, another one at the mean of its `labels` (S. Basu, A. Banerjee and R.
    Mooney, "Semi-supervised clustering by seeding", 2002, constrained k-means).
    """
    current = np.where(np.isin(labels, known[known >= 0]), known, labels)
    for _ in range(MAX_ITERATIONS):
        one_hot = (current[:, None] == np.arange(classes)).astype(np.float64)
        counts = one_hot.sum(axis=0)
        centres = one_hot.T @ X / np.maximum(counts, 1.0)[:, None]
        distances = np.square(X).sum(axis=1)[:, None] - 2.0 * X @ centres.T + np.square(centres).sum(axis=1)
        distances[:, counts == 0] = np.inf
        following = np.where(known >= 0, known, distances.argmin(axis=1))
        if np.array_equal(following, current):
            break
        current = following
    return current.astype(np.int64)
