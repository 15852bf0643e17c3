"""Tests of the union of the intervals in which modules compute."""

import numpy as np
import pytest

from runner.runs import timing
from runner.runs.timing import ComputingTime

TICKS = 400


def random_intervals(generator, count):
    """Return intervals of whole ticks in random order: short and long ones, equal, nested and empty ones."""
    starts = generator.integers(0, TICKS - 60, count)
    return np.stack([starts, starts + generator.integers(0, 60, count) // generator.integers(1, 20, count)], axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_the_seconds_are_those_ticks_that_any_interval_covers(seed):
    generator, covered, computing = np.random.default_rng(seed), np.zeros(TICKS, bool), ComputingTime()
    for started, ended in random_intervals(generator, 60):
        computing.add(float(started), float(ended))
        covered[started:ended] = True
        assert computing.seconds == np.count_nonzero(covered)
    first, last = np.flatnonzero(covered)[[0, -1]]
    assert (computing.first, computing.last) == (first, last + 1)
    idle = 1 - np.count_nonzero(covered) / (last + 1 - first)
    assert computing.idle_share(float(first)) == pytest.approx(idle)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_of_many_updates_keeps_few_intervals_and_the_same_seconds(seed, monkeypatch):
    monkeypatch.setattr(timing, "MAX_INTERVALS", 8)
    generator, covered, computing = np.random.default_rng(seed), np.zeros(3000, bool), ComputingTime()
    for end in range(20, 3000, 3):  # as updates end, of which the latest may overlap
        started = end - int(generator.integers(0, 20))
        computing.add(float(started), float(end))
        covered[started:end] = True
    assert len(computing._starts) <= 8
    assert computing.seconds == np.count_nonzero(covered)


def test_intervals_before_those_that_are_kept_are_not_counted_twice(monkeypatch):
    monkeypatch.setattr(timing, "MAX_INTERVALS", 2)
    computing = ComputingTime()
    for start in (0.0, 2.0, 4.0, 6.0):
        computing.add(start, start + 1.0)
    computing.add(0.0, 7.0)
    assert computing.seconds <= 7.0
    assert computing.idle_share(0.0) >= 0.0


def test_an_interval_that_is_empty_or_reversed_counts_nothing():
    computing = ComputingTime()
    computing.add(1.0, 1.0)
    computing.add(3.0, 2.0)
    assert computing.seconds == 0.0
    assert computing.idle_share(0.0) is None
