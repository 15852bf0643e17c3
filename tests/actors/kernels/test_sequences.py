"""Boundaries of sequences and the rows that have a successor."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from actors.kernels.sequences import boundaries, rows_with_successor


def test_boundaries_are_the_cumulated_lengths():
    assert_array_equal(boundaries(6, [2, 1, 3]), [0, 2, 3, 6])
    assert boundaries(6, np.array([2, 4], np.uint8)).dtype == np.int64


def test_rows_without_lengths_are_one_sequence():
    assert_array_equal(boundaries(6, None), [0, 6])


def test_the_last_row_of_each_sequence_has_no_successor():
    assert_array_equal(rows_with_successor(boundaries(6, [2, 1, 3])), [0, 3, 4])
    assert rows_with_successor(boundaries(2, [1, 1])).size == 0


@pytest.mark.parametrize("lengths", [[], [1, 2], [0, 4], [-1, 5], [2.0, 2.0], [[4]]])
def test_lengths_that_do_not_fit_are_rejected(lengths):
    with pytest.raises(ValueError, match="lengths must be positive whole numbers that sum to 4"):
        boundaries(4, lengths)


def test_no_rows_are_rejected():
    with pytest.raises(ValueError, match="at least one row"):
        boundaries(0, None)
