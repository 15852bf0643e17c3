"""Runs the programs that have a cluster of their own, beside which a test session's would be in the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults import table


def perform(program, scenes, directory, seconds, package="tests.faults"):
    """Run scenes of a program of `package`; return what came of each by name, as far as it came."""
    home = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(home), "RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(directory)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", f"{package}.{program}", *scenes]
    with (directory / f"{program}.err").open("w") as told:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=told, text=True, start_new_session=True
        )
        try:
            given, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends what it has started
            try:
                given, _ = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                given, _ = process.communicate()
    lines = [json.loads(line) for line in given.splitlines() if line.startswith("{")]
    return {line.pop("scene", "skip"): line for line in lines}


def noted(who, found, scene):
    """Note how a scene went in the table; return what came of it."""
    assert scene in found, f"{scene} did not come to its end; the others: {list(found)}"
    came = found[scene]
    assert "error" not in came, came["error"]
    table.ROWS.append((who, scene.replace("_", " "), came["noticed"], came["back"], came["same"]))
    print(f"{scene}: {came['seconds']:.0f} s in all")
    return came
