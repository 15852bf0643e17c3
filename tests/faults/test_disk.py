"""A disk that is full, or that nobody may write to: a sentence, and nothing that was committed is lost."""

import os
import subprocess
from contextlib import suppress

import pytest

from actors.storage.checkpoints import Checkpoints
from tests.faults.commands import Command, digests, inspected, serket

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    """A small disk."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk):
    """Leave no room on the disk."""
    room = os.statvfs(disk)
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        for _ in range(room.f_blocks):
            filler.write(bytes(room.f_frsize))
    assert os.statvfs(disk).f_bfree == 0


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def test_a_full_disk_ends_the_run_and_costs_no_commit(config, disk, gates, address, expected):
    path = disk / "small"
    command = Command("run", config, "--runs", disk, "--address", address, *gates.setting)
    gates.reached("2-0")
    fill(disk)
    gates.open()
    said = command.end(code=1).splitlines()[-1]
    assert f"serket: {path}" in said or "could not be written" in said
    assert "No space left on device" in said
    assert "go on with serket resume" in said
    assert Checkpoints(path / "checkpoints").newest_whole(pytest.fail).round >= 1
    assert inspected(path)["next"] == f"serket resume {path}"  # nothing is written for that
    (disk / "filler").unlink()
    serket("resume", path, "--address", address)
    assert digests(path) == expected


def test_a_full_disk_of_commits_alone_is_named_by_the_module_that_writes_there(
    config, disk, gates, tmp_path, address, expected
):
    path, storage = tmp_path / "small", ("--set", f"checkpoints.storage={disk}")
    command = Command("run", config, "--runs", tmp_path, "--address", address, *storage, *gates.setting)
    gates.reached("2-0")
    fill(disk)
    gates.open()
    said = command.end(code=1)
    assert "commit round-002 could not be written: [Errno 28] No space left on device" in said
    assert f"{disk}/small/round-002/" in said
    assert "what was committed before is whole. Mend that, then go on with serket resume" in said
    (disk / "filler").unlink()
    serket("resume", path, "--address", address)
    assert digests(path, disk / "small") == expected


def test_a_disk_that_is_full_before_the_run_begins_leaves_no_directory_behind(config, disk, address):
    fill(disk)
    said = serket("run", config, "--runs", disk, "--address", address, code=1)
    assert f"{disk}/small/config.yaml: No space left on device" in said
    assert not (disk / "small").exists()


def test_a_directory_that_may_not_be_written_to_is_named_before_anything_starts(config, disk):
    remount(disk, "ro")
    said = serket("run", config, "--runs", disk, code=2).splitlines()[-1]
    assert "cannot be made (Read-only file system); choose other --runs" in said


def test_a_run_that_may_not_be_written_to_is_not_resumed(config, disk, gates, address, expected):
    path = disk / "small"
    command = Command("run", config, "--runs", disk, "--address", address, *gates.setting)
    gates.reached("2-0")
    command.kill()
    remount(disk, "ro")
    said = serket("resume", path, code=2).splitlines()[-1]
    assert f"{path}: nothing can be written there (Read-only file system)" in said
    assert inspected(path)["next"] == f"serket resume {path}"
    remount(disk, "rw")
    gates.open()
    serket("resume", path, "--address", address)
    assert digests(path) == expected
