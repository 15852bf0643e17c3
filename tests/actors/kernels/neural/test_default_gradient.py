"""The gradient of the default networks that is written out is that of automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actors.kernels.neural.default_gradient import DefaultGradient, is_written_out
from actors.kernels.neural.vae_networks import Likelihood, build
from actors.kernels.neural.weight_block import WeightBlock

P, HIDDEN, L = 12, 8, 3


def batch(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, prior means and noise."""
    generator = torch.Generator().manual_seed(rows)
    draws = torch.rand(rows, P, generator=generator), *(torch.randn(rows, L, generator=generator) for _ in range(2))
    return draws[0], draws[1], draws[2]


def torch_terms(networks: nn.ModuleDict, likelihood: str, *given: Tensor) -> tuple[Tensor, Tensor]:
    """Return the terms of the loss by torch's own functions."""
    rows, prior_mean, noise = given
    mean, log_variance = networks["encoder"](rows)
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    logits = networks["decoder"](mean + q.scale * noise)
    if likelihood == "bce":
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, rows, reduction="sum")
    else:
        loss = 0.5 * torch.nn.functional.mse_loss(logits, rows, reduction="sum")
    return loss, torch.distributions.kl_divergence(q, torch.distributions.Normal(prior_mean, 1.0)).sum()


def written_out(networks: nn.ModuleDict) -> tuple[DefaultGradient, WeightBlock]:
    """Return what computes the gradient of networks, and a block like its memory to read that by name."""
    named, cpu = dict(networks.named_parameters()), torch.device("cpu")
    weights = WeightBlock(named, cpu)
    for name, weight in named.items():
        weights.views[name].copy_(weight.detach())
    return DefaultGradient(weights), WeightBlock(named, cpu)


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("decoder_units", [None, 5])
def test_it_is_that_of_automatic_differentiation_for_any_number_of_rows_in_turn(
    likelihood: Likelihood, beta: float, decoder_units: int | None
) -> None:
    networks = build(P, HIDDEN, L, seed=1, hidden_decoder=decoder_units)
    gradient, found = written_out(networks)
    networks.double()
    for rows in (40, 1, 7, 150, 40):
        given = batch(rows)
        into = gradient.new_memory()
        for by_weight, by_bias in into.layers:
            by_weight.fill_(torch.nan)
            by_bias[:] = np.nan
        terms = gradient.compute(*given, beta, likelihood, into)
        found.memory[torch.float32].copy_(torch.from_numpy(into.memory))
        reconstruction, divergence = torch_terms(networks, likelihood, *(each.double() for each in given))
        networks.zero_grad()
        torch.autograd.backward(reconstruction + beta * divergence)
        assert terms == pytest.approx([reconstruction.item(), divergence.item()], rel=1e-5)
        for name, weight in networks.named_parameters():
            assert weight.grad is not None
            scale = float(weight.grad.abs().max())
            torch.testing.assert_close(found.views[name].double(), weight.grad, rtol=1e-4, atol=3e-6 * scale)


def test_networks_with_other_parts_or_weights_that_are_not_trained_are_differentiated_automatically() -> None:
    networks = build(P, HIDDEN, L, seed=0)
    assert is_written_out(networks)
    networks["decoder"].hidden.bias.requires_grad_(False)
    assert not is_written_out(networks)
    networks = build(P, HIDDEN, L, seed=0)
    networks["decoder"] = nn.Sequential(nn.Linear(L, P))
    assert not is_written_out(networks)
