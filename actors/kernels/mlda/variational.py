"""Variational Bayes for multimodal latent Dirichlet allocation with a prior over the class of each row.

The model is that of :mod:`actors.kernels.mlda.gibbs`: θ_d ~ Dirichlet(α, …, α), each of the row's n_dw tokens of word
w draws a topic from θ_d and its word from φ_mk ~ Dirichlet(β, …, β), and the row's class c is one more draw from θ_d,
with a further prior ψ_d. Counts need not be whole. The posterior is approximated by

    Π_mk q(φ_mk) Π_d q(c_d) q(θ_d | c_d) Π_tokens q(z | c_d),

q(φ_mk) = Dirichlet(λ_mk), q(θ_d | c) = Dirichlet(γ_dc). Given its class, a row has θ_d ~ Dirichlet(α + e_c), and what
follows are the updates of D. M. Blei, A. Y. Ng, M. I. Jordan, "Latent Dirichlet allocation", 2003, section 5.2, to
which the numbers (B…) refer, and for the topics those of M. D. Hoffman, D. M. Blei, F. Bach, "Online learning for
latent Dirichlet allocation", 2010, with the numbers (H…). Summing over the classes keeps apart what a row may be: with
one γ for a row, its tokens would decide for one of two classes that they fit alike, and with a certainty that they do
not have.

*Missing counts.* Of a row and modality in which the counts of the words U are missing, the n_O observed tokens have the
likelihood Π_w (p_w / p_O)^n_w, p_w = Σ_k θ_k φ_kw and p_O = 1 - p_U: that of a multinomial distribution of n_O tokens
over the observed words O. It is what independent Poisson counts of means λ p_w give, whose missing ones are summed out,
with λ integrated out under its scale-invariant prior dλ / λ: the length of the row says nothing. (As zeros, missing
counts would say that their words did not occur.) By Σ_j C(n_O + j - 1, j) p_U^j = p_O^-n_O it is the sum over the
number j of unobserved tokens, with words of U, each of which adds the factor p_w as every other token does. With
ρ_w = Σ_k exp(E[log θ_k] + E[log φ_kw]) and ρ = Σ_{w in U} ρ_w, the optimal q(j) is negative binomial, a missing cell
has the expected count n_O ρ_w / (1 - ρ), and the bound the term -n_O log(1 - ρ).

Throughout, N is the number of rows, K that of topics, W that of words of all modalities, M that of modalities. All sums
over rows add over parts of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from actors.kernels.jit import as_input, kernel
from actors.kernels.mlda.row_updates import digamma
from actors.kernels.special import digamma as digamma_of
from actors.kernels.special import gammaln
from actors.kernels.types import BoolArray, FloatArray, Int32Array, IntArray

MIN_RISE = 1e-6
"""Nats a row: iteration ends when the bound rises by less."""

CHANGE = 1e-3
"""The iteration of one row's γ ends when no element changes by more, relative to their sum."""

FIRST_STEPS, MAX_STEPS = 5, 50
"""Steps of γ for every class, and most further steps for the classes that are likely after these."""

REFINED, DROPPED = 4.0, 25.0
"""Nats by which a class's bound may be lower than the largest to be likely; and from which it is left out."""

MISSING = -1.0
"""Stands for a count that was not observed."""

LEAST_SEEN = 1e-12
"""Least probability that is given to the observed words of a row together."""

SMALLEST = 1e-280
"""Below this, sums of probabilities are computed in the log domain instead."""


class CountRows(NamedTuple):
    """The counts of N rows: their C positive cells, row after row, words ascending.

    Attributes
    ----------
    starts : ndarray of int64, shape (N + 1,)
        First cell of each row, then C.
    words : ndarray of int32, shape (C,)
    counts : ndarray of float64, shape (C,)
        n_dw, not necessarily whole; :data:`MISSING` if it was not observed.
    """

    starts: IntArray
    words: Int32Array
    counts: FloatArray


class Words(NamedTuple):
    """The words of all modalities, numbered consecutively: their modality (W,) int32, and its size (M,) float64."""

    modality: Int32Array
    sizes: FloatArray


