"""Print the results of commands on stdout, and errors as one sentence on stderr.

All text that is printed passes :func:`runner.report.printable.printable`, so that no control character reaches a
terminal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from actors.limits import MAX_ERROR_FILE_CHARACTERS
from runner.report.printable import PrintableFormatter, printable, printable_line

if TYPE_CHECKING:
    from actors.graph.graph import Graph
    from runner.runs.directory import RunDirectory

ERROR_FILE = "error.txt"
"""The file with the traceback of an internal error, in a run directory."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Report errors in one sentence: exit status 2 for user errors, 1 for a run that failed and for internal errors."""
    from actors.errors import GraphError, ModuleError, NonFiniteError
    from actors.variables import VariableError, check_variables
    from runner.cli.new_module import TemplateError
    from runner.config.run_config import ConfigError
    from runner.data.readers import DataError
    from runner.runs.directory import RunDirectoryError

    _escape_log_records()
    try:
        check_variables()
        yield
    except (typer.Exit, typer.Abort):
        raise
    except NonFiniteError as error:
        _fail(error, 1)
    except (ConfigError, DataError, GraphError, ModuleError, RunDirectoryError, TemplateError, VariableError) as error:
        _fail(error, 2)
    except KeyboardInterrupt:
        _fail("interrupted", 1)
    except Exception as error:
        _fail_unexpectedly(error)


def _fail_unexpectedly(error: Exception) -> None:
    """Report an error that no bad input should cause; the traceback of an internal error is written to a file."""
    from actors.errors import (
        BackendError,
        CheckpointError,
        MessageError,
        ModuleFailedError,
        StorageError,
        describe_failure,
    )
    from runner.cluster.errors import ClusterError
    from runner.commands.interrupts import StoppedError

    if isinstance(error, BackendError | StorageError | ClusterError):
        _fail(error, 2)
    if isinstance(error, OSError) and error.errno is not None:
        _fail(f"{error.filename or 'a file'}: {error.strerror}", 1)
    if isinstance(error, ModuleFailedError | CheckpointError | MessageError | StoppedError | OSError):
        _fail(error, 1)
    described = describe_failure(error)
    of_module = described != str(error)
    first_line = str(printable(described if of_module else error)).strip().partition("\n")[0]
    name = type(error).__name__
    reason = f"internal error: {name}: {printable_line(first_line)}" if first_line else f"internal error: {name}"
    reason = printable_line(first_line) if of_module else reason
    file = write_traceback(error)
    where = f"; the traceback is in {file}" if file else "; its traceback could not be written to any file"
    _fail(f"{reason}{where}", 1)


def write_traceback(error: Exception) -> Path | None:
    """Write the traceback of an internal error to a file, and return its path.

    The file is ``error.txt`` in the directory of the run that the error concerns, otherwise a private file in the
    user's state directory or, if that cannot be used, in the temporary directory.
    """
    text = printable("".join(traceback.format_exception(error)), MAX_ERROR_FILE_CHARACTERS)
    content = f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}".encode(errors="backslashreplace")
    for write in (_write_to_run_directory, _write_to_state_directory, _write_to_temporary_directory):
        with suppress(Exception):
            path = write(error, content)
            if path is not None:
                return path
    return None


def _write_to_run_directory(error: Exception, content: bytes) -> Path | None:
    from actors.storage.filesystem import storage_at

    path = _find_run_directory(error)
    if path is None:
        return None
    storage_at(path.parent.resolve()).write(f"{path.name}/{ERROR_FILE}", content)
    return path / ERROR_FILE


def _find_run_directory(error: Exception) -> Path | None:
    """Return the directory of the run that the functions in which the error was raised worked on."""
    from runner.runs.directory import RunDirectory

    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            value = getattr(value, "directory", value) if isinstance(value, tuple) else value
            if isinstance(value, RunDirectory):
                return value.path
    return None


def _write_to_state_directory(_error: Exception, content: bytes) -> Path:
    from runner.runs.state import prepare_state_directory

    return _write_private(str(prepare_state_directory()), content)


def _write_to_temporary_directory(_error: Exception, content: bytes) -> Path:
    return _write_private(None, content)


def _write_private(directory: str | None, content: bytes) -> Path:
    """Write a new file that no other user can read or replace the target of."""
    descriptor, name = tempfile.mkstemp(prefix="serket-error-", suffix=".txt", dir=directory)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return Path(name)


def _escape_log_records() -> None:
    """Escape control characters in the log records that reach stderr because no handler is configured."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())


def say(text: object, *, err: bool = False) -> None:
    """Print a text on stdout or stderr, with control characters as escapes."""
    typer.echo(printable(text), err=err)


class PrintableGroup(TyperGroup):
    """Commands whose errors of usage are one sentence, with control characters as escapes, and shortened."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse the arguments before the command's name."""
        with _printable_usage_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse a command's arguments, and call it."""
        with _printable_usage_errors():
            return super().invoke(ctx)


