r"""Texts from outside (files, modules, other processes) made safe for terminals and spreadsheets.

A name or an error message may contain control characters, with which a terminal can be made to hide, forge or answer
text. They are shown as escapes (``\x1b``) wherever text is printed.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from actors.errors import show_value
from actors.limits import MAX_PRINTED_CHARACTERS, MAX_PRINTED_LINE

# Control characters except tab and line feed, halves of characters (surrogates), and what has no width or changes the
# direction of writing. The joiners U+200C and U+200D are letters of some scripts and are kept.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_BREAK = re.compile(r"[\t\n]")
MAX_SHOWN_VALUE = 60
"""Characters of a value in an error message."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def printable(text: object, limit: int = MAX_PRINTED_CHARACTERS) -> str:
    """Return a text for a terminal: control characters as escapes, and at most `limit` characters of it.

    Parameters
    ----------
    text : object
        Lines and tabs are kept.
    limit : int
        From longer texts the middle is left out, because errors end with what matters most.
    """
    try:
        whole = _shorten(str(text), limit)
    except Exception as error:  # the text of a module's exception is computed by its own code
        whole = f"{type(text).__name__} (its text cannot be computed: {type(error).__name__})"
    return _shorten(_UNSAFE.sub(_escape, whole), limit)


def printable_line(text: object, limit: int = MAX_PRINTED_LINE) -> str:
    """Return a name or value as a part of one line: as :func:`printable`, with line ends and tabs as escapes."""
    return _shorten(_BREAK.sub(_escape, printable(text, limit)), limit)


def printable_label(text: object, characters: int) -> str:
    """Return the beginning of a name or value for a label of a drawing, with an ellipsis if there is more."""
    shown = printable_line(text, 200)
    return shown if len(shown) <= characters else f"{shown[: characters - 1]}…"


def printable_reason(error: BaseException) -> str:
    """Return what an exception of any package says, in one line; its type where it says nothing."""
    return printable_line(" ".join(str(error).split()) or type(error).__name__)


def brief(value: object) -> str:
    """Return a value that a user gave, in Python's notation, for an error message: one short line."""
    return printable_line(show_value(value), MAX_SHOWN_VALUE)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    mark = f" … {len(text) - limit:,} characters … "
    kept = max(limit - len(mark), 2)
    return f"{text[: kept - kept // 2]}{mark}{text[-(kept // 2) :]}"


def csv_cell(value: Any) -> Any:
    """Return a value for a cell of a CSV file: a text that a spreadsheet would run as a formula begins with ``'``."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


class PrintableFormatter(logging.Formatter):
    """Formats log records for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's message with control characters as escapes."""
        return printable(super().format(record))


def format_bytes(size: float) -> str:
    """Return a number of bytes as text: ``512 B``, ``1.5 KiB``, ``9.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
