"""The product joins modules that classify the same rows, each with labels of its own, and tells each of the others."""

import numpy as np
import pytest
from actors.graph.spec import Connection, ModuleSpec

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import make
from actors.graph.schedule import Block, Schedule, Step
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.modules.class_posteriors import FLOOR
from runner.report.clustering_metrics import accuracy
from tests.support.toy_modules import same

K, N = 4, 60
TRUTH = np.arange(N) % K


def beliefs(certainty=0.7, seed=0, rows=N):
    """What a classifier says of classes in turn, (N, K)."""
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


def ask(product, *messages, answer="update", above=("mm",), **context):
    below = tuple(m.header.sender for m in messages if m.header.port == "class_posteriors")
    receivers = {"joint_posteriors": above, "transition_prior": below}
    return getattr(product, answer)(Inbox(messages), Context("joint", receivers=receivers, **context))


def sent(outbox, receiver):
    """The message to `receiver`, held against its kind."""
    (outgoing,) = [o for o in outbox.messages if o.receiver == receiver]
    kind = "class_posteriors" if outgoing.port == "joint_posteriors" else "transition_prior"
    return make_message(Header(kind, "joint", outgoing.port, receiver), outgoing.arrays)


def scaled(products):
    return products / products.sum(axis=1, keepdims=True)


A, B, C = beliefs(seed=1), beliefs(seed=2), beliefs(seed=3)
B_NAMES, C_NAMES = np.array([2, 0, 3, 1]), np.array([1, 3, 2, 0])  # their labels of the joint classes 0, 1, 2, 3
B_OWN, C_OWN = np.empty_like(B), np.empty_like(C)
B_OWN[:, B_NAMES], C_OWN[:, C_NAMES] = B, C
ALL = (posteriors(A, "a"), posteriors(B_OWN, "b"), posteriors(C_OWN, "c"))


# --- what it makes of them ----------------------------------------------------------------------------------------


