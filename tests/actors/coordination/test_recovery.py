"""Deaths and interruptions at any moment, over the transport that needs no Ray: the run ends with the same bits."""

import pytest

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.coordination.recovery import Recovery
from actors.errors import CheckpointError, ModuleDiedError, ModuleFailedError, ObjectsLostError
from actors.graph.schedule import Block, Step
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import ROWS, learn, model

CALLS = ("ready", "load", "collect", "chained", "saved", "read")


@pytest.fixture(autouse=True, scope="module")
def hasty_disk():
    """Hundreds of runs are committed here, and none of them has to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _file: None)
        yield


class Lossy(InProcess):
    """Loses something at the n-th thing that is waited for (and at those after it, `times` in all)."""

    def __init__(self, at, error, times=1):
        super().__init__()
        self.calls, self.at, self.error, self.left = 0, at, error, times

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name not in CALLS:
            return method

        def watched(*arguments):
            self.calls += 1
            if self.calls >= self.at and self.left > 0:
                self.left -= 1
                raise self.error("as the test asked")
            return method(*arguments)

        return watched


def competing(rounds=2):
    chains = Block((Step("encoder"), Step("mirror")), repeat=2, chains=1, moves=1)
    return model(rounds, (chains, Step("mirror"), Step("encoder")))


def coordinator(root, transport, graph=None, emit=None, **kwargs):
    return Coordinator(graph or competing(), transport, checkpoints=Checkpoints(root), emit=emit, **kwargs)


def run(root, transport, **kwargs):
    made = coordinator(root, transport, **kwargs)
    made.start({"data": {"values": ROWS}})
    made.run_rounds()
    return made


def digests(root, name="round-002"):
    manifest = Checkpoints(root).manifest(name)
    files = {(m, label): file.digest for m, record in manifest.modules.items() for label, file in record.files.items()}
    return files, manifest.sequence, manifest.score


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The directory of a run where nothing happens, and how often something is waited for in it."""
    root, transport = tmp_path_factory.mktemp("calm"), Lossy(0, RuntimeError, times=0)
    run(root, transport)
    return root, transport.calls


def events_of(root, transport, **kwargs):
    events = []
    run(root, transport, emit=lambda name, fields: events.append((name, dict(fields))), **kwargs)
    return events


@pytest.mark.parametrize("times", [1, 2])
def test_a_module_that_dies_at_any_moment_changes_no_bit(tmp_path, calm, times):
    for at in range(1, calm[1] + 1):
        events = events_of(tmp_path / f"{at}", Lossy(at, ModuleDiedError, times))
        assert sum(name == "lost" for name, _ in events) == times
        assert digests(tmp_path / f"{at}") == digests(calm[0])


def test_what_is_lost_again_and_again_ends_the_run(tmp_path):
    made = coordinator(tmp_path, Lossy(6, ObjectsLostError, times=100))
    made.start({"data": {"values": ROWS}})
    with pytest.raises((ModuleFailedError, ObjectsLostError), match="as the test asked"):
        made.run_rounds()
    assert Checkpoints(tmp_path).names() == ["round-000"]


def test_a_module_that_keeps_dying_ends_the_run_after_so_many_tries(tmp_path):
    transport = Lossy(8, ModuleDiedError, times=100)
    with pytest.raises(ModuleFailedError, match=r"module '\w+' died 4 times in .*: as the test asked"):
        run(tmp_path, transport, recovery=Recovery(tries=4))
    assert transport.left == 96


def halting(root, at):
    """A coordinator that is asked to stop when it tells its `at`-th event."""
    seen = []

    def emit(name, _fields):
        seen.append(name)
        if len(seen) == at:
            made.halt("step")

    made = coordinator(root, InProcess(), emit=emit)
    return made


def test_a_run_that_is_stopped_at_any_moment_and_resumed_has_the_same_bits(tmp_path, calm):
    total = len(events_of(tmp_path / "count", InProcess()))
    stopped_within = set()
    for at in range(total):
        root = tmp_path / f"{at}"
        made = halting(root, at)
        made.start({"data": {"values": ROWS}})
        made.run_rounds()
        assert made.ended in ("done", "stopped")
        stopped_within.add(Checkpoints(root).latest().name)
        heir = coordinator(root, InProcess())
        heir.resume()
        heir.run_rounds()
        assert digests(root) == digests(calm[0])
    assert stopped_within >= {"round-001-step-01", "round-001", "round-002-step-01", "round-002"}


def test_a_run_that_is_stopped_after_its_round_ends_with_a_whole_one(tmp_path):
    made = coordinator(tmp_path, InProcess(), emit=lambda name, _fields: name == "block" and made.halt("round"))
    made.start({"data": {"values": ROWS}})
    made.run_rounds()
    assert made.ended == "stopped"
    assert Checkpoints(tmp_path).names() == ["round-000", "round-001"]


def test_rounds_that_are_added_are_those_that_a_longer_run_would_have_had(tmp_path):
    run(tmp_path / "short", InProcess(), graph=competing(1))
    heir = coordinator(tmp_path / "short", InProcess(), graph=competing(3))
    heir.resume()
    heir.run_rounds()
    run(tmp_path / "long", InProcess(), graph=competing(3))
    assert digests(tmp_path / "short", "round-003") == digests(tmp_path / "long", "round-003")


def test_a_run_that_had_settled_stays_so(tmp_path):
    graph = model(5)
    graph.schedule = type(graph.schedule)(5, graph.schedule.steps, 1e9)
    learn(graph, Checkpoints(tmp_path))
    heir = coordinator(tmp_path, InProcess(), graph=graph)
    heir.resume()
    assert heir.ended == "done"
    settled = Checkpoints(tmp_path).latest()
    assert settled.settled
    assert settled.round < 5


def test_an_update_that_is_committed_is_not_done_again(tmp_path):
    events = []
    first = coordinator(tmp_path, InProcess(), graph=model())
    first.start({"data": {"values": ROWS}})
    first.update("encoder", 1, 0)
    heir = coordinator(tmp_path, InProcess(), graph=model(), emit=lambda name, _fields: events.append(name))
    heir.resume()
    heir.update("encoder", 1, 0)
    assert "update" not in events
    heir.update("mirror", 1, 1)
    assert "update" in events


def test_a_run_without_commits_cannot_be_resumed(tmp_path):
    with pytest.raises(CheckpointError, match="nothing is committed yet"):
        coordinator(tmp_path, InProcess()).resume()
    with pytest.raises(CheckpointError, match="nothing was committed"):
        Coordinator(model(), InProcess()).resume()


def test_a_commit_that_is_damaged_is_told_of_and_its_round_done_again(tmp_path, calm):
    run(tmp_path, InProcess())
    manifest, events = Checkpoints(tmp_path).manifest("round-002"), []
    path = tmp_path / manifest.modules["encoder"].files["state"].path
    path.write_bytes(path.read_bytes()[:-1])
    heir = coordinator(tmp_path, InProcess(), emit=lambda name, fields: events.append((name, dict(fields))))
    heir.resume()
    told = [fields["message"] for name, fields in events if name == "log"]
    assert len(told) == 1
    assert str(path) in told[0]
    assert heir.committed == "round-001"
    heir.run_rounds()
    assert digests(tmp_path) == digests(calm[0])
