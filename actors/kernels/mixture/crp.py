"""The Chinese restaurant: how many classes there are, where their number is not given.

Of n rows in classes a further one goes to class k with probability n_k / (n + α), and begins a class with α / (n + α)
(R. M. Neal, "Markov chain sampling methods for Dirichlet process mixture models", 2000, section 2). The classes have K
places. The E empty ones share α, so that places are exchangeable and a labelling with M classes has the probability

    p(z) = (K - M)! / K! · α^M Π_k (n_k - 1)! / (α (α + 1) … (α + n - 1)),

the restaurant's own, whichever of its places a class has; with as many places as rows nothing is cut off. Sweeps sample
it row by row (Neal's algorithm 3), and steps that split and merge classes (:mod:`actors.kernels.mixture.split_merge`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, logsumexp

from actors.kernels.mixture import gibbs
from actors.kernels.mixture.input_checks import Floats, Integers
from actors.kernels.mixture.niw import Factors, Prior, build_factors
from actors.kernels.mixture.split_merge import Sampler, propose


class Seated(NamedTuple):
    """What `chinese_restaurant` ends with: labels (N,), the factors of these labels (K classes), and α."""

    labels: Integers
    factors: Factors
    alpha: float


def expected_classes(rows: int, alpha: float) -> float:
    """Return how many classes so many rows are expected to be in, Σ_{i < n} α / (α + i) = α (ψ(α + n) - ψ(α))."""
    return float(alpha * (digamma(alpha + rows) - digamma(alpha)))


def log_weights(counts: ArrayLike, alpha: float) -> Floats:
    """Return where a further row goes, (K,), in the log domain: ∝ n_k, or α / E for each of the E empty classes."""
    found = np.asarray(counts, np.float64)
    empty = found == 0.0
    weights = np.where(empty, alpha / max(int(empty.sum()), 1), found)
    logs: Floats = np.log(weights / weights.sum())
    return logs


def with_empty(log_prior: Floats, counts: ArrayLike, alpha: float) -> Floats:
    """Return a prior from above in which the empty classes have the share that the restaurant gives them.

    Whoever sent it has seen the classes that hold rows. What it says of the E empty ones comes from its pseudo-counts,
    and so grows with the number of places. Therefore, of n rows,

        p'(k) = n / (n + α) · p(k) / Σ_{j: n_j > 0} p(j)   if n_k > 0,      α / ((n + α) E)   otherwise,

    as from a state of an infinite hidden Markov model the share of all states not seen yet is fixed, however many
    places stand for them (Y. W. Teh et al., "Hierarchical Dirichlet processes", 2006, section 7; in the weak limit of
    E. B. Fox et al., "A sticky HDP-HMM with application to speaker diarization", 2011, it is divided equally, too).
    Where the sender is sure of an empty class, its word stands.

    Parameters
    ----------
    log_prior : ndarray (N, K) float64
        Rows are log-distributions.
    counts : array_like of int (K,)
    alpha : float

    Returns
    -------
    ndarray (N, K) float64
        Rows are log-distributions. It is `log_prior` itself where no class is empty, or every one.
    """
    occupied = np.asarray(counts) > 0
    if occupied.all() or not occupied.any():
        return log_prior
    n, empty = int(np.sum(counts)), int((~occupied).sum())
    mass = logsumexp(log_prior[:, occupied], axis=1)
    known = mass > -np.inf
    heard = log_prior.copy()
    heard[known] += (math.log(n / (n + alpha)) - mass[known])[:, None]
    heard[np.ix_(known, ~occupied)] = math.log(alpha / (n + alpha) / empty)
    return heard


def resample_alpha(
    alpha: float, classes: int, rows: int, generator: np.random.Generator, shape: float = 1.0, rate: float = 1.0
) -> float:
    """Return a draw of α given how many classes so many rows are in, under a Gamma(shape, rate) prior.

    M. D. Escobar and M. West, "Bayesian density estimation and inference using mixtures", 1995, equations 13 and 14:
    with η ~ Beta(α + 1, n), α ~ Gamma(a + M, b - log η) with odds (a + M - 1) : n (b - log η), else of shape a + M - 1.
    """
    later = rate - math.log(max(generator.beta(alpha + 1.0, rows), np.finfo(float).tiny))
    odds = (shape + classes - 1.0) / (rows * later)
    more = generator.random() * (1.0 + odds) < odds
    return float(generator.gamma(shape + classes - (0.0 if more else 1.0)) / later)


def chinese_restaurant(
    X: ArrayLike,
    z: ArrayLike,
    most: int,
    prior: Prior,
    alpha: float,
    iterations: int,
    generator: np.random.Generator,
    *,
    log_prior: Floats | None = None,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    proposals: int = 0,
    learn_alpha: bool = False,
    on_sweep: Callable[[int, int], object] | None = None,
) -> Seated:
    """Sample labels: sweeps over all rows, and after each of them proposals to split or to merge classes.

    Without `log_prior` from p(z) Π_k p(rows of k)^temperature, with p(z) as above. With it the weights of the classes
    that held rows at the start are what it says (`with_empty`), and a row of another class counts 1 / (n + α):
    (K - M)! / K! · α^M Π_t p'_t(z_t) takes the place of p(z), but for splits and merges (see there).

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows.
    z : array_like of int, shape (N,)
        Labels to start from, not changed; -1 for a row that is in no class yet.
    most : int
        K, the number of places.
    prior : Prior
        Prior of the classes.
    alpha : float
        α.
    iterations : int
        Sweeps. With 0 the factors of z are returned.
    generator : numpy.random.Generator
        All randomness.
    log_prior : ndarray of float64, shape (N, K), optional
        Log of a prior over the classes of each row, from above; not changed.
    temperature : float
        The power of the likelihood.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: they are in no class, and never looked at.
    proposals : int
        To split or to merge, after each sweep.
    learn_alpha : bool
        Whether α is drawn anew after each sweep (`resample_alpha`).
    on_sweep : callable, optional
        Called with (sweeps done, rows moved in the last one).

    Returns
    -------
    Seated
        Labels are -1 for missing rows; the factors are computed from scratch from them.

    Raises
    ------
    ValueError
        As :func:`actors.kernels.mixture.gibbs.gibbs`.
    """
    given = gibbs.as_given(X, z, most, prior, None if log_prior is None else log_prior.copy(), mask)
    tables = gibbs.make_tables(prior, len(given.rows), alpha, log_prior is None, temperature, shared=True)
    factors = build_factors(given.rows, given.labels, most, prior)
    if log_prior is not None:
        given.bias[:] = _weights_of_places(given.bias, factors.counts, alpha)
    sampler = Sampler(given, factors, tables, prior, informed=log_prior is not None)
    for done in range(1, iterations + 1):
        moved = gibbs.sweep_once(given, factors, sampler.tables, generator)
        for _ in range(proposals):
            propose(sampler, generator)
        if learn_alpha and factors.counts.any():
            alpha = resample_alpha(alpha, int((factors.counts > 0).sum()), int(factors.counts.sum()), generator)
            sampler.tables = tables._replace(shared=alpha)
        if done % gibbs.REBUILD_EVERY == 0 or done == iterations:
            for part, afresh in zip(factors, build_factors(given.rows, given.labels, most, prior), strict=True):
                part[...] = afresh
        if on_sweep is not None:
            on_sweep(done, moved)
    return Seated(given.labels, factors, alpha)


def _weights_of_places(log_prior: Floats, counts: Integers | Floats, alpha: float) -> Floats:
    """Return `with_empty`, but what a row of an empty class counts once there is one: the sweep has α / E apart."""
    heard = with_empty(log_prior, counts, alpha)
    empty = counts == 0
    if heard is not log_prior:
        known = log_prior[:, ~empty].max(axis=1) > -np.inf
        heard[np.ix_(known, empty)] = -math.log(counts.sum() + alpha)
    return heard


def compile_kernels() -> None:
    """Compile the kernels that `chinese_restaurant` needs, or load them from the cache."""
    gibbs.compile_kernels()
    X = np.array([[0.0], [1.0], [2.0]])
    prior = Prior(np.zeros(1), 1.0, 3.0, np.eye(1))
    chinese_restaurant(X, [0, 0, 0], 2, prior, 1.0, 1, np.random.default_rng(0), proposals=4)
