"""Directories of shards in the cache: found, written under a temporary name, and named when they are complete.

A URL has no temporary names: there the index, which is written last, says that a conversion is complete.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import platformdirs
from filelock import FileLock, Timeout

from actors.errors import ModuleError
from actors.kernels.path_safety import make_private_directory, why_unsafe
from actors.limits import MAX_SHARD_INDEX_BYTES, STALE_CONVERSION_SECONDS
from actors.messaging.stored_rows import file_version, is_url, open_url
from actors.variables import cache_path
from runner.data.errors import DataError
from runner.report.printable import format_bytes, printable_reason

_INDEX = "index.json"
_SHARD = re.compile(r"part-[0-9]{5}\.npy")
_TIME = 946_684_800
"""The time of the last change of every shard, 2000-01-01: one that is converted again is the same file to a run."""

_REMEDY = "name another directory with data.cache or SERKET_CACHE_DIR"


class ShardCache(Protocol):
    """The place of one conversion."""

    @property
    def location(self) -> str:
        """Its path or URL."""

    def at(self, name: str) -> str:
        """Return the path or URL of a shard."""

    def read_index(self) -> dict[str, Any] | None:
        """Return what :meth:`finish` has written, None if the conversion is not there or not whole."""

    def prepare(self, size: int) -> None:
        """Make the directory above; raise DataError if it is not safe, or has less than `size` bytes left."""

    def locked(self, report: Callable[[str], None]) -> Any:
        """Return a context in which no other process of this machine writes the same conversion."""

    def begin(self) -> None:
        """Make the place for shards that are being written."""

    def target(self, name: str) -> str:
        """Return the path or URL at which a shard is written."""

    def finish(self, names: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
        """Declare the conversion complete; return its index."""

    def abandon(self) -> None:
        """Delete what was written since :meth:`begin`."""


def cache_at(given: str | None, digest: str) -> ShardCache:
    """Return the place of a conversion in a directory or at a URL, by default in the user's cache directory."""
    if given is None:
        base = cache_path() or Path(platformdirs.user_cache_dir("serket-actors"))
        return LocalShards(base / "rows", digest, own=True)
    if is_url(given):
        return RemoteShards(given.rstrip("/"), digest)
    return LocalShards(Path(given), digest, own=False)


@contextmanager
def create_shard(target: str) -> Iterator[IO[bytes]]:
    """Open a new shard for writing; it is on the disk at the end of the context.

    Raises
    ------
    DataError
        If its directory is not there.
    OSError
        If it cannot be written.
    """
    if is_url(target):
        files, path = _open(target)
        try:
            with files.open(path, "wb") as stream:
                yield stream
        except DataError:
            raise
        except Exception as error:  # of any package
            raise _failed(target, "written", error) from None
        return
    if not Path(target).parent.is_dir():
        raise DataError(
            f"{Path(target).parent}: is not there on the node {os.uname().nodename}; set data.cache to a directory or "
            "a URL that all nodes share"
        )
    with Path(target).open("wb") as stream:  # a task that is repeated writes it again
        yield stream
        stream.flush()
        os.fsync(stream.fileno())
    os.utime(target, (_TIME, _TIME))


