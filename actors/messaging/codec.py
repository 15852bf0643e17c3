"""The codec: packing and parsing of headers and complete messages as msgpack.

Between actors, arrays pass through the object store and only the header is packed (:func:`pack_header`). On disk a
message is one msgpack document (:func:`encode`, :func:`decode`): a map of the header and, after it, the raw arrays.

Nothing is unpickled, and the parsers validate everything that they read.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from actors.errors import MessageError, ModuleError, escape_controls
from actors.limits import MAX_DIMENSIONS, MAX_HEADER_BYTES, MAX_STATE_TEXT_BYTES, MAX_TEXT_BYTES
from actors.messaging.kinds import KINDS
from actors.messaging.message import SCHEMA, ArrayHeader, Header, Message
from actors.messaging.stored_rows import StoredRows
from actors.messaging.validation import (
    HEADER_FIELDS,
    STRETCHWISE,
    is_valid_stretch,
    stretches,
    validate,
    validate_header,
)
from actors.types import Array


def as_wire(array: npt.ArrayLike) -> Array:
    """Return `array` in wire form, little-endian and C-contiguous; a view if it already is."""
    given = np.asarray(array)
    return np.ascontiguousarray(given, dtype=given.dtype.newbyteorder("<")).reshape(given.shape)


def describe(arrays: Mapping[str, Array | StoredRows]) -> tuple[ArrayHeader, ...]:
    """Return the array headers of `arrays` in wire form (:func:`as_wire`), in their order."""
    return tuple(ArrayHeader(name, array.dtype.str, array.shape) for name, array in arrays.items())


def make_message(header: Header, arrays: Mapping[str, npt.ArrayLike | StoredRows]) -> Message:
    """Return a valid message: convert `arrays` to wire form, describe them in the header and validate both.

    Rows on disk stay there.

    Raises
    ------
    MessageError
        If the header or the arrays are not valid for the kind.
    """
    wire: dict[str, Array | StoredRows] = {}
    for name, array in arrays.items():
        if isinstance(array, StoredRows):
            wire[name] = array
            continue
        items = array if isinstance(array, list | tuple) else (array,)
        if any(isinstance(each, np.ma.MaskedArray) for each in items):
            raise MessageError(
                f"{header.route}: {name} is a masked array, whose mask would be lost; "
                "send filled(…), and the missing rows in the array 'mask'"
            )
        try:
            wire[name] = as_wire(array)
        except Exception as error:  # a ragged list, a tensor with a gradient, an object that converts itself
            remedy = "; send tensor.detach().cpu().numpy()" if type(array).__module__.startswith("torch") else ""
            raise MessageError(
                f"{header.route}: {name} cannot be converted to an array ({str(error)[:200]}){remedy}"
            ) from error
    message = Message(replace(header, arrays=describe(wire)), wire)
    validate(message)
    return message


def pack_header(header: Header) -> bytes:
    """Return the header as msgpack bytes, for :func:`unpack_header`."""
    return bytes(msgpack.packb(_header_map(header)))


def _header_map(header: Header) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(header, name) for name in HEADER_FIELDS}
    fields["arrays"] = [[array.name, array.dtype, list(array.shape)] for array in header.arrays]
    return fields


def unpack_header(data: bytes) -> Header:
    """Parse a header from msgpack bytes.

    Raises
    ------
    MessageError
        If the bytes are not a valid header of a known schema and kind.
    """
    view = memoryview(data)
    header, end = _read_header(view, 0)
    if end != len(view):
        raise MessageError(f"{header.route}: {len(view) - end} unexpected bytes after the header")
    return header


def encode(message: Message) -> bytes:
    """Return a message as one msgpack document: a map of the header and, after it, the raw arrays.

    In the place of an array on disk is the text that describes its files.

    Raises
    ------
    MessageError
        If the message is not valid.
    """
    validate(message)
    names = [array.name for array in message.header.arrays]
    # Joined once, from the memory of the arrays: msgpack would copy each of them three times.
    parts: list[bytes | memoryview] = [
        _HEADER_START,
        msgpack.packb(_header_map(message.header)),
        _ARRAYS_START + bytes([_SHORT_LIST | len(names)]),
    ]
    for name in names:
        parts += _packed(message.arrays[name])
    return b"".join(parts)


_HEADER_START = b"\x82\xa6header"
_ARRAYS_START = b"\xa6arrays"

_SHORT_LIST = 0x90
"""msgpack's type code of a list of no elements; up to 15 are added to it, more than any kind has arrays."""


