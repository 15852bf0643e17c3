"""What a step sets applies to all that uses what it learnt: recognition, generation, updates that learn nothing.

Each parameter of each module is set once in the model and once by the step that learns; both must then agree in every
bit. For one mixture the recognised posteriors are also computed with scipy.
"""

from dataclasses import fields

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_t

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import find
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.storage.state_codec import pack_state, unpack_state
from tests.support.toy_modules import same_arrays

N = 60
CLASSES = np.arange(N) % 3


def make_data():
    rng = np.random.default_rng(5)
    means = np.array([[0.2, 0.2, 0.8, 0.1], [0.8, 0.2, 0.2, 0.6], [0.5, 0.9, 0.5, 0.9]])
    shares = means / means.sum(axis=1, keepdims=True)
    rows = np.clip(means[CLASSES] + 0.12 * rng.normal(size=(N, 4)), 0, 1)
    return {
        "data": {"values": rows},
        "words": {"values": rng.multinomial(20, shares[CLASSES]).astype(float)},
    }


GMM_FILE = {"classes": 3, "iterations": 5, "start": "kmeans", "prior_scale": "data"}
MODELS = {
    # type: own parameters, the other modules, connections
    "gmm": (GMM_FILE, {}, ["data -> it"]),
    "dp_gmm": ({"most": 6, "iterations": 5, "start": "kmeans", "prior_scale": "data"}, {}, ["data -> it"]),
    "ar_gmm": ({"classes": 3, "iterations": 5}, {}, ["data -> it"]),
    "markov": ({}, {"gmm": ("gmm", GMM_FILE)}, ["data -> gmm", "gmm -> it"]),
    "switching_markov": (
        {"regimes": 2, "window": 7},
        {"gmm": ("gmm", GMM_FILE), "words": ("markov", {})},
        ["data -> gmm", "gmm -> it", "it -> words"],
    ),
    "product": (
        {},
        {"a": ("gmm", GMM_FILE), "b": ("gmm", GMM_FILE)},
        ["data -> a", "words -> b", "a -> it", "b -> it"],
    ),
    "vae": (
        {"latent_dim": 2, "hidden": 6, "epochs": 2, "shape": [2, 2]},
        {"gmm": ("gmm", GMM_FILE)},
        ["data -> it", "it -> gmm"],
    ),
    "network": ({"hidden": 6, "epochs": 2}, {"gmm": ("gmm", GMM_FILE)}, ["data -> gmm", "gmm -> it", "words -> it"]),
    "mlda": ({"topics": 3, "iterations": 4}, {}, ["words -> it"]),
    "pca": ({"latent_dim": 2}, {"gmm": ("gmm", GMM_FILE)}, ["data -> it", "it -> gmm"]),
}
OTHER_VALUES = {
    "gmm": {
        "iterations": 3, "alpha": 1000.0, "prior_count": 30.0, "degrees": 40.0, "prior_scale": 0.5,
        "rule": "tutorial", "burn_in": 2, "start": "random", "calibrate": True, "engine": "vb",
    },
    "dp_gmm": {
        "iterations": 3, "alpha": 50.0, "learn_alpha": True, "split_merge": 3, "prior_count": 30.0, "degrees": 40.0,
        "prior_scale": 0.5, "burn_in": 2, "start": "one", "calibrate": True,
    },
    "ar_gmm": {
        "iterations": 3, "alpha": 1000.0, "prior_count": 30.0, "degrees": 40.0, "prior_scale": 0.001,
        "prior_mean": "zero", "burn_in": 2, "start": "random", "calibrate": True, "engine": "blocked-gibbs",
    },
    "markov": {
        "rule": "tutorial", "num_samp": 7, "alpha": 20.0, "inner_iterations": 1, "initial": "learnt",
        "test_order": True, "estimate": "variational", "self_transition_prior": 30.0, "samples": 7,
    },
    "switching_markov": {"inner_iterations": 1, "alpha": 20.0, "initial": "learnt", "window": 3},
    "product": {"iterations": 1, "lapse": 0.4},
    "vae": {
        "epochs": 3, "batch_size": 20, "likelihood": "mse", "send": "sample", "send_variance": True,
        "restart_weights": True, "kl_weight": 4.0, "kl_warmup": 2, "patience": 1, "mixed_precision": True,
        "learning_rate": 0.05, "augment": {"shift": 1}, "class_weight": 30.0,
    },
    "network": {
        "epochs": 3, "batch_size": 20, "learning_rate": 0.05, "weight_decay": 0.1, "restart_weights": True,
        "backward": "relaxed", "trust": 0.3, "input_steps": 3, "input_rate": 0.9,
    },
    "mlda": {
        "iterations": 3, "alpha": 9.0, "beta": 9.0, "burn_in": 2, "samples": 2, "start": "tokens", "restarts": 2,
        "weights": {"words": 7}, "calibrate": False, "engine": "vb",
    },
    "pca": {"solver": "covariance_eigh"},
}  # fmt: skip
CASES = [(kind, name) for kind, values in OTHER_VALUES.items() for name in values]


