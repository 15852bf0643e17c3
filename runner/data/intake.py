"""The one door for data: whatever a model learns from or recognizes passes these checks, before Ray starts.

Arrays come from scripts, files and data frames. All become finite floats of at least two dimensions, with a mask of
the rows that are missing or, where rows lack some of their values, of the values that are. A conversion that would
change a value is refused or told in a note, never silent.
"""

from __future__ import annotations

import decimal
import fractions
import math
import numbers
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from actors.limits import MAX_LISTED_NAMES, MAX_PRINTED_LINE
from actors.messaging.stored_rows import StoredRows
from actors.types import Array, BoolArray, FloatArray, IntArray
from runner.data.conversion import REMEDY, WHAT, column_values, frame_values, unwrap, unwrap_sequences
from runner.data.errors import EXACT, DataError
from runner.data.tables import Content, sequence_lengths
from runner.report.category_names import NamedCategories
from runner.report.printable import brief, printable_line

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_MIN_CLOCK_STEPS = 20
"""Steps between rows from which a column that rises in each is hardly data by chance."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Checked observations.

    Attributes
    ----------
    values : ndarray of float32 or float64, shape (N, …)
        Finite, at least two-dimensional; zero where values are missing.
    mask : ndarray of bool, shape (N,) or that of the values, or None
        The missing rows; the missing values, if a row lacks some of its own only; None if nothing is missing.
    notes : tuple of str
        What was done with what was given.
    lengths : ndarray of int64, shape (S,), or None
        Lengths of the sequences, where the first axis numbered them.
    columns : tuple of str
        Names of the columns; empty if they have none.
    categories : ndarray of str, shape (N,), or None
        What the column of categories holds.
    """

    values: Array
    mask: BoolArray | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
    lengths: IntArray | None = None
    columns: tuple[str, ...] = ()
    categories: Array | None = None


def _number_row(row: int) -> str:
    return f"row {row + 1}"


def check_observations(
    given: Any,
    where: str,
    *,
    locate: Callable[[int], str] = _number_row,
    columns: Sequence[str] = (),
    narrow: bool = False,
    divide_by: float | None = None,
    sequences: bool = False,
) -> Rows:
    """Return observations as finite floats with a mask, or refuse them in one sentence.

    Parameters
    ----------
    given : array_like (N, …)
        An array, a masked array, lists, or a data frame. A list of N numbers becomes N×1.
    where : str
        Name of the data for error messages.
    locate : callable
        Return the place of a row for error messages.
    columns : sequence of str
        Names of the columns for error messages.
    narrow : bool
        Whether values that float32 represents exactly, by their type, become float32; otherwise only float32 does.
    divide_by : float, optional
        What all values are divided by.
    sequences : bool
        Whether the first axis numbers the sequences: S × T × features, or a list of S arrays T_s × features.

    Raises
    ------
    DataError
        If the values are not real numbers, would change by conversion, are infinite, or are missing in every row.
    """
    notes: list[str] = []
    lengths = None
    if sequences:
        given, lengths = _join_sequences(unwrap_sequences(given, where, notes), where)
    given = unwrap(given, where)
    raw, missing, columns = _to_numbers(given, where, locate, columns, notes)
    if raw.ndim == 0 or raw.size == 0:
        raise DataError(f"{where}: holds no rows of numbers, its shape is {raw.shape}; give at least one row")
    raw = raw.reshape(len(raw), 1) if raw.ndim == 1 else raw
    missing = missing if missing is None else missing.reshape(raw.shape)
    values = _to_floats(raw, where, locate, narrow)
    mask = _find_missing(values, missing, where, locate, columns)
    if mask is not None:
        values = np.where(mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)), values.dtype.type(0), values)
        notes.extend(missing_notes(mask))
    if divide_by is not None:
        values = _divide(values, divide_by, where)
        notes.append(f"values are divided by {divide_by:g}")
    if values.ndim > 2:
        size = "×".join(map(str, values.shape[1:]))
        notes.append(
            f"each row is {size}"
            + (
                ""
                if sequences or values.ndim > 3
                else f" (for {len(values)} sequences of {values.shape[1]} rows: sequences)"
            )
        )
    return Rows(values, mask, tuple(notes), lengths, tuple(columns))


