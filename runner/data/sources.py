"""A run's data, one data set a source: loaded, held against each other, and put where the model's sources find them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from actors.graph.graph import Graph
from actors.types import Array, State
from runner.config.sections import DataConfig
from runner.data import datasets
from runner.data.datasets import Dataset
from runner.data.readers import DataError, Ints

Data: TypeAlias = Mapping[str, Dataset]
"""Data sets by the name of their source, all of the same rows."""


def load_sources(given: Mapping[str, DataConfig], seed: int) -> dict[str, Dataset]:
    """Load what a model file names.

    Raises
    ------
    DataError
        If files or the choice of rows are wrong, or the sources do not describe the same rows.
    """
    return checked({name: _load(source, seed, source.categories) for name, source in given.items()})


def categories_of(given: Mapping[str, DataConfig], data: Data, seed: int) -> dict[str, Array]:
    """Return the true categories of the rows by module, under ``""`` those that hold for all.

    Parameters
    ----------
    given : mapping of str to DataConfig
    data : mapping of str to Dataset
        What :func:`load_sources` gave.
    seed : int
    """
    found: dict[str, Array] = {}
    for source in given.values():
        if isinstance(source.categories, dict):
            labels = {name: _load(source, seed, path).categories for name, path in source.categories.items()}
            found.update({name: values for name, values in labels.items() if values is not None})
    common = common_categories(data)
    return found if common is None else {**found, "": common}


def common_categories(data: Data) -> Ints | None:
    """Return the categories of the rows; None where no source has any."""
    return next((each.categories for each in data.values() if each.categories is not None), None)


def rows_in(data: Data) -> int:
    """Return how many rows there are."""
    return len(next(iter(data.values())).observations)


def checked(data: dict[str, Dataset]) -> dict[str, Dataset]:
    """Return the data sets as they are; they must describe the same rows.

    Raises
    ------
    DataError
        If one has another number of rows, other categories or other sequences than another one.
    """
    (first, one), *others = data.items()
    for name, other in others:
        counts = len(one.observations), len(other.observations)
        if counts[0] != counts[1]:
            raise DataError(
                f"data.{first} has {counts[0]} rows and data.{name} {counts[1]}; "
                "row by row, they must describe the same"
            )
    for what in ("categories", "lengths"):
        known = [(name, getattr(each, what)) for name, each in data.items() if getattr(each, what) is not None]
        for name, values in known[1:]:
            if not np.array_equal(values, known[0][1]):
                raise DataError(
                    f"the {what} of data.{known[0][0]} and data.{name} differ; row by row, they must describe the same"
                )
    return data


def source_states(graph: Graph, data: Data, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, State]:
    """Return what the model's sources start from: their data and the lengths of the sequences.

    Parameters
    ----------
    graph : Graph
    data : mapping of str to Dataset
    shapes : mapping of str to tuple of int, optional
        The shape of a row of each source. One without data gets rows that are all missing.
    """
    lengths = next((each.lengths for each in data.values() if each.lengths is not None), None)
    rows = rows_in(data)
    states: dict[str, State] = {}
    for name in graph.sources:
        if name in data:
            states[name] = {"values": data[name].observations}
        elif shapes is not None and name in shapes:
            missing = np.zeros((rows, *shapes[name]), np.float32)
            states[name] = {"values": missing, "mask": np.ones(rows, np.bool_)}
        if lengths is not None:
            states[name]["lengths"] = np.asarray(lengths, np.int64)
    return states


def new_rows(
    sources: Iterable[str],
    given: Sequence[str],
    *,
    categories: Path | None = None,
    count: int | None = None,
    offset: int = 0,
    ordered: bool = True,
) -> dict[str, Dataset]:
    """Load rows for a trained run: those of files, or of data sets that packages carry.

    Parameters
    ----------
    sources : iterable of str
        The run's.
    given : sequence of str
        For each source ``name=what``, for a single one ``what`` alone: the path of a file or the name of a data set.
        A source that is left out has no data.
    categories : Path, optional
        Labels of the rows of a file.
    count, offset : int
        As in :func:`runner.data.datasets.load`.
    ordered : bool
        Whether the rows come in the order in which they happened.

    Raises
    ------
    DataError
        If files or the choice of rows are wrong, a source is not named or named twice, or the sources do not describe
        the same rows.
    """
    names = list(sources)
    chosen: dict[str, str] = {}
    for text in given:
        name, equals, what = text.partition("=")
        if not (equals and name in names):
            name, what = names[0], text
            if len(names) > 1:
                raise DataError(f"{text!r}: this run has the sources {', '.join(names)}; say which, as {name}={text}")
        if name in chosen:
            raise DataError(f"source {name} is given twice, as {chosen[name]!r} and {what!r}; leave one out")
        chosen[name] = what
    packaged = [what for what in chosen.values() if what in datasets.SOURCES and what != "files"]
    if categories is not None and len(packaged) == len(chosen):
        raise DataError(f"--categories goes with a data file; {packaged[0]} has its own")
    found = {}
    for name, what in chosen.items():
        if what in packaged:
            order = "cyclic" if ordered else "shuffled"
            found[name] = datasets.load(what, count=count, offset=offset, order=order)
        else:
            found[name] = datasets.load("files", observations=what, categories=categories, count=count, offset=offset)
    return checked(found)


def _load(source: DataConfig, seed: int, categories: Any) -> Dataset:
    return datasets.load(
        source.source,
        seed=seed,
        count=source.count,
        offset=source.offset,
        order=source.order,
        observations=source.observations,
        categories=categories if isinstance(categories, Path) else None,
        lengths=source.lengths,
    )
