"""Connections between the workers of one module, over which they exchange sums and parameters while they learn.

The first worker listens, the others connect to it by TCP, once for many updates. A secret that the backend gave to the
workers of this group alone is proven by both sides (HMAC-SHA-256 of what both have drawn) before anything else is read.
What is proven is who is there: bytes that travel afterwards are neither encrypted nor signed, as Ray's own are not.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from actors.errors import WorkerConnectionError
from actors.limits import (
    CONNECT_SECONDS,
    MAX_FRAME_BYTES,
    MAX_FRAME_HEADER_BYTES,
    MAX_WAITING_STRANGERS,
    MAX_WORKERS,
    PEER_SECONDS,
)
from actors.sharing.frames import PREFIX, aligned_memory, unpack_frame

_GREETING = b"serket-workers-1"
_NONCE = 32
_HELLO = struct.Struct(f"<I{_NONCE}s32s")
"""What a worker answers to a greeting: its number, what it has drawn, and its proof."""

_JOINED_BYTES = 1 << 16
"""Parts of frames up to this size together are copied into one."""

_PARTS_AT_ONCE = 256


class Connection:
    """One end of a connection: whole values go in and come out."""

    def __init__(self, peer: socket.socket) -> None:
        self._socket = peer
        peer.settimeout(None)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _detect_lost_hosts(peer)

    def send(self, *frames: Sequence[bytes | memoryview]) -> None:
        """Send frames (:func:`actors.sharing.frames.pack_frame`), one after the other.

        Raises
        ------
        WorkerConnectionError
            If the connection is lost.
        """
        parts = [part for frame in frames for part in frame]
        if sum(map(len, parts)) <= _JOINED_BYTES:
            parts = [b"".join(parts)]
        try:
            for first in range(0, len(parts), _PARTS_AT_ONCE):
                self._send_all(parts[first : first + _PARTS_AT_ONCE])
        except OSError as error:
            raise _lost(error) from None

    def receive(self) -> Any:
        """Return the next value, however long the other end computes before it sends it.

        Raises
        ------
        WorkerConnectionError
            If the connection is lost, or what comes is not a frame or too long.
        """
        header, size = PREFIX.unpack(_read(self._socket, PREFIX.size))
        if header > MAX_FRAME_HEADER_BYTES or size > MAX_FRAME_BYTES:
            raise WorkerConnectionError(f"a worker sent a frame of {header + size:,} bytes")
        description, body = _read(self._socket, header), aligned_memory(size)
        _read_into(self._socket, body.data)
        return unpack_frame(bytes(description), body)

    def shut(self) -> None:
        """End the connection, from any thread; a call that waits at either end raises an error."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection and release it, in the thread that uses it."""
        self.shut()
        self._socket.close()

    def _send_all(self, parts: list[bytes | memoryview]) -> None:
        views = [memoryview(part) for part in parts]
        while views:
            sent = self._socket.sendmsg(views)
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]


class Listener:
    """Waits for the other workers of a group, for some seconds, in a thread.

    Strangers are turned away. Each connection is greeted in a thread of its own, so that one that stays silent holds up
    no other; of many at a time further ones wait until those have had their time.

    Parameters
    ----------
    host : str
        Address of this machine that the others reach.
    secret : bytes
    workers : int
        Number of workers, the first one included.
    seconds : float
        Time for all of them.

    Attributes
    ----------
    port : int

    Raises
    ------
    OSError
        If this machine has no such address.
    """

    def __init__(self, host: str, secret: bytes, workers: int, seconds: float = CONNECT_SECONDS) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=workers + MAX_WAITING_STRANGERS)
        self.port: int = self._listening.getsockname()[1]
        self._secret, self._workers = secret, workers
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._known: dict[int, Connection] = {}
        self._claimed: set[int] = set()  # numbers of workers that have proven the secret
        self._ended = False
        self._change = threading.Condition()
        self._places = threading.BoundedSemaphore(workers + MAX_WAITING_STRANGERS)
        self._thread = threading.Thread(target=self._accept, name="workers", daemon=True)
        self._thread.start()

    def wait(self) -> list[Connection]:
        """Return the connections to all other workers, in their order.

        Raises
        ------
        WorkerConnectionError
            If one has not come in time.
        """
        with self._change:
            self._change.wait_for(self._is_complete, max(0.0, self._deadline - time.monotonic()))
            complete, known = self._is_complete(), dict(self._known)
        self.close()
        if not complete:
            missing = [str(rank) for rank in range(1, self._workers) if rank not in known]
            for connection in known.values():
                connection.close()
            raise WorkerConnectionError(f"worker {', '.join(missing[:10])} did not connect in {self._seconds:g} s")
        return [known[rank] for rank in range(1, self._workers)]

    def close(self) -> None:
        """Listen no longer; connections that were made stay."""
        with self._change:
            self._ended = True
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join(CONNECT_SECONDS)
        self._listening.close()

    def _is_complete(self) -> bool:
        return len(self._known) == self._workers - 1

    def _accept(self) -> None:
        while not self._ended and (left := self._deadline - time.monotonic()) > 0:
            if not self._places.acquire(timeout=min(left, 0.1)):
                continue
            try:
                self._listening.settimeout(min(left, 0.5))
                peer, _ = self._listening.accept()
            except OSError:  # a time without connections, or closed
                self._places.release()
                continue
            threading.Thread(target=self._greet, args=(peer,), name="greeting", daemon=True).start()

    def _greet(self, peer: socket.socket) -> None:
        claimed = None
        try:
            deadline = min(self._deadline, time.monotonic() + CONNECT_SECONDS)
            rank, answer = self._rank_of(peer, deadline)
            with self._change:
                # Before it is told so: the one that learns that it is known is the one that is kept.
                if self._ended or rank in self._claimed:
                    raise WorkerConnectionError("a worker that nothing waits for")
                self._claimed.add(rank)
                claimed = rank
            _send_by(peer, answer, deadline)
            with self._change:
                if self._ended:
                    raise WorkerConnectionError("a worker that nothing waits for")
                self._known[rank] = Connection(peer)
                self._change.notify_all()
        except (OSError, WorkerConnectionError, struct.error):
            with self._change:
                if claimed is not None and claimed not in self._known:
                    self._claimed.discard(claimed)
            peer.close()
        finally:
            self._places.release()

    def _rank_of(self, peer: socket.socket, deadline: float) -> tuple[int, bytes]:
        """Return the number of the worker at the other end, when it has proven the secret, and the proof for it."""
        drawn = secrets.token_bytes(_NONCE)
        _send_by(peer, _GREETING + drawn, deadline)
        rank, theirs, proof = _HELLO.unpack(_read_by(peer, _HELLO.size, deadline))
        if not hmac.compare_digest(proof, _proof(self._secret, b"worker", rank, drawn, theirs)):
            raise WorkerConnectionError("a stranger")
        if not 1 <= rank < self._workers:
            raise WorkerConnectionError("a worker that the group does not have")
        return int(rank), _proof(self._secret, b"first", rank, drawn, theirs)


