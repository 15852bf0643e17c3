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


def transition_bound_term(counts: FloatArray, transitions: FloatArray, alpha: float) -> float:
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
    alpha : float
        Pseudo-count, > 0.
    """
    posterior, prior = counts + alpha, np.full_like(counts, alpha)
    terms = _log_beta(posterior) - _log_beta(prior) - xlogy(counts, transitions).sum(axis=1)
    return float(terms.sum())


def _log_beta(rows: FloatArray) -> FloatArray:
    """Return the log-normalisers log B (K,) of Dirichlet distributions."""
    logs: FloatArray = gammaln(rows).sum(axis=1) - gammaln(rows.sum(axis=1))
    return logs
