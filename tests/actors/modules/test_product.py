"""Tests of the product module: it combines modules that classify the same rows, each with labels of its own."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import make_module
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.modules.class_posteriors import FLOOR
from runner.report.clustering_metrics import accuracy
from tests.support.toy_modules import same_arrays

K, N = 4, 60
TRUTH = np.arange(N) % K


def class_probabilities(certainty=0.7, seed=0, rows=N):
    """Return class probabilities (N, K) for classes in cyclic order."""
    noise = np.random.default_rng(seed).dirichlet(np.ones(K), rows)
    return certainty * np.eye(K)[np.arange(rows) % K] + (1 - certainty) * noise


def posteriors(probabilities, sender="a", log_norm=None, **rows):
    log_norm = np.zeros(len(probabilities)) if log_norm is None else log_norm
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities), "log_norm": log_norm, **rows}
    return make_message(Header("class_posteriors", sender, "class_posteriors", "joint"), arrays)


def prior(probabilities, sender="mm", **rows):
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities), **rows}
    return make_message(Header("transition_prior", sender, "joint_prior", "joint"), arrays)


def call(product, *messages, answer="update", above=("mm",), **context):
    below = tuple(m.header.sender for m in messages if m.header.port == "class_posteriors")
    receivers = {"joint_posteriors": above, "transition_prior": below}
    return getattr(product, answer)(Inbox(messages), Context("joint", receivers=receivers, **context))


def sent(outbox, receiver):
    """Return the message to `receiver`, validated against its kind."""
    (outgoing,) = [o for o in outbox.messages if o.receiver == receiver]
    kind = "class_posteriors" if outgoing.port == "joint_posteriors" else "transition_prior"
    return make_message(Header(kind, "joint", outgoing.port, receiver), outgoing.arrays)


def normalised(products):
    return products / products.sum(axis=1, keepdims=True)


A, B, C = class_probabilities(seed=1), class_probabilities(seed=2), class_probabilities(seed=3)
B_LABELS, C_LABELS = np.array([2, 0, 3, 1]), np.array([1, 3, 2, 0])  # labels of the joint classes 0, 1, 2, 3
B_OWN, C_OWN = np.empty_like(B), np.empty_like(C)
B_OWN[:, B_LABELS], C_OWN[:, C_LABELS] = B, C
ALL = (posteriors(A, "a"), posteriors(B_OWN, "b"), posteriors(C_OWN, "c"))


# --- messages -----------------------------------------------------------------------------------------------------


def test_the_first_sender_defines_the_labels_and_the_others_are_aligned():
    product = make_module("product", {})
    outbox = call(product, *ALL)
    state = product.state()
    assert state["permutation.a"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(state["permutation.b"], B_LABELS)
    assert np.array_equal(state["permutation.c"], C_LABELS)
    np.testing.assert_allclose(outbox.outputs["Pdz"], normalised(A * B * C))
    assert np.array_equal(outbox.outputs["class"], TRUTH)


def test_the_message_upwards_is_the_product_with_its_normaliser():
    norms = np.random.default_rng(0).normal(size=(3, N))
    below = [posteriors(own, name, n) for own, name, n in zip((A, B_OWN, C_OWN), "abc", norms, strict=True)]
    outbox = call(make_module("product", {}), *below)
    up = sent(outbox, "mm")
    np.testing.assert_allclose(np.exp(up["log_prob"]), normalised(A * B * C))
    np.testing.assert_allclose(up["log_norm"], norms.sum(axis=0) + np.log((A * B * C).sum(axis=1)))
    assert outbox.metrics["evidence"] == pytest.approx(norms.sum() + np.log((A * B * C).mean(axis=1)).sum())


def test_a_markov_model_above_learns_the_same_as_from_the_senders_directly():
    product_message = sent(call(make_module("product", {}), *ALL), "mm")
    through = make_message(Header("class_posteriors", "joint", "class_posteriors", "mm"), product_message.arrays)
    directly = [posteriors(P, name) for P, name in ((A, "a"), (B, "b"), (C, "c"))]
    one, other = (make_module("markov", {}).update(Inbox(inbox), Context("mm")) for inbox in ([through], directly))
    assert one.metrics["evidence"] == pytest.approx(other.metrics["evidence"])
    np.testing.assert_allclose(one.outputs["Pdz"], other.outputs["Pdz"])


def test_each_sender_receives_the_product_of_the_others_in_its_own_labels():
    outbox = call(make_module("product", {}), *ALL)
    np.testing.assert_allclose(np.exp(sent(outbox, "a")["log_prob"]), normalised(B * C), atol=1e-9)
    np.testing.assert_allclose(np.exp(sent(outbox, "b")["log_prob"])[:, B_LABELS], normalised(A * C), atol=1e-9)
    np.testing.assert_allclose(np.exp(sent(outbox, "c")["log_prob"])[:, C_LABELS], normalised(A * B), atol=1e-9)


def test_the_message_to_a_sender_excludes_its_own_likelihood():
    product = make_module("product", {})
    before = call(product, *ALL)
    changed = B_OWN.copy()
    changed[7] = np.roll(changed[7], 1)
    after = call(product, ALL[0], posteriors(changed, "b"), ALL[2], learn=False)
    assert np.array_equal(sent(after, "b")["log_prob"], sent(before, "b")["log_prob"])
    for other in ("a", "c", "mm"):
        assert not np.allclose(sent(after, other)["log_prob"][7], sent(before, other)["log_prob"][7])


def test_priors_multiply_and_go_to_all_receivers_but_their_own_sender():
    mm, mlda = class_probabilities(0.3, seed=4), class_probabilities(0.3, seed=5)
    priors = prior(mm, "mm"), prior(mlda, "mlda")
    outbox = call(make_module("product", {}), *ALL, *priors, above=("mm", "mlda"))
    joint = A * B * C
    for receiver, others in (("mm", mlda), ("mlda", mm)):
        up = sent(outbox, receiver)
        np.testing.assert_allclose(np.exp(up["log_prob"]), normalised(joint * others))
        np.testing.assert_allclose(up["log_norm"], np.log((joint * others).sum(axis=1)))
    down = np.exp(sent(outbox, "b")["log_prob"])[:, B_LABELS]
    np.testing.assert_allclose(down, normalised(A * C * mm * mlda), atol=1e-9)
    np.testing.assert_allclose(outbox.outputs["Pdz"], normalised(joint * mm * mlda))
    together = normalised(mm * mlda)
    assert outbox.metrics["evidence"] == pytest.approx(np.log((joint * together).sum(axis=1)).sum())


def test_priors_do_not_influence_the_alignment():
    product = make_module("product", {})
    call(product, *ALL, prior(np.roll(np.eye(K), 1, axis=1)[TRUTH] * 0.96 + 0.01))
    assert np.array_equal(product.state()["permutation.b"], B_LABELS)


def test_messages_downwards_give_every_class_a_positive_probability():
    certain = np.eye(K)[TRUTH]
    outbox = call(make_module("product", {}), posteriors(certain, "a"), posteriors(certain, "b"), prior(certain))
    assert (np.exp(sent(outbox, "a")["log_prob"]) > 0.9 * FLOOR).all()


def test_a_single_sender_is_passed_on_and_receives_a_uniform_message():
    outbox = call(make_module("product", {}), posteriors(B_OWN, "b", np.full(N, -3.0)))
    assert np.array_equal(sent(outbox, "b")["log_prob"], np.full((N, K), -np.log(K)))
    np.testing.assert_allclose(np.exp(sent(outbox, "mm")["log_prob"]), B_OWN)
    np.testing.assert_allclose(sent(outbox, "mm")["log_norm"], -3.0)


def test_likelihoods_are_tempered_downwards_but_not_upwards():
    product = make_module("product", {})
    cold = call(product, *ALL, prior(A))
    hot = call(product, *ALL, prior(A), temperature=0.3)
    np.testing.assert_allclose(np.exp(sent(hot, "a")["log_prob"]), normalised((B * C) ** 0.3 * A), atol=1e-9)
    assert np.array_equal(sent(hot, "mm")["log_prob"], sent(cold, "mm")["log_prob"])
    assert hot.metrics == cold.metrics


# --- missing rows -------------------------------------------------------------------------------------------------


def test_rows_that_one_sender_misses_are_left_to_the_others():
    mask = np.arange(N) % 5 == 0
    filler = np.where(mask[:, None], np.roll(B_OWN, 1, axis=1), B_OWN)
    noise = np.where(mask, 99.0, 0.0)
    for own, norm in ((B_OWN, np.zeros(N)), (filler, noise)):
        outbox = call(make_module("product", {}), ALL[0], posteriors(own, "b", norm, mask=mask))
        without = np.where(mask[:, None], A, A * B)
        np.testing.assert_allclose(outbox.outputs["Pdz"], normalised(without))
        np.testing.assert_allclose(sent(outbox, "mm")["log_norm"], np.log(without.sum(axis=1)), atol=1e-12)
        assert outbox.metrics["evidence"] == pytest.approx(np.log(without.sum(axis=1) / K).sum())
        assert sent(outbox, "mm").mask is None
        received = np.exp(sent(outbox, "a")["log_prob"])
        np.testing.assert_allclose(received[mask], 1 / K)
        np.testing.assert_allclose(np.exp(sent(outbox, "b")["log_prob"])[:, B_LABELS], A, atol=1e-9)


def test_a_row_missing_for_all_senders_is_missing_upwards_and_takes_the_prior():
    masks = np.arange(N) % 5 == 0, np.arange(N) % 3 == 0
    missing = masks[0] & masks[1]
    prior_probabilities = class_probabilities(0.5, seed=6)
    senders = [
        posteriors(P, name, np.where(mask, 0.0, -2.0), mask=mask, lengths=np.array([20, 40]))
        for P, name, mask in zip((A, B_OWN), "ab", masks, strict=True)
    ]
    outbox = call(make_module("product", {}), *senders, prior(prior_probabilities))
    for receiver in ("mm", "a", "b"):
        assert np.array_equal(sent(outbox, receiver).mask, missing)
        assert sent(outbox, receiver).lengths.tolist() == [20, 40]
    np.testing.assert_allclose(np.exp(sent(outbox, "mm")["log_prob"])[missing], 1 / K)
    assert not sent(outbox, "mm")["log_norm"][missing].any()
    np.testing.assert_allclose(outbox.outputs["Pdz"][missing], prior_probabilities[missing])
    seen = np.where(masks[0][:, None], 1, A) * np.where(masks[1][:, None], 1, B) * prior_probabilities
    norms = -2.0 * (~masks[0]).sum() - 2.0 * (~masks[1]).sum()
    assert outbox.metrics["evidence"] == pytest.approx(norms + np.log(seen.sum(axis=1))[~missing].sum())


def test_recognition_works_where_all_rows_of_one_sender_are_missing():
    product = make_module("product", {})
    call(product, *ALL)
    all_missing = posteriors(np.full((8, K), 1 / K), "a", mask=np.ones(8, bool))
    outbox = call(product, all_missing, posteriors(B_OWN[:8], "b"), answer="recognize")
    np.testing.assert_allclose(outbox.outputs["Pdz"], B[:8])
    np.testing.assert_allclose(np.exp(sent(outbox, "a")["log_prob"]), B[:8], atol=1e-9)


def test_a_single_row_is_enough():
    outbox = call(make_module("product", {}), posteriors(A[:1], "a"), posteriors(B_OWN[:1], "b"))
    assert outbox.outputs["class"].shape == (1,)
    assert np.isfinite(outbox.metrics["evidence"])
    sent(outbox, "a"), sent(outbox, "b"), sent(outbox, "mm")


# --- learning, recognition and state ------------------------------------------------------------------------------


def test_permutations_are_kept_in_an_update_that_does_not_learn():
    product = make_module("product", {})
    call(product, *ALL)
    before = product.state()
    swapped = posteriors(B_OWN[:, [1, 0, 2, 3]], "b")
    for setting in ({"learn": False}, {"overrides": {"iterations": 0}}):
        outbox = call(product, ALL[0], swapped, ALL[2], **setting)
        assert same_arrays(product.state(), before)
        as_before = np.exp(swapped["log_prob"])[:, B_LABELS]
        np.testing.assert_allclose(outbox.outputs["Pdz"], normalised(A * as_before * C))
    call(product, ALL[0], swapped, ALL[2])
    assert product.state()["permutation.b"].tolist() == [2, 1, 3, 0]


def test_labels_of_unknown_senders_are_taken_as_joint_labels_in_an_update_that_does_not_learn():
    product = make_module("product", {})
    outbox = call(product, *ALL[:2], learn=False)
    np.testing.assert_allclose(outbox.outputs["Pdz"], normalised(A * B_OWN))
    np.testing.assert_allclose(np.exp(sent(outbox, "b")["log_prob"]), A, atol=1e-9)
    assert product.state() == {}


def test_joint_labels_are_kept_when_a_sender_is_added():
    product = make_module("product", {})
    call(product, ALL[1])
    call(product, *ALL[:2])
    state = product.state()
    assert state["permutation.b"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(state["permutation.a"], np.argsort(B_LABELS))


def test_recognition_uses_the_learnt_permutations_and_changes_nothing():
    product = make_module("product", {})
    call(product, *ALL)
    before = product.state()
    rows = [3] * 6  # a single class, from which no permutation could be inferred
    outbox = call(product, *(posteriors(P[rows], s) for P, s in ((A, "a"), (B_OWN, "b"))), answer="recognize")
    np.testing.assert_allclose(outbox.outputs["Pdz"], normalised(A * B)[rows])
    assert "evidence" not in outbox.metrics
    assert same_arrays(product.state(), before)


def test_a_loaded_state_continues_bit_for_bit():
    one, other = make_module("product", {}), make_module("product", {})
    call(one, *ALL)
    state = {name: np.array(value) for name, value in one.state().items()}
    for value in state.values():
        value.flags.writeable = False
    other.load_state(dict(reversed(state.items())))
    assert same_arrays(other.state(), state)
    noisier = [posteriors(class_probabilities(0.2, seed=seed), name) for seed, name in enumerate("abc")]
    assert same_arrays(call(one, *noisier, round=1).outputs, call(other, *noisier, round=1).outputs)
    assert same_arrays(one.state(), other.state())
    other.load_state({})
    assert other.state() == {}


def test_the_seed_has_no_influence():
    outboxes = [call(make_module("product", {}), *ALL, seed=seed) for seed in (0, 1)]
    assert same_arrays(outboxes[0].outputs, outboxes[1].outputs)


def test_generated_rows_have_one_class_for_all_senders():
    product = make_module("product", {})
    call(product, *(posteriors(P[TRUTH > 1], m.header.sender) for P, m in zip((A, B_OWN, C_OWN), ALL, strict=True)))
    context = Context("joint", receivers={"transition_prior": ("a", "b")}, rows=500)
    drawn = product.generate(Inbox(), context)
    classes = drawn.outputs["class"]
    assert (classes > 1).mean() > 0.9
    assert np.array_equal(sent(drawn, "a")["log_prob"].argmax(axis=1), classes)
    assert np.array_equal(sent(drawn, "b")["log_prob"].argmax(axis=1), B_LABELS[classes])
    given = product.generate(Inbox([prior(np.eye(K)[[3, 0]])]), Context("joint", rows=2)).outputs["class"]
    assert given.tolist() == [3, 0]


# --- refusals -----------------------------------------------------------------------------------------------------


def test_refuses_messages_that_do_not_fit():
    product = make_module("product", {})
    for answer in ("recognize", "generate"):
        with pytest.raises(ModuleError, match="'joint' has learnt nothing"):
            call(product, *ALL, answer=answer, rows=3)
    with pytest.raises(ModuleError, match=r"b -> joint.*\(60, 2\) came, 'a' sent \(60, 4\)"):
        call(product, ALL[0], posteriors(np.eye(2)[TRUTH % 2], "b"))
    with pytest.raises(ModuleError, match=r"mm -> joint.joint_prior.*\(8, 4\) came, expected \(60, 4\)"):
        call(product, *ALL, prior(A[:8]))
    with pytest.raises(ModuleError, match="a, b exclude each other in row 0"):
        call(product, posteriors(np.eye(K)[[0, 1, 1]], "a"), posteriors(np.eye(K)[[1, 1, 1]], "b"))
    with pytest.raises(ModuleError, match="a, mm exclude each other in row 1"):
        call(make_module("product", {}), posteriors(np.eye(K)[[0, 1]], "a"), prior(np.eye(K)[[0, 0]]))


def test_the_error_names_senders_without_a_learnt_permutation():
    product = make_module("product", {})
    call(product, *ALL[:2])
    with pytest.raises(ModuleError, match="learnt the labels of a, b, not those of c"):
        call(product, *ALL, answer="recognize")
    with pytest.raises(ModuleError, match="2 classes came from a, 'joint' has learnt 4"):
        call(product, posteriors(np.eye(2)[TRUTH % 2], "a"))


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 3], [0, 1]])
def test_refuses_a_state_with_invalid_permutations(labels):
    with pytest.raises(ModuleError, match="no permutation of 3 classes for b"):
        make_module("product", {}).load_state({"permutation.a": np.arange(3), "permutation.b": np.array(labels)})


@pytest.mark.parametrize("given", [{"iterations": -1}, {"lapse": 0}, {"lapse": 1}, {"rule": "sum"}])
def test_refuses_invalid_parameters(given):
    with pytest.raises(ModuleError):
        make_module("product", given)


# --- with others --------------------------------------------------------------------------------------------------


def two_views(seed, rows=300):
    """Return two views of four classes, and the classes; 0 and 1 overlap in the first view, 2 and 3 in the second."""
    centres = np.array([[[0, 0], [0, 1], [6, 0], [0, 7]], [[6, 0], [0, 6], [0, 0], [1, 0]]], dtype=float)
    truth = np.arange(rows) % K
    return centres[:, truth] + np.random.default_rng(seed).normal(size=(2, rows, 2)), truth


def learn(views, seed, modules=(), connections=(), exchanges=12):
    """Learn GMMs on the `views` with further modules and connections; return the coordinator."""
    names = [f"view{n}" for n in range(len(views))]
    gmm = {"classes": K, "iterations": 3, "prior_scale": "data"}
    specs = [ModuleSpec(name, "observation") for name in names]
    specs += [ModuleSpec(f"gmm_{name}", "gmm", gmm) for name in names] + list(modules)
    graph = Graph(
        specs,
        [*(Connection(name, f"gmm_{name}") for name in names), *connections],
        Schedule(1, (Block(tuple(Step(spec.name) for spec in specs if spec.name not in names), repeat=exchanges),)),
    )
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start({name: {"values": view} for name, view in zip(names, views, strict=True)})
    coordinator.run_rounds()
    return coordinator


JOINT = [ModuleSpec("joint", "product")]
BELOW = [Connection("gmm_view0", "joint"), Connection("gmm_view1", "joint")]


@pytest.mark.parametrize("seed", range(5))
def test_two_views_together_are_more_accurate_than_either_alone(seed):
    views, truth = two_views(seed)
    alone = [accuracy(learn([view], seed).outputs("gmm_view0")["class"], truth) for view in views]
    together = learn(views, seed, JOINT, BELOW)
    assert accuracy(together.outputs("joint")["class"], truth) > max(0.95, max(alone) + 0.1)
    for name in ("gmm_view0", "gmm_view1"):  # each benefits from the message about the other view
        assert accuracy(together.outputs(name)["class"], truth) > max(alone) + 0.1


def test_permutations_are_stable_while_the_modules_below_learn():
    views, _ = two_views(0)
    early, late = (learn(views, 0, JOINT, BELOW, exchanges).state("joint") for exchanges in (2, 12))
    for name in ("gmm_view0", "gmm_view1"):
        assert np.array_equal(early[f"permutation.{name}"], late[f"permutation.{name}"])


def test_learns_recognizes_and_generates_below_a_markov_model():
    views, truth = two_views(0)
    modules, connections = [*JOINT, ModuleSpec("mm", "markov")], [*BELOW, Connection("joint", "mm")]
    learnt = learn(views, 0, modules, connections)
    assert accuracy(learnt.outputs("joint")["class"], truth) > 0.98
    names = learnt.outputs("joint")["class"][:K]  # the labels of the classes 0, 1, 2, 3 of the cycle
    assert np.array_equal(learnt.outputs("mm")["trans_prob"].argmax(axis=1)[names], np.roll(names, -1))
    states = {name: learnt.state(name) for name in ("gmm_view0", "gmm_view1", "joint", "mm")}

    new, truth = two_views(9, rows=40)
    data = {"view0": {"values": new[0]}, "view1": {"values": new[1], "mask": np.ones(40, bool)}}
    again = Coordinator(learnt.graph, InProcessBackend())
    assert accuracy(again.recognize(states, data, ordered=True)["mm"]["viterbi"], truth) > 0.95
    generated = Coordinator(learnt.graph, InProcessBackend()).generate_rows(states, 100)
    assert np.array_equal(generated["mm"]["class"], generated["joint"]["class"])
    labels = states["joint"]["permutation.gmm_view1"]
    assert np.array_equal(generated["gmm_view1"]["class"], labels[generated["joint"]["class"]])
