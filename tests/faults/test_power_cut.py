"""The machine loses power at any moment: what was committed is there, and what was not breaks nothing."""

import numpy as np
import pytest

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.errors import CheckpointError
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import LocalStorage
from actors.storage.manifest import needed
from tests.actors.coordination.test_coordinator import model
from tests.faults.power import LEFT, LOST, OUTCOMES, Disk, PowerCut, power, remains

ROWS = np.random.default_rng(0).normal(size=(4, 2))


def coordinator(root, keep, rounds, committed):
    """Of a run of the toy model in ``<root>/run/checkpoints``; notes the name of each commit that has returned."""
    return Coordinator(
        model(rounds=rounds, dim=1),
        InProcess(),
        checkpoints=Checkpoints(root / "run" / "checkpoints", keep),
        emit=lambda event, fields: committed.append(fields["name"]) if event == "commit" else None,
    )


def run(root, keep, rounds, committed):
    """Run the toy model from its beginning."""
    beginner = coordinator(root, keep, rounds, committed)
    beginner.start({"data": {"values": ROWS}})
    beginner.run_rounds()


def go_on(root, keep, rounds, manifest):
    """Continue the run from what is left, or begin it where nothing is."""
    with power(Disk(root)):
        if manifest is None:
            run(root, keep, rounds, [])
        else:
            heir = coordinator(root, keep, rounds, [])
            heir.resume()
            heir.run_rounds()


def lived_through(root, keep, rounds, cut=None):
    """Run until the power goes off, on a disk of its own below `root`; the disk, and the commits that returned."""
    disk, committed = Disk(root / f"{cut}", cut), []
    with power(disk):
        run(disk.root, keep, rounds, committed)
    return disk, committed


@pytest.mark.parametrize(("keep", "rounds"), [(None, 1), pytest.param(1, 2, marks=pytest.mark.faults)])
def test_after_a_power_cut_at_any_moment_no_commit_is_lost_and_the_run_goes_on_to_the_same_end(tmp_path, keep, rounds):
    whole = lived_through(tmp_path, keep, rounds)[0]
    expected = Checkpoints(whole.root / "run" / "checkpoints").latest()
    assert whole.operations > 50
    for cut in range(whole.operations):
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
            if outcome != OUTCOMES[cut % len(OUTCOMES)]:
                continue  # by turns, for it takes as long as the run
            go_on(left, keep, rounds, found)
            assert checkpoints.latest().modules == expected.modules, at
            if keep == 1 and (found is None or found.name != expected.name):  # whatever the cut had left is pruned
                files = [path for path in LocalStorage(checkpoints.root).files() if not path.endswith(".part")]
                assert set(files) == {f"{expected.name}/manifest.json", *needed(expected)}, at


def test_what_a_process_left_when_it_died_is_on_the_disk_once_another_has_committed(tmp_path):
    operations = lived_through(tmp_path, None, 1)[0].operations
    for cut in range(operations):
        disk, _ = lived_through(tmp_path, None, 1, cut)
        disk.cut = None
        with power(disk):
            run(disk.root, None, 1, [])
        for _, left in remains(disk, tmp_path, [LOST]):
            assert Checkpoints(left / "run" / "checkpoints").newest_whole(pytest.fail).name == "round-001"


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
