"""Autoregressions of rows that lack some values: held against one joint Gaussian of all values, and integration."""

import itertools

import numpy as np
import pytest
from scipy import stats

from actors.kernels.mixture import autoregression as ar
from actors.kernels.mixture import autoregression_engines as engines
from actors.kernels.mixture.incomplete_series import (
    Gaps,
    Values,
    drawn_forms,
    expected_forms,
    find_gaps,
    log_predictive_observed,
    values_by_one_class,
)
from tests.actors.kernels.mixture.test_autoregression import made_rows, make_prior, make_series, weak_prior


def with_gaps(rows, share, lengths=None, missing=None, order=1, seed=0):
    """A series whose missing values are 0, where they are, and which values are seen."""
    rng = np.random.default_rng(seed)
    missing = np.zeros(len(rows), bool) if missing is None else np.array(missing, bool)
    seen = rng.random(rows.shape) > share
    seen[~seen.any(axis=1), 0] = True
    data = make_series(np.where(seen, rows, 0.0), lengths, missing, order)
    return data, find_gaps(seen, missing, order), seen


def drawn_classes(K, D, order, seed=0):
    rng = np.random.default_rng(seed)
    A = 0.4 * rng.normal(size=(K, D, D * order + 1)) / order
    roots = rng.normal(size=(2, K, D, D + 3)) / np.array([2.0, 1.0]).reshape(2, 1, 1, 1)
    chol, starts = np.linalg.cholesky(roots @ roots.transpose(0, 1, 3, 2))
    return ar.DrawnClasses(A, chol, rng.normal(size=(K, D)), starts)


def joint_gaussian(data, labels, drawn):
    """Mean and covariance of all values, row after row, by the noise that they are linear in."""
    N, D = data.rows.shape
    mean, factor = np.zeros((N, D)), np.zeros((N, D, N * D))
    for t in range(N):
        k, own = labels[t], slice(t * D, (t + 1) * D)
        if not data.follows[t]:
            mean[t], factor[t, :, own] = drawn.initial_means[k], drawn.initial_chol[k]
            continue
        mean[t], factor[t, :, own] = drawn.coefficients[k, :, -1], drawn.chol[k]
        for lag in range(1, data.order + 1):
            A = drawn.coefficients[k, :, (lag - 1) * D : lag * D]
            mean[t] += A @ mean[t - lag]
            factor[t] += A @ factor[t - lag]
    factor = factor.reshape(N * D, N * D)
    return mean.ravel(), factor @ factor.T


def conditioned(mean, covariance, values, seen):
    """Mean and covariance of the values that are not seen."""
    o, m = np.flatnonzero(seen), np.flatnonzero(~seen)
    gain = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, m)]).T
    return mean[m] + gain @ (values[o] - mean[o]), covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(o, m)]


CASES = [(1, 1, None), (1, 3, [7, 1, 6]), (2, 2, [9, 5]), (3, 2, None)]


def case(order, D, lengths, K=3):
    rng = np.random.default_rng(order)
    data, gaps, seen = with_gaps(rng.normal(size=(14, D)), 0.4 if D > 1 else 0.0, lengths, order=order, seed=D)
    if D == 1:  # rows of one value lack it only where it is latent: here some are
        seen = (np.arange(14) % 3 != 1)[:, None]
        gaps = find_gaps(seen, np.zeros(14, bool), order)
        data = make_series(np.where(seen, rng.normal(size=(14, 1)), 0.0), lengths, order=order)
    return data, gaps, seen, drawn_classes(K, D, order), rng.integers(0, K, 14)


