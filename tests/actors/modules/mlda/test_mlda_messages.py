"""Tokens, messages and missing rows of the MLDA."""

import itertools

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp, softmax

from actors.graph.registry import make_module
from actors.modules.mlda.tokens import largest_remainder
from tests.support.mlda_data import (
    MERGED,
    TRUTH,
    K,
    N,
    both,
    call,
    histograms,
    likelihood,
    make_mlda,
    observed,
    posteriors,
    sent,
    some_prior,
)
from tests.support.toy_modules import same_arrays

# --- tokens -------------------------------------------------------------------------------------------------------


def test_largest_remainders_sum_to_the_total():
    values = np.random.default_rng(0).random((200, 7)) ** 4
    counts = largest_remainder(values, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert np.abs(counts - 50 * values / values.sum(axis=1, keepdims=True)).max() < 1
    np.testing.assert_array_equal(largest_remainder(np.full((1, 3), 1e-300), 4), [[2, 1, 1]])
    np.testing.assert_array_equal(largest_remainder(np.zeros((1, 3)), 4), [[0, 0, 0]])


def test_counts_are_rounded_without_a_weight_and_scaled_with_one():
    mlda = make_mlda(itr=0, weights={"right": 6, "gmm": 3})
    gmm = posteriors("gmm", [[0.5, 0.5], [1.0, 0.0], [0.1, 0.9]])
    images = np.array([[[2, 0], [0.4, 1]], [[0, 0], [0, 3]], [[0, 0], [0, 0]]])
    call(mlda, observed("left", images), observed("right", [[2, 1], [0, 9], [0, 0]]), gmm)
    state = mlda.state()
    assert state["tokens.left"].tolist() == [3, 3, 0]
    assert state["words.left"].tolist() == [0, 0, 3, 3, 3, 3]
    assert state["words.right"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert state["words.gmm"].tolist() == [0, 0, 1, 0, 0, 0, 1, 1, 1]


def test_class_posteriors_have_100_tokens_by_default():
    mlda = make_mlda(itr=0)
    call(mlda, posteriors("gmm", [[0.25, 0.75], [1 / 3, 2 / 3]]))
    state = mlda.state()
    assert state["tokens.gmm"].tolist() == [100, 100]
    np.testing.assert_array_equal(state["counts.gmm"].sum(axis=1), [58, 142])


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["update", "recognize"])
def test_priors_multiply_except_the_receivers_own(method):
    mlda = make_mlda()
    call(mlda, *both())
    a, b = some_prior("a", 1), some_prior("b", 2)
    outbox = call(mlda, *both(), a, b, receivers=("a", "b", "c"), method=method)
    bare = likelihood(outbox, "a") - b["log_prob"]
    np.testing.assert_allclose(likelihood(outbox, "b"), bare + a["log_prob"], atol=1e-9)
    composed = bare + a["log_prob"] + b["log_prob"]
    joint = sent(outbox, "topic_posteriors", "c")
    np.testing.assert_allclose(np.exp(joint["log_prob"]), softmax(composed, axis=1), atol=1e-9)
    np.testing.assert_allclose(outbox.outputs["Pdz"], softmax(composed, axis=1), atol=1e-9)
    np.testing.assert_array_equal(outbox.outputs["class"], composed.argmax(axis=1))
    if method == "update":
        product = np.logaddexp.reduce(a["log_prob"] + b["log_prob"], axis=1)
        expected = (logsumexp(composed, axis=1) - product).sum()
        assert outbox.metrics["evidence"] == pytest.approx(expected)


def test_the_evidence_is_the_mean_likelihood_over_a_uniform_class():
    outbox = call(make_mlda(), *both())
    bound = logsumexp(likelihood(outbox), axis=1) - np.log(K)
    assert outbox.metrics["evidence"] == pytest.approx(bound.sum())
    # 40 tokens of 12 words in each of two modalities: above the uniform distribution, below that of known classes.
    assert -80 * np.log(12) < bound.mean() < -80 * np.log(2)


def predicted_word(state, name, alpha, beta, prior, row):
    """Return P(word of `name` | the row's tokens in "left", all other rows), by enumeration."""
    at = np.concatenate([[0], np.cumsum(state["tokens.left"])])
    words = state["words.left"][at[row] : at[row + 1]]
    left = state["counts.left"].astype(float)
    np.subtract.at(left, (words, state["topics.left"][at[row] : at[row + 1]]), 1)
    own = slice(*np.concatenate([[0], np.cumsum(state[f"tokens.{name}"])])[row : row + 2])
    other = state[f"counts.{name}"].astype(float)
    np.subtract.at(other, (state[f"words.{name}"][own], state[f"topics.{name}"][own]), 1)
    phi = (other + beta) / (other + beta).sum(axis=0)
    topics, weights, shares = len(prior), [], []
    for z in itertools.product(range(topics), repeat=len(words)):
        n, seen = np.bincount(z, minlength=topics), left + beta
        score = gammaln(n + alpha).sum() + np.log(prior @ (n + alpha))
        for word, k in zip(words, z, strict=True):
            score += np.log(seen[word, k] / seen[:, k].sum())
            seen[word, k] += 1
        share = (n + alpha) * (prior @ (n + alpha) + prior)
        weights.append(score)
        shares.append(share / share.sum())
    return phi @ (np.exp(weights - logsumexp(weights)) @ np.array(shares))


@pytest.mark.parametrize("options", [{"learn": False}, {"method": "recognize"}], ids=["learning", "recognition"])
def test_the_message_down_is_the_word_distribution_given_the_other_modalities(options):
    rng = np.random.default_rng(4)
    left = observed("left", rng.multinomial(3, rng.dirichlet(np.full(4, 0.3)), 20))
    gmm = posteriors("gmm", rng.dirichlet(np.full(3, 0.3), 20))
    prior = some_prior("mm", 7, rows=20)
    mlda = make_module("mlda", {"topics": K, "weights": {"gmm": 8}, "alpha": 0.3, "beta": 0.2, "calibrate": False})
    call(mlda, left, gmm, prior)
    state, new = mlda.state(), options.get("method") == "recognize"
    if new:  # new rows have no tokens in the counts
        state |= {"tokens.left": np.zeros(20, int), "tokens.gmm": np.zeros(20, int)}
    outbox = call(mlda, left, gmm, prior, overrides={"samples": 4000}, **options)
    down = np.exp(sent(outbox, "transition_prior", "gmm")["log_prob"])
    for row in range(3):
        if new:
            state["tokens.left"], state["words.left"] = np.zeros(20, int), mlda.state()["words.left"]
            expected = predicted_word_of_new_row(state, left["values"][row], np.exp(prior["log_prob"][row]))
        else:
            expected = predicted_word(state, "gmm", 0.3, 0.2, np.exp(prior["log_prob"][row]), row)
        np.testing.assert_allclose(down[row], expected, atol=0.02)


def predicted_word_of_new_row(state, values, prior):
    """Return the same as :func:`predicted_word` for a row that is not in the counts."""
    words = np.repeat(np.arange(4), values.astype(int)).astype(np.int32)
    extended = {**state, "words.left": words, "tokens.left": np.array([3]), "topics.left": np.zeros(3, int)}
    extended["counts.left"] = state["counts.left"].copy()
    np.add.at(extended["counts.left"], (words, np.zeros(3, int)), 1)
    return predicted_word({**extended, "tokens.gmm": np.array([0])}, "gmm", 0.3, 0.2, prior, 0)


def test_a_single_modality_without_a_prior_receives_an_uninformative_message():
    mlda = make_mlda()
    outbox = call(mlda, posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K), overrides={"alpha": 0.2})
    down = np.exp(sent(outbox, "transition_prior", "gmm")["log_prob"])
    assert np.ptp(down, axis=0).max() < 0.05


