"""A module with several workers in a model: the same results for any number of them, messages and commits included."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.storage.checkpoints import Checkpoints
from tests.faults.runs import digests

ROWS = 700
X = np.random.default_rng(0).normal(size=(ROWS, 5)) + 6.0 * np.eye(5)[np.arange(ROWS) % 3]
LENGTHS = np.array([100, 1, 299, 64, 36, 200])
KMEANS = "tests.support.sharded_modules:KMeans"


def graph(workers=None, chunk=64, rounds=2, type=KMEANS, **given):
    """Return observations, their principal components, k-means by workers, and a Markov model above it."""
    sharing = None if workers is None else Sharing(workers, chunk, 200)
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec("pca", "pca", {"latent_dim": 3}),
        ModuleSpec("kmeans", type, given, sharing=sharing),
        ModuleSpec("mm", "markov"),
    ]
    connections = [Connection("data", "pca"), Connection("pca", "kmeans"), Connection("kmeans", "mm")]
    return Graph(specs, connections, Schedule(rounds, tuple(Step(name) for name in ("pca", "kmeans", "mm"))))


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


def test_more_workers_than_chunks_are_refused_in_one_sentence(tmp_path):
    sentence = "'kmeans': 12 workers for 700 rows, which are 11 chunks of 64: use at most 11"
    with pytest.raises(ModuleError, match=sentence):
        run(tmp_path, graph(12))


def test_auto_takes_no_more_workers_than_there_are_chunks(tmp_path):
    _, alone = run(tmp_path / "1", graph(1, chunk=1000))
    _, auto = run(tmp_path / "auto", graph("auto", chunk=1000))
    assert digests(auto, "round-002") == digests(alone, "round-002")
