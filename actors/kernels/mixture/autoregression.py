"""Classes that are linear-Gaussian autoregressions, with a matrix-normal inverse-Wishart prior.

A row of class k follows from the L rows before it, its *regressors* φ_t = (x_{t-1}, …, x_{t-L}, 1):

    x_t = A_k φ_t + e_t,   e_t ~ N(0, Σ_k),   A_k | Σ_k ~ MN(M0, Σ_k, P0⁻¹),   Σ_k ~ IW(ν0, S0)

With n rows, X and Φ the matrices whose columns they and their regressors are, the posterior is of the same form:

    P = P0 + Φ Φᵀ,   M = (M0 P0 + X Φᵀ) P⁻¹,   ν = ν0 + n,
    S = S0 + (X - M Φ)(X - M Φ)ᵀ + (M - M0) P0 (M - M0)ᵀ

Source: E. B. Fox, E. B. Sudderth, M. I. Jordan and A. S. Willsky, "Bayesian nonparametric inference of switching
dynamic linear models", 2011, section III-B, eqs. 12 to 14 and appendix A (K is P0 there, S_{y|ȳ} + S0 is S); C. M.
Bishop, "Pattern Recognition and Machine Learning", 2006, section 10.2, for variational Bayes. With φ = 1 all of this is
the normal-inverse-Wishart mixture of :mod:`actors.kernels.mixture.niw`, P0 = r0 and h = φᵀP⁻¹φ = 1/r.

A row that has no L rows before it (the first ones of a sequence, and those after a missing row) has no regressors: it
is drawn from a Gaussian of its class, whose prior is normal-inverse-Wishart. All rows have a density, and no row is
taken for the predecessor of another sequence's.

Throughout, N is the number of rows, D their dimension, K the number of classes, Q = D L + 1 that of the regressors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import as_input, kernel
from actors.kernels.mixture import niw, variational
from actors.kernels.mixture.blocked_gibbs import draw_classes
from actors.kernels.mixture.niw import MIN_DOWNDATE, NIWPosterior, NIWPrior, squared_mahalanobis
from actors.kernels.mixture.scatter import weighted_scatter
from actors.kernels.special import digamma, gammaln, multigammaln
from actors.kernels.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class MNIWPrior:
    """A matrix-normal inverse-Wishart prior, the same for all classes.

    Attributes
    ----------
    mean : ndarray of float64, shape (D, Q)
        M0, the expected coefficients.
    precision : ndarray of float64, shape (Q,)
        The diagonal of P0, > 0: what each coefficient's mean counts for.
    nu0 : float
        Degrees of freedom, > D - 1.
    scale : ndarray of float64, shape (D, D)
        S0, positive definite.
    """

    mean: FloatArray
    precision: FloatArray
    nu0: float
    scale: FloatArray


class MNIWPosterior(NamedTuple):
    """The matrix-normal inverse-Wishart posterior of each class, given its rows.

    Attributes
    ----------
    counts : ndarray of float64, shape (K,)
        n, the rows of the class, by their responsibilities.
    coefficients : ndarray of float64, shape (K, D, Q)
        M.
    precision_chol : ndarray of float64, shape (K, Q, Q)
        Lower Cholesky factors of P.
    chol : ndarray of float64, shape (K, D, D)
        Lower Cholesky factors of S.
    """

    counts: FloatArray
    coefficients: FloatArray
    precision_chol: FloatArray
    chol: FloatArray

    @property
    def log_det(self) -> FloatArray:
        """Log |S|, (K,)."""
        return _log_det(self.chol)


class Prior(NamedTuple):
    """The prior of a class: that of its autoregression, and that of rows without regressors."""

    dynamics: MNIWPrior
    initial: NIWPrior
    centre: FloatArray
    """What is subtracted from rows before all else, (D,): their mean."""


class Classes(NamedTuple):
    """The posterior of all classes: of their autoregressions, and of rows without regressors."""

    dynamics: MNIWPosterior
    initial: NIWPosterior
    mean: FloatArray
    """Mean of the class's rows, (K, D), with the prior's count of rows at zero: for drawings and means of classes."""

    @property
    def counts(self) -> FloatArray:
        """The rows of each class, (K,), by their responsibilities."""
        counts: FloatArray = self.dynamics.counts + self.initial.counts
        return counts


class Series(NamedTuple):
    """Rows with their regressors.

    Attributes
    ----------
    rows : ndarray of float64, shape (N, D)
    regressors : ndarray of float64, shape (M, Q)
        Of the M rows that have L rows before them.
    follows : ndarray of bool, shape (N,)
        Which rows these are. Missing rows are not among them.
    present : ndarray of bool, shape (N,)
        Rows that are not missing.
    """

    rows: FloatArray
    regressors: FloatArray
    follows: BoolArray
    present: BoolArray

    @property
    def order(self) -> int:
        """L."""
        return int(self.regressors.shape[1] - 1) // int(self.rows.shape[1])

    def with_rows(self, rows: FloatArray) -> Series:
        """Return the same series with other values (N, D)."""
        return self._replace(rows=rows, regressors=_regressors(rows, self.follows, self.order))

    @property
    def following(self) -> FloatArray:
        """The rows that have regressors, (M, D)."""
        return as_input(self.rows[self.follows])

    @property
    def starts(self) -> BoolArray:
        """Mask (N,) of the rows that have a value but no regressors."""
        return self.present & ~self.follows


def series(rows: FloatArray, missing: BoolArray, boundaries: IntArray, order: int) -> Series:
    """Return rows with their regressors.

    Parameters
    ----------
    rows : ndarray of float64, shape (N, D)
        In the order of time, one sequence after the other.
    missing : ndarray of bool, shape (N,)
        Missing rows, which are not read.
    boundaries : ndarray of int, shape (S + 1,)
        Where the sequences begin, and N.
    order : int
        L, at least 1.
    """
    index = np.arange(len(rows))
    # Rows since the last one that has no predecessor: the start of a sequence, or a missing row.
    blocked = np.where(missing, index + 1, 0)
    first = boundaries[:-1]
    blocked[first] = np.maximum(blocked[first], first)
    known = index - np.maximum.accumulate(blocked)
    follows = (known >= order) & ~missing
    return Series(rows, _regressors(rows, follows, order), follows, ~missing)


def _regressors(rows: FloatArray, follows: BoolArray, order: int) -> FloatArray:
    """Return the regressors (M, Q) of those rows (N, D) that have some."""
    at, D = np.flatnonzero(follows), rows.shape[1]
    regressors = np.ones((at.size, D * order + 1))
    for lag in range(1, order + 1):
        regressors[:, (lag - 1) * D : lag * D] = rows[at - lag]
    return regressors


def dynamics_posterior(
    following: FloatArray,
    regressors: FloatArray,
    responsibilities: FloatArray,
    prior: MNIWPrior,
    scatter: FloatArray | None = None,
) -> MNIWPosterior:
    """Return the posterior of all classes' autoregressions.

    Parameters
    ----------
    following : ndarray of float64, shape (M, D)
        Rows that have regressors.
    regressors : ndarray of float64, shape (M, Q)
    responsibilities : ndarray of float64, shape (M, K)
        The weight of each row in each class.
    prior : MNIWPrior
    scatter : ndarray of float64, shape (K, D + Q, D + Q), optional
        What the covariances of rows and regressors whose values are not known add to the moments.

    Raises
    ------
    ValueError
        If a matrix is not positive definite in float64.
    """
    weights = np.ascontiguousarray(responsibilities.T)
    K, (D, Q) = len(weights), prior.mean.shape
    precision = weighted_scatter(as_input(regressors), weights, np.zeros((K, Q))) + np.diag(prior.precision)
    residuals = following - regressors @ prior.mean.T
    # M - M0 = (Σ_t r_t (x_t - M0 φ_t) φ_tᵀ) P⁻¹: without M0, whose part would cancel.
    moments = np.stack([(w[:, None] * residuals).T @ regressors for w in weights])
    if scatter is not None:
        precision += scatter[:, D:, D:]
        moments += scatter[:, :D, D:] - prior.mean @ scatter[:, D:, D:]
    try:
        shift = np.linalg.solve(precision, moments.transpose(0, 2, 1)).transpose(0, 2, 1)
        coefficients = prior.mean + shift
        scale = prior.scale + np.einsum("kdq,q,keq->kde", shift, prior.precision, shift)
        for k in range(K):
            left = as_input(following - regressors @ coefficients[k].T)
            scale[k] += weighted_scatter(left, weights[k : k + 1], np.zeros((1, D)))[0]
        if scatter is not None:
            both = np.concatenate([np.broadcast_to(np.eye(D), (K, D, D)), -coefficients], axis=2)
            scale += both @ scatter @ both.transpose(0, 2, 1)
        return MNIWPosterior(
            responsibilities.sum(axis=0),
            np.ascontiguousarray(coefficients),
            np.ascontiguousarray(np.linalg.cholesky(precision)),
            np.ascontiguousarray(np.linalg.cholesky(scale)),
        )
    except np.linalg.LinAlgError as error:
        raise ValueError("a class's scale is not positive definite: the prior's scale is too small for data") from error


def classes_from(
    data: Series,
    responsibilities: FloatArray,
    prior: Prior,
    scatter: tuple[FloatArray, FloatArray] | None = None,
) -> Classes:
    """Return the posterior of all classes from rows with responsibilities (N, K), zeros for missing rows.

    `scatter` (K, D + Q, D + Q) and (K, D, D) are the weighted sums of the covariances of rows and regressors, and of
    rows without regressors, where their values are not known.

    Raises
    ------
    ValueError
        If a matrix is not positive definite in float64.
    """
    r, (following, starting) = responsibilities[data.present], (None, None) if scatter is None else scatter
    initial = variational.posterior_from_responsibilities(
        data.rows[data.starts], responsibilities[data.starts], prior.initial
    )
    if starting is not None:
        initial = niw.posterior_from_moments(initial.counts, initial.mean, initial.scale + starting)
    return Classes(
        dynamics_posterior(data.following, data.regressors, responsibilities[data.follows], prior.dynamics, following),
        initial,
        r.T @ data.rows[data.present] / (prior.initial.r0 + r.sum(axis=0))[:, None],
    )


def _leverage_and_distance(
    following: FloatArray, regressors: FloatArray, posterior: MNIWPosterior
) -> tuple[FloatArray, FloatArray]:
    """Return h = φᵀP⁻¹φ and q = (x - Mφ)ᵀS⁻¹(x - Mφ), each (M, K)."""
    K, D, Q = posterior.coefficients.shape
    h = squared_mahalanobis(as_input(regressors), np.zeros((K, Q)), posterior.precision_chol)
    q = np.empty_like(h)
    for k in range(K):
        residuals = as_input(following - regressors @ posterior.coefficients[k].T)
        q[:, k] = squared_mahalanobis(residuals, np.zeros((1, D)), posterior.chol[k : k + 1])[:, 0]
    return h, q


def _log_matrix_t(h: FloatArray, q: FloatArray, n: FloatArray, log_det: FloatArray, prior: MNIWPrior) -> FloatArray:
    """Return the log predictive density: a Student t with ν - D + 1 degrees and scale S (1 + h) / (ν - D + 1)."""
    D, nu = len(prior.scale), prior.nu0 + n
    constants = gammaln((nu + 1.0) / 2.0) - gammaln((nu + 1.0 - D) / 2.0) - D / 2.0 * math.log(math.pi)
    density: FloatArray = constants - D / 2.0 * np.log1p(h) - 0.5 * log_det - 0.5 * (nu + 1.0) * np.log1p(q / (1.0 + h))
    return density


def log_predictive(data: Series, classes: Classes, prior: Prior) -> FloatArray:
    """Return the log predictive density of new rows under each class, (N, K); 0 for missing rows."""
    out = np.zeros((len(data.rows), classes.counts.size))
    h, q = _leverage_and_distance(data.following, data.regressors, classes.dynamics)
    out[data.follows] = _log_matrix_t(h, q, classes.dynamics.counts, classes.dynamics.log_det, prior.dynamics)
    out[data.starts] = niw.log_predictive(data.rows[data.starts], classes.initial, prior.initial)
    return out


def log_predictive_loo(data: Series, responsibilities: FloatArray, classes: Classes, prior: Prior) -> FloatArray:
    """Return the leave-one-out log predictive density, (N, K): each row's weight is removed from all classes.

    Removing the weight w of (x, φ) changes P and S by matrices of rank one. With h and q as above, c = 1 / (1 - w h)
    and a = c w: h without the row is c h, the residual is c times as long, |S| becomes |S| (1 - a q), and the squared
    distance c² q / (1 - a q) (Sherman-Morrison formula, determinant lemma). 0 for missing rows.
    """
    out = np.zeros((len(data.rows), classes.counts.size))
    dynamics, w = classes.dynamics, responsibilities[data.follows]
    h, q = _leverage_and_distance(data.following, data.regressors, dynamics)
    c = 1.0 / np.maximum(1.0 - w * h, MIN_DOWNDATE)
    left = np.maximum(1.0 - c * w * q, MIN_DOWNDATE)
    n = np.maximum(dynamics.counts - w, 0.0)  # rounding must not make it negative
    out[data.follows] = _log_matrix_t(c * h, c * c * q / left, n, dynamics.log_det + np.log(left), prior.dynamics)
    out[data.starts] = variational.soft_log_predictive_loo(
        data.rows[data.starts], responsibilities[data.starts], classes.initial, prior.initial
    )
    return out


def expected_log_density(data: Series, classes: Classes, prior: Prior) -> FloatArray:
    """Return E[log N(x_t | A_k φ_t, Σ_k)] under the posterior, (N, K), and of rows without regressors; 0 if missing.

    E[log |Λ|] = Σ_d ψ((ν + 1 - d) / 2) + D log 2 - log |S|; the expected distance is D h + ν q (Bishop, 10.64, 10.65,
    with h in the place of 1 / r).
    """
    out = np.zeros((len(data.rows), classes.counts.size))
    dynamics, D = classes.dynamics, data.rows.shape[1]
    h, q = _leverage_and_distance(data.following, data.regressors, dynamics)
    nu = prior.dynamics.nu0 + dynamics.counts
    log_precision = digamma((nu[:, None] - np.arange(D)) / 2.0).sum(axis=1) + D * math.log(2.0) - dynamics.log_det
    out[data.follows] = 0.5 * (log_precision - D * math.log(2.0 * math.pi) - D * h - nu * q)
    out[data.starts] = variational.expected_log_density(data.rows[data.starts], classes.initial, prior.initial)
    return out


def log_marginal_likelihood(classes: Classes, prior: Prior) -> FloatArray:
    """Return the log marginal likelihood of the rows of each class, (K,), parameters integrated out.

    log p(X | Φ) = log Γ_D(ν/2) - log Γ_D(ν0/2) + ν0/2 log |S0| - ν/2 log |S| + D/2 (log |P0| - log |P|) - n D/2 log π
    """
    dynamics, own = classes.dynamics, prior.dynamics
    D = len(own.scale)
    nu = own.nu0 + dynamics.counts
    marginal: FloatArray = (
        multigammaln(nu / 2.0, D)
        - multigammaln(own.nu0 / 2.0, D)
        + 0.5 * (own.nu0 * np.linalg.slogdet(own.scale)[1] - nu * dynamics.log_det)
        + 0.5 * D * (np.log(own.precision).sum() - _log_det(dynamics.precision_chol))
        - 0.5 * dynamics.counts * D * math.log(math.pi)
    )
    return marginal + niw.log_marginal_likelihood(classes.initial, prior.initial)


def evidence_lower_bound(
    responsibilities: FloatArray,
    classes: Classes,
    prior: Prior,
    alpha: float,
    *,
    log_prior: FloatArray | None = None,
    temperature: float = 1.0,
    use_weights: bool = False,
) -> float:
    """Return the bound as :func:`actors.kernels.mixture.variational.evidence_lower_bound` does, for these classes."""
    return variational.bound_of_likelihoods(
        log_marginal_likelihood(classes, prior),
        responsibilities,
        classes.counts,
        alpha,
        log_prior=log_prior,
        temperature=temperature,
        use_weights=use_weights,
    )


class DrawnClasses(NamedTuple):
    """Drawn parameters of all classes.

    Attributes
    ----------
    coefficients : ndarray of float64, shape (K, D, Q)
        A.
    chol : ndarray of float64, shape (K, D, D)
        Lower Cholesky factors of Σ.
    initial_means, initial_chol : ndarray of float64, shapes (K, D), (K, D, D)
        Means and Cholesky factors of the covariances of rows without regressors.
    """

    coefficients: FloatArray
    chol: FloatArray
    initial_means: FloatArray
    initial_chol: FloatArray


def draw_parameters(classes: Classes, prior: Prior, generator: np.random.Generator) -> DrawnClasses:
    """Draw the parameters of all classes from their posterior.

    Σ by the Bartlett decomposition as in :func:`actors.kernels.mixture.blocked_gibbs.draw_classes`; then, with
    Σ = C Cᵀ, P = L Lᵀ and Z standard normal (D, Q), A = M + C Z L⁻¹ has the matrix-normal distribution.
    """
    dynamics = classes.dynamics
    K, D, Q = dynamics.coefficients.shape
    # A normal-inverse-Wishart posterior with the same scale: its draw of the covariance is the one needed here.
    centred = NIWPosterior(
        dynamics.counts, np.zeros((K, D)), np.broadcast_to(np.eye(D), (K, D, D)), dynamics.chol, dynamics.log_det
    )
    own = NIWPrior(np.zeros(D), 1.0, prior.dynamics.nu0, prior.dynamics.scale)
    _, chol = draw_classes(centred, own, generator)
    normal = generator.standard_normal((K, D, Q))
    # Y = Z L⁻¹ solves Lᵀ Yᵀ = Zᵀ.
    lower = dynamics.precision_chol.transpose(0, 2, 1)
    noise = np.linalg.solve(lower, normal.transpose(0, 2, 1)).transpose(0, 2, 1)
    return DrawnClasses(
        np.ascontiguousarray(dynamics.coefficients + chol @ noise),
        chol,
        *draw_classes(classes.initial, prior.initial, generator),
    )


def log_density(data: Series, drawn: DrawnClasses) -> FloatArray:
    """Return the log density of rows under drawn parameters, (N, K); 0 for missing rows."""
    K, D, _ = drawn.coefficients.shape
    out = np.zeros((len(data.rows), K))
    following, starts = data.following, as_input(data.rows[data.starts])
    for k in range(K):
        residuals = as_input(following - data.regressors @ drawn.coefficients[k].T)
        out[data.follows, k] = squared_mahalanobis(residuals, np.zeros((1, D)), drawn.chol[k : k + 1])[:, 0]
    out[data.starts] = squared_mahalanobis(starts, drawn.initial_means, drawn.initial_chol)
    for rows, chol in ((data.follows, drawn.chol), (data.starts, drawn.initial_chol)):
        out[rows] = -0.5 * (D * math.log(2.0 * math.pi) + _log_det(chol) + out[rows])
    return out


def expected_rows(data: Series, responsibilities: FloatArray, classes: Classes) -> FloatArray:
    """Return what the classes expect of each row, Σ_k r_tk M_k φ_t, (N, D); missing rows have what no row precedes."""
    out = responsibilities @ classes.initial.mean
    following = np.zeros((data.regressors.shape[0], out.shape[1]))
    for k, M in enumerate(classes.dynamics.coefficients):
        following += responsibilities[data.follows, k, None] * (data.regressors @ M.T)
    out[data.follows] = following
    return out


@kernel
def simulate(
    labels: IntArray,
    coefficients: FloatArray,
    chol: FloatArray,
    initial_means: FloatArray,
    initial_chol: FloatArray,
    normal: FloatArray,
) -> FloatArray:
    """Return one sequence of rows of given classes (N,), each drawn given the L before it by its class's parameters.

    Parameters
    ----------
    labels : ndarray of int64, shape (N,)
    coefficients, chol, initial_means, initial_chol : ndarray of float64
        As in :class:`DrawnClasses`. The first L rows are drawn from the Gaussians of their classes.
    normal : ndarray of float64, shape (N, D)
        Standard normal numbers.

    Returns
    -------
    ndarray of float64, shape (N, D)
    """
    N, D = normal.shape
    order = (coefficients.shape[2] - 1) // D
    rows = np.empty((N, D))
    for t in range(N):
        k = labels[t]
        for d in range(D):
            if t < order:
                value = initial_means[k, d]
                for e in range(d + 1):
                    value += initial_chol[k, d, e] * normal[t, e]
            else:
                value = coefficients[k, d, order * D]
                for lag in range(1, order + 1):
                    for e in range(D):
                        value += coefficients[k, d, (lag - 1) * D + e] * rows[t - lag, e]
                for e in range(d + 1):
                    value += chol[k, d, e] * normal[t, e]
            rows[t, d] = value
    return rows


def _log_det(chol: FloatArray) -> FloatArray:
    """Return log |L Lᵀ| of Cholesky factors (K, D, D)."""
    log_det: FloatArray = 2.0 * np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
    return log_det
