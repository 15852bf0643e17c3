"""Callbacks follow a run, and nothing that they do changes it."""

import doctest
import json
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.coordination.events import LogMessage, Scored, UpdateFinished
from actors.errors import ModuleError
from runner import GMM, Callback, Model
from runner.cli.app import app
from runner.commands.monitor import RunMonitor
from runner.config.run_config import ConfigError, load_config
from runner.report.progress import Progress
from runner.runs.directory import open_run
from runner.tracking import callback
from runner.tracking.feed import Tracking
from tests.runner.conftest import toy_run
from tests.support.events import timed

ROWS = np.random.default_rng(0).normal(size=(40, 2)) + 8.0 * (np.arange(40) % 2)[:, None]
MODEL = """
name: pair
data: {source: files, observations: rows.csv}
modules: {gmm: {type: gmm, classes: 2}}
connections: [data -> gmm]
schedule: {rounds: 2, steps: [gmm]}
"""
SPY = """
import json
from runner import Callback

class Spy(Callback):
    def __init__(self, file):
        self.file = open(file, "a")
    def run_started(self, run):
        self.write("run_started", run["resumed"])
    def update_finished(self, event):
        self.write("update", event["update"])
    def round_finished(self, event):
        self.write("round", event["round"])
    def run_finished(self, result):
        self.write("finished", result["rounds"])
    def run_stopped(self, event):
        self.write("stopped", event["reason"])
    def write(self, *told):
        print(json.dumps(told), file=self.file, flush=True)
    def close(self):
        self.file.close()
"""


class Recorder(Callback):
    """Records the calls, by name."""

    def __init__(self):
        self.calls = []

    def __getattribute__(self, name):
        if name in ("calls", "told", "names") or name.startswith("_"):
            return super().__getattribute__(name)
        return lambda *told: self.calls.append((name, *told))

    @property
    def names(self):
        return [name for name, *_ in self.calls if name != "event"]

    def told(self, method):
        return [told for name, *rest in self.calls for told in rest if name == method]


class Failing(Callback):
    """Raises in one method, and changes what it is told in another."""

    def __init__(self, method, error=None):
        self.error, self.calls = error or ValueError("broken"), 0
        setattr(self, method, self.fail)

    def fail(self, *_told):
        self.calls += 1
        raise self.error

    def event(self, event):
        event.clear()


def fit(tmp_path, *callbacks, rounds=2):
    model = Model(gmm=GMM(2), schedule={"rounds": rounds})
    return model.fit(ROWS, path=tmp_path / "run", callbacks=callbacks, progress=False)


def test_the_calls_come_in_the_order_of_the_run_with_the_values_of_its_files(tmp_path):
    spy = Recorder()
    model = fit(tmp_path, spy)
    one_round = ["update_finished", "committed", "round_finished"]
    assert spy.names == ["run_started", "committed", *one_round, *one_round, "run_finished", "close"]
    rows = open_run(tmp_path / "run").directory.metrics_file.rows()
    assert [event["metrics"]["evidence"] for event in spy.told("round_finished")] == [row["evidence"] for row in rows]
    logged = [each.event for each in open_run(tmp_path / "run").directory.log]
    updates = [event for event in logged if isinstance(event, UpdateFinished) and event.round > 0]
    assert [event["metrics"] for event in spy.told("update_finished")] == [event.metrics for event in updates]
    assert [event["update"] for event in spy.told("update_finished")] == [1, 2]
    (started,) = spy.told("run_started")
    assert (started["path"], started["resumed"]) == (str(tmp_path / "run"), False)
    assert started["config"]["modules"]["gmm"]["classes"] == 2
    assert spy.told("run_finished")[0]["evidence"] == model.run.summary["evidence"]


