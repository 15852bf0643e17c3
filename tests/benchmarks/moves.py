"""Share of chains that end in the right optimum, also per second: ``python -m tests.benchmarks.moves``.

GMM + MM on the latent vectors of VAEs trained alone. A chain is right if its accuracy is at least :data:`RIGHT`. All
runs are in this process, so that the seconds are those of the numerical work.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from runner.data.datasets import Dataset, load
from runner.report.clustering_metrics import accuracy

RIGHT = 0.98
GMM: dict[str, Any] = {"classes": 10, "iterations": 5}
BLOCK: dict[str, Any] = {"repeat": 20, "anneal": (0.3, 1.0)}

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one annealed chain": ({}, {}),
    "… best of 4": ({}, {"chains": 4}),
    "… and 6 moves": ({}, {"moves": 6}),
    "… and 6 moves, 2 sweeps an exchange": ({"iterations": 2}, {"moves": 6}),
    "… and 6 moves, calibrated": ({"calibrate": True}, {"moves": 6}),
    "… and 6 moves, engine vb": ({"engine": "vb", "iterations": 2}, {"moves": 6}),
    "… and 6 moves, k-means++ start": ({"start": "kmeans"}, {"moves": 6}),
    "one chain from the sequence, no annealing": ({"start": "sequence", "iterations": 2}, {"anneal": (1.0, 1.0)}),
    "… calibrated": ({"start": "sequence", "iterations": 2, "calibrate": True}, {"anneal": (1.0, 1.0)}),
}
"""Parameters of the GMM and of the block, by name of the variant."""


def train(graph: Graph, rows: np.ndarray, seed: int) -> Coordinator:
    """Run all rounds of the graph; return the coordinator."""
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start({"data": {"values": rows}})
    coordinator.run_rounds()
    return coordinator


def latents(data: Dataset, seed: int, epochs: int = 200) -> np.ndarray:
    """Return the latent vectors (N, 18) of the digits from a VAE that is trained alone."""
    vae = ModuleSpec("vae", "vae", {"latent_dim": 18, "epochs": epochs, "batch_size": 500}, threads=2)
    graph = Graph([ModuleSpec("data", "observation"), vae], [Connection("data", "vae")])
    return train(graph, data.observations, seed).outputs("vae")["z"].astype(np.float64)


def model(gmm: dict[str, Any], block: dict[str, Any]) -> Graph:
    """Return a graph of GMM and MM over latent vectors."""
    exchanges = Block((Step("gmm"), Step("mm")), **{**BLOCK, **block})
    modules = [ModuleSpec("data", "observation"), ModuleSpec("gmm", "gmm", {**GMM, **gmm}), ModuleSpec("mm", "markov")]
    schedule = Schedule(1, (exchanges, Step("gmm", {"iterations": 0})))
    return Graph(modules, [Connection("data", "gmm"), Connection("gmm", "mm")], schedule)


def main() -> None:
    """Print one row for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="number of VAEs")
    parser.add_argument("--chains", type=int, default=2, help="number of runs for each VAE")
    arguments = parser.parse_args()
    data = load("mnist", count=3000, order="cyclic")
    rows = [latents(data, seed) for seed in range(arguments.seeds)]
    print("| variant | runs | P(accuracy ≥ 0.98) | accuracy: least | median | seconds | P a second |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (gmm, block) in VARIANTS.items():
        graph, accuracies, started = model(gmm, block), [], time.perf_counter()
        for Z in rows:
            for seed in range(arguments.chains):
                accuracies.append(accuracy(train(graph, Z, seed).outputs("gmm")["class"], data.categories))
        seconds = (time.perf_counter() - started) / len(accuracies)
        right = np.mean([each >= RIGHT for each in accuracies])
        print(f"| {name} | {len(accuracies)} | {right:.2f} | {min(accuracies):.3f} | {np.median(accuracies):.3f} "
              f"| {seconds:.1f} | {right / seconds:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
