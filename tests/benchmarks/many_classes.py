"""Many classes that are not Gaussian, in three orders: ``python -m tests.benchmarks.many_classes``.

Made rows (:mod:`runner.data.clumps`) of 10, 26 and 40 classes, 600 rows each, in cyclic order, in an uneven Markov
chain, and in a cycle with 10 % of the transitions random. Each method is unsupervised but for the quadratic
discriminants. The accuracy is that of the learnt rows in order, and of 100 other rows of each class out of order.
Models run in this process, with the same results as on Ray; seconds are processor time.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hmmlearn.hmm import GMMHMM, GaussianHMM
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.registry import make_module
from actors.messaging.codec import make_message
from actors.messaging.message import Header
from actors.module import Context, Inbox
from runner.config.run_config import load_config
from runner.data.clumps import ClumpedClasses
from runner.report.clustering_metrics import accuracy, match

CONFIG = Path(__file__).parent.parent.parent / "configs" / "many_classes.yaml"
ROWS, OTHERS = 600, 100
"""Rows of each class that are learnt from, and that are recognized."""


class Data(NamedTuple):
    """Rows in order and their classes, and other rows, class by class."""

    rows: np.ndarray
    classes: np.ndarray
    others: np.ndarray
    others_classes: np.ndarray


class Result(NamedTuple):
    """The classes (N,) of the rows in order, and of the others out of order."""

    classes: np.ndarray
    others: np.ndarray


# --- orders ---------------------------------------------------------------------------------------------------------


def cyclic(K: int, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Return the classes of a cycle."""
    return np.arange(rows) % K


def noisy(K: int, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Return the classes of a cycle in which one transition in ten is random."""
    classes, jumps = np.zeros(rows, np.int64), generator.random(rows) < 0.1
    anywhere = generator.integers(0, K, rows)
    for t in range(1, rows):
        classes[t] = anywhere[t] if jumps[t] else (classes[t - 1] + 1) % K
    return classes


def uneven(K: int, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Return the classes of a random chain: three probable successors each, frequencies of 0.3/K to 2.5/K."""
    # Permutations: each class has three probable predecessors, too. Else one chain in 100,000 is even enough at K = 40.
    while True:
        T = np.full((K, K), 0.03 / K)
        weights = generator.dirichlet(np.ones(3), K)
        for successor in range(3):
            T[np.arange(K), generator.permutation(K)] += weights[:, successor]
        T /= T.sum(axis=1, keepdims=True)
        system = np.vstack([T.T - np.eye(K), np.ones(K)])
        shares = K * np.linalg.lstsq(system, np.append(np.zeros(K), 1.0))[0]  # p T = p, Σp = 1
        if shares.min() >= 0.3 and shares.max() <= 2.5:
            break
    bounds, uniforms = np.cumsum(T, axis=1), generator.random(rows)
    classes = np.zeros(rows, np.int64)
    for t in range(1, rows):
        classes[t] = min(np.searchsorted(bounds[classes[t - 1]], uniforms[t]), K - 1)
    return classes


ORDERS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "cyclic": cyclic, "uneven": uneven, "noisy": noisy,
}  # fmt: skip


def make_data(K: int, order: str, seed: int) -> Data:
    """Return data of this seed."""
    made, generator = ClumpedClasses(K, seed), np.random.default_rng([seed, K, 1])
    classes = ORDERS[order](K, ROWS * K, generator)
    others = np.repeat(np.arange(K), OTHERS)
    return Data(made.rows(classes, generator), classes, made.rows(others, generator), others)


# --- methods --------------------------------------------------------------------------------------------------------


def composed(gmm: str, chains: int, moves: int = 0) -> Callable[[Data, int, int], Result]:
    """Return the model of configs/many_classes.yaml with these parameters of the GMM, as a method."""

    def method(data: Data, K: int, seed: int) -> Result:
        block = f"{{steps: [gmm, mm], repeat: 10, tolerance: 5.0, chains: {chains}, moves: {moves}}}"
        given = [
            f"modules.gmm={{type: gmm, classes: {K}, iterations: 2, prior_scale: data, calibrate: true, {gmm}}}",
            f"schedule.steps=[{block}, {{module: gmm, set: {{iterations: 0}}}}]",
        ]
        graph = load_config(CONFIG, given).graph
        coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
        coordinator.start({"data": {"values": data.rows}})
        coordinator.run_rounds()
        modules = {}
        for name in ("gmm", "mm"):
            modules[name] = make_module(graph.modules[name].type, dict(graph.modules[name].parameters))
            modules[name].load_state(coordinator.state(name) or {})
        rows = make_message(Header("observations", "data", "observations", "gmm"), {"values": data.others})
        above = Context("gmm", receivers={"class_posteriors": ("mm",)}, ordered=False)
        sent = modules["gmm"].recognize(Inbox([rows]), above).messages
        (up,) = [message.arrays for message in sent if message.port == "class_posteriors"]
        message = make_message(Header("class_posteriors", "gmm", "class_posteriors", "mm"), up)
        combined = modules["mm"].recognize(Inbox([message]), Context("mm", ordered=False)).outputs["smoothed"]
        return Result(coordinator.outputs("gmm")["class"], combined.argmax(axis=1))

    return method


