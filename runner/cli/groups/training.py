"""Define the commands that train: run, resume, attach, stop, sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from runner.cli import completion
from runner.cli.options import Address, Detach, Json, Local, RunAddress, RunName, Runs, Settings, Track
from runner.cli.output import print_run_result, say, user_errors
from runner.cluster.signals import ignored_signals

if TYPE_CHECKING:
    from actors.graph.graph import Graph
    from runner.config.run_config import Override, RunConfig
    from runner.report.progress import Progress
    from runner.runs.timing import Clock

_STARTED = psutil.Process().create_time()


def run(
    context: typer.Context,
    config: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model file or, if there is no file of this path, the name of an included model (serket models).",
            autocompletion=completion.complete_model,
        ),
    ],
    settings: Settings = None,
    track: Track = None,
    address: Address = None,
    local: Local = False,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run; by default that of the model file.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the former run of this name, if there is one and it has ended.")
    ] = False,
    detach: Detach = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print where each module would be placed and what is missing; do not start the run."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the model of a model file.

    Example: serket run mnist --set modules.vae.epochs=20 --name short
    """
    with user_errors():
        from runner.config.model_files import find_model

        address = _given_address(context, address, local=local)

        with _clock() as clock:
            model = find_model(config)
            loaded = model.load([*(settings or []), *_tracked(track)])
        if model.note:
            say(f"serket: {model.note}", err=True)
        if dry_run:
            _check_places_exist(local=local)
            _check_data(loaded, address)
            _dry_run(loaded, address, as_json)
            return
        with _progress(loaded.graph) as progress:
            from runner.commands.train import train

            directory, result = train(
                loaded,
                clock=clock,
                progress=progress,
                runs=runs,
                name=name,
                address=address,
                detach=detach,
                local=local,
                overwrite=overwrite,
            )
        with ignored_signals():  # the run is complete
            print_run_result(directory, result, as_json)


def resume(
    context: typer.Context,
    run: RunName,
    settings: Settings = None,
    track: Track = None,
    address: Address = None,
    local: Local = False,
    runs: Runs = Path("runs"),
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Continue a run that was interrupted, or train for more rounds with --set schedule.rounds=N.

    Example: serket resume mnist --set schedule.rounds=8
    """
    with user_errors():
        from runner.runs.directory import find_run, open_run

        address = _given_address(context, address, local=local)
        path = find_run(run, runs)
        with _clock() as clock:
            opened = open_run(path, [*(settings or []), *_tracked(track)])
        with _progress(opened.directory.graph) as progress:
            from runner.commands.resume import resume as resume_run

            directory, result = resume_run(
                opened, clock=clock, progress=progress, address=address, detach=detach, local=local
            )
        with ignored_signals():  # the run is complete
            print_run_result(directory, result, as_json)


def attach(
    run: RunName,
    track: Track = None,
    address: RunAddress = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Follow a detached run; Ctrl-C stops following and lets the run continue.

    Example: serket attach mnist
    """
    with user_errors():
        from runner.runs.directory import find_run, open_run

        path = find_run(run, runs)
        with _clock() as clock:
            opened = open_run(path, _tracked(track))
        with _progress(opened.directory.graph) as progress:
            from runner.commands.attach import attach as attach_to_run

            directory, result = attach_to_run(opened, clock=clock, progress=progress, address=address)
        with ignored_signals():  # the run is complete
            print_run_result(directory, result, as_json)


def stop(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="Stop immediately, without another commit.")] = False,
    address: RunAddress = None,
    runs: Runs = Path("runs"),
) -> None:
    """Stop a run after its current round, with a commit.

    Example: serket stop mnist
    """
    with user_errors():
        from runner.commands.stop import stop as stop_run
        from runner.runs.directory import find_run, open_run

        opened = open_run(find_run(run, runs))
        where = stop_run(opened, now=now, address=address, log=lambda sentence: say(sentence, err=True))
        say(f"{run} is stopped: {where}")


def sweep(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A model file, or the name of an included model (serket models).",
            autocompletion=completion.complete_model,
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Values of a key of the model file, such as gmm.classes=5,10,20; repeatable, for all combinations.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="FIRST:END", help="Seeds of each combination, 0:5 for 0 to 4, or 0,7; by default one."),
    ] = None,
    settings: Settings = None,
    track: Track = None,
    by: Annotated[
        str, typer.Option(metavar="MEASURE", help="What the best combination is chosen by: evidence or score.")
    ] = "evidence",
    at_once: Annotated[
        int | None, typer.Option("--trials-at-once", min=1, help="Trials at a time; by default one for each core.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Run one trial after the other in this process, without Ray.")
    ] = False,
    address: Address = None,
    runs: Runs = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the sweep; by default that of the model, -sweep.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Go on with the sweep in a directory: finish what is left.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials; run none.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model with every combination of some values and seeds on Ray Tune, and say which is best.

    Example: serket sweep hmm --grid gmm.classes=3,4,5 --seeds 0:5
    """
    with user_errors():
        from runner.cli.sweeps import Asked, run_command

        address = _given_address(context, address, local=local)
        asked = Asked(config, grid or [], seeds, [*(settings or []), *_tracked(track)], by, runs, name, resume)
        run_command(asked, address=address, local=local, at_once=at_once, dry_run=dry_run, as_json=as_json)


@contextmanager
def _clock() -> Iterator[Clock]:
    """Yield a clock that started with the process, and record the duration of the block on it."""
    from runner.runs.timing import Clock

    clock = Clock(_STARTED)
    yield clock
    clock.mark("imports and config")


@contextmanager
def _progress(graph: Graph) -> Iterator[Progress]:
    """Show the progress of a run on stderr for the duration of the block."""
    from runner.report.progress import make_progress

    progress = make_progress(graph)
    try:
        yield progress
    finally:
        progress.close()


def _tracked(names: list[str] | None) -> list[Override]:
    """Return what ``--track`` sets in a config; nothing where it is not given."""
    return [(["tracking"], names)] if names else []


def _given_address(context: typer.Context, address: str | None, *, local: bool) -> str | None:
    """Return the address of a cluster; for a local run only one from the command line, which is refused later."""
    source = context.get_parameter_source("address")
    return None if local and source is not None and source.name == "ENVIRONMENT" else address


def _check_data(config: RunConfig, address: str | None) -> None:
    """Load the data of a model file, say what they are, and check that the modules can use them."""
    from runner.data.sources import check_modules, describe_data

    config.convert_data(address, partial(say, err=True))
    data = config.load_data()
    for line in describe_data(data):
        say(line, err=True)
    check_modules(config.graph, data)


def _check_places_exist(*, local: bool) -> None:
    """Raise ClusterError if the places of a local run are asked for."""
    from runner.cluster.errors import ClusterError

    if local:
        raise ClusterError("--dry-run says where Ray would place the modules: leave out --local, or --dry-run")


def _dry_run(config: RunConfig, address: str | None, as_json: bool) -> None:
    """Print where the modules of a model file would be placed; exit with status 2 if anything is missing."""
    from runner.cluster import dry_run

    report = dry_run.dry_run(config, address)
    dry_run.print_report(report)
    if as_json:
        typer.echo(dry_run.report_as_json(report))
    if report.missing:
        raise typer.Exit(2)
