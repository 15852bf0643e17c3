"""Give many changed documents to the readers, in one process; prints its counts as it goes.

Usage: ``python -m tests.fuzz.many --inputs 1000000 --seed 1 [--only NAME,NAME]``. Each input has a seed of its own,
``SEED:NAME:NUMBER``, with which a finding is repeated. The time of an input is that of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.mutations import MAKERS
from tests.fuzz.targets import TARGETS
from tests.support.bounded import Watched

BLOCK = 250
"""Inputs of one reader in turn."""


class Tally:
    """What one reader was given.

    Parameters
    ----------
    target : Target
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self.watched = Watched()
        self.accepted = 0
        self.spent = 0.0
        self.findings: Counter[str] = Counter()

    def read(self, folder: Path, seed: int, count: int) -> None:
        """Read the next `count` inputs."""
        make, _ = MAKERS[self.target.name]
        started = time.process_time()
        for number in range(self.watched.calls, self.watched.calls + count):
            value = make(Random(f"{seed}:{self.target.name}:{number}"))
            try:
                self.accepted += bool(self.watched(lambda value=value: self.target.read(folder, value)))
            except Exception as error:
                self._report(error, value, f"{seed}:{self.target.name}:{number}")
        self.spent += time.process_time() - started

    def _report(self, error: Exception, value: Any, seed: str) -> None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} at {place.filename}:{place.lineno}"
        self.findings[kind] += 1
        if self.findings[kind] <= 3:
            print(f"FINDING {seed} {kind}: {error!s:.300}\n  input {value!r:.2000}", flush=True)

    def summary(self) -> dict[str, Any]:
        """Return the counts."""
        calls = max(self.watched.calls, 1)
        return {
            "inputs": self.watched.calls,
            "accepted": round(self.accepted / calls, 3),
            "per_cpu_second": round(calls / max(self.spent, 1e-9)),
            "max_seconds": round(self.watched.seconds, 3),
            "max_megabytes": round(self.watched.bytes / 1e6, 1),
            "findings": dict(self.findings),
        }


def read_many(inputs: int, seed: int, only: str = "", report_seconds: float = 20.0) -> list[Tally]:
    """Read `inputs` inputs in blocks, each reader in proportion to its share; print the counts now and then."""
    chosen = only.split(",") if only else list(MAKERS)
    tallies = [Tally(target) for target in TARGETS if target.name in MAKERS and target.name in chosen]
    total = sum(MAKERS[each.target.name][1] for each in tallies)
    folder = Path(tempfile.mkdtemp(prefix="serket-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    before = os.environ.get("SERKET_STATE_DIR")
    os.environ["SERKET_STATE_DIR"] = str(folder / "state")
    next_report, done = time.monotonic() + report_seconds, 0
    try:
        for each in tallies:
            if each.target.prepare:
                each.target.prepare(folder)
        while done < inputs:
            for each in tallies:
                count = min(max(BLOCK * MAKERS[each.target.name][1] // total, 1), inputs - done)
                each.read(folder, seed, count)
                done += count
            if time.monotonic() >= next_report or done >= inputs:
                next_report = time.monotonic() + report_seconds
                print(json.dumps({"done": done, **{each.target.name: each.summary() for each in tallies}}), flush=True)
    finally:
        os.environ.pop("SERKET_STATE_DIR", None)
        if before is not None:
            os.environ["SERKET_STATE_DIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
    return tallies


def main() -> None:
    """Run the command; exit status 1 if a reader broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    tallies = read_many(given.inputs, given.seed, given.only)
    raise SystemExit(any(each.findings for each in tallies))


if __name__ == "__main__":
    main()
