"""Train the model of a model file: ``serket run``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.coordination.events import Emit, ignore
from runner.cluster.errors import ClusterError
from runner.cluster.signals import before_exit, ignored_signals
from runner.commands.driver import check_detachable, launch, start_and_follow, watched
from runner.commands.former_run import delete_former_run
from runner.commands.interrupts import interruptible
from runner.commands.local import check_local, local_run
from runner.config.run_config import RunConfig
from runner.config.user_code import collect_code
from runner.data.sources import check_modules, describe_data
from runner.report.progress import Progress
from runner.runs.client import RunClient
from runner.runs.directory import RunDirectory
from runner.runs.state import (
    StateError,
    note_storage,
    prepare_state_directory,
    remove_record,
)
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
    if local:
        check_local(config, address=address, detach=detach)
    elif detach:
        check_detachable(address)
    tracking = Tracking(make_callbacks(config.tracking_arguments()), progress.log)
    prepare_state_directory()
    graph = config.graph
    config.convert_data(address, progress.log)
    data = config.load_data()
    check_modules(graph, data)
    clock.mark("data")
    categories = config.categories(data)
    storage = config.checkpoints.storage
    if overwrite and (sentence := delete_former_run(runs, name or config.name, config, address)):
        progress.log(sentence)
    directory = RunDirectory.create(
        runs,
        name or config.name,
        graph,
        exact=overwrite or name is not None,
        categories=categories,
        storage=storage,
        reports=config.report,
    )
    note_storage(directory.commits_location)
    if directory.name != (name or config.name):
        taken = runs / (name or config.name)
        progress.log(f"{taken} is there already; this run is {directory.name} (--overwrite deletes the former run)")
    for line in describe_data(data):
        progress.log(line)
    with tracking, ExitStack() as stack:
        try:
            stack.enter_context(directory.lock())
            client, observe = _start(stack, config, directory, progress, clock, address, detach=detach, local=local)
        except (ClusterError, StateError, OSError, KeyboardInterrupt):
            directory.delete_unstarted()
            raise
        if not local:
            stack.enter_context(before_exit(lambda: remove_record(directory.path)))
            stack.enter_context(interruptible(directory))
            stack.enter_context(watched(directory, progress, own=address is None))
        tracking.begin(directory, config.plain())
        result = start_and_follow(
            client, data, directory, clock=clock, progress=progress, detach=detach, observe=observe, tracking=tracking
        )
        with ignored_signals():  # the run is complete; only the cluster is to end
            stack.close()
        return directory, result


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
) -> tuple[RunClient, Emit]:
    """Start the coordinator of a new run; return its client, and what observes the metrics of its commits."""
    if local:

        def describe() -> None:
            directory.write_config(config)
            directory.write_environment("", own=True)

        return stack.enter_context(local_run(config, directory, progress, describe)), ignore
    from runner.cluster.connection import await_nodes, cluster  # imports Ray

    with before_exit(directory.delete_unstarted):
        joined = stack.enter_context(cluster(address, collect_code(directory.graph)))
    await_nodes(config.cluster.nodes, config.recovery.wait, progress.log)
    clock.mark("ray")
    directory.write_config(config)
    directory.write_environment(joined, detached=detach, own=address is None)
    return launch(stack, config, directory, joined, own=address is None, detached=detach)
