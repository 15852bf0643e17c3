"""Tests of how long classes last in the Markov module: explicit durations, and sticky transitions."""

import itertools
import logging
import re

import numpy as np
import pytest
from scipy.special import gammaln, logsumexp

from actors.errors import ModuleError
from actors.graph.registry import make_module
from actors.kernels.markov.durations import duration_posterior
from actors.limits import DEFAULT_MAX_DURATION
from actors.modules.markov import MarkovModel, MarkovParameters
from actors.modules.markov_durations import LearntSegments, learning_weights
from runner.report.clustering_metrics import accuracy
from tests.actors.modules.test_markov import class_probabilities, posteriors, sent, update
from tests.actors.modules.test_markov_sequences import message
from tests.benchmarks.durations import METHODS, covered, lasting_rows, segment_lengths
from tests.support.toy_modules import same_arrays

FAMILIES = ("poisson", "negative_binomial")
MEANS = np.array([4.0, 9.0, 16.0])
FOLLOWS = np.array([[0.0, 0.8, 0.2], [0.2, 0.0, 0.8], [0.8, 0.2, 0.0]])


def lasting_classes(rows, seed, means=MEANS):
    """Return classes (N,) in segments whose further rows are Poisson distributed."""
    rng, classes, k = np.random.default_rng(seed), [], 0
    while len(classes) < rows:
        classes += [k] * (1 + rng.poisson(means[k] - 1.0))
        k = int(rng.choice(3, p=FOLLOWS[k]))
    return np.array(classes[:rows])


def made(rows=600, seed=0, **given):
    """Return a module, its last outbox after three updates, and the true classes."""
    mm, classes = make_module("markov", given), lasting_classes(rows, seed)
    rows_ = message(noisy(classes, seed))
    for round_ in range(3):
        outbox = update(mm, rows_, round=round_)
    return mm, outbox, classes


def noisy(classes, seed, apart=1.2):
    """Return log densities (N, 3) of rows around means that are `apart` deviations from each other."""
    x = apart * classes + np.random.default_rng(seed).normal(size=len(classes))
    return -0.5 * (x[:, None] - apart * np.arange(3)) ** 2


# --- draws of the posterior ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"self_transition_prior": 3.0}, {"durations": "poisson", "max_duration": 40}])
def test_draws_give_intervals_and_change_nothing_else(given):
    mm, without, _ = made(rows=200, estimate="variational", initial="learnt", **given)
    again, outbox, _ = made(rows=200, estimate="variational", initial="learnt", samples=20, **given)
    assert same_arrays(mm.state(), again.state())
    low, high = (outbox.outputs[name] for name in ("trans_low", "trans_high"))
    assert ((low >= 0.0) & (low <= high) & (high <= 1.0)).all()
    assert (outbox.outputs["trans_low"] < without.outputs["trans_prob"] + 0.1).all()
    shown = {"trans_low", "trans_high", "duration_interval", "mean_duration"}
    assert same_arrays(*({n: v for n, v in each.outputs.items() if n not in shown} for each in (without, outbox)))
    assert outbox.metrics == without.metrics
    if "durations" in given:
        interval, mean = (outbox.outputs[name] for name in ("duration_interval", "mean_duration"))
        assert ((interval[:, 0] < mean) & (mean < interval[:, 1])).all()


def test_the_same_draws_come_from_the_same_seed():
    first, second = (made(rows=120, samples=10)[1].outputs for _ in range(2))
    assert same_arrays({"low": first["trans_low"]}, {"low": second["trans_low"]})


def test_draws_need_all_rows_in_one_process_and_a_posterior():
    assert "samples" in MarkovModel.unshared_setting(MarkovParameters(samples=5))
    with pytest.raises(ValueError, match="needs rule: smoothed"):
        MarkovParameters(rule="tutorial", samples=5)


