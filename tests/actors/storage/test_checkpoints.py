"""Checkpoints: commits are read back as they were written, and damaged files are named."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from actors.errors import CheckpointError
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import Manifest, ModuleRecord, pack_manifest, unpack_manifest
from actors.storage.state_codec import pack_state, unpack_state
from tests.actors.coordination.test_coordinator import learn, model

OLD_RUN = Path(__file__).parents[2] / "data" / "old_run" / "checkpoints"
"""The commits of a run of version 0.1.0."""


@pytest.fixture
def run(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=2), checkpoints)
    return checkpoints


def test_a_state_of_arrays_and_scalars_is_unpacked_as_it_was():
    state = {
        "weights": np.arange(6.0).reshape(2, 3).T,
        "labels": np.array([-1, 3]),
        "flag": np.array([True, False]),
        "nothing": np.zeros((0, 4), np.float32),
        "single": np.array(1.5),
        "count": 3,
        "rate": 0.1,
        "name": "grün",
        "absent": None,
        "yes": True,
    }
    unpacked = unpack_state(pack_state(state), "file")
    assert unpacked.keys() == state.keys()
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            assert (unpacked[name].dtype, unpacked[name].shape) == (value.dtype, value.shape)
            np.testing.assert_array_equal(unpacked[name], value)
        else:
            assert unpacked[name] == value
            assert type(unpacked[name]) is type(value)


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 64, pack_state({"a": np.ones(4)})[:-3]])
def test_bytes_that_are_not_a_state_are_refused_with_the_name_of_the_file(data):
    with pytest.raises(CheckpointError, match="round-001/vae"):
        unpack_state(data, "round-001/vae")


def test_the_error_of_a_forged_state_has_no_control_character():
    header = b'{"a":{"dtype":"F\\u001b[31m","shape":[4],"data_offsets":[0,32]}}'
    forged = len(header).to_bytes(8, "little") + header + bytes(32)
    with pytest.raises(CheckpointError, match="round-001/vae") as caught:
        unpack_state(forged, "round-001/vae")
    assert str(caught.value).isprintable()
    assert "x1b" in str(caught.value)


def test_a_directory_without_a_manifest_is_not_a_commit(run):
    (run.root / "round-002" / "manifest.json").unlink()
    assert run.latest().name == "round-001"


def test_a_changed_file_is_named(run):
    manifest = run.latest()
    path = run.root / manifest.modules["encoder"].files["state"].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"encoder\.state\.safetensors: damaged"):
        run.state(manifest, "encoder")


def test_a_missing_file_is_named(run):
    manifest = run.latest()
    (run.root / manifest.modules["encoder"].files["outputs"].path).unlink()
    with pytest.raises(CheckpointError, match=r"encoder\.outputs\.safetensors: cannot be read"):
        run.outputs(manifest, "encoder")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"modules": {"a": 1}}', "\x00"])
def test_an_unreadable_manifest_is_named(run, content):
    (run.root / "round-002" / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"round-002/manifest\.json"):
        run.manifest("round-002")


def test_a_manifest_of_another_schema_is_refused(run):
    path = run.root / "round-002" / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 99'))
    with pytest.raises(CheckpointError, match="schema 99"):
        run.manifest("round-002")


@pytest.fixture
def small(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=1, dim=1), checkpoints, values=np.ones((2, 2)))
    return checkpoints


def paths_of(checkpoints, name):
    """Return the paths of the files of a commit, including its manifest."""
    records = checkpoints.manifest(name).modules.values()
    paths = [file.path for record in records for file in record.files.values()]
    return [checkpoints.root / path for path in [*paths, f"{name}/manifest.json"]]


def damages(data):
    """Yield `data` with one bit of each byte flipped in turn, then every truncation of it."""
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
    for length in range(len(data)):
        yield data[:length]


def test_every_damage_to_every_file_of_a_commit_is_detected_and_the_file_named(small):
    manifest = small.manifest("round-001")
    files = paths_of(small, "round-001")
    assert len(files) == 10
    for path in files:
        intact = path.read_bytes()
        for damaged in damages(intact):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=path.name):
                small.manifest("round-001") if path.name == "manifest.json" else small.verify(manifest)
        path.write_bytes(intact)
        small.verify(small.manifest("round-001"))


@pytest.mark.parametrize("flip", range(8))
def test_every_flipped_bit_of_a_manifest_is_detected(small, flip):
    data = (small.root / "round-001" / "manifest.json").read_bytes()
    for place in range(len(data)):
        with pytest.raises(CheckpointError, match="file"):
            unpack_manifest(data[:place] + bytes([data[place] ^ 1 << flip]) + data[place + 1 :], "file")


@pytest.mark.parametrize("commit", ["round-000", "round-001", "round-002"])
def test_the_manifest_of_an_old_run_is_packed_to_the_same_bytes(commit):
    data = (OLD_RUN / commit / "manifest.json").read_bytes()
    assert b'"settled": false' in data
    assert pack_manifest(unpack_manifest(data, "file")) == data


@pytest.mark.parametrize("converged", [True, False])
def test_convergence_is_stored_under_the_key_settled(converged):
    manifest = Manifest("round-001", "run", 0, 1, 1, {}, converged=converged)
    data = pack_manifest(manifest)
    assert f'"settled": {str(converged).lower()},'.encode() in data
    assert b"converged" not in data
    assert unpack_manifest(data, "file") == manifest


@pytest.mark.parametrize(("key", "error"), [("converged", "multiple values"), ("more", "unexpected keyword")])
def test_a_manifest_with_an_unknown_key_is_refused(small, key, error):
    content = json.loads((small.root / "round-001" / "manifest.json").read_bytes())
    del content["digest"]
    assert unpack_manifest(with_digest(content), "file").name == "round-001"
    with pytest.raises(CheckpointError, match=f"file: the manifest is not readable .*{error}"):
        unpack_manifest(with_digest({**content, key: True}), "file")


def with_digest(content):
    digest = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, "digest": digest}, indent=1).encode()


def test_a_manifest_is_unpacked_as_it_was():
    config = {"names": ("a", "ü"), "classes": {10: "ten", 9: "nine"}, "rate": 1e-7, "worst": float("-inf")}
    manifest = Manifest("round-001-step-02", "run", 1, 1, 7, {}, score=-0.1, step=3, config=config)
    unpacked = unpack_manifest(pack_manifest(manifest), "file")
    assert (unpacked.name, unpacked.step, unpacked.score, unpacked.sequence) == ("round-001-step-02", 3, -0.1, 7)
    assert unpacked.config == {**config, "names": ["a", "ü"], "classes": {"10": "ten", "9": "nine"}}


def test_a_manifest_holds_the_events_that_no_driver_has_fetched():
    events = (("round", 1.5, {"round": 1}, 3, "first"), ("updated", 2.0, {"evidence": float("-inf")}, 4, "first"))
    data = pack_manifest(Manifest("round-001", "run", 0, 1, 1, {}, events=events))
    assert unpack_manifest(data, "file").events == events
    assert b"events" not in pack_manifest(Manifest("round-001", "run", 0, 1, 1, {}))
    for wrong in ({"a": 1}, [1], [["round", "soon", {}, 3, "first"]], [["round", 1.5, {}, -1.5, "first"]], None):
        content = {key: value for key, value in json.loads(data).items() if key != "digest"}
        with pytest.raises(CheckpointError, match="file: the manifest is not readable"):
            unpack_manifest(with_digest({**content, "events": wrong}), "file")


def test_a_manifest_of_equal_values_in_other_bytes_is_refused(small):
    text = (small.root / "round-001" / "manifest.json").read_text()
    for other in (f"{text}\n", text.replace(": ", ":  ", 1), text.replace('"run"', '"r\\u0075n"', 1)):
        with pytest.raises(CheckpointError, match="file: damaged"):
            unpack_manifest(other.encode(), "file")


def test_the_manifest_of_another_commit_is_refused(run):
    (run.root / "round-002" / "manifest.json").write_bytes((run.root / "round-001" / "manifest.json").read_bytes())
    with pytest.raises(
        CheckpointError, match=r"round-002/manifest\.json: contains the manifest of another commit, round-001"
    ):
        run.latest()


@pytest.mark.parametrize("path", ["../secret", "round-001/../../secret", "/etc/passwd", "other/a"])
def test_a_manifest_may_only_list_files_of_commits(path):
    record = {"path": path, "size": 1, "digest": ""}
    manifest = Manifest("round-001", "run", 0, 1, 1, {"a": ModuleRecord(1, {"state": record})})
    with pytest.raises(CheckpointError, match="file: the manifest is not readable"):
        unpack_manifest(pack_manifest(manifest), "file")


def damage(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("file", ["encoder.state.safetensors", "mirror.class_means.message", "manifest.json"])
def test_a_damaged_commit_is_skipped_with_a_log_message(run, file):
    damage(run.root / "round-002" / file)
    log = []
    assert run.newest_whole(log.append).name == "round-001"
    assert len(log) == 1
    assert log[0].startswith(f"{run.root / 'round-002' / file}: ")
    assert log[0].endswith("; the run goes back from commit round-002 to round-001")


def test_two_damaged_commits_give_two_log_messages(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=3), checkpoints)
    damage(tmp_path / "round-003" / "manifest.json")
    (tmp_path / "round-002" / "encoder.outputs.safetensors").unlink()
    log = []
    assert checkpoints.newest_whole(log.append).name == "round-001"
    assert [message.rpartition("from ")[2] for message in log] == [
        "commit round-003 to round-001",
        "commit round-002 to round-001",
    ]
    assert "encoder.outputs.safetensors: cannot be read" in log[1]


def test_if_no_commit_is_intact_the_error_lists_the_damage(run):
    damage(run.root / "round-000" / "data.state.safetensors")
    damage(run.root / "round-002" / "mirror.state.safetensors")
    damage(run.root / "round-001" / "manifest.json")
    with pytest.raises(CheckpointError, match="no commit is intact") as caught:
        run.newest_whole(pytest.fail)
    for file in ("round-000/data.state.safetensors", "round-001/manifest.json"):
        assert str(caught.value).count(file) == 1


def test_without_commits_there_is_no_newest_commit(tmp_path):
    assert Checkpoints(tmp_path / "nothing").newest_whole(pytest.fail) is None
    assert Checkpoints(tmp_path / "nothing").latest() is None


def test_latest_does_not_skip_a_damaged_manifest(run):
    damage(run.root / "round-002" / "manifest.json")
    with pytest.raises(CheckpointError, match="round-002"):
        run.latest()


def test_commits_within_a_round_come_before_the_complete_round(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    names = ["round-002", "round-003-step-01", "round-003-step-10", "round-003", "round-010", "round-1000"]
    for name in [names[i] for i in (3, 0, 5, 1, 4, 2)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    (tmp_path / "copy of round-002").mkdir()
    (tmp_path / "copy of round-002" / "manifest.json").touch()
    assert checkpoints.names() == names


def test_the_name_of_a_commit_must_contain_its_round(tmp_path):
    with pytest.raises(ValueError, match="'best' is not the name of a commit"):
        Checkpoints(tmp_path).commit(Manifest("best", "run", 0, 1, 1, {}))
    assert not list(tmp_path.iterdir())
