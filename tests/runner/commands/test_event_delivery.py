"""Every event of a detached run stands once in its log, whoever dies, leaves or ends the run at any point; without Ray.

The coordinator's actor is the real one in this process; the calls that reach it, and the writes of a driver, can fail.
"""

import json
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from actors.backends.in_process import InProcessBackend
from actors.backends.ray.coordinator_actor import CoordinatorActor
from actors.coordination.events import Committed, LogMessage
from actors.coordination.session import RunSpec, Session
from actors.storage.filesystem import LocalStorage
from runner.commands.attach import attach
from runner.commands.driver import launch
from runner.commands.monitor import RunMonitor
from runner.commands.stop import stop
from runner.config.run_config import load_config
from runner.data.sources import source_states
from runner.report.progress import Progress
from runner.runs import coordinator_client
from runner.runs.coordinator_client import CoordinatorClient
from runner.runs.directory import open_run
from runner.runs.state import RunRecord, read_record, write_record
from runner.runs.timing import Clock
from tests.runner.commands.test_resume import MODEL


class KilledError(BaseException):
    """The driver was killed: nothing that it does from now on has an effect."""


class Actor:
    """The actor of a coordinator, a driver's handle of it, and the points at which either can be ended.

    Parameters
    ----------
    path : Path
        The run's directory.
    batch : int
        The most events that one poll returns.
    """

    def __init__(self, path, batch=4):
        self.config = load_config(path / "config.yaml")
        self.path, self.batch = path, batch
        self.alive = self.driven = True
        self.points = self.polls_before_end = 0
        self.kill_driver_at = self.end_at = None
        self.emitted, self.incarnations, self.committed = [], [], {}
        self.start()

    def start(self):
        """Start the process, which resumes a run that has commits."""
        root = str(self.path / "checkpoints")
        spec = RunSpec(self.config.graph, "toy", self.config.seed, root, detached=True)
        self.actor = object.__new__(CoordinatorActor)
        self.actor._backend = InProcessBackend()
        self.actor._node_id, self.actor._linger = "node", 0.0
        self.session = Session(spec, self.actor._backend, spec.checkpoints(), lambda event: self.observe(event))
        self.actor._session = self.session
        self.incarnations.append(self.session.incarnation)
        self.alive = True

    def observe(self, event):
        number = self.session._next_number
        if isinstance(event, Committed) and self.session._reserved is not None:
            number = self.session._reserved
        self.emitted.append((self.session.incarnation, number))
        if isinstance(event, Committed):
            self.committed.setdefault(self.session.incarnation, []).append(number)

    def run(self):
        """Run all rounds; the events wait for a driver."""
        self.session.begin(source_states(self.config.graph, self.config.load_data()))
        self.wait()

    def wait(self):
        while not self.session.poll(0, "", 10.0)[2]["ended"]:
            pass

    def end_when_idle(self):
        """End the actor as it ends itself after nobody has polled it for a while."""
        self.session._last_poll = -1e9
        self.actor._end_when_idle()
        self.alive = False

    def point(self):
        """Pass a point at which the driver or the coordinator may end."""
        if not self.driven:
            raise KilledError
        self.points += 1
        if self.points == self.kill_driver_at:
            self.driven = False
            raise KilledError
        if self.points == self.end_at and self.alive:
            self.end_when_idle()

    def __getattr__(self, name):
        return SimpleNamespace(remote=lambda *arguments: lambda: self.call(name, *arguments))

    def call(self, name, *arguments):
        self.point()
        if not self.alive:
            raise ActorDiedError
        answer = getattr(self.actor, name)(*arguments)
        if name == "poll" and self.polls_before_end:
            self.polls_before_end -= 1
            return answer[0], answer[1], {**answer[2], "ended": ""}
        if name == "poll" and len(answer[1]) > self.batch:
            return answer[0], answer[1][: self.batch], {**answer[2], "ended": ""}
        return answer


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "toy"
    path.mkdir()
    (path / "config.yaml").write_text(MODEL)
    return path


