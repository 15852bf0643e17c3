"""The token that processes of a Ray cluster show each other, and who can read it."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class TokenError(RuntimeError):
    """There is no token, and none can be made; says where and what to do."""


def asks_for_token() -> bool:
    """Whether Ray asks for tokens here."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def token_path() -> Path:
    """Return where Ray looks for the token file."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def credential() -> str:
    """Say what this process shows to a cluster."""
    if not asks_for_token():
        return f"no token (RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']})"
    return f"the token of {'RAY_AUTH_TOKEN' if os.environ.get('RAY_AUTH_TOKEN') else token_path()}"


def private_token(*, make: bool) -> None:
    """See to it that there is a token, and that its owner alone can read it; Ray would write it readable by all.

    Does nothing where the token is in the environment.

    Parameters
    ----------
    make : bool
        Whether to make one where there is none.

    Raises
    ------
    TokenError
        If there is none, and none is to be made or can be.
    """
    path = token_path()
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    try:
        if make:
            _make(path)
        if path.is_file() and path.stat().st_uid == os.getuid() and path.stat().st_mode & _OTHERS:
            path.chmod(0o600)
        held = path.is_file() and path.stat().st_size > 0
    except OSError as error:
        reason = f"{path}: no token can be kept there ({error.strerror})"
        raise TokenError(f"{reason}; name another file by RAY_AUTH_TOKEN_PATH") from error
    if asks_for_token() and not held:
        raise TokenError(
            f"{path} holds no token; copy the cluster's there, mode 0600, or name its file by RAY_AUTH_TOKEN_PATH"
        )


def _make(path: Path) -> None:
    """Write a new token where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another run was quicker; nobody ever sees a file that is not whole
            path.hardlink_to(part)
    finally:
        part.unlink()


def token_fault() -> str:
    """Say what is wrong with the token file, or nothing."""
    path = token_path()
    if os.environ.get("RAY_AUTH_TOKEN") or not path.exists():
        return ""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        return (
            f"{path} has mode {mode:04o}: others can read the token; say chmod 600 {path}, and, where other people "
            "use this machine, replace it on every machine that has it"
        )
    return ""
