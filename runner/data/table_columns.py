"""Tables whose columns hold different things: rows, labels, and which sequence a row belongs to; for ``new-model``.

A model file names a file of rows, one of labels and one of lengths. A table that holds all of these in columns is
written as such files; the table itself stays as it is.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from actors.limits import MAX_COLUMNS, MAX_LISTED_NAMES, MAX_NUMBER_CHARACTERS, MAX_SPLIT_TABLE_BYTES
from runner.config.error_messages import suggest
from runner.data.errors import DataError
from runner.data.tables import MISSING
from runner.report.printable import printable_line

_LABEL_NAMES = frozenset(["label", "labels", "class", "classes", "category", "categories", "target", "state", "y"])
_SEQUENCE_NAMES = frozenset(
    ["sequence", "sequence_id", "seq", "seq_id", "session", "session_id", "trial", "episode", "recording", "run_id"]
)


@dataclass(frozen=True)
class NamedTable:
    """A ``.csv`` table whose first line names the columns.

    Parameters
    ----------
    path : Path
    names : tuple of str
    cells : list of tuple of str
        The columns.
    """

    path: Path
    names: tuple[str, ...]
    cells: list[tuple[str, ...]]

    def column(self, name: str) -> tuple[str, ...]:
        """Return the cells of a column.

        Raises
        ------
        DataError
            If there is none of this name.
        """
        if name not in self.names:
            hint = suggest(name, self.names) or f"; its columns are {', '.join(self.names[:MAX_LISTED_NAMES])}"
            raise DataError(f"{self.path}: has no column {printable_line(name, 60)!r}{hint}")
        return self.cells[self.names.index(name)]

    def is_number(self, name: str) -> bool:
        """Return whether each cell of a column is a number or missing, and one is a number."""
        cells = [cell for cell in self.column(name) if cell not in MISSING]
        return bool(cells) and all(map(_is_number, cells))

    def label_column(self) -> str:
        """Return the column that seems to hold labels: by its name, or the only one of texts; empty if none does."""
        named = [name for name in self.names if name.lower() in _LABEL_NAMES]
        texts = [name for name in self.names if not self.is_number(name) and name != self.sequence_column()]
        return named[0] if named else texts[0] if len(texts) == 1 else ""

    def sequence_column(self) -> str:
        """Return the column whose name says that it numbers the sequences; empty if there is none."""
        return next((name for name in self.names if name.lower() in _SEQUENCE_NAMES), "")

    def lengths(self, name: str) -> list[int]:
        """Return the lengths of the sequences that a column numbers or names: runs of equal cells.

        Raises
        ------
        DataError
            If a sequence goes on after another one.
        """
        runs = [(cell, sum(1 for _ in group)) for cell, group in groupby(self.column(name))]
        values = [cell for cell, _ in runs]
        if len(set(values)) < len(values):
            twice = next(cell for cell in values if values.count(cell) > 1)
            raise DataError(
                f"{self.path}: the rows of {name} {printable_line(twice, 60)!r} are not beside each other; sort the "
                "table by that column"
            )
        return [length for _, length in runs]


def _is_number(cell: str) -> bool:
    try:
        return len(cell) <= MAX_NUMBER_CHARACTERS and math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False


def read_named_table(path: Path) -> NamedTable | None:
    """Return a ``.csv`` table with a header; None for any other file, and for a table without one.

    Raises
    ------
    DataError
        If its lines differ in length, or if it cannot be read as text.
    """
    if path.suffix.lower() != ".csv" or not path.is_file() or path.stat().st_size > MAX_SPLIT_TABLE_BYTES:
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream) if line]
    except (OSError, UnicodeDecodeError, csv.Error):
        return None  # the reader of rows says what is wrong
    if not lines or len(lines) < 2 or len(lines[0]) > MAX_COLUMNS or any(map(_is_number, lines[0])):
        return None
    names = tuple(lines[0])
    if len(set(names)) < len(names) or any(len(line) != len(names) for line in lines):
        return None
    return NamedTable(path, names, list(zip(*lines[1:], strict=True)))


def rows_as_text(table: NamedTable, columns: Sequence[str]) -> str:
    """Return the chosen columns as a table with a header.

    Raises
    ------
    DataError
        If one of them holds texts.
    """
    for name in columns:
        if not table.is_number(name):
            cell = next(
                (cell for cell in table.column(name) if cell not in MISSING and not _is_number(cell)), "nothing"
            )
            raise DataError(
                f"{table.path}: column {name!r} holds {printable_line(cell, 40)!r}, which is no number; name the other "
                "columns with --columns, or give it as --labels"
            )
    cells = zip(*(table.column(name) for name in columns), strict=True)
    return "".join(f"{','.join(line)}\n" for line in [tuple(columns), *cells])
