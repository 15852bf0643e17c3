"""Tests of full and read-only disks: the error is one sentence, and no commit is lost."""

import os
import subprocess
from contextlib import suppress

import pytest

from actors.storage.checkpoints import Checkpoints
from tests.faults.commands import Command, digests, inspect, serket

pytestmark = pytest.mark.faults


@pytest.fixture
def disk(tmp_path):
    """The mount point of a file system of 4 MB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mount_point], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.strip()}")
    yield mount_point
    subprocess.run(["umount", "--lazy", mount_point], check=True)


def fill(disk):
    """Fill the disk."""
    free = os.statvfs(disk)
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        for _ in range(free.f_blocks):
            filler.write(bytes(free.f_frsize))
    assert os.statvfs(disk).f_bfree == 0


def remount(disk, mode):
    subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=True)


def test_a_full_disk_ends_the_run_without_loss_of_a_commit(config, disk, gates, address, expected):
    path = disk / "small"
    command = Command("run", config, "--runs", disk, "--address", address, *gates.setting)
    gates.wait_until_reached("2-0")
    fill(disk)
    gates.open()
    error = command.wait(code=1).splitlines()[-1]
    assert f"serket: {path}" in error or "could not be written" in error
    assert "No space left on device" in error
    assert "continue with serket resume" in error
    assert Checkpoints(path / "checkpoints").newest_whole(pytest.fail).round >= 1
    assert inspect(path)["next"] == f"serket resume {path}"  # without writing to the disk
    (disk / "filler").unlink()
    serket("resume", path, "--address", address)
    assert digests(path) == expected


def test_the_error_names_the_full_disk_of_the_commits(config, disk, gates, tmp_path, address, expected):
    path, storage = tmp_path / "small", ("--set", f"checkpoints.storage={disk}")
    command = Command("run", config, "--runs", tmp_path, "--address", address, *storage, *gates.setting)
    gates.wait_until_reached("2-0")
    fill(disk)
    gates.open()
    output = command.wait(code=1)
    assert "commit round-002 could not be written: [Errno 28] No space left on device" in output
    assert f"{disk}/small/round-002/" in output
    assert "earlier commits are complete. Correct the cause, then continue with serket resume" in output
    (disk / "filler").unlink()
    serket("resume", path, "--address", address)
    assert digests(path, disk / "small") == expected


def test_a_disk_that_is_full_before_the_run_begins_leaves_no_directory(config, disk, address):
    fill(disk)
    output = serket("run", config, "--runs", disk, "--address", address, code=1)
    assert f"{disk}/small/config.yaml: No space left on device" in output
    assert not (disk / "small").exists()


def test_a_read_only_directory_is_reported_before_the_run_begins(config, disk):
    remount(disk, "ro")
    error = serket("run", config, "--runs", disk, code=2).splitlines()[-1]
    assert "cannot be created (Read-only file system); choose other --runs" in error


def test_a_run_in_a_read_only_directory_is_not_resumed(config, disk, gates, address, expected):
    path = disk / "small"
    command = Command("run", config, "--runs", disk, "--address", address, *gates.setting)
    gates.wait_until_reached("2-0")
    command.kill()
    remount(disk, "ro")
    error = serket("resume", path, code=2).splitlines()[-1]
    assert f"{path}: nothing can be written there (Read-only file system)" in error
    assert inspect(path)["next"] == f"serket resume {path}"
    remount(disk, "rw")
    gates.open()
    serket("resume", path, "--address", address)
    assert digests(path) == expected
