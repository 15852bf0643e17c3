"""The placement matrix: each module with each request on each cluster goes where it can be met, or is refused."""

from functools import partial

import pytest

from tests.faults.programs import perform
from tests.multinode.matrix import CLUSTERS, REQUESTS, TYPES

pytestmark = [pytest.mark.ray, pytest.mark.multinode]

ANYWHERE = {label: set(nodes) for label, nodes in CLUSTERS.items()}
WHERE = {
    "nothing": ANYWHERE,
    "3 CPUs": {"lab": {"arm"}, "hall": {"big"}},
    "16 CPUs": {"hall": {"big"}},
    "half a GPU": {"lab": {"gpu"}, "hall": {"big"}},
    "1 GPU": {"lab": {"gpu"}, "hall": {"big"}},
    "2 GPUs": {"hall": {"big"}},
    "a GPU if there is one": ANYWHERE,  # but the VAE, which has a use for it, gets it
    "an A100": {"lab": {"gpu"}},
    "an H100": {"hall": {"big"}},
    "32 GiB": {"lab": {"arm"}, "hall": {"big"}},
    "a node in the office": {"lab": {"head"}, "hall": {"desk"}},
    "a node outside of it": {"laptop": {"laptop"}, "lab": {"gpu", "arm"}, "hall": {"big"}},
    "a node at sea": {"hall": {"big"}},
    "a fast disk in the lab": {"lab": {"arm"}},
    "an arm": {"lab": {"arm"}},
}
"""On which nodes of which cluster; where a cluster is not named, the request is refused."""

ASKED = {
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
"""In whose words a refusal says what was asked."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    came = perform("matrix", (), tmp_path_factory.mktemp("matrix"), 560, package="tests.multinode")
    for label in CLUSTERS:
        assert "error" not in came[label], f"{label}: {came[label]['error']}"
    print_table(came)
    return came


def print_table(came):
    def cell(label, request):
        went = [came[label]["placed"][f"{module}: {request}"] for module in TYPES]
        return ", ".join(dict.fromkeys("refused" if " " in each else each for each in went))

    print("\n| asked | " + " | ".join(CLUSTERS) + " |")
    for request in REQUESTS:
        print(f"| {request} | " + " | ".join(map(partial(cell, request=request), CLUSTERS)) + " |")


@pytest.mark.parametrize("label", CLUSTERS)
@pytest.mark.parametrize("module", TYPES)
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_module_goes_where_its_request_can_be_met_or_is_refused(found, label, module, request_):
    went = found[label]["placed"][f"{module}: {request_}"]
    foreseen = found[label]["foreseen"][f"{module}: {request_}"]
    if label in WHERE[request_]:
        assert went in WHERE[request_][label]
        assert foreseen == ""
    else:
        assert went.startswith(f"module {module!r} asks for {ASKED[request_]}, and no node has that: ")
        assert foreseen == went


@pytest.mark.parametrize(("label", "node"), [("laptop", "laptop"), ("lab", "gpu"), ("hall", "big")])
def test_a_module_that_has_a_use_for_a_gpu_gets_it_where_there_is_one(found, label, node):
    assert found[label]["placed"]["vae: a GPU if there is one"] == node
