"""Strict reader of MATLAB's files of versions 5 to 7 (``.mat``), by scipy, after their sizes were checked.

The layout is that of "MAT-File Format" (The MathWorks): a header of 128 bytes, then elements with a type and a size of
four bytes each, of which most are compressed by zlib.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from actors.limits import MAX_LISTED_NAMES
from actors.types import Array
from runner.data.errors import DataError
from runner.data.tables import expanded_limit
from runner.report.printable import brief, printable_line

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = frozenset(
    ["double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
)


def read_mat(file: Path, names: tuple[str, ...], variable: str | None) -> tuple[Array, str, list[str]]:
    """Return an array of a file, its name, and the names of the others.

    Parameters
    ----------
    file : Path
    names : tuple of str
        Names of variables that are looked for, where there are several.
    variable : str, optional
        The variable that is asked for.

    Raises
    ------
    DataError
        If the file is damaged or of another version, expands to too much, or has no such array of numbers.
    """
    from scipy.io import loadmat, whosmat  # slow to import

    content = _expand(file)
    found = {str(name): (shape, kind) for name, shape, kind in whosmat(io.BytesIO(content))}
    numbers = [name for name, (_, kind) in found.items() if kind in _NUMBERS]
    if variable is not None:
        chosen = [variable] if variable in found else []
    else:
        chosen = numbers if len(numbers) == 1 else [name for name in names if name in numbers]
    if not chosen:
        listed = ", ".join(printable_line(name, 40) for name in list(found)[:MAX_LISTED_NAMES])
        asked = f"has no variable {brief(variable)}, but " if variable is not None else "holds "
        raise DataError(f": {asked}{listed or 'no variables'}; name one by data.variable, or call it {names[0]}")
    shape, kind = found[chosen[0]]
    if kind not in _NUMBERS:
        raise DataError(f": its variable {chosen[0]} is of MATLAB's type {kind}, not an array of real numbers")
    if math.prod(shape) > len(content):
        raise DataError(f": is damaged, its variable {chosen[0]} would have more values than the file has bytes")
    values: Any = loadmat(io.BytesIO(content), variable_names=[chosen[0]])[chosen[0]]
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise DataError(f": its variable {chosen[0]} holds complex numbers; save real and imaginary parts")
    return np.ascontiguousarray(values), chosen[0], [name for name in found if name != chosen[0]]


def _expand(file: Path) -> bytes:
    """Return the content of a file with its elements as they are without compression, which is bounded."""
    limit = expanded_limit(file.stat().st_size)
    with file.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:])
        if header.startswith(b"MATLAB 7.3") or header.startswith(b"\x89HDF"):
            raise DataError(": is of MATLAB's version 7.3 (HDF5); save it with save(…, '-v7'), or as .csv")
        if order is None:
            raise DataError(": is not a .mat file of MATLAB's versions 5 to 7; save it with save(…, '-v7')")
        parts, total = [header], len(header)
        while tag := stream.read(8):
            kind, size = struct.unpack(f"{order}II", tag) if len(tag) == 8 else (0, 0)
            if kind not in (_MATRIX, _COMPRESSED):
                raise DataError(": is damaged, something else is where a variable belongs; save it again")
            if size > file.stat().st_size:
                raise DataError(": is damaged, a variable is cut off; save it again")
            data = stream.read(size)
            if len(data) != size:
                raise DataError(": is damaged, a variable is cut off; save it again")
            expanded = tag + data
            if kind == _COMPRESSED:
                expanded = zlib.decompressobj().decompress(data, max(limit - total, 0) + 1)
            total += len(expanded)
            if total > limit and kind == _COMPRESSED:
                raise DataError(": expands to more than a compressed file of its size may; save it with '-v6'")
            parts.append(expanded)
    return b"".join(parts)
