"""Test the operations on eight numbers in compiled code, and their Python forms, against numpy."""

import numpy as np
import pytest

import actors.kernels.compiled_lanes  # noqa: F401 (registers them with numba)
from actors.kernels import lanes
from actors.kernels.lanes import LANES, larger, load, load_first, smaller, spread, store, store_first, total


def every_operation(values, out):
    """Combine rows of eight numbers by every operation; return a sum."""
    first, second = load(values, 0), load(values, 8)
    store(out, 0, first + second)
    store(out, 8, first - second)
    store(out, 16, first * spread(values[2, 0]))
    store(out, 24, larger(first, second))
    store(out, 32, smaller(first, second))
    return total(first)


def copied(values, out):
    """Copy rows of any length in groups of eight."""
    columns = values.shape[1]
    for row in range(values.shape[0]):
        for j in range(0, columns, LANES):
            store_first(out, row * columns + j, load_first(values, row * columns + j, columns - j), columns - j)


def forms(function):
    """Return the compiled form of a function outside of the package, and the function itself."""
    from numba import njit

    return [njit(function), function]


@pytest.mark.parametrize("run", forms(every_operation))
def test_operations_are_those_of_numpy(run):
    values = np.random.default_rng(0).normal(size=(3, LANES))
    out = np.empty((5, LANES))
    assert run(values, out) == pytest.approx(values[0].sum(), rel=1e-14)
    np.testing.assert_array_equal(out[0], values[0] + values[1])
    np.testing.assert_array_equal(out[1], values[0] - values[1])
    np.testing.assert_array_equal(out[2], values[0] * values[2, 0])
    np.testing.assert_array_equal(out[3], np.maximum(values[0], values[1]))
    np.testing.assert_array_equal(out[4], np.minimum(values[0], values[1]))


def test_both_forms_have_the_same_bits():
    values = np.random.default_rng(1).normal(size=(3, LANES)) * 10.0 ** np.arange(LANES)
    compiled, plain = (np.empty((5, LANES)) for _ in range(2))
    run, itself = forms(every_operation)
    assert run(values, compiled) == itself(values, plain)
    np.testing.assert_array_equal(compiled, plain)


@pytest.mark.parametrize("run", forms(copied))
@pytest.mark.parametrize("columns", [1, 7, 8, 9, 10, 16, 23])
def test_the_last_group_of_a_row_touches_nothing_beyond(run, columns):
    values = np.random.default_rng(columns).normal(size=(5, columns))
    out = np.full((7, columns), np.nan)
    run(values, out[1:6])
    np.testing.assert_array_equal(out[1:6], values)
    assert np.isnan(out[[0, 6]]).all()


def test_rows_with_room_are_followed_by_zeros():
    rows = lanes.rows_with_room(3, 5)
    assert rows.shape == (3, 5)
    assert rows.flags.c_contiguous
    assert (rows.base[15:] == 0.0).all()
    assert len(rows.base) == 15 + LANES


def logarithms(values, function):
    """Return the logarithms of numbers in groups of eight."""
    out = np.empty_like(values)
    for at in range(0, len(values), LANES):
        function(values, out, at)
    return out


COMPILED, PLAIN = (
    forms(lambda values, out, at: store(out, at, lanes.logarithm(load(values, at))))[0],
    lambda values, out, at: store(out, at, lanes.logarithm.py_func(load(values, at))),
)


def test_logarithms_are_exact_to_one_unit_in_the_last_place():
    rng = np.random.default_rng(4)
    near = 1.0 + rng.normal(size=4000) * 10.0 ** rng.uniform(-15, -1, 4000)
    values = np.concatenate(
        [near, 2.0 ** rng.uniform(-1022, 1024, 4000), 2.0 ** np.arange(-1022.0, 1024.0), [1.0, 0.5]]
    )
    found, exact = logarithms(values, COMPILED), np.log(values.astype(np.longdouble))
    assert len(values) % LANES == 0
    assert (np.abs(found - exact) <= np.spacing(np.abs(exact.astype(np.float64)))).all()
    np.testing.assert_array_equal(logarithms(values, PLAIN), found)
