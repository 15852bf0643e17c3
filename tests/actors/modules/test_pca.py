"""PCA compresses observations with scikit-learn, and shows what is said of its latent vectors as observations."""

import os
import subprocess
import sys

import numpy as np
import pytest
from actors.graph.spec import Connection, ModuleSpec

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.graph import Graph
from actors.graph.registry import make
from actors.graph.schedule import Block, Schedule, Step
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from runner.report.clustering_metrics import accuracy
from tests.support.toy_modules import same

N, PIXELS, D = 60, (3, 4), 3
SOLVERS = ["full", "covariance_eigh", "randomized"]


def pictures(rows=N, seed=0):
    """Pictures whose pixels vary together."""
    mixing = np.random.default_rng(99).normal(size=(12, 12)) * 0.7 ** np.arange(12)[:, None]
    return 5.0 + (np.random.default_rng(seed).normal(size=(rows, 12)) @ mixing).reshape(rows, *PIXELS)


def observations(values, **rows):
    return make_message(Header("observations", "data", "observations", "pca"), {"values": values, **rows})


def ask(pca, *messages, answer="update", **context):
    return getattr(pca, answer)(Inbox(messages), Context("pca", **context))


def arrays(outbox, port):
    (outgoing,) = [outgoing for outgoing in outbox.messages if outgoing.port == port]
    return make_message(Header(port, "pca", port), outgoing.arrays)


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("whiten", [False, True])
def test_the_components_are_the_first_singular_vectors(solver, whiten):
    X = pictures().reshape(N, -1)
    _, singular, Vt = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    Vt *= np.sign(Vt[np.arange(len(Vt)), np.abs(Vt).argmax(axis=1)])[:, None]  # the largest value is positive
    pca = make("pca", {"latent_dim": D, "solver": solver, "whiten": whiten})
    outbox = ask(pca, observations(pictures()))
    z = (X - X.mean(axis=0)) @ Vt[:D].T
    deviation = singular[:D] / np.sqrt(N - 1)
    np.testing.assert_allclose(outbox.outputs["z"], z / deviation if whiten else z, atol=1e-6)
    np.testing.assert_allclose(pca.state()["components_"], Vt[:D], atol=1e-6)
    np.testing.assert_allclose(pca.state()["explained_variance_"], deviation**2)
    np.testing.assert_allclose(outbox.outputs["x_hat"].reshape(N, -1), X.mean(axis=0) + z @ Vt[:D], atol=1e-6)
    assert outbox.metrics["explained"] == pytest.approx((singular[:D] ** 2).sum() / (singular**2).sum())
    assert outbox.metrics["reconstruction_error"] == pytest.approx((singular[D:] ** 2).sum() / N)
    assert "evidence" not in outbox.metrics


def test_sends_what_it_outputs():
    outbox = ask(make("pca", {"latent_dim": D}), observations(pictures()))
    assert np.array_equal(arrays(outbox, "latent_vectors")["mean"], outbox.outputs["z"])
    assert np.array_equal(arrays(outbox, "reconstructions")["values"], outbox.outputs["x_hat"])
    assert outbox.outputs["x_hat"].shape == (N, *PIXELS)


@pytest.mark.parametrize("whiten", [False, True])
def test_as_many_components_as_values_lose_nothing(whiten):
    outbox = ask(make("pca", {"latent_dim": 12, "whiten": whiten}), observations(pictures()))
    np.testing.assert_allclose(outbox.outputs["x_hat"], pictures())
    assert outbox.metrics["explained"] == pytest.approx(1.0)


def test_every_update_fits_anew_but_where_nothing_is_to_be_learnt():
    pca = make("pca", {"latent_dim": D})
    ask(pca, observations(pictures()))
    first = pca.state()
    kept = ask(pca, observations(pictures(seed=1)), round=1, learn=False)
    assert same(pca.state(), first)
    recognized = ask(pca, observations(pictures(seed=1)), answer="recognize")
    assert same(kept.outputs, recognized.outputs)
    ask(pca, observations(pictures(seed=1)), round=1)
    fresh = make("pca", {"latent_dim": D})
    ask(fresh, observations(pictures(seed=1)))
    assert same(pca.state(), fresh.state())
    assert not same(pca.state(), first)


@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_seeds_give_equal_bits(solver):
    one, other = (ask(make("pca", {"solver": solver}), observations(pictures())) for _ in range(2))
    assert same(one.outputs, other.outputs)


# --- rows ---------------------------------------------------------------------------------------------------------


def test_missing_rows_are_not_learnt_from_and_get_zeros():
    mask = np.arange(N) % 4 == 0
    present = make("pca", {"latent_dim": D})
    expected = ask(present, observations(pictures()[~mask]))
    for filler in (0.0, 1e300):
        values = np.where(mask[:, None, None], filler, pictures())
        pca = make("pca", {"latent_dim": D})
        outbox = ask(pca, observations(values, mask=mask, lengths=np.array([20, 40])))
        assert same(pca.state(), present.state())
        assert outbox.metrics == expected.metrics
        np.testing.assert_allclose(outbox.outputs["z"][~mask], expected.outputs["z"])
        assert not outbox.outputs["z"][mask].any()
        np.testing.assert_allclose(
            outbox.outputs["x_hat"][mask], np.broadcast_to(pictures()[~mask].mean(axis=0), (mask.sum(), *PIXELS))
        )
        for port in ("latent_vectors", "reconstructions"):
            assert np.array_equal(arrays(outbox, port).mask, mask)
            assert arrays(outbox, port).lengths.tolist() == [20, 40]