# --- explicit durations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_learns_how_long_classes_last_and_what_follows_them(family):
    _, chain, classes = made(rows=1500)
    mm, outbox, _ = made(rows=1500, durations=family, estimate="variational", max_duration=60)
    out = outbox.outputs
    for of_class, mean in zip(out["duration_interval"], MEANS, strict=True):
        assert of_class[0] < mean < of_class[1]
    assert np.abs(out["mean_duration"] - MEANS).max() < 2.0
    assert np.abs(out["trans_prob"] - FOLLOWS).max() < 0.2
    assert (np.diag(out["trans_prob"]) == 0.0).all()
    np.testing.assert_allclose(out["duration_prob"].sum(axis=1), 1.0)
    right = (out["Pdz"].argmax(axis=1) == classes).mean()
    assert right > (chain.outputs["Pdz"].argmax(axis=1) == classes).mean() + 0.03
    assert (out["viterbi"] == classes).mean() > (chain.outputs["viterbi"] == classes).mean() + 0.03
    new = lasting_classes(600, 9)
    recognized = update(mm, message(noisy(new, 9)), answer="recognize").outputs
    assert (recognized["smoothed"].argmax(axis=1) == new).mean() > right - 0.07


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("initial", ["uniform", "learnt"])
def test_no_update_lowers_the_evidence_bound(family, initial):
    classes = lasting_classes(400, 3)
    mask = np.random.default_rng(0).random(400) < 0.1
    rows = message(noisy(classes, 3, apart=0.8), lengths=np.array([150, 1, 249]), mask=mask)
    given = {"durations": family, "initial": initial, "estimate": "variational", "max_duration": 25}
    mm = make_module("markov", {**given, "inner_iterations": 1, "alpha": 0.5})
    bounds = [update(mm, rows, round=round_).metrics["evidence"] for round_ in range(12)]
    assert (np.diff(bounds) > -1e-9 * abs(bounds[0])).all()
    assert bounds[-1] > bounds[0] + 1.0


