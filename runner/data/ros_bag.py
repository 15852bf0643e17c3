"""A ROS bag, opened by rosbags: only plain message definitions are used, and no part expands without bound."""

from __future__ import annotations

import bz2
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from actors.limits import MAX_BAG_DEFINITION_BYTES, MAX_BAG_METADATA_BYTES, MAX_BAG_TOPICS
from runner.data.errors import DataError
from runner.data.ros import EXTRA, METADATA
from runner.data.tables import expanded_limit
from runner.report.printable import printable_line, printable_reason

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}(/[A-Za-z][A-Za-z0-9_]{0,99}){1,4}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,199}")
_TABLES = ("schema", "metadata", "topics", "message_definitions", "messages")


class BagError(ValueError):
    """What is wrong with a bag; the name of its file is to stand before it."""


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """Open a bag.

    Raises
    ------
    DataError
        If rosbags is not installed.
    BagError
        If the bag is of a kind that is not read.
    """
    try:
        from rosbags import rosbag1, rosbag2
    except ImportError as error:
        raise DataError(
            f"{path}: ROS bags are read by rosbags, which is not installed ({error}); run {EXTRA}"
        ) from None
    if path.is_dir():
        _check_metadata(path / METADATA)
        for file in path.glob("*.db3"):
            _check_database(file)
    elif path.suffix.lower() == ".db3":
        _check_database(path)
    first = path.suffix.lower() == ".bag"
    with _bounded_expansion(), rosbag1.Reader(path) if first else rosbag2.Reader(path) as reader:
        yield Bag(reader, ros1=first)


