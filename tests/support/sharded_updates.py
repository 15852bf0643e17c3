"""Updates and recognition by several workers of one process, for tests."""

import numpy as np

from actors.module import Context, Inbox
from actors.sharing.chunks import Extent, ShardedArrays, join_arrays
from actors.sharing.driver import learn, open_group, respond, start_on_sample
from actors.sharing.shard import join_outputs


def cut_at(cuts, rows, size):
    """Return the extents of workers between whose shards the given chunks begin."""
    chunks = -(-rows // size)
    return [Extent(rows, size, first, last) for first, last in zip([0, *cuts], [*cuts, chunks], strict=True)]


class Answer:
    """What a group returned: state, outputs of all rows, metrics, and messages by port and receiver."""

    def __init__(self, state, outputs, metrics, messages):
        self.state, self.outputs, self.metrics, self.messages = state, outputs, metrics, messages


def call_by_workers(make, extents, messages, state=None, sample_rows=20_000, **context):
    """Let modules made by `make`, one for each extent, run a call; return the answer.

    `state` is that of the call before; the one returned has gone through `load_state`, as in a run.
    """
    context = Context("it", **context)
    modules = [make() for _ in extents]
    for module in modules:
        module.load_state(state or {})
    workers, shards = open_group(modules, Inbox(messages), extents, context)
    try:
        learnt, sweep = modules[0].state(), 0
        if context.mode == "update":
            learnt = learnt or start_on_sample(modules[0], shards, context, sample_rows)
            learnt, sweep = learn(workers, learnt)
        answers, metrics = respond(workers, learnt, sweep)
        answers, metrics = [workers.get(answer) for answer in answers], workers.get(metrics)
    finally:
        workers.close()
    modules[0].load_state(workers.get(learnt))
    continued = [shard.rows.chunk(shard.extent.first).continued for shard in shards]
    outputs = join_outputs(modules[0], [answer.outputs for answer in answers])
    return Answer(modules[0].state(), outputs, metrics, _joined(modules[0], answers, extents, continued))


def _joined(module, answers, extents, continued):
    kinds = {port.name: port.kind for port in module.ports}
    joined = {}
    for parts in zip(*(answer.messages for answer in answers), strict=True):
        arrays = tuple({name: np.asarray(array) for name, array in part.arrays.items()} for part in parts)
        sharded = ShardedArrays(arrays, tuple(extent.start for extent in extents), tuple(continued))
        joined[parts[0].port, parts[0].receiver] = join_arrays(kinds[parts[0].port], sharded)
    return joined


def same_answers(left, right):
    """Return whether two answers have the same bits."""
    return (
        _same(left.state, right.state)
        and _same(left.outputs, right.outputs)
        and left.metrics == right.metrics
        and left.messages.keys() == right.messages.keys()
        and all(_same(left.messages[slot], right.messages[slot]) for slot in left.messages)
    )


def _same(left, right):
    return left.keys() == right.keys() and all(
        np.asarray(left[name]).dtype == np.asarray(right[name]).dtype
        and np.array_equal(left[name], right[name], equal_nan=np.asarray(left[name]).dtype.kind == "f")
        for name in left
    )
