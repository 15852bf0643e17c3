"""Updates that workers share: the same bits for any number of workers and any cuts, and scans along sequences."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from actors.errors import MessageError, ModuleError
from actors.kernels.chunk_tree import covering_nodes
from actors.messaging.codec import make_message
from actors.messaging.message import Header, Message
from actors.module import Context, Inbox, Outbox, OutgoingMessage
from actors.sharing.chunks import Extent, MessageParts, ShardRows, join_messages
from actors.sharing.driver import extents_of, learn, open_group, respond, sample_inbox, start_on_sample
from actors.sharing.shard import join_outputs
from tests.support.sharded_modules import KMeans, Noise, Sums
from tests.support.toy_modules import same_arrays

N, D, SIZE = 1000, 3, 64
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(N, D)) + 4 * np.eye(3)[np.arange(N) % 3]
LENGTHS = np.array([100, 1, 63, 200, 36, 64, 536])


def vectors(mean=X, **rows):
    return make_message(Header("latent_vectors", "vae", "latent_vectors", "it"), {"mean": mean, **rows})


def cut_at(cuts, rows=N):
    chunks = -(-rows // SIZE)
    return [Extent(rows, SIZE, first, last) for first, last in zip([0, *cuts], [*cuts, chunks], strict=True)]


def update(make, extents, message=None, learnt=None, **context):
    """Run an update of a group of workers; return the parameters, the joined outputs and the metrics."""
    context = Context("it", receivers={"class_posteriors": ("mm",)}, **context)
    modules = [make() for _ in extents]
    workers, shards = open_group(modules, Inbox([message or vectors()]), extents, context)
    learnt = learnt or start_on_sample(modules[0], shards, context, 200)
    learnt, sweep = learn(workers, learnt)
    answers, metrics = respond(workers, learnt, sweep)
    answers, metrics = [workers.get(answer) for answer in answers], workers.get(metrics)
    workers.close()
    outputs = join_outputs(modules[0], [a.outputs for a in answers])
    return workers.get(learnt), outputs, metrics, answers


def kmeans(**given):
    return lambda: KMeans(KMeans.Parameters(**given))


@pytest.mark.parametrize("make", [kmeans(), lambda: Noise(Noise.Parameters())])
@pytest.mark.parametrize("cuts", [[8], [1, 2, 3], [5, 15], list(range(1, 16))])
def test_the_bits_do_not_depend_on_the_number_of_workers_or_the_cuts(make, cuts):
    alone, shared = update(make, cut_at([])), update(make, cut_at(cuts))
    assert same_arrays(alone[0], shared[0])
    assert same_arrays(alone[1], shared[1])
    assert alone[2] == shared[2]


def test_a_shared_update_is_that_of_the_algorithm_on_all_rows():
    learnt, outputs, metrics, _ = update(kmeans(), cut_at([3, 9]))
    start = update(kmeans(iterations=0), cut_at([]))[0]["centres"]
    for _ in range(5):
        nearest = ((X[:, None] - start) ** 2).sum(axis=2).argmin(axis=1)
        start = np.array([X[nearest == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(learnt["centres"], start, rtol=1e-12)
    distance = ((X[:, None] - start) ** 2).sum(axis=2)
    np.testing.assert_array_equal(outputs["class"], distance.argmin(axis=1))
    expected = np.logaddexp.reduce(-0.5 * (distance + D * np.log(2 * np.pi)), axis=1).sum()
    assert metrics["score"] == pytest.approx(expected)


def test_a_module_with_the_shared_methods_alone_updates_and_recognises_like_any_other():
    module, context = kmeans()(), Context("it")
    outbox = module.update(Inbox([vectors()]), context)
    (message,) = outbox.messages
    assert message.arrays["log_prob"].shape == (N, 3)
    assert outbox.outputs["class"].shape == (N,)
    other = kmeans()()
    with pytest.raises(ModuleError, match="learnt nothing yet"):
        other.recognize(Inbox([vectors()]), context)
    other.load_state(module.state())
    answer = other.recognize(Inbox([vectors(X[:10])]), context)
    np.testing.assert_array_equal(answer.outputs["class"], outbox.outputs["class"][:10])
    with pytest.raises(ModuleError, match="got no message"):
        other.update(Inbox([]), context)


def test_draws_differ_between_chunks_passes_and_seeds():
    make = lambda: Noise(Noise.Parameters())  # noqa: E731
    first, other = update(make, cut_at([4])), update(make, cut_at([4]), seed=1)
    noise = first[1]["noise"]
    assert len(set(noise.tolist())) == N
    assert first[0]["total"] != other[0]["total"]
    one_pass = update(lambda: Noise(Noise.Parameters(iterations=1)), cut_at([4]))
    assert one_pass[0]["own"] != first[0]["own"]


@pytest.mark.parametrize("lengths", [None, LENGTHS, np.ones(N, int), np.array([64] * 15 + [40])])
@pytest.mark.parametrize("cuts", [[], [1], [2, 7, 15]])
def test_scans_bring_the_rows_before_and_after_into_each_chunk(lengths, cuts):
    whole = np.arange(2.0 * N).reshape(N, 2)
    rows = {} if lengths is None else {"lengths": lengths}
    outputs = update(lambda: Sums(Sums.Parameters()), cut_at(cuts), vectors(whole, **rows))[1]
    starts = np.cumsum([0, *([N] if lengths is None else lengths)])
    for first, end in itertools.pairwise(starts):
        values = whole[first:end].sum(axis=1)
        np.testing.assert_array_equal(outputs["before"][first:end], values.cumsum() - values)
        np.testing.assert_array_equal(outputs["after"][first:end], values[::-1].cumsum()[::-1] - values)
    np.testing.assert_array_equal(outputs["whole"], np.add.reduceat(whole.sum(axis=1), starts[:-1]))


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_sums_over_sequences_have_the_same_bits_for_any_number_of_workers(lengths):
    message = vectors(**({} if lengths is None else {"lengths": lengths}))
    alone, *others = [
        update(lambda: Sums(Sums.Parameters()), cut_at(cuts), message)[1]
        for cuts in ([], [1], [8], [2, 7, 15], list(range(1, 16)))
    ]
    starts = np.cumsum([0, *([N] if lengths is None else lengths)])[:-1]
    np.testing.assert_allclose(alone["whole"], np.add.reduceat(X.sum(axis=1), starts), rtol=1e-12)
    for other in others:
        assert same_arrays(other, alone)


def test_a_scan_of_a_pass_is_there_in_later_ones_and_in_the_response():
    class Once(Sums):
        learning_parameters = ("iterations",)

        @dataclass(frozen=True)
        class Parameters:
            iterations: int = 3

        def scans(self, learnt, responding, context):
            return ("before", "after") if context.sweep == 1 else ()

        def accumulate(self, chunk, learnt, context):
            assert len(chunk.entering) == (2 if context.sweep else 0)
            assert chunk.memo.setdefault("pass", context.sweep) == 0
            return {}

    once = update(lambda: Once(Once.Parameters()), cut_at([2, 9]))[1]
    assert same_arrays(once, update(lambda: Sums(Sums.Parameters()), cut_at([]))[1])


def test_messages_of_workers_have_the_pieces_of_sequences_among_their_rows():
    mask = np.zeros(N, bool)
    mask[[70, 500]] = True
    answers = update(kmeans(), cut_at([2, 9]), vectors(lengths=LENGTHS, mask=mask))[3]
    pieces = [answer.messages[0].arrays["lengths"].tolist() for answer in answers]
    assert pieces == [[100, 1, 27], [36, 200, 36, 64, 112], [424]]
    np.testing.assert_array_equal(np.concatenate([a.messages[0].arrays["mask"] for a in answers]), mask)


def test_a_worker_may_hold_a_message_with_its_own_rows_only():
    extent = Extent(N, SIZE, 3, 6)
    own = vectors(X[extent.start : extent.stop])
    rows = ShardRows([(own, extent.start), (vectors(), 0)], extent)
    chunk = rows.chunk(4)
    np.testing.assert_array_equal(chunk.inbox.require("latent_vectors")["mean"], X[chunk.rows])
    assert (chunk.continued, chunk.continues, len(chunk)) == (True, True, SIZE)
    assert chunk.inbox.require("latent_vectors").header.arrays[0].shape == (SIZE, D)
    with pytest.raises(MessageError, match="rows 192 to 384 came, 128 to 384 are needed"):
        ShardRows([(own, extent.start)], Extent(N, SIZE, 2, 6))


def test_a_chunk_has_the_same_rows_in_each_pass_and_only_views_of_messages_stay():
    first, second = vectors(X[:150]), vectors(X[150:])
    rows = ShardRows([MessageParts([(first, 0), (second, 150)])], Extent(N, SIZE, 0, 16))
    for index in (0, 2, 3):  # rows 128 to 191 lie in both parts
        inboxes = [rows.chunk(index).inbox for _ in range(2)]
        for inbox in inboxes:
            values = inbox.require("latent_vectors")["mean"]
            np.testing.assert_array_equal(values, X[index * SIZE : (index + 1) * SIZE])
            assert np.shares_memory(values, first["mean"]) == (index == 0)
            assert np.shares_memory(values, second["mean"]) == (index == 3)
        assert rows.has_whole(index) == (index != 2)


def test_the_sample_has_whole_chunks_and_the_pieces_of_their_sequences():
    rows = ShardRows([(vectors(lengths=LENGTHS), 0)], Extent(N, SIZE, 0, 16), np.cumsum([0, *LENGTHS[:-1]]))
    sample = sample_inbox([rows.chunk(c) for c in (0, 1, 4, 15)]).require("latent_vectors")
    assert sample.lengths.tolist() == [100, 1, 27, 64, 40]  # rows 0 to 127, 256 to 319 and the last 40
    np.testing.assert_array_equal(sample["mean"], np.concatenate([X[:128], X[256:320], X[960:]]))


def test_a_sample_of_all_rows_is_the_whole():
    rows = ShardRows([(vectors(), 0)], Extent(N, SIZE, 0, 16))
    whole = sample_inbox([rows.chunk(c) for c in range(16)]).require("latent_vectors")
    assert whole.lengths is None
    np.testing.assert_array_equal(whole["mean"], X)
    part = sample_inbox([rows.chunk(c) for c in (2, 3, 5)]).require("latent_vectors")
    assert part.lengths.tolist() == [128, 64]


def test_rows_are_dealt_out_evenly_and_never_to_more_workers_than_chunks():
    sizes = [e.stop - e.start for e in extents_of(N, SIZE, 3)]
    assert sizes == [320, 320, 360]
    assert len(extents_of(N, SIZE, 50)) == 16
    assert [(e.start, e.stop) for e in extents_of(5, SIZE, 2)] == [(0, 5)]


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("chunks", [64, 100, 245, 1000, 2442, 99_999])
def test_workers_have_about_as_many_chunks_as_others_and_few_nodes_of_the_tree(chunks, workers):
    extents = extents_of(chunks, 1, workers)
    assert [each.first for each in extents] == [0, *(each.last for each in extents[:-1])]
    assert extents[-1].last == chunks
    sizes = [each.last - each.first for each in extents]
    assert max(sizes) <= 1 + chunks / workers * 17 / 16
    assert min(sizes) >= chunks / workers * 15 / 16 - 1
    nodes = [len(covering_nodes(each.first, each.last, chunks)) for each in extents]
    equal = [chunks * worker // workers for worker in range(workers + 1)]
    of_equal = [len(covering_nodes(a, b, chunks)) for a, b in itertools.pairwise(equal)]
    assert sum(nodes) <= sum(of_equal)
    if chunks > 50 * workers:  # the margin leaves a choice at each end
        assert max(nodes) <= 10


@pytest.mark.parametrize("cuts", [[], [3, 9], list(range(1, 16))])
def test_a_pass_may_use_some_of_the_chunks_alone(cuts):
    class Batches(KMeans):
        def selects(self, index, extent, learnt, context):
            assert extent.rows == N
            return index % 4 == context.sweep % 4

        def accumulate(self, chunk, learnt, context):
            assert chunk.index % 4 == context.sweep % 4
            return super().accumulate(chunk, learnt, context)

    learnt = update(lambda: Batches(KMeans.Parameters(iterations=1)), cut_at(cuts))[0]
    start = update(kmeans(iterations=0), cut_at([]))[0]["centres"]
    used = X[np.arange(N) // SIZE % 4 == 0]
    nearest = ((used[:, None] - start) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_allclose(learnt["centres"], [used[nearest == k].mean(axis=0) for k in range(3)], rtol=1e-12)


def test_statistics_that_do_not_fit_together_are_refused_by_name():
    class Odd(KMeans):
        def accumulate(self, chunk, learnt, context):
            return {"rows" if chunk.index else "row": np.zeros(1)}

    class Ragged(KMeans):
        def accumulate(self, chunk, learnt, context):
            return {"rows": np.zeros(1 + chunk.index)}

    with pytest.raises(ModuleError, match=r"different names: \['row', 'rows'\]"):
        update(lambda: Odd(KMeans.Parameters()), cut_at([]))
    with pytest.raises(ModuleError, match="'rows' of two chunks have shapes"):
        update(lambda: Ragged(KMeans.Parameters()), cut_at([]))


@pytest.mark.parametrize("cuts", [[], [2, 7, 15]])
def test_a_module_may_merge_statistics_that_do_not_add(cuts):
    class Extremes(Noise):
        def accumulate(self, chunk, learnt, context):
            return {"largest": chunk.inbox.require("latent_vectors")["mean"].max(axis=0)}

        def merge(self, left, right):
            return {"largest": np.maximum(left["largest"], right["largest"])}

        def maximise(self, statistics, learnt, context):
            return dict(statistics)

    learnt = update(lambda: Extremes(Noise.Parameters()), cut_at(cuts))[0]
    np.testing.assert_array_equal(learnt["largest"], X.max(axis=0))


@pytest.mark.parametrize("cuts", [[], [2, 7, 15]])
def test_workers_get_what_the_module_broadcasts_and_the_first_keeps_the_rest(cuts):
    class Momentum(KMeans):
        def start(self, inbox, context):
            return {**super().start(inbox, context), "steps": np.zeros(1)}

        def broadcast(self, learnt):
            return {"centres": learnt["centres"]}

        def accumulate(self, chunk, learnt, context):
            assert learnt.keys() == {"centres"}
            return super().accumulate(chunk, learnt, context)

        def maximise(self, statistics, learnt, context):
            return {**super().maximise(statistics, learnt, context), "steps": learnt["steps"] + 1}

        def respond(self, chunk, learnt, context):
            assert learnt.keys() == {"centres"}
            return super().respond(chunk, learnt, context)

        def finish(self, sums, learnt, context):
            return {"steps": float(learnt["steps"][0])}

    learnt, outputs, metrics, _ = update(lambda: Momentum(KMeans.Parameters()), cut_at(cuts))
    expected, same, *_ = update(kmeans(), cut_at([]))
    np.testing.assert_array_equal(learnt["centres"], expected["centres"])
    assert same_arrays(outputs, same)
    assert (learnt["steps"].tolist(), metrics) == ([5.0], {"steps": 5.0})


@pytest.mark.parametrize("cuts", [[], [2, 7, 15]])
def test_statistics_are_float64_unless_the_module_says_float32(cuts):
    class Gradient(Noise):
        float32_statistics = ("gradient",)

        def accumulate(self, chunk, learnt, context):
            rows = chunk.inbox.require("latent_vectors")["mean"].astype(np.float32)
            return {"gradient": rows.sum(axis=0), "sums": rows.sum(axis=0), "rows": len(chunk)}

        def maximise(self, statistics, learnt, context):
            return dict(statistics)

    learnt = update(lambda: Gradient(Noise.Parameters()), cut_at(cuts))[0]
    types = {name: value.dtype.name for name, value in learnt.items()}
    assert types == {"gradient": "float32", "sums": "float64", "rows": "float64"}
    np.testing.assert_allclose(learnt["gradient"], X.sum(axis=0), rtol=1e-5)
    assert same_arrays(learnt, update(lambda: Gradient(Noise.Parameters()), cut_at([]))[0])


def test_parts_of_a_message_are_joined():
    parts = [vectors(X[:10], mask=np.zeros(10, bool)), vectors(X[10:30], mask=np.ones(20, bool))]
    whole = join_messages(parts, np.array([12, 18]))
    assert isinstance(whole, Message)
    np.testing.assert_array_equal(whole["mean"], X[:30])
    assert whole.mask.sum() == 20
    assert whole.lengths.tolist() == [12, 18]
    assert {a.name: a.shape for a in whole.header.arrays}["mean"] == (30, D)


class InRooms(KMeans):
    """K-means whose messages lie where those of all rows are joined: of all chunks, or of every other one."""

    row_outputs = ("class", "distances", "again", "single")

    @dataclass(frozen=True)
    class Parameters(KMeans.Parameters):
        rooms: str = "none"

    def respond(self, chunk, learnt, context):
        outbox = super().respond(chunk, learnt, context)
        values = outbox.messages[0].arrays["log_prob"]
        room = chunk.room("distances", values.shape[1])
        in_room = {"all": True, "even": chunk.index % 2 == 0, "odd": chunk.index % 2 == 1, "none": False}
        if room is not None and in_room[self.parameters.rooms]:
            room[...] = values
            values = room
        outputs = {**outbox.outputs, "distances": values, "again": values[:, 0].copy()}
        single = values.astype(np.float32).reshape(len(values), 1, -1, 1)  # rows of another type and shape
        room = chunk.room("distances", values.shape[1], np.float32)
        if room is not None and in_room[self.parameters.rooms]:
            room.reshape(single.shape)[...] = single
            single = room.reshape(single.shape)
        outputs["single"] = single
        message = OutgoingMessage("class_posteriors", {**outbox.messages[0].arrays, "log_prob": values})
        return Outbox([message], outbox.metrics, outputs)


def in_rooms(rooms):
    return lambda: InRooms(InRooms.Parameters(rooms=rooms))


@pytest.mark.parametrize("rooms", ["all", "even", "odd"])
@pytest.mark.parametrize("cuts", [[], [4, 9]])
def test_what_lies_where_all_rows_are_joined_is_what_would_be_copied_there(rooms, cuts):
    copied, given = update(in_rooms("none"), cut_at(cuts)), update(in_rooms(rooms), cut_at(cuts))
    assert same_arrays(copied[1], given[1])
    for one, other in zip(copied[3], given[3], strict=True):
        assert same_arrays(one.messages[0].arrays, other.messages[0].arrays)
    if rooms == "all":
        for answer in given[3]:
            assert np.shares_memory(answer.outputs["distances"], answer.messages[0].arrays["log_prob"])
            assert answer.outputs["single"].dtype == np.float32


def test_rows_of_several_stretches_have_no_room(monkeypatch):
    monkeypatch.setattr("actors.sharing.chunks.STRETCH_ROWS", 4 * SIZE)
    given = update(in_rooms("all"), cut_at([]))
    monkeypatch.undo()
    assert same_arrays(given[1], update(in_rooms("none"), cut_at([]))[1])
