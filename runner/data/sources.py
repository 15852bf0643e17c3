"""The data of a run, one data set for each source: loading, consistency checks, and the states of the sources."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from actors.backends.shard_host import check_worker_count
from actors.backends.step_parameters import kept_in, parameters_by_step
from actors.errors import ModuleError, RowError
from actors.graph.graph import Graph
from actors.graph.registry import find
from actors.graph.spec import ModuleSpec
from actors.limits import MAX_LISTED_NAMES
from actors.messaging.message import missing_rows
from actors.messaging.stored_rows import StoredRows
from actors.types import Array, IntArray, State
from runner.config.sections import DataConfig
from runner.data import datasets
from runner.data.datasets import IN_SEQUENCES, Dataset
from runner.data.errors import DataError
from runner.data.intake import columns_without_values, describe_empty
from runner.data.packaged import LOCATED, PACKAGED
from runner.data.rows import known_rows
from runner.data.scaling import scale_new_rows, scale_rows, scaling_in
from runner.data.shards import Converter, digest_of, find_shards, kind_of
from runner.data.stored import blocks_to_check
from runner.data.table_outline import learnt_columns, order_by_name, read_outline
from runner.data.tables import TableOptions, is_table
from runner.data.windows import window_rows
from runner.report.printable import printable_line

Data: TypeAlias = Mapping[str, Dataset]
"""Data sets by the name of their source; all describe the same rows."""


def load_sources(given: Mapping[str, DataConfig], seed: int, graph: Graph) -> dict[str, Dataset]:
    """Load the data sets of the sources of a model file, whose graph is `graph`.

    Raises
    ------
    DataError
        If files or the choice of rows are not valid, or sources that are joined do not describe the same rows.
    """
    data = check_sources({name: _load(source, seed, source.categories) for name, source in given.items()}, graph)
    return {name: scale_rows(each, given[name].scale, data_key(name)) for name, each in data.items()}


def scale_as_learnt(data: Data, states: Mapping[str, State]) -> dict[str, Dataset]:
    """Return new rows with their columns scaled as those that a run learnt from, by the states of its sources.

    Raises
    ------
    DataError
        If they do not have the columns that were learnt from, or are too far from them.
    """
    scales = {name: scaling_in(state) for name, state in states.items()}
    return {name: scale_new_rows(each, scales.get(name), data_key(name)) for name, each in data.items()}


def data_key(name: str) -> str:
    """Return the key of a source's section in a model file."""
    return "data" if name == "data" else f"data.{name}"


def convert_sources(given: Iterable[DataConfig], converter: Converter) -> None:
    """Convert the Parquet files and pictures of the sources of a model file, if that was not done before.

    Raises
    ------
    DataError
        As :func:`runner.data.shards.find_shards` does.
    """
    for source in given:
        if source.source == "files" and source.observations is not None:
            find_shards(source.observations, Path(), source.shard_options(), converter)


def load_categories_by_module(given: Mapping[str, DataConfig], data: Data, seed: int, graph: Graph) -> dict[str, Array]:
    """Return the true categories of the rows by module, under ``""`` those of all modules.

    Parameters
    ----------
    given : mapping of str to DataConfig
    data : mapping of str to Dataset
        From :func:`load_sources`.
    seed : int
    graph : Graph
        A module whose number of rows is known only when it has learnt may have as many categories as the file holds.
    """
    categories: dict[str, Array] = {}
    rows = known_rows(graph, data)
    for source in given.values():
        if isinstance(source.categories, dict):
            labels = {
                name: _load_labels(source, seed, path, own_rows=rows.get(name) is None)
                for name, path in source.categories.items()
            }
            categories.update({name: values for name, values in labels.items() if values is not None})
    common = common_categories(data)
    return categories if common is None else {**categories, "": common}


def common_categories(data: Data) -> IntArray | None:
    """Return the categories of the rows, None if no source has any."""
    return next((each.categories for each in data.values() if each.categories is not None), None)


def common_lengths(data: Data) -> IntArray | None:
    """Return the lengths of the sequences, None if no source has any: all rows are then one sequence."""
    return next((each.lengths for each in data.values() if each.lengths is not None), None)


