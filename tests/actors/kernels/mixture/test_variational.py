"""Variational Bayes: against scikit-learn, against Bishop's bound term by term, and against classes built afresh."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import digamma, logsumexp, xlogy
from scipy.stats import dirichlet, invwishart, multivariate_normal, wishart
from sklearn.mixture import BayesianGaussianMixture

from actors.kernels.mixture import niw, variational
from tests.actors.kernels.mixture.test_gibbs import clusters

K, ALPHA = 4, 0.5


def soft(seed, rows=120, classes=K):
    """Return responsibilities, some of them close to zero or one."""
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), rows)


def vb(X, r, prior, iterations, **given):
    return variational.variational_bayes(X, r, prior, ALPHA, iterations, **given)


def refuse_to_stop(monkeypatch):
    monkeypatch.setattr(variational, "LEAST_RISE", -math.inf)


# --- the fixed point ----------------------------------------------------------------------------------------------


class Sklearn(BayesianGaussianMixture):
    """scikit-learn's variational Bayes, started at given responsibilities."""

    start = None

    def _initialize_parameters(self, X, *args, **given):
        self._initialize(X, self.start)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("iterations", [1, 7, 300])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn_iteration_by_iteration(monkeypatch, seed, iterations):
    refuse_to_stop(monkeypatch)
    X, prior, _ = clusters(seed)
    other = Sklearn(
        n_components=K,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=ALPHA,
        mean_precision_prior=prior.r0,
        mean_prior=prior.mean,
        degrees_of_freedom_prior=prior.nu0,
        covariance_prior=prior.scale,
        max_iter=iterations,
        tol=0.0,
        reg_covar=0.0,
    )
    other.start = soft(seed)
    other.fit(X)
    r, factors, _ = vb(X, soft(seed), prior, iterations)
    degrees = prior.nu0 + factors.counts
    assert_allclose(factors.mean, other.means_, atol=1e-7)
    assert_allclose(factors.scale / degrees[:, None, None], other.covariances_, atol=1e-7)
    assert_allclose(ALPHA + factors.counts, other.weight_concentration_, rtol=1e-7)
    assert_allclose(degrees, other.degrees_of_freedom_, rtol=1e-7)
    following, _, _ = vb(X, r, prior, 1)
    assert_allclose(following, other.predict_proba(X), atol=1e-7)


def test_stops_where_the_bound_does_not_rise_and_stays_there():
    X, prior, _ = clusters(2)
    seen = []
    r, factors, bound = vb(X, soft(2), prior, 10_000, on_iteration=lambda *report: seen.append(report))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) < 1000
    assert seen[-1][1] == bound
    again, _, _ = vb(X, r, prior, 50)
    assert_allclose(again, r, atol=1e-3)
    assert_allclose(factors.counts, r.sum(axis=0))


def test_no_iteration_changes_nothing_and_returns_the_factors():
    X, prior, z = clusters(3)
    hard = variational.responsibilities_of(z, K)
    r, factors, _ = vb(X, hard, prior, 0)
    assert_array_equal(r, hard)
    expected = niw.build_factors(X, z, K, prior)
    for name, value in factors._asdict().items():
        assert_allclose(value, getattr(expected, name), rtol=1e-9, atol=1e-10, err_msg=name)


def test_an_empty_class_is_the_prior_and_can_be_filled():
    X = np.random.default_rng(0).normal(size=(90, 1)) * 0.1 + np.tile([-5.0, 0.0, 5.0], 30)[:, None]
    prior = niw.Prior(np.zeros(1), 1.0, 3.0, np.full(1, 0.1))
    all_in_one = variational.responsibilities_of(np.zeros(90, dtype=int), 2)
    _, factors, _ = vb(X, all_in_one, prior, 0)
    assert factors.counts[1] == 0
    assert_allclose(factors.scale[1], prior.scale)
    assert_array_equal(factors.mean[1], prior.mean)
    r, _, _ = vb(X, all_in_one, prior, 50)
    assert_array_equal(variational.labels_of(r), np.tile([0, 1, 0], 30))


# --- the bound ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5), st.integers(1, 70), st.sampled_from([0.2, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_objective_never_falls(seed, D, classes, N, temperature):
    rng = np.random.default_rng(seed)
    X, prior, _ = clusters(seed, N, D, classes, 1.0)
    log_bias = np.log(rng.dirichlet(np.ones(classes), N)) if seed % 2 else None
    seen = []
    vb(
        X,
        soft(seed, N, classes),
        prior,
        60,
        log_bias=log_bias,
        temperature=temperature,
        on_iteration=lambda _, objective: seen.append(objective),
    )
    assert np.isfinite(seen).all()
    assert np.diff(seen).min(initial=0.0) > -1e-9 * (1.0 + abs(seen[-1]))


