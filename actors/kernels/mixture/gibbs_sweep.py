"""One sweep of the collapsed Gibbs sampler: the compiled inner loop of `gibbs`.

The sweep draws exactly what row-by-row sampling draws, and saves time as follows:

- A row whose label stays changes nothing. Its own class is scored without it by the closed form of
  `niw.log_predictive_loo`, so only rows that change their label update the posterior.
- BLOCK_SIZE rows are solved for together, for all classes, before the first of them is drawn. With y_j = L⁻¹(x_j - m)
  the inner products G_jl = (x_j-m)ᵀ S⁻¹ (x_l-m) = y_jᵀ y_l are available when a row moves, and adding or removing it
  updates them, and so the distances of the later rows of the block, by a closed form (`_move_row`).
- Cholesky factors are updated once a block: by rank-one updates for few changes, from scratch for many.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.lanes import LANES, load, logarithm, spread, store
from actors.kernels.mixture.cholesky import factorize, rank_one_update
from actors.kernels.mixture.niw import (
    BLOCK_SIZE,
    MIN_DOWNDATE,
    NIWPosterior,
    NIWPrior,
    predictive_constants,
    solve_block,
)
from actors.kernels.types import BoolArray, FloatArray, IntArray

NEGLIGIBLE = -45.0
"""Scores this far below the maximum count as zero: e^-45 is 3e-20, and uniforms are multiples of 1e-16."""


class Tables(NamedTuple):
    """Tabulated terms and constants of a sweep; see `make_tables`.

    Attributes
    ----------
    constants : ndarray of float64, shape (N + 1,)
        `niw.predictive_constants` by count.
    log_weight : ndarray of float64, shape (N + 1,)
        log(n + alpha) by count; zeros if counts are not used. If empty classes share alpha, log n, with entry 0
        updated by the sweep.
    shared_alpha : float
        alpha if all empty classes share it in equal parts (:mod:`actors.kernels.mixture.crp`); else 0.
    r0, nu0, temperature : float
        As in the prior; the exponent of the likelihood.
    mean0, scale0 : ndarray of float64, shapes (D,), (D, D)
        The prior's, for a class that must be recomputed within the sweep.
    """

    constants: FloatArray
    log_weight: FloatArray
    shared_alpha: float
    r0: float
    nu0: float
    temperature: float
    mean0: FloatArray
    scale0: FloatArray


class _Block(NamedTuple):
    """Workspace for one block of rows; B is BLOCK_SIZE, R the number of changes applied by rank-one updates."""

    rows: IntArray  # (B,) row indices
    columns: FloatArray  # (D, B) the rows, transposed
    y: FloatArray  # (K, D, B) L⁻¹(x - m) with the posterior at the block's start
    q: FloatArray  # (K, B) squared distances, kept up to date
    log_t: FloatArray  # (K, B) log predictive densities, kept up to date
    inverse_diagonal: FloatArray  # (K, D)
    changes: IntArray  # (K,) number of changes of the class within the block
    inner: FloatArray  # (K, B, B) per change: inner products of all rows with the one that moved
    effect: FloatArray  # (K, B, 3) per change: coefficients A, B, C of `_move_row`
    pending: FloatArray  # (K, R + 1, D) the first R changes of S as vectors, and scratch
    signs: FloatArray  # (K, R + 1)
    scores: FloatArray  # (K,)


def make_tables(
    prior: NIWPrior,
    rows: int,
    alpha: float = 1.0,
    use_counts: bool = True,
    temperature: float = 1.0,
    share_alpha: bool = False,
) -> Tables:
    """Tabulate the terms that depend on a class's count alone, for counts up to the number of rows.

    With `share_alpha`, alpha is the concentration of a Chinese restaurant process: it is shared by the empty classes,
    and occupied ones don't have it, whether or not counts are used.

    Raises
    ------
    ValueError
        If alpha is used and not positive: a row could be left without any possible class.
    """
    if (use_counts or share_alpha) and not alpha > 0.0:
        raise ValueError(f"alpha must be positive where counts are used, but is {alpha}")
    counts = np.arange(rows + 1, dtype=np.float64)
    if share_alpha:
        counts[0] = alpha
    weight = np.log(counts if share_alpha else counts + alpha) if use_counts else np.zeros(rows + 1)
    constants = predictive_constants(prior, rows)
    shared = float(alpha) if share_alpha else 0.0
    return Tables(constants, weight, shared, prior.r0, prior.nu0, float(temperature), prior.mean, prior.scale)


@kernel
def sweep(
    X: FloatArray,
    log_bias: FloatArray,
    z: IntArray,
    uniforms: FloatArray,
    mask: BoolArray,
    posterior: NIWPosterior,
    tables: Tables,
) -> int:
    """Sample the label of each row that is not missing, in order.

    Parameters
    ----------
    X, log_bias : ndarray of float64, shapes (N, D), (N, K)
        Rows; terms added to their scores.
    z : ndarray of int64, shape (N,)
        Labels, changed in place. They must be those of the posterior.
    uniforms : ndarray of float64, shape (N,)
        In [0, 1); row i is drawn with uniforms[i] by inversion.
    mask : ndarray of bool, shape (N,)
        True for missing rows, which are skipped.
    posterior : NIWPosterior
        Changed in place.
    tables : Tables
        For at least as many rows as X has.

    Returns
    -------
    int
        How many labels changed; -1 - k if the scale of class k got singular (labels and posterior are then invalid).
    """
    N, D = X.shape
    K = posterior.counts.shape[0]
    block = _new_block(K, D)
    for k in range(K):
        _invert_diagonal(posterior.chol[k], block.inverse_diagonal[k])
    moved = 0
    i = 0
    while i < N:
        size = 0
        while i < N and size < BLOCK_SIZE:
            if not mask[i]:
                block.rows[size] = i
                size += 1
            i += 1
        _solve_rows(X, size, posterior, block)
        for k in range(K):
            _update_densities(k, posterior, tables, block)
        for j in range(size):
            row = block.rows[j]
            old = z[row]
            if tables.shared_alpha > 0.0:
                divide_shared_alpha(old, posterior.counts, tables)
            _score_row(j, old, log_bias[row], posterior, tables, block)
            new = draw_label(block.scores, uniforms[row])
            if new != old:
                if old >= 0:
                    _move_row(old, j, -1.0, posterior, tables, block)
                _move_row(new, j, 1.0, posterior, tables, block)
                z[row] = new
                moved += 1
        for k in range(K):
            if block.changes[k] > 0 and not _update_cholesky(k, X, z, posterior, tables, block):
                return -1 - k
    return moved


@kernel
def _new_block(K: int, D: int) -> _Block:
    """Allocate the workspace. A rank-one update costs about 2 D² operations and a factorisation D³/3, hence R = D/6."""
    R = max(1, D // 6)
    return _Block(
        np.zeros(BLOCK_SIZE, dtype=np.int64),
        np.zeros((D, BLOCK_SIZE)),
        np.empty((K, D, BLOCK_SIZE)),
        np.empty((K, BLOCK_SIZE)),
        np.empty((K, BLOCK_SIZE)),
        np.empty((K, D)),
        np.zeros(K, dtype=np.int64),
        np.empty((K, BLOCK_SIZE, BLOCK_SIZE)),
        np.empty((K, BLOCK_SIZE, 3)),
        np.empty((K, R + 1, D)),
        np.empty((K, R + 1)),
        np.empty(K),
    )


@kernel
def _invert_diagonal(chol: FloatArray, inverse: FloatArray) -> None:
    """Store the reciprocals of the diagonal: a division takes longer than ten multiplications."""
    for d in range(inverse.shape[0]):
        inverse[d] = 1.0 / chol[d, d]


@kernel
def _solve_rows(X: FloatArray, size: int, posterior: NIWPosterior, block: _Block) -> None:
    """Fill in y and q for the block's rows and all classes; lanes from `size` on hold stale but finite rows."""
    K, D, _ = block.y.shape
    for j in range(size):
        row = block.rows[j]
        for d in range(D):
            block.columns[d, j] = X[row, d]
    for k in range(K):
        inverse, mean = block.inverse_diagonal[k], posterior.mean[k]
        solve_block(posterior.chol[k], inverse, mean, block.columns, block.y[k], block.q[k])


