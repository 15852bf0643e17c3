"""Variational Bayes for a Gaussian mixture with a normal-inverse-Wishart prior.

The posterior is approximated by q(z) q(π) Π_k q(μ_k, Λ_k). Each class has a normal-inverse-Wishart posterior as in
`niw`, but rows belong to classes by responsibilities, so that counts need not be integers.

Source: C. M. Bishop, "Pattern Recognition and Machine Learning", 2006, section 10.2, to which the numbers (10.x) refer;
beta is called r here and W⁻¹ is the scale S. The leave-one-out density is that of K. P. Murphy, "Conjugate Bayesian
analysis of the Gaussian distribution", 2007, eq. 258, for a row that is in each class with its responsibility.

Throughout, N is the number of rows, D their dimension, K the number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input
from actors.kernels.log_rows import softmax_of_rows
from actors.kernels.mixture.class_components import (
    counts_of_classes,
    expected_log_shares,
    log_marginal_of_shares,
)
from actors.kernels.mixture.incomplete import (
    Incomplete,
    all_pairs,
    expected_log_density_observed,
    posterior_expected,
    posterior_given,
    renumbered,
)
from actors.kernels.mixture.input_checks import as_bias, as_mask, as_rows, check_finite
from actors.kernels.mixture.niw import (
    MIN_DOWNDATE,
    NIWPosterior,
    NIWPrior,
    log_marginal_likelihood,
    log_student_t,
    posterior_from_moments,
    squared_mahalanobis,
)
from actors.kernels.mixture.scatter import weighted_scatter
from actors.kernels.special import digamma, entr, gammaln
from actors.kernels.types import FloatArray, IntArray

MIN_RISE = 1e-9
"""Nats a row: iteration ends when the bound rises by less."""

SUM_TOLERANCE = 1e-6
"""Largest deviation from one of the sum of a row's responsibilities."""


def as_responsibilities(r: ArrayLike, rows: int) -> FloatArray:
    """Return r as a fresh float64 array (rows, K), whose rows sum to one or, for a row in no class, are zero.

    Raises
    ------
    ValueError
        If the shape differs, a value is negative, or a row has another sum.
    """
    values = np.array(r, dtype=np.float64, order="C")
    if values.ndim != 2 or values.shape[0] != rows or values.shape[1] == 0:
        raise ValueError(f"responsibilities must have the shape ({rows}, K), but have {values.shape}")
    sums = values.sum(axis=1)
    valid = (values >= 0.0).all(axis=1) & ((np.abs(sums - 1.0) <= SUM_TOLERANCE) | (sums == 0.0))
    if not valid.all():
        raise ValueError(f"row {np.argmin(valid)} of the responsibilities is not a distribution")
    return values


def one_hot_responsibilities(labels: IntArray, classes: int) -> FloatArray:
    """Return one-hot responsibilities (N, `classes`) float64 of labels (N,); a row of zeros for a label of -1."""
    return np.asarray(labels[:, None] == np.arange(classes), dtype=np.float64)


def most_probable_labels(responsibilities: FloatArray) -> IntArray:
    """Return each row's most probable class, (N,) int64; -1 for rows of responsibilities (N, K) that are all zero."""
    labels: IntArray = np.where(responsibilities.any(axis=1), responsibilities.argmax(axis=1), -1).astype(np.int64)
    return labels


