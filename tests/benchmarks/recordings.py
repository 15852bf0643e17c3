"""Real data beside other libraries: ``python -m tests.benchmarks.recordings {speech,motion,gestures,clothes}``.

``speech``: ``configs/speech.yaml`` on 2,400 spoken digits in cyclic order and 600 others out of order, beside hmmlearn,
scikit-learn's GaussianMixture and supervised quadratic discriminants (QDA). ``motion``: ``configs/motion.yaml`` on
mocap6; ``gestures``: ``configs/gestures.yaml`` on a watch's recordings; both beside hmmlearn and GaussianMixture (of
gestures on the same windows, and on rows), with the lengths of the segments of the most probable path. ``clothes``:
``configs/mnist_conv.yaml``, or the dense networks of ``mnist.yaml``, on 10,000 pictures of Fashion-MNIST in cyclic
order, without an order, and 2,000 others, beside QDA on the same latent vectors. Models run in this process, with the
same results as on Ray; no label reaches them. The data are those of docs/model_files.md, "Data of other packages".
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hmmlearn.hmm import GaussianHMM
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from runner.config.run_config import load_config
from runner.data.datasets import Dataset, load
from runner.data.sources import source_states
from runner.report.clustering_metrics import accuracy, nmi
from tests.benchmarks.durations import described, segment_lengths
from tests.benchmarks.durations import load as machine_load

CONFIGS = Path(__file__).parents[2] / "configs"
TRAINED = 2400
"""Spoken digits that are learnt from; the 600 others are recognized out of order."""
PICTURES, OTHERS = 10_000, 2_000
"""Pictures of clothes that are learnt from, and others that are recognized."""


def train(name: str, data: Dataset, seed: int, settings: Sequence[str] = ()) -> Coordinator:
    """Return a trained model of configs/ on these rows."""
    graph = load_config(CONFIGS / f"{name}.yaml", settings).graph
    coordinator = Coordinator(graph, InProcessBackend(), seed=seed)
    coordinator.start(source_states(graph, {"data": data}))
    coordinator.run_rounds()
    return coordinator


def answers(trained: Coordinator, data: Dataset, *, ordered: bool = False) -> Any:
    """Return the outputs of the modules for new rows, by module."""
    graph = trained.graph
    states = {name: trained.state(name) for name in graph.modules if name not in graph.sources}
    fresh = Coordinator(graph, InProcessBackend(), seed=0)
    return fresh.recognize(states, source_states(graph, {"data": data}), ordered=ordered)


def recognized(trained: Coordinator, data: Dataset) -> np.ndarray:
    """Return the classes (N,) of the mixture for new rows that have no order."""
    return np.asarray(answers(trained, data)["gmm"]["class"])


def best_hidden_markov(data: Dataset, classes: int, starts: int, seed: int) -> Any:
    """Return the EM fit of hmmlearn with the highest likelihood."""
    X, fits = data.observations.astype(np.float64), []
    for start in range(starts):
        hmm = GaussianHMM(classes, "full", n_iter=100, tol=1e-2, random_state=1000 * seed + start, min_covar=1e-3)
        try:
            fits.append((hmm.fit(X, data.lengths).score(X, data.lengths), -start, hmm))
        except ValueError:  # a covariance has become singular
            continue
    return max(fits)[2]


def print_speech(seeds: int) -> None:
    """Print accuracies in order, and of other recordings out of order."""
    data = load("spoken_digits", order="cyclic", count=TRAINED)
    others = load("spoken_digits", order="shuffled", offset=TRAINED // 10)
    own = {"in order": list[float](), "out of order": list[float]()}
    begun = time.process_time()
    for seed in range(seeds):
        trained = train("speech", data, seed)
        own["in order"].append(accuracy(trained.outputs("gmm")["class"], data.categories))
        own["out of order"].append(accuracy(recognized(trained, others), others.categories))
    print(f"\n{len(others.observations)} recordings out of order, {seeds} seeds, {machine_load()}\n")
    print("| method | in order: mean, least | out of order: mean, least |\n| --- | --- | --- |")
    cells = " | ".join(f"{np.mean(each):.4f}, {np.min(each):.4f}" for each in own.values())
    print(f"| `configs/speech.yaml` ({(time.process_time() - begun) / seeds:.1f} s) | {cells} |", flush=True)
    qda = QuadraticDiscriminantAnalysis().fit(data.observations, data.categories)
    print(f"| QDA, supervised | | {qda.score(others.observations, others.categories):.4f} |")
    hmms = [best_hidden_markov(data, 10, 3, seed) for seed in range(seeds)]
    mixtures = [GaussianMixture(10, n_init=3, random_state=seed).fit(data.observations) for seed in range(seeds)]
    for name, fits in (("hmmlearn, best of 3", hmms), ("GaussianMixture, best of 3", mixtures)):
        found = [accuracy(fit.predict(data.observations), data.categories) for fit in fits]
        print(f"| {name} | {np.mean(found):.4f}, {np.min(found):.4f} | |", flush=True)


def print_clothes(folder: str | None, seeds: int, model: str) -> None:
    """Print accuracies of pictures that were learnt from and of others, and those of QDA on their latent vectors."""

    def pictures(**options: Any) -> Dataset:
        return load("fashion_mnist", observations=folder, **options)

    skipped = PICTURES // 10  # of each class
    others = {order: pictures(order=order, offset=skipped, count=OTHERS) for order in ("cyclic", "shuffled")}
    names = ("learnt", "others in order", "others out of order", "QDA: learnt", "QDA: others")
    print(f"\n`{model}.yaml`, {PICTURES:,} pictures, {OTHERS:,} others, {seeds} seeds, {machine_load()}\n")
    print(f"| learnt from | {' | '.join(names)} | s |\n|{' --- |' * (len(names) + 2)}", flush=True)
    for order in ("cyclic", "shuffled"):
        found, begun = {name: list[float]() for name in names}, time.process_time()
        for seed in range(seeds):
            data = pictures(order=order, count=PICTURES)
            trained = train(model, data, seed, ["modules.vae.threads=1"])
            found["learnt"].append(accuracy(trained.outputs("gmm")["class"], data.categories))
            for name, kind in (("in order", "cyclic"), ("out of order", "shuffled")):
                outputs, rows = answers(trained, others[kind], ordered=kind == "cyclic"), others[kind]
                found[f"others {name}"].append(accuracy(outputs["gmm"]["class"], rows.categories))
            # Scaled, and with such a tol, as scikit-learn compares variances with an absolute number, 1e-4.
            qda = make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis(tol=1e-12))
            qda.fit(trained.outputs("vae")["z"], data.categories)
            found["QDA: learnt"].append(qda.score(trained.outputs("vae")["z"], data.categories))
            found["QDA: others"].append(qda.score(outputs["vae"]["z"], rows.categories))
            print("".join(f"| {each[-1]:.4f} " for each in found.values()) + f"| (seed {seed})", flush=True)
        cells = " | ".join(f"{np.mean(each):.4f}, {np.min(each):.4f}" for each in found.values())
        print(f"| {order} | {cells} | {(time.process_time() - begun) / seeds:.0f} |", flush=True)


def _paths(data: Dataset, path: np.ndarray) -> np.ndarray:
    """Return the lengths of the segments of a path, which end where sequences do."""
    assert data.lengths is not None
    return np.concatenate([segment_lengths(part) for part in np.split(path, np.cumsum(data.lengths)[:-1])])


def print_sequences(name: str, data: Dataset, classes: int, seeds: int) -> None:
    """Print accuracy and NMI of rows, and the lengths of segments, of each method; without a name of the libraries."""

    def composed(seed: int) -> tuple[np.ndarray, np.ndarray]:
        trained = train(name, data, seed)
        lowest = "gmm" if "gmm" in trained.graph.modules else "ar"
        return trained.outputs(lowest)["class"], trained.outputs("mm")["viterbi"]

    def hidden_markov(seed: int) -> tuple[np.ndarray, np.ndarray]:
        path = best_hidden_markov(data, classes, 3, seed).predict(data.observations, data.lengths)
        return path, path

    def mixture(seed: int) -> tuple[np.ndarray, np.ndarray]:
        found = GaussianMixture(classes, n_init=3, random_state=seed).fit_predict(data.observations)
        return found, found

    methods: dict[str, Callable[[int], tuple[np.ndarray, np.ndarray]]] = {
        f"`configs/{name}.yaml`": composed,
        "hmmlearn, best of 3": hidden_markov,
        "GaussianMixture, best of 3": mixture,
    }
    if not name:
        del methods["`configs/.yaml`"]
    true = _paths(data, data.categories)
    print(f"\n{len(data.observations):,} rows, {seeds} seeds, {machine_load()}\n")
    print("| method | accuracy: mean, least | NMI: mean | segments | their length: mean, median, 90 % | s |")
    print(f"| --- | --- | --- | --- | --- | --- |\n| truth | | | {len(true)} | {described(true)} | |", flush=True)
    for method, run in methods.items():
        begun = time.process_time()
        results = [run(seed) for seed in range(seeds)]
        seconds = (time.process_time() - begun) / seeds
        right = [accuracy(found, data.categories) for found, _ in results]
        shared = [nmi(found, data.categories) for found, _ in results]
        lengths = np.concatenate([_paths(data, path) for _, path in results])
        print(
            f"| {method} | {np.mean(right):.3f}, {np.min(right):.3f} | {np.mean(shared):.3f} "
            f"| {len(lengths) / seeds:.0f} | {described(lengths)} | {seconds:.0f} |",
            flush=True,
        )


def main() -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=("speech", "motion", "gestures", "clothes"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--archive", default="bnpy-0.1.7.tar.gz", help="of bnpy, for motion")
    parser.add_argument("--folder", help="with the files of dataset-fashion-mnist, for clothes")
    parser.add_argument("--model", choices=("mnist", "mnist_conv"), default="mnist_conv", help="for clothes")
    given = parser.parse_args()
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)  # it warns about starts that converge badly
    with threadpool_limits(1):
        if given.table == "speech":
            print_speech(given.seeds)
        elif given.table == "clothes":
            print_clothes(given.folder, given.seeds, given.model)
        elif given.table == "motion":
            print_sequences("motion", load("mocap6", observations=given.archive), 12, given.seeds)
        else:
            print_sequences("gestures", load_config(CONFIGS / "gestures.yaml").load_data()["data"], 7, given.seeds)
            print_sequences("", load("watch", subjects=[1, 2]), 7, min(given.seeds, 1))


if __name__ == "__main__":
    main()
