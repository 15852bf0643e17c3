"""Test the blocked Gibbs sampler against the exact posterior over labellings, and its draws against scipy."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import beta, dirichlet, invgamma, invwishart, kstest, loggamma, multivariate_normal

from actors.kernels.mixture import blocked_gibbs, gibbs, niw, sums
from tests.actors.kernels.mixture.test_gibbs import clusters

ALPHA = 0.8


def sweep(X, z, reference, prior, generator, *, temperature=1.0, **options):
    """Return new labels, and the parameters that they were drawn with."""
    summed = sums.class_sums_of_labels(X, z, reference)
    parameters = blocked_gibbs.draw_parameters(summed, reference, prior, ALPHA, generator, temperature=temperature)
    return blocked_gibbs.draw_labels(X, parameters, generator, temperature=temperature, **options), parameters


# --- the target -----------------------------------------------------------------------------------------------------


def exact_probabilities(X, labellings, K, prior, log_bias, use_counts, temperature):
    """Return the posterior probability of each labelling, with parameters and weights integrated out in closed form."""
    logs = np.empty(len(labellings))
    for i, z in enumerate(labellings):
        tempered = {name: temperature * s for name, s in sums.class_sums_of_labels(X, z, np.zeros((K, 2))).items()}
        posterior = sums.posterior_from_sums(tempered, np.zeros((K, 2)), prior)
        logs[i] = niw.log_marginal_likelihood(posterior, prior).sum() + log_bias[np.arange(len(X)), z].sum()
        if use_counts:
            logs[i] += sum(np.log(ALPHA + np.arange(n)).sum() for n in np.bincount(z, minlength=K))
    exact = np.exp(logs - logs.max())
    return exact / exact.sum()


def label_frequencies(X, K, prior, log_bias, use_counts, temperature, chains, sweeps):
    """Return how often each of many independent chains had each labelling, (chains, K^N).

    The chains run as one mixture of chains · K classes. Each chain's rows are kept to its own classes, whose weights
    relative to each other do not depend on the other classes (neutrality of the Dirichlet distribution).
    """
    N = len(X)
    rows, reference = np.tile(X, (chains, 1)), np.zeros((chains * K, 2))
    bias = np.full((chains, N, chains, K), -np.inf)
    bias[np.arange(chains), :, np.arange(chains)] = log_bias
    bias = bias.reshape(chains * N, chains * K)
    generator = np.random.default_rng(10)
    z = generator.integers(0, K, (chains, N)) + K * np.arange(chains)[:, None]
    frequencies, code = np.zeros((chains, K**N)), K ** np.arange(N - 1, -1, -1)
    options = {"log_bias": bias, "use_counts": use_counts, "temperature": temperature}
    for done in range(-30, sweeps):
        z, _ = sweep(rows, z.ravel(), reference, prior, generator, **options)
        z = z.reshape(chains, N)
        assert_array_equal(z // K, np.arange(chains)[:, None] * np.ones((1, N)))
        if done >= 0:
            frequencies[np.arange(chains), z % K @ code] += 1 / sweeps
    return frequencies


@pytest.mark.parametrize("use_counts", [True, False])
@pytest.mark.parametrize(("K", "biased", "temperature"), [(2, True, 1.0), (3, False, 1.0), (2, True, 0.4)])
def test_labels_of_six_points_follow_the_enumerated_posterior(K, biased, temperature, use_counts):
    rng = np.random.default_rng(9)
    X = rng.normal(size=(6, 2)) + np.repeat([[0.0, 0.0], [1.5, 0.0]], 3, axis=0)
    prior = niw.NIWPrior(X.mean(axis=0), 1.0, 4.0, np.full(2, 1.0))
    log_bias = rng.normal(size=(6, K)) if biased else np.zeros((6, K))
    labellings = np.array(list(itertools.product(range(K), repeat=6)))
    exact = exact_probabilities(X, labellings, K, prior, log_bias, use_counts, temperature)
    frequencies = label_frequencies(X, K, prior, log_bias, use_counts, temperature, chains=40, sweeps=250)
    indicators = [labellings[:, i] == k for i in range(6) for k in range(K)]
    indicators += [labellings[:, i] == labellings[:, j] for i, j in itertools.combinations(range(6), 2)]
    statistics = np.array(indicators, dtype=float).T
    means = frequencies @ statistics
    error = means.std(axis=0, ddof=1) / np.sqrt(len(means))  # chains are independent
    deviation = np.abs(means.mean(axis=0) - exact @ statistics) / error
    assert deviation.max() < 4.5
    assert error.max() < 0.02


def test_with_many_rows_a_tempered_label_has_the_probabilities_of_the_collapsed_sampler():
    temperature = 0.3
    X, prior, _ = clusters(3, N=3000, D=2, K=2, spread=1.5)
    z = (X[:, 0] > np.median(X[:, 0])).astype(int)
    log_bias, frequencies = np.where(z[:, None] == np.arange(2), 0.0, -3.0), {}
    for name in ("blocked", "collapsed"):
        generator, labels = np.random.default_rng(4), z
        counts, options = np.zeros(len(X)), {"log_bias": log_bias, "use_counts": False, "temperature": temperature}
        for _ in range(60):
            if name == "blocked":
                labels, _ = sweep(X, labels, np.zeros((2, 2)), prior, generator, **options)
            else:
                labels, _ = gibbs.gibbs(X, labels, 2, prior, ALPHA, 1, generator, **options)
            counts += labels
        frequencies[name] = counts / 60
    difference = frequencies["blocked"] - frequencies["collapsed"]
    assert abs(difference.mean()) < 0.01
    assert np.abs(difference).mean() < 0.06  # two samples of 60 labels, each of a deviation below 1/2


# --- draws ----------------------------------------------------------------------------------------------------------


def one_class(copies, D=3, nu0=9.0, rows=5):
    """Return the posterior of one class `copies` times, and the prior."""
    rng = np.random.default_rng(20)
    X = rng.normal(size=(rows, D)) @ np.diag([1.0, 3.0, 0.2, 1.0][:D]) + 2.0
    prior = niw.NIWPrior(np.zeros(D), 2.0, nu0, np.eye(D) + 0.3)
    posterior = niw.posterior_from_labels(X, np.zeros(rows, dtype=int), 1, prior)
    return niw.NIWPosterior(*(np.repeat(each, copies, axis=0) for each in posterior)), prior


def assert_same_covariance(actual, expected):
    """Compare two covariances relative to the deviations."""
    deviation = np.sqrt(np.diag(expected))
    assert_allclose(actual / deviation / deviation[:, None], expected / deviation / deviation[:, None], atol=0.04)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.01])
def test_a_tempered_posterior_is_that_of_rows_that_count_as_less_than_one(temperature):
    X, prior, z = clusters(1)
    z[z == 2] = 1  # a class without rows
    posterior, reference = niw.posterior_from_labels(X, z, 4, prior), np.zeros((4, 5))
    given = sums.class_sums_of_labels(X, z, reference)
    expected = sums.posterior_from_sums({name: temperature * each for name, each in given.items()}, reference, prior)
    tempered = blocked_gibbs.tempered_posterior(posterior, prior, temperature)
    for name in niw.NIWPosterior._fields:
        assert_allclose(getattr(tempered, name), getattr(expected, name), rtol=1e-10, atol=1e-10)


def test_moments_of_drawn_classes_are_those_of_the_normal_inverse_wishart_distribution():
    n, D = 40_000, 3
    posterior, prior = one_class(n)
    means, chol = blocked_gibbs.draw_classes(posterior, prior, np.random.default_rng(21))
    assert_array_equal(chol, np.tril(chol))
    assert (np.diagonal(chol, axis1=1, axis2=2) > 0.0).all()
    covariances = chol @ chol.transpose(0, 2, 1)
    nu, r, scale = prior.nu0 + 5, prior.r0 + 5, posterior.scale[0]
    expected = invwishart(nu, scale)
    error = np.sqrt(expected.var() / n)
    assert (np.abs(covariances.mean(axis=0) - expected.mean()) < 4.5 * error).all()
    assert_allclose(covariances.var(axis=0), expected.var(), rtol=0.2)
    # E[μ] = m, Cov[μ] = S / (r (ν - D - 1))                                                       (Murphy 2007, 256)
    spread = scale / (r * (nu - D - 1))
    assert (np.abs(means.mean(axis=0) - posterior.mean[0]) < 4.5 * np.sqrt(np.diag(spread) / n)).all()
    assert_same_covariance(np.cov(means.T), spread)
    # Given the covariance, the mean is normal: whitened, it has the identity as its covariance.
    white = np.linalg.solve(chol, (means - posterior.mean)[:, :, None])[:, :, 0] * np.sqrt(r)
    assert_same_covariance(np.cov(white.T), np.eye(D))


def test_drawn_variances_and_determinants_have_the_exact_distributions():
    n, D = 5_000, 3
    posterior, prior = one_class(n)
    _, chol = blocked_gibbs.draw_classes(posterior, prior, np.random.default_rng(22))
    nu, scale = prior.nu0 + 5, posterior.scale[0]
    # Variances are inverse gamma variables.
    for d in range(D):
        variance = invgamma((nu - D + 1) / 2, scale=scale[d, d] / 2)
        assert kstest((chol[:, d] ** 2).sum(axis=1), variance.cdf).pvalue > 1e-3
    drawn = invwishart(nu, scale).rvs(n, random_state=23)
    log_det = 2 * np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
    assert kstest(log_det, np.linalg.slogdet(drawn)[1]).pvalue > 1e-3


def test_few_degrees_of_freedom_give_finite_classes():
    posterior, prior = one_class(2_000, nu0=2.01, rows=0)
    means, chol = blocked_gibbs.draw_classes(posterior, prior, np.random.default_rng(24))
    parameters = blocked_gibbs.ClassParameters(means, chol, np.zeros(2_000))
    assert np.isfinite(blocked_gibbs.log_density(np.ones((2, 3)), parameters)).all()


def test_drawn_weights_have_the_dirichlet_distribution():
    concentration, n = np.array([0.3, 2.5, 40.0]), 4_000
    generator = np.random.default_rng(25)
    weights = np.exp([blocked_gibbs.draw_log_weights(concentration, generator) for _ in range(n)])
    assert_allclose(weights.sum(axis=1), 1.0)
    expected = dirichlet(concentration)
    assert (np.abs(weights.mean(axis=0) - expected.mean()) < 4.5 * np.sqrt(expected.var() / n)).all()
    # Each weight, and each share of two weights, is a beta variable.
    for k, a in enumerate(concentration):
        others = concentration.sum() - a
        assert kstest(weights[:, k], beta(a, others).cdf).pvalue > 1e-3
    for j, k in itertools.combinations(range(3), 2):
        share = weights[:, j] / (weights[:, j] + weights[:, k])
        assert kstest(share, beta(concentration[j], concentration[k]).cdf).pvalue > 1e-3


def test_weights_of_a_tiny_concentration_are_drawn_in_the_log_domain():
    generator, a = np.random.default_rng(26), 1e-4
    drawn = np.array([blocked_gibbs.draw_log_weights(np.array([a, 1.0]), generator) for _ in range(3_000)])
    assert np.isfinite(drawn).all()
    assert drawn.min() < -1e4  # its exponential would be zero
    # log w_1 - log w_2 is the difference of the logs of two gamma variables
    odds = loggamma(a).rvs(3_000, random_state=27) - loggamma(1.0).rvs(3_000, random_state=28)
    assert kstest(drawn[:, 0] - drawn[:, 1], odds).pvalue > 1e-3


def test_densities_are_those_of_scipy():
    X, prior, z = clusters(27)
    reference = np.zeros((4, 5))
    _, parameters = sweep(X, z, reference, prior, np.random.default_rng(28))
    expected = [
        multivariate_normal(mean, chol @ chol.T).logpdf(X)
        for mean, chol in zip(parameters.means, parameters.chol, strict=True)
    ]
    assert_allclose(blocked_gibbs.log_density(X, parameters), np.transpose(expected), rtol=1e-10)


# --- labels ---------------------------------------------------------------------------------------------------------


def test_frequencies_of_labels_are_the_probabilities_given_the_parameters():
    X, prior, z = clusters(29, spread=0.7)
    generator, n = np.random.default_rng(30), 20_000
    _, parameters = sweep(X, z, np.zeros((4, 5)), prior, generator)
    log_bias = generator.normal(size=(1, 4))
    log_bias[0, 1] = -np.inf
    density = blocked_gibbs.log_density(X[:1], parameters)[0]
    rows, bias = np.repeat(X[:1], n, axis=0), np.repeat(log_bias, n, axis=0)
    for use_counts, temperature in ((True, 1.0), (False, 0.3)):
        logs = temperature * density + log_bias[0] + (parameters.log_weights if use_counts else 0.0)
        p = np.exp(logs - logs.max())
        p /= p.sum()
        options = {"log_bias": bias, "use_counts": use_counts, "temperature": temperature}
        drawn = blocked_gibbs.draw_labels(rows, parameters, generator, **options)
        frequency = np.bincount(drawn, minlength=4) / n
        assert frequency[1] == 0.0
        assert (np.abs(frequency - p) <= 4.5 * np.sqrt(p * (1 - p) / n)).all()


@pytest.mark.parametrize("possible", range(4))
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 2.0**-53])
def test_an_impossible_class_is_not_drawn_at_the_ends_of_the_unit_interval(possible, uniform):
    class Constant:
        def random(self, size):
            return np.full(size, uniform)

    X, prior, z = clusters(31)
    _, parameters = sweep(X, z, np.zeros((4, 5)), prior, np.random.default_rng(32))
    log_bias = np.full((len(X), 4), -np.inf)
    log_bias[:, possible] = 0.0
    drawn = blocked_gibbs.draw_labels(X, parameters, Constant(), log_bias=log_bias)
    assert_array_equal(drawn, np.full(len(X), possible))


def test_missing_rows_have_no_label_and_change_no_other_draw():
    X, prior, z = clusters(33)
    _, parameters = sweep(X, z, np.zeros((4, 5)), prior, np.random.default_rng(34))
    complete = blocked_gibbs.draw_labels(X, parameters, np.random.default_rng(35))
    mask = np.zeros(len(X), dtype=bool)
    mask[::3] = True
    X[mask] = np.nan
    drawn = blocked_gibbs.draw_labels(X, parameters, np.random.default_rng(35), mask=mask)
    assert_array_equal(drawn, np.where(mask, -1, complete))
    everything = np.ones(len(X), dtype=bool)
    none = blocked_gibbs.draw_labels(X, parameters, np.random.default_rng(35), mask=everything)
    assert (none == -1).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"X": np.full((120, 5), np.inf)}, "row 0 is not finite"),
        ({"X": np.zeros((120, 4))}, "rows must have the shape"),
        ({"log_bias": np.full((120, 4), -np.inf)}, "no possible class"),
        ({"log_bias": np.zeros((120, 3))}, "log_bias must have the shape"),
        ({"mask": np.zeros(3, dtype=bool)}, "mask must have the shape"),
    ],
)
def test_invalid_input_is_refused(change, text):
    X, prior, z = clusters(36)
    _, parameters = sweep(X, z, np.zeros((4, 5)), prior, np.random.default_rng(37))
    with pytest.raises(ValueError, match=text):
        blocked_gibbs.draw_labels(**{"X": X, "parameters": parameters, "generator": np.random.default_rng(0), **change})


def test_a_concentration_that_is_not_positive_is_refused():
    X, prior, z = clusters(38)
    summed = sums.class_sums_of_labels(X, z, np.zeros((4, 5)))
    with pytest.raises(ValueError, match="alpha must be positive"):
        blocked_gibbs.draw_parameters(summed, np.zeros((4, 5)), prior, 0.0, np.random.default_rng(0))
