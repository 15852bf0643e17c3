"""The MLDA with engine `gibbs` where counts are missing in a part of a row."""

import numpy as np
import pytest

from runner.report.clustering_metrics import accuracy
from tests.support.mlda_data import (
    TRUTH,
    K,
    N,
    both,
    call,
    histograms,
    lacking,
    likelihood,
    make_mlda,
    observed,
    posteriors,
    sent,
    some_prior,
)
from tests.support.toy_modules import check_state_transfer, same_arrays


def without_counts(messages):
    """Return the histograms with zeros in the place of missing counts."""
    return [observed(message.header.sender, np.array(message["values"])) for message in messages]


def at_random():
    """Return histograms in which counts are missing at random, those of every third word most often."""
    messages, share = [], np.where(np.arange(12) % 3 == 0, 0.7, 0.2)
    for message in both(own=0.0):
        values = np.array(message["values"])
        absent = np.random.default_rng([3, ord(message.header.sender[0])]).random(values.shape) < share
        messages.append(observed(message.header.sender, np.where(absent, 0.0, values), mask=absent))
    return messages


def beliefs():
    return posteriors("gmm", 0.7 * np.eye(K)[TRUTH] + 0.3 * np.random.default_rng(4).dirichlet(np.ones(K), N))


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["rows", "tokens"])
def test_rows_in_which_counts_are_missing_are_classified_by_the_others(start):
    mlda, messages = make_mlda(itr=50, start=start), lacking()
    found = call(mlda, *messages, seed=1)
    if start == "tokens":  # topics that cut across the rows
        assert np.isfinite(found.outputs["Pdz"]).all()
        return
    zeros = call(make_mlda(itr=50), *without_counts(messages), seed=1)
    accuracies = [accuracy(each.outputs["class"], TRUTH) for each in (found, zeros)]
    assert accuracies[0] >= 0.8  # 0.99 from all counts; those that are missing are mostly the high ones
    assert accuracies[0] > accuracies[1] + 0.05
    up = sent(found, "topic_posteriors", "mm")
    assert up.mask.tolist() == [row == 5 for row in range(N)]
    assert np.isfinite(likelihood(found)).all()


def test_word_distributions_are_those_of_whole_rows():
    """Of words that are often missing, zeros would say that they are rare."""
    mlda, zeros, messages = make_mlda(itr=50), make_mlda(itr=50), at_random()
    call(mlda, *messages, seed=1)
    call(zeros, *without_counts(messages), seed=1)

    def words(each):  # of all topics together, as these have any order
        counts = each.state()["counts.left"].sum(axis=1)
        return counts / counts.sum()

    expected = histograms("left", own=0.0).sum(axis=0) / histograms("left", own=0.0).sum()
    assert np.abs(words(mlda) - expected).max() < 0.035
    assert np.abs(words(zeros) - expected).max() > 0.05


