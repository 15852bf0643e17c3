"""Runs that learnt one model from different rows: what is learnt from all rows, and what cannot be merged."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.decomposition import PCA

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import make_module
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.kernels.mixture.niw import NIWPrior
from actors.kernels.mixture.variational import (
    expected_log_density,
    expected_log_weights,
    posterior_from_responsibilities,
)
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from actors.modules.mixture.class_states import unpack
from actors.sharing.merging import merge_runs
from tests.support.sharded_updates import call_by_workers, cut_at

K = 3
MEANS = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
VB = {"classes": K, "engine": "vb", "iterations": 40, "prior_scale": "data"}


def rows_of(seed, count=240, means=MEANS, shuffled=True):
    """Return rows that go through the classes in turn, beginning with another one for each seed."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) + seed + (rng.random(count) < 0.1) * shuffled) % len(means)
    return means[labels] + rng.normal(size=(count, means.shape[1]))


def model(*modules, below="data"):
    """Return the graph of a chain of modules above the data, each (name, type, parameters)."""
    specs = [ModuleSpec("data", "observation"), *(ModuleSpec(*each) for each in modules)]
    names = [below, *(each.name for each in specs[1:])]
    connections = [Connection(*pair) for pair in pairwise(names)]
    steps = tuple(Step(name) for name in names[1:])
    return Graph(specs, connections, Schedule(2, (Block(steps, repeat=3),)))


HMM = (("gmm", "gmm", VB), ("mm", "markov", {}))


def train(graph, rows, seed=0):
    """Return the states of a model's modules that learnt from rows in this process."""
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start({"data": {"values": rows}})
    coordinator.run_rounds()
    return {name: dict(coordinator.state(name)) for name in graph.modules if name != "data"}


def merge(graph, **runs):
    specs = {name: spec for name, spec in graph.modules.items() if name not in graph.sources}
    return merge_runs(graph, {name: make_module(spec.type, spec.parameters) for name, spec in specs.items()}, runs)


@pytest.fixture(scope="module")
def hmm():
    """A hidden Markov model, and what it has learnt at three sites."""
    graph = model(*HMM)
    return graph, {name: train(graph, rows_of(seed), seed) for seed, name in enumerate("abc")}


# --- Gaussian classes ------------------------------------------------------------------------------------------------


def vectors(rows):
    return make_message(Header("latent_vectors", "vae", "latent_vectors", "it"), {"mean": rows})