class Topics(NamedTuple):
    """What is learnt of the topics.

    Attributes
    ----------
    counts : ndarray of float64, shape (W, K)
        Expected tokens by word and topic.
    exponents : ndarray of float64, shape (M,)
        t_m, the effective number of a modality's tokens, relative to their number.
    alpha, beta : float
        The concentrations.
    """

    counts: FloatArray
    exponents: FloatArray
    alpha: float
    beta: float


class ExpectedSums(NamedTuple):
    """Sums over the rows that have tokens.

    Attributes
    ----------
    counts : ndarray of float64, shape (W, K)
        Expected tokens by word and topic.
    shares : ndarray of float64, shape (K,)
        Σ_d E[θ_d].
    bound, log_shares, rows : float
        Σ_d of the lower bound of log p(tokens), of Σ_k E[log θ_dk], and of 1.
    """

    counts: FloatArray
    shares: FloatArray
    bound: float
    log_shares: float
    rows: float


class RowAnswers(NamedTuple):
    """What the other rows say of each row.

    Attributes
    ----------
    likelihood : ndarray of float64, shape (N, K)
        log p(tokens | class k); zeros for rows without tokens.
    shares : ndarray of float64, shape (N, K)
        P(topic of one further token is k | the row's tokens and its prior).
    words : ndarray of float64, shape (N, V)
        P(word | the row's tokens and its prior) of the held-out modality; V = 0 if there is none.
    """

    likelihood: FloatArray
    shares: FloatArray
    words: FloatArray


class Workspace(NamedTuple):
    """Scratch arrays for one row with n cells.

    Attributes
    ----------
    values : ndarray (n,)
        Effective counts.
    logs, weights, own : ndarray (n, K)
        E[log φ] of the row's words, its exponential relative to the largest of a word, and the row's expected tokens.
    shifts : ndarray (n,)
        The largest of each word's `logs`.
    gammas : ndarray (K, K)
        γ for each class.
    mean_log, theta, following, shares, concentration : ndarray (K,)
        E[log θ], its exponential relative to the largest, the next γ, topics of one token, parameters of θ's prior.
    bounds, chances : ndarray (K,)
        Lower bounds of log p(tokens | class), and q(class); -1 for a class that was left out.
    filled : ndarray (n,)
        ``values``, with the expected effective counts where they are missing.
    kinds : ndarray (n,)
        The modality of each cell.
    observed, raw, unseen : ndarray (M,)
        By modality: n_O, effective and as counted, and ρ.
    gaps : ndarray (1,)
        Above 0 if a count is missing.
    """

    values: FloatArray
    logs: FloatArray
    weights: FloatArray
    own: FloatArray
    shifts: FloatArray
    gammas: FloatArray
    mean_log: FloatArray
    theta: FloatArray
    following: FloatArray
    shares: FloatArray
    concentration: FloatArray
    bounds: FloatArray
    chances: FloatArray
    filled: FloatArray
    kinds: IntArray
    observed: FloatArray
    raw: FloatArray
    unseen: FloatArray
    gaps: FloatArray


def make_rows(values: Sequence[FloatArray], absent: Sequence[BoolArray | None] | None = None) -> CountRows:
    """Return the positive cells of the counts (N, V) of each modality, and those whose counts are missing.

    `absent` (N, V) are true where a count is missing. Without any other token of its modality in the row it says
    nothing, and is left out.
    """
    if absent is not None:
        values = [
            of if lacking is None else np.where(lacking & (of > 0.0).any(axis=1, keepdims=True), MISSING, of)
            for of, lacking in zip(values, absent, strict=True)
        ]
    joined = np.concatenate(values, axis=1)
    rows, words = np.nonzero((joined > 0.0) | (joined == MISSING))
    starts = np.zeros(len(joined) + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=len(joined)), out=starts[1:])
    return CountRows(starts, words.astype(np.int32), joined[rows, words])


def make_words(sizes: Sequence[int]) -> Words:
    """Return the words of modalities of these sizes."""
    return Words(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), np.array(sizes, dtype=np.float64))


