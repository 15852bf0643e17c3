"""Tests of the clustering metrics, with brute force and with renamed labels."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from runner.report import clustering_metrics
from runner.report.clustering_metrics import Scores, accuracy, ari, confusion, match, matched_classes, nmi, score

LABELS = st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 2)), min_size=1, max_size=30).map(
    lambda pairs: tuple(np.array(side) for side in zip(*pairs, strict=True))
)
RENAMING = st.permutations(range(5))


def accuracy_of_the_best_assignment(classes: np.ndarray[Any, Any], categories: np.ndarray[Any, Any]) -> float:
    learned, true = list(np.unique(classes)), list(np.unique(categories))
    names = true + [999] * len(learned)  # 999 stands for no category
    return max(
        float(
            np.mean([dict(zip(learned, chosen, strict=True))[c] == t for c, t in zip(classes, categories, strict=True)])
        )
        for chosen in set(itertools.permutations(names, len(learned)))
    )


@settings(deadline=None)
@given(LABELS)
def test_the_matching_is_optimal(labels: Any) -> None:
    classes, categories = labels
    assume(len(np.unique(classes)) <= 3)
    assert accuracy(classes, categories) == pytest.approx(accuracy_of_the_best_assignment(classes, categories))


@settings(deadline=None)
@given(LABELS)
def test_the_matching_is_one_to_one_and_has_the_accuracy(labels: Any) -> None:
    classes, categories = labels
    mapping = match(classes, categories)
    assert len(mapping) == min(len(np.unique(classes)), len(np.unique(categories)))
    assert len(set(mapping.values())) == len(mapping)
    agree = [mapping.get(c) == t for c, t in zip(classes.tolist(), categories.tolist(), strict=True)]
    assert np.mean(agree) == pytest.approx(accuracy(classes, categories))


@settings(deadline=None)
@given(LABELS, RENAMING)
def test_metrics_are_invariant_to_renaming_classes(labels: Any, renaming: list[int]) -> None:
    classes, categories = labels
    renamed = np.array(renaming)[classes] * 7 - 3
    for measure in (accuracy, ari, nmi):
        assert measure(renamed, categories) == pytest.approx(measure(classes, categories), abs=1e-12)


@settings(deadline=None)
@given(LABELS)
def test_the_confusion_matrix_counts_every_row_and_has_matched_pairs_on_its_diagonal(labels: Any) -> None:
    classes, categories = labels
    matrix, rows, columns = confusion(classes, categories)
    assert matrix.shape == (len(rows), len(columns))
    for i, j in np.ndindex(*matrix.shape):
        assert matrix[i, j] == np.sum((categories == rows[i]) & (classes == columns[j]))
    assert np.trace(matrix) == round(accuracy(classes, categories) * len(classes))
    pairs = list(zip(columns.tolist(), rows.tolist(), strict=False))
    assert dict(pairs) == match(classes, categories)


@settings(deadline=None)
@given(LABELS)
def test_the_indices_have_the_bits_of_scikit_learn(labels: Any) -> None:
    classes, categories = labels
    assert ari(classes, categories) == float(adjusted_rand_score(categories, classes))
    assert nmi(classes, categories) == float(normalized_mutual_info_score(categories, classes))


def test_many_rows_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    categories = generator.integers(-3, 7, 5000)
    classes = np.where(generator.random(5000) < 0.3, generator.integers(0, 12, 5000), categories + 5)
    whole = score(classes, categories), confusion(classes, categories), matched_classes(classes, categories)
    monkeypatch.setattr(clustering_metrics, "_BLOCK_ROWS", 700)
    blocks = score(classes, categories), confusion(classes, categories), matched_classes(classes, categories)
    assert blocks[0] == whole[0]
    for one, other in zip((*blocks[1], blocks[2]), (*whole[1], whole[2]), strict=True):
        np.testing.assert_array_equal(one, other)


@settings(deadline=None)
@given(LABELS)
def test_scores_are_in_range_without_warnings(labels: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(*labels)
    assert 0 < scores.accuracy <= 1
    assert -1 <= scores.ari <= 1
    assert -1e-12 <= scores.nmi <= 1 + 1e-12


def test_perfect_classes_have_scores_of_one() -> None:
    assert score([7, 7, 3, 3, 0], [0, 0, 1, 1, 2]) == Scores(1.0, 1.0, 1.0)
    assert match([7, 7, 3, 3, 0], [0, 0, 1, 1, 2]) == {7: 0, 3: 1, 0: 2}


def test_more_classes_than_categories_leave_classes_unmatched() -> None:
    classes, categories = [0, 0, 1, 2, 2, 2], [5, 5, 5, 8, 8, 8]
    assert match(classes, categories) == {0: 5, 2: 8}
    assert accuracy(classes, categories) == pytest.approx(5 / 6)
    matrix, rows, columns = confusion(classes, categories)
    np.testing.assert_array_equal(matrix, [[2, 0, 1], [0, 3, 0]])
    np.testing.assert_array_equal(rows, [5, 8])
    np.testing.assert_array_equal(columns, [0, 2, 1])


def test_fewer_classes_than_categories_leave_categories_last() -> None:
    matrix, rows, columns = confusion([0, 0, 0, 1, 1, 1], [4, 5, 5, 6, 6, 6])
    np.testing.assert_array_equal(matrix, [[2, 0], [0, 3], [1, 0]])
    np.testing.assert_array_equal(rows, [5, 6, 4])
    np.testing.assert_array_equal(columns, [0, 1])


def test_a_single_class_has_the_scores_of_chance() -> None:
    scores = score(np.zeros(100), np.arange(100) % 10)
    assert scores == Scores(pytest.approx(0.1), pytest.approx(0.0), pytest.approx(0.0))


def test_floats_with_integer_values_are_labels() -> None:
    assert match(np.array([0.0, 1.0]), np.array([3.0, 4.0])) == {0: 3, 1: 4}


@pytest.mark.parametrize(
    ("classes", "categories", "reason"),
    [
        ([], [], "at least one integer"),
        ([0, 1], [0], "2 classes for 1 categories"),
        ([[0, 1]], [0, 1], "shape"),
        ([0.5], [0], "not whole"),
        ([np.nan], [0], "not whole"),
        (["a"], [0], "at least one integer"),
    ],
)
def test_invalid_labels_are_rejected(classes: Any, categories: Any, reason: str) -> None:
    for measure in (match, accuracy, ari, nmi, confusion, score):
        with pytest.raises(ValueError, match=reason):
            measure(classes, categories)
