"""The files of a module's outputs: an exact .npy, beside small ones a text, and of many rows several .npy files."""

from __future__ import annotations

import io
import math
import reprlib
import tokenize
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from actors.errors import ModuleError
from actors.limits import MAX_NPY_HEADER_BYTES, MAX_OUTPUT_BYTES
from actors.sharing.chunks import ShardedOutputs
from actors.storage.parts import CommittedOutputs
from actors.storage.safe_files import is_safe_name
from actors.types import Array
from runner.runs.run_files import RunFiles

TEXT_COLUMNS = 200
"""Arrays with more columns have no text."""

TEXT_ROWS = 100_000
"""Arrays with more rows are .npy files of as many rows each, without a text: as text, 10^6 rows of ten classes take
100 MB and half a minute."""


def write_arrays(
    files: RunFiles, module: str, directory: str, outputs: Mapping[str, Any], phase: str
) -> dict[str, str]:
    """Write each of a module's outputs as ``<name>_<phase>.npy``, and as ``.txt`` if it is small enough for a text.

    Long ones are files in ``<name>_<phase>/``, each called like the number of its first row, ``000000000.npy``. Outputs
    in parts are written part by part.

    Parameters
    ----------
    files : RunFiles
    module : str
    directory : str
        The module's directory; created if it does not exist.
    outputs : mapping of str to ndarray
    phase : {"learn", "recog"}

    Returns
    -------
    dict of str to str
        A sentence for each kind of output that is not what a reader of few rows expects, by a key of it.

    Raises
    ------
    ModuleError
        If the name or the type of an output is not valid.
    """
    long, rest = dict[str, int](), outputs
    if isinstance(outputs, ShardedOutputs | CommittedOutputs) and outputs.total > TEXT_ROWS:
        rest = _write_by_part(files, module, directory, outputs, phase, long)
    for name, given in rest.items():
        stem = _checked_stem(module, name, given, phase)
        array = np.atleast_1d(np.asarray(given))  # in commits of earlier versions it may have no dimension
        place = f"{directory}/{stem}"
        if len(array) > TEXT_ROWS:
            rows = _RowFiles(files, place, f"module {module!r}: its output {name}")
            rows.add(array)
            long[stem] = rows.close(len(array))
            continue
        with files.create(f"{place}.npy") as file:
            np.save(file, array, allow_pickle=False)
        is_text = array.ndim <= 2 and math.prod(array.shape[1:]) <= TEXT_COLUMNS
        if is_text:
            with files.create(f"{place}.txt") as file:
                np.savetxt(file, array, fmt="%d" if array.dtype.kind in "iub" else "%.8g")
        _delete_others(files, place, (".npy", ".txt") if is_text else (".npy",))
    return _sentences(directory, rest, long)


def _checked_stem(module: str, name: str, given: Any, phase: str) -> str:
    """Return the name of an output's file without its suffix; a training curve belongs to no phase (loss.txt)."""
    stem = name if name == "loss" else f"{name}_{phase}"  # the name is that of the SERKET tutorial
    dtype = np.asarray(given).dtype
    if not is_safe_name(f"{stem}.npy"):
        raise ModuleError(f"module {module!r}: its output {reprlib.repr(name)} cannot be the name of a file")
    if dtype.kind not in "biufc":
        raise ModuleError(f"module {module!r}: its output {name} is {dtype}, expected an array of numbers")
    return stem


def _write_by_part(
    files: RunFiles,
    module: str,
    directory: str,
    outputs: ShardedOutputs | CommittedOutputs,
    phase: str,
    long: dict[str, int],
) -> dict[str, Any]:
    """Write the outputs with a row for each row, adding their rows to `long`; return the others, joined."""
    rows: dict[str, _RowFiles] = {}
    others: dict[str, list[Any]] = {}
    joined = {*outputs.names.sequences, *outputs.names.samples}
    for _, part in outputs.by_part():
        for name, given in part.items():
            if name in outputs.names.rows:
                stem = _checked_stem(module, name, given, phase)
                if stem not in rows:
                    rows[stem] = _RowFiles(files, f"{directory}/{stem}", f"module {module!r}: its output {name}")
                rows[stem].add(np.asarray(given))
            elif name in joined or name not in others:
                others.setdefault(name, []).append(given)
    long.update({stem: each.close(outputs.total) for stem, each in rows.items()})
    return {name: outputs.names.join(name, parts) for name, parts in others.items()}