def _packed(array: Array | StoredRows) -> tuple[bytes | memoryview, ...]:
    """Return the parts of a document for an array: of its bytes, type code, length and memory."""
    if isinstance(array, StoredRows):
        return (msgpack.packb(array.to_text()),)
    blob = as_wire(array).reshape(-1).view(np.uint8).data
    code, width = next((code, width) for code, width in _LENGTH_BYTES.items() if blob.nbytes < 256**width)
    return bytes([code]) + blob.nbytes.to_bytes(width, "big"), blob


def decode(data: bytes) -> Message:
    """Parse a message from a document that :func:`encode` wrote; its arrays are read-only.

    Allocates at most a small multiple of ``len(data)``, for any bytes.

    Raises
    ------
    MessageError
        If the bytes are not exactly such a document.
    """
    # msgpack parses only the header, whose size is limited: a tree of a million empty maps would take 70 times its
    # bytes.
    view = memoryview(data)
    if bytes(view[:8]) != _HEADER_START:
        raise MessageError("message: expected a map of 'header' and 'arrays', the header first")
    header, at = _read_header(view, 8)
    count = len(header.arrays)
    if bytes(view[at : at + 8]) != _ARRAYS_START + bytes([_SHORT_LIST | count]):
        raise MessageError(f"{header.route}: expected 'arrays' with a list of {count} arrays after the header")
    at += 8
    arrays: dict[str, Array | StoredRows] = {}
    valid: list[str] = []
    for described in header.arrays:
        if at < len(view) and view[at] in _TEXT_LENGTH_BYTES:
            arrays[described.name], at = _read_stored(view, at, header, described)
            continue
        blob, at = _read_blob(view, at, header, described)
        if described.dtype == "|b1" and bytes(blob).translate(None, b"\0\1"):
            raise MessageError(f"{header.route}: {described.name} contains bytes other than 0 and 1")
        arrays[described.name], is_valid = _copied(blob, header, described)
        if is_valid:
            valid.append(described.name)
    if at != len(view):
        raise MessageError(f"{header.route}: {len(view) - at} unexpected bytes after the message")
    message = Message(header, arrays)
    validate(message, valid)
    return message


_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
"""msgpack's type codes of binary data → the number of bytes that store its length."""

_TEXT_LENGTH_BYTES = {0xD9: 1, 0xDA: 2, 0xDB: 4}
"""The same of texts of 32 bytes and more."""


def _read_stored(view: memoryview, at: int, header: Header, described: ArrayHeader) -> tuple[StoredRows, int]:
    """Return what stands for an array on disk, and the offset after it."""
    where = f"{header.route}: {described.name}"
    start = at + 1 + _TEXT_LENGTH_BYTES[view[at]]
    length = int.from_bytes(view[at + 1 : start], "big")
    if length > min(MAX_STATE_TEXT_BYTES, len(view) - start):
        raise MessageError(f"{where}: a text of {length} bytes is declared, and not there")
    spec = KINDS[header.kind].spec(described.name)
    if spec is None or spec.dims[0] != "N" or spec.semantics != "real":
        raise MessageError(f"{where}: cannot be on disk")
    try:
        return StoredRows.from_text(str(view[start : start + length], "utf-8")), start + length
    except (ModuleError, UnicodeDecodeError) as error:
        raise MessageError(f"{where}: {error}") from None


def _read_blob(view: memoryview, at: int, header: Header, described: ArrayHeader) -> tuple[memoryview, int]:
    """Return the bytes of an array in the document, and the offset after them."""
    where = f"{header.route}: {described.name}"
    width = _LENGTH_BYTES.get(view[at]) if at < len(view) else None
    if width is None:
        found = "another type" if at < len(view) else "the end of the document"
        raise MessageError(f"{where}: expected bytes, found {found}")
    start = at + 1 + width
    length = int.from_bytes(view[at + 1 : start], "big")
    available = max(0, min(length, len(view) - start))
    if start > len(view) or length != described.nbytes or available < length:
        raise MessageError(
            f"{where} has shape {described.shape} and needs {described.nbytes} bytes, "
            f"but {length} are declared and {available} are present"
        )
    return view[start : start + length], start + length


