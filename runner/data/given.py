"""Rows that Python gives to a model, and what is known of them: as data sets, and as files of a run's directory.

The rows that a model learns from are written beside its run, and its config names these files. So the run can be
resumed, repeated and reported by the command line like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from actors.types import Array
from runner.config.cross_checks import DATA
from runner.config.error_messages import describe_errors, get_fields
from runner.config.sections import DataConfig
from runner.data.conversion import choose_columns, time_columns
from runner.data.datasets import Dataset
from runner.data.errors import DataError
from runner.data.intake import Rows, check_categories, check_lengths, check_observations
from runner.data.scaling import OTHERS
from runner.data.sources import check_sources, data_key, load_new_rows, names_learnt, with_windows
from runner.data.table_outline import order_by_name
from runner.data.tables import TableOptions, column_places, sequence_lengths
from runner.report.category_names import storable
from runner.report.printable import brief

if TYPE_CHECKING:
    from runner.config.run_config import RunConfig

FOLDER = "data"
"""The folder of a run's directory with the rows that a script gave."""

_OF_ROWS = frozenset({"source", "count", "offset", "order", "subjects", "observations", "categories", "lengths"})
"""Keys of a source that say which rows it has; other rows have none of them."""

_OF_FRAMES = ("columns", "exclude", "sequence_column", "category_column", "sequences")
"""Keys of a source that choose columns of a table or of data frames, and say what the axes of an array are."""

MAX_NAMED_COLUMNS = 1_000
"""Columns of data frames whose names are kept, by which new frames are read."""

_OF_FILES = frozenset(
    {*_OF_FRAMES, "variable", "sound", "ros", "header", "index", "image_size", "grey", "on_disk", "cache"}
)
"""Keys of a source that say how a file is read."""


@dataclass(frozen=True)
class Given:
    """What a user gives to learn from: rows, lengths of sequences and categories, each of one source or by name."""

    rows: Any
    lengths: Any = None
    categories: Any = None


def store_rows(config: RunConfig, given: Given, directory: Path) -> RunConfig:
    """Write the given rows below a run's directory, and return the config that names the files.

    Parameters
    ----------
    config : RunConfig
        Its sources say how rows are prepared.
    given : Given
    directory : Path

    Raises
    ------
    DataError
        If the rows, the lengths or the categories cannot be used.
    """
    folder = directory / FOLDER
    folder.mkdir()
    rows = _by_source(given.rows, config, "X")
    if missing := [name for name in config.sources if name not in rows]:
        raise DataError(f"X: has no rows of {missing[0]!r}; the observations are {', '.join(config.sources)}")
    lengths = _lengths_by_source(given.lengths, rows)
    sections = {name: _store_source(folder, name, config.sources[name], rows[name], lengths.get(name)) for name in rows}
    if given.categories is not None:
        first = next(iter(sections))
        file = folder / f"{first}.npy"
        count = len(np.load(file, mmap_mode="r")) if file.exists() else None
        sections[first] = _changed(sections[first], categories=_store_categories(folder, given, config, count))
    data: Any = sections if isinstance(config.data, dict) else next(iter(sections.values()))
    return config.model_copy(update={"data": data})


def rows_and_labels(config: RunConfig, rows: Any, labels: Any, source: str) -> dict[str, Any]:
    """Return rows by source, those of the source of labels among them.

    Raises
    ------
    DataError
        If there are no rows, or labels are not one number for each row.
    """
    if rows is None:
        raise DataError("labels: go with rows; give X, too, or name both in the model file")
    where, joined = "labels", _joined(labels)
    checked = check_observations(joined, where) if len(_shape_of(joined)) == 1 else None
    if checked is None:
        raise DataError(f"{where}: have the shape {_shape_of(joined)}; give one for each row, -1 or None where unknown")
    return {**_by_source(rows, config, "X"), source: _with_gaps(checked)}


def _shape_of(given: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(given))
    except ValueError:  # lists of different lengths
        return ()


