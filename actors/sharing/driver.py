"""The driver of an update that a group of workers shares: passes over the rows, and the sums between them.

It is the same for every module and every backend, which differ in how a worker is called (:class:`Workers`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from actors.errors import ModuleError
from actors.graph.spec import Sharing
from actors.kernels.sequences import boundaries
from actors.messaging.message import Message
from actors.module import Context, Inbox, Outbox
from actors.sharing.chunks import Chunk, Extent, ShardRows, join_messages, row_count, sampled_lengths
from actors.sharing.shard import Root, Shard, ShardAnswer, join_outputs, sampled_chunks
from actors.types import Array, IntArray, State

if TYPE_CHECKING:
    from actors.sharing.contract import ShardedModule

CHUNK_ROWS, SAMPLE_ROWS = Sharing.chunk, Sharing.sample_rows
"""Rows of a chunk and of the sample from which a module starts, where a model names no other numbers."""

PARAMETERS_AT = {"summarise": 1, "accumulate": 0, "enter": 0, "respond": 0}
"""The methods that all workers are called with, and which of their arguments are the parameters."""


class Plan(NamedTuple):
    """What follows in an update: whether its passes are finished; if not, the scans before the next one."""

    finished: bool
    scans: tuple[str, ...]


class Workers(Protocol):
    """The workers of a group; a value is whatever the backend passes on between them, perhaps only a reference."""

    @property
    def count(self) -> int:
        """Number of workers."""

    def call(self, worker: int, method: str, *values: Any, returns: int | None = None) -> Any:
        """Call a method of :class:`Worker`; return its value, or a list of as many values as `returns` says."""

    def get(self, value: Any) -> Any:
        """Return a value itself; raise the exception of the call that should have made it."""


def learn(workers: Workers, learnt: Any) -> tuple[Any, int]:
    """Let a group repeat passes until its module is finished; return the parameters and the number of passes.

    A single worker repeats them in one call: it exchanges nothing with others.

    Parameters
    ----------
    workers : Workers
        Their rows are open.
    learnt : value
        The parameters to start from.
    """
    if workers.count == 1:
        learnt, passes = workers.call(0, "learn", learnt, returns=2)
        return learnt, workers.get(passes)
    return repeat_passes(workers, learnt)


def repeat_passes(workers: Workers, learnt: Any) -> tuple[Any, int]:
    """As :func:`learn`, with calls for each pass."""
    shared, following = workers.call(0, "begin_passes", learnt, returns=2)
    plan, sweep = workers.get(following), 0
    while not plan.finished:
        parts = _accumulate(workers, shared, sweep, plan.scans)
        shared, following = workers.call(0, "maximise", sweep, *parts, returns=2)
        plan, sweep = workers.get(following), sweep + 1
    return workers.call(0, "learnt"), sweep


def accumulate_once(workers: Workers, learnt: Any) -> list[Any]:
    """Let a group do the first pass from some parameters; return the sums of each worker."""
    shared, plan = workers.call(0, "begin_passes", learnt, returns=2)
    return _accumulate(workers, shared, 0, workers.get(plan).scans)


def _accumulate(workers: Workers, shared: Any, sweep: int, scans: Sequence[str]) -> list[Any]:
    brought, given = _scan(workers, scans, shared, sweep), _given(workers, shared)
    return _of_all(workers, lambda w: workers.call(w, "accumulate", given[w], sweep, scans, *brought[w]))


def _of_all(workers: Workers, call: Callable[[int], Any]) -> list[Any]:
    """Call all workers; the first one last, since it computes at once where it drives the others."""
    return [call(worker) for worker in reversed(range(workers.count))][::-1]


def _given(workers: Workers, shared: Any) -> list[Any]:
    """Return the parameters for each worker; None for the first, which made them and has kept them."""
    return [None, *[shared] * (workers.count - 1)]


def prepare_response(workers: Workers, learnt: Any, sweep: int) -> None:
    """Let a group do what comes before its responses; each worker keeps parameters and what scans have brought."""
    shared, following = workers.call(0, "begin_response", learnt, sweep, returns=2)
    scans = workers.get(following)
    brought, given = _scan(workers, scans, shared, sweep), _given(workers, shared)
    for entered in _of_all(workers, lambda w: workers.call(w, "enter", given[w], scans, *brought[w])):
        workers.get(entered)


def respond(
    workers: Workers,
    learnt: Any,
    sweep: int = 0,
    extents: Sequence[Extent] | None = None,
    *,
    prepared: bool = False,
) -> tuple[list[Any], Any]:
    """Let a group compute its messages and outputs; return the answers in the order of the rows, and the metrics.

    With the `extents` of the workers, there is an answer for each of their stretches, so that a worker has the messages
    and outputs of one stretch in memory at a time; by default one for each worker. If they are `prepared`
    (:func:`prepare_response`), `learnt` may be None.
    """
    shared, scans, brought = None, (), [()] * workers.count
    if not prepared:
        shared, following = workers.call(0, "begin_response", learnt, sweep, returns=2)
        scans = workers.get(following)
        brought = _scan(workers, scans, shared, sweep)
    answers, sums = list[Any](), list[Any]()
    for w, given in enumerate(_given(workers, shared)):
        entering: tuple[Any, ...] = (scans, *brought[w])
        for stretch in [None] if extents is None else extents[w].stretches():
            answer, own = workers.call(w, "respond", given, sweep, stretch, *entering, returns=2)
            answers.append(answer)
            sums.append(own)
            entering = ((),)  # they stay
    return answers, workers.call(0, "conclude", learnt, *sums)


def _scan(workers: Workers, scans: Sequence[str], shared: Any, sweep: int) -> list[tuple[Any, ...]]:
    """Run scans one after the other; return what they bring to each worker."""
    given = _given(workers, shared)
    brought: list[tuple[Any, ...]] = [()] * workers.count
    for number, scan in enumerate(scans):
        call = partial(_summarise, workers, scan, given, sweep, tuple(scans[:number]), brought)
        parts = _of_all(workers, call)
        spread = workers.call(0, "spread", scan, *parts, returns=workers.count)
        brought = [(*own, new) for own, new in zip(brought, spread, strict=True)]
    return brought


def _summarise(
    workers: Workers,
    scan: str,
    given: Sequence[Any],
    sweep: int,
    before: Sequence[str],
    brought: Sequence[tuple[Any, ...]],
    worker: int,
) -> Any:
    return workers.call(worker, "summarise", scan, given[worker], sweep, before, *brought[worker])


class Worker:
    """One worker, as a backend calls it; the first one does what is done once for the group.

    The first one keeps all parameters from pass to pass. What it returns for the others is their
    :meth:`actors.sharing.contract.ShardedModule.broadcast`.

    Parameters
    ----------
    shard : Shard
    extents : sequence of Extent
        Those of all workers.
    """

    def __init__(self, shard: Shard, extents: Sequence[Extent]) -> None:
        self._shard = shard
        self._root = Root(shard.module, extents, shard.context)
        self._learnt: State = {}
        self._shared: State = {}

    def run(self, method: str, *values: Any) -> Any:
        """Call one of the methods below."""
        return getattr(self, method)(*values)

    def learn(self, learnt: State) -> tuple[State, int]:
        """Repeat all passes, as the only worker of its group; return the parameters and the number of passes."""
        return repeat_passes(LocalWorkers([self.run]), learnt)

    def begin_passes(self, learnt: State) -> tuple[State, Plan]:
        """Take the parameters to start from; return what the workers need of them, and what follows."""
        return self._keep(learnt), self._plan(0)

    def learnt(self) -> State:
        """Return the present parameters."""
        return self._learnt

    def begin_response(self, learnt: State, sweep: int) -> tuple[State, tuple[str, ...]]:
        """Return what the workers need of the parameters, and the scans before the response."""
        context = self._shard.context.within(sweep=sweep)
        return self._keep(learnt), self._shard.module.scans(learnt, responding=True, context=context)

    def summarise(self, scan: str, shared: State | None, sweep: int, before: Sequence[str], *brought: Any) -> Any:
        """As :meth:`actors.sharing.shard.Shard.summarise`; the first worker uses the parameters that it has kept."""
        learnt = self._shared if shared is None else shared
        return self._shard.summarise(scan, learnt, sweep, dict(zip(before, brought, strict=True)))

    def accumulate(self, shared: State | None, sweep: int, scans: Sequence[str], *brought: Any) -> Any:
        """As :meth:`actors.sharing.shard.Shard.accumulate`."""
        learnt = self._shared if shared is None else shared
        return self._shard.accumulate(learnt, sweep, dict(zip(scans, brought, strict=True)))

    def enter(self, shared: State | None, scans: Sequence[str], *brought: Any) -> None:
        """Take parameters, and what scans bring, for the responses that follow."""
        if shared is not None:
            self._shared = shared
        self._shard.enter(dict(zip(scans, brought, strict=True)))

    def respond(
        self, shared: State | None, sweep: int, stretch: Extent | None, scans: Sequence[str], *brought: Any
    ) -> tuple[ShardAnswer, Any]:
        """Return the messages and outputs of a stretch of the worker's rows, and the sums of its metrics."""
        learnt = self._shared if shared is None else shared
        answer = self._shard.respond(learnt, sweep, dict(zip(scans, brought, strict=True)), stretch)
        return answer, answer.metrics

    def spread(self, scan: str, *parts: Any) -> list[Any]:
        """As :meth:`actors.sharing.shard.Root.spread`."""
        return list(self._root.spread(scan, parts))

    def maximise(self, sweep: int, *parts: Any) -> tuple[State, Plan]:
        """Make the next parameters; return what the workers need of them, and what follows."""
        return self._keep(self._root.maximise(self._learnt, sweep, parts)), self._plan(sweep + 1)

    def _keep(self, learnt: State) -> State:
        """Keep the parameters; return what the workers need of them."""
        self._learnt, self._shared = learnt, self._shard.module.broadcast(learnt)
        return self._shared

    def _plan(self, passes: int) -> Plan:
        """Return what follows after a number of passes."""
        module, context = self._shard.module, self._shard.context.within(sweep=passes)
        if module.is_finished(self._learnt, passes, context):
            return Plan(finished=True, scans=())
        return Plan(finished=False, scans=module.scans(self._learnt, responding=False, context=context))

    def total(self, *parts: Any) -> Any:
        """As :meth:`actors.sharing.shard.Root.total`."""
        return self._root.total(parts)

    def conclude(self, learnt: State | None, *parts: Any) -> dict[str, float]:
        """As :meth:`actors.sharing.shard.Root.conclude`; by default of the parameters that the first worker has."""
        return self._root.conclude(self._learnt if learnt is None else learnt, parts)


