"""Commits: what is written is read back, and what is damaged is named."""

import numpy as np
import pytest
from actors.storage.state_codec import pack_state, unpack_state

from actors.errors import CheckpointError
from actors.storage.checkpoints import Checkpoints
from actors.storage.manifest import Manifest, ModuleRecord, pack_manifest, unpack_manifest
from tests.actors.coordination.test_coordinator import learn, model


@pytest.fixture
def run(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=2), checkpoints)
    return checkpoints


def test_a_state_of_arrays_and_scalars_comes_back_as_it_was():
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
    back = unpack_state(pack_state(state), "here")
    assert back.keys() == state.keys()
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape)
            np.testing.assert_array_equal(back[name], value)
        else:
            assert back[name] == value
            assert type(back[name]) is type(value)


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 64, pack_state({"a": np.ones(4)})[:-3]])
def test_bytes_that_are_no_state_are_refused_by_name(data):
    with pytest.raises(CheckpointError, match="round-001/vae"):
        unpack_state(data, "round-001/vae")


def test_a_directory_without_a_manifest_is_no_commit(run):
    (run.root / "round-002" / "manifest.json").unlink()
    assert run.latest().name == "round-001"


def test_a_file_that_was_changed_is_named(run):
    manifest = run.latest()
    path = run.root / manifest.modules["encoder"].files["state"].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"encoder\.state\.safetensors: damaged"):
        run.state(manifest, "encoder")


def test_a_file_that_is_gone_is_named(run):
    manifest = run.latest()
    (run.root / manifest.modules["encoder"].files["outputs"].path).unlink()
    with pytest.raises(CheckpointError, match=r"encoder\.outputs\.safetensors: cannot be read"):
        run.outputs(manifest, "encoder")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"modules": {"a": 1}}', "\x00"])
def test_a_manifest_that_cannot_be_read_is_named(run, content):
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


def files_of(checkpoints, name):
    """The files that a commit consists of, its manifest among them."""
    records = checkpoints.manifest(name).modules.values()
    paths = [file.path for record in records for file in record.files.values()]
    return [checkpoints.root / path for path in [*paths, f"{name}/manifest.json"]]


def damages(whole):
    """Each byte flipped in turn, then each length that is too short."""
    for place in range(len(whole)):
        yield whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
    for length in range(len(whole)):
        yield whole[:length]


def test_every_damage_to_every_file_of_a_commit_is_detected_and_the_file_named(small):
    manifest = small.manifest("round-001")
    files = files_of(small, "round-001")
    assert len(files) == 10
    for path in files:
        whole = path.read_bytes()
        for damaged in damages(whole):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=path.name):
                small.manifest("round-001") if path.name == "manifest.json" else small.verify(manifest)
        path.write_bytes(whole)
        small.verify(small.manifest("round-001"))


@pytest.mark.parametrize("flip", range(8))
def test_no_bit_of_a_manifest_can_change_unseen(small, flip):
    whole = (small.root / "round-001" / "manifest.json").read_bytes()
    for place in range(len(whole)):
        with pytest.raises(CheckpointError, match="here"):
            unpack_manifest(whole[:place] + bytes([whole[place] ^ 1 << flip]) + whole[place + 1 :], "here")


def test_a_manifest_comes_back_as_it_was():
    config = {"names": ("a", "ü"), "classes": {10: "ten", 9: "nine"}, "rate": 1e-7, "worst": float("-inf")}
    manifest = Manifest("round-001-step-02", "run", 1, 1, 7, {}, score=-0.1, step=2, config=config)
    back = unpack_manifest(pack_manifest(manifest), "here")
    assert (back.name, back.step, back.score, back.sequence) == ("round-001-step-02", 2, -0.1, 7)
    assert back.config == {**config, "names": ["a", "ü"], "classes": {"10": "ten", "9": "nine"}}


def test_values_that_are_the_same_but_written_otherwise_are_no_manifest_of_ours(small):
    text = (small.root / "round-001" / "manifest.json").read_text()
    for other in (f"{text}\n", text.replace(": ", ":  ", 1), text.replace('"run"', '"r\\u0075n"', 1)):
        with pytest.raises(CheckpointError, match="here: damaged"):
            unpack_manifest(other.encode(), "here")


def test_the_manifest_of_another_commit_is_refused(run):
    (run.root / "round-002" / "manifest.json").write_bytes((run.root / "round-001" / "manifest.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"round-002/manifest\.json: the manifest of another commit, round-001"):
        run.latest()


@pytest.mark.parametrize("path", ["../secret", "round-001/../../secret", "/etc/passwd", "other/a"])
def test_a_manifest_names_files_of_commits_alone(path):
    record = {"path": path, "size": 1, "digest": ""}
    manifest = Manifest("round-001", "run", 0, 1, 1, {"a": ModuleRecord(1, {"state": record})})
    with pytest.raises(CheckpointError, match="here: no readable manifest"):
        unpack_manifest(pack_manifest(manifest), "here")


def damage(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("file", ["encoder.state.safetensors", "mirror.class_means.message", "manifest.json"])
def test_a_run_goes_back_behind_a_damaged_commit_and_says_so(run, file):
    damage(run.root / "round-002" / file)
    told = []
    assert run.newest_whole(told.append).name == "round-001"
    assert len(told) == 1
    assert told[0].startswith(f"{run.root / 'round-002' / file}: ")
    assert told[0].endswith("; the run goes back from commit round-002 to round-001")


def test_two_damaged_commits_are_two_sentences(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=3), checkpoints)
    damage(tmp_path / "round-003" / "manifest.json")
    (tmp_path / "round-002" / "encoder.outputs.safetensors").unlink()
    told = []
    assert checkpoints.newest_whole(told.append).name == "round-001"
    assert [sentence.rpartition("from ")[2] for sentence in told] == [
        "commit round-003 to round-001",
        "commit round-002 to round-001",
    ]
    assert "encoder.outputs.safetensors: cannot be read" in told[1]


def test_where_no_commit_is_whole_the_run_ends_and_lists_what_is_wrong(run):
    damage(run.root / "round-000" / "data.state.safetensors")
    damage(run.root / "round-002" / "mirror.state.safetensors")
    damage(run.root / "round-001" / "manifest.json")
    with pytest.raises(CheckpointError, match="no commit is whole") as caught:
        run.newest_whole(pytest.fail)
    for file in ("round-000/data.state.safetensors", "round-001/manifest.json"):
        assert str(caught.value).count(file) == 1


def test_without_commits_there_is_none_to_go_back_to(tmp_path):
    assert Checkpoints(tmp_path / "nothing").newest_whole(pytest.fail) is None
    assert Checkpoints(tmp_path / "nothing").latest() is None


def test_a_damaged_manifest_is_not_skipped_by_whoever_wants_the_latest(run):
    damage(run.root / "round-002" / "manifest.json")
    with pytest.raises(CheckpointError, match="round-002"):
        run.latest()


def test_commits_within_a_round_come_before_the_whole_round(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    names = ["round-002", "round-003-step-01", "round-003-step-10", "round-003", "round-010", "round-1000"]
    for name in [names[i] for i in (3, 0, 5, 1, 4, 2)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    (tmp_path / "copy of round-002").mkdir()
    (tmp_path / "copy of round-002" / "manifest.json").touch()
    assert checkpoints.names() == names


def test_a_commit_is_called_after_its_round(tmp_path):
    with pytest.raises(ValueError, match="'best' is no commit's name"):
        Checkpoints(tmp_path).commit(Manifest("best", "run", 0, 1, 1, {}))
    assert not list(tmp_path.iterdir())
