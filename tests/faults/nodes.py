"""Nodes of a cluster that die with modules on them: ``python -m tests.faults.nodes [SCENE …]``.

A program of its own, since it kills what it started: one head, on which the driver lives, and worker nodes of which
each can hold the GMM (it asks for a GPU, which is logical and which only worker nodes have).
"""

import signal
import sys
import time
from contextlib import suppress

import psutil

from tests.faults.scenes import DISTURBED, LARGE, Scene, perform, quick_health_checks

quick_health_checks()

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from actors.errors import ModuleFailedError  # noqa: E402
from actors.graph.spec import Resources  # noqa: E402

STORE = 100 << 20
HEAD = {"resources": {"head": 0.01}}
OFFICE = {"resources": {"office": 0.01}}
LEARNS = ("update", {"module": "gmm", "round": DISTURBED, "exchange": 0})


class Nodes:
    """The cluster: its head, and the worker nodes, of which the first one is the one to die."""

    def __init__(self):
        head = {"num_cpus": 2, "resources": {"head": 1}, "object_store_memory": STORE, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers = []

    def add(self, **resources):
        given = {"num_cpus": 0, "num_gpus": 1, **resources}
        self.workers.append(self.cluster.add_node(object_store_memory=STORE, **given))

    def only(self, **resources):
        """Have one worker node, with these resources."""
        while self.workers:
            self.kill()
        self.add(**resources)
        until = time.monotonic() + 30
        while sum(node["Alive"] for node in ray.nodes()) != 2 and time.monotonic() < until:
            time.sleep(0.05)

    def kill(self):
        """Kill a node as a power cut would: its daemon, and at once what the daemon has started.

        Ray alone would let an actor of a dead daemon answer once more.
        """
        node = self.workers.pop(0)
        daemon = psutil.Process(daemon_of(node))
        for process in [daemon, *daemon.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.cluster.remove_node(node, allow_graceful=False)


def daemon_of(node):
    """Return the process number of a node's Ray daemon."""
    return node.all_processes["raylet"][0].process.pid


def a_spare_node():
    """The module's node dies, and a spare one can hold it."""
    return dies_in_its_update("spare")


def objects_lost():
    """The module's node dies with states and messages on it."""
    return dies_in_its_update("objects", LARGE)


def dies_in_its_update(*scene):
    nodes.only()
    scene = Scene(*scene, **HEAD)

    def kill():
        scene.seen("gmm")
        scene.strike(nodes.kill)

    scene.learn(("commit", {"round": 1}, nodes.add), (*LEARNS, kill))
    return scene.report()


def an_idle_module():
    """The node of a module dies while another one learns, and Ray has put a new process in its place long before."""
    nodes.only()
    scene = Scene("idle", holding="mm", **HEAD)

    def kill():
        scene.seen("mm")
        scene.strike(nodes.kill, until=8.0)

    learns = ("update", {"module": "mm", "round": DISTURBED, "exchange": 0}, kill)
    scene.learn(("commit", {"round": 1}, nodes.add), learns)
    return scene.report()


def two_nodes():
    """The nodes of a module and of whom it has sent messages to die at once."""
    nodes.only()
    nodes.add(num_cpus=3, num_gpus=0)
    scene = Scene("two", LARGE, markov=Resources(num_cpus=3), holding="mm", **HEAD)

    def spares():
        nodes.add()
        nodes.add(num_cpus=3, num_gpus=0)

    def kill():
        scene.seen("mm")
        scene.strike(lambda: (nodes.kill(), nodes.kill()))

    learns = ("update", {"module": "mm", "round": DISTURBED, "exchange": 0}, kill)
    scene.learn(("commit", {"round": 1}, spares), learns)
    return scene.report()


def chains_lost():
    """A node dies in a block with chains, with what they gave and the module that is to go on from there."""
    nodes.only(num_cpus=2)
    # No core of the head is left: every chain runs on the worker node. In the first round a chain is the best.
    scene = Scene("chains", LARGE, chains=3, markov=Resources(num_cpus=1.5), round=1, **HEAD)
    daemon = daemon_of(nodes.workers[0])

    def kill():
        homes = {scene.seen("gmm", chain, 1) for chain in (1, 2)} | {scene.seen("gmm")}
        assert homes == {daemon}
        time.sleep(1.0)  # in which the chains come to their ends
        scene.strike(nodes.kill)

    learns = ("update", {"module": "gmm", "round": 1, "exchange": 0}, kill)
    scene.learn(("commit", {"round": 0}, lambda: nodes.add(num_cpus=2)), learns)
    return {**scene.report(), "selected": scene.told("selected")[0]["chain"]}


def chains_without_a_core():
    """The node with the only core for chains dies."""
    nodes.only()
    nodes.add(num_cpus=1, num_gpus=0)
    scene = Scene("cores", LARGE, chains=1, markov=Resources(num_cpus=1.5), **HEAD)

    def kill():
        scene.seen("gmm")
        nodes.workers.reverse()
        scene.strike(nodes.kill)

    scene.learn((*LEARNS, kill))
    return scene.report()


def the_coordinators_node():
    """The coordinator's node dies, with a module on it."""
    nodes.only(resources={"office": 1})
    scene = Scene("office", LARGE, **OFFICE)

    def kill():
        scene.seen("gmm")
        scene.strike(nodes.kill)

    scene.learn(("commit", {"round": 1}, lambda: nodes.add(resources={"office": 1})), (*LEARNS, kill))
    return scene.report()


def the_coordinator_waits():
    """The coordinator's node dies, and at first only the coordinator finds another one."""
    nodes.only(resources={"office": 1})
    scene = Scene("site", **OFFICE)

    def kill():
        scene.seen("gmm")
        scene.strike(lambda: (nodes.kill(), nodes.add(num_gpus=0, resources={"office": 1})))

    scene.learn((*LEARNS, kill), ("log", {}, nodes.add))
    return scene.report()


def a_node_joins():
    """The only node that can hold a module dies, and a new one joins."""
    nodes.only()
    scene = Scene("joins", **HEAD)

    def kill():
        scene.seen("gmm")
        scene.strike(nodes.kill)

    scene.learn((*LEARNS, kill), ("lost", {"module": "gmm"}, lambda: None), ("log", {}, nodes.add))
    return scene.report()


def no_node():
    """The only node that can hold a module dies, and none joins; later the run is taken up."""
    nodes.only()
    scene = Scene("none", wait=12.0, **HEAD)  # of which a busy machine takes some to start processes

    def kill():
        scene.seen("gmm")
        scene.strike(nodes.kill)

    try:
        scene.learn((*LEARNS, kill))
    except ModuleFailedError as error:
        if not scene.struck:
            raise
        failed = {"failure": str(error), "failed": time.time() - scene.struck, "left": scene.report()["commits"]}
    else:
        raise AssertionError("it did not fail")
    nodes.add()
    scene.learn()
    return {**scene.report(), **failed}


SCENES = {
    scene.__name__: scene
    for scene in (
        a_spare_node,
        an_idle_module,
        objects_lost,
        two_nodes,
        chains_lost,
        chains_without_a_core,
        the_coordinators_node,
        the_coordinator_waits,
        a_node_joins,
        no_node,
    )
}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    nodes = Nodes()
    try:
        ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level="ERROR")
        perform(SCENES, sys.argv[1:])
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()
