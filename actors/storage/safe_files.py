"""Opens files below a directory that anybody may have made: a run directory, or a directory of commits.

Every name below the directory is checked, every component of a path is opened relative to the one before, and no link
is followed: neither for reading nor for writing can a path lead outside. Only regular files are opened; a FIFO, a
socket or a device is refused without waiting for it. The directory itself and its parents are the user's choice: the
parents may be links, the directory may not.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from actors.limits import MAX_COMPONENT_BYTES, MAX_JSON_DEPTH, MAX_JSON_VALUES

_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

LINK_ERROR = errno.ELOOP
"""The errno of a link that was refused."""


# --- names ----------------------------------------------------------------------------------------------------------


def is_safe_name(name: str) -> bool:
    """Return whether `name` can be a single component of a path: no separator, no control character, not ``..``."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or not name.isprintable():
        return False
    return len(name.encode()) <= MAX_COMPONENT_BYTES


def split_path(path: str, depth: int = 2) -> tuple[str, ...]:
    """Return the components of a path below a root: ``<file>`` or ``<directory>/<file>``; at most `depth` of them.

    Raises
    ------
    OSError
        If a component is not a valid name.
    """
    names = tuple(path.split("/"))
    if len(names) > depth or not all(map(is_safe_name, names)):
        shown = ascii(path if len(path) <= MAX_COMPONENT_BYTES else f"{path[:MAX_COMPONENT_BYTES]}…")
        raise OSError(errno.EINVAL, f"{shown} is not the name of a file in this directory", None)
    return names


# --- opening --------------------------------------------------------------------------------------------------------


def open_root(path: Path) -> int:
    """Return a descriptor of a directory; its parents may be links, the directory itself may not."""
    try:
        return os.open(path, _DIRECTORY)
    except OSError as error:
        if path.is_symlink():
            raise _link_error(path.name) from error
        raise


def open_subdirectory(directory: int, name: str) -> int:
    """Return a descriptor of a directory within another one; a link is refused."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and _is_link(name, directory):
            raise _link_error(name) from error
        raise


def open_file(directory: int, name: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a regular file in a directory; links, FIFOs, sockets and devices are refused."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
    else:
        _check_regular(found, name)  # before it is opened, which for a device can have effects
    descriptor = os.open(name, flags | _SAFE, 0o666, dir_fd=directory)
    try:
        _check_regular(os.fstat(descriptor), name)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(found: os.stat_result, name: str) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _link_error(name)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, f"{name} is a directory, expected a file")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"{name} is a pipe, socket or device, expected a file; delete it")


def _is_link(name: str, directory: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def _link_error(name: str) -> OSError:
    return OSError(
        LINK_ERROR, f"{name} is a link, and links are not followed in a run directory; replace it by what it leads to"
    )


# --- JSON -----------------------------------------------------------------------------------------------------------


def parse_json(data: bytes, max_values: int = MAX_JSON_VALUES) -> Any:
    """Parse JSON whose number of values and depth are limited.

    Raises
    ------
    ValueError
        If the data are not JSON, or have too many values or too many levels.
    """
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))  # at least: commas in texts count too
    if values > max_values:
        raise ValueError(f"it has more than {max_values} values")
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError(f"it has more than {MAX_JSON_DEPTH} levels") from None
    level, depth = [content] if isinstance(content, dict | list) else [], 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"it has more than {MAX_JSON_DEPTH} levels")
        children = (child for value in level for child in (value.values() if isinstance(value, dict) else value))
        level = [child for child in children if isinstance(child, dict | list)]
    return content
