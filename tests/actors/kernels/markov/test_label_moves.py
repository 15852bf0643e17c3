"""Split-and-merge moves: what the order of the rows says about classes that hold too much or too little."""

import numpy as np
import pytest

from actors.kernels.markov.inference import expected_counts
from actors.kernels.markov.label_moves import similarity, split, split_and_merge
from runner.report.clustering_metrics import accuracy

K = 6


def sure(labels, classes=K):
    return np.eye(classes)[labels]


def cycle(rows=600):
    return np.arange(rows) % K


def stuck(seed=0, rows=600):
    """The cycle, but its rows 0 are in the classes 0 and 1 by chance, and its rows 1 in class 2 with the rows 2."""
    truth = cycle(rows)
    labels = truth.copy()
    labels[truth == 1] = 2
    labels[(truth == 0) & (np.random.default_rng(seed).random(rows) < 0.5)] = 1
    return truth, labels


@pytest.mark.parametrize("seed", range(5))
def test_the_first_move_mends_one_class_in_two_and_two_in_one(seed):
    truth, labels = stuck(seed)
    moved = split_and_merge(sure(labels), expected_counts(sure(labels)), 0)
    assert accuracy(labels, truth) < 0.95
    assert accuracy(moved, truth) > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_it_does_where_one_row_in_ten_is_in_a_wrong_class(seed):
    truth, labels = stuck(seed)
    generator = np.random.default_rng(seed)
    wrong = generator.random(len(labels)) < 0.1
    labels[wrong] = generator.integers(0, K, wrong.sum())
    moved = split_and_merge(sure(labels), expected_counts(sure(labels)), 0)
    assert accuracy(moved, truth) > accuracy(labels, truth) + 0.05


def test_classes_with_the_same_neighbours_are_alike_and_others_are_not():
    _, labels = stuck()
    alike = similarity(expected_counts(sure(labels)))
    assert np.unravel_index(alike.argmax(), alike.shape) in ((0, 1), (1, 0))
    assert alike[0, 1] > 0.99
    assert alike[3, 5] < 0.01
    np.testing.assert_array_equal(np.diag(alike), -1.0)


def test_a_class_of_one_kind_does_not_fall_into_two():
    _, labels = stuck()
    strengths = [split(sure(labels), k).strength for k in range(K)]
    assert np.argmax(strengths) == 2
    # 200 rows, halves; (e0 + e1) / 2 before or e2, e2 after or e3: 200 · ½ · ½ · √1.5 · √2
    assert strengths[2] == pytest.approx(86.6, rel=0.02)
    assert max(strengths[:2] + strengths[3:]) < 10


def test_no_neighbour_is_looked_for_beyond_a_sequences_end():
    _, labels = stuck()
    lengths = np.full(300, 2)
    before = split(sure(labels), 2, lengths)
    assert before.strength < 1e-9  # no row has both a predecessor and a successor
    assert split(sure(labels), 2, [300, 300]).strength > 80


def test_moves_differ_and_come_to_an_end():
    _, labels = stuck()
    posterior, counts = sure(labels), expected_counts(sure(labels))
    moves = []
    while (moved := split_and_merge(posterior, counts, len(moves))) is not None:
        moves.append(moved)
    assert 8 <= len(moves) <= K * (K - 1) // 2 * (K - 2)
    assert len({move.tobytes() for move in moves[:8]}) == 8
    assert all((move != labels).any() for move in moves)
    assert split_and_merge(posterior[:, :2] + 0.0, np.ones((2, 2)), 0) is None  # there is no third class


def test_a_move_is_a_labelling_of_all_rows():
    _, labels = stuck()
    moved = split_and_merge(sure(labels), expected_counts(sure(labels)), 3)
    assert moved.dtype == np.int64
    assert moved.shape == labels.shape
    assert set(moved) <= set(range(K))
