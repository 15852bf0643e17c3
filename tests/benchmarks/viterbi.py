"""Run time of Viterbi and forward-backward relative to hmmlearn's: ``python -m tests.benchmarks.viterbi``.

Both run in turn in this process on the same log likelihoods, through hmmlearn's compiled functions without its checks
of the data and this project's public kernels with theirs. The ratios of each pair of runs are compared, since other
processes slow both of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from hmmlearn import _hmmc

from actors.kernels.markov import inference

SIZES = [(3_000, 10), (100_000, 10), (3_000, 100), (100_000, 100)]
"""Numbers of rows and of classes."""

OPERATIONS_PER_SIZE = 3e9
"""Transitions examined by one algorithm per size; determines the number of repetitions."""


def ratios(ours: Callable[[], object], theirs: Callable[[], object], repetitions: int) -> np.ndarray:
    """Return the seconds of `ours` and of `theirs` in each repetition, shape (repetitions, 2)."""
    seconds = np.empty((repetitions, 2))
    for repetition in range(-1, repetitions):  # the first one is not counted
        for column, run in enumerate((ours, theirs)):
            start = time.perf_counter()
            run()
            seconds[repetition, column] = time.perf_counter() - start
    return seconds


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print("| rows | classes | algorithm | median ms | hmmlearn's | ratio: median | quartiles |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for N, K in SIZES:
        generator = np.random.default_rng(0)
        T, initial = generator.dirichlet(np.full(K, 0.5), K), generator.dirichlet(np.ones(K))
        evidence = 2.0 * generator.normal(size=(N, K))
        assert np.array_equal(inference.viterbi(evidence, T, initial)[0], _hmmc.viterbi(initial, T, evidence)[1]), (
            "the paths differ"
        )

        def smooth(evidence: np.ndarray = evidence, T: np.ndarray = T, initial: np.ndarray = initial) -> None:
            """Compute what `forward_backward` computes, with hmmlearn's functions."""
            _, forward, scale = _hmmc.forward_scaling(initial, T, np.exp(evidence))
            backward = _hmmc.backward_scaling(initial, T, np.exp(evidence), scale)
            _hmmc.compute_scaling_xi_sum(forward, T, backward, np.exp(evidence))

        algorithms = {
            "Viterbi": (
                lambda: inference.viterbi(evidence, T, initial),  # noqa: B023 (called in this iteration)
                lambda: _hmmc.viterbi(initial, T, evidence),  # noqa: B023
            ),
            "forward-backward": (lambda: inference.forward_backward(evidence, T, initial), smooth),  # noqa: B023
        }
        repetitions = int(np.clip(OPERATIONS_PER_SIZE / (N * K * K), 3, 300))
        for name, (ours, theirs) in algorithms.items():
            seconds = ratios(ours, theirs, repetitions)
            low, middle, high = np.quantile(seconds[:, 0] / seconds[:, 1], [0.25, 0.5, 0.75])
            own, other = 1e3 * np.median(seconds, axis=0)
            print(
                f"| {N:,} | {K} | {name} | {own:.2f} | {other:.2f} | {middle:.2f} | {low:.2f} to {high:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
