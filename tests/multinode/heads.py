"""Clusters that stand by themselves on this machine, as people start them: ``ray start`` on the loopback."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))


def may_hide() -> bool:
    """Whether directories can be hidden from processes here."""
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ray:
    """A node of Ray in a session of its own, with what it has started.

    Parameters
    ----------
    home : Path
        Where its token and its log are.
    arguments : str
        Of ``ray start``.
    hidden : sequence of Path
        Directories that are empty to it, as they are on another machine (needs mount namespaces).
    apart : bool
        Whether it sees no other processes of this machine (needs process namespaces): Ray refuses to start a head where
        it sees a node that belongs to one of that address.
    **environment : str
    """

    def __init__(
        self, home: Path, *arguments: str, hidden: Sequence[Path] = (), apart: bool = False, **environment: str
    ) -> None:
        self.home = home
        token = home / "token"
        if not token.exists():
            token.write_text("b" * 64)
            token.chmod(0o600)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
        }
        command = [
            RAY,
            "start",
            *arguments,
            "--node-ip-address=127.0.0.1",
            "--object-store-memory=100000000",
            "--block",
        ]
        if hidden:
            mounts = " && ".join(f"mount -t tmpfs none {shlex.quote(str(path))}" for path in hidden)
            command = ["unshare", "-m", "sh", "-c", f"{mounts} && exec {shlex.join(command)}"]
        if apart:
            command = ["unshare", "-pf", "--kill-child", "--mount-proc", *command]
        self.log = (home / "ray.log").open("a")
        self.process = subprocess.Popen(
            command, env=self.environment, cwd=home, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def await_answer(self, address: str, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        command = [RAY, "health-check", "--address", address]
        while subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode:
            assert time.monotonic() < until, (self.home / "ray.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill it and what it has started, as a power cut would."""
        with suppress(psutil.NoSuchProcess):
            mother = psutil.Process(self.process.pid)
            for process in [*mother.children(recursive=True), mother]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        self.kill()
        self.log.close()


def serket(home: Path, ray: Ray, *words: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `home`, as a person there would."""
    root = str(Path(__file__).parents[2])
    given = {**ray.environment, "PYTHONPATH": root, **environment}
    command = [sys.executable, "-m", "runner.cli", *map(str, words)]
    done = subprocess.run(command, env=given, cwd=home, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done
