"""Tests of resuming runs, locking, repairs after a killed driver, and `attach` and `stop`; without Ray."""

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.storage.checkpoints import Checkpoints
from runner.cli.inspect import inspect_run
from runner.cluster.connection import ClusterError
from runner.commands.attach import attach
from runner.commands.monitor import RunMonitor
from runner.commands.resume import differences, resume
from runner.commands.stop import stop
from runner.config.run_config import load_config
from runner.data.sources import source_states
from runner.report.progress import Progress
from runner.runs.directory import RunDirectoryError, find_run, open_run
from runner.runs.timing import Clock
from tests.runner.conftest import toy_run
from tests.support.events import timed

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
    """Return the directory of a run whose driver was killed after its first round."""
    path = tmp_path / "toy"
    path.mkdir()
    (path / "config.yaml").write_text(MODEL)
    config = load_config(path / "config.yaml", ["schedule.rounds=1"])
    coordinator = Coordinator(
        config.graph,
        InProcessBackend(),
        run="toy",
        seed=config.seed,
        checkpoints=Checkpoints(path / "checkpoints"),
        config=load_config(path / "config.yaml").model_dump(mode="json"),
    )
    coordinator.start(source_states(config.graph, config.load_data()))
    coordinator.run_rounds()
    return path


def resume_run(path, *settings, detach=False):
    opened = open_run(path, settings)
    progress = Progress(opened.directory.graph)
    return resume(opened, clock=Clock(time.time()), progress=progress, address=None, detach=detach)


def attach_to(path, started=0.0):
    opened = open_run(path)
    return attach(opened, clock=Clock(started), progress=Progress(opened.directory.graph))


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
    ("now", "lines"),
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
def test_only_keys_that_may_not_change_are_differences(now, lines):
    assert differences(CONFIG, now) == lines


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        ({"workers": 2}, {"workers": 3}, False),
        ({"workers": "auto"}, {"workers": 1}, False),
        ({"chunk": 10}, {"chunk": 10, "workers": 4}, False),
        ({"workers": 2, "chunk": 10}, {"workers": 2, "chunk": 20}, True),
        ({}, {"workers": 2}, True),
        ({"workers": 2}, {}, True),
    ],
)
def test_the_number_of_workers_may_change_but_not_whether_there_are_any(before, now, differs):
    modules = [{"modules": {"gmm": {"type": "gmm", **given}}} for given in (before, now)]
    assert bool(differences(*modules)) == differs


def test_added_and_removed_keys_are_differences():
    assert differences({"a": 1}, {"b": 2}) == ["a: 1 in the run, null now", "b: null in the run, 2 now"]


def test_rounds_recovery_and_the_number_of_kept_commits_may_change():
    before = {"schedule": {"rounds": 3}, "recovery": {"tries": 3}, "checkpoints": {"keep": None, "storage": None}}
    now = {"schedule": {"rounds": 9}, "recovery": {"tries": 1}, "checkpoints": {"keep": 2, "storage": None}}
    assert differences(before, now) == []
    assert differences(before, {**now, "checkpoints": {"keep": 2, "storage": "/else"}})


def test_another_config_is_rejected_with_every_difference(run):
    with pytest.raises(RunDirectoryError) as error:
        resume_run(run, "seed=5", "modules.encoder.dim=7", "schedule.rounds=9")
    assert str(error.value).splitlines()[1:] == [
        "  seed: 0 in the run, 5 now",
        "  modules.encoder.dim: 3 in the run, 7 now",
    ]


def test_a_run_is_not_detached_from_a_cluster_that_ends_with_the_command(run):
    with pytest.raises(ClusterError, match="--detach needs a cluster that outlives this command"):
        resume_run(run, detach=True)


