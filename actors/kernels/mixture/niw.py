"""Gaussian classes with a normal-inverse-Wishart prior: sufficient factors and predictive densities.

Source: K. P. Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, section 9 (there kappa is called
r here, and Lambda is the scale S): posterior eqs. 250 to 254, predictive eq. 258, marginal likelihood eq. 266.

Throughout, N is the number of rows, D their dimension, K the number of classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, multigammaln

from actors.kernels.jit import kernel
from actors.kernels.mixture.input_checks import Floats, Integers, as_labels, as_rows

BLOCK = 32
"""Rows that are solved for side by side. A constant, so that the innermost loops become vector instructions."""

EPSILON = 2.0**-52
"""The least value of 1 - c q, which is positive in exact arithmetic."""


@dataclass(frozen=True, eq=False)
class Prior:
    """A normal-inverse-Wishart prior, the same for all classes.

    Attributes
    ----------
    mean : ndarray of float64, shape (D,)
        Where the classes' means are expected, m0.
    r0 : float
        How many rows the prior mean counts for, > 0.
    nu0 : float
        Degrees of freedom, > D - 1.
    scale : ndarray of float64, shape (D, D)
        Positive definite scale matrix S0. A vector of shape (D,) is taken as its diagonal.

    Raises
    ------
    ValueError
        If a shape, r0, nu0 or the scale is not as said.
    """

    mean: Floats
    r0: float
    nu0: float
    scale: Floats

    def __post_init__(self) -> None:
        mean = np.array(self.mean, dtype=np.float64)
        scale = np.array(self.scale, dtype=np.float64)
        if mean.ndim != 1 or mean.size == 0:
            raise ValueError(f"the prior's mean must be a vector, its shape is {mean.shape}")
        if scale.shape == mean.shape:
            scale = np.diag(scale)
        if scale.shape != (mean.size, mean.size):
            raise ValueError(f"the prior's scale must be {mean.size} x {mean.size}, its shape is {scale.shape}")
        if not self.r0 > 0 or not self.nu0 > mean.size - 1:
            raise ValueError(f"needed: r0 > 0 and nu0 > {mean.size - 1}; r0 is {self.r0}, nu0 is {self.nu0}")
        if not (np.isfinite(mean).all() and np.isfinite(scale).all()) or np.linalg.eigvalsh(scale)[0] <= 0:
            raise ValueError("the prior's mean must be finite and its scale positive definite")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "scale", np.ascontiguousarray(0.5 * (scale + scale.T)))
        object.__setattr__(self, "r0", float(self.r0))
        object.__setattr__(self, "nu0", float(self.nu0))


class Factors(NamedTuple):
    """What the rows of each class amount to.

    Attributes
    ----------
    counts : ndarray of int64, shape (K,)
        Rows in the class, n. The posterior has r = r0 + n and nu = nu0 + n. Soft classes (see `variational`) have
        float64, the sum of their rows' weights; the sampler takes integers alone.
    mean : ndarray of float64, shape (K, D)
        Posterior means m.
    scale : ndarray of float64, shape (K, D, D)
        Posterior scale matrices S; only the lower triangle is kept up to date by the sweep.
    chol : ndarray of float64, shape (K, D, D)
        Lower Cholesky factors of S.
    log_det : ndarray of float64, shape (K,)
        log |S|.
    """

    counts: Integers | Floats
    mean: Floats
    scale: Floats
    chol: Floats
    log_det: Floats


def build_factors(X: ArrayLike, z: ArrayLike, classes: int, prior: Prior) -> Factors:
    """Compute the factors of all classes from scratch.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows. Those with label -1 are not read.
    z : array_like of int, shape (N,)
        Labels, -1 for a row that is in no class.
    classes : int
        K.
    prior : Prior
        The prior.

    Returns
    -------
    Factors
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
    return factorized(counts, mean, scale)


