"""Calibration of the MLDA: tokens count as the independent observations that they are, messages as often as right."""

import itertools

import numpy as np
import pytest
from scipy.special import gammaln

from actors.kernels.mlda import gibbs
from actors.kernels.mlda.calibration import (
    PredictionCalibration,
    calibrate_exponents,
    calibrate_prediction,
    calibrated_prediction,
    match_words,
)
from actors.kernels.mlda.row_updates import class_scores
from tests.support.speech_data import speech_histograms

K, N, WORDS, TOKENS = 4, 400, 12, 10
TRUTH = np.arange(N) % K
SETTINGS = gibbs.Settings(0.1, 0.1, 1.0)


def overdispersed(seed, concentration=None, tokens=TOKENS):
    """Return counts (N, WORDS) of a multinomial distribution for each class, or of a Dirichlet-multinomial one."""
    generator = np.random.default_rng(seed)
    phi = generator.dirichlet(np.full(WORDS, 0.7), K)[TRUTH]
    if concentration is not None:
        phi = np.array([generator.dirichlet(concentration * p) for p in phi])
    return generator.multinomial(tokens, phi)


def scores_of(*tables):
    """Return the class scores (M, N, K) of the modalities' tables, with the true classes as topics."""
    rows, words, modality, first = [], [], [], 0
    for m, table in enumerate(tables):
        at = np.nonzero(table)
        repeats = table[at]
        rows.append(np.repeat(at[0], repeats))
        words.append(np.repeat(at[1], repeats) + first)
        modality += [m] * table.shape[1]
        first += table.shape[1]
    corpus, _ = gibbs.make_corpus(np.concatenate(rows), np.concatenate(words), modality, len(tables[0]))
    classes = TRUTH[: len(tables[0])] if len(tables[0]) <= N else np.arange(len(tables[0])) % 10
    topics = np.repeat(classes, np.diff(corpus.starts)).astype(np.int32)
    counts = gibbs.count(corpus, topics, int(classes.max()) + 1, SETTINGS.beta)
    before = counts.words.copy()
    scores = class_scores(corpus, topics, counts, SETTINGS)
    np.testing.assert_array_equal(counts.words, before)
    return scores


def exponents_of(*tables):
    scores = scores_of(*tables)
    flat = np.full(scores.shape[1:], -np.log(scores.shape[2]))
    return calibrate_exponents(scores, flat, np.ones(len(tables)), np.ones(len(tables), dtype=bool))


def test_class_scores_are_log_likelihoods_of_the_tokens_with_all_other_rows():
    tables = overdispersed(0), overdispersed(1)
    scores = scores_of(*tables)
    for m, d, k in itertools.product(range(2), range(3), range(K)):
        others = tables[m][(k == TRUTH) & (np.arange(N) != d)].sum(axis=0) + SETTINGS.beta
        row = tables[m][d]
        expected = (gammaln(others + row) - gammaln(others)).sum()
        expected += gammaln(others.sum()) - gammaln(others.sum() + row.sum())
        assert scores[m, d, k] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_independent_tokens_count_fully(seed):
    assert exponents_of(overdispersed(seed), overdispersed(seed + 10)).min() >= 0.5


@pytest.mark.parametrize("times", [2, 4, 16])
def test_tokens_that_are_each_repeated_count_once(times):
    one, other = overdispersed(0), overdispersed(10)
    once, repeated = exponents_of(one, other), exponents_of(times * one, other)
    # To one step of the candidates: β is not repeated.
    np.testing.assert_allclose(repeated, [once[0] / times, once[1]], rtol=0.42)


@pytest.mark.parametrize("concentration", [5.0, 20.0])
def test_overdispersed_tokens_count_by_the_variance_of_their_number(concentration):
    """A Dirichlet-multinomial count of n tokens has (n + c) / (1 + c) times the variance of a multinomial one."""
    tokens = 100
    expected = (1 + concentration) / (tokens + concentration)
    found = [exponents_of(overdispersed(seed, concentration, tokens), overdispersed(seed + 10))[0] for seed in range(5)]
    assert expected / 2 < np.exp(np.mean(np.log(found))) < expected * 2


def test_frames_of_speech_count_less_than_independent_frames():
    labels = np.arange(600) % 10
    generator = np.random.default_rng(0)
    other = generator.multinomial(10, (0.7 * np.eye(10) + 0.03)[labels])
    speech, single = (speech_histograms(labels, 0, run=run).astype(int) for run in (5.0, 1.0))
    assert exponents_of(speech, other)[0] <= 0.25
    assert exponents_of(speech, other)[0] < exponents_of(single, other)[0]


