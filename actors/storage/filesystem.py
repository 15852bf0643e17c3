"""Storage backends for the files of commits: a local file system, or an object store under any URL that fsspec knows.

A storage reads and writes files by their path below its root, such as ``round-003/vae.state.safetensors``, and does not
interpret them. A file is written atomically, and survives a power cut once :meth:`Storage.write` has returned.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote

from actors.errors import StorageError
from actors.limits import (
    MAX_COMMIT_FILE_BYTES,
    MAX_DURABLE_DIRECTORIES,
    READ_BLOCK_BYTES,
    STORAGE_RATE,
    STORAGE_SECONDS,
)
from actors.storage.safe_files import LINK_ERROR, is_safe_name, open_file, open_root, open_subdirectory, split_path

S3_EXTRA = "pip install 'serket-actors[s3]'"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_durable: OrderedDict[str, None] = OrderedDict()
"""The directories whose names this process has synced to the disk, the one that was used last at the end."""


class Storage(Protocol):
    """Files below a root; every path is relative to it, ``<file>`` or ``<directory>/<file>``.

    Operations that fail raise OSError with its errno and the file's name.
    """

    @property
    def root(self) -> Path | str:
        """The root: a path on a local file system, else a URL."""

    def location(self, path: str) -> str:
        """Return the full path or URL of a file, for messages."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically, replacing an existing one; creates its directory."""

    def write_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write files, each with its path, as :meth:`write` does; they are durable when all are written."""

    def write_new(self, path: str, data: bytes) -> None:
        """Write a file that does not exist yet; FileExistsError if it does."""

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return a file's contents, or the first `max_bytes` bytes of a longer file."""

    def blocks(self, path: str, max_bytes: int) -> Iterator[bytes]:
        """Yield a file's contents in blocks, at most `max_bytes` bytes of them."""

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
    # A chain such as reference://x::http://… wraps one storage into another, and can name further addresses in a file.
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) or "::" in rest:
        raise StorageError(f"{text}: expected a path or a URL with a single protocol")
    return ObjectStorage(text)


