"""Tests of the supervised mapping: densities, training and backward messages, against independent implementations."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from actors.kernels.neural import supervised
from actors.kernels.neural.vae_training import make_optimiser

pytestmark = pytest.mark.usefixtures("one_thread")

K, D, P = 3, 2, 4
LOSSES = ("mse", "bce", "cross_entropy")
BLOCK = slice(1, 1 + K)


def random_targets(loss, rows, seed=0):
    rng = np.random.default_rng(seed)
    drawn = {
        "mse": lambda: rng.normal(size=(rows, P)),
        "bce": lambda: (rng.random((rows, P)) > 0.5).astype(float),
        "cross_entropy": lambda: np.eye(P)[rng.integers(P, size=rows)],
    }
    return drawn[loss]()


def example(loss, rows=6, seed=0):
    """Return a network, inputs of 1 + K + D columns, and targets."""
    network = supervised.build(1 + K + D, 7, P, seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(4.0)  # strong enough for informative targets
    inputs = np.random.default_rng(seed).random((rows, 1 + K + D))
    return network, tensor(inputs), tensor(random_targets(loss, rows, seed))


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=torch.float32)


def by_hand(network, loss):
    """Return the function log p(y | x) of one row, in float64 and without torch."""
    A, a, B, b = (weight.detach().numpy().astype(np.float64) for weight in network.parameters())

    def log_p(x, y):
        output = B @ np.maximum(A @ x + a, 0.0) + b
        if loss == "mse":
            return stats.norm.logpdf(y, output).sum() + P / 2 * np.log(2 * np.pi)
        if loss == "bce":
            return stats.bernoulli.logpmf(y.astype(int), 1 / (1 + np.exp(-output))).sum()
        return stats.multinomial.logpmf(y.astype(int), 1, softmax(output))

    return log_p


def options(loss, **overrides):
    return supervised.AscentOptions(**{"steps": 400, "rate": 0.2, "loss": loss, **overrides})


@pytest.mark.parametrize("loss", LOSSES)
def test_the_likelihood_agrees_with_scipy(loss):
    network, inputs, targets = example(loss)
    result = supervised.log_likelihood(supervised.predict(network, inputs), targets, loss)
    log_p = by_hand(network, loss)
    expected = [log_p(x, y) for x, y in zip(inputs.double().numpy(), targets.double().numpy(), strict=True)]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_the_likelihood_of_a_distribution_is_the_mean_over_its_categories():
    output, target = tensor([[0.3, -1.0, 2.0, 0.5]]), np.array([0.1, 0.2, 0.3, 0.4])
    single = [float(supervised.log_likelihood(output, tensor(row)[None], "cross_entropy")) for row in np.eye(P)]
    mixed = float(supervised.log_likelihood(output, tensor(target)[None], "cross_entropy"))
    assert mixed == pytest.approx(target @ single, rel=1e-5)


# --- training -----------------------------------------------------------------------------------------------------


def test_training_converges_to_the_least_squares_solution():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    Y = X @ rng.normal(size=(3, P)) + 1.0 + 0.3 * rng.normal(size=(200, P))
    network = torch.nn.Linear(3, P)
    fit_options = supervised.FitOptions(epochs=300, batch_size=200, learning_rate=3e-2, weight_decay=0.0, loss="mse")
    losses = supervised.fit(
        network,
        make_optimiser(network),
        tensor(X),
        tensor(Y),
        fit_options,
        torch.Generator().manual_seed(0),
        lambda *_: None,
    )
    with_ones = np.hstack([X, np.ones((200, 1))])
    solution, residuals, *_ = np.linalg.lstsq(with_ones, Y, rcond=None)
    np.testing.assert_allclose(network.weight.detach().numpy(), solution[:3].T, atol=5e-3)
    np.testing.assert_allclose(network.bias.detach().numpy(), solution[3], atol=5e-3)
    assert losses[-1] == pytest.approx(0.5 * residuals.sum() / 200, rel=1e-3)


def test_weight_decay_reduces_the_weights():
    norms = []
    for decay in (0.0, 1.0):
        network, inputs, targets = example("mse")
        fit_options = supervised.FitOptions(50, 6, 1e-2, decay, "mse")
        generator = torch.Generator().manual_seed(0)
        supervised.fit(network, make_optimiser(network), inputs, targets, fit_options, generator, lambda *_: None)
        norms.append(sum(float(weight.square().sum().detach()) for weight in network.parameters()))
    assert norms[1] < 0.8 * norms[0]


# --- messages to classes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [1.0, 0.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_message_to_a_class_is_the_enumerated_posterior(loss, trust):
    network, inputs, targets = example(loss)
    result = supervised.expected_classes(network, inputs, targets, BLOCK, options(loss, trust=trust))
    log_p = by_hand(network, loss)
    for n, (x, y) in enumerate(zip(inputs.double().numpy(), targets.double().numpy(), strict=True)):
        scores = [trust * log_p(np.concatenate([x[:1], one, x[4:]]), y) for one in np.eye(K)]
        np.testing.assert_allclose(result[n], log_softmax(scores), atol=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_message_to_a_class_maximises_the_variational_bound(loss):
    network, inputs, targets = example(loss, rows=2)
    result = supervised.expected_classes(network, inputs, targets, BLOCK, options(loss)).exp()
    log_p = by_hand(network, loss)
    for n, (x, y) in enumerate(zip(inputs.double().numpy(), targets.double().numpy(), strict=True)):
        scores = np.array([log_p(np.concatenate([x[:1], one, x[4:]]), y) for one in np.eye(K)])

        def negative(logits, scores=scores):
            q = softmax(logits)
            return -(q @ (scores - np.log(q + 1e-300)))

        optimum = minimize(negative, np.zeros(K), method="BFGS")
        np.testing.assert_allclose(result[n], softmax(optimum.x), atol=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_relaxed_message_agrees_with_an_independent_optimiser(loss):
    _, inputs, targets = example(loss, seed=1)
    torch.manual_seed(1)
    network = torch.nn.Linear(1 + K + D, P)  # the objective is concave, so the maximum is unique
    with torch.no_grad():
        network.weight.mul_(5.0)
    result = supervised.relaxed_classes(network, inputs, targets, BLOCK, options(loss)).exp().double().numpy()
    weight, bias = network.weight.detach().double().numpy(), network.bias.detach().double().numpy()
    losses = {
        "mse": lambda output, y: 0.5 * ((y - output) ** 2).sum(),
        "bce": lambda output, y: (np.logaddexp(0, output) - y * output).sum(),
        "cross_entropy": lambda output, y: -y @ log_softmax(output),
    }
    for q, x, y in zip(result, inputs.double().numpy(), targets.double().numpy(), strict=True):

        def negative(logits, x=x, y=y):
            q = softmax(logits)
            return losses[loss](weight @ np.concatenate([x[:1], q, x[4:]]) + bias, y) + q @ np.log(q)

        np.testing.assert_allclose(q, softmax(minimize(negative, np.zeros(K), method="BFGS").x), atol=2e-3)


def test_the_relaxed_message_is_softer_where_a_mixture_is_more_likely():
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.copy_(tensor([[5.0, 0.0], [0.0, 5.0]]))
        network.bias.zero_()
    inputs, targets = tensor([[0.5, 0.5]]), tensor([[1.0, 0.0]])
    exact, relaxed = (
        find(network, inputs, targets, slice(0, 2), options("cross_entropy")).exp()[0, 0]
        for find in (supervised.expected_classes, supervised.relaxed_classes)
    )
    assert float(exact) == pytest.approx(1 / (1 + np.exp(-5.0)), abs=1e-4)  # σ(5): p(y | 1) is σ(5), p(y | 2) is σ(-5)
    assert 0.5 < float(relaxed) < 0.8


@pytest.mark.parametrize("find", [supervised.expected_classes, supervised.relaxed_classes, supervised.latent_modes])
def test_a_message_does_not_depend_on_the_receivers_input_or_on_other_rows(find):
    network, inputs, targets = example("bce")
    result = find(network, inputs, targets, BLOCK, options("bce", steps=20))
    changed = inputs.clone()
    changed[:, BLOCK] = tensor(np.random.default_rng(5).dirichlet(np.ones(K), size=6))
    assert torch.equal(find(network, changed, targets, BLOCK, options("bce", steps=20)), result)
    alone = find(network, inputs[2:3], targets[2:3], BLOCK, options("bce", steps=20))
    np.testing.assert_allclose(alone[0], result[2], atol=1e-4)
    changed[:, 0] += 2.0  # it does depend on the other inputs
    assert not torch.allclose(find(network, changed, targets, BLOCK, options("bce", steps=20)), result, atol=1e-2)


# --- messages to latent vectors -----------------------------------------------------------------------------------


def test_the_message_to_latent_vectors_is_the_ridge_solution_of_a_linear_network():
    torch.manual_seed(0)
    network = torch.nn.Linear(1 + D, P)
    inputs, targets = torch.randn(20, 1 + D), 2.0 * torch.randn(20, P)
    result = supervised.latent_modes(network, inputs, targets, slice(1, 1 + D), options("mse", trust=0.7))
    weight, bias = network.weight.detach().double().numpy(), network.bias.detach().double().numpy()
    rest = targets.numpy() - bias - inputs[:, :1].numpy() @ weight[:, :1].T
    A = weight[:, 1:]
    expected = np.linalg.solve(0.7 * A.T @ A + np.eye(D), 0.7 * A.T @ rest.T).T
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_the_message_to_latent_vectors_is_the_mode_of_a_logistic_posterior():
    torch.manual_seed(0)
    network = torch.nn.Linear(D, P)
    with torch.no_grad():
        network.weight.mul_(5.0)
    targets = random_targets("bce", 8)
    result = supervised.latent_modes(network, torch.zeros(8, D), tensor(targets), slice(0, D), options("bce"))
    weight, bias = network.weight.detach().double().numpy(), network.bias.detach().double().numpy()
    for z, y in zip(result.double().numpy(), targets, strict=True):

        def negative(z, y=y):
            logits = weight @ z + bias
            return (np.logaddexp(0, logits) - y * logits).sum() + 0.5 * z @ z

        np.testing.assert_allclose(z, minimize(negative, np.zeros(D)).x, atol=2e-3)


def test_messages_do_not_depend_on_the_chunk_size(monkeypatch):
    network, inputs, targets = example("mse", rows=10)
    whole = supervised.latent_modes(network, inputs, targets, BLOCK, options("mse", steps=30))
    monkeypatch.setattr(supervised, "CHUNK", 3)
    np.testing.assert_allclose(
        supervised.latent_modes(network, inputs, targets, BLOCK, options("mse", steps=30)), whole, atol=1e-4
    )
