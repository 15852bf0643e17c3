"""Training of the default networks without automatic differentiation is that with it, up to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from torch import Tensor, nn

from actors.kernels.neural import default_gradient, step_kernels
from actors.kernels.neural.default_training import applies_to
from actors.kernels.neural.vae_networks import Likelihood, build
from actors.kernels.neural.vae_training import TrainingOptions, make_optimiser, restore, save, train
from tests.actors.kernels.neural.test_default_gradient import torch_terms

N, P, HIDDEN, L = 45, 13, 9, 3


def data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return rows and prior means."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(N, P, generator=generator), torch.randn(N, L, generator=generator)


def options(epochs: int, likelihood: Likelihood = "bce", batch_size: int = 20) -> TrainingOptions:
    return TrainingOptions(epochs, batch_size, kl_weight=0.7, learning_rate=0.01, likelihood=likelihood, kl_warmup=2)


def trained_by_torch(networks: nn.ModuleDict, given: TrainingOptions) -> list[float]:
    """Train networks of float64 with torch's own loss, differentiation and Adam; return the losses of the epochs."""
    rows, prior_mean = (tensor.double() for tensor in data())
    generator, losses = torch.Generator().manual_seed(5), []
    adam = torch.optim.Adam(networks.parameters(), lr=given.learning_rate)
    for epoch in range(given.epochs):
        beta, total = given.beta(epoch), 0.0
        order = torch.randperm(N, generator=generator)
        noise = torch.randn(N, L, generator=generator).double()
        for first in range(0, N, given.batch_size):
            chosen = order[first : first + given.batch_size]
            terms = torch_terms(
                networks, given.likelihood, rows[chosen], prior_mean[chosen], noise[first : first + given.batch_size]
            )
            loss = terms[0] + beta * terms[1]
            adam.zero_grad()
            torch.autograd.backward(loss / len(chosen))
            adam.step()
            total += float(loss.detach())
        losses.append(total / N)
    return losses


def trained(networks: nn.ModuleDict, given: TrainingOptions, optimiser=None) -> list[float]:
    """Train networks in the way of the VAE module."""
    optimiser = optimiser or make_optimiser(networks)
    return train(networks, optimiser, *data(), given, torch.Generator().manual_seed(5), lambda *_: None)


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
@pytest.mark.parametrize("decoder_units", [None, 5])
@pytest.mark.parametrize("batch_size", [20, N])
def test_weights_and_losses_are_those_of_torch(likelihood: Likelihood, decoder_units: int | None, batch_size: int):
    given = options(8, likelihood, batch_size)
    theirs = build(P, HIDDEN, L, seed=1, hidden_decoder=decoder_units).double()
    ours = build(P, HIDDEN, L, seed=1, hidden_decoder=decoder_units)
    assert applies_to(ours, make_optimiser(ours))
    assert_allclose(trained(ours, given), trained_by_torch(theirs, given), rtol=1e-5)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_allclose(own.detach().numpy(), other.detach().numpy(), rtol=1e-4, atol=2e-5)


def test_training_that_goes_on_from_a_saved_state_has_the_bits_of_one_without_a_break():
    whole, other = build(P, HIDDEN, L, seed=1), build(P, HIDDEN, L, seed=1)
    adam = make_optimiser(whole)
    trained(whole, options(3), adam)
    saved = save(whole, adam)
    assert {float(value) for name, value in saved.items() if ".step." in name} == {9.0}
    later = make_optimiser(other)
    restore(other, later, saved)
    assert trained(whole, options(3), adam) == trained(other, options(3), later)
    assert_array_equal(save(whole, adam)["weights.encoder.hidden.weight"], other["encoder"].hidden.weight.detach())


def test_threads_do_not_change_the_kernels_bits(monkeypatch: pytest.MonkeyPatch):
    results = []
    for fewest in (0, 10**9):
        monkeypatch.setattr(default_gradient, "FEWEST", fewest)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        networks = build(P, HIDDEN, L, seed=1)
        results.append((trained(networks, options(4)), [weight.detach().numpy() for weight in networks.parameters()]))
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert_array_equal(one, other)


def test_networks_whose_weights_took_different_numbers_of_steps_are_trained_automatically():
    networks = build(P, HIDDEN, L, seed=1)
    adam = make_optimiser(networks)
    trained(networks, options(1), adam)
    adam.state[networks["decoder"].out.bias]["step"] += 1.0
    assert not applies_to(networks, adam)
    trained(networks, options(1), adam)
    assert float(adam.state[networks["decoder"].out.bias]["step"]) == 7.0


def test_a_step_of_adam_in_other_memory_has_the_bits_of_one_in_place():
    rng, numbers = np.random.default_rng(0), np.array([0.01, 0.003, 1.2, 0.9, 0.999, 1e-8], np.float32)
    weights, moment1, gradient = (rng.normal(size=100).astype(np.float32) for _ in range(3))
    moment2, made = np.square(moment1), [np.full(100, np.nan, np.float32) for _ in range(3)]
    own, before = [weights.copy(), moment1.copy(), moment2.copy()], (moment1.copy(), moment2.copy())
    step_kernels.adam(*own, gradient, numbers, 5, 90)
    step_kernels.adam_apart(weights, moment1, moment2, gradient, numbers, *made, 5, 90)
    for array, expected in zip([weights, *made], [own[0], *own], strict=True):
        assert_array_equal(array[5:90], expected[5:90])
    assert_array_equal([moment1, moment2], before)
    assert_array_equal([array[90:] for array in made], np.full((3, 10), np.nan))


def reconstruction(logits: np.ndarray, rows: np.ndarray, parts: int = 3) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the gradients by logits and bias, and the loss, of the kernel."""
    by_logits, by_bias, losses = logits.copy(), np.empty((parts, logits.shape[1]), np.float32), np.empty(parts)
    step_kernels.bernoulli(by_logits, np.zeros(logits.shape[1], np.float32), rows, by_bias, losses, 0, parts)
    return by_logits, by_bias.sum(axis=0), float(losses.sum())


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (150, 784)])
def test_the_bernoulli_loss_and_its_gradient_are_right_for_logits_of_any_size(scale: float, shape: tuple[int, int]):
    rng = np.random.default_rng(3)
    logits, rows = (rng.normal(size=shape) * scale).astype(np.float32), rng.random(shape).astype(np.float32)
    by_logits, by_bias, loss = reconstruction(logits, rows)
    y, x = logits.astype(np.float64), rows.astype(np.float64)
    assert_allclose(by_logits, expit(y) - x, atol=2.5e-7)
    assert_allclose(by_bias, (expit(y) - x).sum(axis=0), atol=3e-7 * len(y) + 1e-5)
    assert loss == pytest.approx((np.logaddexp(0.0, y) - x * y).sum(), rel=2e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_makes_the_loss_so(value: float):
    logits, rows = np.zeros((80, 5), np.float32), np.full((80, 5), 0.5, np.float32)
    logits[70, 2] = value
    assert not np.isfinite(reconstruction(logits, rows)[2])


def test_a_loss_that_is_not_finite_ends_the_training():
    rows, prior_mean = data()
    rows[7, 3] = torch.inf
    networks = build(P, HIDDEN, L, seed=1)
    generator = torch.Generator().manual_seed(5)
    with pytest.raises(FloatingPointError, match="after 1 of 2 epochs"):
        train(networks, make_optimiser(networks), rows, prior_mean, options(2, "mse"), generator, lambda *_: None)
