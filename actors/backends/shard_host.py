"""The host of one worker of a module whose rows workers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

from actors.backends.module_host import DOING, Arrays, HostResult, ModuleHost
from actors.backends.result_checks import bounded_exceptions, check_metrics, check_state
from actors.backends.thread_limits import limited_threads
from actors.coordination.backend import ChainCall, MessageRef, ModuleCall, ModuleResult, Ref, ResultRef
from actors.errors import ModuleError
from actors.graph.spec import ModuleSpec
from actors.kernels.sequences import boundaries
from actors.messaging.codec import describe, pack_header, unpack_header
from actors.messaging.message import Header, Message
from actors.messaging.stored_rows import StoredRows, read_array
from actors.messaging.validation import check_arrays
from actors.module import Outbox
from actors.sharing.chunks import (
    Chunk,
    Extent,
    ShardedArrays,
    ShardRows,
    join_arrays,
    join_references,
    row_count,
    row_count_of,
    rows_of_kind,
    whole_arrays,
)
from actors.sharing.contract import ShardedModule
from actors.sharing.driver import (
    LocalWorkers,
    Worker,
    extents_of,
    first_rows,
    learn,
    respond,
    sample_inbox,
    sequence_starts,
)
from actors.sharing.shard import Shard, join_outputs, sampled_chunks
from actors.types import Array, IntArray, State


class ShardHost(ModuleHost):
    """Holds one worker's instance of a module, and runs its part of each call.

    A call begins with :meth:`open_shard`. The driver (:mod:`actors.sharing.driver`) then calls :meth:`run` with the
    methods of :class:`actors.sharing.driver.Worker`, and :meth:`conclude_call` of the first worker ends it.
    """

    def prepare_module(self, device: str) -> None:
        """Prepare the worker's instance, for shared updates too."""
        super().prepare_module(device)
        self.shared_module.prepare_sharing()

    def open_shard(self, call: ModuleCall, arrays: Sequence[Arrays], extents: Sequence[Extent], rank: int) -> None:
        """Take this worker's rows of the messages of a call.

        Raises
        ------
        MessageError
            If a message is not valid or lacks rows of the worker.
        """
        with bounded_exceptions():
            extent, messages, starts = extents[rank], list[tuple[Message, int]](), None
            for packed, port, body in zip(call.headers, call.ports, arrays, strict=True):
                header = unpack_header(packed).addressed(self.spec.name, port)
                part, first, opens = _part_for(header, body, extent)
                messages.append((self._checked_input(replace(header, arrays=describe(part)), part), first))
                starts = opens if starts is None else starts
            context = self._context(call)
            self._shard = Shard(self.shared_module, ShardRows(messages, extent, starts), context)
            self._worker, self._opened = Worker(self._shard, extents), call
            self._started = perf_counter()

    def overrides(self, call: ModuleCall) -> dict[str, Any]:
        """Return the parameters of steps that apply to a call; only the first worker keeps them with the state."""
        return self._step_parameters.for_call(self.module, call)

    @property
    def shared_module(self) -> ShardedModule[Any]:
        """The worker's instance."""
        assert isinstance(self.module, ShardedModule)
        return self.module

    @property
    def continued(self) -> bool:
        """Whether the worker's first row continues a sequence of the worker before."""
        return self._shard.rows.continued

    def run(self, method: str, *values: Any) -> Any:
        """Call a method of this worker, checking what the module returns."""
        with bounded_exceptions(), self.computing(DOING[self._opened.mode]):
            if method == "respond":
                answer, sums = self._worker.respond(*values)
                return self._part(Outbox(answer.messages, {}, answer.outputs)), sums
            return self._worker.run(method, *values)

    def starts(self) -> bool:
        """Return whether nothing was learnt yet."""
        return not self.shared_module.state()

    def sample(self) -> list[Chunk]:
        """Return this worker's part of the sample from which the module starts."""
        extent, sharing = self._shard.extent, self.spec.sharing
        assert sharing is not None
        return self._shard.sample(sampled_chunks(extent, sharing.sample_rows, self._opened.seed))

    def begin(self, *samples: Sequence[Chunk]) -> State:
        """Return the parameters to start from: those learnt or, where nothing was learnt, those from the sample."""
        with bounded_exceptions(), self.computing("starting"):
            learnt = self.shared_module.state()
            if learnt or self._opened.mode != "update":
                return learnt
            chunks = [chunk for sample in samples for chunk in sample]
            return dict(self.shared_module.start(sample_inbox(chunks), self._shard.context))

    def conclude_call(self, learnt: State, metrics: Mapping[str, float]) -> HostResult:
        """Return state, metrics and seconds of an update; the messages and outputs are with the workers."""
        context, where = self._shard.context, self._shard.context.where
        if self._opened.mode != "update":
            return ModuleResult(seconds=perf_counter() - self._started)
        with bounded_exceptions():
            kept = check_state(where, learnt)
            check_arrays(where, "state", kept)
            self.shared_module.load_state(kept)
            state, checked = self._kept_state(context, where), check_metrics(where, metrics)
        return ModuleResult(state=state, metrics=checked, seconds=perf_counter() - self._started)

    def close_shard(self) -> None:
        """Release the rows."""
        with suppress(AttributeError):  # a call that could not be opened has none
            del self._shard, self._worker

    def _part(self, outbox: Outbox) -> HostResult:
        """Return this worker's messages and outputs, checked; the arrays of outputs are in parts, too."""
        accepted = self._accept(outbox, replace(self._opened, mode="recognize"), self._shard.context, 0.0)
        return replace(accepted, state=None)


