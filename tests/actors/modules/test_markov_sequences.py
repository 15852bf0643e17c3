"""Sequences in the Markov module: what it infers of each, by enumeration, and class frequencies that count all rows."""

import itertools

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from actors.graph.registry import make_module
from tests.actors.modules.test_markov import posteriors, sent, update

SPACING = 4.0
"""Distance of the classes' means, in standard deviations."""


def sequences(pattern, count):
    """Return the classes and the lengths of `count` sequences of the same classes."""
    return np.tile(pattern, count), np.full(count, len(pattern))


def densities(classes, number, seed):
    """Return log p(row | class), (N, K), of rows drawn around their classes' means."""
    rows = SPACING * classes + np.random.default_rng(seed).normal(size=len(classes))
    return norm.logpdf(rows[:, None], SPACING * np.arange(number), 1.0)


def message(log_density, **rows):
    log_norm = logsumexp(log_density, axis=1)
    return posteriors(np.exp(log_density - log_norm[:, None]), log_norm=log_norm, **rows)


def enumerate_sequence(log_density, initial, transitions):
    """Return log p(rows) and P(class of each row | rows) of one sequence, by enumeration of all paths."""
    paths = np.array(list(itertools.product(range(len(initial)), repeat=len(log_density))))
    with np.errstate(divide="ignore"):
        joint = np.log(initial)[paths[:, 0]] + np.log(transitions)[paths[:, :-1], paths[:, 1:]].sum(axis=1)
    joint = joint + log_density[np.arange(len(log_density)), paths].sum(axis=1)
    total = logsumexp(joint)
    weights = np.exp(joint - total)
    return total, np.array(
        [[weights[paths[:, t] == k].sum() for k in range(len(initial))] for t in range(len(paths[0]))]
    )


def test_recognized_sequences_are_those_of_the_enumeration():
    classes, lengths = sequences([0, 1, 2, 2, 1], 30)
    mm = make_module("markov", {"initial": "learnt"})
    update(mm, message(densities(classes, 3, seed=0), lengths=lengths))
    state = mm.state()
    log_density, new = densities(np.array([0, 1, 2, 0, 1, 1, 2, 2, 0]), 3, seed=1) / 4, np.array([3, 1, 5])
    out = update(mm, message(log_density, lengths=new), answer="recognize").outputs
    parts = np.split(log_density, np.cumsum(new)[:-1])
    expected = [enumerate_sequence(part, state["initial"], state["trans_prob"]) for part in parts]
    np.testing.assert_allclose(out["log_evidence"], [total for total, _ in expected], rtol=1e-12)
    np.testing.assert_allclose(out["smoothed"], np.concatenate([p for _, p in expected]), atol=1e-12)


def test_rows_without_lengths_are_one_sequence():
    classes, lengths = sequences([0, 1], 20)
    mm = make_module("markov", {})
    update(mm, message(densities(classes, 2, seed=0), lengths=lengths))
    assert update(mm, message(densities(classes, 2, seed=1)), answer="recognize").outputs["log_evidence"].shape == (1,)


@pytest.mark.parametrize("rule", ["smoothed", "tutorial"])
@pytest.mark.parametrize(
    "pattern",
    [[0, 1], [0, 1, 2], [0, 1, 1], [0, *[1] * 12, 2], [0]],
    ids=["A B", "A B C", "A B B", "a long middle", "single rows"],
)
def test_out_of_order_the_frequencies_are_those_of_all_training_rows(pattern, rule):
    number = max(2, max(pattern) + 1)
    classes, lengths = sequences(pattern, 40)
    true = np.bincount(classes, minlength=number) / len(classes)
    mm = make_module("markov", {"rule": rule})
    update(mm, message(densities(classes, number, seed=0), lengths=lengths))
    new = np.random.default_rng(2).choice(number, 4000, p=true)
    log_density = densities(new, number, seed=3)
    outbox = update(mm, message(log_density), answer="recognize", ordered=False)
    np.testing.assert_allclose(np.exp(sent(outbox)["log_prob"][0]), true, atol=0.02)
    with np.errstate(divide="ignore"):
        best = (log_density + np.log(true)).argmax(axis=1)  # the posterior under the true frequencies
    assert (outbox.outputs["smoothed"].argmax(axis=1) == new).mean() >= (best == new).mean() - 0.02


def test_missing_rows_do_not_count_in_the_frequencies():
    classes, lengths = sequences([0, 1], 40)
    mask = classes == 1
    mask[: len(mask) // 2] = False  # of the second half, only class 0 was observed
    mm = make_module("markov", {})
    update(mm, message(np.where(mask[:, None], 0.0, densities(classes, 2, seed=0)), lengths=lengths, mask=mask))
    outbox = update(mm, message(densities(classes, 2, seed=1)), answer="recognize", ordered=False)
    np.testing.assert_allclose(np.exp(sent(outbox)["log_prob"][0]), [2 / 3, 1 / 3], atol=0.05)


@pytest.mark.parametrize("pattern", [[0, 1], [0, 1, 2], [0, 1, 1]])
def test_the_frequencies_of_an_earlier_version_come_from_its_transitions(pattern):
    number = max(pattern) + 1
    classes, lengths = sequences(pattern, 40)
    true = np.bincount(classes, minlength=number) / len(classes)
    mm = make_module("markov", {})
    update(mm, message(densities(classes, number, seed=0), lengths=lengths))
    mm.load_state({name: array for name, array in mm.state().items() if name != "class_counts"})
    outbox = update(mm, message(densities(classes, number, seed=1)), answer="recognize", ordered=False)
    np.testing.assert_allclose(np.exp(sent(outbox)["log_prob"][0]), true, atol=0.02)


def test_out_of_order_the_evidence_is_that_of_independent_rows():
    classes, lengths = sequences([0, 1, 1], 30)
    mm = make_module("markov", {})
    update(mm, message(densities(classes, 2, seed=0), lengths=lengths))
    log_density = densities(classes, 2, seed=1)
    outbox = update(mm, message(log_density), answer="recognize", ordered=False)
    expected = logsumexp(log_density + sent(outbox)["log_prob"], axis=1).sum()
    np.testing.assert_allclose(outbox.outputs["log_evidence"], [expected], rtol=1e-12)


def test_without_an_order_generated_classes_are_independent_with_their_frequencies():
    classes = np.random.default_rng(0).choice(2, 600, p=[0.8, 0.2])
    mm = make_module("markov", {"test_order": True})
    update(mm, message(densities(classes, 2, seed=0)))
    assert "frequencies" in mm.state()
    drawn = update(mm, answer="generate", rows=20_000).outputs["class"]
    share = (classes == 1).mean()
    assert (drawn == 1).mean() == pytest.approx(share, abs=0.02)
    assert (drawn[1:][drawn[:-1] == 1] == 1).mean() == pytest.approx(share, abs=0.03)
