"""Signals that stop a command: Ctrl-C, SIGTERM and SIGHUP, which must not interrupt the start or the end of Ray."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TypeAlias

from actors.limits import STOP_GRACE_SECONDS
from runner.cluster.processes import end_processes, own_cluster_processes

Handler: TypeAlias = Callable[[int, FrameType | None], Any]

_before_exit: list[Callable[[], None]] = []


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop a command; without SIGHUP if it is ignored, as under ``nohup``."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM) if ignored else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def handle_signals(handler: Handler) -> Iterator[None]:
    """Handle the stop signals in this context; no effect outside the main thread, where Python allows no handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in stop_signals()}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Defer the first stop signal to the end of this context, where it raises KeyboardInterrupt.

    An exception during the start of Ray would end in a segmentation fault. A second signal ends the process, and so
    does SIGTERM or SIGHUP after :data:`actors.limits.STOP_GRACE_SECONDS`, since a batch system waits for no start.
    """
    received: list[int] = []
    timer = threading.Timer(STOP_GRACE_SECONDS, _exit_at_once)
    timer.daemon = True

    def handle(number: int, _frame: FrameType | None) -> None:
        if received:
            _exit_at_once()
        received.append(number)
        if number != signal.SIGINT:
            timer.start()

    try:
        with handle_signals(handle):
            yield
    finally:
        timer.cancel()
        if received:
            raise KeyboardInterrupt


@contextmanager
def ignored_signals() -> Iterator[None]:
    """Ignore the stop signals in this context: what it does ends the command anyway, and soon."""
    with handle_signals(lambda _number, _frame: None):
        yield


def ignore_signals() -> None:
    """Ignore the stop signals from now on: what the command was for is done, and only its end is left."""
    if threading.current_thread() is threading.main_thread():
        for number in stop_signals():
            signal.signal(number, lambda _number, _frame: None)


@contextmanager
def before_exit(action: Callable[[], None]) -> Iterator[None]:
    """Perform an action if :func:`exit_with_message` ends the process in this context."""
    _before_exit.append(action)
    try:
        yield
    finally:
        _before_exit.remove(action)


def _exit_at_once() -> None:
    end_processes(own_cluster_processes(), 0.0)
    exit_with_message("serket: interrupted")


def exit_with_message(message: str) -> None:
    """Print a line on stderr and end this process with status 1, whatever its threads are doing."""
    for action in _before_exit:
        with suppress(Exception):
            action()
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, f"{message}\n".encode(errors="backslashreplace"))
    os._exit(1)
