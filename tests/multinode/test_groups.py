"""Tests of workers on several nodes, of which one is lost or joins: the results stay bit-identical."""

from collections import Counter

import pytest

from tests.faults.scenario_programs import add_to_table, run_program

pytestmark = [pytest.mark.ray, pytest.mark.multinode]

SCENARIOS = ("a_node_is_lost", "auto_follows_the_cores", "there_is_no_room", "room_comes_back")
GROUPS = ("gmm", "mm")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return run_program("groups", (), tmp_path_factory.mktemp("groups"), 800, package="tests.multinode")


def first_nodes(report, module):
    """Return the node on which each worker of a module was first, in the order of their names."""
    placed = {name: nodes[0] for name, nodes in report["placed"].items() if name.partition("#")[0] == module}
    return [placed[name] for name in sorted(placed, key=lambda name: int(name.partition("#")[2] or 0))]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_results_are_bit_identical_to_those_of_one_worker(reports, scenario):
    report = add_to_table("groups", reports, scenario)
    assert report["identical"]
    assert "lost" in report["events"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_workers_of_the_same_rows_are_on_one_node_and_the_first_ones_beside_the_coordinator(reports, scenario):
    gmm, mm = (first_nodes(reports[scenario], module)[:4] for module in GROUPS)
    assert gmm == mm
    assert gmm[0] == 0
    assert sorted(Counter(gmm).values()) == [2, 2]
    assert gmm[:2] == [0, 0]


def test_workers_that_fit_on_the_node_that_is_left_are_started_there(reports):
    report = reports["a_node_is_lost"]
    assert not any("goes on with" in line for line in report["log"])
    assert report["placed"]["gmm#2"][-1] == 0


def test_auto_goes_on_with_the_cores_that_are_left_and_takes_those_that_join(reports):
    report = reports["auto_follows_the_cores"]
    for module in GROUPS:
        assert f"{module}: goes on with 2 workers: the cluster has no more cores" in report["log"]
        assert f"{module}: has 4 workers now" in report["log"]
        assert len({report["placed"][f"{module}#{number}"][0] for number in (4, 5)} - {0}) == 1
    assert not any("waiting for a process for module 'gmm#" in line for line in report["log"][-6:])


def test_without_room_the_rows_are_dealt_out_anew_after_the_wait(reports):
    log = reports["there_is_no_room"]["log"]
    for module in GROUPS:
        told = [line for line in log if line.startswith(f"{module}: goes on with 2 workers: ")]
        assert len(told) == 1
        assert "asks for 0.5 CPU, and no node has that free" in told[0]


def test_a_group_that_lacks_workers_takes_them_when_there_is_room_again(reports):
    report = reports["room_comes_back"]
    for module in GROUPS:
        assert f"{module}: has 4 workers now" in report["log"]
