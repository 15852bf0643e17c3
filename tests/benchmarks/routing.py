"""What is between modules: a routed exchange beside its modules alone, Ray beside one process, chains on several cores.

:func:`cases` are for the harness. ``python -m tests.benchmarks.routing updates`` prints what an update of GMM and MM
takes on Ray beyond its module, beside bare calls of actors with objects of the same sizes; ``ray`` the seconds of a run
on Ray over those in this process, in turn, of 60,000 rows; ``chains`` those of 16 chains on one core over those on two.
Rows are made from a seed, else 3,000 × 18, in ten classes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import ChainSelected, RoundStarted, TimedEvent, UpdateFinished, UpdateStarted
from actors.coordination.router import Router
from actors.coordination.schedule_runner import ScheduleRunner
from actors.coordination.session import RunSpec
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Position, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from tests.benchmarks.harness import Case
from tests.benchmarks.workers import made_rows

ROWS, CLASSES = 3000, 10
GMM = {"classes": CLASSES, "iterations": 2, "calibrate": True, "start": "sequence", "prior_scale": "data"}
EXCHANGE = (Step("gmm"), Step("mm"))


def model(block: Block, rounds: int = 1) -> Graph:
    """Return a model of GMM and MM, as in mnist.yaml, whose schedule is one block."""
    modules = [ModuleSpec("data", "observation"), ModuleSpec("gmm", "gmm", GMM)]
    modules.append(ModuleSpec("mm", "markov", {"rule": "smoothed", "test_order": True}))
    return Graph(modules, [Connection("data", "gmm"), Connection("gmm", "mm")], Schedule(rounds, (block,)))


def data(rows: int = ROWS) -> dict[str, dict[str, np.ndarray]]:
    """Return the state of the source."""
    return {"data": {"values": made_rows(rows).astype(float)}}


def cases() -> list[Case]:
    """Return a routed exchange in this process beside the updates of the same modules with the same messages."""
    graph, backend = model(Block(EXCHANGE)), InProcessBackend()
    router = Router(graph, backend, run="routing", seed=0)
    runner = ScheduleRunner(router)
    backend.start(graph)
    router.begin(data())
    runner.run_updates([(0, Step("data"))], Position())
    block = Block(EXCHANGE, repeat=3)
    runner.run_block(block, Position(1))
    alone = []
    for module in ("gmm", "mm"):
        host, call = backend._hosts[module], router.submit("update", Step(module), Position(1))
        messages = zip(call.call.headers, call.call.ports, call.arrays, strict=True)
        alone.append((host, [host._unpack_input(*each) for each in messages], host._context(call.call)))

    def modules_alone() -> None:
        from actors.module import Inbox

        for host, messages, context in alone:
            with host.computing("learning"):
                host.module.update(Inbox(messages), context)

    return [
        Case(
            f"routed exchange of GMM and MM, {ROWS} × 18 × {CLASSES}, in process",
            lambda: runner.run_block(Block(EXCHANGE), Position(1)),
            modules_alone,
            "the updates of the modules alone",
        )
    ]


@contextmanager
def cluster(cores: int = 2) -> Iterator[None]:
    """Start a cluster as a run does, with so many cores."""
    import ray

    from actors.backends.ray.temporary import ray_directory
    from runner.cluster.connection import OWN_CLUSTER, worker_environment

    os.environ.update(worker_environment())
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=ray_directory(),
        _system_config=OWN_CLUSTER,
    )
    try:
        yield
    finally:
        ray.shutdown()


def events_on_ray(graph: Graph, rows: int = ROWS) -> list[TimedEvent]:
    """Run a model on the cluster of this process; return its events."""
    from runner.runs.coordinator_client import CoordinatorClient

    client = CoordinatorClient.launch(RunSpec(graph, "routing"), patience=30.0)
    try:
        return [timed for events, _ in client.begin(data(rows)) for timed in events]
    finally:
        client.stop()


def seconds_between(events: Sequence[TimedEvent], first: type, last: type) -> float:
    """Return the seconds from the first event of a kind in a round to the last one of another kind."""
    assert all(timed.elapsed is not None for timed in events)
    begins = min(timed.elapsed or 0.0 for timed in events if isinstance(timed.event, first))
    return max(timed.elapsed or 0.0 for timed in events if isinstance(timed.event, last)) - begins


def beyond_modules(events: Sequence[TimedEvent]) -> dict[str, list[float]]:
    """Return, by module, the seconds of each update from its beginning to its end that were not inside of it."""
    started: dict[str, float] = {}
    beyond: dict[str, list[float]] = {}
    for timed in events:
        event, when = timed.event, timed.elapsed or 0.0
        if isinstance(event, UpdateStarted):
            started[event.module] = when
        elif isinstance(event, UpdateFinished) and event.round and (event.exchange or 0) > 2:
            beyond.setdefault(event.module, []).append(when - started[event.module] - event.seconds)
    return beyond


def bare_calls(count: int, computing: float = 0.015) -> list[float]:
    """Return what calls of two actors in turn take beyond what they compute, with objects of the sizes of an exchange.

    Called from an actor, as a coordinator does; each answer has two arrays of ROWS × CLASSES, of which the next call
    gets one, and two small objects.
    """
    import ray

    class Module:
        def __init__(self) -> None:
            self.posteriors, self.rows = np.ones((ROWS, CLASSES)), np.ones((ROWS, 18))

        def call(self, *_messages: object) -> tuple[object, ...]:
            started = time.perf_counter()
            while time.perf_counter() - started < computing:
                np.exp(self.rows).sum()
            seconds = time.perf_counter() - started
            return seconds, {"a": self.posteriors}, {"a": self.posteriors}, {"a": np.ones(9)}, {"a": np.ones(9)}

    class Caller:
        def run(self) -> list[float]:
            remote = ray.remote(concurrency_groups={"status": 1}, enable_task_events=False)(Module)
            modules, message, beyond = [remote.remote(), remote.remote()], [], []
            for number in range(count):
                started = time.perf_counter()
                seconds, *sent = modules[number % 2].call.options(num_returns=5).remote(*message)
                inside, message = ray.get(seconds), sent[:1]
                beyond.append(time.perf_counter() - started - inside)
            return beyond[10:]

    return ray.get(ray.remote(num_cpus=0)(Caller).remote().run.remote())


def updates_on_ray(exchanges: int = 100) -> None:
    """Print what an update takes beyond its module, and the bare calls beside it."""
    with cluster():
        measured = beyond_modules(events_on_ray(model(Block(EXCHANGE, repeat=exchanges))))
        measured["bare calls"] = bare_calls(2 * exchanges)
    print("| | ms beyond the module: quartiles |\n| --- | --- |")
    for name, seconds in measured.items():
        low, median, high = (1e3 * value for value in statistics.quantiles(seconds, n=4))
        print(f"| {name} | {low:.1f}, {median:.1f}, {high:.1f} |")


def ray_against_in_process(repeats: int = 2, exchanges: int = 90, rows: int = 60_000) -> list[float]:
    """Print and return ratios: the seconds of a run's rounds on Ray over those in this process, in turn.

    A run takes some 25 seconds in this process, of which an exchange takes 0.25.
    """
    graph, ratios = model(Block(EXCHANGE, repeat=exchanges)), []
    with cluster():
        for _ in range(repeats):
            here = list[TimedEvent]()
            began = time.monotonic()
            coordinator = Coordinator(
                graph,
                InProcessBackend(),
                emit=lambda event, here=here, began=began: here.append(
                    TimedEvent(time.time(), event, elapsed=time.monotonic() - began)
                ),
            )
            coordinator.start(data(rows))
            coordinator.run_rounds()
            there = events_on_ray(graph, rows)
            one, other = (seconds_between(events, RoundStarted, UpdateFinished) for events in (there, here))
            ratios.append(one / other)
            print(f"Ray {one:.1f} s, in process {other:.1f} s: {ratios[-1]:.3f}", flush=True)
    return ratios


def set_cores(cores: Sequence[int]) -> None:
    """Let all processes of the cluster, and those that they start, run on these cores."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)


def chains_on_cores(repeats: int = 3, chains: int = 16, exchanges: int = 5) -> list[float]:
    """Print and return ratios: the seconds of a block with chains on one core over those on two, in turn."""
    graph, ratios = model(Block(EXCHANGE, repeat=exchanges, chains=chains)), []
    available = sorted(os.sched_getaffinity(0))[:2]
    with cluster():
        events_on_ray(graph)  # processes are started, and kernels loaded
        for _ in range(repeats):
            seconds = []
            for cores in (available[:1], available):
                set_cores(cores)
                seconds.append(seconds_between(events_on_ray(graph), RoundStarted, ChainSelected))
            ratios.append(seconds[0] / seconds[1])
            print(f"one core {seconds[0]:.1f} s, two {seconds[1]:.1f} s: {ratios[-1]:.2f}", flush=True)
    return ratios


def main() -> None:
    """Measure one part."""
    parts = {"updates": updates_on_ray, "ray": ray_against_in_process, "chains": chains_on_cores}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=parts)
    parts[parser.parse_args().part]()


if __name__ == "__main__":
    main()
