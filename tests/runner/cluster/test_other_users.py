"""Attacks of another user of the machine on the token, the caches, the state directory and Ray's directory."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from actors.backends.ray.temporary import ray_directory
from actors.errors import BackendError
from actors.kernels import jit
from actors.kernels.path_safety import why_unsafe
from runner.cluster.auth import TokenError, ensure_private_token, token_problem
from runner.cluster.connection import ClusterError, _resolve_address
from runner.cluster.listeners import why_foreign
from runner.cluster.processes import running_cluster_addresses
from runner.runs.connect import connect_to_run
from runner.runs.directory import RunDirectory
from runner.runs.state import RunRecord, StateError, prepare_state_directory, read_record, state_problem, write_record
from tests.conftest import wait_until
from tests.support.other_user import AVAILABLE, OtherUser, open_directory

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="needs root and useradd")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def stranger():
    user = OtherUser()
    yield user
    user.remove()


@pytest.fixture
def shared():
    """A directory like ``/tmp``."""
    with open_directory(0o1777) as path:
        yield path


@pytest.fixture
def open_to_all():
    """A directory of mode 0777, as Ray makes them."""
    with open_directory(0o777) as path:
        yield path


class TestRaysDirectory:
    @pytest.fixture(autouse=True)
    def _in_shared(self, shared, monkeypatch):
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", str(shared))

    def test_a_stranger_can_neither_look_into_it_nor_replace_it(self, shared, stranger):
        path = Path(ray_directory())
        path.chmod(0o777)  # as Ray does
        assert (path.parent, stat.S_IMODE(path.parent.stat().st_mode)) == (shared / f"serket-{os.getuid()}", 0o700)
        (path / "code.py").touch()
        attacks = (
            lambda: list(path.iterdir()),
            lambda: (path / "code.py").write_text("evil"),
            lambda: (path / "ray_current_cluster").write_text("6.6.6.6:6379"),
            lambda: path.parent.rename(shared / "gone"),
            lambda: path.parent.rmdir(),
        )
        assert [stranger.does(attack) for attack in attacks] == ["PermissionError"] * 5
        assert ray_directory() == str(path)

    def test_a_directory_that_a_stranger_made_first_is_refused(self, shared, stranger):
        squatted = shared / f"serket-{os.getuid()}"
        assert stranger.does(squatted.mkdir) == ""
        with pytest.raises(BackendError, match=f"{squatted} belongs to user {stranger.name}; name another directory"):
            ray_directory()

    def test_a_link_that_a_stranger_made_first_is_refused(self, shared, stranger, tmp_path):
        squatted = shared / f"serket-{os.getuid()}"
        assert stranger.does(lambda: squatted.symlink_to(tmp_path)) == ""
        with pytest.raises(BackendError, match=f"{squatted} is a link that belongs to user {stranger.name}"):
            ray_directory()
        assert not list(tmp_path.iterdir())

    def test_a_directory_without_the_sticky_bit_is_no_place_for_it(self, open_to_all, monkeypatch):
        monkeypatch.setenv("TMPDIR", str(open_to_all))
        with pytest.raises(BackendError, match=r"can be written by other users \(mode 0777\); name another directory"):
            ray_directory()


class TestAuto:
    """``--address auto`` gives the token to the cluster that it finds."""

    @pytest.fixture(autouse=True)
    def _in_shared(self, shared, monkeypatch):
        for name in ("RAY_TMPDIR", "RAY_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TMPDIR", str(shared))

    @pytest.mark.parametrize("make", [lambda path: path.write_text("192.0.2.6:6379"), lambda path: os.mkfifo(path)])
    def test_a_file_of_a_stranger_leads_nowhere(self, shared, stranger, make):
        file = shared / "ray" / "ray_current_cluster"  # where Ray would look
        assert stranger.does(lambda: (file.parent.mkdir(), make(file))) == ""
        with suppress(ClusterError):
            assert _resolve_address("auto") != "192.0.2.6:6379"

    def test_only_processes_of_this_user_lead_to_a_cluster(self, shared, stranger):
        raylet = shared / "raylet"
        raylet.write_text("#!/bin/sh\nsleep 60 & wait\n")
        raylet.chmod(0o755)

        def starts(address, **options):
            return subprocess.Popen([raylet, f"--gcs-address={address}"], start_new_session=True, **options)

        theirs, own = starts("192.0.2.6:6379", user=stranger.uid, group=stranger.gid), starts("127.0.0.1:4")
        try:
            wait_until(lambda: "127.0.0.1:4" in running_cluster_addresses())
            assert [name.rpartition("/")[2] for name in psutil.Process(theirs.pid).cmdline()[1:2]] == ["raylet"]
            assert "192.0.2.6:6379" not in running_cluster_addresses()
        finally:
            for process in (theirs, own):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class TestToken:
    @pytest.fixture
    def token(self, shared, monkeypatch):
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(shared / "token"))
        return shared / "token"

    def test_a_token_that_a_stranger_wrote_is_refused(self, token, stranger):
        assert stranger.does(lambda: token.write_text("e" * 64)) == ""
        with pytest.raises(TokenError, match=f"the token is refused: {token} belongs to user {stranger.name}; correct"):
            ensure_private_token(create=True)
        assert "cannot be trusted" in token_problem()

    def test_a_token_that_a_stranger_could_write_is_refused_and_not_quietly_corrected(self, token, stranger):
        token.write_text("m" * 64)
        token.chmod(0o666)
        assert stranger.does(lambda: token.write_text("e" * 64)) == ""
        with pytest.raises(
            TokenError, match=r"token can be written by other users \(mode 0666\); correct that and repl"
        ):
            ensure_private_token(create=False)
        assert stat.S_IMODE(token.stat().st_mode) == 0o666

    def test_a_link_of_a_stranger_is_refused(self, token, stranger, tmp_path):
        (tmp_path / "theirs").write_text("e" * 64)
        assert stranger.does(lambda: token.symlink_to(tmp_path / "theirs")) == ""
        with pytest.raises(TokenError, match=f"is a link that belongs to user {stranger.name}"):
            ensure_private_token(create=False)

    def test_a_link_to_a_file_of_a_stranger_is_refused(self, token, stranger, shared):
        assert stranger.does(lambda: (shared / "theirs").write_text("e" * 64)) == ""
        token.symlink_to(shared / "theirs")
        with pytest.raises(TokenError, match=f"theirs belongs to user {stranger.name}"):
            ensure_private_token(create=False)

    def test_a_token_in_a_directory_that_a_stranger_can_write_is_refused(self, open_to_all, monkeypatch, stranger):
        token = open_to_all / "token"
        token.write_text("m" * 64)
        token.chmod(0o600)
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        assert stranger.does(lambda: token.rename(open_to_all / "gone")) == ""
        with pytest.raises(TokenError, match=r"can be written by other users \(mode 0777\)"):
            ensure_private_token(create=True)

    def test_a_token_that_a_stranger_could_read_is_made_private_with_a_warning(self, token, stranger, caplog):
        token.write_text("m" * 64)
        token.chmod(0o644)
        assert stranger.does(token.read_text) == ""
        ensure_private_token(create=False)
        assert "could be read by other users" in caplog.text
        assert stranger.does(token.read_text) == "PermissionError"


class Payload:
    """Creates a file where it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


