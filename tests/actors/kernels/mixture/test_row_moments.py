"""Test means, variances and units of columns from chunks against those of all rows."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from actors.kernels.mixture.columns import choose_columns
from actors.kernels.mixture.row_moments import (
    columns_from_moments,
    combine_extremes,
    internal_moments,
    next_origin,
    origin_at,
    row_moments,
)

N = 500


def one_pass(X, origin, size, mask=None):
    """Return the sums and the extremes of all chunks."""
    parts = [
        row_moments(X[i : i + size], origin, mask=None if mask is None else mask[i : i + size])
        for i in range(0, len(X), size)
    ]
    sums = functools.reduce(lambda left, right: {n: left[n] + right[n] for n in left}, (each for each, _ in parts))
    return sums, functools.reduce(combine_extremes, (each for _, each in parts))


def moments(X, row, size=64, mask=None):
    """Return sums, extremes and origin after the last pass, and the number of passes; the first origin is `row`."""
    origin, passes = origin_at(row), 0
    while True:
        sums, extremes = one_pass(X, origin, size, mask)
        passes += 1
        following = next_origin(sums, extremes, origin)
        if following is None:
            return sums, extremes, origin, passes
        origin = following


def rows(seed=0):
    """Return rows with columns of other deviations and means, one of integers, one skewed."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, 5)) * [1.0, 1e-3, 1e4, 1.0, 1.0] + [0.0, 3.0, -1e5, 0.0, 0.0]
    X[:, 3] = rng.integers(0, 3, N)
    X[:, 4] = rng.exponential(size=N) ** 3
    return X


def check(X, size=64, dtype=np.float64, mask=None, row=None):
    """Compare with what is computed from all rows at once; return the conversion and the number of passes."""
    present = X if mask is None else X[~mask]
    expected = choose_columns(present, dtype)
    sums, extremes, origin, passes = moments(X, present[0] if row is None else row, size, mask)
    columns = columns_from_moments(sums, extremes, origin, present[0], dtype)
    assert_array_equal(columns.kept, expected.kept)
    assert_array_equal(columns.exponent, expected.exponent)
    assert_array_equal(columns.centre != 0.0, expected.centre != 0.0)
    assert_allclose(columns.centre, expected.centre, rtol=1e-13)
    mean, variance = internal_moments(sums, origin, columns)
    internal = columns.internal(present)
    assert_allclose(variance, internal.var(axis=0), rtol=1e-12)
    assert (np.abs(mean - internal.mean(axis=0)) <= 1e-12 * (internal.std(axis=0) + np.abs(mean))).all()
    return columns, passes


@pytest.mark.parametrize("size", [1, 7, 500])
@pytest.mark.parametrize("unit", [1e-150, 1e-40, 2.0**-70, 1e-3, 1.0, 1e3, 1e40, 1e150])
def test_columns_and_variances_are_those_of_all_rows_in_any_unit(unit, size):
    columns, passes = check(rows() * unit, size)
    assert columns.kept.all()
    assert passes == 1


@pytest.mark.parametrize("shift", [1e3, 1e7, 1e12])
def test_columns_far_from_zero_are_centred_at_their_mean(shift):
    X = rows(1) + shift
    columns, _ = check(X)
    assert (columns.centre[0] != 0.0) == (shift > 1e6)


@pytest.mark.parametrize("unit", [1e-150, 1.0, 1e145])
def test_an_origin_far_from_the_rows_takes_a_second_pass(unit):
    X = rows(2) * unit
    _, passes = check(X, row=np.array([1e9, 0.0, 1e7, -50.0, 1e-3]) * unit)
    assert passes == 2


def test_an_outlier_among_the_rows_can_be_the_first_origin():
    X = rows(2)
    X[0, 0] = 1e7
    _, passes = check(X)
    assert passes == 1  # the deviation is that of the outlier
    X = np.concatenate([X[:1], np.tile(X[1:], (10, 1))])
    check(X)


def test_an_origin_of_another_magnitude_does_not_overflow():
    X = rows(3) * 1e200
    assert check(X, row=np.zeros(5))[1] <= 3
    assert check(X, row=np.full(5, 1e-200))[1] <= 3
    assert check(rows(3) * 1e-200, row=np.full(5, 1e200))[1] <= 3
    assert check(rows(3) * 1e-290)[1] == 1
    assert check(rows(3) * 1e300)[1] == 1


def test_constant_columns_are_left_out_with_their_value():
    X = rows(4)
    X[:, 1], X[:, 3] = 0.1, 0.0
    columns, passes = check(X, size=13)
    assert_array_equal(columns.kept, [True, False, True, False, True])
    assert columns.centre[1] == 0.1
    assert passes == 1


def test_values_that_differ_by_rounding_to_their_type_are_constant():
    X = rows(5)
    X[:, 0] = np.float32(0.1) * (1 + np.finfo(np.float32).eps * np.random.default_rng(6).integers(0, 2, N))
    assert not check(X, dtype=np.float32)[0].kept[0]
    assert check(X, dtype=np.float64)[0].kept[0]


def test_passes_end_where_the_mean_is_as_close_to_the_origin_as_rounding_allows():
    X = np.tile(rows(6), (10, 1))
    X[:, 0] = 1e5
    X[0, 0] = np.nextafter(1e5, 2e5)  # the first origin: one rounding and many deviations from the mean
    assert check(X)[1] == 1


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-150])
def test_rows_that_are_all_the_same_have_no_variance(value):
    X = np.full((90, 2), value)
    sums, extremes, origin, passes = moments(X, X[0], size=11)
    columns = columns_from_moments(sums, extremes, origin, X[0], np.float64)
    assert columns.unchanged
    mean, variance = internal_moments(sums, origin, columns)
    assert_array_equal(mean, X[0])
    assert_array_equal(variance, [0.0, 0.0])
    assert passes == 1


def test_missing_rows_are_not_counted():
    X = rows(7)
    mask = np.zeros(N, dtype=bool)
    mask[::3], mask[64:128] = True, True  # a whole chunk is missing
    X[mask] = np.nan
    check(X, mask=mask)


def test_a_single_row_is_its_own_mean():
    X = rows(8)[:1]
    sums, extremes, origin, _ = moments(X, X[0])
    assert columns_from_moments(sums, extremes, origin, X[0], np.float64).unchanged
    assert_array_equal(extremes["minimum"], X[0])
    assert_array_equal(extremes["maximum"], X[0])


def test_a_row_that_is_not_finite_is_refused():
    X = rows(9)
    X[3, 2] = np.inf
    with pytest.raises(ValueError, match="row 3 is not finite"):
        row_moments(X, origin_at(X[0]))
