"""Ask for what a new model file needs, on a terminal: ``serket new-model``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer

from runner.cli.output import say
from runner.commands.new_model import (
    BUILT_IN,
    NewModelError,
    Request,
    Written,
    data_section,
    describe,
    load_section,
    name_for,
    write_model,
)
from runner.data.table_outline import TableOutline, read_outline
from runner.report.printable import printable_line


def make_model(request: Request, output: Path | None, *, ask: bool) -> Written:
    """Write a model file, and say what was written; with `ask`, ask for what is not given.

    Raises
    ------
    NewModelError, DataError
        As :func:`runner.commands.new_model.write_model` does; also without data and without a terminal.
    """
    if not request.data:
        if not ask:
            raise NewModelError("the data are not given; name a file of rows, or one of " + ", ".join(BUILT_IN))
        request = replace(request, data=typer.prompt("File of the rows (or one of " + ", ".join(BUILT_IN) + ")"))
    if ask:
        request = _ask(request, read_outline(Path(request.data)))
    name = name_for(request.data)
    if output is None:
        output = Path(f"{name}.yaml")
        if ask:
            output = Path(typer.prompt("Model file to write", default=str(output)))
    written = write_model(request, output, name_for(output.name))
    describe(written.facts, say)
    say(f"{written.path}: train it with serket run {written.path}")
    return written


def _ask(request: Request, table: TableOutline | None) -> Request:
    """Ask for what is not given; for what a table may hold, with a default from its names and cells."""
    if table is not None:
        say(f"its columns are {', '.join(map(printable_line, table.names))}")
        if not request.labels:
            request = replace(request, labels=_ask_column("Column of labels", table.label_column))
        if not request.lengths:
            found = _ask_column("Column that tells which sequence a row belongs to", table.sequence_column)
            request = replace(request, lengths=found)
        if not request.columns:
            values = table.values(request.labels, request.lengths)
            given = typer.prompt("Columns to learn from", default=",".join(values))
            request = replace(request, columns=tuple(each.strip() for each in given.split(",")))
    elif request.data not in BUILT_IN:
        if not request.labels:
            request = replace(request, labels=_ask_column("File of labels", ""))
        if not request.lengths:
            request = replace(request, lengths=_ask_column("File of the sequences' lengths", ""))
    if request.classes is None:
        request = replace(request, classes=typer.prompt("Number of classes (auto: find it)", default=_known(request)))
    return replace(request, ordered=typer.confirm("Are the rows in temporal order?", default=request.ordered))


def _known(request: Request) -> str:
    """Return the number of classes that the labels have; without labels ``auto``."""
    if request.data in ("mnist", "digits"):
        return "10"
    if not request.labels:
        return "auto"
    categories = load_section(data_section(request, Path()), Path()).categories
    known = 0 if categories is None else len(set(categories.tolist()))
    return str(known) if known > 1 else "auto"


def _ask_column(question: str, default: str) -> str:
    answer = str(typer.prompt(f"{question} (- for none)", default=default or "-")).strip()
    return "" if answer == "-" else answer


def can_ask() -> bool:
    """Return whether a person is at the terminal."""
    return sys.stdin.isatty()
