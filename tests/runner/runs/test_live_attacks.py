"""Attackers that act while a run goes on, in a folder that they can write to; and runs that begin together."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from actors.backends.in_process import InProcessBackend
from actors.backends.ray.authentication import requires_token
from actors.coordination.coordinator import Coordinator
from actors.errors import CheckpointError, StorageError
from actors.storage.checkpoints import Checkpoints
from actors.storage.claims import probe_storage
from runner.cli.inspect import inspect_run
from runner.commands.monitor import RunMonitor
from runner.report.progress import Progress
from runner.runs.directory import RunDirectory, RunDirectoryError
from runner.runs.state import RunRecord, write_record
from tests.actors.coordination.test_coordinator import ROWS, model
from tests.support.events import timed
from tests.support.other_user import AVAILABLE, OtherUser


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Files of the user elsewhere, with the names that a run directory has."""
    victim = tmp_path / "outside"
    commits = [f"{place}round-{round:03d}" for place in ("", "checkpoints/") for round in range(1, 41)]
    for name in (*commits, "module001_encoder"):
        (victim / name).mkdir(parents=True)
        for file in ("manifest.json", "encoder.state.safetensors", "encoder.outputs.safetensors", "latents_learn.txt"):
            (victim / name / file).write_bytes(b"of the user")
    for file in ("events.jsonl", "metrics.csv", "result.json", "config.yaml"):
        (victim / file).write_bytes(b"of the user")
    return victim


def run_rounds(
    directory: RunDirectory, rounds: int, after_round: Any = lambda _round: None, keep: int | None = 1
) -> None:
    """Train in this process with commits in a run directory; call `after_round` between two rounds."""
    graph = model(rounds)
    monitor = RunMonitor(directory, Progress(graph))

    def emit(event: Any) -> None:
        name, fields = event.event, event.fields()
        if name == "commit":
            monitor._receive_all([timed(name, time.time(), **fields)])
            after_round(fields["round"])

    checkpoints = Checkpoints(directory.commits_location, keep=keep)
    coordinator = Coordinator(graph, InProcessBackend(), checkpoints=checkpoints, emit=emit)
    coordinator.start({"data": {"values": ROWS}})
    coordinator.run_rounds()


def swap(path: Path, target: Path) -> None:
    """Put a link in the place of a directory."""
    path.rename(path.with_name(f"{path.name}-moved-{time.time_ns()}"))
    path.symlink_to(target)


PLACES = {
    "the run directory": lambda path: path,
    "the commits": lambda path: path / "checkpoints",
    "an old commit": lambda path: path / "checkpoints" / "round-001",
    "the next commit": lambda path: path / "checkpoints" / "round-003",
    "outputs": lambda path: path / "module001_encoder",
    "the events": lambda path: path / "events.jsonl",
    "the metrics": lambda path: path / "metrics.csv",
}


@pytest.mark.parametrize("keep", [1, None])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_becomes_a_link_between_two_rounds_leads_nowhere(tmp_path, outside, place, keep) -> None:
    """With ``keep: 1`` a run deletes its former commits; at each commit it writes outputs, events and metrics."""
    directory = RunDirectory.create(tmp_path / "runs", "toy", model(5))
    before, swapped = contents(outside), []

    def attack(round: int) -> None:
        path = PLACES[place](directory.path)
        if round == 2 and (os.path.lexists(path) or place == "the next commit"):
            target = outside / path.name if (outside / path.name).exists() else outside
            swap(path, target) if os.path.lexists(path) else path.symlink_to(target)
            swapped.append(path)

    with suppress(OSError, CheckpointError, RunDirectoryError):  # the run may end; it may not lead outside
        run_rounds(directory, 5, attack, keep)
    assert swapped or (place == "an old commit" and keep == 1)  # that is deleted by then
    assert contents(outside) == before


def test_an_attacker_who_swaps_directories_all_the_time_leads_a_run_nowhere(tmp_path, outside) -> None:
    """From the second commit on, when each process has opened the directory once."""
    before, swaps = contents(outside), 0

    def attack(directory: RunDirectory, begun: threading.Event, ended: threading.Event) -> None:
        nonlocal swaps
        begun.wait(20)
        moved = directory.path.with_name("moved")
        while not ended.is_set():
            for path in (directory.path / "checkpoints", directory.path, *directory.path.glob("checkpoints/round-*")):
                with suppress(OSError):
                    path.rename(moved)
                    path.symlink_to(outside / path.name if (outside / path.name).exists() else outside)
                    swaps += 1
                    time.sleep(0.0003)
                    path.unlink()
                    moved.rename(path)

    for number in range(8):
        directory = RunDirectory.create(tmp_path / f"runs-{number}", "toy", model(40))
        begun, ended = threading.Event(), threading.Event()
        thread = threading.Thread(target=attack, args=(directory, begun, ended), daemon=True)
        thread.start()
        with suppress(OSError, CheckpointError, RunDirectoryError):
            run_rounds(directory, 40, lambda round, begun=begun: begun.set() if round else None)
        assert begun.is_set()
        ended.set()
        thread.join()
    assert swaps > 10
    assert contents(outside) == before


