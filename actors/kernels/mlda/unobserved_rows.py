"""Rows of which some counts are missing by themselves, with the topics of all others fixed.

Class likelihoods and topic probabilities of new rows, leave-one-out scores, and lower bounds of the evidence: what
:mod:`actors.kernels.mlda.gibbs` has for rows that lack nothing. The model and its names are those of
:mod:`actors.kernels.mlda.unobserved`.
"""

from __future__ import annotations

import math

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.mlda import gibbs, row_updates
from actors.kernels.mlda.gibbs import FoldInResult
from actors.kernels.mlda.row_updates import Corpus, Counts, Settings
from actors.kernels.mlda.unobserved import (
    LEAST_SEEN,
    RowWorkspace,
    Unobserved,
    WordTables,
    draw_theta,
    make_row_workspace,
    observed_counts,
    sample_row,
    without_rows,
)
from actors.kernels.types import FloatArray, Int32Array


def fold_in(
    corpus: Corpus,
    unobserved: Unobserved,
    topics: Int32Array,
    prior: FloatArray,
    counts: Counts,
    settings: Settings,
    samples: int,
    generator: np.random.Generator,
    without: int = -1,
) -> FoldInResult:
    """Return class likelihoods and topic probabilities of each row, as :func:`actors.kernels.mlda.gibbs.fold_in`.

    A row that lacks counts is sampled given the mean φ of the counts without its tokens.
    """
    whole, kept = without_rows(corpus, unobserved.rows)
    result = gibbs.fold_in(whole, topics[kept], prior, counts, settings, samples, generator, without)
    for each in result:
        each[unobserved.rows] = 0.0
    first = int(corpus.sizes[:without].sum()) if without >= 0 else 0
    _fold(corpus, unobserved, topics, prior, counts, settings, samples, generator, without, first, result)
    return result


@kernel
def _fold(
    corpus: Corpus,
    unobserved: Unobserved,
    topics: Int32Array,
    prior: FloatArray,
    counts: Counts,
    settings: Settings,
    samples: int,
    generator: np.random.Generator,
    without: int,
    first: int,
    result: FoldInResult,
) -> None:
    """Fill in the rows that lack counts; `first` is the first word of modality `without`."""
    (M, K), alpha = counts.totals.shape, settings.alpha
    work, theta, tokens = make_row_workspace(M, K), np.empty(K), np.empty(M)
    skipped, effective = np.zeros((2, K)), settings.temperature * corpus.exponents
    tables = WordTables(np.empty(counts.words.shape), np.empty(counts.words.shape), np.empty(counts.words.shape))
    for r in range(unobserved.rows.shape[0]):
        d = unobserved.rows[r]
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        row_updates.update_counts(words, own, -1.0, corpus, counts, settings)
        used = np.empty(words.shape[0], dtype=np.int32)
        size = 0
        for i in range(words.shape[0]):
            if corpus.modality[words[i]] != without:
                used[size] = words[i]
                size += 1
        tokens[:] = unobserved.tokens[r]
        if without >= 0:
            tokens[without] = 0.0
        load_row(r, unobserved, used[:size], tokens, corpus, counts, settings, effective, tables, work)
        sampled = np.empty(size, dtype=np.int32)
        sampled[:] = _draw_one_topic(used[:size], prior[d], tokens, effective, alpha, tables, work, generator)
        for k in range(K):
            theta[k] = alpha / (size + K * alpha)
        if size > 0:
            theta[sampled[0]] += size / (size + K * alpha)
        for step in range(gibbs.BURN_IN + samples):
            kept = step >= gibbs.BURN_IN
            sample_row(used[:size], sampled, prior[d], tokens, effective, alpha, tables, theta, work, generator)
            draw_theta(
                size,
                prior[d],
                tokens,
                effective,
                alpha,
                theta,
                result.likelihood[d] if kept else skipped[0],
                result.shares[d] if kept else skipped[1],
                1.0 / samples,
                work,
                generator,
            )
        for v in range(result.words.shape[1]):
            for k in range(K):
                phi = (counts.words[first + v, k] + settings.beta) * counts.inverse[without, k]
                result.words[d, v] += result.shares[d, k] * phi
        row_updates.update_counts(words, own, 1.0, corpus, counts, settings)


