"""Autoregressions from sums over chunks of rows: those of all rows, about any reference and in any units."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import matrix_normal  # an independent density of coefficients

from actors.kernels.mixture.autoregression import MNIWPrior, Prior, classes_from, evidence_lower_bound, series
from actors.kernels.mixture.autoregression_sums import (
    Preceding,
    Reference,
    bound_from_sums,
    class_sums,
    classes_from_sums,
    of_columns,
    series_after,
    step_sums,
    translated,
    translated_sums,
    unexplained_variance,
    variational_sums,
)
from actors.kernels.mixture.niw import NIWPrior

N, D, K = 60, 3, 2
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(N, D)).cumsum(axis=0) * np.array([1.0, 0.1, 10.0])
MISSING = RNG.random(N) < 0.1
STARTS = np.array([0, 20, 22, 41, N])
WEIGHTS = np.where(MISSING[:, None], 0.0, RNG.dirichlet(np.ones(K), N))


def prior_of(D, order=1):
    mean = np.zeros((D, D * order + 1))
    mean[:, :D] = np.eye(D)
    precision = np.append(np.tile(np.arange(1.0, D + 1), order), 0.5)
    dynamics = MNIWPrior(mean, precision, D + 2.0, np.diag(np.arange(1.0, D + 1)))
    return Prior(dynamics, NIWPrior(np.zeros(D), 0.7, D + 3.0, np.eye(D)), np.zeros(D))


def reference(D=D, order=1, seed=1):
    generator = np.random.default_rng(seed)
    return Reference(0.1 * generator.normal(size=(K, D, D * order + 1)), generator.normal(size=(K, D)))


def in_chunks(size, order):
    """Yield the series of each chunk, and its rows, as workers would see them."""
    before = Preceding.none(D)
    for first in range(0, N, size):
        rows = slice(first, min(first + size, N))
        inner = STARTS[(first < STARTS) & (rows.stop > STARTS)] - first
        starts = np.concatenate([[0], inner, [rows.stop - first]])
        own = Preceding.none(D) if first in STARTS else before
        yield rows, series_after(own, ROWS[rows], MISSING[rows], starts, order)
        last = int(starts[-2])
        kept = own if last == 0 else Preceding.none(D)
        before = kept.followed_by(ROWS[rows][last:], MISSING[rows][last:], order)


def assert_same(classes, expected):
    for of, other in zip(classes[:2], expected[:2], strict=True):
        for name, value in other._asdict().items():
            assert_allclose(getattr(of, name), value, rtol=1e-10, atol=1e-10, err_msg=name)
    assert_allclose(classes.mean, expected.mean, rtol=1e-10)


@pytest.mark.parametrize(("size", "order"), [(N, 1), (7, 1), (7, 3), (2, 4), (1, 2)])
def test_chunks_have_the_regressors_of_all_rows(size, order):
    whole, parts = series(ROWS, MISSING, STARTS, order), [data for _, data in in_chunks(size, order)]
    for name in whole._fields:
        assert_array_equal(np.concatenate([getattr(data, name) for data in parts]), getattr(whole, name), err_msg=name)


@pytest.mark.parametrize(("size", "order"), [(N, 1), (7, 2), (2, 3)])
@pytest.mark.parametrize("with_prior", [False, True])
def test_classes_and_bound_follow_from_sums_about_any_reference(size, order, with_prior):
    prior, near, total = prior_of(D, order), reference(order=order), {}
    log_prior = np.log(RNG.dirichlet(np.ones(K), N)) if with_prior else None
    for rows, data in in_chunks(size, order):
        sums = variational_sums(data, WEIGHTS[rows], near, None if log_prior is None else log_prior[rows])
        total = {name: total.get(name, 0.0) + value for name, value in sums.items()}
    whole = series(ROWS, MISSING, STARTS, order)
    expected, classes = classes_from(whole, WEIGHTS, prior), classes_from_sums(total, near, prior)
    assert_same(classes, expected)
    options = {"temperature": 0.7, "use_weights": not with_prior}
    bound = evidence_lower_bound(WEIGHTS, expected, prior, 0.3, log_prior=log_prior, **options)
    assert bound_from_sums(total, classes, prior, 0.3, **options) == pytest.approx(bound, rel=1e-11)


def test_coefficients_are_where_their_posterior_density_is_largest():
    """Of one class: no other coefficients have a higher density times likelihood, by scipy's matrix normal."""
    prior, near = prior_of(D), reference()
    data = series(ROWS, np.zeros(N, bool), np.array([0, N]), 1)
    one = Reference(near.coefficients[:1], near.means[:1])
    classes = classes_from_sums(class_sums(data, np.ones((N, 1)), one), one, prior)
    covariance = np.diag([2.0, 1.0, 3.0])  # any: the mode does not depend on it

    def density(coefficients):
        residuals = data.following - data.regressors @ coefficients.T
        likelihood = -0.5 * np.einsum("td,de,te->", residuals, np.linalg.inv(covariance), residuals)
        columns = np.diag(1.0 / prior.dynamics.precision)
        return likelihood + matrix_normal(prior.dynamics.mean, covariance, columns).logpdf(coefficients)

    best = density(classes.dynamics.coefficients[0])
    for seed in range(20):
        moved = np.random.default_rng(seed).normal(size=(D, D + 1)) * 1e-3
        assert density(classes.dynamics.coefficients[0] + moved) < best


