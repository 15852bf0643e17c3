"""Sums behind learnt Gaussian classes: those of the rows, in any units, and the classes of all rows together."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import mahalanobis

from actors.kernels.mixture import pooling
from actors.kernels.mixture.columns import Columns, choose_columns
from actors.kernels.mixture.niw import NIWPrior
from actors.kernels.mixture.variational import posterior_from_responsibilities

N, M, D, K = 60, 90, 3, 4
RNG = np.random.default_rng(0)
LEFT, RIGHT = RNG.normal(size=(N, D)) + 2.0, 3.0 * RNG.normal(size=(M, D))
R_LEFT, R_RIGHT = RNG.dirichlet(np.ones(K), N), RNG.dirichlet(np.ones(K), M)
EVERY = np.arange(K)


def prior_of(rows):
    return NIWPrior(rows.mean(axis=0), 0.7, rows.shape[1] + 2.0, 0.3 * rows.var(axis=0))


def learnt(rows, responsibilities):
    """Return posterior, prior and columns as a site learns them: the prior and the units are those of its own rows."""
    columns = choose_columns(rows, np.float64)
    internal = columns.internal(rows)
    prior = prior_of(internal)
    return posterior_from_responsibilities(internal, responsibilities, prior), prior, columns


def together(left, right, r_left=R_LEFT, r_right=R_RIGHT):
    """Return the pooled sums of two sites, and the posterior, prior and columns of their rows in one place."""
    sums = pooling.pool(*(pooling.sums_of_posterior(*learnt(*site)) for site in ((left, r_left), (right, r_right))))
    rows, responsibilities = np.concatenate([left, right]), np.concatenate([r_left, r_right])
    return sums, rows, learnt(rows, responsibilities)


def test_the_sums_behind_a_posterior_are_those_of_its_rows():
    sums = pooling.sums_of_posterior(*learnt(LEFT, R_LEFT))
    assert_allclose(sums["counts"], R_LEFT.sum(axis=0))
    for k in EVERY:
        centred = LEFT - sums["points"][k]
        assert_allclose(sums["first"][k], R_LEFT[:, k] @ centred, atol=1e-12)
        assert_allclose(sums["second"][k], (R_LEFT[:, k, None] * centred).T @ centred, atol=1e-11)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (LEFT, RIGHT),
        (LEFT + 1e9, RIGHT + 1e9),  # centred by both
        (1e-160 * LEFT, 1e-159 * RIGHT),  # divided by both
        (1e150 * LEFT, 1e151 * RIGHT),
        (LEFT + np.array([0.0, 1e9, 0.0]), RIGHT),  # centred by one
        (LEFT * [1.0, 0.0, 1.0] + [0.0, 2.0, 0.0], RIGHT),  # one value in all rows of one site
        (LEFT * [1.0, 0.0, 1.0], RIGHT * [1.0, 0.0, 1.0] + [0.0, 5.0, 0.0]),  # another value at each site
        (LEFT * [1.0, 0.0, 1.0] + [0.0, 5.0, 0.0], RIGHT * [1.0, 0.0, 1.0] + [0.0, 5.0, 0.0]),  # the same value
    ],
)
def test_pooled_classes_are_those_of_all_rows_in_one_place(left, right):
    sums, rows, (expected, prior, columns) = together(left, right)
    found = pooling.pooled_columns(sums)
    assert_array_equal(found.kept, columns.kept)
    assert_array_equal(found.exponent, columns.exponent)
    assert_allclose(found.centre, columns.centre, rtol=1e-14)
    internal = columns.internal(rows)
    inside, mean, variance = pooling.internal_sums(sums, columns)
    scale = internal.std()
    assert_allclose(mean, internal.mean(axis=0), rtol=1e-9, atol=1e-7 * scale)
    assert_allclose(variance, internal.var(axis=0), rtol=1e-6)
    posterior = pooling.pooled_posterior(inside, prior)
    tolerance = 1e-6 if np.abs(left).max() / left.std() > 1e6 else 1e-9  # the rows themselves are rounded to 1e-7
    assert_allclose(posterior.counts, expected.counts, rtol=1e-12)
    assert_allclose(posterior.mean, expected.mean, rtol=tolerance, atol=tolerance * scale)
    assert_allclose(posterior.scale, expected.scale, rtol=tolerance, atol=tolerance * np.abs(expected.scale).max())


def test_the_order_in_which_sites_are_pooled_does_not_matter():
    sites = [pooling.sums_of_posterior(*learnt(*site)) for site in ((LEFT, R_LEFT), (RIGHT, R_RIGHT))]
    sites.append(pooling.sums_of_posterior(*learnt(RIGHT[:40] - 7.0, R_RIGHT[:40])))
    results = []
    for a, b, c in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        sums = pooling.pool(pooling.pool(sites[a], sites[b]), sites[c])
        inside, mean, variance = pooling.internal_sums(sums, pooling.pooled_columns(sums))
        results.append(pooling.pooled_posterior(inside, NIWPrior(mean, 1.0, D + 2.0, variance)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert_allclose(one, two, rtol=1e-11, atol=1e-11)


def test_renumbering_moves_counts_and_sums_alike():
    sums = pooling.sums_of_posterior(*learnt(LEFT, R_LEFT))
    order = np.array([2, 0, 3, 1])
    expected = pooling.sums_of_posterior(*learnt(LEFT, R_LEFT[:, order]))
    for name, value in pooling.renumbered(sums, order).items():
        assert_allclose(value, expected[name], atol=1e-11)


def clusters(means, seed=0, rows=60_000):
    """Return the sums of clusters with one covariance, and that covariance."""
    root = np.array([[1.0, 0.0], [0.8, 0.5]])
    labels = np.arange(rows) % len(means)
    x = np.asarray(means)[labels] + np.random.default_rng(seed).normal(size=(rows, 2)) @ root.T
    return x, np.eye(len(means))[labels], root @ root.T


def test_the_distance_of_classes_with_one_covariance_is_that_of_mahalanobis():
    means = [[0.0, 0.0], [4.0, 1.0], [-3.0, 5.0]]
    x, r, covariance = clusters(means)
    y, _, _ = clusters(means, seed=1)
    found = pooling.class_distances(*(pooling.sums_of_posterior(*learnt(rows, r)) for rows in (x, y)))
    inverse = np.linalg.inv(covariance)
    expected = [[mahalanobis(a, b, inverse) for b in means] for a in means]
    assert_allclose(found, expected, rtol=0.02, atol=0.05)


@pytest.mark.parametrize("factor", [[1e3, 1e-6], [1e160, 1e-160], [-1.0, 1.0]])
def test_distances_do_not_depend_on_units(factor):
    means = [[0.0, 0.0], [4.0, 1.0], [-3.0, 5.0]]
    (x, r, _), (y, _, _) = clusters(means, rows=300), clusters(means, seed=1, rows=300)
    plain, other = (
        pooling.class_distances(*(pooling.sums_of_posterior(*learnt(f * rows, r)) for rows in (x, y)))
        for f in (np.ones(2), np.array(factor))
    )
    assert_allclose(other, plain, rtol=1e-6)


def test_a_class_without_rows_is_at_no_distance():
    empty = R_LEFT.copy()
    empty[:, 1] = 0.0
    empty /= empty.sum(axis=1, keepdims=True)
    left, right = (pooling.sums_of_posterior(*learnt(*site)) for site in ((LEFT, empty), (RIGHT, R_RIGHT)))
    found = pooling.class_distances(left, right)
    assert np.isinf(found[1]).all()
    assert np.isfinite(found[[0, 2, 3]]).all()
    assert np.isinf(pooling.class_distances(right, left)[:, 1]).all()


def test_rows_without_any_varying_column_stay_as_they_are():
    rows = np.full((5, D), 2.0)
    columns = choose_columns(rows, np.float64)
    prior = NIWPrior(rows[0], 1.0, D + 2.0, np.ones(D))
    site = pooling.sums_of_posterior(posterior_from_responsibilities(rows, np.ones((5, 1)), prior), prior, columns)
    assert isinstance(columns, Columns)
    inside, mean, variance = pooling.internal_sums(pooling.pool(site, site), columns)
    assert_allclose(mean, 2.0)
    assert_allclose(variance, 0.0, atol=1e-15)
    assert inside["counts"] == 10.0
