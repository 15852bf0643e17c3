"""Cases of forward-backward and Viterbi beside hmmlearn's compiled functions.

hmmlearn runs without its checks of the data, this project's public functions with theirs.
"""

from __future__ import annotations

import numpy as np
from hmmlearn import _hmmc
from scipy.special import softmax

from actors.kernels.markov import inference
from tests.benchmarks.harness import Case

SIZES = ((3_000, 10), (100_000, 10), (3_000, 100), (100_000, 100))
"""Numbers of rows and of classes."""

MAX_IN_LOGS = 1e8
"""Transitions up to which hmmlearn's log implementation is measured, ten times as slow as the scaled one."""


def scaled(evidence: np.ndarray, T: np.ndarray, initial: np.ndarray) -> None:
    """Compute what `forward_backward` does as hmmlearn's ``implementation="scaling"``."""
    likelihood = np.exp(evidence)
    _, forward, scale = _hmmc.forward_scaling(initial, T, likelihood)
    backward = _hmmc.backward_scaling(initial, T, likelihood, scale)
    _hmmc.compute_scaling_xi_sum(forward, T, backward, likelihood)
    posterior = forward * backward
    posterior /= posterior.sum(axis=1, keepdims=True)


def in_logs(evidence: np.ndarray, T: np.ndarray, initial: np.ndarray) -> None:
    """Compute what `forward_backward` does as hmmlearn's ``implementation="log"``, its default."""
    _, forward = _hmmc.forward_log(initial, T, evidence)
    backward = _hmmc.backward_log(initial, T, evidence)
    _hmmc.compute_log_xi_sum(forward, T, backward, evidence)
    softmax(forward + backward, axis=1)


def sized_cases(rows: int, classes: int) -> list[Case]:
    """Return forward-backward and Viterbi beside hmmlearn's."""
    generator = np.random.default_rng(0)
    T, initial = generator.dirichlet(np.full(classes, 0.5), classes), generator.dirichlet(np.ones(classes))
    given = (2.0 * generator.normal(size=(rows, classes)), T, initial)
    size = f"{rows:,} rows, {classes} classes"
    cases = [
        Case(
            f"forward-backward, {size}",
            lambda: inference.forward_backward(*given),
            lambda: scaled(*given),
            "hmmlearn, scaling",
        ),
        Case(
            f"Viterbi, {size}",
            lambda: inference.viterbi(*given),
            lambda: _hmmc.viterbi(initial, T, given[0]),
            "hmmlearn",
        ),
    ]
    if rows * classes**2 < MAX_IN_LOGS:
        cases.append(Case(f"forward-backward in logs, {size}", cases[0].ours, lambda: in_logs(*given), "hmmlearn, log"))
    return cases


def cases() -> list[Case]:
    """Return the cases of all sizes."""
    return [case for size in SIZES for case in sized_cases(*size)]