def count_rows(data: Data) -> int:
    """Return the number of rows."""
    return len(next(iter(data.values())).observations)


def check_sources(data: dict[str, Dataset], graph: Graph) -> dict[str, Dataset]:
    """Check that sources describe the same rows, and return all.

    If a module may have rows of its own (:mod:`runner.data.rows`), only sources that are joined by a built-in module
    must.

    Raises
    ------
    DataError
        If sources differ in the number of rows, or those of as many rows in categories or lengths.
    """
    if None not in known_rows(graph, data).values():
        return check_same_rows(data)
    for count in {len(each.observations) for each in data.values()}:
        check_same_rows({name: each for name, each in data.items() if len(each.observations) == count})
    return data


def check_same_rows(data: dict[str, Dataset]) -> dict[str, Dataset]:
    """Check that the data sets describe the same rows, and return them.

    Raises
    ------
    DataError
        If two of them differ in the number of rows, the categories or the lengths of the sequences.
    """
    (first, one), *others = data.items()
    for name, other in others:
        counts = len(one.observations), len(other.observations)
        if counts[0] != counts[1]:
            raise DataError(
                f"data.{first} has {counts[0]} rows and data.{name} {counts[1]}; "
                "row by row, they must describe the same things"
            )
    for what in ("categories", "lengths"):
        known = [(name, getattr(each, what)) for name, each in data.items() if getattr(each, what) is not None]
        for name, values in known[1:]:
            if not np.array_equal(values, known[0][1]):
                raise DataError(
                    f"the {what} of data.{known[0][0]} and data.{name} differ; "
                    "row by row, they must describe the same things"
                )
    return data


def describe_data(data: Data) -> list[str]:
    """Return one line for each source: ``data: 3,000 rows × 784 columns in 1 sequence, from x.npy``."""
    return [f"{printable_line(name)}: {each.describe()}" for name, each in data.items()]


def check_modules(graph: Graph, data: Data, *, recognizing: Collection[str] = ()) -> None:
    """Ask every module whether it can learn from the rows, of each source below it, before any process is started.

    Parameters
    ----------
    graph : Graph
    data : mapping of str to Dataset
    recognizing : collection of str
        Modules that recognise the rows with what they have learnt before.

    Raises
    ------
    ModuleError
        If one cannot, with the parameters of one of its steps.
    """
    steps: dict[str, list[Mapping[str, Any]]] = {}
    for step in graph.schedule.leaves():
        steps.setdefault(step.module, []).append(step.overrides)
    for module in graph.modules.values():
        cls = find(module.type)
        own = cls.Parameters(**module.parameters)
        check_worker_count(module, count_rows(data))
        for parameters in parameters_by_step(cls, own, steps.get(module.name, [])):
            _check_module(graph, module, parameters, data, learns=module.name not in recognizing)


def check_new_rows(graph: Graph, data: Data, states: Mapping[str, State]) -> None:
    """Ask every trained module whether it can use new rows, with the parameters that it has learnt with.

    Parameters
    ----------
    graph : Graph
    data : mapping of str to Dataset
    states : mapping of str to State
        Those of the trained modules, by name.

    Raises
    ------
    ModuleError
        If one cannot.
    """
    for module in graph.modules.values():
        cls = find(module.type)
        own = cls.Parameters(**module.parameters)
        kept = kept_in(states.get(module.name, {}), cls, own)
        _check_module(graph, module, replace(own, **kept), data, learns=False)


def _check_module(graph: Graph, module: ModuleSpec, parameters: Any, data: Data, *, learns: bool) -> None:
    """Raise an error if a module with these parameters cannot use the rows of the sources below it."""
    below = [each.lower for each in graph.connections if each.upper == module.name and each.lower in data]
    if module.type == "labels":
        _check_labels(module, data, learns=learns)
        return
    told = [name for name in below if graph.modules[name].type == "labels"]
    below = [name for name in below if name not in told]
    for name in below:
        _check_missing_values(module, parameters, data[name], name, learns=learns)
    for name in below or [""]:
        every = np.arange(count_rows(data))
        blocks = _present_rows(data[name]) if name else iter([(every, np.empty((len(every), 0)))])
        for number, (rows, values) in enumerate(blocks):
            try:  # what concerns all rows, such as their unit, is checked on the first block
                find(module.type).check_observations(parameters, values, name, learns and number == 0)
            except RowError as error:
                raise ModuleError(f"module {module.name!r}: {RowError(int(rows[error.row]), error.text)}") from None
            except ModuleError as error:
                raise ModuleError(f"module {module.name!r}: {error}") from None