def _divide(values: Array, divisor: float, where: str) -> Array:
    """Return values divided by a number, which must be one that leaves them finite."""
    if isinstance(divisor, bool | str) or not np.isfinite(divisor) or divisor <= 0:
        raise DataError(f"{where}: divide_by is {divisor!r}; give a finite number above 0")
    divided: Array = np.divide(values, values.dtype.type(divisor))
    if not np.isfinite(divided).all():
        raise DataError(f"{where}: divided by {divisor:g} its values are beyond {values.dtype}; correct divide_by")
    return divided


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _join_sequences(given: Any, where: str) -> tuple[Any, IntArray]:
    """Join sequences of rows; return the rows and the lengths."""
    if not isinstance(given, list | tuple | np.ma.MaskedArray):
        given = _as_array(given, where)
    parts = [
        part if isinstance(part, np.ma.MaskedArray) else _as_array(part, f"{where}, sequence {number}")
        for number, part in enumerate(given if isinstance(given, list | tuple) or given.ndim else [], 1)
    ]
    shapes = [part.shape for part in parts]
    empty = next((number for number, shape in enumerate(shapes, 1) if len(shape) > 1 and shape[0] == 0), None)
    if empty is not None:
        raise DataError(f"{where}: sequence {empty} has no rows; leave it out")
    if not parts or min(map(len, shapes)) < 2 or 0 in {shape[0] for shape in shapes}:
        raise DataError(
            f"{where}: sequences need an array of sequences × rows × features, or a list of arrays of rows × features, "
            f"got shape {(len(parts), *sum(shapes[:1], ())) if len(set(shapes)) < 2 else 'of different dimensions'}"
        )
    if len({shape[1:] for shape in shapes}) > 1:
        odd = next(number for number, shape in enumerate(shapes) if shape[1:] != shapes[0][1:])
        raise DataError(
            f"{where}: sequence {odd + 1} has rows of shape {shapes[odd][1:]} where {shapes[0][1:]} were expected"
        )
    masked = any(isinstance(part, np.ma.MaskedArray) for part in parts)
    join: Any = np.ma.concatenate if masked else np.concatenate
    return join(parts), np.array([shape[0] for shape in shapes], dtype=np.int64)


# --- arrays of numbers --------------------------------------------------------------------------------------------


def _to_numbers(
    given: Any, where: str, locate: Callable[[int], str], columns: Sequence[str], notes: list[str]
) -> tuple[Array, BoolArray | None, Sequence[str]]:
    """Return real numbers of any type, the cells that are missing beside those that are NaN, and names of columns."""
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):
        given, columns = frame_values(given, where, notes)
    elif hasattr(given, "to_numpy"):
        given = column_values(given)
    missing = np.ma.getmaskarray(given) if isinstance(given, np.ma.MaskedArray) else None
    raw = _as_array(np.ma.getdata(given) if missing is not None else given, where)
    if missing is not None and not missing.any():
        missing = None
    if raw.dtype.kind == "O":
        if raw.ndim == 0:
            raise DataError(f"{where}: holds no rows of numbers, but {brief(given)}; give at least one row")
        raw = _object_values(raw, missing, where, locate)
    if raw.dtype.kind not in "biuf":
        what, remedy = WHAT.get(raw.dtype.kind, str(raw.dtype)), REMEDY.get(raw.dtype.kind, "give numbers")
        first = raw.reshape(-1)[:1].tolist() if raw.dtype.kind in "US" else raw.reshape(-1)[:1]  # without numpy's names
        example = f", such as {brief(first[0])}" if raw.size and raw.dtype.kind in "MmUSc" else ""
        raise DataError(f"{where}: holds {what}{example}, not real numbers; {remedy}")
    if raw.dtype.kind == "b":
        notes.append("truth values are 0 and 1")
    return raw, missing, columns