def test_a_directory_that_was_replaced_or_deleted_is_named(tmp_path, outside) -> None:
    directory = RunDirectory.create(tmp_path / "runs", "toy", model(3))
    directory.write_json("result.json", {})
    swap(directory.path, outside)
    with pytest.raises(OSError, match="toy is a link"):
        directory.write_json("result.json", {})
    (tmp_path / "mine" / "toy").mkdir(parents=True)
    swap(tmp_path / "runs", tmp_path / "mine")
    with pytest.raises(OSError, match="toy was replaced by another directory while it was in use") as caught:
        directory.write_json("result.json", {})
    assert str(directory.path) in str(caught.value)
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    Coordinator(model(1), InProcessBackend(), checkpoints=checkpoints).start({"data": {"values": ROWS}})
    (tmp_path / "c").rename(tmp_path / "d")
    coordinator = Coordinator(model(1), InProcessBackend(), checkpoints=checkpoints)
    with pytest.raises(CheckpointError, match=r"commit round-000 could not be written: .*c was replaced by another"):
        coordinator.start({"data": {"values": ROWS}})  # later commits would refer to files that are gone


# --- an impostor --------------------------------------------------------------------------------------------------


class Impostor(grpc.GenericRpcHandler):
    """Answers every request of gRPC as `status` says, and keeps the metadata."""

    def __init__(self, status: grpc.StatusCode) -> None:
        self.status, self.metadata = status, []

    def service(self, details: Any) -> Any:
        self.metadata += [(str(key), str(value)) for key, value in details.invocation_metadata]

        def answer(_request: bytes, context: grpc.ServicerContext) -> bytes:
            if self.status is not grpc.StatusCode.OK:
                context.abort(self.status, "no")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def impostor(status: grpc.StatusCode) -> Any:
    """Yield the port of an impostor, behind a forwarder which keeps all bytes that come, and what is kept."""
    handler, received = Impostor(status), bytearray()
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[handler])
    inner = server.add_insecure_port("127.0.0.1:0")
    server.start()
    listener = socket.create_server(("127.0.0.1", 0))

    def forward(source: socket.socket, target: socket.socket, keep: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if keep:
                    received.extend(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                onward = socket.create_connection(("127.0.0.1", inner))
                for pair in ((client, onward, True), (onward, client, False)):
                    threading.Thread(target=forward, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], received, handler.metadata
    finally:
        listener.close()
        server.stop(None)


TOKEN = "d0" * 32

COMMANDS = """
import os, sys
os.environ["RAY_AUTH_TOKEN"] = {token!r}
sys.argv = ["serket", *sys.argv[1:]]
from runner.cli.app import main
main()
"""


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COMMANDS.format(token=TOKEN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=100)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    run = Path(shutil.copytree(Path(__file__).parents[2] / "data" / "old_run", tmp_path / "runs" / "old"))
    (run / "result.json").unlink()  # as if it were running
    return run


@pytest.mark.parametrize(
    "command", ["attach", *(pytest.param(each, marks=pytest.mark.slow) for each in ("inspect", "stop"))]
)
def test_an_impostor_at_the_address_of_a_run_directory_gets_nothing(tmp_path, trained, command) -> None:
    with impostor(grpc.StatusCode.OK) as (port, received, metadata):
        place = trained / "environment.json"
        place.write_text(json.dumps({"address": f"127.0.0.1:{port}", "detached": True, "own": False, "pid": 1}))
        done = call(tmp_path, command, "old")
        assert "internal error" not in done.stderr
    assert (bytes(received), metadata) == (b"", [])


def test_an_impostor_at_an_address_that_is_given_which_asks_for_no_token_gets_none(tmp_path, trained) -> None:
    """A cluster of Ray that requires no token would take it all the same, in clear."""
    with impostor(grpc.StatusCode.OK) as (port, received, metadata):
        done = call(tmp_path, "attach", "old", "--address", f"127.0.0.1:{port}")
        assert done.returncode == 2
        assert "requires no token" in done.stderr
    assert received  # it was asked
    assert TOKEN.encode() not in received
    assert TOKEN not in str(metadata)


def test_an_impostor_at_an_address_that_is_given_which_asks_for_the_token_gets_it(tmp_path, trained) -> None:
    """What docs/security.md says of ``--address``; it also shows that the other tests would see a token."""
    with impostor(grpc.StatusCode.UNAUTHENTICATED) as (port, received, metadata):
        assert requires_token(f"127.0.0.1:{port}", 5.0)
        assert TOKEN.encode() not in received
        done = call(tmp_path, "attach", "old", "--address", f"127.0.0.1:{port}")
        assert done.returncode == 2
        assert "serket: runs/old: it is not known whether the run is still running" in done.stderr
    assert TOKEN in str(metadata)
    assert TOKEN.encode() in received


# --- storage that is read only ------------------------------------------------------------------------------------


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage of fsspec that can be read and listed, and refuses to be written."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class ReadOnly(MemoryFileSystem):
        protocol = "readonly"
        store: dict[str, Any] = {}

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_options: Any) -> None:
            raise PermissionError(13, "Access Denied", path)

        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            if "r" not in mode:
                raise PermissionError(13, "Access Denied", path)
            return super()._open(path, mode, **options)

    fsspec.register_implementation("readonly", ReadOnly, clobber=True)
    return "readonly://bucket/toy"


def test_storage_that_can_only_be_read_is_refused_in_one_sentence(read_only) -> None:
    with pytest.raises(StorageError, match=r"nothing can be written there \(Access Denied\)") as caught:
        probe_storage(read_only)
    assert "\n" not in str(caught.value)


def test_a_run_is_not_begun_where_its_commits_cannot_be_written(read_only, tmp_path) -> None:
    with pytest.raises(StorageError, match="nothing can be written there"):
        RunDirectory.create(tmp_path / "runs", "toy", model(1), storage=read_only.rpartition("/")[0])
    assert not list((tmp_path / "runs").iterdir())


def test_storage_that_becomes_read_only_during_a_run_ends_it_with_the_commit_named(read_only) -> None:
    coordinator = Coordinator(model(1), InProcessBackend(), checkpoints=Checkpoints(read_only))
    with pytest.raises(CheckpointError, match=r"commit round-000 could not be written: .*Access Denied"):
        coordinator.start({"data": {"values": ROWS}})


@pytest.mark.skipif(not AVAILABLE, reason="needs root and useradd")
def test_a_directory_of_mode_0500_is_refused_before_anything_starts(tmp_path) -> None:
    user = OtherUser()
    try:
        with tempfile.TemporaryDirectory(prefix="serket-read-only-") as name:
            place = Path(name)
            place.chmod(0o755)
            (place / "storage").mkdir(mode=0o500)
            (place / "runs").mkdir()
            for path in (place / "storage", place / "runs"):
                os.chown(path, user.uid, user.gid)

            def begin() -> None:
                RunDirectory.create(place / "runs", "toy", model(1), storage=str(place / "storage"))

            assert user.does(begin) == "StorageError"
            assert not list((place / "runs").iterdir())
            (place / "runs").chmod(0o500)
            assert user.does(begin) == "RunDirectoryError"
    finally:
        user.remove()


# --- runs that begin together -------------------------------------------------------------------------------------


def begin_and_train(runs: Path, number: int, options: dict[str, Any], barrier: Any, results: Any) -> None:
    """Begin a run when all are ready, and train it; report where its commits are, or the error."""
    graph = model(4)
    barrier.wait()
    try:
        directory = RunDirectory.create(runs, "toy", graph, **options)
        checkpoints = Checkpoints(directory.commits_location)
        coordinator = Coordinator(graph, InProcessBackend(), seed=number, run=directory.name, checkpoints=checkpoints)
        coordinator.start({"data": {"values": ROWS}})
        coordinator.run_rounds()
        results.put((number, str(directory.commits_location), ""))
    except (RunDirectoryError, StorageError) as error:
        results.put((number, "", str(error)))


@pytest.mark.parametrize("exact", [True, False], ids=["--name", "name of the model"])
@pytest.mark.parametrize("several", [False, True], ids=["one folder", "several folders"])
@pytest.mark.parametrize("shared", [True, False], ids=["one storage", "in the run directories"])
def test_runs_that_begin_within_milliseconds_do_not_mix_their_commits(tmp_path, exact, several, shared) -> None:
    context, count = multiprocessing.get_context("fork"), 3
    barrier, results = context.Barrier(count), context.Queue()
    options = {"exact": exact, "storage": str(tmp_path / "storage") if shared else None}
    processes = [
        context.Process(
            target=begin_and_train,
            args=(tmp_path / f"runs{number if several else ''}", number, options, barrier, results),
        )
        for number in range(count)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    trained = {number: place for number, place, _ in found if place}
    assert len(set(trained.values())) == len(trained)
    if exact and (shared or not several):
        assert len(trained) == 1
        assert all("choose another --name" in error for _, place, error in found if not place)
    else:
        assert len(trained) == count
    for number, place in trained.items():  # each has its own commits, all of them
        checkpoints = Checkpoints(place)
        assert checkpoints.names() == [f"round-{round:03d}" for round in range(5)]
        assert {checkpoints.manifest(name).seed for name in checkpoints.names()} == {number}


def test_inspect_reads_a_run_whose_record_names_an_impostor_without_a_proof(tmp_path, trained) -> None:
    """The recorded port was taken over by another process of this user: it is asked for its proof, and not believed."""
    with impostor(grpc.StatusCode.OK) as (port, received, metadata):
        write_record(trained, RunRecord(f"127.0.0.1:{port}", detached=True, secret="ab"))
        with suppress(Exception):
            inspect_run(trained)
    assert not [value for key, value in metadata if key == "authorization"]
    assert b"Bearer" not in received
