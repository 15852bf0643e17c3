"""The Chinese restaurant, against the exact posterior over partitions and the process's own expectations."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import gammaln, logsumexp
from sklearn.metrics import adjusted_rand_score

from actors.kernels.mixture import niw
from actors.kernels.mixture.crp import chinese_restaurant, expected_classes, log_weights, resample_alpha, with_empty
from actors.kernels.mixture.gibbs import as_given, make_tables, sweep_once
from actors.kernels.mixture.split_merge import Sampler, merged, propose, scan_pair

N = 5
GENERATOR = np.random.default_rng(9)
POINTS = GENERATOR.normal(size=(N, 2)) + np.array([[0.0, 0.0]] * 3 + [[1.5, 0.0]] * 2)
PRIOR = niw.Prior(POINTS.mean(axis=0), 1.0, 4.0, np.full(2, 1.0))


def clusters(classes, seed, rows=210, D=4, apart=8.0):
    """Return rows around points on the axes, their classes, and a prior as wide as one of eight classes."""
    truth = np.arange(rows) % classes
    centres = apart * np.vstack([np.eye(D), -np.eye(D)])[:classes]
    X = centres[truth] + np.random.default_rng(seed).normal(size=(rows, D))
    return X, truth, niw.Prior(X.mean(axis=0), 1.0, D + 2.0, np.maximum(X.var(axis=0), 1.0) * 8 ** (-2 / D))


def agrees(labels, truth):
    """Whether both divide the rows in the same way, but for a few rows: any sample has some in small classes."""
    counts = np.bincount(labels)
    large = (counts >= 5).sum() == len(set(truth.tolist()))
    return large and adjusted_rand_score(truth, labels) > 0.97


# --- exactness ----------------------------------------------------------------------------------------------------


def labellings(places):
    return np.array(list(itertools.product(range(places), repeat=N)))


def log_restaurant(z, places, alpha):
    """Return log p(z) of the module's first equation, up to a constant."""
    counts = np.bincount(z, minlength=places)
    taken = counts[counts > 0]
    seated = gammaln(taken).sum() + len(taken) * np.log(alpha)
    return seated + gammaln(places - len(taken) + 1)


def log_told(z, places, alpha, log_prior, start):
    """Return log p(z) where a prior came while the labels were `start`, up to a constant."""
    occupied = np.bincount(start, minlength=places) > 0
    said = log_prior - logsumexp(log_prior[:, occupied], axis=1, keepdims=True) + np.log(N / (N + alpha))
    said[:, ~occupied] = -np.log(N + alpha)
    taken = len(set(z.tolist()))
    return said[np.arange(N), z].sum() + taken * np.log(alpha) + gammaln(places - taken + 1)


def exact(places, alpha, temperature=1.0, log_prior=None, start=None):
    """Return the posterior over all labellings."""
    found = []
    for z in labellings(places):
        likelihood = niw.log_marginal(niw.build_factors(POINTS, z, places, PRIOR), PRIOR).sum()
        prior = log_restaurant(z, places, alpha) if start is None else log_told(z, places, alpha, log_prior, start)
        found.append(temperature * likelihood + prior)
    return np.exp(np.array(found) - logsumexp(found))


def check_against(posterior, places, draws, batches):
    """Compare who is with whom, and how many classes there are, within the Monte-Carlo error of the batches' means."""
    every = labellings(places)
    marks = [every[:, i] == every[:, j] for i, j in itertools.combinations(range(N), 2)]
    numbers = np.array([len(set(z.tolist())) for z in every])
    marks += [numbers == m for m in range(1, min(places, 4) + 1)]
    marks += [every[:, 0] == k for k in range(places)]
    statistics = np.array(marks, dtype=float).T
    rows = np.array(draws) @ places ** np.arange(N - 1, -1, -1)
    means = statistics[rows].reshape(batches, -1, statistics.shape[1]).mean(axis=1)
    error = means.std(axis=0, ddof=1) / np.sqrt(batches)
    deviation = np.abs(means.mean(axis=0) - posterior @ statistics) / np.maximum(error, 1e-4)
    assert deviation.max() < 4.5
    assert error.max() < 0.02


