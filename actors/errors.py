"""The exceptions of this package, in one hierarchy under :class:`SerketError`.

The message of an error that a user can correct is one sentence: what is wrong, where, and how to correct it. Each class
also derives from the Python exception of the same nature.
"""

from __future__ import annotations

import reprlib


class SerketError(Exception):
    """Base class of all errors of this package."""


# --- errors that a user or the author of a module can correct ----------------------------------------------------


class KindError(SerketError, ValueError):
    """A message kind is not valid, or another kind with its name is registered."""


class MessageError(SerketError, ValueError):
    """A message or its packed form is not valid; names sender, receiver, port and kind."""


class ModuleError(SerketError, ValueError):
    """A module cannot process its messages or parameters; names the module and the reason."""


class RowError(ModuleError):
    """A row of the data cannot be used.

    Parameters
    ----------
    row : int
        Its number, from 0, among the rows that a function was given.
    text : str
        The sentence; ``{row}`` stands for the number that people read, which counts from 1.
    """

    def __init__(self, row: int, text: str) -> None:
        super().__init__(row, text)
        self.row = row
        self.text = text

    def __str__(self) -> str:
        return self.text.replace("{row}", f"{self.row + 1:d}")


class NonFiniteError(ModuleError):
    """A metric, state, output or message contains a value that is not finite; names module, round, step and array."""


class GraphError(SerketError, ValueError):
    """The connections or the schedule of a model are not valid; names the part and the reason."""


class StorageError(SerketError, ValueError):
    """A storage root cannot be used on this machine; names the remedy."""


class CheckpointError(SerketError, RuntimeError):
    """A checkpoint is missing, damaged or has another schema; names the file."""


# --- failures during a run ---------------------------------------------------------------------------------------


class BackendError(SerketError, RuntimeError):
    """The backend cannot fulfil a request, for instance for resources that no node has."""


class ModuleFailedError(SerketError, RuntimeError):
    """A module raised an exception or died too often, which ends the run; names the module, with its traceback."""


class ModuleDiedError(SerketError, RuntimeError):
    """The process of a module died or timed out; a new process can replace it."""


class ObjectsLostError(SerketError, RuntimeError):
    """A state or message that the coordinator has a reference to was lost with its node."""


class StaleIncarnationError(SerketError, RuntimeError):
    """A call was addressed to an earlier incarnation of a module; the present process does not have its state yet."""


class WorkerConnectionError(SerketError, RuntimeError):
    """A connection between two workers of a module cannot be made or was lost; calls of actors can replace it."""


# --- texts --------------------------------------------------------------------------------------------------------


def raised_in(module: str, error: BaseException) -> None:
    """Note in an exception of a module's own code which module raised it; its type and text stay as they are."""
    note = f"module {module!r} raised an error"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def describe_failure(error: BaseException) -> str:
    """Return the text of an exception, with the module that raised it (:func:`raised_in`) and its type."""
    text = str(error)
    note = next((each for each in getattr(error, "__notes__", ()) if each.endswith(" raised an error")), "")
    if not note or isinstance(error, SerketError):
        return text
    return f"{note}: {type(error).__name__}{f': {text}' if text else ''}"


def shorten_text(text: str, limit: int) -> str:
    """Return `text` as valid Unicode; one of more than `limit` characters (at least 100) is cut in its middle."""
    if len(text) > limit:
        half = (limit - 60) // 2
        text = f"{text[:half]} […{len(text) - 2 * half:,} characters are left out…] {text[-half:]}"
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def escape_controls(text: str) -> str:
    """Return a name from outside for an error message, with control characters as escapes."""
    return text if text.isprintable() else ascii(text)[1:-1]


def show_value(value: object) -> str:
    """Return a value in Python's notation, shortened, for error messages."""
    try:
        return reprlib.repr(value)
    except Exception:  # an integer of more digits than Python converts to text, or an object's own error
        return f"<{type(value).__name__}>"
