"""Initial labels from the sequence: cluster the component of each row that it shares with its neighbours.

If each row's class depends on the classes before and after it, the directions in which a row is correlated with its
neighbours are those in which the classes differ, whatever other variation there is. Canonical correlation analysis
finds them in closed form (F. R. Bach and M. I. Jordan, "A probabilistic interpretation of canonical correlation
analysis", 2005, section 4: the posterior mean of the latent variable shared by two views); k-means in the space that
they span yields initial labels.

The best window, and whether products of columns help, depends on the data. So there are several variants
(:data:`STARTS`), one for each of several chains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from actors.kernels.mixture.crp import expected_class_count, sample_crp_mixture
from actors.kernels.mixture.niw import NIWPrior
from actors.kernels.sequences import boundaries
from actors.kernels.special import chdtrc
from actors.kernels.types import FloatArray, IntArray

RIDGE = 1e-3
"""Added to every variance, as a fraction of their mean: collapsed dimensions must not be amplified to noise."""

STARTS = ((3, False), (1, True), (1, False), (3, True))
"""Window and use of products, per chain in turn, ordered so that each variant is followed by a different one."""

MIN_ROWS_PER_COLUMN = 10
"""With fewer rows, products would correlate with anything by chance."""

CHANCE_FACTOR = 1.05
"""Correlations count as shared above this multiple of the largest one expected by chance."""

COUNT_ALPHA = 0.1
"""Concentration of the CRP mixture that counts classes if the directions don't determine how many: favours few."""

COUNT_SWEEPS = 20
"""Sweeps of this mixture, and split or merge proposals after each."""

ORDER_SIGNIFICANCE = 1e-4
"""Rows count as ordered if independent ones were as correlated with their neighbours in fewer cases than this."""

MAX_CORRELATION = 0.999
"""Upper limit of canonical correlations, so that functions of 1 - ρ² stay finite."""

MAX_PRODUCT_AXES = 20
"""Maximum number of axes that products are made of: the number of products grows with its square."""


def whiten(X: FloatArray) -> FloatArray:
    """Return the centred rows (N, D) on their principal axes, with covariance close to the identity (:data:`RIDGE`)."""
    centred = X - X.mean(axis=0)
    covariance = centred.T @ centred / len(X)
    ridge = RIDGE * np.trace(covariance) / len(covariance) + np.finfo(np.float64).tiny
    variances, axes = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
    white: FloatArray = centred @ (axes / np.sqrt(variances))
    return white


def append_products(X: FloatArray) -> FloatArray:
    """Return the whitened rows (N, D), followed by P pairwise products of their columns, (N, D + P).

    If the classes have equal means, their variances and covariances may still depend on the neighbours. The products
    are those of the axes of largest variance, of as many axes as leave :data:`MIN_ROWS_PER_COLUMN` rows a column; there
    are none if rows are too few.
    """
    N, D = X.shape
    axes = min(D, MAX_PRODUCT_AXES)
    while axes and D + axes * (axes + 1) // 2 > N / MIN_ROWS_PER_COLUMN:
        axes -= 1
    white = whiten(X)
    i, j = np.triu_indices(axes)
    largest = white[:, D - axes :]  # variances ascend
    return np.concatenate([white, largest[:, i] * largest[:, j]], axis=1)


