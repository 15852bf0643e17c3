"""Test normalisers and softmax of rows against scipy, and that a row's bits depend on that row alone."""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from actors.kernels.log_rows import BLOCK_ENTRIES, log_sum_exp, softmax_of_rows


def scores(rows, classes, scale=1.0):
    return scale * np.random.default_rng(rows + classes).normal(size=(rows, classes))


@pytest.mark.parametrize(("rows", "classes", "scale"), [(1, 10, 1.0), (300, 10, 300.0), (50, 1, 5.0), (2, 400, 1e300)])
def test_normalisers_and_softmax_are_those_of_scipy(rows, classes, scale):
    given = scores(rows, classes, scale)
    before = given.copy()
    np.testing.assert_allclose(log_sum_exp(given), logsumexp(given, axis=1), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(softmax_of_rows(given), softmax(given, axis=1), rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(given, before)
    transposed = np.asfortranarray(given)  # the transpose is in C order, and must not be overwritten
    log_sum_exp(transposed)
    softmax_of_rows(transposed)
    np.testing.assert_array_equal(transposed, before)


@pytest.mark.parametrize("classes", [3, 10, 200])
def test_a_row_has_the_same_bits_alone_and_among_others(classes):
    given = scores(2 * (BLOCK_ENTRIES // classes) + 1, classes, 30.0)  # three blocks, the last of one row
    norms, soft = log_sum_exp(given), softmax_of_rows(given)
    for row in (0, 7, BLOCK_ENTRIES // classes, len(given) - 1):
        for order in ("C", "F"):
            alone, pair = (np.array(given[row : row + n], order=order) for n in (1, 2))
            assert log_sum_exp(alone)[0] == log_sum_exp(pair)[0] == norms[row]
            assert (softmax_of_rows(alone)[0] == soft[row]).all()
            assert (softmax_of_rows(pair)[0] == soft[row]).all()


def test_impossible_classes_count_nothing_and_impossible_rows_are_minus_infinity():
    given = np.array([[-np.inf, 2.0, 2.0], [-np.inf] * 3, [-1e308, -1e308, -np.inf]])
    np.testing.assert_allclose(log_sum_exp(given), [2.0 + np.log(2.0), -np.inf, -1e308])
    np.testing.assert_allclose(softmax_of_rows(given)[[0, 2]], [[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]])
    assert np.isnan(softmax_of_rows(given)[1]).all()


def test_infinity_and_nan_are_not_hidden():
    given = np.array([[np.inf, 0.0], [np.nan, 0.0], [0.0, np.nan]])
    norms = log_sum_exp(given)
    assert norms[0] == np.inf
    assert np.isnan(norms[1:]).all()