@pytest.fixture
def actor(path, monkeypatch):
    """The actor of a run whose commands connect to it."""
    return connected(path, monkeypatch)


def connected(path, monkeypatch):
    one = Actor(path)

    @contextmanager
    def connect(_directory, **_more):
        one.point()
        yield CoordinatorClient(one, wait=1.0) if one.alive else None

    append, delete = LocalStorage.append, LocalStorage.delete

    def killed_append(files, name, data):
        one.point()
        if one.points + 1 == one.kill_driver_at:  # in the middle of the write
            append(files, name, data[: len(data) // 2 + 7])
        one.point()
        append(files, name, data)
        one.point()

    def killed_delete(files, paths):
        one.point()
        delete(files, paths)

    def get(reference, timeout=None):
        return reference() if callable(reference) else reference

    fake_ray = SimpleNamespace(get=get, kill=lambda _actor: setattr(one, "alive", False))
    context = SimpleNamespace(current_actor=None)
    monkeypatch.setattr(
        "actors.backends.ray.coordinator_actor.ray",
        SimpleNamespace(kill=lambda _actor: None, get_runtime_context=lambda: context),
    )
    monkeypatch.setattr(coordinator_client, "ray", fake_ray)
    monkeypatch.setattr(coordinator_client, "kill_process", lambda *_place: None)
    monkeypatch.setattr("runner.commands.attach.connect_to_run", connect)
    monkeypatch.setattr("runner.runs.connect.connect_to_run", connect)
    monkeypatch.setattr("runner.commands.stop.read_record", lambda _path: RunRecord("here", detached=True))
    monkeypatch.setattr("runner.commands.attach.watched", lambda *_given, **_more: nullcontext())
    monkeypatch.setattr("runner.runs.artifacts.draw_plots", lambda _directory: None)
    monkeypatch.setattr(LocalStorage, "append", killed_append)
    monkeypatch.setattr(LocalStorage, "delete", killed_delete)
    return one


def attach_to(path):
    opened = open_run(path)
    return attach(opened, clock=Clock(time.time()), progress=Progress(opened.directory.graph))


def logged(path):
    """Return the incarnation and the number of each event of a coordinator in the log."""
    records = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return [(each["incarnation"], each["number"]) for each in records if "incarnation" in each]


def emitted(actor):
    """Return the incarnation and the number of each event that the coordinators have emitted."""
    return sorted(actor.emitted, key=lambda each: (actor.incarnations.index(each[0]), each[1]))


def commits(path):
    records = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return [each["name"] for each in records if each["event"] == "commit"]


ALL_COMMITS = [f"round-{number:03d}" for number in range(4)]


def test_a_driver_that_attaches_logs_every_event(path, actor):
    actor.run()
    attach_to(path)
    assert logged(path) == emitted(actor)
    assert commits(path) == ALL_COMMITS
    assert not list((path / "checkpoints").glob("unread_events/*"))


def every_point(tmp_path, monkeypatch, step, check):
    """Call `check` with an actor and the number of a point, for each `step`-th point that a driver passes."""
    number, points = 1, 2
    while number < points:
        with monkeypatch.context() as patch:
            path = tmp_path / str(number) / "toy"
            path.mkdir(parents=True)
            (path / "config.yaml").write_text(MODEL)
            actor = connected(path, patch)
            actor.run()
            check(path, actor, number)
            points, number = max(points, actor.points), number + step
            assert logged(path) == emitted(actor), number
            assert commits(path) == ALL_COMMITS
    assert points > 20


STEPS = [5, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("step", STEPS)
def test_a_coordinator_that_ends_itself_at_any_point_while_a_driver_attaches_loses_no_event(
    tmp_path, monkeypatch, step
):
    def end_coordinator(path, actor, number):
        actor.end_at = number
        assert attach_to(path)[1]["rounds"] == 3

    every_point(tmp_path, monkeypatch, step, end_coordinator)


@pytest.mark.parametrize("step", STEPS)
def test_a_driver_that_is_killed_at_any_point_leaves_every_event_to_the_next_one(tmp_path, monkeypatch, step):
    def kill_driver(path, actor, number):
        actor.kill_driver_at = number
        with suppress(KilledError):
            attach_to(path)
        actor.kill_driver_at, actor.driven = None, True
        attach_to(path)

    every_point(tmp_path, monkeypatch, step, kill_driver)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("driver", ["absent", "following"])
def test_a_coordinator_that_is_killed_at_any_event_loses_none_up_to_the_commit_that_the_run_resumes_from(
    tmp_path, monkeypatch, step, driver
):
    at, ended = 0, False
    while not ended:
        with monkeypatch.context() as patch:
            path = tmp_path / str(at) / "toy"
            path.mkdir(parents=True)
            (path / "config.yaml").write_text(MODEL)
            actor = connected(path, patch)
            batches, ended = killed_and_restarted(path, actor, patch, at)
            if driver == "following":
                directory = open_run(path).directory
                with directory.lock():
                    RunMonitor(directory, Progress(directory.graph)).follow(batches)
            attach_to(path)
            numbers = logged(path)
            assert len(set(numbers)) == len(numbers), at
            assert commits(path) == ALL_COMMITS, at
            assert set(emitted(actor)) - set(numbers) <= lost_with_the_round(actor), at
            at += step


def killed_and_restarted(path, actor, patch, at):
    """Run until a coordinator is killed before its event number `at` leaves it, then let another one continue.

    Returns
    -------
    batches : iterator
        What a driver receives that has polled the first coordinator once, half-way, and then the second one.
    ended : bool
        Whether the run has ended before so many events.
    """
    received, observe = [], actor.observe

    def die(event):
        observe(event)
        if len(actor.emitted) == at // 2:
            received.append(actor.session.poll(0, "")[1:])
        if len(actor.emitted) == at:
            raise KilledError

    patch.setattr(actor, "observe", die)
    actor.start()
    actor.incarnations.pop(0)
    actor.run()
    ended = len(actor.emitted) < at or at == 0
    patch.setattr(actor, "observe", observe)
    actor.start()
    actor.session.resume_if_committed()
    actor.wait()
    if actor.session.ended == "idle":  # nothing was committed
        actor.run()
    return iter([*received, actor.session.poll(0, "")[1:]]), ended and at > 0


def test_more_events_than_fit_into_a_manifest_are_written_beside_the_commits_before_it(path, actor, monkeypatch):
    monkeypatch.setattr("actors.coordination.session.MAX_COMMIT_EVENT_BYTES", 300)
    actor.run()
    stored = open_run(path).directory.checkpoints.latest().events
    assert [event[0] for event in stored] == ["commit"]
    actor.alive = False  # killed after its last commit
    attach_to(path)
    assert logged(path) == emitted(actor)
    assert commits(path) == ALL_COMMITS
    assert not list((path / "checkpoints").glob("unread_events/*"))


def lost_with_the_round(actor):
    """Return the events of the first coordinator after its last commit: what they tell of is done again."""
    first = actor.incarnations[0]
    numbers = [number for incarnation, number in actor.emitted if incarnation == first]
    last = max(actor.committed.get(first, [-1]))
    return {(first, number) for number in numbers if number > last}


def test_a_driver_that_arrives_while_its_coordinator_ends_itself_gets_the_result_from_the_commits(path, actor):
    actor.run()
    actor.session._last_poll = -1e9
    assert actor.session.close_if_idle(1.0)  # its modules are about to be ended
    _, result = attach_to(path)
    assert result["rounds"] == 3
    assert logged(path) == emitted(actor)


def test_the_command_that_stops_a_run_does_not_make_the_coordinator_drop_events(path, actor, monkeypatch):
    monkeypatch.setattr("actors.coordination.session.MAX_KEPT_EVENTS", 3)
    actor.batch, actor.polls_before_end = 1000, 2
    actor.run()
    stop(open_run(path), now=False, log=lambda _sentence: None)
    assert logged(path) == emitted(actor)
    assert commits(path) == ALL_COMMITS


def test_a_run_is_stopped_while_a_driver_that_has_not_written_the_events_holds_the_lock(path, actor, monkeypatch):
    monkeypatch.setattr("actors.coordination.session.MAX_KEPT_EVENTS", 3)
    actor.batch, actor.polls_before_end = 1000, 2
    actor.run()
    with open_run(path).directory.lock():
        stop(open_run(path), now=False, log=lambda _sentence: None)
    open_run(path).directory.import_saved_events()
    assert logged(path) == emitted(actor)


def test_saved_events_are_not_joined_to_the_line_that_a_killed_driver_left_incomplete(path, actor):
    actor.run()
    actor.session.save_events()
    (path / "events.jsonl").write_text('{"time": 2.0, "ev')
    open_run(path).directory.import_saved_events()
    assert logged(path) == emitted(actor)


def test_the_events_of_a_coordinator_do_not_replace_those_that_another_one_has_saved(path, actor):
    actor.run()
    actor.session.save_events()  # then the node dies, and Ray starts the actor on another one
    actor.start()
    actor.session.resume_if_committed()
    actor.wait()
    actor.session.save_events()
    open_run(path).directory.import_saved_events()
    assert logged(path) == emitted(actor)


def test_events_that_are_saved_twice_are_imported_once(path, actor, monkeypatch):
    monkeypatch.setattr("actors.coordination.session.MAX_UNREAD_EVENTS", 10)
    session, files = actor.session, actor.session._checkpoints.status_files
    append = files.append_events

    def saving_at_the_same_time(events):
        append(events)
        append(events)  # another thread, before these were dropped

    monkeypatch.setattr(files, "append_events", saving_at_the_same_time)
    for number in range(25):
        session.emit(LogMessage(str(number)))
    session.save_events()
    open_run(path).directory.import_saved_events()
    assert logged(path) == emitted(actor)


def test_a_driver_that_is_interrupted_before_the_coordinator_has_answered_leaves(path, actor, monkeypatch):
    monkeypatch.setattr("runner.commands.attach.Interrupts", lambda: SimpleNamespace(
        requested=True, catch_signals=lambda _log: nullcontext()
    ))  # fmt: skip
    monkeypatch.setattr(CoordinatorClient, "follow", lambda _client, **_more: iter([([], {})]))
    assert attach_to(path)[1] is None


def test_a_run_is_recorded_before_its_coordinator_starts_so_that_commands_find_it_if_the_driver_dies(
    path, tmp_path, monkeypatch
):
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path / "state"))
    found = []

    def killed(spec, **_more):
        found.append((read_record(path), spec.secret))
        raise KilledError

    monkeypatch.setattr(CoordinatorClient, "launch", killed)
    config, directory = open_run(path)
    with pytest.raises(KilledError), ExitStack() as stack:
        launch(stack, config, directory, "127.0.0.1:1", own=False, detached=True)
    ((record, secret),) = found
    assert (record.address, record.detached, record.secret) == ("127.0.0.1:1", True, secret)
    assert read_record(path) is None, "a coordinator that could not be started leaves no record"


@pytest.mark.parametrize("resumed", [True, False])
def test_stopping_a_run_does_not_remove_the_record_of_one_that_was_resumed_meanwhile(
    path, actor, tmp_path, monkeypatch, resumed
):
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("runner.commands.stop.read_record", read_record)
    old, new = (RunRecord("127.0.0.1:1", detached=True, secret=secret) for secret in ("old", "new"))
    write_record(path, old)
    if resumed:
        monkeypatch.setattr(coordinator_client.ray, "kill", lambda _actor: write_record(path, new))
    actor.batch = 1000
    actor.run()
    stop(open_run(path), now=False, log=lambda _sentence: None)
    assert read_record(path) == (new if resumed else None)