def read_rows(config: RunConfig, rows: Any, lengths: Any) -> dict[str, Dataset]:
    """Return new rows for a trained model, by source; they are prepared as those that it learnt from.

    Raises
    ------
    DataError
        If the rows or the lengths cannot be used.
    """
    given = _by_source(rows, config, "X")
    spans = _lengths_by_source(lengths, given)
    data = {name: _read_source(config.sources[name], name, each, spans.get(name)) for name, each in given.items()}
    return check_sources(data, config.graph)


def _by_source(given: Any, config: RunConfig, what: str) -> dict[str, Any]:
    """Return rows by the name of their source."""
    names = list(config.sources)
    if not isinstance(given, Mapping) or hasattr(given, "to_numpy"):
        observed = [name for name in names if not config.sources[name].labels]
        if len(observed) != 1:
            raise DataError(
                f"{what}: this model has the observations {', '.join(names)}; give a map from their names to rows"
            )
        return {observed[0]: given}
    unknown = [name for name in given if name not in names]
    if unknown or not given:
        hint = f" (of columns by name, give pandas.DataFrame({what}))" if len(names) == 1 else ""
        raise DataError(
            f"{what}: has rows of {', '.join(map(brief, unknown)) or 'nothing'}; the observations are "
            f"{', '.join(names)}{hint}"
        )
    return dict(given)