def word_parameters(topics: Topics, words: Words) -> tuple[FloatArray, FloatArray]:
    """Return λ = β + t_m · counts, (W, K), and its sums over the words of each modality, (M, K): (H7)."""
    scaled = topics.exponents[words.modality][:, None] * topics.counts
    totals = np.zeros((len(words.sizes), topics.counts.shape[1]))
    np.add.at(totals, words.modality, scaled)
    return scaled + topics.beta, totals + words.sizes[:, None] * topics.beta


def expected_log_words(topics: Topics, words: Words) -> FloatArray:
    """Return E[log φ_mkw] = Ψ(λ_mkw) - Ψ(Σ_v λ_mkv), (W, K): (H6)."""
    parameters, totals = word_parameters(topics, words)
    expected: FloatArray = digamma_of(parameters) - digamma_of(totals)[words.modality]
    return expected


def topic_bound(topics: Topics, words: Words) -> float:
    """Return Σ_mk E[log p(φ_mk)] - E[log q(φ_mk)], the last line of (H4)."""
    (parameters, totals), beta, K = word_parameters(topics, words), topics.beta, topics.counts.shape[1]
    expected = digamma_of(parameters) - digamma_of(totals)[words.modality]
    bound: float = K * float((gammaln(words.sizes * beta) - words.sizes * gammaln(beta)).sum())
    return bound + float((gammaln(parameters) + (beta - parameters) * expected).sum() - gammaln(totals).sum())


def best_alpha(sums: ExpectedSums, alpha: float, limits: tuple[float, float]) -> float:
    """Return the α within the limits that maximises the bound given the rows' q(θ).

    With θ_d ~ Dirichlet(α + e_c), the bound depends on α by

        R [log Γ(K α + 1) - K log Γ(α) - log α] + α Σ_d Σ_k E[log θ_dk],

    R the number of rows with tokens, which is concave (appendix A.4.2 of Blei et al. has the same without a class).
    """
    K, rows = len(sums.shares), sums.rows
    if K == 1 or rows == 0.0:
        return alpha

    def slope(a: float) -> float:
        return float(rows * (K * digamma_of(K * a + 1.0) - K * digamma_of(a) - 1.0 / a) + sums.log_shares)

    return _root(slope, limits)


def best_beta(topics: Topics, words: Words, limits: tuple[float, float]) -> float:
    """Return the β within the limits that maximises the bound given the q(φ) of these topics.

    The bound depends on β by Σ_m K [log Γ(V_m β) - V_m log Γ(β)] + β Σ_mkw E[log φ_mkw], which is concave.
    """
    V, K = words.sizes, topics.counts.shape[1]
    if (V == 1.0).all():
        return topics.beta
    total = float(expected_log_words(topics, words).sum())

    def slope(b: float) -> float:
        return float(K * (V * (digamma_of(V * b) - digamma_of(b))).sum() + total)

    return _root(slope, limits)


def _root(slope: Callable[[float], float], limits: tuple[float, float]) -> float:
    """Return where a decreasing slope is zero, or the limit towards which it points."""
    from scipy.optimize import brentq  # slow to import

    low, high = (math.log(limit) for limit in limits)
    if slope(math.exp(low)) <= 0.0:
        return limits[0]
    if slope(math.exp(high)) >= 0.0:
        return limits[1]
    return math.exp(float(brentq(lambda x: slope(math.exp(x)), low, high)))


# --- one row ------------------------------------------------------------------------------------------------------


@kernel
def make_workspace(longest: int, topics: int, modalities: int) -> Workspace:
    """Allocate the scratch arrays for rows with at most `longest` cells."""
    n, K = longest, topics
    logs, weights, own, gammas = np.zeros((n, K)), np.zeros((n, K)), np.zeros((n, K)), np.zeros((K, K))
    mean_log, theta, following, shares, concentration = (
        np.zeros(K),
        np.zeros(K),
        np.zeros(K),
        np.zeros(K),
        np.zeros(K),
    )
    values, shifts, bounds, chances = np.zeros(n), np.zeros(n), np.zeros(K), np.zeros(K)
    filled, kinds, gaps = np.zeros(n), np.zeros(n, dtype=np.int64), np.zeros(1)
    observed, raw, unseen = np.zeros(modalities), np.zeros(modalities), np.zeros(modalities)
    return Workspace(
        values,
        logs,
        weights,
        own,
        shifts,
        gammas,
        mean_log,
        theta,
        following,
        shares,
        concentration,
        bounds,
        chances,
        filled,
        kinds,
        observed,
        raw,
        unseen,
        gaps,
    )


