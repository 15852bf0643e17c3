"""Scatter matrices of weighted rows about a point of each class: most of the work of variational Bayes."""

from __future__ import annotations

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.lanes import LANES, load, load_first, spread, store
from actors.kernels.types import FloatArray

MAX_COMPILED_DIMENSION = 64
"""Dimensions up to which a scatter matrix stays in the first cache. Beyond, products by BLAS are faster."""

BLOCK_ROWS = 256
"""Rows whose scatter is summed by itself, for all classes, while they are in the first cache."""


def weighted_scatter(rows: FloatArray, weights: FloatArray, centres: FloatArray) -> FloatArray:
    """Return Σ_t w_kt (x_t - c_k)(x_t - c_k)ᵀ of each class, (K, D, D), symmetric to the bit.

    Parameters
    ----------
    rows : ndarray of float64, shape (N, D)
        C-contiguous, finite.
    weights : ndarray of float64, shape (K, N)
        C-contiguous, not negative.
    centres : ndarray of float64, shape (K, D)
    """
    K, D = centres.shape
    scatter = np.zeros((K, D, D))
    if D <= MAX_COMPILED_DIMENSION:
        _add_scatter(rows, weights, np.ascontiguousarray(centres), scatter)
        return scatter
    centred = np.empty_like(rows)
    for k in range(K):
        np.subtract(rows, centres[k], out=centred)
        centred *= np.sqrt(weights[k])[:, None]
        scatter[k] = centred.T @ centred
    return scatter


@kernel
def _add_scatter(rows: FloatArray, weights: FloatArray, centres: FloatArray, scatter: FloatArray) -> None:
    """Add the scatter matrices, summed over blocks of rows."""
    N, D = rows.shape
    width = (D + LANES - 1) // LANES * LANES
    block, centred = np.zeros((D, width)), np.zeros((4, width))
    for first in range(0, N, BLOCK_ROWS):
        end = min(N, first + BLOCK_ROWS)
        for k in range(centres.shape[0]):
            block[:] = 0.0
            for t in range(first, end, 4):
                _add_four_rows(t, end, k, rows, weights, centres, centred, block)
            for i in range(D):
                for j in range(i + 1):
                    scatter[k, i, j] += block[i, j]
    for k in range(centres.shape[0]):
        for i in range(D):
            for j in range(i):
                scatter[k, j, i] = scatter[k, i, j]


@kernel
def _add_four_rows(
    t: int,
    end: int,
    k: int,
    rows: FloatArray,
    weights: FloatArray,
    centres: FloatArray,
    centred: FloatArray,
    block: FloatArray,
) -> None:
    """Add rows t to t + 3, of which those from `end` on have no weight, to the lower triangle of a scatter matrix."""
    D, width = block.shape
    w0, w1 = weights[k, t], weights[k, t + 1] if t + 1 < end else 0.0
    w2, w3 = weights[k, t + 2] if t + 2 < end else 0.0, weights[k, t + 3] if t + 3 < end else 0.0
    if w0 == 0.0 and w1 == 0.0 and w2 == 0.0 and w3 == 0.0:
        return
    for j in range(0, D, LANES):
        centre, count = load_first(centres, k * D + j, D - j), D - j
        for u in range(4):
            row = min(t + u, end - 1)
            store(centred, u * width + j, load_first(rows, row * D + j, count) - centre)
    for i in range(D):
        f0, f1 = spread(w0 * centred[0, i]), spread(w1 * centred[1, i])
        f2, f3 = spread(w2 * centred[2, i]), spread(w3 * centred[3, i])
        for j in range(0, i + 1, LANES):
            pair = f0 * load(centred, j) + f1 * load(centred, width + j)
            other = f2 * load(centred, 2 * width + j) + f3 * load(centred, 3 * width + j)
            store(block, i * width + j, load(block, i * width + j) + (pair + other))


def compile_kernels() -> None:
    """Compile the kernels of `weighted_scatter`, or load them from the cache."""
    weighted_scatter(np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1)))
