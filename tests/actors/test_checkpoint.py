"""Commits: what is written is read back, and what is damaged is named."""

import numpy as np
import pytest

from actors.checkpoint import CheckpointError, Checkpoints, pack_state, unpack_state
from tests.actors.test_coordinator import learn, model


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
