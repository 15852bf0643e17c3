"""Nodes of a cluster that die with modules on them: ``python -m tests.faults.nodes [SCENARIO …]``.

This is a program of its own because it kills what it started: one head, on which the driver runs, and worker nodes.
Each worker node can hold the GMM, which asks for a (logical) GPU that only worker nodes have.
"""

import signal
import sys
import time
from contextlib import suppress

import psutil

from tests.faults.scenarios import FAULTY_ROUND, LARGE, Scenario, run_and_print, shorten_health_checks

shorten_health_checks()

import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from actors.errors import ModuleFailedError  # noqa: E402
from actors.graph.spec import Resources  # noqa: E402

STORE = 100 << 20
ON_HEAD = {"resources": {"head": 0.01}}
ON_OFFICE = {"resources": {"office": 0.01}}
GMM_LEARNS = ("update", {"module": "gmm", "round": FAULTY_ROUND, "exchange": 0})
MM_LEARNS = ("update", {"module": "mm", "round": FAULTY_ROUND, "exchange": 0})


class Nodes:
    """The cluster: its head, and the worker nodes, of which the first is the next to be killed."""

    def __init__(self):
        head = {"num_cpus": 2, "resources": {"head": 1}, "object_store_memory": STORE, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.workers = []

    def add(self, **resources):
        """Add a worker node with one GPU and no CPU, or with other resources."""
        node_args = {"num_cpus": 0, "num_gpus": 1, **resources}
        self.workers.append(self.cluster.add_node(object_store_memory=STORE, **node_args))

    def reset(self, **resources):
        """Replace all worker nodes by one with these resources."""
        while self.workers:
            self.kill()
        self.add(**resources)
        deadline = time.monotonic() + 30
        while sum(node["Alive"] for node in ray.nodes()) != 2 and time.monotonic() < deadline:
            time.sleep(0.05)

    def kill(self):
        """Kill the first worker node as a power cut would: its daemon and, at once, the daemon's processes.

        If only the daemon were killed, an actor could return one more result.
        """
        node = self.workers.pop(0)
        daemon = psutil.Process(daemon_pid(node))
        for process in [daemon, *daemon.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.cluster.remove_node(node, allow_graceful=False)


def daemon_pid(node):
    """Return the process id of a node's Ray daemon."""
    return node.all_processes["raylet"][0].process.pid


def a_spare_node():
    """Kill the module's node while a spare node can hold the module."""
    return kill_during_update("spare")


def objects_lost():
    """Kill the module's node with states and messages stored on it."""
    return kill_during_update("objects", LARGE)


def kill_during_update(*arguments):
    nodes.reset()
    scenario = Scenario(*arguments, **ON_HEAD)

    def kill():
        scenario.await_update("gmm")
        scenario.fail(nodes.kill)

    scenario.run(("commit", {"round": 1}, nodes.add), (*GMM_LEARNS, kill))
    return scenario.report()


def an_idle_module():
    """Kill the node of a module while another module learns, long enough for Ray to restart its process meanwhile."""
    nodes.reset()
    scenario = Scenario("idle", blocked="mm", **ON_HEAD)

    def kill():
        scenario.await_update("mm")
        scenario.fail(nodes.kill, pause=8.0)

    scenario.run(("commit", {"round": 1}, nodes.add), (*MM_LEARNS, kill))
    return scenario.report()


def two_nodes():
    """Kill the nodes of a module and of the sender of its messages at once."""
    nodes.reset()
    nodes.add(num_cpus=3, num_gpus=0)
    scenario = Scenario("two", LARGE, markov=Resources(num_cpus=3), blocked="mm", **ON_HEAD)

    def add_spares():
        nodes.add()
        nodes.add(num_cpus=3, num_gpus=0)

    def kill():
        scenario.await_update("mm")
        scenario.fail(lambda: (nodes.kill(), nodes.kill()))

    scenario.run(("commit", {"round": 1}, add_spares), (*MM_LEARNS, kill))
    return scenario.report()


def chains_lost():
    """Kill the node that holds the results of all chains and the module that adopts one of them."""
    nodes.reset(num_cpus=2)
    # The modules reserve the head's cores, so that every chain runs on the worker node. In round 1 a chain is selected.
    scenario = Scenario("chains", LARGE, chains=3, markov=Resources(num_cpus=1.5), round=1, **ON_HEAD)
    daemon = daemon_pid(nodes.workers[0])

    def kill():
        daemons = {scenario.await_update("gmm", chain, 1) for chain in (1, 2)} | {scenario.await_update("gmm")}
        assert daemons == {daemon}
        time.sleep(1.0)  # until the chains have ended
        scenario.fail(nodes.kill)

    learns = ("update", {"module": "gmm", "round": 1, "exchange": 0}, kill)
    scenario.run(("commit", {"round": 0}, lambda: nodes.add(num_cpus=2)), learns)
    return {**scenario.report(), "selected": scenario.fields_of("selected")[0]["chain"]}


def chains_without_a_core():
    """Kill the node with the only core for chains."""
    nodes.reset()
    nodes.add(num_cpus=1, num_gpus=0)
    scenario = Scenario("cores", LARGE, chains=1, markov=Resources(num_cpus=1.5), **ON_HEAD)

    def kill():
        scenario.await_update("gmm")
        nodes.workers.reverse()
        scenario.fail(nodes.kill)

    scenario.run((*GMM_LEARNS, kill))
    return scenario.report()


def the_coordinators_node():
    """Kill the node of the coordinator and of a module."""
    nodes.reset(resources={"office": 1})
    scenario = Scenario("office", LARGE, **ON_OFFICE)

    def kill():
        scenario.await_update("gmm")
        scenario.fail(nodes.kill)

    scenario.run(("commit", {"round": 1}, lambda: nodes.add(resources={"office": 1})), (*GMM_LEARNS, kill))
    return scenario.report()


def the_coordinator_waits():
    """Kill the coordinator's node; the next node can hold the coordinator, but not the module."""
    nodes.reset(resources={"office": 1})
    scenario = Scenario("site", **ON_OFFICE)

    def kill():
        scenario.await_update("gmm")
        scenario.fail(lambda: (nodes.kill(), nodes.add(num_gpus=0, resources={"office": 1})))

    scenario.run((*GMM_LEARNS, kill), ("log", {}, nodes.add))
    return scenario.report()


def a_node_joins():
    """Kill the only node that can hold a module; a new node joins later."""
    nodes.reset()
    scenario = Scenario("joins", **ON_HEAD)

    def kill():
        scenario.await_update("gmm")
        scenario.fail(nodes.kill)

    scenario.run((*GMM_LEARNS, kill), ("lost", {"module": "gmm"}, lambda: None), ("log", {}, nodes.add))
    return scenario.report()


def no_node():
    """Kill the only node that can hold a module; no node joins, the run fails and is resumed later."""
    nodes.reset()
    scenario = Scenario("none", wait=12.0, **ON_HEAD)  # on a busy machine, starting the processes takes some of it

    def kill():
        scenario.await_update("gmm")
        scenario.fail(nodes.kill)

    try:
        scenario.run((*GMM_LEARNS, kill))
    except ModuleFailedError as error:
        if not scenario.failed_at:
            raise
        failure = {
            "failure": str(error),
            "failed": time.time() - scenario.failed_at,
            "commits_at_failure": scenario.report()["commits"],
        }
    else:
        raise AssertionError("the run did not fail")
    nodes.add()
    scenario.run()
    return {**scenario.report(), **failure}


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the `finally` clause ends the cluster
    nodes = Nodes()
    try:
        ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level="ERROR")
        run_and_print(SCENARIOS, sys.argv[1:])
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()
