"""Training loop of the VAE's networks, and the state of networks and optimiser between updates.

N is the number of rows, P the number of pixels per row, L the number of latent dimensions. All tensors are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from actors.kernels.neural.device_batches import batch_sizes, iterate_batches
from actors.kernels.neural.vae_networks import Likelihood, kl_divergence, reconstruction_loss, standard_normal
from actors.kernels.types import Array

MARGIN = 0.005
"""Relative improvement of the best loss that is required within the patience; well above the noise of an epoch's loss
(0.0007 of it on 3,000 digits)."""


@dataclass(frozen=True)
class TrainingOptions:
    """Options of `train`.

    Parameters
    ----------
    epochs : int
        Passes over the rows.
    batch_size : int
        Rows per step.
    kl_weight : float
        β, the weight of the KL divergence.
    learning_rate : float
        Step size of Adam.
    likelihood : {"bce", "mse"}
    kl_warmup : int
        Number of epochs, counted from the networks' first, in which β rises linearly from 0 to `kl_weight`.
    previous_epochs : int
        Epochs that the networks were trained for before.
    patience : int, optional
        Training stops when the best loss has improved by less than :data:`MARGIN` of itself within this number of
        epochs, those of the warm-up excluded. By default it does not stop early.
    mixed_precision : bool
        Whether the networks are evaluated in bfloat16; weights, losses and moments stay float32.
    even_batches : bool
        Whether the rows are spread evenly over the batches, for networks that may fail on a small last one.
    """

    epochs: int
    batch_size: int
    kl_weight: float
    learning_rate: float
    likelihood: Likelihood
    kl_warmup: int = 0
    previous_epochs: int = 0
    patience: int | None = None
    mixed_precision: bool = False
    even_batches: bool = False

    def beta(self, epoch: int) -> float:
        """Return β in an epoch of this training, counted from 0."""
        total = self.previous_epochs + epoch
        return self.kl_weight if total >= self.kl_warmup else self.kl_weight * total / self.kl_warmup

    def converged(self, losses: Sequence[float]) -> bool:
        """Return whether to stop after epochs with these losses, by the patience."""
        compared = losses[max(self.kl_warmup - self.previous_epochs, 0) :]  # losses of different β are not comparable
        if self.patience is None or len(compared) <= self.patience:
            return False
        before = min(compared[: -self.patience])
        return min(compared) >= before - MARGIN * abs(before)


def make_optimiser(networks: nn.Module) -> torch.optim.Adam:
    """Return a new Adam optimiser of all weights; `train` sets its step size."""
    # Fused: one kernel for all weights; the loop over tensors takes a tenth of a step.
    return torch.optim.Adam(networks.parameters(), fused=True)


def train(
    networks: nn.ModuleDict,
    optimiser: torch.optim.Adam,
    rows: Tensor,
    prior_mean: Tensor,
    options: TrainingOptions,
    generator: torch.Generator,
    on_epoch: Callable[[int, int, float], None],
) -> list[float]:
    """Maximise E_q[log p(row | z)] - β · KL(q(z | row) ‖ N(prior_mean, I)) over the weights, in place.

    Parameters
    ----------
    networks : ModuleDict
        Changed in place, like `optimiser`.
    optimiser : torch.optim.Adam
    rows, prior_mean : Tensor, shapes (N, P), (N, L)
        On the networks' device; `rows` may be on the host (:mod:`actors.kernels.neural.device_batches`).
    options : TrainingOptions
    generator : torch.Generator
        Generator of the order of rows and of the noise; on the networks' device.
    on_epoch : callable
        Called after each epoch with the number of epochs done, their total as far as known, and the epoch's loss.

    Returns
    -------
    list of float
        The loss of each epoch with its own β, mean over rows; fewer than ``options.epochs`` after an early stop.

    Raises
    ------
    FloatingPointError
        If the loss of an epoch is not finite; the message names the epoch and the terms of the loss.
    """
    networks.train()
    for group in optimiser.param_groups:
        group["lr"] = options.learning_rate
    losses: list[float] = []
    sizes = batch_sizes(len(rows), options.batch_size, even=options.even_batches)
    for epoch in range(options.epochs):
        beta = options.beta(epoch)
        order = torch.randperm(len(rows), generator=generator, device=generator.device)
        batches = zip(
            iterate_batches(rows, order, sizes, generator.device),
            torch.split(prior_mean.index_select(0, order), sizes),
            torch.split(standard_normal(prior_mean.shape, generator), sizes),
            strict=True,
        )
        sums = sum(_step(networks, optimiser, *batch, beta, options) for batch in batches)
        # The only synchronisation with the device in an epoch.
        reconstruction, kl = (cast("Tensor", sums) / len(rows)).tolist()
        losses.append(reconstruction + beta * kl)
        if not math.isfinite(losses[-1]):  # also if only one of its terms is not finite
            terms = f"reconstruction {reconstruction:g}, KL divergence {kl:g}"
            raise FloatingPointError(
                f"the loss is {losses[-1]:g} after {epoch + 1} of {options.epochs} epochs ({terms})"
            )
        converged = options.converged(losses)
        on_epoch(epoch + 1, epoch + 1 if converged else options.epochs, losses[-1])
        if converged:
            break
    return losses


def _step(
    networks: nn.ModuleDict,
    optimiser: torch.optim.Adam,
    rows: Tensor,
    prior_mean: Tensor,
    noise: Tensor,
    beta: float,
    options: TrainingOptions,
) -> Tensor:
    """Take one step on a batch; return its summed reconstruction loss and KL divergence, as one tensor (2,)."""
    reconstruction, kl = loss_terms(networks, rows, prior_mean, noise, options.likelihood, options.mixed_precision)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward((reconstruction + beta * kl) / len(rows))
    optimiser.step()
    return torch.stack((reconstruction.detach(), kl.detach()))


def loss_terms(
    networks: nn.ModuleDict,
    rows: Tensor,
    prior_mean: Tensor,
    noise: Tensor,
    likelihood: Likelihood,
    mixed_precision: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the summed reconstruction loss and KL divergence of a batch, with its graph of gradients."""
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=mixed_precision):
        mean, log_variance = (head.float() for head in networks["encoder"](rows))
        latents = torch.addcmul(mean, torch.exp(0.5 * log_variance), noise)
        logits = networks["decoder"](latents).float()
    return reconstruction_loss(logits, rows, likelihood), kl_divergence(mean, log_variance, prior_mean)


