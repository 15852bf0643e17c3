"""The gradient of the VAE's loss for the default encoder and decoder, written out.

Automatic differentiation returns the same up to rounding. On the few hundred rows of a part of a step it takes about a
third longer: it writes each gradient into memory of its own, reads the reconstruction more often, and has a cost for
each operation.

The networks and the loss of a row x with prior mean μ and noise ε ~ N(0, I) are (Kingma and Welling 2014, appendix B)

    h = relu(W1 x + b1)    (m, s) = W2 h + b2    z = m + exp(s/2) ε
    g = relu(W3 z + b3)    y = W4 g + b4
    loss = -log p(x | y) + β/2 Σ_l (exp(s_l) + (m_l - μ_l)² - 1 - s_l)

with -log p(x | y) = ½ ‖y - x‖² or, for a Bernoulli distribution, Σ_p softplus(y_p) - x_p y_p. The derivatives by y are
y - x and sigmoid(y) - x; the others follow by the chain rule.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from actors.kernels.neural.vae_networks import Decoder, Encoder, Likelihood, kl_divergence


def is_written_out(networks: nn.ModuleDict) -> bool:
    """Return whether :func:`default_gradient` is that of these networks: the default ones, with all weights trained."""
    default = type(networks["encoder"]) is Encoder and type(networks["decoder"]) is Decoder
    return default and all(weight.requires_grad for weight in networks.parameters())


@torch.no_grad()
def default_gradient(
    networks: nn.ModuleDict,
    rows: Tensor,
    prior_mean: Tensor,
    noise: Tensor,
    beta: float,
    likelihood: Likelihood,
    into: Mapping[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Compute the gradient of the summed loss of rows; return the summed reconstruction loss and KL divergence.

    Parameters
    ----------
    networks : ModuleDict
        For which :func:`is_written_out`.
    rows, prior_mean, noise : Tensor, shapes (N, P), (N, L), (N, L)
    beta : float
        β.
    likelihood : {"bce", "mse"}
    into : mapping of str to Tensor
        Receives the gradient of each weight, by its name; the shapes are those of the weights.
    """
    weights = dict(networks.named_parameters())
    hidden = _affine(rows, weights, "encoder.hidden").relu_()
    mean, log_variance = (heads := _affine(hidden, weights, "encoder.heads")).chunk(2, dim=1)
    deviation = torch.exp(0.5 * log_variance)
    latents = torch.addcmul(mean, deviation, noise)
    decoded = _affine(latents, weights, "decoder.hidden").relu_()
    logits = _affine(decoded, weights, "decoder.out")
    divergence = kl_divergence(mean, log_variance, prior_mean)
    if likelihood == "bce":
        reconstruction = softplus(logits).sum() - torch.dot(logits.view(-1), rows.reshape(-1))
        by_logits = logits.sigmoid_().sub_(rows)
    else:
        by_logits = logits.sub_(rows)
        reconstruction = 0.5 * by_logits.square().sum()
    by_decoded = _backward(by_logits, decoded, weights, "decoder.out", into)
    by_latents = _backward(_where_positive(by_decoded, decoded), latents, weights, "decoder.hidden", into)
    by_heads = torch.empty_like(heads)
    by_mean, by_log_variance = by_heads.chunk(2, dim=1)
    torch.add(by_latents, mean - prior_mean, alpha=beta, out=by_mean)
    by_log_variance.copy_(0.5 * (by_latents * noise * deviation + beta * (deviation.square() - 1.0)))
    by_hidden = _where_positive(_backward(by_heads, hidden, weights, "encoder.heads", into), hidden)
    _backward_to_weights(by_hidden, rows, "encoder.hidden", into)
    return reconstruction, divergence


def _affine(inputs: Tensor, weights: Mapping[str, Tensor], layer: str) -> Tensor:
    """Return the outputs of a layer."""
    return torch.addmm(weights[f"{layer}.bias"], inputs, weights[f"{layer}.weight"].t())


def _backward(
    by_outputs: Tensor, inputs: Tensor, weights: Mapping[str, Tensor], layer: str, into: Mapping[str, Tensor]
) -> Tensor:
    """Compute the gradient of a layer's weights from that by its outputs; return that by its inputs."""
    _backward_to_weights(by_outputs, inputs, layer, into)
    return torch.mm(by_outputs, weights[f"{layer}.weight"])


def _backward_to_weights(by_outputs: Tensor, inputs: Tensor, layer: str, into: Mapping[str, Tensor]) -> None:
    torch.mm(by_outputs.t(), inputs, out=into[f"{layer}.weight"])
    torch.sum(by_outputs, 0, out=into[f"{layer}.bias"])


def _where_positive(gradient: Tensor, activation: Tensor) -> Tensor:
    """Return the gradient before a rectified linear unit from that after it."""
    return gradient.masked_fill_(activation <= 0.0, 0.0)
