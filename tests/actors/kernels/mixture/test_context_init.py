"""Test initial labels from over-split components that are merged by their contexts."""

import itertools

import numpy as np
import pytest
from scipy.stats import chi2_contingency, entropy
from sklearn.metrics import adjusted_rand_score

from actors.kernels.mixture.context_init import (
    labels_from_contexts,
    merge_by_contexts,
    neighbours_depend,
    over_split,
)
from actors.kernels.mixture.sequence_init import kmeans_labels


def clumps_in_a_cycle(rows=1200, classes=6, seed=0):
    """Return a cycle of classes of two clumps each, which lie anywhere among those of other classes, and the labels."""
    generator = np.random.default_rng(seed)
    centres = 3.0 * generator.normal(size=(classes, 2, 4))
    labels = np.arange(rows) % classes
    return centres[labels, generator.integers(0, 2, rows)] + generator.normal(size=(rows, 4)), labels


def loss(contexts, groups):
    """Return what the log-likelihood of the contexts loses by these groups, from entropies of scipy."""
    return sum(
        contexts[groups == k].sum() * entropy(contexts[groups == k].sum(axis=0))
        - sum(row.sum() * entropy(row) for row in contexts[groups == k])
        for k in np.unique(groups)
    )


def test_one_merge_is_that_of_the_pair_that_loses_least():
    contexts = np.random.default_rng(1).gamma(0.5, 20.0, size=(7, 5))
    merged = merge_by_contexts(contexts, 6)
    losses = []
    for a, b in itertools.combinations(range(7), 2):
        groups = np.arange(7)
        groups[b] = a
        losses.append((loss(contexts, groups), a, b))
    best, a, b = min(losses)
    assert merged[a] == merged[b]
    assert len(np.unique(merged)) == 6
    assert loss(contexts, merged) == pytest.approx(best)


def test_components_of_equal_contexts_are_merged_whatever_their_sizes():
    generator = np.random.default_rng(2)
    classes = np.repeat(np.arange(4), 3)
    contexts = generator.dirichlet(np.ones(8), 4)[classes] * generator.integers(5, 500, 12)[:, None]
    assert adjusted_rand_score(classes, merge_by_contexts(contexts, 4)) == 1.0


def test_a_component_without_rows_is_merged_first():
    contexts = np.vstack([np.eye(3) * 10.0, np.zeros(3)])
    merged = merge_by_contexts(contexts, 3)
    assert len(np.unique(merged[:3])) == 3


def test_neighbours_depend_as_the_contingency_test_says():
    generator = np.random.default_rng(3)
    for strength in (0.0, 0.002, 0.02, 0.05):
        table = generator.poisson(20 * np.ones((6, 6)) + strength * 1000 * np.eye(6)).astype(float)
        assert neighbours_depend(table) == (chi2_contingency(table, correction=False).pvalue < 1e-4)


def test_independent_rows_seldom_depend():
    generator = np.random.default_rng(4)
    found = 0
    for _ in range(200):
        z = generator.integers(0, 30, 3000)
        table = np.zeros((30, 30))
        np.add.at(table, (z[:-1], z[1:]), 1)
        found += neighbours_depend(table)
    assert found == 0


def test_classes_of_two_clumps_are_found_where_kmeans_fails():
    X, truth = clumps_in_a_cycle()
    found = labels_from_contexts(X, 6, np.random.default_rng(0))
    assert adjusted_rand_score(truth, found) > 0.98
    assert adjusted_rand_score(truth, kmeans_labels(X, 6, np.random.default_rng(0), restarts=3)) < 0.6


def test_no_transition_is_counted_between_sequences():
    X, _ = clumps_in_a_cycle(600)
    found = over_split(X, 12, np.random.default_rng(0), [6] * 100)
    assert found.transitions.sum() == pytest.approx(500.0)
    np.testing.assert_allclose(found.responsibilities.sum(axis=1), 1.0)


def test_the_bound_ranks_a_better_set_of_components_higher():
    X, _ = clumps_in_a_cycle()
    few = over_split(X, 8, np.random.default_rng(0))
    enough = over_split(X, 24, np.random.default_rng(0))
    assert enough.bound > few.bound


@pytest.mark.parametrize("rows", [8, 60])
def test_few_rows_start_as_kmeans_does(rows):
    X, _ = clumps_in_a_cycle(rows)
    np.testing.assert_array_equal(
        labels_from_contexts(X, 6, np.random.default_rng(0), restarts=2),
        kmeans_labels(X, 6, np.random.default_rng(0), restarts=2),
    )


def test_rows_without_order_get_every_class():
    X, _ = clumps_in_a_cycle()
    X = np.random.default_rng(1).permutation(X)
    assert len(np.unique(labels_from_contexts(X, 6, np.random.default_rng(0)))) == 6


def test_fewer_rows_than_classes_are_refused():
    with pytest.raises(ValueError, match="2 rows cannot start 3 classes"):
        labels_from_contexts(np.zeros((2, 1)), 3, np.random.default_rng(0))
