"""GMMs and histograms below one MLDA, and a Markov model above it: each learns what none could alone."""

import numpy as np
import pytest
from actors.graph.spec import Connection, ModuleSpec

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from runner.report.clustering_metrics import accuracy

K, N = 4, 200
TRUTH = np.arange(N) % K
CORNERS = np.array([[-2.0, -2.0], [2.0, -2.0], [2.0, 2.0], [-2.0, 2.0]])


def places(merged, seed, rows=N):
    """Return points around the corners of their classes; the two classes in `merged` are at one corner."""
    corners = CORNERS.copy()
    corners[merged[1]] = corners[merged[0]]
    return corners[np.arange(rows) % K] + 0.5 * np.random.default_rng(seed).normal(size=(rows, 2))


def words(merged, seed, rows=N):
    """Return 30 words a row, a quarter of them the row's own; the two classes in `merged` use the same."""
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
    coordinator = Coordinator(graph, InProcess(), seed=seed)
    coordinator.start({name: {"values": values} for name, values in data.items()})
    coordinator.run_rounds()
    return coordinator


def gmms_of(model):
    return [spec.name for spec in model[0] if spec.type == "gmm"]


def of(coordinator, module="mlda"):
    return accuracy(coordinator.outputs(module)["class"], TRUTH)


@pytest.mark.parametrize("seed", range(3))
def test_a_gmm_and_words_tell_apart_together_what_each_confuses(seed):
    data = {"camera": places((0, 1), seed), "words": words((2, 3), seed)}
    learnt = learn(ONE, data, seed)
    assert of(learnt) >= 0.95
    assert of(learnt, "gmm") <= 0.75


@pytest.mark.parametrize("seed", range(3))
def test_two_gmms_below_one_mlda_do_so_too(seed):
    data = {"left": places((0, 1), seed), "right": places((2, 3), seed + 100)}
    learnt = learn(TWO, data, seed)
    assert of(learnt) >= 0.95
    assert max(of(learnt, "gmm1"), of(learnt, "gmm2")) <= 0.75


def test_what_a_camera_misses_the_other_one_tells_its_gmm():
    data = {"left": places((0, 1), 0), "right": places((0, 1), 100)}
    learnt = learn(TWO, data)
    states = {name: learnt.state(name) for name in ("gmm1", "gmm2", "mlda")}
    new = {
        "left": {"values": places((0, 1), 7), "mask": np.ones(N, dtype=bool)},
        "right": {"values": places((0, 1), 107)},
    }
    outputs = Coordinator(learnt.graph, InProcess()).recognize(states, new, ordered=False)
    seen = np.array([0, 0, 1, 2])[np.arange(N) % K]  # all that either camera can see
    place = outputs["gmm1"]["Pdz"] @ states["gmm1"]["mean"]
    expected = np.array([place[seen == corner].mean(axis=0) for corner in range(3)])
    np.testing.assert_allclose(expected, CORNERS[[0, 2, 3]], atol=0.5)


@pytest.mark.parametrize("seed", range(3))
def test_a_markov_model_above_tells_apart_by_their_order_what_no_word_does(seed):
    model = (
        [ModuleSpec("words", "observation"), MLDA, ModuleSpec("mm", "markov")],
        [Connection("words", "mlda"), Connection("mlda", "mm")],
    )
    still = Step("mlda", {"iterations": 0})
    block = Block((Step("mlda", {"iterations": 3}), Step("mm")), repeat=15, anneal=(0.2, 1.0))
    data = {"words": words((0, 1), seed)}
    alone = learn((model[0][:2], model[1][:1]), data, seed)
    assert of(alone) <= 0.9
    learnt = learn(model, data, seed, schedule=Schedule(1, (block, still)))
    assert of(learnt) >= 0.95
    np.testing.assert_allclose(learnt.outputs("mm")["trans_prob"].max(axis=1), 1.0, atol=0.05)


def test_made_up_rows_are_of_one_class_in_both_cameras():
    data = {"left": places((0, 1), 0), "right": places((0, 1), 100)}
    learnt = learn(TWO, data)
    states = {name: learnt.state(name) for name in ("gmm1", "gmm2", "mlda")}
    made = Coordinator(learnt.graph, InProcess(), seed=1).make_up(states, 50)
    alike = {(a, b) for a, b in zip(made["mlda"]["class"], made["gmm1"]["class"], strict=True)}
    assert len(alike) <= K  # each topic has its class
    assert len(set(made["mlda"]["class"])) > 1


def test_one_gmm_feeds_an_mlda_and_a_markov_model_and_what_each_says_goes_to_the_other_alone():
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
    # Neither sees a difference between 0 and 1, but the order does; all of it comes together in the GMM's classes.
    assert of(learnt, "gmm") >= 0.95

    def sent(sender, slot):
        return learnt._router.held[sender].letters[slot].arrays["log_prob"]

    # Upwards goes likelihood × the other's prior: what the two messages differ by is what the two priors do.
    up = sent("gmm", "class_posteriors.mm") - sent("gmm", "class_posteriors.mlda")
    down = sent("mlda", "transition_prior.gmm") - sent("mm", "transition_prior.gmm")
    apart = up - down
    np.testing.assert_allclose(apart, np.repeat(apart[:, :1], K, axis=1), atol=1e-8)
    assert np.abs(down).max() > 1.0
