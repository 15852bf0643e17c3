"""GMM + MM beside one model that is optimised jointly: ``python -m tests.benchmarks.composed``.

Both are measured by the same lower bound of the log-density of the rows, that of the joint variational hidden Markov
model (:mod:`tests.support.joint_hmm`), at the posteriors of classes and transitions that each has found.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.kernels.mixture.sequence_init import kmeans_labels
from runner.config.run_config import load_config
from tests.benchmarks.hmm import CONFIG
from tests.support.joint_hmm import Posterior, Prior, bound, divergence, infer, optimise, posterior

K, ALPHA = 4, 0.1


class Bounds(NamedTuple):
    """Lower bounds of log p(rows) in nats.

    Attributes
    ----------
    composed : of GMM + MM
    from_composed : of the joint model, optimised from there
    joint : of the joint model, the best of several starts from k-means
    independent : of the joint model if every transition is equally probable, at the composed model's classes
    """

    composed: float
    from_composed: float
    joint: float
    independent: float


def made(rows: int, side: float, seed: int, random: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (N, 2) around the corners of a square in turn; a share of the steps goes to a random corner."""
    rng = np.random.default_rng(seed)
    classes = np.cumsum(np.where(rng.random(rows) < random, rng.integers(0, K, rows), 1)) % K
    corners = side * np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    return corners[classes] + rng.normal(size=(rows, 2)), classes


def prior_for(X: np.ndarray, classes: int) -> Prior:
    """Return the prior of a GMM with ``prior_scale: data``, and that of the MM."""
    D = X.shape[1]
    return Prior(X.mean(axis=0), 1.0, D + 2.0, np.diag(X.var(axis=0) * classes ** (-2.0 / D)), ALPHA)


def compare(rows: int, side: float, seed: int, starts: int = 5) -> Bounds:
    """Return the bounds of one data set."""
    X, _ = made(rows, side, seed)
    settings = ["modules.gmm.engine=vb", "modules.gmm.calibrate=false", "modules.gmm.prior_count=1.0"]
    coordinator = Coordinator(load_config(CONFIG, settings).graph, InProcessBackend(), seed=seed)
    coordinator.start({"data": {"values": X}})
    coordinator.run_rounds()
    prior = prior_for(X, K)
    labels, transitions = coordinator.outputs("gmm")["Pdz"], coordinator.state("mm")["transitions"]
    composed = posterior(X, labels, transitions, prior)
    even = posterior(X, labels, np.full((K, K), 1e6), prior)
    generator, found = np.random.default_rng(seed), []
    for _ in range(starts):
        start = np.eye(K)[kmeans_labels(X, K, generator, restarts=1)]
        found.append(optimise(X, posterior(X, start, start[:-1].T @ start[1:], prior), prior)[1][-1])
    polished = optimise(X, composed, prior)[1][-1]
    return Bounds(bound(X, composed, prior), polished, max(found), _without_order(X, even, prior))


def _without_order(X: np.ndarray, q: Posterior, prior: Prior) -> float:
    """Return the bound with a transition matrix whose entries are all 1 / K, without the cost of knowing it."""
    same = posterior(X, np.zeros((len(X), K)), q.counts - prior.alpha, prior)
    return infer(X, q)[2] - divergence(q, prior) + divergence(same, prior)


def main() -> None:
    """Print gaps in nats per 1,000 rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--sides", type=float, nargs="*", default=[5.0, 4.0, 3.0, 2.5])
    given = parser.parse_args()
    print(f"{given.seeds} seeds of {given.rows:,} rows; gaps in nats per 1,000 rows: mean, largest\n")
    print("| side | bound of GMM + MM | gap to the joint from there | to its best of 5 starts | the order explains |")
    print("| --- | --- | --- | --- | --- |")
    for side in given.sides:
        found = np.array([compare(given.rows, side, seed) for seed in range(given.seeds)])
        composed, polished, joint, independent = 1000.0 / given.rows * found.T
        gaps = [f"{gap.mean():.2f}, {gap.max():.2f}" for gap in (polished - composed, joint - composed)]
        explained = (composed - independent).mean()
        print(f"| {side:g} | {composed.mean():.1f} | {' | '.join(gaps)} | {explained:.0f} |", flush=True)


if __name__ == "__main__":
    main()