def _parse(text: bytes) -> dict[str, Any] | None:
    """Return an index, None if it is damaged."""
    try:
        index = json.loads(text)
        shards = [(name, size) for name, size in index["shards"]]
        notes = index["notes"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    names = all(type(name) is str and _SHARD.fullmatch(name) and type(size) is int for name, size in shards)
    whole = names and type(notes) is list and all(type(note) is str for note in notes)
    return {"shards": shards, "notes": notes} if shards and whole else None


def _sizes(locations: Sequence[str]) -> list[int]:
    try:
        return [file_version(location)[0] for location in locations]
    except ModuleError:
        return []


def _written(names: Sequence[str], locate: Callable[[str], str], notes: Sequence[str]) -> dict[str, Any]:
    """Return the index of shards that were written, or raise DataError if not all are there."""
    sizes = _sizes([locate(name) for name in names])
    if len(sizes) != len(names):
        raise DataError(
            f"{locate(names[0])}: a part that was converted is not there; set data.cache to a directory or a URL that "
            "all nodes share"
        )
    return {"shards": list(zip(names, sizes, strict=True)), "notes": list(notes)}


class LocalShards:
    """A directory of a file system.

    Parameters
    ----------
    folder : Path
        The directory of all conversions.
    digest : str
        The name of this one.
    own : bool
        Whether the folder is in the user's cache, into which no other user may write.
    """

    def __init__(self, folder: Path, digest: str, *, own: bool) -> None:
        self._folder = folder
        self._entry = folder / digest
        self._own = own
        self._temporary: Path | None = None

    @property
    def location(self) -> str:
        """The path."""
        return str(self._entry)

    def at(self, name: str) -> str:
        """Return the path of a shard."""
        return str(self._entry / name)

    def read_index(self) -> dict[str, Any] | None:
        """Return the index, None if the conversion is not there or not whole."""
        self._check_safe()
        try:
            with (self._entry / _INDEX).open("rb") as stream:
                index = _parse(stream.read(MAX_SHARD_INDEX_BYTES))
        except OSError:
            return None
        shards = [] if index is None else index["shards"]
        whole = bool(shards) and _sizes([self.at(name) for name, _ in shards]) == [size for _, size in shards]
        return index if whole else None

    def _check_safe(self) -> None:
        if self._own and (reason := why_unsafe(self._entry)):
            raise DataError(f"{self._folder}: rows are not kept there, as {reason}; {_REMEDY}")

    def prepare(self, size: int) -> None:
        """Make the directory above."""
        try:
            if self._own:
                make_private_directory(self._folder)
            else:
                self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise DataError(f"{self._folder}: cannot be used ({error.strerror or error}); {_REMEDY}") from None
        if free < size:
            raise DataError(
                f"{self._folder}: has {format_bytes(free)} left, and the rows need {format_bytes(size)}; free "
                f"some, or {_REMEDY}"
            )

    @contextmanager
    def locked(self, report: Callable[[str], None]) -> Iterator[None]:
        """Let one process write; the others wait.

        The lock saves work, and nothing depends on it: shards are written under a name of their own.
        """
        path = self._entry.with_suffix(".lock")
        lock = FileLock(path, timeout=0)
        try:
            try:
                lock.acquire()
            except Timeout:
                report(f"{self.location}: waiting for another process that converts the same files")
                lock.acquire(timeout=-1)
        except OSError as error:
            raise DataError(f"{path}: cannot be locked ({error.strerror or error}); {_REMEDY}") from None
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
            lock.release()

    def begin(self) -> None:
        """Make the directory of shards that are being written, and delete old ones that were left behind."""
        for stale in self._folder.glob(".*.part"):
            with suppress(OSError):
                if time.time() - stale.stat().st_mtime > STALE_CONVERSION_SECONDS:
                    shutil.rmtree(stale)
        self._temporary = self._folder / f".{self._entry.name}.{uuid.uuid4().hex}.part"
        try:
            self._temporary.mkdir()
        except OSError as error:
            raise DataError(f"{self._folder}: cannot be written ({error.strerror}); {_REMEDY}") from None

    def target(self, name: str) -> str:
        """Return the path at which a shard is written."""
        assert self._temporary is not None
        return str(self._temporary / name)

    def finish(self, names: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
        """Write the index, and give the directory its name."""
        assert self._temporary is not None
        index = _written(names, self.target, notes)
        try:
            with (self._temporary / _INDEX).open("wb") as stream:
                stream.write(json.dumps(index).encode())
                stream.flush()
                os.fsync(stream.fileno())
            if self.read_index() is None:
                shutil.rmtree(self._entry, ignore_errors=True)  # shards of it were deleted or changed
                self._temporary.rename(self._entry)
        except OSError as error:
            if self.read_index() is None:  # no other process was first
                raise DataError(f"{self.location}: cannot be written ({error.strerror}); {_REMEDY}") from None
        self.abandon()
        return index

    def abandon(self) -> None:
        """Delete what was written."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


class RemoteShards:
    """A folder at a URL that fsspec knows.

    Parameters
    ----------
    url : str
        The folder of all conversions.
    digest : str
        The name of this one.
    """

    def __init__(self, url: str, digest: str) -> None:
        self._entry = f"{url}/{digest}"
        self._begun = False

    @property
    def location(self) -> str:
        """The URL."""
        return self._entry

    def at(self, name: str) -> str:
        """Return the URL of a shard."""
        return f"{self._entry}/{name}"

    target = at

    def read_index(self) -> dict[str, Any] | None:
        """Return the index, None if the conversion is not there or not whole."""
        files, path = _open(self.at(_INDEX))
        try:
            text = bytes(files.cat_file(path, start=0, end=MAX_SHARD_INDEX_BYTES))
        except FileNotFoundError:
            return None
        except Exception as error:  # of any package
            raise _failed(self.location, "read", error) from None
        index = _parse(text)
        shards = [] if index is None else index["shards"]
        whole = bool(shards) and _sizes([self.at(name) for name, _ in shards]) == [size for _, size in shards]
        return index if whole else None

    def prepare(self, size: int) -> None:
        """Do nothing: how much space is left is not known."""

    @contextmanager
    def locked(self, report: Callable[[str], None]) -> Iterator[None]:  # noqa: ARG002
        """Lock nothing: processes that convert the same files write the same bytes."""
        yield

    def begin(self) -> None:
        """Make the folder, where there are folders."""
        files, path = _open(self._entry)
        self._begun = True
        try:
            files.makedirs(path, exist_ok=True)
        except Exception as error:  # of any package
            raise _failed(self.location, "written", error) from None

    def finish(self, names: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
        """Write the index, which says that the shards are complete."""
        index = _written(names, self.at, notes)
        files, path = _open(self.at(_INDEX))
        try:
            files.pipe_file(path, json.dumps(index).encode())
        except Exception as error:  # of any package
            raise _failed(self.location, "written", error) from None
        return index

    def abandon(self) -> None:
        """Delete what was written."""
        if self._begun:
            with suppress(Exception):
                files, path = _open(self._entry)
                files.rm(path, recursive=True)


def _open(url: str) -> tuple[Any, str]:
    try:
        return open_url(url)
    except ModuleError as error:
        raise DataError(str(error)) from None


def _failed(url: str, what: str, error: Exception) -> DataError:
    reason = printable_reason(error)
    return DataError(f"{url}: cannot be {what} ({reason}); correct data.cache or the permissions")
