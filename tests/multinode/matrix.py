"""Every module with every request on every cluster: ``python -m tests.multinode.matrix [CLUSTER …]``.

A program of its own, since its clusters would be in the way of a test session's. It prints what came of each cluster
as a line of JSON.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from itertools import pairwise

import ray
from actors.graph.spec import Connection, ModuleSpec, Resources
from ray.cluster_utils import Cluster

from actors.backends.ray.backend import RayTransport
from actors.backends.ray.placement_groups import nodes
from actors.coordination.placement import Placement, allot, bundles_of, plan
from actors.errors import BackendError
from actors.graph.graph import Graph
from tests.faults.scenes import perform
from tests.multinode.layouts import GIB, NODES, STORE

CLUSTERS = {
    "laptop": {"laptop": {"num_cpus": 2, "include_dashboard": False}},
    "lab": NODES,
    "hall": {
        "desk": {"num_cpus": 2, "labels": {"zone": "office"}, "include_dashboard": False},
        "big": {
            "num_cpus": 16,
            "num_gpus": 2,
            "labels": {"zone": "sea"},
            "resources": {"accelerator_type:H100": 1},
            "memory": 64 * GIB,
        },
    },
}

REQUESTS = {
    "nothing": Resources(),
    "3 CPUs": Resources(num_cpus=3),
    "16 CPUs": Resources(num_cpus=16),
    "half a GPU": Resources(num_gpus=0.5),
    "1 GPU": Resources(num_gpus=1),
    "2 GPUs": Resources(num_gpus=2),
    "a GPU if there is one": Resources(num_gpus="auto"),
    "an A100": Resources(num_gpus=1, accelerator_type="A100"),
    "an H100": Resources(accelerator_type="H100"),
    "32 GiB": Resources(memory=32 * GIB),
    "a node in the office": Resources(label_selector={"zone": "office"}),
    "a node outside of it": Resources(label_selector={"zone": "!office"}),
    "a node at sea": Resources(label_selector={"zone": "sea"}),
    "a fast disk in the lab": Resources(label_selector={"zone": "in(lab, hall)", "disk": "fast"}),
    "an arm": Resources(custom={"arm": 1}),
}

TYPES = {
    "data": ("observation", {}),
    "vae": ("vae", {"latent_dim": 2}),
    "gmm": ("gmm", {"classes": 3}),
    "mm": ("markov", {}),
}
BELOW = {"data": (), "vae": ("data",), "gmm": ("data",), "mm": ("data", "gmm")}
"""What a module needs below it."""


def graph_of(module: str, wish: Resources) -> Graph:
    """Return the smallest model that has the module in it, which alone wishes for something."""
    names = (*BELOW[module], module)
    specs = [ModuleSpec(n, *TYPES[n], resources=wish if n == module else Resources()) for n in names]
    return Graph(specs, [Connection(*pair) for pair in pairwise(names)])


def place(module: str, wish: Resources, named: dict[str, str]) -> str:
    """Return the name of the node that a module came to, or what was said against it."""
    transport = RayTransport("matrix")
    try:
        found = transport.start(graph_of(module, wish))
        return next(named[each["node_id"]] for each in found if each["module"] == module)
    except BackendError as error:
        return str(error)
    finally:
        transport.stop()


def foreseen(module: str, wish: Resources) -> str:
    """Return what a dry run says is missing."""
    graph, there = graph_of(module, wish), nodes()
    return "".join(spot.missing for spot in plan(bundles_of(graph, allot(graph, there), Placement()), there))


def fill(label: str) -> dict:
    """Try everything on one cluster."""
    cluster = Cluster()
    try:
        named = {
            cluster.add_node(object_store_memory=STORE, **given).node_id: name
            for name, given in CLUSTERS[label].items()
        }
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        assert len(nodes()) == len(named)
        pairs = [(module, request) for request in REQUESTS for module in TYPES]
        return {
            "placed": {f"{m}: {r}": place(m, REQUESTS[r], named) for m, r in pairs},
            "foreseen": {f"{m}: {r}": foreseen(m, REQUESTS[r]) for m, r in pairs},
        }
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    perform({label: partial(fill, label) for label in CLUSTERS}, sys.argv[1:])