@pytest.mark.parametrize("method", ["run_started", "update_finished", "round_finished", "run_finished", "close"])
@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3)], ids=["error", "exit"])
def test_a_callback_that_raises_is_reported_once_and_the_run_goes_on(tmp_path, method, error):
    bad, spy = Failing(method, error), Recorder()
    fit(tmp_path, bad, spy)
    assert bad.calls == 1
    (warning,) = [
        each.event.message for each in open_run(tmp_path / "run").directory.log if isinstance(each.event, LogMessage)
    ]
    assert warning.startswith(f"Failing.{method} failed; it is not called again, the run goes on:\nTraceback")
    assert f"{type(error).__name__}: {error}" in warning
    assert spy.names[-1] == "close"
    assert len(spy.told("round_finished")) == 2
    assert all("round" in event for event in spy.told("round_finished"))  # what it was told was its own


def test_a_failing_callback_changes_no_bit(tmp_path):
    with_it = fit(tmp_path / "a", Failing("update_finished"))
    without = fit(tmp_path / "b")
    assert (with_it.run.means["gmm"] == without.run.means["gmm"]).all()


def test_a_closed_callback_is_the_last_that_is_called_also_if_the_run_fails(tmp_path):
    spy = Recorder()
    directory = toy_run(tmp_path, rounds=1)
    tracking = Tracking([spy])
    with pytest.raises(ZeroDivisionError), tracking:
        tracking.begin(directory, {1: 1 / 0})
    assert spy.names == ["close"]  # it was not told that a run began
    spy.calls.clear()
    tracking.begin(directory, {})
    with pytest.raises(ZeroDivisionError), tracking:
        1 / 0  # noqa: B018
    assert spy.names == ["run_started", "run_stopped", "close"]
    assert spy.told("run_stopped") == [{"reason": "division by zero", "failed": True}]


def test_faults_and_recoveries_have_their_methods(tmp_path):
    spy, directory = Recorder(), toy_run(tmp_path, rounds=1)
    tracking = Tracking([spy])
    tracking.begin(directory, {})
    monitor = RunMonitor(directory, Progress(directory.graph), tracking=tracking)
    place = {"module": "gmm", "doing": "learning", "times": 1, "reason": "killed"}
    events = [timed("lost", 1.0, **place), timed("recovered", 2.0, module="gmm", seconds=0.5), timed("restarted", 3.0)]
    monitor.follow(iter([([*events, timed("replay", 4.0, round=1, reason="gone")], {})]))
    assert spy.told("fault") == [
        {"event": "lost", "time": 1.0, **place},
        {"event": "restarted", "time": 3.0},
        {"event": "replay", "time": 4.0, "round": 1, "reason": "gone"},
    ]
    assert spy.told("recovered") == [{"time": 2.0, "module": "gmm", "seconds": 0.5}]


def test_what_was_logged_without_a_driver_is_told_first_and_updates_are_counted_on(tmp_path):
    spy, directory = Recorder(), toy_run(tmp_path, rounds=1)
    updates = [timed("updated", float(n), module="gmm", round=n, step=0, seconds=0.1) for n in (1, 2, 3)]
    directory.log.append(updates)
    tracking = Tracking([spy])
    tracking.begin(directory, {}, updates[2:], resumed=True)
    tracking.receive(updates[0])
    assert [event["update"] for event in spy.told("update_finished")] == [3, 4]
    assert spy.names[0] == "run_started"


