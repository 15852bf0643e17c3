"""Test variational Bayes against scikit-learn, Bishop's bound term by term, and recomputed posteriors."""

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


def random_responsibilities(seed, rows=120, classes=K):
    """Return responsibilities, some of them close to zero or one."""
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), rows)


def vb(X, r, prior, iterations, **options):
    return variational.variational_bayes(X, r, prior, ALPHA, iterations, **options)


def disable_stopping(monkeypatch):
    monkeypatch.setattr(variational, "MIN_RISE", -math.inf)


# --- the fixed point ------------------------------------------------------------------------------------------------


class Sklearn(BayesianGaussianMixture):
    """scikit-learn's variational Bayes with given initial responsibilities."""

    start = None

    def _initialize_parameters(self, X, *args, **kwargs):
        self._initialize(X, self.start)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("seed", "iterations"), [(0, 1), (1, 1), (0, 7), (1, 7), (2, 7), (2, 150)])
def test_agrees_with_scikit_learn_iteration_by_iteration(monkeypatch, seed, iterations):
    disable_stopping(monkeypatch)
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
    other.start = random_responsibilities(seed)
    other.fit(X)
    r, posterior, _ = vb(X, random_responsibilities(seed), prior, iterations)
    degrees = prior.nu0 + posterior.counts
    assert_allclose(posterior.mean, other.means_, atol=1e-7)
    assert_allclose(posterior.scale / degrees[:, None, None], other.covariances_, atol=1e-7)
    assert_allclose(ALPHA + posterior.counts, other.weight_concentration_, rtol=1e-7)
    assert_allclose(degrees, other.degrees_of_freedom_, rtol=1e-7)
    following, _, _ = vb(X, r, prior, 1)
    assert_allclose(following, other.predict_proba(X), atol=1e-7)


def test_stops_at_a_fixed_point_when_the_bound_stops_rising():
    X, prior, _ = clusters(2)
    seen = []
    r, posterior, bound = vb(X, random_responsibilities(2), prior, 10_000, on_iteration=lambda *each: seen.append(each))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) < 1000
    assert seen[-1][1] == bound
    again, _, _ = vb(X, r, prior, 50)
    assert_allclose(again, r, atol=1e-3)
    assert_allclose(posterior.counts, r.sum(axis=0))


def test_zero_iterations_return_the_responsibilities_and_their_posterior():
    X, prior, z = clusters(3)
    hard = variational.one_hot_responsibilities(z, K)
    r, posterior, _ = vb(X, hard, prior, 0)
    assert_array_equal(r, hard)
    expected = niw.posterior_from_labels(X, z, K, prior)
    for name, value in posterior._asdict().items():
        assert_allclose(value, getattr(expected, name), rtol=1e-9, atol=1e-10, err_msg=name)


def test_an_empty_class_equals_the_prior_and_can_gain_rows():
    X = np.random.default_rng(0).normal(size=(90, 1)) * 0.1 + np.tile([-5.0, 0.0, 5.0], 30)[:, None]
    prior = niw.NIWPrior(np.zeros(1), 1.0, 3.0, np.full(1, 0.1))
    all_in_one = variational.one_hot_responsibilities(np.zeros(90, dtype=int), 2)
    _, posterior, _ = vb(X, all_in_one, prior, 0)
    assert posterior.counts[1] == 0
    assert_allclose(posterior.scale[1], prior.scale)
    assert_array_equal(posterior.mean[1], prior.mean)
    r, _, _ = vb(X, all_in_one, prior, 50)
    assert_array_equal(variational.most_probable_labels(r), np.tile([0, 1, 0], 30))


# --- the bound ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5), st.integers(1, 70), st.sampled_from([0.2, 1.0]))
@settings(max_examples=40, deadline=None)
def test_the_objective_never_falls(seed, D, classes, N, temperature):
    rng = np.random.default_rng(seed)
    X, prior, _ = clusters(seed, N, D, classes, 1.0)
    log_bias = np.log(rng.dirichlet(np.ones(classes), N)) if seed % 2 else None
    seen = []
    vb(
        X,
        random_responsibilities(seed, N, classes),
        prior,
        60,
        log_bias=log_bias,
        temperature=temperature,
        on_iteration=lambda _, objective: seen.append(objective),
    )
    assert np.isfinite(seen).all()
    assert np.diff(seen).min(initial=0.0) > -1e-9 * (1.0 + abs(seen[-1]))