USE_KERNEL = """
import numpy as np
from actors.kernels.mixture import cholesky
cholesky.rank_one_update(np.eye(2), np.ones(2), 1.0)
"""


def use_kernel(cache):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SERKET_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", USE_KERNEL], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


class TestCache:
    def test_machine_code_of_a_stranger_is_not_loaded(self, open_to_all, stranger, tmp_path, monkeypatch):
        """The stranger finds a cache in a directory that everybody can write, and replaces its index."""
        open_to_all.chmod(0o755)
        use_kernel(open_to_all)
        (index,) = open_to_all.rglob("cholesky.rank_one_update-*.nbi")
        marker = tmp_path / "ran"
        index.parent.chmod(0o777)

        def replace():
            index.unlink()
            index.write_bytes(pickle.dumps(Payload(marker)))

        assert stranger.does(replace) == ""
        stderr = use_kernel(open_to_all)
        assert not marker.exists()
        assert f"compiled kernels are not read from {index.parent}: " in stderr
        index.parent.chmod(0o755)  # what lies in it is still the stranger's
        stderr = use_kernel(open_to_all)
        assert not marker.exists()
        assert f"{index} belongs to user {stranger.name}" in stderr

    def test_a_folder_that_a_stranger_made_first_is_not_used_and_reported(self, shared, stranger, monkeypatch):
        from runner.cli.doctor import CheckFailedError, _kernels

        monkeypatch.setenv("SERKET_CACHE_DIR", str(shared))
        assert stranger.does((shared / "numba").mkdir) == ""
        assert jit.cache_problem() == f"{shared}/numba belongs to user {stranger.name}"
        monkeypatch.setattr("actors.kernels.mixture.gibbs.compile_kernels", lambda: None)
        with pytest.raises(CheckFailedError, match="set SERKET_CACHE_DIR to a directory of your own"):
            _kernels()


