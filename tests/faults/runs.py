"""Runs on Ray with injected faults, their events, and runs without faults to compare with."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import ray

from actors.backends.fault_injection import instrumentation
from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.session import Instrumentation, RunSpec
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.storage.checkpoints import Checkpoints
from runner.runs.coordinator_client import CoordinatorClient

RUN = "mortal"
X = np.random.default_rng(0).random((60, 8)).astype(np.float32)


def model(rounds, chains=0, vae=True):
    """Return a small graph of VAE, GMM and MM with messages in both directions, or without the VAE (and torch)."""
    modules = {
        "data": ModuleSpec("data", "observation"),
        "vae": ModuleSpec("vae", "vae", {"latent_dim": 2, "epochs": 3, "batch_size": 20}),
        "gmm": ModuleSpec("gmm", "gmm", {"classes": 3, "iterations": 2}),
        "mm": ModuleSpec("mm", "markov", {}),
    }
    chosen = [name for name in modules if vae or name != "vae"]
    block = Block((Step("gmm"), Step("mm")), repeat=2, anneal=(0.5, 1.0), chains=chains)
    return Graph(
        [modules[name] for name in chosen],
        [Connection(lower, upper) for lower, upper in pairwise(chosen)],
        Schedule(rounds, (*([Step("vae")] if vae else []), block, Step("gmm", {"iterations": 0}))),
    )


def run_undisturbed(graph, root, rows=X, run=RUN):
    """Run the model in this process, without faults; return its commits."""
    checkpoints = Checkpoints(root)
    coordinator = Coordinator(graph, InProcessBackend(), run=run, checkpoints=checkpoints)
    coordinator.start({"data": {"values": rows}})
    coordinator.run_rounds()
    return checkpoints


def run(graph, root, faults=(), rows=X, name=RUN, answer=None, observe=None, **options):
    """Run the model on Ray with injected faults and further fields of the RunSpec; return its events with times.

    `answer` is the number of seconds within which the coordinator must answer; `observe` receives each event.
    """
    injection = instrumentation(faults, str(root)) if faults else Instrumentation()
    spec = RunSpec(graph, name, 0, str(root), instrumentation=injection, **options)
    client = CoordinatorClient.launch(spec, patience=20.0)
    client.answer = answer or client.answer
    try:
        found = []
        for events, _ in client.begin({"data": {"values": rows}}):
            found += events
            for timed in events if observe else ():
                observe(timed.event)
        return found
    finally:
        client.stop()


def deaths(root):
    """Return the Unix time of each injected death, by target, phase and round."""
    times = {}
    for path in (Path(root).parent / "faults").iterdir():
        target, phase, round, _ = path.name.split("-")
        times[target, phase, int(round)] = float(path.read_text())
    return times


def digests(checkpoints, name):
    """Return the digest of every file of a commit, by module and label."""
    modules = checkpoints.manifest(name).modules
    return {(module, label): file.digest for module, record in modules.items() for label, file in record.files.items()}


def next_event(events, names, after):
    """Return the time of the first event with one of these names since `after`, None if there is none."""
    return min((timed.time for timed in events if timed.event.event in names and timed.time >= after), default=None)


def named_actors(run=RUN):
    """Return the names of the run's actors on the cluster."""
    return {
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == f"serket:{run}"
    }


def process_titles():
    """Return the titles of the processes below this one."""
    titles = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            titles += child.cmdline()[:1]
    return titles
