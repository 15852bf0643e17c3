"""The event log of a run: ``events.jsonl``, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, get_args, get_origin, get_type_hints

from actors.coordination.events import EVENTS, Event, Scored, TimedEvent, parse_event
from actors.limits import MAX_EVENT_BYTES, MAX_EVENT_LOG_BYTES, MAX_EVENT_VALUES, MAX_INTEGER
from actors.storage.field_checks import check_number
from actors.storage.safe_files import parse_json
from runner.runs.run_files import RunFiles

_BLOCK = 1 << 16


@dataclass
class LogPosition:
    """Up to which events of a run were received, by the incarnation of the coordinator that emitted them.

    Parameters
    ----------
    numbers : dict of str to int
        The number of the last event of each incarnation.
    time : float
        The Unix time of the last event without a number, which a coordinator before version 0.3 emitted.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    time: float = 0.0

    def is_new(self, timed: TimedEvent) -> bool:
        """Return whether an event was not received yet; only for events without a number, time decides."""
        if timed.incarnation:
            return timed.number > self.numbers.get(timed.incarnation, -1)
        return timed.time > self.time

    def is_next(self, timed: TimedEvent) -> bool:
        """Return whether no event lies between the last one that was received and this one."""
        return not timed.incarnation or timed.number <= self.numbers.get(timed.incarnation, -1) + 1

    def advance(self, timed: TimedEvent) -> None:
        """Note that an event was received."""
        if timed.incarnation:
            self.numbers[timed.incarnation] = max(timed.number, self.numbers.get(timed.incarnation, -1))
        elif not isinstance(timed.event, Scored):  # emitted by the driver
            self.time = max(timed.time, self.time)


