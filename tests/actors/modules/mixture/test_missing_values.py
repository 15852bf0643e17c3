"""Tests of mixtures whose rows lack some of their values: NaN in part of a row, as a mask of the values' shape."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox

K, D, N = 3, 4, 150
CENTRES = np.array([[0.0, 4.0, 0.0, -4.0], [4.0, 0.0, -4.0, 0.0], [-4.0, -4.0, 4.0, 4.0]])
TRUTH = np.arange(N) % K
ENGINES = {
    "gibbs": ("gmm", {"classes": K, "iterations": 15}),
    "blocked-gibbs": ("gmm", {"classes": K, "iterations": 15, "engine": "blocked-gibbs"}),
    "vb": ("gmm", {"classes": K, "iterations": 50, "engine": "vb"}),
    "dp_gmm": ("dp_gmm", {"most": 6, "iterations": 15}),
}


def observed(share=0.3, units=1.0, rows=N, seed=0):
    """Return rows of three classes and which of their values are missing; there is one row without any."""
    generator = np.random.default_rng(seed)
    X = CENTRES[np.arange(rows) % K] + generator.normal(size=(rows, D))
    absent = generator.random((rows, D)) < share
    absent[7] = True
    return np.where(absent, 0.0, X * units), absent


def message(X, absent=None, **rows):
    arrays = {"values": X, **rows} | ({} if absent is None else {"mask": absent})
    return make_message(Header("observations", "data", "observations", "gmm"), arrays)


def prior_of(probabilities):
    header = Header("transition_prior", "mm", "transition_prior", "gmm")
    return make_message(header, {"log_prob": np.log(probabilities)})


def call(module, *messages, answer="update", **context):
    receivers = {"class_posteriors": ("mm",), "class_means": ()}
    return getattr(module, answer)(Inbox(messages), Context("gmm", receivers=receivers, **context))


def trained(name, *messages, **given):
    kind, parameters = ENGINES[name]
    module = make_module(kind, {**parameters, **given})
    return module, call(module, *messages, seed=1)


def upward(outbox):
    (found,) = [each.arrays for each in outbox.messages if each.port == "class_posteriors"]
    return found


@pytest.mark.parametrize("name", ENGINES)
def test_classes_are_found_in_rows_that_lack_values(name):
    X, absent = observed()
    module, outbox = trained(name, message(X, absent))
    present = ~absent.all(axis=1)
    assert adjusted_rand_score(TRUTH[present], outbox.outputs["class"][present]) > 0.9
    assert np.isfinite(outbox.metrics["evidence"])
    new, lacking = observed(seed=5)
    again = call(module, message(new, lacking), answer="recognize").outputs["class"]
    assert adjusted_rand_score(TRUTH[present], again[present]) > 0.85


@pytest.mark.parametrize("name", ENGINES)
def test_what_the_mask_hides_does_not_matter(name):
    X, absent = observed()
    _, one = trained(name, message(X, absent))
    _, two = trained(name, message(np.where(absent, 1e3, X), absent))
    assert np.array_equal(one.outputs["Pdz"], two.outputs["Pdz"])
    assert one.metrics == two.metrics


@pytest.mark.parametrize("name", ENGINES)
def test_a_mask_of_values_that_are_all_there_changes_no_bit(name):
    X, _ = observed(share=0.0)
    nothing, rows = np.zeros((N, D), bool), np.zeros(N, bool)
    nothing[7], rows[7] = True, True
    _, one = trained(name, message(X, nothing))
    _, two = trained(name, message(X, rows))
    for key in two.outputs:
        assert np.allclose(one.outputs[key], two.outputs[key])
    assert np.array_equal(one.outputs["class"], two.outputs["class"])


@pytest.mark.parametrize("name", ENGINES)
def test_a_missing_row_is_flat_and_counts_for_nothing(name):
    X, absent = observed()
    module, outbox = trained(name, message(X, absent))
    arrays = upward(outbox)
    assert arrays["mask"].tolist() == absent.all(axis=1).tolist()
    assert np.ptp(arrays["log_prob"][7]) == pytest.approx(0.0, abs=1e-9)
    assert arrays["log_norm"][7] == 0.0
    assert module.state()["counts"].sum() == pytest.approx(N - absent.all(axis=1).sum())


@pytest.mark.parametrize("name", ["gibbs", "vb"])
def test_learning_nothing_rebuilds_the_same_classes(name):
    X, absent = observed()
    module, first = trained(name, message(X, absent))
    second = call(module, message(X, absent), seed=1, overrides={"iterations": 0}, learn=False)
    assert np.array_equal(first.outputs["class"], second.outputs["class"])
    assert np.allclose(first.outputs["mu"], second.outputs["mu"], atol=1e-2)


@pytest.mark.parametrize("name", ["gibbs", "vb"])
def test_an_update_after_a_load_is_the_same(name):
    X, absent = observed()
    module, _ = trained(name, message(X, absent))
    kind, parameters = ENGINES[name]
    other = make_module(kind, parameters)
    other.load_state(module.state())
    one, two = (call(each, message(X, absent), seed=1, round=2) for each in (module, other))
    assert np.array_equal(one.outputs["Pdz"], two.outputs["Pdz"])


def test_units_of_columns_do_not_matter():
    units = np.array([1e-30, 1.0, 1e5, 1e25])
    X, absent = observed()
    (_, one), (_, two) = (trained("vb", message(X * u, absent), prior_scale="data") for u in (1.0, units))
    assert np.array_equal(one.outputs["class"], two.outputs["class"])
    volume = ((~absent).sum(axis=0) * np.log(units)).sum()
    assert two.metrics["evidence"] == pytest.approx(one.metrics["evidence"] - volume, rel=1e-6)


def test_a_prior_from_above_decides_rows_whose_values_say_little():
    X, absent = observed(share=0.0)
    X[:, 0] += np.random.default_rng(1).normal(scale=3.0, size=N)
    absent[:, 1:] = True
    absent[:60] = False
    absent[7] = True
    X = np.where(absent, 0.0, X)
    sure = np.full((N, K), 0.01)
    sure[np.arange(N), TRUTH] = 0.98
    _, flat = trained("vb", message(X, absent), prior_of(np.full((N, K), 1 / K)))
    module, _ = trained("vb", message(X, absent), prior_of(np.full((N, K), 1 / K)))
    names = np.array([np.bincount(flat.outputs["class"][:60][TRUTH[:60] == k]).argmax() for k in range(K)])
    told = call(module, message(X, absent), prior_of(sure[:, np.argsort(names)]), seed=1, round=2)
    rows = np.arange(60, N)
    accuracy = [(each.outputs["class"][rows] == names[TRUTH[rows]]).mean() for each in (flat, told)]
    assert accuracy[1] > 0.95 > accuracy[0]


def test_rows_are_generated_from_what_was_learnt():
    X, absent = observed()
    module, _ = trained("vb", message(X, absent))
    drawn = module.generate(Inbox(()), Context("gmm", receivers={}, rows=300, seed=4)).outputs["x"]
    distance = np.linalg.norm(drawn[:, None] - CENTRES, axis=2).min(axis=1)
    assert np.isfinite(drawn).all()
    assert np.median(distance) < 4.0


def test_a_row_that_only_has_values_of_a_constant_column_is_missing():
    X, absent = observed()
    X = np.column_stack([X, np.full(N, 2.5)])
    absent = np.column_stack([absent, np.zeros(N, bool)])
    _, outbox = trained("vb", message(X, absent))
    arrays = upward(outbox)
    assert arrays["log_norm"][7] == 0.0
    assert np.ptp(arrays["log_prob"][7]) == pytest.approx(0.0, abs=1e-9)
