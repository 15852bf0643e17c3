"""Print the results of commands on stdout, and errors as one sentence on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from runner.runs.directory import RunDirectory


@contextmanager
def user_errors() -> Iterator[None]:
    """Report expected errors in one sentence: exit status 2 for user errors, 1 for a run that failed."""
    from actors.errors import GraphError, ModuleError, NonFiniteError
    from runner.cli.new_module import TemplateError
    from runner.config.run_config import ConfigError
    from runner.data.readers import DataError
    from runner.runs.directory import RunDirectoryError

    try:
        yield
    except NonFiniteError as error:
        _fail(error, 1)
    except (ConfigError, DataError, GraphError, ModuleError, RunDirectoryError, TemplateError) as error:
        _fail(error, 2)
    except KeyboardInterrupt:
        _fail("interrupted", 1)
    except Exception as error:
        from actors.errors import BackendError, CheckpointError, MessageError, ModuleFailedError, StorageError
        from runner.cluster.connection import ClusterError
        from runner.commands.interrupts import StoppedError

        if isinstance(error, BackendError | StorageError | ClusterError):
            _fail(error, 2)
        if isinstance(error, OSError) and error.errno is not None:
            _fail(f"{error.filename or 'a file'}: {error.strerror}", 1)
        if isinstance(error, ModuleFailedError | CheckpointError | MessageError | StoppedError | OSError):
            _fail(error, 1)
        raise


def _fail(reason: object, status: int) -> None:
    """Print `reason` on stderr and exit with `status`."""
    typer.echo(f"serket: {reason}", err=True)
    raise typer.Exit(status)


def print_run_result(directory: RunDirectory, result: dict[str, Any] | None, as_json: bool) -> None:
    """Print the result of a run; if the run continues (`result` is None), the commands to follow and stop it."""
    handle = directory.cli_name
    if result is None and as_json:
        typer.echo(json.dumps({"run": directory.name, "detached": True}))
    elif result is None:
        name = directory.name
        typer.echo(f"{name} continues; follow it with serket attach {handle}, stop it with serket stop {handle}")
    else:
        print_result(result, as_json)
        if not as_json:
            typer.echo(f"results in {directory.path}/")


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print the result of a run or a recognition, one line for each value or as one JSON object."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    for name, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {figure:.2f} s" for key, figure in value.items())
        elif isinstance(value, float):
            value = (
                f"{value:.1%}" if name == "overhead_share" else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
            )
        typer.echo(f"{name.replace('_', ' '):>15}  {'–' if value is None else value}")