def _as_array(given: Any, where: str) -> Array:
    """Return an array of whatever `given` is."""
    if type(given).__module__.startswith("scipy.sparse"):
        raise DataError(f"{where}: is a sparse matrix; give its method toarray()'s result")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = np.asarray(given)
    except Exception as error:  # objects convert themselves by code of their own
        lengths = [len(row) if _is_list(row) else 1 for row in given] if _are_flat_rows(given) else []
        odd = next((row for row, length in enumerate(lengths) if length != lengths[0]), None)
        if odd is not None:
            reason = (
                f"row {odd + 1} has {lengths[odd]} numbers where {lengths[0]} were expected; give rows of one length"
            )
            raise DataError(f"{where}: {reason} (sequences of rows: sequences, or joined with lengths)") from None
        reason = printable_line(" ".join(str(error).split()), MAX_PRINTED_LINE)
        raise DataError(f"{where}: is no array of numbers ({reason}); give rows of one length") from None
    return array


def _are_flat_rows(given: Any) -> bool:
    """Return whether every row of a list is a list of numbers or a single one."""
    if not isinstance(given, list | tuple):
        return False
    return all(not _is_list(row) or not any(map(_is_list, row)) for row in given)


def _is_list(given: Any) -> bool:
    return isinstance(given, list | tuple) or (isinstance(given, np.ndarray) and given.ndim > 0)


def _object_values(raw: Array, missing: BoolArray | None, where: str, locate: Callable[[int], str]) -> FloatArray:
    """Return an array of Python's numbers as floats; None is a missing value."""
    values = np.empty(raw.shape, dtype=np.float64)
    for place, value in np.ndenumerate(raw):
        if value is None or type(value).__name__ in ("NAType", "NaTType") or (missing is not None and missing[place]):
            values[place] = np.nan
        elif isinstance(value, numbers.Integral | np.bool_ | float | np.floating):
            number = _nearest_float(value)
            if isinstance(value, numbers.Integral) and not (math.isfinite(number) and int(number) == int(value)):
                raise DataError(
                    f"{where}, {locate(place[0])}: {brief(value)} is no float64; subtract an offset, or scale"
                )
            values[place] = number
        else:
            known = isinstance(value, decimal.Decimal | fractions.Fraction)
            remedy = "convert with numpy.asarray(data, float), which rounds" if known else "give numbers"
            raise DataError(
                f"{where}, {locate(place[0])}: holds {brief(value)} of type {type(value).__name__}, "
                f"not a float; {remedy}"
            )
    return values


def _nearest_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _to_floats(raw: Array, where: str, locate: Callable[[int], str], narrow: bool) -> Array:
    """Return floats of the same values, refusing what would change by more than the rounding of float64."""
    wide = np.float32 if narrow and np.result_type(raw.dtype, np.float32) == np.float32 else np.float64
    with np.errstate(over="ignore", under="ignore"):
        values: Array = raw if raw.dtype == np.float32 and raw.dtype.isnative else raw.astype(wide)
    changed: Array | None = None
    bound = ""
    if raw.dtype.kind in "iu" and raw.dtype.itemsize == 8:
        changed, bound = np.not_equal(values.astype(np.longdouble), raw.astype(np.longdouble)), "2^53"
    elif raw.dtype.kind == "f" and raw.dtype.itemsize > 8:
        changed, bound = (
            np.asarray((np.isfinite(raw) & ~np.isfinite(values)) | ((raw != 0) & (values == 0))),
            "its range",
        )
    if changed is not None and changed.any():
        row = int(changed.reshape(len(raw), -1).any(axis=1).argmax())
        value = raw[changed].reshape(-1)[0]
        raise DataError(
            f"{where}, {locate(row)}: {value!s} is beyond {bound}, where float64 does not hold it; subtract an offset, "
            "or scale the values"
        )
    return values