@kernel
def _update_densities(k: int, posterior: NIWPosterior, tables: Tables, block: _Block) -> None:
    """Fill in the log predictive densities of the block's rows in class k.

    log t = constants(n) - 1/2 log|S| - (nu+1)/2 log(1 + r/(r+1) q)                                       (Murphy 258)
    """
    n = posterior.counts[k]
    r = tables.r0 + n
    ratio, constant, log_det = spread(r / (r + 1.0)), spread(tables.constants[n]), spread(posterior.log_det[k])
    for j in range(k * BLOCK_SIZE, (k + 1) * BLOCK_SIZE, LANES):
        logs = spread(tables.nu0 + n + 1.0) * logarithm(spread(1.0) + ratio * load(block.q, j))
        store(block.log_t, j, constant - spread(0.5) * (log_det + logs))


@kernel
def divide_shared_alpha(own: int, counts: IntArray | FloatArray, tables: Tables) -> None:
    """Divide the shared alpha among the classes that are empty once a row is left out of its own."""
    empty = 0
    for k in range(counts.shape[0]):
        if counts[k] == 0 or (k == own and counts[k] == 1):
            empty += 1
    if empty > 0:
        tables.log_weight[0] = math.log(tables.shared_alpha / empty)


@kernel
def _score_row(j: int, own: int, bias: FloatArray, posterior: NIWPosterior, tables: Tables, block: _Block) -> None:
    """Score the block's row j for every class, left out of its own."""
    for k in range(bias.shape[0]):
        n, log_t = posterior.counts[k], block.log_t[k, j]
        if k == own:
            # Without the row: q' = c² q / (1 - c q), |S'| = |S| (1 - c q), c = r / (r - 1); then as `_update_densities`
            r, q = tables.r0 + n, block.q[k, j]
            c = r / (r - 1.0)
            left = max(1.0 - c * q, MIN_DOWNDATE)
            q, log_det, r = c * c * q / left, posterior.log_det[k] + math.log(left), r - 1.0
            n -= 1
            log_t = tables.constants[n] - 0.5 * (log_det + (tables.nu0 + n + 1.0) * math.log(1.0 + r / (r + 1.0) * q))
        block.scores[k] = tables.temperature * log_t + bias[k] + tables.log_weight[n]