@kernel
def relate_weights(n: int, work: Workspace) -> None:
    """Fill in ``work.weights`` and ``work.shifts`` from the first n ``work.logs``."""
    for i in range(n):
        shift = -np.inf
        for k in range(work.logs.shape[1]):
            shift = max(shift, work.logs[i, k])
        work.shifts[i] = shift
        for k in range(work.logs.shape[1]):
            work.weights[i, k] = math.exp(work.logs[i, k] - shift)


@kernel
def share_word(i: int, largest: float, work: Workspace) -> float:
    """Fill in ``work.shares``, P(topic of a token of cell i) ∝ exp(E[log θ] + E[log φ]), and return the log-normaliser.

    This is (B6) and (H5). `largest` is that of ``work.mean_log``.
    """
    shares, K, norm = work.shares, work.shares.shape[0], 0.0
    for k in range(K):
        shares[k] = work.theta[k] * work.weights[i, k]
        norm += shares[k]
    shift = largest + work.shifts[i]
    if norm < SMALLEST:
        shift, norm = -np.inf, 0.0
        for k in range(K):
            shift = max(shift, work.mean_log[k] + work.logs[i, k])
        for k in range(K):
            shares[k] = math.exp(work.mean_log[k] + work.logs[i, k] - shift)
            norm += shares[k]
    for k in range(K):
        shares[k] /= norm
    result: float = math.log(norm) + shift
    return result


@kernel
def expect_theta(gamma: FloatArray, work: Workspace) -> float:
    """Fill in E[log θ] = Ψ(γ_k) - Ψ(Σ γ) and ``work.theta`` given γ, and return the largest E[log θ]."""
    at_total, largest = digamma(gamma.sum()), -np.inf
    for k in range(gamma.shape[0]):
        work.mean_log[k] = digamma(gamma[k]) - at_total
        largest = max(largest, work.mean_log[k])
    for k in range(gamma.shape[0]):
        work.theta[k] = math.exp(work.mean_log[k] - largest)
    return float(largest)


@kernel
def fill_missing(n: int, largest: float, work: Workspace) -> None:
    """Fill in ρ of each modality, and the expected effective counts n_O ρ_w / (1 - ρ) of missing cells.

    `largest` is that of ``work.mean_log``.
    """
    work.unseen[:] = 0.0
    for i in range(n):
        if work.values[i] < 0.0:
            work.filled[i] = math.exp(share_word(i, largest, work))
            work.unseen[work.kinds[i]] += work.filled[i]
    for i in range(n):
        if work.values[i] < 0.0:
            m = work.kinds[i]
            work.filled[i] *= work.observed[m] / max(1.0 - work.unseen[m], LEAST_SEEN)


@kernel
def improve_gamma(n: int, gamma: FloatArray, work: Workspace, steps: int) -> None:
    """Iterate (B7) for γ (K,) in place, for the first n cells of the workspace and the prior ``work.concentration``."""
    K, following, enough = gamma.shape[0], work.following, CHANGE * gamma.sum()
    for _ in range(steps):
        largest = expect_theta(gamma, work)
        if work.gaps[0] > 0.0:
            fill_missing(n, largest, work)
        for k in range(K):
            following[k] = work.concentration[k]
        for i in range(n):
            norm, value = 0.0, work.filled[i]
            for k in range(K):
                work.shares[k] = work.theta[k] * work.weights[i, k]
                norm += work.shares[k]
            if norm < SMALLEST:
                share_word(i, largest, work)
                norm = 1.0
            value /= norm
            for k in range(K):
                following[k] += value * work.shares[k]
        change = 0.0
        for k in range(K):
            change = max(change, abs(following[k] - gamma[k]))
            gamma[k] = following[k]
        if change < enough:
            break


