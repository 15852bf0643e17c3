"""A run's log: ``events.jsonl``, one JSON object a line, for people, programs and the timeline."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EventLog:
    """What happened in a run, in the order in which the driver heard of it.

    Each line holds ``time`` (Unix seconds), ``run``, ``event``, and the event's own fields, ``round``, ``step`` and
    ``module`` among them where it has them.

    Parameters
    ----------
    path : Path
    run : str
    """

    path: Path
    run: str

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the events; what a power cut has left of a line is passed over."""
        for line in lines(self.path):
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event and isinstance(event.get("time"), int | float):
                    yield event

    def append(self, events: Sequence[tuple[str, float, Mapping[str, Any]]]) -> None:
        """Write events down: name, Unix time and fields."""
        if events:
            with self.path.open("a", encoding="utf-8") as file:
                for name, when, fields in events:
                    file.write(json.dumps({"time": when, "run": self.run, "event": name, **fields}) + "\n")

    def last(self) -> float:
        """Return the time of the last event of the coordinator's that was written down; 0 where there is none."""
        told = (float(event["time"]) for event in self if event["event"] != "scores")  # those are the driver's own
        return max(told, default=0.0)

    def mend(self) -> None:
        """Take out the line that a process that was killed, or a disk that was full, has left unfinished."""
        written = lines(self.path)
        if written and not written[-1].endswith("\n"):
            whole = self.path.stat().st_size - len(self.path.read_bytes().rpartition(b"\n")[2])
            os.truncate(self.path, whole)


def lines(path: Path) -> list[str]:
    """Return a file's lines with their ends; none where there is no file."""
    return path.read_bytes().decode(errors="replace").splitlines(keepends=True) if path.exists() else []
