"""Blocked Gibbs sampling of a Gaussian mixture whose rows are divided into chunks.

A sweep draws the parameters of all classes given the labels of all rows, which enter as sums, and then the label of
each row given these parameters. Given the parameters the rows are independent: chunks can be sampled anywhere and in
any order, and the sampler is exact, unlike a collapsed one whose processes do not see each other's moves.

Source: J. Chang and J. W. Fisher III, "Parallel sampling of DP mixture models using sub-cluster splits", 2013 (its
restricted sweeps), here with a fixed number K of classes and a symmetric Dirichlet prior of their weights.

*Temperature.* At τ = 1 this sampler and the collapsed one (:mod:`actors.kernels.mixture.gibbs`) have the same target.
Otherwise the collapsed one has the target p(z) p(X | z)^τ: a row's predictive density to the power τ is the ratio of
two such products. No sampler that draws rows independently given parameters can have it. This one has the target

    p(z, w) Π_k p(μ_k, Σ_k) Π_t N(x_t | μ_z, Σ_z)^τ,

the power posterior of N. Friel and A. N. Pettitt, "Marginal likelihood estimation via power posteriors", 2008: the
likelihood of a label has the exponent τ, and a row counts as τ rows for the parameters of its class, but as one for the
weights. Where classes have many rows, parameters hardly vary under either, and labels have the same probabilities;
classes of few rows are closer to the prior here.

*Components.* Where classes are mixtures of m Gaussians each (:mod:`actors.kernels.mixture.class_components`), the
parameters are those of all K·m components, and a label is a component, hence a class and a component of it, drawn
jointly: by N(x_t | μ_kj, Σ_kj)^τ w_kj, times w_k or what replaces it. The shares w_kj of a class are drawn as the
weights are, and count a row as one, too.

Throughout, N is the number of rows of the chunk, D their dimension, K the number of classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from actors.kernels.inversion import draw_rows
from actors.kernels.jit import as_input
from actors.kernels.mixture.class_components import of_components
from actors.kernels.mixture.input_checks import as_bias, as_mask, as_rows, check_finite
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, posterior_from_moments, squared_mahalanobis
from actors.kernels.mixture.sums import Sums, posterior_from_sums
from actors.kernels.special import logsumexp
from actors.kernels.types import FloatArray, IntArray


class ClassParameters(NamedTuple):
    """Drawn parameters of all classes.

    Attributes
    ----------
    means : ndarray of float64, shape (K, D)
        μ.
    chol : ndarray of float64, shape (K, D, D)
        Lower Cholesky factors of the covariances Σ.
    log_weights : ndarray of float64, shape (K,)
        log w; the weights sum to one.
    log_shares : ndarray of float64, shape (K·m,), or None
        Log-shares of the components of each class, which sum to one in it; means and factors are then those of the K·m
        components.
    """

    means: FloatArray
    chol: FloatArray
    log_weights: FloatArray
    log_shares: FloatArray | None = None


def draw_parameters(
    sums: Sums,
    reference: FloatArray,
    prior: NIWPrior,
    alpha: float,
    generator: np.random.Generator,
    *,
    temperature: float = 1.0,
) -> ClassParameters:
    """Draw the parameters of all classes and the weights given the labels of all rows.

    Parameters
    ----------
    sums : mapping
        Of :func:`actors.kernels.mixture.sums.class_sums_of_labels`, over all rows.
    reference : ndarray of float64, shape (K, D)
        The one of the sums.
    prior : NIWPrior
        Prior of the classes.
    alpha : float
        Concentration of the symmetric Dirichlet prior of the weights, > 0.
    generator : numpy.random.Generator
    temperature : float
        The exponent of the likelihood, as for the labels.

    Raises
    ------
    ValueError
        If alpha is not positive or a class's scale gets singular in float64.
    """
    if not alpha > 0.0:
        raise ValueError(f"alpha must be positive, but is {alpha}")
    tempered = {name: temperature * sums[name] for name in ("counts", "first", "second")}
    means, chol = draw_classes(posterior_from_sums(tempered, reference, prior), prior, generator)
    return ClassParameters(means, chol, draw_log_weights(sums["counts"] + alpha, generator))


def draw_given_posterior(
    posterior: NIWPosterior,
    prior: NIWPrior,
    alpha: float,
    generator: np.random.Generator,
    *,
    temperature: float = 1.0,
    components: int = 1,
) -> ClassParameters:
    """Draw as `draw_parameters`, from the posterior of the classes for τ = 1 in place of the sums.

    Parameters
    ----------
    posterior : NIWPosterior
        Of the K·m components.
    prior, alpha, generator, temperature
        As in `draw_parameters`; `alpha` is the concentration of the shares of each class, too.
    components : int
        m.
    """
    means, chol = draw_classes(tempered_posterior(posterior, prior, temperature), prior, generator)
    counts = posterior.counts.astype(np.float64).reshape(-1, components)
    log_weights = draw_log_weights(alpha + counts.sum(axis=1), generator)
    if components == 1:
        return ClassParameters(means, chol, log_weights)
    log_shares = draw_log_weights(alpha + counts, generator)
    return ClassParameters(means, chol, log_weights, log_shares.reshape(-1))


def tempered_posterior(posterior: NIWPosterior, prior: NIWPrior, temperature: float) -> NIWPosterior:
    """Return the posterior for which each row counts as τ rows: that of `draw_parameters`, from the one for τ = 1.

    With x̄ - m0 = r / n (m - m0), and S0, S and S_τ the scales of prior, posterior and result (Murphy 2007, 254),

        S_τ = (1 - τ) S0 + τ S + (c_τ - τ c) (x̄ - m0)(x̄ - m0)ᵀ,   c = r0 n / (r0 + n),   c_τ = r0 τn / (r0 + τn).

    All terms are positive semidefinite for τ ≤ 1: nothing cancels.
    """
    if temperature == 1.0:
        return posterior
    n = posterior.counts.astype(np.float64)[:, None]
    r, tempered = prior.r0 + n, temperature * n
    offset = np.divide(r * (posterior.mean - prior.mean), n, out=np.zeros_like(posterior.mean), where=n > 0.0)
    excess = prior.r0 * tempered / (prior.r0 + tempered) - temperature * prior.r0 * n / r
    outer = offset[:, :, None] * offset[:, None, :]
    scale = (1.0 - temperature) * prior.scale + temperature * posterior.scale + excess[:, :, None] * outer
    mean = prior.mean + tempered / (prior.r0 + tempered) * offset
    return posterior_from_moments(tempered[:, 0], mean, scale)


def draw_classes(
    posterior: NIWPosterior, prior: NIWPrior, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Draw means and covariances from the normal-inverse-Wishart posterior of each class.

    By the Bartlett decomposition (M. S. Bartlett, "On the theory of statistical regression", 1933; W. B. Smith and
    R. R. Hocking, algorithm AS 53, "Wishart variate generator", 1972): U Uᵀ has a Wishart distribution with ν degrees
    of freedom and the identity as scale if U is upper triangular with independent entries, N(0, 1) above the diagonal
    and U_dd² ~ χ² with ν - D + d degrees, d = 1..D. With S = L Lᵀ the precision is then L⁻ᵀ U Uᵀ L⁻¹, and L U⁻ᵀ, which
    is lower triangular, is the Cholesky factor of the covariance.

    Parameters
    ----------
    posterior : NIWPosterior
        The classes.
    prior : NIWPrior
        Its prior.
    generator : numpy.random.Generator

    Returns
    -------
    means : ndarray of float64, shape (K, D)
    chol : ndarray of float64, shape (K, D, D)
        Lower Cholesky factors of the covariances.
    """
    K, D = posterior.mean.shape
    nu, r = prior.nu0 + posterior.counts, prior.r0 + posterior.counts
    upper = np.triu(generator.standard_normal((K, D, D)), 1)
    # χ² of n degrees is twice a gamma variable of the shape n / 2.
    gammas = generator.standard_gamma((nu[:, None] - D + np.arange(1, D + 1)) / 2.0)
    # A gamma variable of a shape near zero may underflow: ν0 close to D - 1.
    diagonal = np.sqrt(2.0 * np.maximum(gammas, np.finfo(np.float64).tiny))
    upper[:, np.arange(D), np.arange(D)] = diagonal
    # C = L U⁻ᵀ solves U Cᵀ = Lᵀ.
    chol = np.ascontiguousarray(np.tril(np.linalg.solve(upper, posterior.chol.transpose(0, 2, 1)).transpose(0, 2, 1)))
    # μ | Σ ~ N(m, Σ / r)
    noise = generator.standard_normal((K, D, 1)) / np.sqrt(r)[:, None, None]
    return posterior.mean + (chol @ noise)[:, :, 0], chol


