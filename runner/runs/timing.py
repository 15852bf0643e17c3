"""Where the time of a command goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Where the time of a run goes, in seconds.

    Parameters
    ----------
    started : float
        ``time.time()`` when the process began.
    """

    started: float
    marks: dict[str, float] = field(default_factory=dict)
    _last: float | None = None

    def mark(self, name: str) -> None:
        """Note that what is called `name` took from the last mark (or the start) until now."""
        now = time.time()
        self.marks[name] = round(now - (self._last or self.started), 3)
        self._last = now
