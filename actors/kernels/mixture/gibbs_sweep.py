"""One sweep of the collapsed Gibbs sampler in `gibbs`, compiled.

How the sweep is made fast, with the result that sampling row by row has:

- A row that stays changes nothing. Its own class is scored without it by the closed form of `niw.log_predictive_loo`,
  so only rows that move change factors.
- BLOCK rows are solved for side by side, for all classes, before the first of them is drawn. With y_j = L⁻¹(x_j - m)
  the inner products G_jl = (x_j-m)ᵀ S⁻¹ (x_l-m) = y_jᵀ y_l are at hand when a row moves, and its entering or leaving
  changes them, and so the distances of the rows behind it in the block, by a closed form (`_shift`).
- Cholesky factors are brought up to date once a block: by rank-one steps for few changes, from scratch for many.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.kernels.jit import kernel
from actors.kernels.mixture.cholesky import factorize, rank_one
from actors.kernels.mixture.input_checks import Floats, Integers
from actors.kernels.mixture.niw import BLOCK, EPSILON, Factors, Prior, predictive_constants, solve_block

NEGLIGIBLE = -45.0
"""Scores this far below the best have no chance: e^-45 is 3e-20, and uniforms come in steps of 1e-16."""


class Tables(NamedTuple):
    """What a sweep looks up or holds fixed; see `make_tables`.

    Attributes
    ----------
    constants : ndarray of float64, shape (N + 1,)
        `niw.predictive_constants` by count.
    log_weight : ndarray of float64, shape (N + 1,)
        log(n + alpha) by count; zeros where counts are not used. Where empty classes share alpha, log n, and the
        sweep keeps the first entry up to date.
    shared : float
        alpha where all empty classes together have it, each an equal part (:mod:`actors.kernels.mixture.crp`); else 0.
    r0, nu0, temperature : float
        As in the prior; the power of the likelihood.
    mean0, scale0 : ndarray of float64, shapes (D,), (D, D)
        The prior's, for a class that must be rebuilt within the sweep.
    """

    constants: Floats
    log_weight: Floats
    shared: float
    r0: float
    nu0: float
    temperature: float
    mean0: Floats
    scale0: Floats


class _Block(NamedTuple):
    """Workspace for one block of rows; B is BLOCK, R the number of changes that are still done by rank-one steps."""

    rows: Integers  # (B,) the rows' numbers
    columns: Floats  # (D, B) the rows, transposed
    y: Floats  # (K, D, B) L⁻¹(x - m) with the factors at the block's start
    q: Floats  # (K, B) squared distances, kept up to date
    inverse_diagonal: Floats  # (K, D)
    changes: Integers  # (K,) how often the class changed within the block
    inner: Floats  # (K, B, B) per change: inner products of all rows with the one that moved
    effect: Floats  # (K, B, 3) per change: coefficients A, B, C of `_shift`
    pending: Floats  # (K, R + 1, D) the first R changes of S as vectors, and scratch
    signs: Floats  # (K, R + 1)
    scores: Floats  # (K,)


def make_tables(
    prior: Prior,
    rows: int,
    alpha: float = 1.0,
    use_counts: bool = True,
    temperature: float = 1.0,
    shared: bool = False,
) -> Tables:
    """Tabulate what depends on the count of a class alone, for counts up to the number of rows.

    With `shared`, alpha is that of a Chinese restaurant: only empty classes have it, all of them together, whether or
    not counts are used.

    Raises
    ------
    ValueError
        If alpha has a say and is not positive: a row could be left without any possible class.
    """
    if (use_counts or shared) and not alpha > 0.0:
        raise ValueError(f"alpha must be positive where counts are used, it is {alpha}")
    counts = np.arange(rows + 1, dtype=np.float64)
    if shared:
        counts[0] = alpha
    weight = np.log(counts if shared else counts + alpha) if use_counts else np.zeros(rows + 1)
    constants = predictive_constants(prior, rows)
    part = float(alpha) if shared else 0.0
    return Tables(constants, weight, part, prior.r0, prior.nu0, float(temperature), prior.mean, prior.scale)


@kernel
def sweep(
    X: Floats,
    log_bias: Floats,
    z: Integers,
    uniforms: Floats,
    mask: NDArray[np.bool_],
    factors: Factors,
    tables: Tables,
) -> int:
    """Draw a new label for every row that is not missing, in order.

    Parameters
    ----------
    X, log_bias : ndarray of float64, shapes (N, D), (N, K)
        Rows; what is added to their scores.
    z : ndarray of int64, shape (N,)
        Labels, changed in place. They must be the ones that the factors count.
    uniforms : ndarray of float64, shape (N,)
        In [0, 1); row i is drawn with uniforms[i] by inversion.
    mask : ndarray of bool, shape (N,)
        True for missing rows: skipped.
    factors : Factors
        Changed in place.
    tables : Tables
        For at least as many rows as X has.

    Returns
    -------
    int
        How many rows moved; -1 - k if the scale of class k got singular (labels and factors are then of no use).
    """
    N, D = X.shape
    K = factors.counts.shape[0]
    block = _new_block(K, D)
    for k in range(K):
        _invert_diagonal(factors.chol[k], block.inverse_diagonal[k])
    moved = 0
    i = 0
    while i < N:
        size = 0
        while i < N and size < BLOCK:
            if not mask[i]:
                block.rows[size] = i
                size += 1
            i += 1
        _solve(X, size, factors, block)
        for j in range(size):
            row = block.rows[j]
            old = z[row]
            if tables.shared > 0.0:
                _share(old, factors.counts, tables)
            _score(j, old, log_bias[row], factors, tables, block)
            new = _draw(block.scores, uniforms[row])
            if new != old:
                if old >= 0:
                    _shift(old, j, -1.0, factors, tables, block)
                _shift(new, j, 1.0, factors, tables, block)
                z[row] = new
                moved += 1
        for k in range(K):
            if block.changes[k] > 0 and not _refresh(k, X, z, factors, tables, block):
                return -1 - k
    return moved


@kernel
def _new_block(K: int, D: int) -> _Block:
    """Allocate the workspace. A rank-one step costs about 2 D² operations and a factorisation D³/3, hence R = D/6."""
    R = max(1, D // 6)
    return _Block(
        np.zeros(BLOCK, dtype=np.int64),
        np.zeros((D, BLOCK)),
        np.empty((K, D, BLOCK)),
        np.empty((K, BLOCK)),
        np.empty((K, D)),
        np.zeros(K, dtype=np.int64),
        np.empty((K, BLOCK, BLOCK)),
        np.empty((K, BLOCK, 3)),
        np.empty((K, R + 1, D)),
        np.empty((K, R + 1)),
        np.empty(K),
    )


@kernel
def _invert_diagonal(chol: Floats, inverse: Floats) -> None:
    """Store the reciprocals of the diagonal: a division takes longer than ten multiplications."""
    for d in range(inverse.shape[0]):
        inverse[d] = 1.0 / chol[d, d]


@kernel
def _solve(X: Floats, size: int, factors: Factors, block: _Block) -> None:
    """Fill in y and q for the block's rows and all classes; lanes from `size` on hold stale but finite rows."""
    K, D, width = block.y.shape
    for j in range(size):
        row = block.rows[j]
        for d in range(D):
            block.columns[d, j] = X[row, d]
    for k in range(K):
        y, q = block.y[k], block.q[k]
        solve_block(factors.chol[k], block.inverse_diagonal[k], factors.mean[k], block.columns, y)
        q[:] = 0.0
        for d in range(D):
            for j in range(width):
                q[j] += y[d, j] * y[d, j]