@kernel
def bound_row(n: int, gamma: FloatArray, work: Workspace) -> float:
    """Return the bound (B15) of log p(tokens) for γ, with q(z) optimal: its sum over topics is the log-normaliser."""
    prior, largest = work.concentration, expect_theta(gamma, work)
    bound = math.lgamma(prior.sum()) - math.lgamma(gamma.sum())
    for k in range(gamma.shape[0]):
        bound += math.lgamma(gamma[k]) - math.lgamma(prior[k]) + (prior[k] - gamma[k]) * work.mean_log[k]
    for i in range(n):
        if work.values[i] > 0.0:
            bound += work.values[i] * share_word(i, largest, work)
    if work.gaps[0] > 0.0:
        fill_missing(n, largest, work)
        for m in range(work.unseen.shape[0]):
            if work.unseen[m] > 0.0:
                bound -= work.observed[m] * math.log(max(1.0 - work.unseen[m], LEAST_SEEN))
    return bound


@kernel
def fit_row(n: int, log_prior: FloatArray, alpha: float, work: Workspace) -> float:
    """Fit q(class) and γ of each class to the first n cells, and return the bound log Σ_k ψ_k exp(bound_k).

    For each class, half of the tokens start with its topic, the others with all: from all, a topic is found that shares
    its words with others, and from half, topics that a row has besides.
    """
    K, bounds, chances, total = log_prior.shape[0], work.bounds, work.chances, 0.0
    for m in range(work.observed.shape[0]):
        total += work.observed[m]
    best, best_with_prior = -np.inf, -np.inf
    for c in range(K):
        gamma = work.gammas[c]
        for k in range(K):
            work.concentration[k] = alpha
            gamma[k] = alpha + 0.5 * total / K
        work.concentration[c] += 1.0
        gamma[c] += 1.0 + 0.5 * total
        improve_gamma(n, gamma, work, FIRST_STEPS)
        bounds[c] = bound_row(n, gamma, work)
        best = max(best, bounds[c])
        best_with_prior = max(best_with_prior, bounds[c] + log_prior[c])
    largest, norm = -np.inf, 0.0
    for c in range(K):
        chances[c] = -1.0
        if bounds[c] >= best - DROPPED or bounds[c] + log_prior[c] >= best_with_prior - DROPPED:
            if bounds[c] >= best - REFINED or bounds[c] + log_prior[c] >= best_with_prior - REFINED:
                for k in range(K):
                    work.concentration[k] = alpha
                work.concentration[c] += 1.0
                improve_gamma(n, work.gammas[c], work, MAX_STEPS)
                bounds[c] = bound_row(n, work.gammas[c], work)
            chances[c] = 0.0
            largest = max(largest, bounds[c] + log_prior[c])
    for c in range(K):
        if chances[c] == 0.0:
            chances[c] = math.exp(bounds[c] + log_prior[c] - largest)
            norm += chances[c]
    for c in range(K):
        if chances[c] > 0.0:
            chances[c] /= norm
    return float(largest + math.log(norm))


@kernel
def expect_tokens(n: int, counts: FloatArray, work: Workspace) -> None:
    """Fill in ``work.own``: the expected topics of the tokens of the first n cells, over all classes; (B17), (H5)."""
    work.own[:n] = 0.0
    for c in range(work.chances.shape[0]):
        if work.chances[c] > 0.0:
            largest = expect_theta(work.gammas[c], work)
            if work.gaps[0] > 0.0:
                fill_missing(n, largest, work)
            for i in range(n):
                share_word(i, largest, work)
                number, m = counts[i], work.kinds[i]
                if number < 0.0:
                    number = work.filled[i] * work.raw[m] / work.observed[m]
                for k in range(work.shares.shape[0]):
                    work.own[i, k] += work.chances[c] * number * work.shares[k]


@kernel
def longest_row(starts: IntArray) -> int:
    """Return the largest number of cells of a row."""
    longest = 0
    for d in range(starts.shape[0] - 1):
        longest = max(longest, starts[d + 1] - starts[d])
    return longest


