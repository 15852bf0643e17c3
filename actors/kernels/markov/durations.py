"""Posteriors of the distributions of durations: Poisson and negative binomial, both shifted by one.

D - 1 is the number of further rows of a segment. The families are conjugate given the expected numbers n_d of segments
of each duration; n = Σ_d n_d, and m = Σ_d n_d (d - 1) further rows.

- Poisson: D - 1 ~ Poisson(λ), λ ~ Gamma(1, rate 1 / τ). The posterior is Gamma(1 + m, 1 / τ + n).
- Negative binomial: D - 1 ~ NB(r, p), P(d) = Γ(d - 1 + r) / (Γ(r) (d - 1)!) (1 - p)^r p^(d-1), with r from a grid,
  equally probable, and p | r ~ Beta(τ / r, 2). The posterior of p given r is Beta(τ / r + m, 2 + r n), and that of r is
  proportional to Π_d (Γ(d - 1 + r) / Γ(r))^n_d B(τ / r + m, 2 + r n) / B(τ / r, 2).

In both, the prior mean of D - 1 is τ whatever r is. Sources: M. J. Johnson and A. S. Willsky, "Bayesian nonparametric
hidden semi-Markov models", JMLR 14, 2013; the variational parts: M. J. Beal, "Variational
algorithms for approximate Bayesian inference", 2003, section 2.4 (conjugate-exponential models).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from actors.kernels.special import betainc, betaln, digamma, gammainc, gammaln
from actors.kernels.types import FloatArray

Family = Literal["poisson", "negative_binomial"]

SHAPES = np.array([0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0])
"""Values of r of the negative binomial: 1 is the geometric distribution, 64 nearly the Poisson distribution."""

_PRIOR_FAILURES = 2.0
"""Second parameter of the Beta prior of p: the least whole number at which the mean duration has a mean."""


class DurationPosterior(NamedTuple):
    """What is known of the durations of K classes.

    Attributes
    ----------
    log_weights : ndarray (K, D) float64
        E[log p(d)], the weights of variational inference; their exponentials sum to less than one.
    log_predictive : ndarray (K, D) float64
        log E[p(d)], the distribution of the next segment's duration, up to D.
    log_normalisers : ndarray (K,) float64
        log ∫ prior(θ) Π_d p(d | θ)^n_d dθ, the log marginal likelihood of the counts.
    """

    log_weights: FloatArray
    log_predictive: FloatArray
    log_normalisers: FloatArray


def duration_posterior(family: Family, counts: FloatArray, timescale: float) -> DurationPosterior:
    """Return the posterior of durations.

    Parameters
    ----------
    family : {"poisson", "negative_binomial"}
    counts : ndarray (K, D) float64
        Expected numbers of segments of 1 to D rows.
    timescale : float
        τ, > 0: the prior mean of D - 1.
    """
    further = np.arange(counts.shape[1], dtype=np.float64)  # d - 1
    n, m = counts.sum(axis=1)[:, None], (counts @ further)[:, None]
    of = _poisson if family == "poisson" else _negative_binomial
    return of(counts, n, m, further, timescale)


def log_normalisers(family: Family, counts: FloatArray, timescale: float) -> FloatArray:
    """Return the log marginal likelihoods (K,) of the counts, as in :class:`DurationPosterior`, by themselves."""
    further = np.arange(counts.shape[1], dtype=np.float64)
    n, m = counts.sum(axis=1)[:, None], (counts @ further)[:, None]
    if family == "poisson":
        return _poisson_normalisers(counts, n, m, further, timescale)
    a, b = timescale / SHAPES + m, _PRIOR_FAILURES + SHAPES * n
    normalisers: FloatArray = np.logaddexp.reduce(
        _log_marginals(counts, _log_coefficients(further), a, b, timescale), axis=1
    )
    return normalisers


def _poisson_normalisers(
    counts: FloatArray, n: FloatArray, m: FloatArray, further: FloatArray, tau: float
) -> FloatArray:
    shape, rate = 1.0 + m, 1.0 / tau + n
    normalisers: FloatArray = gammaln(shape) - np.log(tau) - shape * np.log(rate)
    of_counts: FloatArray = normalisers[:, 0] - counts @ gammaln(further + 1.0)
    return of_counts


def _poisson(counts: FloatArray, n: FloatArray, m: FloatArray, further: FloatArray, tau: float) -> DurationPosterior:
    shape, rate, log_factorials = 1.0 + m, 1.0 / tau + n, gammaln(further + 1.0)
    log_weights = further * (digamma(shape) - np.log(rate)) - shape / rate - log_factorials
    # The mean of Poisson distributions over Gamma(shape, rate) is a negative binomial of p = 1 / (1 + rate).
    log_predictive = (
        gammaln(shape + further)
        - gammaln(shape)
        - log_factorials
        + shape * np.log(rate / (1.0 + rate))
        - further * np.log1p(rate)
    )
    return DurationPosterior(log_weights, log_predictive, _poisson_normalisers(counts, n, m, further, tau))


def _negative_binomial(
    counts: FloatArray, n: FloatArray, m: FloatArray, further: FloatArray, tau: float
) -> DurationPosterior:
    coefficients = _log_coefficients(further)
    a, b = tau / SHAPES + m, _PRIOR_FAILURES + SHAPES * n  # (K, R)
    log_q = _log_marginals(counts, coefficients, a, b, tau)
    normalisers = np.logaddexp.reduce(log_q, axis=1)
    log_q -= normalisers[:, None]
    both, q = digamma(a + b), np.exp(log_q)
    # E[log p(d)] = Σ_r q(r) (log coefficient + r E[log(1 - p)] + (d - 1) E[log p])
    log_weights = (
        q @ coefficients
        + (q * SHAPES * (digamma(b) - both)).sum(axis=1)[:, None]
        + (q * (digamma(a) - both)).sum(axis=1)[:, None] * further
    )
    of_shapes = (
        betaln(a[:, :, None] + further, b[:, :, None] + SHAPES[:, None]) - betaln(a, b)[:, :, None] + coefficients
    )
    log_predictive = np.logaddexp.reduce(of_shapes + log_q[:, :, None], axis=1)
    return DurationPosterior(log_weights, log_predictive, normalisers)


def _log_marginals(
    counts: FloatArray, coefficients: FloatArray, a: FloatArray, b: FloatArray, tau: float
) -> FloatArray:
    """Return log P(r) + log P(counts | r), (K, R)."""
    prior = betaln(tau / SHAPES, _PRIOR_FAILURES)
    log_q: FloatArray = counts @ coefficients.T + betaln(a, b) - prior - np.log(len(SHAPES))
    return log_q


def duration_bound_term(posterior: DurationPosterior, counts: FloatArray, log_weights: FloatArray) -> float:
    """Return the term of the durations that turns a log-likelihood into a lower bound of the marginal likelihood.

    Σ_k (log_normaliser_k - Σ_d n_kd log weight_kd): as `transition_bound_term`, for any weights that the counts were
    inferred with. The term is the tightest for these counts.

    Parameters
    ----------
    posterior : DurationPosterior
        Given `counts`.
    counts : ndarray (K, D) float64
        Expected numbers of segments under `log_weights`.
    log_weights : ndarray (K, D) float64
    """
    used = counts > 0.0  # the weight of a duration that no segment has may be zero
    return float(posterior.log_normalisers.sum() - (counts[used] * log_weights[used]).sum())


def mean_durations(
    family: Family, counts: FloatArray, timescale: float, level: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Return the posterior mean of each class's mean duration (K,), in rows, and its central interval (K, 2).

    Parameters
    ----------
    family, counts, timescale
        As in :func:`duration_posterior`.
    level : float
        The probability of the interval, below 1.
    """
    further = np.arange(counts.shape[1], dtype=np.float64)
    n, m = counts.sum(axis=1), counts @ further
    tails = (0.5 - level / 2.0, 0.5 + level / 2.0)
    if family == "poisson":
        shape, rate = 1.0 + m, 1.0 / timescale + n
        bounds = [_quantiles(lambda x: gammainc(shape, rate * x), len(n), tail) for tail in tails]
        return 1.0 + shape / rate, 1.0 + np.stack(bounds, axis=1)
    a, b = timescale / SHAPES + m[:, None], _PRIOR_FAILURES + SHAPES * n[:, None]
    log_q = _log_marginals(counts, _log_coefficients(further), a, b, timescale)
    q = np.exp(log_q - np.logaddexp.reduce(log_q, axis=1)[:, None])

    def at_most(x: FloatArray) -> FloatArray:
        """Return the probability that r p / (1 - p), the mean of D - 1, is at most x: p is at most x / (r + x)."""
        probability: FloatArray = (q * betainc(a, b, x[:, None] / (SHAPES + x[:, None]))).sum(axis=1)
        return probability

    means = (q * SHAPES * a / (b - 1.0)).sum(axis=1)
    return 1.0 + means, 1.0 + np.stack([_quantiles(at_most, len(n), tail) for tail in tails], axis=1)


