"""Strict readers of data files: every error is one sentence with the file and the line.

The file's name determines its format: ``.txt`` (numbers and white space), ``.csv`` (commas, an optional header line),
both with ``#`` comments; ``.npy``; ``.npz`` (its only array, or the one named ``observations`` or ``values``, or
``categories`` or ``lengths`` where these are read); IDX (``*.idx``, ``*.idx3-ubyte``, ``*-idx3-ubyte``, also ``.gz``).
IDX observations are flattened to one row each, and scaled to [0, 1] if they are uint8; nothing else is scaled. Nothing
is ever unpickled, and no header makes the reader allocate more than the file contains.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from actors.types import Array, IntArray

IDX_NAME = re.compile(r"[.-]idx\d*(-[a-z]+)?(\.gz)?$", re.IGNORECASE)
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NPZ_NAMES = {"observations": ("observations", "values"), "categories": ("categories",), "lengths": ("lengths",)}
_CHUNK = 1 << 20
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
        reason = " ".join(str(error).split()) or type(error).__name__
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
        if not idx:
            return read_npy(stream)
        return _read_idx(gzip.open(stream) if suffix == ".gz" else stream)


def _read_exactly(stream: _Stream, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    """Read the rest of a stream, which must have the length of its header.

    Reads in chunks: the size in a damaged header must not determine what is allocated.
    """
    wanted, data = math.prod(shape) * dtype.itemsize, bytearray()
    while len(data) <= wanted and (chunk := stream.read(_CHUNK)):
        data += chunk
    if len(data) != wanted:
        what = "more bytes than" if len(data) > wanted else f"only {len(data)} of"
        raise DataError(f": is damaged, {what} the {wanted} bytes that its header announces are there; write it again")
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def _read_idx(stream: _Stream) -> Array:
    head = stream.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or head[3] == 0:
        raise DataError(f": is not an IDX file, its first bytes are {head.hex() or 'missing'}; give another file")
    sizes = stream.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(": is damaged, its IDX header is cut off; write it again")
    shape = struct.unpack(f">{head[3]}I", sizes)
    values = _read_exactly(stream, np.dtype(_IDX_TYPES[head[2]]), shape)
    return values.reshape(shape[0], -1) if len(shape) > 1 and values.size else values


def read_npy(stream: _Stream) -> Array:
    """Read the .npy format strictly, unlike numpy.load, which trusts the header's size and can unpickle.

    Raises
    ------
    DataError
        If the stream is not one array of real numbers, or shorter or longer than its header says.
    """
    start = stream.read(8)
    if start[:6] != np.lib.format.MAGIC_PREFIX or len(start) < 8:
        raise DataError(": is not a .npy file (pickles are never read); save the array with numpy.save")
    header = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if dtype.hasobject:
        raise DataError(": holds pickled Python objects, which are never read; save an array of numbers")
    if dtype.kind not in "biuf" or min(shape, default=0) < 0:
        raise DataError(f": holds {dtype} of shape {shape}, not an array of real numbers; save numbers")
    return _read_exactly(stream, dtype, shape).reshape(shape, order="F" if fortran else "C")


def _read_npz(file: Path, role: str) -> Array:
    with zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        fits = names if len(names) == 1 else [name for name in _NPZ_NAMES[role] if name in names]
        if not fits:
            known = " or ".join(_NPZ_NAMES[role])
            raise DataError(f": holds {', '.join(names) or 'no arrays'}; keep one array, or name one {known}")
        with archive.open(archive.namelist()[names.index(fits[0])]) as stream:
            return read_npy(stream)


def _read_text(file: Path) -> Array:
    comma = "," if file.suffix.lower() == ".csv" else None
    skip = _header_lines(file)
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


def _lines(file: Path, skip: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line with data, split as numpy.loadtxt splits them."""
    comma = "," if file.suffix.lower() == ".csv" else None
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            text = line.partition("#")[0].strip()
            if text and number > skip:
                yield number, [field.strip().strip('"') for field in text.split(comma)]


def _header_lines(file: Path) -> int:
    """Return the number of header lines: the first line of a .csv is a header if it has no number in it."""
    number, fields = next(_lines(file, 0), (0, ["0"]))
    return 0 if file.suffix.lower() != ".csv" or any(map(_is_number, fields)) else number


def _is_number(field: str) -> bool:
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