@pytest.mark.parametrize("order", [1, 2])
def test_sums_and_reference_in_other_units_are_those_of_rows_in_these(order):
    factor, shift = np.array([2.0, 0.25, 8.0]), np.array([0.5, -3.0, 100.0])
    near, prior = reference(order=order), prior_of(D, order)
    data = series(ROWS, MISSING, STARTS, order)
    moved = translated_sums(class_sums(data, WEIGHTS, near), factor, shift, order)
    other = Reference(translated(near.coefficients, factor, shift), factor * near.means + shift)
    there = series(factor * ROWS + shift, MISSING, STARTS, order)
    for name, value in class_sums(there, WEIGHTS, other).items():
        assert_allclose(moved[name], value, rtol=1e-9, atol=1e-9 * np.abs(value).max(), err_msg=name)
    assert_same(classes_from_sums(moved, other, prior), classes_from(there, WEIGHTS, prior))


@pytest.mark.parametrize("order", [1, 2])
def test_sums_of_some_columns_are_those_of_rows_with_these_alone(order):
    kept, prior = np.array([True, False, True]), prior_of(2, order)
    sums, near = of_columns(
        class_sums(series(ROWS, MISSING, STARTS, order), WEIGHTS, reference(order=order)), reference(order=order), kept
    )
    own = series(np.ascontiguousarray(ROWS[:, kept]), MISSING, STARTS, order)
    for name, value in class_sums(own, WEIGHTS, near).items():
        assert_allclose(sums[name], value, rtol=1e-9, atol=1e-9 * np.abs(value).max(), err_msg=name)
    assert_same(classes_from_sums(sums, near, prior), classes_from(own, WEIGHTS, prior))


@pytest.mark.parametrize("persistence", [True, False])
def test_the_unexplained_variance_is_that_of_what_the_prior_mean_leaves(persistence):
    origin, total = np.array([3.0, -1.0, 40.0]), {}
    for start in ((slice(0, 30), 0), (slice(30, N), 30)):
        rows, first = start
        before = Preceding(ROWS[first - 2 : first] - origin, MISSING[first - 2 : first]) if first else Preceding.none(D)
        data = series_after(before, ROWS[rows] - origin, MISSING[rows], np.array([0, 30]), 2)
        sums = step_sums(data, persistence=persistence)
        total = {name: total.get(name, 0.0) + value for name, value in sums.items()}
    centre = ROWS[~MISSING].mean(axis=0)
    follows = np.flatnonzero(series(ROWS, MISSING, np.array([0, N]), 2).follows)
    left = ROWS[follows] - (ROWS[follows - 1] if persistence else centre)
    found = unexplained_variance(total, centre - origin, persistence=persistence)
    assert_allclose(found, np.square(left).mean(axis=0), rtol=1e-11)
