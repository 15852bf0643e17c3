"""Split-merge Metropolis-Hastings steps for a CRP mixture: moves that row-by-row sweeps hardly ever make.

S. Jain and R. M. Neal, "A split-merge Markov chain Monte Carlo procedure for the Dirichlet process mixture model",
2004. Two rows, the anchors, are drawn. If they are in one class, its split into two is proposed, one around each
anchor; if in two, the merge of these. The other rows are allocated by a few restricted Gibbs sweeps over the two
classes (which yield the launch state) and by a last one, whose probability q is that of the proposal, or of the reverse
one. The Metropolis-Hastings acceptance probability leaves the posterior that :mod:`actors.kernels.mixture.crp` samples
from invariant.

A per-row class prior from another module is defined for the classes that existed when it was made. A merged class gets
the sum of the priors of its two parts; the two halves of a split class share its prior in proportion to their counts.
So the CRP's ratio for two classes, Γ(n1) Γ(n2) / Γ(n1 + n2), is replaced by Π_t p_t(z_t) / (p_t(a) + p_t(b)): this is 1
if the prior distinguishes the two classes, and about the CRP's value, 2^-n for equal halves, if it does not. Since the
prior then changes with the classes while its sender's model doesn't, the chain has no single exact target distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.mixture.cholesky import rank_one_update
from actors.kernels.mixture.gibbs import SamplerInput
from actors.kernels.mixture.gibbs_sweep import Tables
from actors.kernels.mixture.niw import MIN_DOWNDATE, NIWPosterior, NIWPrior, posterior_from_labels
from actors.kernels.special import gammaln
from actors.kernels.types import FloatArray, IntArray

LAUNCH_SWEEPS = 5
"""Restricted Gibbs sweeps before the one that proposes."""

NO_ROWS = np.empty(0, np.int64)


@dataclass(eq=False)
class SplitMergeSampler:
    """State of the chain and constants of the sampler; labels, posterior and bias change in place.

    Attributes
    ----------
    data : SamplerInput
        Rows, bias, labels, and the mask of missing rows.
    posterior : NIWPosterior
        The posterior given the labels.
    tables : Tables
        With α as `shared_alpha`.
    prior : NIWPrior
    has_row_prior : bool
        Whether the bias is a per-row class prior from another module.
    """

    data: SamplerInput
    posterior: NIWPosterior
    tables: Tables
    prior: NIWPrior
    has_row_prior: bool

    @cached_property
    def marginal_constants(self) -> FloatArray:
        """The terms of a class's log marginal likelihood that depend on its count alone, (N + 1,).

        The marginal likelihood is a product of predictive densities, hence the cumulative sum of their constants.
        """
        sums = np.concatenate([[0.0], np.cumsum(self.tables.constants)[:-1]])
        constants: FloatArray = sums + 0.5 * self.prior.nu0 * np.linalg.slogdet(self.prior.scale)[1]
        return constants

    @cached_property
    def empty_class(self) -> NIWPosterior:
        """The posterior of an empty class (K = 1)."""
        return posterior_from_labels(self.data.rows[:0], NO_ROWS, 1, self.prior)

    def log_marginal_likelihood(self, count: int, log_det: float) -> float:
        """Return the log marginal likelihood of a class (Murphy 266) times the temperature."""
        return float(
            self.tables.temperature * (self.marginal_constants[count] - 0.5 * (self.prior.nu0 + count) * log_det)
        )

    def set_class(self, k: int, source: NIWPosterior, index: int) -> None:
        """Copy class `index` of another posterior to class k."""
        for array, new in zip(self.posterior, source, strict=True):
            array[k] = new[index]


def propose(sampler: SplitMergeSampler, generator: np.random.Generator) -> bool:
    """Propose a split or a merge; return whether it was accepted.

    Raises
    ------
    ValueError
        If the scale of a proposed class is not positive definite in float64.
    """
    labels = sampler.data.labels
    present = np.flatnonzero(labels >= 0)
    if len(present) < 2:
        return False
    first = int(generator.integers(len(present)))
    second = (first + int(generator.integers(1, len(present)))) % len(present)
    anchors = (int(present[first]), int(present[second]))
    log_uniform = math.log1p(-generator.random())
    if labels[anchors[0]] == labels[anchors[1]]:
        return _split(sampler, anchors, log_uniform, generator)
    return _merge(sampler, anchors, log_uniform, generator)


def _split(
    sampler: SplitMergeSampler, anchors: tuple[int, int], log_uniform: float, generator: np.random.Generator
) -> bool:
    """Propose to split the anchors' class; accept if `log_uniform` is below the log acceptance ratio."""
    data, posterior, log_marginal = sampler.data, sampler.posterior, sampler.log_marginal_likelihood
    empty = np.flatnonzero(posterior.counts == 0)
    if not len(empty):
        return False
    old, new = int(data.labels[anchors[0]]), int(empty[generator.integers(len(empty))])
    members = np.flatnonzero(data.labels == old)
    side, two, log_q = _allocate(sampler, members, anchors, NO_ROWS, generator)
    n1, n2 = (int(count) for count in two.counts)
    # The new label is drawn from the empty ones with the probability that p(z) gives it, so the two cancel.
    log_ratio = _log_crp_ratio(n1, n2, sampler.tables.shared_alpha) - log_marginal(n1 + n2, posterior.log_det[old])
    log_ratio += log_marginal(n1, two.log_det[0]) + log_marginal(n2, two.log_det[1])
    if not log_uniform < log_ratio - log_q:
        return False
    data.labels[members[side == 1]] = new
    two = posterior_from_labels(data.rows[members], side, 2, sampler.prior)
    sampler.set_class(old, two, 0)
    sampler.set_class(new, two, 1)
    if sampler.has_row_prior:
        data.bias[:, new] = data.bias[:, old] + math.log(n2 / (n1 + n2))
        data.bias[:, old] += math.log(n1 / (n1 + n2))
    return True


