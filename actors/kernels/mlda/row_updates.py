"""Compiled updates and likelihood bounds of one row of tokens, for the sampler in :mod:`actors.kernels.mlda.gibbs`.

The topics z_1 … z_n of the row's tokens and its class c are drawn from one θ; c has a further prior ψ and no word. With
c and θ integrated out, the row's topics have the probability

    p(z) ∝ S(n) · Π_k Γ(n_k + α),    S(n) = Σ_k ψ_k (n_k + α),

where n_k is the number of tokens of topic k. The word distributions φ are integrated out as well: a token of modality m
has word w with probability (N_mkw + β) / (N_mk + V_m β) in topic k, where N counts all other tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.types import FloatArray, Int32Array, IntArray

FACTORS_PER_LOG = 32
"""Factors multiplied per logarithm; with factors of 1e-6 to 1e9 the product stays within float64's range. Of ratios of
two factors there are half as many."""

SUMMED = 8
"""Topics whose weights are summed apart from those before them, so that the sums do not wait for each other."""

BOUND_STEPS = 20
"""Fixed-point iterations of :func:`lower_bounds`."""


class Corpus(NamedTuple):
    """Tokens of N rows in M modalities; the W words of all modalities are numbered consecutively.

    Attributes
    ----------
    starts : ndarray of int64, shape (N + 1,)
        First token of each row, then T.
    words : ndarray of int32, shape (T,)
        Word of each token. Equal words of a row are adjacent.
    modality : ndarray of int32, shape (W,)
        Modality of each word.
    sizes : ndarray of float64, shape (M,)
        Vocabulary size of each modality.
    exponents : ndarray of float64, shape (M,)
        The power to which the word probabilities of each modality are raised: its effective number of tokens, relative
        to their number; 1 where they are independent given the topics.
    """

    starts: IntArray
    words: Int32Array
    modality: Int32Array
    sizes: FloatArray
    exponents: FloatArray


class Counts(NamedTuple):
    """Numbers of tokens in each topic.

    Attributes
    ----------
    words : ndarray of float64, shape (W, K)
        By word and topic; whole numbers.
    totals : ndarray of float64, shape (M, K)
        By modality and topic; whole numbers.
    inverse : ndarray of float64, shape (M, K)
        1 / (totals + size · beta), updated with the counts.
    """

    words: FloatArray
    totals: FloatArray
    inverse: FloatArray


class Settings(NamedTuple):
    """Hyperparameters α and β, and the exponent of all word probabilities (1 for no tempering)."""

    alpha: float
    beta: float
    temperature: float


class Workspace(NamedTuple):
    """Scratch arrays for one row; a block is the set of its tokens that share a topic.

    Attributes
    ----------
    n : ndarray (K,)
        The row's number of tokens in each topic.
    scores, gains, product : ndarray (K,)
        Weights of the topics, and products of factors whose logarithm is not yet taken.
    block : ndarray (K,)
        Log-probability of the words of one block if its topic were another (:func:`score_block`).
    own, first, second : ndarray (K,)
        Log-probability of the words of each block in its own topic and in two others (:func:`score_blocks`).
    block_sizes : ndarray (M, K)
        Tokens of each block by modality.
    pending, seen, word_of : ndarray (K,)
        Number of factors in each block's product; β + occurrences of the current word in each block, and where the
        first of them is, as far as it was counted.
    """

    n: FloatArray
    scores: FloatArray
    gains: FloatArray
    product: FloatArray
    block: FloatArray
    own: FloatArray
    first: FloatArray
    second: FloatArray
    block_sizes: FloatArray
    pending: FloatArray
    seen: FloatArray
    word_of: IntArray


@kernel
def make_workspace(modalities: int, topics: int) -> Workspace:
    """Allocate the scratch arrays."""
    a = np.zeros((10, topics))
    sizes, word_of = np.zeros((modalities, topics)), np.zeros(topics, dtype=np.int64)
    return Workspace(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], sizes, a[8], a[9], word_of)


@kernel
def sample_index(scores: FloatArray, sums: FloatArray, uniform: float) -> int:
    """Return an index drawn with probability proportional to `scores` (K,), by inversion of `uniform`.

    `sums` (K,) is overwritten.
    """
    K = scores.shape[0]
    whole = K // SUMMED
    for block in range(whole):
        k = block * SUMMED
        low = (scores[k] + scores[k + 1]) + (scores[k + 2] + scores[k + 3])
        sums[block] = low + ((scores[k + 4] + scores[k + 5]) + (scores[k + 6] + scores[k + 7]))
    total = 0.0
    for block in range(whole):
        total += sums[block]
    for k in range(whole * SUMMED, K):
        total += scores[k]
    threshold, reached, block, last = total * uniform, 0.0, 0, 0
    while block < whole and reached + sums[block] <= threshold:
        reached += sums[block]
        block += 1
    for k in range(block * SUMMED, K):
        reached += scores[k]
        if threshold < reached:
            return k
    for k in range(K):  # reached only by rounding, where the threshold is about the total
        if scores[k] > 0.0:
            last = k
    return last


@kernel
def update_counts(
    words: Int32Array, topics: Int32Array, sign: float, corpus: Corpus, counts: Counts, settings: Settings
) -> None:
    """Add a row's tokens to the counts (sign 1) or subtract them (-1), except tokens of topic -1."""
    for i in range(words.shape[0]):
        if topics[i] >= 0:
            counts.words[words[i], topics[i]] += sign
            counts.totals[corpus.modality[words[i]], topics[i]] += sign
    for m in range(counts.totals.shape[0]):
        for k in range(counts.totals.shape[1]):
            counts.inverse[m, k] = 1.0 / (counts.totals[m, k] + corpus.sizes[m] * settings.beta)


