"""Text tables: ``.txt`` (numbers and white space) and ``.csv`` (commas), both with ``#`` comments, also gzipped.

Data frames write tables with a header line and an index column. Where these are certain they are recognized, and what
is left out is noted; where a line or a column could be data as well, :class:`TableOptions` decide.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
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
    MAX_NUMBER_CHARACTERS,
    MAX_PRINTED_LINE,
)
from actors.types import Array, FloatArray
from runner.data.errors import DataError
from runner.report.printable import printable_line

MISSING = frozenset(
    ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "-NaN", "null", "NULL", "Null", "None", "none"]
)
"""Cells that stand for a missing value, as data frames write them."""

_BYTE_ORDER_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""What files of other encodings than UTF-8 begin with."""
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_INDEX_NAMES = re.compile(r"|unnamed: 0(\.\d+)?|index", re.IGNORECASE)
_CERTAIN_INDEX_NAMES = re.compile(r"|unnamed: 0(\.\d+)?", re.IGNORECASE)
_COMPARED_LINES = 100
_MIN_COUNTED = 4
"""Rows from which a first column that counts them is hardly data by chance."""

_CHUNK = MAX_ARCHIVE_INDEX_BYTES


@dataclass(frozen=True)
class TableOptions:
    """How a table is laid out, where that is not to be recognized.

    Parameters
    ----------
    header : bool, optional
        Whether the first line names the columns.
    index : bool, optional
        Whether the first column names or counts the rows, and is left out.
    """

    header: bool | None = None
    index: bool | None = None


@dataclass(frozen=True, eq=False)
class Content:
    """What a file holds.

    Attributes
    ----------
    values : ndarray
    columns : tuple of str
        Names of the columns, empty if they have none.
    notes : tuple of str
        What was left out of the file.
    """

    values: Array
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def counted_index(first: Array, name: str | None, columns: int) -> bool:
    """Return whether the first column of a table is an index, by its name and values.

    Parameters
    ----------
    first : ndarray (N,)
        The values of the column.
    name : str or None
        Its name, None if the columns have no names.
    columns : int
        The number of columns.

    Raises
    ------
    DataError
        If it could be an index, and could be data.
    """
    rows = len(first)
    if columns < 2:
        return False
    ordered = np.sort(first)
    counts = any(np.array_equal(ordered, np.arange(start, start + rows)) for start in (0, 1))
    named = name is not None and _INDEX_NAMES.fullmatch(name) is not None
    if named and (counts or _CERTAIN_INDEX_NAMES.fullmatch(str(name))):
        return True
    if named or (counts and rows >= _MIN_COUNTED):
        called = f" ({_shown(str(name))!r})" if name else ""
        does = "counts the rows and could be" if counts else "could be"
        raise DataError(
            f": column 1{called} {does} an index or data; set data.index to true to leave it out, or to false to use "
            "it (--index or --no-index for new rows)"
        )
    return False


def is_table(file: Path) -> bool:
    """Return whether a file's name is that of a text table."""
    return _plain_suffix(file) in (".txt", ".csv")


def _plain_suffix(file: Path) -> str:
    """Return the suffix of a file's name without that of its compression."""
    name = file.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def expanded_limit(size: int) -> int:
    """Return how many bytes the content of a compressed file of `size` bytes may have."""
    return min(max(MAX_EXPANSION * size, FREE_EXPANDED_BYTES), MAX_EXPANDED_BYTES)