def _check_labels(module: ModuleSpec, data: Data, *, learns: bool) -> None:
    """Raise an error if labels are not one number of a class for each row."""
    source = data.get(module.name)
    if source is None:
        if learns:
            raise ModuleError(
                f"module {module.name!r}: labels are a source; give {data_key(module.name)} with type: labels"
            )
        return
    if source.observations.shape[1:] != (1,):
        shape = "×".join(map(str, source.observations.shape[1:]))
        raise DataError(f"{data_key(module.name)}: has {shape} columns; labels are one column of numbers of classes")
    cls = find(module.type)
    labels = cls(cls.Parameters(**module.parameters))
    labels.load_state({**_state_of(source.observations), "mask": source.mask})
    if problem := getattr(labels, "problem", None):
        raise DataError(f"{data_key(module.name)}: {problem}")


def _check_missing_values(module: ModuleSpec, parameters: Any, source: Dataset, name: str, *, learns: bool) -> None:
    """Raise an error if values are missing in part of a row of a source, and the module above it cannot use that."""
    if source.mask is None or source.mask.ndim == 1:
        return
    if learns and len(empty := columns_without_values(source.mask)):
        raise DataError(f"{data_key(name)}: {describe_empty(empty, source.columns)}")
    of_row = source.mask.reshape(len(source.mask), -1)
    lacking = np.flatnonzero(of_row.any(axis=1) & ~of_row.all(axis=1))
    if not len(lacking):
        return
    where = f"row {lacking[0] + 1} of {data_key(name)}"
    others = f" ({len(lacking):,} rows do)" if len(lacking) > 1 else ""
    cls = find(module.type)
    if cls.missing_values and (setting := cls.whole_rows_setting(parameters)):
        raise ModuleError(f"module {module.name!r}: {where} lacks some of its values{others}, and it {setting}")
    if cls.missing_values and module.sharing is not None and not getattr(cls, "missing_values_by_workers", True):
        raise ModuleError(
            f"module {module.name!r}: {where} lacks some of its values{others}, which a module of type "
            f"{module.type!r} can use in one process only; leave workers out, or fill them in"
        )
    if not cls.missing_values:
        raise ModuleError(
            f"module {module.name!r}: {where} lacks some of its values{others}, which a module of type "
            f"{module.type!r} cannot use; fill them in, or use one that leaves them out, such as gmm, pca, vae or mlda"
        )


def _present_rows(source: Dataset) -> Iterator[tuple[IntArray, Array]]:
    """Yield those rows of a source that are not missing, and their numbers: all at once, or blocks of rows on disk."""
    stored = source.observations
    blocks = blocks_to_check(stored) if isinstance(stored, StoredRows) else iter([(0, stored)])
    for start, values in blocks:
        numbers = start + np.arange(len(values))
        if (missing := missing_rows(source.mask)) is not None:
            present = ~missing[numbers]
            numbers, values = numbers[present], values[present]
        if len(numbers):
            yield numbers, values


def source_states(graph: Graph, data: Data, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, State]:
    """Return the states of the model's sources: their data and the lengths of the sequences.

    Parameters
    ----------
    graph : Graph
    data : mapping of str to Dataset
    shapes : mapping of str to tuple of int, optional
        The shape of a row of each source. A source without data gets rows that are all missing.
    """
    lengths_of = {len(each.observations): each.lengths for each in data.values() if each.lengths is not None}
    rows = count_rows(data)
    states: dict[str, State] = {}
    for name in graph.sources:
        if name in data:
            states[name] = _state_of(data[name].observations)
            if data[name].mask is not None:
                states[name]["mask"] = data[name].mask
            if (scaling := data[name].scaling) is not None:
                states[name].update(scaling.entries())
        elif shapes is not None and name in shapes:
            missing = np.zeros((rows, *shapes[name]), np.float32)
            states[name] = {"values": missing, "mask": np.ones(rows, np.bool_)}
        lengths = lengths_of.get(len(data[name].observations) if name in data else rows)
        if lengths is not None:
            states[name]["lengths"] = np.asarray(lengths, np.int64)
    return states


