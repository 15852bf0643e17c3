"""Fuzz one reader with atheris, which prefers inputs that reach new lines.

Usage: ``python -m tests.fuzz.coverage_guided NAME FOLDER [-runs=N and other options of libFuzzer]``. The bytes that
atheris makes decide what is drawn: by the maker of :mod:`tests.fuzz.mutations`, or, for one input in four, by
hypothesis from the reader's strategy.
"""

import sys
from pathlib import Path
from random import Random

import atheris

import actors.modules.markov
import actors.modules.mixture.gmm
import actors.modules.observation  # noqa: F401 (numba does not compile instrumented kernels)

with atheris.instrument_imports(
    include=[
        "actors.messaging",
        "actors.storage",
        "actors.variables",
        "actors.backends.result_checks",
        "runner.cli",
        "runner.config",
        "runner.data",
        "runner.runs",
    ]
):
    from tests.fuzz.mutations import MAKERS
    from tests.fuzz.targets import TARGETS

from hypothesis import HealthCheck, given, settings

from tests.support.bounded import Watched

SEEDS, SEED_BYTES = 100, 256
"""Inputs to begin with: libFuzzer's own are of a few bytes, which decide little."""


class BytesRandom(Random):
    """Draws decided by bytes; after their end, by a generator that they seed."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0
        super().__init__(content[:8])

    def random(self) -> float:
        """Return the next number in [0, 1)."""
        return self.getrandbits(16) / 2**16

    def getrandbits(self, bits: int) -> int:
        """Return the next `bits` bits."""
        size = (bits + 7) // 8
        part = self.content[self.place : self.place + size]
        self.place += size
        if len(part) < size:
            return super().getrandbits(bits)
        return int.from_bytes(part, "little") & ((1 << bits) - 1)


def main() -> None:
    """Fuzz until the number of runs is reached or an input breaks the reader."""
    name, folder, *options = sys.argv[1:]
    target = next(each for each in TARGETS if each.name == name)
    make, watched = MAKERS[name][0], Watched()
    files, corpus = Path(folder) / "files", Path(folder) / "corpus"
    for directory in (files, corpus):
        directory.mkdir(exist_ok=True)
    rng = Random(1)
    for number in range(SEEDS):
        (corpus / f"seed-{number}").write_bytes(rng.randbytes(rng.randrange(1, SEED_BYTES)))
    if target.prepare:
        target.prepare(files)

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def read(value):
        watched(lambda: target.read(files, value))

    def read_bytes(content: bytes) -> None:
        if content[:1] and content[0] % 4 == 0:
            read.hypothesis.fuzz_one_input(content[1:])
            return
        value = make(BytesRandom(content[1:]))
        try:
            watched(lambda: target.read(files, value))
        except Exception:
            print(f"FINDING {value!r:.3000}", file=sys.stderr)
            raise

    atheris.Setup([sys.argv[0], "-max_len=1024", "-len_control=0", *options, str(corpus)], read_bytes)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
