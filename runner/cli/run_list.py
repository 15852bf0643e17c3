"""Print the runs below a directory: ``serket list``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from runner.cli.output import say
from runner.report.console import SafeConsole
from runner.report.printable import format_bytes
from runner.runs.listing import ListedRun, list_runs

_COLUMNS = ("run", "model", "state", "round", "accuracy", "evidence", "changed", "size")
DEFAULT = Path("runs")
"""Where runs are by default; before the first one, there is no such directory."""

_LEAST_WIDTH = 110
"""Columns of a table that goes to no terminal, where no line should be broken."""


def print_runs(directory: Path, as_json: bool) -> None:
    """Print a table of the runs below a directory, or one JSON object.

    Raises
    ------
    RunDirectoryError
        If the directory cannot be read.
    """
    runs = [] if directory == DEFAULT and not directory.exists() else list_runs(directory)
    if as_json:
        typer.echo(json.dumps({"runs": [run.as_dict() for run in runs]}))
    elif not runs:
        say(f"there are no runs below {directory}; train one with serket run MODEL")
    else:
        _print_table(runs)


def _print_table(runs: Sequence[ListedRun]) -> None:
    console = SafeConsole()
    if not console.is_terminal:
        console.width = max(console.width, _LEAST_WIDTH)
    table = Table(*_COLUMNS, box=None, header_style="bold", pad_edge=False)
    for column in table.columns[3:6]:
        column.justify = "right"
    for run in runs:
        table.add_row(*(Text(cell) for cell in _cells(run)))
    console.print(table)
    for run in runs:
        if run.problem:
            console.print(f"{run.name}: {run.problem}", soft_wrap=True, markup=False, highlight=False)


def _cells(run: ListedRun) -> list[str]:
    rounds = "" if run.round is None else f"{run.round} of {run.rounds}" if run.rounds else str(run.round)
    return [
        run.name,
        run.model,
        f"{run.state}, detached" if run.detached else run.state,
        rounds,
        _figure(run.accuracy, ".4f"),
        _figure(run.evidence, ".1f"),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed)),
        format_bytes(run.size),
    ]


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None or not math.isfinite(value) else format(value, form)
