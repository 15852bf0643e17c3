"""Tells callbacks what happens in a run, and keeps the run from what they do."""

from __future__ import annotations

import copy
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from actors.coordination.events import (
    Committed,
    CoordinatorRestarted,
    LogMessage,
    ModuleDied,
    ModuleRecovered,
    RoundReplayed,
    Scored,
    TimedEvent,
    UpdateFinished,
)
from actors.errors import shorten_text
from actors.limits import MAX_ERROR_CHARACTERS
from runner.commands.interrupts import StoppedError
from runner.runs.directory import RunDirectory
from runner.tracking.callback import Callback


class Tracking:
    """The callbacks of a run, as a context that tells them its end.

    Parameters
    ----------
    callbacks : sequence of Callback
    log : callable
        Shows a sentence to the user.
    single : bool
        Whether every update is measured, so that a round ends where :meth:`end_round` says (for the script interface).
    """

    def __init__(
        self,
        callbacks: Sequence[Callback] = (),
        log: Callable[[str], None] = lambda _text: None,
        *,
        single: bool = False,
    ) -> None:
        self._single = single
        self._measured: TimedEvent | None = None  # the last measures of a round of which no callback was told
        self._callbacks = list(callbacks)
        self._working = list(callbacks)
        self._log = log
        self._directory: RunDirectory | None = None
        self._updates: Counter[str] = Counter()
        self._ended = False

    def __bool__(self) -> bool:
        """Return whether there are callbacks."""
        return bool(self._callbacks)

    def begin(
        self,
        directory: RunDirectory,
        config: dict[str, Any],
        missed: Iterable[TimedEvent] = (),
        *,
        resumed: bool = False,
    ) -> None:
        """Tell the callbacks that a run begins or goes on, and what was logged since its former driver ended.

        Parameters
        ----------
        directory : RunDirectory
        config : dict
            As plain data.
        missed : iterable of TimedEvent
            The last events of the log, which no callback was told.
        resumed : bool
        """
        if not self:
            return
        self._directory = directory
        missed = list(missed)
        if resumed:
            self._updates.update(_updated_modules(directory.log))
            self._updates.subtract(_updated_modules(missed))
        path = str(directory.path.absolute())
        self._tell("run_started", {"name": directory.name, "path": path, "config": config, "resumed": resumed})
        for each in missed:
            self.receive(each)

    def receive(self, timed: TimedEvent) -> None:
        """Tell the callbacks an event."""
        if not self:
            return
        event, when = timed.event, {"time": timed.time}
        self._tell("event", {"event": event.event, **when, **event.fields()})
        match event:
            case UpdateFinished() if event.round > 0:
                self._updates[event.module] += 1
                place = {"exchange": event.exchange, "temperature": event.temperature} if event.exchange else {}
                own = {name: getattr(event, name) for name in ("module", "round", "step", "seconds", "message_bytes")}
                number = {"update": self._updates[event.module], "metrics": dict(event.metrics)}
                self._tell("update_finished", {**when, **own, **place, **number})
            case Scored():
                self._measured = timed
                if not self._single:
                    self.end_round()
            case Committed():
                own = {name: getattr(event, name) for name in ("round", "name", "whole", "seconds")}
                self._tell("committed", {**when, **own})
            case ModuleDied() | CoordinatorRestarted() | RoundReplayed():
                self._tell("fault", {"event": event.event, **when, **event.fields()})
            case ModuleRecovered():
                self._tell("recovered", {**when, **event.fields()})

    def end_round(self) -> None:
        """Tell the callbacks the last measures of a round that has ended."""
        timed, self._measured = self._measured, None
        if timed is not None and isinstance(timed.event, Scored):
            measures = {"round": timed.event.round, "metrics": round_metrics(timed.event)}
            self._tell("round_finished", {"time": timed.time, **measures})

    def finish(self, result: dict[str, Any]) -> None:
        """Tell the callbacks that the run is complete."""
        self._ended = True
        self._tell("run_finished", result)

    def __enter__(self) -> Tracking:
        """Return the callbacks, to be told the end of this context."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Close the callbacks, after they were told the error that ends the context."""
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Tell the callbacks why the run has ended, if it is not complete, and close all of them."""
        if error is not None and self._directory is not None and not self._ended:
            failed = not isinstance(error, StoppedError | KeyboardInterrupt)
            self._tell("run_stopped", {"reason": str(error) or type(error).__name__, "failed": failed})
        for callback in self._callbacks:
            self._call(callback, "close")

    def _tell(self, method: str, told: dict[str, Any]) -> None:
        for callback in list(self._working):
            self._call(callback, method, copy.deepcopy(told))

    def _call(self, callback: Callback, method: str, *told: dict[str, Any]) -> None:
        """Call a method of a callback; if it raises, say so once, and call the callback no more."""
        try:
            getattr(callback, method)(*told)
        except (Exception, SystemExit) as error:
            if callback not in self._working:
                return
            self._working.remove(callback)
            text = shorten_text("".join(traceback.format_exception(error)), MAX_ERROR_CHARACTERS)
            self._warn(f"{type(callback).__name__}.{method} failed; it is not called again, the run goes on:\n{text}")

    def _warn(self, text: str) -> None:
        """Show a sentence, and write it to the event log."""
        self._log(text.rstrip())
        if self._directory is not None:
            self._directory.log.append([TimedEvent(time.time(), LogMessage(text.rstrip()))])


def round_metrics(event: Scored) -> dict[str, float]:
    """Return what is known of a round, by name."""
    own = {name: getattr(event, name) for name in ("evidence", "score", "accuracy", "ari", "nmi", "ece")}
    known = {name: float(value) for name, value in own.items() if value is not None}
    return known | {f"accuracy_{module}": float(value) for module, value in event.accuracies.items()}


def _updated_modules(events: Iterable[TimedEvent]) -> Iterable[str]:
    """Yield the module of each update."""
    return (each.event.module for each in events if isinstance(each.event, UpdateFinished) and each.event.round > 0)
