"""Test the mixture from sums over chunks against the kernels that see all rows at once."""

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp

from actors.kernels.mixture import calibration, niw, sums, variational
from tests.actors.kernels.mixture import test_calibration
from tests.actors.kernels.mixture.test_gibbs import clusters

K, ALPHA = 4, 0.5
CHUNK = 17


def add(left, right):
    assert left.keys() == right.keys()
    return {name: left[name] + right[name] for name in left}


def chunks(*arrays, size=CHUNK):
    """Return the chunks of arrays of rows; None stays None."""
    rows = len(arrays[0])
    return [[None if each is None else each[start : start + size] for each in arrays] for start in range(0, rows, size)]


def total(function, *arrays, size=CHUNK, **options):
    return functools.reduce(add, (function(*each, **options) for each in chunks(*arrays, size=size)))


def random_responsibilities(seed, rows=120):
    return np.random.default_rng(seed).dirichlet(np.full(K, 0.3), rows)


def assert_same_posterior(actual, expected, rtol):
    """Compare two posteriors, scales relative to the classes' deviations."""
    deviation = np.sqrt(np.diagonal(expected.scale, axis1=1, axis2=2))
    assert_allclose(actual.counts, expected.counts, rtol=rtol)
    assert_array_less(np.abs(actual.mean - expected.mean), rtol * (deviation + np.abs(expected.mean)))
    units = deviation[:, :, None] * deviation[:, None, :]
    assert_array_less(np.abs(actual.scale - expected.scale), rtol * units)
    assert_allclose(actual.log_det, expected.log_det, rtol=rtol, atol=rtol * deviation.shape[1])


def assert_array_less(actual, limit):
    assert (actual <= limit).all(), (actual / limit).max()


# --- classes --------------------------------------------------------------------------------------------------------


def test_the_sums_are_the_moments_of_the_classes_about_their_references():
    X, _, z = clusters(0)
    r, reference = random_responsibilities(0), np.random.default_rng(1).normal(size=(K, 5))
    given = sums.class_sums(X, r, reference)
    offsets = X[:, None, :] - reference  # (N, K, D)
    assert_allclose(given["counts"], r.sum(axis=0), rtol=1e-14)
    assert_allclose(given["first"], np.einsum("nk,nkd->kd", r, offsets), rtol=1e-12)
    assert_allclose(given["second"], np.einsum("nk,nkd,nke->kde", r, offsets, offsets), rtol=1e-12)
    of_labels = sums.class_sums_of_labels(X, z, reference)
    for name, value in sums.class_sums(X, variational.one_hot_responsibilities(z, K), reference).items():
        assert_allclose(of_labels[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 64, 120])
@pytest.mark.parametrize("distance", [0.0, 1.0, 30.0])
def test_the_posterior_of_summed_chunks_is_that_of_all_rows(size, distance):
    X, prior, z = clusters(1)
    z[::11] = -1
    r = random_responsibilities(1)
    soft = variational.posterior_from_responsibilities(X, r, prior)
    hard = niw.posterior_from_labels(X, z, K, prior)
    direction = np.full(5, 1 / np.sqrt(5))
    for expected, of_chunk, weights in ((soft, sums.class_sums, r), (hard, sums.class_sums_of_labels, z)):
        reference = expected.mean + distance * direction
        given = total(of_chunk, X, weights, size=size, reference=reference)
        assert_same_posterior(sums.posterior_from_sums(given, reference, prior), expected, 1e-12)


def test_a_class_without_rows_has_the_prior():
    X, prior, _ = clusters(2)
    reference = np.random.default_rng(3).normal(size=(K, 5))
    given = sums.class_sums_of_labels(X, np.full(len(X), 2), reference)
    posterior = sums.posterior_from_sums(given, reference, prior)
    for k in (0, 1, 3):
        assert_array_equal(posterior.mean[k], prior.mean)
        assert_array_equal(posterior.scale[k], prior.scale)
    assert_array_equal(posterior.counts, [0.0, 0.0, 120.0, 0.0])


