"""The files of a module's outputs: text for ``numpy.loadtxt``, and .npy for wide arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from actors.types import Array

TEXT_COLUMNS = 200
"""Arrays with more columns are written as .npy instead of text."""


def write_arrays(directory: Path, outputs: Mapping[str, Array], phase: str) -> None:
    """Write a module's outputs as ``<name>_<phase>.txt`` (or .npy).

    Parameters
    ----------
    directory : Path
        The module's directory; created if it does not exist.
    outputs : mapping of str to ndarray
    phase : {"learn", "recog"}
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, array in outputs.items():
        # A training curve belongs to no phase; the name loss.txt is that of the SERKET tutorial.
        stem = name if name == "loss" else f"{name}_{phase}"
        if array.ndim > 2 or (array.ndim == 2 and array.shape[1] > TEXT_COLUMNS):
            np.save(directory / f"{stem}.npy", array)
        else:
            np.savetxt(directory / f"{stem}.txt", array, fmt="%d" if array.dtype.kind in "iub" else "%.8g")


def read_array(directory: Path, name: str, phase: str) -> Array | None:
    """Return an output that :func:`write_arrays` wrote, or None if there is none."""
    stem = directory / f"{name}_{phase}"
    if stem.with_suffix(".npy").exists():
        array: Array = np.load(stem.with_suffix(".npy"))
        return array
    return np.loadtxt(stem.with_suffix(".txt"), ndmin=2) if stem.with_suffix(".txt").exists() else None
