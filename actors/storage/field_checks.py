"""Checks of single values that were read from a file: type, range and length."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from actors.limits import MAX_FIELD_CHARACTERS, MAX_INTEGER


def check_text(value: Any, where: str, max_characters: int = MAX_FIELD_CHARACTERS) -> str:
    """Return a text without control characters.

    Raises
    ------
    ValueError
        If the value is something else; names `where`. So do the other checks.
    """
    if not isinstance(value, str) or len(value) > max_characters or not value.isprintable():
        raise _error(where, f"a text of at most {max_characters} printable characters", value)
    return value


def check_integer(value: Any, where: str, low: int = 0, high: int = MAX_INTEGER) -> int:
    """Return an integer from `low` to `high`; booleans and floats are refused."""
    if type(value) is not int or not low <= value <= high:
        raise _error(where, f"an integer from {low} to {high}", value)
    return value


def check_number(value: Any, where: str, *, low: float = -math.inf, finite: bool = True) -> float:
    """Return a number of at least `low`; booleans and NaN are refused."""
    valid = type(value) is float or (type(value) is int and abs(value) <= MAX_INTEGER)
    if not valid or not value >= low or (finite and not math.isfinite(value)):
        raise _error(where, "a finite number" if low == -math.inf else f"a finite number of at least {low:g}", value)
    return float(value)


def check_flag(value: Any, where: str) -> bool:
    """Return a boolean."""
    if type(value) is not bool:
        raise _error(where, "true or false", value)
    return value


def check_mapping(value: Any, where: str, max_entries: int) -> Mapping[str, Any]:
    """Return a mapping with text keys."""
    if not isinstance(value, dict) or len(value) > max_entries:
        raise _error(where, f"a map with at most {max_entries} entries", value)
    for key in value:
        check_text(key, f"{where}: a key")
    return value


def printable(error: object, max_characters: int = 300) -> str:
    """Return the text of an error about a file, in which control characters of the file are escaped."""
    text = str(error)
    text = text if len(text) <= max_characters else f"{text[:max_characters]}…"
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _error(where: str, expected: str, value: Any) -> ValueError:
    shown = reprlib.repr(value)
    return ValueError(f"{where}: expected {expected}, got {shown[:80]}")
