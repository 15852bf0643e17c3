"""Autoregressions of rows that lack some of their values, which are latent variables.

A missing value is in the density of its own row and of the L rows that follow from it, so that all missing values of a
sequence depend on each other. Given responsibilities r and classes, their distribution is one Gaussian: with
y_t = (x_t, …, x_{t-L}, 1) the expected log density of a row is -½ y_tᵀ W_k y_t and a constant,

    W_k = ν [I, -M]ᵀ S⁻¹ [I, -M] + D · diag(0, P⁻¹)

under the posterior of :mod:`actors.kernels.mixture.autoregression`, and [I, -A]ᵀ Σ⁻¹ [I, -A] for drawn parameters. The
precision of the missing values is the sum of r_tk W_k over rows and classes, at their places in y_t. Its entries lie in
a band, as values more than L rows apart are in no row's density together. A Cholesky factor of the band gives the mean,
the entropy and draws, and Takahashi's recursions the covariances within the band, which are all that the classes need.

With one class this is the exact posterior given the parameters. With several, variational Bayes assumes that classes
and missing values of all rows are independent, q(z) q(x); each of its updates is in closed form. Gibbs sampling draws
all missing values at once.

Source: H. Rue and L. Held, "Gaussian Markov Random Fields", 2005, sections 2.4 and 2.5 (band Cholesky, sampling) and
K. Takahashi, J. Fagan and M.-S. Chin, "Formation of a sparse bus impedance matrix", 1973, for the covariances; C. M.
Bishop, "Pattern Recognition and Machine Learning", 2006, section 10.1, for factorised distributions.

Throughout, N is the number of rows, D their dimension, K the number of classes, E = D (L + 1) + 1 the length of y, n
the number of missing values.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import as_input, kernel
from actors.kernels.mixture.autoregression import (
    Classes,
    DrawnClasses,
    MNIWPrior,
    Prior,
    Series,
    classes_from,
    draw_parameters,
    expected_log_density,
    log_marginal_likelihood,
    log_predictive,
    log_predictive_loo,
    series,
)
from actors.kernels.mixture.cholesky import factorize
from actors.kernels.mixture.incomplete import MAX_ITERATIONS, MIN_RISE
from actors.kernels.mixture.niw import MIN_DOWNDATE, NIWPrior
from actors.kernels.mixture.variational import one_hot_responsibilities
from actors.kernels.types import BoolArray, FloatArray, IntArray


class Gaps(NamedTuple):
    """Where rows lack some of their values, in the order of rows and columns.

    Attributes
    ----------
    rows, columns : ndarray of int64, shape (n,)
        Of each missing value.
    first : ndarray of int64, shape (N + 1,)
        The first missing value of each row, and n.
    width : int
        Most places by which two missing values in the density of one row are apart.
    """

    rows: IntArray
    columns: IntArray
    first: IntArray
    width: int

    def touched(self, data: Series) -> BoolArray:
        """Return which rows (N,) lack some of their values, or follow from such rows."""
        lacking = np.diff(self.first) > 0
        touched = lacking.copy()
        for lag in range(1, data.order + 1):
            touched[lag:] |= lacking[:-lag] & data.follows[lag:]
        return touched & data.present


class Forms(NamedTuple):
    """Quadratic forms of the log density of each class.

    Attributes
    ----------
    following : ndarray of float64, shape (K, E, E)
        W, of rows with regressors.
    starting, centres : ndarray of float64, shapes (K, D, D), (K, D)
        Of rows without: the precision, and the mean.
    """

    following: FloatArray
    starting: FloatArray
    centres: FloatArray


def find_gaps(seen: BoolArray, missing: BoolArray, order: int) -> Gaps | None:
    """Return where rows lack some of their values; None if no row does.

    Parameters
    ----------
    seen : ndarray of bool, shape (N, D)
        False where a value is missing.
    missing : ndarray of bool, shape (N,)
        Rows that are missing as a whole: no latent variables.
    order : int
        L.
    """
    absent = ~seen & ~missing[:, None]
    rows, columns = np.nonzero(absent)
    if not rows.size:
        return None
    first = np.concatenate([[0], absent.sum(axis=1).cumsum()]).astype(np.int64)
    width = int((np.arange(rows.size) - first[np.maximum(rows - order, 0)]).max())
    return Gaps(rows, columns, first, width)


def expected_forms(classes: Classes, prior: Prior) -> Forms:
    """Return the forms of the expected log density under the posterior."""
    dynamics, initial = classes.dynamics, classes.initial
    D = dynamics.coefficients.shape[1]
    nu, nu_initial = prior.dynamics.nu0 + dynamics.counts, prior.initial.nu0 + initial.counts
    following = _regression_forms(dynamics.coefficients, nu[:, None, None] * _inverses(dynamics.chol))
    following[:, D:, D:] += D * _inverses(dynamics.precision_chol)
    return Forms(
        np.ascontiguousarray(following),
        np.ascontiguousarray(nu_initial[:, None, None] * _inverses(initial.chol)),
        np.ascontiguousarray(initial.mean),
    )


def drawn_forms(drawn: DrawnClasses) -> Forms:
    """Return the forms of the log density under drawn parameters."""
    following = _regression_forms(drawn.coefficients, _inverses(drawn.chol))
    return Forms(np.ascontiguousarray(following), _inverses(drawn.initial_chol), drawn.initial_means)


def _regression_forms(coefficients: FloatArray, precision: FloatArray) -> FloatArray:
    """Return [I, -A]ᵀ Λ [I, -A] of each class, (K, E, E)."""
    K, D, _ = coefficients.shape
    both = np.concatenate([np.broadcast_to(np.eye(D), (K, D, D)), -coefficients], axis=2)
    return np.asarray(both.transpose(0, 2, 1) @ precision @ both)


def _inverses(chol: FloatArray) -> FloatArray:
    """Return the inverses of L Lᵀ, for lower Cholesky factors (K, n, n)."""
    lower = np.linalg.inv(chol)
    return np.ascontiguousarray(lower.transpose(0, 2, 1) @ lower)


class Values:
    """Rows of a series and the distribution of what they lack, which `expect` and `draw` change.

    Parameters
    ----------
    data : Series
        Where values are missing, any finite numbers.
    gaps : Gaps, optional
        None if no row lacks some of its values: then nothing changes.

    Attributes
    ----------
    data : Series
        With the means, or draws, of the missing values in their places.
    entropy : float
        Of the distribution of the missing values; 0 for draws.
    """

    def __init__(self, data: Series, gaps: Gaps | None = None) -> None:
        self.data, self.gaps, self.entropy = data, gaps, 0.0
        self._covariance: FloatArray | None = None  # a band (n, width + 1); None of values that are known, or drawn

    def assume(self, variance: FloatArray) -> None:
        """Take the missing values as independent, with these variances (D,) of the columns."""
        if self.gaps is not None:
            self._covariance = np.zeros((self.gaps.rows.size, self.gaps.width + 1))
            self._covariance[:, -1] = variance[self.gaps.columns]

    def expect(self, responsibilities: FloatArray, classes: Classes, prior: Prior) -> None:
        """Give the missing values their distribution given responsibilities (N, K) and classes.

        Raises
        ------
        ValueError
            If its precision is not positive definite in float64.
        """
        if self.gaps is None:
            return
        chol, gradient = self._equations(responsibilities, expected_forms(classes, prior))
        _solve(chol, gradient)
        self._move(gradient)
        self.entropy = 0.5 * len(chol) * (1.0 + math.log(2.0 * math.pi)) - float(np.log(chol[:, -1]).sum())
        self._covariance = _covariances(chol)

    def draw(self, labels: IntArray, drawn: DrawnClasses, generator: np.random.Generator) -> None:
        """Draw the missing values given labels (N,), -1 for missing rows, and drawn parameters of the classes.

        Raises
        ------
        ValueError
            As `expect`.
        """
        if self.gaps is None:
            return
        one_hot = one_hot_responsibilities(labels, len(drawn.chol))
        chol, gradient = self._equations(one_hot, drawn_forms(drawn))
        _solve(chol, gradient)
        noise = generator.standard_normal(len(chol))
        _solve_transposed(chol, noise)
        self._move(gradient + noise)
        self._covariance, self.entropy = None, 0.0

    def classes(self, responsibilities: FloatArray, prior: Prior) -> Classes:
        """Return the posterior of all classes, from what is expected of the missing values.

        Raises
        ------
        ValueError
            If a matrix is not positive definite in float64.
        """
        if self.gaps is None or self._covariance is None:
            return classes_from(self.data, responsibilities, prior)
        scatter = _scatter(*self.layout, as_input(responsibilities), self._covariance)
        return classes_from(self.data, responsibilities, prior, scatter)

    def expected_log_density(self, classes: Classes, prior: Prior) -> FloatArray:
        """Return the expected log density of rows, (N, K), also over the missing values; 0 for missing rows."""
        density = expected_log_density(self.data, classes, prior)
        if self.gaps is not None and self._covariance is not None:
            forms = expected_forms(classes, prior)
            density -= 0.5 * _traces(*self.layout, self._covariance, forms.following, forms.starting)
        return density

    def given_labels(self, responsibilities: FloatArray, prior: Prior) -> Classes:
        """Return the posterior of all classes given responsibilities, after updates of classes and values in turn.

        These are variational Bayes with fixed responsibilities: at most
        :data:`actors.kernels.mixture.incomplete.MAX_ITERATIONS`, until the bound hardly rises.

        Raises
        ------
        ValueError
            As `classes`.
        """
        classes, before = self.classes(responsibilities, prior), -math.inf
        for _ in range(MAX_ITERATIONS if self.gaps is not None else 0):
            self.expect(responsibilities, classes, prior)
            classes = self.classes(responsibilities, prior)
            objective = float(log_marginal_likelihood(classes, prior).sum()) + self.entropy
            if objective - before < MIN_RISE * len(responsibilities):
                break
            before = objective
        return classes

    @property
    def layout(self) -> tuple[IntArray, IntArray, BoolArray, BoolArray, int, int]:
        """Return where values are missing, which rows follow from others and are present, L and D."""
        assert self.gaps is not None
        data = self.data
        return self.gaps.columns, self.gaps.first, data.follows, data.present, data.order, data.rows.shape[1]

    def _equations(self, responsibilities: FloatArray, forms: Forms) -> tuple[FloatArray, FloatArray]:
        """Return the band Cholesky factor of the precision, and the gradient at the present values."""
        assert self.gaps is not None
        r = as_input(responsibilities)
        band, gradient = _normal_equations(as_input(self.data.rows), *self.layout, r, *forms, self.gaps.width)
        if (failed := _factorize_band(band)) >= 0:
            raise ValueError(
                f"the distribution of what row {self.gaps.rows[failed]} lacks is not determined in float64: "
                "the prior's scale is too small for data"
            )
        return band, gradient

    def _move(self, by: FloatArray) -> None:
        """Add to the missing values."""
        assert self.gaps is not None
        rows = self.data.rows.copy()
        rows[self.gaps.rows, self.gaps.columns] += by
        self.data = self.data.with_rows(rows)


def values_by_one_class(data: Series, gaps: Gaps | None, prior: Prior, variance: FloatArray) -> Values:
    """Return values as one autoregression of all rows expects them, whatever classes there are.

    Parameters
    ----------
    data : Series
        With the means of the columns where values are missing.
    gaps : Gaps, optional
    prior : Prior
    variance : ndarray of float64, shape (D,)
        Of the columns.

    Raises
    ------
    ValueError
        As `Values.classes`.
    """
    values = Values(data, gaps)
    if gaps is not None:
        values.assume(variance)
        values.given_labels(data.present[:, None].astype(np.float64), prior)
    return values


def log_predictive_observed(
    values: Values,
    responsibilities: FloatArray,
    classes: Classes,
    prior: Prior,
    *,
    left_out: bool,
) -> FloatArray:
    """Return the log predictive density of the observed values of rows under each class, (N, K); 0 for missing rows.

    The missing values of a row are integrated out. Those of the rows that it follows from have their distribution given
    the rows before, a Gaussian with covariance C (a Kalman filter, in which classes are mixed by responsibilities); the
    t density then has the scale S (1 + E[h]) / (ν - D + 1) + A C Aᵀ. With one class of known parameters the product of
    all rows' densities is that of all observed values.

    Parameters
    ----------
    values : Values
    responsibilities : ndarray of float64, shape (N, K)
    classes : Classes
    prior : Prior
    left_out : bool
        Whether each row's weight is removed from all classes: exactly, but for what the classes have learnt from the
        variances of missing values that it follows from.
    """
    if left_out:
        kept, out = responsibilities, log_predictive_loo(values.data, responsibilities, classes, prior)
    else:
        kept, out = np.zeros_like(responsibilities), log_predictive(values.data, classes, prior)
    if values.gaps is None:
        return out
    dynamics, initial = classes.dynamics, classes.initial
    scales = dynamics.chol @ dynamics.chol.transpose(0, 2, 1)
    _predict(
        as_input(values.data.rows),
        *values.layout,
        values.gaps.rows,
        values.gaps.touched(values.data),
        as_input(responsibilities),
        as_input(kept),
        *expected_forms(classes, prior),
        as_input(dynamics.coefficients),
        _inverses(dynamics.precision_chol),
        np.ascontiguousarray(scales),
        np.stack([prior.dynamics.nu0 + dynamics.counts, dynamics.counts]),
        as_input(initial.scale),
        np.stack([prior.initial.nu0 + initial.counts, initial.counts]),
        prior.initial.r0,
        out,
    )
    return out


# --- kernels ----------------------------------------------------------------------------------------------------------


@kernel
def _window(t: int, columns: IntArray, first: IntArray, lags: int, D: int, places: IntArray, entries: IntArray) -> int:
    """Write the missing values in the density of row t, and their places in y_t; return their number."""
    count = 0
    for lag in range(lags + 1):
        for e in range(first[t - lag], first[t - lag + 1]):
            places[count], entries[count] = lag * D + columns[e], e
            count += 1
    return count


@kernel
def _normal_equations(
    rows: FloatArray,
    columns: IntArray,
    first: IntArray,
    follows: BoolArray,
    present: BoolArray,
    order: int,
    D: int,
    r: FloatArray,
    following: FloatArray,
    starting: FloatArray,
    centres: FloatArray,
    width: int,
) -> tuple[FloatArray, FloatArray]:
    """Return the precision of the missing values as a lower band (n, width + 1), and the gradient at the rows."""
    N, K = r.shape
    E = D * (order + 1) + 1
    band, gradient = np.zeros((columns.size, width + 1)), np.zeros(columns.size)
    places, entries = np.empty(E, np.int64), np.empty(E, np.int64)
    y = np.ones(E)
    for t in range(N):
        if not present[t]:
            continue
        count = _window(t, columns, first, order if follows[t] else 0, D, places, entries)
        if count == 0:
            continue
        size = D
        if follows[t]:
            size = E
            for lag in range(order + 1):
                for d in range(D):
                    y[lag * D + d] = rows[t - lag, d]
        for k in range(K):
            w = r[t, k]
            if w == 0.0:
                continue
            form = following[k] if follows[t] else starting[k]
            for a in range(count):
                i, e = places[a], entries[a]
                total = 0.0
                for j in range(size):
                    total += form[i, j] * (y[j] if follows[t] else rows[t, j] - centres[k, j])
                gradient[e] -= w * total
                for b in range(count):
                    if entries[b] <= e:
                        band[e, width - e + entries[b]] += w * form[i, places[b]]
    return band, gradient


@kernel
def _factorize_band(band: FloatArray) -> int:
    """Replace a lower band by its Cholesky factor; return the row at which it is not positive definite, or -1."""
    n, width = band.shape[0], band.shape[1] - 1
    for i in range(n):
        low = max(0, i - width)
        for j in range(low, i + 1):
            total = band[i, width - i + j]
            for k in range(max(low, j - width), j):
                total -= band[i, width - i + k] * band[j, width - j + k]
            if j < i:
                band[i, width - i + j] = total / band[j, width]
            elif total > 0.0:
                band[i, width] = math.sqrt(total)
            else:
                return i
    return -1


@kernel
def _solve(chol: FloatArray, vector: FloatArray) -> None:
    """Replace a vector b by the solution x of L Lᵀ x = b, for a band Cholesky factor."""
    n, width = chol.shape[0], chol.shape[1] - 1
    for i in range(n):
        for j in range(max(0, i - width), i):
            vector[i] -= chol[i, width - i + j] * vector[j]
        vector[i] /= chol[i, width]
    _solve_transposed(chol, vector)


@kernel
def _solve_transposed(chol: FloatArray, vector: FloatArray) -> None:
    """Replace a vector b by the solution x of Lᵀ x = b."""
    n, width = chol.shape[0], chol.shape[1] - 1
    for i in range(n - 1, -1, -1):
        vector[i] /= chol[i, width]
        for j in range(max(0, i - width), i):
            vector[j] -= chol[i, width - i + j] * vector[i]


@kernel
def _covariances(chol: FloatArray) -> FloatArray:
    """Return the band of the inverse of L Lᵀ, by Takahashi's recursions from the last column to the first."""
    n, width = chol.shape[0], chol.shape[1] - 1
    found = np.zeros_like(chol)
    for j in range(n - 1, -1, -1):
        last = min(n - 1, j + width)
        for i in range(last, j - 1, -1):
            total = 0.0
            for k in range(j + 1, last + 1):
                high, low = max(i, k), min(i, k)
                total += chol[k, width - k + j] * found[high, width - high + low]
            if i > j:
                found[i, width - i + j] = -total / chol[j, width]
            else:
                found[j, width] = (1.0 / chol[j, width] - total) / chol[j, width]
    return found


