"""Progress of a run on stderr: a live display on a terminal, otherwise one line for each event."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from actors.coordination.events import (
    BlockFinished,
    ChainSelected,
    Converged,
    Event,
    LogMessage,
    ModuleDied,
    ModulePlaced,
    ModuleRecovered,
    RoundStarted,
    Scored,
    UpdateFinished,
    UpdateStarted,
)
from actors.graph.graph import Graph
from actors.limits import MAX_LISTED_NAMES, MAX_NAME_CHARACTERS
from runner.report.console import SafeConsole
from runner.report.printable import printable, printable_line

HEARTBEAT_SECONDS = 30.0
"""Seconds without output after which the progress of a long update is written."""

REFRESHES_PER_SECOND = 2.5
"""Of the display, each of which takes about 2 ms."""

MAX_SPARKS = 30
"""Rounds whose evidence is shown as bars."""

_BARS = "▁▂▃▄▅▆▇█"

_NATS = frozenset({"evidence", "score"})
"""Measures of a run, which modules have, too; in nats."""

_STATUS_FIELDS = frozenset({"doing", "done", "total"})
"""The fields of a module's status that are not metrics."""


class Progress:
    """Base class of the displays; shows nothing.

    Parameters
    ----------
    graph : Graph
    clock : callable
        Returns monotonic time in seconds.
    """

    def __init__(self, graph: Graph, clock: Callable[[], float] = time.monotonic) -> None:
        self.graph = graph
        self.clock = clock

    def event(self, event: Event) -> None:
        """Show an event."""

    def log(self, message: str) -> None:
        """Show a sentence."""
        self.event(LogMessage(message))

    def status(self, status: Mapping[str, Any]) -> None:
        """Show the run's status (:meth:`actors.coordination.coordinator.Coordinator.status`)."""

    def close(self) -> None:
        """Show the last state and restore the terminal; may be called more than once."""

    def _round_label(self, number: int) -> str:
        """Return ``round 2/5``, or ``round 2`` with one scheduled round or after the last (the script interface)."""
        rounds = self.graph.schedule.rounds
        return f"round {number}/{rounds}" if number <= rounds and rounds > 1 else f"round {number}"


class PlainProgress(Progress):
    """Writes one line for each event of interest.

    Parameters
    ----------
    graph : Graph
    stream : text stream
    clock : callable
    single : bool
        Whether each update is a commit, as in scripts: one line has the update's figures and the scores after it.
    """

    def __init__(
        self, graph: Graph, stream: TextIO, clock: Callable[[], float] = time.monotonic, *, single: bool = False
    ) -> None:
        super().__init__(graph, clock)
        self._stream = stream
        self._single = single
        self._update: list[str] = []  # the line of an update that is not committed yet
        self._last_written = clock()

    def event(self, event: Event) -> None:
        """Write a line, if the event is of interest."""
        line: list[str] = []
        match event:
            case ModulePlaced():
                line = ["placed", event.module, f"node {event.node}", f"process {event.pid}", event.device]
            case BlockFinished():
                evidence = format_metrics({"evidence": event.evidence})
                line = [self._round_label(event.round), "block", f"{event.exchanges} exchanges", *evidence]
            case ChainSelected():
                best = f"best: {event.origin} (chain {event.chain})"
                evidence = format_metrics({"evidence": event.evidence})
                line = [self._round_label(event.round), "chains", best, f"{event.moves} moves kept", *evidence]
            case UpdateFinished(exchange=None) if event.round > 0:
                metrics = format_metrics(event.metrics, own=True)
                line = [self._round_label(event.round), event.module, format_duration(event.seconds), *metrics]
                if self._single:
                    line, self._update = [], line
            case Scored() if self._single:
                scores = [] if event.accuracies else format_metrics({"accuracy": event.accuracy})
                line, self._update = [*self._update, *scores, *format_accuracies(event)], []
            case Scored():
                scores = format_metrics({"evidence": event.evidence, "accuracy": event.accuracy})
                line = [self._round_label(event.round), "committed", *scores, *format_accuracies(event)]
            case Converged():
                line = [self._round_label(event.round), f"converged: the score rose by {event.rise:.1f} nats"]
            case LogMessage():
                line = [event.message]
        if line:
            self._write(line)

    def status(self, status: Mapping[str, Any]) -> None:
        """Write the progress of the active modules, if nothing was written for :data:`HEARTBEAT_SECONDS`."""
        if self.clock() - self._last_written < HEARTBEAT_SECONDS:
            return
        label = self._round_label(status["round"])
        for module, activity in status["active"].items():
            count, total = counts_of(activity)
            done = f"{count:g}/{total:g}" if total else ""
            line = [label, module, str(activity.get("doing", "")), done, *format_metrics(activity, own=True)]
            self._write([part for part in line if part])

    def _write(self, line: list[str]) -> None:
        self._last_written = self.clock()
        with suppress(OSError, ValueError):  # the reader of the stream is gone
            print(printable("  ".join(map(str, line))), file=self._stream, flush=True)


