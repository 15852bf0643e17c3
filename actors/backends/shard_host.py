"""The host of one worker of a module whose rows workers share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import accumulate
from time import monotonic, perf_counter
from typing import Any

from actors.backends.module_host import DOING, Arrays, HostResult, ModuleHost
from actors.backends.result_checks import bounded_exceptions, check_metrics, check_state
from actors.backends.thread_limits import limited_threads
from actors.coordination.backend import ChainCall, MessageRef, ModuleCall, ModuleResult, Ref, ResultRef, ShardTime
from actors.errors import ModuleError, WorkerConnectionError
from actors.graph.spec import ModuleSpec
from actors.kernels.sequences import boundaries
from actors.limits import MAX_WHOLE_ROWS
from actors.messaging.codec import describe, pack_header, unpack_header
from actors.messaging.message import Header, Message
from actors.messaging.stored_rows import StoredRows, read_array
from actors.messaging.validation import check_arrays
from actors.module import Outbox
from actors.sharing.chunks import (
    Chunk,
    Extent,
    MessageParts,
    OutputNames,
    ShardedArrays,
    ShardedOutputs,
    ShardRows,
    join_references,
    joined_lengths,
    row_count_of,
    rows_of_kind,
)
from actors.sharing.connected import ConnectedWorkers, Follower
from actors.sharing.connections import Listener, connect
from actors.sharing.contract import ShardedModule
from actors.sharing.driver import (
    LocalWorkers,
    Worker,
    extents_of,
    first_rows,
    learn,
    prepare_response,
    repeat_passes,
    respond,
    sample_inbox,
)
from actors.sharing.shard import Shard, output_names, sampled_chunks
from actors.types import Array, IntArray, State


class ShardHost(ModuleHost):
    """Holds one worker's instance of a module, and runs its part of each call.

    A call begins with :meth:`open_shard`. The driver (:mod:`actors.sharing.driver`) then calls :meth:`run` with the
    methods of :class:`actors.sharing.driver.Worker`, and :meth:`conclude_call` of the first worker ends it. Where the
    workers are connected, :meth:`lead` of the first one and :meth:`follow` of the others take the place of the calls up
    to the responses.
    """

    _listener: Listener | None = None
    _peers: ConnectedWorkers | Follower | None = None

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
        self._idle = "waiting for other workers" if len(extents) > 1 else "waiting"
        self._set_status(doing=self._idle)
        with bounded_exceptions():
            extent, messages, starts = extents[rank], list[MessageParts](), None
            for packed, port, body in zip(call.headers, call.ports, arrays, strict=True):
                header = unpack_header(packed).addressed(self.spec.name, port)
                parts, opens = _parts_for(header, body, extent)
                checked = [
                    (self._checked_input(replace(header, arrays=describe(part)), part), first) for part, first in parts
                ]
                messages.append(MessageParts(checked))
                starts = opens if starts is None else starts
            context = self._context(call)
            unsent = {(slot.port, slot.receiver) for slot in self.slots if slot.unread and extent.rows > MAX_WHOLE_ROWS}
            self._shard = Shard(self.shared_module, ShardRows(messages, extent, starts), context, unsent)
            self._worker, self._opened = Worker(self._shard, extents), call
            self._started, self._busy = perf_counter(), 0.0

    def overrides(self, call: ModuleCall) -> dict[str, Any]:
        """Return the parameters of steps that apply to a call; only the first worker keeps them with the state."""
        return self._step_parameters.for_call(self.module, call)

    @property
    def shared_module(self) -> ShardedModule[Any]:
        """The worker's instance."""
        assert isinstance(self.module, ShardedModule)
        return self.module

    @property
    def continued(self) -> list[bool]:
        """Whether the first row of each of the worker's stretches continues a sequence of the rows before."""
        return [self._shard.rows.continued(stretch) for stretch in self._shard.extent.stretches()]

    @property
    def output_names(self) -> OutputNames:
        """What parts of the module's outputs are joined to."""
        return output_names(self.shared_module, self._shard.extent.rows)

    def run(self, method: str, *values: Any) -> Any:
        """Call a method of this worker, checking what the module returns."""
        with bounded_exceptions(), self.computing(DOING[self._opened.mode]):
            started = perf_counter()
            try:
                answer = self._worker.run(method, *values)
            finally:
                self._busy += perf_counter() - started
            if method == "respond":
                part, sums = answer
                return self._part(Outbox(part.messages, {}, part.outputs)), sums
            return answer

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

    # --- connections to the other workers -------------------------------------------------------------------------

    def listen(self, host: str, secret: bytes, workers: int) -> int:
        """Begin to wait for connections of the other workers, as the first one; return the port.

        Raises
        ------
        WorkerConnectionError
            If this machine has no such address.
        """
        self.disconnect()
        try:
            self._listener = Listener(host, secret, workers)
        except OSError as error:
            raise WorkerConnectionError(f"no worker can listen at {host}: {error}") from None
        return self._listener.port

    def connect(self, host: str, port: int, secret: bytes, rank: int) -> None:
        """Connect to the first worker, as another one; raises WorkerConnectionError."""
        self.disconnect()
        self._peers = Follower(connect(host, port, secret, rank))

    def await_connections(self) -> None:
        """Wait until the others are connected, as the first one; raises WorkerConnectionError."""
        assert self._listener is not None
        listener, self._listener = self._listener, None
        self._peers = ConnectedWorkers(self.run, listener.wait())

    def lead(self, workers: int, *samples: Sequence[Chunk]) -> int:
        """Drive the passes of a call, and what comes before its responses, as the first worker.

        Returns
        -------
        int
            The number of passes.

        Raises
        ------
        WorkerConnectionError
            If the connection to another worker is lost, perhaps because that one failed.
        """
        group, sweep = self._peers, 0
        if not isinstance(group, ConnectedWorkers):
            raise WorkerConnectionError("the connections to the other workers were ended")
        with self._dropped_after_errors(), limited_threads(self.spec.threads):
            group.count, learnt = workers, self.begin(*samples)
            if self._opened.mode == "update":
                learnt, sweep = repeat_passes(group, learnt)
            prepare_response(group, learnt, sweep)
            group.end()
        return sweep

    def follow(self) -> None:
        """Take part in the passes of a call, and what comes before its responses, as the first worker asks for it.

        Raises
        ------
        WorkerConnectionError
            If the connection to the first worker is lost.
        """
        peer = self._peers
        if not isinstance(peer, Follower):
            raise WorkerConnectionError("the connection to the first worker was ended")
        with self._dropped_after_errors(), limited_threads(self.spec.threads):
            peer.run(self.run)

    @contextmanager
    def _dropped_after_errors(self) -> Iterator[None]:
        """End the connections if an exception leaves it unknown what comes next over them."""
        try:
            yield
        except BaseException:
            self.disconnect()
            raise

    def end_waiting(self) -> None:
        """Let a call that waits for another worker raise WorkerConnectionError; from any thread."""
        if self._peers is not None:
            self._peers.shut()

    def disconnect(self) -> None:
        """Release the connections."""
        for held in (self._listener, self._peers):
            if held is not None:
                held.close()
        self._listener = self._peers = None

    # --- the end of a call ----------------------------------------------------------------------------------------

    def conclude_call(self, learnt: State | None, metrics: Mapping[str, float]) -> HostResult:
        """Return state, metrics and seconds of an update; the messages and outputs are with the workers.

        By default of the parameters that the first worker has.
        """
        context, where = self._shard.context, self._shard.context.where
        if self._opened.mode != "update":
            return ModuleResult(seconds=perf_counter() - self._started, ended=monotonic())
        with bounded_exceptions():
            kept = check_state(where, self._worker.learnt() if learnt is None else learnt)
            check_arrays(where, "state", kept)
            self.shared_module.load_state(kept)
            state, checked = self._kept_state(context, where), check_metrics(where, metrics)
        seconds = perf_counter() - self._started
        return ModuleResult(state=state, metrics=checked, seconds=seconds, ended=monotonic())

    def close_shard(self) -> None:
        """Release the rows."""
        self._idle = "waiting"
        self._set_status(doing=self._idle)
        with suppress(AttributeError):  # a call that could not be opened has none
            del self._shard, self._worker

    def _part(self, outbox: Outbox) -> HostResult:
        """Return this worker's messages and outputs, checked; the arrays of outputs are in parts, too.

        Its seconds are those of the call so far in which the worker was busy.
        """
        accepted = self._accept(outbox, replace(self._opened, mode="recognize"), self._shard.context, self._busy)
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
            answers, metrics = respond(workers, learnt, sweep, extents)
            parts: list[HostResult] = [workers.get(answer) for answer in answers]
            result = hosts[0].conclude_call(workers.get(learnt), workers.get(metrics))
        starts = [stretch.start for extent in extents for stretch in extent.stretches()]
        continued, names = [own for host in hosts for own in host.continued], hosts[0].output_names
    finally:
        workers.close()
        for host in hosts:
            host.close_shard()
    given = tuple(part.outputs or {} for part in parts)
    outputs = ShardedOutputs(given, tuple(starts), tuple(continued), names, extents[0].rows)
    messages = {}
    for slot in parts[0].messages:
        of_slot = [part.messages[slot] for part in parts]
        header, joined = join_references(
            [message.header for message in of_slot], [copied(message) for message in of_slot], starts, continued
        )
        messages[slot] = MessageRef(pack_header(header), Ref(joined))
    shards = shard_times(extents, [part.seconds for part in parts])
    state = Ref(result.state)
    return ModuleResult(state, Ref(outputs), messages, result.metrics, result.seconds, shards, result.ended)


