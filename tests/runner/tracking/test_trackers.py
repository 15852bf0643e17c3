"""What TensorBoard and MLflow read back is what the run's files say.

MLflow is no part of the extra ``dev``, as it is large, nor is TensorBoard; without them these tests are skipped.
"""

import json
import socket

import numpy as np
import pytest

from actors.coordination.events import UpdateFinished
from runner import GMM, MarkovModel, Model
from runner.runs.directory import open_run
from runner.tracking.feed import Tracking
from runner.tracking.loading import make_callback
from tests.runner.conftest import toy_run
from tests.support.events import timed

ROWS = np.random.default_rng(0).normal(size=(40, 2)) + 8.0 * (np.arange(40) % 2)[:, None]


@pytest.fixture
def no_network(monkeypatch):
    """Fail where anything connects to another machine."""
    before = socket.socket.connect

    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"connects to {address}")
        return before(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: pytest.fail(f"looks up {given}"))


def fit(path, *callbacks):
    """Return the directory of a run that callbacks have followed, and its updates with metrics by module."""
    model = Model(gmm=GMM(2), mm=MarkovModel(), schedule={"rounds": 3}, name="pair")
    model.fit(ROWS, categories=np.arange(40) % 2, path=path, callbacks=callbacks, progress=False)
    directory = open_run(path).directory
    updates = [each.event for each in directory.log if isinstance(each.event, UpdateFinished) and each.event.round > 0]
    return directory, {name: [event for event in updates if event.module == name] for name in ("gmm", "mm")}


def rounds_of(directory, metric):
    return [(row["round"], row[metric]) for row in directory.metrics_file.rows()]


def read_tensorboard(path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = loading.EventAccumulator(str(path), size_guidance={loading.SCALARS: 0, loading.TENSORS: 0})
    read.Reload()
    return read


def scalars(read, tag):
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_tensorboard_has_the_metrics_of_rounds_and_updates(tmp_path):
    pytest.importorskip("tensorboard")
    directory, updates = fit(tmp_path / "run", "tensorboard")
    read = read_tensorboard(tmp_path / "run" / "tensorboard")
    for metric in ("evidence", "score", "accuracy", "ari"):
        expected = rounds_of(directory, metric)
        found = scalars(read, f"round/{metric}")
        assert [step for step, _ in found] == [1, 2, 3]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected])
    for module, events in updates.items():
        for metric in (*events[0].metrics, "seconds"):
            values = [event.seconds if metric == "seconds" else event.metrics[metric] for event in events]
            found = scalars(read, f"{module}/{metric}")
            assert [step for step, _ in found] == list(range(1, len(events) + 1))
            assert [value for _, value in found] == pytest.approx(values)
    times = [each.time for each in directory.log if each.event.event == "scores"]
    assert [event.wall_time for event in read.Scalars("round/evidence")] == pytest.approx(times, abs=1e-3)
    (config,) = read.Tensors("config")
    assert '"classes": 2' in config.tensor_proto.string_val[0].decode()


def test_tensorboard_writes_to_a_directory_of_all_runs_where_one_is_given(tmp_path):
    pytest.importorskip("tensorboard")
    for name in ("first", "second"):
        fit(tmp_path / name, {"type": "tensorboard", "directory": str(tmp_path / "logs")})
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["first", "second"]
    assert not (tmp_path / "first" / "tensorboard").exists()


def test_a_fault_counts_in_tensorboard_and_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    directory = toy_run(tmp_path, rounds=1)
    with Tracking([make_callback("tensorboard"), make_callback("mlflow")]) as tracking:
        tracking.begin(directory, {"name": "toy"})
        tracking.receive(timed("scores", 1.0, round=2, evidence=1.0))
        for when in (2.0, 3.0):
            tracking.receive(timed("replay", when, round=3, reason="gone"))
    assert scalars(read_tensorboard(directory.path / "tensorboard"), "faults") == [(2, 1.0), (2, 2.0)]
    client, run = open_mlflow(tmp_path / "mlruns")
    assert [each.value for each in client.get_metric_history(run.info.run_id, "faults")] == [1.0, 2.0]


def open_mlflow(store):
    """Return a client of a store, and its only run."""
    tracking = pytest.importorskip("mlflow.tracking")
    client = tracking.MlflowClient(tracking_uri=store.as_uri())
    experiments = [each for each in client.search_experiments() if each.name != "Default"]
    (run,) = client.search_runs([each.experiment_id for each in experiments])
    return client, run


def test_mlflow_has_config_metrics_and_end_in_a_folder_of_this_machine(tmp_path, monkeypatch, no_network):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    directory, updates = fit(tmp_path / "run", "mlflow")
    client, run = open_mlflow(tmp_path / "mlruns")
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert client.get_experiment(run.info.experiment_id).name == "pair"
    assert run.data.params["modules.gmm.classes"] == "2"
    assert run.data.params["seed"] == "0"
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    for metric in ("evidence", "accuracy"):
        assert [(each.step, each.value) for each in history[metric]] == rounds_of(directory, metric)
    for module, events in updates.items():
        for metric in events[0].metrics:
            values = [(number, event.metrics[metric]) for number, event in enumerate(events, start=1)]
            assert [(each.step, each.value) for each in history[f"{module}.{metric}"]] == values
    assert history["seconds"][0].value == json.loads((tmp_path / "run/result.json").read_text())["seconds"]


def test_a_resumed_run_goes_on_in_its_run_of_mlflow_and_a_stopped_one_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    directory = toy_run(tmp_path / "runs", rounds=2)
    tracking = Tracking([make_callback("mlflow")])
    tracking.begin(directory, {"name": "toy"})
    tracking.receive(timed("scores", 1.0, round=1, evidence=1.0))
    with pytest.raises(KeyboardInterrupt), tracking:
        raise KeyboardInterrupt
    assert open_mlflow(tmp_path / "mlruns")[1].info.status == "KILLED"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Tracking([make_callback("mlflow")]) as tracking:
        tracking.begin(directory, {"name": "toy"}, resumed=True)
        tracking.receive(timed("scores", 2.0, round=2, evidence=2.0))
    client, run = open_mlflow(tmp_path / "mlruns")
    assert run.info.status == "RUNNING"  # it was left, as by a driver that detaches
    assert [each.value for each in client.get_metric_history(run.info.run_id, "evidence")] == [1.0, 2.0]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_address_is_taken_from_a_run_directory(tmp_path, monkeypatch, no_network):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    directory = toy_run(tmp_path / "runs", rounds=1)
    (directory.path / "mlflow.json").write_text('{"run": "", "store": "https://collects.example"}')
    with Tracking([make_callback("mlflow")]) as tracking:
        tracking.begin(directory, {"name": "toy"}, resumed=True)
        tracking.receive(timed("scores", 2.0, round=2, evidence=2.0))
    assert open_mlflow(tmp_path / "mlruns")[1].data.metrics == {"evidence": 2.0}


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", ""])
def test_the_store_is_the_one_that_the_user_names(tmp_path, monkeypatch, variable):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    if variable:
        monkeypatch.setenv(variable, (tmp_path / "store").as_uri())
    fit(tmp_path / "run", {"type": "mlflow", "experiment": "grip"} | ({} if variable else {"uri": "store"}))
    client, run = open_mlflow(tmp_path / "store")
    assert client.get_experiment(run.info.experiment_id).name == "grip"
    assert not (tmp_path / "mlruns").exists()
