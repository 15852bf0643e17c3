"""How the columns of a run's sources are scaled, beside a commit that has no rows: in an imported run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from actors.errors import CheckpointError
from actors.storage.state_codec import pack_state, unpack_state
from actors.types import FloatArray, State

SCALES = "scales.safetensors"
"""The file, in an export and in the directory of the imported run."""

MAX_SCALES_BYTES = 1 << 24
_ENTRIES = ("center", "width")


def pack_scales(states: Mapping[str, State]) -> bytes:
    """Return the scaling in the state of each source, by its name, as a file."""
    return pack_state({f"{name}/{key}": state[key] for name, state in states.items() for key in _ENTRIES})


def unpack_scales(data: bytes, sources: Iterable[str]) -> dict[str, State]:
    """Return the scaling of each of `sources`, as entries of its state.

    Raises
    ------
    ValueError
        If the file has another form, or lacks one of them.
    """
    try:
        found: Mapping[str, Any] = unpack_state(data, SCALES)
    except (CheckpointError, ValueError) as error:
        raise ValueError(str(error)) from None
    scales: dict[str, State] = {}
    for name in sources:
        center, width = (_vector(found.get(f"{name}/{key}"), name) for key in _ENTRIES)
        if len(center) != len(width) or not (width > 0).all():
            raise ValueError(f"{SCALES}: the scale of {name} is not valid")
        scales[name] = {"center": center, "width": width}
    if len(found) != len(_ENTRIES) * len(scales):
        raise ValueError(f"{SCALES}: has scales of other sources")
    return scales


def _vector(value: Any, name: str) -> FloatArray:
    if not isinstance(value, np.ndarray) or value.dtype != np.float64 or value.ndim != 1:
        raise ValueError(f"{SCALES}: has no scale of {name}")
    if not np.isfinite(value).all():
        raise ValueError(f"{SCALES}: the scale of {name} is not finite")
    return value