def posterior_from_responsibilities(X: ArrayLike, responsibilities: FloatArray, prior: NIWPrior) -> NIWPosterior:
    """Compute the posterior of all classes from rows weighted by their responsibilities.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows, finite.
    responsibilities : ndarray of float64, shape (N, K)
        Their weights.
    prior : NIWPrior
        The prior.

    Returns
    -------
    NIWPosterior
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
    # (10.61) and (10.62) about m instead of the average, which is undefined for a class without any weight:
    # m = m0 + Σ_t r_tk (x_t - m0) / r;  S = S0 + Σ_t r_tk (x_t - m)(x_t - m)ᵀ + r0 (m - m0)(m - m0)ᵀ
    shift = responsibilities.T @ offsets / r[:, None]
    scale = prior.scale + prior.r0 * shift[:, :, None] * shift[:, None, :]
    scale += weighted_scatter(offsets, np.ascontiguousarray(responsibilities.T), shift)
    return posterior_from_moments(counts, prior.mean + shift, scale)


def expected_log_density(X: ArrayLike, posterior: NIWPosterior, prior: NIWPrior) -> FloatArray:
    """Return E[log N(x_t | μ_k, Λ_k)] under the posterior of the classes, (N, K) float64.

    Raises
    ------
    ValueError
        If the rows' shape doesn't fit.
    """
    D = prior.mean.size
    q = squared_mahalanobis(as_rows(X, D), posterior.mean, posterior.chol)
    r, nu = prior.r0 + posterior.counts, prior.nu0 + posterior.counts
    # E[log |Λ|] = Σ_d ψ((ν + 1 - d) / 2) + D log 2 - log |S|                                          (10.65)
    log_precision = digamma((nu[:, None] - np.arange(D)) / 2.0).sum(axis=1) + D * math.log(2.0) - posterior.log_det
    expected: FloatArray = 0.5 * (log_precision - D * math.log(2.0 * math.pi) - D / r - nu * q)  # (10.64)
    return expected


def expected_log_weights(counts: IntArray | FloatArray, alpha: float) -> FloatArray:
    """Return E[log π_k] under the posterior of the weights with a symmetric Dirichlet prior, (K,) float64."""
    weights: FloatArray = digamma(alpha + counts) - digamma((alpha + counts).sum())  # (10.66), with (10.58)
    return weights


def expected_log_scores(
    counts: IntArray | FloatArray,
    alpha: float,
    log_prior: FloatArray | None = None,
    *,
    use_weights: bool = False,
    components: int = 1,
) -> FloatArray:
    """Return what an iteration adds to the log-densities of the columns, (K·m,) or (N, K·m).

    These are the expected log-weights of the classes, or `log_prior` (N, K) in their place (or both, with
    `use_weights`), and the expected log-shares of the components within each class, if there are several.
    """
    of_classes = counts_of_classes(counts, components)
    scores = expected_log_weights(of_classes, alpha) if log_prior is None else log_prior
    if log_prior is not None and use_weights:
        scores = log_prior + expected_log_weights(of_classes, alpha)
    if components == 1:
        return scores
    return np.asarray(np.repeat(scores, components, axis=-1) + expected_log_shares(counts, components, alpha))


def soft_log_predictive_loo(
    X: ArrayLike, responsibilities: FloatArray, posterior: NIWPosterior, prior: NIWPrior
) -> FloatArray:
    """Return the leave-one-out log predictive density: each row's weight is removed from all classes.

    Removing the weight w of x from a class (r, m, S) is a rank-one change of S, as in `niw.log_predictive_loo`: with
    q = (x-m)ᵀS⁻¹(x-m), c = r/(r-w) and a = c w, the squared distance without it is c² q / (1 - a q) and the determinant
    |S| (1 - a q).

    Parameters
    ----------
    X : array_like, shape (N, D)
        The rows.
    responsibilities : ndarray of float64, shape (N, K)
        The weights of the posterior.
    posterior, prior
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
    if responsibilities.shape != (rows.shape[0], posterior.counts.size):
        expected = (rows.shape[0], posterior.counts.size)
        raise ValueError(f"responsibilities must have the shape {expected}, but have {responsibilities.shape}")
    q = squared_mahalanobis(rows, posterior.mean, posterior.chol)
    # Rounding must not make the count negative, or S would be larger without the row than with it.
    n = np.maximum(posterior.counts - responsibilities, 0.0)
    c = (prior.r0 + posterior.counts) / (prior.r0 + n)
    left = np.maximum(1.0 - c * responsibilities * q, MIN_DOWNDATE)
    return log_student_t(c * c * q / left, n, posterior.log_det + np.log(left), prior)


