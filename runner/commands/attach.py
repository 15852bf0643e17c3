"""Follow a detached run: ``serket attach``."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

from actors.backends.in_process import InProcessBackend
from actors.backends.ray.metrics import PrometheusMetrics
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleFailedError
from runner.cluster.errors import CoordinatorEndedError
from runner.cluster.signals import ignored_signals
from runner.commands.driver import finish, watched, write_generated
from runner.commands.interrupts import Interrupts, StoppedError
from runner.commands.monitor import RunMonitor
from runner.commands.stop import describe_progress
from runner.commands.trained_run import outputs_of
from runner.config.run_config import RunConfig
from runner.report.progress import Progress
from runner.runs.connect import connect_to_run, no_record_hint
from runner.runs.coordinator_client import CoordinatorClient
from runner.runs.directory import OpenedRun, RunDirectory, RunDirectoryError
from runner.runs.records import is_done
from runner.runs.state import note_storage, remove_record
from runner.runs.timing import Clock
from runner.tracking.feed import Tracking
from runner.tracking.loading import make_callbacks


def attach(
    run: OpenedRun, *, clock: Clock, progress: Progress, address: str | None = None
) -> tuple[RunDirectory, dict[str, Any] | None]:
    """Follow a detached run to its end, and write its result; the run may have ended before.

    Parameters
    ----------
    run : OpenedRun
    clock : Clock
    progress : Progress
    address : str, optional
        Address of the run's cluster; by default as recorded in the user's state.

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
    tracking = Tracking(make_callbacks(config.tracking_arguments()), progress.log)
    note_storage(directory.commits_location)
    with tracking, directory.lock():
        if (result := _written_result(directory)) is not None:
            return directory, result
        directory.claim()
        directory.repair()
        missed = directory.import_saved_events()
        directory.categories = config.categories(config.load_data())
        monitor = RunMonitor(directory, progress, since=directory.log.position(), tracking=tracking)
        tracking.begin(directory, config.plain(), missed, resumed=True)
        monitor.catch_up()
        monitor.resumed = True  # earlier durations are not known in this process
        with ExitStack() as stack:
            client = stack.enter_context(connect_to_run(directory, locked=True, address=address))
            outcome, result = "ended", None
            if client is not None:
                again = f"see what is left of it with serket inspect {directory.cli_name}"
                stack.enter_context(watched(directory, progress, own=False, remedy=again))
                monitor.observe = PrometheusMetrics(directory.name).observe
                outcome = _watch(client, monitor)
            clock.mark("rounds")
            if outcome == "ended":
                _finish_ended_run(config, monitor, no_record_hint(directory, address))
            if outcome != "left":
                remove_record(directory.path)
                result = finish(monitor, clock)
            with ignored_signals():  # only the connection is to end
                stack.close()
            return directory, result


def _written_result(directory: RunDirectory) -> dict[str, Any] | None:
    """Return the contents of ``result.json``; None if there is none, or if there are commits of later rounds."""
    if not (directory.path / "result.json").exists():
        return None
    result, newest = directory.read_json("result.json"), directory.checkpoints.latest()
    rounds = result.get("rounds")
    if newest is not None and isinstance(rounds, int) and newest.round - (newest.step is not None) > rounds:
        return None
    return result


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
        ended = bool(status.get("ended"))  # there is no status before the coordinator has answered
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
        if not ended:
            client.stop()  # when it returns, the coordinator has saved its events, or is gone
        return "ended"
    except KeyboardInterrupt:
        if ended:
            raise
        return "left"
    finally:
        if ended:
            client.stop()
            remove_record(directory.path)
            with suppress(OSError, RunDirectoryError):  # they stay where they are, for the next command
                directory.import_saved_events(monitor.since)  # those after the last poll
    return "done"


def _finish_ended_run(config: RunConfig, monitor: RunMonitor, unknown: str) -> None:
    """Write the outputs of a run that ended while no driver followed it; `unknown` says if it may run unseen.

    Raises
    ------
    ModuleFailedError
        If the run failed.
    RunDirectoryError
        If the run is not done.
    """
    directory = monitor.directory
    monitor.receive_saved()  # by a coordinator that ended after this command had looked for them
    monitor.catch_up()
    manifest = directory.checkpoints.newest_whole(monitor.progress.log)
    if manifest is None or not is_done(manifest, config):
        failure = directory.checkpoints.status_files.read_failure()
        if failure:
            raise ModuleFailedError(
                f"{directory.path}: the run failed: {failure.rstrip()}\n{describe_progress(directory, config)}"
            )
        raise RunDirectoryError(
            f"{directory.path}: {unknown}the run is on no cluster any more; {describe_progress(directory, config)}"
        )
    monitor.scores, monitor.module_seconds = directory.scores(manifest.name), dict(manifest.module_seconds)
    coordinator = Coordinator(
        directory.graph, InProcessBackend(), run=directory.name, seed=config.seed, checkpoints=directory.checkpoints
    )
    coordinator.resume()
    write_generated(directory, lambda module: outputs_of(coordinator.generate(module)))
