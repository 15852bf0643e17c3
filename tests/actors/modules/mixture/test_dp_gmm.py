"""Tests of the DP-GMM module, alone and below a Markov model: it infers the number of classes."""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn.metrics import adjusted_rand_score

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import make_module
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.kernels.mixture.crp import expected_class_count
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, log_predictive, log_predictive_loo
from tests.actors.modules.mixture.test_gmm import downward, latent_vectors, prior_of, update, upward
from tests.support.toy_modules import check_state_transfer, same_arrays

K, N = 12, 150


def clusters(classes=3, seed=0, rows=N, spread=1.0):
    """Return rows around points on the axes, in cyclic order, and their classes."""
    truth = np.arange(rows) % classes
    centres = 8.0 * np.vstack([np.eye(4), -np.eye(4)])[:classes]
    return centres[truth] + spread * np.random.default_rng(seed).normal(size=(rows, 4)), truth


def make_dp(**given):
    return make_module("dp_gmm", {"most": K, "itr": 20, "prior_scale": "data", **given})


def some_prior(sender, seed, rows=N, classes=K):
    return prior_of(sender, np.random.default_rng(seed).dirichlet(np.ones(classes), rows))


def learnt_parts(dp):
    """Return the state's labels, factors and prior."""
    state = dp.state()
    factors = NIWPosterior(*(state[name] for name in NIWPosterior._fields))
    prior = NIWPrior(state["prior_mean"], state["prior_count"], state["degrees"], state["prior_scale"])
    return state["labels"], factors, prior


# --- number of classes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("start", ["one", "random", "kmeans", "sequence"])
@pytest.mark.parametrize("classes", [3, 7])
def test_infers_the_clusters_and_their_number(classes, start, seed):
    X, truth = clusters(classes, seed, rows=210)
    dp = make_dp(start=start, itr=40)
    outbox = update(dp, latent_vectors(X), seed=seed)
    predicted = outbox.outputs["class"]
    assert adjusted_rand_score(truth, predicted) > 0.98
    assert (np.bincount(predicted) >= 5).sum() == classes  # one or two outliers may form a class
    assert outbox.metrics["classes"] == len(set(predicted.tolist()))
    assert outbox.metrics["occupied"] == len(set(dp.state()["labels"].tolist()))


def test_clusters_share_classes_where_there_are_more_than_the_maximum():
    X, truth = clusters(3)
    predicted = update(make_dp(most=2), latent_vectors(X), seed=1).outputs["class"]
    assert len(set(predicted.tolist())) == 2
    assert len(set(zip(predicted.tolist(), truth.tolist(), strict=True))) == 3


def test_a_class_keeps_its_label_between_updates():
    X, _ = clusters(7)
    dp = make_dp(itr=40)
    before = update(dp, latent_vectors(X), seed=1).outputs["class"]
    after = update(dp, latent_vectors(X), round=1, seed=1).outputs["class"]
    assert (before == after).mean() > 0.98


def test_a_new_cluster_gets_a_class_and_the_others_keep_their_labels():
    X, truth = clusters(3)
    dp = make_dp()
    before = update(dp, latent_vectors(X), seed=1).outputs["class"]
    X[truth == 0] += np.where(np.arange((truth == 0).sum()) % 2, 8.0, 0.0)[:, None]
    after = update(dp, latent_vectors(X), round=1, seed=1).outputs["class"]
    assert len(set(after.tolist())) == 4
    assert (before == after)[truth > 0].mean() > 0.98


def test_the_sequence_start_counts_the_classes_that_neighbours_share():
    X, _ = clusters(6)
    dp = make_dp(start="sequence", itr=0)
    assert len(set(update(dp, latent_vectors(X)).outputs["class"].tolist())) == 6
    shuffled = make_dp(start="sequence", itr=0)
    predicted = update(shuffled, latent_vectors(np.random.default_rng(1).permutation(X))).outputs["class"]
    assert len(set(predicted.tolist())) == 1


