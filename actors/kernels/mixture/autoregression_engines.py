"""Both engines of the autoregressive mixture: variational Bayes, and Gibbs sampling of parameters and labels in turn.

Rows may lack some of their values, which are then further latent variables
(:mod:`actors.kernels.mixture.incomplete_series`). Names and shapes are those of
:mod:`actors.kernels.mixture.autoregression`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from actors.kernels.log_rows import softmax_of_rows
from actors.kernels.mixture import incomplete_series
from actors.kernels.mixture.autoregression import (
    Classes,
    MNIWPrior,
    Prior,
    Series,
    draw_parameters,
    evidence_lower_bound,
    log_density,
    series,
    simulate,
)
from actors.kernels.mixture.blocked_gibbs import draw_from_scores, draw_log_weights
from actors.kernels.mixture.incomplete import MAX_ITERATIONS
from actors.kernels.mixture.incomplete_series import Values
from actors.kernels.mixture.niw import NIWPrior
from actors.kernels.mixture.variational import MIN_RISE, expected_log_scores, one_hot_responsibilities
from actors.kernels.special import entr
from actors.kernels.types import FloatArray, IntArray


def variational_bayes(
    data: Series,
    responsibilities: FloatArray,
    prior: Prior,
    alpha: float,
    iterations: int,
    *,
    log_prior: FloatArray | None = None,
    use_weights: bool = False,
    temperature: float = 1.0,
    values: Values | None = None,
    on_iteration: Callable[[int, float], object] | None = None,
) -> tuple[FloatArray, Classes, float]:
    """Run iterations that update first the responsibilities given the classes, then the classes given these.

    Parameters
    ----------
    data : Series
    responsibilities : ndarray of float64, shape (N, K)
        Initial ones, not changed; those of missing rows are not read.
    prior : Prior
    alpha : float
        Concentration of the symmetric Dirichlet prior of the weights, > 0.
    iterations : int
        The maximum; fewer if the bound stops rising. With 0 the classes follow from the responsibilities.
    log_prior : ndarray of float64, shape (N, K), optional
        Log-priors of the classes of each row, which replace the weights. -inf forbids a class.
    use_weights : bool
        Whether the weights multiply `log_prior`, if there is any, instead.
    temperature : float
        The exponent of the likelihood.
    values : Values, optional
        The rows of `data`, some of which lack values; changed to what is expected of these in the end.
    on_iteration : callable, optional
        Called after each iteration with (iterations done, the objective at this temperature, which never falls).

    Returns
    -------
    responsibilities : ndarray of float64, shape (N, K)
        Zeros for missing rows.
    classes : Classes
    bound : float
        Lower bound of the log evidence of the rows that are not missing, at temperature 1.

    Raises
    ------
    ValueError
        If a class's scale gets singular.
    """
    values = Values(data) if values is None else values
    r = np.where(data.present[:, None], responsibilities, 0.0)
    bias = None if log_prior is None else np.where(data.present[:, None], log_prior, 0.0)
    classes, before = values.given_labels(r, prior), -math.inf
    for done in range(1, iterations + 1):
        class_scores = expected_log_scores(classes.counts, alpha, bias, use_weights=use_weights)
        r = softmax_of_rows(class_scores + temperature * values.expected_log_density(classes, prior))
        r[~data.present] = 0.0
        values.expect(r, classes, prior)
        classes = values.classes(r, prior)
        objective = temperature * values.entropy + evidence_lower_bound(
            r, classes, prior, alpha, log_prior=bias, temperature=temperature, use_weights=use_weights
        )
        if on_iteration is not None:
            on_iteration(done, objective)
        if objective - before < MIN_RISE * data.present.sum():
            break
        before = objective
    bound = evidence_lower_bound(r, classes, prior, alpha, log_prior=bias, use_weights=use_weights)
    return r, classes, bound + values.entropy


def responsibilities_given(
    values: Values, classes: Classes, prior: Prior, scores: FloatArray, temperature: float = 1.0
) -> FloatArray:
    """Return the responsibilities (N, K) of rows given classes, zeros for missing rows; `values` get what is expected.

    Where rows lack values, these are variational Bayes with fixed classes.

    Parameters
    ----------
    values : Values
    classes : Classes
    prior : Prior
    scores : ndarray of float64, shape (N, K)
        Log-priors of the classes of each row, finite or -inf.
    temperature : float
        The exponent of the likelihood.

    Raises
    ------
    ValueError
        If the distribution of the missing values is not determined in float64.
    """
    present = values.data.present
    r, before = np.where(present[:, None], softmax_of_rows(scores), 0.0), -math.inf
    for _ in range(MAX_ITERATIONS):
        values.expect(r, classes, prior)
        likelihood = temperature * values.expected_log_density(classes, prior)
        r = np.where(present[:, None], softmax_of_rows(scores + likelihood), 0.0)
        terms = np.zeros_like(r)
        np.multiply(r, scores + likelihood, out=terms, where=r > 0.0)
        objective = float(terms.sum() + entr(r).sum()) + temperature * values.entropy
        if values.gaps is None or objective - before < MIN_RISE * len(r):
            break
        before = objective
    return r


def blocked_gibbs(
    data: Series,
    labels: IntArray,
    prior: Prior,
    alpha: float,
    iterations: int,
    generator: np.random.Generator,
    *,
    K: int,
    log_prior: FloatArray | None = None,
    use_weights: bool = False,
    temperature: float = 1.0,
    values: Values | None = None,
    on_sweep: Callable[[int, int], object] | None = None,
) -> tuple[IntArray, Classes]:
    """Draw the parameters of all classes given the labels, then all labels given these, `iterations` times.

    Given the rows, which are the regressors of others, labels are independent under these parameters: the sampler is
    that of :mod:`actors.kernels.mixture.blocked_gibbs`. At a temperature τ the likelihood of a label has the exponent
    τ. A `log_prior` (N, K) replaces the weights of the classes; with `use_weights` they multiply. What the
    rows of `values` lack is drawn before the labels; in the end they have what is expected of it given the last labels.

    Returns
    -------
    labels : ndarray of int64, shape (N,)
        -1 for missing rows.
    classes : Classes
        Given these labels.

    Raises
    ------
    ValueError
        If a class's scale gets singular.
    """
    values = Values(data) if values is None else values
    z = np.where(data.present, labels, -1)
    classes = values.given_labels(one_hot_responsibilities(z, K), prior)
    for done in range(1, iterations + 1):
        drawn = draw_parameters(classes, prior, generator)
        values.draw(z, drawn, generator)
        log_weights = draw_log_weights(alpha + classes.counts, generator)
        scores = temperature * log_density(values.data, drawn)
        if log_prior is None or use_weights:
            scores += log_weights
        if log_prior is not None:
            scores += log_prior
        uniforms = generator.random(len(z))
        before, z = z, np.full(len(z), -1)
        z[data.present] = draw_from_scores(scores[data.present], uniforms[data.present])
        classes = values.classes(one_hot_responsibilities(z, K), prior)
        if on_sweep is not None:
            on_sweep(done, int((z != before).sum()))
    return z, classes if values.gaps is None else values.given_labels(one_hot_responsibilities(z, K), prior)


def compile_kernels() -> None:
    """Compile the kernels, or load them from the cache, for the types they are called with."""
    data = series(np.array([[0.0], [1.0], [0.5]]), np.zeros(3, np.bool_), np.array([0, 3]), 1)
    dynamics = MNIWPrior(np.zeros((1, 2)), np.ones(2), 3.0, np.eye(1))
    prior = Prior(dynamics, NIWPrior(np.zeros(1), 1.0, 3.0, np.eye(1)), np.zeros(1))
    _, classes, _ = variational_bayes(data, np.ones((3, 1)), prior, 1.0, 1)
    drawn = draw_parameters(classes, prior, np.random.default_rng(0))
    simulate(np.zeros(3, np.int64), *drawn, np.zeros((3, 1)))
    incomplete_series.compile_kernels()
