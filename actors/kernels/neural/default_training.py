"""Training steps of the VAE's default networks on the CPU, with their gradient written out.

The gradient is that of :mod:`actors.kernels.neural.default_gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from actors.kernels.neural import step_kernels as kernels
from actors.kernels.neural.adam import DECAYS, EPSILON, MOMENTS, Adam
from actors.kernels.neural.default_gradient import DefaultGradient, is_written_out
from actors.kernels.neural.vae_networks import Likelihood
from actors.kernels.neural.weight_block import WeightBlock
from actors.kernels.types import Float32Array, IntArray


def applies_to(networks: nn.ModuleDict, optimiser: Adam) -> bool:
    """Return whether :class:`DefaultTraining` can train these networks with this optimiser."""
    if not is_written_out(networks):
        return False
    weights = list(networks.parameters())
    counts = {float(optimiser.state[weight]["step"]) if weight in optimiser.state else 0.0 for weight in weights}
    return len(counts) == 1


class DefaultTraining:
    """The state of a training of the default networks.

    Parameters
    ----------
    networks : ModuleDict
        Whose weights move into one block of memory, where steps change them.
    optimiser : Adam
        Whose moments do so too; :meth:`finish` sets its step counts.
    size : int
        Most rows of a step.
    likelihood : {"bce", "mse"}
    """

    def __init__(self, networks: nn.ModuleDict, optimiser: Adam, size: int, likelihood: Likelihood) -> None:
        self._states = [optimiser.state_of(weight) for weight in networks.parameters()]
        self._count = int(self._states[0]["step"])
        self._rate = optimiser.learning_rate
        self._likelihood = likelihood
        named, cpu = dict(networks.named_parameters()), torch.device("cpu")
        weights, *moments = (WeightBlock(named, cpu) for _ in range(1 + len(MOMENTS)))
        for name, weight in named.items():
            weight.data = weights.views[name].copy_(weight.data)
            for moment, block in zip(MOMENTS, moments, strict=True):
                optimiser.state[weight][moment] = block.views[name].copy_(optimiser.state[weight][moment])
        self._gradient = DefaultGradient(weights)
        self._memory = self._gradient.new_memory()
        self._blocks = [block.memory[torch.float32].numpy() for block in (weights, *moments)]
        self._rows = torch.empty(size, weights.views["encoder.hidden.weight"].shape[1])

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Use as many threads as torch does, within the context."""
        self._gradient.threads.use(torch.get_num_threads())
        try:
            yield
        finally:
            self._gradient.threads.use(1)

    def step(self, rows: Tensor, chosen: Tensor, prior_mean: Tensor, noise: Tensor, beta: float) -> tuple[float, float]:
        """Take a step of Adam on a batch; return its summed reconstruction loss and KL divergence.

        Parameters
        ----------
        rows : Tensor, shape (all rows, P)
        chosen : Tensor of int64, shape (N,)
            The rows of the batch.
        prior_mean, noise : Tensor, shapes (N, L)
        beta : float
        """
        batch = self._rows[: len(chosen)]
        self._gather(rows.numpy(), chosen.numpy(), batch.numpy())
        terms = self._gradient.compute(batch, prior_mean, noise, beta, self._likelihood, self._memory)
        self._count += 1
        weights, moment1, moment2 = self._blocks
        numbers = adam_numbers(len(chosen), self._count, self._rate)

        def compute(first: int, end: int) -> None:
            kernels.adam(weights, moment1, moment2, self._memory.memory, numbers, first, end)

        self._gradient.threads.share(compute, len(weights), len(weights))
        return terms

    def finish(self) -> None:
        """Write the number of steps into the optimiser's state."""
        for state in self._states:
            state["step"].fill_(self._count)

    def _gather(self, rows: Float32Array, chosen: IntArray, into: Float32Array) -> None:
        """Copy the chosen rows."""

        def compute(first: int, end: int) -> None:
            np.take(rows, chosen[first:end], axis=0, out=into[first:end], mode="clip")  # else it would copy twice

        self._gradient.threads.share(compute, len(chosen), into.size)


def adam_numbers(rows: float, count: int, learning_rate: float) -> Float32Array:
    """Return the numbers that :func:`actors.kernels.neural.step_kernels.adam` needs in step `count`.

    Parameters
    ----------
    rows : float
        Number of rows over which the gradient was summed.
    count : int
        From 1.
    learning_rate : float
    """
    rate, correction = learning_rate / (1.0 - DECAYS[0] ** count), 1.0 / math.sqrt(1.0 - DECAYS[1] ** count)
    return np.array([1.0 / rows, rate, correction, *DECAYS, EPSILON], np.float32)
