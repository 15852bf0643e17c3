"""Test the Gibbs sampler against a row-by-row reference and against the exact posterior over labellings."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from actors.kernels.mixture import gibbs, gibbs_sweep, niw


def clusters(seed, N=120, D=5, K=4, spread=2.0):
    """Return rows around K centres, a prior, and random labels."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(K, D))[rng.integers(0, K, N)] * spread + rng.normal(size=(N, D))
    return X, niw.NIWPrior(X.mean(axis=0), 1.0, D + 2.0, np.full(D, 0.1)), rng.integers(0, K, N)


def slow_sweep(X, log_bias, z, uniforms, mask, prior, alpha, use_counts, temperature):
    """Sample row by row, with the posterior recomputed for every row."""
    K = log_bias.shape[1]
    for i in np.flatnonzero(~mask):
        z[i] = -1
        posterior = niw.posterior_from_labels(X, z, K, prior)
        scores = temperature * niw.log_predictive(X[i : i + 1], posterior, prior)[0] + log_bias[i]
        if use_counts:
            scores = scores + np.log(posterior.counts + alpha)
        cumulative = np.cumsum(np.exp(scores - scores.max()))
        z[i] = np.searchsorted(cumulative, uniforms[i] * cumulative[-1], side="right")


@pytest.mark.parametrize("use_counts", [True, False])
@pytest.mark.parametrize(("temperature", "spread"), [(1.0, 2.0), (0.2, 0.3)])
def test_sweeps_draw_the_same_labels_as_row_by_row_sampling(use_counts, temperature, spread):
    X, prior, z = clusters(5, spread=spread)
    N, K, alpha = len(X), 4, 0.5
    rng = np.random.default_rng(6)
    log_bias = rng.normal(size=(N, K))
    log_bias[::7, 1] = -np.inf
    mask = rng.random(N) < 0.2
    z[mask] = -1
    expected = z.copy()
    posterior = niw.posterior_from_labels(X, z, K, prior)
    tables = gibbs_sweep.make_tables(prior, N, alpha, use_counts, temperature)
    moved = 0
    for _ in range(12):
        uniforms = rng.random(N)
        before = expected.copy()
        slow_sweep(X, log_bias, expected, uniforms, mask, prior, alpha, use_counts, temperature)
        changed = gibbs_sweep.sweep(X, log_bias, z, uniforms, mask, posterior, tables)
        assert_array_equal(z, expected)
        assert changed == (before != expected).sum()
        moved += changed
    assert moved > N  # otherwise the agreement would not cover moves


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 6), st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_sweeps_agree_with_row_by_row_sampling_for_any_size(seed, D, K, N):
    rng = np.random.default_rng(seed)
    X, prior, z = clusters(seed, N, D, K, 0.5)
    z[rng.random(N) < 0.3] = -1  # rows without a label
    mask, log_bias, expected = np.zeros(N, dtype=bool), np.zeros((N, K)), z.copy()
    posterior, tables = niw.posterior_from_labels(X, z, K, prior), gibbs_sweep.make_tables(prior, N, 1.0)
    for _ in range(2):
        uniforms = rng.random(N)
        slow_sweep(X, log_bias, expected, uniforms, mask, prior, 1.0, True, 1.0)
        gibbs_sweep.sweep(X, log_bias, z, uniforms, mask, posterior, tables)
        assert_array_equal(z, expected)


def test_the_posterior_updated_through_many_sweeps_agrees_with_recomputation():
    X, prior, z = clusters(7, N=300, D=8, spread=0.5)
    rng = np.random.default_rng(8)
    posterior, tables = niw.posterior_from_labels(X, z, 4, prior), gibbs_sweep.make_tables(prior, 300, 1.0)
    for _ in range(gibbs.REBUILD_EVERY):
        gibbs_sweep.sweep(X, np.zeros((300, 4)), z, rng.random(300), np.zeros(300, dtype=bool), posterior, tables)
    recomputed = niw.posterior_from_labels(X, z, 4, prior)
    assert_array_equal(posterior.counts, recomputed.counts)
    assert_allclose(posterior.mean, recomputed.mean, rtol=1e-9, atol=1e-11)
    assert_allclose(np.tril(posterior.scale), np.tril(recomputed.scale), rtol=1e-9, atol=1e-9)
    assert_allclose(np.tril(posterior.chol), recomputed.chol, rtol=1e-9, atol=1e-9)
    assert_allclose(posterior.log_det, recomputed.log_det, rtol=1e-9)


