"""Objects that are lost, one call of the transport after the other: the run ends with the same bits."""

import pytest

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.errors import ModuleFailedError, ObjectsLostError
from actors.graph.schedule import Block, Step
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, model

CALLS = ("load", "collect", "chained", "saved", "read")


class Losing(InProcess):
    """Says in the calls `lost` (numbered over all of :data:`CALLS`) that what it was given is gone."""

    def __init__(self, lost):
        super().__init__()
        self.lost, self.asked, self.met = lost, 0, 0

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if name in CALLS:
            self.asked += 1
            if self.asked in self.lost:
                self.met += 1
                raise ObjectsLostError("gone, as the test asked")
        return found


def graph():
    return model(2, (Block((Step("encoder"), Step("mirror")), chains=2), Step("mirror")))


def learnt(root, transport):
    events, checkpoints = [], Checkpoints(root)
    coordinator = Coordinator(
        graph(), transport, checkpoints=checkpoints, emit=lambda name, fields: events.append((name, dict(fields)))
    )
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


def test_wherever_objects_are_lost_the_bits_are_the_same(tmp_path):
    whole = Losing(())
    expected, *_ = learnt(tmp_path / "whole", whole)
    for number in range(1, whole.asked + 1):
        found, events, _ = learnt(tmp_path / f"{number}", Losing((number,)))
        assert found == expected, f"call {number}"
        assert [name for name, _ in events].count("replay") == 1


def test_once_more_while_the_last_commit_is_taken_up(tmp_path):
    whole = Losing(())
    expected, *_ = learnt(tmp_path / "whole", whole)
    for number in range(1, whole.asked + 1, 3):
        transport = Losing((number, number + 2))
        assert learnt(tmp_path / f"{number}", transport)[0] == expected, f"call {number}"
        assert transport.met == 2 or number > whole.asked - 2


def test_a_run_that_loses_its_objects_again_and_again_gives_up(tmp_path):
    with pytest.raises(ModuleFailedError, match="lost what it stood on 4 times"):
        learnt(tmp_path, Losing(range(10, 1000)))


def test_a_run_that_has_ended_shows_what_it_has_learnt_though_its_objects_are_lost(tmp_path):
    transport = Losing(())
    _, events, coordinator = learnt(tmp_path, transport)
    transport.lost = (transport.asked + 1,)
    assert coordinator.generate("encoder") == {}  # the toy has nothing to show
    assert (transport.met, events[-1][0], coordinator.ended) == (1, "replay", "done")
