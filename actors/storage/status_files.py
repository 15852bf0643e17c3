"""What a coordinator leaves beside a run's commits for those who come when it is gone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from actors.storage.filesystem import Storage

_FAILURE = "failure/reason.txt"
_EVENTS = "unheard/events.json"
_MOST = 256 << 20
"""Bytes; more is not read."""


class Notes:
    """Notes on one run.

    Parameters
    ----------
    storage : Storage
        The one in which its commits lie.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def leave_failure(self, reason: str) -> None:
        """Leave a word on what ended the run."""
        self._storage.write(_FAILURE, reason.encode())

    def failure(self) -> str | None:
        """Return what ended the run, if it failed."""
        try:
            return self._storage.read(_FAILURE, _MOST).decode(errors="replace")
        except OSError:
            return None

    def forget_failure(self) -> None:
        """Take that word away: the run goes on."""
        if self.failure() is not None:
            self._storage.delete([_FAILURE])

    def leave_events(self, events: Sequence[tuple[str, float, Mapping[str, Any]]]) -> None:
        """Leave what happened in a run that perhaps nobody has watched: names, Unix times and fields."""
        self._storage.write(_EVENTS, json.dumps(events).encode())

    def events(self) -> list[tuple[str, float, dict[str, Any]]]:
        """Return what happened, as far as it was left; nothing where the file cannot be read."""
        try:
            found = json.loads(self._storage.read(_EVENTS, _MOST))
            return [(str(name), float(when), dict(fields)) for name, when, fields in found]
        except (OSError, ValueError, TypeError):
            return []

    def forget_events(self) -> None:
        """Take the events away: they are written down."""
        self._storage.delete([_EVENTS])
