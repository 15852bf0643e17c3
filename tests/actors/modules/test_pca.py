"""PCA projects observations onto principal components with scikit-learn, and decodes class means from above."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import decomposition

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import make_module
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from runner.report.clustering_metrics import accuracy
from tests.support.toy_modules import same_arrays

N, PIXELS, D = 60, (3, 4), 3
SOLVERS = ["full", "covariance_eigh", "randomized"]


def images(rows=N, seed=0):
    """Return images with correlated pixels."""
    mixing = np.random.default_rng(99).normal(size=(12, 12)) * 0.7 ** np.arange(12)[:, None]
    return 5.0 + (np.random.default_rng(seed).normal(size=(rows, 12)) @ mixing).reshape(rows, *PIXELS)


def observations(values, **rows):
    return make_message(Header("observations", "data", "observations", "pca"), {"values": values, **rows})


def call(pca, *messages, method="update", **context):
    """Call a method of the PCA with an inbox of `messages` and return its outbox."""
    return getattr(pca, method)(Inbox(messages), Context("pca", **context))


def sent(outbox, port):
    """Return the outgoing message on `port`, checked as a message."""
    (outgoing,) = [outgoing for outgoing in outbox.messages if outgoing.port == port]
    return make_message(Header(port, "pca", port), outgoing.arrays)


# --- units --------------------------------------------------------------------------------------------------------


@given(exponent=st.integers(-490, 490), factor=st.floats(0.1, 10.0), whiten=st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_common_factor_scales_the_projections_and_reconstructions(exponent, factor, whiten):
    factor = np.ldexp(factor, exponent)  # 1e-148 to 1e148
    X = images()
    reference = decomposition.PCA(D, whiten=whiten, svd_solver="full").fit(X.reshape(N, -1))
    z = reference.transform(X.reshape(N, -1))
    outbox = call(make_module("pca", {"latent_dim": D, "whiten": whiten, "solver": "full"}), observations(factor * X))
    np.testing.assert_allclose(outbox.outputs["z"] / (1.0 if whiten else factor), z, rtol=1e-7, atol=1e-9)
    expected = reference.inverse_transform(z).reshape(X.shape)
    np.testing.assert_allclose(outbox.outputs["x_hat"] / factor, expected, rtol=1e-9)
    explained = reference.explained_variance_ratio_.sum()
    np.testing.assert_allclose(outbox.metrics["explained"], explained, rtol=1e-9)


@pytest.mark.parametrize("shift", [-1e6, 1e3, 1e8])
def test_a_shift_changes_the_mean_alone(shift):
    pca, shifted = (make_module("pca", {"latent_dim": D, "solver": "full"}) for _ in range(2))
    z, moved = (call(each, observations(X)).outputs["z"] for each, X in ((pca, images()), (shifted, images() + shift)))
    np.testing.assert_allclose(moved, z, atol=1e-7 * max(1.0, abs(shift) / 1e8))


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("whiten", [False, True])
def test_the_components_are_the_first_singular_vectors(solver, whiten):
    X = images().reshape(N, -1)
    _, singular, Vt = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    Vt *= np.sign(Vt[np.arange(len(Vt)), np.abs(Vt).argmax(axis=1)])[:, None]  # the largest value is positive
    pca = make_module("pca", {"latent_dim": D, "solver": solver, "whiten": whiten})
    outbox = call(pca, observations(images()))
    z = (X - X.mean(axis=0)) @ Vt[:D].T
    deviation = singular[:D] / np.sqrt(N - 1)
    np.testing.assert_allclose(outbox.outputs["z"], z / deviation if whiten else z, atol=1e-6)
    np.testing.assert_allclose(pca.state()["components_"], Vt[:D], atol=1e-6)
    np.testing.assert_allclose(pca.state()["explained_variance_"], deviation**2)
    np.testing.assert_allclose(outbox.outputs["x_hat"].reshape(N, -1), X.mean(axis=0) + z @ Vt[:D], atol=1e-6)
    assert outbox.metrics["explained"] == pytest.approx((singular[:D] ** 2).sum() / (singular**2).sum())
    assert outbox.metrics["reconstruction_error"] == pytest.approx((singular[D:] ** 2).sum() / N)
    assert "evidence" not in outbox.metrics


def test_the_messages_contain_the_outputs():
    outbox = call(make_module("pca", {"latent_dim": D}), observations(images()))
    assert np.array_equal(sent(outbox, "latent_vectors")["mean"], outbox.outputs["z"])
    assert np.array_equal(sent(outbox, "reconstructions")["values"], outbox.outputs["x_hat"])
    assert outbox.outputs["x_hat"].shape == (N, *PIXELS)


@pytest.mark.parametrize("whiten", [False, True])
def test_as_many_components_as_values_reconstruct_exactly(whiten):
    outbox = call(make_module("pca", {"latent_dim": 12, "whiten": whiten}), observations(images()))
    np.testing.assert_allclose(outbox.outputs["x_hat"], images())
    assert outbox.metrics["explained"] == pytest.approx(1.0)


def test_every_update_fits_anew_unless_learning_is_off():
    pca = make_module("pca", {"latent_dim": D})
    call(pca, observations(images()))
    first = pca.state()
    kept = call(pca, observations(images(seed=1)), round=1, learn=False)
    assert same_arrays(pca.state(), first)
    recognized = call(pca, observations(images(seed=1)), method="recognize")
    assert same_arrays(kept.outputs, recognized.outputs)
    call(pca, observations(images(seed=1)), round=1)
    fresh = make_module("pca", {"latent_dim": D})
    call(fresh, observations(images(seed=1)))
    assert same_arrays(pca.state(), fresh.state())
    assert not same_arrays(pca.state(), first)


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_seeds_give_equal_bits(solver):
    one, other = (call(make_module("pca", {"solver": solver}), observations(images())) for _ in range(2))
    assert same_arrays(one.outputs, other.outputs)


# --- rows ---------------------------------------------------------------------------------------------------------


def test_missing_rows_do_not_influence_the_fit_and_get_zeros():
    mask = np.arange(N) % 4 == 0
    present = make_module("pca", {"latent_dim": D})
    expected = call(present, observations(images()[~mask]))
    for filler in (0.0, 1e300):
        values = np.where(mask[:, None, None], filler, images())
        pca = make_module("pca", {"latent_dim": D})
        outbox = call(pca, observations(values, mask=mask, lengths=np.array([20, 40])))
        assert same_arrays(pca.state(), present.state())
        assert outbox.metrics == expected.metrics
        np.testing.assert_allclose(outbox.outputs["z"][~mask], expected.outputs["z"])
        assert not outbox.outputs["z"][mask].any()
        np.testing.assert_allclose(
            outbox.outputs["x_hat"][mask], np.broadcast_to(images()[~mask].mean(axis=0), (mask.sum(), *PIXELS))
        )
        for port in ("latent_vectors", "reconstructions"):
            assert np.array_equal(sent(outbox, port).mask, mask)
            assert sent(outbox, port).lengths.tolist() == [20, 40]


def test_recognition_of_one_row_or_none_does_not_change_the_state():
    pca = make_module("pca", {"latent_dim": D})
    learnt = call(pca, observations(images()))
    before = pca.state()
    one = call(pca, observations(images()[7:8]), method="recognize")
    np.testing.assert_allclose(one.outputs["z"][0], learnt.outputs["z"][7])
    none = call(pca, observations(images()[:2], mask=np.ones(2, bool)), method="recognize")
    assert not none.outputs["z"].any()
    assert none.metrics == {}
    assert same_arrays(pca.state(), before)


# --- generation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [False, True])
def test_generates_images_of_class_means_and_of_their_rows(whiten):
    pca = make_module("pca", {"latent_dim": 12, "whiten": whiten})
    z = call(pca, observations(images())).outputs["z"]
    message = {"means": z[:2], "responsibilities": np.array([[1.0, 0], [0, 1], [0.5, 0.5]])}
    down = make_message(Header("class_means", "gmm", "class_means", "pca"), message)
    outputs = call(pca, down, method="generate", rows=3).outputs
    np.testing.assert_allclose(outputs["mu_hat"], images()[:2])
    np.testing.assert_allclose(outputs["x_hat"][2], images()[:2].mean(axis=0))
    assert call(pca, down, method="generate").outputs.keys() == {"mu_hat"}
    assert not call(pca, method="generate").outputs
    with_means = call(pca, observations(images()), down, round=1)
    assert np.array_equal(with_means.outputs["z"], z)


# --- state and errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [False, True])
def test_continues_bit_for_bit_after_a_load(whiten):
    one, other = (make_module("pca", {"latent_dim": D, "whiten": whiten, "solver": "randomized"}) for _ in range(2))
    call(one, observations(images()))
    state = {name: np.array(value) for name, value in one.state().items()}
    for value in state.values():
        value.flags.writeable = False
    other.load_state(state)
    assert same_arrays(other.state(), state)
    for method in ("recognize", "update"):
        outboxes = [call(pca, observations(images(seed=1)), method=method, round=1) for pca in (one, other)]
        assert same_arrays(outboxes[0].outputs, outboxes[1].outputs)
    assert same_arrays(one.state(), other.state())
    other.load_state({})
    assert other.state() == {}


def test_rejects_messages_that_do_not_match():
    pca = make_module("pca", {"latent_dim": D})
    means = {"means": np.zeros((2, D + 1)), "responsibilities": np.ones((1, 2)) / 2}
    down = make_message(Header("class_means", "gmm", "class_means", "pca"), means)
    for method, message in (("recognize", observations(images())), ("generate", down)):
        with pytest.raises(ModuleError, match="'pca' has learnt nothing"):
            call(pca, message, method=method)
    for few in (images(2), images()[:, :1, :2]):
        with pytest.raises(ModuleError, match=rf"{len(few)} rows of {few[0].size} values are not enough for 3"):
            call(pca, observations(few))
    with pytest.raises(ModuleError, match=r"0 rows of 12 values are not enough"):
        call(pca, observations(images(), mask=np.ones(N, bool)))
    with pytest.raises(ModuleError, match=r"1 row of .* at least 2"):
        call(make_module("pca", {"latent_dim": 1}), observations(images(1)))
    with pytest.raises(ModuleError, match=r"reach 1e\+200"):
        call(pca, observations(images() * 1e200 / images().max()))
    call(pca, observations(images()))
    with pytest.raises(ModuleError, match=r"received.* shape \(4, 3\).*\(3, 4\)"):
        call(pca, observations(images().reshape(N, 4, 3)), method="recognize")
    with pytest.raises(ModuleError, match="received means of dimension 4, expected 3"):
        call(pca, down, method="generate")
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        call(pca, observations(images()), overrides={"latent_dim": 2})
    with pytest.raises(ModuleError, match="3 components, this PCA 4"):
        make_module("pca", {"latent_dim": 4}).load_state(pca.state())


@pytest.mark.parametrize("parameters", [{"latent_dim": 0}, {"solver": "arpack"}, {"whiten": "perhaps"}, {"itr": 3}])
def test_rejects_invalid_parameters(parameters):
    with pytest.raises(ModuleError):
        make_module("pca", parameters)


def test_reading_the_ports_does_not_import_scikit_learn():
    code = "import sys, actors.modules.pca; assert actors.modules.pca.PCA.ports; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


# --- composition --------------------------------------------------------------------------------------------------


def test_learns_and_generates_below_a_gmm_and_a_markov_model():
    """Four noisy images in cyclic order: classes, order and images are learnt, and sequences of them generated."""
    patterns = np.random.default_rng(5).normal(size=(4, *PIXELS))
    truth = np.arange(300) % 4
    values = patterns[truth] + 0.5 * np.random.default_rng(6).normal(size=(300, *PIXELS))
    gmm = {"classes": 4, "iterations": 2, "prior_scale": "data", "start": "kmeans"}
    graph = Graph(
        [
            ModuleSpec("data", "observation"),
            ModuleSpec("pca", "pca", {"latent_dim": 3}),
            ModuleSpec("gmm", "gmm", gmm),
            ModuleSpec("mm", "markov"),
        ],
        [Connection("data", "pca"), Connection("pca", "gmm"), Connection("gmm", "mm")],
        Schedule(2, (Step("pca"), Block((Step("gmm"), Step("mm")), repeat=5))),
    )
    coordinator = Coordinator(graph, InProcessBackend())
    coordinator.start({"data": {"values": values}})
    coordinator.run_rounds()
    assert accuracy(coordinator.outputs("gmm")["class"], truth) > 0.99
    classes = coordinator.outputs("gmm")["class"][:4]
    np.testing.assert_allclose(coordinator.generate("pca")["mu_hat"][classes], patterns, atol=0.4)
    states = {name: coordinator.state(name) for name in ("pca", "gmm", "mm")}
    generated = Coordinator(graph, InProcessBackend()).generate_rows(states, 50)
    nearest = np.square(generated["pca"]["x_hat"][:, None] - patterns).sum(axis=(2, 3)).argmin(axis=1)
    assert np.array_equal(nearest[1:], (nearest[:-1] + 1) % 4)


# --- values that are missing in part of a row ---------------------------------------------------------------------


def correlated(share=0.3, rows=200, columns=8, seed=0):
    """Return rows about two directions, and which of their values are missing; arbitrary numbers stand there."""
    generator = np.random.default_rng(seed)
    X = 3 * generator.normal(size=(rows, 2)) @ generator.normal(size=(2, columns)) + generator.normal(size=columns)
    X += 0.2 * generator.normal(size=X.shape)
    absent = generator.random(X.shape) < share
    absent[5] = True
    return X, absent


@pytest.mark.parametrize("whiten", [False, True])
def test_a_mask_of_values_that_are_all_there_gives_the_same_components(whiten):
    X, _ = correlated()
    one, two = (make_module("pca", {"latent_dim": 2, "whiten": whiten}) for _ in range(2))
    expected = call(one, observations(X)).outputs["z"]
    found = call(two, observations(X, mask=np.zeros(X.shape, bool))).outputs["z"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert set(one.state()) == set(two.state())


def test_the_latent_vector_of_an_incomplete_row_is_its_mean_given_the_observed_values():
    X, absent = correlated()
    pca = make_module("pca", {"latent_dim": 2})
    z = call(pca, observations(np.where(absent, 50.0, X), mask=absent)).outputs["z"]
    mean, V, variances, noise = (
        pca.state()[name] for name in ("mean_", "components_", "explained_variance_", "noise_variance_")
    )
    covariance = V.T @ np.diag(variances - noise) @ V + noise * np.eye(X.shape[1])
    for row in range(30):
        o, m = np.flatnonzero(~absent[row]), np.flatnonzero(absent[row])
        filled = X[row].copy()
        regression = covariance[np.ix_(m, o)] @ np.linalg.pinv(covariance[np.ix_(o, o)])
        filled[m] = mean[m] + regression @ (X[row, o] - mean[o])
        np.testing.assert_allclose(z[row], V @ (filled - mean), atol=1e-8)
    assert not z[5].any()


def test_components_of_incomplete_rows_are_close_to_those_of_the_whole_rows():
    X, absent = correlated()
    whole, lacking, mean = (make_module("pca", {"latent_dim": 2}) for _ in range(3))
    call(whole, observations(X))
    outbox = call(lacking, observations(np.where(absent, 0.0, X), mask=absent))
    call(mean, observations(np.where(absent, np.nanmean(np.where(absent, np.nan, X), axis=0), X)))
    one, two, three = (np.linalg.svd(each.state()["components_"])[2][:2] for each in (whole, lacking, mean))
    angles = [np.linalg.svd(one @ other.T)[1].min() for other in (two, three)]
    assert angles[0] > 0.999 > angles[1]
    assert outbox.metrics["explained"] > 0.98
    hidden = absent & ~absent.all(axis=1, keepdims=True)
    assert np.std((outbox.outputs["x_hat"] - X)[hidden]) < 0.2 * np.std(X[hidden])


def test_rows_are_recognized_by_the_values_that_they_have():
    X, absent = correlated()
    X, new, absent = X[:100], X[100:], absent[100:]
    pca = make_module("pca", {"latent_dim": 2})
    call(pca, observations(X))
    expected = call(pca, observations(new), method="recognize").outputs["z"]
    found = call(pca, observations(np.where(absent, 0.0, new), mask=absent), method="recognize").outputs["z"]
    some = ~absent.all(axis=1)
    assert np.corrcoef(found[some].ravel(), expected[some].ravel())[0, 1] > 0.9


def test_a_state_of_an_earlier_version_says_what_it_lacks():
    X, absent = correlated()
    pca, older = (make_module("pca", {"latent_dim": 2}) for _ in range(2))
    call(pca, observations(X))
    older.load_state({name: value for name, value in pca.state().items() if name != "noise_variance_"})
    with pytest.raises(ModuleError, match=r"earlier version.*train the run again"):
        call(older, observations(X, mask=absent), method="recognize")