def bishop(X, r, factors, prior, log_prior=None):
    """The bound by (10.70) to (10.77), each expectation for itself."""
    D, n = X.shape[1], factors.counts
    beta, nu, W = prior.r0 + n, prior.nu0 + n, np.linalg.inv(factors.scale)
    average = (r.T @ X) / n[:, None]
    log_pi = digamma(ALPHA + n) - digamma((ALPHA + n).sum())
    log_lambda = np.array(
        [sum(digamma((nu[k] - d) / 2) for d in range(D)) + D * np.log(2) + np.linalg.slogdet(W[k])[1] for k in range(K)]
    )
    bound = 0.0
    for k in range(K):
        spread = (r[:, k, None] * (X - average[k])).T @ (X - average[k]) / n[k]
        gap, offset = average[k] - factors.mean[k], factors.mean[k] - prior.mean
        trace = np.trace(spread @ W[k])
        bound += 0.5 * n[k] * (log_lambda[k] - D / beta[k] - nu[k] * (trace + gap @ W[k] @ gap) - D * np.log(2 * np.pi))
        start = D * np.log(prior.r0 / (2 * np.pi)) + log_lambda[k] - D * prior.r0 / beta[k]
        bound += 0.5 * (start - prior.r0 * nu[k] * offset @ W[k] @ offset)
        # log p(Λ) is linear in log |Λ| and Λ: its normaliser is what scipy's density at the identity leaves.
        normaliser = wishart.logpdf(np.eye(D), prior.nu0, np.linalg.inv(prior.scale)) + 0.5 * np.trace(prior.scale)
        bound += normaliser + 0.5 * (prior.nu0 - D - 1) * log_lambda[k] - 0.5 * nu[k] * np.trace(prior.scale @ W[k])
        entropy = wishart.entropy(nu[k], W[k])
        bound -= 0.5 * log_lambda[k] + 0.5 * D * np.log(beta[k] / (2 * np.pi)) - 0.5 * D - entropy
    if log_prior is None:
        bound += (r * log_pi).sum()
        bound += math.lgamma(K * ALPHA) - K * math.lgamma(ALPHA) + (ALPHA - 1) * log_pi.sum()
        bound += dirichlet.entropy(ALPHA + n)
    else:
        bound += (r * log_prior).sum()
    return bound - xlogy(r, r).sum()


@pytest.mark.parametrize("with_prior", [False, True])
def test_the_bound_is_bishops(with_prior):
    X, prior, _ = clusters(5)
    log_prior = np.log(soft(6)) if with_prior else None
    r, factors, bound = vb(X, soft(5), prior, 3, log_bias=log_prior)
    assert bound == pytest.approx(bishop(X, r, factors, prior, log_prior), rel=1e-10)


def test_the_bound_lies_below_the_evidence_and_meets_it_where_nothing_is_uncertain():
    X, prior, _ = clusters(6)
    certain = np.full((120, 1), 0.0)
    _, factors, bound = variational.variational_bayes(X, np.ones((120, 1)), prior, ALPHA, 3, log_bias=certain)
    assert bound == pytest.approx(niw.log_marginal(factors, prior)[0])
    few, uniform = X[:6], np.full((6, 2), -np.log(2))
    labelings = np.array(list(np.ndindex(*[2] * 6)))
    joint = np.array([niw.log_marginal(niw.build_factors(few, z, 2, prior), prior).sum() for z in labelings])
    joint -= 6 * np.log(2)
    start = variational.responsibilities_of(labelings[joint.argmax()], 2)
    for iterations in (0, 100):
        _, _, bound = variational.variational_bayes(few, start, prior, ALPHA, iterations, log_bias=uniform)
        assert joint.max() - 1e-9 <= bound < logsumexp(joint)


def test_the_expected_density_is_the_average_over_the_posterior():
    X, prior, z = clusters(7)
    factors = niw.build_factors(X, z, K, prior)
    rng = np.random.default_rng(0)
    drawn = []
    for covariance in invwishart.rvs(prior.nu0 + factors.counts[1], factors.scale[1], 4000, random_state=rng):
        mean = rng.multivariate_normal(factors.mean[1], covariance / (prior.r0 + factors.counts[1]))
        drawn.append(multivariate_normal.logpdf(X[:3], mean, covariance))
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    expected = variational.expected_log_density(X[:3], factors, prior)[:, 1]
    assert (np.abs(np.mean(drawn, axis=0) - expected) < 5 * error).all()


# --- leaving rows out ---------------------------------------------------------------------------------------------


def test_a_row_left_out_scores_as_if_the_classes_had_been_built_without_its_weight():
    X, prior, _ = clusters(8)
    r = soft(8)
    found = variational.soft_log_predictive_loo(X, r, variational.soft_factors(X, r, prior), prior)
    for i in range(0, len(X), 5):
        without = r.copy()
        without[i] = 0.0
        expected = niw.log_predictive(X[i : i + 1], variational.soft_factors(X, without, prior), prior)
        assert_allclose(found[i], expected[0], rtol=1e-9)


