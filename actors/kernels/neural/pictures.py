"""Networks of the VAE for rows that are pictures, by convolutions, and random shifts of pictures.

Each layer of the encoder halves height and width, rounded up, and the layers of the decoder double them again, to the
same sizes, so that any height and width will do. Sources: V. Dumoulin, F. Visin, "A guide to convolution arithmetic for
deep learning", 2016, relationships 6 and 14 (sizes of strided convolutions and their transposes); A. Radford, L. Metz,
S. Chintala, "Unsupervised representation learning with deep convolutional generative adversarial networks", 2016,
section 3 (strided convolutions in place of pooling).

N is the number of rows, P = height · width · channels the number of values of a row, in this order, L the number of
latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from actors.kernels.neural.layers import Convolution, Linear, TransposedConvolution

KERNEL = 3
"""Height and width of the kernels; odd, so that a layer with stride 2 halves the sizes, rounded up."""

MOST_CHANNELS = 4
"""Most channels of rows that are known as pictures by their shape alone."""


class Picture(NamedTuple):
    """The shape of a picture."""

    height: int
    width: int
    channels: int

    @property
    def values(self) -> int:
        """P."""
        return math.prod(self)


def picture_of(row: Sequence[int], shape: Sequence[int] | None) -> Picture:
    """Return the shape of the pictures that rows are.

    Parameters
    ----------
    row : sequence of int
        The shape of a row.
    shape : sequence of int, optional
        Height, width and, if they are not 1, channels, for rows whose own shape does not say it.

    Raises
    ------
    ValueError
        If the rows are no such pictures.

    Examples
    --------
    >>> picture_of((28, 28), None), picture_of((3072,), (32, 32, 3))
    (Picture(height=28, width=28, channels=1), Picture(height=32, width=32, channels=3))
    """
    own = "×".join(map(str, row))
    if shape is None:
        if len(row) == 2 or (len(row) == 3 and row[2] <= MOST_CHANNELS):
            return Picture(row[0], row[1], row[2] if len(row) == 3 else 1)
        if len(row) == 1:
            raise ValueError(
                f"rows of {own} values do not say that they are pictures; give shape: [height, width] or "
                "[height, width, channels]"
            )
        raise ValueError(f"rows of shape {own} are no pictures, which are height × width or height × width × channels")
    picture = Picture(shape[0], shape[1], shape[2] if len(shape) == 3 else 1)
    fits = math.prod(row) == picture.values
    if not fits or (len(row) > 1 and tuple(row) not in (picture, picture[:2])):
        asked = "×".join(map(str, shape))
        what = f"rows of {own} values" if len(row) == 1 else f"rows of shape {own}"
        raise ValueError(f"{what} are no pictures of shape {asked}; correct shape, which is height, width, channels")
    return picture


def _sizes(picture: Picture, layers: int) -> list[tuple[int, int]]:
    """Return height and width before and after each layer of the encoder."""
    sizes = [(picture.height, picture.width)]
    for _ in range(layers):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


class ConvolutionalEncoder(nn.Module):
    """An encoder of pictures: convolutions with stride 2, and one hidden layer, all of rectified linear units.

    Parameters
    ----------
    picture : Picture
    filters : sequence of int
        Number of filters of each convolution.
    hidden, latent_dim : int
        Widths of the layers after them.

    Attributes
    ----------
    rectified : tuple of Module
        The layers that rectified linear units follow.
    """

    def __init__(self, picture: Picture, filters: Sequence[int], hidden: int, latent_dim: int) -> None:
        super().__init__()
        self._picture = picture
        channels = [picture.channels, *filters]
        self.convolutions = nn.ModuleList(
            Convolution(below, above, KERNEL, stride=2, padding=KERNEL // 2) for below, above in pairwise(channels)
        )
        last = math.prod(_sizes(picture, len(filters))[-1])
        self.hidden = Linear(channels[-1] * last, hidden)
        self.heads = Linear(hidden, 2 * latent_dim)
        self.rectified = (*self.convolutions, self.hidden)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (N, L) each, of q(z | row) for `rows` (N, P)."""
        # As views of (N, height, width, channels) maps are in torch's format "channels last", which is faster.
        maps = rows.reshape(len(rows), *self._picture).permute(0, 3, 1, 2)
        for layer in self.convolutions:
            maps = relu(layer(maps))
        mean, log_variance = self.heads(relu(self.hidden(maps.permute(0, 2, 3, 1).flatten(1)))).chunk(2, dim=1)
        return mean, log_variance


class ConvolutionalDecoder(nn.Module):
    """A decoder of pictures: two dense layers, and transposed convolutions with stride 2, all but the last rectified.

    Parameters
    ----------
    latent_dim, hidden : int
        Widths of the first two layers.
    picture : Picture
    filters : sequence of int
        Number of filters of each convolution of the encoder; the decoder's follow in reverse.

    Attributes
    ----------
    rectified : tuple of Module
        The layers that rectified linear units follow.
    """

    def __init__(self, latent_dim: int, hidden: int, picture: Picture, filters: Sequence[int]) -> None:
        super().__init__()
        sizes, channels = _sizes(picture, len(filters))[::-1], [*filters[::-1], picture.channels]
        self._first = (*sizes[0], channels[0])
        self.hidden = Linear(latent_dim, hidden)
        self.maps = Linear(hidden, math.prod(self._first))
        self.convolutions = nn.ModuleList(
            TransposedConvolution(
                above,
                below,
                KERNEL,
                stride=2,
                padding=KERNEL // 2,
                # Without it a layer makes 2n - 1 of n: the size below is that or, if it was even, one more.
                output_padding=(1 - after[0] % 2, 1 - after[1] % 2),
            )
            for (above, below), after in zip(pairwise(channels), sizes[1:], strict=True)
        )
        self.rectified = (self.hidden, self.maps, *self.convolutions[:-1])

    def forward(self, latents: Tensor) -> Tensor:
        """Return the logits (N, P) for `latents` (N, L)."""
        maps = self.maps(relu(self.hidden(latents))).view(len(latents), *self._first).permute(0, 3, 1, 2)
        for layer in self.convolutions:
            maps = layer(relu(maps))
        logits: Tensor = maps.permute(0, 2, 3, 1).flatten(1)
        return logits


class Augmentation(NamedTuple):
    """Random changes of pictures, drawn anew for each picture of each step of the training.

    Parameters
    ----------
    picture : Picture
    shift : int
        Most pixels by which a picture is moved, up or down and left or right; the row and the column of pixels at its
        edge are repeated. All moves have the same probability.
    """

    picture: Picture
    shift: int

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return changed rows (N, P), with draws from `generator`, which is on their device."""
        height, width, channels = self.picture
        moves = torch.randint(
            -self.shift, self.shift + 1, (2, len(rows), 1), generator=generator, device=generator.device
        )
        down = (moves[0] + torch.arange(height, device=rows.device)).clamp_(0, height - 1)
        right = (moves[1] + torch.arange(width, device=rows.device)).clamp_(0, width - 1)
        pixels = (down[:, :, None] * width + right[:, None, :]).flatten(1)
        if channels == 1:
            return rows.gather(1, pixels)
        of_pixels = rows.view(len(rows), -1, channels)
        return of_pixels.gather(1, pixels[:, :, None].expand(-1, -1, channels)).flatten(1)
