"""Compiled kernels of a step of the VAE's default networks: what is left beside the matrix products.

Each reads and writes its arrays once, row by row, in loops that the compiler turns into vector instructions. All arrays
are float32 and C-contiguous; sums over rows of the terms of the loss are float64.

N is the number of rows of the step, P the number of pixels, L the number of latent dimensions, H that of hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from actors.kernels.jit import kernel
from actors.kernels.types import Float32Array, FloatArray

FLUSH = 64
"""Rows after which the products and sums of a column are added in float64. A product of as many factors, each between 1
and 2, is below 2^64; one of eight columns is below 2^512."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_LOG2_E = np.float32(1.4426950408889634)
_LOWEST = np.float32(-125.0)  # 2^-125 is a normal number, and 1 + 2^-125 is 1
_ROUND = np.float32(12582912.0)  # 1.5 · 2^23: adding it rounds to an integer, in the low bits of the sum
_BIAS, _MANTISSA = np.int32(0x3F800000), np.int32(23)
# Taylor's series of 2^f, |f| <= 1/2; its error is 1.4e-7 of 2^f at the ends, about one unit of the last place.
_C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(math.log(2.0) ** n / math.factorial(n)) for n in range(1, 7))


def _instruction(generate: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """Return a function for kernels that is one machine instruction."""
    match len(arguments):
        case 1:
            return intrinsic(lambda _context, _a: (result(*arguments), generate))
        case _:
            return intrinsic(lambda _context, _a, _b, _c: (result(*arguments), generate))


def _bitcast(target: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.bitcast(values[0], target.get_value_type(signature.return_type))


def _fused(_target: Any, builder: Any, _signature: Any, values: Any) -> Any:
    return builder.fma(*values)


_fma = _instruction(_fused, types.float32, *(types.float32,) * 3)
"""a * b + c of three float32, rounded once."""

_bits_of = _instruction(_bitcast, types.int32, types.float32)
"""The bits of a float32 as an int32."""

_as_float = _instruction(_bitcast, types.float32, types.int32)
"""The float32 with the bits of an int32."""


@kernel
def _factor(v: np.float32) -> np.float32:
    """Return 1 + exp(-|v|)."""
    # exp(-|v|) = 2^t = 2^i 2^f with the integer i next to t = -|v| log2(e).
    t = -abs(v) * _LOG2_E
    t = t if t > _LOWEST else _LOWEST
    rounded = t + _ROUND
    f = t - (rounded - _ROUND)
    power = _as_float(np.int32(_bits_of(rounded) << _MANTISSA) + _BIAS)
    f = _fma(f, _fma(f, _fma(f, _fma(f, _fma(f, _fma(f, _C6, _C5), _C4), _C3), _C2), _C1), _ONE)
    factor: np.float32 = _fma(power, f, _ONE)
    return factor


@kernel
def _flushed(loss: float, product: Float32Array, linear: Float32Array) -> float:
    """Return a loss with the logarithms of products and linear terms added; set these to 1 and 0."""
    factor, P = 1.0, len(product)
    for p in range(P):
        loss += linear[p]
        factor *= product[p]
        if p % 8 == 7 or p == P - 1:
            loss += math.log(factor)
            factor = 1.0
        product[p], linear[p] = _ONE, _ZERO
    return loss


@kernel
def bernoulli_loss(logits: Float32Array, rows: Float32Array) -> float:
    """Return the loss Σ softplus(y) - x y of logits y and rows x (N, P), as :func:`bernoulli` computes it."""
    N, P = logits.shape
    product, linear, loss = np.ones(P, np.float32), np.zeros(P, np.float32), 0.0
    for n in range(N):
        y, x = logits[n], rows[n]
        for p in range(P):
            v = y[p]
            product[p] *= _factor(v)
            linear[p] += (v if v > _ZERO else _ZERO) - x[p] * v
        if n % FLUSH == FLUSH - 1 or n == N - 1:
            loss = _flushed(loss, product, linear)
    return loss


@kernel
def gaussian_loss(outputs: Float32Array, rows: Float32Array) -> float:
    """Return the loss ½ ‖y - x‖² of outputs y and rows x (N, P)."""
    N, P = outputs.shape
    squares, loss = np.zeros(P, np.float32), 0.0
    for n in range(N):
        y, x = outputs[n], rows[n]
        for p in range(P):
            d = y[p] - x[p]
            squares[p] += d * d
        if n % FLUSH == FLUSH - 1 or n == N - 1:
            for p in range(P):
                loss += 0.5 * squares[p]
                squares[p] = _ZERO
    return loss


@kernel
def bernoulli(
    logits: Float32Array,
    bias: Float32Array,
    rows: Float32Array,
    by_bias: Float32Array,
    losses: FloatArray,
    first: int,
    end: int,
) -> None:
    """Replace logits by the gradient of the loss, sigmoid(y) - x; compute the loss Σ softplus(y) - x y.

    softplus(y) = max(y, 0) + log(1 + exp(-|y|)) and sigmoid(|y|) = 1 / (1 + exp(-|y|)) share the one exponential; the
    logarithms of the factors 1 + exp(-|y|) of some rows and columns are that of their product.

    Parameters
    ----------
    logits : ndarray, shape (N, P)
        y without the bias.
    bias : ndarray, shape (P,)
    rows : ndarray, shape (N, P)
        x.
    by_bias : ndarray, shape (parts, P)
        Receives the gradient by the bias of each part of the rows.
    losses : ndarray of float64, shape (parts,)
        Receives the loss of each part.
    first, end : int
        The parts that are computed.
    """
    N, P = logits.shape
    product, linear = np.ones(P, np.float32), np.zeros(P, np.float32)
    for part in range(first, end):
        begin, stop = N * part // len(losses), N * (part + 1) // len(losses)
        loss, column = 0.0, by_bias[part]
        column[:] = _ZERO
        for n in range(begin, stop):
            y, x = logits[n], rows[n]
            for p in range(P):
                v = y[p] + bias[p]
                factor = _factor(v)
                product[p] *= factor
                linear[p] += (v if v > _ZERO else _ZERO) - x[p] * v
                s = _ONE / factor
                d = (s if v >= _ZERO else _ONE - s) - x[p]
                y[p] = d
                column[p] += d
            if (n - begin) % FLUSH == FLUSH - 1 or n == stop - 1:
                loss = _flushed(loss, product, linear)
        losses[part] = loss


@kernel
def gaussian(
    logits: Float32Array,
    bias: Float32Array,
    rows: Float32Array,
    by_bias: Float32Array,
    losses: FloatArray,
    first: int,
    end: int,
) -> None:
    """Replace the decoder's outputs by the gradient of the loss, y - x; compute the loss ½ ‖y - x‖².

    Parameters are those of :func:`bernoulli`.
    """
    N, P = logits.shape
    squares = np.zeros(P, np.float32)
    for part in range(first, end):
        begin, stop = N * part // len(losses), N * (part + 1) // len(losses)
        loss, column = 0.0, by_bias[part]
        column[:] = _ZERO
        for n in range(begin, stop):
            y, x = logits[n], rows[n]
            for p in range(P):
                y[p] += bias[p] - x[p]
            for p in range(P):
                column[p] += y[p]
                squares[p] += y[p] * y[p]
            if (n - begin) % FLUSH == FLUSH - 1 or n == stop - 1:
                for p in range(P):
                    loss += 0.5 * squares[p]
                    squares[p] = _ZERO
        losses[part] = loss


@kernel
def rectify(outputs: Float32Array, bias: Float32Array) -> None:
    """Replace the outputs (N, H) of a layer by max(output + bias, 0)."""
    for n in range(len(outputs)):
        row = outputs[n]
        for h in range(row.shape[0]):
            value = row[h] + bias[h]
            # Written this way round, a value that is not a number stays so.
            row[h] = _ZERO if value <= _ZERO else value


@kernel
def rectify_backward(gradient: Float32Array, activation: Float32Array, by_bias: Float32Array) -> None:
    """Replace the gradient (N, H) after a rectified linear unit by that before it; compute that by the bias (H,)."""
    by_bias[:] = _ZERO
    for n in range(len(gradient)):
        row, active = gradient[n], activation[n]
        for h in range(row.shape[0]):
            value = _ZERO if active[h] <= _ZERO else row[h]
            row[h] = value
            by_bias[h] += value


@kernel
def halve_log_variances(heads: Float32Array, bias: Float32Array, into: Float32Array) -> None:
    """Add the bias (2 L,) to the heads (N, 2 L), which are m and log σ²; write log σ to `into` (N, L)."""
    half, L = np.float32(0.5), into.shape[1]
    for n in range(len(heads)):
        for k in range(2 * L):
            heads[n, k] += bias[k]
        for k in range(L):
            into[n, k] = half * heads[n, L + k]


@kernel
def sample(
    heads: Float32Array, deviation: Float32Array, noise: Float32Array, prior: Float32Array, latents: Float32Array
) -> float:
    """Compute z = m + σ ε; return the KL divergence ½ Σ ((m - μ)² + σ² - log σ² - 1).

    Parameters
    ----------
    heads : ndarray, shape (N, 2 L)
        m and log σ².
    deviation, noise, prior : ndarray, shape (N, L)
        σ, ε and μ.
    latents : ndarray, shape (N, L)
        Receives z.
    """
    divergence = 0.0
    L = latents.shape[1]
    for n in range(len(latents)):
        for k in range(L):
            m, s = heads[n, k], deviation[n, k]
            latents[n, k] = m + s * noise[n, k]
            d = m - prior[n, k]
            divergence += d * d + s * s - heads[n, L + k] - _ONE
    return 0.5 * divergence


@kernel
def sample_backward(
    by_latents: Float32Array,
    heads: Float32Array,
    deviation: Float32Array,
    noise: Float32Array,
    prior: Float32Array,
    beta: np.float32,
    by_heads: Float32Array,
    by_bias: Float32Array,
) -> None:
    """Compute the gradient by the heads (N, 2 L), with that of the KL divergence times β, and by their bias (2 L,).

    By m it is g + β (m - μ), by log σ² it is ½ (g ε σ + β (σ² - 1)), with g the gradient by z. The other parameters are
    those of :func:`sample`.
    """
    half = np.float32(0.5)
    by_bias[:] = _ZERO
    L = by_latents.shape[1]
    for n in range(len(by_latents)):
        for k in range(L):
            g, s = by_latents[n, k], deviation[n, k]
            by_mean = g + beta * (heads[n, k] - prior[n, k])
            by_log_variance = half * (g * noise[n, k] * s + beta * (s * s - _ONE))
            by_heads[n, k], by_heads[n, L + k] = by_mean, by_log_variance
            by_bias[k] += by_mean
            by_bias[L + k] += by_log_variance


@kernel
def _adam_of(
    weight: np.float32, moment1: np.float32, moment2: np.float32, gradient: np.float32, numbers: tuple[np.float32, ...]
) -> tuple[np.float32, np.float32, np.float32]:
    """Return a weight and its moments after a step (Kingma and Ba 2015, algorithm 1)."""
    scale, rate, correction, decay1, decay2, epsilon = numbers
    slope = gradient * scale
    mean = decay1 * moment1 + (_ONE - decay1) * slope
    square = decay2 * moment2 + (_ONE - decay2) * slope * slope
    return weight - rate * mean / (math.sqrt(square) * correction + epsilon), mean, square


@kernel
def _unpacked(numbers: Float32Array) -> tuple[np.float32, ...]:
    return numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]


@kernel
def adam(
    weights: Float32Array,
    moment1: Float32Array,
    moment2: Float32Array,
    gradient: Float32Array,
    numbers: Float32Array,
    first: int,
    end: int,
) -> None:
    """Take a step of Adam on a vector of weights, in place.

    Parameters
    ----------
    weights, moment1, moment2 : ndarray, shape (W,)
        Weights and their two moments.
    gradient : ndarray, shape (W,)
        Of the summed loss.
    numbers : ndarray, shape (6,)
        1 / N, the step size α / (1 - β1^t) and 1 / sqrt(1 - β2^t) of step t, β1, β2 and ε.
    first, end : int
        The stretch of the weights that is changed.
    """
    given = _unpacked(numbers)
    w, m1, m2, g = weights[first:end], moment1[first:end], moment2[first:end], gradient[first:end]
    for i in range(len(w)):
        w[i], m1[i], m2[i] = _adam_of(w[i], m1[i], m2[i], g[i], given)


@kernel
def adam_apart(
    weights: Float32Array,
    moment1: Float32Array,
    moment2: Float32Array,
    gradient: Float32Array,
    numbers: Float32Array,
    into_weights: Float32Array,
    into_moment1: Float32Array,
    into_moment2: Float32Array,
    first: int,
    end: int,
) -> None:
    """Take a step of Adam, writing the results into other memory; the weights alone change in place, too.

    Parameters are those of :func:`adam`.
    """
    given = _unpacked(numbers)
    w, m1, m2, g = weights[first:end], moment1[first:end], moment2[first:end], gradient[first:end]
    new_w, new_m1, new_m2 = into_weights[first:end], into_moment1[first:end], into_moment2[first:end]
    for i in range(len(w)):
        weight, new_m1[i], new_m2[i] = _adam_of(w[i], m1[i], m2[i], g[i], given)
        w[i] = weight
        new_w[i] = weight


def compile_kernels(likelihood: str) -> None:
    """Compile the kernels of a step, or load them from the cache."""
    small, column, parts = np.zeros((2, 2), np.float32), np.zeros(2, np.float32), np.zeros((1, 2), np.float32)
    reconstruct = bernoulli if likelihood == "bce" else gaussian
    reconstruct(small.copy(), column, small, parts, np.zeros(1), 0, 1)
    (bernoulli_loss if likelihood == "bce" else gaussian_loss)(small, small)
    rectify(small, column)
    rectify_backward(small, small, column)
    one = small[:, :1].copy()
    halve_log_variances(small.copy(), column, one.copy())
    sample(small, one, one, one, one.copy())
    sample_backward(one, small, one, one, one, np.float32(1.0), small.copy(), column)
    adam(column, column.copy(), column.copy(), column, np.ones(6, np.float32), 0, 2)
    given = column.copy(), column.copy(), column.copy(), column
    adam_apart(*given, np.ones(6, np.float32), column.copy(), column.copy(), column.copy(), 0, 2)
