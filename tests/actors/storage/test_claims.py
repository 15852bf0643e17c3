"""The storage of a new run is probed from another process, and claimed by one run alone."""

import json
import threading
import zipfile

import pytest

from actors.errors import StorageError
from actors.storage import claims
from actors.storage.claims import ClaimedError, claim_storage, is_claimed, probe_storage, release_storage
from actors.storage.filesystem import LocalStorage, storage_at
from tests.actors.storage.test_filesystem import bucket, memory, s3_server  # noqa: F401


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(claims, "CLAIM_SETTLE_SECONDS", 0.05)


def test_a_probe_of_a_directory_leaves_nothing_behind(tmp_path):
    probe_storage(str(tmp_path / "with spaces" / "toy"))
    assert LocalStorage(tmp_path / "with spaces" / "toy").directories() == []


def test_a_probe_of_object_storage_leaves_nothing_behind(bucket):  # noqa: F811
    probe_storage(bucket)
    assert storage_at(bucket).files() == []


def test_storage_that_only_this_process_has_is_refused(memory):  # noqa: F811
    with pytest.raises(StorageError, match=r"is not found by another process \(it does not exist there\)") as caught:
        probe_storage(memory)
    assert "\n" not in str(caught.value)
    assert "memory://" not in str(caught.value).removeprefix(memory)
    assert storage_at(memory).files() == []


def test_storage_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "file").touch()
    for root in (f"zip://run::{tmp_path}/a.zip", str(tmp_path / "file"), "http://127.0.0.1:9/run"):
        with pytest.raises(StorageError) as caught:
            probe_storage(root)
        assert "\n" not in str(caught.value)


def test_a_process_that_does_not_answer_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_READ_BACK", "import time; time.sleep(60)")
    monkeypatch.setattr(claims, "PROBE_SECONDS", 0.2)
    with pytest.raises(StorageError, match=r"it has not answered within 0\.2 s"):
        probe_storage(str(tmp_path / "toy"))


def test_files_in_the_working_directory_do_not_replace_what_the_probe_imports(tmp_path, monkeypatch):
    (tmp_path / "fsspec.py").write_text("raise SystemExit('hijacked')")
    (tmp_path / "sys.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    probe_storage(str(tmp_path / "toy"))


@pytest.mark.parametrize("kind", ["path", "memory", "bucket"])
def test_of_many_runs_that_claim_at_once_one_succeeds(request, tmp_path, kind):
    root = str(tmp_path / "toy") if kind == "path" else request.getfixturevalue(kind)
    outcomes, barrier = [], threading.Barrier(4)

    def claim(token):
        barrier.wait()
        try:
            claim_storage(root, "toy", token)
            outcomes.append(token)
        except ClaimedError:
            outcomes.append(None)

    threads = [threading.Thread(target=claim, args=(f"token {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [token for token in outcomes if token]
    assert len(outcomes) == 4
    assert len(winners) == 1
    assert is_claimed(root)
    claim_storage(root, "toy", winners[0])  # a run that is resumed keeps its claim
    with pytest.raises(ClaimedError, match="another run commits there; choose another --name, or if no run does"):
        claim_storage(root, "toy", "another")
    release_storage(root, "another")
    assert is_claimed(root)
    release_storage(root, winners[0])
    assert not is_claimed(root)
    assert storage_at(root).files() == []


def test_a_package_without_exclusive_creation_reads_its_claim_back(memory, monkeypatch):  # noqa: F811
    """The later of two claims is left, and the earlier run notices that after a moment."""
    storage = storage_at(memory)
    put = type(storage)._put

    def put_without_mode(self, path, data, **options):
        if options:
            raise OSError(95, "not supported", path)
        put(self, path, data)
        put(self, path, json.dumps({"token": "the other run's"}).encode())

    monkeypatch.setattr(type(storage), "_put", put_without_mode)
    with pytest.raises(ClaimedError):
        claim_storage(memory, "toy", "own")


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"token": 1}', b'{"token": "a\\u0000"}', b"\xff"])
def test_a_claim_that_is_not_valid_belongs_to_nobody_and_is_kept(tmp_path, content):
    storage = LocalStorage(tmp_path / "toy")
    storage.write(claims.CLAIM, content)
    with pytest.raises(ClaimedError):
        claim_storage(tmp_path / "toy", "toy", "own")
    assert storage.read(claims.CLAIM) == content


def test_a_claim_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text(json.dumps({"token": "own"}))
    storage = LocalStorage(tmp_path / "toy")
    storage.write("claim/other", b"")
    (tmp_path / "toy" / "claim" / "claim.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"the claim cannot be written or read .*is a link"):
        claim_storage(tmp_path / "toy", "toy", "own")
