"""What of a config may change between the parts of a run, and how a run's figures are kept across them."""

import os
import signal
import subprocess
import sys

import pytest

from actors.checkpoint import Checkpoints
from runner.follow import Follower, Interrupts
from runner.progress import Progress
from runner.resume import differences
from runner.rundir import RunDirectory, RunDirectoryError
from tests.actors.test_coordinator import learn, model

CONFIG = {
    "seed": 0,
    "modules": {"vae": {"epochs": 50, "hidden": [128]}, "gmm": {"classes": 10}},
    "schedule": {"rounds": 4, "steps": ["vae"]},
    "recovery": {"tries": 3},
    "checkpoints": {"storage": None, "keep": None},
}


def changed(**sections):
    return {**CONFIG, **{name: {**CONFIG[name], **keys} for name, keys in sections.items()}}


class TestDifferences:
    """What makes a config another one."""

    def test_none(self):
        assert differences(CONFIG, CONFIG) == []

    def test_more_rounds_other_patience_and_fewer_commits_are_welcome(self):
        now = changed(schedule={"rounds": 9}, recovery={"tries": 7, "wait": 1.0}, checkpoints={"keep": 2})
        assert differences(CONFIG, now) == []

    @pytest.mark.parametrize(
        ("now", "said"),
        [
            ({**CONFIG, "seed": 1}, "seed: 0 in the run, 1 now"),
            (changed(modules={"vae": {"epochs": 3, "hidden": [128]}}), "modules.vae.epochs: 50 in the run, 3 now"),
            (changed(modules={"mm": {}}), "modules.mm: null in the run, {} now"),
            (changed(schedule={"steps": ["gmm"]}), 'schedule.steps: ["vae"] in the run, ["gmm"] now'),
            (changed(checkpoints={"storage": "s3://b"}), 'checkpoints.storage: null in the run, "s3://b" now'),
        ],
    )
    def test_named_with_both_values(self, now, said):
        assert differences(CONFIG, now) == [said]


@pytest.fixture
def directory(tmp_path):
    """The directory of a run of three rounds, of which nobody has written anything down."""
    made = RunDirectory.create(tmp_path, "run", model())
    learn(model(rounds=3), Checkpoints(made.checkpoints.root))
    return made


def rounds(directory):
    return [row["round"] for row in directory.metrics()]


class TestFigures:
    """metrics.csv, whatever was interrupted."""

    def test_the_commits_that_nobody_recorded_are_known(self, directory):
        assert directory.unrecorded() == ["round-001", "round-002", "round-003"]
        directory.record("round-001")
        assert directory.unrecorded() == ["round-002", "round-003"]

    def test_what_comes_after_the_commit_that_a_run_goes_back_to_is_taken_out(self, directory):
        for name in ("round-001", "round-002", "round-003"):
            directory.record(name)
        whole = (directory.path / "metrics.csv").read_bytes()
        directory.rewind(1)
        assert rounds(directory) == [1.0]
        directory.record("round-002")
        directory.record("round-003")
        assert (directory.path / "metrics.csv").read_bytes() == whole

    @pytest.mark.parametrize("torn", [b"3", b"3,1.5,", b"3,1.5,2,,", b"\x00\xff,,"])
    def test_a_line_that_a_power_cut_has_torn_is_taken_out(self, directory, torn):
        directory.record("round-001")
        whole = (directory.path / "metrics.csv").read_bytes()
        with (directory.path / "metrics.csv").open("ab") as file:
            file.write(torn)
        directory.rewind(9)
        assert (directory.path / "metrics.csv").read_bytes() == whole


def status(round):
    return {"round": round, "active": {}, "module_seconds": {"encoder": 1.0}, "ended": ""}


def commit(round, whole=True):
    return "commit", float(round), {"round": round, "name": f"round-{round:03d}", "whole": whole, "seconds": 0.0}


class Spoken(Progress):
    """Keeps what is said."""

    def __init__(self, graph):
        super().__init__(graph)
        self.said = []

    def event(self, name, fields):
        if name == "log":
            self.said.append(fields["message"])


class TestFollower:
    """What is made of a coordinator's events."""

    @pytest.fixture
    def follower(self, directory):
        return Follower(directory, Spoken(directory.graph))

    def test_every_whole_round_is_recorded_once(self, follower):
        follower.follow(iter([([commit(0), commit(1)], status(1)), ([commit(2, whole=False), commit(2)], status(2))]))
        assert rounds(follower.directory) == [1.0, 2.0]
        assert follower.scores.round == 2

    def test_rounds_whose_events_were_lost_with_the_coordinator_are_caught_up_with(self, follower):
        resumed = ("resumed", 3.0, {"round": 2, "step": None, "name": "round-002"})
        follower.follow(iter([([commit(1)], status(1)), ([resumed, commit(3)], status(3))]))
        assert rounds(follower.directory) == [1.0, 2.0, 3.0]
        assert "going on from round-002" in follower.progress.said

    def test_the_round_in_whose_middle_a_run_is_taken_up_is_recorded_when_it_is_whole(self, follower):
        follower.directory.record("round-001")
        resumed = ("resumed", 3.0, {"round": 2, "step": 1, "name": "round-002"})
        follower.follow(iter([([resumed], status(2)), ([commit(2), commit(3)], status(3))]))
        assert rounds(follower.directory) == [1.0, 2.0, 3.0]

    def test_deaths_are_told_in_a_sentence(self, follower):
        lost = ("lost", 1.0, {"module": "gmm", "doing": "update (round 1, step 0)", "reason": "its process\nmore"})
        follower.follow(iter([([lost, ("recovered", 2.0, {"module": "gmm", "seconds": 1.25})], status(1))]))
        assert follower.progress.said == [
            "gmm died in update (round 1, step 0): its process",
            "gmm is back after 1.2 s",
        ]

    def test_what_was_seen_before_is_not_taken_in_again(self, directory):
        follower = Follower(directory, Progress(directory.graph), since=1.0)
        follower.follow(iter([([commit(1), commit(2)], status(2))]))
        assert rounds(directory) == [2.0]


class TestInterrupts:
    """Ctrl-C, once and twice."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_is_noted_and_the_second_raises(self, number):
        interrupts, said = Interrupts(), []
        before = signal.getsignal(number)
        with interrupts.caught(said.append):
            os.kill(os.getpid(), number)
            assert interrupts.asked
            assert said == ["stopping after this step (once more: at once)"]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) is before


HOLD = """
import sys
from pathlib import Path
from runner.rundir import RunDirectory
with RunDirectory(Path(sys.argv[1]), None).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_directory_that_another_process_writes_into_is_not_touched_until_that_one_is_dead(directory):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, directory.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(RunDirectoryError, match="another process drives this run"), directory.lock():
        pass
    other.kill()
    other.communicate()
    with directory.lock():
        pass