class TestStateDirectory:
    @pytest.fixture
    def state(self, shared, monkeypatch):
        monkeypatch.setenv("SERKET_STATE_DIR", str(shared / "state"))
        return shared / "state"

    def test_a_stranger_can_neither_read_nor_write_a_record(self, state, stranger, tmp_path):
        write_record(tmp_path, RunRecord("10.0.0.1:6379", secret="s"))
        (record,) = state.iterdir()
        assert stat.S_IMODE(record.stat().st_mode) == 0o600
        attacks = (lambda: list(state.iterdir()), record.read_text, lambda: record.write_text("{}"), record.unlink)
        assert [stranger.does(attack) for attack in attacks] == ["PermissionError"] * 4
        assert read_record(tmp_path) == RunRecord("10.0.0.1:6379", secret="s")

    def test_a_directory_that_a_stranger_made_first_is_refused(self, state, stranger, tmp_path):
        assert stranger.does(state.mkdir) == ""
        for attempt in (prepare_state_directory, lambda: read_record(tmp_path)):
            with pytest.raises(StateError, match=rf"{state} belongs to user {stranger.name}; .*with SERKET_STATE_DIR"):
                attempt()

    def test_a_directory_that_a_stranger_could_write_is_refused_with_what_lies_in_it(self, state, stranger, tmp_path):
        write_record(tmp_path, RunRecord("10.0.0.1:6379", secret="s"))
        (record,) = state.iterdir()
        state.chmod(0o777)

        def replace():
            record.unlink()
            record.write_text('{"address": "6.6.6.6:1", "own": false, "detached": true, "pid": 1, "secret": "e"}')

        assert stranger.does(replace) == ""
        assert state_problem() == f"{state} can be written by other users (mode 0777)"
        with pytest.raises(StateError, match=r"can be written by other users"):
            read_record(tmp_path)
        state.chmod(0o700)
        with pytest.raises(StateError, match=r"it is no file that belongs to you alone\); delete it"):
            read_record(tmp_path)

    def test_a_stranger_at_the_recorded_port_is_not_connected_to(self, state, stranger, tmp_path, monkeypatch):
        monkeypatch.setattr("runner.cluster.connection.ray.is_initialized", lambda: False)  # by another test
        run = RunDirectory(tmp_path, None)
        with stranger.listens() as (port, connections):
            assert "belongs to another user" in why_foreign(f"127.0.0.1:{port}")
            write_record(tmp_path, RunRecord(f"127.0.0.1:{port}", detached=True, secret="s"))
            with (
                pytest.raises(ClusterError, match="the process that listens there belongs to another user"),
                connect_to_run(run),
            ):
                pass
            assert connections() == 0


def test_what_only_this_user_and_root_can_write_is_safe(stranger, open_to_all):
    own = open_to_all / "own"
    own.mkdir(mode=0o700)
    assert "mode 0777" in why_unsafe(own)  # the stranger can put another directory in its place
    open_to_all.chmod(0o755)
    (own / "inner").mkdir()
    (own / "inner").chmod(0o777)
    assert why_unsafe(own / "inner") == ""  # behind a directory that the stranger cannot enter
    own.chmod(0o711)
    assert "mode 0777" in why_unsafe(own / "inner")
    os.chown(own, stranger.uid, stranger.gid)
    assert why_unsafe(own / "inner") == f"{own} belongs to user {stranger.name}"


def test_an_ordinary_user_passes_all_checks_with_directories_of_their_own(stranger, shared):
    """The checks must not depend on being root; a private home below directories of root's is the usual case."""

    def use_all():
        home = shared / "home"
        home.mkdir(mode=0o755)
        os.environ.update(
            SERKET_STATE_DIR=str(home / "state"), SERKET_CACHE_DIR=str(home / "cache"), TMPDIR=str(shared)
        )
        os.environ.update(TMPDIR=str(shared), RAY_AUTH_TOKEN_PATH=str(home / "a" / "token"), RAY_AUTH_MODE="token")
        for name in ("RAY_TMPDIR", "RAY_AUTH_TOKEN"):
            os.environ.pop(name, None)
        record = RunRecord("10.0.0.1:6379", secret="s")
        write_record(home, record)
        ensure_private_token(create=True)
        assert read_record(home) == record
        assert not token_problem()
        assert not jit.cache_problem()
        assert ray_directory() == str(shared / f"serket-{stranger.uid}" / "ray")
        with socket.create_server(("127.0.0.1", 0)) as server:
            assert not why_foreign(f"127.0.0.1:{server.getsockname()[1]}")

    assert stranger.does(use_all) == ""
