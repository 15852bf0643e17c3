"""Test the records of running runs, and that a run directory leads to no connection and no import."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.backends.ray import proof
from actors.backends.ray.temporary import MAX_SOCKET_BYTES, ray_directory
from actors.errors import BackendError, CheckpointError
from actors.limits import MAX_RUN_RECORD_BYTES
from runner.cli.doctor import CheckFailedError, _ray_directory, _state, open_sessions
from runner.cli.inspect import inspect_run, print_run, unknown_hint
from runner.cluster.connection import ClusterError, UnprovenError
from runner.commands.resume import resume
from runner.commands.stop import stop
from runner.report.progress import Progress
from runner.runs.connect import connect_to_run
from runner.runs.coordinator_client import CoordinatorClient
from runner.runs.directory import RunDirectory, RunDirectoryError, open_run
from runner.runs.outline import read_outline
from runner.runs.state import (
    NO_RECORD,
    RunRecord,
    StateError,
    known_address,
    new_secret,
    note_storage,
    prepare_state_directory,
    read_record,
    recorded,
    remove_record,
    state_directory,
    state_problem,
    write_record,
)
from runner.runs.timing import Clock
from tests.runner.commands.test_resume import attach_to, run  # noqa: F401 (a fixture)
from tests.support.other_user import open_directory

RECORD = RunRecord("10.0.0.1:6379", own=False, detached=True, pid=7, secret="s" * 64)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "state"


class TestRecord:
    def test_it_is_read_as_it_was_written_and_private(self, tmp_path: Path, state: Path) -> None:
        write_record(tmp_path, RECORD)
        (path,) = state.iterdir()
        assert read_record(tmp_path) == RECORD
        assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(state.stat().st_mode)) == (0o600, 0o700)
        remove_record(tmp_path)
        assert read_record(tmp_path) is None

    def test_a_link_to_the_run_is_the_run_and_a_copy_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "run"
        path.mkdir()
        write_record(path, RECORD)
        (tmp_path / "link").symlink_to(path)
        shutil.copytree(path, tmp_path / "copy")
        assert read_record(tmp_path / "link") == RECORD
        assert read_record(tmp_path / "copy") is None

    def test_a_secret_is_long_random_and_not_shown(self) -> None:
        assert len({new_secret() for _ in range(9)}) == 9
        assert len(new_secret()) == 64
        assert RECORD.secret not in repr(RECORD)

    def test_that_of_a_run_is_removed_at_its_end_and_that_of_a_detached_one_stays(self, tmp_path: Path) -> None:
        with recorded(tmp_path, RunRecord("a:1")):
            assert read_record(tmp_path) is not None
        assert read_record(tmp_path) is None
        with recorded(tmp_path, RECORD):
            pass
        assert read_record(tmp_path) == RECORD
        with pytest.raises(KeyboardInterrupt), recorded(tmp_path, RECORD):
            raise KeyboardInterrupt
        assert read_record(tmp_path) is None

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"[]",
            b"null",
            b"\xff",
            b"[" * 30_000,
            b'{"address": 3, "own": false, "detached": true, "pid": 7, "secret": "s"}',
            b'{"address": "a:1", "own": 1, "detached": true, "pid": 7, "secret": "s"}',
            b'{"address": "a:1"}',
            b'{"address": "a:1", "own": false, "detached": true, "pid": 7, "secret": "s", "more": 1}',
            b" " * (MAX_RUN_RECORD_BYTES + 1),
        ],
        ids=range(10),
    )
    def test_one_that_is_not_valid_is_named_with_the_remedy(self, tmp_path: Path, state: Path, content: bytes) -> None:
        write_record(tmp_path, RECORD)
        (path,) = state.iterdir()
        path.write_bytes(content)
        with pytest.raises(StateError, match=rf"^{path}: is not a valid record of a run \(.*\); delete it$"):
            read_record(tmp_path)

    @pytest.mark.parametrize("kind", ["link", "pipe", "directory", "writable"])
    def test_one_that_is_no_private_file_is_refused(self, tmp_path: Path, state: Path, kind: str) -> None:
        write_record(tmp_path, RECORD)
        (path,) = state.iterdir()
        if kind == "writable":
            path.chmod(0o666)
        else:
            path.rename(tmp_path / "elsewhere")
        if kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        with pytest.raises(StateError, match=f"^{path}: is not a valid record of a run"):
            read_record(tmp_path)

    def test_a_state_directory_that_is_a_link_is_refused(self, tmp_path: Path, state: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        state.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(
            StateError, match=f"{state} is a link; name another one, of your own, with SERKET_STATE_DIR"
        ):
            prepare_state_directory()
        assert state_problem() == f"{state} is a link"

    def test_a_state_directory_that_cannot_be_made_is_named_with_the_remedy(self, state: Path) -> None:
        state.write_text("a file in the way")
        with pytest.raises(StateError, match=f"{state}: the state directory cannot be used: .* with SERKET_STATE_DIR"):
            prepare_state_directory()

    def test_its_place_is_the_users_state(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SERKET_STATE_DIR")
        monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
        assert state_directory() == Path("/somewhere/serket-actors")

    def test_an_address_that_is_given_counts_before_the_record_and_that_before_the_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert known_address(None, None) is None
        monkeypatch.setenv("RAY_ADDRESS", "c:3")
        assert known_address(None, None) == "c:3"
        assert known_address(RECORD, None) == RECORD.address
        assert known_address(RECORD, "b:2") == "b:2"


@contextmanager
def listener():
    """Listen on a port; yield it and a list that gets an entry for each connection."""
    connections: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)

        def accept() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                connections.append(b"+")
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], connections


class TestRunDirectoryOfAStranger:
    """Its ``environment.json`` names an address, its config names code."""

    @pytest.fixture
    def trap(self, run):  # noqa: F811
        with listener() as (port, connections):
            for detached, own in ((True, False),):
                content = {"address": f"127.0.0.1:{port}", "detached": detached, "own": own, "pid": 1}
                (run / "environment.json").write_text(json.dumps(content))
            yield run, connections

    def test_inspect_does_not_connect_and_says_what_to_do(self, trap, capsys) -> None:
        path, connections = trap
        status = inspect_run(path)
        print_run(status, hint=unknown_hint(path))
        assert status["next"] == f"serket resume {path}"
        assert f"{NO_RECORD}, it is not running; continue with: serket resume" in capsys.readouterr().out
        assert not connections

    @pytest.mark.parametrize("result", [False, True])
    def test_inspect_looks_for_commits_only_at_urls_that_a_run_of_this_user_has(self, trap, capsys, result) -> None:
        """The config names a service, which would see credentials or the address of this machine."""
        path, connections = trap
        with listener() as (port, reached):
            config = (path / "config.yaml").read_text()
            (path / "config.yaml").write_text(f"{config}checkpoints: {{storage: 'http://127.0.0.1:{port}/runs'}}\n")
            if result:
                (path / "result.json").write_text("{}")
            status = inspect_run(path)
            print_run(status, hint=unknown_hint(path))
            said = " ".join(capsys.readouterr().out.split())
            assert f"its config names http://127.0.0.1:{port}/runs/{path.name} as the place of its commits" in said
            assert f"nothing is read there; serket attach {path} does" in said
            assert not reached
            note_storage(f"http://127.0.0.1:{port}/runs/{path.name}")
            with pytest.raises(CheckpointError, match="the commits cannot be listed"):
                inspect_run(path)
            assert reached
        assert not connections

    def test_attach_and_stop_do_not_connect_and_say_what_to_do(self, trap) -> None:
        path, connections = trap
        with pytest.raises(
            RunDirectoryError, match=r"give that cluster's --address\), the run is on no cluster any more;"
        ):
            attach_to(path)
        with pytest.raises(
            RunDirectoryError, match=r"give that cluster's --address\), the run is not running; the last"
        ):
            stop(open_run(path), now=True, log=print)
        assert not connections

    def test_resume_goes_on_without_a_connection(self, trap, monkeypatch: pytest.MonkeyPatch) -> None:
        path, connections = trap
        reached = []

        def start(address, *_):
            reached.append(address)
            raise ClusterError("started")

        monkeypatch.setattr("runner.cluster.connection.cluster", start)
        opened = open_run(path)
        progress = Progress(opened.directory.graph)
        with pytest.raises(ClusterError, match=r"^started$"):
            resume(opened, clock=Clock(time.time()), progress=progress, address=None)
        assert (reached, connections) == ([None], [])

    @pytest.mark.parametrize("argument", [None, "timeline"])
    def test_inspect_imports_no_code(self, tmp_path: Path, argument: str | None) -> None:
        from typer.testing import CliRunner

        from runner.cli.app import app

        path = tmp_path / "theirs"
        path.mkdir()
        (path / "evil_module.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
        (path / "config.yaml").write_text(
            "name: theirs\ncode: [.]\ndata: {source: cycle}\nmodules: {b: {type: 'evil_module:Model'}}\n"
            "connections: [data -> b]\nschedule: {rounds: 2}\n"
        )
        (path / "events.jsonl").write_text('{"time": 1.0, "event": "round", "round": 1}\n')
        options = ["--timeline", str(tmp_path / "out.json")] if argument else []
        done = CliRunner().invoke(app, ["inspect", str(path), *options])
        assert not (tmp_path / "ran").exists()
        assert done.exit_code in (0, 2), done.output
        assert argument or "0 commits, the last none yet" in done.output

    def test_the_outline_has_the_modules_in_order_of_connection(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text(
            "data: {source: cycle}\nmodules: {top: {type: x}, low: {type: y}}\n"
            "connections: [data -> low, low -> top]\nschedule: {rounds: 2}\ncheckpoints: {storage: commits}\n"
        )
        outline = read_outline(tmp_path)
        assert (outline.modules, outline.rounds) == (["data", "low", "top"], 2)
        assert outline.directory.storage == str(tmp_path / "commits")


class Table:
    """A key-value table in place of a cluster's."""

    def __init__(self, content: bytes | None = None) -> None:
        self.content = content

    def internal_kv_get(self, _key: bytes, _namespace: bytes) -> bytes | None:
        return self.content


