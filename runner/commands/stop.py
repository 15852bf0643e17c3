"""Stop a run: ``serket stop``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from runner.cluster.errors import CoordinatorEndedError
from runner.config.run_config import RunConfig
from runner.runs.directory import OpenedRun, RunDirectory, RunDirectoryError
from runner.runs.records import is_done
from runner.runs.state import NO_RECORD, known_address, read_record, remove_record

if TYPE_CHECKING:
    from runner.runs.coordinator_client import CoordinatorClient


def stop(run: OpenedRun, *, now: bool, log: Callable[[str], None], address: str | None = None) -> str:
    """Stop a run after its current round, with a commit, or at once; return a sentence about its progress.

    Parameters
    ----------
    run : OpenedRun
    now : bool
        Whether to stop it at once.
    log : callable
        Receives a sentence after the coordinator has received the request.
    address : str, optional
        Address of the run's cluster; by default as recorded in the user's state.

    Raises
    ------
    RunDirectoryError
        If the run is not running.
    """
    config, directory = run
    record = read_record(directory.path)
    if record and not record.address and directory.is_locked():
        raise RunDirectoryError(
            f"{directory.path}: the run learns in process {record.pid}, without Ray: press Ctrl-C there, or use "
            f"kill -INT {record.pid}"
        )
    not_running = f"the run is not running; {describe_progress(directory, config)}"
    if not known_address(record, address):
        raise RunDirectoryError(f"{directory.path}: {NO_RECORD}, {not_running}")
    from runner.runs.connect import connect_to_run  # imports Ray

    detached = record.detached if record else not directory.is_locked()
    with connect_to_run(directory, address=address) as client:
        if client is None:
            raise RunDirectoryError(f"{directory.path}: {not_running}")
        with suppress(CoordinatorEndedError):  # another process has ended it
            if not now:
                client.halt("round")
                log("the run stops after its current round; --now stops it at once")
                if detached:
                    _await_halt(client)
            if detached or now:
                client.stop()
                if read_record(directory.path) == record:  # else the run was resumed by another process
                    remove_record(directory.path)
    with suppress(RunDirectoryError), directory.lock():  # a driver that follows the run logs its events itself
        directory.import_saved_events()
    if not detached:  # its cluster may end with its driver; wait for the driver's end by its lock
        directory.wait_for_lock()
    return describe_progress(directory, config)


def _await_halt(client: CoordinatorClient) -> None:
    """Wait until a run has stopped; repeat the request if the coordinator is restarted."""
    notified = ""
    for _events, status in client.follow(confirm=False):  # this command may not be the one that writes the log
        if status["ended"]:
            return
        if client.incarnation != notified:
            notified = client.incarnation
            client.halt("round")


def describe_progress(directory: RunDirectory, config: RunConfig) -> str:
    """Return a sentence about the progress of a run and how to continue it."""
    manifest = directory.checkpoints.latest()
    if manifest is not None and is_done(manifest, config):
        return f"all rounds are done; see the result with serket attach {directory.cli_name}"
    names = directory.checkpoints.names()
    where = f"the last commit is {names[-1]}" if names else "nothing is committed"
    return f"{where}, continue with serket resume {directory.cli_name}"
