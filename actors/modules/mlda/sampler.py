"""Gibbs sampling of the MLDA's topics, and the estimates of each row that :mod:`actors.modules.mlda.mlda` sends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from actors.kernels.mlda import unobserved, unobserved_rows
from actors.kernels.mlda.concentration import concentration_step
from actors.kernels.mlda.gibbs import (
    FoldInResult,
    count,
    counts_from_words,
    fold_in,
    likelihood_and_shares,
    place,
    row_counts,
    start,
    sweep,
)
from actors.kernels.mlda.row_updates import Corpus, Counts, Settings, class_scores, lower_bounds
from actors.kernels.mlda.unobserved import RowDraws, Unobserved
from actors.module import Context
from actors.modules.mlda.tokens import Modality, Vocabulary
from actors.types import BoolArray, FloatArray, Int32Array, IntArray

StartMethod = Literal["rows", "tokens"]

MIN_CONCENTRATION, MAX_CONCENTRATION = 1e-6, 1e6
"""Limits of α and β: below, a topic without tokens is practically excluded; above, tokens have practically no
influence; and products of the kernels over- or underflow."""


CALIBRATIONS = 5
"""Calibrations of the exponents in the sweeps of one update, evenly spread."""


class SamplerState(NamedTuple):
    """Tokens, priors, topics and counts of N rows: input and state of the sampler.

    Attributes
    ----------
    modalities : list of Modality
    vocabulary : Vocabulary
    corpus : Corpus
        The joined tokens of all modalities.
    order : ndarray of int64 (T,)
        Position of each token of the corpus in the modalities' concatenated tokens.
    missing : ndarray of bool (N,)
        Which rows have no tokens.
    log_prior : ndarray of float64 (N, K)
        Product of the priors from above; uniform without any.
    has_prior : bool
        Whether there is a prior from above.
    topics : ndarray of int32 (T,)
        The topic of each token, -1 for none.
    counts : Counts
        With the unobserved tokens, if counts are missing.
    settings : Settings
        With temperature 1.
    unobserved : Unobserved or None
        The words that rows lack; None if they lack none.
    """

    modalities: list[Modality]
    vocabulary: Vocabulary
    corpus: Corpus
    order: IntArray
    missing: BoolArray
    log_prior: FloatArray
    has_prior: bool
    topics: Int32Array
    counts: Counts
    settings: Settings
    unobserved: Unobserved | None = None

    @property
    def prior(self) -> FloatArray:
        """The prior ψ (N, K) as probabilities."""
        return np.exp(self.log_prior)


class SampleAverages(NamedTuple):
    """Averages over samples; see :func:`actors.kernels.mlda.gibbs.likelihood_and_shares`.

    Attributes
    ----------
    likelihood : ndarray of float64 (N, K)
        Proportional to p(the row's tokens | class k).
    shares : ndarray of float64 (N, K)
        P(the topic of the row's next token is k).
    """

    likelihood: FloatArray
    shares: FloatArray


def initialise_topics(state: SamplerState, method: StartMethod, restarts: int, context: Context) -> SamplerState:
    """Return the state with initial topics for all tokens.

    Parameters
    ----------
    state : SamplerState
        No token has a topic.
    method : {"rows", "tokens"}
        The parameter ``start`` of :class:`actors.modules.mlda.mlda.MLDA`.
    restarts : int
        Number of starts by rows, of which the most probable is taken.
    context : Context
    """
    generator, settings = context.generator, tempered_settings(state, context)
    if method == "rows":
        if state.unobserved is None:
            topics, counts = start(state.corpus, state.prior, settings, generator, restarts)
        else:
            topics, counts = unobserved.start(
                state.corpus, state.unobserved, state.prior, settings, generator, restarts
            )
        return state._replace(topics=topics, counts=counts)
    classes = state.log_prior.shape[1]
    topics = generator.integers(0, classes, len(state.topics), dtype=np.int32)
    counts = count(state.corpus, topics, classes, settings.beta)
    return expect_unobserved(state._replace(topics=topics, counts=counts))


def expect_unobserved(state: SamplerState) -> SamplerState:
    """Return the state with expected numbers of unobserved tokens in its counts, which have none, if rows lack some."""
    if state.unobserved is None:
        return state
    arguments = state.corpus, state.unobserved, state.topics, state.counts, state.settings
    return state._replace(counts=unobserved.fill_counts(*arguments))


def assign_new_tokens(state: SamplerState, context: Context) -> SamplerState:
    """Draw topics for tokens without one, in place; the others keep theirs."""
    order, settings, generator = np.arange(len(state.missing)), tempered_settings(state, context), context.generator
    tokens = state.topics, state.prior, state.counts, settings
    if state.unobserved is None:
        place(state.corpus, *tokens, False, order, generator)
    else:
        unobserved.place(state.corpus, state.unobserved, *tokens, generator)
    return state


def run_sweeps(
    state: SamplerState,
    iterations: int,
    samples: int,
    context: Context,
    estimated: Sequence[str] = (),
    recalibrate: Callable[[SamplerState], SamplerState] | None = None,
) -> tuple[SamplerState, SampleAverages | None]:
    """Run Gibbs sweeps, which change topics and counts in place, and average the last `samples` of them.

    Parameters
    ----------
    state : SamplerState
    iterations, samples : int
    context : Context
    estimated : sequence of {"alpha", "beta"}
        Concentrations that are estimated, by one step after each sweep.
    recalibrate : callable, optional
        Returns the state with other exponents; called about :data:`CALIBRATIONS` times.

    Returns
    -------
    state : SamplerState
        With the concentrations after the last sweep.
    averages : SampleAverages or None
        None if no sweep was made at temperature 1: messages are never tempered.
    """
    settings, prior, classes = tempered_settings(state, context), state.prior, state.log_prior.shape[1]
    sampled, draws = [], None
    for done in range(1, iterations + 1):
        state, moved, draws = _sweep(state, prior, settings, draws, context)
        if estimated:
            state = _with_estimates(state, estimated, draws, context)
            settings = tempered_settings(state, context)
        if recalibrate is not None and done % max(1, iterations // CALIBRATIONS) == 0:
            state = recalibrate(state)
        if done > iterations - samples and settings.temperature == 1.0:
            n = row_counts(state.corpus, state.topics, classes)
            likelihood, shares = likelihood_and_shares(n, prior, settings.alpha)
            if draws is not None and state.unobserved is not None:
                likelihood[state.unobserved.rows], shares[state.unobserved.rows] = draws.likelihood, draws.shares
            sampled.append((likelihood, shares))
        context.report(done, iterations, moved=float(moved))
    if not sampled:
        return state, None
    return state, SampleAverages(*(np.mean(values, axis=0) for values in zip(*sampled, strict=True)))


def _sweep(
    state: SamplerState, prior: FloatArray, settings: Settings, draws: RowDraws | None, context: Context
) -> tuple[SamplerState, int, RowDraws | None]:
    """Return the state after a sweep, the number of tokens that moved, and what was drawn for rows that lack counts."""
    corpus, lacking, topics, counts = state.corpus, state.unobserved, state.topics, state.counts
    if lacking is None:
        return state, sweep(corpus, topics, prior, counts, settings, context.generator), None
    if draws is None:
        theta = unobserved.first_theta(corpus, lacking, topics, prior.shape[1], settings.alpha)
    else:
        theta = draws.theta
    moved, counts, draws = unobserved.sweep(corpus, lacking, topics, prior, counts, settings, theta, context.generator)
    return state._replace(counts=counts), moved, draws


def _with_estimates(
    state: SamplerState, estimated: Sequence[str], draws: RowDraws | None, context: Context
) -> SamplerState:
    """Return the state after a step of the concentrations `estimated` towards the most probable ones.

    α is estimated from the rows' tokens by topic, without the prior ψ of their classes, β from each topic's words. The
    unobserved tokens are among both; their numbers are drawn.
    """
    settings, counts, classes = state.settings, state.counts, state.log_prior.shape[1]
    if "alpha" in estimated:
        rows = row_counts(state.corpus, state.topics, classes)
        if draws is not None and state.unobserved is not None:
            rows[state.unobserved.rows] += unobserved.draw_numbers(draws.unseen, context.generator)
        settings = settings._replace(alpha=_limited(concentration_step([rows], settings.alpha)))
    if "beta" in estimated:
        tables = [counts.words[state.vocabulary.word_slice(name)].T for name in state.vocabulary.sizes]
        settings = settings._replace(beta=_limited(concentration_step(tables, settings.beta)))
        counts = counts_from_words(state.corpus, counts.words, settings.beta)
    return state._replace(settings=settings, counts=counts)


def _limited(concentration: float) -> float:
    """Return the concentration within the limits of the parameters."""
    return min(max(concentration, MIN_CONCENTRATION), MAX_CONCENTRATION)


def fold_in_rows(state: SamplerState, samples: int, context: Context) -> SampleAverages:
    """Return the averages of each row sampled on its own, with the topics of all other rows fixed."""
    result = _fold_in(state, samples, context)
    return SampleAverages(result.likelihood, result.shares)


def predict_modality(state: SamplerState, name: str, samples: int, context: Context) -> FoldInResult:
    """Return the rows folded in without a modality, and the distributions (N, V) of its word."""
    return _fold_in(state, samples, context, state.vocabulary.index(name))


def _fold_in(state: SamplerState, samples: int, context: Context, without: int = -1) -> FoldInResult:
    """Return the rows folded in, without the modality of an index."""
    rows = state.topics, state.prior, state.counts, state.settings, samples, context.generator, without
    if state.unobserved is None:
        return fold_in(state.corpus, *rows)
    return unobserved_rows.fold_in(state.corpus, state.unobserved, *rows)


def topic_scores(state: SamplerState) -> FloatArray:
    """Return log p(the row's tokens of modality m | all have topic k), (M, N, K)."""
    arguments = state.topics, state.counts, state.settings
    if state.unobserved is None:
        return class_scores(state.corpus, *arguments)
    return unobserved_rows.class_scores(state.corpus, state.unobserved, *arguments)


def class_log_likelihood(state: SamplerState, averages: SampleAverages) -> FloatArray:
    """Return log p(the row's tokens | class k), (N, K); zeros for rows without tokens."""
    arguments = state.topics, state.counts, state.settings
    if state.unobserved is None:
        tokens = np.diff(state.corpus.starts)[:, None]
        bounds = lower_bounds(state.corpus, *arguments, averages.shares * tokens)
    else:
        bounds = unobserved_rows.lower_bounds(state.corpus, state.unobserved, *arguments, averages.shares)
    relative = averages.likelihood / averages.likelihood.mean(axis=1, keepdims=True)
    likelihood: FloatArray = np.log(relative) + bounds[:, None]
    likelihood[state.missing] = 0.0
    return likelihood


def tempered_settings(state: SamplerState, context: Context) -> Settings:
    """Return the settings for learning: tempered only with a prior from above, to raise its weight, as in the GMM."""
    return state.settings._replace(temperature=context.temperature) if state.has_prior else state.settings
