"""Rows that stay on disk: what stands for an array of observations where messages are passed on.

A worker reads the rows of a chunk when it needs them. Files are read, not mapped: a file that is truncated while it is
mapped ends the process that reads it, with no sentence, and mapped pages count as memory of the process.
"""

from __future__ import annotations

import json
import math
import os
import stat
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.errors import ModuleError, escape_controls
from actors.limits import MAX_DIMENSIONS, MAX_INTEGER, MAX_PATH_CHARACTERS, MAX_STATE_TEXT_BYTES
from actors.types import Array, BoolArray, IntArray

STORED_DTYPES = (
    "|b1",
    "|i1",
    "|u1",
    *(f"{order}{code}" for order in "<>" for code in ("i2", "u2", "i4", "u4", "f2", "f4", "f8")),
)
"""The dtypes of rows on disk. They become float32 if that holds their values exactly, or else float64."""


_OPTIONAL = {"center", "width", "gaps"}
"""The fields that only rows with a scale have, and only rows that may lack some of their values."""


def is_url(location: str) -> bool:
    """Return whether a location is a URL, and not a path."""
    return "://" in location


@dataclass(frozen=True)
class RowFile:
    """One file of rows of the same shape and dtype, one after the other without gaps.

    Parameters
    ----------
    location : str
        Absolute path, or URL that fsspec knows.
    offset : int
        Where the first row begins, in bytes.
    rows : int
    size : int
        Of the file, in bytes.
    version : str
        Changes with the file's content: the time of its last modification, or what the server of a URL says.
    """

    location: str
    offset: int
    rows: int
    size: int
    version: str


