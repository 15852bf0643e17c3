"""Shows a run to a person, on stderr: a live display on a terminal, one plain line an event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from actors.coordination.router import UpdateSeconds
from actors.graph.graph import Graph

HEARTBEAT = 30.0
"""Seconds after which a log tells again how far a long update is."""

_PLACE = {"round", "step", "module", "exchange", "temperature", "seconds", "total_seconds", "message_bytes"}


class Progress:
    """Shows nothing; what the others are to the runner.

    Parameters
    ----------
    graph : Graph
    clock : callable
        Seconds that only grow.
    """

    def __init__(self, graph: Graph, clock: Callable[[], float] = time.monotonic) -> None:
        self.graph = graph
        self.clock = clock
        self._took = UpdateSeconds()

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Take in something that happened: an event of the coordinator's, or ``scores``."""

    def log(self, message: str) -> None:
        """Take in a sentence."""
        self.event("log", {"message": message})

    def status(self, status: Mapping[str, Any]) -> None:
        """Take in where the run stands (:meth:`actors.coordination.coordinator.Coordinator.status`)."""

    def close(self) -> None:
        """Show the last state and leave the terminal in order; may be called twice."""

    def _seconds(self, fields: Mapping[str, Any]) -> float:
        """Return how long the update took that an ``updated`` event tells of."""
        return float(fields.get("seconds", self._took.of(fields)))

    def _round(self, number: int) -> str:
        """Return ``round 2/5``; the script interface goes on after the schedule's last."""
        rounds = self.graph.schedule.rounds
        return f"round {number}/{rounds}" if number <= rounds and rounds > 1 else f"round {number}"


