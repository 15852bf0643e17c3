"""What scripts give instead of arrays, as arrays of the same values: frames, tensors, lists of masked arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MappingView, Sequence, Set
from typing import Any

import numpy as np

from actors.limits import MAX_LISTED_NAMES
from actors.types import Array
from runner.data.errors import DataError
from runner.data.tables import TableOptions, column_places, counted_index, is_time_name
from runner.report.printable import printable_line

WHAT = {
    "M": "dates",
    "m": "durations",
    "V": "records with named fields",
    "U": "texts",
    "S": "bytes",
    "c": "complex numbers",
}
"""Names of the types of arrays that are not real numbers."""

REMEDY = {
    "M": "convert them to numbers, such as seconds since the first",
    "m": "convert them to numbers, such as seconds",
    "V": "use numpy.lib.recfunctions.structured_to_unstructured",
    "U": "convert them to numbers, such as one column of 0 and 1 for each text",
    "S": "convert them to numbers, as with numpy.frombuffer for pixels",
    "c": "give real and imaginary parts, or magnitudes, as columns",
}
"""What to do with them."""


def unwrap(given: Any, where: str) -> Any:
    """Return what numpy converts without loss: tensors as arrays, lists of masked arrays as one.

    Raises
    ------
    DataError
        If `given` has no order or can be read only once, or a tensor's values cannot be read.
    """
    if isinstance(given, Mapping | MappingView | Set | Iterator):
        kind = type(given).__name__
        remedy = "give one of its values" if isinstance(given, Mapping) else "give list(…) of it"
        raise DataError(f"{where}: is of type {kind}, no array of numbers; {remedy}")
    if _is_tensor(given):
        return _tensor_values(given, where)
    if isinstance(given, np.ma.MaskedArray) and given.dtype.names:
        return given.data  # records are refused for what they are
    if not isinstance(given, list | tuple):
        return given
    parts = [_tensor_values(part, where) if _is_tensor(part) else part for part in given]
    masked = [isinstance(part, np.ma.MaskedArray) and part is not np.ma.masked for part in parts]
    if any(masked) and len({np.shape(part) for part in parts if part is not np.ma.masked}) == 1:
        return np.ma.stack([np.ma.asarray(part) for part in parts])
    return [None if part is np.ma.masked else part for part in parts]


def unwrap_sequences(given: Any, where: str, notes: list[str]) -> Any:
    """Return sequences as numpy converts them without loss: each of a list as an array of rows × features.

    Raises
    ------
    DataError
        If data frames of a list differ in their columns, or one cannot be used.
    """
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):
        raise DataError(f"{where}: is one data frame, not sequences; give a list of frames, or lengths")
    if not isinstance(given, list | tuple):
        return unwrap(given, where)
    parts, names = [], None
    for number, part in enumerate(given):
        place = f"{where}, sequence {number + 1}"
        if hasattr(part, "columns") and hasattr(part, "to_numpy"):
            values, own = frame_values(part, place, notes if number == 0 else [])
            if names is not None and own != names:
                raise DataError(
                    f"{place}: has the columns {_list(own)}, the sequences before it {_list(names)}; give the same "
                    "columns in the same order"
                )
            names = own
        else:
            values = unwrap(part, place)
        parts.append(values)
    _check_exact([part for part in parts if isinstance(part, np.ndarray)], where)
    return parts


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_LISTED_NAMES])
    return shown + (f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else "")


def _check_exact(parts: Sequence[Array], where: str) -> None:
    """Refuse integers that would be rounded because other parts are floats."""
    if not parts or all(part.dtype.kind in "iub" for part in parts):
        return
    for number, part in enumerate(parts):
        if part.dtype.kind in "iu" and part.dtype.itemsize == 8:
            values = np.ma.getdata(part)
            changed = values.astype(np.float64).astype(np.longdouble) != values.astype(np.longdouble)
            if changed.any():
                raise DataError(
                    f"{where}, part {number + 1}: {values[changed].reshape(-1)[0]} is beyond 2^53, where float64 does "
                    "not hold it; subtract an offset, or scale the values"
                )


# --- tensors ------------------------------------------------------------------------------------------------------


def _is_tensor(given: Any) -> bool:
    """Return whether `given` is a tensor of torch, which need not be imported."""
    return type(given).__module__.partition(".")[0] == "torch" and hasattr(given, "detach")


def _tensor_values(tensor: Any, where: str) -> Array:
    """Return a tensor's values, wherever they are, without their gradient.

    numpy has no bfloat16 and no float of 8 bits; float32 holds all their values.
    """
    if str(tensor.layout) != "torch.strided" or getattr(tensor, "is_nested", False):
        raise DataError(f"{where}: is a sparse or nested tensor; give a dense one (to_dense(), or a list of tensors)")
    if tensor.device.type == "meta":
        raise DataError(f"{where}: is a tensor without values, on the device 'meta'; give one with values")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    if getattr(plain, "is_quantized", False):
        raise DataError(f"{where}: is a quantized tensor; give the result of its method dequantize()")
    if plain.is_floating_point() and plain.dtype.itemsize < 4:
        plain = plain.float()
    values: Array = plain.numpy()
    return values


# --- data frames --------------------------------------------------------------------------------------------------


def frame_values(frame: Any, where: str, notes: list[str]) -> tuple[Array, list[str]]:
    """Return the values of a data frame and the names of its columns; an index in a column is left out."""
    names = [printable_line(str(name), 60) for name in frame.columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where}: two columns are called {twice!r}; rename one, or give frame.to_numpy()")
    parts = [column_values(frame[name]) for name in frame.columns]
    for name, part in zip(names, parts, strict=True):
        if part.dtype.kind not in "biufO":
            what, remedy = WHAT.get(part.dtype.kind, str(part.dtype)), REMEDY.get(part.dtype.kind, "give numbers")
            raise DataError(f"{where}: column {name!r} holds {what}; leave it out, or {remedy}")
        if part.dtype.kind == "O" and any(isinstance(value, str) for value in part):
            raise DataError(f"{where}: column {name!r} holds texts; leave it out, or {REMEDY['U']}")
    if not parts:
        raise DataError(f"{where}: is a data frame without columns; give at least one")
    if parts[0].dtype.kind in "iuf" and _is_index(parts[0], names[0], len(parts), where):
        notes.append(f"column 1 ({names[0]!r}), an index, is left out")
        names, parts = names[1:], parts[1:]
    _check_exact(parts, where)
    return np.stack(parts, axis=1), names


def time_columns(frames: Sequence[Any], options: TableOptions) -> list[str]:
    """Return the names of the columns that are times, and so no data, unless the options name columns or none is left.

    They are called like times (``time``, ``timestamp``, ``date``, …), and hold dates, texts, or numbers that never fall
    within a sequence, as in text tables.

    Parameters
    ----------
    frames : sequence of data frames
        One, or a sequence in each.
    options : TableOptions
    """
    if options.columns is not None or options.new:
        return []
    given = (*options.exclude, options.sequence_column, options.category_column)
    names = [str(name) for name in frames[0].columns]
    times = [
        name
        for name in names
        if is_time_name(name)
        and name not in given
        and all(name in frame.columns and _is_time(frame, name, options) for frame in frames)
    ]
    return times if any(name not in times and name not in given for name in names) else []


def without_times(given: Any, names: Sequence[str] | None) -> tuple[Any, tuple[str, ...]]:
    """Return data frames without their columns of times, and the names of these; what is no frame stays as it is.

    Parameters
    ----------
    given : object
        A frame, a list of frames, or anything else.
    names : sequence of str, optional
        The columns that were left out of the rows to learn from, for new rows; by default those that are times.
    """
    parts = list(given) if isinstance(given, list | tuple) else [given]
    if not parts or not all(hasattr(part, "columns") and hasattr(part, "to_numpy") for part in parts):
        return given, ()
    times = tuple(time_columns(parts, TableOptions()) if names is None else names)
    kept = [part[[name for name in part.columns if str(name) not in times]] for part in parts] if times else parts
    return kept if isinstance(given, list | tuple) else kept[0], times


def _is_time(frame: Any, name: str, options: TableOptions) -> bool:
    values = column_values(frame[name])
    if values.dtype.kind in "Mm" or (values.dtype.kind == "O" and any(isinstance(each, str) for each in values)):
        return True
    if values.dtype.kind not in "iuf":
        return values.dtype.kind in "UST"
    names = [str(each) for each in frame.columns]
    given = [] if options.sequence_column is None else [options.sequence_column]
    ids = np.zeros(len(values))
    for place in column_places(given, names, len(names), "sequence_column"):
        ids = frame[frame.columns[place]].to_numpy()
    steps = np.diff(values.astype(np.float64))[ids[1:] == ids[:-1]]
    return bool((~(steps < 0)).all() and (steps > 0).any())


def choose_columns(frame: Any, options: TableOptions, where: str) -> tuple[Any, Array | None, Array | None]:
    """Return the columns of a data frame that make a row, and those that name sequences and categories.

    Parameters
    ----------
    frame : data frame
    options : TableOptions
    where : str
        Name of the frame for error messages.

    Returns
    -------
    frame : data frame
    sequences : ndarray of str, shape (N,), or None
    categories : ndarray, shape (N,), or None

    Raises
    ------
    DataError
        If there is no such column, none is left, or a row has no sequence.
    """
    names = [str(name) for name in frame.columns]
    apart: dict[str, int] = {}
    for key in ("sequence_column", "category_column"):
        column = getattr(options, key)
        lacks = options.new and isinstance(column, str) and column not in names
        if column is not None and not lacks:
            (apart[key],) = column_places([column], names, len(names), f"{where}: {key}")
    if options.columns is not None:
        chosen = list(column_places(options.columns, names, len(names), f"{where}: columns"))
    else:
        excluded = [
            name for name in options.exclude if not (options.new and isinstance(name, str) and name not in names)
        ]
        out = {*column_places(excluded, names, len(names), f"{where}: exclude"), *apart.values()}
        chosen = [place for place in range(len(names)) if place not in out]
    if not chosen:
        raise DataError(f"{where}: no column of data is left; choose others")
    special = {key: np.asarray(frame[frame.columns[place]].to_numpy()) for key, place in apart.items()}
    ids = special.get("sequence_column")
    if ids is not None:
        absent = [row for row, value in enumerate(ids) if value is None or value != value]
        if absent:
            raise DataError(f"{where}, row {absent[0] + 1}: has no sequence; give one for each row")
        ids = np.array([str(value) for value in ids], dtype=np.str_)
    return frame[[frame.columns[place] for place in chosen]], ids, special.get("category_column")


def _is_index(first: Array, name: str, columns: int, where: str) -> bool:
    """Return whether the first column of a data frame is an index."""
    try:
        return counted_index(first, name, columns)
    except DataError:
        raise DataError(
            f"{where}: column 1 ({name!r}) counts the rows and could be an index or data; leave it out with "
            f"frame.drop(columns={name!r}), or give frame.to_numpy() to use it"
        ) from None


def column_values(column: Any) -> Array:
    """Return the values of a column or series; in a nullable column of numbers, NaN for missing ones."""
    kind = getattr(getattr(column, "dtype", None), "kind", "O")
    if kind in "biuf" and type(column.dtype).__module__.startswith("pandas") and column.isna().any():
        values: Array = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return values
    return np.asarray(column.to_numpy())
