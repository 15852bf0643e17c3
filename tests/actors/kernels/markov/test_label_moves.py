"""Tests of the split-and-merge moves of labels that the order of the rows proposes."""

import numpy as np
import pytest

from actors.kernels.markov.inference import expected_counts
from actors.kernels.markov.label_moves import similarity, split, split_and_merge
from runner.report.clustering_metrics import accuracy

K = 6


def one_hot(labels, classes=K):
    return np.eye(classes)[labels]


def cycle(rows=600):
    return np.arange(rows) % K


def wrong_labels(seed=0, rows=600):
    """Return a cycle and wrong labels: component 0 is in classes 0 and 1 at random, components 1 and 2 in class 2."""
    truth = cycle(rows)
    labels = truth.copy()
    labels[truth == 1] = 2
    labels[(truth == 0) & (np.random.default_rng(seed).random(rows) < 0.5)] = 1
    return truth, labels


@pytest.mark.parametrize("seed", range(5))
def test_the_first_move_corrects_a_divided_and_a_joined_component(seed):
    truth, labels = wrong_labels(seed)
    moved = split_and_merge(one_hot(labels), expected_counts(one_hot(labels)), 0)
    assert accuracy(labels, truth) < 0.95
    assert accuracy(moved, truth) > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_the_first_move_improves_labels_of_which_a_tenth_is_wrong(seed):
    truth, labels = wrong_labels(seed)
    generator = np.random.default_rng(seed)
    wrong = generator.random(len(labels)) < 0.1
    labels[wrong] = generator.integers(0, K, wrong.sum())
    moved = split_and_merge(one_hot(labels), expected_counts(one_hot(labels)), 0)
    assert accuracy(moved, truth) > accuracy(labels, truth) + 0.05


def test_only_classes_with_the_same_neighbours_are_similar():
    _, labels = wrong_labels()
    similarities = similarity(expected_counts(one_hot(labels)))
    assert np.unravel_index(similarities.argmax(), similarities.shape) in ((0, 1), (1, 0))
    assert similarities[0, 1] > 0.99
    assert similarities[3, 5] < 0.01
    np.testing.assert_array_equal(np.diag(similarities), -1.0)


def test_only_a_class_of_two_components_has_a_strong_split():
    _, labels = wrong_labels()
    strengths = [split(one_hot(labels), k).strength for k in range(K)]
    assert np.argmax(strengths) == 2
    # 200 rows in two halves, with predecessors (e0 + e1) / 2 or e2, and successors e2 or e3: 200 · ½ · ½ · √1.5 · √2
    assert strengths[2] == pytest.approx(86.6, rel=0.02)
    assert max(strengths[:2] + strengths[3:]) < 10


def test_splits_use_neighbours_of_the_same_sequence_only():
    _, labels = wrong_labels()
    lengths = np.full(300, 2)
    before = split(one_hot(labels), 2, lengths)
    assert before.strength < 1e-9  # no row has both a predecessor and a successor
    assert split(one_hot(labels), 2, [300, 300]).strength > 80


def test_moves_are_distinct_and_finitely_many():
    _, labels = wrong_labels()
    posterior, counts = one_hot(labels), expected_counts(one_hot(labels))
    moves = []
    while (moved := split_and_merge(posterior, counts, len(moves))) is not None:
        moves.append(moved)
    assert 8 <= len(moves) <= K * (K - 1) // 2 * (K - 2)
    assert len({move.tobytes() for move in moves[:8]}) == 8
    assert all((move != labels).any() for move in moves)
    assert split_and_merge(posterior[:, :2] + 0.0, np.ones((2, 2)), 0) is None  # there is no third class


def test_a_move_returns_a_label_for_every_row():
    _, labels = wrong_labels()
    moved = split_and_merge(one_hot(labels), expected_counts(one_hot(labels)), 3)
    assert moved.dtype == np.int64
    assert moved.shape == labels.shape
    assert set(moved) <= set(range(K))


def test_the_split_is_that_of_the_covariance_of_all_rows():
    generator = np.random.default_rng(3)
    posterior = generator.dirichlet(np.full(K, 0.1), 300)
    for k in range(K):
        weights, total = posterior[1:-1, k], posterior[1:-1, k].sum()
        before, after = (rows - weights @ rows / total for rows in (posterior[:-2], posterior[2:]))
        expected = np.linalg.svd((before * weights[:, None]).T @ after, compute_uv=False)[0]
        assert split(posterior, k).strength == pytest.approx(expected, rel=1e-6)


def test_with_many_classes_several_moves_are_made_at_once():
    classes, rows = 24, 4800
    truth = np.arange(rows) % classes
    labels, generator = truth.copy(), np.random.default_rng(0)
    for first in (0, 8, 16):  # in each third the errors of `wrong_labels`
        labels[truth == first + 1] = first + 2
        labels[(truth == first) & (generator.random(rows) < 0.5)] = first + 1
    posterior = np.eye(classes)[labels]
    counts = expected_counts(posterior)
    assert accuracy(split_and_merge(posterior, counts, 0), truth) > 0.99
    one = accuracy(split_and_merge(posterior, counts, 1), truth)
    assert accuracy(labels, truth) + 0.03 < one < 0.95