def bishop(X, r, posterior, prior, log_prior=None):
    """Return the bound by (10.70) to (10.77), each expectation computed separately."""
    D, n = X.shape[1], posterior.counts
    beta, nu, W = prior.r0 + n, prior.nu0 + n, np.linalg.inv(posterior.scale)
    average = (r.T @ X) / n[:, None]
    log_pi = digamma(ALPHA + n) - digamma((ALPHA + n).sum())
    log_lambda = np.array(
        [sum(digamma((nu[k] - d) / 2) for d in range(D)) + D * np.log(2) + np.linalg.slogdet(W[k])[1] for k in range(K)]
    )
    bound = 0.0
    for k in range(K):
        spread = (r[:, k, None] * (X - average[k])).T @ (X - average[k]) / n[k]
        gap, offset = average[k] - posterior.mean[k], posterior.mean[k] - prior.mean
        trace = np.trace(spread @ W[k])
        bound += 0.5 * n[k] * (log_lambda[k] - D / beta[k] - nu[k] * (trace + gap @ W[k] @ gap) - D * np.log(2 * np.pi))
        start = D * np.log(prior.r0 / (2 * np.pi)) + log_lambda[k] - D * prior.r0 / beta[k]
        bound += 0.5 * (start - prior.r0 * nu[k] * offset @ W[k] @ offset)
        # log p(Λ) is linear in log |Λ| and Λ: scipy's density at the identity yields its normaliser.
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
def test_the_bound_equals_bishops(with_prior):
    X, prior, _ = clusters(5)
    log_prior = np.log(random_responsibilities(6)) if with_prior else None
    r, posterior, bound = vb(X, random_responsibilities(5), prior, 3, log_bias=log_prior)
    assert bound == pytest.approx(bishop(X, r, posterior, prior, log_prior), rel=1e-10)


def test_the_bound_is_below_the_evidence_and_equals_it_for_certain_labels():
    X, prior, _ = clusters(6)
    certain = np.full((120, 1), 0.0)
    _, posterior, bound = variational.variational_bayes(X, np.ones((120, 1)), prior, ALPHA, 3, log_bias=certain)
    assert bound == pytest.approx(niw.log_marginal_likelihood(posterior, prior)[0])
    few, uniform = X[:6], np.full((6, 2), -np.log(2))
    labellings = np.array(list(np.ndindex(*[2] * 6)))
    joint = np.array(
        [niw.log_marginal_likelihood(niw.posterior_from_labels(few, z, 2, prior), prior).sum() for z in labellings]
    )
    joint -= 6 * np.log(2)
    start = variational.one_hot_responsibilities(labellings[joint.argmax()], 2)
    for iterations in (0, 100):
        _, _, bound = variational.variational_bayes(few, start, prior, ALPHA, iterations, log_bias=uniform)
        assert joint.max() - 1e-9 <= bound < logsumexp(joint)


def test_the_expected_log_density_equals_its_posterior_average():
    X, prior, z = clusters(7)
    posterior = niw.posterior_from_labels(X, z, K, prior)
    rng = np.random.default_rng(0)
    drawn = []
    for covariance in invwishart.rvs(prior.nu0 + posterior.counts[1], posterior.scale[1], 4000, random_state=rng):
        mean = rng.multivariate_normal(posterior.mean[1], covariance / (prior.r0 + posterior.counts[1]))
        drawn.append(multivariate_normal.logpdf(X[:3], mean, covariance))
    error = np.std(drawn, axis=0) / np.sqrt(len(drawn))
    expected = variational.expected_log_density(X[:3], posterior, prior)[:, 1]
    assert (np.abs(np.mean(drawn, axis=0) - expected) < 5 * error).all()


# --- leave-one-out densities ----------------------------------------------------------------------------------------


def test_leave_one_out_density_equals_that_of_a_posterior_without_the_row():
    X, prior, _ = clusters(8)
    r = random_responsibilities(8)
    density = variational.soft_log_predictive_loo(X, r, variational.posterior_from_responsibilities(X, r, prior), prior)
    for i in range(0, len(X), 5):
        without = r.copy()
        without[i] = 0.0
        expected = niw.log_predictive(
            X[i : i + 1], variational.posterior_from_responsibilities(X, without, prior), prior
        )
        assert_allclose(density[i], expected[0], rtol=1e-9)


def test_leave_one_out_density_of_one_hot_responsibilities_equals_that_of_labels():
    X, prior, z = clusters(9)
    z[:5] = -1
    z[z == 3] = 2
    z[7] = 3  # alone in its class
    posterior = niw.posterior_from_labels(X, z, K, prior)
    soft_loo = variational.soft_log_predictive_loo(X, variational.one_hot_responsibilities(z, K), posterior, prior)
    assert_allclose(soft_loo, niw.log_predictive_loo(X, z, posterior, prior), rtol=1e-12)