@pytest.mark.parametrize("distance", [1e2, 1e4, 1e6])
def test_the_error_of_a_far_reference_grows_with_the_squared_distance_and_is_gone_with_the_next(distance):
    X, _, z = clusters(3, spread=0.0)  # deviations of one
    X = X + distance
    prior = niw.NIWPrior(X.mean(axis=0), 1.0, 7.0, np.full(5, 0.1))
    moved = niw.NIWPrior(prior.mean - distance, 1.0, 7.0, prior.scale)  # exactly, as the rows below
    expected = niw.posterior_from_labels(X - distance, z, K, moved)
    expected = expected._replace(mean=expected.mean + distance)
    origin = np.zeros((K, 5))  # the classes' averages are at `distance` in every column
    far = sums.posterior_from_sums(total(sums.class_sums_of_labels, X, z, reference=origin), origin, prior)
    error = np.abs(far.scale - expected.scale).max() / np.abs(expected.scale).max()
    assert error < 50 * 2.0**-53 * (1 + distance**2)
    near = sums.posterior_from_sums(total(sums.class_sums_of_labels, X, z, reference=far.mean), far.mean, prior)
    assert_same_posterior(near, expected, 1e-12)


def test_an_outlier_a_million_deviations_away_is_exact_once_the_reference_is_the_posterior_mean():
    X, prior, z = clusters(4)
    X[5, 0] = 1e6
    r = random_responsibilities(4)
    for labels, expected in (
        (np.where(np.arange(120) == 5, 3, z % 3), None),  # alone in its class
        (z, None),  # in the class of others
        (r, variational.posterior_from_responsibilities(X, r, prior)),
    ):
        expected = niw.posterior_from_labels(X, labels, K, prior) if expected is None else expected
        of_chunk = sums.class_sums if labels.ndim == 2 else sums.class_sums_of_labels
        reference = np.tile(prior.mean, (K, 1))
        for _ in range(2):
            given = total(of_chunk, X, labels, reference=reference)
            posterior = sums.posterior_from_sums(given, reference, prior)
            reference = posterior.mean
        assert_same_posterior(posterior, expected, 1e-12)


# --- variational Bayes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_iterations_by_chunks_are_those_of_variational_bayes(monkeypatch, temperature, with_prior, missing):
    monkeypatch.setattr(variational, "MIN_RISE", -np.inf)
    X, prior, _ = clusters(5, spread=1.0)
    rng = np.random.default_rng(6)
    mask = rng.random(120) < 0.2 if missing else None
    log_prior = np.log(rng.dirichlet(np.ones(K), 120)) if with_prior else None
    r = random_responsibilities(5)
    if with_prior:
        log_prior[::5, 1] = -np.inf
        r[::5, 1] = 0.0
        r /= r.sum(axis=1, keepdims=True)
    if missing:
        X[mask], r[mask] = np.nan, 0.0
    options = {"log_bias": log_prior, "temperature": temperature, "mask": mask}
    reference = np.zeros((K, 5))
    start = [
        sums.variational_sums(x, w, reference, log_prior=p, mask=m) for x, w, p, m in chunks(X, r, log_prior, mask)
    ]
    summed = functools.reduce(add, start)
    posterior, by_chunks, objectives = sums.posterior_from_sums(summed, reference, prior), None, []
    for iterations in range(7):
        whole_r, whole, bound = variational.variational_bayes(
            X, r, prior, ALPHA, iterations, on_iteration=lambda *each: objectives.append(each[1]), **options
        )
        assert_same_posterior(posterior, whole, 1e-9)
        assert_allclose(sums.bound_from_sums(summed, posterior, prior, ALPHA), bound, rtol=1e-9)
        if iterations:
            objective = sums.bound_from_sums(summed, posterior, prior, ALPHA, temperature=temperature)
            assert_allclose(objective, objectives[-1], rtol=1e-9)
            assert_allclose(by_chunks, whole_r, atol=1e-9)
        weights = None if with_prior else variational.expected_log_weights(posterior.counts, ALPHA)
        results = [
            sums.expect(x, posterior, prior, log_weights=weights, log_prior=p, temperature=temperature, mask=m)
            for x, p, m in chunks(X, log_prior, mask)
        ]
        by_chunks = np.concatenate([each for each, _ in results])
        summed = functools.reduce(add, (each for _, each in results))
        posterior = sums.posterior_from_sums(summed, posterior.mean, prior)