class LocalWorkers:
    """Workers in this process: one thread each, or none for a single worker. A worker runs one call after the other."""

    def __init__(self, workers: Sequence[Callable[..., Any]], *, threads: bool = True) -> None:
        self._workers = workers  # each like Worker.run
        self._pools = [ThreadPoolExecutor(1) for _ in workers] if threads and len(workers) > 1 else []

    @property
    def count(self) -> int:
        """Number of workers."""
        return len(self._workers)

    def call(self, worker: int, method: str, *values: Any, returns: int | None = None) -> Any:
        """Call a method, in a thread where there are several; calls wait for the values that they are given."""
        run, given = self._workers[worker], [self.get(value) for value in values]
        if not self._pools:
            answer = run(method, *given)
            return answer if returns is None else list(answer)
        made = self._pools[worker].submit(_run_in_thread, run, method, *given)
        return made if returns is None else [_Item(made, n) for n in range(returns)]

    def get(self, value: Any) -> Any:
        """Return a value, when it is there."""
        if isinstance(value, _Item):
            return value.made.result()[value.index]
        return value.result() if isinstance(value, Future) else value

    def close(self) -> None:
        """End the threads."""
        for pool in self._pools:
            pool.shutdown()


def _run_in_thread(run: Callable[..., Any], method: str, *given: Any) -> Any:
    """Call a worker's method with the process's number of torch threads, on which the bits of its products depend.

    A new thread computes with all cores until it asks for the number.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.get_num_threads()
    return run(method, *given)


@dataclass(frozen=True)
class _Item:
    """One of the values that a call in a thread returns."""

    made: Future[Any]
    index: int


def extents_of(rows: int, size: int, workers: int) -> list[Extent]:
    """Return the extent of each worker; never more workers than chunks."""
    whole = Extent(rows, size)
    count = max(1, min(workers, whole.chunks))
    return [whole.part(worker, count) for worker in range(count)]


def sequence_starts(messages: Sequence[Message]) -> IntArray | None:
    """Return the rows at which the sequences of messages with all rows begin; None if they are one sequence."""
    return first_rows(next((message.lengths for message in messages if message.lengths is not None), None))


def first_rows(lengths: Array | None) -> IntArray | None:
    """Return the rows at which sequences of these lengths begin; None without lengths."""
    return None if lengths is None else boundaries(int(lengths.sum()), lengths)[:-1]


def sample_inbox(chunks: Sequence[Chunk]) -> Inbox:
    """Return an inbox with the rows of several chunks, in ascending order."""
    if not chunks:
        raise ValueError("a sample needs at least one chunk")
    continued = [
        before is not None and before.index + 1 == chunk.index and chunk.continued
        for before, chunk in zip([None, *chunks], chunks, strict=False)
    ]
    lengths = sampled_lengths([(chunk.lengths, len(chunk)) for chunk in chunks], continued)
    parts = zip(*(chunk.inbox for chunk in chunks), strict=True)
    return Inbox([join_messages(messages, lengths) for messages in parts])


def open_group(
    modules: Sequence[ShardedModule[Any]],
    inbox: Inbox,
    extents: Sequence[Extent],
    context: Context,
    *,
    threads: bool = True,
) -> tuple[LocalWorkers, list[Shard]]:
    """Return workers in this process, one for each module instance, and their shards.

    Parameters
    ----------
    modules : sequence of ShardedModule
        Instances with the same parameters.
    inbox : Inbox
        Messages with all rows.
    extents : sequence of Extent
        The rows of each worker.
    context : Context
    threads : bool
        Whether each worker has a thread; without, they may be the same instance.
    """
    messages = list(inbox)
    starts = sequence_starts(messages)
    shards = [
        Shard(module, ShardRows([(m, 0) for m in messages], extent, starts), context)
        for module, extent in zip(modules, extents, strict=True)
    ]
    return LocalWorkers([Worker(shard, extents).run for shard in shards], threads=threads), shards


def start_on_sample(module: ShardedModule[Any], shards: Sequence[Shard], context: Context, sample_rows: int) -> State:
    """Return the parameters from which a first update starts."""
    chunks = sampled_chunks(shards[0].extent, sample_rows, context.seed)
    return dict(module.start(sample_inbox([each for shard in shards for each in shard.sample(chunks)]), context))


def _open_alone(module: ShardedModule[Any], inbox: Inbox, context: Context) -> tuple[LocalWorkers, list[Shard]]:
    first = next(iter(inbox), None)
    if first is None:
        raise ModuleError(f"module {context.module!r} got no message: connect a module below it, or update that first")
    return open_group([module], inbox, extents_of(row_count(first), CHUNK_ROWS, 1), context)


def update_alone(module: ShardedModule[Any], learnt: State, inbox: Inbox, context: Context) -> tuple[State, Outbox]:
    """Run an update of a module in this process; return the next parameters and the outbox."""
    workers, shards = _open_alone(module, inbox, context)
    if not learnt:
        learnt = start_on_sample(module, shards, context, SAMPLE_ROWS)
    learnt, sweep = learn(workers, learnt)
    (answer,), metrics = respond(workers, learnt, sweep)
    return learnt, Outbox(answer.messages, metrics, join_outputs(module, [answer.outputs]))


def answer_alone(module: ShardedModule[Any], learnt: State, inbox: Inbox, context: Context) -> Outbox:
    """Respond to all rows in this process, without learning."""
    workers, _ = _open_alone(module, inbox, context)
    (answer,), _ = respond(workers, learnt)
    return Outbox(answer.messages, {}, join_outputs(module, [answer.outputs]))
