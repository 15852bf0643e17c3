"""What workers send each other over connections of their own, as bytes: values that are parsed, never unpickled.

A frame is a prefix with two sizes, a description in msgpack, and the memory of the arrays one after the other. Arrays
keep their type, their shape and the order of their memory, on which the bits of products with them depend.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np

from actors.errors import WorkerConnectionError
from actors.limits import MAX_DIMENSIONS, MAX_FRAME_BYTES, MAX_FRAME_DEPTH, MAX_FRAME_HEADER_BYTES
from actors.sharing.transport import Repeated, Triangle
from actors.types import Array

PREFIX = struct.Struct("<IQ")
"""The sizes of the description and of the arrays."""

_ALIGNMENT = 64
_ARRAY_TYPE = re.compile(r"[<|](b1|[iu][1248]|f[248]|c(8|16))")
_PLAIN = (type(None), bool, int, float, str, bytes)
_MAX_SHAPE = 4 * MAX_DIMENSIONS


class UnsendableError(WorkerConnectionError):
    """A value has a type that a frame cannot hold."""


def pack_frame(value: Any) -> list[bytes | memoryview]:
    """Return the parts of a frame.

    Raises
    ------
    UnsendableError
        If the value is not made of dicts, lists, tuples, arrays of numbers, plain scalars and what
        :mod:`actors.sharing.transport` puts in their place, or is too large.
    """
    arrays: list[Array] = []
    try:
        description: bytes = msgpack.packb(_describe(value, arrays, 0))
    except (OverflowError, ValueError) as error:
        raise UnsendableError(str(error)) from None
    body, parts = 0, list[bytes | memoryview]()
    for array in arrays:
        padding = -body % _ALIGNMENT
        parts += [bytes(padding), array.reshape(-1, order="A").view(np.uint8).data]
        body += padding + array.nbytes
    if body > MAX_FRAME_BYTES or len(description) > MAX_FRAME_HEADER_BYTES:
        raise UnsendableError(f"{body + len(description):,} bytes")
    return [PREFIX.pack(len(description), body) + description, *(part for part in parts if len(part))]


def unpack_frame(description: bytes, body: Array) -> Any:
    """Return the value of a frame; its arrays are read-only parts of `body`.

    Raises
    ------
    WorkerConnectionError
        If it is not a frame.
    """
    try:
        parsed = msgpack.unpackb(description, raw=False, use_list=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError):
        raise _damaged("its description is not msgpack") from None
    body.flags.writeable = False
    reader = _Reader(body)
    value = reader.value(parsed, 0)
    if reader.offset != len(body):
        raise _damaged("bytes are left")
    return value


def aligned_memory(size: int) -> Array:
    """Return memory (size,) for the arrays of a frame, aligned as they are in it."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size]


def _describe(value: Any, arrays: list[Array], depth: int) -> Any:
    """Return what msgpack can hold for a value: lists begin with what they stand for."""
    if depth > MAX_FRAME_DEPTH:
        raise UnsendableError("too many levels")
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is np.ndarray:
        if not _ARRAY_TYPE.fullmatch(value.dtype.str) or value.ndim > _MAX_SHAPE:
            raise UnsendableError(f"an array of {value.dtype} with {value.ndim} dimensions")
        columns = value.flags.f_contiguous and not value.flags.c_contiguous
        arrays.append(value if columns else np.ascontiguousarray(value).reshape(value.shape))
        return ["columns" if columns else "rows", value.dtype.str, list(value.shape)]
    if kind in (list, tuple):
        return [kind.__name__, *(_describe(each, arrays, depth + 1) for each in value)]
    if kind is dict:
        return ["dict", *(_describe(each, arrays, depth + 1) for item in value.items() for each in item)]
    if kind is Triangle:
        return ["triangle", _describe(value.lower, arrays, depth + 1), value.size, value.symmetric]
    if kind is Repeated:
        return ["repeated"]
    if isinstance(value, np.generic):
        return ["scalar", _describe(np.asarray(value), arrays, depth + 1)]
    raise UnsendableError(f"a value of type {kind.__name__}")


class _Reader:
    """Parses a description, taking its arrays from the body in turn."""

    def __init__(self, body: Array) -> None:
        self.offset = 0
        self._body = body

    def value(self, described: Any, depth: int) -> Any:
        """Return the value that was described."""
        if depth > MAX_FRAME_DEPTH:
            raise _damaged("too many levels")
        if not isinstance(described, list):
            if type(described) not in _PLAIN:
                raise _damaged("a value of another type")
            return described
        if not described or not isinstance(described[0], str):
            raise _damaged("a list without what it stands for")
        read = _READERS.get(described[0])
        if read is None:
            raise _damaged("an unknown kind of value")
        return read(self, described[1:], depth + 1)

    def values(self, described: Sequence[Any], depth: int) -> list[Any]:
        """Return the values of a list."""
        return [self.value(each, depth) for each in described]

    def array(self, described: Sequence[Any], order: Any) -> Array:
        """Return the next array."""
        if len(described) != 2 or not isinstance(described[0], str) or not _ARRAY_TYPE.fullmatch(described[0]):
            raise _damaged("an array of another type")
        shape = described[1]
        if not isinstance(shape, list) or len(shape) > _MAX_SHAPE or any(type(n) is not int or n < 0 for n in shape):
            raise _damaged("an array of another shape")
        dtype, start = np.dtype(described[0]), self.offset + -self.offset % _ALIGNMENT
        end = start + math.prod(shape) * dtype.itemsize
        if end > len(self._body):
            raise _damaged("an array that is longer than the frame")
        self.offset = end
        return self._body[start:end].view(dtype).reshape(shape, order=order)


def _dict(reader: _Reader, given: Sequence[Any], depth: int) -> dict[Any, Any]:
    values = reader.values(given, depth)
    try:
        return dict(zip(values[::2], values[1::2], strict=True))
    except (TypeError, ValueError):  # a key that is a list
        raise _damaged("a dict of another form") from None


def _triangle(reader: _Reader, given: Sequence[Any], depth: int) -> Triangle:
    if len(given) != 3 or type(given[1]) is not int or type(given[2]) is not bool:
        raise _damaged("a triangle of another form")
    lower = reader.value(given[0], depth)
    size = given[1]
    if not isinstance(lower, np.ndarray) or size < 1 or lower.shape[-1:] != (size * (size + 1) // 2,):
        raise _damaged("a triangle of another size")
    return Triangle(lower, size, given[2])


def _scalar(reader: _Reader, given: Sequence[Any], depth: int) -> Any:
    array = reader.value(given[0], depth) if len(given) == 1 else None
    if not isinstance(array, np.ndarray) or array.shape:
        raise _damaged("a scalar of another form")
    return array[()]


_READERS: dict[str, Callable[[_Reader, Sequence[Any], int], Any]] = {
    "rows": lambda reader, given, _: reader.array(given, "C"),
    "columns": lambda reader, given, _: reader.array(given, "F"),
    "list": lambda reader, given, depth: reader.values(given, depth),
    "tuple": lambda reader, given, depth: tuple(reader.values(given, depth)),
    "dict": _dict,
    "triangle": _triangle,
    "scalar": _scalar,
    "repeated": lambda _reader, _given, _depth: Repeated(),
}


def _damaged(what: str) -> WorkerConnectionError:
    return WorkerConnectionError(f"a worker sent what is not a frame: {what}")
