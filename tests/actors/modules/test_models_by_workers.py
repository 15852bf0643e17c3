"""Models whose built-in modules have several workers: the same commits for any number of them."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.storage.checkpoints import Checkpoints
from tests.actors.backends.ray.test_backend import collect_events, launch
from tests.actors.kernels.mixture.test_autoregression import made_rows
from tests.faults.runs import digests

ROWS, CLASSES = 700, 3
TRUTH = np.arange(ROWS) % CLASSES
X = np.random.default_rng(0).normal(size=(ROWS, 5)) + 6.0 * np.eye(5)[TRUTH]
LENGTHS = np.array([100, 1, 299, 64, 36, 200])


def graph(workers, engine="vb", rounds=2, chunk=64, chains=0):
    """Return principal components and a mixture by workers, and a Markov model above."""
    sharing = Sharing(workers, chunk, 200)
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec("pca", "pca", {"latent_dim": 3}, sharing=sharing),
        ModuleSpec(
            "gmm", "gmm", {"classes": CLASSES, "engine": engine, "iterations": 5, "calibrate": True}, sharing=sharing
        ),
        ModuleSpec("mm", "markov"),
    ]
    connections = [Connection("data", "pca"), Connection("pca", "gmm"), Connection("gmm", "mm")]
    above = Block((Step("gmm"), Step("mm")), repeat=2, chains=chains)
    return Graph(specs, connections, Schedule(rounds, (Step("pca"), above)))


MOVING, TURNS, _ = made_rows(blocks=14, length=50)


def dynamics(workers, engine="vb", rounds=2, chains=0):
    """Return autoregressions and a Markov model above, both by workers."""
    sharing = Sharing(workers, 64, 400)
    ar = {"classes": 2, "order": 2, "engine": engine, "iterations": 3, "calibrate": True}
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec("ar", "ar_gmm", ar, sharing=sharing),
        ModuleSpec("mm", "markov", sharing=sharing),
    ]
    block = Block((Step("ar"), Step("mm")), repeat=2, chains=chains)
    return Graph(specs, [Connection("data", "ar"), Connection("ar", "mm")], Schedule(rounds, (block,)))


def run(root, model, rows=X):
    coordinator = Coordinator(model, InProcessBackend(), run="run", seed=3, checkpoints=Checkpoints(root))
    coordinator.start({"data": {"values": rows, "lengths": LENGTHS}})
    coordinator.run_rounds()
    return coordinator


def commits(root):
    checkpoints = Checkpoints(root)
    return {name: digests(checkpoints, name) for name in checkpoints.names()}


@pytest.mark.parametrize(("engine", "numbers"), [("vb", [2, 3, 5]), ("blocked-gibbs", [4])])
def test_any_number_of_workers_gives_the_same_commits(tmp_path, engine, numbers):
    learnt = run(tmp_path / "1", graph(1, engine))
    labels = learnt.outputs("gmm")["class"]
    assert len(set(zip(labels.tolist(), TRUTH.tolist(), strict=True))) == CLASSES
    for workers in numbers:
        run(tmp_path / str(workers), graph(workers, engine))
        assert commits(tmp_path / str(workers)) == commits(tmp_path / "1")


@pytest.mark.parametrize(("engine", "chains"), [("vb", 0), ("vb", 2), ("blocked-gibbs", 0)])
def test_any_number_of_workers_gives_autoregressions_the_same_commits(tmp_path, engine, chains):
    learnt = run(tmp_path / "1", dynamics(1, engine, chains=chains), MOVING)
    if engine == "vb":
        right = (learnt.outputs("mm")["viterbi"] == TURNS).mean()
        assert max(right, 1.0 - right) > 0.9
    for workers in (2, 3):
        run(tmp_path / str(workers), dynamics(workers, engine, chains=chains), MOVING)
        assert commits(tmp_path / str(workers)) == commits(tmp_path / "1")


def test_a_run_goes_on_with_fewer_workers(tmp_path):
    run(tmp_path / "whole", graph(3, rounds=4))
    run(tmp_path / "parts", graph(3, rounds=2))
    checkpoints = Checkpoints(tmp_path / "parts")
    resumed = Coordinator(graph(2, rounds=4), InProcessBackend(), run="run", seed=3, checkpoints=checkpoints)
    resumed.resume()
    resumed.run_rounds()
    assert commits(tmp_path / "parts")["round-004"] == commits(tmp_path / "whole")["round-004"]


def test_recognition_and_generation_use_what_workers_learnt(tmp_path):
    learnt = run(tmp_path, graph(3))
    states = {name: learnt.state(name) for name in ("pca", "gmm", "mm")}
    new = {"data": {"values": X[:150]}}
    outputs = {
        workers: Coordinator(graph(workers), InProcessBackend()).recognize(states, new, ordered=True)["gmm"]
        for workers in (1, 2)
    }
    np.testing.assert_array_equal(outputs[1]["Pdz"], outputs[2]["Pdz"])
    np.testing.assert_array_equal(outputs[1]["class"], learnt.outputs("gmm")["class"][:150])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_workers_on_ray_give_the_bits_of_one_process(tmp_path, engine):
    run(tmp_path / "1", graph(1, engine))
    running = launch(graph(3, engine), "run", Checkpoints(tmp_path / "ray"), seed=3)
    try:
        collect_events(running.begin({"data": {"values": X, "lengths": LENGTHS}}))
    finally:
        running.stop()
    assert commits(tmp_path / "ray") == commits(tmp_path / "1")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_autoregressions_by_workers_on_ray_have_the_bits_of_one_process(tmp_path):
    run(tmp_path / "1", dynamics(1), MOVING)
    running = launch(dynamics(2), "run", Checkpoints(tmp_path / "ray"), seed=3)
    try:
        collect_events(running.begin({"data": {"values": MOVING, "lengths": LENGTHS}}))
    finally:
        running.stop()
    assert commits(tmp_path / "ray") == commits(tmp_path / "1")
