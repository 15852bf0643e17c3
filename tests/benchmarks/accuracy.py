"""Accuracy and seconds of whole runs, and of what they are compared with: ``python tests/benchmarks/accuracy.py``.

Every row of the table is a set of runs of ``serket run`` over seeds; the honesty controls show what the figures would
be if the order of the rows did the work alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from runner.datasets import load

ROOT = Path(__file__).parent.parent.parent
ROWS = 3000


def cyclic(_seed: int) -> np.ndarray:
    """0, 1, …, 9, 0, 1, …"""
    return np.arange(ROWS) % 10


def noisy(seed: int) -> np.ndarray:
    """The cycle, but one transition in ten goes anywhere."""
    generator = np.random.default_rng(seed)
    classes = np.zeros(ROWS, np.int64)
    for t in range(1, ROWS):
        classes[t] = generator.integers(10) if generator.random() < 0.1 else (classes[t - 1] + 1) % 10
    return classes


def uneven(seed: int) -> np.ndarray:
    """A Markov chain of three successors a class (and a little of all) whose classes are 0.03 to 0.2 frequent."""
    generator = np.random.default_rng(seed)
    while True:
        T = np.full((10, 10), 0.003)
        for k in range(10):
            T[k, generator.choice(10, 3, replace=False)] += generator.dirichlet(np.ones(3))
        T /= T.sum(1, keepdims=True)
        classes = np.zeros(ROWS, np.int64)
        for t in range(1, ROWS):
            classes[t] = generator.choice(10, p=T[classes[t - 1]])
        shares = np.bincount(classes, minlength=10) / ROWS
        if shares.min() >= 0.03 and shares.max() <= 0.2:
            return classes


def nine(_seed: int) -> np.ndarray:
    """A cycle of the digits 0 to 8, learnt with ten classes."""
    return np.arange(ROWS) % 9


ORDERS: dict[str, Callable[[int], np.ndarray]] = {
    "in order": cyclic, "10 % random transitions": noisy, "uneven chain": uneven, "nine digits": nine,
}  # fmt: skip


def rows_for(classes: np.ndarray, seed: int) -> np.ndarray:
    """Return real digits of these classes; the 500 of each are used again once they are used up."""
    digits = load("mnist", count=5000, order="given")
    generator = np.random.default_rng(seed)
    pools = {k: np.flatnonzero(digits.categories == k) for k in range(10)}
    chosen = np.empty(len(classes), np.int64)
    for k, pool in pools.items():
        where = np.flatnonzero(classes == k)
        repeats = -(-len(where) // len(pool)) if len(where) else 0
        mixed = [generator.permutation(pool) for _ in range(repeats)]
        chosen[where] = np.concatenate([*mixed, np.empty(0, np.int64)])[: len(where)]
    return digits.observations[chosen]


def run(config: str, settings: list[str], runs: Path) -> dict[str, object]:
    """Train and return the result."""
    words = [sys.executable, "-m", "runner.cli", "run", str(ROOT / "configs" / config), "--runs", str(runs), "--json"]
    for setting in settings:
        words += ["--set", setting]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def cases(seeds: int, names: list[str]) -> Iterator[tuple[str, int, str, list[str]]]:
    """Yield what to run: a name, a seed, a config and its settings."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for seed in range(seeds):
                if name == "shuffled":
                    yield name, seed, "mnist.yaml", [f"seed={seed}", "data.order=shuffled"]
                elif name == "shuffled, without MM":
                    steps = "schedule.steps=[vae, {steps: [gmm], repeat: 10, tolerance: 5.0}]"  # mm never speaks
                    yield name, seed, "mnist.yaml", [f"seed={seed}", "data.order=shuffled", steps]
                elif name.endswith(".yaml"):
                    yield name, seed, name, [f"seed={seed}"]
                else:
                    classes = ORDERS[name](seed)
                    np.save(Path(folder, "rows.npy"), rows_for(classes, seed))
                    np.save(Path(folder, "classes.npy"), classes)
                    data = f"data={{source: files, observations: {folder}/rows.npy, categories: {folder}/classes.npy}}"
                    yield name, seed, "mnist.yaml", [f"seed={seed}", data]


def main() -> None:
    """Run the cases and print a line each, then the table."""
    every = [*ORDERS, "shuffled", "shuffled, without MM", "mnist.yaml", "vae_gmm.yaml", "tutorial.yaml", "digits.yaml"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=every, default=every)
    arguments = parser.parse_args()
    table: dict[str, list[dict[str, object]]] = {}
    with tempfile.TemporaryDirectory() as runs:
        for name, seed, config, settings in cases(arguments.seeds, arguments.only):
            result = run(config, settings, Path(runs))
            table.setdefault(name, []).append(result)
            print(f"{name:<24} seed {seed}  accuracy {result['accuracy']:.4f}  nmi {result['nmi']:.4f}  "
                  f"{result['seconds']:.1f} s", flush=True)  # fmt: skip
    print("\n| what | seeds | accuracy: least | median | NMI: least | seconds: median |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, results in table.items():
        accuracy, nmi, seconds = (
            np.array([result[key] for result in results], float) for key in ("accuracy", "nmi", "seconds")
        )
        print(f"| {name} | {len(results)} | {accuracy.min():.4f} | {np.median(accuracy):.4f} | {nmi.min():.4f} "
              f"| {np.median(seconds):.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
