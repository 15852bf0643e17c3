"""Means, variances and units of the columns of rows that are divided into chunks.

The prior of a mixture and the conversion of its rows (:mod:`actors.kernels.mixture.columns`) need the smallest and
largest values of each column, its mean and its variance, of all rows. Chunks give sums of deviations from an origin and
of their squares, which add, and extremes, which are combined by minimum and maximum. The origin is a row at first.
Where it is far from the mean, another pass takes the mean itself as the origin (:func:`next_origin`), as the two-pass
formula for the variance does (T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance:
analysis and recommendations", 1983). Deviations are divided by powers of two, which is exact, so that in any unit their
squares neither overflow nor underflow.

Throughout, N is the number of rows of the chunk, D their dimension.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.mixture.columns import ROUNDING, Columns, columns_from_deviations, columns_that_vary, identity
from actors.kernels.mixture.input_checks import as_mask, as_rows, check_finite
from actors.kernels.mixture.sums import Sums
from actors.kernels.types import BoolArray, FloatArray, IntArray

MAX_OFFSET = 1e3
"""Squared distance, in variances, from the origin to the mean, up to which the variance keeps all but three digits."""

MAX_EXPONENT = 1000
"""Values of float64 have squares within its limits after division by 2^1000 if they are large, by 2^-1000 if small."""


class Origin(NamedTuple):
    """Deviations of rows are (x - reference) / 2^exponent.

    Attributes
    ----------
    reference : ndarray of float64, shape (D,)
    exponent : ndarray of int64, shape (D,)
    """

    reference: FloatArray
    exponent: IntArray

    def deviations(self, rows: FloatArray) -> FloatArray:
        """Return the deviations (N, D) of rows (N, D)."""
        # A product with a power of two is as exact as ldexp, and ten times as fast.
        factor = np.ldexp(1.0, -self.exponent)
        scaled: FloatArray = rows * factor
        scaled -= self.reference * factor
        return scaled


def origin_at(row: FloatArray) -> Origin:
    """Return the origin of a first pass: one of the rows, (D,), and its magnitude."""
    return Origin(np.array(row, dtype=np.float64), _exponent_of(row))


def row_moments(
    X: ArrayLike, origin: Origin, *, mask: ArrayLike | None = None, seen: BoolArray | None = None
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return the sums and the extremes of a chunk's rows.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows.
    origin : Origin
        The same for all chunks.
    mask : array_like of bool, shape (N,), optional
        True for missing rows, which are not counted.
    seen : ndarray of bool, shape (N, D), optional
        False where a value is missing, which is not counted.

    Returns
    -------
    sums : dict
        rows (1,), the number of rows; seen (D,), that of values in each column; first (D,) and square (D,), sums of the
        deviations and of their squares.
    extremes : dict
        minimum (D,) and maximum (D,) of the rows, for `combine_extremes`; inf and -inf without any row.

    Raises
    ------
    ValueError
        If a shape doesn't fit or a row that isn't missing is not finite.
    """
    rows = as_rows(X, origin.reference.size)
    missing = as_mask(mask, len(rows))
    check_finite(rows, missing)
    present = rows[~missing]
    counted: dict[str, Any] = {} if seen is None else {"where": seen[~missing]}
    # Far from a first origin near zero these overflow; then `next_origin` is another.
    with np.errstate(over="ignore", invalid="ignore"):
        deviations = origin.deviations(present)
        first, square = deviations.sum(axis=0, **counted), np.square(deviations).sum(axis=0, **counted)
    number = float(len(present))
    values = np.full(first.size, number) if seen is None else counted["where"].sum(axis=0, dtype=np.float64)
    sums = {"rows": np.array([number]), "seen": values, "first": first, "square": square}
    minimum = present.min(axis=0, initial=np.inf, **counted)
    return sums, {"minimum": minimum, "maximum": present.max(axis=0, initial=-np.inf, **counted)}


def combine_extremes(left: Sums, right: Sums) -> dict[str, FloatArray]:
    """Return the extremes of two sets of rows together."""
    return {
        "minimum": np.minimum(left["minimum"], right["minimum"]),
        "maximum": np.maximum(left["maximum"], right["maximum"]),
    }


