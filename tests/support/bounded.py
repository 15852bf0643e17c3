"""Time and memory of a call: what no input may exceed.

The time is that of this thread, without those of Ray beside it. The objects of other tests are kept from the garbage
collector meanwhile: one look at all of them takes as long as a call may.
"""

import gc
import resource
import signal
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

MAX_SECONDS = 1.0
MAX_BYTES = 100_000_000
HANG_SECONDS = 20.0

T = TypeVar("T")


def bounded(call: Callable[[], T], *, seconds: float = MAX_SECONDS, size: int = MAX_BYTES) -> T:
    """Return what `call` returns; check its time on the processor, and the memory that it allocated at most."""
    tracemalloc.start()
    started = time.thread_time()
    try:
        with no_hang(), _own_garbage():
            return call()
    finally:
        spent, peak = time.thread_time() - started, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert spent < 3 * seconds, f"{spent:.2f} s"  # tracing takes about as long as what is traced
        assert peak < size, f"{peak / 1e6:.0f} MB"


class Watched:
    """The largest time and growth of memory of single calls, without the cost of tracing allocations."""

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.bytes = 0

    def __call__(self, call: Callable[[], T]) -> T:
        before, started = _peak_bytes(), time.thread_time()
        try:
            with no_hang(), _own_garbage():
                return call()
        finally:
            spent, grown = time.thread_time() - started, _peak_bytes() - before
            self.calls += 1
            self.seconds, self.bytes = max(self.seconds, spent), max(self.bytes, grown)
            assert spent < MAX_SECONDS, f"{spent:.2f} s"
            assert grown < MAX_BYTES, f"{grown / 1e6:.0f} MB"


@contextmanager
def _own_garbage() -> Iterator[None]:
    """Keep what exists already from the garbage collector."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def no_hang() -> Iterator[None]:
    """Interrupt what takes longer than :data:`HANG_SECONDS`, in the main thread."""

    def give_up(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"not done after {HANG_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
