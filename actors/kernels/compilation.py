"""What compiles kernels: numba, with a cache on disk that is valid for every copy of the same sources.

Imported when the first kernel is called (:mod:`actors.kernels.jit`).
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CacheImpl, FunctionCache, _CacheLocator

import actors.kernels.compiled_lanes  # noqa: F401 (registers them with numba)
from actors.kernels.jit import KERNELS, cache_directory, cache_problem, source_digest

try:
    import fcntl
except ImportError:  # not on Windows, where each process compiles for itself
    fcntl = None  # type: ignore[assignment]

_CONFIG: Any = numba.config
_LOCATOR = f"{__name__}.DigestLocator"

LOCK_SECONDS = 60.0
"""For which a kernel is waited for that another process compiles; the largest takes some 20 seconds."""


class DigestLocator(_CacheLocator):
    """Locate the compiled form of a kernel for numba (see ``NUMBA_CACHE_LOCATOR_CLASSES``).

    Parameters
    ----------
    py_func : function
        The function to compile.
    py_file : str
        Its source file.
    """

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file  # numba reads this attribute in its warnings
        self._line = py_func.__code__.co_firstlineno
        # Numba names cache files by the source's base name alone, which two folders may share.
        self._folder = Path(py_file).resolve().parent.relative_to(KERNELS)

    def get_cache_path(self) -> str:
        """Return the folder of the cache."""
        return str(cache_directory() / self._folder)

    def ensure_cache_path(self) -> None:
        """Create the folder of the cache, whatever the umask writable for this user alone."""
        folder = Path(self.get_cache_path())
        for directory in (*reversed(folder.parents), folder):
            if not directory.exists():
                directory.mkdir(mode=0o755, exist_ok=True)
        super().ensure_cache_path()  # type: ignore[no-untyped-call]

    def get_source_stamp(self) -> str:
        """Return the stamp that must be equal for a cached kernel to be valid."""
        return source_digest()

    def get_disambiguator(self) -> str:
        """Return the line number, which distinguishes functions of one name in one file."""
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> DigestLocator | None:
        """Return a locator for a function of this package, None for any other function.

        A folder that is not writable is accepted, so that a cache can be shipped read-only; `_FallbackCache` handles
        the failed write. Refusing it would make numba use ``__pycache__``, which ignores changes of called kernels.
        """
        return cls(py_func, py_file) if Path(py_file).resolve().is_relative_to(KERNELS) else None


class _FallbackCache(FunctionCache):
    """A cache whose read and write errors become warnings: the kernel is then compiled and kept in memory.

    So does a cache that another user could have written: machine code is run as it is.

    Processes that need the same kernel at the same time, such as those of chains, compile it once: who finds none in
    the cache locks its file until it has saved the kernel, and the others wait for that. A kernel is locked while those
    that it calls are, never the other way round, as no kernel calls itself through another.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._lock: int | None = None  # the descriptor of the locked file

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = self._load(sig, target_context)
        if found is None and self._acquire():
            found = self._load(sig, target_context)
            if found is not None:
                self.release()
        return found

    def _acquire(self) -> bool:
        """Lock this kernel against other processes; return whether another process may have compiled it since."""
        if self._lock is not None or fcntl is None or cache_problem(self.cache_path):
            return False
        until = time.monotonic() + LOCK_SECONDS
        with contextlib.suppress(OSError):  # of a folder that cannot be written, or of files that cannot be locked
            self._impl.locator.ensure_cache_path()
            path = Path(self.cache_path) / f"{self._impl.filename_base}.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                while self._lock is None:
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        self._lock = descriptor
                    except BlockingIOError:
                        if time.monotonic() > until:
                            break
                        time.sleep(0.02)
            finally:
                if self._lock is None:
                    os.close(descriptor)
        return self._lock is not None

    def release(self) -> None:
        """Let other processes have this kernel, or compile it."""
        if self._lock is not None:
            os.close(self._lock)  # which unlocks it
            self._lock = None

    def _load(self, sig: Any, target_context: Any) -> Any:
        if problem := cache_problem(self.cache_path):
            _warn(f"compiled kernels are not read from {self.cache_path}: {problem}")
            return None
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # a damaged pickle may raise any exception
            _warn(f"cannot read compiled kernels in {self.cache_path}, compiling them instead: {error!r}")
            # Otherwise saving the kernel compiled now would read the damaged index and fail again.
            with contextlib.suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        if cache_problem(self.cache_path):
            return
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:
            _warn(f"cannot write compiled kernels to {self.cache_path}: {error!r}")
        finally:
            self.release()


def _warn(message: str) -> None:
    """Warn; Python shows the same text from the same place once."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _install_locator() -> None:
    """Put `DigestLocator` before numba's own locators, which still serve all other functions."""
    names = [name for name in (_CONFIG.CACHE_LOCATOR_CLASSES or "").split(",") if name.strip()]
    if not names:
        names = [locator.__name__ for locator in CacheImpl._locator_classes]
    if _LOCATOR not in names:
        _CONFIG.CACHE_LOCATOR_CLASSES = ",".join([_LOCATOR, *names])


def dispatcher_of(function: Callable[..., Any]) -> Any:
    """Return numba's dispatcher of a kernel; the function itself if ``NUMBA_DISABLE_JIT`` is set."""
    # Repeated for each kernel, because numba resets its options when a NUMBA_ environment variable changes.
    _install_locator()
    compiled: Any = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function)
    if not _CONFIG.DISABLE_JIT:
        cache = _FallbackCache(function)
        compiled._cache = cache
        compile_uncached = compiled._compiler.compile

        def compile_or_release(*types: Any) -> Any:
            try:
                return compile_uncached(*types)
            except BaseException:
                cache.release()
                raise

        compiled._compiler.compile = compile_or_release
    return compiled
