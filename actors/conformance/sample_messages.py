"""Sample messages for a module under test: valid for the kinds of its ports, with random values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from actors.messaging.kinds import ArraySpec, Kind
from actors.types import Array, BoolArray

Size: TypeAlias = int | tuple[int, ...]
Sizes: TypeAlias = Mapping[str, Size]
"""Size of each dimension letter; that of ``...`` may be a tuple."""
Arrays: TypeAlias = dict[str, Array]
PortMessages: TypeAlias = dict[str, Arrays]
"""The arrays of one message for each port."""

DEFAULT_SIZES: dict[str, Size] = {"K": 4, "D": 3, "...": 5}
FALLBACK_SIZE = 3
"""Size of a dimension letter that has no other size."""


def make_arrays(kind: Kind, sizes: Sizes, generator: np.random.Generator) -> Arrays:
    """Return random values for the required arrays of a message kind.

    Parameters
    ----------
    kind : Kind
    sizes : mapping of str to int or tuple of int
        Size of each dimension letter, including ``N``, the number of rows; a letter that is missing has
        :data:`FALLBACK_SIZE`.
    generator : numpy.random.Generator

    Returns
    -------
    dict of str to ndarray
        ``real``: float32, uniform in [0, 1). All others are float64: ``distribution`` and ``log_distribution`` from a
        flat Dirichlet distribution, ``log`` from a standard normal, ``counts`` from a Poisson distribution of mean 2.
    """
    specs = [spec for spec in kind.arrays if not spec.optional]
    return {spec.name: _draw_array(spec, get_shape(spec, sizes), generator) for spec in specs}


def get_shape(spec: ArraySpec, sizes: Sizes) -> tuple[int, ...]:
    """Return the shape of an array for given sizes of its dimension letters."""
    given = [sizes.get(letter, FALLBACK_SIZE) for letter in spec.dims]
    return tuple(length for size in given for length in ((size,) if isinstance(size, int) else size))


def get_sizes(kind: Kind, arrays: Mapping[str, Array]) -> dict[str, Size]:
    """Return the sizes of the dimension letters in a message."""
    sizes: dict[str, Size] = {}
    for spec in kind.arrays:
        if spec.name not in arrays:
            continue
        shape = np.shape(arrays[spec.name])
        for axis, letter in enumerate(spec.dims):
            sizes[letter] = tuple(shape[axis:]) if letter == "..." else shape[axis]
    return sizes


def increment_size(size: Size) -> Size:
    """Return the next larger size; of several dimensions, enlarge the first."""
    if isinstance(size, int):
        return size + 1
    return (size[0] + 1, *size[1:]) if size else (2,)


def add_row_arrays(kind: Kind, arrays: Arrays, **extra: Array | None) -> Arrays:
    """Return the arrays of a message with ``lengths`` or ``mask`` added, where its kind has them."""
    return {**arrays, **{name: array for name, array in extra.items() if array is not None and kind.spec(name)}}


def replace_masked_rows(kind: Kind, arrays: Arrays, mask: BoolArray, generator: np.random.Generator) -> Arrays:
    """Return the arrays of a message with other, much larger values in the masked rows."""
    replaced = dict(arrays)
    for spec in kind.arrays:
        if spec.name not in arrays or spec.dims[0] != "N" or spec.semantics in ("lengths", "mask"):
            continue
        array = replaced[spec.name] = np.array(arrays[spec.name])
        shape = array[mask].shape
        if spec.semantics in ("real", "log"):
            array[mask] = 30.0 * generator.normal(size=shape)
        else:
            array[mask] = _draw_array(spec, shape, generator)
    return replaced


def make_lengths(rows: int, sequences: int = 3) -> Array:
    """Return lengths of `sequences` sequences (at most one for each row) that sum to `rows`, int64."""
    parts = np.array_split(np.arange(rows), min(sequences, rows))
    return np.array([len(part) for part in parts], dtype=np.int64)


def _draw_array(spec: ArraySpec, shape: Sequence[int], generator: np.random.Generator) -> Array:
    if spec.semantics == "log":
        return generator.normal(size=shape)
    if spec.semantics in ("distribution", "log_distribution"):
        rows = generator.dirichlet(np.ones(shape[-1]), size=tuple(shape[:-1]))
        return np.log(rows) if spec.semantics == "log_distribution" else rows
    if str(spec.semantics) == "counts":
        return generator.poisson(2.0, shape).astype(np.float64)
    if spec.semantics == "mask":
        return np.zeros(shape, dtype=np.bool_)
    if spec.semantics == "lengths":
        return np.ones(shape, dtype=np.int64)
    return generator.random(tuple(shape), dtype=np.float32)
