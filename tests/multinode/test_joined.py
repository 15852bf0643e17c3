"""Tests of runs on a cluster that is already running: shipped code, rejected drivers, metrics."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from runner.cluster.connection import is_listening
from tests.conftest import wait_until
from tests.multinode.ray_nodes import RayNode, free_port, mounts_allowed, serket

pytestmark = [pytest.mark.ray, pytest.mark.multinode]
ROOT = Path(__file__).parents[2]

MODEL = """
name: joined
data: {source: cycle}
modules:
  gmm: {type: mine:Mine, classes: 4, iterations: 2}
  mm: {type: markov}
connections: [data -> gmm, gmm -> mm]
schedule: {rounds: 2}
"""
MINE = """
from dataclasses import replace
from actors.modules.mixture.gmm import GMM

class Mine(GMM):
    def update(self, inbox, context):
        outbox = super().update(inbox, context)
        return replace(outbox, metrics={**outbox.metrics, "shipped": 1.0 * ("runtime_resources" in __file__)})
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory with a model file and a module file."""
    home = tmp_path_factory.mktemp("home")
    (home / "model.yaml").write_text(MODEL)
    (home / "own").mkdir()
    (home / "own" / "mine.py").write_text(MINE)
    return home


@pytest.fixture(scope="module")
def head(home):
    """The head of a cluster, which does not see the code of this checkout and of the module."""
    port, metrics = free_port(), free_port()
    arguments = ["--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    hidden = [ROOT / "actors", ROOT / "runner", home / "own"] if mounts_allowed() else []
    head = RayNode(home, *arguments, f"--metrics-export-port={metrics}", hidden=hidden)
    head.address, head.metrics = f"127.0.0.1:{port}", metrics
    try:
        head.wait_until_healthy(head.address)
        yield head
    finally:
        head.stop()


@pytest.fixture(scope="module")
def result(home, head):
    """The result of a run whose GMM is a module in a file that the cluster's processes do not see."""
    done = serket(home, head, "run", "model.yaml", "--address", head.address, "--json", PYTHONPATH=pythonpath(home))
    return json.loads(done.stdout.splitlines()[-1])


def pythonpath(home):
    """Return the import path of a driver that sees the checkout and the module file."""
    return f"{ROOT}:{home / 'own'}"


@pytest.mark.skipif(not mounts_allowed(), reason="mount namespaces, which only root may create, hide the code")
def test_a_run_ships_the_code_of_this_package_and_of_its_modules(home, result):
    events = [json.loads(line) for line in (home / "runs" / "joined" / "events.jsonl").read_text().splitlines()]
    assert result["rounds"] == 2
    assert {event["shipped"] for event in events if event["event"] == "updated" and event["module"] == "gmm"} == {1.0}


def test_every_line_of_the_log_names_the_run(home, result):
    events = [json.loads(line) for line in (home / "runs" / "joined" / "events.jsonl").read_text().splitlines()]
    assert {event["run"] for event in events} == {"joined"}
    assert all({"round", "step", "module"} <= event.keys() for event in events if event["event"] == "updated")


def test_a_dry_run_prints_where_modules_would_be_placed_and_what_is_missing(home, head):
    done = serket(home, head, "run", "model.yaml", "--address", head.address, "--dry-run", PYTHONPATH=pythonpath(home))
    assert done.stdout.count(" (") == 3
    setting = ["--set", "cluster.modules.gmm.num_gpus=1"]
    done = serket(
        home,
        head,
        "run",
        "model.yaml",
        "--address",
        head.address,
        "--dry-run",
        *setting,
        code=2,
        PYTHONPATH=pythonpath(home),
    )
    assert "module 'gmm' asks for 1 GPU, and no node has that free: " in done.stdout
    assert not (home / "runs" / "joined-2").exists()


@pytest.mark.parametrize(
    "credential", [{"RAY_AUTH_TOKEN_PATH": "other"}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "none"}]
)
def test_a_driver_without_the_token_of_the_cluster_is_rejected(home, head, result, credential):
    (home / "other").write_text("c" * 64)
    (home / "other").chmod(0o600)
    done = serket(
        home, head, "run", "model.yaml", "--address", head.address, code=2, PYTHONPATH=pythonpath(home), **credential
    )
    assert f"no Ray cluster could be reached at {head.address}: it rejects " in done.stderr
    assert done.stderr.count("could be reached") == 1
    assert "Traceback" not in done.stderr
    assert not (home / "runs" / "joined-2").exists()


def test_a_cluster_without_tokens_is_named_and_can_be_used_when_asked_for(home, tmp_path):
    port = free_port()
    arguments = ["--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    head = RayNode(home, *arguments, isolated=True, RAY_AUTH_MODE="disabled")
    address = f"127.0.0.1:{port}"
    try:
        wait_until(lambda: is_listening(address), 60)
        options = ("run", "model.yaml", "--address", address, "--name", "open")
        refused = serket(home, head, *options, code=2, PYTHONPATH=pythonpath(home), RAY_AUTH_MODE="token")
        assert f"the Ray cluster at {address} requires no token" in refused.stderr
        assert "RAY_AUTH_MODE=disabled" in refused.stderr
        said = [line for line in refused.stderr.splitlines() if not line.startswith("data: ")]
        assert len(said) == 1
        assert not (home / "runs" / "open").exists()
        serket(home, head, *options, PYTHONPATH=pythonpath(home), RAY_AUTH_MODE="disabled")
        assert (home / "runs" / "open" / "result.json").exists()
    finally:
        head.stop()


@pytest.mark.parametrize(("software", "other"), [("ray", "9.9.9"), ("python", "3.99.1")])
def test_a_driver_with_another_version_is_rejected_with_both_versions(home, head, software, other):
    program = (
        "import ray, ray._private.utils as utils, platform\n"
        f"own = ({other!r}, platform.python_version()) if {software!r} == 'ray' else (ray.__version__, {other!r})\n"
        "utils.compute_version_info = lambda: own\n"
        "from runner.cluster.connection import ClusterError, cluster\n"
        "try:\n"
        f"    with cluster({head.address!r}): print('joined')\n"
        "except ClusterError as error:\n"
        "    print('rejected', str(error).replace(chr(10), ' '))\n"
    )
    environment = {**head.environment, "PYTHONPATH": pythonpath(home)}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    installed = version("ray") if software == "ray" else platform.python_version()
    assert "rejected" in output
    assert other in output
    assert installed in output


@pytest.mark.skipif(not find_spec("prometheus_client"), reason="needs the extra metrics")
def test_metrics_are_exported_for_prometheus(head, result):
    def scrape():
        with urllib.request.urlopen(f"http://127.0.0.1:{head.metrics}", timeout=5) as response:
            text = response.read().decode()
        wanted = ("serket_update_seconds_bucket", "serket_message_bytes", "serket_evidence", "serket_accuracy")
        return text if all(f"ray_{name}" in text for name in wanted) else ""

    text = wait_until(scrape, 60)
    lines = [line for line in text.splitlines() if line.startswith("ray_serket_update_seconds_count")]
    assert any('module="gmm"' in line and 'run="joined"' in line for line in lines)
