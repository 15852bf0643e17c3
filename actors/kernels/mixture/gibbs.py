"""Collapsed Gibbs sampling of the labels of a Gaussian mixture with a normal-inverse-Wishart prior.

Row i, left out of its class, gets label k with probability proportional to

    exp(log_bias[i, k]) · StudentT(x_i | the other rows of k)^temperature · (n_k without i + alpha, if counts are used)

(Murphy 2007; R. M. Neal, "Markov chain sampling methods for Dirichlet process mixture models", 2000, algorithm 3 with a
fixed number of classes; where empty classes share alpha, algorithm 3 as it is, see :mod:`actors.kernels.mixture.crp`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actors.kernels.mixture.gibbs_sweep import Tables, make_tables, sweep
from actors.kernels.mixture.input_checks import Floats, Integers, as_bias, as_labels, as_mask, as_rows, check_finite
from actors.kernels.mixture.niw import Factors, Prior, build_factors, log_predictive

__all__ = [
    "REBUILD_EVERY",
    "Given",
    "Tables",
    "as_given",
    "compile_kernels",
    "gibbs",
    "make_tables",
    "sweep",
    "sweep_once",
]

REBUILD_EVERY = 25
"""Sweeps after which the factors are computed from scratch, so that rounding errors don't add up."""


class Given(NamedTuple):
    """What is sampled: rows (N, D), bias (N, K), labels (N,) and which rows are missing (N,)."""

    rows: Floats
    bias: Floats
    labels: Integers
    missing: NDArray[np.bool_]


def gibbs(
    X: ArrayLike,
    z: ArrayLike,
    classes: int,
    prior: Prior,
    alpha: float,
    iterations: int,
    generator: np.random.Generator,
    *,
    log_bias: ArrayLike | None = None,
    use_counts: bool = True,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    on_sweep: Callable[[int, int], object] | None = None,
) -> tuple[Integers, Factors]:
    """Run sweeps over all rows.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows.
    z : array_like of int, shape (N,)
        Labels to start from, not changed; -1 for a row that is in no class yet.
    classes : int
        K.
    prior : Prior
        Prior of the classes.
    alpha : float
        Added to the counts.
    iterations : int
        Sweeps. With 0 the factors of z are returned.
    generator : numpy.random.Generator
        Asked for N uniforms per sweep.
    log_bias : array_like, shape (N, K), optional
        Added to the scores, typically the log of a prior over the classes of each row. -inf forbids a class.
    use_counts : bool
        Whether the classes' counts weigh in.
    temperature : float
        The power of the likelihood.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: they are in no class, and their values (NaN, say) are never looked at.
    on_sweep : callable, optional
        Called with (sweeps done, rows moved in the last one), with the GIL.

    Returns
    -------
    z : ndarray of int64, shape (N,)
        New labels, -1 for missing rows. Unless there were 0 sweeps, every other row has one.
    factors : Factors
        Computed from scratch from these labels.

    Raises
    ------
    ValueError
        If shapes or labels don't fit, a row that isn't missing is not finite, log_bias has NaN, +inf or a row without
        any possible class, alpha is not positive though counts are used, or a class's scale gets singular in float64.
    """
    given = as_given(X, z, classes, prior, log_bias, mask)
    tables = make_tables(prior, len(given.rows), alpha, use_counts, temperature)
    factors = build_factors(given.rows, given.labels, classes, prior)
    for done in range(1, iterations + 1):
        moved = sweep_once(given, factors, tables, generator)
        if done % REBUILD_EVERY == 0 or done == iterations:
            factors = build_factors(given.rows, given.labels, classes, prior)
        if on_sweep is not None:
            on_sweep(done, moved)
    return given.labels, factors


def as_given(
    X: ArrayLike, z: ArrayLike, classes: int, prior: Prior, log_bias: ArrayLike | None, mask: ArrayLike | None
) -> Given:
    """Bring what is to be sampled, as `gibbs` takes it, to one type; the labels are a copy.

    Raises
    ------
    ValueError
        As `gibbs`, for what came.
    """
    rows = as_rows(X, prior.mean.size)
    N: int = rows.shape[0]
    labels = as_labels(z, N, classes)
    missing = as_mask(mask, N)
    labels[missing] = -1
    check_finite(rows, missing)
    bias = np.zeros((N, classes)) if log_bias is None else as_bias(log_bias, N, classes, missing)
    return Given(rows, bias, labels, missing)


def sweep_once(given: Given, factors: Factors, tables: Tables, generator: np.random.Generator) -> int:
    """Draw a new label for every row that is there; labels and factors change in place. Return how many rows moved.

    Raises
    ------
    ValueError
        If a class's scale gets singular in float64; labels and factors are then of no use.
    """
    uniforms = generator.random(len(given.rows))
    moved = sweep(given.rows, given.bias, given.labels, uniforms, given.missing, factors, tables)
    if moved < 0:
        raise ValueError(f"the scale of class {-1 - moved} is singular: the prior's scale is too small for data")
    return int(moved)


def compile_kernels() -> None:
    """Compile the kernels of this module and of `niw`, or load them from the cache, for the types they get.

    The public functions bring their arguments to one type, so that each kernel is compiled once.
    """
    X = np.array([[0.0], [1.0]])
    prior = Prior(np.zeros(1), 1.0, 3.0, np.eye(1))
    _, factors = gibbs(X, [0, 1], 2, prior, 1.0, 1, np.random.default_rng(0))
    log_predictive(X, factors, prior)
