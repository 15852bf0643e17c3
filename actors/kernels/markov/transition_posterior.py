"""Variational posterior of a transition matrix, and its term of the evidence lower bound.

Under a Dirichlet prior on each row, variational inference uses the geometric mean of the posterior in place of its mean
(MacKay 1997, "Ensemble learning for hidden Markov models"; Beal 2003, section 3.4). A rarely observed transition gets
much less probability than by its pseudo-count, so that a few rows cannot establish a transition against the order.
"""

from __future__ import annotations

import numpy as np

from actors.kernels.special import digamma, gammaln, xlogy
from actors.kernels.types import FloatArray

FLOOR = 1e-12
"""Added to each weight, so that no transition becomes impossible where alpha is small."""


def geometric_mean(counts: FloatArray, alpha: float) -> FloatArray:
    """Return exp E[log T] under Dirichlet(counts + alpha), with normalised rows, (K, K).

    Counts may include those of a prior that differs between transitions, such as :func:`sticky_counts`.

    Parameters
    ----------
    counts : ndarray (K, K) float64
        Expected transitions, from rows to columns; not negative.
    alpha : float
        Pseudo-count, > 0.
    """
    logs = digamma(counts + alpha)
    means = np.exp(logs - logs.max(axis=1, keepdims=True)) + FLOOR
    normalised: FloatArray = means / means.sum(axis=1, keepdims=True)
    return normalised


SELF_TRANSITION_PRIORS = np.array([0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0])
"""Values of κ that are compared where it is to be found: pseudo-counts of remaining in a class."""


def best_self_transition_prior(counts: FloatArray, alpha: float) -> float:
    """Return the κ under which the expected transitions (K, K) have the largest marginal likelihood.

    Each row of the transition matrix has the prior Dirichlet(α + κ δ_k), the sticky prior of a finite chain (Fox et al.
    2011, "A sticky HDP-HMM with application to speaker diarization"). The marginal likelihood is a term of the evidence
    bound, so that the choice never lowers the bound (empirical Bayes; MacKay 1997).
    """
    values = [
        float((_log_beta(counts + prior) - _log_beta(prior)).sum())
        for prior in (sticky_counts(counts, alpha, kappa) for kappa in SELF_TRANSITION_PRIORS)
    ]
    return float(SELF_TRANSITION_PRIORS[int(np.argmax(values))])


def sticky_counts(counts: FloatArray, alpha: float, kappa: float) -> FloatArray:
    """Return the pseudo-counts α + κ δ_ij of the transitions, (K, K)."""
    prior: FloatArray = np.full_like(counts, alpha) + kappa * np.eye(len(counts))
    return prior


def dirichlet_log_weights(counts: FloatArray, alpha: float) -> FloatArray:
    """Return E[log p] of distributions (R, K) under Dirichlet(counts + alpha): weights that sum to less than one."""
    posterior = counts + alpha
    log_weights: FloatArray = digamma(posterior) - digamma(posterior.sum(axis=1, keepdims=True))
    return log_weights


def dirichlet_bound_term(counts: FloatArray, log_weights: FloatArray, alpha: float) -> float:
    """As :func:`transition_bound_term`, for any distributions (R, K), from the logarithms of their weights."""
    terms = _log_beta(counts + alpha) - _log_beta(np.full_like(counts, alpha))
    used = counts > 0.0
    return float(terms.sum() - (counts[used] * log_weights[used]).sum())


def transition_bound_term(counts: FloatArray, transitions: FloatArray, alpha: float | FloatArray) -> float:
    """Return the term that turns the log-likelihood under `transitions` into a lower bound of the marginal likelihood.

    The transition matrix is integrated out in the marginal likelihood. The bound holds for any `transitions` that the
    counts were inferred with, and is the tightest for these counts:

        Σ_i (log B(counts_i + alpha) - log B(alpha) - Σ_j counts_ij log transitions_ij).

    Parameters
    ----------
    counts : ndarray (K, K) float64
        Expected transitions under `transitions`.
    transitions : ndarray (K, K) float64
        Rows are distributions.
    alpha : float or ndarray (K, K) float64
        Pseudo-counts, > 0.
    """
    posterior, prior = counts + alpha, np.full_like(counts, alpha)
    terms = _log_beta(posterior) - _log_beta(prior) - xlogy(counts, transitions).sum(axis=1)
    return float(terms.sum())


def _log_beta(rows: FloatArray) -> FloatArray:
    """Return the log-normalisers log B (K,) of Dirichlet distributions."""
    logs: FloatArray = gammaln(rows).sum(axis=1) - gammaln(rows.sum(axis=1))
    return logs
