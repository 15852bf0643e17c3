"""Groups of workers on Ray: the bits of one process, whichever worker dies, hangs or fails."""

import gc
import os
import signal
import time
from dataclasses import dataclass

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.recovery import RecoveryPolicy
from actors.coordination.session import Instrumentation
from actors.errors import ModuleError, ModuleFailedError
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.limits import STRETCH_ROWS
from actors.sharing.connections import Connection as WorkerConnection
from actors.storage.checkpoints import Checkpoints
from tests.actors.backends.ray.test_backend import collect_events, launch
from tests.actors.backends.test_shared_modules import LENGTHS, X, graph, run
from tests.faults.runs import digests
from tests.support.sharded_modules import KMeans, unconnected_host
from tests.support.toy_modules import same_arrays

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def shut_connections():
    """End the connections of this process to other workers, as a network that breaks does."""
    for each in gc.get_objects():
        if isinstance(each, WorkerConnection):
            each.shut()


class Failing(KMeans):
    """K-means whose worker with chunk 7 dies, hangs or fails: once, if the file `once` can be made."""

    @dataclass(frozen=True)
    class Parameters(KMeans.Parameters):
        way: str = ""
        once: str = ""

    def accumulate(self, chunk, learnt, context):
        sweeps = {1} if self.parameters.way != "slow" else {0, 1, 2}
        if chunk.index == 7 and context.round == 1 and context.sweep in sweeps and self.first_time():
            match self.parameters.way:
                case "SIGKILL":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "SIGSTOP":
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "sleep":
                    time.sleep(600)
                case "slow":
                    time.sleep(3.0)
                case "error":
                    raise ModuleError("chunk 7 is odd")
                case "shut":
                    shut_connections()
        return super().accumulate(chunk, learnt, context)

    def broadcast(self, learnt):
        return {**learnt, "odd": {1}} if self.parameters.way == "odd" else learnt

    def first_time(self):
        if not self.parameters.once:
            return True
        try:
            os.close(os.open(self.parameters.once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def run_on_workers(name, root, workers, **options):
    given = options.pop("given", {})
    model = graph(workers, type=f"{__name__}:Failing", **given)
    running = launch(model, name, Checkpoints(root), seed=3, **options)
    try:
        return collect_events(running.begin({"data": {"values": X, "lengths": LENGTHS}}))
    finally:
        running.stop()


def has_the_bits_of_one_process(root, name):
    """Return whether the commits are those of one worker in this process."""
    _, expected = run(root.parent / "expected", graph(1), name=name)
    found = Checkpoints(root)
    return found.names() == expected.names() and all(
        digests(found, commit) == digests(expected, commit) for commit in expected.names()
    )


@pytest.mark.slow
def test_workers_on_ray_give_the_bits_of_one_process(tmp_path):
    run_on_workers("groups", tmp_path / "run", 3)
    assert has_the_bits_of_one_process(tmp_path / "run", "groups")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["SIGKILL", "SIGSTOP", "sleep"])
def test_a_worker_that_dies_or_hangs_is_replaced_and_the_bits_are_the_same(tmp_path, way):
    given = {"way": way, "once": str(tmp_path / "once")}
    recovery = RecoveryPolicy(timeout=None if way == "SIGKILL" else 5.0, wait=60.0)
    events = run_on_workers(f"group-{way.lower()}", tmp_path / "run", 3, given=given, recovery=recovery)
    lost = [fields for name, _, fields in events if name == "lost"]
    assert [fields["module"] for fields in lost] == ["kmeans"]
    assert [name for name, _, _ in events].count("recovered") == 1
    shares = [fields["worker_rows"] for name, _, fields in events if name == "updated" and fields["module"] == "kmeans"]
    assert all(list(each) == ["kmeans", "kmeans#1", "kmeans#2"] and sum(each.values()) == len(X) for each in shares)
    assert not by_calls_of_actors(events)
    assert has_the_bits_of_one_process(tmp_path / "run", f"group-{way.lower()}")


def by_calls_of_actors(events):
    """Return the sentences that say that workers are not connected."""
    return [fields["message"] for name, _, fields in events if name == "log" and "connections" in fields["message"]]


@pytest.mark.slow
def test_workers_that_cannot_connect_say_so_once_and_the_bits_are_the_same(tmp_path):
    firewall = Instrumentation(make_host=unconnected_host)
    events = run_on_workers("group-apart", tmp_path / "run", 2, instrumentation=firewall)
    (sentence,) = by_calls_of_actors(events)
    assert sentence.startswith("kmeans: its workers exchange sums by calls of actors")
    assert sentence.endswith("the firewall is shut")
    assert [name for name, _, fields in events if name == "updated" and fields["module"] == "kmeans"] > ["updated"]
    assert has_the_bits_of_one_process(tmp_path / "run", "group-apart")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["shut", "odd"])
