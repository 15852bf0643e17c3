"""Place each module with each resource request on each cluster: ``python -m tests.multinode.matrix [CLUSTER …]``.

This is a program of its own because its clusters would conflict with that of a test session. The report of each
cluster is printed as one line of JSON.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from itertools import pairwise

import ray
from ray.cluster_utils import Cluster

from actors.backends.ray.backend import RayBackend
from actors.backends.ray.placement_groups import nodes
from actors.coordination.placement import Placement, allocate_gpus, assign, build_bundles
from actors.errors import BackendError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Resources
from tests.faults.scenarios import run_and_print
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
"""The modules that each module requires below it."""


def graph_with(module: str, resources: Resources) -> Graph:
    """Return the smallest graph that contains `module`, which alone has `resources` and learns first.

    Processes of modules that learn later may be started later.
    """
    names = (*BELOW[module], module)
    specs = [ModuleSpec(n, *TYPES[n], resources=resources if n == module else Resources()) for n in names]
    return Graph(specs, [Connection(*pair) for pair in pairwise(names)], Schedule(1, (Step(module),)))


def place(module: str, resources: Resources, node_names: dict[str, str]) -> str:
    """Return the name of the node on which Ray places a module, or the error message."""
    backend = RayBackend("matrix")
    try:
        places = backend.start(graph_with(module, resources))
        return next(node_names[placed.node_id] for placed in places if placed.module == module)
    except BackendError as error:
        return str(error)
    finally:
        backend.stop()


def predict(module: str, resources: Resources) -> str:
    """Return what is missing according to a dry run; empty if nothing is."""
    graph, present = graph_with(module, resources), nodes()
    assignments = assign(build_bundles(graph, allocate_gpus(graph, present), Placement()), present)
    return "".join(assignment.missing for assignment in assignments)


def place_all(label: str) -> dict:
    """Place every module with every request on one cluster."""
    cluster = Cluster()
    try:
        node_names = {
            cluster.add_node(object_store_memory=STORE, **node_args).node_id: name
            for name, node_args in CLUSTERS[label].items()
        }
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        assert len(nodes()) == len(node_names)
        pairs = [(module, request) for request in REQUESTS for module in TYPES]
        return {
            "placed": {f"{m}: {r}": place(m, REQUESTS[r], node_names) for m, r in pairs},
            "predicted": {f"{m}: {r}": predict(m, REQUESTS[r]) for m, r in pairs},
        }
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the `finally` clause ends the cluster
    run_and_print({label: partial(place_all, label) for label in CLUSTERS}, sys.argv[1:])