def _state_of(observations: Array | StoredRows) -> State:
    if isinstance(observations, StoredRows):
        return {"stored": observations.to_text()}
    return {"values": observations}


def values_of(state: Mapping[str, Any]) -> Array | StoredRows:
    """Return the observations in the state of a source."""
    return StoredRows.from_text(state["stored"]) if "stored" in state else state["values"]


def check_stored_unchanged(states: Mapping[str, State]) -> None:
    """Raise ModuleError if a file of rows on disk, in the states of sources, is not as it was when the run began."""
    for state in states.values():
        if isinstance(values := values_of(state), StoredRows):
            values.check_unchanged()


def check_same_conversions(states: Mapping[str, State], given: Mapping[str, DataConfig]) -> None:
    """Check that files which were converted for a run, with these states of its sources, are as they were.

    Raises
    ------
    ModuleError
        If some were added, removed or changed.
    """
    for name, state in states.items():
        began, source = values_of(state), given[name]
        if isinstance(began, StoredRows) and source.observations is not None:
            digest = digest_of(source.observations, Path(), source.shard_options())
            if digest and Path(began.files[0].location).parts[-2] != digest:
                raise _other_files(name)


def check_same_files(states: Mapping[str, State], data: Data) -> None:
    """Check that the rows on disk of a run, in the states of its sources, are those that its model file names now.

    Raises
    ------
    ModuleError
        If files were added, removed or changed; of what was converted, the shards are compared.
    """
    for name, state in states.items():
        if isinstance(began := values_of(state), StoredRows):
            now = data[name].observations
            if not isinstance(now, StoredRows) or _identity(began) != _identity(now):
                raise _other_files(name)


def _other_files(name: str) -> ModuleError:
    return ModuleError(
        f"{data_key(name)}.observations: are not the files that the run began with, some were added, removed or "
        "changed; put them back as they were, or start another run"
    )


def _identity(rows: StoredRows) -> object:
    """Return what tells rows on disk apart, wherever the cache is."""
    files = [(Path(file.location).parts[-2:], file.rows, file.size, file.version) for file in rows.files]
    return files, rows.stored, rows.row_shape, rows.divide_by, rows.start, rows.stop, rows.center, rows.width


def load_new_rows(
    sources: Iterable[str],
    given: Sequence[str],
    *,
    categories: Path | None = None,
    lengths: Path | None = None,
    count: int | None = None,
    offset: int = 0,
    ordered: bool = True,
    header: bool | None = None,
    index: bool | None = None,
    graph: Graph | None = None,
    converter: Converter | None = None,
) -> dict[str, Dataset]:
    """Load rows of files or of built-in data sets, for a trained run.

    Parameters
    ----------
    sources : iterable of str or mapping of str to DataConfig
        Names of the run's sources; their sections say how files are read (``index``, ``divide_by``, …).
    given : sequence of str
        ``name=data`` for each source, or ``data`` for a single one: the path of a file or the name of a data set, which
        may end in ``:1,2``, the people whose sequences are meant. A source that is not named has no data.
    categories : Path, optional
        Labels of the rows of a file.
    lengths : Path, optional
        Lengths of the sequences: of the whole file of rows, which `offset` and `count` shorten, or of the rows taken
        from a built-in data set. Without them, all rows are one sequence.
    count, offset : int
        As in :func:`runner.data.datasets.load`.
    ordered : bool
        Whether the rows are a sequence, in temporal order.
    header, index : bool, optional
        As in :func:`runner.data.datasets.load`; by default as for the rows that were learnt from.
    graph : Graph, optional
        The run's; by default all sources are taken to be joined.
    converter : Converter, optional
        Where Parquet files and pictures are converted, and who is told.

    Raises
    ------
    DataError
        If files or the choice of rows are not valid, a source is missing or named twice, or the sources do not describe
        the same rows.
    """
    chosen = _name_sources(sources, given)
    built_in = [origin for origin in chosen.values() if _is_data_set(origin)]
    if categories is not None and len(built_in) == len(chosen):
        raise DataError(f"--categories goes with a data file; {built_in[0]} has its own")
    if lengths is not None and not ordered:
        raise DataError("--lengths goes with sequences, --unordered with rows that form none; leave out one of them")
    data: dict[str, Dataset] = {}
    for name, origin in chosen.items():
        if origin in built_in:
            loaded = _load_data_set(origin, sources, name, count=count, offset=offset, ordered=ordered)
            if lengths is not None:
                loaded = replace(loaded, lengths=datasets.load_lengths(lengths, len(loaded.observations)))
            data[name] = loaded
        else:
            learnt = sources.get(name) if isinstance(sources, Mapping) else None
            reading = _reading(learnt, origin, header=header, index=index)
            if lengths is not None:
                reading["table"] = _without_sequences(reading["table"])
            reading["table"], said = _by_name(learnt, origin, reading["table"])
            loaded = datasets.load(
                "files",
                observations=origin,
                categories=categories,
                lengths=lengths,
                count=count,
                offset=offset,
                converter=converter,
                **reading,
            )
            data[name] = replace(loaded, notes=(*loaded.notes, *said))
    data = _windows_of(data, sources)
    return check_same_rows(data) if graph is None else check_sources(data, graph)


