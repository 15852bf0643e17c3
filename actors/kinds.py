"""What can be said: the message kinds, and what their arrays must hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Semantics = Literal["real", "log", "log_distribution", "distribution", "lengths", "mask"]


@dataclass(frozen=True)
class ArraySpec:
    """What one array of a message kind must look like.

    Parameters
    ----------
    name : str
    dims : tuple of str
        A letter a dimension, equal letters being equal sizes within the message; ``...`` stands for any further ones.
    semantics : str
        ``real`` and ``log`` are finite; rows of ``log_distribution`` and ``distribution`` sum to one;
        ``lengths`` are positive and add up to N; ``mask`` is true where a row is missing.
    optional : bool
    """

    name: str
    dims: tuple[str, ...]
    semantics: Semantics = "real"
    optional: bool = False

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Dtypes that this array may have, as numpy's little-endian codes."""
        return {"lengths": ("<i8",), "mask": ("|b1",)}.get(self.semantics, ("<f4", "<f8"))


@dataclass(frozen=True)
class Kind:
    """A kind of message: its name and its arrays. ``multiplies``: several senders on one port multiply."""

    name: str
    arrays: tuple[ArraySpec, ...]
    multiplies: bool = False

    def spec(self, name: str) -> ArraySpec | None:
        """Return the spec of the array called `name`, or None."""
        return next((spec for spec in self.arrays if spec.name == name), None)


# Lengths of sequences and the mask of missing rows may accompany the rows of any kind.
_ROWS = (ArraySpec("lengths", ("S",), "lengths", True), ArraySpec("mask", ("N",), "mask", True))

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("observations", (ArraySpec("values", ("N", "...")), *_ROWS)),
        Kind(
            "latent_vectors", (ArraySpec("mean", ("N", "D")), ArraySpec("variance", ("N", "D"), optional=True), *_ROWS)
        ),
        Kind(
            "class_posteriors",
            (ArraySpec("log_prob", ("N", "K"), "log_distribution"), ArraySpec("log_norm", ("N",), "log"), *_ROWS),
            multiplies=True,
        ),
        Kind(
            "class_means",
            (ArraySpec("means", ("K", "D")), ArraySpec("responsibilities", ("N", "K"), "distribution"), *_ROWS),
        ),
        Kind("latent_means", (ArraySpec("mean", ("N", "D")), *_ROWS)),
        Kind("transition_prior", (ArraySpec("log_prob", ("N", "K"), "log_distribution"), *_ROWS), multiplies=True),
        Kind("reconstructions", (ArraySpec("values", ("N", "...")), *_ROWS)),
    )
}


@np.errstate(all="ignore")
def fault(spec: ArraySpec, array: Array) -> str | None:
    """Say what is wrong with what `array` (of `spec`'s dtype and dimensions) says, or None."""
    if spec.semantics == "mask":
        return None
    if spec.semantics in ("real", "log"):
        return _first_bad_row(~np.isfinite(array), "is not finite")
    if np.isnan(array).any():
        return _first_bad_row(np.isnan(array), "holds NaN")
    tolerance = 1e-3 if array.dtype.itemsize == 4 else 1e-6
    if spec.semantics == "log_distribution":
        if (array == np.inf).any():
            return _first_bad_row(array == np.inf, "holds +inf")
        if said := _first_bad_row((array == -np.inf).all(axis=1), "is -inf throughout"):
            return said
        sums = np.exp(array).sum(axis=1)
    else:
        if (array < 0).any():
            return _first_bad_row(array < 0, "holds a negative probability")
        sums = array.sum(axis=1)
    return _first_bad_row(~(np.abs(sums - 1.0) <= tolerance), "does not sum to one")


def lengths_fault(lengths: Array, rows: int) -> str | None:
    """Say why `lengths` cannot be those of sequences that have `rows` rows together, or None."""
    if (lengths <= 0).any():
        return "has a sequence without rows"
    # Halves are summed apart and joined as Python integers: hostile lengths cannot wrap around.
    total = (int((lengths >> 32).sum()) << 32) + int((lengths & 0xFFFFFFFF).sum())
    return None if total == rows else f"adds up to {total}, but there are {rows} rows"


def _first_bad_row(bad: Array, what: str) -> str | None:
    rows = bad.reshape(len(bad), -1).any(axis=1) if bad.size else bad
    many = int(np.count_nonzero(rows))
    return f"{what} in row {int(rows.argmax())} ({many} such rows)" if many else None
