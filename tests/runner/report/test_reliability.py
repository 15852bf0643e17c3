"""Calibration errors: against sums by hand, torchmetrics' definition written out, and probabilities that hold."""

import numpy as np
import pytest

from runner.report.reliability import reliability, reliability_of


def test_the_error_is_that_of_bins_written_out():
    # Confidences in the bins (0.6, 0.667], (0.867, 0.933] and (0.933, 1] of 15.
    P = np.array([[0.65, 0.35], [0.35, 0.65], [0.9, 0.1], [0.92, 0.08], [0.98, 0.02], [0.05, 0.95]])
    found = reliability_of(P, [0, 0, 0, 1, 0, 1])
    np.testing.assert_allclose(found.confidence, [0.65, 0.91, 0.965])
    np.testing.assert_allclose(found.accuracy, [0.5, 0.5, 1.0])
    assert found.rows.tolist() == [2, 2, 2]
    assert found.ece == pytest.approx((0.15 + 0.41 + 0.035) / 3)


def test_bins_of_equal_mass_have_as_many_rows_but_for_equal_confidences():
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.ones(3), 3000)
    found = reliability_of(P, P.argmax(axis=1), binning="mass")
    assert found.rows.tolist() == [200] * 15
    assert found.ece == pytest.approx(1.0 - P.max(axis=1).mean())
    alike = reliability(
        np.r_[np.full(90, 0.8), np.full(10, 0.9)], np.zeros(100, int), np.zeros(100, int), binning="mass"
    )
    assert alike.rows.tolist() == [90, 10]


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_probabilities_that_hold_have_no_error_and_sharper_ones_have(binning):
    rng = np.random.default_rng(1)
    P = rng.dirichlet(np.full(4, 0.5), 100_000)
    categories = (P.cumsum(axis=1) > rng.random(len(P))[:, None]).argmax(axis=1)
    renamed = np.array([7, -2, 5, 0])[categories]
    assert reliability_of(P, renamed, binning=binning).ece < 0.01
    sharp = P**3 / (P**3).sum(axis=1, keepdims=True)
    assert reliability_of(sharp, renamed, binning=binning).ece > 0.1


def test_a_class_without_a_category_is_never_right():
    P = np.repeat(np.eye(3), [5, 5, 2], axis=0)
    assert reliability_of(P, [0] * 5 + [1] * 7).ece == pytest.approx(2 / 12)


@pytest.mark.parametrize(
    ("P", "categories", "said"),
    [
        (np.ones(3), [0, 1, 2], "shape"),
        (np.full((2, 2), 1.5), [0, 1], "between 0 and 1"),
        (np.full((2, 2), 0.5), [0, 1, 1], "2 classes for 3 categories"),
        (np.full((2, 2), np.nan), [0, 1], "between 0 and 1"),
    ],
)
def test_what_is_no_distribution_is_refused(P, categories, said):
    with pytest.raises(ValueError, match=said):
        reliability_of(P, categories)