class PlainProgress(Progress):
    """Writes a line for every event that a log should keep.

    Parameters
    ----------
    graph : Graph
    stream : text stream
    clock : callable
    """

    def __init__(self, graph: Graph, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(graph, clock)
        self._stream = stream
        self._last = clock()

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Write a line, if the event is worth one."""
        line: list[str] = []
        if name == "placed":
            line = ["placed", fields["module"], f"node {fields['node']}", f"process {fields['pid']}", fields["device"]]
        elif name == "block":
            exchanges = f"{fields['exchanges']} exchanges"
            line = [self._round(fields["round"]), "block", exchanges, *figures(fields, ("evidence",))]
        elif name == "selected":
            best = f"best: {fields['origin']} (chain {fields['chain']})"
            moves = f"{fields['moves']} moves kept"
            line = [self._round(fields["round"]), "chains", best, moves, *figures(fields, ("evidence",))]
        elif name == "updated" and fields["round"] > 0 and "exchange" not in fields:
            line = [self._round(fields["round"]), fields["module"], duration(self._seconds(fields)), *figures(fields)]
        elif name == "updated":
            self._seconds(fields)
        elif name == "scores":
            line = [self._round(fields["round"]), "committed", *figures(fields, ("evidence", "accuracy"))]
        elif name == "settled":
            line = [self._round(fields["round"]), f"settled: the score rose by {fields['rise']:.1f} nats"]
        elif name == "log":
            line = [fields["message"]]
        if line:
            self._write(line)

    def status(self, status: Mapping[str, Any]) -> None:
        """Write how far the active modules are, if nothing was written for long."""
        if self.clock() - self._last < HEARTBEAT:
            return
        for module, doing in status["active"].items():
            done = f"{doing['done']}/{doing['total']}" if doing.get("total") else ""
            line = [self._round(status["round"]), module, str(doing.get("doing", "")), done, *figures(doing)]
            self._write([part for part in line if part])

    def _write(self, line: list[str]) -> None:
        self._last = self.clock()
        print("  ".join(line), file=self._stream, flush=True)


class RichProgress(Progress):
    """Keeps a display of rounds, active modules and scores up to date.

    Parameters
    ----------
    graph : Graph
    console : Console
    clock : callable
    live : bool
        Whether to draw as things happen; otherwise :meth:`render` gives the display.
    """

    def __init__(
        self, graph: Graph, console: Console, clock: Callable[[], float] = time.monotonic, *, live: bool = True
    ) -> None:
        super().__init__(graph, clock)
        self._console = console
        self._round_number = 0
        self._steps_done = 0
        self._begun = self._round_begun = clock()
        self._rounds_seconds: list[float] = []
        self._active: dict[str, Mapping[str, Any]] = {}
        self._finished: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self._scores: Mapping[str, Any] = {}
        # stdout stays as it is: a run's result goes there, for programs.
        self._live = Live(get_renderable=self.render, console=console, redirect_stdout=False) if live else None
        if self._live:
            self._live.start()

    def event(self, name: str, fields: Mapping[str, Any]) -> None:
        """Change the display."""
        if name == "round":
            self._round_number, self._steps_done, self._round_begun = fields["round"], 0, self.clock()
        elif name == "update":
            self._active.setdefault(fields["module"], {})
        elif name == "updated":
            self._active.pop(fields["module"], None)
            self._finished[fields["module"]] = (self._seconds(fields), dict(fields))
            self._steps_done += "exchange" not in fields
        elif name == "block":
            self._steps_done += 1
        elif name == "scores":
            self._scores = dict(fields)
            self._rounds_seconds.append(self.clock() - self._round_begun)
        elif name == "log":
            self._console.print(escape(fields["message"]), highlight=False)

    def status(self, status: Mapping[str, Any]) -> None:
        """Change the display."""
        self._round_number = status["round"]
        self._active = dict(status["active"])

    def close(self) -> None:
        """Leave the last state on the terminal."""
        self._active = {}
        if self._live:
            self._live.stop()

    def render(self) -> Group:
        """Return the display."""
        table = Table.grid(padding=(0, 2), expand=True)
        # Long figures are cut before anything else is.
        names = max(len(name) + 2 for name in (*self.graph.modules, self._round(self._round_number)))
        for width in (min(names, 24), self._bar_width, 11):
            table.add_column(min_width=width, max_width=width, no_wrap=True)
        table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        rounds = self.graph.schedule.rounds
        name = Text(self._round(self._round_number) if self._round_number else "starting", "bold")
        table.add_row(name, ProgressBar(rounds, self._completed(), self._bar_width), self._elapsed(), self._left())
        for module in self.graph.modules:
            if module in self.graph.sources:
                continue
            if module in self._active:
                table.add_row(*self._active_row(module, self._active[module]))
            elif module in self._finished:
                seconds, fields = self._finished[module]
                table.add_row(f"  {module}", "", duration(seconds), Text("  ".join(figures(fields)), "dim"))
            else:
                table.add_row(Text(f"  {module}", "dim"), "", "", "")
        if not self._scores:
            return Group(table)
        scores = "  ".join(figures(self._scores, ("evidence", "accuracy")))
        return Group(table, Text.assemble("after ", self._round(self._scores["round"]), "  ", (scores, "bold")))

    @property
    def _bar_width(self) -> int:
        return 24 if self._console.width >= 80 else 10

    def _active_row(self, module: str, doing: Mapping[str, Any]) -> list[Any]:
        done, total = doing.get("done", 0), doing.get("total", 0)
        bar = ProgressBar(total or None, done, self._bar_width, pulse=not total)
        count = f"{done}/{total}" if total else str(doing.get("doing", "learning"))
        return [Text(f"▸ {module}", "bold cyan"), bar, count, "  ".join(figures(doing))]

    def _completed(self) -> float:
        """Return how many rounds are done, the running one by its steps."""
        if not self._round_number:
            return 0.0
        shares = [doing["done"] / doing["total"] for doing in self._active.values() if doing.get("total")]
        share = (self._steps_done + sum(shares)) / max(len(self.graph.schedule.steps), 1)
        return float(self._round_number - 1 + min(share, 1.0))

    def _elapsed(self) -> str:
        return duration(self.clock() - self._begun)

    def _left(self) -> str:
        """Return how long the rest takes if the rounds go on as they did."""
        finished = len(self._rounds_seconds)
        left = self.graph.schedule.rounds - finished
        if not finished or left <= 0:
            return ""
        running = self.clock() - self._round_begun if self._round_number > self._scores["round"] else 0.0
        return f"about {duration(max(left * sum(self._rounds_seconds) / finished - running, 0.0))} left"


def make_progress(graph: Graph, terminal: bool | None = None) -> Progress:
    """Return what shows a run on stderr.

    Parameters
    ----------
    graph : Graph
    terminal : bool, optional
        Whether stderr is a terminal that can redraw; by default it is asked.
    """
    console = Console(stderr=True)
    if console.is_terminal and not console.is_dumb_terminal if terminal is None else terminal:
        return RichProgress(graph, console)
    return PlainProgress(graph, sys.stderr)


def duration(seconds: float) -> str:
    """Return seconds as a person says them: ``0.4 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def figures(fields: Mapping[str, Any], names: tuple[str, ...] | None = None) -> list[str]:
    """Return the figures among `fields` as ``name=value``: those named, or all that are numbers and say no place."""
    chosen = {name: fields.get(name) for name in (names or fields) if name not in _PLACE | {"done", "total"}}
    return [f"{name}={_figure(name, value)}" for name, value in chosen.items() if isinstance(value, int | float)]


def _figure(name: str, value: float) -> str:
    if name == "accuracy":
        return f"{value:.3f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"
