"""Calibrate the class likelihood without ground truth, by how well the neighbours' predictions fit it.

A Gaussian likelihood in many dimensions is over-confident, and a confident wrong row corrupts what is learnt from it.
The calibration has two parameters: a temperature (C. Guo et al., "On calibration of modern neural networks", 2017,
section 4.2) and a lapse rate, the share of rows whose likelihood carries no information.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from actors.kernels.log_rows import softmax_of_columns, softmax_of_rows
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
    posterior = softmax_of_rows(temperature * log_likelihood + np.log(weights))
    posterior *= 1.0 - lapse
    posterior += lapse * weights
    return posterior


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
    cavity, largest = relative_cavity(log_cavity)
    scores = np.empty((len(TEMPERATURES), len(LAPSES)))
    for t, sharp in enumerate(sharp_posteriors(log_likelihood, weights)):
        means = mean_with_lapses(sharp.mean(axis=1), weights)
        scores[t] = evidence_of_lapses(sharp, weights, cavity, largest, means)
    return best_of_grid(scores)


# --- parts, which workers that share the rows use as well -------------------------------------------------------------


def sharp_posteriors(log_likelihood: FloatArray, weights: FloatArray) -> Iterator[FloatArray]:
    """Yield softmax_k(τ log p(x_t | k) + log w_k) for each of :data:`TEMPERATURES`, transposed to (K, N)."""
    transposed = np.array(log_likelihood.T, dtype=np.float64, order="C")
    log_weights = np.log(weights)[:, None]
    for temperature in TEMPERATURES:
        scores = temperature * transposed
        scores += log_weights
        yield softmax_of_columns(scores)


def mean_with_lapses(sharp: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the means P̄ (…, L, K) for each of :data:`LAPSES`, from the means (…, K) of the posterior without a lapse.

    P = (1 - ε) P_sharp + ε w is linear in P_sharp, and so is its mean.
    """
    lapses = np.array(LAPSES)[:, None]
    means: FloatArray = (1.0 - lapses) * sharp[..., None, :] + lapses * weights
    return means


def relative_cavity(log_cavity: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the cavity, transposed to (K, N), relative to the largest of each row, and the logs of these (N,).

    A row without any class is zero.
    """
    cavity = np.array(log_cavity.T, dtype=np.float64, order="C")
    largest = cavity.max(axis=0, initial=-np.inf)
    largest[largest == -np.inf] = 0.0
    cavity -= largest
    return np.exp(cavity, out=cavity), largest


def evidence_of_lapses(
    sharp: FloatArray, weights: FloatArray, cavity: FloatArray, largest: FloatArray, means: FloatArray
) -> FloatArray:
    """Return the evidence Σ_t log Σ_k cavity_t(k) P_t(k) / P̄(k) of rows for one temperature and each lapse rate.

    Inside the logarithm it is linear in P = (1 - ε) P_sharp + ε w, so that it takes two products of matrices for all
    lapse rates. A class that the relative cavity rounds to zero contributes less than 1e-300 / P̄(k).

    Parameters
    ----------
    sharp : ndarray (K, N) float64
        Of `sharp_posteriors`.
    weights : ndarray (K,) float64
    cavity, largest : ndarray (K, N), (N,) float64
        Of `relative_cavity`.
    means : ndarray (L, K) float64
        P̄, of `mean_with_lapses`.

    Returns
    -------
    ndarray (L,) float64
        -inf where a row's cavity has no class.
    """
    lapses = np.array(LAPSES)[:, None]
    mixed = ((1.0 - lapses) / means) @ (cavity * sharp)
    mixed += (lapses * weights / means) @ cavity
    with np.errstate(divide="ignore"):
        np.log(mixed, out=mixed)
    mixed += largest
    evidence: FloatArray = mixed.sum(axis=1)
    return evidence


def best_of_grid(scores: FloatArray) -> tuple[float, float]:
    """Return the temperature and the lapse rate of the largest of the scores (T, L)."""
    best = (-np.inf, 1.0, LAPSES[0])
    for temperature, of_lapses in zip(TEMPERATURES, scores.tolist(), strict=True):
        for lapse, score in zip(LAPSES, of_lapses, strict=True):
            best = max(best, (score, temperature, lapse))
    return best[1], best[2]
