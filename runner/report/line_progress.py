"""Progress of a run that Python starts: one line that is updated in place, or calls of a function of the user."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

from actors.coordination.events import Event, LogMessage, RoundStarted, Scored, UpdateFinished
from actors.errors import ModuleError
from actors.graph.graph import Graph
from runner.report.printable import brief, printable_line
from runner.report.progress import Progress, format_duration, format_metrics

WIDTH = 78
"""Columns of the line, so that no terminal breaks it."""


def progress_of(given: Any, graph: Graph) -> Progress:
    """Return what shows the progress of a run.

    Parameters
    ----------
    given : bool or callable
        True: a line on stderr that is updated in place, in a terminal or a notebook; False: nothing; a function is
        called with each event, a dict with ``event`` and its fields as in ``events.jsonl``.
    graph : Graph

    Raises
    ------
    ModuleError
        If it is something else.
    """
    if callable(given):
        return CallbackProgress(graph, given)
    if not isinstance(given, bool):
        raise ModuleError(f"progress is {brief(given)}, expected True, False or a function that is called with events")
    return LineProgress(graph, sys.stderr) if given and _is_watched(sys.stderr) else Progress(graph)


def _is_watched(stream: TextIO | None) -> bool:
    """Return whether a person sees a stream at once: it is a terminal's, or that of a notebook."""
    if stream is None:
        return False
    return stream.isatty() or type(stream).__module__.partition(".")[0] == "ipykernel"


class CallbackProgress(Progress):
    """Calls a function with each event of a run.

    Parameters
    ----------
    graph : Graph
    callback : callable
        Takes a dict. An exception that it raises stops the run.
    """

    def __init__(self, graph: Graph, callback: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(graph)
        self._callback = callback

    def event(self, event: Event) -> None:
        """Call the function."""
        self._callback({"event": event.event, **event.fields()})


class LineProgress(Progress):
    """Shows the round, the module that learns, and the evidence in one line.

    Parameters
    ----------
    graph : Graph
    stream : text stream
    clock : callable
    """

    def __init__(self, graph: Graph, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(graph, clock)
        self._stream = stream
        self._started = clock()
        self._round, self._scores, self._last = 0, "", ""
        self._shown = ""

    def event(self, event: Event) -> None:
        """Update the line; a sentence is written above it."""
        match event:
            case RoundStarted():
                self._round = event.round
            case UpdateFinished():
                self._last = event.module
            case Scored():
                self._scores = "  ".join(format_metrics({"evidence": event.evidence, "accuracy": event.accuracy}))
            case LogMessage():
                self._write(printable_line(event.message), end="\n")
                return
            case _:
                return
        self._write(self._line())

    def status(self, status: Mapping[str, Any]) -> None:
        """Update the line."""
        self._last = next(iter(status["active"]), self._last)
        self._write(self._line())

    def close(self) -> None:
        """Leave the last line."""
        if self._shown:
            self._write(self._line(done=True), end="\n")
            self._shown = ""

    def _line(self, *, done: bool = False) -> str:
        label = self._round_label(self._round) if self._round else "starting"
        seconds = format_duration(self.clock() - self._started)
        parts = [label, "" if done else self._last, self._scores, seconds]
        return "  ".join(part for part in parts if part)[:WIDTH]

    def _write(self, line: str, end: str = "") -> None:
        if line == self._shown and not end:
            return
        with suppress(OSError, ValueError):  # the reader of the stream is gone
            self._stream.write(f"\r{line.ljust(len(self._shown))}{end}")
            self._stream.flush()
        self._shown = "" if end else line
