"""Scaling of columns, learnt from the rows that a model learns from, and used for every row that it gets later.

With mean μ and standard deviation σ = √(Σ(x − μ)²/N) of the rows that are not missing, a column becomes (x − μ)/σ
(``standard``, scikit-learn's ``StandardScaler``) or, with its least and largest value, (x − min)/(max − min) (``unit``,
``MinMaxScaler``). The sums are float64, over blocks of rows in their order, so that rows on disk are never in memory
together; moments of blocks are combined as by Chan, Golub & LeVeque (1979), eq. 2.1. All is computed in units of half
the range of each column: no threshold depends on the unit, and nothing overflows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.limits import MAX_LISTED_NAMES, MAX_SCALED_COLUMNS
from actors.messaging.stored_rows import StoredRows
from actors.types import Array, BoolArray, FloatArray, State
from runner.data.errors import DataError
from runner.data.intake import describe_empty
from runner.data.tables import column_places
from runner.report.printable import brief

if TYPE_CHECKING:
    from runner.data.datasets import Dataset

KINDS = ("standard", "unit", "none")
OTHERS = "*"
"""In a map from columns to kinds, all columns that it does not name."""

_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class Scaling:
    """What is subtracted from each column, and what it is then divided by.

    Parameters
    ----------
    center, width : ndarray of float64, shape (D,)
        Of the columns of a row, of more dimensions in C order; `width` is above 0.
    """

    center: FloatArray
    width: FloatArray

    def apply(self, values: Array | StoredRows, mask: BoolArray | None, where: str) -> Array | StoredRows:
        """Return scaled rows of the same type; missing ones stay zero, and rows on disk are scaled as they are read.

        Raises
        ------
        DataError
            If a row has another number of columns, or a value is beyond what its type holds.
        """
        columns = int(np.prod(values.shape[1:]))
        if columns != len(self.center):
            raise DataError(
                f"{where}: has {columns:,} columns where {len(self.center):,} were expected, as many as the rows that "
                "the scale was learnt from; give rows with the same columns"
            )
        if isinstance(values, StoredRows):
            return replace(values, center=tuple(self.center.tolist()), width=tuple(self.width.tolist()))
        scaled = np.empty(values.shape, values.dtype)
        for start, flat in _blocks(values):
            with np.errstate(over="ignore"):
                block = ((flat - self.center) / self.width).astype(values.dtype)
            if mask is not None:
                own = mask[start : start + len(block)]
                block[own if own.ndim == 1 else own.reshape(block.shape)] = 0
            if not np.isfinite(block).all():
                row, column = np.argwhere(~np.isfinite(block))[0]
                raise DataError(
                    f"{where}, row {start + row + 1}: column {column + 1} is too far from the rows that the scale was "
                    f"learnt from for {values.dtype}; give it the unit of those rows"
                )
            scaled[start : start + len(block)] = block.reshape(len(block), *values.shape[1:])
        return scaled

    def undo(self, values: Array) -> Array:
        """Return rows in the units that they had; those of another shape are returned as they are."""
        if values.ndim < 2 or int(np.prod(values.shape[1:])) != len(self.center):
            return values
        flat = values.reshape(len(values), -1).astype(np.float64) * self.width + self.center
        return flat.astype(values.dtype).reshape(values.shape)

    def entries(self) -> State:
        """Return what the state of a source keeps."""
        return {"center": self.center, "width": self.width}


def scaling_in(state: Mapping[str, Any]) -> Scaling | None:
    """Return the scaling in the state of a source, None if its rows are as they came."""
    if state.get("center") is None:
        return None
    return Scaling(np.asarray(state["center"], np.float64), np.asarray(state["width"], np.float64))


def is_scaled(scale: str | Mapping[Any, str] | None) -> bool:
    """Return whether any column is to be scaled."""
    kinds = scale.values() if isinstance(scale, Mapping) else [scale]
    return any(kind not in (None, "none") for kind in kinds)


def scale_rows(data: Dataset, scale: str | Mapping[Any, str] | None, where: str) -> Dataset:
    """Return rows to learn from, scaled by themselves, with what was learnt.

    Parameters
    ----------
    data : Dataset
    scale : {"standard", "unit", "none"}, mapping or None
        One kind for all columns, or kinds by the columns' names or numbers (from 1), with ``"*"`` for all others.
    where : str
        Name of the rows for error messages.

    Raises
    ------
    DataError
        If `scale` is not valid, a column does not exist, or a column spans more than float64 holds.
    """
    if not is_scaled(scale):
        return data
    rows = data.observations
    columns = int(np.prod(rows.shape[1:]))
    if columns > MAX_SCALED_COLUMNS:
        raise DataError(
            f"{where}: has {columns:,} columns, and at most {MAX_SCALED_COLUMNS:,} are scaled; use divide_by instead"
        )
    kinds = _kinds(scale, columns, data.columns, where)
    scaling, constant = _learn(rows, data.mask, kinds, where)
    made = scaling.apply(rows, data.mask, where)
    notes = [_describe(kinds)]
    if len(constant):
        shown = ", ".join(_name(column, data.columns) for column in constant[:MAX_LISTED_NAMES])
        more = f" and {len(constant) - MAX_LISTED_NAMES} more" if len(constant) > MAX_LISTED_NAMES else ""
        does = "have one value each" if len(constant) > 1 else "has one value"
        notes.append(f"{shown}{more} {does} in all rows and {'become' if len(constant) > 1 else 'becomes'} 0")
    return replace(data, observations=made, scaling=scaling, notes=(*data.notes, *notes))


def scale_new_rows(data: Dataset, scaling: Scaling | None, where: str) -> Dataset:
    """Return new rows as a model learnt from them; rows that are scaled already stay as they are.

    Raises
    ------
    DataError
        If they do not have the columns that were learnt from, or are too far from them.
    """
    if scaling is None or data.scaling is not None:
        return data
    return replace(data, observations=scaling.apply(data.observations, data.mask, where), scaling=scaling)


# --- which columns --------------------------------------------------------------------------------------------------


def _kinds(scale: Any, columns: int, names: Sequence[str], where: str) -> list[str]:
    """Return the kind of scaling of each column."""
    given = dict(scale) if isinstance(scale, Mapping) else {OTHERS: scale}
    if odd := [kind for kind in given.values() if kind not in KINDS]:
        raise DataError(f"{where}: scale is {brief(odd[0])}; use {', '.join(KINDS)}, or a map from columns to these")
    kinds = [given.pop(OTHERS, "none")] * columns
    for place, kind in column_places(given, names, columns, f"{where}: scale").items():
        kinds[place] = given[kind]
    return kinds


def _name(column: int, names: Sequence[str]) -> str:
    return f"column {column + 1}" + (f" ({names[column]!r})" if column < len(names) and names[column] else "")


def _describe(kinds: Sequence[str]) -> str:
    """Return which columns are scaled how."""
    counts = {kind: kinds.count(kind) for kind in KINDS if kind != "none" and kind in kinds}
    if list(counts.values()) == [len(kinds)]:
        return f"columns are scaled ({next(iter(counts))})"
    return "; ".join(f"{count:,} of {len(kinds):,} columns are scaled ({kind})" for kind, count in counts.items())


# --- moments --------------------------------------------------------------------------------------------------------


def _learn(
    rows: Array | StoredRows, mask: BoolArray | None, kinds: Sequence[str], where: str
) -> tuple[Scaling, list[int]]:
    """Return the scaling of rows, and the columns that have one value only."""
    columns = len(kinds)
    least, most = np.full(columns, np.inf), np.full(columns, -np.inf)
    for flat, seen in _present(rows, mask):
        np.minimum(least, flat.min(axis=0, **_only(seen, np.inf)), out=least)
        np.maximum(most, flat.max(axis=0, **_only(seen, -np.inf)), out=most)
    if not np.isfinite(least).all():
        raise DataError(f"{where}: {describe_empty(np.flatnonzero(~np.isfinite(least)))}")
    half = most / 2 - least / 2  # the difference itself may be beyond float64
    standard, unit = (np.array([kind == each for kind in kinds]) for each in ("standard", "unit"))
    center, width = np.zeros(columns), np.ones(columns)
    with np.errstate(over="ignore"):
        center[unit], width[unit] = least[unit], 2 * half[unit]
    if standard.any():
        middle = least / 2 + most / 2
        mean, deviation = _moments(rows, mask, middle, np.where(half > 0, half, 1.0))
        center[standard], width[standard] = (middle + half * mean)[standard], (half * deviation)[standard]
    # Rounding would leave a deviation of some units in the last place to columns of one value.
    constant = (standard | unit) & ((most == least) | (width == 0))
    center[constant], width[constant] = least[constant], 1.0
    if not np.isfinite(width).all():
        column = int(np.flatnonzero(~np.isfinite(width))[0])
        raise DataError(f"{where}: column {column + 1} spans more than float64 holds; use another unit")
    return Scaling(center, width), np.flatnonzero(constant).tolist()


def _moments(
    rows: Array | StoredRows, mask: BoolArray | None, middle: FloatArray, half: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation of the columns of u = (x − middle)/half, which spans −1 to 1."""
    count: int | FloatArray = 0
    mean, squares = np.zeros(len(middle)), np.zeros(len(middle))
    for flat, seen in _present(rows, mask):
        scaled = (flat - middle) / half
        number: int | FloatArray = len(flat)
        if seen is None:
            own = scaled.mean(axis=0)
            scaled -= own
        else:
            number = seen.sum(axis=0).astype(np.float64)
            own = np.where(seen, scaled, 0.0).sum(axis=0) / np.maximum(number, 1.0)
            scaled = np.where(seen, scaled - own, 0.0)
        total, gap = count + number, own - mean
        every = np.maximum(total, 1)
        squares += np.square(scaled).sum(axis=0) + np.square(gap) * (count * number / every)
        mean += gap * (number / every)
        count = total
    return mean, np.sqrt(squares / count)


def _only(seen: BoolArray | None, otherwise: float) -> dict[str, Any]:
    """Return what makes numpy's reductions leave values out."""
    return {} if seen is None else {"where": seen, "initial": otherwise}


def _present(rows: Array | StoredRows, mask: BoolArray | None) -> Iterator[tuple[FloatArray, BoolArray | None]]:
    """Yield blocks (n, D) of float64 with the rows that are not missing, and which of their values are not, if any."""
    for start, flat in _blocks(rows):
        own = None if mask is None else mask[start : start + len(flat)]
        if own is not None and own.ndim > 1:
            yield flat, ~own.reshape(flat.shape)
            continue
        taken = flat if own is None else flat[~own]
        if len(taken):
            yield taken, None


def _blocks(rows: Array | StoredRows) -> Iterator[tuple[int, FloatArray]]:
    """Yield the first row and the values of blocks; they are the same for rows in memory and on disk."""
    size = max(1, _BLOCK_BYTES // (8 * int(np.prod(rows.shape[1:]))))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        values = block.read() if isinstance(block, StoredRows) else block
        yield start, values.reshape(len(values), -1).astype(np.float64)
