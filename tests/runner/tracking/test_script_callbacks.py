"""Callbacks follow a script of handles as they follow a model, and are closed with it."""

import subprocess
import sys

import numpy as np
import pytest

import runner as srk
from actors.errors import GraphError, ModuleError
from runner.runs.directory import open_run
from tests.runner.tracking.test_callbacks import ROWS, Failing, Recorder
from tests.runner.tracking.test_trackers import open_mlflow, read_tensorboard, scalars


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def connect(*callbacks, run="pair", **options):
    """Return the handles of a mixture and a Markov model, whose run callbacks follow."""
    data = srk.Observation(ROWS, run=run, local=True, verbose=False, callbacks=callbacks, **options)
    gmm, markov = srk.GMM(2, category=np.arange(40) % 2), srk.MarkovModel()
    gmm.connect(data)
    markov.connect(gmm)
    return data, gmm, markov


def learn(gmm, markov, rounds=2):
    for _ in range(rounds):
        gmm.update()
        markov.update()


def learn_and_fail(gmm, markov):
    learn(gmm, markov, 1)
    raise ZeroDivisionError("division by zero")


ONE_UPDATE = ["update_finished", "committed"]


def test_the_events_are_those_of_a_model_with_a_round_at_its_end(tmp_path):
    spy = Recorder()
    data, gmm, markov = connect(spy)
    with data:
        learn(gmm, markov)
        assert spy.names == ["run_started", "committed", *2 * ONE_UPDATE, "round_finished", *2 * ONE_UPDATE]
    assert spy.names[-3:] == ["round_finished", "run_finished", "close"]
    (started,) = spy.told("run_started")
    assert (started["name"], started["path"], started["resumed"]) == ("pair", str(tmp_path / "runs/pair"), False)
    assert started["config"]["modules"]["gmm"]["classes"] == 2
    assert [(each["module"], each["update"]) for each in spy.told("update_finished")] == [
        *(("gmm", 1), ("mm", 1), ("gmm", 2), ("mm", 2))
    ]
    rows = open_run(tmp_path / "runs/pair").directory.metrics_file.rows()  # one an update
    rounds = spy.told("round_finished")
    assert [each["round"] for each in rounds] == [1, 2]
    for told, row in zip(rounds, rows[1::2], strict=True):
        assert told["metrics"] == {name: value for name, value in row.items() if name != "round" and value is not None}
    (result,) = spy.told("run_finished")
    assert (result["run"], result["rounds"], result["accuracy"]) == ("pair", 2, rounds[-1]["metrics"]["accuracy"])
    assert set(result["module_seconds"]) == {"data", "gmm", "mm"}


def test_an_error_in_the_block_is_told_and_closes():
    spy = Recorder()
    data, gmm, markov = connect(spy)
    with pytest.raises(ZeroDivisionError), data:
        learn_and_fail(gmm, markov)
    assert spy.names[-3:] == ["round_finished", "run_stopped", "close"]
    assert spy.told("run_stopped") == [{"reason": "division by zero", "failed": True}]


def test_a_run_whose_last_update_failed_is_not_called_complete():
    spy = Recorder()
    markov = connect(spy)[-1]
    with pytest.raises(ModuleError, match="update it first"):
        markov.update()
    markov.close()
    assert spy.names[-2:] == ["run_stopped", "close"]
    assert "update it first" in spy.told("run_stopped")[0]["reason"]


def test_a_run_goes_on_after_an_update_that_failed():
    spy = Recorder()
    _, gmm, markov = connect(spy)
    with pytest.raises(ModuleError, match="update it first"):
        markov.update()
    learn(gmm, markov, 1)
    gmm.close()
    assert spy.names[-3:] == ["round_finished", "run_finished", "close"]


def test_a_closed_run_is_used_but_learns_no_more():
    spy = Recorder()
    _, gmm, markov = connect(spy)
    gmm.close()  # nothing is open yet
    learn(gmm, markov, 1)
    classes = gmm.outputs["class"]
    gmm.close()
    markov.close()
    assert spy.names.count("close") == 1
    np.testing.assert_array_equal(gmm.outputs["class"], classes)
    assert gmm.recognize(ROWS)["class"].shape == (40,)
    with pytest.raises(GraphError, match="gmm: its run is closed; connect new modules to learn more"):
        gmm.update()


