"""Measure the traffic between two hosts in each round of a run: ``python -m tests.multinode.traffic``.

The model is VAE + GMM + MM on MNIST digits, placed so that every message crosses the link: data and GMM on host 2, VAE
and MM on host 1. This program runs in the root namespace, where it reads the counters of the link, and prints one line
of JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.hosts import NETWORK, PORT, Hosts, namespaces_allowed
from tests.faults.scenarios import shorten_health_checks

if TYPE_CHECKING:
    from actors.coordination.events import TimedEvent
    from actors.graph.graph import Graph
    from actors.storage.checkpoints import Checkpoints

CONFIG = Path(__file__).parents[2] / "configs" / "mnist.yaml"
SETTINGS = ["modules.vae.epochs=5", "modules.vae.threads=1", "schedule.rounds=4", "modules.gmm.calibrate=false"]
STEPS = "schedule.steps=[vae, {steps: [gmm, mm], repeat: 5}, {module: gmm, set: {iterations: 0}}]"
ON_HOST_2 = ("data", "gmm")
IDLE_SECONDS = 6.0


def drive() -> None:
    """Run the model, on host 1; print when each round was committed, and the bytes that had to cross in it."""
    import ray

    from actors.coordination.events import Committed, ModulePlaced
    from actors.coordination.session import RunSpec
    from actors.graph.spec import Resources
    from actors.storage.checkpoints import Checkpoints
    from runner.config.run_config import load_config
    from runner.data.sources import source_states
    from runner.runs.coordinator_client import CoordinatorClient

    config = load_config(CONFIG, [*SETTINGS, STEPS])
    graph = config.graph
    for name, spec in graph.modules.items():
        resources = Resources(num_gpus=0.5) if name in ON_HOST_2 else Resources(custom={"head": 0.1})
        graph.modules[name] = replace(spec, resources=resources)
    ray.init(address=f"{NETWORK}.1:{PORT}", _node_ip_address=f"{NETWORK}.1", log_to_driver=False, logging_level="ERROR")
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) != 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2.0)
    print(json.dumps({"idle": [time.time(), time.sleep(IDLE_SECONDS) or time.time()]}), flush=True)
    root = tempfile.mkdtemp()
    client = CoordinatorClient.launch(RunSpec(graph, "traffic", 0, root))
    events: list[TimedEvent] = []
    coordinator_node = ""
    try:
        for new, _ in client.begin(source_states(graph, config.load_data())):
            events += new
            coordinator_node = coordinator_node or client.describe()["coordinator"]["node"]
    finally:
        client.stop()
    sizes = message_sizes(Checkpoints(root))
    placed = {timed.event.module: timed.event.node for timed in events if isinstance(timed.event, ModulePlaced)}
    placed["coordinator"] = coordinator_node
    commits = [timed.time for timed in events if isinstance(timed.event, Committed)]
    required = required_bytes(graph, events, sizes)
    print(json.dumps({"commits": commits, "required": required, "placed": placed}), flush=True)
    ray.shutdown()


def message_sizes(checkpoints: Checkpoints) -> dict[tuple[str, str], int]:
    """Return the number of bytes of each message by its sender and slot."""
    manifest = checkpoints.latest()
    assert manifest is not None
    return {
        (module, slot): message.header.nbytes
        for module in manifest.modules
        for slot, message in checkpoints.messages(manifest, module).items()
    }


def required_bytes(graph: Graph, events: Sequence[TimedEvent], sizes: Mapping[tuple[str, str], int]) -> list[int]:
    """Return the bytes that must cross in each round: each new message to a module on the other host, once."""
    versions = dict.fromkeys(graph.modules, 0)
    received: dict[tuple[str, str, str], int] = {}
    rounds: dict[int, int] = {}
    for timed in events:
        name, fields = timed.event.event, timed.event.fields()
        if name == "updated":
            versions[fields["module"]] += 1
        if name != "update":
            continue
        receiver = fields["module"]
        for route in graph.routes_to(receiver):
            slot = next((s for s in (f"{route.out_port}.{receiver}", route.out_port) if (route.sender, s) in sizes), "")
            key = (route.sender, slot, receiver)
            crosses = (route.sender in ON_HOST_2) != (receiver in ON_HOST_2)
            if slot and crosses and versions[route.sender] and received.get(key) != versions[route.sender]:
                rounds[fields["round"]] = rounds.get(fields["round"], 0) + sizes[route.sender, slot]
            received[key] = versions[route.sender]
    return [rounds[number] for number in sorted(rounds)]


class LinkCounter:
    """Reads the number of bytes on a link, in both directions together, a hundred times a second."""

    def __init__(self, link: str) -> None:
        self._paths = [Path(f"/sys/class/net/{link}/statistics/{way}_bytes") for way in ("rx", "tx")]
        self._readings = [(time.time(), self._read())]
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _read(self) -> int:
        return sum(int(path.read_text()) for path in self._paths)

    def _watch(self) -> None:
        while True:
            time.sleep(0.01)
            try:
                self._readings.append((time.time(), self._read()))
            except OSError:
                return

    def at(self, when: float) -> int:
        """Return the last reading before a Unix time.

        It does not interpolate: a message crosses within milliseconds of the commit before it, and a part of it would
        count for the round of that commit.
        """
        return max(count for time_read, count in self._readings if time_read <= when)


def main() -> None:
    """Run the driver on host 1, and print the report."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that context managers end the processes
    if not namespaces_allowed():
        print(json.dumps({"skip": "network namespaces are not allowed here"}))
        return
    with Hosts() as hosts:
        hosts.start_both()
        counter = LinkCounter(hosts.name("v", 2))
        command = [sys.executable, "-m", "tests.multinode.traffic", "--drive"]
        driver = hosts.processes["driver"] = hosts.popen(1, *command, stdout=subprocess.PIPE, text=True)
        printed: dict[str, list] = {}
        for line in driver.stdout:
            if line.startswith("{"):
                printed |= json.loads(line)
        time.sleep(0.3)
        hosts.stop("driver")
        started, ended = printed["idle"]
        idle = (counter.at(ended) - counter.at(started)) / (ended - started)
        spans = list(zip(printed["commits"], printed["commits"][1:], strict=False))
        crossed = [counter.at(last) - counter.at(first) - idle * (last - first) for first, last in spans]
        report = {"scenario": "traffic", "idle": idle, "crossed": crossed}
        report |= {"required": printed["required"], "placed": printed["placed"]}
        print(json.dumps({**report, "seconds": [last - first for first, last in spans]}), flush=True)


if __name__ == "__main__":
    shorten_health_checks()
    if sys.argv[1:2] == ["--drive"]:
        drive()
    else:
        main()
