"""One update of a module whose rows are divided among workers: the part of one worker, and that of the first one.

Values of chunks travel between workers as :data:`Parts`: those of the largest nodes of the fixed tree that lie within a
worker's chunks (:mod:`actors.kernels.chunk_tree`), at most 2 log₂ of the number of chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np

from actors.errors import ModuleError
from actors.kernels.chunk_tree import Node, combine_below, covering_nodes, descend_from, root_of
from actors.kernels.row_sample import spread_rows
from actors.limits import MAX_WHOLE_ROWS, SAMPLED_OUTPUT_ROWS
from actors.module import Context, OutgoingMessage
from actors.sharing.chunks import (
    Chunk,
    Extent,
    OutputNames,
    RowRooms,
    ShardRows,
    is_same_memory,
    rows_of_kind,
)
from actors.types import Array, FloatArray, State

if TYPE_CHECKING:
    from actors.sharing.contract import ShardedModule

T = TypeVar("T")

Statistics: TypeAlias = Mapping[str, Array]
"""Sums over rows, by name: arrays that have the same shapes for every chunk, of float64 or, where a module says so, of
float32 (:attr:`actors.sharing.contract.ShardedModule.float32_statistics`)."""

NOTHING: Mapping[str, Any] = {}
"""The statistics of a chunk that takes no part in a pass."""

Parts: TypeAlias = Mapping[Node, T]
"""Values of nodes of the tree."""

Entering: TypeAlias = Mapping[str, Parts[Any]]
"""What each scan brings into the nodes of one worker, by scan."""


class ShardAnswer(NamedTuple):
    """Messages and outputs for a stretch of rows, and the sums over its chunks of the metrics."""

    messages: tuple[OutgoingMessage, ...]
    outputs: Mapping[str, Array]
    metrics: Parts[Mapping[str, float]]


class Shard:
    """One worker's part of an update.

    Parameters
    ----------
    module : ShardedModule
        The worker's own instance.
    rows : ShardRows
    context : Context
        Of the update.
    unsent : collection of (str, str)
        Port and receiver of messages that are not to be sent.
    """

    def __init__(
        self, module: ShardedModule[Any], rows: ShardRows, context: Context, unsent: Collection[tuple[str, str]] = ()
    ) -> None:
        self.module = module
        self.rows = rows
        self.context = context
        self._unsent = frozenset(unsent)
        self._summaries: dict[str, dict[Node, Mapping[str, Any]]] = {}
        self._entered: dict[int, dict[str, Any]] = {}
        self._memos: dict[int, dict[str, Any]] = {}
        self._chunks: dict[int, Chunk] = {}
        # Not for several stretches, since the memory of all of them would be held.
        self._rooms = RowRooms(rows.extent) if len(rows.extent.stretches()) == 1 else None

    @property
    def extent(self) -> Extent:
        """Which rows this worker holds."""
        return self.rows.extent

    def summarise(self, scan: str, learnt: State, sweep: int, entering: Entering) -> Parts[Mapping[str, Any]]:
        """Return the summaries of a scan; `entering` is of the scans before it."""
        if self.extent.chunks == 1:
            return {}
        self.enter(entering)
        keep = self._summaries[scan] = {}
        return self._combined(
            lambda chunk, context: self.module.summarise(scan, chunk, learnt, context),
            lambda left, right: self.module.combine(scan, left, right),
            sweep,
            keep=keep,
        )

    def accumulate(self, learnt: State, sweep: int, entering: Entering) -> Parts[Statistics]:
        """Return the sums of one pass."""
        self.enter(entering)

        single = self.module.float32_statistics

        def one(chunk: Chunk, context: Context) -> Statistics:
            given = self.module.accumulate(chunk, learnt, context)
            return {
                name: np.asarray(value, np.float32 if name in single else np.float64) for name, value in given.items()
            }

        context, own = self.context.within(sweep=sweep), range(self.extent.first, self.extent.last)
        selected = [self.module.selects(index, self.extent, learnt, context) for index in own]
        return self._combined(one, merging(self.module), sweep, selected=selected)

    def respond(self, learnt: State, sweep: int, entering: Entering, stretch: Extent | None = None) -> ShardAnswer:
        """Return messages and outputs of the chunks of a stretch, by default all of the worker's, joined.

        What scans bring stays for the stretches after the one that it is given with.
        """
        self.enter(entering)
        extent = self.extent if stretch is None else stretch
        collected = _Collected(self.rows, extent, self.module, self._rooms)

        def one(chunk: Chunk, context: Context) -> Mapping[str, float]:
            outbox = self.module.respond(chunk, learnt, context)
            sent = [each for each in outbox.messages if (each.port, each.receiver) not in self._unsent]
            collected.add(chunk, sent, outbox.outputs, kind_of=self._kind_of)
            return outbox.metrics

        metrics = self._combined(one, _add_numbers, sweep, extent=extent)
        return ShardAnswer(collected.messages(), collected.outputs(), metrics)

    def sample(self, chunks: Sequence[int]) -> list[Chunk]:
        """Return those of the given chunks that this worker holds."""
        return [self.rows.chunk(c) for c in chunks if self.extent.first <= c < self.extent.last]

    def _combined(
        self,
        one: Callable[[Chunk, Context], T],
        combine: Callable[[T, T], T],
        sweep: int,
        *,
        keep: dict[Node, T] | None = None,
        selected: Sequence[bool] | None = None,
        extent: Extent | None = None,
    ) -> dict[Node, T]:
        """Return the values of the nodes of `extent`, by default this worker's, from the value of `one` for each chunk.

        `selected` says which of its chunks take part; the value of nodes without any of these is NOTHING.
        """
        extent = extent or self.extent
        chunks, first = extent.chunks, extent.first
        before = None if selected is None else list(accumulate(selected, initial=0))

        def value_of(node: Node) -> T | None:
            if before is not None:
                start, end = (node[1] << node[0]) - first, min((node[1] + 1) << node[0], chunks) - first
                if before[start] == before[end]:
                    return cast("T", NOTHING)
            if node[0] > 0:
                return None
            return one(self._chunk(node[1]), self.context.within(sweep=sweep, chunk=node[1]))

        nodes = covering_nodes(extent.first, extent.last, chunks)
        return {node: combine_below(node, chunks, value_of, combine, keep) for node in nodes}

    def enter(self, entering: Entering) -> None:
        """Divide what the scans bring into this worker's nodes among its chunks."""
        for scan, parts in entering.items():

            def visit(node: Node, brought: Any, scan: str = scan) -> bool:
                if node[0] == 0:
                    self._entered.setdefault(node[1], {})[scan] = brought
                return True

            def descend(brought: Any, left: Any, right: Any, scan: str = scan) -> tuple[Any, Any]:
                return self.module.descend(scan, brought, left, right)

            for node, brought in parts.items():
                descend_from(node, self.extent.chunks, brought, self._summaries.get(scan, {}), descend, visit)

    def _chunk(self, index: int) -> Chunk:
        """Return a chunk, with what scans have brought; the same one in every pass, unless its rows are copies."""
        if index in self._chunks:
            return self._chunks[index]
        entered, memo = self._entered.setdefault(index, {}), self._memos.setdefault(index, {})
        chunk = self.rows.chunk(index, entered, memo, self._rooms)
        if self.rows.has_whole(index):
            self._chunks[index] = chunk
        return chunk

    def _kind_of(self, port: str) -> str:
        kind = next((each.kind for each in self.module.ports if each.name == port), None)
        if kind is None:
            raise ModuleError(f"{self.context.where}: no output port {port!r}")
        return kind


