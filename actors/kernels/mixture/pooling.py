"""Gaussian classes of several data sets that cannot be brought together: the sums over rows behind learnt classes.

The posterior of a class is its prior and the sums over its rows, so that these follow from posterior and prior. Those
of several data sets add, and with them the moments of all rows, from which units and prior of all rows follow. Rows of
different data sets may have been converted to other internal rows (:mod:`actors.kernels.mixture.columns`); sums are
converted too.

Source: K. P. Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, eqs. 250 to 254; shifting the
origin of second moments: T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance:
analysis and recommendations", 1983. The divergence of two Gaussians: S. Kullback, "Information theory and statistics",
1959, section 9.1.

The sums are a dict of float64 arrays. D is the number of columns, K that of the classes:

============ ==========================================================================================================
``counts``   (K,), n = Σ_t r_tk.
``points``   (K, D), a point c near each class.
``first``    (K, D), Σ_t r_tk (x_t - c).
``second``   (K, D, D), Σ_t r_tk (x_t - c)(x_t - c)ᵀ.
``varies``   (D,), 1 for columns that vary.
``centre``   (D,), subtracted from each column, ...
``exponent`` (D,), ... which is then divided by 2^exponent. A column that does not vary has the value of its centre.
============ ==========================================================================================================
"""

from __future__ import annotations

import numpy as np

from actors.kernels.mixture.columns import (
    ORDINARY_EXPONENT,
    Columns,
    columns_from_deviations,
    columns_that_vary,
    identity,
)
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior
from actors.kernels.mixture.sums import Sums, posterior_from_sums
from actors.kernels.types import BoolArray, FloatArray

MIN_ROWS = 0.5
"""Rows below which a class counts as empty: responsibilities leave traces of rows in every class."""


def sums_of_posterior(posterior: NIWPosterior, prior: NIWPrior, columns: Columns) -> dict[str, FloatArray]:
    """Return the sums over the rows that a posterior was made from; both refer to the internal rows of `columns`.

    With m the posterior mean, m0 and S0 of the prior, and r0 its count: first = r0 (m - m0) and second = S - S0 -
    r0 (m - m0)(m - m0)ᵀ, about m. Digits cancel only where a class has no more weight than the prior.
    """
    K, D, kept = posterior.counts.size, columns.kept.size, columns.kept
    offset = posterior.mean - prior.mean
    second = posterior.scale - prior.scale - prior.r0 * offset[:, :, None] * offset[:, None, :]
    inside = np.ix_(np.arange(K), kept, kept)
    sums = {name: np.zeros(shape) for name, shape in (("points", (K, D)), ("first", (K, D)), ("second", (K, D, D)))}
    sums["points"][:, kept], sums["first"][:, kept] = posterior.mean, prior.r0 * offset
    sums["second"][inside] = 0.5 * (second + second.transpose(0, 2, 1))
    return {
        "counts": posterior.counts.astype(np.float64),
        **sums,
        "varies": kept.astype(np.float64),
        "centre": columns.centre.copy(),
        "exponent": columns.exponent.astype(np.float64),
    }


def pool(left: Sums, right: Sums) -> dict[str, FloatArray]:
    """Return the sums over the rows of two data sets, whose classes have the same numbers."""
    centre, exponent, varies = _common_units(left, right)
    left, right = (_converted(each, centre, exponent) for each in (left, right))
    counts = left["counts"] + right["counts"]
    total = counts[:, None]
    near = left["counts"][:, None] * _means(left) + right["counts"][:, None] * _means(right)
    points = np.divide(near, total, out=left["points"].copy(), where=total > 0.0)
    left, right = _about(left, points), _about(right, points)
    return {
        "counts": counts,
        "points": points,
        "first": left["first"] + right["first"],
        "second": left["second"] + right["second"],
        "varies": varies.astype(np.float64),
        "centre": centre,
        "exponent": exponent,
    }


def renumbered(sums: Sums, classes: np.ndarray) -> dict[str, FloatArray]:
    """Return the sums with class `classes[k]` as class k."""
    by_class = ("counts", "points", "first", "second")
    return {name: value[classes] if name in by_class else value for name, value in sums.items()}


def pooled_columns(sums: Sums) -> Columns:
    """Return the units of all rows, as :func:`actors.kernels.mixture.columns.choose_columns` chooses them."""
    varies, centre, unit = sums["varies"] > 0.0, sums["centre"], sums["exponent"].astype(np.int64)
    if not varies.any():
        return identity(len(varies))
    mean, variance = _moments(sums)
    mean = np.ldexp(centre, -unit) + mean
    return columns_from_deviations(varies, centre, mean, np.sqrt(variance), unit)


def internal_sums(sums: Sums, columns: Columns) -> tuple[dict[str, FloatArray], FloatArray, FloatArray]:
    """Return the sums over internal rows, and the mean and the variance (D',) of all internal rows."""
    given = _converted(sums, columns.centre, columns.exponent.astype(np.float64))
    mean, variance = _moments(given)
    kept = columns.kept
    inside = {
        "counts": given["counts"],
        "points": given["points"][:, kept],
        "first": given["first"][:, kept],
        "second": np.ascontiguousarray(given["second"][:, kept][:, :, kept]),
    }
    return inside, mean[kept], variance[kept]


def pooled_posterior(inside: Sums, prior: NIWPrior) -> NIWPosterior:
    """Return the posterior of the classes given sums over internal rows (:func:`internal_sums`).

    Raises
    ------
    ValueError
        If a scale is not positive definite in float64.
    """
    return posterior_from_sums(inside, inside["points"], prior)