def test_a_data_driven_prior_scale_uses_the_expected_number_of_classes():
    X, _ = clusters()
    dp = make_dp(alpha=2.0)
    update(dp, latent_vectors(X))
    expected = np.diag(X.var(axis=0) * expected_class_count(N, 2.0) ** (-2 / 4))
    np.testing.assert_allclose(dp.state()["prior_scale"], expected)


def test_the_concentration_is_learnt_with_learn_alpha_only():
    X, _ = clusters(7)
    fixed, free = make_dp(), make_dp(learn_alpha=True)
    assert "alpha" not in update(fixed, latent_vectors(X)).metrics
    assert "alpha" not in fixed.state()
    outbox = update(free, latent_vectors(X))
    assert outbox.metrics["alpha"] == free.state()["alpha"] != 1.0
    update(free, latent_vectors(X), overrides={"iterations": 0})
    assert outbox.metrics["alpha"] == free.state()["alpha"]


# --- messages -----------------------------------------------------------------------------------------------------


def test_messages_have_a_column_for_every_class_and_empty_classes_have_the_likelihood_of_the_prior():
    X, _ = clusters(spread=2.0)
    dp = make_dp()
    outbox = update(dp, latent_vectors(X))
    labels, factors, prior = learnt_parts(dp)
    message = upward(outbox)
    assert message["log_prob"].shape == (N, K)
    assert downward(outbox)["means"].shape == (K, 4)
    likelihood = message["log_prob"] + message["log_norm"][:, None]
    np.testing.assert_allclose(likelihood, log_predictive_loo(X, labels, factors, prior), atol=1e-9)
    empty = factors.counts == 0
    assert empty.any()
    prior_predictive = log_predictive(X, NIWPosterior(*(part[empty][:1] for part in factors)), prior)
    np.testing.assert_allclose(likelihood[:, empty], np.tile(prior_predictive, (1, empty.sum())), atol=1e-9)
    np.testing.assert_allclose(factors.scale[empty], np.tile(prior.scale, (empty.sum(), 1, 1)))
    np.testing.assert_allclose(downward(outbox)["means"][empty], np.tile(X.mean(axis=0), (empty.sum(), 1)))


def test_process_weights_are_used_where_no_prior_came():
    X, _ = clusters(spread=3.0)
    dp = make_dp(alpha=2.0)
    outbox = update(dp, latent_vectors(X))
    labels, factors, prior = learnt_parts(dp)
    empty = factors.counts == 0
    weights = np.where(empty, 2.0 / empty.sum(), factors.counts) / (N + 2.0)
    scores = log_predictive_loo(X, labels, factors, prior) + np.log(weights)
    np.testing.assert_allclose(outbox.outputs["Pdz"], softmax(scores, axis=1), atol=1e-9)
    assert outbox.metrics["evidence"] == pytest.approx(logsumexp(scores, axis=1).sum())


def test_a_prior_applies_to_occupied_classes_and_empty_ones_share_the_mass_of_a_new_class():
    X, _ = clusters(spread=3.0)
    dp, prior_came = make_dp(alpha=2.0), some_prior("mm", 1)
    update(dp, latent_vectors(X))
    outbox = update(dp, latent_vectors(X), prior_came, round=1)
    labels, factors, prior = learnt_parts(dp)
    p, occupied = np.exp(prior_came["log_prob"]), factors.counts > 0
    adjusted = N / (N + 2.0) * p / p[:, occupied].sum(axis=1, keepdims=True)
    adjusted[:, ~occupied] = 2.0 / (N + 2.0) / (~occupied).sum()
    posterior = softmax(log_predictive_loo(X, labels, factors, prior) + np.log(adjusted), axis=1)
    np.testing.assert_allclose(outbox.outputs["Pdz"], posterior, atol=1e-9)
    np.testing.assert_allclose(downward(outbox)["responsibilities"], posterior, atol=1e-9)


