"""What the driver does with what it is told: events and commits written down once, interrupts, sentences."""

import json
import os
import shutil
import signal

import pytest

from runner.commands.monitor import Follower, Interrupts, StoppedError, interruptible
from runner.report.progress import Progress
from tests.runner.conftest import toy_run


class Heard(Progress):
    def __init__(self, graph):
        super().__init__(graph)
        self.sentences = []

    def event(self, name, fields):
        if name == "log":
            self.sentences.append(fields["message"])


@pytest.fixture
def directory(tmp_path):
    """A run of three rounds, of which its driver has seen nothing."""
    return toy_run(tmp_path, rounds=3)


@pytest.fixture
def follower(directory):
    return Follower(directory, Heard(directory.graph))


def commit(round, when, whole=True):
    name = f"round-{round:03d}" if whole else f"round-{round:03d}-step-00"
    return ("commit", when, {"round": round, "name": name, "whole": whole, "seconds": 0.1})


def stream(*batches):
    for events in batches:
        yield list(events), {"module_seconds": {}, "ended": ""}


def rounds(directory):
    return [row["round"] for row in directory.metrics()]


def test_a_commit_of_a_whole_round_becomes_a_line_of_figures(directory, follower):
    follower.follow(stream([commit(0, 1.0), commit(1, 2.0)], [commit(2, 3.0, whole=False)], [commit(2, 4.0)]))
    assert rounds(directory) == [1, 2]
    assert (follower.commits, follower.scores.round) == (4, 2)
    told = [json.loads(line)["event"] for line in (directory.path / "events.jsonl").read_text().splitlines()]
    assert told == ["commit", "commit", "scores", "commit", "commit", "scores"]


def test_commits_that_were_missed_are_caught_up_with_and_recorded_once(directory, follower):
    follower.catch_up()
    follower.follow(stream([commit(1, 2.0), commit(2, 3.0), commit(3, 4.0)]))
    assert rounds(directory) == [1, 2, 3]


def test_commits_that_another_driver_has_recorded_are_not_recorded_again(directory, follower):
    follower.catch_up()
    another = Follower(directory, Heard(directory.graph))
    another.follow(stream([commit(2, 3.0), commit(3, 4.0)]))
    assert rounds(directory) == [1, 2, 3]


def test_a_run_that_goes_back_has_its_lines_taken_back(directory, follower):
    follower.catch_up()
    follower.directory.checkpoints._storage.delete(["round-003/manifest.json"])
    follower.follow(stream([("resumed", 5.0, {"round": 2, "step": None, "name": "round-002"})]))
    assert rounds(directory) == [1, 2]
    assert follower.resumed
    assert follower.progress.sentences == ["going on from round-002"]


def test_rounds_whose_events_were_lost_with_the_coordinator_are_caught_up_with(directory, follower):
    resumed = ("resumed", 3.0, {"round": 2, "step": None, "name": "round-002"})
    follower.follow(stream([commit(1, 1.0)], [resumed, commit(3, 4.0)]))
    assert rounds(directory) == [1, 2, 3]
    assert "going on from round-002" in follower.progress.sentences


def test_the_round_in_whose_middle_a_run_is_taken_up_is_recorded_when_it_is_whole(directory, follower):
    directory.record("round-001")
    resumed = ("resumed", 3.0, {"round": 2, "step": 1, "name": "round-002"})
    follower.follow(stream([resumed], [commit(2, 4.0), commit(3, 5.0)]))
    assert rounds(directory) == [1, 2, 3]


def test_a_run_taken_up_within_a_round_counts_that_round_as_open(directory, follower):
    follower.catch_up()
    follower.directory.checkpoints._storage.delete([f"round-00{n}/manifest.json" for n in (2, 3)])
    follower.follow(stream([("resumed", 5.0, {"round": 2, "step": 1, "name": "round-001"})]))
    assert rounds(directory) == [1]


def test_events_that_are_known_already_are_passed_over(directory):
    follower = Follower(directory, Heard(directory.graph), since=2.0)
    follower.follow(stream([commit(1, 1.0), commit(2, 2.0), commit(3, 2.000001)]))
    told = [json.loads(line) for line in (directory.path / "events.jsonl").read_text().splitlines()]
    assert [event["name"] for event in told if event["event"] == "commit"] == ["round-003"]
    assert rounds(directory) == [3]
    assert directory.log.last() == 2.000001


def test_a_commit_that_newer_ones_have_replaced_is_passed_over(directory, follower):
    follower.follow(stream([commit(1, 1.0)]))
    shutil.rmtree(directory.checkpoints.root / "round-002")
    follower.follow(stream([commit(2, 2.0), commit(3, 3.0)]))
    assert rounds(directory) == [1, 3]


@pytest.mark.parametrize(
    ("event", "fields", "said"),
    [
        ("lost", {"module": "gmm", "doing": "learning", "reason": "killed\nlong"}, "gmm died in learning: killed"),
        ("recovered", {"module": "gmm", "seconds": 1.25}, "gmm is back after 1.2 s"),
        ("replay", {"round": 3}, "what round 3 stood on is lost; it begins again from the last commit"),
    ],
)
def test_what_happens_to_processes_is_said(follower, event, fields, said):
    follower.follow(stream([(event, 1.0, fields)]))
    assert follower.progress.sentences == [said]


def test_following_ends_when_it_is_told_to(directory, follower):
    left = stream([commit(1, 1.0)], [commit(2, 2.0)])
    follower.follow(left, until=lambda: follower.commits > 0)
    assert rounds(directory) == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_is_noted_and_the_second_raises(number):
    interrupts, said = Interrupts(), []
    before = signal.getsignal(number)
    with interrupts.caught(said.append):
        os.kill(os.getpid(), number)
        assert interrupts.asked
        assert said == ["stopping after this step (once more: at once)"]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_an_interrupt_while_a_line_is_being_written_is_noted_all_the_same():
    def say(_sentence):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    interrupts = Interrupts()
    with interrupts.caught(say):
        os.kill(os.getpid(), signal.SIGINT)
    assert interrupts.asked


def test_whoever_ends_a_run_at_once_is_told_how_to_go_on(directory):
    with pytest.raises(StoppedError, match=rf"go on with serket resume {directory.path}$"), interruptible(directory):
        raise KeyboardInterrupt


def test_what_modules_learn_at_the_same_time_counts_once(directory, follower):
    def update(module, begun, ended, total):
        place = {"module": module, "round": 1, "step": 0}
        return ("update", begun, place), ("updated", ended, {**place, "total_seconds": total})

    one, other = update("encoder", 10.0, 14.0, 4.0), update("mirror", 10.0, 14.1, 3.0)
    events = sorted([*one, *other, commit(1, 15.0)], key=lambda event: event[1])
    for batch, status in stream(events):
        follower.follow([(batch, {**status, "module_seconds": {"encoder": 4.0, "mirror": 3.0}})])
    assert follower.overhead_share(()) == pytest.approx(1.0 / 5.0)
