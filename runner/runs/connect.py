"""Connection to the coordinator of a run that is running on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from runner.cluster.connection import ClusterError, cluster, is_listening
from runner.runs.coordinator_client import CoordinatorClient
from runner.runs.directory import RunDirectory


@contextmanager
def connect_to_run(directory: RunDirectory, *, locked: bool = False) -> Iterator[CoordinatorClient | None]:
    """Join the cluster of a run, and yield the client of its coordinator, None if the run is not running.

    Parameters
    ----------
    directory : RunDirectory
    locked : bool
        Whether this process holds the directory's lock, so that no other process drives the run.

    Raises
    ------
    ClusterError
        If a process listens at the cluster's address but cannot be joined, so that the state of the run is unknown.
    """
    environment = directory.environment()
    address = environment.get("address", "")
    # A cluster started by the driver ends with the driver; joining one that is shutting down would hang.
    ended = environment.get("own") and (locked or not directory.is_locked())
    if not address or ended or not is_listening(address):
        yield None
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(cluster(address))
        except ClusterError as error:
            raise ClusterError(
                f"{directory.path}: it is not known whether the run is still running: {error}; give the token with "
                f"which it was started (RAY_AUTH_TOKEN) or, if another cluster has that address by now, delete "
                f"{directory.path / 'environment.json'}"
            ) from error
        try:
            client = CoordinatorClient.find(directory.name)
        except ClusterError:
            client = None
        yield client
