"""Test classes that are mixtures, against enumeration, the Pólya urn, the prior and scikit-learn."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import gammaln, logsumexp
from scipy.stats import beta, dirichlet_multinomial, invgamma, kstest
from scipy.stats import t as student_t
from sklearn.mixture import GaussianMixture

from actors.kernels.mixture.blocked_gibbs import draw_given_posterior, draw_labels
from actors.kernels.mixture.class_components import (
    class_densities,
    component_labels,
    expected_log_shares,
    log_marginal_of_shares,
    log_shares,
    loo_log_shares,
)
from actors.kernels.mixture.niw import NIWPrior, log_marginal_likelihood, log_predictive, posterior_from_labels
from actors.kernels.mixture.variational import (
    evidence_lower_bound,
    one_hot_responsibilities,
    posterior_from_responsibilities,
    soft_log_predictive_loo,
    variational_bayes,
)

K, M, ALPHA = 2, 2, 0.7


def small(rows=6, seed=0):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, 2)) + np.where(generator.random((rows, 1)) < 0.5, 2.0, -2.0)
    return X, NIWPrior(np.zeros(2), 0.5, 4.0, np.ones(2))


def log_joint(X, z, prior, log_prior=None):
    """Return log p(rows, components), with weights and shares integrated out by scipy's distributions."""
    counts = np.bincount(z, minlength=K * M)
    factors = posterior_from_responsibilities(X, one_hot_responsibilities(z, K * M), prior)
    total = log_marginal_likelihood(factors, prior).sum()
    for n in counts.reshape(K, M):  # of a sequence, not of counts: without the multinomial coefficient
        total += dirichlet_multinomial.logpmf(n, np.full(M, ALPHA), n.sum())
        total -= gammaln(n.sum() + 1) - gammaln(n + 1).sum()
    of_classes = counts.reshape(K, M).sum(axis=1)
    if log_prior is not None:
        return total + log_prior[np.arange(len(X)), z // M].sum()
    total += dirichlet_multinomial.logpmf(of_classes, np.full(K, ALPHA), len(X))
    return total - (gammaln(len(X) + 1) - gammaln(of_classes + 1).sum())


def some_prior(rows, seed=1):
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(K), rows))


@pytest.mark.parametrize("given", [False, True])
def test_the_bound_is_below_the_evidence_by_enumeration_and_exact_for_known_components(given):
    X, prior = small()
    log_prior = some_prior(len(X)) if given else None
    terms = [log_joint(X, np.array(z), prior, log_prior) for z in itertools.product(range(K * M), repeat=len(X))]
    evidence = logsumexp(terms)
    start = one_hot_responsibilities(np.arange(len(X)) % (K * M), K * M)
    r, factors, bound = variational_bayes(X, start, prior, ALPHA, 50, log_bias=log_prior, components=M)
    assert evidence - 5.0 < bound < evidence
    z = r.argmax(axis=1)
    hard = one_hot_responsibilities(z, K * M)
    factors = posterior_from_responsibilities(X, hard, prior)
    exact = evidence_lower_bound(hard, factors, prior, ALPHA, log_prior=log_prior, components=M)
    assert exact == pytest.approx(log_joint(X, z, prior, log_prior))


def test_the_bound_never_falls():
    X, prior = small(200)
    start = np.random.default_rng(2).dirichlet(np.ones(K * M), len(X))
    rising = []
    variational_bayes(X, start, prior, ALPHA, 40, log_bias=some_prior(200), components=M,
                      on_iteration=lambda _, bound: rising.append(bound))  # fmt: skip
    assert len(rising) > 5
    assert (np.diff(rising) > -1e-9).all()


def test_one_component_is_a_gaussian_class_bit_by_bit():
    X, prior = small(50)
    start = np.random.default_rng(3).dirichlet(np.ones(K), len(X))
    plain = variational_bayes(X, start, prior, ALPHA, 20)
    same = variational_bayes(X, start, prior, ALPHA, 20, components=1)
    np.testing.assert_array_equal(plain[0], same[0])
    assert plain[2] == same[2]


def test_shares_are_those_of_the_dirichlet_posterior():
    counts = np.array([3.0, 1.0, 0.0, 4.5])
    draws = [np.random.default_rng(4).dirichlet(n + ALPHA, 200_000) for n in counts.reshape(K, M)]
    assert_allclose(np.exp(log_shares(counts, M, ALPHA)), np.hstack([d.mean(axis=0) for d in draws]), atol=2e-3)
    assert_allclose(
        expected_log_shares(counts, M, ALPHA), np.hstack([np.log(d).mean(axis=0) for d in draws]), atol=0.05
    )


