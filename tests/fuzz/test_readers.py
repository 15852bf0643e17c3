"""Made-up inputs of every reader: a valid result or a documented error, within 1 s and 100 MB.

A short part runs with the other tests; ``make test-fuzz`` runs as many examples as ``--fuzz-examples`` says.
"""

import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.many import read_many
from tests.fuzz.targets import TARGETS
from tests.support.bounded import Watched

SHORT = 60
"""Examples of each reader in ``make test``."""

each_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


def fuzz(target, folder, examples):
    """Read `examples` inputs; return the largest time and growth of memory of one."""
    watched = Watched()
    if target.prepare:
        target.prepare(folder)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(target.inputs)
    def read(value):
        watched(lambda: target.read(folder, value))

    read()
    return watched


@each_target
def test_no_input_breaks_a_reader(target, tmp_path):
    fuzz(target, tmp_path, SHORT // 6 if target.slow else SHORT)


def test_no_changed_document_breaks_a_reader():
    assert not [each.summary() for each in read_many(1500, seed=0) if each.findings]


@pytest.mark.fuzz
@each_target
def test_no_input_of_many_breaks_a_reader(target, tmp_path, pytestconfig):
    share = target.weight / sum(each.weight for each in TARGETS)
    started = time.perf_counter()
    watched = fuzz(target, tmp_path, max(int(share * pytestconfig.getoption("--fuzz-examples")), 1))
    seconds = time.perf_counter() - started
    print(
        f"\n{target.name}: {watched.calls} inputs in {seconds:.0f} s ({watched.calls / seconds:.0f}/s), "
        f"at most {watched.seconds:.2f} s and {watched.bytes / 1e6:.0f} MB each"
    )


@pytest.mark.fuzz
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
@each_target
def test_no_coverage_guided_input_breaks_a_reader(target, tmp_path, pytestconfig):
    runs = max(pytestconfig.getoption("--fuzz-examples") // 10 // len(TARGETS), 1)
    command = [sys.executable, "-m", "tests.fuzz.coverage_guided", target.name, str(tmp_path), f"-runs={runs}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-4000:]
    (last,) = re.findall(r"^#\d+\s+DONE.*", done.stderr, re.MULTILINE)
    print(f"\n{target.name}: atheris, {last}")
