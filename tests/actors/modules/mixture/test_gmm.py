"""Tests of the GMM module: classification of latent vectors, priors from above, and extrinsic messages."""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn.metrics import adjusted_rand_score

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.mixture.niw import NIWPosterior, NIWPrior, log_predictive_loo
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from tests.support.toy_modules import check_state_transfer, same_arrays

K, D, N = 3, 2, 90
CENTRES = np.array([[0.0, 6.0], [6.0, 0.0], [-6.0, -6.0]])
TRUTH = np.arange(N) % K


def clusters(spread=0.5, rows=N, seed=0):
    return CENTRES[np.arange(rows) % K] + spread * np.random.default_rng(seed).normal(size=(rows, D))


def make_gmm(**given):
    return make_module("gmm", {"classes": K, "itr": 20, **given})


def latent_vectors(mean, **rows):
    return make_message(Header("latent_vectors", "vae", "latent_vectors", "gmm"), {"mean": mean, **rows})


def prior_of(sender, probabilities):
    with np.errstate(divide="ignore"):
        arrays = {"log_prob": np.log(probabilities)}
    return make_message(Header("transition_prior", sender, "transition_prior", "gmm"), arrays)


def some_prior(sender, seed, rows=N):
    return prior_of(sender, np.random.default_rng(seed).dirichlet(np.ones(K), rows))


def update(gmm, *messages, answer="update", receivers=("mm",), **context):
    context = Context("gmm", receivers={"class_posteriors": receivers, "class_means": ("vae",)}, **context)
    return getattr(gmm, answer)(Inbox(messages), context)


def upward(outbox, receiver="mm"):
    (outgoing,) = [o for o in outbox.messages if (o.port, o.receiver) == ("class_posteriors", receiver)]
    return make_message(Header("class_posteriors", "gmm", "class_posteriors", receiver), outgoing.arrays)


def downward(outbox):
    (outgoing,) = [o for o in outbox.messages if o.port == "class_means"]
    return make_message(Header("class_means", "gmm", "class_means", "vae"), outgoing.arrays)


def likelihood(gmm, X):
    """Return the leave-one-out log-likelihood and the log-weights of the saved state."""
    state = gmm.state()
    factors = NIWPosterior(*(state[name] for name in NIWPosterior._fields))
    prior = NIWPrior(state["prior_mean"], state["prior_count"], state["degrees"], state["prior_scale"])
    weights = np.log(factors.counts + gmm.parameters.alpha)
    return log_predictive_loo(X, state["labels"], factors, prior), weights - logsumexp(weights)


def same_partition(labels, truth=TRUTH):
    """Return whether labels and truth are the same partition of the rows."""
    return len(set(zip(labels.tolist(), truth.tolist(), strict=True))) == len(set(truth.tolist())) == len(set(labels))


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, "data"])
@pytest.mark.parametrize("rule", ["extrinsic", "tutorial"])
def test_finds_well_separated_classes(rule, scale):
    outbox = update(make_gmm(rule=rule, prior_scale=scale), latent_vectors(clusters()), seed=3)
    classes = outbox.outputs["class"]
    assert same_partition(classes)
    assert np.array_equal(outbox.outputs["Pdz"].argmax(axis=1), classes)
    for k in range(K):
        centre = CENTRES[TRUTH[classes == k][0]]
        assert np.abs(outbox.outputs["mu"][k] - centre).max() < 0.5


def test_an_update_without_sweeps_keeps_the_labels_and_applies_the_prior():
    gmm, X = make_gmm(), clusters(spread=6.0)
    before = update(gmm, latent_vectors(X))
    labels = gmm.state()["labels"]
    certain = prior_of("mm", np.eye(K)[np.zeros(N, dtype=int)])
    outbox = update(gmm, latent_vectors(X), certain, round=1, overrides={"iterations": 0})
    assert np.array_equal(gmm.state()["labels"], labels)
    assert np.array_equal(outbox.outputs["mu"], before.outputs["mu"])
    assert (outbox.outputs["class"] == 0).all()
    assert np.array_equal(downward(outbox)["responsibilities"], np.eye(K)[np.zeros(N, dtype=int)])


def test_a_prior_decides_the_classes_of_uninformative_rows():
    X = np.random.default_rng(0).normal(size=(N, D))
    outbox = update(make_gmm(), latent_vectors(X), prior_of("mm", 0.98 * np.eye(K)[TRUTH] + 0.02 / K))
    assert (outbox.outputs["class"] == TRUTH).mean() > 0.95


def test_a_low_temperature_gives_the_prior_more_weight():
    def agreement(temperature):
        gmm = make_gmm(itr=30)
        update(gmm, latent_vectors(clusters(spread=2.0)), prior, temperature=temperature, seed=3)
        return (gmm.state()["labels"] == prior["log_prob"].argmax(axis=1)).mean()

    prior = prior_of("mm", 0.9 * np.eye(K)[np.random.default_rng(5).integers(0, K, N)] + 0.1 / K)
    assert agreement(0.01) > agreement(1.0) + 0.05


