"""Stand for one of Ray's agents until somebody connects to its port, then become it.

A script for ``python -I -S``: HOST PORT COMMAND…; it imports nothing of this software. With PORT 0 it only waits. It
ends with the process that started it.
"""

import os
import select
import socket
import sys

PARENT_SECONDS = 1.0
"""How often the end of the parent is looked for."""


def main(host: str, port: int, command: list[str]) -> None:
    """Wait for a connection, then replace this process by `command`, which listens on the same port."""
    parent = int(os.environ.get("RAY_RAYLET_PID", os.getppid()))  # it may be gone already
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family) if port else None
    while os.getppid() == parent:
        if select.select([listener] if listener else [], [], [], PARENT_SECONDS)[0] and listener:
            listener.close()  # the client connects again
            os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
