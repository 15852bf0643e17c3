"""Messages: what modules say to each other, and the one format in which they say it.

A message is a :class:`Header` and its arrays. :data:`KINDS` lists what can be said; :func:`validate` holds a
message against its kind; :func:`encode` and :func:`decode` turn it into one msgpack document and back. Between Ray
actors the arrays travel through the object store and only the header is packed (:func:`pack_header`).

Nothing here unpickles, and :func:`decode` trusts nothing that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgpack
import numpy as np
import numpy.typing as npt

SCHEMA = 1
"""Version of the header's layout; another one is refused."""

MAX_HEADER_BYTES = 64 * 1024
MAX_DIMENSIONS = 8

Array = npt.NDArray[Any]
Semantics = Literal["real", "log", "log_distribution", "distribution", "lengths", "mask"]


class MessageError(ValueError):
    """A message, or the bytes of one, that is not what it should be; says what is wrong and where."""


@dataclass(frozen=True)
class ArraySpec:
    """What one array of a message kind must look like.

    Parameters
    ----------
    name : str
    dims : tuple of str
        A letter a dimension, equal letters being equal sizes within the message; ``...`` stands for any further ones.
    semantics : str
        ``real`` and ``log`` are finite; rows of ``log_distribution`` and ``distribution`` sum to one;
        ``lengths`` are positive and add up to N; ``mask`` is true where a row is missing.
    optional : bool
    """

    name: str
    dims: tuple[str, ...]
    semantics: Semantics = "real"
    optional: bool = False

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes that this array may have, as numpy's little-endian codes."""
        return {"lengths": ("<i8",), "mask": ("|b1",)}.get(self.semantics, ("<f4", "<f8"))


@dataclass(frozen=True)
class Kind:
    """A kind of message: its name and its arrays. ``multiplies``: several senders on one port multiply."""

    name: str
    arrays: tuple[ArraySpec, ...]
    multiplies: bool = False

    def spec(self, name: str) -> ArraySpec | None:
        """Return the spec of the array called `name`, or None."""
        return next((spec for spec in self.arrays if spec.name == name), None)


# Lengths of sequences and the mask of missing rows may accompany the rows of any kind.
_ROWS = (ArraySpec("lengths", ("S",), "lengths", True), ArraySpec("mask", ("N",), "mask", True))

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("observations", (ArraySpec("values", ("N", "...")), *_ROWS)),
        Kind(
            "latent_vectors", (ArraySpec("mean", ("N", "D")), ArraySpec("variance", ("N", "D"), optional=True), *_ROWS)
        ),
        Kind(
            "class_posteriors",
            (ArraySpec("log_prob", ("N", "K"), "log_distribution"), ArraySpec("log_norm", ("N",), "log"), *_ROWS),
            multiplies=True,
        ),
        Kind(
            "class_means",
            (ArraySpec("means", ("K", "D")), ArraySpec("responsibilities", ("N", "K"), "distribution"), *_ROWS),
        ),
        Kind("transition_prior", (ArraySpec("log_prob", ("N", "K"), "log_distribution"), *_ROWS), multiplies=True),
        Kind("reconstructions", (ArraySpec("values", ("N", "...")), *_ROWS)),
    )
}


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
    wire = {name: as_wire(array) for name, array in arrays.items()}
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
    where = header.route
    if header.schema != SCHEMA:
        raise MessageError(f"{where}: schema {header.schema} came, schema {SCHEMA} is spoken here")
    kind = KINDS.get(header.kind)
    if kind is None:
        raise MessageError(f"{where}: unknown kind {header.kind!r}; known are {', '.join(sorted(KINDS))}")
    names = [array.name for array in header.arrays]
    if len(set(names)) != len(names):
        raise MessageError(f"{where}: an array is named twice in {names}")
    missing = [spec.name for spec in kind.arrays if not spec.optional and spec.name not in names]
    if missing:
        raise MessageError(f"{where}: array {missing[0]!r} is missing, only {names} came")
    sizes: dict[str, int] = {}
    for array in header.arrays:
        _check_array_header(where, kind, array, sizes)


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
    if len(array.shape) < len(fixed) or (len(array.shape) > len(fixed) and not open_ended):
        raise MessageError(f"{where}: {array.name} has shape {array.shape}, expected {shape}")
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
    for described in header.arrays:
        array = message.arrays.get(described.name)
        if array is None:
            raise MessageError(f"{header.route}: {described.name} is announced and did not come")
        if array.dtype.str != described.dtype or array.shape != described.shape:
            raise MessageError(
                f"{header.route}: {described.name} is announced as {described.dtype} {described.shape}, "
                f"{array.dtype.str} {array.shape} came"
            )
        spec = kind.spec(described.name)
        assert spec is not None  # validate_header has seen to it
        fault = _lengths_fault(kind, array, message) if spec.semantics == "lengths" else _fault(spec, array)
        if fault:
            raise MessageError(f"{header.route}: {described.name} {fault}")


