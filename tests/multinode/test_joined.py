"""A cluster that somebody else has started: what a run brings along, who is refused, what is measured."""

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

from tests.conftest import wait_until
from tests.multinode.heads import Ray, free_port, may_hide, serket

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
        answer = super().update(inbox, context)
        return replace(answer, metrics={**answer.metrics, "brought": 1.0 * ("runtime_resources" in __file__)})
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "model.yaml").write_text(MODEL)
    (home / "own").mkdir()
    (home / "own" / "mine.py").write_text(MINE)
    return home


@pytest.fixture(scope="module")
def ray(home):
    port, metrics = free_port(), free_port()
    arguments = ["--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    hidden = [ROOT / "actors", ROOT / "runner", home / "own"] if may_hide() else []
    head = Ray(home, *arguments, f"--metrics-export-port={metrics}", hidden=hidden)
    head.address, head.metrics = f"127.0.0.1:{port}", metrics
    try:
        head.await_answer(head.address)
        yield head
    finally:
        head.end()


@pytest.fixture(scope="module")
def done(home, ray):
    """A run of a model with a module of one's own, whose file the cluster's processes do not see."""
    said = serket(home, ray, "run", "model.yaml", "--address", ray.address, "--json", PYTHONPATH=pythonpath(home))
    return json.loads(said.stdout.splitlines()[-1])


def pythonpath(home):
    return f"{ROOT}:{home / 'own'}"


@pytest.mark.skipif(not may_hide(), reason="mount namespaces, which only root may make, hide the code")
def test_the_code_of_the_run_and_of_its_modules_comes_along(home, done):
    events = [json.loads(line) for line in (home / "runs" / "joined" / "events.jsonl").read_text().splitlines()]
    assert done["rounds"] == 2
    assert {event["brought"] for event in events if event["event"] == "updated" and event["module"] == "gmm"} == {1.0}


def test_every_line_of_the_log_names_the_run(home, done):
    events = [json.loads(line) for line in (home / "runs" / "joined" / "events.jsonl").read_text().splitlines()]
    assert {event["run"] for event in events} == {"joined"}
    assert all({"round", "step", "module"} <= event.keys() for event in events if event["event"] == "updated")


def test_a_dry_run_says_where_modules_would_go(home, ray):
    said = serket(home, ray, "run", "model.yaml", "--address", ray.address, "--dry-run", PYTHONPATH=pythonpath(home))
    assert said.stdout.count(" (") == 3
    wish = ["--set", "cluster.modules.gmm.num_gpus=1"]
    said = serket(
        home,
        ray,
        "run",
        "model.yaml",
        "--address",
        ray.address,
        "--dry-run",
        *wish,
        code=2,
        PYTHONPATH=pythonpath(home),
    )
    assert "module 'gmm' asks for 1 GPU, and no node has that free: " in said.stdout
    assert not (home / "runs" / "joined-2").exists()


@pytest.mark.parametrize(
    "stranger", [{"RAY_AUTH_TOKEN_PATH": "other"}, {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN_PATH": "none"}]
)
def test_who_has_no_token_or_another_one_is_refused(home, ray, done, stranger):
    (home / "other").write_text("c" * 64)
    (home / "other").chmod(0o600)
    said = serket(
        home, ray, "run", "model.yaml", "--address", ray.address, code=2, PYTHONPATH=pythonpath(home), **stranger
    )
    assert f"no Ray cluster could be reached at {ray.address}: it refuses " in said.stderr
    assert said.stderr.count("could be reached") == 1
    assert "Traceback" not in said.stderr
    assert not (home / "runs" / "joined-2").exists()


@pytest.mark.parametrize(("what", "named"), [("ray", "9.9.9"), ("python", "3.99.1")])
def test_another_version_is_refused_and_both_are_named(home, ray, what, named):
    program = (
        "import ray, ray._private.utils as utils, platform\n"
        f"mine = ({named!r}, platform.python_version()) if {what!r} == 'ray' else (ray.__version__, {named!r})\n"
        "utils.compute_version_info = lambda: mine\n"
        "from runner.cluster.connection import ClusterError, cluster\n"
        "try:\n"
        f"    with cluster({ray.address!r}): print('joined')\n"
        "except ClusterError as error:\n"
        "    print('refused', str(error).replace(chr(10), ' '))\n"
    )
    environment = {**ray.environment, "PYTHONPATH": pythonpath(home)}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    there = version("ray") if what == "ray" else platform.python_version()
    assert "refused" in said
    assert named in said
    assert there in said


@pytest.mark.skipif(not find_spec("prometheus_client"), reason="needs the extra metrics")
def test_metrics_are_given_out_for_prometheus(ray, done):
    def scraped():
        with urllib.request.urlopen(f"http://127.0.0.1:{ray.metrics}", timeout=5) as answer:
            text = answer.read().decode()
        wanted = ("serket_update_seconds_bucket", "serket_message_bytes", "serket_evidence", "serket_accuracy")
        return text if all(f"ray_{name}" in text for name in wanted) else ""

    text = wait_until(scraped, 60)
    lines = [line for line in text.splitlines() if line.startswith("ray_serket_update_seconds_count")]
    assert any('module="gmm"' in line and 'run="joined"' in line for line in lines)
