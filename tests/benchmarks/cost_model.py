"""A model of the seconds of an exchange of GMM and MM that workers share: fitted here, checked here, extrapolated.

``python -m tests.benchmarks.cost_model`` runs GMM (``vb``) and MM on made rows with W workers each, on a cluster of C
cores of this machine, and fits by least squares of the relative errors

    seconds = row · N / min(W, C) + worker · W + constant,            row, worker, constant ≥ 0,

with ``row`` the time for one row in all passes of an exchange (its flops and bytes of memory), ``worker`` what each
worker costs the driver and the first worker (calls, and the parts of sums that are sent and added), and ``constant``
what does not depend on either. Sizes that the fit has not seen tell its error. Extrapolated, min(W, C) is W: the
coefficients of this machine with more of the same. Bytes and flops beside it are counted, not measured.
"""

from __future__ import annotations

import argparse
import os
import statistics

import numpy as np
from scipy.optimize import nnls

from actors.coordination.session import RunSpec
from tests.benchmarks.workers import MODELS, made_rows, model

FITTED = [(50_000, 1), (50_000, 2), (50_000, 4), (50_000, 8), (200_000, 1), (200_000, 2), (200_000, 8), (400_000, 2),
          (400_000, 4)]  # fmt: skip
CHECKED = [(100_000, 3), (300_000, 2), (300_000, 6), (400_000, 1)]
K, D, PASSES = 10, 18, 5
CHUNK = 4096


def seconds_of(rows: int, workers: int, rounds: int) -> float:
    """Return the median over rounds, but the first, of the seconds of GMM and MM."""
    from runner.runs.coordinator_client import CoordinatorClient

    graph = model(MODELS["gmm (vb) + mm"], workers, CHUNK, rounds=rounds, exchanges=1)
    client = CoordinatorClient.launch(RunSpec(graph, "cost", 0, None), patience=30.0)
    spent: dict[int, float] = {}
    try:
        for events, _ in client.begin({"data": {"values": made_rows(rows, D, K)}}):
            for timed in events:
                event = timed.event
                if event.event == "updated" and event.module in ("gmm", "mm"):
                    spent[event.round] = spent.get(event.round, 0.0) + event.seconds
    finally:
        client.stop()
    return statistics.median(seconds for number, seconds in spent.items() if number > 1)


def terms(rows: int, workers: int, cores: int) -> list[float]:
    """Return what the coefficients are multiplied by."""
    return [rows / min(workers, cores), float(workers), 1.0]


def statistics_bytes() -> int:
    """Return the bytes of the sums of one node of the tree, one pass: counts, sums and products of rows, float64."""
    return 8 * K * (1 + D + D * D)


def row_flops() -> int:
    """Return the floating-point operations for one row in an exchange.

    Each pass of the GMM solves K triangular systems and adds K outer products, D² multiplications and additions each;
    forward-backward of the MM takes 3 K² of both, and the operators of a sequence over several chunks another K³.
    """
    return (PASSES + 1) * 2 * K * 2 * D * D + 2 * 3 * K * K + 2 * K**3


def main() -> None:
    """Fit, check and extrapolate."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    import ray

    from actors.backends.ray.temporary import ray_directory
    from runner.cluster.connection import worker_environment

    os.environ.update(worker_environment())
    ray.init(
        address="local", num_cpus=given.cores, include_dashboard=False, log_to_driver=False, _temp_dir=ray_directory()
    )
    try:
        measured = {}
        for size in [*FITTED, *CHECKED]:
            measured[size] = seconds_of(*size, given.rounds)
            print(f"{size[0]:,} rows, {size[1]} workers: {measured[size]:.2f} s", flush=True)
    finally:
        ray.shutdown()
    design = np.array([terms(*size, given.cores) for size in FITTED])
    target = np.array([measured[size] for size in FITTED])
    coefficients, _ = nnls(design / target[:, None], np.ones(len(target)))
    row, worker, constant = coefficients
    print(f"row {1e6 * row:.2f} µs, worker {1e3 * worker:.1f} ms, constant {1e3 * constant:.0f} ms")
    print("| rows | workers | seconds | model | error | |\n| --- | --- | --- | --- | --- | --- |")
    errors = []
    for size, seconds in measured.items():
        predicted = float(np.dot(coefficients, terms(*size, given.cores)))
        error = predicted / seconds - 1
        errors += [abs(error)] if size in CHECKED else []
        seen = "not seen by the fit" if size in CHECKED else ""
        print(f"| {size[0]:,} | {size[1]} | {seconds:.2f} | {predicted:.2f} | {error:+.0%} | {seen} |")
    print(f"sizes not seen: mean error {np.mean(errors):.0%}, largest {max(errors):.0%}")
    nodes = 2 * np.log2(1e9 / CHUNK)
    print(
        f"a row {row_flops():,} flops, {row_flops() / row / 1e9:.1f} Gflop/s a core; a worker and pass at most "
        f"{nodes * statistics_bytes() / 1e3:,.0f} KB up ({statistics_bytes() / 1e3:.0f} KB a node of the tree)"
    )
    print("| rows | workers | model | rows | workers | constant |\n| --- | --- | --- | --- | --- | --- |")
    for rows, workers in ((10**7, 8), (10**8, 64), (10**9, 64), (10**9, 1024)):
        parts = coefficients * terms(rows, workers, workers)
        print(f"| {rows:,} | {workers:,} | {parts.sum():.1f} s | " + " | ".join(f"{part:.1f}" for part in parts) + " |")
    best, least = np.sqrt(row * 1e9 / max(worker, 1e-12)), 2 * np.sqrt(row * worker * 1e9) + constant
    print(f"10^9 rows are fastest with {best:,.0f} workers, {least:.1f} s an exchange")


if __name__ == "__main__":
    main()
