"""Runs of the command line in processes of their own, which a test may kill."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from actors.storage.checkpoints import Checkpoints
from tests.conftest import wait_until

ROOT = Path(__file__).parent.parent.parent

MODEL = """
name: small
data: {source: cycle}
modules:
  encoder: {type: "tests.support.toy_modules:Encoder"}
  mirror: {type: "tests.support.toy_modules:Mirror"}
connections: [data -> encoder, encoder -> mirror]
schedule:
  rounds: 3
  steps: [encoder, {steps: [encoder, mirror], repeat: 2}, mirror]
"""
"""Waits wherever a test closes a gate (:class:`tests.support.toy_modules.Encoder`)."""

REAL = """
name: real
data: {source: cycle, order: cyclic}
modules:
  encoder: {type: "tests.support.toy_modules:Encoder"}
  gmm: {type: gmm, classes: 4, iterations: 2}
  mm: {type: markov, rule: smoothed}
connections: [data -> encoder -> gmm, gmm -> mm]
schedule:
  rounds: 3
  steps: [encoder, {steps: [gmm, mm], repeat: 3, chains: 2}, {module: gmm, set: {iterations: 0}}]
"""
"""The numerics too, and chains."""


def environment(**extra):
    """Return the environment of a process that finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **extra}


class Command:
    """`serket …` in a process group of its own, as a terminal starts it."""

    def __init__(self, *words, **extra):
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment(**extra),
            start_new_session=True,
        )

    def send(self, number):
        """Send a signal to the process alone."""
        self.process.send_signal(number)

    def press(self):
        """Press Ctrl-C: a terminal tells all processes of the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def heard(self, word):
        """Wait until it says a line with `word`."""
        for line in self.process.stdout:
            self.said += line
            if word in line:
                return
        raise AssertionError(f"it never said {word!r}: {self.said}")

    def kill(self):
        """Kill it; Ray's own processes notice by themselves."""
        self.process.kill()
        self.process.communicate(timeout=60)

    def end(self, code=0, seconds=120):
        """Wait for its end and return what it said."""
        self.said += self.process.communicate(timeout=seconds)[0]
        assert code in (None, self.process.returncode), self.said
        assert "Traceback" not in self.said
        return self.said


def serket(*words, code=0, **extra):
    """Run `serket …` to its end; what it said."""
    return Command(*words, **extra).end(code)


def events(path):
    """Return the events that a run has told so far."""
    file = Path(path) / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(path, event, seconds=90.0, **fields):
    """Wait until a run has told an event with such fields."""
    wait_until(
        lambda: any(e["event"] == event and all(e.get(k) == v for k, v in fields.items()) for e in events(path)),
        seconds,
    )


def digests(path, checkpoints=None):
    """Return the digests of all files of a run's last commit, and its figures by round."""
    manifest = Checkpoints(checkpoints or Path(path) / "checkpoints").latest()
    files = {(m, label): file.digest for m, record in manifest.modules.items() for label, file in record.files.items()}
    return manifest.name, manifest.sequence, files, (Path(path) / "metrics.csv").read_text()


class Gates:
    """Places where a run waits: ``2-1`` is step 1 of round 2."""

    def __init__(self, directory, *closed):
        self.directory = Path(directory)
        self.directory.mkdir()
        self.setting = ("--set", f"modules.encoder.gates={directory}")
        for name in closed:
            (self.directory / name).touch()

    def reached(self, name):
        """Wait until the run waits there."""
        wait_until((self.directory / f"waiting-{name}").exists, 90)

    def open(self):
        """Let it go on."""
        for path in self.directory.iterdir():
            path.unlink()


def inspected(path, **extra):
    """Return what ``serket inspect`` finds."""
    return json.loads(serket("inspect", path, "--json", **extra).splitlines()[-1])


def actors(run):
    """Return the processes of a run's modules by name, as they were placed last."""
    return {event["module"]: event["pid"] for event in events(run) if event["event"] == "placed"}


def gone(pid):
    """Whether a process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def free_ports(count):
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def standing_cluster(directory, **extra):
    """Start a cluster that outlives its drivers; its address."""
    port, client = free_ports(2)
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}",
        "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={directory}",
        "--object-store-memory=200000000", f"--ray-client-server-port={client}", "--min-worker-port=0",
        "--max-worker-port=0",
    ]  # fmt: skip
    log = Path(directory) / "head.log"
    with log.open("w") as out:
        head = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment(**extra), start_new_session=True
        )
    try:
        wait_until(lambda: head.poll() is not None or "Ray runtime started" in log.read_text(), 90)
        assert head.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