@pytest.mark.parametrize("workers", [False, True])
@pytest.mark.parametrize(
    "given", [{"prior_scale": "data"}, {"prior_scale": 0.1}, {"prior_count": 0.3, "degrees": 9.0, "alpha": 2.0}]
)
def test_classes_of_two_sites_are_those_of_all_rows_after_an_iteration_from_the_same_parameters(workers, given):
    sites = [rows_of(1), 1.5 * rows_of(2, 170) + 0.5]
    # One process begins an update with responsibilities given the classes before, workers an iteration.
    parameters = {**VB, **given, "iterations": int(workers)}

    def make():
        return make_module("gmm", parameters)

    start = train(model(("gmm", "gmm", {**VB, **given})), rows_of(5, 90))["gmm"]
    start = {name: value for name, value in start.items() if name not in ("labels", "responsibilities")}

    def learn(rows):
        extents = cut_at([], len(rows), 64)
        if workers:
            return call_by_workers(make, extents, [vectors(rows)], state=start).state
        module = make()
        module.load_state(start)
        module.update(Inbox([vectors(rows)]), Context("it"))
        return module.state()

    module, (one, two), expected = make(), map(learn, sites), learn(np.concatenate(sites))
    found = module.learnt_from(module.merge(module.statistics_of(one), module.statistics_of(two)))
    assert found.keys() == expected.keys() - {"labels", "responsibilities"}
    for name, value in found.items():
        assert_allclose(value, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_merged_classes_are_the_posterior_given_the_responsibilities_at_each_site(hmm):
    """The expected value is computed here, from rows and responsibilities that no merged state contains."""
    graph, runs = hmm
    merged = merge(graph, **runs)
    order = {"a": np.arange(K)} | {each.run: each.classes for each in merged.matchings}
    soft = np.concatenate([runs[name]["gmm"]["responsibilities"][:, order[name]] for name in "abc"])
    rows = np.concatenate([rows_of(seed) for seed in range(3)])
    prior = NIWPrior(rows.mean(axis=0), 1.0, 4.0, rows.var(axis=0) / K)  # K^(-2/D) with D = 2
    expected = posterior_from_responsibilities(rows, soft, prior)
    found, own, _ = unpack(merged.states["gmm"])
    for one, two in zip(found, expected, strict=True):
        assert_allclose(one, two, rtol=1e-9, atol=1e-9)
    assert_allclose(own.scale, prior.scale, rtol=1e-9)
    assert merged.rows["gmm"] == {"a": 240, "b": 240, "c": 240}


def test_classes_are_matched_though_each_run_numbers_them_in_its_own_way(hmm):
    graph, runs = hmm
    merged = merge(graph, **runs)
    assert [(each.first, each.run, each.alone) for each in merged.matchings] == [("a", "b", ()), ("a", "c", ())]
    assert all((each.distances < 1.0).all() for each in merged.matchings)
    means = {name: runs[name]["gmm"]["mean"] for name in runs}
    for each in merged.matchings:
        assert_allclose(means[each.run][each.classes], means["a"], atol=0.7)
    shuffled = np.array([2, 0, 1])
    relabelled = {
        **runs,
        "b": {"gmm": relabel_gmm(runs["b"]["gmm"], shuffled), "mm": relabel_mm(runs["b"]["mm"], shuffled)},
    }
    again = merge(graph, **relabelled)
    for name, state in merged.states.items():
        for entry, value in state.items():
            assert_allclose(again.states[name][entry], value, rtol=1e-12, atol=1e-12)


def relabel_gmm(state, order):
    by_class = ("counts", "mean", "scale", "chol", "log_det")
    return {name: value[order] if name in by_class else value for name, value in state.items()}


def relabel_mm(state, order):
    square = ("transitions", "trans_prob")
    return {name: value[np.ix_(order, order)] if name in square else value[order] for name, value in state.items()}


def test_the_order_in_which_runs_are_given_changes_numbers_of_classes_alone(hmm):
    graph, runs = hmm
    one, two = merge(graph, **runs), merge(graph, **{name: runs[name] for name in "cab"})
    order = np.array(
        [np.abs(two.states["gmm"]["mean"] - mean).sum(axis=1).argmin() for mean in one.states["gmm"]["mean"]]
    )
    assert sorted(order) == [0, 1, 2]
    for name, relabel in (("gmm", relabel_gmm), ("mm", relabel_mm)):
        for entry, value in relabel(two.states[name], order).items():
            assert_allclose(value, one.states[name][entry], rtol=1e-9, atol=1e-9, err_msg=entry)


def test_a_class_that_one_site_alone_has_seen_has_no_counterpart():
    graph = model(("gmm", "gmm", VB))
    elsewhere = np.array([[0.0, 0.0], [6.0, 0.0], [-8.0, -8.0]])
    runs = {"a": train(graph, rows_of(0)), "b": train(graph, rows_of(1, means=elsewhere), seed=1)}
    (matching,) = merge(graph, **runs).matchings
    (alone,) = matching.alone
    assert_allclose(runs["a"]["gmm"]["mean"][alone], MEANS[2], atol=0.5)
    assert matching.distances[alone] > 5.0
    assert (np.delete(matching.distances, alone) < 1.0).all()


def test_merged_classes_recognise_what_the_responsibilities_given_them_say(hmm):
    graph, runs = hmm
    state = merge(graph, **runs).states["gmm"]
    module = make_module("gmm", VB)
    module.load_state(state)
    rows = rows_of(9)
    found = module.recognize(Inbox([vectors(rows)]), Context("it", mode="recognize")).outputs["class"]
    factors, prior, _ = unpack(state)
    soft = softmax(expected_log_density(rows, factors, prior) + expected_log_weights(factors.counts, 0.1), axis=1)
    assert_array_equal(found, soft.argmax(axis=1))


# --- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"initial": "learnt"}, {"estimate": "variational", "alpha": 0.5}])
def test_counts_of_transitions_are_sums_in_matched_classes(given):
    graph = model(HMM[0], ("mm", "markov", given))
    runs = {name: train(graph, rows_of(seed), seed) for seed, name in enumerate("abc")}
    merged = merge(graph, **runs)
    order = {"a": np.arange(K)} | {each.run: each.classes for each in merged.matchings}
    assert any((each != np.arange(K)).any() for each in order.values())
    counts = sum(runs[name]["mm"]["transitions"][np.ix_(order[name], order[name])] for name in "abc")
    state = merged.states["mm"]
    assert_allclose(state["transitions"], counts, rtol=1e-14)
    assert_allclose(counts.sum(), 3 * 239)
    alpha = given.get("alpha", 0.1)
    if "estimate" not in given:
        expected = (counts + alpha) / (counts + alpha).sum(axis=1, keepdims=True)
        assert_allclose(state["trans_prob"], expected, rtol=1e-12)
    assert_allclose(state["trans_prob"].sum(axis=1), 1.0)
    assert_allclose(state["class_counts"].sum(), 3 * 240)
    if given.get("initial") == "learnt":
        first = sum(runs[name]["mm"]["initial_counts"][order[name]] for name in "abc")
        assert_allclose(first.sum(), 3.0)  # one sequence at each site
        assert_allclose(state["initial"], (first + alpha) / (first + alpha).sum(), rtol=1e-12)
    else:
        assert_allclose(state["initial"], 1.0 / K)


def test_workers_keep_the_counts_of_first_classes_as_one_process_does():
    parameters = {"initial": "learnt"}
    alone = train(model(HMM[0], ("mm", "markov", parameters)), rows_of(0))
    graph = model(HMM[0], ("mm", "markov", parameters, 1, ModuleSpec("x", "y").resources, (), Sharing(2, 64)))
    shared = train(graph, rows_of(0))
    assert_allclose(shared["mm"]["initial_counts"], alone["mm"]["initial_counts"], rtol=1e-9, atol=1e-12)


# --- joint classes of two modules -------------------------------------------------------------------------------------


def joint_run(seed, second=None):
    """Return the states of a Markov model on the joint classes of two mixtures, each of which sees one modality."""
    rows = rows_of(seed)
    other = 2.0 * (rows if second is None else second) @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    coordinator = Coordinator(JOINT, InProcessBackend(), seed=seed)
    coordinator.start({"left": {"values": rows}, "right": {"values": other}})
    coordinator.run_rounds()
    return {name: dict(coordinator.state(name)) for name in JOINT.modules if name not in JOINT.sources}


def joint_model():
    specs = [
        *(ModuleSpec(name, "observation") for name in ("left", "right")),
        *(ModuleSpec(name, "gmm", VB) for name in ("one", "two")),
        ModuleSpec("product", "product"),
        ModuleSpec("mm", "markov"),
    ]
    pairs = ["left one", "right two", "one product", "two product", "product mm"]
    connections = [Connection(*pair.split()) for pair in pairs]
    steps = tuple(Step(name) for name in ("one", "two", "product", "mm"))
    return Graph(specs, connections, Schedule(1, (Block(steps, repeat=3),)))


JOINT = joint_model()


def test_joint_classes_follow_the_classes_that_they_join():
    runs = {name: joint_run(seed) for seed, name in enumerate("abc")}
    merged = merge(JOINT, **runs)
    first = runs["a"]
    assert {each.modules for each in merged.matchings} == {("one",), ("two",)}

    def centres(run):
        """Return the mean of each joint class in both modalities."""
        labels = {name: run["product"][f"permutation.{name}"] for name in ("one", "two")}
        return np.concatenate([run[name]["mean"][labels[name]] for name in labels], axis=1)

    order = {
        name: np.abs(centres(first)[:, None] - centres(run)).sum(axis=2).argmin(axis=1) for name, run in runs.items()
    }
    assert any((each != np.arange(K)).any() for each in order.values())
    state = merged.states["product"]
    for name in ("permutation.one", "permutation.two"):
        assert_array_equal(state[name], first["product"][name])
    frequencies = np.mean([runs[name]["product"]["frequencies"][order[name]] for name in runs], axis=0)
    assert_allclose(state["frequencies"], frequencies, rtol=1e-12)
    assert state["rows"] == 720.0
    counts = sum(run["mm"]["transitions"][np.ix_(order[name], order[name])] for name, run in runs.items())
    assert_allclose(merged.states["mm"]["transitions"], counts, rtol=1e-12)
    assert_allclose(centres({**merged.states}), centres(first), atol=0.7)


def test_runs_that_disagree_on_what_belongs_together_are_refused():
    one, two = joint_run(0), joint_run(1)
    labels = two["product"]["permutation.two"]
    two["product"]["permutation.two"] = labels[[1, 0, 2]]
    with pytest.raises(ModuleError, match=r"module 'product': joint class \d .* disagree on what belongs together"):
        merge(JOINT, a=one, b=two)


def test_a_product_of_an_earlier_version_is_refused():
    one, two = joint_run(0), joint_run(1)
    del two["product"]["rows"]
    with pytest.raises(ModuleError, match="run b: module 'product' has a state without the number of rows"):
        merge(JOINT, a=one, b=two)


# --- principal components ---------------------------------------------------------------------------------------------


def pca_run(rows, **given):
    message = make_message(Header("observations", "data", "observations", "it"), {"values": rows})
    make = lambda: make_module("pca", {"latent_dim": 2, **given})  # noqa: E731
    return {"pca": call_by_workers(make, cut_at([2], len(rows), 64), [message]).state}


@pytest.mark.parametrize("factors", [(1.0, 3.0), (1e-100, 1e-99), (1e60, 2.0)])
def test_components_of_two_sites_are_those_of_all_rows(factors):
    rng = np.random.default_rng(0)
    sites = [
        f * (rng.normal(size=(n, 4)) @ np.diag([3.0, 2.0, 0.5, 0.1]) + n)
        for f, n in zip(factors, (150, 230), strict=True)
    ]
    merged = merge(model(("pca", "pca", {"latent_dim": 2})), a=pca_run(sites[0]), b=pca_run(sites[1]))
    unit = max(factors)
    rows = np.concatenate(sites) / unit
    expected = PCA(2, svd_solver="full").fit(rows)
    state = merged.states["pca"]
    scale = np.ldexp(1.0, int(state["exponent"][0]) if "exponent" in state else 0) / unit
    assert_allclose(state["mean_"] * scale, expected.mean_, rtol=1e-9)
    assert_allclose(state["components_"], expected.components_, atol=1e-7)
    assert_allclose(state["explained_variance_"] * scale**2, expected.explained_variance_, rtol=1e-8)
    assert merged.rows["pca"] == {"a": 150, "b": 230}


# --- what cannot be merged --------------------------------------------------------------------------------------------


def test_classes_in_the_latent_space_of_each_site_cannot_be_merged():
    graph = model(("pca", "pca", {"latent_dim": 2}), ("gmm", "gmm", VB))
    latent = {name: pca_run(np.pad(rows_of(seed), ((0, 0), (0, 1)))) for seed, name in enumerate("ab")}
    gmm = {name: train(model(("gmm", "gmm", VB)), rows_of(seed), seed) for seed, name in enumerate("ab")}
    runs = {name: {**latent[name], **gmm[name]} for name in "ab"}
    with pytest.raises(ModuleError, match=r"'gmm' has learnt from what 'pca' sends.*merge runs that have the same"):
        merge(graph, **runs)
    same = {name: {**latent["a"], **gmm[name]} for name in "ab"}
    merged = merge(graph, **same)
    assert_array_equal(merged.states["pca"]["components_"], latent["a"]["pca"]["components_"])
    assert merged.rows.keys() == {"gmm"}
    assert merged.states["gmm"]["counts"].sum() == pytest.approx(480)


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (("gmm", "gmm", {"classes": K, "iterations": 2}), "'gmm' has learnt by engine 'gibbs'.*use engine: vb"),
        (("gmm", "gmm", {**VB, "engine": "blocked-gibbs"}), "'gmm' has learnt by engine 'blocked-gibbs'.*engine: vb"),
        (("gmm", "gmm", {**VB, "calibrate": True}), "'gmm' has learnt with calibrate: true.*use calibrate: false"),
        (("gmm", "dp_gmm", {"most": 4, "iterations": 2}), "'gmm' learns parameters that do not follow from sums"),
        (("pca", "pca", {"latent_dim": 2}), "'pca' has learnt without workers.*workers: 1"),
    ],
)
def test_what_does_not_follow_from_sums_is_refused(module, sentence):
    graph = model(module)
    runs = {name: train(graph, rows_of(seed, 60), seed) for seed, name in enumerate("ab")}
    with pytest.raises(ModuleError, match=f"run a: module {sentence}"):
        merge(graph, **runs)