def _find_missing(
    values: Array,
    missing: BoolArray | None,
    where: str,
    locate: Callable[[int], str],
    columns: Sequence[str],
) -> BoolArray | None:
    """Return the mask of the rows without any value or, where rows lack some of theirs, of the missing values.

    None if nothing is missing.

    Raises
    ------
    DataError
        If a value is infinite, or no row has any.
    """
    flat = values.reshape(len(values), -1)
    empty: BoolArray = np.isnan(flat)
    if missing is not None:
        empty = empty | missing.reshape(flat.shape)
    bad = ~np.isfinite(flat) & ~empty
    mask: BoolArray = np.asarray(empty.all(axis=1))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"{where}, {locate(int(row))}: holds NaN or an infinity: {_column(column, columns)} is {flat[row, column]} "
            f"({_count(int(bad.sum()), 'such value')}); remove or replace it"
        )
    partial = empty & ~mask[:, None]
    if mask.all():
        raise DataError(f"{where}: holds NaN in every row, so that all rows are missing; give rows with values")
    if partial.any():
        return empty.reshape(values.shape)
    return mask if mask.any() else None


def missing_notes(mask: BoolArray) -> list[str]:
    """Return how many rows have no value, and how many values other rows lack."""
    of_row = mask.reshape(len(mask), -1)
    rows = of_row.all(axis=1)
    notes = []
    if rows.any():
        notes.append(f"{_count(int(rows.sum()), 'row')} without any value {'are' if rows.sum() > 1 else 'is'} missing")
    partial = of_row[~rows]
    if partial.any():
        count, lacking = int(partial.sum()), int(partial.any(axis=1).sum())
        where = _count(lacking, "other row" if rows.any() else "row")
        notes.append(f"{_count(count, 'value')} {'are' if count > 1 else 'is'} missing in {where}")
    return notes


def clock_notes(values: Array | StoredRows, lengths: IntArray | None, columns: Sequence[str]) -> list[str]:
    """Return a note on the columns that rise from each row to the next in all sequences, as a clock does.

    By such a column classes become stretches of time. It may be data, and so is kept; columns that are called like
    times were left out before.

    Parameters
    ----------
    values : ndarray (N, D) or StoredRows
        Rows on disk, and of more dimensions, have no such note.
    lengths : ndarray (S,), optional
    columns : sequence of str
        Their names, or none.
    """
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        return []
    within = np.ones(max(len(values) - 1, 0), np.bool_)
    if lengths is not None:
        within[np.cumsum(lengths)[:-1] - 1] = False
    if within.sum() < _MIN_CLOCK_STEPS:
        return []
    few = np.flatnonzero(within)[:_MIN_CLOCK_STEPS]
    likely = np.flatnonzero((values[few + 1] > values[few]).all(axis=0))
    rising = [int(place) for place in likely if (np.diff(values[:, place])[within] > 0).all()]
    if not rising or len(rising) == values.shape[1]:
        return []
    shown = [_column(place, columns) for place in rising[:3]]
    more = f" and {len(rising) - 3} more" if len(rising) > 3 else ""
    does = "rises" if len(rising) == 1 else "rise"
    return [
        f"{', '.join(shown)}{more} {does} from each row to the next, as a clock does, and is learnt from: leave it out "
        f"if it is one (data.exclude)"
    ]


def compact_mask(mask: BoolArray) -> BoolArray:
    """Return a mask of rows in the place of one of values, if no row lacks some of its values only."""
    if mask.ndim == 1:
        return mask
    of_row = mask.reshape(len(mask), -1)
    rows: BoolArray = np.asarray(of_row.all(axis=1))
    return mask if (of_row.any(axis=1) & ~rows).any() else rows


def columns_without_values(mask: BoolArray | None) -> IntArray:
    """Return the indices of the columns that no row has a value in, by a mask of rows or of values."""
    if mask is None or mask.ndim == 1:
        return np.empty(0, np.int64)
    return np.flatnonzero(mask.reshape(len(mask), -1).all(axis=0))


