"""Chinese restaurant process (CRP) mixture: sample the labels of Gaussian classes whose number is not given.

Of n labelled rows, a further one joins class k with probability n_k / (n + α), and a new class with α / (n + α)
(R. M. Neal, "Markov chain sampling methods for Dirichlet process mixture models", 2000, section 2). The classes have K
labels. The E empty classes share α equally, so that labels are exchangeable and a labelling with M occupied classes has
the probability

    p(z) = (K - M)! / K! · α^M Π_k (n_k - 1)! / (α (α + 1) … (α + n - 1)),

the CRP probability of the partition divided equally among its K! / (K - M)! labellings; with K at least the number of
rows nothing is truncated. It is sampled by sweeps row by row (Neal's algorithm 3), and by steps that split and merge
classes (:mod:`actors.kernels.mixture.split_merge`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.mixture import gibbs
from actors.kernels.mixture.gibbs_sweep import make_tables
from actors.kernels.mixture.incomplete import Incomplete
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, posterior_from_labels
from actors.kernels.mixture.split_merge import SplitMergeSampler, propose
from actors.kernels.special import digamma, logsumexp
from actors.kernels.types import FloatArray, IntArray


class CRPResult(NamedTuple):
    """The last sample of `sample_crp_mixture`: labels (N,), the posterior of the K classes given them, and α."""

    labels: IntArray
    posterior: NIWPosterior
    alpha: float


def expected_class_count(rows: int, alpha: float) -> float:
    """Return the expected number of classes of n rows, Σ_{i < n} α / (α + i) = α (ψ(α + n) - ψ(α))."""
    return float(alpha * (digamma(alpha + rows) - digamma(alpha)))


def crp_log_weights(counts: ArrayLike, alpha: float) -> FloatArray:
    """Return the CRP's log-probabilities (K,) of a further row's class: ∝ n_k, or α / E for each of E empty classes."""
    sizes = np.asarray(counts, np.float64)
    empty = sizes == 0.0
    weights = np.where(empty, alpha / max(int(empty.sum()), 1), sizes)
    logs: FloatArray = np.log(weights / weights.sum())
    return logs


def prior_with_empty_classes(log_prior: FloatArray, counts: ArrayLike, alpha: float) -> FloatArray:
    """Return per-row class priors in which the empty classes have the share that the CRP gives them.

    The sender of the prior was trained on the classes that hold rows. Its probability of the E empty ones comes from
    its pseudo-counts, and so grows with E. Therefore, of n rows,

        p'(k) = n / (n + α) · p(k) / Σ_{j: n_j > 0} p(j)   if n_k > 0,      α / ((n + α) E)   otherwise,

    as the total transition probability to the unseen states of an infinite hidden Markov model is independent of the
    truncation (Y. W. Teh et al., "Hierarchical Dirichlet processes", 2006, section 7; the weak limit of E. B. Fox et
    al., "A sticky HDP-HMM with application to speaker diarization", 2011, also divides it equally). A row whose prior
    has no mass on the occupied classes keeps it.

    Parameters
    ----------
    log_prior : ndarray (N, K) float64
        Rows are log-distributions.
    counts : array_like of int (K,)
    alpha : float

    Returns
    -------
    ndarray (N, K) float64
        Rows are log-distributions. The object `log_prior` itself if no class is empty, or every one.
    """
    occupied = np.asarray(counts) > 0
    if occupied.all() or not occupied.any():
        return log_prior
    n, empty = int(np.sum(counts)), int((~occupied).sum())
    mass = logsumexp(log_prior[:, occupied], axis=1)
    known = mass > -np.inf
    adjusted = log_prior.copy()
    adjusted[known] += (math.log(n / (n + alpha)) - mass[known])[:, None]
    adjusted[np.ix_(known, ~occupied)] = math.log(alpha / (n + alpha) / empty)
    return adjusted


def resample_alpha(
    alpha: float, classes: int, rows: int, generator: np.random.Generator, shape: float = 1.0, rate: float = 1.0
) -> float:
    """Sample α given the number of occupied classes and of rows, under a Gamma(shape, rate) prior.

    M. D. Escobar and M. West, "Bayesian density estimation and inference using mixtures", 1995, equations 13 and 14:
    with η ~ Beta(α + 1, n), α ~ Gamma(a + M, b - log η) with odds (a + M - 1) : n (b - log η), else of shape a + M - 1.
    """
    posterior_rate = rate - math.log(max(generator.beta(alpha + 1.0, rows), np.finfo(float).tiny))
    odds = (shape + classes - 1.0) / (rows * posterior_rate)
    larger = generator.random() * (1.0 + odds) < odds
    return float(generator.gamma(shape + classes - (0.0 if larger else 1.0)) / posterior_rate)


def sample_crp_mixture(
    X: ArrayLike,
    z: ArrayLike,
    max_classes: int,
    prior: NIWPrior,
    alpha: float,
    iterations: int,
    generator: np.random.Generator,
    *,
    log_prior: FloatArray | None = None,
    log_labels: FloatArray | None = None,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    incomplete: Incomplete | None = None,
    proposals: int = 0,
    learn_alpha: bool = False,
    on_sweep: Callable[[int, int], object] | None = None,
) -> CRPResult:
    """Sample labels: Gibbs sweeps over all rows, each followed by proposals to split or to merge classes.

    Without `log_prior` the target is p(z) Π_k p(rows of k)^temperature, with p(z) as above. With it, the classes that
    are occupied at the start are weighted by it (`prior_with_empty_classes`), and a row of any other class has the
    weight 1 / (n + α): (K - M)! / K! · α^M Π_t p'_t(z_t) replaces p(z), except in splits and merges (see there). Either
    is multiplied by Π_t p(label_t | z_t) where there are labels, and there are no splits and merges then: proposals are
    made for labels that can be exchanged.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows.
    z : array_like of int, shape (N,)
        Initial labels, not changed; -1 for a row without one.
    max_classes : int
        K, the number of labels.
    prior : NIWPrior
        Prior of the classes.
    alpha : float
        The concentration α.
    iterations : int
        Number of sweeps. With 0 the posterior given z is returned.
    generator : numpy.random.Generator
        Source of all randomness.
    log_prior : ndarray of float64, shape (N, K), optional
        Log-prior over the classes of each row, from another module; not changed.
    log_labels : ndarray of float64, shape (N, K), optional
        log p(label | class), 0 for rows without a label.
    temperature : float
        The exponent of the likelihood.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: they are in no class, and their values are not used.
    incomplete : Incomplete, optional
        The rows with some missing values, as in :func:`actors.kernels.mixture.gibbs.gibbs`.
    proposals : int
        Number of split or merge proposals after each sweep.
    learn_alpha : bool
        Whether α is resampled after each sweep (`resample_alpha`).
    on_sweep : callable, optional
        Called after each sweep with (sweeps done, rows whose label changed in it).

    Returns
    -------
    CRPResult
        Labels are -1 for missing rows; the posterior is computed from the rows and the labels.

    Raises
    ------
    ValueError
        As :func:`actors.kernels.mixture.gibbs.gibbs`.
    """
    data = gibbs.as_sampler_input(X, z, max_classes, prior, None if log_prior is None else log_prior.copy(), mask)
    tables = make_tables(prior, len(data.rows), alpha, log_prior is None, temperature, share_alpha=True)
    completion = None if incomplete is None else gibbs.Completion(data, incomplete, max_classes, prior)
    data = data if completion is None else completion.data
    posterior = posterior_from_labels(data.rows, data.labels, max_classes, prior)
    if log_prior is not None:
        data.bias[:] = _class_bias(data.bias, posterior.counts, alpha)
    if log_labels is not None:
        data.bias[:] += log_labels
        proposals = 0
    sampler = SplitMergeSampler(data, posterior, tables, prior, has_row_prior=log_prior is not None)
    for done in range(1, iterations + 1):
        moved = 0 if completion is None else completion.redraw(posterior, sampler.tables, generator)
        moved += gibbs.sweep_once(data, posterior, sampler.tables, generator)
        for _ in range(proposals):
            propose(sampler, generator)
        if learn_alpha and posterior.counts.any():
            alpha = resample_alpha(alpha, int((posterior.counts > 0).sum()), int(posterior.counts.sum()), generator)
            sampler.tables = tables._replace(shared_alpha=alpha)
        if done % gibbs.REBUILD_EVERY == 0 or done == iterations:
            rebuilt = posterior_from_labels(data.rows, data.labels, max_classes, prior)
            for array, new in zip(posterior, rebuilt, strict=True):
                array[...] = new
        if on_sweep is not None:
            on_sweep(done, moved)
    return CRPResult(data.labels, posterior if completion is None else completion.expected_posterior(), alpha)


def _class_bias(log_prior: FloatArray, counts: IntArray | FloatArray, alpha: float) -> FloatArray:
    """Return `prior_with_empty_classes`, but 1 / (n + α) for empty classes: the sweep itself includes α / E."""
    adjusted = prior_with_empty_classes(log_prior, counts, alpha)
    empty = counts == 0
    if adjusted is not log_prior:
        known = log_prior[:, ~empty].max(axis=1) > -np.inf
        adjusted[np.ix_(known, empty)] = -math.log(counts.sum() + alpha)
    return adjusted


def compile_kernels() -> None:
    """Compile the kernels that `sample_crp_mixture` needs, or load them from the cache."""
    gibbs.compile_kernels()
    X = np.array([[0.0], [1.0], [2.0]])
    prior = NIWPrior(np.zeros(1), 1.0, 3.0, np.eye(1))
    sample_crp_mixture(X, [0, 0, 0], 2, prior, 1.0, 1, np.random.default_rng(0), proposals=4)