def test_a_rejected_order_and_sampled_transitions_are_refused(hmm):
    graph, runs = hmm
    unordered = {**runs["a"], "mm": {**runs["a"]["mm"], "frequencies": np.full(K, 1 / K)}}
    with pytest.raises(ModuleError, match=r"run a: module 'mm' has found no order.*test_order: false"):
        merge(graph, a=unordered, b=runs["b"])
    old = {**runs["b"], "mm": {name: each for name, each in runs["b"]["mm"].items() if name != "class_counts"}}
    with pytest.raises(ModuleError, match=r"run b: module 'mm' has a state without class_counts"):
        merge(graph, a=runs["a"], b=old)
    tutorial = model(HMM[0], ("mm", "markov", {"rule": "tutorial"}))
    with pytest.raises(ModuleError, match=r"rule 'tutorial'.*use rule: smoothed"):
        merge(tutorial, **runs)


def test_rows_of_another_form_are_refused(hmm):
    graph, runs = hmm
    wide = train(graph, np.pad(rows_of(1), ((0, 0), (0, 1)), constant_values=1.0) + rows_of(2)[:, :1], 1)
    with pytest.raises(ModuleError, match=r"'gmm' .* another form: points has the shape \(3, 2\) in a and \(3, 3\)"):
        merge(graph, a=runs["a"], b=wide)


