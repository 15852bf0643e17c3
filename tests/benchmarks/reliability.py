"""Whether probabilities of classes hold: ``python -m tests.benchmarks.reliability``.

Expected calibration errors (:mod:`runner.report.reliability`) of the model files, with and without ``calibrate``: of
the rows that a model learnt from, and of other rows in and out of order, beside the error of probabilities that hold on
as many rows. Models run in this process, with the same results as on Ray. `motion` needs the archive of bnpy
(``--archive``), `speech` and `gestures` the packages of the extra ``datasets``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from runner.config.run_config import load_config
from runner.data.datasets import Dataset, load
from runner.data.sources import Data as Sources
from runner.data.sources import scale_as_learnt, source_states
from runner.report.clustering_metrics import accuracy
from runner.report.reliability import reliability_of
from tests.benchmarks.orders import ORDERS, rows_for

CONFIGS = Path(__file__).parent.parent.parent / "configs"
DRAWS = 50
"""Draws of labels from a posterior, for the error of probabilities that hold."""
WRITTEN = {True: "yes", False: "no", None: "as written"}


class Data(NamedTuple):
    """Rows to learn from, in order, and other rows in the same order, by source."""

    learnt: Sources
    others: Sources | None


def _labelled(values: np.ndarray, classes: np.ndarray) -> Sources:
    return {"data": Dataset(values, classes, None, "made")}


def _built_in(source: str, count: int, offset: int, others: int | None) -> Callable[[int], Data]:
    def data(_seed: int) -> Data:
        learnt = load(source, count=count, order="cyclic")
        return Data({"data": learnt}, {"data": load(source, count=others, order="cyclic", offset=offset)})

    return data


def _pictures_and_words(_seed: int) -> Data:
    def both(**choice: Any) -> Sources:
        return {"pictures": load("mnist", **choice), "words": load("words", **choice)}

    return Data(both(count=3000, order="cyclic"), both(count=2000, order="cyclic", offset=300))


def _any_writers(seed: int) -> Data:
    """Return the digits with those to learn from drawn at random; in the file each writer's follow each other."""
    whole, rng = load("digits", order="cyclic"), np.random.default_rng(seed)
    X, categories = np.asarray(whole.observations), whole.categories
    assert categories is not None
    of_class = [rng.permutation(np.flatnonzero(categories == digit)) for digit in range(10)]
    learnt, others = (np.stack([rows[part] for rows in of_class], 1).ravel() for part in (slice(120), slice(120, 174)))
    return Data(_labelled(X[learnt], categories[learnt]), _labelled(X[others], categories[others]))


def _exercises(archive: Path | None, _seed: int) -> Data:
    if archive is None:
        raise SystemExit(
            "motion: give the archive of bnpy, --archive PATH (docs/model_files.md, data of other packages)"
        )
    return Data({"data": load("mocap6", observations=archive)}, None)


def _gestures(_seed: int) -> Data:
    """Return the windows of two people, and those of a third in their units."""
    learning = load_config(CONFIGS / "gestures.yaml")
    learnt = learning.load_data()
    others = load_config(CONFIGS / "gestures.yaml", ["data.subjects=[3]", "data.scale=none"]).load_data()
    return Data(learnt, scale_as_learnt(others, source_states(learning.graph, learnt)))


def cycle(rows: int, random: float, side: float = 4.0, others: int = 3000) -> Callable[[int], Data]:
    """Return rows around the corners of a square in turn; of a share of the steps, the next corner is random."""

    def data(seed: int) -> Data:
        rng, total = np.random.default_rng(seed), rows + others
        steps = np.where(rng.random(total) < random, rng.integers(0, 4, total), 1)
        classes = np.cumsum(steps) % 4
        corners = side * np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
        values = corners[classes] + rng.normal(size=(total, 2))
        return Data(_labelled(values[:rows], classes[:rows]), _labelled(values[rows:], classes[rows:]))

    return data


def _mnist_in(order: str) -> Callable[[int], Data]:
    def data(seed: int) -> Data:
        classes = ORDERS[order](seed)
        return Data(_labelled(rows_for(classes, seed), classes), _built_in("mnist", 3000, 300, 2000)(seed).others)

    return data


class Case(NamedTuple):
    """A model file, its data, and the module whose classes are measured."""

    config: str
    data: Callable[[int], Data]
    settings: tuple[str, ...] = ()
    module: str = "gmm"


ONE_THREAD = ("modules.vae.threads=1",)


