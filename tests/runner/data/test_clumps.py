"""Test the made rows of many classes."""

import numpy as np
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis

from runner.data.clumps import ClumpedClasses
from runner.data.datasets import load


def test_rows_are_integers_of_a_limited_range_in_the_order_of_the_classes():
    data = load("clumps", count=2600, order="cyclic")
    assert data.observations.shape == (2600, 16)
    np.testing.assert_array_equal(data.categories, np.arange(2600) % 26)
    np.testing.assert_array_equal(data.observations, data.observations.round())
    assert (data.observations.min(), data.observations.max()) == (0.0, 15.0)
    assert not np.signbit(data.observations).any()


def test_other_rows_are_of_the_same_classes_and_are_hard_to_recognize():
    training, others = load("clumps", count=15600, order="cyclic"), load("clumps", offset=600, order="cyclic")
    assert len(others.observations) == 2600
    fitted = QuadraticDiscriminantAnalysis().fit(training.observations, training.categories)
    assert 0.85 < fitted.score(others.observations, others.categories) < 0.95


def test_clumps_of_a_class_are_as_far_apart_as_those_of_others():
    made = ClumpedClasses(26, 0)
    assert {len(shares) for shares in made.shares} == {2, 3}
    within = np.concatenate([np.linalg.norm(c[1:] - c[0], axis=1) for c in made.centres])
    between = np.linalg.norm(np.stack([c[0] for c in made.centres])[:, None] - made.centres[0][1], axis=2)[1:]
    assert 0.9 < within.mean() / between.mean() < 1.1


def test_a_seed_determines_classes_and_rows():
    rows = [ClumpedClasses(5, seed).rows(np.arange(50) % 5, np.random.default_rng(0)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