def test_a_run_that_is_given_under_two_names_is_refused(hmm):
    graph, runs = hmm
    with pytest.raises(ModuleError, match=r"runs a and c have learnt the same in module 'gmm'.*give it once"):
        merge(graph, a=runs["a"], b=runs["b"], c=runs["a"])


def test_a_run_that_has_learnt_nothing_in_a_module_is_refused(hmm):
    graph, runs = hmm
    with pytest.raises(ModuleError, match="module 'mm' has learnt nothing in run b"):
        merge(graph, a=runs["a"], b={**runs["b"], "mm": {}})


def test_classes_that_no_module_can_compare_are_refused():
    clusters = ("clusters", "tests.support.sharded_modules:CountedKMeans", {})
    graph = model(("pca", "pca", {"latent_dim": 2}), clusters, ("mm", "markov", {}))
    pca = pca_run(rows_of(0))
    mm = {"transitions": np.eye(K), "trans_prob": np.eye(K), "initial": np.full(K, 1.0 / K)}
    runs = {
        name: {
            **pca,
            "clusters": {"centres": np.zeros((K, 2)), "members": np.full(K, n)},
            "mm": {**mm, "class_counts": np.full(K, n)},
        }
        for name, n in (("a", 1.0), ("b", 2.0))
    }
    with pytest.raises(ModuleError, match=r"'clusters': 'mm' has learnt from its classes.*class_distances"):
        merge(graph, **runs)


