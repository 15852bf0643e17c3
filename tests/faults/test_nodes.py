"""A node dies with modules, objects, chains or the coordinator on it: the run ends with the bits of a run without."""

import pytest

from tests.faults.programs import noted, perform

pytestmark = [pytest.mark.ray, pytest.mark.faults]

SCENES = (
    "a_spare_node",
    "an_idle_module",
    "objects_lost",
    "two_nodes",
    "chains_lost",
    "chains_without_a_core",
    "the_coordinators_node",
    "the_coordinator_waits",
    "a_node_joins",
    "no_node",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came of all scenes: one cluster for all of them."""
    return perform("nodes", SCENES, tmp_path_factory.mktemp("nodes"), 570)


@pytest.fixture
def of(found):
    return lambda scene: noted("node", found, scene)


def test_a_module_whose_node_dies_learns_on_elsewhere(of):
    came = of("a_spare_node")
    assert came["same"]
    assert came["events"] == ["lost", "recovered"]


def test_a_module_that_ray_started_again_while_nobody_asked_it_does_not_learn_from_nothing(of):
    came = of("an_idle_module")
    assert came["same"]
    assert came["events"] == ["lost", "recovered"]


def test_a_round_whose_objects_are_lost_is_replayed_from_the_last_commit(of):
    came = of("objects_lost")
    assert came["same"]
    assert came["events"].count("replay") == 1


def test_two_nodes_that_die_at_once_change_no_bit(of):
    assert of("two_nodes")["same"]


def test_what_chains_gave_is_made_again_where_it_is_lost(of):
    came = of("chains_lost")
    assert came["same"]
    assert came["selected"] > 0, "no chain was adopted, so that it did not matter that they were lost"


def test_chains_do_not_wait_for_a_core_that_died(of):
    came = of("chains_without_a_core")
    assert came["same"]
    assert came["noticed"] < 30


def test_a_coordinator_whose_node_dies_takes_the_run_up_elsewhere(of):
    came = of("the_coordinators_node")
    assert came["same"]
    assert {"restarted", "resumed"} <= set(came["events"])


def test_a_coordinator_that_came_back_waits_for_room_for_the_modules(of):
    came = of("the_coordinator_waits")
    assert came["same"]
    assert any(
        "waiting for room for the modules: module 'gmm' asks for 1 GPU, and no node has that: " in sentence
        for sentence in came["log"]
    )


def test_a_run_that_no_node_can_hold_says_what_is_missing_and_goes_on_when_a_node_joins(of):
    came = of("a_node_joins")
    assert came["same"]
    waiting = "waiting for a process for module 'gmm': module 'gmm' asks for 1 GPU, and no node has that free: "
    assert any(waiting in sentence for sentence in came["log"])


def test_a_run_that_no_node_can_hold_ends_in_time_with_its_commits_whole(of):
    came = of("no_node")
    assert (
        "module 'gmm' has no process after 12 s: module 'gmm' asks for 1 GPU, and no node has that" in came["failure"]
    )
    assert came["failed"] < 40
    assert came["left"] == ["round-000", "round-001"]
    assert came["same"], "taken up again on a new node"