@kernel
def weigh_row(
    words: Int32Array, counts: FloatArray, modality: Int32Array, powers: FloatArray, without: int, work: Workspace
) -> None:
    """Fill in the effective counts; zero for the modality `without`."""
    work.observed[:], work.raw[:], work.unseen[:], work.gaps[0] = 0.0, 0.0, 0.0, 0.0
    for i in range(words.shape[0]):
        m = modality[words[i]]
        work.kinds[i], work.values[i], work.filled[i] = m, 0.0, 0.0
        if m == without:
            continue
        if counts[i] < 0.0:
            work.values[i], work.gaps[0] = MISSING, 1.0
        else:
            work.values[i] = work.filled[i] = counts[i] * powers[m]
            work.observed[m] += work.values[i]
            work.raw[m] += counts[i]


@kernel
def load_row(
    words: Int32Array,
    counts: FloatArray,
    modality: Int32Array,
    powers: FloatArray,
    log_words: FloatArray,
    work: Workspace,
) -> None:
    """Load the cells of one row: effective counts and E[log φ]."""
    weigh_row(words, counts, modality, powers, -1, work)
    for i in range(words.shape[0]):
        work.logs[i] = log_words[words[i]]
    relate_weights(words.shape[0], work)


# --- all rows -----------------------------------------------------------------------------------------------------


def expect(
    rows: CountRows, words: Words, topics: Topics, log_prior: FloatArray, temperature: float = 1.0
) -> ExpectedSums:
    """Return the sums of one iteration over the rows, given the topics.

    Parameters
    ----------
    rows : CountRows
    words : Words
    topics : Topics
    log_prior : ndarray of float64, shape (N, K)
        log ψ; uniform where there is none.
    temperature : float
        The power of the likelihood.
    """
    K = topics.counts.shape[1]
    counts, shares, sums = np.zeros((len(words.modality), K)), np.zeros(K), np.zeros(3)
    _expect(
        *rows,
        words.modality,
        topics.exponents * temperature,
        as_input(expected_log_words(topics, words)),
        as_input(log_prior),
        topics.alpha,
        counts,
        shares,
        sums,
    )
    return ExpectedSums(counts, shares, float(sums[0]), float(sums[1]), float(sums[2]))


@kernel
def _expect(
    starts: IntArray,
    words: Int32Array,
    counts: FloatArray,
    modality: Int32Array,
    powers: FloatArray,
    log_words: FloatArray,
    log_prior: FloatArray,
    alpha: float,
    by_word: FloatArray,
    shares: FloatArray,
    sums: FloatArray,
) -> None:
    """Add each row's sums to `by_word` (W, K), `shares` (K,) and `sums`: bound, Σ E[log θ], rows."""
    K, work = log_prior.shape[1], make_workspace(longest_row(starts), log_prior.shape[1], powers.shape[0])
    for d in range(starts.shape[0] - 1):
        own_words, own_counts = words[starts[d] : starts[d + 1]], counts[starts[d] : starts[d + 1]]
        n = own_words.shape[0]
        if n == 0:
            continue
        load_row(own_words, own_counts, modality, powers, log_words, work)
        sums[0] += fit_row(n, log_prior[d], alpha, work)
        sums[2] += 1.0
        expect_tokens(n, own_counts, work)
        for i in range(n):
            for k in range(K):
                by_word[own_words[i], k] += work.own[i, k]
        for c in range(K):
            if work.chances[c] > 0.0:
                total = work.gammas[c].sum()
                expect_theta(work.gammas[c], work)
                for k in range(K):
                    shares[k] += work.chances[c] * work.gammas[c, k] / total
                    sums[1] += work.chances[c] * work.mean_log[k]


def answer(
    rows: CountRows,
    words: Words,
    topics: Topics,
    log_prior: FloatArray,
    before: tuple[Topics, float] | None = None,
    without: int = -1,
) -> RowAnswers:
    """Return what follows for each row from the mean word distributions of the topics, without the row itself.

    Parameters
    ----------
    rows : CountRows
    words : Words
    topics : Topics
    log_prior : ndarray of float64, shape (N, K)
        log ψ; uniform where there is none.
    before : (Topics, float), optional
        The topics, and the temperature, from which the row's part of the topics' counts follows; None for new rows.
    without : int
        Held-out modality: its tokens do not enter the row's topics, and its words are predicted; -1 for none.
    """
    (N, K), scaled = log_prior.shape, topics.exponents
    size = int(words.sizes[without]) if without >= 0 else 0
    result = RowAnswers(np.zeros((N, K)), np.zeros((N, K)), np.zeros((N, size)))
    parameters, totals = word_parameters(topics, words)
    known = topics if before is None else before[0]
    _answer(
        *rows,
        words.modality,
        scaled,
        as_input(parameters),
        totals,
        as_input(log_prior),
        topics.alpha,
        topics.beta,
        before is not None,
        as_input(expected_log_words(known, words)),
        known.exponents * (1.0 if before is None else before[1]),
        known.alpha,
        without,
        int(words.sizes[:without].sum()) if without >= 0 else 0,
        *result,
    )
    return result


