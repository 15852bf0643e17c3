"""The gradient of the VAE's loss for the default encoder and decoder, written out, on the CPU.

Automatic differentiation returns the same up to rounding, and takes longer: it writes each gradient into memory of its
own, reads the reconstruction more often, and has a cost for each operation. Here all weights lie in one block of
memory, their gradient in another, all activations are allocated once, and what is not a matrix product is done by the
kernels of :mod:`actors.kernels.neural.step_kernels`.

The networks and the loss of a row x with prior mean μ and noise ε ~ N(0, I) are (Kingma and Welling 2014, appendix B)

    h = relu(W1 x + b1)    (m, s) = W2 h + b2    z = m + exp(s/2) ε
    g = relu(W3 z + b3)    y = W4 g + b4
    loss = -log p(x | y) + β/2 Σ_l (exp(s_l) + (m_l - μ_l)² - 1 - s_l)

with -log p(x | y) = ½ ‖y - x‖² or, for a Bernoulli distribution, Σ_p softplus(y_p) - x_p y_p. The derivatives by y are
y - x and sigmoid(y) - x; the others follow by the chain rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from actors.kernels.neural import step_kernels as kernels
from actors.kernels.neural.vae_networks import Decoder, Encoder, Likelihood
from actors.kernels.neural.weight_block import WeightBlock
from actors.kernels.types import Float32Array

PARTS = 4
"""Parts of the rows of a step whose reconstruction losses are added; a constant, as the bits depend on it."""

FEWEST = 65536
"""Fewest numbers that are worth a second thread."""

_LAYERS = ("encoder.hidden", "encoder.heads", "decoder.hidden", "decoder.out")
_NAMES = [(f"{layer}.weight", f"{layer}.bias") for layer in _LAYERS]


def is_written_out(networks: nn.ModuleDict) -> bool:
    """Return whether :class:`DefaultGradient` is that of these networks.

    These are the default ones on the CPU, with all weights trained, of float32.
    """
    default = type(networks["encoder"]) is Encoder and type(networks["decoder"]) is Decoder
    return default and all(
        weight.requires_grad and weight.device.type == "cpu" and weight.dtype == torch.float32
        for weight in networks.parameters()
    )


class KernelThreads:
    """Threads that share the kernels of a step, beside those of torch's products."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._count = 1

    def use(self, count: int) -> None:
        """Use this many threads from now on, at most :data:`PARTS`."""
        if (count := max(1, min(count, PARTS))) == self._count:
            return
        if self._pool is not None:
            self._pool.shutdown()
        self._pool, self._count = None if count == 1 else ThreadPoolExecutor(count - 1), count

    def share(self, compute: Callable[[int, int], None], items: int, numbers: int) -> None:
        """Call a function for stretches of some items, one for each thread if these are enough numbers."""
        if self._pool is None or numbers < FEWEST:
            compute(0, items)
            return
        bounds = [items * thread // self._count for thread in range(self._count + 1)]
        pending = [self._pool.submit(compute, *pair) for pair in pairwise(bounds[1:])]
        compute(0, bounds[1])
        for future in pending:
            future.result()


class DefaultGradient:
    """The gradient of the default networks at weights in one block of memory.

    Parameters
    ----------
    weights : WeightBlock
        Those of networks for which :func:`is_written_out`, by their names.

    Attributes
    ----------
    threads : KernelThreads
        One, until others are asked for.
    """

    def __init__(self, weights: WeightBlock) -> None:
        self._weights = weights
        # These views have no gradients themselves: torch records nothing of a step.
        self._layers = {layer: _Layer(layer, weights) for layer in _LAYERS}
        self.threads = KernelThreads()
        self._of_parts: Float32Array = np.empty((PARTS, len(self._layers["decoder.out"].bias)), np.float32)
        self._arrays = _Arrays(0, {name: len(layer.bias) for name, layer in self._layers.items()})
        self._shorter: dict[int, _Arrays] = {}

    def new_memory(self) -> GradientMemory:
        """Return memory for a gradient."""
        return GradientMemory(self._weights)

    def compute(
        self,
        rows: Tensor,
        prior_mean: Tensor,
        noise: Tensor,
        beta: float,
        likelihood: Likelihood,
        into: GradientMemory,
    ) -> tuple[float, float]:
        """Compute the gradient of the summed loss of rows; return the summed reconstruction loss and KL divergence.

        Parameters
        ----------
        rows, prior_mean, noise : Tensor, shapes (N, P), (N, L), (N, L)
        beta : float
            β.
        likelihood : {"bce", "mse"}
        into : GradientMemory
            Receives the gradient.
        """
        own, given = self._arrays_of(rows.shape[0]), (noise.numpy(), prior_mean.numpy())
        first, heads, second, out = (self._layers[layer] for layer in _LAYERS)
        (by_w1, by_b1), (by_w2, by_b2), (by_w3, by_b3), (by_w4, by_b4) = into.layers
        torch.mm(rows, first.transposed, out=own.hidden)
        kernels.rectify(own.np_hidden, first.bias)
        torch.mm(own.hidden, heads.transposed, out=own.heads)
        kernels.halve_log_variances(own.np_heads, heads.bias, own.np_deviation)
        own.deviation.exp_()
        divergence = kernels.sample(own.np_heads, own.np_deviation, *given, own.np_latents)
        torch.mm(own.latents, second.transposed, out=own.decoded)
        kernels.rectify(own.np_decoded, second.bias)
        torch.mm(own.decoded, out.transposed, out=own.logits)
        reconstruction = self._by_logits(own, rows.numpy(), out.bias, by_b4, likelihood)

        torch.mm(own.logits_transposed, own.decoded, out=by_w4)
        torch.mm(own.logits, out.weight, out=own.by_decoded)
        kernels.rectify_backward(own.np_by_decoded, own.np_decoded, by_b3)
        torch.mm(own.by_decoded_transposed, own.latents, out=by_w3)
        torch.mm(own.by_decoded, second.weight, out=own.by_latents)
        latent = own.np_by_latents, own.np_heads, own.np_deviation
        kernels.sample_backward(*latent, *given, np.float32(beta), own.np_by_heads, by_b2)
        torch.mm(own.by_heads_transposed, own.hidden, out=by_w2)
        torch.mm(own.by_heads, heads.weight, out=own.by_hidden)
        kernels.rectify_backward(own.np_by_hidden, own.np_hidden, by_b1)
        torch.mm(own.by_hidden_transposed, rows, out=by_w1)
        return reconstruction, divergence

    def _arrays_of(self, rows: int) -> _Arrays:
        """Return the arrays of a step; those of fewer rows than most are parts of the others."""
        if rows == self._arrays.count:
            return self._arrays
        if rows > self._arrays.count:
            self._arrays, self._shorter = self._arrays.of(rows), {}
            return self._arrays
        if rows not in self._shorter:
            self._shorter[rows] = self._arrays.head(rows)
        return self._shorter[rows]

    def _by_logits(
        self, own: _Arrays, rows: Float32Array, bias: Float32Array, by_bias: Float32Array, likelihood: Likelihood
    ) -> float:
        """Replace the logits by their gradient, and compute that by their bias; return the reconstruction loss."""
        losses, reconstruct = np.empty(PARTS), kernels.bernoulli if likelihood == "bce" else kernels.gaussian

        def compute(first: int, end: int) -> None:
            reconstruct(own.np_logits, bias, rows, self._of_parts, losses, first, end)

        self.threads.share(compute, PARTS, own.np_logits.size)
        np.add.reduce(self._of_parts, axis=0, out=by_bias)
        return float(losses.sum())


class GradientMemory:
    """Memory for the gradient of weights, each weight's where their block has it.

    Attributes
    ----------
    memory : ndarray of float32
    layers : list of (Tensor, ndarray)
        The gradients by the weight and the bias of each layer, in the order of the computation.
    """

    def __init__(self, weights: WeightBlock) -> None:
        self.memory: Float32Array = weights.empty_like()
        views = weights.split(self.memory)
        self.layers = [(torch.from_numpy(views[weight]), views[bias]) for weight, bias in _NAMES]


class _Layer:
    """The weights of a layer, as the arrays that a step uses."""

    def __init__(self, name: str, weights: WeightBlock) -> None:
        self.weight = weights.views[f"{name}.weight"]
        self.transposed = self.weight.t()
        self.bias: Float32Array = weights.views[f"{name}.bias"].numpy()


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
        names = {"logits": pixels, "deviation": heads // 2, **sizes}
        names.update({f"by_{name}": width for name, width in sizes.items()})
        self.count = rows
        self._widths = widths
        self._memory = {
            name: torch.empty(rows, width) if memory is None else memory[name][:rows] for name, width in names.items()
        }
        held = self._memory
        self.logits, self.deviation = held["logits"], held["deviation"]
        self.hidden, self.heads, self.latents, self.decoded = (held[name] for name in sizes)
        self.by_hidden, self.by_heads, self.by_latents, self.by_decoded = (held[f"by_{name}"] for name in sizes)
        self.logits_transposed = self.logits.t()
        self.by_hidden_transposed, self.by_heads_transposed = self.by_hidden.t(), self.by_heads.t()
        self.by_decoded_transposed = self.by_decoded.t()
        self.np_logits, self.np_deviation = self.logits.numpy(), self.deviation.numpy()
        self.np_hidden, self.np_heads, self.np_latents, self.np_decoded = (held[name].numpy() for name in sizes)
        self.np_by_hidden, self.np_by_heads, self.np_by_latents, self.np_by_decoded = (
            held[f"by_{name}"].numpy() for name in sizes
        )

    def of(self, rows: int) -> _Arrays:
        """Return new arrays of this many rows."""
        return _Arrays(rows, self._widths)

    def head(self, rows: int) -> _Arrays:
        """Return the arrays of the first rows."""
        return _Arrays(rows, self._widths, self._memory)
