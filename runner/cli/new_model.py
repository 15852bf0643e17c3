"""Ask for what a new model file needs, on a terminal: ``serket new-model``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import typer

from runner.cli.output import say
from runner.commands.new_model import BUILT_IN, NewModelError, Request, Written, describe, name_for, write_model
from runner.data.table_columns import NamedTable, read_named_table
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
    table = read_named_table(Path(request.data)) if Path(request.data).exists() else None
    if ask:
        request = _ask(request, table)
    elif table is not None:
        _check_texts(request, table)
    name = name_for(request.data)
    if output is None:
        output = Path(f"{name}.yaml")
        if ask:
            output = Path(typer.prompt("Model file to write", default=str(output)))
    written = write_model(request, output, name_for(output.name))
    describe(written.facts, say)
    for path in written.beside:
        say(f"{path}: written from columns of {printable_line(request.data)}")
    say(f"{written.path}: train it with serket run {written.path}")
    return written


def _ask(request: Request, table: NamedTable | None) -> Request:
    """Ask for what is not given; for what a table may hold, with a default from its names and cells."""
    if table is not None:
        say(f"its columns are {', '.join(map(printable_line, table.names))}")
        if not request.labels:
            request = replace(request, labels=_ask_column("Column of labels", table.label_column()))
        if not request.lengths:
            found = _ask_column("Column that tells which sequence a row belongs to", table.sequence_column())
            request = replace(request, lengths=found)
        if not request.columns:
            rest = [name for name in table.names if name not in (request.labels, request.lengths)]
            numbers = [name for name in rest if table.is_number(name)]
            given = typer.prompt("Columns to learn from", default=",".join(numbers))
            chosen = tuple(each.strip() for each in given.split(","))
            request = replace(request, columns=() if list(chosen) == list(table.names) else chosen)
    elif request.data not in BUILT_IN:
        if not request.labels:
            request = replace(request, labels=_ask_column("File of labels", ""))
        if not request.lengths:
            request = replace(request, lengths=_ask_column("File of the sequences' lengths", ""))
    if request.classes is None:
        labels = table is not None and request.labels in table.names
        known = len(set(table.column(request.labels))) if table is not None and labels else None
        default = str(known) if known and known > 1 else "10" if request.data in ("mnist", "digits") else "auto"
        request = replace(request, classes=typer.prompt("Number of classes (auto: find it)", default=default))
    return replace(request, ordered=typer.confirm("Are the rows in temporal order?", default=request.ordered))


def _ask_column(question: str, default: str) -> str:
    answer = str(typer.prompt(f"{question} (- for none)", default=default or "-")).strip()
    return "" if answer == "-" else answer


def _check_texts(request: Request, table: NamedTable) -> None:
    """Refuse columns of texts that are neither chosen nor given as labels: a script has to say what they are."""
    named = {request.labels, request.lengths}
    texts = [name for name in table.names if name not in named and not table.is_number(name)]
    guess = table.label_column()
    if texts and not request.columns:
        remedy = f"--labels {guess}" if guess == texts[0] else "--columns with the other ones"
        raise NewModelError(
            f"{table.path}: column {texts[0]!r} holds texts; say what it is, as with {remedy}, or choose --columns"
        )


def can_ask() -> bool:
    """Return whether a person is at the terminal."""
    return sys.stdin.isatty()
