"""Tests of the Gibbs sampler where counts are missing, against enumeration, quadrature and closed forms."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.special import beta as beta_function
from scipy.special import gammaln

from actors.kernels.mlda import gibbs, unobserved, unobserved_rows
from actors.kernels.mlda.gibbs import Settings


def corpus_of(counts, sizes):
    """Return the corpus of counts (N, W) of modalities of these sizes."""
    rows, words = np.nonzero(counts)
    repeats = counts[rows, words]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return gibbs.make_corpus(np.repeat(rows, repeats), np.repeat(words, repeats), owner, len(counts))[0]


def lacking(counts, absent, sizes):
    """Return which words are missing, of the counts (N, W) of modalities of these sizes."""
    first = np.cumsum([0, *sizes[:-1]])
    parts = [slice(start, start + size) for start, size in zip(first, sizes, strict=True)]
    return unobserved.make_unobserved(
        [absent[:, part] for part in parts], [counts[:, part].sum(axis=1) for part in parts], first
    )


def random_rows(seed=0, rows=40, share=0.4, sizes=(6, 4), classes=3):
    """Return counts (N, W) without those that are missing, which are missing, and the class of each row."""
    generator = np.random.default_rng(seed)
    phi = [generator.dirichlet(np.full(size, 0.3), classes) for size in sizes]
    truth = np.arange(rows) % classes
    counts = np.concatenate([generator.multinomial(30, each[truth]) for each in phi], axis=1)
    absent = generator.random(counts.shape) < share
    absent[::5] = False
    return np.where(absent, 0, counts), absent, truth


# --- which words are missing ------------------------------------------------------------------------------------------


def test_words_of_a_modality_without_an_observed_token_are_left_out():
    counts = np.array([[1, 0, 2, 0, 0], [0, 0, 0, 3, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 4]])
    absent = np.array([[0, 1, 0, 0, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 0, 1, 0]], dtype=bool)
    found = lacking(counts, absent, [3, 2])
    assert found.rows.tolist() == [0, 1, 3]
    assert [part.tolist() for part in np.split(found.words, found.starts[1:-1])] == [[1], [4], [0, 1, 3]]
    assert found.tokens.tolist() == [[3, 0], [0, 3], [1, 4]]
    assert lacking(counts, np.zeros_like(absent), [3, 2]) is None
    assert unobserved.make_unobserved([None], [np.ones(4, int)], [0]) is None
    whole, kept = unobserved.without_rows(corpus_of(counts, [3, 2]), found.rows)
    assert whole.starts.tolist() == [0, 0, 0, 2, 2]
    assert (whole.words.tolist(), kept.sum()) == ([1, 3], 2)


# --- the posterior ----------------------------------------------------------------------------------------------------

COUNTS = np.array([[1, 0, 2], [1, 2, 0]])
PSI = np.array([[0.8, 0.2], [0.3, 0.7]])


def enumerated(alpha, beta, most):
    """Return exact probabilities of two rows, of which the second lacks its last word, from all topics of all tokens.

    They are summed over up to `most` unobserved tokens: P(class 0) of both rows, and that two tokens share a topic.
    """
    first, second = np.meshgrid(np.arange(most), np.arange(most), indexing="ij")  # of topic 0 and of topic 1
    unseen, tokens = np.stack([first, second]), [np.repeat(np.arange(3), row) for row in COUNTS]
    within = first + second < most
    number = gammaln(3 + first + second) - gammaln(first + 1) - gammaln(second + 1)
    total, sums = 0.0, np.zeros(4)
    for topics in itertools.product(range(2), repeat=6):
        z, words, n = np.reshape(topics, (2, 3)), np.zeros((2, 3)), np.zeros((2, 2))
        for row in range(2):
            np.add.at(words, (z[row], tokens[row]), 1)
            np.add.at(n, (row, z[row]), 1)
        own = PSI[0] * (n[0] + alpha)
        of_second = [n[1, k] + alpha + unseen[k] for k in range(2)]
        weights = [PSI[1, k] * of_second[k] for k in range(2)]
        value = np.log(own.sum()) + gammaln(n[0] + alpha).sum() + np.log(weights[0] + weights[1]) + number
        value = value + gammaln(of_second[0]) + gammaln(of_second[1]) - gammaln(of_second[0] + of_second[1] + 1)
        for k in range(2):
            a = words[k] + beta
            value = value + gammaln(a[:2]).sum() + gammaln(a[2] + unseen[k]) - gammaln(a.sum() + unseen[k])
        p = np.where(within, np.exp(value), 0.0)
        class_of_second = (p * weights[0] / (weights[0] + weights[1])).sum()
        shared = np.array([z[0, 0] == z[1, 0], z[1, 0] == z[1, 1]])
        total += p.sum()
        sums += [p.sum() * own[0] / own.sum(), class_of_second, *(p.sum() * shared)]
    return sums / total


@pytest.mark.parametrize(("alpha", "beta", "seed"), [(0.5, 1.0, 0), (0.5, 0.7, 1)])
def test_classes_and_topics_follow_the_enumerated_posterior(alpha, beta, seed):
    exact = enumerated(alpha, beta, 300)
    assert np.abs(enumerated(alpha, beta, 200) - exact).max() < 2e-4  # more unobserved tokens hardly occur
    as_zeros = enumerated(alpha, beta, 1)
    corpus, settings, generator = corpus_of(COUNTS, [3]), Settings(alpha, beta, 1.0), np.random.default_rng(seed)
    words = lacking(COUNTS, np.array([[False] * 3, [False, False, True]]), [3])
    topics, counts = unobserved.start(corpus, words, PSI, settings, generator)
    theta = unobserved.first_theta(corpus, words, topics, 2, alpha)
    batches, size, seen = 40, 100, []
    for _ in range(batches * size):
        _, counts, draws = unobserved.sweep(corpus, words, topics, PSI, counts, settings, theta, generator)
        theta = draws.theta
        own = PSI[0] * (np.bincount(topics[:3], minlength=2) + alpha)
        of_second = PSI[1, 0] * draws.likelihood[0, 0]
        seen.append([own[0] / own.sum(), of_second, topics[0] == topics[3], topics[3] == topics[4]])
    means = np.reshape(seen, (batches, size, 4)).mean(axis=1)
    error = means.std(axis=0, ddof=1) / np.sqrt(batches)
    assert (np.abs(means.mean(axis=0) - exact) / error).max() < 4.0
    assert error.max() < 0.015
    assert (np.abs(as_zeros - exact) / error).max() > 5.0


# --- one row, with known words ----------------------------------------------------------------------------------------

PHI = [
    np.array([[0.7, 0.3], [0.2, 0.8]]),
    np.array([[0.1, 0.1, 0.8], [0.5, 0.3, 0.2]]),
    np.array([[0.6, 0.4], [0.05, 0.95]]),
]
ROW = [np.array([1, 2]), np.array([1, 1, 0]), np.array([3, 0])]
LACKS = [np.array([False, False]), np.array([False, False, True]), np.array([False, True])]
SIZES = [2, 3, 2]
ALPHA, PRIOR = 0.4, np.array([0.3, 0.7])


def integrated(weigh, exponents=(1.0, 1.0, 1.0)):
    """Return the integral over θ of the row's likelihood, of class c with a weight that depends on θ."""

    def weighed(share):
        theta = np.array([share, 1 - share])
        value = weigh(theta)
        for phi, n, absent, t in zip(PHI, ROW, LACKS, exponents, strict=True):
            value *= np.prod((theta @ phi**t) ** n)
            if absent.any():
                value *= (theta @ phi[:, ~absent].sum(axis=1)) ** (-t * n.sum())
        return value

    # The density of θ is the weight of the quadrature.
    return quad(weighed, 0, 1, weight="alg", wvar=(ALPHA - 1, ALPHA - 1))[0] / beta_function(ALPHA, ALPHA)