def test_a_run_that_is_done_is_resumed_only_with_more_rounds(run):
    (run / "config.yaml").write_text(MODEL.replace("rounds: 3", "rounds: 1"))
    (run / "result.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="all 1 rounds are done; to run more, use --set schedule"):
        resume_run(run)


def test_a_resumed_run_waits_for_its_nodes(run, monkeypatch):
    monkeypatch.setattr("runner.cluster.connection.cluster", lambda *_: nullcontext("here"))
    monkeypatch.setattr("runner.cluster.connection.alive_nodes", dict)
    with pytest.raises(
        ClusterError, match=r"cluster.nodes asks for 2, and after 0.1 s \(recovery.wait\) .* has 0: start"
    ):
        resume_run(run, "cluster.nodes=2", "recovery.wait=0.1")


def test_a_run_that_is_driven_by_another_process_is_neither_resumed_nor_attached_to(run):
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
        assert open_run(run)[1].is_locked()
        for ask in (lambda: resume_run(run), lambda: attach_to(run)):
            with pytest.raises(RunDirectoryError, match="another process drives this run; wait for it, or end it"):
                ask()
        process.kill()
    assert not open_run(run)[1].is_locked()
    with open_run(run)[1].lock():  # the lock of a killed process is released
        pass


def test_a_run_that_is_on_no_cluster_is_neither_attached_to_nor_stopped(run):
    with pytest.raises(
        RunDirectoryError, match=rf"on no cluster any more; the last commit is round-001, continue .* {run}$"
    ):
        attach_to(run)
    with pytest.raises(RunDirectoryError, match="the run is not running; the last commit is round-001"):
        stop(open_run(run), now=False, log=print)


def test_stopping_a_run_that_is_done_does_not_suggest_to_resume_it(run):
    (run / "config.yaml").write_text(MODEL.replace("rounds: 3", "rounds: 1"))
    with pytest.raises(
        RunDirectoryError, match=f"running; all rounds are done; see the result .* serket attach {run}$"
    ):
        stop(open_run(run), now=False, log=print)


def test_saved_events_are_imported_once(run):
    directory = open_run(run)[1]
    place = {"round": 1, "step": 0}
    directory.log.append([timed("update", 1.0, module="vae", **place), timed("scores", 9.0, round=1)])
    saved = [("update", 1.0, {"module": "vae", **place}), ("update", 2.0, {"module": "gmm", **place})]
    directory.checkpoints.status_files.append_events(saved)
    for _ in range(2):
        directory.import_saved_events()
        assert [(each.event.event, getattr(each.event, "module", None)) for each in directory.log] == [
            ("update", "vae"),
            ("scores", None),
            ("update", "gmm"),
        ]


def test_inspection_has_the_command_that_continues_a_run_and_the_reason_of_a_failure(run):
    assert inspect_run(run)["next"] == f"serket resume {run}"
    open_run(run)[1].checkpoints.status_files.write_failure("module 'gmm' raised an error")
    status = inspect_run(run)
    assert (status["failure"], status["next"]) == ("module 'gmm' raised an error", f"serket resume {run}")


def test_inspection_of_a_detached_run_that_is_done_suggests_to_attach_to_it(run):
    (run / "config.yaml").write_text(MODEL.replace("rounds: 3", "rounds: 1"))
    assert inspect_run(run)["next"] == f"serket attach {run}"


def test_attaching_to_a_detached_run_that_is_done_writes_its_result(run):
    (run / "config.yaml").write_text(MODEL.replace("rounds: 3", "rounds: 1"))
    _, result = attach_to(run, time.time())
    assert (result["run"], result["rounds"]) == ("toy", 1)
    assert json.loads((run / "result.json").read_text()) == result
    assert (run / "module001_encoder" / "z_learn.txt").exists()
    assert attach_to(run)[1] == result  # a second time has the same result


def test_the_run_in_the_working_directory_is_found_by_its_name(run, monkeypatch):
    monkeypatch.chdir(run)
    assert find_run(".", Path("runs")).name == "toy"


def test_commits_without_a_line_of_metrics_are_unrecorded(tmp_path):
    directory = toy_run(tmp_path, rounds=3)
    assert directory.unrecorded_commits() == ["round-001", "round-002", "round-003"]
    directory.record("round-001")
    assert directory.unrecorded_commits() == ["round-002", "round-003"]


@pytest.fixture
def directory(tmp_path):
    directory = toy_run(tmp_path, rounds=3)
    RunMonitor(directory, Progress(directory.graph)).catch_up()
    return directory


def test_removed_lines_are_recorded_again_with_the_same_metrics(directory):
    before = (directory.path / "metrics.csv").read_bytes()
    directory.metrics_file.rewind(1)
    assert [row["round"] for row in directory.metrics_file.rows()] == [1.0]
    assert directory.unrecorded_commits() == ["round-002", "round-003"]
    RunMonitor(directory, Progress(directory.graph)).catch_up()
    assert (directory.path / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("size", range(1, 60, 7))
def test_an_incomplete_line_of_metrics_is_recorded_again(directory, size):
    path = directory.path / "metrics.csv"
    before = path.read_bytes()
    path.write_bytes(before[:-size])
    directory.repair()
    RunMonitor(directory, Progress(directory.graph)).catch_up()
    assert path.read_bytes() == before


@pytest.mark.parametrize("incomplete", [b"3", b"3,1.5,", b"3,1.5,2,,", b"\x00\xff,,"])
def test_an_incomplete_line_after_a_power_cut_is_removed(directory, incomplete):
    path = directory.path / "metrics.csv"
    before = path.read_bytes()
    with path.open("ab") as file:
        file.write(incomplete)
    directory.metrics_file.rewind(9)
    assert path.read_bytes() == before


def test_metrics_in_a_file_that_a_full_disk_left_empty_are_recorded_again(directory):
    path = directory.path / "metrics.csv"
    before = path.read_bytes()
    path.write_bytes(b"")
    directory.repair()
    RunMonitor(directory, Progress(directory.graph)).catch_up()
    assert path.read_bytes() == before


def test_an_incomplete_event_is_removed_and_the_next_one_has_its_own_line(directory):
    path = directory.path / "events.jsonl"
    path.write_text('{"time": 1.0, "event": "commit"}\n{"time": 2.0, "ev')
    directory.repair()
    directory.log.append([timed("commit", 3.0, round=1, name="round-001", whole=True, seconds=0.1)])
    assert [json.loads(line)["time"] for line in path.read_text().splitlines()] == [1.0, 3.0]
    directory.log.append([timed("scores", 9.0, round=1)])
    assert directory.log.last_time() == 3.0  # scores are emitted by the driver


def test_a_json_file_is_written_atomically(directory, monkeypatch):
    directory.write_json("environment.json", {"address": "here"})
    monkeypatch.setattr("os.fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        directory.write_json("environment.json", {"address": "there"})
    assert directory.environment() == {"address": "here"}
