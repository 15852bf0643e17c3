"""GMMs and histograms below an MLDA, and a Markov model above it: together they separate more classes than alone."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from runner.report.clustering_metrics import accuracy
from tests.support.speech_data import speech_histograms

K, N = 4, 200
TRUTH = np.arange(N) % K
CORNERS = np.array([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]])
MORE_SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]


def places(merged, seed, rows=N):
    """Return points around the corners of their classes; the two classes in `merged` share a corner."""
    corners = CORNERS.copy()
    corners[merged[1]] = corners[merged[0]]
    return corners[np.arange(rows) % K] + 0.5 * np.random.default_rng(seed).normal(size=(rows, 2))


def words(merged, seed, rows=N):
    """Return counts of 30 words per row, a quarter of them noise; the two classes in `merged` share their words."""
    generator = np.random.default_rng(seed)
    phi = np.eye(K).repeat(3, axis=1) / 3
    phi[merged[1]] = phi[merged[0]]
    own = generator.dirichlet(np.full(12, 0.2), rows)
    return generator.multinomial(30, 0.75 * phi[np.arange(rows) % K] + 0.25 * own).astype(float)


def gmm(name):
    return ModuleSpec(name, "gmm", {"classes": 3, "iterations": 10, "prior_scale": "data", "start": "kmeans"})


MLDA = ModuleSpec("mlda", "mlda", {"topics": K, "iterations": 10})
ONE = (
    [ModuleSpec("camera", "observation"), ModuleSpec("words", "observation"), gmm("gmm"), MLDA],
    [Connection("camera", "gmm"), Connection("gmm", "mlda"), Connection("words", "mlda")],
)
TWO = (
    [ModuleSpec("left", "observation"), ModuleSpec("right", "observation"), gmm("gmm1"), gmm("gmm2"), MLDA],
    [Connection("left", "gmm1"), Connection("right", "gmm2"), Connection("gmm1", "mlda"), Connection("gmm2", "mlda")],
)


def learn(model, data, seed=0, rounds=3, schedule=None):
    graph = Graph(*model, schedule or Schedule(rounds, tuple(Step(name) for name in [*gmms_of(model), "mlda"])))
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start({name: {"values": values} for name, values in data.items()})
    coordinator.run_rounds()
    return coordinator


def gmms_of(model):
    return [spec.name for spec in model[0] if spec.type == "gmm"]


def accuracy_of(coordinator, module="mlda"):
    return accuracy(coordinator.outputs(module)["class"], TRUTH)


@pytest.mark.parametrize("seed", MORE_SEEDS)
def test_a_gmm_and_words_together_separate_classes_that_each_alone_confuses(seed):
    data = {"camera": places((0, 1), seed), "words": words((2, 3), seed)}
    learnt = learn(ONE, data, seed)
    assert accuracy_of(learnt) >= 0.95
    assert accuracy_of(learnt, "gmm") <= 0.75


@pytest.mark.parametrize("seed", MORE_SEEDS)
def test_two_gmms_together_separate_classes_that_each_alone_confuses(seed):
    data = {"left": places((0, 1), seed), "right": places((2, 3), seed + 100)}
    learnt = learn(TWO, data, seed)
    assert accuracy_of(learnt) >= 0.95
    assert max(accuracy_of(learnt, "gmm1"), accuracy_of(learnt, "gmm2")) <= 0.75


def histograms_of(labels, generator):
    """Draw 40 of 30 words for each row, from one distribution for each label."""
    phi = generator.dirichlet(np.full(30, 0.2), labels.max() + 1)
    return np.array([generator.multinomial(40, phi[label]) for label in labels]).astype(float)


def objects_and_motions(seed):
    """Return histograms of objects and of motions; in a fifth of the rows the motion is not that of the object."""
    generator = np.random.default_rng(seed)
    objects = np.arange(N) % 10
    motions = np.where(generator.random(N) < 0.8, (7 * objects + 3) % 10, generator.integers(0, 10, N))
    labels = {"objects": objects, "motions": motions}
    return labels, {name: histograms_of(values, generator) for name, values in labels.items()}


@pytest.mark.parametrize("seed", MORE_SEEDS[:2])
def test_an_mlda_above_two_others_makes_neither_worse(seed):
    labels, data = objects_and_motions(seed)
    lower = [ModuleSpec(f"{name}_mlda", "mlda", {"topics": 10, "iterations": 20}) for name in data]
    upper = ModuleSpec("mlda", "mlda", {"topics": 10, "iterations": 20})
    below = [Connection(name, f"{name}_mlda") for name in data]
    above = [Connection(spec.name, "mlda") for spec in lower]
    specs = [*(ModuleSpec(name, "observation") for name in data), *lower, upper]
    schedule = Schedule(3, tuple(Step(spec.name) for spec in [*lower, upper]))
    learnt = learn((specs, below + above), data, seed, schedule=schedule)
    for name, truth in labels.items():
        assert accuracy(learnt.outputs(f"{name}_mlda")["class"], truth) >= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_speech_and_pictures_together_are_better_than_each_alone(seed):
    """205 frames that are far from independent do not outweigh the class of a picture."""
    rows = 300
    labels, generator = np.arange(rows) % 10, np.random.default_rng(seed)
    pictures = generator.normal(size=(10, 6))[labels] + 0.45 * generator.normal(size=(rows, 6))
    data = {"pictures": pictures, "speech": speech_histograms(labels, seed)}
    mixture = ModuleSpec("gmm", "gmm", {"classes": 10, "iterations": 10, "prior_scale": "data", "start": "kmeans"})
    mlda = ModuleSpec("mlda", "mlda", {"topics": 10, "iterations": 20})
    specs = [ModuleSpec("pictures", "observation"), ModuleSpec("speech", "observation"), mixture, mlda]
    connections = [Connection("pictures", "gmm"), Connection("gmm", "mlda"), Connection("speech", "mlda")]
    learnt = learn((specs, connections), data, seed)
    speech = learn((specs[1:2] + specs[3:], connections[2:]), {"speech": data["speech"]}, seed)
    alone = Schedule(1, (Step("gmm"),))
    picture = learn((specs[:1] + specs[2:3], connections[:1]), {"pictures": pictures}, seed, schedule=alone)
    of = {
        "both": accuracy(learnt.outputs("mlda")["class"], labels),
        "gmm": accuracy(learnt.outputs("gmm")["class"], labels),
        "speech": accuracy(speech.outputs("mlda")["class"], labels),
        "picture": accuracy(picture.outputs("gmm")["class"], labels),
    }
    assert of["both"] >= max(of["speech"], of["picture"]) + 0.02, of
    assert of["gmm"] >= of["picture"] - 0.02, of
    assert learnt.state("mlda")["exponent.speech"] <= 0.25


def test_a_gmm_without_data_is_informed_by_the_other_camera():
    data = {"left": places((0, 1), 0), "right": places((0, 1), 100)}
    learnt = learn(TWO, data)
    states = {name: learnt.state(name) for name in ("gmm1", "gmm2", "mlda")}
    new = {
        "left": {"values": places((0, 1), 7), "mask": np.ones(N, dtype=bool)},
        "right": {"values": places((0, 1), 107)},
    }
    outputs = Coordinator(learnt.graph, InProcessBackend()).recognize(states, new, ordered=False)
    seen = np.array([0, 0, 1, 2])[np.arange(N) % K]  # the classes that each camera can separate
    place = outputs["gmm1"]["Pdz"] @ states["gmm1"]["mean"]
    expected = np.array([place[seen == corner].mean(axis=0) for corner in range(3)])
    np.testing.assert_allclose(expected, CORNERS[[0, 2, 3]], atol=0.5)


@pytest.mark.parametrize("seed", MORE_SEEDS)
def test_a_markov_model_above_separates_by_order_classes_with_equal_words(seed):
    model = (
        [ModuleSpec("words", "observation"), MLDA, ModuleSpec("mm", "markov")],
        [Connection("words", "mlda"), Connection("mlda", "mm")],
    )
    without_sweeps = Step("mlda", {"iterations": 0})
    block = Block((Step("mlda", {"iterations": 3}), Step("mm")), repeat=15, anneal=(0.2, 1.0))
    data = {"words": words((0, 1), seed)}
    alone = learn((model[0][:2], model[1][:1]), data, seed)
    assert accuracy_of(alone) <= 0.9
    learnt = learn(model, data, seed, schedule=Schedule(1, (block, without_sweeps)))
    assert accuracy_of(learnt) >= 0.95
    np.testing.assert_allclose(learnt.outputs("mm")["trans_prob"].max(axis=1), 1.0, atol=0.05)


def test_generated_rows_have_one_class_in_both_cameras():
    data = {"left": places((0, 1), 0), "right": places((0, 1), 100)}
    learnt = learn(TWO, data)
    states = {name: learnt.state(name) for name in ("gmm1", "gmm2", "mlda")}
    generated = Coordinator(learnt.graph, InProcessBackend(), seed=1).generate_rows(states, 50)
    pairs = {(a, b) for a, b in zip(generated["mlda"]["class"], generated["gmm1"]["class"], strict=True)}
    assert len(pairs) <= K  # one class for each topic
    assert len(set(generated["mlda"]["class"])) > 1


def test_a_gmm_passes_the_prior_of_each_of_two_receivers_to_the_other_only():
    mixture = ModuleSpec("gmm", "gmm", {"classes": K, "iterations": 3, "prior_scale": "data"})
    model = (
        [
            ModuleSpec("camera", "observation"),
            ModuleSpec("words", "observation"),
            mixture,
            MLDA,
            ModuleSpec("mm", "markov"),
        ],
        [*ONE[1], Connection("gmm", "mm")],
    )
    block = Block((Step("mlda"), Step("gmm"), Step("mm")), repeat=8, anneal=(0.3, 1.0))
    schedule = Schedule(1, (block, Step("mlda"), Step("gmm", {"iterations": 0})))
    learnt = learn(model, {"camera": places((0, 1), 0), "words": words((0, 1), 0)}, schedule=schedule)
    # Neither modality separates classes 0 and 1, but the order does; the GMM combines all of them.
    assert accuracy_of(learnt, "gmm") >= 0.95

    def sent(sender, slot):
        return learnt._router.results[sender].messages[slot].arrays["log_prob"]

    # Each message up is likelihood × the other's prior, so the two messages differ by the ratio of the priors.
    up = sent("gmm", "class_posteriors.mm") - sent("gmm", "class_posteriors.mlda")
    down = sent("mlda", "transition_prior.gmm") - sent("mm", "transition_prior.gmm")
    difference = up - down
    np.testing.assert_allclose(difference, np.repeat(difference[:, :1], K, axis=1), atol=1e-8)
    assert np.abs(down).max() > 1.0
