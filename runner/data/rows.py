"""The rows of a model's modules: which are those of a source, and which are known only when the module has learnt.

A built-in module has the rows of the modules below it. Any other module may have rows of its own, such as one for each
group of the rows below, and so may all modules above it.
"""

from __future__ import annotations

from collections.abc import Mapping

from actors.errors import GraphError
from actors.graph.graph import Graph
from actors.graph.registry import BUILT_IN
from actors.types import Array
from runner.data.datasets import Dataset
from runner.data.errors import DataError


def known_rows(graph: Graph, data: Mapping[str, Dataset]) -> dict[str, int | None]:
    """Return the number of rows of each module, None if it is known only when the module has learnt.

    Parameters
    ----------
    graph : Graph
    data : mapping of str to Dataset
        By source.

    Raises
    ------
    DataError
        If a built-in module joins rows of different number.
    """
    rows: dict[str, int | None] = {}
    origin: dict[str, str] = {}
    for name, spec in graph.modules.items():  # a module comes after all below it
        if name in data:
            rows[name], origin[name] = len(data[name].observations), name
            continue
        lower = [each.lower for each in graph.connections if each.upper == name and each.lower in rows]
        known = [each for each in lower if rows[each] is not None]
        if spec.type not in BUILT_IN or len(known) < len(lower) or not known:
            rows[name] = None
            continue
        first = known[0]
        other = next((each for each in known if rows[each] != rows[first]), None)
        if other is not None:
            one, two = origin[first], origin[other]
            raise DataError(
                f"data.{one} has {rows[first]} rows and data.{two} {rows[other]}, which module {name!r} joins; "
                "row by row, they must describe the same things"
            )
        rows[name], origin[name] = rows[first], origin[first]
    return rows


def check_category_counts(categories: Mapping[str, Array], data: Mapping[str, Dataset], graph: Graph) -> None:
    """Check that there is one category for each row of a module, where the number of its rows is known.

    Raises
    ------
    GraphError
        If there is not.
    """
    rows = known_rows(graph, data)
    for name, labels in categories.items():
        if rows.get(name) is not None and len(labels) != rows[name]:
            raise GraphError(f"module {name!r}: {len(labels)} categories for {rows[name]} rows of data")
