"""Waiting for Ray with periodic checks whether the answer can still arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.experimental.locations import get_local_object_locations

CHECK_INTERVAL_SECONDS = 2.0
MAX_FAILED_CHECKS = 3
"""Consecutive failed checks that end the wait; until then Ray may raise its own error, which has more details."""

_FIRST_LOG_SECONDS = 5.0
"""Ray starts a process in less time if a node has the resources, so an earlier message would be noise."""
_LOG_INTERVAL_SECONDS = 10.0


def get_with_checks(reference: Any, timeout: float | None, check: Callable[[], None]) -> Any:
    """Return the object of `reference`; give up if it can no longer arrive.

    Parameters
    ----------
    reference : ObjectRef
    timeout : float, optional
        Seconds.
    check : callable
        Raises an exception if the object can no longer arrive; called every :data:`CHECK_INTERVAL_SECONDS`.

    Raises
    ------
    ray.exceptions.GetTimeoutError
        After `timeout`.
    Exception
        What `check` raises, after :data:`MAX_FAILED_CHECKS` failures in a row.
    """
    deadline = time.monotonic() + timeout if timeout else float("inf")
    failed_checks = 0
    while True:
        left = deadline - time.monotonic()
        try:
            return ray.get(reference, timeout=max(0.0, min(CHECK_INTERVAL_SECONDS, left)))
        except GetTimeoutError:
            if left <= CHECK_INTERVAL_SECONDS:
                raise
        try:
            check()
        except Exception:
            failed_checks += 1
            if failed_checks == MAX_FAILED_CHECKS:
                raise
        else:
            failed_checks = 0


def alive_nodes() -> dict[str, Mapping[str, float]]:
    """Return the resources of every node that is alive, by node id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def find_lost_object(references: Sequence[Any]) -> str:
    """Return the id of the first object whose copies were all on dead nodes; empty if there is none.

    Only objects that this process owns are considered. A small object, or one that does not exist yet, has no location.
    With Ray 2.60 this check was never observed to be necessary: with nodes killed and with links cut, the process that
    waited for a lost object received an exception within seconds of the node's death.
    """
    owned = [reference for reference in references if isinstance(reference, ray.ObjectRef)]
    if not owned:
        return ""
    alive = alive_nodes()
    # The lookup is local to this process (hence owned objects only), so it cannot block.
    for reference, location in get_local_object_locations(owned).items():
        node_ids = location["node_ids"]
        if node_ids and not any(node_id in alive for node_id in node_ids):
            return str(reference)
    return ""


class RetryTimer:
    """Limits the time of a loop that waits, and the frequency of its log messages.

    Parameters
    ----------
    seconds : float
        Timeout of the loop.
    """

    def __init__(self, seconds: float) -> None:
        now = time.monotonic()
        self._deadline, self._next_log = now + seconds, now + min(_FIRST_LOG_SECONDS, seconds / 2)

    def expired(self) -> bool:
        """Return whether the timeout has passed."""
        return time.monotonic() > self._deadline

    def should_log(self) -> bool:
        """Return whether a log message is due, and schedule the next one."""
        if time.monotonic() < self._next_log:
            return False
        self._next_log = time.monotonic() + _LOG_INTERVAL_SECONDS
        return True
