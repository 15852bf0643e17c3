"""Status files beside a run's commits: why the run failed, and events that no client has read yet."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from actors.limits import MAX_FAILURE_BYTES, MAX_STATUS_FILE_BYTES, MAX_STATUS_VALUES
from actors.storage.field_checks import check_integer, check_number, check_text
from actors.storage.filesystem import Storage
from actors.storage.safe_files import parse_json

_FAILURE = "failure/reason.txt"
_EVENTS = "unread_events/events.json"
"""The events file of runs before version 0.3."""
_OLD_EVENTS = "unheard/events.json"
"""The events file of runs before version 0.2.0."""
_PARTS = "unread_events/events-"
"""Files of events: what did not fit into the memory of a coordinator without a driver, and what it had at its end."""

NumberedEvent: TypeAlias = tuple[str, float, Mapping[str, Any], int, str]
SavedEvent: TypeAlias = tuple[str, float, Mapping[str, Any]] | NumberedEvent
"""An event's name, Unix time in seconds and fields, and its number and incarnation, which old runs lack."""


class StatusFiles:
    """Files that a coordinator writes for clients that connect after it has ended.

    Parameters
    ----------
    storage : Storage
        The storage of the run's commits.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._next_part: int | None = None
        self._read: list[str] = []

    def write_failure(self, reason: str) -> None:
        """Write the reason why the run failed; of a long one, the beginning."""
        self._storage.write(_FAILURE, reason.encode(errors="backslashreplace")[:MAX_FAILURE_BYTES])

    def read_failure(self) -> str | None:
        """Return the reason why the run failed, or None if there is no readable failure file."""
        try:
            return self._storage.read(_FAILURE, MAX_FAILURE_BYTES).decode(errors="replace")
        except OSError:
            return None

    def clear_failure(self) -> None:
        """Delete the failure file, because the run continues."""
        if self.read_failure() is not None:
            self._storage.delete([_FAILURE])

    def append_events(self, events: Sequence[SavedEvent]) -> None:
        """Write events that no client may have read, into a file of their own: their names, Unix times and fields.

        Their numbers and incarnations may follow. A file replaces no other one, so that none is lost that a client has
        not read yet. Events that are too large for one file are distributed over several.
        """
        data = json.dumps(events).encode()
        if len(data) > MAX_STATUS_FILE_BYTES and len(events) > 1:
            self.append_events(events[: len(events) // 2])
            self.append_events(events[len(events) // 2 :])
            return
        if self._next_part is None:
            self._next_part = max((int(path[-11:-5]) for path in self._parts()), default=0) + 1
        self._storage.write(f"{_PARTS}{self._next_part:06d}.json", data)
        self._next_part += 1

    def read_events(self) -> list[SavedEvent]:
        """Return the unread events, from the old file where there is no new one; those of unreadable files are missing.

        Each has the shape in which it was written: runs before version 0.3 have no numbers.
        """
        self._read = []
        found = [event for path in self._parts() for event in self._read_events_file(path)]
        # Version 0.2 wrote the last events of a coordinator into one file, which could replace that of another one.
        return found + (self._read_events_file(_EVENTS) or self._read_events_file(_OLD_EVENTS))

    def clear_events(self) -> None:
        """Delete the files from which events were read last, because these are in the event log now.

        Files that were written since, and those that could not be read, are kept.
        """
        if self._read:
            self._storage.delete(self._read)
            self._read = []

    def _parts(self) -> list[str]:
        """Return the files of :meth:`append_events`, oldest first."""
        with suppress(OSError):
            return sorted(path for path in self._storage.files() if re.fullmatch(rf"{_PARTS}[0-9]{{6}}\.json", path))
        return []

    def _read_events_file(self, path: str) -> list[SavedEvent]:
        """Return the events in a file; none if it cannot be read."""
        with suppress(OSError, ValueError, TypeError):
            data = self._storage.read(path, MAX_STATUS_FILE_BYTES)
            events = [unpack_event(*event) for event in parse_json(data, MAX_STATUS_VALUES)]
            self._read.append(path)
            return events
        return []


def unpack_event(name: Any, when: Any, fields: Any, number: Any = None, incarnation: Any = None) -> SavedEvent:
    """Return an event that was written as JSON.

    Raises
    ------
    ValueError
        If a value has another type.
    """
    if not isinstance(fields, dict):
        raise ValueError("the fields of an event are no map")
    event = (check_text(name, "name"), check_number(when, "time"), fields)
    if number is None:
        return event
    return (*event, check_integer(number, "number"), check_text(incarnation, "incarnation"))
