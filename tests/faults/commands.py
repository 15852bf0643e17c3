"""Runs of the command line in processes of their own, which a test may kill."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from actors.checkpoint import Checkpoints
from tests.conftest import wait_until

ROOT = Path(__file__).parent.parent.parent

MODEL = """
name: small
data: {source: cycle}
modules:
  encoder: {type: "tests.actors.toys:Encoder", seconds: 0.4}
  mirror: {type: "tests.actors.toys:Mirror"}
connections: [data -> encoder, encoder -> mirror]
schedule: {rounds: 5}
"""
"""Each round takes long enough to be interrupted."""


def environment(**extra):
    """Return the environment of a process that finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **extra}


class Command:
    """`serket …` in a process group of its own, as a terminal starts it."""

    def __init__(self, *words, **extra):
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
        """Send a signal to the process, as Ctrl-C does."""
        self.process.send_signal(number)

    def kill(self):
        """Kill it; Ray's own processes notice by themselves."""
        self.process.kill()
        self.process.communicate(timeout=60)

    def end(self, code=0, seconds=120):
        """Wait for its end and return what it said."""
        said = self.process.communicate(timeout=seconds)[0]
        assert self.process.returncode == code, said
        return said


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


def digests(path):
    """Return the digests of all files of a run's last commit, and its figures by round."""
    manifest = Checkpoints(Path(path) / "checkpoints").latest()
    files = {(m, label): file.digest for m, record in manifest.modules.items() for label, file in record.files.items()}
    return manifest.name, manifest.sequence, files, (Path(path) / "metrics.csv").read_text()


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def standing_cluster(directory, **extra):
    """Start a cluster that outlives its drivers; its address."""
    port = free_port()
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}",
        "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={directory}",
        "--object-store-memory=200000000",
    ]  # fmt: skip
    log = Path(directory) / "head.log"
    with log.open("w") as out:
        head = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment(**extra), start_new_session=True
        )
    try:
        wait_until(lambda: head.poll() is not None or "Ray runtime started" in log.read_text(), 60)
        assert head.poll() is None, log.read_text()
        time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