@pytest.mark.parametrize("answer", ["update", "recognize"])
def test_the_message_to_a_receiver_excludes_its_own_prior(answer):
    X, _ = clusters(spread=3.0)
    a, b, dp = some_prior("a", 1), some_prior("b", 2), make_dp()
    update(dp, latent_vectors(X))

    def message_to(receiver, *priors):
        setting = {"overrides": {"iterations": 0}, "receivers": ("a", "b"), "answer": answer}
        return upward(update(dp, latent_vectors(X), *priors, **setting), receiver)["log_prob"]

    np.testing.assert_allclose(message_to("a", a), message_to("a"), atol=1e-9)
    np.testing.assert_allclose(message_to("a", a, b), message_to("a", b), atol=1e-9)
    assert np.abs(message_to("b", a, b) - message_to("a", a, b)).max() > 0.1


def test_missing_rows_have_no_influence():
    X, _ = clusters()
    mask, outboxes = np.arange(N) % 7 == 0, []
    for filler in (0.0, 1e6):
        X[mask] = filler
        dp = make_dp(start="sequence")
        update(dp, latent_vectors(X, mask=mask))
        outboxes.append(update(dp, latent_vectors(X, mask=mask), some_prior("mm", 4), round=1))
        assert (dp.state()["labels"][mask] == -1).all()
        assert dp.state()["counts"].sum() == (~mask).sum()
    outbox = outboxes[1]
    assert same_arrays(outboxes[0].outputs, outbox.outputs)
    assert outboxes[0].metrics == outbox.metrics
    message = upward(outbox)
    assert np.array_equal(message.mask, mask)
    np.testing.assert_allclose(message["log_prob"][mask], -np.log(K))
    assert (message["log_norm"][mask] == 0).all()


# --- recognition and state ----------------------------------------------------------------------------------------


def test_recognition_classifies_new_rows_and_learns_nothing():
    X, _ = clusters()
    dp = make_dp()
    predicted = update(dp, latent_vectors(X), seed=2).outputs["class"]
    before = dp.state()
    outbox = update(dp, latent_vectors(clusters(rows=30, seed=9)[0]), answer="recognize")
    assert np.array_equal(outbox.outputs["class"], predicted[:30])
    assert same_arrays(dp.state(), before)
    far = update(dp, latent_vectors(np.full((1, 4), 1e3)), answer="recognize").outputs["class"]
    assert far[0] not in predicted  # an outlier belongs to an empty class
    update(dp, latent_vectors(X, mask=np.ones(N, dtype=bool)), answer="recognize")


def test_an_update_without_sweeps_keeps_the_labels():
    X, _ = clusters(spread=6.0)
    dp = make_dp()
    update(dp, latent_vectors(X))
    labels = dp.state()["labels"]
    for setting in ({"overrides": {"iterations": 0}}, {"learn": False}):
        update(dp, latent_vectors(X), some_prior("mm", 2), round=1, **setting)
        assert np.array_equal(dp.state()["labels"], labels)


@pytest.mark.parametrize("given", [{}, {"learn_alpha": True, "calibrate": True, "start": "sequence"}])
def test_a_loaded_state_continues_bit_for_bit(given):
    X, _ = clusters(spread=3.0)
    prior, given = some_prior("mm", 1), {"itr": 5, **given}
    one, other = make_dp(**given), make_dp(**given)
    check_state_transfer(update, one, other, latent_vectors(X), prior)


def test_the_same_seed_gives_the_same_bits():
    X, _ = clusters(spread=3.0)
    one, other, third = make_dp(), make_dp(), make_dp()
    outputs = [update(dp, latent_vectors(X), seed=seed).outputs for dp, seed in ((one, 1), (other, 1), (third, 2))]
    assert same_arrays(outputs[0], outputs[1])
    assert not same_arrays(outputs[0], outputs[2])
    other.load_state({})
    assert other.state() == {}


@pytest.mark.parametrize("start", ["one", "random", "kmeans", "sequence"])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_learns_from_one_to_three_rows(rows, start):
    X, _ = clusters(rows=rows)
    dp = make_dp(start=start, prior_scale=0.1, learn_alpha=True, calibrate=True)
    outbox = update(dp, latent_vectors(X), receivers=("mm",))
    assert 1 <= outbox.metrics["occupied"] <= rows
    assert np.isfinite(upward(outbox)["log_prob"]).all()
    update(dp, latent_vectors(X), some_prior("mm", 0, rows=rows), round=1)


