"""Whether probabilities of classes hold: ``python -m tests.benchmarks.reliability``.

Expected calibration errors (:mod:`runner.report.reliability`) of the model files, with and without ``calibrate``: of
the rows that a model learnt from, and of other rows in and out of order. Models run in this process, with the same
results as on Ray.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from runner.config.run_config import load_config
from runner.data.datasets import load
from runner.report.clustering_metrics import accuracy
from runner.report.reliability import reliability_of
from tests.benchmarks.orders import ORDERS, rows_for

CONFIGS = Path(__file__).parent.parent.parent / "configs"


class Rows(NamedTuple):
    """Rows (N, …), and their categories (N,)."""

    values: np.ndarray
    categories: np.ndarray


class Data(NamedTuple):
    """Rows to learn from, in order, and other rows in the same order."""

    learnt: Rows
    others: Rows


def _built_in(source: str, count: int, offset: int, others: int) -> Callable[[int], Data]:
    def data(_seed: int) -> Data:
        first = load(source, count=count, order="cyclic")
        second = load(source, count=others, order="cyclic", offset=offset)
        return Data(*(Rows(np.asarray(each.observations), np.asarray(each.categories)) for each in (first, second)))

    return data


def cycle(rows: int, random: float, side: float = 4.0, others: int = 3000) -> Callable[[int], Data]:
    """Return rows around the corners of a square in turn; of a share of the steps, the next corner is random."""

    def data(seed: int) -> Data:
        rng, total = np.random.default_rng(seed), rows + others
        steps = np.where(rng.random(total) < random, rng.integers(0, 4, total), 1)
        classes = np.cumsum(steps) % 4
        corners = side * np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
        values = corners[classes] + rng.normal(size=(total, 2))
        return Data(Rows(values[:rows], classes[:rows]), Rows(values[rows:], classes[rows:]))

    return data


def _mnist_in(order: str) -> Callable[[int], Data]:
    def data(seed: int) -> Data:
        classes, built_in = ORDERS[order](seed), _built_in("mnist", 3000, 300, 2000)(seed)
        return Data(Rows(rows_for(classes, seed), classes), built_in.others)

    return data


class Case(NamedTuple):
    """A model file and its data."""

    config: str
    data: Callable[[int], Data]
    settings: tuple[str, ...] = ()


CASES: Mapping[str, Case] = {
    "hmm": Case("hmm.yaml", cycle(100, 0.0)),
    "hmm, 1,000 rows": Case("hmm.yaml", cycle(1000, 0.0)),
    "hmm, 1,000 rows, 10 % off the cycle": Case("hmm.yaml", cycle(1000, 0.1)),
    "digits": Case("digits.yaml", _built_in("digits", 1200, 120, 540), ("modules.vae.threads=1",)),
    "mnist": Case("mnist.yaml", _built_in("mnist", 3000, 300, 2000), ("modules.vae.threads=1",)),
    "mnist, 10 % random transitions": Case(
        "mnist.yaml", _mnist_in("10 % random transitions"), ("modules.vae.threads=1",)
    ),
}


def results(case: Case, seed: int, calibrate: bool) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield what was classified, the posterior (N, K) and the categories (N,)."""
    settings = [*case.settings, f"modules.gmm.calibrate={str(calibrate).lower()}"]
    graph, data = load_config(CONFIGS / case.config, settings).graph, case.data(seed)
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start({"data": {"values": data.learnt.values}})
    coordinator.run_rounds()
    yield "learnt, in order", coordinator.outputs("gmm")["Pdz"], data.learnt.categories
    states = {name: coordinator.state(name) for name in graph.modules if name not in graph.sources}
    for what, rows, ordered in (
        ("learnt, out of order", data.learnt, False),
        ("others, in order", data.others, True),
        ("others, out of order", data.others, False),
    ):
        yield what, recognized(graph, states, rows.values, ordered), rows.categories


def recognized(graph: Graph, states: Mapping[str, object], values: np.ndarray, ordered: bool) -> np.ndarray:
    """Return the posterior (N, K) of the GMM for other rows."""
    coordinator = Coordinator(graph, InProcessBackend())
    return coordinator.recognize(states, {"data": {"values": values}}, ordered=ordered)["gmm"]["Pdz"]


def print_table(names: list[str], seeds: int, save: Path | None) -> None:
    """Print means over seeds of accuracy, mean confidence and calibration errors, and the largest of these."""
    print(f"\n{seeds} seeds\n")
    print("| model | calibrate | rows | accuracy | confidence | ECE: mean | largest | of equal mass: mean |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in names:
        for calibrate in (True, False):
            table: dict[str, list[tuple[float, ...]]] = {}
            for seed in range(seeds):
                for what, posterior, categories in results(CASES[name], seed, calibrate):
                    if save is not None:
                        path = save / f"{name} {calibrate} {seed} {what}.npz"
                        np.savez(path, posterior=posterior, categories=categories)
                    errors = [reliability_of(posterior, categories, binning=each).ece for each in ("width", "mass")]
                    right, sure = accuracy(posterior.argmax(axis=1), categories), float(posterior.max(axis=1).mean())
                    table.setdefault(what, []).append((right, sure, *errors))
            for what, values in table.items():
                right, sure, width, mass = np.transpose(values)
                print(
                    f"| {name} | {'yes' if calibrate else 'no'} | {what} | {right.mean():.4f} | {sure.mean():.4f} "
                    f"| {width.mean():.4f} | {width.max():.4f} | {mass.mean():.4f} |",
                    flush=True,
                )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--save", type=Path, help="a directory for the posteriors")
    arguments = parser.parse_args()
    print_table(arguments.only, arguments.seeds, arguments.save)


if __name__ == "__main__":
    main()