@pytest.mark.parametrize("proposals", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("places", "alpha", "temperature"), [(N, 0.8, 1.0), (3, 2.0, 0.3)])
def test_five_points_follow_the_posterior_over_all_partitions(places, alpha, temperature, proposals):
    given = as_given(POINTS, np.zeros(N, np.int64), places, PRIOR, None, None)
    tables = make_tables(PRIOR, N, alpha, temperature=temperature, shared=True)
    factors = niw.build_factors(POINTS, given.labels, places, PRIOR)
    sampler, generator = Sampler(given, factors, tables, PRIOR, informed=False), np.random.default_rng(10)
    draws, batches, accepted = [], 40, 0
    for _ in range(batches * 100):
        sweep_once(given, factors, tables, generator)
        accepted += sum(propose(sampler, generator) for _ in range(proposals))
        draws.append(given.labels.copy())
    check_against(exact(places, alpha, temperature), places, draws, batches)
    assert accepted >= 0.05 * proposals * len(draws)  # so that the agreement says something about them
    afresh = niw.build_factors(POINTS, given.labels, places, PRIOR)
    assert_array_equal(factors.counts, afresh.counts)
    for part in ("mean", "log_det"):
        assert_allclose(getattr(factors, part), getattr(afresh, part), atol=1e-7)
    assert_allclose(np.tril(factors.chol), afresh.chol, atol=1e-7)


@pytest.mark.parametrize(("places", "alpha"), [(4, 1.5), pytest.param(3, 0.5, marks=pytest.mark.slow)])
def test_a_prior_from_above_weighs_the_classes_that_were_there(places, alpha):
    start = np.array([0, 0, 2, 2, 0])
    log_prior = np.log(np.random.default_rng(3).dirichlet(np.ones(places), N))
    kept, generator = log_prior.copy(), np.random.default_rng(4)
    draws = [
        chinese_restaurant(POINTS, start, places, PRIOR, alpha, 12, generator, log_prior=log_prior).labels
        for _ in range(4000)
    ]
    assert_array_equal(log_prior, kept)
    check_against(exact(places, alpha, 1.0, log_prior, start), places, draws, 40)


# --- the process alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proposals", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_without_a_likelihood_there_are_as_many_classes_as_the_process_expects(proposals):
    rows, alpha, numbers = 30, 1.5, []
    prior = niw.Prior(np.zeros(1), 1.0, 3.0, np.ones(1))
    generator = np.random.default_rng(1)
    X, labels = generator.normal(size=(rows, 1)), np.zeros(rows, np.int64)
    for _ in range(1500):
        labels, factors, _ = chinese_restaurant(
            X, labels, rows, prior, alpha, 2, generator, temperature=0.0, proposals=proposals
        )
        numbers.append((factors.counts > 0).sum())
    expected = sum(alpha / (alpha + i) for i in range(rows))
    assert expected_classes(rows, alpha) == pytest.approx(expected)
    batches = np.reshape(numbers[100:], (20, -1)).mean(axis=1)
    assert abs(batches.mean() - expected) < 4 * batches.std(ddof=1) / np.sqrt(20)
    assert batches.std(ddof=1) / np.sqrt(20) < 0.1


@pytest.mark.parametrize(("rows", "classes"), [(50, 7), (3, 2)])
def test_a_concentration_that_is_learnt_follows_its_posterior(rows, classes):
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


def test_many_classes_raise_the_concentration_and_few_lower_it():
    def learnt(classes):
        X, _, prior = clusters(classes, 0)
        return chinese_restaurant(
            X, np.zeros(len(X)), 30, prior, 1.0, 30, np.random.default_rng(0), proposals=20, learn_alpha=True
        ).alpha

    assert learnt(1) != learnt(7)
    X, truth, prior = clusters(7, 0)
    found = [
        [
            chinese_restaurant(X, labels, 30, prior, 1.0, 1, np.random.default_rng(seed), learn_alpha=True).alpha
            for seed in range(40)
        ]
        for labels in (np.zeros(len(X), np.int64), truth)
    ]
    assert np.mean(found[0]) < 0.5 * np.mean(found[1])


# --- the share of empty classes -----------------------------------------------------------------------------------


def test_empty_classes_share_what_the_process_gives_them():
    weights = np.exp(log_weights([3, 0, 6, 0], 0.5))
    assert_allclose(weights, np.array([3, 0.25, 6, 0.25]) / 9.5)
    assert_allclose(np.exp(log_weights([2, 2], 0.5)), [0.5, 0.5])
    assert_allclose(np.exp(log_weights([0, 0], 0.5)), [0.5, 0.5])


def test_a_prior_from_above_keeps_its_say_on_the_classes_that_hold_rows():
    log_prior = np.log(np.random.default_rng(0).dirichlet(np.ones(5), 7))
    counts = np.array([4, 0, 3, 2, 0])
    heard = np.exp(with_empty(log_prior, counts, 1.5))
    assert_allclose(heard.sum(axis=1), 1.0)
    assert_allclose(heard[:, counts == 0], 1.5 / 10.5 / 2)
    said = np.exp(log_prior)[:, counts > 0]
    assert_allclose(heard[:, counts > 0], 9 / 10.5 * said / said.sum(axis=1, keepdims=True))