def test_burn_in_applies_to_the_first_update_only():
    gmm, sweeps = make_gmm(itr=2, burn_in=3), []
    for round_ in range(2):
        reports = []
        update(gmm, latent_vectors(clusters()), round=round_, reporter=lambda *r, reports=reports: reports.append(r))
        sweeps.append([(done, total) for done, total, _ in reports])
    assert [len(s) for s in sweeps] == [5, 2]
    assert sweeps[1] == [(1, 2), (2, 2)]


def test_a_collapsed_dimension_does_not_break_a_data_driven_prior_scale():
    X = np.c_[clusters(), np.zeros(N)]
    outbox = update(make_gmm(prior_scale="data"), latent_vectors(X), seed=2)
    assert np.isfinite(outbox.metrics["evidence"])
    assert same_partition(outbox.outputs["class"])


# --- messages -----------------------------------------------------------------------------------------------------


def test_sends_the_likelihood_upwards_and_the_posterior_downwards():
    gmm, X = make_gmm(), clusters(spread=3.0)
    update(gmm, latent_vectors(X))
    prior = some_prior("mm", 1)
    outbox = update(gmm, latent_vectors(X), prior, round=1, temperature=0.5)
    loo, _ = likelihood(gmm, X)
    message = upward(outbox)
    np.testing.assert_allclose(message["log_prob"] + message["log_norm"][:, None], loo, atol=1e-9)
    posterior = softmax(loo + prior["log_prob"], axis=1)
    np.testing.assert_allclose(downward(outbox)["responsibilities"], posterior, atol=1e-9)
    np.testing.assert_allclose(outbox.outputs["Pdz"], posterior, atol=1e-9)
    assert outbox.metrics["evidence"] == pytest.approx(logsumexp(loo + prior["log_prob"], axis=1).sum())


def test_class_weights_are_used_where_no_prior_came():
    gmm, X = make_gmm(), clusters(spread=3.0)
    outbox = update(gmm, latent_vectors(X))
    loo, weights = likelihood(gmm, X)
    np.testing.assert_allclose(outbox.outputs["Pdz"], softmax(loo + weights, axis=1), atol=1e-9)
    np.testing.assert_allclose(upward(outbox)["log_prob"], loo - logsumexp(loo, axis=1, keepdims=True), atol=1e-9)
    assert outbox.metrics["evidence"] == pytest.approx(logsumexp(loo + weights, axis=1).sum())


@pytest.mark.parametrize("answer", ["update", "recognize"])
def test_the_message_to_a_receiver_excludes_its_own_prior(answer):
    X, a, b = clusters(spread=3.0), some_prior("a", 1), some_prior("b", 2)
    gmm = make_gmm()
    update(gmm, latent_vectors(X))

    def message_to(receiver, *priors):
        # No sweeps, so that the likelihood does not depend on the priors.
        setting = {"overrides": {"iterations": 0}, "receivers": ("a", "b", "c"), "answer": answer}
        return upward(update(gmm, latent_vectors(X), *priors, **setting), receiver)["log_prob"]

    plain = message_to("a")
    np.testing.assert_allclose(message_to("a", a), plain, atol=1e-9)
    np.testing.assert_allclose(message_to("b", b), plain, atol=1e-9)
    np.testing.assert_allclose(np.exp(message_to("a", a, b)), softmax(plain + b["log_prob"], axis=1), atol=1e-9)
    np.testing.assert_allclose(message_to("a", a, b), message_to("c", b), atol=1e-9)
    both = softmax(plain + a["log_prob"] + b["log_prob"], axis=1)
    np.testing.assert_allclose(np.exp(message_to("c", a, b)), both, atol=1e-9)


def test_the_tutorial_rule_sends_the_posterior_upwards_and_one_hot_responsibilities_downwards():
    outbox = update(make_gmm(rule="tutorial"), latent_vectors(clusters(spread=3.0)), some_prior("mm", 1))
    posterior = np.exp(upward(outbox)["log_prob"])
    np.testing.assert_allclose(posterior, outbox.outputs["Pdz"], atol=1e-12)
    assert np.array_equal(downward(outbox)["responsibilities"], np.eye(K)[posterior.argmax(axis=1)])


