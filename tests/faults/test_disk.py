"""A disk that is full, or that nobody may write to: a sentence, and nothing that was committed is lost."""

import os
import subprocess
from contextlib import suppress

import pytest

from actors.checkpoint import Checkpoints
from tests.faults.commands import MODEL, Command, digests, serket, wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(MODEL)
    return path


@pytest.fixture(scope="module")
def expected(config, tmp_path_factory):
    runs = tmp_path_factory.mktemp("expected")
    serket("run", config, "--runs", runs)
    return digests(runs / "small")


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


def sentence(said):
    """Return the last line of what a command said: one sentence, no traceback."""
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_a_full_disk_ends_the_run_and_costs_no_commit(config, disk, expected):
    path = disk / "small"
    command = Command("run", config, "--runs", disk)
    wait_for(path, "update", round=2, module="encoder")
    fill(disk)
    said = sentence(command.end(code=1))
    assert "No space left on device" in said
    assert str(path) in said
    assert "go on with serket resume small" in said
    assert Checkpoints(path / "checkpoints").newest_whole(pytest.fail).round >= 1
    (disk / "filler").unlink()
    serket("resume", path)
    assert digests(path) == expected


def test_a_directory_that_may_not_be_written_to_is_named_before_anything_starts(config, disk):
    remount(disk, "ro")
    said = sentence(serket("run", config, "--runs", disk, code=2))
    assert "cannot be made (Read-only file system); choose other --runs" in said


def test_a_run_that_may_not_be_written_to_is_not_resumed(config, disk, expected):
    path = disk / "small"
    command = Command("run", config, "--runs", disk)
    wait_for(path, "update", round=2, module="encoder")
    command.kill()
    remount(disk, "ro")
    said = sentence(serket("resume", path, code=2))
    assert f"{path}: nothing can be written there (Read-only file system)" in said
    remount(disk, "rw")
    serket("resume", path)
    assert digests(path) == expected