# --- state --------------------------------------------------------------------------------------------------------

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of Adam's two moments of a gradient."""


def save(networks: nn.Module, optimiser: torch.optim.Adam) -> dict[str, Array]:
    """Return copies of all weights (``weights.NAME``) and of Adam's moments and step count (``adam.….NAME``)."""
    return {name: copy_of(value) for name, value in tensors_of(networks, optimiser).items()}


def tensors_of(networks: nn.Module, optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    """Return the tensors that `save` copies; steps change them in place."""
    tensors = {f"weights.{name}": value for name, value in networks.state_dict().items()}
    for name, weight in networks.named_parameters():
        moments = optimiser.state.get(weight, {})
        tensors.update({f"adam.{key}.{name}": value for key, value in moments.items()})
    return tensors


def restore(networks: nn.Module, optimiser: torch.optim.Adam, arrays: Mapping[str, Any]) -> None:
    """Load copies of the arrays that `save` returned into `networks` and their new `optimiser`.

    Raises
    ------
    ValueError
        If the names or shapes of the weights are those of other networks.
    """
    weights = {key.removeprefix("weights."): value for key, value in arrays.items() if key.startswith("weights.")}
    try:
        networks.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    except RuntimeError as error:
        raise ValueError(f"the weights fit other networks: {error}") from error
    for name, weight in networks.named_parameters():
        if f"adam.step.{name}" not in arrays:
            continue
        # Adam keeps its step count as a float32 tensor beside the weight.
        keys = ("step", *MOMENTS)
        moments = {key: torch.from_numpy(np.array(arrays[f"adam.{key}.{name}"])).to(weight.device) for key in keys}
        optimiser.state[weight] = moments


def copy_of(value: Tensor) -> Array:
    """Return a copy of a tensor in host memory."""
    return np.array(value.detach().cpu().numpy())
