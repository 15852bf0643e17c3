"""Define the commands for authors of models and modules: modules, new-module, new-model, check, models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runner.cli import completion
from runner.cli.options import Json
from runner.cli.output import say, user_errors


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


def models(
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
