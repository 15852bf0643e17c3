"""Tests of recovery with the in-process backend: after a death or a stop at any call, a run has the same bits."""

import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import BlockFinished, ignore
from actors.coordination.recovery import RecoveryPolicy
from actors.errors import CheckpointError, ModuleDiedError, ModuleFailedError, ObjectsLostError
from actors.graph.schedule import Block, Step
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, learn, model
from tests.support.events import recorder

CALLS = ("await_prepared", "load_state", "collect")


@pytest.fixture(autouse=True, scope="module")
def no_fsync():
    """Skip fsync: these tests commit hundreds of runs, which need not survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _file: None)
        yield


class FailingBackend(InProcessBackend):
    """Raises `error` in the `times` calls from number `at` on, counted over all of :data:`CALLS`."""

    def __init__(self, at, error, times=1):
        super().__init__()
        self.calls, self.at, self.error, self.left = 0, at, error, times

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name not in CALLS:
            return method

        def call(*arguments):
            self.calls += 1
            if self.calls >= self.at and self.left > 0:
                self.left -= 1
                raise self.error("as the test asked")
            return method(*arguments)

        return call


def competing(rounds=2):
    chains = Block((Step("encoder"), Step("mirror")), repeat=2, chains=1, moves=1)
    return model(rounds, (chains, Step("mirror"), Step("encoder")))


def coordinator(root, backend, graph=None, emit=ignore, **kwargs):
    return Coordinator(graph or competing(), backend, checkpoints=Checkpoints(root), emit=emit, **kwargs)


def run(root, backend, **kwargs):
    running = coordinator(root, backend, **kwargs)
    running.start({"data": {"values": ROWS}})
    running.run_rounds()
    return running


def digests(root, name="round-002"):
    manifest = Checkpoints(root).manifest(name)
    files = {(m, label): file.digest for m, record in manifest.modules.items() for label, file in record.files.items()}
    return files, manifest.sequence, manifest.score


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the directory of a run without failures, and its number of calls."""
    root, backend = tmp_path_factory.mktemp("undisturbed"), FailingBackend(0, RuntimeError, times=0)
    run(root, backend)
    return root, backend.calls


def events_of(root, backend, **kwargs):
    events = []
    run(root, backend, emit=recorder(events), **kwargs)
    return events


@pytest.mark.parametrize("times", [1, 2])
def test_the_bits_are_the_same_whenever_a_module_dies(tmp_path, undisturbed, times):
    for at in range(1, undisturbed[1] + 1):
        events = events_of(tmp_path / f"{at}", FailingBackend(at, ModuleDiedError, times))
        assert sum(name == "lost" for name, _ in events) == times
        assert digests(tmp_path / f"{at}") == digests(undisturbed[0])


def test_objects_that_are_lost_repeatedly_end_the_run(tmp_path):
    running = coordinator(tmp_path, FailingBackend(6, ObjectsLostError, times=100))
    running.start({"data": {"values": ROWS}})
    with pytest.raises((ModuleFailedError, ObjectsLostError), match="as the test asked"):
        running.run_rounds()
    assert Checkpoints(tmp_path).names() == ["round-000"]


def test_a_module_that_keeps_dying_ends_the_run_after_the_number_of_tries(tmp_path):
    backend = FailingBackend(8, ModuleDiedError, times=100)
    with pytest.raises(ModuleFailedError, match=r"module '\w+' died 4 times during .*: as the test asked"):
        run(tmp_path, backend, recovery=RecoveryPolicy(tries=4))
    assert backend.left == 96


def halting_coordinator(root, at):
    """Return a coordinator that is halted at its event number `at`."""
    events = []

    def emit(event):
        events.append(event)
        if len(events) == at:
            halting.halt("step")

    halting = coordinator(root, InProcessBackend(), emit=emit)
    return halting


def test_a_run_that_is_stopped_at_any_event_and_resumed_has_the_same_bits(tmp_path, undisturbed):
    total = len(events_of(tmp_path / "count", InProcessBackend()))
    last_commits = set()
    for at in range(total):
        root = tmp_path / f"{at}"
        running = halting_coordinator(root, at)
        running.start({"data": {"values": ROWS}})
        running.run_rounds()
        assert running.ended in ("done", "stopped")
        last_commits.add(Checkpoints(root).latest().name)
        resumed = coordinator(root, InProcessBackend())
        resumed.resume()
        resumed.run_rounds()
        assert digests(root) == digests(undisturbed[0])
    assert last_commits >= {"round-001-step-01", "round-001", "round-002-step-01", "round-002"}


def test_a_run_that_is_stopped_after_its_round_ends_with_a_complete_round(tmp_path):
    running = coordinator(
        tmp_path, InProcessBackend(), emit=lambda event: isinstance(event, BlockFinished) and running.halt("round")
    )
    running.start({"data": {"values": ROWS}})
    running.run_rounds()
    assert running.ended == "stopped"
    assert Checkpoints(tmp_path).names() == ["round-000", "round-001"]


def test_added_rounds_equal_those_of_a_longer_run(tmp_path):
    run(tmp_path / "short", InProcessBackend(), graph=competing(1))
    resumed = coordinator(tmp_path / "short", InProcessBackend(), graph=competing(3))
    resumed.resume()
    resumed.run_rounds()
    run(tmp_path / "long", InProcessBackend(), graph=competing(3))
    assert digests(tmp_path / "short", "round-003") == digests(tmp_path / "long", "round-003")


def test_a_converged_run_is_still_converged_after_resuming(tmp_path):
    graph = model(5)
    graph.schedule = type(graph.schedule)(5, graph.schedule.steps, 1e9)
    learn(graph, Checkpoints(tmp_path))
    resumed = coordinator(tmp_path, InProcessBackend(), graph=graph)
    resumed.resume()
    assert resumed.ended == "done"
    latest = Checkpoints(tmp_path).latest()
    assert latest.converged
    assert latest.round < 5


def test_a_committed_update_is_not_repeated(tmp_path):
    events = []
    first = coordinator(tmp_path, InProcessBackend(), graph=model())
    first.start({"data": {"values": ROWS}})
    first.update("encoder", 1, 0)
    resumed = coordinator(tmp_path, InProcessBackend(), graph=model(), emit=lambda event: events.append(event.event))
    resumed.resume()
    resumed.update("encoder", 1, 0)
    assert "update" not in events
    resumed.update("mirror", 1, 1)
    assert "update" in events


def test_a_run_without_commits_cannot_be_resumed(tmp_path):
    with pytest.raises(CheckpointError, match="nothing is committed yet"):
        coordinator(tmp_path, InProcessBackend()).resume()
    with pytest.raises(CheckpointError, match="nothing was committed"):
        Coordinator(model(), InProcessBackend()).resume()


def test_a_damaged_commit_is_logged_and_its_round_repeated(tmp_path, undisturbed):
    run(tmp_path, InProcessBackend())
    manifest, events = Checkpoints(tmp_path).manifest("round-002"), []
    path = tmp_path / manifest.modules["encoder"].files["state"].path
    path.write_bytes(path.read_bytes()[:-1])
    resumed = coordinator(tmp_path, InProcessBackend(), emit=recorder(events))
    resumed.resume()
    messages = [fields["message"] for name, fields in events if name == "log"]
    assert len(messages) == 1
    assert str(path) in messages[0]
    assert resumed.committed == "round-001"
    resumed.run_rounds()
    assert digests(tmp_path) == digests(undisturbed[0])
