"""The MLDA with engine `vb`: what it learns, and the same bits for any number of workers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from actors.errors import ModuleError
from actors.modules.mlda.mlda import MLDA
from actors.sharing.contract import sharing_problem
from runner.report.clustering_metrics import accuracy
from tests.support.mlda_data import (
    BELOW,
    TRUTH,
    K,
    N,
    both,
    call,
    lacking,
    likelihood,
    make_mlda,
    observed,
    posteriors,
    prior_of,
    sent,
    some_prior,
)
from tests.support.sharded_updates import call_by_workers, cut_at, same_answers
from tests.support.toy_modules import check_state_transfer, same_arrays

RECEIVERS = {"topic_posteriors": ("mm",), **BELOW}
SIZE = 16


def vb(**parameters):
    return make_mlda(engine="vb", **parameters)


def beliefs(seed=4):
    return posteriors("gmm", 0.7 * np.eye(K)[TRUTH] + 0.3 * np.random.default_rng(seed).dirichlet(np.ones(K), N))


def reports_of(mlda, *messages, **context):
    """Return the reported objectives of an update, and its outbox."""
    reports = []
    outbox = call(mlda, *messages, reporter=lambda *report: reports.append(report), **context)
    return np.array([metrics["objective"] for _, _, metrics in reports]), outbox


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_two_modalities_together_separate_classes_that_each_alone_confuses(seed):
    left, right = both(seed=seed)
    together, *alone = (
        accuracy(call(vb(), *messages, seed=seed).outputs["class"], TRUTH)
        for messages in ((left, right), (left,), (right,))
    )
    assert together >= 0.95
    assert together >= max(alone) + 0.1


def test_the_bound_never_falls_and_an_update_ends_when_it_no_longer_rises():
    mlda = vb(itr=500)
    objectives, outbox = reports_of(mlda, both(own=0.6)[0])
    assert (np.diff(objectives) >= 0.0).all()
    assert 5 < len(objectives) < 500
    assert outbox.metrics["bound"] == objectives[-1]
    again, _ = reports_of(mlda, both(own=0.6)[0], round=1)
    assert again[-1] >= again[0] > objectives[-1] - 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_bound_has_no_meaning_at_another_temperature(temperature):
    _, outbox = reports_of(vb(), both()[0], some_prior("mm", 1), temperature=temperature)
    assert ("bound" in outbox.metrics) == (temperature == 1.0)


def test_messages_are_about_those_of_the_sampler():
    messages = [*both(), beliefs(), some_prior("mm", 3)]
    one, other = (
        call(make_mlda(engine=e, itr=40, samples=30, calibrate=False), *messages, seed=1) for e in ("vb", "gibbs")
    )
    order = [np.bincount(other.outputs["class"][one.outputs["class"] == k], minlength=K).argmax() for k in range(K)]
    # Topics are numbered anew only where the prior says nothing of their order; here it says little.
    relabelled = np.array(order)[one.outputs["class"]]
    assert (relabelled == other.outputs["class"]).mean() > 0.9
    assert one.metrics["evidence"] == pytest.approx(other.metrics["evidence"], rel=0.05)
    down, expected = (np.exp(sent(outbox, "transition_prior", "gmm")["log_prob"]) for outbox in (one, other))
    assert np.abs(down - expected).mean() < 0.1
    for name in ("left", "right"):
        values, sampled = (sent(outbox, "reconstructions", name)["values"] for outbox in (one, other))
        assert np.abs(values - sampled).mean() < 0.1 * sampled.mean()


def test_the_prior_determines_the_class_of_uninformative_rows():
    words = np.random.default_rng(0).integers(0, 3, (N, 6))
    outbox = call(vb(), observed("left", words), prior_of("mm", 0.98 * np.eye(K)[TRUTH] + 0.02 / K))
    assert (outbox.outputs["class"] == TRUTH).mean() > 0.95
    # The message upwards does not include the receiver's own prior.
    assert np.ptp(likelihood(outbox), axis=1).mean() < 3.0


def test_estimated_concentrations_survive_a_load():
    mlda, again = vb(alpha="estimated", beta="estimated"), vb(alpha="estimated", beta="estimated")
    outbox = call(mlda, *both())
    state = mlda.state()
    assert outbox.metrics["alpha"] == state["alpha"]
    assert 0.0 < state["alpha"] < 0.5
    assert 0.05 < state["beta"] < 2.0
    again.load_state(state)
    first, second = (call(m, *both(seed=1), method="recognize", mode="recognize") for m in (mlda, again))
    assert np.array_equal(first.outputs["Pdz"], second.outputs["Pdz"])


def test_burn_in_applies_to_the_first_update_only():
    mlda = vb(itr=2, burn_in=3)
    assert [len(reports_of(mlda, *both(own=0.6), round=round_)[0]) for round_ in range(2)] == [5, 2]


@pytest.mark.parametrize(
    "without", [{"overrides": {"iterations": 0}}, {"learn": False}], ids=["no passes", "no learning"]
)
def test_an_update_without_learning_keeps_the_topics_and_uses_the_prior(without):
    mlda = vb()
    before = call(mlda, *both())
    state = mlda.state()
    outbox = call(mlda, *both(), prior_of("mm", np.eye(K)[np.zeros(N, dtype=int)]), round=1, **without)
    assert same_arrays(mlda.state(), state)
    assert (outbox.outputs["class"] == 0).all()
    again = call(mlda, *both(), round=1, **without)
    assert (again.outputs["class"] == before.outputs["class"]).mean() > 0.95
    assert again.metrics["evidence"] == pytest.approx(before.metrics["evidence"], rel=0.01)


# --- counts -----------------------------------------------------------------------------------------------------------


def test_counts_need_not_be_whole_but_proportions_need_a_weight():
    halves = [observed(m.header.sender, 0.5 * m["values"] + 0.25) for m in both()]
    assert accuracy(call(vb(), *halves).outputs["class"], TRUTH) >= 0.95
    shares = np.asarray(both()[0]["values"]) / 40.0
    with pytest.raises(
        ModuleError, match=r"are proportions \(no row sums to more than 1\), not counts; give left a weight"
    ):
        call(vb(), observed("left", shares))
    with pytest.raises(ModuleError, match="histograms of left are proportions"):
        MLDA.check_observations(vb().parameters, shares, "left", learns=True)
    MLDA.check_observations(vb().parameters, 0.5 * np.asarray(both()[0]["values"]), "left", learns=True)
    weighted = call(vb(weights={"left": 40}), observed("left", shares))
    assert_allclose(weighted.outputs["Pdz"], call(vb(), both()[0]).outputs["Pdz"], atol=1e-6)


def test_class_posteriors_are_counted_as_they_are():
    """A belief of 0.7 is 70 of 100 tokens, and 0.701 is 70.1."""
    one, other = (call(vb(calibrate=False), both()[0], posteriors("gmm", p)) for p in belief_pairs())
    assert not np.array_equal(one.outputs["Pdz"], other.outputs["Pdz"])


def belief_pairs():
    p = 0.7 * np.eye(K)[TRUTH] + 0.3 / K
    q = 0.7003 * np.eye(K)[TRUTH] + 0.2997 / K
    return p, q


# --- state, recognition, generation -----------------------------------------------------------------------------------


def test_recognition_of_new_rows_and_of_missing_modalities():
    mlda = vb()
    learnt = call(mlda, *both()).outputs["class"]
    before = mlda.state()
    new = both(rows=60, seed=9)
    assert (call(mlda, *new, method="recognize", mode="recognize").outputs["class"] == learnt[:60]).mean() > 0.9
    alone = call(mlda, new[0], method="recognize", mode="recognize").outputs["Pdz"]
    merged = np.isin(TRUTH[:60], (0, 1))
    assert np.median(alone[merged].max(axis=1)) < 0.9  # the left words do not tell two classes apart
    assert same_arrays(mlda.state(), before)
    with pytest.raises(ModuleError, match="has learnt left and right, but not other"):
        call(mlda, new[0], observed("other", new[1]["values"]), method="recognize", mode="recognize")


def test_continues_bit_for_bit_after_a_load():
    messages = (*both(), beliefs(), some_prior("mm", 1))
    continued, again = check_state_transfer(call, vb(), vb(), *messages)
    np.testing.assert_array_equal(likelihood(again), likelihood(continued))


def test_engines_continue_from_each_other():
    mlda = make_mlda()
    classes = call(mlda, *both()).outputs["class"]
    expected = call(mlda, *both(), round=1, overrides={"engine": "vb"})
    assert (expected.outputs["class"] == classes).mean() > 0.95
    assert "topics.left" not in mlda.state()
    sampled = call(mlda, *both(), round=2)
    assert (sampled.outputs["class"] == classes).mean() > 0.95
    assert "topics.left" in mlda.state()
    assert "topic_shares" not in mlda.state()


def test_generated_topics_have_the_shares_of_the_rows():
    rows = np.random.default_rng(0).choice(K, N, p=[0.6, 0.2, 0.1, 0.1])
    mlda = vb(itr=30, alpha=0.01)
    learnt = call(mlda, observed("left", 20.0 * np.eye(K)[rows]), posteriors("gmm", 0.9 * np.eye(K)[rows] + 0.1 / K))
    outbox = call(mlda, method="generate", mode="generate", rows=4000)
    shares = np.bincount(outbox.outputs["class"], minlength=K) / 4000
    assert_allclose(shares, np.bincount(learnt.outputs["class"], minlength=K) / N, atol=0.05)
    words = np.exp(sent(outbox, "transition_prior", "gmm")["log_prob"])
    assert_allclose(words.sum(axis=1), 1.0)
    assert (words.max(axis=1) > 0.8).all()


# --- workers ----------------------------------------------------------------------------------------------------------


def by_workers(cuts, *messages, state=None, **context):
    make = lambda: vb(itr=3, restarts=1, alpha="estimated")  # noqa: E731
    return call_by_workers(make, cut_at(cuts, N, SIZE), messages, state, **{"receivers": RECEIVERS, **context})


def test_any_number_of_workers_gives_the_same_bits():
    """First words alone, then with the classes of a module below and a prior from above, then new rows."""
    mask = np.random.default_rng(2).random(N) < 0.2
    left, right = both()
    right = observed("right", right["values"], mask=mask, lengths=np.array([50, 1, 69]))
    later = (left, right, beliefs(), some_prior("mm", 1))
    answers = []
    for cuts in ([], [3], [2, 5], [1, 2, 3, 7]):
        first = by_workers(cuts, left, right)
        second = by_workers(cuts, *later, state=first.state, round=1, temperature=0.2)
        third = by_workers(cuts, *later, state=second.state, round=2)
        recognized = by_workers(cuts, *later, state=third.state, mode="recognize")
        answers.append((first, second, third, recognized))
    for others in answers[1:]:
        assert all(same_answers(one, other) for one, other in zip(answers[0], others, strict=True))
    *_, third, recognized = answers[0]
    assert {"exponent.left", "exponent.gmm", "prediction.gmm", "alpha", "topic_shares"} <= third.state.keys()
    assert ("transition_prior", "gmm") in recognized.messages


def test_one_process_learns_what_workers_with_one_chunk_learn():
    mlda = vb(itr=6, alpha="estimated")
    outbox = call(mlda, *both(), seed=0)
    answer = call_by_workers(
        lambda: vb(itr=6, alpha="estimated"), cut_at([], N, N), both(), None, receivers=RECEIVERS, seed=0
    )
    # The name of the module, "mlda" here and "it" there, determines the draws of the start.
    assert accuracy(outbox.outputs["class"], answer.outputs["class"]) > 0.95
    assert outbox.metrics.keys() == answer.metrics.keys() == {"evidence", "bound", "alpha"}


def test_a_sample_is_enough_to_start_from():
    answer = by_workers([4], *both(), sample_rows=SIZE)
    assert accuracy(answer.outputs["class"], TRUTH) > 0.9


def test_the_sampler_needs_all_rows_in_one_process():
    assert sharing_problem(MLDA, vb().parameters) is None
    problem = "learns by engine 'gibbs', which needs all rows in one process; use engine: vb"
    assert sharing_problem(MLDA, make_mlda().parameters) == problem
    with pytest.raises(ModuleError, match="module 'it' learns by engine 'gibbs'"):
        by_workers([], *both(), overrides={"engine": "gibbs"})


def test_errors_name_the_rows_of_the_chunk():
    values = np.asarray(both()[0]["values"]).copy()
    values[100, 0] = -1.0
    with pytest.raises(
        ModuleError, match=r"in rows 96 to 111, counted from the first of these: .* row 4 has a negative"
    ):
        by_workers([2], observed("left", values), sample_rows=SIZE)
    with pytest.raises(ModuleError, match="every row is missing or empty"):
        call(vb(), observed("left", np.zeros((N, 3))))


# --- counts that are missing ------------------------------------------------------------------------------------------


def test_rows_in_which_counts_are_missing_are_classified_by_the_others():
    messages = lacking()
    found = call(vb(), *messages, seed=1)
    zeros = [observed(each.header.sender, np.array(each["values"])) for each in messages]
    accuracies = [accuracy(each.outputs["class"], TRUTH) for each in (found, call(vb(), *zeros, seed=1))]
    assert accuracies[0] >= 0.8  # 0.99 from all counts; those that are missing are mostly the high ones
    assert accuracies[0] > accuracies[1] + 0.05
    down = next(each.arrays["values"] for each in found.messages if each.receiver == "left")
    assert down.shape == (N, 12)
    seen, whole = ~messages[0]["mask"], np.array(both()[0]["values"])
    expected, tokens = np.where(seen, down, 0).sum(axis=1), np.where(seen, whole, 0).sum(axis=1)
    np.testing.assert_allclose(expected[tokens > 0], tokens[tokens > 0], rtol=1e-5)


@pytest.mark.slow
def test_any_number_of_workers_has_the_same_bits_where_counts_are_missing():
    messages, answers = [*lacking(), beliefs(), some_prior("mm", 3)], []
    for cuts in ([], [3], [1, 2, 5]):
        first = call_by_workers(vb, cut_at(cuts, N, SIZE), messages, receivers=RECEIVERS)
        again = call_by_workers(vb, cut_at(cuts, N, SIZE), messages, first.state, receivers=RECEIVERS, round=1)
        answers.append((first, again))
    assert all(same_answers(one, answers[0][n]) for each in answers for n, one in enumerate(each))
    recognized = [
        call_by_workers(vb, cut_at(cuts, N, SIZE), messages[:2], first.state, receivers=RECEIVERS, mode="recognize")
        for cuts in ([], [4])
    ]
    assert same_answers(*recognized)
