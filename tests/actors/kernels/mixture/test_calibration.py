"""Test the calibration of the class likelihood by the neighbours' predictions."""

import numpy as np
import pytest
from scipy.special import log_softmax

from actors.kernels.mixture.calibration import LAPSES, TEMPERATURES, calibrate, calibrated_posterior, scaled_likelihood

N, K = 4000, 4
WEIGHTS = np.full(K, 1 / K)


def rows(sharpness, wrong=0.0, seed=0):
    """Return log-likelihoods calibrated at temperature 1 / `sharpness`, a share `wrong` being lapses, and cavities."""
    generator = np.random.default_rng(seed)
    classes = generator.integers(0, K, N)
    X = classes[:, None] == np.arange(K)
    X = 2.0 * X + generator.normal(size=(N, K))  # unit Gaussians around the vertices of a simplex
    log_likelihood = 2.0 * X
    lost = generator.random(N) < wrong
    log_likelihood[lost] = 2.0 * (2.0 * np.eye(K)[generator.integers(0, K, lost.sum())])
    predicted = np.where(generator.random(N) < 0.9, classes, generator.integers(0, K, N))
    log_cavity = np.log(np.full((N, K), 0.1 / K) + 0.9 * np.eye(K)[predicted])
    return sharpness * log_likelihood, log_cavity


def test_a_calibrated_likelihood_keeps_a_high_temperature_and_a_low_lapse_rate():
    temperature, lapse = calibrate(*[rows(1.0)[0], WEIGHTS, rows(1.0)[1]])
    assert temperature >= 0.85
    assert lapse <= 0.01


@pytest.mark.parametrize("sharpness", [2.0, 2.5, 5.0])
def test_an_over_confident_likelihood_gets_the_inverse_sharpness_as_temperature(sharpness):
    log_likelihood, log_cavity = rows(sharpness)
    temperature, _ = calibrate(log_likelihood, WEIGHTS, log_cavity)
    grid = np.array(TEMPERATURES)
    nearest = np.argsort(np.abs(grid - 1.0 / sharpness))[:2]
    assert temperature in grid[nearest]


def test_confident_wrong_rows_raise_the_lapse_rate():
    log_likelihood, log_cavity = rows(1.0, wrong=0.1)
    _, few = calibrate(rows(1.0)[0], WEIGHTS, rows(1.0)[1])
    _, many = calibrate(log_likelihood, WEIGHTS, log_cavity)
    assert many > few
    assert {few, many} <= set(LAPSES)


def test_the_posterior_is_a_distribution_without_impossible_classes():
    posterior = calibrated_posterior(np.array([[0.0, -1e5, 3.0], [-1e9, 0.0, -1e9]]), np.full(3, 1 / 3), 0.5, 0.01)
    np.testing.assert_allclose(posterior.sum(1), 1.0)
    assert posterior.min() >= 0.0033


def test_at_lapse_rate_one_the_scaled_likelihood_is_flat():
    posterior = calibrated_posterior(
        np.random.default_rng(0).normal(size=(50, 3)) * 100, np.array([0.2, 0.3, 0.5]), 1.0, 1.0
    )
    np.testing.assert_allclose(scaled_likelihood(posterior, posterior.mean(0)), 0.0, atol=1e-12)


def test_without_calibration_the_scaled_likelihood_equals_the_likelihood_up_to_a_constant_per_row():
    log_likelihood, _ = rows(1.0)
    posterior = calibrated_posterior(log_likelihood, WEIGHTS, 1.0, 0.0)
    scaled = scaled_likelihood(posterior, WEIGHTS)
    np.testing.assert_allclose(log_softmax(scaled, axis=1), log_softmax(log_likelihood, axis=1), atol=1e-9)


def test_the_evidence_of_unordered_rows_relative_to_the_mean_is_zero():
    log_likelihood, _ = rows(1.0)
    posterior = calibrated_posterior(log_likelihood, WEIGHTS, 0.7, 0.01)
    mean = posterior.mean(0)
    evidence = np.log((mean * np.exp(scaled_likelihood(posterior, mean))).sum(1)).sum()
    assert abs(evidence) < 1e-6
