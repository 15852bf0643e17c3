"""Classes that are linear-Gaussian autoregressions: their posterior, densities, samples and both engines."""

import numpy as np
import pytest
from scipy import stats

from actors.kernels.mixture import autoregression as ar
from actors.kernels.mixture import autoregression_engines as engines
from actors.kernels.mixture.niw import NIWPrior, log_predictive
from actors.kernels.mixture.niw import posterior_from_labels as niw_posterior


def make_series(rows, lengths=None, missing=None, order=1):
    rows = np.asarray(rows, float).reshape(len(rows), -1)
    starts = np.concatenate([[0], np.cumsum([len(rows)] if lengths is None else lengths)])
    missing = np.zeros(len(rows), bool) if missing is None else np.asarray(missing)
    return ar.series(rows, missing, starts, order)


def make_prior(D, order=1, *, nu0=None, seed=0):
    rng = np.random.default_rng(seed)
    Q = D * order + 1
    root = rng.normal(size=(D, D + 2))
    dynamics = ar.MNIWPrior(
        0.3 * rng.normal(size=(D, Q)), rng.uniform(0.5, 2.0, Q), D + 2.5 if nu0 is None else nu0, root @ root.T
    )
    return ar.Prior(dynamics, NIWPrior(rng.normal(size=D), 0.7, D + 2.0, np.eye(D)), np.zeros(D))


def one_class(data):
    return data.present[:, None].astype(float)


class TestRegressors:
    def test_are_the_rows_before_a_row_and_one(self):
        data = make_series([[1, 10], [2, 20], [3, 30], [4, 40]], order=2)
        assert data.follows.tolist() == [False, False, True, True]
        np.testing.assert_array_equal(data.regressors, [[2, 20, 1, 10, 1], [3, 30, 2, 20, 1]])

    def test_do_not_cross_sequences_or_missing_rows(self):
        missing = [0, 0, 0, 1, 0, 0, 0, 0, 0]
        data = make_series(np.arange(9.0), [2, 5, 1, 1], np.array(missing, bool))
        assert data.follows.tolist() == [False, True, False, False, False, True, True, False, False]
        assert data.starts.tolist() == [True, False, True, False, True, False, False, True, True]
        np.testing.assert_array_equal(data.regressors[:, 0], [0, 4, 5])

    def test_of_an_order_beyond_every_sequence_do_not_exist(self):
        assert not make_series(np.arange(6.0), [3, 3], order=3).follows.any()


