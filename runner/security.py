"""The token that processes of a Ray cluster show each other, and who can read it."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def token_path() -> Path:
    """Return where Ray looks for the token file."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def private_token(*, make: bool) -> None:
    """See to it that the token's owner alone can read it; Ray would write it readable by all.

    Does nothing where the token is in the environment.

    Parameters
    ----------
    make : bool
        Whether to make one where there is none.
    """
    path = token_path()
    if os.environ.get("RAY_AUTH_TOKEN") or not (make or path.exists()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_uid == os.getuid() and path.stat().st_mode & _OTHERS:
            path.chmod(0o600)
        return
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))


def token_fault() -> str:
    """Say what is wrong with the token file, or nothing."""
    path = token_path()
    if os.environ.get("RAY_AUTH_TOKEN") or not path.exists():
        return ""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        return f"{path} has mode {mode:04o}: others can read the token; say chmod 600 {path}"
    return ""
