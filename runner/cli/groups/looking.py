"""Define the commands that show runs: inspect, report, compare, watch, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.options import Json, RunAddress, RunName, Runs
from runner.cli.output import say, user_errors


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


def list_runs(
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