@kernel
def count_topics(topics: Int32Array, prior: FloatArray, alpha: float, n: FloatArray) -> float:
    """Count the tokens of each topic into `n` (K,) and return S(n)."""
    n[:] = 0.0
    for i in range(topics.shape[0]):
        if topics[i] >= 0:
            n[topics[i]] += 1.0
    S = 0.0
    for k in range(n.shape[0]):
        S += prior[k] * (n[k] + alpha)
    return S


@kernel
def sample_topics(
    words: Int32Array,
    topics: Int32Array,
    prior: FloatArray,
    only_new: bool,
    corpus: Corpus,
    counts: Counts,
    settings: Settings,
    work: Workspace,
    generator: np.random.Generator,
) -> int:
    """Sample the topic of each token given all others, and return the number of changed topics.

    With `only_new`, only tokens of topic -1 are sampled. A token of word w of modality m gets topic k with probability
    proportional to

        (n_k + α) · (S(n) + ψ_k) · ((N_mkw + β) / (N_mk + V_m β))^(temperature · exponent of m),

    where all counts exclude the token.
    """
    alpha, beta, n, scores = settings.alpha, settings.beta, work.n, work.scores
    # Not rows of these: making a view of an array takes longer than sampling a token.
    of_word, totals, inverse = counts.words, counts.totals, counts.inverse
    S, changed = count_topics(topics, prior, alpha, n), 0
    powers, powered, last = work.product, -1, 0
    for i in range(words.shape[0]):
        old = topics[i]
        if only_new and old >= 0:
            continue
        m = corpus.modality[words[i]]
        w, base = words[i], corpus.sizes[m] * beta
        # Counts without the token differ in its old topic alone; they are written only if the topic changes.
        n_old, of_old, inverse_old, S_other = 0.0, 0.0, 0.0, S
        if old >= 0:
            n_old, of_old, S_other = n[old] - 1.0, of_word[w, old] - 1.0, S - prior[old]
            inverse_old = 1.0 / (totals[m, old] - 1.0 + base)
        exponent = settings.temperature * corpus.exponents[m]
        if exponent == 1.0:
            for k in range(scores.shape[0]):
                scores[k] = (of_word[w, k] + beta) * inverse[m, k] * (n[k] + alpha) * (S_other + prior[k])
            if old >= 0:
                scores[old] = (of_old + beta) * inverse_old * (n_old + alpha) * (S_other + prior[old])
        else:
            if w != powered:
                for k in range(scores.shape[0]):
                    powers[k] = ((of_word[w, k] + beta) * inverse[m, k]) ** exponent
                powered = w
            else:  # since the last token of this word, only the counts of two topics have changed; powers are slow
                powers[last] = ((of_word[w, last] + beta) * inverse[m, last]) ** exponent
            if old >= 0:
                powers[old] = ((of_old + beta) * inverse_old) ** exponent
            for k in range(scores.shape[0]):
                scores[k] = powers[k] * (n[k] + alpha) * (S_other + prior[k])
            if old >= 0:
                scores[old] = powers[old] * (n_old + alpha) * (S_other + prior[old])
        last = new = sample_index(scores, work.gains, generator.random())
        if new == old:
            continue
        if old >= 0:
            n[old], of_word[w, old], inverse[m, old] = n_old, of_old, inverse_old
            totals[m, old] -= 1.0
        n[new] += 1.0
        S = S_other + prior[new]
        of_word[w, new] += 1.0
        totals[m, new] += 1.0
        inverse[m, new] = 1.0 / (totals[m, new] + base)
        topics[i] = new
        changed += 1
    return changed