def evidence_lower_bound(
    responsibilities: FloatArray,
    posterior: NIWPosterior,
    prior: NIWPrior,
    alpha: float,
    *,
    log_prior: FloatArray | None = None,
    temperature: float = 1.0,
    use_weights: bool = False,
    components: int = 1,
) -> float:
    """Return the lower bound of the log evidence for a posterior computed from these responsibilities.

    If each q(μ_k, Λ_k) and q(π) is optimal given the responsibilities, their expectations and divergences in (10.70) to
    (10.77) sum to the log normalisers of the posteriors, which are those of `niw.log_marginal_likelihood` and of the
    Dirichlet distribution, with counts that need not be integers. What remains is the entropy of the responsibilities,
    -(10.75), and, if the rows have class priors of their own, those in place of (10.72), (10.73) and (10.76).

    Parameters
    ----------
    responsibilities : ndarray of float64, shape (N, K)
    posterior, prior
        Given these responsibilities.
    alpha : float
        Concentration of the Dirichlet prior of the weights.
    log_prior : ndarray of float64, shape (N, K), optional
        Log-priors of the classes of each row, which replace the weights.
    temperature : float
        If less than one, the result is the objective of an iteration at this temperature instead of the bound.
    use_weights : bool
        Whether the weights multiply `log_prior`, if there is any, instead of being replaced by it.
    components : int
        m; responsibilities and posterior then have K·m columns, `log_prior` has K. Their shares add a term like that of
        the weights.

    Returns
    -------
    float
        -inf if a row has a responsibility for a class that its prior forbids.
    """
    of_shares = 0.0
    if components > 1:
        of_shares = log_marginal_of_shares(posterior.counts, components, alpha)
        log_prior = None if log_prior is None else np.repeat(log_prior, components, axis=1)
    return of_shares + bound_of_likelihoods(
        log_marginal_likelihood(posterior, prior),
        responsibilities,
        counts_of_classes(posterior.counts, components),
        alpha,
        log_prior=log_prior,
        temperature=temperature,
        use_weights=use_weights,
    )


def bound_of_likelihoods(
    log_likelihoods: FloatArray,
    responsibilities: FloatArray,
    counts: IntArray | FloatArray,
    alpha: float,
    *,
    log_prior: FloatArray | None = None,
    temperature: float = 1.0,
    use_weights: bool = False,
) -> float:
    """Return the bound of `evidence_lower_bound` for any classes, of whose rows the log marginal likelihoods are (K,).

    `counts` (K,) are the rows of each class, by their responsibilities.
    """
    n, K = counts, counts.size
    class_term = 0.0
    if log_prior is None or use_weights:
        normaliser = gammaln(K * alpha) - gammaln(K * alpha + n.sum())
        class_term = normaliser + (gammaln(alpha + n) - gammaln(alpha)).sum()
    if log_prior is not None:
        terms = np.zeros_like(responsibilities)
        class_term += np.multiply(responsibilities, log_prior, out=terms, where=responsibilities > 0.0).sum()
    likelihood = log_likelihoods.sum()
    return float(temperature * likelihood + class_term + entr(responsibilities).sum())


