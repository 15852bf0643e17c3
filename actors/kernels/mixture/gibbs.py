"""Collapsed Gibbs sampling of the labels of a Gaussian mixture: the Python interface of `gibbs_sweep`.

With a normal-inverse-Wishart prior, row i, left out of its class, gets label k with probability proportional to

    exp(log_bias[i, k]) · StudentT(x_i | the other rows of k)^temperature · (n_k without i + alpha, if counts are used)

(Murphy 2007; R. M. Neal, "Markov chain sampling methods for Dirichlet process mixture models", 2000, algorithm 3 with a
fixed number of classes; for algorithm 3 itself, where empty classes share alpha, see
:mod:`actors.kernels.mixture.crp`.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.mixture.gibbs_sweep import Tables, make_tables, sweep
from actors.kernels.mixture.incomplete import (
    Incomplete,
    conditionals,
    pairs_of_labels,
    posterior_given_labels,
)
from actors.kernels.mixture.incomplete_sweep import sweep_incomplete
from actors.kernels.mixture.input_checks import as_bias, as_labels, as_mask, as_rows, check_finite
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, log_predictive, posterior_from_labels
from actors.kernels.types import BoolArray, FloatArray, IntArray

REBUILD_EVERY = 25
"""Sweeps after which the posterior is recomputed from the rows, so that rounding errors don't accumulate."""


class SamplerInput(NamedTuple):
    """Checked input of a sampler: rows (N, D), log-bias (N, K), labels (N,) and the mask of missing rows (N,)."""

    rows: FloatArray
    bias: FloatArray
    labels: IntArray
    missing: BoolArray


def gibbs(
    X: ArrayLike,
    z: ArrayLike,
    classes: int,
    prior: NIWPrior,
    alpha: float,
    iterations: int,
    generator: np.random.Generator,
    *,
    log_bias: ArrayLike | None = None,
    use_counts: bool = True,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    incomplete: Incomplete | None = None,
    on_sweep: Callable[[int, int], object] | None = None,
) -> tuple[IntArray, NIWPosterior]:
    """Run Gibbs sweeps over all rows.

    Missing values of incomplete rows are drawn with the rows' labels
    (:mod:`actors.kernels.mixture.incomplete_sweep`). The posterior that is returned does not depend on these draws: it
    is that of the labels, with what it expects of the missing values.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows.
    z : array_like of int, shape (N,)
        Initial labels, not changed; -1 for a row without one.
    classes : int
        K.
    prior : NIWPrior
        Prior of the classes.
    alpha : float
        Dirichlet concentration, added to the counts.
    iterations : int
        Number of sweeps. With 0 the posterior given z is returned.
    generator : numpy.random.Generator
        Draws N uniforms per sweep.
    log_bias : array_like, shape (N, K), optional
        Added to the scores, typically a log-prior over the classes of each row. -inf forbids a class.
    use_counts : bool
        Whether the scores include the classes' counts.
    temperature : float
        The exponent of the likelihood.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: they are in no class, and their values (NaN, say) are not used.
    incomplete : Incomplete, optional
        The rows with some missing values, in the place of which X has any finite numbers.
    on_sweep : callable, optional
        Called after each sweep with (sweeps done, rows whose label changed in it), with the GIL.

    Returns
    -------
    z : ndarray of int64, shape (N,)
        New labels, -1 for missing rows. After at least one sweep all other rows have a label.
    posterior : NIWPosterior
        Computed from the rows and these labels.

    Raises
    ------
    ValueError
        If shapes or labels don't fit, a row that isn't missing is not finite, log_bias has NaN, +inf or a row without
        any possible class, alpha is not positive though counts are used, or a class's scale gets singular in float64.
    """
    data = as_sampler_input(X, z, classes, prior, log_bias, mask)
    tables = make_tables(prior, len(data.rows), alpha, use_counts, temperature)
    completion = None if incomplete is None else Completion(data, incomplete, classes, prior)
    data = data if completion is None else completion.data
    posterior = posterior_from_labels(data.rows, data.labels, classes, prior)
    for done in range(1, iterations + 1):
        moved = 0 if completion is None else completion.redraw(posterior, tables, generator)
        moved += sweep_once(data, posterior, tables, generator)
        if done % REBUILD_EVERY == 0 or done == iterations:
            posterior = posterior_from_labels(data.rows, data.labels, classes, prior)
        if on_sweep is not None:
            on_sweep(done, moved)
    return data.labels, posterior if completion is None else completion.expected_posterior()


