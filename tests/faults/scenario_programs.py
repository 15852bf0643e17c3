"""Run the programs that have clusters of their own, in processes apart from the test session and its cluster."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults import recovery_table


def run_program(program, scenarios, directory, seconds, package="tests.faults"):
    """Run scenarios of a program of `package`; return the reports of those that ended in time, by scenario."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": str(directory)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", f"{package}.{program}", *scenarios]
    with (directory / f"{program}.err").open("w") as log:
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # the program ends its cluster
            try:
                output, _ = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
    reports = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {report.pop("scenario", "skip"): report for report in reports}


def add_to_table(kind, reports, scenario):
    """Add a scenario to the table of recovery times; return its report."""
    assert scenario in reports, f"{scenario} did not end; these did: {list(reports)}"
    report = reports[scenario]
    assert "error" not in report, report["error"]
    name = scenario.replace("_", " ")
    recovery_table.ROWS.append((kind, name, report["noticed"], report["back"], report["identical"]))
    print(f"{scenario}: {report['seconds']:.0f} s in total")
    return report
