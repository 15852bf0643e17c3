"""Define the command ``serket`` (exit status 0: success, 1: failure during the run, 2: wrong usage or config)."""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from runner.cli import completion
from runner.cli.output import PrintableGroup, check_picture, print_result, print_run_result, run_app, say, user_errors
from runner.cli.streams import protect_streams
from runner.cluster.signals import ignored_signals, stop_signals

if TYPE_CHECKING:
    from actors.graph.graph import Graph
    from runner.config.run_config import Override, RunConfig
    from runner.data.datasets import Dataset
    from runner.report.progress import Progress
    from runner.runs.directory import OpenedRun
    from runner.runs.timing import Clock

_STARTED = psutil.Process().create_time()

app = typer.Typer(
    name="serket",
    cls=PrintableGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)

Address = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        callback=lambda address: None if address == "local" else address,  # Ray's own name for a cluster started here
        help="Address of a Ray cluster; by default, one is started on this machine.",
    ),
]
RunAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        callback=lambda address: None if address == "local" else address,
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


def _print_version(asked: bool) -> None:
    """Print the version of the package and leave, if it is asked for."""
    if asked:
        say(f"serket-actors {version('serket-actors')}")
        raise typer.Exit


@app.callback()
def serket(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train models of probabilistic modules that run as actors and learn jointly.

    Example: serket run mnist
    """


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def recognize(
    run: RunName,
    data: Data,
    categories: Annotated[Path | None, typer.Option(help="Labels of the rows, to compute the scores.")] = None,
    lengths: Lengths = None,
    unordered: Annotated[bool, typer.Option(help="The rows are not in temporal order.")] = False,
    count: Count = None,
    offset: Offset = 0,
    header: Header = None,
    index: Index = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="A new directory for the results; by default that of the run."),
    ] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Compute the outputs of a trained run for new data, without learning.

    Example: serket recognize mnist mnist --offset 300
    """
    with user_errors():
        from runner.commands.recognize import recognize as recognize_rows
        from runner.runs.directory import find_run, open_run

        path = find_run(run, runs)
        opened = open_run(path)
        rows = _load_rows(
            opened, data, categories, lengths, count, offset, ordered=not unordered, header=header, index=index
        )
        _, result = recognize_rows(opened, rows, ordered=not unordered, out=out)
        print_result(result, as_json)
        if not as_json:
            say(f"results in {path if out is None else out}/module*/*_recog.*")


@app.command()
def predict(
    run: RunName,
    data: Data,
    steps: Annotated[int, typer.Option(min=1, max=256, help="Number of rows to predict.")] = 1,
    out: Annotated[Path, typer.Option(help="Image with one picture for each row (PNG).")] = Path("predicted.png"),
    categories: Annotated[Path | None, typer.Option(help="Labels of the rows, to name the classes.")] = None,
    lengths: Lengths = None,
    count: Count = None,
    offset: Offset = 0,
    header: Header = None,
    index: Index = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Predict what follows a sequence of rows: the next classes, decoded to pictures.

    Example: serket predict mnist mnist --offset 300 --count 53 --steps 3
    """
    with user_errors():
        from runner.commands.predict import predict as predict_rows
        from runner.runs.directory import find_run, open_run

        opened = open_run(find_run(run, runs))
        check_picture(out)
        rows = _load_rows(opened, data, categories, lengths, count, offset, ordered=True, header=header, index=index)
        prediction = predict_rows(opened, rows, steps)
        drawn = prediction.draw(out)
        if as_json:
            typer.echo(json.dumps(prediction.result()))
            return
        prediction.show()
        say(f"pictures in {out}" if drawn else "no module of this model decodes pictures")


@app.command()
def generate(
    run: RunName,
    length: Annotated[int, typer.Option(min=1, max=256, help="Number of rows.")] = 20,
    out: Annotated[
        Path, typer.Option(help="Pictures of the rows (.png), or the rows themselves (.csv with their classes, .npy).")
    ] = Path("generated.png"),
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the random draws; by default that of the run.")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Generate a sequence from a trained run: classes drawn from the learnt transitions, decoded to pictures.

    Example: serket generate mnist --length 20 --out digits.png
    """
    with user_errors():
        from runner.commands.generate import generate as generate_rows
        from runner.runs.directory import find_run, open_run

        opened = open_run(find_run(run, runs))
        check_picture(out)
        outputs, written = generate_rows(opened, length, out, seed)
        classes = next((arrays["class"] for arrays in outputs.values() if "class" in arrays), None)
        if classes is not None:
            say("classes " + " ".join(map(str, classes)))
        say(written)


@app.command()
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


@app.command()
def inspect(
    run: RunName,
    timeline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the timeline of the run for ui.perfetto.dev instead.")
    ] = None,
    address: RunAddress = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show the state of a run; while it is running, also the node and the activity of each actor.

    Example: serket inspect mnist
    """
    with user_errors():
        from runner.cli.inspect import inspect_run, print_run, unknown_hint
        from runner.runs.directory import find_run

        path = find_run(run, runs)
        if timeline is not None:
            from runner.report.timeline import write_timeline
            from runner.runs.outline import read_outline

            outline = read_outline(path)
            updates = write_timeline(outline.directory, timeline, outline.modules)
            say(f"{updates} updates in {timeline}; open it at ui.perfetto.dev or in chrome://tracing")
            return
        status = inspect_run(path, address)
        print_run(status, hint=unknown_hint(path, address) if "next" in status else "")
        if as_json:
            typer.echo(json.dumps(status))


@app.command()
def report(
    runs_given: Annotated[list[str], typer.Argument(metavar="RUN...", help="Directories of runs, or their names.")],
    out: Annotated[Path, typer.Option(help="The page for several runs.")] = Path("comparison.html"),
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Draw the pictures of one run into a folder, instead of the page."),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="Of the pictures: svg, pdf or png.")] = "svg",
    runs: Runs = Path("runs"),
) -> None:
    """Write report.html into the directory of a run; of several runs, a page that compares them.

    Example: serket report mnist
    """
    with user_errors():
        from runner.commands.report import draw_pictures, report_run, write_comparison
        from runner.runs.directory import RunDirectoryError, find_run

        paths = [find_run(each, runs) for each in runs_given]
        if pictures is not None:
            if len(paths) > 1:
                raise RunDirectoryError("--pictures: are those of one run; give one")
            for drawn in draw_pictures(paths[0], pictures, format_):
                say(drawn)
            return
        if len(paths) == 1:
            out = report_run(paths[0])
        else:
            write_comparison(paths, out)
        say(f"report in {out}")


@app.command()
def compare(
    runs_given: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Directories of runs, or their names.")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the comparison as a page, too.")] = None,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Print the measures of several runs side by side, and what their configs differ in.

    Example: serket compare mnist mnist-2 --html comparison.html
    """
    with user_errors():
        from runner.cli.inspect import print_comparison
        from runner.commands.report import write_page
        from runner.runs.comparison import compare_runs
        from runner.runs.directory import find_run

        comparison = compare_runs([find_run(each, runs) for each in runs_given])
        if html is not None:
            write_page(comparison.render(), html)
        print_comparison(comparison)
        if html is not None:
            say(f"page in {html}")
        if as_json:
            typer.echo(json.dumps(comparison.as_dict()))


@app.command()
def watch(
    run: RunName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; by default a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in the browser.")] = False,
    address: RunAddress = None,
    runs: Runs = Path("runs"),
) -> None:
    """Follow a run on a web page of this machine, until Ctrl-C; the run is not touched.

    Example: serket watch mnist
    """
    with user_errors():
        from runner.commands.watch import watch as watch_run
        from runner.runs.directory import find_run

        watch_run(find_run(run, runs), port=port, address=address, browser=browser, log=say)


@app.command()
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


@app.command()
def modules(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A module type or package.module:Class; by default all types.",
            autocompletion=completion.complete_module_type,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the module types, including those of plug-ins, with their ports and parameters.

    Example: serket modules gmm
    """
    with user_errors():
        from runner.cli.catalogue import describe_module_type, describe_module_types
        from runner.cli.inspect import print_module_types

        entries = describe_module_types() if name is None else [describe_module_type(name)]
        if as_json:
            typer.echo(json.dumps({"modules": entries}, default=str))
        else:
            print_module_types(entries, whole=name is not None)


@app.command("new-module")
def new_module(
    name: Annotated[str, typer.Argument(help="Name of the package, and of the module type in model files.")],
    directory: Annotated[Path, typer.Option(help="Folder in which the directory of the package is created.")] = Path(),
) -> None:
    """Write an installable package with an example module, its tests and a model that uses it.

    Example: serket new-module night-sounds
    """
    with user_errors():
        from runner.cli.new_module import write_package

        path = write_package(name, directory)
        say(f'{path}: install and test it with: cd {path} && pip install -e ".[test]" && pytest')


@app.command("new-model")
def new_model(
    data: Annotated[
        str,
        typer.Argument(
            metavar="[DATA]", help="A file of rows, or a built-in data set (mnist, digits, words, clumps, cycle)."
        ),
    ] = "",
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="K", help="Number of classes, or auto to find it; by default as many as there are labels."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Columns of a table to learn from; by default all others.")
    ] = None,
    labels: Annotated[str, typer.Option(help="The labels: a column of the table, or a file.")] = "",
    lengths: Annotated[
        str, typer.Option(help="The sequences: a column of the table that tells them apart, or a file of lengths.")
    ] = "",
    unordered: Annotated[bool, typer.Option("--unordered", help="The rows are not in temporal order.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The model file; by default called like the data, in this folder."),
    ] = None,
    ask: Annotated[
        bool | None,
        typer.Option("--ask/--no-ask", help="Whether to ask for what is not given; by default on a terminal."),
    ] = None,
) -> None:
    """Write a commented model file for data of your own; on a terminal, ask for what is not given.

    Example: serket new-model arm.csv --labels activity --lengths trial --classes 4
    """
    with user_errors():
        from runner.cli.new_model import can_ask, make_model
        from runner.commands.new_model import Request

        chosen = tuple(each.strip() for each in columns.split(",")) if columns else ()
        request = Request(data, classes, chosen, labels, lengths, ordered=not unordered)
        make_model(request, output, ask=can_ask() if ask is None else ask)


@app.command()
def check(
    module: Annotated[str, typer.Argument(help="A module type, or package.module:Class.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAMETER=VALUE", help="Set a parameter of the module; repeatable."),
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="K=4", help="Size of a dimension of the messages; N is the number of rows."),
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray/--no-ray", help="Whether to kill its process on a local Ray cluster.")
    ] = True,
) -> None:
    """Check that a module keeps the contract: state, masks, shapes, recovery from a dead process, and more.

    Example: serket check counting:Counting --size K=4
    """
    with user_errors():
        from runner.cli.check_module import build_checks, run_checks

        passed = run_checks(build_checks(module, settings or [], sizes or [], under_ray=ray))
        raise typer.Exit(0 if passed else 1)


@app.command()
def doctor() -> None:
    """Report versions, cores, memory and GPUs, and whether everything that a run needs works.

    Example: serket doctor
    """
    from runner.cli.doctor import run_checks

    passed = run_checks()
    raise typer.Exit(0 if passed else 1)


@app.command("models")
def models_command(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Print the file of this model, to begin one of your own with it.",
            autocompletion=completion.complete_model,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the included models, with the data and the modules of each.

    Example: serket models hmm > mine.yaml
    """
    with user_errors():
        from runner.cli.model_list import print_model, print_models

        if name is None:
            print_models(as_json)
        else:
            print_model(name, as_json)


@app.command("list")
def list_command(
    directory: Annotated[Path, typer.Argument(metavar="[DIRECTORY]", help="Where to look, four levels deep.")] = Path(
        "runs"
    ),
    as_json: Json = False,
) -> None:
    """List the runs below a directory: their state, round, accuracy and evidence, when they were changed, and size.

    Example: serket list
    """
    with user_errors():
        from runner.cli.run_list import print_runs

        print_runs(directory, as_json)


@app.command("export")
def export_command(
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
        from runner.commands.export import export
        from runner.report.printable import format_bytes
        from runner.runs.directory import find_run, open_run

        exported = export(open_run(find_run(run, runs)), file, with_rows=with_rows)
        if as_json:
            typer.echo(json.dumps(exported.result()))
        else:
            say(f"{file}: {format_bytes(exported.size)}; {exported.sentence}")


@app.command("import")
def import_command(
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


@app.command("completion")
def completion_command(
    shell: Annotated[completion.Shell, typer.Argument(help="The shell.")],
) -> None:
    """Print the code by which a shell completes commands, options, models and runs.

    Example: source <(serket completion bash)
    """
    typer.echo(completion.script(shell))


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


def _load_rows(
    run: OpenedRun,
    data: list[str],
    categories: Path | None,
    lengths: Path | None,
    count: int | None,
    offset: int,
    *,
    ordered: bool,
    **table: bool | None,
) -> dict[str, Dataset]:
    """Load new rows for the sources of a trained run, and say what they are, and whether their lengths are missing."""
    from runner.commands.trained_run import find_missing_lengths
    from runner.data.shards import Converter
    from runner.data.sources import describe_data, load_new_rows

    rows = load_new_rows(
        run.config.sources,
        data,
        categories=categories,
        lengths=lengths,
        count=count,
        offset=offset,
        ordered=ordered,
        graph=run.config.graph,
        converter=Converter(report=partial(say, err=True)),
        **table,
    )
    for line in describe_data(rows):
        say(line, err=True)
    if ordered:
        sentence = find_missing_lengths(run.directory, rows, "give the lengths of theirs with --lengths FILE")
        if sentence is not None:
            say(f"serket: {sentence}", err=True)
    return rows


def _tracked(names: list[str] | None) -> list[Override]:
    """Return what ``--track`` sets in a config; nothing where it is not given."""
    return [(["tracking"], names)] if names else []


def _check_data(config: RunConfig, address: str | None) -> None:
    """Load the data of a model file, say what they are, and check that the modules can use them."""
    from runner.data.sources import check_modules, describe_data

    config.convert_data(address, partial(say, err=True))
    data = config.load_data()
    for line in describe_data(data):
        say(line, err=True)
    check_modules(config.graph, data)


def _given_address(context: typer.Context, address: str | None, *, local: bool) -> str | None:
    """Return the address of a cluster; for a local run only one from the command line, which is refused later."""
    source = context.get_parameter_source("address")
    return None if local and source is not None and source.name == "ENVIRONMENT" else address


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


completion.prepare(app)


def main() -> None:
    """Run the command line."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    protect_streams()
    status: object = 0
    for number in stop_signals():
        if number != signal.SIGINT:
            signal.signal(number, _interrupt)
    try:
        run_app(app)
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        say("serket: interrupted", err=True)
        # After an interrupt within `exec`, as in imports of dataclasses, CPython would end as if by SIGINT.
        sys.stdout.flush()
        os._exit(1)
    finally:
        for number in stop_signals():  # the command is done; only the interpreter is to end
            signal.signal(number, signal.SIG_IGN)
    _exit(status)


_GARBAGE_THRESHOLD = 200_000
"""Objects that are made before garbage is looked for: imports make many, and hardly any garbage."""


def _exit(status: object) -> None:
    """End this process without taking its modules apart, which would take some tenths of a second."""
    others = [each for each in threading.enumerate() if each is not threading.main_thread() and not each.daemon]
    if not others and (status is None or isinstance(status, int)):
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # closed; Python itself says what becomes of that
            sys.exit(status)
        os._exit(status or 0)
    sys.exit(status)  # type: ignore[arg-type]


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
