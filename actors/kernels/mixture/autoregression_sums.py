"""Autoregressions from sums over rows: what one chunk of rows adds, and what is made from the sums of all chunks.

The statistics of a chunk are a flat dict of float64 arrays, which add (:mod:`actors.kernels.mixture.sums`). A row
follows from the L rows before it, the first of which may be in the chunk before: they come with the chunk
(:class:`Preceding`), and are in no sum themselves.

With a reference C near the coefficients of a class, such as those of the iteration before, e_t = x_t - C φ_t and the
sums B = Σ r e eᵀ, A = Σ r e φᵀ and P = Σ r φ φᵀ, the posterior of :mod:`actors.kernels.mixture.autoregression` is

    M = C + Δ,   Δ = (A + (M0 - C) P0) (P + P0)⁻¹
    S = S0 + B - Δ Aᵀ - A Δᵀ + Δ P Δᵀ + (M - M0) P0 (M - M0)ᵀ

which follows from the normal equations. Digits cancel only as far as Δ φ_t is larger than the noise.

Throughout, N is the number of rows of the chunk, D their dimension, K the number of classes, Q = D L + 1 that of the
regressors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from actors.kernels.jit import as_input
from actors.kernels.mixture import sums as gaussian_sums
from actors.kernels.mixture.autoregression import (
    Classes,
    MNIWPosterior,
    MNIWPrior,
    Prior,
    Series,
    log_marginal_likelihood,
    series,
)
from actors.kernels.mixture.scatter import weighted_scatter
from actors.kernels.mixture.sums import Sums
from actors.kernels.mixture.variational import bound_of_likelihoods
from actors.kernels.special import entr
from actors.kernels.types import BoolArray, FloatArray, IntArray

NOT_POSITIVE = "a class's scale is not positive definite: the prior's scale is too small for data"


class Preceding(NamedTuple):
    """The rows of its sequence just before a chunk, at most L, in their order; none where no row precedes it.

    Attributes
    ----------
    rows : ndarray of float64, shape (n, D)
    missing : ndarray of bool, shape (n,)
    """

    rows: FloatArray
    missing: BoolArray

    @classmethod
    def none(cls, dimensions: int) -> Preceding:
        """Return no rows."""
        return cls(np.zeros((0, dimensions)), np.zeros(0, np.bool_))

    def followed_by(self, rows: FloatArray, missing: BoolArray, order: int) -> Preceding:
        """Return the last L rows of these and the rows (m, D) after them."""
        return Preceding(
            np.concatenate([self.rows, rows[-order:]])[-order:],
            np.concatenate([self.missing, missing[-order:]])[-order:],
        )


class Reference(NamedTuple):
    """A point near each class, about which its sums are taken.

    Attributes
    ----------
    coefficients : ndarray of float64, shape (K, D, Q)
        C.
    means : ndarray of float64, shape (K, D)
        Of rows without regressors.
    """

    coefficients: FloatArray
    means: FloatArray


def series_after(
    preceding: Preceding, rows: FloatArray, missing: BoolArray, boundaries: IntArray, order: int
) -> Series:
    """Return the rows (N, D) of a chunk with their regressors, some of which precede it.

    Parameters
    ----------
    preceding : Preceding
        In the same units.
    rows, missing, boundaries, order
        As in :func:`actors.kernels.mixture.autoregression.series`, of the chunk.
    """
    n = len(preceding.rows)
    if not n:
        return series(rows, missing, boundaries, order)
    inner = boundaries + n
    inner[0] = 0
    both = series(np.concatenate([preceding.rows, rows]), np.concatenate([preceding.missing, missing]), inner, order)
    # None of the preceding rows has L rows before it here, so that the regressors are those of the chunk.
    return Series(as_input(both.rows[n:]), both.regressors, both.follows[n:], both.present[n:])


# --- classes ----------------------------------------------------------------------------------------------------------


def class_sums(data: Series, responsibilities: FloatArray, reference: Reference) -> dict[str, FloatArray]:
    """Return the sums of each class, of rows weighted by their responsibilities (N, K), zeros for missing rows.

    Returns
    -------
    dict
        Of rows with regressors ``following`` (K,) = Σ r, ``regressors`` (K, Q, Q) = P, ``cross`` (K, D, Q) = A and
        ``residuals`` (K, D, D) = B; of rows without, those of :func:`actors.kernels.mixture.sums.class_sums`.
    """
    K, D, Q = reference.coefficients.shape
    following, regressors = data.following, as_input(data.regressors)
    weights = np.ascontiguousarray(responsibilities[data.follows].T)
    cross, residuals = np.empty((K, D, Q)), np.empty((K, D, D))
    for k in range(K):
        left = as_input(following - regressors @ reference.coefficients[k].T)
        cross[k] = (weights[k][:, None] * left).T @ regressors
        residuals[k] = weighted_scatter(left, weights[k : k + 1], np.zeros((1, D)))[0]
    return {
        "following": weights.sum(axis=1),
        "regressors": weighted_scatter(regressors, weights, np.zeros((K, Q))),
        "cross": cross,
        "residuals": residuals,
        **gaussian_sums.class_sums(as_input(data.rows[data.starts]), responsibilities[data.starts], reference.means),
    }


def variational_sums(
    data: Series, responsibilities: FloatArray, reference: Reference, log_prior: FloatArray | None
) -> dict[str, FloatArray]:
    """Return the sums of a chunk from which classes and bound of given responsibilities follow.

    Those of `class_sums`; ``entropy`` (1,) of the responsibilities; and if there are log-priors (N, K) ``log_prior``
    (1,) = Σ r log prior, -inf if a row has a responsibility for a class that its prior forbids.
    """
    sums = class_sums(data, responsibilities, reference)
    sums["entropy"] = np.array([entr(responsibilities).sum()])
    if log_prior is not None:
        terms = np.zeros_like(responsibilities)
        np.multiply(responsibilities, log_prior, out=terms, where=responsibilities > 0.0)
        sums["log_prior"] = np.array([terms.sum()])
    return sums


def classes_from_sums(sums: Sums, reference: Reference, prior: Prior) -> Classes:
    """Return the posterior of all classes from the sums over all rows, and the reference of these.

    Raises
    ------
    ValueError
        If a matrix is not positive definite in float64.
    """
    initial = gaussian_sums.posterior_from_sums(sums, reference.means, prior.initial)
    counts = np.array(sums["following"], dtype=np.float64)
    # Σ r x of rows with regressors, whose last one is 1, and of rows without.
    total = sums["cross"][:, :, -1] + (reference.coefficients @ sums["regressors"])[:, :, -1]
    total = total + sums["first"] + initial.counts[:, None] * reference.means
    return Classes(
        _dynamics_from_sums(sums, counts, reference.coefficients, prior.dynamics),
        initial,
        total / (prior.initial.r0 + counts + initial.counts)[:, None],
    )


def _dynamics_from_sums(sums: Sums, counts: FloatArray, near: FloatArray, prior: MNIWPrior) -> MNIWPosterior:
    """Return the posterior of the autoregressions; `near` (K, D, Q) are the coefficients of the reference."""
    precision = sums["regressors"] + np.diag(prior.precision)
    gradient = sums["cross"] + (prior.mean - near) * prior.precision
    try:
        change = np.linalg.solve(precision, gradient.transpose(0, 2, 1)).transpose(0, 2, 1)
        coefficients = near + change
        shift = coefficients - prior.mean
        both = change @ sums["cross"].transpose(0, 2, 1)
        scale = prior.scale + sums["residuals"] - both - both.transpose(0, 2, 1)
        scale += change @ sums["regressors"] @ change.transpose(0, 2, 1)
        scale += np.einsum("kdq,q,keq->kde", shift, prior.precision, shift)
        scale = 0.5 * (scale + scale.transpose(0, 2, 1))
        return MNIWPosterior(
            counts,
            np.ascontiguousarray(coefficients),
            np.ascontiguousarray(np.linalg.cholesky(precision)),
            np.ascontiguousarray(np.linalg.cholesky(scale)),
        )
    except np.linalg.LinAlgError as error:
        raise ValueError(NOT_POSITIVE) from error


def bound_from_sums(
    sums: Sums, classes: Classes, prior: Prior, alpha: float, *, temperature: float = 1.0, use_weights: bool = False
) -> float:
    """Return the bound of :func:`actors.kernels.mixture.autoregression.evidence_lower_bound` from sums over all rows.

    Parameters
    ----------
    sums : mapping
        Of `variational_sums`. Sums of rows with log-priors have the term that replaces the weights'.
    classes : Classes
        Those of the same sums.
    prior, alpha, temperature, use_weights
        As there.
    """
    no_rows = np.zeros((0, classes.counts.size))
    # The terms of the classes; those that are sums over the rows follow.
    bound = bound_of_likelihoods(
        *(log_marginal_likelihood(classes, prior), no_rows, classes.counts, alpha),
        log_prior=no_rows if "log_prior" in sums else None,
        temperature=temperature,
        use_weights=use_weights,
    )
    return bound + float(np.sum(sums["entropy"])) + float(np.sum(sums.get("log_prior", 0.0)))


# --- the prior --------------------------------------------------------------------------------------------------------


def step_sums(data: Series, *, persistence: bool) -> dict[str, FloatArray]:
    """Return the sums of what the prior mean of the coefficients leaves of the rows with regressors.

    Parameters
    ----------
    data : Series
        Of deviations from any origin.
    persistence : bool
        Whether rows are expected where those before them are, or at the mean of all rows.

    Returns
    -------
    dict
        step_rows (1,), the number of rows with regressors; step_first (D,) and step_square (D,), the sums of what is
        left and of its squares, where for rows expected at the mean this is still the origin.
    """
    D = data.rows.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        left = data.following - data.regressors[:, :D] if persistence else data.following
        first, square = left.sum(axis=0), np.square(left).sum(axis=0)
    return {"step_rows": np.array([float(len(left))]), "step_first": first, "step_square": square}


def unexplained_variance(sums: Sums, mean: FloatArray, *, persistence: bool) -> FloatArray:
    """Return the mean square, (D,), of what the prior mean of the coefficients leaves of each column.

    Parameters
    ----------
    sums : mapping
        Of `step_sums`, over all rows, of which one at least has regressors.
    mean : ndarray of float64, shape (D,)
        Of the deviations of all rows.
    """
    rows = sums["step_rows"][0]
    square: FloatArray = sums["step_square"] / rows
    if persistence:
        return square
    return np.asarray(np.maximum(square - 2.0 * mean * sums["step_first"] / rows + np.square(mean), 0.0))


# --- sums and references in other units -------------------------------------------------------------------------------


def translated(coefficients: FloatArray, factor: FloatArray, shift: FloatArray) -> FloatArray:
    """Return the coefficients (K, D, Q) that say the same of rows in other units, x' = factor · x + shift."""
    K, D, Q = coefficients.shape
    order = (Q - 1) // D
    out = np.empty_like(coefficients)
    lags = coefficients[:, :, :-1].reshape(K, D, order, D) * (factor[:, None, None] / factor)
    out[:, :, :-1] = lags.reshape(K, D, D * order)
    out[:, :, -1] = factor * coefficients[:, :, -1] + shift - lags.sum(axis=2) @ shift
    return out


