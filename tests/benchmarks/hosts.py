"""Traffic between two hosts of a model whose rows workers share: ``python -m tests.benchmarks.hosts``.

The hosts are network namespaces, which only root may create. GMM (variational) and MM have 2 and 4 workers each, on
both hosts, with 10^5 and 10^6 rows of 18 numbers. All rows are one sequence (``--lengths`` makes many). The bytes on
the link are read from its counters when the MM's updates end, a hundred times a second; nothing is committed. From them
the bytes of an interval of the same length are subtracted in which the processes are there but nothing learns: that is
what Ray sends by itself. The first exchange is left out: in it the rows travel to the other host, once.

A table has, for an exchange (an update of the GMM in two passes, moments and one iteration, and one of the MM in two):
the bytes between the hosts; those for each worker on the other host, of both modules; the lower limit of these: the
statistics of each such worker up once and the next parameters down once; and the limit that is asked for, of 64 KB a
worker and a quarter of a byte for each row of the other host, as all rows are one sequence.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

from tests.faults.hosts import NETWORK, PORT, Hosts, namespaces_allowed
from tests.multinode.traffic import LinkCounter

DIMENSIONS, CLASSES, CHUNK = 18, 10, 4096
IDLE_SECONDS = 5.0


class EqualHosts(Hosts):
    """Two hosts with the same number of cores."""

    roles = (
        ["--head", f"--port={PORT}", "--num-cpus=2", '--resources={"head": 1}', "--include-dashboard=false"],
        [f"--address={NETWORK}.1:{PORT}", "--num-cpus=2"],
    )
    store = "--object-store-memory=2000000000"


def lower_limit() -> int:
    """Return the bytes of an exchange for a worker of the GMM and one of the MM: statistics up, parameters down."""
    of_class = 1 + DIMENSIONS + DIMENSIONS * (DIMENSIONS + 1) // 2
    gmm, markov = CLASSES * of_class, CLASSES**2 + CLASSES
    return 8 * 2 * (gmm + markov)


def drive(rows: int, workers: int, exchanges: int, lengths: bool) -> None:
    """Run the model, on host 1; print when exchanges ended, the idle interval, and where workers were."""
    import ray

    from actors.backends.ray.coordinator_actor import COORDINATOR, RemoteCoordinator, namespace_of
    from actors.coordination.events import ModulePlaced, UpdateFinished
    from actors.coordination.session import RunSpec
    from runner.runs.coordinator_client import CoordinatorClient
    from tests.benchmarks.workers import made_lengths, made_rows, model

    ray.init(address=f"{NETWORK}.1:{PORT}", _node_ip_address=f"{NETWORK}.1", log_to_driver=False, logging_level="ERROR")
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) != 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    gmm = {"classes": CLASSES, "iterations": 1, "engine": "vb", "prior_scale": "data", "start": "kmeans"}
    modules = {"gmm": ("gmm", gmm), "mm": ("markov", {"inner_iterations": 1})}
    graph = model(modules, workers, CHUNK, rounds=1, exchanges=exchanges)
    data: dict[str, Any] = {"values": made_rows(rows, DIMENSIONS, CLASSES)}
    if lengths:
        data["lengths"] = made_lengths(rows)
    options = {"name": COORDINATOR, "namespace": namespace_of("hosts"), "resources": {"head": 0.01}}
    client = CoordinatorClient(RemoteCoordinator.options(**options).remote(RunSpec(graph, "hosts", 0, None)), 60.0)
    ends, placed = [], {}
    try:
        for events, _ in client.begin({"data": data}):
            for timed in events:
                if isinstance(timed.event, ModulePlaced):
                    placed[timed.event.module] = timed.event.node
                if isinstance(timed.event, UpdateFinished) and timed.event.module == "mm":
                    ends.append(timed.time)
        time.sleep(1.0)
        began = time.time()
        time.sleep(max(IDLE_SECONDS, ends[-1] - ends[0]))
        idle = [began, time.time()]
    finally:
        client.stop()
    print(json.dumps({"ends": ends, "idle": idle, "placed": placed}), flush=True)
    ray.shutdown()


def measure(rows: int, workers: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return the bytes of each exchange, the seconds, and those of Ray itself in as many seconds."""
    with EqualHosts() as hosts:
        hosts.start_both()
        counter = LinkCounter(hosts.name("v", 2))
        command = [sys.executable, "-m", "tests.benchmarks.hosts", "--drive", "--rows", str(rows)]
        command += ["--workers", str(workers), "--exchanges", str(given.exchanges)]
        command += ["--lengths"] * given.lengths
        driver = hosts.processes["driver"] = hosts.popen(1, *command, stdout=subprocess.PIPE, text=True)
        printed = next((json.loads(line) for line in driver.stdout if line.startswith("{")), None)
        time.sleep(0.3)
        hosts.stop("driver")
    if printed is None:
        raise RuntimeError("the run failed")
    ends, idle = printed["ends"], printed["idle"]
    background = (counter.at(idle[1]) - counter.at(idle[0])) / (idle[1] - idle[0])
    spans = list(itertools.pairwise(ends))
    return {
        "bytes": [counter.at(b) - counter.at(a) - background * (b - a) for a, b in spans],
        "seconds": statistics.median(b - a for a, b in spans),
        "background": background,
        "placed": printed["placed"],
    }


def main() -> None:
    """Parse the arguments, and print the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that context managers end the processes
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--exchanges", type=int, default=6)
    parser.add_argument("--lengths", action="store_true", help="many sequences")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive(given.rows[0], given.workers[0], given.exchanges, given.lengths)
        return
    if not namespaces_allowed():
        raise SystemExit("network namespaces are not allowed here")
    names = (
        "rows",
        "workers of each",
        "KB an exchange",
        "KB a worker",
        "lower limit",
        "asked for",
        "seconds",
        "Ray alone",
    )
    print(f"| {' | '.join(names)} | load |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for workers in given.workers:
        for rows in given.rows:
            found = measure(rows, workers, given)
            middle, most = statistics.median(found["bytes"]), max(found["bytes"])
            least = min(found["bytes"])
            away = sum(name != "data" and at != f"{NETWORK}.1" for name, at in found["placed"].items())
            cells = [
                f"{rows:,}",
                f"{workers}",
                f"{middle / 1e3:.1f} ({least / 1e3:.1f} to {most / 1e3:.1f})",
                f"{middle / 1e3 / max(1, away):.1f}",
                f"{lower_limit() / 2e3:.1f}",
                f"{64 + rows / 2 / 4 / 1e3 / max(1, away):.0f}",
                f"{found['seconds']:.2f}",
                f"{found['background'] / 1e3:.1f}",
                f"{os.getloadavg()[0]:.1f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
            print(json.dumps(found["placed"]), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
