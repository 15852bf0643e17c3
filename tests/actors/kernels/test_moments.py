"""Test principal components from sums over chunks against scikit-learn."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from actors.kernels.moments import components_from_moments, moments_of


def rows(seed=0, N=300, P=7):
    """Return rows of clearly different principal variances, rotated and shifted."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(P, P)))[0]
    return rng.normal(size=(N, P)) * 2.0 ** -np.arange(P) @ rotation + rng.normal(size=P)


def by_chunks(X, reference, latent_dim, size=64):
    parts = [moments_of(X[start : start + size], reference) for start in range(0, len(X), size)]
    summed = functools.reduce(lambda left, right: {name: left[name] + right[name] for name in left}, parts)
    return components_from_moments(summed, reference, latent_dim)


def assert_fitted_as(fitted, X, latent_dim, atol=1e-9):
    expected = PCA(latent_dim, svd_solver="covariance_eigh").fit(X)
    for name, value in fitted.items():
        assert_allclose(value, getattr(expected, name), rtol=1e-9, atol=atol)


@pytest.mark.parametrize("size", [1, 64, 300])
@pytest.mark.parametrize("latent_dim", [1, 3, 7])
def test_the_components_of_summed_chunks_are_those_of_scikit_learn(latent_dim, size):
    X = rows()
    for reference in (X[0], X.mean(axis=0), np.zeros(7)):
        fitted = by_chunks(X, reference, latent_dim, size)
        assert_fitted_as(fitted, X, latent_dim)
        assert fitted["components_"].flags.c_contiguous


def test_components_of_digits_with_constant_pixels_are_those_of_scikit_learn():
    X = load_digits().data / 16.0
    assert (X.var(axis=0) == 0.0).any()
    assert_fitted_as(by_chunks(X, X[0], 12, 100), X, 12)


def test_as_many_components_as_rows_are_possible():
    X = rows(1, N=4, P=7)
    fitted = by_chunks(X, X[0], 4, 3)
    assert_fitted_as({name: fitted[name] for name in ("mean_", "explained_variance_")}, X, 4)
    assert_fitted_as({"components_": fitted["components_"][:3]}, X, 3)  # the fourth has no variance, and no direction
    assert fitted["explained_variance_"][3] >= 0.0


@pytest.mark.parametrize("shift", [1e3, 1e6])
def test_rows_far_from_zero_have_the_same_components(shift):
    X = rows(2)
    near = by_chunks(X, X[0], 3)
    moved = by_chunks(X + shift, X[0] + shift, 3)
    assert_allclose(moved["mean_"], near["mean_"] + shift, rtol=1e-12)
    assert_allclose(moved["components_"], near["components_"], atol=1e-14 * shift)
    assert_allclose(moved["explained_variance_"], near["explained_variance_"], rtol=1e-14 * shift)


def test_a_chunk_without_rows_adds_nothing():
    assert all((value == 0.0).all() for value in moments_of(np.zeros((0, 3)), np.ones(3)).values())


def test_bytes_are_summed_as_numbers():
    X = np.random.default_rng(3).integers(0, 256, (20, 3)).astype(np.uint8)
    for name, value in moments_of(X, X[0].astype(float)).items():
        assert_array_equal(value, moments_of(X.astype(float), X[0].astype(float))[name])


@pytest.mark.parametrize(("N", "latent_dim"), [(1, 1), (3, 4), (9, 8), (9, 0)])
def test_too_few_rows_or_values_are_refused(N, latent_dim):
    X = rows(4, N=N)
    with pytest.raises(ValueError, match=f"{N} rows of 7 values are not enough for {latent_dim} components"):
        by_chunks(X, X[0], latent_dim)


def test_rows_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"rows must have the shape \(N, 3\)"):
        moments_of(np.zeros((4, 2)), np.zeros(3))
