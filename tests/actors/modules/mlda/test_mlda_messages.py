"""The MLDA counts what came, tells each module only what the others said, and lives with what is missing."""

import itertools

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp, softmax

from actors.graph.registry import make
from actors.modules.mlda.tokens import largest_remainder
from tests.support.mlda_data import (
    MERGED,
    TRUTH,
    K,
    N,
    both,
    histograms,
    likelihood,
    make_mlda,
    observed,
    posteriors,
    sent,
    some_prior,
    update,
)
from tests.support.toy_modules import same

# --- what is counted ----------------------------------------------------------------------------------------------


def test_shares_become_whole_numbers_that_sum_to_the_total():
    values = np.random.default_rng(0).random((200, 7)) ** 4
    counts = largest_remainder(values, 50)
    assert (counts.sum(axis=1) == 50).all()
    assert np.abs(counts - 50 * values / values.sum(axis=1, keepdims=True)).max() < 1
    np.testing.assert_array_equal(largest_remainder(np.full((1, 3), 1e-300), 4), [[2, 1, 1]])
    np.testing.assert_array_equal(largest_remainder(np.zeros((1, 3)), 4), [[0, 0, 0]])


def test_counts_are_taken_as_they_are_and_weights_scale_them():
    mlda = make_mlda(itr=0, weights={"right": 6, "gmm": 3})
    gmm = posteriors("gmm", [[0.5, 0.5], [1.0, 0.0], [0.1, 0.9]])
    images = np.array([[[2, 0], [0.4, 1]], [[0, 0], [0, 3]], [[0, 0], [0, 0]]])
    update(mlda, observed("left", images), observed("right", [[2, 1], [0, 9], [0, 0]]), gmm)
    state = mlda.state()
    assert state["tokens.left"].tolist() == [3, 3, 0]
    assert state["words.left"].tolist() == [0, 0, 3, 3, 3, 3]
    assert state["words.right"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    assert state["words.gmm"].tolist() == [0, 0, 1, 0, 0, 0, 1, 1, 1]


def test_class_posteriors_count_a_hundred_tokens_by_default():
    mlda = make_mlda(itr=0)
    update(mlda, posteriors("gmm", [[0.25, 0.75], [1 / 3, 2 / 3]]))
    state = mlda.state()
    assert state["tokens.gmm"].tolist() == [100, 100]
    np.testing.assert_array_equal(state["counts.gmm"].sum(axis=1), [58, 142])


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["update", "recognize"])
def test_priors_multiply_and_none_goes_back_to_where_it_came_from(answer):
    mlda = make_mlda()
    update(mlda, *both())
    a, b = some_prior("a", 1), some_prior("b", 2)
    outbox = update(mlda, *both(), a, b, receivers=("a", "b", "c"), answer=answer)
    bare = likelihood(outbox, "a") - b["log_prob"]
    np.testing.assert_allclose(likelihood(outbox, "b"), bare + a["log_prob"], atol=1e-9)
    composed = bare + a["log_prob"] + b["log_prob"]
    joint = sent(outbox, "topic_posteriors", "c")
    np.testing.assert_allclose(np.exp(joint["log_prob"]), softmax(composed, axis=1), atol=1e-9)
    np.testing.assert_allclose(outbox.outputs["Pdz"], softmax(composed, axis=1), atol=1e-9)
    np.testing.assert_array_equal(outbox.outputs["class"], composed.argmax(axis=1))
    if answer == "update":
        product = np.logaddexp.reduce(a["log_prob"] + b["log_prob"], axis=1)
        expected = (logsumexp(composed, axis=1) - product).sum()
        assert outbox.metrics["evidence"] == pytest.approx(expected)


def test_the_likelihoods_mean_over_uniform_topics_is_the_evidence():
    outbox = update(make_mlda(), *both())
    bound = logsumexp(likelihood(outbox), axis=1) - np.log(K)
    assert outbox.metrics["evidence"] == pytest.approx(bound.sum())
    # Of 40 tokens of 12 words in each of two modalities, better than none known and worse than all known.
    assert -80 * np.log(12) < bound.mean() < -80 * np.log(2)


