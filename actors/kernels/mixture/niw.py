"""Normal-inverse-Wishart classes: posterior parameters, Student-t predictive densities and marginal likelihoods.

Source: K. P. Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, section 9 (there kappa is called
r here, and Lambda is the scale S): posterior eqs. 250 to 254, predictive eq. 258, marginal likelihood eq. 266.

Throughout, N is the number of rows, D their dimension, K the number of classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import kernel
from actors.kernels.lanes import LANES, load, spread, store
from actors.kernels.mixture.input_checks import as_labels, as_rows
from actors.kernels.special import gammaln, multigammaln
from actors.kernels.types import Array, FloatArray, IntArray

BLOCK_SIZE = 32
"""Rows that are solved for together: four times :data:`actors.kernels.lanes.LANES`, whose sums stay in registers."""

MIN_DOWNDATE = 2.0**-52
"""Lower limit of 1 - c q, which is positive in exact arithmetic."""


@dataclass(frozen=True, eq=False)
class NIWPrior:
    """A normal-inverse-Wishart prior, the same for all classes.

    Attributes
    ----------
    mean : ndarray of float64, shape (D,)
        Prior mean m0 of the classes' means.
    r0 : float
        Pseudo-count of the prior mean (kappa), > 0.
    nu0 : float
        Degrees of freedom, > D - 1.
    scale : ndarray of float64, shape (D, D)
        Positive definite scale matrix S0. A vector of shape (D,) is taken as its diagonal.

    Raises
    ------
    ValueError
        If a shape, r0, nu0 or the scale violates these conditions.
    """

    mean: FloatArray
    r0: float
    nu0: float
    scale: FloatArray

    def __post_init__(self) -> None:
        mean = np.array(self.mean, dtype=np.float64)
        scale = np.array(self.scale, dtype=np.float64)
        if mean.ndim != 1 or mean.size == 0:
            raise ValueError(f"the prior's mean must be a vector, but has the shape {mean.shape}")
        if scale.shape == mean.shape:
            scale = np.diag(scale)
        if scale.shape != (mean.size, mean.size):
            raise ValueError(f"the prior's scale must be {mean.size} x {mean.size}, but has the shape {scale.shape}")
        if not self.r0 > 0 or not self.nu0 > mean.size - 1:
            raise ValueError(f"the prior needs r0 > 0 and nu0 > {mean.size - 1}, but r0 = {self.r0}, nu0 = {self.nu0}")
        if not (np.isfinite(mean).all() and np.isfinite(scale).all()) or not _is_positive_definite(scale):
            raise ValueError("the prior's mean must be finite and its scale positive definite")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "scale", np.ascontiguousarray(0.5 * (scale + scale.T)))
        object.__setattr__(self, "r0", float(self.r0))
        object.__setattr__(self, "nu0", float(self.nu0))


def _is_positive_definite(scale: FloatArray) -> bool:
    """Return whether a symmetric matrix is positive definite, in whatever units its rows and columns are."""
    variances = np.diagonal(scale)
    if not (variances > 0.0).all():
        return False
    root = np.sqrt(variances)
    return bool(np.linalg.eigvalsh(scale / root[:, None] / root)[0] > 0.0)


class NIWPosterior(NamedTuple):
    """The normal-inverse-Wishart posterior of each class, given its rows.

    Attributes
    ----------
    counts : ndarray of int64, shape (K,)
        Rows in the class, n. The posterior has r = r0 + n and nu = nu0 + n. In `variational` they are float64, the
        sums of the responsibilities; the samplers take integers only.
    mean : ndarray of float64, shape (K, D)
        Posterior means m.
    scale : ndarray of float64, shape (K, D, D)
        Posterior scale matrices S; the Gibbs sweep updates only the lower triangle.
    chol : ndarray of float64, shape (K, D, D)
        Lower Cholesky factors of S.
    log_det : ndarray of float64, shape (K,)
        log |S|.
    """

    counts: IntArray | FloatArray
    mean: FloatArray
    scale: FloatArray
    chol: FloatArray
    log_det: FloatArray


def posterior_from_labels(X: ArrayLike, z: ArrayLike, classes: int, prior: NIWPrior) -> NIWPosterior:
    """Compute the posterior of all classes from labelled rows.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows. Those with label -1 are not read.
    z : array_like of int, shape (N,)
        Labels, -1 for a row that is in no class.
    classes : int
        K.
    prior : NIWPrior
        The prior.

    Returns
    -------
    NIWPosterior
        Freshly allocated.

    Raises
    ------
    ValueError
        If shapes or labels don't fit, or a scale is not positive definite in float64.
    """
    rows = as_rows(X, prior.mean.size)
    labels = as_labels(z, rows.shape[0], classes)
    counts = np.bincount(labels[labels >= 0], minlength=classes).astype(np.int64)
    mean = np.tile(prior.mean, (classes, 1))
    scale = np.tile(prior.scale, (classes, 1, 1))
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(classes + 1))
    for k in np.flatnonzero(counts):
        members = rows[order[starts[k] : starts[k + 1]]]
        n, r = members.shape[0], prior.r0 + members.shape[0]
        average = members.mean(axis=0)
        centred = members - average
        offset = average - prior.mean
        # m = (r0 m0 + n x̄) / r;  S = S0 + Σ (x - x̄)(x - x̄)ᵀ + r0 n / r (x̄ - m0)(x̄ - m0)ᵀ        (Murphy 251, 254)
        mean[k] += n / r * offset
        scale[k] += centred.T @ centred + prior.r0 * n / r * np.outer(offset, offset)
    return posterior_from_moments(counts, mean, scale)


def posterior_from_moments(counts: IntArray | FloatArray, mean: FloatArray, scale: FloatArray) -> NIWPosterior:
    """Return the posterior of classes with given counts (K,), mean (K, D) and scale (K, D, D).

    Raises
    ------
    ValueError
        If a scale is not positive definite in float64.
    """
    try:
        chol = np.ascontiguousarray(np.linalg.cholesky(scale))
    except np.linalg.LinAlgError as error:
        raise ValueError("a class's scale is not positive definite: the prior's scale is too small for data") from error
    log_det = 2.0 * np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
    return NIWPosterior(counts, mean, scale, chol, log_det)


def predictive_constants(prior: NIWPrior, max_count: int) -> FloatArray:
    """Return the terms of the log predictive density that depend on a class's count n alone, for n = 0..max_count.

    Returns
    -------
    ndarray of float64, shape (max_count + 1,)
        gammaln((nu+1)/2) - gammaln((nu+1-D)/2) - D/2 log(pi) + D/2 log(r/(r+1)).
    """
    return _constants(np.arange(max_count + 1, dtype=np.float64), prior)


def _constants(n: FloatArray, prior: NIWPrior) -> FloatArray:
    """Return `predictive_constants` for counts n of any shape, integral or not."""
    D = prior.mean.size
    nu, r = prior.nu0 + n, prior.r0 + n
    gammas = gammaln((nu + 1.0) / 2.0) - gammaln((nu + 1.0 - D) / 2.0)
    constants: FloatArray = gammas + D / 2.0 * (np.log(r / (r + 1.0)) - math.log(math.pi))
    return constants


def log_student_t(q: FloatArray, n: Array, log_det: FloatArray, prior: NIWPrior) -> FloatArray:
    """Return the Student-t log predictive density of squared distances q (Murphy 258); the arguments broadcast.

    The multivariate Student t has nu - D + 1 degrees of freedom and scale S (r+1) / (r (nu - D + 1)); its log density
    is constants(n) - 1/2 log|S| - (nu+1)/2 log(1 + r/(r+1) q).
    """
    # There are few distinct integer counts: the table avoids evaluating gammaln for every row and class.
    integral = np.issubdtype(n.dtype, np.integer)
    constants = predictive_constants(prior, int(n.max(initial=0)))[n] if integral else _constants(n, prior)
    r, nu = prior.r0 + n, prior.nu0 + n
    density: FloatArray = constants - 0.5 * log_det - 0.5 * (nu + 1.0) * np.log1p(r / (r + 1.0) * q)
    return density


def log_predictive(X: ArrayLike, posterior: NIWPosterior, prior: NIWPrior) -> FloatArray:
    """Return the log predictive density of new rows under each class.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows that are not counted in the posterior.
    posterior : NIWPosterior
        The classes.
    prior : NIWPrior
        The prior of this posterior.

    Returns
    -------
    ndarray of float64, shape (N, K)
        log p(x_i | class k).

    Raises
    ------
    ValueError
        If the rows' shape doesn't fit.
    """
    q = squared_mahalanobis(as_rows(X, prior.mean.size), posterior.mean, posterior.chol)
    return log_student_t(q, posterior.counts, posterior.log_det, prior)


def sample_predictive(
    classes: IntArray, posterior: NIWPosterior, prior: NIWPrior, generator: np.random.Generator
) -> FloatArray:
    """Draw a row for each of N classes from the classes' predictive densities (:func:`log_student_t`).

    With L Lᵀ = S, z standard normal (D,) and w chi-squared with nu - D + 1 degrees of freedom,
    m + sqrt((r+1)/r) L z / sqrt(w) has the Student-t distribution of Murphy 258.

    Parameters
    ----------
    classes : ndarray of int64, shape (N,)
    posterior : NIWPosterior
    prior : NIWPrior
        The prior of this posterior.
    generator : Generator

    Returns
    -------
    ndarray of float64, shape (N, D)
    """
    D = prior.mean.size
    r, nu = prior.r0 + posterior.counts[classes], prior.nu0 + posterior.counts[classes]
    normal = generator.standard_normal((len(classes), D))
    scale = np.sqrt((r + 1.0) / (r * generator.chisquare(nu - D + 1.0)))
    rows = np.empty((len(classes), D))
    for k in np.unique(classes):
        own = classes == k
        rows[own] = posterior.mean[k] + scale[own, None] * (normal[own] @ posterior.chol[k].T)
    return rows


def log_predictive_loo(X: ArrayLike, z: ArrayLike, posterior: NIWPosterior, prior: NIWPrior) -> FloatArray:
    """Return the leave-one-out log predictive density: each row is left out of its own class.

    Removing x from its class (r, m, S) is a rank-one change of S, so with q = (x-m)ᵀS⁻¹(x-m) and c = r/(r-1) the
    Sherman-Morrison formula and the determinant lemma give the squared distance and the determinant without it.

    Parameters
    ----------
    X : array_like, shape (N, D)
        The rows.
    z : array_like of int, shape (N,)
        The labels of the posterior; -1 for a row that is in no class.
    posterior, prior
        As in `log_predictive`.

    Returns
    -------
    ndarray of float64, shape (N, K)
        log p(x_i | class k without row i).

    Raises
    ------
    ValueError
        If shapes or labels don't fit.
    """
    rows = as_rows(X, prior.mean.size)
    labels = as_labels(z, rows.shape[0], posterior.counts.size)
    q = squared_mahalanobis(rows, posterior.mean, posterior.chol)
    out = log_student_t(q, posterior.counts, posterior.log_det, prior)
    counted = np.flatnonzero(labels >= 0)
    own = labels[counted]
    n = posterior.counts[own]
    c = (prior.r0 + n) / (prior.r0 + n - 1.0)
    left = np.maximum(1.0 - c * q[counted, own], MIN_DOWNDATE)
    without = c * c * q[counted, own] / left  # q' = c² q / (1 - c q)
    log_det = posterior.log_det[own] + np.log(left)  # |S'| = |S| (1 - c q)
    out[counted, own] = log_student_t(without, n - 1, log_det, prior)
    return out


def log_marginal_likelihood(posterior: NIWPosterior, prior: NIWPrior) -> FloatArray:
    """Return the log marginal likelihood of the rows of each class, parameters integrated out (Murphy 266).

    Returns
    -------
    ndarray of float64, shape (K,)
        log p(rows of class k).
    """
    D = prior.mean.size
    n, nu, r = posterior.counts, prior.nu0 + posterior.counts, prior.r0 + posterior.counts
    log_det0 = np.linalg.slogdet(prior.scale)[1]
    gammas = multigammaln(nu / 2.0, D) - multigammaln(prior.nu0 / 2.0, D)
    marginal: FloatArray = (
        -0.5 * n * D * math.log(math.pi)
        + gammas
        + 0.5 * (prior.nu0 * log_det0 - nu * posterior.log_det)
        + 0.5 * D * np.log(prior.r0 / r)
    )
    return marginal


@kernel
def solve_block(
    chol: FloatArray, inverse_diagonal: FloatArray, mean: FloatArray, columns: FloatArray, y: FloatArray, q: FloatArray
) -> None:
    """Solve L y_j = x_j - m for BLOCK_SIZE rows together, by forward substitution.

    Parameters
    ----------
    chol, inverse_diagonal, mean : ndarray of float64, shapes (D, D), (D,), (D,)
        L, the reciprocals of its diagonal, m.
    columns : ndarray of float64, shape (D, BLOCK_SIZE)
        The rows, transposed.
    y : ndarray of float64, shape (D, BLOCK_SIZE)
        Output: the solutions.
    q : ndarray of float64, shape (BLOCK_SIZE,)
        Output: their squared lengths.
    """
    q0 = q1 = q2 = q3 = spread(0.0)
    for e in range(y.shape[0]):
        at, centre = e * BLOCK_SIZE, spread(mean[e])
        y0, y1 = load(columns, at) - centre, load(columns, at + LANES) - centre
        y2, y3 = load(columns, at + 2 * LANES) - centre, load(columns, at + 3 * LANES) - centre
        for d in range(e):
            factor, row = spread(chol[e, d]), d * BLOCK_SIZE
            y0, y1 = y0 - factor * load(y, row), y1 - factor * load(y, row + LANES)
            y2, y3 = y2 - factor * load(y, row + 2 * LANES), y3 - factor * load(y, row + 3 * LANES)
        inverse = spread(inverse_diagonal[e])
        y0, y1, y2, y3 = y0 * inverse, y1 * inverse, y2 * inverse, y3 * inverse
        store(y, at, y0)
        store(y, at + LANES, y1)
        store(y, at + 2 * LANES, y2)
        store(y, at + 3 * LANES, y3)
        q0, q1, q2, q3 = q0 + y0 * y0, q1 + y1 * y1, q2 + y2 * y2, q3 + y3 * y3
    store(q, 0, q0)
    store(q, LANES, q1)
    store(q, 2 * LANES, q2)
    store(q, 3 * LANES, q3)


@kernel
def squared_mahalanobis(X: FloatArray, mean: FloatArray, chol: FloatArray) -> FloatArray:
    """Return the squared Mahalanobis distances (x_i - m_k)ᵀ S_k⁻¹ (x_i - m_k) of all rows and classes.

    Parameters
    ----------
    X, mean, chol : ndarray of float64, shapes (N, D), (K, D), (K, D, D)
        Rows, means and Cholesky factors of S.

    Returns
    -------
    ndarray of float64, shape (N, K)
    """
    N, D = X.shape
    K = mean.shape[0]
    out = np.empty((N, K))
    columns, y, squares = np.zeros((D, BLOCK_SIZE)), np.empty((D, BLOCK_SIZE)), np.empty(BLOCK_SIZE)
    inverse_diagonal = np.empty((K, D))
    for k in range(K):
        for d in range(D):
            inverse_diagonal[k, d] = 1.0 / chol[k, d, d]
    for start in range(0, N, BLOCK_SIZE):
        size = min(BLOCK_SIZE, N - start)
        for j in range(size):
            for d in range(D):
                columns[d, j] = X[start + j, d]
        for k in range(K):
            solve_block(chol[k], inverse_diagonal[k], mean[k], columns, y, squares)
            for j in range(size):
                out[start + j, k] = squares[j]
    return out