def test_an_observation_closes_all_runs_that_it_is_part_of():
    spy = Recorder()
    data, first, _ = connect(spy)
    first.update()
    second = srk.GMM(2)
    second.connect(data)
    second.update()
    assert spy.names.count("run_started") == 2
    data.close()
    assert spy.names.count("close") == 2


def test_a_callback_that_raises_stops_no_script_and_changes_no_bit():
    outputs = []
    for run, callbacks in [("a", [Failing("update_finished")]), ("b", [])]:
        _, gmm, markov = connect(*callbacks, run=run)
        with gmm:
            learn(gmm, markov)
        outputs.append(gmm.outputs)
    assert outputs[0].keys() == outputs[1].keys()
    for name in outputs[0]:
        np.testing.assert_array_equal(outputs[0][name], outputs[1][name])


def test_tensorboard_has_a_point_for_each_round_of_a_script(tmp_path):
    pytest.importorskip("tensorboard")
    _, gmm, markov = connect({"type": "tensorboard", "directory": "logs"})
    with gmm:
        learn(gmm, markov)
    rows = open_run(tmp_path / "runs/pair").directory.metrics_file.rows()[1::2]
    found = scalars(read_tensorboard(tmp_path / "logs/pair"), "round/evidence")
    assert [step for step, _ in found] == [1, 2]
    assert [value for _, value in found] == pytest.approx([row["evidence"] for row in rows])


def test_mlflow_says_how_a_script_ended(tmp_path):
    pytest.importorskip("mlflow")
    _, gmm, markov = connect("mlflow")
    with gmm:
        learn(gmm, markov)
    client, run = open_mlflow(tmp_path / "mlruns")
    assert run.info.status == "FINISHED"
    assert run.data.params["modules.gmm.classes"] == "2"
    history = client.get_metric_history(run.info.run_id, "evidence")
    assert [each.step for each in history] == [1, 2]


def test_what_is_no_callback_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ModuleError, match=r"callbacks is 'tensorboard', expected a list; write callbacks=\[…\]"):
        srk.Observation(ROWS, callbacks="tensorboard")
    with pytest.raises(ModuleError, match=r"callbacks is .*, expected a list"):
        srk.Observation(ROWS, callbacks=Recorder())
    _, gmm, _ = connect("tensorbord")
    with pytest.raises(ModuleError, match="tracking: tensorbord: unknown"):
        gmm.update()
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import numpy as np
import runner as srk

class Spy(srk.Callback):
    def run_finished(self, result):
        print("finished", result["rounds"])
    def run_stopped(self, event):
        print("stopped", event["reason"], event["failed"])
    def close(self):
        print("closed")

gmm = srk.GMM(2)
gmm.connect(srk.Observation(np.eye(20), local=True, verbose=False, callbacks=[Spy()]))
gmm.update()
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [("", "finished 1\nclosed\n"), ("raise ValueError('no more')", "stopped no more True\nclosed\n")],
    ids=["end", "error"],
)
def test_callbacks_are_closed_with_the_script(tmp_path, end, told):
    (tmp_path / "script.py").write_text(SCRIPT + end)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=120)
    assert done.stdout == told, done.stderr
    assert done.returncode == bool(end)


ON_RAY = """
import numpy as np
import ray
import runner as srk

class Spy(srk.Callback):
    def update_finished(self, event):
        print("updated", event["module"], event["update"])
    def run_finished(self, result):
        print("finished", result["run"])
    def close(self):
        print("closed")

def model(run):
    gmm = srk.GMM(2)
    gmm.connect(srk.Observation(np.eye(20), run=run, verbose=False, callbacks=[Spy()]))
    gmm.update()
    return gmm

first, second = model("first"), model("second")
first.close()
second.update()  # on the cluster that the first has started
namespaces = {each["namespace"] for each in ray.util.list_named_actors(all_namespaces=True)}
print("alive", [name for name in ("first", "second") if any(name in each for each in namespaces)])
second.close()
print("cluster", ray.is_initialized())
with model("third") as third:  # on another one
    third.update()
print(third.outputs["class"].shape)
"""


@pytest.mark.slow
@pytest.mark.ray
def test_closing_ends_the_processes_of_a_run_and_the_cluster_after_the_last(tmp_path):
    (tmp_path / "script.py").write_text(ON_RAY)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *("updated gmm 1", "updated gmm 1", "finished first", "closed", "updated gmm 2", "alive ['second']"),
        *("finished second", "closed", "cluster False"),
        *("updated gmm 1", "updated gmm 2", "finished third", "closed", "(20,)"),
    ]