def test_the_first_sender_names_the_classes_and_the_others_are_aligned():
    product = make("product", {})
    outbox = ask(product, *ALL)
    state = product.state()
    assert state["permutation.a"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(state["permutation.b"], B_NAMES)
    assert np.array_equal(state["permutation.c"], C_NAMES)
    np.testing.assert_allclose(outbox.outputs["Pdz"], scaled(A * B * C))
    assert np.array_equal(outbox.outputs["class"], TRUTH)


def test_upwards_goes_the_product_with_its_normaliser():
    norms = np.random.default_rng(0).normal(size=(3, N))
    below = [posteriors(own, name, n) for own, name, n in zip((A, B_OWN, C_OWN), "abc", norms, strict=True)]
    outbox = ask(make("product", {}), *below)
    up = sent(outbox, "mm")
    np.testing.assert_allclose(np.exp(up["log_prob"]), scaled(A * B * C))
    np.testing.assert_allclose(up["log_norm"], norms.sum(axis=0) + np.log((A * B * C).sum(axis=1)))
    assert outbox.metrics["evidence"] == pytest.approx(norms.sum() + np.log((A * B * C).mean(axis=1)).sum())


def test_a_markov_model_above_it_learns_what_it_would_learn_from_the_senders_themselves():
    joined = sent(ask(make("product", {}), *ALL), "mm")
    through = make_message(Header("class_posteriors", "joint", "class_posteriors", "mm"), joined.arrays)
    directly = [posteriors(P, name) for P, name in ((A, "a"), (B, "b"), (C, "c"))]
    one, other = (make("markov", {}).update(Inbox(inbox), Context("mm")) for inbox in ([through], directly))
    assert one.metrics["evidence"] == pytest.approx(other.metrics["evidence"])
    np.testing.assert_allclose(one.outputs["Pdz"], other.outputs["Pdz"])


def test_each_sender_hears_the_product_of_the_others_in_its_own_labels():
    outbox = ask(make("product", {}), *ALL)
    np.testing.assert_allclose(np.exp(sent(outbox, "a")["log_prob"]), scaled(B * C), atol=1e-9)
    np.testing.assert_allclose(np.exp(sent(outbox, "b")["log_prob"])[:, B_NAMES], scaled(A * C), atol=1e-9)
    np.testing.assert_allclose(np.exp(sent(outbox, "c")["log_prob"])[:, C_NAMES], scaled(A * B), atol=1e-9)


def test_what_a_sender_said_of_a_row_is_not_told_to_it_again():
    product = make("product", {})
    before = ask(product, *ALL)
    changed = B_OWN.copy()
    changed[7] = np.roll(changed[7], 1)
    after = ask(product, ALL[0], posteriors(changed, "b"), ALL[2], learn=False)
    assert np.array_equal(sent(after, "b")["log_prob"], sent(before, "b")["log_prob"])
    for other in ("a", "c", "mm"):
        assert not np.allclose(sent(after, other)["log_prob"][7], sent(before, other)["log_prob"][7])


def test_priors_multiply_and_go_to_everybody_but_their_own_sender():
    mm, mlda = beliefs(0.3, seed=4), beliefs(0.3, seed=5)
    priors = prior(mm, "mm"), prior(mlda, "mlda")
    outbox = ask(make("product", {}), *ALL, *priors, above=("mm", "mlda"))
    joint = A * B * C
    for receiver, others in (("mm", mlda), ("mlda", mm)):
        up = sent(outbox, receiver)
        np.testing.assert_allclose(np.exp(up["log_prob"]), scaled(joint * others))
        np.testing.assert_allclose(up["log_norm"], np.log((joint * others).sum(axis=1)))
    down = np.exp(sent(outbox, "b")["log_prob"])[:, B_NAMES]
    np.testing.assert_allclose(down, scaled(A * C * mm * mlda), atol=1e-9)
    np.testing.assert_allclose(outbox.outputs["Pdz"], scaled(joint * mm * mlda))
    together = scaled(mm * mlda)
    assert outbox.metrics["evidence"] == pytest.approx(np.log((joint * together).sum(axis=1)).sum())


def test_priors_have_no_say_in_the_alignment():
    product = make("product", {})
    ask(product, *ALL, prior(np.roll(np.eye(K), 1, axis=1)[TRUTH] * 0.96 + 0.01))
    assert np.array_equal(product.state()["permutation.b"], B_NAMES)


def test_no_class_is_ever_impossible_to_those_below():
    certain = np.eye(K)[TRUTH]
    outbox = ask(make("product", {}), posteriors(certain, "a"), posteriors(certain, "b"), prior(certain))
    assert (np.exp(sent(outbox, "a")["log_prob"]) > 0.9 * FLOOR).all()


def test_alone_a_sender_hears_nothing_and_is_passed_on_as_it_is():
    outbox = ask(make("product", {}), posteriors(B_OWN, "b", np.full(N, -3.0)))
    assert np.array_equal(sent(outbox, "b")["log_prob"], np.full((N, K), -np.log(K)))
    np.testing.assert_allclose(np.exp(sent(outbox, "mm")["log_prob"]), B_OWN)
    np.testing.assert_allclose(sent(outbox, "mm")["log_norm"], -3.0)


def test_tempered_likelihoods_go_down_untempered_ones_up():
    product = make("product", {})
    cold = ask(product, *ALL, prior(A))
    hot = ask(product, *ALL, prior(A), temperature=0.3)
    np.testing.assert_allclose(np.exp(sent(hot, "a")["log_prob"]), scaled((B * C) ** 0.3 * A), atol=1e-9)
    assert np.array_equal(sent(hot, "mm")["log_prob"], sent(cold, "mm")["log_prob"])
    assert hot.metrics == cold.metrics


# --- rows ---------------------------------------------------------------------------------------------------------


def test_what_a_sender_misses_the_others_say():
    mask = np.arange(N) % 5 == 0
    filler = np.where(mask[:, None], np.roll(B_OWN, 1, axis=1), B_OWN)
    noise = np.where(mask, 99.0, 0.0)
    for own, norm in ((B_OWN, np.zeros(N)), (filler, noise)):
        outbox = ask(make("product", {}), ALL[0], posteriors(own, "b", norm, mask=mask))
        without = np.where(mask[:, None], A, A * B)
        np.testing.assert_allclose(outbox.outputs["Pdz"], scaled(without))
        np.testing.assert_allclose(sent(outbox, "mm")["log_norm"], np.log(without.sum(axis=1)), atol=1e-12)
        assert outbox.metrics["evidence"] == pytest.approx(np.log(without.sum(axis=1) / K).sum())
        assert sent(outbox, "mm").mask is None
        hears = np.exp(sent(outbox, "a")["log_prob"])
        np.testing.assert_allclose(hears[mask], 1 / K)
        np.testing.assert_allclose(np.exp(sent(outbox, "b")["log_prob"])[:, B_NAMES], A, atol=1e-9)


def test_a_row_that_nobody_saw_is_missing_upwards_and_only_priors_speak_of_it():
    masks = np.arange(N) % 5 == 0, np.arange(N) % 3 == 0
    nobody = masks[0] & masks[1]
    believed = beliefs(0.5, seed=6)
    senders = [
        posteriors(P, name, np.where(mask, 0.0, -2.0), mask=mask, lengths=np.array([20, 40]))
        for P, name, mask in zip((A, B_OWN), "ab", masks, strict=True)
    ]
    outbox = ask(make("product", {}), *senders, prior(believed))
    for receiver in ("mm", "a", "b"):
        assert np.array_equal(sent(outbox, receiver).mask, nobody)
        assert sent(outbox, receiver).lengths.tolist() == [20, 40]
    np.testing.assert_allclose(np.exp(sent(outbox, "mm")["log_prob"])[nobody], 1 / K)
    assert not sent(outbox, "mm")["log_norm"][nobody].any()
    np.testing.assert_allclose(outbox.outputs["Pdz"][nobody], believed[nobody])
    seen = np.where(masks[0][:, None], 1, A) * np.where(masks[1][:, None], 1, B) * believed
    norms = -2.0 * (~masks[0]).sum() - 2.0 * (~masks[1]).sum()
    assert outbox.metrics["evidence"] == pytest.approx(norms + np.log(seen.sum(axis=1))[~nobody].sum())


def test_a_modality_may_be_missing_altogether_when_new_rows_are_recognized():
    product = make("product", {})
    ask(product, *ALL)
    nothing = posteriors(np.full((8, K), 1 / K), "a", mask=np.ones(8, bool))
    outbox = ask(product, nothing, posteriors(B_OWN[:8], "b"), answer="recognize")
    np.testing.assert_allclose(outbox.outputs["Pdz"], B[:8])
    np.testing.assert_allclose(np.exp(sent(outbox, "a")["log_prob"]), B[:8], atol=1e-9)


def test_one_row_is_enough():
    outbox = ask(make("product", {}), posteriors(A[:1], "a"), posteriors(B_OWN[:1], "b"))
    assert outbox.outputs["class"].shape == (1,)
    assert np.isfinite(outbox.metrics["evidence"])
    sent(outbox, "a"), sent(outbox, "b"), sent(outbox, "mm")


# --- learning, recognition and state ------------------------------------------------------------------------------


def test_permutations_stay_where_nothing_is_to_be_learnt():
    product = make("product", {})
    ask(product, *ALL)
    before = product.state()
    swapped = posteriors(B_OWN[:, [1, 0, 2, 3]], "b")
    for still in ({"learn": False}, {"overrides": {"iterations": 0}}):
        outbox = ask(product, ALL[0], swapped, ALL[2], **still)
        assert same(product.state(), before)
        as_before = np.exp(swapped["log_prob"])[:, B_NAMES]
        np.testing.assert_allclose(outbox.outputs["Pdz"], scaled(A * as_before * C))
    ask(product, ALL[0], swapped, ALL[2])
    assert product.state()["permutation.b"].tolist() == [2, 1, 3, 0]


def test_senders_of_which_nothing_may_be_learnt_are_taken_at_their_word():
    product = make("product", {})
    outbox = ask(product, *ALL[:2], learn=False)
    np.testing.assert_allclose(outbox.outputs["Pdz"], scaled(A * B_OWN))
    np.testing.assert_allclose(np.exp(sent(outbox, "b")["log_prob"]), A, atol=1e-9)
    assert product.state() == {}


def test_joint_labels_stay_when_a_sender_comes_later():
    product = make("product", {})
    ask(product, ALL[1])
    ask(product, *ALL[:2])
    state = product.state()
    assert state["permutation.b"].tolist() == [0, 1, 2, 3]
    assert np.array_equal(state["permutation.a"], np.argsort(B_NAMES))


def test_recognizes_by_the_learnt_permutations_and_changes_nothing():
    product = make("product", {})
    ask(product, *ALL)
    before = product.state()
    rows = [3] * 6  # of a single class, from which nobody could tell the labels
    outbox = ask(product, *(posteriors(P[rows], s) for P, s in ((A, "a"), (B_OWN, "b"))), answer="recognize")
    np.testing.assert_allclose(outbox.outputs["Pdz"], scaled(A * B)[rows])
    assert "evidence" not in outbox.metrics
    assert same(product.state(), before)


def test_continues_bit_for_bit_after_a_load():
    one, other = make("product", {}), make("product", {})
    ask(one, *ALL)
    state = {name: np.array(value) for name, value in one.state().items()}
    for value in state.values():
        value.flags.writeable = False
    other.load_state(dict(reversed(state.items())))
    assert same(other.state(), state)
    noisier = [posteriors(beliefs(0.2, seed=seed), name) for seed, name in enumerate("abc")]
    assert same(ask(one, *noisier, round=1).outputs, ask(other, *noisier, round=1).outputs)
    assert same(one.state(), other.state())
    other.load_state({})
    assert other.state() == {}


def test_the_seed_has_no_say():
    outboxes = [ask(make("product", {}), *ALL, seed=seed) for seed in (0, 1)]
    assert same(outboxes[0].outputs, outboxes[1].outputs)


def test_made_up_rows_are_of_one_class_to_all_senders():
    product = make("product", {})
    ask(product, *(posteriors(P[TRUTH > 1], m.header.sender) for P, m in zip((A, B_OWN, C_OWN), ALL, strict=True)))
    context = Context("joint", receivers={"transition_prior": ("a", "b")}, rows=500)
    drawn = product.generate(Inbox(), context)
    classes = drawn.outputs["class"]
    assert (classes > 1).mean() > 0.9
    assert np.array_equal(sent(drawn, "a")["log_prob"].argmax(axis=1), classes)
    assert np.array_equal(sent(drawn, "b")["log_prob"].argmax(axis=1), B_NAMES[classes])
    told = product.generate(Inbox([prior(np.eye(K)[[3, 0]])]), Context("joint", rows=2)).outputs["class"]
    assert told.tolist() == [3, 0]


# --- refusals -----------------------------------------------------------------------------------------------------


def test_says_what_does_not_fit():
    product = make("product", {})
    for answer in ("recognize", "generate"):
        with pytest.raises(ModuleError, match="'joint' has learnt nothing"):
            ask(product, *ALL, answer=answer, rows=3)
    with pytest.raises(ModuleError, match=r"b -> joint.*\(60, 2\) came, 'a' sent \(60, 4\)"):
        ask(product, ALL[0], posteriors(np.eye(2)[TRUTH % 2], "b"))
    with pytest.raises(ModuleError, match=r"mm -> joint.joint_prior.*\(8, 4\) came, expected \(60, 4\)"):
        ask(product, *ALL, prior(A[:8]))
    with pytest.raises(ModuleError, match="a, b exclude each other in row 0"):
        ask(product, posteriors(np.eye(K)[[0, 1, 1]], "a"), posteriors(np.eye(K)[[1, 1, 1]], "b"))
    with pytest.raises(ModuleError, match="a, mm exclude each other in row 1"):
        ask(make("product", {}), posteriors(np.eye(K)[[0, 1]], "a"), prior(np.eye(K)[[0, 0]]))


def test_says_whose_labels_it_never_learnt():
    product = make("product", {})
    ask(product, *ALL[:2])
    with pytest.raises(ModuleError, match="learnt the labels of a, b, not those of c"):
        ask(product, *ALL, answer="recognize")
    with pytest.raises(ModuleError, match="2 classes came from a, 'joint' has learnt 4"):
        ask(product, posteriors(np.eye(2)[TRUTH % 2], "a"))


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 1, 3], [0, 1]])
def test_refuses_a_state_without_permutations(labels):
    with pytest.raises(ModuleError, match="no permutation of 3 classes for b"):
        make("product", {}).load_state({"permutation.a": np.arange(3), "permutation.b": np.array(labels)})