def row_alone(state, name, alpha, beta, prior, row):
    """Return P(word of `name` | the row's tokens in "left", all other rows) by enumeration."""
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


@pytest.mark.parametrize("still", [{"learn": False}, {"answer": "recognize"}], ids=["learning", "recognition"])
def test_down_goes_what_the_others_say_of_a_row_and_not_what_its_own_modality_does(still):
    rng = np.random.default_rng(4)
    left = observed("left", rng.multinomial(3, rng.dirichlet(np.full(4, 0.3)), 20))
    gmm = posteriors("gmm", rng.dirichlet(np.full(3, 0.3), 20))
    prior = some_prior("mm", 7, rows=20)
    mlda = make("mlda", {"topics": K, "weights": {"gmm": 8}, "alpha": 0.3, "beta": 0.2})
    update(mlda, left, gmm, prior)
    state, new = mlda.state(), still.get("answer") == "recognize"
    if new:  # rows that were never learnt have nothing that could be left out
        state |= {"tokens.left": np.zeros(20, int), "tokens.gmm": np.zeros(20, int)}
    outbox = update(mlda, left, gmm, prior, overrides={"samples": 4000}, **still)
    down = np.exp(sent(outbox, "transition_prior", "gmm")["log_prob"])
    for row in range(3):
        if new:
            state["tokens.left"], state["words.left"] = np.zeros(20, int), mlda.state()["words.left"]
            expected = recognized_alone(state, left["values"][row], np.exp(prior["log_prob"][row]))
        else:
            expected = row_alone(state, "gmm", 0.3, 0.2, np.exp(prior["log_prob"][row]), row)
        np.testing.assert_allclose(down[row], expected, atol=0.02)


def recognized_alone(state, values, prior):
    """As :func:`row_alone`, of a row that is in no count."""
    words = np.repeat(np.arange(4), values.astype(int)).astype(np.int32)
    made = {**state, "words.left": words, "tokens.left": np.array([3]), "topics.left": np.zeros(3, int)}
    made["counts.left"] = state["counts.left"].copy()
    np.add.at(made["counts.left"], (words, np.zeros(3, int)), 1)
    return row_alone({**made, "tokens.gmm": np.array([0])}, "gmm", 0.3, 0.2, prior, 0)


def test_a_single_modality_without_prior_is_told_nothing_about_its_rows():
    mlda = make_mlda()
    outbox = update(mlda, posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K), overrides={"alpha": 0.2})
    down = np.exp(sent(outbox, "transition_prior", "gmm")["log_prob"])
    assert np.ptp(down, axis=0).max() < 0.05


def test_reconstructions_are_histograms_of_the_observations_shape_and_sum():
    values = histograms("left").reshape(N, 3, 4) * 2.5
    outbox = update(make_mlda(weights={"left": 40}), observed("left", values), both()[1])
    x_hat = sent(outbox, "reconstructions", "left")["values"]
    assert x_hat.shape == values.shape
    np.testing.assert_allclose(x_hat.sum(axis=(1, 2)), values.sum(axis=(1, 2)), rtol=1e-5)
    # Nearer to the classes' words than the rows themselves are, which are noisy.
    clean = 100 * (0.7 * histograms("left", own=0.0, tokens=100_000) / 100_000 + 0.3 / 12)
    assert np.abs(x_hat.reshape(N, -1) - clean).mean() < 0.5 * np.abs(values.reshape(N, -1) - clean).mean()
    np.testing.assert_allclose(outbox.outputs["Pzw_left"].sum(axis=1), 1.0)
    assert outbox.outputs["Pzw_left"].shape == (K, 12)


# --- what is missing ----------------------------------------------------------------------------------------------


