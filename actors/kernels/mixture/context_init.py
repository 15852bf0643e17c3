"""Initial labels by contexts: many small components, merged into classes by what precedes and follows them.

K classes that are not Gaussian, or many of them, are not found by K centres: one centre covers clumps of two classes,
and two centres share one class. Several times as many components as classes are purer. Which of them are one class is
then what the order of the rows says: given the class, neither the rows before nor those after depend on the component,
so that components of one class have the same distribution of predecessors and of successors (the predictive state of a
hidden Markov model: D. Hsu, S. Kakade and T. Zhang, "A spectral algorithm for learning hidden Markov models", 2012).

The components are a hidden Markov model of their own, learnt by variational Bayes (D. J. C. MacKay, "Ensemble learning
for hidden Markov models", 1997), since the order separates components that overlap. They are merged pair by pair, each
time the pair that loses the least likelihood of the transitions (N. Slonim and N. Tishby, "Agglomerative information
bottleneck", 1999). The number of classes is given; no label and no shape of the classes enters.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from actors.kernels.markov.inference import compile_kernels as compile_passes
from actors.kernels.markov.inference import forward_backward, neighbour_counts
from actors.kernels.markov.transition_posterior import geometric_mean, transition_bound_term
from actors.kernels.mixture.niw import NIWPrior, log_marginal_likelihood
from actors.kernels.mixture.scatter import compile_kernels as compile_scatter
from actors.kernels.mixture.sequence_init import ORDER_SIGNIFICANCE, kmeans_labels
from actors.kernels.mixture.variational import (
    expected_log_density,
    one_hot_responsibilities,
    posterior_from_responsibilities,
    variational_bayes,
)
from actors.kernels.sequences import boundaries
from actors.kernels.special import chdtrc, xlogy
from actors.kernels.types import FloatArray, IntArray

COMPONENTS_PER_CLASS = (4, 3, 5, 4)
"""Components per class, per chain in turn."""

MAX_COMPONENTS = 600
"""Most components: the seconds of merging grow with the cube of their number."""

MIN_ROWS_PER_COMPONENT = 10
"""Fewer rows do not tell the context of a component."""

RESTARTS = 3
"""Sets of components; the one with the largest evidence bound is merged."""

MIXTURE_ITERATIONS = 10
"""Iterations of variational Bayes for the components, before the order counts."""

CHAIN_ITERATIONS = 10
"""Iterations in which the order counts."""

ALPHA = 0.1
"""Pseudo-count of a component and of a transition."""


class Components(NamedTuple):
    """Over-split components, as a hidden Markov model.

    Attributes
    ----------
    responsibilities : ndarray (N, M) float64
        P(component | all rows).
    transitions : ndarray (M, M) float64
        Expected number of transitions.
    bound : float
        Lower bound of the log evidence of the rows.
    """

    responsibilities: FloatArray
    transitions: FloatArray
    bound: float


def labels_from_contexts(
    X: FloatArray,
    classes: int,
    generator: np.random.Generator,
    *,
    per_class: int = COMPONENTS_PER_CLASS[0],
    restarts: int = RESTARTS,
    lengths: npt.ArrayLike | None = None,
) -> IntArray:
    """Return initial labels (N,) int64: over-split components, merged by their predecessors and successors.

    Where the components of neighbours are independent, or the rows too few for more components than classes, contexts
    say nothing; the labels are then those of k-means.

    Parameters
    ----------
    X : ndarray (N, D) float64
        Rows in sequential order; each column varies.
    classes : int
    generator : numpy.random.Generator
    per_class : int
        Components per class, as far as :data:`MIN_ROWS_PER_COMPONENT` and :data:`MAX_COMPONENTS` allow.
    restarts : int
        Sets of components; the one with the largest evidence bound is merged.
    lengths : array_like of int (S,), optional
        Lengths of the sequences; they sum to N.

    Raises
    ------
    ValueError
        If there are fewer rows than classes.
    """
    N = len(X)
    if classes > N:
        raise ValueError(f"{N} rows cannot start {classes} classes")
    M = min(per_class * classes, MAX_COMPONENTS, N // MIN_ROWS_PER_COMPONENT)
    best: Components | None = None
    for _ in range(restarts if classes < M else 0):
        found = over_split(X, M, generator, lengths)
        if found is not None and (best is None or found.bound > best.bound):
            best = found
    if best is None:
        return kmeans_labels(X, classes, generator, restarts=restarts)
    groups = merge_by_contexts(np.hstack([best.transitions, best.transitions.T]), classes)
    of_classes = best.responsibilities @ one_hot_responsibilities(groups, classes)
    labels: IntArray = of_classes.argmax(axis=1).astype(np.int64)
    return labels


def over_split(
    X: FloatArray, components: int, generator: np.random.Generator, lengths: npt.ArrayLike | None = None
) -> Components | None:
    """Return a hidden Markov model of Gaussian components; None if neighbours' components are independent.

    The emissions have the prior that ``prior_scale: data`` gives M classes.

    Parameters
    ----------
    X : ndarray (N, D) float64
        Rows in sequential order.
    components : int
        M.
    generator : numpy.random.Generator
        Draws the start of k-means.
    lengths : array_like of int (S,), optional
        Lengths of the sequences.
    """
    N, D = X.shape
    variance = X.var(axis=0)
    variance = np.where(variance > 0.0, variance, 1.0)
    prior = NIWPrior(X.mean(axis=0), 1.0, D + 2.0, variance * components ** (-2.0 / D))
    labels = kmeans_labels(X / np.sqrt(variance), components, generator, restarts=1)
    soft, factors, _ = variational_bayes(
        X, one_hot_responsibilities(labels, components), prior, ALPHA, MIXTURE_ITERATIONS
    )
    starts = boundaries(N, lengths)
    if not neighbours_depend(neighbour_counts(one_hot_responsibilities(soft.argmax(axis=1), components), starts)):
        return None
    counts, uniform, bound = neighbour_counts(soft, starts), np.full(components, 1.0 / components), -np.inf
    for _ in range(CHAIN_ITERATIONS):
        density, chain = expected_log_density(X, factors, prior), geometric_mean(counts, ALPHA)
        passes = forward_backward(density, chain, uniform, lengths)
        soft, counts = passes.posterior, passes.transitions
        factors = posterior_from_responsibilities(X, soft, prior)
        # The bound of the rows: of the labels given densities and transitions, and of what these are learnt from.
        bound = passes.log_likelihood - float((soft * density).sum())
        bound += float(log_marginal_likelihood(factors, prior).sum()) + transition_bound_term(counts, chain, ALPHA)
    return Components(soft, counts, bound)


def neighbours_depend(counts: FloatArray) -> bool:
    """Return whether a table (M, M) of neighbours' components shows more dependence than by chance.

    Pearson's test of independence, with (M - 1)² degrees of freedom, M the components that occur (M. S. Bartlett, "The
    frequency goodness of fit test for probability chains", 1951, for rows that are neighbours).
    """
    first, second = counts.sum(axis=1), counts.sum(axis=0)
    table = counts[np.ix_(first > 0.0, second > 0.0)]
    expected = np.outer(first[first > 0.0], second[second > 0.0]) / counts.sum()
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if freedom < 1:
        return False
    statistic = float((np.square(table - expected) / expected).sum())
    return bool(chdtrc(freedom, statistic) < ORDER_SIGNIFICANCE)  # the upper tail of chi-squared


def merge_by_contexts(contexts: FloatArray, classes: int) -> IntArray:
    """Return the class (M,) int64 of each component, from how often it occurs in each context.

    Of all pairs, the one is merged for which the log-likelihood of the contexts falls the least: by n_a + n_b times the
    Jensen-Shannon divergence of their distributions, weighted by n_a and n_b. A component without rows costs nothing.

    Parameters
    ----------
    contexts : ndarray (M, Q) float64
        Counts, not negative. The columns may be several sets of contexts side by side.
    classes : int
        K, at most M.

    Notes
    -----
    M³ logarithms for a number of contexts that grows with M; each merge costs M Q.
    """
    counts = np.array(contexts, dtype=np.float64)
    M = len(counts)
    groups, merged = np.arange(M), np.zeros(M, dtype=np.bool_)
    own = _log_likelihood(counts)
    losses = np.full((M, M), np.inf)  # above the diagonal
    for a in range(M - 1):
        losses[a, a + 1 :] = own[a] + own[a + 1 :] - _log_likelihood(counts[a] + counts[a + 1 :])
    for _ in range(M - classes):
        kept, freed = (int(i) for i in np.unravel_index(losses.argmin(), losses.shape))
        counts[kept] += counts[freed]
        own[kept] = _log_likelihood(counts[kept])
        groups[groups == freed], merged[freed] = kept, True
        losses[freed], losses[:, freed] = np.inf, np.inf
        others = np.flatnonzero(~merged & (np.arange(M) != kept))
        loss = own[kept] + own[others] - _log_likelihood(counts[kept] + counts[others])
        losses[np.minimum(kept, others), np.maximum(kept, others)] = loss
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _log_likelihood(counts: FloatArray) -> FloatArray:
    """Return Σ_q n_q log(n_q / n) of counts (…, Q), the largest log-likelihood of a categorical distribution."""
    total = counts.sum(axis=-1)
    largest: FloatArray = xlogy(counts, counts).sum(axis=-1) - xlogy(total, total)
    return largest


def compile_kernels() -> None:
    """Compile the kernels that a start by contexts calls, or load them from the cache."""
    compile_scatter()
    compile_passes()