def cases(archive: Path | None = None) -> Mapping[str, Case]:
    """Return what is measured, by name."""
    mnist = _built_in("mnist", 3000, 300, 2000)
    return {
        "hmm": Case("hmm.yaml", cycle(100, 0.0)),
        "hmm, 1,000 rows": Case("hmm.yaml", cycle(1000, 0.0)),
        "hmm, 1,000 rows, 10 % off the cycle": Case("hmm.yaml", cycle(1000, 0.1)),
        "digits": Case("digits.yaml", _built_in("digits", 1200, 120, 540), ONE_THREAD),
        "digits, any writers": Case("digits.yaml", _any_writers, ONE_THREAD),
        "speech": Case("speech.yaml", _built_in("spoken_digits", 2400, 240, None)),
        "many_classes": Case("many_classes.yaml", _built_in("clumps", 15600, 600, None)),
        "motion": Case("motion.yaml", partial(_exercises, archive), module="ar"),
        "gestures": Case("gestures.yaml", _gestures),
        "mnist": Case("mnist.yaml", mnist, ONE_THREAD),
        "mnist_conv": Case("mnist_conv.yaml", mnist, ONE_THREAD),
        "mnist, 10 % random transitions": Case("mnist.yaml", _mnist_in("10 % random transitions"), ONE_THREAD),
        "vae_gmm_mlda": Case("vae_gmm_mlda.yaml", _pictures_and_words, ONE_THREAD),
    }


def results(case: Case, seed: int, calibrate: bool | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield what was classified, the posterior (N, K) and the categories (N,)."""
    settings = [*case.settings]
    if calibrate is not None:
        settings.append(f"modules.{case.module}.calibrate={str(calibrate).lower()}")
    graph, data = load_config(CONFIGS / case.config, settings).graph, case.data(seed)
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start(source_states(graph, data.learnt))
    coordinator.run_rounds()
    yield "learnt, in order", coordinator.outputs(case.module)["Pdz"], categories_of(data.learnt)
    states = {name: coordinator.state(name) for name in graph.modules if name not in graph.sources}
    for what, rows, ordered in (
        ("learnt, out of order", data.learnt, False),
        ("others, in order", data.others, True),
        ("others, out of order", data.others, False),
    ):
        if rows is not None:
            yield what, recognized(graph, states, rows, ordered, case.module), categories_of(rows)


def categories_of(rows: Sources) -> np.ndarray:
    """Return the categories (N,) of rows."""
    (found, *_) = (each.categories for each in rows.values() if each.categories is not None)
    return np.asarray(found)


def recognized(
    graph: Graph, states: Mapping[str, Any], rows: Sources, ordered: bool, module: str = "gmm"
) -> np.ndarray:
    """Return the posterior (N, K) of a module for other rows."""
    coordinator = Coordinator(graph, InProcessBackend())
    return np.asarray(coordinator.recognize(states, source_states(graph, rows), ordered=ordered)[module]["Pdz"])


def error_where_they_hold(posterior: np.ndarray, seed: int = 0) -> float:
    """Return the mean calibration error of this posterior (N, K) for labels that are drawn from it."""
    rng, cumulative = np.random.default_rng(seed), posterior.cumsum(axis=1)
    classes = posterior.shape[1]
    drawn = [np.minimum((rng.random((len(posterior), 1)) > cumulative).sum(axis=1), classes - 1) for _ in range(DRAWS)]
    return float(np.mean([reliability_of(posterior, each).ece for each in drawn]))


def print_table(
    measured: Mapping[str, Case], seeds: int, calibrated: tuple[bool | None, ...], save: Path | None
) -> None:
    """Print means over seeds of accuracy, mean confidence and calibration errors, and the largest of these."""
    print(f"\n{seeds} seeds\n")
    print("| model | calibrate | rows | accuracy | confidence | ECE | largest | if they held | of equal mass |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, case in measured.items():
        for calibrate in calibrated:
            table: dict[str, list[tuple[float, ...]]] = {}
            begun = time.process_time()
            for seed in range(seeds):
                for what, posterior, categories in results(case, seed, calibrate):
                    if save is not None:
                        path = save / f"{name} {calibrate} {seed} {what}.npz"
                        np.savez(path, posterior=posterior, categories=categories)
                    errors = [reliability_of(posterior, categories, binning=each).ece for each in ("width", "mass")]
                    right, sure = accuracy(posterior.argmax(axis=1), categories), float(posterior.max(axis=1).mean())
                    table.setdefault(what, []).append((right, sure, *errors, error_where_they_hold(posterior)))
            for what, values in table.items():
                right, sure, width, mass, holding = np.transpose(values)
                print(
                    f"| {name} | {WRITTEN[calibrate]} | {what} | {right.mean():.4f} | {sure.mean():.4f} "
                    f"| {width.mean():.4f} | {width.max():.4f} | {holding.mean():.4f} | {mass.mean():.4f} |",
                    flush=True,
                )
            print(f"<!-- {(time.process_time() - begun) / seeds:.1f} s of processor time a seed -->", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(cases()), default=list(cases()))
    parser.add_argument("--as-written", action="store_true", help="only as the model files have it")
    parser.add_argument("--archive", type=Path, help="the archive of bnpy")
    parser.add_argument("--save", type=Path, help="a directory for the posteriors")
    arguments = parser.parse_args()
    measured = {name: case for name, case in cases(arguments.archive).items() if name in arguments.only}
    print_table(measured, arguments.seeds, (None,) if arguments.as_written else (True, False), arguments.save)


if __name__ == "__main__":
    main()
