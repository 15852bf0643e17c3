"""Tests of the Markov module, alone and in exchange with a GMM: it learns the transitions between classes."""

import numpy as np
import pytest

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.markov.inference import expected_counts, transition_probabilities
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from tests.support.toy_modules import same_arrays

K, N = 4, 120
CYCLE = np.roll(np.eye(K), 1, axis=1)


def class_probabilities(rows=N, certainty=0.9, seed=0):
    """Return class probabilities (N, K) for a cycle of classes: mostly right, uniform in every tenth row."""
    rng = np.random.default_rng(seed)
    probabilities = certainty * np.eye(K)[np.arange(rows) % K] + (1 - certainty) * rng.dirichlet(np.ones(K), rows)
    probabilities[5::10] = 1 / K
    return probabilities


def posteriors(probabilities, sender="gmm", log_norm=None, **rows):
    log_norm = np.zeros(len(probabilities)) if log_norm is None else log_norm
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities), "log_norm": log_norm, **rows}
    return make_message(Header("class_posteriors", sender, "class_posteriors", "mm"), arrays)


def update(mm, *messages, answer="update", **context):
    receivers = {"transition_prior": tuple(m.header.sender for m in messages)}
    return getattr(mm, answer)(Inbox(messages), Context("mm", receivers=receivers, **context))


def sent(outbox, receiver="gmm"):
    (outgoing,) = [o for o in outbox.messages if o.receiver == receiver]
    return make_message(Header("transition_prior", "mm", "transition_prior", receiver), outgoing.arrays)


# --- smoothed -----------------------------------------------------------------------------------------------------


def test_learns_the_cycle_and_decides_ambiguous_rows():
    outbox = update(make_module("markov", {}), posteriors(class_probabilities()))
    out, truth = outbox.outputs, np.arange(N) % K
    assert np.abs(out["trans_prob"] - CYCLE).max() < 0.1
    for classes in (out["msg"].argmax(axis=1), out["Pdz"].argmax(axis=1), out["viterbi"]):
        assert np.array_equal(classes, truth)
    np.testing.assert_allclose(np.exp(sent(outbox)["log_prob"]), out["msg"])


def test_the_message_to_a_row_excludes_its_own_likelihood():
    mm = make_module("markov", {})
    update(mm, posteriors(class_probabilities()))
    without_learning = {"overrides": {"inner_iterations": 0}}
    before = sent(update(mm, posteriors(class_probabilities()), **without_learning))["log_prob"]
    changed = class_probabilities()
    changed[10] = np.roll(changed[10], 1)
    after = sent(update(mm, posteriors(changed), **without_learning))["log_prob"]
    np.testing.assert_allclose(after[10], before[10], atol=1e-9)
    assert not np.allclose(after[11], before[11], atol=1e-9)


def test_nothing_is_learnt_without_inner_iterations():
    mm = make_module("markov", {})
    update(mm, posteriors(class_probabilities()))
    before = mm.state()["trans_prob"]
    update(mm, posteriors(class_probabilities(seed=4)), overrides={"inner_iterations": 0})
    assert np.array_equal(mm.state()["trans_prob"], before)


def test_messages_give_every_class_a_positive_probability():
    outbox = update(make_module("markov", {"alpha": 1e-12}), posteriors(np.eye(K)[np.arange(N) % K]))
    assert (np.exp(sent(outbox)["log_prob"]) > 5e-11).all()


def test_the_evidence_is_the_log_density_of_the_rows():
    """Compare with two rows and two classes computed by hand."""
    P = np.array([[0.8, 0.2], [0.3, 0.7]])
    mm = make_module("markov", {"inner_iterations": 0})
    outbox = update(mm, posteriors(P, log_norm=np.array([-3.0, -5.0])))
    T = outbox.outputs["trans_prob"]
    np.testing.assert_allclose(T, transition_probabilities(expected_counts(P), 0.1))
    assert outbox.metrics["evidence"] == pytest.approx(-8.0 + np.log(0.5 * P[0] @ T @ P[1]))


def test_the_evidence_does_not_depend_on_the_temperature():
    mm = make_module("markov", {"inner_iterations": 0})
    update(mm, posteriors(class_probabilities()))
    cold, hot = (update(mm, posteriors(class_probabilities()), temperature=t) for t in (1.0, 0.3))
    assert cold.metrics["evidence"] == hot.metrics["evidence"]
    assert not np.allclose(cold.outputs["msg"], hot.outputs["msg"])


def test_no_transition_crosses_a_sequence_boundary():
    probabilities = np.eye(2)[[0, 0, 1, 1]]
    one_sequence = update(make_module("markov", {}), posteriors(probabilities)).outputs["trans_prob"]
    message = posteriors(probabilities, lengths=np.array([2, 2]))
    outbox = update(make_module("markov", {}), message)
    assert outbox.outputs["trans_prob"][0, 1] < 0.15 < one_sequence[0, 1]
    assert sent(outbox).lengths.tolist() == [2, 2]