def all_segments(rows, classes, longest):
    """Yield every segmentation of a sequence as lists of (class, seen rows, full duration)."""

    def extend(segments, at):
        for k, full in itertools.product(range(classes), range(1, longest + 1)):
            if segments and segments[-1][0] == k:
                continue
            grown = [*segments, (k, min(full, rows - at), full)]
            if at + full >= rows:
                yield grown
            else:
                yield from extend(grown, at + full)

    yield from extend([], 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_evidence_is_the_bound_of_the_marginal_likelihood_by_enumeration(family):
    """Parameters are integrated out: counts of each segmentation have a marginal likelihood in closed form.

    The bound of q(segments) is E_q[log p(rows | segments)] + log p(expected counts) + the entropy of q.
    """
    log_density, longest, alpha = np.random.default_rng(4).normal(size=(5, 3)), 3, 0.7
    given = {"durations": family, "estimate": "variational", "max_duration": longest, "alpha": alpha}
    mm = make_module("markov", {**given, "prior_duration": 3.0, "inner_iterations": 40})
    bound = update(mm, message(log_density)).metrics["evidence"]
    learnt = LearntSegments.from_state(mm.state())
    weights = learning_weights(learnt, mm.parameters)
    off = ~np.eye(3, dtype=bool)

    def log_marginal(transitions, durations):
        n = transitions[off].reshape(3, 2)
        of_rows = gammaln(2 * alpha) - gammaln(n.sum(axis=1) + 2 * alpha)
        of_transitions = (gammaln(n + alpha) - gammaln(alpha)).sum() + of_rows.sum()
        return of_transitions - np.log(3) + duration_posterior(family, durations, 2.0).log_normalisers.sum()

    of_rows, counts, log_q = [], [], []
    for segments in all_segments(5, 3, longest):
        transitions, durations = np.zeros((3, 3)), np.zeros((3, longest))
        for (i, _, _), (j, _, _) in itertools.pairwise(segments):
            transitions[i, j] += 1.0
        for k, _, full in segments:
            durations[k, full - 1] += 1.0
        classes = np.repeat([k for k, _, _ in segments], [seen for _, seen, _ in segments])
        of_rows.append(log_density[np.arange(5), classes].sum())
        counts.append((transitions, durations))
        of_weights = (transitions[off] * weights.transitions[off]).sum() + (durations * weights.durations).sum()
        log_q.append(of_rows[-1] + of_weights)
    log_q = np.array(log_q) - logsumexp(log_q)
    q = np.exp(log_q)
    expected = [sum(p * each[number] for p, each in zip(q, counts, strict=True)) for number in (0, 1)]
    assert bound == pytest.approx(q @ np.array(of_rows) + log_marginal(*expected) - q @ log_q, abs=1e-9)
    assert bound < logsumexp(np.array(of_rows) + [log_marginal(*each) for each in counts])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_densities_of_new_rows_are_normalised(family):
    """Rows that say nothing of their class have the density that their senders gave them."""
    mm, _, _ = made(durations=family, estimate="variational", max_duration=50)
    rows = posteriors(np.full((40, 3), 1 / 3), log_norm=np.full(40, np.log(3.0) - 2.0), lengths=np.array([30, 10]))
    out = update(mm, rows, answer="recognize").outputs
    np.testing.assert_allclose(out["log_evidence"], [-60.0, -20.0])


def test_a_class_that_has_lasted_long_is_expected_to_end():
    """Missing rows after two rows of a class that lasts nine rows, and after thirteen: a chain forgets them."""
    mm, _, _ = made(durations="poisson", max_duration=50)
    chain, _, _ = made()

    def stays(module, seen):
        """Return the probability that the class goes on for three more rows."""
        log_density = -60.0 * (1.0 - np.eye(3))[[0, 0, *[1] * seen, *[0] * 5]]
        missing = np.arange(len(log_density)) >= 2 + seen
        out = update(module, message(log_density, mask=missing), answer="recognize").outputs
        return out["smoothed"][2 + seen + 2, 1]

    assert stays(mm, 2) > 0.8
    assert stays(mm, 13) < 0.35
    assert stays(chain, 13) == pytest.approx(stays(chain, 2), abs=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_classes_last_as_long_as_learnt(family):
    mm, outbox, _ = made(durations=family, max_duration=60)
    drawn = update(mm, answer="generate", rows=20_000).outputs["class"]
    starts = np.flatnonzero(np.diff(drawn, prepend=-1))
    lengths, classes = np.diff([*starts, len(drawn)])[:-1], drawn[starts][:-1]
    expected = outbox.outputs["duration_prob"] @ np.arange(1, 61)
    for k in range(3):
        assert lengths[classes == k].mean() == pytest.approx(expected[k], rel=0.08)


@pytest.mark.parametrize("given", [{"durations": "poisson"}, {"self_transition_prior": "auto"}])
def test_a_loaded_state_continues_bit_for_bit(given):
    one, other = (make_module("markov", {**given, "initial": "learnt"}) for _ in range(2))
    update(one, posteriors(class_probabilities()))
    state = one.state()
    kept = {name: value.copy() for name, value in state.items()}
    new = posteriors(class_probabilities(seed=1))
    continued = update(one, new, round=1)
    assert same_arrays(state, kept)
    other.load_state(state)
    assert same_arrays(update(other, new, round=1).outputs, continued.outputs)
    assert same_arrays(one.state(), other.state())
    assert same_arrays(update(one, new, answer="recognize").outputs, update(other, new, answer="recognize").outputs)


def test_nothing_is_learnt_without_inner_iterations():
    mm, _, classes = made(durations="poisson", max_duration=40)
    before = mm.state()
    outbox = update(mm, message(noisy(classes, 7)), round=4, overrides={"inner_iterations": 0})
    after = mm.state()
    for name in ("trans_prob", "segment_transitions", "segment_durations", "prior_duration"):
        assert np.array_equal(before[name], after[name])
    assert outbox.outputs["Pdz"].shape == (600, 3)


def test_the_message_to_a_row_excludes_its_own_likelihood():
    mm, _, classes = made(durations="negative_binomial", max_duration=40)
    log_density = noisy(classes, 0)
    changed = log_density.copy()
    changed[10] += [3.0, -2.0, 1.0]
    once = {"round": 4, "overrides": {"inner_iterations": 0}}
    before, after = (sent(update(mm, message(each), **once))["log_prob"] for each in (log_density, changed))
    np.testing.assert_allclose(after[10], before[10], atol=1e-9)
    assert not np.allclose(after[11], before[11], atol=1e-9)


def test_rows_without_an_order_have_no_durations():
    shuffled = np.random.default_rng(0).permutation(lasting_classes(600, 0))
    for classes, ordered in ((shuffled, False), (lasting_classes(600, 0), True)):
        mm = make_module("markov", {"durations": "negative_binomial", "test_order": True, "max_duration": 40})
        outbox = update(mm, message(noisy(classes, 0, apart=2.5)))
        assert bool(outbox.messages) == ordered
        assert ("frequencies" in mm.state()) != ordered
        assert len(update(mm, answer="generate", rows=50).outputs["class"]) == 50


def test_moves_start_from_the_segments():
    mm, _, classes = made(durations="poisson", max_duration=40)
    proposed = sent(update(mm, message(noisy(classes, 0)), answer="propose"))["log_prob"]
    assert proposed.shape == (600, 3)
    assert (proposed.max(axis=1) == 0.0).all()


def test_a_single_class_is_learnt():
    mm = make_module("markov", {"durations": "poisson", "max_duration": 4})
    outbox = update(mm, posteriors(np.ones((10, 1))))
    assert outbox.metrics["evidence"] <= 0.0
    assert (outbox.outputs["viterbi"] == 0).all()


def test_segments_have_at_most_the_rows_of_the_longest_sequence():
    for given, rows, lengths, expected in (
        ({}, 40, [30, 10], 30),
        ({"max_duration": 12}, 40, None, 12),
        ({"max_duration": 500}, 40, None, 40),
        ({}, DEFAULT_MAX_DURATION + 50, None, DEFAULT_MAX_DURATION),
    ):
        mm = make_module("markov", {"durations": "poisson", "inner_iterations": 0, **given})
        extra = {} if lengths is None else {"lengths": np.array(lengths)}
        update(mm, message(noisy(lasting_classes(rows, 0), 0), **extra))
        assert mm.state()["segment_durations"].shape == (3, expected)


def test_the_log_says_where_segments_are_longer_than_they_may_be(caplog):
    with caplog.at_level(logging.WARNING):
        made(durations="negative_binomial", max_duration=60)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        made(durations="negative_binomial", max_duration=12)
    assert caplog.text.count("segments of class") == 1  # of three updates
    assert "reach max_duration, 12 rows: set a larger one" in caplog.text
    caplog.clear()
    rows = message(noisy(lasting_classes(600, 0), 0))
    copies = [make_module("markov", {"durations": "negative_binomial", "max_duration": 12}) for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        for chain, copy in enumerate(copies):
            for round_ in range(3):
                update(copy, rows, round=round_, chain=chain)
    assert caplog.text.count("segments of class") == 1  # of three chains


def test_the_prior_duration_grows_with_the_durations_of_the_rows():
    """It is within a factor of three of the mean of the classes' means, and two rows where none is repeated."""
    found = []
    for scale in (1, 3):
        mm = make_module("markov", {"durations": "negative_binomial", "max_duration": 90})
        update(mm, message(noisy(lasting_classes(500, 2, MEANS * scale), 2, apart=3.0)))
        found.append(float(mm.state()["prior_duration"][0]))
        assert found[-1] / 3.0 < scale * MEANS.mean() < 3.0 * found[-1]
    assert found[0] < found[1]
    cycle = make_module("markov", {"durations": "negative_binomial", "max_duration": 90})
    update(cycle, posteriors(class_probabilities()))
    assert cycle.state()["prior_duration"][0] == 2.0


def test_rows_that_no_segments_explain_are_named():
    rows = np.eye(2)[[0, 1, 1, 1, 0]]
    with pytest.raises(ModuleError, match=r"module 'mm': row 3 has probability zero.*segments of at most 2 rows"):
        update(make_module("markov", {"durations": "poisson", "max_duration": 2}), posteriors(rows))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"durations": "poisson", "rule": "tutorial"}, "durations: poisson needs rule: smoothed"),
        ({"self_transition_prior": 1.0, "rule": "tutorial"}, "self_transition_prior needs rule: smoothed"),
        ({"durations": "poisson", "self_transition_prior": 2.0}, "leave out self_transition_prior"),
        ({"max_duration": 30}, "max_duration goes with durations: poisson or negative_binomial"),
        ({"prior_duration": 30.0}, "prior_duration goes with durations"),
        ({"durations": "poisson", "max_duration": 0}, "greater than or equal to 1"),
        ({"durations": "poisson", "max_duration": 10**9}, "less than or equal to 10000"),
        ({"durations": "poisson", "prior_duration": 1.0}, "greater than 1"),
        ({"self_transition_prior": -1.0}, "greater than or equal to 0"),
        ({"durations": "weibull"}, "geometric.*poisson"),
    ],
)
def test_refuses_parameters_that_do_not_go_together(given, match):
    with pytest.raises(ModuleError, match=match):
        make_module("markov", given)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"durations": "negative_binomial"}, r"segments cross the chunks.*workers: 1, or durations: geometric"),
        ({"self_transition_prior": "auto"}, r"compares several values.*workers: 1, or a number"),
    ],
)
def test_workers_are_refused_in_one_sentence(given, match):
    assert MarkovModel.unshared_setting(MarkovParameters()) is None
    assert MarkovModel.unshared_setting(MarkovParameters(self_transition_prior=5.0)) is None
    assert re.search(match, MarkovModel.unshared_setting(MarkovParameters(**given)))


