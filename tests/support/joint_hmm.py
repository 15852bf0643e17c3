"""A variational hidden Markov model with Gaussian classes that is optimised jointly, as a reference for modules.

q(z) q(μ, Λ) q(T): the posterior of all labels is one chain, those of classes and transitions are normal-inverse-Wishart
and Dirichlet. First classes are uniform. Source: M. J. Beal, "Variational algorithms for approximate Bayesian
inference", 2003, chapter 3, with the Gaussian classes of C. M. Bishop, 2006, section 10.2. Written with numpy and scipy
alone, one row after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaln, logsumexp, multigammaln


@dataclass(frozen=True)
class Prior:
    """Normal-inverse-Wishart prior of classes (m, r, ν, S), and pseudo-count of transitions."""

    mean: np.ndarray
    r: float
    nu: float
    scale: np.ndarray
    alpha: float


@dataclass(frozen=True)
class Posterior:
    """Posteriors of K classes and of the transition matrix (K, K)."""

    mean: np.ndarray
    r: np.ndarray
    nu: np.ndarray
    scale: np.ndarray
    counts: np.ndarray


def posterior(X: np.ndarray, responsibilities: np.ndarray, transitions: np.ndarray, prior: Prior) -> Posterior:
    """Return the posteriors given expected labels (N, K) and expected transitions (K, K)."""
    weight = responsibilities.sum(axis=0)
    r, nu = prior.r + weight, prior.nu + weight
    mean = (prior.r * prior.mean + responsibilities.T @ X) / r[:, None]
    scale = []
    for k in range(len(weight)):
        offset, shift = X - mean[k], mean[k] - prior.mean
        scale.append(
            prior.scale + (responsibilities[:, k, None] * offset).T @ offset + prior.r * np.outer(shift, shift)
        )
    return Posterior(mean, r, nu, np.array(scale), transitions + prior.alpha)


def _log_det_precision(nu: np.ndarray, scale: np.ndarray) -> np.ndarray:
    D = scale.shape[-1]
    terms = digamma((nu[:, None] - np.arange(D)) / 2.0).sum(axis=1)
    return terms + D * np.log(2.0) - np.linalg.slogdet(scale)[1]


def expected_log_density(X: np.ndarray, q: Posterior) -> np.ndarray:
    """Return E[log N(x | μ_k, Λ_k)], (N, K)."""
    D = X.shape[1]
    found = []
    for k in range(len(q.r)):
        offset = X - q.mean[k]
        square = np.einsum("nd,nd->n", offset, np.linalg.solve(q.scale[k], offset.T).T)
        found.append(-D / q.r[k] - q.nu[k] * square)
    return 0.5 * (np.array(found).T + _log_det_precision(q.nu, q.scale) - D * np.log(2.0 * np.pi))


def infer(X: np.ndarray, q: Posterior) -> tuple[np.ndarray, np.ndarray, float]:
    """Return expected labels (N, K), expected transitions (K, K) and log Σ_z exp E[log p(x, z)]."""
    evidence, K = expected_log_density(X, q), len(q.r)
    log_T = digamma(q.counts) - digamma(q.counts.sum(axis=1, keepdims=True))
    alpha, beta = np.empty_like(evidence), np.zeros_like(evidence)
    alpha[0] = evidence[0] - np.log(K)
    for t in range(1, len(X)):
        alpha[t] = evidence[t] + logsumexp(alpha[t - 1][:, None] + log_T, axis=0)
    for t in range(len(X) - 2, -1, -1):
        beta[t] = logsumexp(log_T + evidence[t + 1] + beta[t + 1], axis=1)
    total = float(logsumexp(alpha[-1]))
    pairs = alpha[:-1, :, None] + log_T + (evidence + beta)[1:, None, :] - total
    return np.exp(alpha + beta - total), np.exp(pairs).sum(axis=0), total


def divergence(q: Posterior, prior: Prior) -> float:
    """Return KL(q(μ, Λ) q(T) || their prior)."""
    K, D = q.mean.shape
    total = 0.0
    log_det = _log_det_precision(q.nu, q.scale)
    for k in range(K):
        shift, inverse = q.mean[k] - prior.mean, np.linalg.inv(q.scale[k])
        ratio = prior.r / q.r[k]
        total += 0.5 * (D * (ratio - 1.0 - np.log(ratio)) + prior.r * q.nu[k] * shift @ inverse @ shift)
        total += 0.5 * (q.nu[k] - prior.nu) * log_det[k] + 0.5 * q.nu[k] * (np.trace(prior.scale @ inverse) - D)
        total += _log_wishart(prior.nu, prior.scale) - _log_wishart(q.nu[k], q.scale[k])
    for row in q.counts:
        same = np.full(K, prior.alpha)
        total += gammaln(row.sum()) - gammaln(row).sum() - gammaln(same.sum()) + gammaln(same).sum()
        total += (row - same) @ (digamma(row) - digamma(row.sum()))
    return float(total)


def _log_wishart(nu: float, scale: np.ndarray) -> float:
    """Return the log-normaliser of a Wishart distribution with the inverse scale matrix S."""
    D = len(scale)
    return float(-0.5 * nu * np.linalg.slogdet(scale)[1] + 0.5 * nu * D * np.log(2.0) + multigammaln(0.5 * nu, D))


def bound(X: np.ndarray, q: Posterior, prior: Prior) -> float:
    """Return the lower bound of log p(X) of these posteriors and the best q(z) given them."""
    return infer(X, q)[2] - divergence(q, prior)


def optimise(X: np.ndarray, q: Posterior, prior: Prior, steps: int = 500) -> tuple[Posterior, list[float]]:
    """Raise the bound until it rises by less than 1e-6 nats; return the posteriors and the bounds."""
    bounds: list[float] = []
    for _ in range(steps):
        labels, transitions, total = infer(X, q)
        bounds.append(total - divergence(q, prior))
        if len(bounds) > 1 and bounds[-1] - bounds[-2] < 1e-6:
            break
        q = posterior(X, labels, transitions, prior)
    return q, bounds
