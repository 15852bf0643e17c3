"""Words of syllables: GMM + switching_markov + markov beside models of one level: ``python -m tests.benchmarks.words``.

Made data (:mod:`runner.data.syllables`): three words, each an order of six syllables of its own. Models run in this
process, with the same results as on Ray.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping

import numpy as np

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from runner.data.syllables import SYLLABLES, WORDS, speak
from runner.report.clustering_metrics import accuracy
from tests.benchmarks.durations import hmmlearn_best_of

GMM = {"classes": SYLLABLES, "iterations": 2, "prior_scale": "data", "start": "kmeans"}


def model(two_levels: bool, chains: int = 2) -> Graph:
    """Return GMM + MM, or GMM + a Markov model with regimes + a Markov model of these with explicit durations."""
    steps, connections = ["gmm", "mm"], [Connection("data", "gmm"), Connection("gmm", "mm")]
    modules = [ModuleSpec("data", "observation"), ModuleSpec("gmm", "gmm", GMM)]
    if two_levels:
        lasting = {"durations": "negative_binomial", "max_duration": 60, "estimate": "variational"}
        modules += [ModuleSpec("mm", "switching_markov", {"regimes": WORDS}), ModuleSpec("words", "markov", lasting)]
        connections, steps = [*connections, Connection("mm", "words")], [*steps, "words"]
    else:
        modules.append(ModuleSpec("mm", "markov", {"estimate": "variational"}))
    block = Block(tuple(Step(name) for name in steps), repeat=25, tolerance=0.01, chains=chains)
    last = [Step(name, {"inner_iterations" if name == "mm" else "iterations": 0}) for name in ("mm", "gmm")]
    return Graph(modules, connections, Schedule(rounds=1, steps=(block, *last)))


def learn(two_levels: bool, rows: np.ndarray, seed: int, chains: int = 2) -> Coordinator:
    """Return a trained model."""
    coordinator = Coordinator(model(two_levels, chains), InProcessBackend(), seed=seed)
    coordinator.start({"data": {"values": rows}})
    coordinator.run_rounds()
    return coordinator


def measured(apart: float, seed: int, rows: int) -> Mapping[str, tuple[float, float, float]]:
    """Return accuracies of syllables and of words, NaN without words, and seconds, by method."""
    spoken = speak(rows, apart, seed)
    results: dict[str, tuple[float, float, float]] = {}
    for name, two_levels in (("GMM + MM", False), ("GMM + switching MM + MM", True)):
        begun = time.process_time()
        trained = learn(two_levels, spoken.rows, seed)
        seconds = time.process_time() - begun
        of_words = accuracy(trained.outputs("words")["viterbi"], spoken.words) if two_levels else float("nan")
        results[name] = accuracy(trained.outputs("gmm")["class"], spoken.syllables), of_words, seconds
    begun = time.process_time()
    other = hmmlearn_best_of(spoken.rows, seed, classes=SYLLABLES)
    seconds = time.process_time() - begun
    results["hmmlearn, best of 5"] = accuracy(other.classes, spoken.syllables), float("nan"), seconds
    return results


def main() -> None:
    """Print a table for each distance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--apart", type=float, nargs="*", default=[2.5, 2.0])
    given = parser.parse_args()
    print("| apart | method | syllables: mean | least | words: mean | least | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for apart in given.apart:
        found = [measured(apart, seed, given.rows) for seed in range(given.seeds)]
        for name in found[0]:
            syllables, words, seconds = np.transpose([each[name] for each in found])
            of_words = "| |" if np.isnan(words).any() else f"| {words.mean():.3f} | {words.min():.3f}"
            shown = f"{syllables.mean():.3f} | {syllables.min():.3f} {of_words} | {np.median(seconds):.1f} |"
            print(f"| {apart:g} | {name} | {shown}", flush=True)


if __name__ == "__main__":
    main()