@kernel
def _share(own: int, counts: Integers | Floats, tables: Tables) -> None:
    """Divide what empty classes share among those that are empty once a row has left its own."""
    empty = 0
    for k in range(counts.shape[0]):
        if counts[k] == 0 or (k == own and counts[k] == 1):
            empty += 1
    if empty > 0:
        tables.log_weight[0] = math.log(tables.shared / empty)


@kernel
def _score(j: int, own: int, bias: Floats, factors: Factors, tables: Tables, block: _Block) -> None:
    """Score the block's row j for every class, left out of its own."""
    for k in range(bias.shape[0]):
        n = factors.counts[k]
        r, q, log_det = tables.r0 + n, block.q[k, j], factors.log_det[k]
        if k == own:
            # Without the row: q' = c² q / (1 - c q), |S'| = |S| (1 - c q), c = r / (r - 1)
            c = r / (r - 1.0)
            left = max(1.0 - c * q, EPSILON)
            q, log_det = c * c * q / left, log_det + math.log(left)
            n -= 1
            r -= 1.0
        # log t = constants(n) - 1/2 log|S| - (nu+1)/2 log(1 + r/(r+1) q)                         (Murphy 258)
        log_t = tables.constants[n] - 0.5 * (log_det + (tables.nu0 + n + 1.0) * math.log(1.0 + r / (r + 1.0) * q))
        block.scores[k] = tables.temperature * log_t + bias[k] + tables.log_weight[n]


@kernel
def _draw(scores: Floats, uniform: float) -> int:
    """Draw k with probability proportional to exp(scores[k]), by inversion; scores are overwritten."""
    K = scores.shape[0]
    largest = scores[0]
    for k in range(1, K):
        largest = max(largest, scores[k])
    total = 0.0
    for k in range(K):
        below = scores[k] - largest
        scores[k] = math.exp(below) if below > NEGLIGIBLE else 0.0
        total += scores[k]
    target = uniform * total
    cumulative = 0.0
    last = 0
    for k in range(K):
        if scores[k] > 0.0:
            cumulative += scores[k]
            last = k
            if target < cumulative:
                break
    return last  # rounding may leave target at the total: then the last possible class


