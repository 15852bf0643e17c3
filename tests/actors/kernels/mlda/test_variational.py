"""Variational Bayes for MLDA, against scikit-learn, enumeration of all assignments, and the collapsed sampler."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.special import digamma, gammaln, logsumexp, softmax
from scipy.stats import beta as beta_distribution
from sklearn.decomposition import LatentDirichletAllocation

from actors.kernels.mlda import calibration
from actors.kernels.mlda.variational import (
    ExpectedSums,
    Topics,
    answer,
    best_alpha,
    best_beta,
    bound_row,
    class_scores,
    expect,
    expected_log_words,
    improve_gamma,
    load_row,
    make_rows,
    make_words,
    make_workspace,
    share_word,
    topic_bound,
)

ALPHA, BETA, K = 0.3, 0.4, 3
LIMITS = (1e-6, 1e6)


def some_counts(rows=40, sizes=(7, 5), seed=0, whole=True):
    """Return counts of rows that mostly have one of K topics, and the words of their modalities."""
    generator = np.random.default_rng(seed)
    phi = [generator.dirichlet(np.full(size, 0.3), K) for size in sizes]
    theta = generator.dirichlet(np.full(K, 0.2), rows)
    values = [np.stack([generator.multinomial(9, t @ p) for t in theta]).astype(float) for p in phi]
    values[1][::7] = 0.0  # missing in one modality
    if not whole:
        values = [each * generator.gamma(2.0, 0.5, each.shape) for each in values]
    return values, make_words(sizes)


def some_topics(words, seed=1, exponents=None):
    counts = np.random.default_rng(seed).gamma(2.0, 3.0, (len(words.modality), K))
    exponents = np.ones(len(words.sizes)) if exponents is None else np.array(exponents)
    return Topics(counts, exponents, ALPHA, BETA)


def no_prior(rows):
    return np.full((rows, K), -np.log(K))


def some_prior(rows, seed=3):
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(K), rows))


def learn(values, words, topics, log_prior, iterations):
    """Return the topics after some iterations, and the bound in each."""
    rows, bounds = make_rows(values), []
    for _ in range(iterations):
        sums = expect(rows, words, topics, log_prior)
        bounds.append(sums.bound + topic_bound(topics, words))
        topics = topics._replace(counts=sums.counts)
    return topics, np.array(bounds)


# --- one modality without classes: scikit-learn -----------------------------------------------------------------------


def test_topics_and_bound_are_those_of_scikit_learn():
    alpha, beta = 1.0, 1.0  # with less, a row has several optima, and scikit-learn starts each from random numbers
    values, words = some_counts(sizes=(12, 2))[0][0], make_words([12])
    settings = {"doc_topic_prior": alpha, "topic_word_prior": beta, "learning_method": "batch"}
    tight = {"mean_change_tol": 1e-13, "max_doc_update_iter": 20_000, "random_state": 5}
    other = LatentDirichletAllocation(K, max_iter=4, evaluate_every=-1, **settings, **tight).fit(values)
    # How scikit-learn draws the parameters of the first topics from its seed.
    parameters = np.random.RandomState(5).gamma(100.0, 0.01, (K, 12)).T
    rows, work = make_rows([values]), make_workspace(12, K, 1)

    def sums_of(topics):
        counts, bound, log_words = np.zeros_like(topics.counts), 0.0, expected_log_words(topics, words)
        for first, last in itertools.pairwise(rows.starts):
            own, n = slice(first, last), last - first
            load_row(rows.words[own], rows.counts[own], words.modality, np.ones(1), log_words, work)
            work.concentration[:] = alpha
            gamma = alpha + np.full(K, rows.counts[own].sum() / K)
            before = np.zeros(K)
            while np.abs(gamma - before).max() > 1e-13:
                before = gamma.copy()
                improve_gamma(n, gamma, work, 1)
            bound += bound_row(n, gamma, work)
            for i in range(n):
                share_word(i, work.mean_log.max(), work)
                counts[rows.words[own][i]] += rows.counts[own][i] * work.shares
        return counts, bound

    topics = Topics(parameters - beta, np.ones(1), alpha, beta)
    for _ in range(4):
        topics = topics._replace(counts=sums_of(topics)[0])
    assert_allclose(topics.counts.T + beta, other.components_, atol=1e-6)
    assert_allclose(sums_of(topics)[1] + topic_bound(topics, words), other.score(values), rtol=1e-9)


# --- enumeration ------------------------------------------------------------------------------------------------------


def log_theta_terms(n, concentration):
    """Return log p(topics) with θ ~ Dirichlet(concentration) integrated out, for counts n (…, K)."""
    norm = gammaln(concentration.sum()) - gammaln(concentration.sum() + n.sum(axis=-1))
    return norm + (gammaln(concentration + n) - gammaln(concentration)).sum(axis=-1)


def tokens_of(row):
    return np.repeat(np.arange(len(row)), row.astype(int))


def exact_likelihoods(row, log_words):
    """Return log p(tokens | class) (K,) of a row of counts (W,), given log φ (W, K), and P(next topic | class)."""
    tokens = tokens_of(row)
    z = np.array(list(itertools.product(range(K), repeat=len(tokens)))).reshape(-1, len(tokens))
    n = (z[..., None] == np.arange(K)).sum(axis=1)
    likelihood = log_words[tokens, z].sum(axis=1)
    classes, shares = np.zeros(K), np.zeros((K, K))
    for c in range(K):
        prior = ALPHA + np.eye(K)[c]
        joint = likelihood + log_theta_terms(n, prior)
        classes[c] = logsumexp(joint)
        shares[c] = softmax(joint) @ ((prior + n) / (prior + n).sum(axis=1, keepdims=True))
    return classes, shares


def test_answers_about_new_rows_are_those_of_enumeration():
    values, words = some_counts(rows=12)
    values = [np.minimum(each, 1.0 + (np.arange(each.shape[1]) < 2)) for each in values]
    values = [each * (each.cumsum(axis=1) <= 2) for each in values]  # few tokens
    topics, log_prior = some_topics(words), some_prior(12)
    topics = topics._replace(counts=topics.counts**2)
    found, held_out = answer(make_rows(values), words, topics, log_prior), []
    of_second = answer(make_rows(values), words, topics, log_prior, without=1)
    raised = topics.counts + BETA
    phi = np.concatenate([raised[:7] / raised[:7].sum(axis=0), raised[7:] / raised[7:].sum(axis=0)])
    for d, row in enumerate(np.concatenate(values, axis=1)):
        exact, shares = exact_likelihoods(row, np.log(phi))
        assert (found.likelihood[d] <= exact + 1e-12).all()  # a lower bound
        assert (found.likelihood[d] > exact - 1.5).all()
        posterior = softmax(exact + log_prior[d])
        assert_allclose(softmax(found.likelihood[d] + log_prior[d]), posterior, atol=0.15)
        assert_allclose(found.shares[d], posterior @ shares, atol=0.2)
        assert np.abs(found.shares[d] - posterior @ shares).mean() < 0.12
        without = np.where(np.arange(12) < 7, row, 0.0)
        exact, shares = exact_likelihoods(without, np.log(phi))
        held_out.append(softmax(exact + log_prior[d]) @ shares @ phi[7:].T)
    assert_allclose(of_second.words, held_out, atol=0.05)


def test_the_bound_is_below_the_evidence_by_enumeration():
    """Three rows of two modalities, eight tokens, under a prior of each row's class: 3^8 assignments."""
    left, right = np.array([[1, 0, 1], [0, 2, 0], [0, 0, 1]]), np.array([[1, 0], [0, 1], [0, 1]])
    values, words, log_prior = [left.astype(float), right.astype(float)], make_words([3, 2]), some_prior(3)
    joined = np.concatenate(values, axis=1)
    tokens = [(d, w) for d, row in enumerate(joined) for w in tokens_of(row)]
    z = np.array(list(itertools.product(range(K), repeat=len(tokens))))
    hot = z[..., None] == np.arange(K)
    n = np.stack([hot[:, [i for i, t in enumerate(tokens) if t[0] == d]].sum(axis=1) for d in range(3)], axis=1)
    by_word = np.stack([hot[:, [i for i, t in enumerate(tokens) if t[1] == w]].sum(axis=1) for w in range(5)], axis=1)
    of_class = np.stack([log_theta_terms(n, ALPHA + np.eye(K)[c]) for c in range(K)], axis=-1)
    joint = logsumexp(of_class + log_prior, axis=-1).sum(axis=1)
    for part in (by_word[:, :3], by_word[:, 3:]):
        joint += sum(log_theta_terms(part[..., k], np.full(part.shape[1], BETA)) for k in range(K))
    bounds = [learn(values, words, some_topics(words, seed), log_prior, 50)[1][-1] for seed in range(4)]
    assert (np.array(bounds) < logsumexp(joint)).all()
    assert max(bounds) > logsumexp(joint) - 3.0


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("prior", [no_prior, some_prior])
@pytest.mark.parametrize("exponents", [(1.0, 1.0), (0.3, 0.9)])
def test_iterations_raise_the_bound(whole, prior, exponents):
    values, words = some_counts(rows=60, whole=whole)
    _, bounds = learn(values, words, some_topics(words, exponents=exponents), prior(60), 40)
    assert bounds[-1] > bounds[0] + 10.0
    # Each row's γ is found from the same start in each iteration: rarely, it is another optimum than before.
    assert np.diff(bounds).min() > -1e-5 * abs(bounds[-1])


