"""Machines on a network of their own, as namespaces: each has its address, processes, /tmp and home, and an ssh server.

They live in outer namespaces, whose first process ends with its standard input: when a test ends, however it ends, the
kernel ends every process in them and takes the network and what was mounted along.
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
"""A directory that all machines see."""
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNSHARE = ["unshare", "-nmpuf", "--mount-proc"]
OF_RAY = re.compile(r"^ray::|site-packages/ray/| -m ray\.")


def allowed() -> bool:
    """Whether such machines can be made here."""
    with suppress(OSError):
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    return False


def first_in(process: subprocess.Popen[bytes], name: str) -> int:
    """Wait for the process called `name` that `process` starts in namespaces; return its number as seen from here."""

    def found() -> int:
        assert process.poll() is None, f"{name} was not started"
        children = psutil.Process(process.pid).children(recursive=True)
        return next((child.pid for child in children if child.name() == name), 0)

    return int(wait_until(found))


class Machine:
    """One machine; its user is called ray and may do everything.

    Parameters
    ----------
    site : Site
    number : int
        The last part of its address.
    home : str
        A name for its home directory: machines with the same one share it.
    checkout : bool
        Whether this software's checkout is on it.
    """

    def __init__(self, site: Site, number: int, home: str, checkout: bool) -> None:
        self.address = f"{NETWORK}.{number}"
        self.log = site.logs / f"machine{number}.log"
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
            "while :; do sleep 1000 & wait $!; done",  # as the first process, bash buries what others leave behind
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*site.inside, *UNSHARE, "bash", "-c", "\n".join(lines)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.init = first_in(self.process, "bash")
        link = f"v{number}"
        site.ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self.init))
        site.ip("link", "set", link, "master", "bridge", "up")
        for words in (
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
            f"route add default via {NETWORK}.254",
        ):
            subprocess.run(["nsenter", "-t", str(self.init), "-n", "ip", *words.split()], check=True)

    def environment(self, **more: str) -> list[str]:
        given = {"HOME": str(HOME), "USER": "ray", "LOGNAME": "ray", "SHELL": "/bin/bash", "PATH": PATHS, **more}
        return [f"{name}={value}" for name, value in {**given, "LANG": "C.UTF-8", "TERM": "dumb"}.items()]

    def answers(self) -> bool:
        """Whether its ssh server does."""
        assert self.process.poll() is None, self.log.read_text()
        return self.path("/tmp/.listens").exists()

    def run(self, command: str, *, code: int = 0, seconds: float = 120, **environment: str) -> str:
        """Run a command at home, in a login shell; return what it said."""
        inside = ["nsenter", "-t", str(self.init), "-n", "-m", "-p", "-u"]
        given = ["env", "-i", *self.environment(**environment), "bash", "-lc", f"cd ~; {command}"]
        done = subprocess.run(
            [*inside, *given], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def path(self, path: Path | str) -> Path:
        """Where a file of the machine is, seen from here."""
        return Path(f"/proc/{self.init}/root") / str(path).replace("~", str(HOME), 1).lstrip("/")

    def write(self, path: str, content: bytes | str) -> None:
        """Write a file that is for its owner alone."""
        there = self.path(path)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content if isinstance(content, bytes) else content.encode())
        there.chmod(0o600)

    def rays(self, name: str = "") -> list[psutil.Process]:
        """Return Ray's processes, or those called `name`."""
        found = []
        for process in psutil.Process(self.init).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if OF_RAY.search(" ".join(process.cmdline())) and name in ("", process.name()):
                    found.append(process)
        return found


class Site:
    """Some machines, and a network that nobody else is on.

    Parameters
    ----------
    logs : Path
        Where the machines' logs go.
    homes : sequence of str
        The name of each machine's home directory.
    checkouts : sequence of int
        On which of them this software's checkout is, counted from 0.
    programs : sequence of str
        What they have beside this machine's own programs, out of ``stand_ins``.
    """

    def __init__(self, logs: Path, homes: Sequence[str], checkouts: Sequence[int], programs: Sequence[str]) -> None:
        self.logs = logs
        self.machines: list[Machine] = []
        self._homes, self._checkouts = homes, checkouts
        self._programs = ["sshd", *programs]

    def __enter__(self) -> Site:
        self._keeper = subprocess.Popen(
            [*UNSHARE, "--kill-child", "sh", "-c", "mount -t tmpfs none /srv && exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self.first = first_in(self._keeper, "cat")
            self.inside = ["nsenter", "-t", str(self.first), "-n", "-m", "-p", "-u"]
            self._furnish()
            self.ip("link", "add", "bridge", "type", "bridge")
            self.ip("addr", "add", f"{NETWORK}.254/24", "dev", "bridge")
            self.ip("link", "set", "bridge", "up")
            for number, home in enumerate(self._homes):
                self.machines.append(Machine(self, number + 1, home, number in self._checkouts))
            wait_until(lambda: all(machine.answers() for machine in self.machines))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._keeper.stdin
        self._keeper.stdin.close()
        for process in (self._keeper, *(machine.process for machine in self.machines)):
            process.wait(20)

    def ip(self, *words: str) -> None:
        """Do something to the network; processes have the numbers that they have here."""
        subprocess.run(["nsenter", "-t", str(self.first), "-n", "ip", *words], check=True)

    def _furnish(self) -> None:
        """Make what the machines have in common: programs, users, names, the key, and a directory."""
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
        (srv / "resolv.conf").touch()  # nobody else is asked for names, which would have to be waited for
        with tempfile.TemporaryDirectory() as made:
            key = Path(made) / "key"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
            (srv / "authorized").write_bytes(key.with_suffix(".pub").read_bytes())
            self.key = key.read_bytes()
        # What a machine has though it lies in a directory that it has not.
        for path in {ROOT, Path(sys.base_prefix), Path(sys.prefix)}:
            command = f"mkdir -p /srv/kept{path} && mount --rbind {path} /srv/kept{path}"
            subprocess.run([*self.inside, "sh", "-c", command], check=True)
