"""A short fault-injection test on toy modules; ``make test-faults`` runs all of them."""

import pytest

from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, model
from tests.conftest import wait_until
from tests.faults.runs import deaths, digests, named_actors, run, run_undisturbed

FAULTS = ("mirror:after:2", "coordinator:inside:6")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_results_are_bit_identical_after_a_module_and_the_coordinator_die(tmp_path):
    graph = model(rounds=7, seconds=0.1)  # slow enough that the events are read before the coordinator dies
    root = tmp_path / "run" / "checkpoints"
    expected = run_undisturbed(graph, tmp_path / "undisturbed", ROWS)
    events = run(graph, root, FAULTS, ROWS)
    assert len(deaths(root)) == len(FAULTS)
    names = [timed.event.event for timed in events]
    assert names.count("lost") == 1
    assert names.count("recovered") == 1
    assert names.count("resumed") == 1
    assert Checkpoints(root).names() == expected.names()
    assert all(digests(Checkpoints(root), name) == digests(expected, name) for name in expected.names())
    wait_until(lambda: not named_actors())
