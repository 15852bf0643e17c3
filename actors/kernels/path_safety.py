"""Check that no other user of this machine can replace or write what lies at a path.

Used for directories and files whose content this software runs or believes: the compile cache, the user's state
directory, the token of a cluster, the temporary directory of Ray. It lies here because kernels import only each other;
it needs the standard library alone.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_MAX_LINKS = 40  # as in Linux


def why_unsafe(path: Path | str) -> str:
    """Return how another user could replace or write what lies at `path`; empty if only this user and root could.

    Every directory above `path` is examined too, and every link on the way to it. Below a directory that no other user
    can enter, modes do not matter. What does not exist yet is as safe as the directory in which it would be created.

    Parameters
    ----------
    path : Path or str

    Returns
    -------
    str
        For instance ``/tmp/cache can be written by other users (mode 0777)``.
    """
    steps = list(Path(os.path.abspath(path)).parts)  # noqa: PTH100 (follows no links)
    here, shut, links = Path(steps.pop(0)), False, 0
    try:
        reason, shut = _examine(here, shut=False, last=not steps)
        while steps and not reason:
            here = here / steps.pop(0)
            status = os.lstat(here)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    return f"{here} is a link that leads nowhere"
                if status.st_uid not in (os.geteuid(), 0):
                    return f"{here} is a link that belongs to {_user(status.st_uid)}"
                target = os.path.normpath(here.parent / os.readlink(here))  # noqa: PTH115
                steps = [*Path(target).parts, *steps]
                here, shut = Path(steps.pop(0)), False
                continue
            reason, shut = _examine(here, shut=shut, last=not steps)
    except (FileNotFoundError, NotADirectoryError):
        return ""  # the directory above was examined
    except (OSError, ValueError) as error:
        return f"{here} cannot be examined ({getattr(error, 'strerror', None) or error})"
    return reason


def _examine(path: Path, *, shut: bool, last: bool) -> tuple[str, bool]:
    """Return why `path` itself is unsafe, and whether other users cannot reach what lies in it."""
    status = os.lstat(path)
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to {_user(status.st_uid)}", shut
    group_counts = not _is_own_group(status.st_gid)
    writable = status.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if group_counts else 0))
    sticky = status.st_mode & stat.S_ISVTX and stat.S_ISDIR(status.st_mode) and not last
    if writable and not sticky and not shut:
        return f"{path} can be written by other users (mode {stat.S_IMODE(status.st_mode):04o})", shut
    enterable = status.st_mode & (stat.S_IXOTH | (stat.S_IXGRP if group_counts else 0))
    return "", shut or not enterable


def _is_own_group(group: int) -> bool:
    """Return whether a group has this user as its only member, by the convention of a group named as its user."""
    import grp
    import pwd

    try:
        name, entry = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return entry.gr_name == name and set(entry.gr_mem) <= {name}


def _user(uid: int) -> str:
    """Return a user's name, or the number of one without a name."""
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def make_private_directory(path: Path) -> None:
    """Create a directory of mode 0700, with directories above it that other users cannot write.

    Raises
    ------
    PermissionError
        If another user could replace or write it, or can look into it, or if it is a link.
    OSError
        If it cannot be created.
    """
    if reason := why_unsafe(path):  # before anything is created in a place to which a stranger's link leads
        raise PermissionError(reason)
    for directory in (*reversed(path.parents), path):
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)
    status = os.lstat(path)
    reason = why_unsafe(path)
    if reason:
        pass
    elif stat.S_ISLNK(status.st_mode):
        reason = f"{path} is a link"
    elif not stat.S_ISDIR(status.st_mode):
        reason = f"{path} is no directory"
    elif status.st_uid != os.geteuid():
        reason = f"{path} belongs to {_user(status.st_uid)}"
    if reason:
        raise PermissionError(reason)
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)
