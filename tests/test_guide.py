"""Follows docs/guide.md to its end: writes its files as they are printed and runs its commands in their order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

GUIDE = (Path(__file__).parents[1] / "docs" / "guide.md").read_text(encoding="utf-8")
pytestmark = [pytest.mark.ray, pytest.mark.guide]


def code_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The directory in which the guide was followed, and the standard output of each command by its name."""
    home, outputs = tmp_path_factory.mktemp("guide"), {}
    (home / "counting.py").write_text(code_blocks("python")[0])
    (home / "model.yaml").write_text(code_blocks("yaml")[0])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "200"}
    for line in "".join(code_blocks("console")).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "serket"
        command = [sys.executable, "-m", "runner.cli", *arguments]
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        outputs[arguments[0]] = done.stdout
    return home, outputs


def test_the_module_passes_every_check(followed):
    assert "24 passed, 0 failed, 4 not applicable" in followed[1]["check"]


def test_the_model_learns_with_the_module_in_it(followed):
    home, _ = followed
    result = json.loads((home / "runs" / "mine" / "result.json").read_text())
    assert result["accuracy"] > 0.8
    assert "counting" in result["module_seconds"]
    assert np.loadtxt(home / "runs" / "mine" / "module003_counting" / "class_learn.txt").shape == (600,)


def test_new_rows_are_recognized_from_both_sources(followed):
    assert re.search(r"rows\s+200", followed[1]["recognize"])


def test_a_package_is_written(followed):
    assert (followed[0] / "night-sounds" / "pyproject.toml").exists()