def test_runs_with_durations_are_not_merged():
    mm, _, _ = made(rows=60, durations="poisson")
    with pytest.raises(ModuleError, match="has learnt explicit durations, which are not merged"):
        mm.statistics_of(mm.state())


# --- sticky transitions -------------------------------------------------------------------------------------------


def test_a_self_transition_prior_makes_classes_last():
    stays = []
    for kappa in (0.0, 30.0, 1000.0):
        _, outbox, _ = made(self_transition_prior=kappa)
        stays.append(np.diag(outbox.outputs["trans_prob"]).mean())
    assert stays == sorted(stays)
    assert stays[2] > stays[0] + 0.1


@pytest.mark.parametrize("estimate", ["mean", "variational"])
def test_the_self_transition_prior_is_found_by_the_evidence(estimate):
    """Of rows whose classes last, it is large; of a cycle in which none is repeated, it is none."""
    _, automatic, classes = made(self_transition_prior="auto", estimate=estimate)
    _, without, _ = made(estimate=estimate)
    assert np.diag(automatic.outputs["trans_prob"]).min() > np.diag(without.outputs["trans_prob"]).min()
    right = [(each.outputs["Pdz"].argmax(axis=1) == classes).mean() for each in (automatic, without)]
    assert right[0] > right[1]
    cycle = posteriors(class_probabilities())
    one, other = (make_module("markov", {"self_transition_prior": each}) for each in ("auto", 0.0))
    same = [update(mm, cycle, round=round_).outputs["trans_prob"] for mm in (one, other) for round_ in range(3)]
    np.testing.assert_allclose(same[2], same[5], atol=1e-3)


