"""Chunks: a fixed number of rows each, cut from the messages that a module receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from actors.errors import MessageError
from actors.messaging.codec import describe
from actors.messaging.kinds import KINDS
from actors.messaging.message import ArrayHeader, Header, Message
from actors.messaging.stored_rows import StoredRows
from actors.module import Inbox
from actors.types import Array, IntArray


@dataclass(frozen=True)
class Extent:
    """Which rows there are, and which of them a worker holds.

    Parameters
    ----------
    rows : int
        Number of all rows, N.
    size : int
        Number of rows of a chunk; the last chunk may have fewer.
    first, last : int
        The worker holds the chunks from `first` to `last` - 1.
    """

    rows: int
    size: int
    first: int = 0
    last: int = 0

    @property
    def chunks(self) -> int:
        """Number of all chunks."""
        return -(-self.rows // self.size)

    def part(self, worker: int, workers: int) -> Extent:
        """Return the extent of one of `workers`, each of which holds as many chunks as the others or one more."""
        return replace(self, first=self.chunks * worker // workers, last=self.chunks * (worker + 1) // workers)

    @property
    def start(self) -> int:
        """The worker's first row."""
        return self.first * self.size

    @property
    def stop(self) -> int:
        """The row after the worker's last one."""
        return min(self.last * self.size, self.rows)

    def rows_of(self, chunk: int) -> slice:
        """Return the rows of a chunk, among all rows."""
        return slice(chunk * self.size, min((chunk + 1) * self.size, self.rows))


@dataclass(frozen=True)
class Chunk:
    """The rows of one chunk.

    Attributes
    ----------
    inbox : Inbox
        The module's messages, with the chunk's rows only. ``lengths`` are those of the pieces of sequences in the
        chunk; arrays without rows are whole.
    index : int
        Number of the chunk, from 0.
    rows : slice
        The chunk's rows, among all rows.
    total : int
        Number of all rows.
    continued : bool
        Whether the chunk's first row continues a sequence of the chunk before.
    continues : bool
        Whether the chunk's last row is continued by the chunk after.
    entering : mapping of str to object
        What each of the module's scans brings into the chunk (:meth:`actors.sharing.contract.ShardedModule.scans`).
    memo : dict of str to object
        What the module wants to find again when it gets the chunk in a later pass of the same call, such as
        normalisers of the rows. It may be empty at any time, and it stays in memory, so keep it small.
    """

    inbox: Inbox
    index: int
    rows: slice
    total: int
    continued: bool = False
    continues: bool = False
    entering: Mapping[str, Any] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def lengths(self) -> Array | None:
        """Lengths of the pieces of sequences in the chunk; None if all rows, of all chunks, are one sequence."""
        return next((message.lengths for message in self.inbox if message.lengths is not None), None)


