"""Tensors of the sizes of some weights in one block of memory, and copies of tensors in host memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from actors.kernels.types import Array

ALIGNED = 16
"""Each weight begins at a multiple of as many numbers, 64 bytes, as where torch allocates it alone."""


class WeightBlock:
    """Tensors of the sizes of some weights in one block of memory, from which they are copied at once.

    Parameters
    ----------
    weights : mapping of str to Tensor
    device : torch.device

    Attributes
    ----------
    memory : dict of torch.dtype to Tensor
        One vector for the weights of each type, zero where they leave gaps.
    views : dict of str to Tensor
        The part of each weight, in its shape.
    """

    def __init__(self, weights: Mapping[str, Tensor], device: torch.device) -> None:
        self._places: dict[str, tuple[torch.dtype, slice, torch.Size]] = {}
        ends: dict[torch.dtype, int] = {}
        for name, weight in weights.items():
            first = ends.get(weight.dtype, 0)
            self._places[name] = weight.dtype, slice(first, first + weight.numel()), weight.shape
            ends[weight.dtype] = first + -(-weight.numel() // ALIGNED) * ALIGNED
        ends_of_parts = [(part.stop, -(-part.stop // ALIGNED) * ALIGNED) for _, part, _ in self._places.values()]
        self._gaps = [slice(end, aligned) for end, aligned in ends_of_parts if end < aligned]
        self._length = ends.get(torch.float32, 0)
        self.memory = {dtype: torch.zeros(end, dtype=dtype, device=device) for dtype, end in ends.items()}
        self.views = {name: self.memory[dtype][part].view(shape) for name, (dtype, part, shape) in self._places.items()}

    def empty_like(self) -> Array:
        """Return a new vector like the memory of weights that are all of float32; zero in the gaps alone."""
        memory = np.empty(self._length, np.float32)
        for gap in self._gaps:
            memory[gap] = 0.0
        return memory

    def split(self, memory: Array) -> dict[str, Array]:
        """Return the part of each weight in a vector of :meth:`empty_like`, in its shape."""
        return {
            name: memory[part] if len(shape) == 1 else memory[part].reshape(shape)
            for name, (_, part, shape) in self._places.items()
        }

    def copy(self) -> dict[str, Array]:
        """Return a copy of all tensors in host memory."""
        memory = {dtype: copy_of(values) for dtype, values in self.memory.items()}
        return {name: memory[dtype][part].reshape(shape) for name, (dtype, part, shape) in self._places.items()}


def copy_of(value: Tensor) -> Array:
    """Return a copy of a tensor in host memory."""
    return np.array(value.detach().cpu().numpy())
