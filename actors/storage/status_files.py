"""Status files beside a run's commits: why the run failed, and events that no client has read yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from actors.storage.filesystem import Storage

_FAILURE = "failure/reason.txt"
_EVENTS = "unread_events/events.json"
_OLD_EVENTS = "unheard/events.json"
"""The events file of runs before version 0.2.0."""
_MAX_BYTES = 256 << 20
"""Largest part of a status file that is read."""


class StatusFiles:
    """Files that a coordinator writes for clients that connect after it has ended.

    Parameters
    ----------
    storage : Storage
        The storage of the run's commits.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def write_failure(self, reason: str) -> None:
        """Write the reason why the run failed."""
        self._storage.write(_FAILURE, reason.encode())

    def read_failure(self) -> str | None:
        """Return the reason why the run failed, or None if there is no readable failure file."""
        try:
            return self._storage.read(_FAILURE, _MAX_BYTES).decode(errors="replace")
        except OSError:
            return None

    def clear_failure(self) -> None:
        """Delete the failure file, because the run continues."""
        if self.read_failure() is not None:
            self._storage.delete([_FAILURE])

    def write_events(self, events: Sequence[tuple[str, float, Mapping[str, Any]]]) -> None:
        """Write events that no client may have read: their names, Unix times in seconds and fields."""
        self._storage.write(_EVENTS, json.dumps(events).encode())

    def read_events(self) -> list[tuple[str, float, dict[str, Any]]]:
        """Return the unread events, from the old file where there is no new one; none if the file is not readable."""
        try:
            events = json.loads(self._read_events_file())
            return [(str(name), float(when), dict(fields)) for name, when, fields in events]
        except (OSError, ValueError, TypeError):
            return []

    def clear_events(self) -> None:
        """Delete the events, old and new, because they are in the event log now."""
        self._storage.delete([_EVENTS, _OLD_EVENTS])

    def _read_events_file(self) -> bytes:
        try:
            return self._storage.read(_EVENTS, _MAX_BYTES)
        except FileNotFoundError:
            return self._storage.read(_OLD_EVENTS, _MAX_BYTES)
