"""Tests of the Ray backend: bits, arrays that bypass the coordinator, actor names, resources and failures."""

import sys
import threading

import numpy as np
import pytest
import ray
from ray.experimental.locations import get_local_object_locations

from actors.coordination.recovery import RecoveryPolicy
from actors.coordination.session import RunSpec
from actors.errors import BackendError, ModuleFailedError
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Resources
from actors.limits import INLINED_BYTES
from actors.storage.checkpoints import Checkpoints
from runner.cluster.connection import ClusterError
from runner.runs.coordinator_client import CoordinatorClient
from tests.actors.coordination.test_coordinator import ROWS, TOYS, learn, model
from tests.conftest import private_bytes, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def collect_events(stream):
    return [(each.event.event, each.time, each.event.fields()) for events, _ in stream for each in events]


def launch(graph, name, checkpoints=None, seed=0, patience=0.0, **fields):
    root = None if checkpoints is None else str(checkpoints.root)
    return CoordinatorClient.launch(RunSpec(graph, name, seed, root, **fields), patience=patience)


def run_on_actors(graph, name, checkpoints=None, seed=0, values=ROWS, **fields):
    running = launch(graph, name, checkpoints, seed, **fields)
    try:
        return collect_events(running.begin({"data": {"values": values}}))
    finally:
        running.stop()


def competing():
    chains = Block((Step("encoder"), Step("mirror")), repeat=2, chains=3, moves=2)
    return model(2, (chains, Step("mirror")))


@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(model(rounds=3), marks=pytest.mark.slow, id="plain"),
        pytest.param(competing(), id="chains and moves"),
    ],
)
def test_both_backends_give_the_same_bits(tmp_path, graph):
    in_process, on_ray = Checkpoints(tmp_path / "in_process"), Checkpoints(tmp_path / "on_ray")
    learn(graph, in_process, seed=5)
    run_on_actors(graph, "run", on_ray, seed=5)
    for name in in_process.names():
        digests = [
            {
                m: {label: file.digest for label, file in record.files.items()}
                for m, record in run.manifest(name).modules.items()
            }
            for run in (in_process, on_ray)
        ]
        assert digests[0] == digests[1]
    assert in_process.names() == on_ray.names()


def meeting(place, chains, expected):
    guest = ModuleSpec("guest", f"{TOYS}:Guest", {"place": str(place), "expected": expected})
    block = Block((Step("guest"),), chains=chains)
    return Graph([ModuleSpec("data", f"{TOYS}:Source"), guest], [Connection("data", "guest")], Schedule(1, (block,)))


@pytest.mark.slow  # as those of the next test, which also meet
def test_chains_run_in_parallel_each_in_its_own_process(tmp_path):
    events = run_on_actors(meeting(tmp_path, chains=3, expected=3), "meeting")
    assert len({file.read_text() for file in tmp_path.iterdir()}) == 3
    assert next(fields["chain"] for name, _, fields in events if name == "selected") == 2


def test_processes_for_chains_are_started_while_the_modules_before_them_learn(tmp_path):
    place, prepared, gates = (tmp_path / name for name in ("place", "place-prepared", "gates"))
    for each in (place, prepared, gates):
        each.mkdir()
    (gates / "1-0").touch()  # the encoder learns until it is gone
    known = meeting(place, chains=2, expected=2).modules["guest"]
    encoder = ModuleSpec("encoder", f"{TOYS}:Encoder", {"gates": str(gates)})
    graph = Graph(
        [ModuleSpec("data", f"{TOYS}:Source"), encoder, known],
        [Connection("data", "encoder"), Connection("data", "guest")],
        Schedule(1, (Step("encoder"), Block((Step("guest"),), chains=2))),
    )
    running = launch(graph, "early")
    try:
        following = running.begin({"data": {"values": ROWS}})
        for _ in following:
            if len(list(prepared.iterdir())) == 2:  # the module's own and one for a chain
                (gates / "1-0").unlink(missing_ok=True)
    finally:
        running.stop()
    chains = {int(file.read_text()) for file in place.iterdir()}
    assert chains <= {int(file.name) for file in prepared.iterdir()}


def test_an_exception_in_a_chain_is_raised_with_its_traceback(tmp_path):
    (tmp_path / "1").mkdir()  # where chain 1 would write a file
    with pytest.raises(ModuleFailedError, match=r"(?s)a chain raised.*IsADirectoryError") as failure:
        run_on_actors(meeting(tmp_path, chains=2, expected=2), "astray")
    assert "toy_modules.py" in str(failure.value)


