"""The inference methods of the GMM: Gibbs sampling of the labels, collapsed or blocked, and variational Bayes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from actors.kernels.mixture.blocked_gibbs import (
    draw_given_posterior,
    draw_labels,
)
from actors.kernels.mixture.class_components import class_densities, loo_log_shares
from actors.kernels.mixture.context_init import COMPONENTS_PER_CLASS, labels_from_contexts
from actors.kernels.mixture.gibbs import gibbs
from actors.kernels.mixture.incomplete import (
    Incomplete,
    draw_missing_values,
    log_density_observed,
    log_predictive_loo_observed,
    posterior_given_labels,
    soft_loo_observed,
)
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, posterior_from_labels
from actors.kernels.mixture.sequence_init import (
    STARTS,
    kmeans_labels,
    labels_from_sequence,
    neighbours_correlate,
)
from actors.kernels.mixture.variational import (
    most_probable_labels,
    one_hot_responsibilities,
    soft_log_predictive_loo,
    variational_bayes,
)
from actors.module import Context
from actors.types import BoolArray, FloatArray, IntArray

Engine = Literal["gibbs", "vb", "blocked-gibbs"]
Start = Literal["auto", "random", "kmeans", "sequence", "contexts"]

KMEANS_RESTARTS = 10
"""Runs of k-means; a single one merges two clear classes in some starts."""


class MixtureParameters(Protocol):
    """The parameters that every mixture has; see :class:`actors.modules.mixture.gmm.GMM`."""

    @property
    def iterations(self) -> int:
        """Sweeps per update."""

    @property
    def alpha(self) -> float:
        """Pseudo-count of a class, or the concentration."""

    @property
    def prior_count(self) -> float:
        """Number of rows that the prior mean counts for."""

    @property
    def degrees(self) -> float | None:
        """Degrees of freedom."""

    @property
    def prior_scale(self) -> float | Literal["data"]:
        """Scale of the prior."""

    @property
    def burn_in(self) -> int:
        """Additional sweeps in the first update."""

    @property
    def calibrate(self) -> bool:
        """Whether the likelihood is calibrated."""


class Assignment(NamedTuple):
    """The assignment of rows to classes.

    Attributes
    ----------
    labels : ndarray of int64, shape (N,)
        -1 for a row without a class.
    responsibilities : ndarray of float64, shape (N, K), or None
        The soft assignment, where the engine infers one; the labels are its argmax. If classes have m components each,
        both are of the components, K·m in all.
    """

    labels: IntArray
    responsibilities: FloatArray | None = None


@dataclass(frozen=True)
class FitProblem:
    """The data and settings of one update, for N rows of dimension D; the parameters are those of the GMM.

    Parameters
    ----------
    rows : ndarray (N, D) float64
    missing : ndarray (N,) of bool
        True for missing rows.
    log_prior : ndarray (N, K) float64, optional
        The product of the priors from above; rows are log-distributions.
    prior : NIWPrior
        Normal-inverse-Wishart prior of the classes.
    classes : int
        K.
    alpha : float
    iterations : int
    use_counts : bool
        Whether the weights of the classes enter the posterior of a label.
    temperature : float
        The power of the likelihood.
    incomplete : Incomplete, optional
        The rows with some missing values, in the place of which `rows` has the mean of the column.
    known : ndarray of int64 (N,), optional
        The classes that labels name, -1 for rows without a label; they are in `log_prior`, too.
    components : int
        m, the components of each class; more than one not with the collapsed sampler.
    above, told : ndarray (N, K) float64, optional
        The factors of `log_prior`: the product of the priors from above, and log p(label | class).
    """

    rows: FloatArray
    missing: BoolArray
    log_prior: FloatArray | None
    prior: NIWPrior
    classes: int
    alpha: float
    iterations: int
    use_counts: bool
    temperature: float
    incomplete: Incomplete | None = None
    known: IntArray | None = None
    components: int = 1
    above: FloatArray | None = None
    told: FloatArray | None = None


class FitResult(NamedTuple):
    """The result of one update: assignment, its factors, the leave-one-out log-likelihood (N, K), and metrics.

    `log_within` (N, K·m), log p(component | class, row), is there if classes have several components.
    """

    assignment: Assignment
    factors: NIWPosterior
    loo_log_likelihood: FloatArray
    metrics: Mapping[str, float]
    log_within: FloatArray | None = None


def initial_assignment(
    start: Start, rows: FloatArray, classes: int, lengths: npt.ArrayLike | None, context: Context
) -> Assignment:
    """Return the assignment that the first update starts from.

    Parameters
    ----------
    start : {"auto", "random", "kmeans", "sequence", "contexts"}
        As in :class:`actors.modules.mixture.gmm.GMM`, with ``rule: extrinsic``.
    rows : ndarray (N, D) float64
        Finite.
    classes : int
        K.
    lengths : array_like of int (S,), optional
        Lengths of the sequences.
    context : Context

    Raises
    ------
    ValueError
        If there are too few rows for this start.
    """
    if start == "random":
        return Assignment(context.generator.integers(0, classes, len(rows)))
    # Chains differ in window and features, so that they start from different labels.
    window, products = STARTS[context.chain % len(STARTS)]
    if start == "auto":
        ordered = context.order_above and len(rows) > 1
        ordered = ordered and neighbours_correlate(rows, window=STARTS[0][0], products=False, lengths=lengths)
        start = "sequence" if ordered else "kmeans"
    if start == "contexts":
        per_class = COMPONENTS_PER_CLASS[context.chain % len(COMPONENTS_PER_CLASS)]
        found = labels_from_contexts(rows, classes, context.generator, per_class=per_class, lengths=lengths)
        return Assignment(found)
    if start == "kmeans":
        return Assignment(kmeans_labels(rows, classes, context.generator, restarts=KMEANS_RESTARTS))
    return Assignment(
        labels_from_sequence(rows, classes, context.generator, window=window, products=products, lengths=lengths)
    )


def fit_gibbs(problem: FitProblem, start: Assignment, context: Context) -> FitResult:
    """Learn by collapsed Gibbs sampling (:mod:`actors.kernels.mixture.gibbs`).

    Raises
    ------
    ValueError
        If the kernel rejects its input.
    """
    labels, factors = gibbs(
        problem.rows,
        start.labels,
        problem.classes,
        problem.prior,
        problem.alpha,
        problem.iterations,
        context.generator,
        log_bias=problem.log_prior,
        use_counts=problem.use_counts,
        temperature=problem.temperature,
        mask=problem.missing,
        incomplete=problem.incomplete,
        on_sweep=lambda done, moved: context.report(done, problem.iterations, moved=float(moved)),
    )
    loo_log_likelihood = log_predictive_loo_observed(problem.rows, labels, problem.incomplete, factors, problem.prior)
    return FitResult(Assignment(labels), factors, loo_log_likelihood, {})


def fit_variational(problem: FitProblem, start: Assignment, context: Context) -> FitResult:
    """Learn by variational Bayes (:mod:`actors.kernels.mixture.variational`); class weights enter only without a prior.

    Raises
    ------
    ValueError
        If the kernel rejects its input.
    """
    soft, m = start.responsibilities, problem.components
    if soft is None:
        soft = one_hot_responsibilities(start.labels, problem.classes * m)
    responsibilities, factors, bound = variational_bayes(
        problem.rows,
        soft,
        problem.prior,
        problem.alpha,
        problem.iterations,
        log_bias=problem.log_prior,
        temperature=problem.temperature,
        use_weights=problem.use_counts,
        mask=problem.missing,
        incomplete=problem.incomplete,
        components=m,
        on_iteration=lambda done, objective: context.report(done, problem.iterations, objective=objective),
    )
    loo_log_likelihood = soft_log_predictive_loo(problem.rows, responsibilities, factors, problem.prior)
    if problem.incomplete is not None:
        loo_log_likelihood = soft_loo_observed(
            problem.rows, loo_log_likelihood, responsibilities, problem.incomplete, factors, problem.prior
        )
    loo_log_likelihood, log_within = _of_classes(problem, loo_log_likelihood, responsibilities, factors)
    # Without an iteration a row can stay in a class that its prior excludes: the bound is -inf, which is no metric.
    metrics = {} if bound == -np.inf else {"bound": bound}
    assignment = Assignment(most_probable_labels(responsibilities), responsibilities)
    return FitResult(assignment, factors, loo_log_likelihood, metrics, log_within)


def fit_blocked_gibbs(problem: FitProblem, start: Assignment, context: Context) -> FitResult:
    """Learn by drawing parameters and labels in turn (:mod:`actors.kernels.mixture.blocked_gibbs`).

    Raises
    ------
    ValueError
        If the kernel rejects its input.
    """
    rows, incomplete = problem.rows, problem.incomplete
    labels = np.where(problem.missing, -1, start.labels)
    factors = _posterior_of_labels(problem, labels)
    for done in range(1, problem.iterations + 1):
        drawn = draw_given_posterior(
            *(factors, problem.prior, problem.alpha, context.generator),
            temperature=problem.temperature,
            components=problem.components,
        )
        densities = None
        if incomplete is not None:
            densities = (incomplete.rows, log_density_observed(rows, incomplete, drawn.means, drawn.chol))
        before, labels = (
            labels,
            draw_labels(
                rows,
                drawn,
                context.generator,
                log_bias=problem.log_prior,
                use_counts=problem.use_counts,
                temperature=problem.temperature,
                mask=problem.missing,
                incomplete=densities,
            ),
        )
        if incomplete is not None:
            rows = draw_missing_values(rows, labels, incomplete, drawn.means, drawn.chol, context.generator)
        factors = posterior_from_labels(rows, labels, problem.classes * problem.components, problem.prior)
        context.report(done, problem.iterations, moved=float((labels != before).sum()))
    factors = factors if incomplete is None else _posterior_of_labels(problem, labels)
    loo_log_likelihood = log_predictive_loo_observed(problem.rows, labels, problem.incomplete, factors, problem.prior)
    own = one_hot_responsibilities(labels, factors.counts.size)
    loo_log_likelihood, log_within = _of_classes(problem, loo_log_likelihood, own, factors)
    return FitResult(Assignment(labels), factors, loo_log_likelihood, {}, log_within)


def _posterior_of_labels(problem: FitProblem, labels: IntArray) -> NIWPosterior:
    """Return the posterior given the labels, with what it expects of missing values."""
    gaussians = problem.classes * problem.components
    if problem.incomplete is None:
        return posterior_from_labels(problem.rows, labels, gaussians, problem.prior)
    return posterior_given_labels(problem.rows, labels, gaussians, problem.incomplete, problem.prior)


def _of_classes(
    problem: FitProblem, loo: FloatArray, responsibilities: FloatArray, factors: NIWPosterior
) -> tuple[FloatArray, FloatArray | None]:
    """Return leave-one-out densities (N, K) from those of components (N, K·m), and `FitResult.log_within`."""
    if problem.components == 1:
        return loo, None
    shares = loo_log_shares(responsibilities, factors.counts, problem.components, problem.alpha)
    return class_densities(loo + shares, problem.components)


FitFunction: TypeAlias = Callable[[FitProblem, Assignment, Context], FitResult]
ENGINES: Mapping[Engine, FitFunction] = {"gibbs": fit_gibbs, "vb": fit_variational, "blocked-gibbs": fit_blocked_gibbs}
