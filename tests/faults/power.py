"""A simulated disk that loses power: replaces ``os`` in :mod:`actors.storage.filesystem` and loses unsynced changes.

Every call that changes the disk is an *operation*. Operations are executed, and the simulator also records what would
remain of them: the contents of each file at its last sync, and the names in each directory at its last sync. Nothing is
really synced, so that a run of hundreds of operations takes milliseconds.
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from actors.storage import filesystem

LOST, KEPT, MIXED = "lost", "kept", "mixed"
OUTCOMES = (LOST, KEPT, MIXED)
"""Outcomes for names (creations, renames, deletions) that were not synced: all lost, all kept, or each at random."""


class PowerCut(BaseException):
    """The machine has lost power; code under test must not catch this exception."""


class File:
    """The contents of a file, and the contents at its last sync (None if it was never synced)."""

    def __init__(self, contents=b"", durable=None):
        self.contents, self.durable = contents, durable


class Directory:
    """The entries of a directory, and the entries at its last sync."""

    def __init__(self, entries=(), durable=()):
        self.entries, self.durable = dict(entries), dict(durable)


class Disk:
    """A replacement of ``os`` for files below `root`, which raises :class:`PowerCut` from operation `cut` on.

    `root` is created if it does not exist; its present contents count as synced.
    """

    def __init__(self, root, cut=None):
        self.root, self.cut = Path(root), cut
        self.root.mkdir(exist_ok=True)
        self.operations = 0
        self.tree = self._scan(self.root)
        self._open = {}

    def __getattr__(self, name):
        return getattr(os, name)

    def _scan(self, path):
        if path.is_dir():
            entries = {child.name: self._scan(child) for child in path.iterdir()}
            return Directory(entries, entries)
        return File(path.read_bytes(), path.read_bytes())

    def _at(self, path):
        if not Path(path).is_relative_to(self.root):
            return Directory()
        node = self.tree
        for name in Path(path).relative_to(self.root).parts:
            node = node.entries[name]
        return node

    def _entries(self, path):
        return self._at(Path(path).parent).entries

    def _operation(self):
        if self.cut is not None and self.operations >= self.cut:
            raise PowerCut  # again for every later operation, such as a cleanup
        self.operations += 1

    @staticmethod
    def _path(path, directory=None):
        """Return the path of a call that may be relative to a directory's descriptor."""
        return Path(path) if directory is None else Path(os.readlink(f"/proc/self/fd/{directory}"), path)

    def open(self, path, flags, mode=0o777, *, dir_fd=None):
        path = self._path(path, dir_fd)
        if flags & os.O_CREAT:
            self._operation()
        descriptor = os.open(path, flags, mode)
        if flags & os.O_CREAT:
            self._entries(path)[path.name] = File()
        self._open[descriptor] = self._at(path)
        return descriptor

    def close(self, descriptor):
        self._open.pop(descriptor, None)
        os.close(descriptor)

    def write(self, descriptor, data):
        self._operation()
        written = os.write(descriptor, data)
        self._open[descriptor].contents += bytes(data[:written])
        return written

    def fsync(self, descriptor):
        self._operation()
        node = self._open.get(descriptor) or self._at(os.readlink(f"/proc/self/fd/{descriptor}"))
        if isinstance(node, File):
            node.durable = node.contents
        else:
            node.durable = dict(node.entries)

    def replace(self, source, target, *, src_dir_fd=None, dst_dir_fd=None):
        self._operation()
        source, target = self._path(source, src_dir_fd), self._path(target, dst_dir_fd)
        os.replace(source, target)
        self._entries(target)[target.name] = self._entries(source).pop(source.name)

    def mkdir(self, path, mode=0o777, *, dir_fd=None):
        self._operation()
        path = self._path(path, dir_fd)
        os.mkdir(path, mode)
        self._entries(path)[path.name] = Directory()

    def unlink(self, path, *, dir_fd=None):
        self._operation()
        path = self._path(path, dir_fd)
        os.unlink(path)
        del self._entries(path)[path.name]

    def rmdir(self, path, *, dir_fd=None):
        self._operation()
        path = self._path(path, dir_fd)
        os.rmdir(path)
        del self._entries(path)[path.name]

    def restart(self, target, outcome):
        """Write the contents of the disk after the power cut to the new directory `target`."""
        generator = np.random.default_rng(self.operations)
        self._restore(self.tree, Path(target), outcome, generator)

    def _restore(self, node, path, outcome, generator):
        if isinstance(node, File):
            path.write_bytes(node.contents if node.durable == node.contents else _unsynced_contents(node))
            return
        path.mkdir()
        for name in sorted(node.entries.keys() | node.durable.keys()):
            sides = {LOST: node.durable, KEPT: node.entries}
            side = sides[outcome] if outcome != MIXED else sides[KEPT if generator.random() < 0.5 else LOST]
            if name in side:
                self._restore(side[name], path / name, outcome, generator)


def _unsynced_contents(file):
    """Return the contents of an unsynced file after the power cut: the synced part, then zeros for half of the rest."""
    synced = file.durable or b""
    return synced + bytes((len(file.contents) - len(synced)) // 2)


@contextmanager
def power(disk):
    """Make :mod:`actors.storage.filesystem` write to a :class:`Disk`; a :class:`PowerCut` ends the context silently.

    To simulate the death of a process instead of the machine, enter the context again with ``disk.cut = None``.
    """
    filesystem.os = disk
    filesystem._durable.clear()  # as in a new process
    try:
        yield
    except PowerCut:
        pass
    finally:
        filesystem.os = os
        for descriptor in list(disk._open):
            disk.close(descriptor)


def remains(disk, directory, outcomes=OUTCOMES):
    """Yield each outcome and a temporary directory with the contents of the disk after the restart."""
    for outcome in outcomes:
        target = Path(directory) / outcome
        disk.restart(target, outcome)
        yield outcome, target
        shutil.rmtree(target)
