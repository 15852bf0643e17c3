"""What the columns of a table seem to be, from its header and its first rows: values, labels, sequences or times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.limits import MAX_LISTED_NAMES
from runner.data.errors import DataError
from runner.data.tables import MISSING, TableOptions, TextTable, is_index_name, is_number, is_table, is_time_name
from runner.report.printable import printable_line

SAMPLE_ROWS = 2_000
"""Rows from which the kinds of columns are taken."""

_LABEL_NAMES = frozenset(["label", "labels", "class", "classes", "category", "categories"])
_LABEL_NAMES_OF_TEXTS = frozenset(["target", "state", "y"])
"""Names of labels if the cells are texts; numbers may be a target or a position."""
_SEQUENCE_NAMES = frozenset(
    ["sequence", "sequence_id", "seq", "seq_id", "session", "session_id", "trial", "episode", "recording", "run_id"]
)


@dataclass(frozen=True)
class TableOutline:
    """The columns of a table with a header.

    Parameters
    ----------
    names : tuple of str
        Without that of an index.
    texts : dict of str to str
        The columns that hold texts, each with the first one.
    """

    names: tuple[str, ...]
    texts: dict[str, str]

    @property
    def sequence_column(self) -> str:
        """The column whose name says that it tells sequences apart; empty if there is none."""
        return next((name for name in self.names if name.lower() in _SEQUENCE_NAMES), "")

    @property
    def label_column(self) -> str:
        """The column that seems to hold labels: by its name, or the only one of texts; empty if none does."""
        of_texts = [name for name in self.texts if name.lower() in _LABEL_NAMES_OF_TEXTS]
        named = [name for name in self.names if name.lower() in _LABEL_NAMES] or of_texts
        others = [name for name in self.texts if name != self.sequence_column and not is_time_name(name)]
        return named[0] if named else others[0] if len(others) == 1 else ""

    def values(self, *others: str) -> list[str]:
        """Return the columns of numbers that are no times and none of `others`."""
        return [name for name in self.names if not (name in others or name in self.texts or is_time_name(name))]


def read_outline(path: Path) -> TableOutline | None:
    """Return the outline of a text table; None for any other file, and for a table without names of its columns.

    What is wrong with a table, reading its rows says.
    """
    if not path.is_file() or not is_table(path):
        return None
    table = TextTable(path, TableOptions())
    try:
        names, rows = table.sample(SAMPLE_ROWS)
    except (DataError, OSError):
        return None
    index = bool(names) and is_index_name(names[0])
    named = names[int(index) :]
    if not named or len(set(named)) < len(named) or not all(named):
        return None
    return TableOutline(tuple(named), dict(_texts_of(named, [fields[int(index) :] for fields in rows])))


def order_by_name(given: Sequence[str], learnt: Sequence[str], where: str) -> tuple[str, ...]:
    """Return in which order columns of new rows are those that were learnt from; empty if by their places.

    Columns are taken by their names if any of these is one that was learnt from, and others are left out.

    Parameters
    ----------
    given, learnt : sequence of str
        Names of the columns of new rows, and of those that were learnt from; empty if not known.
    where : str
        Name of the new rows for the error.

    Raises
    ------
    DataError
        If some of the columns have names that were learnt from, but not all.
    """
    common = set(given) & set(learnt)
    if not common or tuple(given) == tuple(learnt):
        return ()
    absent = [name for name in learnt if name not in common]
    if absent:
        lacks = ", ".join(printable_line(name, 40) for name in absent[:MAX_LISTED_NAMES])
        raise DataError(
            f"{where}: has no column {lacks}, from which the run has learnt; add what is absent (empty cells are "
            "missing values), or correct the names"
        )
    return tuple(learnt)


def learnt_columns(path: Path, options: TableOptions) -> tuple[str, ...]:
    """Return the names of the columns of a table that make a row; empty if they are chosen, or cannot be read again."""
    if options.columns is not None:
        return ()
    try:
        return TextTable(path, options).read().columns
    except (DataError, OSError):
        return ()


def _texts_of(names: list[str], rows: list[list[str]]) -> Iterator[tuple[str, str]]:
    """Yield the columns with a cell that is neither a number nor missing, and the first such cell."""
    for place, name in enumerate(names):
        cells = (fields[place] for fields in rows if place < len(fields))
        text = next((cell for cell in cells if cell not in MISSING and not is_number(cell)), None)
        if text is not None:
            yield name, text
