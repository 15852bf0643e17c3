"""The storage format of states and outputs: safetensors documents with plain scalars in their metadata."""

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
    # ascontiguousarray adds a dimension to an array without dimensions, which the reshape takes away.
    arrays = {n: np.ascontiguousarray(v).reshape(v.shape) for n, v in state.items() if isinstance(v, np.ndarray)}
    scalars = {n: v.item() if isinstance(v, np.generic) else v for n, v in state.items() if n not in arrays}
    return bytes(pack_arrays(arrays, metadata={_SCALARS: json.dumps(scalars)}))


def unpack_state(data: bytes, location: str) -> State:
    """Parse a document that :func:`pack_state` wrote.

    Parameters
    ----------
    data : bytes
    location : str
        Name of the file, for error messages.

    Raises
    ------
    CheckpointError
        If the bytes are not such a document.
    """
    try:
        arrays: dict[str, Any] = dict(load(data))
        size = int.from_bytes(data[:8], "little")
        scalars = json.loads(json.loads(data[8 : 8 + size]).get("__metadata__", {}).get(_SCALARS, "{}"))
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{location}: the state is not readable ({error})") from error
    return {**arrays, **scalars}
