"""Interrupts: Ctrl-C or SIGTERM stops a run with a commit, a second one stops it at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

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
    """Handles Ctrl-C and SIGTERM: the first signal is recorded, the second raises KeyboardInterrupt.

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

        def handle(_signal: int, _frame: Any) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True
            with suppress(RuntimeError):  # the signal interrupted a write to the same stream
                log("stopping after this step; once more stops at once")

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
