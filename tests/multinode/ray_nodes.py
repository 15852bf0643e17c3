"""Ray nodes on this machine, started with ``ray start`` on the loopback as users start them."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))


def mounts_allowed() -> bool:
    """Return whether this process may create mount namespaces, in which directories can be hidden."""
    try:
        return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RayNode:
    """A Ray node in a session of its own, with the processes that it starts.

    Parameters
    ----------
    home : Path
        Directory of its token and log.
    *arguments : str
        Arguments of ``ray start``.
    hidden : sequence of Path
        Directories that are empty for the node, as on another machine (requires mount namespaces).
    isolated : bool
        Whether the node sees no other processes of this machine (requires process namespaces). Ray refuses to start a
        head if it sees a node that belongs to a head of the same address.
    **environment : str
        Environment variables of the node.
    """

    def __init__(
        self, home: Path, *arguments: str, hidden: Sequence[Path] = (), isolated: bool = False, **environment: str
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
        self.private = Path(tempfile.mkdtemp(prefix="rn"))  # of mode 0700; the path of a socket must be short
        command = [
            RAY,
            "start",
            *arguments,
            f"--temp-dir={self.private / 'r'}",
            "--node-ip-address=127.0.0.1",
            "--object-store-memory=100000000",
            "--block",
        ]
        if hidden:
            mounts = " && ".join(f"mount -t tmpfs none {shlex.quote(str(path))}" for path in hidden)
            command = ["unshare", "-m", "sh", "-c", f"{mounts} && exec {shlex.join(command)}"]
        if isolated:
            command = ["unshare", "-pf", "--kill-child", "--mount-proc", *command]
        self.log = (home / "ray.log").open("a")
        self.process = subprocess.Popen(
            command, env=self.environment, cwd=home, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def wait_until_healthy(self, address: str, seconds: float = 60.0) -> None:
        """Wait until the cluster at `address` passes Ray's health check."""
        deadline = time.monotonic() + seconds
        command = [RAY, "health-check", "--address", address]
        while subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (self.home / "ray.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the node and its processes, as a power cut would."""
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            for process in [*parent.children(recursive=True), parent]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Terminate the node; kill it if it does not end in time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        self.kill()
        self.log.close()
        shutil.rmtree(self.private, ignore_errors=True)


def serket(
    home: Path, node: RayNode, *arguments: object, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a ``serket`` command in `home` with the environment of `node`, until it exits with status `code`."""
    root = str(Path(__file__).parents[2])
    variables = {**node.environment, "PYTHONPATH": root, **environment}
    command = [sys.executable, "-m", "runner.cli", *map(str, arguments)]
    done = subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done
