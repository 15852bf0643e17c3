"""Tests of ``run --local`` and ``resume --local``: the same results as on Ray, in one process and without it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runner.cli.app import app
from runner.cli.inspect import inspect_run
from runner.commands.resume import resume
from runner.commands.stop import stop
from runner.commands.train import train
from runner.config.run_config import load_config
from runner.report.progress import Progress
from runner.runs.directory import RunDirectoryError, open_run
from runner.runs.timing import Clock

ROOT = Path(__file__).parents[3]
CHAINS = """
name: small
data: {source: cycle, order: cyclic}
modules:
  gmm: {type: gmm, classes: 4, iterations: 2, start: sequence, calibrate: true}
  mm: {type: markov, rule: smoothed}
connections: [data -> gmm, gmm -> mm]
schedule:
  rounds: 2
  steps: [{steps: [gmm, mm], repeat: 3, chains: 2}, gmm]
"""
WORKERS = """
name: small
data: {source: cycle, order: cyclic}
modules:
  gmm: {type: gmm, classes: 4, engine: vb, iterations: 2, workers: 2, chunk: 30}
  mm: {type: markov, rule: smoothed, workers: 2, chunk: 30}
connections: [data -> gmm, gmm -> mm]
schedule: {rounds: 2}
"""


@pytest.fixture
def model(tmp_path):
    def write(text):
        path = tmp_path / "model.yaml"
        path.write_text(text)
        return path

    return write


def train_in(runs, model, *settings, local):
    config = load_config(model, settings)
    clock = Clock(time.time())
    return train(config, clock=clock, progress=Progress(config.graph), runs=runs, name="small", local=local)


def resume_in(path, *settings, local):
    opened = open_run(path, settings)
    progress = Progress(opened.directory.graph)
    return resume(opened, clock=Clock(time.time()), progress=progress, address=None, local=local)


def digests(path):
    """Return the SHA-256 of all that a run has committed, and of its readable outputs."""
    endings = (".safetensors", ".message", ".txt", ".csv", ".npy")
    files = sorted(each for each in path.rglob("*") if each.suffix in endings)
    assert len(files) > 10
    return {str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def files_of(path):
    return sorted(str(each.relative_to(path)) for each in path.rglob("*") if each.is_file())


def events_of(path):
    """Return what happened to modules, without times and places, and without what was said about the cluster."""
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    said = ("log", "placed")
    shown = [(e["event"], e.get("module"), e.get("round"), e.get("step")) for e in events if e["event"] not in said]
    return sorted(map(str, shown))


@pytest.mark.ray
@pytest.mark.parametrize(
    "text", [pytest.param(CHAINS, id="chains"), pytest.param(WORKERS, id="workers", marks=pytest.mark.slow)]
)
def test_a_run_leaves_the_same_in_one_process_and_on_ray_and_goes_on_here(ray_cluster, model, tmp_path, text):
    path = model(text)
    (here, local), (there, on_ray) = (train_in(tmp_path / str(each), path, local=each) for each in (True, False))
    assert digests(here.path) == digests(there.path)
    assert files_of(here.path) == files_of(there.path)
    assert events_of(here.path) == events_of(there.path)
    assert local.keys() == on_ray.keys()
    assert [local[name] for name in ("evidence", "score", "accuracy", "nmi")] == [
        on_ray[name] for name in ("evidence", "score", "accuracy", "nmi")
    ]
    whole, _ = train_in(tmp_path / "whole", path, "schedule.rounds=3", local=True)
    resume_in(there.path, "schedule.rounds=3", local=True)
    assert digests(there.path) == digests(whole.path)


@pytest.mark.slow  # its commits are those of a run on Ray, by the test above
@pytest.mark.ray
@pytest.mark.parametrize("text", [pytest.param(CHAINS, id="chains"), pytest.param(WORKERS, id="workers")])
def test_a_run_in_one_process_goes_on_on_ray(ray_cluster, model, tmp_path, text):
    path = model(text)
    begun, _ = train_in(tmp_path / "begun", path, local=True)
    whole, _ = train_in(tmp_path / "whole", path, "schedule.rounds=3", local=True)
    resume_in(begun.path, "schedule.rounds=3", local=False)
    assert digests(begun.path) == digests(whole.path)


COMMAND = """
import sys
from runner.cli.app import app
status = 0
try:
    app(sys.argv[1:])
except SystemExit as end:
    status = end.code
loaded = [name for name in ("ray", "torch", "sklearn", "pandas") if name in sys.modules]
print("loaded", *loaded)
sys.exit(status)
"""


def command(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_ctrl_c_stops_a_local_run_after_a_step_and_resume_goes_on_without_ray(model, tmp_path):
    path = model(CHAINS)
    process = command("run", path, "--local", "--runs", tmp_path, "--set", "schedule.rounds=400")
    while "round 2/400  committed" not in process.stderr.readline():
        assert process.poll() is None
    assert inspect_run(tmp_path / "small")["unknown"] == f"the run learns in process {process.pid}, without Ray"
    with pytest.raises(RunDirectoryError, match=f"learns in process {process.pid}, without Ray: press Ctrl-C there"):
        stop(open_run(tmp_path / "small"), now=False, log=print)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "all updates are committed, continue with serket resume" in errors
    assert output.split("loaded")[1].split() == []
    last = open_run(tmp_path / "small").directory.checkpoints.latest()
    rounds = last.round + 1
    resume_in(tmp_path / "small", f"schedule.rounds={rounds}", local=True)
    whole, _ = train_in(tmp_path / "whole", path, f"schedule.rounds={rounds}", local=True)
    name = f"checkpoints/round-{rounds:03d}"
    ours, uninterrupted = digests(tmp_path / "small"), digests(whole.path)
    assert {file: value for file, value in ours.items() if file.startswith(name)}
    assert all(ours[file] == value for file, value in uninterrupted.items() if file.startswith(name))


@pytest.mark.parametrize(
    ("options", "settings", "sentence"),
    [
        (["--detach"], [], "--local ends with this command: leave out --detach"),
        (["--address", "10.0.0.1:6379"], [], "leave out --address 10.0.0.1:6379, or --local"),
        (["--dry-run"], [], "--dry-run says where Ray would place the modules: leave out --local"),
        ([], ["modules.gmm.resources.num_gpus=1"], "modules.gmm.resources.num_gpus: --local computes on the CPU"),
        ([], ["modules.mm.resources.label_selector={zone: a}"], "modules.mm.resources.label_selector: there are no"),
        ([], ["cluster.modules.gmm.custom={arm: 1}"], "modules.gmm.resources.custom: there are no nodes"),
        ([], ["cluster.nodes=2"], "cluster.nodes: there are no nodes with --local; leave it out, or run the model on"),
        ([], ["cluster.strategy=spread"], "cluster.strategy: there are no nodes with --local"),
    ],
)
def test_what_one_process_cannot_do_is_refused_before_anything_starts(model, tmp_path, options, settings, sentence):
    given = [word for setting in settings for word in ("--set", setting)]
    words = ["run", str(model(CHAINS)), "--local", "--runs", str(tmp_path / "runs"), *options, *given]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_an_address_in_the_environment_is_no_wish_for_a_cluster(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    words = ["run", str(model(CHAINS)), "--local", "--runs", str(tmp_path / "runs"), "--json"]
    result = CliRunner().invoke(app, [*words, "--set", "schedule.rounds=1"])
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1])["rounds"] == 1
