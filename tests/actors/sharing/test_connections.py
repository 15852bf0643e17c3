"""Connections between workers: who may connect, and what happens when one stays silent, lies or dies."""

import hmac
import socket
import struct
import threading
import time

import numpy as np
import pytest

from actors.errors import WorkerConnectionError
from actors.limits import MAX_FRAME_BYTES
from actors.sharing import connections
from actors.sharing.connections import Connection, Listener, connect
from actors.sharing.frames import PREFIX, pack_frame

SECRET, OTHER = b"s" * 32, b"o" * 32


def pair():
    """Return both ends of a connection, and the socket of the first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    return Connection(here), Connection(there), here


def group(workers, secret=SECRET):
    """Return the connections of the first worker and of the others, by number."""
    listener = Listener("127.0.0.1", secret, workers)
    others = {rank: connect("127.0.0.1", listener.port, secret, rank) for rank in reversed(range(1, workers))}
    return listener.wait(), others


def test_workers_connect_in_any_order_and_the_first_one_has_them_in_theirs():
    firsts, others = group(4)
    for rank, connection in enumerate(firsts, start=1):
        connection.send(pack_frame(("for", rank)))
        assert others[rank].receive() == ("for", rank)
        others[rank].send(pack_frame(("from", rank)))
    assert [connection.receive() for connection in firsts] == [("from", 1), ("from", 2), ("from", 3)]


def test_values_arrive_in_their_order_whatever_their_size():
    here, there, _ = pair()
    values = [np.arange(size, dtype="f4") for size in (0, 3, 1_000_000, 7)] + [[np.ones(2)] * 700]
    sender = threading.Thread(target=lambda: [here.send(pack_frame(value)) for value in values])
    sender.start()
    for value in values:
        np.testing.assert_array_equal(there.receive(), value)
    sender.join()


def test_a_worker_with_another_secret_is_turned_away_and_the_group_still_connects():
    listener = Listener("127.0.0.1", SECRET, 2)
    with pytest.raises(WorkerConnectionError):
        connect("127.0.0.1", listener.port, OTHER, 1)
    worker = connect("127.0.0.1", listener.port, SECRET, 1)
    (first,) = listener.wait()
    first.send(pack_frame("hello"))
    assert worker.receive() == "hello"


@pytest.mark.parametrize("rank", [0, 2, 2**32 - 1])
def test_a_number_that_the_group_does_not_have_is_turned_away(rank):
    listener = Listener("127.0.0.1", SECRET, 2, seconds=0.5)
    with socket.create_connection(("127.0.0.1", listener.port)) as stranger:
        drawn = stranger.recv(48)[16:]
        proof = connections._proof(SECRET, b"worker", rank, drawn, b"n" * 32)
        stranger.sendall(struct.pack("<I", rank) + b"n" * 32 + proof)
        assert stranger.recv(32) == b""
    with pytest.raises(WorkerConnectionError, match=r"worker 1 did not connect in 0\.5 s"):
        listener.wait()


def test_the_second_with_a_number_is_turned_away():
    listener = Listener("127.0.0.1", SECRET, 3)
    first = connect("127.0.0.1", listener.port, SECRET, 1)
    with pytest.raises(WorkerConnectionError):
        connect("127.0.0.1", listener.port, SECRET, 1)
    connect("127.0.0.1", listener.port, SECRET, 2)
    listener.wait()[0].send(pack_frame(1))
    assert first.receive() == 1


def test_strangers_who_stay_silent_or_talk_nonsense_hold_up_nothing():
    listener = Listener("127.0.0.1", SECRET, 2, seconds=30.0)
    strangers = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(20)]
    for stranger in strangers[:10]:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
    strangers[10].sendall(b"\xff" * 20)  # a part of an answer
    started = time.monotonic()
    worker = connect("127.0.0.1", listener.port, SECRET, 1)
    listener.wait()
    assert time.monotonic() - started < 3.0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.port))
    worker.close()


def test_one_who_says_nothing_or_one_byte_at_a_time_is_dropped_in_time(monkeypatch):
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.4)
    listener = Listener("127.0.0.1", SECRET, 2, seconds=30.0)
    silent = socket.create_connection(("127.0.0.1", listener.port))
    slow = socket.create_connection(("127.0.0.1", listener.port))
    for stranger in (silent, slow):
        stranger.settimeout(3.0)
        assert len(stranger.recv(48)) == 48
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        try:
            slow.send(b"\0")
        except OSError:
            break
        time.sleep(0.02)
    for stranger in (silent, slow):
        with pytest.raises((ConnectionError, AssertionError)):
            assert stranger.recv(1)
    listener.close()


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n" * 5, b"serket-workers-1" + b"n" * 32 + b"p" * 32])
def test_a_worker_trusts_no_listener_without_the_secret(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def speak():
            peer, _ = server.accept()
            peer.sendall(answer)
            time.sleep(0.6)
            peer.close()

        threading.Thread(target=speak, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(WorkerConnectionError):
            connect("127.0.0.1", server.getsockname()[1], SECRET, 1, seconds=0.5)
        assert time.monotonic() - started < 3.0


def test_a_worker_cannot_be_made_to_prove_the_secret_to_another_one():
    """A proof is of one side, of one number and for what both have drawn."""
    proofs = {
        connections._proof(*args)
        for args in [
            (SECRET, b"worker", 1, b"a", b"b"),
            (SECRET, b"first", 1, b"a", b"b"),
            (SECRET, b"worker", 2, b"a", b"b"),
            (SECRET, b"worker", 1, b"b", b"a"),
            (OTHER, b"worker", 1, b"a", b"b"),
        ]
    }
    assert len(proofs) == 5
    expected = hmac.new(SECRET, b"serket-workers-1|worker|1|a|b", "sha256").digest()
    assert connections._proof(SECRET, b"worker", 1, b"a", b"b") == expected


def test_a_port_that_nothing_listens_at_is_reported_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(WorkerConnectionError, match=f"127.0.0.1:{port} cannot be reached"):
        connect("127.0.0.1", port, SECRET, 1)


def test_an_address_of_another_machine_cannot_be_listened_at():
    with pytest.raises(OSError, match="assign requested address"):
        Listener("192.0.2.1", SECRET, 2)


@pytest.mark.parametrize("sizes", [(2**31, 0), (10, MAX_FRAME_BYTES + 1), (10, 2**63)])
def test_a_frame_that_is_too_large_is_refused_before_memory_is_taken_for_it(sizes):
    _, there, raw = pair()
    raw.sendall(PREFIX.pack(*sizes))
    with pytest.raises(WorkerConnectionError, match="sent a frame of"):
        there.receive()


@pytest.mark.parametrize("cut", [0, 5, 12, 14, 40])
def test_the_death_of_the_other_end_is_told_wherever_it_stops(cut):
    _, there, raw = pair()
    raw.sendall(b"".join(bytes(part) for part in pack_frame(np.ones(100)))[:cut])
    raw.close()
    with pytest.raises(WorkerConnectionError, match="is lost"):
        there.receive()


def test_sending_to_one_that_is_gone_is_told():
    here, there, _ = pair()
    there.close()
    frames = [pack_frame(np.ones(100_000))] * 20
    with pytest.raises(WorkerConnectionError, match="is lost"):
        here.send(*frames)


def test_another_thread_can_end_the_wait_for_a_worker():
    here, _there, _ = pair()
    threading.Timer(0.1, here.shut).start()
    with pytest.raises(WorkerConnectionError, match="is lost"):
        here.receive()


@pytest.mark.slow
def test_one_that_computes_for_long_before_it_reads_keeps_the_connection(monkeypatch):
    monkeypatch.setattr(connections, "PEER_SECONDS", 1.0)
    here, there, _ = pair()
    values = np.arange(4_000_000.0)  # more than the operating system holds
    sender = threading.Thread(target=here.send, args=(pack_frame(values),))
    sender.start()
    time.sleep(4.0)
    np.testing.assert_array_equal(there.receive(), values)
    sender.join()
