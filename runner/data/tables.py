"""Text tables: ``.txt`` (white space), ``.csv`` (commas) and ``.tsv`` (tabs), with ``#`` comments, also gzipped.

A ``.csv`` whose lines are cut into the same number of fields by semicolons or tabs alone is one of these, where commas
may be decimal ones; a note says so.
Data frames write tables with a header line and an index column. Where these are certain they are recognized, and what
is left out is noted; where a line or a column could be data as well, :class:`TableOptions` decide.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
    MAX_LISTED_NAMES,
    MAX_NUMBER_CHARACTERS,
    MAX_PRINTED_LINE,
)
from actors.types import Array, FloatArray, IntArray
from runner.data.errors import EXACT, DataError
from runner.report.printable import brief, printable_line

MISSING = frozenset(
    ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "-NaN", "null", "NULL", "Null", "None", "none"]
)
"""Cells that stand for a missing value, as data frames write them."""

_BYTE_ORDER_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""What files of other encodings than UTF-8 begin with."""
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_INDEX_NAMES = re.compile(r"|unnamed: 0(\.\d+)?|index", re.IGNORECASE)
_CERTAIN_INDEX_NAMES = re.compile(r"|unnamed: 0(\.\d+)?", re.IGNORECASE)
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_TIME = re.compile(
    r"((date|date_?time|time|time_?stamp|stamp|elapsed|(?-i:t))([ _]?[\[(]?(s|ms|us|ns|secs?|seconds)[\])]?)?"
    r"|secs?|seconds|ms|msecs?|milliseconds)",
    re.IGNORECASE,
)
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+([eE][-+]?\d+)?")
_COMPARED_LINES = 100
_MIN_COUNTED = 4
"""Rows from which a first column that counts them is hardly data by chance."""

_CHUNK = MAX_ARCHIVE_INDEX_BYTES

_OTHER_FILES = {
    b"\x1f\x8b": "is gzipped; end its name in .gz",
    b"\x93NUMPY": "is an array of numpy; end its name in .npy",
    b"PK\x03\x04": "is an archive, such as .npz or .xlsx; end its name so, or save the rows as a text table",
}
"""What files of other formats begin with."""

_SPREADSHEET_ERROR = re.compile(r"(?:^|[,\s\"])(#(?:N/A|DIV/0!|VALUE!|REF!|NAME\?|NUM!|NULL!))(?=$|[,\s\"])")
"""What a spreadsheet writes for a cell that it could not compute, which is no comment."""

_EMPTY_BETWEEN_TABS = re.compile(rb"\t[\t\r\n]|[\r\n]\t")


@dataclass(frozen=True)
class TableOptions:
    """How a table is laid out, where that is not to be recognized.

    Parameters
    ----------
    header : bool, optional
        Whether the first line names the columns.
    index : bool, optional
        Whether the first column names or counts the rows, and is left out.
    columns : tuple of str or int, optional
        Names or numbers (from 1) of the columns that make a row, in this order; by default all.
    exclude : tuple of str or int
        Names or numbers of columns that are left out.
    sequence_column, category_column : str or int, optional
        The column that names the sequence of each row, and that of its true category; both are left out.
    new : bool
        Whether the rows are new ones of a trained run, which may lack these two.
    variable : str, optional
        The variable of a ``.mat`` that has the rows.
    """

    header: bool | None = None
    index: bool | None = None
    columns: tuple[str | int, ...] | None = None
    exclude: tuple[str | int, ...] = ()
    sequence_column: str | int | None = None
    category_column: str | int | None = None
    new: bool = False
    variable: str | None = None

    @property
    def choose(self) -> bool:
        """Whether any column is chosen."""
        special = (self.sequence_column, self.category_column)
        return self.columns is not None or bool(self.exclude) or special != (None, None)


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
    sequences, categories : ndarray of str, shape (N,), or None
        What the columns of sequences and of categories hold.
    """

    values: Array
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sequences: Array | None = None
    categories: Array | None = None


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
    if rows >= _MIN_COUNTED and not counts and np.isfinite(first[0]) and float(first[0]).is_integer():
        counts = bool((first[1:] - first[:-1] == 1).all())  # a part of a longer table
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
    return _plain_suffix(file) in (".txt", *_SEPARATORS)


def is_time_name(name: str) -> bool:
    """Return whether a column of this name is a time, unless its values fall."""
    return _TIME.fullmatch(name) is not None


def is_index_name(name: str) -> bool:
    """Return whether a first column of this name certainly is an index, as data frames write it."""
    return _CERTAIN_INDEX_NAMES.fullmatch(name) is not None


def _plain_suffix(file: Path) -> str:
    """Return the suffix of a file's name without that of its compression."""
    name = file.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def expanded_limit(size: int) -> int:
    """Return how many bytes the content of a compressed file of `size` bytes may have."""
    return min(max(MAX_EXPANSION * size, FREE_EXPANDED_BYTES), MAX_EXPANDED_BYTES)