def known_words(exponents=(1.0, 1.0, 1.0)):
    """Return a row that lacks counts and counts of so many tokens that the word distributions are known."""
    counts = np.concatenate(ROW)[None]
    corpus = corpus_of(counts, SIZES)._replace(exponents=np.array(exponents))
    words = lacking(counts, np.concatenate(LACKS)[None], SIZES)
    settings = Settings(ALPHA, 1e-3, 1.0)
    known = gibbs.counts_from_words(corpus, 1e8 * np.concatenate([phi.T for phi in PHI]), settings.beta)
    return corpus, words, np.full(len(corpus.words), -1, dtype=np.int32), known, settings


@pytest.mark.parametrize("exponents", [(1.0, 1.0, 1.0), (0.5, 0.7, 0.3)])
def test_a_row_folded_in_follows_its_posterior_by_quadrature(exponents):
    corpus, words, topics, counts, settings = known_words(exponents)
    samples, generator = 30_000, np.random.default_rng(0)
    found = unobserved_rows.fold_in(corpus, words, topics, PRIOR[None], counts, settings, samples, generator)
    scores = [integrated(lambda theta, k=k: theta[k], exponents) for k in range(2)]
    exact = np.array(scores) / sum(scores)
    assert_allclose(found.likelihood[0] / found.likelihood[0].sum(), exact, atol=0.012)
    total = integrated(lambda theta: PRIOR @ theta, exponents)
    shares = [integrated(lambda theta, k=k: (PRIOR @ theta) * theta[k], exponents) / total for k in range(2)]
    assert_allclose(found.shares[0], shares, atol=0.012)
    # The same tokens say something else where no count is missing.
    as_whole = gibbs.fold_in(corpus, topics, PRIOR[None], counts, settings, samples, generator)
    assert np.abs(as_whole.shares[0] - shares).max() > 0.03


