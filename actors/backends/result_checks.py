"""Checks of all that a module returns, before it is accepted: the outbox, the state, and the texts of exceptions.

A result that breaks a rule raises an error with module, round and step, the entry, what was found and what was
expected. No check copies or reads the values of arrays; :mod:`actors.messaging.validation` checks those.
"""

from __future__ import annotations

import math
import re
import traceback
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np

from actors.errors import (
    CheckpointError,
    KindError,
    MessageError,
    ModuleError,
    ModuleFailedError,
    NonFiniteError,
    shorten_text,
    show_value,
)
from actors.limits import (
    MAX_ARRAYS,
    MAX_COMMIT_FILE_BYTES,
    MAX_DIMENSIONS,
    MAX_ERROR_CHARACTERS,
    MAX_EXCEPTION_CHARACTERS,
    MAX_FILE_NAME_BYTES,
    MAX_MESSAGES,
    MAX_METRICS,
    MAX_NAME_CHARACTERS,
    MAX_OUTPUTS,
    MAX_STATE_ENTRIES,
)
from actors.module import Outbox, OutgoingMessage
from actors.storage.safe_files import is_safe_name
from actors.storage.state_codec import RESERVED_NAMES, storage_error
from actors.types import Array, State

_LINE_FIELDS = ("time", "run", "event", "name", "number", "sequence")
_UPDATE_FIELDS = (
    "round",
    "step",
    "module",
    "exchange",
    "temperature",
    "seconds",
    "message_bytes",
    "metrics",
    "worker_rows",
    "worker_seconds",
    "waited_seconds",
)
EVENT_FIELDS = frozenset((*_LINE_FIELDS, *_UPDATE_FIELDS, "total_seconds"))
"""Fields of a line of ``events.jsonl`` that an update may have; metrics are written beside them."""

_METRIC_NAME = re.compile(rf"\w{{1,{MAX_NAME_CHARACTERS}}}")
_RUN_FILES = frozenset(("acc",))
"""Names of files that a run writes itself into a module's directory."""


# --- the outbox -----------------------------------------------------------------------------------------------------


def check_outbox(where: str, outbox: object) -> Outbox:
    """Return the outbox that a module returned, with dicts of its own, if all names and types in it are valid.

    Parameters
    ----------
    where : str
        Module and position in the schedule, for the error message.
    outbox : object

    Raises
    ------
    ModuleError
        If it is not an outbox, or if the name or the type of a message, metric or output is not valid.
    NonFiniteError
        If a metric is not finite.
    """
    if not isinstance(outbox, Outbox):
        raise ModuleError(f"{where}: returned {_a(outbox)}, expected an Outbox")
    messages = outbox.messages
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ModuleError(f"{where}: the messages are {_a(messages)}, expected a list of OutgoingMessage")
    sent = [*islice(messages, MAX_MESSAGES + 1)]
    if len(sent) > MAX_MESSAGES:
        raise ModuleError(f"{where}: returned more than {MAX_MESSAGES} messages")
    return Outbox(
        tuple(_check_outgoing(where, outgoing) for outgoing in sent),
        check_metrics(where, outbox.metrics),
        check_outputs(where, outbox.outputs),
    )


def _check_outgoing(where: str, outgoing: object) -> OutgoingMessage:
    if not isinstance(outgoing, OutgoingMessage):
        raise ModuleError(f"{where}: a message is {_a(outgoing)}, expected an OutgoingMessage")
    port, given, receiver = outgoing.port, outgoing.arrays, outgoing.receiver
    for name, value in (("port", port), ("receiver", receiver)):
        if not isinstance(value, str):
            raise ModuleError(f"{where}: the {name} of a message is {_a(value)}, expected a str")
    at = f"{where}: message on port {show_value(port)}"
    if not isinstance(given, Mapping):
        raise ModuleError(f"{at}: its arrays are {_a(given)}, expected a mapping of names to arrays")
    arrays = _plain_entries(at, "arrays", given, MAX_ARRAYS)
    for name in arrays:
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARACTERS:
            raise ModuleError(f"{at}: an array has the name {show_value(name)}, expected one of its kind's names")
    return OutgoingMessage(_plain(port), arrays, _plain(receiver))


def _plain(name: Any) -> Any:
    """Return a text of a subclass as a plain one, whose methods are those that the checks expect; else the value."""
    return str.__str__(name) if isinstance(name, str) else name


