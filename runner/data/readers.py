"""Strict readers of data files: every error is one sentence with the file and the line.

The file's name determines its format: ``.txt`` (numbers and white space), ``.csv`` (commas, an optional header line),
both with ``#`` comments; ``.npy``; ``.npz`` (its only array, or the one named ``observations`` or ``values``, or
``categories`` or ``lengths`` where these are read); IDX (``*.idx``, ``*.idx3-ubyte``, ``*-idx3-ubyte``, also ``.gz``).
IDX observations are flattened to one row each, and scaled to [0, 1] if they are uint8; nothing else is scaled. Nothing
is ever unpickled, and no header makes the reader allocate more than the file contains. What a compressed file may
expand to, and how long lines, headers and lists of members may be, is in :mod:`actors.limits`; it is checked before
the content is read.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from actors.limits import (
    FREE_EXPANDED_BYTES,
    MAX_ARCHIVE_INDEX_BYTES,
    MAX_COLUMNS,
    MAX_EMPTY_LINES,
    MAX_EXPANDED_BYTES,
    MAX_EXPANSION,
    MAX_LINE_BYTES,
    MAX_LISTED_NAMES,
    MAX_NPY_HEADER_BYTES,
    MAX_NUMBER_CHARACTERS,
    MAX_PRINTED_LINE,
)
from actors.types import Array, IntArray
from runner.report.printable import printable_line

IDX_NAME = re.compile(r"[.-]idx\d*(-[a-z]+)?(\.gz)?$", re.IGNORECASE)
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NPZ_NAMES = {"observations": ("observations", "values"), "categories": ("categories",), "lengths": ("lengths",)}
_CHUNK = MAX_ARCHIVE_INDEX_BYTES
_Stream = IO[bytes] | gzip.GzipFile


class DataError(ValueError):
    """Data that cannot be used; the message is one sentence for the user."""


def find_file(path: str | Path, root: str | Path) -> Path:
    """Return the file at `path`, relative to `root`.

    Raises
    ------
    DataError
        If there is no such file.
    """
    try:
        file = Path(root) / Path(path).expanduser()
        file.stat()
    except FileNotFoundError:
        raise DataError(f"{file}: there is no such file; correct the path (relative ones start from {root})") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be opened ({error}); correct the path or the permissions") from None
    if not file.is_file():
        kind = "a directory" if file.is_dir() else "not a regular file"
        raise DataError(f"{file}: is {kind}; give the path of a file of numbers")
    return file


def read_array(file: Path, role: str) -> Array:
    """Read one non-empty array of numbers with at least one dimension; `role` selects the array of a ``.npz``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about what is rejected below
            array = _read_by_name(file, role)
    except DataError as error:
        raise DataError(f"{file}{error}") from None
    except Exception as error:  # gzip, zlib, zipfile and numpy's header parser may raise anything
        reason = printable_line(" ".join(str(error).split()) or type(error).__name__)
        raise DataError(f"{file}: is damaged or not what its name says ({reason}); write it again") from error
    if array.size == 0 or array.ndim == 0:
        raise DataError(f"{file}: holds no rows of numbers; write at least one row into it")
    return array


def _read_by_name(file: Path, role: str) -> Array:
    suffix = file.suffix.lower()
    if suffix in (".txt", ".csv"):
        return _read_text(file)
    if suffix == ".npz":
        return _read_npz(file, role)
    idx = IDX_NAME.search(file.name)
    if suffix != ".npy" and not idx:
        raise DataError(f": {suffix or 'a name with no suffix'} is not supported; use .txt, .csv, .npy, .npz or IDX")
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if not idx:
            return read_npy(stream)
        return _read_idx(gzip.open(stream), _expanded_limit(size)) if suffix == ".gz" else _read_idx(stream)


def _expanded_limit(size: int) -> int:
    """Return how many bytes the content of a compressed file of `size` bytes may have."""
    return min(max(MAX_EXPANSION * size, FREE_EXPANDED_BYTES), MAX_EXPANDED_BYTES)


def _count_bytes(number: int) -> str:
    return f"{number} bytes" if number < 10**40 else "more than 10^40 bytes"


