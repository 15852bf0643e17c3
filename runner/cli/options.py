"""Options and arguments that several commands of ``serket`` have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli import completion


def _without_local(address: str | None) -> str | None:
    """Return an address; None for Ray's own name for a cluster that is started here."""
    return None if address == "local" else address


Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        callback=_without_local,
        help="Address of a Ray cluster; by default, one is started on this machine.",
    ),
]
RunAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        callback=_without_local,
        help="Address of the run's cluster, if it was not started from this account or its directory was moved.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Set a value of the model file, such as schedule.rounds=3; repeatable."
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER",
        help="Follow the run by tensorboard, mlflow or package.module:Class, in place of what the model file names "
        "under tracking; repeatable.",
        autocompletion=completion.complete_tracker,
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="Return as soon as the run continues on its own.")]
Local = Annotated[
    bool, typer.Option("--local", help="Run all modules in this process, without Ray; the results are the same.")
]
Runs = Annotated[Path, typer.Option(help="Folder of the run directories.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
RunName = Annotated[
    str,
    typer.Argument(
        help="The directory of a run, its name in the folder --runs, or latest.", autocompletion=completion.complete_run
    ),
]
Data = Annotated[
    list[str],
    typer.Argument(
        metavar="[SOURCE=]DATA...",
        help="A data file or the name of a data set (mnist, words, watch:1,2), one for each source of the model.",
    ),
]
Lengths = Annotated[
    Path | None,
    typer.Option(help="File with the lengths of the sequences, which add up to the rows; by default one sequence."),
]
Count = Annotated[int | None, typer.Option(min=1, help="Number of rows; by default all.")]
Header = Annotated[
    bool | None, typer.Option("--header/--no-header", help="Whether the first line of a table names the columns.")
]
Index = Annotated[
    bool | None, typer.Option("--index/--no-index", help="Whether the first column of a table names the rows.")
]
Offset = Annotated[
    int, typer.Option(min=0, help="Number of rows to skip, of each class (mnist, digits) or of the file.")
]