def factorized(counts: Integers | Floats, mean: Floats, scale: Floats) -> Factors:
    """Return the factors of classes of which counts (K,), mean (K, D) and scale (K, D, D) are known.

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
    return Factors(counts, mean, scale, chol, log_det)


def predictive_constants(prior: Prior, largest: int) -> Floats:
    """Return what of the log predictive density depends on the count n of a class alone, for n = 0..largest.

    Returns
    -------
    ndarray of float64, shape (largest + 1,)
        gammaln((nu+1)/2) - gammaln((nu+1-D)/2) - D/2 log(pi) + D/2 log(r/(r+1)).
    """
    return _constants(np.arange(largest + 1, dtype=np.float64), prior)


def _constants(n: Floats, prior: Prior) -> Floats:
    """Return what `predictive_constants` says, for counts n of any shape, whole or not."""
    D = prior.mean.size
    nu, r = prior.nu0 + n, prior.r0 + n
    gammas = gammaln((nu + 1.0) / 2.0) - gammaln((nu + 1.0 - D) / 2.0)
    constants: Floats = gammas + D / 2.0 * (np.log(r / (r + 1.0)) - math.log(math.pi))
    return constants


def log_student_t(q: Floats, n: NDArray[Any], log_det: Floats, prior: Prior) -> Floats:
    """Return the log predictive density from the quadratic forms q (Murphy 258); the arguments broadcast.

    The multivariate Student t with nu - D + 1 degrees of freedom and scale S (r+1) / (r (nu - D + 1)):
    constants(n) - 1/2 log|S| - (nu+1)/2 log(1 + r/(r+1) q).
    """
    # Whole counts are few: looking them up saves the evaluation of gammaln for every row and class.
    whole = np.issubdtype(n.dtype, np.integer)
    constants = predictive_constants(prior, int(n.max(initial=0)))[n] if whole else _constants(n, prior)
    r, nu = prior.r0 + n, prior.nu0 + n
    density: Floats = constants - 0.5 * log_det - 0.5 * (nu + 1.0) * np.log1p(r / (r + 1.0) * q)
    return density


def log_predictive(X: ArrayLike, factors: Factors, prior: Prior) -> Floats:
    """Return the log density of new rows under each class.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows that are not counted in the factors.
    factors : Factors
        The classes.
    prior : Prior
        The prior the factors were built with.

    Returns
    -------
    ndarray of float64, shape (N, K)
        log p(x_i | class k).

    Raises
    ------
    ValueError
        If the rows' shape doesn't fit.
    """
    q = quadratic_forms(as_rows(X, prior.mean.size), factors.mean, factors.chol)
    return log_student_t(q, factors.counts, factors.log_det, prior)


def log_predictive_loo(X: ArrayLike, z: ArrayLike, factors: Factors, prior: Prior) -> Floats:
    """Return the log density of rows under each class, each row scored as if it were not in its own class.

    Taking x out of its class (r, m, S) is a rank-one change of S, so with q = (x-m)ᵀS⁻¹(x-m) and c = r/(r-1) the
    Sherman-Morrison formula and the determinant lemma give the quadratic form and determinant without it.

    Parameters
    ----------
    X : array_like, shape (N, D)
        The rows.
    z : array_like of int, shape (N,)
        Their labels, as in the factors; -1 for a row that is in no class.
    factors, prior
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
    labels = as_labels(z, rows.shape[0], factors.counts.size)
    q = quadratic_forms(rows, factors.mean, factors.chol)
    out = log_student_t(q, factors.counts, factors.log_det, prior)
    counted = np.flatnonzero(labels >= 0)
    own = labels[counted]
    n = factors.counts[own]
    c = (prior.r0 + n) / (prior.r0 + n - 1.0)
    left = np.maximum(1.0 - c * q[counted, own], EPSILON)
    without = c * c * q[counted, own] / left  # q' = c² q / (1 - c q)
    log_det = factors.log_det[own] + np.log(left)  # |S'| = |S| (1 - c q)
    out[counted, own] = log_student_t(without, n - 1, log_det, prior)
    return out


def log_marginal(factors: Factors, prior: Prior) -> Floats:
    """Return the log marginal likelihood of the rows of each class, parameters integrated out (Murphy 266).

    Returns
    -------
    ndarray of float64, shape (K,)
        log p(rows of class k).
    """
    D = prior.mean.size
    n, nu, r = factors.counts, prior.nu0 + factors.counts, prior.r0 + factors.counts
    log_det0 = np.linalg.slogdet(prior.scale)[1]
    gammas = multigammaln(nu / 2.0, D) - multigammaln(prior.nu0 / 2.0, D)
    marginal: Floats = (
        -0.5 * n * D * math.log(math.pi)
        + gammas
        + 0.5 * (prior.nu0 * log_det0 - nu * factors.log_det)
        + 0.5 * D * np.log(prior.r0 / r)
    )
    return marginal


@kernel
def solve_block(chol: Floats, inverse_diagonal: Floats, mean: Floats, columns: Floats, y: Floats) -> None:
    """Solve L y_j = x_j - m for BLOCK rows side by side, by forward substitution.

    Parameters
    ----------
    chol, inverse_diagonal, mean : ndarray of float64, shapes (D, D), (D,), (D,)
        L, the reciprocals of its diagonal, m.
    columns : ndarray of float64, shape (D, BLOCK)
        The rows, transposed.
    y : ndarray of float64, shape (D, BLOCK)
        Receives the solutions.
    """
    D, width = y.shape
    for d in range(D):
        for j in range(width):
            y[d, j] = columns[d, j] - mean[d]
    for d in range(D):
        for j in range(width):
            y[d, j] *= inverse_diagonal[d]
        # By columns of L: the D - d - 1 updates don't wait for each other.
        for e in range(d + 1, D):
            factor = chol[e, d]
            for j in range(width):
                y[e, j] -= factor * y[d, j]


@kernel
def quadratic_forms(X: Floats, mean: Floats, chol: Floats) -> Floats:
    """Return (x_i - m_k)ᵀ S_k⁻¹ (x_i - m_k) for all rows and classes.

    Parameters
    ----------
    X, mean, chol : ndarray of float64, shapes (N, D), (K, D), (K, D, D)
        Rows, means and Cholesky factors of S.

    Returns
    -------
    ndarray of float64, shape (N, K)
        The squared distances.
    """
    N, D = X.shape
    K = mean.shape[0]
    out = np.empty((N, K))
    columns, y, squares = np.zeros((D, BLOCK)), np.empty((D, BLOCK)), np.empty(BLOCK)
    inverse_diagonal = np.empty((K, D))
    for k in range(K):
        for d in range(D):
            inverse_diagonal[k, d] = 1.0 / chol[k, d, d]
    for start in range(0, N, BLOCK):
        size = min(BLOCK, N - start)
        for j in range(size):
            for d in range(D):
                columns[d, j] = X[start + j, d]
        for k in range(K):
            solve_block(chol[k], inverse_diagonal[k], mean[k], columns, y)
            squares[:] = 0.0
            for d in range(D):
                for j in range(columns.shape[1]):
                    squares[j] += y[d, j] * y[d, j]
            for j in range(size):
                out[start + j, k] = squares[j]
    return out