@kernel
def load_row(
    r: int,
    unobserved: Unobserved,
    words: Int32Array,
    tokens: FloatArray,
    corpus: Corpus,
    counts: Counts,
    settings: Settings,
    effective: FloatArray,
    tables: WordTables,
    work: RowWorkspace,
) -> None:
    """Fill in the mean φ of the row's words, and its sums over the observed words of modalities with `tokens` (M,)."""
    K, before = tables.phi.shape[1], -1
    for i in range(words.shape[0]):
        w = words[i]
        if w == before:
            continue
        m, before = corpus.modality[w], w
        for k in range(K):
            tables.phi[w, k] = (counts.words[w, k] + settings.beta) * counts.inverse[m, k]
            tables.logs[w, k] = effective[m] * math.log(tables.phi[w, k])
            tables.powers[w, k] = math.exp(tables.logs[w, k])
    work.seen[:] = 0.0
    j, end = unobserved.starts[r], unobserved.starts[r + 1]
    for w in range(counts.words.shape[0]):
        m = corpus.modality[w]
        if j < end and unobserved.words[j] == w:
            j += 1
        elif tokens[m] > 0.0:
            for k in range(K):
                work.seen[m, k] += (counts.words[w, k] + settings.beta) * counts.inverse[m, k]


@kernel
def _draw_one_topic(
    words: Int32Array,
    prior: FloatArray,
    tokens: FloatArray,
    effective: FloatArray,
    alpha: float,
    tables: WordTables,
    work: RowWorkspace,
    generator: np.random.Generator,
) -> int:
    """Draw one topic for all tokens of a row given φ."""
    K, scores = prior.shape[0], work.scores
    scores[:] = 0.0
    for i in range(words.shape[0]):
        for k in range(K):
            scores[k] += tables.logs[words[i], k]
    for m in range(tokens.shape[0]):
        if tokens[m] > 0.0:
            for k in range(K):
                scores[k] -= effective[m] * tokens[m] * math.log(work.seen[m, k])
    top = scores.max()
    for k in range(K):
        scores[k] = math.exp(scores[k] - top) * (words.shape[0] * prior[k] + alpha)
    return row_updates.sample_index(scores, work.sums, generator.random())


def class_scores(
    corpus: Corpus, unobserved: Unobserved, topics: Int32Array, counts: Counts, settings: Settings
) -> FloatArray:
    """Return log p(the row's tokens of modality m | all have topic k), with φ estimated from all other rows, (M, N, K).

    As :func:`actors.kernels.mlda.row_updates.class_scores`; over the observed words alone where a row lacks some.
    """
    whole, kept = without_rows(corpus, unobserved.rows)
    scores = row_updates.class_scores(whole, topics[kept], counts, settings)
    _score(corpus._replace(exponents=np.ones_like(corpus.exponents)), unobserved, topics, counts, settings, scores)
    return scores


@kernel
def _score(
    corpus: Corpus,
    unobserved: Unobserved,
    topics: Int32Array,
    counts: Counts,
    settings: Settings,
    scores: FloatArray,
) -> None:
    """Fill in `scores` (M, N, K) of the rows that lack counts."""
    M, K = counts.totals.shape
    work, totals, plain = row_updates.make_workspace(M, K), np.empty((M, K)), Settings(1.0, settings.beta, 1.0)
    for r in range(unobserved.rows.shape[0]):
        d = unobserved.rows[r]
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        row_updates.update_counts(words, own, -1.0, corpus, counts, settings)
        observed, first = observed_counts(r, unobserved, corpus, counts, settings.beta, totals), 0
        while first < words.shape[0]:
            m, end = corpus.modality[words[first]], first
            while end < words.shape[0] and corpus.modality[words[end]] == m:
                end += 1
            of_one = np.zeros(end - first, dtype=np.int32)
            row_updates.score_block(words[first:end], of_one, 0, corpus, observed, plain, work)
            scores[m, d] = work.block
            first = end
        row_updates.update_counts(words, own, 1.0, corpus, counts, settings)


