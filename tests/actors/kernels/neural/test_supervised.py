"""The mapping's densities, its learning, and its messages about the inputs, against independent reimplementations."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from actors.kernels.neural import supervised as mapping
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


def scene(loss, rows=6, seed=0):
    """A network of some weights, inputs of 1 + K + D columns, and targets."""
    network = mapping.build(1 + K + D, 7, P, seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(4.0)  # strong enough that targets say something
    inputs = np.random.default_rng(seed).random((rows, 1 + K + D))
    return network, tensor(inputs), tensor(random_targets(loss, rows, seed))


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=torch.float32)


def by_hand(network, loss):
    """log p(y | x) of one row in float64, without torch."""
    A, a, B, b = (weight.detach().numpy().astype(np.float64) for weight in network.parameters())

    def log_p(x, y):
        answer = B @ np.maximum(A @ x + a, 0.0) + b
        if loss == "mse":
            return stats.norm.logpdf(y, answer).sum() + P / 2 * np.log(2 * np.pi)
        if loss == "bce":
            return stats.bernoulli.logpmf(y.astype(int), 1 / (1 + np.exp(-answer))).sum()
        return stats.multinomial.logpmf(y.astype(int), 1, softmax(answer))

    return log_p


def how(loss, **given):
    return mapping.Ascent(**{"steps": 400, "rate": 0.2, "loss": loss, **given})


@pytest.mark.parametrize("loss", LOSSES)
def test_the_likelihood_is_the_textbooks(loss):
    network, inputs, targets = scene(loss)
    found = mapping.log_likelihood(mapping.predict(network, inputs), targets, loss)
    log_p = by_hand(network, loss)
    expected = [log_p(x, y) for x, y in zip(inputs.double().numpy(), targets.double().numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_distribution_as_a_target_counts_as_categories_do_on_average():
    answer, target = tensor([[0.3, -1.0, 2.0, 0.5]]), np.array([0.1, 0.2, 0.3, 0.4])
    single = [float(mapping.log_likelihood(answer, tensor(row)[None], "cross_entropy")) for row in np.eye(P)]
    mixed = float(mapping.log_likelihood(answer, tensor(target)[None], "cross_entropy"))
    assert mixed == pytest.approx(target @ single, rel=1e-5)


# --- learning -----------------------------------------------------------------------------------------------------


def test_learning_goes_down_to_the_least_squares():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    Y = X @ rng.normal(size=(3, P)) + 1.0 + 0.3 * rng.normal(size=(200, P))
    network = torch.nn.Linear(3, P)
    plan = mapping.Fit(epochs=300, batch_size=200, learning_rate=3e-2, weight_decay=0.0, loss="mse")
    losses = mapping.fit(
        network, make_optimiser(network), tensor(X), tensor(Y), plan, torch.Generator().manual_seed(0), lambda *_: None
    )
    with_ones = np.hstack([X, np.ones((200, 1))])
    solution, residuals, *_ = np.linalg.lstsq(with_ones, Y, rcond=None)
    np.testing.assert_allclose(network.weight.detach().numpy(), solution[:3].T, atol=5e-3)
    np.testing.assert_allclose(network.bias.detach().numpy(), solution[3], atol=5e-3)
    assert losses[-1] == pytest.approx(0.5 * residuals.sum() / 200, rel=1e-3)


def test_a_penalty_keeps_weights_small():
    norms = []
    for decay in (0.0, 1.0):
        network, inputs, targets = scene("mse")
        plan = mapping.Fit(50, 6, 1e-2, decay, "mse")
        generator = torch.Generator().manual_seed(0)
        mapping.fit(network, make_optimiser(network), inputs, targets, plan, generator, lambda *_: None)
        norms.append(sum(float(weight.square().sum().detach()) for weight in network.parameters()))
    assert norms[1] < 0.8 * norms[0]


# --- of classes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trust", [1.0, 0.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_message_about_a_class_is_the_posterior_by_enumeration(loss, trust):
    network, inputs, targets = scene(loss)
    found = mapping.expected_classes(network, inputs, targets, BLOCK, how(loss, trust=trust))
    log_p = by_hand(network, loss)
    for n, (x, y) in enumerate(zip(inputs.double().numpy(), targets.double().numpy(), strict=True)):
        scores = [trust * log_p(np.concatenate([x[:1], one, x[4:]]), y) for one in np.eye(K)]
        np.testing.assert_allclose(found[n], log_softmax(scores), atol=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_where_steps_up_the_gradient_end_too(loss):
    network, inputs, targets = scene(loss, rows=2)
    found = mapping.expected_classes(network, inputs, targets, BLOCK, how(loss)).exp()
    log_p = by_hand(network, loss)
    for n, (x, y) in enumerate(zip(inputs.double().numpy(), targets.double().numpy(), strict=True)):
        scores = np.array([log_p(np.concatenate([x[:1], one, x[4:]]), y) for one in np.eye(K)])

        def negative(logits, scores=scores):
            q = softmax(logits)
            return -(q @ (scores - np.log(q + 1e-300)))

        climbed = minimize(negative, np.zeros(K), method="BFGS")
        np.testing.assert_allclose(found[n], softmax(climbed.x), atol=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_relaxed_message_is_where_an_independent_optimiser_ends(loss):
    _, inputs, targets = scene(loss, seed=1)
    torch.manual_seed(1)
    network = torch.nn.Linear(1 + K + D, P)  # what is climbed is concave then: there is one summit
    with torch.no_grad():
        network.weight.mul_(5.0)
    found = mapping.relaxed_classes(network, inputs, targets, BLOCK, how(loss)).exp().double().numpy()
    weight, bias = network.weight.detach().double().numpy(), network.bias.detach().double().numpy()
    losses = {
        "mse": lambda answer, y: 0.5 * ((y - answer) ** 2).sum(),
        "bce": lambda answer, y: (np.logaddexp(0, answer) - y * answer).sum(),
        "cross_entropy": lambda answer, y: -y @ log_softmax(answer),
    }
    for q, x, y in zip(found, inputs.double().numpy(), targets.double().numpy(), strict=True):

        def negative(logits, x=x, y=y):
            q = softmax(logits)
            return losses[loss](weight @ np.concatenate([x[:1], q, x[4:]]) + bias, y) + q @ np.log(q)

        np.testing.assert_allclose(q, softmax(minimize(negative, np.zeros(K), method="BFGS").x), atol=2e-3)


def test_where_a_mixture_explains_more_the_relaxed_message_is_softer():
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.copy_(tensor([[5.0, 0.0], [0.0, 5.0]]))
        network.bias.zero_()
    inputs, targets = tensor([[0.5, 0.5]]), tensor([[1.0, 0.0]])
    exact, relaxed = (
        find(network, inputs, targets, slice(0, 2), how("cross_entropy")).exp()[0, 0]
        for find in (mapping.expected_classes, mapping.relaxed_classes)
    )
    assert float(exact) == pytest.approx(1 / (1 + np.exp(-5.0)), abs=1e-4)  # σ(5): p(y | 1) is σ(5), p(y | 2) is σ(-5)
    assert 0.5 < float(relaxed) < 0.8


@pytest.mark.parametrize("find", [mapping.expected_classes, mapping.relaxed_classes, mapping.latent_modes])
def test_what_came_from_the_receiver_and_what_other_rows_say_change_nothing(find):
    network, inputs, targets = scene("bce")
    found = find(network, inputs, targets, BLOCK, how("bce", steps=20))
    changed = inputs.clone()
    changed[:, BLOCK] = tensor(np.random.default_rng(5).dirichlet(np.ones(K), size=6))
    assert torch.equal(find(network, changed, targets, BLOCK, how("bce", steps=20)), found)
    alone = find(network, inputs[2:3], targets[2:3], BLOCK, how("bce", steps=20))
    np.testing.assert_allclose(alone[0], found[2], atol=1e-4)
    changed[:, 0] += 2.0  # another input has
    assert not torch.allclose(find(network, changed, targets, BLOCK, how("bce", steps=20)), found, atol=1e-2)


# --- of latent vectors --------------------------------------------------------------------------------------------


def test_the_message_about_latent_vectors_is_the_ridge_solution_of_a_linear_network():
    torch.manual_seed(0)
    network = torch.nn.Linear(1 + D, P)
    inputs, targets = torch.randn(20, 1 + D), 2.0 * torch.randn(20, P)
    found = mapping.latent_modes(network, inputs, targets, slice(1, 1 + D), how("mse", trust=0.7))
    weight, bias = network.weight.detach().double().numpy(), network.bias.detach().double().numpy()
    rest = targets.numpy() - bias - inputs[:, :1].numpy() @ weight[:, :1].T
    A = weight[:, 1:]
    expected = np.linalg.solve(0.7 * A.T @ A + np.eye(D), 0.7 * A.T @ rest.T).T
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_it_is_the_mode_of_a_logistic_posterior():
    torch.manual_seed(0)
    network = torch.nn.Linear(D, P)
    with torch.no_grad():
        network.weight.mul_(5.0)
    targets = random_targets("bce", 8)
    found = mapping.latent_modes(network, torch.zeros(8, D), tensor(targets), slice(0, D), how("bce"))
    weight, bias = network.weight.detach().double().numpy(), network.bias.detach().double().numpy()
    for z, y in zip(found.double().numpy(), targets, strict=True):

        def negative(z, y=y):
            logits = weight @ z + bias
            return (np.logaddexp(0, logits) - y * logits).sum() + 0.5 * z @ z

        np.testing.assert_allclose(z, minimize(negative, np.zeros(D)).x, atol=2e-3)


def test_rows_are_the_same_however_many_there_are(monkeypatch):
    network, inputs, targets = scene("mse", rows=10)
    whole = mapping.latent_modes(network, inputs, targets, BLOCK, how("mse", steps=30))
    monkeypatch.setattr(mapping, "CHUNK", 3)
    np.testing.assert_allclose(
        mapping.latent_modes(network, inputs, targets, BLOCK, how("mse", steps=30)), whole, atol=1e-4
    )