def draw_log_weights(concentration: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Draw the logs of weights from the Dirichlet distribution with this concentration, (K,), or of each row of (S, K).

    Weights are gamma variables, divided by their sum. One of a small shape a underflows, but not its log: a variable of
    the shape a + 1 times U^(1/a) has the shape a (G. Marsaglia and W. W. Tsang, "A simple method for generating gamma
    variables", 2000, section 6).
    """
    logs = np.log(generator.standard_gamma(concentration + 1.0))
    logs -= generator.standard_exponential(concentration.shape) / concentration  # -log U is exponential
    log_weights: FloatArray = logs - logsumexp(logs, axis=-1, keepdims=True)
    return log_weights


def log_density(X: ArrayLike, parameters: ClassParameters) -> FloatArray:
    """Return log N(x_t | μ_k, Σ_k), (N, K), of rows (N, D); of components, (N, K·m).

    Raises
    ------
    ValueError
        If the rows' shape doesn't fit.
    """
    D = parameters.means.shape[1]
    q = squared_mahalanobis(as_rows(X, D), parameters.means, parameters.chol)
    log_det = 2.0 * np.log(np.diagonal(parameters.chol, axis1=1, axis2=2)).sum(axis=1)
    density: FloatArray = -0.5 * (D * math.log(2.0 * math.pi) + log_det + q)
    return density


def draw_labels(
    X: ArrayLike,
    parameters: ClassParameters,
    generator: np.random.Generator,
    *,
    log_bias: ArrayLike | None = None,
    use_counts: bool = True,
    temperature: float = 1.0,
    mask: ArrayLike | None = None,
    incomplete: tuple[IntArray, FloatArray] | None = None,
) -> IntArray:
    """Draw the label of each row of a chunk given the parameters of the classes.

    Row t gets label k with probability proportional to exp(log_bias[t, k]) · N(x_t | μ_k, Σ_k)^temperature · w_k, the
    last if counts are used. Where classes have m components each, a label is a component, in 0, …, K·m - 1, and its
    share is a further factor.

    Parameters
    ----------
    X : array_like, shape (N, D)
        Rows.
    parameters : ClassParameters
        Of `draw_parameters`.
    generator : numpy.random.Generator
        That of the chunk: draws N uniforms, also for missing rows.
    log_bias : array_like, shape (N, K), optional
        Added to the scores, typically a log-prior over the classes of each row. -inf forbids a class.
    use_counts : bool
        Whether the scores include the weights, which the counts determine; not where a log-prior replaces them, as in
        :func:`actors.kernels.mixture.gibbs.gibbs`.
    temperature : float
        The exponent of the likelihood.
    mask : array_like of bool, shape (N,), optional
        True for missing rows: they are in no class, and their values (NaN, say) are not used.
    incomplete : tuple of ndarray, shapes (M,) and (M, K·m), optional
        Numbers of the rows in which some values are missing, and the log densities of their observed columns
        (:func:`actors.kernels.mixture.incomplete.log_density_observed`).

    Returns
    -------
    ndarray of int64, shape (N,)
        -1 for missing rows.

    Raises
    ------
    ValueError
        If shapes don't fit, a row that isn't missing is not finite, or log_bias has NaN, +inf or a row without any
        possible class.
    """
    K, D = len(parameters.log_weights), parameters.means.shape[1]
    m = len(parameters.means) // K
    rows = as_rows(X, D)
    missing = as_mask(mask, len(rows))
    check_finite(rows, missing)
    uniforms = generator.random(len(rows))[~missing]
    density = log_density(as_input(rows[~missing]), parameters)
    if incomplete is not None:
        numbers = np.cumsum(~missing) - 1
        density[numbers[incomplete[0]]] = incomplete[1]
    scores = temperature * density
    if use_counts:
        scores += of_components(parameters.log_weights, m)
    if parameters.log_shares is not None:
        scores += parameters.log_shares
    if log_bias is not None:
        scores += of_components(as_bias(log_bias, len(rows), K, missing)[~missing], m)
    labels = np.full(len(rows), -1, dtype=np.int64)
    labels[~missing] = draw_from_scores(scores, uniforms)
    return labels


def draw_from_scores(scores: FloatArray, uniforms: FloatArray) -> IntArray:
    """Draw from the distributions ∝ exp(scores) (N, K) by inversion, one uniform each; a class of zero never."""
    cumulative = np.cumsum(np.exp(scores - scores.max(axis=1, keepdims=True)), axis=1)
    return draw_rows(cumulative, uniforms)
