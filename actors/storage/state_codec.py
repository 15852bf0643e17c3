"""The form in which states and outputs are stored: safetensors documents, plain scalars in their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.numpy import save as pack_arrays

from actors.errors import CheckpointError
from actors.types import State

_SCALARS = "__scalars__"


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Return a flat dict of arrays and plain scalars as a safetensors document (the scalars in its metadata)."""
    # ascontiguousarray makes a row of an array without dimensions.
    arrays = {n: np.ascontiguousarray(v).reshape(v.shape) for n, v in state.items() if isinstance(v, np.ndarray)}
    scalars = {n: v.item() if isinstance(v, np.generic) else v for n, v in state.items() if n not in arrays}
    return bytes(pack_arrays(arrays, metadata={_SCALARS: json.dumps(scalars)}))


def unpack_state(data: bytes, where: str) -> State:
    """Read what :func:`pack_state` wrote.

    Raises
    ------
    CheckpointError
        If the bytes are no such document.
    """
    try:
        arrays: dict[str, Any] = dict(load(data))
        size = int.from_bytes(data[:8], "little")
        scalars = json.loads(json.loads(data[8 : 8 + size]).get("__metadata__", {}).get(_SCALARS, "{}"))
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{where}: no readable state ({error})") from error
    return {**arrays, **scalars}
