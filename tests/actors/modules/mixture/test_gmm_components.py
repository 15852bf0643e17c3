"""Tests of a GMM whose classes have several components: likelihoods, messages, states, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import logsumexp
from scipy.stats import multivariate_t
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.metrics import adjusted_rand_score

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.modules.class_posteriors import LABELS
from runner.config.run_config import load_config
from runner.data.clumps import ClumpedClasses
from runner.report.clustering_metrics import accuracy, match
from tests.actors.modules.mixture.test_gmm import latent_vectors, prior_of, update, upward
from tests.support.toy_modules import check_state_transfer, same_arrays

CONFIG = Path(__file__).parents[4] / "configs" / "many_classes.yaml"
K, M, D = 3, 2, 2
ENGINES = pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
CENTRES = np.array([[[0.0, 8.0], [8.0, 8.0]], [[8.0, 0.0], [-8.0, -8.0]], [[-8.0, 4.0], [0.0, -8.0]]])


def clumps(rows=180, seed=0):
    """Return rows of three classes of two clumps each, and the classes."""
    generator = np.random.default_rng(seed)
    truth = np.arange(rows) % K
    return CENTRES[truth, generator.integers(0, M, rows)] + 0.7 * generator.normal(size=(rows, D)), truth


def make_gmm(**given):
    return make_module("gmm", {"classes": K, "components": M, "engine": "vb", "prior_scale": "data", **given})


def leaning_to(truth, probability=0.8, rows=None):
    p = np.full((len(truth), K), (1 - probability) / (K - 1))
    p[np.arange(len(truth)), truth] = probability
    return prior_of("mm", p)


def learnt(X, truth, **given):
    """Return a GMM after updates with a prior that leans to the truth, and the last outbox."""
    gmm = make_gmm(start="contexts", **given)
    gmm.prepare("cpu", 1)
    update(gmm, latent_vectors(X))
    for number in range(1, 4):
        outbox = update(gmm, latent_vectors(X), leaning_to(truth), round=number)
    return gmm, outbox


def message_down(outbox):
    (outgoing,) = [o for o in outbox.messages if o.port == "class_means"]
    return make_message(Header("class_means", "gmm", "class_means", "vae"), outgoing.arrays)


@ENGINES
def test_classes_of_two_clumps_are_learnt_and_recognized(engine):
    X, truth = clumps()
    gmm, outbox = learnt(X, truth, engine=engine)
    assert adjusted_rand_score(truth, outbox.outputs["class"]) == 1.0
    others, theirs = clumps(seed=1)
    recognized = update(gmm, latent_vectors(others), answer="recognize", receivers=())
    assert adjusted_rand_score(theirs, recognized.outputs["class"]) == 1.0
    assert recognized.outputs["mu"].shape == (K, D)


def class_densities(state, rows, columns=slice(None)):
    """Return the log-densities (N, K) of these columns, up to a constant of each row, from scipy's Student-t."""
    n, r = state["counts"], state["prior_count"] + state["counts"]
    freedom = state["degrees"] + n - D + 1
    if "columns_centre" in state:
        rows = np.ldexp(rows - state["columns_centre"], -state["columns_exponent"])
    densities = np.stack(
        [
            multivariate_t.logpdf(
                rows[:, columns],
                state["mean"][j][columns],
                (state["scale"][j] * (r[j] + 1) / (r[j] * freedom[j]))[columns][:, columns],
                freedom[j],
            )
            for j in range(K * M)
        ],
        axis=1,
    )
    shares = (n.reshape(K, M) + 0.1) / (n.reshape(K, M).sum(axis=1, keepdims=True) + M * 0.1)
    return logsumexp(densities.reshape(-1, K, M) + np.log(shares), axis=2)


@ENGINES
def test_the_likelihood_of_new_rows_is_the_sum_over_components_by_scipy(engine):
    X, truth = clumps()
    gmm, _ = learnt(X, truth, engine=engine)
    new = clumps(seed=2)[0]
    message = upward(update(gmm, latent_vectors(new), answer="recognize"))
    got = message["log_prob"] + message["log_norm"][:, None]
    expected = class_densities(gmm.state(), new)
    assert_allclose(got - got[:, :1], expected - expected[:, :1], atol=1e-8)