def test_an_exponent_is_another_number_of_tokens():
    values, words = some_counts()
    topics = some_topics(words, exponents=(0.5, 2.0))
    fewer = topics._replace(counts=topics.counts * topics.exponents[words.modality][:, None], exponents=np.ones(2))
    one = expect(make_rows(values), words, topics, no_prior(40))
    other = expect(make_rows([0.5 * values[0], 2.0 * values[1]]), words, fewer, no_prior(40))
    assert_allclose(one.bound, other.bound, rtol=1e-12)
    assert_allclose(one.counts * topics.exponents[words.modality][:, None], other.counts, rtol=1e-9)
    assert topic_bound(topics, words) == pytest.approx(topic_bound(fewer, words))


def test_sums_over_parts_of_the_rows_add_up():
    values, words = some_counts(whole=False)
    topics, log_prior = some_topics(words), some_prior(40)
    whole = expect(make_rows(values), words, topics, log_prior)
    parts = [
        expect(make_rows([v[s] for v in values]), words, topics, log_prior[s]) for s in (slice(0, 13), slice(13, 40))
    ]
    for name in ExpectedSums._fields:
        assert_allclose(sum(getattr(part, name) for part in parts), getattr(whole, name), rtol=1e-12)


def parts_of_rows(values, words, topics, log_prior):
    """Return each row's expected tokens by word and topic."""
    return [
        expect(make_rows([v[d : d + 1] for v in values]), words, topics, log_prior[d : d + 1]).counts
        for d in range(len(log_prior))
    ]


