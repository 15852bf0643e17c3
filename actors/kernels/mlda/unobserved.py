"""Gibbs sampling of topics where some counts of a row are missing, without a draw for any unobserved token of a row.

The model is that of :mod:`actors.kernels.mlda.variational`: of a row and modality m that lacks the counts of some
words, the n_m observed tokens are multinomial over the observed words O alone, with the likelihood

    Π_w (Σ_k θ_k φ_mkw)^n_mw · (Σ_k θ_k φ_mk,O)^-n_m,    φ_mk,O = Σ_{w in O} φ_mkw.

In the place of the number of unobserved tokens, which has a heavy tail (the negative power is its sum), there is one
gamma variable s_m for each such modality of a row, and one for the size of the row: G_k = λ θ_k with
λ ~ Gamma(K α + 1 + n - Σ_m n_m, 1), n all tokens of the row. By

    p^-n = ∫ s^(n - 1) exp(-s p) ds / Γ(n)

the exponent is linear in θ and in φ. With c the row's class, whose prior is ψ, and N_mkw the numbers of tokens, all
conditional distributions are of known form:

    s_m | G, φ ~ Gamma(n_m, Σ_k G_k φ_mk,O)
    p(topics z | s, φ) ∝ S Π_k Γ(n_k + α) r_k^-n_k Π φ,    r_k = 1 + Σ_m s_m φ_mk,O,    S = Σ_k ψ_k (n_k + α) / r_k
    c | z, s, φ ∝ ψ_k (n_k + α) / r_k
    G_k | z, c, s, φ ~ Gamma(α + n_k + [c = k], r_k)
    M_mkw | φ, s, G ~ Poisson(φ_mkw Σ_{rows lacking w} s_m G_k)
    φ_mk | z, M ~ Dirichlet(β + N_mk + M_mk)

The last two follow from exp(-s G_k φ_mk,O) = exp(-s G_k) exp(s G_k Σ_{w lacking} φ_mkw) and the exponential series: M
are the numbers of unobserved tokens of all rows together. A sweep samples the rows that lack nothing as in
:mod:`actors.kernels.mlda.gibbs`, where M belongs to the counts and φ is integrated out; then it draws φ, the other rows
given φ, and M. Their λ is drawn anew each time, as it is independent of θ.

A modality that counts t_m observations a token (:attr:`Corpus.exponents`, and the temperature) has word probabilities
raised to t_m: the negative power is t_m n_m, the shape of s_m, and that of λ grows by (1 - t_m) n_m. As a token counts
in full in the numbers N, the rates of M are divided by t_m.

Throughout, N is the number of rows, L that of rows that lack counts, W that of words, M that of modalities and K that
of topics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.mlda import gibbs, row_updates
from actors.kernels.mlda.gibbs import counts_from_words
from actors.kernels.mlda.row_updates import Corpus, Counts, Settings
from actors.kernels.special import digamma, gammaln
from actors.kernels.types import BoolArray, FloatArray, Int32Array, IntArray

DRAWS = 4
"""Draws of s and θ in a sweep of a row: they cost less than its tokens, and are averaged."""

FILL_STEPS = 10
"""Steps of :func:`fill_counts`."""

LEAST_SEEN = 1e-12
"""Least expected probability of the observed words of a row together, as in variational Bayes."""

LEAST_MASS, MOST_TOKENS = 1e-280, 1e15
"""Below this a probability underflows; above this number float64 does not count single tokens."""


class Unobserved(NamedTuple):
    """The words whose counts are missing, in L of the rows.

    Attributes
    ----------
    rows : ndarray of int64, shape (L,)
        The rows, ascending.
    starts : ndarray of int64, shape (L + 1,)
        First missing word of each of these rows, then C.
    words : ndarray of int32, shape (C,)
        The missing words, ascending in a row.
    tokens : ndarray of float64, shape (L, M)
        n_m, the observed tokens of each modality that lacks some of its words in the row; 0 for the others.
    """

    rows: IntArray
    starts: IntArray
    words: Int32Array
    tokens: FloatArray


class RowDraws(NamedTuple):
    """What a sweep draws for the L rows.

    Attributes
    ----------
    theta : ndarray of float64, shape (L, K)
        The last θ, from which the next sweep starts.
    likelihood, shares : ndarray of float64, shape (L, K)
        Means over the :data:`DRAWS`: p(the row's tokens | class k) up to a factor, given the topics, and θ.
    unseen : ndarray of float64, shape (L, K)
        Expected numbers of unobserved tokens.
    """

    theta: FloatArray
    likelihood: FloatArray
    shares: FloatArray
    unseen: FloatArray


class WordTables(NamedTuple):
    """Word distributions, each of shape (W, K): φ, φ^t and t log φ, t the effective number of tokens."""

    phi: FloatArray
    powers: FloatArray
    logs: FloatArray


class RowWorkspace(NamedTuple):
    """Scratch arrays for one row.

    Attributes
    ----------
    n, odds, inverse, scores, sums : ndarray (K,)
        Tokens by topic; ψ_k / r_k and 1 / r_k; weights of the topics, and room for their sums.
    scales : ndarray (M,)
        s_m.
    seen : ndarray (M, K)
        φ_mk,O; 0 for modalities that lack nothing.
    blocks : ndarray (K, K)
        Log-probability of the words of each block (the tokens of one topic) if its topic were another.
    own, column : ndarray (K,)
        Its diagonal and one of its columns, as they are or after a swap.
    """

    n: FloatArray
    odds: FloatArray
    inverse: FloatArray
    scores: FloatArray
    sums: FloatArray
    scales: FloatArray
    seen: FloatArray
    blocks: FloatArray
    own: FloatArray
    column: FloatArray


def make_unobserved(
    absent: Sequence[BoolArray | None], tokens: Sequence[IntArray], first: Sequence[int]
) -> Unobserved | None:
    """Return which words are missing in which rows; None if none is.

    Parameters
    ----------
    absent : sequence of ndarray of bool, shape (N, V), or None
        For each modality: true where a count is missing. Without any token of its modality in the row it says nothing,
        and is left out.
    tokens : sequence of ndarray of int, shape (N,)
        The observed tokens of each row in each modality.
    first : sequence of int
        The first word of each modality.
    """
    N = len(tokens[0])
    lacks = np.zeros((N, len(tokens)), dtype=bool)
    rows, words = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for m, each in enumerate(absent):
        if each is not None:
            row, word = np.nonzero(each & (tokens[m] > 0)[:, None])
            lacks[row, m] = True
            rows.append(row)
            words.append(word + first[m])
    joined = np.concatenate(rows)
    order = np.argsort(joined, kind="stable")
    lacking = np.flatnonzero(lacks.any(axis=1))
    if not len(lacking):
        return None
    starts = np.append(0, np.cumsum(np.bincount(joined, minlength=N)[lacking]))
    observed = np.where(lacks, np.stack(tokens, axis=1), 0)[lacking].astype(np.float64)
    return Unobserved(lacking, starts, np.concatenate(words)[order].astype(np.int32), observed)


def without_rows(corpus: Corpus, rows: IntArray) -> tuple[Corpus, BoolArray]:
    """Return the corpus in which these rows have no tokens, and which of its tokens (T,) are left."""
    sizes = np.diff(corpus.starts)
    kept = np.ones(len(sizes), dtype=bool)
    kept[rows] = False
    tokens = np.repeat(kept, sizes)
    starts = np.append(0, np.cumsum(np.where(kept, sizes, 0)))
    return corpus._replace(starts=starts, words=corpus.words[tokens]), tokens


# --- numbers of unobserved tokens -----------------------------------------------------------------------------------


def first_theta(corpus: Corpus, unobserved: Unobserved, topics: Int32Array, classes: int, alpha: float) -> FloatArray:
    """Return the θ (L, K) from which the first sweep starts: the shares of the topics among the observed tokens."""
    n = gibbs.row_counts(corpus, topics, classes)[unobserved.rows] + alpha
    theta: FloatArray = n / n.sum(axis=1, keepdims=True)
    return theta


def fill_counts(
    corpus: Corpus, unobserved: Unobserved, topics: Int32Array, counts: Counts, settings: Settings
) -> Counts:
    """Return the counts with unobserved tokens as θ and φ expect them, in whole numbers.

    θ are those of :func:`first_theta`, φ the means, which follow from the counts in :data:`FILL_STEPS` steps.

    Parameters
    ----------
    corpus : Corpus
    unobserved : Unobserved
    topics : ndarray of int32, shape (T,)
    counts : Counts
        Of observed tokens alone.
    settings : Settings
    """
    K, beta, filled = counts.words.shape[1], settings.beta, counts
    theta = first_theta(corpus, unobserved, topics, K, settings.alpha)
    for _ in range(FILL_STEPS):
        phi = (filled.words + beta) * filled.inverse[corpus.modality]
        rates, _ = _expected_rates(corpus, unobserved, phi, theta)
        filled = counts_from_words(corpus, counts.words + np.rint(phi * rates), beta)
    return filled


def _expected_rates(
    corpus: Corpus, unobserved: Unobserved, phi: FloatArray, theta: FloatArray
) -> tuple[FloatArray, float]:
    """Return Σ n_m θ_k / p_O over the rows that lack each word, (W, K), and -Σ n_m log p_O.

    p_O = 1 - Σ_k θ_k Σ_{w missing} φ_kw; of geometric means of φ, these are those of a bound.
    """
    rates = np.zeros_like(phi)
    return rates, float(_add_rates(*unobserved, corpus.modality, phi, theta, rates))


@kernel
def _add_rates(
    rows: IntArray,
    starts: IntArray,
    words: Int32Array,
    tokens: FloatArray,
    modality: Int32Array,
    phi: FloatArray,
    theta: FloatArray,
    rates: FloatArray,
) -> float:
    """Fill in `rates` (W, K), and return the sum of :func:`_expected_rates`."""
    unseen, total = np.empty(tokens.shape[1]), 0.0
    for r in range(rows.shape[0]):
        unseen[:] = 0.0
        for i in range(starts[r], starts[r + 1]):
            for k in range(theta.shape[1]):
                unseen[modality[words[i]]] += theta[r, k] * phi[words[i], k]
        for m in range(unseen.shape[0]):
            unseen[m] = max(1.0 - unseen[m], LEAST_SEEN)
            total -= tokens[r, m] * math.log(unseen[m])
        for i in range(starts[r], starts[r + 1]):
            m = modality[words[i]]
            for k in range(theta.shape[1]):
                rates[words[i], k] += tokens[r, m] / unseen[m] * theta[r, k]
    return total


def draw_log_words(corpus: Corpus, counts: Counts, beta: float, generator: np.random.Generator) -> FloatArray:
    """Draw log φ (W, K) from Dirichlet(β + counts).

    A gamma variable of a small shape a underflows, but not its logarithm: one of the shape a + 1 times U^(1/a) has the
    shape a (G. Marsaglia, W. W. Tsang, "A simple method for generating gamma variables", 2000, section 6).
    """
    shapes = counts.words + beta
    logs: FloatArray = np.log(generator.standard_gamma(shapes + 1.0))
    logs -= generator.standard_exponential(shapes.shape) / shapes
    for words in _word_ranges(corpus):
        own = logs[words]
        own -= own.max(axis=0)
        own -= np.log(np.exp(own).sum(axis=0))
    return logs


def _word_ranges(corpus: Corpus) -> list[slice]:
    """Return the range of the words of each modality."""
    ends = np.cumsum(corpus.sizes).astype(np.int64)
    return [slice(int(end - size), int(end)) for end, size in zip(ends, corpus.sizes, strict=True)]


# --- initial topics -------------------------------------------------------------------------------------------------


def start(
    corpus: Corpus,
    unobserved: Unobserved,
    prior: FloatArray,
    settings: Settings,
    generator: np.random.Generator,
    tries: int = 1,
) -> tuple[Int32Array, Counts]:
    """Return initial topics, one for all tokens of a row, and counts with unobserved tokens in whole numbers.

    As :func:`actors.kernels.mlda.gibbs.start`, where a row that lacks words is drawn given the distributions of a topic
    over the others, which are Dirichlet distributions too. The numbers of unobserved tokens are those that variational
    Bayes expects of rows of one topic, updated after each pass, and its bound compares the tries.
    """
    K, beta = prior.shape[1], settings.beta
    whole, kept = without_rows(corpus, unobserved.rows)

    def expected(topics: Int32Array, counts: Counts) -> tuple[FloatArray, float]:
        own = np.eye(K)[topics[corpus.starts[unobserved.rows]]]  # a row that lacks counts has tokens
        log_phi = digamma(counts.words + beta) - digamma(1.0 / counts.inverse)[corpus.modality]
        rates, value = _expected_rates(corpus, unobserved, np.exp(log_phi), own)
        return np.exp(log_phi) * rates, value

    def place_rows(topics: Int32Array, counts: Counts, tempered: Settings) -> Counts:
        own = topics[kept]
        order = generator.permutation(len(corpus.starts) - 1)
        gibbs.place(whole, own, prior, counts, tempered, True, order, generator)
        topics[kept] = own
        order = generator.permutation(len(unobserved.rows))
        _place(corpus, unobserved, topics, prior, counts, tempered, True, order, generator)
        unseen, _ = expected(topics, counts)
        return counts_from_words(corpus, gibbs.count(corpus, topics, K, beta).words + unseen, beta)

    def score(topics: Int32Array, counts: Counts) -> float:
        value = gibbs.log_joint_of_topics(corpus, topics, prior, settings.alpha) + expected(topics, counts)[1]
        return value + _word_bound(corpus, gibbs.count(corpus, topics, K, beta), counts, beta)

    topics, counts = gibbs.anneal_rows(corpus, K, settings, generator, tries, place_rows, score)
    observed = gibbs.count(corpus, topics, K, beta).words
    return topics, counts_from_words(corpus, observed + np.rint(counts.words - observed), beta)


def _word_bound(corpus: Corpus, observed: Counts, counts: Counts, beta: float) -> float:
    """Return E[log p(φ) + log p(observed tokens | φ) - log q(φ)] up to a constant, q = Dirichlet(β + counts)."""
    shapes, totals = counts.words + beta, 1.0 / counts.inverse
    log_phi = digamma(shapes) - digamma(totals)[corpus.modality]
    own = gammaln(shapes) + (observed.words - counts.words) * log_phi
    return float(own.sum() - gammaln(totals).sum())


def place(
    corpus: Corpus,
    unobserved: Unobserved,
    topics: Int32Array,
    prior: FloatArray,
    counts: Counts,
    settings: Settings,
    generator: np.random.Generator,
) -> None:
    """Sample topics for tokens of topic -1, as :func:`actors.kernels.mlda.gibbs.place`, all rows in their order."""
    whole, kept = without_rows(corpus, unobserved.rows)
    own = topics[kept]
    gibbs.place(whole, own, prior, counts, settings, False, np.arange(len(corpus.starts) - 1), generator)
    topics[kept] = own
    _place(corpus, unobserved, topics, prior, counts, settings, False, np.arange(len(unobserved.rows)), generator)


@kernel
def _place(
    corpus: Corpus,
    unobserved: Unobserved,
    topics: Int32Array,
    prior: FloatArray,
    counts: Counts,
    settings: Settings,
    restart: bool,
    order: IntArray,
    generator: np.random.Generator,
) -> None:
    """Sample topics for tokens of topic -1 of the rows that lack counts, or with `restart` one topic for each row."""
    M, K = counts.totals.shape
    work, totals = row_updates.make_workspace(M, K), np.empty((M, K))
    for r in order:
        d = unobserved.rows[r]
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own = topics[corpus.starts[d] : corpus.starts[d + 1]]
        if not restart and own.max() >= 0:
            row_updates.sample_topics(words, own, prior[d], True, corpus, counts, settings, work, generator)
            continue
        row_updates.update_counts(words, own, -1.0, corpus, counts, settings)
        own[:] = 0
        observed = observed_counts(r, unobserved, corpus, counts, settings.beta, totals)
        row_updates.score_block(words, own, 0, corpus, observed, settings, work)
        top = work.block.max()
        for k in range(K):
            work.gains[k] = math.exp(work.block[k] - top) * (words.shape[0] * prior[d, k] + settings.alpha)
        own[:] = row_updates.sample_index(work.gains, work.scores, generator.random())
        row_updates.update_counts(words, own, 1.0, corpus, counts, settings)


@kernel
def observed_counts(
    r: int,
    unobserved: Unobserved,
    corpus: Corpus,
    counts: Counts,
    beta: float,
    totals: FloatArray,
) -> Counts:
    """Return the counts as seen by row r of the L: in `totals` (M, K), those of the words that it does not lack.

    They are such that the sum of β + counts over these words is `totals` + β times the size of the vocabulary.
    """
    totals[:] = counts.totals
    for m in range(totals.shape[0]):
        if unobserved.tokens[r, m] > 0.0:
            totals[m] = -corpus.sizes[m] * beta
    i, end = unobserved.starts[r], unobserved.starts[r + 1]
    for w in range(counts.words.shape[0]):
        if i < end and unobserved.words[i] == w:
            i += 1
        elif unobserved.tokens[r, corpus.modality[w]] > 0.0:
            for k in range(totals.shape[1]):
                totals[corpus.modality[w], k] += counts.words[w, k] + beta
    return Counts(counts.words, totals, counts.inverse)


# --- sweeps -----------------------------------------------------------------------------------------------------------


def sweep(
    corpus: Corpus,
    unobserved: Unobserved,
    topics: Int32Array,
    prior: FloatArray,
    counts: Counts,
    settings: Settings,
    theta: FloatArray,
    generator: np.random.Generator,
) -> tuple[int, Counts, RowDraws]:
    """Sample the topics of all rows, and the numbers of unobserved tokens.

    Parameters
    ----------
    corpus : Corpus
    unobserved : Unobserved
    topics : ndarray of int32, shape (T,)
        Changed in place.
    prior : ndarray of float64, shape (N, K)
        ψ, rows summing to one.
    counts : Counts
        With the unobserved tokens; overwritten.
    settings : Settings
    theta : ndarray of float64, shape (L, K)
        Of the sweep before, or :func:`first_theta`.
    generator : numpy.random.Generator

    Returns
    -------
    moved : int
        Number of tokens whose topic changed when it was sampled (swaps are not included).
    counts : Counts
    draws : RowDraws
    """
    whole, kept = without_rows(corpus, unobserved.rows)
    own = topics[kept]
    moved = gibbs.sweep(whole, own, prior, counts, settings, generator)
    topics[kept] = own
    effective = settings.temperature * corpus.exponents
    log_phi = draw_log_words(corpus, counts, settings.beta, generator)
    tables = _tables(log_phi, effective[corpus.modality])
    draws = RowDraws(theta.copy(), np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta))
    rates = np.zeros_like(log_phi)
    moved += _sweep_rows(corpus, unobserved, topics, prior, settings.alpha, effective, tables, draws, rates, generator)
    drawn = draw_numbers(tables.phi * rates, generator)
    words = gibbs.count(corpus, topics, prior.shape[1], settings.beta).words
    return moved, counts_from_words(corpus, words + drawn, settings.beta), draws


def draw_numbers(rates: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Draw Poisson variables, with rates of at most :data:`MOST_TOKENS`."""
    return generator.poisson(np.minimum(rates, MOST_TOKENS)).astype(np.float64)


def _tables(log_phi: FloatArray, exponents: FloatArray) -> WordTables:
    """Return the tables of log φ (W, K), with the effective number of tokens of each word (W,)."""
    logs = exponents[:, None] * log_phi
    return WordTables(np.exp(log_phi), np.exp(logs), logs)


@kernel
def make_row_workspace(modalities: int, topics: int) -> RowWorkspace:
    """Allocate the scratch arrays."""
    a, M, K = np.zeros((7, topics)), modalities, topics
    return RowWorkspace(a[0], a[1], a[2], a[3], a[4], np.zeros(M), np.zeros((M, K)), np.zeros((K, K)), a[5], a[6])


@kernel
def _sweep_rows(
    corpus: Corpus,
    unobserved: Unobserved,
    topics: Int32Array,
    prior: FloatArray,
    alpha: float,
    effective: FloatArray,
    tables: WordTables,
    draws: RowDraws,
    rates: FloatArray,
    generator: np.random.Generator,
) -> int:
    """Sample the rows that lack counts given φ; fill in `draws` and add Σ s_m G_k / t_m to `rates` (W, K)."""
    M, K, moved = effective.shape[0], prior.shape[1], 0
    work, expected = make_row_workspace(M, K), np.zeros((M, K))
    for r in range(unobserved.rows.shape[0]):
        d = unobserved.rows[r]
        words = corpus.words[corpus.starts[d] : corpus.starts[d + 1]]
        own, tokens, theta = topics[corpus.starts[d] : corpus.starts[d + 1]], unobserved.tokens[r], draws.theta[r]
        sum_observed(r, unobserved, tokens, corpus.modality, tables.phi, work.seen)
        moved += sample_row(words, own, prior[d], tokens, effective, alpha, tables, theta, work, generator)
        size = draw_theta(
            words.shape[0],
            prior[d],
            tokens,
            effective,
            alpha,
            theta,
            draws.likelihood[r],
            draws.shares[r],
            1.0,
            work,
            generator,
        )
        for m in range(M):
            for k in range(K if tokens[m] > 0.0 else 0):
                expected[m, k] = work.scales[m] / effective[m] * size * theta[k]
                draws.unseen[r, k] += expected[m, k] * max(1.0 - work.seen[m, k], 0.0)
        for i in range(unobserved.starts[r], unobserved.starts[r + 1]):
            w = unobserved.words[i]
            m = corpus.modality[w]
            for k in range(K):
                rates[w, k] += expected[m, k]
    return moved


@kernel
def sum_observed(
    r: int,
    unobserved: Unobserved,
    tokens: FloatArray,
    modality: Int32Array,
    phi: FloatArray,
    seen: FloatArray,
) -> None:
    """Fill in `seen` (M, K): the sum of φ over the observed words of each modality with `tokens` (M,) in row r."""
    seen[:] = 0.0
    i, end = unobserved.starts[r], unobserved.starts[r + 1]
    for w in range(phi.shape[0]):
        if i < end and unobserved.words[i] == w:
            i += 1
        elif tokens[modality[w]] > 0.0:
            for k in range(phi.shape[1]):
                seen[modality[w], k] += phi[w, k]


@kernel
def draw_scales(
    size: int,
    tokens: FloatArray,
    effective: FloatArray,
    alpha: float,
    theta: FloatArray,
    work: RowWorkspace,
    generator: np.random.Generator,
) -> None:
    """Draw λ, and s_m given λ θ, and fill in ``work.inverse``, 1 / r_k; the row has `size` tokens."""
    K, scales, inverse = theta.shape[0], work.scales, work.inverse
    shape = K * alpha + 1.0 + size
    for m in range(tokens.shape[0]):
        shape -= effective[m] * tokens[m]
    total = generator.standard_gamma(shape)
    inverse[:] = 1.0
    for m in range(tokens.shape[0]):
        scales[m] = 0.0
        if tokens[m] > 0.0:
            mass = 0.0
            for k in range(K):
                mass += theta[k] * work.seen[m, k]
            scales[m] = generator.standard_gamma(effective[m] * tokens[m]) / max(total * mass, LEAST_MASS)
            for k in range(K):
                inverse[k] += scales[m] * work.seen[m, k]
    for k in range(K):
        inverse[k] = 1.0 / inverse[k]


@kernel
def sample_row(
    words: Int32Array,
    topics: Int32Array,
    prior: FloatArray,
    tokens: FloatArray,
    effective: FloatArray,
    alpha: float,
    tables: WordTables,
    theta: FloatArray,
    work: RowWorkspace,
    generator: np.random.Generator,
) -> int:
    """Draw s given θ, then topics given s, θ integrated out; return how many changed without the swap."""
    draw_scales(words.shape[0], tokens, effective, alpha, theta, work, generator)
    n, odds, inverse, scores, K, changed = work.n, work.odds, work.inverse, work.scores, theta.shape[0], 0
    n[:] = 0.0
    for i in range(topics.shape[0]):
        n[topics[i]] += 1.0
    S = 0.0
    for k in range(K):
        odds[k] = prior[k] * inverse[k]
        S += odds[k] * (n[k] + alpha)
    for i in range(words.shape[0]):
        w, old = words[i], topics[i]
        n[old] -= 1.0
        S -= odds[old]
        for k in range(K):
            scores[k] = tables.powers[w, k] * (n[k] + alpha) * inverse[k] * (S + odds[k])
        new = row_updates.sample_index(scores, work.sums, generator.random())
        n[new] += 1.0
        S += odds[new]
        topics[i] = new
        changed += new != old
    _propose_swap(words, topics, tables.logs, work, alpha, generator)
    return changed


@kernel
def _propose_swap(
    words: Int32Array,
    topics: Int32Array,
    logs: FloatArray,
    work: RowWorkspace,
    alpha: float,
    generator: np.random.Generator,
) -> None:
    """Propose to swap two topics in the whole row, as :func:`actors.kernels.mlda.row_updates.propose_topic_swap`."""
    n, odds, blocks, own, column, gains = work.n, work.odds, work.blocks, work.own, work.column, work.scores
    K = n.shape[0]
    if words.shape[0] == 0:
        return
    k = topics[int(generator.random() * topics.shape[0])]
    choice, chance = generator.random(), generator.random()
    blocks[:] = 0.0
    for i in range(words.shape[0]):
        a, w = topics[i], words[i]
        for b in range(K):
            blocks[a, b] += logs[w, b]
    S, log_inverse = 0.0, work.sums
    for b in range(K):
        log_inverse[b] = math.log(work.inverse[b])
    for a in range(K):
        S += odds[a] * (n[a] + alpha)
        for b in range(K):
            blocks[a, b] += n[a] * log_inverse[b]
    for a in range(K):
        own[a], column[a] = blocks[a, a], blocks[a, k]
    before, _ = row_updates.fill_swap_gains(k, odds, S, n, blocks[k], column, own, gains)
    l = row_updates.sample_index(gains, work.sums, choice)  # noqa: E741 (k and l)
    if l == k:
        return
    ratio = before / gains[l]
    S += (odds[k] - odds[l]) * (n[l] - n[k])
    n[k], n[l] = n[l], n[k]
    # After the swap the block of topic l is the one that was that of k, and the other way round.
    for a in range(K):
        column[a] = blocks[a, l]
    column[k], own[k], own[l] = blocks[l, l], blocks[l, k], blocks[k, l]
    after, scale = row_updates.fill_swap_gains(l, odds, S, n, blocks[k], column, own, gains)
    if chance > 0.0 and math.log(chance) >= math.log(ratio) - math.log(after) - scale:
        n[k], n[l] = n[l], n[k]
        return
    for i in range(topics.shape[0]):
        if topics[i] == k:
            topics[i] = l
        elif topics[i] == l:
            topics[i] = k


@kernel
def draw_theta(
    size: int,
    prior: FloatArray,
    tokens: FloatArray,
    effective: FloatArray,
    alpha: float,
    theta: FloatArray,
    likelihood: FloatArray,
    shares: FloatArray,
    weight: float,
    work: RowWorkspace,
    generator: np.random.Generator,
) -> float:
    """Draw class and θ given the topics :data:`DRAWS` times, with s between; return the last Σ_k G_k.

    The means of the class likelihood and of θ are added to `likelihood` and `shares` (K,), times `weight`.
    """
    K, n, inverse, weights, total = theta.shape[0], work.n, work.inverse, work.scores, 0.0
    for draw in range(DRAWS):
        if draw > 0:
            draw_scales(size, tokens, effective, alpha, theta, work, generator)
        S = 0.0
        for k in range(K):
            weights[k] = prior[k] * inverse[k] * (n[k] + alpha)
            S += weights[k]
        c, total = row_updates.sample_index(weights, work.sums, generator.random()), 0.0
        for k in range(K):
            likelihood[k] += weight / DRAWS * (n[k] + alpha) * inverse[k] / S
            theta[k] = generator.standard_gamma(alpha + n[k] + (1.0 if k == c else 0.0)) * inverse[k]
            total += theta[k]
        for k in range(K):
            theta[k] /= total
            shares[k] += weight / DRAWS * theta[k]
    return total