@pytest.mark.parametrize("given", [{"iterations": -1}, {"lapse": 0}, {"lapse": 1}, {"rule": "sum"}])
def test_refuses_wrong_parameters(given):
    with pytest.raises(ModuleError):
        make("product", given)


# --- with others --------------------------------------------------------------------------------------------------


def two_views(seed, rows=300):
    """Two views of four classes: the first hardly tells 0 and 1 apart, the second 2 and 3."""
    centres = np.array([[[0, 0], [0, 1], [6, 0], [0, 7]], [[6, 0], [0, 6], [0, 0], [1, 0]]], dtype=float)
    truth = np.arange(rows) % K
    return centres[:, truth] + np.random.default_rng(seed).normal(size=(2, rows, 2)), truth


def learn(views, seed, modules=(), connections=(), exchanges=12):
    """GMMs on the `views`, joined by the module called joint, and what is above it; a GMM alone without that."""
    names = [f"view{n}" for n in range(len(views))]
    gmm = {"classes": K, "iterations": 3, "prior_scale": "data"}
    specs = [ModuleSpec(name, "observation") for name in names]
    specs += [ModuleSpec(f"gmm_{name}", "gmm", gmm) for name in names] + list(modules)
    graph = Graph(
        specs,
        [*(Connection(name, f"gmm_{name}") for name in names), *connections],
        Schedule(1, (Block(tuple(Step(spec.name) for spec in specs if spec.name not in names), repeat=exchanges),)),
    )
    coordinator = Coordinator(graph, InProcess(), seed=seed)
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
    for name in ("gmm_view0", "gmm_view1"):  # each knows by now what the other one tells it
        assert accuracy(together.outputs(name)["class"], truth) > max(alone) + 0.1


