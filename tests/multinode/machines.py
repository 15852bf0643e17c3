"""Machines as namespaces, on a network of their own: each has an address, processes, /tmp, a home and an ssh server.

They live in outer namespaces whose first process ends with its standard input: however a test ends, the kernel then
ends all processes in the namespaces and removes their network and mounts.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.conftest import wait_until

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).with_name("stand_ins")
NETWORK = "10.79.3"
HOME = Path("/home/ray")
SHARED = Path("/srv/shared")
"""A directory that all machines share."""
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNSHARE = ["unshare", "-nmpuf", "--mount-proc"]
RAY_COMMAND = re.compile(r"^ray::|site-packages/ray/| -m ray\.")


def namespaces_allowed() -> bool:
    """Return whether this process may create the namespaces."""
    with suppress(OSError):
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    return False


def wait_for_child(process: subprocess.Popen[bytes], name: str) -> int:
    """Wait for the process called `name` that `process` starts in namespaces; return its id outside of them."""

    def find() -> int:
        assert process.poll() is None, f"{name} was not started"
        children = psutil.Process(process.pid).children(recursive=True)
        return next((child.pid for child in children if child.name() == name), 0)

    return int(wait_until(find))


class Machine:
    """One machine, whose user is called ray and has all permissions.

    Parameters
    ----------
    network : MachineNetwork
    number : int
        The last part of its address.
    home : str
        Name of its home directory, which it shares with machines that have the same one.
    checkout : bool
        Whether the machine has this checkout.
    """

    def __init__(self, network: MachineNetwork, number: int, home: str, checkout: bool) -> None:
        self.address = f"{NETWORK}.{number}"
        self.log = network.logs / f"machine{number}.log"
        kept = [*([ROOT] if checkout else []), Path(sys.base_prefix), Path(sys.prefix)]
        lines = [
            "set -e",
            f"hostname machine{number}",
            *(f"mount -t tmpfs none {path}" for path in ("/tmp", "/dev/shm", "/home")),
            *([] if checkout else [f"mkdir -p {ROOT} && mount -t tmpfs none {ROOT}"]),
            *(f"mkdir -p {path} && mount --rbind /srv/kept{path} {path}" for path in kept),
            f"mkdir -p {HOME} /srv/homes/{home} && mount --bind /srv/homes/{home} {HOME}",
            "mount --bind /srv/bin /usr/local/sbin",
            *(f"mount --bind /srv/{name} /etc/{name}" for name in ("passwd", "hosts", "resolv.conf")),
            f"env -i {' '.join(self.environment())} sshd /srv/authorized &",
            "while :; do sleep 1000 & wait $!; done",  # as the first process, bash reaps orphaned processes
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*network.inside, *UNSHARE, "bash", "-c", "\n".join(lines)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.init = wait_for_child(self.process, "bash")
        link = f"v{number}"
        network.ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.init))
        network.ip("link", "set", link, "master", "bridge", "up")
        for arguments in (
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {NETWORK}.254",
        ):
            subprocess.run(["nsenter", "-t", str(self.init), "-n", "ip", *arguments.split()], check=True)

    def environment(self, **more: str) -> list[str]:
        """Return the environment of the machine's processes, as NAME=VALUE."""
        variables = {"HOME": str(HOME), "USER": "ray", "LOGNAME": "ray", "SHELL": "/bin/bash", "PATH": PATHS, **more}
        return [f"{name}={value}" for name, value in {**variables, "LANG": "C.UTF-8", "TERM": "dumb"}.items()]

    def is_ready(self) -> bool:
        """Return whether the ssh server listens."""
        assert self.process.poll() is None, self.log.read_text()
        return self.path("/tmp/.listens").exists()

    def run(self, command: str, *, code: int = 0, seconds: float = 120, **environment: str) -> str:
        """Run a command in a login shell in the home directory until it exits with status `code`; return its output."""
        inside = ["nsenter", "-t", str(self.init), "-n", "-m", "-p", "-u"]
        shell = ["env", "-i", *self.environment(**environment), "bash", "-lc", f"cd ~; {command}"]
        done = subprocess.run(
            [*inside, *shell], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def path(self, path: Path | str) -> Path:
        """Return the path by which this process reaches a file of the machine."""
        return Path(f"/proc/{self.init}/root") / str(path).replace("~", str(HOME), 1).lstrip("/")

    def write(self, path: str, content: bytes | str) -> None:
        """Write a file that only its owner can read."""
        outside = self.path(path)
        outside.parent.mkdir(parents=True, exist_ok=True)
        outside.write_bytes(content if isinstance(content, bytes) else content.encode())
        outside.chmod(0o600)

    def ray_processes(self, name: str = "") -> list[psutil.Process]:
        """Return Ray's processes on the machine, or those called `name`."""
        processes = []
        for process in psutil.Process(self.init).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if RAY_COMMAND.search(" ".join(process.cmdline())) and name in ("", process.name()):
                    processes.append(process)
        return processes


class MachineNetwork:
    """Machines on a network of their own.

    Parameters
    ----------
    logs : Path
        Directory of the machines' logs.
    homes : sequence of str
        Name of each machine's home directory.
    checkouts : sequence of int
        Indices of the machines that have this checkout.
    programs : sequence of str
        Programs of ``stand_ins`` that the machines have in addition to those of this machine.
    """

    def __init__(self, logs: Path, homes: Sequence[str], checkouts: Sequence[int], programs: Sequence[str]) -> None:
        self.logs = logs
        self.machines: list[Machine] = []
        self._homes, self._checkouts = homes, checkouts
        self._programs = ["sshd", *programs]

    def __enter__(self) -> MachineNetwork:
        self._keeper = subprocess.Popen(
            [*UNSHARE, "--kill-child", "sh", "-c", "mount -t tmpfs none /srv && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self.first = wait_for_child(self._keeper, "cat")
            self.inside = ["nsenter", "-t", str(self.first), "-n", "-m", "-p", "-u"]
            self._create_common_files()
            self.ip("link", "add", "bridge", "type", "bridge")
            self.ip("addr", "add", f"{NETWORK}.254/24", "dev", "bridge")
            self.ip("link", "set", "bridge", "up")
            for number, home in enumerate(self._homes):
                self.machines.append(Machine(self, number + 1, home, number in self._checkouts))
            wait_until(lambda: all(machine.is_ready() for machine in self.machines))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._keeper.stdin
        self._keeper.stdin.close()
        for process in (self._keeper, *(machine.process for machine in self.machines)):
            process.wait(20)

    def ip(self, *arguments: str) -> None:
        """Run ``ip`` in the outer network namespace, with the process ids of this process's namespace."""
        subprocess.run(["nsenter", "-t", str(self.first), "-n", "ip", *arguments], check=True)

    def _create_common_files(self) -> None:
        """Create what the machines share: programs, users, host names, the ssh key, and a directory."""
        srv = Path(f"/proc/{self.first}/root/srv")
        for name in ("bin", "shared"):
            (srv / name).mkdir()
        for name in self._programs:
            (srv / "bin" / name).write_text(f"#!{sys.executable}\n{(STAND_INS / f'{name}.py').read_text()}")
            (srv / "bin" / name).chmod(0o755)
        users = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
        (srv / "passwd").write_text("\n".join([f"ray:x:0:0:ray:{HOME}:/bin/bash", *users, ""]))
        names = [f"{NETWORK}.{number + 1} machine{number + 1}" for number in range(len(self._homes))]
        (srv / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
        (srv / "resolv.conf").touch()  # without name servers, whose timeouts would delay the tests
        with tempfile.TemporaryDirectory() as directory:
            key = Path(directory) / "key"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
            (srv / "authorized").write_bytes(key.with_suffix(".pub").read_bytes())
            self.key = key.read_bytes()
        # Directories that a machine keeps although it hides their parents.
        for path in {ROOT, Path(sys.base_prefix), Path(sys.prefix)}:
            command = f"mkdir -p /srv/kept{path} && mount --rbind {path} /srv/kept{path}"
            subprocess.run([*self.inside, "sh", "-c", command], check=True)
