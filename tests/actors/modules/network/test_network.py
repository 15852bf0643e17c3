"""Learning, messages, missing rows and state of the network module."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from actors.modules.network.network import FLOOR
from tests.support.network_modules import (
    RECEIVERS,
    USER_NETWORKS,
    D,
    K,
    N,
    all_messages,
    call,
    latents,
    make_network,
    noisy_posteriors,
    posteriors,
    sent,
    targets,
    truth,
)
from tests.support.toy_modules import same_arrays

pytestmark = pytest.mark.usefixtures("one_thread")

# --- learning -----------------------------------------------------------------------------------------------------


def test_learns_a_linear_map_from_latent_vectors():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, D))
    Y = (X @ rng.normal(size=(D, 6)) + 2.0).reshape(300, 2, 3) + 0.1 * rng.normal(size=(300, 2, 3))
    network = make_network(loss="mse", network="torch.nn:Linear", epochs=150, batch_size=300, learning_rate=5e-2)
    outbox = call(network, latents(X), targets(Y))
    with_ones = np.hstack([X, np.ones((300, 1))])
    solution = np.linalg.lstsq(with_ones, Y.reshape(300, 6), rcond=None)[0]
    assert outbox.outputs["y_hat"].shape == (300, 2, 3)
    np.testing.assert_allclose(outbox.outputs["y_hat"], (with_ones @ solution).reshape(300, 2, 3), atol=0.02)
    assert np.array_equal(sent(outbox, "reconstructions")["values"], outbox.outputs["y_hat"])
    residual = Y - outbox.outputs["y_hat"]
    assert outbox.metrics["log_likelihood"] == pytest.approx(-0.5 * (residual**2).sum(), rel=1e-3)


def test_learns_the_probabilities_of_a_logistic_regression():
    rng = np.random.default_rng(1)
    X, labels = rng.normal(size=(400, D)), rng.integers(K, size=400)
    X += np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])[labels]
    network = make_network(network="torch.nn:Linear", epochs=200, batch_size=400, learning_rate=5e-2)
    y_hat = call(network, latents(X), targets(np.eye(K)[labels])).outputs["y_hat"]
    expected = LogisticRegression(C=1e8).fit(X, labels).predict_proba(X)
    np.testing.assert_allclose(y_hat, expected, atol=0.01)
    np.testing.assert_allclose(y_hat.sum(axis=1), 1.0, atol=1e-5)


def test_learns_binary_columns_from_classes():
    codes = np.array([[0.0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    values = codes[truth()]
    outbox = call(make_network(loss="bce", epochs=100), posteriors(noisy_posteriors(truth())), targets(values))
    assert np.abs(outbox.outputs["y_hat"] - values).mean() < 0.1
    losses = outbox.outputs["loss"]
    assert losses.shape == (100,)
    assert losses[-1] == outbox.metrics["loss"] < 0.3 * losses[0]


def test_an_update_continues_training_or_restarts_on_request():
    network = make_network()
    first = call(network, *all_messages()).metrics["loss"]
    assert call(network, *all_messages(), round=1).metrics["loss"] < first
    assert len(network.state()["loss"]) == 40
    fresh = make_network()
    again = call(network, *all_messages(), round=2, overrides={"restart_weights": True})
    assert same_arrays(again.outputs, call(fresh, *all_messages(), round=2).outputs)


def test_calls_without_learning_do_not_change_the_state():
    network = make_network(restart_weights=True)
    call(network, *all_messages())
    before = network.state()
    outboxes = [
        call(network, *all_messages(), round=1, overrides={"epochs": 0}),
        call(network, *all_messages(), round=1, learn=False),
        call(network, *all_messages(), method="recognize", seed=9),
    ]
    assert same_arrays(network.state(), before)
    for outbox in outboxes:
        assert same_arrays(outbox.outputs, outboxes[0].outputs)
        for port in RECEIVERS:
            assert same_arrays(sent(outbox, port).arrays, sent(outboxes[0], port).arrays)


def test_reports_every_epoch():
    reports = []
    call(make_network(epochs=3), *all_messages(), reporter=lambda *report: reports.append(report))
    assert [(done, total) for done, total, _ in reports] == [(1, 3), (2, 3), (3, 3)]


def test_inputs_are_ordered_by_sender_names_not_by_arrival():
    one, two = (
        posteriors(noisy_posteriors(truth(), 1), "a"),
        posteriors(noisy_posteriors(truth(), 2), "b"),
    )
    rest = all_messages()[1:]
    outputs = [call(make_network(), *inputs, *rest).outputs for inputs in ((one, two), (two, one))]
    assert same_arrays(*outputs)
    assert make_network().state() == {}


# --- messages downwards -------------------------------------------------------------------------------------------


def test_the_class_prior_is_the_posterior_given_the_targets():
    # Each class has its own target in three of four rows, so the posterior follows from counts.
    labels = np.repeat(truth(), 4)
    shifted = np.where(np.arange(len(labels)) % 4 == 0, (labels + 1) % K, labels)
    certain = np.where(np.eye(K)[labels] > 0, 0.0, -np.inf)
    network = make_network(epochs=300, batch_size=500)
    log_prob = sent(call(network, posteriors(certain), targets(np.eye(K)[shifted])), "transition_prior")["log_prob"]
    counts = np.zeros((K, K))
    np.add.at(counts, (labels, shifted), 1.0)
    likelihood = counts / counts.sum(axis=1, keepdims=True)  # p(target | class)
    expected = likelihood[:, shifted].T / likelihood[:, shifted].sum(axis=0)[:, None]
    np.testing.assert_allclose(np.exp(log_prob), expected, atol=0.03)


def test_the_message_to_a_sender_depends_on_the_target_and_the_other_inputs_only():
    rng = np.random.default_rng(0)
    a, b = rng.integers(2, size=(2, N))  # the target is whether they are equal
    certain = [np.where(np.eye(2)[labels] > 0, 0.0, -np.inf) for labels in (a, b)]
    both = [posteriors(certain[0], "a"), posteriors(certain[1], "b"), targets(np.eye(2)[(a == b).astype(int)])]
    network = make_network(epochs=200)
    outbox = call(network, *both, receivers={"transition_prior": ("a", "b")})
    for sender, labels in (("a", a), ("b", b)):
        log_prob = sent(outbox, "transition_prior", sender)["log_prob"]
        assert (log_prob.argmax(axis=1) == labels).all()
        assert np.exp(log_prob.max(axis=1)).min() > 0.8
    # With the input of a flipped and the same weights, the message to a stays and the message to b is flipped.
    flipped = [posteriors(certain[0][:, ::-1], "a"), *both[1:]]
    again = call(network, *flipped, receivers={"transition_prior": ("a", "b")}, learn=False)
    before, after = (sent(each, "transition_prior", "a")["log_prob"] for each in (outbox, again))
    assert np.array_equal(before, after)
    assert (sent(again, "transition_prior", "b")["log_prob"].argmax(axis=1) == 1 - b).all()


def test_messages_go_to_receivers_only():
    outbox = call(make_network(), *all_messages(), receivers={})
    assert [out.port for out in outbox.messages] == ["reconstructions"]


@pytest.mark.parametrize("backward", ["expected", "relaxed"])
def test_no_class_gets_less_than_the_floor_probability(backward):
    certain = np.where(np.eye(K)[truth()] > 0, 0.0, -np.inf)
    network = make_network(epochs=100, learning_rate=0.3, backward=backward, input_rate=3.0)
    log_prob = sent(call(network, posteriors(certain), targets(np.eye(K)[truth()])), "transition_prior")["log_prob"]
    assert (log_prob.argmax(axis=1) == truth()).all()
    np.testing.assert_allclose(np.logaddexp.reduce(log_prob, axis=1), 0.0, atol=1e-9)
    assert log_prob.min() >= np.log(FLOOR) - 1e-6
    if backward == "expected":
        assert log_prob.min() < np.log(1e-4)


def test_trust_scales_the_log_probabilities():
    network = make_network()
    call(network, *all_messages())
    whole, half = (
        sent(call(network, *all_messages(), method="recognize", overrides={"trust": trust}), "transition_prior")[
            "log_prob"
        ]
        for trust in (1.0, 0.5)
    )
    np.testing.assert_allclose(whole[:, 0] - whole[:, 1], 2 * (half[:, 0] - half[:, 1]), atol=1e-4)


def test_the_latent_means_are_posterior_modes_given_the_targets():
    rng = np.random.default_rng(0)
    X, A = rng.normal(size=(N, D)), np.array([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0]])
    network = make_network(
        loss="mse", network="torch.nn:Linear", epochs=300, learning_rate=3e-2, input_steps=200, batch_size=N
    )
    message = sent(call(network, latents(X), targets(X @ A)), "latent_means")
    expected = np.linalg.solve(A @ A.T + np.eye(D), A @ (X @ A).T).T  # the mode under N(0, I)
    np.testing.assert_allclose(message["mean"], expected, atol=0.03)


def test_an_untrained_network_sends_uninformative_messages():
    outbox = call(make_network(epochs=0), *all_messages())
    np.testing.assert_allclose(sent(outbox, "transition_prior")["log_prob"], -np.log(K))
    assert not sent(outbox, "latent_means")["mean"].any()
    assert "loss" not in outbox.metrics


# --- missing rows -------------------------------------------------------------------------------------------------


def test_values_of_missing_rows_have_no_influence():
    no_class, no_latent, no_target = (np.arange(N) % 5 == k for k in range(3))
    results = []
    for filler in (0.0, 1e9):
        log_prob, mean, values = (
            noisy_posteriors(truth()),
            np.random.default_rng(0).normal(size=(N, D)),
            np.eye(K)[truth()],
        )
        mean[no_latent], values[no_target] = filler, filler
        if filler:
            log_prob[no_class] = np.roll(log_prob[no_class], 1, axis=1)
        messages = [
            posteriors(log_prob, mask=no_class),
            latents(mean, mask=no_latent),
            targets(values, mask=no_target, lengths=np.array([100, 20])),
        ]
        network = make_network()
        results.append((call(network, *messages), network.state()))
    (one, state), (other, state_of_other) = results
    assert same_arrays(state, state_of_other)
    assert same_arrays(one.outputs, other.outputs)
    for port in RECEIVERS:
        assert same_arrays(sent(one, port).arrays, sent(other, port).arrays)
        assert sent(one, port).lengths.tolist() == [100, 20]
    # Messages are uninformative without a target; with one, they also inform about missing inputs.
    prior, means = sent(one, "transition_prior"), sent(one, "latent_means")
    np.testing.assert_allclose(prior["log_prob"][no_target], -np.log(K))
    assert (prior["log_prob"][no_class].argmax(axis=1) == truth()[no_class]).all()
    assert not means["mean"][no_target].any()
    assert np.array_equal(prior.mask, no_target)
    assert np.array_equal(means.mask, no_target)
    assert sent(one, "reconstructions").mask is None  # each row has one of its inputs


def test_rows_without_any_input_are_not_used_for_learning():
    missing = np.arange(N) % 4 == 0
    messages = [posteriors(noisy_posteriors(truth()), mask=missing), targets(np.eye(K)[truth()])]
    other = [messages[0], targets(np.where(missing[:, None], np.eye(K)[0], np.eye(K)[truth()]))]
    states = []
    for inbox in (messages, other):
        network = make_network()
        outbox = call(network, *inbox)
        states.append(network.state())
        assert np.array_equal(sent(outbox, "reconstructions").mask, missing)
    assert same_arrays(*states)


def test_predicts_without_any_target():
    network = make_network(epochs=60)
    call(network, *all_messages())
    inputs = all_messages(seed=5, rows=40)[:2]
    outbox = call(network, *inputs, targets(np.full((40, K), 7.0), mask=np.ones(40, bool)), method="recognize")
    assert (outbox.outputs["y_hat"].argmax(axis=1) == truth(40)).mean() > 0.9
    np.testing.assert_allclose(sent(outbox, "transition_prior")["log_prob"], -np.log(K))
    assert not sent(outbox, "latent_means")["mean"].any()
    informed = call(network, *inputs, targets(np.eye(K)[truth(40)]), method="recognize")
    assert same_arrays(informed.outputs, outbox.outputs)
    assert (sent(informed, "transition_prior")["log_prob"].argmax(axis=1) == truth(40)).all()


def test_predicts_without_any_input():
    network = make_network()
    call(network, *all_messages())
    mask = np.ones(N, bool)
    inputs = [
        posteriors(noisy_posteriors(truth()), mask=mask),
        latents(np.zeros((N, D)), mask=mask),
        all_messages()[2],
    ]
    outbox = call(network, *inputs, method="recognize")
    assert np.isfinite(outbox.outputs["y_hat"]).all()
    assert sent(outbox, "reconstructions").mask.all()


@pytest.mark.parametrize("method", ["update", "recognize"])
def test_a_single_row_is_sufficient(method):
    network = make_network()
    call(network, *all_messages(rows=1))
    outbox = call(network, *all_messages(rows=1), method=method, round=1)
    assert outbox.outputs["y_hat"].shape == (1, K)
    assert sent(outbox, "transition_prior")["log_prob"].shape == (1, K)


# --- state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters", [{}, {"network": f"{USER_NETWORKS}:Noisy"}, {"backward": "relaxed", "weight_decay": 0.1}]
)
def test_continues_bit_for_bit_after_a_load(parameters):
    one, other = make_network(**parameters), make_network(**parameters)
    call(one, *all_messages())
    state = {name: np.array(value) if isinstance(value, np.ndarray) else value for name, value in one.state().items()}
    for value in state.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    continued = call(one, *all_messages(), round=1)
    torch.manual_seed(123)  # the global generator must have no influence
    other.load_state(state)
    assert same_arrays(other.state(), state)
    again = call(other, *all_messages(), round=1)
    assert same_arrays(again.outputs, continued.outputs)
    for port in RECEIVERS:
        assert same_arrays(sent(again, port).arrays, sent(continued, port).arrays)
    assert same_arrays(other.state(), one.state())
    other.load_state({})
    assert other.state() == {}


def test_different_seeds_give_different_weights_and_leave_the_global_generator_unchanged():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    outputs = [
        call(make_network(network=f"{USER_NETWORKS}:Noisy"), *all_messages(), seed=seed).outputs for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.rand(3), expected)
    assert same_arrays(outputs[0], outputs[1])
    assert not same_arrays(outputs[0], outputs[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_learns_on_a_gpu_and_continues_after_a_load():
    one, other = make_network(), make_network()
    for network in (one, other):
        network.prepare("cuda", 1)
    call(one, *all_messages())
    other.load_state(one.state())
    assert one.device == "cuda"
    continued = call(one, *all_messages(), round=1)
    assert same_arrays(call(other, *all_messages(), round=1).outputs, continued.outputs)
