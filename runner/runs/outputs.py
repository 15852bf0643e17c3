"""The files of a module's outputs: text for ``numpy.loadtxt``, and .npy for wide and for long arrays."""

from __future__ import annotations

import io
import logging
import math
import reprlib
import tokenize
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.errors import ModuleError
from actors.limits import MAX_NPY_HEADER_BYTES, MAX_OUTPUT_BYTES
from actors.storage.safe_files import is_safe_name
from actors.types import Array
from runner.runs.run_files import RunFiles

_log = logging.getLogger(__name__)

TEXT_COLUMNS = 200
"""Arrays with more columns are written as .npy instead of text."""

TEXT_ROWS = 100_000
"""Arrays with more rows are, too: as text, 10^6 rows of ten classes take 100 MB and half a minute."""


def write_arrays(files: RunFiles, module: str, directory: str, outputs: Mapping[str, Any], phase: str) -> None:
    """Write a module's outputs as ``<name>_<phase>.txt`` (or .npy).

    Parameters
    ----------
    files : RunFiles
    module : str
    directory : str
        The module's directory; created if it does not exist.
    outputs : mapping of str to ndarray
    phase : {"learn", "recog"}

    Raises
    ------
    ModuleError
        If the name or the type of an output is not valid.
    """
    for name, given in outputs.items():
        # A training curve belongs to no phase; the name loss.txt is that of the SERKET tutorial.
        stem = name if name == "loss" else f"{name}_{phase}"
        array = np.atleast_1d(np.asarray(given))  # in commits of earlier versions it may have no dimension
        if not is_safe_name(f"{stem}.npy"):
            raise ModuleError(f"module {module!r}: its output {reprlib.repr(name)} cannot be the name of a file")
        if array.dtype.kind not in "biufc":
            raise ModuleError(f"module {module!r}: its output {name} is {array.dtype}, expected an array of numbers")
        if len(array) > TEXT_ROWS:
            _log.warning(
                "%s/%s.npy: its %s rows are not written as text; read them with numpy.load",
                *(directory, stem, f"{len(array):,}"),
            )
        if len(array) > TEXT_ROWS or array.ndim > 2 or (array.ndim == 2 and array.shape[1] > TEXT_COLUMNS):
            with files.create(f"{directory}/{stem}.npy") as file:
                np.save(file, array, allow_pickle=False)
        else:
            with files.create(f"{directory}/{stem}.txt") as file:
                np.savetxt(file, array, fmt="%d" if array.dtype.kind in "iub" else "%.8g")


def read_array(files: RunFiles, directory: str, name: str, phase: str) -> Array | None:
    """Return an output that :func:`write_arrays` wrote, or None if there is none.

    Raises
    ------
    RunDirectoryError
        If the file is too large, not a regular one, or not an array of numbers.
    """
    for suffix, parse in ((".npy", parse_npy), (".txt", _parse_text)):
        path = f"{directory}/{name}_{phase}{suffix}"
        if files.exists(path):
            try:
                return parse(files.read_bounded(path, MAX_OUTPUT_BYTES))
            except (ValueError, OverflowError) as error:
                raise files.unreadable(path, " ".join(str(error).split())[:200]) from error
    return None


def parse_npy(data: bytes) -> Array:
    """Return the array of numbers in .npy format; the size of the data is compared before anything is allocated.

    Raises
    ------
    ValueError
        If the data are something else.
    """
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is .npy of version {version}, expected 1.0 or 2.0")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read_header(file, max_header_size=MAX_NPY_HEADER_BYTES)
    except (SyntaxError, OverflowError, RecursionError, MemoryError, TypeError, tokenize.TokenError) as error:
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error  # numpy parses it as Python
    if dtype.kind not in "biufc" or dtype.fields is not None or dtype.subdtype is not None:
        raise ValueError(f"it has values of type {dtype}, expected numbers")
    expected, found = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if expected != found or min(shape, default=0) < 0:
        raise ValueError(f"its header asks for {reprlib.repr(shape)} values, the file has {found} bytes")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran_order else "C")


def _parse_text(data: bytes) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file without values has the shape that says so
        return np.loadtxt(io.BytesIO(data), ndmin=2, encoding="utf-8")
