"""Tests of GMM and MM together: sequence start, calibrated likelihood, and rows without an order."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import BlockFinished
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import make_module
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from runner.report.clustering_metrics import accuracy

K = 4
BOTH = {"start": "sequence", "calibrate": True}


def four_cycle(spread, rows=400, seed=0, noise_dimensions=4):
    """Return a cycle of four clusters in the plane, beside noise dimensions of larger variance, and its classes."""
    generator = np.random.default_rng(seed)
    classes = np.arange(rows) % K
    corners = np.array([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]])
    plane = corners[classes] + spread * generator.normal(size=(rows, 2))
    return np.hstack([plane, 5.0 * generator.normal(size=(rows, noise_dimensions))]), classes


def learn(X, seed=0, exchanges=10, mm=None, **parameters):
    graph = Graph(
        [
            ModuleSpec("data", "observation"),
            ModuleSpec("gmm", "gmm", {"classes": K, "iterations": 2, "prior_scale": "data", **parameters}),
            ModuleSpec("mm", "markov", mm or {}),
        ],
        [Connection("data", "gmm"), Connection("gmm", "mm")],
        Schedule(1, (Block((Step("gmm"), Step("mm")), repeat=exchanges), Step("gmm", {"iterations": 0}))),
    )
    events = []
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed, emit=events.append)
    coordinator.start({"data": {"values": X}})
    coordinator.run_rounds()
    evidence = [event.evidence for event in events if isinstance(event, BlockFinished)][-1]
    return coordinator, evidence


def classes_of(coordinator):
    return coordinator.outputs("gmm")["class"]


@pytest.mark.parametrize("seed", range(5))
def test_every_seed_learns_the_cycle_beside_dimensions_of_larger_variance(seed):
    X, truth = four_cycle(1.0, seed=seed)
    coordinator, _ = learn(X, seed, **BOTH)
    assert accuracy(classes_of(coordinator), truth) >= 0.99
    successors = coordinator.outputs("mm")["trans_prob"].argmax(1)
    k, seen = 0, set()
    for _ in range(K):
        seen.add(k)
        k = int(successors[k])
    assert (k, len(seen)) == (0, K)


def test_the_evidence_measures_what_the_order_explains():
    X, _ = four_cycle(1.0)
    _, ordered = learn(X, **BOTH)
    _, shuffled = learn(np.random.default_rng(0).permutation(X), **BOTH)
    assert ordered > 0.5 * len(X) * np.log(K)  # at most log K nats per row can be explained
    assert shuffled < 0.1 * len(X) * np.log(K)


def test_rows_off_an_order_are_lapses_only_where_the_order_goes_on_without_them():
    """The first are rows of a hidden cycle with 10 % of the rows from any class: the lapse rate models just these."""
    generator, places = np.random.default_rng(3), np.arange(800) % K
    random = generator.integers(0, K, places.size)
    off = generator.random(places.size) < 0.1
    single, lasting = np.where(off, random, places), np.cumsum(np.where(off, random, 1)) % K
    corners = np.array([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]])
    noise = 0.3 * generator.normal(size=(places.size, 2))
    for classes, hidden in ((single, places), (lasting, lasting)):
        plain, _ = learn(corners[classes] + noise)
        calibrated, _ = learn(corners[classes] + noise, **BOTH)
        assert accuracy(classes_of(plain), classes) == 1.0
        assert accuracy(classes_of(calibrated), hidden) > 0.99
        assert (calibrated.state("gmm")["lapse"] >= 0.03) == (hidden is places)


def test_the_score_is_the_log_density_of_the_whole_model_also_with_relative_evidence():
    X, _ = four_cycle(0.3, noise_dimensions=0)
    absolute, evidence = learn(X)
    relative, explained = learn(X, **BOTH)
    assert absolute.score() == evidence
    assert relative.score() != explained
    assert relative.score() == pytest.approx(absolute.score(), abs=0.05 * len(X))


def test_a_loaded_calibration_continues_bit_for_bit_also_after_recognition():
    X, _ = four_cycle(1.0)
    generator = np.random.default_rng(0)
    latents = make_message(Header("latent_vectors", "vae", "latent_vectors", "gmm"), {"mean": X})
    log_prob = np.log(generator.dirichlet(np.ones(K), len(X)))
    prior = make_message(Header("transition_prior", "mm", "transition_prior", "gmm"), {"log_prob": log_prob})
    inbox = Inbox([latents, prior])
    receivers = {"class_posteriors": ("mm",)}
    first = make_module("gmm", {"classes": K, "iterations": 2, **BOTH})
    first.update(inbox, Context("gmm", receivers=receivers))
    second = make_module("gmm", {"classes": K, "iterations": 2, **BOTH})
    second.load_state(first.state())
    for gmm in (first, second):
        gmm.recognize(inbox, Context("gmm", receivers=receivers))
        metrics = gmm.update(inbox, Context("gmm", round=1, receivers=receivers)).metrics
        calibration = [metrics[name] for name in ("likelihood_temperature", "lapse_rate")]
        assert calibration == [gmm.state()[name] for name in ("temperature", "lapse")]
    assert first.state().keys() == second.state().keys()
    for name, value in first.state().items():
        np.testing.assert_array_equal(value, second.state()[name])
    assert 0 < first.state()["temperature"] <= 1


def test_missing_rows_do_not_break_the_sequence_start():
    X, truth = four_cycle(0.5)
    mask = np.random.default_rng(1).random(len(X)) < 0.1
    X[mask] = 1e6
    message = make_message(Header("latent_vectors", "vae", "latent_vectors", "gmm"), {"mean": X, "mask": mask})
    gmm = make_module("gmm", {"classes": K, "iterations": 2, **BOTH})
    predicted = gmm.update(Inbox([message]), Context("gmm", receivers={"class_posteriors": ("mm",)})).outputs["class"]
    assert accuracy(predicted[~mask], truth[~mask]) >= 0.95


def test_chains_have_different_sequence_starts():
    X, _ = four_cycle(1.5, rows=200)
    message = make_message(Header("latent_vectors", "vae", "latent_vectors", "gmm"), {"mean": X})

    def initial_labels(chain):
        gmm = make_module("gmm", {"classes": K, "iterations": 0, **BOTH})
        gmm.update(Inbox([message]), Context("gmm", chain=chain))
        return gmm.state()["labels"]

    alike = [adjusted_rand_score(initial_labels(a), initial_labels(b)) for a in range(4) for b in range(a)]
    assert max(alike) < 0.95
    np.testing.assert_array_equal(initial_labels(1), initial_labels(1))


def test_the_sequence_start_refuses_fewer_rows_than_classes():
    message = make_message(Header("latent_vectors", "vae", "latent_vectors", "gmm"), {"mean": np.zeros((3, 2))})
    with pytest.raises(ModuleError, match="3 rows cannot start 4 classes"):
        make_module("gmm", {"classes": K, **BOTH}).update(Inbox([message]), Context("gmm"))


def test_generated_rows_follow_the_learnt_transitions():
    X, _ = four_cycle(1.0)
    learnt, _ = learn(X, **BOTH)
    states = {name: learnt.state(name) for name in ("gmm", "mm")}
    generated = Coordinator(learnt.graph, InProcessBackend(), seed=1).generate_rows(states, 200)
    classes = generated["mm"]["class"]
    np.testing.assert_array_equal(classes, generated["gmm"]["class"])
    successors = states["mm"]["trans_prob"].argmax(1)
    assert (successors[classes[:-1]] == classes[1:]).mean() > 0.9


def test_classes_are_drawn_by_their_frequency_without_a_markov_model():
    X, truth = four_cycle(0.3, noise_dimensions=0)
    rare = X[(truth > 0) | (np.arange(len(X)) < 80)]
    message = make_message(Header("latent_vectors", "vae", "latent_vectors", "gmm"), {"mean": rare})
    gmm = make_module("gmm", {"classes": K, "iterations": 20, "start": "sequence"})
    gmm.update(Inbox([message]), Context("gmm"))
    drawn = gmm.generate(Inbox(), Context("gmm", rows=20_000)).outputs["class"]
    counts = np.bincount(gmm.state()["labels"], minlength=K)
    np.testing.assert_allclose(np.bincount(drawn, minlength=K) / 20_000, counts / counts.sum(), atol=0.02)


def without_markov_model(X, **parameters):
    graph = Graph(
        [
            ModuleSpec("data", "observation"),
            ModuleSpec("gmm", "gmm", {"classes": K, "iterations": 2, "prior_scale": "data", **parameters}),
        ],
        [Connection("data", "gmm")],
        Schedule(1, (Block((Step("gmm"),), repeat=10),)),
    )
    coordinator = Coordinator(graph, InProcessBackend())
    coordinator.start({"data": {"values": X}})
    coordinator.run_rounds()
    return classes_of(coordinator)


@pytest.mark.parametrize("parameters", [{}, BOTH], ids=["plain", "calibrated"])
def test_without_an_order_the_model_equals_the_one_without_a_markov_model(parameters):
    X = np.random.default_rng(3).permutation(four_cycle(1.0)[0])
    tested, _ = learn(X, mm={"test_order": True}, **parameters)
    np.testing.assert_array_equal(classes_of(tested), without_markov_model(X, **parameters))
    untested, _ = learn(X, **parameters)
    assert (classes_of(untested) != classes_of(tested)).any()


def test_with_an_order_the_order_test_changes_nothing():
    X, _ = four_cycle(1.0)
    untested, _ = learn(X, **BOTH)
    tested, _ = learn(X, mm={"test_order": True}, **BOTH)
    np.testing.assert_array_equal(classes_of(untested), classes_of(tested))


def test_a_negative_order_test_is_stored_and_applies_to_new_rows():
    X = np.random.default_rng(3).permutation(four_cycle(1.0)[0])
    learnt, _ = learn(X, mm={"test_order": True}, **BOTH)
    states = {name: learnt.state(name) for name in ("gmm", "mm")}
    assert states["mm"]["frequencies"].sum() == pytest.approx(1.0)
    outputs = Coordinator(learnt.graph, InProcessBackend()).recognize(
        states, {"data": {"values": X[:50]}}, ordered=True
    )
    np.testing.assert_allclose(outputs["mm"]["msg"], np.tile(states["mm"]["frequencies"], (50, 1)), atol=1e-8)
    np.testing.assert_allclose(outputs["mm"]["smoothed"].sum(axis=1), 1.0)
    assert "viterbi" not in outputs["mm"]
