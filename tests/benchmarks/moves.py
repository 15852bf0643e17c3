"""How often a chain ends in the right optimum, and what a second is worth: ``python -m tests.benchmarks.moves``.

GMM + MM on the latent vectors of VAEs that were trained alone; a chain is right with an accuracy of at least
:data:`RIGHT`. In one process, so that the seconds are those of the numerics.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from actors.graph.spec import Connection, ModuleSpec

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
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
"""Parameters of the GMM, and of the block."""


def learn(graph: Graph, rows: np.ndarray, seed: int) -> Coordinator:
    """Return a coordinator after the graph's rounds."""
    coordinator = Coordinator(graph, InProcess(), seed=seed)
    coordinator.start({"data": {"values": rows}})
    coordinator.run_rounds()
    return coordinator


def latents(data: Dataset, seed: int, epochs: int = 200) -> np.ndarray:
    """Return what a VAE alone makes of the digits, (N, 18)."""
    vae = ModuleSpec("vae", "vae", {"latent_dim": 18, "epochs": epochs, "batch_size": 500}, threads=2)
    graph = Graph([ModuleSpec("data", "observation"), vae], [Connection("data", "vae")])
    return learn(graph, data.observations, seed).outputs("vae")["z"].astype(np.float64)


def model(gmm: dict[str, Any], block: dict[str, Any]) -> Graph:
    """Return GMM + MM over rows that are there already."""
    exchanges = Block((Step("gmm"), Step("mm")), **{**BLOCK, **block})
    modules = [ModuleSpec("data", "observation"), ModuleSpec("gmm", "gmm", {**GMM, **gmm}), ModuleSpec("mm", "markov")]
    schedule = Schedule(1, (exchanges, Step("gmm", {"iterations": 0})))
    return Graph(modules, [Connection("data", "gmm"), Connection("gmm", "mm")], schedule)


def main() -> None:
    """Print a line a variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="VAEs")
    parser.add_argument("--chains", type=int, default=2, help="runs on each")
    arguments = parser.parse_args()
    data = load("mnist", count=3000, order="cyclic")
    rows = [latents(data, seed) for seed in range(arguments.seeds)]
    print("| what | runs | P(accuracy ≥ 0.98) | accuracy: least | median | seconds | P a second |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (gmm, block) in VARIANTS.items():
        graph, found, started = model(gmm, block), [], time.perf_counter()
        for Z in rows:
            for seed in range(arguments.chains):
                found.append(accuracy(learn(graph, Z, seed).outputs("gmm")["class"], data.categories))
        seconds = (time.perf_counter() - started) / len(found)
        right = np.mean([each >= RIGHT for each in found])
        print(f"| {name} | {len(found)} | {right:.2f} | {min(found):.3f} | {np.median(found):.3f} | {seconds:.1f} "
              f"| {right / seconds:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
