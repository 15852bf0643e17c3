"""Tests of the monitor and of interrupts: events and commits are recorded once, and messages are shown."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.events import Committed, LogMessage
from actors.storage.checkpoints import Checkpoints
from runner.commands.interrupts import Interrupts, StoppedError, interruptible
from runner.commands.monitor import RunMonitor
from runner.report.progress import Progress
from runner.runs.event_log import LogPosition
from tests.actors.coordination.test_coordinator import ROWS, model
from tests.runner.conftest import toy_run
from tests.support.events import recorder, timed


class RecordingProgress(Progress):
    """Records the messages for the user."""

    def __init__(self, graph):
        super().__init__(graph)
        self.messages = []

    def event(self, event):
        if isinstance(event, LogMessage):
            self.messages.append(event.message)


@pytest.fixture
def directory(tmp_path):
    """Return the directory of a run of three rounds without recorded events or metrics."""
    return toy_run(tmp_path, rounds=3)


@pytest.fixture
def monitor(directory):
    return RunMonitor(directory, RecordingProgress(directory.graph))


def commit(round, when, whole=True):
    name = f"round-{round:03d}" if whole else f"round-{round:03d}-step-00"
    return timed("commit", when, round=round, name=name, whole=whole, seconds=0.1)


def numbered(timed, number, incarnation):
    return replace(timed, number=number, incarnation=incarnation)


def stream(*batches):
    for events in batches:
        yield list(events), {"module_seconds": {}, "ended": ""}


def rounds(directory):
    return [row["round"] for row in directory.metrics_file.rows()]


def test_the_commit_of_a_complete_round_becomes_a_line_of_metrics(directory, monitor):
    monitor.follow(stream([commit(0, 1.0), commit(1, 2.0)], [commit(2, 3.0, whole=False)], [commit(2, 4.0)]))
    assert rounds(directory) == [1, 2]
    assert (monitor.commits, monitor.scores.round) == (4, 2)
    logged = [json.loads(line)["event"] for line in (directory.path / "events.jsonl").read_text().splitlines()]
    assert logged == ["commit", "commit", "scores", "commit", "commit", "scores"]


def test_missed_commits_are_recorded_once(directory, monitor):
    monitor.catch_up()
    monitor.follow(stream([commit(1, 2.0), commit(2, 3.0), commit(3, 4.0)]))
    assert rounds(directory) == [1, 2, 3]


def test_commits_recorded_by_another_driver_are_not_recorded_again(directory, monitor):
    monitor.catch_up()
    another = RunMonitor(directory, RecordingProgress(directory.graph))
    another.follow(stream([commit(2, 3.0), commit(3, 4.0)]))
    assert rounds(directory) == [1, 2, 3]


def test_lines_after_the_commit_that_a_run_resumes_from_are_removed(directory, monitor):
    monitor.catch_up()
    monitor.directory.checkpoints._storage.delete(["round-003/manifest.json"])
    monitor.follow(stream([timed("resumed", 5.0, round=2, step=None, name="round-002")]))
    assert rounds(directory) == [1, 2]
    assert monitor.resumed
    assert monitor.progress.messages == ["continuing from round-002"]


def test_rounds_whose_events_were_lost_with_the_coordinator_are_recorded(directory, monitor):
    resumed = timed("resumed", 3.0, round=2, step=None, name="round-002")
    monitor.follow(stream([commit(1, 1.0)], [resumed, commit(3, 4.0)]))
    assert rounds(directory) == [1, 2, 3]
    assert "continuing from round-002" in monitor.progress.messages


def test_a_round_that_is_resumed_in_its_middle_is_recorded_when_it_is_complete(directory, monitor):
    directory.record("round-001")
    resumed = timed("resumed", 3.0, round=2, step=1, name="round-002")
    monitor.follow(stream([resumed], [commit(2, 4.0), commit(3, 5.0)]))
    assert rounds(directory) == [1, 2, 3]


def test_the_line_of_a_round_that_is_resumed_in_its_middle_is_removed(directory, monitor):
    monitor.catch_up()
    monitor.directory.checkpoints._storage.delete([f"round-00{n}/manifest.json" for n in (2, 3)])
    monitor.follow(stream([timed("resumed", 5.0, round=2, step=1, name="round-001")]))
    assert rounds(directory) == [1]


@pytest.mark.parametrize("hour", [-3600.0, 0.0, 3600.0])
def test_a_further_driver_continues_by_number_whatever_the_coordinators_clock_says(directory, hour):
    events = [numbered(commit(round, 5000.0 + (round > 1) * hour), round, "first") for round in (1, 2, 3)]
    RunMonitor(directory, RecordingProgress(directory.graph)).follow(stream(events[:2]))
    position = directory.log.position()
    assert position.numbers == {"first": 2}
    further = RunMonitor(directory, RecordingProgress(directory.graph), since=position)
    further.follow(stream(events, [numbered(commit(3, 1.0), 0, "second")]))
    logged = [json.loads(line) for line in (directory.path / "events.jsonl").read_text().splitlines()]
    places = [(event["incarnation"], event["number"]) for event in logged if event["event"] == "commit"]
    assert places == [("first", 1), ("first", 2), ("first", 3), ("second", 0)]
    assert rounds(directory) == [1, 2, 3]
    assert further.scores.round == 3


def test_events_that_the_coordinator_has_saved_come_before_its_later_ones(directory, monitor):
    saved = [("commit", 1.0, commit(round, 1.0).event.fields(), round, "first") for round in (0, 1)]
    directory.checkpoints.status_files.append_events(saved)
    monitor.follow(stream([numbered(commit(2, 2.0), 2, "first"), numbered(commit(3, 3.0), 3, "first")]))
    assert [each.number for each in directory.log if each.incarnation] == [0, 1, 2, 3]
    assert directory.checkpoints.status_files.read_events() == []
    assert rounds(directory) == [1, 2, 3]


def test_the_newest_commit_has_the_last_word_on_the_result(directory, monitor):
    monitor.follow(stream([commit(1, 1.0)]))
    assert monitor.scores.round == 1
    monitor.settle()
    assert monitor.scores == directory.scores("round-003")
    assert rounds(directory) == [1, 2, 3]


def test_a_line_without_a_number_is_read(directory):
    (directory.path / "events.jsonl").write_text(
        '{"time": 1.5, "run": "toy", "event": "round", "round": 1}\n'
        '{"time": 2.5, "run": "toy", "event": "round", "round": 2, "number": true, "incarnation": "a"}\n'
        '{"time": 3.5, "run": "toy", "event": "round", "round": 3, "number": 4, "incarnation": 5}\n'
    )
    assert [(each.number, each.incarnation) for each in directory.log] == [(-1, "")] * 3
    assert directory.log.position() == LogPosition({}, 3.5)


def test_a_commit_that_was_pruned_before_its_event_was_read_gets_its_line_from_the_event(directory, monitor):
    monitor.follow(stream([commit(1, 1.0)]))
    shutil.rmtree(directory.checkpoints.root / "round-002")
    pruned = timed("commit", 2.0, round=2, name="round-002", whole=True, seconds=0.1, score=-3.5, evidence=-4.25)
    monitor.follow(stream([pruned, commit(3, 3.0)]))
    assert rounds(directory) == [1, 2, 3]
    assert directory.metrics_file.rows()[1] == {
        **{"round": 2, "evidence": -4.25, "score": -3.5},
        **{"accuracy": None, "ari": None, "nmi": None},  # the outputs are gone
    }


def test_the_event_of_a_commit_has_the_evidence_and_the_score_of_its_line_of_metrics(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    graph, events = model(rounds=3), []
    coordinator = Coordinator(graph, InProcessBackend(), checkpoints=checkpoints, emit=recorder(events))
    coordinator.start({"data": {"values": ROWS}})
    coordinator.run_rounds()
    assert checkpoints.names() == ["round-003"]
    (last,) = [fields for name, fields in events if name == "commit" and fields["round"] == 3]
    manifest = checkpoints.latest()
    reported = [record.metrics["evidence"] for record in manifest.modules.values() if "evidence" in record.metrics]
    assert (last["score"], last["evidence"]) == (manifest.score, reported[-1])
    assert isinstance(last["evidence"], float)


def test_events_of_earlier_versions_have_no_evidence():
    assert Committed.of({"round": 1, "name": "round-001", "whole": True, "seconds": 0.5}).evidence is None


def test_a_run_that_resumes_from_a_commit_which_was_pruned_since_is_followed(directory, monitor):
    shutil.rmtree(directory.checkpoints.root / "round-001")
    shutil.rmtree(directory.checkpoints.root / "round-002")
    monitor.follow(stream([timed("resumed", 1.0, round=1, step=None, name="round-001"), commit(3, 2.0)]))
    assert rounds(directory) == [3]
    assert monitor.scores == directory.scores("round-003")


@pytest.mark.parametrize(
    ("event", "fields", "message"),
    [
        (
            "lost",
            {"module": "gmm", "doing": "learning", "times": 1, "reason": "killed\nlong"},
            "gmm died during learning: killed",
        ),
        ("recovered", {"module": "gmm", "seconds": 1.25}, "gmm recovered after 1.2 s"),
        (
            "replay",
            {"round": 3, "reason": "gone"},
            "objects that round 3 needs were lost; it is repeated from the last commit",
        ),
    ],
)
def test_deaths_recoveries_and_replays_are_shown(monitor, event, fields, message):
    monitor.follow(stream([timed(event, 1.0, **fields)]))
    assert monitor.progress.messages == [message]


def test_following_ends_when_the_condition_is_true(directory, monitor):
    batches = stream([commit(1, 1.0)], [commit(2, 2.0)])
    monitor.follow(batches, until=lambda: monitor.commits > 0)
    assert rounds(directory) == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_interrupt_is_recorded_and_the_second_raises_keyboard_interrupt(number):
    interrupts, messages = Interrupts(), []
    before = signal.getsignal(number)
    with interrupts.catch_signals(messages.append):
        os.kill(os.getpid(), number)
        assert interrupts.requested
        assert messages == ["stopping after this step; once more stops at once"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_end_a_step_that_takes_too_long(number, monkeypatch):
    monkeypatch.setattr("runner.commands.interrupts.STOP_GRACE_SECONDS", 0.2)
    interrupts = Interrupts()
    with interrupts.catch_signals(lambda _message: None):
        os.kill(os.getpid(), number)
        assert interrupts.requested
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)


def test_an_interrupt_during_a_write_to_the_stream_is_recorded():
    def write(_message):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    interrupts = Interrupts()
    with interrupts.catch_signals(write):
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupts.requested


def test_an_interrupt_of_a_run_says_how_to_continue_it(directory):
    with pytest.raises(StoppedError, match=rf"continue with serket resume {directory.path}$"), interruptible(directory):
        raise KeyboardInterrupt


def update(module, started, ended, seconds, waited=0.0, round=1):
    place = {"module": module, "round": round, "step": 0}
    return [timed("update", started, **place), timed("updated", ended, seconds=seconds, waited_seconds=waited, **place)]


def chain(number, ended, seconds, waited=0.0):
    place = {"round": 1, "step": 0, "origin": "afresh", "evidence": 0.0}
    return timed("chain", ended, chain=number, seconds=seconds, waited_seconds=waited, **place)


def overhead(monitor, *events):
    monitor.follow(stream(sorted(events, key=lambda event: event.time)))
    return monitor.overhead_share()


def test_the_overhead_is_the_time_without_a_computing_module_from_the_first_update_to_the_end_of_the_last(monitor):
    # Computed from 11 to 14 and from 16 to 19; neither round 0 nor what follows the last update counts.
    updates = [*update("data", 1.0, 5.0, 4.0, round=0), *update("encoder", 10.0, 14.0, 3.0)]
    assert overhead(monitor, *updates, *update("mirror", 15.0, 19.0, 3.0), commit(1, 25.0)) == pytest.approx(3 / 9)


def test_updates_in_parallel_are_counted_once_in_the_overhead(monitor):
    # From 10.5 to 14, and from 10.6 to 12.6: its answer was taken after the other's.
    one, other = update("encoder", 10.0, 14.2, 3.5, waited=0.2), update("mirror", 10.0, 14.3, 2.0, waited=1.7)
    assert overhead(monitor, *one, *other) == pytest.approx(0.5 / 4.0)


def test_an_update_that_ended_while_another_had_not_begun_is_counted_where_it_was(monitor):
    # From 10 to 11 and from 13 to 14. Both answers were taken at the end, the first one after three seconds.
    one, other = update("encoder", 10.0, 14.0, 1.0, waited=3.0), update("mirror", 10.0, 14.0, 1.0)
    assert overhead(monitor, *one, *other) == pytest.approx(0.5)


def test_chains_in_parallel_leave_an_overhead_that_is_not_negative(monitor):
    # The modules compute from 10 to 11 and from 12 to 13; chains from 10.5 to 12.5, from 11 to 13 and from 13.5 to 14.
    updates = [*update("encoder", 10.0, 11.0, 1.0), *update("mirror", 11.0, 13.0, 1.0)]
    chains = [chain(1, 13.0, 2.0, waited=0.5), chain(2, 13.0, 2.0), chain(3, 14.0, 0.5)]
    assert overhead(monitor, *updates, *chains) == pytest.approx(0.5 / 4.0)


def test_a_proposal_counts_as_computing(monitor):
    asked = timed("proposed", 13.0, round=1, step=0, module="encoder", seconds=1.0, waited_seconds=1.0)
    updates = [*update("encoder", 10.0, 11.0, 1.0), *update("encoder", 13.0, 14.0, 1.0)]
    assert overhead(monitor, *updates, asked) == pytest.approx(1.0 / 4.0)


def test_no_more_seconds_count_than_have_passed(monitor):
    # Clocks that disagree: more seconds inside of the module than since it was called.
    assert overhead(monitor, *update("encoder", 10.0, 11.0, 50.0), chain(1, 11.0, 70.0)) == 0.0


def test_events_of_an_older_run_place_the_seconds_at_the_end_of_each_update(monitor):
    place = {"module": "encoder", "round": 1, "step": 0}
    events = [timed("update", 10.0, **place), timed("updated", 14.0, seconds=3.0, **place)]
    assert overhead(monitor, *events) == pytest.approx(0.25)


def test_the_overhead_of_a_run_without_updates_is_not_known(monitor):
    assert overhead(monitor, commit(0, 1.0)) is None


@pytest.mark.parametrize("hour", [-3600.0, 3600.0])
def test_the_overhead_does_not_depend_on_a_clock_that_is_set_during_a_round(monitor, hour):
    events = [*update("encoder", 10.0, 14.0, 4.0), *update("encoder", 14.5, 15.0, 0.5)]
    shifted = [replace(each, time=each.time + (each.time > 12) * hour, elapsed=each.time) for each in events]
    monitor.follow([(shifted, {"module_seconds": {"encoder": 4.5}, "ended": ""})])
    assert monitor.overhead_share() == pytest.approx(0.5 / 5.0)


def test_the_first_output_is_the_first_progress_of_a_module_or_else_its_first_update(directory, monitor):
    def follow(*events, doing=None):
        monitor.follow([(events, {"module_seconds": {}, "active": {"encoder": doing or {}}, "ended": ""})])
        return monitor.first_output

    assert follow(timed("updated", 1.0, module="data", round=0, step=0, seconds=0.0)) is None  # a source
    assert follow(timed("update", 2.0, module="encoder", round=1, step=0), doing={"done": 0, "total": 5}) is None
    before = time.time()
    first = follow(doing={"done": 1, "total": 5})
    assert before <= first <= time.time()
    assert not monitor.learnt
    assert follow(timed("updated", 3.0, module="encoder", round=1, step=0, seconds=1.0)) == first
    assert monitor.learnt