def test_reconstructions_have_the_shape_and_sums_of_the_histograms():
    values = histograms("left").reshape(N, 3, 4) * 2.5
    outbox = call(make_mlda(weights={"left": 40}), observed("left", values), both()[1])
    x_hat = sent(outbox, "reconstructions", "left")["values"]
    assert x_hat.shape == values.shape
    np.testing.assert_allclose(x_hat.sum(axis=(1, 2)), values.sum(axis=(1, 2)), rtol=1e-5)
    # The reconstructions are closer to the noise-free word distributions than the noisy rows are.
    clean = 100 * (0.7 * histograms("left", own=0.0, tokens=100_000) / 100_000 + 0.3 / 12)
    assert np.abs(x_hat.reshape(N, -1) - clean).mean() < 0.5 * np.abs(values.reshape(N, -1) - clean).mean()
    np.testing.assert_allclose(outbox.outputs["Pzw_left"].sum(axis=1), 1.0)
    assert outbox.outputs["Pzw_left"].shape == (K, 12)


def noisy_classes(share, seed=0):
    """Return class posteriors that are certain and, in a `share` of rows, of a random class."""
    generator = np.random.default_rng(seed)
    labels = np.where(generator.random(N) < share, generator.integers(0, K, N), TRUTH)
    return 0.999 * np.eye(K)[labels] + 0.001 / K


def test_a_message_down_is_as_certain_as_it_is_right():
    """Classes of another module that differ in a third of the rows predict them with about that certainty."""
    noisy, clear = posteriors("gmm", noisy_classes(0.4)), posteriors("other_gmm", noisy_classes(0.0))
    mlda = make_mlda(itr=40)
    outbox = call(mlda, noisy, clear)
    down = np.exp(sent(outbox, "transition_prior", "other_gmm")["log_prob"])
    agree = (noisy["log_prob"].argmax(axis=1) == TRUTH).mean()
    assert down.max(axis=1).mean() == pytest.approx(agree, abs=0.12)
    plain = call(make_mlda(itr=40, calibrate=False), noisy, clear)
    assert np.exp(sent(plain, "transition_prior", "other_gmm")["log_prob"]).max(axis=1).mean() > agree + 0.12


