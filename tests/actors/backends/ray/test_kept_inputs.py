"""Small inputs stay in a module's process from one update to the next."""

import numpy as np
import psutil
import pytest
import ray

from actors.backends.in_process import InProcessBackend
from actors.backends.ray import backend as backends
from actors.backends.ray.kept_inputs import KeptInputs, SentInputs
from actors.coordination.backend import Ref
from actors.coordination.router import Router
from actors.coordination.schedule_runner import ScheduleRunner
from actors.errors import StaleIncarnationError
from actors.graph.schedule import Position, Step
from actors.limits import INLINED_BYTES
from actors.sharing.chunks import ShardedArrays
from tests.actors.coordination.test_coordinator import ROWS, model

SMALL, LARGE = {"values": np.zeros(3)}, {"values": np.zeros(INLINED_BYTES // 8 + 1)}


def test_small_arrays_of_the_last_update_are_kept_and_need_not_be_sent_again():
    kept = KeptInputs()
    assert kept.complete(("a", "b", ""), (SMALL, LARGE, SMALL)) == [SMALL, LARGE, SMALL]
    assert kept.names == {"a"}
    assert kept.complete(("a", "c"), (None, SMALL))[0] is SMALL
    assert kept.names == {"a", "c"}
    kept.complete(("c",), (None,))
    with pytest.raises(StaleIncarnationError, match="does not have what an earlier call has sent"):
        kept.complete(("a",), (None,))


@pytest.mark.parametrize("value", [ShardedArrays.__new__(ShardedArrays), {"values": "on disk"}, 5])
def test_what_is_no_array_is_not_kept(value):
    kept = KeptInputs()
    kept.complete(("a",), (value,))
    assert not kept.names


def test_what_is_known_of_a_process_holds_for_the_next_call_of_the_same_one(monkeypatch):
    monkeypatch.setattr(ray, "ObjectRef", bytes)  # it has a method hex(), too
    sent, one, two = SentInputs(), b"\x01", b"\x02"
    assert sent.leave_out("gmm", "first", [one, two, None]) == (("01", "02", ""), [one, two, None])
    sent.note("gmm", "first", frozenset({"01"}))
    assert sent.leave_out("mm", "first", [one]) == (("01",), [one])
    assert sent.leave_out("gmm", "first", [one, two]) == (("01", "02"), [None, two])
    assert sent.leave_out("gmm", "first", [one]) == (("01",), [one])  # the call before was not answered
    sent.note("gmm", "first", frozenset({"01"}))
    assert sent.leave_out("gmm", "second", [one]) == (("01",), [one])


def test_a_message_that_comes_again_is_not_checked_again(monkeypatch):
    graph, backend = model(rounds=1), InProcessBackend()
    backend.start(graph)
    router = Router(graph, backend, run="kept", seed=0)
    router.begin({"data": Ref({"values": ROWS})})
    runner, host = ScheduleRunner(router), backend._hosts["encoder"]
    checked = []
    original = host._checked_input
    monkeypatch.setattr(host, "_checked_input", lambda header, arrays: (checked.append(1), original(header, arrays))[1])
    for step in ("data", "encoder", "encoder", "data", "encoder"):
        runner.run_updates([(0, Step(step))], Position(1))
    assert len(checked) == 2  # of the source's two messages


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_process_is_sent_small_rows_once_until_it_dies():
    backend, sent = backends.RayBackend("serket:kept"), []
    leave_out = backend._sent.leave_out

    def noted(module, incarnation, objects):
        names, given = leave_out(module, incarnation, objects)
        if module == "encoder":
            sent.append(given[0] is not None)
        return names, given

    backend._sent.leave_out = noted
    graph = model()
    router = Router(graph, backend, run="kept", seed=0)
    backend.start(graph)
    try:
        router.begin({"data": Ref({"values": ROWS})})
        router.store("data", router.collect(router.submit("update", Step("data"), Position())))
        states = []
        for number in range(4):
            if number == 2:
                process = psutil.Process(backend.place("encoder").pid)
                process.kill()
                process.wait(30.0)
            states.append(ray.get(router.collect(router.submit("update", Step("encoder"), Position(1))).state))
    finally:
        backend.stop()
    assert sent == [True, False, False, True, False]  # the third call finds the process gone
    assert all(states)
