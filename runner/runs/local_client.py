"""A run in this process, without Ray: the same calls as those of :class:`runner.runs.coordinator_client`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from actors.backends.in_process import InProcessBackend
from actors.coordination.backend import Ref
from actors.coordination.coordinator import Halt
from actors.coordination.session import RunSpec, Session
from actors.types import State
from runner.runs.client import EventStream

POLL_SECONDS = 0.05


class LocalClient:
    """Controls and follows a run whose modules live in this process.

    Messages, seeds and commits are those of a run on a cluster, and so are the results.

    Parameters
    ----------
    spec : RunSpec

    Attributes
    ----------
    incarnation : str
        That of the session, once it has answered.
    """

    def __init__(self, spec: RunSpec) -> None:
        self._backend = InProcessBackend()
        self._session = Session(spec, self._backend, spec.checkpoints())
        self._next_event = 0
        self.incarnation = ""

    def begin(self, states: Mapping[str, State], *, scheduled: bool = True) -> EventStream:  # noqa: ARG002 (of the spec)
        """Start the run from the states of its sources, or resume it from its commits, and follow it."""

        def start() -> None:
            self._session.resume_if_committed()
            self._session.begin({name: Ref(state) for name, state in states.items()})  # of a new run

        return self._follow(start)

    def update(self, module: str, round: int, step: int) -> EventStream:
        """Update one module, and follow the run until the update is committed."""
        return self._follow(lambda: self._session.update(module, round, step))

    def halt(self, when: Halt) -> None:
        """Make the run stop, with a commit, after the current step or round."""
        self._session.halt(when)

    def generate(self, module: str) -> dict[str, Any]:
        """Return the outputs of a module's ``generate`` for the latest messages from above."""
        return cast("dict[str, Any]", self._session.coordinator.generate(module))

    def stop(self) -> None:
        """Discard the modules of a run that has ended; one that still learns ends with this process."""
        self._session.close()
        if self._session.ended:
            self._backend.stop()

    def _follow(self, request: Callable[[], None]) -> EventStream:
        request()
        ended = ""
        while not ended:
            _, events, status = self._session.poll(self._next_event, self._session.incarnation, POLL_SECONDS)
            self.incarnation = self._session.incarnation
            self._next_event = events[-1].number + 1 if events else self._next_event
            ended = status["ended"]
            yield events, status
        self._session.outcome()
