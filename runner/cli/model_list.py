"""Print the included models, or the file of one of them: ``serket models``."""

from __future__ import annotations

import json

import typer

from runner.cli.output import say
from runner.config.error_messages import ConfigError, suggest
from runner.config.model_files import describe_model, describe_models, model_lines
from runner.config.model_names import included_models
from runner.config.yaml_io import read_config_text
from runner.report.printable import printable_line


def print_models(as_json: bool) -> None:
    """Print what each included model is, in three lines or as one JSON object."""
    entries = describe_models()
    if as_json:
        typer.echo(json.dumps({"models": entries}))
        return
    for entry in entries:
        say("\n".join(model_lines(entry)))
    say("run one with serket run NAME; serket models NAME prints its file")


def print_model(name: str, as_json: bool) -> None:
    """Print the file of an included model, or its description as JSON.

    Raises
    ------
    ConfigError
        If there is no such model.
    """
    included = included_models()
    if name not in included:
        hint = suggest(name, included) or f"; there are {', '.join(included)}"
        raise ConfigError(f"{printable_line(name, 60)}: there is no included model of this name{hint}")
    if as_json:
        typer.echo(json.dumps(describe_model(name, included[name])))
    else:
        typer.echo(read_config_text(included[name]), nl=False)