class _Collected:
    """Messages and outputs of a stretch of chunks: rows one after the other, other arrays once."""

    def __init__(
        self, rows: ShardRows, extent: Extent, module: ShardedModule[Any], rooms: RowRooms | None = None
    ) -> None:
        self._rows = rows
        self._rooms = rooms
        self._extent = extent
        self._row_outputs = frozenset(module.row_outputs)
        self._arrays: dict[tuple[str, str], dict[str, Array]] = {}
        self._outputs: dict[str, Array] = {}
        self._pieces: dict[str, list[Array]] = {name: [] for name in module.sequence_outputs}
        self._sampled: dict[str, list[Array]] = {}
        self._sample: Array = np.zeros(0, np.int64)
        if module.sampled_outputs and extent.rows > MAX_WHOLE_ROWS:
            self._sampled = {name: [] for name in module.sampled_outputs}
            chosen = spread_rows(extent.rows, SAMPLED_OUTPUT_ROWS)
            self._sample = chosen[slice(*np.searchsorted(chosen, (extent.start, extent.stop)))]

    def add(
        self,
        chunk: Chunk,
        messages: Sequence[OutgoingMessage],
        outputs: Mapping[str, Array],
        kind_of: Callable[[str], str],
    ) -> None:
        """Add the messages and outputs of a chunk."""
        for message in messages:
            into = self._arrays.setdefault((message.port, message.receiver), {})
            self._store(into, chunk, message.arrays, rows_of_kind(kind_of(message.port)))
        for name in self._pieces.keys() & outputs.keys():
            self._pieces[name].append(_with_beginnings(np.asarray(outputs[name], np.float64), chunk.continued))
        for name in self._sampled.keys() & outputs.keys():
            inside = slice(*np.searchsorted(self._sample, (chunk.rows.start, chunk.rows.stop)))
            self._sampled[name].append(np.asarray(outputs[name])[self._sample[inside] - chunk.rows.start])
        rest = {name: each for name, each in outputs.items() if name not in self._pieces and name not in self._sampled}
        self._store(self._outputs, chunk, rest, self._row_outputs)

    def _store(self, into: dict[str, Array], chunk: Chunk, arrays: Mapping[str, Any], named: Any) -> None:
        start = self._extent.start
        for name, given in arrays.items():
            array = np.asarray(given)
            if name in named:
                if array.shape[:1] != (len(chunk),):
                    raise ModuleError(
                        f"{name} of chunk {chunk.index} has the shape {array.shape}, expected {len(chunk)} rows"
                    )
                if name not in into:
                    into[name] = self._memory_for(array, chunk.rows)
                part = into[name][chunk.rows.start - start : chunk.rows.stop - start]
                if not is_same_memory(array, part):
                    part[...] = array
            elif name not in into:
                into[name] = array
            elif name != "lengths" and not np.array_equal(into[name], array, equal_nan=array.dtype.kind == "f"):
                raise ModuleError(
                    f"{name} differs between chunks {self._extent.first} and {chunk.index}; list an output whose "
                    "first dimension is the rows in row_outputs"
                )

    def _memory_for(self, array: Array, rows: slice) -> Array:
        """Return memory for an array of all rows, of which one has the given rows."""
        whole = None if self._rooms is None else self._rooms.holding(array, rows)
        return (
            np.empty((self._extent.stop - self._extent.start, *array.shape[1:]), array.dtype)
            if whole is None
            else whole
        )

    def outputs(self) -> dict[str, Array]:
        """Return the outputs; those of sequences have a row for each piece in each chunk (:func:`add_pieces`)."""
        joined = {**self._pieces, **self._sampled}
        numbers = {f"{name}_rows": self._sample for name, each in self._sampled.items() if each}
        return {**self._outputs, **{name: np.concatenate(each) for name, each in joined.items() if each}, **numbers}

    def messages(self) -> tuple[OutgoingMessage, ...]:
        """Return the messages, with the lengths of the pieces of sequences among their rows."""
        lengths = self._rows.lengths(self._extent)
        if lengths is not None:
            for arrays in self._arrays.values():
                if "lengths" in arrays:
                    arrays["lengths"] = lengths
        return tuple(OutgoingMessage(port, arrays, receiver) for (port, receiver), arrays in self._arrays.items())


