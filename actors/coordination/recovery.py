"""What a run does about deaths: how often it tries again, how long it waits, and what it says when it gives up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recovery:
    """How patient a run is.

    Parameters
    ----------
    tries : int
        A module may die so often in one update before the run gives up.
    timeout : float, optional
        Seconds after which a module that still has not answered counts as dead; by default it may take as long as
        it likes.
    wait : float
        Seconds that a run waits for a place on the cluster that can hold a module.
    """

    tries: int = 3
    timeout: float | None = None
    wait: float = 300.0
