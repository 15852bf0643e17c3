"""Made rows of many classes that are not Gaussian: a few clumps each, in integer columns of limited range."""

from __future__ import annotations

import numpy as np

from actors.types import Array, IntArray

COLUMNS = 16
LEVELS = 16
"""Values are 0, …, 15."""

LARGEST_SHARE = 5.0
"""Concentration of the shares of a class's clumps."""

UNEVEN_AXES = 0.7
"""Deviation of the log-variances of a clump along its axes."""

CLASSES, ROWS_PER_CLASS, SEED = 26, 700, 26
"""Of the built-in data set ``clumps``, whose classes and rows are the same in every run."""


class ClumpedClasses:
    """Classes of two or three clumps each, which lie as near to those of other classes as to each other.

    Clumps are Gaussians with axes of their own; values are rounded and cut off at the ends of the range. Supervised
    quadratic discriminants, one Gaussian a class, recognize 0.84 to 0.92 of new rows.

    Parameters
    ----------
    classes : int
        K.
    seed : int
        Of the places, shapes and shares of the clumps.
    """

    def __init__(self, classes: int, seed: int) -> None:
        generator = np.random.default_rng([seed, classes])
        # More classes in the same number of columns need more room for as many of them to be told apart.
        spread = 1.05 + 0.01 * (classes - 10)
        numbers = generator.integers(2, 4, classes)
        self.shares = [generator.dirichlet(np.full(number, LARGEST_SHARE)) for number in numbers]
        self.centres = [spread * generator.normal(size=(number, COLUMNS)) for number in numbers]
        self.roots = [np.stack([_root(generator) for _ in range(number)]) for number in numbers]
        self._unit = (LEVELS - 1) / (6.0 * np.sqrt(1.0 + spread**2))

    def rows(self, labels: IntArray, generator: np.random.Generator) -> Array:
        """Return a row of each of these classes, (N, 16) float64."""
        X = np.empty((len(labels), COLUMNS))
        for k, (shares, centres, roots) in enumerate(zip(self.shares, self.centres, self.roots, strict=True)):
            own = np.flatnonzero(labels == k)
            clump = generator.choice(len(shares), len(own), p=shares)
            normal = generator.normal(size=(len(own), COLUMNS))
            X[own] = centres[clump] + np.einsum("nij,nj->ni", roots[clump], normal)
        rows: Array = np.clip(np.round(0.5 * (LEVELS - 1) + self._unit * X), 0.0, LEVELS - 1.0)
        return rows + 0.0  # without -0.0


def _root(generator: np.random.Generator) -> Array:
    """Return a square root (16, 16) of the covariance of a clump."""
    axes, _ = np.linalg.qr(generator.normal(size=(COLUMNS, COLUMNS)))
    root: Array = axes * np.exp(0.5 * generator.normal(0.0, UNEVEN_AXES, COLUMNS))
    return root


def make_clumps() -> tuple[Array, IntArray]:
    """Return the rows (18,200, 16) float32 of the built-in data set ``clumps``, and their classes."""
    labels = np.arange(CLASSES * ROWS_PER_CLASS, dtype=np.int64) % CLASSES
    rows = ClumpedClasses(CLASSES, SEED).rows(labels, np.random.default_rng([SEED, CLASSES, 1]))
    return rows.astype(np.float32), labels
