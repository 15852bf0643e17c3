"""Test label alignment: the permutations are recovered from the rows that the inputs classify."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from actors.kernels.label_alignment import align, match_classes

LAPSE = 0.01


def make_inputs(truth, K, count, noise, seed):
    """Return noisy log-posteriors of `count` inputs, and the permutation of each (the identity for the first)."""
    rng = np.random.default_rng(seed)
    planted = [np.arange(K), *(rng.permutation(K) for _ in range(count - 1))]
    posteriors = []
    for labels in planted:
        scores = noise * rng.normal(size=(len(truth), K))
        scores[np.arange(len(truth)), truth] += 2.0
        log_prob = np.empty_like(scores)
        log_prob[:, labels] = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        posteriors.append(log_prob)
    return posteriors, np.array(planted)


def evidence(posteriors, labels):
    """Return the objective, as in the docstring of the module."""
    K = posteriors[0].shape[1]
    factors = [
        ((1 - LAPSE) * np.exp(log_prob) + LAPSE / K)[:, own] for log_prob, own in zip(posteriors, labels, strict=True)
    ]
    return np.log(np.prod(factors, axis=0).sum(axis=1)).sum()


def aligned(posteriors, start=None, sweeps=100):
    return align(posteriors, start or [None] * len(posteriors), LAPSE, sweeps)


def matched_to_the_first(posteriors):
    return [linear_sum_assignment(np.exp(posteriors[0]).T @ np.exp(own), maximize=True)[1] for own in posteriors]


def accuracy(posteriors, labels, truth):
    """Return the accuracy of the joint posterior, its classes matched to the true ones."""
    joint = sum(log_prob[:, own] for log_prob, own in zip(posteriors, labels, strict=True)).argmax(axis=1)
    table = np.zeros((posteriors[0].shape[1],) * 2)
    np.add.at(table, (joint, truth), 1)
    return table[linear_sum_assignment(table, maximize=True)].sum() / len(truth)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_recovers_planted_permutations_from_noisy_posteriors(count, seed):
    posteriors, planted = make_inputs(np.random.default_rng(seed).integers(0, 6, 300), 6, count, 1.5, seed)
    assert np.array_equal(aligned(posteriors), planted)


def maximum_evidence(posteriors):
    """Return the highest evidence of all permutations."""
    every = [np.array(one) for one in permutations(range(posteriors[0].shape[1]))]
    return max(evidence(posteriors, [every[0], *others]) for others in product(every, repeat=len(posteriors) - 1))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("K", "count"), [(4, 2), (4, 3), (3, 4)])
def test_reaches_the_global_maximum_of_the_evidence(K, count, seed):
    posteriors, _ = make_inputs(np.arange(40) % K, K, count, 1.5, seed)
    assert evidence(posteriors, aligned(posteriors)) == pytest.approx(maximum_evidence(posteriors))


@pytest.mark.parametrize("seed", [0, 13])
def test_starts_the_ascent_from_each_input(seed):
    """With these seeds the ascent from the first input alone ends in a local maximum."""
    posteriors, _ = make_inputs(np.arange(40) % 4, 4, 3, 2.0, seed)
    assert evidence(posteriors, aligned(posteriors)) == pytest.approx(maximum_evidence(posteriors))


@pytest.mark.parametrize("seed", range(10))
def test_uninformative_inputs_end_in_a_local_maximum_for_matchings_and_exchanges(seed):
    posteriors, _ = make_inputs(np.arange(40) % 4, 4, 3, 3.0, seed)
    labels = aligned(posteriors)
    reached = evidence(posteriors, labels)
    assert reached <= maximum_evidence(posteriors) + 1e-9
    assert reached >= evidence(posteriors, matched_to_the_first(posteriors))
    for m, a, b in product(range(3), range(4), range(4)):
        other = labels.copy()
        other[m, [a, b]] = other[m, [b, a]]
        assert evidence(posteriors, other) <= reached + 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_inputs_are_aligned_with_each_other_where_the_first_confuses_classes(seed):
    """The first input confuses classes in pairs; matched to it alone, each other input orders its pairs by chance."""
    posteriors, planted = make_inputs(np.arange(240) % 8, 8, 4, 1.0, seed)
    pair_means = np.exp(posteriors[0]).reshape(-1, 4, 2).mean(axis=2)
    posteriors[0] = np.log(np.repeat(pair_means, 2, axis=1))

    def relative_labels(labels):
        return [own[np.argsort(labels[1])].tolist() for own in labels[1:]]

    assert relative_labels(aligned(posteriors)) == relative_labels(planted)
    assert relative_labels(matched_to_the_first(posteriors)) != relative_labels(planted)


def test_three_pairwise_independent_inputs_are_aligned_by_their_joint_posterior():
    """Each input knows in which of two pairs a row's class is; any two of their pairs share exactly one class."""
    truth = np.random.default_rng(0).integers(0, 4, 200)
    halves = [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0]]
    right = [np.log(np.where(np.array(half)[truth][:, None] == half, 0.49, 0.01)) for half in halves]
    posteriors = [
        log_prob[:, own] for log_prob, own in zip(right, ([0, 1, 2, 3], [2, 0, 3, 1], [1, 3, 0, 2]), strict=True)
    ]
    assert evidence(posteriors, aligned(posteriors)) == pytest.approx(maximum_evidence(posteriors))
    assert accuracy(posteriors, aligned(posteriors), truth) == 1.0
    assert accuracy(posteriors, matched_to_the_first(posteriors), truth) < 0.6