def variational_bayes(
    X: ArrayLike,
    responsibilities: ArrayLike,
    prior: NIWPrior,
    alpha: float,
    iterations: int,
    *,
    log_bias: ArrayLike | None = None,
    use_weights: bool = False,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    incomplete: Incomplete | None = None,
    components: int = 1,
    on_iteration: Callable[[int, float], object] | None = None,
) -> tuple[FloatArray, NIWPosterior, float]:
    """Run iterations that update first the responsibilities given the posterior, then the posterior given these.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows.
    responsibilities : array_like, shape (N, K)
        Initial responsibilities, not changed; zeros for a row that is in no class yet.
    prior : NIWPrior
        Prior of the classes.
    alpha : float
        Concentration of the symmetric Dirichlet prior of the weights, > 0.
    iterations : int
        Maximum number; fewer if the bound stops rising. With 0 the posterior given the responsibilities is returned.
    log_bias : array_like, shape (N, K), optional
        Log-priors of the classes of each row, which replace the weights. -inf forbids a class.
    use_weights : bool
        Whether the weights multiply `log_bias`, if there is any, instead.
    temperature : float
        The exponent of the likelihood.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: they are in no class, and their values (NaN, say) are not used.
    incomplete : Incomplete, optional
        The rows with some missing values, in the place of which X has any finite numbers. The missing values of a row
        have a distribution q(x_m | z) for each class (:mod:`actors.kernels.mixture.incomplete`).
    components : int
        m, the components of each class (:mod:`actors.kernels.mixture.class_components`). Responsibilities and posterior
        have K·m columns, `log_bias` has K.
    on_iteration : callable, optional
        Called after each iteration with (iterations done, the objective at this temperature, which never falls).

    Returns
    -------
    responsibilities : ndarray of float64, shape (N, K)
        New responsibilities, zeros for missing rows.
    posterior : NIWPosterior
        Given these responsibilities.
    bound : float
        Lower bound of the log evidence of the rows that aren't missing, at temperature 1 whatever `temperature` is.

    Raises
    ------
    ValueError
        If shapes don't fit, responsibilities are not distributions, a row that isn't missing is not finite, log_bias
        has NaN, +inf or a row without any possible class, alpha is not positive, or a class's scale gets singular.
    """
    rows = as_rows(X, prior.mean.size)
    N: int = rows.shape[0]
    out, missing = as_responsibilities(responsibilities, N), as_mask(mask, N)
    check_finite(rows, missing)
    if not alpha > 0.0:
        raise ValueError(f"alpha must be positive, but is {alpha}")
    log_prior = None if log_bias is None else as_bias(log_bias, N, out.shape[1] // components, missing)[~missing]
    seen, r = as_input(rows[~missing]), out[~missing]
    sums = _Sums(seen, prior, renumbered(incomplete, missing), out.shape[1])
    posterior, entropy = sums.first(r)
    before = -math.inf
    bound_options: dict[str, Any] = {"log_prior": log_prior, "use_weights": use_weights, "components": components}
    for done in range(1, iterations + 1):
        class_scores = expected_log_scores(
            posterior.counts, alpha, log_prior, use_weights=use_weights, components=components
        )
        r = softmax_of_rows(class_scores + temperature * sums.expected_log_density(posterior))
        posterior, entropy = sums.posterior(r, posterior)
        objective = temperature * entropy + evidence_lower_bound(
            r, posterior, prior, alpha, **bound_options, temperature=temperature
        )
        if on_iteration is not None:
            on_iteration(done, objective)
        if objective - before < MIN_RISE * len(seen):
            break
        before = objective
    out[missing], out[~missing] = 0.0, r
    bound = evidence_lower_bound(r, posterior, prior, alpha, **bound_options)
    return out, posterior, bound + entropy


class _Sums:
    """Posterior and expected densities of rows (N, D), none of which is missing, but some may be incomplete."""

    def __init__(self, rows: FloatArray, prior: NIWPrior, incomplete: Incomplete | None, classes: int) -> None:
        self._rows, self._prior, self._incomplete = rows, prior, incomplete
        self._pairs = None if incomplete is None else all_pairs(incomplete, classes)

    def first(self, responsibilities: FloatArray) -> tuple[NIWPosterior, float]:
        """Return the posterior given responsibilities alone, and the entropy of missing values under it."""
        if self._incomplete is None:
            return posterior_from_responsibilities(self._rows, responsibilities, self._prior), 0.0
        return posterior_given(self._rows, responsibilities, self._incomplete, self._prior, self._pairs)

    def posterior(self, responsibilities: FloatArray, before: NIWPosterior) -> tuple[NIWPosterior, float]:
        """Return the posterior given responsibilities and what the one `before` says of missing values."""
        if self._incomplete is None or self._pairs is None:
            return posterior_from_responsibilities(self._rows, responsibilities, self._prior), 0.0
        return posterior_expected(self._rows, responsibilities, self._incomplete, self._pairs, before, self._prior)

    def expected_log_density(self, posterior: NIWPosterior) -> FloatArray:
        """Return E[log N(x_t | μ_k, Λ_k)], (N, K), missing values integrated out."""
        density = expected_log_density(self._rows, posterior, self._prior)
        if self._incomplete is None:
            return density
        return expected_log_density_observed(self._rows, density, self._incomplete, posterior, self._prior)
