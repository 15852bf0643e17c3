"""Order: whether rows come in one at all, judged by what a Markov chain explains beyond the classes' frequencies.

Any chain that is fitted to rows without order explains a little, since it has more parameters; and a prior that follows
such transitions does harm. The criterion is Schwarz's (1978, "Estimating the dimension of a model", the Annals of
Statistics 6): each further parameter must explain ½ log N.
"""

from __future__ import annotations

import numpy as np

from actors.kernels.types import FloatArray

STEPS = 20
"""Steps of expectation-maximisation for the frequencies, from a start that is near already."""


def fit_frequencies(log_evidence: FloatArray, start: FloatArray) -> tuple[FloatArray, float]:
    """Return the maximum-likelihood frequencies of the classes of independent rows, and the rows' log-likelihood.

    Parameters
    ----------
    log_evidence : ndarray (N, K) float64
        log p(row | class), up to a constant per row, which goes into the log-likelihood.
    start : ndarray (K,) float64
        Positive; sums to one.

    Returns
    -------
    frequencies : ndarray (K,) float64
    log_likelihood : float
        Σ_t log Σ_k w_k p(row t | k).
    """
    largest = log_evidence.max(axis=1, keepdims=True)
    likelihood = np.exp(log_evidence - largest)
    weights = start
    for _ in range(STEPS):
        # w_k ← mean over t of w_k p(t | k) / Σ_j w_j p(t | j)
        weights = weights * (likelihood / (likelihood @ weights)[:, None]).mean(axis=0)
    return weights, float((np.log(likelihood @ weights) + largest[:, 0]).sum())


def cost_of_order(rows: int, classes: int) -> float:
    """Return how many nats a chain must explain beyond frequencies: ½ log N for each of (K - 1)² more parameters."""
    return 0.5 * (classes - 1) ** 2 * float(np.log(rows))
