"""How seconds grow with rows, classes, dimensions, modules and workers, beside what the algorithms say.

``python -m tests.benchmarks.growth`` runs models in this process, and takes the processor time of a round (of the first
one, compilation and starts, nothing counts) with one thread. An exponent is the slope of log seconds over log size
between neighbouring sizes. Rows are made from a seed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import RoundStarted
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from tests.benchmarks.workers import made_rows

GMM = {"iterations": 1, "prior_scale": "data", "start": "random"}


@dataclass(frozen=True)
class Growth:
    """A quantity that grows: the sizes, the model that each gives, and the exponent that the algorithm has."""

    name: str
    sizes: Sequence[int]
    theory: str
    model: Mapping[str, Any] = field(default_factory=dict)
    vary: str = "rows"


def round_seconds(graph: Graph, values: np.ndarray, workers: int | None) -> float:
    """Return the median processor time of the rounds after the first one."""
    marks: list[float] = []

    def mark(event: object) -> None:
        if isinstance(event, RoundStarted):
            marks.append(time.process_time())

    coordinator = Coordinator(graph, InProcessBackend(workers=workers), run="growth", emit=mark)
    coordinator.start({"data": {"values": values}})
    coordinator.run_rounds()
    marks.append(time.process_time())
    return statistics.median(b - a for a, b in itertools.pairwise(marks[1:]))


def chain_of(modules: Mapping[str, tuple[str, dict[str, Any]]], sharing: Sharing | None, rounds: int) -> Graph:
    """Return a model in which each module learns from the one below it."""
    specs = [ModuleSpec("data", "observation")]
    specs += [ModuleSpec(name, kind, given, sharing=sharing) for name, (kind, given) in modules.items()]
    names = [spec.name for spec in specs]
    steps = tuple(Step(name) for name in names[1:])
    return Graph(specs, [Connection(*pair) for pair in itertools.pairwise(names)], Schedule(rounds, steps))


def mixtures_of(count: int, rounds: int) -> Graph:
    """Return a model of `count` modules: observations, mixtures, and a product that joins these."""
    names = [f"gmm{number}" for number in range(count - 2)]
    specs = [ModuleSpec("data", "observation"), *(ModuleSpec(name, "gmm", {**GMM, "engine": "vb"}) for name in names)]
    specs.append(ModuleSpec("product", "product"))
    edges = [Connection("data", name) for name in names] + [Connection(name, "product") for name in names]
    return Graph(specs, edges, Schedule(rounds, (*(Step(name) for name in names), Step("product"))))


def seconds_at(growth: Growth, size: int) -> float:
    """Return the processor time of a round at one size."""
    sizes = {"rows": 10_000, "classes": 10, "dimensions": 18, "workers": 1, **growth.model, growth.vary: size}
    values = made_rows(sizes["rows"], sizes["dimensions"])
    rounds = sizes.get("rounds", 3 if sizes["rows"] > 10**6 else 6)
    if growth.vary == "modules":
        return round_seconds(mixtures_of(size, rounds), values, None)
    gmm = {**GMM, "classes": sizes["classes"], "engine": sizes.get("engine", "vb")}
    modules: dict[str, tuple[str, dict[str, Any]]] = {"gmm": ("gmm", gmm)}
    if sizes.get("vae"):
        given = {"latent_dim": 10, "epochs": 1, "batch_size": 500, "hidden": 128, "likelihood": "mse"}
        modules = {"vae": ("vae", given)}
    elif sizes.get("above"):
        modules["mm"] = ("markov", {"rule": "smoothed"})
    shared = growth.vary == "workers" or sizes["rows"] > 10**6 or sizes.get("shared")
    graph = chain_of(modules, Sharing(sizes["workers"], sizes.get("chunk", 4096)) if shared else None, rounds)
    return round_seconds(graph, values, sizes["workers"] if shared else None)


ROWS = (1_000, 10_000, 100_000, 1_000_000)
CLASSES = (2, 10, 100, 1_000)
DIMENSIONS = (2, 16, 64, 256)

TABLE = [
    Growth("rows: GMM (vb), a worker", (*ROWS, 10_000_000), "1", {"shared": True}),
    Growth("rows: GMM (vb) and MM, a worker", (*ROWS, 10_000_000), "1", {"shared": True, "above": True}),
    Growth("rows: GMM (gibbs)", ROWS, "1", {"engine": "gibbs"}),
    Growth("rows: VAE, one epoch", ROWS[:3], "1", {"vae": True}),
    Growth("classes: GMM (vb)", CLASSES, "1", vary="classes"),
    Growth("classes: GMM (gibbs)", CLASSES, "1", {"engine": "gibbs"}, "classes"),
    Growth(
        "classes: GMM (vb) and MM, 2,000 rows",
        CLASSES,
        "1 to 2 (K² in the MM)",
        {"above": True, "rows": 2_000, "rounds": 3},
        "classes",
    ),
    Growth("dimensions: GMM (vb)", DIMENSIONS, "2 (D² a row and class)", vary="dimensions"),
    Growth("dimensions: GMM (gibbs)", DIMENSIONS, "2 (D² a row and class)", {"engine": "gibbs"}, "dimensions"),
    Growth("dimensions: VAE, one epoch", DIMENSIONS, "1", {"vae": True}, "dimensions"),
    Growth("modules: mixtures under a product", (3, 10, 25, 50), "1", {"rows": 1_000}, "modules"),
    Growth("workers: GMM (vb) and MM, 10^5 rows", (1, 2, 4, 8), "0", {"rows": 100_000, "above": True}, "workers"),
]
"""What is measured; sizes that are not named are 10,000 rows, 10 classes and 18 dimensions."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("quantities", nargs="*", help="beginnings of names in the table; by default all")
    parser.add_argument("--largest", type=int, default=10_000_000, help="leave out sizes above")
    given = parser.parse_args()
    print("| what grows | sizes | seconds of a round | exponents | theory |\n| --- | --- | --- | --- | --- |")
    with threadpool_limits(1):
        for growth in TABLE:
            if given.quantities and not growth.name.startswith(tuple(given.quantities)):
                continue
            sizes = [size for size in growth.sizes if size <= given.largest]
            seconds = [seconds_at(growth, size) for size in sizes]
            points = itertools.pairwise(zip(sizes, seconds, strict=True))
            slopes = [math.log(after[1] / before[1]) / math.log(after[0] / before[0]) for before, after in points]
            columns = [
                growth.name,
                ", ".join(f"{size:,}" for size in sizes),
                ", ".join(f"{each:.2g}" for each in seconds),
                ", ".join(f"{each:.2f}" for each in slopes),
                growth.theory,
            ]
            print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
