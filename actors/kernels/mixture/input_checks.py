"""Convert and check the inputs of the mixture kernels; one dtype and layout each, so that kernels compile once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input
from actors.kernels.types import BoolArray, FloatArray, IntArray


def as_rows(X: ArrayLike, dimension: int) -> FloatArray:
    """Return X as a C-contiguous float64 array of shape (N, dimension).

    Raises
    ------
    ValueError
        If the shape differs.
    """
    rows = as_input(X)
    if rows.ndim != 2 or rows.shape[1] != dimension:
        raise ValueError(f"rows must have the shape (N, {dimension}), but have {rows.shape}")
    return rows


def as_labels(z: ArrayLike, rows: int, classes: int) -> IntArray:
    """Return z as a fresh C-contiguous int64 array of shape (rows,) with values in -1..classes-1 (-1: in no class).

    Raises
    ------
    ValueError
        If the shape differs or a value is out of range.
    """
    labels = np.array(z, dtype=np.int64, order="C")
    if labels.shape != (rows,):
        raise ValueError(f"labels must have the shape ({rows},), but have {labels.shape}")
    if rows and (labels.min() < -1 or labels.max() >= classes):
        raise ValueError(f"labels must lie in -1..{classes - 1}, but span {labels.min()}..{labels.max()}")
    return labels


def as_mask(mask: ArrayLike | None, rows: int) -> BoolArray:
    """Return the mask of missing rows, shape (rows,); all False if `mask` is None.

    Raises
    ------
    ValueError
        If the shape differs.
    """
    missing = np.zeros(rows, dtype=np.bool_) if mask is None else np.array(mask, dtype=np.bool_)
    if missing.shape != (rows,):
        raise ValueError(f"the mask must have the shape ({rows},), but has {missing.shape}")
    return missing


def as_bias(log_bias: ArrayLike, rows: int, classes: int, missing: BoolArray) -> FloatArray:
    """Return the bias as a float64 array (rows, classes) and refuse values that would result in NaN.

    Raises
    ------
    ValueError
        If the shape differs, or a row that isn't missing has NaN, +inf or only -inf.
    """
    bias = as_input(log_bias)
    if bias.shape != (rows, classes):
        raise ValueError(f"log_bias must have the shape ({rows}, {classes}), but has {bias.shape}")
    # The maximum of a row is NaN if one value is, and infinite if the row has +inf or only -inf.
    bad = np.flatnonzero(~np.isfinite(bias.max(axis=1)) & ~missing)
    if bad.size:
        raise ValueError(f"row {bad[0]} of log_bias has NaN, +inf, or no possible class")
    return bias


def check_finite(rows: FloatArray, missing: BoolArray) -> None:
    """Raise a ValueError if a row is neither missing nor finite."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) & ~missing)
    if bad.size:
        raise ValueError(f"row {bad[0]} is not finite")