def describe_empty(columns: IntArray, names: Sequence[str] = ()) -> str:
    """Return a sentence about columns without any value."""
    shown = ", ".join(_column(int(column), names) for column in columns[:MAX_LISTED_NAMES])
    more = f" and {len(columns) - MAX_LISTED_NAMES} more" if len(columns) > MAX_LISTED_NAMES else ""
    has = "have" if len(columns) > 1 else "has"
    return f"{shown}{more} {has} no value in any row; leave out columns without values"


def missing_in_block(
    block: Array,
    where: str,
    start: int,
    *,
    columns: Sequence[str] = (),
    divide_by: float | None = None,
) -> BoolArray | None:
    """Return which rows of a block of a longer array have no value, (n,); None if every value is finite.

    Parameters
    ----------
    block : ndarray, shape (n, …)
        Of any type of numbers that rows on disk may have.
    where : str
        Name of the data for error messages.
    start : int
        Number of the block's first row, for error messages.
    columns : sequence of str
        Names of the columns for error messages.
    divide_by : float, optional
        What all values are to be divided by.

    Raises
    ------
    DataError
        If a value is infinite, also by the division.
    """
    if block.dtype.kind != "f":
        return None
    flat = block.reshape(len(block), -1)
    wide: np.dtype[Any] = np.dtype(np.float64 if block.dtype.itemsize == 8 else np.float32)
    with np.errstate(over="ignore"):
        finite = np.isfinite(flat if divide_by is None else flat.astype(wide) / wide.type(divide_by))
    if finite.all():
        return None
    missing: BoolArray = np.asarray(np.isnan(flat).all(axis=1))
    if not (finite.all(axis=1) | missing).all():
        present = np.flatnonzero(~missing)
        check_observations(
            block[present],
            where,
            locate=lambda row: _number_row(start + int(present[row])),
            columns=columns,
            narrow=True,
            divide_by=divide_by,
        )
    return missing


def _column(column: int, columns: Sequence[str]) -> str:
    name = f" ({columns[column]!r})" if column < len(columns) and columns[column] else ""
    return f"column {column + 1}{name}"


# --- categories and lengths ---------------------------------------------------------------------------------------


def check_categories(
    given: Any, where: str, *, rows: int | None = None, locate: Callable[[int], str] = _number_row
) -> tuple[IntArray, tuple[str, ...]]:
    """Return categories as integers, and notes: texts are numbered in their sorted order.

    Parameters
    ----------
    given : array_like (N,)
        Integers, whole floats, truth values, or texts.
    where : str
        Name of the categories for error messages.
    rows : int, optional
        The number of observations.
    locate : callable
        Return the place of a row for error messages.

    Raises
    ------
    DataError
        If there is not one category for each row, or one is missing, fractional or of another type.
    """
    given = unwrap(given, where)
    if isinstance(given, np.ma.MaskedArray) and np.ma.getmaskarray(given).any():
        row = int(np.ma.getmaskarray(given).reshape(-1).argmax())
        raise DataError(
            f"{where}, {locate(row)}: is masked, but each row needs a category; give one, or leave them out"
        )
    values = _one_per_row(_label_array(given, where), where, "categories")
    across = np.ndim(given) > 1 and np.shape(given)[0] == 1
    place: Callable[[int], str] = (lambda _: locate(0)) if across else locate
    if values.dtype.kind == "O":
        values = _plain_labels(values, where, place)
    if values.dtype.kind in "US":
        labels, notes = _numbered_names(values, where, place)
    else:
        labels, notes = _whole_numbers(values, where, "categories", place), ()
    if rows is not None and len(labels) != rows:
        raise DataError(
            f"{where}: holds {len(labels)} categories for {rows} observations; one per row is needed"
            + (" (is the first line a header?)" if len(labels) == rows + 1 else "")
        )
    return labels, notes


