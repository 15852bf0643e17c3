"""Explicit durations of the Markov model: ``python -m tests.benchmarks.durations [coverage | accuracy]``.

``coverage``: of simulated sequences whose emissions are known, in how many the 95 % posterior intervals of mean
durations and of transition probabilities hold the true values, given the expected segments and by draws (`samples`).
``accuracy``: made data whose states last, by GMM + MM with each kind of durations and by hmmlearn, over seeds, with the
lengths of the most probable segments beside the true ones. Models run in this process, with the same results as on Ray.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from hmmlearn.hmm import GaussianHMM
from scipy.stats import beta

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from runner.config.run_config import load_config
from runner.report.clustering_metrics import accuracy
from tests.benchmarks.hmm import CONFIG

MEANS = np.array([5.0, 12.0, 25.0])
FOLLOWS = np.array([[0.0, 0.7, 0.3], [0.4, 0.0, 0.6], [0.2, 0.8, 0.0]])
"""The chain of `coverage`: mean durations in rows, and transitions between segments."""

DRAWS = 300
"""Draws of the posterior in `coverage`."""

FAMILIES = ("poisson", "negative_binomial")

SHAPE = 3.0
"""r of the negative binomial durations that are drawn."""


class Sequence(NamedTuple):
    """Classes (N,) of the rows of a sequence, and the lengths of its segments."""

    classes: np.ndarray
    lengths: np.ndarray


def draw(rows: int, family: str, means: np.ndarray, follows: np.ndarray, rng: np.random.Generator) -> Sequence:
    """Return a sequence of segments; the last one is cut off."""
    classes, lengths, k = [], [], int(rng.integers(len(means)))
    while sum(lengths) < rows:
        further = means[k] - 1.0
        longer = (
            rng.poisson(further) if family == "poisson" else rng.negative_binomial(SHAPE, SHAPE / (SHAPE + further))
        )
        classes.append(k)
        lengths.append(1 + int(longer))
        k = int(rng.choice(len(means), p=follows[k]))
    return Sequence(np.repeat(classes, lengths)[:rows], np.array(lengths))


# --- coverage -----------------------------------------------------------------------------------------------------


def covered(family: str, rows: int, apart: float, seed: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return whether the intervals of the mean durations (K,) and of the transitions (K (K - 1),) hold the true values.

    They are those of `samples` draws of the posterior, or with 0 those given the expected segments. The likelihoods are
    those of unit-variance Gaussians whose means are `apart`, so that classes keep their numbers.
    """
    rng, K = np.random.default_rng(seed), len(MEANS)
    classes = draw(rows, family, MEANS, FOLLOWS, rng).classes
    x = apart * classes + rng.normal(size=rows)
    log_density = -0.5 * (x[:, None] - apart * np.arange(K)) ** 2
    log_norm = np.logaddexp.reduce(log_density, axis=1)
    arrays = {"log_prob": log_density - log_norm[:, None], "log_norm": log_norm}
    message = make_message(Header("class_posteriors", "gmm", "class_posteriors", "mm"), arrays)
    given = {"durations": family, "max_duration": 100, "estimate": "variational"}
    module = make_module(
        "markov", {**given, "prior_duration": 10.0, "inner_iterations": 8, "alpha": 1.0, "samples": samples}
    )
    outputs = module.update(Inbox([message]), Context("mm", seed=seed)).outputs
    interval = outputs["duration_interval"]
    of_durations = (interval[:, 0] <= MEANS) & (interval[:, 1] >= MEANS)
    off = ~np.eye(K, dtype=bool)
    if samples:
        return of_durations, (outputs["trans_low"][off] <= FOLLOWS[off]) & (outputs["trans_high"][off] >= FOLLOWS[off])
    counts = module.state()["segment_transitions"] + off  # with the pseudo-counts of the prior
    posterior = beta(counts[off], (counts.sum(axis=1, keepdims=True) - counts)[off])
    low, high = posterior.interval(0.95)
    return of_durations, (low <= FOLLOWS[off]) & (high >= FOLLOWS[off])


def print_coverage(simulations: int, rows: int, families: tuple[str, ...]) -> None:
    """Print the coverage of each family, for classes that are told apart and for classes that overlap."""
    print(f"\n{simulations} sequences of {rows:,} rows, {load()}\n")
    print("| durations | means apart, in deviations | intervals | mean durations | transitions | durations by class |")
    print("| --- | --- | --- | --- | --- | --- |")
    for family in families:
        for apart, samples in ((6.0, 0), (6.0, DRAWS), (2.0, 0), (2.0, DRAWS)):
            found = [covered(family, rows, apart, seed, samples) for seed in range(simulations)]
            durations, transitions = (np.array([each[number] for each in found]) for number in (0, 1))
            by_class = ", ".join(f"{share:.3f}" for share in durations.mean(axis=0))
            by = f"{samples} draws" if samples else "expected segments"
            print(
                f"| {family} | {apart:g} | {by} | {durations.mean():.3f} | {transitions.mean():.3f} | {by_class} |",
                flush=True,
            )


# --- accuracy -----------------------------------------------------------------------------------------------------

