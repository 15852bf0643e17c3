"""One sweep of the collapsed Gibbs sampler over the rows in which some values are missing (compiled).

Each row, left out of its class, gets a label and missing values from their joint distribution given all other rows and
what is drawn for these: first the label, with the missing values integrated out,

    exp(log_bias_k) · StudentT(x_o | the other rows of k)^temperature · weight_k,

then the missing values from the Student t of its class given the observed ones. With d = |o|, f = ν - D + 1 and
q = (x_o - m_o)ᵀ S_oo⁻¹ (x_o - m_o), the marginal has f degrees of freedom, and the conditional f + d, the mean
m_m + S_mo S_oo⁻¹ (x_o - m_o) and the scale (1 + r/(r+1) q) (r+1)/r / (f + d) · (S_mm - S_mo S_oo⁻¹ S_om) (S. Kotz and
S. Nadarajah, "Multivariate t Distributions and Their Applications", 2004, sections 1.10 and 1.11). Drawing missing
values makes the rows complete (M. A. Tanner and W. H. Wong, "The calculation of posterior distributions by data
augmentation", 1987), so that :mod:`actors.kernels.mixture.gibbs_sweep` can sample the others.
"""

from __future__ import annotations

import math

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.mixture.cholesky import factorize
from actors.kernels.mixture.gibbs_sweep import Tables, divide_shared_alpha, draw_label, recompute_moments
from actors.kernels.mixture.niw import NIWPosterior
from actors.kernels.types import BoolArray, FloatArray, IntArray


@kernel
def sweep_incomplete(
    X: FloatArray,
    rows: IntArray,
    absent: BoolArray,
    log_bias: FloatArray,
    z: IntArray,
    generator: np.random.Generator,
    posterior: NIWPosterior,
    tables: Tables,
) -> int:
    """Draw label and missing values of each incomplete row, in order.

    Parameters
    ----------
    X : ndarray of float64, shape (N, D)
        Rows; missing values are changed in place. Of a row that has a label, they must be those of the posterior.
    rows : ndarray of int64, shape (M,)
        The incomplete rows.
    absent : ndarray of bool, shape (M, D)
        True where a value of theirs is missing; at least one is not.
    log_bias : ndarray of float64, shape (N, K)
        Added to the scores.
    z : ndarray of int64, shape (N,)
        Labels, changed in place. They must be those of the posterior.
    generator : numpy.random.Generator
    posterior : NIWPosterior
        Counts, means and the lower triangles of the scales are changed in place; the others are then invalid.
    tables : Tables
        For at least as many rows as X has.

    Returns
    -------
    int
        How many labels changed; -1 - k if the scale of class k got singular.
    """
    K, D = posterior.mean.shape
    order, block, chol = np.empty(D, np.int64), np.empty((D, D)), np.empty((D, D))
    y, drawn, scores = np.empty(D), np.empty(D), np.empty(K)
    moved = 0
    for j in range(rows.shape[0]):
        i = rows[j]
        seen = _order_columns(absent[j], order)
        old = z[i]
        if old >= 0:
            _change_class(old, X[i], -1.0, posterior, tables)
            z[i] = -1
        if tables.shared_alpha > 0.0:
            divide_shared_alpha(-1, posterior.counts, tables)
        for k in range(K):
            q = _solve(k, X[i], order, seen, seen, block, chol, y, posterior)
            if q < 0.0:
                recompute_moments(k, X, z, posterior, tables)
                q = _solve(k, X[i], order, seen, seen, block, chol, y, posterior)
                if q < 0.0:
                    return -1 - k
            scores[k] = (
                tables.temperature * _log_student_t(posterior.counts[k], q, seen, D, chol, tables)
                + log_bias[i, k]
                + tables.log_weight[posterior.counts[k]]
            )
        new = draw_label(scores, generator.random())
        q = _solve(new, X[i], order, seen, D, block, chol, y, posterior)
        if q < 0.0:
            recompute_moments(new, X, z, posterior, tables)
            q = _solve(new, X[i], order, seen, D, block, chol, y, posterior)
            if q < 0.0:
                return -1 - new
        r = tables.r0 + posterior.counts[new]
        degrees = tables.nu0 + posterior.counts[new] - D + 1.0 + seen
        width = math.sqrt((1.0 + r / (r + 1.0) * q) * (r + 1.0) / r / (2.0 * generator.standard_gamma(degrees / 2.0)))
        for e in range(seen, D):
            drawn[e] = width * generator.standard_normal()
        for e in range(seen, D):
            value = posterior.mean[new, order[e]]
            for d in range(seen):
                value += chol[e, d] * y[d]
            for d in range(seen, e + 1):
                value += chol[e, d] * drawn[d]
            X[i, order[e]] = value
        _change_class(new, X[i], 1.0, posterior, tables)
        z[i] = new
        moved += 1 if new != old else 0
    return moved


