"""Where modules and chains go on a head and two nodes, each with what the others have not, and that bits stay."""

import pytest
import torch

from tests.faults.programs import perform
from tests.multinode.layouts import REQUESTS

pytestmark = [pytest.mark.ray, pytest.mark.multinode]

WHERE = {
    "nothing": {"head", "gpu", "arm"},
    "3 CPUs": {"arm"},
    "1 GPU": {"gpu"},
    "half a GPU": {"gpu"},
    "a GPU if there is one": {"head", "gpu", "arm"},  # but a module that has a use for it gets it: the next test
    "32 GiB": {"arm"},
    "an A100": {"gpu"},
    "a node in the office": {"head"},
    "a node outside of it": {"gpu", "arm"},
    "a fast disk in the lab": {"arm"},
    "an arm": {"arm"},
}
REFUSED = {
    "2 GPUs": "asks for 2 GPU, and no node has that: ",
    "an H100": "asks for an accelerator of type H100, and no node has that: ",
    "a node at sea": "asks for a node with zone=sea, and no node has that: ",
    "16 CPUs": "asks for 16 CPU, and no node has that: ",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    came = perform("layouts", (), tmp_path_factory.mktemp("layouts"), 400, package="tests.multinode")
    for name, scene in came.items():
        assert "error" not in scene, f"{name}: {scene['error']}"
    return came


@pytest.mark.parametrize("module", ["data", "gmm", "mm"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_module_goes_where_its_request_can_be_met_or_is_refused(found, module, request_):
    went = found["requests"]["placed"][f"{module}: {request_}"]
    print(f"| {module} | {request_} | {went[module] if isinstance(went, dict) else 'refused'} |")
    if request_ in REFUSED:
        assert went.startswith(f"module {module!r} {REFUSED[request_]}")
    else:
        assert went[module] in WHERE[request_]


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
