"""Run one trial of a sweep in this process, as ``serket run --local`` would."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from runner.commands.fit import fit, has_learnt
from runner.commands.interrupts import StoppedError
from runner.commands.resume import resume
from runner.data.given import Given
from runner.report.printable import printable_line
from runner.report.progress import Progress
from runner.runs.directory import open_run
from runner.runs.timing import Clock
from runner.sweeps.plan import Sweep, Trial

RESULT = "result.json"


def is_finished(sweep: Sweep, trial: Trial) -> bool:
    """Return whether a trial is complete."""
    return (sweep.path / trial.name / RESULT).is_file()


def run_trial(sweep: Sweep, trial: Trial) -> str:
    """Train the model of a trial, or go on where it was cut off.

    Returns
    -------
    str
        Why it failed; empty if it did not.

    Raises
    ------
    StoppedError, KeyboardInterrupt
        If it was interrupted.
    """
    path = sweep.path / trial.name
    try:
        if is_finished(sweep, trial):
            return ""
        config = sweep.config(trial)
        if path.exists() and not has_learnt(path):
            shutil.rmtree(path)
        if not path.exists():
            fit(config, Given(None, None, None), path, progress=Progress(config.graph), known=False)
            return ""
        run = open_run(path)
        progress = Progress(run.directory.graph)
        resume(run, clock=Clock(time.time()), progress=progress, address=None, local=True, last=False)
    except StoppedError:
        raise
    except Exception as error:  # a failed trial must not end the others
        return describe(error)
    return ""


def describe(error: BaseException) -> str:
    """Return why a trial failed, in one line."""
    lines = str(error).strip().splitlines()
    return printable_line(lines[0] if lines else type(error).__name__)


def trial_in(directory: str, name: str) -> tuple[Sweep, Trial]:
    """Return the sweep in a directory, and its trial of a name.

    Raises
    ------
    RunDirectoryError
        If the directory is not there, as on another machine.
    """
    from runner.sweeps.plan import read_sweep

    sweep = read_sweep(Path(directory))
    return sweep, next(trial for trial in sweep.trials if trial.name == name)
