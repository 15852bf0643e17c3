"""Run ``serket`` commands in processes of their own, which tests can interrupt and kill."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
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
"""A model of toy modules, whose encoder waits at closed gates (:class:`tests.support.toy_modules.Encoder`)."""

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
"""A model with the built-in GMM and MM, and with chains."""


def environment(**extra):
    """Return the environment of a process that imports this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **extra}


class Command:
    """A running ``serket`` command in a process group of its own, as a terminal starts it."""

    def __init__(self, *arguments, **extra):
        self.output = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner.cli", *map(str, arguments)],
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

    def press_ctrl_c(self):
        """Send SIGINT to all processes of the group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_for_output(self, text, seconds=120):
        """Wait until the command prints a line that contains `text`; kill the command after a timeout."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                self.output += line
                if text in line:
                    return
        finally:
            timer.cancel()
        raise AssertionError(f"{text!r} is not in the output: {self.output}")

    def kill(self):
        """Kill the process; Ray's own processes detect this by themselves."""
        self.process.kill()
        self.process.communicate(timeout=60)

    def wait(self, code=0, seconds=120):
        """Wait until the command exits with status `code` (any if None); return its output."""
        self.output += self.process.communicate(timeout=seconds)[0]
        assert code in (None, self.process.returncode), self.output
        assert "Traceback" not in self.output
        return self.output


def serket(*arguments, code=0, **extra):
    """Run a ``serket`` command until it exits with status `code`; return its output."""
    return Command(*arguments, **extra).wait(code)


def events(path):
    """Return the events in the log of the run in the directory `path`."""
    file = Path(path) / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def digests(path, checkpoints=None):
    """Return the name, sequence number and file digests of a run's last commit, and the contents of metrics.csv."""
    manifest = Checkpoints(checkpoints or Path(path) / "checkpoints").latest()
    files = {(m, label): file.digest for m, record in manifest.modules.items() for label, file in record.files.items()}
    return manifest.name, manifest.sequence, files, (Path(path) / "metrics.csv").read_text()


class Gates:
    """A directory of gates, at which the encoder of :data:`MODEL` waits: ``2-1`` is step 1 of round 2."""

    def __init__(self, directory, *closed):
        self.directory = Path(directory)
        self.directory.mkdir()
        self.setting = ("--set", f"modules.encoder.gates={directory}")
        for name in closed:
            (self.directory / name).touch()

    def wait_until_reached(self, name):
        """Wait until the encoder waits at a gate."""
        wait_until((self.directory / f"waiting-{name}").exists, 90)

    def open(self):
        """Open all gates."""
        for path in self.directory.iterdir():
            path.unlink()


def inspect(path, **extra):
    """Return the output of ``serket inspect --json``."""
    return json.loads(serket("inspect", path, "--json", **extra).splitlines()[-1])


def module_pids(path):
    """Return the last process id of each module of a run."""
    return {event["module"]: event["pid"] for event in events(path) if event["event"] == "placed"}


def has_ended(pid):
    """Return whether a process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def free_ports(count):
    """Return ports on which no process listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def standing_cluster(directory, **extra):
    """Start a Ray cluster with ``ray start``, which outlives its drivers; yield its address."""
    port, client = free_ports(2)
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}",
        "--node-ip-address=127.0.0.1", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={directory}/r",
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
