"""The event log of a run: ``events.jsonl``, one JSON object per line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.coordination.events import Scored, TimedEvent, parse_event


@dataclass(frozen=True)
class EventLog:
    """The events of a run, in the order in which the driver received them.

    Each line has ``time`` (seconds since 1970), ``run``, ``event`` (its name), and the fields of the event, such as
    ``round``, ``step`` and ``module``.

    Parameters
    ----------
    path : Path
    run : str
    """

    path: Path
    run: str

    def __iter__(self) -> Iterator[TimedEvent]:
        """Yield the events; incomplete lines and unknown events are skipped."""
        totals: dict[str, float] = {}
        for line in read_lines(self.path):
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("time"), int | float):
                    event = parse_event(str(record.get("event")), _with_update_seconds(record, totals))
                    if event is not None:
                        yield TimedEvent(float(record["time"]), event)

    def append(self, events: Sequence[TimedEvent]) -> None:
        """Append events to the file."""
        if events:
            with self.path.open("a", encoding="utf-8") as file:
                for each in events:
                    common = {"time": each.time, "run": self.run, "event": each.event.event}
                    file.write(json.dumps({**common, **each.event.fields()}) + "\n")

    def last_time(self) -> float:
        """Return the time of the coordinator's last event in the log, 0 if there is none."""
        times = (each.time for each in self if not isinstance(each.event, Scored))  # emitted by the driver
        return max(times, default=0.0)

    def repair(self) -> None:
        """Remove an incomplete last line, left by a killed process or a full disk."""
        lines = read_lines(self.path)
        if lines and not lines[-1].endswith("\n"):
            complete_bytes = self.path.stat().st_size - len(self.path.read_bytes().rpartition(b"\n")[2])
            os.truncate(self.path, complete_bytes)


def _with_update_seconds(record: Mapping[str, Any], totals: dict[str, float]) -> Mapping[str, Any]:
    """Return a record with the seconds of the update; version 0.1 logged the module's running total instead."""
    total = record.get("total_seconds")
    if record.get("event") != "updated" or not isinstance(total, int | float):
        return record
    module = str(record.get("module"))
    before, totals[module] = totals.get(module, 0.0), float(total)
    # A restarted coordinator continues with the total of its last commit, which may be lower than the last in the log.
    return {**record, "seconds": max(float(total) - before, 0.0)}


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file with their line ends; none if there is no file."""
    return path.read_bytes().decode(errors="replace").splitlines(keepends=True) if path.exists() else []