def _merge(
    sampler: SplitMergeSampler, anchors: tuple[int, int], log_uniform: float, generator: np.random.Generator
) -> bool:
    """Propose to merge the anchors' classes; accept if `log_uniform` is below the log acceptance ratio."""
    data, posterior, log_marginal = sampler.data, sampler.posterior, sampler.log_marginal_likelihood
    freed, kept = int(data.labels[anchors[0]]), int(data.labels[anchors[1]])
    n1, n2 = int(posterior.counts[kept]), int(posterior.counts[freed])
    try:
        one = merge_classes(posterior, kept, freed, sampler.prior)
    except np.linalg.LinAlgError:  # the merged scale is singular in float64
        return False
    log_ratio = log_marginal(n1 + n2, one.log_det[0])
    log_ratio -= log_marginal(n1, posterior.log_det[kept]) + log_marginal(n2, posterior.log_det[freed])
    members = np.flatnonzero((data.labels == kept) | (data.labels == freed))
    side = (data.labels[members] == freed).astype(np.int64)
    if sampler.has_row_prior:
        pair = data.bias[np.ix_(members, np.array([kept, freed]))]
        log_ratio += float((np.logaddexp(pair[:, 0], pair[:, 1]) - pair[np.arange(len(side)), side]).sum())
        log_ratio -= math.log(sampler.tables.shared_alpha)
    else:
        log_ratio -= _log_crp_ratio(n1, n2, sampler.tables.shared_alpha)
    if not log_uniform < log_ratio:  # log q <= 0 can only lower the ratio: skip computing it
        return False
    *_, log_q = _allocate(sampler, members, anchors, side, generator)
    if not log_uniform < log_ratio + log_q:
        return False
    data.labels[members] = kept
    sampler.set_class(kept, one, 0)
    sampler.set_class(freed, sampler.empty_class, 0)
    if sampler.has_row_prior:
        data.bias[:, kept] = np.logaddexp(data.bias[:, kept], data.bias[:, freed])
        data.bias[:, freed] = -math.log(posterior.counts.sum() + sampler.tables.shared_alpha)
    return True


def _log_crp_ratio(n1: int, n2: int, alpha: float) -> float:
    """Return the CRP's log ratio of two classes to their union, log α Γ(n1) Γ(n2) / Γ(n1 + n2)."""
    return float(math.log(alpha) + gammaln(n1) + gammaln(n2) - gammaln(n1 + n2))


def merge_classes(posterior: NIWPosterior, a: int, b: int, prior: NIWPrior) -> NIWPosterior:
    """Return the posterior (K = 1) of the rows of classes a and b together, from those of a and b.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the scale is not positive definite in float64.
    """
    pair = np.array([a, b])
    n, r = posterior.counts[a] + posterior.counts[b], prior.r0 + posterior.counts[pair]
    offsets = posterior.mean[pair] - prior.mean
    # With d = m - m0:  r d = r_a d_a + r_b d_b,  S = S_a + S_b - S0 + r_a d_a d_aᵀ + r_b d_b d_bᵀ - r d dᵀ
    offset = r @ offsets / (prior.r0 + n)
    scale = posterior.scale[a] + posterior.scale[b] - prior.scale + (offsets.T * r) @ offsets
    scale -= (prior.r0 + n) * np.outer(offset, offset)
    chol = np.linalg.cholesky(scale)  # reads the lower triangle, the one that is up to date
    log_det = 2.0 * float(np.log(np.diagonal(chol)).sum())
    return NIWPosterior(np.array([n]), (prior.mean + offset)[None], scale[None], chol[None], np.array([log_det]))


