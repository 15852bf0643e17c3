"""The trials of a sweep on Ray Tune, each in a process of its own."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner.cluster.connection import cluster
from runner.config.user_code import collect_code
from runner.report.printable import printable_line
from runner.sweeps.plan import Sweep, Trial
from runner.sweeps.trials import run_trial, trial_in

_OWN = "tune"
"""The folder of a sweep that Ray Tune's own files are in while it runs."""


def run_on_tune(
    sweep: Sweep,
    trials: Sequence[Trial],
    *,
    address: str | None,
    at_once: int | None,
    done: Callable[[Trial, str], None],
) -> None:
    """Run trials on Ray Tune; after an interrupt, those that are not done are left.

    Parameters
    ----------
    sweep : Sweep
    trials : sequence of Trial
        Those that are to be run.
    address : str, optional
        Of a cluster whose nodes share the sweep's directory; by default one is started on this machine.
    at_once : int, optional
        Trials that run at the same time; by default as many as there are cores for.
    done : callable
        Called for each trial that has ended, with why it failed.
    """
    config = sweep.config(trials[0])
    cores = max(module.threads for module in config.modules.values())
    with cluster(address, collect_code(config.graph)):
        import ray

        available = max((node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"]), default=1.0)
        try:
            _fit(sweep, trials, cpus=min(float(cores), available), at_once=at_once, done=done)
        finally:
            shutil.rmtree(sweep.path / _OWN, ignore_errors=True)


def _fit(
    sweep: Sweep, trials: Sequence[Trial], *, cpus: float, at_once: int | None, done: Callable[[Trial, str], None]
) -> None:
    # Tune's loggers write files of their own, and its trials change to directories of theirs.
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", RAY_CHDIR_TO_TRIAL_DIR="0", RAY_AIR_NEW_OUTPUT="0")
    os.environ.update(TUNE_PRINT_ALL_TRIAL_ERRORS="0")
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    named = {trial.name: trial for trial in trials}

    class Report(tune.Callback):  # type: ignore[misc]
        """Says which trial has ended."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:  # noqa: ARG002
            done(named[trial.config["trial"]], str((trial.last_result or {}).get("failed", "")))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_info: Any) -> None:  # noqa: ARG002
            done(named[trial.config["trial"]], f"its process failed: {_last_line(trial.error_file)}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuner = tune.Tuner(
            tune.with_resources(_tune_trial, {"cpu": cpus}),
            param_space={"sweep": str(sweep.path.absolute()), "trial": tune.grid_search(list(named))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once or 0, trial_dirname_creator=_directory_name),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str((sweep.path / _OWN).absolute()),
                verbose=0,
                callbacks=[Report()],
            ),
        )
        tuner.fit()


def _last_line(file: str | None) -> str:
    """Return the last line of the file in which Tune describes an error."""
    try:
        text = Path(file).read_text(errors="replace") if file else ""
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.strip()]
    return printable_line(lines[-1]) if lines else "it ended"


def _directory_name(trial: Any) -> str:
    return str(trial.trial_id)


def _tune_trial(config: dict[str, Any]) -> None:
    """Run the trial that Ray Tune has chosen, in its process."""
    from ray import tune

    sweep, trial = trial_in(config["sweep"], config["trial"])
    tune.report({"failed": run_trial(sweep, trial), "path": str(Path(config["sweep"]) / trial.name)})