class TestThePosterior:
    def test_of_one_column_gives_the_multivariate_t_of_bayesian_regression(self):
        """With D = 1 the rows given their regressors have a multivariate t density (Bernardo and Smith, 1994)."""
        rng = np.random.default_rng(1)
        data, prior = make_series(rng.normal(size=7), order=2), make_prior(1, 2)
        Phi, own = data.regressors, prior.dynamics
        shape = (np.eye(len(Phi)) + Phi @ np.diag(1 / own.precision) @ Phi.T) * own.scale[0, 0] / own.nu0
        expected = stats.multivariate_t.logpdf(data.following[:, 0], Phi @ own.mean[0], shape, own.nu0)
        firsts = niw_posterior(data.rows[data.starts], [0, 0], 1, prior.initial)
        classes = ar.classes_from(data, one_class(data), prior)
        of_firsts = ar.niw.log_marginal_likelihood(firsts, prior.initial)[0]
        assert ar.log_marginal_likelihood(classes, prior)[0] == pytest.approx(expected + of_firsts, rel=1e-12)

    def test_is_that_of_the_textbook(self):
        """M and S by the moments of Fox et al. (2011), which cancel where M0 is large; here it is not."""
        rng = np.random.default_rng(2)
        data, prior, r = make_series(rng.normal(size=(30, 3))), make_prior(3), rng.dirichlet(np.ones(2), 30)
        own = prior.dynamics
        found = ar.classes_from(data, r, prior).dynamics
        for k in range(2):
            W, P0 = np.diag(r[data.follows, k]), np.diag(own.precision)
            X, Phi = data.following.T, data.regressors.T
            xx, xp, pp = (
                X @ W @ X.T + own.mean @ P0 @ own.mean.T,
                X @ W @ Phi.T + own.mean @ P0,
                Phi @ W @ Phi.T + P0,
            )
            M = xp @ np.linalg.inv(pp)
            np.testing.assert_allclose(found.coefficients[k], M, rtol=1e-10, atol=1e-12)
            S = own.scale + xx - M @ xp.T
            np.testing.assert_allclose(found.chol[k] @ found.chol[k].T, S, rtol=1e-10, atol=1e-12)

    def test_predicts_a_row_with_the_density_that_it_adds_to_the_marginal_likelihood(self):
        rng = np.random.default_rng(3)
        rows = rng.normal(size=(12, 2))
        prior = make_prior(2)
        shorter, longer = make_series(rows[:-1]), make_series(rows)
        before, after = (ar.classes_from(data, one_class(data), prior) for data in (shorter, longer))
        gained = ar.log_marginal_likelihood(after, prior) - ar.log_marginal_likelihood(before, prior)
        predicted = ar.log_predictive(longer, before, prior)[-1]
        np.testing.assert_allclose(predicted, gained, rtol=1e-10)

    def test_predicts_a_row_of_several_columns_by_a_t_density(self):
        data, prior = make_series(np.array([[1.0, -2.0], [0.5, 3.0]])), make_prior(2)
        own, empty = prior.dynamics, ar.classes_from(data, np.zeros((2, 1)), prior)
        phi, degrees = data.regressors[0], own.nu0 - 1.0
        shape = own.scale * (1.0 + phi @ (phi / own.precision)) / degrees
        expected = stats.multivariate_t.logpdf(data.rows[1], own.mean @ phi, shape, degrees)
        assert ar.log_predictive(data, empty, prior)[1, 0] == pytest.approx(expected, rel=1e-12)

    def test_without_regressors_is_that_of_the_gaussian_mixture(self):
        rng = np.random.default_rng(4)
        data, prior = make_series(rng.normal(size=(6, 2)), [1] * 6), make_prior(2)
        own = niw_posterior(data.rows, np.zeros(6, int), 1, prior.initial)
        expected = log_predictive(data.rows, own, prior.initial)
        np.testing.assert_allclose(
            ar.log_predictive(data, ar.classes_from(data, one_class(data), prior), prior), expected, rtol=1e-12
        )

    def test_a_scale_that_is_singular_in_float64_is_refused(self):
        data, prior = make_series(np.arange(6.0)), make_prior(1)
        tiny = ar.MNIWPrior(np.array([[1.0, 1.0]]), np.ones(2), 3.0, np.zeros((1, 1)))
        with pytest.raises(ValueError, match="prior's scale is too small"):
            ar.classes_from(data, one_class(data), prior._replace(dynamics=tiny))


@pytest.mark.parametrize("kind", ["labels", "weights"])
def test_a_row_left_out_has_the_density_under_the_classes_made_without_it(kind):
    rng = np.random.default_rng(5)
    missing = np.arange(20) == 7
    data, prior = make_series(rng.normal(size=(20, 2)), [9, 11], missing, order=2), make_prior(2, 2)
    r = rng.dirichlet(np.ones(3), 20) if kind == "weights" else np.eye(3)[rng.integers(0, 3, 20)]
    r[missing] = 0.0
    found = ar.log_predictive_loo(data, r, ar.classes_from(data, r, prior), prior)
    for t in range(20):
        without = r.copy()
        without[t] = 0.0
        expected = ar.log_predictive(data, ar.classes_from(data, without, prior), prior)[t]
        np.testing.assert_allclose(found[t], expected, rtol=1e-8, atol=1e-10)