@pytest.mark.parametrize("rule", ["extrinsic", "tutorial"])
def test_missing_rows_have_no_influence_and_take_the_prior(rule):
    mask = np.arange(N) % 7 == 0
    prior = some_prior("mm", 4)
    outboxes = []
    for filler in (0.0, 1e6):
        X = clusters()
        X[mask] = filler
        gmm = make_gmm(rule=rule)
        outboxes.append(update(gmm, latent_vectors(X, mask=mask), prior))
        assert (gmm.state()["labels"][mask] == -1).all()
    outbox = outboxes[1]
    assert same_arrays(outboxes[0].outputs, outbox.outputs)
    message = upward(outbox)
    assert np.array_equal(message.mask, mask)
    np.testing.assert_allclose(message["log_prob"][mask], -np.log(K))
    assert (message["log_norm"][mask] == 0).all()
    if rule == "extrinsic":
        np.testing.assert_allclose(outbox.outputs["Pdz"][mask], np.exp(prior["log_prob"])[mask])


def test_lengths_are_passed_on():
    outbox = update(make_gmm(), latent_vectors(clusters(), lengths=np.array([30, 60])))
    assert upward(outbox).lengths.tolist() == downward(outbox).lengths.tolist() == [30, 60]


# --- recognition and state ----------------------------------------------------------------------------------------


def test_recognition_classifies_new_rows_and_learns_nothing():
    gmm = make_gmm()
    learnt = update(gmm, latent_vectors(clusters()), seed=2).outputs["class"]
    before = gmm.state()
    outbox = update(gmm, latent_vectors(clusters(rows=30, seed=9)), answer="recognize")
    assert np.array_equal(outbox.outputs["class"], learnt[:30])
    assert same_arrays(gmm.state(), before)
    certain = prior_of("mm", np.eye(K)[np.full(30, 1)])
    outbox = update(gmm, latent_vectors(clusters(rows=30, seed=9)), certain, answer="recognize")
    assert (outbox.outputs["class"] == 1).all()


def test_a_loaded_state_continues_bit_for_bit():
    X, prior = clusters(spread=3.0), some_prior("mm", 1)
    one, other = make_gmm(), make_gmm()
    check_state_transfer(update, one, other, latent_vectors(X), prior)


def test_refuses_input_that_it_cannot_classify():
    gmm = make_gmm()
    with pytest.raises(ModuleError, match="learnt nothing"):
        update(gmm, latent_vectors(clusters()), answer="recognize")
    with pytest.raises(ModuleError, match="every row"):
        update(gmm, latent_vectors(clusters(), mask=np.ones(N, dtype=bool)))
    with pytest.raises(ModuleError, match="not possible"):
        update(make_gmm(degrees=0.5), latent_vectors(clusters()))
    update(gmm, latent_vectors(clusters()))
    with pytest.raises(ModuleError, match="labels of 90 rows, 60 rows came"):
        update(gmm, latent_vectors(clusters(rows=60)))
    with pytest.raises(ModuleError, match="labels of rows with 2 dimensions, rows with 1 came"):
        update(gmm, latent_vectors(clusters()[:, :1]))
    with pytest.raises(ModuleError, match=r"mm -> gmm.*\(60, 3\) came, expected \(90, 3\)"):
        update(gmm, latent_vectors(clusters()), some_prior("mm", 0, rows=60))
    with pytest.raises(ModuleError, match="a, b exclude each other in row 0"):
        update(gmm, latent_vectors(clusters()), prior_of("a", np.eye(K)[TRUTH]), prior_of("b", np.eye(K)[TRUTH - 1]))
    with pytest.raises(ModuleError, match="cannot be set for a step"):
        update(gmm, latent_vectors(clusters()), overrides={"classes": 4})
    with pytest.raises(ModuleError, match="the state has 3 classes, this GMM has 4"):
        make_gmm(classes=4).load_state(gmm.state())


@pytest.mark.parametrize(
    "given", [{"classes": 0}, {"itr": -1}, {"alpha": 0}, {"prior_scale": "auto"}, {"rule": "mean"}]
)
def test_refuses_invalid_parameters(given):
    with pytest.raises(ModuleError):
        make_gmm(**given)


@pytest.mark.parametrize("seed", range(3))
def test_a_k_means_start_separates_the_classes_before_the_first_sweep(seed):
    X = clusters()
    gmm = make_gmm(start="kmeans", itr=0)
    outbox = update(gmm, latent_vectors(X), seed=seed)
    assert same_partition(outbox.outputs["class"])


def test_a_start_by_contexts_joins_the_clumps_of_a_class():
    rows = 240
    generator = np.random.default_rng(0)
    truth, clump = np.arange(rows) % K, generator.integers(0, 2, rows)
    # Each class has a clump on either side, beside one of another class.
    centres = np.stack([CENTRES, -1.5 * CENTRES], axis=1)
    X = centres[truth, clump] + 0.5 * generator.normal(size=(rows, D))
    message = make_message(Header("latent_vectors", "vae", "latent_vectors", "gmm"), {"mean": X})
    gmm = make_gmm(start="contexts", itr=0)
    gmm.prepare("cpu", 1)
    found = update(gmm, message, receivers=()).outputs["class"]
    assert adjusted_rand_score(truth, found) > 0.95
