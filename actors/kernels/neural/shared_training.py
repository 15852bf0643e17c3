"""Steps of the VAE's training on rows that workers share: which rows a step uses, their gradient, and Adam's step.

The rows of each chunk are divided into parts, the parts of all chunks into equal stretches, and a step takes one part
from each stretch. Its gradient is the sum of those of the chunks with a part in it, each computed at once. All of this
depends on the numbers of rows alone, not on the workers that hold them; these are busy in every step, as each of them
holds one or more stretches if they are no more than the parts of a step.

P is the number of weights, all networks together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from actors.kernels.neural.vae_networks import Likelihood, UserNetworkError
from actors.kernels.neural.vae_training import copy_of, loss_terms, make_optimiser, restore, tensors_of
from actors.kernels.types import Array, Float32Array, FloatArray, IntArray

T = TypeVar("T", bound=np.generic)

PART_ROWS = 250
"""Fewest rows of a part of a full batch. Each part costs as much as about 35 rows, however large the networks are: its
gradient is converted and added, and the weights are read again."""


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

    def rows_of(self, parts: IntArray, present: IntArray, generator: np.random.Generator) -> IntArray:
        """Return the rows of some parts of a chunk.

        Parameters
        ----------
        parts : ndarray of int64
            Parts, all of the same chunk, in ascending order.
        present : ndarray of int64
            The rows of the chunk that are not missing; they are spread evenly over the chunk's parts.
        generator : Generator
            The same for all steps of an epoch.
        """
        chunk = int(parts[0]) // self.parts_of_chunk
        count = self._count(min(self.size, self.rows - chunk * self.size))
        order, inside = generator.permutation(present), parts % self.parts_of_chunk
        bounds = len(order) * np.arange(count + 1) // count
        return np.concatenate([order[bounds[part] : bounds[part + 1]] for part in inside])

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
    """

    def __init__(self, networks: nn.ModuleDict) -> None:
        self.networks = networks
        self._optimiser = make_optimiser(networks)
        self._state: dict[str, Tensor] = {}  # weights and moments, which steps change in place
        # These share the memory of the weights and buffers.
        self._tensors = {f"weights.{name}": value for name, value in networks.state_dict().items()}
        self._trainable = [weight for weight in networks.parameters() if weight.requires_grad]
        self._ends = np.cumsum([weight.numel() for weight in self._trainable])
        self._has_buffers = any(True for _ in networks.buffers())
        self._mean = np.empty(self.weights, dtype=np.float32)
        self._weights: dict[str, Any] = {}  # the arrays that were loaded last
        self._moments: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return next(self.networks.parameters()).device

    @property
    def weights(self) -> int:
        """P, without weights that are not trained."""
        return int(self._ends[-1]) if self._trainable else 0

    def load(self, state: Mapping[str, Any]) -> None:
        """Load weights, if they are not those that were loaded last.

        Raises
        ------
        ValueError
            If they belong to other networks.
        """
        if _holds(self._weights, state):
            return
        self._weights, self._moments = {}, {}
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
    ) -> tuple[Float32Array, FloatArray]:
        """Return the gradient (P,) of the summed loss of rows, and the sums (2,) of its terms, without β.

        Where a term is not finite, the whole gradient is NaN.

        Raises
        ------
        UserNetworkError
            If learning changes more than the weights, such as running means, which are not sums over rows.
        """
        if not self.networks.training:
            self.networks.train()
        for weight in self._trainable:
            weight.grad = None
        buffers = dict(self.networks.named_buffers()) if self._has_buffers else {}
        before = {name: buffer._version for name, buffer in buffers.items()}
        reconstruction, kl = loss_terms(self.networks, rows, prior_mean, noise, likelihood, mixed_precision)
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
        terms = torch.stack((reconstruction.detach(), kl.detach())).cpu().numpy().astype(np.float64)
        if not np.isfinite(terms).all():
            return np.full(self.weights, np.nan, np.float32), terms  # infinities of opposite sign would be added
        gradients = (torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self._trainable)
        flat = [gradient.reshape(-1) for gradient in gradients]
        gradient: Float32Array = torch.cat(flat).cpu().numpy() if flat else np.zeros(0, np.float32)
        return gradient, terms

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
            self._optimiser = make_optimiser(self.networks)
            restore(self.networks, self._optimiser, state)
            self._state = {}
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        np.divide(gradient, rows, out=self._mean, casting="same_kind")
        for weight, mean in zip(self._trainable, self._slices(self._mean), strict=True):
            weight.grad = torch.from_numpy(mean).reshape(weight.shape).to(weight.device, weight.dtype)
        self._weights, self._moments = {}, {}  # those of no state until the step is done
        self._optimiser.step()
        self._state = self._state or tensors_of(self.networks, self._optimiser)
        after = {name: copy_of(value) for name, value in self._state.items()}
        self._weights = {name: after[name] for name in self._tensors}
        self._moments = {name: value for name, value in after.items() if name.startswith("adam.")}
        return after

    def _slices(self, flat: npt.NDArray[T]) -> list[npt.NDArray[T]]:
        """Return the parts of a vector (P,) that belong to the weights, in their order."""
        return list(np.split(flat, self._ends[:-1]))


def _holds(arrays: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Return whether there are arrays and a state holds these very objects."""
    return bool(arrays) and all(state.get(name) is value for name, value in arrays.items())
