"""Classes that are mixtures themselves: class k has m Gaussian components, with shares w_k1, …, w_km that sum to one.

Components are the columns of K·m responsibilities or densities, those of class k being the columns k·m to k·m + m - 1.
The shares of a class have a symmetric Dirichlet prior, as the weights of the classes have (C. M. Bishop, "Pattern
Recognition and Machine Learning", 2006, section 10.2, for both levels). The density of a class is the sum over its
components.
"""

from __future__ import annotations

import numpy as np

from actors.kernels.log_rows import log_sum_exp
from actors.kernels.mixture.sequence_init import kmeans_labels
from actors.kernels.special import digamma, gammaln
from actors.kernels.types import FloatArray, IntArray


def counts_of_classes(counts: FloatArray | IntArray, components: int) -> FloatArray | IntArray:
    """Return the rows of the classes (K,), from those of their components (K·m,)."""
    return counts if components == 1 else counts.reshape(-1, components).sum(axis=1)


def of_components(of_classes: FloatArray, components: int) -> FloatArray:
    """Return values of classes (…, K) as those of their components, (…, K·m): each m times."""
    return of_classes if components == 1 else np.repeat(of_classes, components, axis=-1)


def expected_log_shares(counts: FloatArray | IntArray, components: int, alpha: float) -> FloatArray:
    """Return E[log w_kj] under the posterior of the shares, (K·m,)."""
    posterior = counts.reshape(-1, components) + alpha
    return np.asarray(digamma(posterior) - digamma(posterior.sum(axis=1, keepdims=True))).reshape(-1)


def log_shares(counts: FloatArray | IntArray, components: int, alpha: float) -> FloatArray:
    """Return the logarithms of the posterior means of the shares, (K·m,)."""
    posterior = counts.reshape(-1, components) + alpha
    return np.asarray(np.log(posterior / posterior.sum(axis=1, keepdims=True))).reshape(-1)


def log_marginal_of_shares(counts: FloatArray | IntArray, components: int, alpha: float) -> float:
    """Return the log marginal likelihood of the components of rows of known classes, the shares integrated out."""
    n, m = counts.reshape(-1, components), components
    terms = gammaln(alpha + n).sum(axis=1) - m * gammaln(alpha)
    return float((terms + gammaln(m * alpha) - gammaln(m * alpha + n.sum(axis=1))).sum())


def class_densities(log_joint: FloatArray, components: int) -> tuple[FloatArray, FloatArray]:
    """Return log p(row | class), (N, K), and log p(component | class, row), (N, K·m).

    Parameters
    ----------
    log_joint : ndarray (N, K·m) float64
        log p(row, component | class), finite.
    components : int
        m.
    """
    N = len(log_joint)
    of_classes = log_sum_exp(log_joint.reshape(-1, components)).reshape(N, -1)
    within: FloatArray = log_joint - np.repeat(of_classes, components, axis=1)
    return of_classes, within


def loo_log_shares(
    responsibilities: FloatArray, counts: FloatArray | IntArray, components: int, alpha: float
) -> FloatArray:
    """Return the logarithms (N, K·m) of the shares' posterior means, each row left out by its responsibilities."""
    left = np.maximum(counts - responsibilities, 0.0).reshape(len(responsibilities), -1, components) + alpha
    shares: FloatArray = np.log(left) - np.log(left.sum(axis=2, keepdims=True))
    return shares.reshape(responsibilities.shape)


def component_labels(
    X: FloatArray, labels: IntArray, classes: int, components: int, generator: np.random.Generator
) -> IntArray:
    """Return the first component (N,) int64 of each row, in 0, …, K·m - 1: by k-means within each class.

    Parameters
    ----------
    X : ndarray (N, D) float64
    labels : ndarray (N,) int64
        Classes; -1 for a row without one, which has no component either.
    classes, components : int
        K and m.
    generator : numpy.random.Generator
    """
    found = np.full(len(labels), -1, dtype=np.int64)
    for k in range(classes):
        own = np.flatnonzero(labels == k)
        if len(own):
            deviation = X[own].std(axis=0)
            scaled = X[own] / np.where(deviation > 0.0, deviation, 1.0)
            found[own] = k * components + kmeans_labels(scaled, components, generator, restarts=3)
    return found