@dataclass(frozen=True)
class EventLog:
    """The events of a run, in the order in which the driver received them.

    Each line has ``time`` (seconds since 1970), ``run``, ``event`` (its name), the fields of the event, such as
    ``round``, ``step`` and ``module``, and for events of the coordinator ``number`` and ``incarnation``
    (:class:`actors.coordination.events.TimedEvent`).

    Parameters
    ----------
    path : Path
    run : str
    files : RunFiles, optional
        The files of its directory, which it shares with others.
    """

    path: Path
    run: str
    files: RunFiles | None = None

    @property
    def _files(self) -> RunFiles:
        return self.files or RunFiles(self.path.parent)

    def __iter__(self) -> Iterator[TimedEvent]:
        """Yield the events; incomplete or too long lines, unknown events and those with invalid fields are skipped.

        Raises
        ------
        RunDirectoryError
            If the file is too large or not a regular one.
        """
        totals: dict[str, float] = {}
        for line in self._lines():
            yield from self._parse(line, totals)

    def read_from(self, offset: int, totals: dict[str, float] | None = None) -> tuple[list[TimedEvent], int]:
        """Return the events of the complete lines from a position of the file on, and the position after them.

        From a position beyond the file's end, as after a run was started anew, it is read from its beginning. `totals`
        holds what was read of the running totals of seconds, which version 0.1 logged.

        Raises
        ------
        RunDirectoryError
            If the file is too large or not a regular one.
        """
        size = self._files.size(self.path.name) or 0
        if size == offset:
            return [], offset
        found: list[TimedEvent] = []
        try:
            with self._files.reader(self.path.name, MAX_EVENT_LOG_BYTES) as file:
                position = file.seek(offset if offset <= size else 0)
                while line := file.readline(MAX_EVENT_BYTES):
                    if not line.endswith(b"\n") and len(line) < MAX_EVENT_BYTES:
                        break
                    position += len(line)
                    found += self._parse(line, {} if totals is None else totals)
        except OSError as error:
            raise self._files.unreadable(self.path.name, error.strerror) from error
        return found, position

    def _parse(self, line: bytes, totals: dict[str, float]) -> list[TimedEvent]:
        """Return the event of a line; none if it is not valid."""
        with suppress(ValueError):
            record = parse_json(line, MAX_EVENT_VALUES)
            if isinstance(record, dict):
                when = check_number(record.get("time"), "time")
                event = parse_checked_event(record.get("event"), _with_update_seconds(record, totals))
                if event is not None:
                    return [TimedEvent(when, event, *_number_of(record))]
        return []

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines of the file that are not too long; none if there is no file."""
        if not self._files.exists(self.path.name):
            return
        try:
            with self._files.reader(self.path.name, MAX_EVENT_LOG_BYTES) as file:
                complete = True
                while line := file.readline(MAX_EVENT_BYTES):
                    starts, complete = complete, line.endswith(b"\n")
                    if starts and (complete or len(line) < MAX_EVENT_BYTES):
                        yield line
        except OSError as error:
            raise self._files.unreadable(self.path.name, error.strerror) from error

    def append(self, events: Sequence[TimedEvent]) -> None:
        """Append events to the file."""
        lines = []
        for each in events:
            common = {"time": each.time, "run": self.run, "event": each.event.event}
            numbered = {"number": each.number, "incarnation": each.incarnation} if each.incarnation else {}
            lines.append(json.dumps({**common, **each.event.fields(), **numbered}) + "\n")
        if lines:
            self._files.append(self.path.name, "".join(lines).encode())

    def last_time(self) -> float:
        """Return the time of the coordinator's last event in the log, 0 if there is none."""
        times = (each.time for each in self if not isinstance(each.event, Scored))  # emitted by the driver
        return max(times, default=0.0)

    def position(self) -> LogPosition:
        """Return up to which events of each incarnation of the coordinator are in the log."""
        position = LogPosition()
        for each in self:
            position.advance(each)
        return position

    def repair(self) -> None:
        """Remove an incomplete last line, left by a killed process or a full disk."""
        size = self._files.size(self.path.name)
        if size:
            try:
                with self._files.reader(self.path.name, MAX_EVENT_LOG_BYTES) as file:
                    complete = _end_of_last_line(file, size)
            except OSError as error:
                raise self._files.unreadable(self.path.name, error.strerror) from error
            if complete < size:
                self._files.truncate(self.path.name, complete)


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    """Return the size of a file without an incomplete last line."""
    end = size
    while end > 0:
        start = max(end - _BLOCK, 0)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def parse_checked_event(name: Any, given: Mapping[str, Any]) -> Event | None:
    """Return the event called `name` with the fields `given`.

    Returns
    -------
    Event
        None where there is no such event, or a field is missing or has another type.
    """
    event = parse_event(name, given) if isinstance(name, str) else None
    if event is None:
        return None
    hints = _FIELD_TYPES[type(event)]
    return event if all(_has_type(value, hints[key]) for key, value in vars(event).items() if key in hints) else None


_FIELD_TYPES = {kind: get_type_hints(kind) for kind in EVENTS.values()}


def _has_type(value: Any, hint: Any) -> bool:
    """Return whether a field of an event has its type; integers are floats too, but booleans are neither."""
    if get_origin(hint) is UnionType:
        return any(_has_type(value, option) for option in get_args(hint))
    if hint is float:
        return type(value) is float or _has_type(value, int)
    if hint is int:
        return type(value) is int and abs(value) <= MAX_INTEGER
    if get_origin(hint) is Mapping:
        return isinstance(value, Mapping) and all(_has_type(number, float | bool) for number in value.values())
    return type(value) is hint if isinstance(hint, type) else True


def _number_of(record: Mapping[str, Any]) -> tuple[int, str]:
    """Return the number of an event and the coordinator's incarnation; -1 and "" in lines of old runs."""
    number, incarnation = record.get("number"), record.get("incarnation")
    if isinstance(number, int) and not isinstance(number, bool) and isinstance(incarnation, str) and incarnation:
        return number, incarnation
    return -1, ""


def _with_update_seconds(record: Mapping[str, Any], totals: dict[str, float]) -> Mapping[str, Any]:
    """Return a record with the seconds of the update; version 0.1 logged the module's running total instead."""
    total = record.get("total_seconds")
    if record.get("event") != "updated" or not _has_type(total, float):
        return record
    module = str(record.get("module"))
    before, totals[module] = totals.get(module, 0.0), float(total or 0)
    # A restarted coordinator continues with the total of its last commit, which may be lower than the last in the log.
    return {**record, "seconds": max(totals[module] - before, 0.0)}
