"""Compile kernels with numba and cache the machine code on disk.

Numba looks up its on-disk cache by the path and the modification time of a source file. Ray's runtime environments
unpack the same package under a new path each time, so every kernel would be compiled again. Here the cache lies in the
user's cache directory, in a folder named by a digest of everything that the machine code depends on: the sources of
this package, the versions of numba and Python, and the processor. A kernel's machine code contains the kernels that it
calls, possibly from other files, so the digest covers all sources.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba.core.caching import CacheImpl, FunctionCache, _CacheLocator

from actors.kernels.path_safety import why_unsafe
from actors.kernels.types import Array
from actors.kernels.variables import read_path, read_text

Function = TypeVar("Function", bound=Callable[..., Any])

_KERNELS = Path(__file__).resolve().parent
_CONFIG: Any = numba.config
_LOCATOR = f"{__name__}.DigestLocator"


def cache_directory() -> Path:
    """Return the cache folder for compiled kernels of these sources on this processor.

    Returns
    -------
    pathlib.Path
        ``BASE/numba/DIGEST``; ``BASE`` is ``$SERKET_CACHE_DIR``, or ``serket-actors`` under ``$XDG_CACHE_HOME`` or
        ``~/.cache``. The folder need not exist.
    """
    configured = read_path("SERKET_CACHE_DIR")
    if configured is not None:
        base = configured
    else:
        shared = read_text("XDG_CACHE_HOME")
        # The XDG specification requires a relative path to be ignored.
        base = (Path(shared) if Path(shared).is_absolute() else _home() / ".cache") / "serket-actors"
    return base / "numba" / source_digest()


def cache_problem(folder: Path | str | None = None) -> str:
    """Return why the cache must not be used, as another user could have written machine code into it; else empty.

    Parameters
    ----------
    folder : Path or str, optional
        A folder of the cache; by default :func:`cache_directory`. Its files are examined too.
    """
    folder = cache_directory() if folder is None else Path(folder)
    reason = why_unsafe(folder)
    if not reason and folder.is_dir():
        with os.scandir(folder) as entries:
            reason = next(filter(None, (_file_problem(entry) for entry in entries)), "")
    return reason


def _file_problem(entry: os.DirEntry[str]) -> str:
    """Return why one file of the cache, in a folder that is safe by now, may be of another user."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # another process has replaced it
        return ""
    if status.st_uid in (os.geteuid(), 0) and not stat.S_ISLNK(status.st_mode) and not status.st_mode & stat.S_IWOTH:
        return ""
    return why_unsafe(entry.path)


def _home() -> Path:
    """Return the home directory, or the root for a user without one: a failed write there is handled."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


@functools.cache
def source_digest() -> str:
    """Return the digest of everything that the kernels' machine code depends on.

    The processor is included although numba's index distinguishes processors: machines that share a home directory
    and write one index at the same moment could read each other's file.

    Returns
    -------
    str
        32 hexadecimal digits; the same for copies of the package under other paths or with other file times.
    """
    from numba.core.registry import cpu_target

    digest = hashlib.sha256()
    processor = cpu_target.target_context.codegen().magic_tuple()
    digest.update(repr((numba.__version__, sys.version_info[:3], sys.platform, processor)).encode())
    for path in sorted(_KERNELS.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"\0{path.relative_to(_KERNELS).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


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
        self._folder = Path(py_file).resolve().parent.relative_to(_KERNELS)

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
        return cls(py_func, py_file) if Path(py_file).resolve().is_relative_to(_KERNELS) else None


class _FallbackCache(FunctionCache):
    """A cache whose read and write errors become warnings: the kernel is then compiled and kept in memory.

    So does a cache that another user could have written: machine code is run as it is.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
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


def as_input(array: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Array:
    """Return `array` as a C-contiguous, writeable array of one dtype, copied only where necessary.

    Arrays of messages are read-only, which is a different type to numba: every kernel would be compiled again.
    """
    if type(array) is np.ndarray and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable:
        return array  # np.require takes as long as some kernels on short arrays
    return np.require(array, dtype, ["C", "W"])


def kernel(function: Function) -> Function:
    """Compile a function of this package with numba, cached on disk, without the GIL and with IEEE arithmetic.

    Parameters
    ----------
    function : callable
        A function on arrays and numbers. It is compiled at its first call for each combination of argument types.

    Returns
    -------
    callable
        The dispatcher; the function itself if ``NUMBA_DISABLE_JIT`` is set.
    """
    # Repeated for each kernel, because numba resets its options when a NUMBA_ environment variable changes.
    _install_locator()
    compiled: Any = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function)
    if not _CONFIG.DISABLE_JIT:
        compiled._cache = _FallbackCache(function)  # type: ignore[no-untyped-call]
    return cast("Function", compiled)