_SMALL_EXPONENT = re.compile(rb"[0-9.][eE]-0*[0-9]{3}")
_PLACE = re.compile(r"[0-9]{1,9}")
_WHOLE_NUMBER = re.compile(r"[-+]?\d+")
_EXACT_DIGITS = 15
"""Integers with no more digits are exact in float64."""


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
        self._header: int | None = None
        self._tiny = False  # whether there may be numbers that are too small for a float

    # --- lines ----------------------------------------------------------------------------------------------------

    @cached_property
    def _layout(self) -> tuple[str | None, bool]:
        """What separates the columns, None for white space, and whether commas are decimal ones."""
        usual = _SEPARATORS.get(_plain_suffix(self.file))
        if usual is None:
            return usual, False
        with self._open_text() as stream:
            lines = islice(iter(partial(stream.readline, MAX_LINE_BYTES), ""), _COMPARED_LINES)
            texts = [text for line in lines if (text := line.partition("#")[0].strip(" \r\n"))]
        for separator in (";", "\t") if usual == "," else (usual,):
            rows = [[cell.strip(' "') for cell in text.split(separator, MAX_COLUMNS)] for text in texts]
            width = len(rows[0]) if rows else 0
            if width < 2 or any(len(row) != width for row in rows) or not all(map(any, zip(*rows, strict=True))):
                continue  # others, or indented lines
            cells = [cell for row in rows[1:] for cell in row if "," in cell]
            if all(map(_DECIMAL_COMMA.fullmatch, cells)) and not any("," in cell for cell in rows[0] if not cells):
                return separator, bool(cells)
        return usual, False

    @property
    def comma(self) -> str | None:
        """What separates the columns; None for white space."""
        return self._layout[0]

    def _layout_notes(self) -> list[str]:
        """Return what is unusual in how the table is written."""
        separator, decimal = self._layout
        what = {";": "semicolons", "\t": "tabs"}.get(separator or "", "")
        unusual = _SEPARATORS.get(_plain_suffix(self.file)) != separator
        return [f"{what} separate its columns"] * unusual + ["its commas are decimal ones"] * decimal

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

    def _check_bytes(self) -> None:
        """Refuse other kinds of files, cells that would be lost, and lines that numpy would hold in memory many times.

        A line has at most :data:`MAX_LINE_BYTES`.
        """
        length = 0  # of the line that the chunk continues
        comments, gaps, before = False, False, b""
        with self._open() as stream:
            while chunk := stream.read(_CHUNK):
                kind = next((kind for start, kind in _OTHER_FILES.items() if chunk.startswith(start)), "")
                if kind and not before:
                    raise DataError(f": {kind}")
                comments = comments or b"#" in chunk
                self._tiny = self._tiny or _SMALL_EXPONENT.search(before[-8:] + chunk) is not None
                gaps = gaps or _EMPTY_BETWEEN_TABS.search(before[-1:] + chunk) is not None
                before = chunk
                ends = [place for end in (b"\n", b"\r") if (place := chunk.find(end)) >= 0]
                if length + min(ends, default=len(chunk)) > MAX_LINE_BYTES:
                    raise DataError(
                        f": has a line of more than {MAX_LINE_BYTES:,} bytes; is it a table? Save it as .npy"
                    )
                last = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
                length = length + len(chunk) if last < 0 else len(chunk) - last - 1
        if comments:
            self._check_comments()
        if gaps and self.comma is None:
            self._check_tabs()

    def _check_comments(self) -> None:
        """Refuse errors of a spreadsheet, which begin as comments do."""
        with self._open_text() as stream:
            for number, line in enumerate(stream, 1):
                found = _SPREADSHEET_ERROR.search(line) if "#" in line else None
                if found and not line[: found.start(1)].partition("#")[1]:
                    raise DataError(
                        f", line {number}: holds {found[1]!r}, an error of a spreadsheet; write a number, or leave the "
                        "cells of the whole row empty if it is missing"
                    )

    def _check_tabs(self) -> None:
        """Refuse empty cells between tabs, which white space does not separate: their row would move to the left."""
        empty: list[tuple[bool, ...]] = []
        numbers: list[int] = []
        with self._open_text() as stream:
            for number, line in enumerate(stream, 1):
                text = line.partition("#")[0].rstrip("\r\n")
                if not text.strip():
                    continue
                cells = text.split("\t", MAX_COLUMNS)
                if any(len(cell.split()) > 1 for cell in cells) or (empty and len(cells) != len(empty[0])):
                    return  # tabs are not what separates the columns, or align them
                here = tuple(not cell.strip() for cell in cells)
                if here not in empty:
                    empty.append(here)
                    numbers.append(number)
                if len(empty) > 1 and any(empty[0]) | any(here):
                    number, here = next((n, each) for n, each in zip(numbers, empty, strict=True) if any(each))
                    raise DataError(
                        f", line {number}: has an empty cell between tabs in column {here.index(True) + 1}, where "
                        "white space separates the columns; fill it in, or write commas and end the name in .csv"
                    )

    def _texts(self, *, names: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of each line with data; a # within a name, as in C#, begins no comment."""
        last = 0  # number of the last line with data
        with self._open_text() as stream:
            for number, line in enumerate(stream, 1):
                text = re.split(r"(?:^|\s)#", line, maxsplit=1)[0] if names else line.partition("#")[0]
                text = text.strip(" \r\n") if self.comma == "\t" and text.strip() else text.strip()
                if not text and number - last > MAX_EMPTY_LINES:
                    raise DataError(
                        f", line {number}: more than {MAX_EMPTY_LINES:,} lines in turn hold no data; remove them"
                    )
                last = number if text else last
                if text:
                    yield number, text

    def _lines(self, skip: int = 0, *, names: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yield the number and the fields of each line with data after line `skip`."""
        for number, text in self._texts(names=names):
            if number > skip:
                yield number, self._split(text)

    def _split(self, text: str) -> list[str]:
        fields = self._fields(text)
        if not self._layout[1]:
            return fields
        return [field.replace(",", ".") if _DECIMAL_COMMA.fullmatch(field) else field for field in fields]

    def _fields(self, text: str) -> list[str]:
        if self.comma and '"' in text and len(text) < _CHUNK:
            try:
                return [
                    field.strip() for field in next(csv.reader([text], delimiter=self.comma, skipinitialspace=True))
                ]
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
        if self.comma and not any(map(is_number, fields)):
            return any(field not in MISSING for field in fields) or len(fields) == 1
        first = fields[1:] if self.comma and fields[0] == "" and len(fields) > 1 else fields
        whole = all(map(_WHOLE.fullmatch, first))
        start = int(first[0]) if whole else None
        if start is None or [int(field) for field in first] != list(range(start, start + len(first))):
            self._check_steps(number, first, whole=whole)
            return False
        if first is not fields:  # an index has no name, and the columns are counted
            return len(first) > 1 or start == 0
        others = [line for _, line in islice(self._lines(number), _COMPARED_LINES)]
        other_kind = bool(others) and all(map(_has_decimals, others))  # whole numbers above rows of other numbers
        doubtful = {0: len(first) > 1 and self.comma is not None, 1: len(first) > 3 and self.comma is not None}
        if doubtful.get(start, False) or (other_kind and (len(first) > 2 or start in (0, 1))):
            raise self._doubt(number, fields, "counts")
        return False

    def _doubt(self, number: int, fields: list[str], does: str) -> DataError:
        shown = printable_line((self.comma or " ").join(fields[:8])) + ("…" if len(fields) > 8 else "")
        return DataError(
            f", line {number}: {shown!r} could be a header that {does} the columns or a row of data; "
            "set data.header to true or false (--header or --no-header for new rows)"
        )

    def _check_steps(self, number: int, first: list[str], *, whole: bool) -> None:
        """Refuse a first line of equal steps, such as wavelengths or years, above lines without equal steps."""
        if len(first) < _MIN_COUNTED - whole or not _equal_steps(first):
            return
        others = [line for _, line in islice(self._lines(number), _COMPARED_LINES)]
        other_kind = whole and bool(others) and all(map(_has_decimals, others))
        if other_kind or (self.comma and len(first) >= _MIN_COUNTED and others and not any(map(_equal_steps, others))):
            raise self._doubt(number, first, "names")

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
        self._check_bytes()
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
        if self.options.choose or any(map(is_time_name, names)):
            return self._read_chosen(skip, names, first)
        given = self.options.index
        certain = bool(names) and len(first) > 1 and _CERTAIN_INDEX_NAMES.fullmatch(names[0]) is not None
        drop = bool(given) or (given is None and certain)
        values = self._numbers(skip, range(int(drop), max(len(first), 1)))
        if given is None and not drop:
            drop = counted_index(values[:, 0], names[0] if names else None, values.shape[1]) if values.size else False
            values = values[:, 1:] if drop else values
        self._check_exact(values, skip, range(int(drop), max(len(first), 1)))
        shown = tuple(_shown(name) for name in names[int(drop) :])
        if drop and values.shape[1] == 0:
            raise DataError(": holds an index only, no column of data; set data.index to false if it is data")
        named = f" ({_shown(names[0])!r})" if names and names[0] else ""
        notes = [*self._layout_notes(), *[f"column 1{named}, an index, is left out"] * drop]
        return Content(values, shown, tuple(notes))

    # --- some of the columns ----------------------------------------------------------------------------------------

    def _read_chosen(self, skip: int, names: Sequence[str], first: Sequence[str]) -> Content:
        """Read the columns that the options choose, without times, of which nothing is learnt unless they are named."""
        options, width = self.options, max(len(first), len(names), 1)
        shown = [_shown(name) for name in names]
        where = "" if not skip else f", line {skip}"
        found = {key: self._special(key, shown, width, where) for key in ("sequence_column", "category_column")}
        apart = {key: place for key, place in found.items() if place is not None}
        texts = {key: self._texts_of(place, skip) for key, place in apart.items()}
        notes = self._layout_notes()
        if options.columns is not None:
            chosen = list(column_places(options.columns, shown, width, f"{where}: data.columns"))
        else:
            index = bool(options.index) or (options.index is None and _is_certain_index(names, width))
            out = {*column_places(options.exclude, shown, width, f"{where}: data.exclude"), *apart.values()}
            chosen = [place for place in range(int(index), width) if place not in out]
            notes += ["column 1, an index, is left out"] * index
        if taken := [place for place in chosen if place in apart.values()]:
            raise DataError(f"{where}: column {taken[0] + 1} is data and names sequences or categories; choose one")
        if options.columns is None:
            times = [place for place in chosen if place < len(names) and is_time_name(names[place])]
            times = [place for place in times if self._is_time(place, skip, texts.get("sequence_column"))]
            if len(times) < len(chosen):
                chosen = [place for place in chosen if place not in times]
                for place in times:
                    notes.append(f"column {place + 1} ({shown[place]!r}), a time, is left out (data.columns to use it)")
        if not chosen:
            raise DataError(f"{where}: no column of data is left; choose others")
        values = self._numbers(skip, chosen)
        doubtful = options.columns is None and options.index is None and chosen[0] == 0 and values.size > 0
        if doubtful and counted_index(values[:, 0], names[0] if names else None, len(chosen)):
            notes.append("column 1, an index, is left out")
            values, chosen = values[:, 1:], chosen[1:]
        self._check_exact(values, skip, chosen)
        columns = tuple(shown[place] for place in chosen) if names else ()
        return Content(values, columns, tuple(notes), texts.get("sequence_column"), texts.get("category_column"))

    def _special(self, key: str, names: Sequence[str], width: int, where: str) -> int | None:
        """Return the place of the column of sequences or categories; None if not asked for, or new rows lack it."""
        column = getattr(self.options, key)
        if column is None or (self.options.new and names and isinstance(column, str) and column not in names):
            return None
        (place,) = column_places([column], names, width, f"{where}: data.{key}")
        return place

    def _texts_of(self, place: int, skip: int) -> Array:
        """Return the texts of a column, of which none may be missing."""
        texts = []
        for number, fields in self._lines(skip):
            text = fields[place] if place < len(fields) else ""
            if text in MISSING:
                raise DataError(f", line {number}: holds {text!r} in column {place + 1}, where each row needs a value")
            texts.append(_decoded(text))
        return np.array(texts, dtype=np.str_)

    def _is_time(self, place: int, skip: int, sequences: Array | None) -> bool:
        """Return whether a column has texts, or numbers that never fall within a sequence."""
        texts = [fields[place] if place < len(fields) else "" for _, fields in self._lines(skip)]
        if not all(is_number(text) or text in MISSING for text in texts):
            return True
        steps = np.diff(np.array([float(text) if is_number(text) else np.nan for text in texts]))
        within = np.ones(len(steps), np.bool_) if sequences is None else sequences[1:] == sequences[:-1]
        return bool((~(steps[within] < 0)).all()) and bool((steps[within] > 0).any())

    def _numbers(self, skip: int, columns: Sequence[int]) -> FloatArray:
        use = None if columns[:1] == range(1) or not len(columns) else list(columns)
        arguments: dict[str, Any] = {"delimiter": self.comma, "ndmin": 2, "quotechar": '"' if self.comma else None}
        try:
            if self._layout[1]:
                raise ValueError("numpy reads no decimal commas")
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

    def _check_exact(self, values: FloatArray, skip: int, columns: Sequence[int]) -> None:
        """Refuse integers that float64 rounds, and numbers that are too small for it, which would become 0."""
        large = bool((np.abs(values) >= EXACT).any())
        if not (large or self._tiny):
            return
        for number, fields in self._lines(skip):
            for place in (place for place in columns if place < len(fields)):
                if problem := _inexact(fields[place]):
                    shown = printable_line(fields[place][:40])
                    raise DataError(f", line {number}: holds {shown!r} in column {place + 1}, {problem}")

    def _check_cells(self, skip: int, columns: Sequence[int], error: ValueError) -> None:
        """Raise an error for the first cell that is neither a number nor missing, or if each line ends with a comma."""
        width, empty, partial = 0, 0, None
        rows, all_rows, ends, top = 0, 0, 0, 0
        for number, fields in self._lines(skip):
            width, top = width or len(fields), top or number
            all_rows, ends = all_rows + 1, ends + (fields[-1] == "")
            used = [fields[place] for place in columns if place < len(fields)]
            for place, field in zip(columns, used, strict=False):
                if not is_number(field) and field not in MISSING:
                    hint = _hint(field, fields if number == top and not skip else [], place, self)
                    leave_out = self._leave_out(skip, place) if number == top else ""
                    raise DataError(
                        f", line {number}: holds {_decoded(field[:40])!r} where a number belongs{hint}; correct it"
                        f"{leave_out}"
                    ) from error
            if len(fields) != width:
                raise DataError(
                    f", line {number}: has {len(fields)} columns where {width} were expected; correct it"
                ) from error
            missing = [place for place, field in zip(columns, used, strict=False) if field in MISSING]
            if missing and len(missing) < len(used):
                empty, rows = empty + len(missing), rows + 1
                partial = partial or number
        if partial and self.comma and ends == all_rows == rows == empty:
            what = "tab" if self.comma == "\t" else "comma"
            raise DataError(
                f", line {partial}: ends with a {what}, as all rows do, so that column {width} is empty; remove this "
                f"{what} from each line"
            ) from error

    def _leave_out(self, skip: int, place: int) -> str:
        """Return how a column is left out that holds a text in the first row; empty if it has no name."""
        names = next(self._lines(), (0, []))[1] if skip else []
        name = _shown(names[place]) if place < len(names) else ""
        return f", or leave out its column (data.exclude: [{name}])" if name and "," not in name else ""

    def sample(self, rows: int) -> tuple[list[str], list[list[str]]]:
        """Return the names of the columns, empty without a header, and the fields of the first rows.

        Raises
        ------
        DataError
            If the file is no table, or its first line could be a header as well as a row.
        """
        self._check_bytes()
        skip = self.header_line()
        names = [_shown(name) for name in next(self._lines(), (0, []))[1]] if skip else []
        found = [fields for _, fields in islice(self._lines(skip), rows)]
        row_names = bool(names) and bool(found) and len(names) == len(found[0]) - 1
        return (["", *names] if row_names else names), found

    def begins_with_number(self) -> bool:
        """Return whether the first row, below a header if it is certain, begins with a number or nothing."""
        lines = [fields for _, fields in islice(self._lines(), 2)]
        first = lines[0][-1] if lines and lines[0] else ""
        following = lines[-1][-1] if lines and lines[-1] else ""
        if first in MISSING:
            return is_number(following) or following in MISSING
        return is_number(first) or (self.comma is not None and is_number(following))

    def read_names(self, rows: int | None) -> Content:
        """Read one column of texts; a first line is a header if there is one line more than `rows`."""
        self._check_bytes()
        if self.comma:
            lines = list(self._lines(names=True))
        else:
            lines = [(number, text.split("\t")) for number, text in self._texts(names=True)]
        names = [fields for _, fields in lines]
        drop = bool(names) and len(names[0]) == 2 and _CERTAIN_INDEX_NAMES.fullmatch(names[0][0]) is not None
        column = [fields[int(drop) :] for fields in names]
        several = any(len(fields) != 1 for fields in column)
        if several or (
            len(column) > 1 and all(fields[0].count(";") == column[0][0].count(";") > 0 for fields in column)
        ):
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


def _is_certain_index(names: Sequence[str], width: int) -> bool:
    return bool(names) and width > 1 and _CERTAIN_INDEX_NAMES.fullmatch(names[0]) is not None


def sequence_lengths(names: Array, where: str, locate: Callable[[int], str]) -> IntArray:
    """Return the lengths of the sequences of rows that have a name for each.

    Raises
    ------
    DataError
        If a sequence begins again after another one.
    """
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    seen: set[str] = set()
    for start in starts.tolist():
        if (name := str(names[start])) in seen:
            raise DataError(
                f"{where}, {locate(start)}: sequence {printable_line(name, 40)!r} begins again after another one; sort "
                "the rows by sequences, or name them differently"
            )
        seen.add(name)
    return np.diff(np.append(starts, len(names)))


def column_places(given: Iterable[Any], names: Sequence[str], columns: int, where: str) -> dict[int, Any]:
    """Return the places (from 0) of columns that are given by their names or numbers (from 1), with what was given.

    A text of digits is the number of a column, unless it is the name of one: keys of maps become texts in files.

    Raises
    ------
    DataError
        If there is no such column, or one is given twice.
    """
    places: dict[int, Any] = {}
    for column in given:
        number = int(column) if column not in names and _PLACE.fullmatch(str(column)) else 0
        if 1 <= number <= columns:
            place = number - 1
        elif column in names:
            place = list(names).index(column)
        else:
            listed = ", ".join(printable_line(str(name), 40) for name in names[:MAX_LISTED_NAMES])
            more = f" and {len(names) - MAX_LISTED_NAMES} more" if len(names) > MAX_LISTED_NAMES else ""
            known = f"the columns are {listed}{more}" if names else "they have no names"
            raise DataError(f"{where}: there is no column {brief(column)}; {known}, and numbers are 1 to {columns:,}")
        if place in places:
            raise DataError(f"{where}: column {place + 1} is given twice; leave one out")
        places[place] = column
    return places


def _has_decimals(fields: Sequence[str]) -> bool:
    """Return whether a line has numbers alone, and some with decimals."""
    return all(map(is_number, fields)) and any(re.search(r"\d\.|\.\d", field) for field in fields)


def _equal_steps(fields: Sequence[str]) -> bool:
    """Return whether a line has numbers that rise or fall by one step, up to the rounding of what is written."""
    if len(fields) < 3 or not all(map(is_number, fields)):
        return False
    steps = np.diff(np.array([float(field) for field in fields]))
    return bool(np.isfinite(steps).all() and steps[0] != 0 and np.allclose(steps, steps[0], rtol=1e-6, atol=0.0))


def is_number(field: str) -> bool:
    """Return whether a field of a table is a number."""
    if len(field) > MAX_NUMBER_CHARACTERS or not field.isascii():  # Python parses digits of other scripts
        return False
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python parses 1_000, numpy does not


def _inexact(field: str) -> str:
    """Return what a float64 would lose of a number, and the remedy; empty if it only rounds decimals."""
    if not is_number(field) or not np.isfinite(value := float(field)):
        return ""
    if len(field) > _EXACT_DIGITS and _WHOLE_NUMBER.fullmatch(field) and int(field) != int(value):
        return (
            f"an integer beyond 2^53 that a float cannot hold: it would become {int(value)}; subtract a constant from "
            "the column, or leave it out"
        )
    if value == 0.0 and re.search("[1-9]", re.split("[eE]", field)[0]):
        return "which is too small for a float and would become 0; write 0, or use other units"
    return ""


def _shown(name: str) -> str:
    """Return a name for a message; one that is no UTF-8 is taken for Latin-1."""
    return printable_line(_decoded(name), MAX_PRINTED_LINE)


def _decoded(text: str) -> str:
    found = re.search("[\udc80-\udcff]", text)
    return text.encode("utf-8", "surrogateescape").decode("latin-1") if found else text


def _hint(field: str, first: Sequence[str], place: int, table: TextTable) -> str:
    """Return what a cell that is no number may be, for an error message; `first` is its line if that is the first."""
    if len(field) > MAX_NUMBER_CHARACTERS:
        return ""
    if re.fullmatch(r"[-+]?\d+,\d+([eE][-+]?\d+)?", field):
        return " (a comma within a number: decimals are written with a point, thousands without a separator)"
    if re.fullmatch(r"[-+]?\d{1,3}([,'’\u00a0\u202f ]\d{3})+(\.\d*)?", field):
        return " (numbers are written without separators of thousands)"
    if ";" in field or "\t" in field:
        what = "semicolons" if ";" in field else "tabs"
        if table.comma == ",":
            return f" ({what} separate columns of a .csv if all lines have as many, and no commas but decimal ones)"
        return f" ({what} separate nothing here: write commas in a .csv, white space in a .txt)"
    if field.strip("\0\x1a") == "":
        return " (the file ends with NUL or control characters; remove them)"
    if "\0" in field:
        return " (it has NUL characters: is it UTF-16 without a byte order mark? Save it as UTF-8)"
    if table.comma is None and "," in field:
        return " (commas separate numbers only in a .csv)"
    if first and table.options.header is None and not re.match(r"[\[({\"']", field):
        names = ", data.index to true if the first column names the rows" * (place == 0 and any(map(is_number, first)))
        return f" (set data.header to true if this line names the columns{names})"
    if place == 0 and table.options.index is None:
        return " (set data.index to true if the first column names the rows)"
    return ""
