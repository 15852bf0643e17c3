"""Tests of lost objects: wherever one is lost, the run ends with the same bits."""

import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleFailedError, ObjectsLostError
from actors.graph.schedule import Block, Step
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, model
from tests.support.events import recorder

CALLS = ("load_state", "collect")


class LosingBackend(InProcessBackend):
    """Raises ObjectsLostError in the calls `lost`, numbered over all of :data:`CALLS`."""

    def __init__(self, lost):
        super().__init__()
        self.lost, self.calls, self.raised = lost, 0, 0

    def __getattribute__(self, name):
        attribute = super().__getattribute__(name)
        if name in CALLS:
            self.calls += 1
            if self.calls in self.lost:
                self.raised += 1
                raise ObjectsLostError("lost, as the test asked")
        return attribute


def graph():
    return model(2, (Block((Step("encoder"), Step("mirror")), chains=2), Step("mirror")))


def run(root, backend):
    events, checkpoints = [], Checkpoints(root)
    coordinator = Coordinator(graph(), backend, checkpoints=checkpoints, emit=recorder(events))
    coordinator.start({"data": {"values": ROWS}})
    coordinator.run_rounds()
    return digests(checkpoints), events, coordinator


def digests(checkpoints):
    manifest = checkpoints.latest()
    return manifest.name, {
        (module, label): file.digest
        for module, record in manifest.modules.items()
        for label, file in record.files.items()
    }


def test_the_bits_are_the_same_wherever_an_object_is_lost(tmp_path):
    undisturbed = LosingBackend(())
    expected, *_ = run(tmp_path / "undisturbed", undisturbed)
    for number in range(1, undisturbed.calls + 1):
        result, events, _ = run(tmp_path / f"{number}", LosingBackend((number,)))
        assert result == expected, f"call {number}"
        assert [name for name, _ in events].count("replay") == 1


def test_the_bits_are_the_same_if_an_object_is_lost_again_during_the_replay(tmp_path):
    undisturbed = LosingBackend(())
    expected, *_ = run(tmp_path / "undisturbed", undisturbed)
    for number in range(1, undisturbed.calls + 1, 3):
        backend = LosingBackend((number, number + 2))
        assert run(tmp_path / f"{number}", backend)[0] == expected, f"call {number}"
        assert backend.raised == 2 or number > undisturbed.calls - 2


def test_a_run_that_loses_objects_repeatedly_fails(tmp_path):
    with pytest.raises(ModuleFailedError, match="results were lost with their nodes 4 times"):
        run(tmp_path, LosingBackend(range(10, 1000)))


def test_a_run_that_has_ended_can_generate_after_its_objects_were_lost(tmp_path):
    backend = LosingBackend(())
    _, events, coordinator = run(tmp_path, backend)
    backend.lost = (backend.calls + 1,)
    assert coordinator.generate("encoder") == {}  # the toy module generates no outputs
    assert (backend.raised, events[-1][0], coordinator.ended) == (1, "replay", "done")
