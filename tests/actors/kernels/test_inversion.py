"""Classes that are drawn by inversion have the probabilities of their weights."""

import numpy as np
import pytest
from scipy.stats import chisquare

from actors.kernels.inversion import draw_chain, draw_class, draw_rows

RNG = np.random.default_rng(0)


def test_the_share_of_numbers_that_mean_a_class_is_its_weight():
    weights = np.array([1.0, 0.0, 3.0, 4.0])
    grid = (np.arange(8000) + 0.5) / 8000
    cumulative = np.tile(np.cumsum(weights), (len(grid), 1))
    drawn = draw_rows(cumulative, grid)
    assert np.bincount(drawn).tolist() == [1000, 0, 3000, 4000]
    assert drawn.tolist() == [draw_class(cumulative[0], u) for u in grid]


@pytest.mark.parametrize("scale", [1.0, 1e-300, 3e300])
def test_a_class_of_weight_zero_is_never_drawn(scale):
    cumulative = np.cumsum(scale * np.array([0.0, 0.3, 0.0]))
    for uniform in (0.0, np.nextafter(1.0, 0.0)):
        assert draw_class(cumulative, uniform) == 1
        assert draw_rows(cumulative[None], np.array([uniform])).tolist() == [1]


def test_a_chain_follows_the_matrix_of_each_rows_regime():
    first, matrices = RNG.dirichlet(np.ones(3)), RNG.dirichlet(np.ones(3), (2, 3))
    regimes = RNG.integers(2, size=30_000)
    classes = draw_chain(first, matrices, RNG.random(30_000), regimes)
    for regime in range(2):
        for before in range(3):
            rows = np.flatnonzero((regimes[1:] == regime) & (classes[:-1] == before)) + 1
            counts = np.bincount(classes[rows], minlength=3)
            assert chisquare(counts, matrices[regime, before] * len(rows)).pvalue > 1e-3
    uniforms = RNG.random(50)
    assert (draw_chain(first, matrices[1], uniforms) == draw_chain(first, matrices, uniforms, np.ones(50, int))).all()
    starts = [draw_chain(first, matrices[0], np.array([u]))[0] for u in (np.arange(1000) + 0.5) / 1000]
    np.testing.assert_allclose(np.bincount(starts, minlength=3) / 1000, first, atol=2e-3)