class TestDrawnParameters:
    def test_have_the_moments_of_the_posterior(self):
        rng = np.random.default_rng(6)
        data, prior = make_series(rng.normal(size=(25, 2))), make_prior(2)
        classes = ar.classes_from(data, one_class(data), prior)
        own = classes.dynamics
        drawn = [ar.draw_parameters(classes, prior, rng) for _ in range(4000)]
        A = np.array([d.coefficients[0] for d in drawn])
        Sigma = np.array([d.chol[0] @ d.chol[0].T for d in drawn])
        expected_noise = own.chol[0] @ own.chol[0].T / (prior.dynamics.nu0 + own.counts[0] - 3.0)
        np.testing.assert_allclose(Sigma.mean(axis=0), expected_noise, rtol=0.06, atol=0.01)
        # Cov(A_dq, A_dp) = E[Σ_dd] (P⁻¹)_qp
        covariance = np.linalg.inv(own.precision_chol[0] @ own.precision_chol[0].T)
        deviation = np.sqrt(np.outer(np.diag(expected_noise), np.diag(covariance)))
        assert (np.abs(A.mean(axis=0) - own.coefficients[0]) < 5.0 * deviation / np.sqrt(4000)).all()
        np.testing.assert_allclose(
            np.cov(A[:, 0].T), expected_noise[0, 0] * covariance, rtol=0.15, atol=0.08 * deviation.max() ** 2
        )

    def test_have_the_expected_log_density_on_average(self):
        rng = np.random.default_rng(7)
        data, prior = make_series(rng.normal(size=(12, 2))), make_prior(2)
        classes = ar.classes_from(data, one_class(data), prior)
        densities = [ar.log_density(data, ar.draw_parameters(classes, prior, rng))[:, 0] for _ in range(6000)]
        found = ar.expected_log_density(data, classes, prior)[:, 0]
        error = np.std(densities, axis=0) / np.sqrt(6000)
        assert (np.abs(np.mean(densities, axis=0) - found) < 5.0 * error).all()

    def test_give_a_row_the_gaussian_density(self):
        rng = np.random.default_rng(8)
        data, prior = make_series(rng.normal(size=(5, 2))), make_prior(2)
        drawn = ar.draw_parameters(ar.classes_from(data, one_class(data), prior), prior, rng)
        mean, noise = drawn.coefficients[0] @ [*data.rows[2], 1.0], drawn.chol[0] @ drawn.chol[0].T
        expected = stats.multivariate_normal.logpdf(data.rows[3], mean, noise)
        assert ar.log_density(data, drawn)[3, 0] == pytest.approx(expected, rel=1e-12)