def _name_sources(sources: Iterable[str], given: Sequence[str]) -> dict[str, str]:
    """Return what is given for each source by its name, from texts ``name=data``, or ``data`` for the only source."""
    names = list(sources)
    chosen: dict[str, str] = {}
    for text in given:
        name, equals, origin = text.partition("=")
        if not (equals and name in names):
            if equals and "/" not in name and not Path(text).exists():
                raise DataError(
                    f"{printable_line(text, 80)}: the run has no source {printable_line(name, 60)}; its sources are "
                    f"{', '.join(names)}"
                )
            observed = _observed(names, sources)
            name, origin = observed[0], text
            if len(observed) != 1:
                raise DataError(f"{text!r}: this run has the sources {', '.join(names)}; name one, as in {name}={text}")
        if name in chosen:
            raise DataError(f"source {name} is given twice, as {chosen[name]!r} and {origin!r}; leave one out")
        chosen[name] = origin
    return chosen


def _windows_of(data: dict[str, Dataset], sources: Any) -> dict[str, Dataset]:
    """Return a row for each window of the rows of sources that are of windows; names alone do not say it."""
    if not isinstance(sources, Mapping):
        return data
    return {name: with_windows(sources[name], each, data_key(name)) for name, each in data.items()}


def _is_data_set(origin: str) -> bool:
    """Return whether data are named that are no files: a data set, of some people perhaps."""
    name, colon, subjects = origin.partition(":")
    named = name in datasets.SOURCES and name != "files"
    return named and (not colon or (name in PACKAGED and re.fullmatch(r"[0-9]+(,[0-9]+)*", subjects) is not None))


def _load_data_set(origin: str, sources: Any, source: str, *, count: int | None, offset: int, ordered: bool) -> Dataset:
    """Return the rows of a data set that is no file; those of sequences are in their order."""
    name, colon, subjects = origin.partition(":")
    learnt = sources.get(source) if isinstance(sources, Mapping) else None
    location = None  # where the model file says that the files of these data, or of their other part, lie
    if name in LOCATED and learnt is not None and learnt.source.removesuffix("_test") == name.removesuffix("_test"):
        location = learnt.observations
    order = "given" if name in IN_SEQUENCES else ("cyclic" if ordered else "shuffled")
    return datasets.load(
        name,
        count=count,
        offset=offset,
        order=order,
        observations=location,
        subjects=[int(each) for each in subjects.split(",")] if colon else None,
    )


def _load_labels(source: DataConfig, seed: int, path: Path, *, own_rows: bool) -> IntArray | None:
    """Load the categories of one module, which may have rows of its own."""
    try:
        return _load(source, seed, path).categories
    except DataError:
        if not own_rows:
            raise
        return datasets.load_categories(path)


