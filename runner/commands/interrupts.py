"""Interrupts: Ctrl-C, SIGTERM or SIGHUP stops a run with a commit, a second one stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from actors.limits import STOP_GRACE_SECONDS
from runner.cluster.signals import handle_signals
from runner.runs.directory import RunDirectory


class StoppedError(RuntimeError):
    """The run was stopped by the user; says how to continue it."""


@contextmanager
def interruptible(directory: RunDirectory) -> Iterator[None]:
    """Turn an interrupt into a StoppedError that says how to continue the run."""
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(
            f"ended at once; all commits are complete, continue with serket resume {directory.cli_name}"
        ) from None


class Interrupts:
    """Handles Ctrl-C, SIGTERM and SIGHUP: the first signal is recorded, the second raises KeyboardInterrupt.

    SIGTERM and SIGHUP count twice after :data:`actors.limits.STOP_GRACE_SECONDS`: a batch system or a closed terminal
    sends no second signal before it ends all processes.

    Attributes
    ----------
    requested : bool
        Whether a signal was received.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def catch_signals(self, log: Callable[[str], None]) -> Iterator[None]:
        """Handle signals in this context; has no effect outside the main thread, where Python allows no handlers."""
        timers: list[threading.Timer] = []

        def handle(number: int, _frame: Any) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True
            if number != signal.SIGINT:
                timers.append(threading.Timer(STOP_GRACE_SECONDS, os.kill, (os.getpid(), number)))
                timers[0].daemon = True
                timers[0].start()
            with suppress(RuntimeError):  # the signal interrupted a write to the same stream
                log("stopping after this step; once more stops at once")

        with handle_signals(handle):
            try:
                yield
            finally:
                for timer in timers:
                    timer.cancel()
