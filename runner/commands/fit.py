"""Train a model on rows that Python gives, in a process that goes on afterwards: :meth:`runner.Model.fit`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from actors.coordination.events import Emit, ignore
from runner.cluster.signals import before_exit
from runner.commands.driver import build_run_spec, join_cluster, launch, start_and_follow, watched
from runner.commands.local import check_local
from runner.config.run_config import RunConfig
from runner.data.datasets import Dataset
from runner.data.given import Given, store_rows
from runner.data.sources import check_modules, describe_data
from runner.report.progress import Progress
from runner.runs.client import RunClient
from runner.runs.directory import OpenedRun, RunDirectory, RunDirectoryError, open_run
from runner.runs.local_client import LocalClient
from runner.runs.state import RunRecord, note_storage, recorded, remove_record
from runner.runs.timing import Clock
from runner.tracking.feed import Tracking
from runner.tracking.loading import make_callbacks

CODE = "code"
"""The folder of a run's directory with networks that a script defines."""


def fit(
    config: RunConfig,
    given: Given,
    path: Path,
    *,
    progress: Progress,
    ray: bool = False,
    address: str | None = None,
    known: bool = True,
    code: Path | None = None,
    callbacks: Sequence[Any] = (),
) -> OpenedRun:
    """Train a model as ``serket run`` does with the equal model file: with the same seeds, messages and bits.

    Parameters
    ----------
    config : RunConfig
    given : Given
        The rows to learn from; with rows that are None, those that the config names.
    path : Path
        The run's directory, which must not exist. It is deleted if nothing is learnt.
    progress : Progress
    ray : bool
        Whether the modules are actors on a Ray cluster; otherwise they live in this process.
    address : str, optional
        Address of the cluster; by default, one is started on this machine and ends with the run.
    known : bool
        Whether other commands of this user are told of the run while it is running.
    code : Path, optional
        A folder of Python files that belong to the run, and are copied into its directory.
    callbacks : sequence
        Callbacks, or what :func:`runner.tracking.loading.make_callback` takes, besides those of the config.

    Raises
    ------
    RunDirectoryError
        If `path` exists or cannot be created.
    DataError, ModuleError, GraphError
        If the rows cannot be used.
    ClusterError
        If the cluster cannot be joined or started, or if the model asks for what one process cannot do.
    StoppedError
        If the run was interrupted.
    """
    clock = Clock(time.time())
    if not ray:
        check_local(config, address=None, detach=False, option="ray=False")
    tracking = Tracking(make_callbacks([*config.tracking_arguments(), *callbacks]), progress.log)
    directory = _create(path, config)
    try:
        config, data = _prepare(config, given, directory, progress, address, code)
        clock.mark("data")
        with tracking, ExitStack() as stack:
            stack.enter_context(directory.lock())
            stack.callback(progress.close)
            start = _start_on_ray if ray else _start_here
            client, observe = start(stack, config, directory, progress, clock, address, known=known)
            tracking.begin(directory, config.plain())
            start_and_follow(
                client,
                data,
                directory,
                clock=clock,
                progress=progress,
                detach=False,
                observe=observe,
                last=False,
                tracking=tracking,
            )
    except BaseException:
        if not has_learnt(path):
            shutil.rmtree(path, ignore_errors=True)
        raise
    return OpenedRun(config, directory)


def _create(path: Path, config: RunConfig) -> RunDirectory:
    if path.exists():
        raise RunDirectoryError(f"{path}: exists already; give another path, or delete it")
    return RunDirectory.create(path.parent, path.name, config.graph, exact=True, storage=config.checkpoints.storage)


def _prepare(
    config: RunConfig, given: Given, directory: RunDirectory, progress: Progress, address: str | None, code: Path | None
) -> tuple[RunConfig, dict[str, Dataset]]:
    """Bring rows and code into the run's directory, and check that every module can learn from the rows."""
    if code is not None:
        shutil.copytree(code, directory.path / CODE)
        places = [directory.path.absolute() / CODE if each == code else each for each in config.code]
        config = config.model_copy(update={"code": places})
    if given.rows is not None:
        config = store_rows(config, given, directory.path.absolute())
    config.convert_data(address, progress.log)
    data = config.load_data()
    check_modules(directory.graph, data)
    directory.categories = config.categories(data)
    note_storage(directory.commits_location)
    for line in describe_data(data):
        progress.log(line)
    return config, data


def _start_here(
    stack: ExitStack,
    config: RunConfig,
    directory: RunDirectory,
    progress: Progress,  # noqa: ARG001 (of the other start)
    clock: Clock,  # noqa: ARG001
    address: str | None,  # noqa: ARG001
    *,
    known: bool,
) -> tuple[RunClient, Emit]:
    """Start the coordinator in this process."""
    directory.write_config(config)
    directory.write_environment("", own=True)
    if known:
        stack.enter_context(recorded(directory.path, RunRecord("", own=True)))
        stack.enter_context(before_exit(lambda: remove_record(directory.path)))
    return LocalClient(build_run_spec(config, directory)), ignore


def _start_on_ray(
    stack: ExitStack,
    config: RunConfig,
    directory: RunDirectory,
    progress: Progress,
    clock: Clock,
    address: str | None,
    *,
    known: bool,  # noqa: ARG001 (a run on a cluster always has a record, with its secret)
) -> tuple[RunClient, Emit]:
    """Start the coordinator on a cluster."""
    joined = join_cluster(stack, config, directory, progress, clock, address)
    directory.write_config(config)
    directory.write_environment(joined, own=address is None)
    client, observe = launch(stack, config, directory, joined, own=address is None, detached=False)
    left = f"what the modules have learnt is in {directory.path}/"
    stack.enter_context(watched(directory, progress, own=address is None, remedy=left))
    return client, observe


def has_learnt(path: Path) -> bool:
    """Return whether an update of a module is committed in a run's directory, so that it can be used or resumed."""
    try:
        manifest = open_run(path).directory.checkpoints.latest()
    except (ValueError, RuntimeError, OSError):
        return False
    return manifest is not None and manifest.round > 0
