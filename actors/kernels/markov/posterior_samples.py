"""Draw transitions and durations of Markov models from their posterior, by Gibbs sampling.

Each sweep draws the classes of all rows at once given the parameters (backward filtering, forward sampling), and then
the parameters given these classes, from conjugate posteriors. Unlike posteriors given *expected* counts, the draws
contain what is unknown of the classes themselves, so that intervals hold where classes overlap.

Sources: S. L. Scott, "Bayesian methods for hidden Markov models", JASA 97, 2002; M. J. Johnson and A. S. Willsky,
"Bayesian nonparametric hidden semi-Markov models", JMLR 14, 2013, section 4 (segments; the censored last one has the
rest of its duration drawn as well).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.log_rows import log_sum_exp
from actors.kernels.markov.durations import Family, draw_durations
from actors.kernels.markov.inference import known_evidence, logarithm
from actors.kernels.markov.segment_passes import (
    SegmentCounts,
    SegmentMessages,
    SegmentWeights,
    sample_segments,
)
from actors.kernels.markov.semi_markov import segment_weights
from actors.kernels.types import Array, FloatArray, IntArray

BURN_IN = 0.25
"""Share of the draws, before those that are kept, that are left out: they begin at what was learnt, near the mode."""


class Draws(NamedTuple):
    """Draws from the posterior.

    Attributes
    ----------
    transitions : ndarray (M, K, K) float64
        Probabilities.
    mean_durations : ndarray (M, K) float64, or None
        Rows, for a model with explicit durations.
    """

    transitions: FloatArray
    mean_durations: FloatArray | None = None


class SegmentPriors(NamedTuple):
    """Priors of a semi-Markov model.

    Attributes
    ----------
    alpha : float
        Pseudo-count of each transition and, if they are learnt, of first classes.
    initial : bool
        Whether the distribution of first classes is learnt; otherwise it stays as it is.
    family : {"poisson", "negative_binomial"}
    timescale : float
        The prior mean of the durations less one.
    """

    alpha: float
    initial: bool
    family: Family
    timescale: float


def interval(draws: FloatArray, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Return the bounds of the central interval of draws (M, …)."""
    low, high = np.quantile(draws, (0.5 - level / 2.0, 0.5 + level / 2.0), axis=0)
    return low, high


def draw_chains(
    log_evidence: FloatArray,
    transitions: FloatArray,
    initial: FloatArray,
    prior: FloatArray,
    draws: int,
    generator: np.random.Generator,
    *,
    initial_alpha: float | None = None,
    lengths: Array | None = None,
    mask: Array | None = None,
) -> Draws:
    """Draw the transition matrix of a first-order chain.

    Parameters
    ----------
    log_evidence : ndarray (N, K) float64
        Log-likelihoods of the rows, up to a constant per row.
    transitions, initial : ndarray (K, K), (K,) float64
        Where to begin.
    prior : ndarray (K, K) float64
        Pseudo-counts, > 0.
    draws : int
        M; a quarter as many are drawn and left out before.
    generator : numpy.random.Generator
    initial_alpha : float, optional
        Pseudo-count of first classes; by default their distribution stays as it is.
    lengths, mask
        As for :func:`actors.kernels.markov.inference.forward_backward`.
    """
    evidence, starts = known_evidence(log_evidence, lengths, mask)
    likelihood = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    backward, kept = np.empty_like(likelihood), []
    for number in range(left_out(draws) + draws):
        counts, first = np.zeros_like(transitions), np.zeros_like(initial)
        uniforms = generator.random(len(evidence))
        if not sample_chain(likelihood, transitions, initial, starts, uniforms, backward, counts, first):
            raise ValueError("a sequence has probability zero under transitions that were drawn")
        transitions = np.exp(log_dirichlet(counts + prior, generator))
        if initial_alpha is not None:
            initial = np.exp(log_dirichlet(first[None] + initial_alpha, generator))[0]
        if number >= left_out(draws):
            kept.append(transitions)
    return Draws(np.array(kept))


