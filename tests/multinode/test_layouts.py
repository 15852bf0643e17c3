"""How models and chains are laid out over a head and two nodes, each with what the others lack; the bits stay."""

import pytest
import torch

from tests.faults.programs import perform

pytestmark = [pytest.mark.ray, pytest.mark.multinode]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    came = perform("layouts", (), tmp_path_factory.mktemp("layouts"), 400, package="tests.multinode")
    for name, scene in came.items():
        assert "error" not in scene, f"{name}: {scene['error']}"
    return came


def test_layouts_are_kept(found):
    placed = found["strategies"]["placed"]
    assert len(set(placed["pack"].values())) == 1
    assert len(set(placed["spread"].values())) == 3
    together = placed["gmm and mm together, spread"]
    assert together["gmm"] == together["mm"] != together["data"]
    assert placed["data and gmm together"]["data"] == placed["data and gmm together"]["gmm"]
    assert placed["a GPU and an arm, spread"] == {"data": "head", "gmm": "gpu", "mm": "arm"}
    assert (
        "which are to share a node, ask for 1 GPU and 1 arm, and no node has that"
        in (placed["a GPU and an arm together"])
    )


def test_the_mnist_model_has_the_same_bits_on_three_nodes_as_on_one(found):
    came = found["same_bits"]
    print(f"on one node {came['packed_seconds']:.1f} s, on three {came['spread_seconds']:.1f} s")
    assert len(set(came["packed"].values())) == 1
    assert len(set(came["spread"].values())) == 3
    assert came["same"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds CUDA here")
def test_a_vae_makes_do_with_the_cpu_where_torch_finds_no_cuda_unless_a_gpu_was_demanded(found):
    came = found["no_cuda"]
    assert came["devices"] == ["cpu"]
    assert any(
        line.startswith("vae: was given a GPU on node")
        and line.endswith("where torch finds no CUDA, so it runs on the CPU")
        for line in came["log"]
    )
    assert "module 'vae' was given 1 GPU on node" in came["failure"]
    assert "where torch finds no CUDA: install a torch build for CUDA there" in came["failure"]


def test_chains_spread_over_the_nodes_and_give_the_same_bits(found):
    came = found["chains"]
    print(f"chains: {came['homes']}")
    assert len(came["homes"]) == 6
    assert set(came["homes"].values()) == {"head", "gpu", "arm"}
    assert came["same"]