@dataclass(frozen=True)
class StoredRows:
    """Rows of files, in the place of an array of float32 or float64 (N, …) with the same values.

    Parameters
    ----------
    files : tuple of RowFile
        Whose rows follow one another.
    stored : str
        The dtype of the files, one of :data:`STORED_DTYPES`.
    row_shape : tuple of int
        The shape of one row.
    divide_by : float, optional
        What all values are divided by.
    start, stop : int
        Which of the files' rows these are.
    center, width : tuple of float, optional
        What is then subtracted from each column of a row, and what the column is divided by, computed as float64.
    gaps : bool
        Whether NaN is a missing value in part of a row, too; it is read as zero, as in rows that are missing.
    """

    files: tuple[RowFile, ...]
    stored: str
    row_shape: tuple[int, ...]
    divide_by: float | None
    start: int
    stop: int
    center: tuple[float, ...] | None = None
    width: tuple[float, ...] | None = None
    gaps: bool = False

    # --- as an array ----------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values, float32 or float64."""
        return np.dtype("<f8" if self.stored[1:] in ("i4", "u4", "f8") else "<f4")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array, (N, …)."""
        return (len(self), *self.row_shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return 1 + len(self.row_shape)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, rows: slice) -> StoredRows:
        """Return some of the rows, one after the other, without reading them."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError("rows on disk are taken one after the other")
        start, stop = self.start + start, self.start + max(start, stop)
        first = max(0, bisect_right(self._ends, start))
        last = min(len(self.files), bisect_right(self._ends, max(start, stop - 1)) + 1)
        before = self._ends[first - 1] if first else 0
        return replace(self, files=self.files[first:last], start=start - before, stop=stop - before)

    def copy(self) -> StoredRows:
        """Return these rows, which cannot be changed."""
        return self

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Read all rows, for numpy."""
        if copy is False:
            raise ValueError("rows on disk cannot become an array without a copy")
        values = self.read()
        return values if dtype is None else values.astype(dtype)

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self) -> Array:
        """Read the values of all rows; those of missing rows, all NaN, are zero, and those that :attr:`gaps` allows.

        Raises
        ------
        ModuleError
            If a file is missing, cannot be read, or has changed.
        """
        return self._converted(self.read_raw())

    def take(self, rows: IntArray) -> Array:
        """Read the values of some rows, in any order (n, …).

        Only what lies between the first and the last of them is read.

        Raises
        ------
        ModuleError
            As :meth:`read` does.
        """
        if not len(rows):
            return np.empty((0, *self.row_shape), self.dtype)
        first, last = int(rows.min()), int(rows.max()) + 1
        return self._converted(self[first:last].read_raw()[rows - first])

    @cached_property
    def _ends(self) -> list[int]:
        """The number of rows up to the end of each file."""
        return list(accumulate(file.rows for file in self.files))

    def read_raw(self) -> Array:
        """Read all rows as they are stored."""
        width = np.dtype(self.stored).itemsize * math.prod(self.row_shape)
        parts, before = list[bytes](), 0
        for file in self.files:
            start, stop = max(self.start - before, 0), min(self.stop - before, file.rows)
            before += file.rows
            if start < stop:
                parts.append(_read_bytes(file, file.offset + start * width, (stop - start) * width))
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return np.frombuffer(data, self.stored).reshape(-1, *self.row_shape)

    def _converted(self, raw: Array) -> Array:
        """Return the values of rows as they are stored."""
        values: Array = raw.astype(self.dtype)
        missing: BoolArray = np.zeros(len(values), np.bool_)
        if raw.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
            empty = np.isnan(values)
            missing = empty if self.gaps else np.asarray(empty.reshape(len(values), -1).all(axis=1))
            values[missing] = 0
            if not (finite.T | missing.T).all():
                raise ModuleError(f"{self.files[0].location}: holds NaN or an infinity, which it did not before")
        if self.divide_by is not None:
            values /= values.dtype.type(self.divide_by)
        if self.center is not None:
            values = self._scaled(values)
            values[missing] = 0
        return values

    def _scaled(self, values: Array) -> Array:
        """Return values with their columns shifted and scaled."""
        flat = values.reshape(len(values), -1).astype(np.float64)
        with np.errstate(over="ignore"):
            scaled: Array = ((flat - np.array(self.center)) / np.array(self.width)).astype(values.dtype)
        if not np.isfinite(scaled).all():
            column = int(np.argwhere(~np.isfinite(scaled))[0, 1])
            raise ModuleError(
                f"{self.files[0].location}: column {column + 1} has a value that is too far from the rows that the "
                f"scale was learnt from for {values.dtype}; give it the unit of those rows"
            )
        return scaled.reshape(values.shape)

    def check_unchanged(self) -> None:
        """Raise ModuleError if a file is missing or has changed."""
        for file in self.files:
            if file_version(file.location) != (file.size, file.version):
                raise ModuleError(_changed(file))

    # --- as text --------------------------------------------------------------------------------------------------

    def to_text(self) -> str:
        """Return a text for :meth:`from_text`."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        plain["files"] = [list(asdict(file).values()) for file in self.files]
        if not self.gaps:
            del plain["gaps"]  # as earlier versions wrote it
        return json.dumps({name: value for name, value in plain.items() if value is not None or name == "divide_by"})

    @classmethod
    def from_text(cls, text: object) -> StoredRows:
        """Return the rows that a text describes.

        Raises
        ------
        ModuleError
            If it is not one of :meth:`to_text`.
        """
        try:
            if not isinstance(text, str) or len(text) > MAX_STATE_TEXT_BYTES:
                raise ValueError("expected a text")
            given = json.loads(text)
            names = {each.name for each in fields(cls)}
            if not isinstance(given, dict) or not names - _OPTIONAL <= set(given) <= names:
                raise ValueError("expected a map")
            files = tuple(RowFile(*file) for file in given["files"])
            rows = cls(**{**given, "files": files, "row_shape": tuple(given["row_shape"])})
            if rows.center is not None and rows.width is not None:
                rows = replace(rows, center=tuple(rows.center), width=tuple(rows.width))
            rows._check()
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise ModuleError(
                f"the description of rows on disk is damaged ({escape_controls(str(error)[:200])})"
            ) from None
        return rows

    def _check(self) -> None:
        """Raise ValueError if a value has another type, or is out of bounds."""
        counts = [self.start, self.stop, *self.row_shape]
        for file in self.files:
            counts += [file.offset, file.rows, file.size]
            if not (type(file.location) is str and type(file.version) is str):
                raise ValueError("expected texts")
            if not 0 < len(file.location) <= MAX_PATH_CHARACTERS or "\0" in file.location:
                raise ValueError("expected a path or a URL")
        if any(type(count) is not int or not 0 <= count <= MAX_INTEGER for count in counts):
            raise ValueError("expected counts")
        if self.stored not in STORED_DTYPES or not 1 <= len(self.row_shape) < MAX_DIMENSIONS or 0 in self.row_shape:
            raise ValueError("expected rows of numbers")
        if type(self.gaps) is not bool:
            raise ValueError("expected a truth value")
        if self.divide_by is not None and not (
            type(self.divide_by) in (int, float) and 0 < self.divide_by <= float(np.finfo(self.dtype).max)
        ):
            raise ValueError("expected a number above 0")
        if (self.center, self.width) != (None, None):
            self._check_scale()
        width = np.dtype(self.stored).itemsize * math.prod(self.row_shape)
        if any(file.offset + file.rows * width > file.size or not file.rows for file in self.files):
            raise ValueError("expected files that hold the rows")
        if not self.start < self.stop <= sum(file.rows for file in self.files):
            raise ValueError("expected rows of the files")

    def _check_scale(self) -> None:
        """Raise ValueError if the scale has not a number for each column, or a width is not above 0."""
        columns = math.prod(self.row_shape)
        for numbers in (self.center, self.width):
            if not isinstance(numbers, tuple) or len(numbers) != columns:
                raise ValueError("expected a number for each column")
            if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
                raise ValueError("expected finite numbers")
        if self.width is None or min(self.width) <= 0:
            raise ValueError("expected widths above 0")


