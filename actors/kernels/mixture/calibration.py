"""Calibrate the class likelihood without ground truth, by how well the neighbours' predictions fit it.

A Gaussian likelihood in many dimensions is over-confident, and a confident wrong row corrupts what is learnt from it.
The calibration has two parameters: a temperature (C. Guo et al., "On calibration of modern neural networks", 2017,
section 4.2) and a lapse rate, the share of rows whose likelihood carries no information.
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
        The class weights w; they sum to one.
    temperature, lapse : float
        τ in (0, 1] and ε in (0, 1).

    Returns
    -------
    ndarray (N, K) float64
        Rows sum to one; every class has positive probability.
    """
    sharp: FloatArray = softmax(temperature * log_likelihood + np.log(weights), axis=1)
    return _with_lapse(sharp, weights, lapse)


def _with_lapse(sharp: FloatArray, weights: FloatArray, lapse: float) -> FloatArray:
    """Return (1 - ε) P + ε w."""
    return (1.0 - lapse) * sharp + lapse * weights


def scaled_likelihood(posterior: FloatArray, mean: FloatArray) -> FloatArray:
    """Return log ℓ_t(k) = log P_t(k) - log P̄(k): by Bayes' rule p(x_t | k) / p(x_t), as far as P fits.

    Parameters
    ----------
    posterior : ndarray (N, K) float64
    mean : ndarray (K,) float64
        P̄, the mean of P over the training rows. Relative to it the evidence of rows without sequential structure is
        about zero, and that of ordered rows is what the order explains.
    """
    scaled: FloatArray = np.log(posterior) - np.log(mean)
    return scaled


def calibrate(log_likelihood: FloatArray, weights: FloatArray, log_cavity: FloatArray) -> tuple[float, float]:
    """Choose the temperature and the lapse rate that maximise the evidence given the cavity messages.

    Maximises Σ_t log Σ_k cavity_t(k) ℓ_t(k) over :data:`TEMPERATURES` × :data:`LAPSES`. The cavity excludes the row's
    own likelihood, so that over-confidence is penalised as in held-out data.

    Parameters
    ----------
    log_likelihood : ndarray (N, K) float64
        Leave-one-out log-likelihood of each row.
    weights : ndarray (K,) float64
        The class weights; they sum to one.
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
            posterior = _with_lapse(sharp, weights, lapse)
            score = logsumexp(log_cavity + scaled_likelihood(posterior, posterior.mean(axis=0)), axis=1).sum()
            best = max(best, (float(score), temperature, lapse))
    return best[1], best[2]
