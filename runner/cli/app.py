"""The command ``serket``: exit status 0 done, 1 failed in running, 2 bad usage or config."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from runner.cli.output import print_end, print_result, user_errors

if TYPE_CHECKING:
    from actors.graph.graph import Graph
    from runner.config.run_config import RunConfig
    from runner.data.datasets import Dataset
    from runner.report.progress import Progress
    from runner.runs.timing import Clock

_STARTED = psutil.Process().create_time()

app = typer.Typer(
    name="serket",
    help="Train models of probabilistic modules that run as actors and learn as one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        callback=lambda address: None if address == "local" else address,  # so Ray calls one that is started here
        help="A Ray cluster's address; by default one is started here.",
    ),
]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE")]
Detach = Annotated[bool, typer.Option("--detach", help="Leave once the run goes on by itself.")]
Runs = Annotated[Path, typer.Option(help="Where the run directories lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
RunName = Annotated[str, typer.Argument(help="A run's directory, or its name below --runs.")]
Data = Annotated[
    list[str],
    typer.Argument(
        metavar="[SOURCE=]DATA...",
        help="A data file, or a data set's name (mnist, digits, words); for each source of the model.",
    ),
]
Count = Annotated[int | None, typer.Option(help="How many rows; by default all.")]
Offset = Annotated[int, typer.Option(help="Rows of each class (mnist, digits) or of the file to pass over.")]


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="The model file.")],
    settings: Settings = None,
    address: Address = None,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="The run's name; by default the model file's.")] = None,
    detach: Detach = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say where each module would go, and what is missing; start nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the model of a model file."""
    with user_errors():
        from runner.config.run_config import load_config

        with _clock() as clock:
            loaded = load_config(config, settings or [])
        if dry_run:
            _dry_run(loaded, address, as_json)
            return
        with _progress(loaded.graph()) as progress:
            from runner.commands.train import run as train

            directory, result = train(
                loaded, clock=clock, progress=progress, runs=runs, name=name, address=address, detach=detach
            )
        print_end(directory, result, as_json)


@app.command()
def resume(
    run: RunName,
    settings: Settings = None,
    address: Address = None,
    runs: Runs = Path("runs"),
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Go on with a run that was interrupted, or with --set schedule.rounds=N for more rounds."""
    with user_errors():
        from runner.runs.directory import find_run, open_run

        path = find_run(run, runs)
        with _clock() as clock:
            graph = open_run(path, settings or [])[1].graph
        with _progress(graph) as progress:
            from runner.commands.resume import resume as take_up

            directory, result = take_up(
                path, settings=settings or [], clock=clock, progress=progress, address=address, detach=detach
            )
        print_end(directory, result, as_json)


@app.command()
def attach(run: RunName, runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Follow a run that was detached; Ctrl-C leaves it alone again."""
    with user_errors():
        from runner.runs.directory import find_run, open_run

        path = find_run(run, runs)
        with _clock() as clock:
            graph = open_run(path)[1].graph
        with _progress(graph) as progress:
            from runner.commands.attach import attach as follow

            directory, result = follow(path, clock=clock, progress=progress)
        print_end(directory, result, as_json)


@app.command()
def stop(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="At once, without another commit.")] = False,
    runs: Runs = Path("runs"),
) -> None:
    """End a run after its round, with a commit."""
    with user_errors():
        from runner.commands.attach import stop as end
        from runner.runs.directory import find_run

        where = end(find_run(run, runs), now=now, tell=lambda sentence: typer.echo(sentence, err=True))
        typer.echo(f"{run} is stopped: {where}")


