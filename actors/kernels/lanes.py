# ruff: noqa: ARG001, ARG005 (numba reads the names of arguments)
"""Eight float64 numbers that kernels load, add, multiply and store together, as vector instructions do.

numba leaves it to LLVM to turn loops into vector instructions, which it does only in loops that run for long: not over
ten classes. Kernels that use these functions say it themselves. They are the same IEEE operations in the same order on
every processor: where registers are shorter, LLVM takes several.

Arrays must be in C order. Positions are those of their flat memory and are not checked.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from actors.kernels.jit import kernel
from actors.kernels.types import FloatArray

LANES = 8
"""Numbers in a register of 512 bits, or in two of 256."""

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(64), LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)

_ROOT_OF_HALF, _ROOT_OF_HALF_BITS = float.fromhex("0x1.6a09e667f3bcdp-1"), 0x3FE6A09E667F3BCD
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")
_LOG_1, _LOG_2, _LOG_3 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01
_LOG_4, _LOG_5, _LOG_6 = 2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01
_LOG_7 = 1.479819860511658591e-01

_intrinsic: Any = intrinsic  # the result has other arguments than the function


class _LanesType(types.Type):
    """The type of eight numbers in compiled code."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    """Eight numbers are an LLVM vector."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)  # type: ignore[no-untyped-call]


def rows_with_room(rows: int, columns: int) -> FloatArray:
    """Return an array (rows, columns), not initialized, with :data:`LANES` zeros after it in memory.

    Groups of eight columns may be loaded and stored beyond the end of a row: those of other rows, or of these zeros.
    """
    memory = np.empty(rows * columns + LANES)
    memory[rows * columns :] = 0.0
    return memory[: rows * columns].reshape(rows, columns)


# --- what kernels call; the functions run as they are where compilation is disabled -----------------------------------


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


# --- their compiled forms ---------------------------------------------------------------------------------------------


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    """Return the address of eight numbers of an array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _VECTOR.as_pointer())


@_intrinsic
def _load(_: Any, values: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], *args), align=8)

    return _lanes(values, types.intp), generate


@_intrinsic
def _store(_: Any, values: Any, at: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, signature.args[0], *args[:2]), align=8)
        return context.get_dummy_value()

    return types.void(values, types.intp, lanes), generate


def _first(builder: Any, count: Any) -> Any:
    """Return the mask of the first `count` of eight numbers."""
    one = builder.insert_element(ir.Constant(_INTEGERS, ir.Undefined), count, ir.Constant(ir.IntType(32), 0))
    return builder.icmp_signed("<", ir.Constant(_INTEGERS, [*range(LANES)]), _shuffled(builder, one, [0] * LANES))


@_intrinsic
def _load_first(_: Any, values: Any, at: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, mask = _pointer(context, builder, signature.args[0], *args[:2]), _first(builder, args[2])
        given = [place, ir.Constant(ir.IntType(32), 8), mask, ir.Constant(_VECTOR, [0.0] * LANES)]
        kind = ir.FunctionType(_VECTOR, [each.type for each in given])
        return builder.call(builder.module.declare_intrinsic(f"llvm.masked.load.v{LANES}f64.p0", (), kind), given)

    return _lanes(values, types.intp, types.intp), generate


@_intrinsic
def _store_first(_: Any, values: Any, at: Any, lanes: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, mask = _pointer(context, builder, signature.args[0], *args[:2]), _first(builder, args[3])
        given = [args[2], place, ir.Constant(ir.IntType(32), 8), mask]
        kind = ir.FunctionType(ir.VoidType(), [each.type for each in given])
        builder.call(builder.module.declare_intrinsic(f"llvm.masked.store.v{LANES}f64.p0", (), kind), given)
        return context.get_dummy_value()

    return types.void(values, types.intp, lanes, types.intp), generate


def _shuffled(builder: Any, vector: Any, order: list[int]) -> Any:
    """Return the numbers of a vector in another order."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


