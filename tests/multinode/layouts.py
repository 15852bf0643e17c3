"""Modules on different nodes of one cluster: ``python -m tests.multinode.layouts [SCENE …]``.

A program of its own, since its cluster would be in the way of a test session's: a head and two nodes, each with what
the others have not. It prints what came of each scene as a line of JSON.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

import ray
from actors.graph.spec import Connection, ModuleSpec, Resources
from ray.cluster_utils import Cluster

from actors.backends.ray.backend import RayTransport
from actors.backends.ray.placement_groups import nodes
from actors.coordination.placement import Placement
from actors.coordination.session import Plan
from actors.errors import BackendError, ModuleFailedError
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.storage.checkpoints import Checkpoints
from runner.config.run_config import load_config
from runner.data.sources import source_states
from runner.runs.coordinator_client import RunningModel
from tests.faults.nodes import daemon_of
from tests.faults.runs import digests, undisturbed
from tests.faults.scenes import LARGE, perform

STORE = 100 << 20
GIB = 2**30
NODES = {
    "head": {"num_cpus": 2, "labels": {"zone": "office"}, "include_dashboard": False},
    "gpu": {"num_cpus": 2, "num_gpus": 1, "labels": {"zone": "lab"}, "resources": {"accelerator_type:A100": 1}},
    "arm": {"num_cpus": 4, "labels": {"zone": "lab", "disk": "fast"}, "resources": {"arm": 2}, "memory": 64 * GIB},
}
CONFIGS = Path(__file__).parents[2] / "configs"

RUN = "layouts"


def graph(wishes=None, schedule=None, gmm=("gmm", {})):
    """Return GMM + MM, with what modules wish for."""
    wishes, (kind, more) = wishes or {}, gmm
    types = {"data": ("observation", {}), "gmm": (kind, {"classes": 3, "iterations": 2, **more}), "mm": ("markov", {})}
    specs = [ModuleSpec(name, *what, resources=wishes.get(name, Resources())) for name, what in types.items()]
    return Graph(specs, [Connection("data", "gmm"), Connection("gmm", "mm")], schedule)


def place(model, placement=None):
    """Return the node's name of each module, or what was said against it."""
    transport = RayTransport("layouts", placement=placement)
    try:
        return {found["module"]: NAMES[found["node_id"]] for found in transport.start(model)}
    except BackendError as error:
        return str(error)
    finally:
        transport.stop()


def strategies():
    """Layouts of the whole model."""
    layouts = {
        "pack": Placement("pack"),
        "spread": Placement("spread"),
        "gmm and mm together, spread": Placement("spread", (("gmm", "mm"),)),
        "data and gmm together": Placement(None, (("data", "gmm"),)),
    }
    found = {name: place(graph(), layout) for name, layout in layouts.items()}
    wishes = {"gmm": Resources(num_gpus=1), "mm": Resources(custom={"arm": 1})}
    found["a GPU and an arm, spread"] = place(graph(wishes), Placement("spread"))
    found["a GPU and an arm together"] = place(graph(wishes), Placement(together=(("gmm", "mm"),)))
    return {"placed": found}


def learn(model, states, placement=None):
    """Run a model on the cluster; return where its modules were, and its commits."""
    root = Path(tempfile.mkdtemp())
    plan = Plan(model, RUN, 0, str(root), placement=placement or Placement())
    running = RunningModel.launch(plan, patience=20.0)
    where = {}
    try:
        for events, _ in running.begin(states):
            where.update({f["module"]: NAMES[f["node_id"]] for event, _, f in events if event == "placed"})
    finally:
        running.stop()
    return where, Checkpoints(root)


def same_bits():
    """VAE + GMM + MM on MNIST digits, packed onto one node and spread over all."""
    small = ["data.count=300", "modules.vae.epochs=3", "schedule.rounds=2", "modules.vae.threads=1"]
    config = load_config(CONFIGS / "mnist.yaml", small)
    states = source_states(config.graph(), config.load_data())
    started = time.monotonic()
    packed = learn(config.graph(), states, Placement("pack"))
    between = time.monotonic()
    spread = learn(config.graph(), states, Placement("spread"))
    ended = time.monotonic()
    return {
        "packed": packed[0],
        "spread": spread[0],
        "same": digests(packed[1], "round-002") == digests(spread[1], "round-002"),
        "packed_seconds": between - started,
        "spread_seconds": ended - between,
    }


def chains():
    """Chains of a block, on whichever nodes have free cores."""
    seen = Path(tempfile.mkdtemp())
    block = Block((Step("gmm"), Step("mm")), repeat=2, anneal=(0.5, 1.0), chains=6)
    schedule = Schedule(2, (block, Step("gmm", {"iterations": 0})))
    model = graph(schedule=schedule, gmm=("tests.faults.patient:PatientGMM", {"hold": str(seen)}))
    expected = undisturbed(model, Path(tempfile.mkdtemp()), LARGE, RUN)
    for path in seen.iterdir():
        path.unlink()
    done = learn(model, {"data": {"values": LARGE}})[1]
    # The module notes under which Ray daemon it learnt: in which round, as which chain, in which exchange.
    homes = {path.name.split("-")[2]: DAEMONS[int(path.read_text())] for path in seen.glob("gmm-2-*-0")}
    homes.pop("0")  # the module itself, in its actor
    return {"same": digests(done, "round-002") == digests(expected, "round-002"), "homes": homes}


def no_cuda():
    """A VAE on a node with a GPU, for which torch has no CUDA: hoped for, and demanded."""
    config = load_config(CONFIGS / "digits.yaml", ["data.count=100", "modules.vae.epochs=1", "schedule.rounds=1"])
    told, said = [], ""
    for wish in ("auto", 1.0):
        config.modules["vae"].resources.num_gpus = wish
        running = RunningModel.launch(Plan(config.graph(), RUN, 0, str(tempfile.mkdtemp())), patience=20.0)
        try:
            for events, _ in running.begin(source_states(config.graph(), config.load_data())):
                told += [(event, fields) for event, _, fields in events if event in ("log", "prepared")]
        except ModuleFailedError as error:
            said = str(error)
        finally:
            running.stop()
    return {
        "log": [fields["message"] for event, fields in told if event == "log"],
        "devices": [fields["device"] for event, fields in told if fields.get("module") == "vae"],
        "failure": said,
    }


SCENES = {scene.__name__: scene for scene in (strategies, same_bits, chains, no_cuda)}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    cluster = Cluster()
    NAMES: dict[str, str] = {}
    DAEMONS: dict[int, str] = {}
    try:
        for label, given in NODES.items():
            node = cluster.add_node(object_store_memory=STORE, **given)
            NAMES[node.node_id] = DAEMONS[daemon_of(node)] = label
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        assert len(nodes()) == len(NODES)
        perform(SCENES, sys.argv[1:])
    finally:
        ray.shutdown()
        cluster.shutdown()