@app.command()
def recognize(
    run: RunName,
    data: Data,
    categories: Annotated[Path | None, typer.Option(help="Labels of the rows, to measure by.")] = None,
    unordered: Annotated[bool, typer.Option(help="The rows do not come in the order in which they happened.")] = False,
    count: Count = None,
    offset: Offset = 0,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Let a trained run answer for new data, learning nothing."""
    with user_errors():
        from runner.commands.recognize import recognize as answer
        from runner.runs.directory import find_run

        path = find_run(run, runs)
        rows = _load_rows(path, data, categories, count, offset, ordered=not unordered)
        _, result = answer(path, rows, ordered=not unordered)
        print_result(result, as_json)
        if not as_json:
            typer.echo(f"answers in {path}/module*/*_recog.*")


@app.command()
def predict(
    run: RunName,
    data: Data,
    steps: Annotated[int, typer.Option(min=1, max=256, help="How many rows ahead.")] = 1,
    out: Annotated[Path, typer.Option(help="The contact sheet (PNG).")] = Path("predicted.png"),
    categories: Annotated[Path | None, typer.Option(help="Labels of the rows, to name the classes by.")] = None,
    count: Count = None,
    offset: Offset = 0,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Let a trained run say what comes after rows in order: the next classes, and what they look like."""
    with user_errors():
        from runner.commands.predict import predict as foretell
        from runner.runs.directory import find_run

        path = find_run(run, runs)
        found = foretell(path, _load_rows(path, data, categories, count, offset, ordered=True), steps)
        drawn = found.draw(out)
        if as_json:
            typer.echo(json.dumps(found.result()))
            return
        found.show()
        typer.echo(f"pictures in {out}" if drawn else "no module of this model decodes pictures")


@app.command()
def generate(
    run: RunName,
    length: Annotated[int, typer.Option(min=1, max=256, help="How many rows.")] = 20,
    out: Annotated[Path, typer.Option(help="The contact sheet (PNG).")] = Path("generated.png"),
    seed: Annotated[int | None, typer.Option(help="Of the draw; by default the run's.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Let a trained run make up a sequence: classes drawn from the learnt transitions, decoded to pictures."""
    with user_errors():
        from runner.commands.recognize import generate as make_up
        from runner.runs.directory import find_run

        outputs = make_up(find_run(run, runs), length, out, seed)
        classes = next((found["class"] for found in outputs.values() if "class" in found), None)
        if classes is not None:
            typer.echo("classes " + " ".join(map(str, classes)))
        typer.echo(f"pictures in {out}" if out.exists() else "no module of this model decodes pictures")


@app.command()
def inspect(
    run: RunName,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what happened when, for ui.perfetto.dev, instead.")
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show where a run stands; while it runs, where each actor lives and what it does now."""
    with user_errors():
        from runner.cli.inspect import inspect_run, show
        from runner.runs.directory import find_run, open_run

        path = find_run(run, runs)
        if timeline is not None:
            from runner.report.timeline import write_timeline

            updates = write_timeline(open_run(path)[1], timeline)
            typer.echo(f"{updates} updates in {timeline}; open it at ui.perfetto.dev or in chrome://tracing")
            return
        found = inspect_run(path)
        show(found)
        if as_json:
            typer.echo(json.dumps(found))


@app.command()
def modules(
    name: Annotated[str | None, typer.Argument(help="One type, also as package.module:Class; by default all.")] = None,
    as_json: Json = False,
) -> None:
    """List the module types, those of plug-ins too, with their ports and parameters."""
    with user_errors():
        from runner.cli.catalogue import catalogue, describe
        from runner.cli.inspect import show_modules

        found = catalogue() if name is None else [describe(name)]
        if as_json:
            typer.echo(json.dumps({"modules": found}, default=str))
        else:
            show_modules(found, whole=name is not None)


@app.command("new-module")
def new_module(
    name: Annotated[str, typer.Argument(help="What the package, and the module in model files, is to be called.")],
    directory: Annotated[Path, typer.Option(help="Where its directory is made.")] = Path(),
) -> None:
    """Write an installable package with a module of your own to begin with, its tests and a model that uses it."""
    with user_errors():
        from runner.cli.new_module import new_module as write

        home = write(name, directory)
        typer.echo(f'{home}: install and test it with: cd {home} && pip install -e ".[test]" && pytest')


@app.command()
def check(
    module: Annotated[str, typer.Argument(help="A module type, or package.module:Class.")],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="PARAMETER=VALUE")] = None,
    sizes: Annotated[
        list[str] | None, typer.Option("--size", metavar="K=4", help="Size of a dimension of messages; N: rows.")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Whether to kill its process on a local Ray.")] = True,
) -> None:
    """Check that a module keeps to the contract: its state, masks and shapes, the death of its process, and more."""
    with user_errors():
        from runner.cli.check_module import check as hold
        from runner.cli.check_module import checks_of

        passes = hold(checks_of(module, settings or [], sizes or [], under_ray=ray))
        raise typer.Exit(0 if passes else 1)


@app.command()
def doctor() -> None:
    """Report versions, cores, memory, GPUs and whether everything that a run needs works."""
    from runner.cli.doctor import examine

    healthy = examine()
    raise typer.Exit(0 if healthy else 1)


@contextmanager
def _clock() -> Iterator[Clock]:
    """Give a clock that has run since the process began, and note on it how long the block took."""
    from runner.runs.timing import Clock

    clock = Clock(_STARTED)
    yield clock
    clock.mark("imports and config")


@contextmanager
def _progress(graph: Graph) -> Iterator[Progress]:
    """Show a run on stderr as long as the block lasts."""
    from runner.report.progress import make_progress

    progress = make_progress(graph)
    try:
        yield progress
    finally:
        progress.close()


def _load_rows(
    path: Path, data: list[str], categories: Path | None, count: int | None, offset: int, *, ordered: bool
) -> dict[str, Dataset]:
    """Return new rows for a trained run."""
    from runner.data.sources import new_rows
    from runner.runs.directory import open_run

    sources = open_run(path)[0].sources
    return new_rows(sources, data, categories=categories, count=count, offset=offset, ordered=ordered)


def _dry_run(config: RunConfig, address: str | None, as_json: bool) -> None:
    """Print where the modules of a model file would go; status 2 where anything is missing, as the run would have."""
    from runner.cluster import dry_run

    forecast = dry_run.dry_run(config, address)
    dry_run.show(forecast)
    if as_json:
        typer.echo(dry_run.as_json(forecast))
    if forecast.missing:
        raise typer.Exit(2)


def main() -> None:
    """Run the command."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
