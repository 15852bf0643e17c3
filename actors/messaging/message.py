"""Messages: what modules say to each other, and the one format in which they say it.

A message is a :class:`Header` and its arrays. :data:`actors.messaging.kinds.KINDS` lists what can be said;
:func:`validate`
holds a message against its kind; :func:`encode` and :func:`decode` turn it into one msgpack document and back.
Between Ray actors the arrays travel through the object store and only the header is packed (:func:`pack_header`).

Nothing here unpickles, and :func:`decode` trusts nothing that it reads.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from actors.messaging.kinds import KINDS as KINDS
from actors.messaging.kinds import MAX_DIMENSIONS, fault, lengths_fault
from actors.messaging.kinds import Array as Array
from actors.messaging.kinds import ArraySpec as ArraySpec
from actors.messaging.kinds import Kind as Kind

SCHEMA = 1
"""Version of the header's layout; another one is refused."""

MAX_HEADER_BYTES = 8 * 1024
MAX_TEXT_BYTES = 1024
MAX_MESSAGE_BYTES = 2**32 - 1
"""Of a message's arrays together: what one value of msgpack can hold."""


class MessageError(ValueError):
    """A message, or the bytes of one, that is not what it should be; says what is wrong and where."""


@dataclass(frozen=True)
class ArrayHeader:
    """Name, dtype (numpy's little-endian code) and shape of one array."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the array; a Python integer, so no announced shape can overflow it."""
        size = np.dtype(self.dtype).itemsize
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Header:
    """Who says what to whom, and when; see DESIGN.md section 5.

    ``port`` is the receiver's once the coordinator has addressed the message, the sender's before.
    """

    kind: str
    sender: str
    port: str
    receiver: str = ""
    run: str = ""
    round: int = 0
    step: int = 0
    sequence: int = 0
    arrays: tuple[ArrayHeader, ...] = ()
    schema: int = SCHEMA

    def addressed(self, receiver: str, port: str) -> Header:
        """Return this header, on its way to `port` of `receiver`."""
        return replace(self, receiver=receiver, port=port)

    @property
    def route(self) -> str:
        """The message's way, for error texts: ``sender -> receiver.port (kind)``."""
        return f"{self.sender or '?'} -> {self.receiver or '?'}.{self.port or '?'} ({self.kind or '?'})"

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class Message:
    """A header and its arrays by name. The arrays are read-only for whoever receives them."""

    header: Header
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def get(self, name: str) -> Array | None:
        """Return the array called `name`, or None where the message does without."""
        return self.arrays.get(name)

    @property
    def lengths(self) -> Array | None:
        """Lengths of the sequences, (S,) int64, or None for one sequence."""
        return self.arrays.get("lengths")

    @property
    def mask(self) -> Array | None:
        """Missing rows, (N,) bool, true where a row is missing, or None for none."""
        return self.arrays.get("mask")


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


# --- validation ---------------------------------------------------------------------------------------------------


def validate_header(header: Header) -> None:
    """Hold a header against its kind: known schema and kind, right arrays, dtypes and fitting shapes.

    Raises
    ------
    MessageError
    """
    for name in _FIELDS:
        if said := _field_fault(name, getattr(header, name)):
            raise MessageError(f"{'header' if _FIELDS[name] is str else header.route}: {said}")
    where = header.route
    if header.schema != SCHEMA:
        raise MessageError(f"{where}: schema {header.schema} came, schema {SCHEMA} is spoken here")
    kind = KINDS.get(header.kind)
    if kind is None:
        raise MessageError(f"{where}: unknown kind {header.kind[:40]!r}; known are {', '.join(sorted(KINDS))}")
    names = [array.name for array in header.arrays]
    if len(set(names)) != len(names):
        raise MessageError(f"{where}: an array is named twice in {names}")
    missing = [spec.name for spec in kind.arrays if not spec.optional and spec.name not in names]
    if missing:
        raise MessageError(f"{where}: array {missing[0]!r} is missing, only {names} came")
    sizes: dict[str, int] = {}
    for array in header.arrays:
        _check_array_header(where, kind, array, sizes)
    if header.nbytes > MAX_MESSAGE_BYTES:
        raise MessageError(f"{where}: {header.nbytes / 2**30:,.1f} GiB, at most 4 GiB are allowed; send fewer rows")


