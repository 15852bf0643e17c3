"""What a run may be resumed with, who may drive it, and what a killed driver leaves for mending; without Ray."""

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.storage.checkpoints import Checkpoints
from runner.cli.inspect import inspect_run
from runner.cluster.connection import ClusterError
from runner.commands.attach import attach, stop
from runner.commands.monitor import Follower
from runner.commands.resume import differences, resume
from runner.config.run_config import load_config
from runner.data.sources import source_states
from runner.report.progress import Progress
from runner.runs.directory import RunDirectoryError, find_run, open_run
from runner.runs.timing import Clock
from tests.runner.conftest import toy_run

MODEL = """
name: toy
data: {source: cycle}
modules:
  encoder: {type: "tests.support.toy_modules:Encoder"}
  mirror: {type: "tests.support.toy_modules:Mirror"}
connections: [data -> encoder, encoder -> mirror]
schedule: {rounds: 3}
"""


@pytest.fixture
def run(tmp_path):
    """The directory of a run whose driver was killed after its first round."""
    path = tmp_path / "toy"
    path.mkdir()
    (path / "config.yaml").write_text(MODEL)
    config = load_config(path / "config.yaml", ["schedule.rounds=1"])
    coordinator = Coordinator(
        config.graph(),
        InProcess(),
        run="toy",
        seed=config.seed,
        checkpoints=Checkpoints(path / "checkpoints"),
        config=load_config(path / "config.yaml").model_dump(mode="json"),
    )
    coordinator.start(source_states(config.graph(), config.load_data()))
    coordinator.run_rounds()
    return path


def progress(path):
    return Progress(open_run(path)[1].graph)


def taken_up(path, *settings):
    return resume(path, settings=settings, clock=Clock(time.time()), progress=progress(path), address=None)


def test_differences_name_the_key_and_both_values():
    before = {"seed": 0, "data": {"count": 3, "order": "given"}, "schedule": {"rounds": 3, "steps": ["a"]}}
    now = {"seed": 0, "data": {"count": 4, "order": "given"}, "schedule": {"rounds": 3, "steps": ["a", "b"]}}
    assert differences(before, now) == [
        "data.count: 3 in the run, 4 now",
        'schedule.steps: ["a"] in the run, ["a", "b"] now',
    ]


CONFIG = {
    "seed": 0,
    "modules": {"vae": {"epochs": 50, "hidden": [128]}, "gmm": {"classes": 10}},
    "schedule": {"rounds": 4, "steps": ["vae"]},
    "recovery": {"tries": 3},
    "checkpoints": {"storage": None, "keep": None},
}


def changed(**sections):
    return {**CONFIG, **{name: {**CONFIG[name], **keys} for name, keys in sections.items()}}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (CONFIG, []),
        (changed(schedule={"rounds": 9}, recovery={"tries": 7, "wait": 1.0}, checkpoints={"keep": 2}), []),
        ({**CONFIG, "seed": 1}, ["seed: 0 in the run, 1 now"]),
        (changed(modules={"vae": {"epochs": 3, "hidden": [128]}}), ["modules.vae.epochs: 50 in the run, 3 now"]),
        (changed(modules={"mm": {}}), ["modules.mm: null in the run, {} now"]),
        (changed(schedule={"steps": ["gmm"]}), ['schedule.steps: ["vae"] in the run, ["gmm"] now']),
        (changed(checkpoints={"storage": "s3://b"}), ['checkpoints.storage: null in the run, "s3://b" now']),
    ],
)
def test_a_difference_is_one_of_the_keys_that_are_not_free(now, said):
    assert differences(CONFIG, now) == said


def test_keys_that_came_or_went_are_differences():
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 in the run, null now", "b: null in the run, 2 now"]


