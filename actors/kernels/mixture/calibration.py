"""Calibration: how far the likelihood of the classes can be trusted, judged without labels by what the neighbours say.

A Gaussian likelihood in many dimensions is over-confident, and a wrong row that is certain of itself corrupts whatever
is learnt from it. The remedy has two parts, temperature scaling (Guo et al. 2017, "On calibration of modern neural
networks", section 4.2) and a lapse rate, the share of rows about which the likelihood says nothing.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, softmax

from actors.kernels.types import FloatArray

TEMPERATURES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
LAPSES = (1e-6, 0.001, 0.003, 0.01, 0.03, 0.1)


def calibrated_posterior(
    log_likelihood: FloatArray, weights: FloatArray, temperature: float, lapse: float
) -> FloatArray:
    """Return P_t(k) = (1 - ε) softmax_k(τ log p(x_t | k) + log w_k) + ε w_k.

    Parameters
    ----------
    log_likelihood : ndarray (N, K) float64
    weights : ndarray (K,) float64
        w, how frequent the classes are; sums to one.
    temperature, lapse : float
        τ in (0, 1] and ε in (0, 1).

    Returns
    -------
    ndarray (N, K) float64
        Rows sum to one; no class is ever impossible.
    """
    sharp: FloatArray = softmax(temperature * log_likelihood + np.log(weights), axis=1)
    return _lapsed(sharp, weights, lapse)


def _lapsed(sharp: FloatArray, weights: FloatArray, lapse: float) -> FloatArray:
    return (1.0 - lapse) * sharp + lapse * weights


def scaled_likelihood(posterior: FloatArray, mean: FloatArray) -> FloatArray:
    """Return log ℓ_t(k) = log P_t(k) - log P̄(k): by Bayes' rule p(x_t | k) / p(x_t), up to how well P fits.

    Parameters
    ----------
    posterior : ndarray (N, K) float64
    mean : ndarray (K,) float64
        P̄, the mean of P over the rows that were learnt from. Relative to it the evidence of rows without any order is
        about zero, and that of an order is what the order explains.
    """
    scaled: FloatArray = np.log(posterior) - np.log(mean)
    return scaled


def calibrate(log_likelihood: FloatArray, weights: FloatArray, log_cavity: FloatArray) -> tuple[float, float]:
    """Choose the temperature and the lapse under which the neighbours' predictions come true best.

    Maximises Σ_t log Σ_k cavity_t(k) ℓ_t(k) over :data:`TEMPERATURES` × :data:`LAPSES`. The cavity does not contain the
    row's own evidence, so that over-confidence is punished as in held-out data.

    Parameters
    ----------
    log_likelihood : ndarray (N, K) float64
        Each row scored as if it were left out.
    weights : ndarray (K,) float64
    log_cavity : ndarray (N, K) float64
        Log-distributions over the class of each row, from its neighbours alone.

    Returns
    -------
    temperature, lapse : float
    """
    best = (-np.inf, 1.0, LAPSES[0])
    for temperature in TEMPERATURES:
        sharp = softmax(temperature * log_likelihood + np.log(weights), axis=1)
        for lapse in LAPSES:
            posterior = _lapsed(sharp, weights, lapse)
            score = logsumexp(log_cavity + scaled_likelihood(posterior, posterior.mean(axis=0)), axis=1).sum()
            best = max(best, (float(score), temperature, lapse))
    return best[1], best[2]