def test_modalities_that_miss_a_row_have_no_say_in_it_and_are_predicted():
    gone = np.arange(N) % 5 == 0
    states, outboxes = [], []
    for filler in (0.0, 77.0):
        left, right = histograms("left"), histograms("right")
        left[gone] = filler
        mlda = make_mlda()
        outboxes.append(update(mlda, observed("left", left, mask=gone), observed("right", right), seed=2))
        states.append(mlda.state())
    assert same(*states)
    assert same(outboxes[0].outputs, outboxes[1].outputs)
    assert (states[0]["tokens.left"][gone] == 0).all()
    up = sent(outboxes[0], "topic_posteriors", "mm")
    assert not up.mask.any()
    x_hat = sent(outboxes[1], "reconstructions", "left")["values"]
    assert not (x_hat == 77).any()
    np.testing.assert_allclose(x_hat.sum(axis=1), 40, rtol=1e-5)
    # What the right modality tells apart: left's first words are classes 0 and 1.
    lit = x_hat[gone & (TRUTH < 2)][:, :4].sum(axis=1)
    assert lit.mean() > 20


def test_rows_that_all_modalities_miss_say_nothing_and_get_what_the_prior_says():
    gone = np.arange(N) % 7 == 0
    messages = [observed(name, histograms(name), mask=gone) for name in MERGED]
    prior = some_prior("mm", 4)
    outbox = update(make_mlda(), *messages, prior, some_prior("b", 5), receivers=("mm", "b"))
    up = sent(outbox, "topic_posteriors", "b")
    np.testing.assert_array_equal(up.mask, gone)
    assert (up["log_norm"][gone] == 0).all()
    np.testing.assert_allclose(up["log_prob"][gone], prior["log_prob"][gone], atol=1e-9)


def test_empty_histograms_are_rows_without_tokens():
    left, right = histograms("left"), histograms("right")
    left[3] = right[3] = right[4] = 0
    outbox = update(make_mlda(weights={"right": 10}), observed("left", left), observed("right", right))
    assert np.flatnonzero(sent(outbox, "topic_posteriors", "mm").mask).tolist() == [3]


@pytest.mark.parametrize("whole", ["left", "right"])
def test_a_modality_may_be_missing_altogether_at_recognition(whole):
    mlda = make_mlda()
    update(mlda, *both())
    rows = {whole: {"mask": np.ones(60, dtype=bool)}}
    new = [observed(name, histograms(name, 60, seed=9), **rows.get(name, {})) for name in MERGED]
    outbox = update(mlda, *new, answer="recognize")
    there = next(name for name in MERGED if name != whole)
    merged = np.array(MERGED[there])[np.arange(60) % K]
    confused = np.array([np.bincount(merged[outbox.outputs["class"] == k], minlength=3).max() for k in range(K)])
    assert confused.sum() >= 57  # classes within what this modality can tell apart
    x_hat = sent(outbox, "reconstructions", whole)["values"]
    np.testing.assert_allclose(x_hat.sum(axis=1), 40, rtol=1e-5)
    absent = update(mlda, *[message for message in new if message.header.sender != whole], answer="recognize")
    np.testing.assert_array_equal(absent.outputs["class"], outbox.outputs["class"])


def test_recognition_with_nothing_there_is_the_prior():
    mlda = make_mlda()
    update(mlda, *both())
    gone = {"mask": np.ones(5, dtype=bool)}
    new = [observed(name, np.zeros((5, 12)), **gone) for name in MERGED]
    prior = some_prior("mm", 3, rows=5)
    outbox = update(mlda, *new, prior, answer="recognize")
    assert sent(outbox, "topic_posteriors", "mm").mask.all()
    np.testing.assert_allclose(outbox.outputs["Pdz"], np.exp(prior["log_prob"]), atol=1e-9)


def test_lengths_travel_on():
    left, right = both()
    outbox = update(make_mlda(), left, observed("right", right["values"], lengths=np.array([20, 100])))
    assert sent(outbox, "topic_posteriors", "mm").lengths.tolist() == [20, 100]
    assert sent(outbox, "reconstructions", "left").lengths.tolist() == [20, 100]