class Root:
    """What the first worker does of an update: it starts the parameters, and makes the next ones from the sums.

    Parameters
    ----------
    module : ShardedModule
    extents : sequence of Extent
        Those of all workers.
    context : Context
    """

    def __init__(self, module: ShardedModule[Any], extents: Sequence[Extent], context: Context) -> None:
        self.module = module
        self.context = context
        self._extents = extents
        self._chunks = extents[0].chunks

    def spread(self, scan: str, parts: Sequence[Parts[Mapping[str, Any]]]) -> list[dict[Node, Any]]:
        """Return what a scan brings into the nodes of each worker, from the summaries of all."""
        if self._chunks == 1:  # nothing enters, so that there is no summary either
            return [{root_of(1): None}]
        known = {node: value for part in parts for node, value in part.items()}
        owner = {node: worker for worker, part in enumerate(parts) for node in part}
        values: dict[Node, Mapping[str, Any]] = {}
        root, result = root_of(self._chunks), [dict[Node, Any]() for _ in parts]

        def visit(node: Node, brought: Any) -> bool:
            if node in owner:
                result[owner[node]][node] = brought
            return node not in owner

        combine_below(root, self._chunks, known.get, lambda a, b: self.module.combine(scan, a, b), values)
        descend_from(root, self._chunks, None, values, lambda e, a, b: self.module.descend(scan, e, a, b), visit)
        return result

    def maximise(self, learnt: State, sweep: int, parts: Sequence[Parts[Statistics]]) -> State:
        """Return the next parameters."""
        return dict(self.module.maximise(self.total(parts), learnt, self.context.within(sweep=sweep)))

    def total(self, parts: Sequence[Parts[Statistics]]) -> Statistics:
        """Return the sums over all rows."""
        return self._total(parts, merging(self.module))

    def conclude(self, learnt: State, parts: Sequence[Parts[Mapping[str, float]]]) -> dict[str, float]:
        """Return the metrics of the update."""
        return dict(self.module.finish(self._total(parts, _add_numbers), learnt, self.context))

    def _total(self, parts: Sequence[Parts[T]], combine: Callable[[T, T], T]) -> T:
        known = {node: value for part in parts for node, value in part.items()}
        return combine_below(root_of(self._chunks), self._chunks, known.get, combine)