class TestGivenLabelsAndParameters:
    @pytest.mark.parametrize("shape", CASES)
    def test_missing_values_are_those_of_the_joint_gaussian(self, shape):
        data, gaps, seen, drawn, labels = case(*shape)
        mean, covariance = joint_gaussian(data, labels, drawn)
        expected, spread = conditioned(mean, covariance, data.rows.ravel(), seen.ravel())
        values = Values(data, gaps)
        draws = np.array([drawn_values(values, labels, drawn, seed) for seed in range(1500)])
        error = np.sqrt(np.diag(spread) / len(draws))
        assert (np.abs(draws.mean(axis=0) - expected) < 4.5 * error).all()
        scale = np.sqrt(np.diag(spread))
        np.testing.assert_allclose(
            np.cov(draws.T).reshape(spread.shape) / scale / scale[:, None], spread / scale / scale[:, None], atol=0.1
        )

    @pytest.mark.parametrize("shape", CASES)
    def test_their_distribution_is_exact(self, shape):
        """The band's mean, covariances and entropy, by the forms of known parameters."""
        data, gaps, seen, drawn, labels = case(*shape)
        values = Values(data, gaps)
        chol, gradient = values._equations(np.eye(3)[labels], drawn_forms(drawn))
        mean, covariance = joint_gaussian(data, labels, drawn)
        expected, spread = conditioned(mean, covariance, data.rows.ravel(), seen.ravel())
        precision = np.linalg.inv(spread)
        lower = np.zeros_like(precision)
        for i, j in itertools.product(range(len(precision)), repeat=2):
            if 0 <= i - j <= gaps.width:
                lower[i, j] = chol[i, gaps.width - i + j]
        np.testing.assert_allclose(lower @ lower.T, precision, rtol=1e-8, atol=1e-8 * np.abs(precision).max())
        np.testing.assert_allclose(np.linalg.solve(precision, gradient), expected, rtol=1e-8, atol=1e-8)


def drawn_values(values, labels, drawn, seed):
    values.draw(labels, drawn, np.random.default_rng(seed))
    return values.data.rows[values.gaps.rows, values.gaps.columns]


def posterior_like(drawn, prior, n=1e9):
    """A posterior of so many rows that its parameters are known."""
    K, _, Q = drawn.coefficients.shape
    precision = np.broadcast_to(np.sqrt(n) * np.eye(Q), (K, Q, Q)).copy()
    dynamics = ar.MNIWPosterior(np.full(K, n), drawn.coefficients, precision, drawn.chol * np.sqrt(n))
    scale = n * drawn.initial_chol @ drawn.initial_chol.transpose(0, 2, 1)
    initial = ar.niw.posterior_from_moments(np.full(K, n), drawn.initial_means, scale)
    return ar.Classes(dynamics, initial, drawn.initial_means)


class TestPredictions:
    @pytest.mark.parametrize("shape", CASES)
    def test_of_known_parameters_and_labels_multiply_to_the_density_of_all_observed_values(self, shape):
        data, gaps, seen, drawn, labels = case(*shape)
        prior = make_prior(data.rows.shape[1], data.order)
        classes, r = posterior_like(drawn, prior), np.eye(3)[labels]
        values = Values(data, gaps)
        values.expect(r, classes, prior)
        density = log_predictive_observed(values, r, classes, prior, left_out=False)
        mean, covariance = joint_gaussian(data, labels, drawn)
        o = np.flatnonzero(seen.ravel())
        expected = stats.multivariate_normal.logpdf(data.rows.ravel()[o], mean[o], covariance[np.ix_(o, o)])
        assert density[np.arange(14), labels].sum() == pytest.approx(expected, rel=1e-5)

    def test_without_gaps_nearby_are_those_of_whole_rows(self):
        rng = np.random.default_rng(3)
        data, _, _ = with_gaps(rng.normal(size=(40, 2)), 0.0)
        seen = np.ones((40, 2), bool)
        seen[20, 1] = False
        gaps, prior, r = find_gaps(seen, ~data.present, 1), make_prior(2), rng.dirichlet(np.ones(2), 40)
        values = Values(data, gaps)
        classes = values.given_labels(r, prior)
        found = log_predictive_observed(values, r, classes, prior, left_out=True)
        whole = ar.log_predictive_loo(values.data, r, classes, prior)
        near = np.isin(np.arange(40), [20, 21])
        np.testing.assert_array_equal(found[~near], whole[~near])
        assert (found[near] != whole[near]).all()

    @pytest.mark.parametrize("left_out", [False, True])
    def test_of_rows_of_which_all_values_are_seen_are_those_of_whole_rows(self, left_out, monkeypatch):
        """The filter with nothing to filter, held against the formulas for whole rows."""
        rng = np.random.default_rng(4)
        data, prior, r = make_series(rng.normal(size=(30, 3)), [18, 12]), make_prior(3), rng.dirichlet(np.ones(2), 30)
        classes = ar.classes_from(data, r, prior)
        whole = ar.log_predictive_loo(data, r, classes, prior) if left_out else ar.log_predictive(data, classes, prior)
        seen = np.ones((30, 3), bool)
        seen[29] = [True, True, False]
        values = Values(data, find_gaps(seen, ~data.present, 1))
        values.gaps = values.gaps._replace(first=np.zeros(31, int))
        monkeypatch.setattr(Gaps, "touched", lambda gaps, data: data.present)  # noqa: ARG005
        found = log_predictive_observed(values, r, classes, prior, left_out=left_out)
        np.testing.assert_allclose(found, whole, rtol=1e-9)

    def test_of_a_row_left_out_are_those_of_classes_without_its_observed_values(self):
        """The last row lacks a value, the rows before are whole: the density of what it has under their class."""
        rng = np.random.default_rng(5)
        rows, prior = rng.normal(size=(12, 3)), make_prior(3)
        seen = np.ones((12, 3), bool)
        seen[11, 1] = False
        one = np.ones((12, 1))
        values = Values(make_series(np.where(seen, rows, 0.0)), find_gaps(seen, np.zeros(12, bool), 1))
        classes = values.given_labels(one, prior)
        found = log_predictive_observed(values, one, classes, prior, left_out=True)[11, 0]
        others = ar.classes_from(make_series(rows[:11]), np.ones((11, 1)), prior).dynamics
        phi, o = np.append(rows[10], 1.0), [0, 2]
        degrees = prior.dynamics.nu0 + 10 - 2
        scale = (others.chol[0] @ others.chol[0].T)[np.ix_(o, o)]
        h = phi @ np.linalg.solve(others.precision_chol[0] @ others.precision_chol[0].T, phi)
        expected = stats.multivariate_t.logpdf(
            rows[11, o], (others.coefficients[0] @ phi)[o], scale * (1 + h) / degrees, degrees
        )
        assert found == pytest.approx(expected, rel=1e-8)


