"""Variational Bayes for a Gaussian mixture with a normal-inverse-Wishart prior.

The posterior is approximated by q(z) q(π) Π_k q(μ_k, Λ_k). Each class is a normal-inverse-Wishart distribution as in
`niw`, only that rows belong to classes by weights, the responsibilities: counts need not be whole.

Source: C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, section 10.2, to which the numbers (10.x) refer;
beta is called r here and W⁻¹ is the scale S. The leave-one-out density is that of K. P. Murphy, "Conjugate Bayesian
analysis of the Gaussian distribution", 2007, eq. 258, for a row that is in a class by a share.

Throughout, N is the number of rows, D their dimension, K the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, entr, gammaln

from actors.kernels.jit import as_input
from actors.kernels.mixture.input_checks import Floats, Integers, as_bias, as_mask, as_rows, check_finite
from actors.kernels.mixture.niw import EPSILON, Factors, Prior, factorized, log_marginal, log_student_t, quadratic_forms

LEAST_RISE = 1e-9
"""In nats a row: an iteration that raises the bound by less is the last one."""

TOLERANCE = 1e-6
"""How far the sum of a row's responsibilities may be from one."""


def as_responsibilities(r: ArrayLike, rows: int) -> Floats:
    """Return r as a fresh float64 array (rows, K), whose rows sum to one or, for a row in no class, are zero.

    Raises
    ------
    ValueError
        If the shape is another, a value negative, or a sum another.
    """
    given = np.array(r, dtype=np.float64, order="C")
    if given.ndim != 2 or given.shape[0] != rows or given.shape[1] == 0:
        raise ValueError(f"responsibilities must have the shape ({rows}, K), theirs is {given.shape}")
    sums = given.sum(axis=1)
    fine = (given >= 0.0).all(axis=1) & ((np.abs(sums - 1.0) <= TOLERANCE) | (sums == 0.0))
    if not fine.all():
        raise ValueError(f"row {np.argmin(fine)} of the responsibilities is no distribution")
    return given


def responsibilities_of(labels: Integers, classes: int) -> Floats:
    """Return ones where `labels` (N,) say, (N, `classes`) float64; zeros throughout for a label of -1."""
    return np.asarray(labels[:, None] == np.arange(classes), dtype=np.float64)


def labels_of(responsibilities: Floats) -> Integers:
    """Return each row's likeliest class, (N,) int64; -1 where the responsibilities (N, K) are zero throughout."""
    labels: Integers = np.where(responsibilities.any(axis=1), responsibilities.argmax(axis=1), -1).astype(np.int64)
    return labels


def soft_factors(X: ArrayLike, responsibilities: Floats, prior: Prior) -> Factors:
    """Compute the factors of all classes from rows that belong to them by weights.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows, finite.
    responsibilities : ndarray of float64, shape (N, K)
        Their weights.
    prior : Prior
        The prior.

    Returns
    -------
    Factors
        Freshly allocated; counts are float64.

    Raises
    ------
    ValueError
        If the shape doesn't fit, or a scale is not positive definite in float64.
    """
    rows = as_rows(X, prior.mean.size)
    counts = responsibilities.sum(axis=0)  # (10.51)
    r = prior.r0 + counts  # (10.60)
    offsets = rows - prior.mean
    # (10.61) and (10.62) about m instead of the average, which a class without any weight doesn't have:
    # m = m0 + Σ_t r_tk (x_t - m0) / r;  S = S0 + Σ_t r_tk (x_t - m)(x_t - m)ᵀ + r0 (m - m0)(m - m0)ᵀ
    shift = responsibilities.T @ offsets / r[:, None]
    scale = prior.scale + prior.r0 * shift[:, :, None] * shift[:, None, :]
    for k, weights in enumerate(responsibilities.T):
        centred = np.sqrt(weights)[:, None] * (offsets - shift[k])
        scale[k] += centred.T @ centred
    return factorized(counts, prior.mean + shift, scale)


