"""Test the list of the runs below a directory: states, figures, damage, strangers' directories, and many runs."""

import json
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from runner.cli.app import app
from runner.runs.listing import list_runs
from runner.runs.run_files import RunDirectoryError
from runner.runs.state import RunRecord, write_record
from tests.runner.conftest import toy_run

CONFIG = """# a comment
name: robot
seed: 0
data: {source: cycle, observations: null}
modules:
  gmm: {type: gmm, name: no, steps: [{rounds: 99}]}
schedule:
  rounds: 4
  steps: [gmm, {steps: [gmm], rounds: 7}]
checkpoints: {storage: null, keep: null}
"""
RESULT = {"run": "robot", "rounds": 4, "accuracy": 0.75, "evidence": -12.5}


def make_run(path, *commits, result=None, metrics="", config=CONFIG):
    (path / "checkpoints").mkdir(parents=True)
    (path / "config.yaml").write_text(config)
    for name in commits:
        (path / "checkpoints" / name).mkdir()
        (path / "checkpoints" / name / "manifest.json").touch()
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
    if metrics:
        (path / "metrics.csv").write_text(f"round,evidence,score,accuracy,ari,nmi\r\n{metrics}\r\n")
    return path


def only(directory):
    (run,) = list_runs(directory)
    return run


def serket(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


# --- states --------------------------------------------------------------------------------------------------------


def test_a_done_run_has_the_figures_of_its_result(tmp_path):
    run = only(make_run(tmp_path / "a", "round-003", "round-004", result=RESULT).parent)
    assert (run.name, run.model, run.state, run.round, run.rounds) == ("a", "robot", "done", 4, 4)
    assert (run.accuracy, run.evidence, run.problem) == (0.75, -12.5, "")


def test_a_stopped_run_has_those_of_its_last_round(tmp_path):
    make_run(tmp_path / "a", "round-000", "round-001", "round-002-step-01", metrics="1,-20.5,,0.5,,")
    run = only(tmp_path)
    assert (run.state, run.round, run.accuracy, run.evidence) == ("stopped", 1, 0.5, -20.5)


def test_a_run_of_a_script_has_no_number_of_rounds_that_it_exceeds(tmp_path):
    make_run(tmp_path / "a", "round-004", "round-005-step-00")
    assert (only(tmp_path).round, only(tmp_path).rounds) == (4, 4)
    make_run(tmp_path / "b" / "c", "round-006-step-00")
    assert (only(tmp_path / "b").round, only(tmp_path / "b").rounds) == (5, None)


def test_a_failed_run_is_told_from_a_stopped_one(tmp_path):
    path = make_run(tmp_path / "a", "round-001")
    (path / "checkpoints" / "failure").mkdir()
    (path / "checkpoints" / "failure" / "reason.txt").write_text("no memory")
    assert only(tmp_path).state == "failed"


def test_a_run_is_running_as_long_as_its_driver_lives(tmp_path):
    path = make_run(tmp_path / "a")
    write_record(path, RunRecord("", own=True, pid=os.getpid()))
    assert (only(tmp_path).state, only(tmp_path).round) == ("running", None)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_record(path, RunRecord("", own=True, pid=ended.pid))
    assert only(tmp_path).state == "stopped"
    write_record(path, RunRecord("10.0.0.1:6379", detached=True, pid=ended.pid))
    assert (only(tmp_path).state, only(tmp_path).detached) == ("running", True)


def test_the_size_is_that_of_all_files_and_the_time_that_of_the_last_one(tmp_path):
    path = make_run(tmp_path / "a", result=RESULT)
    (path / "module001_gmm").mkdir()
    (path / "module001_gmm" / "z_learn.txt").write_bytes(bytes(5000))
    for file in path.rglob("*"):
        os.utime(file, (1000.0, 1000.0))
    os.utime(path / "result.json", (2000.0, 2000.0))
    run = only(tmp_path)
    assert run.size == 5000 + sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    assert run.changed == 2000.0


def test_the_list_of_a_real_run_agrees_with_its_commits(tmp_path):
    directory = toy_run(tmp_path, rounds=2)
    (directory.path / "config.yaml").write_text(CONFIG)
    assert only(tmp_path).round == 2


# --- where runs are ------------------------------------------------------------------------------------------------


def test_runs_are_found_in_directories_below_and_the_newest_is_first(tmp_path):
    for number, name in enumerate(["runs/a", "lab/b", "lab/deep/er/c"]):
        path = make_run(tmp_path / name, result=RESULT)
        for file in path.rglob("*"):
            os.utime(file, (number, number))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("not: ours")
    assert [run.name for run in list_runs(tmp_path)] == ["lab/deep/er/c", "lab/b", "runs/a"]
    assert only(tmp_path / "lab" / "b").name == "b"


def test_no_link_is_followed(tmp_path):
    make_run(tmp_path / "outside" / "a", result=RESULT)
    here = tmp_path / "here"
    here.mkdir()
    (here / "link").symlink_to(tmp_path / "outside")
    assert list_runs(here) == []
    inner = make_run(here / "b")
    (inner / "result.json").symlink_to(tmp_path / "outside" / "a" / "result.json")
    assert (only(here).state, "link" in only(here).problem) == ("damaged", True)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", b"\xff\xfe\x00"),
        ("config.yaml", b"name: [unclosed"),
        ("config.yaml", b"- a list"),
        ("config.yaml", b""),
        ("config.yaml", b"a: " + b"[" * 5000),
        ("config.yaml", b"a: {" + b",".join(b"k%d: 1" % n for n in range(40_000)) + b"}"),
        ("result.json", b"{"),
        ("result.json", b'{"accuracy": "a text"}'),
        ("result.json", b"[" * 100_000),
        ("metrics.csv", b"round,evidence\nx,y\n"),
    ],
)
def test_a_damaged_run_is_listed_with_the_reason_and_hides_no_other(tmp_path, file, content):
    make_run(tmp_path / "whole", result=RESULT)
    path = make_run(tmp_path / "broken")
    (path / file).write_bytes(content)
    runs = {run.name: run for run in list_runs(tmp_path)}
    assert runs["whole"].state == "done"
    assert runs["broken"].state == "damaged"
    assert runs["broken"].problem
    assert len(runs["broken"].problem) < 700
    assert f"broken: {runs['broken'].problem[:30]}" in serket("list", tmp_path).stdout


