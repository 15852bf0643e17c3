"""The Gibbs sampler, against a plain row-by-row sampler and against the exact posterior over labelings."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from actors.kernels.mixture import gibbs, niw


def clusters(seed, N=120, D=5, K=4, spread=2.0):
    """Return rows around K centres, a prior, and random labels."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(K, D))[rng.integers(0, K, N)] * spread + rng.normal(size=(N, D))
    return X, niw.Prior(X.mean(axis=0), 1.0, D + 2.0, np.full(D, 0.1)), rng.integers(0, K, N)


def slow_sweep(X, log_bias, z, uniforms, mask, prior, alpha, use_counts, temperature):
    """Sample row by row, with factors computed from scratch for every row."""
    K = log_bias.shape[1]
    for i in np.flatnonzero(~mask):
        z[i] = -1
        factors = niw.build_factors(X, z, K, prior)
        scores = temperature * niw.log_predictive(X[i : i + 1], factors, prior)[0] + log_bias[i]
        if use_counts:
            scores = scores + np.log(factors.counts + alpha)
        cumulative = np.cumsum(np.exp(scores - scores.max()))
        z[i] = np.searchsorted(cumulative, uniforms[i] * cumulative[-1], side="right")


@pytest.mark.parametrize("use_counts", [True, False])
@pytest.mark.parametrize(("temperature", "spread"), [(1.0, 2.0), (0.2, 0.3)])
def test_sweeps_draw_what_row_by_row_sampling_draws_from_the_same_uniforms(use_counts, temperature, spread):
    X, prior, z = clusters(5, spread=spread)
    N, K, alpha = len(X), 4, 0.5
    rng = np.random.default_rng(6)
    log_bias = rng.normal(size=(N, K))
    log_bias[::7, 1] = -np.inf
    mask = rng.random(N) < 0.2
    z[mask] = -1
    expected = z.copy()
    factors = niw.build_factors(X, z, K, prior)
    tables = gibbs.make_tables(prior, N, alpha, use_counts, temperature)
    moved = 0
    for _ in range(12):
        uniforms = rng.random(N)
        before = expected.copy()
        slow_sweep(X, log_bias, expected, uniforms, mask, prior, alpha, use_counts, temperature)
        changed = gibbs.sweep(X, log_bias, z, uniforms, mask, factors, tables)
        assert_array_equal(z, expected)
        assert changed == (before != expected).sum()
        moved += changed
    assert moved > N  # so that the agreement says something about moves


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 6), st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_the_agreement_holds_for_any_size(seed, D, K, N):
    rng = np.random.default_rng(seed)
    X, prior, z = clusters(seed, N, D, K, 0.5)
    z[rng.random(N) < 0.3] = -1  # rows that are in no class yet
    mask, log_bias, expected = np.zeros(N, dtype=bool), np.zeros((N, K)), z.copy()
    factors, tables = niw.build_factors(X, z, K, prior), gibbs.make_tables(prior, N, 1.0)
    for _ in range(2):
        uniforms = rng.random(N)
        slow_sweep(X, log_bias, expected, uniforms, mask, prior, 1.0, True, 1.0)
        gibbs.sweep(X, log_bias, z, uniforms, mask, factors, tables)
        assert_array_equal(z, expected)


def test_factors_kept_through_many_sweeps_stay_with_those_from_scratch():
    X, prior, z = clusters(7, N=300, D=8, spread=0.5)
    rng = np.random.default_rng(8)
    factors, tables = niw.build_factors(X, z, 4, prior), gibbs.make_tables(prior, 300, 1.0)
    for _ in range(gibbs.REBUILD_EVERY):
        gibbs.sweep(X, np.zeros((300, 4)), z, rng.random(300), np.zeros(300, dtype=bool), factors, tables)
    afresh = niw.build_factors(X, z, 4, prior)
    assert_array_equal(factors.counts, afresh.counts)
    assert_allclose(factors.mean, afresh.mean, rtol=1e-9, atol=1e-11)
    assert_allclose(np.tril(factors.scale), np.tril(afresh.scale), rtol=1e-9, atol=1e-9)
    assert_allclose(np.tril(factors.chol), afresh.chol, rtol=1e-9, atol=1e-9)
    assert_allclose(factors.log_det, afresh.log_det, rtol=1e-9)


