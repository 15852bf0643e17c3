"""Waiting for Ray with a way out: a look, every few seconds, at whether what is waited for can come at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.experimental.locations import get_local_object_locations

SLICE_SECONDS = 2.0
_FIRST_WORD_SECONDS = 5.0
"""Ray starts a process in less where there is room for it: until then there is nothing to tell."""
_TELL_SECONDS = 10.0
PATIENCE = 3
"""So many looks in a row must say the same: Ray, which tells more, is given the time to say it first."""


def get(reference: Any, timeout: float | None, check: Callable[[], None]) -> Any:
    """Return what `reference` stands for.

    Parameters
    ----------
    reference : ObjectRef
    timeout : float, optional
        Seconds.
    check : callable
        Raises where an answer cannot come any more.

    Raises
    ------
    ray.exceptions.GetTimeoutError
        If it takes longer than `timeout`.
    """
    until = time.monotonic() + timeout if timeout else float("inf")
    hopeless = 0
    while True:
        left = until - time.monotonic()
        try:
            return ray.get(reference, timeout=max(0.0, min(SLICE_SECONDS, left)))
        except GetTimeoutError:
            if left <= SLICE_SECONDS:
                raise
        try:
            check()
        except Exception:
            hopeless += 1
            if hopeless == PATIENCE:
                raise
        else:
            hopeless = 0


def alive() -> dict[str, Mapping[str, float]]:
    """Return the resources of every node that is alive, by the node's id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def gone(references: Sequence[Any]) -> str:
    """Name the first of some objects that this process owns which lies on dead nodes alone; empty where there is none.

    An answer that is small, or not there yet, lies on no node. Ray 2.60 was never seen to need this: with nodes killed
    and with links cut, whoever waited for a lost object was told so within seconds of the node's death.
    """
    owned = [reference for reference in references if isinstance(reference, ray.ObjectRef)]
    if not owned:
        return ""
    left = alive()
    # It asks nobody (what others own is left out), so that it cannot hang itself.
    for reference, found in get_local_object_locations(owned).items():
        homes = found["node_ids"]
        if homes and not any(home in left for home in homes):
            return str(reference)
    return ""


class Patience:
    """For how long to wait still, and when to say so: first soon, then seldom."""

    def __init__(self, seconds: float) -> None:
        now = time.monotonic()
        self._end, self._next = now + seconds, now + min(_FIRST_WORD_SECONDS, seconds / 2)

    def exhausted(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self._end

    def tells(self) -> bool:
        """Whether it is time to say something."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _TELL_SECONDS
        return True