def file_version(location: str) -> tuple[int, str]:
    """Return the size of a file in bytes, and what changes with its content.

    Raises
    ------
    ModuleError
        If there is no such file, or it cannot be read.
    """
    if is_url(location):
        files, path = open_url(location)
        try:
            return int(files.size(path)), str(files.ukey(path))[:200]
        except Exception as error:  # of any package
            raise ModuleError(_unreadable(location, error)) from error
    try:
        return _version(os.stat(location))  # noqa: PTH116 (the same for a path and a descriptor)
    except OSError as error:
        raise ModuleError(_unreadable(location, error)) from None


def open_url(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path of the URL within it.

    Raises
    ------
    ModuleError
        If the URL's protocol is unknown, or needs a package that is not installed.
    """
    import fsspec.core  # slow to import, and not needed for local paths

    try:
        files, path = fsspec.core.url_to_fs(url)
    except Exception as error:  # of any package
        reason = " ".join(str(error).split())
        raise ModuleError(f"{url}: cannot be opened ({reason}); give a path, or a URL such as s3://…") from error
    return files, path


def _version(found: os.stat_result) -> tuple[int, str]:
    if not stat.S_ISREG(found.st_mode):
        raise IsADirectoryError("is not a regular file")
    return found.st_size, str(found.st_mtime_ns)


def _read_bytes(file: RowFile, offset: int, count: int) -> bytes:
    """Read a range of a file that must not have changed."""
    data = (_read_range if is_url(file.location) else _read_local)(file, offset, count)
    if len(data) != count:
        raise ModuleError(_changed(file))
    return data


def _read_range(file: RowFile, offset: int, count: int) -> bytes:
    files, path = open_url(file.location)
    try:
        data = bytes(files.cat_file(path, start=offset, end=offset + count))
        now = int(files.size(path)), str(files.ukey(path))[:200]
    except Exception as error:  # of any package
        raise ModuleError(_unreadable(file.location, error)) from error
    if now != (file.size, file.version):
        raise ModuleError(_changed(file))
    return data


def _read_local(file: RowFile, offset: int, count: int) -> bytes:
    try:
        descriptor = os.open(file.location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # no pipe makes it wait
        try:
            data = os.pread(descriptor, count, offset)
            while len(data) < count and (more := os.pread(descriptor, count - len(data), offset + len(data))):
                data += more  # Linux reads at most 2 GiB at once
            now = _version(os.fstat(descriptor))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ModuleError(_unreadable(file.location, error)) from None
    if now != (file.size, file.version):
        raise ModuleError(_changed(file))
    return data


def _changed(file: RowFile) -> str:
    return (
        f"{file.location}: has changed since the run began (it had {file.size:,} bytes then); put the file back as it "
        "was, or start another run"
    )


def _unreadable(location: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return f"{location}: cannot be read ({reason}); on a cluster, every node needs the file at the same path"


def read_array(array: Array | StoredRows) -> Array:
    """Return an array, reading one that is on disk."""
    return array.read() if isinstance(array, StoredRows) else array


def describe_files(files: Sequence[RowFile]) -> str:
    """Return the names of some files, for a line of text."""
    first = Path(files[0].location).name
    return first if len(files) == 1 else f"{len(files):,} files, {first} the first"
