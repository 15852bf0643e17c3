"""The short part of the deaths, on toy modules; the whole is run by ``make test-faults``."""

import pytest

from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, model
from tests.conftest import wait_until
from tests.faults.runs import deaths, digests, named_actors, run, undisturbed

FAULTS = ("mirror:after:2", "mirror:recovery:2", "coordinator:inside:6")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_modules_and_coordinator_die_and_the_run_ends_with_the_same_bits(tmp_path):
    graph = model(rounds=7, seconds=0.1)  # so that what happens is heard of before the coordinator dies
    root = tmp_path / "run" / "checkpoints"
    expected = undisturbed(graph, tmp_path / "undisturbed", ROWS)
    events = run(graph, root, FAULTS, ROWS)
    assert len(deaths(root)) == len(FAULTS)
    names = [name for name, _, _ in events]
    assert names.count("lost") == 2
    assert names.count("recovered") == 1
    assert names.count("resumed") == 1
    assert Checkpoints(root).names() == expected.names()
    assert all(digests(Checkpoints(root), name) == digests(expected, name) for name in expected.names())
    wait_until(lambda: not named_actors())
