"""Principal components from summed moments of rows, which chunks of the rows add to.

Source: I. T. Jolliffe, "Principal Component Analysis", 2002, section 1.1: the components are the eigenvectors of the
covariance of the rows with the largest eigenvalues. Their signs are those of scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.jit import as_input
from actors.kernels.types import FloatArray


def moments_of(rows: ArrayLike, reference: FloatArray) -> dict[str, FloatArray]:
    """Return the moments of rows about a reference, as statistics that add.

    Parameters
    ----------
    rows : array_like, shape (N, P)
        Rows of a chunk that are not missing, finite.
    reference : ndarray of float64, shape (P,)
        c, the same for all chunks: a row, say, or the mean where it is known.

    Returns
    -------
    dict
        count (1,), the number of rows; first (P,) = Σ_t (x_t - c); second (P, P) = Σ_t (x_t - c)(x_t - c)ᵀ.

    Raises
    ------
    ValueError
        If the rows' shape doesn't fit.
    """
    values = as_input(rows)
    if values.ndim != 2 or values.shape[1] != reference.size:
        raise ValueError(f"rows must have the shape (N, {reference.size}), but have {values.shape}")
    centred = values - reference
    return {
        "count": np.array([float(len(values))]),
        "first": centred.sum(axis=0),
        "second": centred.T @ centred,
    }


def scatter_from_moments(moments: Mapping[str, FloatArray]) -> FloatArray:
    """Return the scatter of all rows about their mean, (P, P), from the moments of `moments_of`, summed over them."""
    count = float(moments["count"][0])
    offset = moments["first"] / count
    scatter: FloatArray = moments["second"] - count * np.outer(offset, offset)
    return scatter


def components_from_moments(
    moments: Mapping[str, FloatArray], reference: FloatArray, latent_dim: int
) -> dict[str, FloatArray]:
    """Return the principal components of all rows.

    An eigenvalue λ has an error of some 2^-53 (|δ|² + λ_1), with δ the distance of the mean from the reference and λ_1
    the largest eigenvalue: a reference among the rows costs no more than the covariance itself.

    Parameters
    ----------
    moments : mapping
        Of `moments_of`, summed over all rows.
    reference : ndarray of float64, shape (P,)
        The one of the moments.
    latent_dim : int
        D, the number of components, from 1 to P and to the number of rows.

    Returns
    -------
    dict
        The fitted attributes of scikit-learn's PCA: mean_ (P,), components_ (D, P), explained_variance_ (D,), and
        noise_variance_ (1,), the mean of the other variances.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or fewer rows or values than components.
    """
    count, P = float(moments["count"][0]), reference.size
    if count < 2 or not 1 <= latent_dim <= min(count, P):
        raise ValueError(f"{count:.0f} rows of {P} values are not enough for {latent_dim} components")
    offset = moments["first"] / count
    covariance = scatter_from_moments(moments) / (count - 1.0)
    variances, vectors = np.linalg.eigh(covariance)  # in ascending order
    components = np.ascontiguousarray(vectors[:, ::-1][:, :latent_dim].T)
    # The entry of the largest magnitude is positive, as in sklearn.utils.extmath.svd_flip(u_based_decision=False).
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(latent_dim), largest])[:, None]
    explained = np.maximum(variances[::-1][:latent_dim], 0.0)  # negative by rounding only
    rest = np.maximum(variances[::-1][latent_dim:], 0.0)
    noise = np.array([rest.mean() if rest.size else 0.0])
    fitted = {"mean_": reference + offset, "components_": components, "explained_variance_": explained}
    return {**fitted, "noise_variance_": noise}