class _BoundedStream(io.RawIOBase):
    """The content of a compressed file, up to the size that it may have."""

    def __init__(self, file: Path) -> None:
        self._stream = gzip.open(file)  # noqa: SIM115 (closed by close)
        self._left = expanded_limit(file.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise DataError(": expands to more than a compressed file of its size may; write it without compression")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


class TextTable:
    """One text table; see :meth:`read`.

    Parameters
    ----------
    file : Path
    options : TableOptions
    """

    def __init__(self, file: Path, options: TableOptions) -> None:
        self.file, self.options = file, options
        self.comma = "," if _plain_suffix(file) == ".csv" else None
        self._header: int | None = None

    # --- lines ----------------------------------------------------------------------------------------------------

    def _open(self) -> IO[bytes]:
        if self.file.name.lower().endswith(".gz"):
            return io.BufferedReader(_BoundedStream(self.file))
        return self.file.open("rb")

    def _open_text(self) -> io.TextIOWrapper:
        """Open the table as text; bytes that are no UTF-8, as in a header in another encoding, are kept apart."""
        stream = self._open()
        start = stream.peek(4)[:4] if isinstance(stream, io.BufferedReader) else b""
        marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark))
        return io.TextIOWrapper(stream, encoding=next(marks, "utf-8-sig"), errors="surrogateescape")

    def _check_line_lengths(self) -> None:
        """Refuse a line of more than :data:`MAX_LINE_BYTES`, which numpy would hold in memory many times."""
        length = 0  # of the line that the chunk continues
        with self._open() as stream:
            while chunk := stream.read(_CHUNK):
                ends = [place for end in (b"\n", b"\r") if (place := chunk.find(end)) >= 0]
                if length + min(ends, default=len(chunk)) > MAX_LINE_BYTES:
                    raise DataError(
                        f": has a line of more than {MAX_LINE_BYTES:,} bytes; is it a table? Save it as .npy"
                    )
                last = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
                length = length + len(chunk) if last < 0 else len(chunk) - last - 1

    def _texts(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of each line with data."""
        last = 0  # number of the last line with data
        with self._open_text() as stream:
            for number, line in enumerate(stream, 1):
                text = line.partition("#")[0].strip()
                if not text and number - last > MAX_EMPTY_LINES:
                    raise DataError(
                        f", line {number}: more than {MAX_EMPTY_LINES:,} lines in turn hold no data; remove them"
                    )
                last = number if text else last
                if text:
                    yield number, text

    def _lines(self, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the fields of each line with data after line `skip`."""
        for number, text in self._texts():
            if number > skip:
                yield number, self._split(text)

    def _split(self, text: str) -> list[str]:
        if self.comma and '"' in text and len(text) < _CHUNK:
            try:
                return [field.strip() for field in next(csv.reader([text], skipinitialspace=True))]
            except (csv.Error, StopIteration):
                pass
        return [field.strip().strip('"') for field in text.split(self.comma, MAX_COLUMNS)]

    # --- header and index -----------------------------------------------------------------------------------------

    def header_line(self) -> int:
        """Return the number of the header line, 0 if there is none.

        Raises
        ------
        DataError
            If the first line could be a header as well as a row.
        """
        if self._header is None:
            number, fields = next(self._lines(), (0, []))
            self._header = number if self._has_header(number, fields) else 0
        return self._header

    def _has_header(self, number: int, fields: list[str]) -> bool:
        if self.options.header is not None or not fields:
            return bool(self.options.header)
        if self.comma and not any(map(_is_number, fields)):
            return any(field not in MISSING for field in fields) or len(fields) == 1
        first = fields[1:] if self.comma and fields[0] == "" and len(fields) > 1 else fields
        if not all(map(_WHOLE.fullmatch, first)):
            return False
        start = int(first[0])
        if [int(field) for field in first] != list(range(start, start + len(first))):
            return False
        if first is not fields:  # an index has no name, and the columns are counted
            return len(first) > 1 or start == 0
        others = [line for _, line in islice(self._lines(number), _COMPARED_LINES)]
        other_kind = bool(others) and all(map(_has_decimals, others))  # whole numbers above rows of other numbers
        doubtful = {0: len(first) > 1 and self.comma is not None, 1: len(first) > 3 and self.comma is not None}
        if doubtful.get(start, False) or (other_kind and (len(first) > 2 or start in (0, 1))):
            shown = printable_line((self.comma or " ").join(fields[:8])) + ("…" if len(fields) > 8 else "")
            raise DataError(
                f", line {number}: {shown!r} could be a header that counts the columns or a row of data; "
                "set data.header to true or false (--header or --no-header for new rows)"
            )
        return False

    def _check_names(self, names: Sequence[str], number: int) -> None:
        named = [name for name in names if name]
        if self.options.header is None and len(set(named)) < len(named):
            twice = next(name for name in named if named.count(name) > 1)
            places = [place + 1 for place, name in enumerate(names) if name == twice]
            raise DataError(
                f", line {number}: columns {places[0]} and {places[1]} are both called {_shown(twice)!r}; rename one, "
                "or set data.header to true to use both"
            )

    # --- values ---------------------------------------------------------------------------------------------------

    def read(self) -> Content:
        """Read the numbers; cells without a value are NaN in rows without any value.

        Raises
        ------
        DataError
            If a cell is no number, a row has values only in part, or rows differ in length.
        """
        self._check_line_lengths()
        skip = self.header_line()
        names = next(self._lines(), (0, []))[1] if skip else []
        first_number, first = next(self._lines(skip), (0, []))
        if max(len(first), len(names)) > MAX_COLUMNS:
            raise DataError(
                f", line {first_number or skip}: has more than {MAX_COLUMNS:,} columns; save the rows as .npy"
            )
        if skip:
            self._check_names(names, skip)
        row_names = bool(names) and len(names) == len(first) - 1  # R writes no name above the names of rows
        if row_names:
            names = ["", *names]
        elif names and first and len(names) != len(first) and not re.search("[;\t]", names[0]):
            raise DataError(
                f", line {first_number}: has {len(first)} columns where {len(names)} were expected, "
                "the number of names in the header; correct it"
            )
        given = self.options.index
        certain = bool(names) and len(first) > 1 and _CERTAIN_INDEX_NAMES.fullmatch(names[0]) is not None
        drop = bool(given) or (given is None and certain)
        values = self._numbers(skip, range(int(drop), max(len(first), 1)))
        if given is None and not drop:
            drop = counted_index(values[:, 0], names[0] if names else None, values.shape[1]) if values.size else False
            values = values[:, 1:] if drop else values
        shown = tuple(_shown(name) for name in names[int(drop) :])
        if drop and values.shape[1] == 0:
            raise DataError(": holds an index only, no column of data; set data.index to false if it is data")
        named = f" ({_shown(names[0])!r})" if names and names[0] else ""
        return Content(values, shown, (f"column 1{named}, an index, is left out",) if drop else ())

    def _numbers(self, skip: int, columns: Sequence[int]) -> FloatArray:
        use = None if columns[:1] == range(1) or not len(columns) else list(columns)
        arguments: dict[str, Any] = {"delimiter": self.comma, "ndmin": 2, "quotechar": '"' if self.comma else None}
        try:
            with self._open_text() as stream:
                return np.loadtxt(stream, skiprows=skip, usecols=use, **arguments)
        except DataError:
            raise
        except ValueError as error:
            self._check_cells(skip, columns, error)
        separator = self.comma or " "
        cleaned = (
            separator.join("nan" if fields[place] in MISSING else fields[place] for place in columns)
            for _, fields in self._lines(skip)
        )
        return np.loadtxt(cleaned, **arguments)

    def _check_cells(self, skip: int, columns: Sequence[int], error: ValueError) -> None:
        """Raise an error for the first cell that is neither a number nor missing, or for rows without some values."""
        width, empty, partial = 0, 0, None
        rows = 0
        for number, fields in self._lines(skip):
            width = width or len(fields)
            used = [fields[place] for place in columns if place < len(fields)]
            for place, field in zip(columns, used, strict=False):
                if not _is_number(field) and field not in MISSING:
                    hint = _hint(field, place, self)
                    raise DataError(
                        f", line {number}: holds {field[:40]!r} where a number belongs{hint}; correct it"
                    ) from error
            if len(fields) != width:
                raise DataError(
                    f", line {number}: has {len(fields)} columns where {width} were expected; correct it"
                ) from error
            missing = [place for place, field in zip(columns, used, strict=False) if field in MISSING]
            if missing and len(missing) < len(used):
                empty, rows = empty + len(missing), rows + 1
                partial = partial or (number, missing[0], fields[missing[0]])
        if partial:
            number, place, text = partial
            raise DataError(
                f", line {number}: holds {text!r} where a number belongs, in column {place + 1} ({empty:,} empty "
                f"cells in {rows:,} rows); fill them in or remove the rows, as only rows without any value are taken "
                "as missing"
            ) from error

    def begins_with_number(self) -> bool:
        """Return whether the first row, below a header if it is certain, begins with a number or nothing."""
        lines = [fields for _, fields in islice(self._lines(), 2)]
        first = lines[0][-1] if lines and lines[0] else ""
        following = lines[-1][-1] if lines and lines[-1] else ""
        return _is_number(first) or first in MISSING or (self.comma is not None and _is_number(following))

    def read_names(self, rows: int | None) -> Content:
        """Read one column of texts; a first line is a header if there is one line more than `rows`."""
        self._check_line_lengths()
        lines = list(self._lines()) if self.comma else [(number, [text]) for number, text in self._texts()]
        names = [fields for _, fields in lines]
        drop = bool(names) and len(names[0]) == 2 and _CERTAIN_INDEX_NAMES.fullmatch(names[0][0]) is not None
        column = [fields[int(drop) :] for fields in names]
        if any(len(fields) != 1 for fields in column):
            raise DataError(": holds more than one column; give one category for each row")
        texts = [_shown(fields[0]) for fields in column]
        if rows is not None and len(texts) not in (rows, rows + 1):
            raise DataError(
                f", line {lines[0][0]}: holds {texts[0]!r}, the first of {len(texts)} categories for {rows} "
                "observations; one per row is needed"
            )
        header = drop or bool(self.options.header) or (self.options.header is None and len(texts) - 1 == rows)
        for (number, _), text in zip(lines, texts, strict=True):
            if text in MISSING:
                raise DataError(f", line {number}: holds {text!r} where a category belongs; correct it")
        return Content(np.array(texts[int(header) :], dtype=np.str_))

    def locate(self, row: int) -> str:
        """Return the line of a row."""
        for index, (number, _) in enumerate(self._lines(self.header_line())):
            if index == row:
                return f"line {number}"
        return f"row {row + 1}"


def _has_decimals(fields: Sequence[str]) -> bool:
    """Return whether a line has numbers alone, and some with decimals."""
    return all(map(_is_number, fields)) and any(re.search(r"\d\.|\.\d", field) for field in fields)


def _is_number(field: str) -> bool:
    if len(field) > MAX_NUMBER_CHARACTERS:
        return False
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python parses 1_000, numpy does not


def _shown(name: str) -> str:
    """Return a name for a message; one that is no UTF-8 is taken for Latin-1."""
    plain = name.encode("utf-8", "surrogateescape").decode("latin-1") if re.search("[\udc80-\udcff]", name) else name
    return printable_line(plain, MAX_PRINTED_LINE)


def _hint(field: str, place: int, table: TextTable) -> str:
    """Return what a cell that is no number may be, for an error message."""
    if len(field) > MAX_NUMBER_CHARACTERS:
        return ""
    if re.fullmatch(r"[-+]?\d+,\d+([eE][-+]?\d+)?", field):
        return " (a comma within a number: decimals are written with a point, thousands without a separator)"
    if re.fullmatch(r"[-+]?\d{1,3}([,'’\u00a0\u202f ]\d{3})+(\.\d*)?", field):
        return " (numbers are written without separators of thousands)"
    if ";" in field or "\t" in field:
        what = "semicolons" if ";" in field else "tabs"
        return f" ({what} separate nothing here: write commas in a .csv, white space in a .txt)"
    if "\0" in field:
        return " (it has NUL characters: is it UTF-16 without a byte order mark? Save it as UTF-8)"
    if table.comma is None and "," in field:
        return " (commas separate numbers only in a .csv)"
    if place == 0 and table.options.index is None:
        return " (set data.index to true if the first column names the rows)"
    return ""
