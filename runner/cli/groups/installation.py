"""Define the commands about this installation: doctor, completion."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.cli.completion import Shell, script


def doctor() -> None:
    """Report versions, cores, memory and GPUs, and whether everything that a run needs works.

    Example: serket doctor
    """
    from runner.cli.doctor import run_checks

    passed = run_checks()
    raise typer.Exit(0 if passed else 1)


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell.")],
) -> None:
    """Print the code by which a shell completes commands, options, models and runs.

    Example: source <(serket completion bash)
    """
    typer.echo(script(shell))