def draw_durations(
    family: Family, counts: FloatArray, timescale: float, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draw distributions of durations from their posterior; return log-probabilities (K, D) and means (K,), in rows.

    Parameters
    ----------
    family, counts, timescale
        As in :func:`duration_posterior`.
    generator : numpy.random.Generator
    """
    further = np.arange(counts.shape[1], dtype=np.float64)
    n, m = counts.sum(axis=1), counts @ further
    if family == "poisson":
        rate = generator.gamma(1.0 + m, 1.0 / (1.0 / timescale + n))[:, None]
        log_prob: FloatArray = further * np.log(rate) - rate - gammaln(further + 1.0)
        return log_prob, 1.0 + rate[:, 0]
    coefficients = _log_coefficients(further)
    a, b = timescale / SHAPES + m[:, None], _PRIOR_FAILURES + SHAPES * n[:, None]
    log_q = _log_marginals(counts, coefficients, a, b, timescale)
    chosen = (log_q + generator.gumbel(size=log_q.shape)).argmax(axis=1)
    row, r = np.arange(len(n)), SHAPES[chosen][:, None]
    # p / (1 - p) is a ratio of two gamma variables: no difference of nearly equal numbers is taken.
    odds = (generator.standard_gamma(a[row, chosen]) / generator.standard_gamma(b[row, chosen]))[:, None]
    odds = np.maximum(odds, np.finfo(np.float64).tiny)
    log_prob = coefficients[chosen] - r * np.log1p(odds) + further * (np.log(odds) - np.log1p(odds))
    return log_prob, 1.0 + (r * odds)[:, 0]


def _log_coefficients(further: FloatArray) -> FloatArray:
    """Return log Γ(d - 1 + r) / (Γ(r) (d - 1)!), (R, D)."""
    coefficients: FloatArray = gammaln(further + SHAPES[:, None]) - gammaln(SHAPES)[:, None] - gammaln(further + 1.0)
    return coefficients


def _quantiles(cdf: Callable[[FloatArray], FloatArray], count: int, probability: float) -> FloatArray:
    """Return where distributions of positive numbers reach a probability, by bisection of the logarithm."""
    low, high = np.full(count, -700.0), np.full(count, 700.0)
    for _ in range(64):
        middle = 0.5 * (low + high)
        below = cdf(np.exp(middle)) < probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    quantiles: FloatArray = np.exp(high)
    return quantiles