def _read_exactly(stream: _Stream, dtype: np.dtype[Any], shape: Sequence[int], limit: int | None) -> Array:
    """Read the rest of a stream, which must have the length of its header.

    Parameters
    ----------
    stream : binary stream
    dtype : dtype
    shape : sequence of int
        From the header. The size in a damaged header must not determine what is allocated: the stream is read in
        chunks.
    limit : int, optional
        What a compressed file may expand to.
    """
    wanted, data = math.prod(shape) * dtype.itemsize, bytearray()
    if limit is not None and wanted > limit:
        raise DataError(
            f": is damaged, or would expand to the {_count_bytes(wanted)} that its header announces, and a compressed "
            f"file of its size may to {_count_bytes(limit)}; write it again, without compression"
        )
    while len(data) <= wanted and (chunk := stream.read(_CHUNK)):
        data += chunk
    if len(data) != wanted:
        what = "more bytes than" if len(data) > wanted else f"only {len(data)} of"
        raise DataError(
            f": is damaged, {what} the {_count_bytes(wanted)} that its header announces are there; write it again"
        )
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def _read_idx(stream: _Stream, limit: int | None = None) -> Array:
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or head[3] == 0:
        raise DataError(f": is not an IDX file, its first bytes are {head.hex() or 'missing'}; give another file")
    sizes = stream.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(": is damaged, its IDX header is cut off; write it again")
    shape = struct.unpack(f">{head[3]}I", sizes)
    values = _read_exactly(stream, np.dtype(_IDX_TYPES[head[2]]), shape, limit)
    return values.reshape(shape[0], -1) if len(shape) > 1 and values.size else values


def read_npy(stream: _Stream, limit: int | None = None) -> Array:
    """Read the .npy format strictly, unlike numpy.load, which trusts the header's size and can unpickle.

    Parameters
    ----------
    stream : binary stream
    limit : int, optional
        What a compressed file may expand to.

    Raises
    ------
    DataError
        If the stream is not one array of real numbers, or shorter or longer than its header says.
    """
    start = stream.read(8)
    if start[:6] != np.lib.format.MAGIC_PREFIX or len(start) < 8:
        raise DataError(": is not a .npy file (pickles are never read); save the array with numpy.save")
    # The length of the header is read first: numpy would read as many bytes as it says.
    length = stream.read(2 if start[6] == 1 else 4)
    size = int.from_bytes(length, "little")
    if size > MAX_NPY_HEADER_BYTES:
        raise DataError(f": is damaged, its header would have {size:,} bytes; save the array with numpy.save")
    header = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(io.BytesIO(length + stream.read(size)))
    if dtype.hasobject:
        raise DataError(": holds pickled Python objects, which are never read; save an array of numbers")
    if dtype.kind not in "biuf" or min(shape, default=0) < 0:
        what = printable_line(f"{dtype} of shape {shape}", MAX_PRINTED_LINE)
        raise DataError(f": holds {what}, not an array of real numbers; save numbers")
    return _read_exactly(stream, dtype, shape, limit).reshape(shape, order="F" if fortran else "C")


class _BoundedReads:
    """A binary file for zipfile, which reads the list of members at once, as long as the file says it is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, by default the rest; refuse more than a list of members may have."""
        data = b"" if size > MAX_ARCHIVE_INDEX_BYTES else self._stream.read(size if size >= 0 else _CHUNK + 1)
        if max(size, len(data)) > MAX_ARCHIVE_INDEX_BYTES:
            raise DataError(": has too long a list of arrays; keep those that are needed")
        return data


def _read_npz(file: Path, role: str) -> Array:
    with file.open("rb") as content, zipfile.ZipFile(_BoundedReads(content)) as archive:
        members = archive.namelist()
        names = [name.removesuffix(".npy") for name in members]
        fits = names if len(names) == 1 else [name for name in _NPZ_NAMES[role] if name in names]
        if not fits:
            known = " or ".join(_NPZ_NAMES[role])
            listed = ", ".join(printable_line(name) for name in names[:MAX_LISTED_NAMES])
            more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
            raise DataError(f": holds {listed or 'no arrays'}{more}; keep one array, or name one {known}")
        member = archive.getinfo(members[names.index(fits[0])])
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(": is compressed by another method than numpy's; save it with numpy.savez_compressed")
        with archive.open(member) as stream:
            return read_npy(stream, _expanded_limit(os.fstat(content.fileno()).st_size))


