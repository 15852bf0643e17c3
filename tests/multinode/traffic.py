"""What crosses the link between two hosts in a round: ``python -m tests.multinode.traffic``.

VAE + GMM + MM on MNIST digits, so laid out that every message crosses: data and GMM on host 2, VAE and MM on host 1.
The program itself lives in the root namespace, where it reads the link's counters, and prints one line of JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.faults.hosts import NETWORK, PORT, Hosts, allowed
from tests.faults.scenes import quick_health_checks

CONFIG = Path(__file__).parents[2] / "configs" / "mnist.yaml"
SETTINGS = ["modules.vae.epochs=5", "modules.vae.threads=1", "schedule.rounds=4", "modules.gmm.calibrate=false"]
STEPS = "schedule.steps=[vae, {steps: [gmm, mm], repeat: 5}, {module: gmm, set: {iterations: 0}}]"
FAR = ("data", "gmm")
IDLE_SECONDS = 6.0


def drive() -> None:
    """Run the model, on host 1; print when each round was committed, and what had to cross in it."""
    import ray
    from actors.graph.spec import Resources

    from actors.coordination.session import Plan
    from actors.storage.checkpoints import Checkpoints
    from runner.config.run_config import load_config
    from runner.data.sources import source_states
    from runner.runs.coordinator_client import RunningModel

    config = load_config(CONFIG, [*SETTINGS, STEPS])
    graph = config.graph()
    for name, spec in graph.modules.items():
        where = Resources(num_gpus=0.5) if name in FAR else Resources(custom={"head": 0.1})
        graph.modules[name] = type(spec)(spec.name, spec.type, spec.parameters, spec.threads, where)
    ray.init(address=f"{NETWORK}.1:{PORT}", _node_ip_address=f"{NETWORK}.1", log_to_driver=False, logging_level="ERROR")
    until = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) != 2 and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(2.0)
    print(json.dumps({"idle": [time.time(), time.sleep(IDLE_SECONDS) or time.time()]}), flush=True)
    root = tempfile.mkdtemp()
    running = RunningModel.launch(Plan(graph, "traffic", 0, root))
    events: list = []
    where = ""
    try:
        for new, _ in running.begin(source_states(graph, config.load_data())):
            events += new
            where = where or ray.get(running.coordinator.describe.remote())["coordinator"]["node"]
    finally:
        running.stop()
    sizes = sizes_of(Checkpoints(root))
    placed = {fields["module"]: fields["node"] for event, _, fields in events if event == "placed"}
    placed["coordinator"] = where
    commits = [when for event, when, _ in events if event == "commit"]
    print(json.dumps({"commits": commits, "limit": limits(graph, events, sizes), "placed": placed}), flush=True)
    ray.shutdown()


def sizes_of(checkpoints) -> dict[tuple[str, str], int]:
    """Return the bytes of each message by its sender and slot."""
    manifest = checkpoints.latest()
    return {
        (module, slot): message.header.nbytes
        for module in manifest.modules
        for slot, message in checkpoints.messages(manifest, module).items()
    }


def limits(graph, events, sizes) -> list[int]:
    """Return what must cross in each round: of each message that its receiver learns from, once, what is new to it."""
    versions = dict.fromkeys(graph.modules, 0)
    heard: dict[tuple[str, str, str], int] = {}
    rounds: dict[int, int] = {}
    for event, _, fields in events:
        if event == "updated":
            versions[fields["module"]] += 1
        if event != "update":
            continue
        receiver = fields["module"]
        for route in graph.routes_to(receiver):
            slot = next((s for s in (f"{route.out_port}.{receiver}", route.out_port) if (route.sender, s) in sizes), "")
            key = (route.sender, slot, receiver)
            apart = (route.sender in FAR) != (receiver in FAR)
            if slot and apart and versions[route.sender] and heard.get(key) != versions[route.sender]:
                rounds[fields["round"]] = rounds.get(fields["round"], 0) + sizes[route.sender, slot]
            heard[key] = versions[route.sender]
    return [rounds[number] for number in sorted(rounds)]


class Counter:
    """Reads a link's bytes, both ways together, a hundred times a second."""

    def __init__(self, link: str) -> None:
        self._paths = [Path(f"/sys/class/net/{link}/statistics/{way}_bytes") for way in ("rx", "tx")]
        self._seen = [(time.time(), self._now())]
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _now(self) -> int:
        return sum(int(path.read_text()) for path in self._paths)

    def _watch(self) -> None:
        while True:
            time.sleep(0.01)
            try:
                self._seen.append((time.time(), self._now()))
            except OSError:
                return

    def at(self, when: float) -> int:
        """Return the count that was read last before a moment.

        Nothing in between: a message crosses within milliseconds of the commit before it, and a part of it would count
        for the round of that commit.
        """
        return max(count for read, count in self._seen if read <= when)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    if not allowed():
        print(json.dumps({"skip": "network namespaces are not allowed here"}))
        return
    with Hosts() as hosts:
        hosts.start_both()
        counter = Counter(hosts.name("v", 2))
        command = [sys.executable, "-m", "tests.multinode.traffic", "--drive"]
        driver = hosts.processes["driver"] = hosts.on(1, *command, stdout=subprocess.PIPE, text=True)
        told: dict[str, list] = {}
        for line in driver.stdout:
            if line.startswith("{"):
                told |= json.loads(line)
        time.sleep(0.3)
        hosts.end("driver")
        begun, ended = told["idle"]
        idle = (counter.at(ended) - counter.at(begun)) / (ended - begun)
        spans = list(zip(told["commits"], told["commits"][1:], strict=False))
        crossed = [counter.at(last) - counter.at(first) - idle * (last - first) for first, last in spans]
        found = {"scene": "traffic", "idle": idle, "crossed": crossed, "limit": told["limit"], "placed": told["placed"]}
        print(json.dumps({**found, "seconds": [last - first for first, last in spans]}), flush=True)


if __name__ == "__main__":
    quick_health_checks()
    if sys.argv[1:2] == ["--drive"]:
        drive()
    else:
        main()
