"""Timing of the phases of a command."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Measures the duration of each phase of a command.

    Parameters
    ----------
    started : float
        Start of the process (Unix time).
    marks : dict of str to float
        Seconds by name of the phase.
    """

    started: float
    marks: dict[str, float] = field(default_factory=dict)
    _last: float | None = None

    def mark(self, name: str) -> None:
        """End the phase `name`, which began at the previous mark or the start."""
        now = time.time()
        self.marks[name] = round(now - (self._last or self.started), 3)
        self._last = now
