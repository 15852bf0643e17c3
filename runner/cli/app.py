"""Define the command ``serket`` (exit status 0: success, 1: failure during the run, 2: wrong usage or config)."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from importlib.metadata import version
from typing import Annotated

import typer

from runner.cli import completion
from runner.cli.groups import applying, authoring, exchanging, installation, looking, training
from runner.cli.output import PrintableGroup, run_app, say
from runner.cli.streams import protect_streams
from runner.cluster.signals import stop_signals

app = typer.Typer(
    name="serket",
    cls=PrintableGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


# The table of contents: each command and its file, in the order of the help. (`add_typer` would order them by file.)
app.command()(training.run)
app.command()(training.resume)
app.command()(training.attach)
app.command()(training.stop)
app.command()(applying.recognize)
app.command()(applying.predict)
app.command()(applying.generate)
app.command()(exchanging.merge)
app.command()(looking.inspect)
app.command()(looking.report)
app.command()(looking.compare)
app.command()(looking.watch)
app.command()(training.sweep)
app.command()(authoring.modules)
app.command("new-module")(authoring.new_module)
app.command("new-model")(authoring.new_model)
app.command()(authoring.check)
app.command()(installation.doctor)
app.command("models")(authoring.models)
app.command("list")(looking.list_runs)
app.command("export")(exchanging.export)
app.command("import")(exchanging.import_)
app.command("completion")(installation.completion)
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
