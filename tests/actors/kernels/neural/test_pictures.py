"""Networks and random shifts of pictures, beside scipy's correlations and numpy's padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from scipy.stats import chisquare

from actors.kernels.neural.layers import initialise
from actors.kernels.neural.pictures import (
    KERNEL,
    Augmentation,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    Picture,
    picture_of,
)
from actors.kernels.neural.vae_networks import build
from actors.types import Array

SHAPES = [Picture(28, 28, 1), Picture(8, 8, 1), Picture(7, 5, 3), Picture(1, 9, 2), Picture(1, 1, 1)]


def networks(picture: Picture, filters: tuple[int, ...] = (3, 4)) -> torch.nn.ModuleDict:
    pair = build(picture.values, 6, 2, seed=1, picture=picture, filters=filters)
    initialise(pair, torch.Generator().manual_seed(2))  # with biases
    return pair


def weights_of(layer: torch.nn.Module) -> list[Array]:
    return [weight.detach().numpy().astype(np.float64) for weight in layer.parameters()]


def dense(layer: torch.nn.Module, inputs: Array) -> Array:
    weight, bias = weights_of(layer)
    product: Array = inputs @ weight.T + bias
    return product


def halve(maps: Array, layer: torch.nn.Module) -> Array:
    """Return the rectified convolution with stride 2 of maps (H, W, C)."""
    weight, bias = weights_of(layer)
    padded = np.pad(maps, [(KERNEL // 2,) * 2] * 2 + [(0, 0)])
    sums = [
        sum(correlate2d(padded[:, :, c], weight[k, c], mode="valid")[::2, ::2] for c in range(maps.shape[2])) + bias[k]
        for k in range(len(weight))
    ]
    return np.maximum(np.stack(sums, axis=2), 0)


def double(maps: Array, layer: torch.nn.Module, size: tuple[int, int]) -> Array:
    """Return the transposed convolution with stride 2 of maps (H, W, C), by adding each value's kernel."""
    weight, bias = weights_of(layer)
    height, width, margin = *size, KERNEL // 2
    into = np.zeros((2 * maps.shape[0] + KERNEL, 2 * maps.shape[1] + KERNEL, weight.shape[1]))
    for (row, column, channel), value in np.ndenumerate(maps):
        place = slice(2 * row, 2 * row + KERNEL), slice(2 * column, 2 * column + KERNEL)
        into[place] += value * weight[channel].transpose(1, 2, 0)
    found: Array = into[margin : margin + height, margin : margin + width] + bias
    return found