@kernel
def draw_label(scores: FloatArray, uniform: float) -> int:
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
    return last  # if rounding leaves target at the total, the last possible class


@kernel
def _move_row(k: int, j: int, sign: float, posterior: NIWPosterior, tables: Tables, block: _Block) -> None:
    """Add the block's row j to class k (sign 1) or remove it (sign -1): count, m, S, log|S|, and the others' distances.

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
    for e in range(change):  # the effect of earlier changes within the block on G
        A, B, C, own = effect[e, 0], effect[e, 1], effect[e, 2], inner[e, j]
        for i in range(width):
            g[i] += C - A * own * inner[e, i] - B * (own + inner[e, i])
    r = tables.r0 + posterior.counts[k]
    c, t = r / (r + sign), sign / (r + sign)
    h = max(1.0 + sign * c * g[j], MIN_DOWNDATE)
    A, B, C = sign * c / h, t / h, t * t * g[j] / h
    effect[change, 0], effect[change, 1], effect[change, 2] = A, B, C
    for i in range(width):
        q[i] += C - A * g[i] * g[i] - 2.0 * B * g[i]
        q[i] = max(q[i], 0.0)
    # The last slot of `pending` is scratch: it is only written when S will be factorised from scratch anyway.
    slot = min(change, block.pending.shape[1] - 1)
    block.signs[k, slot] = sign
    _update_moments(posterior.mean[k], posterior.scale[k], block.columns[:, j], sign * c, t, block.pending[k, slot])
    posterior.counts[k] += 1 if sign > 0.0 else -1
    posterior.log_det[k] += math.log(h)  # |S'| = |S| (1 + sign c q)
    _update_densities(k, posterior, tables, block)


@kernel
def _update_moments(
    mean: FloatArray, scale: FloatArray, x: FloatArray, weight: float, t: float, vector: FloatArray
) -> None:
    """Set m' = m + t v and S' = S + weight v vᵀ (lower triangle) with v = x - m; write sqrt|weight| v to vector."""
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
def _update_cholesky(
    k: int, X: FloatArray, z: IntArray, posterior: NIWPosterior, tables: Tables, block: _Block
) -> bool:
    """Update the Cholesky factor of class k; return False if S is singular even when recomputed from the rows."""
    chol = posterior.chol[k]
    changes = block.changes[k]
    block.changes[k] = 0
    done = changes < block.pending.shape[1]
    if done:
        for e in range(changes):
            done = done and rank_one_update(chol, block.pending[k, e], block.signs[k, e])
    if not done and not factorize(posterior.scale[k], chol):
        # The rounding errors of many changes exceeded the prior's scale.
        recompute_moments(k, X, z, posterior, tables)
        if not factorize(posterior.scale[k], chol):
            return False
        posterior.log_det[k] = 0.0
        for d in range(chol.shape[0]):
            posterior.log_det[k] += 2.0 * math.log(chol[d, d])
    _invert_diagonal(chol, block.inverse_diagonal[k])
    return True


@kernel
def recompute_moments(k: int, X: FloatArray, z: IntArray, posterior: NIWPosterior, tables: Tables) -> None:
    """Compute m and S of class k from the prior and its rows, one by one (only non-negative terms are added to S)."""
    posterior.mean[k] = tables.mean0
    posterior.scale[k] = tables.scale0
    vector = np.empty(X.shape[1])
    r = tables.r0
    for i in range(X.shape[0]):
        if z[i] == k:
            _update_moments(posterior.mean[k], posterior.scale[k], X[i], r / (r + 1.0), 1.0 / (r + 1.0), vector)
            r += 1.0
