"""Units of the columns of a mixture's rows: which columns vary, where they are centred, and by what they are divided.

A normal-inverse-Wishart mixture whose prior follows from the data is equivariant: with rows in other units it has the
same classes. In float64 it is so only if sums of squares neither overflow, underflow nor cancel. Rows are therefore
centred and divided by a power of two, which is exact, at the one place where they come in; whatever is learnt refers to
these internal rows, and only class means and densities are converted back.

A column without variance is left out. Under any class it has the same value, so that it says nothing about the classes.
In the model it would not be neutral: the scale of n equal values is that of the prior, S0, whatever n, so the class's
variance is estimated as S0 / n and the density of the column grows with n. Dividing a class of n rows into two then
costs n/2 · log 2 nats a column (Murphy 2007, eq. 266, with S_n = S0), and clear classes stay merged. A floor of the
prior's scale cannot mend this: the cost does not depend on S0. The marginal likelihood of the rows, for which such a
column has no density, is that of the other columns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from actors.kernels.types import BoolArray, FloatArray, IntArray

ROUNDING = 4.0
"""Units in the last place of a column's largest value: a column that spans no more is constant up to rounding."""

ORDINARY_EXPONENT = 64
"""Columns of deviations from 2^-64 to 2^64 are not divided: their squares are far from the limits of float64."""

ORDINARY_SHIFT = 2.0**20
"""Columns whose mean is at most this many deviations from zero are not centred: ten digits of a deviation are left."""


class Columns(NamedTuple):
    """The conversion of rows of D columns to internal rows, of the columns that vary.

    Attributes
    ----------
    kept : ndarray of bool, shape (D,)
        Columns that vary; all of them if none does.
    centre : ndarray of float64, shape (D,)
        Subtracted; of a column that is left out, its value.
    exponent : ndarray of int64, shape (D,)
        Centred columns are divided by 2^exponent; 0 for a column that is left out.
    """

    kept: BoolArray
    centre: FloatArray
    exponent: IntArray

    @property
    def unchanged(self) -> bool:
        """Whether internal rows are the rows."""
        return bool(self.kept.all() and not self.centre.any() and not self.exponent.any())

    @property
    def log_volume(self) -> float:
        """Log of the volume by which internal rows are divided: log p(row) = log p(internal row) - log_volume."""
        return float(self.exponent.sum()) * math.log(2.0)

    def internal(self, X: FloatArray) -> FloatArray:
        """Return internal rows (N, D') of rows (N, D)."""
        if self.unchanged:
            return X
        exponent = self.exponent[self.kept]
        # Scaled before they are subtracted: neither step can overflow.
        rows: FloatArray = np.ldexp(X[:, self.kept], -exponent) - np.ldexp(self.centre[self.kept], -exponent)
        return np.ascontiguousarray(rows)

    def external(self, means: FloatArray) -> FloatArray:
        """Return class means (K, D) of internal ones (K, D'); columns that are left out have their value."""
        if self.unchanged:
            return means.copy()
        full = np.tile(self.centre, (len(means), 1))
        full[:, self.kept] += np.ldexp(means, self.exponent[self.kept])
        return full

    def differing(self, X: FloatArray) -> IntArray:
        """Return the indices of the left-out columns in which rows (N, D) have another value."""
        spread = np.abs(X - self.centre).max(axis=0, initial=0.0)
        limit = _rounding(np.abs(X).max(axis=0, initial=0.0), np.float64)
        return np.flatnonzero(~self.kept & (spread > limit))


def identity(dimensions: int) -> Columns:
    """Return the conversion that changes nothing."""
    return Columns(np.ones(dimensions, np.bool_), np.zeros(dimensions), np.zeros(dimensions, np.int64))


def choose_columns(X: FloatArray, dtype: np.dtype[np.floating] | type[np.floating]) -> Columns:
    """Choose the conversion of rows: internal columns have a deviation between 1/2 and 1, or an ordinary one.

    Parameters
    ----------
    X : ndarray of float64, shape (N, D)
        Rows, finite, at least one.
    dtype : dtype
        The floating-point type that the rows were rounded to.
    """
    kept = columns_that_vary(X.min(axis=0), X.max(axis=0), dtype)
    if not kept.any():
        return identity(X.shape[1])
    _, largest = np.frexp(np.abs(X).max(axis=0))
    scaled = np.ldexp(X, -largest)  # at most 1: sums and squares cannot overflow
    mean = scaled.mean(axis=0)
    deviation = np.sqrt(np.square(scaled - mean).mean(axis=0))
    return columns_from_deviations(kept, X[0], mean, deviation, largest)


def columns_that_vary(
    minimum: FloatArray, maximum: FloatArray, dtype: np.dtype[np.floating] | type[np.floating]
) -> BoolArray:
    """Return which columns vary, (D,), by their smallest and largest values (D,) and the type of the values."""
    limit = _rounding(np.maximum(np.abs(minimum), np.abs(maximum)), dtype)
    # Halves: neither side can overflow.
    varying: BoolArray = maximum / 2.0 - minimum / 2.0 > limit / 2.0
    return varying


def columns_from_deviations(
    kept: BoolArray, first_row: FloatArray, mean: FloatArray, deviation: FloatArray, unit: IntArray
) -> Columns:
    """Return the conversion of rows whose mean and deviation are known.

    Parameters
    ----------
    kept : ndarray of bool, shape (D,)
        Columns that vary, at least one.
    first_row : ndarray of float64, shape (D,)
        A row, for the values of the other columns.
    mean, deviation : ndarray of float64, shape (D,)
        Of all rows, divided by 2^unit.
    unit : ndarray of int, shape (D,)
    """
    mean = mean.copy()
    _, exponent = np.frexp(deviation)
    exponent = exponent.astype(np.int64) + unit
    ordinary = np.abs(exponent) <= ORDINARY_EXPONENT
    mean[ordinary & (np.abs(mean) <= ORDINARY_SHIFT * deviation)] = 0.0
    exponent[ordinary] = 0
    centre = np.ldexp(mean, unit)
    exponent[~kept] = 0
    centre[~kept] = first_row[~kept]
    return Columns(kept, centre, exponent)


def _rounding(largest: FloatArray, dtype: np.dtype[np.floating] | type[np.floating]) -> FloatArray:
    """Return the largest spread of each column, (D,), that rounding to `dtype` explains; `largest` is of |x|, (D,)."""
    limit: FloatArray = ROUNDING * float(np.finfo(dtype).eps) * largest
    return limit
