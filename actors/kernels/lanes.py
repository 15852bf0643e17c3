"""Eight float64 numbers that kernels load, add, multiply and store together, as vector instructions do.

numba leaves it to LLVM to turn loops into vector instructions, which it does only in loops that run for long: not over
ten classes. Kernels that use these functions say it themselves. They are the same IEEE operations in the same order on
every processor: where registers are shorter, LLVM takes several.

Arrays must be in C order. Positions are those of their flat memory and are not checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.kernels.jit import kernel
from actors.kernels.types import FloatArray

LANES = 8
"""Numbers in a register of 512 bits, or in two of 256."""

_ROOT_OF_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_LOG_1, _LOG_2, _LOG_3 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01
_LOG_4, _LOG_5, _LOG_6 = 2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01
_LOG_7 = 1.479819860511658591e-01


def rows_with_room(rows: int, columns: int) -> FloatArray:
    """Return an array (rows, columns), not initialized, with :data:`LANES` zeros after it in memory.

    Groups of eight columns may be loaded and stored beyond the end of a row: those of other rows, or of these zeros.
    """
    memory = np.empty(rows * columns + LANES)
    memory[rows * columns :] = 0.0
    return memory[: rows * columns].reshape(rows, columns)


# --- what kernels call; compiled forms are in compiled_lanes.py, these run where compilation is disabled --------------


def load(values: FloatArray, at: int) -> Any:
    """Return eight consecutive numbers of an array."""
    return values.reshape(-1)[at : at + LANES].copy()


def store(values: FloatArray, at: int, lanes: Any) -> None:
    """Write eight numbers to consecutive places of an array."""
    values.reshape(-1)[at : at + LANES] = lanes


def load_first(values: FloatArray, at: int, count: int) -> Any:
    """Return the first `count` of eight consecutive numbers of an array, and zeros for the others, if it is less."""
    first = values.reshape(-1)[at : at + min(LANES, count)]
    return np.concatenate([first, np.zeros(LANES - len(first))])


def store_first(values: FloatArray, at: int, lanes: Any, count: int) -> None:
    """Write the first `count` of eight numbers to consecutive places of an array, all if it is more."""
    values.reshape(-1)[at : at + min(LANES, count)] = lanes[:count]


def spread(value: float) -> Any:
    """Return eight times the same number."""
    return np.full(LANES, value)


def total(lanes: Any) -> float:
    """Return the sum of eight numbers."""
    halves = lanes[:4] + lanes[4:]
    return float((halves[0] + halves[2]) + (halves[1] + halves[3]))


def larger(left: Any, right: Any) -> Any:
    """Return the larger number of each pair, the right one if they are equal or one is NaN."""
    return np.where(left > right, left, right)


def smaller(left: Any, right: Any) -> Any:
    """Return the smaller number of each pair, the right one if they are equal or one is NaN."""
    return np.where(left < right, left, right)


def mantissa(lanes: Any) -> Any:
    """Return m of x = m 2^e, with m from √½ to √2, for positive normal numbers x."""
    half, exponents = np.frexp(lanes)
    del exponents
    return np.where(half < _ROOT_OF_HALF, 2.0 * half, half)


def exponent(lanes: Any) -> Any:
    """Return e of x = m 2^e, as :func:`mantissa`."""
    half, exponents = np.frexp(lanes)
    return np.where(half < _ROOT_OF_HALF, exponents - 1.0, exponents)


@kernel
def logarithm(lanes: Any) -> Any:
    """Return the logarithm of positive normal numbers, to one unit in the last place.

    log(m 2^e) = e log 2 + log(1 + f), m = 1 + f; with s = f / (2 + f), log(1 + f) = f - f²/2 + s (f²/2 + R(s²)). R is
    the minimax polynomial of fdlibm's e_log.c (Sun Microsystems, 1993), whose order of operations this is.
    """
    f, e = mantissa(lanes) - spread(1.0), exponent(lanes)
    s = f / (spread(2.0) + f)
    z = s * s
    w, half_square = z * z, spread(0.5) * f * f
    even = w * (spread(_LOG_2) + w * (spread(_LOG_4) + w * spread(_LOG_6)))
    odd = z * (spread(_LOG_1) + w * (spread(_LOG_3) + w * (spread(_LOG_5) + w * spread(_LOG_7))))
    low = s * (half_square + (odd + even)) + e * spread(_LN2_LOW)
    return e * spread(_LN2_HIGH) - ((half_square - low) - f)
