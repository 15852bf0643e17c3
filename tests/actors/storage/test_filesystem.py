"""Where commits lie: a path and any URL are the same to a run, and what cannot be done is said with the file's name."""

import errno
import importlib
import os
import sys
import uuid

import fsspec
import pytest
from actors.storage.module_files import LoadRequest, load_module_files

from actors.errors import CheckpointError, StorageError
from actors.storage import filesystem as storage
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import LocalStorage, ObjectStorage, storage_at
from tests.actors.coordination.test_coordinator import learn, model


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield "memory://runs/digits"
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def s3_server():
    """The address of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch):
    """A place in a bucket; address and credentials come by the environment, as they do for whoever runs models."""
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
        place = tmp_path / "with spaces" / "checkpoints"
        return str(place) if request.param == "path" else place.as_uri()
    return request.getfixturevalue({"memory": "memory", "s3": "bucket"}[request.param])


def digests(checkpoints):
    return {
        (name, module, label): (file.path, file.digest)
        for name in checkpoints.names()
        for module, record in checkpoints.manifest(name).modules.items()
        for label, file in record.files.items()
    }


def test_a_run_is_the_same_wherever_its_commits_lie(root, tmp_path):
    here, there = Checkpoints(tmp_path / "plain"), Checkpoints(root)
    learn(model(rounds=2), here)
    learn(model(rounds=2), there)
    assert digests(there) == digests(here)
    assert len(digests(there)) > 15
    manifest = Checkpoints(root).newest_whole(pytest.fail)
    assert manifest.name == "round-002"
    record = manifest.modules["encoder"]
    parts = [load_module_files(LoadRequest(str(checkpoints.root), "encoder", record)) for checkpoints in (here, there)]
    assert parts[0][0] == parts[1][0]
    assert parts[0][1]["weights"].tobytes() == parts[1][1]["weights"].tobytes()


def test_damage_and_pruning_are_the_same_wherever_commits_lie(root):
    checkpoints = Checkpoints(root, keep=2)
    learn(model(rounds=3), checkpoints)
    assert checkpoints.names() == ["round-002", "round-003"]
    place = storage_at(root)
    assert {path.partition("/")[0] for path in place.files()} == {"round-000", "round-002", "round-003"}
    assert all(path.startswith("round-000/data.") for path in place.files() if path.startswith("round-000"))
    place.write("round-003/encoder.state.safetensors", b"damaged")
    told = []
    assert checkpoints.newest_whole(told.append).name == "round-002"
    assert place.where("round-003/encoder.state.safetensors") in told[0]


def test_a_storage_gives_back_what_was_written_last(root):
    place = storage_at(root)
    assert place.files() == []
    for data in (b"first", b"", b"second" * 1000):
        place.write("round-001/a", data)
        assert storage_at(root).read("round-001/a") == data
    place.write("round-002/b", b"")
    assert sorted(place.files()) == ["round-001/a", "round-002/b"]
    assert place.files("b") == ["round-002/b"]
    place.delete(["round-001/a", "round-001/a"])
    place.delete_directory("round-001")
    place.delete_directory("round-001")
    place.delete_directory("round-002")
    assert storage_at(root).files() == ["round-002/b"]
    assert place.directories() in (["round-002"], [])


def test_no_more_of_a_file_is_read_than_was_asked_for(root):
    place = storage_at(root)
    place.write("round-001/a", b"0123456789")
    assert place.read("round-001/a", 4) == b"0123"
    assert place.read("round-001/a", 10) == place.read("round-001/a", 11) == b"0123456789"


def test_whoever_makes_a_commits_files_huge_gets_no_memory_for_them(root, monkeypatch):
    checkpoints = Checkpoints(root)
    learn(model(rounds=1), checkpoints)
    place, asked = storage_at(root), []
    manifest = checkpoints.manifest("round-001")
    state = manifest.modules["encoder"].files["state"]
    place.write(state.path, b"\0" * (state.size + 5000))
    place.write("round-002/manifest.json", b" " * (20 << 20))
    read = type(place).read
    monkeypatch.setattr(type(place), "read", lambda self, path, most=None: asked.append(most) or read(self, path, most))
    with pytest.raises(CheckpointError, match=f"damaged, the manifest says {state.size} bytes and it has more"):
        checkpoints.state(manifest, "encoder")
    with pytest.raises(CheckpointError, match=r"no readable manifest \(it has more than 16 MiB"):
        checkpoints.manifest("round-002")
    assert asked == [state.size + 1, (16 << 20) + 1]


def test_a_file_that_is_not_there_is_named(root):
    with pytest.raises(FileNotFoundError) as caught:
        storage_at(root).read("round-001/a")
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == storage_at(root).where("round-001/a")


def test_what_another_process_wrote_is_listed(bucket):
    place, other = storage_at(bucket), storage_at(bucket)
    other._files = type(place._files)(skip_instance_cache=True)
    place.write("round-000/a", b"")
    assert len(place.files()) == 1
    other.write("round-001/a", b"")
    assert len(place.files()) == 2


def test_a_bucket_that_is_not_there_is_said_and_not_made(bucket):
    with pytest.raises(FileNotFoundError, match="bucket does not exist: 's3://elsewhere/digits/round-000/a'"):
        storage_at("s3://elsewhere/digits").write("round-000/a", b"")
    assert storage_at("s3://elsewhere/digits").files() == []


def test_what_a_package_raises_of_its_own_is_an_error_of_the_file(memory):
    place = storage_at(memory)

    class Broken:
        def __getattr__(self, name):
            raise KeyError("the service is out of order")

    place._files = Broken()
    for call in (
        lambda: place.write("a/b", b""),
        lambda: place.read("a/b"),
        place.files,
        lambda: place.delete(["a/b"]),
    ):
        with pytest.raises(OSError, match=f"out of order.*{memory}"):
            call()


@pytest.mark.parametrize("call", ["write", "fsync", "open", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_is_full_is_said_with_the_files_name_and_nothing_is_left_over(tmp_path, monkeypatch, call, number):
    place = LocalStorage(tmp_path)
    place.write("round-001/a", b"before")

    def full(*arguments):
        if call == "open" and arguments[1] == os.O_RDONLY:
            return os.open(*arguments)
        raise OSError(number, os.strerror(number))

    class Full:
        def __getattr__(self, name):
            return full if name == call else getattr(os, name)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "os", Full())
        with pytest.raises(OSError, match="round-001/a'") as caught:
            place.write("round-001/a", b"after")
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "round-001" / "a"))
    assert place.files() == ["round-001/a"]
    assert place.read("round-001/a") == b"before"


def test_a_write_that_takes_several_calls_is_whole(tmp_path, monkeypatch):
    class Slow:
        def __getattr__(self, name):
            return (lambda file, data: os.write(file, data[:3])) if name == "write" else getattr(os, name)

    monkeypatch.setattr(storage, "os", Slow())
    LocalStorage(tmp_path).write("round-001/a", b"longer than three bytes")
    assert (tmp_path / "round-001" / "a").read_bytes() == b"longer than three bytes"


def test_a_place_that_is_a_file_is_an_os_error(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(OSError, match="checkpoints/round-001/a"):
        LocalStorage(tmp_path / "checkpoints").write("round-001/a", b"")


def test_local_roots_are_paths_and_others_are_text(tmp_path, memory):
    assert (
        Checkpoints(tmp_path).root == Checkpoints(str(tmp_path)).root == Checkpoints(tmp_path.as_uri()).root == tmp_path
    )
    assert Checkpoints(f"{memory}/").root == memory
    assert isinstance(storage_at(memory), ObjectStorage)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nowhere://bucket/run", r"unknown protocol nowhere://.*pip install 'serket-actors\[s3\]'"),
        ("s3:/bucket/run", "lost a slash"),
        ("file://run", "absolute path"),
        ("simplecache::s3://bucket/run", "one protocol"),
        ("://bucket", "one protocol"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_in_a_sentence(url, said):
    with pytest.raises(StorageError, match=said) as caught:
        Checkpoints(url)
    assert str(caught.value).startswith(url)
    assert "\n" not in str(caught.value)


def test_a_protocol_whose_package_is_missing_says_how_to_get_it(monkeypatch):
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StorageError, match=r"s3://bucket/run: s3://.*pip install 'serket-actors\[s3\]'"):
        Checkpoints("s3://bucket/run")


def test_local_runs_do_not_wait_for_fsspec(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    learn(model(rounds=1), Checkpoints(tmp_path))
    with pytest.raises(ImportError):
        Checkpoints("memory://run")