def call_group(hosts: Sequence[ShardHost], call: ModuleCall, arrays: Sequence[Arrays]) -> ResultRef:
    """Run a call of a module with the workers of its group, in threads of this process.

    Raises
    ------
    ModuleError
        If there are more workers than chunks.
    """
    spec = hosts[0].spec
    extents = extents_for(spec, call, len(hosts))
    hosts = hosts[: len(extents)]
    call = replace(call, overrides=hosts[0].overrides(call))
    for rank, host in enumerate(hosts):
        host.open_shard(call, arrays, extents, rank)
    workers = LocalWorkers([host.run for host in hosts])
    try:
        with limited_threads(spec.threads):  # threads that each set and restore the limits would disturb each other
            learnt: Any = hosts[0].begin(*(host.sample() for host in hosts))
            learnt, sweep = learn(workers, learnt) if call.mode == "update" else (learnt, 0)
            answers, metrics = respond(workers, learnt, sweep)
            parts: list[HostResult] = [workers.get(answer) for answer in answers]
            result = hosts[0].conclude_call(workers.get(learnt), workers.get(metrics))
        starts, continued = [extent.start for extent in extents], [host.continued for host in hosts]
    finally:
        workers.close()
        for host in hosts:
            host.close_shard()
    outputs = join_outputs(hosts[0].shared_module, [part.outputs or {} for part in parts])
    messages = {}
    for slot in parts[0].messages:
        of_slot = [part.messages[slot] for part in parts]
        header, joined = join_references(
            [message.header for message in of_slot], [copied(message) for message in of_slot], starts, continued
        )
        messages[slot] = MessageRef(pack_header(header), Ref(joined))
    return ModuleResult(Ref(result.state), Ref(outputs), messages, result.metrics, result.seconds)


def copied(message: Message) -> dict[str, Array | StoredRows]:
    """Return copies of the arrays of a message, as between processes: a module may modify an array after sending it."""
    return {name: array.copy() for name, array in message.arrays.items()}


def extents_for(spec: ModuleSpec, call: ModuleCall, workers: int) -> list[Extent]:
    """Return the rows of each worker; to recognise, and with ``workers: auto``, there are no more of them than chunks.

    Raises
    ------
    ModuleError
        If there are more workers than chunks.
    """
    assert spec.sharing is not None
    rows = rows_of_call(call)
    if call.mode == "update":
        check_worker_count(spec, rows, workers)
    return extents_of(rows, spec.sharing.chunk, workers)


def cut_to_sample(call: ChainCall, objects: Sequence[Any]) -> tuple[ChainCall, list[Any]]:
    """Return a chain's call and objects with those rows of its messages that are in the sample, or as they are."""
    first = len(call.block.modules)
    if call.sample is None or not call.messages:
        return call, list(objects)
    messages = []
    for (_, _, packed), arrays in zip(call.messages, objects[first:], strict=True):
        header = unpack_header(packed)
        messages.append(Message(header, whole_arrays(header.kind, arrays)))
    whole = Extent(row_count(messages[0]), call.sample.chunk)
    rows = ShardRows([(message, 0) for message in messages], whole.part(0, 1), sequence_starts(messages))
    cut = rows.sample(sampled_chunks(whole, call.sample.sample_rows, call.seed))
    sent = [(*sent[:2], pack_header(message.header)) for sent, message in zip(call.messages, cut, strict=True)]
    return replace(call, messages=tuple(sent)), [*objects[:first], *(dict(message.arrays) for message in cut)]


def check_worker_count(spec: ModuleSpec, rows: int, workers: int | None = None) -> None:
    """Raise ModuleError if a module that learns from this number of rows has more workers than chunks.

    `workers` is their number, by default that of the model.
    """
    if spec.sharing is None or spec.sharing.workers == "auto":
        return
    workers, chunks = workers or spec.sharing.workers, Extent(rows, spec.sharing.chunk).chunks
    if workers > chunks:
        raise ModuleError(
            f"module {spec.name!r}: {workers} workers for {rows} rows, which are {chunks} "
            f"chunk{'s' * (chunks != 1)} of {spec.sharing.chunk}: use at most {chunks}, or a smaller chunk"
        )


def rows_of_call(call: ModuleCall) -> int:
    """Return the number of rows of a call.

    Raises
    ------
    ModuleError
        If it has no message.
    """
    if not call.headers:
        raise ModuleError("got no message: connect a module below it, or update that first")
    return row_count_of(unpack_header(call.headers[0]))


def _part_for(header: Header, arrays: Arrays, extent: Extent) -> tuple[dict[str, Any], int, IntArray | None]:
    """Return those arrays of a message that have a worker's rows, the first of their rows, and where sequences begin.

    The beginnings are None if all rows are one sequence. A message in parts gives those parts that overlap the rows.
    """
    if not isinstance(arrays, ShardedArrays):
        named, inside = rows_of_kind(header.kind), slice(extent.start, extent.stop)
        part = {name: array[inside] if name in named else array for name, array in arrays.items() if name != "lengths"}
        lengths = None if "lengths" not in arrays else read_array(arrays["lengths"])
        return part, extent.start, first_rows(lengths)
    chosen = arrays.overlapping(extent.start, extent.stop)
    first = chosen.first_rows[0]
    joined = join_arrays(header.kind, chosen)
    lengths = joined.pop("lengths", None)
    if lengths is None:
        return joined, first, None
    starts = first + boundaries(int(lengths.sum()), lengths)
    starts = starts[int(chosen.continued[0]) :]  # its first row may continue a sequence
    return joined, first, starts[:-1] if arrays.opens(extent.stop) is False else starts
