"""Completion of commands, options, models and runs in bash, zsh and fish, and the examples of the commands' help.

Completing must be fast and silent: nothing but names of files is read, and an error completes nothing.
"""

from __future__ import annotations

import enum
import inspect
import os
from pathlib import Path
from typing import Any

import typer
from typer.completion import completion_init, get_completion_script  # type: ignore[attr-defined]

from actors.limits import MAX_LISTED_NAMES

_VARIABLE = "_SERKET_COMPLETE"
"""The variable by which the code of a shell asks the command for what completes a line."""

EXAMPLE = "Example: "
"""Begins the last paragraph of a command's docstring, which ends its help."""


class Shell(enum.StrEnum):
    """The shells for which there is completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def script(shell: Shell) -> str:
    """Return the code that a shell has to run before it completes the lines of the command."""
    code: str = get_completion_script(prog_name="serket", complete_var=_VARIABLE, shell=shell.value)
    return code


def prepare(app: typer.Typer) -> None:
    """Answer a shell that asks for completions, and move the example of each command to the end of its help."""
    completion_init()
    commands: list[Any] = [*app.registered_commands, app.registered_callback]
    for command in commands:
        text = inspect.cleandoc(getattr(command.callback, "__doc__", None) or "")
        body, mark, example = text.rpartition(f"\n\n{EXAMPLE}")
        if mark and not command.help and not command.epilog:
            command.help, command.epilog = body, EXAMPLE + " ".join(example.split())


def complete_model(incomplete: str) -> list[str]:
    """Return the included models and the model files below the current directory that begin with a text."""
    from runner.config.model_names import included_models

    names = [name for name in included_models() if name.startswith(incomplete)]
    return [*names, *_entries(incomplete, lambda path: path.suffix.lower() in (".yaml", ".yml"))]


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Return the runs in the folder ``--runs`` that begin with a text, and the directories of others."""
    runs = Path(context.params.get("runs") or "runs")
    try:
        found = sorted(entry.name for entry in os.scandir(runs) if (Path(entry.path) / "config.yaml").exists())
    except OSError:
        found = []
    names = [name for name in found if name.startswith(incomplete)]
    return [*names[:MAX_LISTED_NAMES], *_entries(incomplete, lambda path: (path / "config.yaml").exists())]


def complete_module_type(incomplete: str) -> list[str]:
    """Return the module types that begin with a text."""
    from actors.graph.registry import known_names

    return sorted(name for name in known_names() if name.startswith(incomplete))


def complete_tracker(incomplete: str) -> list[str]:
    """Return the trackers with a name of their own that begin with a text."""
    from runner.tracking.loading import BUILT_IN

    return [name for name in BUILT_IN if name.startswith(incomplete)]


def _entries(incomplete: str, fits: Any) -> list[str]:
    """Return the entries of a directory that begin with a path: those that fit, and directories that may hold some."""
    directory, _, start = incomplete.rpartition("/")
    prefix = f"{directory}/" if "/" in incomplete else ""
    try:
        found = sorted(entry.name for entry in os.scandir(prefix or ".") if entry.name.startswith(start))
    except OSError:
        return []
    paths = [name for name in found if not name.startswith(".") or start.startswith(".")]
    fitting = [prefix + name for name in paths if fits(Path(prefix + name))]
    folders = [f"{prefix}{name}/" for name in paths if Path(prefix + name).is_dir() and prefix + name not in fitting]
    return [*fitting, *folders][:MAX_LISTED_NAMES]
