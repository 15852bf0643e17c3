"""How long classes last: explicit durations (a hidden semi-Markov model of the rows), and sticky transitions.

What is learnt are expected numbers of segments, of which the posteriors of transitions, first classes and durations
follow. A step of learning infers these numbers under the present weights and takes the weights of the new posteriors
(variational expectation-maximisation; Beal 2003, section 3.4, with segments in the place of rows). With ``estimate:
variational`` the weights are exp E[log p], not normalised, so that no step lowers the evidence bound; with ``mean``
they are the means of the posteriors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from actors.kernels.inversion import draw_class
from actors.kernels.markov.durations import (
    Family,
    duration_bound_term,
    duration_posterior,
    log_normalisers,
    mean_durations,
)
from actors.kernels.markov.inference import PreparedRows, expected_by_model, expected_counts, logarithm
from actors.kernels.markov.posterior_samples import SegmentPriors, draw_semi_markov, interval
from actors.kernels.markov.segment_passes import SegmentWeights
from actors.kernels.markov.semi_markov import SegmentExpectations, SegmentResult, expected_segments, segment_weights
from actors.kernels.markov.transition_posterior import (
    SELF_TRANSITION_PRIORS,
    dirichlet_bound_term,
    dirichlet_log_weights,
)
from actors.kernels.sequences import boundaries
from actors.limits import DEFAULT_MAX_DURATION
from actors.module import Context
from actors.modules.class_posteriors import CombinedPosteriors, normalise_rows
from actors.modules.markov_answers import MarkovParameters
from actors.types import Array, FloatArray, IntArray, State

_log = logging.getLogger(__name__)

TRIAL_STEPS = 3
"""Steps of learning after which priors are compared, at the first update."""

REACHED = 0.01
"""Probability of durations beyond ``max_duration`` from which on the log says so."""


@dataclass(frozen=True, eq=False)
class LearntSegments:
    """Expected numbers of segments, and the prior mean of their durations.

    Attributes
    ----------
    transitions : ndarray (K, K) float64
        Between segments; the diagonal is zero.
    initial : ndarray (K,) float64
        Segments that open a sequence.
    durations : ndarray (K, D) float64
        Segments of 1 to D rows.
    prior_duration : float
        Rows, > 1.
    """

    transitions: FloatArray
    initial: FloatArray
    durations: FloatArray
    prior_duration: float

    def state(self) -> State:
        """Return copies as entries of the module's state."""
        return {
            "segment_transitions": self.transitions.copy(),
            "segment_initial": self.initial.copy(),
            "segment_durations": self.durations.copy(),
            "prior_duration": np.array([self.prior_duration]),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> LearntSegments | None:
        """Return what a state holds; None if nothing was learnt."""
        if "segment_durations" not in state:
            return None
        transitions, initial, durations = (state[f"segment_{name}"] for name in ("transitions", "initial", "durations"))
        return cls(transitions, initial, durations, float(state["prior_duration"][0]))


def family_of(parameters: MarkovParameters) -> Family:
    """Return the distribution of durations that is not geometric."""
    assert parameters.durations != "geometric"
    return parameters.durations


def max_duration_for(parameters: MarkovParameters, rows: int, lengths: Array | None) -> int:
    """Return D: by default the rows of the longest sequence, at most :data:`DEFAULT_MAX_DURATION`."""
    longest = int(np.diff(boundaries(rows, lengths)).max())
    return min(longest, DEFAULT_MAX_DURATION if parameters.max_duration is None else parameters.max_duration)


def learning_weights(learnt: LearntSegments, parameters: MarkovParameters) -> SegmentWeights:
    """Return the weights with which rows are inferred while the model learns."""
    transitions, initial = _class_weights(learnt, parameters)
    posterior = duration_posterior(family_of(parameters), learnt.durations, learnt.prior_duration - 1.0)
    variational = parameters.estimate == "variational"
    return segment_weights(transitions, initial, posterior.log_weights if variational else posterior.log_predictive)


def probabilities(learnt: LearntSegments, parameters: MarkovParameters) -> SegmentWeights:
    """Return the weights normalised to probabilities, with which new rows are inferred and rows are drawn."""
    weights = learning_weights(learnt, parameters)
    initial = normalise_rows(weights.initial[None])[0]
    return segment_weights(normalise_rows(weights.transitions), initial, normalise_rows(weights.durations))


def _class_weights(learnt: LearntSegments, parameters: MarkovParameters) -> tuple[FloatArray, FloatArray]:
    """Return the log-weights of transitions (K, K) and of first classes (K,)."""
    weights = _log_means if parameters.estimate == "mean" else dirichlet_log_weights
    K = len(learnt.initial)
    transitions = np.zeros((1, 1))  # segments of the only class follow each other
    if K > 1:
        transitions = np.full((K, K), -np.inf)
        transitions[~np.eye(K, dtype=bool)] = weights(_others(learnt.transitions), parameters.pseudo_count).ravel()
    if parameters.initial == "uniform":
        return transitions, np.full(K, -np.log(K))
    return transitions, weights(learnt.initial[None], parameters.pseudo_count)[0]


def _log_means(counts: FloatArray, alpha: float) -> FloatArray:
    """Return log E[p] of distributions under Dirichlet(counts + alpha)."""
    return logarithm((counts + alpha) / (counts + alpha).sum(axis=1, keepdims=True))


def _others(matrix: FloatArray) -> FloatArray:
    """Return a matrix (K, K) without its diagonal, (K, K - 1)."""
    K = len(matrix)
    return matrix[~np.eye(K, dtype=bool)].reshape(K, K - 1)


def evidence_bound(
    expected: SegmentExpectations | SegmentResult,
    weights: SegmentWeights,
    prior_duration: float,
    parameters: MarkovParameters,
) -> float:
    """Return the lower bound of the log marginal likelihood of the rows, from what was inferred under `weights`.

    The log-likelihood under the weights, with the terms of the posteriors of transitions, first classes and durations
    given the expected numbers. It holds for any weights.
    """
    alpha, bound = parameters.pseudo_count, expected.log_likelihood
    if len(expected.initial) > 1:
        bound += dirichlet_bound_term(_others(expected.transitions), _others(weights.transitions), alpha)
    if parameters.initial == "learnt":
        bound += dirichlet_bound_term(expected.initial[None], weights.initial[None], alpha)
    posterior = duration_posterior(family_of(parameters), expected.durations, prior_duration - 1.0)
    return bound + duration_bound_term(posterior, expected.durations, weights.durations)


# --- learning -----------------------------------------------------------------------------------------------------


def learn_segments(
    log_prob: FloatArray,
    combined: CombinedPosteriors,
    learnt: LearntSegments | None,
    parameters: MarkovParameters,
    context: Context,
) -> LearntSegments:
    """Return what is known after the steps of an update; `learnt` is None at the first one.

    With ``prior_duration: auto``, the first update begins once from each prior duration of a small grid; the one of
    the largest evidence bound after a few steps continues. Each later step takes the prior duration of the largest
    bound given its expected numbers.
    """
    steps = parameters.inner_iterations if context.learn else 0
    rows = _Rows(log_prob, combined, parameters, context)
    if learnt is not None:
        return rows.learn(learnt, steps)
    D = max_duration_for(parameters, len(log_prob), combined.lengths)
    start = _expected_start(log_prob, combined, D)
    grid = (parameters.prior_duration,) if parameters.prior_duration != "auto" else prior_durations(D)
    trial_steps = steps if len(grid) == 1 else min(TRIAL_STEPS, steps)
    rows.total += (len(grid) - 1) * trial_steps
    trials = [rows.trial(replace(start, prior_duration=float(each)), trial_steps) for each in grid]
    best = max(range(len(grid)), key=lambda number: trials[number][0])
    return rows.learn(trials[best][1], steps - trial_steps)


def prior_durations(longest: int) -> tuple[float, ...]:
    """Return the prior means of durations that are compared: 2, 4, 8, … rows, up to the longest duration."""
    return tuple(2.0**power for power in range(1, max(2, int(np.log2(max(longest, 2))) + 1)))


def _expected_start(log_prob: FloatArray, combined: CombinedPosteriors, longest: int) -> LearntSegments:
    """Return the transitions between classes that are expected if neighbouring rows are independent; no durations."""
    counts = expected_counts(np.exp(log_prob), combined.lengths)
    np.fill_diagonal(counts, 0.0)
    K = len(counts)
    return LearntSegments(counts, np.zeros(K), np.zeros((K, longest)), 2.0)


class _Rows:
    """The rows of an update, and the steps of learning from them.

    Attributes
    ----------
    total : int
        Steps of the update, for its reports.
    """

    def __init__(
        self, log_prob: FloatArray, combined: CombinedPosteriors, parameters: MarkovParameters, context: Context
    ) -> None:
        self._rows = log_prob, combined.lengths, combined.mask
        self._parameters, self._context = parameters, context
        self._done, self.total = 0, parameters.inner_iterations

    def infer(self, weights: SegmentWeights) -> SegmentExpectations:
        """Return the expected numbers of segments."""
        log_prob, lengths, mask = self._rows
        return expected_segments(log_prob, weights, lengths, mask)

    def learn(
        self, learnt: LearntSegments, steps: int, first: SegmentWeights | None = None, *, fixed: bool = False
    ) -> LearntSegments:
        """Return what is known after some steps; the first has other weights if given, `fixed` keeps the prior."""
        for _ in range(steps):
            expected = self.infer(first or learning_weights(learnt, self._parameters))
            first, self._done = None, self._done + 1
            self._context.report(self._done, self.total, log_likelihood=expected.log_likelihood)
            prior_duration = learnt.prior_duration
            if self._parameters.prior_duration == "auto" and not fixed:
                prior_duration = self._best_prior_duration(expected.durations, prior_duration)
            learnt = LearntSegments(expected.transitions, expected.initial, expected.durations, prior_duration)
        return learnt

    def trial(self, start: LearntSegments, steps: int) -> tuple[float, LearntSegments]:
        """Return the evidence bound after some steps from a prior duration, and what is known then.

        The first step has geometric durations of that mean, which exclude no duration: a narrow distribution would
        have to be near the right one.
        """
        weights = learning_weights(start, self._parameters)
        further, leave = np.arange(start.durations.shape[1]), 1.0 / start.prior_duration
        geometric = np.tile(np.log(leave) + further * np.log1p(-leave), (len(start.initial), 1))
        first = segment_weights(weights.transitions, weights.initial, geometric)
        learnt = self.learn(start, steps, first, fixed=True)
        weights = learning_weights(learnt, self._parameters)
        return evidence_bound(self.infer(weights), weights, learnt.prior_duration, self._parameters), learnt

    def _best_prior_duration(self, counts: FloatArray, present: float) -> float:
        """Return the prior duration under which the expected durations have the largest marginal likelihood."""
        family = family_of(self._parameters)

        def log_marginal(each: float) -> float:
            return float(log_normalisers(family, counts, each - 1.0).sum())

        return max((present, *prior_durations(counts.shape[1])), key=log_marginal)


def sticky_start(
    rows: PreparedRows, counts: FloatArray, initial: FloatArray, parameters: MarkovParameters
) -> FloatArray:
    """Return the transitions (K, K) of the κ whose evidence bound is the largest after a few steps of learning.

    For ``self_transition_prior: auto``, at the first update; `counts` (K, K) are those expected at its start.
    """
    trials = []
    for kappa in SELF_TRANSITION_PRIORS:
        matrix = parameters.transition_estimate(counts, kappa)
        for _ in range(min(TRIAL_STEPS, parameters.inner_iterations)):
            matrix = parameters.transition_estimate(expected_by_model(rows, matrix, initial).transitions, kappa)
        expected = expected_by_model(rows, matrix, initial)
        term = parameters.transition_bound_term(expected.transitions, matrix, kappa)
        trials.append((expected.log_likelihood + term, matrix))
    return max(trials, key=lambda trial: trial[0])[1]


# --- answers ------------------------------------------------------------------------------------------------------


def duration_outputs(learnt: LearntSegments, parameters: MarkovParameters) -> dict[str, Array]:
    """Return the outputs of durations: means (K,) with 95 % intervals (K, 2), in rows, and probabilities (K, D)."""
    family = family_of(parameters)
    means, intervals = mean_durations(family, learnt.durations, learnt.prior_duration - 1.0)
    table = np.exp(probabilities(learnt, parameters).durations)
    return {"mean_duration": means, "duration_interval": intervals, "duration_prob": table}


def segment_intervals(
    learnt: LearntSegments, combined: CombinedPosteriors, parameters: MarkovParameters, context: Context
) -> dict[str, Array]:
    """Return means and 95 % intervals of durations and transitions, from draws of segments and parameters."""
    priors = SegmentPriors(
        parameters.pseudo_count, parameters.initial == "learnt", family_of(parameters), learnt.prior_duration - 1.0
    )
    draws = draw_semi_markov(
        combined.log_prob,
        probabilities(learnt, parameters),
        priors,
        parameters.samples,
        context.generator,
        lengths=combined.lengths,
        mask=combined.mask,
    )
    assert draws.mean_durations is not None
    low, high = interval(draws.transitions)
    return {
        "mean_duration": draws.mean_durations.mean(axis=0),
        "duration_interval": np.stack(interval(draws.mean_durations), axis=1),
        "trans_low": low,
        "trans_high": high,
    }


def tell_long_durations(learnt: LearntSegments, parameters: MarkovParameters, longest: int, module: str) -> bool:
    """Log the classes whose segments may be longer than ``max_duration``, where a sequence has room for longer ones.

    Return whether there are any.
    """
    counts = learnt.durations
    D = counts.shape[1]
    posterior = duration_posterior(family_of(parameters), counts, learnt.prior_duration - 1.0)
    beyond = 1.0 - np.exp(posterior.log_predictive).sum(axis=1)
    reached = np.flatnonzero((beyond > REACHED) & (counts.sum(axis=1) >= 1.0))
    told = longest > D and len(reached) > 0
    if told:
        names = ", ".join(str(k) for k in reached[:10])
        _log.warning("%s: segments of class %s reach max_duration, %d rows: set a larger one", module, names, D)
    return told


def parameters_of_order(classes: int, parameters: MarkovParameters) -> int:
    """Return how many more parameters segments have than independent rows: transitions and durations, less weights."""
    of_durations = {"poisson": 1, "negative_binomial": 2}[family_of(parameters)]
    return max(classes * (classes - 2), 0) + classes * of_durations - (classes - 1)


def draw_segments(model: SegmentWeights, rows: int, generator: np.random.Generator) -> IntArray:
    """Return the classes (N,) of segments that are drawn one after the other; the last one is cut off."""
    first, transitions, durations = (
        np.cumsum(np.exp(logs), axis=-1) for logs in (model.initial, model.transitions, model.durations)
    )
    classes, lengths, drawn, cdf = [], [], 0, first
    while drawn < rows:
        of_class, of_length = generator.random(2)
        classes.append(draw_class(cdf, of_class))
        lengths.append(1 + draw_class(durations[classes[-1]], of_length))
        drawn, cdf = drawn + lengths[-1], transitions[classes[-1]]
    path: IntArray = np.repeat(np.array(classes, np.int64), lengths)[:rows]
    return path
