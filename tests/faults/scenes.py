"""What the programs about dying nodes and hosts share: the model, runs with a death in them, and what is told of them.

A scene is a run in which something is done at certain events; it is compared, file by file of its last commit, with
the same run in one process, where nothing happens.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
from actors.graph.spec import Connection, ModuleSpec, Resources

from actors.backends.ray.coordinator_actor import COORDINATOR, RemoteCoordinator, namespace_of
from actors.coordination.recovery import Recovery
from actors.coordination.session import Plan
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.storage.checkpoints import Checkpoints
from runner.runs.coordinator_client import RunningModel
from tests.faults.runs import digests, undisturbed

HERE = Resources(num_cpus=0.5)
"""Of modules that stay: only the node that does not die has CPUs for them."""
THERE = Resources(num_gpus=1)
"""Of the module whose node dies: a logical GPU."""
LARGE = np.random.default_rng(1).normal(size=(20000, 4))
"""So large that states and messages lie in the object store of the node that made them, not with the coordinator."""
SMALL = LARGE[:60]
ROUNDS = 3
DISTURBED = 2
"""The round in which it happens, as a rule."""


class Scene:
    """One run with something that happens to it.

    Parameters
    ----------
    name : str
        The run's.
    rows : array
        The data.
    chains : int
    wait : float
        Seconds that the run waits for room.
    markov : Resources
        What the Markov model asks for.
    holding : str
        The module that does not come to the end of its update in the round in which it happens.
    round : int
        That round.
    **options
        Of the coordinator's actor: where it is placed.
    """

    def __init__(
        self, name, rows=SMALL, *, chains=0, wait=60.0, markov=HERE, holding="gmm", round=DISTURBED, **options
    ):
        self.name, self.rows, self.round, self.options = name, rows, round, options
        self.root = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.hold = self.root / "hold"
        self.hold.mkdir()
        self.recovery = Recovery(wait=wait)
        gmm = {"classes": 3, "iterations": 2, "hold": str(self.hold)}
        block = Block((Step("gmm"), Step("mm")), repeat=2, anneal=(0.5, 1.0), chains=chains)
        self.graph = Graph(
            [
                ModuleSpec("data", "observation", resources=HERE),
                ModuleSpec("gmm", "tests.faults.patient:PatientGMM", gmm, resources=THERE),
                ModuleSpec("mm", "tests.faults.patient:PatientMarkov", {"hold": str(self.hold)}, resources=markov),
            ],
            [Connection("data", "gmm"), Connection("gmm", "mm")],
            Schedule(ROUNDS, (block, Step("gmm", {"iterations": 0}))),
        )
        self.events = []
        self.struck = 0.0
        self.expected = undisturbed(self.graph, self.root / "undisturbed", rows, name)
        for path in self.hold.iterdir():
            path.unlink()
        (self.hold / f"wait-{holding}-{round}").touch()

    def strike(self, deed, until=0.0):
        """Do what this is about, note when, and let whoever comes next learn."""
        self.struck = time.time()
        deed()
        time.sleep(until)
        for path in self.hold.glob("wait-*"):
            path.unlink()

    def learn(self, *deeds):
        """Run, or go on; each deed (event's name, its fields, what to do) is done once, in this order."""
        plan = Plan(self.graph, self.name, 0, str(self.root / "checkpoints"), recovery=self.recovery)
        options = {"name": COORDINATOR, "namespace": namespace_of(self.name), **self.options}
        running, deeds = RunningModel(RemoteCoordinator.options(**options).remote(plan), self.recovery.wait), [*deeds]
        try:
            for events, _ in running.begin({"data": {"values": self.rows}}):
                self.events += events
                for name, when, fields in events:
                    told = {key: value for key, value in fields.items() if key not in ("log", "life")}
                    print(f"{when - self.struck if self.struck else 0:7.2f} {name} {told}", file=sys.stderr, flush=True)
                    if deeds and deeds[0][0] == name and deeds[0][1].items() <= fields.items():
                        deeds.pop(0)[2]()
        finally:
            running.stop()
        assert not deeds, f"{[deed[:2] for deed in deeds]} did not happen"

    def seen(self, module, chain=0, exchange=0, seconds=30.0):
        """Wait until a module has got that far; return the process number of its node's daemon."""
        path, until = self.hold / f"{module}-{self.round}-{chain}-{exchange}", time.monotonic() + seconds
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < until, f"{path.name} does not come"
            time.sleep(0.02)
        return int(path.read_text())

    def told(self, name):
        """Return the fields of all events of this name."""
        return [fields for event, _, fields in self.events if event == name]

    def report(self):
        """Return what is to be known of the scene: seconds from the strike on, and whether the bits are the same."""
        after = [(name, when - self.struck) for name, when, _ in self.events if when > self.struck]
        noticed = [when for name, when in after if name in ("lost", "replay", "restarted")]
        # After a replay or a restart it is back when it has been restored; without either, when it learns again.
        restored = [when for name, when in after if name in ("replay", "resumed", "recovered")]
        from_then = max(restored or noticed or [0.0])
        back = [
            when
            for name, when in after
            if when >= from_then and name in ("recovered", "resumed", "update", "updated", "chain")
        ]
        commits = Checkpoints(self.root / "checkpoints")
        last = f"round-{ROUNDS:03d}"
        return {
            "noticed": min(noticed, default=None),
            "back": min(back, default=None),
            "same": last in commits.names() and digests(commits, last) == digests(self.expected, last),
            "commits": commits.names(),
            "events": [name for name, _ in after if name in ("lost", "recovered", "replay", "restarted", "resumed")],
            "log": [fields["message"] for fields in self.told("log")],
        }


def perform(scenes, names):
    """Perform scenes by name (all of `scenes` by default); print what came of each as a line of JSON.

    A scene is a function that returns what is reported of it.
    """
    for name in names or scenes:
        started = time.monotonic()
        print(f"--- {name}", file=sys.stderr, flush=True)
        try:
            found = scenes[name]()
        except Exception:
            found = {"error": traceback.format_exc()}
            print(found["error"], file=sys.stderr, flush=True)
        print(json.dumps({"scene": name, "seconds": time.monotonic() - started, **found}), flush=True)


def quick_health_checks():
    """Have a head that is started from here notice within seconds that a node is gone; the defaults take 15 to 65."""
    beats = {"initial_delay_ms": 500, "period_ms": 500, "timeout_ms": 500, "failure_threshold": 3}
    os.environ.update({f"RAY_health_check_{name}": str(value) for name, value in beats.items()})