STATES = 5
LASTING = np.array([5.0, 8.0, 12.0, 20.0, 30.0])
"""Mean durations of the states of `accuracy`, in rows."""


class Result(NamedTuple):
    """Classes (N,) of the rows, and those of the most probable path or segments."""

    classes: np.ndarray
    path: np.ndarray


def lasting_rows(family: str, seed: int, rows: int = 1000) -> tuple[np.ndarray, Sequence]:
    """Return rows (N, 2) around points on a circle, which overlap, and their sequence."""
    rng = np.random.default_rng(seed)
    follows = rng.dirichlet(np.ones(STATES), STATES) * (1.0 - np.eye(STATES))
    sequence = draw(rows, family, LASTING, follows / follows.sum(axis=1, keepdims=True), rng)
    angle = 2.0 * np.pi * np.arange(STATES) / STATES
    centres = 1.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centres[sequence.classes] + rng.normal(size=(rows, 2)), sequence


def composed(**markov: object) -> Callable[[np.ndarray, int], Result]:
    """Return GMM + MM as in configs/hmm.yaml, with these parameters of the MM and two chains, as a method."""
    settings = ", ".join(f"{name}: {value}" for name, value in markov.items())

    def method(X: np.ndarray, seed: int) -> Result:
        given = [
            "schedule={rounds: 1, steps: [{steps: [gmm, mm], repeat: 12, tolerance: 0.01, chains: 2}, "
            "{module: gmm, set: {iterations: 0}}]}",
            f"modules.gmm.classes={STATES}",
            f"modules.mm={{type: markov, rule: smoothed, estimate: variational, {settings}}}",
        ]
        coordinator = Coordinator(load_config(CONFIG, given).graph, InProcessBackend(), seed=seed)
        coordinator.start({"data": {"values": X}})
        coordinator.run_rounds()
        return Result(coordinator.outputs("gmm")["class"], coordinator.outputs("mm")["viterbi"])

    return method


def hmmlearn_best_of(X: np.ndarray, seed: int, starts: int = 5, classes: int = STATES) -> Result:
    """Return the EM fit with the highest likelihood of `starts` starts."""
    fits = []
    for start in range(starts):
        hmm = GaussianHMM(classes, "full", n_iter=200, tol=1e-3, random_state=1000 * seed + start)
        with contextlib.suppress(ValueError):  # a covariance has become singular
            fits.append((hmm.fit(X).score(X), -start, hmm))
    best = max(fits)[2]
    return Result(best.predict_proba(X).argmax(axis=1), best.predict(X))


METHODS: dict[str, Callable[[np.ndarray, int], Result]] = {
    "hmmlearn, best of 5": hmmlearn_best_of,
    "GMM + MM, geometric": composed(durations="geometric"),
    "… `self_transition_prior: auto`": composed(self_transition_prior="auto"),
    "… `durations: poisson`": composed(durations="poisson", max_duration=80),
    "… `durations: negative_binomial`": composed(durations="negative_binomial", max_duration=80),
}


def segment_lengths(path: np.ndarray) -> np.ndarray:
    """Return the lengths of the runs of equal classes."""
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    return np.diff([*starts, len(path)])


def print_accuracy(seeds: int, families: tuple[str, ...]) -> None:
    """Print accuracies and lengths of segments of each method, for data of each family."""
    for family in families:
        data = [lasting_rows(family, seed) for seed in range(seeds)]
        true = np.concatenate([segment_lengths(sequence.classes) for _, sequence in data])
        print(f"\n{family}, {seeds} seeds of {len(data[0][0]):,} rows, {load()}\n")
        print("| method | accuracy: mean | least | of the best path | segments | mean, median, 90 % of lengths | s |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        print(f"| truth | | | | {len(true)} | {described(true)} | |")
        for name, method in METHODS.items():
            begun, results = time.process_time(), []
            for seed, (X, _) in enumerate(data):
                results.append(method(X, seed))
            seconds = (time.process_time() - begun) / seeds
            of_rows, of_path = (
                [accuracy(result[number], data[seed][1].classes) for seed, result in enumerate(results)]
                for number in (0, 1)
            )
            found = np.concatenate([segment_lengths(result.path) for result in results])
            print(
                f"| {name} | {np.mean(of_rows):.3f} | {np.min(of_rows):.3f} | {np.mean(of_path):.3f} | {len(found)} "
                f"| {described(found)} | {seconds:.1f} |",
                flush=True,
            )


def described(lengths: np.ndarray) -> str:
    """Return mean, median and 90 % quantile."""
    return f"{lengths.mean():.1f}, {np.median(lengths):.0f}, {np.quantile(lengths, 0.9):.0f}"


def load() -> str:
    """Return the load of the machine."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", choices=("coverage", "accuracy"), help="by default both")
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--family", choices=FAMILIES, help="of the durations that are drawn; by default both")
    given = parser.parse_args()
    families = (given.family,) if given.family else FAMILIES
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it warns about starts that converge badly
    if given.table != "accuracy":
        print_coverage(given.simulations, given.rows, families)
    if given.table != "coverage":
        print_accuracy(given.seeds, families)


if __name__ == "__main__":
    main()