@ENGINES
def test_the_message_downwards_has_the_means_of_components(engine):
    X, truth = clumps()
    _, outbox = learnt(X, truth, engine=engine)
    message = message_down(outbox)
    assert message["means"].shape == (K * M, D)
    assert_allclose(message["responsibilities"].reshape(-1, K, M).sum(axis=2), outbox.outputs["Pdz"], atol=1e-12)
    expected = message["responsibilities"] @ message["means"]
    assert np.abs(expected - X).mean() < 0.8  # of its clump; the mean of its class is several units away
    assert np.abs(outbox.outputs["Pdz"] @ outbox.outputs["mu"] - X).mean() > 2.0


@ENGINES
def test_a_state_continues_bit_by_bit(engine):
    X, truth = clumps()
    check_state_transfer(update, make_gmm(engine=engine), make_gmm(engine=engine), latent_vectors(X), leaning_to(truth))


@ENGINES
def test_a_state_without_rows_assigns_them_anew(engine):
    X, truth = clumps()
    gmm, outbox = learnt(X, truth, engine=engine)
    other = make_gmm(engine=engine)
    other.load_state(gmm.state_without_rows())
    again = update(other, latent_vectors(X), leaning_to(truth), round=9)
    assert_array_equal(again.outputs["class"], outbox.outputs["class"])


@ENGINES
def test_missing_rows_and_values_are_left_out(engine):
    X, truth = clumps()
    mask = np.arange(len(X)) % 10 == 0
    gmm = make_gmm(start="kmeans", engine=engine)
    outbox = update(gmm, latent_vectors(np.where(mask[:, None], 0.0, X), mask=mask), leaning_to(truth))
    down = message_down(outbox)
    assert_allclose(down["responsibilities"].sum(axis=1), 1.0)
    assert gmm.state()["counts"].sum() == pytest.approx((~mask).sum())


@ENGINES
def test_missing_values_are_integrated_out(engine):
    X, truth = clumps()
    absent = np.zeros(X.shape, dtype=bool)
    absent[::3, 0] = True
    header = Header("observations", "data", "observations", "gmm")
    values = make_message(header, {"values": np.where(absent, 0.0, X), "mask": absent})
    gmm = make_gmm(start="contexts", engine=engine)
    for number in range(4):
        outbox = update(gmm, values, *([leaning_to(truth)] if number else []), round=number)
    assert np.isfinite(outbox.metrics["bound" if engine == "vb" else "evidence"])
    assert adjusted_rand_score(truth, outbox.outputs["class"]) > 0.9
    got = upward(update(gmm, values, answer="recognize"))
    got = (got["log_prob"] + got["log_norm"][:, None])[::3]
    expected = class_densities(gmm.state(), X[::3], columns=[1])
    assert_allclose(got - got[:, :1], expected - expected[:, :1], atol=1e-8)


@ENGINES
def test_calibration_is_of_the_classes(engine):
    X, truth = clumps()
    gmm, outbox = learnt(X, truth, calibrate=True, engine=engine)
    assert gmm.state()["mean_posterior"].shape == (K,)
    assert upward(outbox)["log_prob"].shape == (len(X), K)


