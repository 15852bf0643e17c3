"""Files below a directory that anybody may have made: no link is followed, only files are opened, names are checked."""

import errno
import os
import socket
from contextlib import nullcontext
from dataclasses import replace

import pytest

from actors.limits import MAX_JSON_DEPTH
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import LocalStorage
from actors.storage.safe_files import is_safe_name, parse_json
from tests.actors.coordination.test_coordinator import learn, model

NAMES = [
    "",
    ".",
    "..",
    "../x",
    "/etc/passwd",
    "a//b",
    "a/../b",
    "a/b/c",
    "a\0b",
    "a\nb",
    "a\x1b[2J",
    "a\u202eb",
    "x" * 300,
]


@pytest.fixture
def outside(tmp_path):
    """A directory with a file, outside of the storage."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "a").write_bytes(b"of somebody else")
    (path / "manifest.json").write_bytes(b"of somebody else")
    return path


@pytest.fixture
def storage(tmp_path):
    storage = LocalStorage(tmp_path / "run")
    storage.write("round-001/a", b"own")
    return storage


def contents(path):
    return {each.name: each.read_bytes() for each in path.iterdir()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("call", ["write", "write_new", "append", "create", "read", "truncate", "delete", "blocks"])
def test_a_name_that_leads_elsewhere_is_refused_by_every_operation(storage, tmp_path, call, name):
    calls = {
        "write": lambda: storage.write(name, b"x"),
        "write_new": lambda: storage.write_new(name, b"x"),
        "append": lambda: storage.append(name, b"x"),
        "create": lambda: storage.create(name).__enter__(),
        "read": lambda: storage.read(name),
        "truncate": lambda: storage.truncate(name, 0),
        "delete": lambda: storage.delete([name]),
        "blocks": lambda: list(storage.blocks(name, 9)),
    }
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError):  # noqa: PT011 (its class depends on the errno)
        calls[call]()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["z_learn.txt", "grün", "a b", "round-001", "x" * 255])
def test_names_of_files_are_valid(name):
    assert is_safe_name(name)


def test_a_directory_that_is_a_link_is_neither_read_nor_written_nor_emptied(storage, outside):
    (storage.root / "round-002").symlink_to(outside)
    before = contents(outside)
    for call in (
        lambda: storage.read("round-002/a"),
        lambda: storage.write("round-002/a", b"x"),
        lambda: storage.write("round-002/new", b"x"),
        lambda: storage.append("round-002/a", b"x"),
        lambda: storage.create("round-002/new").__enter__(),
        lambda: storage.truncate("round-002/a", 0),
        lambda: storage.size("round-002/a"),
    ):
        with pytest.raises(OSError, match="round-002 is a link, and links are not followed") as caught:
            call()
        assert caught.value.errno == errno.ELOOP
    assert "round-002/a" not in storage.files()
    assert "round-002" not in storage.directories()
    storage.delete(["round-002/a"])
    assert not (storage.root / "round-002").exists()  # the link is gone
    assert contents(outside) == before


@pytest.mark.parametrize("kind", ["link", "dangling", "loop"])
def test_a_file_that_is_a_link_is_not_read_and_a_new_file_takes_its_place(storage, outside, kind):
    path = storage.root / "round-001" / "linked"
    path.symlink_to({"link": outside / "a", "dangling": outside / "new", "loop": path}[kind])
    for call in (lambda: storage.read("round-001/linked"), lambda: storage.append("round-001/linked", b"x")):
        with pytest.raises(OSError, match="linked is a link"):
            call()
    with pytest.raises(FileExistsError):
        storage.write_new("round-001/linked", b"x")
    storage.write("round-001/linked", b"new")
    assert not path.is_symlink()
    assert storage.read("round-001/linked") == b"new"
    assert contents(outside) == {"a": b"of somebody else", "manifest.json": b"of somebody else"}


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory"])
def test_what_is_no_file_is_refused_at_once(storage, kind, monkeypatch):
    path = storage.root / "round-001" / "odd"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        monkeypatch.chdir(path.parent)  # a socket's path is short
        socket.socket(socket.AF_UNIX).bind("odd")
    for call in (lambda: storage.read("round-001/odd"), lambda: storage.append("round-001/odd", b"x")):
        with pytest.raises(OSError, match=r"odd is a (directory|pipe, socket or device)"):
            call()


def test_devices_are_refused_without_opening_them(storage, monkeypatch):
    monkeypatch.setattr(LocalStorage, "_directory", lambda *_: nullcontext(device))
    device = os.open("/dev", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="zero is a pipe, socket or device"):
            storage.read("zero", 10)
    finally:
        os.close(device)


def test_a_root_that_is_a_link_is_refused_and_its_parents_may_be_links(tmp_path, storage):
    (tmp_path / "parent").symlink_to(tmp_path)
    assert LocalStorage(tmp_path / "parent" / "run").read("round-001/a") == b"own"
    (tmp_path / "linked").symlink_to(storage.root)
    for call in ("files", "directories"):
        with pytest.raises(OSError, match="linked is a link"):
            getattr(LocalStorage(tmp_path / "linked"), call)()
    with pytest.raises(OSError, match="linked is a link"):
        LocalStorage(tmp_path / "linked").write("round-001/a", b"x")
    assert storage.read("round-001/a") == b"own"


def test_a_change_in_place_does_not_reach_the_other_names_of_a_file(storage, outside):
    os.link(outside / "a", storage.root / "events.jsonl")
    os.link(outside / "a", storage.root / "cut")
    storage.append("events.jsonl", b", and more")
    storage.truncate("cut", 2)
    assert (outside / "a").read_bytes() == b"of somebody else"
    assert storage.read("events.jsonl") == b"of somebody else, and more"
    assert storage.read("cut") == b"of"


def test_a_sparse_file_is_refused_before_it_is_read(storage):
    with (storage.root / "huge").open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(OSError, match=r"it has 4398046511104 bytes, at most 100 are read"), storage.reader("huge", 100):
        pass
    assert storage.read("huge", 10) == bytes(10)


def test_a_file_that_is_written_in_parts_gets_its_name_at_the_end(storage):
    def write_half():
        with storage.create("module/z.txt") as file:
            file.write(b"half")
            raise ValueError("not an array")

    with pytest.raises(ValueError, match="not an array"):
        write_half()
    assert storage.files() == ["round-001/a"]
    with storage.create("module/z.txt") as file:
        file.write(b"whole")
    assert storage.read("module/z.txt") == b"whole"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1),
        b"[" + b"{}," * 1_000_000 + b"{}]",
        b"9" * 10_000,
        b"\xff",
        b"",
        b"nul",
        b'"\\ud800',
    ],
)
def test_hostile_json_is_a_value_error(data):
    with pytest.raises(ValueError):  # noqa: PT011 (one of many texts)
        parse_json(data)


def test_a_commit_that_is_a_link_is_reported_and_survives_pruning_outside(tmp_path, outside):
    """A stranger's run directory with ``keep: 1``: what its links lead to stays as it is."""
    checkpoints = Checkpoints(tmp_path / "run", keep=1)
    learn(model(rounds=2), checkpoints)
    manifest = checkpoints.latest()
    for name in ("round-001", "round-003"):
        (checkpoints.root / name).symlink_to(outside)
    log = []
    assert Checkpoints(tmp_path / "run").newest_whole(log.append).name == "round-002"
    assert "round-003/manifest.json: the manifest is not readable (round-003 is a link" in log[0]
    Checkpoints(tmp_path / "run", keep=1).commit(manifest)
    assert checkpoints.names()[-1] == "round-002"
    assert (checkpoints.root / "round-001").is_symlink()  # older links are left alone
    assert contents(outside) == {"a": b"of somebody else", "manifest.json": b"of somebody else"}


