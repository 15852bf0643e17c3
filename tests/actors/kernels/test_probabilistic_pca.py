"""Tests of principal components of rows in which some values are missing."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from actors.kernels.probabilistic_pca import fit_components

N, P, L = 200, 8, 3


def rows(seed=0):
    generator = np.random.default_rng(seed)
    return 2 * generator.normal(size=(N, L)) @ generator.normal(size=(L, P)) + 0.3 * generator.normal(size=(N, P)) + 5


def test_complete_rows_have_the_components_and_the_likelihood_of_scikit_learn():
    X, trace = rows(), []
    found = fit_components(X, np.ones((N, P), bool), L, lambda _, likelihood: trace.append(likelihood))
    expected = PCA(L).fit(X)
    np.testing.assert_allclose(found.components, expected.components_, atol=1e-8)
    np.testing.assert_allclose(found.variances, expected.explained_variance_, rtol=1e-6)
    assert found.noise == pytest.approx(expected.noise_variance_, rel=1e-5)
    covariance = found.components.T @ np.diag(found.variances - found.noise) @ found.components
    covariance = (covariance + found.noise * np.eye(P)) * (N - 1) / N
    assert trace[-1] == pytest.approx(multivariate_normal(X.mean(axis=0), covariance).logpdf(X).sum(), rel=1e-6)


def test_the_likelihood_never_falls_and_is_that_of_the_observed_values():
    X, trace = rows(), []
    seen = np.random.default_rng(1).random((N, P)) > 0.4
    seen[~seen.any(axis=1), 0] = True
    found = fit_components(np.where(seen, X, 99.0), seen, L, lambda _, likelihood: trace.append(likelihood))
    assert np.diff(trace).min() > -1e-6
    covariance = found.components.T @ np.diag(found.variances - found.noise) @ found.components
    covariance = (covariance + found.noise * np.eye(P)) * (N - 1) / N
    expected = sum(
        multivariate_normal(found.mean[o], covariance[np.ix_(o, o)]).logpdf(x[o]) for x, o in zip(X, seen, strict=True)
    )
    assert trace[-1] == pytest.approx(expected, rel=1e-4)


def test_rows_without_noise_have_components():
    X = np.outer(np.arange(10.0), [1.0, 2.0, 3.0])
    seen = np.ones((10, 3), bool)
    seen[2, 0] = seen[4, 2] = False
    found = fit_components(np.where(seen, X, 0.0), seen, 1)
    np.testing.assert_allclose(found.components[0], np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0), atol=1e-4)
