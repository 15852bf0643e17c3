"""Strict readers of data files: every error is one sentence with the file and the line.

The file's name determines its format: ``.txt``, ``.csv`` and ``.tsv`` (:mod:`runner.data.tables`); ``.npy``; ``.npz``
(its only array, or the first one with a name in :data:`NPZ_NAMES`); ``.mat`` (alike; :mod:`runner.data.matlab`); IDX
(``*.idx``, ``*.idx3-ubyte``, ``*-idx3-ubyte``). All but ``.npz`` and ``.mat``, which are compressed themselves, may be
gzipped (``.txt.gz``). IDX observations are flattened to one row each, and divided by 255 if they are uint8; nothing
else is scaled. Nothing is ever unpickled, and no header makes the reader allocate more than the file contains. What a
compressed file may expand to, and how long lines, headers and lists of members may be, is in :mod:`actors.limits`; it
is checked before the content is read.
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
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from actors.limits import MAX_ARCHIVE_INDEX_BYTES, MAX_LISTED_NAMES, MAX_NPY_HEADER_BYTES, MAX_PRINTED_LINE
from actors.types import Array
from runner.data.errors import DataError
from runner.data.matlab import read_mat
from runner.data.tables import Content, TableOptions, TextTable, expanded_limit, is_table
from runner.report.printable import printable_line, printable_reason

__all__ = ["NPZ_NAMES", "Content", "DataError", "find_file", "locate_row", "read_content", "read_npy"]

IDX_NAME = re.compile(r"[.-]idx\d*(-[a-z]+)?(\.gz)?$", re.IGNORECASE)
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NPZ_NAMES = {
    "observations": ("observations", "values", "data", "X", "x"),
    "categories": ("categories", "labels", "y"),
    "lengths": ("lengths",),
}
"""Names of the arrays of a ``.npz`` that hold each kind of data, the first one that is there."""

_OTHER_COMPRESSION = {
    **dict.fromkeys(
        (".bz2", ".xz", ".lzma", ".zst", ".zip", ".7z", ".lz4", ".z"), "unpack the file, or compress it with gzip"
    ),
    ".gz": "of gzipped files .txt.gz, .csv.gz, .npy.gz and IDX are read",
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save the sheet as .csv"),
    **dict.fromkeys(
        (".pkl", ".pickle"),
        "pickles are never read, as they can run code; save an array with numpy.save, a data frame with to_parquet or "
        "to_csv(index=False)",
    ),
    **dict.fromkeys((".pt", ".pth", ".joblib"), "pickles are never read; save the array with numpy.save"),
}
"""What to do with files that people have, by suffix."""

_RECOGNIZED = TableOptions()
_CHUNK = MAX_ARCHIVE_INDEX_BYTES
_Stream = IO[bytes] | gzip.GzipFile


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
        if "://" in str(path):
            raise DataError(f"{path}: is a URL, and data are read from files; download it, and give its path") from None
        start = "" if Path(path).expanduser().is_absolute() else f" (relative ones start from {Path(root).absolute()})"
        raise DataError(f"{file}: there is no such file; correct the path{start}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be opened ({error}); correct the path or the permissions") from None
    if not file.is_file():
        kind = "a directory" if file.is_dir() else "not a regular file"
        raise DataError(f"{file}: is {kind}; give the path of a file of numbers")
    return file


def read_content(file: Path, role: str, options: TableOptions = _RECOGNIZED, rows: int | None = None) -> Content:
    """Read one non-empty array with at least one dimension.

    Parameters
    ----------
    file : Path
    role : {"observations", "categories", "lengths"}
        Selects the array of a ``.npz``. Categories may be texts, the others are numbers.
    options : TableOptions
        The layout of a text table.
    rows : int, optional
        The number of observations, for categories.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about what is rejected below
            content = _read_by_name(file, role, options, rows)
    except DataError as error:
        raise DataError(f"{file}{error}") from None
    except Exception as error:  # gzip, zlib, zipfile and numpy's header parser may raise anything
        reason = printable_reason(error)
        raise DataError(f"{file}: is damaged or not what its name says ({reason}); write it again") from error
    if content.values.size == 0 or content.values.ndim == 0:
        raise DataError(f"{file}: holds no rows of numbers; write at least one row into it")
    return content


