"""Test of whether the order of rows carries information: a Markov chain against independent rows, by the BIC.

A chain fitted to independent rows still raises the likelihood, since it has more parameters, and a prior from such
transitions degrades the classes. The criterion is the Bayesian information criterion (G. Schwarz, "Estimating the
dimension of a model", the Annals of Statistics 6, 1978): each parameter costs ½ log N nats.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from actors.kernels.jit import as_input
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
    likelihood, largest = _likelihood(log_evidence)
    frequencies = start
    transposed, rows = np.ascontiguousarray(likelihood.T), np.array([float(len(likelihood))])
    for _ in range(EM_STEPS):
        ratios = transposed @ (1.0 / (frequencies @ transposed))
        frequencies = next_frequencies(frequencies, {"ratios": ratios, "rows": rows})
    return frequencies, float((np.log(frequencies @ transposed) + largest).sum())


def frequency_sums(log_evidence: FloatArray, frequencies: FloatArray) -> dict[str, FloatArray]:
    """Return the sums over rows that a step of expectation-maximisation needs; those of several arrays of rows add.

    From the sums over all rows, `next_frequencies` makes the step: `EM_STEPS` of them are `fit_frequencies`, whose
    log-likelihood is that of the sums with the frequencies of the last step.

    Parameters
    ----------
    log_evidence, frequencies
        As `fit_frequencies`; the frequencies of the last step.

    Returns
    -------
    dict
        `ratios` (K,), Σ_t p(t | k) / Σ_j w_j p(t | j); `rows` (1,), their number; `log_likelihood` (1,), that of the
        rows with these frequencies. float64.
    """
    likelihood, largest = _likelihood(as_input(log_evidence))  # sums depend on the order in memory
    # Not a product of BLAS, whose order of summation may depend on the number of its threads.
    return _sums(likelihood, largest, (likelihood * frequencies).sum(axis=1))


def next_frequencies(frequencies: FloatArray, sums: Mapping[str, FloatArray]) -> FloatArray:
    """Return the frequencies after a step of expectation-maximisation, from the sums over all rows.

    w_k ← w_k times the mean over t of p(t | k) / Σ_j w_j p(t | j).
    """
    stepped: FloatArray = frequencies * (sums["ratios"] / sums["rows"])
    return stepped


def _likelihood(log_evidence: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the likelihood (N, K) relative to the largest of each row, and the logarithms of these (N,)."""
    largest = log_evidence.max(axis=1, keepdims=True)
    return np.exp(log_evidence - largest), largest[:, 0]


def _sums(likelihood: FloatArray, largest: FloatArray, densities: FloatArray) -> dict[str, FloatArray]:
    """Return the sums of `frequency_sums` from the relative densities Σ_j w_j p(t | j) of the rows."""
    return {
        "ratios": (likelihood / densities[:, None]).sum(axis=0),
        "rows": np.array([float(largest.size)]),
        "log_likelihood": np.array([(np.log(densities) + largest).sum()]),
    }


def order_penalty(rows: int, classes: int, parameters: int | None = None) -> float:
    """Return the BIC penalty, in nats, of a chain against class frequencies: ½ log N for (K - 1)² more parameters.

    `parameters` is their number where the chain is another one, with durations of its own.
    """
    number = (classes - 1) ** 2 if parameters is None else parameters
    return 0.5 * number * float(np.log(rows))