def test_the_marginal_of_shares_is_that_of_the_urn():
    z = np.array([0, 1, 1, 0, 1])
    urn = sum(np.log((np.sum(z[:t] == z[t]) + ALPHA) / (t + 2 * ALPHA)) for t in range(5))
    assert log_marginal_of_shares(np.array([2.0, 3.0]), 2, ALPHA) == pytest.approx(urn)


def test_a_class_without_a_row_is_that_of_the_other_rows():
    X, prior = small(30)
    z = np.random.default_rng(5).integers(0, K * M, 30)
    r = one_hot_responsibilities(z, K * M)
    factors = posterior_from_responsibilities(X, r, prior)
    joint = soft_log_predictive_loo(X, r, factors, prior) + loo_log_shares(r, factors.counts, M, ALPHA)
    found, within = class_densities(joint, M)
    for t in (0, 7, 29):
        others = np.delete(np.arange(30), t)
        left = posterior_from_responsibilities(X[others], r[others], prior)
        direct = log_predictive(X[t : t + 1], left, prior)[0] + log_shares(left.counts, M, ALPHA)
        assert_allclose(found[t], logsumexp(direct.reshape(K, M), axis=1))
    assert_allclose(np.exp(within).reshape(30, K, M).sum(axis=2), 1.0)


def test_known_classes_get_the_densities_of_a_mixture_each():
    generator = np.random.default_rng(6)
    centres = np.array([[[-4.0, 0.0], [4.0, 0.0]], [[0.0, -4.0], [0.0, 4.0]]])
    truth = np.arange(2000) % 2
    X = centres[truth, generator.integers(0, 2, 2000)] + generator.normal(size=(2000, 2))
    prior = NIWPrior(X.mean(axis=0), 1.0, 4.0, X.var(axis=0) / 4)
    with np.errstate(divide="ignore"):
        known = np.log(np.eye(2)[truth])
    start = one_hot_responsibilities(component_labels(X, truth, 2, 2, generator), 4)
    _, factors, _ = variational_bayes(X, start, prior, 0.1, 100, log_bias=known, components=2)
    ours, _ = class_densities(log_predictive(X, factors, prior) + log_shares(factors.counts, 2, 0.1), 2)
    theirs = np.stack(
        [GaussianMixture(2, random_state=0).fit(X[truth == k]).score_samples(X) for k in range(2)], axis=1
    )
    own = np.arange(2000), truth
    assert np.abs(ours[own] - theirs[own]).mean() < 0.03
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.995


