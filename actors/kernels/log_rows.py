"""Normalisers and softmax of short rows in the log domain.

The rows have one entry a class. Reductions along such rows take numpy and scipy longer than the exponentials, so these
functions work on the transpose, in blocks that stay in the cache. A row's result depends on that row alone: it has the
same bits alone, among any others, and in any order in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from actors.kernels.types import FloatArray

BLOCK_ENTRIES = 65_536
"""Entries that are transposed at once, 512 KiB."""


def log_sum_exp(scores: FloatArray) -> FloatArray:
    """Return log Σ_k exp(scores), (N,), of scores (N, K); -inf for a row of -inf."""
    norms = np.empty(len(scores))
    for rows in _blocks(scores):
        exponentials, shift = _shifted_exponentials(_transposed(scores[rows]))
        with np.errstate(divide="ignore"):
            norms[rows] = np.log(_sums(exponentials)) + shift
    return norms


def softmax_of_rows(scores: FloatArray) -> FloatArray:
    """Return exp(scores) (N, K), divided so that rows sum to one; NaN for a row of -inf."""
    out = np.empty(scores.shape)
    for rows in _blocks(scores):
        out[rows] = softmax_of_columns(_transposed(scores[rows])).T
    return out


def softmax_of_columns(scores: FloatArray) -> FloatArray:
    """Return exp(scores) (K, N), divided so that columns sum to one; `scores`, in C order, is overwritten."""
    exponentials, _ = _shifted_exponentials(scores)
    with np.errstate(invalid="ignore"):
        exponentials /= _sums(exponentials)
    return exponentials


def _blocks(scores: FloatArray) -> Iterator[slice]:
    """Yield the rows of one block after the other."""
    size = max(1, BLOCK_ENTRIES // max(1, scores.shape[1]))
    return (slice(first, first + size) for first in range(0, len(scores), size))


def _transposed(scores: FloatArray) -> FloatArray:
    """Return a copy (K, N) of scores (N, K), in C order."""
    return np.array(scores.T, dtype=np.float64, order="C")


def _shifted_exponentials(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return exp(scores - shift) (K, N), in place, and the shift (N,): the largest score, or 0 if it is not finite."""
    shift = scores.max(axis=0, initial=-np.inf)
    shift[~np.isfinite(shift)] = 0.0
    scores -= shift
    with np.errstate(over="ignore", under="ignore"):
        np.exp(scores, out=scores)
    return scores, shift


def _sums(values: FloatArray) -> FloatArray:
    """Return Σ_k (N,) of values (K, N), summed in the order of k.

    numpy sums a single column in pairs, and several by adding rows to each other.
    """
    sums: FloatArray = values.sum(axis=0) if values.shape[1] > 1 else np.add.accumulate(values, axis=0)[-1:].sum(axis=0)
    return sums