def test_the_sticky_bound_is_tight_for_its_prior():
    """With κ the evidence differs from that of a flat prior by the prior's own marginal likelihood of the counts."""
    rows, kappa, alpha = message(noisy(lasting_classes(300, 1), 1)), 20.0, 0.1
    mm = make_module("markov", {"self_transition_prior": kappa, "estimate": "variational"})
    evidence = update(mm, rows).metrics["evidence"]
    state = mm.state()
    n, T, prior = state["transitions"], state["trans_prob"], alpha + kappa * np.eye(3)

    def log_beta(each):
        return gammaln(each).sum(axis=1) - gammaln(each.sum(axis=1))

    def log_likelihood():
        plain = make_module("markov", {"inner_iterations": 0})
        plain.load_state(state)
        return update(plain, rows, round=1).metrics["evidence"]

    expected = log_likelihood() + (log_beta(n + prior) - log_beta(prior)).sum() - (n * np.log(T)).sum()
    assert evidence == pytest.approx(expected, rel=1e-12)


# --- what intervals hold ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_intervals_hold_the_true_values_as_often_as_they_say(family):
    """Forty simulations, 120 mean durations and 240 transitions: within four standard errors of 95 %."""
    found = [covered(family, 1000, 6.0, seed, samples=0) for seed in range(40)]
    check_coverage(found)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_intervals_of_draws_hold_the_true_values_where_classes_overlap(family):
    """As above, for classes two deviations apart, where the intervals of expected segments are too narrow."""
    check_coverage([covered(family, 1000, 2.0, seed, samples=150) for seed in range(40)])


def check_coverage(found):
    for number in (0, 1):
        held = np.concatenate([each[number] for each in found])
        assert abs(held.mean() - 0.95) < 4.0 * np.sqrt(0.95 * 0.05 / len(held))


@pytest.mark.slow
def test_with_a_mixture_durations_tell_overlapping_classes_apart_better_than_a_chain():
    """Rows of five overlapping classes that last 5 to 30 rows, learnt by GMM and MM (tests/benchmarks/durations.py)."""
    rows, sequence = lasting_rows("poisson", 3)
    true = segment_lengths(sequence.classes)
    chain, explicit = (METHODS[name](rows, 3) for name in ("GMM + MM, geometric", "… `durations: poisson`"))
    assert accuracy(explicit.classes, sequence.classes) > accuracy(chain.classes, sequence.classes) + 0.03
    assert segment_lengths(explicit.path).mean() == pytest.approx(true.mean(), rel=0.2)