def test_classes_agree_with_variational_bayes_where_rows_have_many_tokens():
    many = {"tokens": 150, "own": 0.15}
    gibbs, vb = make_mlda(itr=50), make_mlda(itr=50, engine="vb")
    found, expected = (call(each, *lacking(0.25, **many), seed=1).outputs["Pdz"] for each in (gibbs, vb))
    names = {k: np.bincount(expected.argmax(axis=1)[found.argmax(axis=1) == k], minlength=K).argmax() for k in range(K)}
    assert sorted(names.values()) == list(range(K))
    renamed = np.stack([found[:, k] for k in sorted(names, key=names.get)], axis=1)
    assert (renamed.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
    assert np.median(np.abs(renamed - expected).max(axis=1)) < 0.1


def test_rows_that_lack_no_words_are_as_they_were():
    """A mask of values without any, or of whole rows, is that of whole rows."""
    missing = np.arange(N) % 5 == 0
    left, right = histograms("left"), histograms("right")
    one = call(make_mlda(), observed("left", left, mask=missing), observed("right", right), seed=2)
    wide = np.broadcast_to(missing[:, None], left.shape).copy()
    other = call(
        make_mlda(),
        observed("left", left, mask=wide),
        observed("right", right, mask=np.zeros_like(right, dtype=bool)),
        seed=2,
    )
    assert same_arrays(one.outputs, other.outputs)
    np.testing.assert_array_equal(likelihood(one), likelihood(other))


def test_values_in_the_place_of_missing_counts_have_no_influence():
    messages = lacking()
    filled = [
        observed(each.header.sender, np.where(each["mask"], 9.0, each["values"]), mask=each["mask"])
        for each in messages
    ]
    outboxes = [call(make_mlda(), *each, beliefs(), some_prior("mm", 3), seed=2) for each in (messages, filled)]
    assert same_arrays(outboxes[0].outputs, outboxes[1].outputs)
    np.testing.assert_array_equal(likelihood(outboxes[0]), likelihood(outboxes[1]))


def test_a_row_that_lacks_everything_is_missing_and_keeps_the_prior():
    prior = some_prior("mm", 3)
    outbox = call(make_mlda(), *lacking(), prior, receivers=("mm", "other"), seed=2)
    for_others = sent(outbox, "topic_posteriors", "other")
    np.testing.assert_allclose(for_others["log_prob"][5], prior["log_prob"][5], atol=1e-9)
    np.testing.assert_allclose(outbox.outputs["Pdz"][5], np.exp(prior["log_prob"][5]), atol=1e-9)


def test_reconstructions_have_the_observed_counts_in_their_sums():
    messages = lacking()
    found = call(make_mlda(), *messages, seed=1)
    down, seen = sent(found, "reconstructions", "left")["values"], ~messages[0]["mask"]
    expected, tokens = np.where(seen, down, 0).sum(axis=1), np.where(seen, messages[0]["values"], 0).sum(axis=1)
    np.testing.assert_allclose(expected[tokens > 0], tokens[tokens > 0], rtol=1e-5)


def test_concentrations_are_estimated_near_those_of_whole_rows():
    parameters = {"itr": 60, "alpha": "estimated", "beta": "estimated"}
    metrics = [call(make_mlda(**parameters), *each, seed=1).metrics for each in (both(), lacking(0.2))]
    for name in ("alpha", "beta"):
        assert 0.5 < metrics[1][name] / metrics[0][name] < 2.0


def test_modalities_are_calibrated_where_counts_are_missing():
    left, right = lacking(0.2)
    repeated = observed("left", 5.0 * np.array(left["values"]), mask=left["mask"])  # each token five times
    mlda = make_mlda(itr=40)
    call(mlda, repeated, right, beliefs(), seed=1)
    state = mlda.state()
    assert state["exponent.left"] < 0.6
    assert state["exponent.left"] < 0.6 * state["exponent.right"]


# --- state, recognition -----------------------------------------------------------------------------------------------


def test_continues_bit_for_bit_after_a_load():
    messages = (*lacking(), beliefs(), some_prior("mm", 1))
    continued, again = check_state_transfer(call, make_mlda(), make_mlda(), *messages)
    np.testing.assert_array_equal(likelihood(again), likelihood(continued))


def test_the_state_has_the_unobserved_tokens_and_the_topic_shares():
    mlda = make_mlda()
    call(mlda, *at_random(), seed=1)
    state = mlda.state()
    observed_tokens = np.zeros_like(state["counts.left"])
    np.add.at(observed_tokens, (state["words.left"], state["topics.left"]), 1)
    unseen = state["counts.left"] - observed_tokens
    assert unseen.min() >= 0
    assert unseen.sum() == pytest.approx(histograms("left", own=0.0).sum() - observed_tokens.sum(), rel=0.2)
    assert state["topic_shares"].sum() == pytest.approx(1.0)
    learnt = mlda.state()
    again = call(mlda, *at_random(), seed=3, overrides={"iterations": 0})
    assert same_arrays(
        {k: v for k, v in mlda.state().items() if k != "topic_shares"},
        {k: v for k, v in learnt.items() if k != "topic_shares"},
    )
    assert np.isfinite(likelihood(again)).all()
    without_rows = mlda.state_without_rows()
    np.testing.assert_array_equal(without_rows["topic_shares"], mlda.state()["topic_shares"])


def test_new_rows_in_which_counts_are_missing_are_recognized():
    mlda = make_mlda(itr=40)
    learnt = call(mlda, *both(), seed=1).outputs["class"]
    before = mlda.state()
    new = both(rows=60, seed=9)
    absent = [np.random.default_rng(m).random(message["values"].shape) < 0.4 for m, message in enumerate(new)]
    given = [
        observed(message.header.sender, np.where(mask, 0.0, message["values"]), mask=mask)
        for message, mask in zip(new, absent, strict=True)
    ]
    found = call(mlda, *given, method="recognize", mode="recognize")
    zeros = call(mlda, *without_counts(given), method="recognize", mode="recognize")
    right = [(each.outputs["class"] == learnt[:60]).mean() for each in (found, zeros)]
    assert right[0] > 0.85
    assert right[0] >= right[1]
    assert same_arrays(mlda.state(), before)
    # A modality that is missing as a whole, for some rows by its values, says nothing.
    alone = observed("right", np.zeros((60, 12)), mask=np.ones((60, 12), dtype=bool))
    one, other = (call(mlda, *each, method="recognize", mode="recognize") for each in ((given[0], alone), given[:1]))
    assert same_arrays(one.outputs, other.outputs)


def test_engines_continue_from_each_other_where_counts_are_missing():
    mlda = make_mlda(itr=40)
    classes = call(mlda, *lacking(0.2), seed=1).outputs["class"]
    expected = call(mlda, *lacking(0.2), round=1, overrides={"engine": "vb"})
    assert (expected.outputs["class"] == classes).mean() > 0.9
    sampled = call(mlda, *lacking(0.2), round=2, overrides={"iterations": 5})
    assert (sampled.outputs["class"] == classes).mean() > 0.9
    state = mlda.state()
    assert state["counts.left"].sum() > len(state["words.left"])


def test_a_prior_from_above_is_followed_while_it_is_annealed():
    labels = np.random.default_rng(0).permutation(K)[TRUTH]
    prior = np.log(0.95 * np.eye(K)[labels] + 0.05 / K)
    message = some_prior("mm", 1)
    message = type(message)(message.header, {"log_prob": prior - np.log(np.exp(prior).sum(axis=1, keepdims=True))})
    outbox = call(make_mlda(itr=30), *lacking(), message, seed=1, temperature=0.3)
    assert (outbox.outputs["class"] == labels).mean() > 0.85
    assert np.isfinite(likelihood(outbox)).all()
