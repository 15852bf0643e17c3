"""Cholesky factorisation in place: from scratch, and after a rank-one change (Golub and Van Loan, section 6.5.4)."""

from __future__ import annotations

import math

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.types import FloatArray


@kernel
def factorize(matrix: FloatArray, chol: FloatArray) -> bool:
    """Compute the lower Cholesky factor L with L Lᵀ = matrix.

    Parameters
    ----------
    matrix : ndarray of float64, shape (D, D)
        Symmetric; only its lower triangle is read.
    chol : ndarray of float64, shape (D, D)
        Output: L in its lower triangle; the upper one is not written.

    Returns
    -------
    bool
        False if the matrix is not positive definite; the contents of chol are then invalid.
    """
    D = matrix.shape[0]
    column = np.empty(D)
    for i in range(D):
        for e in range(i + 1):
            chol[i, e] = matrix[i, e]
    for d in range(D):
        pivot = chol[d, d]
        if not pivot > 0.0:
            return False
        root = math.sqrt(pivot)
        chol[d, d] = root
        for i in range(d + 1, D):
            chol[i, d] /= root
            column[i] = chol[i, d]
        # Subtract l lᵀ from the trailing matrix, row by row: these updates are independent of each other.
        for i in range(d + 1, D):
            factor = column[i]
            for e in range(d + 1, i + 1):
                chol[i, e] -= factor * column[e]
    return True


@kernel
def rank_one_update(chol: FloatArray, vector: FloatArray, sign: float) -> bool:
    """Update L in place so that L Lᵀ becomes L Lᵀ + sign · vector vectorᵀ.

    Parameters
    ----------
    chol : ndarray of float64, shape (D, D)
        L, changed in place.
    vector : ndarray of float64, shape (D,)
        The vector; overwritten.
    sign : float
        1.0 for an update, -1.0 for a downdate.

    Returns
    -------
    bool
        False if the result is not positive definite; the contents of chol are then invalid.
    """
    D = vector.shape[0]
    for d in range(D):
        old = chol[d, d]
        # Rotate (hyperbolically, for a downdate) so that entry d of the vector vanishes: r² = L_dd² ± v_d².
        square = old * old + sign * vector[d] * vector[d]
        if not square > 0.0:
            return False
        new = math.sqrt(square)
        shrink, s = old / new, vector[d] / old
        chol[d, d] = new
        for i in range(d + 1, D):
            # L'_id = (L_id ± s v_i) / c,  v'_i = c v_i - s L'_id,  with c = r / L_dd
            changed = (chol[i, d] + sign * s * vector[i]) * shrink
            vector[i] = vector[i] * (new / old) - s * changed
            chol[i, d] = changed
    return True
