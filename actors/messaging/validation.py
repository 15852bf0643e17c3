"""Validation: what a message must be, and the finite values that metrics, states and outputs must have.

A message is checked against its kind: known schema and kind, the right arrays with fitting dtypes and shapes, and
values that mean what the kind says. Metrics are finite. Arrays of states and outputs hold neither NaN nor +∞; −∞, the
logarithm of zero, is allowed. A state's plain scalars may be infinite, as a best loss is before there is one, but not
NaN.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.errors import MessageError, NonFiniteError
from actors.messaging.kinds import KINDS, MAX_DIMENSIONS, ArraySpec, Kind
from actors.messaging.message import SCHEMA, ArrayHeader, Header, Message
from actors.types import Array, FloatArray

MAX_TEXT_BYTES = 1024
"""Longest text in a header."""

MAX_MESSAGE_BYTES = 2**32 - 1
"""Largest size of a message's arrays together: what one value of msgpack can hold."""

LARGEST = 1e140
"""The squares of larger values, summed over many rows, overflow float64."""

HEADER_FIELDS: dict[str, type] = {
    **dict.fromkeys(("kind", "sender", "port", "receiver", "run"), str),
    **dict.fromkeys(("round", "step", "sequence", "schema"), int),
}
"""The plain fields of a header and their types."""


# --- messages -----------------------------------------------------------------------------------------------------


def validate_header(header: Header) -> None:
    """Hold a header against its kind: known schema and kind, right arrays, dtypes and fitting shapes.

    Raises
    ------
    MessageError
    """
    for name in HEADER_FIELDS:
        if said := _field_error(name, getattr(header, name)):
            raise MessageError(f"{'header' if HEADER_FIELDS[name] is str else header.route}: {said}")
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
        said = lengths_error(array, rows) if spec.semantics == "lengths" else array_error(spec, array)
        if said:
            raise MessageError(f"{header.route}: {name} {said}")


def _field_error(name: str, value: object) -> str | None:
    """Say why `value` cannot be the header's field `name`, or None."""
    expected = HEADER_FIELDS[name]
    if isinstance(value, bool) or not isinstance(value, expected):
        return f"{name} is {reprlib.repr(value)}, expected {'text' if expected is str else 'an integer'}"
    if isinstance(value, int):
        return None if 0 <= value < 2**63 else f"{name} is {value}, expected 0 or above, below 2^63"
    try:
        size = len(str(value).encode())
    except UnicodeEncodeError:
        return f"{name} is {reprlib.repr(value)}, which is no Unicode text"
    return None if size <= MAX_TEXT_BYTES else f"{name} has {size} bytes, at most {MAX_TEXT_BYTES} are allowed"


@np.errstate(all="ignore")
def array_error(spec: ArraySpec, array: Array) -> str | None:
    """Say what is wrong with what `array` (of `spec`'s dtype and dimensions) says, or None."""
    if spec.semantics == "mask":
        return None
    if spec.semantics in ("real", "log", "counts"):
        said = _first_bad_row(~np.isfinite(array), "is not finite")
        return said or (_first_bad_row(array < 0, "holds a negative count") if spec.semantics == "counts" else None)
    if np.isnan(array).any():
        return _first_bad_row(np.isnan(array), "holds NaN")
    tolerance = 1e-3 if array.dtype.itemsize == 4 else 1e-6
    if spec.semantics == "log_distribution":
        if (array == np.inf).any():
            return _first_bad_row(array == np.inf, "holds +inf")
        if said := _first_bad_row((array == -np.inf).all(axis=1), "is -inf throughout"):
            return said
        sums = np.exp(array).sum(axis=1)
    else:
        if (array < 0).any():
            return _first_bad_row(array < 0, "holds a negative probability")
        sums = array.sum(axis=1)
    return _first_bad_row(~(np.abs(sums - 1.0) <= tolerance), "does not sum to one")


def lengths_error(lengths: Array, rows: int) -> str | None:
    """Say why `lengths` cannot be those of sequences that have `rows` rows together, or None."""
    if (lengths <= 0).any():
        return "has a sequence without rows"
    # Halves are summed apart and joined as Python integers: hostile lengths cannot wrap around.
    total = (int((lengths >> 32).sum()) << 32) + int((lengths & 0xFFFFFFFF).sum())
    return None if total == rows else f"adds up to {total}, but there are {rows} rows"


def _first_bad_row(bad: Array, what: str) -> str | None:
    rows = bad.reshape(len(bad), -1).any(axis=1) if bad.size else bad
    many = int(np.count_nonzero(rows))
    return f"{what} in row {int(rows.argmax())} ({many} such rows)" if many else None


# --- finite values ------------------------------------------------------------------------------------------------


def check_figures(where: str, figures: Mapping[str, float]) -> None:
    """Refuse figures that are not finite.

    Parameters
    ----------
    where : str
        Whose they are and of when (:attr:`actors.module.Context.where`), for people.
    figures : mapping of str to float

    Raises
    ------
    NonFiniteError
        Names module, round, step and figure.
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NonFiniteError(f"{where}: {name} is {value:g}")


def check_arrays(where: str, what: str, values: Mapping[str, Any]) -> None:
    """Refuse arrays with NaN or +∞, and scalars that are NaN.

    Parameters
    ----------
    where : str
    what : str
        ``state`` or ``output``, for people.
    values : mapping of str to array or scalar
        Of other types than floats, anything.

    Raises
    ------
    NonFiniteError
        Names module, round, step, the array, and the first such value with its place.
    """
    for name, value in values.items():
        if isinstance(value, float | np.floating):
            if math.isnan(value):
                raise NonFiniteError(f"{where}: {what} {name!r} is nan")
        elif isinstance(value, np.ndarray) and _exceeds(value):
            place, odd = _first(value)
            raise NonFiniteError(f"{where}: {what} {name!r} is {odd:g}{place}")


def check_range(where: str, what: str, values: FloatArray) -> None:
    """Refuse values whose squares, summed over rows, are no numbers any more.

    Parameters
    ----------
    where : str
    what : str
        What they are, for people.
    values : ndarray of float64

    Raises
    ------
    NonFiniteError
        Names module, round, step and the largest value.
    """
    most = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if most > LARGEST:
        raise NonFiniteError(
            f"{where}: the {what} reach {most:.3g}, and their covariance overflows beyond {LARGEST:g}; "
            "bring the data into a smaller range"
        )


def is_no_number(kind: str, arrays: Mapping[str, npt.ArrayLike]) -> bool:
    """Say whether a message that was refused holds what no message of `kind` may: NaN, an infinity, a row of −∞."""
    for name, given in arrays.items():
        array, spec = np.atleast_1d(given), KINDS[kind].spec(name)
        if array.dtype.kind != "f" or not array.size:
            continue
        # The largest of a row of log-probabilities is not finite just where one is NaN or +∞, or all are −∞.
        held = array.max(axis=-1) if spec is not None and spec.semantics == "log_distribution" else array
        if not np.isfinite(held).all():
            return True
    return False


def _exceeds(array: Array) -> bool:
    """Say whether there is NaN or +∞ in the array: NaN comes through its largest value, found without a copy."""
    return array.dtype.kind == "f" and array.size > 0 and not array.max() < np.inf


def _first(array: Array) -> tuple[str, float]:
    """Return where the first value that is NaN or +∞ is, in words, and the value."""
    at = np.unravel_index(int(np.argmax(~(array < np.inf))), array.shape)
    return (f" at {tuple(int(i) for i in at)}" if at else ""), float(array[at])