def merging(module: ShardedModule[Any]) -> Callable[[Statistics, Statistics], Statistics]:
    """Return what combines the statistics of two stretches of rows; those of chunks that take no part are empty."""
    return lambda left, right: module.merge(left, right) if left and right else left or right


def add_statistics(left: Statistics, right: Statistics) -> Statistics:
    """Return the sums of two stretches of rows together.

    Raises
    ------
    ModuleError
        If they differ in names or shapes.
    """
    if left.keys() != right.keys():
        raise ModuleError(f"the statistics of two chunks have different names: {sorted(left.keys() ^ right.keys())}")
    for name, value in left.items():
        if value.shape != right[name].shape:
            raise ModuleError(f"the statistics {name!r} of two chunks have shapes {value.shape}, {right[name].shape}")
    return {name: value + right[name] for name, value in left.items()}


def _with_beginnings(pieces: FloatArray, continued: bool) -> FloatArray:
    """Return values of the pieces of sequences in a chunk, beside them whether each begins a sequence, (pieces, 2)."""
    rows = np.stack([pieces, np.ones(len(pieces))], axis=1)
    rows[0, 1] = not continued
    return rows


def output_names(module: ShardedModule[Any], rows: int) -> OutputNames:
    """Return what parts of a module's outputs are joined to, where there are `rows` in all."""
    if rows <= MAX_WHOLE_ROWS:
        return OutputNames(tuple(module.row_outputs), tuple(module.sequence_outputs))
    kept = tuple(name for name in module.row_outputs if name not in module.sampled_outputs)
    return OutputNames(kept, tuple(module.sequence_outputs), with_row_numbers(module.sampled_outputs))


def with_row_numbers(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of sampled outputs, and those of the outputs with the numbers of their rows."""
    return (*names, *(f"{name}_rows" for name in names))


def join_outputs(module: ShardedModule[Any], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the outputs of a module for all rows, from those of its workers."""
    names = OutputNames(
        tuple(module.row_outputs), tuple(module.sequence_outputs), with_row_numbers(module.sampled_outputs)
    )
    return {name: names.join(name, [part[name] for part in parts]) for name in parts[0]}


def _add_numbers(left: Mapping[str, float], right: Mapping[str, float]) -> Mapping[str, float]:
    return {name: left.get(name, 0.0) + right.get(name, 0.0) for name in {**left, **right}}


def sampled_chunks(extent: Extent, sample_rows: int, seed: int) -> list[int]:
    """Return the chunks of the sample from which an update starts, ascending: the same for all modules of a run."""
    number = max(1, -(-sample_rows // extent.size))
    if number >= extent.chunks:
        return list(range(extent.chunks))
    generator = np.random.default_rng([seed, extent.chunks])
    return sorted(generator.choice(extent.chunks, number, replace=False).tolist())