class TestVariationalBayes:
    @pytest.mark.parametrize(("order", "temperature"), [(1, 1.0), (2, 0.5)])
    def test_never_lowers_the_bound(self, order, temperature):
        rng = np.random.default_rng(1)
        data, gaps, _ = with_gaps(rng.normal(size=(60, 3)), 0.3, [25, 35], order=order)
        bounds, values = [], Values(data, gaps)
        engines.variational_bayes(
            data,
            np.eye(3)[rng.integers(0, 3, 60)],
            make_prior(3, order),
            0.5,
            30,
            values=values,
            temperature=temperature,
            on_iteration=lambda _, bound: bounds.append(bound),
        )
        assert len(bounds) > 5
        assert (np.diff(bounds) > -1e-9).all()

    def test_of_one_class_has_a_bound_below_the_evidence_and_near_it(self):
        """One value is missing: the evidence is the integral over it of that of whole rows, on a grid."""
        rng = np.random.default_rng(2)
        rows, prior, one = rng.normal(size=(15, 2)), make_prior(2), np.ones((15, 1))
        seen = np.ones((15, 2), bool)
        seen[6, 1] = False
        grid = np.linspace(-8.0, 8.0, 801)
        logs = []
        for value in grid:
            rows[6, 1] = value
            logs.append(ar.log_marginal_likelihood(ar.classes_from(make_series(rows), one, prior), prior)[0])
        weights = np.exp(np.array(logs) - max(logs))
        evidence = max(logs) + np.log(weights.sum() * (grid[1] - grid[0]))
        data = make_series(np.where(seen, rows, 0.0))
        values = Values(data, find_gaps(seen, ~data.present, 1))
        _, _, bound = engines.variational_bayes(data, one, prior, 1.0, 200, values=values)
        assert evidence - 0.1 < bound < evidence
        mean = (weights * grid).sum() / weights.sum()
        assert values.data.rows[6, 1] == pytest.approx(mean, abs=0.1)

    def test_classes_know_that_missing_values_are_uncertain(self):
        """Moments by draws of the missing values, on average, are those by their covariances."""
        rng = np.random.default_rng(6)
        data, gaps, _ = with_gaps(rng.normal(size=(20, 2)), 0.4, [12, 8])
        prior, r = make_prior(2), rng.dirichlet(np.ones(2), 20)
        values = Values(data, gaps)
        classes = values.given_labels(r, prior)
        values.expect(r, classes, prior)
        chol, _ = values._equations(r, expected_forms(classes, prior))
        found = values.classes(r, prior).dynamics
        n, width = len(gaps.rows), gaps.width
        lower = np.array([[chol[i, width - i + j] if 0 <= i - j <= width else 0.0 for j in range(n)] for i in range(n)])
        precision = np.zeros((2, 5 - 2, 5 - 2))
        draws = 5000
        noise = np.linalg.solve(lower.T, rng.normal(size=(n, draws)))
        for each in noise.T:
            rows = values.data.rows.copy()
            rows[gaps.rows, gaps.columns] += each
            phi = data.with_rows(rows).regressors
            precision += np.einsum("tk,ta,tb->kab", r[data.follows], phi, phi) / draws
        expected = found.precision_chol @ found.precision_chol.transpose(0, 2, 1) - np.diag(prior.dynamics.precision)
        np.testing.assert_allclose(expected, precision, rtol=0.05, atol=0.1)

    def test_finds_the_dynamics_where_a_quarter_of_the_values_is_missing(self):
        rows, labels, turns = made_rows()
        data, gaps, seen = with_gaps(rows, 0.25)
        rng = np.random.default_rng(0)
        start = np.where(rng.random((len(rows), 1)) < 0.3, np.eye(2)[labels], np.eye(2)[rng.integers(0, 2, len(rows))])
        values = values_by_one_class(data, gaps, weak_prior(2), np.ones(2))
        r, classes, _ = engines.variational_bayes(data, start, weak_prior(2), 1.0, 100, values=values)
        assert (r.argmax(axis=1) == labels).mean() > 0.85
        for k in range(2):
            np.testing.assert_allclose(classes.dynamics.coefficients[k, :, :2], turns[k], atol=0.1)
        error = np.square(values.data.rows - rows)[~seen].mean()
        assert error < 0.2 * np.square(rows - rows.mean(axis=0))[~seen].mean()