def test_connections_that_break_or_cannot_carry_the_sums_are_given_up_with_the_same_bits(tmp_path, way):
    given = {"way": way, "once": str(tmp_path / "once")} if way == "shut" else {"way": way}
    events = run_on_workers(f"group-{way}", tmp_path / "run", 3, given=given)
    (sentence,) = by_calls_of_actors(events)
    assert ("the connection to another worker is lost" if way == "shut" else "a value of type set") in sentence
    assert "lost" not in [name for name, _, _ in events]
    assert has_the_bits_of_one_process(tmp_path / "run", f"group-{way}")


@pytest.mark.slow
def test_while_a_worker_is_waited_for_the_module_says_what_it_does(tmp_path):
    model = graph(2, type=f"{__name__}:Failing", way="slow", iterations=3)
    running = launch(model, "group-slow", Checkpoints(tmp_path), seed=3)
    try:
        doing = [
            status["active"]["kmeans"]["doing"]
            for _, status in running.begin({"data": {"values": X, "lengths": LENGTHS}})
            if status.get("round") == 1 and "kmeans" in status["active"]
        ]
    finally:
        running.stop()
    # The first worker is asked only after the second one is known to take long.
    unanswered = [number for number, text in enumerate(doing) if text.startswith("no answer")]
    assert doing.count("waiting for other workers") > 5
    assert all(number < len(doing) / 2 for number in unanswered)


@pytest.mark.slow
def test_the_error_of_a_worker_ends_the_run_in_its_own_words(tmp_path):
    with pytest.raises(ModuleFailedError, match="module 'kmeans': chunk 7 is odd"):
        run_on_workers("group-error", tmp_path, 3, given={"way": "error"})


@pytest.mark.slow
def test_many_rows_stay_in_parts_which_other_workers_read_when_the_run_goes_on(tmp_path):
    count = 2 * STRETCH_ROWS + 10_000
    rows = (np.random.default_rng(0).normal(size=(count, 3)) + 5 * np.eye(3)[np.arange(count) % 3]).astype("f4")

    def model(workers, rounds):
        sharing = Sharing(workers, STRETCH_ROWS // 8)
        pca = ModuleSpec("pca", "pca", {"latent_dim": 2}, sharing=sharing)
        kmeans = ModuleSpec("kmeans", f"{__name__}:Failing", {"iterations": 2}, sharing=sharing)
        chain = [Connection("data", "pca"), Connection("pca", "kmeans")]
        steps = (Step("pca"), Step("kmeans"))
        return Graph([ModuleSpec("data", "observation"), pca, kmeans], chain, Schedule(rounds, steps))

    root = Checkpoints(tmp_path / "run")
    for workers, rounds in ((2, 1), (3, 2)):  # the second run goes on from the first one's commit
        running = launch(model(workers, rounds), "parts", root, patience=30.0)
        try:
            stream = running.follow() if rounds == 2 else running.begin({"data": {"values": rows}})
            events = collect_events(stream)
        finally:
            running.stop()
    assert "resumed" in [name for name, _, _ in events]
    record = root.manifest("round-001").modules["pca"]
    assert len(record.parts_of("outputs")) == len(record.parts_of("message:latent_vectors")) == 3
    assert "reconstructions" not in record.slots
    alone = Coordinator(model(1, 2), InProcessBackend(), run="parts", checkpoints=Checkpoints(tmp_path / "alone"))
    alone.start({"data": {"values": rows}})
    alone.run_rounds()
    for name in ("pca", "kmeans"):
        found, expected = root.latest(), Checkpoints(tmp_path / "alone").latest()
        assert found.modules[name].files["state"].digest == expected.modules[name].files["state"].digest
        outputs = [dict(each.outputs(each.latest(), name)) for each in (root, Checkpoints(tmp_path / "alone"))]
        assert same_arrays(*outputs)
    assert outputs[0]["class"].shape == (count,)