def _lengths_fault(kind: Kind, lengths: Array, message: Message) -> str | None:
    with_rows = next(spec.name for spec in kind.arrays if spec.dims[0] == "N" and spec.name in message.arrays)
    rows = len(message.arrays[with_rows])
    if (lengths <= 0).any():
        return "has a sequence without rows"
    total = sum(int(length) for length in lengths)  # Python integers: hostile lengths cannot wrap around
    return None if total == rows else f"adds up to {total}, but there are {rows} rows"


def _fault(spec: ArraySpec, array: Array) -> str | None:
    """Say what is wrong with what `array` says, or None."""
    if spec.semantics == "mask":
        return None
    if spec.semantics in ("real", "log"):
        return _first_bad_row(~np.isfinite(array), "is not finite")
    if np.isnan(array).any():
        return _first_bad_row(np.isnan(array), "holds NaN")
    tolerance = 1e-3 if array.dtype.itemsize == 4 else 1e-6
    if spec.semantics == "log_distribution":
        if (array == np.inf).any():
            return _first_bad_row(array == np.inf, "holds +inf")
        with np.errstate(over="ignore"):
            sums = np.exp(array).sum(axis=1)
    else:
        if (array < 0).any():
            return _first_bad_row(array < 0, "holds a negative probability")
        sums = array.sum(axis=1)
    return _first_bad_row(~(np.abs(sums - 1.0) <= tolerance), "does not sum to one")


def _first_bad_row(bad: Array, what: str) -> str | None:
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1)) if bad.size else np.empty(0, np.intp)
    return f"{what} in row {int(rows[0])} ({len(rows)} such rows)" if len(rows) else None


# --- codec --------------------------------------------------------------------------------------------------------

_FIELDS: dict[str, type] = {
    "kind": str,
    "sender": str,
    "port": str,
    "receiver": str,
    "run": str,
    "round": int,
    "step": int,
    "sequence": int,
    "schema": int,
}


def pack_header(header: Header) -> bytes:
    """Return the header as msgpack bytes; :func:`unpack_header` reads them."""
    return bytes(msgpack.packb(_header_map(header)))


def _header_map(header: Header) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(header, name) for name in _FIELDS}
    fields["arrays"] = [[array.name, array.dtype, list(array.shape)] for array in header.arrays]
    return fields


def unpack_header(data: bytes) -> Header:
    """Read a header from msgpack bytes.

    Raises
    ------
    MessageError
        If the bytes are no header of a known schema and kind.
    """
    header = _read_header(_unpack(data, "header", 0))
    validate_header(header)
    return header


def encode(message: Message) -> bytes:
    """Return the whole message as one msgpack document: a map of the header and the raw arrays.

    Raises
    ------
    MessageError
        If the message is not valid.
    """
    validate(message)
    arrays = [as_wire(message.arrays[array.name]).tobytes() for array in message.header.arrays]
    return bytes(msgpack.packb({"header": _header_map(message.header), "arrays": arrays}))


