"""Checkpoints: commits of every module's state, outputs and messages.

The files of a commit are written first, each by the process of its module. The manifest, which lists them with their
digests, is written last and atomically; a directory without a manifest is not a commit. The files are safetensors
(states and outputs) and message documents; nothing is pickled. :mod:`actors.storage.filesystem` reads and writes them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import psutil

from actors.errors import CheckpointError, MessageError
from actors.limits import MAX_MANIFEST_BYTES, READ_BLOCK_BYTES
from actors.messaging.codec import decode
from actors.messaging.message import Message
from actors.sharing.chunks import join_arrays
from actors.storage.filesystem import storage_at
from actors.storage.manifest import (
    COMMIT_NAME,
    MANIFEST,
    FileRecord,
    Manifest,
    ModuleRecord,
    commit_names,
    commit_order,
    files_of,
    pack_manifest,
    unpack_manifest,
)
from actors.storage.parts import CommittedOutputs, PartIndex, joined_header, split_record
from actors.storage.state_codec import unpack_state
from actors.storage.status_files import StatusFiles
from actors.types import Array, State


class Checkpoints:
    """The commits of one run.

    Parameters
    ----------
    root : path or str
        The run's ``checkpoints`` directory, or a URL (:func:`actors.storage.filesystem.storage_at`).
    keep : int, optional
        Number of newest commits to keep; all by default.
    modules : collection of str, optional
        The modules of the model; a commit of any other module is refused.

    Attributes
    ----------
    status_files : StatusFiles
        The files that the run's coordinator writes beside the commits.

    Raises
    ------
    StorageError
        If the URL cannot be used on this machine.
    ValueError
        If `keep` is less than one.
    """

    def __init__(
        self, root: str | os.PathLike[str], keep: int | None = None, *, modules: Collection[str] | None = None
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep={keep}: expected at least 1, the newest commit is always kept")
        self.keep = keep
        self._modules = modules
        self._storage = storage_at(root)
        self.status_files = StatusFiles(self._storage)
        self._last_order: tuple[int, float] | None = None
        self._listed: dict[str, tuple[bytes, frozenset[str]]] = {}  # see _listed_files; of the commits that are kept

    @property
    def root(self) -> Path | str:
        """Location of the commits: a path on a local file system, else a URL."""
        return self._storage.root

    def commit(self, manifest: Manifest) -> None:
        """Commit the files that `manifest` lists, atomically; then delete the commits beyond the number to keep.

        Raises
        ------
        OSError
            If the storage cannot write or delete; names the file.
        ValueError
            If the manifest's name is not the name of a commit.
        """
        order = commit_order(manifest.name)
        self._storage.write(f"{manifest.name}/{MANIFEST}", pack_manifest(manifest))
        if self._last_order is None or order <= self._last_order:
            # The run may have resumed from before damaged commits; this commit is the newest now.
            self._delete_manifests(name for name in self.names() if commit_order(name) > order)
        self._last_order = order
        if self.keep is not None:
            self._prune(manifest, self.keep)

    def names(self) -> list[str]:
        """Return the names of all commits, oldest first; those within a round come before the complete round.

        Raises
        ------
        CheckpointError
            If they cannot be listed.
        """
        try:
            return commit_names(self._storage.files(MANIFEST))
        except OSError as error:
            raise CheckpointError(f"{self.root}: the commits cannot be listed ({error.strerror})") from error

    def manifest(self, name: str) -> Manifest:
        """Read the manifest of the commit `name`.

        Raises
        ------
        CheckpointError
            If it is missing, damaged or of another version.
        """
        return self._parse_manifest(name, self._read_manifest(name))

    def _read_manifest(self, name: str) -> bytes:
        location = self._storage.location(f"{name}/{MANIFEST}")
        try:
            data = self._storage.read(f"{name}/{MANIFEST}", MAX_MANIFEST_BYTES + 1)
        except OSError as error:
            raise CheckpointError(f"{location}: the manifest is not readable ({error.strerror})") from error
        if len(data) > MAX_MANIFEST_BYTES:
            raise CheckpointError(
                f"{location}: the manifest is not readable (it is larger than {MAX_MANIFEST_BYTES >> 20} MiB)"
            )
        return data

    def _parse_manifest(self, name: str, data: bytes) -> Manifest:
        location = self._storage.location(f"{name}/{MANIFEST}")
        manifest = unpack_manifest(data, location)
        if manifest.name != name:
            raise CheckpointError(f"{location}: contains the manifest of another commit, {manifest.name}")
        other = () if self._modules is None else [name for name in manifest.modules if name not in self._modules]
        if other:
            raise CheckpointError(f"{location}: lists a module that the run's config does not have, {other[0]}")
        return manifest

    def latest(self) -> Manifest | None:
        """Return the manifest of the newest commit without checking its files, or None if there is no commit.

        Raises
        ------
        CheckpointError
            If its manifest is damaged.
        """
        names = self.names()
        return self.manifest(names[-1]) if names else None

    def newest_whole(self, log: Callable[[str], None]) -> Manifest | None:
        """Return the manifest of the newest commit whose files are all intact, or None if there is no commit.

        Parameters
        ----------
        log : callable
            Called with a message for each newer commit: its damaged file, and the commit from which the run resumes.

        Raises
        ------
        CheckpointError
            If there are commits and none is intact; names the damage of each.
        """
        damaged: dict[str, str] = {}
        names = self.names()
        for name in reversed(names):
            try:
                manifest = self.manifest(name)
                self.verify(manifest)
            except CheckpointError as error:
                damaged[name] = str(error)
                continue
            for newer, reason in damaged.items():
                log(f"{reason}; the run goes back from commit {newer} to {name}")
            return manifest
        if names:
            raise CheckpointError(f"{self.root}: no commit is intact: {'; '.join(dict.fromkeys(damaged.values()))}")
        return None

    def verify(self, manifest: Manifest) -> None:
        """Check every file that a manifest lists.

        Raises
        ------
        CheckpointError
            If one is missing or damaged; names it.
        """
        for file in files_of(manifest).values():
            digest, size = hashlib.sha256(), 0
            try:
                for block in self._storage.blocks(file.path, file.size + 1):
                    digest.update(block)
                    size += len(block)
            except OSError as error:
                raise self._unreadable(file, error) from error
            self._compare(file, size, digest.hexdigest())

    def state(self, manifest: Manifest, module: str) -> State:
        """Return the state of `module` in a commit."""
        return self.load(manifest.modules[module], "state")

    def outputs(self, manifest: Manifest, module: str) -> Mapping[str, Array]:
        """Return the outputs of `module` in a commit; of those in parts, each is read when it is asked for."""
        record = manifest.modules[module]
        files = record.parts_of("outputs")
        if not files:
            return self.load(record, "outputs")

        def read(file: FileRecord) -> State:
            return unpack_state(self.read(file), self._storage.location(file.path))

        return CommittedOutputs(read, files, self.index(record))

    def index(self, record: ModuleRecord) -> PartIndex:
        """Return where the parts of a module's outputs and messages begin."""
        file = self._file(record, "parts")
        try:
            return PartIndex.unpack(self.load(record, "parts"))
        except CheckpointError as error:
            raise CheckpointError(f"{self._storage.location(file.path)}: {error}") from error

    def messages(self, manifest: Manifest, module: str) -> dict[str, Message]:
        """Return the messages that `module` had sent before a commit, by slot."""
        record = manifest.modules[module]
        return {slot: self.message(record, slot) for slot in record.slots}

    def load(self, record: ModuleRecord, label: str) -> State:
        """Return a module's arrays and scalars; `label` is ``state`` or ``outputs``."""
        file = self._file(record, label)
        return unpack_state(self.read(file), self._storage.location(file.path))

    def read_label(self, record: ModuleRecord, label: str) -> bytes:
        """Return the contents of a module's file that is called `label`."""
        return self.read(self._file(record, label))

    def message(self, record: ModuleRecord, slot: str) -> Message:
        """Return the message that a module had sent from `slot`."""
        files = record.parts_of(f"message:{slot}")
        if files:
            parts = [self.message(each, slot) for each in split_record(record)[1:] if slot in each.slots]
            joined = self.index(record).sharded(f"message:{slot}", [part.arrays for part in parts])
            header = joined_header(slot, [part.header for part in parts], joined)
            return Message(header, join_arrays(header.kind, joined))
        file = self._file(record, f"message:{slot}")
        try:
            return decode(self.read(file))
        except MessageError as error:
            raise CheckpointError(f"{self._storage.location(file.path)}: {error}") from error

    def read(self, record: FileRecord) -> bytes:
        """Return the contents of a file.

        Raises
        ------
        CheckpointError
            If it is missing, if its size or digest differs from the record, or if it does not fit into memory; names
            it.
        """
        if record.size > READ_BLOCK_BYTES and record.size > psutil.virtual_memory().available:
            reason = f"{record.size} bytes do not fit into the memory that is free on this machine"
            raise CheckpointError(f"{self._storage.location(record.path)}: cannot be read ({reason})")
        try:
            # One byte more shows that a file is too long without reading all of it into memory.
            data = self._storage.read(record.path, record.size + 1)
        except OSError as error:
            raise self._unreadable(record, error) from error
        self._compare(record, len(data), hashlib.sha256(data).hexdigest() if len(data) == record.size else "")
        return data

    def _file(self, record: ModuleRecord, label: str) -> FileRecord:
        """Return the file of a module's record that is called `label`."""
        if label not in record.files:
            raise CheckpointError(f"{self.root}: the manifest of a commit lists no {label} of a module that it lists")
        return record.files[label]

    def _unreadable(self, record: FileRecord, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self._storage.location(record.path)}: cannot be read ({error.strerror})")

    def _compare(self, record: FileRecord, size: int, digest: str) -> None:
        """Raise an error if the size or the digest of a file differs from its record; a file may have more bytes."""
        location = self._storage.location(record.path)
        if size != record.size:
            found = f"{size} bytes" if size < record.size else "more"
            raise CheckpointError(f"{location}: damaged, the manifest lists {record.size} bytes, the file has {found}")
        if digest != record.digest:
            raise CheckpointError(f"{location}: damaged, the contents do not match the digest in the manifest")

    def _listed_files(self, name: str, known: tuple[bytes, frozenset[str]] | None) -> tuple[bytes, frozenset[str]]:
        """Return the digest of a manifest and the paths that it lists; parsed only if it is not the known one.

        All manifests that are kept are read again in each round, and most of a round's garbage came from parsing them.
        """
        data = self._read_manifest(name)
        digest = hashlib.sha256(data).digest()
        if known is not None and known[0] == digest:
            return known
        return digest, frozenset(files_of(self._parse_manifest(name, data)))

    def _delete_manifests(self, names: Iterable[str]) -> None:
        self._storage.delete([f"{name}/{MANIFEST}" for name in names])

    def _prune(self, newest: Manifest, keep: int) -> None:
        """Delete all but the newest commits and the files that they need, and the rest of an interrupted pruning.

        Files of a commit after the newest are being written, and stay.
        """

        def is_older(name: str) -> bool:
            return bool(COMMIT_NAME.fullmatch(name)) and commit_order(name) < commit_order(newest.name)

        paths = self._storage.files()
        kept, dropped, needed = 1, [], set(files_of(newest))
        unreadable: set[str] = set()
        listed, self._listed = self._listed, {}
        for name in reversed([name for name in commit_names(paths) if is_older(name)]):
            if kept == keep:
                dropped.append(name)
                continue
            try:
                self._listed[name] = self._listed_files(name, listed.get(name))
                needed.update(self._listed[name][1])
                kept += 1
            except CheckpointError:
                unreadable.add(name)  # does not count as kept; its files stay, and resuming reports the damage
        self._delete_manifests(dropped)  # first, since a manifest with only part of its files is a damaged commit
        unneeded, used = [], set()
        for path in paths:
            directory, _, file = path.partition("/")
            if file == MANIFEST and directory in dropped:
                continue
            if not is_older(directory) or directory in unreadable or path in needed or file == MANIFEST:
                used.add(directory)
            else:
                unneeded.append(path)
        self._storage.delete(unneeded)
        for directory in self._storage.directories():
            if is_older(directory) and directory not in used:
                self._storage.delete_directory(directory)