@_intrinsic
def _spread(_: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first = builder.insert_element(_UNDEFINED, args[0], ir.Constant(ir.IntType(32), 0))
        return _shuffled(builder, first, [0] * LANES)

    return _lanes(types.float64), generate


@_intrinsic
def _total(_: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        left = args[0]
        for half in (4, 2, 1):
            low, high = (_shuffled(builder, left, [*range(first, first + half)]) for first in (0, half))
            left = builder.fadd(low, high)
        return builder.extract_element(left, ir.Constant(ir.IntType(32), 0))

    return types.float64(lanes), generate


def _choice(comparison: str) -> Any:
    """Return the intrinsic that takes the left number of each pair where a comparison of both is true."""

    def choice(_: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(comparison, *args), *args)

        return _lanes(left, right), generate

    return _intrinsic(choice)


_larger, _smaller = _choice(">"), _choice("<")


def _operation(name: str) -> Any:
    """Return the intrinsic of an operation on two vectors, an instruction of LLVM."""

    def operation(_: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args)

        return _lanes(left, right), generate

    return _intrinsic(operation)


_add, _subtract, _multiply, _divide = (_operation(name) for name in ("fadd", "fsub", "fmul", "fdiv"))


def _integers(value: int) -> Any:
    """Return a vector of eight equal integers."""
    return ir.Constant(_INTEGERS, [value] * LANES)


def _split(builder: Any, lanes: Any) -> tuple[Any, Any]:
    """Return the bits of x = m 2^e and e, as integers."""
    bits = builder.bitcast(lanes, _INTEGERS)
    return bits, builder.ashr(builder.sub(bits, _integers(_ROOT_OF_HALF_BITS)), _integers(52))


@_intrinsic
def _mantissa(_: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits, power = _split(builder, args[0])
        return builder.bitcast(builder.sub(bits, builder.shl(power, _integers(52))), _VECTOR)

    return _lanes(lanes), generate


@_intrinsic
def _exponent(_: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, power = _split(builder, args[0])
        # The last bits of 2^52 + 2^51 are its units: adding there turns an integer into a float without conversion.
        shifted = builder.bitcast(builder.add(power, _integers(0x4338000000000000)), _VECTOR)
        return builder.fsub(shifted, ir.Constant(_VECTOR, [2.0**52 + 2.0**51] * LANES))

    return _lanes(lanes), generate


def _both(left: Any, right: Any) -> bool:
    """Return whether both types are those of eight numbers; operators on others are numba's own."""
    return left is _lanes and right is _lanes


# Lambdas: numba compares arguments with their annotations.
overload(load)(lambda values, at: lambda values, at: _load(values, at))
overload(store)(lambda values, at, lanes: lambda values, at, lanes: _store(values, at, lanes))
overload(load_first)(lambda values, at, count: lambda values, at, count: _load_first(values, at, count))
overload(store_first)(
    lambda values, at, lanes, count: lambda values, at, lanes, count: _store_first(values, at, lanes, count)
)
overload(spread)(lambda value: lambda value: _spread(value))
overload(total)(lambda lanes: lambda lanes: _total(lanes))
overload(mantissa)(lambda lanes: lambda lanes: _mantissa(lanes))
overload(exponent)(lambda lanes: lambda lanes: _exponent(lanes))
overload(larger)(lambda left, right: lambda left, right: _larger(left, right))
overload(smaller)(lambda left, right: lambda left, right: _smaller(left, right))
overload(operator.add)(lambda left, right: (lambda left, right: _add(left, right)) if _both(left, right) else None)
overload(operator.sub)(lambda left, right: (lambda left, right: _subtract(left, right)) if _both(left, right) else None)
overload(operator.mul)(lambda left, right: (lambda left, right: _multiply(left, right)) if _both(left, right) else None)
overload(operator.truediv)(
    lambda left, right: (lambda left, right: _divide(left, right)) if _both(left, right) else None
)
