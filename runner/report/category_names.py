"""Categories that keep the texts for which their numbers stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from actors.types import Array


class NamedCategories(np.ndarray[Any, np.dtype[np.int64]]):
    """Categories of rows, int64, with the names of the numbers 0, 1, …; arrays taken from them keep the names.

    Attributes
    ----------
    names : tuple of str
    """

    names: tuple[str, ...] = ()

    def __new__(cls, numbers: Array, names: Sequence[str]) -> Self:
        """Return a view of int64 numbers that knows their names."""
        named = np.asarray(numbers, dtype=np.int64).view(cls)
        named.names = tuple(names)
        return named

    def __array_finalize__(self, taken_from: object) -> None:
        self.names = getattr(taken_from, "names", ())

    def texts(self) -> Array:
        """Return the name of each row's category."""
        return np.array(self.names)[np.asarray(self)]


def storable(categories: Array) -> Array:
    """Return categories as they are stored, as texts if they have names, so that these are read again."""
    return categories.texts() if isinstance(categories, NamedCategories) and categories.names else categories


def category_name(categories: object, category: int) -> str:
    """Return the name of a category, its number where categories have no names."""
    names: tuple[str, ...] = getattr(categories, "names", ())
    return names[category] if 0 <= category < len(names) else str(category)
