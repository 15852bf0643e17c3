"""Print the trials and the results of a sweep: ``serket sweep``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import typer

from runner.cli.output import say
from runner.commands.sweep import Planned, check_trials, plan_sweep, resumed_sweep, run_sweep
from runner.config.model_files import find_model
from runner.config.run_config import ConfigError, Override
from runner.report.console import SafeConsole
from runner.sweeps.plan import CRITERIA, show
from runner.sweeps.summary import REPORT, Summary
from runner.sweeps.tune_installed import check_installed

_LEAST_WIDTH = 110
"""Columns of a table that goes to no terminal."""


@dataclass(frozen=True)
class Asked:
    """What the command line says of a sweep."""

    model: str | None
    grid: Sequence[str]
    seeds: str | None
    settings: Sequence[Override]
    by: str
    runs: Path
    name: str | None
    resume: Path | None


def run_command(
    asked: Asked, *, address: str | None, local: bool, at_once: int | None, dry_run: bool, as_json: bool
) -> None:
    """Run a sweep, or list its trials, and print what it has found; exit with status 1 if trials failed.

    Raises
    ------
    ConfigError
        If options contradict each other.
    """
    planned = _planned(asked)
    if local and at_once is not None:
        raise ConfigError("--local runs one trial after the other: leave out --trials-at-once, or --local")
    if local and address:
        raise ConfigError(f"--local runs every trial in this process: leave out --address {address}, or --local")
    log = partial(say, err=True)
    check_trials(planned, log)
    if dry_run:
        _print_trials(planned, as_json)
        return
    if not local:
        check_installed()
    summary = run_sweep(planned, address=address, local=local, at_once=at_once, log=log)
    if as_json:
        typer.echo(json.dumps(summary.as_dict()))
    else:
        _print_summary(summary)
    if any(result.state == "failed" for result in summary.results):
        raise typer.Exit(1)


def _planned(asked: Asked) -> Planned:
    if asked.resume is not None:
        given: dict[str, object] = {
            "MODEL": asked.model,
            "--grid": asked.grid,
            "--seeds": asked.seeds,
            "--name": asked.name,
        }
        given |= {"--set": [each for each in asked.settings if isinstance(each, str)]}
        given |= {"--track": [each for each in asked.settings if not isinstance(each, str)]}
        if odd := next((name for name, value in given.items() if value), None):
            raise ConfigError(f"--resume goes on with the sweep as it was started: leave out {odd}")
        return resumed_sweep(asked.resume)
    if asked.model is None:
        raise ConfigError("serket sweep needs a model file, or --resume with the directory of a sweep")
    if asked.by not in CRITERIA:
        raise ConfigError(f"--by {asked.by}: expected evidence or score, which need no labels")
    model = find_model(asked.model)
    config = model.load(asked.settings)
    if model.note:
        say(f"serket: {model.note}", err=True)
    return plan_sweep(config, asked.grid, asked.seeds, runs=asked.runs, name=asked.name, by=asked.by)


def _print_trials(planned: Planned, as_json: bool) -> None:
    sweep = planned.sweep
    if as_json:
        trials = [
            {"trial": each.name, **dict(zip(sweep.grid, each.values, strict=True)), "seed": each.seed}
            for each in sweep.trials
        ]
        typer.echo(json.dumps({"sweep": str(sweep.path), "trials": trials}))
        return
    rows = [[each.name, *map(show, each.values), str(each.seed)] for each in sweep.trials]
    _print_table(["trial", *sweep.grid, "seed"], rows)
    say(f"{len(rows)} trials, in {sweep.path}/")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = SafeConsole()
    if not console.is_terminal:
        console.width = max(console.width, _LEAST_WIDTH)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_summary(summary: Summary) -> None:
    _print_table([*summary.keys(), "seeds done", *summary.columns()], list(summary.rows()))
    for result in summary.results:
        if result.state == "failed":
            say(f"failed: {result.trial.name}: {result.reason}")
    say(summary.describe_choice())
    if summary.caveat:
        say(summary.caveat)
    say(f"results in {summary.sweep.path}/sweep.csv, report in {summary.sweep.path / REPORT}")