def expected_log_density(X: ArrayLike, factors: Factors, prior: Prior) -> Floats:
    """Return E[log N(x_t | μ_k, Λ_k)] under the classes' posterior, (N, K) float64.

    Raises
    ------
    ValueError
        If the rows' shape doesn't fit.
    """
    D = prior.mean.size
    q = quadratic_forms(as_rows(X, D), factors.mean, factors.chol)
    r, nu = prior.r0 + factors.counts, prior.nu0 + factors.counts
    # E[log |Λ|] = Σ_d ψ((ν + 1 - d) / 2) + D log 2 - log |S|                                          (10.65)
    log_precision = digamma((nu[:, None] - np.arange(D)) / 2.0).sum(axis=1) + D * math.log(2.0) - factors.log_det
    expected: Floats = 0.5 * (log_precision - D * math.log(2.0 * math.pi) - D / r - nu * q)  # (10.64)
    return expected


def expected_log_weights(counts: Integers | Floats, alpha: float) -> Floats:
    """Return E[log π_k] under the posterior of a symmetric Dirichlet prior, (K,) float64."""
    weights: Floats = digamma(alpha + counts) - digamma((alpha + counts).sum())  # (10.66), with (10.58)
    return weights


def soft_log_predictive_loo(X: ArrayLike, responsibilities: Floats, factors: Factors, prior: Prior) -> Floats:
    """Return the log density of rows under each class, each row scored as if it had no weight in any.

    Taking the weight w of x out of a class (r, m, S) is a rank-one change of S, as in `niw.log_predictive_loo`: with
    q = (x-m)ᵀS⁻¹(x-m), c = r/(r-w) and a = c w, the quadratic form without it is c² q / (1 - a q) and the determinant
    |S| (1 - a q).

    Parameters
    ----------
    X : array_like, shape (N, D)
        The rows.
    responsibilities : ndarray of float64, shape (N, K)
        Their weights, as in the factors.
    factors, prior
        As in `niw.log_predictive`.

    Returns
    -------
    ndarray of float64, shape (N, K)
        log p(x_i | class k without row i).

    Raises
    ------
    ValueError
        If shapes don't fit.
    """
    rows = as_rows(X, prior.mean.size)
    if responsibilities.shape != (rows.shape[0], factors.counts.size):
        expected = (rows.shape[0], factors.counts.size)
        raise ValueError(f"responsibilities must have the shape {expected}, theirs is {responsibilities.shape}")
    q = quadratic_forms(rows, factors.mean, factors.chol)
    # Rounding must not leave less than no row, or S would be larger without the row than with it.
    n = np.maximum(factors.counts - responsibilities, 0.0)
    c = (prior.r0 + factors.counts) / (prior.r0 + n)
    left = np.maximum(1.0 - c * responsibilities * q, EPSILON)
    return log_student_t(c * c * q / left, n, factors.log_det + np.log(left), prior)


def evidence_bound(
    responsibilities: Floats,
    factors: Factors,
    prior: Prior,
    alpha: float,
    *,
    log_prior: Floats | None = None,
    temperature: float = 1.0,
) -> float:
    """Return the lower bound of the log evidence for factors that were computed from these responsibilities.

    Where each q(μ_k, Λ_k) and q(π) is the best for the responsibilities, their expectations and divergences in
    (10.70) to (10.77) add up to the logarithms of normalisers of the posteriors, which are those of `niw.log_marginal`
    and of the Dirichlet distribution with counts that need not be whole. There remain the responsibilities' own
    entropy, -(10.75), and, where the rows have priors of their own, those in the place of (10.72), (10.73) and (10.76).

    Parameters
    ----------
    responsibilities : ndarray of float64, shape (N, K)
    factors, prior
        Of these responsibilities.
    alpha : float
        Of the Dirichlet prior of the weights.
    log_prior : ndarray of float64, shape (N, K), optional
        Log-priors of the classes of each row, which replace the weights.
    temperature : float
        At less than one, the objective that an iteration at this temperature raises, which is not the bound.

    Returns
    -------
    float
        -inf if a row is where its prior says that it cannot be.
    """
    n, K = factors.counts, factors.counts.size
    if log_prior is None:
        whole = gammaln(K * alpha) - gammaln(K * alpha + n.sum())
        prior_of_classes = whole + (gammaln(alpha + n) - gammaln(alpha)).sum()
    else:
        terms = np.zeros_like(responsibilities)
        prior_of_classes = np.multiply(responsibilities, log_prior, out=terms, where=responsibilities > 0.0).sum()
    likelihood = log_marginal(factors, prior).sum()
    return float(temperature * likelihood + prior_of_classes + entr(responsibilities).sum())