def translated_sums(sums: Sums, factor: FloatArray, shift: FloatArray, order: int) -> dict[str, FloatArray]:
    """Return the sums that rows in other units, x' = factor · x + shift, have about the translated reference."""
    D = factor.size
    change = np.zeros((D * order + 1, D * order + 1))
    change[np.arange(D * order), np.arange(D * order)] = np.tile(factor, order)
    change[:-1, -1] = np.tile(shift, order)
    change[-1, -1] = 1.0
    return {
        **sums,
        "regressors": change @ sums["regressors"] @ change.T,
        "cross": factor[:, None] * sums["cross"] @ change.T,
        "residuals": factor[:, None] * sums["residuals"] * factor,
        "first": factor * sums["first"],
        "second": factor[:, None] * sums["second"] * factor,
    }


def of_columns(sums: Sums, reference: Reference, kept: BoolArray) -> tuple[dict[str, FloatArray], Reference]:
    """Return the sums of some columns (D,) of the rows alone, and their reference, which knows of no others."""
    _, D, Q = reference.coefficients.shape
    used = np.append(np.tile(kept, (Q - 1) // D), True)
    near = np.where(used, reference.coefficients, 0.0)
    left_out = reference.coefficients - near  # residuals about `near` are longer by these times the regressors
    cross = sums["cross"] + left_out @ sums["regressors"]
    residuals = sums["residuals"] + left_out @ sums["cross"].transpose(0, 2, 1)
    residuals = residuals + cross @ left_out.transpose(0, 2, 1)
    inner = {
        **sums,
        "regressors": sums["regressors"][:, used][:, :, used],
        "cross": cross[:, kept][:, :, used],
        "residuals": residuals[:, kept][:, :, kept],
        "first": sums["first"][:, kept],
        "second": sums["second"][:, kept][:, :, kept],
    }
    return inner, Reference(near[:, kept][:, :, used], reference.means[:, kept])