@kernel
def _answer(
    starts: IntArray,
    words: Int32Array,
    counts: FloatArray,
    modality: Int32Array,
    powers: FloatArray,
    parameters: FloatArray,
    totals: FloatArray,
    log_prior: FloatArray,
    alpha: float,
    beta: float,
    leave_out: bool,
    log_words_before: FloatArray,
    powers_before: FloatArray,
    alpha_before: float,
    without: int,
    first: int,
    likelihood: FloatArray,
    shares: FloatArray,
    predicted: FloatArray,
) -> None:
    """Fill in the last three arrays; `first` is the first word of modality `without`."""
    K, work, left = (
        log_prior.shape[1],
        make_workspace(longest_row(starts), log_prior.shape[1], powers.shape[0]),
        np.empty(totals.shape),
    )
    everything, flat = np.ones(powers.shape[0]), np.full(log_prior.shape[1], -math.log(log_prior.shape[1]))
    tempered = (powers != 1.0).any()
    for d in range(starts.shape[0] - 1):
        own_words, own_counts = words[starts[d] : starts[d + 1]], counts[starts[d] : starts[d + 1]]
        n = own_words.shape[0]
        work.own[:n] = 0.0
        if leave_out:
            load_row(own_words, own_counts, modality, powers_before, log_words_before, work)
            fit_row(n, log_prior[d], alpha_before, work)
            expect_tokens(n, own_counts, work)
        remove_row(own_words, modality, powers, parameters, totals, beta, left, work)
        weigh_row(own_words, own_counts, modality, powers, without, work)
        fit_row(n, log_prior[d], alpha, work)
        for c in range(K):
            if work.chances[c] > 0.0:
                total = work.gammas[c].sum()
                for k in range(K):
                    shares[d, k] += work.chances[c] * work.gammas[c, k] / total
        if without >= 0:
            predict_words(own_words, parameters, left[without], first, shares[d], predicted[d], work)
        elif n > 0:
            likelihood[d] = work.bounds
            if tempered:
                # Evidence is that of all tokens: it must not rise because fewer of them count.
                likelihood[d] -= log_mean_exp(work.bounds)
                weigh_row(own_words, own_counts, modality, everything, without, work)
                likelihood[d] += fit_row(n, flat, alpha, work)


@kernel
def log_mean_exp(x: FloatArray) -> float:
    """Return the logarithm of the mean of exp(x)."""
    largest = x.max()
    return float(largest + math.log(np.exp(x - largest).sum() / x.shape[0]))


@kernel
def remove_row(
    words: Int32Array,
    modality: Int32Array,
    powers: FloatArray,
    parameters: FloatArray,
    totals: FloatArray,
    beta: float,
    left: FloatArray,
    work: Workspace,
) -> None:
    """Fill in ``work.logs``, log of the mean φ of the words without the row's ``work.own``, and `left`, the totals."""
    left[:] = totals
    for i in range(words.shape[0]):
        m, w = modality[words[i]], words[i]
        for k in range(left.shape[1]):
            # Rounding, or an update that ended early, must not leave fewer tokens than none.
            rest = max(parameters[w, k] - powers[m] * work.own[i, k], beta)
            left[m, k] -= parameters[w, k] - rest
            work.logs[i, k] = rest
    for i in range(words.shape[0]):
        for k in range(left.shape[1]):
            work.logs[i, k] = math.log(work.logs[i, k] / left[modality[words[i]], k])
    relate_weights(words.shape[0], work)


