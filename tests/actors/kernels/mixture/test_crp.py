"""Test the CRP mixture against the exact posterior over partitions and the expectations of the CRP."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import gammaln, logsumexp
from sklearn.metrics import adjusted_rand_score

from actors.kernels.mixture import niw
from actors.kernels.mixture.crp import (
    crp_log_weights,
    expected_class_count,
    prior_with_empty_classes,
    resample_alpha,
    sample_crp_mixture,
)
from actors.kernels.mixture.gibbs import as_sampler_input, sweep_once
from actors.kernels.mixture.gibbs_sweep import make_tables
from actors.kernels.mixture.split_merge import SplitMergeSampler, merge_classes, propose, restricted_sweeps

N = 5
GENERATOR = np.random.default_rng(9)
POINTS = GENERATOR.normal(size=(N, 2)) + np.array([[0.0, 0.0]] * 3 + [[1.5, 0.0]] * 2)
PRIOR = niw.NIWPrior(POINTS.mean(axis=0), 1.0, 4.0, np.full(2, 1.0))


def clusters(classes, seed, rows=210, D=4, distance=8.0):
    """Return rows around points on the axes, their classes, and a prior with the scale of one of eight classes."""
    truth = np.arange(rows) % classes
    centres = distance * np.vstack([np.eye(D), -np.eye(D)])[:classes]
    X = centres[truth] + np.random.default_rng(seed).normal(size=(rows, D))
    return X, truth, niw.NIWPrior(X.mean(axis=0), 1.0, D + 2.0, np.maximum(X.var(axis=0), 1.0) * 8 ** (-2 / D))


def agrees(labels, truth):
    """Return whether both partitions agree up to a few rows: any sample has some in small classes."""
    counts = np.bincount(labels)
    large = (counts >= 5).sum() == len(set(truth.tolist()))
    return large and adjusted_rand_score(truth, labels) > 0.97


# --- exactness ------------------------------------------------------------------------------------------------------


def labellings(max_classes):
    return np.array(list(itertools.product(range(max_classes), repeat=N)))


def log_crp(z, max_classes, alpha):
    """Return log p(z) as in the docstring of `crp`, up to a constant."""
    counts = np.bincount(z, minlength=max_classes)
    occupied = counts[counts > 0]
    partition = gammaln(occupied).sum() + len(occupied) * np.log(alpha)
    return partition + gammaln(max_classes - len(occupied) + 1)


def log_crp_with_row_prior(z, max_classes, alpha, log_prior, start):
    """Return log p(z) given a row prior received with the labels `start`, up to a constant."""
    occupied = np.bincount(start, minlength=max_classes) > 0
    weights = log_prior - logsumexp(log_prior[:, occupied], axis=1, keepdims=True) + np.log(N / (N + alpha))
    weights[:, ~occupied] = -np.log(N + alpha)
    count = len(set(z.tolist()))
    return weights[np.arange(N), z].sum() + count * np.log(alpha) + gammaln(max_classes - count + 1)


def exact(max_classes, alpha, temperature=1.0, log_prior=None, start=None):
    """Return the posterior over all labellings."""
    log_joint = []
    for z in labellings(max_classes):
        likelihood = niw.log_marginal_likelihood(niw.posterior_from_labels(POINTS, z, max_classes, PRIOR), PRIOR).sum()
        prior = (
            log_crp(z, max_classes, alpha)
            if start is None
            else log_crp_with_row_prior(z, max_classes, alpha, log_prior, start)
        )
        log_joint.append(temperature * likelihood + prior)
    return np.exp(np.array(log_joint) - logsumexp(log_joint))


def check_against(posterior, max_classes, draws, batches):
    """Compare co-membership, numbers of classes and labels, within the Monte Carlo error of the batch means."""
    every = labellings(max_classes)
    indicators = [every[:, i] == every[:, j] for i, j in itertools.combinations(range(N), 2)]
    numbers = np.array([len(set(z.tolist())) for z in every])
    indicators += [numbers == m for m in range(1, min(max_classes, 4) + 1)]
    indicators += [every[:, 0] == k for k in range(max_classes)]
    statistics = np.array(indicators, dtype=float).T
    rows = np.array(draws) @ max_classes ** np.arange(N - 1, -1, -1)
    means = statistics[rows].reshape(batches, -1, statistics.shape[1]).mean(axis=1)
    error = means.std(axis=0, ddof=1) / np.sqrt(batches)
    deviation = np.abs(means.mean(axis=0) - posterior @ statistics) / np.maximum(error, 1e-4)
    assert deviation.max() < 4.5
    assert error.max() < 0.02


def test_five_points_with_labels_follow_the_posterior_over_all_labellings():
    """A label is right with probability 0.8; row 3 has label 2, row 1 label 0."""
    told = np.zeros((N, 3))
    told[3], told[1] = np.log([0.1, 0.1, 0.8]), np.log([0.8, 0.1, 0.1])
    every = labellings(3)
    weights = exact(3, 0.8) * np.exp(told[np.arange(N), every].sum(axis=1))
    generator, z, draws = np.random.default_rng(2), np.zeros(N, np.int64), []
    for _ in range(4000):
        z = sample_crp_mixture(POINTS, z, 3, PRIOR, 0.8, 1, generator, log_labels=told, proposals=3).labels
        draws.append(z)
    check_against(weights / weights.sum(), 3, draws, 20)


@pytest.mark.parametrize("proposals", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("max_classes", "alpha", "temperature"), [(N, 0.8, 1.0), (3, 2.0, 0.3)])
def test_five_points_follow_the_posterior_over_all_partitions(max_classes, alpha, temperature, proposals):
    data = as_sampler_input(POINTS, np.zeros(N, np.int64), max_classes, PRIOR, None, None)
    tables = make_tables(PRIOR, N, alpha, temperature=temperature, share_alpha=True)
    posterior = niw.posterior_from_labels(POINTS, data.labels, max_classes, PRIOR)
    sampler, generator = (
        SplitMergeSampler(data, posterior, tables, PRIOR, has_row_prior=False),
        np.random.default_rng(10),
    )
    draws, batches, accepted = [], 40, 0
    for _ in range(batches * 100):
        sweep_once(data, posterior, tables, generator)
        accepted += sum(propose(sampler, generator) for _ in range(proposals))
        draws.append(data.labels.copy())
    check_against(exact(max_classes, alpha, temperature), max_classes, draws, batches)
    assert accepted >= 0.05 * proposals * len(draws)  # otherwise the agreement would not cover proposals
    recomputed = niw.posterior_from_labels(POINTS, data.labels, max_classes, PRIOR)
    assert_array_equal(posterior.counts, recomputed.counts)
    for part in ("mean", "log_det"):
        assert_allclose(getattr(posterior, part), getattr(recomputed, part), atol=1e-7)
    assert_allclose(np.tril(posterior.chol), recomputed.chol, atol=1e-7)


@pytest.mark.parametrize(("max_classes", "alpha"), [(3, 0.5), pytest.param(4, 1.5, marks=pytest.mark.slow)])
def test_a_row_prior_weights_the_classes_occupied_at_the_start(max_classes, alpha):
    start = np.array([0, 0, 2, 2, 0])
    log_prior = np.log(np.random.default_rng(3).dirichlet(np.ones(max_classes), N))
    kept, generator = log_prior.copy(), np.random.default_rng(4)
    draws = [
        sample_crp_mixture(POINTS, start, max_classes, PRIOR, alpha, 12, generator, log_prior=log_prior).labels
        for _ in range(4000)
    ]
    assert_array_equal(log_prior, kept)
    check_against(exact(max_classes, alpha, 1.0, log_prior, start), max_classes, draws, 40)


# --- the prior alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposals", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_without_a_likelihood_the_number_of_classes_is_that_expected_of_the_crp(proposals):
    rows, alpha, numbers = 30, 1.5, []
    prior = niw.NIWPrior(np.zeros(1), 1.0, 3.0, np.ones(1))
    generator = np.random.default_rng(1)
    X, labels = generator.normal(size=(rows, 1)), np.zeros(rows, np.int64)
    for _ in range(1500):
        labels, posterior, _ = sample_crp_mixture(
            X, labels, rows, prior, alpha, 2, generator, temperature=0.0, proposals=proposals
        )
        numbers.append((posterior.counts > 0).sum())
    expected = sum(alpha / (alpha + i) for i in range(rows))
    assert expected_class_count(rows, alpha) == pytest.approx(expected)
    batches = np.reshape(numbers[100:], (20, -1)).mean(axis=1)
    assert abs(batches.mean() - expected) < 4 * batches.std(ddof=1) / np.sqrt(20)
    assert batches.std(ddof=1) / np.sqrt(20) < 0.1


@pytest.mark.parametrize(("rows", "classes"), [(50, 7), (3, 2)])
def test_resampled_concentration_follows_its_posterior(rows, classes):
    grid = np.linspace(1e-3, 30, 30_000)
    log_density = classes * np.log(grid) + gammaln(grid) - gammaln(grid + rows) - grid  # Gamma(1, 1) · p(M | α)
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    generator, draws = np.random.default_rng(2), [1.0]
    for _ in range(20_000):
        draws.append(resample_alpha(draws[-1], classes, rows, generator))
    mean = density @ grid
    assert np.mean(draws) == pytest.approx(mean, rel=0.02)
    assert np.var(draws) == pytest.approx(density @ (grid - mean) ** 2, rel=0.06)


def test_the_learnt_concentration_grows_with_the_number_of_classes():
    def learnt(classes):
        X, _, prior = clusters(classes, 0)
        return sample_crp_mixture(
            X, np.zeros(len(X)), 30, prior, 1.0, 30, np.random.default_rng(0), proposals=20, learn_alpha=True
        ).alpha

    assert learnt(1) != learnt(7)
    X, truth, prior = clusters(7, 0)
    alphas = [
        [
            sample_crp_mixture(X, labels, 30, prior, 1.0, 1, np.random.default_rng(seed), learn_alpha=True).alpha
            for seed in range(40)
        ]
        for labels in (np.zeros(len(X), np.int64), truth)
    ]
    assert np.mean(alphas[0]) < 0.5 * np.mean(alphas[1])


# --- the share of empty classes -------------------------------------------------------------------------------------


def test_empty_classes_share_the_crp_probability_of_a_new_class():
    weights = np.exp(crp_log_weights([3, 0, 6, 0], 0.5))
    assert_allclose(weights, np.array([3, 0.25, 6, 0.25]) / 9.5)
    assert_allclose(np.exp(crp_log_weights([2, 2], 0.5)), [0.5, 0.5])
    assert_allclose(np.exp(crp_log_weights([0, 0], 0.5)), [0.5, 0.5])


def test_a_row_prior_keeps_its_proportions_for_occupied_classes():
    log_prior = np.log(np.random.default_rng(0).dirichlet(np.ones(5), 7))
    counts = np.array([4, 0, 3, 2, 0])
    adjusted = np.exp(prior_with_empty_classes(log_prior, counts, 1.5))
    assert_allclose(adjusted.sum(axis=1), 1.0)
    assert_allclose(adjusted[:, counts == 0], 1.5 / 10.5 / 2)
    original = np.exp(log_prior)[:, counts > 0]
    assert_allclose(adjusted[:, counts > 0], 9 / 10.5 * original / original.sum(axis=1, keepdims=True))


def test_the_share_of_empty_classes_is_independent_of_the_truncation():
    few, many = np.full((1, 4), -np.log(4)), np.full((1, 40), -np.log(40))
    shares = [
        np.exp(prior_with_empty_classes(p, np.r_[5, 5, np.zeros(p.shape[1] - 2)], 1.0))[0, 2:].sum()
        for p in (few, many)
    ]
    assert_allclose(shares, 1 / 11)


def test_a_row_prior_with_all_mass_on_an_empty_class_is_kept():
    with np.errstate(divide="ignore"):
        log_prior = np.log(np.array([[0.0, 1.0, 0.0], [0.5, 0.2, 0.3]]))
    adjusted = prior_with_empty_classes(log_prior, [3, 0, 1], 1.0)
    assert_array_equal(adjusted[0], log_prior[0])
    assert_allclose(np.exp(adjusted[1]), [0.5, 0.2, 0.3])
    X = np.zeros((2, 1))
    prior = niw.NIWPrior(np.zeros(1), 1.0, 3.0, np.ones(1))
    certain = np.repeat(log_prior[:1], 2, axis=0)
    result = sample_crp_mixture(X, [0, 2], 3, prior, 1.0, 1, np.random.default_rng(0), log_prior=certain).labels
    assert result.tolist() == [1, 1]


# --- splits and merges ----------------------------------------------------------------------------------------------


def test_merging_two_classes_gives_the_posterior_of_all_their_rows():
    X, truth, prior = clusters(4, 3)
    posterior = niw.posterior_from_labels(X, truth, 4, prior)
    one, expected = (
        merge_classes(posterior, 1, 3, prior),
        niw.posterior_from_labels(X, np.where(truth == 3, 1, truth), 4, prior),
    )
    for part, right in zip(one, expected, strict=True):
        assert_allclose(part[0], right[1], rtol=1e-10, atol=1e-10)


def slow_scan(X, side, free, target, uniforms, prior, temperature):
    """Allocate row by row with recomputed posteriors; return the log-probability of the last sweep."""
    for sweep, draws in enumerate(uniforms):
        log_q = 0.0
        for row, draw in zip(free, draws, strict=True):
            side[row] = -1
            posterior = niw.posterior_from_labels(X, side, 2, prior)
            scores = temperature * niw.log_predictive(X[row : row + 1], posterior, prior)[0] + np.log(posterior.counts)
            log_p = scores - logsumexp(scores)
            side[row] = target[row] if len(target) and sweep == len(uniforms) - 1 else int(draw < np.exp(log_p[1]))
            log_q += log_p[side[row]]
    return log_q


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_restricted_sweeps_agree_with_row_by_row_allocation(targeted, temperature):
    X, _, prior = clusters(2, 4, rows=24, distance=1.5)
    generator = np.random.default_rng(5)
    side, free = generator.integers(0, 2, 24), np.arange(2, 24)
    side[:2] = 0, 1
    target = generator.integers(0, 2, 24) if targeted else np.empty(0, np.int64)
    uniforms = generator.random((3, 22))
    expected = side.copy()
    log_q = slow_scan(X, expected, free, target, uniforms, prior, temperature)
    posterior, tables = (
        niw.posterior_from_labels(X, side, 2, prior),
        make_tables(prior, 24, 1.0, True, temperature, True),
    )
    assert restricted_sweeps(X, free, side, target, uniforms, posterior, tables) == pytest.approx(log_q, rel=1e-9)
    assert_array_equal(side, expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", ["one class", "all classes"])
@pytest.mark.parametrize("classes", [3, 7])
def test_the_clusters_and_their_number_are_recovered(classes, start, seed):
    X, truth, prior = clusters(classes, seed)
    z = np.zeros(len(X)) if start == "one class" else np.arange(len(X)) % 30
    result = sample_crp_mixture(X, z, 30, prior, 1.0, 40, np.random.default_rng(seed), proposals=20)
    assert agrees(result.labels, truth)


def test_without_splits_and_merges_the_clusters_are_not_recovered():
    X, truth, prior = clusters(7, 0)
    result = sample_crp_mixture(X, np.zeros(len(X)), 30, prior, 1.0, 40, np.random.default_rng(0))
    assert not agrees(result.labels, truth)


def test_two_classes_that_a_row_prior_does_not_distinguish_are_merged():
    X, truth, prior = clusters(2, 6, rows=120)
    halves = np.where(truth == 0, np.arange(120) // 2 % 2, 2)
    row_prior = np.full((120, 5), 1e-4)
    row_prior[truth == 0, :2], row_prior[truth == 1, 2] = 0.5, 1.0
    log_prior = np.log(row_prior / row_prior.sum(axis=1, keepdims=True))

    def sampled(proposals):
        return sample_crp_mixture(
            X, halves, 5, prior, 1.0, 3, np.random.default_rng(1), log_prior=log_prior, proposals=proposals
        ).labels

    assert agrees(sampled(50), truth)
    assert not agrees(sampled(0), truth)


def test_a_row_prior_is_divided_by_a_split_and_summed_by_a_merge():
    X, truth, prior = clusters(2, 6, rows=120)
    halves = np.where(truth == 0, np.arange(120) // 2 % 2, 2)
    row_prior = np.random.default_rng(0).dirichlet(np.ones(4), 120)
    data = as_sampler_input(X, halves, 4, prior, np.log(row_prior), None)
    tables = make_tables(prior, 120, 1.5, use_counts=False, share_alpha=True)
    sampler = SplitMergeSampler(data, niw.posterior_from_labels(X, halves, 4, prior), tables, prior, has_row_prior=True)
    generator = np.random.default_rng(1)
    while not propose(sampler, generator):  # one of the first proposals merges the halves
        pass
    assert agrees(data.labels, truth)
    kept, freed = sorted((0, 1), key=lambda k: (data.labels == k).sum(), reverse=True)
    assert_allclose(np.exp(data.bias[:, kept]), row_prior[:, 0] + row_prior[:, 1])
    assert_allclose(np.exp(data.bias[:, freed]), 1 / 121.5)
    assert_allclose(np.exp(data.bias[:, 2:]), row_prior[:, 2:])

    X[truth == 0] += np.where(np.arange(60) % 2, 20.0, 0.0)[:, None]  # now there are three clusters
    sampler.posterior = niw.posterior_from_labels(X, data.labels, 4, prior)
    data.rows[:] = X
    before = np.exp(data.bias)
    while not propose(sampler, generator):
        pass
    new = (set(data.labels.tolist()) - {kept, 2}).pop()
    shares = np.array([(data.labels == k).mean() for k in (kept, new)])
    assert_allclose(np.exp(data.bias[:, [kept, new]]), before[:, [kept]] * shares / shares.sum())


def test_two_classes_that_only_a_row_prior_distinguishes_are_not_merged():
    X = np.random.default_rng(7).normal(size=(120, 2))
    prior, truth = niw.NIWPrior(np.zeros(2), 1.0, 4.0, np.ones(2)), np.arange(120) % 2
    row_prior = np.full((120, 5), 1e-6)
    row_prior[np.arange(120), truth] = 1.0
    for log_prior, remain in ((np.log(row_prior / row_prior.sum(axis=1, keepdims=True)), True), (None, False)):
        result = sample_crp_mixture(
            X, truth, 5, prior, 0.01, 10, np.random.default_rng(2), log_prior=log_prior, proposals=50
        )
        assert agrees(result.labels, truth) == remain


# --- edge cases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_classes", [1, 2, 3])
def test_with_too_few_labels_clusters_share_them(max_classes):
    X, truth, prior = clusters(3, 1)
    result = sample_crp_mixture(
        X, np.zeros(len(X)), max_classes, prior, 1.0, 40, np.random.default_rng(0), proposals=20
    )
    assert len(set(result.labels.tolist())) == max_classes
    assert len(set(zip(result.labels.tolist(), truth.tolist(), strict=True))) == 3  # no cluster is split


def test_missing_rows_are_in_no_class_and_their_values_are_not_used():
    X, truth, prior = clusters(3, 2)
    mask = np.random.default_rng(0).random(len(X)) < 0.3
    labels = []
    for filler in (np.nan, 1e6):
        X[mask] = filler
        labels.append(
            sample_crp_mixture(X, truth, 9, prior, 1.0, 5, np.random.default_rng(0), mask=mask, proposals=20).labels
        )
    assert_array_equal(*labels)
    assert (labels[0][mask] == -1).all()
    assert agrees(labels[0][~mask], truth[~mask])


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_zero_to_two_rows_can_be_sampled(rows):
    prior = niw.NIWPrior(np.zeros(2), 1.0, 4.0, np.ones(2))
    X = np.random.default_rng(0).normal(size=(rows, 2))
    result = sample_crp_mixture(
        X, np.zeros(rows), 4, prior, 1.0, 5, np.random.default_rng(0), proposals=5, learn_alpha=True
    )
    assert result.posterior.counts.sum() == rows
    assert np.isfinite(result.alpha)


def test_the_same_seed_gives_the_same_bits_and_does_not_change_the_input():
    X, truth, prior = clusters(3, 2)
    kept = truth.copy()
    one, two = (
        sample_crp_mixture(X, truth, 9, prior, 1.0, 30, np.random.default_rng(3), proposals=5, learn_alpha=True)
        for _ in range(2)
    )
    assert_array_equal(one.labels, two.labels)
    assert one.alpha == two.alpha
    assert_array_equal(truth, kept)
    for a, b in zip(one.posterior, two.posterior, strict=True):
        assert_array_equal(a, b)


def test_a_concentration_of_zero_is_refused():
    with pytest.raises(ValueError, match="alpha must be positive"):
        sample_crp_mixture(POINTS, np.zeros(N), 3, PRIOR, 0.0, 1, np.random.default_rng(0))