@kernel
def _traces(
    columns: IntArray,
    first: IntArray,
    follows: BoolArray,
    present: BoolArray,
    order: int,
    D: int,
    covariance: FloatArray,
    following: FloatArray,
    starting: FloatArray,
) -> FloatArray:
    """Return tr(W_k C_t) of each row and class, (N, K), with C_t the covariance of y_t."""
    K, width = starting.shape[0], covariance.shape[1] - 1
    traces = np.zeros((present.size, K))
    size = D * (order + 1)
    places, entries = np.empty(size, np.int64), np.empty(size, np.int64)
    for t in range(present.size):
        if not present[t]:
            continue
        count = _window(t, columns, first, order if follows[t] else 0, D, places, entries)
        for a in range(count):
            for b in range(count):
                high, low = max(entries[a], entries[b]), min(entries[a], entries[b])
                value = covariance[high, width - high + low]
                for k in range(K):
                    form = following[k] if follows[t] else starting[k]
                    traces[t, k] += value * form[places[a], places[b]]
    return traces


@kernel
def _scatter(
    columns: IntArray,
    first: IntArray,
    follows: BoolArray,
    present: BoolArray,
    order: int,
    D: int,
    r: FloatArray,
    covariance: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Return Σ_t r_tk C_t, with C_t the covariance of y_t: (K, E, E) of rows with regressors, (K, D, D) without."""
    K, width, size = r.shape[1], covariance.shape[1] - 1, D * (order + 1)
    after, initial = np.zeros((K, size + 1, size + 1)), np.zeros((K, D, D))
    places, entries = np.empty(size, np.int64), np.empty(size, np.int64)
    for t in range(present.size):
        if not present[t]:
            continue
        count = _window(t, columns, first, order if follows[t] else 0, D, places, entries)
        for a in range(count):
            for b in range(count):
                high, low = max(entries[a], entries[b]), min(entries[a], entries[b])
                value = covariance[high, width - high + low]
                for k in range(K):
                    if follows[t]:
                        after[k, places[a], places[b]] += r[t, k] * value
                    else:
                        initial[k, places[a], places[b]] += r[t, k] * value
    return after, initial


@kernel
def _invert(matrix: FloatArray) -> FloatArray:
    """Return the inverse of a positive definite matrix, or NaN."""
    n = matrix.shape[0]
    chol, inverse = np.zeros((n, n)), np.zeros((n, n))
    if not factorize(matrix, chol):
        inverse[:] = np.nan
        return inverse
    column = np.empty(n)
    for c in range(n):
        column[:] = 0.0
        column[c] = 1.0
        for i in range(n):
            for j in range(i):
                column[i] -= chol[i, j] * column[j]
            column[i] /= chol[i, i]
        for i in range(n - 1, -1, -1):
            column[i] /= chol[i, i]
            for j in range(i):
                column[j] -= chol[i, j] * column[i]
        for i in range(n):
            inverse[i, c] = column[i]
    return inverse


@kernel
def _log_t(residual: FloatArray, scale: FloatArray, degrees: float) -> float:
    """Return the log density of a Student t at a distance from its centre; its scale matrix is overwritten."""
    n = residual.size
    log_det, distance = 0.0, 0.0
    for i in range(n):
        diagonal = scale[i, i]
        for j in range(i + 1):
            for k in range(j):
                scale[i, j] -= scale[i, k] * scale[j, k]
            if j < i:
                scale[i, j] /= scale[j, j]
        scale[i, i] = math.sqrt(max(scale[i, i], MIN_DOWNDATE * diagonal))
        log_det += 2.0 * math.log(scale[i, i])
        for j in range(i):
            residual[i] -= scale[i, j] * residual[j]
        residual[i] /= scale[i, i]
        distance += residual[i] * residual[i]
    constant = math.lgamma(0.5 * (degrees + n)) - math.lgamma(0.5 * degrees) - 0.5 * n * math.log(degrees * math.pi)
    return constant - 0.5 * log_det - 0.5 * (degrees + n) * math.log1p(distance / degrees)


@kernel
def _predict_following(
    observed: IntArray,
    values: FloatArray,
    phi: FloatArray,
    filtered: FloatArray,
    places: IntArray,
    covariance: FloatArray,
    w: float,
    coefficients: FloatArray,
    inverse_precision: FloatArray,
    scale: FloatArray,
    degrees: float,
) -> float:
    """Return the log predictive density of the observed values of one row with regressors, under one class.

    The weight w of the row, with the regressors `phi`, is removed from the class; then it has those of the filter, with
    a covariance at some `places`. With v = P⁻¹φ, d = 1 - w φᵀv and e the residual, P⁻¹ without the row is
    P⁻¹ + w v vᵀ / d, M is M - w e vᵀ / d, and S is S - w e eᵀ / d (Sherman-Morrison formula).
    """
    seen, p = observed.size, places.size
    v, of_filtered = inverse_precision @ phi, inverse_precision @ filtered
    left: float = max(1.0 - w * float(phi @ v), MIN_DOWNDATE)
    both = filtered @ v
    h = filtered @ of_filtered + w * both * both / left
    for a in range(p):
        for b in range(p):
            inner = inverse_precision[places[a], places[b]] + w * v[places[a]] * v[places[b]] / left
            h += inner * covariance[a, b]
    errors, residual, spread = np.empty(seen), np.empty(seen), np.empty((seen, p))
    for i in range(seen):
        row = coefficients[observed[i]]
        errors[i] = values[observed[i]] - row @ phi
        residual[i] = values[observed[i]] - row @ filtered + w * errors[i] * both / left
        for a in range(p):
            spread[i, a] = row[places[a]] - w * errors[i] * v[places[a]] / left
    own = np.empty((seen, seen))
    for i in range(seen):
        for j in range(seen):
            own[i, j] = (scale[observed[i], observed[j]] - w * errors[i] * errors[j] / left) * (1.0 + h) / degrees
            for a in range(p):
                for b in range(p):
                    own[i, j] += spread[i, a] * covariance[a, b] * spread[j, b]
    return _log_t(residual, own, degrees)


@kernel
def _predict_starting(
    observed: IntArray,
    values: FloatArray,
    w: float,
    centre: FloatArray,
    scale: FloatArray,
    count: float,
    degrees: float,
) -> float:
    """Return the same of a row without regressors, whose class has a mean that counts for `count` rows."""
    seen = observed.size
    left = max(1.0 - w / count, MIN_DOWNDATE)
    residual, own = np.empty(seen), np.empty((seen, seen))
    for i in range(seen):
        residual[i] = (values[observed[i]] - centre[observed[i]]) / left
        for j in range(i + 1):
            pair = (values[observed[i]] - centre[observed[i]]) * (values[observed[j]] - centre[observed[j]])
            own[i, j] = (scale[observed[i], observed[j]] - w * pair / left) * (1.0 + 1.0 / (count * left)) / degrees
    return _log_t(residual, own, degrees)


@kernel
def _eliminate(precision: FloatArray, gradient: FloatArray, entries: IntArray, size: int) -> None:
    """Integrate the first of `size` variables out of a Gaussian in canonical form, and move the others up."""
    for i in range(1, size):
        factor = precision[i, 0] / precision[0, 0]
        gradient[i] -= factor * gradient[0]
        for j in range(1, size):
            precision[i, j] -= factor * precision[0, j]
    for i in range(1, size):
        gradient[i - 1], entries[i - 1] = gradient[i], entries[i]
        for j in range(1, size):
            precision[i - 1, j - 1] = precision[i, j]


@kernel
def _add_row(
    t: int,
    rows: FloatArray,
    follows: bool,
    of_row: FloatArray,
    places: IntArray,
    offset: int,
    size: int,
    following: FloatArray,
    starting: FloatArray,
    centres: FloatArray,
    precision: FloatArray,
    gradient: FloatArray,
) -> None:
    """Add the density of row t, classes mixed by responsibilities `of_row` (K,), to variables from `offset` on."""
    D, E = rows.shape[1], following.shape[1]
    for k in range(of_row.size):
        if of_row[k] == 0.0:
            continue
        form = following[k] if follows else starting[k]
        for a in range(offset, size):
            i, total = places[a], 0.0
            if follows:
                total = form[i, E - 1]
                for j in range(E - 1):
                    total += form[i, j] * rows[t - j // D, j % D]
            else:
                for j in range(D):
                    total += form[i, j] * (rows[t, j] - centres[k, j])
            gradient[a] -= of_row[k] * total
            for b in range(offset, size):
                precision[a, b] += of_row[k] * form[i, places[b]]


@kernel
def _regressors_of(
    t: int, rows: FloatArray, lags: int, places: IntArray, covariance: FloatArray, gradient: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the regressors of row t with the present values, and with the means of the filter, at some `places`."""
    D = rows.shape[1]
    phi = np.ones(D * lags + 1)
    for j in range(D * lags):
        phi[j] = rows[t - 1 - j // D, j % D]
    filtered = phi.copy()
    for a in range(places.size):
        for b in range(places.size):
            filtered[places[a]] += covariance[a, b] * gradient[b]
    return phi, filtered


@kernel
def _without(columns: IntArray, D: int) -> IntArray:
    """Return the other columns of D."""
    others = np.ones(D, np.bool_)
    others[columns] = False
    return np.flatnonzero(others)


@kernel
def _predict(
    rows: FloatArray,
    columns: IntArray,
    first: IntArray,
    follows: BoolArray,
    present: BoolArray,
    order: int,
    D: int,
    entry_rows: IntArray,
    touched: BoolArray,
    r: FloatArray,
    removed: FloatArray,
    following: FloatArray,
    starting: FloatArray,
    centres: FloatArray,
    coefficients: FloatArray,
    inverse_precision: FloatArray,
    scales: FloatArray,
    degrees: FloatArray,
    initial_scales: FloatArray,
    initial_degrees: FloatArray,
    r0: float,
    out: FloatArray,
) -> None:
    """Write the log predictive densities (N, K) of the rows touched by missing values, by a filter over the rows.

    The filter's Gaussian, in canonical form about the present values, is that of the missing values of the last L rows
    given the observed values of all rows before. `degrees` and `initial_degrees` (2, K) are ν and n.
    """
    capacity = D * (order + 1)
    precision, gradient = np.zeros((capacity, capacity)), np.zeros(capacity)
    entries, places = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    size = 0
    for t in range(present.size):
        while size > 0 and entries[0] < first[max(t - order, 0)]:
            _eliminate(precision, gradient, entries, size)
            size -= 1
        if not present[t]:
            continue
        before = size if follows[t] else 0
        for a in range(size):
            places[a] = (t - entry_rows[entries[a]]) * D + columns[entries[a]]
        if touched[t]:
            covariance, within = _invert(precision[:before, :before].copy()), places[:before] - D
            lags = order if follows[t] else 0
            phi, filtered = _regressors_of(t, rows, lags, within, covariance, gradient)
            observed = _without(columns[first[t] : first[t + 1]], D)
            for k in range(r.shape[1]):
                w = removed[t, k]
                if follows[t]:
                    nu = degrees[0, k] - min(w, degrees[1, k]) - D + 1.0
                    given = coefficients[k], inverse_precision[k], scales[k], nu
                    out[t, k] = _predict_following(observed, rows[t], phi, filtered, within, covariance, w, *given)
                else:
                    nu = initial_degrees[0, k] - min(w, initial_degrees[1, k]) - D + 1.0
                    count = r0 + initial_degrees[1, k]
                    out[t, k] = _predict_starting(observed, rows[t], w, centres[k], initial_scales[k], count, nu)
        offset = 0 if follows[t] else size
        for e in range(first[t], first[t + 1]):
            entries[size], places[size], gradient[size] = e, columns[e], 0.0
            precision[size, :], precision[:, size] = 0.0, 0.0
            size += 1
        if size > offset:
            _add_row(t, rows, follows[t], r[t], places, offset, size, following, starting, centres, precision, gradient)


def compile_kernels() -> None:
    """Compile the kernels, or load them from the cache, for the types they are called with."""
    rows, seen = np.array([[0.0], [1.0], [0.5], [0.2]]), np.array([[False], [True], [False], [True]])
    data = series(np.hstack([rows, rows]), np.zeros(4, np.bool_), np.array([0, 4]), 1)
    dynamics = MNIWPrior(np.zeros((2, 3)), np.ones(3), 4.0, np.eye(2))
    prior = Prior(dynamics, NIWPrior(np.zeros(2), 1.0, 4.0, np.eye(2)), np.zeros(2))
    gaps = find_gaps(np.hstack([seen, ~seen]), ~data.present, 1)
    values = values_by_one_class(data, gaps, prior, np.ones(2))
    classes = values.classes(np.ones((4, 1)), prior)
    log_predictive_observed(values, np.ones((4, 1)), classes, prior, left_out=True)
    drawn = draw_parameters(classes, prior, np.random.default_rng(0))
    values.draw(np.zeros(4, np.int64), drawn, np.random.default_rng(0))
