"""What scripts give instead of arrays: frames, tensors, lists of masked arrays and iterators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from runner.data.errors import DataError
from runner.data.intake import check_categories, check_lengths, check_observations

ROWS = np.arange(6.0).reshape(3, 2) + 0.5


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(ROWS),
        torch.tensor(ROWS, requires_grad=True),
        torch.nn.Parameter(torch.tensor(ROWS)),
        torch.tensor(ROWS, dtype=torch.bfloat16),
        torch.tensor(ROWS, dtype=torch.float16),
        torch.complex(torch.tensor(ROWS), torch.tensor(-ROWS)).conj().imag,
    ],
    ids=["float64", "gradient", "parameter", "bfloat16", "float16", "lazy negative"],
)
def test_tensors_of_every_float_are_read_with_their_values(tensor: torch.Tensor) -> None:
    np.testing.assert_array_equal(check_observations(tensor, "data").values, ROWS)
    np.testing.assert_array_equal(check_observations(list(tensor), "data").values, ROWS)


def test_sequences_may_be_tensors_and_lists() -> None:
    rows = check_observations([torch.ones(2, 3, requires_grad=True), [[0.0, 0.0, 0.0]]], "data", sequences=True)
    np.testing.assert_array_equal(rows.values, [[1, 1, 1], [1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(rows.lengths, [2, 1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.empty(2, 2, device="meta"), "without values, on the device 'meta'"),
        (torch.eye(2).to_sparse(), r"to_dense\(\)"),
        ({"a": [1, 2]}, "of type dict"),
        ({1, 2}, "of type set"),
        ((value for value in [1, 2]), "of type generator.*give list"),
        (map(float, [1, 2]), "of type map.*give list"),
        (pd.DataFrame({"id": [2**53 + 1], "x": [0.5]}), r"9007199254740993 is beyond 2\^53"),
        (pd.DataFrame({"id": range(7, 12), "x": np.arange(5) * 0.5}), r"frame.drop\(columns='id'\)"),
    ],
    ids=["meta", "sparse", "dict", "set", "generator", "map", "rounded", "index"],
)
def test_what_is_no_array_is_refused_with_its_remedy(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_observations(given, "data")


def test_a_list_of_masked_arrays_keeps_its_masks() -> None:
    row = np.ma.masked_array([1.0, 2.0], mask=[True, True])
    rows = check_observations([row, np.array([3.0, 4.0])], "data")
    np.testing.assert_array_equal(rows.values, [[0, 0], [3, 4]])
    np.testing.assert_array_equal(rows.mask, [True, False])
    part = check_observations([np.ma.masked_array([1.0, 2.0], mask=[True, False]), np.array([3.0, 4.0])], "data")
    np.testing.assert_array_equal(part.values, [[0, 2], [3, 4]])
    np.testing.assert_array_equal(part.mask, [[True, False], [False, False]])


def test_frames_of_sequences_have_the_same_columns() -> None:
    first, second = pd.DataFrame({"a": [1, 2], "b": [5, 6]}), pd.DataFrame({"a": [3], "b": [7]})
    rows = check_observations([first, second], "data", sequences=True)
    np.testing.assert_array_equal(rows.values, [[1, 5], [2, 6], [3, 7]])
    with pytest.raises(DataError, match="sequence 2: has the columns b, a, the sequences before it a, b"):
        check_observations([first, second[["b", "a"]]], "data", sequences=True)


def test_the_index_of_frames_of_sequences_is_left_out() -> None:
    frames = [pd.DataFrame({"Unnamed: 0": [0, 1], "a": [0.5, 2]}), pd.DataFrame({"Unnamed: 0": [0], "a": [4.5]})]
    rows = check_observations(frames, "data", sequences=True)
    np.testing.assert_array_equal(rows.values, [[0.5], [2], [4.5]])
    assert rows.notes == ("column 1 ('Unnamed: 0'), an index, is left out",)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, "255", True])
def test_values_are_divided_by_a_finite_number_above_zero(value: Any) -> None:
    with pytest.raises(DataError, match=r"divide_by is .*finite number above 0"):
        check_observations(ROWS, "data", divide_by=value)


def test_categories_that_differ_stay_apart() -> None:
    assert check_categories(np.array([b"\xe4", b"\xf6"]), "category")[0].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"beyond 2\^53"):  # 2^53 + 1 as a float64
        check_categories([float(2**53 + 1), 1.0], "category")


def test_categories_that_differ_in_outer_blanks_are_one_as_in_files() -> None:
    assert check_categories(["a", "b", "a "], "category")[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("given", [np.array(["a", np.nan]), [np.ma.masked, 1], ["a", None]])
def test_a_missing_category_is_refused(given: Any) -> None:
    with pytest.raises(DataError, match="has no category"):
        check_categories(given, "category")


def test_lengths_of_python_integers() -> None:
    np.testing.assert_array_equal(check_lengths(np.array([2, 4], object), "lengths", 6), [2, 4])
    for given in ([2, None], [2**70], np.array([True, 5], object)):
        with pytest.raises(DataError, match="no positive integer"):
            check_lengths(given, "lengths", 6)
