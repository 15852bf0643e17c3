"""Accuracy and run time of whole runs, controls and other methods: ``python -m tests.benchmarks.accuracy``.

Each row of the table is a set of runs of ``serket run`` with different seeds. The controls show how much of the
accuracy is due to the order of the rows. ``--curve PNG`` draws accuracy against seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from runner.data.datasets import load
from runner.report.clustering_metrics import match, score
from tests.benchmarks import other_methods
from tests.benchmarks.orders import ORDERS, ROWS, rows_for

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ("mnist.yaml", "mnist_conv.yaml", "vae_gmm.yaml", "tutorial.yaml", "digits.yaml")
SUFFIX = ", not calibrated"
NOT_CALIBRATED = tuple(name + SUFFIX for name in ("in order", *ORDERS, "shuffled"))
SHUFFLED = ("shuffled", "shuffled, without MM")
OTHER_METHODS = tuple(other_methods.METHODS)
IN_ORDER = ("mnist.yaml", "mnist_conv.yaml")
UNSEEN = ("2,000 others in order", "2,000 others out of order")


def serket(*arguments: object) -> dict[str, Any]:
    """Run a ``serket`` command and return its result."""
    command = [sys.executable, "-m", "runner.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def train(config: str, settings: list[str], runs: Path) -> dict[str, Any]:
    """Train the model of a model file and return the result."""
    options = [argument for setting in settings for argument in ("--set", setting)]
    return serket("run", ROOT / "configs" / config, "--runs", runs, *options)


def train_on(order: str, seed: int, settings: list[str], runs: Path) -> dict[str, Any]:
    """Train on MNIST digits in another order and return the result."""
    classes = ORDERS[order](seed)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "rows.npy"), rows_for(classes, seed))
        np.save(Path(folder, "classes.npy"), classes)
        data = f"data={{source: files, observations: {folder}/rows.npy, categories: {folder}/classes.npy}}"
        return train("mnist.yaml", [f"seed={seed}", data, *settings], runs)


def one_cycle(transitions: np.ndarray, classes: np.ndarray, categories: np.ndarray) -> bool:
    """Return whether the most probable successor of each class is the next digit."""
    digit = match(classes, categories)
    successors = transitions.argmax(axis=1)
    return len(digit) == len(successors) and all(digit[int(successors[k])] == (d + 1) % 10 for k, d in digit.items())


def in_order(seed: int, runs: Path, config: str = "mnist.yaml") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the results of training on digits in order and, for the reference task, of recognizing other digits."""
    result = train(config, [f"seed={seed}"], runs)
    path = runs / result["run"]
    if config in IN_ORDER:
        labels = load("mnist", count=ROWS, order="cyclic").categories
        transitions = np.loadtxt(path / "module003_mm" / "trans_prob_learn.txt")
        result["cycle"] = one_cycle(transitions, np.loadtxt(path / "module002_gmm" / "class_learn.txt"), labels)
    yield config, result
    if config in IN_ORDER:
        for name, options in zip(UNSEEN, ([], ["--unordered"]), strict=True):
            started = time.time()
            recognized = serket("recognize", path, "mnist", "--offset", 300, *options)
            yield f"{config}: {name}", {**recognized, "seconds": time.time() - started}


@cache
def latents(seed: int, runs: Path) -> tuple[np.ndarray, float]:
    """Return the latent vectors of the reference model's VAE trained alone, and the seconds that this took."""
    result = train("mnist.yaml", [f"seed={seed}", "schedule.steps=[vae]"], runs)
    return np.loadtxt(runs / result["run"] / "module001_vae" / "z_learn.txt"), result["seconds"]


