"""Models whose built-in modules have several workers: the same commits for any number of them."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.storage.checkpoints import Checkpoints
from runner.data.syllables import SYLLABLES, WORDS, speak
from runner.report.clustering_metrics import accuracy
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


@pytest.mark.parametrize(
    ("engine", "chains"), [("vb", 0), pytest.param("vb", 2, marks=pytest.mark.slow), ("blocked-gibbs", 0)]
)
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


# --- two levels of Markov models: syllables, and words above them -----------------------------------------------------

SPOKEN = speak(700, 4.0, seed=1)


def two_levels(syllables, words=None, chains=0, chunk=64):
    """Return a mixture, a Markov model with regimes by workers, and above it one, with workers if a number is given."""
    lower = Sharing(syllables, chunk, 200)
    above = {} if words is None else {"sharing": Sharing(words, chunk, 200)}
    gmm = {"classes": SYLLABLES, "engine": "vb", "iterations": 3, "start": "kmeans", "prior_scale": "data"}
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec("gmm", "gmm", gmm, sharing=lower),
        ModuleSpec("mm", "switching_markov", {"regimes": WORDS}, sharing=lower),
        ModuleSpec("words", "markov", {"self_transition_prior": 20.0, "estimate": "variational"}, **above),
    ]
    connections = [Connection("data", "gmm"), Connection("gmm", "mm"), Connection("mm", "words")]
    block = Block((Step("gmm"), Step("mm"), Step("words")), repeat=4, chains=chains)
    return Graph(specs, connections, Schedule(1, (block, Step("mm", {"inner_iterations": 0}))))


def speak_to(root, model):
    coordinator = Coordinator(model, InProcessBackend(), run="run", seed=3, checkpoints=Checkpoints(root))
    coordinator.start({"data": {"values": SPOKEN.rows, "lengths": LENGTHS}})
    coordinator.run_rounds()
    return coordinator


@pytest.mark.parametrize(("words", "chains"), [(None, 0), (2, 0), pytest.param(3, 2, marks=pytest.mark.slow)])
def test_two_levels_have_the_same_commits_for_any_number_of_workers(tmp_path, words, chains):
    learnt = speak_to(tmp_path / "1", two_levels(1, None if words is None else 1, chains))
    assert accuracy(learnt.outputs("mm")["Pdz"].argmax(axis=1), SPOKEN.syllables) > 0.9
    for syllables in (2, 3):
        speak_to(tmp_path / str(syllables), two_levels(syllables, words, chains))
        assert commits(tmp_path / str(syllables)) == commits(tmp_path / "1")
    states = {name: learnt.state(name) for name in ("gmm", "mm", "words")}
    found = [
        Coordinator(two_levels(workers, words), InProcessBackend()).recognize(
            states, {"data": {"values": SPOKEN.rows[:200]}}, ordered=True
        )
        for workers in (1, 3)
    ]
    for name in ("regime", "Pregime", "smoothed", "log_evidence"):
        np.testing.assert_array_equal(found[0]["mm"][name], found[1]["mm"][name])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_levels_on_ray_give_the_bits_of_one_process(tmp_path):
    speak_to(tmp_path / "1", two_levels(2))
    running = launch(two_levels(2), "run", Checkpoints(tmp_path / "ray"), seed=3)
    try:
        collect_events(running.begin({"data": {"values": SPOKEN.rows, "lengths": LENGTHS}}))
    finally:
        running.stop()
    assert commits(tmp_path / "ray") == commits(tmp_path / "1")


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
