"""The storage format of states and outputs: safetensors documents with plain scalars in their metadata.

What :func:`pack_state` accepts comes back from :func:`unpack_state` with equal names, types, shapes and bits;
:func:`storage_error` describes everything else. Three JSON objects extend the document's metadata: ``__scalars__`` has
the scalars by name, ``__types__`` the numpy types of those that are numpy's, and the dtypes of big-endian arrays, which
safetensors stores in little-endian order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load
from safetensors.numpy import save as pack_arrays

from actors.errors import CheckpointError, ModuleError, show_value
from actors.limits import MAX_INTEGER_BITS, MAX_STATE_ENTRIES, MAX_STATE_NAME_BYTES, MAX_STATE_TEXT_BYTES
from actors.storage.field_checks import printable
from actors.types import State

_METADATA, _SCALARS, _TYPES = "__metadata__", "__scalars__", "__types__"

RESERVED_NAMES = frozenset({_METADATA, _SCALARS})
"""Names that a document uses itself."""

_DTYPES = "?bBhHiIlLqQefd"
"""numpy's codes of the dtypes that a document can hold: booleans, integers, and floats of 16, 32 and 64 bits."""

_PLAIN = frozenset({bool, int, float, str, type(None)})
_NUMPY_SCALARS: dict[str, Any] = {**{np.dtype(code).type.__name__: np.dtype(code).type for code in _DTYPES}}
_NUMPY_SCALARS["str_"] = np.str_
_NUMPY_TYPES = {kind: name for name, kind in _NUMPY_SCALARS.items()}

_BIG_ENDIAN = re.compile(r">[iuf][248]")


# --- what can be stored ---------------------------------------------------------------------------------------------


def storage_error(values: Mapping[Any, Any]) -> str | None:
    """Return why a state or outputs cannot be stored such that they come back as they are, or None.

    The time does not depend on the sizes of the arrays.
    """
    if len(values) > MAX_STATE_ENTRIES:
        return f"has {len(values)} entries, at most {MAX_STATE_ENTRIES} are allowed; join arrays"
    texts = 0
    for name, value in values.items():
        if problem := name_error(name) or (None if type(value) is np.ndarray else _value_error(value)):
            return f"{show_value(name)} {problem}"
        if type(value) is np.ndarray:
            if value.dtype.char not in _DTYPES:
                return f"{show_value(name)} {_dtype_error(value)}"
        elif isinstance(value, str):
            texts += len(value)
    return f"has {texts} characters of text, at most {MAX_STATE_TEXT_BYTES}" if texts > MAX_STATE_TEXT_BYTES else None


def name_error(name: object) -> str | None:
    """Return why `name` is not a valid name of an entry, or None."""
    if not isinstance(name, str):
        return f"is a name of type {type(name).__name__}, expected a str"
    if not name or name in RESERVED_NAMES:
        return "is not a valid name: expected a text that is not empty and not __metadata__ or __scalars__"
    if not _is_unicode(name):
        return "is not a valid name: it has surrogates, which are not characters"
    size = len(name.encode())
    return None if size <= MAX_STATE_NAME_BYTES else f"is a name of {size} bytes, at most {MAX_STATE_NAME_BYTES}"


def _value_error(value: object) -> str | None:
    """Return why a value that is not a plain array cannot be stored, or None."""
    kind = type(value)
    if kind in _PLAIN or kind in _NUMPY_TYPES:
        if isinstance(value, str) and not _is_unicode(value):
            return "is a text with surrogates, which are not characters; store its bytes as an array of uint8"
        if kind is int and value.bit_length() > MAX_INTEGER_BITS:  # type: ignore[attr-defined]
            return f"is an integer of more than {MAX_INTEGER_BITS} bits; store its digits as a text"
        return None
    if isinstance(value, np.ma.MaskedArray):
        return "is a masked array, whose mask would be lost; store filled(…) and the mask as two arrays"
    if kind is np.memmap:
        return _dtype_error(value) if value.dtype.char not in _DTYPES else None  # type: ignore[attr-defined]
    if isinstance(value, np.ndarray):
        return f"is a {kind.__name__}, expected a plain array; use numpy.asarray"
    if kind.__module__.partition(".")[0] == "torch":
        return f"is a torch {kind.__name__}, expected a numpy array; use tensor.detach().cpu().numpy().copy()"
    if isinstance(value, np.generic):
        return f"is a scalar of type {value.dtype}, expected a number of at most 64 bits, a bool or a text"
    remedy = "; use one entry for each of its values" if isinstance(value, Mapping | tuple | list | set) else ""
    return f"is {kind.__name__}, expected an array or a bool, int, float, str or None{remedy}"


def _dtype_error(array: Any) -> str:
    wide = "; use at most 64 bits" if array.dtype.kind in "fi" else ""
    return f"is an array of {show_value(str(array.dtype))[1:-1]}, expected numbers or booleans{wide}"


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- packing and parsing --------------------------------------------------------------------------------------------


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Return a flat dict of arrays and plain scalars as a safetensors document (the scalars in its metadata).

    Raises
    ------
    ModuleError
        If an entry would not come back as it is; names it.
    """
    if problem := storage_error(state):
        raise ModuleError(f"cannot be stored: {problem}")
    arrays, scalars, types = {}, {}, {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            if value.dtype.byteorder == ">":
                types[name] = value.dtype.str
            # ascontiguousarray adds a dimension to an array without dimensions, which the reshape takes away.
            little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
            arrays[name] = little.reshape(value.shape)
        else:
            if isinstance(value, np.generic):
                types[name] = _NUMPY_TYPES[type(value)]
            scalars[name] = value.item() if isinstance(value, np.generic) else value
            if scalars[name] != scalars[name]:  # JSON has no NaN, and its sign and payload would be lost
                raise ModuleError(f"cannot be stored: {show_value(name)} is nan")
    metadata = {_SCALARS: json.dumps(scalars), **({_TYPES: json.dumps(types)} if types else {})}
    return bytes(pack_arrays(arrays, metadata=metadata))


def unpack_state(data: bytes, location: str) -> State:
    """Parse a document that :func:`pack_state` wrote, in this version or an earlier one.

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
        metadata = json.loads(data[8 : 8 + size]).get(_METADATA, {})
        scalars, types = (json.loads(metadata.get(name, "{}")) for name in (_SCALARS, _TYPES))
        if not (isinstance(scalars, dict) and isinstance(types, dict)) or scalars.keys() & arrays.keys():
            raise ValueError(f"{_SCALARS} or {_TYPES} in its header are not valid")
        state = {**arrays, **scalars}
        state.update({name: _typed(state[name], kind) for name, kind in types.items()})
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        reason = printable(error, 200) or type(error).__name__  # safetensors repeats what the file holds
        raise CheckpointError(f"{location}: the state is not readable ({reason})") from error
    return state


def _typed(value: Any, kind: Any) -> Any:
    """Return a value with the numpy type or the dtype that the document names for it."""
    if isinstance(value, np.ndarray):
        if not _BIG_ENDIAN.fullmatch(kind) or np.dtype(kind).newbyteorder("<") != value.dtype:
            raise ValueError(f"an array of {value.dtype} is declared as {kind[:20]}")
        return value.astype(kind)
    scalar = _NUMPY_SCALARS[kind](value)
    if scalar.item() != value:
        raise ValueError(f"{show_value(value)} is declared as {kind[:20]}")
    return scalar
