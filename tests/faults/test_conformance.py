"""The process of every module is killed, twice; and ``serket check`` does so with a Ray of its own."""

import os
import subprocess
import sys

import pytest

from actors.conformance import ModuleChecks
from tests.actors.conformance.test_conformance import OF_MODULES
from tests.faults.commands import ROOT
from tests.runner.cli.test_check_module import MINE

pytestmark = [pytest.mark.faults, pytest.mark.slow]  # the modules of the matrix die there in every phase

ELSEWHERE = """
from tests.support.wrong_modules import Elsewhere

class Wrong(Elsewhere):
    \"\"\"Somebody's, and wrong.\"\"\"
"""

SERKET = [sys.executable, str(ROOT / "runner" / "cli.py")]  # the working directory is not among what Python searches


@pytest.mark.parametrize(
    ("source", "name", "status", "said"),
    [(MINE, "Mine", 0, "24 passed, 0 failed"), (ELSEWHERE, "Wrong", 1, "23 passed, 1 failed")],
)
def test_a_module_in_the_working_directory_is_killed_on_a_ray_of_its_own(tmp_path, source, name, status, said):
    (tmp_path / "mine.py").write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400"}
    done = subprocess.run(
        [*SERKET, "check", f"mine:{name}"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert said in done.stdout, done.stderr
    assert done.returncode == status
    assert "worker" not in done.stdout + done.stderr  # what Ray says of the dead
    if status:
        assert "something that it learnt lies outside its state" in done.stdout


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("checks", OF_MODULES, ids=lambda cls: cls.__name__)
def test_a_module_survives_the_death_of_its_process_in_an_update_and_before_one(checks):
    made = type("Checks", (ModuleChecks,), {"module": checks.module, "parameters": checks.parameters})
    made().test_it_survives_the_death_of_its_process()
