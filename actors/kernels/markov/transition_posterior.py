"""Transition probabilities as a variational posterior, and what they add to the evidence.

Under a Dirichlet prior on each row the posterior's geometric mean takes the place of its mean (MacKay 1997, "Ensemble
learning for hidden Markov models"; Beal 2003, section 3.4). A transition that was hardly seen gets far less than its
share of pseudo-counts, so a few rows cannot buy themselves a way around the order.
"""

from __future__ import annotations

import numpy as np
from scipy.special import digamma, gammaln, xlogy

from actors.kernels.types import FloatArray

FLOOR = 1e-12
"""Below any probability that matters: a small alpha must not make a transition impossible."""


def geometric_mean(counts: FloatArray, alpha: float) -> FloatArray:
    """Return exp E[log T] under Dirichlet(counts + alpha), its rows normalised, (K, K).

    Parameters
    ----------
    counts : ndarray (K, K) float64
        Expected transitions, from rows to columns; not negative.
    alpha : float
        Pseudo-count, more than 0.
    """
    logs = digamma(counts + alpha)
    means = np.exp(logs - logs.max(axis=1, keepdims=True)) + FLOOR
    normalised: FloatArray = means / means.sum(axis=1, keepdims=True)
    return normalised


def transition_gain(counts: FloatArray, transitions: FloatArray, alpha: float) -> float:
    """Return what to add to a log-likelihood under `transitions` to have a lower bound of the evidence without them.

    The bound holds for whatever transitions the counts were inferred with; it is the tightest that these counts allow.

    Parameters
    ----------
    counts : ndarray (K, K) float64
        Expected transitions under `transitions`.
    transitions : ndarray (K, K) float64
        Rows are distributions.
    alpha : float
        Pseudo-count, more than 0.
    """
    posterior, prior = counts + alpha, np.full_like(counts, alpha)
    gain = _log_beta(posterior) - _log_beta(prior) - xlogy(counts, transitions).sum(axis=1)
    return float(gain.sum())


def _log_beta(rows: FloatArray) -> FloatArray:
    """Return the log-normalisers (K,) of Dirichlet distributions."""
    logs: FloatArray = gammaln(rows).sum(axis=1) - gammaln(rows.sum(axis=1))
    return logs
