"""The Markov model with regimes: what it sends each way, and two levels of a model that learn together."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.markov.switching import switching_forward_backward
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from runner.data.syllables import SYLLABLES, WORDS, speak
from runner.report.clustering_metrics import accuracy
from tests.benchmarks.words import learn, model

RECEIVERS = {"regime_posteriors": ("words", "topics"), "transition_prior": ("gmm",)}
RNG = np.random.default_rng(0)
EVIDENCE = RNG.normal(size=(40, 3))
PRIORS = {name: np.log(RNG.dirichlet(np.ones(2), 40)) for name in RECEIVERS["regime_posteriors"]}


def below(log_likelihood, **arrays):
    log_norm = np.logaddexp.reduce(log_likelihood, axis=1)
    given = {"log_prob": log_likelihood - log_norm[:, None], "log_norm": log_norm, **arrays}
    return make_message(Header("class_posteriors", "gmm", "class_posteriors", "mm"), given)


def above(name):
    header = Header("transition_prior", name, "regime_prior", "mm")
    return make_message(header, {"log_prob": PRIORS[name]})


def context(**given):
    return Context("mm", receivers=RECEIVERS, **given)


def sent(outbox, port):
    return {each.receiver: each.arrays for each in outbox.messages if each.port == port}


def test_each_module_above_gets_the_likelihood_of_regimes_times_the_other_priors():
    mm = make_module("switching_markov", {"regimes": 2, "initial": "learnt"})
    mm.update(Inbox([below(EVIDENCE)]), context())
    outbox = mm.update(Inbox([below(EVIDENCE), *map(above, PRIORS)]), context(round=1))
    prior = np.exp(sum(PRIORS.values()))
    prior /= prior.sum(axis=1, keepdims=True)
    state = mm.state()
    matrices = (state["transitions"] + 0.1) / (state["transitions"] + 0.1).sum(axis=2, keepdims=True)
    initial = (state["initial_counts"] + 0.1) / (state["initial_counts"] + 0.1).sum()
    fit = switching_forward_backward(EVIDENCE, matrices, prior, initial)
    for name, other in (("words", "topics"), ("topics", "words")):
        arrays = sent(outbox, "regime_posteriors")[name]
        product = fit.log_regimes + PRIORS[other]
        norm = np.logaddexp.reduce(product, axis=1)
        assert_allclose(arrays["log_prob"], product - norm[:, None], atol=1e-9)
        assert_allclose(arrays["log_norm"], norm + fit.row_log_likelihood, atol=1e-9)
    assert_allclose(np.exp(sent(outbox, "transition_prior")["gmm"]["log_prob"]), np.exp(fit.log_cavity), atol=1e-8)
    assert_allclose(outbox.outputs["Pdz"], fit.posterior, atol=1e-9)
    posterior = prior * np.exp(fit.log_regimes)
    assert_allclose(outbox.outputs["Pregime"], posterior, atol=1e-9)
    assert outbox.metrics["evidence"] == pytest.approx(fit.log_likelihood)


def test_an_update_with_a_prior_never_lowers_the_density_of_the_rows():
    mm = make_module("switching_markov", {"regimes": 2, "inner_iterations": 1, "alpha": 1e-3})
    inbox = Inbox([below(3.0 * EVIDENCE), above("words")])
    mm.update(Inbox([below(3.0 * EVIDENCE)]), context())
    found = [mm.update(inbox, context(round=n)).metrics["evidence"] for n in range(1, 15)]
    assert (np.diff(found) > -1e-3).all()  # the pseudo-counts are no part of it
    assert found[-1] > found[0] + 1.0


def test_rows_without_an_order_say_nothing_of_regimes():
    mm = make_module("switching_markov", {"regimes": 2})
    mm.update(Inbox([below(EVIDENCE), above("words")]), context())
    outbox = mm.recognize(Inbox([below(EVIDENCE)]), context(mode="recognize", ordered=False))
    assert_allclose(sent(outbox, "regime_posteriors")["words"]["log_prob"], np.log(0.5))
    down = sent(outbox, "transition_prior")["gmm"]["log_prob"]
    assert (down == down[0]).all()
    weights = np.exp(down[0])
    expected = np.log(np.exp(EVIDENCE) @ weights).sum()
    assert outbox.outputs["log_evidence"][0] == pytest.approx(expected)


def test_what_does_not_fit_is_refused():
    mm = make_module("switching_markov", {"regimes": 3})
    with pytest.raises(ModuleError, match="learnt nothing yet"):
        mm.recognize(Inbox([below(EVIDENCE)]), context(mode="recognize"))
    with pytest.raises(ModuleError, match=r"log_prob of shape \(40, 2\) came, expected \(40, 3\)"):
        mm.update(Inbox([below(EVIDENCE), above("words")]), context())
    mm.update(Inbox([below(EVIDENCE)]), context())
    with pytest.raises(ModuleError, match="2 classes came, 'mm' has learnt 3"):
        mm.update(Inbox([below(EVIDENCE[:, :2])]), context())


def test_two_levels_learn_syllables_and_words_and_the_flat_model_fewer_syllables():
    spoken = speak(800, 2.5, seed=1)
    flat = learn(two_levels=False, rows=spoken.rows, seed=1)
    both = learn(two_levels=True, rows=spoken.rows, seed=1, chains=1)
    assert accuracy(both.outputs("words")["viterbi"], spoken.words) > 0.9
    of_flat, of_both = (accuracy(each.outputs("gmm")["class"], spoken.syllables) for each in (flat, both))
    assert of_both > of_flat + 0.04
    others, states = speak(400, 2.5, seed=2), {name: both.state(name) for name in ("gmm", "mm", "words")}
    recognizer = Coordinator(model(two_levels=True), InProcessBackend())
    found = recognizer.recognize(states, {"data": {"values": others.rows}}, ordered=True)
    assert accuracy(found["words"]["viterbi"], others.words) > 0.85
    assert accuracy(found["gmm"]["class"], others.syllables) > 0.9


def test_words_are_drawn_and_then_their_syllables():
    spoken = speak(800, 4.0, seed=0)
    trained = learn(two_levels=True, rows=spoken.rows, seed=0, chains=1)
    words = make_module("markov", {"durations": "negative_binomial", "max_duration": 60, "estimate": "variational"})
    words.load_state(trained.state("words"))
    drawn = words.generate(
        Inbox([]), Context("words", seed=1, mode="generate", rows=900, receivers={"transition_prior": ("mm",)})
    )
    header = Header("transition_prior", "words", "regime_prior", "mm")
    mm = make_module("switching_markov", {"regimes": WORDS})
    mm.load_state(trained.state("mm"))
    inbox = Inbox([make_message(header, drawn.messages[0].arrays)])
    outbox = mm.generate(inbox, context(mode="generate", seed=2, rows=900))
    regimes, classes = outbox.outputs["regime"], outbox.outputs["class"]
    assert (regimes == drawn.outputs["class"]).all()
    counts = np.zeros((WORDS, SYLLABLES, SYLLABLES))
    np.add.at(counts, (regimes[1:], classes[:-1], classes[1:]), 1.0)
    shares = counts / np.maximum(counts.sum(axis=2, keepdims=True), 1.0)
    assert_allclose(shares, trained.outputs("mm")["regime_trans_prob"], atol=0.25)
    assert sent(outbox, "transition_prior")["gmm"]["log_prob"].argmax(axis=1).tolist() == classes.tolist()
