"""A driver's view of a run: the calls that are the same for a run on a cluster and for one in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from actors.coordination.coordinator import Halt
from actors.coordination.events import TimedEvent
from actors.types import State

EventStream: TypeAlias = Iterator[tuple[list[TimedEvent], dict[str, Any]]]
"""Yields the new events and the status of a run, several times per second."""


class RunClient(Protocol):
    """Controls and follows a run."""

    incarnation: str
    """The incarnation of the coordinator that answered last; empty before the first answer."""

    def begin(self, states: Mapping[str, State], *, scheduled: bool = True) -> EventStream:
        """Start a run from the states of its sources, or resume it from its commits, and follow it."""

    def update(self, module: str, round: int, step: int) -> EventStream:
        """Update one module, and follow the run until the update is committed."""

    def halt(self, when: Halt) -> None:
        """Make the run stop, with a commit, after the current step or round."""

    def generate(self, module: str) -> dict[str, Any]:
        """Return the outputs of a module's ``generate`` for the latest messages from above."""

    def stop(self) -> None:
        """End the modules and the coordinator."""
