"""Waiting for Ray with a way out: a look, every few seconds, at whether what is waited for can come at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

SLICE_SECONDS = 2.0
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

    An object that is small, or not made yet, lies on no node.
    """
    owned = [reference for reference in references if isinstance(reference, ray.ObjectRef)]
    if not owned:
        return ""
    left = alive()
    for reference, found in ray.experimental.get_object_locations(owned).items():
        homes = found["node_ids"]
        if homes and not any(home in left for home in homes):
            return str(reference)
    return ""
