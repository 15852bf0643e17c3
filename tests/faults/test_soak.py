"""Soak test: many rounds with deaths; the results stay bit-identical, and no resources remain in use."""

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

from actors.coordination.events import ModulePlaced
from actors.coordination.session import RunSpec
from actors.storage.checkpoints import Checkpoints
from runner.runs.coordinator_client import CoordinatorClient
from tests.actors.coordination.test_coordinator import model
from tests.conftest import wait_until
from tests.faults.runs import RUN, digests, named_actors, run_undisturbed

pytestmark = [pytest.mark.ray, pytest.mark.faults]

ROUNDS = 200
DEATH_INTERVAL = (2, 8)
"""Fewest and most rounds from one death to the next."""

ROWS = np.random.default_rng(0).normal(size=(1000, 20))  # messages of 160 KB, which are kept in the object store


def graph():
    """Return the toy model, with updates slow enough that the test reads a round's events before the round ends."""
    return model(ROUNDS, dim=20, seconds=0.1)


def object_store_usage():
    """Return the number of objects in the object store, and the percentage of it that Ray may not evict.

    If an object is written while its writer and its owner die, no process references it, and Ray evicts it when it
    needs the memory. An object of this test is 0.02 % of the store.
    """
    match = re.search(
        r"Plasma memory usage \d+ MiB, (\d+) objects, [\d.]+% full, ([\d.]+)% needed",
        memory_summary(ray.get_runtime_context().gcs_address, stats_only=True),
    )
    return int(match.group(1)), float(match.group(2))


def is_released(needed):
    """Return whether Ray may evict all but `needed` percent of the object store.

    Exceptions of calls on dead actors reference the frames that they passed through, and with them objects, until
    Python collects these reference cycles.
    """
    gc.collect()
    return object_store_usage()[1] <= needed


def permanent_processes():
    """Return this process and Ray's own, except workers, which come and go."""
    me = psutil.Process()
    return [me, *(child for child in me.children(recursive=True) if child.name() in ("raylet", "gcs_server"))]


def open_files():
    """Return the number of open files of each permanent process."""
    return {process.name() + str(process.pid): process.num_fds() for process in permanent_processes()}


def actor_processes():
    """Return the titles of the processes that host an actor."""
    children = psutil.Process().children(recursive=True)
    return [title for child in children if re.match(r"ray::(Module|Coordinator)Actor", title := _title(child))]


def _title(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def run_and_kill(client, rows):
    """Run the model and kill a process every few rounds; return the number of kills, and the most objects stored."""
    generator, pids, killed, most = random.Random(0), {}, 0, (0, 0.0)
    due = generator.randint(*DEATH_INTERVAL)
    for events, status in client.begin({"data": {"values": rows}}):
        for timed in events:
            if isinstance(timed.event, ModulePlaced):
                pids[timed.event.module] = timed.event.pid
        victim = generator.choice([*pids, "coordinator", "coordinator"]) if pids else ""
        pid = pids.get(victim) or client.describe()["coordinator"]["pid"]
        if due <= status["round"] < ROUNDS and psutil.pid_exists(pid):
            most = max(most, object_store_usage())
            os.kill(pid, signal.SIGKILL)
            killed += 1
            due = status["round"] + generator.randint(*DEATH_INTERVAL)
    return killed, most


def test_two_hundred_rounds_with_deaths_are_bit_identical_and_leave_no_resources_in_use(tmp_path, ray_cluster, capsys):
    expected = run_undisturbed(graph(), tmp_path / "undisturbed", ROWS)
    files_before, objects_before = open_files(), object_store_usage()
    root = tmp_path / "checkpoints"
    client = CoordinatorClient.launch(RunSpec(graph(), RUN, 0, str(root), keep=2))
    killed, most = run_and_kill(client, ROWS)
    client.stop()
    last = f"round-{ROUNDS:03d}"
    assert Checkpoints(root).names() == [f"round-{ROUNDS - 1:03d}", last]
    assert digests(Checkpoints(root), last) == digests(expected, last)
    assert killed >= 20
    assert most[0] > objects_before[0], "the number of stored objects is not measured"
    assert most[1] > objects_before[1], "the share that Ray may not evict is not measured"
    assert not list(root.rglob("*.part"))
    wait_until(lambda: not named_actors())
    wait_until(lambda: not actor_processes())
    wait_until(lambda: is_released(objects_before[1]))
    increase = {name: count - files_before[name] for name, count in open_files().items()}
    with capsys.disabled():
        print(f"\nsoak: {ROUNDS} rounds, {killed} deaths; increase in open files: {increase}")
        print(
            f"objects in the store: {objects_before[0]} before, {most[0]} at most, {object_store_usage()[0]} after, "
            "of which none is needed"
        )
    assert max(increase.values()) < killed, "each death leaves a file open"