@pytest.mark.parametrize("without", [-1, 1])
def test_a_row_is_left_out_of_its_own_answer(without):
    values, words = some_counts(whole=False)
    before, log_prior = some_topics(words, exponents=(0.4, 1.0)), some_prior(40)
    topics = before._replace(counts=expect(make_rows(values), words, before, log_prior).counts)
    found = answer(make_rows(values), words, topics, log_prior, (before, 1.0), without)
    for d, own in enumerate(parts_of_rows(values, words, before, log_prior)):
        others, row = topics._replace(counts=topics.counts - own), make_rows([v[d : d + 1] for v in values])
        expected = answer(row, words, others, log_prior[d : d + 1], None, without)
        for name in ("likelihood", "shares", "words"):
            assert_allclose(getattr(found, name)[d : d + 1], getattr(expected, name), rtol=1e-6, atol=1e-9)


def test_class_scores_are_those_of_polya_urns_without_the_row():
    values, words = some_counts()
    before, log_prior = some_topics(words, exponents=(0.4, 1.0)), some_prior(40)
    topics = before._replace(counts=expect(make_rows(values), words, before, log_prior).counts)
    scores = class_scores(make_rows(values), words, topics, log_prior, (before, 1.0))
    for d, own in enumerate(parts_of_rows(values, words, before, log_prior)):
        others = topics.counts - own
        for m, span in enumerate((slice(0, 7), slice(7, 12))):
            x, row = others[span] + BETA, values[m][d][:, None]
            expected = (
                (gammaln(x + row) - gammaln(x)).sum(axis=0) - gammaln((x + row).sum(axis=0)) + gammaln(x.sum(axis=0))
            )
            assert_allclose(scores[m, d], expected if row.any() else 0.0, atol=1e-8)


