"""Collapsed Gibbs sampling for multimodal latent Dirichlet allocation, whose rows have prior distributions over topics.

Row d has θ_d ~ Dirichlet(α, …, α) over K topics, and modality m the topics φ_mk ~ Dirichlet(β, …, β); each of the row's
tokens in modality m draws a topic k from θ_d and a word from φ_mk (T. Nakamura, T. Nagai, N. Iwahashi, "Grounding of
word meanings in multimodal concepts using LDA", 2009). The row's *class* is one more draw from θ_d, without a word, and
what comes from above is a factor ψ_d on it. So the row has the likelihood

    p(tokens | class k) = p(tokens) · E[θ_dk | tokens] / E[θ_dk],

priors multiply, and a certain prior means θ_d ~ Dirichlet(α, …, α + 1, …, α). θ, φ and the classes are integrated out
(T. L. Griffiths, M. Steyvers, "Finding scientific topics", 2004); what is left is done row by row in
:mod:`actors.kernels.mlda.row_updates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln

from actors.kernels.jit import kernel
from actors.kernels.mlda.bound import lower_bounds
from actors.kernels.mlda.row_updates import (
    Corpus,
    Counts,
    Floats,
    Integers,
    Settings,
    Tokens,
    draw_tokens,
    make_work,
    move,
    start_row,
    swap_topics,
    tally,
)

__all__ = [
    "Corpus",
    "Counts",
    "Found",
    "Settings",
    "compile_kernels",
    "count",
    "fold_in",
    "likelihood_and_shares",
    "make_corpus",
    "place",
    "row_counts",
    "start",
    "sweep",
]

PASSES = 30
"""Over all rows in one try of :func:`start`; the last tenth of them at temperature 1."""

HOTTEST = 5.0
"""Tokens that a row counts for in the first pass: enough to tell the largest differences between rows."""

BURN_IN = 5
"""Sweeps of :func:`fold_in` before the first that counts."""


class Found(NamedTuple):
    """What :func:`fold_in` finds, each row being asked alone.

    Attributes
    ----------
    likelihood : ndarray of float64, shape (N, K)
        Proportional to p(the row's tokens | class k): the average of (n_k + α) / S(n).
    shares : ndarray of float64, shape (N, K)
        P(the next token's topic is k | the row's tokens and its prior).
    words : ndarray of float64, shape (N, V)
        P(word | the same) of the modality left out; no columns where none is.
    """

    likelihood: Floats
    shares: Floats
    words: Floats


def make_corpus(rows: Integers, words: Integers, owner: Sequence[int], size: int) -> tuple[Corpus, Integers]:
    """Sort tokens by row.

    Parameters
    ----------
    rows, words : ndarray of int, shape (T,)
        Row and word of each token. Equal words of a row come one after the other.
    owner : sequence of int, length W
        The modality of each word, ascending from 0.
    size : int
        N, the number of rows.

    Returns
    -------
    corpus : Corpus
    order : ndarray of int64, shape (T,)
        Where each of its tokens is among those given.
    """
    order = np.argsort(rows, kind="stable")
    starts = np.zeros(size + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=size), out=starts[1:])
    owners = np.array(owner, dtype=np.int32)
    sizes = np.bincount(owners).astype(np.float64)
    return Corpus(starts, np.asarray(words)[order].astype(np.int32), owners, sizes), order


def count(corpus: Corpus, topics: Tokens, classes: int, beta: float) -> Counts:
    """Return the counts of tokens that are in a topic, those of topic -1 being in none; K is `classes`."""
    known = topics >= 0
    cells = corpus.words[known].astype(np.int64) * classes + topics[known]
    words = np.bincount(cells, minlength=len(corpus.owner) * classes).reshape(-1, classes).astype(np.float64)
    return counts_of(corpus, words, beta)


def counts_of(corpus: Corpus, words: Floats, beta: float) -> Counts:
    """Return the counts that have `words` (W, K) by word."""
    totals = np.zeros((len(corpus.sizes), words.shape[1]))
    np.add.at(totals, corpus.owner, words)
    return Counts(np.ascontiguousarray(words), totals, 1.0 / (totals + corpus.sizes[:, None] * beta))


def row_counts(corpus: Corpus, topics: Tokens, classes: int) -> Floats:
    """Return how many tokens of each row are in each topic, (N, K)."""
    size = len(corpus.starts) - 1
    rows = np.repeat(np.arange(size), np.diff(corpus.starts))
    return np.bincount(rows * classes + topics, minlength=size * classes).reshape(size, classes).astype(np.float64)


def likelihood_and_shares(n: Floats, prior: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return what one sample says of each row: the terms that :class:`Found` averages.

    With C the row's class, P(C = k | z) = ψ_k (n_k + α) / S(n), and one more token has the topic k with probability
    (n_k + α + P(C = k | z)) / (Σ n + K α + 1).

    Parameters
    ----------
    n, prior : ndarray of float64, shape (N, K)
    alpha : float

    Returns
    -------
    likelihood, shares : ndarray of float64, shape (N, K)
    """
    raised = n + alpha
    likelihood = raised / (prior * raised).sum(axis=1, keepdims=True)
    shares = (raised + prior * likelihood) / (raised.sum(axis=1, keepdims=True) + 1.0)
    return likelihood, shares


def start(
    corpus: Corpus, prior: Floats, settings: Settings, generator: np.random.Generator, tries: int = 1
) -> tuple[Tokens, Counts]:
    """Assign whole rows to topics: what the sampler starts from.

    Rows are drawn one by one given all others, as in a mixture of Dirichlet-multinomials, while the temperature rises
    from :data:`HOTTEST` tokens' worth a row to 1. Tokens that start alone build topics which cut across the rows, and
    hardly ever leave them again.

    Parameters
    ----------
    corpus : Corpus
    prior : ndarray of float64, shape (N, K)
        ψ, rows summing to one.
    settings : Settings
    generator : numpy.random.Generator
    tries : int
        So many starts; the one with the highest probability is taken.

    Returns
    -------
    topics : ndarray of int32, shape (T,)
    counts : Counts
    """
    sizes = np.diff(corpus.starts)
    hottest = min(1.0, HOTTEST / max(1.0, sizes[sizes > 0].mean() if sizes.any() else 1.0))
    best: tuple[float, Tokens, Counts] | None = None
    for _ in range(tries):
        labels = generator.integers(0, prior.shape[1], len(sizes))
        topics = np.repeat(labels, sizes).astype(np.int32)
        counts = count(corpus, topics, prior.shape[1], settings.beta)
        for step in range(PASSES):
            cold = min(1.0, step / (0.9 * PASSES))
            tempered = settings._replace(temperature=settings.temperature * hottest ** (1.0 - cold))
            place(corpus, topics, prior, counts, tempered, True, generator.permutation(len(sizes)), generator)
        value = log_joint(corpus, topics, counts, prior, settings)
        if best is None or value > best[0]:
            best = value, topics, counts
    assert best is not None
    return best[1], best[2]


def log_joint(corpus: Corpus, topics: Tokens, counts: Counts, prior: Floats, settings: Settings) -> float:
    """Return log p(tokens, topics), the classes, θ and φ integrated out."""
    alpha, beta, K = settings.alpha, settings.beta, prior.shape[1]
    n = row_counts(corpus, topics, K)
    rows = gammaln(n + alpha).sum() - gammaln(n.sum(axis=1) + K * alpha + 1.0).sum()
    rows += len(n) * (gammaln(K * alpha + 1.0) - K * gammaln(alpha) - np.log(alpha))
    rows += np.log((prior * (n + alpha)).sum(axis=1)).sum()
    words = gammaln(counts.words + beta).sum() - counts.words.size * gammaln(beta)
    base = corpus.sizes[:, None] * beta
    return float(rows + words + (gammaln(base) - gammaln(counts.totals + base)).sum())


@kernel
def place(
    corpus: Corpus,
    topics: Tokens,
    prior: Floats,
    counts: Counts,
    settings: Settings,
    again: bool,
    order: Integers,
    generator: np.random.Generator,
) -> None:
    """Find topics for tokens that have none, row by row in `order`; topics and counts change in place.

    A row without any topic starts in one of them as a whole; in others the new tokens are drawn given the old ones.
    With `again` every row is taken out and starts anew.
    """
    work = make_work(counts.totals.shape[0], counts.totals.shape[1])
    for d in order:
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        if own.shape[0] == 0:
            continue
        if again:
            move(words, own, -1.0, corpus, counts, settings)
        if again or own.max() < 0:
            start_row(words, own, prior[d], corpus, counts, settings, work, generator)
        else:
            draw_tokens(words, own, prior[d], True, corpus, counts, settings, work, generator)


@kernel
def sweep(
    corpus: Corpus,
    topics: Tokens,
    prior: Floats,
    counts: Counts,
    settings: Settings,
    generator: np.random.Generator,
) -> int:
    """Draw the topic of every token anew, and offer every row an exchange of two topics.

    Parameters
    ----------
    corpus : Corpus
    topics : ndarray of int32, shape (T,)
        Changed in place. They must be the ones that the counts count.
    prior : ndarray of float64, shape (N, K)
        ψ, rows summing to one.
    counts : Counts
        Changed in place.
    settings : Settings
    generator : numpy.random.Generator

    Returns
    -------
    int
        How many tokens changed their topic when they were drawn.
    """
    work, changed = make_work(counts.totals.shape[0], counts.totals.shape[1]), 0
    for d in range(corpus.starts.shape[0] - 1):
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        changed += draw_tokens(words, own, prior[d], False, corpus, counts, settings, work, generator)
        swap_topics(words, own, prior[d], corpus, counts, settings, work, generator)
    return changed


def fold_in(
    corpus: Corpus,
    topics: Tokens,
    prior: Floats,
    counts: Counts,
    settings: Settings,
    samples: int,
    generator: np.random.Generator,
    without: int = -1,
) -> Found:
    """Ask each row alone what it says, all others' topics staying as they are; nothing has changed afterwards.

    Each row is taken out of the counts, starts anew, is swept :data:`BURN_IN` + `samples` times, and put back.

    Parameters
    ----------
    corpus : Corpus
    topics : ndarray of int32, shape (T,)
        -1 for tokens that are not in the counts (new rows).
    prior : ndarray of float64, shape (N, K)
    counts : Counts
    settings : Settings
    samples : int
    generator : numpy.random.Generator
    without : int
        A modality whose tokens have no say in the row's topics, and whose words are predicted; -1 for none.

    Returns
    -------
    Found
    """
    size, classes = prior.shape
    span = np.flatnonzero(corpus.owner == without)
    first, last = (int(span[0]), int(span[-1]) + 1) if len(span) else (0, 0)
    found = Found(np.zeros((size, classes)), np.zeros((size, classes)), np.zeros((size, last - first)))
    _fold(corpus, topics, prior, counts, settings, samples, generator, without, first, found)
    return found


@kernel
def _fold(
    corpus: Corpus,
    topics: Tokens,
    prior: Floats,
    counts: Counts,
    settings: Settings,
    samples: int,
    generator: np.random.Generator,
    without: int,
    first: int,
    found: Found,
) -> None:
    work, alpha = make_work(counts.totals.shape[0], counts.totals.shape[1]), settings.alpha
    K, longest = counts.totals.shape[1], 0
    for d in range(prior.shape[0]):
        longest = max(longest, corpus.starts[d + 1] - corpus.starts[d])
    some, guesses = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.int32)
    for d in range(prior.shape[0]):
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        move(words, own, -1.0, corpus, counts, settings)
        many = 0
        for i in range(words.shape[0]):
            if corpus.owner[words[i]] != without:
                some[many] = words[i]
                many += 1
        heard, guess = some[:many], guesses[:many]
        if many > 0:
            start_row(heard, guess, prior[d], corpus, counts, settings, work, generator)
        for step in range(BURN_IN + samples):
            draw_tokens(heard, guess, prior[d], False, corpus, counts, settings, work, generator)
            swap_topics(heard, guess, prior[d], corpus, counts, settings, work, generator)
            if step >= BURN_IN:
                S = tally(guess, prior[d], alpha, work.n)
                for k in range(K):
                    likelihood = (work.n[k] + alpha) / S
                    found.likelihood[d, k] += likelihood / samples
                    share = (work.n[k] + alpha + prior[d, k] * likelihood) / (many + K * alpha + 1.0)
                    found.shares[d, k] += share / samples
        move(heard, guess, -1.0, corpus, counts, settings)
        for v in range(found.words.shape[1]):
            for k in range(K):
                phi = (counts.words[first + v, k] + settings.beta) * counts.inverse[without, k]
                found.words[d, v] += found.shares[d, k] * phi
        move(words, own, 1.0, corpus, counts, settings)


def compile_kernels() -> None:
    """Compile the kernels, or load them from the cache, for the types they get."""
    corpus, _ = make_corpus(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), [0], 1)
    prior, settings, generator = np.full((1, 2), 0.5), Settings(1.0, 1.0, 1.0), np.random.default_rng(0)
    topics, counts = start(corpus, prior, settings, generator)
    sweep(corpus, topics, prior, counts, settings, generator)
    found = fold_in(corpus, topics, prior, counts, settings, 1, generator)
    lower_bounds(corpus, topics, counts, settings, found.shares)