def test_a_modality_that_is_held_out_is_predicted_from_the_others():
    corpus, words, topics, counts, settings = known_words()
    generator = np.random.default_rng(0)
    found = unobserved_rows.fold_in(corpus, words, topics, PRIOR[None], counts, settings, 2000, generator, 0)
    assert_allclose(found.words[0], found.shares[0] @ PHI[0], atol=1e-3)
    own, ROW[0] = ROW[0], np.array([0, 0])
    try:
        total = integrated(lambda theta: PRIOR @ theta)
        share = integrated(lambda theta: (PRIOR @ theta) * theta[0]) / total
    finally:
        ROW[0] = own
    assert found.shares[0, 0] == pytest.approx(share, abs=0.03)


def test_folding_in_and_bounds_leave_the_counts_unchanged():
    values, absent, _ = random_rows()
    corpus, words = corpus_of(values, [6, 4]), lacking(values, absent, [6, 4])
    prior, settings, generator = np.full((40, 3), 1 / 3), Settings(0.4, 0.3, 1.0), np.random.default_rng(0)
    topics, counts = unobserved.start(corpus, words, prior, settings, generator)
    before, kept = [each.copy() for each in counts], topics.copy()
    for without in (-1, 0, 1):
        unobserved_rows.fold_in(corpus, words, topics, prior, counts, settings, 2, generator, without)
    unobserved_rows.lower_bounds(corpus, words, topics, counts, settings, prior)
    unobserved_rows.class_scores(corpus, words, topics, counts, settings)
    for one, other in zip(before, counts, strict=True):
        assert_allclose(other, one, rtol=1e-12)
    assert_array_equal(topics, kept)


