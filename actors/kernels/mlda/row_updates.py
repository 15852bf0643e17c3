"""What the sampler in `lda` does with one row of tokens, compiled.

The row's tokens z_1 … z_n and its class c are drawn from one θ, c having a prior ψ and no word. With c and θ integrated
out the row's topics have the probability

    p(z) ∝ S(n) · Π_k Γ(n_k + α),    S(n) = Σ_k ψ_k (n_k + α),

n_k being how many of them are topic k. Each modality's topics are integrated out as well: a token of word w of modality
m has the probability (N_mkw + β) / (N_mk + V_m β) in topic k, N counting all other tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.kernels.jit import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Tokens = NDArray[np.int32]

BATCH = 32
"""Factors multiplied before a logarithm is taken; from 1e-6 to 1e9 each, they stay within float64."""


class Corpus(NamedTuple):
    """Tokens of N rows in M modalities, whose words are numbered through, W of them.

    Attributes
    ----------
    starts : ndarray of int64, shape (N + 1,)
        Where each row's tokens begin.
    words : ndarray of int32, shape (T,)
        Equal words of a row are neighbours.
    owner : ndarray of int32, shape (W,)
        The modality of each word.
    sizes : ndarray of float64, shape (M,)
        How many words each modality has.
    """

    starts: Integers
    words: Tokens
    owner: Tokens
    sizes: Floats


class Counts(NamedTuple):
    """How many tokens are in which topic; whole numbers.

    Attributes
    ----------
    words : ndarray of float64, shape (W, K)
    totals : ndarray of float64, shape (M, K)
        The same by modality.
    inverse : ndarray of float64, shape (M, K)
        1 / (totals + size · beta), kept up to date.
    """

    words: Floats
    totals: Floats
    inverse: Floats


class Settings(NamedTuple):
    """α, β, and the power of the words' probabilities."""

    alpha: float
    beta: float
    temperature: float


class Work(NamedTuple):
    """Scratch space; a block is all tokens of the row that share a topic.

    Attributes
    ----------
    n : ndarray (K,)
        The row's tokens by topic.
    scores, gains : ndarray (K,)
    fits : ndarray (K, K)
        See :func:`fit_blocks`.
    product : ndarray (K, K)
    many : ndarray (M, K)
        The blocks' tokens by modality.
    pending, seen : ndarray (K,)
        Factors in a block's product; β + how often the present word was met in a block.
    """

    n: Floats
    scores: Floats
    gains: Floats
    fits: Floats
    product: Floats
    many: Floats
    pending: Floats
    seen: Floats


@kernel
def make_work(modalities: int, topics: int) -> Work:
    """Allocate the scratch space."""
    K = topics
    square, more = np.zeros((K, K)), np.zeros((K, K))
    many = np.zeros((modalities, K))
    return Work(np.zeros(K), np.zeros(K), np.zeros(K), square, more, many, np.zeros(K), np.zeros(K))


@kernel
def pick(scores: Floats, uniform: float) -> int:
    """Return an index with probability proportional to `scores` (K,), by inversion."""
    total = 0.0
    for k in range(scores.shape[0]):
        total += scores[k]
    threshold, reached, last = total * uniform, 0.0, 0
    for k in range(scores.shape[0]):
        reached += scores[k]
        if threshold < reached:
            return k
        if scores[k] > 0.0:
            last = k
    return last  # rounding: the threshold is the total


@kernel
def pick_log(log_scores: Floats, scores: Floats, uniform: float) -> int:
    """Return an index with probability proportional to exp(`log_scores`); `scores` is scratch."""
    norm = log_sum(log_scores)
    for k in range(scores.shape[0]):
        scores[k] = math.exp(log_scores[k] - norm)
    return pick(scores, uniform)


@kernel
def log_sum(values: Floats) -> float:
    """Return log Σ exp(values)."""
    top, total = values.max(), 0.0
    for k in range(values.shape[0]):
        total += math.exp(values[k] - top)
    result: float = top + math.log(total)
    return result