def _copied(blob: memoryview, header: Header, described: ArrayHeader) -> tuple[Array, bool]:
    """Return an array of some bytes, copied so that they are aligned, and whether its values are known to be valid.

    Each stretch is checked while the processor's cache still holds it.
    """
    array: Array = np.empty(described.shape, described.dtype)
    spec = KINDS[header.kind].spec(described.name)
    source, at, is_valid = np.frombuffer(blob, np.uint8), 0, spec is not None and spec.semantics in STRETCHWISE
    for rows in stretches(array):
        memory = rows.reshape(-1).view(np.uint8)
        memory[:] = source[at : at + memory.size]
        at += memory.size
        is_valid = is_valid and spec is not None and is_valid_stretch(spec, rows)
    array.flags.writeable = False
    return array, is_valid


def _read_header(view: memoryview, at: int) -> tuple[Header, int]:
    """Return the valid header that starts at offset `at`, and the offset after it."""
    limits = {"max_bin_len": 0, "max_ext_len": 0, "max_str_len": MAX_TEXT_BYTES, "max_array_len": 16, "max_map_len": 32}
    unpacker = msgpack.Unpacker(object_pairs_hook=_to_dict, max_buffer_size=MAX_HEADER_BYTES, **limits)
    unpacker.feed(view[at : at + MAX_HEADER_BYTES])
    try:
        fields = unpacker.unpack()
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        size = f"{len(view) - at} bytes, of which at most {MAX_HEADER_BYTES} are read"
        reason = f"{type(error).__name__}: {escape_controls(str(error)[:200])}"
        raise MessageError(f"header: not readable as msgpack ({reason}; {size})") from error
    header = _to_header(fields)
    validate_header(header)
    return header, at + int(unpacker.tell())


def _to_dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate key")
    return fields


def _to_header(fields: Any) -> Header:
    if not isinstance(fields, dict):
        raise MessageError("header: expected a map")
    known = {name: fields[name] for name in ("kind", "sender", "port", "receiver") if type(fields.get(name)) is str}
    where = Header(**{"kind": "", "sender": "", "port": "", **known}).route
    schema = fields.get("schema")
    if type(schema) is int and schema != SCHEMA:  # checked first, since another schema may have other fields
        raise MessageError(f"{where}: has schema {schema}, expected schema {SCHEMA}")
    expected = {*HEADER_FIELDS, "arrays"}
    if set(fields) != expected:
        odd = sorted(escape_controls(str(name)[:40]) for name in set(fields) ^ expected)
        raise MessageError(f"{where}: missing or unknown header fields: {', '.join(odd[:10])}")
    if not isinstance(fields["arrays"], list):
        raise MessageError(f"{where}: expected arrays to be a list")
    arrays = tuple(_to_array_header(where, item) for item in fields["arrays"])
    return Header(**{name: fields[name] for name in HEADER_FIELDS}, arrays=arrays)


def _to_array_header(where: str, item: Any) -> ArrayHeader:
    if not (isinstance(item, list) and len(item) == 3):
        raise MessageError(f"{where}: expected a list of name, dtype and shape for each array")
    name, dtype, shape = item
    if not (isinstance(name, str) and isinstance(dtype, str)):
        raise MessageError(f"{where}: expected the name and the dtype of an array to be text")
    shown = escape_controls(name[:40])
    if dtype not in ("<f4", "<f8", "<i8", "|b1"):
        raise MessageError(f"{where}: {shown} has dtype {dtype[:40]!r}, which messages cannot contain")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise MessageError(f"{where}: expected the shape of {shown} to be a list of at most {MAX_DIMENSIONS} integers")
    if any(type(length) is not int or length < 0 for length in shape):
        raise MessageError(f"{where}: the shape of {shown} is {reprlib.repr(shape)}, expected positive integers")
    return ArrayHeader(name, dtype, tuple(shape))
