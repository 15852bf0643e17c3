"""Tests of labels for some rows: the source that sends them, and the mixture that learns from them."""

import numpy as np
import pytest
from scipy.special import logsumexp

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.mixture.known_labels import named_as_known, seeded_kmeans
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, log_predictive_loo, posterior_from_labels
from actors.kernels.mixture.variational import one_hot_responsibilities, variational_bayes
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox

K, N = 3, 120
CENTRES = np.array([[0.0, 3.0], [3.0, 0.0], [-3.0, -3.0]])
TRUTH = np.arange(N) % K
NAMES = np.array([2, 0, 1])
ENGINES = ["gibbs", "vb", "blocked-gibbs"]


def rows(seed=0):
    return CENTRES[TRUTH] + np.random.default_rng(seed).normal(size=(N, 2))


def some_labels(each=1, seed=1):
    """Return the labels of a few rows of each class, under names that are not their order; -1 for the others."""
    known = np.full(N, -1)
    for k in range(K):
        known[np.random.default_rng(seed).permutation(np.flatnonzero(k == TRUTH))[:each]] = NAMES[k]
    return known


def sent(known, **parameters):
    """Return the message of a source of labels."""
    source = make_module("labels", {"classes": K, **parameters})
    source.load_state({"values": np.maximum(known, 0.0)[:, None], "mask": known < 0})
    (outgoing,) = source.update(Inbox(()), Context("labels")).messages
    return make_message(Header("transition_prior", "labels", "labels", "gmm"), outgoing.arrays)


def data(X, **rows_of):
    return make_message(Header("observations", "data", "observations", "gmm"), {"values": X, **rows_of})


def update(gmm, *messages, **context):
    receivers = {"class_posteriors": ("mm",), "class_means": ()}
    return gmm.update(Inbox(messages), Context("gmm", receivers=receivers, **{"seed": 3, **context}))


def make_gmm(engine="gibbs", **given):
    return make_module("gmm", {"classes": K, "iterations": 20, "engine": engine, **given})


def test_rows_without_a_label_are_flat_and_masked():
    known = np.array([1, -1, 0])
    message = sent(known, confidence=0.9)
    np.testing.assert_allclose(np.exp(message["log_prob"]), [[0.05, 0.9, 0.05], [1 / 3] * 3, [0.9, 0.05, 0.05]])
    assert message.mask.tolist() == [False, True, False]


def test_a_label_that_is_no_class_is_named():
    for values in ([[0.0], [3.0]], [[0.0], [1.5]]):
        source = make_module("labels", {"classes": K})
        source.load_state({"values": np.array(values)})
        with pytest.raises(ModuleError, match="row 2 has the label"):
            source.update(Inbox(()), Context("labels"))


@pytest.mark.parametrize("engine", ENGINES)
def test_classes_have_the_numbers_of_the_labels(engine):
    known = some_labels()
    outbox = update(make_gmm(engine), data(rows()), sent(known))
    assert (outbox.outputs["class"] == NAMES[TRUTH]).mean() > 0.9
    assert (outbox.outputs["class"] == known)[known >= 0].all()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_few_wrong_labels_of_low_confidence_are_overruled(engine):
    known = some_labels(each=12)
    wrong = np.flatnonzero(known >= 0)[:3]
    known[wrong] = (known[wrong] + 1) % K
    outbox = update(make_gmm(engine), data(3 * rows()), sent(known, confidence=0.8))
    assert (outbox.outputs["class"] == NAMES[TRUTH])[wrong].all()


