"""A start from the sequence: classes are what a row and its neighbours have in common.

If each row's class depends on the classes before and after it, the directions in which a row is correlated with its
neighbours are those in which the classes differ, whatever else varies. Canonical correlation analysis finds them in
one step (Bach and Jordan 2005, "A probabilistic interpretation of canonical correlation analysis", section 4: the
posterior mean of what two views share); k-means in the space they span gives labels to start from.

How far to look, and whether products of columns help, depends on the data. So there are several such starts
(:data:`STARTS`), for as many chains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import kmeans2

from actors.kernels.markov.inference import boundaries
from actors.kernels.mixture.crp import chinese_restaurant, expected_classes
from actors.kernels.mixture.niw import Prior
from actors.kernels.types import FloatArray, IntArray

RIDGE = 1e-3
"""Added to every variance, in shares of the mean one: collapsed dimensions must not be blown up to noise."""

STARTS = ((3, False), (1, True), (1, False), (3, True))
"""Window and products of the starts that chains take in turn: one that fails is rarely like the one after it."""

ROWS_A_COLUMN = 10
"""With fewer, products would be correlated with anything by chance."""

BEYOND_CHANCE = 1.05
"""So many times the largest correlation that chance is expected to show."""

FEW_CLASSES = 0.1
"""The concentration with which classes are counted where the directions don't tell how many: in favour of few."""

COUNTING = 20
"""Sweeps in which they are counted, and proposals to split and to merge after each."""

MOST_AXES = 20
"""Products are made of so many axes at most: their number grows with the square."""


def whitened(X: FloatArray) -> FloatArray:
    """Return the centred rows (N, D) on their principal axes, covariance close to the identity (see :data:`RIDGE`)."""
    centred = X - X.mean(axis=0)
    covariance = centred.T @ centred / len(X)
    ridge = RIDGE * np.trace(covariance) / len(covariance) + np.finfo(np.float64).tiny
    variances, axes = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
    white: FloatArray = centred @ (axes / np.sqrt(variances))
    return white


def with_products(X: FloatArray) -> FloatArray:
    """Return the whitened rows (N, D) beside products of two of their columns each, (N, D + P).

    Where means say nothing about the neighbours, spreads and diagonals may. The products are those of the axes of
    largest variance, so few that there are :data:`ROWS_A_COLUMN` rows a column; of none, where rows are too few.
    """
    N, D = X.shape
    axes = min(D, MOST_AXES)
    while axes and D + axes * (axes + 1) // 2 > N / ROWS_A_COLUMN:
        axes -= 1
    white = whitened(X)
    i, j = np.triu_indices(axes)
    largest = white[:, D - axes :]  # variances ascend
    return np.concatenate([white, largest[:, i] * largest[:, j]], axis=1)


def neighbours(X: FloatArray, window: int, lengths: npt.ArrayLike | None = None) -> FloatArray:
    """Return beside each row its `window` predecessors and successors, (N, 2·window·D); zeros beyond a sequence's ends.

    Parameters
    ----------
    X : ndarray (N, D) float64
    window : int
    lengths : array_like of int (S,), optional
        Lengths of the sequences, N in all.
    """
    N = len(X)
    starts = boundaries(N, lengths)
    sequence = np.searchsorted(starts, np.arange(N), side="right")
    shifted = []
    for offset in (*range(-window, 0), *range(1, window + 1)):
        source = np.arange(N) + offset
        inside = (source >= 0) & (source < N)
        inside[inside] = sequence[source[inside]] == sequence[inside]
        view = np.zeros_like(X)
        view[inside] = X[source[inside]]
        shifted.append(view)
    return np.concatenate(shifted, axis=1)