def test_rounds_recovery_and_how_many_commits_stay_are_free():
    before = {"schedule": {"rounds": 3}, "recovery": {"tries": 3}, "checkpoints": {"keep": None, "storage": None}}
    now = {"schedule": {"rounds": 9}, "recovery": {"tries": 1}, "checkpoints": {"keep": 2, "storage": None}}
    assert differences(before, now) == []
    assert differences(before, {**now, "checkpoints": {"keep": 2, "storage": "/else"}})


def test_another_config_is_refused_with_every_difference(run):
    with pytest.raises(RunDirectoryError) as refused:
        taken_up(run, "seed=5", "modules.encoder.dim=7", "schedule.rounds=9")
    assert str(refused.value).splitlines()[1:] == [
        "  seed: 0 in the run, 5 now",
        "  modules.encoder.dim: 3 in the run, 7 now",
    ]


def test_a_run_is_not_left_where_there_will_be_no_cluster(run):
    with pytest.raises(ClusterError, match="--detach needs a cluster that outlives this command"):
        resume(run, settings=[], clock=Clock(time.time()), progress=progress(run), address=None, detach=True)


def test_a_run_that_is_done_is_not_resumed_without_more_rounds(run):
    (run / "config.yaml").write_text(MODEL.replace("rounds: 3", "rounds: 1"))
    (run / "result.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="all 1 rounds are done; for more of them say --set schedule"):
        taken_up(run)


def test_a_run_that_is_resumed_waits_for_its_nodes_too(run, monkeypatch):
    monkeypatch.setattr("runner.commands.resume.cluster", lambda *_: nullcontext("here"))
    monkeypatch.setattr("runner.cluster.connection.alive", dict)
    with pytest.raises(
        ClusterError, match=r"cluster.nodes asks for 2, and after 0.1 s \(recovery.wait\) .* has 0: start"
    ):
        taken_up(run, "cluster.nodes=2", "recovery.wait=0.1")


def test_a_run_that_another_process_drives_is_neither_resumed_nor_watched(run):
    holder = """
import sys
from pathlib import Path
from runner.runs.directory import RunDirectory
with RunDirectory(Path(sys.argv[1]), None).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", holder, run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert open_run(run)[1].driven()
        for ask in (lambda: taken_up(run), lambda: attach(run, clock=Clock(0.0), progress=progress(run))):
            with pytest.raises(RunDirectoryError, match="another process drives this run; wait for it, or end it"):
                ask()
        process.kill()
    assert not open_run(run)[1].driven()
    with open_run(run)[1].lock():  # a lock whose holder was killed is none
        pass


def test_a_run_that_is_nowhere_is_neither_watched_nor_stopped(run):
    with pytest.raises(RunDirectoryError, match=rf"on no cluster any more; it stands at round-001, go on .* {run}$"):
        attach(run, clock=Clock(0.0), progress=progress(run))
    with pytest.raises(RunDirectoryError, match="does not go on anywhere; it stands at round-001"):
        stop(run, now=False, tell=print)


def test_who_stops_a_run_that_is_done_is_not_sent_to_resume_it(run):
    (run / "config.yaml").write_text(MODEL.replace("rounds: 3", "rounds: 1"))
    with pytest.raises(RunDirectoryError, match=f"anywhere; all rounds are done; see what .* serket attach {run}$"):
        stop(run, now=False, tell=print)


def test_what_happened_while_nobody_watched_is_written_down_once(run):
    directory = open_run(run)[1]
    directory.log.append([("update", 1.0, {"module": "vae"}), ("scores", 9.0, {"round": 1})])
    directory.checkpoints.notes.leave_events([("update", 1.0, {"module": "vae"}), ("update", 2.0, {"module": "gmm"})])
    for _ in range(2):
        directory.hear()
        assert [(event["event"], event.get("module")) for event in directory.log] == [
            ("update", "vae"),
            ("scores", None),
            ("update", "gmm"),
        ]


def test_inspection_says_how_a_run_that_was_interrupted_goes_on_and_why_one_failed(run):
    assert inspect_run(run)["next"] == f"serket resume {run}"
    open_run(run)[1].checkpoints.notes.leave_failure("module 'gmm' raised an error")
    found = inspect_run(run)
    assert (found["failure"], found["next"]) == ("module 'gmm' raised an error", f"serket resume {run}")


def test_inspection_of_a_run_that_ended_unwatched_says_who_writes_its_results_down(run):
    (run / "config.yaml").write_text(MODEL.replace("rounds: 3", "rounds: 1"))
    assert inspect_run(run)["next"] == f"serket attach {run}"


def test_a_run_that_ended_unwatched_is_written_down(run):
    (run / "config.yaml").write_text(MODEL.replace("rounds: 3", "rounds: 1"))
    _, result = attach(run, clock=Clock(time.time()), progress=progress(run))
    assert (result["run"], result["rounds"]) == ("toy", 1)
    assert json.loads((run / "result.json").read_text()) == result
    assert (run / "module001_encoder" / "z_learn.txt").exists()
    assert attach(run, clock=Clock(0.0), progress=progress(run))[1] == result  # once more changes nothing


def test_the_run_in_the_working_directory_is_found_by_its_name(run, monkeypatch):
    monkeypatch.chdir(run)
    assert find_run(".", Path("runs")).name == "toy"


def test_the_commits_that_nobody_recorded_are_known(tmp_path):
    directory = toy_run(tmp_path, rounds=3)
    assert directory.unrecorded() == ["round-001", "round-002", "round-003"]
    directory.record("round-001")
    assert directory.unrecorded() == ["round-002", "round-003"]


@pytest.fixture
def directory(tmp_path):
    directory = toy_run(tmp_path, rounds=3)
    Follower(directory, Progress(directory.graph)).catch_up()
    return directory


def test_lines_after_a_round_are_taken_back_and_recorded_again_with_the_same_figures(directory):
    before = (directory.path / "metrics.csv").read_bytes()
    directory.rewind(1)
    assert [row["round"] for row in directory.metrics()] == [1.0]
    assert directory.unrecorded() == ["round-002", "round-003"]
    Follower(directory, Progress(directory.graph)).catch_up()
    assert (directory.path / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("size", range(1, 60, 7))
def test_a_torn_line_of_figures_is_recorded_again(directory, size):
    path = directory.path / "metrics.csv"
    before = path.read_bytes()
    path.write_bytes(before[:-size])
    directory.mend()
    Follower(directory, Progress(directory.graph)).catch_up()
    assert path.read_bytes() == before


@pytest.mark.parametrize("torn", [b"3", b"3,1.5,", b"3,1.5,2,,", b"\x00\xff,,"])
def test_a_line_that_a_power_cut_has_torn_is_taken_out(directory, torn):
    path = directory.path / "metrics.csv"
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(torn)
    directory.rewind(9)
    assert path.read_bytes() == whole


def test_figures_whose_file_a_full_disk_left_empty_are_recorded_again(directory):
    path = directory.path / "metrics.csv"
    before = path.read_bytes()
    path.write_bytes(b"")
    directory.mend()
    Follower(directory, Progress(directory.graph)).catch_up()
    assert path.read_bytes() == before


def test_a_torn_event_is_taken_out_and_the_next_one_has_a_line_of_its_own(directory):
    path = directory.path / "events.jsonl"
    path.write_text('{"time": 1.0, "event": "commit"}\n{"time": 2.0, "ev')
    directory.mend()
    directory.log.append([("commit", 3.0, {})])
    assert [json.loads(line)["time"] for line in path.read_text().splitlines()] == [1.0, 3.0]
    directory.log.append([("scores", 9.0, {})])
    assert directory.log.last() == 3.0  # scores are the driver's own


def test_a_json_file_is_written_whole_or_not_at_all(directory, monkeypatch):
    directory.write_json("environment.json", {"address": "here"})
    monkeypatch.setattr("os.fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        directory.write_json("environment.json", {"address": "there"})
    assert directory.environment() == {"address": "here"}