class TestProof:
    def test_only_the_same_secret_and_run_prove(self) -> None:
        right = Table(proof.proof_of("secret", "toy"))
        assert proof.is_proven(right, "secret", "toy", wait=0)
        assert not proof.is_proven(right, "secres", "toy", wait=0)
        assert not proof.is_proven(right, "secret", "other", wait=0)
        assert not proof.is_proven(Table(None), "secret", "toy", wait=0)
        assert not proof.is_proven(Table(b""), "secret", "toy", wait=0)

    def test_the_secret_is_not_in_the_proof(self) -> None:
        assert b"secret" not in proof.proof_of("secret", "toy")

    @pytest.mark.ray
    @pytest.mark.parametrize("theirs", [None, "another secret"])
    def test_what_a_cluster_without_the_proof_holds_is_not_used(
        self, ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: str | None
    ) -> None:
        directory = RunDirectory(tmp_path / f"unproven-{theirs is None}", None)
        directory.path.mkdir()
        if theirs:
            proof.publish_proof(theirs, directory.name)
        write_record(directory.path, RunRecord(ray_cluster, detached=True, secret=new_secret()))
        monkeypatch.setattr("runner.cluster.connection.PROOF_SECONDS", 0.3)
        monkeypatch.setattr(CoordinatorClient, "find", lambda *_: pytest.fail("an actor was looked up"))
        with (
            pytest.raises(UnprovenError, match=r"does not prove .*continue with serket resume .*give its --address"),
            connect_to_run(directory),
        ):
            pass

    @pytest.mark.ray
    def test_the_coordinator_of_a_run_proves_its_secret(self, ray_cluster: str, run) -> None:  # noqa: F811
        from runner.commands.driver import build_run_spec

        config, directory = open_run(run)
        record = RunRecord(ray_cluster, detached=True, secret=new_secret())
        client = CoordinatorClient.launch(build_run_spec(config, directory, secret=record.secret))
        try:
            client.describe()
            with recorded(directory.path, record), connect_to_run(directory) as found:
                assert found is not None
                assert found.describe()["coordinator"]["pid"] == client.describe()["coordinator"]["pid"]
        finally:
            client.stop()


