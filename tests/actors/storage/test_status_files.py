"""Status files: failures and unread events, including the events file of old runs."""

import pytest

from actors.storage.filesystem import LocalStorage
from actors.storage.status_files import StatusFiles

EVENTS = [("update", 1.0, {"module": "vae"}), ("commit", 2.5, {"name": "round-001"})]
PACKED = b'[["update", 1.0, {"module": "vae"}], ["commit", 2.5, {"name": "round-001"}]]'


@pytest.fixture
def files(tmp_path):
    return StatusFiles(LocalStorage(tmp_path))


def test_a_failure_is_read_back_until_it_is_cleared(files, tmp_path):
    assert files.read_failure() is None
    files.clear_failure()
    files.write_failure("module 'gmm' raised an exception")
    assert (tmp_path / "failure" / "reason.txt").read_text() == "module 'gmm' raised an exception"
    assert files.read_failure() == "module 'gmm' raised an exception"
    files.clear_failure()
    assert files.read_failure() is None


def test_events_are_read_back_until_they_are_cleared(files, tmp_path):
    assert files.read_events() == []
    files.append_events(EVENTS)
    assert (tmp_path / "unread_events" / "events-000001.json").read_bytes() == PACKED
    assert files.read_events() == EVENTS
    files.clear_events()
    files.clear_events()
    assert files.read_events() == []


def test_the_events_of_an_old_run_are_read_and_cleared(files, tmp_path):
    old = tmp_path / "unheard" / "events.json"
    old.parent.mkdir()
    old.write_bytes(PACKED)
    assert files.read_events() == EVENTS
    files.clear_events()
    assert files.read_events() == []
    assert not old.exists()


def test_the_events_file_of_version_0_2_comes_after_the_files_of_appended_events(files, tmp_path):
    files.append_events(EVENTS[:1])
    old = tmp_path / "unread_events" / "events.json"
    old.write_bytes(PACKED)
    assert files.read_events() == [EVENTS[0], *EVENTS]
    files.clear_events()
    assert files.read_events() == []
    assert not old.exists()


def test_only_the_events_that_were_read_are_cleared(files, tmp_path):
    files.append_events(EVENTS[:1])
    damaged = tmp_path / "unread_events" / "events.json"
    damaged.write_bytes(b"[")
    reader = StatusFiles(LocalStorage(tmp_path))
    assert reader.read_events() == EVENTS[:1]
    files.append_events(EVENTS[1:])  # a coordinator that ends between the reading and the clearing
    reader.clear_events()
    assert reader.read_events() == EVENTS[1:]
    assert damaged.exists(), "what could not be read may be read by another version"


def test_events_that_are_too_large_for_a_file_are_written_into_several(files, tmp_path, monkeypatch):
    monkeypatch.setattr("actors.storage.status_files.MAX_STATUS_FILE_BYTES", 200)
    events = [("update", float(number), {"module": "vae"}, number, "first") for number in range(20)]
    files.append_events(events)
    assert len(list((tmp_path / "unread_events").iterdir())) > 4
    assert files.read_events() == events


@pytest.mark.parametrize("directory", ["unread_events", "unheard"])
@pytest.mark.parametrize("data", [b"", b"[", b"[1]", b'[["a", "b", {}]]', b'{"a": 1}', b"\xff"])
def test_an_unreadable_events_file_gives_no_events(files, tmp_path, directory, data):
    (tmp_path / directory).mkdir()
    (tmp_path / directory / "events.json").write_bytes(data)
    assert files.read_events() == []


def test_events_of_a_run_that_continues_are_appended_in_files_of_their_own(files, tmp_path):
    parts = [[("update", float(number), {"module": "vae"}, number, "first")] for number in range(12)]
    for part in parts[:11]:
        files.append_events(part)
    restarted = StatusFiles(LocalStorage(tmp_path))  # by a coordinator that was started again
    restarted.append_events(parts[11])
    reader = StatusFiles(LocalStorage(tmp_path))
    assert reader.read_events() == [part[0] for part in parts]
    restarted.append_events([("update", 99.0, {"module": "vae"}, 99, "first")])
    reader.clear_events()
    assert [event[3] for event in reader.read_events()] == [99], "what was written after the reading is kept"


def test_an_unreadable_file_of_appended_events_hides_no_others(files, tmp_path):
    for number in range(3):
        files.append_events([("update", 1.0, {"module": "vae"}, number, "first")])
    (tmp_path / "unread_events" / "events-000002.json").write_bytes(b'[["update", 1.0, {}, "x", "first"]]')
    (tmp_path / "unread_events" / "events-abc.json").write_bytes(b"[]")
    assert [event[3] for event in files.read_events()] == [0, 2]