def learn(kind, parameters, steps, data=None):
    """Return the coordinator of a trained model, the module `it` of type `kind` updated by `steps`."""
    _, others, connections = MODELS[kind]
    data = data or make_data()
    pairs = [tuple(pair.split(" -> ")) for pair in connections]
    sources = [name for name in data if any(lower == name for lower, _ in pairs)]
    specs = [ModuleSpec(name, "observation") for name in sources]
    specs += [ModuleSpec(name, *other) for name, other in others.items()] + [ModuleSpec("it", kind, parameters)]
    before = [Step(name) for name in others if (name, "it") in pairs]
    after = [Step(name) for name in others if ("it", name) in pairs]
    graph = Graph(specs, [Connection(*pair) for pair in pairs], Schedule(1, (*before, *steps, *after)))
    coordinator = Coordinator(graph, InProcessBackend(), seed=3)
    coordinator.start({name: data[name] for name in sources})
    coordinator.run_rounds()
    return coordinator


def recognize(trained, graph=None, data=None):
    """Return what a new process recognises in rows and generates, from the states as a commit contains them."""
    graph, data = graph or trained.graph, data or make_data()
    modules = [name for name in graph.modules if name not in graph.sources]
    states = {name: unpack_state(pack_state(trained.state(name)), name) for name in modules}
    sources = {name: data[name] for name in graph.sources}
    answers = Coordinator(graph, InProcessBackend(), seed=3).recognize(states, sources, ordered=True)
    rows = Coordinator(graph, InProcessBackend(), seed=3).generate_rows(states, 10)
    found = {f"{name}.{key}": value for name in modules for key, value in answers[name].items()}
    generated = {f"{name}.{key} generated": value for name in modules for key, value in rows[name].items()}
    return {**found, **generated}


def test_every_parameter_that_a_step_may_set_is_tested():
    for kind, values in OTHER_VALUES.items():
        cls = find(kind)
        others = set() if kind != "markov" else {"prior_duration"}  # goes with durations: the test below
        assert {field.name for field in fields(cls.Parameters)} == {*values, *cls.fixed_parameters, *others}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_parameter_set_by_the_step_is_as_one_of_the_model(kind, name):
    own, changed = MODELS[kind][0], {name: OTHER_VALUES[kind][name]}
    in_model = learn(kind, {**own, **changed}, [Step("it")])
    by_step = learn(kind, own, [Step("it", changed)])
    assert same_arrays(by_step.outputs("it"), in_model.outputs("it"))
    assert same_arrays(recognize(by_step), recognize(in_model))


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in CASES if name not in find(kind).learning_parameters]
)
def test_an_update_that_learns_nothing_leaves_it_in_force(kind, name):
    own, changed = MODELS[kind][0], {name: OTHER_VALUES[kind][name]}
    nothing = Step("it", {find(kind).learning_parameters[0]: 0})
    in_model = learn(kind, {**own, **changed}, [Step("it"), nothing])
    by_step = learn(kind, own, [Step("it", changed), nothing])
    assert same_arrays(by_step.outputs("it"), in_model.outputs("it"))
    assert same_arrays(recognize(by_step), recognize(in_model))


