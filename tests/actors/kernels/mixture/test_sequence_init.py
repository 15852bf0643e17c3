"""Test initial labels from the component that rows share with their neighbours."""

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA
from sklearn.metrics import adjusted_rand_score

from actors.kernels.mixture.sequence_init import (
    STARTS,
    append_products,
    count_shared_directions,
    counted_labels_from_sequence,
    labels_from_sequence,
    neighbour_columns,
    shared_component,
    whiten,
)


def cycle(rows=1200, classes=4, noise=1.0, seed=0):
    """Return a cycle of classes whose means differ in two dimensions, beside six of noise of much larger variance."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    angle = 2 * np.pi * labels / classes
    X = generator.normal(size=(rows, 8)) * np.array([noise, noise, 9, 9, 9, 9, 9, 9])
    X[:, 0] += 3 * np.cos(angle)
    X[:, 1] += 3 * np.sin(angle)
    return X, labels


def test_whitened_rows_are_centred_and_uncorrelated():
    X, _ = cycle()
    white = whiten(X)
    np.testing.assert_allclose(white.mean(0), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(8), atol=0.02)


def test_a_collapsed_dimension_is_not_amplified():
    X, _ = cycle()
    X[:, 3] = 1e-9 * X[:, 3]
    X[:, 4] = 7.0
    white = whiten(X)
    assert np.isfinite(white).all()
    assert (white.var(0) < 1.01).all()


def test_neighbour_columns_are_zero_beyond_the_ends_of_a_sequence():
    X = np.arange(1.0, 7.0)[:, None]
    np.testing.assert_array_equal(
        neighbour_columns(X, 2, [4, 2]),
        [[0, 0, 2, 3], [0, 1, 3, 4], [1, 2, 4, 0], [2, 3, 0, 0], [0, 0, 6, 0], [0, 5, 0, 0]],
    )


def test_the_shared_component_spans_the_space_of_canonical_correlation_analysis():
    X, _ = cycle()
    ours = shared_component(X, 2, 1)
    reference = CCA(n_components=2, max_iter=5000).fit(X, neighbour_columns(X, 1))
    theirs = np.hstack(reference.transform(X, neighbour_columns(X, 1)))
    explained = 1 - ((ours - theirs @ np.linalg.lstsq(theirs, ours, rcond=None)[0]) ** 2).sum() / (ours**2).sum()
    assert explained > 0.99


def alternating_spreads(rows=600, seed=0):
    """Return two alternating classes of the same mean: one close to it, the other on both sides of it."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    X = generator.normal(size=(rows, 3)) * np.array([0.3, 9, 9])
    X[:, 0] += 3 * labels * generator.choice([-1, 1], rows)
    return X, labels


@pytest.mark.parametrize("window", [1, 3])
def test_products_reveal_an_order_that_the_columns_alone_do_not_show(window):
    X, labels = alternating_spreads()
    generator = np.random.default_rng(0)
    plain = labels_from_sequence(X, 2, generator, window=window)
    with_products = labels_from_sequence(X, 2, generator, window=window, products=True)
    assert abs(adjusted_rand_score(labels, plain)) < 0.2
    assert adjusted_rand_score(labels, with_products) > 0.95


@pytest.mark.parametrize(
    ("shape", "columns"), [((60, 2), 5), ((50, 2), 5), ((40, 2), 3), ((10, 2), 2), ((9000, 30), 240)]
)
def test_the_number_of_products_is_limited_by_the_number_of_rows(shape, columns):
    assert append_products(np.random.default_rng(0).normal(size=shape)).shape == (shape[0], columns)


def test_products_are_of_the_axes_of_largest_variance():
    X, _ = cycle()
    X = X[:120]  # 8 columns and 4 more
    white = whiten(X)
    np.testing.assert_allclose(
        append_products(X)[:, 8:], np.stack([white[:, -2] ** 2, white[:, -2] * white[:, -1], white[:, -1] ** 2], axis=1)
    )


@pytest.mark.parametrize(("window", "products"), STARTS)
def test_every_start_recovers_the_classes_of_a_clear_order(window, products):
    X, labels = cycle()
    initial = labels_from_sequence(X, 4, np.random.default_rng(0), window=window, products=products)
    assert adjusted_rand_score(labels, initial) > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_ordered_classes_are_recovered_beside_noise_of_larger_variance(seed):
    X, labels = cycle(seed=seed)
    initial = labels_from_sequence(X, 4, np.random.default_rng(seed))
    assert adjusted_rand_score(labels, initial) > 0.95


def test_rows_without_order_still_get_labels_of_all_classes():
    X, _ = cycle()
    shuffled = np.random.default_rng(0).permutation(X)
    initial = labels_from_sequence(shuffled, 4, np.random.default_rng(0))
    assert set(initial) == {0, 1, 2, 3}


def test_equal_generator_states_give_equal_labels():
    X, _ = cycle()
    first, second = (labels_from_sequence(X, 4, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (3, 4)])
def test_too_few_rows_are_refused(rows, classes):
    with pytest.raises(ValueError, match=f"{rows} rows"):
        labels_from_sequence(np.zeros((rows, 2)), classes, np.random.default_rng(0))


def orthogonal_cycle(classes, rows=900, dims=12, noise=1.0, seed=0):
    """Return a cycle of K classes with orthogonal means, which differ in K - 1 directions."""
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    return 4.0 * np.eye(classes, dims)[labels] + noise * generator.normal(size=(rows, dims)), labels


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("classes", [2, 5, 10])
def test_rows_share_one_direction_fewer_than_there_are_classes(classes, window):
    X, _ = orthogonal_cycle(classes)
    assert count_shared_directions(X, window=window) == classes - 1


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize(("rows", "seeds"), [(300, 12), (3000, 4)])
def test_rows_without_order_share_no_direction(rows, seeds, products):
    counts = []
    for seed in range(seeds):
        X, _ = orthogonal_cycle(5, rows, seed=seed)
        X = np.random.default_rng(seed).permutation(X)
        counts.append(count_shared_directions(X, window=1, products=products))
    assert np.mean(counts) < 0.1


def test_rows_of_different_sequences_share_no_direction():
    X, _ = orthogonal_cycle(4)
    assert count_shared_directions(X, window=1, lengths=np.full(300, 3)) == 3
    assert count_shared_directions(X, window=1, lengths=np.ones(900, np.int64)) == 0


def test_no_direction_is_counted_with_as_many_columns_as_rows():
    assert count_shared_directions(np.random.default_rng(0).normal(size=(10, 9)), window=3) == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("classes", "dims"), [(6, 12), (6, 3)], ids=["in general position", "in few dimensions"])
def test_the_classes_and_their_number_are_recovered(classes, dims, seed):
    if dims > classes:
        X, labels = orthogonal_cycle(classes, seed=seed)
    else:  # six points on the axes of three dimensions
        labels = np.arange(900) % classes
        X = 6.0 * np.vstack([np.eye(3), -np.eye(3)])[labels] + np.random.default_rng(seed).normal(size=(900, 3))
    initial = counted_labels_from_sequence(X, 30, np.random.default_rng(seed), window=1, products=False)
    assert adjusted_rand_score(labels, initial) > 0.97
    assert (np.bincount(initial) >= 10).sum() == classes
    few = counted_labels_from_sequence(X, 2, np.random.default_rng(seed), window=1, products=False)
    assert set(few.tolist()) == {0, 1}
