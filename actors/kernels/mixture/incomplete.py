"""Rows in which some values are missing: densities of the observed columns, and what is expected of the others.

A class says of the observed columns o of a row what it says of the whole row, with the other columns m integrated out:
the marginal of its Gaussian or Student t has the blocks m_o and S_oo of mean and scale. Given o, the missing columns
have the mean m_m + S_mo S_oo⁻¹ (x_o - m_o) and a covariance that is proportional to S_mm - S_mo S_oo⁻¹ S_om.

Sources: R. J. A. Little and D. B. Rubin, "Statistical Analysis with Missing Data", 2002, section 11.2 (expected sums of
a Gaussian's incomplete rows); Z. Ghahramani and M. I. Jordan, "Supervised learning from incomplete data via an EM
approach", 1994 (of a mixture's). Marginals of a Student t: S. Kotz and S. Nadarajah, "Multivariate t Distributions and
Their Applications", 2004, section 1.10.

The columns that are observed in a row are its *pattern*. The matrices of a class and a pattern are made once for all
rows that have it, many of them at a time: observed blocks stand in matrices of full size, where the missing columns are
those of the identity. Matrices are divided by the deviations of their columns first, so that no unit matters.

Throughout, N is the number of rows, M that of incomplete ones, P the number of patterns, D that of columns, K that of
classes; a *pair* is an incomplete row and a class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from actors.kernels.mixture.niw import (
    MIN_DOWNDATE,
    NIWPosterior,
    NIWPrior,
    log_marginal_likelihood,
    log_predictive,
    log_predictive_loo,
    posterior_from_moments,
)
from actors.kernels.mixture.scatter import weighted_scatter
from actors.kernels.special import digamma, gammaln
from actors.kernels.types import Array, BoolArray, FloatArray, IntArray

BATCH = 1 << 21
"""Numbers in the matrices of the pairs that are computed together."""

MAX_ITERATIONS = 100
"""Iterations after which expected sums given the responsibilities are taken as they are."""

MIN_RISE = 1e-8
"""Nats a row: these iterations end when their objective rises by less."""


class Incomplete(NamedTuple):
    """The rows that have some values, but not all.

    Attributes
    ----------
    rows : ndarray of int64, shape (M,)
        Their numbers.
    pattern : ndarray of int64, shape (M,)
        The pattern of each.
    observed : ndarray of bool, shape (P, D)
        The columns that each pattern has.
    """

    rows: IntArray
    pattern: IntArray
    observed: BoolArray


class Pairs(NamedTuple):
    """Pairs of an incomplete row and a class, in groups of the same class and pattern, in the order of the classes.

    Attributes
    ----------
    row : ndarray of int64, shape (n,)
        Positions in the rows of :class:`Incomplete`.
    of_class : ndarray of int64, shape (n,)
    group : ndarray of int64, shape (n,)
        Does not decrease.
    observed : ndarray of bool, shape (G, D)
        The columns that the rows of each group have.
    group_class : ndarray of int64, shape (G,)
    """

    row: IntArray
    of_class: IntArray
    group: IntArray
    observed: BoolArray
    group_class: IntArray


class Conditionals(NamedTuple):
    """What classes say of the rows of pairs.

    Attributes
    ----------
    q : ndarray of float64, shape (n,)
        (x_o - m_o)ᵀ S_oo⁻¹ (x_o - m_o).
    log_det : ndarray of float64, shape (n,)
        log |S_oo|.
    values : ndarray of float64, shape (n, D)
        The row, with the conditional mean for what is missing.
    scatter : ndarray of float64, shape (K, D, D)
        Σ w (S_mm - S_mo S_oo⁻¹ S_om) over the pairs of each class, zero in observed columns.
    """

    q: FloatArray
    log_det: FloatArray
    values: FloatArray
    scatter: FloatArray


def find_incomplete(absent: BoolArray, missing: BoolArray) -> Incomplete | None:
    """Return the rows that have some values but not all, None if there are none.

    Parameters
    ----------
    absent : ndarray of bool, shape (N, D)
        True where a value is missing.
    missing : ndarray of bool, shape (N,)
        Rows that are missing as a whole.
    """
    rows = np.flatnonzero(absent.any(axis=1) & ~missing)
    if not len(rows):
        return None
    own = absent[rows]
    _, first, pattern = np.unique(np.packbits(own, axis=1), axis=0, return_index=True, return_inverse=True)
    return Incomplete(rows, pattern.reshape(-1).astype(np.int64), ~own[first])


def all_pairs(incomplete: Incomplete, classes: int) -> Pairs:
    """Return the pairs of all incomplete rows and all classes."""
    rows = len(incomplete.rows)
    return _group(incomplete, np.tile(np.arange(rows), classes), np.repeat(np.arange(classes), rows))


def pairs_of_labels(incomplete: Incomplete, labels: IntArray) -> Pairs:
    """Return the pairs of incomplete rows and their classes, by labels (N,) of which -1 is no class."""
    own = labels[incomplete.rows]
    rows = np.flatnonzero(own >= 0)
    return _group(incomplete, rows, own[rows])


def _group(incomplete: Incomplete, row: IntArray, of_class: IntArray) -> Pairs:
    patterns = len(incomplete.observed)
    keys = of_class * patterns + incomplete.pattern[row]
    order = np.argsort(keys, kind="stable")
    groups, group = np.unique(keys[order], return_inverse=True)
    observed = incomplete.observed[groups % patterns]
    return Pairs(row[order], of_class[order], group.reshape(-1), observed, groups // patterns)


def renumbered(incomplete: Incomplete | None, missing: BoolArray) -> Incomplete | None:
    """Return the incomplete rows, numbered among the rows that are not missing (N,)."""
    if incomplete is None:
        return None
    numbers: IntArray = np.cumsum(~missing) - 1
    return incomplete._replace(rows=numbers[incomplete.rows])


def with_column_means(X: FloatArray, seen: BoolArray) -> FloatArray:
    """Return rows (N, D) with the mean of the column in the place of missing values, which no result depends on."""
    counts = np.maximum(seen.sum(axis=0), 1)
    filled: FloatArray = np.where(seen, X, np.where(seen, X, 0.0).sum(axis=0) / counts)
    return filled


# --- classes and patterns -----------------------------------------------------------------------------------------


def conditionals(
    X: FloatArray,
    incomplete: Incomplete,
    pairs: Pairs,
    mean: FloatArray,
    scale: FloatArray,
    weights: FloatArray | None = None,
) -> Conditionals:
    """Return what classes say of the rows of pairs, from their observed columns.

    Parameters
    ----------
    X : ndarray of float64, shape (N, D)
        Rows; where values are missing, any finite numbers.
    incomplete : Incomplete
    pairs : Pairs
    mean, scale : ndarray of float64, shapes (K, D), (K, D, D)
        m and S.
    weights : ndarray of float64, shape (n,), optional
        Weights of the pairs in ``scatter``, which is zero without them.

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    n, (K, D) = len(pairs.row), mean.shape
    deviation = np.sqrt(np.diagonal(scale, axis1=1, axis2=2))
    correlation = scale / deviation[:, :, None] / deviation[:, None, :]
    q, log_det, values, scatter = np.empty(n), np.empty(n), np.empty((n, D)), np.zeros((K, D, D))
    for some in _batches(n, D):
        group = pairs.group[some]
        first, last = int(group[0]), int(group[-1]) + 1
        of_group, of_pair, local = pairs.group_class[first:last], pairs.of_class[some], group - group[0]
        observed = pairs.observed[first:last]
        inverse, own = _inverse_factors(correlation[of_group], observed)
        unit = deviation[of_group]
        log_det[some] = (own + 2.0 * np.where(observed, np.log(unit), 0.0).sum(axis=1))[local]
        seen, rows = observed[local], X[incomplete.rows[pairs.row[some]]]
        centred = np.where(seen, (rows - mean[of_pair]) / deviation[of_pair], 0.0)
        y = (inverse[local] @ centred[:, :, None])[:, :, 0]  # L⁻¹ (x_o - m_o)
        q[some] = np.square(y).sum(axis=1)
        # R = S_mo L⁻ᵀ, so that S_mo S_oo⁻¹ (x_o - m_o) = R y and S_mo S_oo⁻¹ S_om = R Rᵀ
        crossed = ~observed[:, :, None] & observed[:, None, :]
        regression = np.where(crossed, correlation[of_group], 0.0) @ inverse.transpose(0, 2, 1)
        filled = mean[of_pair] + deviation[of_pair] * (regression[local] @ y[:, :, None])[:, :, 0]
        values[some] = np.where(seen, rows, filled)
        if weights is not None:
            unobserved = ~observed[:, :, None] & ~observed[:, None, :]
            left = np.where(unobserved, correlation[of_group] - regression @ regression.transpose(0, 2, 1), 0.0)
            left *= np.bincount(local, weights[some])[:, None, None] * unit[:, :, None] * unit[:, None, :]
            starts = np.flatnonzero(np.diff(of_group, prepend=-1))
            scatter[of_group[starts]] += np.add.reduceat(left, starts)
    return Conditionals(q, log_det, values, scatter)


