# ruff: noqa: ARG001, ARG005 (numba reads the names of arguments)
"""The compiled forms of the functions of :mod:`actors.kernels.lanes`, which :mod:`actors.kernels.jit` imports first."""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from actors.kernels.lanes import (
    LANES,
    exponent,
    larger,
    load,
    load_first,
    mantissa,
    smaller,
    spread,
    store,
    store_first,
    total,
)

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(64), LANES)
_UNDEFINED = ir.Constant(_VECTOR, ir.Undefined)

_ROOT_OF_HALF_BITS = 0x3FE6A09E667F3BCD

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