def test_components_lie_within_their_class():
    X, _ = small(40)
    labels = np.arange(40) % 3 - 1
    found = component_labels(X, labels, 2, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(found[labels < 0], -1)
    np.testing.assert_array_equal(found[labels >= 0] // 3, labels[labels >= 0])
    assert len(np.unique(found[labels == 0])) == 3


# --- blocked Gibbs sampling -------------------------------------------------------------------------------------------


def bias_of_chains(chains, rows, log_prior):
    """Return log-priors that keep the rows of each of several chains to the K classes of its own.

    Many chains run as one mixture: the weights of a chain's classes relative to each other do not depend on those of
    other classes (neutrality of the Dirichlet distribution).
    """
    bias = np.full((chains, rows, chains, K), -np.inf)
    bias[np.arange(chains), :, np.arange(chains)] = log_prior
    return bias.reshape(chains * rows, chains * K)


def sweep(X, z, prior, generator, gaussians, **options):
    """Return new labels, of components, and the parameters that they were drawn with."""
    factors, temperature = posterior_from_labels(X, z, gaussians, prior), options.get("temperature", 1.0)
    drawn = draw_given_posterior(factors, prior, ALPHA, generator, temperature=temperature, components=M)
    return draw_labels(X, drawn, generator, **options), drawn


@pytest.mark.parametrize("given", [False, True])
def test_classes_and_components_are_drawn_from_their_joint_posterior_by_enumeration(given):
    rows, chains, sweeps = 5, 30, 250
    X, prior = small(rows)
    X *= 0.4  # so near each other that labels change often
    log_prior = some_prior(rows) if given else None
    every = np.array(list(itertools.product(range(K * M), repeat=rows)))
    exact = np.array([log_joint(X, z, prior, log_prior) for z in every])
    exact = np.exp(exact - logsumexp(exact))
    bias = bias_of_chains(chains, rows, 0.0 if log_prior is None else log_prior)
    generator, frequencies = np.random.default_rng(7), np.zeros((chains, len(every)))
    tiled, own = np.tile(X, (chains, 1)), K * M * np.arange(chains)[:, None]
    z = (generator.integers(0, K * M, (chains, rows)) + own).ravel()
    for done in range(-30, sweeps):
        z, _ = sweep(tiled, z, prior, generator, chains * K * M, log_bias=bias, use_counts=not given)
        code = (z.reshape(chains, rows) - own) @ (K * M) ** np.arange(rows - 1, -1, -1)
        if done >= 0:
            frequencies[np.arange(chains), code] += 1 / sweeps
    pairs = list(itertools.combinations(range(rows), 2))
    told = [every[:, i] // M == k for i in range(rows) for k in range(K) if given]  # else 1/2 by symmetry
    told += [every[:, i] // M == every[:, j] // M for i, j in pairs] + [every[:, i] == every[:, j] for i, j in pairs]
    statistics = np.array(told, dtype=float).T
    means = frequencies @ statistics
    error = means.std(axis=0, ddof=1) / np.sqrt(chains)
    assert (np.abs(means.mean(axis=0) - exact @ statistics) / error).max() < 4.5
    assert error.max() < 0.02


def test_rows_drawn_anew_between_sweeps_leave_the_joint_distribution_as_it_is():
    """J. Geweke, "Getting it right: joint distribution tests of posterior simulators", 2004.

    Marginals stay those of the prior. In place of one long chain there are many short ones, each begun by a draw from
    the prior, so that all are independent.
    """
    groups, chains, rows, sweeps = 60, 40, 4, 4
    prior, generator = NIWPrior(np.array([1.0]), 0.5, 5.0, np.array([2.0])), np.random.default_rng(8)
    gaussians, bias = chains * K * M, bias_of_chains(chains, rows, 0.0)
    drawn = {name: [] for name in ("mean", "variance", "weight", "share", "row", "class", "component")}
    none = np.full(chains * rows, -1)
    for _ in range(groups):
        X, z = np.zeros((chains * rows, 1)), none
        for done in range(sweeps + 1):  # the first labels and rows are the prior's
            factors = posterior_from_labels(X, z, gaussians, prior)
            given = draw_given_posterior(factors, prior, ALPHA, generator, components=M)
            if done == 0:  # of labels given the weights, without any row
                z = draw_labels(X, given, generator, log_bias=bias, temperature=0.0)
            else:
                z = draw_labels(X, given, generator, log_bias=bias)
            X = given.means[z] + given.chol[z, :, 0] * generator.standard_normal((chains * rows, 1))
        own = z.reshape(chains, rows)
        weights, shares = np.exp(given.log_weights).reshape(chains, K), np.exp(given.log_shares).reshape(chains, K, M)
        drawn["mean"].append(given.means.reshape(chains, -1)[:, 0])
        drawn["variance"].append(given.chol.reshape(chains, -1)[:, 0] ** 2)
        drawn["weight"].append(weights[:, 0] / weights.sum(axis=1))
        drawn["share"].append(shares[:, 0, 0])
        drawn["row"].append(X.reshape(chains, rows)[:, 0])
        drawn["class"].append(own[:, 0] // M == own[:, 1] // M)
        drawn["component"].append(own[:, 0] == own[:, 1])
    found = {name: np.concatenate(each) for name, each in drawn.items()}
    r, nu, scale, centre = prior.r0, prior.nu0, float(prior.scale[0, 0]), float(prior.mean[0])
    exact = {
        "mean": student_t(nu, centre, np.sqrt(scale / (r * nu))),
        "variance": invgamma(nu / 2, scale=scale / 2),
        "weight": beta(ALPHA, ALPHA),
        "share": beta(ALPHA, ALPHA),
        "row": student_t(nu, centre, np.sqrt(scale * (r + 1) / (r * nu))),
    }
    for name, distribution in exact.items():
        assert kstest(found[name], distribution.cdf).pvalue > 1e-3, name
    same = (ALPHA + 1) / (2 * ALPHA + 1)  # of two draws of an urn of two colours
    for name, p in (("class", same), ("component", same**2)):
        n = len(found[name])
        assert abs(found[name].mean() - p) < 4.5 * np.sqrt(p * (1 - p) / n), name
