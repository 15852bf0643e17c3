"""Test the start from segments against the marginal likelihood of whole classes, and on made rows."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from actors.kernels.mixture import autoregression as ar
from actors.kernels.mixture import niw, segment_start
from actors.kernels.mixture.niw import NIWPrior
from actors.kernels.mixture.segment_start import (
    consensus,
    consensus_of_segments,
    log_evidence,
    merge_by_evidence,
    moments_of,
    segment_labels,
)


def made(seed=0, blocks=24, length=40, order=2):
    """Return two rotations in the plane, of different speed, block after block, in two sequences, and their classes."""
    rng = np.random.default_rng(seed)
    rows, classes = [np.ones(2)], np.repeat(rng.integers(0, 2, blocks), length)
    for number in classes[1:]:
        angle = (0.3, 1.2)[number]
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        rows.append(0.99 * turn @ rows[-1] + 0.1 * rng.normal(size=2))
    starts = np.array([0, blocks // 3 * length, blocks * length])
    rows = np.array(rows)
    return ar.series(rows, np.zeros(len(rows), bool), starts, order), starts, classes


PRIOR = ar.MNIWPrior(np.eye(2, 5), np.full(5, 0.7), 5.0, np.diag([0.5, 0.2]))


def test_the_evidence_is_that_of_the_classes_whose_rows_are_summed():
    data, _, classes = made()
    initial = NIWPrior(np.zeros(2), 1.0, 5.0, np.eye(2))
    learnt = ar.classes_from(data, np.eye(2)[classes], ar.Prior(PRIOR, initial, np.zeros(2)))
    alone = data.starts  # their part is that of the Gaussians
    whole = ar.log_marginal_likelihood(learnt, ar.Prior(PRIOR, initial, np.zeros(2)))
    gaussian = gaussian_evidence(data.rows[alone], classes[alone], initial)
    assert log_evidence(moments_of(data, classes, PRIOR), PRIOR) == pytest.approx(whole - gaussian, rel=1e-10)


def gaussian_evidence(rows, classes, prior):
    return niw.log_marginal_likelihood(niw.posterior_from_labels(rows, classes, 2, prior), prior)


def test_the_first_merge_is_the_best_of_all_pairs():
    data, _, _ = made(blocks=6)
    segments = np.arange(len(data.rows)) // 40
    merged = merge_by_evidence(moments_of(data, segments, PRIOR), 5, PRIOR)

    def total(labels):
        return log_evidence(moments_of(data, np.asarray(labels)[segments], PRIOR), PRIOR).sum()

    found = {
        (one, two): total(np.unique([one if each == two else each for each in range(6)], return_inverse=True)[1])
        for one in range(6)
        for two in range(one + 1, 6)
    }
    assert total(merged) == pytest.approx(max(found.values()), rel=1e-12)


@pytest.mark.parametrize("length", [10, 20])
def test_segments_of_two_dynamics_become_two_classes(length):
    data, starts, classes = made()
    labels = segment_labels(data, starts, 2, length, PRIOR)
    right = (labels == classes).mean()
    assert max(right, 1 - right) > 0.95


@pytest.mark.parametrize("classes", [1, 7, 30])
def test_as_many_classes_are_left_as_are_asked_for(classes):
    data, starts, _ = made(blocks=12, length=10)  # 120 rows
    labels = segment_labels(data, starts, classes, 50, PRIOR)
    assert sorted(set(labels.tolist())) == list(range(classes))


def test_of_many_rows_segments_are_longer(monkeypatch):
    monkeypatch.setattr(segment_start, "MAX_SEGMENTS", 6)
    data, starts, _ = made()
    sizes = np.diff(np.flatnonzero(np.diff(segment_labels(data, starts, 3, 2, PRIOR), prepend=-1, append=-1)))
    assert sizes.min() >= 100


@pytest.mark.parametrize("classes", [2, 4])
def test_the_consensus_is_that_of_average_linkage(classes):
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 4, 150)
    given = np.stack([np.where(rng.random(150) < 0.15, rng.integers(0, 4, 150), truth) for _ in range(7)], axis=1)
    expected = fcluster(linkage(pdist(given, "hamming"), "average"), classes, "maxclust")
    assert adjusted_rand_score(expected, consensus(given, classes)) == pytest.approx(1.0)


def test_the_consensus_of_segments_finds_two_dynamics():
    data, starts, classes = made()
    labels = consensus_of_segments(data, starts, 2, 16, PRIOR)
    right = (labels == classes).mean()
    assert max(right, 1 - right) > 0.95
