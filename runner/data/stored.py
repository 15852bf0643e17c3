"""Observations that stay on disk: which files they are, and the checks of what these hold.

A file that is read here as a whole is read block by block, and nothing of it is kept but the mask of missing rows, or
of missing values if rows lack some of theirs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import ModuleError
from actors.limits import MAX_NPY_HEADER_BYTES, MAX_STORED_FILES
from actors.messaging.message import missing_rows
from actors.messaging.stored_rows import STORED_DTYPES, RowFile, StoredRows, file_version, is_url, open_url
from actors.types import Array, BoolArray, IntArray
from runner.data.errors import DataError
from runner.data.intake import Rows, check_observations, missing_in_block, missing_notes
from runner.data.readers import find_file, read_npy_header
from runner.report.printable import printable_reason

MEMORY_BYTES = 256 << 20
"""Files of more bytes stay on disk, unless the model file says otherwise."""

_BLOCK_BYTES = 32 << 20
_HEADER_BYTES = MAX_NPY_HEADER_BYTES + 12


@dataclass(frozen=True)
class Stored:
    """Checked observations on disk (:class:`runner.data.intake.Rows`)."""

    values: StoredRows
    mask: BoolArray | None
    notes: tuple[str, ...]
    lengths: IntArray | None


def find_stored(
    given: str | Path | Sequence[str | Path],
    root: str | Path,
    *,
    on_disk: bool | None,
    divide_by: float | None = None,
    sequences: bool = False,
) -> tuple[StoredRows, IntArray | None] | None:
    """Return the rows of files that are to be read as they are needed; None if `given` is to be read at once.

    Parameters
    ----------
    given : str, Path or sequence of these
        A file .npy, a directory of such files, in the order of their names, or several files; or URLs. Other files
        become such before (:mod:`runner.data.shards`).
    root : str or Path
        The directory of relative paths.
    on_disk : bool, optional
        Whether rows stay on disk; by default those of files of more than :data:`MEMORY_BYTES`, of URLs, and of several
        files.
    divide_by : float, optional
        What all values are divided by.
    sequences : bool
        Whether the first axis numbers the sequences.

    Raises
    ------
    DataError
        If a file is missing or damaged, or files do not hold rows of the same shape and type.
    """
    single = None if not isinstance(given, str | Path) or _is_directory(given, root) else given
    if single is None:
        locations = _locations([given] if isinstance(given, str | Path) else given, root)
    else:
        only = str(single) if is_url(str(single)) else str(find_file(single, root))
        plain, url = only.lower().endswith(".npy"), is_url(only)
        if url and not plain:
            raise DataError(f"{only}: of URLs, only files .npy are read; download it, and give its path")
        if on_disk and not plain:
            raise DataError(f"{only}: only rows of .npy files can stay on disk; save the array with numpy.save")
        few = not plain or (not url and Path(only).stat().st_size <= MEMORY_BYTES)
        if not url and not on_disk and (few or on_disk is False):
            return None
        locations = [only if url else str(Path(only).absolute())]
    described = [_describe(location, sequences=sequences) for location in locations]
    if single is not None and on_disk is None and not is_url(locations[0]) and described[0].problem:
        return None  # it is read at once, and refused there if need be
    files, first = [], described[0]
    for each in described:
        if each.problem:
            raise DataError(f"{each.file.location}: {each.problem}")
        if (each.stored, each.row_shape) != (first.stored, first.row_shape):
            raise DataError(
                f"{each.file.location}: has rows of shape {each.row_shape} and type {np.dtype(each.stored)}, but "
                f"{first.file.location} has {first.row_shape} and {np.dtype(first.stored)}; give files that are alike"
            )
        files.append(each.file)
    rows = StoredRows(tuple(files), first.stored, first.row_shape, divide_by, 0, sum(file.rows for file in files))
    lengths = [length for each in described for length in each.lengths]
    return rows, np.array(lengths, dtype=np.int64) if sequences else None


def check_stored(rows: StoredRows, where: str) -> Stored:
    """Return rows on disk with a mask of what is missing (as :class:`runner.data.intake.Rows`), or refuse them.

    Rows of integers are not read: each of their values is one that messages can contain.

    Raises
    ------
    DataError
        If a value is infinite, or no row has any.
    """
    mask = _missing_values(rows, where)
    if mask is not None and mask.all():
        raise DataError(f"{where}: holds NaN in every row, so that all rows are missing; give rows with values")
    of_rows = missing_rows(mask)
    present = 0 if of_rows is None else int(of_rows.argmin())
    shown = rows[present : present + 1].read_raw()
    shown = np.nan_to_num(shown) if shown.dtype.kind == "f" else shown
    notes = check_observations(shown, where, narrow=True, divide_by=rows.divide_by).notes
    notes = tuple(note.partition(" (for 1 sequences")[0] for note in notes)  # which one row does not tell
    if mask is not None:
        notes = (*missing_notes(mask), *notes)
    gaps = mask is not None and mask.ndim > 1
    return Stored(replace(rows, gaps=gaps), mask, (*notes, "rows stay on disk"), None)


def _missing_values(rows: StoredRows, where: str) -> BoolArray | None:
    """Return the mask of the missing rows or, where rows lack some of their values, of values; None if none is."""
    if rows.stored[1] != "f":
        return None
    mask = np.zeros(len(rows), dtype=np.bool_)
    for start, raw in _raw_blocks(rows):
        found = missing_in_block(raw, where, start, divide_by=rows.divide_by)
        if found is None:
            continue
        empty = np.isnan(raw)
        if mask.ndim == 1 and empty[~found].any():
            mask = np.broadcast_to(mask.reshape(-1, *[1] * (raw.ndim - 1)), rows.shape).copy()
        mask[start : start + len(raw)] = found if mask.ndim == 1 else empty
    return mask if mask.any() else None


def blocks_to_check(rows: StoredRows) -> Iterator[tuple[int, Array]]:
    """Yield the first row and the values of blocks that show what a check of each row would find.

    These are all blocks; of integers of one byte, the first one and those with the least and the largest value.
    """
    wanted = None
    if np.dtype(rows.stored).itemsize == 1:
        extremes = [(int(raw.min()), int(raw.max()), start) for start, raw in _raw_blocks(rows)]
        wanted = {0, min(extremes)[2], max(extremes, key=lambda each: each[1])[2]}
    size = _block_rows(rows)
    for start in range(0, len(rows), size):
        if wanted is None or start in wanted:
            yield start, rows[start : start + size].read()


def _raw_blocks(rows: StoredRows) -> Iterator[tuple[int, Array]]:
    size = _block_rows(rows)
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size].read_raw()


def _block_rows(rows: StoredRows) -> int:
    return max(1, _BLOCK_BYTES // (int(np.prod(rows.row_shape)) * np.dtype(rows.dtype).itemsize))


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Described:
    """What the header of a file .npy says; `problem` is why its rows cannot stay on disk."""

    file: RowFile
    stored: str = ""
    row_shape: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()
    problem: str = ""


def _is_directory(given: str | Path, root: str | Path) -> bool:
    """Return whether a location is a directory; that of a URL has no suffix .npy."""
    if is_url(str(given)):
        return not str(given).lower().endswith(".npy")
    try:
        return (Path(root) / Path(given).expanduser()).is_dir()
    except (OSError, ValueError, RuntimeError):
        return False  # what it is instead is said by find_file


def _locations(given: Sequence[str | Path], root: str | Path) -> list[str]:
    """Return the absolute paths and the URLs of files; those of directories in the order of their names."""
    found: list[str] = []
    for each in given:
        if is_url(str(each)):
            found += _url_files(str(each))
            continue
        path = Path(root) / Path(each).expanduser()
        if path.is_dir():
            names = sorted(file for file in path.iterdir() if file.name.lower().endswith(".npy"))
            if not names:
                raise DataError(f"{path}: is a directory without .npy, Parquet files or pictures; give another one")
            found += [str(find_file(name, root)) for name in names]
        else:
            found.append(str(find_file(path, root)))
    if not found:
        raise DataError("data.observations: is an empty list; give at least one file")
    if len(found) > MAX_STORED_FILES:
        raise DataError(
            f"data.observations: are {len(found):,} files, at most {MAX_STORED_FILES:,} are read; join some"
        )
    return [location if is_url(location) else str(Path(location).absolute()) for location in found]


def _url_files(url: str) -> list[str]:
    """Return a URL, or those of the files .npy below it."""
    if url.lower().endswith(".npy"):
        return [url]
    try:
        files, path = open_url(url)
        names = sorted(name for name in files.ls(path, detail=False) if str(name).lower().endswith(".npy"))
    except ModuleError as error:
        raise DataError(str(error)) from None
    except Exception as error:  # of any package
        reason = printable_reason(error)
        raise DataError(f"{url}: cannot be listed ({reason}); of URLs, only files .npy are read") from error
    if not names:
        raise DataError(f"{url}: has no files .npy; give the URL of a file .npy, or of a directory of them")
    return [str(files.unstrip_protocol(name)) for name in names]


def _describe(location: str, *, sequences: bool) -> _Described:
    """Read the header of a file .npy."""
    try:
        size, version = file_version(location)
        start = _first_bytes(location)
    except ModuleError as error:
        raise DataError(str(error)) from None
    except Exception as error:  # of any package
        reason = printable_reason(error)
        raise DataError(f"{location}: cannot be read ({reason}); correct the path or the permissions") from error
    stream = io.BytesIO(start)
    try:
        shape, fortran, dtype = read_npy_header(stream)
    except DataError as error:
        raise DataError(f"{location}{error}") from None
    except Exception as error:  # numpy's parser of headers may raise anything
        reason = printable_reason(error)
        raise DataError(f"{location}: is damaged or not what its name says ({reason}); write it again") from error
    file = RowFile(location, stream.tell(), shape[0] if shape else 0, size, version)
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size - file.offset != wanted:
        what = "more bytes than" if size - file.offset > wanted else f"only {size - file.offset:,} of"
        raise DataError(f"{location}: is damaged, {what} the {wanted:,} bytes that its header announces are there")
    if not shape or 0 in shape:
        raise DataError(f"{location}: holds no rows of numbers; write at least one row into it")
    row_shape, lengths = shape[1:] or (1,), tuple[int, ...]()
    if sequences and len(shape) > 2:
        file, row_shape, lengths = replace(file, rows=shape[0] * shape[1]), shape[2:], (shape[1],) * shape[0]
    return _Described(file, dtype.str, row_shape, lengths, _problem(shape, fortran, dtype, sequences=sequences))


def _problem(shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any], *, sequences: bool) -> str:
    """Return why rows cannot stay on disk, in words that follow the file; empty if they can."""
    if fortran and len(shape) > 1:
        return "is in Fortran order, in which rows do not lie together; save numpy.ascontiguousarray of it"
    if dtype.str not in STORED_DTYPES:
        return f"has rows of {dtype}, which cannot stay on disk; save float32 or float64, or integers of up to 32 bits"
    if sequences and len(shape) < 3:
        return f"has the shape {shape}, not sequences × rows × features; leave out data.sequences"
    return ""


def _first_bytes(location: str) -> bytes:
    if is_url(location):
        files, path = open_url(location)
        return bytes(files.cat_file(path, start=0, end=_HEADER_BYTES))
    with Path(location).open("rb") as stream:
        return stream.read(_HEADER_BYTES)


def in_memory(rows: StoredRows, where: str, **options: Any) -> Rows:
    """Return rows of files that are read at once, checked as those of one file."""
    ends = list(accumulate(file.rows for file in rows.files))

    def locate(row: int) -> str:
        number = next(number for number, end in enumerate(ends) if row < end)
        before = ends[number - 1] if number else 0
        return f"row {row - before + 1}" + (f" of {Path(rows.files[number].location).name}" if len(ends) > 1 else "")

    return check_observations(rows.read_raw(), where, locate=locate, narrow=True, divide_by=rows.divide_by, **options)