def test_estimated_concentrations_maximise_the_bound():
    generator, rows, classes = np.random.default_rng(0), 50, np.arange(50) % K
    gamma = generator.gamma(1.0, 2.0, (rows, K)) + 0.05 + 3.0 * np.eye(K)[classes]
    mean_log = digamma(gamma) - digamma(gamma.sum(axis=1, keepdims=True))

    def bound_of_alpha(log_alpha):
        prior = np.exp(log_alpha) + np.eye(K)[classes]
        return (gammaln(prior.sum(axis=1)) - gammaln(prior).sum(axis=1) + ((prior - 1.0) * mean_log).sum(axis=1)).sum()

    best = np.exp(minimize_scalar(lambda x: -bound_of_alpha(x), bounds=(-8, 8), options={"xatol": 1e-9}).x)
    sums = ExpectedSums(np.zeros((1, K)), np.zeros(K), 0.0, mean_log.sum(), float(rows))
    assert best_alpha(sums, 1.0, LIMITS) == pytest.approx(best, rel=1e-4)
    words = make_words([7, 5])
    topics = some_topics(words)._replace(beta=0.7)
    expected = expected_log_words(topics, words)

    def bound_of_beta(log_beta):
        b = np.exp(log_beta)
        return K * (gammaln(words.sizes * b) - words.sizes * gammaln(b)).sum() + (b - 1.0) * expected.sum()

    best = np.exp(minimize_scalar(lambda x: -bound_of_beta(x), bounds=(-8, 8), options={"xatol": 1e-9}).x)
    assert best_beta(topics, words, LIMITS) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("concentration", LIMITS)
def test_extreme_concentrations_give_finite_answers(concentration):
    values, words = some_counts()
    topics = some_topics(words)._replace(alpha=concentration, beta=concentration)
    topics, bounds = learn([each * 1e6 for each in values], words, topics, no_prior(40), 3)
    found = answer(make_rows(values), words, topics, no_prior(40))
    assert np.isfinite(bounds).all()
    assert np.isfinite(found.likelihood).all()
    assert_allclose(found.shares.sum(axis=1), 1.0)


# --- calibration from sums --------------------------------------------------------------------------------------------


def test_exponents_from_sums_are_those_from_all_rows():
    generator = np.random.default_rng(2)
    classes = np.arange(200) % K
    scores = 4.0 * generator.normal(size=(2, 200, K)) + 6.0 * np.eye(K)[classes]
    scores[1, ::5] = 0.0
    log_prior, exponents = some_prior(200), np.array([1.0, 0.5])
    for free in (np.array([True, False]), np.array([False, True])):
        expected = calibration.calibrate_exponents(scores, log_prior, exponents, free)
        parts = [slice(0, 70), slice(70, 200)]
        sums = [calibration.exponent_posteriors(scores[:, part]) for part in parts]
        means = sum(each["posteriors"] for each in sums) / sum(each["shown"] for each in sums)[:, None, None]
        fits = [calibration.exponent_fits(scores[:, part], log_prior[part], exponents, means)["fits"] for part in parts]
        assert_allclose(calibration.best_exponents(sum(fits), exponents, free), expected)
        assert (expected != exponents).any()


