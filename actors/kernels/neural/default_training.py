"""Training steps of the VAE's default networks on the CPU, without automatic differentiation.

The gradient is that of :mod:`actors.kernels.neural.default_gradient`, which has the equations. All weights lie in one
block of memory, in the order of their gradient, all arrays of a step are allocated once, and what is not a matrix
product is done by the kernels of :mod:`actors.kernels.neural.step_kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from actors.kernels.neural import step_kernels as kernels
from actors.kernels.neural.adam import DECAYS, EPSILON, MOMENTS, Adam
from actors.kernels.neural.default_gradient import is_written_out
from actors.kernels.neural.vae_networks import Likelihood
from actors.kernels.neural.weight_block import WeightBlock
from actors.kernels.types import Float32Array, IntArray

PARTS = 4
"""Parts of the rows of a step whose reconstruction losses are added; a constant, as the bits depend on it."""

FEWEST = 65536
"""Fewest numbers that are worth a second thread."""

_LAYERS = ("encoder.hidden", "encoder.heads", "decoder.hidden", "decoder.out")


def applies_to(networks: nn.ModuleDict, optimiser: Adam) -> bool:
    """Return whether :class:`DefaultTraining` can train these networks with this optimiser."""
    if not is_written_out(networks):
        return False
    weights = list(networks.parameters())
    counts = {float(optimiser.state[weight]["step"]) if weight in optimiser.state else 0.0 for weight in weights}
    return len(counts) == 1 and all(w.device.type == "cpu" and w.dtype == torch.float32 for w in weights)


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
        named, cpu = dict(networks.named_parameters()), torch.device("cpu")
        weights, gradient, *moments = (WeightBlock(named, cpu) for _ in range(2 + len(MOMENTS)))
        for name, weight in named.items():
            weight.data = weights.views[name].copy_(weight.data)
            for moment, block in zip(MOMENTS, moments, strict=True):
                optimiser.state[weight][moment] = block.views[name].copy_(optimiser.state[weight][moment])
        # These views have no gradients themselves: torch records nothing of a step.
        self._layers = {layer: _Layer(layer, weights, gradient) for layer in _LAYERS}
        self._blocks = [block.memory[torch.float32].numpy() for block in (weights, *moments, gradient)]
        self._numbers: Float32Array = np.array([0.0, 0.0, 0.0, *DECAYS, EPSILON], np.float32)
        self._reconstruct = kernels.bernoulli if likelihood == "bce" else kernels.gaussian
        self._of_parts: Float32Array = np.empty((PARTS, len(self._layers["decoder.out"].bias)), np.float32)
        self._arrays = _Arrays(size, {name: len(layer.bias) for name, layer in self._layers.items()})
        self._shorter: dict[int, _Arrays] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._workers = 1

    @contextmanager
    def threads(self) -> Iterator[None]:
        """Use as many threads as torch does, within the context."""
        self._workers = min(torch.get_num_threads(), PARTS)
        if self._workers == 1:
            yield
            return
        with ThreadPoolExecutor(self._workers - 1) as self._threads:
            yield
        self._threads, self._workers = None, 1

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
        own, given = self._arrays_of(len(chosen)), (noise.numpy(), prior_mean.numpy())
        first, heads, second, out = (self._layers[layer] for layer in _LAYERS)
        self._gather(rows.numpy(), chosen.numpy(), own.np_rows)
        torch.mm(own.rows, first.transposed, out=own.hidden)
        kernels.rectify(own.np_hidden, first.bias)
        torch.mm(own.hidden, heads.transposed, out=own.heads)
        kernels.halve_log_variances(own.np_heads, heads.bias, own.np_deviation)
        own.deviation.exp_()
        divergence = kernels.sample(own.np_heads, own.np_deviation, *given, own.np_latents)
        torch.mm(own.latents, second.transposed, out=own.decoded)
        kernels.rectify(own.np_decoded, second.bias)
        torch.mm(own.decoded, out.transposed, out=own.logits)
        reconstruction = self._by_logits(own, out)

        torch.mm(own.logits_transposed, own.decoded, out=out.by_weight)
        torch.mm(own.logits, out.weight, out=own.by_decoded)
        kernels.rectify_backward(own.np_by_decoded, own.np_decoded, second.by_bias)
        torch.mm(own.by_decoded_transposed, own.latents, out=second.by_weight)
        torch.mm(own.by_decoded, second.weight, out=own.by_latents)
        latent = own.np_by_latents, own.np_heads, own.np_deviation
        kernels.sample_backward(*latent, *given, np.float32(beta), own.np_by_heads, heads.by_bias)
        torch.mm(own.by_heads_transposed, own.hidden, out=heads.by_weight)
        torch.mm(own.by_heads, heads.weight, out=own.by_hidden)
        kernels.rectify_backward(own.np_by_hidden, own.np_hidden, first.by_bias)
        torch.mm(own.by_hidden_transposed, own.rows, out=first.by_weight)
        self._adam(len(chosen))
        return reconstruction, divergence

    def finish(self) -> None:
        """Write the number of steps into the optimiser's state."""
        for state in self._states:
            state["step"].fill_(self._count)

    def _arrays_of(self, rows: int) -> _Arrays:
        """Return the arrays of a step; those of fewer rows than most are parts of the others."""
        if rows == len(self._arrays.rows):
            return self._arrays
        if rows not in self._shorter:
            self._shorter[rows] = self._arrays.head(rows)
        return self._shorter[rows]

    def _gather(self, rows: Float32Array, chosen: IntArray, into: Float32Array) -> None:
        """Copy the chosen rows."""

        def compute(first: int, end: int) -> None:
            kernels.gather(rows, chosen, into, first, end)

        self._share(compute, len(chosen), into.size)

    def _by_logits(self, own: _Arrays, out: _Layer) -> float:
        """Replace the logits by their gradient, and compute that by their bias; return the reconstruction loss."""
        losses = np.empty(PARTS)

        def compute(first: int, end: int) -> None:
            self._reconstruct(own.np_logits, out.bias, own.np_rows, self._of_parts, losses, first, end)

        self._share(compute, PARTS, own.np_logits.size)
        np.add.reduce(self._of_parts, axis=0, out=out.by_bias)
        return float(losses.sum())

    def _adam(self, count: int) -> None:
        """Take a step along the gradient of the mean loss of `count` rows."""
        weights, moment1, moment2, gradient = self._blocks
        self._count += 1
        self._numbers[0] = 1.0 / count
        self._numbers[1] = self._rate / (1.0 - DECAYS[0] ** self._count)
        self._numbers[2] = 1.0 / math.sqrt(1.0 - DECAYS[1] ** self._count)

        def compute(first: int, end: int) -> None:
            kernels.adam(weights, moment1, moment2, gradient, self._numbers, first, end)

        self._share(compute, len(weights), len(weights))

    def _share(self, compute: Callable[[int, int], None], items: int, numbers: int) -> None:
        """Call a function for stretches of some items, one for each thread if it pays."""
        if self._threads is None or numbers < FEWEST:
            compute(0, items)
            return
        bounds = [items * worker // self._workers for worker in range(self._workers + 1)]
        pending = [self._threads.submit(compute, *pair) for pair in pairwise(bounds[1:])]
        compute(0, bounds[1])
        for future in pending:
            future.result()


class _Layer:
    """The weights of a layer and their gradient, as the arrays that a step uses."""

    def __init__(self, name: str, weights: WeightBlock, gradient: WeightBlock) -> None:
        self.weight = weights.views[f"{name}.weight"]
        self.transposed = self.weight.t()
        self.bias: Float32Array = weights.views[f"{name}.bias"].numpy()
        self.by_weight = gradient.views[f"{name}.weight"]
        self.by_bias: Float32Array = gradient.views[f"{name}.bias"].numpy()


class _Arrays:
    """Activations and gradients of a step, of tensors and as views of their memory; made once, not in each step.

    Parameters
    ----------
    rows : int
    widths : mapping of str to int
        Outputs of each layer.
    memory : mapping of str to Tensor, optional
        Of more rows, whose first ones are used; new memory by default.
    """

    def __init__(self, rows: int, widths: Mapping[str, int], memory: Mapping[str, Tensor] | None = None) -> None:
        hidden, heads, decoded, pixels = (widths[layer] for layer in _LAYERS)
        sizes = {"hidden": hidden, "heads": heads, "latents": heads // 2, "decoded": decoded}
        names = {"rows": pixels, "logits": pixels, "deviation": heads // 2, **sizes}
        names.update({f"by_{name}": width for name, width in sizes.items()})
        self._widths = widths
        self._memory = {
            name: torch.empty(rows, width) if memory is None else memory[name][:rows] for name, width in names.items()
        }
        held = self._memory
        self.rows, self.logits, self.deviation = held["rows"], held["logits"], held["deviation"]
        self.hidden, self.heads, self.latents, self.decoded = (held[name] for name in sizes)
        self.by_hidden, self.by_heads, self.by_latents, self.by_decoded = (held[f"by_{name}"] for name in sizes)
        self.logits_transposed = self.logits.t()
        self.by_hidden_transposed, self.by_heads_transposed = self.by_hidden.t(), self.by_heads.t()
        self.by_decoded_transposed = self.by_decoded.t()
        self.np_rows, self.np_logits, self.np_deviation = (
            array.numpy() for array in (self.rows, self.logits, self.deviation)
        )
        self.np_hidden, self.np_heads, self.np_latents, self.np_decoded = (held[name].numpy() for name in sizes)
        self.np_by_hidden, self.np_by_heads, self.np_by_latents, self.np_by_decoded = (
            held[f"by_{name}"].numpy() for name in sizes
        )

    def head(self, rows: int) -> _Arrays:
        """Return the arrays of the first rows."""
        return _Arrays(rows, self._widths, self._memory)
