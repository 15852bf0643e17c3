"""Compile kernels with numba at their first call, and cache the machine code on disk.

A process that calls no kernel, such as that of a command or of a coordinator, does not import numba
(:mod:`actors.kernels.compilation`).

Numba looks up its on-disk cache by the path and the modification time of a source file. Ray's runtime environments
unpack the same package under a new path each time, so every kernel would be compiled again. Here the cache lies in the
user's cache directory, in a folder named by a digest of everything that the machine code depends on: the sources of
this package, the versions of numba and Python, and the processor. A kernel's machine code contains the kernels that it
calls, possibly from other files, so the digest covers all sources.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from actors.kernels.path_safety import why_unsafe
from actors.kernels.types import Array
from actors.kernels.variables import read_path, read_text

Function = TypeVar("Function", bound=Callable[..., Any])

KERNELS = Path(__file__).resolve().parent
"""The folder of all kernels."""


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
    import numba
    from numba.core.registry import cpu_target

    digest = hashlib.sha256()
    processor = cpu_target.target_context.codegen().magic_tuple()
    digest.update(repr((numba.__version__, sys.version_info[:3], sys.platform, processor)).encode())
    for path in sorted(KERNELS.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"\0{path.relative_to(KERNELS).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:32]


def as_input(array: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Array:
    """Return `array` as a C-contiguous, writeable array of one dtype, copied only where necessary.

    Arrays of messages are read-only, which is a different type to numba: every kernel would be compiled again.
    """
    if type(array) is np.ndarray and array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable:
        return array  # np.require takes as long as some kernels on short arrays
    return np.require(array, dtype, ["C", "W"])


class _Kernel:
    """A function that numba compiles: the dispatcher is made at the first call, from Python or from another kernel."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function

    @functools.cached_property
    def dispatcher(self) -> Any:
        """What numba calls the compiled function."""
        from actors.kernels.compilation import dispatcher_of

        return dispatcher_of(self._function)

    def __call__(self, *arguments: Any) -> Any:
        return self.dispatcher(*arguments)

    @property
    def _numba_type_(self) -> Any:
        """By which numba recognises the function in another kernel."""
        return self.dispatcher._numba_type_

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dispatcher, name)


def kernel(function: Function) -> Function:
    """Compile a function of this package with numba, cached on disk, without the GIL and with IEEE arithmetic.

    Parameters
    ----------
    function : callable
        A function on arrays and numbers. It is compiled at its first call for each combination of argument types.

    Returns
    -------
    callable
        Has the attributes of numba's dispatcher, or runs the function itself if ``NUMBA_DISABLE_JIT`` is set.
    """
    return cast("Function", _Kernel(function))