@kernel
def score_block(
    words: Int32Array, topics: Int32Array, a: int, corpus: Corpus, counts: Counts, settings: Settings, work: Workspace
) -> None:
    """Fill in ``work.block[b]``: the log-probability of the words of block a if its topic were b, for each b.

    The counts must exclude the row. With c_w tokens of word w and c_m tokens of modality m in block a, it is the
    temperature times the sum over modalities m, each multiplied by its exponent, of

        Σ_w log (N_bw + β)_(c_w) - log (N_mb + V_m β)_(c_m),    (x)_(c) = x (x + 1) … (x + c - 1).
    """
    scores, product, sizes = work.block, work.product, work.block_sizes[:, a]
    scores[:], product[:], sizes[:] = 0.0, 1.0, 0.0
    K, before, exponent, seen, pending = scores.shape[0], -1, 1.0, settings.beta, 0
    for i in range(words.shape[0]):
        if topics[i] != a:
            continue
        w = words[i]
        if w != before:
            of_modality = corpus.exponents[corpus.modality[w]]
            if pending > 0 and of_modality != exponent:
                flush_products(product, scores, exponent)
                pending = 0
            exponent, seen, before = of_modality, settings.beta, w
        of_word = counts.words[w]
        for b in range(K):
            product[b] *= of_word[b] + seen
        seen += 1.0
        sizes[corpus.modality[w]] += 1.0
        pending += 1
        if pending == FACTORS_PER_LOG:
            flush_products(product, scores, exponent)
            pending = 0
    if pending > 0:
        flush_products(product, scores, exponent)
    for m in range(sizes.shape[0]):
        base, totals, exponent = corpus.sizes[m] * settings.beta, counts.totals[m], corpus.exponents[m]
        if sizes[m] > FACTORS_PER_LOG:
            for b in range(K):
                scores[b] -= exponent * (math.lgamma(totals[b] + base + sizes[m]) - math.lgamma(totals[b] + base))
        elif sizes[m] > 0.0:
            for i in range(int(sizes[m])):
                for b in range(K):
                    product[b] *= totals[b] + (base + i)
            flush_products(product, scores, -exponent)
    if settings.temperature != 1.0:
        scores *= settings.temperature