def _plain_entries(where: str, what: str, given: Mapping[Any, Any], limit: int) -> dict[Any, Any]:
    """Return the entries of a mapping as a plain dict, with plain texts as names.

    Raises
    ------
    ModuleError
        If there are more than `limit`, whatever its length says, or if it raises.
    """
    try:
        pairs = [*islice(given.items(), limit + 1)]
        entries = {_plain(name): value for name, value in pairs}
    except Exception as error:
        raise ModuleError(f"{where}: the {what} cannot be read from {_a(given)} ({type(error).__name__})") from error
    if len(pairs) > limit:
        raise ModuleError(f"{where}: returned more than {limit} {what}")
    if len(entries) < len(pairs):
        raise ModuleError(f"{where}: returned two {what} of one name")
    return entries


# --- metrics --------------------------------------------------------------------------------------------------------


def check_metrics(where: str, metrics: object, reserved: frozenset[str] = EVENT_FIELDS) -> dict[str, float]:
    """Return metrics as Python floats, True as 1.0 and False as 0.0.

    Raises
    ------
    ModuleError
        If a name is reserved or not valid, or if a value is not a real number.
    NonFiniteError
        If a value is not finite.
    """
    if not isinstance(metrics, Mapping):
        raise ModuleError(f"{where}: the metrics are {_a(metrics)}, expected a mapping of names to numbers")
    checked = {}
    for name, value in _plain_entries(where, "metrics", metrics, MAX_METRICS).items():
        if not isinstance(name, str) or not _METRIC_NAME.fullmatch(name):
            raise ModuleError(
                f"{where}: a metric has the name {show_value(name)}, expected letters, digits and '_', "
                f"at most {MAX_NAME_CHARACTERS}"
            )
        if name in reserved:
            raise ModuleError(
                f"{where}: a metric has the name {name!r}, which is a field of the event; choose another name"
            )
        checked[name] = _finite_number(f"{where}: {name}", value)
    return checked


def _finite_number(where: str, value: Any) -> float:
    if not isinstance(value, int | float | np.bool_ | np.integer | np.floating) or isinstance(value, np.timedelta64):
        raise ModuleError(f"{where} is {_a(value)}, expected a real number; use float(…)")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    except Exception as error:  # of a subclass
        raise ModuleError(f"{where} is {_a(value)} without a value ({type(error).__name__})") from error
    if not math.isfinite(number):
        raise NonFiniteError(f"{where} is {number:g}")
    return number


# --- outputs --------------------------------------------------------------------------------------------------------


def check_outputs(where: str, outputs: object) -> dict[str, Array]:
    """Return outputs, each an array of numbers or booleans whose name is the name of a file.

    Raises
    ------
    ModuleError
        If a name or a value is not valid.
    """
    if not isinstance(outputs, Mapping):
        raise ModuleError(f"{where}: the outputs are {_a(outputs)}, expected a mapping of names to arrays")
    checked: dict[str, Array] = {}
    files: dict[str, str] = {}
    for name, value in _plain_entries(where, "outputs", outputs, MAX_OUTPUTS).items():
        if problem := _file_name_error(name):
            raise ModuleError(f"{where}: an output has the name {show_value(name)}, {problem}")
        other = files.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise ModuleError(
                f"{where}: the outputs {other!r} and {name!r} have the same file name without regard to case"
            )
        if problem := _output_error(name, value):
            raise ModuleError(f"{where}: output {problem}")
        checked[name] = value
    _check_size(f"{where}: the outputs", checked)
    return checked


def _check_size(where: str, entries: Mapping[str, Any]) -> None:
    """Check the size of arrays as they are stored: a view that repeats one value has no size in memory.

    Raises
    ------
    ModuleError
        If they could not be read back from a commit.
    """
    size = sum(value.nbytes for value in entries.values() if isinstance(value, np.ndarray))
    if size > MAX_COMMIT_FILE_BYTES:
        raise ModuleError(f"{where} have {size} bytes, at most {MAX_COMMIT_FILE_BYTES} are stored")


def _file_name_error(name: object) -> str | None:
    """Return why `name` is not valid as the name of a file, or None."""
    if not isinstance(name, str):
        return "expected a str"
    if not name or len(name) > MAX_NAME_CHARACTERS:
        return f"expected 1 to {MAX_NAME_CHARACTERS} characters"
    if name.startswith(".") or "\\" in name or not is_safe_name(name):
        return "expected the name of a file: no '/', '\\' or control character, and no '.' at its start"
    if len(name.encode()) > MAX_FILE_NAME_BYTES:
        return f"which has {len(name.encode())} bytes, at most {MAX_FILE_NAME_BYTES} are allowed"
    return "which the run uses itself; choose another name" if name in RESERVED_NAMES | _RUN_FILES else None


