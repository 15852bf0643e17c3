"""Read environment variables: the only place that does, so that each has a type and is refused in one sentence.

It lies here because kernels import only each other; it needs the standard library alone. The variables and their bounds
are in :mod:`actors.variables`.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_PATH_BYTES, _NAME_BYTES = 4095, 255  # of Linux and macOS at most
_SHOWN = 60


class VariableError(ValueError):
    """An environment variable has a value that it cannot have; names the variable, the value and what is expected."""


def read_text(name: str, default: str = "") -> str:
    """Return the text of a variable, `default` if it is unset or empty.

    Raises
    ------
    VariableError
        If it has a control character or is no UTF-8.
    """
    text = os.environ.get(name) or default
    if _UNPRINTABLE.search(text):
        raise _refusal(name, text, "text without control characters, in UTF-8")
    return text


def read_path(name: str) -> Path | None:
    """Return the absolute path that a variable names, None if it is unset or empty.

    Raises
    ------
    VariableError
        If no file can have the path.
    """
    text = read_text(name)
    if not text:
        return None
    path = Path(text).absolute()
    if len(os.fsencode(path)) > _PATH_BYTES or any(len(os.fsencode(part)) > _NAME_BYTES for part in path.parts):
        raise _refusal(name, text, f"a path of at most {_PATH_BYTES} bytes and {_NAME_BYTES} a name")
    return path


def read_number(name: str, default: float, most: float, *, whole: bool = False) -> float:
    """Return the number of a variable, from 0 to `most`, perhaps without a fraction; `default` if it is unset or empty.

    Raises
    ------
    VariableError
        If it is no number, or another one.
    """
    text = read_text(name)
    if not text:
        return default
    form = r"[0-9]{1,20}" if whole else r"[0-9]{0,20}\.?[0-9]{0,20}([eE][-+]?[0-9]{1,3})?"
    try:
        number = float(text) if re.fullmatch(form, text) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number <= most:
        raise _refusal(name, text, f"a {'whole ' if whole else ''}number from 0 to {most:g}")
    return number


def read_flag(name: str) -> bool:
    """Return whether a variable is 1; unset, empty and 0 are False.

    Raises
    ------
    VariableError
        If it is something else.
    """
    return read_choice(name, ("0", "1")) == "1"


def read_choice(name: str, choices: tuple[str, ...]) -> str:
    """Return which of `choices` (in lower case) a variable is, the first if it is unset or empty.

    Raises
    ------
    VariableError
        If it is none of them.
    """
    text = read_text(name, choices[0])
    if text.lower() not in choices:
        raise _refusal(name, text, " or ".join(choices))
    return text.lower()


def read_secret(name: str) -> str:
    """Return the secret of a variable, empty if it is unset; no error shows it.

    Raises
    ------
    VariableError
        If it is not of printable ASCII characters, as a header of HTTP must be.
    """
    text = os.environ.get(name, "")
    if not text.isascii() or (text and not text.isprintable()):
        raise VariableError(
            f"{name} has a character that is not printable ASCII (perhaps a line end); correct it, or unset it"
        )
    return text


def _refusal(name: str, text: str, expected: str) -> VariableError:
    shown = ascii(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!a}…"
    return VariableError(f"{name} is {shown}, expected {expected}; correct it, or unset it")
