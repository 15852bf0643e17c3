"""Test scatter matrices of weighted rows against sums in extended precision."""

import numpy as np
import pytest

from actors.kernels.mixture import scatter


def drawn(rows, dimension, classes=3, scale=1.0):
    rng = np.random.default_rng(rows * dimension)
    weights = rng.dirichlet(np.full(classes, 0.3), rows).T.copy()
    weights[:, rng.random(rows) < 0.3] = 0.0  # rows without any class
    return scale * rng.normal(size=(rows, dimension)), weights, scale * rng.normal(size=(classes, dimension))


def exact(X, weights, centres):
    centred = X.astype(np.longdouble)[None] - centres.astype(np.longdouble)[:, None]
    return np.einsum("kt,kti,ktj->kij", weights.astype(np.longdouble), centred, centred)


@pytest.mark.parametrize("dimension", [1, 2, 7, 8, 9, 18, 64, 65])
@pytest.mark.parametrize("rows", [1, 4, 5, 255, 256, 258, 600])
def test_scatter_matrices_are_the_weighted_sums_of_outer_products(rows, dimension):
    given = drawn(rows, dimension)
    found, expected = scatter.weighted_scatter(*given), exact(*given)
    deviations = np.sqrt(np.einsum("kii->ki", expected).astype(float))
    error = np.abs(found - expected) / (deviations[:, :, None] * deviations[:, None, :] + 1e-300)
    assert error.max() < 1e-13
    np.testing.assert_array_equal(found, found.transpose(0, 2, 1))


@pytest.mark.parametrize("dimension", [3, 65])
def test_a_class_without_weight_has_no_scatter_and_rows_are_not_changed(dimension):
    X, weights, centres = drawn(30, dimension)
    weights[1] = 0.0
    before = X.copy()
    found = scatter.weighted_scatter(X, weights, centres)
    assert (found[1] == 0.0).all()
    assert (np.linalg.eigvalsh(found[[0, 2]]) > -1e-12).all()
    np.testing.assert_array_equal(X, before)


def test_other_units_scale_the_scatter_exactly():
    X, weights, centres = drawn(300, 18)
    small, large = (scatter.weighted_scatter(factor * X, weights, factor * centres) for factor in (2.0**-400, 2.0**400))
    expected = scatter.weighted_scatter(X, weights, centres)
    np.testing.assert_array_equal(small * 2.0**800, expected)
    np.testing.assert_array_equal(large * 2.0**-800, expected)