@pytest.mark.parametrize("picture", SHAPES, ids=str)
def test_networks_are_those_of_scipy(picture: Picture) -> None:
    pair, generator = networks(picture), np.random.default_rng(0)
    rows, latents = generator.normal(size=(2, picture.values)), generator.normal(size=(2, 2))
    encoder, decoder = pair["encoder"], pair["decoder"]
    with torch.no_grad():
        found = torch.cat(encoder(torch.tensor(rows, dtype=torch.float32)), dim=1).numpy()
        decoded = decoder(torch.tensor(latents, dtype=torch.float32)).numpy()
    sizes = [picture[:2]]
    for _ in encoder.convolutions:
        sizes.append(tuple(-(-length // 2) for length in sizes[-1]))
    for row, latent, coded, pixels in zip(rows, latents, found, decoded, strict=True):
        maps = row.reshape(picture)
        for layer in encoder.convolutions:
            maps = halve(maps, layer)
        hidden = np.maximum(dense(encoder.hidden, maps.ravel()), 0)
        np.testing.assert_allclose(coded, dense(encoder.heads, hidden), atol=1e-5)
        maps = dense(decoder.maps, np.maximum(dense(decoder.hidden, latent), 0)).reshape(*sizes[-1], -1)
        for layer, size in zip(decoder.convolutions, sizes[-2::-1], strict=True):
            maps = double(np.maximum(maps, 0), layer, size)
        np.testing.assert_allclose(pixels.reshape(picture), maps, atol=1e-5)


def test_weights_are_drawn_from_the_seed_and_within_their_bounds() -> None:
    before = torch.random.get_rng_state()
    one, two = (build(784, 64, 8, seed, picture=SHAPES[0], filters=(16, 32)) for seed in (1, 1))
    other = build(784, 64, 8, 2, picture=SHAPES[0], filters=(16, 32))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in one.named_parameters():
        assert torch.equal(weight, two.get_parameter(name))
        assert weight.ndim == 1 or not torch.equal(weight, other.get_parameter(name))
    # Inputs of one output: kernels of 9 values, of which a transposed one with stride 2 gives 9/4 to each output.
    for layer, inputs, bound in (
        (one["encoder"].convolutions[1], 16 * 9, 6**0.5),
        (one["encoder"].heads, 64, 1),
        (one["decoder"].maps, 64, 6**0.5),
        (one["decoder"].convolutions[0], 32 * 9 / 4, 6**0.5),
    ):
        largest = float(layer.weight.detach().abs().max()) * inputs**0.5
        assert 0.97 * bound < largest <= bound


def test_initial_layers_keep_the_scale_of_what_they_get() -> None:
    picture = Picture(32, 32, 3)
    pair = build(picture.values, 256, 64, 0, picture=picture, filters=(32, 32, 32, 32))
    with torch.no_grad():
        maps = torch.randn(20, picture.values, generator=torch.Generator().manual_seed(0))
        seen = []
        for layer in pair["encoder"].rectified:
            layer.register_forward_hook(lambda _layer, _given, made: seen.append(float(made.square().mean())))
        pair["encoder"](maps)
    # Twice the second moment of what is rectified, less what is lost at the edges, layer by layer.
    assert all(0.5 < moment < 2.5 for moment in seen), seen


@pytest.mark.parametrize("channels", [1, 3])
def test_shifted_pictures_are_those_of_numpy(channels: int) -> None:
    picture, most, count = Picture(5, 4, channels), 2, 5000
    row = np.random.default_rng(0).normal(size=picture).astype(np.float32)
    row[0, 1] = np.nan  # a missing pixel moves with the others
    padded = np.pad(row, [(most, most), (most, most), (0, 0)], mode="edge")
    moves = [(down, right) for down in range(-most, most + 1) for right in range(-most, most + 1)]
    expected = np.array([
        padded[most + down : most + down + 5, most + right : most + right + 4].ravel() for down, right in moves
    ])  # fmt: skip
    generator, before = torch.Generator().manual_seed(0), torch.random.get_rng_state()
    rows = torch.tensor(row.reshape(1, -1)).repeat(count, 1)
    found = Augmentation(picture, most)(rows, generator).numpy()
    assert torch.equal(torch.random.get_rng_state(), before)
    matches = (np.nan_to_num(found, nan=9)[:, None] == np.nan_to_num(expected, nan=9)).all(axis=2)
    assert (matches.sum(axis=1) == 1).all()
    assert chisquare(matches.sum(axis=0)).pvalue > 1e-3  # all moves have the same probability
    assert np.array_equal(rows[0].numpy(), row.ravel(), equal_nan=True)  # the rows themselves stay


@pytest.mark.parametrize(
    ("row", "shape", "picture"),
    [
        ((28, 20), None, (28, 20, 1)),
        ((8, 9, 3), None, (8, 9, 3)),
        ((12,), (3, 4), (3, 4, 1)),
        ((24,), (3, 4, 2), (3, 4, 2)),
        ((3, 4), (3, 4, 1), (3, 4, 1)),
        ((3, 4, 5), (3, 4, 5), (3, 4, 5)),
    ],
)
def test_rows_that_are_pictures(row: tuple[int, ...], shape: tuple[int, ...] | None, picture: Picture) -> None:
    assert picture_of(row, shape) == picture


@pytest.mark.parametrize(
    ("row", "shape", "message"),
    [
        ((784,), None, r"rows of 784 values do not say that they are pictures; give shape: \[height, width\]"),
        ((3, 32, 32), None, "rows of shape 3×32×32 are no pictures, which are height × width"),
        ((2, 2, 2, 2), None, "rows of shape 2×2×2×2 are no pictures"),
        ((784,), (28, 29), "rows of 784 values are no pictures of shape 28×29; correct shape"),
        ((3, 32, 32), (32, 32, 3), "rows of shape 3×32×32 are no pictures of shape 32×32×3"),
    ],
)
def test_rows_that_are_no_pictures(row: tuple[int, ...], shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        picture_of(row, shape)


def test_networks_reach_every_pixel() -> None:
    picture = Picture(9, 6, 2)
    encoder, decoder = ConvolutionalEncoder(picture, (4,), 16, 2), ConvolutionalDecoder(2, 16, picture, (4,))
    for network in (encoder, decoder):
        for weight in network.parameters():
            torch.nn.init.constant_(weight, 0.1)
    row = torch.rand(1, picture.values, requires_grad=True)
    encoder(row)[0].sum().backward()
    assert row.grad is not None
    assert (row.grad > 0).all()
    assert (decoder(torch.ones(1, 2)) > 0.1).all()