def test_metrics_of_a_round_are_those_that_are_known(tmp_path):
    spy = Recorder()
    tracking = Tracking([spy])
    tracking.begin(toy_run(tmp_path, rounds=1), {})
    scored = Scored(round=3, evidence=-1.5, accuracies={"gmm": 0.5})
    tracking.receive(timed("scores", 1.0, **scored.fields()))
    assert spy.told("round_finished") == [{"time": 1.0, "round": 3, "metrics": {"evidence": -1.5, "accuracy_gmm": 0.5}}]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("tensorbord", "tracking: tensorbord: unknown, expected tensorboard, mlflow or package.module:Class"),
        (3, "callbacks: has 3, expected a runner.Callback, or tensorboard, mlflow or package.module:Class"),
        ("json:JSONDecoder", "tracking: json:JSONDecoder is no subclass of runner.Callback; name a class that is one"),
        ("nopackage:A", "tracking: nopackage:A cannot be loaded: No module named 'nopackage'; correct the name"),
        ({"type": "runner:Callback", "size": 3}, "tracking: runner:Callback cannot be made .TypeError: .*arguments"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_learnt(tmp_path, given, sentence):
    with pytest.raises(ModuleError, match=sentence):
        fit(tmp_path, given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("library", ["tensorboard", "mlflow"])
def test_a_library_that_is_missing_is_named_with_its_extra(tmp_path, monkeypatch, library):
    for name in ("tensorboard.summary.writer.event_file_writer", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleError, match=rf"pip install 'serket-actors\[{library}\]'"):
        fit(tmp_path, library)


def test_the_examples_of_the_docstring_and_of_the_guide_are_true(tmp_path, monkeypatch, capsys):
    result = doctest.testmod(callback)
    assert (result.attempted, result.failed) == (5, 0)
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[3] / "docs/tracking.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/tracking.md", "exec"), {})
    first, second, *updates = capsys.readouterr().out.splitlines()
    assert first.startswith("1 {'evidence': ")
    assert second.startswith("2 {'evidence': ")
    assert [line.partition(" {")[0] for line in updates] == ["gmm 1", "gmm 2"]  # of a script


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savetxt("rows.csv", ROWS, delimiter=",", header="x,y", comments="")
    (tmp_path / "pair.yaml").write_text(MODEL)
    (tmp_path / "spy_tracker.py").write_text(SPY)
    monkeypatch.setenv("SERKET_REPORT", "0")
    return tmp_path


def test_the_config_names_trackers_with_their_arguments_and_old_configs_stay_as_they_are(place):
    config = load_config(place / "pair.yaml", ["tracking={type: tensorboard, directory: logs}"])
    assert config.tracking_arguments() == [{"type": "tensorboard", "directory": str(place / "logs")}]
    (place / "again.yaml").write_text(config.to_yaml())
    assert load_config(place / "again.yaml").tracking_arguments() == config.tracking_arguments()
    assert "tracking" not in load_config(place / "pair.yaml").plain()
    with pytest.raises(
        ConfigError, match=r"tracking.0.type: expected tensorboard, mlflow or package.module:Class, got"
    ):
        load_config(place / "pair.yaml", ["tracking=tensorbord"])


def test_an_export_does_not_carry_the_trackers(place):
    setting = "tracking=[{type: 'spy_tracker:Spy', file: " + str(place / "told") + "}]"
    (place / "tracked.yaml").write_text(load_config(place / "pair.yaml", [setting]).to_yaml())
    model = Model.from_file("tracked.yaml").fit(ROWS, path="run", progress=False)
    assert (place / "told").read_text().startswith('["run_started", false]')
    model.save("saved")
    assert CliRunner().invoke(app, ["export", "saved", "pair.serket"]).exit_code == 0
    with zipfile.ZipFile("pair.serket") as archive:
        assert "spy_tracker" not in archive.read("config.yaml").decode()
    assert "spy_tracker" in (place / "saved/config.yaml").read_text()


@pytest.mark.slow  # it draws the pictures of both
def test_run_and_resume_feed_the_tracker_that_the_command_line_names(place, monkeypatch):
    told = place / "told.jsonl"
    tracker = "tracking=[{type: 'spy_tracker:Spy', file: " + str(told) + "}]"
    done = CliRunner().invoke(app, ["run", "pair.yaml", "--local", "--set", tracker])
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(place.parent)  # what the config names is found from anywhere
    done = CliRunner().invoke(app, ["resume", str(place / "runs/pair"), "--local", "--set", "schedule.rounds=3"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    assert lines == [
        *(["run_started", False], ["update", 1], ["round", 1], ["update", 2], ["round", 2], ["finished", 2]),
        *(["run_started", True], ["update", 3], ["round", 3], ["finished", 3]),
    ]
