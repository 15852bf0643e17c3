"""Tests of sweeps on a cluster of two nodes, which is joined by its address and requires a token."""

import pytest

from tests.faults.scenario_programs import run_program

pytestmark = [pytest.mark.ray, pytest.mark.multinode]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    pytest.importorskip("tensorboardX", reason="Ray Tune is the extra 'sweep'")
    reports = run_program("swept", (), tmp_path_factory.mktemp("swept"), 400, package="tests.multinode")
    for name, report in reports.items():
        assert "error" not in report, f"{name}: {report['error']}"
    return reports


def test_trials_are_run_on_both_nodes_with_the_results_of_one_process(reports):
    report = reports["by_address"]
    assert (report["done"]["status"], report["local"]["status"]) == (0, 0), report
    assert report["states"] == ["done"] * 4
    assert report["same"] == ["evidence", "score", "accuracy"]
    assert all(len(nodes) == 1 for nodes in report["nodes"].values())
    assert len({nodes[0] for nodes in report["nodes"].values()}) == 2
    assert report["left"] == [".sweep.lock", "model.yaml", "report.html", "sweep.csv", "sweep.json"]


def test_a_sweep_goes_on_with_the_trials_that_are_missing(reports):
    report = reports["resumed"]
    assert report["done"]["status"] == 0, report
    assert "2 of 4 trials are done already" in report["done"]["printed"]
    assert report["states"] == ["done"] * 4


def test_trials_whose_process_ends_are_named_and_the_others_are_done(reports):
    report = reports["failing"]
    assert report["done"]["status"] == 1, report
    assert [row["state"] for row in report["rows"]] == ["done", "failed"]
    assert "Traceback" not in report["done"]["printed"]


def test_a_cluster_that_rejects_the_token_is_named_in_one_sentence(reports):
    report = reports["without_the_token"]["done"]
    assert report["status"] == 2, report
    assert "it rejects the token of" in report["printed"]
    assert "Traceback" not in report["printed"]
