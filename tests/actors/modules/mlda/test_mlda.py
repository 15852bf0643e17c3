"""Learning, recognition, generation and state of the MLDA."""

import itertools

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp

from actors.errors import ModuleError, NonFiniteError
from actors.graph.registry import make_module
from runner.report.clustering_metrics import accuracy
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
    most_common,
    observed,
    posteriors,
    prior_of,
    sent,
    some_prior,
)
from tests.support.toy_modules import check_state_transfer, same_arrays

# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_two_modalities_together_separate_classes_that_each_alone_confuses(seed):
    left, right = both(seed=seed)

    def accuracy_with(*messages):
        return accuracy(call(make_mlda(), *messages, seed=seed).outputs["class"], TRUTH)

    together, alone = accuracy_with(left, right), max(accuracy_with(left), accuracy_with(right))
    assert together >= 0.95
    assert together >= alone + 0.1


def test_learns_from_a_start_by_tokens():
    outbox = call(make_mlda(start="tokens", itr=60), *both(own=0.0), seed=1)
    assert accuracy(outbox.outputs["class"], TRUTH) >= 0.7


def exact_posterior(rows, prior, alpha, beta, sizes):
    """Return P(class | all tokens), (N, K), for rows of (modality, word), by enumeration of all assignments."""
    topics = prior.shape[1]
    tokens = [(d, m, w) for d, row in enumerate(rows) for m, w in row]
    z = np.array(list(itertools.product(range(topics), repeat=len(tokens))))
    hot = z[..., None] == np.arange(topics)

    def tally(wanted):
        return hot[:, [i for i, token in enumerate(tokens) if wanted(token)]].sum(axis=1)

    n = np.stack([tally(lambda token, row=row: token[0] == row) for row in range(len(rows))], axis=1)
    raised = prior * (n + alpha)
    scores = gammaln(n + alpha).sum(axis=(1, 2)) + np.log(raised.sum(axis=2)).sum(axis=1)
    for modality, size in enumerate(sizes):
        words = [tally(lambda token, which=(modality, v): token[1:] == which) for v in range(size)]
        scores += (gammaln(np.array(words) + beta).sum(axis=0) - gammaln(sum(words) + size * beta)).sum(axis=1)
    weights = np.exp(scores - logsumexp(scores))
    return np.einsum("a,adk->dk", weights, raised / raised.sum(axis=2, keepdims=True))


def test_the_posterior_equals_that_by_enumeration():
    """Two modalities, one of them class posteriors with weight 2, and a prior from above: 3^9 assignments."""
    rows = [[(0, 0), (0, 2), (1, 0), (1, 1)], [(0, 0), (1, 0), (1, 0)], [(0, 1), (0, 1)]]
    prior = np.array([[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.0, 0.5, 0.5]])
    exact = exact_posterior(rows, prior, 0.5, 0.4, (3, 2))
    parameters = {"topics": 3, "alpha": 0.5, "beta": 0.4, "weights": {"gmm": 2}, "start": "tokens", "calibrate": False}
    mlda = make_module("mlda", parameters)
    outbox = call(
        mlda,
        observed("left", [[1, 0, 1], [1, 0, 0], [0, 2, 0]]),
        posteriors("gmm", [[0.5, 0.5], [0.9, 0.1], [0.5, 0.5]], mask=np.array([False, False, True])),
        prior_of("mm", prior),
        overrides={"iterations": 12_000, "samples": 12_000},
    )
    np.testing.assert_allclose(outbox.outputs["Pdz"], exact, atol=0.015)
    # The message upwards does not include the receiver's own prior.
    alone = np.exp(sent(outbox, "topic_posteriors", "mm")["log_prob"])[:2]
    expected = exact[:2] / prior[:2]
    np.testing.assert_allclose(alone, expected / expected.sum(axis=1, keepdims=True), atol=0.02)


