"""Power cuts at every operation: commits survive, and incomplete commits do no harm."""

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import Committed
from actors.errors import CheckpointError
from actors.storage.checkpoints import Checkpoints
from actors.storage.filesystem import LocalStorage
from actors.storage.manifest import files_of
from tests.actors.coordination.test_coordinator import model
from tests.faults.power import KEPT, LOST, OUTCOMES, Disk, PowerCut, power, remains

ROWS = np.random.default_rng(0).normal(size=(4, 2))


def coordinator(root, keep, rounds, committed):
    """Return a coordinator of the toy model in ``<root>/run/checkpoints``; completed commits go to `committed`."""
    return Coordinator(
        model(rounds=rounds, dim=1),
        InProcessBackend(),
        checkpoints=Checkpoints(root / "run" / "checkpoints", keep),
        emit=lambda event: committed.append(event.name) if isinstance(event, Committed) else None,
    )


def run(root, keep, rounds, committed):
    """Run the toy model from the beginning."""
    running = coordinator(root, keep, rounds, committed)
    running.start({"data": {"values": ROWS}})
    running.run_rounds()


def resume_or_run(root, keep, rounds, manifest):
    """Resume the run from its newest commit, or begin it if there is none."""
    with power(Disk(root)):
        if manifest is None:
            run(root, keep, rounds, [])
        else:
            resumed = coordinator(root, keep, rounds, [])
            resumed.resume()
            resumed.run_rounds()


def run_until_cut(root, keep, rounds, cut=None):
    """Run until the power cut on a new disk below `root`; return the disk and the completed commits."""
    disk, committed = Disk(root / f"{cut}", cut), []
    with power(disk):
        run(disk.root, keep, rounds, committed)
    return disk, committed


@pytest.mark.parametrize(("keep", "rounds"), [(None, 1), pytest.param(1, 2, marks=pytest.mark.faults)])
def test_after_a_power_cut_at_any_operation_no_commit_is_lost_and_the_run_resumes_to_the_same_result(
    tmp_path, keep, rounds
):
    complete = run_until_cut(tmp_path, keep, rounds)[0]
    expected = Checkpoints(complete.root / "run" / "checkpoints").latest()
    assert complete.operations > 50
    for cut in range(complete.operations):
        disk, committed = run_until_cut(tmp_path, keep, rounds, cut)
        assert disk.operations == cut
        for outcome, directory in remains(disk, tmp_path):
            checkpoints, log = Checkpoints(directory / "run" / "checkpoints", keep), []
            newest = checkpoints.newest_whole(log.append)
            where = f"cut at operation {cut}, unsynced names {outcome}"
            assert log == [], where
            assert (newest.name if newest else "") >= (committed[-1] if committed else ""), where
            for name in checkpoints.names():  # a partly pruned commit no longer counts as one
                checkpoints.verify(checkpoints.manifest(name))
            if outcome != OUTCOMES[cut % len(OUTCOMES)]:
                continue  # one outcome for each cut, since resuming takes as long as the run
            resume_or_run(directory, keep, rounds, newest)
            assert checkpoints.latest().modules == expected.modules, where
            if keep == 1 and (newest is None or newest.name != expected.name):  # all remains are pruned
                files = [path for path in LocalStorage(checkpoints.root).files() if not path.endswith(".part")]
                assert set(files) == {f"{expected.name}/manifest.json", *files_of(expected)}, where


def test_files_of_a_dead_process_are_durable_once_another_process_has_committed(tmp_path):
    operations = run_until_cut(tmp_path, None, 1)[0].operations
    for cut in range(operations):
        disk, _ = run_until_cut(tmp_path, None, 1, cut)
        disk.cut = None
        with power(disk):
            run(disk.root, None, 1, [])
        for _, directory in remains(disk, tmp_path, [LOST]):
            assert Checkpoints(directory / "run" / "checkpoints").newest_whole(pytest.fail).name == "round-001"


@pytest.mark.parametrize("outcome", [LOST, KEPT])
def test_the_simulator_detects_a_storage_that_does_not_sync(tmp_path, outcome):
    disk, committed = Disk(tmp_path / "disk"), []
    disk.fsync = lambda _descriptor: None
    with power(disk):
        run(disk.root, None, 1, committed)
    assert committed == ["round-000", "round-001"]
    for _, directory in remains(disk, tmp_path, [outcome]):
        checkpoints = Checkpoints(directory / "run" / "checkpoints")
        if outcome == LOST:
            assert checkpoints.newest_whole(pytest.fail) is None
        else:
            with pytest.raises(CheckpointError, match="no commit is intact"):
                checkpoints.newest_whole(pytest.fail)


def test_no_operation_succeeds_after_the_power_cut(tmp_path):
    disk = Disk(tmp_path, cut=1)
    with power(disk):
        try:
            LocalStorage(tmp_path / "files").write("round-001/a", b"contents")
        finally:
            with pytest.raises(PowerCut):
                disk.mkdir(tmp_path / "more")
    assert disk.operations == 1
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