def decode(data: bytes) -> Message:
    """Read one message from the document that :func:`encode` wrote; the arrays are read-only views of `data`'s parts.

    Raises
    ------
    MessageError
        For anything that is not exactly such a document. Never allocates more than a small multiple of ``len(data)``.
    """
    document = _unpack(data, "message", len(data))
    if not isinstance(document, dict) or set(document) != {"header", "arrays"}:
        raise MessageError("message: expected a map of 'header' and 'arrays'")
    header = _read_header(document["header"])
    validate_header(header)
    blobs = document["arrays"]
    if not isinstance(blobs, list) or len(blobs) != len(header.arrays):
        raise MessageError(f"{header.route}: the header announces {len(header.arrays)} arrays, others came")
    arrays: dict[str, Array] = {}
    for described, blob in zip(header.arrays, blobs, strict=True):
        if not isinstance(blob, bytes) or len(blob) != described.nbytes:
            came = len(blob) if isinstance(blob, bytes) else type(blob).__name__
            raise MessageError(
                f"{header.route}: {described.name} announces {described.nbytes} bytes for shape {described.shape}, "
                f"{came} came"
            )
        if described.dtype == "|b1" and blob.translate(None, b"\0\1"):
            raise MessageError(f"{header.route}: {described.name} holds bytes that are neither true nor false")
        arrays[described.name] = np.frombuffer(blob, dtype=described.dtype).reshape(described.shape)
    message = Message(header, arrays)
    validate(message)
    return message


def _unpack(data: bytes, what: str, max_bin: int) -> Any:
    if max_bin == 0 and len(data) > MAX_HEADER_BYTES:
        raise MessageError(f"{what}: {len(data)} bytes, at most {MAX_HEADER_BYTES} are read")
    try:
        # The bounds on arrays and maps keep a hostile document from reserving memory for items that never come.
        return msgpack.unpackb(
            data, max_bin_len=max_bin, max_str_len=1024, max_array_len=64, max_map_len=32, max_ext_len=0
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise MessageError(f"{what}: not readable as msgpack ({type(error).__name__}: {str(error)[:200]})") from error


def _read_header(fields: Any) -> Header:
    if not isinstance(fields, dict):
        raise MessageError("header: expected a map")
    expected = {*_FIELDS, "arrays"}
    if set(fields) != expected:
        odd = sorted(str(name)[:40] for name in set(fields) ^ expected)
        raise MessageError(f"header: fields missing or unknown: {', '.join(odd[:10])}")
    for name, kind in _FIELDS.items():
        value = fields[name]
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise MessageError(f"header: {name} is {str(value)[:40]!r}, expected a {kind.__name__} of 0 or above")
    if not isinstance(fields["arrays"], list):
        raise MessageError("header: arrays is not a list")
    arrays = tuple(_read_array_header(item) for item in fields["arrays"])
    return Header(**{name: fields[name] for name in _FIELDS}, arrays=arrays)


def _read_array_header(item: Any) -> ArrayHeader:
    if not (isinstance(item, list) and len(item) == 3):
        raise MessageError("header: an array is described by name, dtype and shape")
    name, dtype, shape = item
    if not (isinstance(name, str) and isinstance(dtype, str)):
        raise MessageError("header: an array's name and dtype are text")
    if dtype not in ("<f4", "<f8", "<i8", "|b1"):
        raise MessageError(f"header: {name[:40]} has dtype {dtype[:40]!r}, which no message has")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise MessageError(f"header: the shape of {name[:40]} is no list of at most {MAX_DIMENSIONS} lengths")
    if any(type(length) is not int or length < 0 for length in shape):
        raise MessageError(f"header: the shape of {name[:40]} is {str(shape)[:80]}, lengths are integers of 0 or above")
    return ArrayHeader(name, dtype, tuple(shape))