@kernel
def flush_products(product: FloatArray, sums: FloatArray, exponent: float) -> None:
    """Add the logarithms of the products (K,), times `exponent`, to `sums`, and reset the products to one."""
    for b in range(product.shape[0]):
        sums[b] += exponent * math.log(product[b])
        product[b] = 1.0


@kernel
def score_blocks(
    words: Int32Array,
    topics: Int32Array,
    topic: int,
    corpus: Corpus,
    counts: Counts,
    settings: Settings,
    work: Workspace,
    scores: FloatArray,
) -> None:
    """Fill in `scores` (K,): the log-probability of the words of each block if its topic were `topic`.

    For topic -1 it is that in its own topic. It is as in :func:`score_block`, and zero for a block without tokens.
    """
    product, sizes, pending, seen, word_of = work.product, work.block_sizes, work.pending, work.seen, work.word_of
    scores[:], product[:], sizes[:], pending[:], word_of[:] = 0.0, 1.0, 0.0, 0.0, -1
    before, first, exponent = -1, 0, 1.0
    for i in range(words.shape[0]):
        w, a = words[i], topics[i]
        m = corpus.modality[w]
        if w != before:
            if before >= 0 and corpus.exponents[m] != exponent:
                flush_pending(work, scores, exponent)
            exponent, before, first = corpus.exponents[m], w, i
        if word_of[a] != first:
            seen[a], word_of[a] = settings.beta, first
        b = topic if topic >= 0 else a
        product[a] *= (counts.words[w, b] + seen[a]) / (
            counts.totals[m, b] + corpus.sizes[m] * settings.beta + sizes[m, a]
        )
        seen[a] += 1.0
        sizes[m, a] += 1.0
        pending[a] += 1.0
        if pending[a] == FACTORS_PER_LOG // 2:
            scores[a] += exponent * math.log(product[a])
            product[a], pending[a] = 1.0, 0.0
    flush_pending(work, scores, exponent)
    if settings.temperature != 1.0:
        scores *= settings.temperature


@kernel
def flush_pending(work: Workspace, scores: FloatArray, exponent: float) -> None:
    """Add the logarithms of the products of all blocks that have factors to their scores."""
    for a in range(work.pending.shape[0]):
        if work.pending[a] > 0.0:
            scores[a] += exponent * math.log(work.product[a])
            work.product[a], work.pending[a] = 1.0, 0.0


@kernel
def propose_topic_swap(
    words: Int32Array,
    topics: Int32Array,
    prior: FloatArray,
    corpus: Corpus,
    counts: Counts,
    settings: Settings,
    work: Workspace,
    generator: np.random.Generator,
) -> bool:
    """Propose to swap two topics in the whole row, by a Metropolis-Hastings step; return whether it was accepted.

    Sampling single tokens rarely moves a row from one topic to another, since each token follows the row's others. With
    k the topic of a random token, topic l is proposed in proportion to the posterior x_l after the swap of k and l. The
    swap is accepted with probability min(1, Z / Z'), where Z = Σ_l x_l, and Z' is the same sum for topic l after the
    swap: k is chosen before the swap with the probability of l after it, and with x the present posterior
    x · (x_l / Z) · min(1, Z / Z') = x_l · (x / Z') · min(1, Z' / Z), which is detailed balance.
    """
    if words.shape[0] == 0:
        return False
    n, gains, block, own, column = work.n, work.gains, work.block, work.own, work.first
    update_counts(words, topics, -1.0, corpus, counts, settings)
    S = count_topics(topics, prior, settings.alpha, n)
    k = topics[int(generator.random() * topics.shape[0])]
    choice, chance = generator.random(), generator.random()
    score_block(words, topics, k, corpus, counts, settings, work)
    score_blocks(words, topics, -1, corpus, counts, settings, work, own)
    score_blocks(words, topics, k, corpus, counts, settings, work, column)
    before, _ = fill_swap_gains(k, prior, S, n, block, column, own, gains)
    l = sample_index(gains, work.scores, choice)  # noqa: E741 (k and l)
    accepted = False
    if l != k:
        ratio = before / gains[l]
        S += (prior[k] - prior[l]) * (n[l] - n[k])
        n[k], n[l] = n[l], n[k]
        # After the swap the block of topic l is the one that was that of k, and the other way round.
        score_blocks(words, topics, l, corpus, counts, settings, work, work.second)
        swapped = work.second
        swapped[k], own[k], own[l] = own[l], column[l], block[l]
        after, scale = fill_swap_gains(l, prior, S, n, block, swapped, own, gains)
        accepted = math.log(chance) < math.log(ratio) - math.log(after) - scale if chance > 0.0 else True
        if accepted:
            for i in range(topics.shape[0]):
                if topics[i] == k:
                    topics[i] = l
                elif topics[i] == l:
                    topics[i] = k
    update_counts(words, topics, 1.0, corpus, counts, settings)
    return accepted


