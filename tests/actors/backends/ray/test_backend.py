"""The same model on actors: same bits, arrays that pass the coordinator by, names, resources, failures."""

import sys
import threading

import numpy as np
import pytest
import ray
from actors.graph.spec import Connection, ModuleSpec, Resources

from actors.coordination.recovery import Recovery
from actors.coordination.session import Plan
from actors.errors import BackendError, ModuleFailedError
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.storage.checkpoints import Checkpoints
from runner.cluster.connection import ClusterError
from runner.runs.coordinator_client import RunningModel
from tests.actors.coordination.test_coordinator import ROWS, TOYS, learn, model
from tests.conftest import private_bytes, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def drain(stream):
    return [event for events, _ in stream for event in events]


def launched(graph, name, checkpoints=None, seed=0, **plan):
    root = None if checkpoints is None else str(checkpoints.root)
    return RunningModel.launch(Plan(graph, name, seed, root, **plan))


def run_on_actors(graph, name, checkpoints=None, seed=0, values=ROWS, **plan):
    running = launched(graph, name, checkpoints, seed, **plan)
    try:
        return drain(running.begin({"data": {"values": values}}))
    finally:
        running.stop()


def competing():
    chains = Block((Step("encoder"), Step("mirror")), repeat=2, chains=3, moves=2)
    return model(2, (chains, Step("mirror")))


@pytest.mark.parametrize("graph", [model(rounds=3), competing()], ids=["plain", "chains and moves"])
def test_both_transports_give_the_same_bits(tmp_path, graph):
    here, there = Checkpoints(tmp_path / "here"), Checkpoints(tmp_path / "there")
    learn(graph, here, seed=5)
    run_on_actors(graph, "run", there, seed=5)
    for name in here.names():
        digests = [
            {
                m: {label: file.digest for label, file in record.files.items()}
                for m, record in run.manifest(name).modules.items()
            }
            for run in (here, there)
        ]
        assert digests[0] == digests[1]
    assert here.names() == there.names()


def meeting(place, chains, expected):
    guest = ModuleSpec("guest", f"{TOYS}:Guest", {"place": str(place), "expected": expected})
    block = Block((Step("guest"),), chains=chains)
    return Graph([ModuleSpec("data", f"{TOYS}:Source"), guest], [Connection("data", "guest")], Schedule(1, (block,)))


def test_chains_run_side_by_side_each_in_a_process_of_its_own(tmp_path):
    events = run_on_actors(meeting(tmp_path, chains=3, expected=3), "meeting")
    assert len({file.read_text() for file in tmp_path.iterdir()}) == 3
    assert next(fields["chain"] for name, _, fields in events if name == "selected") == 2


def test_a_chain_that_raises_is_told_with_its_own_traceback(tmp_path):
    (tmp_path / "1").mkdir()  # where chain 1 would write a file
    with pytest.raises(ModuleFailedError, match=r"(?s)a chain raised.*IsADirectoryError") as failure:
        run_on_actors(meeting(tmp_path, chains=2, expected=2), "astray")
    assert "toy_modules.py" in str(failure.value)