@kernel
def move(words: Tokens, topics: Tokens, sign: float, corpus: Corpus, counts: Counts, settings: Settings) -> None:
    """Add a row's tokens to the counts (sign 1) or take them out (-1); those of topic -1 are in none."""
    for i in range(words.shape[0]):
        if topics[i] >= 0:
            counts.words[words[i], topics[i]] += sign
            counts.totals[corpus.owner[words[i]], topics[i]] += sign
    for m in range(counts.totals.shape[0]):
        for k in range(counts.totals.shape[1]):
            counts.inverse[m, k] = 1.0 / (counts.totals[m, k] + corpus.sizes[m] * settings.beta)


@kernel
def tally(topics: Tokens, prior: Floats, alpha: float, n: Floats) -> float:
    """Count the row's topics into `n` (K,); return S(n)."""
    n[:] = 0.0
    for i in range(topics.shape[0]):
        if topics[i] >= 0:
            n[topics[i]] += 1.0
    S = 0.0
    for k in range(n.shape[0]):
        S += prior[k] * (n[k] + alpha)
    return S


@kernel
def draw_tokens(
    words: Tokens,
    topics: Tokens,
    prior: Floats,
    only_new: bool,
    corpus: Corpus,
    counts: Counts,
    settings: Settings,
    work: Work,
    generator: np.random.Generator,
) -> int:
    """Draw the topic of each token (with `only_new`, of those in none) given all others; return how many changed.

    Token i of word w of modality m gets topic k with probability proportional to

        (n_k + α) · (S(n) + ψ_k) · ((N_mkw + β) / (N_mk + V_m β))^temperature,

    all counts without it.
    """
    alpha, beta, n, scores = settings.alpha, settings.beta, work.n, work.scores
    S, changed = tally(topics, prior, alpha, n), 0
    for i in range(words.shape[0]):
        old = topics[i]
        if only_new and old >= 0:
            continue
        m = corpus.owner[words[i]]
        of_word, totals, inverse = counts.words[words[i]], counts.totals[m], counts.inverse[m]
        base = corpus.sizes[m] * beta
        if old >= 0:
            n[old] -= 1.0
            S -= prior[old]
            of_word[old] -= 1.0
            totals[old] -= 1.0
            inverse[old] = 1.0 / (totals[old] + base)
        for k in range(scores.shape[0]):
            scores[k] = (of_word[k] + beta) * inverse[k]
        if settings.temperature != 1.0:
            for k in range(scores.shape[0]):
                scores[k] = scores[k] ** settings.temperature
        total = 0.0
        for k in range(scores.shape[0]):
            total += scores[k] * (n[k] + alpha) * (S + prior[k])
            scores[k] = total
        threshold, new = total * generator.random(), 0
        while new < scores.shape[0] - 1 and scores[new] <= threshold:
            new += 1
        n[new] += 1.0
        S += prior[new]
        of_word[new] += 1.0
        totals[new] += 1.0
        inverse[new] = 1.0 / (totals[new] + base)
        topics[i] = new
        changed += new != old
    return changed


@kernel
def fit_blocks(words: Tokens, topics: Tokens, corpus: Corpus, counts: Counts, settings: Settings, work: Work) -> None:
    """Fill in work.fits: [a, b] is the log-probability of the words of block a, were it in topic b.

    The counts must be without the row. With c_w tokens of word w in block a it is, to the power of the temperature,

        Σ_w log (N_bw + β)_(c_w) - Σ_m log (N_mb + V_m β)_(c_m),    (x)_(c) = x (x + 1) … (x + c - 1).
    """
    fits, product, many, pending, seen = work.fits, work.product, work.many, work.pending, work.seen
    fits[:], product[:], many[:], pending[:] = 0.0, 1.0, 0.0, 0.0
    K, before = fits.shape[0], -1
    for i in range(words.shape[0]):
        w, a = words[i], topics[i]
        if w != before:
            seen[:] = settings.beta
            before = w
        of_word, factors, more = counts.words[w], product[a], seen[a]
        for b in range(K):
            factors[b] *= of_word[b] + more
        seen[a] += 1.0
        many[corpus.owner[w], a] += 1.0
        pending[a] += 1.0
        if pending[a] == BATCH:
            flush(product[a], fits[a])
            pending[a] = 0.0
    for a in range(K):
        if pending[a] > 0.0:
            flush(product[a], fits[a])
    for m in range(many.shape[0]):
        for a in range(K):
            if many[m, a] > 0.0:
                for b in range(K):
                    base = counts.totals[m, b] + corpus.sizes[m] * settings.beta
                    fits[a, b] -= math.lgamma(base + many[m, a]) - math.lgamma(base)
    if settings.temperature != 1.0:
        fits *= settings.temperature