SPOILERS = {
    "nothing": lambda _: None,
    "one row less": lambda value: value[:-1],
    "negative": lambda value: -np.abs(value) - 1.0,
    "zero": np.zeros_like,
    "huge": lambda value: np.full_like(value, 1e300, dtype=np.float64),
    "infinite": lambda value: np.full_like(value, np.inf, dtype=np.float64),
    "flat": np.ravel,
    "transposed": lambda value: value.T.copy(),
    "text": lambda _: "x",
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_state_that_no_rows_can_have_led_to_is_refused_or_has_no_other_effect(hmm, spoil):
    """A state may come from a stranger: every entry in turn is spoiled, in the first run and in a further one."""
    graph, runs = hmm
    models = [(graph, runs["a"], runs["b"])]
    models.append((model(("pca", "pca", {"latent_dim": 2})), pca_run(rows_of(0)), pca_run(rows_of(1))))
    refused = []
    for own, one, two in models:
        for module, state in one.items():
            for entry in [name for name, value in state.items() if isinstance(value, np.ndarray)]:
                spoiled = {**one, module: {**state, entry: spoil(state[entry])}}
                for pair in ((spoiled, two), (two, spoiled)):
                    try:
                        merged = merge(own, a=pair[0], b=pair[1])
                    except ModuleError as error:
                        refused.append(str(error))
                    else:
                        arrays = [each for states in merged.states.values() for each in states.values()]
                        assert all(np.isfinite(each).all() for each in arrays)
    assert refused
    assert not [sentence for sentence in refused if "\n" in sentence or "module" not in sentence]
