"""Principal components of rows in which some values are missing, by EM for probabilistic PCA.

Model: x = W z + μ + e, z ~ N(0, I), e ~ N(0, σ²I); only the observed columns o of a row enter. Sources: M. E. Tipping
and C. M. Bishop, "Probabilistic principal component analysis", 1999, section 3.2 and appendix B; A. Ilin and T. Raiko,
"Practical approaches to principal component analysis in the presence of missing values", 2010, section 3.3. After each
iteration the latent vectors are given zero mean and unit covariance, which changes no density of a row and shortens EM
(C. Liu, D. B. Rubin and Y. N. Wu, "Parameter expansion to accelerate EM", 1998).

At the maximum for complete rows, W spans the principal components, and σ² is the mean of the other variances. What is
found is returned as those of PCA: orthonormal, with variances as of N - 1 rows.

Throughout, N is the number of rows, P that of columns, L that of components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from actors.kernels.types import BoolArray, FloatArray

MAX_ITERATIONS = 500
MIN_RISE = 1e-7
"""Nats a row: EM ends when the log-likelihood rises by less."""

MIN_NOISE = 2.0**-40
"""Least σ², in mean variances of a column: without noise the observed columns may contradict the components."""

BATCH = 1 << 22
"""Numbers in the matrices of the rows that are computed together."""


class Components(NamedTuple):
    """Principal components.

    Attributes
    ----------
    mean : ndarray of float64, shape (P,)
    components : ndarray of float64, shape (L, P)
        Orthonormal, by falling variance; the value of the largest size in each is positive.
    variances : ndarray of float64, shape (L,)
    noise : float
        σ², the mean variance in the other directions.
    """

    mean: FloatArray
    components: FloatArray
    variances: FloatArray
    noise: float


class Model(NamedTuple):
    """The model between two iterations.

    Attributes
    ----------
    mean : ndarray of float64, shape (P,)
        μ.
    weights : ndarray of float64, shape (P, L)
        W.
    noise : float
        σ².
    """

    mean: FloatArray
    weights: FloatArray
    noise: float


def fit_components(
    X: FloatArray, seen: BoolArray, count: int, on_iteration: Callable[[int, float], object] | None = None
) -> Components:
    """Return the components of largest likelihood.

    Parameters
    ----------
    X : ndarray of float64, shape (N, P)
        Where values are missing, any finite numbers.
    seen : ndarray of bool, shape (N, P)
        False where a value is missing; each row and each column has at least one.
    count : int
        L, at most N and P.
    on_iteration : callable, optional
        Called with (iterations done, log-likelihood before the last of them, which never falls).
    """
    model, before = _first_model(X, seen, count), -math.inf
    for done in range(1, MAX_ITERATIONS + 1):
        sums = expected_sums(X, seen, model)
        model, likelihood = improved_model(sums, model), float(sums["likelihood"][0])
        if on_iteration is not None:
            on_iteration(done, likelihood)
        if likelihood - before < MIN_RISE * len(X):
            break
        before = likelihood
    return as_components(model, len(X))


def fill_missing(X: FloatArray, seen: BoolArray, found: Components) -> FloatArray:
    """Return rows (N, P) with E[x_m | x_o] in the place of missing values: μ_m + W_m E[z | x_o].

    The projection of such a row is the posterior mean of that of the whole row.
    """
    least = max(found.noise, MIN_NOISE * float(found.variances.mean()), float(np.finfo(np.float64).tiny))
    weights = found.components.T * np.sqrt(np.maximum(found.variances - found.noise, 0.0))
    model = Model(found.mean, weights, least)
    filled = X.copy()
    for rows in _batches(len(X), weights.shape[1]):
        z, _, _ = _posterior(X[rows], seen[rows], model)
        filled[rows] = np.where(seen[rows], X[rows], model.mean + z @ weights.T)
    return filled


def _first_model(X: FloatArray, seen: BoolArray, count: int) -> Model:
    """Return the components of the rows with the means of the columns in the place of missing values."""
    mean = np.where(seen, X, 0.0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    centred = np.where(seen, X - mean, 0.0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    variances = np.square(singular) / len(X)
    rest = float(variances[count:].sum()) / max(1, X.shape[1] - count)
    noise = max(rest, _least_noise(centred), float(np.finfo(np.float64).tiny))
    return Model(mean, directions[:count].T * np.sqrt(np.maximum(variances[:count], noise)), noise)


def _least_noise(centred: FloatArray) -> float:
    return MIN_NOISE * float(np.square(centred).mean())


def first_model_from_sums(mean: FloatArray, scatter: FloatArray, rows: float, count: int) -> Model:
    """Return the first model of EM from the scatter (P, P) of rows in which missing values are the mean (P,)."""
    found, vectors = np.linalg.eigh(scatter)  # in ascending order
    variances, tiny = np.maximum(found[::-1], 0.0) / rows, float(np.finfo(np.float64).tiny)
    rest = float(variances[count:].sum()) / max(1, mean.size - count)
    noise = max(rest, MIN_NOISE * float(np.trace(scatter)) / (rows * mean.size), tiny)
    return Model(mean, vectors[:, ::-1][:, :count] * np.sqrt(np.maximum(variances[:count], noise)), noise)


def _batches(rows: int, components: int) -> Iterator[slice]:
    size = max(1, BATCH // (components + 1) ** 2)
    return (slice(first, min(rows, first + size)) for first in range(0, rows, size))


def _posterior(X: FloatArray, seen: BoolArray, model: Model) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return E[z | x_o] (n, L), its covariance σ² M⁻¹ (n, L, L) with M = W_oᵀ W_o + σ²I, and log p(x_o) (n,)."""
    P, L = model.weights.shape
    products = (model.weights[:, :, None] * model.weights[:, None, :]).reshape(P, L * L)
    M = (seen.astype(np.float64) @ products).reshape(-1, L, L) + model.noise * np.eye(L)
    centred = np.where(seen, X - model.mean, 0.0)
    projected = centred @ model.weights
    inverse = np.linalg.inv(M)
    z = (inverse @ projected[:, :, None])[:, :, 0]
    # log |C_oo| = log |M| + (d - L) log σ²;  eᵀ C_oo⁻¹ e = (|e|² - eᵀ W M⁻¹ Wᵀ e) / σ²
    columns = seen.sum(axis=1)
    log_det = np.linalg.slogdet(M)[1] + (columns - L) * math.log(model.noise)
    residual = centred - np.where(seen, z @ model.weights.T, 0.0)
    distance = (np.square(residual).sum(axis=1)) / model.noise + np.square(z).sum(axis=1)
    density = -0.5 * (columns * math.log(2.0 * math.pi) + log_det + distance)
    return z, np.asarray(model.noise * inverse), np.asarray(density)


