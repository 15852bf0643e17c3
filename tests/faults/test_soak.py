"""Many rounds in which somebody dies again and again: no difference, and nothing left behind."""

import gc
import os
import random
import re
import signal

import numpy as np
import psutil
import pytest
import ray
from ray._private.internal_api import memory_summary

from actors.coordination.session import Plan
from actors.storage.checkpoints import Checkpoints
from runner.runs.coordinator_client import RunningModel
from tests.actors.coordination.test_coordinator import model
from tests.conftest import wait_until
from tests.faults.runs import RUN, digests, named_actors, undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.faults]

ROUNDS = 200
EVERY = (2, 8)
"""Rounds from one death to the next."""

ROWS = np.random.default_rng(0).normal(size=(1000, 20))  # messages of 160 KB, which lie in the object store


def graph():
    """Return the toy model, whose rounds last longer here than it takes to hear of them."""
    return model(ROUNDS, dim=20, seconds=0.1)


def stored():
    """Return how many objects the store holds, and the percentage of it that it may not give to others.

    An object that is written as its writer and its owner die stays for nobody: Ray takes it away when it needs the
    room. An object of this test is 0.02 %.
    """
    found = re.search(
        r"Plasma memory usage \d+ MiB, (\d+) objects, [\d.]+% full, ([\d.]+)% needed",
        memory_summary(ray.get_runtime_context().gcs_address, stats_only=True),
    )
    return int(found.group(1)), float(found.group(2))


def given_back(needed):
    """Whether no more of the object store is needed than that.

    Errors of calls on dead actors keep the frames that they passed through, and what those refer to, until Python
    collects what refers to itself.
    """
    gc.collect()
    return stored()[1] <= needed


def rays():
    """Return this process and Ray's own, without those that come and go (workers)."""
    me = psutil.Process()
    return [me, *(child for child in me.children(recursive=True) if child.name() in ("raylet", "gcs_server"))]


def handles():
    return {process.name() + str(process.pid): process.num_fds() for process in rays()}


def hosts_left():
    """Return the processes that still host an actor."""
    children = psutil.Process().children(recursive=True)
    return [name for child in children if re.match(r"ray::(Module|Coordinator)Actor", name := _title(child))]


def _title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill_again_and_again(running, rows):
    """Run the model, and let a process die in every few rounds; how many died, and the most objects stored."""
    chance, places, killed, most = random.Random(0), {}, 0, (0, 0.0)
    due = chance.randint(*EVERY)
    for events, status in running.begin({"data": {"values": rows}}):
        for name, _, fields in events:
            if name == "placed":
                places[fields["module"]] = fields["pid"]
        victim = chance.choice([*places, "coordinator", "coordinator"]) if places else "nobody"
        pid = places.get(victim) or running.describe()["coordinator"]["pid"]
        if due <= status["round"] < ROUNDS and psutil.pid_exists(pid):
            most = max(most, stored())
            os.kill(pid, signal.SIGKILL)
            killed += 1
            due = status["round"] + chance.randint(*EVERY)
    return killed, most


def test_two_hundred_rounds_with_deaths_differ_in_no_bit_and_leave_nothing(tmp_path, ray_cluster, capsys):
    expected = undisturbed(graph(), tmp_path / "undisturbed", ROWS)
    before, objects = handles(), stored()
    root = tmp_path / "checkpoints"
    running = RunningModel.launch(Plan(graph(), RUN, 0, str(root), keep=2))
    killed, most = kill_again_and_again(running, ROWS)
    running.stop()
    last = f"round-{ROUNDS:03d}"
    assert Checkpoints(root).names() == [f"round-{ROUNDS - 1:03d}", last]
    assert digests(Checkpoints(root), last) == digests(expected, last)
    assert killed >= 20
    assert most[0] > objects[0], "what is stored is not seen"
    assert most[1] > objects[1], "what is needed is not seen"
    assert not list(root.rglob("*.part"))
    wait_until(lambda: not named_actors())
    wait_until(lambda: not hosts_left())
    wait_until(lambda: given_back(objects[1]))
    grown = {name: count - before[name] for name, count in handles().items()}
    with capsys.disabled():
        print(f"\nsoak: {ROUNDS} rounds, {killed} deaths; open files since: {grown}")
        print(f"objects in the store: {objects[0]} before, {most[0]} at most, {stored()[0]} after; none is needed")
    assert max(grown.values()) < killed, "a file for every death stays open"
