"""The codec: packs headers and whole messages as msgpack, and parses them.

Between actors the arrays travel through the object store and only the header is packed (:func:`pack_header`). On disk a
message is one msgpack document (:func:`encode`, :func:`decode`): a map of the header and, after it, the raw arrays.

Nothing here unpickles, and the parsers trust nothing that they read.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from actors.errors import MessageError
from actors.messaging.kinds import MAX_DIMENSIONS
from actors.messaging.message import SCHEMA, ArrayHeader, Header, Message
from actors.messaging.validation import HEADER_FIELDS, MAX_TEXT_BYTES, validate, validate_header
from actors.types import Array

MAX_HEADER_BYTES = 8 * 1024


def as_wire(array: npt.ArrayLike) -> Array:
    """Return `array` as it travels: little-endian and C-contiguous; a view where it already is."""
    made = np.asarray(array)
    return np.ascontiguousarray(made, dtype=made.dtype.newbyteorder("<")).reshape(made.shape)


def describe(arrays: Mapping[str, Array]) -> tuple[ArrayHeader, ...]:
    """Return the array headers of `arrays` (as :func:`as_wire` made them), in their order."""
    return tuple(ArrayHeader(name, array.dtype.str, array.shape) for name, array in arrays.items())


def make_message(header: Header, arrays: Mapping[str, npt.ArrayLike]) -> Message:
    """Return a checked message: `arrays` put into wire form, described in the header and validated.

    Raises
    ------
    MessageError
        If the arrays do not fit the header's kind.
    """
    wire: dict[str, Array] = {}
    for name, array in arrays.items():
        try:
            wire[name] = as_wire(array)
        except (TypeError, ValueError, RuntimeError) as error:  # a ragged list, a tensor with a gradient
            raise MessageError(f"{header.route}: {name} is no array ({str(error)[:200]})") from error
    message = Message(replace(header, arrays=describe(wire)), wire)
    validate(message)
    return message


def pack_header(header: Header) -> bytes:
    """Return the header as msgpack bytes; :func:`unpack_header` reads them."""
    return bytes(msgpack.packb(_header_map(header)))


def _header_map(header: Header) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(header, name) for name in HEADER_FIELDS}
    fields["arrays"] = [[array.name, array.dtype, list(array.shape)] for array in header.arrays]
    return fields


def unpack_header(data: bytes) -> Header:
    """Read a header from msgpack bytes.

    Raises
    ------
    MessageError
        If the bytes are no header of a known schema and kind.
    """
    view = memoryview(data)
    header, end = _read_header(view, 0)
    if end != len(view):
        raise MessageError(f"{header.route}: {len(view) - end} bytes follow the header")
    return header


def encode(message: Message) -> bytes:
    """Return the whole message as one msgpack document: a map of the header and, after it, the raw arrays.

    Raises
    ------
    MessageError
        If the message is not valid.
    """
    validate(message)
    arrays = [as_wire(message.arrays[array.name]).tobytes() for array in message.header.arrays]
    return bytes(msgpack.packb({"header": _header_map(message.header), "arrays": arrays}))


def decode(data: bytes) -> Message:
    """Read one message from the document that :func:`encode` wrote; the arrays are read-only.

    Raises
    ------
    MessageError
        For anything that is not exactly such a document. Never allocates more than a small multiple of ``len(data)``.
    """
    # msgpack reads the header alone, of bounded size: a tree of a million empty maps would take 70 times its bytes.
    view = memoryview(data)
    if bytes(view[:8]) != b"\x82\xa6header":
        raise MessageError("message: expected a map of 'header' and 'arrays', the header first")
    header, at = _read_header(view, 8)
    count = len(header.arrays)
    if bytes(view[at : at + 8]) != b"\xa6arrays" + bytes([0x90 | count]):
        raise MessageError(f"{header.route}: after the header, 'arrays' with a list of {count} arrays was expected")
    at += 8
    arrays: dict[str, Array] = {}
    for described in header.arrays:
        blob, at = _read_blob(view, at, header, described)
        if described.dtype == "|b1" and blob.translate(None, b"\0\1"):
            raise MessageError(f"{header.route}: {described.name} holds bytes that are neither true nor false")
        arrays[described.name] = np.frombuffer(blob, dtype=described.dtype).reshape(described.shape)
    if at != len(view):
        raise MessageError(f"{header.route}: {len(view) - at} bytes follow the message")
    message = Message(header, arrays)
    validate(message)
    return message


_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
"""msgpack's marks of bytes → how many bytes say the length."""