def _allocate(
    sampler: SplitMergeSampler,
    members: IntArray,
    anchors: tuple[int, int],
    target: IntArray,
    generator: np.random.Generator,
) -> tuple[IntArray, NIWPosterior, float]:
    """Allocate the members of two classes by restricted Gibbs sweeps: around anchors[1] (side 0) and [0] (side 1).

    Returns
    -------
    side : ndarray of int64, shape (M,)
        Drawn, or `target` if that is not empty.
    posterior : NIWPosterior
        Of the two sides, without valid scales.
    log_q : float
        Log-probability of the last sweep; NaN (which rejects the proposal) if a Cholesky factor got singular.
    """
    rows = sampler.data.rows[members]
    side = generator.integers(0, 2, len(members))
    ends = np.searchsorted(members, anchors)
    side[ends] = 1, 0
    free = np.delete(np.arange(len(members)), ends)
    two = posterior_from_labels(rows, side, 2, sampler.prior)
    uniforms = generator.random((LAUNCH_SWEEPS + 1, len(free)))
    log_q = float(restricted_sweeps(rows, free, side, target, uniforms, two, sampler.tables))
    return side, two, log_q


@kernel
def restricted_sweeps(
    X: FloatArray,
    free: IntArray,
    side: IntArray,
    target: IntArray,
    uniforms: FloatArray,
    posterior: NIWPosterior,
    tables: Tables,
) -> float:
    """Run Gibbs sweeps over the free rows, restricted to two classes; the last one may have a given outcome.

    Parameters
    ----------
    X : ndarray of float64, shape (M, D)
        The rows of two classes.
    free : ndarray of int64, shape (F,)
        Indices of the rows that may change sides.
    side : ndarray of int64, shape (M,)
        0 or 1; changed in place.
    target : ndarray of int64, shape (M,) or (0,)
        The given sides after the last sweep, or empty.
    uniforms : ndarray of float64, shape (sweeps, F)
    posterior : NIWPosterior
        Of the two sides; changed in place, except for the scales.
    tables : Tables

    Returns
    -------
    float
        The log-probability of the last sweep's draws; NaN if a Cholesky factor got singular.
    """
    D = X.shape[1]
    y, vector, scores, log_q = np.empty(D), np.empty(D), np.empty(2), 0.0
    sweeps = uniforms.shape[0]
    for sweep in range(sweeps):
        targeted, log_q = sweep == sweeps - 1 and target.shape[0] > 0, 0.0
        for position in range(free.shape[0]):
            row = free[position]
            x, own = X[row], side[row]
            for k in range(2):
                scores[k] = _score_row(k, own, x, y, posterior, tables)
            log_odds = scores[1] - scores[0]  # of side 1
            smaller = math.exp(-abs(log_odds))
            probability = smaller / (1.0 + smaller) if log_odds < 0.0 else 1.0 / (1.0 + smaller)
            new = target[row] if targeted else (1 if uniforms[sweep, position] < probability else 0)
            log_q -= math.log1p(smaller)
            if (new == 1) != (log_odds >= 0.0):
                log_q -= abs(log_odds)
            if new != own:
                if not _move_row(own, -1.0, x, vector, posterior, tables):
                    return np.nan
                if not _move_row(new, 1.0, x, vector, posterior, tables):
                    return np.nan
                side[row] = new
    return log_q


@kernel
def _score_row(k: int, own: int, x: FloatArray, y: FloatArray, posterior: NIWPosterior, tables: Tables) -> float:
    """Score a row for class k, left out of its own, as in `gibbs_sweep`."""
    D = x.shape[0]
    chol, mean, q = posterior.chol[k], posterior.mean[k], 0.0
    for d in range(D):
        total = x[d] - mean[d]
        for e in range(d):
            total -= chol[d, e] * y[e]
        y[d] = total / chol[d, d]
        q += y[d] * y[d]
    n = posterior.counts[k]
    r, log_det = tables.r0 + n, posterior.log_det[k]
    if k == own:
        c = r / (r - 1.0)
        left = max(1.0 - c * q, MIN_DOWNDATE)
        q, log_det = c * c * q / left, log_det + math.log(left)
        n -= 1
        r -= 1.0
    log_t: float = tables.constants[n] - 0.5 * (log_det + (tables.nu0 + n + 1.0) * math.log(1.0 + r / (r + 1.0) * q))
    return tables.temperature * log_t + math.log(n)


@kernel
def _move_row(k: int, sign: float, x: FloatArray, vector: FloatArray, posterior: NIWPosterior, tables: Tables) -> bool:
    """Add a row to class k (sign 1) or remove it (sign -1); return False if the Cholesky factor gets singular."""
    r = tables.r0 + posterior.counts[k]
    c, t = r / (r + sign), sign / (r + sign)
    mean, chol, root = posterior.mean[k], posterior.chol[k], math.sqrt(c)
    for d in range(x.shape[0]):
        v = x[d] - mean[d]
        mean[d] += t * v
        vector[d] = root * v
    if not rank_one_update(chol, vector, sign):
        return False
    posterior.counts[k] += 1 if sign > 0.0 else -1
    posterior.log_det[k] = 0.0
    for d in range(x.shape[0]):
        posterior.log_det[k] += 2.0 * math.log(chol[d, d])
    return True