def made_rows(seed=0, blocks=30, length=40):
    """Two dimensions turning at one of two speeds in turn, and the class of each row."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 2, blocks), length)
    turns = [0.98 * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in (0.2, -0.6)]
    rows = np.zeros((len(labels), 2))
    rows[0] = 1.0, 0.0
    for t in range(1, len(labels)):
        rows[t] = turns[labels[t]] @ rows[t - 1] + 0.1 * rng.normal(size=2)
    return rows, labels, turns


def weak_prior(D, order=1):
    dynamics = ar.MNIWPrior(np.eye(D, D * order + 1), np.full(D * order + 1, 0.01), D + 2.0, 0.01 * np.eye(D))
    return ar.Prior(dynamics, NIWPrior(np.zeros(D), 1.0, D + 2.0, np.eye(D)), np.zeros(D))


class TestLearning:
    def test_by_variational_bayes_finds_the_dynamics_of_both_classes(self):
        rows, labels, turns = made_rows()
        data, rng = make_series(rows), np.random.default_rng(0)
        start = np.where(rng.random((len(rows), 1)) < 0.3, np.eye(2)[labels], np.eye(2)[rng.integers(0, 2, len(rows))])
        r, classes, _ = engines.variational_bayes(data, start, weak_prior(2), 1.0, 100)
        assert (r.argmax(axis=1) == labels).mean() > 0.95  # one row alone; 0.61 by the same mixture of Gaussians
        for k in range(2):
            np.testing.assert_allclose(classes.dynamics.coefficients[k, :, :2], turns[k], atol=0.05)

    def test_by_variational_bayes_never_lowers_the_bound(self):
        rng = np.random.default_rng(1)
        data, bounds = make_series(rng.normal(size=(60, 2)), [25, 35], order=2), []
        start = np.eye(3)[rng.integers(0, 3, 60)]
        engines.variational_bayes(
            data, start, make_prior(2, 2), 0.5, 30, on_iteration=lambda _, bound: bounds.append(bound)
        )
        assert len(bounds) > 5
        assert (np.diff(bounds) > -1e-9).all()

    def test_the_bound_of_one_class_is_the_evidence(self):
        rng = np.random.default_rng(2)
        data, prior = make_series(rng.normal(size=(20, 2))), make_prior(2)
        _, classes, bound = engines.variational_bayes(data, np.ones((20, 1)), prior, 1.0, 5)
        assert bound == pytest.approx(ar.log_marginal_likelihood(classes, prior)[0], rel=1e-12)

    def test_weights_multiply_labels_that_say_nothing(self):
        """A flat prior of each row leaves the weights as they are; the bound has its log beside."""
        rows, labels, _ = made_rows()
        data, prior, flat = make_series(rows), weak_prior(2), np.full((len(rows), 2), -np.log(2.0))
        start = np.where(np.random.default_rng(0).random(len(rows)) < 0.3, labels, 0)
        soft = [
            engines.variational_bayes(data, np.eye(2)[start], prior, 1.0, 20, **given)
            for given in ({}, {"log_prior": flat, "use_weights": True}, {"log_prior": flat})
        ]
        np.testing.assert_allclose(soft[1][0], soft[0][0], atol=1e-12)
        assert soft[1][2] == pytest.approx(soft[0][2] - len(rows) * np.log(2.0), rel=1e-12)
        assert not np.allclose(soft[2][0], soft[0][0], atol=1e-3)
        drawn = [
            engines.blocked_gibbs(data, start, prior, 1.0, 5, np.random.default_rng(1), K=2, **given)[0]
            for given in ({}, {"log_prior": flat, "use_weights": True}, {"log_prior": flat})
        ]
        assert np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], drawn[2])

    def test_by_sampling_finds_the_same_classes(self):
        rows, labels, _ = made_rows()
        data, rng = make_series(rows), np.random.default_rng(0)
        start = np.where(rng.random(len(rows)) < 0.3, labels, rng.integers(0, 2, len(rows)))
        z, _ = engines.blocked_gibbs(data, start, weak_prior(2), 1.0, 40, rng, K=2)
        assert (z == labels).mean() > 0.93

    def test_rows_before_which_there_are_none_are_learnt_from_too(self):
        rng = np.random.default_rng(3)
        rows = np.concatenate([[[5.0, 5.0], [5.0, 5.0]], rng.normal(size=(2, 2))] * 10)
        data = make_series(rows, [2] * 20)
        labels = np.tile([0, 0, 1, 1], 10)
        classes = ar.classes_from(data, np.eye(2)[labels], weak_prior(2))
        np.testing.assert_allclose(classes.initial.mean[0], 5.0 * 10 / 11, rtol=1e-12)
        assert classes.counts.tolist() == [20.0, 20.0]

    def test_a_forbidden_class_gets_no_row(self):
        rows, _, _ = made_rows(blocks=4)
        log_prior = np.tile([0.0, -np.inf], (len(rows), 1))
        r, _, _ = engines.variational_bayes(
            make_series(rows), np.eye(2)[[0] * len(rows)], weak_prior(2), 1.0, 5, log_prior=log_prior
        )
        assert (r[:, 0] == 1.0).all()


def test_simulated_rows_follow_the_parameters():
    rng = np.random.default_rng(9)
    A = np.array([[[0.5, 0.2, -0.3, 0.1, 1.0], [0.0, 0.4, 0.1, 0.0, -2.0]]])
    chol = np.array([[[0.5, 0.0], [0.2, 0.3]]])
    labels, normal = np.zeros(50, int), rng.normal(size=(50, 2))
    rows = ar.simulate(labels, A, chol, np.array([[1.0, 2.0]]), np.array([np.eye(2)]), normal)
    np.testing.assert_allclose(rows[:2], np.array([1.0, 2.0]) + normal[:2])
    data = make_series(rows, order=2)
    np.testing.assert_allclose(data.following - data.regressors @ A[0].T, normal[2:] @ chol[0].T, atol=1e-12)


def test_expected_rows_are_those_of_the_classes_by_their_probability():
    rng = np.random.default_rng(10)
    data, prior, r = make_series(rng.normal(size=(8, 2))), make_prior(2), rng.dirichlet(np.ones(2), 8)
    classes = ar.classes_from(data, r, prior)
    expected = sum(r[3, k] * classes.dynamics.coefficients[k] @ [*data.rows[2], 1.0] for k in range(2))
    np.testing.assert_allclose(ar.expected_rows(data, r, classes)[3], expected, rtol=1e-12)
    np.testing.assert_allclose(ar.expected_rows(data, r, classes)[0], r[0] @ classes.initial.mean, rtol=1e-12)
