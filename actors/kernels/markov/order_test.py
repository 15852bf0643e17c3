"""Test of whether the order of rows carries information: a Markov chain against independent rows, by the BIC.

A chain fitted to independent rows still raises the likelihood, since it has more parameters, and a prior from such
transitions degrades the classes. The criterion is the Bayesian information criterion (G. Schwarz, "Estimating the
dimension of a model", the Annals of Statistics 6, 1978): each parameter costs ½ log N nats.
"""

from __future__ import annotations

import numpy as np

from actors.kernels.types import FloatArray

EM_STEPS = 20
"""Steps of expectation-maximisation for the frequencies; few, since the start is close to the optimum."""


def fit_frequencies(log_evidence: FloatArray, start: FloatArray) -> tuple[FloatArray, float]:
    """Return the maximum-likelihood class frequencies of independent rows, and the log-likelihood of the rows.

    Parameters
    ----------
    log_evidence : ndarray (N, K) float64
        log p(row | class), up to a constant per row, which is added to the log-likelihood.
    start : ndarray (K,) float64
        Initial frequencies; positive, with sum one.

    Returns
    -------
    frequencies : ndarray (K,) float64
    log_likelihood : float
        Σ_t log Σ_k w_k p(row t | k).
    """
    largest = log_evidence.max(axis=1, keepdims=True)
    likelihood = np.exp(log_evidence - largest)
    weights = start
    for _ in range(EM_STEPS):
        # w_k ← mean over t of w_k p(t | k) / Σ_j w_j p(t | j)
        weights = weights * (likelihood / (likelihood @ weights)[:, None]).mean(axis=0)
    return weights, float((np.log(likelihood @ weights) + largest[:, 0]).sum())


def order_penalty(rows: int, classes: int) -> float:
    """Return the BIC penalty, in nats, of a chain against class frequencies: ½ log N for (K - 1)² more parameters."""
    return 0.5 * (classes - 1) ** 2 * float(np.log(rows))
