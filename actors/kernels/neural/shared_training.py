"""Steps of the VAE's training on rows that workers share: which rows a step uses, their gradient, and Adam's step.

The rows of each chunk are divided into parts, the parts of all chunks into equal stretches, and a step takes one part
from each stretch. Its gradient is the sum of those of the chunks with a part in it, each computed at once. All of this
depends on the numbers of rows alone, not on the workers that hold them; these are busy in every step, as each of them
holds one or more stretches if they are no more than the parts of a step.

P is the number of weights, all networks together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from actors.kernels.jit import as_input
from actors.kernels.neural import step_kernels as kernels
from actors.kernels.neural.adam import MOMENTS
from actors.kernels.neural.default_gradient import DefaultGradient, is_written_out
from actors.kernels.neural.default_training import adam_numbers
from actors.kernels.neural.vae_networks import ClassPrior, Likelihood, UserNetworkError
from actors.kernels.neural.vae_training import loss_terms, make_optimiser
from actors.kernels.neural.weight_block import WeightBlock, copy_of
from actors.kernels.types import Array, Float32Array, FloatArray, IntArray

PART_ROWS = 250
"""Fewest rows of a part of a full batch. Each part costs as much as about 60 rows, however large the networks are: its
gradient is written and added, and the weights are read again."""


_KEPT = ("step", *MOMENTS)
"""What a state has of the optimiser for each weight."""


@dataclass(frozen=True)
class Batches:
    """How the rows of an epoch are divided among its steps.

    Parameters
    ----------
    rows : int
        Number of all rows.
    size : int
        Rows of a chunk, no more than all; the last one may have fewer.
    batch_size : int, optional
        Most rows of a step, all of them by default.
    """

    rows: int
    size: int
    batch_size: int | None

    @cached_property
    def parts_of_chunk(self) -> int:
        """Parts of each chunk, as few as possible; the last chunk may have fewer."""
        if self._is_whole:
            return 1
        assert self.batch_size is not None
        of_batch = max(1, self.batch_size // PART_ROWS)
        return -(-self.size * of_batch // self.batch_size)

    @cached_property
    def parts(self) -> int:
        """Parts of all chunks."""
        before = (self.rows - 1) // self.size
        return before * self.parts_of_chunk + self._count(self.rows - before * self.size)

    @cached_property
    def width(self) -> int:
        """Parts of a step, such that the steps are as few as batches need and about equal; the last may have fewer."""
        if self._is_whole:
            return self.parts
        assert self.batch_size is not None
        of_batch = self.batch_size // -(-self.size // self.parts_of_chunk)
        return -(-self.parts // -(-self.parts // of_batch))

    @cached_property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.parts // self.width)

    def order(self, generator: np.random.Generator) -> IntArray:
        """Return the parts of each step of an epoch, (steps, width); -1 where there is none.

        Part p is the part p mod :attr:`parts_of_chunk` of the chunk p // :attr:`parts_of_chunk`.
        """
        if self.steps == 1:
            return np.arange(self.parts)[None]
        bounds = self.parts * np.arange(self.width + 1) // self.width
        order = np.full((self.steps, self.width), -1)
        for stretch, (first, end) in enumerate(pairwise(bounds)):
            order[: end - first, stretch] = first + generator.permutation(end - first)
        return order

    def parts_of(self, chunk: int, present: IntArray, generator: np.random.Generator) -> list[IntArray]:
        """Return the rows of each part of a chunk.

        Parameters
        ----------
        chunk : int
        present : ndarray of int64
            The rows of the chunk that are not missing; they are spread evenly over the chunk's parts.
        generator : Generator
            The same for all steps of an epoch.
        """
        count = self._count(min(self.size, self.rows - chunk * self.size))
        order = generator.permutation(present)
        return [order[first:end] for first, end in pairwise((len(order) * np.arange(count + 1) // count).tolist())]

    @property
    def _is_whole(self) -> bool:
        """Whether a step uses all rows."""
        return self.batch_size is None or self.batch_size >= self.rows

    def _count(self, rows: int) -> int:
        """Return the number of parts of a chunk with `rows` rows, none larger than those of a full chunk."""
        return -(-rows * self.parts_of_chunk // self.size)


class SharedNetworks:
    """The networks of one worker, with the weights of the present pass.

    Parameters
    ----------
    networks : ModuleDict
        With whatever weights, on the device on which they are used.

    Attributes
    ----------
    device : torch.device
    weights : int
        P, without weights that are not trained, and with the gaps between them in one block of memory.
    """

    def __init__(self, networks: nn.ModuleDict) -> None:
        self.networks = networks
        self.device = next(networks.parameters()).device
        self._trainable = {name: weight for name, weight in networks.named_parameters() if weight.requires_grad}
        # One block of memory for all weights, one for each moment: a step copies three blocks, not as many as weights.
        self._blocks = {name: WeightBlock(self._trainable, self.device) for name in ("weights", *MOMENTS)}
        for name, weight in self._trainable.items():
            weight.data = self._blocks["weights"].views[name].copy_(weight.data)
        shapes = {name: torch.empty(weight.shape, device="meta") for name, weight in self._trainable.items()}
        gradient = WeightBlock(shapes, self.device)
        self._gradients, self._gradient = gradient.views, gradient.memory.get(torch.float32, torch.empty(0))
        self.weights = len(self._gradient)
        self._steps = torch.zeros(len(self._trainable), device=self.device)
        self._written_out = DefaultGradient(self._blocks["weights"]) if is_written_out(networks) else None
        self._optimiser = make_optimiser(networks)
        for (name, weight), step in zip(self._trainable.items(), self._steps, strict=True):
            moments = {moment: self._blocks[moment].views[name] for moment in MOMENTS}
            self._optimiser.state[weight] = {"step": step, **moments}
        # These share the memory of the weights and buffers.
        self._tensors = {f"weights.{name}": value for name, value in networks.state_dict().items()}
        names = {weight.data_ptr(): name for name, weight in self._trainable.items()}
        self._names = {name: names.get(value.data_ptr()) for name, value in self._tensors.items()}
        self._has_buffers = any(True for _ in networks.buffers())
        self._count: int | None = None  # of steps by the compiled kernel
        self._vector: Float32Array  # the block of the weights
        self._last_moments: tuple[Float32Array, Float32Array]
        self._weights: dict[str, Any] = {}  # the arrays that were loaded last
        self._moments: dict[str, Any] = {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load weights, if they are not those that were loaded last.

        Raises
        ------
        ValueError
            If they belong to other networks.
        """
        if _holds(self._weights, state):
            return
        self._weights = {}
        given = {name: state[name] for name in state if name.startswith("weights.")}
        if given.keys() != self._tensors.keys():
            names = (name.removeprefix("weights.") for name in given.keys() ^ self._tensors.keys())
            raise ValueError(f"the weights fit other networks: {sorted(names)} differ")
        for name, tensor in self._tensors.items():
            value = np.asarray(given[name])
            if value.shape != tuple(tensor.shape):
                raise ValueError(f"the weights fit other networks: {name} has the shape {value.shape}")
            if tensor.device.type == "cpu":
                np.copyto(tensor.numpy(), value)
            else:
                tensor.copy_(torch.from_numpy(np.array(value)))
        self._weights = given

    def gradient(
        self,
        rows: Tensor,
        prior_mean: Tensor,
        noise: Tensor,
        beta: float,
        likelihood: Likelihood,
        mixed_precision: bool = False,
        classes: ClassPrior | None = None,
        *,
        gaps: bool = False,
    ) -> tuple[Float32Array, FloatArray]:
        """Return the gradient (P,) of the summed loss of rows, and the sums (2,) of its terms, without β.

        Where a term is not finite, the whole gradient is NaN. With `gaps`, values of rows may be missing (NaN).

        Raises
        ------
        UserNetworkError
            If learning changes more than the weights, such as running means, which are not sums over rows.
        """
        if self._written_out is not None and not mixed_precision and classes is None and not gaps:
            self._written_out.threads.use(torch.get_num_threads())
            into = self._written_out.new_memory()
            terms = np.array(self._written_out.compute(rows, prior_mean, noise, beta, likelihood, into))
            gradient = into.memory
        else:
            of_rows = rows, prior_mean, noise, beta, likelihood, mixed_precision, classes
            gradient, terms = self._differentiate(*of_rows, gaps=gaps)
        if not math.isfinite(terms.sum()):
            gradient = np.full(self.weights, np.nan, np.float32)  # infinities of opposite sign would be added
        return gradient, terms

    def _differentiate(
        self,
        rows: Tensor,
        prior_mean: Tensor,
        noise: Tensor,
        beta: float,
        likelihood: Likelihood,
        mixed_precision: bool,
        classes: ClassPrior | None,
        *,
        gaps: bool,
    ) -> tuple[Float32Array, FloatArray]:
        """Return the gradient (P,), computed automatically, and the terms of the loss."""
        if not self.networks.training:
            self.networks.train()
        for weight in self._trainable.values():
            weight.grad = None
        buffers = dict(self.networks.named_buffers()) if self._has_buffers else {}
        before = {name: buffer._version for name, buffer in buffers.items()}
        reconstruction, kl = loss_terms(
            self.networks, rows, prior_mean, noise, likelihood, mixed_precision, gaps=gaps, classes=classes
        )
        changed = [name for name, buffer in buffers.items() if buffer._version != before[name]]
        if buffers:
            changed += [name for name, buffer in self.networks.named_buffers() if buffer is not buffers.get(name)]
        if changed:
            self._weights = {}
            raise UserNetworkError(
                f"learning changes {changed[0]} of the network, as batch normalisation does: workers cannot share it; "
                "use LayerNorm or GroupNorm, or leave out workers"
            )
        torch.autograd.backward(reconstruction + beta * kl)
        for name, weight in self._trainable.items():
            into = self._gradients[name]
            into.zero_() if weight.grad is None else into.copy_(weight.grad)
        terms = torch.stack((reconstruction.detach(), kl.detach())).cpu().numpy().astype(np.float64)
        return copy_of(self._gradient), terms

    def step(
        self, state: Mapping[str, Any], gradient: Float32Array, rows: float, learning_rate: float
    ) -> dict[str, Array]:
        """Return the weights and moments after one step of Adam from those of a state.

        Parameters
        ----------
        state : mapping
            From :func:`actors.kernels.neural.vae_training.save` or this method; it is not changed.
        gradient : ndarray of float32, shape (P,)
            Sum over rows.
        rows : float
            Their number.
        learning_rate : float
        """
        self.load(state)
        if not _holds(self._moments, state):
            self._load_moments(state)
        self._weights, self._moments = {}, {}  # those of no state until the step is done
        if self._written_out is not None and self._count is not None:
            made = self._step_written_out(self._written_out, gradient, rows, learning_rate)
        else:
            made = self._step_by_torch(gradient, rows, learning_rate)
        # What is not trained stays the same.
        self._weights = {key: state[key] if name is None else made[0][name] for key, name in self._names.items()}
        self._moments = {
            f"adam.{key}.{name}": each for key, of in zip(_KEPT, made[1:], strict=True) for name, each in of.items()
        }
        return {**self._weights, **self._moments}

    def _step_written_out(
        self, written_out: DefaultGradient, gradient: Float32Array, rows: float, learning_rate: float
    ) -> list[Mapping[str, Array]]:
        """Take a step by the compiled kernel; return weights, step counts and moments."""
        assert self._count is not None
        self._count += 1
        numbers = adam_numbers(rows, self._count, learning_rate)
        block, given = self._blocks["weights"], as_input(gradient, np.float32)
        weights, (moment1, moment2) = self._vector, self._last_moments
        into, (new1, new2) = block.empty_like(), (moments := (block.empty_like(), block.empty_like()))

        def compute(first: int, end: int) -> None:
            kernels.adam_apart(weights, moment1, moment2, given, numbers, into, new1, new2, first, end)

        written_out.threads.share(compute, len(weights), len(weights))
        self._last_moments = moments
        steps = dict.fromkeys(self._trainable, np.array(self._count, np.float32))
        return [block.split(into), steps, *map(block.split, moments)]

    def _step_by_torch(self, gradient: Float32Array, rows: float, learning_rate: float) -> list[Mapping[str, Array]]:
        """Take a step with torch; return weights, step counts and moments."""
        self._optimiser.learning_rate = learning_rate
        self._gradient.copy_(torch.from_numpy(gradient / np.float32(rows)))
        for name, weight in self._trainable.items():
            weight.grad = self._gradients[name].to(weight.dtype)
        self._optimiser.step()
        steps = dict(zip(self._trainable, map(np.array, copy_of(self._steps)), strict=True))
        made, *moments = (self._blocks[name].copy() for name in ("weights", *MOMENTS))
        return [made, steps, *moments]

    def _load_moments(self, state: Mapping[str, Any]) -> None:
        """Load Adam's moments and step counts, zeros if the state has none."""
        for name, step in zip(self._trainable, self._steps, strict=True):
            known = f"adam.step.{name}" in state
            for key, into in (("step", step), *((moment, self._blocks[moment].views[name]) for moment in MOMENTS)):
                if known:
                    into.copy_(torch.from_numpy(np.array(state[f"adam.{key}.{name}"])))
                else:
                    into.zero_()
        if self._written_out is not None:
            counts = set(self._steps.tolist())
            self._count = int(counts.pop()) if len(counts) == 1 else None
            self._vector, *moments = (block.memory[torch.float32].numpy() for block in self._blocks.values())
            self._last_moments = moments[0], moments[1]


def _holds(arrays: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Return whether there are arrays and a state holds these very objects."""
    for name, value in arrays.items():
        if state.get(name) is not value:
            return False
    return bool(arrays)
