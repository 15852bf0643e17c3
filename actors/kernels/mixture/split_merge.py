"""Split and merge: two classes become one, or one two, in a step that a sweep row by row hardly ever makes.

S. Jain and R. M. Neal, "A split-merge Markov chain Monte Carlo procedure for the Dirichlet process mixture model",
2004. Two rows are drawn. If they are in one class, it may fall into two, one around each of them; if in two, these may
become one. The rows beside them are allocated by a few sweeps within the two (the launch state) and by a last one,
whose probability q is that of the proposal, or of the way back. The step is accepted with the probability of Metropolis
and Hastings, so that the posterior that :mod:`actors.kernels.mixture.crp` samples from stays what it is.

A prior from above knows the classes that were there when it was made. Of two that become one it says the sum of what it
said of them; two halves of one share what it said, by their counts. So in place of what the restaurant gives to two
classes, Γ(n1) Γ(n2) / Γ(n1 + n2), a merge is judged by Π_t p_t(z_t) / (p_t(a) + p_t(b)): the whole of it, 1, where the
prior tells the two apart, and about the restaurant's figure, 2^-n for equal halves, where it does not. Since the prior
changes with the classes, but not its sender's mind, the chain is then no exact sampler of one distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import gammaln

from actors.kernels.jit import kernel
from actors.kernels.mixture.cholesky import rank_one
from actors.kernels.mixture.gibbs import Given
from actors.kernels.mixture.gibbs_sweep import Tables
from actors.kernels.mixture.input_checks import Floats, Integers
from actors.kernels.mixture.niw import EPSILON, Factors, Prior, build_factors

SCANS = 5
"""Sweeps within the two classes before the one that proposes."""

NOBODY = np.empty(0, np.int64)


@dataclass(eq=False)
class Sampler:
    """What is sampled, and by what; labels, factors and bias change in place.

    Attributes
    ----------
    given : Given
        Rows, bias, labels, and which rows are missing.
    factors : Factors
        Those of the labels.
    tables : Tables
        With α as `shared`.
    prior : Prior
    informed : bool
        Whether the bias is a prior from above.
    """

    given: Given
    factors: Factors
    tables: Tables
    prior: Prior
    informed: bool

    @cached_property
    def constants(self) -> Floats:
        """What of the log marginal likelihood of a class depends on its count alone, (N + 1,).

        The marginal likelihood is a product of predictive densities, so sums of their constants are at hand.
        """
        sums = np.concatenate([[0.0], np.cumsum(self.tables.constants)[:-1]])
        constants: Floats = sums + 0.5 * self.prior.nu0 * np.linalg.slogdet(self.prior.scale)[1]
        return constants

    @cached_property
    def nothing(self) -> Factors:
        """The factors of an empty class."""
        return build_factors(self.given.rows[:0], NOBODY, 1, self.prior)

    def log_marginal(self, count: int, log_det: float) -> float:
        """Return the log marginal likelihood of a class (Murphy 266), to the power of the temperature."""
        return float(self.tables.temperature * (self.constants[count] - 0.5 * (self.prior.nu0 + count) * log_det))

    def put(self, k: int, of: Factors, index: int) -> None:
        """Let class k have the factors of class `index` of others."""
        for part, new in zip(self.factors, of, strict=True):
            part[k] = new[index]


def propose(sampler: Sampler, generator: np.random.Generator) -> bool:
    """Propose a split or a merge; return whether it was accepted.

    Raises
    ------
    ValueError
        If the scale of a class that would arise is not positive definite in float64.
    """
    labels = sampler.given.labels
    present = np.flatnonzero(labels >= 0)
    if len(present) < 2:
        return False
    first = int(generator.integers(len(present)))
    second = (first + int(generator.integers(1, len(present)))) % len(present)
    drawn = (int(present[first]), int(present[second]))
    level = math.log1p(-generator.random())
    if labels[drawn[0]] == labels[drawn[1]]:
        return _split(sampler, drawn, level, generator)
    return _merge(sampler, drawn, level, generator)


def _split(sampler: Sampler, drawn: tuple[int, int], level: float, generator: np.random.Generator) -> bool:
    given, factors = sampler.given, sampler.factors
    empty = np.flatnonzero(factors.counts == 0)
    if not len(empty):
        return False
    old, new = int(given.labels[drawn[0]]), int(empty[generator.integers(len(empty))])
    members = np.flatnonzero(given.labels == old)
    side, two, log_q = _allocate(sampler, members, drawn, NOBODY, generator)
    n1, n2 = (int(count) for count in two.counts)
    # The place is drawn among the empty ones with the probability that p(z) gives it, so both are left out.
    gain = _log_share(n1, n2, sampler.tables.shared) - sampler.log_marginal(n1 + n2, factors.log_det[old])
    gain += sampler.log_marginal(n1, two.log_det[0]) + sampler.log_marginal(n2, two.log_det[1])
    if not level < gain - log_q:
        return False
    given.labels[members[side == 1]] = new
    two = build_factors(given.rows[members], side, 2, sampler.prior)
    sampler.put(old, two, 0)
    sampler.put(new, two, 1)
    if sampler.informed:
        given.bias[:, new] = given.bias[:, old] + math.log(n2 / (n1 + n2))
        given.bias[:, old] += math.log(n1 / (n1 + n2))
    return True


def _merge(sampler: Sampler, drawn: tuple[int, int], level: float, generator: np.random.Generator) -> bool:
    given, factors = sampler.given, sampler.factors
    freed, kept = int(given.labels[drawn[0]]), int(given.labels[drawn[1]])
    n1, n2 = int(factors.counts[kept]), int(factors.counts[freed])
    try:
        one = merged(factors, kept, freed, sampler.prior)
    except np.linalg.LinAlgError:  # not told from nothing in float64
        return False
    gain = sampler.log_marginal(n1 + n2, one.log_det[0])
    gain -= sampler.log_marginal(n1, factors.log_det[kept]) + sampler.log_marginal(n2, factors.log_det[freed])
    members = np.flatnonzero((given.labels == kept) | (given.labels == freed))
    side = (given.labels[members] == freed).astype(np.int64)
    if sampler.informed:
        said = given.bias[np.ix_(members, np.array([kept, freed]))]
        gain += float((np.logaddexp(said[:, 0], said[:, 1]) - said[np.arange(len(side)), side]).sum())
        gain -= math.log(sampler.tables.shared)
    else:
        gain -= _log_share(n1, n2, sampler.tables.shared)
    if not level < gain:  # the way back, no more probable than 1, would make it only smaller
        return False
    *_, log_q = _allocate(sampler, members, drawn, side, generator)
    if not level < gain + log_q:
        return False
    given.labels[members] = kept
    sampler.put(kept, one, 0)
    sampler.put(freed, sampler.nothing, 0)
    if sampler.informed:
        given.bias[:, kept] = np.logaddexp(given.bias[:, kept], given.bias[:, freed])
        given.bias[:, freed] = -math.log(factors.counts.sum() + sampler.tables.shared)
    return True


def _log_share(n1: int, n2: int, alpha: float) -> float:
    """Return what the restaurant gives two classes beyond one, log α Γ(n1) Γ(n2) / Γ(n1 + n2)."""
    return float(math.log(alpha) + gammaln(n1) + gammaln(n2) - gammaln(n1 + n2))


def merged(factors: Factors, a: int, b: int, prior: Prior) -> Factors:
    """Return the factors (1 class) of the rows of classes a and b together, from theirs.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the scale is not positive definite in float64.
    """
    pair = np.array([a, b])
    n, r = factors.counts[a] + factors.counts[b], prior.r0 + factors.counts[pair]
    offsets = factors.mean[pair] - prior.mean
    # With d = m - m0:  r d = r_a d_a + r_b d_b,  S = S_a + S_b - S0 + r_a d_a d_aᵀ + r_b d_b d_bᵀ - r d dᵀ
    offset = r @ offsets / (prior.r0 + n)
    scale = factors.scale[a] + factors.scale[b] - prior.scale + (offsets.T * r) @ offsets
    scale -= (prior.r0 + n) * np.outer(offset, offset)
    chol = np.linalg.cholesky(scale)  # reads the lower triangle, the one that is up to date
    log_det = 2.0 * float(np.log(np.diagonal(chol)).sum())
    return Factors(np.array([n]), (prior.mean + offset)[None], scale[None], chol[None], np.array([log_det]))


def _allocate(
    sampler: Sampler, members: Integers, drawn: tuple[int, int], target: Integers, generator: np.random.Generator
) -> tuple[Integers, Factors, float]:
    """Allocate the members of two classes: around drawn[1] (side 0) and around drawn[0] (side 1).

    Returns
    -------
    side : ndarray of int64, shape (M,)
        Drawn, or `target` where that is not empty.
    factors : Factors
        Of the two sides, but for the scales.
    log_q : float
        Log-probability of the last sweep; NaN (nothing is then accepted) where a factor got singular.
    """
    rows = sampler.given.rows[members]
    side = generator.integers(0, 2, len(members))
    ends = np.searchsorted(members, drawn)
    side[ends] = 1, 0
    free = np.delete(np.arange(len(members)), ends)
    two = build_factors(rows, side, 2, sampler.prior)
    uniforms = generator.random((SCANS + 1, len(free)))
    log_q = float(scan_pair(rows, free, side, target, uniforms, two, sampler.tables))
    return side, two, log_q


@kernel
def scan_pair(
    X: Floats, free: Integers, side: Integers, target: Integers, uniforms: Floats, factors: Factors, tables: Tables
) -> float:
    """Draw a side for every free row in turn, given all others, sweep after sweep; in the last it may have a target.

    Parameters
    ----------
    X : ndarray of float64, shape (M, D)
        The rows of two classes.
    free : ndarray of int64, shape (F,)
        Which of them may change sides.
    side : ndarray of int64, shape (M,)
        0 or 1; changed in place.
    target : ndarray of int64, shape (M,) or (0,)
        Where to in the last sweep, if this is known.
    uniforms : ndarray of float64, shape (sweeps, F)
    factors : Factors
        Of the two sides; changed in place, but for the scales.
    tables : Tables

    Returns
    -------
    float
        The log-probability of the last sweep's draws; NaN if a factor got singular.
    """
    D = X.shape[1]
    y, vector, scores, log_q = np.empty(D), np.empty(D), np.empty(2), 0.0
    sweeps = uniforms.shape[0]
    for sweep in range(sweeps):
        aimed, log_q = sweep == sweeps - 1 and target.shape[0] > 0, 0.0
        for position in range(free.shape[0]):
            row = free[position]
            x, own = X[row], side[row]
            for k in range(2):
                scores[k] = _score(k, own, x, y, factors, tables)
            ahead = scores[1] - scores[0]  # the log-odds of side 1
            lesser = math.exp(-abs(ahead))
            chance = lesser / (1.0 + lesser) if ahead < 0.0 else 1.0 / (1.0 + lesser)
            new = target[row] if aimed else (1 if uniforms[sweep, position] < chance else 0)
            log_q -= math.log1p(lesser)
            if (new == 1) != (ahead >= 0.0):
                log_q -= abs(ahead)
            if new != own:
                if not _shift(own, -1.0, x, vector, factors, tables):
                    return np.nan
                if not _shift(new, 1.0, x, vector, factors, tables):
                    return np.nan
                side[row] = new
    return log_q


@kernel
def _score(k: int, own: int, x: Floats, y: Floats, factors: Factors, tables: Tables) -> float:
    """Score a row for class k, left out of its own, as in `sweep`."""
    D = x.shape[0]
    chol, mean, q = factors.chol[k], factors.mean[k], 0.0
    for d in range(D):
        total = x[d] - mean[d]
        for e in range(d):
            total -= chol[d, e] * y[e]
        y[d] = total / chol[d, d]
        q += y[d] * y[d]
    n = factors.counts[k]
    r, log_det = tables.r0 + n, factors.log_det[k]
    if k == own:
        c = r / (r - 1.0)
        left = max(1.0 - c * q, EPSILON)
        q, log_det = c * c * q / left, log_det + math.log(left)
        n -= 1
        r -= 1.0
    log_t: float = tables.constants[n] - 0.5 * (log_det + (tables.nu0 + n + 1.0) * math.log(1.0 + r / (r + 1.0) * q))
    return tables.temperature * log_t + math.log(n)


@kernel
def _shift(k: int, sign: float, x: Floats, vector: Floats, factors: Factors, tables: Tables) -> bool:
    """Let a row enter (sign 1) or leave (sign -1) class k; False if its factor gets singular."""
    r = tables.r0 + factors.counts[k]
    c, t = r / (r + sign), sign / (r + sign)
    mean, chol, root = factors.mean[k], factors.chol[k], math.sqrt(c)
    for d in range(x.shape[0]):
        v = x[d] - mean[d]
        mean[d] += t * v
        vector[d] = root * v
    if not rank_one(chol, vector, sign):
        return False
    factors.counts[k] += 1 if sign > 0.0 else -1
    factors.log_det[k] = 0.0
    for d in range(x.shape[0]):
        factors.log_det[k] += 2.0 * math.log(chol[d, d])
    return True
