"""Tests of the placement of each module with each resource request on each cluster: on a fitting node, or rejected."""

from functools import partial

import pytest

from tests.faults.scenario_programs import run_program
from tests.multinode.matrix import CLUSTERS, REQUESTS, TYPES

pytestmark = [pytest.mark.ray, pytest.mark.multinode]

ANYWHERE = {label: set(nodes) for label, nodes in CLUSTERS.items()}
EXPECTED_NODES = {
    "nothing": ANYWHERE,
    "3 CPUs": {"lab": {"arm"}, "hall": {"big"}},
    "16 CPUs": {"hall": {"big"}},
    "half a GPU": {"lab": {"gpu"}, "hall": {"big"}},
    "1 GPU": {"lab": {"gpu"}, "hall": {"big"}},
    "2 GPUs": {"hall": {"big"}},
    "a GPU if there is one": ANYWHERE,  # of these modules, only the VAE uses a GPU and gets one
    "an A100": {"lab": {"gpu"}},
    "an H100": {"hall": {"big"}},
    "32 GiB": {"lab": {"arm"}, "hall": {"big"}},
    "a node in the office": {"lab": {"head"}, "hall": {"desk"}},
    "a node outside of it": {"laptop": {"laptop"}, "lab": {"gpu", "arm"}, "hall": {"big"}},
    "a node at sea": {"hall": {"big"}},
    "a fast disk in the lab": {"lab": {"arm"}},
    "an arm": {"lab": {"arm"}},
}
"""The nodes that fit, by request and cluster; a cluster that is not listed rejects the request."""

DESCRIBED = {
    "3 CPUs": "3 CPU",
    "16 CPUs": "16 CPU",
    "half a GPU": "0.5 GPU",
    "1 GPU": "1 GPU",
    "2 GPUs": "2 GPU",
    "an A100": "1 GPU and an accelerator of type A100",
    "an H100": "an accelerator of type H100",
    "32 GiB": "32.0 GiB memory",
    "a node in the office": "a node with zone=office",
    "a node at sea": "a node with zone=sea",
    "a fast disk in the lab": "a node with zone=in(lab, hall), disk=fast",
    "an arm": "1 arm",
}
"""The description of each request in error messages."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    reports = run_program("matrix", (), tmp_path_factory.mktemp("matrix"), 560, package="tests.multinode")
    for label in CLUSTERS:
        assert "error" not in reports[label], f"{label}: {reports[label]['error']}"
    print_table(reports)
    return reports


def print_table(reports):
    def cell(label, request):
        placed = [reports[label]["placed"][f"{module}: {request}"] for module in TYPES]
        return ", ".join(dict.fromkeys("rejected" if " " in each else each for each in placed))

    print("\n| request | " + " | ".join(CLUSTERS) + " |")
    for request in REQUESTS:
        print(f"| {request} | " + " | ".join(map(partial(cell, request=request), CLUSTERS)) + " |")


@pytest.mark.parametrize("label", CLUSTERS)
@pytest.mark.parametrize("module", TYPES)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_module_is_placed_on_a_node_that_fits_or_rejected(reports, label, module, request_):
    placed = reports[label]["placed"][f"{module}: {request_}"]
    predicted = reports[label]["predicted"][f"{module}: {request_}"]
    if label in EXPECTED_NODES[request_]:
        assert placed in EXPECTED_NODES[request_][label]
        assert predicted == ""
    else:
        assert placed.startswith(f"module {module!r} asks for {DESCRIBED[request_]}, and no node has that: ")
        assert predicted == placed


@pytest.mark.parametrize(("label", "node"), [("laptop", "laptop"), ("lab", "gpu"), ("hall", "big")])
def test_a_module_that_can_use_a_gpu_gets_one_if_the_cluster_has_one(reports, label, node):
    assert reports[label]["placed"]["vae: a GPU if there is one"] == node