class Bag:
    """An opened bag.

    Parameters
    ----------
    reader : rosbags.rosbag1.Reader or rosbags.rosbag2.Reader
    ros1 : bool
    """

    def __init__(self, reader: Any, *, ros1: bool) -> None:
        self._reader, self._ros1 = reader, ros1
        self._store: Any = None
        if len(reader.connections) > MAX_BAG_TOPICS:
            raise BagError(f"has {len(reader.connections):,} connections, at most {MAX_BAG_TOPICS:,} are read; cut it")

    @property
    def topics(self) -> dict[str, int]:
        """The number of messages of each topic."""
        counts: dict[str, int] = {}
        for each in self._reader.connections:
            counts[each.topic] = counts.get(each.topic, 0) + int(each.msgcount or 0)
        return dict(sorted(counts.items()))

    def prepare(self, topics: Sequence[str]) -> None:
        """Learn the types of the messages of some topics.

        Raises
        ------
        BagError
            If a definition is missing, or is not one of plain names.
        """
        from rosbags.typesys import Stores, get_typestore

        types: dict[str, Any] = {}
        known = get_typestore(Stores.ROS1_NOETIC if self._ros1 else Stores.LATEST)
        for each in self._connections(topics):
            if not _TYPE.fullmatch(each.msgtype):
                raise BagError(f"the type {printable_line(each.msgtype, 80)} of {each.topic} is no name of a message")
            found = _definitions(each)
            if not found:
                found = _known_definitions(each.msgtype, known)
            types |= found
        self._store = get_typestore(Stores.EMPTY)
        self._store.register({name: ([], fields) for name, (_, fields) in types.items()})

    def messages(self, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
        """Yield topic, time in nanoseconds and message, in the order of the bag."""
        read = self._store.deserialize_ros1 if self._ros1 else self._store.deserialize_cdr
        for connection, time, data in self._reader.messages(connections=self._connections(topics)):
            yield connection.topic, time, read(data, connection.msgtype)

    def _connections(self, topics: Sequence[str]) -> list[Any]:
        return [each for each in self._reader.connections if each.topic in topics]


def _definitions(connection: Any) -> dict[str, Any]:
    """Return the message definitions that a bag has of a connection; empty if it has none."""
    from rosbags.interfaces import MessageDefinitionFormat
    from rosbags.typesys import get_types_from_idl, get_types_from_msg

    kind, text = connection.msgdef.format, connection.msgdef.data
    if kind == MessageDefinitionFormat.NONE:
        return {}
    if len(text) > MAX_BAG_DEFINITION_BYTES:
        raise BagError(f"the definition of {connection.msgtype} has {len(text):,} characters, which no message needs")
    types: dict[str, Any] = {}
    if kind == MessageDefinitionFormat.MSG:
        types |= get_types_from_msg(text, connection.msgtype)
    else:
        line = "=" * 80 + "\n"
        parts = text.split(line)[1:] if text.startswith(f"{line}IDL: ") else [text]
        for part in parts:
            types |= get_types_from_idl(part.partition("\n")[2] if part.startswith("IDL: ") else part)
    for name, (_, fields) in types.items():
        if not _TYPE.fullmatch(name) or not all(_FIELD.fullmatch(each) and _is_plain(kind) for each, kind in fields):
            raise BagError(f"the definition of {printable_line(name, 80)} is not one of plain names")
    return types


def _is_plain(kind: Any) -> bool:
    """Return whether a field's type consists of numbers and names of types."""
    what, inner = int(kind[0]), kind[1]
    if what == 1:  # a basic type, with the limit of a text
        return bool(re.fullmatch(r"[a-z]+[0-9]*", str(inner[0]))) and type(inner[1]) is int
    if what == 2:  # the name of a type
        return isinstance(inner, str) and bool(_TYPE.fullmatch(inner))
    return what in (3, 4) and type(inner[1]) is int and _is_plain(inner[0])


def _known_definitions(name: str, known: Any) -> dict[str, Any]:
    """Return the definition of a type of ROS itself, and of all types in it."""
    if name not in known.fielddefs:
        raise BagError(f"has no definition of {printable_line(name, 80)}; record it as MCAP, which has all definitions")
    found: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found[each] = known.fielddefs[each]
            waiting += [inner for _, kind in found[each][1] for inner in _names_in(kind)]
    return found


def _names_in(kind: Any) -> Iterator[str]:
    if int(kind[0]) == 2:
        yield kind[1]
    elif int(kind[0]) in (3, 4):
        yield from _names_in(kind[1][0])


# --- what a stranger's bag may not do -------------------------------------------------------------------------------


def _check_metadata(path: Path) -> None:
    """Check that the description of a ROS 2 bag is small, and that its files are not compressed as a whole."""
    if path.stat().st_size > MAX_BAG_METADATA_BYTES:
        raise BagError(f"its {METADATA} has more than {MAX_BAG_METADATA_BYTES >> 20} MB; record it again")
    text = path.read_text(errors="replace")
    if re.search(r"compression_mode['\"]?\s*:\s*['\"]?file", text, re.IGNORECASE):
        raise BagError("its files are compressed as a whole; unpack them with ros2 bag convert, or record MCAP")


def _check_database(path: Path) -> None:
    """Check that a database consists of plain tables: a view or a computed column may take any time to read."""
    connection = sqlite3.connect(f"file:{path.resolve()}?mode=ro&immutable=1", uri=True)
    try:
        rows = connection.execute("SELECT type, name, sql FROM sqlite_master LIMIT 1000").fetchall()
    except sqlite3.Error as error:
        raise BagError(f"is damaged or no ROS bag ({printable_reason(error)}); record it again") from None
    finally:
        connection.close()
    for kind, name, sql in rows:
        plain = kind == "table" and re.match(r"CREATE TABLE\b", str(sql)) and not re.search(r"\bAS\b", str(sql), re.I)
        if not (plain or (kind == "index" and (sql is None or "(" in sql))):
            raise BagError(f"its database has {kind} {printable_line(name, 80)}, which no ROS bag has; record it again")


@contextmanager
def _bounded_expansion() -> Iterator[None]:
    """Bound what compressed parts of a bag expand to while it is read, as for other data files."""
    from lz4.frame import LZ4FrameDecompressor

    names = ("rosbags.rosbag1.reader", "rosbags.rosbag2.reader", "rosbags.rosbag2.storage_mcap")
    ros1, ros2, mcap = [cast("Any", import_module(name)) for name in names]

    zstd = ros2.zstd
    made: dict[str, Callable[[], Any]] = {
        "bz2": bz2.BZ2Decompressor,
        "lz4": LZ4FrameDecompressor,
        "zstd": zstd.ZstdDecompressor,
    }

    def bounded(name: str) -> Callable[..., bytes]:
        return lambda data, *_size: _expand(made[name](), bytes(data))

    class Zstd:
        """Stands for the module within rosbags."""

        decompress = staticmethod(bounded("zstd"))

    before = dict(ros1.decompressors), dict(mcap.DECOMPRESSORS), ros2.zstd
    for table in (ros1.decompressors, mcap.DECOMPRESSORS):
        table.update({name: bounded(name) for name in made if name in table})
    ros2.zstd = Zstd
    try:
        yield
    finally:
        ros1.decompressors.update(before[0])
        mcap.DECOMPRESSORS.update(before[1])
        ros2.zstd = before[2]


def _expand(decompressor: Any, data: bytes) -> bytes:
    limit = expanded_limit(len(data))
    expanded: bytes = decompressor.decompress(data, max_length=limit + 1)
    if len(expanded) > limit or not decompressor.eof:
        raise BagError(
            f"a part of {len(data):,} bytes expands to more than {limit:,}, or is cut off; record it uncompressed"
        )
    return expanded
