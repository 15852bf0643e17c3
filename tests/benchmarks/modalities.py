"""Accuracy with one and with several modalities: ``python -m tests.benchmarks.modalities [SEED …]``.

Pictures alone (VAE + GMM), words alone (MLDA), both (`configs/vae_gmm_mlda.yaml`), both with the order of the rows
(`configs/vae_gmm_mlda_mm.yaml`, `configs/vae_gmm_mlda_mm_on_mlda.yaml`), and two pictures of each digit
(`configs/two_cameras.yaml`), each in this process.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from runner.config.run_config import RunConfig, load_config
from runner.data.sources import common_categories, source_states
from runner.report.clustering_metrics import accuracy

CONFIGS = Path(__file__).parents[2] / "configs"
BOTH = CONFIGS / "vae_gmm_mlda.yaml"
PICTURES = [
    "connections=[pictures -> vae -> gmm]",
    "data={pictures: {source: mnist, count: 3000}}",
    "modules.gmm={type: gmm, classes: 10, iterations: 50, start: kmeans}",
    "schedule.steps=[vae, gmm]",
]
WORDS = [
    "connections=[words -> mlda]",
    "data={words: {source: words, count: 3000}}",
    "modules={mlda: {type: mlda, topics: 10, iterations: 100}}",
    "schedule={rounds: 1, steps: [mlda]}",
]
ONE_CAMERA = [
    "connections=[left -> vae_left -> gmm_left]",
    "data={left: {source: mnist, count: 2000, order: cyclic}}",
    "modules={vae_left: {type: vae, epochs: 50, batch_size: 200}, "
    "gmm_left: {type: gmm, iterations: 50, start: kmeans}}",
    "schedule={rounds: 2, steps: [vae_left, gmm_left]}",
]
MODELS = {
    "pictures alone": (
        BOTH,
        [*PICTURES, "modules={vae: {type: vae, epochs: 50}, gmm: {type: gmm}}", PICTURES[2]],
        "gmm",
    ),
    "words alone": (BOTH, WORDS, "mlda"),
    "pictures and words": (BOTH, [], "mlda"),
    "pictures, words and order": (CONFIGS / "vae_gmm_mlda_mm.yaml", [], "mlda"),
    "pictures, words and order, the MM on the MLDA": (CONFIGS / "vae_gmm_mlda_mm_on_mlda.yaml", [], "mlda"),
    "one camera": (CONFIGS / "two_cameras.yaml", ONE_CAMERA, "gmm_left"),
    "two cameras": (CONFIGS / "two_cameras.yaml", [], "mlda"),
}


def train(config: RunConfig, module: str) -> tuple[float, float]:
    """Train the model; return the accuracy of the classes of `module`, and the seconds that this took."""
    data = config.load_data()
    coordinator = Coordinator(config.graph, InProcessBackend(), seed=config.seed)
    started = time.perf_counter()
    coordinator.start(source_states(config.graph, data))
    coordinator.run_rounds()
    return accuracy(coordinator.outputs(module)["class"], common_categories(data)), time.perf_counter() - started


def main(seeds: list[int]) -> None:
    """Print the table, with one column for each seed."""
    print("| model | " + " | ".join(f"seed {seed}" for seed in seeds) + " | seconds |")
    print("| --- |" + " --- |" * (len(seeds) + 1))
    for name, (path, settings, module) in MODELS.items():
        results = [train(load_config(path, [*settings, f"seed={seed}"]), module) for seed in seeds]
        median = sorted(seconds for _, seconds in results)[len(results) // 2]
        print(f"| {name} | " + " | ".join(f"{score:.3f}" for score, _ in results) + f" | {median:.0f} |", flush=True)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2, 3, 4])