def results(name: str, seed: int, runs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the results of one case with one seed, each with the name of its row in the table."""
    if name in CONFIGS:
        yield from in_order(seed, runs, name)
    elif name in SHUFFLED:
        # Without MM: the same starts and sweeps, but mm is never updated and sends no messages.
        alone = [] if name == "shuffled" else ["schedule.steps.1={steps: [gmm], repeat: 10, tolerance: 5.0, chains: 2}"]
        yield name, train("mnist.yaml", [f"seed={seed}", "data.order=shuffled", *alone], runs)
    elif name in NOT_CALIBRATED:
        order, settings = name.removesuffix(SUFFIX), ["modules.gmm.calibrate=false"]
        if order in ORDERS:
            yield name, train_on(order, seed, settings, runs)
        else:
            data_order = "shuffled" if order == "shuffled" else "cyclic"
            yield name, train("mnist.yaml", [f"seed={seed}", f"data.order={data_order}", *settings], runs)
    elif name in OTHER_METHODS:
        Z, seconds = latents(seed, runs)
        started = time.time()
        scores = score(other_methods.METHODS[name](Z), load("mnist", count=ROWS, order="cyclic").categories)
        seconds += time.time() - started
        yield name, {"accuracy": scores.accuracy, "nmi": scores.nmi, "seconds": seconds}
    else:
        yield name, train_on(name, seed, [], runs)


def print_table(table: dict[str, list[dict[str, Any]]]) -> None:
    """Print one row for each case, and the confidence interval of the paired difference on shuffled rows."""
    print("\n| case | seeds | accuracy: least | median | NMI: least | seconds: median | most |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in table.items():
        accuracy, nmi, seconds = (
            np.array([result[key] for result in row], float) for key in ("accuracy", "nmi", "seconds")
        )
        print(f"| {name} | {len(row)} | {accuracy.min():.4f} | {np.median(accuracy):.4f} | {nmi.min():.4f} "
              f"| {np.median(seconds):.1f} | {seconds.max():.1f} |")  # fmt: skip
    for name in IN_ORDER:
        if cycles := [result["cycle"] for result in table.get(name, ())]:
            print(f"\n{name}: the transitions' argmax is the ten-cycle in {sum(cycles)} of {len(cycles)} seeds")
    pairs = [[result["accuracy"] for result in table[name]] for name in SHUFFLED if name in table]
    if len(pairs) == 2 and len(pairs[0]) > 1:
        difference = np.subtract(*pairs)
        half_width = student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
        print(f"\nshuffled, with MM minus without: {difference.mean():+.4f} ± {half_width:.4f} (95 %)")


def accuracy_curve(path: Path, seconds: float) -> list[tuple[float, float]]:
    """Return (seconds since the start of the process, accuracy) of each round of a run that took `seconds` in total."""
    events = [json.loads(line) for line in (path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    ended = (path / "result.json").stat().st_mtime
    return [(e["time"] - (ended - seconds), e["accuracy"]) for e in events if e["event"] == "scores"]


def draw_curves(curves: dict[str, list[list[tuple[float, float]]]], path: Path) -> None:
    """Draw accuracy against seconds, one line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds since the start of the command", ylabel="accuracy", ylim=(0.0, 1.02))
    for colour, (name, runs) in enumerate(curves.items()):
        for number, points in enumerate(runs):
            label = f"{name}, {len(runs)} seed{'s' * (len(runs) != 1)}" if number == 0 else None
            axes.plot(*zip(*points, strict=True), "o-", ms=3, lw=1, alpha=0.7, color=f"C{colour}", label=label)
    axes.set_xlim(0.0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the cases, print one line for each result, and then the table."""
    cases = [*CONFIGS, *ORDERS, *SHUFFLED, *NOT_CALIBRATED, *OTHER_METHODS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", choices=cases, default=cases)
    parser.add_argument("--curve", type=Path, help="PNG file for the plot of accuracy against seconds")
    arguments = parser.parse_args()
    table: dict[str, list[dict[str, Any]]] = {}
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        for case in arguments.only:
            for seed in range(arguments.seeds):
                for name, result in results(case, seed, runs):
                    table.setdefault(name, []).append(result)
                    if name in CONFIGS:
                        curves.setdefault(name, []).append(accuracy_curve(runs / result["run"], result["seconds"]))
                    print(f"{name:<42} seed {seed}  accuracy {result['accuracy']:.4f}  nmi {result['nmi']:.4f}  "
                          f"{result['seconds']:.1f} s", flush=True)  # fmt: skip
    print_table(table)
    if arguments.curve and curves:
        draw_curves(curves, arguments.curve)


if __name__ == "__main__":
    main()