@kernel
def predict_words(
    words: Int32Array,
    parameters: FloatArray,
    left: FloatArray,
    first: int,
    shares: FloatArray,
    predicted: FloatArray,
    work: Workspace,
) -> None:
    """Fill in P(word) (V,), from the row's topic shares (K,), of the modality whose first word is `first`.

    `left` (K,) are its totals without the row, and ``work.logs`` are those of :func:`remove_row`.
    """
    for k in range(shares.shape[0]):
        for v in range(predicted.shape[0]):
            predicted[v] += shares[k] * parameters[first + v, k] / left[k]
        for i in range(words.shape[0]):
            if first <= words[i] < first + predicted.shape[0]:
                of_all = parameters[words[i], k] / left[k]
                predicted[words[i] - first] += shares[k] * (math.exp(work.logs[i, k]) - of_all)


def class_scores(
    rows: CountRows, words: Words, topics: Topics, log_prior: FloatArray, before: tuple[Topics, float]
) -> FloatArray:
    """Return log p(the row's tokens of modality m | all have topic k), with φ estimated from all other rows.

    It is that of :func:`actors.kernels.mlda.row_updates.class_scores`: every token counts in full, also in φ.

    Parameters
    ----------
    rows, words, topics, log_prior, before
        As in :func:`answer`.

    Returns
    -------
    ndarray of float64, shape (M, N, K)
        Zeros where a row has no tokens of a modality.
    """
    N, K = log_prior.shape
    scores, known = np.zeros((len(words.sizes), N, K)), before[0]
    plain = topics._replace(exponents=np.ones(len(words.sizes)))
    parameters, totals = word_parameters(plain, words)
    _score(
        *rows,
        words.modality,
        as_input(parameters),
        totals,
        as_input(log_prior),
        topics.beta,
        as_input(expected_log_words(known, words)),
        known.exponents * before[1],
        known.alpha,
        scores,
    )
    return scores


@kernel
def _score(
    starts: IntArray,
    words: Int32Array,
    counts: FloatArray,
    modality: Int32Array,
    parameters: FloatArray,
    totals: FloatArray,
    log_prior: FloatArray,
    beta: float,
    log_words_before: FloatArray,
    powers_before: FloatArray,
    alpha_before: float,
    scores: FloatArray,
) -> None:
    """Fill in `scores` (M, N, K)."""
    (M, K), work = totals.shape, make_workspace(longest_row(starts), totals.shape[1], totals.shape[0])
    left, tokens = np.empty((M, K)), np.empty(M)
    for d in range(starts.shape[0] - 1):
        own_words, own_counts = words[starts[d] : starts[d + 1]], counts[starts[d] : starts[d + 1]]
        n = own_words.shape[0]
        load_row(own_words, own_counts, modality, powers_before, log_words_before, work)
        fit_row(n, log_prior[d], alpha_before, work)
        expect_tokens(n, own_counts, work)
        left[:], tokens[:] = totals, 0.0
        for i in range(n):
            m = modality[own_words[i]]
            for k in range(K):
                before = parameters[own_words[i], k]
                rest = max(before - work.own[i, k], beta)
                left[m, k] -= before - rest
                if own_counts[i] < 0.0:  # the distribution over the observed words alone is a Dirichlet distribution
                    left[m, k] -= rest
                    continue
                scores[m, d, k] += math.lgamma(rest + own_counts[i]) - math.lgamma(rest)
            tokens[m] += max(own_counts[i], 0.0)
        for m in range(M):
            if tokens[m] > 0.0:
                for k in range(K):
                    scores[m, d, k] -= math.lgamma(left[m, k] + tokens[m]) - math.lgamma(left[m, k])


def compile_kernels() -> None:
    """Compile the kernels for their argument types, or load them from the cache."""
    rows, words = make_rows([np.ones((1, 1))]), make_words([1])
    topics, log_prior = Topics(np.ones((1, 2)), np.ones(1), 1.0, 1.0), np.full((1, 2), -math.log(2.0))
    expect(rows, words, topics, log_prior)
    answer(rows, words, topics, log_prior)
    class_scores(rows, words, topics, log_prior, (topics, 1.0))