@kernel
def fill_swap_gains(
    k: int,
    prior: FloatArray,
    S: float,
    n: FloatArray,
    block: FloatArray,
    column: FloatArray,
    own: FloatArray,
    gains: FloatArray,
) -> tuple[float, float]:
    """Fill in `gains` (K,): the factor of the posterior if topics k and l are swapped in the row, for each l.

    With b_kl the log-probability of the words of block k in topic l, `block` is b_kl, `column` is b_lk, and `own` is
    b_ll. All gains are divided by the same number; return their sum, and the logarithm of that number.
    """
    for l in range(gains.shape[0]):  # noqa: E741
        gains[l] = block[l] + column[l] - own[k] - own[l]
    gains[k] = 0.0
    scale, total = gains.max(), 0.0
    for l in range(gains.shape[0]):  # noqa: E741
        factor = 1.0 + (prior[k] - prior[l]) * (n[l] - n[k]) / S
        gains[l] = math.exp(gains[l] - scale) * max(factor, 0.0)
        total += gains[l]
    return total, scale


@kernel
def initialise_row(
    words: Int32Array,
    topics: Int32Array,
    prior: FloatArray,
    corpus: Corpus,
    counts: Counts,
    settings: Settings,
    work: Workspace,
    generator: np.random.Generator,
) -> None:
    """Sample one topic for all tokens of a row given all other rows, and add the row to the counts."""
    topics[:] = 0
    score_block(words, topics, 0, corpus, counts, settings, work)
    top = work.block.max()
    for k in range(work.gains.shape[0]):
        work.gains[k] = math.exp(work.block[k] - top) * (words.shape[0] * prior[k] + settings.alpha)
    topics[:] = sample_index(work.gains, work.scores, generator.random())
    update_counts(words, topics, 1.0, corpus, counts, settings)


@kernel
def class_scores(corpus: Corpus, topics: Int32Array, counts: Counts, settings: Settings) -> FloatArray:
    """Return log p(the row's tokens of modality m | all have topic k), with φ estimated from all other rows.

    The counts are unchanged on return.

    Parameters
    ----------
    corpus : Corpus
        Its exponents are not used.
    topics : ndarray of int32, shape (T,)
        -1 for tokens that are not in the counts.
    counts : Counts
    settings : Settings
        Its temperature is not used.

    Returns
    -------
    ndarray of float64, shape (M, N, K)
        Zeros where a row has no tokens of a modality.
    """
    M, K, N = counts.totals.shape[0], counts.totals.shape[1], corpus.starts.shape[0] - 1
    scores, work = np.zeros((M, N, K)), make_workspace(M, K)
    plain = Settings(settings.alpha, settings.beta, 1.0)
    bare = Corpus(corpus.starts, corpus.words, corpus.modality, corpus.sizes, np.ones(M))
    for d in range(N):
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        update_counts(words, own, -1.0, corpus, counts, settings)
        first = 0
        while first < words.shape[0]:
            m, end = corpus.modality[words[first]], first
            while end < words.shape[0] and corpus.modality[words[end]] == m:
                end += 1
            score_block(words[first:end], np.zeros(end - first, dtype=np.int32), 0, bare, counts, plain, work)
            scores[m, d] = work.block
            first = end
        update_counts(words, own, 1.0, corpus, counts, settings)
    return scores


