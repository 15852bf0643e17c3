"""Checkpoints: every module's state, outputs and messages on disk, and the manifest that makes them a commit.

A commit's files are written first, each by the process of the module that they belong to; the manifest, which names
them with their digests, is written last and appears in one step. A directory without a manifest is no commit. Files are
safetensors (states and outputs) and message documents; nothing is pickled. Where they lie is the storage's business
(:mod:`actors.storage.filesystem`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from actors.errors import CheckpointError, MessageError
from actors.messaging.codec import decode
from actors.messaging.message import Message
from actors.storage.filesystem import storage_at
from actors.storage.manifest import (
    MANIFEST,
    MAX_BYTES,
    NAME,
    FileRecord,
    Manifest,
    ModuleRecord,
    commits_among,
    needed,
    pack_manifest,
    position,
    unpack_manifest,
)
from actors.storage.state_codec import unpack_state
from actors.storage.status_files import Notes
from actors.types import Array, State


class Checkpoints:
    """The commits of one run.

    Parameters
    ----------
    root : path or str
        The run's ``checkpoints`` directory, or a URL (:func:`actors.storage.filesystem.storage_at`).
    keep : int, optional
        How many of the newest commits stay; all of them by default.

    Attributes
    ----------
    notes : Notes
        What the run's coordinator leaves beside them.

    Raises
    ------
    StorageError
        If the URL cannot be used here.
    ValueError
        If `keep` is less than one.
    """

    def __init__(self, root: str | os.PathLike[str], keep: int | None = None) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep={keep}: at least the newest commit has to be kept")
        self.keep = keep
        self._storage = storage_at(root)
        self.notes = Notes(self._storage)
        self._last: tuple[int, float] | None = None

    @property
    def root(self) -> Path | str:
        """Where the commits lie: a path where they are local, else a URL."""
        return self._storage.root

    def commit(self, manifest: Manifest) -> None:
        """Make the files that `manifest` names a commit, in one step; then delete what is not to be kept.

        Raises
        ------
        OSError
            If the storage cannot write or delete; names the file.
        ValueError
            If the manifest's name is none of a commit.
        """
        where = position(manifest.name)
        self._storage.write(f"{manifest.name}/{MANIFEST}", pack_manifest(manifest))
        if self._last is None or where <= self._last:
            # The run may have gone back behind commits that were damaged; the one just made is the newest.
            self._delete_manifests(name for name in self.names() if position(name) > where)
        self._last = where
        if self.keep is not None:
            self._prune(manifest, self.keep)

    def names(self) -> list[str]:
        """Return the names of all commits, oldest first; those within a round come before the whole round."""
        return commits_among(self._storage.files(MANIFEST))

    def manifest(self, name: str) -> Manifest:
        """Read the manifest of the commit `name`.

        Raises
        ------
        CheckpointError
            If it is missing, damaged or of another version.
        """
        where = self._storage.where(f"{name}/{MANIFEST}")
        try:
            data = self._storage.read(f"{name}/{MANIFEST}", MAX_BYTES + 1)
        except OSError as error:
            raise CheckpointError(f"{where}: no readable manifest ({error.strerror})") from error
        if len(data) > MAX_BYTES:
            raise CheckpointError(f"{where}: no readable manifest (it has more than {MAX_BYTES >> 20} MiB)")
        manifest = unpack_manifest(data, where)
        if manifest.name != name:
            raise CheckpointError(f"{where}: the manifest of another commit, {manifest.name}")
        return manifest

    def latest(self) -> Manifest | None:
        """Return the newest commit, or None where there is none yet; its files are not looked at.

        Raises
        ------
        CheckpointError
            If its manifest is damaged.
        """
        names = self.names()
        return self.manifest(names[-1]) if names else None

    def newest_whole(self, tell: Callable[[str], None]) -> Manifest | None:
        """Return the newest commit of which every file is whole, or None where there is no commit at all.

        Parameters
        ----------
        tell : callable
            Receives a sentence for each newer commit: which of its files is damaged, and where the run goes back to.

        Raises
        ------
        CheckpointError
            If there are commits and none is whole; says what is wrong with each.
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
            for newer, what in damaged.items():
                tell(f"{what}; the run goes back from commit {newer} to {name}")
            return manifest
        if names:
            raise CheckpointError(f"{self.root}: no commit is whole: {'; '.join(dict.fromkeys(damaged.values()))}")
        return None

    def verify(self, manifest: Manifest) -> None:
        """Read every file that a manifest names.

        Raises
        ------
        CheckpointError
            If one is missing or damaged; names it.
        """
        for file in needed(manifest).values():
            self.read(file)

    def state(self, manifest: Manifest, module: str) -> State:
        """Return the state of `module` in a commit."""
        return self.part(manifest.modules[module], "state")

    def outputs(self, manifest: Manifest, module: str) -> dict[str, Array]:
        """Return the outputs of `module` in a commit."""
        return self.part(manifest.modules[module], "outputs")

    def messages(self, manifest: Manifest, module: str) -> dict[str, Message]:
        """Return the messages that `module` had sent at a commit, by slot."""
        record = manifest.modules[module]
        slots = record.slots
        return {slot: self.message(record, slot) for slot in slots}

    def part(self, record: ModuleRecord, label: str) -> State:
        """Return a module's ``state`` or ``outputs``."""
        file = record.files[label]
        return unpack_state(self.read(file), self._storage.where(file.path))

    def message(self, record: ModuleRecord, slot: str) -> Message:
        """Return the message that a module had sent from `slot`."""
        file = record.files[f"message:{slot}"]
        try:
            return decode(self.read(file))
        except MessageError as error:
            raise CheckpointError(f"{self._storage.where(file.path)}: {error}") from error

    def read(self, record: FileRecord) -> bytes:
        """Return the contents of a file.

        Raises
        ------
        CheckpointError
            If it is missing, or not what its record says; names it.
        """
        where = self._storage.where(record.path)
        try:
            data = self._storage.read(record.path, record.size + 1)  # whoever made it longer gets no memory for it
        except OSError as error:
            raise CheckpointError(f"{where}: cannot be read ({error.strerror})") from error
        if len(data) != record.size:
            came = f"{len(data)} bytes" if len(data) < record.size else "more bytes than that"
            raise CheckpointError(f"{where}: damaged, the manifest says {record.size} bytes and it has {came}")
        if hashlib.sha256(data).hexdigest() != record.digest:
            raise CheckpointError(f"{where}: damaged, its contents are not what the manifest says")
        return data

    def _delete_manifests(self, names: Iterable[str]) -> None:
        self._storage.delete([f"{name}/{MANIFEST}" for name in names])

    def _prune(self, newest: Manifest, keep: int) -> None:
        """Delete all but the newest commits and what they need, and what a pruning that was stopped had left.

        What is newer than the newest commit is being written, and stays.
        """

        def passed(name: str) -> bool:
            return bool(NAME.fullmatch(name)) and position(name) < position(newest.name)

        there = self._storage.files()
        kept, dropped, files = 1, [], set(needed(newest))
        unreadable: set[str] = set()
        for name in reversed([name for name in commits_among(there) if passed(name)]):
            if kept == keep:
                dropped.append(name)
                continue
            try:
                files.update(needed(self.manifest(name)))
                kept += 1
            except CheckpointError:
                unreadable.add(name)  # none to count on, and what it needs nobody knows; whoever resumes is told of it
        self._delete_manifests(dropped)  # first of all, for half a commit with a manifest would be a damaged one
        unneeded, used = [], set()
        for path in there:
            directory, _, file = path.partition("/")
            if file == MANIFEST and directory in dropped:
                continue
            if not passed(directory) or directory in unreadable or path in files or file == MANIFEST:
                used.add(directory)
            else:
                unneeded.append(path)
        self._storage.delete(unneeded)
        for directory in self._storage.directories():
            if passed(directory) and directory not in used:
                self._storage.delete_directory(directory)