def draw_semi_markov(
    log_evidence: FloatArray,
    weights: SegmentWeights,
    priors: SegmentPriors,
    draws: int,
    generator: np.random.Generator,
    *,
    lengths: Array | None = None,
    mask: Array | None = None,
) -> Draws:
    """Draw transitions and mean durations of a semi-Markov model.

    Parameters
    ----------
    log_evidence : ndarray (N, K) float64
    weights : SegmentWeights
        Where to begin.
    priors : SegmentPriors
    draws, generator, lengths, mask
        As for :func:`draw_chains`.
    """
    rows, starts = known_evidence(log_evidence, lengths, mask)
    evidence = np.ascontiguousarray(rows.T)
    messages = SegmentMessages(*(np.full(evidence.shape, -np.inf) for _ in range(3)))
    K, D = weights.durations.shape
    off, transitions, means = ~np.eye(K, dtype=bool), [], []
    for number in range(left_out(draws) + draws):
        counts = SegmentCounts(np.zeros((K, K)), np.zeros(K), np.zeros((K, D)), np.zeros((K, D)))
        uniforms = generator.random(2 * (len(rows) + len(starts)))
        if not sample_segments(evidence, weights, starts, uniforms, messages, counts):
            raise ValueError("a sequence has probability zero under parameters that were drawn")
        log_transitions = np.zeros((1, 1))
        if K > 1:
            log_transitions = np.full((K, K), -np.inf)
            of_others = counts.transitions[off].reshape(K, K - 1) + priors.alpha
            log_transitions[off] = log_dirichlet(of_others, generator).ravel()
        initial = weights.initial
        if priors.initial:
            initial = log_dirichlet(counts.initial[None] + priors.alpha, generator)[0]
        durations, of_durations = draw_durations(priors.family, counts.durations, priors.timescale, generator)
        weights = segment_weights(log_transitions, initial, durations)
        if number >= left_out(draws):
            transitions.append(np.exp(log_transitions))
            means.append(of_durations)
    return Draws(np.array(transitions), np.array(means))


def left_out(draws: int) -> int:
    """Return the number of draws before those that are kept."""
    return math.ceil(BURN_IN * draws)


def log_dirichlet(alpha: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Draw log-probabilities (R, K) from Dirichlet distributions; small parameters do not underflow.

    A draw of Gamma(a) is one of Gamma(a + 1) times U^(1/a) (G. Marsaglia and W. W. Tsang, 2000).
    """
    logs = np.log(generator.standard_gamma(alpha + 1.0)) - generator.standard_exponential(alpha.shape) / alpha
    normalised: FloatArray = logs - log_sum_exp(np.ascontiguousarray(logs))[:, None]
    return normalised


@kernel
def sample_chain(
    likelihood: FloatArray,
    transitions: FloatArray,
    initial: FloatArray,
    starts: IntArray,
    uniforms: FloatArray,
    backward: FloatArray,
    counts: FloatArray,
    first_classes: FloatArray,
) -> bool:
    """Draw the classes of all rows (N, K) and add their transitions and first classes to the counts.

    `backward` (N, K) is overwritten: p(row t and all after it | z_t = k), relative to the largest. Returns False where
    a sequence is impossible.
    """
    K = likelihood.shape[1]
    weights = np.empty(K)
    for s in range(starts.shape[0] - 1):
        first, end = starts[s], starts[s + 1]
        for t in range(end - 1, first - 1, -1):
            top = 0.0
            for i in range(K):
                follows = 1.0
                if t < end - 1:
                    follows = 0.0
                    for j in range(K):
                        follows += transitions[i, j] * backward[t + 1, j]
                backward[t, i] = likelihood[t, i] * follows
                top = max(top, backward[t, i])
            if not top > 0.0:
                return False
            for i in range(K):
                backward[t, i] /= top
        before = -1
        for t in range(first, end):
            total = 0.0
            for j in range(K):
                weights[j] = backward[t, j] * (initial[j] if before < 0 else transitions[before, j])
                total += weights[j]
            if not total > 0.0:
                return False
            threshold, k = uniforms[t] * total, 0
            while k < K - 1 and (threshold >= weights[k] or weights[k] == 0.0):
                threshold -= weights[k]
                k += 1
            while weights[k] == 0.0:  # rounding may have passed the last possible class
                k -= 1
            if before < 0:
                first_classes[k] += 1.0
            else:
                counts[before, k] += 1.0
            before = k
    return True


def compile_kernels() -> None:
    """Compile the kernels that this module calls, or load them from the cache."""
    generator, evidence, half = np.random.default_rng(0), np.zeros((3, 2)), np.full((2, 2), 0.5)
    draw_chains(evidence, half, half[0], half, 1, generator)
    weights = segment_weights(logarithm(1.0 - np.eye(2)), np.log(half[0]), np.log(half))
    draw_semi_markov(evidence, weights, SegmentPriors(1.0, False, "poisson", 1.0), 1, generator)