class ShardRows:
    """The rows that one worker holds of the messages to its module, chunk by chunk.

    Parameters
    ----------
    messages : sequence of (Message, int)
        The messages, each with the number of its first row among all rows. Each has at least the worker's rows.
    extent : Extent
    sequence_starts : ndarray of int64, shape (S,), optional
        The rows, among all, at which sequences begin; None if all rows are one sequence.

    Raises
    ------
    MessageError
        If a message lacks rows of the worker.
    """

    def __init__(
        self, messages: Sequence[tuple[Message, int]], extent: Extent, sequence_starts: IntArray | None = None
    ) -> None:
        self.extent = extent
        self._messages = list(messages)
        self._starts = sequence_starts
        for message, first in self._messages:
            count = row_count(message)
            if first > extent.start or first + count < extent.stop:
                raise MessageError(
                    f"{message.header.route}: rows {first} to {first + count} came, {extent.start} to {extent.stop} "
                    "are needed"
                )

    @property
    def continued(self) -> bool:
        """Whether the worker's first row continues a sequence of the worker before."""
        return not self._opens(self.extent.start)

    @cached_property
    def lengths(self) -> Array | None:
        """Lengths of the pieces of sequences among the worker's rows; None if all rows are one sequence."""
        return self._pieces(slice(self.extent.start, self.extent.stop))

    def chunk(self, index: int, entering: Mapping[str, Any] | None = None, memo: dict[str, Any] | None = None) -> Chunk:
        """Return a chunk of the worker."""
        rows = self.extent.rows_of(index)
        return Chunk(
            inbox=Inbox(self.messages(index)),
            index=index,
            rows=rows,
            total=self.extent.rows,
            continued=not self._opens(rows.start),
            continues=not self._opens(rows.stop),
            entering=entering or {},
            memo={} if memo is None else memo,
        )

    def messages(self, index: int) -> list[Message]:
        """Return the messages with the rows of a chunk."""
        rows = self.extent.rows_of(index)
        lengths = self._pieces(rows)
        return [_cut(message, first, rows, lengths) for message, first in self._messages]

    def sample(self, chunks: Sequence[int]) -> list[Message]:
        """Return the messages with the rows of several chunks, in ascending order."""
        parts = [self.messages(index) for index in chunks]
        pieces = [(own[0].lengths, row_count(own[0])) for own in parts]
        continued = [
            n > 0 and chunks[n - 1] + 1 == index and not self._opens(self.extent.rows_of(index).start)
            for n, index in enumerate(chunks)
        ]
        lengths = sampled_lengths(pieces, continued)
        return [join_messages(of_one, lengths) for of_one in zip(*parts, strict=True)]

    def _opens(self, row: int) -> bool:
        """Return whether a sequence begins at `row`, or the rows end there."""
        if row in (0, self.extent.rows):
            return True
        if self._starts is None:
            return False
        at = int(np.searchsorted(self._starts, row))
        return at < len(self._starts) and int(self._starts[at]) == row

    def _pieces(self, rows: slice) -> Array | None:
        if self._starts is None:
            return None
        inner = self._starts[
            np.searchsorted(self._starts, rows.start, "right") : np.searchsorted(self._starts, rows.stop)
        ]
        return np.diff(np.concatenate([[rows.start], inner, [rows.stop]])).astype(np.int64)


def rows_of_kind(kind: str) -> frozenset[str]:
    """Return the names of the arrays of a message of this kind whose first dimension is the rows."""
    return frozenset(spec.name for spec in KINDS[kind].arrays if spec.dims[0] == "N")


def row_count(message: Message) -> int:
    """Return the number of rows of a message."""
    named = rows_of_kind(message.header.kind)
    return next(len(array) for name, array in message.arrays.items() if name in named)


def join_messages(parts: Sequence[Message], lengths: Array | None) -> Message:
    """Return the message whose rows are those of `parts`, in their order.

    Parameters
    ----------
    parts : sequence of Message
        With equal arrays, apart from the rows.
    lengths : ndarray of int64, optional
        Lengths of the sequences of all rows; None if they are one sequence.
    """
    named = rows_of_kind(parts[0].header.kind)
    arrays: dict[str, Array | StoredRows] = {
        name: np.concatenate([part[name] for part in parts]) if name in named else array
        for name, array in parts[0].arrays.items()
        if name != "lengths"
    }
    return _with(parts[0], arrays, lengths)


def _cut(message: Message, first: int, rows: slice, lengths: Array | None) -> Message:
    """Return a message with the given rows only; `first` is the number of its first row."""
    named, inside = rows_of_kind(message.header.kind), slice(rows.start - first, rows.stop - first)
    arrays = {
        name: array[inside] if name in named else array for name, array in message.arrays.items() if name != "lengths"
    }
    return _with(message, arrays, lengths)


def _with(message: Message, arrays: dict[str, Array | StoredRows], lengths: Array | None) -> Message:
    if lengths is not None:
        arrays["lengths"] = lengths
    return Message(replace(message.header, arrays=describe(arrays)), arrays)


@dataclass(frozen=True)
class ShardedArrays:
    """The arrays of a message in parts: what each worker of its sender has computed from its rows.

    Stands for the arrays of one message wherever references to them are passed on. Its parts are references too, or the
    arrays themselves.

    Parameters
    ----------
    parts : tuple
        In the order of the rows.
    first_rows : tuple of int
        The number of each part's first row.
    continued : tuple of bool
        Whether a part's first row continues a sequence of the part before.
    """

    parts: tuple[Any, ...]
    first_rows: tuple[int, ...]
    continued: tuple[bool, ...]

    def overlapping(self, start: int, stop: int) -> ShardedArrays:
        """Return the parts with rows from `start` to `stop` - 1, and the beginning of the part after them, if any."""
        ends = (*self.first_rows[1:], float("inf"))
        chosen = [n for n, (a, b) in enumerate(zip(self.first_rows, ends, strict=True)) if a < stop and b > start]
        select = slice(chosen[0], chosen[-1] + 1)
        return ShardedArrays(self.parts[select], self.first_rows[select], self.continued[select])

    def opens(self, row: int) -> bool | None:
        """Return whether a sequence begins at the first row of a part; None if `row` is no such row."""
        return not self.continued[self.first_rows.index(row)] if row in self.first_rows else None