def test_only_objects_beyond_half_a_megabyte_lie_in_shared_memory():
    make = ray.remote(num_cpus=0)(lambda size: np.zeros(size, np.uint8))
    sizes = (240_000, INLINED_BYTES - 10_000, INLINED_BYTES + 10_000)
    references = [make.remote(size) for size in sizes]
    assert [array.size for array in ray.get(references)] == list(sizes)
    found = get_local_object_locations(references)
    assert [bool(found[reference]["node_ids"]) for reference in references] == [False, False, True]


@pytest.mark.slow
def test_arrays_bypass_the_coordinator():
    values = np.ones((50_000, 500))  # 200 MB
    graph = model(rounds=2, dim=500)
    running = launch(graph, "large")
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
        collect_events(running.begin({"data": {"values": values}}))
        done.set()
        watcher.join()
    finally:
        running.stop()
    assert max(peak) - before < 30e6


def names_in(namespace):
    return {each["name"] for each in ray.util.list_named_actors(all_namespaces=True) if each["namespace"] == namespace}


def test_the_actors_have_the_modules_names_report_their_activity_and_end_with_the_run():
    running, seen = launch(model(rounds=1, seconds=3.0), "named"), []

    def done():
        events, status = next(stream)
        seen.extend((each.event.event, each.event.fields().get("module")) for each in events)
        return status.get("active", {}).get("encoder", {}).get("done")

    try:
        stream = running.begin({"data": {"values": ROWS}})
        wait_until(lambda: done() == 1)
        encoder = running.describe()["modules"]["encoder"]
        assert (encoder["doing"], encoder["done"], encoder["total"], encoder["loss"]) == ("learning", 1, 2, 0.5)
        assert CoordinatorClient.find("named").describe()["coordinator"]["round"] == 1
        seen += [(name, fields.get("module")) for name, _, fields in collect_events(stream)]
        assert seen.index(("update", "encoder")) < seen.index(("placed", "mirror"))  # its process was not waited for
        assert names_in("serket:named") == {"coordinator", "data", "encoder", "mirror"}
        described = running.describe()
        assert len({described["coordinator"]["pid"], *(m["pid"] for m in described["modules"].values())}) == 4
    finally:
        running.stop()
    wait_until(lambda: not names_in("serket:named"))


def test_modules_that_exchange_no_message_learn_in_parallel():
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


def test_a_modules_file_is_imported_from_the_code_directory_of_the_model(tmp_path, monkeypatch):
    (tmp_path / "far_away.py").write_text("from tests.support.toy_modules import Mirror\nclass Mine(Mirror): pass\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # of this process only: the cluster is running already
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


@pytest.mark.slow
def test_a_module_that_keeps_dying_ends_the_run_with_its_activity():
    with pytest.raises(ModuleFailedError, match=r"module 'encoder' died 2 times during update \(round 1, step 0\)"):
        run_on_actors(model(die_in_round=1), "dying", recovery=RecoveryPolicy(tries=2))


def test_a_module_that_hangs_is_treated_as_dead():
    with pytest.raises(ModuleFailedError, match="did not answer within 1 s"):
        run_on_actors(model(seconds=600.0), "hanging", recovery=RecoveryPolicy(tries=1, timeout=1.0))


@pytest.mark.slow  # as test_a_resource_request_that_no_node_can_satisfy_fails_at_once in tests/runner/cli/test_cli.py
def test_a_request_that_the_cluster_cannot_meet_fails_immediately():
    graph = model()
    graph.modules["encoder"] = ModuleSpec("encoder", f"{TOYS}:Encoder", {}, 1, Resources(num_cpus=64))
    with pytest.raises(BackendError, match=r"'encoder' asks for 64 CPU, and no node has that: .* has 2 CPU"):
        run_on_actors(graph, "greedy")


def test_a_second_run_of_the_same_name_on_a_cluster_is_rejected():
    first = launch(model(), "twice")
    try:
        with pytest.raises(ClusterError, match="a run called twice is on this cluster already"):
            launch(model(), "twice")
    finally:
        first.stop()


@pytest.mark.slow
def test_a_run_can_be_stopped_in_the_middle_of_an_update():
    running = launch(model(rounds=1, seconds=120.0), "stopped")
    stream = running.begin({"data": {"values": ROWS}})
    wait_until(lambda: next(stream)[1].get("active", {}).get("encoder", {}).get("doing") == "learning")
    running.stop()  # must not wait for the two minutes, which exceed the time limit of a test
    wait_until(lambda: not names_in("serket:stopped"))
