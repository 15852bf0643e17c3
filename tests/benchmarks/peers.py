"""Seconds of a mixture and of a hidden Markov model beside those of other libraries, on the same rows.

``python -m tests.benchmarks.peers --rows 100000 1000000``: all in this process, in turn, with full covariances, float64
statistics, one thread each, and a fixed number of iterations from the same classes. The GMM (``vb``) stands beside
scikit-learn's GaussianMixture; GMM and MM, which exchange messages once an iteration, beside hmmlearn's GaussianHMM.
pomegranate is measured if it is installed. With ``--workers 2``, this project's modules have as many threads.

Printed are seconds, the ratio of this project's to the other's (median and range over repetitions), and how many rows
get the right class, by the best matching.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
from hmmlearn.hmm import GaussianHMM
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from runner.report.clustering_metrics import accuracy

try:
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel
except ImportError:
    GeneralMixtureModel = None

K, D = 10, 18


def made_rows(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (N, D) float64 of Gaussian classes, and their classes (N,), which mostly follow a cycle."""
    generator = np.random.default_rng(0)
    centres = 1.2 * generator.normal(size=(K, D))
    odd = generator.random(rows) < 0.1
    classes = np.where(odd, generator.integers(0, K, rows), np.arange(rows) % K)
    return centres[classes] + generator.normal(size=(rows, D)), classes


def ours(rows: np.ndarray, iterations: int, *, ordered: bool, workers: int | None) -> np.ndarray:
    """Return the classes (N,) of this project's modules after a number of iterations."""
    sharing = None if workers is None else Sharing(workers)
    settings = {"classes": K, "engine": "vb", "iterations": 1 if ordered else iterations, "prior_scale": "data"}
    specs = [
        ModuleSpec("data", "observation"),
        ModuleSpec("gmm", "gmm", {**settings, "start": "kmeans"}, sharing=sharing),
    ]
    pairs, steps = [Connection("data", "gmm")], [Step("gmm")]
    if ordered:
        specs.append(ModuleSpec("mm", "markov", {"rule": "smoothed"}, sharing=sharing))
        pairs.append(Connection("gmm", "mm"))
        steps = [Block((Step("gmm"), Step("mm")), repeat=iterations)]
    coordinator = Coordinator(Graph(specs, pairs, Schedule(1, tuple(steps))), InProcessBackend(), run="peers")
    coordinator.start({"data": {"values": rows}})
    coordinator.run_rounds()
    return np.asarray(coordinator.outputs("gmm")["class"])


def scikit_learn(rows: np.ndarray, iterations: int) -> np.ndarray:
    """Return the classes of scikit-learn's mixture."""
    return GaussianMixture(K, max_iter=iterations, tol=0, init_params="kmeans", random_state=0).fit_predict(rows)


def hmmlearn(rows: np.ndarray, iterations: int) -> np.ndarray:
    """Return the classes of hmmlearn's hidden Markov model, by smoothed posteriors."""
    model = GaussianHMM(K, "full", n_iter=iterations, tol=-np.inf, random_state=0).fit(rows)
    return model.predict_proba(rows).argmax(axis=1)


def pomegranate(rows: np.ndarray, iterations: int) -> np.ndarray:
    """Return the classes of pomegranate's mixture."""
    given = torch.from_numpy(rows)
    parts = [Normal(covariance_type="full").fit(given[start::K]) for start in range(K)]
    model = GeneralMixtureModel(parts, max_iter=iterations, tol=-1.0).fit(given)
    return model.predict(given).numpy()


def compare(name: str, rows: int, own: Callable[[], np.ndarray], other: Callable[[], np.ndarray], repeats: int) -> None:
    """Run both in turn, and print one line."""
    _, truth = made_rows(rows)
    seconds, right = [], [0.0, 0.0]
    for _ in range(repeats):
        pair = []
        for number, run in enumerate((own, other)):
            started = time.perf_counter()
            classes = run()
            pair.append(time.perf_counter() - started)
            right[number] = accuracy(classes, truth)
        seconds.append(pair)
    ratios = [a / b for a, b in seconds]
    middle = [statistics.median(each) for each in zip(*seconds, strict=True)]
    print(
        f"| {rows:,} | {name} | {middle[0]:.2f} | {middle[1]:.2f} | {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) | {right[0]:.3f}, {right[1]:.3f} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", ConvergenceWarning)  # the number of iterations is fixed
    workers, n = given.workers or None, given.iterations
    if GeneralMixtureModel is not None:
        torch.set_num_threads(1)
    ours(made_rows(5000)[0], 1, ordered=True, workers=workers)  # loads the compiled kernels
    print("| rows | beside | seconds | the other's | ratio | right rows |\n| --- | --- | --- | --- | --- | --- |")
    with threadpool_limits(1):
        for count in given.rows:
            rows, _ = made_rows(count)
            pairs = [
                ("scikit-learn's GaussianMixture", False, scikit_learn),
                ("hmmlearn's GaussianHMM", True, hmmlearn),
            ]
            if GeneralMixtureModel is not None:
                pairs.insert(1, ("pomegranate's GeneralMixtureModel", False, pomegranate))
            for name, ordered, other in pairs:

                def own(rows: np.ndarray = rows, ordered: bool = ordered) -> np.ndarray:
                    return ours(rows, n, ordered=ordered, workers=workers)

                compare(name, count, own, lambda rows=rows, other=other: other(rows, n), given.repeats)


if __name__ == "__main__":
    main()
