"""Tests of models and chains on a head and two nodes with different resources: the results are bit-identical."""

import pytest
import torch

from tests.faults.scenario_programs import run_program

pytestmark = [pytest.mark.ray, pytest.mark.multinode]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    reports = run_program("layouts", (), tmp_path_factory.mktemp("layouts"), 400, package="tests.multinode")
    for name, report in reports.items():
        assert "error" not in report, f"{name}: {report['error']}"
    return reports


def test_modules_are_placed_by_strategy_and_by_shared_nodes(reports):
    placed = reports["strategies"]["placed"]
    assert len(set(placed["pack"].values())) == 1
    assert len(set(placed["spread"].values())) == 3
    together = placed["gmm and mm together, spread"]
    assert together["gmm"] == together["mm"] != together["data"]
    assert placed["data and gmm together"]["data"] == placed["data and gmm together"]["gmm"]
    assert placed["a GPU and an arm, spread"] == {"data": "head", "gmm": "gpu", "mm": "arm"}
    error = "which are to share a node, ask for 1 GPU and 1 arm, and no node has that"
    assert error in placed["a GPU and an arm together"]


def test_the_mnist_model_has_bit_identical_results_on_one_node_and_on_three(reports):
    report = reports["packed_and_spread"]
    print(f"on one node {report['packed_seconds']:.1f} s, on three {report['spread_seconds']:.1f} s")
    assert len(set(report["packed"].values())) == 1
    assert len(set(report["spread"].values())) == 3
    assert report["identical"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds CUDA here")
def test_without_cuda_a_vae_runs_on_the_cpu_unless_it_requires_a_gpu(reports):
    report = reports["no_cuda"]
    assert report["devices"] == ["cpu"]
    assert any(
        line.startswith("vae: was given a GPU on node")
        and line.endswith("where torch finds no CUDA, so it runs on the CPU")
        for line in report["log"]
    )
    assert "module 'vae' was given 1 GPU on node" in report["failure"]
    assert "where torch finds no CUDA: install a torch build for CUDA there" in report["failure"]


def test_chains_on_all_nodes_have_bit_identical_results(reports):
    report = reports["chains"]
    print(f"chains: {report['placed']}")
    assert len(report["placed"]) == 6
    assert set(report["placed"].values()) == {"head", "gpu", "arm"}
    assert report["identical"]