def test_the_share_of_empty_classes_does_not_hang_on_how_many_places_there_are():
    few, many = np.full((1, 4), -np.log(4)), np.full((1, 40), -np.log(40))
    shares = [np.exp(with_empty(p, np.r_[5, 5, np.zeros(p.shape[1] - 2)], 1.0))[0, 2:].sum() for p in (few, many)]
    assert_allclose(shares, 1 / 11)


def test_where_the_sender_is_sure_of_an_empty_class_its_word_stands():
    with np.errstate(divide="ignore"):
        log_prior = np.log(np.array([[0.0, 1.0, 0.0], [0.5, 0.2, 0.3]]))
    heard = with_empty(log_prior, [3, 0, 1], 1.0)
    assert_array_equal(heard[0], log_prior[0])
    assert_allclose(np.exp(heard[1]), [0.5, 0.2, 0.3])
    X = np.zeros((2, 1))
    prior = niw.Prior(np.zeros(1), 1.0, 3.0, np.ones(1))
    sure = np.repeat(log_prior[:1], 2, axis=0)
    found = chinese_restaurant(X, [0, 2], 3, prior, 1.0, 1, np.random.default_rng(0), log_prior=sure).labels
    assert found.tolist() == [1, 1]


# --- splits and merges --------------------------------------------------------------------------------------------


def test_two_classes_together_have_the_factors_of_all_their_rows():
    X, truth, prior = clusters(4, 3)
    factors = niw.build_factors(X, truth, 4, prior)
    one, expected = merged(factors, 1, 3, prior), niw.build_factors(X, np.where(truth == 3, 1, truth), 4, prior)
    for part, right in zip(one, expected, strict=True):
        assert_allclose(part[0], right[1], rtol=1e-10, atol=1e-10)


def slow_scan(X, side, free, target, uniforms, prior, temperature):
    """Allocate row by row from scratch, sweep after sweep; return the log-probability of the last one."""
    for sweep, draws in enumerate(uniforms):
        log_q = 0.0
        for row, draw in zip(free, draws, strict=True):
            side[row] = -1
            factors = niw.build_factors(X, side, 2, prior)
            scores = temperature * niw.log_predictive(X[row : row + 1], factors, prior)[0] + np.log(factors.counts)
            log_p = scores - logsumexp(scores)
            side[row] = target[row] if len(target) and sweep == len(uniforms) - 1 else int(draw < np.exp(log_p[1]))
            log_q += log_p[side[row]]
    return log_q


