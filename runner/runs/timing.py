"""Timing of the phases of a command, and of the intervals in which modules compute."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
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


MAX_INTERVALS = 1024
"""Number of disjoint intervals that are kept; of earlier ones only the sum is, and later ones count from their end."""


@dataclass
class ComputingTime:
    """The intervals of time in which any module computes, and their union.

    Attributes
    ----------
    first, last : float
        Between the beginning of the first interval and the end of the last one.
    """

    first: float = math.inf
    last: float = -math.inf
    _starts: list[float] = field(default_factory=list)  # of disjoint intervals, in order
    _ends: list[float] = field(default_factory=list)
    _earlier: float = 0.0  # seconds of intervals before these
    _earlier_end: float = -math.inf

    def add(self, started: float, ended: float) -> None:
        """Add an interval, which may overlap others or lie between them; nothing if it is empty."""
        started = max(started, self._earlier_end)
        if not started < ended:
            return
        self.first, self.last = min(self.first, started), max(self.last, ended)
        # Those that it overlaps or touches are from the first one that ends after its start to before the first one
        # that starts after its end.
        first, stop = bisect_left(self._ends, started), bisect_left(self._starts, ended)
        stop += stop < len(self._starts) and self._starts[stop] == ended
        if first < stop:
            started, ended = min(started, self._starts[first]), max(ended, self._ends[stop - 1])
        self._starts[first:stop], self._ends[first:stop] = [started], [ended]
        while len(self._starts) > MAX_INTERVALS:
            self._earlier_end = self._ends.pop(0)
            self._earlier += self._earlier_end - self._starts.pop(0)

    @property
    def seconds(self) -> float:
        """Seconds in which any module computed."""
        return self._earlier + sum(ended - started for started, ended in zip(self._starts, self._ends, strict=True))

    def idle_share(self, since: float) -> float | None:
        """Return the share of the time from `since` to the end of the last interval in which no module computed.

        None if no interval ends after `since`. No interval may begin before.
        """
        if not self.last > since:
            return None
        return min(max(1.0 - self.seconds / (self.last - since), 0.0), 1.0)
