"""A group whose first worker drives the others over connections: the bits of one worker, and errors in bounded time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from actors.errors import ModuleError, WorkerConnectionError
from actors.module import Context, Inbox
from actors.sharing.connected import ConnectedWorkers, Follower
from actors.sharing.driver import learn, open_group, prepare_response, repeat_passes, respond, start_on_sample
from actors.sharing.frames import UnsendableError, pack_frame
from actors.sharing.shard import join_outputs
from tests.actors.sharing.test_connections import pair
from tests.actors.sharing.test_driver import LENGTHS, cut_at, kmeans, vectors
from tests.support.sharded_modules import KMeans, Noise, Sums
from tests.support.toy_modules import same_arrays


class Group:
    """Workers of this process, each in a thread, of which the first one drives the others over connections."""

    def __init__(self, make, cuts, message=None, **context):
        extents, self.context = cut_at(cuts), Context("it", receivers={"class_posteriors": ("mm",)}, **context)
        self.modules = [make() for _ in extents]
        opened = open_group(self.modules, Inbox([message or vectors()]), extents, self.context)
        self.workers, self.shards = opened
        self.run = [partial_of(self.workers, rank) for rank in range(len(extents))]
        ends = [pair() for _ in extents[1:]]
        self.group = ConnectedWorkers(self.run[0], [here for here, _, _ in ends])
        self.followers = [Follower(there) for _, there, _ in ends]
        self.pool = ThreadPoolExecutor(len(extents))
        self.start = start_on_sample(self.modules[0], self.shards, self.context, 200)

    def lead(self):
        """Run the passes and what comes before the responses; return the parameters and the number of passes."""
        followed = [
            self.pool.submit(self.follow, follower, run)
            for follower, run in zip(self.followers, self.run[1:], strict=True)
        ]
        try:
            learnt, sweep = repeat_passes(self.group, self.start)
            prepare_response(self.group, learnt, sweep)
            self.group.end()
        except BaseException:
            self.group.close()
            raise
        finally:
            self.errors = [each.exception(10.0) for each in followed]
        return learnt, sweep

    def follow(self, follower, run):
        try:
            follower.run(run)
        except BaseException:
            follower.close()
            raise


def partial_of(workers, rank):
    def run(method, *values):
        returns = 2 if method in ("begin_passes", "maximise", "begin_response") else None
        if method == "spread":
            returns = workers.count
        called = workers.call(rank, method, *values, returns=returns)
        return workers.get(called) if returns is None else [workers.get(each) for each in called]

    return run


def answers_of(workers, modules, learnt, sweep, **given):
    answers, metrics = respond(workers, learnt, sweep, **given)
    answers, metrics = [workers.get(answer) for answer in answers], workers.get(metrics)
    return join_outputs(modules[0], [answer.outputs for answer in answers]), metrics


@pytest.mark.parametrize("make", [kmeans(), lambda: Noise(Noise.Parameters()), lambda: Sums(Sums.Parameters())])
@pytest.mark.parametrize("cuts", [[8], [1, 2, 9]])
def test_the_bits_are_those_of_workers_that_are_called_pass_by_pass(make, cuts):
    message = (
        vectors(np.arange(2000.0).reshape(1000, 2), lengths=LENGTHS) if make().row_outputs[0] == "before" else None
    )
    connected = Group(make, cuts, message, seed=3)
    learnt, sweep = connected.lead()
    assert connected.errors == [None] * len(cuts)
    found = answers_of(connected.workers, connected.modules, None, sweep, prepared=True)
    called = Group(make, cuts, message, seed=3)
    expected, passes = learn(called.workers, called.start)
    assert sweep == passes
    assert same_arrays(learnt, called.workers.get(expected))
    outputs, metrics = answers_of(called.workers, called.modules, expected, passes)
    assert same_arrays(found[0], outputs)
    assert found[1] == metrics


def test_connections_serve_one_update_after_the_other():
    group = Group(kmeans(), [4, 8, 12])
    first, _ = group.lead()
    for _ in range(2):
        assert same_arrays(first, group.lead()[0])


def test_a_worker_that_took_no_part_in_a_call_gets_all_parameters_in_the_next_one():
    ends, seen = [pair(), pair()], [[], []]
    group = ConnectedWorkers(print, [here for here, _, _ in ends])
    for (_, there, _), into in zip(ends, seen, strict=True):
        run = partial(lambda into, _method, learnt, *_: into.append(learnt), into)
        threading.Thread(target=Follower(there).run, args=(run,), daemon=True).start()
    fixed = np.random.default_rng(0).normal(size=(50, 30))
    for number, workers in enumerate([2, 1, 1, 2, 2]):
        state = {"fixed": fixed, "next": np.full(5, float(number))}
        state |= {"odd": fixed + 1} if number in (1, 4) else {}
        for reply in [group.call(worker, "accumulate", state, 0, ()) for worker in range(workers, 0, -1)]:
            group.get(reply)
    assert [each["next"][0] for each in seen[0]] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [each["next"][0] for each in seen[1]] == [0.0, 3.0, 4.0]
    assert all(np.array_equal(each["fixed"], fixed) for into in seen for each in into)
    assert np.array_equal(seen[1][-1]["odd"], fixed + 1)
    group.end()


class Failing(KMeans):
    """K-means that fails in a chunk."""

    error, chunk = ModuleError("chunk 9 is odd"), 9

    def accumulate(self, chunk, learnt, context):
        if chunk.index == self.chunk and context.sweep == 1:
            raise self.error
        return super().accumulate(chunk, learnt, context)


def test_the_error_of_a_worker_is_its_own_and_the_first_one_hears_of_it():
    group = Group(lambda: Failing(Failing.Parameters()), [4, 8, 12])
    with pytest.raises(WorkerConnectionError, match="is lost"):
        group.lead()
    assert [type(error) for error in group.errors] == [WorkerConnectionError, ModuleError, WorkerConnectionError]


def test_the_error_of_the_first_worker_ends_the_others():
    group = Group(lambda: FailingFirst(FailingFirst.Parameters()), [4, 8])
    with pytest.raises(ModuleError, match="is odd"):
        group.lead()
    assert [type(error) for error in group.errors] == [WorkerConnectionError] * 2


class FailingFirst(Failing):
    chunk = 0


class Unsendable(KMeans):
    """K-means whose sums a frame cannot hold."""

    def maximise(self, statistics, learnt, context):
        return {**super().maximise(statistics, learnt, context), "odd": np.array([object()])}


def test_parameters_that_connections_cannot_carry_are_reported_as_such():
    group = Group(lambda: Unsendable(Unsendable.Parameters()), [4, 8])
    with pytest.raises(UnsendableError):
        group.lead()


@pytest.mark.parametrize(
    "asked",
    [
        ("call", "learn", {}),
        ("call", "__init__"),
        ("call",),
        ("parameters", ["a"], ["b"], []),
        ("parameters", ["a"], [""], []),
        "end",
        3,
    ],
)
def test_a_worker_refuses_what_there_is_not(asked):
    here, there, _ = pair()
    here.send(pack_frame(asked))
    with pytest.raises(WorkerConnectionError):
        Follower(there).run(lambda *_: None)


def test_the_first_worker_refuses_an_answer_of_another_form():
    here, there, _ = pair()
    there.send(pack_frame(("parameters", [], [], [])))
    with pytest.raises(WorkerConnectionError, match="no answer"):
        ConnectedWorkers(print, [here]).call(1, "accumulate", {}, 0, ()).get()


def test_only_parameters_that_have_changed_are_sent_again():
    here, there, _ = pair()
    group, seen = ConnectedWorkers(print, [here]), []

    def run(_method, learnt, *_rest):
        seen.append(learnt)
        return None

    threading.Thread(target=Follower(there).run, args=(run,), daemon=True).start()
    sizes, send = [], here.send
    here.send = lambda *frames: (sizes.append(sum(len(p) for f in frames for p in f)), send(*frames))
    fixed = np.random.default_rng(0).normal(size=(50, 30))
    other = fixed[::-1].copy()
    states = [{"fixed": fixed, "next": np.full(5, float(n))} for n in range(3)]
    states += [{"fixed": other, "before": fixed}, {"next": np.zeros(5)}, {"before": other, "fixed": fixed}]
    for state in (states[0], *states):
        group.get(group.call(1, "accumulate", state, 0, ()))
    assert all(same_arrays(*each) for each in zip(seen, (states[0], *states), strict=True))
    assert [size > fixed.nbytes for size in sizes] == [True, False, False, False, True, False, False]
    fixed[0, 0] = 7.0  # a module may go on to use an array
    group.get(group.call(1, "accumulate", {"fixed": fixed, "next": np.zeros(5)}, 0, ()))
    assert seen[-1]["fixed"][0, 0] == 7.0
    group.end()