def test_the_bound_is_below_the_rows_likelihood_and_near_it():
    corpus, words, topics, counts, settings = known_words()
    exact = np.log(integrated(np.sum))
    bounds = [
        unobserved_rows.lower_bounds(corpus, words, topics, counts, settings, np.array([shares]))[0]
        for shares in ([0.5, 0.5], [0.9, 0.1], [0.2, 0.8])
    ]
    assert exact - 2.0 < min(bounds) <= max(bounds) <= exact
    whole = gibbs.row_counts(corpus, np.zeros(len(topics), dtype=np.int32), 2)
    assert unobserved.row_updates.lower_bounds(corpus, topics, counts, settings, whole)[0] < exact - 2.0


def test_of_one_topic_the_bound_is_exact():
    counts, sizes = np.concatenate(ROW)[None], SIZES
    corpus, words = corpus_of(counts, sizes), lacking(counts, np.concatenate(LACKS)[None], sizes)
    settings = Settings(ALPHA, 1e-3, 1.0)
    known = gibbs.counts_from_words(corpus, 1e8 * np.concatenate([phi[0] for phi in PHI])[:, None], settings.beta)
    topics = np.full(len(corpus.words), -1, dtype=np.int32)
    bound = unobserved_rows.lower_bounds(corpus, words, topics, known, settings, np.ones((1, 1)))[0]
    parts = [
        n[n > 0] @ np.log(phi[0, n > 0] / phi[0, ~absent].sum()) for phi, n, absent in zip(PHI, ROW, LACKS, strict=True)
    ]
    assert bound == pytest.approx(sum(parts), abs=1e-6)
    scores = unobserved_rows.class_scores(corpus, words, topics, known, settings)
    assert_allclose(scores[:, 0, 0], parts, atol=1e-6)


# --- numbers of unobserved tokens, and the start ----------------------------------------------------------------------


def test_the_scores_of_topics_are_those_of_the_observed_words_alone():
    values, absent, _ = random_rows()
    corpus, words = corpus_of(values, [6, 4]), lacking(values, absent, [6, 4])
    prior, settings = np.full((40, 3), 1 / 3), Settings(0.4, 0.3, 1.0)
    topics, counts = unobserved.start(corpus, words, prior, settings, np.random.default_rng(0))
    scores = unobserved_rows.class_scores(corpus, words, topics, counts, settings)
    rows = np.repeat(np.arange(40), np.diff(corpus.starts))
    for row in range(40):
        own = np.zeros_like(counts.words)
        np.add.at(own, (corpus.words[rows == row], topics[rows == row]), 1)
        for m, part in enumerate((slice(0, 6), slice(6, 10))):
            seen, n = ~absent[row, part], values[row, part]
            a = (counts.words - own + 0.3)[part][seen]
            expected = (gammaln(a + n[seen, None]) - gammaln(a)).sum(axis=0)
            expected -= gammaln(a.sum(axis=0) + n.sum()) - gammaln(a.sum(axis=0))
            assert_allclose(scores[m, row], expected, atol=1e-8)