def test_a_prior_duration_set_by_the_step_is_as_one_of_the_model():
    own, changed = {"durations": "poisson", "max_duration": 20}, {"prior_duration": 9.0}
    in_model = learn("markov", {**own, **changed}, [Step("it")])
    by_step = learn("markov", own, [Step("it", changed)])
    assert same_arrays(by_step.outputs("it"), in_model.outputs("it"))
    assert same_arrays(recognize(by_step), recognize(in_model))
    assert not same_arrays(by_step.outputs("it"), learn("markov", own, [Step("it")]).outputs("it"))


def test_the_last_update_that_learns_counts():
    own = MODELS["gmm"][0]
    once = learn("gmm", own, [Step("it", {"alpha": 1000.0}), Step("it")])
    assert "__set__" not in once.state("it")
    twice = learn("gmm", own, [Step("it", {"alpha": 1.0}), Step("it", {"alpha": 1000.0})])
    as_model = learn("gmm", {**own, "alpha": 1000.0}, [Step("it", {"alpha": 1.0}), Step("it")])
    assert same_arrays(recognize(twice), recognize(as_model))


def test_a_block_with_chains_keeps_what_its_steps_set():
    own = MODELS["gmm"][0]

    def block(*steps):
        return Block(steps, repeat=2, chains=2)

    by_step = learn("gmm", own, [block(Step("it", {"alpha": 1000.0}))])
    in_model = learn("gmm", {**own, "alpha": 1000.0}, [block(Step("it"))])
    assert same_arrays(recognize(by_step), recognize(in_model))


def test_what_only_controls_learning_is_not_kept():
    trained = learn("gmm", MODELS["gmm"][0], [Step("it", {"iterations": 2, "start": "random"})])
    assert "__set__" not in trained.state("it")


def test_a_vae_recognizes_the_rows_that_a_step_let_it_learn_from():
    data = make_data()
    data["data"]["values"] = 10 * data["data"]["values"] - 3  # outside of [0, 1], as the model's 'bce' needs
    trained = learn("vae", MODELS["vae"][0], [Step("it", {"likelihood": "mse"}), Step("it", {"epochs": 0})], data)
    found = recognize(trained, data=data)
    for name in ("z", "x_hat"):
        np.testing.assert_allclose(found[f"it.{name}"], trained.outputs("it")[name], rtol=0, atol=1e-12)


def test_recognised_posteriors_are_those_of_scipy_under_the_alpha_of_the_step():
    alpha, D = 1000.0, 4
    trained = learn("gmm", MODELS["gmm"][0], [Step("it", {"alpha": alpha})])
    state, rows = trained.state("it"), make_data()["data"]["values"]
    labels, scale0 = state["labels"], state["prior_scale"]
    r0, nu0, m0 = state["prior_count"], state["degrees"], state["prior_mean"]
    scores = np.empty((N, 3))
    for k in range(3):  # K. P. Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, section 9
        x = rows[labels == k]
        n, mean = len(x), x.mean(axis=0)
        r, nu = r0 + n, nu0 + n
        m = (r0 * m0 + n * mean) / r
        S = scale0 + (x - mean).T @ (x - mean) + r0 * n / r * np.outer(mean - m0, mean - m0)
        shape = S * (r + 1) / (r * (nu - D + 1))
        scores[:, k] = multivariate_t(m, shape, df=nu - D + 1).logpdf(rows) + np.log((n + alpha) / (N + 3 * alpha))
    expected = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
    np.testing.assert_allclose(recognize(trained)["it.Pdz"], expected, atol=1e-10)


@pytest.mark.parametrize("entry", ["[1]", "{", '{"alpha": -1}', '{"unknown": 1}', 7])
def test_a_state_whose_step_parameters_are_not_valid_is_refused(entry):
    trained = learn("gmm", MODELS["gmm"][0], [Step("it", {"alpha": 1000.0})])
    state = {**trained.state("it"), "__set__": entry}
    with pytest.raises(ModuleError, match="parameters of a step"):
        Coordinator(trained.graph, InProcessBackend()).generate_rows({"it": state}, 5)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [("vae", "encoder", "a:b"), ("vae", "decoder", "a:b"), ("vae", "hidden", 3), ("pca", "whiten", True)],
)
def test_no_step_can_set_what_determines_the_form_of_a_state(kind, name, value):
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        learn(kind, MODELS[kind][0], [Step("it", {name: value})])
