"""A run in this process, without Ray: the same calls as those of :class:`runner.runs.coordinator_client`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from actors.backends.in_process import InProcessBackend
from actors.coordination.backend import Ref
from actors.coordination.session import RunSpec, Session
from actors.types import State

if TYPE_CHECKING:
    from runner.runs.coordinator_client import EventStream

POLL_SECONDS = 0.05


class LocalClient:
    """Controls and follows a run whose modules live in this process.

    Messages, seeds and commits are those of a run on a cluster, and so are the results.

    Parameters
    ----------
    spec : RunSpec
    """

    def __init__(self, spec: RunSpec) -> None:
        self._session = Session(spec, InProcessBackend(), spec.checkpoints())
        self._next_event = 0

    def begin(self, states: Mapping[str, State], *, scheduled: bool = True) -> EventStream:  # noqa: ARG002 (of the spec)
        """Start the run from the states of its sources, and follow it."""
        return self._follow(lambda: self._session.begin({name: Ref(state) for name, state in states.items()}))

    def update(self, module: str, round: int, step: int) -> EventStream:
        """Update one module, and follow the run until the update is committed."""
        return self._follow(lambda: self._session.update(module, round, step))

    def generate(self, module: str) -> dict[str, Any]:
        """Return the outputs of a module's ``generate`` for the latest messages from above."""
        return cast("dict[str, Any]", self._session.coordinator.generate(module))

    def _follow(self, request: Callable[[], None]) -> EventStream:
        request()
        ended = ""
        while not ended:
            _, events, status = self._session.poll(self._next_event, self._session.incarnation, POLL_SECONDS)
            self._next_event = events[-1].number + 1 if events else self._next_event
            ended = status["ended"]
            yield events, status
        self._session.outcome()