# --- lower bound of the likelihood --------------------------------------------------------------------------------


@kernel
def lower_bounds(corpus: Corpus, topics: Int32Array, counts: Counts, settings: Settings, n: FloatArray) -> FloatArray:
    """Return a lower bound of log p(tokens) of each row, with φ estimated from all other rows and without the prior ψ.

    The counts are unchanged on return.

    Parameters
    ----------
    corpus : Corpus
    topics : ndarray of int32, shape (T,)
        -1 for tokens that are not in the counts.
    counts : Counts
    settings : Settings
        Its temperature is not used.
    n : ndarray of float64, shape (N, K)
        Expected tokens of each row by topic, from which the fixed-point iteration starts.

    Returns
    -------
    ndarray of float64, shape (N,)
        Zeros for rows without tokens.
    """
    work, bounds = make_workspace(counts.totals.shape[0], counts.totals.shape[1]), np.zeros(n.shape[0])
    for d in range(n.shape[0]):
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        if words.shape[0] > 0:
            update_counts(words, own, -1.0, corpus, counts, settings)
            work.n[:] = n[d]
            bounds[d] = _bound_row(words, corpus, counts, settings, work, BOUND_STEPS)
            update_counts(words, own, 1.0, corpus, counts, settings)
    return bounds


@kernel
def digamma(x: float) -> float:
    """Return the digamma function at x > 0 (Abramowitz and Stegun 1964, 6.3.5 and 6.3.18)."""
    shift = 0.0
    while x < 10.0:
        shift -= 1.0 / x
        x += 1.0
    r = 1.0 / (x * x)
    series = r * (1.0 / 12.0 - r * (1.0 / 120.0 - r * (1.0 / 252.0 - r * (1.0 / 240.0 - r / 132.0))))
    return shift + math.log(x) - 0.5 / x - series


@kernel
def _bound_row(
    words: Int32Array, corpus: Corpus, counts: Counts, settings: Settings, work: Workspace, steps: int
) -> float:
    """Return a lower bound of log p(words) under θ ~ Dirichlet(α) and the mean φ of the counts, which exclude the row.

    It is the bound of D. M. Blei, A. Y. Ng, M. I. Jordan, "Latent Dirichlet allocation", 2003, section 5.3, with
    q(θ) = Dirichlet(γ): the largest over `steps` fixed-point iterations of γ from α + ``work.n``.
    """
    K, alpha, beta = work.n.shape[0], settings.alpha, settings.beta
    gamma, weights, shares = work.n, work.gains, work.scores
    gamma += alpha
    best, constant = -np.inf, math.lgamma(K * alpha) - K * math.lgamma(alpha)
    for _ in range(steps):
        total = gamma.sum()
        at_total = digamma(total)
        bound = constant - math.lgamma(total)
        for k in range(K):
            mean_log = digamma(gamma[k]) - at_total
            bound += math.lgamma(gamma[k]) + (alpha - gamma[k]) * mean_log
            weights[k] = math.exp(mean_log)
            gamma[k] = alpha
        i = 0
        while i < words.shape[0]:
            w, occurrences = words[i], 0.0
            while i < words.shape[0] and words[i] == w:
                occurrences += 1.0
                i += 1
            norm = 0.0
            for k in range(K):
                shares[k] = weights[k] * (counts.words[w, k] + beta) * counts.inverse[corpus.modality[w], k]
                norm += shares[k]
            bound += occurrences * math.log(norm)
            for k in range(K):
                gamma[k] += occurrences * shares[k] / norm
        best = max(best, bound)
    return best