def test_recognizes_one_row_or_none_and_changes_nothing():
    pca = make("pca", {"latent_dim": D})
    learnt = ask(pca, observations(pictures()))
    before = pca.state()
    one = ask(pca, observations(pictures()[7:8]), answer="recognize")
    np.testing.assert_allclose(one.outputs["z"][0], learnt.outputs["z"][7])
    none = ask(pca, observations(pictures()[:2], mask=np.ones(2, bool)), answer="recognize")
    assert not none.outputs["z"].any()
    assert none.metrics == {}
    assert same(pca.state(), before)


# --- the way down -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [False, True])
def test_shows_what_class_means_and_their_rows_look_like(whiten):
    pca = make("pca", {"latent_dim": 12, "whiten": whiten})
    z = ask(pca, observations(pictures())).outputs["z"]
    message = {"means": z[:2], "responsibilities": np.array([[1.0, 0], [0, 1], [0.5, 0.5]])}
    down = make_message(Header("class_means", "gmm", "class_means", "pca"), message)
    outputs = ask(pca, down, answer="generate", rows=3).outputs
    np.testing.assert_allclose(outputs["mu_hat"], pictures()[:2])
    np.testing.assert_allclose(outputs["x_hat"][2], pictures()[:2].mean(axis=0))
    assert ask(pca, down, answer="generate").outputs.keys() == {"mu_hat"}
    assert not ask(pca, answer="generate").outputs
    told = ask(pca, observations(pictures()), down, round=1)
    assert np.array_equal(told.outputs["z"], z)


# --- state and refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [False, True])
def test_continues_bit_for_bit_after_a_load(whiten):
    one, other = (make("pca", {"latent_dim": D, "whiten": whiten, "solver": "randomized"}) for _ in range(2))
    ask(one, observations(pictures()))
    state = {name: np.array(value) for name, value in one.state().items()}
    for value in state.values():
        value.flags.writeable = False
    other.load_state(state)
    assert same(other.state(), state)
    for answer in ("recognize", "update"):
        outboxes = [ask(pca, observations(pictures(seed=1)), answer=answer, round=1) for pca in (one, other)]
        assert same(outboxes[0].outputs, outboxes[1].outputs)
    assert same(one.state(), other.state())
    other.load_state({})
    assert other.state() == {}


def test_says_what_does_not_fit():
    pca = make("pca", {"latent_dim": D})
    means = {"means": np.zeros((2, D + 1)), "responsibilities": np.ones((1, 2)) / 2}
    down = make_message(Header("class_means", "gmm", "class_means", "pca"), means)
    for answer, message in (("recognize", observations(pictures())), ("generate", down)):
        with pytest.raises(ModuleError, match="'pca' has learnt nothing"):
            ask(pca, message, answer=answer)
    for few in (pictures(2), pictures()[:, :1, :2]):
        with pytest.raises(ModuleError, match=rf"{len(few)} rows of {few[0].size} values came.* not enough for 3"):
            ask(pca, observations(few))
    with pytest.raises(ModuleError, match=r"0 rows of 12 values came"):
        ask(pca, observations(pictures(), mask=np.ones(N, bool)))
    with pytest.raises(ModuleError, match=r"1 rows .* 2 at least"):
        ask(make("pca", {"latent_dim": 1}), observations(pictures(1)))
    with pytest.raises(ModuleError, match=r"reach 1e\+200"):
        ask(pca, observations(pictures() * 1e200 / pictures().max()))
    ask(pca, observations(pictures()))
    with pytest.raises(ModuleError, match=r"shape \(4, 3\) came.*\(3, 4\)"):
        ask(pca, observations(pictures().reshape(N, 4, 3)), answer="recognize")
    with pytest.raises(ModuleError, match="dimension 4 came, expected 3"):
        ask(pca, down, answer="generate")
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        ask(pca, observations(pictures()), overrides={"latent_dim": 2})
    with pytest.raises(ModuleError, match="3 components, this PCA 4"):
        make("pca", {"latent_dim": 4}).load_state(pca.state())


@pytest.mark.parametrize("given", [{"latent_dim": 0}, {"solver": "arpack"}, {"whiten": "perhaps"}, {"itr": 3}])
def test_refuses_wrong_parameters(given):
    with pytest.raises(ModuleError):
        make("pca", given)


def test_asking_for_its_ports_does_not_import_scikit_learn():
    code = "import sys, actors.modules.pca; assert actors.modules.pca.PCA.ports; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


# --- with others --------------------------------------------------------------------------------------------------


def test_beneath_a_gmm_and_a_markov_model_it_is_part_of_one_model():
    """Four noisy pictures in turn: classes, their order and what they look like are found, and made up again."""
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
    coordinator = Coordinator(graph, InProcess())
    coordinator.start({"data": {"values": values}})
    coordinator.run_rounds()
    assert accuracy(coordinator.outputs("gmm")["class"], truth) > 0.99
    classes = coordinator.outputs("gmm")["class"][:4]
    np.testing.assert_allclose(coordinator.generate("pca")["mu_hat"][classes], patterns, atol=0.4)
    states = {name: coordinator.state(name) for name in ("pca", "gmm", "mm")}
    made = Coordinator(graph, InProcess()).make_up(states, 50)
    nearest = np.square(made["pca"]["x_hat"][:, None] - patterns).sum(axis=(2, 3)).argmin(axis=1)
    assert np.array_equal(nearest[1:], (nearest[:-1] + 1) % 4)