def test_calibrations_of_predictions_from_sums_are_those_from_all_rows():
    generator = np.random.default_rng(4)
    belief = np.log(generator.dirichlet(np.full(5, 0.3), 150) + 1e-9)
    prediction = softmax(0.7 * belief + generator.normal(size=(150, 5)), axis=1)
    expected = calibration.calibrate_prediction(prediction, belief)
    parts = [slice(0, 40), slice(40, 150)]
    sums = [calibration.prediction_means(prediction[part], belief[part]) for part in parts]
    total = {name: sum(each[name] for each in sums) for name in sums[0]}
    mean, of_belief = total["prediction"] / total["prediction"].sum(), total["belief"] / total["shown"]
    fits = [calibration.prediction_fits(prediction[p], belief[p], mean, of_belief)["fits"] for p in parts]
    found = calibration.best_prediction(sum(fits), mean)
    assert found[:3] == expected[:3]
    assert_allclose(found.mean, expected.mean)


# --- rows in which counts are missing -------------------------------------------------------------------------------


def exact_evidence(counts, absent, phi, alpha, log_prior, tokens=None):
    """Return log p(observed tokens) of a row of two topics with known words, by quadrature over θ.

    With `tokens` it is the sum over numbers of unobserved tokens up to that, in the place of p_O^-n.
    """
    n = counts[~absent].sum()

    def density(share, c):
        p = np.array([share, 1 - share]) @ phi
        value = np.prod(p[~absent] ** counts[~absent])
        if tokens is None:
            value *= p[~absent].sum() ** -n
        else:
            j = np.arange(tokens)
            value *= (np.exp(gammaln(n + j) - gammaln(n) - gammaln(j + 1)) * p[absent].sum() ** j).sum()
        a = alpha + (np.arange(2) == c)
        return value * beta_distribution(*a).pdf(share)

    parts = [np.exp(log_prior[c]) * quad(density, 0, 1, args=(c,), limit=200)[0] for c in range(2)]
    return np.log(sum(parts))


def known_topics(phi, tokens=1e7):
    """Return topics whose words are known: of so many tokens that nothing is uncertain."""
    return Topics(tokens * phi.T, np.ones(1), 1.0, 1e-3)


def test_missing_counts_are_the_sum_over_all_numbers_of_unobserved_tokens():
    phi = np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])
    counts, absent = np.array([2.0, 1.0, 0.0, 0.0]), np.array([False, False, True, True])
    log_prior = np.log([0.3, 0.7])
    conditional = exact_evidence(counts, absent, phi, 1.0, log_prior)
    assert exact_evidence(counts, absent, phi, 1.0, log_prior, tokens=200) == pytest.approx(conditional, abs=1e-8)


def test_the_bound_of_a_row_that_lacks_counts_is_below_its_evidence_as_far_as_that_of_a_whole_row():
    generator, gaps, of_whole_rows, as_zeros = np.random.default_rng(0), [], [], []
    for _ in range(8):
        phi = generator.dirichlet(np.ones(4), 2)
        counts, log_prior = generator.integers(0, 6, 4).astype(float), np.log(generator.dirichlet(np.ones(2)))
        absent = np.arange(4) == generator.integers(4)
        counts[absent], counts[(~absent).argmax()] = 0.0, 3.0
        rows, known = make_rows([counts[None]], [absent[None]]), (make_words([4]), known_topics(phi), log_prior[None])
        bound = expect(rows, *known).bound
        gaps.append(exact_evidence(counts, absent, phi, 1.0, log_prior) - bound)
        as_zeros.append(abs(expect(make_rows([counts[None]]), *known).bound - bound))
        share = phi[:, absent].mean()
        whole = np.where(absent, np.round(counts.sum() * share / (1 - share)), counts)
        evidence = exact_evidence(whole, np.zeros(4, dtype=bool), phi, 1.0, log_prior)
        of_whole_rows.append(evidence - expect(make_rows([whole[None]]), *known).bound)
    assert min(gaps) > -1e-4
    assert np.mean(gaps) < np.mean(of_whole_rows) + 0.1
    assert max(as_zeros) > 0.1