@pytest.mark.slow
def test_arrays_pass_the_coordinator_by():
    values = np.ones((50_000, 500))  # 200 MB
    graph = model(rounds=2, dim=500)
    running = launched(graph, "large")
    try:
        pid = running.describe()["coordinator"]["pid"]
        before = private_bytes(pid)
        peak = [before]
        done = threading.Event()

        def watch():
            while not done.wait(0.01):
                peak.append(private_bytes(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        drain(running.begin({"data": {"values": values}}))
        done.set()
        watcher.join()
    finally:
        running.stop()
    assert max(peak) - before < 30e6


def test_the_actors_have_the_modules_names_and_say_what_they_do():
    running = launched(model(rounds=1, seconds=3.0), "named")
    try:
        stream = running.begin({"data": {"values": ROWS}})
        wait_until(lambda: next(stream)[1]["active"].get("encoder", {}).get("done") == 1)
        names = {
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["namespace"] == "serket:named"
        }
        assert names == {"coordinator", "data", "encoder", "mirror"}
        described = running.describe()
        encoder = described["modules"]["encoder"]
        assert (encoder["doing"], encoder["done"], encoder["total"], encoder["loss"]) == ("learning", 1, 2, 0.5)
        assert len({described["coordinator"]["pid"], *(m["pid"] for m in described["modules"].values())}) == 4
        assert RunningModel.find("named").describe()["coordinator"]["round"] == 1
        drain(stream)
    finally:
        running.stop()


def test_neighbours_that_exchange_no_message_learn_at_the_same_time():
    graph = Graph(
        [
            ModuleSpec("data", f"{TOYS}:Source"),
            ModuleSpec("left", f"{TOYS}:Encoder", {"seconds": 1.0}),
            ModuleSpec("right", f"{TOYS}:Encoder", {"seconds": 1.0}),
        ],
        [Connection("data", "left"), Connection("data", "right")],
        Schedule(1, (Step("left"), Step("right"))),
    )
    events = run_on_actors(graph, "branches")
    order = [
        (name, fields["module"]) for name, _, fields in events if name in ("update", "updated") and fields["round"]
    ]
    assert order == [("update", "left"), ("update", "right"), ("updated", "left"), ("updated", "right")]
    times = {(name, fields["module"]): when for name, when, fields in events if name in ("update", "updated")}
    assert times["update", "right"] < times["updated", "left"]


def test_a_modules_file_is_found_in_the_directory_that_the_model_names(tmp_path, monkeypatch):
    (tmp_path / "far_away.py").write_text("from tests.support.toy_modules import Mirror\nclass Mine(Mirror): pass\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # of this process alone: the cluster is there already
    block = Block((Step("encoder"), Step("mirror")), chains=2)
    graph = Graph(
        [
            ModuleSpec("data", f"{TOYS}:Source"),
            ModuleSpec("encoder", f"{TOYS}:Encoder"),
            ModuleSpec("mirror", "far_away:Mine", code=(str(tmp_path),)),
        ],
        [Connection("data", "encoder"), Connection("encoder", "mirror")],
        Schedule(1, (block,)),
    )
    events = run_on_actors(graph, "far-away")
    assert [fields["module"] for name, _, fields in events if name == "placed"] == ["data", "encoder", "mirror"]
    assert "selected" in {name for name, _, _ in events}


def test_a_module_that_raises_is_named_with_its_own_traceback():
    with pytest.raises(ModuleFailedError, match=r"(?s)module 'encoder' raised.*as the test asked") as failure:
        run_on_actors(model(fail_in_round=1), "raising")
    assert "toy_modules.py" in str(failure.value)


@pytest.mark.slow
def test_a_module_that_keeps_dying_is_given_up_with_what_it_did():
    with pytest.raises(ModuleFailedError, match=r"module 'encoder' died 2 times in update \(round 1, step 0\)"):
        run_on_actors(model(die_in_round=1), "dying", recovery=Recovery(tries=2))


def test_a_module_that_crashes_is_given_up_with_its_own_traceback():
    with pytest.raises(ModuleFailedError, match=r"(?s)died in update.*Segmentation fault.*toys\.py.*in update"):
        run_on_actors(model(crash_in_round=1), "crashing", recovery=Recovery(tries=1))


def test_a_module_that_hangs_counts_as_dead():
    with pytest.raises(ModuleFailedError, match="did not answer within 1 s"):
        run_on_actors(model(seconds=600.0), "hanging", recovery=Recovery(tries=1, timeout=1.0))


def test_a_request_that_the_cluster_cannot_meet_is_an_error_at_once():
    graph = model()
    graph.modules["encoder"] = ModuleSpec("encoder", f"{TOYS}:Encoder", {}, 1, Resources(num_cpus=64))
    with pytest.raises(BackendError, match=r"'encoder' asks for 64 CPU, and no node has that: .* has 2 CPU"):
        run_on_actors(graph, "greedy")


def test_no_actor_outlives_its_run():
    run_on_actors(model(rounds=1), "ended")
    wait_until(lambda: "serket:ended" not in {a["namespace"] for a in ray.util.list_named_actors(all_namespaces=True)})


def test_two_runs_of_one_name_on_one_cluster_are_refused():
    first = launched(model(), "twice")
    try:
        with pytest.raises(ClusterError, match="a run called twice is on this cluster already"):
            launched(model(), "twice")
    finally:
        first.stop()


@pytest.mark.slow
def test_a_run_can_be_stopped_in_the_middle_of_an_update():
    running = launched(model(rounds=1, seconds=120.0), "stopped")
    stream = running.begin({"data": {"values": ROWS}})
    wait_until(lambda: next(stream)[1]["active"].get("encoder", {}).get("doing") == "learning")
    running.stop()  # does not wait for the two minutes: the suite's own limit would show
    wait_until(
        lambda: "serket:stopped" not in {a["namespace"] for a in ray.util.list_named_actors(all_namespaces=True)}
    )