def test_one_row_with_a_certain_wrong_posterior_does_not_outweigh_the_others():
    K, truth = 3, np.append(np.arange(30) % 3, 0)
    certain = np.log(np.where(np.eye(K)[truth] > 0, 1.0, 1e-300))
    doubtful = np.log(np.where(np.eye(K)[truth] > 0, 0.8, 0.1))
    doubtful[-1] = np.log([1e-300, 1.0, 1e-300])
    assert np.array_equal(aligned([certain, doubtful]), [[0, 1, 2]] * 2)


def test_classes_of_probability_zero_are_allowed():
    truth = np.arange(30) % 3
    with np.errstate(divide="ignore"):
        one, other = np.log(np.eye(3)[truth]), np.log(np.eye(3)[(truth + 1) % 3])
    other[0] = one[0]
    assert np.array_equal(aligned([one, other]), [[0, 1, 2], [1, 2, 0]])


def test_an_uninformative_input_keeps_its_labels_and_does_not_affect_the_others():
    posteriors, planted = make_inputs(np.arange(60) % 5, 5, 3, 1.0, 0)
    uninformative = np.zeros((60, 5))
    result = aligned([posteriors[0], uninformative, *posteriors[1:]])
    assert np.array_equal(result, [planted[0], np.arange(5), *planted[1:]])
    assert np.array_equal(aligned([uninformative]), [np.arange(5)])


def test_given_permutations_change_only_if_the_evidence_rises():
    posteriors, planted = make_inputs(np.arange(120) % 5, 5, 3, 1.5, 0)
    renamed = [own[[4, 2, 0, 1, 3]] for own in planted]
    assert np.array_equal(aligned(posteriors, renamed), renamed)
    assert np.array_equal(aligned([np.zeros((9, 5))] * 3, renamed), renamed)
    wrong = [planted[0], np.roll(planted[1], 1), planted[2]]
    assert np.array_equal(aligned(posteriors, wrong), planted)


def test_the_first_input_with_a_permutation_numbers_the_classes():
    posteriors, planted = make_inputs(np.arange(120) % 5, 5, 3, 1.0, 0)
    names = np.array([3, 1, 4, 0, 2])
    result = aligned(posteriors, [None, names, None])
    assert np.array_equal(result, planted[:, np.argsort(planted[1])[names]])


# --- classes of several runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_matched_classes_have_the_smallest_sum_of_distances(seed):
    distances = np.random.default_rng(seed).exponential(size=(5, 5))
    best = min(permutations(range(5)), key=lambda order: distances[np.arange(5), order].sum())
    assert match_classes(distances).tolist() == list(best)


def test_classes_without_rows_are_matched_with_each_other():
    distances = np.array([[0.1, np.inf, 9.0], [np.inf, np.inf, np.inf], [9.0, np.inf, 5.0]])
    assert match_classes(distances).tolist() == [0, 1, 2]


def test_a_class_without_rows_takes_the_one_that_is_left():
    distances = np.array([[0.1, np.inf, 9.0], [7.0, np.inf, 8.0], [9.0, np.inf, 0.2]])
    assert match_classes(distances).tolist() == [0, 1, 2]
    assert match_classes(distances[:, [1, 0, 2]].T).tolist() == [1, 0, 2]
