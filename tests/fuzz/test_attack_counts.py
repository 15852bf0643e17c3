"""What held in the first trial of attacks, with counts: damaged commits, hostile messages, and ports without the token.

Few of each run with the other tests, the many with ``--fuzz``; the counts are printed (``-s``).
"""

from __future__ import annotations

import http.client
import pickle
import random
from contextlib import suppress

import grpc
import msgpack
import numpy as np
import psutil
import pytest
import ray

from actors.coordination.backend import ModuleCall
from actors.errors import MessageError
from actors.messaging.codec import decode, encode, pack_header, unpack_header
from actors.messaging.kinds import KINDS
from actors.storage.checkpoints import Checkpoints
from runner.cluster.auth import token_path
from tests.actors.backends.test_host_finite_values import scripted
from tests.actors.coordination.test_coordinator import learn, model
from tests.actors.messaging.test_messages import message

FLIPS, MESSAGES = 3_000, 150_000
SHORT = {FLIPS: 200, MESSAGES: 2_000}

each_size = pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.fuzz)], ids=["few", "many"])


@each_size
def test_each_flipped_bit_of_a_commit_is_named(tmp_path, few):
    count, generator = SHORT[FLIPS] if few else FLIPS, random.Random(1)
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=2), checkpoints)
    files = sorted(path for path in (tmp_path / "round-002").iterdir())
    named = 0
    for _ in range(count):
        path = generator.choice(files)
        intact = path.read_bytes()
        bit = generator.randrange(8 * len(intact))
        damaged = bytearray(intact)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        log = []
        manifest = checkpoints.newest_whole(log.append)
        named += manifest.name == "round-001" and len(log) == 1 and f"round-002/{path.name}" in log[0]
        path.write_bytes(intact)
    print(f"\n{named} of {count} flipped bits were named")
    assert named == count


def hostile(generator, valid):
    """Return bytes that no sender of this software makes: parts of valid ones, changed, cut, repeated or invented."""
    data = bytearray(generator.choice(valid))
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(data) + 1)
        match generator.randrange(6):
            case 0:
                data[place : place + 1] = generator.randbytes(1)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = generator.randbytes(generator.randint(1, 8))
            case 3:
                data[place:place] = generator.choice(valid)[: generator.randint(1, 40)]
            case 4:
                size = generator.choice([b"\xc6", b"\xdd", b"\xdf", b"\xdb", b"\xc9"])
                data[place : place + 5] = size + generator.randbytes(4)
            case _:
                data[place : place + generator.randint(1, 30)] = b""
    return bytes(data)


@each_size
def test_no_hostile_message_raises_an_undocumented_error(few):
    count, generator = SHORT[MESSAGES] if few else MESSAGES, random.Random(2)
    kinds = sorted(KINDS)
    headers = [pack_header(message(kind).header) for kind in kinds]
    documents, arrays = [encode(message(kind)) for kind in kinds], [message(kind).arrays for kind in kinds]
    host, refused = scripted(), 0
    for number in range(count):
        try:
            if number % 3 == 0:
                decode(hostile(generator, documents))
            elif number % 3 == 1:
                unpack_header(hostile(generator, headers))
            else:  # a header and arrays that do not belong to it, given to the host of a module
                header = hostile(generator, headers) if generator.random() < 0.7 else generator.choice(headers)
                position = {"run": "run", "seed": 0, "round": 1, "step": 0, "sequence": 0, "receivers": {}}
                host.call(ModuleCall("update", **position, headers=(header,), ports=("z",)), [generator.choice(arrays)])
        except MessageError:
            refused += 1
    print(f"\n{refused} of {count} hostile messages were refused, the others were valid")
    assert refused > count // 2