def _observed(names: Sequence[str], sources: Any) -> list[str]:
    """Return the sources that do not hold labels, or all."""
    told = sources if isinstance(sources, Mapping) else {}
    return [name for name in names if name not in told or not told[name].labels] or list(names)


def _reading(learnt: DataConfig | None, origin: str, *, header: bool | None, index: bool | None) -> dict[str, Any]:
    """Return how a file is read: as the file that was learnt from, unless its options or its name say otherwise."""
    table = TableOptions(header, index)
    if learnt is not None and origin.lower().endswith(".mat"):
        table = replace(table, variable=learnt.variable)
    if learnt is not None and is_table(Path(origin)):
        header = learnt.header if header is None else header
        index = learnt.index if index is None else index
        table = replace(learnt.table_options(), header=header, index=index, new=True)
    shape: dict[str, Any] = {}
    if learnt is not None:
        told = bool((learnt.frames or learnt).sequences)
        shape |= {"divide_by": learnt.divide_by, "sequences": told and not is_table(Path(origin))}
        shape |= {"waves": learnt.wave_options(), "bags": learnt.bag_options()}
    if learnt is not None and learnt.on_disk and origin.lower().endswith(".npy"):
        shape["on_disk"] = True
    if learnt is not None and (kind := kind_of(origin, Path())):
        shape["shards"] = learnt.shard_options(kind)
    return {"table": table, **shape}


def _by_name(learnt: DataConfig | None, origin: str, table: TableOptions) -> tuple[TableOptions, list[str]]:
    """Return how a table is read whose columns are in another order than those learnt from, and a note on that."""
    given = read_outline(Path(origin)) if table.header is not False and table.columns is None else None
    if learnt is None or given is None:
        return table, []
    columns = order_by_name(given.names, names_learnt(learnt, given.names), origin)
    if not columns:
        gone = learnt.frames is None and _is_table_path(path := learnt.observations) and not Path(path).exists()
        return table, [f"columns are taken by their places, as {path} is not there to compare names"] if gone else []
    shown = ", ".join(printable_line(name, 40) for name in columns[:MAX_LISTED_NAMES])
    more = ", …" * (len(columns) > MAX_LISTED_NAMES)
    return replace(table, columns=columns, exclude=()), [f"columns are taken by their names: {shown}{more}"]


def _is_table_path(given: Any) -> TypeGuard[str | Path]:
    return isinstance(given, str | Path) and is_table(Path(given))


def names_learnt(learnt: DataConfig, given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns that a source has learnt from, empty if they are unknown, or those `given`."""
    if learnt.frames is not None:
        return tuple(str(name) for name in learnt.frames.columns or ())
    path = learnt.observations
    if not _is_table_path(path):
        return ()
    outline = read_outline(Path(path))
    if outline is None or outline.names == tuple(given):
        return ()
    return learnt_columns(Path(path), learnt.table_options())


def _without_sequences(table: TableOptions) -> TableOptions:
    """Return options by which the column of sequences is left out, as the lengths are given beside the table."""
    if table.sequence_column is None or table.columns is not None:
        return replace(table, sequence_column=None)
    return replace(table, sequence_column=None, exclude=(*table.exclude, table.sequence_column))


def _load(source: DataConfig, seed: int, categories: Any) -> Dataset:
    loaded = datasets.load(
        source.source,
        seed=seed,
        count=source.count,
        offset=source.offset,
        order=source.order,
        observations=source.observations,
        categories=categories if isinstance(categories, Path) else None,
        lengths=source.lengths,
        table=source.table_options(),
        divide_by=source.divide_by,
        sequences=bool(source.sequences),
        on_disk=source.on_disk,
        waves=source.wave_options(),
        bags=source.bag_options(),
        shards=source.shard_options(),
        subjects=source.subjects,
    )
    return with_windows(source, loaded, "data")


def with_windows(source: DataConfig, data: Dataset, where: str) -> Dataset:
    """Return a row for each window of rows, where a source is of windows.

    Raises
    ------
    DataError
        As :func:`runner.data.windows.window_rows` does.
    """
    return data if source.windows is None else window_rows(data, source.windows.to_model(), where)
