"""Workers on several nodes, of which one is lost or joins: ``python -m tests.multinode.groups [SCENARIO …]``.

This is a program of its own because it kills the nodes that it started: a head, on which the driver and the coordinator
run, and one more node, each with two cores. Each run is compared with one in this process, with one worker.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.faults.nodes import Nodes
from tests.faults.runs import digests, run_undisturbed
from tests.faults.scenarios import Scenario, run_and_print, shorten_health_checks

shorten_health_checks()

import ray  # noqa: E402

from actors.coordination.recovery import RecoveryPolicy  # noqa: E402
from actors.graph.graph import Graph  # noqa: E402
from actors.graph.schedule import Schedule, Step  # noqa: E402
from actors.graph.spec import Connection, ModuleSpec, Resources, Sharing  # noqa: E402
from actors.storage.checkpoints import Checkpoints  # noqa: E402

ROWS = np.random.default_rng(2).normal(size=(20_000, 4)) + 4.0 * (np.arange(20_000) % 3)[:, None]
ON_HEAD = {"resources": {"head": 0.01}}
SECOND = {"num_cpus": 2, "num_gpus": 0}
FAULTY = ("update", {"module": "gmm", "round": 2})


class GroupScenario(Scenario):
    """A run of a GMM and an MM with workers, during which something happens.

    Parameters
    ----------
    name : str
        The run's name.
    workers : int or "auto"
    cores : float
        That each worker reserves.
    wait : float
        Seconds that the run waits for room for a worker.
    rounds : int
    """

    def __init__(self, name, workers, *, cores=0.0, wait=60.0, rounds=4):
        self.name, self.rows, self.options, self.rounds = name, ROWS, ON_HEAD, rounds
        self.root = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.markers = self.root / "markers"
        self.recovery = RecoveryPolicy(wait=wait)
        resources = Resources(num_cpus=cores)
        gmm = {"classes": 3, "iterations": 40, "engine": "blocked-gibbs"}
        specs = [
            ModuleSpec("data", "observation"),
            ModuleSpec("gmm", "gmm", gmm, resources=resources, sharing=Sharing(workers, 500)),
            ModuleSpec("mm", "markov", {}, resources=resources, sharing=Sharing(workers, 500)),
        ]
        connections = [Connection("data", "gmm"), Connection("gmm", "mm")]
        schedule = Schedule(rounds, (Step("gmm"), Step("mm")))
        self.graph = Graph(specs, connections, schedule)
        alone = [spec if spec.sharing is None else replace(spec, sharing=Sharing(1, 500)) for spec in specs]
        self.events, self.failed_at = [], 0.0
        self.expected = run_undisturbed(Graph(alone, connections, schedule), self.root / "undisturbed", ROWS, name)

    def report(self):
        """Return the report: seconds, whether all commits are bit-identical, where workers were, and the log."""
        commits = Checkpoints(self.root / "checkpoints")
        names = [f"round-{number:03d}" for number in range(self.rounds + 1)]
        placed = {}
        for fields in self.fields_of("placed"):
            placed.setdefault(fields["module"], []).append(NUMBERS.setdefault(fields["node_id"], len(NUMBERS)))
        return {
            **super().report(),
            "identical": all(digests(commits, each) == digests(self.expected, each) for each in names),
            "placed": placed,
        }


def a_node_is_lost():
    """Kill the node with half of the workers: Ray has room for them on the other."""
    nodes.reset(**SECOND)
    scenario = GroupScenario("lost", 4)
    scenario.run((*FAULTY, lambda: scenario.fail(nodes.kill)))
    return scenario.report()


def auto_follows_the_cores():
    """Kill the node with half of the workers of ``workers: auto``; another joins later."""
    nodes.reset(**SECOND)
    scenario = GroupScenario("auto", "auto", rounds=6)
    scenario.run((*FAULTY, lambda: scenario.fail(nodes.kill)), ("commit", {"round": 3}, lambda: add_node()))
    return scenario.report()


def there_is_no_room():
    """Kill the node with half of the workers, which reserve all cores."""
    nodes.reset(**SECOND)
    scenario = GroupScenario("room", 4, cores=0.5, wait=25.0)
    scenario.run((*FAULTY, lambda: scenario.fail(nodes.kill)))
    return scenario.report()


def room_comes_back():
    """As before; another node joins later."""
    nodes.reset(**SECOND)
    scenario = GroupScenario("back", 4, cores=0.5, wait=25.0, rounds=6)
    scenario.run((*FAULTY, lambda: scenario.fail(nodes.kill)), ("commit", {"round": 3}, lambda: add_node()))
    return scenario.report()


def add_node():
    """Add a node, and wait until the cluster knows it."""
    nodes.add(**SECOND)
    deadline = time.monotonic() + 30
    while sum(node["Alive"] for node in ray.nodes()) != 2 and time.monotonic() < deadline:
        time.sleep(0.05)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (a_node_is_lost, auto_follows_the_cores, there_is_no_room, room_comes_back)
}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the `finally` clause ends the cluster
    NUMBERS: dict[str, int] = {}
    nodes = Nodes()
    try:
        ray.init(address=nodes.cluster.address, log_to_driver=False, logging_level="ERROR")
        NUMBERS[ray.get_runtime_context().get_node_id()] = 0
        run_and_print(SCENARIOS, sys.argv[1:])
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()