@kernel
def _shift(k: int, j: int, sign: float, factors: Factors, tables: Tables, block: _Block) -> None:
    """Let the block's row j enter (sign 1) or leave (sign -1) class k: count, m, S, log|S|, and the others' distances.

    With v = x_j - m, c = r/(r+sign), t = sign/(r+sign): S' = S + sign c v vᵀ, m' = m + t v. By Sherman and Morrison,
    with g_l = G_lj, q = G_jj, h = 1 + sign c q, the inner products become
    G'_il = G_il - A g_i g_l - B (g_i + g_l) + C,  A = sign c / h,  B = t / h,  C = t² q / h.
    """
    _, D, width = block.y.shape
    change = block.changes[k]
    block.changes[k] = change + 1
    y, inner, effect, q = block.y[k], block.inner[k], block.effect[k], block.q[k]
    g = inner[change]
    g[:] = 0.0
    for d in range(D):
        own = y[d, j]
        for i in range(width):
            g[i] += own * y[d, i]
    for e in range(change):  # what earlier changes within the block did to G
        A, B, C, own = effect[e, 0], effect[e, 1], effect[e, 2], inner[e, j]
        for i in range(width):
            g[i] += C - A * own * inner[e, i] - B * (own + inner[e, i])
    r = tables.r0 + factors.counts[k]
    c, t = r / (r + sign), sign / (r + sign)
    h = max(1.0 + sign * c * g[j], EPSILON)
    A, B, C = sign * c / h, t / h, t * t * g[j] / h
    effect[change, 0], effect[change, 1], effect[change, 2] = A, B, C
    for i in range(width):
        q[i] += C - A * g[i] * g[i] - 2.0 * B * g[i]
        q[i] = max(q[i], 0.0)
    # The last slot of `pending` is scratch: it is only read when the class is factorised from scratch anyway.
    slot = min(change, block.pending.shape[1] - 1)
    block.signs[k, slot] = sign
    _shift_moments(factors.mean[k], factors.scale[k], block.columns[:, j], sign * c, t, block.pending[k, slot])
    factors.counts[k] += 1 if sign > 0.0 else -1
    factors.log_det[k] += math.log(h)  # |S'| = |S| (1 + sign c q)


@kernel
def _shift_moments(mean: Floats, scale: Floats, x: Floats, weight: float, t: float, vector: Floats) -> None:
    """Do m' = m + t v and S' = S + weight v vᵀ (lower triangle) with v = x - m, and leave sqrt|weight| v in vector."""
    D = mean.shape[0]
    for d in range(D):
        vector[d] = x[d] - mean[d]
    for d in range(D):
        mean[d] += t * vector[d]
        factor = weight * vector[d]
        row = scale[d]
        for e in range(d + 1):
            row[e] += factor * vector[e]
    root = math.sqrt(abs(weight))
    for d in range(D):
        vector[d] *= root


@kernel
def _refresh(k: int, X: Floats, z: Integers, factors: Factors, tables: Tables, block: _Block) -> bool:
    """Bring the Cholesky factor of class k up to date; False if S is singular even when summed up from the rows."""
    chol = factors.chol[k]
    changes = block.changes[k]
    block.changes[k] = 0
    done = changes < block.pending.shape[1]
    if done:
        for e in range(changes):
            done = done and rank_one(chol, block.pending[k, e], block.signs[k, e])
    if not done and not factorize(factors.scale[k], chol):
        # Rounding errors of many changes ate up the prior's scale.
        _sum_up(k, X, z, factors, tables)
        if not factorize(factors.scale[k], chol):
            return False
        factors.log_det[k] = 0.0
        for d in range(chol.shape[0]):
            factors.log_det[k] += 2.0 * math.log(chol[d, d])
    _invert_diagonal(chol, block.inverse_diagonal[k])
    return True


@kernel
def _sum_up(k: int, X: Floats, z: Integers, factors: Factors, tables: Tables) -> None:
    """Compute m and S of class k from its rows, adding them to the prior one by one (sums of positive terms alone)."""
    factors.mean[k] = tables.mean0
    factors.scale[k] = tables.scale0
    vector = np.empty(X.shape[1])
    r = tables.r0
    for i in range(X.shape[0]):
        if z[i] == k:
            _shift_moments(factors.mean[k], factors.scale[k], X[i], r / (r + 1.0), 1.0 / (r + 1.0), vector)
            r += 1.0
