"""Estimates of concentrations agree with maximising the exact Dirichlet-multinomial likelihood."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.stats import dirichlet_multinomial

from actors.kernels.mlda.concentration import concentration_step


def drawn_counts(concentration, groups, outcomes, seed=0):
    rng = np.random.default_rng(seed)
    theta = rng.dirichlet(np.full(outcomes, concentration), groups)
    return np.array([rng.multinomial(n, t) for n, t in zip(rng.integers(1, 60, groups), theta, strict=True)], float)


def log_likelihood(counts, concentration):
    return sum(
        dirichlet_multinomial.logpmf(row.astype(int), np.full(len(row), concentration), int(row.sum()))
        for table in counts
        for row in table
    )


@pytest.mark.parametrize("concentration", [0.05, 0.7, 5.0])
def test_the_fixed_point_maximises_the_exact_likelihood_of_all_tables(concentration):
    counts = [drawn_counts(concentration, 60, 4), drawn_counts(concentration, 40, 9, seed=1)]
    estimate = 1.0
    for _ in range(500):
        estimate = concentration_step(counts, estimate)
    exact = minimize_scalar(lambda log_a: -log_likelihood(counts, np.exp(log_a)), bounds=(-6, 4), method="bounded")
    assert_allclose(estimate, np.exp(exact.x), rtol=1e-3)
    assert abs(np.log(estimate / concentration)) < 0.3


def test_no_step_lowers_the_likelihood():
    counts = [drawn_counts(0.4, 50, 6)]
    estimates = [20.0]
    for _ in range(10):
        estimates.append(concentration_step(counts, estimates[-1]))
    assert (np.diff([log_likelihood(counts, a) for a in estimates]) >= -1e-9).all()


def test_without_information_the_concentration_stays():
    assert concentration_step([np.zeros((3, 4))], 0.3) == 0.3
    assert concentration_step([np.full((3, 1), 7.0)], 0.3) == 0.3
