"""Fuzz one reader with atheris, which prefers inputs that reach new lines.

Usage: ``python -m tests.fuzz.coverage_guided NAME FOLDER [-runs=N and other options of libFuzzer]``. The bytes that
atheris makes decide what hypothesis draws from the reader's strategy.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        "actors.messaging",
        "actors.storage",
        "actors.variables",
        "runner.cli",
        "runner.config",
        "runner.data",
        "runner.runs",
    ]
):
    from tests.fuzz.targets import TARGETS

from hypothesis import HealthCheck, given, settings

from tests.support.bounded import Watched


def main() -> None:
    """Fuzz until the number of runs is reached or an input breaks the reader."""
    name, folder, *options = sys.argv[1:]
    target = next(each for each in TARGETS if each.name == name)
    watched = Watched()
    if target.prepare:
        target.prepare(Path(folder))

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def read(value):
        watched(lambda: target.read(Path(folder), value))

    atheris.Setup([sys.argv[0], *options], read.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