def test_a_responsibility_that_the_prior_forbids_makes_the_bound_minus_infinity():
    X, prior, _ = clusters(7)
    log_prior = np.zeros((120, K))
    log_prior[3, 0] = -np.inf
    r = np.full((120, K), 1 / K)
    summed = sums.variational_sums(X, r, np.zeros((K, 5)), log_prior=log_prior)
    posterior = sums.posterior_from_sums(summed, np.zeros((K, 5)), prior)
    assert sums.bound_from_sums(summed, posterior, prior, ALPHA) == -np.inf


def test_a_chunk_whose_rows_are_all_missing_adds_nothing():
    _, prior, _ = clusters(8)
    posterior = niw.posterior_from_labels(np.zeros((0, 5)), [], K, prior)
    rows, missing = np.full((9, 5), np.nan), np.ones(9, dtype=bool)
    for options in ({"log_weights": np.zeros(K)}, {"log_prior": np.zeros((9, K))}):
        r, given = sums.expect(rows, posterior, prior, mask=missing, **options)
        assert_array_equal(r, np.zeros((9, K)))
        assert all((value == 0.0).all() for value in given.values())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"X": np.full((120, 5), np.inf)}, "row 0 is not finite"),
        ({"X": np.zeros((120, 4))}, "rows must have the shape"),
        ({"log_weights": None}, "log_weights or log_prior"),
        ({"log_weights": None, "log_prior": np.full((120, K), -np.inf)}, "no possible class"),
        ({"mask": np.zeros(3, dtype=bool)}, "mask must have the shape"),
    ],
)
def test_invalid_input_is_refused(change, text):
    X, prior, z = clusters(9)
    posterior = niw.posterior_from_labels(X, z, K, prior)
    with pytest.raises(ValueError, match=text):
        sums.expect(**{"X": X, "posterior": posterior, "prior": prior, "log_weights": np.zeros(K), **change})


# --- leave-one-out densities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 33])
def test_leave_one_out_densities_of_chunks_have_the_bits_of_all_rows(size):
    X, prior, z = clusters(10)
    z[::9] = -1
    r = random_responsibilities(10)
    soft = variational.posterior_from_responsibilities(X, r, prior)
    by_chunks = [variational.soft_log_predictive_loo(x, w, soft, prior) for x, w in chunks(X, r, size=size)]
    assert_array_equal(np.concatenate(by_chunks), variational.soft_log_predictive_loo(X, r, soft, prior))
    hard = niw.posterior_from_labels(X, z, K, prior)
    whole = niw.log_predictive_loo(X, z, hard, prior)
    by_chunks = [niw.log_predictive_loo(x, w, hard, prior) for x, w in chunks(X, z, size=size)]
    assert_array_equal(np.concatenate(by_chunks), whole)
    summed = total(sums.class_sums_of_labels, X, z, size=size, reference=hard.mean)
    posterior = sums.posterior_from_sums(summed, hard.mean, prior)
    by_chunks = [niw.log_predictive_loo(x, w, posterior, prior) for x, w in chunks(X, z, size=size)]
    assert_allclose(np.concatenate(by_chunks), whole, rtol=1e-11)


def test_the_bits_of_a_chunk_do_not_depend_on_the_array_that_holds_it():
    X, prior, z = clusters(11)
    posterior = niw.posterior_from_labels(X, z, K, prior)
    weights = np.zeros(K)
    whole = sums.expect(X[3:60], posterior, prior, log_weights=weights)
    copied = sums.expect(np.asfortranarray(X[3:60]), posterior, prior, log_weights=weights)
    assert_array_equal(whole[0], copied[0])
    for name in whole[1]:
        assert_array_equal(whole[1][name], copied[1][name])