def test_pruning_deletes_links_among_a_commits_files_and_not_what_they_lead_to(tmp_path, outside):
    checkpoints = Checkpoints(tmp_path / "run")
    learn(model(rounds=2), checkpoints)
    (checkpoints.root / "round-001" / "old").symlink_to(outside / "a")
    (checkpoints.root / "round-000" / "directory").symlink_to(outside)
    Checkpoints(tmp_path / "run", keep=1).commit(checkpoints.latest())
    assert not (checkpoints.root / "round-001").exists()
    assert not (checkpoints.root / "round-000" / "directory").is_symlink()
    assert contents(outside) == {"a": b"of somebody else", "manifest.json": b"of somebody else"}


def test_a_commit_is_not_written_through_a_link(tmp_path, outside):
    checkpoints = Checkpoints(tmp_path / "run")
    learn(model(rounds=1), checkpoints)
    manifest = checkpoints.latest()
    checkpoints.commit(manifest)
    (checkpoints.root / "round-002").symlink_to(outside)
    with pytest.raises(OSError, match="round-002 is a link"):
        checkpoints.commit(replace(manifest, name="round-002", round=2))
    assert contents(outside) == {"a": b"of somebody else", "manifest.json": b"of somebody else"}


def test_a_new_run_deletes_links_that_look_like_later_commits_and_not_what_they_lead_to(tmp_path, outside):
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.root.mkdir()
    (checkpoints.root / "round-001").symlink_to(outside)
    learn(model(rounds=2), checkpoints)
    assert checkpoints.newest_whole(pytest.fail).name == "round-002"
    assert not (checkpoints.root / "round-001").is_symlink()
    assert contents(outside) == {"a": b"of somebody else", "manifest.json": b"of somebody else"}