def _check_array_header(where: str, kind: Kind, array: ArrayHeader, sizes: dict[str, int]) -> None:
    spec = kind.spec(array.name)
    if spec is None:
        known = ", ".join(s.name for s in kind.arrays)
        raise MessageError(f"{where}: array {array.name!r} does not belong to the kind, which has {known}")
    if array.dtype not in spec.dtypes:
        raise MessageError(f"{where}: {array.name} has dtype {array.dtype!r}, expected {' or '.join(spec.dtypes)}")
    open_ended = spec.dims[-1] == "..."
    fixed = spec.dims[:-1] if open_ended else spec.dims
    shape = "×".join(spec.dims)
    most = MAX_DIMENSIONS if open_ended else len(fixed)
    if not len(fixed) <= len(array.shape) <= most:
        raise MessageError(f"{where}: {array.name} has shape {array.shape}, expected {shape}, {most} at most")
    if 0 in array.shape:  # also keeps out (2^60, 0), which no bytes back
        raise MessageError(f"{where}: {array.name} has shape {array.shape}, expected {shape} with none of them 0")
    for letter, size in zip(fixed, array.shape, strict=False):
        if sizes.setdefault(letter, size) != size:
            raise MessageError(
                f"{where}: {array.name} has shape {array.shape} as {shape}, but {letter} is {sizes[letter]} elsewhere"
            )


def validate(message: Message) -> None:
    """Hold a whole message against its kind: the header, then what the arrays say.

    Raises
    ------
    MessageError
        Names sender, receiver, port and kind, the array and, where there is one, the row.
    """
    header = message.header
    validate_header(header)
    kind = KINDS[header.kind]
    described = {array.name: array for array in header.arrays}
    for name in message.arrays:
        if name not in described:
            raise MessageError(f"{header.route}: array {name!r} came, only {', '.join(described)} are announced")
    rows = next(described[s.name].shape[0] for s in kind.arrays if s.dims[0] == "N" and s.name in described)
    for name, announced in described.items():
        array = message.arrays.get(name)
        if array is None:
            raise MessageError(f"{header.route}: {name} is announced and did not come")
        if array.dtype.str != announced.dtype or array.shape != announced.shape:
            raise MessageError(
                f"{header.route}: {name} is announced as {announced.dtype} {announced.shape}, "
                f"{array.dtype.str} {array.shape} came"
            )
        spec = kind.spec(name)
        assert spec is not None  # validate_header has seen to it
        said = lengths_fault(array, rows) if spec.semantics == "lengths" else fault(spec, array)
        if said:
            raise MessageError(f"{header.route}: {name} {said}")


# --- codec --------------------------------------------------------------------------------------------------------

_FIELDS: dict[str, type] = {
    **dict.fromkeys(("kind", "sender", "port", "receiver", "run"), str),
    **dict.fromkeys(("round", "step", "sequence", "schema"), int),
}


def pack_header(header: Header) -> bytes:
    """Return the header as msgpack bytes; :func:`unpack_header` reads them."""
    return bytes(msgpack.packb(_header_map(header)))


def _header_map(header: Header) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(header, name) for name in _FIELDS}
    fields["arrays"] = [[array.name, array.dtype, list(array.shape)] for array in header.arrays]
    return fields


def _field_fault(name: str, value: object) -> str | None:
    """Say why `value` cannot be the header's field `name`, or None."""
    expected = _FIELDS[name]
    if isinstance(value, bool) or not isinstance(value, expected):
        return f"{name} is {reprlib.repr(value)}, expected {'text' if expected is str else 'an integer'}"
    if isinstance(value, int):
        return None if 0 <= value < 2**63 else f"{name} is {value}, expected 0 or above, below 2^63"
    try:
        size = len(str(value).encode())
    except UnicodeEncodeError:
        return f"{name} is {reprlib.repr(value)}, which is no Unicode text"
    return None if size <= MAX_TEXT_BYTES else f"{name} has {size} bytes, at most {MAX_TEXT_BYTES} are allowed"


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
    expected = {*_FIELDS, "arrays"}
    if set(fields) != expected:
        odd = sorted(str(name)[:40] for name in set(fields) ^ expected)
        raise MessageError(f"{where}: header fields missing or unknown: {', '.join(odd[:10])}")
    if not isinstance(fields["arrays"], list):
        raise MessageError(f"{where}: arrays is not a list")
    arrays = tuple(_array_header_of(where, item) for item in fields["arrays"])
    return Header(**{name: fields[name] for name in _FIELDS}, arrays=arrays)


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