def log_joint(X, labels, K, prior, alpha, log_bias, use_counts):
    """Return the log of p(X, labels) up to a constant, in closed form."""
    factors = niw.build_factors(X, labels, K, prior)
    value = niw.log_marginal(factors, prior).sum() + log_bias[np.arange(len(X)), labels].sum()
    if use_counts:  # Dirichlet-multinomial: whose leave-one-out conditional is n_k + alpha
        value += sum(np.log(alpha + np.arange(n)).sum() for n in factors.counts)
    return value


@pytest.mark.parametrize("use_counts", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("K", [2, 3])
def test_six_points_follow_the_posterior_found_by_enumeration(K, biased, use_counts):
    rng = np.random.default_rng(9)
    X = rng.normal(size=(6, 2)) + np.repeat([[0.0, 0.0], [1.5, 0.0]], 3, axis=0)
    prior = niw.Prior(X.mean(axis=0), 1.0, 4.0, np.full(2, 1.0))
    log_bias = rng.normal(size=(6, K)) if biased else np.zeros((6, K))
    labelings = np.array(list(itertools.product(range(K), repeat=6)))
    joint = np.array([log_joint(X, z, K, prior, 0.8, log_bias, use_counts) for z in labelings])
    exact = np.exp(joint - joint.max())
    exact /= exact.sum()

    batches, size = 40, 500
    z, generator = labelings[0], np.random.default_rng(10)
    factors, tables = niw.build_factors(X, z, K, prior), gibbs.make_tables(prior, 6, 0.8, use_counts)
    z, mask = z.astype(np.int64), np.zeros(6, dtype=bool)
    seen = np.zeros((batches, len(labelings)))
    code = K ** np.arange(5, -1, -1)
    for batch in range(batches):
        for _ in range(size):
            gibbs.sweep(X, log_bias, z, generator.random(6), mask, factors, tables)
            seen[batch, z @ code] += 1 / size
        factors = niw.build_factors(X, z, K, prior)
    # Statistics: who has which label, who is with whom. Their Monte-Carlo error comes from the means of the batches,
    # which a chain that mixes within a few sweeps makes nearly independent.
    marks = [labelings[:, i] == k for i in range(6) for k in range(K)]
    marks += [labelings[:, i] == labelings[:, j] for i, j in itertools.combinations(range(6), 2)]
    statistics = np.array(marks, dtype=float).T
    means = seen @ statistics
    error = means.std(axis=0, ddof=1) / np.sqrt(batches)
    deviation = np.abs(means.mean(axis=0) - exact @ statistics) / error
    assert deviation.max() < 4.5
    assert error.max() < 0.02


def test_missing_rows_are_in_no_class_and_never_looked_at():
    X, prior, z = clusters(11)
    mask = np.zeros(len(X), dtype=bool)
    mask[::3] = True
    X[mask] = np.nan
    new, factors = gibbs.gibbs(X, z, 4, prior, 1.0, 3, np.random.default_rng(0), mask=mask)
    assert (new[mask] == -1).all()
    assert (new[~mask] >= 0).all()
    assert factors.counts.sum() == (~mask).sum()
    assert np.isfinite(factors.log_det).all()


def test_an_empty_class_comes_to_life_where_it_is_needed():
    X, prior, _ = clusters(12, spread=0.1)
    X[17] = 50.0  # under the prior's heavy tails not as unlikely as under the class of the others
    new, _ = gibbs.gibbs(X, np.zeros(len(X), dtype=int), 4, prior, 1.0, 1, np.random.default_rng(1))
    assert new[17] != 0
    assert (new == new[17]).sum() < 10


def test_a_class_that_is_forbidden_is_never_drawn():
    X, prior, z = clusters(13)
    log_bias = np.zeros((len(X), 4))
    log_bias[:, 2] = -np.inf
    new, factors = gibbs.gibbs(X, z, 4, prior, 1.0, 2, np.random.default_rng(2), log_bias=log_bias)
    assert 2 not in new
    assert factors.counts[2] == 0


def test_the_same_seed_gives_the_same_bits_and_leaves_the_labels_that_came_alone():
    X, prior, z = clusters(14)
    kept = z.copy()
    (one, first), (two, second) = (gibbs.gibbs(X, z, 4, prior, 1.0, 30, np.random.default_rng(3)) for _ in range(2))
    assert_array_equal(one, two)
    assert_array_equal(z, kept)
    for a, b in zip(first, second, strict=True):
        assert_array_equal(a, b)


def test_no_sweep_changes_nothing_and_returns_the_factors():
    X, prior, z = clusters(15)
    new, factors = gibbs.gibbs(X, z, 4, prior, 1.0, 0, np.random.default_rng(4))
    assert_array_equal(new, z)
    assert_array_equal(factors.counts, np.bincount(z, minlength=4))


def test_progress_is_reported_after_every_sweep():
    X, prior, z = clusters(16)
    seen = []
    gibbs.gibbs(X, z, 4, prior, 1.0, 3, np.random.default_rng(5), on_sweep=lambda *report: seen.append(report))
    assert [done for done, _ in seen] == [1, 2, 3]
    assert all(0 <= moved <= len(X) for _, moved in seen)


def test_a_scale_that_rounding_made_singular_is_summed_up_again_from_the_rows():
    X, prior, z = clusters(17, spread=0.1)
    factors = niw.build_factors(X, z, 4, prior)
    factors.scale[:] = -np.eye(5)
    tables, mask = gibbs.make_tables(prior, len(X), 1.0), np.zeros(len(X), dtype=bool)
    assert gibbs.sweep(X, np.zeros((120, 4)), z, np.random.default_rng(0).random(120), mask, factors, tables) > 60
    afresh = niw.build_factors(X, z, 4, prior)
    assert_allclose(factors.mean, afresh.mean, rtol=1e-9, atol=1e-11)
    assert_allclose(np.tril(factors.chol), afresh.chol, rtol=1e-9, atol=1e-9)
    assert_allclose(factors.log_det, afresh.log_det, rtol=1e-9, atol=1e-9)


def test_a_scale_that_stays_singular_is_reported():
    X, prior, z = clusters(17, spread=0.1)
    X[:, 0] = 0.0
    factors = niw.build_factors(X, z, 4, prior)
    factors.scale[:] = -np.eye(5)
    tables = gibbs.make_tables(prior, len(X), 1.0)._replace(mean0=np.zeros(5), scale0=np.zeros((5, 5)))
    uniforms, mask = np.random.default_rng(0).random(120), np.zeros(len(X), dtype=bool)
    assert gibbs.sweep(X, np.zeros((120, 4)), z, uniforms, mask, factors, tables) < 0


def test_rows_too_large_for_the_priors_scale_are_refused():
    X, prior, z = clusters(17)
    with pytest.raises(ValueError, match="too small for data"):
        gibbs.gibbs(np.repeat(X[:1] * 1e10, 120, axis=0) + X * 1e-3, z, 4, prior, 1.0, 1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"X": np.full((120, 5), np.inf)}, "row 0 is not finite"),
        ({"z": np.full(120, 4)}, "labels must lie"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"log_bias": np.full((120, 4), -np.inf)}, "no possible class"),
        ({"log_bias": np.full((120, 4), np.nan)}, "row 0 of log_bias"),
        ({"log_bias": np.zeros((120, 3))}, "log_bias must have the shape"),
        ({"mask": np.zeros(3, dtype=bool)}, "mask must have the shape"),
    ],
)
def test_what_cannot_be_sampled_is_refused(change, text):
    X, prior, z = clusters(18)
    arguments = {"X": X, "z": z, "classes": 4, "prior": prior, "alpha": 1.0, "iterations": 1, **change}
    with pytest.raises(ValueError, match=text):
        gibbs.gibbs(generator=np.random.default_rng(0), **arguments)


def test_kernels_compile_once_for_all_kinds_of_input():
    gibbs.compile_kernels()
    before = len(gibbs.sweep.signatures), len(niw.quadratic_forms.signatures)
    X, prior, z = clusters(19)
    _, factors = gibbs.gibbs(
        np.asfortranarray(X.astype(np.float32)),
        z.astype(np.int32),
        4,
        prior,
        1,
        1,
        np.random.default_rng(0),
        log_bias=np.zeros((4, 120)).T,
        temperature=1,
    )
    niw.log_predictive_loo(X[::-1], z[::-1], factors, prior)
    assert (len(gibbs.sweep.signatures), len(niw.quadratic_forms.signatures)) == before == (1, 1)