def test_of_one_topic_all_is_exact():
    """The expected count of a missing cell is that of the negative binomial distribution."""
    phi = np.array([[0.5, 0.2, 0.2, 0.1]])
    counts, absent = np.array([[4.0, 1.0, 0.0, 0.0]]), np.array([[False, False, False, True]])
    topics = known_topics(phi)._replace(exponents=np.array([0.5]))
    found = expect(make_rows([counts], [absent]), make_words([4]), topics, np.zeros((1, 1)))
    assert found.bound == pytest.approx(0.5 * (4 * np.log(0.5 / 0.9) + np.log(0.2 / 0.9)), abs=1e-5)
    np.testing.assert_allclose(found.counts[:, 0], [4.0, 1.0, 0.0, 5.0 * 0.1 / 0.9], atol=1e-5)
    answers = answer(make_rows([counts], [absent]), make_words([4]), topics, np.zeros((1, 1)))
    assert answers.likelihood[0, 0] == pytest.approx(4 * np.log(0.5 / 0.9) + np.log(0.2 / 0.9), abs=1e-5)


def test_a_modality_without_observed_tokens_says_nothing():
    values, words = some_counts()
    absent = [np.zeros_like(each, dtype=bool) for each in values]
    absent[1][::7] = True
    topics, log_prior = some_topics(words), some_prior(40)
    for one, other in zip(make_rows(values), make_rows(values, absent), strict=True):
        np.testing.assert_array_equal(one, other)
    assert expect(make_rows(values, absent), words, topics, log_prior).rows == 40


def test_the_bound_never_falls_where_counts_are_missing():
    values, words = some_counts()
    absent = [np.random.default_rng(m).random(each.shape) < 0.3 for m, each in enumerate(values)]
    values = [np.where(lacking, 0.0, each) for each, lacking in zip(values, absent, strict=True)]
    rows, topics, log_prior, bounds = make_rows(values, absent), some_topics(words), some_prior(40), []
    for _ in range(25):
        sums = expect(rows, words, topics, log_prior)
        bounds.append(sums.bound + topic_bound(topics, words))
        topics = topics._replace(counts=sums.counts)
    assert (np.diff(bounds) > -1e-3).all()  # the iteration of a row ends early (CHANGE)
    assert bounds[-1] > bounds[0] + 10


def test_the_scores_of_topics_are_those_of_the_observed_words_alone():
    """The distribution over the observed words is a Dirichlet distribution: the others' counts do not matter."""
    values, words = [np.array([[3.0, 2.0, 0.0, 0.0], [1.0, 4.0, 2.0, 5.0]])], make_words([4])
    absent = [np.array([[False, False, True, True], [False] * 4])]
    topics = some_topics(words)
    before = topics._replace(counts=topics.counts + 50.0)
    found = class_scores(make_rows(values, absent), words, topics, no_prior(2), (before, 1.0))[0, 0]
    parts = make_rows(values, absent), words, before, no_prior(2)
    own = expect(make_rows([values[0][:1]], [absent[0][:1]]), words, before, no_prior(1)).counts
    assert len(parts[0].counts) == 8
    rest = np.maximum(topics.counts + BETA - own, BETA)[:2]
    n = values[0][0, :2, None]
    expected = (gammaln(rest + n) - gammaln(rest)).sum(axis=0)
    expected -= gammaln(rest.sum(axis=0) + n.sum()) - gammaln(rest.sum(axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-9)
