"""Rows that describe windows of rows: means, deviations and spectra, of recordings whose single rows say little."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from actors.messaging.stored_rows import StoredRows
from actors.types import Array, BoolArray, FloatArray, IntArray
from runner.data.errors import DataError

if TYPE_CHECKING:
    from runner.data.datasets import Dataset

Feature = Literal["mean", "deviation", "spectrum"]

_BLOCK = 2**22
"""Values that are transformed at once."""


@dataclass(frozen=True)
class WindowOptions:
    """How windows become rows.

    Attributes
    ----------
    rows : int
        Rows of a window, at least 2.
    step : int or None
        Rows from the start of one window to that of the next; None: `rows`, so that windows do not overlap.
    features : tuple of Feature
        Of each column of the rows: its ``mean``; the root of its standard ``deviation``; its ``spectrum``, the root of
        the root mean square of its vibrations in each of some bands. The roots bring amplitudes, whose spread grows
        with their size, closer to Gaussians; unlike logarithms they need no smallest amplitude.
    bands : int
        Bands of a spectrum, whose edges are in geometric progression between one cycle a window and half a cycle a row.
    """

    rows: int
    step: int | None = None
    features: tuple[Feature, ...] = ("mean", "deviation", "spectrum")
    bands: int = 4


def window_rows(data: Dataset, options: WindowOptions, where: str) -> Dataset:
    """Return a row for each window; none reaches over the end of a sequence.

    The last rows of a sequence, too few for a window, are left out. A window has the most frequent category of its rows
    (of equally frequent ones the smallest), and is missing if one of its values is.

    Parameters
    ----------
    data : Dataset
    options : WindowOptions
    where : str
        What the data are called in messages.

    Raises
    ------
    DataError
        If the rows are on disk, or a sequence is shorter than a window.
    """
    if isinstance(data.observations, StoredRows):
        raise DataError(
            f"{where}.windows: the rows stay on disk; windows are made of rows in memory: set on_disk: false"
        )
    count, step = len(data.observations), options.step or options.rows
    lengths = np.array([count]) if data.lengths is None else np.asarray(data.lengths)
    if lengths.min() < options.rows:
        short = int(np.argmin(lengths))
        raise DataError(
            f"{where}.windows: sequence {short} has {lengths[short]:,} rows, fewer than a window of {options.rows}; "
            "use smaller windows, or longer sequences"
        )
    numbers = 1 + (lengths - options.rows) // step
    first = np.cumsum(lengths) - lengths
    starts = np.concatenate([begin + step * np.arange(number) for begin, number in zip(first, numbers, strict=True)])
    flat = np.asarray(data.observations).reshape(count, -1)
    mask = None
    if data.mask is not None:
        missing: BoolArray = np.asarray(data.mask.reshape(count, -1).any(axis=1))
        mask = np.lib.stride_tricks.sliding_window_view(missing, options.rows)[starts].any(axis=1)
        flat = np.where(missing[:, None], flat.dtype.type(0), flat)
    columns = data.columns or tuple(f"column {number}" for number in range(1, flat.shape[1] + 1))
    note = f"a row for each window of {options.rows} of the {count:,} rows, every {step}"
    return replace(
        data,
        observations=_features(flat, starts, options),
        categories=None if data.categories is None else _categories(data.categories, starts, options.rows),
        lengths=None if data.lengths is None else numbers.astype(np.int64),
        mask=mask if mask is not None and mask.any() else None,
        columns=_names(columns, options),
        notes=(*data.notes, note),
    )


def _features(rows: Array, starts: IntArray, options: WindowOptions) -> Array:
    """Return the features (windows, D') of windows of rows (N, D), feature by feature."""
    size = max(_BLOCK // (options.rows * rows.shape[1]), 1)
    views = np.lib.stride_tricks.sliding_window_view(rows, options.rows, axis=0)  # (N - rows + 1, D, rows)
    parts = []
    for begin in range(0, len(starts), size):
        windows = views[starts[begin : begin + size]].astype(np.float64)
        mean = windows.mean(axis=2)
        own: dict[str, FloatArray] = {"mean": mean}
        centred = windows - mean[:, :, None]
        own["deviation"] = np.mean(centred**2, axis=2) ** 0.25
        if "spectrum" in options.features:
            own["spectrum"] = np.sqrt(_spectrum(centred, options.bands)).reshape(len(windows), -1)
        parts.append(np.concatenate([own[feature] for feature in options.features], axis=1))
    return np.concatenate(parts)


def _spectrum(centred: FloatArray, bands: int) -> FloatArray:
    """Return the root mean square in each band, (windows, D, bands); their squares sum to the variance."""
    rows = centred.shape[2]
    power = np.abs(np.fft.rfft(centred, axis=2)[:, :, 1:]) ** 2 / rows**2
    twice = np.full(power.shape[2], 2.0)  # a frequency and its negative
    if rows % 2 == 0:
        twice[-1] = 1.0
    edges = band_edges(rows, bands)
    return np.sqrt(np.add.reduceat(power * twice, edges[:-1] - 1, axis=2))


def band_edges(rows: int, bands: int) -> IntArray:
    """Return the first frequency of each band, in cycles a window, and the one after the last, (bands + 1,).

    Raises
    ------
    ValueError
        If a window has fewer frequencies than bands.
    """
    frequencies = rows // 2
    if bands > frequencies:
        raise ValueError(f"{bands} bands need windows of at least {2 * bands} rows")
    edges = np.round(np.geomspace(1.0, frequencies + 1.0, bands + 1)).astype(np.int64)
    for band in range(1, bands):  # each has a frequency at least
        edges[band] = min(max(edges[band], edges[band - 1] + 1), frequencies + 1 - (bands - band))
    return edges


def _categories(categories: IntArray, starts: IntArray, rows: int) -> IntArray:
    """Return the most frequent category of each window."""
    names, numbers = np.unique(categories, return_inverse=True)
    sums = np.zeros((len(categories) + 1, len(names)), np.int64)
    np.cumsum(np.eye(len(names), dtype=np.int64)[numbers], axis=0, out=sums[1:])
    found: IntArray = names[(sums[starts + rows] - sums[starts]).argmax(axis=1)]
    return found


def _names(columns: tuple[str, ...], options: WindowOptions) -> tuple[str, ...]:
    names: list[str] = []
    for feature in options.features:
        if feature != "spectrum":
            names += [f"{feature} of {column}" for column in columns]
            continue
        edges = band_edges(options.rows, options.bands)
        spans = [f"{edges[band]} to {edges[band + 1] - 1} cycles" for band in range(options.bands)]
        names += [f"{column}, {span}" for column in columns for span in spans]
    return tuple(names)