@pytest.mark.parametrize("aimed", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_rows_are_allocated_to_two_classes_as_one_by_one_from_scratch(aimed, temperature):
    X, _, prior = clusters(2, 4, rows=24, apart=1.5)
    generator = np.random.default_rng(5)
    side, free = generator.integers(0, 2, 24), np.arange(2, 24)
    side[:2] = 0, 1
    target = generator.integers(0, 2, 24) if aimed else np.empty(0, np.int64)
    uniforms = generator.random((3, 22))
    expected = side.copy()
    log_q = slow_scan(X, expected, free, target, uniforms, prior, temperature)
    factors, tables = niw.build_factors(X, side, 2, prior), make_tables(prior, 24, 1.0, True, temperature, True)
    assert scan_pair(X, free, side, target, uniforms, factors, tables) == pytest.approx(log_q, rel=1e-9)
    assert_array_equal(side, expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("start", ["one", "each its own place"])
@pytest.mark.parametrize("classes", [3, 7])
def test_clusters_are_found_in_their_number(classes, start, seed):
    X, truth, prior = clusters(classes, seed)
    z = np.zeros(len(X)) if start == "one" else np.arange(len(X)) % 30
    found = chinese_restaurant(X, z, 30, prior, 1.0, 40, np.random.default_rng(seed), proposals=20)
    assert agrees(found.labels, truth)


def test_without_splits_and_merges_they_are_not():
    X, truth, prior = clusters(7, 0)
    found = chinese_restaurant(X, np.zeros(len(X)), 30, prior, 1.0, 40, np.random.default_rng(0))
    assert not agrees(found.labels, truth)


def test_two_classes_that_a_prior_does_not_tell_apart_become_one():
    X, truth, prior = clusters(2, 6, rows=120)
    halves = np.where(truth == 0, np.arange(120) // 2 % 2, 2)
    told = np.full((120, 5), 1e-4)
    told[truth == 0, :2], told[truth == 1, 2] = 0.5, 1.0
    log_prior = np.log(told / told.sum(axis=1, keepdims=True))

    def found(proposals):
        return chinese_restaurant(
            X, halves, 5, prior, 1.0, 3, np.random.default_rng(1), log_prior=log_prior, proposals=proposals
        ).labels

    assert agrees(found(50), truth)
    assert not agrees(found(0), truth)


def test_what_a_prior_says_is_shared_by_halves_and_summed_up_when_classes_become_one():
    X, truth, prior = clusters(2, 6, rows=120)
    halves = np.where(truth == 0, np.arange(120) // 2 % 2, 2)
    said = np.random.default_rng(0).dirichlet(np.ones(4), 120)
    given = as_given(X, halves, 4, prior, np.log(said), None)
    tables = make_tables(prior, 120, 1.5, use_counts=False, shared=True)
    sampler = Sampler(given, niw.build_factors(X, halves, 4, prior), tables, prior, informed=True)
    generator = np.random.default_rng(1)
    while not propose(sampler, generator):  # one of the first proposals puts the halves together again
        pass
    assert agrees(given.labels, truth)
    kept, freed = sorted((0, 1), key=lambda k: (given.labels == k).sum(), reverse=True)
    assert_allclose(np.exp(given.bias[:, kept]), said[:, 0] + said[:, 1])
    assert_allclose(np.exp(given.bias[:, freed]), 1 / 121.5)
    assert_allclose(np.exp(given.bias[:, 2:]), said[:, 2:])

    X[truth == 0] += np.where(np.arange(60) % 2, 20.0, 0.0)[:, None]  # now there are three clusters
    sampler.factors = niw.build_factors(X, given.labels, 4, prior)
    given.rows[:] = X
    before = np.exp(given.bias)
    while not propose(sampler, generator):
        pass
    new = (set(given.labels.tolist()) - {kept, 2}).pop()
    shares = np.array([(given.labels == k).mean() for k in (kept, new)])
    assert_allclose(np.exp(given.bias[:, [kept, new]]), before[:, [kept]] * shares / shares.sum())


def test_two_classes_that_only_a_prior_tells_apart_stay_two():
    X = np.random.default_rng(7).normal(size=(120, 2))
    prior, truth = niw.Prior(np.zeros(2), 1.0, 4.0, np.ones(2)), np.arange(120) % 2
    told = np.full((120, 5), 1e-6)
    told[np.arange(120), truth] = 1.0
    for log_prior, stay in ((np.log(told / told.sum(axis=1, keepdims=True)), True), (None, False)):
        found = chinese_restaurant(
            X, truth, 5, prior, 0.01, 10, np.random.default_rng(2), log_prior=log_prior, proposals=50
        )
        assert agrees(found.labels, truth) == stay


# --- what a sampler must be able to bear --------------------------------------------------------------------------


@pytest.mark.parametrize("places", [1, 2, 3])
def test_with_too_few_places_clusters_share_them(places):
    X, truth, prior = clusters(3, 1)
    found = chinese_restaurant(X, np.zeros(len(X)), places, prior, 1.0, 40, np.random.default_rng(0), proposals=20)
    assert len(set(found.labels.tolist())) == places
    assert len(set(zip(found.labels.tolist(), truth.tolist(), strict=True))) == 3  # no cluster is divided


def test_missing_rows_are_in_no_class_and_never_looked_at():
    X, truth, prior = clusters(3, 2)
    mask = np.random.default_rng(0).random(len(X)) < 0.3
    found = []
    for filler in (np.nan, 1e6):
        X[mask] = filler
        found.append(
            chinese_restaurant(X, truth, 9, prior, 1.0, 5, np.random.default_rng(0), mask=mask, proposals=20).labels
        )
    assert_array_equal(*found)
    assert (found[0][mask] == -1).all()
    assert agrees(found[0][~mask], truth[~mask])


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_hardly_any_rows_are_sampled_all_the_same(rows):
    prior = niw.Prior(np.zeros(2), 1.0, 4.0, np.ones(2))
    X = np.random.default_rng(0).normal(size=(rows, 2))
    found = chinese_restaurant(
        X, np.zeros(rows), 4, prior, 1.0, 5, np.random.default_rng(0), proposals=5, learn_alpha=True
    )
    assert found.factors.counts.sum() == rows
    assert np.isfinite(found.alpha)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_labels_that_came_alone():
    X, truth, prior = clusters(3, 2)
    kept = truth.copy()
    one, two = (
        chinese_restaurant(X, truth, 9, prior, 1.0, 30, np.random.default_rng(3), proposals=5, learn_alpha=True)
        for _ in range(2)
    )
    assert_array_equal(one.labels, two.labels)
    assert one.alpha == two.alpha
    assert_array_equal(truth, kept)
    for a, b in zip(one.factors, two.factors, strict=True):
        assert_array_equal(a, b)


def test_a_concentration_of_nothing_is_refused():
    with pytest.raises(ValueError, match="alpha must be positive"):
        chinese_restaurant(POINTS, np.zeros(N), 3, PRIOR, 0.0, 1, np.random.default_rng(0))
