"""Train the model of a model file: ``serket run``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.coordination.events import Emit, ignore
from runner.cluster.errors import ClusterError
from runner.cluster.signals import before_exit, ignored_signals
from runner.commands.driver import guarded, join_cluster, launch, start_and_follow
from runner.commands.former_run import FORMER_RUN_SECONDS, delete_former_run
from runner.commands.local import check_place, local_run
from runner.config.run_config import RunConfig
from runner.data.datasets import Dataset
from runner.data.sources import check_modules, describe_data
from runner.report.progress import Progress
from runner.runs.client import RunClient
from runner.runs.directory import RunDirectory
from runner.runs.state import StateError, note_storage, prepare_state_directory
from runner.runs.timing import Clock
from runner.tracking.feed import Tracking
from runner.tracking.loading import make_callbacks


def train(
    config: RunConfig,
    *,
    clock: Clock,
    progress: Progress,
    runs: Path = Path("runs"),
    name: str | None = None,
    address: str | None = None,
    detach: bool = False,
    local: bool = False,
    overwrite: bool = False,
) -> tuple[RunDirectory, dict[str, Any] | None]:
    """Train the model of `config` on a cluster, or in this process.

    Parameters
    ----------
    config : RunConfig
    clock : Clock
    progress : Progress
    runs : Path
        Parent of the run directories.
    name : str, optional
        The run's name; by default the config's, with a number if it is taken.
    address : str, optional
        Address of a Ray cluster; by default, one is started on this machine.
    detach : bool
        Whether to return after the first commit, while the run continues.
    local : bool
        Whether all modules live in this process, without Ray.
    overwrite : bool
        Whether a former run of this name is deleted, once the data are loaded and checked.

    Returns
    -------
    RunDirectory, dict
        The run's directory, and the contents of ``result.json``; None for a detached run.

    Raises
    ------
    ClusterError
        If the cluster cannot be joined, if the run is to be detached from one that ends with this process, or if it
        cannot be a local one.
    RunDirectoryError
        If the run's directory cannot be created, or a former run not be overwritten.
    StoppedError
        If the run was stopped.
    """
    check_place(config, address=address, detach=detach, local=local)
    tracking = Tracking(make_callbacks(config.tracking_arguments()), progress.log)
    prepare_state_directory()
    config.convert_data(address, progress.log)
    data = config.load_data()
    check_modules(config.graph, data)
    clock.mark("data")
    directory = _make_directory(config, data, progress, runs, name, address, overwrite=overwrite)
    for line in describe_data(data):
        progress.log(line)
    with tracking, ExitStack() as stack:
        try:
            stack.enter_context(directory.lock())
            client, observe = _start(
                stack, config, directory, progress, clock, address, detach=detach, local=local, overwrite=overwrite
            )
        except (ClusterError, StateError, OSError, KeyboardInterrupt):
            directory.delete_unstarted()
            raise
        if not local:
            stack.enter_context(guarded(directory, progress, own=address is None))
        tracking.begin(directory, config.plain())
        result = start_and_follow(
            client, data, directory, clock=clock, progress=progress, detach=detach, observe=observe, tracking=tracking
        )
        with ignored_signals():  # the run is complete; only the cluster is to end
            stack.close()
        return directory, result


def _make_directory(
    config: RunConfig,
    data: Mapping[str, Dataset],
    progress: Progress,
    runs: Path,
    name: str | None,
    address: str | None,
    *,
    overwrite: bool,
) -> RunDirectory:
    """Make the directory of a new run, in the place of a former run's if that is to be overwritten, and say so."""
    wanted = name or config.name
    categories = config.categories(data)  # what is wrong with them is found before anything is deleted
    if overwrite and (sentence := delete_former_run(runs, wanted, config, address)):
        progress.log(sentence)
    exact, storage = overwrite or name is not None, config.checkpoints.storage
    directory = RunDirectory.create(
        runs,
        wanted,
        config.graph,
        exact=exact,
        remedy=", or --overwrite, which deletes that run",
        categories=categories,
        storage=storage,
        reports=config.report,
    )
    note_storage(directory.commits_location)
    if directory.name != wanted:
        taken = runs / wanted
        progress.log(f"{taken} is there already; this run is {directory.name} (--overwrite deletes the former run)")
    return directory


def _start(
    stack: ExitStack,
    config: RunConfig,
    directory: RunDirectory,
    progress: Progress,
    clock: Clock,
    address: str | None,
    *,
    detach: bool,
    local: bool,
    overwrite: bool,
) -> tuple[RunClient, Emit]:
    """Start the coordinator of a new run; return its client, and what observes the metrics of its commits."""
    if local:

        def describe() -> None:
            directory.write_config(config)
            directory.write_environment("", own=True)

        return stack.enter_context(local_run(config, directory, progress, describe)), ignore
    own = address is None
    with before_exit(directory.delete_unstarted):
        joined = join_cluster(stack, config, directory, progress, clock, address)
    directory.write_config(config)
    directory.write_environment(joined, detached=detach, own=own)
    patience = FORMER_RUN_SECONDS if overwrite else 0.0  # the former run's coordinator may be about to end
    return launch(stack, config, directory, joined, own=own, detached=detach, patience=patience)