class RichProgress(Progress):
    """Shows rounds, the model as a tree with what each module does, and scores, in a display that is updated in place.

    Parameters
    ----------
    graph : Graph
    console : Console
    clock : callable
    live : bool
        Whether to update the terminal; otherwise :meth:`render` returns the display.
    """

    def __init__(
        self, graph: Graph, console: Console, clock: Callable[[], float] = time.monotonic, *, live: bool = True
    ) -> None:
        super().__init__(graph, clock)
        self._console = console
        self._round_number = 0
        self._steps_done = 0
        self._started_at = self._round_started = clock()
        self._round_seconds: list[float] = []
        self._active: dict[str, Mapping[str, Any]] = {}
        self._finished: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._scores: Scored | None = None
        self._evidence: list[float] = []  # of the last rounds
        self._lost: set[str] = set()  # modules that died and are not back yet
        self._deaths = 0
        self._tree = _tree_of(graph)
        # stdout is not redirected: a run's result is printed there.
        options: dict[str, Any] = {"redirect_stdout": False, "refresh_per_second": REFRESHES_PER_SECOND}
        self._live = Live(get_renderable=self.render, console=console, **options) if live else None
        if self._live:
            self._live.start()

    def event(self, event: Event) -> None:
        """Update the display."""
        match event:
            case RoundStarted():
                self._round_number, self._steps_done, self._round_started = event.round, 0, self.clock()
            case UpdateFinished():
                self._active.pop(event.module, None)
                self._finished[event.module] = (event.seconds, dict(event.metrics))
                self._steps_done += event.exchange is None
            case UpdateStarted():
                self._active.setdefault(event.module, {})
            case ModuleDied():
                self._lost.add(event.module)
                self._deaths += 1
            case ModuleRecovered():
                self._lost.discard(event.module)
            case BlockFinished():
                self._steps_done += 1
            case Scored():
                self._scores = event
                if event.evidence is not None:
                    self._evidence = [*self._evidence, event.evidence][-MAX_SPARKS:]
                self._round_seconds.append(self.clock() - self._round_started)
            case LogMessage():
                self._console.print(Text(printable(event.message)))

    def status(self, status: Mapping[str, Any]) -> None:
        """Update the display."""
        self._round_number = status["round"]
        self._active = dict(status["active"])

    def close(self) -> None:
        """Show the last state and end the live display."""
        self._active = {}
        if self._live:
            self._live.stop()

    def render(self) -> Group:
        """Return the display."""
        table = Table.grid(padding=(0, 2), expand=True)
        # Fixed widths, so that only the metrics in the last column are truncated.
        names = [f"{indent}{name}" for name, indent in self._tree.items()]
        name_width = max(len(name) + 2 for name in (*names, self._round_label(self._round_number)))
        for width in (min(name_width, 30), self._bar_width, 11):
            table.add_column(min_width=width, max_width=width, no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        rounds = self.graph.schedule.rounds
        name = Text(self._round_label(self._round_number) if self._round_number else "starting", "bold")
        table.add_row(name, ProgressBar(rounds, self._completed(), self._bar_width), self._elapsed(), self._remaining())
        for module, indent in self._tree.items():
            table.add_row(*self._module_row(module, indent))
        lines: list[RenderableType] = [table]
        if self._scores is not None:
            shown = format_metrics({"evidence": self._scores.evidence, "accuracy": self._scores.accuracy})
            scores = "  ".join([*shown, *format_accuracies(self._scores)])
            label = self._round_label(self._scores.round)
            spark = f"  {sparkline(self._evidence)}" if len(self._evidence) > 1 else ""
            lines.append(Text.assemble("after ", label, "  ", (scores, "bold"), (spark, "cyan")))
        if self._deaths:
            away = f", {', '.join(sorted(self._lost))} not back yet" if self._lost else ", all are back"
            lines.append(Text(f"{self._deaths} {'death' if self._deaths == 1 else 'deaths'}{away}", "red"))
        return Group(*lines)

    def _module_row(self, module: str, indent: str) -> list[Any]:
        """Return the name, the bar, the count or the seconds, and the metrics of a module."""
        if module in self._lost:
            return [Text(f"✗ {indent}{module}", "bold red"), "", Text("died", "red"), "is restarted"]
        if module in self._active:
            return self._active_row(f"▸ {indent}{module}", self._active[module])
        if module in self._finished:
            seconds, metrics = self._finished[module]
            shown = Text("  ".join(format_metrics(metrics, own=True)), "dim")
            return [Text(f"  {indent}{module}"), "", format_duration(seconds), shown]
        return [Text(f"  {indent}{module}", "dim"), "", "", ""]

    @property
    def _bar_width(self) -> int:
        return 24 if self._console.width >= 80 else 10

    def _active_row(self, name: str, activity: Mapping[str, Any]) -> list[Any]:
        done, total = counts_of(activity)
        bar = ProgressBar(total or None, done, self._bar_width, pulse=not total)
        count = f"{done:g}/{total:g}" if total else printable_line(activity.get("doing", "learning"))
        return [Text(name, "bold cyan"), bar, Text(count), Text("  ".join(format_metrics(activity, own=True)))]

    def _completed(self) -> float:
        """Return the number of completed rounds, including the completed fraction of the current one."""
        if not self._round_number:
            return 0.0
        counts = map(counts_of, self._active.values())
        fractions = [min(done / total, 1.0) for done, total in counts if total]
        fraction = (self._steps_done + sum(fractions)) / max(len(self.graph.schedule.steps), 1)
        return float(self._round_number - 1 + min(fraction, 1.0))

    def _elapsed(self) -> str:
        return format_duration(self.clock() - self._started_at)

    def _remaining(self) -> str:
        """Return the estimated remaining time, from the mean duration of the finished rounds."""
        finished = len(self._round_seconds)
        left = self.graph.schedule.rounds - finished
        if not finished or left <= 0:
            return ""
        scored = 0 if self._scores is None else self._scores.round
        running = self.clock() - self._round_started if self._round_number > scored else 0.0
        return f"about {format_duration(max(left * sum(self._round_seconds) / finished - running, 0.0))} left"


def _tree_of(graph: Graph) -> dict[str, str]:
    """Return each module that learns, the most abstract first, with what is written before its name in a tree.

    A module is drawn below the first of those that it sends to.
    """
    below: dict[str, list[str]] = {}
    for connection in graph.connections:
        below.setdefault(connection.upper, []).append(connection.lower)
    uppers = {connection.lower for connection in graph.connections}
    tree: dict[str, str] = {}

    def add(module: str, depth: int) -> None:
        if module not in tree and module not in graph.sources:
            tree[module] = f"{'  ' * (depth - 1)}└ " if depth else ""
            for lower in below.get(module, ()):
                add(lower, depth + 1)

    for module in reversed(list(graph.modules)):
        if module not in uppers:
            add(module, 0)
    return tree


def sparkline(values: Sequence[float]) -> str:
    """Return values as a line of bars, the least the lowest; those that are not finite are left out."""
    known = [value / 2 for value in values if math.isfinite(value)]  # their differences are finite, too
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    return "".join(_BARS[min(int(8 * ((value - low) / span)) if span else 3, 7)] for value in known)


def make_script_progress(graph: Graph, *, verbose: bool) -> Progress:
    """Return the progress of a script for stderr: a line for each update, or only what is said once and faults."""
    return PlainProgress(graph, sys.stderr, single=True) if verbose else _SentencesAlone(graph, sys.stderr)


class _SentencesAlone(PlainProgress):
    """Writes sentences, such as those about data and deaths, but no line for each event."""

    def event(self, event: Event) -> None:
        """Write a sentence."""
        if isinstance(event, LogMessage):
            super().event(event)

    def status(self, status: Mapping[str, Any]) -> None:
        """Write nothing."""


def make_progress(graph: Graph, terminal: bool | None = None) -> Progress:
    """Return the progress display for stderr.

    Parameters
    ----------
    graph : Graph
    terminal : bool, optional
        Whether stderr is a terminal that supports a live display; by default, this is detected.
    """
    console = SafeConsole(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal if terminal is None else terminal:
        return RichProgress(graph, console)
    return PlainProgress(graph, sys.stderr)


def format_duration(seconds: float) -> str:
    """Return a duration in seconds as text: ``0.4 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_metrics(metrics: Mapping[str, Any], *, own: bool = False) -> list[str]:
    """Return ``name=value`` for each numeric metric, of at most :data:`actors.limits.MAX_LISTED_NAMES`.

    Evidence and score are in nats. Those of a module, which are not those of the run, are called its `own`.
    """
    return [
        f"{'own ' * (own and name in _NATS)}{printable_line(name, MAX_NAME_CHARACTERS)}={_format_value(name, value)}"
        for name, value in islice(metrics.items(), MAX_LISTED_NAMES)
        if isinstance(value, int | float) and name not in _STATUS_FIELDS
    ]


def format_accuracies(event: Scored) -> list[str]:
    """Return ``name accuracy=value`` for each module, if several are labelled."""
    return [
        f"{printable_line(name, MAX_NAME_CHARACTERS)} accuracy={_format_value('accuracy', value)}"
        for name, value in islice(event.accuracies.items(), MAX_LISTED_NAMES)
    ]


def counts_of(activity: Mapping[str, Any]) -> tuple[float, float]:
    """Return how much of its work a module has done, and of how much; zeros if it did not report two numbers."""
    done, total = activity.get("done", 0), activity.get("total", 0)
    valid = all(isinstance(value, int | float) and 0 <= value < math.inf for value in (done, total))
    return (float(done), float(total)) if valid else (0.0, 0.0)


def _format_value(name: str, value: float) -> str:
    if name == "accuracy":
        return f"{value:.3f}"
    value = math.copysign(math.inf, value) if abs(value) > 1e300 else float(value)
    return (f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}") + " nats" * (name in _NATS)