def test_at_weights_of_zero_and_one_it_is_the_leave_one_out_density_of_labels():
    X, prior, z = clusters(9)
    z[:5] = -1
    z[z == 3] = 2
    z[7] = 3  # alone in its class
    factors = niw.build_factors(X, z, K, prior)
    soft_loo = variational.soft_log_predictive_loo(X, variational.responsibilities_of(z, K), factors, prior)
    assert_allclose(soft_loo, niw.log_predictive_loo(X, z, factors, prior), rtol=1e-12)


def test_whole_counts_score_the_same_as_floats():
    X, prior, z = clusters(9)
    factors = niw.build_factors(X, z, K, prior)
    floats = factors._replace(counts=factors.counts.astype(np.float64))
    assert_array_equal(niw.log_predictive(X, floats, prior), niw.log_predictive(X, factors, prior))


# --- priors, missing rows, what is refused ------------------------------------------------------------------------


def test_a_prior_of_rows_replaces_the_weights():
    X, prior, _ = clusters(10)
    r, log_bias = soft(10), np.log(soft(11))
    factors = variational.soft_factors(X, r, prior)
    for temperature in (1.0, 0.3):
        new, _, _ = vb(X, r, prior, 1, log_bias=log_bias, temperature=temperature)
        scores = log_bias + temperature * variational.expected_log_density(X, factors, prior)
        assert_allclose(new, np.exp(scores - logsumexp(scores, axis=1, keepdims=True)), atol=1e-12)
    new, _, _ = vb(X, r, prior, 1)
    scores = variational.expected_log_density(X, factors, prior) + digamma(ALPHA + factors.counts)
    assert_allclose(new, np.exp(scores - logsumexp(scores, axis=1, keepdims=True)), atol=1e-12)


def test_a_forbidden_class_gets_nothing_and_leaves_the_bound_finite():
    X, prior, _ = clusters(12)
    log_bias = np.zeros((120, K))
    log_bias[:, 2] = -np.inf
    r, factors, bound = vb(X, soft(12), prior, 5, log_bias=log_bias)
    assert (r[:, 2] == 0).all()
    assert factors.counts[2] == 0
    assert np.isfinite(bound)


def test_missing_rows_take_part_in_nothing():
    X, prior, _ = clusters(13)
    mask = np.random.default_rng(0).random(120) < 0.2
    X[mask] = np.nan
    r, factors, bound = vb(X, soft(13), prior, 6, mask=mask)
    assert (r[mask] == 0).all()
    alone, same, bound_alone = vb(X[~mask], soft(13)[~mask], prior, 6)
    assert_array_equal(r[~mask], alone)
    assert_array_equal(factors.chol, same.chol)
    assert bound == bound_alone
    assert (variational.labels_of(r) == np.where(mask, -1, r.argmax(axis=1))).all()


def test_a_row_that_is_in_no_class_yet_gets_one():
    X, prior, _ = clusters(14)
    start = soft(14)
    start[:10] = 0.0
    r, _, _ = vb(X, start, prior, 1)
    assert_allclose(r.sum(axis=1), 1.0)


def test_nothing_given_is_changed_and_nothing_is_random():
    X, prior, _ = clusters(15)
    start = soft(15)
    kept = start.copy()
    one, two = (vb(X, start, prior, 5) for _ in range(2))
    assert_array_equal(start, kept)
    assert_array_equal(one[0], two[0])
    assert one[2] == two[2]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"X": np.full((120, 5), np.inf)}, "row 0 is not finite"),
        ({"responsibilities": np.full((120, K), 0.5)}, "row 0 of the responsibilities is no distribution"),
        ({"responsibilities": np.full((120, K), np.nan)}, "row 0 of the responsibilities is no distribution"),
        ({"responsibilities": np.full((60, K), 0.25)}, "responsibilities must have the shape"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"log_bias": np.full((120, K), -np.inf)}, "no possible class"),
        ({"log_bias": np.zeros((120, 3))}, "log_bias must have the shape"),
        ({"mask": np.zeros(3, dtype=bool)}, "mask must have the shape"),
    ],
)
def test_what_cannot_be_approximated_is_refused(change, text):
    X, prior, _ = clusters(18)
    arguments = {"X": X, "responsibilities": soft(18), "prior": prior, "alpha": 1.0, "iterations": 1, **change}
    with pytest.raises(ValueError, match=text):
        variational.variational_bayes(**arguments)


def test_weights_that_do_not_fit_the_rows_cannot_be_left_out():
    X, prior, _ = clusters(18)
    factors = variational.soft_factors(X, soft(18), prior)
    with pytest.raises(ValueError, match="responsibilities must have the shape"):
        variational.soft_log_predictive_loo(X[:5], soft(18), factors, prior)