class Completion:
    """Incomplete rows of a sampler, whose missing values are drawn.

    Parameters
    ----------
    data : SamplerInput
        Rows with any finite numbers in the place of missing values.
    incomplete : Incomplete
    classes : int
        K.
    prior : NIWPrior

    Attributes
    ----------
    data : SamplerInput
        The same with copies of the rows, where missing values are the conditional means by the rows' labels at first.
        Incomplete rows are masked, so that a sweep leaves them out.

    Raises
    ------
    ValueError
        If a class's scale gets singular in float64.
    """

    def __init__(self, data: SamplerInput, incomplete: Incomplete, classes: int, prior: NIWPrior) -> None:
        masked = data.missing.copy()
        masked[incomplete.rows] = True
        self.data = data._replace(rows=data.rows.copy(), missing=masked)
        self._given, self._incomplete, self._classes, self._prior = data.rows, incomplete, classes, prior
        self._absent = ~incomplete.observed[incomplete.pattern]
        pairs = pairs_of_labels(incomplete, data.labels)
        if len(pairs.row):
            posterior = self.expected_posterior()
            found = conditionals(data.rows, incomplete, pairs, posterior.mean, posterior.scale)
            self.data.rows[incomplete.rows[pairs.row]] = found.values

    def redraw(self, posterior: NIWPosterior, tables: Tables, generator: np.random.Generator) -> int:
        """Draw labels and missing values of the incomplete rows; return how many labels changed.

        The posterior of all rows is changed in place.

        Raises
        ------
        ValueError
            If a class's scale gets singular in float64; labels and posterior are then invalid.
        """
        rows, bias, labels, _ = self.data
        moved = sweep_incomplete(rows, self._incomplete.rows, self._absent, bias, labels, generator, posterior, tables)
        _check_moved(moved)
        for array, new in zip(posterior, posterior_from_labels(rows, labels, self._classes, self._prior), strict=True):
            array[...] = new
        return int(moved)

    def expected_posterior(self) -> NIWPosterior:
        """Return the posterior given the labels, with what it expects of the missing values.

        Raises
        ------
        ValueError
            If a class's scale is not positive definite in float64.
        """
        return posterior_given_labels(self._given, self.data.labels, self._classes, self._incomplete, self._prior)


def as_sampler_input(
    X: ArrayLike, z: ArrayLike, classes: int, prior: NIWPrior, log_bias: ArrayLike | None, mask: ArrayLike | None
) -> SamplerInput:
    """Check the input of `gibbs` and convert it to the kernels' types; the labels are a copy.

    Raises
    ------
    ValueError
        As `gibbs`, for X, z, log_bias and mask.
    """
    rows = as_rows(X, prior.mean.size)
    N: int = rows.shape[0]
    labels = as_labels(z, N, classes)
    missing = as_mask(mask, N)
    labels[missing] = -1
    check_finite(rows, missing)
    bias = np.zeros((N, classes)) if log_bias is None else as_bias(log_bias, N, classes, missing)
    return SamplerInput(rows, bias, labels, missing)


def sweep_once(data: SamplerInput, posterior: NIWPosterior, tables: Tables, generator: np.random.Generator) -> int:
    """Sample the label of each row that isn't missing, in place; return how many labels changed.

    Raises
    ------
    ValueError
        If a class's scale gets singular in float64; labels and posterior are then invalid.
    """
    uniforms = generator.random(len(data.rows))
    moved = sweep(data.rows, data.bias, data.labels, uniforms, data.missing, posterior, tables)
    _check_moved(moved)
    return int(moved)


def _check_moved(moved: int) -> None:
    if moved < 0:
        raise ValueError(f"the scale of class {-1 - moved} is singular: the prior's scale is too small for data")


def compile_kernels() -> None:
    """Compile the kernels of `gibbs_sweep` and `niw`, or load them from the cache, for the types they are called with.

    The public functions convert their arguments to one type each, so that each kernel is compiled once.
    """
    X = np.array([[0.0], [1.0]])
    prior = NIWPrior(np.zeros(1), 1.0, 3.0, np.eye(1))
    _, posterior = gibbs(X, [0, 1], 2, prior, 1.0, 1, np.random.default_rng(0))
    log_predictive(X, posterior, prior)