def test_labels_stay_while_the_modules_below_learn_from_what_comes_in_them():
    views, _ = two_views(0)
    early, late = (learn(views, 0, JOINT, BELOW, exchanges).state("joint") for exchanges in (2, 12))
    for name in ("gmm_view0", "gmm_view1"):
        assert np.array_equal(early[f"permutation.{name}"], late[f"permutation.{name}"])


def test_below_a_markov_model_it_is_part_of_one_model():
    views, truth = two_views(0)
    modules, connections = [*JOINT, ModuleSpec("mm", "markov")], [*BELOW, Connection("joint", "mm")]
    learnt = learn(views, 0, modules, connections)
    assert accuracy(learnt.outputs("joint")["class"], truth) > 0.98
    names = learnt.outputs("joint")["class"][:K]  # of the classes 0, 1, 2, 3, which follow each other
    assert np.array_equal(learnt.outputs("mm")["trans_prob"].argmax(axis=1)[names], np.roll(names, -1))
    states = {name: learnt.state(name) for name in ("gmm_view0", "gmm_view1", "joint", "mm")}

    new, truth = two_views(9, rows=40)
    data = {"view0": {"values": new[0]}, "view1": {"values": new[1], "mask": np.ones(40, bool)}}
    again = Coordinator(learnt.graph, InProcess())
    assert accuracy(again.recognize(states, data, ordered=True)["mm"]["viterbi"], truth) > 0.95
    made = Coordinator(learnt.graph, InProcess()).make_up(states, 100)
    assert np.array_equal(made["mm"]["class"], made["joint"]["class"])
    labels = states["joint"]["permutation.gmm_view1"]
    assert np.array_equal(made["gmm_view1"]["class"], labels[made["joint"]["class"]])
