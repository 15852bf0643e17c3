"""Connection to the coordinator of a run that is running on a cluster.

The address comes from the user or from the record in the user's own state directory, never from the run directory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from runner.cluster.connection import (
    POLL_SECONDS,
    ExpectedRun,
    cluster,
    is_listening,
)
from runner.cluster.errors import ClusterError, UnprovenError
from runner.cluster.listeners import why_foreign
from runner.runs.coordinator_client import CoordinatorClient
from runner.runs.directory import RunDirectory
from runner.runs.state import NO_RECORD, RunRecord, known_address, read_record


def no_record_hint(directory: RunDirectory, address: str | None) -> str:
    """Return a clause for a message about a run of which this user's state has no record; empty if it has one."""
    if known_address(read_record(directory.path), address):
        return ""
    return f"{NO_RECORD}, "


@contextmanager
def connect_to_run(
    directory: RunDirectory, *, locked: bool = False, address: str | None = None
) -> Iterator[CoordinatorClient | None]:
    """Join the cluster of a run, and yield the client of its coordinator, None if the run is not running.

    Parameters
    ----------
    directory : RunDirectory
    locked : bool
        Whether this process holds the directory's lock, so that no other process drives the run.
    address : str, optional
        Address of the cluster, given by the user, who vouches for it; by default that of the run's record, whose secret
        the coordinator must have proved. A run without either is not running as far as is known.

    Raises
    ------
    ClusterError
        If a process listens at the cluster's address but cannot be joined, so that the state of the run is unknown.
    StateError
        If the record cannot be trusted.
    """
    record = read_record(directory.path)
    where = known_address(record, address)
    recorded = None if address or record is None else record
    # A cluster started by the driver ends with the driver; joining one that is shutting down would hang.
    ended = recorded and recorded.own and (locked or not directory.is_locked())
    if not where or ended or (recorded and not _may_listen(recorded)):
        yield None
        return
    expected = ExpectedRun(directory.name, recorded.secret) if recorded else None
    with ExitStack() as stack:
        try:
            stack.enter_context(cluster(where, expected=expected))
        except UnprovenError as error:
            raise UnprovenError(
                f"{directory.path}: {error}; if that cluster was started anew, the run is no longer on it: continue "
                f"with serket resume {directory.cli_name}; if you trust it, give its --address"
            ) from error
        except ClusterError as error:
            raise ClusterError(
                f"{directory.path}: it is not known whether the run is still running: {error}; if it was started with "
                "another token, give that (RAY_AUTH_TOKEN)"
            ) from error
        try:
            client = CoordinatorClient.find(directory.name)
        except ClusterError:
            client = None
        yield client


def _may_listen(record: RunRecord) -> bool:
    """Return whether something listens at a recorded address; does not connect to a process of another user."""
    return bool(why_foreign(record.address)) or is_listening(record.address)


def await_end_of_cluster(record: RunRecord, seconds: float) -> None:
    """Wait for the end of a cluster that its driver has started: it outlives a killed driver by some seconds."""
    deadline = time.monotonic() + seconds
    while record.own and not why_foreign(record.address) and is_listening(record.address):
        if time.monotonic() > deadline:
            return
        time.sleep(POLL_SECONDS)
