"""Layers of the default networks, made without weights, and their initialisation with draws from a given generator."""

from __future__ import annotations

import math

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


def initialise(layers: nn.Module, generator: torch.Generator) -> None:
    """Initialise all layers uniformly within ±1/sqrt(inputs), torch's default, with draws from `generator`.

    The inputs are those of one output. In a transposed convolution with stride s and kernels of k×k these are
    channels · (k/s)² on average, fewer than those of a convolution.
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
        bound = 1.0 / math.sqrt(inputs)
        nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        if layer.bias is not None:
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
