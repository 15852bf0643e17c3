"""The temporary directory of a Ray cluster that is started here, which no other user of the machine can enter.

Ray gives its temporary directory mode 0777: every user who can enter it can replace the code and the sockets of a run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from actors.errors import BackendError
from actors.kernels.path_safety import make_private_directory, why_unsafe
from actors.kernels.variables import read_path

MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest path of a socket that the operating system takes."""

_SOCKET = "session_2026-11-29_02-00-32_123456_1234567/sockets/plasma_store.1"  # the longest that Ray makes


def ray_directory() -> str:
    """Create the temporary directory for Ray below one of mode 0700, and return it.

    It lies in ``$RAY_TMPDIR``, else in ``$TMPDIR``, else in ``/tmp``: ``ray`` where other users cannot enter that
    directory anyway, ``serket-UID/ray`` otherwise.

    Raises
    ------
    BackendError
        If another user could write it, if it cannot be created, or if its path is too long for Ray's sockets.
    """
    name, base = next(((name, path) for name in _VARIABLES if (path := read_path(name))), ("", Path("/tmp")))
    parent = base if _is_shut(base) else base / f"serket-{os.geteuid()}"
    path = parent / "ray"
    remedy = "name another directory, of your own and with a short path, in RAY_TMPDIR"
    excess = len(os.fsencode(path / _SOCKET)) - MAX_SOCKET_BYTES
    if excess > 0:
        raise BackendError(
            f"{path}, Ray's temporary directory{f' (from {name})' if name else ''}, is {excess} bytes too long for the "
            f"paths of sockets; {remedy}"
        )
    try:
        if parent != base:
            make_private_directory(parent)
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise BackendError(
            f"{path}: Ray's temporary directory is refused: {error.strerror or error}; {remedy}"
        ) from error
    return str(path)


# Ray itself ignores TMPDIR on other systems, where it is long.
_VARIABLES = ("RAY_TMPDIR", "TMPDIR") if sys.platform.startswith("linux") else ("RAY_TMPDIR",)


def _is_shut(path: Path) -> bool:
    """Return whether no other user can enter a directory, which exists and is this user's own."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077 and path.is_dir() and not why_unsafe(path)