@pytest.mark.slow
def test_gibbs_sampling_has_the_posterior_of_labels_and_missing_values():
    """Three rows of two classes, one value missing: labels by enumeration, the value on a grid."""
    prior = weak_prior(2)
    prior = ar.Prior(ar.MNIWPrior(prior.dynamics.mean, np.full(3, 1.0), 6.0, np.eye(2)), prior.initial, prior.centre)
    rows, seen = np.array([[0.3, 0.2], [0.8, 0.0], [1.5, -0.5], [1.0, 0.4]]), np.ones((4, 2), bool)
    seen[1, 1] = False
    grid, weight, alpha = np.linspace(-12.0, 12.0, 481), {}, 1.0
    for labels in itertools.product(range(2), repeat=4):
        r, logs = np.eye(2)[list(labels)], []
        for value in grid:
            rows[1, 1] = value
            logs.append(ar.log_marginal_likelihood(ar.classes_from(make_series(rows), r, prior), prior).sum())
        n = r.sum(axis=0)
        weights = np.prod([np.prod(alpha + np.arange(int(each))) for each in n])
        weight[labels] = weights * np.exp(logs)
    total = sum(each.sum() for each in weight.values())
    together = sum(each.sum() for labels, each in weight.items() if labels[1] == labels[2]) / total
    mean = sum((each * grid).sum() for each in weight.values()) / total
    data = make_series(np.where(seen, rows, 0.0))
    values = Values(data, find_gaps(seen, np.zeros(4, bool), 1))
    rng, found = np.random.default_rng(0), []
    z, same, drawn = np.zeros(4, int), 0, 2500
    classes = values.given_labels(np.eye(2)[z], prior)
    for _ in range(drawn):
        z, classes = one_sweep(values, z, classes, prior, alpha, rng)
        same += z[1] == z[2]
        found.append(values.data.rows[1, 1])
    assert same / drawn == pytest.approx(together, abs=0.05)
    assert np.mean(found) == pytest.approx(mean, abs=0.1)


def one_sweep(values, z, classes, prior, alpha, rng):
    """One sweep of the engine, whose final expectations are not taken."""
    found = []
    original = values.given_labels
    values.given_labels = lambda r, prior: (found.append(values.data), values.classes(r, prior))[1]
    try:
        return engines.blocked_gibbs(values.data, z, prior, alpha, 1, rng, K=2, values=values)
    finally:
        values.given_labels = original


def test_a_row_that_is_missing_as_a_whole_is_no_latent_variable():
    rng = np.random.default_rng(7)
    missing = np.arange(20) == 9
    data, gaps, _ = with_gaps(rng.normal(size=(20, 2)), 0.3, missing=missing)
    assert 9 not in gaps.rows
    assert not gaps.touched(data)[9]


def test_a_scale_that_is_not_determined_is_refused():
    data, gaps, _ = with_gaps(np.random.default_rng(8).normal(size=(6, 2)), 0.5)
    drawn = drawn_classes(1, 2, 1)
    singular = drawn._replace(chol=drawn.chol * 1e170, initial_chol=drawn.initial_chol * 1e170)
    with pytest.raises(ValueError, match="is not determined in float64"):
        Values(data, gaps).draw(np.zeros(6, int), singular, np.random.default_rng(0))
