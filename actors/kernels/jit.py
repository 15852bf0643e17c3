"""The decorator that compiles the kernels, and where compiled kernels are kept.

Numba finds its on-disk cache by the path and the modification time of a source file. Runtime environments unpack the
same package under a new path each time, so kernels would be compiled again and again. Here the cache lies in the user's
cache directory, in a folder named by a digest of what the machine code depends on: the sources of this package, the
versions of numba and Python, and the processor. Kernels of one file are compiled into those of another, so every source
belongs to the digest of each.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from numba.core.caching import CacheImpl, FunctionCache, _CacheLocator

from actors.kernels.types import Array

Function = TypeVar("Function", bound=Callable[..., Any])

_KERNELS = Path(__file__).resolve().parent
_CONFIG: Any = numba.config
_LOCATOR = f"{__name__}.DigestLocator"


def cache_directory() -> Path:
    """Return the folder for compiled kernels of these sources on this processor.

    Returns
    -------
    pathlib.Path
        ``BASE/numba/DIGEST``; ``BASE`` is ``$SERKET_CACHE_DIR``, or ``serket-actors`` under ``$XDG_CACHE_HOME`` or
        ``~/.cache``. The folder need not exist.
    """
    chosen = os.environ.get("SERKET_CACHE_DIR")
    if chosen:
        base = Path(chosen).absolute()
    else:
        shared = os.environ.get("XDG_CACHE_HOME", "")
        # The XDG specification says that a relative path is to be ignored.
        base = (Path(shared) if Path(shared).is_absolute() else _home() / ".cache") / "serket-actors"
    return base / "numba" / source_digest()


def _home() -> Path:
    """Return the home directory, or the root where the user has none: writing there fails, and that is handled."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


@functools.cache
def source_digest() -> str:
    """Return the digest of all that the kernels' machine code depends on.

    The processor belongs to it although numba's index tells processors apart: where machines share a home directory,
    two that write one index at the same moment could take each other's file.

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
    """Tells numba where the compiled form of a kernel lies (numba's interface: ``NUMBA_CACHE_LOCATOR_CLASSES``).

    Parameters
    ----------
    py_func : function
        The function to compile.
    py_file : str
        Its source file.
    """

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file  # numba reads this name when it warns
        self._line = py_func.__code__.co_firstlineno
        # Numba names the files of its cache by a source's own name alone, and two folders may have a file of one name.
        self._folder = Path(py_file).resolve().parent.relative_to(_KERNELS)

    def get_cache_path(self) -> str:
        """Return the folder of the cache."""
        return str(cache_directory() / self._folder)

    def get_source_stamp(self) -> str:
        """Return what must be equal for a cached kernel to be fresh."""
        return source_digest()

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name in one file apart."""
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> DigestLocator | None:
        """Return a locator for a function of this package, None for all others.

        A folder that cannot be written is accepted, so that a cache can be shipped read-only; `_ForgivingCache` sees to
        what follows. Refusing it would send numba to ``__pycache__``, where a changed callee goes unnoticed.
        """
        return cls(py_func, py_file) if Path(py_file).resolve().is_relative_to(_KERNELS) else None


class _ForgivingCache(FunctionCache):
    """A cache that is only ever a gain: what cannot be read or written is compiled and kept in memory."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # a damaged pickle may raise anything
            _warn(f"cannot read compiled kernels in {self.cache_path}, compiling: {error!r}")
            # Else the index would be read again, and fail again, before what is compiled now is saved.
            with contextlib.suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:
            _warn(f"cannot keep compiled kernels in {self.cache_path}: {error!r}")


def _warn(message: str) -> None:
    """Warn; Python shows the same text from the same place once."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _install_locator() -> None:
    """Put `DigestLocator` before numba's own locators, which go on serving all other functions."""
    names = [name for name in (_CONFIG.CACHE_LOCATOR_CLASSES or "").split(",") if name.strip()]
    if not names:
        names = [locator.__name__ for locator in CacheImpl._locator_classes]
    if _LOCATOR not in names:
        _CONFIG.CACHE_LOCATOR_CLASSES = ",".join([_LOCATOR, *names])


def as_input(array: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Array:
    """Return `array` as kernels take it: of one dtype, C-contiguous and writeable; a copy only where it is not.

    Messages arrive read-only, and to numba a read-only array is of another type: every kernel would compile again.
    """
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
        The dispatcher; the function itself where ``NUMBA_DISABLE_JIT`` is set.
    """
    # On every call, because numba sets its options back when a NUMBA_ variable of the environment changes.
    _install_locator()
    compiled: Any = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")(function)
    if not _CONFIG.DISABLE_JIT:
        compiled._cache = _ForgivingCache(function)  # type: ignore[no-untyped-call]
    return cast("Function", compiled)