def next_origin(sums: Sums, extremes: Sums, origin: Origin) -> Origin | None:
    """Return the origin of another pass, near the mean; None if the variances from these sums are accurate to 1e-12.

    The relative error is some 2^-53 (1 + δ² / σ²) for a mean at the distance δ from the origin. With a typical row as
    the first origin one pass is enough; with an outlier it takes two, and three if deviations from it overflow.

    Parameters
    ----------
    sums, extremes : mapping
        Of `row_moments`, over all rows; at least one value in each column.
    origin : Origin
        The one of the sums.
    """
    minimum, maximum = extremes["minimum"], extremes["maximum"]
    with np.errstate(over="ignore", invalid="ignore"):
        offset, variance = _offset_and_variance(sums)
        mean = np.ldexp(np.ldexp(origin.reference, -origin.exponent) + offset, origin.exponent)
        near = np.square(offset) <= MAX_OFFSET * variance
    reference = np.where(np.isfinite(mean), np.clip(mean, minimum, maximum), minimum / 2.0 + maximum / 2.0)
    # Halves: no difference can overflow. A mean at the origin up to rounding cannot come closer to it.
    rounding = ROUNDING * np.finfo(np.float64).eps * np.maximum(np.abs(minimum), np.abs(maximum))
    near |= np.abs(reference / 2.0 - origin.reference / 2.0) <= rounding / 2.0
    if (near & np.isfinite(sums["square"])).all():
        return None
    half = np.maximum(maximum / 2.0 - reference / 2.0, reference / 2.0 - minimum / 2.0)
    return Origin(reference, _exponent_of(half) + 1)


def _exponent_of(values: FloatArray) -> IntArray:
    """Return e so that values are at most 2^e, but for the largest; 2^e and 2^-e are numbers of full precision."""
    return np.clip(np.frexp(values)[1].astype(np.int64), -MAX_EXPONENT, MAX_EXPONENT)


def columns_from_moments(
    sums: Sums,
    extremes: Sums,
    origin: Origin,
    first_row: FloatArray,
    dtype: np.dtype[np.floating] | type[np.floating],
) -> Columns:
    """Return what :func:`actors.kernels.mixture.columns.choose_columns` does for all rows.

    The centre of a column that is centred may differ by the rounding of its mean.

    Parameters
    ----------
    sums, extremes : mapping
        Of `row_moments`, over all rows; at least one.
    origin : Origin
        The one of the sums.
    first_row : ndarray of float64, shape (D,)
        The first of all rows.
    dtype : dtype
        The floating-point type that the rows were rounded to.
    """
    kept = columns_that_vary(extremes["minimum"], extremes["maximum"], dtype)
    if not kept.any():
        return identity(len(kept))
    _, largest = np.frexp(np.maximum(np.abs(extremes["minimum"]), np.abs(extremes["maximum"])))
    offset, variance = _offset_and_variance(sums)
    mean = np.ldexp(origin.reference, -largest) + np.ldexp(offset, origin.exponent - largest)
    deviation = np.ldexp(np.sqrt(variance), origin.exponent - largest)
    return columns_from_deviations(kept, first_row, mean, deviation, largest)


def internal_moments(sums: Sums, origin: Origin, columns: Columns) -> tuple[FloatArray, FloatArray]:
    """Return the mean and the variance (D',) of all rows, converted to internal rows.

    Parameters
    ----------
    sums : mapping
        Of `row_moments`, over all rows; at least one.
    origin : Origin
        The one of the sums.
    columns : Columns
        The conversion.
    """
    offset, variance = (each[columns.kept] for each in _offset_and_variance(sums))
    reference, exponent = (each[columns.kept] for each in origin)
    centre, unit = columns.centre[columns.kept], columns.exponent[columns.kept]
    mean = np.ldexp(reference, -unit) - np.ldexp(centre, -unit) + np.ldexp(offset, exponent - unit)
    return mean, np.ldexp(variance, 2 * (exponent - unit))


def _offset_and_variance(sums: Sums) -> tuple[FloatArray, FloatArray]:
    """Return the mean and the variance (D,) of the deviations."""
    offset = sums["first"] / sums["seen"]
    # Negative by rounding only.
    return offset, np.maximum(sums["square"] / sums["seen"] - np.square(offset), 0.0)
