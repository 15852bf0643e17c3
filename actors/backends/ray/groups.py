"""The workers of a module on Ray: one actor each, driven from the coordinator's process.

The coordinator owns all objects that the workers return, so that they outlive a worker that dies. It fetches none of
them but the headers of messages. The first worker drives the passes of an update over connections to the others
(:mod:`actors.sharing.connected`). Where these cannot be made or are lost, the coordinator drives them, by calls of
actors, and fetches what decides whether an update is finished. The bits are the same.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from actors.backends.shard_host import extents_for, shard_times
from actors.coordination.backend import MessageRef, ModuleCall, ModuleResult, Ref, ResultRef
from actors.coordination.placement import worker_name
from actors.errors import ModuleDiedError, ModuleError, ModuleFailedError, WorkerConnectionError
from actors.graph.spec import ModuleSpec
from actors.limits import LOST_WORKER_SECONDS, STATUS_SECONDS
from actors.messaging.codec import pack_header, unpack_header
from actors.sharing.chunks import Extent, ShardedArrays, ShardedOutputs, flatten, join_references
from actors.sharing.driver import PARAMETERS_AT, learn, respond
from actors.sharing.frames import UnsendableError
from actors.sharing.transport import Repeated

if TYPE_CHECKING:
    from actors.backends.ray.backend import RayBackend


_JOINING = ("maximise", "spread", "total", "conclude")
"""The methods of the first worker that are given what all workers have returned."""

_SLOW_SECONDS = 0.5
"""Time of an answer from which on a call waits until what it is given is there. Ray sends an actor its calls in their
order, so that a call that waits for others would hold back those that ask what the module is doing."""

_SECRET_BYTES = 32


@dataclass(frozen=True)
class _Answer:
    """A part of the messages and outputs: a summary with the headers, and references."""

    summary: Any
    outputs: Any
    arrays: Sequence[Any]


class _UnconnectedError(Exception):
    """The workers of a call have lost their connections."""


class RayGroup:
    """The workers of one module.

    Parameters
    ----------
    backend : RayBackend
        Knows the workers' actors by their names.
    spec : ModuleSpec
    slots : sequence of str
        Names of the module's slots.
    count : int
        Number of workers.

    Attributes
    ----------
    names : list of str
        Of the workers, in the order of their rows; the first one is the module's.
    created : int
        The number in the name of the worker that was created last.
    """

    def __init__(self, backend: RayBackend, spec: ModuleSpec, slots: Sequence[str], count: int) -> None:
        self.names = [worker_name(spec.name, rank) for rank in range(count)]
        self.created = count - 1
        self._settled: list[tuple[str, str]] = []  # the workers of the last call that ended, and their incarnations
        self._connected: list[tuple[str, str]] = []  # the workers that are connected, and their incarnations
        self._unconnectable: list[tuple[str, str]] = []  # those that cannot be
        self._is_sendable = True  # whether connections can carry what the module's methods return
        self._backend = backend
        self._spec = spec
        self._slots = tuple(slots)

    def submit(self, call: ModuleCall, arrays: Sequence[Ref]) -> Future[ResultRef]:
        """Run a call in a thread, so that modules that exchange no message learn at the same time."""
        future: Future[ResultRef] = Future()

        def run() -> None:
            try:
                future.set_result(self._run(call, arrays))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=f"group {self._spec.name}", daemon=True).start()
        return future

    def _run(self, call: ModuleCall, arrays: Sequence[Ref]) -> ResultRef:
        try:
            return self._run_once(call, arrays, connected=True)
        except _UnconnectedError:  # from the beginning, since draws of the first attempt would be missing
            return self._run_once(call, arrays, connected=False)

    def _run_once(self, call: ModuleCall, arrays: Sequence[Ref], *, connected: bool) -> ResultRef:
        try:
            extents = extents_for(self._spec, call, len(self.names))
        except ModuleError as error:
            raise ModuleFailedError(str(error)) from None
        workers = _Workers(self._backend, self._spec.name, self.names[: len(extents)], self._slots, flatten(arrays)[1])
        try:
            overrides = workers.call(0, "overrides", call) if len(extents) > 1 else None
            sent = [workers.open(rank, call, overrides, arrays, extents) for rank in range(len(extents))]
            opened = [workers.get(each) for each in sent]
            continued = [own for each in opened for own in each.continued]
            if workers.incarnations != self._settled:
                workers.call(0, "forget")
            self._settled = []
            samples = []
            if call.mode == "update" and opened[0].starts:
                samples = [workers.call(rank, "sample") for rank in range(len(extents))]
            if connected and len(extents) > 1 and self._connect():
                learnt = None  # the first worker has kept it
                answers, metrics = respond(workers, learnt, self._lead(workers, samples), extents, prepared=True)
            else:
                learnt = workers.call(0, "begin", *samples)
                learnt, sweep = learn(workers, learnt) if call.mode == "update" else (learnt, 0)
                answers, metrics = respond(workers, learnt, sweep, extents)
            summary, state, names = workers.conclude(learnt, metrics)
            result, names, self._settled = workers.get(summary), workers.get(names), workers.incarnations
            summaries = [workers.get(answer.summary) for answer in answers]
            headers = [each.messages for each in summaries]
        finally:
            workers.close()
        messages, starts = {}, [stretch.start for extent in extents for stretch in extent.stretches()]
        for slot in headers[0]:
            at = self._slots.index(slot)
            header, joined = join_references(
                [unpack_header(part[slot]) for part in headers],
                [answer.arrays[at] for answer in answers],
                starts,
                continued,
            )
            messages[slot] = MessageRef(pack_header(header), Ref(joined))
        given = tuple(answer.outputs for answer in answers)
        outputs = ShardedOutputs(given, tuple(starts), tuple(continued), names, extents[0].rows)
        shards = shard_times(extents, [each.seconds for each in summaries])
        return ModuleResult(state, Ref(outputs), messages, result.metrics, result.seconds, shards, result.ended)

    def _connect(self) -> bool:
        """Connect all workers of the group, if they are not; return whether they are."""
        workers = _Workers(self._backend, self._spec.name, self.names, self._slots, ())
        members = workers.incarnations
        if members != self._connected and members != self._unconnectable and self._is_sendable:
            try:
                workers.connect()
                self._connected = members
            except WorkerConnectionError as error:
                self._connected, self._unconnectable = [], members
                self._note(error)
        return members == self._connected

    def _lead(self, workers: _Workers, samples: Sequence[Any]) -> int:
        """Let the first worker drive a call up to its responses; return the number of passes.

        Raises
        ------
        _UnconnectedError
            If connections are lost, or cannot carry what has to be sent.
        """
        try:
            return workers.lead(samples)
        except WorkerConnectionError as error:
            self._connected, self._is_sendable = [], not isinstance(error, UnsendableError)
            self._note(error)
            raise _UnconnectedError from error
        except BaseException:
            self._connected = []
            raise

    def _note(self, error: WorkerConnectionError) -> None:
        self._backend.log(
            f"{self._spec.name}: its workers exchange sums by calls of actors, which is slower with the same results, "
            f"since connections of their own failed: {error}"
        )


class _Workers:
    """The workers of one call (:class:`actors.sharing.driver.Workers`); values are references."""

    def __init__(
        self, backend: RayBackend, module: str, names: Sequence[str], slots: Sequence[str], given: Sequence[Ref]
    ) -> None:
        self._backend = backend
        self._module = module
        self._names = names
        self._slots = slots
        self._given = given
        self._last: dict[str, Any] = {}  # reference to the last answer of each worker
        self._slow = False  # whether an answer has taken long
        self._parameters: dict[int, Any] = {}  # reference to the parameters that each worker got last

    @property
    def count(self) -> int:
        """Number of workers."""
        return len(self._names)

    @property
    def incarnations(self) -> list[tuple[str, str]]:
        """The name and the incarnation of each worker."""
        return [(name, self._backend.incarnation(name)) for name in self._names]

    def open(
        self, rank: int, call: ModuleCall, overrides: Any, arrays: Sequence[Ref], extents: Sequence[Extent]
    ) -> Any:
        """Give a worker its rows: of messages in parts, those parts that it needs."""
        own = extents[rank]
        needed = [each.overlapping(own.start, own.stop) if isinstance(each, ShardedArrays) else each for each in arrays]
        layout, flat = flatten(needed)
        return self._send(rank, "open_shard", 1, call, overrides, extents, rank, layout, *flat)

    def call(self, worker: int, method: str, *values: Any, returns: int | None = None) -> Any:
        """Call a method of a worker; return references."""
        if worker > 0 and (at := PARAMETERS_AT.get(method)) is not None and values[at] is not None:
            if values[at] == self._parameters.get(worker):
                values = (*values[:at], Repeated(), *values[at + 1 :])
            else:
                self._parameters[worker] = values[at]
        if method in _JOINING and (self._slow or method == "conclude"):
            for value in values:
                if isinstance(value, ray.ObjectRef):
                    self.get(value)
        if method == "respond":
            sums, summary, _state, outputs, *arrays = self._send(
                worker, "shard", 4 + len(self._slots), method, None, *values
            )
            return [_Answer(summary, outputs, arrays), sums]
        sent = self._send(worker, "shard", returns or 1, method, returns, *values)
        return [sent] if returns == 1 else sent

    def get(self, value: Any) -> Any:
        """Return the value of a reference; raise the error of the worker that failed."""
        started = time.monotonic()
        try:
            return self._backend.fetch(self._module, value, self._given)
        except ModuleDiedError:
            self._backend.blame(self._module, self._unfinished)
            raise
        finally:
            self._slow = self._slow or time.monotonic() - started > _SLOW_SECONDS

    def conclude(self, learnt: Any, metrics: Any) -> Any:
        """End the call in the first worker; return references to the summary, the state and the outputs' names."""
        return self._send(0, "conclude_shard", 3, learnt, metrics)

    def connect(self) -> None:
        """Connect the first worker to the others; raises WorkerConnectionError if that cannot be done."""
        places = [self._backend.place(name) for name in self._names]
        alone = len({place.node_id for place in places}) == 1
        host, secret = "127.0.0.1" if alone else places[0].node, secrets.token_bytes(_SECRET_BYTES)
        port = self.get(self.call(0, "listen", host, secret, len(self._names)))
        waiting = self.call(0, "await_connections")
        made = [self.call(rank, "connect", host, port, secret, rank) for rank in range(1, len(self._names))]
        for each in (*made, waiting):
            self.get(each)

    def lead(self, samples: Sequence[Any]) -> int:
        """Let the first worker drive the others; return the number of passes.

        Raises
        ------
        WorkerConnectionError
            If connections are lost, and no worker has died or failed.
        """
        others = list[Any]()
        try:
            others += [self.call(rank, "follow") for rank in range(1, len(self._names))]
            passes: int = self.get(self.call(0, "lead", len(self._names), *samples))
            for each in others:
                self.get(each)
            return passes
        except WorkerConnectionError:
            self._end_waiting()
            self._raise_cause(others)
            raise
        except BaseException:
            self._end_waiting()
            raise

    def _raise_cause(self, others: Sequence[Any]) -> None:
        """Raise the error of the worker that died or failed, on which a connection was lost; if there is one."""
        waiting, until = list(others), time.monotonic() + LOST_WORKER_SECONDS
        while waiting and (left := until - time.monotonic()) > 0:
            for each in ray.wait(waiting, timeout=left)[0]:
                waiting.remove(each)
                try:
                    self.get(each)
                except UnsendableError:
                    raise
                except WorkerConnectionError:
                    continue

    def _end_waiting(self) -> None:
        """Let workers that wait for others end their calls."""
        for name in self._names:
            with suppress(RayError, KeyError):
                self._backend.actor(name).end_waiting.remote()

    def close(self) -> None:
        """Let the workers release their rows."""
        for name in self._names:
            try:
                self._backend.actor(name).close_shard.remote()
            except (RayError, KeyError):  # dead, or ended by `stop`
                continue

    def _unfinished(self) -> list[str]:
        """Return the workers that have not answered; the first one only if it does not wait for the others."""
        self._end_waiting()
        ray.wait(list(self._last.values()), num_returns=len(self._last), timeout=STATUS_SECONDS)
        waiting = [name for name, reference in self._last.items() if not ray.wait([reference], timeout=0)[0]]
        return [name for name in waiting if name != self._names[0]] or waiting or [self._names[0]]

    def _send(self, rank: int, method: str, returns: int, *values: Any) -> Any:
        name = self._names[rank]
        remote: Callable[..., Any] = getattr(self._backend.actor(name), method).options(num_returns=returns).remote
        sent = remote(self._backend.incarnation(name), *values)
        self._last[name] = sent[0] if isinstance(sent, list) else sent
        return sent