def _read_text(file: Path) -> Array:
    comma = "," if file.suffix.lower() == ".csv" else None
    _check_line_lengths(file)
    skip = _header_lines(file)
    _check_columns(file, skip)
    try:
        quote = '"' if comma else None
        return np.loadtxt(file, delimiter=comma, skiprows=skip, ndmin=2, encoding="utf-8-sig", quotechar=quote)
    except ValueError as error:
        width = 0
        for number, fields in _lines(file, skip):
            where = f", line {number}: "
            if wrong := [field for field in fields if not _is_number(field)]:
                raise DataError(f"{where}holds {wrong[0][:40]!r} where a number belongs; correct it") from error
            width = width or len(fields)
            if len(fields) != width:
                raise DataError(f"{where}has {len(fields)} columns where {width} were expected; correct it") from error
        raise


def _check_line_lengths(file: Path) -> None:
    """Refuse a table with a line of more than :data:`MAX_LINE_BYTES`, which numpy would hold in memory many times."""
    length = 0  # of the line that the chunk continues
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            ends = [place for end in (b"\n", b"\r") if (place := chunk.find(end)) >= 0]
            if length + min(ends, default=len(chunk)) > MAX_LINE_BYTES:
                raise DataError(f": has a line of more than {MAX_LINE_BYTES:,} bytes; is it a table? Save it as .npy")
            last = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            length = length + len(chunk) if last < 0 else len(chunk) - last - 1


def _check_columns(file: Path, skip: int) -> None:
    """Refuse a table whose first line with data has more than :data:`MAX_COLUMNS` fields."""
    number, fields = next(_lines(file, skip), (0, []))
    if len(fields) > MAX_COLUMNS:
        raise DataError(f", line {number}: has more than {MAX_COLUMNS:,} columns; save the rows as .npy")


def _lines(file: Path, skip: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line with data, split as numpy.loadtxt splits them."""
    comma = "," if file.suffix.lower() == ".csv" else None
    last = 0  # number of the last line with data
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            text = line.partition("#")[0].strip()
            if not text and number - last > MAX_EMPTY_LINES:
                raise DataError(
                    f", line {number}: more than {MAX_EMPTY_LINES:,} lines in turn hold no data; remove them"
                )
            last = number if text else last
            if text and number > skip:
                yield number, [field.strip().strip('"') for field in text.split(comma, MAX_COLUMNS)]


def _header_lines(file: Path) -> int:
    """Return the number of header lines: the first line of a .csv is a header if it has no number in it."""
    number, fields = next(_lines(file, 0), (0, ["0"]))
    return 0 if file.suffix.lower() != ".csv" or any(map(_is_number, fields)) else number


def _is_number(field: str) -> bool:
    if len(field) > MAX_NUMBER_CHARACTERS:
        return False
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python parses 1_000, numpy does not


def locate_row(file: Path, row: int) -> str:
    """Return the location of a row for error messages: its line in a text file, otherwise its number."""
    if file.suffix.lower() in (".txt", ".csv"):
        for index, (number, _) in enumerate(_lines(file, _header_lines(file))):
            if index == row:
                return f"line {number}"
    return f"row {row + 1}"


def read_integers(file: Path, role: str) -> IntArray:
    """Read a list of integers, written as one column or one row."""
    values = read_array(file, role)
    if values.size != max(values.shape):
        raise DataError(f"{file}: holds an array of shape {values.shape}, not {role}; give one number per row")
    across = values.ndim > 1 and values.shape[0] == 1
    values = values.reshape(-1)
    # above 2^53 float64 does not represent every integer
    bad = ~(np.abs(values.astype(np.float64)) <= 2.0**53) | (values != np.floor(values))
    if bad.any():
        index = int(bad.argmax())
        raise DataError(
            f"{file}, {locate_row(file, 0 if across else index)}: {values[index]} is no integer; {role} are"
        )
    return values.astype(np.int64)
