"""Chunks: a fixed number of rows each, cut from the messages that a module receives."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.errors import MessageError
from actors.limits import STRETCH_ROWS
from actors.messaging.codec import describe
from actors.messaging.kinds import KINDS
from actors.messaging.message import ArrayHeader, Header, Message
from actors.messaging.stored_rows import StoredRows
from actors.module import Inbox
from actors.types import Array, FloatArray, IntArray


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
        """Return the extent of one of `workers`, each of which holds about as many chunks as the others.

        They are equal parts, or differ by up to 3 % of one at either end where that leaves fewer nodes of the tree
        (:mod:`actors.kernels.chunk_tree`), whose sums workers send.
        """
        return replace(self, first=self._cut(worker, workers), last=self._cut(worker + 1, workers))

    def _cut(self, worker: int, workers: int) -> int:
        """Return the first chunk of a worker: of those near the equal part, the multiple of the largest power of 2."""
        equal, margin = self.chunks * worker // workers, self.chunks // (32 * workers)
        near = range(equal - margin, equal + margin + 1) if 0 < worker < workers else (equal,)
        return max(near, key=lambda chunk: (chunk & -chunk, -abs(chunk - equal)))

    @property
    def start(self) -> int:
        """The worker's first row."""
        return self.first * self.size

    @property
    def stop(self) -> int:
        """The row after the worker's last one."""
        return min(self.last * self.size, self.rows)

    def stretches(self) -> list[Extent]:
        """Return the worker's chunks in stretches, which are answered one after the other.

        A stretch has at most :data:`actors.limits.STRETCH_ROWS` rows, or one chunk. It begins at a fixed chunk number,
        or where the worker's chunks begin.
        """
        length = 1 << max(0, (STRETCH_ROWS // self.size).bit_length() - 1)
        inner = range((self.first // length + 1) * length, self.last, length)
        return [replace(self, first=a, last=b) for a, b in pairwise((self.first, *inner, self.last))]

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
        What each of the module's scans has brought into the chunk by now
        (:meth:`actors.sharing.contract.ShardedModule.scans`).
    memo : dict of str to object
        What the module wants to find again when it gets the chunk in a later pass of the same call, such as
        normalisers of the rows. It may be empty at any time, and it stays in memory, so keep it small.
    rooms : RowRooms, optional
        Memory for what the response returns of all rows, so that it need not be copied there.
    """

    inbox: Inbox
    index: int
    rows: slice
    total: int
    continued: bool = False
    continues: bool = False
    entering: Mapping[str, Any] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)
    rooms: RowRooms | None = None

    def room(self, name: str, columns: int, dtype: npt.DTypeLike = np.float64) -> Array | None:
        """Return memory (N, columns) for what the response returns of the chunk's rows, the same for a name.

        What is returned as it lies there, with whatever shape of a row, need not be copied to that of other chunks.
        None where rows are too many.
        """
        return None if self.rooms is None else self.rooms.of(name, columns, self.rows, dtype)

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def lengths(self) -> Array | None:
        """Lengths of the pieces of sequences in the chunk; None if all rows, of all chunks, are one sequence."""
        return next((message.lengths for message in self.inbox if message.lengths is not None), None)


class RowRooms:
    """Memory for arrays of all rows of a worker.

    Parameters
    ----------
    extent : Extent
    """

    def __init__(self, extent: Extent) -> None:
        self._start, self._rows = extent.start, extent.stop - extent.start
        self._arrays: dict[tuple[str, int, npt.DTypeLike], Array] = {}

    def of(self, name: str, columns: int, rows: slice, dtype: npt.DTypeLike = np.float64) -> Array:
        """Return the part of some rows."""
        whole = self._arrays.get((name, columns, dtype))
        if whole is None:
            whole = self._arrays[name, columns, dtype] = np.empty((self._rows, columns), dtype)
        return whole[rows.start - self._start : rows.stop - self._start]

    def holding(self, array: Array, rows: slice) -> Array | None:
        """Return the array of all rows of which an array is the part of some rows; None if there is none."""
        if not array.flags.c_contiguous:
            return None
        for whole in self._arrays.values():
            part = whole[rows.start - self._start : rows.stop - self._start]
            if part.size == array.size and is_same_memory(array.reshape(part.shape), part):
                return whole.reshape(self._rows, *array.shape[1:])
        return None


def is_same_memory(one: Array, other: Array) -> bool:
    """Return whether two arrays are the same values in the same memory."""
    return (one.shape, one.strides, one.dtype, one.ctypes.data) == (
        other.shape,
        other.strides,
        other.dtype,
        other.ctypes.data,
    )


class MessageParts:
    """A message to a worker in parts, as it came; its rows are joined chunk by chunk alone.

    Parameters
    ----------
    parts : sequence of (Message, int)
        In the order of the rows, without gaps, each with the number of its first row among all rows.
    """

    def __init__(self, parts: Sequence[tuple[Message, int]]) -> None:
        self._parts = list(parts)
        self._firsts = [first for _, first in self._parts]
        self.header = self._parts[0][0].header
        self.start = self._firsts[0]
        self.stop = self._firsts[-1] + row_count(self._parts[-1][0])

    def cut(self, rows: slice, lengths: Array | None) -> Message:
        """Return the message with the given rows only, and the lengths of their sequences."""
        at, last = self._parts_with(rows)
        chosen = self._parts[at:last]
        if len(chosen) == 1:
            return _cut(*chosen[0], rows, lengths)
        ends = [*self._firsts[at + 1 : last], rows.stop]
        within = [
            _cut(message, first, slice(max(first, rows.start), end), None)
            for (message, first), end in zip(chosen, ends, strict=True)
        ]
        return join_messages(within, lengths)

    def has_whole(self, rows: slice) -> bool:
        """Return whether rows are all in one part, so that they are not copied."""
        at, last = self._parts_with(rows)
        return last == at + 1

    def _parts_with(self, rows: slice) -> tuple[int, int]:
        """Return the first part with some of the rows, and the part after the last one."""
        at = bisect_right(self._firsts, rows.start) - 1
        return at, max(at + 1, bisect_left(self._firsts, rows.stop))


class ShardRows:
    """The rows that one worker holds of the messages to its module, chunk by chunk.

    Parameters
    ----------
    messages : sequence of (Message, int) or MessageParts
        The messages, each with the number of its first row among all rows, or in parts. Each has at least the worker's
        rows.
    extent : Extent
    sequence_starts : ndarray of int64, shape (S,), optional
        The rows, among all, at which sequences begin; None if all rows are one sequence.

    Raises
    ------
    MessageError
        If a message lacks rows of the worker.
    """

    def __init__(
        self,
        messages: Sequence[tuple[Message, int] | MessageParts],
        extent: Extent,
        sequence_starts: IntArray | None = None,
    ) -> None:
        self.extent = extent
        self._messages = [each if isinstance(each, MessageParts) else MessageParts([each]) for each in messages]
        self._starts = sequence_starts
        for message in self._messages:
            if message.start > extent.start or message.stop < extent.stop:
                raise MessageError(
                    f"{message.header.route}: rows {message.start} to {message.stop} came, {extent.start} to "
                    f"{extent.stop} are needed"
                )

    def continued(self, stretch: Extent) -> bool:
        """Return whether the first row of a stretch of the worker continues a sequence of the rows before."""
        return not self._opens(stretch.start)

    def lengths(self, stretch: Extent) -> Array | None:
        """Return the lengths of the pieces of sequences in a stretch; None if all rows are one sequence."""
        return self._pieces(slice(stretch.start, stretch.stop))

    def chunk(
        self,
        index: int,
        entering: Mapping[str, Any] | None = None,
        memo: dict[str, Any] | None = None,
        rooms: RowRooms | None = None,
    ) -> Chunk:
        """Return a chunk of the worker."""
        rows = self.extent.rows_of(index)
        return Chunk(
            inbox=Inbox(self.messages(index)),
            index=index,
            rows=rows,
            total=self.extent.rows,
            continued=not self._opens(rows.start),
            continues=not self._opens(rows.stop),
            entering={} if entering is None else entering,
            memo={} if memo is None else memo,
            rooms=rooms,
        )

    def messages(self, index: int) -> list[Message]:
        """Return the messages with the rows of a chunk."""
        rows = self.extent.rows_of(index)
        lengths = self._pieces(rows)
        return [message.cut(rows, lengths) for message in self._messages]

    def has_whole(self, index: int) -> bool:
        """Return whether the rows of a chunk are parts of what came, and not copies."""
        rows = self.extent.rows_of(index)
        return all(message.has_whole(rows) for message in self._messages)

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


def row_count_in(kind: str, arrays: Mapping[str, Any]) -> int:
    """Return the number of rows of the arrays of a message of this kind, which may not be valid yet; 0 if unknown."""
    named = rows_of_kind(kind)
    return max((len(each) for name, each in arrays.items() if name in named and np.ndim(each)), default=0)


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
    """The arrays of a message in parts, each of which a worker of its sender has computed from some of its rows.

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
    continues : bool
        Whether the sequence of the last row goes on in a part that is left out.
    """

    parts: tuple[Any, ...]
    first_rows: tuple[int, ...]
    continued: tuple[bool, ...]
    continues: bool = field(default=False, kw_only=True)

    def overlapping(self, start: int, stop: int) -> ShardedArrays:
        """Return the parts with rows from `start` to `stop` - 1."""
        ends = (*self.first_rows[1:], float("inf"))
        chosen = [n for n, (a, b) in enumerate(zip(self.first_rows, ends, strict=True)) if a < stop and b > start]
        select = slice(chosen[0], chosen[-1] + 1)
        continues = (*self.continued[1:], self.continues)[chosen[-1]]
        return ShardedArrays(self.parts[select], self.first_rows[select], self.continued[select], continues=continues)


def flatten(objects: Sequence[Any]) -> tuple[tuple[ShardedArrays | None, ...], list[Any]]:
    """Return the objects with those in parts replaced by their parts, and what :func:`restore` needs to undo it.

    Ray resolves references only where they are arguments themselves.
    """
    layout = tuple(
        replace(each, parts=(None,) * len(each.parts)) if isinstance(each, ShardedArrays) else None for each in objects
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


def one_part(
    header: Header, arrays: Mapping[str, Array | StoredRows] | ShardedArrays
) -> tuple[Header, Mapping[str, Array | StoredRows] | ShardedArrays]:
    """Return the header and arrays of one part of a message in parts, or of one row where rows are on disk.

    Other messages are returned as they are.
    """
    part = arrays.parts[0] if isinstance(arrays, ShardedArrays) else arrays
    if any(isinstance(array, StoredRows) for array in part.values()):
        named = rows_of_kind(header.kind)
        part = {name: array[:1] if name in named else array for name, array in part.items() if name != "lengths"}
    return (header, arrays) if part is arrays else (replace(header, arrays=describe(part)), part)


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


@dataclass(frozen=True)
class OutputNames:
    """What parts of the outputs of a module are joined to; other outputs are the same in every part.

    Parameters
    ----------
    rows : tuple of str
        Outputs with a row for each row of the part.
    sequences : tuple of str
        Outputs with a row for each piece of a sequence in each chunk (:func:`add_pieces`).
    samples : tuple of str
        Outputs with those rows of the part that are in the sample of kept rows, and the numbers of these rows.
    """

    rows: tuple[str, ...] = ()
    sequences: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()

    def join(self, name: str, parts: Sequence[Any]) -> Any:
        """Return an output of all rows, from those of the parts."""
        if name in self.sequences:
            return add_pieces(parts)
        if len(parts) == 1 or name not in (*self.rows, *self.samples):
            return parts[0]
        return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class ShardedOutputs(ShardedArrays, Mapping[str, Any]):
    """The outputs of a module in parts.

    Where the parts are here, and not references, it is a mapping too; an output is joined when it is asked for.

    Parameters
    ----------
    names : OutputNames
    total : int
        Number of all rows.
    """

    names: OutputNames = field(default_factory=OutputNames)
    total: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.names.join(name, [part[name] for part in self.parts])

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts[0])

    def __len__(self) -> int:
        return len(self.parts[0])

    def by_part(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the number of each part's first row, and its outputs."""
        yield from zip(self.first_rows, self.parts, strict=True)


def add_pieces(parts: Sequence[FloatArray]) -> FloatArray:
    """Return the sums (S,) over sequences, from those over their pieces in all chunks.

    `parts` have a row for each piece, in the order of the rows: its sum, and whether it begins a sequence. They are
    added here and not in the workers, whose number would change the bits.
    """
    pieces = np.concatenate(parts)
    sums: FloatArray = np.add.reduceat(pieces[:, 0], np.flatnonzero(pieces[:, 1]))
    return sums


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