def variational_bayes(
    X: ArrayLike,
    responsibilities: ArrayLike,
    prior: Prior,
    alpha: float,
    iterations: int,
    *,
    log_bias: ArrayLike | None = None,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    on_iteration: Callable[[int, float], object] | None = None,
) -> tuple[Floats, Factors, float]:
    """Run iterations, each of which finds the responsibilities under the classes and then the classes under these.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows.
    responsibilities : array_like, shape (N, K)
        Of each row for each class, to start from, not changed; zeros for a row that is in no class yet.
    prior : Prior
        Prior of the classes.
    alpha : float
        Of the symmetric Dirichlet prior of the weights, > 0.
    iterations : int
        At most; fewer where the bound doesn't rise any more. With 0 the factors of the responsibilities are returned.
    log_bias : array_like, shape (N, K), optional
        Log-priors of the classes of each row, which replace the weights. -inf forbids a class.
    temperature : float
        The power of the likelihood.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: they are in no class, and their values (NaN, say) are never looked at.
    on_iteration : callable, optional
        Called with (iterations done, the objective at this temperature, which rises).

    Returns
    -------
    responsibilities : ndarray of float64, shape (N, K)
        New ones, zeros for missing rows.
    factors : Factors
        Computed from them.
    bound : float
        Lower bound of the log evidence of the rows that are there, at temperature 1 whatever `temperature` is.

    Raises
    ------
    ValueError
        If shapes don't fit, responsibilities are no distributions, a row that isn't missing is not finite, log_bias
        has NaN, +inf or a row without any possible class, alpha is not positive, or a class's scale gets singular.
    """
    rows = as_rows(X, prior.mean.size)
    N: int = rows.shape[0]
    out, missing = as_responsibilities(responsibilities, N), as_mask(mask, N)
    check_finite(rows, missing)
    if not alpha > 0.0:
        raise ValueError(f"alpha must be positive, it is {alpha}")
    log_prior = None if log_bias is None else as_bias(log_bias, N, out.shape[1], missing)[~missing]
    seen, r = as_input(rows[~missing]), out[~missing]
    factors, before = soft_factors(seen, r, prior), -math.inf
    for done in range(1, iterations + 1):
        class_scores = expected_log_weights(factors.counts, alpha) if log_prior is None else log_prior
        r = _normalised(class_scores + temperature * expected_log_density(seen, factors, prior))
        factors = soft_factors(seen, r, prior)
        objective = evidence_bound(r, factors, prior, alpha, log_prior=log_prior, temperature=temperature)
        if on_iteration is not None:
            on_iteration(done, objective)
        if objective - before < LEAST_RISE * len(seen):
            break
        before = objective
    out[missing], out[~missing] = 0.0, r
    return out, factors, evidence_bound(r, factors, prior, alpha, log_prior=log_prior)


def _normalised(scores: Floats) -> Floats:
    """Return exp(scores) (N, K) with rows that sum to one (10.46, 10.49)."""
    r = np.exp(scores - scores.max(axis=1, keepdims=True))
    normalised: Floats = r / r.sum(axis=1, keepdims=True)
    return normalised