def _output_error(name: str, value: Any) -> str | None:
    """Return why a value is not valid as an output, or None."""
    if not isinstance(value, np.ndarray):
        if isinstance(value, list | tuple | int | float | np.generic):
            return f"{name!r} is {_a(value)}, expected an array; use numpy.atleast_1d"
        return storage_error({name: value}) or f"{name!r} is {_a(value)}, expected an array"
    if problem := storage_error({name: value}):
        return problem
    if not 1 <= value.ndim <= MAX_DIMENSIONS:
        return f"{name!r} has {value.ndim} dimensions, expected 1 to {MAX_DIMENSIONS}"
    return None


# --- the state and the progress -------------------------------------------------------------------------------------


def check_state(where: str, state: object) -> State:
    """Return a state, a dict of entries that come back from a commit as they are.

    Raises
    ------
    ModuleError
        If it is not a dict, or if an entry would be changed or lost; names it.
    """
    if not isinstance(state, dict):
        raise ModuleError(f"{where}: state() returned {_a(state)}, expected a dict of arrays and plain scalars")
    entries = _plain_entries(f"{where}: state()", "entries", state, MAX_STATE_ENTRIES)
    if problem := storage_error(entries):
        raise ModuleError(f"{where}: state {problem}")
    _check_size(f"{where}: the arrays of the state", entries)
    return entries


def check_device(module: str, device: object) -> str:
    """Return the name of the device that a module uses."""
    name: str = _plain(_text_of(device))
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise ModuleError(f"module {module!r}: its device is {show_value(name)}, expected a name like cpu or cuda")
    return name


def check_progress(where: str, done: Any, total: Any, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status of a module that reports its progress: ``done``, ``total`` and its metrics.

    Raises
    ------
    ModuleError
        If the progress or a metric is not a number.
    """
    progress = {"done": done, "total": total}
    for name, value in progress.items():
        _finite_number(f"{where}: the progress {name}", value)
    return {**check_metrics(where, metrics, frozenset()), **progress}


# --- exceptions -----------------------------------------------------------------------------------------------------

_COMPLETE = (NonFiniteError, KindError, MessageError, ModuleError, CheckpointError)
"""Errors whose message is complete without a traceback; a subclass before its base class."""


@contextmanager
def bounded_exceptions() -> Iterator[None]:
    """Raise an exception of a module whose text or traceback is too long, or not valid Unicode, with a shorter one."""
    try:
        yield
    except Exception as error:
        bounded = bound_exception(error)
        if bounded is error:
            raise
        raise bounded from None


def bound_exception(error: Exception) -> Exception:
    """Return an exception itself, or if its text or traceback is too long, one with both shortened."""
    text = _text_of(error)
    readable = not text.startswith(_UNREADABLE)
    if readable and shorten_text(text, MAX_EXCEPTION_CHARACTERS) == text and _traceback_fits(error):
        return error
    short = shorten_text(text, MAX_EXCEPTION_CHARACTERS)
    for kind in _COMPLETE:
        if isinstance(error, kind):
            return kind(short)
    frames = shorten_text("".join(traceback.format_tb(error.__traceback__)), MAX_ERROR_CHARACTERS)
    return ModuleFailedError(f"{type(error).__name__}: {short}\n{frames}")


_UNREADABLE = "its text cannot be read"


def _text_of(value: object) -> str:
    """Return the text of an object, which code of a module may compute."""
    try:
        return str(value)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as failure:  # SystemExit would end the process
        return f"{_UNREADABLE} ({type(failure).__name__})"


def _traceback_fits(error: Exception) -> bool:
    """Return whether the traceback, with those of the causes, is not too long, without joining it."""
    left = MAX_ERROR_CHARACTERS
    for piece in traceback.TracebackException.from_exception(error).format():
        left -= len(piece)
        if left < 0:
            return False
    return True


def show_name(name: str) -> str:
    """Return a name as it is if it can be shown, else in quotes and shortened, for error messages."""
    return name if name.isprintable() and len(name) <= MAX_NAME_CHARACTERS else show_value(name)


def _a(value: object) -> str:
    """Return the type of a value, for error messages: ``a list``; None as it is."""
    if value is None:
        return "None"
    kind = type(value)
    name = kind.__name__ if kind.__module__ in ("builtins", "numpy") else f"{kind.__module__}.{kind.__name__}"
    shape = f" of shape {show_value(value.shape)}" if isinstance(value, np.ndarray) else ""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {shorten_text(name, MAX_NAME_CHARACTERS)}{shape}"
