"""Tables of a run as CSV: what each class is, and what each row is."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.kernels.sequences import boundaries
from actors.limits import MAX_NAME_CHARACTERS
from actors.types import Array
from runner.report.category_names import category_name
from runner.report.clustering_metrics import match
from runner.report.printable import printable_line


def class_table(classes: Array, categories: Array) -> str:
    """Return a line for each class: the category that it is matched to, its rows, and how many have that category.

    Parameters
    ----------
    classes, categories : ndarray of int (N,)
    """
    matched = match(classes, categories)
    labels = np.asarray(categories)
    lines = []
    for k, size in zip(*np.unique(classes, return_counts=True), strict=True):
        label = matched.get(int(k))
        of_rows = "" if label is None else int(np.sum(labels[classes == k] == label))
        name = "" if label is None else category_name(categories, label)
        lines.append([int(k), "" if label is None else label, name, int(size), of_rows])
    return _as_csv(["class", "category", "name", "rows", "rows_of_the_category"], lines)


def read_class_table(text: str) -> dict[int, str]:
    """Return the category by name to which each class in a table of :func:`class_table` is matched.

    Raises
    ------
    ValueError
        If it is no such table.
    """
    lines = list(csv.reader(io.StringIO(text), strict=True))
    if not lines or lines[0][:3] != ["class", "category", "name"] or min(map(len, lines)) < 3:
        raise ValueError("is no table of classes")
    return {int(k): printable_line(name, MAX_NAME_CHARACTERS) for k, _, name, *_ in lines[1:] if name}


def row_table(rows: int, lengths: Array | None, classes: Mapping[str, Array], categories: Array | None) -> str:
    """Return a line for each row: its number, its sequence and its place in it (from 0), its category and classes.

    Parameters
    ----------
    rows : int
    lengths : ndarray of int (S,), or None
        Lengths of the sequences; None: one sequence.
    classes : mapping of str to ndarray (N,)
        By module.
    categories : ndarray of int (N,), or None
    """
    starts = boundaries(rows, lengths)
    sequence = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    columns: dict[str, Any] = {
        "row": list(range(rows)),
        "sequence": sequence.tolist(),
        "place": (np.arange(rows) - starts[:-1][sequence]).tolist(),
    }
    if categories is not None and len(categories) == rows:
        columns["category"] = [category_name(categories, label) for label in np.asarray(categories).tolist()]
    columns |= {f"class_{module}": np.asarray(own).tolist() for module, own in classes.items()}
    return _as_csv(list(columns), zip(*columns.values(), strict=True))


def _as_csv(header: list[str], lines: object) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)  # type: ignore[arg-type]
    return text.getvalue()
