"""The Markov model by workers in a model: the same commits for any number of workers, also with moves."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import ChainFinished
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.storage.checkpoints import Checkpoints
from tests.faults.runs import digests

ROWS, K = 500, 4
LENGTHS = np.array([100, 1, 27, 200, 36, 136])
X = np.random.default_rng(0).normal(size=(ROWS, 5)) + 3.0 * np.eye(5)[np.arange(ROWS) % K]
MODULES = ("pca", "gmm", "mm")


def graph(workers, rounds=1, moves=0, mm=None):
    """Return observations, their principal components, and a mixture in exchange with a Markov model by workers."""
    sharing = None if workers is None else Sharing(workers, 64, 200)
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec("pca", "pca", {"latent_dim": 4}),
        ModuleSpec("gmm", "gmm", {"classes": K, "engine": "vb", "iterations": 3}),
        ModuleSpec("mm", "markov", mm or {}, sharing=sharing),
    ]
    connections = [Connection("data", "pca"), Connection("pca", "gmm"), Connection("gmm", "mm")]
    exchanges = Block((Step("gmm"), Step("mm")), repeat=2, anneal=(0.5, 1.0), moves=moves)
    return Graph(specs, connections, Schedule(rounds, (Step("pca"), exchanges, Step("gmm", {"iterations": 0}))))


def run(root, model, lengths=LENGTHS, emit=None):
    checkpoints = Checkpoints(root)
    coordinator = Coordinator(
        model, InProcessBackend(), run="run", seed=3, checkpoints=checkpoints, emit=emit or [].append
    )
    coordinator.start({"data": {"values": X, "lengths": lengths}})
    coordinator.run_rounds()
    return coordinator, checkpoints


def assert_same_commits(one, other):
    assert one.names() == other.names()
    for name in one.names():
        assert digests(one, name) == digests(other, name)


@pytest.mark.parametrize("lengths", [LENGTHS, None])
def test_any_number_of_workers_gives_the_same_commits(tmp_path, lengths):
    _, alone = run(tmp_path / "1", graph(1), lengths)
    for workers in (2, 3, 5):
        assert_same_commits(run(tmp_path / str(workers), graph(workers), lengths)[1], alone)


def test_workers_learn_what_one_process_learns(tmp_path):
    one, ours = run(tmp_path / "one", graph(None))[0], run(tmp_path / "workers", graph(3))[0]
    assert np.array_equal(ours.outputs("mm")["viterbi"], one.outputs("mm")["viterbi"])
    for name in ("gmm", "mm"):
        for entry, value in one.state(name).items():
            np.testing.assert_allclose(ours.state(name)[entry], value, rtol=1e-7, atol=1e-7, err_msg=entry)
    assert ours.state("mm").keys() == one.state("mm").keys()


def test_moves_are_proposed_from_what_workers_learnt(tmp_path):
    events = {1: [], 3: []}
    commits = [run(tmp_path / str(w), graph(w, moves=1), emit=each.append)[1] for w, each in events.items()]
    assert_same_commits(*commits)
    evidence = [
        {each.chain: each.evidence for each in emitted if isinstance(each, ChainFinished) and each.origin == "move 1"}
        for emitted in events.values()
    ]
    assert evidence[0]
    assert evidence[0] == evidence[1]


def test_a_run_goes_on_with_fewer_workers_or_in_one_process(tmp_path):
    _, whole = run(tmp_path / "whole", graph(3, rounds=2))
    for name, model in (("fewer", graph(2, rounds=2)), ("one", graph(None, rounds=2))):
        run(tmp_path / name, graph(3))
        checkpoints = Checkpoints(tmp_path / name)
        resumed = Coordinator(model, InProcessBackend(), run="run", seed=3, checkpoints=checkpoints)
        resumed.resume()
        resumed.run_rounds()
        if name == "fewer":
            assert_same_commits(checkpoints, whole)
        assert checkpoints.names() == whole.names()


def test_recognition_does_not_depend_on_the_workers(tmp_path):
    learnt, _ = run(tmp_path, graph(3))
    states = {name: learnt.state(name) for name in MODULES}
    new = {"data": {"values": X[:150], "lengths": np.array([100, 50])}}
    for ordered in (True, False):
        outputs = [
            Coordinator(graph(workers), InProcessBackend()).recognize(states, new, ordered=ordered)
            for workers in (None, 1, 3)
        ]
        for name, value in outputs[1]["mm"].items():
            np.testing.assert_array_equal(outputs[2]["mm"][name], value)
            np.testing.assert_allclose(outputs[0]["mm"][name], value, rtol=1e-9, atol=1e-9)
        assert outputs[2]["mm"]["log_evidence"].shape == (2,)
