"""Tests that kill the process of every module twice, and of ``serket check``, which does so on a Ray of its own."""

import os
import subprocess
import sys

import pytest

from actors.conformance import ModuleChecks
from tests.actors.conformance.test_conformance import CHECK_CLASSES
from tests.faults.commands import ROOT
from tests.runner.cli.test_check_module import MINE

pytestmark = [pytest.mark.faults, pytest.mark.slow]  # test_matrix kills its modules in every phase

ELSEWHERE = """
from tests.support.wrong_modules import StateInAGlobalVariable

class Wrong(StateInAGlobalVariable):
    \"\"\"A wrong module of a user.\"\"\"
"""

SERKET = [sys.executable, "-P", "-m", "runner.cli"]  # -P: Python does not import from the working directory


@pytest.mark.parametrize(
    ("source", "name", "status", "summary"),
    [(MINE, "Mine", 0, "24 passed, 0 failed"), (ELSEWHERE, "Wrong", 1, "23 passed, 1 failed")],
)
def test_the_check_of_a_module_in_the_working_directory_kills_its_process(tmp_path, source, name, status, summary):
    (tmp_path / "mine.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    done = subprocess.run(
        [*SERKET, "check", f"mine:{name}"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert summary in done.stdout, done.stderr
    assert done.returncode == status
    assert "(raylet" not in done.stdout + done.stderr  # Ray's messages about dead processes
    assert "worker died" not in done.stdout + done.stderr
    if status:
        assert "something that it learnt is not in its state" in done.stdout


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("checks", CHECK_CLASSES, ids=lambda cls: cls.__name__)
def test_a_module_recovers_from_deaths_of_its_process_in_and_before_an_update(checks):
    ModuleChecks.test_it_survives_the_death_of_its_process(checks())