def test_class_posteriors_count_as_about_one_observation_beside_others():
    mlda = make_mlda(itr=40)
    call(mlda, posteriors("gmm", noisy_classes(0.1)), *both())
    assert 0.25 <= 100 * mlda.state()["exponent.gmm"] <= 4.0


def test_modalities_with_a_weight_are_not_recounted():
    mlda = make_mlda(weights={"gmm": 5, "left": 40})
    call(mlda, posteriors("gmm", noisy_classes(0.1)), *both())
    assert [key for key in mlda.state() if key.startswith("exponent")] == ["exponent.right"]


def test_a_single_modality_counts_every_token():
    mlda = make_mlda()
    call(mlda, both()[0])
    assert not [key for key in mlda.state() if key.startswith("exponent")]


# --- missing rows -------------------------------------------------------------------------------------------------


def test_missing_rows_of_a_modality_have_no_influence_and_are_predicted():
    missing = np.arange(N) % 5 == 0
    states, outboxes = [], []
    for filler in (0.0, 77.0):
        left, right = histograms("left"), histograms("right")
        left[missing] = filler
        mlda = make_mlda()
        outboxes.append(call(mlda, observed("left", left, mask=missing), observed("right", right), seed=2))
        states.append(mlda.state())
    assert same_arrays(*states)
    assert same_arrays(outboxes[0].outputs, outboxes[1].outputs)
    assert (states[0]["tokens.left"][missing] == 0).all()
    up = sent(outboxes[0], "topic_posteriors", "mm")
    assert not up.mask.any()
    x_hat = sent(outboxes[1], "reconstructions", "left")["values"]
    assert not (x_hat == 77).any()
    np.testing.assert_allclose(x_hat.sum(axis=1), 40, rtol=1e-5)
    # The right modality separates classes 0 and 1, whose words in the left modality are the first four.
    predicted = x_hat[missing & (TRUTH < 2)][:, :4].sum(axis=1)
    assert predicted.mean() > 20


def test_rows_missing_in_all_modalities_have_no_likelihood_and_keep_the_prior():
    missing = np.arange(N) % 7 == 0
    messages = [observed(name, histograms(name), mask=missing) for name in MERGED]
    prior = some_prior("mm", 4)
    outbox = call(make_mlda(), *messages, prior, some_prior("b", 5), receivers=("mm", "b"))
    up = sent(outbox, "topic_posteriors", "b")
    np.testing.assert_array_equal(up.mask, missing)
    assert (up["log_norm"][missing] == 0).all()
    np.testing.assert_allclose(up["log_prob"][missing], prior["log_prob"][missing], atol=1e-9)


def test_rows_with_only_empty_histograms_are_masked():
    left, right = histograms("left"), histograms("right")
    left[3] = right[3] = right[4] = 0
    outbox = call(make_mlda(weights={"right": 10}), observed("left", left), observed("right", right))
    assert np.flatnonzero(sent(outbox, "topic_posteriors", "mm").mask).tolist() == [3]


@pytest.mark.parametrize("masked", ["left", "right"])
def test_a_modality_may_be_missing_entirely_in_recognition(masked):
    mlda = make_mlda()
    call(mlda, *both())
    rows = {masked: {"mask": np.ones(60, dtype=bool)}}
    new = [observed(name, histograms(name, 60, seed=9), **rows.get(name, {})) for name in MERGED]
    outbox = call(mlda, *new, method="recognize")
    other = next(name for name in MERGED if name != masked)
    merged = np.array(MERGED[other])[np.arange(60) % K]
    confused = np.array([np.bincount(merged[outbox.outputs["class"] == k], minlength=3).max() for k in range(K)])
    assert confused.sum() >= 57  # classes that this modality can separate
    x_hat = sent(outbox, "reconstructions", masked)["values"]
    np.testing.assert_allclose(x_hat.sum(axis=1), 40, rtol=1e-5)
    absent = call(mlda, *[message for message in new if message.header.sender != masked], method="recognize")
    np.testing.assert_array_equal(absent.outputs["class"], outbox.outputs["class"])


def test_recognition_of_missing_rows_gives_the_prior():
    mlda = make_mlda()
    call(mlda, *both())
    mask = np.ones(5, dtype=bool)
    new = [observed(name, np.zeros((5, 12)), mask=mask) for name in MERGED]
    prior = some_prior("mm", 3, rows=5)
    outbox = call(mlda, *new, prior, method="recognize")
    assert sent(outbox, "topic_posteriors", "mm").mask.all()
    np.testing.assert_allclose(outbox.outputs["Pdz"], np.exp(prior["log_prob"]), atol=1e-9)


def test_lengths_are_passed_on():
    left, right = both()
    outbox = call(make_mlda(), left, observed("right", right["values"], lengths=np.array([20, 100])))
    assert sent(outbox, "topic_posteriors", "mm").lengths.tolist() == [20, 100]
    assert sent(outbox, "reconstructions", "left").lengths.tolist() == [20, 100]
