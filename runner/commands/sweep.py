"""Train a model with every combination of some values and seeds: ``serket sweep``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from actors.errors import GraphError, ModuleError
from runner.commands.interrupts import StoppedError
from runner.commands.local import check_local
from runner.config.run_config import ConfigError, RunConfig, load_config
from runner.data.errors import DataError
from runner.data.sources import Data, check_modules, describe_data
from runner.runs.run_files import RunDirectoryError
from runner.runs.state import prepare_state_directory
from runner.sweeps.plan import MODEL, Sweep, Trial, check_count, check_name, parse_grid, parse_seeds, read_sweep
from runner.sweeps.summary import Summary, describe_trial, summarize
from runner.sweeps.trials import is_finished, run_trial
from runner.tracking.loading import make_callbacks


@dataclass(frozen=True)
class Planned:
    """A sweep that can be run: its plan, the model file, and whether its directory is there already."""

    sweep: Sweep
    model: RunConfig
    resumed: bool = False


def plan_sweep(
    model: RunConfig, grid: Sequence[str], seeds: str | None, *, runs: Path, name: str | None, by: str
) -> Planned:
    """Return a new sweep, of which every trial's config is valid.

    Raises
    ------
    ConfigError
        If grid or seeds cannot be parsed, or a value is not valid.
    RunDirectoryError
        If there is a sweep or a run of this name.
    """
    values, numbers = parse_grid(grid, model), parse_seeds(seeds, model)
    check_count(values, numbers)
    check_name(name or f"{model.name}-sweep")
    path = runs / (name or f"{model.name}-sweep")
    if path.exists() and name is not None:
        raise RunDirectoryError(f"{path}: there is a sweep or a run of this name; choose another --name")
    number = 2
    while path.exists():
        path = runs / f"{model.name}-sweep-{number}"
        number += 1
    return Planned(Sweep(path, values, numbers, by), model)


def resumed_sweep(path: Path) -> Planned:
    """Return the sweep in a directory, to be gone on with."""
    sweep = read_sweep(path)
    return Planned(sweep, load_config(path / MODEL), resumed=True)


def check_trials(planned: Planned, log: Callable[[str], None]) -> None:
    """Check that every grid point is a valid model whose modules can learn from its rows, before anything is run.

    Raises
    ------
    ConfigError, DataError, ModuleError, GraphError
        If one is not, with its values.
    """
    sweep, model = planned.sweep, planned.model
    make_callbacks(model.tracking_arguments())
    check_local(model, address=None, detach=False, option="serket sweep")
    shared: Data | None = None
    if not any(key.partition(".")[0] == "data" for key in sweep.grid):
        model.convert_data(None, log)
        shared = model.load_data()
        for line in describe_data(shared):
            log(line)
    text = model.to_yaml()
    for values in sweep.points:
        try:
            config = load_config(sweep.path / MODEL, sweep.overrides(values, sweep.seeds[0]), text=text)
            data = shared
            if data is None:
                config.convert_data(None, log)
                data = config.load_data()
            check_modules(config.graph, data)
        except (ConfigError, DataError, ModuleError, GraphError) as error:
            point = Summary(sweep, (), "").describe_point(values)
            raise type(error)(f"--grid {point}: {error}" if sweep.grid else str(error)) from None


def run_sweep(
    planned: Planned, *, address: str | None, local: bool, at_once: int | None, log: Callable[[str], None]
) -> Summary:
    """Run the trials that are not done, and write ``sweep.csv`` and ``report.html``.

    Parameters
    ----------
    planned : Planned
    address : str, optional
        Of a Ray cluster; by default one is started on this machine.
    local : bool
        Whether the trials run one after the other in this process, without Ray.
    at_once : int, optional
        Trials that run at the same time.
    log : callable
        Shows a sentence to the user.

    Raises
    ------
    StoppedError
        If it was interrupted; it can be resumed.
    """
    prepare_state_directory()
    sweep = planned.sweep
    if not planned.resumed:
        _create(planned)
    lock = FileLock(sweep.path.resolve() / ".sweep.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunDirectoryError(f"{sweep.path}: another process runs this sweep; wait for it, or end it") from None
    try:
        return _run(planned, address=address, local=local, at_once=at_once, log=log)
    finally:
        lock.release()


def _create(planned: Planned) -> None:
    path = planned.sweep.path
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be created ({error.strerror}); choose other --runs") from error
    planned.sweep.write(planned.model)


def _run(
    planned: Planned, *, address: str | None, local: bool, at_once: int | None, log: Callable[[str], None]
) -> Summary:
    sweep = planned.sweep
    trials = sweep.trials
    left = [trial for trial in trials if not is_finished(sweep, trial)]
    if len(left) < len(trials):
        log(f"{len(trials) - len(left)} of {len(trials)} trials are done already")
    failures: dict[str, str] = {}
    ended = len(trials) - len(left)

    def done(trial: Trial, failure: str) -> None:
        nonlocal ended
        ended += 1
        if failure:
            failures[trial.name] = failure
        log(f"{ended}/{len(trials)}  {trial.name}  {f'failed: {failure}' if failure else describe_trial(sweep, trial)}")

    stopped = False
    try:
        if local:
            for trial in left:
                done(trial, run_trial(sweep, trial))
        elif left:
            from runner.sweeps.tune import run_on_tune  # imports Ray

            run_on_tune(sweep, left, address=address, at_once=at_once, done=done)
    except (StoppedError, KeyboardInterrupt):
        stopped = True
    summary = summarize(sweep, planned.model, failures)
    summary.write()
    remaining = sum(result.state == "left" for result in summary.results)
    if stopped or remaining:
        raise StoppedError(
            f"stopped with {remaining} of {len(trials)} trials left; continue with serket sweep --resume {sweep.path}"
        )
    return summary
