"""Rows that stand for all rows of a table, where all of them would be too many to keep or to draw."""

from __future__ import annotations

import numpy as np

from actors.kernels.types import IntArray

_GOLDEN = (5.0**0.5 - 1.0) / 2.0


def spread_rows(rows: int, count: int) -> IntArray:
    """Return the numbers of `count` rows among `rows`, ascending: one from each of as many equal stretches.

    The place in the stretch follows the multiples of the golden ratio, which fill [0, 1) evenly: with a fixed place,
    all rows of a cyclic order could be of the same class. All rows, if they are not more than `count`.
    """
    if rows <= count:
        return np.arange(rows, dtype=np.int64)
    edges = np.arange(count + 1, dtype=np.int64) * rows // count
    places = np.arange(count) * _GOLDEN % 1.0
    chosen: IntArray = edges[:-1] + (places * np.diff(edges)).astype(np.int64)
    return chosen
