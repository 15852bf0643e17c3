"""Layers of the default networks, made without weights, and their initialisation with draws from a given generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


class Linear(nn.Linear):
    """A layer with uninitialised weights, made without drawing from the process's generator.

    torch's function for it, skip_init, imports sympy, which takes a third of a second.
    """

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Convolution(nn.Conv2d):
    """A convolution with uninitialised weights, as :class:`Linear`."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class TransposedConvolution(nn.ConvTranspose2d):
    """A transposed convolution with uninitialised weights, as :class:`Linear`."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


def initialise(layers: nn.Module, generator: torch.Generator, rectified: Sequence[nn.Module] = ()) -> None:
    """Initialise all layers uniformly within ±1/sqrt(inputs), torch's default, with draws from `generator`.

    Where rectified linear units follow, each such layer shrinks what it is given by sqrt(6), deep networks to almost
    nothing. Layers in `rectified` are drawn within ±sqrt(6/inputs), with biases of zero, by which the second moment
    stays the same (K. He et al., "Delving deep into rectifiers", 2015, section 2.2). The inputs are those of one
    output: in a transposed convolution with stride s and kernels of k×k these are channels · (k/s)² on average.
    """
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            inputs = float(layer.in_features)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            inputs = float(layer.in_channels * math.prod(layer.kernel_size))
            if isinstance(layer, nn.ConvTranspose2d):
                inputs /= math.prod(layer.stride)
        else:
            continue
        assert layer.bias is not None
        bound = 1.0 / math.sqrt(inputs)
        if any(layer is each for each in rectified):
            wide = math.sqrt(6.0) * bound
            nn.init.uniform_(layer.weight, -wide, wide, generator=generator)
            nn.init.zeros_(layer.bias)
        else:
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