def test_expected_numbers_of_unobserved_tokens_of_one_topic_agree_with_em():
    values, absent, _ = random_rows(rows=60, share=0.2, classes=1)
    absent[::2, [0, 6]] = True  # not at random: as zeros they would make these words too rare
    values[absent] = 0
    corpus, words = corpus_of(values, [6, 4]), lacking(values, absent, [6, 4])
    topics, settings = np.zeros(len(corpus.words), dtype=np.int32), Settings(0.4, 1e-3, 1.0)
    observed = gibbs.count(corpus, topics, 1, settings.beta)
    filled = unobserved.fill_counts(corpus, words, topics, observed, settings)
    for part in (slice(0, 6), slice(6, 10)):
        n, phi = values[:, part], np.full(part.stop - part.start, 1 / (part.stop - part.start))
        for _ in range(200):  # EM of a multinomial distribution of which each row shows some words
            expected = n.sum(axis=1) / np.maximum(np.where(absent[:, part], 0.0, phi).sum(axis=1), 1e-9)
            phi = n.sum(axis=0) + phi * np.where(absent[:, part], expected[:, None], 0.0).sum(axis=0)
            phi /= phi.sum()
        found = filled.words[part, 0] / filled.words[part].sum()
        assert_allclose(found, phi, atol=0.01)
        assert np.abs(observed.words[part, 0] / observed.words[part].sum() - phi).max() > 0.02
    assert_array_equal(filled.words, np.rint(filled.words))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_sweeps_find_the_classes_and_keep_whole_numbers(temperature):
    values, absent, truth = random_rows(seed=2, rows=90, share=0.3)
    corpus, words = corpus_of(values, [6, 4]), lacking(values, absent, [6, 4])
    prior, settings, generator = np.full((90, 3), 1 / 3), Settings(0.1, 0.1, 1.0), np.random.default_rng(3)
    topics, counts = unobserved.start(corpus, words, prior, settings, generator, 3)
    settings, theta = settings._replace(temperature=temperature), None
    for _ in range(20):
        theta = unobserved.first_theta(corpus, words, topics, 3, 0.1) if theta is None else theta
        _, counts, draws = unobserved.sweep(corpus, words, topics, prior, counts, settings, theta, generator)
        theta = draws.theta
        unseen = counts.words - gibbs.count(corpus, topics, 3, 0.1).words
        assert_array_equal(unseen, np.rint(unseen))
        assert unseen.min() >= 0
    assert unseen.sum() > 0.2 * len(corpus.words)
    labels = draws.shares.argmax(axis=1)
    pairs = labels[:, None] == labels, truth[words.rows][:, None] == truth[words.rows]
    assert (pairs[0] == pairs[1]).mean() > 0.9
    assert_allclose(draws.shares.sum(axis=1), 1.0)


def test_word_distributions_of_few_tokens_are_drawn_without_underflow():
    corpus = corpus_of(np.ones((1, 4), int), [3, 1])
    counts = gibbs.counts_from_words(corpus, np.array([[0.0, 5.0], [0.0, 0.0], [0.0, 2.0], [0.0, 1.0]]), 1e-6)
    generator = np.random.default_rng(0)
    logs = np.array([unobserved.draw_log_words(corpus, counts, 1e-6, generator) for _ in range(4000)])
    assert np.isfinite(logs).all()
    assert_allclose(np.exp(logs[:, :3]).sum(axis=1), 1.0)
    assert_allclose(np.exp(logs).mean(axis=0)[:, 1], [5 / 7, 0.0, 2 / 7, 1.0], atol=0.02)
    assert_allclose(np.exp(logs).mean(axis=0)[:3, 0], 1 / 3, atol=0.03)


def test_kernels_compile_once():
    values, absent, _ = random_rows()
    corpus, words = corpus_of(values, [6, 4]), lacking(values, absent, [6, 4])
    prior, settings, generator = np.full((40, 3), 1 / 3), Settings(0.4, 0.3, 1.0), np.random.default_rng(0)
    topics, counts = unobserved.start(corpus, words, prior, settings, generator)
    topics[::4] = -1
    counts = gibbs.count(corpus, topics, 3, 0.3)
    unobserved.place(corpus, words, topics, prior, counts, settings, generator)
    theta = unobserved.first_theta(corpus, words, topics, 3, 0.4)
    unobserved.sweep(corpus, words, topics, prior, counts, settings, theta, generator)
    unobserved_rows.fold_in(corpus, words, topics, prior, counts, settings, 2, generator)
    unobserved_rows.lower_bounds(corpus, words, topics, counts, settings, prior)
    unobserved_rows.class_scores(corpus, words, topics, counts, settings)
    for module, names in (
        (unobserved, ("_add_rates", "_place", "_sweep_rows")),
        (unobserved_rows, ("_fold", "_score", "_bound")),
    ):
        assert [len(getattr(module, name).signatures) for name in names] == [1] * 3
