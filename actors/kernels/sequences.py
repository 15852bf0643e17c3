"""Sequences within an array of rows: the rows at which they start, end and continue."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.types import IntArray


def boundaries(rows: int, lengths: ArrayLike | None) -> IntArray:
    """Return the first row of each sequence, followed by the number of rows.

    Parameters
    ----------
    rows : int
        N, the number of rows of all sequences.
    lengths : array_like of int, shape (S,), or None
        Lengths of the sequences; None is one sequence.

    Returns
    -------
    ndarray of int64, shape (S + 1,)
        0, …, N. Sequence s spans rows ``result[s]`` to ``result[s + 1] - 1``.

    Raises
    ------
    ValueError
        If there are no rows, or lengths are not positive whole numbers that sum to N.
    """
    if rows < 1:
        raise ValueError("a sequence needs at least one row")
    if lengths is None:
        return np.array([0, rows], dtype=np.int64)
    sizes = np.asarray(lengths)
    if sizes.ndim != 1 or sizes.size == 0 or sizes.dtype.kind not in "iu" or sizes.min() < 1 or sizes.sum() != rows:
        raise ValueError(f"lengths must be positive whole numbers that sum to {rows}, got {sizes.tolist()}")
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def rows_with_successor(starts: IntArray) -> IntArray:
    """Return the rows that are followed by another row of their sequence.

    Parameters
    ----------
    starts : ndarray of int64, shape (S + 1,)
        As :func:`boundaries` returns them.

    Returns
    -------
    ndarray of int64, shape (N - S,)
        Ascending.
    """
    return np.setdiff1d(np.arange(starts[-1]), starts[1:] - 1, assume_unique=True)
