"""Follows runs that go on by themselves, and ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from actors.backends.in_process import InProcess
from actors.backends.ray.metrics import Meter
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleFailedError
from runner.cluster.connection import ClusterError, answers, cluster
from runner.commands.monitor import Follower, Interrupts, StoppedError
from runner.commands.train import finish, is_done, write_generated
from runner.config.run_config import RunConfig
from runner.report.progress import Progress
from runner.runs.coordinator_client import CoordinatorGoneError, RunningModel
from runner.runs.directory import RunDirectory, RunDirectoryError, open_run
from runner.runs.timing import Clock


def attach(path: Path, *, clock: Clock, progress: Progress) -> tuple[RunDirectory, dict[str, Any] | None]:
    """Follow a run that was detached to its end; where it has ended already, write down what came of it.

    Returns
    -------
    RunDirectory, dict
        Where everything lies, and the contents of ``result.json``; None if the person who watches leaves.

    Raises
    ------
    RunDirectoryError
        If the run has not ended and is on no cluster.
    ModuleFailedError
        If the run failed while nobody watched.
    StoppedError
        If somebody stopped the run.
    """
    config, directory = open_run(path)
    with directory.lock():
        if (path / "result.json").exists():
            return directory, directory.read_json("result.json")
        directory.mend()
        directory.hear()
        directory.categories = config.categories(config.load_data())
        follower = Follower(directory, progress, since=directory.log.last())
        follower.catch_up()
        follower.resumed = True  # of what came before, the times are not known here
        with found(directory, locked=True) as model:
            ended = "gone"
            if model is not None:
                follower.measure = Meter(directory.name).take
                ended = _watch(model, follower)
            clock.mark("rounds")
            if ended == "left":
                return directory, None
            if ended != "done":
                _write_down(config, follower)
            return directory, finish(follower, clock)


def _watch(model: RunningModel, follower: Follower) -> str:
    """Follow a run: ``done``, its outputs being written down, ``left`` by who watches, or ``gone`` from the cluster."""
    directory, interrupts = follower.directory, Interrupts()
    ended = False  # an error of who watches ends nothing
    try:
        with interrupts.caught(lambda _sentence: None):
            follower.progress.log(f"watching {directory.name}; Ctrl-C leaves it alone")
            status = follower.follow(model.follow(), until=lambda: interrupts.asked)
        ended = bool(status["ended"])
        if not ended:
            return "left"
        if status["ended"] == "idle":
            raise RunDirectoryError(
                f"{directory.path}: the run has not begun, and whoever was about to begin it is gone; "
                f"begin it with serket resume {directory.handle}"
            )
        if status["ended"] == "stopped":
            raise StoppedError(f"stopped in round {status['round']}; go on with serket resume {directory.handle}")
        write_generated(directory, model.generate)
    except CoordinatorGoneError:
        return "gone"
    except KeyboardInterrupt:
        if ended:
            raise
        return "left"
    finally:
        if ended:
            model.stop()
            directory.checkpoints.notes.forget_events()  # they were heard
    return "done"


def stop(path: Path, *, now: bool, tell: Callable[[str], None]) -> str:
    """End a run: after its round, with a commit, or at once; return a sentence on where it stands.

    Parameters
    ----------
    path : Path
        The run's directory.
    now : bool
    tell : callable
        Receives a sentence once the run knows.

    Raises
    ------
    RunDirectoryError
        If the run is on no cluster.
    """
    config, directory = open_run(path)
    detached = directory.environment().get("detached", False)
    with found(directory) as model:
        if model is None:
            raise RunDirectoryError(f"{path}: the run does not go on anywhere; {_stands(directory, config)}")
        with suppress(CoordinatorGoneError):  # whoever watches has ended it
            if not now:
                model.halt("round")
                tell("it stops after its round; --now does not wait for that")
                if detached:
                    _await_halt(model)
            if detached or now:
                model.stop()
    with suppress(RunDirectoryError), directory.lock():  # whoever watches writes down what happened
        directory.hear()
    if not detached:  # its cluster may go with its driver, so that is waited for from outside
        directory.wait_for_lock()
    return _stands(directory, config)


def _await_halt(model: RunningModel) -> None:
    """Wait until a run that was asked to stop has; a coordinator that was started again meanwhile is asked again."""
    asked = ""
    for _events, status in model.follow():
        if status["ended"]:
            return
        if model.life != asked:
            asked = model.life
            model.halt("round")


def _stands(directory: RunDirectory, config: RunConfig) -> str:
    """Say where a run stands and how it goes on."""
    manifest = directory.checkpoints.latest()
    if manifest is not None and is_done(manifest, config):
        return f"all rounds are done; see what came of them with serket attach {directory.handle}"
    names = directory.checkpoints.names()
    where = f"it stands at {names[-1]}" if names else "nothing is committed"
    return f"{where}, go on with serket resume {directory.handle}"


@contextmanager
def found(directory: RunDirectory, *, locked: bool = False) -> Iterator[RunningModel | None]:
    """Join the cluster on which a run goes on, and find its coordinator; None where there is none.

    Parameters
    ----------
    directory : RunDirectory
    locked : bool
        Whether this process holds the directory's lock, so that no other one drives the run.

    Raises
    ------
    ClusterError
        If what listens at the cluster's address cannot be joined, so that nobody knows.
    """
    environment = directory.environment()
    address = environment.get("address", "")
    # A cluster of the driver's own ends with it; who joins one that is ending hangs.
    ended = environment.get("own") and (locked or not directory.driven())
    if not address or ended or not answers(address):
        yield None
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(cluster(address))
        except ClusterError as error:
            raise ClusterError(
                f"{directory.path}: whether the run goes on is not known: {error}; give the token with which it was "
                f"begun (RAY_AUTH_TOKEN) or, if another cluster has that address by now, delete "
                f"{directory.path / 'environment.json'}"
            ) from error
        try:
            model = RunningModel.find(directory.name)
        except ClusterError:
            model = None
        yield model


def _write_down(config: RunConfig, follower: Follower) -> None:
    """Write down what came of a run that ended while nobody watched."""
    directory = follower.directory
    follower.catch_up()
    manifest = directory.checkpoints.newest_whole(follower.progress.log)
    if manifest is None or not is_done(manifest, config):
        failure = directory.checkpoints.notes.failure()
        if failure:
            raise ModuleFailedError(
                f"{directory.path}: the run failed: {failure.rstrip()}\n{_stands(directory, config)}"
            )
        raise RunDirectoryError(f"{directory.path}: the run is on no cluster any more; {_stands(directory, config)}")
    follower.scores, follower.module_seconds = directory.scores(manifest.name), dict(manifest.module_seconds)
    coordinator = Coordinator(
        directory.graph, InProcess(), run=directory.name, seed=config.seed, checkpoints=directory.checkpoints
    )
    coordinator.resume()
    write_generated(directory, coordinator.generate)