def _label_array(given: Any, where: str) -> Array:
    if hasattr(given, "to_numpy"):
        given = given.to_numpy()
    values = _as_array(np.ma.getdata(given) if isinstance(given, np.ma.MaskedArray) else given, where)
    if isinstance(given, list | tuple) and values.dtype.kind in "US":  # numpy turns numbers beside texts into texts
        values = np.array(given, dtype=object)
    return values


def _one_per_row(values: Array, where: str, what: str) -> Array:
    each = "row" if what == "categories" else "sequence"
    if values.size == 0:
        raise DataError(f"{where}: holds no {what}; give one number per {each}")
    if values.ndim == 0 or values.size != max(values.shape):
        more = "; of one-hot columns, give argmax(axis=1)" if values.ndim == 2 and what == "categories" else ""
        raise DataError(
            f"{where}: holds an array of shape {values.shape}, not {what}; give one number per {each}{more}"
        )
    return values.reshape(-1)


def _plain_labels(values: Array, where: str, locate: Callable[[int], str]) -> Array:
    """Return Python's objects as an array of numbers or of texts."""
    for row, value in enumerate(values):
        absent = value is None or type(value).__name__ in ("NAType", "NaTType") or value != value
        if absent or not isinstance(value, str | bytes | numbers.Real | np.bool_):
            what = "no category" if absent else f"{brief(value)} of type {type(value).__name__}"
            raise DataError(f"{where}, {locate(row)}: has {what}; give a number or a text for each row")
    texts = [isinstance(value, str | bytes) for value in values]
    if any(texts) != all(texts):
        row = texts.index(not texts[0])
        raise DataError(f"{where}, {locate(row)}: {brief(values[row])} is mixed with texts or numbers; give one kind")
    if all(texts):
        return np.array([_decode(value) if isinstance(value, bytes) else value for value in values])
    if all(isinstance(value, numbers.Integral | np.bool_) for value in values):
        if max(abs(int(value)) for value in values) < 2**63:
            return np.array([int(value) for value in values], dtype=np.int64)
        row = next(row for row, value in enumerate(values) if abs(int(value)) >= 2**63)
        raise DataError(
            f"{where}, {locate(row)}: {brief(values[row])} is beyond int64, at most 2^63 - 1; number them anew"
        )
    return np.array([_nearest_float(value) for value in values])