class TestRaysDirectory:
    def test_it_lies_below_a_private_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.delenv("TMPDIR", raising=False)
        parent = Path(ray_directory()).parent
        assert parent == Path(f"/tmp/serket-{os.getuid()}")
        assert stat.S_IMODE(parent.stat().st_mode) == 0o700

    @pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
    def test_a_path_that_is_too_long_for_sockets_is_named_with_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        long = tmp_path / ("x" * 60)
        monkeypatch.setenv(name, str(long))
        with pytest.raises(
            BackendError, match=rf"from {name}\), is \d+ bytes too long .* with a short path, in RAY_TMPDIR$"
        ):
            ray_directory()
        assert not long.exists()

    def test_a_private_directory_is_used_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as private:
            monkeypatch.setenv("RAY_TMPDIR", private)
            assert ray_directory() == f"{private}/ray"
            socket_path = f"{ray_directory()}/session_2026-11-29_02-00-32_123456_1234567/sockets/plasma_store.1"
            assert len(socket_path) <= MAX_SOCKET_BYTES


class TestDoctor:
    def test_it_reports_the_state_directory(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert _state() == f"the state directory is {state}, which the first run creates"
        prepare_state_directory()
        assert _state() == f"the state directory {state} is writable by you alone, mode 0700"
        with open_directory(0o777) as path:
            monkeypatch.setenv("SERKET_STATE_DIR", str(path))
            with pytest.raises(CheckFailedError, match=r"written by other users \(mode 0777\): .* SERKET_STATE_DIR"):
                _state()

    def test_it_reports_a_running_ray_that_other_users_can_write_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runner.cli.doctor.open_sessions", list)
        assert _ray_directory().endswith("/ray, which no other user can enter")
        monkeypatch.setattr("runner.cli.doctor.open_sessions", lambda: ["/tmp/ray/session_x"])
        with pytest.raises(CheckFailedError, match=r"/tmp/ray/session_x: other users can replace .* RAY_TMPDIR"):
            _ray_directory()

    @pytest.mark.ray
    @pytest.mark.usefixtures("ray_cluster")
    def test_the_cluster_of_these_tests_is_shut_to_other_users(self) -> None:
        import ray

        session = ray._private.worker.global_worker.node.get_session_dir_path()
        assert session not in open_sessions()
        assert Path(session).stat().st_mode & 0o002  # as Ray leaves it; the directory above is what shuts it