def class_distances(left: Sums, right: Sums) -> FloatArray:
    """Return how far apart classes of two data sets are, (K, K), in standard deviations; inf for one without rows.

    The distance is the root of twice the symmetrised Kullback-Leibler divergence J of the two Gaussians, which is the
    Mahalanobis distance of their means where they have the same covariance: J = ¼ [tr(Σ_b⁻¹ Σ_a) + tr(Σ_a⁻¹ Σ_b) - 2D +
    δᵀ (Σ_a⁻¹ + Σ_b⁻¹) δ]. Their covariances are expected ones under a prior from all rows, so that a class of few rows
    has one. The distance does not depend on the units of the columns.
    """
    both = pool(left, right)
    columns = pooled_columns(both)
    _, mean, variance = internal_sums(both, columns)
    D, K = mean.size, len(both["counts"])
    variance = np.where(variance > 0.0, variance, 1.0)
    prior = NIWPrior(mean, 1.0, D + 2.0, variance * K ** (-2.0 / D))
    (m_a, cov_a), (m_b, cov_b) = (_expected_gaussians(each, columns, prior) for each in (left, right))
    precision_a, precision_b = np.linalg.inv(cov_a), np.linalg.inv(cov_b)
    delta = m_a[:, None] - m_b[None]
    traces = np.einsum("aij,bji->ab", cov_a, precision_b) + np.einsum("aij,bji->ab", precision_a, cov_b)
    squared = np.einsum("abi,aij,abj->ab", delta, precision_a, delta, optimize=True)
    squared += np.einsum("abi,bij,abj->ab", delta, precision_b, delta, optimize=True)
    distances: FloatArray = np.sqrt(np.maximum(0.5 * (traces - 2.0 * D + squared), 0.0))
    distances[left["counts"] < MIN_ROWS] = np.inf
    distances[:, right["counts"] < MIN_ROWS] = np.inf
    return distances


def _expected_gaussians(sums: Sums, columns: Columns, prior: NIWPrior) -> tuple[FloatArray, FloatArray]:
    """Return means (K, D) and expected covariances (K, D, D) of the classes."""
    inside, _, _ = internal_sums(sums, columns)
    posterior = pooled_posterior(inside, prior)
    degrees = prior.nu0 + posterior.counts
    return posterior.mean, posterior.scale / (degrees - prior.mean.size - 1.0)[:, None, None]


def _common_units(left: Sums, right: Sums) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return centre and exponent (D,) for the rows of both, and which columns vary in all rows."""
    in_left, in_right = left["varies"] > 0.0, right["varies"] > 0.0
    low, high = (f(left["centre"], right["centre"]) for f in (np.minimum, np.maximum))
    differ = ~in_left & ~in_right & columns_that_vary(low, high, np.float64)
    _, magnitude = np.frexp(high / 2.0 - low / 2.0)
    magnitude = magnitude + 1
    of_differing = np.where(np.abs(magnitude) <= ORDINARY_EXPONENT, 0.0, magnitude)
    constant = np.where(differ, of_differing, 0.0)
    exponent = np.where(in_left, left["exponent"], np.where(in_right, right["exponent"], constant))
    centre = np.where(in_left | ~in_right, left["centre"], right["centre"])
    return centre, exponent, in_left | in_right | differ


def _converted(sums: Sums, centre: FloatArray, exponent: FloatArray) -> dict[str, FloatArray]:
    """Return the sums of rows from which `centre` is subtracted and that are divided by 2^`exponent`, both (D,)."""
    unit, own = exponent.astype(np.int64), sums["exponent"].astype(np.int64)
    factor = np.ldexp(1.0, own - unit)
    shift = np.ldexp(sums["centre"], -unit) - np.ldexp(centre, -unit)
    return {
        **sums,
        "points": sums["points"] * factor + shift,
        "first": sums["first"] * factor,
        "second": sums["second"] * factor[:, None] * factor,
        "centre": centre,
        "exponent": exponent,
    }


def _means(sums: Sums) -> FloatArray:
    """Return the mean (K, D) of each class's rows; its point where it has none."""
    n = sums["counts"][:, None]
    offset = np.divide(sums["first"], n, out=np.zeros_like(sums["first"]), where=n > 0.0)
    means: FloatArray = sums["points"] + offset
    return means


def _about(sums: Sums, points: FloatArray) -> dict[str, FloatArray]:
    """Return the sums about other points (K, D)."""
    # Σ r (x - c')(x - c')ᵀ = Σ r (x - c)(x - c)ᵀ + first dᵀ + d firstᵀ + n d dᵀ, with d = c - c'
    d, n, first = sums["points"] - points, sums["counts"], sums["first"]
    cross = first[:, :, None] * d[:, None, :]
    moved = n[:, None, None] * d[:, :, None] * d[:, None, :]
    second = sums["second"] + cross + cross.transpose(0, 2, 1) + moved
    return {**sums, "points": points, "first": first + n[:, None] * d, "second": second}


def _moments(sums: Sums) -> tuple[FloatArray, FloatArray]:
    """Return the mean and the variance (D,) of the rows of all classes."""
    total = sums["counts"].sum()
    mean = sums["counts"] @ _means(sums) / total
    about = _about(sums, np.tile(mean, (len(sums["counts"]), 1)))
    variance = np.einsum("kii->i", about["second"]) / total
    return mean, np.maximum(variance, 0.0)  # negative by rounding only