def lower_bounds(
    corpus: Corpus, unobserved: Unobserved, topics: Int32Array, counts: Counts, settings: Settings, shares: FloatArray
) -> FloatArray:
    """Return a lower bound of log p(tokens) of each row (N,), with φ estimated from all other rows and without ψ.

    As :func:`actors.kernels.mlda.row_updates.lower_bounds`, started from topic shares (N, K). Of a row that lacks
    counts it is that of :mod:`actors.kernels.mlda.variational`.
    """
    whole, kept = without_rows(corpus, unobserved.rows)
    tokens = np.diff(whole.starts)[:, None]
    bounds = row_updates.lower_bounds(whole, topics[kept], counts, settings, shares * tokens)
    _bound(corpus, unobserved, topics, counts, settings, shares, bounds)
    return bounds


@kernel
def _bound(
    corpus: Corpus,
    unobserved: Unobserved,
    topics: Int32Array,
    counts: Counts,
    settings: Settings,
    shares: FloatArray,
    bounds: FloatArray,
) -> None:
    """Fill in the bounds of the rows that lack counts."""
    (M, K), ones = counts.totals.shape, np.ones(counts.totals.shape[0])
    work, gamma = make_row_workspace(M, K), np.empty(K)
    tables = WordTables(np.empty(counts.words.shape), np.empty(counts.words.shape), np.empty(counts.words.shape))
    for r in range(unobserved.rows.shape[0]):
        d, tokens = unobserved.rows[r], unobserved.tokens[r]
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        row_updates.update_counts(words, own, -1.0, corpus, counts, settings)
        load_row(r, unobserved, words, tokens, corpus, counts, settings, ones, tables, work)
        total = float(words.shape[0])
        for m in range(M):
            if tokens[m] > 0.0:
                mass = 0.0
                for k in range(K):
                    mass += shares[d, k] * work.seen[m, k]
                total += tokens[m] * (1.0 / max(mass, LEAST_SEEN) - 1.0)
        for k in range(K):
            gamma[k] = settings.alpha + shares[d, k] * total
        bounds[d] = _bound_row(words, tokens, gamma, settings.alpha, tables, work)
        row_updates.update_counts(words, own, 1.0, corpus, counts, settings)


@kernel
def _bound_row(
    words: Int32Array, tokens: FloatArray, gamma: FloatArray, alpha: float, tables: WordTables, work: RowWorkspace
) -> float:
    """Return the largest bound over some fixed-point iterations of γ (K,), which is overwritten."""
    K, theta, weights, seen = gamma.shape[0], work.own, work.scores, work.seen
    best, constant = -np.inf, math.lgamma(K * alpha) - K * math.lgamma(alpha)
    for _ in range(row_updates.BOUND_STEPS):
        total = gamma.sum()
        at_total = row_updates.digamma(total)
        bound, missed = constant - math.lgamma(total), 1.0
        for k in range(K):
            mean_log = row_updates.digamma(gamma[k]) - at_total
            bound += math.lgamma(gamma[k]) + (alpha - gamma[k]) * mean_log
            theta[k], gamma[k] = math.exp(mean_log), alpha
            missed -= theta[k]
        i = 0
        while i < words.shape[0]:
            w, occurrences, norm = words[i], 0.0, 0.0
            while i < words.shape[0] and words[i] == w:
                occurrences += 1.0
                i += 1
            for k in range(K):
                weights[k] = theta[k] * tables.phi[w, k]
                norm += weights[k]
            bound += occurrences * math.log(norm)
            for k in range(K):
                gamma[k] += occurrences * weights[k] / norm
        for m in range(tokens.shape[0]):
            if tokens[m] > 0.0:
                # 1 - Σ_k exp(E[log θ_k]) φ_mk,missing, without a difference of nearly equal numbers
                rest = missed
                for k in range(K):
                    rest += theta[k] * seen[m, k]
                rest = max(rest, LEAST_SEEN)
                bound -= tokens[m] * math.log(rest)
                for k in range(K):
                    gamma[k] += tokens[m] * theta[k] * max(1.0 - seen[m, k], 0.0) / rest
        best = max(best, bound)
    return best