def _views(X: FloatArray, window: int, lengths: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """Return each row and its neighbours, both whitened."""
    if len(X) < 2:
        raise ValueError(f"{len(X)} rows: a sequence has at least two")
    here = whitened(X)
    return here, whitened(neighbours(here, window, lengths))


def count_shared(X: FloatArray, *, window: int, products: bool = False, lengths: npt.ArrayLike | None = None) -> int:
    """Return how many directions rows share with their neighbours beyond chance; K classes differ in K - 1 of them.

    Of p and q columns that have nothing to do with each other N rows show canonical correlations up to
    ρ = √(a (1 - b)) + √(b (1 - a)), a = p/N, b = q/N (K. W. Wachter, "The limiting empirical measure of multiple
    discriminant ratios", 1980), and hardly beyond: the largest strays by N^(-2/3) (I. M. Johnstone, "Multivariate
    analysis and Jacobi ensembles", 2008). What is above is counted.

    Parameters
    ----------
    X : ndarray (N, D) float64
        Rows in the order in which they happened.
    window, products, lengths
        As in `labels_from_sequence`.

    Raises
    ------
    ValueError
        If there are fewer than two rows.
    """
    here, around = _views(with_products(X) if products else X, window, lengths)
    N = len(X)
    a, b = min(here.shape[1] / N, 1.0), min(around.shape[1] / N, 1.0)
    if a + b >= 1.0:  # anything can be explained
        return 0
    chance = np.sqrt(a * (1.0 - b)) + np.sqrt(b * (1.0 - a))
    return int((np.linalg.svd(here.T @ around / N, compute_uv=False) > BEYOND_CHANCE * chance).sum())


def shared_with_neighbours(
    X: FloatArray, dimensions: int, window: int, lengths: npt.ArrayLike | None = None
) -> FloatArray:
    """Return the posterior means of what each row shares with its neighbours, at most (N, `dimensions`).

    Raises
    ------
    ValueError
        If there are fewer than two rows.
    """
    here, around = _views(X, window, lengths)
    U, correlations, Vt = np.linalg.svd(here.T @ around / len(X), full_matrices=False)
    rho = np.clip(correlations[:dimensions], 0.0, 0.999)
    # E[shared | both views] ∝ √ρ / (1 + ρ) · (Uᵀ here + Vᵀ around)
    shared: FloatArray = (here @ U[:, : len(rho)] + around @ Vt[: len(rho)].T) * np.sqrt(rho) / (1.0 + rho)
    return shared


def labels_from_sequence(
    X: FloatArray,
    classes: int,
    generator: np.random.Generator,
    *,
    window: int = STARTS[0][0],
    products: bool = STARTS[0][1],
    restarts: int = 10,
    lengths: npt.ArrayLike | None = None,
) -> IntArray:
    """Return labels (N,) int64 to start from: k-means in the space that rows share with their neighbours.

    Parameters
    ----------
    X : ndarray (N, D) float64
        Rows in the order in which they happened.
    classes : int
    generator : numpy.random.Generator
    window : int
        How many neighbours on either side.
    products : bool
        Whether products of columns are looked at too (:func:`with_products`).
    restarts : int
        Of k-means; the one with the smallest distances is taken.
    lengths : array_like of int (S,), optional

    Raises
    ------
    ValueError
        If there are fewer rows than classes.
    """
    if len(X) < classes:
        raise ValueError(f"{len(X)} rows cannot start {classes} classes")
    shared = shared_with_neighbours(with_products(X) if products else X, max(1, classes - 1), window, lengths)
    best, smallest = np.zeros(len(X), np.int64), np.inf
    for _ in range(restarts):
        centres, labels = kmeans2(shared, classes, minit="++", rng=generator)
        distance = float(((shared - centres[labels]) ** 2).sum())
        if distance < smallest:
            best, smallest = np.asarray(labels, np.int64), distance
    return best


def counted_labels_from_sequence(
    X: FloatArray,
    most: int,
    generator: np.random.Generator,
    *,
    window: int = STARTS[0][0],
    products: bool = STARTS[0][1],
    lengths: npt.ArrayLike | None = None,
) -> IntArray:
    """Return labels (N,) int64 to start from as `labels_from_sequence` does, where the number of classes is not known.

    It is one more than the directions that rows share with their neighbours (`count_shared`). If all directions are
    shared, there may be more classes than these can tell; then a Dirichlet-process mixture in their space counts them.

    Parameters
    ----------
    X, generator, window, products, lengths
        As in `labels_from_sequence`.
    most : int
        Classes at most; no more than there are rows.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or fewer than classes.
    """
    directions = count_shared(X, window=window, products=products, lengths=lengths)
    classes = min(most, directions + 1)
    labels = labels_from_sequence(X, classes, generator, window=window, products=products, lengths=lengths)
    columns = with_products(X) if products else X
    if directions < columns.shape[1]:
        return labels
    shared = shared_with_neighbours(columns, directions, window, lengths)
    scale = shared.var(axis=0) * expected_classes(len(X), 1.0) ** (-2.0 / directions)
    prior = Prior(shared.mean(axis=0), 1.0, directions + 2.0, scale)
    return chinese_restaurant(shared, labels, most, prior, FEW_CLASSES, COUNTING, generator, proposals=COUNTING).labels