def test_a_learnt_initial_distribution_is_that_of_the_first_classes():
    message = posteriors(class_probabilities(), lengths=np.full(N // K, K))
    for initial, low, high in (("learnt", 0.9, 1.0), ("uniform", 0.25, 0.25)):
        mm = make_module("markov", {"initial": initial})
        update(mm, message)
        assert low <= mm.state()["initial"][0] <= high


def test_missing_rows_have_no_influence():
    mask = np.arange(N) % 9 == 2
    outboxes = []
    for shift in (0, 1):
        probabilities = class_probabilities()
        probabilities[mask] = np.roll(probabilities[mask], shift, axis=1)
        message = posteriors(probabilities, log_norm=np.where(mask, 9.0 * shift, -1.0), mask=mask)
        outboxes.append(update(make_module("markov", {"inner_iterations": 2}), message))
    assert same_arrays(outboxes[0].outputs, outboxes[1].outputs)
    assert outboxes[0].metrics == outboxes[1].metrics
    assert np.array_equal(sent(outboxes[0]).mask, mask)
    assert np.array_equal(outboxes[0].outputs["Pdz"].argmax(axis=1), np.arange(N) % K)


def test_several_senders_multiply_and_each_receives_the_product_of_the_others():
    a, b = class_probabilities(certainty=0.5, seed=1), class_probabilities(certainty=0.5, seed=2)
    product = a * b / (a * b).sum(axis=1, keepdims=True)
    both = update(make_module("markov", {}), posteriors(a, "a"), posteriors(b, "b"))
    joint = update(make_module("markov", {}), posteriors(product, log_norm=np.log((a * b).sum(axis=1))))
    np.testing.assert_allclose(both.outputs["msg"], joint.outputs["msg"], atol=1e-9)
    assert both.metrics["evidence"] == pytest.approx(joint.metrics["evidence"])
    to_a = both.outputs["msg"] * b
    np.testing.assert_allclose(np.exp(sent(both, "a")["log_prob"]), to_a / to_a.sum(axis=1, keepdims=True), atol=1e-9)


# --- tutorial -----------------------------------------------------------------------------------------------------


def test_tutorial_transitions_converge_to_the_expected_counts():
    P = class_probabilities(rows=40)
    outbox = update(make_module("markov", {"rule": "tutorial", "num_samp": 20000, "alpha": 1e-9}), posteriors(P))
    np.testing.assert_allclose(
        outbox.outputs["trans_prob"], transition_probabilities(expected_counts(P), 1e-9), atol=0.01
    )


def test_the_tutorial_message_is_one_step_times_the_previous_message():
    mm, P = make_module("markov", {"rule": "tutorial"}), class_probabilities()
    first, second = (update(mm, posteriors(P), round=r).outputs for r in range(2))
    step = P[:-1] @ second["trans_prob"] * first["msg"][1:]
    np.testing.assert_allclose(second["msg"][1:], step / step.sum(axis=1, keepdims=True), atol=1e-9)
    np.testing.assert_allclose(first["msg"][1:], P[:-1] @ first["trans_prob"], atol=1e-9)
    np.testing.assert_allclose(second["msg"][0], P[0])


def test_the_tutorial_message_stays_finite_when_certain_posteriors_change():
    mm = make_module("markov", {"rule": "tutorial"})
    for round_ in range(4):
        outbox = update(mm, posteriors(np.eye(K)[(np.arange(N) + round_) % K]), round=round_)
        assert np.isfinite(sent(outbox)["log_prob"]).all()


@pytest.mark.parametrize(("rule", "alpha"), [("tutorial", 1.0), ("smoothed", 0.1)])
def test_the_default_alpha_depends_on_the_rule(rule, alpha):
    assert make_module("markov", {"rule": rule}).parameters.pseudo_count == alpha
    assert make_module("markov", {"rule": rule, "alpha": 0.5}).parameters.pseudo_count == 0.5


# --- recognition and state ----------------------------------------------------------------------------------------


def test_recognition_of_ordered_rows_uses_their_neighbours():
    mm = make_module("markov", {})
    update(mm, posteriors(class_probabilities()))
    before = mm.state()
    out = update(mm, posteriors(class_probabilities(rows=30, seed=7)), answer="recognize").outputs
    truth = np.arange(30) % K
    assert np.array_equal(out["smoothed"].argmax(axis=1), truth)
    assert np.array_equal(out["filtered"].argmax(axis=1), truth)
    assert np.array_equal(out["viterbi"], truth)
    assert same_arrays(mm.state(), before)


def test_recognition_of_unordered_rows_uses_class_frequencies_only():
    mm = make_module("markov", {})
    update(mm, posteriors(np.eye(2)[[0, 0, 0, 1] * 20]))
    outbox = update(mm, posteriors(np.eye(2)[[1, 1, 1]]), answer="recognize", ordered=False)
    message = np.exp(sent(outbox)["log_prob"])
    assert (message == message[0]).all()
    assert message[0] == pytest.approx([0.75, 0.25], abs=0.02)


@pytest.mark.parametrize("rule", ["smoothed", "tutorial"])
def test_a_loaded_state_continues_bit_for_bit(rule):
    one, other = (make_module("markov", {"rule": rule, "initial": "learnt"}) for _ in range(2))
    update(one, posteriors(class_probabilities()))
    state = one.state()
    kept = {name: value.copy() for name, value in state.items()}
    continued = update(one, posteriors(class_probabilities(seed=1)), round=1)
    assert same_arrays(state, kept)
    other.load_state(state)
    assert same_arrays(update(other, posteriors(class_probabilities(seed=1)), round=1).outputs, continued.outputs)
    assert same_arrays(one.state(), other.state())


def test_refuses_messages_that_do_not_fit():
    mm = make_module("markov", {"rule": "tutorial"})
    with pytest.raises(ModuleError, match="learnt nothing"):
        update(mm, posteriors(class_probabilities()), answer="recognize")
    with pytest.raises(ModuleError, match="exclude each other in row 0"):
        update(mm, posteriors(np.eye(2)[[0, 1]], "a"), posteriors(np.eye(2)[[1, 1]], "b"))
    with pytest.raises(ModuleError, match=r"b -> mm.*\(8, 4\) came, 'a' sent \(120, 4\)"):
        update(mm, posteriors(class_probabilities(), "a"), posteriors(class_probabilities(rows=8), "b"))
    update(mm, posteriors(class_probabilities()))
    with pytest.raises(ModuleError, match=r"message of shape \(120, 4\), \(8, 4\) came"):
        update(mm, posteriors(class_probabilities(rows=8)))
    with pytest.raises(ModuleError, match="2 classes came, 'mm' has learnt 4"):
        update(mm, posteriors(np.eye(2)[[0, 1]]))


@pytest.mark.parametrize("given", [{"rule": "best"}, {"num_samp": 0}, {"alpha": 0}, {"initial": "first"}])
def test_refuses_invalid_parameters(given):
    with pytest.raises(ModuleError):
        make_module("markov", given)


# --- with a GMM ---------------------------------------------------------------------------------------------------


def exchange(gmm, mm, X, rounds, sweeps):
    """Run an exchange of GMM and MM; return their last outboxes."""
    vectors = make_message(Header("latent_vectors", "vae", "latent_vectors", "gmm"), {"mean": X})
    to_gmm = [vectors]
    for e in range(rounds):
        context = Context("gmm", exchange=e, receivers={"class_posteriors": ("mm",)}, overrides={"iterations": sweeps})
        below = gmm.update(Inbox(to_gmm), context)
        up = next(o for o in below.messages if o.port == "class_posteriors")
        message = make_message(Header("class_posteriors", "gmm", "class_posteriors", "mm"), up.arrays)
        above = update(mm, message, exchange=e)
        down = make_message(Header("transition_prior", "mm", "transition_prior", "gmm"), above.messages[0].arrays)
        to_gmm = [vectors, down]
    context = Context("gmm", exchange=rounds, receivers={"class_posteriors": ("mm",)}, overrides={"iterations": 0})
    return gmm.update(Inbox(to_gmm), context), above


@pytest.mark.parametrize(
    ("gmm_rule", "rule", "spread"), [("extrinsic", "smoothed", 1.2), ("tutorial", "tutorial", 0.8)]
)
def test_gmm_and_mm_together_learn_overlapping_classes_and_their_cycle(gmm_rule, rule, spread):
    truth = np.arange(400) % K
    centres = 2.0 * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1.0]])
    X = centres[truth] + spread * np.random.default_rng(1).normal(size=(400, 2))

    def learn(rounds, sweeps):
        gmm, mm = make_module("gmm", {"classes": K, "rule": gmm_rule}), make_module("markov", {"rule": rule})
        below, above = exchange(gmm, mm, X, rounds, sweeps)
        table = np.zeros((K, K), dtype=int)
        np.add.at(table, (below.outputs["class"], truth), 1)
        return table, above.outputs["trans_prob"]

    alone, _ = learn(rounds=1, sweeps=40)
    together, transitions = learn(rounds=15, sweeps=10)
    names = together.argmax(axis=1)  # the most frequent true class of each class
    assert sorted(names) == list(range(K))
    assert together.max(axis=1).sum() > 0.99 * len(truth)
    assert together.max(axis=1).sum() >= alone.max(axis=1).sum()
    assert np.array_equal(names[transitions.argmax(axis=1)], (names + 1) % K)