def _batches(pairs: int, dimensions: int) -> Iterator[slice]:
    size = max(1, BATCH // dimensions**2)
    return (slice(first, min(pairs, first + size)) for first in range(0, pairs, size))


def _inverse_factors(correlation: FloatArray, observed: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return L⁻¹ of the observed blocks of matrices (G, D, D), one elsewhere, and the blocks' log determinants."""
    block = observed[:, :, None] & observed[:, None, :]
    try:
        chol = np.linalg.cholesky(np.where(block, correlation, np.eye(observed.shape[1])))
    except np.linalg.LinAlgError as error:
        raise ValueError("a class's scale is not positive definite: the prior's scale is too small for data") from error
    log_det: FloatArray = 2.0 * np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
    return np.asarray(np.linalg.inv(chol)), log_det


def _by_row(incomplete: Incomplete, pairs: Pairs, values: FloatArray, classes: int) -> FloatArray:
    """Return values (n,) of all pairs as an array of rows and classes, (M, K)."""
    table = np.empty((len(incomplete.rows), classes))
    table[pairs.row, pairs.of_class] = values
    return table


def _column_counts(incomplete: Incomplete) -> FloatArray:
    """Return the number of observed columns of each incomplete row, as a column (M, 1)."""
    return np.asarray(incomplete.observed.sum(axis=1)[incomplete.pattern][:, None], dtype=np.float64)


def observed_distances(
    X: FloatArray, incomplete: Incomplete, mean: FloatArray, scale: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return squared distances and log |S_oo| of incomplete rows in all classes, (M, K) both.

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    pairs = all_pairs(incomplete, len(mean))
    found = conditionals(X, incomplete, pairs, mean, scale)
    return _by_row(incomplete, pairs, found.q, len(mean)), _by_row(incomplete, pairs, found.log_det, len(mean))


# --- densities ----------------------------------------------------------------------------------------------------


def _log_student_t(q: FloatArray, n: Array, log_det: FloatArray, columns: FloatArray, prior: NIWPrior) -> FloatArray:
    """Return the Student-t log density of d observed columns; the arguments broadcast.

    As `niw.log_student_t`, whose degrees of freedom ν - D + 1 the marginal keeps.
    """
    degrees, r = prior.nu0 + n - prior.mean.size + 1.0, prior.r0 + n
    constants = gammaln((degrees + columns) / 2.0) - gammaln(degrees / 2.0)
    constants = constants + columns / 2.0 * (np.log(r / (r + 1.0)) - math.log(math.pi))
    density: FloatArray = constants - 0.5 * log_det - 0.5 * (degrees + columns) * np.log1p(r / (r + 1.0) * q)
    return density


def log_predictive_observed(
    X: FloatArray, incomplete: Incomplete | None, posterior: NIWPosterior, prior: NIWPrior
) -> FloatArray:
    """Return the log predictive density of the observed columns of new rows under each class, (N, K).

    As :func:`actors.kernels.mixture.niw.log_predictive`, whose result it is where nothing is missing.

    Raises
    ------
    ValueError
        If the rows' shape doesn't fit.
    """
    density = log_predictive(X, posterior, prior)
    if incomplete is not None:
        q, log_det = observed_distances(X, incomplete, posterior.mean, posterior.scale)
        density[incomplete.rows] = _log_student_t(q, posterior.counts, log_det, _column_counts(incomplete), prior)
    return density


def log_predictive_loo_observed(
    X: FloatArray, labels: IntArray, incomplete: Incomplete | None, posterior: NIWPosterior, prior: NIWPrior
) -> FloatArray:
    """Return the leave-one-out log predictive density of the observed columns, (N, K), by labels (N,).

    A row adds (x_o - m_o)(x_o - m_o)ᵀ to the observed block of its class's scale, and nothing else: without it, block
    and distance are those of `niw.log_predictive_loo`, whose result this is where nothing is missing.

    Raises
    ------
    ValueError
        If shapes or labels don't fit.
    """
    density = log_predictive_loo(X, labels, posterior, prior)
    if incomplete is not None:
        own = labels[incomplete.rows][:, None] == np.arange(len(posterior.mean))
        density[incomplete.rows] = _loo_of_incomplete(X, own.astype(np.float64), incomplete, posterior, prior)
    return density


def _loo_of_incomplete(
    X: FloatArray, weights: FloatArray, incomplete: Incomplete, posterior: NIWPosterior, prior: NIWPrior
) -> FloatArray:
    """Return the log predictive densities (M, K) of incomplete rows without the weights (M, K) that they have.

    As `variational.soft_log_predictive_loo`, on the observed block.
    """
    q, log_det = observed_distances(X, incomplete, posterior.mean, posterior.scale)
    n = np.maximum(posterior.counts - weights, 0.0)
    c = (prior.r0 + posterior.counts) / (prior.r0 + n)
    left = np.maximum(1.0 - c * weights * q, MIN_DOWNDATE)
    return _log_student_t(c * c * q / left, n, log_det + np.log(left), _column_counts(incomplete), prior)


def soft_loo_observed(
    X: FloatArray,
    density: FloatArray,
    responsibilities: FloatArray,
    incomplete: Incomplete,
    posterior: NIWPosterior,
    prior: NIWPrior,
) -> FloatArray:
    """Return leave-one-out densities (N, K) of complete rows, `density`, with those of the incomplete ones.

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    own = responsibilities[incomplete.rows]
    density[incomplete.rows] = _loo_of_incomplete(X, own, incomplete, posterior, prior)
    return density


def log_density_observed(X: FloatArray, incomplete: Incomplete, means: FloatArray, chol: FloatArray) -> FloatArray:
    """Return log N of the observed columns of incomplete rows, (M, K), for classes of these means and factors of Σ.

    Raises
    ------
    ValueError
        If a covariance is not positive definite in float64.
    """
    q, log_det = observed_distances(X, incomplete, means, chol @ chol.transpose(0, 2, 1))
    density: FloatArray = -0.5 * (_column_counts(incomplete) * math.log(2.0 * math.pi) + log_det + q)
    return density


def draw_missing_values(
    X: FloatArray,
    labels: IntArray,
    incomplete: Incomplete,
    means: FloatArray,
    chol: FloatArray,
    generator: np.random.Generator,
) -> FloatArray:
    """Return rows (N, D) with missing values drawn given the observed ones and the class of the row.

    With noise e ~ N(0, Σ), e_m + E[x_m | x_o - e_o] has the conditional distribution (A. G. Journel and C. J.
    Huijbregts, "Mining Geostatistics", 1978, conditional simulation; also called Matheron's rule).

    Raises
    ------
    ValueError
        If a covariance is not positive definite in float64.
    """
    pairs = pairs_of_labels(incomplete, labels)
    rows, completed = incomplete.rows[pairs.row], X.copy()
    noise = np.empty((len(rows), means.shape[1]))
    normal = generator.standard_normal(noise.shape)
    for k in np.unique(pairs.of_class):
        own = pairs.of_class == k
        noise[own] = normal[own] @ chol[k].T
    shifted = X.copy()
    shifted[rows] -= noise
    found = conditionals(shifted, incomplete, pairs, means, chol @ chol.transpose(0, 2, 1))
    seen = pairs.observed[pairs.group]
    completed[rows] = np.where(seen, X[rows], found.values + noise)
    return completed


# --- expected sums ------------------------------------------------------------------------------------------------


def expected_log_density_observed(
    X: FloatArray, density: FloatArray, incomplete: Incomplete, posterior: NIWPosterior, prior: NIWPrior
) -> FloatArray:
    """Return E[log N] (N, K) of complete rows, `density`, with log ∫ exp E[log N(x | μ_k, Λ_k)] dx_m of the others.

    With E[Λ] = ν S⁻¹, the integrand is a Gaussian in the missing columns, of covariance (S_mm - S_mo S_oo⁻¹ S_om) / ν:

        1/2 (E[log |Λ|] - d_o log 2π - D / r - ν q_o - d_m log ν + log |S| - log |S_oo|).

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    D = prior.mean.size
    q, log_det = observed_distances(X, incomplete, posterior.mean, posterior.scale)
    r, nu, columns = prior.r0 + posterior.counts, prior.nu0 + posterior.counts, _column_counts(incomplete)
    # E[log |Λ|] + log |S|, see `variational.expected_log_density`
    log_precision = digamma((nu[:, None] - np.arange(D)) / 2.0).sum(axis=1) + D * math.log(2.0)
    constants = log_precision - D / r - (D - columns) * np.log(nu) - columns * math.log(2.0 * math.pi)
    density[incomplete.rows] = 0.5 * (constants - log_det - nu * q)
    return density


def posterior_expected(
    X: FloatArray,
    responsibilities: FloatArray,
    incomplete: Incomplete,
    pairs: Pairs,
    given: NIWPosterior,
    prior: NIWPrior,
) -> tuple[NIWPosterior, float]:
    """Return the posterior of all classes from what the posterior `given` expects of the missing values.

    A row counts with its conditional mean x̂ and covariance C = (S_mm - S_mo S_oo⁻¹ S_om) / ν under each class, in

        m = m0 + Σ_t w_tk (x̂_tk - m0) / r,   S = S0 + Σ_t w_tk [(x̂_tk - m)(x̂_tk - m)ᵀ + C_tk] + r0 (m - m0)(m - m0)ᵀ.

    Parameters
    ----------
    X : ndarray of float64, shape (N, D)
    responsibilities : ndarray of float64, shape (N, K)
        Zeros for rows in no class.
    incomplete : Incomplete
    pairs : Pairs
        All that have a weight.
    given : NIWPosterior
    prior : NIWPrior

    Returns
    -------
    posterior : NIWPosterior
    entropy : float
        Σ w H of the missing values' distributions, which the lower bound of the evidence contains.

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    K = len(given.mean)
    weights = responsibilities[incomplete.rows[pairs.row], pairs.of_class]
    nu = np.add(prior.nu0, given.counts, dtype=np.float64)
    found = conditionals(X, incomplete, pairs, given.mean, given.scale, weights)
    complete = responsibilities.copy()
    complete[incomplete.rows] = 0.0
    counts = responsibilities.sum(axis=0)
    offsets, expected = X - prior.mean, found.values - prior.mean
    first = complete.T @ offsets
    ends = np.searchsorted(pairs.of_class, np.arange(K + 1))
    for k in range(K):
        own = slice(ends[k], ends[k + 1])
        first[k] += weights[own] @ expected[own]
    shift = first / (prior.r0 + counts)[:, None]
    scale = prior.scale + prior.r0 * shift[:, :, None] * shift[:, None, :]
    scale += weighted_scatter(np.ascontiguousarray(offsets), np.ascontiguousarray(complete.T), shift)
    for k in range(K):
        own = slice(ends[k], ends[k + 1])
        centred = expected[own] - shift[k]
        scale[k] += (centred * weights[own, None]).T @ centred + found.scatter[k] / nu[k]
    scale = 0.5 * (scale + scale.transpose(0, 2, 1))
    return posterior_from_moments(counts, prior.mean + shift, scale), _entropy(pairs, weights, found, given, nu)


def _entropy(pairs: Pairs, weights: FloatArray, found: Conditionals, given: NIWPosterior, degrees: FloatArray) -> float:
    """Return Σ w H of the missing values' distributions N(x̂, (S_mm - S_mo S_oo⁻¹ S_om) / ν)."""
    # H = 1/2 (d_m (1 + log 2π - log ν) + log |S| - log |S_oo|)
    columns = given.mean.shape[1] - pairs.observed.sum(axis=1)[pairs.group]
    entropies = columns * (1.0 + math.log(2.0 * math.pi) - np.log(degrees[pairs.of_class]))
    entropies += given.log_det[pairs.of_class] - found.log_det
    return float(0.5 * weights @ entropies)


def incomplete_sums(
    X: FloatArray,
    responsibilities: FloatArray,
    incomplete: Incomplete,
    given: NIWPosterior,
    prior: NIWPrior,
    reference: FloatArray,
) -> dict[str, FloatArray]:
    """Return what incomplete rows add to the moments of the classes about their references, as statistics that add.

    They are the sums in `posterior_expected`, for rows that are divided into chunks.

    Parameters
    ----------
    X : ndarray of float64, shape (N, D)
        Where values are missing, any finite numbers.
    responsibilities : ndarray of float64, shape (N, K)
        Zeros for rows in no class.
    incomplete : Incomplete
    given : NIWPosterior
        By which the missing values are expected.
    prior : NIWPrior
        Its prior.
    reference : ndarray of float64, shape (K, D)
        c.

    Returns
    -------
    dict
        first (K, D) = Σ w (x̂ - c), second (K, D, D) = Σ w [(x̂ - c)(x̂ - c)ᵀ + C], and missing_entropy (1,) = Σ w H of
        the missing values.

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    K, D = given.mean.shape
    pairs = _group(incomplete, *np.nonzero(responsibilities[incomplete.rows]))
    weights, nu = (
        responsibilities[incomplete.rows[pairs.row], pairs.of_class],
        np.add(prior.nu0, given.counts, dtype=np.float64),
    )
    found = conditionals(X, incomplete, pairs, given.mean, given.scale, weights)
    first, second = np.zeros((K, D)), np.zeros((K, D, D))
    ends = np.searchsorted(pairs.of_class, np.arange(K + 1))
    for k in range(K):
        of_class = slice(ends[k], ends[k + 1])
        centred, weight = found.values[of_class] - reference[k], weights[of_class]
        first[k] = weight @ centred
        second[k] = (centred * weight[:, None]).T @ centred + found.scatter[k] / nu[k]
    entropy = _entropy(pairs, weights, found, given, nu)
    return {"first": first, "second": second, "missing_entropy": np.array([entropy])}


def posterior_given(
    X: FloatArray, responsibilities: FloatArray, incomplete: Incomplete, prior: NIWPrior, pairs: Pairs | None = None
) -> tuple[NIWPosterior, float]:
    """Return the posterior of all classes for fixed responsibilities, and the entropy of the missing values.

    `posterior_expected` is iterated until the lower bound of the evidence hardly rises, from classes whose columns are
    independent, with the means and variances of what is observed.

    Parameters
    ----------
    X : ndarray of float64, shape (N, D)
        Where values are missing, any finite numbers.
    responsibilities : ndarray of float64, shape (N, K)
        Zeros for rows in no class.
    incomplete : Incomplete
    prior : NIWPrior
    pairs : Pairs, optional
        Those that have a weight; all by default.

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    pairs = all_pairs(incomplete, responsibilities.shape[1]) if pairs is None else pairs
    _, posterior, entropy = _converged(X, responsibilities, incomplete, prior, pairs)
    return posterior, entropy


def _converged(
    X: FloatArray, responsibilities: FloatArray, incomplete: Incomplete, prior: NIWPrior, pairs: Pairs
) -> tuple[NIWPosterior, NIWPosterior, float]:
    """Return the posterior before the last iteration of `posterior_given`, that after it, and the entropy."""
    posterior, before = _independent_columns(X, responsibilities, incomplete, prior), -math.inf
    given, entropy = posterior, 0.0
    for _ in range(MAX_ITERATIONS):
        given = posterior
        posterior, entropy = posterior_expected(X, responsibilities, incomplete, pairs, given, prior)
        objective = float(log_marginal_likelihood(posterior, prior).sum()) + entropy
        if objective - before < MIN_RISE * len(X):
            break
        before = objective
    return given, posterior, entropy


def expected_by_labels(
    X: FloatArray, labels: IntArray, classes: int, incomplete: Incomplete, prior: NIWPrior
) -> tuple[FloatArray, FloatArray]:
    """Return rows (N, D) with what their classes expect of missing values, and Σ C of each class, (K, D, D).

    With them as the moments of the labelled rows the posterior is that of `posterior_given_labels`.

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    one_hot = (labels[:, None] == np.arange(classes)).astype(np.float64)
    pairs = pairs_of_labels(incomplete, labels)
    given, _, _ = _converged(X, one_hot, incomplete, prior, pairs)
    found = conditionals(X, incomplete, pairs, given.mean, given.scale, np.ones(len(pairs.row)))
    filled = X.copy()
    filled[incomplete.rows[pairs.row]] = found.values
    return filled, found.scatter / (np.add(prior.nu0, given.counts, dtype=np.float64))[:, None, None]


def posterior_given_labels(
    X: FloatArray, labels: IntArray, classes: int, incomplete: Incomplete, prior: NIWPrior
) -> NIWPosterior:
    """Return the posterior of all classes for labels (N,), of which -1 is no class; counts are integers.

    Raises
    ------
    ValueError
        If a class's scale is not positive definite in float64.
    """
    one_hot = (labels[:, None] == np.arange(classes)).astype(np.float64)
    posterior, _ = posterior_given(X, one_hot, incomplete, prior, pairs_of_labels(incomplete, labels))
    return posterior._replace(counts=np.bincount(labels[labels >= 0], minlength=classes).astype(np.int64))


def _independent_columns(
    X: FloatArray, responsibilities: FloatArray, incomplete: Incomplete, prior: NIWPrior
) -> NIWPosterior:
    """Return classes with the mean and the variance of the observed values of each column, without correlations."""
    seen = np.ones(X.shape, dtype=np.bool_)
    seen[incomplete.rows] = incomplete.observed[incomplete.pattern]
    offsets = np.where(seen, X - prior.mean, 0.0)
    counts = responsibilities.T @ seen.astype(np.float64)
    shift = responsibilities.T @ offsets / (prior.r0 + counts)
    squares = responsibilities.T @ np.square(offsets) - counts * shift**2
    total = responsibilities.sum(axis=0)
    # As if every row had the variance of those that are observed.
    share = total[:, None] / np.maximum(counts, 1.0)
    variances = np.diagonal(prior.scale) + np.maximum(squares, 0.0) * share + prior.r0 * shift**2
    scale = variances[:, :, None] * np.eye(prior.mean.size)
    return posterior_from_moments(total, prior.mean + shift, scale)


def fill_by_one_gaussian(X: FloatArray, missing: BoolArray, incomplete: Incomplete, prior: NIWPrior) -> FloatArray:
    """Return rows (N, D) whose missing values are those that a single Gaussian for all rows expects.

    Raises
    ------
    ValueError
        If the scale is not positive definite in float64.
    """
    posterior, _ = posterior_given(X, np.asarray(~missing, np.float64)[:, None], incomplete, prior)
    pairs = all_pairs(incomplete, 1)
    filled = X.copy()
    values = conditionals(X, incomplete, pairs, posterior.mean, posterior.scale).values
    filled[incomplete.rows[pairs.row]] = values
    return filled
