"""Storage backends for the files of commits: a local file system, or an object store under any URL that fsspec knows.

A storage reads and writes files by their path below its root, such as ``round-003/vae.state.safetensors``, and does not
interpret them. A file is written atomically, and survives a power cut once :meth:`Storage.write` has returned.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

from actors.errors import StorageError

S3_EXTRA = "pip install 'serket-actors[s3]'"
_durable: set[Path] = set()
"""The directories whose names this process has synced to the disk."""


class Storage(Protocol):
    """Files below a root; every path is relative to it, ``<directory>/<file>``.

    Operations that fail raise OSError with its errno and the file's name.
    """

    @property
    def root(self) -> Path | str:
        """The root: a path on a local file system, else a URL."""

    def location(self, path: str) -> str:
        """Return the full path or URL of a file, for messages."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically, replacing an existing one; creates its directory."""

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return a file's contents, or the first `max_bytes` bytes of a longer file."""

    def files(self, name: str | None = None) -> list[str]:
        """Return the paths of all files, or of those called `name`, in any order; none if the root does not exist."""

    def directories(self) -> list[str]:
        """Return the names of the directories; none in a storage that has only files."""

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files, durably; missing files are ignored."""

    def delete_directory(self, name: str) -> None:
        """Delete a directory if it is empty."""


def storage_at(root: str | os.PathLike[str]) -> Storage:
    """Return the storage at a path or a URL.

    Parameters
    ----------
    root : str or path
        ``runs/digits/checkpoints``, ``file:///data/digits``, ``s3://bucket/digits``, ``memory://digits``, …

    Raises
    ------
    StorageError
        If the URL's protocol is unknown, or a package that it needs is not installed.
    """
    text = os.fspath(root)
    scheme, separator, rest = text.partition("://")
    if not separator:
        if re.match(r"[a-z][a-z0-9+.-]+:/", text):
            # Path("s3://bucket") is s3:/bucket, which as a path would create a directory called s3:
            raise StorageError(f"{text}: looks like a URL with a missing slash; pass URLs as text, not as paths")
        return LocalStorage(text)
    if scheme in ("file", "local"):
        if not rest.startswith("/"):
            raise StorageError(f"{text}: expected an absolute path in a file URL, such as file:///data/run")
        return LocalStorage(unquote(rest))
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise StorageError(f"{text}: expected a path or a URL with a single protocol")
    return ObjectStorage(text)


class LocalStorage:
    """A directory of a file system.

    A file is written under a temporary name, synced, and renamed; then its directory is synced. Every change to the
    disk is a call to ``os``, so that tests can simulate a disk that loses power.

    Parameters
    ----------
    root : str or path
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def location(self, path: str) -> str:
        """Return the full path."""
        return str(self.root / path)

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically: its contents are on the disk before it gets its final name.

        Raises
        ------
        OSError
            If it cannot be written, for example because the disk is full; has the errno and the file's final name.
        """
        target = self.root / path
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        try:
            _make_durable_directory(target.parent.absolute())
            try:
                _write_durably(part, data)
                os.replace(part, target)
            except OSError:
                with suppress(OSError):
                    os.unlink(part)
                raise
            _sync_directory(target.parent)  # otherwise the new name may not survive a power cut
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from error

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return a file's contents, at most `max_bytes` bytes of them."""
        with (self.root / path).open("rb") as file:
            return file.read(max_bytes)

    def files(self, name: str | None = None) -> list[str]:
        """Return the paths of all files, or of those called `name`."""
        paths = self.root.glob(f"*/{name or '*'}")
        return [path.relative_to(self.root).as_posix() for path in paths if path.is_file()]

    def directories(self) -> list[str]:
        """Return the names of the directories."""
        return [path.name for path in self.root.glob("*") if path.is_dir()]

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files, and sync their directories."""
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(self.root / path)
        for directory in sorted({(self.root / path).parent for path in paths}):
            with suppress(FileNotFoundError):
                _sync_directory(directory)

    def delete_directory(self, name: str) -> None:
        """Delete a directory if it is empty."""
        try:
            os.rmdir(self.root / name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise


class ObjectStorage:
    """Files under a URL, accessed through fsspec: each file is written by a single put.

    In an object store a put is atomic. Other protocols may leave part of a file behind, which its digest reveals.

    Parameters
    ----------
    url : str
        Its protocol's package reads credentials and endpoints from the environment.

    Raises
    ------
    StorageError
        If the URL's protocol is unknown, or a package that it needs is not installed.
    """

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self._files, self._base = _open_file_system(self.root)

    def location(self, path: str) -> str:
        """Return the file's URL."""
        return f"{self.root}/{path}"

    def write(self, path: str, data: bytes) -> None:
        """Write a file in a single put."""
        full = f"{self._base}/{path}"
        try:
            try:
                self._files.pipe_file(full, data)
            except FileNotFoundError:
                # Protocols with directories need them created. Without create_parents, which would make an
                # object store create a bucket of a misspelt name.
                for directory in (self._base, full.rpartition("/")[0]):
                    with suppress(FileExistsError):
                        self._files.mkdir(directory, create_parents=False)
                self._files.pipe_file(full, data)
        except Exception as error:
            raise _to_os_error(error, self.location(path)) from error

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return a file's contents, at most `max_bytes` bytes of them."""
        try:
            data: bytes = self._files.cat_file(f"{self._base}/{path}", end=max_bytes)
        except Exception as error:
            raise _to_os_error(error, self.location(path)) from error
        return data

    def files(self, name: str | None = None) -> list[str]:
        """Return the paths of all files, or of those called `name`."""
        try:
            self._files.invalidate_cache()  # other processes write too; a cached listing lacks their files
            found = self._files.find(self._base)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _to_os_error(error, self.root) from error
        paths = [path.removeprefix(f"{self._base}/") for path in found]
        return [path for path in paths if path.count("/") == 1 and name in (None, path.rpartition("/")[2])]

    def directories(self) -> list[str]:
        """Return an empty list: a directory exists only as part of the paths of files."""
        return []

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files."""
        for path in paths:
            try:
                self._files.rm_file(f"{self._base}/{path}")
            except FileNotFoundError:
                continue
            except Exception as error:
                raise _to_os_error(error, self.location(path)) from error

    def delete_directory(self, name: str) -> None:
        """Do nothing: a directory disappears with its last file."""


def _make_durable_directory(directory: Path) -> None:
    """Create a directory that survives a power cut.

    Another process may have created it, or one of its parents, and died before it could sync the name. So each process
    syncs every name on the path once.
    """
    created = _make_directories(directory)
    for path in (directory, *directory.parents[:-1]):
        if path in created:
            _sync_directory(path.parent)
        elif path not in _durable:
            try:
                _sync_directory(path.parent)
            except OSError as error:  # a directory near the root may be unreadable, or unable to sync
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS, errno.ENOTSUP):
                    raise
        _durable.add(path)


def _make_directories(directory: Path) -> list[Path]:
    """Create a directory and its parents; return those that did not exist."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        try:
            os.mkdir(path)
        except FileExistsError:  # another process was faster
            if not path.is_dir():
                raise
    return missing