def log_joint(X, labels, K, prior, alpha, log_bias, use_counts):
    """Return the log of p(X, labels) up to a constant, in closed form."""
    posterior = niw.posterior_from_labels(X, labels, K, prior)
    value = niw.log_marginal_likelihood(posterior, prior).sum() + log_bias[np.arange(len(X)), labels].sum()
    if use_counts:  # Dirichlet-multinomial, whose leave-one-out conditional is n_k + alpha
        value += sum(np.log(alpha + np.arange(n)).sum() for n in posterior.counts)
    return value


@pytest.mark.parametrize("use_counts", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("K", [2, 3])
def test_labels_of_six_points_follow_the_enumerated_posterior(K, biased, use_counts):
    rng = np.random.default_rng(9)
    X = rng.normal(size=(6, 2)) + np.repeat([[0.0, 0.0], [1.5, 0.0]], 3, axis=0)
    prior = niw.NIWPrior(X.mean(axis=0), 1.0, 4.0, np.full(2, 1.0))
    log_bias = rng.normal(size=(6, K)) if biased else np.zeros((6, K))
    labellings = np.array(list(itertools.product(range(K), repeat=6)))
    joint = np.array([log_joint(X, z, K, prior, 0.8, log_bias, use_counts) for z in labellings])
    exact = np.exp(joint - joint.max())
    exact /= exact.sum()

    batches, size = 40, 500
    z, generator = labellings[0], np.random.default_rng(10)
    posterior, tables = niw.posterior_from_labels(X, z, K, prior), gibbs_sweep.make_tables(prior, 6, 0.8, use_counts)
    z, mask = z.astype(np.int64), np.zeros(6, dtype=bool)
    frequencies = np.zeros((batches, len(labellings)))
    code = K ** np.arange(5, -1, -1)
    for batch in range(batches):
        for _ in range(size):
            gibbs_sweep.sweep(X, log_bias, z, generator.random(6), mask, posterior, tables)
            frequencies[batch, z @ code] += 1 / size
        posterior = niw.posterior_from_labels(X, z, K, prior)
    # Statistics: the label of each row, and whether two rows share one. Their Monte Carlo error is estimated from the
    # means of batches, which are nearly independent for a chain that mixes within a few sweeps.
    indicators = [labellings[:, i] == k for i in range(6) for k in range(K)]
    indicators += [labellings[:, i] == labellings[:, j] for i, j in itertools.combinations(range(6), 2)]
    statistics = np.array(indicators, dtype=float).T
    means = frequencies @ statistics
    error = means.std(axis=0, ddof=1) / np.sqrt(batches)
    deviation = np.abs(means.mean(axis=0) - exact @ statistics) / error
    assert deviation.max() < 4.5
    assert error.max() < 0.02


def test_missing_rows_are_in_no_class_and_their_values_are_not_used():
    X, prior, z = clusters(11)
    mask = np.zeros(len(X), dtype=bool)
    mask[::3] = True
    X[mask] = np.nan
    new, posterior = gibbs.gibbs(X, z, 4, prior, 1.0, 3, np.random.default_rng(0), mask=mask)
    assert (new[mask] == -1).all()
    assert (new[~mask] >= 0).all()
    assert posterior.counts.sum() == (~mask).sum()
    assert np.isfinite(posterior.log_det).all()


def test_an_outlier_moves_to_an_empty_class():
    X, prior, _ = clusters(12, spread=0.1)
    X[17] = 50.0  # less improbable under the heavy tails of the prior predictive than in the class of the others
    new, _ = gibbs.gibbs(X, np.zeros(len(X), dtype=int), 4, prior, 1.0, 1, np.random.default_rng(1))
    assert new[17] != 0
    assert (new == new[17]).sum() < 10


def test_a_forbidden_class_is_never_drawn():
    X, prior, z = clusters(13)
    log_bias = np.zeros((len(X), 4))
    log_bias[:, 2] = -np.inf
    new, posterior = gibbs.gibbs(X, z, 4, prior, 1.0, 2, np.random.default_rng(2), log_bias=log_bias)
    assert 2 not in new
    assert posterior.counts[2] == 0


def test_the_same_seed_gives_the_same_bits_and_does_not_change_the_input():
    X, prior, z = clusters(14)
    kept = z.copy()
    (one, first), (two, second) = (gibbs.gibbs(X, z, 4, prior, 1.0, 30, np.random.default_rng(3)) for _ in range(2))
    assert_array_equal(one, two)
    assert_array_equal(z, kept)
    for a, b in zip(first, second, strict=True):
        assert_array_equal(a, b)


def test_zero_sweeps_return_the_labels_and_their_posterior():
    X, prior, z = clusters(15)
    new, posterior = gibbs.gibbs(X, z, 4, prior, 1.0, 0, np.random.default_rng(4))
    assert_array_equal(new, z)
    assert_array_equal(posterior.counts, np.bincount(z, minlength=4))


def test_progress_is_reported_after_every_sweep():
    X, prior, z = clusters(16)
    reports = []
    gibbs.gibbs(X, z, 4, prior, 1.0, 3, np.random.default_rng(5), on_sweep=lambda *report: reports.append(report))
    assert [done for done, _ in reports] == [1, 2, 3]
    assert all(0 <= moved <= len(X) for _, moved in reports)


def test_a_singular_scale_is_recomputed_from_the_rows():
    X, prior, z = clusters(17, spread=0.1)
    posterior = niw.posterior_from_labels(X, z, 4, prior)
    posterior.scale[:] = -np.eye(5)
    tables, mask = gibbs_sweep.make_tables(prior, len(X), 1.0), np.zeros(len(X), dtype=bool)
    assert (
        gibbs_sweep.sweep(X, np.zeros((120, 4)), z, np.random.default_rng(0).random(120), mask, posterior, tables) > 60
    )
    recomputed = niw.posterior_from_labels(X, z, 4, prior)
    assert_allclose(posterior.mean, recomputed.mean, rtol=1e-9, atol=1e-11)
    assert_allclose(np.tril(posterior.chol), recomputed.chol, rtol=1e-9, atol=1e-9)
    assert_allclose(posterior.log_det, recomputed.log_det, rtol=1e-9, atol=1e-9)


def test_a_scale_that_stays_singular_after_recomputation_is_reported():
    X, prior, z = clusters(17, spread=0.1)
    X[:, 0] = 0.0
    posterior = niw.posterior_from_labels(X, z, 4, prior)
    posterior.scale[:] = -np.eye(5)
    tables = gibbs_sweep.make_tables(prior, len(X), 1.0)._replace(mean0=np.zeros(5), scale0=np.zeros((5, 5)))
    uniforms, mask = np.random.default_rng(0).random(120), np.zeros(len(X), dtype=bool)
    assert gibbs_sweep.sweep(X, np.zeros((120, 4)), z, uniforms, mask, posterior, tables) < 0


def test_rows_too_large_for_the_prior_scale_are_refused():
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
def test_invalid_input_is_refused(change, text):
    X, prior, z = clusters(18)
    arguments = {"X": X, "z": z, "classes": 4, "prior": prior, "alpha": 1.0, "iterations": 1, **change}
    with pytest.raises(ValueError, match=text):
        gibbs.gibbs(generator=np.random.default_rng(0), **arguments)


def test_kernels_compile_once_for_all_input_types():
    gibbs.compile_kernels()
    before = len(gibbs_sweep.sweep.signatures), len(niw.squared_mahalanobis.signatures)
    X, prior, z = clusters(19)
    _, posterior = gibbs.gibbs(
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
    niw.log_predictive_loo(X[::-1], z[::-1], posterior, prior)
    assert (len(gibbs_sweep.sweep.signatures), len(niw.squared_mahalanobis.signatures)) == before == (1, 1)
