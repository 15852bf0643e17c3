"""A module with several workers in a model: the same results for any number of them, messages and commits included."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.backends.shard_host import ShardHost
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.storage.checkpoints import Checkpoints
from tests.faults.runs import digests

ROWS = 700
X = np.random.default_rng(0).normal(size=(ROWS, 5)) + 6.0 * np.eye(5)[np.arange(ROWS) % 3]
LENGTHS = np.array([100, 1, 299, 64, 36, 200])
KMEANS = "tests.support.sharded_modules:KMeans"


def graph(workers=None, chunk=64, rounds=2, type=KMEANS, steps=None, sample=200, **given):
    """Return observations, their principal components, k-means by workers, and a Markov model above it."""
    sharing = None if workers is None else Sharing(workers, chunk, sample)
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec("pca", "pca", {"latent_dim": 3}),
        ModuleSpec("kmeans", type, given, sharing=sharing),
        ModuleSpec("mm", "markov"),
    ]
    connections = [Connection("data", "pca"), Connection("pca", "kmeans"), Connection("kmeans", "mm")]
    steps = steps or tuple(Step(name) for name in ("pca", "kmeans", "mm"))
    return Graph(specs, connections, Schedule(rounds, steps))


def run(root, model, rows=X, lengths=LENGTHS, name="run"):
    checkpoints = Checkpoints(root)
    coordinator = Coordinator(model, InProcessBackend(), run=name, seed=3, checkpoints=checkpoints)
    coordinator.start({"data": {"values": rows, "lengths": lengths}})
    coordinator.run_rounds()
    return coordinator, checkpoints


@pytest.mark.parametrize("lengths", [LENGTHS, None])
def test_any_number_of_workers_gives_the_same_commits(tmp_path, lengths):
    _, alone = run(tmp_path / "1", graph(1), lengths=lengths)
    for workers in (2, 3, 5, 11):
        _, shared = run(tmp_path / str(workers), graph(workers), lengths=lengths)
        assert shared.names() == alone.names()
        for name in alone.names():
            assert digests(shared, name) == digests(alone, name)


def test_the_module_above_learns_from_all_rows_and_whole_sequences(tmp_path):
    learnt, _ = run(tmp_path, graph(4))
    assert learnt.outputs("kmeans")["class"].shape == (ROWS,)
    assert learnt.outputs("kmeans")["centres"].shape == (3, 3)
    counts = learnt.state("mm")["transitions"]
    assert counts.sum() == pytest.approx(ROWS - len(LENGTHS))


def test_a_run_goes_on_with_another_number_of_workers(tmp_path):
    _, whole = run(tmp_path / "whole", graph(3, rounds=4))
    run(tmp_path / "parts", graph(3, rounds=2))
    checkpoints = Checkpoints(tmp_path / "parts")
    resumed = Coordinator(graph(2, rounds=4), InProcessBackend(), run="run", seed=3, checkpoints=checkpoints)
    resumed.resume()
    resumed.run_rounds()
    name = "round-004"
    assert digests(Checkpoints(tmp_path / "parts"), name) == digests(whole, name)


def test_recognition_is_shared_too(tmp_path):
    learnt, _ = run(tmp_path, graph(3))
    states = {name: learnt.state(name) for name in ("pca", "kmeans", "mm")}
    new = {"data": {"values": X[:150]}}
    outputs = {
        workers: Coordinator(graph(workers), InProcessBackend()).recognize(states, new, ordered=True)["kmeans"]
        for workers in (1, 2)
    }
    np.testing.assert_array_equal(outputs[1]["class"], outputs[2]["class"])
    assert outputs[1]["class"].shape == (150,)


def test_all_workers_recognise_with_the_parameters_of_the_step_that_learnt(tmp_path):
    model = graph(3, type="tests.support.sharded_modules:Labels")
    model = Graph(
        model.modules.values(),
        [Connection("data", "pca"), Connection("pca", "kmeans"), Connection("kmeans", "mm")],
        Schedule(1, (Step("pca"), Step("kmeans", {"label": 7}), Step("mm"))),
    )
    learnt, _ = run(tmp_path, model)
    states = {name: learnt.state(name) for name in ("pca", "kmeans", "mm")}
    outputs = Coordinator(model, InProcessBackend()).recognize(states, {"data": {"values": X}}, ordered=True)["kmeans"]
    assert outputs["label"].tolist() == [7] * ROWS


def test_a_worker_is_prepared_for_sharing_after_its_module():
    host = ShardHost(graph(2, type="tests.support.sharded_modules:Labels").modules["kmeans"], ())
    host.prepare("cpu")
    assert host.module.prepared == ("module", "sharing")


def test_more_workers_than_chunks_are_refused_in_one_sentence(tmp_path):
    sentence = "'kmeans': 12 workers for 700 rows, which are 11 chunks of 64: use at most 11"
    with pytest.raises(ModuleError, match=sentence):
        run(tmp_path, graph(12))


def test_auto_takes_no_more_workers_than_there_are_chunks(tmp_path):
    _, alone = run(tmp_path / "1", graph(1, chunk=1000))
    _, auto = run(tmp_path / "auto", graph("auto", chunk=1000))
    assert digests(auto, "round-002") == digests(alone, "round-002")


def chains(workers, sample_rows, rounds=2, chains=4):
    """Return a model in which several chains of k-means compete, on a sample of 256 rows."""
    block = Block((Step("kmeans"),), repeat=2, chains=chains)
    given = {"type": "tests.support.sharded_modules:ScoredKMeans", "classes": 3, "iterations": 2}
    return graph(workers, sample=sample_rows, rounds=rounds, steps=(Step("pca"), block, Step("mm")), **given)


def evidences(model, rows=X):
    """Return what each chain was started from, and its evidence; and the evidence of the module in the end."""
    found = []

    def emit(event):
        if event.event == "chain":
            found.append((event.round, event.origin, event.evidence))

    coordinator = Coordinator(model, InProcessBackend(), seed=3, emit=emit)
    coordinator.start({"data": {"values": rows, "lengths": LENGTHS}})
    coordinator.run_rounds()
    return found, coordinator._router.results["kmeans"].metrics["evidence"]


def test_chains_compete_on_a_sample_and_all_rows_learn_from_the_best():
    found, evidence = evidences(chains(2, 256))
    of_all, evidence_of_all = evidences(chains(2, ROWS))
    first = [value for round, _, value in found if round == 1]
    assert [origin for round, origin, _ in found if round == 1] == ["afresh"] * 4
    assert [origin for round, origin, _ in found if round == 2] == ["incumbent", "continued", *["afresh"] * 4]
    assert max(first) / 256 == pytest.approx(evidence_of_all / ROWS, rel=0.2)  # of the rows in the sample alone
    assert evidence == pytest.approx(evidence_of_all, rel=1e-3)  # of all rows, in the same optimum
    assert max(value for *_, value in of_all) <= evidence_of_all + 1e-9


def test_chains_on_a_sample_are_the_same_for_any_number_of_workers(tmp_path):
    _, alone = run(tmp_path / "1", chains(1, 256))
    for workers in (2, 5):
        _, shared = run(tmp_path / str(workers), chains(workers, 256))
        assert all(digests(shared, name) == digests(alone, name) for name in alone.names())


def test_a_chain_that_is_kept_unchanged_is_not_learnt_from_anew():
    found, evidence = evidences(chains(2, 256, rounds=6))
    rescored = [value for _, origin, value in found if origin == "incumbent"]
    assert rescored[-1] == pytest.approx(rescored[-2], rel=1e-9)
    assert evidence == pytest.approx(evidences(chains(2, 256, rounds=5))[1], rel=1e-6)
