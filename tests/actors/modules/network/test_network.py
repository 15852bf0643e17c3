"""The network predicts observations from messages, and says downwards what they say of its inputs."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from actors.modules.network.network import FLOOR
from tests.support.network_modules import (
    RECEIVERS,
    TOYS,
    D,
    K,
    N,
    latents,
    make_network,
    posteriors,
    scene,
    sent,
    soft,
    targets,
    truth,
    update,
)
from tests.support.toy_modules import same

pytestmark = pytest.mark.usefixtures("one_thread")

# --- learning -----------------------------------------------------------------------------------------------------


def test_learns_a_linear_map_from_latent_vectors():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, D))
    Y = (X @ rng.normal(size=(D, 6)) + 2.0).reshape(300, 2, 3) + 0.1 * rng.normal(size=(300, 2, 3))
    network = make_network(loss="mse", network="torch.nn:Linear", epochs=150, batch_size=300, learning_rate=5e-2)
    outbox = update(network, latents(X), targets(Y))
    with_ones = np.hstack([X, np.ones((300, 1))])
    solution = np.linalg.lstsq(with_ones, Y.reshape(300, 6), rcond=None)[0]
    assert outbox.outputs["y_hat"].shape == (300, 2, 3)
    np.testing.assert_allclose(outbox.outputs["y_hat"], (with_ones @ solution).reshape(300, 2, 3), atol=0.02)
    assert np.array_equal(sent(outbox, "reconstructions")["values"], outbox.outputs["y_hat"])
    residual = Y - outbox.outputs["y_hat"]
    assert outbox.metrics["log_likelihood"] == pytest.approx(-0.5 * (residual**2).sum(), rel=1e-3)


def test_learns_the_probabilities_that_a_logistic_regression_learns():
    rng = np.random.default_rng(1)
    X, labels = rng.normal(size=(400, D)), rng.integers(K, size=400)
    X += np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])[labels]
    network = make_network(network="torch.nn:Linear", epochs=200, batch_size=400, learning_rate=5e-2)
    found = update(network, latents(X), targets(np.eye(K)[labels])).outputs["y_hat"]
    expected = LogisticRegression(C=1e8).fit(X, labels).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=0.01)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)


def test_learns_columns_of_zeros_and_ones_from_classes():
    codes = np.array([[0.0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    values = codes[truth()]
    outbox = update(make_network(loss="bce", epochs=100), posteriors(soft(truth())), targets(values))
    assert np.abs(outbox.outputs["y_hat"] - values).mean() < 0.1
    losses = outbox.outputs["loss"]
    assert losses.shape == (100,)
    assert losses[-1] == outbox.metrics["loss"] < 0.3 * losses[0]


def test_goes_on_from_update_to_update_and_forgets_when_told():
    network = make_network()
    first = update(network, *scene()).metrics["loss"]
    assert update(network, *scene(), round=1).metrics["loss"] < first
    assert len(network.state()["loss"]) == 40
    fresh = make_network()
    again = update(network, *scene(), round=2, overrides={"restart_weights": True})
    assert same(again.outputs, update(fresh, *scene(), round=2).outputs)


def test_neither_no_epochs_nor_a_glance_changes_what_was_learnt():
    network = make_network(restart_weights=True)
    update(network, *scene())
    before = network.state()
    answers = [
        update(network, *scene(), round=1, overrides={"epochs": 0}),
        update(network, *scene(), round=1, learn=False),
        update(network, *scene(), answer="recognize", seed=9),
    ]
    assert same(network.state(), before)
    for answer in answers:
        assert same(answer.outputs, answers[0].outputs)
        for port in RECEIVERS:
            assert same(sent(answer, port).arrays, sent(answers[0], port).arrays)


def test_reports_every_epoch():
    said = []
    update(make_network(epochs=3), *scene(), reporter=lambda *report: said.append(report))
    assert [(done, total) for done, total, _ in said] == [(1, 3), (2, 3), (3, 3)]


def test_the_order_of_the_inbox_does_not_matter_but_that_of_names_does():
    one, two = posteriors(soft(truth(), 1), "a"), posteriors(soft(truth(), 2), "b")
    rest = scene()[1:]
    found = [update(make_network(), *inputs, *rest).outputs for inputs in ((one, two), (two, one))]
    assert same(*found)
    assert make_network().state() == {}


# --- messages downwards -------------------------------------------------------------------------------------------


def test_a_target_says_what_the_class_is_by_how_often_they_go_together():
    # Classes are seen as they are, each with its target three times of four: the posterior is by counting.
    labels = np.repeat(truth(), 4)
    shifted = np.where(np.arange(len(labels)) % 4 == 0, (labels + 1) % K, labels)
    certain = np.where(np.eye(K)[labels] > 0, 0.0, -np.inf)
    network = make_network(epochs=300, batch_size=500)
    log_prob = sent(update(network, posteriors(certain), targets(np.eye(K)[shifted])), "transition_prior")["log_prob"]
    counts = np.zeros((K, K))
    np.add.at(counts, (labels, shifted), 1.0)
    likelihood = counts / counts.sum(axis=1, keepdims=True)  # p(target | class)
    expected = likelihood[:, shifted].T / likelihood[:, shifted].sum(axis=0)[:, None]
    np.testing.assert_allclose(np.exp(log_prob), expected, atol=0.03)


def test_each_sender_hears_what_the_target_and_the_others_say_and_never_itself():
    rng = np.random.default_rng(0)
    a, b = rng.integers(2, size=(2, N))  # the target is whether they are equal
    certain = [np.where(np.eye(2)[labels] > 0, 0.0, -np.inf) for labels in (a, b)]
    both = [posteriors(certain[0], "a"), posteriors(certain[1], "b"), targets(np.eye(2)[(a == b).astype(int)])]
    network = make_network(epochs=200)
    outbox = update(network, *both, receivers={"transition_prior": ("a", "b")})
    for sender, labels in (("a", a), ("b", b)):
        log_prob = sent(outbox, "transition_prior", sender)["log_prob"]
        assert (log_prob.argmax(axis=1) == labels).all()
        assert np.exp(log_prob.max(axis=1)).min() > 0.8
    # What a says of itself is turned round, the weights stay: what a hears stays, what b hears is turned round.
    turned = [posteriors(certain[0][:, ::-1], "a"), *both[1:]]
    again = update(network, *turned, receivers={"transition_prior": ("a", "b")}, learn=False)
    before, after = (sent(answer, "transition_prior", "a")["log_prob"] for answer in (outbox, again))
    assert np.array_equal(before, after)
    assert (sent(again, "transition_prior", "b")["log_prob"].argmax(axis=1) == 1 - b).all()


def test_only_receivers_are_written_to():
    outbox = update(make_network(), *scene(), receivers={})
    assert [out.port for out in outbox.messages] == ["reconstructions"]


@pytest.mark.parametrize("backward", ["expected", "relaxed"])
def test_a_message_excludes_no_class_however_sure_the_network_is(backward):
    certain = np.where(np.eye(K)[truth()] > 0, 0.0, -np.inf)
    network = make_network(epochs=100, learning_rate=0.3, backward=backward, input_rate=3.0)
    log_prob = sent(update(network, posteriors(certain), targets(np.eye(K)[truth()])), "transition_prior")["log_prob"]
    assert (log_prob.argmax(axis=1) == truth()).all()
    np.testing.assert_allclose(np.logaddexp.reduce(log_prob, axis=1), 0.0, atol=1e-9)
    assert log_prob.min() >= np.log(FLOOR) - 1e-6
    if backward == "expected":
        assert log_prob.min() < np.log(1e-4)


def test_less_trust_is_a_softer_message():
    network = make_network()
    update(network, *scene())
    whole, half = (
        sent(update(network, *scene(), answer="recognize", overrides={"trust": trust}), "transition_prior")["log_prob"]
        for trust in (1.0, 0.5)
    )
    np.testing.assert_allclose(whole[:, 0] - whole[:, 1], 2 * (half[:, 0] - half[:, 1]), atol=1e-4)


def test_latent_vectors_are_drawn_to_where_their_targets_are_explained():
    rng = np.random.default_rng(0)
    X, A = rng.normal(size=(N, D)), np.array([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0]])
    network = make_network(
        loss="mse", network="torch.nn:Linear", epochs=300, learning_rate=3e-2, input_steps=200, batch_size=N
    )
    message = sent(update(network, latents(X), targets(X @ A)), "latent_means")
    expected = np.linalg.solve(A @ A.T + np.eye(D), A @ (X @ A).T).T  # the mode under N(0, I)
    np.testing.assert_allclose(message["mean"], expected, atol=0.03)


def test_a_network_that_was_never_trained_says_nothing():
    outbox = update(make_network(epochs=0), *scene())
    np.testing.assert_allclose(sent(outbox, "transition_prior")["log_prob"], -np.log(K))
    assert not sent(outbox, "latent_means")["mean"].any()
    assert "loss" not in outbox.metrics


# --- rows that are missing ----------------------------------------------------------------------------------------


def test_what_stands_in_missing_rows_is_never_looked_at():
    no_class, no_latent, no_target = (np.arange(N) % 5 == k for k in range(3))
    answers = []
    for filler in (0.0, 1e9):
        log_prob, mean, values = soft(truth()), np.random.default_rng(0).normal(size=(N, D)), np.eye(K)[truth()]
        mean[no_latent], values[no_target] = filler, filler
        if filler:
            log_prob[no_class] = np.roll(log_prob[no_class], 1, axis=1)
        messages = [
            posteriors(log_prob, mask=no_class),
            latents(mean, mask=no_latent),
            targets(values, mask=no_target, lengths=np.array([100, 20])),
        ]
        network = make_network()
        answers.append((update(network, *messages), network.state()))
    (one, state), (other, state_of_other) = answers
    assert same(state, state_of_other)
    assert same(one.outputs, other.outputs)
    for port in RECEIVERS:
        assert same(sent(one, port).arrays, sent(other, port).arrays)
        assert sent(one, port).lengths.tolist() == [100, 20]
    # Without a target nothing is said of the inputs; with one, also of those that are missing.
    prior, means = sent(one, "transition_prior"), sent(one, "latent_means")
    np.testing.assert_allclose(prior["log_prob"][no_target], -np.log(K))
    assert (prior["log_prob"][no_class].argmax(axis=1) == truth()[no_class]).all()
    assert not means["mean"][no_target].any()
    assert np.array_equal(prior.mask, no_target)
    assert np.array_equal(means.mask, no_target)
    assert sent(one, "reconstructions").mask is None  # each row has one of its inputs


def test_a_row_without_any_input_has_no_part_in_the_learning():
    missing = np.arange(N) % 4 == 0
    messages = [posteriors(soft(truth()), mask=missing), targets(np.eye(K)[truth()])]
    other = [messages[0], targets(np.where(missing[:, None], np.eye(K)[0], np.eye(K)[truth()]))]
    states = []
    for inbox in (messages, other):
        network = make_network()
        outbox = update(network, *inbox)
        states.append(network.state())
        assert np.array_equal(sent(outbox, "reconstructions").mask, missing)
    assert same(*states)


def test_predicts_targets_of_which_none_is_there():
    network = make_network(epochs=60)
    update(network, *scene())
    inputs = scene(seed=5, rows=40)[:2]
    outbox = update(network, *inputs, targets(np.full((40, K), 7.0), mask=np.ones(40, bool)), answer="recognize")
    assert (outbox.outputs["y_hat"].argmax(axis=1) == truth(40)).mean() > 0.9
    np.testing.assert_allclose(sent(outbox, "transition_prior")["log_prob"], -np.log(K))
    assert not sent(outbox, "latent_means")["mean"].any()
    told = update(network, *inputs, targets(np.eye(K)[truth(40)]), answer="recognize")
    assert same(told.outputs, outbox.outputs)
    assert (sent(told, "transition_prior")["log_prob"].argmax(axis=1) == truth(40)).all()


def test_predicts_from_inputs_of_which_none_is_there():
    network = make_network()
    update(network, *scene())
    gone = np.ones(N, bool)
    inputs = [posteriors(soft(truth()), mask=gone), latents(np.zeros((N, D)), mask=gone), scene()[2]]
    outbox = update(network, *inputs, answer="recognize")
    assert np.isfinite(outbox.outputs["y_hat"]).all()
    assert sent(outbox, "reconstructions").mask.all()


@pytest.mark.parametrize("answer", ["update", "recognize"])
def test_one_row_is_enough(answer):
    network = make_network()
    update(network, *scene(rows=1))
    outbox = update(network, *scene(rows=1), answer=answer, round=1)
    assert outbox.outputs["y_hat"].shape == (1, K)
    assert sent(outbox, "transition_prior")["log_prob"].shape == (1, K)


# --- state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"network": f"{TOYS}:Noisy"}, {"backward": "relaxed", "weight_decay": 0.1}])
def test_continues_bit_for_bit_after_a_load(given):
    one, other = make_network(**given), make_network(**given)
    update(one, *scene())
    state = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in one.state().items()}
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    continued = update(one, *scene(), round=1)
    torch.manual_seed(123)  # the process's generator has no say
    other.load_state(state)
    assert same(other.state(), state)
    again = update(other, *scene(), round=1)
    assert same(again.outputs, continued.outputs)
    for port in RECEIVERS:
        assert same(sent(again, port).arrays, sent(continued, port).arrays)
    assert same(other.state(), one.state())
    other.load_state({})
    assert other.state() == {}


def test_other_seeds_give_other_weights_and_the_processs_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = [update(make_network(network=f"{TOYS}:Noisy"), *scene(), seed=seed).outputs for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_learns_on_a_gpu_and_goes_on_after_a_load():
    one, other = make_network(), make_network()
    for network in (one, other):
        network.prepare("cuda", 1)
    update(one, *scene())
    other.load_state(one.state())
    assert one.device == "cuda"
    continued = update(one, *scene(), round=1)
    assert same(update(other, *scene(), round=1).outputs, continued.outputs)
