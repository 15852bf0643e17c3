"""The authentication token of a Ray cluster: where it is stored, how it is created, and who can read it."""

from __future__ import annotations

import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from actors.kernels.path_safety import why_unsafe
from actors.variables import ray_requires_token, ray_token, ray_token_path

_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class TokenError(RuntimeError):
    """Raised when the token is missing or cannot be trusted; the message names the file and the remedy."""


def token_required() -> bool:
    """Return whether Ray uses token authentication in this environment."""
    return ray_requires_token()


def token_path() -> Path:
    """Return the path of the token file that Ray reads."""
    return ray_token_path() or Path.home() / ".ray" / "auth_token"


def describe_credential() -> str:
    """Describe the credential that this process presents to a cluster."""
    if not token_required():
        return "no token (RAY_AUTH_MODE is disabled)"
    return f"the token of {'RAY_AUTH_TOKEN' if ray_token() else token_path()}"


def ensure_private_token(*, create: bool) -> None:
    """Ensure that a token exists and that only its owner can read it (Ray would write it readable by all users).

    Does nothing if the token is given in the environment. A token that other users can read is made private, with a
    warning; one that they can write is refused, since they may know it and lead this process to a cluster of theirs.

    Parameters
    ----------
    create : bool
        Whether to create a token if there is none.

    Raises
    ------
    TokenError
        If other users can write the token's file; or if there is none, and it is not to be created or cannot be stored.
    """
    path = token_path()
    if ray_token():
        return
    try:
        if reason := why_unsafe(path):
            raise TokenError(f"{path}: the token is refused: {reason}; {_REPLACE}")
        if create:
            _create_token(path)
        if path.is_file() and path.stat().st_uid == os.getuid() and path.stat().st_mode & _GROUP_AND_OTHERS:
            logging.getLogger(__name__).warning("serket: %s could be read by other users; it is private now", path)
            path.chmod(0o600)
        exists = path.is_file() and path.stat().st_size > 0
    except OSError as error:
        reason = f"{path}: the token cannot be stored there ({error.strerror})"
        raise TokenError(f"{reason}; name another file with RAY_AUTH_TOKEN_PATH") from error
    if token_required() and not exists:
        raise TokenError(
            f"{path} contains no token; copy the cluster's token there with mode 0600, or name its file with "
            "RAY_AUTH_TOKEN_PATH"
        )


_REPLACE = (
    "correct that and replace the token (on every machine that has it), or name another file with RAY_AUTH_TOKEN_PATH"
)


def _create_token(path: Path) -> None:
    """Write a new token unless the file exists."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another run was faster; the link keeps a partial file from becoming visible
            path.hardlink_to(part)
    finally:
        part.unlink()


def token_problem() -> str:
    """Return what is wrong with the permissions of the token file, or an empty string."""
    path = token_path()
    if ray_token():
        return ""
    if reason := why_unsafe(path):
        return f"{reason}, so that the token cannot be trusted; {_REPLACE}"
    if not path.exists():
        return ""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _GROUP_AND_OTHERS:
        return (
            f"{path} has mode {mode:04o}: other users can read the token; run chmod 600 {path}, and, if other people "
            "use this machine, replace the token on every machine that has it"
        )
    return ""
