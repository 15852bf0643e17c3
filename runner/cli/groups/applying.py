"""Define the commands that use what a run has learnt: recognize, predict, generate."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.options import Count, Data, Header, Index, Json, Lengths, Offset, RunName, Runs
from runner.cli.output import check_picture, print_result, say, user_errors

if TYPE_CHECKING:
    from runner.data.datasets import Dataset
    from runner.runs.directory import OpenedRun


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


def generate(
    run: RunName,
    length: Annotated[int, typer.Option(min=1, max=256, help="Number of rows.")] = 20,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Pictures of the rows (.png), or the rows themselves (.csv with their classes, .npy); by default "
            "generated.png, if a module decodes pictures."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the random draws; by default that of the run.")
    ] = None,
    noise: Annotated[
        bool,
        typer.Option(
            "--noise",
            help="Draw each row from its class, so that rows of a class differ; else class means are decoded.",
        ),
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Generate a sequence from a trained run: classes drawn from the learnt transitions, decoded to pictures.

    Example: serket generate mnist --length 20 --out digits.png
    """
    with user_errors():
        from runner.commands.generate import generate as generate_rows
        from runner.runs.directory import find_run, open_run
        from runner.runs.levels import generated_classes

        opened = open_run(find_run(run, runs))
        place = out or Path("generated.png")
        check_picture(place)
        outputs, written = generate_rows(opened, length, place, seed, noise=noise, must_write=out is not None)
        classes = generated_classes(opened.directory.graph, outputs)
        if classes is not None:
            say("classes " + " ".join(map(str, classes)))
        say(written)


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
