"""The loop that trains the networks of the VAE, and what of it is kept from one update to the next.

Throughout, N is the number of rows, P the pixels of a row, L the latent dimensions. All tensors are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from actors.kernels.neural.device_batches import batches
from actors.kernels.neural.vae_networks import Likelihood, divergence, normal, reconstruction_loss
from actors.kernels.types import Array

MARGIN = 0.005
"""Share of its best loss by which a training must improve within its patience: well above the noise of an epoch's loss
(0.0007 of it on 3,000 digits)."""


@dataclass(frozen=True)
class Training:
    """How to train.

    Parameters
    ----------
    epochs : int
        Passes over the rows.
    batch_size : int
        Rows a step.
    kl_weight : float
        β, the weight of the divergence.
    learning_rate : float
        Adam's step size.
    likelihood : {"bce", "mse"}
    kl_warmup : int
        Epochs of the networks' life over which β climbs linearly from 0 to `kl_weight`.
    age : int
        Epochs of the networks' life that came before.
    patience : int, optional
        The training ends when the best loss has not improved by more than :data:`MARGIN` of itself within the last so
        many epochs; never by default. Losses of a warm-up do not count.
    mixed_precision : bool
        Whether the networks' products are taken in bfloat16; weights, losses and moments stay float32.
    """

    epochs: int
    batch_size: int
    kl_weight: float
    learning_rate: float
    likelihood: Likelihood
    kl_warmup: int = 0
    age: int = 0
    patience: int | None = None
    mixed_precision: bool = False

    def beta(self, epoch: int) -> float:
        """Return β in an epoch of this training, the first being 0."""
        lived = self.age + epoch
        return self.kl_weight if lived >= self.kl_warmup else self.kl_weight * lived / self.kl_warmup

    def settled(self, losses: Sequence[float]) -> bool:
        """Say whether patience is at its end after the epochs of which `losses` are."""
        compared = losses[max(self.kl_warmup - self.age, 0) :]  # losses of different β do not compare
        if self.patience is None or len(compared) <= self.patience:
            return False
        before = min(compared[: -self.patience])
        return min(compared) >= before - MARGIN * abs(before)


def make_optimiser(networks: nn.Module) -> torch.optim.Adam:
    """Return a fresh Adam over all weights; `train` sets its step size."""
    # Fused: one kernel for all weights; the loop over tensors costs a tenth of a step.
    return torch.optim.Adam(networks.parameters(), fused=True)


def train(
    networks: nn.ModuleDict,
    optimiser: torch.optim.Adam,
    rows: Tensor,
    prior_mean: Tensor,
    training: Training,
    generator: torch.Generator,
    on_epoch: Callable[[int, int, float], None],
) -> list[float]:
    """Maximise E_q[log p(row | z)] - β · KL(q(z | row) ‖ N(prior_mean, I)), in place.

    Parameters
    ----------
    networks : ModuleDict
        Changed in place, like `optimiser`.
    optimiser : torch.optim.Adam
    rows, prior_mean : Tensor, shapes (N, P), (N, L)
        On the networks' device; rows that do not fit there, on the host (:mod:`actors.kernels.neural.device_batches`).
    training : Training
    generator : torch.Generator
        Of the order of rows and the noise; on the same device.
    on_epoch : callable
        Called with the epochs done, those that there will be as far as is known, and the last one's loss.

    Returns
    -------
    list of float
        The loss of each epoch under its own β, mean over rows; fewer than `training.epochs` where patience ended.

    Raises
    ------
    FloatingPointError
        If the loss of an epoch is not finite; says after how many epochs, and what its parts are.
    """
    networks.train()
    for group in optimiser.param_groups:
        group["lr"] = training.learning_rate
    losses: list[float] = []
    for epoch in range(training.epochs):
        beta = training.beta(epoch)
        order = torch.randperm(len(rows), generator=generator, device=generator.device)
        taken = zip(
            batches(rows, order, training.batch_size, generator.device),
            torch.split(prior_mean.index_select(0, order), training.batch_size),
            torch.split(normal(prior_mean.shape, generator), training.batch_size),
            strict=True,
        )
        sums = sum(_step(networks, optimiser, *part, beta, training) for part in taken)
        # The only synchronisation with the device in an epoch.
        reconstruction, kl = (cast("Tensor", sums) / len(rows)).tolist()
        losses.append(reconstruction + beta * kl)
        if not math.isfinite(losses[-1]):  # which it is not either where one of its parts is not
            parts = f"reconstruction {reconstruction:g}, KL divergence {kl:g}"
            raise FloatingPointError(
                f"the loss is {losses[-1]:g} after {epoch + 1} of {training.epochs} epochs ({parts})"
            )
        settled = training.settled(losses)
        on_epoch(epoch + 1, epoch + 1 if settled else training.epochs, losses[-1])
        if settled:
            break
    return losses


def _step(
    networks: nn.ModuleDict,
    optimiser: torch.optim.Adam,
    rows: Tensor,
    prior_mean: Tensor,
    noise: Tensor,
    beta: float,
    training: Training,
) -> Tensor:
    """Take one step on a batch; return its reconstruction loss and divergence, both summed, as one tensor (2,)."""
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=training.mixed_precision):
        mean, log_variance = (head.float() for head in networks["encoder"](rows))
        latents = torch.addcmul(mean, torch.exp(0.5 * log_variance), noise)
        logits = networks["decoder"](latents).float()
    reconstruction = reconstruction_loss(logits, rows, training.likelihood)
    kl = divergence(mean, log_variance, prior_mean)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward((reconstruction + beta * kl) / len(rows))
    optimiser.step()
    return torch.stack((reconstruction.detach(), kl.detach()))


# --- state --------------------------------------------------------------------------------------------------------

_MOMENTS = ("exp_avg", "exp_avg_sq")


def save(networks: nn.Module, optimiser: torch.optim.Adam) -> dict[str, Array]:
    """Return copies of all weights (``weights.NAME``) and of Adam's moments and step count (``adam.….NAME``)."""
    arrays = {f"weights.{name}": _snapshot(value) for name, value in networks.state_dict().items()}
    for name, weight in networks.named_parameters():
        moments = optimiser.state.get(weight, {})
        arrays.update({f"adam.{key}.{name}": _snapshot(value) for key, value in moments.items()})
    return arrays


def restore(networks: nn.Module, optimiser: torch.optim.Adam, arrays: Mapping[str, Any]) -> None:
    """Put the arrays that `save` gave into `networks` and its fresh `optimiser`; copies them.

    Raises
    ------
    ValueError
        If they don't fit.
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
        keys = ("step", *_MOMENTS)
        moments = {key: torch.from_numpy(np.array(arrays[f"adam.{key}.{name}"])).to(weight.device) for key in keys}
        optimiser.state[weight] = moments


def _snapshot(value: Tensor) -> Array:
    return np.array(value.detach().cpu().numpy())