def test_refuses_input_that_it_cannot_classify():
    X, _ = clusters()
    dp = make_dp()
    with pytest.raises(ModuleError, match="learnt nothing"):
        update(dp, latent_vectors(X), answer="recognize")
    with pytest.raises(ModuleError, match="every row"):
        update(dp, latent_vectors(X, mask=np.ones(N, dtype=bool)))
    update(dp, latent_vectors(X))
    with pytest.raises(ModuleError, match="labels of 150 rows, 60 rows came"):
        update(dp, latent_vectors(X[:60]))
    with pytest.raises(ModuleError, match=r"mm -> gmm.*\(150, 3\) came, expected \(150, 12\)"):
        update(dp, latent_vectors(X), some_prior("mm", 0, classes=3))
    with pytest.raises(ModuleError, match="the maximum number of classes cannot be set for a step"):
        update(dp, latent_vectors(X), overrides={"most": 4})
    with pytest.raises(ModuleError, match="the state has 12 classes, this DP-GMM has 4"):
        make_dp(most=4).load_state(dp.state())


@pytest.mark.parametrize(
    "given", [{"most": 0}, {"itr": -1}, {"alpha": 0}, {"split_merge": -1}, {"start": "many"}, {"classes": 3}]
)
def test_refuses_invalid_parameters(given):
    with pytest.raises(ModuleError):
        make_dp(**given)


# --- below a Markov model: a hidden Markov model with an inferred number of states ---------------------------------


def learn_cycle(X, seed, **parameters):
    graph = Graph(
        [
            ModuleSpec("data", "observation"),
            ModuleSpec("gmm", "dp_gmm", {"most": 20, "iterations": 2, "prior_scale": "data", **parameters}),
            ModuleSpec("mm", "markov", {"estimate": "variational"}),
        ],
        [Connection("data", "gmm"), Connection("gmm", "mm")],
        Schedule(1, (Block((Step("gmm"), Step("mm")), repeat=12), Step("gmm", {"iterations": 0}))),
    )
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start({"data": {"values": X}})
    coordinator.run_rounds()
    return coordinator


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("classes", [4, 7])
def test_infers_the_number_of_classes_and_the_cycle_of_overlapping_clusters(classes, seed):
    X, truth = clusters(classes, seed, rows=420, spread=2.8)
    coordinator = learn_cycle(X, seed, start="sequence", calibrate=True)
    predicted = coordinator.outputs("gmm")["class"]
    assert len(set(predicted.tolist())) == classes
    assert adjusted_rand_score(truth, predicted) > 0.97
    alone = update(make_dp(start="sequence", most=20), latent_vectors(X), seed=seed).outputs["class"]
    assert adjusted_rand_score(truth, alone) < 0.9  # without the order the clusters overlap too much
    transitions = coordinator.outputs("mm")["trans_prob"]
    assert transitions.shape == (20, 20)
    successors, k = transitions.argmax(axis=1), int(predicted[0])
    for t in range(classes):
        assert k == np.bincount(predicted[truth == t]).argmax()
        k = int(successors[k])
    assert k == predicted[0]


def test_a_learnt_model_generates_and_recognizes_rows():
    X, truth = clusters(4, rows=400)
    coordinator = learn_cycle(X, 0, start="sequence", calibrate=True)
    states = {name: coordinator.state(name) for name in ("gmm", "mm")}
    generated = Coordinator(coordinator.graph, InProcessBackend(), seed=1).generate_rows(states, 200)
    successors = states["mm"]["trans_prob"].argmax(axis=1)
    classes = generated["mm"]["class"]
    assert (successors[classes[:-1]] == classes[1:]).mean() > 0.9
    np.testing.assert_array_equal(classes, generated["gmm"]["class"])
    outputs = Coordinator(coordinator.graph, InProcessBackend()).recognize(
        states, {"data": {"values": clusters(4, seed=5, rows=40)[0]}}, ordered=True
    )
    assert adjusted_rand_score(truth[:40], outputs["gmm"]["class"]) > 0.97