@kernel
def flush(product: Floats, sums: Floats) -> None:
    """Add the logarithms of the products (K,) to the sums, and begin new products."""
    for b in range(product.shape[0]):
        sums[b] += math.log(product[b])
        product[b] = 1.0


@kernel
def swap_topics(
    words: Tokens,
    topics: Tokens,
    prior: Floats,
    corpus: Corpus,
    counts: Counts,
    settings: Settings,
    work: Work,
    generator: np.random.Generator,
) -> bool:
    """Exchange two topics in the whole row, or not, such that the posterior stays; return whether they were.

    Token by token a row hardly ever gets from one topic to another, since most of its tokens vote for where they are.
    The topic k of a random token is offered the place of each topic l in proportion to the posterior x_l after the
    exchange; that is accepted with probability min(1, Z / Z'), Z and Z' being the sums of what k is offered before and
    l after it: k is as likely to be chosen before as l after, and x_l / Z · Z / Z' = x_l / Z' is the way back.
    """
    if words.shape[0] == 0:
        return False
    n, fits, gains = work.n, work.fits, work.gains
    move(words, topics, -1.0, corpus, counts, settings)
    fit_blocks(words, topics, corpus, counts, settings, work)
    S = tally(topics, prior, settings.alpha, n)
    k = topics[int(generator.random() * topics.shape[0])]
    choice, chance = generator.random(), generator.random()
    offer(k, prior, S, n, fits, gains)
    l = pick_log(gains, work.scores, choice)  # noqa: E741 (k and l)
    accepted = False
    if l != k:
        before, gain = log_sum(gains), gains[l]
        S += (prior[k] - prior[l]) * (n[l] - n[k])
        n[k], n[l] = n[l], n[k]
        for j in range(n.shape[0]):
            fits[k, j], fits[l, j] = fits[l, j], fits[k, j]
        offer(l, prior, S, n, fits, gains)
        accepted = math.log(chance) < before - log_sum(gains) - gain if chance > 0.0 else True
        if accepted:
            for i in range(topics.shape[0]):
                if topics[i] == k:
                    topics[i] = l
                elif topics[i] == l:
                    topics[i] = k
    move(words, topics, 1.0, corpus, counts, settings)
    return accepted


@kernel
def offer(k: int, prior: Floats, S: float, n: Floats, fits: Floats, gains: Floats) -> None:
    """Fill in `gains` (K,): how the log-posterior changes when the row's topics k and l are exchanged, for each l."""
    for l in range(gains.shape[0]):  # noqa: E741
        words = fits[k, l] + fits[l, k] - fits[k, k] - fits[l, l]
        gains[l] = words + math.log1p((prior[k] - prior[l]) * (n[l] - n[k]) / S)
    gains[k] = 0.0


@kernel
def start_row(
    words: Tokens,
    topics: Tokens,
    prior: Floats,
    corpus: Corpus,
    counts: Counts,
    settings: Settings,
    work: Work,
    generator: np.random.Generator,
) -> None:
    """Put a row that is not in the counts into one topic, drawn given all other rows, and into the counts."""
    topics[:] = 0
    fit_blocks(words, topics, corpus, counts, settings, work)
    for k in range(work.gains.shape[0]):
        work.gains[k] = work.fits[0, k] + math.log(words.shape[0] * prior[k] + settings.alpha)
    topics[:] = pick_log(work.gains, work.scores, generator.random())
    move(words, topics, 1.0, corpus, counts, settings)
