"""A disk that loses power: stands in for ``os`` in :mod:`actors.storage.filesystem` and forgets what was never synced.

Every call that changes the disk is an *operation*. Operations are carried out as they come, and beside that the disk
keeps what would be left of them: a file's contents as of its last sync, and a directory's names as of its own. Nothing
is really synced, which makes a run of hundreds of operations a matter of milliseconds.
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from actors.storage import filesystem as storage

LOST, LEFT, MIXED = "lost", "left", "mixed"
OUTCOMES = (LOST, LEFT, MIXED)
"""What becomes of names (creations, renames, deletions) that were not synced: undone, done, or each by chance."""


class PowerCut(BaseException):
    """The machine is off; nothing that runs on it can catch that."""


class File:
    """A file whatever its name: what it holds, and what of that is on the disk (None: nothing to rely on)."""

    def __init__(self, contents=b"", durable=None):
        self.contents, self.durable = contents, durable


class Directory:
    """A directory: the names in it, and those that are on the disk."""

    def __init__(self, entries=(), durable=()):
        self.entries, self.durable = dict(entries), dict(durable)


class Disk:
    """What ``os`` is to the storage of files, below `root`; ends with a :class:`PowerCut` at operation `cut`.

    `root` is there, made if need be, and what is in it has been there for long.
    """

    def __init__(self, root, cut=None):
        self.root, self.cut = Path(root), cut
        self.root.mkdir(exist_ok=True)
        self.operations = 0
        self.tree = self._found(self.root)
        self._open = {}

    def __getattr__(self, name):
        return getattr(os, name)

    def _found(self, path):
        if path.is_dir():
            entries = {child.name: self._found(child) for child in path.iterdir()}
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
            raise PowerCut  # and again, for whatever tries to tidy up
        self.operations += 1

    def open(self, path, flags, mode=0o777):
        if flags & os.O_CREAT:
            self._operation()
        descriptor = os.open(path, flags, mode)
        if flags & os.O_CREAT:
            self._entries(path)[Path(path).name] = File()
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
        node = self._open[descriptor]
        if isinstance(node, File):
            node.durable = node.contents
        else:
            node.durable = dict(node.entries)

    def replace(self, source, target):
        self._operation()
        os.replace(source, target)
        self._entries(target)[Path(target).name] = self._entries(source).pop(Path(source).name)

    def mkdir(self, path, mode=0o777):
        self._operation()
        os.mkdir(path, mode)
        self._entries(path)[Path(path).name] = Directory()

    def unlink(self, path):
        self._operation()
        os.unlink(path)
        del self._entries(path)[Path(path).name]

    def rmdir(self, path):
        self._operation()
        os.rmdir(path)
        del self._entries(path)[Path(path).name]

    def restart(self, target, outcome):
        """Write what is there after the cut into the new directory `target`."""
        chance = np.random.default_rng(self.operations)
        self._leave(self.tree, Path(target), outcome, chance)

    def _leave(self, node, path, outcome, chance):
        if isinstance(node, File):
            path.write_bytes(node.contents if node.durable == node.contents else _garbled(node))
            return
        path.mkdir()
        for name in sorted(node.entries.keys() | node.durable.keys()):
            sides = {LOST: node.durable, LEFT: node.entries}
            side = sides[outcome] if outcome != MIXED else sides[LEFT if chance.random() < 0.5 else LOST]
            if name in side:
                self._leave(side[name], path / name, outcome, chance)


def _garbled(file):
    """Return what is in a file that was not synced: as much as was synced, then zeros in place of half the rest."""
    whole = file.durable or b""
    return whole + bytes((len(file.contents) - len(whole)) // 2)


@contextmanager
def power(disk):
    """Let :mod:`actors.storage.filesystem` write to a :class:`Disk`; its :class:`PowerCut` ends the context quietly.

    It may be entered again with ``disk.cut = None``: then it was the process that died, and the machine went on.
    """
    storage.os = disk
    storage._settled.clear()  # a process of its own
    try:
        yield
    except PowerCut:
        pass
    finally:
        storage.os = os
        for descriptor in list(disk._open):
            disk.close(descriptor)


def remains(disk, place, outcomes=OUTCOMES):
    """Yield, for each outcome, its name and a directory with what the disk holds once the machine is on again."""
    for outcome in outcomes:
        target = Path(place) / outcome
        disk.restart(target, outcome)
        yield outcome, target
        shutil.rmtree(target)
