"""Define the commands by which runs are joined and handed to others: merge, export, import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runner.cli import completion
from runner.cli.options import Json, RunName, Runs
from runner.cli.output import print_run_result, say, user_errors


def merge(
    runs_given: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN RUN...",
            help="Complete runs of one model, each from other rows: directories or names.",
            autocompletion=completion.complete_run,
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the new run.")],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Make one run of several: its parameters are those of the rows of all, none of which is read or copied.

    Example: serket merge siteA/runs/hmm siteB/runs/hmm --name all
    """
    with user_errors():
        from runner.commands.merge import merge as merge_runs
        from runner.runs.directory import find_run

        paths = [find_run(each, runs) for each in runs_given]
        directory, result = merge_runs(paths, name, runs=runs, log=lambda sentence: say(sentence, err=True))
        print_run_result(directory, result, as_json)


def export(
    run: RunName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, which must not exist yet.")],
    with_rows: Annotated[
        bool,
        typer.Option(
            "--with-rows", help="Also carry the rows that the run learnt from, so that the receiver can resume it."
        ),
    ] = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Write what a run has learnt into one file, for somebody else: neither its rows nor paths of this machine.

    Example: serket export mnist mnist.serket
    """
    with user_errors():
        from runner.commands.export import export as export_run
        from runner.report.printable import format_bytes
        from runner.runs.directory import find_run, open_run

        exported = export_run(open_run(find_run(run, runs)), file, with_rows=with_rows)
        if as_json:
            typer.echo(json.dumps(exported.result()))
        else:
            say(f"{file}: {format_bytes(exported.size)}; {exported.sentence}")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that serket export wrote.")],
    name: Annotated[str | None, typer.Option(help="Name of the new run; by default the one that it had.")] = None,
    code: Annotated[
        list[Path] | None,
        typer.Option(help="Directory with the code of a module type package.module:Class; it is imported. Repeatable."),
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Make a run of a file that somebody has exported; every file in it is checked, and nothing in it is run.

    Example: serket import mnist.serket --name theirs
    """
    with user_errors():
        from runner.commands.import_run import describe, import_run

        directory, result = import_run(file, name=name, runs=runs, code=code or [])
        if as_json:
            typer.echo(json.dumps(result))
        else:
            say(describe(directory, result))