def _decode(value: bytes) -> str:
    """Return bytes as text: as Latin-1, which has a character for every byte, if they are no UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _numbered_names(values: Array, where: str, locate: Callable[[int], str]) -> tuple[IntArray, tuple[str, ...]]:
    names = np.array([_decode(value) for value in values]) if values.dtype.kind == "S" else values
    names = np.char.strip(names)  # as in files
    empty = names == ""
    if empty.any():
        raise DataError(f"{where}, {locate(int(empty.argmax()))}: has an empty category; give a number or a text")
    absent = names == "nan"  # numpy makes a text of a NaN beside texts
    if absent.any():
        row = int(absent.argmax())
        raise DataError(f"{where}, {locate(row)}: has no category, but {str(names[row])!r}; give another text")
    kinds, labels = np.unique(names, return_inverse=True)
    shown = ", ".join(f"{number} = {printable_line(name, 40)}" for number, name in enumerate(kinds[:MAX_LISTED_NAMES]))
    more = f" and {len(kinds) - MAX_LISTED_NAMES} more" if len(kinds) > MAX_LISTED_NAMES else ""
    return NamedCategories(labels.reshape(-1), kinds.tolist()), (f"categories {shown}{more}",)


def _whole_numbers(values: Array, where: str, what: str, locate: Callable[[int], str]) -> IntArray:
    """Return integers, refusing fractions, NaN, and what the conversion would change."""
    if values.dtype.kind not in "biuf":
        kind = WHAT.get(values.dtype.kind, str(values.dtype))
        raise DataError(f"{where}: holds {kind}, not {what}; give integers{' or texts' * (what == 'categories')}")
    if values.dtype.kind in "bi":
        return values.astype(np.int64)
    if values.dtype.kind == "u":
        bad = values > np.uint64(2**63 - 1)
    else:  # from 2^53 on a float64 may be another integer that was rounded
        values = values.astype(np.float64) if values.dtype.itemsize < 8 else values  # 2^53 is infinite in float16
        bad = ~(np.abs(values) < float(EXACT)) | (values != np.floor(values))
    if bad.any():
        row = int(bad.argmax())
        value = values[row]
        why = "is no integer"
        if values.dtype.kind == "u" or (np.isfinite(value) and abs(value) >= EXACT):
            why = "is no integer that is exact, beyond " + ("2^63 - 1" if values.dtype.kind == "u" else "2^53")
        raise DataError(f"{where}, {locate(row)}: {value} {why}; {what} are whole numbers")
    return values.astype(np.int64)


def check_lengths(
    given: Any, where: str, rows: int, *, locate: Callable[[int], str] = _number_row, name: str = "lengths"
) -> IntArray:
    """Return the lengths of sequences as integers that add up to `rows`.

    Raises
    ------
    DataError
        If one is no positive integer, or they do not add up to the rows.
    """
    given = unwrap(given, where)
    if isinstance(given, np.ma.MaskedArray) and np.ma.getmaskarray(given).any():
        raise DataError(f"{where}: has a masked length; give each sequence's")
    array = _as_array(given if not hasattr(given, "to_numpy") else given.to_numpy(), where)
    if array.dtype.kind == "b":
        raise DataError(f"{where}: holds truth values, not {name}; use integers of at least 1")
    array = _one_per_row(array, where, name)
    if array.dtype.kind == "O":
        bad = next((place for place, value in enumerate(array) if not _is_length(value)), None)
        if bad is not None:
            raise DataError(
                f"{where}: has a length that is no positive integer, {brief(array[bad])} of sequence {bad} (from 0); "
                "use integers of at least 1"
            )
        array = array.astype(np.int64)
    values = _whole_numbers(array, where, name, locate)
    if values.min(initial=1) < 1:
        bad = int(np.flatnonzero(values < 1)[0])
        raise DataError(
            f"{where}: has a length that is no positive integer, {int(values[bad])} of sequence {bad} (from 0); use "
            "integers of at least 1"
        )
    total = sum(values.tolist())
    if total != rows:
        raise DataError(
            f"{where}: the lengths do not add up to the {rows} rows of the observations, but to {total}; correct either"
        )
    return values


def _is_length(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and 1 <= int(value) < 2**63


# --- what a run says ----------------------------------------------------------------------------------------------


def describe_sizes(values: Array | StoredRows, lengths: IntArray | None) -> str:
    """Return ``3,000 rows × 784 columns in 1 sequence``."""
    width = int(np.prod(values.shape[1:]))
    number = 1 if lengths is None else len(lengths)
    return f"{_count(len(values), 'row')} × {_count(width, 'column')} in {_count(number, 'sequence')}"


def describe_rows(values: Array | StoredRows, lengths: IntArray | None, origin: str, notes: Iterable[str] = ()) -> str:
    """Return one line: ``3,000 rows × 784 columns in 1 sequence, from x.npy``, and what was done with the data."""
    first = f"{describe_sizes(values, lengths)}, from {origin}"
    return printable_line("; ".join([first, *notes]), 4 * MAX_PRINTED_LINE)


def content_rows(content: Content, where: str, **options: Any) -> Rows:
    """Check what a file holds, as :func:`check_observations` does; its notes come first."""
    rows = check_observations(content.values, where, columns=content.columns, narrow=True, **options)
    lengths, categories = rows.lengths, content.categories
    if content.sequences is not None:
        lengths = sequence_lengths(content.sequences, where, options.get("locate", _number_row))
    if categories is not None and all(map(_INTEGER.fullmatch, categories)):
        categories = categories.astype(np.int64)
    return replace(rows, notes=(*content.notes, *rows.notes), lengths=lengths, categories=categories)