def test_generated_rows_are_of_all_components():
    X, truth = clumps()
    gmm, _ = learnt(X, truth)
    generated = gmm.generate(*_generate(300))
    x, z = generated.outputs["x"], generated.outputs["class"]
    distance = np.linalg.norm(x[:, None, None] - CENTRES, axis=3).reshape(300, -1)
    nearest = distance.argmin(axis=1)
    assert len(np.unique(nearest)) == K * M
    assert len({(int(a), int(b) // M) for a, b in zip(z, nearest, strict=True)}) <= K + 2


def test_sampled_classes_are_those_of_variational_bayes_up_to_their_deviations():
    X, truth = clumps(rows=3000)
    states, messages = [], []
    for engine in ("vb", "blocked-gibbs"):
        gmm, _ = learnt(X, truth, engine=engine)
        states.append(gmm.state())
        messages.append(upward(update(gmm, latent_vectors(clumps(seed=2)[0]), answer="recognize")))
    by_vb, sampled = states
    means = [state["mean"].reshape(K, M, D) for state in states]
    order = np.linalg.norm(means[0][:, :, None] - means[1][:, None], axis=3).argmin(axis=2)
    assert (np.sort(order, axis=1) == np.arange(M)).all()
    matched = (M * np.arange(K)[:, None] + order).ravel()
    assert sampled["counts"].dtype == np.int64
    assert_allclose(sampled["counts"][matched], by_vb["counts"], atol=2.0)  # rows between clumps: hardly any
    spread = 0.7 / np.sqrt(3000 / (K * M))
    assert np.abs(sampled["mean"][matched] - by_vb["mean"]).max() < 0.1 * spread
    assert_allclose(np.exp(messages[1]["log_prob"]), np.exp(messages[0]["log_prob"]), atol=1e-3)


@pytest.mark.parametrize("lacks", [False, True])
def test_labels_of_some_rows_name_the_classes_that_are_sampled(lacks):
    X, truth = clumps()
    told = np.full((len(X), K), 1.0 / K)
    told[::5] = np.where(np.eye(K)[truth[::5]] > 0.0, 1.0 - 2e-6, 1e-6)
    labels = make_message(Header("transition_prior", "labels", LABELS, "gmm"), {"log_prob": np.log(told)})
    absent = np.zeros(X.shape, dtype=bool)
    absent[1::4, 1] = lacks
    header = Header("observations", "data", "observations", "gmm")
    values = make_message(header, {"values": np.where(absent, 0.0, X), "mask": absent})
    outbox = update(make_gmm(engine="blocked-gibbs"), values, labels)
    whole = ~absent.any(axis=1)
    assert (outbox.outputs["class"] == truth)[whole].mean() > 0.98
    assert (outbox.outputs["class"] == truth).mean() > 0.9


def _generate(rows):
    from actors.module import Context, Inbox

    return Inbox([]), Context("gmm", rows=rows)


@pytest.mark.parametrize("engine", ["vb", "blocked-gibbs"])
def test_one_component_has_the_bits_of_none(engine):
    X, truth = clumps()
    states = []
    for given in ({}, {"components": 1}):
        gmm = make_module("gmm", {"classes": K, "engine": engine, **given})
        update(gmm, latent_vectors(X))
        update(gmm, latent_vectors(X), leaning_to(truth), round=1)
        states.append(gmm.state())
    assert same_arrays(*states)


def test_the_collapsed_sampler_is_refused():
    with pytest.raises((ModuleError, ValueError), match=r"components: 2 .* engine vb or blocked-gibbs, not by 'gibbs'"):
        make_gmm(engine="gibbs")


def test_merging_is_refused_in_one_sentence():
    gmm = make_gmm()
    assert type(gmm).unshared_setting(gmm.parameters) is None
    with pytest.raises(ModuleError, match="not matched between runs"):
        gmm.statistics_of({})


def test_a_state_of_other_components_is_refused():
    X, truth = clumps()
    gmm, _ = learnt(X, truth)
    with pytest.raises(ModuleError, match="6 components in all, this GMM has 3 of 3 components"):
        make_gmm(components=3).load_state(gmm.state())


def test_classes_of_clumps_are_found_by_their_order_and_recognized_without_it():
    classes, generator = 8, np.random.default_rng(0)
    made, truth = ClumpedClasses(classes, 1), np.arange(1600) % classes
    others = np.repeat(np.arange(classes), 50)
    X, new = made.rows(truth, generator), made.rows(others, generator)
    given = [
        f"modules.gmm.classes={classes}",
        "data={source: cycle}",
        "schedule.steps=[{steps: [gmm, mm], repeat: 6, tolerance: 5.0}, {module: gmm, set: {iterations: 0}}]",
    ]
    coordinator = Coordinator(load_config(CONFIG, given).graph, InProcessBackend(), seed=0)
    coordinator.start({"data": {"values": X}})
    coordinator.run_rounds()
    found = coordinator.outputs("gmm")["class"]
    assert accuracy(found, truth) > 0.99
    gmm = make_gmm(classes=classes, components=3, calibrate=True)
    gmm.load_state(coordinator.state("gmm"))
    recognized = update(gmm, latent_vectors(new), answer="recognize").outputs["class"]
    discriminants = QuadraticDiscriminantAnalysis().fit(X, truth).score(new, others)
    named = match(found, truth)
    assert np.mean([named[k] == true for k, true in zip(recognized.tolist(), others, strict=True)]) > discriminants
