"""Tests of the slopes of measured series."""

import numpy as np
import pytest
from scipy import stats

from tests.support.slopes import fit_slope

ROUNDS = np.arange(0, 4000, 10)


def noise(seed, r=0.0):
    """Return noise with standard deviation 1 and correlation `r` between neighbours."""
    draws = np.random.default_rng(seed).normal(size=len(ROUNDS))
    series = np.empty_like(draws)
    series[0] = draws[0]
    for index in range(1, len(series)):
        series[index] = r * series[index - 1] + np.sqrt(1 - r**2) * draws[index]
    return series


def test_a_slope_of_a_few_samples_equals_that_of_scipy():
    x, y = ROUNDS[:30], (noise(1) + 0.1 * ROUNDS)[:30]
    slope, expected = fit_slope(x, y), stats.linregress(x, y)
    assert slope.value == pytest.approx(expected.slope)
    assert slope.error >= expected.stderr * (1 - 1e-9)


@pytest.mark.parametrize("r", [0.0, 0.9])
def test_the_interval_contains_the_true_slope_about_as_often_as_it_says(r):
    intervals = [fit_slope(ROUNDS, 0.01 * ROUNDS + noise(seed, r)).bounds() for seed in range(300)]
    assert np.mean([low < 0.01 < high for low, high in intervals]) > 0.9


def test_growth_of_a_kilobyte_a_round_is_told_from_noise_of_a_megabyte():
    assert fit_slope(ROUNDS, 1000.0 * ROUNDS + 2.0**20 * noise(2, 0.9)).bounds()[1] > 500
    assert fit_slope(ROUNDS, 2.0**17 * noise(2, 0.9)).bounds()[1] < 500
