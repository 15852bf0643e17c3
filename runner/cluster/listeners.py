"""Who listens at an address of this machine: a port that was one's own may belong to another user by now."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENING = "0A"


def why_foreign(address: str) -> str:
    """Return why the process that listens at an address is not this user's; empty if it is, or is on another machine.

    Parameters
    ----------
    address : str
        ``HOST:PORT``.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit() or not is_own_address(host.strip("[]")):
        return ""
    owners = _owners(int(port))
    if all(owner in (os.geteuid(), 0) for owner in owners):
        return ""
    return "the process that listens there belongs to another user of this machine"


def is_own_address(host: str) -> bool:
    """Return whether a host name or IP address is one of this machine."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    own = {each.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for each in entries}
    return any(ip in own or ip.startswith("127.") or ip in ("::1", "0.0.0.0", "::") for ip in found)


def _owners(port: int) -> set[int | None]:
    """Return the user ids of those who listen on a port of this machine; None stands for an unknown user."""
    if _TABLES[0].exists():
        return {owner for table in _TABLES for owner in _owners_in(table, port)}
    owners: set[int | None] = set()
    with suppress(psutil.Error):  # elsewhere than on Linux, listing the sockets of others takes privileges
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                owner = None
                if connection.pid is not None:
                    with suppress(psutil.Error):
                        owner = psutil.Process(connection.pid).uids().effective
                owners.add(owner)
    return owners


def _owners_in(table: Path, port: int) -> set[int]:
    """Return the user ids of the listening sockets in one of Linux' tables."""
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return set()
    rows = [line.split() for line in lines]
    return {int(row[7]) for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port}