def test_the_prior_determines_the_class_of_uninformative_rows():
    words = np.random.default_rng(0).integers(0, 3, (N, 6))
    outbox = call(make_mlda(), observed("left", words), prior_of("mm", 0.98 * np.eye(K)[TRUTH] + 0.02 / K))
    assert (outbox.outputs["class"] == TRUTH).mean() > 0.95


@pytest.mark.parametrize(("calibrate", "agreeing"), [(False, 0.95), (True, 0.93)])
def test_rows_follow_a_prior_that_comes_later(calibrate, agreeing):
    """Where a row's words cannot separate two classes, its tokens can only move all together.

    With calibration each token says less, so that more of them have another topic than their row.
    """
    left, right = (histograms(name, own=0.0) for name in MERGED)
    missing = np.arange(N) < 60
    messages = observed("left", left), observed("right", right, mask=missing)
    mlda = make_mlda(calibrate=calibrate)
    learnt = call(mlda, *messages).outputs["class"]
    classes = [np.bincount(learnt[~missing & (k == TRUTH)]).argmax() for k in range(K)]
    assert sorted(classes) == [0, 1, 2, 3]
    labels = np.array(classes)[TRUTH]
    assert (most_common(mlda) == labels)[missing & (TRUTH < 2)].mean() < 0.8
    prior = np.where(missing[:, None], 0.98 * np.eye(K)[labels] + 0.02 / K, 1 / K)
    call(mlda, *messages, prior_of("mm", prior), round=1)
    assert (most_common(mlda) == labels).mean() > agreeing


def test_a_low_temperature_gives_the_prior_more_weight():
    prior = prior_of("mm", 0.9 * np.eye(K)[np.random.default_rng(5).integers(0, K, N)] + 0.1 / K)

    def agreement(temperature):
        mlda = make_mlda()
        call(mlda, *both(), prior, temperature=temperature, seed=3)
        return (most_common(mlda) == prior["log_prob"].argmax(axis=1)).mean()

    assert agreement(0.02) > agreement(1.0) + 0.1


def test_burn_in_applies_to_the_first_update_only():
    mlda, sweeps = make_mlda(itr=2, burn_in=3), []
    for round_ in range(2):
        reports = []
        call(mlda, *both(), round=round_, reporter=lambda *r, reports=reports: reports.append(r))
        sweeps.append([(done, total) for done, total, _ in reports])
    assert sweeps == [[(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)], [(1, 2), (2, 2)]]


@pytest.mark.parametrize(
    "without_learning", [{"overrides": {"iterations": 0}}, {"learn": False}], ids=["no sweeps", "no learning"]
)
def test_an_update_without_learning_keeps_the_topics_and_uses_the_prior(without_learning):
    mlda = make_mlda()
    before = call(mlda, *both())
    state = mlda.state()
    certain = prior_of("mm", np.eye(K)[np.zeros(N, dtype=int)])
    outbox = call(mlda, *both(), certain, round=1, **without_learning)
    assert same_arrays(mlda.state(), state)
    assert (outbox.outputs["class"] == 0).all()
    again = call(mlda, *both(), round=1, **without_learning)
    assert (again.outputs["class"] == before.outputs["class"]).mean() > 0.95
    # The evidence does not depend on how the topics were sampled.
    assert again.metrics["evidence"] == pytest.approx(before.metrics["evidence"], rel=0.01)


# --- recognition and state ----------------------------------------------------------------------------------------


def test_recognition_of_new_rows_does_not_change_the_state():
    mlda = make_mlda()
    learnt = call(mlda, *both()).outputs["class"]
    before = mlda.state()
    outbox = call(mlda, *both(rows=60, seed=9), method="recognize")
    assert (outbox.outputs["class"] == learnt[:60]).mean() > 0.9
    assert same_arrays(mlda.state(), before)
    assert not outbox.metrics


def test_continues_bit_for_bit_after_a_load():
    gmm = posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K)
    messages = (*both(), gmm, some_prior("mm", 1))
    one, other = make_mlda(), make_mlda()
    continued, again = check_state_transfer(call, one, other, *messages)
    np.testing.assert_array_equal(likelihood(again), likelihood(continued))