def connect(host: str, port: int, secret: bytes, rank: int, seconds: float = CONNECT_SECONDS) -> Connection:
    """Return a connection of worker `rank` to the first one.

    Raises
    ------
    WorkerConnectionError
        If it cannot be made within some seconds, or the other end does not know the secret.
    """
    if not 1 <= rank < MAX_WORKERS:
        raise WorkerConnectionError(f"there is no worker {rank}")
    deadline = time.monotonic() + seconds
    try:
        peer = socket.create_connection((host, port), timeout=seconds)
    except OSError as error:
        raise WorkerConnectionError(f"{host}:{port} cannot be reached: {error}") from None
    try:
        greeting = _read_by(peer, len(_GREETING) + _NONCE, deadline)
        if greeting[: len(_GREETING)] != _GREETING:
            raise WorkerConnectionError(f"{host}:{port} is not a worker of this group")
        theirs, drawn = greeting[len(_GREETING) :], secrets.token_bytes(_NONCE)
        _send_by(peer, _HELLO.pack(rank, drawn, _proof(secret, b"worker", rank, theirs, drawn)), deadline)
        if not hmac.compare_digest(_read_by(peer, 32, deadline), _proof(secret, b"first", rank, theirs, drawn)):
            raise WorkerConnectionError(f"{host}:{port} is not a worker of this group")
        return Connection(peer)
    except (OSError, WorkerConnectionError) as error:
        peer.close()
        if isinstance(error, WorkerConnectionError):
            raise
        raise WorkerConnectionError(f"{host}:{port} does not answer: {error}") from None


def _proof(secret: bytes, side: bytes, rank: int, first: bytes, other: bytes) -> bytes:
    """Return what only someone with the secret can say, of one side and for what both have drawn."""
    return hmac.digest(secret, b"|".join((_GREETING, side, str(rank).encode(), first, other)), "sha256")


def _send_by(peer: socket.socket, data: bytes, deadline: float) -> None:
    peer.settimeout(_left(deadline))
    peer.sendall(data)


def _read_by(peer: socket.socket, size: int, deadline: float) -> bytes:
    """Return the next bytes, if all come in time, however slowly each."""
    data = b""
    while len(data) < size:
        peer.settimeout(_left(deadline))
        more = peer.recv(size - len(data))
        if not more:
            raise WorkerConnectionError("the other end has closed the connection")
        data += more
    return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("too slow")
    return left


def _read(peer: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    _read_into(peer, memoryview(data))
    return data


def _read_into(peer: socket.socket, into: memoryview) -> None:
    while len(into):
        try:
            count = peer.recv_into(into)
        except OSError as error:
            raise _lost(error) from None
        if not count:
            raise _lost("the other end has closed it")
        into = into[count:]


def _lost(reason: object) -> WorkerConnectionError:
    return WorkerConnectionError(f"the connection to another worker is lost: {reason}")


def _detect_lost_hosts(peer: socket.socket) -> None:
    """Have the operating system end the connection to a host that is gone while nothing is on the way.

    Without a limit for what is on the way (TCP_USER_TIMEOUT): it would end the connection to one that computes for
    longer before it reads. The coordinator hears of lost nodes itself.
    """
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    third = max(1, int(PEER_SECONDS / 3))
    for name, value in (("TCP_KEEPIDLE", third), ("TCP_KEEPINTVL", max(1, third // 2)), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            with suppress(OSError):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
