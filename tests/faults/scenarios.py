"""The scenarios of the programs in which nodes and hosts fail: a run, the actions during it, and a report.

A scenario is a run in which actions are performed at certain events. The files of its last commit are compared with
those of the same run in one process, without failures.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from actors.backends.ray.coordinator_actor import COORDINATOR, RemoteCoordinator, namespace_of
from actors.coordination.recovery import RecoveryPolicy
from actors.coordination.session import RunSpec
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Resources
from actors.storage.checkpoints import Checkpoints
from runner.runs.coordinator_client import CoordinatorClient
from tests.faults.runs import digests, run_undisturbed

STABLE = Resources(num_cpus=0.5, custom={"head": 0.01})
"""Resources of modules that do not die: they go to the head, which survives."""
MORTAL = Resources(num_gpus=1)
"""Resources of the module whose node dies: a logical GPU."""
LARGE = np.random.default_rng(1).normal(size=(20000, 4))
"""Rows whose states and messages are stored on the node that made them, instead of being sent to the coordinator."""
SMALL = LARGE[:60]
ROUNDS = 3
FAULTY_ROUND = 2
"""The round of the failure, by default."""


class Scenario:
    """A run during which something fails.

    Parameters
    ----------
    name : str
        The run's name.
    rows : ndarray (N, 4)
        The data.
    chains : int
        Chains of the block, beside the modules themselves.
    wait : float
        Seconds that the run waits for a node that can hold a module.
    markov : Resources
        The resources of the Markov model.
    blocked : str
        The module whose update in round `round` blocks until the failure.
    round : int
        The round of the failure.
    **options
        Of the coordinator's actor: where it is placed.
    """

    def __init__(
        self, name, rows=SMALL, *, chains=0, wait=60.0, markov=STABLE, blocked="gmm", round=FAULTY_ROUND, **options
    ):
        self.name, self.rows, self.round, self.options = name, rows, round, options
        self.root = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.markers = self.root / "markers"
        self.markers.mkdir()
        self.recovery = RecoveryPolicy(wait=wait)
        gmm = {"classes": 3, "iterations": 2, "markers": str(self.markers)}
        mm = {"markers": str(self.markers)}
        block = Block((Step("gmm"), Step("mm")), repeat=2, anneal=(0.5, 1.0), chains=chains)
        self.graph = Graph(
            [
                ModuleSpec("data", "observation", resources=STABLE),
                ModuleSpec("gmm", "tests.faults.blocking_modules:BlockingGMM", gmm, resources=MORTAL),
                ModuleSpec("mm", "tests.faults.blocking_modules:BlockingMarkov", mm, resources=markov),
            ],
            [Connection("data", "gmm"), Connection("gmm", "mm")],
            Schedule(ROUNDS, (block, Step("gmm", {"iterations": 0}))),
        )
        self.events = []
        self.failed_at = 0.0
        self.expected = run_undisturbed(self.graph, self.root / "undisturbed", rows, name)
        for path in self.markers.iterdir():
            path.unlink()
        (self.markers / f"wait-{blocked}-{round}").touch()

    def fail(self, failure, pause=0.0):
        """Cause the failure, note its time, and unblock all updates after `pause` seconds."""
        self.failed_at = time.time()
        failure()
        time.sleep(pause)
        for path in self.markers.glob("wait-*"):
            path.unlink()

    def run(self, *actions):
        """Begin or resume the run; perform each action (name of an event, its fields, callable) once, in this order."""
        spec = RunSpec(self.graph, self.name, 0, str(self.root / "checkpoints"), recovery=self.recovery)
        options = {"name": COORDINATOR, "namespace": namespace_of(self.name), **self.options}
        client = CoordinatorClient(RemoteCoordinator.options(**options).remote(spec), self.recovery.wait)
        pending = [*actions]
        try:
            for events, _ in client.begin({"data": {"values": self.rows}}):
                self.events += events
                for timed in events:
                    name, fields = timed.event.event, timed.event.fields()
                    shown = {key: value for key, value in fields.items() if key not in ("log", "life")}
                    seconds = timed.time - self.failed_at if self.failed_at else 0
                    print(f"{seconds:7.2f} {name} {shown}", file=sys.stderr, flush=True)
                    if pending and pending[0][0] == name and pending[0][1].items() <= fields.items():
                        pending.pop(0)[2]()
        finally:
            client.stop()
        assert not pending, f"{[action[:2] for action in pending]} did not happen"

    def await_update(self, module, chain=0, exchange=0, seconds=30.0):
        """Wait until a module's update in the round of the failure has computed its result.

        Returns the process id of the Ray daemon on the module's node.
        """
        path = self.markers / f"{module}-{self.round}-{chain}-{exchange}"
        deadline = time.monotonic() + seconds
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < deadline, f"{path.name} was not written"
            time.sleep(0.02)
        return int(path.read_text())

    def fields_of(self, name):
        """Return the fields of all events of this name."""
        return [timed.event.fields() for timed in self.events if timed.event.event == name]

    def report(self):
        """Return the report: seconds since the failure, and whether the last commit is bit-identical."""
        after = [
            (timed.event.event, timed.time - self.failed_at) for timed in self.events if timed.time > self.failed_at
        ]
        noticed = [seconds for name, seconds in after if name in ("lost", "replay", "restarted")]
        # The run is back when a module learns again after the last restoration, or after the failure was noticed.
        restored = [seconds for name, seconds in after if name in ("replay", "resumed", "recovered")]
        start = max(restored or noticed or [0.0])
        back = [
            seconds
            for name, seconds in after
            if seconds >= start and name in ("recovered", "resumed", "update", "updated", "chain")
        ]
        commits = Checkpoints(self.root / "checkpoints")
        last = f"round-{ROUNDS:03d}"
        return {
            "noticed": min(noticed, default=None),
            "back": min(back, default=None),
            "identical": last in commits.names() and digests(commits, last) == digests(self.expected, last),
            "commits": commits.names(),
            "events": [name for name, _ in after if name in ("lost", "recovered", "replay", "restarted", "resumed")],
            "log": [fields["message"] for fields in self.fields_of("log")],
        }


def run_and_print(scenarios, names):
    """Run scenarios by name (by default all); print the report of each as one line of JSON.

    A scenario is a function that returns its report.
    """
    for name in names or scenarios:
        started = time.monotonic()
        print(f"--- {name}", file=sys.stderr, flush=True)
        try:
            report = scenarios[name]()
        except Exception:
            report = {"error": traceback.format_exc()}
            print(report["error"], file=sys.stderr, flush=True)
        print(json.dumps({"scenario": name, "seconds": time.monotonic() - started, **report}), flush=True)


def shorten_health_checks():
    """Make heads that are started from this process notice dead nodes within seconds; the default is 15 to 65."""
    settings = {"initial_delay_ms": 500, "period_ms": 500, "timeout_ms": 500, "failure_threshold": 3}
    os.environ.update({f"RAY_health_check_{name}": str(value) for name, value in settings.items()})
