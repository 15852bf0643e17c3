"""Runs in which processes die on purpose, and what they leave."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import ray
from actors.graph.spec import Connection, ModuleSpec

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.coordination.session import Plan
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.storage.checkpoints import Checkpoints
from runner.runs.coordinator_client import RunningModel

RUN = "mortal"
X = np.random.default_rng(0).random((60, 8)).astype(np.float32)


def model(rounds, chains=0, vae=True):
    """VAE, GMM and MM, small; messages go up and down. Without the VAE nobody waits for torch."""
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


def undisturbed(graph, root, rows=X, run=RUN):
    """Run the model in this process, where nobody dies; its commits."""
    checkpoints = Checkpoints(root)
    coordinator = Coordinator(graph, InProcess(), run=run, checkpoints=checkpoints)
    coordinator.start({"data": {"values": rows}})
    coordinator.run_rounds()
    return checkpoints


def run(graph, root, faults=(), rows=X, name=RUN, **plan):
    """Run the model on actors; its events."""
    running = RunningModel.launch(Plan(graph, name, 0, str(root), faults=tuple(faults), **plan), patience=20.0)
    try:
        return [event for events, _ in running.begin({"data": {"values": rows}}) for event in events]
    finally:
        running.stop()


def deaths(root):
    """Return when who died in which phase and round: ``(who, phase, round) -> Unix time``."""
    found = {}
    for path in (Path(root).parent / "faults").iterdir():
        who, phase, round, _ = path.name.split("-")
        found[who, phase, int(round)] = float(path.read_text())
    return found


def digests(checkpoints, name):
    """Return the digest of every file of a commit."""
    modules = checkpoints.manifest(name).modules
    return {(module, label): file.digest for module, record in modules.items() for label, file in record.files.items()}


def next_event(events, names, after):
    """Return the time of the first event of these names after a moment."""
    return min((when for name, when, _ in events if name in names and when >= after), default=None)


def named_actors(run=RUN):
    """Return the names of the run's actors."""
    return {
        actor["name"]
        for actor in ray.util.list_named_actors(all_namespaces=True)
        if actor["namespace"] == f"serket:{run}"
    }