_UsageError: Any = typer.BadParameter.__bases__[0]  # of click, which newer versions of typer contain


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # no command was given; its text is the help
            raise
        path = "serket" if error.ctx is None else error.ctx.command_path
        sentence = printable_line(error.format_message()).rstrip(".").replace("Value error, ", "")
        _fail(f"{sentence[:1].lower()}{sentence[1:]}; {path} --help shows how to call it", 2)


_TYPER_INTERRUPTED = 130
"""Exit status of typer, which says nothing, if a signal interrupts it outside of a command."""


def run_app(app: typer.Typer) -> None:
    """Run a command line; errors outside its commands are reported as those within."""
    try:
        app(prog_name="serket")
    except SystemExit as end:
        if end.code != _TYPER_INTERRUPTED:
            raise
        raise KeyboardInterrupt from None
    except Exception:
        try:
            with user_errors():  # imported with what it needs only now
                raise
        except typer.Exit as end:
            sys.exit(end.exit_code)


def _fail(reason: object, status: int) -> None:
    """Print `reason` on stderr and exit with `status`."""
    with suppress(OSError, ValueError):  # stderr may be closed; the status says it then
        say(f"serket: {printable(reason)}", err=True)
    raise typer.Exit(status)


def check_picture(path: Path) -> None:
    """Raise DataError if a picture cannot be written as PNG to `path`, before it is computed."""
    from runner.data.errors import DataError

    reason = ""
    if path.is_dir():
        reason = "is a folder; give the name of a file, such as classes.png"
    elif not path.parent.is_dir():
        reason = f"there is no folder {path.parent}; create it, or give another place"
    if reason:
        raise DataError(f"--out {printable_line(path)}: {reason}")


def print_run_result(directory: RunDirectory, result: dict[str, Any] | None, as_json: bool) -> None:
    """Print the result of a run; if the run continues (`result` is None), the commands to follow and stop it."""
    handle = directory.cli_name
    if result is None and as_json:
        typer.echo(json.dumps({"run": directory.name, "detached": True}))
    elif result is None:
        name = directory.name
        say(f"{name} continues; follow it with serket attach {handle}, stop it with serket stop {handle}")
    else:
        print_result(result, as_json, evidence=_meaning_of_evidence(directory.graph))
        if not as_json:
            say(f"results in {directory.path}/")
            if (report := directory.path / "report.html").exists():
                say(f"report in {report}")


_MEANINGS = {
    "rounds": ("", "passes of the schedule"),
    "seconds": ("s", "of the whole command"),
    "evidence": (
        "nats",
        "log-density of the rows, or a bound of it; the higher, the better, among runs on the same rows",
    ),
    "score": ("nats", "the evidence plus what other modules add to it; rounds end when it rises no more"),
    "accuracy": ("", "share of rows whose class is matched to their category"),
    "ari": ("", "agreement of classes and categories: 1 if they are the same, about 0 by chance"),
    "nmi": ("", "information that classes and categories share: 1 if they are the same, 0 if none"),
    "ece": (
        "",
        "how far probabilities of classes are from how often they are right: expected calibration error, 0 is best",
    ),
    "overhead_share": ("", "of the time of the rounds, in which no module computed"),
    "first_output": ("s", "from the command until a module had learnt something"),
}
"""The unit and the meaning of each figure of a result."""

_COMPARES = "the higher, the better, of one model on the same rows"


def _meaning_of_evidence(graph: Graph) -> str:
    """Return what a model's evidence is; empty if it is the log-density of the rows."""
    if any(module.parameters.get("calibrate") for module in graph.modules.values()):
        return f"what the order of the rows explains, relative to the density of each row alone; {_COMPARES}"
    if any(module.type in ("vae", "pca") for module in graph.modules.values()):
        return f"log-density of the latent vectors, or a bound of it; {_COMPARES}"
    return ""


def print_result(result: dict[str, Any], as_json: bool, evidence: str = "") -> None:
    """Print the result of a run or a recognition, one line for each value or as one JSON object.

    A figure has its unit, and what it means (:data:`_MEANINGS`); `evidence` is what that of this model means.
    """
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, list):  # of single sequences, for --json
            continue
        if isinstance(value, dict):
            value = ", ".join(
                f"{key} {figure}" if isinstance(figure, int) else f"{key} {figure:.2f} s"
                for key, figure in value.items()
                if isinstance(figure, int | float)
            )
        elif isinstance(value, float):
            value = (
                f"{value:.1%}" if name == "overhead_share" else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
            )
        unit, meaning = _MEANINGS.get(name, ("", "")) if value is not None else ("", "")
        meaning = evidence if name == "evidence" and evidence and meaning else meaning
        shown = "–" if value is None else f"{printable_line(value)} {unit}".rstrip()
        say(f"{printable_line(name).replace('_', ' '):>15}  {shown:<{14 * bool(meaning)}}  {meaning}".rstrip())
