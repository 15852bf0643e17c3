"""Follow a detached run: ``serket attach``."""

from __future__ import annotations

from typing import Any

from actors.backends.in_process import InProcessBackend
from actors.backends.ray.metrics import PrometheusMetrics
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleFailedError
from runner.commands.driver import finish, is_done, write_generated
from runner.commands.interrupts import Interrupts, StoppedError
from runner.commands.monitor import RunMonitor
from runner.commands.stop import describe_progress
from runner.commands.trained_run import outputs_of
from runner.config.run_config import RunConfig
from runner.report.progress import Progress
from runner.runs.connect import connect_to_run
from runner.runs.coordinator_client import CoordinatorClient, CoordinatorEndedError
from runner.runs.directory import OpenedRun, RunDirectory, RunDirectoryError
from runner.runs.timing import Clock


def attach(run: OpenedRun, *, clock: Clock, progress: Progress) -> tuple[RunDirectory, dict[str, Any] | None]:
    """Follow a detached run to its end, and write its result; the run may have ended before.

    Returns
    -------
    RunDirectory, dict
        The run's directory, and the contents of ``result.json``, or None if the user interrupts the command.

    Raises
    ------
    RunDirectoryError
        If the run is not done and not running.
    ModuleFailedError
        If the run failed while no driver followed it.
    StoppedError
        If the run was stopped.
    """
    config, directory = run
    with directory.lock():
        if (directory.path / "result.json").exists():
            return directory, directory.read_json("result.json")
        directory.repair()
        directory.import_saved_events()
        directory.categories = config.categories(config.load_data())
        monitor = RunMonitor(directory, progress, since=directory.log.last_time())
        monitor.catch_up()
        monitor.resumed = True  # earlier durations are not known in this process
        with connect_to_run(directory, locked=True) as client:
            outcome = "ended"
            if client is not None:
                monitor.observe = PrometheusMetrics(directory.name).observe
                outcome = _watch(client, monitor)
            clock.mark("rounds")
            if outcome == "left":
                return directory, None
            if outcome != "done":
                _finish_ended_run(config, monitor)
            return directory, finish(monitor, clock)


def _watch(client: CoordinatorClient, monitor: RunMonitor) -> str:
    """Follow a run, and write its outputs at the end.

    Returns
    -------
    str
        ``done``; ``left``, if the user interrupts the command; or ``ended``, if the coordinator was ended.
    """
    directory, interrupts = monitor.directory, Interrupts()
    ended = False  # an error of this command must not end the run
    try:
        with interrupts.catch_signals(lambda _sentence: None):
            monitor.progress.log(f"watching {directory.name}; Ctrl-C leaves it running")
            status = monitor.follow(client.follow(), until=lambda: interrupts.requested)
        ended = bool(status["ended"])
        if not ended:
            return "left"
        if status["ended"] == "idle":
            raise RunDirectoryError(
                f"{directory.path}: the run has not started, because its driver ended too early; "
                f"start it with serket resume {directory.cli_name}"
            )
        if status["ended"] == "stopped":
            raise StoppedError(f"stopped in round {status['round']}; continue with serket resume {directory.cli_name}")
        write_generated(directory, client.generate)
    except CoordinatorEndedError:
        return "ended"
    except KeyboardInterrupt:
        if ended:
            raise
        return "left"
    finally:
        if ended:
            client.stop()
            directory.checkpoints.status_files.clear_events()  # this process has received them
    return "done"


def _finish_ended_run(config: RunConfig, monitor: RunMonitor) -> None:
    """Write the outputs of a run that ended while no driver followed it.

    Raises
    ------
    ModuleFailedError
        If the run failed.
    RunDirectoryError
        If the run is not done.
    """
    directory = monitor.directory
    monitor.catch_up()
    manifest = directory.checkpoints.newest_whole(monitor.progress.log)
    if manifest is None or not is_done(manifest, config):
        failure = directory.checkpoints.status_files.read_failure()
        if failure:
            raise ModuleFailedError(
                f"{directory.path}: the run failed: {failure.rstrip()}\n{describe_progress(directory, config)}"
            )
        raise RunDirectoryError(
            f"{directory.path}: the run is on no cluster any more; {describe_progress(directory, config)}"
        )
    monitor.scores, monitor.module_seconds = directory.scores(manifest.name), dict(manifest.module_seconds)
    coordinator = Coordinator(
        directory.graph, InProcessBackend(), run=directory.name, seed=config.seed, checkpoints=directory.checkpoints
    )
    coordinator.resume()
    write_generated(directory, lambda module: outputs_of(coordinator.generate(module)))