@pytest.mark.parametrize(
    "data",
    [pickle.dumps({"header": {}, "arrays": []}, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    + [
        msgpack.packb({"header": pickle.dumps(print), "arrays": []}),
        msgpack.packb(msgpack.ExtType(1, b"c__builtin__")),
    ],
)
def test_pickles_are_no_messages(data, monkeypatch):
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    for read in (decode, unpack_header):
        with pytest.raises(MessageError):
            read(data)


# --- ports ------------------------------------------------------------------------------------------------------------

LOOPBACK = "127.0.0.1"
METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVGet",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ObjectManagerService/Pull",
)


def ports_of_the_cluster():
    """Return the names of the listening processes of the cluster of this session, by host and port."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    host = connection.laddr.ip
                    found[LOOPBACK if host in ("::", "0.0.0.0") else host, connection.laddr.port] = process.name()
    return found


def answers(place, metadata=()):
    """Return the status of each method at a host and port, as a client without Ray gets it."""
    with grpc.insecure_channel("{}:{}".format(*place), options=[("grpc.enable_http_proxy", 0)]) as channel:
        statuses = []
        for method in METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=3, metadata=metadata)
                statuses.append("OK")
            except grpc.RpcError as error:
                statuses.append(error.code().name)
        return statuses


@pytest.mark.ray
def test_no_port_of_a_cluster_serves_a_client_without_the_token(ray_cluster):
    ports = ports_of_the_cluster()
    gcs = (LOOPBACK, int(ray_cluster.rpartition(":")[2]))
    assert gcs in ports
    without = {place: answers(place) for place in ports}
    print("\n" + "\n".join(f"{ports[place]} {place} {' '.join(statuses)}" for place, statuses in without.items()))
    assert not [statuses for statuses in without.values() if "OK" in statuses]
    guarded = [port for port, statuses in without.items() if "UNAUTHENTICATED" in statuses]
    assert {"gcs_server", "raylet"} <= {ports[port] for port in guarded}
    token = token_path().read_text().strip()
    assert answers(gcs, [("authorization", f"Bearer {token}")])[0] == "OK"  # so that the refusals mean something
    assert answers(gcs, [("authorization", f"Bearer {'0' * len(token)}")])[0] == "UNAUTHENTICATED"


HTTP = (
    ("GET", "/"),
    ("GET", "/metrics"),
    ("POST", "/get_or_create_runtime_env"),
    ("POST", "/delete_runtime_env_if_possible"),
)
"""The second is a command of Ray's agent for environments, which would install what it is told."""


def http_status(place, method, path, token=None):
    """Return the status of a request of HTTP, or the name of the error if the port does not speak HTTP."""
    connection = http.client.HTTPConnection(*place, timeout=5)
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request(method, path, body=b"" if method == "POST" else None, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


@pytest.mark.ray
def test_no_port_of_a_cluster_answers_requests_of_http_without_the_token(ray_cluster):
    """Of the ports of a cluster that is started here, only Ray's agent for environments speaks HTTP."""

    @ray.remote(num_cpus=0)
    def work():
        return True

    assert ray.get(work.options(runtime_env={"env_vars": {"A": "1"}}).remote())  # so that the agent is there
    ports = ports_of_the_cluster()
    (agent,) = [place for place, name in ports.items() if "RuntimeEnvAgent" in name]
    token = token_path().read_text().strip()
    for method, path in HTTP:
        assert http_status(agent, method, path) == 401
        assert http_status(agent, method, path, "0" * len(token)) in (401, 403)
        assert http_status(agent, method, path, token) not in (401, 403)  # so that the refusals mean something
        for place in set(ports) - {agent}:
            assert not isinstance(http_status(place, method, path), int)


def test_lying_shapes_and_names_that_lead_elsewhere_are_no_messages():
    valid = message("latent_vectors")
    for field, value in (("shape", [2**40, 2**20]), ("shape", [-1, 2]), ("name", "../../x"), ("dtype", "|O")):
        content = msgpack.unpackb(encode(valid))
        header = msgpack.unpackb(content["header"]) if isinstance(content["header"], bytes) else content["header"]
        (described,) = [value for value in header.values() if isinstance(value, list)]
        described[0] = _with_field(described[0], field, value)
        content["header"] = msgpack.packb(header) if isinstance(content["header"], bytes) else header
        with pytest.raises(MessageError):
            decode(msgpack.packb(content))


def _with_field(described, field, value):
    if isinstance(described, dict):
        assert field in described
        return {**described, field: value}
    places = {"name": 0, "dtype": 1, "shape": 2}
    changed = list(described)
    assert isinstance(changed[places[field]], type(value))
    changed[places[field]] = value
    return changed


def test_the_arrays_of_a_message_are_those_that_were_sent():
    """Without this, refusing everything would pass."""
    valid = message("latent_vectors")
    np.testing.assert_array_equal(decode(encode(valid)).arrays["mean"], valid.arrays["mean"])
