"""The file in which a run is handed to somebody else: a zip archive without compression, with SHA-256 digests.

Without compression an archive cannot expand to more than its own size. Its first member, :data:`CONTENTS`, lists the
others with their sizes and digests. A reader refuses everything else: links, directories, compressed, encrypted or
overlapping members, names that lead out of a directory, two members of one name, and members that the list lacks.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from actors.limits import (
    MAX_COMMIT_FILE_BYTES,
    MAX_EXPORT_BYTES,
    MAX_EXPORT_FILES,
    MAX_EXPORT_INDEX_BYTES,
    MAX_MANIFEST_ENTRIES,
    MAX_RUN_FILE_BYTES,
)
from actors.storage.field_checks import check_integer, check_mapping, check_text
from actors.storage.safe_files import open_file, open_root, parse_json, split_path
from runner.report.printable import printable_line, printable_reason
from runner.runs.run_files import RunDirectoryError

CONTENTS = "serket-export.json"
"""The first member: format, versions, and the size and digest of each other member."""

FORMAT = 1
_DEPTH = 3
_BLOCK = MAX_EXPORT_INDEX_BYTES
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIME = (1980, 1, 1, 0, 0, 0)


class ExportError(RunDirectoryError):
    """An exported file cannot be written, or is not one that can be imported; names the file and the remedy."""


class Member(NamedTuple):
    """A file of an archive: its size in bytes and its SHA-256 digest."""

    size: int
    digest: str


def write_archive(path: Path, head: Mapping[str, Any], files: Mapping[str, bytes]) -> int:
    """Write an archive that does not exist yet, and return its size; equal contents give equal bytes.

    Raises
    ------
    ExportError
        If the file exists, if it cannot be written, or if there are too many files.
    """
    if len(files) > MAX_EXPORT_FILES:
        raise ExportError(f"{path}: {len(files):,} files are to be exported, at most {MAX_EXPORT_FILES:,} can be")
    members = {name: {"size": len(data), "digest": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    contents = json.dumps({"format": FORMAT, **head, "files": members}, indent=1).encode()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    if os.path.lexists(path):
        raise ExportError(f"{path}: exists already; give another name, or delete it")
    try:
        with part.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, data in {CONTENTS: contents, **files}.items():
                    archive.writestr(zipfile.ZipInfo(name, _TIME), data)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # fails if there is a file meanwhile
        return path.stat().st_size
    except FileExistsError:
        raise ExportError(f"{path}: exists already; give another name, or delete it") from None
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror}); give another place") from None
    finally:
        with suppress(OSError):
            part.unlink()


class Archive:
    """An archive that is open for reading; see :func:`open_archive`.

    Attributes
    ----------
    head : dict
        What :func:`write_archive` was given as `head`, unchecked.
    members : dict of str to Member
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, size: int) -> None:
        self._path, self._archive = path, archive
        infos = archive.infolist()
        self._check_members(infos, size)
        try:
            content = dict(check_mapping(parse_json(self._read_whole(infos[0])), CONTENTS, MAX_MANIFEST_ENTRIES))
            if content.pop("format", None) != FORMAT:
                raise ValueError("it is of another format; export the run again with this version")
            self.members = _read_members(content.pop("files", None))
        except ValueError as error:
            raise self.refused(printable_reason(error)) from None
        if set(self.members) != {info.filename for info in infos[1:]}:
            raise self.refused(f"its files are not those that {CONTENTS} lists")
        self.head: dict[str, Any] = content

    def refused(self, reason: str) -> ExportError:
        """Return the error that this archive is not imported."""
        return ExportError(f"{self._path}: is not imported: {reason}; ask for a new export")

    def _check_members(self, infos: list[zipfile.ZipInfo], size: int) -> None:
        """Refuse members that are no plain files of this archive alone, before any of them is read."""
        if not infos or infos[0].filename != CONTENTS or infos[0].file_size > MAX_RUN_FILE_BYTES:
            raise self.refused("it is no file that serket export wrote")
        if len(infos) > MAX_EXPORT_FILES + 1:
            raise self.refused(f"it has more than {MAX_EXPORT_FILES:,} files")
        seen = set()
        for info in infos:
            shown = printable_line(info.filename, 60)
            kind = stat.S_IFMT(info.external_attr >> 16)
            try:
                split_path(info.orig_filename, _DEPTH)
            except OSError:
                raise self.refused(f"{shown!r} is not the name of a file of a run") from None
            if kind not in (0, stat.S_IFREG) or info.is_dir():
                raise self.refused(f"{shown} is a link, a directory or a device")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
                raise self.refused(f"{shown} is compressed or encrypted")
            if info.filename in seen:
                raise self.refused(f"{shown} is there twice")
            seen.add(info.filename)
        if sum(info.file_size for info in infos) > size:
            raise self.refused("its files overlap")

    def blocks(self, name: str) -> Iterator[bytes]:
        """Yield the contents of a member in blocks; the last one only if size and digest are those of the list.

        Raises
        ------
        ExportError
            If they are not.
        """
        member, digest, size = self.members[name], hashlib.sha256(), 0
        before = b""
        try:
            with self._archive.open(name) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
                    if before:
                        yield before
                    before = block
        except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
            raise self.refused(f"{printable_line(name)} is damaged ({printable_reason(error)})") from None
        if (size, digest.hexdigest()) != member:
            raise self.refused(f"{printable_line(name)} is damaged, its digest is not the one in {CONTENTS}")
        yield before

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the contents of a member.

        Raises
        ------
        ExportError
            If there is none, or if it is too large or damaged.
        """
        if name not in self.members:
            raise self.refused(f"it holds no {name}")
        if self.members[name].size > max_bytes:
            raise self.refused(f"{name} has {self.members[name].size:,} bytes, at most {max_bytes:,} are read")
        return b"".join(self.blocks(name))

    def _read_whole(self, info: zipfile.ZipInfo) -> bytes:
        try:
            with self._archive.open(info) as stream:
                return b"".join(iter(lambda: stream.read(_BLOCK), b""))
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise self.refused(f"it is damaged ({printable_reason(error)})") from None


def _read_members(given: Any) -> dict[str, Member]:
    """Return the members of the list of an archive.

    Raises
    ------
    ValueError
        If it is not valid.
    """
    members = {}
    for name, entry in check_mapping(given, "files", MAX_EXPORT_FILES).items():
        fields = check_mapping(entry, "files", 2)
        size = check_integer(fields.get("size"), "size", high=MAX_COMMIT_FILE_BYTES)
        digest = check_text(fields.get("digest"), "digest")
        if not _DIGEST.fullmatch(digest):
            raise ValueError("a digest is not valid")
        members[name] = Member(size, digest)
    return members


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive that :func:`write_archive` wrote, and check everything but the contents of its files.

    Raises
    ------
    ExportError
        If there is no such file, or if it is not such an archive.
    """
    try:
        directory = open_root(path.absolute().parent.resolve())
        try:
            descriptor = open_file(directory, path.name)
        finally:
            os.close(directory)
    except FileNotFoundError:
        raise ExportError(f"{path}: there is no such file; give one that serket export wrote") from None
    except OSError as error:
        raise ExportError(
            f"{path}: cannot be opened ({error.strerror}); give a file that serket export wrote"
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > MAX_EXPORT_BYTES:
            raise ExportError(
                f"{path}: has {size:,} bytes, at most {MAX_EXPORT_BYTES:,} are read; copy the run instead"
            )
        try:
            archive = zipfile.ZipFile(_BoundedReads(file))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeError) as error:
            reason = printable_reason(error)
            raise ExportError(f"{path}: is no file that serket export wrote ({reason}); ask for another one") from None
        with archive:
            yield Archive(path, archive, size)


class _BoundedReads:
    """A file for zipfile, which reads the list of members at once, as long as the file says that it is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, by default the rest; refuse more than a list of members may have."""
        data = b"" if size > MAX_EXPORT_INDEX_BYTES else self._stream.read(size if size >= 0 else _BLOCK + 1)
        if max(size, len(data)) > MAX_EXPORT_INDEX_BYTES:
            raise ValueError("its list of files is too long")
        return data

    def close(self) -> None:
        """Leave the file open; it is closed by its own block."""
