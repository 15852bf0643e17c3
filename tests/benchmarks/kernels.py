"""Run time of the kernels: ``python -m tests.benchmarks.kernels [--rows 3000] [--dimension 18] [--classes 10]``.

Run it with OMP_NUM_THREADS=1 on an idle machine. Each figure is the shortest time of several repetitions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from actors.kernels.markov import inference as hmm
from actors.kernels.mixture import gibbs, gibbs_sweep, niw, variational


def shortest(run: Callable[[], object], repetitions: int = 5) -> float:
    """Return the shortest time of several calls, in seconds."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def sweeps(X: np.ndarray, prior: niw.NIWPrior, z: np.ndarray, classes: int, count: int) -> tuple[float, float]:
    """Run `count` sweeps from a copy of z; return seconds per sweep and the share of rows whose label changed."""
    rng = np.random.default_rng(1)
    labels, N = z.copy(), len(X)
    factors, tables = niw.posterior_from_labels(X, labels, classes, prior), gibbs_sweep.make_tables(prior, N)
    bias, mask = np.zeros((N, classes)), np.zeros(N, dtype=bool)
    moved, start = 0, time.perf_counter()
    for _ in range(count):
        moved += gibbs_sweep.sweep(X, bias, labels, rng.random(N), mask, factors, tables)
    return (time.perf_counter() - start) / count, moved / count / N


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--dimension", type=int, default=18)
    parser.add_argument("--classes", type=int, default=10)
    options = parser.parse_args()
    N, D, K = options.rows, options.dimension, options.classes

    start = time.perf_counter()
    gibbs.compile_kernels()
    mixture = time.perf_counter() - start
    start = time.perf_counter()
    hmm.compile_kernels()
    print(f"compiled or loaded from the cache: gibbs {mixture:.2f} s, hmm {time.perf_counter() - start:.2f} s")

    rng = np.random.default_rng(0)
    true = rng.integers(0, K, N)
    X = rng.normal(size=(K, D))[true] * 0.8 + rng.normal(size=(N, D))
    prior = niw.NIWPrior(X.mean(axis=0), 1.0, D + 2.0, np.full(D, 0.1))
    converged, factors = gibbs.gibbs(X, true, K, prior, 1.0, 50, rng)
    random = rng.integers(0, K, N)
    runs = {
        "sweep, converged": [sweeps(X, prior, converged, K, 50) for _ in range(5)],
        "sweep, first from random labels": [sweeps(X, prior, random, K, 1) for _ in range(9)],
        "sweep, first 10 from random labels": [sweeps(X, prior, random, K, 10) for _ in range(5)],
    }
    unit = min(runs["sweep, converged"])[0]
    print(f"{N} rows, {D} dimensions, {K} classes")
    print(f"{'kernel':<36}{'ms':>9}{'× sweep':>9}{'moved':>8}")
    for name, results in runs.items():
        seconds, moved = min(results)
        print(f"{name:<36}{seconds * 1e3:>9.3f}{seconds / unit:>9.2f}{moved:>8.1%}")

    evidence = niw.log_predictive_loo(X, converged, factors, prior)
    P = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    T, initial = hmm.transition_probabilities(hmm.expected_counts(P), 0.1), np.full(K, 1.0 / K)
    one_hot = variational.one_hot_responsibilities(converged, K)
    start = variational.one_hot_responsibilities(random, K)
    seconds = shortest(lambda: variational.variational_bayes(X, start, prior, 1.0, 20)) / 20
    print(f"{'variational iteration, of 20':<36}{seconds * 1e3:>9.3f}{seconds / unit:>9.2f}")
    others: dict[str, Callable[[], object]] = {
        "factors from scratch": lambda: niw.posterior_from_labels(X, converged, K, prior),
        "leave-one-out densities": lambda: niw.log_predictive_loo(X, converged, factors, prior),
        "leave-one-out densities, soft": lambda: variational.soft_log_predictive_loo(X, one_hot, factors, prior),
        "forward-backward": lambda: hmm.forward_backward(evidence, T, initial),
        "viterbi": lambda: hmm.viterbi(evidence, T, initial),
        "sampled counts, 100 a pair": lambda: hmm.sampled_counts(P, 100, rng),
        "one-step message": lambda: hmm.one_step_message(P, T),
    }
    for name, run in others.items():
        seconds = shortest(run, 20)
        print(f"{name:<36}{seconds * 1e3:>9.3f}{seconds / unit:>9.2f}")


if __name__ == "__main__":
    main()
