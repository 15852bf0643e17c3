"""Storage backends: a local path and any URL give equal commits, and errors name the file."""

import errno
import importlib
import os
import socket
import sys
import time
import uuid

import fsspec
import pytest

from actors.errors import CheckpointError, StorageError
from actors.storage import filesystem
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import LocalStorage, ObjectStorage, storage_at
from actors.storage.module_files import LoadRequest, load_module_files
from tests.actors.coordination.test_coordinator import learn, model


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield "memory://runs/digits"
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def s3_server():
    """Start an S3 server on this machine and return its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """Create a bucket and return a URL in it; address and credentials are environment variables, as for users."""
    from s3fs import S3FileSystem

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex}"
    S3FileSystem().mkdir(name)
    yield f"s3://{name}/digits"
    S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["path", "file", "memory", "s3"])
def root(request, tmp_path):
    if request.param in ("path", "file"):
        path = tmp_path / "with spaces" / "checkpoints"
        return str(path) if request.param == "path" else path.as_uri()
    return request.getfixturevalue({"memory": "memory", "s3": "bucket"}[request.param])


def digests(checkpoints):
    return {
        (name, module, label): (file.path, file.digest)
        for name in checkpoints.names()
        for module, record in checkpoints.manifest(name).modules.items()
        for label, file in record.files.items()
    }


def test_a_run_has_the_same_commits_in_every_storage(root, tmp_path):
    local, checkpoints = Checkpoints(tmp_path / "plain"), Checkpoints(root)
    learn(model(rounds=2), local)
    learn(model(rounds=2), checkpoints)
    assert digests(checkpoints) == digests(local)
    assert len(digests(checkpoints)) > 15
    manifest = Checkpoints(root).newest_whole(pytest.fail)
    assert manifest.name == "round-002"
    record = manifest.modules["encoder"]
    loaded = [load_module_files(LoadRequest(str(each.root), "encoder", record)) for each in (local, checkpoints)]
    assert loaded[0][0] == loaded[1][0]
    assert loaded[0][1]["weights"].tobytes() == loaded[1][1]["weights"].tobytes()


def test_damage_and_pruning_are_handled_equally_in_every_storage(root):
    checkpoints = Checkpoints(root, keep=2)
    learn(model(rounds=3), checkpoints)
    assert checkpoints.names() == ["round-002", "round-003"]
    storage = storage_at(root)
    assert {path.partition("/")[0] for path in storage.files()} == {"round-000", "round-002", "round-003"}
    assert all(path.startswith("round-000/data.") for path in storage.files() if path.startswith("round-000"))
    storage.write("round-003/encoder.state.safetensors", b"damaged")
    log = []
    assert checkpoints.newest_whole(log.append).name == "round-002"
    assert storage.location("round-003/encoder.state.safetensors") in log[0]


def test_a_storage_returns_the_last_written_contents(root):
    storage = storage_at(root)
    assert storage.files() == []
    for data in (b"first", b"", b"second" * 1000):
        storage.write("round-001/a", data)
        assert storage_at(root).read("round-001/a") == data
    storage.write("round-002/b", b"")
    assert sorted(storage.files()) == ["round-001/a", "round-002/b"]
    assert storage.files("b") == ["round-002/b"]
    storage.delete(["round-001/a", "round-001/a"])
    storage.delete_directory("round-001")
    storage.delete_directory("round-001")
    storage.delete_directory("round-002")
    assert storage_at(root).files() == ["round-002/b"]
    assert storage.directories() in (["round-002"], [])


def test_at_most_max_bytes_of_a_file_are_read(root):
    storage = storage_at(root)
    storage.write("round-001/a", b"0123456789")
    assert storage.read("round-001/a", 4) == b"0123"
    assert storage.read("round-001/a", 10) == storage.read("round-001/a", 11) == b"0123456789"


def test_files_larger_than_recorded_are_not_read_into_memory(root, monkeypatch):
    checkpoints = Checkpoints(root)
    learn(model(rounds=1), checkpoints)
    storage, limits = storage_at(root), []
    manifest = checkpoints.manifest("round-001")
    state = manifest.modules["encoder"].files["state"]
    storage.write(state.path, b"\0" * (state.size + 5000))
    storage.write("round-002/manifest.json", b" " * (20 << 20))
    read = type(storage).read
    monkeypatch.setattr(
        type(storage), "read", lambda self, path, limit=None: limits.append(limit) or read(self, path, limit)
    )
    with pytest.raises(CheckpointError, match=f"damaged, the manifest lists {state.size} bytes, the file has more"):
        checkpoints.state(manifest, "encoder")
    with pytest.raises(CheckpointError, match=r"the manifest is not readable \(it is larger than 16 MiB"):
        checkpoints.manifest("round-002")
    assert limits == [state.size + 1, (16 << 20) + 1]


def test_a_missing_file_is_named(root):
    with pytest.raises(FileNotFoundError) as caught:
        storage_at(root).read("round-001/a")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == storage_at(root).location("round-001/a")


def test_files_that_another_process_wrote_are_listed(bucket):
    storage, other = storage_at(bucket), storage_at(bucket)
    other._files = type(storage._files)(skip_instance_cache=True)
    storage.write("round-000/a", b"")
    assert len(storage.files()) == 1
    other.write("round-001/a", b"")
    assert len(storage.files()) == 2


def test_a_missing_bucket_is_named_and_not_created(bucket):
    with pytest.raises(FileNotFoundError, match="bucket does not exist: 's3://elsewhere/digits/round-000/a'"):
        storage_at("s3://elsewhere/digits").write("round-000/a", b"")
    assert storage_at("s3://elsewhere/digits").files() == []


def test_exceptions_of_a_storage_package_become_os_errors_that_name_the_file(memory):
    storage = storage_at(memory)

    class Broken:
        def __getattr__(self, name):
            raise KeyError("the service is out of order")

    storage._files = Broken()
    for call in (
        lambda: storage.write("a/b", b""),
        lambda: storage.read("a/b"),
        storage.files,
        lambda: storage.delete(["a/b"]),
    ):
        with pytest.raises(OSError, match=f"out of order.*{memory}"):
            call()


@pytest.mark.parametrize("call", ["write", "fsync", "open", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_raises_an_error_that_names_the_file_and_leaves_no_temporary_file(
    tmp_path, monkeypatch, call, number
):
    storage = LocalStorage(tmp_path)
    storage.write("round-001/a", b"before")

    def full(*arguments, **keywords):
        if call == "open" and not arguments[1] & os.O_CREAT:
            return os.open(*arguments, **keywords)
        raise OSError(number, os.strerror(number))

    class Full:
        def __getattr__(self, name):
            return full if name == call else getattr(os, name)

    with monkeypatch.context() as patched:
        patched.setattr(filesystem, "os", Full())
        with pytest.raises(OSError, match="round-001/a'") as caught:
            storage.write("round-001/a", b"after")
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "round-001" / "a"))
    assert storage.files() == ["round-001/a"]
    assert storage.read("round-001/a") == b"before"


def test_a_write_of_several_system_calls_is_complete(tmp_path, monkeypatch):
    class Slow:
        def __getattr__(self, name):
            return (lambda file, data: os.write(file, data[:3])) if name == "write" else getattr(os, name)

    monkeypatch.setattr(filesystem, "os", Slow())
    LocalStorage(tmp_path).write("round-001/a", b"longer than three bytes")
    assert (tmp_path / "round-001" / "a").read_bytes() == b"longer than three bytes"


def test_a_root_that_is_a_file_raises_an_os_error(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(OSError, match="checkpoints/round-001/a"):
        LocalStorage(tmp_path / "checkpoints").write("round-001/a", b"")


def test_local_roots_are_paths_and_other_roots_are_text(tmp_path, memory):
    assert (
        Checkpoints(tmp_path).root == Checkpoints(str(tmp_path)).root == Checkpoints(tmp_path.as_uri()).root == tmp_path
    )
    assert Checkpoints(f"{memory}/").root == memory
    assert isinstance(storage_at(memory), ObjectStorage)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nowhere://bucket/run", r"unknown protocol nowhere://.*pip install 'serket-actors\[s3\]'"),
        ("s3:/bucket/run", "a URL with a missing slash"),
        ("file://run", "expected an absolute path"),
        ("simplecache::s3://bucket/run", "a single protocol"),
        ("://bucket", "a single protocol"),
    ],
)
def test_an_unusable_url_is_refused_in_one_line(url, error):
    with pytest.raises(StorageError, match=error) as caught:
        Checkpoints(url)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


def test_the_error_for_a_missing_package_of_a_protocol_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageError, match=r"s3://bucket/run: s3://.*pip install 'serket-actors\[s3\]'"):
        Checkpoints("s3://bucket/run")


def test_local_storage_does_not_import_fsspec(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    learn(model(rounds=1), Checkpoints(tmp_path))
    with pytest.raises(ImportError):
        Checkpoints("memory://run")


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_a_service_that_does_not_answer_is_an_error_after_the_time_limit(scheme, monkeypatch):
    """It accepts connections and says nothing; the packages themselves wait for minutes."""
    from s3fs import S3FileSystem

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setattr(filesystem, "STORAGE_SECONDS", 0.4)
        monkeypatch.setattr(filesystem, "STORAGE_RATE", 1 << 40)
        S3FileSystem.clear_instance_cache()
        storage = storage_at({"s3": "s3://bucket/run", "http": f"http://{address}/run"}[scheme])
        calls = [
            storage.files,
            lambda: storage.read("round-001/manifest.json", 100),
            lambda: list(storage.blocks("round-001/a", 100)),
            lambda: storage.write("round-001/a", b"x"),
            lambda: storage.delete(["round-001/a"]),
        ]
        for call in calls[: 3 if scheme == "http" else None]:  # nothing is written or deleted over HTTP
            started = time.monotonic()
            with pytest.raises(OSError, match="the service has not answered within 0 s") as caught:
                call()
            assert caught.value.errno == errno.ETIMEDOUT
            assert time.monotonic() - started < 5
        S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    "url",
    [
        "reference://x::file:///tmp/a.json",
        "simplecache://x::http://127.0.0.1:9/a",
        "zip://a::s3://b/c",
        "dir://a::file:///",
    ],
)
def test_a_chain_of_protocols_is_refused(url):
    with pytest.raises(StorageError, match="expected a path or a URL with a single protocol"):
        storage_at(url)


def test_another_directory_may_be_used_by_a_new_object(tmp_path, monkeypatch):
    for number in range(2):
        storage = storage_at(tmp_path / "run")
        storage.write("round-001/a", b"a")
        (tmp_path / "run").rename(tmp_path / f"old-{number}")  # a deleted one's inode may be given to the next
        with pytest.raises(OSError, match="replaced by another directory"):
            storage.write("round-002/a", b"a")
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        storage_at("run").write("a", name.encode())
    assert (tmp_path / "there" / "run" / "a").read_bytes() == b"there"
