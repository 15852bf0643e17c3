"""Collapsed Gibbs sampling for multimodal latent Dirichlet allocation with a prior over the class of each row.

Row d has θ_d ~ Dirichlet(α, …, α) over K topics, and modality m has word distributions φ_mk ~ Dirichlet(β, …, β); each
token of row d in modality m draws a topic k from θ_d and a word from φ_mk (T. Nakamura, T. Nagai, N. Iwahashi,
"Grounding of word meanings in multimodal concepts using LDA", 2009). The row's *class* is one more draw from θ_d,
without a word, and the prior from above is a factor ψ_d on it. So the row has the likelihood

    p(tokens | class k) = p(tokens) · E[θ_dk | tokens] / E[θ_dk],

priors multiply, and a one-hot prior gives θ_d ~ Dirichlet(α, …, α + 1, …, α). θ, φ and the classes are integrated out
(T. L. Griffiths, M. Steyvers, "Finding scientific topics", 2004); the topics are sampled row by row in
:mod:`actors.kernels.mlda.row_updates`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.mlda.row_updates import (
    Corpus,
    Counts,
    Settings,
    class_scores,
    count_topics,
    initialise_row,
    lower_bounds,
    make_workspace,
    propose_topic_swap,
    sample_topics,
    update_counts,
)
from actors.kernels.special import gammaln
from actors.kernels.types import FloatArray, Int32Array, IntArray

__all__ = [
    "Corpus",
    "Counts",
    "FoldInResult",
    "Settings",
    "anneal_rows",
    "compile_kernels",
    "count",
    "fold_in",
    "likelihood_and_shares",
    "log_joint",
    "log_joint_of_topics",
    "make_corpus",
    "place",
    "row_counts",
    "start",
    "sweep",
]

PASSES = 30
"""Passes over all rows in one try of :func:`start`; the last tenth of them at temperature 1."""

INITIAL_ROW_TOKENS = 5.0
"""Effective number of tokens of a row in the first pass: enough to separate the most different rows."""

BURN_IN = 5
"""Sweeps of :func:`fold_in` before the first sample."""


class FoldInResult(NamedTuple):
    """The result of :func:`fold_in`.

    Attributes
    ----------
    likelihood : ndarray of float64, shape (N, K)
        Proportional to p(the row's tokens | class k): the average of (n_k + α) / S(n).
    shares : ndarray of float64, shape (N, K)
        P(topic of one further token is k | the row's tokens and its prior).
    words : ndarray of float64, shape (N, V)
        P(word | the row's tokens and its prior) of the held-out modality; V = 0 if there is none.
    """

    likelihood: FloatArray
    shares: FloatArray
    words: FloatArray


def make_corpus(rows: IntArray, words: IntArray, modality: Sequence[int], size: int) -> tuple[Corpus, IntArray]:
    """Return the corpus of tokens, sorted by row.

    Parameters
    ----------
    rows, words : ndarray of int, shape (T,)
        Row and word of each token. Equal words of a row must be adjacent.
    modality : sequence of int, length W
        Modality of each word, ascending from 0.
    size : int
        N, the number of rows.

    Returns
    -------
    corpus : Corpus
    order : ndarray of int64, shape (T,)
        Index of each token of the corpus in `rows` and `words`.
    """
    order = np.argsort(rows, kind="stable")
    starts = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=size), out=starts[1:])
    word_modalities = np.array(modality, dtype=np.int32)
    sizes = np.bincount(word_modalities).astype(np.float64)
    return Corpus(starts, np.asarray(words)[order].astype(np.int32), word_modalities, sizes, np.ones(len(sizes))), order


def count(corpus: Corpus, topics: Int32Array, classes: int, beta: float) -> Counts:
    """Return the counts of tokens by word and topic, except tokens of topic -1; K is `classes`."""
    known = topics >= 0
    cells = corpus.words[known].astype(np.int64) * classes + topics[known]
    words = np.bincount(cells, minlength=len(corpus.modality) * classes).reshape(-1, classes).astype(np.float64)
    return counts_from_words(corpus, words, beta)


def counts_from_words(corpus: Corpus, words: FloatArray, beta: float) -> Counts:
    """Return the counts with `words` (W, K), the numbers of tokens by word and topic."""
    totals = np.zeros((len(corpus.sizes), words.shape[1]))
    np.add.at(totals, corpus.modality, words)
    return Counts(np.ascontiguousarray(words), totals, 1.0 / (totals + corpus.sizes[:, None] * beta))


def row_counts(corpus: Corpus, topics: Int32Array, classes: int) -> FloatArray:
    """Return the number of tokens of each row in each topic, (N, K)."""
    size = len(corpus.starts) - 1
    rows = np.repeat(np.arange(size), np.diff(corpus.starts))
    return np.bincount(rows * classes + topics, minlength=size * classes).reshape(size, classes).astype(np.float64)


def likelihood_and_shares(n: FloatArray, prior: FloatArray, alpha: float) -> tuple[FloatArray, FloatArray]:
    """Return class likelihoods and topic probabilities of each row, given one sample of its topics.

    These are the terms that :class:`FoldInResult` averages. With C the row's class,
    P(C = k | z) = ψ_k (n_k + α) / S(n), and one further token has topic k with probability
    (n_k + α + P(C = k | z)) / (Σ n + K α + 1).

    Parameters
    ----------
    n : ndarray of float64, shape (N, K)
        Tokens of each row in each topic.
    prior : ndarray of float64, shape (N, K)
        ψ, rows summing to one.
    alpha : float
        α.

    Returns
    -------
    likelihood, shares : ndarray of float64, shape (N, K)
    """
    smoothed = n + alpha
    likelihood = smoothed / (prior * smoothed).sum(axis=1, keepdims=True)
    shares = (smoothed + prior * likelihood) / (smoothed.sum(axis=1, keepdims=True) + 1.0)
    return likelihood, shares


def start(
    corpus: Corpus, prior: FloatArray, settings: Settings, generator: np.random.Generator, tries: int = 1
) -> tuple[Int32Array, Counts]:
    """Return initial topics, one for all tokens of a row.

    Rows are sampled one by one given all others, as in a mixture of Dirichlet-multinomials, while the temperature rises
    from a value at which a row counts as :data:`INITIAL_ROW_TOKENS` tokens to 1. Tokens that start independently form
    topics that cut across the rows, which Gibbs sampling rarely leaves.

    Parameters
    ----------
    corpus : Corpus
    prior : ndarray of float64, shape (N, K)
        ψ, rows summing to one.
    settings : Settings
    generator : numpy.random.Generator
    tries : int
        Number of independent starts; the one with the highest joint probability is returned.

    Returns
    -------
    topics : ndarray of int32, shape (T,)
    counts : Counts
    """

    def place_rows(topics: Int32Array, counts: Counts, tempered: Settings) -> Counts:
        order = generator.permutation(len(corpus.starts) - 1)
        place(corpus, topics, prior, counts, tempered, True, order, generator)
        return counts

    def score(topics: Int32Array, counts: Counts) -> float:
        return log_joint(corpus, topics, counts, prior, settings)

    return anneal_rows(corpus, prior.shape[1], settings, generator, tries, place_rows, score)


def anneal_rows(
    corpus: Corpus,
    classes: int,
    settings: Settings,
    generator: np.random.Generator,
    tries: int,
    place_rows: Callable[[Int32Array, Counts, Settings], Counts],
    score: Callable[[Int32Array, Counts], float],
) -> tuple[Int32Array, Counts]:
    """Return the topics and counts of the try with the highest score, as :func:`start`.

    `place_rows` gives every row a topic at a temperature: it changes topics in place, and counts or returns others.
    """
    sizes = np.diff(corpus.starts)
    effective = float(corpus.exponents[corpus.modality[corpus.words]].sum()) / max(1, int(np.count_nonzero(sizes)))
    hottest = min(1.0, INITIAL_ROW_TOKENS / max(1.0, effective))
    best: tuple[float, Int32Array, Counts] | None = None
    for _ in range(tries):
        labels = generator.integers(0, classes, len(sizes))
        topics = np.repeat(labels, sizes).astype(np.int32)
        counts = count(corpus, topics, classes, settings.beta)
        for step in range(PASSES):
            progress = min(1.0, step / (0.9 * PASSES))
            tempered = settings._replace(temperature=settings.temperature * hottest ** (1.0 - progress))
            counts = place_rows(topics, counts, tempered)
        value = score(topics, counts)
        if best is None or value > best[0]:
            best = value, topics, counts
    assert best is not None
    return best[1], best[2]


def log_joint(corpus: Corpus, topics: Int32Array, counts: Counts, prior: FloatArray, settings: Settings) -> float:
    """Return log p(tokens, topics), with classes, θ and φ integrated out."""
    beta, rows = settings.beta, log_joint_of_topics(corpus, topics, prior, settings.alpha)
    words = gammaln(counts.words + beta).sum() - counts.words.size * gammaln(beta)
    base = corpus.sizes[:, None] * beta
    return float(rows + words + (gammaln(base) - gammaln(counts.totals + base)).sum())


def log_joint_of_topics(corpus: Corpus, topics: Int32Array, prior: FloatArray, alpha: float) -> float:
    """Return log p(topics) up to a constant, with classes and θ integrated out."""
    K = prior.shape[1]
    n = row_counts(corpus, topics, K)
    rows = gammaln(n + alpha).sum() - gammaln(n.sum(axis=1) + K * alpha + 1.0).sum()
    rows += len(n) * (gammaln(K * alpha + 1.0) - K * gammaln(alpha) - np.log(alpha))
    return float(rows + np.log((prior * (n + alpha)).sum(axis=1)).sum())


@kernel
def place(
    corpus: Corpus,
    topics: Int32Array,
    prior: FloatArray,
    counts: Counts,
    settings: Settings,
    restart: bool,
    order: IntArray,
    generator: np.random.Generator,
) -> None:
    """Sample topics for tokens of topic -1, row by row in `order`; `topics` and `counts` change in place.

    A row whose tokens all have topic -1 gets one topic for all of them; in other rows the new tokens are sampled given
    the old ones. With `restart`, every row is removed from the counts and gets one topic.
    """
    work = make_workspace(counts.totals.shape[0], counts.totals.shape[1])
    for d in order:
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        if own.shape[0] == 0:
            continue
        if restart:
            update_counts(words, own, -1.0, corpus, counts, settings)
        if restart or own.max() < 0:
            initialise_row(words, own, prior[d], corpus, counts, settings, work, generator)
        else:
            sample_topics(words, own, prior[d], True, corpus, counts, settings, work, generator)


@kernel
def sweep(
    corpus: Corpus,
    topics: Int32Array,
    prior: FloatArray,
    counts: Counts,
    settings: Settings,
    generator: np.random.Generator,
) -> int:
    """Sample the topic of every token, and propose one swap of two topics in every row.

    Parameters
    ----------
    corpus : Corpus
    topics : ndarray of int32, shape (T,)
        Changed in place; consistent with `counts`.
    prior : ndarray of float64, shape (N, K)
        ψ, rows summing to one.
    counts : Counts
        Changed in place.
    settings : Settings
    generator : numpy.random.Generator

    Returns
    -------
    int
        Number of tokens whose topic changed when it was sampled (swaps are not included).
    """
    work, changed = make_workspace(counts.totals.shape[0], counts.totals.shape[1]), 0
    for d in range(corpus.starts.shape[0] - 1):
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        changed += sample_topics(words, own, prior[d], False, corpus, counts, settings, work, generator)
        propose_topic_swap(words, own, prior[d], corpus, counts, settings, work, generator)
    return changed


def fold_in(
    corpus: Corpus,
    topics: Int32Array,
    prior: FloatArray,
    counts: Counts,
    settings: Settings,
    samples: int,
    generator: np.random.Generator,
    without: int = -1,
) -> FoldInResult:
    """Return class likelihoods and topic probabilities of each row by itself, with the topics of all others fixed.

    Each row is removed from the counts, initialised, swept :data:`BURN_IN` + `samples` times, and restored. Topics and
    counts are unchanged on return.

    Parameters
    ----------
    corpus : Corpus
    topics : ndarray of int32, shape (T,)
        -1 for tokens that are not in the counts (new rows).
    prior : ndarray of float64, shape (N, K)
        ψ, rows summing to one.
    counts : Counts
    settings : Settings
    samples : int
        Number of sweeps that are averaged.
    generator : numpy.random.Generator
    without : int
        Held-out modality: its tokens do not enter the row's topics, and its words are predicted; -1 for none.

    Returns
    -------
    FoldInResult
    """
    size, classes = prior.shape
    span = np.flatnonzero(corpus.modality == without)
    first, last = (int(span[0]), int(span[-1]) + 1) if len(span) else (0, 0)
    result = FoldInResult(np.zeros((size, classes)), np.zeros((size, classes)), np.zeros((size, last - first)))
    _fold(corpus, topics, prior, counts, settings, samples, generator, without, first, result)
    return result


@kernel
def _fold(
    corpus: Corpus,
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
    """Add the averages of `samples` sweeps of each row to `result`; `first` is the first word of modality `without`."""
    work, alpha = make_workspace(counts.totals.shape[0], counts.totals.shape[1]), settings.alpha
    K, longest = counts.totals.shape[1], 0
    for d in range(prior.shape[0]):
        longest = max(longest, corpus.starts[d + 1] - corpus.starts[d])
    word_buffer, topic_buffer = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.int32)
    for d in range(prior.shape[0]):
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        update_counts(words, own, -1.0, corpus, counts, settings)
        used = 0
        for i in range(words.shape[0]):
            if corpus.modality[words[i]] != without:
                word_buffer[used] = words[i]
                used += 1
        used_words, sampled = word_buffer[:used], topic_buffer[:used]
        if used > 0:
            initialise_row(used_words, sampled, prior[d], corpus, counts, settings, work, generator)
        for step in range(BURN_IN + samples):
            sample_topics(used_words, sampled, prior[d], False, corpus, counts, settings, work, generator)
            propose_topic_swap(used_words, sampled, prior[d], corpus, counts, settings, work, generator)
            if step >= BURN_IN:
                S = count_topics(sampled, prior[d], alpha, work.n)
                for k in range(K):
                    likelihood = (work.n[k] + alpha) / S
                    result.likelihood[d, k] += likelihood / samples
                    share = (work.n[k] + alpha + prior[d, k] * likelihood) / (used + K * alpha + 1.0)
                    result.shares[d, k] += share / samples
        update_counts(used_words, sampled, -1.0, corpus, counts, settings)
        for v in range(result.words.shape[1]):
            for k in range(K):
                phi = (counts.words[first + v, k] + settings.beta) * counts.inverse[without, k]
                result.words[d, v] += result.shares[d, k] * phi
        update_counts(words, own, 1.0, corpus, counts, settings)


def compile_kernels() -> None:
    """Compile the kernels for their argument types, or load them from the cache."""
    corpus, _ = make_corpus(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), [0], 1)
    prior, settings, generator = np.full((1, 2), 0.5), Settings(1.0, 1.0, 1.0), np.random.default_rng(0)
    topics, counts = start(corpus, prior, settings, generator)
    sweep(corpus, topics, prior, counts, settings, generator)
    result = fold_in(corpus, topics, prior, counts, settings, 1, generator)
    lower_bounds(corpus, topics, counts, settings, result.shares)
    class_scores(corpus, topics, counts, settings)
