"""A sweep on a cluster of two nodes, joined by its address: ``python -m tests.multinode.swept [SCENARIO …]``.

This is a program of its own because its cluster would conflict with that of a test session. The cluster requires a
token, as those that the project starts and documents; each of its nodes has one core, so that two trials run at a time
only if both nodes take one. The report of each scenario is printed as one line of JSON.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HOME = Path(tempfile.mkdtemp(prefix="sw", dir="/tmp"))  # of mode 0700; the path of a socket must be short
TOKEN = HOME / "token"
TOKEN.write_text("c" * 64)
TOKEN.chmod(0o600)
(HOME / "r").mkdir()
os.environ.update(RAY_TMPDIR=str(HOME / "r"), TMPDIR=str(HOME))  # the cluster's files, below a directory of mode 0700
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(TOKEN), RAY_USAGE_STATS_ENABLED="0")

from ray.cluster_utils import Cluster  # noqa: E402

from tests.faults.scenarios import run_and_print  # noqa: E402

ROOT = Path(__file__).parents[2]
MODEL = """
name: swept
data: {source: cycle}
modules:
  gmm: {type: mine:Mine, classes: 4, iterations: 2}
  mm: {type: markov}
connections: [data -> gmm -> mm]
schedule: {rounds: 2}
"""
MINE = """
import os
import time
from dataclasses import replace

import ray

from actors.modules.mixture.gmm import GMM


class Mine(GMM):
    def update(self, inbox, context):
        time.sleep(0.5)  # so that trials are run at the same time
        outbox = super().update(inbox, context)
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "0"
        return replace(outbox, metrics={**outbox.metrics, "node": float(int(node[:8], 16)), "process": os.getpid()})
"""


def serket(*arguments, **environment):
    """Run a command in the home directory; return its exit status and what it printed."""
    paths = [str(ROOT), str(HOME / "own"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, "-m", "runner.cli", *map(str, arguments)]
    done = subprocess.run(command, env=variables, cwd=HOME, capture_output=True, text=True, timeout=240, check=False)
    return {"status": done.returncode, "printed": done.stdout + done.stderr}


def table(name):
    """Return the lines of a sweep's table, by trial."""
    with (HOME / "runs" / name / "sweep.csv").open() as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def learnt_on(name, trial):
    """Return the nodes on which the GMM of a trial learnt, as the numbers in its metrics."""
    events = (HOME / "runs" / name / trial / "events.jsonl").read_text().splitlines()
    updates = [event for event in map(json.loads, events) if event["event"] == "updated" and event["module"] == "gmm"]
    return sorted({event["node"] for event in updates})


def by_address():
    """Sweep four trials on both nodes, and the same ones in one process."""
    grid = ("swept.yaml", "--grid", "gmm.classes=3,4", "--seeds", "0:2")
    done = serket("sweep", *grid, "--address", cluster.address, "--name", "both")
    local = serket("sweep", *grid, "--local", "--name", "alone")
    if done["status"] or local["status"]:
        return {"done": done, "local": local}
    rows, alone = table("both"), table("alone")
    same = [key for key in ("evidence", "score", "accuracy") if all(rows[t][key] == alone[t][key] for t in alone)]
    return {
        "done": done,
        "local": local,
        "states": [row["state"] for row in rows.values()],
        "same": same,
        "nodes": {trial: learnt_on("both", trial) for trial in rows},
        "left": sorted(path.name for path in (HOME / "runs" / "both").iterdir() if path.name not in rows),
    }


def resumed():
    """Go on with a sweep of which two trials are missing, on the cluster."""
    for trial in list(table("both"))[1:3]:
        shutil.rmtree(HOME / "runs" / "both" / trial)
    done = serket("sweep", "--resume", "runs/both", "--address", cluster.address)
    return {"done": done, "states": [row["state"] for row in table("both").values()]}


def failing():
    """Sweep over a value that ends the processes of its trials."""
    own = (HOME / "own" / "mine.py").read_text()
    (HOME / "own" / "mine.py").write_text(
        own.replace("time.sleep(0.5)", "self.parameters.classes == 4 and os._exit(3)")
    )
    done = serket("sweep", "swept.yaml", "--grid", "gmm.classes=3,4", "--address", cluster.address, "--name", "failing")
    (HOME / "own" / "mine.py").write_text(own)
    return {"done": done, "rows": list(table("failing").values())}


def without_the_token():
    """Sweep with a token of one's own that is not that of the cluster."""
    other = HOME / "other"
    other.write_text("d" * 64)
    other.chmod(0o600)
    arguments = ("sweep", "swept.yaml", "--seeds", "0:2", "--address", cluster.address, "--name", "refused")
    return {"done": serket(*arguments, RAY_AUTH_TOKEN_PATH=str(other))}


SCENARIOS = {scenario.__name__: scenario for scenario in (by_address, resumed, failing, without_the_token)}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the `finally` clause ends the cluster
    (HOME / "own").mkdir()
    (HOME / "own" / "mine.py").write_text(MINE)
    (HOME / "swept.yaml").write_text(MODEL)
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    head = {**node, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(**node)
        run_and_print(SCENARIOS, sys.argv[1:])
    finally:
        cluster.shutdown()
        shutil.rmtree(HOME, ignore_errors=True)
