"""Validation of messages against their kinds, and of the values of states and outputs.

A message must have a known schema and kind, the arrays of the kind with matching dtypes and shapes, and values that are
valid for the semantics of each array. Arrays of states and outputs contain neither NaN nor +∞; −∞,
the logarithm of zero, is allowed. Plain scalars of a state may be infinite, like the best loss before the first epoch,
but not NaN.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.errors import MessageError, ModuleError, NonFiniteError
from actors.limits import MAX_DIMENSIONS, MAX_MESSAGE_BYTES, MAX_TEXT_BYTES
from actors.messaging.kinds import KINDS, ArraySpec, Kind
from actors.messaging.message import SCHEMA, ArrayHeader, Header, Message
from actors.messaging.stored_rows import StoredRows
from actors.types import Array, FloatArray

MAX_VALUE = 1e140
"""Sums of the squares of larger values over many rows overflow float64."""

STRETCH = 65536
"""Numbers that are checked together: several passes over them are as fast as one over an array in main memory."""

HEADER_FIELDS: dict[str, type] = {
    **dict.fromkeys(("kind", "sender", "port", "receiver", "run"), str),
    **dict.fromkeys(("round", "step", "sequence", "schema"), int),
}
"""The fields of a header other than the array headers, and their types."""


# --- messages -----------------------------------------------------------------------------------------------------


def validate_header(header: Header) -> None:
    """Check the fields of a header, and its arrays, dtypes and shapes against the kind.

    Raises
    ------
    MessageError
        Names sender, receiver, port and kind, and the field or array.
    """
    for name in HEADER_FIELDS:
        if problem := _field_error(name, getattr(header, name)):
            raise MessageError(f"{'header' if HEADER_FIELDS[name] is str else header.route}: {problem}")
    where = header.route
    if header.schema != SCHEMA:
        raise MessageError(f"{where}: has schema {header.schema}, expected schema {SCHEMA}")
    kind = KINDS.get(header.kind)
    if kind is None:
        raise MessageError(f"{where}: unknown kind {header.kind[:40]!r}; known kinds are {', '.join(sorted(KINDS))}")
    names = [array.name for array in header.arrays]
    if len(set(names)) != len(names):
        raise MessageError(f"{where}: duplicate array name in {names}")
    missing = [spec.name for spec in kind.arrays if not spec.optional and spec.name not in names]
    if missing:
        raise MessageError(f"{where}: array {missing[0]!r} is missing, got only {names}")
    sizes: dict[str, int] = {}
    for array in header.arrays:
        _check_array_header(where, kind, array, sizes)
    shapes = {array.name: array.shape for array in header.arrays}
    mask, values = shapes.get("mask", ()), shapes.get("values", ())
    if len(mask) > 1 and mask != values:
        raise MessageError(
            f"{where}: mask has shape {mask}, expected {values[:1]} for missing rows, or that of the values, {values}"
        )


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
    max_dims = MAX_DIMENSIONS if open_ended else len(fixed)
    if not len(fixed) <= len(array.shape) <= max_dims:
        raise MessageError(
            f"{where}: {array.name} has shape {array.shape}, expected {shape}, at most {max_dims} dimensions"
        )
    if 0 in array.shape:  # also refuses (2^60, 0), a huge shape of no bytes
        raise MessageError(f"{where}: {array.name} has shape {array.shape}, expected {shape} with no size of 0")
    for letter, size in zip(fixed, array.shape, strict=False):
        if sizes.setdefault(letter, size) != size:
            raise MessageError(
                f"{where}: {array.name} has shape {array.shape}, expected {shape}, "
                f"but {letter} is {sizes[letter]} in another array"
            )


def validate(message: Message, valid: Collection[str] = ()) -> None:
    """Check a message against its kind: first the header, then the values of the arrays.

    Values on disk are checked as they are read. A message that workers share may be larger than one that is in one
    process.

    Parameters
    ----------
    message : Message
    valid : collection of str
        Arrays whose values have been checked (:func:`is_valid_stretch`).

    Raises
    ------
    MessageError
        Names sender, receiver, port and kind, the array and, if one row is at fault, the row.
    """
    header = message.header
    validate_header(header)
    kind = KINDS[header.kind]
    size = sum(array.nbytes for name, array in message.arrays.items() if not isinstance(array, StoredRows))
    if size > MAX_MESSAGE_BYTES:
        raise MessageError(
            f"{header.route}: {size / 2**30:,.1f} GiB of arrays, at most 4 GiB are allowed; let workers share the rows"
        )
    described = {array.name: array for array in header.arrays}
    for name in message.arrays:
        if name not in described:
            raise MessageError(
                f"{header.route}: array {name!r} is not declared in the header, only {', '.join(described)}"
            )
    rows = next(described[s.name].shape[0] for s in kind.arrays if s.dims[0] == "N" and s.name in described)
    for name, declared in described.items():
        array = message.arrays.get(name)
        if array is None:
            raise MessageError(f"{header.route}: {name} is declared in the header but missing")
        if array.dtype.str != declared.dtype or array.shape != declared.shape:
            raise MessageError(
                f"{header.route}: {name} is declared as {declared.dtype} {declared.shape}, "
                f"got {array.dtype.str} {array.shape}"
            )
        spec = kind.spec(name)
        assert spec is not None  # checked by validate_header
        if isinstance(array, StoredRows) or name in valid:
            continue
        problem = lengths_error(array, rows) if spec.semantics == "lengths" else array_error(spec, array)
        if problem:
            raise MessageError(f"{header.route}: {name} {problem}")


def _field_error(name: str, value: object) -> str | None:
    """Return why `value` is not valid for the header field `name`, or None."""
    expected = HEADER_FIELDS[name]
    if isinstance(value, bool) or not isinstance(value, expected):
        return f"{name} is {reprlib.repr(value)}, expected {'text' if expected is str else 'an integer'}"
    if isinstance(value, int):
        return None if 0 <= value < 2**63 else f"{name} is {value}, expected 0 or more and less than 2^63"
    try:
        size = len(str(value).encode())
    except UnicodeEncodeError:
        return f"{name} is {reprlib.repr(value)}, which is not valid Unicode text"
    return None if size <= MAX_TEXT_BYTES else f"{name} has {size} bytes, at most {MAX_TEXT_BYTES} are allowed"


@np.errstate(all="ignore")
def array_error(spec: ArraySpec, array: Array) -> str | None:
    """Return why the values of `array`, whose dtype and dimensions match `spec`, are not valid, or None."""
    if spec.semantics == "mask" or all(_is_valid(spec.semantics, rows) for rows in stretches(array)):
        return None
    if spec.semantics in ("real", "log", "counts"):
        if problem := _first_bad_row(~np.isfinite(array), "is not finite"):
            return problem
        return _first_bad_row(array < 0, "contains a negative count") if spec.semantics == "counts" else None
    if np.isnan(array).any():
        return _first_bad_row(np.isnan(array), "contains NaN")
    tolerance = _tolerance(array)
    if spec.semantics == "log_distribution":
        if (array == np.inf).any():
            return _first_bad_row(array == np.inf, "contains +inf")
        if problem := _first_bad_row((array == -np.inf).all(axis=1), "contains only -inf"):
            return problem
        sums = np.exp(array).sum(axis=1)
    else:
        if (array < 0).any():
            return _first_bad_row(array < 0, "contains a negative probability")
        sums = array.sum(axis=1)
    return _first_bad_row(~(np.abs(sums - 1.0) <= tolerance), "does not sum to one")


STRETCHWISE = frozenset({"real", "counts", "log", "distribution", "log_distribution"})
"""The semantics of arrays whose values are valid if those of each stretch are."""


@np.errstate(all="ignore")
def is_valid_stretch(spec: ArraySpec, rows: Array) -> bool:
    """Return whether the values of some rows of an array, whose dtype and dimensions match `spec`, are valid."""
    return _is_valid(spec.semantics, rows)


def stretches(array: Array) -> Iterator[Array]:
    """Yield an array in stretches of rows that fit into a processor's cache."""
    rows = max(1, STRETCH * len(array) // max(1, array.size))
    return (array[first : first + rows] for first in range(0, len(array), rows))


def _is_valid(semantics: str, rows: Array) -> bool:
    """Return whether values are valid, from few passes over them; NaN compares as false."""
    if semantics in ("real", "counts", "log"):
        smallest = rows.min()
        return bool((smallest >= 0 if semantics == "counts" else smallest > -np.inf) and rows.max() < np.inf)
    tolerance = _tolerance(rows)
    if semantics == "log_distribution":
        largest = rows.max(axis=1)
        if not (largest.max() < np.inf and largest.min() > -np.inf):
            return False
        sums = np.exp(rows).sum(axis=1)
    elif rows.min() >= 0:
        sums = rows.sum(axis=1)
    else:
        return False
    return bool((np.abs(sums - 1.0) <= tolerance).all())


def _tolerance(distributions: Array) -> float:
    return 1e-3 if distributions.dtype.itemsize == 4 else 1e-6


def lengths_error(lengths: Array, rows: int) -> str | None:
    """Return why `lengths` are not valid lengths of sequences with a total of `rows` rows, or None."""
    if (lengths <= 0).any():
        return "contains a sequence length that is not positive"
    # The upper and lower halves are summed separately and combined as Python integers, which cannot overflow.
    total = (int((lengths >> 32).sum()) << 32) + int((lengths & 0xFFFFFFFF).sum())
    return None if total == rows else f"sums to {total}, but there are {rows} rows"


def _first_bad_row(bad: Array, problem: str) -> str | None:
    """Return `problem` with the first row where `bad` is true and the number of such rows, or None."""
    rows = bad.reshape(len(bad), -1).any(axis=1) if bad.size else bad
    count = int(np.count_nonzero(rows))
    return f"{problem} in row {int(rows.argmax())} ({count} such rows)" if count else None


# --- finite values ------------------------------------------------------------------------------------------------


def check_arrays(where: str, what: str, values: Mapping[str, Any]) -> None:
    """Check that arrays contain neither NaN nor +∞, and that scalars are not NaN.

    Parameters
    ----------
    where : str
        Module and position in the schedule, for the error message.
    what : str
        ``state`` or ``output``, for the error message.
    values : mapping of str to array or scalar
        Values that are not floating-point are ignored.

    Raises
    ------
    NonFiniteError
        Names module, round, step, the array, and the first such value with its index.
    """
    for name, value in values.items():
        if isinstance(value, float | np.floating):
            if math.isnan(value):
                raise NonFiniteError(f"{where}: {what} {name!r} is nan")
        elif isinstance(value, np.ndarray) and _has_nan_or_inf(value):
            index, first = _first_nan_or_inf(value)
            raise NonFiniteError(f"{where}: {what} {name!r} is {first:g}{index}")


def check_range(where: str, what: str, values: FloatArray) -> None:
    """Check that values are small enough for sums of their squares over rows to be finite.

    Parameters
    ----------
    where : str
        Module and position in the schedule, for the error message.
    what : str
        Name of the values in the plural, for the error message.
    values : ndarray of float64

    Raises
    ------
    NonFiniteError
        Names module, round, step and the largest value.
    """
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
    if largest > MAX_VALUE:
        raise NonFiniteError(
            f"{where}: the {what} reach {largest:.3g}, but their covariance overflows above {MAX_VALUE:g}; "
            "scale the data to a smaller range"
        )


def as_float32(what: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return values, all finite, as float32, in which networks compute.

    Raises
    ------
    ModuleError
        If they overflow, or if values that differ or are not zero all vanish.
    """
    with np.errstate(over="ignore", under="ignore"):
        converted = np.array(values, dtype=np.float32)
    if not values.size:
        return converted
    largest = max(float(values.max()), -float(values.min()))
    if largest > np.finfo(np.float32).max or 0.0 < largest < np.finfo(np.float32).tiny:
        raise ModuleError(
            f"the {what} reach {largest:.3g}, but a network computes with numbers between 1e-38 and 3e38; "
            "use other units, such that they are about one"
        )
    if converted.min() == converted.max() and values.min() < values.max():
        raise ModuleError(
            f"the {what} lie between {values.min():.9g} and {values.max():.9g}, which is the same number in the "
            "precision of a network, about seven digits; subtract their mean"
        )
    return converted


def has_non_finite_values(kind: str, arrays: Mapping[str, npt.ArrayLike]) -> bool:
    """Return whether the arrays of a refused message contain NaN, an infinity or, in `log_distribution`, a row of −∞.

    −∞ alone is valid in a ``log_distribution``.
    """
    for name, given in arrays.items():
        try:
            array = np.atleast_1d(np.asarray(given))
        except Exception:  # refused because it cannot be converted
            return False
        spec = KINDS[kind].spec(name)
        if array.dtype.kind != "f" or not array.size:
            continue
        # The maximum of a row of log-probabilities is not finite exactly if one is NaN or +∞, or all are −∞.
        checked = array.max(axis=-1) if spec is not None and spec.semantics == "log_distribution" else array
        if not np.isfinite(checked).all():
            return True
    return False


def _has_nan_or_inf(array: Array) -> bool:
    """Return whether the array contains NaN or +∞, from its maximum, which NaN propagates to and needs no copy."""
    return array.dtype.kind == "f" and array.size > 0 and not array.max() < np.inf


def _first_nan_or_inf(array: Array) -> tuple[str, float]:
    """Return the index of the first NaN or +∞, as text, and its value."""
    at = np.unravel_index(int(np.argmax(~(array < np.inf))), array.shape)
    return (f" at {tuple(int(i) for i in at)}" if at else ""), float(array[at])
