"""Tests of what prevents Ray from starting: named at once, with the remedy, and before anything is started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.cluster import machine
from runner.cluster.machine import machine_problem

ROOT = Path(__file__).parents[3]
MODEL = """
name: small
data: {source: cycle}
modules: {gmm: {type: gmm, classes: 2, iterations: 1}}
connections: [data -> gmm]
schedule: {rounds: 1}
"""


def network_namespaces_allowed():
    try:
        return subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run(folder, *prefix, **environment):
    """Run a small model from `folder`; return exit status, stderr and the run directories."""
    (folder / "small.yaml").write_text(MODEL)
    command = [*prefix, sys.executable, "-m", "runner.cli", "run", "small.yaml"]
    ended = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    runs = folder / "runs"
    error = "".join(line for line in ended.stderr.splitlines(keepends=True) if not line.startswith("data: "))
    return ended.returncode, error, list(runs.iterdir()) if runs.is_dir() else []


def test_this_machine_has_no_problem():
    assert machine_problem() == ""


def test_a_python_without_docstrings_is_refused_before_a_run_directory_is_left(tmp_path):
    code, error, runs = run(tmp_path, PYTHONOPTIMIZE="2")
    assert code == 2
    assert "unset PYTHONOPTIMIZE" in error
    assert error.count("\n") == 1
    assert runs == []


@pytest.mark.skipif(not network_namespaces_allowed(), reason="network namespaces are not permitted here")
def test_a_machine_whose_loopback_is_down_is_refused_before_a_run_directory_is_left(tmp_path):
    code, error, runs = run(tmp_path, "unshare", "-n")
    assert code == 2
    assert "cannot connect to itself at 127.0.0.1" in error
    assert "ip link set lo up" in error
    assert error.count("\n") == 1
    assert runs == []


def test_shared_memory_that_is_not_writable_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(
        machine.os, "access", lambda path, mode: not (path == machine.SHARED_MEMORY and mode == os.W_OK)
    )
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path("/"))
    assert machine_problem().startswith("/, where Ray keeps its objects, is not writable: mount it writable")


def test_a_user_without_a_home_directory_is_told_to_set_home(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert machine_problem().endswith("has no home directory: set HOME to a directory of your own")