def test_estimated_concentrations_are_those_of_the_sampled_topics_and_survive_a_load():
    mlda, again = make_mlda(alpha="estimated", beta="estimated"), make_mlda(alpha="estimated", beta="estimated")
    call(mlda, *both())
    state = mlda.state()
    # Drawn word distributions of 4 of 12 words are far from uniform, and rows have mostly one topic.
    assert 0.0 < state["alpha"] < 0.5
    assert 0.2 < state["beta"] < 2.0
    again.load_state(state)
    first, second = (call(m, *both(seed=1), method="recognize") for m in (mlda, again))
    assert np.array_equal(first.outputs["Pdz"], second.outputs["Pdz"])
    call(mlda, *both(), round=1)
    call(again, *both(), round=1)
    assert mlda.state()["alpha"] == again.state()["alpha"] != state["alpha"]


@pytest.mark.parametrize("engine", ["gibbs", "vb"])
def test_generation_uses_an_estimated_concentration(engine):
    mlda = make_mlda(alpha="estimated", engine=engine)
    call(mlda, *both())
    classes = call(mlda, method="generate", mode="generate", rows=400, receivers=()).outputs["class"]
    assert np.bincount(classes, minlength=K).min() > 50


def test_given_concentrations_are_not_estimated():
    mlda = make_mlda()
    call(mlda, *both())
    assert not {"alpha", "beta"} & set(mlda.state())


def test_unchanged_tokens_keep_their_topics_and_new_tokens_follow_the_row():
    mlda = make_mlda(weights={"gmm": 10})
    left = both()[0]
    call(mlda, left, posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K))
    before = mlda.state()
    moved = np.where(np.arange(N) < 40, (TRUTH + 1) % K, TRUTH)
    call(mlda, left, posteriors("gmm", 0.9 * np.eye(K)[moved] + 0.1 / K), round=1, learn=False)
    after = mlda.state()
    np.testing.assert_array_equal(after["topics.left"], before["topics.left"])
    old, new = (state["topics.gmm"].reshape(N, 10) for state in (before, after))
    np.testing.assert_array_equal(new[40:], old[40:])
    assert (after["counts.gmm"].sum(axis=0) == np.bincount(after["topics.gmm"], minlength=K)).all()
    # The words of the first rows have changed, but their topics are still those of the row.
    assert (new[:40] == most_common(mlda)[:40, None]).mean() > 0.5


def test_a_modality_may_be_added_in_a_later_update():
    mlda = make_mlda()
    left, right = both()
    call(mlda, left)
    outbox = call(mlda, left, right, round=1)
    assert accuracy(outbox.outputs["class"], TRUTH) >= 0.9


def test_one_sender_may_have_two_modalities():
    mlda = make_mlda(weights={"gmm_posteriors": 7})
    outbox = call(mlda, observed("gmm", np.ones((N, 2))), posteriors("gmm", 0.9 * np.eye(K)[TRUTH] + 0.1 / K))
    assert mlda.state()["tokens.gmm_posteriors"].tolist() == [7] * N
    assert mlda.state()["tokens.gmm"].tolist() == [2] * N
    assert sent(outbox, "transition_prior", "gmm")["log_prob"].shape == (N, K)


def test_the_result_depends_on_the_seed_only():
    one, again, other = (make_mlda(itr=2) for _ in range(3))
    for mlda, seed in ((one, 0), (again, 0), (other, 1)):
        call(mlda, *both(), seed=seed)
    assert same_arrays(one.state(), again.state())
    assert not same_arrays(one.state(), other.state())


def test_topics_are_drawn_by_their_share_of_rows_not_of_tokens():
    rows = np.concatenate([np.tile([60.0, 40.0, 0.0, 0.0], (10, 1)), np.tile([0.0, 0.0, 3.0, 2.0], (30, 1))])
    mlda = make_module("mlda", {"topics": 2, "iterations": 30})
    topics = call(mlda, observed("words", rows)).outputs["class"]
    drawn = call(mlda, method="generate", rows=4000).outputs["class"]
    assert (drawn == topics[0]).mean() == pytest.approx(10 / 40, abs=0.03)