def expected_sums(X: FloatArray, seen: BoolArray, model: Model) -> dict[str, FloatArray]:
    """Return what an iteration of EM needs of rows, as statistics that add.

    Parameters
    ----------
    X : ndarray of float64, shape (N, P)
        Where values are missing, any finite numbers.
    seen : ndarray of bool, shape (N, P)
    model : Model

    Returns
    -------
    dict
        With y = (z, 1), over the rows that have a column d: second (P, L+1, L+1) = Σ E[y yᵀ] and first (P, L+1) =
        Σ (x_d - μ_d) E[y]; over all rows: moments (L+1, L+1) = Σ E[y yᵀ], and each (1,) squares = Σ |x_o - μ_o|²,
        likelihood = Σ log p(x_o), values and rows, the numbers of these.
    """
    (N, P), L = X.shape, model.weights.shape[1]
    second, first = np.zeros((P, (L + 1) ** 2)), np.zeros((P, L + 1))
    squares, likelihood = 0.0, 0.0
    moments = np.zeros((L + 1, L + 1))
    for rows in _batches(N, L):
        z, covariance, density = _posterior(X[rows], seen[rows], model)
        likelihood += float(density.sum())
        extended = np.column_stack([z, np.ones(len(z))])
        products = extended[:, :, None] * extended[:, None, :]  # E[(z, 1)(z, 1)ᵀ]
        products[:, :L, :L] += covariance
        moments += products.sum(axis=0)
        there = seen[rows].astype(np.float64)
        second += there.T @ products.reshape(len(z), -1)
        centred = np.where(seen[rows], X[rows] - model.mean, 0.0)
        first += centred.T @ extended
        squares += float(np.square(centred).sum())
    numbers = {"squares": squares, "likelihood": likelihood, "values": float(seen.sum()), "rows": float(N)}
    sums = {"second": second.reshape(P, L + 1, L + 1), "first": first, "moments": moments}
    return {**sums, **{name: np.array([value]) for name, value in numbers.items()}}


def improved_model(sums: Mapping[str, FloatArray], model: Model) -> Model:
    """Return the model after an iteration of EM, from the sums of `expected_sums` over all rows."""
    second, first, moments = sums["second"], sums["first"], sums["moments"]
    squares, values, rows = (float(sums[name][0]) for name in ("squares", "values", "rows"))
    L = model.weights.shape[1]
    # Each column is regressed on (z, 1): (w_d, δ_d) = (Σ E[(z, 1)(z, 1)ᵀ])⁻¹ Σ (x_d - μ_d) E[(z, 1)]
    solution = (np.linalg.pinv(second, hermitian=True) @ first[:, :, None])[:, :, 0]
    left = squares - 2.0 * (solution * first).sum() + np.einsum("pi,pij,pj->", solution, second, solution)
    least = MIN_NOISE * squares / values
    noise = max(float(left) / values, least, float(np.finfo(np.float64).tiny))
    average = moments[:L, L] / rows
    spread = moments[:L, :L] / rows - average[:, None] * average
    weights, offset = solution[:, :L], solution[:, L]
    return Model(model.mean + offset + weights @ average, weights @ np.linalg.cholesky(spread), noise)


def as_components(model: Model, rows: float) -> Components:
    """Return the principal components of a model of this number of rows."""
    directions, singular, _ = np.linalg.svd(model.weights, full_matrices=False)
    components = directions.T
    largest = components[np.arange(len(components)), np.abs(components).argmax(axis=1)]
    components = components * np.where(largest < 0.0, -1.0, 1.0)[:, None]
    unbiased = rows / (rows - 1.0)
    variances = (np.square(singular) + model.noise) * unbiased
    return Components(model.mean, np.ascontiguousarray(components), variances, model.noise * unbiased)