@kernel
def _order_columns(absent: BoolArray, order: IntArray) -> int:
    """Store the observed columns, then the missing ones; return the number of the former."""
    seen = 0
    for d in range(absent.shape[0]):
        if not absent[d]:
            order[seen] = d
            seen += 1
    at = seen
    for d in range(absent.shape[0]):
        if absent[d]:
            order[at] = d
            at += 1
    return seen


@kernel
def _solve(
    k: int,
    x: FloatArray,
    order: IntArray,
    seen: int,
    size: int,
    block: FloatArray,
    chol: FloatArray,
    y: FloatArray,
    posterior: NIWPosterior,
) -> float:
    """Factorise the first `size` ordered columns of S; store y = L⁻¹ (x_o - m_o) and return its square, or -1.

    -1 says that S is singular.
    """
    for a in range(size):
        for b in range(a + 1):
            low, high = min(order[a], order[b]), max(order[a], order[b])
            block[a, b] = posterior.scale[k, high, low]
    if not factorize(block[:size, :size], chol[:size, :size]):
        return -1.0
    q = 0.0
    for a in range(seen):
        value = x[order[a]] - posterior.mean[k, order[a]]
        for b in range(a):
            value -= chol[a, b] * y[b]
        y[a] = value / chol[a, a]
        q += y[a] * y[a]
    return q


@kernel
def _log_student_t(n: int, q: float, seen: int, D: int, chol: FloatArray, tables: Tables) -> float:
    """Return the log density of the observed columns, whose factor of S is in the first rows of `chol`."""
    degrees, r = tables.nu0 + n - D + 1.0, tables.r0 + n
    log_det = 0.0
    for d in range(seen):
        log_det += 2.0 * math.log(chol[d, d])
    constant = math.lgamma((degrees + seen) / 2.0) - math.lgamma(degrees / 2.0)
    constant += seen / 2.0 * (math.log(r / (r + 1.0)) - math.log(math.pi))
    return constant - 0.5 * log_det - 0.5 * (degrees + seen) * math.log(1.0 + r / (r + 1.0) * q)


@kernel
def _change_class(k: int, x: FloatArray, sign: float, posterior: NIWPosterior, tables: Tables) -> None:
    """Add a row to class k (sign 1) or remove it (sign -1): count, m, and the lower triangle of S.

    With v = x - m: S' = S + sign r/(r+sign) v vᵀ, m' = m + sign/(r+sign) v.
    """
    D = x.shape[0]
    mean, scale = posterior.mean[k], posterior.scale[k]
    r = tables.r0 + posterior.counts[k]
    weight, t = sign * r / (r + sign), sign / (r + sign)
    for d in range(D):
        factor = weight * (x[d] - mean[d])
        for e in range(d + 1):
            scale[d, e] += factor * (x[e] - mean[e])
    for d in range(D):
        mean[d] += t * (x[d] - mean[d])
    posterior.counts[k] += 1 if sign > 0.0 else -1