def _read_by_name(file: Path, role: str, options: TableOptions, rows: int | None) -> Content:
    if is_table(file):
        return _read_table(TextTable(file, options), role, rows)
    if options.header or options.index:
        raise DataError(": has neither a header nor an index; data.header and data.index are for .txt and .csv")
    if options.choose:
        raise DataError(
            ": is no text table; data.columns, exclude, sequence_column and category_column are for .csv, .tsv and "
            ".txt (columns also for Parquet)"
        )
    suffix = file.suffix.lower()
    if suffix == ".npz":
        return _read_npz(file, role)
    if suffix == ".mat":
        values, name, others = read_mat(file, NPZ_NAMES[role], options.variable if role == "observations" else None)
        listed = ", ".join(printable_line(each) for each in others[:MAX_LISTED_NAMES])
        unused = f"its variable {name} is used, not {listed}" if others and role == "observations" else ""
        return Content(values, notes=(unused,) if unused else ())
    idx = IDX_NAME.search(file.name)
    if not idx and not file.name.lower().endswith((".npy", ".npy.gz")):
        kind = _OTHER_COMPRESSION.get(suffix, "")
        remedy = (
            kind
            or "use .txt, .csv, .tsv, .npy, .npz, .mat or IDX, of which all but .npz and .mat may be gzipped (.txt.gz)"
        )
        raise DataError(f": {suffix or 'a name with no suffix'} is not supported; {remedy}")
    with file.open("rb") as plain:
        limit = expanded_limit(os.fstat(plain.fileno()).st_size) if suffix == ".gz" else None
        stream: _Stream = plain if limit is None else gzip.GzipFile(fileobj=plain)
        if not idx:
            return Content(read_npy(stream, limit, texts=role == "categories"))
        values = _read_idx(stream, limit)
        pixels = role == "observations" and values.dtype == np.uint8
        return Content(values, notes=("pixels of 0 to 255 are divided by 255",) if pixels else ())


def _read_table(table: TextTable, role: str, rows: int | None) -> Content:
    """Read a table; categories that begin with a text are texts."""
    if role != "categories":
        return table.read()
    try:
        return table.read()
    except DataError:
        if table.begins_with_number():
            raise
        return table.read_names(rows)


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


def read_npy(stream: _Stream, limit: int | None = None, *, texts: bool = False) -> Array:
    """Read the .npy format strictly, unlike numpy.load, which trusts the header's size and can unpickle.

    Parameters
    ----------
    stream : binary stream
    limit : int, optional
        What a compressed file may expand to.
    texts : bool
        Whether an array of texts is allowed.

    Raises
    ------
    DataError
        If the stream is not one array of real numbers, or shorter or longer than its header says.
    """
    shape, fortran, dtype = read_npy_header(stream, texts=texts)
    return _read_exactly(stream, dtype, shape, limit).reshape(shape, order="F" if fortran else "C")


def read_npy_header(
    stream: _Stream | io.BytesIO, *, texts: bool = False
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of the .npy format strictly; return shape, whether in Fortran order, and dtype.

    Raises
    ------
    DataError
        If it is not that of an array of real numbers; with `texts`, of real numbers or of texts.
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
    if dtype.kind not in ("biufUS" if texts else "biuf") or dtype.itemsize == 0 or min(shape, default=0) < 0:
        what = printable_line(f"{dtype} of shape {shape}", MAX_PRINTED_LINE)
        raise DataError(f": holds {what}, not an array of real numbers; save numbers")
    return shape, fortran, dtype


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


def _read_npz(file: Path, role: str) -> Content:
    with file.open("rb") as content, zipfile.ZipFile(_BoundedReads(content)) as archive:
        members = archive.namelist()
        names = [name.removesuffix(".npy") for name in members]
        if {"indices", "indptr", "format", "shape"} <= set(names) or {"row", "col", "format", "shape"} <= set(names):
            raise DataError(": holds a sparse matrix of scipy; save its method toarray()'s result with numpy.save")
        fits = names if len(names) == 1 else [name for name in NPZ_NAMES[role] if name in names]
        if not fits:
            known = " or ".join(NPZ_NAMES[role][:2])
            listed = ", ".join(printable_line(name) for name in names[:MAX_LISTED_NAMES])
            more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
            raise DataError(f": holds {listed or 'no arrays'}{more}; keep one array, or name one {known}")
        member = archive.getinfo(members[names.index(fits[0])])
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(": is compressed by another method than numpy's; save it with numpy.savez_compressed")
        with archive.open(member) as stream:
            values = read_npy(stream, expanded_limit(os.fstat(content.fileno()).st_size), texts=role == "categories")
        others = [printable_line(name) for name in names if name != fits[0]][:MAX_LISTED_NAMES]
        unused = f"its array {fits[0]} is used, not {', '.join(others)}" if others and role == "observations" else ""
        return Content(values, notes=(unused,) if unused else ())


def locate_row(file: Path, row: int, *, options: TableOptions = _RECOGNIZED) -> str:
    """Return the location of a row for error messages: its line in a text file, otherwise its number."""
    return TextTable(file, options).locate(row) if is_table(file) else f"row {row + 1}"