def _read_blob(view: memoryview, at: int, header: Header, described: ArrayHeader) -> tuple[bytes, int]:
    """Return the array's bytes (copied, so that they are aligned) and where they end."""
    where = f"{header.route}: {described.name}"
    width = _LENGTH_BYTES.get(view[at]) if at < len(view) else None
    if width is None:
        raise MessageError(f"{where}: bytes were expected, {'something else' if at < len(view) else 'nothing'} came")
    start = at + 1 + width
    length = int.from_bytes(view[at + 1 : start], "big")
    came = max(0, min(length, len(view) - start))
    if start > len(view) or length != described.nbytes or came < length:
        raise MessageError(
            f"{where} announces {described.nbytes} bytes for shape {described.shape}, {length} are marked, {came} came"
        )
    return bytes(view[start : start + length]), start + length


def _read_header(view: memoryview, at: int) -> tuple[Header, int]:
    """Return the checked header that starts at `at`, and where it ends."""
    limits = {"max_bin_len": 0, "max_ext_len": 0, "max_str_len": MAX_TEXT_BYTES, "max_array_len": 16, "max_map_len": 32}
    unpacker = msgpack.Unpacker(object_pairs_hook=_map, max_buffer_size=MAX_HEADER_BYTES, **limits)
    unpacker.feed(view[at : at + MAX_HEADER_BYTES])
    try:
        fields = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        came = f"{len(view) - at} bytes, at most {MAX_HEADER_BYTES} of them read"
        what = f"{type(error).__name__}: {str(error)[:200]}"
        raise MessageError(f"header: not readable as msgpack ({what}; {came})") from error
    header = _header_of(fields)
    validate_header(header)
    return header, at + int(unpacker.tell())


def _map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key came twice")
    return made


def _header_of(fields: Any) -> Header:
    if not isinstance(fields, dict):
        raise MessageError("header: expected a map")
    said = {name: fields[name] for name in ("kind", "sender", "port", "receiver") if type(fields.get(name)) is str}
    where = Header(**{"kind": "", "sender": "", "port": "", **said}).route
    schema = fields.get("schema")
    if type(schema) is int and schema != SCHEMA:  # before the fields, which may be others there
        raise MessageError(f"{where}: schema {schema} came, schema {SCHEMA} is spoken here")
    expected = {*HEADER_FIELDS, "arrays"}
    if set(fields) != expected:
        odd = sorted(str(name)[:40] for name in set(fields) ^ expected)
        raise MessageError(f"{where}: header fields missing or unknown: {', '.join(odd[:10])}")
    if not isinstance(fields["arrays"], list):
        raise MessageError(f"{where}: arrays is not a list")
    arrays = tuple(_array_header_of(where, item) for item in fields["arrays"])
    return Header(**{name: fields[name] for name in HEADER_FIELDS}, arrays=arrays)


def _array_header_of(where: str, item: Any) -> ArrayHeader:
    if not (isinstance(item, list) and len(item) == 3):
        raise MessageError(f"{where}: an array is described by name, dtype and shape")
    name, dtype, shape = item
    if not (isinstance(name, str) and isinstance(dtype, str)):
        raise MessageError(f"{where}: an array's name and dtype are text")
    if dtype not in ("<f4", "<f8", "<i8", "|b1"):
        raise MessageError(f"{where}: {name[:40]} has dtype {dtype[:40]!r}, which no message has")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise MessageError(f"{where}: the shape of {name[:40]} is no list of at most {MAX_DIMENSIONS} lengths")
    if any(type(length) is not int or length < 0 for length in shape):
        raise MessageError(f"{where}: the shape of {name[:40]} is {reprlib.repr(shape)}, expected integers above 0")
    return ArrayHeader(name, dtype, tuple(shape))
