"""Another user of this machine, for tests of what such a user could do; needs root and ``useradd``."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

AVAILABLE = os.geteuid() == 0 and shutil.which("useradd") is not None


class OtherUser:
    """A user of this machine who is not the one that runs the tests."""

    def __init__(self) -> None:
        self.name = f"serket{os.getpid() % 100_000}"
        subprocess.run(["useradd", "--no-create-home", "--shell", "/bin/sh", self.name], check=True)
        self.uid, self.gid = pwd.getpwnam(self.name)[2:4]

    def remove(self) -> None:
        """Delete the user."""
        subprocess.run(["userdel", self.name], check=True, capture_output=True)

    def _become(self) -> None:
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)

    def does(self, action: Callable[[], Any]) -> str:
        """Call `action` in a process of this user; return the name of the exception that it raises, else ""."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            name = ""
            try:
                self._become()
                action()
            except BaseException as error:
                name = type(error).__name__
            os.write(write, name.encode())
            os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as answer:
            return answer.read()

    @contextmanager
    def listens(self) -> Iterator[tuple[int, Callable[[], int]]]:
        """Listen on a port of the loopback; yield the port, and a function that returns the number of connections."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            self._become()
            with socket.create_server(("127.0.0.1", 0)) as server:
                os.write(write, f"{server.getsockname()[1]}\n".encode())
                while True:
                    connection = server.accept()[0]
                    os.write(write, b"+\n")
                    connection.close()
        os.close(write)
        port = b""
        while not port.endswith(b"\n"):
            port += os.read(read, 1)
        os.set_blocking(read, False)
        try:
            yield int(port), lambda: _count(read)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)


def _count(descriptor: int) -> int:
    """Return the number of connections that a listening process has reported since the last call."""
    try:
        return os.read(descriptor, 1000).count(b"+")
    except BlockingIOError:
        return 0


@contextmanager
def open_directory(mode: int = 0o755) -> Iterator[Path]:
    """Yield a directory below ``/tmp`` that every user can enter (those of pytest are private)."""
    path = Path(tempfile.mkdtemp(prefix="serket-open-", dir="/tmp"))
    path.chmod(mode)
    try:
        yield path
    finally:
        shutil.rmtree(path)
