"""Messages made up for a module under test: valid for the kind of its port, and otherwise without meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from actors.messaging.kinds import ArraySpec, Kind
from actors.types import Array, BoolArray

Size: TypeAlias = int | tuple[int, ...]
Sizes: TypeAlias = Mapping[str, Size]
"""By letter of a dimension; that of ``...`` may be a tuple."""
Arrays: TypeAlias = dict[str, Array]
Letters: TypeAlias = dict[str, Arrays]
"""The arrays of one message a port."""

SIZES: dict[str, Size] = {"K": 4, "D": 3, "...": 5}
OTHER_SIZE = 3
"""Of a letter of which nothing else is known."""


def make_arrays(kind: Kind, sizes: Sizes, generator: np.random.Generator) -> Arrays:
    """Return the arrays that a message of `kind` cannot do without.

    Parameters
    ----------
    kind : Kind
    sizes : mapping of str to int or tuple of int
        ``N``, the rows, among them; a letter that is missing has :data:`OTHER_SIZE`.
    generator : numpy.random.Generator

    Returns
    -------
    dict of str to ndarray
        ``real`` float32, uniform in [0, 1]; the rest float64: rows of distributions drawn from a flat Dirichlet,
        ``log`` normal, ``counts`` from a Poisson distribution.
    """
    return {spec.name: _drawn(spec, shape_of(spec, sizes), generator) for spec in kind.arrays if not spec.optional}


def shape_of(spec: ArraySpec, sizes: Sizes) -> tuple[int, ...]:
    """Return the shape of an array of these sizes."""
    given = [sizes.get(letter, OTHER_SIZE) for letter in spec.dims]
    return tuple(length for size in given for length in ((size,) if isinstance(size, int) else size))


def sizes_in(kind: Kind, arrays: Mapping[str, Array]) -> dict[str, Size]:
    """Return the sizes that a message has, by letter."""
    found: dict[str, Size] = {}
    for spec in kind.arrays:
        if spec.name not in arrays:
            continue
        shape = np.shape(arrays[spec.name])
        for place, letter in enumerate(spec.dims):
            found[letter] = tuple(shape[place:]) if letter == "..." else shape[place]
    return found


def one_more(size: Size) -> Size:
    """Return the next larger size."""
    if isinstance(size, int):
        return size + 1
    return (size[0] + 1, *size[1:]) if size else (2,)


def of_rows(kind: Kind, arrays: Arrays, **extra: Array | None) -> Arrays:
    """Return the message with ``lengths`` or ``mask`` beside its arrays, where its kind has them."""
    return {**arrays, **{name: array for name, array in extra.items() if array is not None and kind.spec(name)}}


def refilled(kind: Kind, arrays: Arrays, mask: BoolArray, generator: np.random.Generator) -> Arrays:
    """Return the message with other values, and far larger ones, in the rows that are masked."""
    filled = dict(arrays)
    for spec in kind.arrays:
        if spec.name not in arrays or spec.dims[0] != "N" or spec.semantics in ("lengths", "mask"):
            continue
        array = filled[spec.name] = np.array(arrays[spec.name])
        shape = array[mask].shape
        if spec.semantics in ("real", "log"):
            array[mask] = 30.0 * generator.normal(size=shape)
        else:
            array[mask] = _drawn(spec, shape, generator)
    return filled


def split(rows: int, parts: int = 3) -> Array:
    """Return lengths of `parts` sequences (or as many as there are rows) that have `rows` rows together."""
    return np.array([len(part) for part in np.array_split(np.arange(rows), min(parts, rows))], dtype=np.int64)


def _drawn(spec: ArraySpec, shape: Sequence[int], generator: np.random.Generator) -> Array:
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
