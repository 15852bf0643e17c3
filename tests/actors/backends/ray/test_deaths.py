"""Tests of the reasons of deaths: what ended the process of a module is named, with what the user can do."""

import ctypes
import os
import signal
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from actors.backends.ray.backend import RayBackend
from actors.backends.ray.deaths import count_oom_kills, describe_crash, describe_exit
from actors.coordination.backend import Ref
from actors.coordination.recovery import RecoveryPolicy
from actors.coordination.router import Router
from actors.errors import ModuleFailedError
from actors.graph.graph import Graph
from actors.graph.schedule import Position, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.module import Module, Outbox, Port
from tests.actors.coordination.test_coordinator import ROWS

FULL_NODE = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 1f7f) was "
    "3.86GB used / 23.54GB limit (0.164132)\nOOM kill reason: ..."
)
"""What Ray 2.60 said of an actor that was killed because its node was full."""


class Dying(Module):
    """Ends its own process in one of several ways."""

    ports = (Port("observations", "in", "forward", "observations"),)

    @dataclass(frozen=True)
    class Parameters:
        way: str = ""

    def update(self, inbox, context):
        match self.parameters.way:
            case "sys.exit":
                sys.exit(4)
            case "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            case "SIGSEGV":
                ctypes.string_at(0)
            case "MemoryError":
                np.empty((2**45,))
            case "ValueError":
                raise ValueError("as the test asked")
        return Outbox([])

    def recognize(self, inbox, context):
        return Outbox([])

    def state(self):
        return {}

    def load_state(self, state):
        pass


ENDS = {
    "sys.exit": "its process ended itself with exit code 4",
    "SIGKILL": r"its process ended without a report \(killed by a signal, or ended by os._exit\)",
    "MemoryError": r"module 'memoryerror' ran out of memory: Unable to allocate 256. TiB .*use fewer rows",
    "ValueError": r"(?s)module 'valueerror' raised an error.*test_deaths\.py.*in update.*as the test asked",
    "SIGSEGV": r"(?s)died during update.*Segmentation fault.*test_deaths\.py.*in update",
}
"""Ways in which a module ends its process or its update, and what the run says of each."""


@pytest.fixture(scope="module")
def dying(ray_cluster):
    """A router of a model with one module for each way; they are started together, as that takes most of the time."""
    modules = {way: way.replace(".", "").lower() for way in ENDS}
    graph = Graph(
        [
            ModuleSpec("data", "tests.support.toy_modules:Source"),
            *(ModuleSpec(name, f"{__name__}:Dying", {"way": way}) for way, name in modules.items()),
        ],
        [Connection("data", name) for name in modules.values()],
        Schedule(1, tuple(Step(name) for name in modules.values())),
    )
    policy = RecoveryPolicy(tries=1)
    backend = RayBackend("serket:dying", recovery=policy)
    router = Router(graph, backend, run="dying", seed=0, recovery=policy)
    backend.start(graph)
    router.begin({"data": Ref({"values": ROWS})})
    router.store("data", router.collect(router.submit("update", Step("data"), Position())))
    yield lambda way: router.collect(router.submit("update", Step(modules[way]), Position(1)))
    backend.stop()


@pytest.mark.ray
@pytest.mark.parametrize(("way", "reason"), ENDS.items())
def test_what_ended_a_module_or_its_update_is_named(dying, way, reason):
    with pytest.raises(ModuleFailedError, match=reason) as failure:
        dying(way)
    assert "worker" not in str(failure.value).partition("Fatal Python error")[0].lower()  # nothing of Ray's own words


@pytest.mark.parametrize(
    ("kind", "detail", "reason"),
    [
        (
            "NODE_OUT_OF_MEMORY",
            FULL_NODE,
            "was killed by Ray because its node ran out of memory (3.86GB of 23.54GB used)",
        ),
        ("NODE_OUT_OF_MEMORY", "in other words", "was killed by Ray because its node ran out of memory"),
        ("SYSTEM_ERROR", "Worker exits with an exit code 1.", "ended itself with exit code 1 (sys.exit in its code)"),
        ("SYSTEM_ERROR", "End of file.", "ended without a report (killed by a signal, or ended by os._exit)"),
        ("INTENDED_SYSTEM_EXIT", "", "ended"),
    ],
)
def test_rays_record_of_a_death_becomes_a_reason(kind, detail, reason):
    assert describe_exit(kind, detail) == reason


def test_a_crash_in_compiled_code_and_a_kernel_out_of_memory_are_named():
    assert "SIGSEGV" in describe_crash("Fatal Python error: Segmentation fault\n\nThread 0x1", 0)
    assert "killed 2 processes for want of memory" in describe_crash("", 2)
    assert describe_crash("", 0) == ""


def test_the_kernels_count_is_read_where_it_has_one(tmp_path):
    assert count_oom_kills(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "vmstat").write_text("pgfault 7\noom_kill 12\nnr_free 3\n")
    assert count_oom_kills(tmp_path) == 12
