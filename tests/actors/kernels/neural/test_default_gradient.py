"""The gradient of the default networks that is written out is that of automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actors.kernels.neural.default_gradient import default_gradient, is_written_out
from actors.kernels.neural.vae_networks import Likelihood, build

P, HIDDEN, L = 12, 8, 3


def batch(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, prior means and noise."""
    generator = torch.Generator().manual_seed(rows)
    draws = torch.rand(rows, P, generator=generator), *(torch.randn(rows, L, generator=generator) for _ in range(2))
    return draws[0].to(dtype), draws[1].to(dtype), draws[2].to(dtype)


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


def empty_gradients(networks: nn.ModuleDict) -> dict[str, Tensor]:
    """Return a tensor of NaN for each weight."""
    return {name: torch.full_like(weight, torch.nan) for name, weight in networks.named_parameters()}


@pytest.mark.parametrize("likelihood", ["bce", "mse"])
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("decoder_units", [None, 5])
def test_it_is_that_of_automatic_differentiation(
    likelihood: Likelihood, rows: int, beta: float, decoder_units: int | None
) -> None:
    networks = build(P, HIDDEN, L, seed=1, hidden_decoder=decoder_units).double()
    given, found = batch(rows, torch.float64), empty_gradients(networks)
    terms = default_gradient(networks, *given, beta, likelihood, found)
    reconstruction, divergence = torch_terms(networks, likelihood, *given)
    torch.autograd.backward(reconstruction + beta * divergence)
    assert [float(term) for term in terms] == pytest.approx([reconstruction.item(), divergence.item()], rel=1e-12)
    for name, weight in networks.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-9, atol=1e-11)


def test_networks_with_other_parts_or_weights_that_are_not_trained_are_differentiated_automatically() -> None:
    networks = build(P, HIDDEN, L, seed=0)
    assert is_written_out(networks)
    networks["decoder"].hidden.bias.requires_grad_(False)
    assert not is_written_out(networks)
    networks = build(P, HIDDEN, L, seed=0)
    networks["decoder"] = nn.Sequential(nn.Linear(L, P))
    assert not is_written_out(networks)