def _lengths_by_source(given: Any, rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return lengths by the name of their source; one array is that of the first, which others must match."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or hasattr(given, "to_numpy"):
        return {next(iter(rows)): given}
    if odd := [name for name in given if name not in rows]:
        raise DataError(f"lengths: are given of {brief(odd[0])}, of which there are no rows")
    return {name: each for name, each in given.items() if each is not None}


def _is_file(given: Any) -> bool:
    return isinstance(given, str | Path)


def _are_sequences(given: Any) -> bool:
    """Return whether rows are a list of arrays, tensors or frames that each have rows of their own."""
    return isinstance(given, list | tuple) and bool(given) and all(getattr(part, "ndim", 0) >= 2 for part in given)


def ambiguous_axes(config: RunConfig, given: Given) -> str:
    """Return what is taken for rows, where an array of three axes may be meant as sequences; empty if none is given.

    Nothing is said of pictures whose pixels are divided, nor where a model says what the first axis is.
    """
    rows = given.rows if isinstance(given.rows, Mapping) else dict.fromkeys(config.sources, given.rows)
    for name, each in rows.items():
        section = config.sources.get(name)
        if section is None or section.sequences is not None or section.divide_by is not None:
            continue
        shape = tuple(getattr(each, "shape", ()))
        if len(shape) == 3 and given.lengths is None and shape[1] != shape[2]:
            what = "{'sequences': True}" if name == DATA else f"{{{name!r}: {{'sequences': True}}}}"
            where, (first, second, third) = "X" if name == DATA else f"X, {name}", shape
            return (
                f"{where}: {first} × {second} × {third} numbers are taken as {first} rows of {second}×{third}; for "
                f"{first} sequences of {second} rows, give the model data={what}, else {what.replace('True', 'False')}"
            )
    return ""


def _check_rows(section: DataConfig, name: str, given: Any, *, prepared: bool) -> Rows:
    """Return checked rows of an array; `prepared` as their source says, such as divided by a number."""
    where = "X" if name == DATA else f"X, {name}"
    if type(given).__name__.endswith("GroupBy"):
        raise DataError(
            f"{where}: is of type {type(given).__name__}; give [part for _, part in X], a list of sequences"
        )
    told = bool((section.frames or section).sequences)
    sequences = _are_sequences(given) or (told and not (prepared and getattr(given, "ndim", 0) == 2))
    options = replace(section.frame_options(), new=prepared)
    parts = list(given) if isinstance(given, list | tuple) else [given]
    if section.frames is not None and all(map(_is_frame, parts)):
        options = _fitting(options, [str(name) for part in parts for name in part.columns])
    if prepared and section.frames is None and not options.columns and parts and all(map(_is_frame, parts)):
        named = [str(name) for name in parts[0].columns]
        if by_name := order_by_name(named, names_learnt(section, named), where):
            options = replace(options, columns=by_name, exclude=())
    times = time_columns(parts, options) if parts and all(map(_is_frame, parts)) else []
    options = replace(options, exclude=(*options.exclude, *times))
    if not options.choose or not all(map(_is_frame, parts)):
        if options.choose and section.frames is None and not prepared:
            raise DataError(f"{where}: has no columns with names, and columns are chosen; give a data frame")
        return check_observations(given, where, sequences=sequences, divide_by=section.divide_by if prepared else None)
    chosen = [choose_columns(part, options, where) for part in parts]
    frames = [frame for frame, _, _ in chosen]
    rows = check_observations(
        frames if sequences else frames[0],
        where,
        sequences=sequences,
        divide_by=section.divide_by if prepared else None,
    )
    names, labels = chosen[0][1], [own for _, _, own in chosen if own is not None]
    if names is not None and not sequences:
        rows = replace(rows, lengths=sequence_lengths(names, where, lambda row: f"row {row + 1}"))
    said = f"{', '.join(map(repr, times))}, a time, is left out (data={{'columns': […]}} to use it)"
    notes = (*rows.notes, said) if times else rows.notes
    return replace(rows, categories=np.concatenate(labels) if labels else None, notes=notes)


def _fitting(options: TableOptions, names: list[str]) -> TableOptions:
    """Return the options for frames; of those with other names for all columns, every column is used."""
    known = options.columns is None or any(str(name) in names for name in options.columns)
    return options if known else replace(options, columns=None)


def _is_frame(given: Any) -> bool:
    return hasattr(given, "columns") and hasattr(given, "to_numpy")


def _find_lengths(rows: Rows, lengths: Any) -> Array | None:
    """Return the lengths of the sequences of rows, given beside them or as the lengths of a list of arrays."""
    if lengths is None:
        return rows.lengths
    if rows.lengths is not None:
        raise DataError("lengths: the sequences of a list have their own; leave out lengths")
    return check_lengths(lengths, "lengths", len(rows.values))


# --- rows to learn from -------------------------------------------------------------------------------------------


def _store_source(folder: Path, name: str, section: DataConfig, given: Any, lengths: Any) -> DataConfig:
    """Write the rows of one source; return its section, which names the files."""
    kept = {key: value for key, value in section.model_dump().items() if value is not None and key not in _OF_ROWS}
    if _is_file(given):
        observations: Any = str(given)
        spans = None if lengths is None else check_lengths(lengths, "lengths", _total(lengths))
    else:
        rows = _check_rows(section, name, given, prepared=False)
        kept = {key: value for key, value in kept.items() if key not in _OF_FILES}
        observations, spans = str(folder / f"{name}.npy"), _find_lengths(rows, lengths)
        own = {key: getattr(section.frames or section, key) for key in _OF_FRAMES}
        parts = list(given) if isinstance(given, list | tuple) else [given]
        if all(map(_is_frame, parts)) and 0 < len(rows.columns) <= MAX_NAMED_COLUMNS:
            own |= {"columns": list(rows.columns), "exclude": None}  # new frames have them in any order, among others
        if any(value is not None for value in own.values()):
            kept["frames"] = {key: value for key, value in own.items() if value is not None}
        if rows.categories is not None:
            labels = check_categories(rows.categories, "X", rows=len(rows.values))[0]
            kept["categories"] = str(_save(folder / f"{name}.categories.npy", storable(labels)))
        kept |= {"scale": _numbered(section, rows)} if isinstance(section.scale, dict) else {}
        np.save(observations, _with_gaps(rows), allow_pickle=False)
    plain = {**kept, "source": "files", "observations": observations}
    if spans is not None:
        plain["lengths"] = str(_save(folder / f"{name}.lengths.npy", spans))
    try:
        return DataConfig.model_validate(plain)
    except ValidationError as error:  # the model file says how another kind of file is read
        place, text = describe_errors(error, get_fields(DataConfig), plain)[0]
        raise DataError(f"X, {'.'.join(map(str, (data_key(name), *place)))}: {text}") from error


def _numbered(section: DataConfig, rows: Rows) -> dict[str | int, str]:
    """Return the kinds of scaling by the numbers of columns, as the file that is written has no names."""
    scale: dict[str | int, str] = dict(section.scale) if isinstance(section.scale, dict) else {}
    others: dict[str | int, str] = {OTHERS: scale.pop(OTHERS)} if OTHERS in scale else {}
    columns = int(np.prod(rows.values.shape[1:]))
    places = column_places(scale, rows.columns, columns, "X: scale")
    return others | {place + 1: scale[column] for place, column in places.items()}


def _total(lengths: Any) -> int:
    """Return the sum of lengths, whose rows are counted later; 0 if they are no numbers."""
    try:
        return int(np.sum(np.asarray(lengths)))
    except (TypeError, ValueError, OverflowError):
        return 0


def _with_gaps(rows: Rows) -> Array:
    """Return the values of rows with NaN where they are missing, row after row in memory."""
    values = np.ascontiguousarray(rows.values)
    if rows.mask is None:
        return values
    mask = rows.mask.reshape(rows.mask.shape + (1,) * (values.ndim - rows.mask.ndim))
    return np.where(mask, values.dtype.type(np.nan), values)


def _store_categories(folder: Path, given: Given, config: RunConfig, rows: int | None) -> Any:
    """Write categories, of all rows or by module; return the file or the files by module."""
    labels = given.categories
    if not isinstance(labels, Mapping) or hasattr(labels, "to_numpy"):
        if _is_file(labels):
            return str(labels)
        return str(
            _save(folder / "categories.npy", storable(check_categories(_joined(labels), "categories", rows=rows)[0]))
        )
    if odd := [name for name in labels if name not in config.modules]:
        raise DataError(
            f"categories: are given of {brief(odd[0])}, which is no module; there are {', '.join(config.modules)}"
        )
    checked = {name: check_categories(_joined(own), f"categories, {name}")[0] for name, own in labels.items()}
    return {name: str(_save(folder / f"categories.{name}.npy", storable(labels))) for name, labels in checked.items()}


def _joined(labels: Any) -> Any:
    """Return categories that are given as a list, one array for each sequence, as one array."""
    parts = labels if isinstance(labels, list | tuple) else []
    if not parts or not all(getattr(part, "ndim", 0) == 1 for part in parts):
        return labels
    return np.concatenate([part.to_numpy() if hasattr(part, "to_numpy") else np.asarray(part) for part in parts])


def _save(path: Path, values: Array) -> Path:
    np.save(path, values, allow_pickle=False)
    return path


def _changed(section: DataConfig, **changes: Any) -> DataConfig:
    plain = {key: value for key, value in section.model_dump(mode="json").items() if value is not None}
    return DataConfig.model_validate({**plain, **changes})


# --- new rows -----------------------------------------------------------------------------------------------------


def _read_source(section: DataConfig, name: str, given: Any, lengths: Any) -> Dataset:
    if _is_file(given):
        whole = section.model_copy(update={"windows": None})  # lengths are those of rows
        (loaded,) = load_new_rows({name: whole}, [str(given)]).values()
        loaded = loaded if lengths is None else _with_lengths(loaded, lengths)
        return with_windows(section, loaded, name)
    rows = _check_rows(section, name, given, prepared=True)
    if lengths is not None:
        rows = replace(rows, lengths=None if not _are_sequences(given) else rows.lengths)
    spans = _find_lengths(rows, lengths)
    data = Dataset(rows.values, None, spans, "Python", rows.mask, rows.notes, rows.columns)
    return with_windows(section, data, name)


def _with_lengths(data: Dataset, lengths: Any) -> Dataset:
    return replace(data, lengths=check_lengths(lengths, "lengths", len(data.observations)))
