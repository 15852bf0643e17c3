"""Run the benchmarks that compare code in turn: ``make bench``, or ``python -m tests.benchmarks [SUITE …]``.

Prints a table, and writes the same figures as JSON with ``--json FILE``. ``--guard`` ends with status 1 if a ratio is
above its limit in ``limits.json``, which is about twice what was measured: CI runs it on machines of any load.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from threadpoolctl import threadpool_limits

from tests.benchmarks.harness import CLOCKS, HEADER, exceeded, machine, measure, table_row, write_json

SUITES = ("mixture", "hmm_kernels", "vae", "mlda", "codec", "routing")
"""Modules of this package with a function ``cases``."""

LIMITS = Path(__file__).with_name("limits.json")


def main() -> None:
    """Measure, print, and compare with the limits."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"any of {', '.join(SUITES)}; by default all")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to repeat a case (default: 5)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--guard", action="store_true", help="measure the cases with limits, and hold them to these")
    given = parser.parse_args()
    if unknown := set(given.suites) - set(SUITES):
        parser.error(f"no suite {', '.join(sorted(unknown))}: give any of {', '.join(SUITES)}")
    limits = json.loads(LIMITS.read_text()) if given.guard else {}
    before, results = machine(), []
    print(f"{before['processor']}, {before['cores']} cores, load {before['load']:.1f}, {given.clock} time\n\n{HEADER}")
    with threadpool_limits(1):
        for suite in given.suites or SUITES:
            for case in importlib.import_module(f"tests.benchmarks.{suite}").cases():
                if not given.guard or case.name in limits:
                    results.append(measure(case, seconds=given.seconds, clock=given.clock))
                    print(table_row(results[-1]), flush=True)
    if given.json:
        write_json(given.json, results, before)
    problems = exceeded(results, limits)
    print(*problems, sep="\n", file=sys.stderr, end="\n" if problems else "")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
