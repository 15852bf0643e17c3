"""What the mixture's kernels are given, brought to one type and checked."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from actors.kernels.jit import as_input

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def as_rows(X: ArrayLike, dimension: int) -> Floats:
    """Return X as a C-contiguous float64 array of shape (N, dimension); one type, so that kernels compile once.

    Raises
    ------
    ValueError
        If the shape is another.
    """
    rows = as_input(X)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise ValueError(f"rows must have the shape (N, {dimension}), theirs is {rows.shape}")
    return rows


def as_labels(z: ArrayLike, rows: int, classes: int) -> Integers:
    """Return z as a fresh C-contiguous int64 array of shape (rows,) with values in -1..classes-1 (-1: in no class).

    Raises
    ------
    ValueError
        If the shape or a value is another.
    """
    labels = np.array(z, dtype=np.int64, order="C")
    if labels.shape != (rows,):
        raise ValueError(f"labels must have the shape ({rows},), theirs is {labels.shape}")
    if rows and (labels.min() < -1 or labels.max() >= classes):
        raise ValueError(f"labels must lie in -1..{classes - 1}, they span {labels.min()}..{labels.max()}")
    return labels


def as_mask(mask: ArrayLike | None, rows: int) -> NDArray[np.bool_]:
    """Return which of the rows are missing, (rows,); none of them if `mask` is None.

    Raises
    ------
    ValueError
        If the shape is another.
    """
    missing = np.zeros(rows, dtype=np.bool_) if mask is None else np.array(mask, dtype=np.bool_)
    if missing.shape != (rows,):
        raise ValueError(f"the mask must have the shape ({rows},), its is {missing.shape}")
    return missing


def as_bias(log_bias: ArrayLike, rows: int, classes: int, missing: NDArray[np.bool_]) -> Floats:
    """Return the bias as a float64 array (rows, classes), refusing what would end in NaN.

    Raises
    ------
    ValueError
        If the shape is another, or a row that isn't missing has NaN, +inf or nothing but -inf.
    """
    bias = as_input(log_bias)
    if bias.shape != (rows, classes):
        raise ValueError(f"log_bias must have the shape ({rows}, {classes}), its is {bias.shape}")
    # The largest of a row is NaN if one is, and infinite if the row has +inf or nothing but -inf.
    bad = np.flatnonzero(~np.isfinite(bias.max(axis=1)) & ~missing)
    if bad.size:
        raise ValueError(f"row {bad[0]} of log_bias has NaN, +inf, or no possible class")
    return bias


def check_finite(rows: Floats, missing: NDArray[np.bool_]) -> None:
    """Refuse, by a ValueError, rows that are neither missing nor finite."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) & ~missing)
    if bad.size:
        raise ValueError(f"row {bad[0]} is not finite")
