"""Tests of nodes that die with modules, objects, chains or the coordinator: the results stay bit-identical."""

import pytest

from tests.faults.scenario_programs import add_to_table, run_program

pytestmark = [pytest.mark.ray, pytest.mark.faults]

SCENARIOS = (
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
def reports(tmp_path_factory):
    """The reports of all scenarios, which run one after another on one cluster."""
    return run_program("nodes", SCENARIOS, tmp_path_factory.mktemp("nodes"), 570)


@pytest.fixture
def report_of(reports):
    return lambda scenario: add_to_table("node", reports, scenario)


def test_a_module_whose_node_dies_continues_on_another_node(report_of):
    report = report_of("a_spare_node")
    assert report["identical"]
    assert report["events"] == ["lost", "recovered"]


def test_a_module_that_ray_restarted_while_idle_does_not_learn_without_its_state(report_of):
    report = report_of("an_idle_module")
    assert report["identical"]
    assert report["events"] == ["lost", "recovered"]


def test_a_round_whose_objects_are_lost_is_replayed_from_the_last_commit(report_of):
    report = report_of("objects_lost")
    assert report["identical"]
    assert report["events"].count("replay") == 1


def test_the_results_are_bit_identical_after_two_nodes_die_at_once(report_of):
    assert report_of("two_nodes")["identical"]


def test_lost_results_of_chains_are_computed_again(report_of):
    report = report_of("chains_lost")
    assert report["identical"]
    assert report["selected"] > 0, "no chain was selected, so the loss of the results had no effect"


def test_chains_do_not_wait_for_a_core_of_a_dead_node(report_of):
    report = report_of("chains_without_a_core")
    assert report["identical"]
    assert report["noticed"] < 30


def test_a_coordinator_whose_node_dies_resumes_the_run_on_another_node(report_of):
    report = report_of("the_coordinators_node")
    assert report["identical"]
    assert {"restarted", "resumed"} <= set(report["events"])


def test_a_restarted_coordinator_waits_for_nodes_that_can_hold_the_modules(report_of):
    report = report_of("the_coordinator_waits")
    assert report["identical"]
    waiting = "waiting for nodes that can hold the modules: module 'gmm' asks for 1 GPU, and no node has that: "
    assert any(waiting in sentence for sentence in report["log"])


def test_a_run_that_no_node_can_hold_logs_what_is_missing_and_continues_when_a_node_joins(report_of):
    report = report_of("a_node_joins")
    assert report["identical"]
    waiting = "waiting for a process for module 'gmm': module 'gmm' asks for 1 GPU, and no node has that free: "
    assert any(waiting in sentence for sentence in report["log"])


def test_a_run_that_no_node_can_hold_fails_after_its_timeout_with_whole_commits(report_of):
    report = report_of("no_node")
    no_process = "module 'gmm' has no process after 12 s: module 'gmm' asks for 1 GPU, and no node has that"
    assert no_process in report["failure"]
    assert report["failed"] < 40
    assert report["commits_at_failure"] == ["round-000", "round-001"]
    assert report["identical"], "after being resumed on a new node"