def test_generates_rows_of_single_topics():
    mlda = make_mlda()
    call(mlda, both()[0], posteriors("gmm", 0.97 * np.eye(K)[TRUTH] + 0.03 / K))
    chosen = np.arange(40) % K
    outbox = call(mlda, prior_of("mm", np.eye(K)[chosen]), method="generate", rows=40)
    np.testing.assert_array_equal(outbox.outputs["class"], chosen)
    down = sent(outbox, "transition_prior", "gmm")["log_prob"]
    assert accuracy(down.argmax(axis=1), chosen) == 1.0
    drawn = call(mlda, method="generate", rows=4000).outputs["class"]
    sizes = mlda.state()["counts.left"].sum(axis=0) + mlda.state()["counts.gmm"].sum(axis=0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=K) / 4000, sizes / sizes.sum(), atol=0.03)
    assert not call(mlda, method="generate").messages


# --- errors -------------------------------------------------------------------------------------------------------


def test_rejects_messages_and_weights_that_do_not_match():
    mlda, (left, right) = make_mlda(), both()
    with pytest.raises(ModuleError, match="learnt nothing"):
        call(mlda, left, method="recognize")
    with pytest.raises(ModuleError, match="learnt nothing"):
        call(mlda, method="generate", rows=3)
    with pytest.raises(ModuleError, match="received no histograms and no class posteriors"):
        call(mlda)
    with pytest.raises(ModuleError, match=r"left -> mlda.*row 2 has a negative value"):
        call(mlda, observed("left", [[1, 2], [0, 1], [3, -1]]))
    with pytest.raises(ModuleError, match="every row is missing or empty"):
        call(mlda, observed("left", np.zeros((3, 2))))
    with pytest.raises(ModuleError, match="rounded to 0; give left a weight"):
        call(mlda, observed("left", np.full((3, 4), 0.25)))
    with pytest.raises(ModuleError, match=r"tokens exceed the limit of 2e\+08; give left a smaller weight"):
        call(mlda, observed("left", np.full((3, 4), 1e9)))
    with pytest.raises(NonFiniteError, match="histograms of left reach"):
        call(mlda, observed("left", np.full((3, 4), 1e200)))
    with pytest.raises(ModuleError, match="received 120 rows from left, but 60 from right"):
        call(mlda, left, observed("right", histograms("right", 60)))
    with pytest.raises(ModuleError, match="weights name 'rihgt', which sends nothing; expected left or right"):
        call(make_mlda(weights={"rihgt": 3}), left, right)
    with pytest.raises(ModuleError, match="two modalities have the same name 'left_posteriors'"):
        call(mlda, left, observed("left_posteriors", left["values"]), posteriors("left", np.eye(K)[TRUTH]))
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        call(mlda, left, overrides={"topics": 3})
    with pytest.raises(ModuleError, match=r"mm -> mlda.*\(60, 4\) came, expected \(120, 4\)"):
        call(mlda, left, some_prior("mm", 0, rows=60))


def test_rejects_messages_and_states_that_do_not_match_the_learnt_model():
    mlda, (left, right) = make_mlda(), both()
    call(mlda, left)
    with pytest.raises(ModuleError, match="topics of 120 rows, but received 60 rows"):
        call(mlda, observed("left", histograms("left", 60)))
    with pytest.raises(ModuleError, match=r"left -> mlda.*received 5 words or classes, but 'mlda' has learnt 12"):
        call(mlda, observed("left", np.ones((N, 5))))
    with pytest.raises(ModuleError, match="has learnt left, but not right"):
        call(mlda, left, right, method="recognize")
    with pytest.raises(ModuleError, match="4 topics, this MLDA 5"):
        make_mlda(topics=5).load_state(mlda.state())
    mlda.load_state({})
    assert mlda.state() == {}
    with pytest.raises(ModuleError, match="topics"):
        make_module("mlda", {"topics": 0})