def discriminants(data: Data, K: int, seed: int) -> Result:
    """Return what supervised quadratic discriminants recognize."""
    fitted = QuadraticDiscriminantAnalysis().fit(data.rows, data.classes)
    return Result(fitted.predict(data.rows), fitted.predict(data.others))


def mixture(data: Data, K: int, seed: int) -> Result:
    """Return the classes of scikit-learn's Gaussian mixture, the best of three starts."""
    fitted = GaussianMixture(K, n_init=3, random_state=seed).fit(data.rows)
    return Result(fitted.predict(data.rows), fitted.predict(data.others))


def hidden_markov(components: int) -> Callable[[Data, int, int], Result]:
    """Return hmmlearn's HMM with this many Gaussians a class, one start; others are sequences of one row each."""

    def method(data: Data, K: int, seed: int) -> Result:
        options = {"covariance_type": "full", "n_iter": 50, "tol": 1.0, "random_state": seed}
        # Without a prior of the covariances a component of few integer rows becomes singular.
        hmm = GaussianHMM(K, **options, min_covar=1e-2) if components == 1 else GMMHMM(K, components, **options)
        hmm.fit(data.rows)
        lengths = np.ones(len(data.others), np.int64)
        hmm_in_order = hmm.predict_proba(data.rows)
        hmm.startprob_ = hmm_in_order.mean(axis=0)
        return Result(hmm_in_order.argmax(axis=1), hmm.predict_proba(data.others, lengths).argmax(axis=1))

    return method


METHODS: dict[str, Callable[[Data, int, int], Result]] = {
    "supervised quadratic discriminants": discriminants,
    "scikit-learn's GaussianMixture, best of 3": mixture,
    "hmmlearn's GaussianHMM": hidden_markov(1),
    "hmmlearn's GMMHMM, 3 components": hidden_markov(3),
    "GMM + MM, `start: sequence`, 4 chains": composed("start: sequence", 4),
    "… and 8 moves": composed("start: sequence", 4, 8),
    "GMM + MM, `start: contexts`": composed("start: contexts", 1),
    "… `components: 3`": composed("start: contexts, engine: vb, components: 3", 1),
    "… and 2 chains (`configs/many_classes.yaml`)": composed("start: contexts, engine: vb, components: 3", 2),
}


def print_rows(K: int, order: str, seeds: int, methods: list[str]) -> None:
    """Print one row for each method."""
    data = [make_data(K, order, seed) for seed in range(seeds)]
    for name in methods:
        inside, outside, seconds = [], [], []
        for seed, each in enumerate(data):
            begun = time.process_time()
            with threadpool_limits(1):
                result = METHODS[name](each, K, seed)
            seconds.append(time.process_time() - begun)
            inside.append(accuracy(result.classes, each.classes))
            named = match(result.classes, each.classes)
            pairs = zip(result.others.tolist(), each.others_classes.tolist(), strict=True)
            outside.append(np.mean([named.get(found) == true for found, true in pairs]))
        print(
            f"| {K} | {order} | {name} | {min(inside):.4f} | {np.mean(inside):.4f} | {np.mean(outside):.4f} "
            f"| {np.mean(seconds):.0f} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 26, 40])
    parser.add_argument("--orders", nargs="+", choices=list(ORDERS), default=list(ORDERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", type=int, nargs="+", default=list(range(len(METHODS))), help="by number, from 0")
    given = parser.parse_args()
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it warns about starts that converge badly
    warnings.filterwarnings("ignore", category=UserWarning)
    print(f"{given.seeds} seeds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| classes | order | method | in order: least | mean | other rows, out of order: mean | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    names = [list(METHODS)[number] for number in given.methods]
    for K in given.classes:
        for order in given.orders:
            print_rows(K, order, given.seeds, names)


if __name__ == "__main__":
    main()