def test_names_and_texts_of_strangers_reach_no_terminal_raw(tmp_path):
    make_run(tmp_path / "a\x1b[31m", config=CONFIG.replace("robot", '"r\\e[31m"'))
    done = serket("list", tmp_path)
    assert "\x1b[31m" not in done.output


def test_anchors_are_not_expanded(tmp_path):
    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)) + CONFIG
    make_run(tmp_path / "a", config=bomb)
    assert only(tmp_path).model == "robot"


def test_a_hundred_runs_are_listed_at_once(tmp_path):
    for number in range(100):
        make_run(tmp_path / f"run-{number}", "round-003", "round-004", result=RESULT)
    began = time.process_time()
    assert len(list_runs(tmp_path)) == 100
    assert time.process_time() - began < 1.0


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_table_and_the_json_have_the_same_runs(tmp_path):
    make_run(tmp_path / "arm", "round-004", result=RESULT)
    table = serket("list", tmp_path).stdout
    assert table.split()[:8] == ["run", "model", "state", "round", "accuracy", "evidence", "changed", "size"]
    assert "arm  robot  done   4 of 4    0.7500     -12.5" in table
    (entry,) = json.loads(serket("list", tmp_path, "--json").stdout)["runs"]
    assert (entry["name"], entry["state"], entry["accuracy"]) == ("arm", "done", 0.75)
    assert entry["path"] == str(tmp_path / "arm")


def test_before_the_first_run_the_list_is_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "there are no runs below runs; train one with serket run MODEL" in serket("list").stdout
    assert json.loads(serket("list", "--json").stdout) == {"runs": []}


def test_a_directory_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="is a file; give the directory that holds the runs"):
        list_runs(tmp_path / "file")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        list_runs(tmp_path / "missing")