def test_exponents_with_a_weight_stay():
    scores = scores_of(overdispersed(0), 4 * overdispersed(1))
    flat, free = np.full((N, K), -np.log(K)), np.array([False, True])
    assert calibrate_exponents(scores, flat, np.array([0.3, 1.0]), free)[0] == 0.3


# --- predictions --------------------------------------------------------------------------------------------------


def drawn(exponent, lapse=0.0, seed=0, rows=4000):
    """Return predictions whose power `exponent` is right, except in a share `lapse` of rows, and certain beliefs."""
    generator = np.random.default_rng(seed)
    right = generator.dirichlet(np.full(K, 0.5), rows) + 1e-4
    right /= right.sum(axis=1, keepdims=True)
    labels = (generator.random(rows)[:, None] > np.cumsum(right, axis=1)).sum(axis=1).clip(max=K - 1)
    labels = np.where(generator.random(rows) < lapse, generator.integers(0, K, rows), labels)
    prediction = right ** (1.0 / exponent)
    with np.errstate(divide="ignore"):
        return prediction / prediction.sum(axis=1, keepdims=True), np.log(np.eye(K)[labels]), labels


@pytest.mark.parametrize("exponent", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("lapse", [0.0, 0.2])
def test_the_calibration_of_predictions_recovers_exponent_and_lapse(exponent, lapse):
    prediction, belief, _ = drawn(exponent, lapse)
    found = calibrate_prediction(prediction, belief)
    assert found.exponent == pytest.approx(exponent, rel=0.45)
    assert found.lapse == pytest.approx(lapse, abs=0.05)


def test_calibrated_predictions_are_right_as_often_as_they_say():
    prediction, belief, labels = drawn(0.25, 0.2)
    calibrated = calibrated_prediction(prediction, calibrate_prediction(prediction, belief)._replace(sharpness=1.0))
    np.testing.assert_allclose(calibrated.sum(axis=1), 1.0)
    sure = prediction.max(axis=1) > 0.99
    right = (prediction.argmax(axis=1) == labels)[sure].mean()
    assert right < 0.9
    assert calibrated.max(axis=1)[sure].mean() == pytest.approx(right, abs=0.03)


def test_predictions_that_say_nothing_of_the_belief_are_not_sent():
    prediction, belief, _ = drawn(1.0)
    calibrated = calibrated_prediction(prediction, calibrate_prediction(prediction, np.roll(belief, 1, axis=0)))
    assert np.ptp(calibrated, axis=0).max() < 0.1


def test_a_sharper_belief_gets_a_flatter_prediction():
    """Rows that say their class with little confidence mostly keep it, against predictions that are often wrong."""
    prediction, belief, labels = drawn(1.0, 0.2)
    soft = 0.6 * np.exp(belief) + 0.1
    calibration = calibrate_prediction(prediction, np.log(soft))
    assert calibration.sharpness > 1.0
    sent = (prediction, calibrated_prediction(prediction, calibration))
    before, after = (((soft * message).argmax(axis=1) == labels).mean() for message in sent)
    assert after > 0.94
    assert after > before + 0.03


def test_no_calibration_leaves_predictions_as_they_are():
    prediction, _, _ = drawn(1.0)
    none = PredictionCalibration(1.0, 0.0, 1.0, prediction.mean(axis=0))
    np.testing.assert_allclose(calibrated_prediction(prediction, none), prediction)


@pytest.mark.parametrize("topics", [3, 4, 5])
def test_matched_words_differ_between_topics(topics):
    words = np.random.default_rng(topics).dirichlet(np.full(4, 0.3), topics) + 1e-6
    words /= words.sum(axis=1, keepdims=True)
    matched = match_words(words)
    np.testing.assert_allclose(matched.sum(axis=1), 1.0)
    changed = np.flatnonzero((matched != words).any(axis=1))
    own = matched[changed].argmax(axis=1)
    assert len(set(own)) == len(changed) == min(topics, 4)
    best = max(
        sum(words[k, v] for k, v in zip(rows, columns, strict=True))
        for rows in itertools.permutations(range(topics), len(own))
        for columns in [range(4)] * (topics >= 4) or itertools.permutations(range(4), topics)
    )
    assert words[changed, own].sum() == pytest.approx(best)