class _RowFiles:
    """Writes rows, as they come, to .npy files of a fixed number of rows in a directory.

    The files do not depend on the parts in which the rows come. `what` names the output in errors.
    """

    def __init__(self, files: RunFiles, place: str, what: str) -> None:
        self._files = files
        self._place = place
        self._what = what
        self._pending: list[Array] = []
        self._first = 0
        self._count = 0  # of pending rows
        self._like: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._written: set[str] = set()

    def add(self, rows: Array) -> None:
        """Add rows; write the files that are full."""
        self._like = self._like or (rows.shape[1:], rows.dtype)
        shape, dtype = self._like
        if rows.shape[1:] != shape or not np.can_cast(rows.dtype, dtype, "safe"):
            raise ModuleError(
                f"{self._what} has rows {rows.shape[1:]} of {rows.dtype} from row {self._first + self._count} on, "
                f"expected {shape} of {dtype}, as before"
            )
        rows = rows.astype(dtype, copy=False)
        while len(rows):
            taken = rows[: TEXT_ROWS - self._count]
            self._pending.append(taken)
            self._count += len(taken)
            rows = rows[len(taken) :]
            if self._count == TEXT_ROWS:
                self._write()

    def close(self, total: int) -> int:
        """Write the last file, delete those of earlier outputs of the same name; return the number of rows."""
        if self._count:
            self._write()
        if self._first != total:
            raise ModuleError(f"{self._what} has {self._first} rows, expected {total}")
        stale = [name for name in self._files.names_in(self._place) if name not in self._written]
        if stale:
            self._files.delete([f"{self._place}/{name}" for name in stale])
        _delete_others(self._files, self._place, ())
        return self._first

    def _write(self) -> None:
        name = f"{self._first:09d}.npy"
        with self._files.create(f"{self._place}/{name}") as file:
            pending = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
            np.save(file, pending, allow_pickle=False)
        self._written.add(name)
        self._first, self._count, self._pending = self._first + self._count, 0, []


def _delete_others(files: RunFiles, place: str, suffixes: Sequence[str]) -> None:
    """Delete what an output was written as before, unless its file has one of these suffixes: none of a directory's."""
    old = [f"{place}{other}" for other in (".npy", ".txt") if other not in suffixes and files.exists(f"{place}{other}")]
    if suffixes:
        old += [f"{place}/{name}" for name in files.names_in(place)]
    if old:
        files.delete(old)
    if suffixes and files.exists(place):
        files.delete_directory(place)


def _sentences(directory: str, rest: Mapping[str, Any], long: Mapping[str, int]) -> dict[str, str]:
    """Return the sentences about outputs of many rows, and about those that have a sample of the rows."""
    found = {}
    if long:
        stem, rows = min(long.items())
        found["long"] = (
            f"{directory}: {', '.join(sorted(long))}: {rows:,} rows are not written as text but as .npy files of "
            f"{TEXT_ROWS:,} rows, such as {stem}/000000000.npy; read them with numpy.load"
        )
    for name in rest:
        if f"{name}_rows" in rest:
            found[name] = (
                f"{directory}: {name} has {len(rest[name]):,} of the rows, evenly spread; {name}_rows says which"
            )
    return found


def read_array(files: RunFiles, directory: str, name: str, phase: str) -> Array | None:
    """Return an output that :func:`write_arrays` wrote, or None if there is none.

    Versions up to 0.2 wrote a text alone, which has two dimensions and eight digits, or a .npy alone; these are read,
    too.

    Raises
    ------
    RunDirectoryError
        If the file is too large, not a regular one, or not an array of numbers; likewise files of many rows.
    """
    place = f"{directory}/{name}_{phase}"
    for suffix, parse in ((".npy", parse_npy), (".txt", _parse_text)):
        path = f"{place}{suffix}"
        if files.exists(path):
            try:
                return parse(files.read_bounded(path, MAX_OUTPUT_BYTES))
            except (ValueError, OverflowError) as error:
                raise files.unreadable(path, " ".join(str(error).split())[:200]) from error
    try:
        names = files.names_in(place)
    except OSError as error:
        raise files.unreadable(place, error.strerror) from error
    return _read_row_files(files, place, names) if names else None


def _read_row_files(files: RunFiles, place: str, names: Sequence[str]) -> Array:
    parts, rows, left = list[Array](), 0, MAX_OUTPUT_BYTES
    for name in names:
        path = f"{place}/{name}"
        try:
            data = files.read_bounded(path, left)
            left -= len(data)
            part = parse_npy(data)
            if name != f"{rows:09d}.npy" or not part.ndim or (parts and part.shape[1:] != parts[0].shape[1:]):
                raise ValueError(f"expected rows from {rows} on, of the same shape as those before")
        except (ValueError, OverflowError) as error:
            raise files.unreadable(path, " ".join(str(error).split())[:200]) from error
        parts.append(part)
        rows += len(part)
    return np.concatenate(parts)


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