# --- calibration ----------------------------------------------------------------------------------------------------


def calibrate_by_chunks(log_likelihood, weights, log_cavity, size):
    """Return the choice, the mean posteriors and the scores."""
    first = total(sums.calibration_sums, log_likelihood, size=size, weights=weights)
    means = sums.mean_posteriors(first, weights)
    parts = [sums.calibration_scores(x, weights, c, means) for x, c in chunks(log_likelihood, log_cavity, size=size)]
    second = functools.reduce(add, parts)
    return sums.choose_calibration(second), means, second["scores"]


@pytest.mark.parametrize("size", [1, 70, 400])
@pytest.mark.parametrize(("sharpness", "wrong"), [(1.0, 0.0), (2.5, 0.0), (1.0, 0.1), (40.0, 0.3)])
def test_the_calibration_of_summed_chunks_is_that_of_all_rows(sharpness, wrong, size):
    log_likelihood, log_cavity = (each[:400] for each in test_calibration.rows(sharpness, wrong))
    log_cavity = np.array(log_cavity)
    log_cavity[::13, 0] = -np.inf
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    choice, means, scores = calibrate_by_chunks(log_likelihood, weights, log_cavity, size)
    assert choice == calibration.calibrate(log_likelihood, weights, log_cavity)
    for t, temperature in enumerate(calibration.TEMPERATURES):
        for e, lapse in enumerate(calibration.LAPSES):
            posterior = calibration.calibrated_posterior(log_likelihood, weights, temperature, lapse)
            assert_allclose(means[t, e], posterior.mean(axis=0), rtol=1e-9)
            scaled = calibration.scaled_likelihood(posterior, posterior.mean(axis=0))
            assert_allclose(scores[t, e], logsumexp(log_cavity + scaled, axis=1).sum(), rtol=1e-9, atol=1e-9)


def test_improbable_cavities_and_likelihoods_do_not_underflow():
    log_likelihood = np.array([[0.0, -1e5], [-1e9, 0.0], [-1e-3, 0.0]])
    log_cavity = np.array([[-2000.0, -1500.0], [-1e4, -1e4], [-np.inf, -900.0]])
    weights = np.array([1 - 1e-9, 1e-9])
    choice, means, scores = calibrate_by_chunks(log_likelihood, weights, log_cavity, 2)
    assert choice == calibration.calibrate(log_likelihood, weights, log_cavity)
    for t, temperature in enumerate(calibration.TEMPERATURES):
        for e, lapse in enumerate(calibration.LAPSES):
            posterior = calibration.calibrated_posterior(log_likelihood, weights, temperature, lapse)
            scaled = calibration.scaled_likelihood(posterior, means[t, e])
            assert_allclose(scores[t, e], logsumexp(log_cavity + scaled, axis=1).sum(), rtol=1e-9)


def test_a_chunk_without_rows_adds_nothing_to_the_calibration():
    none, weights = np.zeros((0, K)), np.full(K, 1 / K)
    assert all((value == 0.0).all() for value in sums.calibration_sums(none, weights).values())
    means = np.full((len(calibration.TEMPERATURES), len(calibration.LAPSES), K), 1 / K)
    assert (sums.calibration_scores(none, weights, none, means)["scores"] == 0.0).all()


def test_rows_that_no_class_explains_are_calibrated_as_with_all_rows_at_once():
    log_likelihood, weights = np.random.default_rng(12).normal(size=(9, K)), np.full(K, 1 / K)
    log_cavity = np.full((9, K), -np.inf)
    choice, _, scores = calibrate_by_chunks(log_likelihood, weights, log_cavity, 4)
    assert (scores == -np.inf).all()
    assert choice == calibration.calibrate(log_likelihood, weights, log_cavity)
