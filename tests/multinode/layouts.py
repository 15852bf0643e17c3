"""Modules on different nodes of one cluster: ``python -m tests.multinode.layouts [SCENARIO …]``.

This is a program of its own because its cluster would conflict with that of a test session. The cluster has a head and
two nodes, each with resources that the others lack. The report of each scenario is printed as one line of JSON.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from actors.backends.ray.backend import RayBackend
from actors.backends.ray.placement_groups import nodes
from actors.coordination.events import LogMessage, ModulePlaced, ModulePrepared
from actors.coordination.placement import Placement
from actors.coordination.session import RunSpec
from actors.errors import BackendError, ModuleFailedError
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Resources
from actors.storage.checkpoints import Checkpoints
from runner.config.run_config import load_config
from runner.data.sources import source_states
from runner.runs.coordinator_client import CoordinatorClient
from tests.faults.nodes import daemon_pid
from tests.faults.runs import digests, run_undisturbed
from tests.faults.scenarios import LARGE, run_and_print

STORE = 100 << 20
GIB = 2**30
NODES = {
    "head": {"num_cpus": 2, "labels": {"zone": "office"}, "include_dashboard": False},
    "gpu": {"num_cpus": 2, "num_gpus": 1, "labels": {"zone": "lab"}, "resources": {"accelerator_type:A100": 1}},
    "arm": {"num_cpus": 4, "labels": {"zone": "lab", "disk": "fast"}, "resources": {"arm": 2}, "memory": 64 * GIB},
}
CONFIGS = Path(__file__).parents[2] / "configs"

RUN = "layouts"


def graph(resources=None, schedule=None, gmm=("gmm", {})):
    """Return a graph of GMM and MM, with the resources of modules by name."""
    resources, (gmm_type, parameters) = resources or {}, gmm
    types = {
        "data": ("observation", {}),
        "gmm": (gmm_type, {"classes": 3, "iterations": 2, **parameters}),
        "mm": ("markov", {}),
    }
    specs = [ModuleSpec(name, *spec, resources=resources.get(name, Resources())) for name, spec in types.items()]
    return Graph(specs, [Connection("data", "gmm"), Connection("gmm", "mm")], schedule)


def place(model, placement=None):
    """Return the name of the node of each module, or the error message."""
    backend = RayBackend("layouts", placement=placement)
    try:
        return {placed.module: NAMES[placed.node_id] for placed in backend.start(model)}
    except BackendError as error:
        return str(error)
    finally:
        backend.stop()


def strategies():
    """Place the model with each strategy and with modules that share a node."""
    placements = {
        "pack": Placement("pack"),
        "spread": Placement("spread"),
        "gmm and mm together, spread": Placement("spread", (("gmm", "mm"),)),
        "data and gmm together": Placement(None, (("data", "gmm"),)),
    }
    placed = {name: place(graph(), placement) for name, placement in placements.items()}
    resources = {"gmm": Resources(num_gpus=1), "mm": Resources(custom={"arm": 1})}
    placed["a GPU and an arm, spread"] = place(graph(resources), Placement("spread"))
    placed["a GPU and an arm together"] = place(graph(resources), Placement(together=(("gmm", "mm"),)))
    return {"placed": placed}


def run(model, states, placement=None):
    """Run a model on the cluster; return the name of the node of each module, and the commits."""
    root = Path(tempfile.mkdtemp())
    spec = RunSpec(model, RUN, 0, str(root), placement=placement or Placement())
    client = CoordinatorClient.launch(spec, patience=20.0)
    placed = {}
    try:
        for events, _ in client.begin(states):
            typed = [timed.event for timed in events]
            placed.update({event.module: NAMES[event.node_id] for event in typed if isinstance(event, ModulePlaced)})
    finally:
        client.stop()
    return placed, Checkpoints(root)


def packed_and_spread():
    """Run VAE + GMM + MM on MNIST digits, packed onto one node and spread over all nodes."""
    small = ["data.count=300", "modules.vae.epochs=3", "schedule.rounds=2", "modules.vae.threads=1"]
    config = load_config(CONFIGS / "mnist.yaml", small)
    states = source_states(config.graph, config.load_data())
    started = time.monotonic()
    packed = run(config.graph, states, Placement("pack"))
    between = time.monotonic()
    spread = run(config.graph, states, Placement("spread"))
    ended = time.monotonic()
    return {
        "packed": packed[0],
        "spread": spread[0],
        "identical": digests(packed[1], "round-002") == digests(spread[1], "round-002"),
        "packed_seconds": between - started,
        "spread_seconds": ended - between,
    }


def chains():
    """Run chains of a block on the nodes with free cores."""
    markers = Path(tempfile.mkdtemp())
    block = Block((Step("gmm"), Step("mm")), repeat=2, anneal=(0.5, 1.0), chains=6)
    schedule = Schedule(2, (block, Step("gmm", {"iterations": 0})))
    gmm = ("tests.faults.blocking_modules:BlockingGMM", {"markers": str(markers)})
    model = graph(schedule=schedule, gmm=gmm)
    expected = run_undisturbed(model, Path(tempfile.mkdtemp()), LARGE, RUN)
    for path in markers.iterdir():
        path.unlink()
    commits = run(model, {"data": {"values": LARGE}})[1]
    # The module marks its updates (round, chain and exchange) with the process id of the node's Ray daemon.
    placed = {path.name.split("-")[2]: DAEMONS[int(path.read_text())] for path in markers.glob("gmm-2-*-0")}
    placed.pop("0")  # the module itself, in its actor
    return {"identical": digests(commits, "round-002") == digests(expected, "round-002"), "placed": placed}


def no_cuda():
    """Run a VAE on a node with a GPU for which torch has no CUDA, with an optional and a required GPU."""
    settings = ["data.count=100", "modules.vae.epochs=1", "schedule.rounds=1"]
    received, failure = [], ""
    for num_gpus in ("auto", 1.0):
        config = load_config(CONFIGS / "digits.yaml", [*settings, f"modules.vae.resources.num_gpus={num_gpus}"])
        spec = RunSpec(config.graph, RUN, 0, str(tempfile.mkdtemp()))
        client = CoordinatorClient.launch(spec, patience=20.0)
        try:
            for events, _ in client.begin(source_states(config.graph, config.load_data())):
                received += [timed.event for timed in events]
        except ModuleFailedError as error:
            failure = str(error)
        finally:
            client.stop()
    prepared = [event for event in received if isinstance(event, ModulePrepared)]
    return {
        "log": [event.message for event in received if isinstance(event, LogMessage)],
        "devices": [event.device for event in prepared if event.module == "vae"],
        "failure": failure,
    }


SCENARIOS = {scenario.__name__: scenario for scenario in (strategies, packed_and_spread, chains, no_cuda)}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the `finally` clause ends the cluster
    cluster = Cluster()
    NAMES: dict[str, str] = {}
    DAEMONS: dict[int, str] = {}
    try:
        for name, node_args in NODES.items():
            node = cluster.add_node(object_store_memory=STORE, **node_args)
            NAMES[node.node_id] = DAEMONS[daemon_pid(node)] = name
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        assert len(nodes()) == len(NODES)
        run_and_print(SCENARIOS, sys.argv[1:])
    finally:
        ray.shutdown()
        cluster.shutdown()
