"""Cases of an epoch of the VAE: 3,000 rows of 784 pixels, 128 hidden units, 18 latent dimensions, batches of 500."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu

from actors.kernels.neural.vae_networks import build
from actors.kernels.neural.vae_training import TrainingOptions, make_optimiser, train
from tests.benchmarks.harness import Case

N, P, HIDDEN, L, BATCH = 3000, 784, 128, 18, 500
EPOCHS = 10
"""Epochs of a call, of an update in which arrays are made once."""


def made_rows() -> Tensor:
    """Return rows in [0, 1], most of them near 0, as pixels are."""
    return torch.rand(N, P, generator=torch.Generator().manual_seed(0)) ** 4


def our_training(rows: Tensor) -> Callable[[], object]:
    """Return the training of the VAE module."""
    networks = build(P, HIDDEN, L, seed=0)
    optimiser, generator = make_optimiser(networks), torch.Generator().manual_seed(0)
    options = TrainingOptions(EPOCHS, BATCH, kl_weight=1.0, learning_rate=1e-3, likelihood="bce")
    return lambda: train(networks, optimiser, rows, torch.zeros(N, L), options, generator, lambda *_: None)


def matrix_products(rows: Tensor) -> Callable[[], object]:
    """Return the matrix products of an epoch that have a side of P, with results in the same memory each time."""
    batches = [batch.clone() for batch in torch.split(rows, BATCH)]
    first, last = torch.randn(HIDDEN, P), torch.randn(P, HIDDEN)
    hidden, decoded, by_logits = torch.rand(BATCH, HIDDEN), torch.rand(BATCH, HIDDEN), torch.randn(BATCH, P)
    logits, by_hidden = torch.empty(BATCH, P), torch.empty(BATCH, HIDDEN)
    by_first, by_last = torch.empty(HIDDEN, P), torch.empty(P, HIDDEN)

    def multiply() -> None:
        for _ in range(EPOCHS):
            for batch in batches:
                torch.mm(batch, first.t(), out=hidden)
                torch.mm(decoded, last.t(), out=logits)
                torch.mm(by_logits, last, out=by_hidden)
                torch.mm(by_logits.t(), decoded, out=by_last)
                torch.mm(by_hidden.t(), batch, out=by_first)

    return multiply


def bare_loop(rows: Tensor) -> Callable[[], object]:
    """Return the shortest training of the same networks by torch: its functions, differentiation and fused Adam."""
    encoder, heads = nn.Linear(P, HIDDEN), nn.Linear(HIDDEN, 2 * L)
    decoder, out = nn.Linear(L, HIDDEN), nn.Linear(HIDDEN, P)
    weights = [weight for layer in (encoder, heads, decoder, out) for weight in layer.parameters()]
    adam = torch.optim.Adam(weights, fused=True)

    def run() -> None:
        for _ in range(EPOCHS):
            for batch in torch.split(rows[torch.randperm(N)], BATCH):
                mean, log_variance = heads(relu(encoder(batch))).chunk(2, dim=1)
                latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
                logits = out(relu(decoder(latents)))
                loss = binary_cross_entropy_with_logits(logits, batch, reduction="sum")
                loss = loss + 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0).sum()
                adam.zero_grad()
                torch.autograd.backward(loss / len(batch))
                adam.step()

    return run


def cases() -> list[Case]:
    """Return an epoch beside its large matrix products, and beside a loop of torch alone."""
    rows = made_rows()
    ours, size = our_training(rows), f"{N} x {P}, {HIDDEN} hidden, {L} latent, batches of {BATCH}"
    return [
        Case(f"VAE epoch, {size}", ours, matrix_products(rows), "its matrix products of side 784 alone"),
        Case(f"VAE epoch, {size}, beside torch", ours, bare_loop(rows), "bare torch loop with fused Adam"),
    ]
