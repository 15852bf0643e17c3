"""Where the files of a run's commits lie: on a file system, or in an object store under any URL that fsspec knows.

A storage knows paths below its root, ``round-003/vae.state.safetensors``, and nothing of what the files mean. What
:meth:`Storage.write` has returned from survives a power cut, and a file is there whole or not at all.
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
_settled: set[Path] = set()
"""The directories whose names this process knows to be on the disk."""


class Storage(Protocol):
    """Files below a root; every path is relative to it, ``<directory>/<file>``.

    What cannot be done raises OSError, with its errno and the file's name.
    """

    @property
    def root(self) -> Path | str:
        """The root: a path where it is a local one, else a URL."""

    def where(self, path: str) -> str:
        """Return the full name of a file, for people to read."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all, over one that is there; makes its directory."""

    def read(self, path: str, most: int | None = None) -> bytes:
        """Return a file's contents, of a longer file than `most` bytes the first so many."""

    def files(self, called: str | None = None) -> list[str]:
        """Return the paths of all files, or of those of one name, in any order; none where there is no root yet."""

    def directories(self) -> list[str]:
        """Return the names of the directories; none where a storage knows files alone."""

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files; when it returns they stay deleted. One that is gone already is no error."""

    def delete_directory(self, name: str) -> None:
        """Delete a directory if it is empty."""


def storage_at(root: str | os.PathLike[str]) -> Storage:
    """Return the storage that lies at a path or a URL.

    Parameters
    ----------
    root : str or path
        ``runs/digits/checkpoints``, ``file:///data/digits``, ``s3://bucket/digits``, ``memory://digits``, …

    Raises
    ------
    StorageError
        If the URL's protocol is unknown, or what it needs is not installed.
    """
    text = os.fspath(root)
    scheme, separator, rest = text.partition("://")
    if not separator:
        if re.match(r"[a-z][a-z0-9+.-]+:/", text):
            # Path("s3://bucket") is s3:/bucket; better no run than one that makes a directory called s3:
            raise StorageError(f"{text}: looks like a URL that lost a slash; give URLs as text, not as paths")
        return LocalStorage(text)
    if scheme in ("file", "local"):
        if not rest.startswith("/"):
            raise StorageError(f"{text}: a file URL names an absolute path, as file:///data/run does")
        return LocalStorage(unquote(rest))
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise StorageError(f"{text}: neither a path nor a URL of one protocol")
    return ObjectStorage(text)


class LocalStorage:
    """A directory of a file system.

    A file is written beside its place, synced, renamed into it, and its directory synced. This class calls nothing
    but ``os`` for what changes the disk, so that tests can stand in for a disk that loses power.

    Parameters
    ----------
    root : str or path
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def where(self, path: str) -> str:
        """Return the full path."""
        return str(self.root / path)

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all: what carries its final name has reached the disk.

        Raises
        ------
        OSError
            If it cannot be written, because the disk is full for one; carries the errno and the file's final name.
        """
        target = self.root / path
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        try:
            _settle(target.parent.absolute())
            try:
                _write_through(part, data)
                os.replace(part, target)
            except OSError:
                with suppress(OSError):
                    os.unlink(part)
                raise
            _sync(target.parent)  # or the new name may not survive a power cut
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from error

    def read(self, path: str, most: int | None = None) -> bytes:
        """Return a file's contents, at most so many bytes."""
        with (self.root / path).open("rb") as file:
            return file.read(most)

    def files(self, called: str | None = None) -> list[str]:
        """Return the paths of all files, or of those of one name."""
        found = self.root.glob(f"*/{called or '*'}")
        return [path.relative_to(self.root).as_posix() for path in found if path.is_file()]

    def directories(self) -> list[str]:
        """Return the names of the directories."""
        return [path.name for path in self.root.glob("*") if path.is_dir()]

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files, and sync the directories that they lay in."""
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(self.root / path)
        for directory in sorted({(self.root / path).parent for path in paths}):
            with suppress(FileNotFoundError):
                _sync(directory)

    def delete_directory(self, name: str) -> None:
        """Delete a directory if it is empty."""
        try:
            os.rmdir(self.root / name)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise


class ObjectStorage:
    """Files under a URL, over fsspec: a file is a single put, and there is nothing to rename.

    In an object store a put is there whole or not at all. Other protocols may leave half a file behind; whoever reads
    it finds out by its digest.

    Parameters
    ----------
    url : str
        Credentials and endpoints come from the environment, as each protocol's package reads them.

    Raises
    ------
    StorageError
        If the URL's protocol is unknown, or what it needs is not installed.
    """

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self._files, self._base = _file_system(self.root)

    def where(self, path: str) -> str:
        """Return the file's URL."""
        return f"{self.root}/{path}"

    def write(self, path: str, data: bytes) -> None:
        """Write a file in a single put."""
        full = f"{self._base}/{path}"
        try:
            try:
                self._files.pipe_file(full, data)
            except FileNotFoundError:
                # Where there are directories, they have to be made. Without create_parents, which would have an
                # object store make a whole bucket where its name was misspelt.
                for directory in (self._base, full.rpartition("/")[0]):
                    with suppress(FileExistsError):
                        self._files.mkdir(directory, create_parents=False)
                self._files.pipe_file(full, data)
        except Exception as error:
            raise _named(error, self.where(path)) from error

    def read(self, path: str, most: int | None = None) -> bytes:
        """Return a file's contents, at most so many bytes."""
        try:
            data: bytes = self._files.cat_file(f"{self._base}/{path}", end=most)
        except Exception as error:
            raise _named(error, self.where(path)) from error
        return data

    def files(self, called: str | None = None) -> list[str]:
        """Return the paths of all files, or of those of one name."""
        try:
            self._files.invalidate_cache()  # others write here too: an old listing would hide what they wrote
            found = self._files.find(self._base)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _named(error, self.root) from error
        paths = [path.removeprefix(f"{self._base}/") for path in found]
        return [path for path in paths if path.count("/") == 1 and called in (None, path.rpartition("/")[2])]

    def directories(self) -> list[str]:
        """Return nothing: a directory is there as long as files are."""
        return []

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files."""
        for path in paths:
            try:
                self._files.rm_file(f"{self._base}/{path}")
            except FileNotFoundError:
                continue
            except Exception as error:
                raise _named(error, self.where(path)) from error

    def delete_directory(self, name: str) -> None:
        """Do nothing: a directory goes with its last file."""


def _settle(directory: Path) -> None:
    """Make a directory, and see to it that it survives a power cut.

    One that is there may have been made by a process that has not synced its name yet, or that died before it could;
    so each process syncs the names on the way to it once, whoever made them.
    """
    made = _make(directory)
    for path in (directory, *directory.parents[:-1]):
        if path in made:
            _sync(path.parent)
        elif path not in _settled:
            try:
                _sync(path.parent)
            except OSError as error:  # a directory high up, which may be neither ours to read nor one that is synced
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS, errno.ENOTSUP):
                    raise
        _settled.add(path)


def _make(directory: Path) -> list[Path]:
    """Make a directory and those above it; return those that were not there."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        try:
            os.mkdir(path)
        except FileExistsError:  # another process was quicker
            if not path.is_dir():
                raise
    return missing


def _write_through(path: Path, data: bytes) -> None:
    """Write a new file and wait until its contents have reached the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:  # one call writes at most 2 GiB
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(directory: Path) -> None:
    """Wait until the names in a directory have reached the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path of the URL within it."""
    import fsspec.core  # for URLs alone: runs on local paths do not wait for it

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


def _named(error: Exception, where: str) -> OSError:
    """Return an OSError that names the file, whatever the package below raised."""
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return OSError(error.errno, error.strerror or str(error), where)
    known = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
    number = next((number for kind, number in known.items() if isinstance(error, kind)), errno.EIO)
    said = str(error)
    if where.endswith(said.lstrip("/")):  # nothing, or the name again
        said = os.strerror(number)
    return OSError(number, said, where)
