"""Measure this project's code beside other code in turn, in one process, and report ratios of their seconds.

Machines differ, and other processes slow a machine from one second to the next. Two things that run in turn are slowed
alike, so that the ratio of their seconds says more than either of them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""Clocks by name: ``wall``, or ``processor`` time of all threads, which suffers less from other processes."""


@dataclass(frozen=True)
class Case:
    """Something of this project, and what it is compared with.

    Parameters
    ----------
    name : str
        What runs, with its sizes.
    ours, other : callable
        Do the same work. Called in turn, without arguments; what they return is discarded.
    note : str
        What `other` is.
    """

    name: str
    ours: Callable[[], object]
    other: Callable[[], object]
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """The outcome of a case: medians of seconds, and the median and the quartiles of the ratio ours / other."""

    name: str
    note: str
    ours_seconds: float
    other_seconds: float
    ratio: float
    low: float
    high: float
    repeats: int


def measure(case: Case, *, seconds: float = 5.0, repeats: tuple[int, int] = (5, 200), clock: str = "wall") -> Measured:
    """Run both sides of a case in turn, and compare them.

    Parameters
    ----------
    case : Case
    seconds : float
        How long to repeat, within the limits of `repeats`.
    repeats : tuple of int
        Least and greatest number of pairs; one before them is not counted. Every second pair begins with `other`.
    clock : {"wall", "processor"}
    """
    now, began, pairs = CLOCKS[clock], time.perf_counter(), []
    case.ours()
    case.other()
    while len(pairs) < repeats[0] or (len(pairs) < repeats[1] and time.perf_counter() - began < seconds):
        pair = [0.0, 0.0]
        sides = [(0, case.ours), (1, case.other)]
        for side, run in sides[:: -1 if len(pairs) % 2 else 1]:
            started = now()
            run()
            pair[side] = now() - started
        pairs.append(pair)
    ratios = [ours / other for ours, other in pairs]
    low, ratio, high = (float(each) for each in np.quantile(ratios, [0.25, 0.5, 0.75]))
    ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Measured(case.name, case.note, ours, other, ratio, low, high, len(pairs))


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, load, versions."""
    import numba
    import torch

    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            **{each.__name__: each.__version__ for each in (numba, np, torch)},
        },
    }


def _lines(path: str) -> Sequence[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return ()


HEADER = "| case | beside | ms | the other's ms | ratio | quartiles | pairs |\n|" + " --- |" * 7


def table_row(measured: Measured) -> str:
    """Return one row of the table under :data:`HEADER`."""
    ours, other = 1e3 * measured.ours_seconds, 1e3 * measured.other_seconds
    return (
        f"| {measured.name} | {measured.note} | {ours:.3g} | {other:.3g} | {measured.ratio:.2f} "
        f"| {measured.low:.2f} to {measured.high:.2f} | {measured.repeats} |"
    )


def write_json(path: Path, results: Iterable[Measured], before: Mapping[str, Any]) -> None:
    """Write the figures with the machine on which they were measured; `before` is :func:`machine` before them."""
    given = {"machine": dict(before), "load_after": os.getloadavg()[0], "cases": [asdict(each) for each in results]}
    path.write_text(json.dumps(given, indent=1) + "\n")


def exceeded(results: Iterable[Measured], limits: Mapping[str, float]) -> list[str]:
    """Return a sentence for each case whose ratio exceeds its limit, and for each limit without a case.

    Compared is the lower quartile, so that a few slow repetitions do not count.
    """
    by_name = {each.name: each for each in results}
    unknown = [f"{name}: has a limit, but was not measured" for name in limits if name not in by_name]
    return unknown + [
        f"{name}: {by_name[name].low:.2f} times the seconds of {by_name[name].note} (lower quartile), more than {limit}"
        for name, limit in limits.items()
        if name in by_name and by_name[name].low > limit
    ]