class LocalStorage:
    """A directory of a file system, whose files are opened without following links (:mod:`actors.storage.safe_files`).

    A file is written under a temporary name, synced, and renamed; then its directory is synced. Every change to the
    disk is a call to ``os``, so that tests can simulate a disk that loses power. Every operation raises OSError, with
    its errno and the file's name, for links, for what is not a regular file, and for names that are not valid.

    Parameters
    ----------
    root : str or path
        Its parents may be links, the directory itself may not. Another directory in its place, such as one to which a
        parent that became a link leads, or a new one where it was deleted, is refused as long as this object lives.
    """

    depth = 2
    """Components that a path below the root may have."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self._identity: tuple[int, int] | None = None
        # pathlib keeps each part of each path in the interpreter's table of interned strings, which becomes a megabyte
        # larger when it is full of names that are gone. So paths are not made again for each file of a commit.
        self._prefix = "" if self.root == Path() else f"{str(self.root).rstrip('/')}/"

    def location(self, path: str) -> str:
        """Return the full path."""
        return f"{self._prefix}{path}"

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes) -> None:
        """Write a file atomically: its contents are on the disk before it gets its final name.

        Raises
        ------
        OSError
            If it cannot be written, for example because the disk is full; has the errno and the file's final name.
        """
        self.write_all([(path, data)])

    def write_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write files, each atomically, and sync the names in a directory once.

        Raises
        ------
        OSError
            As :meth:`write`; those before may be written.
        """
        last: dict[tuple[str, ...], str] = {}
        for path, data in files:
            with self._named(path) as (parents, name), self._new_directory(parents) as directory:
                with _replacing(directory, name) as part:
                    _write_durably(directory, part, data)
                last[parents] = path
        for parents, path in last.items():
            with self._error_of(path), self._directory(parents) as directory:
                os.fsync(directory)  # otherwise the new names may not survive a power cut

    def write_new(self, path: str, data: bytes) -> None:
        """Write a file durably that does not exist yet.

        Raises
        ------
        FileExistsError
            If it exists.
        """
        with self._named(path) as (parents, name), self._new_directory(parents) as directory:
            _write_durably(directory, name, data)
            os.fsync(directory)

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """Open a file for writing that gets its name, and replaces an existing file, at the end of the block.

        It is not synced: for files that can be written again from the commits.
        """
        with (
            self._named(path) as (parents, name),
            self._new_directory(parents, sync=False) as directory,
            _replacing(directory, name) as part,
        ):
            descriptor = os.open(part, _NEW_FILE, 0o666, dir_fd=directory)
            with open(descriptor, "wb") as file:
                yield file

    def append(self, path: str, data: bytes) -> None:
        """Append to a file; create it if it does not exist."""
        with self._named(path) as (parents, name), self._directory(parents) as directory:
            self._detach(directory, path, name)
            descriptor = open_file(directory, name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                _write_all(descriptor, data)
            finally:
                os.close(descriptor)

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to `size` bytes."""
        with self._named(path) as (parents, name), self._directory(parents) as directory:
            self._detach(directory, path, name)
            descriptor = open_file(directory, name, os.O_WRONLY)
            try:
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)

    def _detach(self, directory: int, path: str, name: str) -> None:
        """Replace a file that has other names too by a copy, so that a change in place does not change those files."""
        with suppress(FileNotFoundError):
            descriptor = open_file(directory, name)
            links = os.fstat(descriptor).st_nlink
            os.close(descriptor)
            if links > 1:
                self.write(path, self.read(path))

    # --- reading ----------------------------------------------------------------------------------------------------

    @contextmanager
    def reader(self, path: str, max_bytes: int | None = None) -> Iterator[BinaryIO]:
        """Open a file for reading.

        Raises
        ------
        OSError
            If it is larger than `max_bytes`.
        """
        with self._named(path) as (parents, name), self._directory(parents) as directory:
            descriptor = open_file(directory, name)
            try:
                size = os.fstat(descriptor).st_size
                if max_bytes is not None and size > max_bytes:
                    raise OSError(errno.EFBIG, f"it has {size} bytes, at most {max_bytes} are read")
                with open(descriptor, "rb", closefd=False) as file:
                    yield file
            finally:
                os.close(descriptor)

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return a file's contents, at most `max_bytes` bytes of them."""
        with self.reader(path) as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(size if max_bytes is None else min(size, max_bytes))

    def blocks(self, path: str, max_bytes: int) -> Iterator[bytes]:
        """Yield a file's contents in blocks, at most `max_bytes` bytes of them."""
        with self.reader(path) as file:
            while max_bytes > 0 and (block := file.read(min(READ_BLOCK_BYTES, max_bytes))):
                max_bytes -= len(block)
                yield block

    def exists(self, path: str) -> bool:
        """Return whether there is a file or anything else of this name; a link is not followed."""
        return self.size(path) is not None

    def size(self, path: str) -> int | None:
        """Return the size of a file in bytes, None if there is none."""
        try:
            with self._named(path) as (parents, name), self._directory(parents) as directory:
                return os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def files(self, name: str | None = None) -> list[str]:
        """Return the paths of all files, or of those called `name`.

        A directory that is a link is not entered. Where a `name` is given, the file that would be in it is listed, so
        that reading it reports the link.
        """
        found: list[str] = []
        for directory, kind in self._entries(()).items():
            if kind == "link" and name is not None:
                found.append(f"{directory}/{name}")
            elif kind == "directory":
                within = [each for each, kind in self._entries((directory,)).items() if kind != "directory"]
                found += [f"{directory}/{each}" for each in within if name in (None, each)]
        return found

    def directories(self) -> list[str]:
        """Return the names of the directories; links are left out."""
        return [name for name, kind in self._entries(()).items() if kind == "directory"]

    def _entries(self, parents: Sequence[str]) -> dict[str, str]:
        """Return the entries of a directory with valid names, and what each is: ``directory``, ``link`` or ``file``.

        Empty if there is no such directory.
        """
        found = {}
        try:
            with (
                self._error_of("/".join(parents)),
                self._directory(parents) as directory,
                os.scandir(directory) as entries,
            ):
                for entry in filter(lambda entry: is_safe_name(entry.name), entries):
                    is_directory = entry.is_dir(follow_symlinks=False)
                    found[entry.name] = "link" if entry.is_symlink() else "directory" if is_directory else "file"
        except (FileNotFoundError, NotADirectoryError):
            pass
        return found

    # --- deleting ---------------------------------------------------------------------------------------------------

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files, and sync their directories; a directory that is a link is deleted itself, not what is in it."""
        parts = [split_path(path, self.depth) for path in paths]
        for parents in dict.fromkeys(names[:-1] for names in parts):
            names = [each[-1] for each in parts if each[:-1] == parents]
            with suppress(FileNotFoundError), self._named("/".join((*parents, names[0]))):
                try:
                    with self._directory(parents) as directory:
                        self._delete_in(directory, names)
                except OSError as error:
                    if error.errno != LINK_ERROR or len(parents) != 1:
                        raise
                    with self._directory(()) as directory:
                        self._delete_in(directory, parents)

    def _delete_in(self, directory: int, names: Sequence[str]) -> None:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
        os.fsync(directory)

    def delete_directory(self, name: str) -> None:
        """Delete a directory if it is empty."""
        with self._named(name) as (parents, last):
            try:
                with self._directory(parents) as directory:
                    os.rmdir(last, dir_fd=directory)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                    raise

    # --- directories ------------------------------------------------------------------------------------------------

    @contextmanager
    def _named(self, path: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield the components of `path`: its directory's and its last; errors in the block name the file."""
        with self._error_of(path):
            names = split_path(path, self.depth)
            yield names[:-1], names[-1]

    @contextmanager
    def _error_of(self, path: str) -> Iterator[None]:
        """Name the file in errors of the block."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, self.location(path)) from error

    @contextmanager
    def _directory(self, names: Sequence[str]) -> Iterator[int]:
        """Yield a descriptor of a directory below the root."""
        descriptor = self._open_root(self.root)
        try:
            for name in names:
                descriptor = _descend(descriptor, name)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _new_directory(self, names: Sequence[str], *, sync: bool = True) -> Iterator[int]:
        """Yield a descriptor of a directory below the root, which is created, and its name synced, if necessary."""
        root = self.root.absolute()
        _make_durable_directory(root)
        descriptor, path = self._open_root(root), str(root)
        try:
            for name in names:
                path = f"{path}/{name}"
                created = _make_directory_in(descriptor, name)
                if sync and (created or path not in _durable):
                    os.fsync(descriptor)
                    _remember_durable(path)
                descriptor = _descend(descriptor, name)
            yield descriptor
        finally:
            os.close(descriptor)

    def _open_root(self, path: Path) -> int:
        """Return a descriptor of the root, the same directory each time.

        Raises
        ------
        OSError
            If it was replaced by another one: who can write in a directory above it could lead a run that goes on to
            files of the run's user.
        """
        descriptor = open_root(path)
        found = os.fstat(descriptor)
        self._identity = self._identity or (found.st_dev, found.st_ino)
        if self._identity != (found.st_dev, found.st_ino):
            os.close(descriptor)
            raise OSError(
                errno.ESTALE,
                f"{path.name} was replaced by another directory while it was in use, which is left alone",
            )
        return descriptor


def _descend(descriptor: int, name: str) -> int:
    """Return a descriptor of a directory's subdirectory, and close that of the directory; it stays open on an error."""
    child = open_subdirectory(descriptor, name)
    os.close(descriptor)
    return child


class ObjectStorage:
    """Files under a URL, accessed through fsspec: each file is written by a single put.

    In an object store a put is atomic. Other protocols may leave part of a file behind, which its digest reveals. An
    operation that takes longer than :data:`actors.limits.STORAGE_SECONDS` raises OSError: packages wait for minutes or
    for ever for a service that does not answer.

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
        self._files, self._base = _open_file_system(self.root)  # in this thread: fsspec keeps one of each thread

    def location(self, path: str) -> str:
        """Return the file's URL."""
        return f"{self.root}/{path}"

    def write(self, path: str, data: bytes) -> None:
        """Write a file in a single put."""
        self._put(path, data)

    def write_all(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write files, each in a single put."""
        for path, data in files:
            self._put(path, data)

    def write_new(self, path: str, data: bytes) -> None:
        """Write a file that does not exist yet.

        Of two processes that write at the same time both may succeed where the service cannot create exclusively; the
        file then has the contents of the later one.

        Raises
        ------
        FileExistsError
            If it exists.
        """
        if path in self.files(path.rpartition("/")[2]):
            raise FileExistsError(errno.EEXIST, "the file exists", self.location(path))
        try:
            self._put(path, data, mode="create")
        except FileExistsError:
            raise
        except OSError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise FileExistsError(errno.EEXIST, "the file exists", self.location(path)) from error
            self._put(path, data)  # a package or a service that has no such mode

    def _put(self, path: str, data: bytes, **options: Any) -> None:
        full = f"{self._base}/{'/'.join(split_path(path))}"
        seconds = STORAGE_SECONDS + len(data) / STORAGE_RATE
        try:
            pipe = self._files.pipe_file
            try:
                _within(seconds, pipe, full, data, **options)
            except FileNotFoundError:
                # Protocols with directories need them created. Without create_parents, which would make an
                # object store create a bucket of a misspelt name.
                for directory in (self._base, full.rpartition("/")[0]):
                    with suppress(FileExistsError):
                        _within(seconds, self._files.mkdir, directory, create_parents=False)
                _within(seconds, pipe, full, data, **options)
        except Exception as error:
            raise _to_os_error(error, self.location(path)) from error

    def read(self, path: str, max_bytes: int | None = None) -> bytes:
        """Return a file's contents, at most `max_bytes` bytes of them."""
        try:
            seconds = STORAGE_SECONDS + (MAX_COMMIT_FILE_BYTES if max_bytes is None else max_bytes) / STORAGE_RATE
            data: bytes = _within(seconds, self._files.cat_file, f"{self._base}/{path}", end=max_bytes)
        except Exception as error:
            raise _to_os_error(error, self.location(path)) from error
        return data

    def blocks(self, path: str, max_bytes: int) -> Iterator[bytes]:
        """Yield a file's contents in blocks, at most `max_bytes` bytes of them."""
        full = f"{self._base}/{path}"
        try:
            self._files.invalidate_cache()
            end = min(int(_within(STORAGE_SECONDS, self._files.info, full)["size"]), max_bytes)
            seconds = STORAGE_SECONDS + READ_BLOCK_BYTES / STORAGE_RATE
            for start in range(0, end, READ_BLOCK_BYTES):
                stop = min(start + READ_BLOCK_BYTES, end)
                yield _within(seconds, self._files.cat_file, full, start=start, end=stop)
        except Exception as error:
            raise _to_os_error(error, self.location(path)) from error

    def files(self, name: str | None = None) -> list[str]:
        """Return the paths of all files, or of those called `name`."""
        from fsspec.asyn import AsyncFileSystem

        try:
            self._files.invalidate_cache()  # other processes write too; a cached listing lacks their files
            # fsspec's own search takes a directory that cannot be listed for an empty one, unless it is told otherwise.
            generic = getattr(type(self._files), "_find", AsyncFileSystem._find) is AsyncFileSystem._find
            options = {"on_error": "raise"} if generic else {}
            found = _within(STORAGE_SECONDS, self._files.find, self._base, **options)
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
                _within(STORAGE_SECONDS, self._files.rm_file, f"{self._base}/{path}")
            except FileNotFoundError:
                continue
            except Exception as error:
                raise _to_os_error(error, self.location(path)) from error

    def delete_directory(self, name: str) -> None:
        """Do nothing: a directory disappears with its last file."""


def _within(seconds: float, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what a call returns.

    Raises
    ------
    TimeoutError
        If it takes longer than `seconds`; its thread is left behind, since a package's wait cannot be ended.
    """
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((call(*args, **options), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="storage", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(errno.ETIMEDOUT, f"the service has not answered within {seconds:.0f} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def _make_directory_in(directory: int, name: str) -> bool:
    """Create a directory in another one if there is nothing of its name; return whether it was created."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process was faster
            os.mkdir(name, dir_fd=directory)
        return True
    return False


def _make_durable_directory(directory: Path) -> None:
    """Create a directory that survives a power cut.

    Another process may have created it, or one of its parents, and died before it could sync the name. So each process
    syncs every name on the path once.
    """
    created = _make_directories(directory)
    for path in (directory, *directory.parents[:-1]):
        if path in created:
            _sync_directory(path.parent)
        elif str(path) not in _durable:
            try:
                _sync_directory(path.parent)
            except OSError as error:  # a directory near the root may be unreadable, or unable to sync
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS, errno.ENOTSUP):
                    raise
        _remember_durable(str(path))


def _remember_durable(path: str) -> None:
    """Remember that the name of a directory is synced; forget the one whose use is longest ago, if there are many."""
    _durable[path] = None
    with suppress(KeyError):  # another thread has forgotten it
        _durable.move_to_end(path)
    if len(_durable) > MAX_DURABLE_DIRECTORIES:  # a long run makes a directory a round
        _durable.popitem(last=False)


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


@contextmanager
def _replacing(directory: int, name: str) -> Iterator[str]:
    """Yield a temporary name, which replaces `name` at the end of the block."""
    part = f"{name}.{uuid.uuid4().hex}.part"
    try:
        yield part
        os.replace(part, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=directory)
        raise


def _write_durably(directory: int, name: str, data: bytes) -> None:
    """Write a new file and sync its contents to the disk."""
    descriptor = os.open(name, _NEW_FILE, 0o666, dir_fd=directory)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a single call writes at most 2 GiB
        rest = rest[os.write(descriptor, rest) :]


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
            f"{url}: {reason}; give a path, or a URL such as file:///… or s3://… ({S3_EXTRA})"
        ) from error
    return files, base.rstrip("/")


def _to_os_error(error: Exception, location: str) -> OSError:
    """Return an OSError that names the file, for any exception of a storage package."""
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return OSError(error.errno, error.strerror or str(error), location)
    known = {
        FileNotFoundError: errno.ENOENT,
        PermissionError: errno.EACCES,
        FileExistsError: errno.EEXIST,
        NotImplementedError: errno.ENOTSUP,
    }
    number = next((number for kind, number in known.items() if isinstance(error, kind)), errno.EIO)
    reason = str(error)
    if location.endswith(reason.lstrip("/")):  # empty, or only the file's name
        reason = os.strerror(number)
    return OSError(number, reason, location)