def _write_durably(path: Path, data: bytes) -> None:
    """Write a new file and sync its contents to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:  # a single call writes at most 2 GiB
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    """Sync the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path of the URL within it."""
    import fsspec.core  # slow to import, and not needed for local paths

    protocol = url.partition("://")[0]
    try:
        files, base = fsspec.core.url_to_fs(url)
    except ImportError as error:
        remedy = S3_EXTRA if protocol in ("s3", "s3a") else str(error)
        raise StorageError(f"{url}: {protocol}:// needs a package that is not installed: {remedy}") from error
    except Exception as error:
        known = protocol in fsspec.available_protocols()
        reason = str(error) if known else f"unknown protocol {protocol}://"
        raise StorageError(
            f"{url}: {reason}; give a path, or a URL such as file:///…, memory://… or s3://… ({S3_EXTRA})"
        ) from error
    return files, base.rstrip("/")


def _to_os_error(error: Exception, location: str) -> OSError:
    """Return an OSError that names the file, for any exception of a storage package."""
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return OSError(error.errno, error.strerror or str(error), location)
    known = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
    number = next((number for kind, number in known.items() if isinstance(error, kind)), errno.EIO)
    reason = str(error)
    if location.endswith(reason.lstrip("/")):  # empty, or only the file's name
        reason = os.strerror(number)
    return OSError(number, reason, location)
