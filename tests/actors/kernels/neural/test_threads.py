"""Tests of how the threads of torch wait for each other."""

import os
import subprocess
import sys

import pytest

SHOW = "import os, actors.kernels.neural; print('kept:', os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.skipif(sys.platform != "linux", reason="other builds of torch have other OpenMP libraries")
@pytest.mark.parametrize(("given", "waits"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_of_torch_sleep_while_they_wait_unless_the_environment_says_how(given, waits):
    environment = {name: text for name, text in os.environ.items() if not name.startswith("OMP_")}
    environment |= {"OMP_DISPLAY_ENV": "true"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    shown = subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert f"OMP_WAIT_POLICY = '{waits}'" in shown.stderr
    assert shown.stdout == f"kept: {given}\n"