def test_the_posterior_is_likelihood_times_weight_times_label():
    known, X = some_labels(each=5), rows()
    gmm = make_gmm()
    outbox = update(gmm, data(X), sent(known, confidence=0.7))
    state = gmm.state()
    factors = NIWPosterior(*(state[name] for name in NIWPosterior._fields))
    prior = NIWPrior(state["prior_mean"], state["prior_count"], state["degrees"], state["prior_scale"])
    told = np.where(known[:, None] < 0, 1.0, np.where(known[:, None] == np.arange(K), 0.7, 0.15))
    weights = (factors.counts + 0.1) / (factors.counts + 0.1).sum()
    scores = log_predictive_loo(X, state["labels"], factors, prior) + np.log(told * weights)
    np.testing.assert_allclose(outbox.outputs["Pdz"], np.exp(scores - logsumexp(scores, axis=1, keepdims=True)))
    (up,) = [each.arrays for each in outbox.messages if each.port == "class_posteriors"]
    scores -= np.log(weights)  # they belong to the receiver's prior
    np.testing.assert_allclose(up["log_prob"], scores - logsumexp(scores, axis=1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize(
    "given",
    [
        *({"type": "gmm", "engine": engine} for engine in ENGINES),
        *({"type": "ar_gmm", "engine": engine} for engine in ("vb", "blocked-gibbs")),
    ],
)
def test_a_source_that_knows_no_label_leaves_the_weights(given):
    type_, flat = given.pop("type"), sent(np.full(N, -1))
    start = {} if type_ == "ar_gmm" else {"start": "kmeans"}
    one, other = (
        update(make_module(type_, {"classes": K, "iterations": 15, **start, **given}), data(rows()), *messages)
        for messages in ((), (flat,))
    )
    np.testing.assert_allclose(other.outputs["Pdz"], one.outputs["Pdz"], atol=1e-9)


def test_priors_from_above_multiply_with_labels():
    known = some_labels(each=5)
    above = np.random.default_rng(0).dirichlet(np.ones(K), N)
    header = Header("transition_prior", "mm", "transition_prior", "gmm")
    message = make_message(header, {"log_prob": np.log(above)})
    gmm = make_gmm("vb")
    outbox = update(gmm, data(rows()), message, sent(known, confidence=0.7))
    told = np.where(known[:, None] < 0, 1.0, np.where(known[:, None] == np.arange(K), 0.7, 0.15))
    (up,) = [each.arrays for each in outbox.messages if each.port == "class_posteriors"]
    expected = np.exp(up["log_prob"]) * above  # what goes to the MM contains the labels, not its own message
    np.testing.assert_allclose(outbox.outputs["Pdz"], expected / expected.sum(axis=1, keepdims=True), atol=1e-12)
    assert not np.allclose(np.exp(up["log_prob"]), outbox.outputs["Pdz"])
    bare = make_gmm("vb")
    bare.load_state(gmm.state())
    flat = update(bare, data(rows()), message, overrides={"iterations": 0}, learn=False, round=2)
    (without,) = [each.arrays for each in flat.messages if each.port == "class_posteriors"]
    ratio = np.exp(up["log_prob"] - without["log_prob"]) / told
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(K), rtol=0.2)


def test_a_dirichlet_process_has_the_classes_of_the_labels():
    known = some_labels(each=4)
    dp = make_module("dp_gmm", {"most": 6, "iterations": 20})
    outbox = update(dp, data(rows()), sent(known, classes=6))
    assert (outbox.outputs["class"] == NAMES[TRUTH]).mean() > 0.95
    update(dp := make_module("dp_gmm", {"most": 6}), data(rows()), sent(NAMES[TRUTH], classes=6))
    state = dp.state()
    prior = NIWPrior(state["prior_mean"], state["prior_count"], state["degrees"], state["prior_scale"])
    expected = posterior_from_labels(rows(), NAMES[TRUTH], 6, prior)  # of supervised estimates
    np.testing.assert_allclose(state["mean"], expected.mean, rtol=1e-9)
    np.testing.assert_allclose(state["scale"], expected.scale, rtol=1e-9)


def posteriors(sender, log_prob, receiver="product"):
    header = Header("class_posteriors", sender, "class_posteriors", receiver)
    return make_message(header, {"log_prob": log_prob, "log_norm": np.zeros(len(log_prob))})


def test_a_product_has_the_classes_of_the_labels_and_multiplies_them():
    known, generator = some_labels(each=5), np.random.default_rng(0)
    shares = [0.1 + 0.7 * np.eye(K)[order[TRUTH]] for order in (np.array([1, 2, 0]), np.array([0, 2, 1]))]
    logs = [np.log(generator.dirichlet(np.full(K, 5.0), N) * each) for each in shares]
    logs = [each - logsumexp(each, axis=1, keepdims=True) for each in logs]
    product, context = make_module("product", {}), Context("product", receivers={"transition_prior": ("a", "b")})
    inbox = Inbox((posteriors("a", logs[0]), posteriors("b", logs[1]), sent(known, confidence=0.7)))
    outbox = product.update(inbox, context)
    assert (outbox.outputs["class"] == NAMES[TRUTH]).mean() > 0.9
    own = [product.state()[f"permutation.{name}"] for name in "ab"]
    told = np.where(known[:, None] < 0, 1.0, np.where(known[:, None] == np.arange(K), 0.7, 0.15))
    joint = np.exp(logs[0][:, own[0]] + logs[1][:, own[1]]) * told
    np.testing.assert_allclose(outbox.outputs["Pdz"], joint / joint.sum(axis=1, keepdims=True), atol=1e-12)
    down = next(each.arrays["log_prob"] for each in outbox.messages if each.receiver == "a")
    cavity = np.exp(logs[1][:, own[1]]) * told
    cavity = (cavity / cavity.sum(axis=1, keepdims=True))[:, np.argsort(own[0])]
    np.testing.assert_allclose(np.exp(down), cavity, atol=1e-8)


@pytest.mark.parametrize("engine", ["gibbs", "vb"])
def test_labels_are_a_prior_of_the_class_of_an_mldas_row(engine):
    generator, known = np.random.default_rng(1), some_labels(each=6)
    counts = generator.multinomial(30, 0.01 + 0.94 * np.repeat(np.eye(K), 2, axis=1)[NAMES[TRUTH]] / 2)
    parameters = {"topics": K, "iterations": 20, "engine": engine}
    told, found = sent(known, confidence=0.9), []
    as_prior = make_message(Header("transition_prior", "mm", "topic_prior", "mlda"), {"log_prob": told["log_prob"]})
    for message in (told, as_prior):
        mlda = make_module("mlda", parameters)
        found.append(mlda.update(Inbox((data(counts.astype(float)), message)), Context("mlda", seed=4)))
    np.testing.assert_allclose(found[0].outputs["Pdz"], found[1].outputs["Pdz"], atol=1e-12)
    assert found[0].metrics["evidence"] == pytest.approx(found[1].metrics["evidence"])
    assert (found[0].outputs["class"] == NAMES[TRUTH]).mean() > 0.95


def test_a_missing_row_with_a_label_says_its_class():
    known = some_labels(each=5)
    row = int(np.flatnonzero(known >= 0)[0])
    mask = np.zeros(N, bool)
    mask[[row, row + 1]] = True
    known[row + 1] = -1
    outbox = update(make_gmm(), data(rows(), mask=mask), sent(known))
    (up,) = [each.arrays for each in outbox.messages if each.port == "class_posteriors"]
    assert outbox.outputs["class"][row] == known[row]
    assert up["mask"].tolist() == (np.arange(N) == row + 1).tolist()
    assert np.exp(up["log_prob"][row]).argmax() == known[row]
    assert up["log_norm"][row] == 0.0


def test_the_bound_with_labels_never_falls():
    objectives = []
    X, prior = rows(), NIWPrior(np.zeros(2), 1.0, 4.0, np.eye(2))
    known = some_labels(each=5)
    told = np.log(np.where(known[:, None] < 0, 1.0, np.where(known[:, None] == np.arange(K), 0.98, 0.01)))
    start = one_hot_responsibilities(np.random.default_rng(0).integers(0, K, N), K)
    variational_bayes(
        X, start, prior, 0.1, 50, log_bias=told, use_weights=True, on_iteration=lambda _, rise: objectives.append(rise)
    )
    assert np.diff(objectives).min() > -1e-9


def test_labels_and_a_prior_that_exclude_each_other_are_refused():
    header = Header("transition_prior", "mm", "transition_prior", "gmm")
    with np.errstate(divide="ignore"):
        message = make_message(header, {"log_prob": np.log(np.tile([1.0, 0.0, 0.0], (N, 1)))})
    with pytest.raises(ModuleError, match=r"excludes the label of row .*confidence below 1"):
        update(make_gmm(), data(rows()), message, sent(some_labels(each=5)))


# --- the start ----------------------------------------------------------------------------------------------------


def test_start_labels_take_the_names_of_the_known_ones():
    start, known = np.array([0, 0, 1, 1, 2, 2]), np.array([2, -1, 0, -1, -1, -1])
    assert named_as_known(start, known, 3).tolist() == [2, 2, 0, 0, 1, 1]


def test_known_rows_stay_in_their_class():
    X = np.array([[0.0], [0.1], [5.0], [5.1], [5.2]])
    known = np.array([0, -1, -1, 1, 0])
    assert seeded_kmeans(X, np.array([0, 0, 1, 1, 1]), known, 2).tolist() == [0, 0, 1, 1, 0]
