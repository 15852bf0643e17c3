"""The machine loses power at any moment: what was committed is there, and what was not breaks nothing."""

import numpy as np
import pytest

from actors.checkpoint import CheckpointError, Checkpoints, LoadRequest, load_part
from actors.coordinator import Coordinator
from actors.in_process import InProcess
from actors.storage import LocalStorage
from tests.actors.test_coordinator import model
from tests.faults.power import LEFT, LOST, Disk, PowerCut, power, remains

ROWS = np.random.default_rng(0).normal(size=(4, 2))


def run(root, keep, rounds, committed):
    """Let the toy model learn into ``<root>/run/checkpoints``, noting the name of each commit that has returned."""
    coordinator = Coordinator(
        model(rounds=rounds, dim=1),
        InProcess(),
        checkpoints=Checkpoints(root / "run" / "checkpoints", keep),
        emit=lambda event, fields: committed.append(fields["name"]) if event == "commit" else None,
    )
    coordinator.start({"data": {"values": ROWS}})
    coordinator.run_rounds()


def go_on(checkpoints, manifest):
    """Continue the run from what is left; for now, give each module what it would continue from."""
    if manifest is not None:
        for module, record in manifest.modules.items():
            load_part(LoadRequest(str(checkpoints.root), module, record))


def lived_through(root, keep, rounds, cut=None):
    """Run until the power goes off, on a disk of its own below `root`; the disk, and the commits that returned."""
    disk, committed = Disk(root / f"{cut}", cut), []
    with power(disk):
        run(disk.root, keep, rounds, committed)
    return disk, committed


@pytest.mark.parametrize(("keep", "rounds"), [(None, 1), (1, 2)])
def test_after_a_power_cut_at_any_moment_no_commit_that_returned_is_lost_or_damaged(tmp_path, keep, rounds):
    operations = lived_through(tmp_path, keep, rounds)[0].operations
    assert operations > 50
    for cut in range(operations):
        disk, committed = lived_through(tmp_path, keep, rounds, cut)
        assert disk.operations == cut
        for outcome, left in remains(disk, tmp_path):
            checkpoints, told = Checkpoints(left / "run" / "checkpoints", keep), []
            found = checkpoints.newest_whole(told.append)
            at = f"cut at operation {cut}, names that were not synced {outcome}"
            assert told == [], at
            assert (found.name if found else "") >= (committed[-1] if committed else ""), at
            for name in checkpoints.names():  # one that is half pruned already is no commit any more
                checkpoints.verify(checkpoints.manifest(name))
            go_on(checkpoints, found)


def test_what_a_process_left_when_it_died_is_on_the_disk_once_another_has_committed(tmp_path):
    operations = lived_through(tmp_path, None, 1)[0].operations
    for cut in range(operations):
        disk, _ = lived_through(tmp_path, None, 1, cut)
        disk.cut = None
        with power(disk):
            run(disk.root, None, 1, [])
        for _, left in remains(disk, tmp_path, [LOST]):
            assert Checkpoints(left / "run" / "checkpoints").newest_whole(pytest.fail).name == "round-001"


def test_what_a_power_cut_leaves_behind_is_in_nobodys_way(tmp_path):
    whole = lived_through(tmp_path, 1, 2)[0]
    expected = Checkpoints(whole.root / "run" / "checkpoints").latest().modules
    for cut in range(0, whole.operations, 5):
        disk, _ = lived_through(tmp_path, 1, 2, cut)
        for _, left in remains(disk, tmp_path, (LOST, LEFT)):
            with power(Disk(left)):
                run(left, 1, 2, [])
            checkpoints = Checkpoints(left / "run" / "checkpoints")
            assert checkpoints.latest().modules == expected
            there = {f"{path.parent.name}/{path.name}" for path in checkpoints.root.glob("*/*")}
            assert {path for path in there if not path.endswith(".part")} == {
                "round-002/manifest.json",
                *(file.path for record in expected.values() for file in record.files.values()),
            }


@pytest.mark.parametrize("outcome", [LOST, LEFT])
def test_the_simulator_forgives_no_storage_that_does_not_sync(tmp_path, outcome):
    disk, committed = Disk(tmp_path / "disk"), []
    disk.fsync = lambda _descriptor: None
    with power(disk):
        run(disk.root, None, 1, committed)
    assert committed == ["round-000", "round-001"]
    for _, left in remains(disk, tmp_path, [outcome]):
        checkpoints = Checkpoints(left / "run" / "checkpoints")
        if outcome == LOST:
            assert checkpoints.newest_whole(pytest.fail) is None
        else:
            with pytest.raises(CheckpointError, match="no commit is whole"):
                checkpoints.newest_whole(pytest.fail)


def test_nothing_that_runs_on_a_machine_survives_its_power(tmp_path):
    disk = Disk(tmp_path, cut=1)
    with power(disk):
        try:
            LocalStorage(tmp_path / "files").write("round-001/a", b"contents")
        finally:
            with pytest.raises(PowerCut):
                disk.mkdir(tmp_path / "more")
    assert disk.operations == 1
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