def flatten(objects: Sequence[Any]) -> tuple[tuple[ShardedArrays | None, ...], list[Any]]:
    """Return the objects with those in parts replaced by their parts, and what :func:`restore` needs to undo it.

    Ray resolves references only where they are arguments themselves.
    """
    layout = tuple(
        ShardedArrays((None,) * len(each.parts), each.first_rows, each.continued)
        if isinstance(each, ShardedArrays)
        else None
        for each in objects
    )
    flat = [part for each in objects for part in (each.parts if isinstance(each, ShardedArrays) else (each,))]
    return layout, flat


def restore(layout: Sequence[ShardedArrays | None], flat: Sequence[Any]) -> list[Any]:
    """Return the objects that :func:`flatten` was given."""
    parts = iter(flat)
    return [
        next(parts) if each is None else replace(each, parts=tuple(next(parts) for _ in each.parts)) for each in layout
    ]


def sampled_lengths(parts: Sequence[tuple[Array | None, int]], continued: Sequence[bool]) -> Array | None:
    """Return the lengths of the sequences in a sample of chunks; None if it is one sequence of a whole.

    Parameters
    ----------
    parts : sequence of (ndarray or None, int)
        For each chunk the lengths of its pieces, None if all rows of all chunks are one sequence, and its rows.
    continued : sequence of bool
        Whether a chunk's first row continues a sequence of the chunk before it in the sample.
    """
    pieces = [np.array([rows]) if lengths is None else lengths for lengths, rows in parts]
    joined = joined_lengths(pieces, continued)
    return None if parts[0][0] is None and len(joined) == 1 else joined


def joined_lengths(parts: Sequence[Array], continued: Sequence[bool]) -> Array:
    """Return the lengths of the sequences whose pieces in neighbouring parts are given."""
    lengths: list[int] = []
    for pieces, follows in zip(parts, continued, strict=True):
        own = pieces.tolist()
        if follows and lengths:
            lengths[-1] += own.pop(0)
        lengths += own
    return np.array(lengths, dtype=np.int64)


def whole_arrays(
    kind: str, arrays: Mapping[str, Array | StoredRows] | ShardedArrays
) -> Mapping[str, Array | StoredRows]:
    """Return the arrays of a whole message, which may be in parts."""
    return join_arrays(kind, arrays) if isinstance(arrays, ShardedArrays) else arrays


def join_arrays(kind: str, sharded: ShardedArrays) -> dict[str, Array]:
    """Return the arrays of a whole message from those of its parts."""
    named, first = rows_of_kind(kind), sharded.parts[0]
    return {
        name: joined_lengths([part[name] for part in sharded.parts], sharded.continued)
        if name == "lengths"
        else np.concatenate([part[name] for part in sharded.parts])
        if name in named
        else array
        for name, array in first.items()
    }


def join_headers(headers: Sequence[Header], continued: Sequence[bool]) -> Header:
    """Return the header of a whole message from those of its parts."""
    named = rows_of_kind(headers[0].kind)

    def joined(number: int, array: ArrayHeader) -> ArrayHeader:
        count = sum(header.arrays[number].shape[0] for header in headers) if array.shape else 0
        if array.name == "lengths":
            return replace(array, shape=(count - sum(continued[1:]),))
        return replace(array, shape=(count, *array.shape[1:])) if array.name in named else array

    return replace(headers[0], arrays=tuple(joined(n, array) for n, array in enumerate(headers[0].arrays)))


def row_count_of(header: Header) -> int:
    """Return the number of rows that a message has by its header."""
    named = rows_of_kind(header.kind)
    return next(array.shape[0] for array in header.arrays if array.name in named)


def join_references(
    headers: Sequence[Header], parts: Sequence[Any], first_rows: Sequence[int], continued: Sequence[bool]
) -> tuple[Header, Any]:
    """Return the header of a message and what stands for its arrays, from those of its parts."""
    if len(parts) == 1:
        return headers[0], parts[0]
    return join_headers(headers, continued), ShardedArrays(tuple(parts), tuple(first_rows), tuple(continued))
