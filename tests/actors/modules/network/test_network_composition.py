"""A network above a GMM and above a VAE: its messages down make them learn what the targets depend on."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import GraphError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.modules.network.network import Network
from runner.report.clustering_metrics import accuracy

pytestmark = pytest.mark.usefixtures("one_thread")


class Silent(Network):
    """A network without messages to the senders of its inputs."""

    ports = tuple(port for port in Network.ports if port.name not in ("transition_prior", "latent_means"))


SILENT = f"{__name__}:Silent"
CLASSES = 4


def overlapping(seed, rows=400):
    """Return points of four overlapping clusters in the plane, labels of which 85 % are right, and the classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(CLASSES, size=rows)
    corners = 1.2 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    labels = np.where(rng.random(rows) < 0.8, classes, rng.integers(CLASSES, size=rows))
    return corners[classes] + rng.normal(size=(rows, 2)), np.eye(CLASSES)[labels], classes


def weak_classes(seed, rows=200):
    """Return images of which two classes explain little of the variance, one-hot labels, and the classes."""
    rng = np.random.default_rng(seed)
    classes, brightness = np.arange(rows) % 2, rng.random((rows, 1))
    pixels = np.hstack([np.tile(brightness, 6), np.tile(0.35 + 0.3 * classes[:, None], 3)])
    return np.clip(pixels + 0.05 * rng.normal(size=(rows, 9)), 0, 1), np.eye(2)[classes], classes


def learn(below, network, seed, data, rounds):
    """Train a module below a network, with targets from a second source; return the coordinator and a recognizer."""
    quick = {"loss": "cross_entropy", "epochs": 20, "hidden": 16, "learning_rate": 1e-2, "batch_size": 100}
    modules = [ModuleSpec("data", "observation"), ModuleSpec("words", "observation"), below]
    graph = Graph(
        [*modules, ModuleSpec("net", network, quick)],
        [Connection("data", below.name), Connection(below.name, "net"), Connection("words", "net")],
        Schedule(rounds, (Step(below.name), Step("net"))),
    )
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start({"data": {"values": data[0]}, "words": {"values": data[1]}})
    coordinator.run_rounds()
    states = {name: coordinator.state(name) for name in (below.name, "net")}

    def recognize(values, words, *, hidden):
        sources = {"data": {"values": values}, "words": {"values": words, "mask": np.full(len(words), hidden)}}
        return Coordinator(graph, InProcessBackend(), seed=seed).recognize(states, sources, ordered=False)

    return coordinator, recognize


@pytest.mark.parametrize("seed", range(3))
def test_a_network_above_makes_a_gmm_learn_the_classes_of_the_targets(seed):
    def accuracies(network):
        gmm = ModuleSpec("gmm", "gmm", {"classes": CLASSES, "iterations": 20, "prior_scale": "data"})
        X, labels, classes = overlapping(seed)
        coordinator, recognize = learn(gmm, network, seed, (X, labels), rounds=5)
        learnt = accuracy(coordinator.outputs("gmm")["class"], classes)
        X, labels, classes = overlapping(seed + 100, rows=1000)
        new = [accuracy(recognize(X, labels, hidden=hidden)["gmm"]["class"], classes) for hidden in (True, False)]
        return learnt, *new

    # The true clusters alone give an accuracy of 0.78, the labels alone 0.85.
    learnt, new, new_with_labels = accuracies("network")
    assert learnt > 0.85
    assert new > 0.74
    assert new_with_labels > 0.87
    assert max(accuracies(SILENT)) < 0.72


@pytest.mark.slow
def test_a_network_above_makes_a_vae_encode_what_the_targets_depend_on():
    seed = 0

    def accuracy_with(network):
        parameters = {"latent_dim": 2, "epochs": 60, "hidden": 32, "learning_rate": 1e-2, "batch_size": 50}
        _, recognize = learn(ModuleSpec("vae", "vae", parameters), network, seed, weak_classes(seed), rounds=4)
        X, words, classes = weak_classes(seed + 100)
        y_hat = recognize(X, words, hidden=True)["net"]["y_hat"]
        return (y_hat.argmax(axis=1) == classes).mean()

    assert accuracy_with("network") > 0.9
    assert accuracy_with(SILENT) < 0.75


def test_a_graph_with_two_sources_of_targets_is_rejected():
    modules = [ModuleSpec(name, "observation") for name in ("data", "words", "more")]
    modules += [ModuleSpec("gmm", "gmm"), ModuleSpec("net", "network")]
    edges = [("data", "gmm"), ("gmm", "net"), ("words", "net"), ("more", "net")]
    with pytest.raises(GraphError, match="words and more all send to port 'observations'"):
        Graph(modules, [Connection(*edge) for edge in edges])
