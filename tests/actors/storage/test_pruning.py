"""Pruning keeps the newest commits and the files that they need, also after an interruption at any point."""

from dataclasses import replace

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import CheckpointError
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import learn, model
from tests.faults.power import Disk, power

VALUES = np.ones((4, 2))


def learn_and_commit(root, keep=None, rounds=4):
    checkpoints = Checkpoints(root, keep)
    learn(model(rounds=rounds, dim=1), checkpoints, values=VALUES)
    return checkpoints


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("keep", [1, 2, 3, 9])
def test_the_newest_commits_stay_and_are_intact(tmp_path, keep):
    checkpoints = learn_and_commit(tmp_path, keep)
    names = [f"round-{number:03d}" for number in range(5)][-keep:]
    assert checkpoints.names() == names
    for name in names:
        checkpoints.verify(checkpoints.manifest(name))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"round-000", *names})
    assert {path.name for path in (tmp_path / "round-000").glob("data.*")} == {
        "data.state.safetensors",
        "data.outputs.safetensors",
        "data.observations.message",
    }


def test_pruning_does_not_change_the_files_that_it_keeps(tmp_path):
    learn_and_commit(tmp_path / "all")
    learn_and_commit(tmp_path / "two", 2)
    complete, kept = contents(tmp_path / "all"), contents(tmp_path / "two")
    assert kept.keys() < complete.keys()
    assert {path: data for path, data in kept.items() if "manifest" not in path} == {
        path: complete[path] for path in kept if "manifest" not in path
    }


def test_at_least_one_commit_is_kept(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)


def test_the_next_commit_completes_a_pruning_that_was_interrupted_at_any_operation(tmp_path):
    learn_and_commit(tmp_path / "start")
    start = contents(tmp_path / "start")
    newest = Checkpoints(tmp_path / "start").latest()

    def commit(disk):
        with power(disk):
            Checkpoints(disk.root, keep=1).commit(newest)
        files = {path: data for path, data in contents(disk.root).items() if not path.endswith(".part")}
        return files, sorted(path.name for path in disk.root.iterdir())

    def disk(name, cut=None):
        for path, data in start.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(data)
        return Disk(tmp_path / name, cut)

    complete = disk("complete")
    expected = commit(complete)
    assert expected[1] == ["round-000", "round-004"]
    interrupted = set()
    for cut in range(complete.operations):
        again = disk(f"{cut}", cut)
        interrupted.add(len(commit(again)[0]))
        again.cut = None
        assert commit(again) == expected, f"interrupted at operation {cut}"
    assert len(interrupted) > 10


def test_a_second_pruning_deletes_no_more_files(tmp_path):
    checkpoints = learn_and_commit(tmp_path, 2)
    before = contents(tmp_path)
    checkpoints.commit(checkpoints.latest())
    assert contents(tmp_path) == before


def test_files_of_the_next_commit_stay(tmp_path):
    checkpoints = learn_and_commit(tmp_path, 1)
    early = tmp_path / "round-005" / "encoder.state.safetensors"
    early.parent.mkdir()
    early.write_bytes(b"saved before the end of its round")
    checkpoints.commit(checkpoints.latest())
    assert early.exists()


def test_commits_within_a_round_are_pruned_too(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    coordinator = Coordinator(model(dim=1), InProcessBackend(), checkpoints=checkpoints)
    coordinator.start({"data": {"values": VALUES}})
    for step, module in enumerate(["encoder", "mirror", "encoder"]):
        coordinator.update(module, 1, step)
    assert checkpoints.names() == ["round-001-step-01", "round-001-step-02"]
    for name in checkpoints.names():
        checkpoints.verify(checkpoints.manifest(name))
    assert (tmp_path / "round-001-step-00" / "encoder.state.safetensors").exists()


def test_other_files_and_directories_are_not_deleted(tmp_path):
    (tmp_path / "notes").mkdir(parents=True)
    (tmp_path / "notes" / "why.txt").write_text("a user's file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "why.txt").write_text("a user's file")
    learn_and_commit(tmp_path, 1)
    assert (tmp_path / "notes" / "why.txt").exists()
    assert (tmp_path / "empty").exists()
    assert (tmp_path / "why.txt").exists()


def test_a_damaged_commit_does_not_count_as_kept(tmp_path):
    learn_and_commit(tmp_path)
    (tmp_path / "round-003" / "manifest.json").write_text("damaged")
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.commit(checkpoints.manifest("round-004"))
    assert checkpoints.names() == ["round-002", "round-003", "round-004"]
    for name in ("round-002", "round-004"):
        checkpoints.verify(checkpoints.manifest(name))
    with pytest.raises(CheckpointError):
        checkpoints.manifest("round-003")


@pytest.mark.parametrize("keep", [None, 1])
def test_the_first_commit_after_a_run_went_back_removes_the_later_commits(tmp_path, keep):
    checkpoints = learn_and_commit(tmp_path)
    for name in ("round-003", "round-004"):
        (tmp_path / name / "encoder.state.safetensors").write_bytes(b"damaged")
    log = []
    manifest = checkpoints.newest_whole(log.append)
    assert (manifest.name, len(log)) == ("round-002", 2)
    for resumed in (checkpoints, Checkpoints(tmp_path, keep)):
        resumed.commit(replace(manifest, name="round-003-step-01", round=3, step=2))
        assert resumed.latest().name == "round-003-step-01"
        assert (tmp_path / "round-003" / "encoder.state.safetensors").exists()