def neighbour_columns(X: FloatArray, window: int, lengths: npt.ArrayLike | None = None) -> FloatArray:
    """Return each row's `window` predecessors and successors, (N, 2·window·D); zeros beyond the ends of a sequence.

    Parameters
    ----------
    X : ndarray (N, D) float64
    window : int
    lengths : array_like of int (S,), optional
        Lengths of the sequences; they sum to N.
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


def motion_features(X: FloatArray, *, window: int, lengths: npt.ArrayLike | None = None) -> FloatArray:
    """Return where the rows around each row are, and how much they move, as features for k-means, (N, 2 D).

    These are, of the rows up to `window` before and after a row in its sequence, the means of the columns and of the
    absolute differences of successive rows, each divided by its deviation over all rows.

    Parameters
    ----------
    X : ndarray (N, D) float64
    window : int
    lengths : array_like of int (S,), optional
        Lengths of the sequences; they sum to N.
    """
    N = len(X)
    starts = boundaries(N, lengths)
    sequence = np.searchsorted(starts, np.arange(N), side="right")
    first, last = starts[sequence - 1], starts[sequence]
    moves = np.zeros_like(X)
    moves[1:] = np.abs(np.diff(X, axis=0))
    moves[starts[:-1]] = 0.0
    values = np.hstack([X - X.mean(axis=0), moves])
    sums = np.vstack([np.zeros(values.shape[1]), np.cumsum(values, axis=0)])
    low, high = np.maximum(np.arange(N) - window, first), np.minimum(np.arange(N) + window + 1, last)
    features = (sums[high] - sums[low]) / (high - low)[:, None]
    deviation = features.std(axis=0)
    scaled: FloatArray = features / np.where(deviation > 0.0, deviation, 1.0)
    return scaled


def _views(X: FloatArray, window: int, lengths: npt.ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """Return the rows and their neighbours, both whitened."""
    if len(X) < 2:
        raise ValueError(f"a sequence needs at least two rows, but there are {len(X)} rows")
    here = whiten(X)
    return here, whiten(neighbour_columns(here, window, lengths))


def count_shared_directions(
    X: FloatArray, *, window: int, products: bool = False, lengths: npt.ArrayLike | None = None
) -> int:
    """Return how many directions rows share with their neighbours beyond chance; K classes differ in K - 1 of them.

    N rows of p and q independent columns have sample canonical correlations up to ρ = √(a (1 - b)) + √(b (1 - a)),
    a = p/N, b = q/N (K. W. Wachter, "The limiting empirical measure of multiple discriminant ratios", 1980), beyond
    which the largest fluctuates by N^(-2/3) (I. M. Johnstone, "Multivariate analysis and Jacobi ensembles", 2008).
    The correlations above are counted.

    Parameters
    ----------
    X : ndarray (N, D) float64
        Rows in sequential order.
    window, products, lengths
        As in `labels_from_sequence`.

    Raises
    ------
    ValueError
        If there are fewer than two rows.
    """
    here, around = _views(append_products(X) if products else X, window, lengths)
    N = len(X)
    a, b = min(here.shape[1] / N, 1.0), min(around.shape[1] / N, 1.0)
    if a + b >= 1.0:  # a perfect correlation is possible by chance
        return 0
    chance = np.sqrt(a * (1.0 - b)) + np.sqrt(b * (1.0 - a))
    return int((np.linalg.svd(here.T @ around / N, compute_uv=False) > CHANCE_FACTOR * chance).sum())


def neighbours_correlate(X: FloatArray, *, window: int, products: bool, lengths: npt.ArrayLike | None = None) -> bool:
    """Return whether rows are correlated with their neighbours beyond chance.

    M. S. Bartlett, "The general canonical correlation distribution", 1947: for independent rows of p and q columns,
    -(N - 1 - (p + q + 1) / 2) Σ log(1 - ρ²) over the canonical correlations ρ has about a χ² distribution with p q
    degrees of freedom. Unlike the limit in :func:`count_shared_directions` it holds for few columns too.

    Parameters
    ----------
    X : ndarray (N, D) float64
        Rows in sequential order, at least two.
    window, products, lengths
        As in `labels_from_sequence`.
    """
    here, around = _views(append_products(X) if products else X, window, lengths)
    N, p, q = len(X), here.shape[1], around.shape[1]
    factor = N - 1 - (p + q + 1) / 2
    if p + q >= N or factor <= 0:
        return False
    correlations = np.minimum(np.linalg.svd(here.T @ around / N, compute_uv=False), MAX_CORRELATION)
    statistic = -factor * np.log1p(-np.square(correlations)).sum()
    return bool(chdtrc(p * q, statistic) < ORDER_SIGNIFICANCE)  # the upper tail of chi-squared


def shared_component(X: FloatArray, dimensions: int, window: int, lengths: npt.ArrayLike | None = None) -> FloatArray:
    """Return the posterior mean of the latent variable that each row shares with its neighbours, (N, ≤ `dimensions`).

    Raises
    ------
    ValueError
        If there are fewer than two rows.
    """
    here, around = _views(X, window, lengths)
    U, correlations, Vt = np.linalg.svd(here.T @ around / len(X), full_matrices=False)
    rho = np.clip(correlations[:dimensions], 0.0, MAX_CORRELATION)
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
    """Return initial labels (N,) int64: k-means in the space that rows share with their neighbours.

    Parameters
    ----------
    X : ndarray (N, D) float64
        Rows in sequential order.
    classes : int
    generator : numpy.random.Generator
    window : int
        Number of neighbours on either side.
    products : bool
        Whether products of columns are included (:func:`append_products`).
    restarts : int
        Runs of k-means; the one with the smallest sum of squared distances is returned.
    lengths : array_like of int (S,), optional
        Lengths of the sequences; they sum to N.

    Raises
    ------
    ValueError
        If there are fewer rows than classes.
    """
    if len(X) < classes:
        raise ValueError(f"{len(X)} rows cannot start {classes} classes")
    shared = shared_component(append_products(X) if products else X, max(1, classes - 1), window, lengths)
    return kmeans_labels(shared, classes, generator, restarts=restarts)


def kmeans_labels(X: FloatArray, classes: int, generator: np.random.Generator, *, restarts: int) -> IntArray:
    """Return labels (N,) int64 of rows (N, D) by k-means: of several runs, the one with the smallest sum of squares.

    If there are no more distinct rows than classes, each is a class of its own.
    """
    from scipy.cluster.vq import kmeans2  # slow to import

    distinct, own = np.unique(X, axis=0, return_inverse=True)
    if len(distinct) <= classes:
        return np.asarray(own, np.int64).reshape(len(X))
    best, smallest = np.zeros(len(X), np.int64), np.inf
    for _ in range(restarts):
        centres, labels = kmeans2(X, classes, minit="++", rng=generator)
        distance = float(((X - centres[labels]) ** 2).sum())
        if distance < smallest:
            best, smallest = np.asarray(labels, np.int64), distance
    return best


def counted_labels_from_sequence(
    X: FloatArray,
    max_classes: int,
    generator: np.random.Generator,
    *,
    window: int = STARTS[0][0],
    products: bool = STARTS[0][1],
    lengths: npt.ArrayLike | None = None,
) -> IntArray:
    """Return initial labels (N,) int64 as `labels_from_sequence` does, and estimate the number of classes as well.

    It is one more than the number of directions that rows share with their neighbours (`count_shared_directions`). If
    all directions are shared, there may be more classes than that; then a CRP mixture in their space counts them.

    Parameters
    ----------
    X, generator, window, products, lengths
        As in `labels_from_sequence`.
    max_classes : int
        Maximum number of classes; no more than there are rows.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or fewer than classes.
    """
    directions = count_shared_directions(X, window=window, products=products, lengths=lengths)
    classes = min(max_classes, directions + 1)
    labels = labels_from_sequence(X, classes, generator, window=window, products=products, lengths=lengths)
    columns = append_products(X) if products else X
    if directions < columns.shape[1]:
        return labels
    shared = shared_component(columns, directions, window, lengths)
    scale = shared.var(axis=0) * expected_class_count(len(X), 1.0) ** (-2.0 / directions)
    prior = NIWPrior(shared.mean(axis=0), 1.0, directions + 2.0, scale)
    return sample_crp_mixture(
        shared, labels, max_classes, prior, COUNT_ALPHA, COUNT_SWEEPS, generator, proposals=COUNT_SWEEPS
    ).labels