def shard_times(extents: Sequence[Extent], seconds: Sequence[float]) -> tuple[ShardTime, ...]:
    """Return the rows and seconds of each worker, from the seconds at the end of each of its stretches."""
    ends = accumulate(len(extent.stretches()) for extent in extents)
    return tuple(
        ShardTime(extent.stop - extent.start, seconds[end - 1]) for extent, end in zip(extents, ends, strict=True)
    )


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
    headers = [unpack_header(packed) for _, _, packed in call.messages]
    whole = Extent(row_count_of(headers[0]), call.sample.chunk).part(0, 1)
    messages, starts = list[MessageParts](), None
    for header, arrays in zip(headers, objects[first:], strict=True):
        parts, opens = _parts_for(header, arrays, whole)
        messages.append(
            MessageParts([(Message(replace(header, arrays=describe(part)), part), row) for part, row in parts])
        )
        starts = opens if starts is None else starts
    rows = ShardRows(messages, whole, starts)
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
        If it has no message, or messages differ in their rows.
    """
    if not call.headers:
        raise ModuleError("got no message: connect a module below it, or update that first")
    headers = [unpack_header(packed) for packed in call.headers]
    rows = row_count_of(headers[0])
    for header in headers:
        if row_count_of(header) != rows:
            raise ModuleError(
                f"{header.sender} sent {row_count_of(header)} rows, {headers[0].sender} {rows}: workers share rows of "
                "one number; connect modules with the same rows"
            )
    return rows


def _parts_for(
    header: Header, arrays: Arrays, extent: Extent
) -> tuple[list[tuple[dict[str, Any], int]], IntArray | None]:
    """Return those parts of a message that have rows of an extent, without lengths, and where sequences begin.

    Each part has the number of its first row. The beginnings are None if all rows are one sequence.
    """
    if not isinstance(arrays, ShardedArrays):
        named, inside = rows_of_kind(header.kind), slice(extent.start, extent.stop)
        part = {name: array[inside] if name in named else array for name, array in arrays.items() if name != "lengths"}
        lengths = None if "lengths" not in arrays else read_array(arrays["lengths"])
        return [(part, extent.start)], first_rows(lengths)
    chosen = arrays.overlapping(extent.start, extent.stop)
    parts = [
        ({name: array for name, array in part.items() if name != "lengths"}, first)
        for part, first in zip(chosen.parts, chosen.first_rows, strict=True)
    ]
    if "lengths" not in chosen.parts[0]:
        return parts, None
    lengths = joined_lengths([part["lengths"] for part in chosen.parts], chosen.continued)
    starts = chosen.first_rows[0] + boundaries(int(lengths.sum()), lengths)
    starts = starts[int(chosen.continued[0]) :]  # its first row may continue a sequence
    return parts, starts[:-1] if chosen.continues else starts
