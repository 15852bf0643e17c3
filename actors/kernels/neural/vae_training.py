"""Training loop of the VAE's networks, and the state of networks and optimiser between updates.

N is the number of rows, P the number of pixels per row, L the number of latent dimensions. All tensors are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from actors.kernels.neural.adam import MOMENTS, Adam
from actors.kernels.neural.default_training import DefaultTraining, applies_to
from actors.kernels.neural.device_batches import batch_sizes, iterate_batches
from actors.kernels.neural.pictures import Augmentation
from actors.kernels.neural.vae_networks import (
    ClassPrior,
    Likelihood,
    class_loss,
    kl_divergence,
    observed_loss,
    reconstruction_loss,
    standard_normal,
    without_gaps,
)
from actors.kernels.neural.weight_block import copy_of
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
    gaps : bool
        Whether values of rows may be missing (NaN).
    augmentation : Augmentation, optional
        How rows are changed at random in each step.
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
    gaps: bool = False
    augmentation: Augmentation | None = None

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


def make_optimiser(networks: nn.Module) -> Adam:
    """Return a new Adam optimiser of all weights; `train` sets its step size."""
    return Adam(networks.parameters())


def train(
    networks: nn.ModuleDict,
    optimiser: Adam,
    rows: Tensor,
    prior_mean: Tensor,
    options: TrainingOptions,
    generator: torch.Generator,
    on_epoch: Callable[[int, int, float], None],
    classes: ClassPrior | None = None,
) -> list[float]:
    """Maximise E_q[log p(row | z)] - β · KL(q(z | row) ‖ N(prior_mean, I)) over the weights, in place.

    Parameters
    ----------
    networks : ModuleDict
        Changed in place, like `optimiser`.
    optimiser : Adam
    rows, prior_mean : Tensor, shapes (N, P), (N, L)
        On the networks' device; `rows` may be on the host (:mod:`actors.kernels.neural.device_batches`).
    options : TrainingOptions
    generator : torch.Generator
        Generator of the order of rows and of the noise; on the networks' device.
    on_epoch : callable
        Called after each epoch with the number of epochs done, their total as far as known, and the epoch's loss.
    classes : ClassPrior, optional
        Classes of the rows, whose weighted :func:`class_loss` is added to the loss, as part of its first term.

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
    optimiser.learning_rate = options.learning_rate
    losses: list[float] = []
    with _epoch_runner(networks, optimiser, rows, prior_mean, options, generator, classes) as run_epoch:
        for epoch in range(options.epochs):
            beta = options.beta(epoch)
            reconstruction, kl = (value / len(rows) for value in run_epoch(beta))
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


@contextmanager
def _epoch_runner(
    networks: nn.ModuleDict,
    optimiser: Adam,
    rows: Tensor,
    prior_mean: Tensor,
    options: TrainingOptions,
    generator: torch.Generator,
    classes: ClassPrior | None,
) -> Iterator[Callable[[float], tuple[float, float]]]:
    """Provide the function that takes the steps of an epoch with some β; it returns the two terms of the loss."""
    sizes, device = batch_sizes(len(rows), options.batch_size, even=options.even_batches), generator.device

    def draws() -> tuple[Tensor, Iterator[tuple[Tensor, Tensor]]]:
        """Return the order of the rows, and the prior means and the noise of each batch."""
        order = torch.randperm(len(rows), generator=generator, device=device)
        means = torch.split(prior_mean.index_select(0, order), sizes)
        return order, zip(means, torch.split(standard_normal(prior_mean.shape, generator), sizes), strict=True)

    is_special = options.gaps or options.mixed_precision or options.augmentation is not None or classes is not None
    if is_special or device.type != "cpu" or not applies_to(networks, optimiser):

        def run_automatically(beta: float) -> tuple[float, float]:
            order, given = draws()
            batches: Iterator[Tensor] = iterate_batches(rows, order, sizes, device)
            if options.augmentation is not None:
                batches = (options.augmentation(batch, generator) for batch in batches)
            of_batches = zip(batches, given, _divide(classes, order, sizes), strict=True)
            sums = sum(_step(networks, optimiser, batch, *own, beta, options, of) for batch, own, of in of_batches)
            # The only synchronisation with the device in an epoch.
            reconstruction, kl = cast("Tensor", sums).tolist()
            return reconstruction, kl

        yield run_automatically
        return

    training = DefaultTraining(networks, optimiser, max(sizes), options.likelihood)

    def run_written_out(beta: float) -> tuple[float, float]:
        order, given = draws()
        terms = []
        for chosen, of_batch in zip(torch.split(order, sizes), given, strict=True):
            terms.append(training.step(rows, chosen, *of_batch, beta))
        reconstruction, kl = (sum(values) for values in zip(*terms, strict=True))
        return reconstruction, kl

    with training.threads():
        try:
            yield run_written_out
        finally:
            training.finish()


def _divide(classes: ClassPrior | None, order: Tensor, sizes: list[int]) -> Iterator[ClassPrior | None]:
    """Yield what is known of the classes of each batch."""
    if classes is None:
        yield from repeat(None, len(sizes))
        return
    for responsibilities in torch.split(classes.responsibilities.index_select(0, order), sizes):
        yield classes._replace(responsibilities=responsibilities)


def _step(
    networks: nn.ModuleDict,
    optimiser: Adam,
    rows: Tensor,
    prior_mean: Tensor,
    noise: Tensor,
    beta: float,
    options: TrainingOptions,
    classes: ClassPrior | None,
) -> Tensor:
    """Take one step on a batch; return its summed reconstruction loss and KL divergence, as one tensor (2,)."""
    precision, gaps = options.mixed_precision, options.gaps
    reconstruction, kl = loss_terms(
        networks, rows, prior_mean, noise, options.likelihood, precision, gaps=gaps, classes=classes
    )
    optimiser.zero_grad()
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
    *,
    gaps: bool = False,
    classes: ClassPrior | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the summed reconstruction loss and KL divergence of a batch, with its graph of gradients.

    With `classes` the weighted :func:`class_loss` is part of the first term.
    """
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=mixed_precision):
        mean, log_variance = (head.float() for head in networks["encoder"](without_gaps(rows) if gaps else rows))
        latents = torch.addcmul(mean, torch.exp(0.5 * log_variance), noise)
        logits = networks["decoder"](latents).float()
    of_values = observed_loss if gaps else reconstruction_loss
    loss = of_values(logits, rows, likelihood)
    if classes is not None:
        loss = loss + classes.weight * class_loss(latents, classes)
    return loss, kl_divergence(mean, log_variance, prior_mean)


# --- state --------------------------------------------------------------------------------------------------------


def save(networks: nn.Module, optimiser: Adam) -> dict[str, Array]:
    """Return copies of all weights (``weights.NAME``) and of Adam's moments and step count (``adam.….NAME``)."""
    return {name: copy_of(value) for name, value in tensors_of(networks, optimiser).items()}


def tensors_of(networks: nn.Module, optimiser: Adam) -> dict[str, Tensor]:
    """Return the tensors that `save` copies; steps change them in place."""
    tensors = {f"weights.{name}": value for name, value in networks.state_dict().items()}
    for name, weight in networks.named_parameters():
        moments = optimiser.state.get(weight, {})
        tensors.update({f"adam.{key}.{name}": value for key, value in moments.items()})
    return tensors


def restore(networks: nn.Module, optimiser: Adam, arrays: Mapping[str, Any]) -> None:
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
