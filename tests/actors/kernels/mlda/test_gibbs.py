"""Tests of the Gibbs sampler of topics, against the joint distribution in closed form and exact enumeration."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import digamma, gammaln, logsumexp

from actors.kernels.mlda import gibbs as lda
from actors.kernels.mlda import row_updates

OWNER = [0, 0, 0, 1, 1]  # three words in the first modality, two in the second
SETTINGS = lda.Settings(0.4, 0.3, 1.0)


def corpus_of(*rows):
    """Return the corpus whose rows have these words."""
    places = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    words = np.array([word for row in rows for word in sorted(row)], dtype=np.int64)
    return lda.make_corpus(places, words, OWNER, len(rows))[0]


def random_corpus(generator, rows=12, most=9):
    return corpus_of(*(generator.integers(0, 5, generator.integers(0, most)).tolist() for _ in range(rows)))


def random_prior(generator, rows, classes):
    prior = generator.dirichlet(np.ones(classes), rows)
    prior[::3] = np.eye(classes)[generator.integers(0, classes, len(prior[::3]))]  # some rows are one-hot
    return prior


def rows_of(corpus):
    return np.repeat(np.arange(len(corpus.starts) - 1), np.diff(corpus.starts))


def log_joint(corpus, topics, prior, settings):
    """Return log p(topics, words) of assignments (…, T) in closed form, without tokens of topic -1."""
    rows, (size, classes) = rows_of(corpus), prior.shape
    hot = topics[..., None] == np.arange(classes)  # (…, T, K)
    n = np.stack([hot[..., rows == d, :].sum(axis=-2) for d in range(size)], axis=-2)  # (…, N, K)
    words = np.stack([hot[..., corpus.words == w, :].sum(axis=-2) for w in range(len(OWNER))], axis=-2)
    alpha, beta, temperature = settings
    value = gammaln(n + alpha).sum(axis=(-1, -2)) - gammaln(n.sum(axis=-1) + classes * alpha + 1).sum(axis=-1)
    value = value + np.log((prior * (n + alpha)).sum(axis=-1)).sum(axis=-1)
    for m in range(2):
        own = words[..., np.array(OWNER) == m, :]
        likelihood = gammaln(own + beta).sum(axis=-2) - gammaln(own.sum(axis=-2) + own.shape[-2] * beta)
        value = value + temperature * likelihood.sum(axis=-1)
    return value


def draw(log_scores, uniform):
    cumulative = np.cumsum(np.exp(log_scores - np.max(log_scores)))
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def slow_sweep(corpus, topics, prior, settings, generator):
    """Sample each token and propose a swap in each row, by the joint probabilities of all outcomes."""
    classes, rows = prior.shape[1], rows_of(corpus)

    def offers(k, topics, row):
        swapped = np.tile(topics, (classes, 1))
        for other in range(classes):
            swapped[other, row & (topics == k)] = other
            swapped[other, row & (topics == other)] = k
        return swapped, log_joint(corpus, swapped, prior, settings)

    for d in range(len(prior)):
        for i in np.flatnonzero(rows == d):
            each = np.tile(topics, (classes, 1))
            each[:, i] = np.arange(classes)
            topics[i] = draw(log_joint(corpus, each, prior, settings), generator.random())
        row = rows == d
        if row.any():
            k = topics[row][int(generator.random() * row.sum())]
            choice, chance = generator.random(), generator.random()
            swapped, scores = offers(k, topics, row)
            chosen = draw(scores, choice)
            back = offers(chosen, swapped[chosen], row)[1]
            if np.log(chance) < logsumexp(scores) - logsumexp(back):
                topics[:] = swapped[chosen]


@pytest.mark.parametrize(
    ("rows", "most", "classes", "temperature"),
    [(12, 9, 3, 1.0), (12, 9, 4, 0.3), (10, 4, 2, 1.0), (3, 200, 2, 1.0), (5, 60, 1, 0.3)],
)
def test_sweeps_agree_with_sampling_from_the_joint_probability(rows, most, classes, temperature):
    generator = np.random.default_rng(most)
    corpus, settings = random_corpus(generator, rows, most), SETTINGS._replace(temperature=temperature)
    prior = random_prior(generator, rows, classes)
    topics = generator.integers(0, classes, len(corpus.words)).astype(np.int32)
    counts, expected = lda.count(corpus, topics, classes, settings.beta), topics.copy()
    moved = 0
    for sweep in range(6):
        before = topics.copy()
        lda.sweep(corpus, topics, prior, counts, settings, np.random.default_rng(sweep))
        slow_sweep(corpus, expected, prior, settings, np.random.default_rng(sweep))
        assert_array_equal(topics, expected)
        moved += (topics != before).sum()
    assert moved > len(topics) or classes == 1  # otherwise the agreement would be trivial
    for kept, afresh in zip(counts, lda.count(corpus, topics, classes, settings.beta), strict=True):
        assert_allclose(kept, afresh)


def test_tokens_follow_the_enumerated_posterior():
    corpus = corpus_of([0, 1, 3], [1, 2, 4], [0, 0, 3])
    prior = np.array([[0.6, 0.3, 0.1], [0.0, 0.5, 0.5], [1 / 3] * 3])
    assignments = np.array(list(itertools.product(range(3), repeat=9)), dtype=np.int32)
    exact = np.exp(scores := log_joint(corpus, assignments, prior, SETTINGS), out=scores)
    exact /= exact.sum()
    # The topic of each token, and which pairs of tokens share one.
    marks = [assignments[:, i] == k for i in range(9) for k in range(3)]
    marks += [assignments[:, i] == assignments[:, j] for i, j in itertools.combinations(range(9), 2)]
    statistics = np.array(marks, dtype=float).T

    batches, size, generator = 40, 1000, np.random.default_rng(1)
    topics, seen = assignments[0].copy(), np.zeros((batches, len(assignments)))
    counts, code = lda.count(corpus, topics, 3, SETTINGS.beta), 3 ** np.arange(8, -1, -1)
    for batch in range(batches):
        for _ in range(size):
            lda.sweep(corpus, topics, prior, counts, SETTINGS, generator)
            seen[batch, topics @ code] += 1 / size
    means = seen @ statistics
    error = means.std(axis=0, ddof=1) / np.sqrt(batches)
    deviation = np.abs(means.mean(axis=0) - exact @ statistics) / error
    assert deviation.max() < 4.5
    assert error.max() < 0.01


def test_the_joint_probability_agrees_with_the_closed_form():
    generator = np.random.default_rng(3)
    corpus = random_corpus(generator)
    prior, topics = random_prior(generator, 12, 3), generator.integers(0, 3, (2, len(corpus.words))).astype(np.int32)
    values = [lda.log_joint(corpus, z, lda.count(corpus, z, 3, SETTINGS.beta), prior, SETTINGS) for z in topics]
    assert values[1] - values[0] == pytest.approx(np.diff(log_joint(corpus, topics, prior, SETTINGS))[0])


# --- one row, with the topics of all others fixed -----------------------------------------------------------------


def one_row(words, seed=5):
    """Return a corpus whose last row has these words, topics that are -1 in that row, and a prior."""
    generator = np.random.default_rng(seed)
    corpus = corpus_of(*(generator.integers(0, 5, 6).tolist() for _ in range(8)), words)
    topics = generator.integers(0, 3, len(corpus.words)).astype(np.int32)
    topics[len(topics) - len(words) :] = -1
    prior = np.full((9, 3), 1 / 3)
    prior[-1] = [0.7, 0.2, 0.1]
    return corpus, topics, prior


def enumerated(corpus, topics, prior, settings=SETTINGS):
    """Return all assignments (A, T) of the tokens of topic -1, and the log-probability of each up to a constant."""
    new = np.flatnonzero(topics < 0)
    every = np.array(list(itertools.product(range(prior.shape[1]), repeat=len(new))), dtype=np.int32)
    assignments = np.tile(topics, (len(every), 1))
    assignments[:, new] = every
    return assignments, log_joint(corpus, assignments, prior, settings)


def evidence_of_classes(corpus, topics, row=8):
    """Return log p(the row's tokens | class k) for each k, up to one constant, with a one-hot prior for each."""
    certain = np.tile(np.full(3, 1 / 3), (9, 1))
    scores = []
    for k in range(3):
        certain[row] = np.eye(3)[k]
        scores.append(logsumexp(enumerated(corpus, topics, certain)[1]))
    return np.array(scores)


def test_folding_in_a_row_agrees_with_enumeration():
    corpus, topics, prior = one_row([0, 1, 1, 4])
    counts = lda.count(corpus, topics, 3, SETTINGS.beta)
    result = lda.fold_in(corpus, topics, prior, counts, SETTINGS, 20_000, np.random.default_rng(0))
    scores = evidence_of_classes(corpus, topics)
    exact = np.exp(scores - logsumexp(scores))
    assert_allclose(result.likelihood[8] / result.likelihood[8].sum(), exact, atol=0.01)
    # One further token, with an uninformative word, has topic k.
    assignments, weights = enumerated(corpus, topics, prior)
    n = (assignments[:, -4:, None] == np.arange(3)).sum(axis=1)
    more = (n + 0.4) * ((prior[8] * (n + 0.4)).sum(axis=1, keepdims=True) + prior[8])
    exact = np.exp(weights - logsumexp(weights)) @ (more / more.sum(axis=1, keepdims=True))
    assert_allclose(result.shares[8], exact, atol=0.01)


def test_a_held_out_modality_is_ignored_and_its_words_are_predicted():
    corpus, topics, prior = one_row([0, 1, 4, 4, 4])
    # Words 1 and 4 go together, 0 and 3 too: if the row's own tokens were used, they would predict the next word.
    topics[:-5] = np.array([0, 1, 2, 0, 1])[corpus.words[:-5]]
    taken = np.where(topics < 0, 1, topics).astype(np.int32)  # so would they in the word distributions
    counts = lda.count(corpus, taken, 3, SETTINGS.beta)
    result = lda.fold_in(corpus, taken, prior, counts, SETTINGS, 20_000, np.random.default_rng(0), 1)
    others = [corpus.words[rows_of(corpus) == d].tolist() for d in range(8)]
    scores = []
    for word in (3, 4):  # the probability of each as the row's only word of its modality
        with_word = corpus_of(*others, [0, 1, word])
        scores.append(logsumexp(enumerated(with_word, topics[:-2], prior)[1]))
    exact = np.exp(scores - logsumexp(scores))
    assert_allclose(result.words[8], exact, atol=0.01)
    assert_allclose(result.words.sum(axis=1), 1.0)
    assert exact[0] > 0.55  # the effect of the prior


def test_folding_in_leaves_the_counts_unchanged():
    generator = np.random.default_rng(2)
    corpus = random_corpus(generator)
    topics = generator.integers(0, 3, len(corpus.words)).astype(np.int32)
    counts, prior = lda.count(corpus, topics, 3, 0.3), np.full((12, 3), 1 / 3)
    before = [array.copy() for array in counts]
    for without in (-1, 0, 1):
        lda.fold_in(corpus, topics, prior, counts, SETTINGS, 2, generator, without)
    row_updates.lower_bounds(corpus, topics, counts, SETTINGS, np.zeros((12, 3)))
    for kept, now in zip(before, counts, strict=True):
        assert_array_equal(kept, now)


@pytest.mark.parametrize("words", [[0], [1, 4], [0, 1, 1, 4], [0, 0, 0, 3, 3, 4]])
def test_the_bound_is_below_the_rows_likelihood_and_near_it(words):
    corpus, topics, _ = one_row(words)
    counts = lda.count(corpus, topics, 3, SETTINGS.beta)
    phi = (counts.words + SETTINGS.beta) / (counts.totals + np.array([[3], [2]]) * SETTINGS.beta)[OWNER]
    exact = -np.inf
    for z in itertools.product(range(3), repeat=len(words)):
        n = np.bincount(z, minlength=3) + SETTINGS.alpha
        theta = gammaln(n).sum() - gammaln(n.sum()) + gammaln(1.2) - 3 * gammaln(0.4)
        exact = np.logaddexp(exact, theta + np.log(phi[sorted(words), list(z)]).sum())
    n = np.tile(len(words) * np.array([0.5, 0.3, 0.2]), (9, 1))
    bound = row_updates.lower_bounds(corpus, topics, counts, SETTINGS, n)[8]
    assert exact - 1.5 < bound <= exact
    # With one topic the bound is exact.
    single = np.where(topics < 0, -1, 0).astype(np.int32)
    counts = lda.count(corpus, single, 1, SETTINGS.beta)
    bound = row_updates.lower_bounds(corpus, single, counts, SETTINGS, np.zeros((9, 1)))[8]
    phi = (counts.words[:, 0] + 0.3) / (counts.totals[:, 0] + np.array([3, 2]) * 0.3)[OWNER]
    assert bound == pytest.approx(np.log(phi[words]).sum())


def test_the_bound_of_a_row_excludes_its_own_tokens_from_the_counts():
    corpus, topics, _ = one_row([0, 1, 1, 4])
    n = np.full((9, 3), 2.0)
    new = row_updates.lower_bounds(corpus, topics, lda.count(corpus, topics, 3, 0.3), SETTINGS, n)[8]
    topics[topics < 0] = 1
    learnt = row_updates.lower_bounds(corpus, topics, lda.count(corpus, topics, 3, 0.3), SETTINGS, n)[8]
    assert learnt == pytest.approx(new)


def test_digamma_agrees_with_scipy():
    x = np.concatenate([np.logspace(-6, 6, 200), np.linspace(0.5, 12, 50)])
    assert_allclose([row_updates.digamma(value) for value in x], digamma(x), rtol=1e-12, atol=1e-13)


# --- initial topics -----------------------------------------------------------------------------------------------


def test_new_rows_start_in_one_topic_and_new_tokens_join_the_old_ones():
    corpus, topics, prior = one_row([0, 1, 1, 4])
    drawn = []
    for seed in range(4000):
        z, counts = topics.copy(), lda.count(corpus, topics, 3, SETTINGS.beta)
        lda.place(corpus, z, prior, counts, SETTINGS, False, np.arange(9), np.random.default_rng(seed))
        assert len(set(z[-4:])) == 1
        assert_array_equal(z[:-4], topics[:-4])
        drawn.append(z[-1])
    whole = np.tile(topics, (3, 1))
    whole[:, -4:] = np.arange(3)[:, None]
    exact = log_joint(corpus, whole, prior, SETTINGS)
    assert_allclose(np.bincount(drawn) / 4000, np.exp(exact - logsumexp(exact)), atol=0.03)
    kept = topics.copy()
    kept[-2:] = 0
    z, counts = kept.copy(), lda.count(corpus, kept, 3, SETTINGS.beta)
    lda.place(corpus, z, prior, counts, SETTINGS, False, np.arange(9), np.random.default_rng(0))
    assert_array_equal(z[kept >= 0], kept[kept >= 0])
    assert (z >= 0).all()
    assert_allclose(counts.words, lda.count(corpus, z, 3, SETTINGS.beta).words)


def test_a_start_by_rows_reaches_at_least_the_probability_of_a_start_by_tokens():
    generator = np.random.default_rng(0)
    phi = generator.dirichlet(np.full(5, 0.5), 3)
    corpus = corpus_of(*(generator.choice(5, 40, p=phi[d % 3]).tolist() for d in range(90)))
    prior, settings = np.full((90, 3), 1 / 3), lda.Settings(0.1, 0.1, 1.0)

    def end(topics, counts):
        for _ in range(20):
            lda.sweep(corpus, topics, prior, counts, settings, generator)
        return lda.log_joint(corpus, topics, counts, prior, settings)

    by_rows = end(*lda.start(corpus, prior, settings, generator, 2))
    topics = generator.integers(0, 3, len(corpus.words)).astype(np.int32)
    assert by_rows > end(topics, lda.count(corpus, topics, 3, 0.1)) - 5.0


def test_the_start_follows_the_prior():
    generator = np.random.default_rng(0)
    corpus = corpus_of(*(generator.integers(0, 5, 4).tolist() for _ in range(60)))  # uninformative
    labels = np.arange(60) % 3
    topics, _ = lda.start(corpus, 0.98 * np.eye(3)[labels] + 0.02 / 3, SETTINGS, generator, 1)
    assert (topics == labels[rows_of(corpus)]).mean() > 0.8


def test_kernels_compile_once():
    lda.compile_kernels()
    kernels = (lda.sweep, lda.place, lda._fold, row_updates.lower_bounds)
    before = [len(kernel.signatures) for kernel in kernels]
    generator = np.random.default_rng(0)
    corpus = random_corpus(generator)
    prior = np.full((12, 3), 1 / 3)
    topics, counts = lda.start(corpus, prior, SETTINGS, generator, 2)
    lda.sweep(corpus, topics, prior, counts, SETTINGS, generator)
    lda.fold_in(corpus, topics, prior, counts, SETTINGS, 2, generator, 1)
    row_updates.lower_bounds(corpus, topics, counts, SETTINGS, lda.row_counts(corpus, topics, 3))
    assert [len(kernel.signatures) for kernel in kernels] == before == [1, 1, 1, 1]
