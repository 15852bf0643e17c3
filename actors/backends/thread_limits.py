"""Limits the threads of BLAS, OpenMP and torch for as long as a module computes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from threadpoolctl import ThreadpoolController


@lru_cache(maxsize=1)
def _thread_pools(_loaded_modules: int) -> ThreadpoolController:
    """Return the thread pools of the process; cached until a further import, as the search takes milliseconds."""
    return ThreadpoolController()


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Set the number of threads of BLAS, OpenMP and torch, on which the bits of their sums depend."""
    torch = sys.modules.get("torch")
    # Read before the pools are limited, which changes torch's number, too.
    torch_threads = None if torch is None else torch.get_num_threads()
    pools = _thread_pools(len(sys.modules)).limit(limits=threads)
    try:
        if torch is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(torch_threads)
        pools.restore_original_limits()