def test_integer_and_float_counts_give_the_same_density():
    X, prior, z = clusters(9)
    posterior = niw.posterior_from_labels(X, z, K, prior)
    floats = posterior._replace(counts=posterior.counts.astype(np.float64))
    assert_array_equal(niw.log_predictive(X, floats, prior), niw.log_predictive(X, posterior, prior))


# --- row priors, missing rows, invalid input ------------------------------------------------------------------------


def test_a_row_prior_replaces_the_weights():
    X, prior, _ = clusters(10)
    r, log_bias = random_responsibilities(10), np.log(random_responsibilities(11))
    posterior = variational.posterior_from_responsibilities(X, r, prior)
    for temperature in (1.0, 0.3):
        new, _, _ = vb(X, r, prior, 1, log_bias=log_bias, temperature=temperature)
        scores = log_bias + temperature * variational.expected_log_density(X, posterior, prior)
        assert_allclose(new, np.exp(scores - logsumexp(scores, axis=1, keepdims=True)), atol=1e-12)
    new, _, _ = vb(X, r, prior, 1)
    scores = variational.expected_log_density(X, posterior, prior) + digamma(ALPHA + posterior.counts)
    assert_allclose(new, np.exp(scores - logsumexp(scores, axis=1, keepdims=True)), atol=1e-12)


def test_a_forbidden_class_gets_zero_responsibility_and_the_bound_stays_finite():
    X, prior, _ = clusters(12)
    log_bias = np.zeros((120, K))
    log_bias[:, 2] = -np.inf
    r, posterior, bound = vb(X, random_responsibilities(12), prior, 5, log_bias=log_bias)
    assert (r[:, 2] == 0).all()
    assert posterior.counts[2] == 0
    assert np.isfinite(bound)


def test_missing_rows_have_no_effect():
    X, prior, _ = clusters(13)
    mask = np.random.default_rng(0).random(120) < 0.2
    X[mask] = np.nan
    r, posterior, bound = vb(X, random_responsibilities(13), prior, 6, mask=mask)
    assert (r[mask] == 0).all()
    alone, same, bound_alone = vb(X[~mask], random_responsibilities(13)[~mask], prior, 6)
    assert_array_equal(r[~mask], alone)
    assert_array_equal(posterior.chol, same.chol)
    assert bound == bound_alone
    assert (variational.most_probable_labels(r) == np.where(mask, -1, r.argmax(axis=1))).all()


def test_a_row_without_responsibilities_gets_some():
    X, prior, _ = clusters(14)
    start = random_responsibilities(14)
    start[:10] = 0.0
    r, _, _ = vb(X, start, prior, 1)
    assert_allclose(r.sum(axis=1), 1.0)


def test_the_input_is_not_changed_and_the_result_is_deterministic():
    X, prior, _ = clusters(15)
    start = random_responsibilities(15)
    kept = start.copy()
    one, two = (vb(X, start, prior, 5) for _ in range(2))
    assert_array_equal(start, kept)
    assert_array_equal(one[0], two[0])
    assert one[2] == two[2]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"X": np.full((120, 5), np.inf)}, "row 0 is not finite"),
        ({"responsibilities": np.full((120, K), 0.5)}, "row 0 of the responsibilities is not a distribution"),
        ({"responsibilities": np.full((120, K), np.nan)}, "row 0 of the responsibilities is not a distribution"),
        ({"responsibilities": np.full((60, K), 0.25)}, "responsibilities must have the shape"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"log_bias": np.full((120, K), -np.inf)}, "no possible class"),
        ({"log_bias": np.zeros((120, 3))}, "log_bias must have the shape"),
        ({"mask": np.zeros(3, dtype=bool)}, "mask must have the shape"),
    ],
)
def test_invalid_input_is_refused(change, text):
    X, prior, _ = clusters(18)
    arguments = {
        "X": X,
        "responsibilities": random_responsibilities(18),
        "prior": prior,
        "alpha": 1.0,
        "iterations": 1,
        **change,
    }
    with pytest.raises(ValueError, match=text):
        variational.variational_bayes(**arguments)


def test_leave_one_out_refuses_responsibilities_of_wrong_shape():
    X, prior, _ = clusters(18)
    posterior = variational.posterior_from_responsibilities(X, random_responsibilities(18), prior)
    with pytest.raises(ValueError, match="responsibilities must have the shape"):
        variational.soft_log_predictive_loo(X[:5], random_responsibilities(18), posterior, prior)
