"""The run directory of a run whose outputs are in parts: read part by part, with the results of whole outputs."""

import logging

import numpy as np
import pytest

from actors.backends import module_host, shard_host
from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule
from actors.graph.spec import Connection, ModuleSpec
from actors.kernels.row_sample import spread_rows
from actors.sharing import chunks, shard
from actors.storage import parts as stored_parts
from actors.storage.checkpoints import Checkpoints
from runner.report import plots
from runner.runs import artifacts, outputs
from runner.runs.directory import RunDirectory
from tests.actors.backends.test_parts import ROWS, STRETCH, X, graph

LABELS = np.arange(ROWS) % 3


def recorded(path, model):
    """Return the directory of a run of two rounds, both recorded."""
    path.mkdir()
    directory = RunDirectory(path, model, categories={"": LABELS})
    coordinator = Coordinator(model, InProcessBackend(), run=path.name, checkpoints=Checkpoints(path / "checkpoints"))
    coordinator.start({"data": {"values": X}})
    coordinator.run_rounds()
    for commit in ("round-001", "round-002"):
        directory.record(commit)
    return directory


@pytest.fixture
def both(tmp_path, monkeypatch):
    """The directories of a run of few rows, and of the same one as if its rows were many."""
    few = recorded(tmp_path / "few", graph())
    for place in (chunks, stored_parts):
        monkeypatch.setattr(place, "STRETCH_ROWS", STRETCH)
    for place in (shard, shard_host, module_host):
        monkeypatch.setattr(place, "MAX_WHOLE_ROWS", 200)
    for place in (shard, module_host):
        monkeypatch.setattr(place, "SAMPLED_OUTPUT_ROWS", 90)
    monkeypatch.setattr(outputs, "TEXT_ROWS", 110)
    monkeypatch.setattr(artifacts, "MAX_PLOTTED_ROWS", 50)
    return few, recorded(tmp_path / "many", graph(3))


def test_many_rows_have_the_measures_and_the_outputs_of_few(both):
    few, many = both
    assert many.metrics_file.rows() == few.metrics_file.rows()
    assert many.metrics_file.rows()[-1]["accuracy"] > 0.9
    for module, name in (("gmm", "class"), ("gmm", "Pdz"), ("mm", "viterbi"), ("pca", "z"), ("gmm", "class_matched")):
        read = many.read_output(module, name, "learn")
        np.testing.assert_array_equal(read, few.read_output(module, name, "learn"))
        files = sorted(path.name for path in (many.module_directory(module) / f"{name}_learn").iterdir())
        assert files == ["000000000.npy", "000000110.npy", "000000220.npy"]
        assert (few.module_directory(module) / f"{name}_learn.txt").exists()
    for module, name in (("mm", "trans_prob"), ("gmm", "mu")):
        of_few, of_many = (each.read_output(module, name, "learn") for each in both)
        np.testing.assert_array_equal(of_many, of_few)
    sampled = many.read_output("pca", "x_hat_rows", "learn")
    np.testing.assert_array_equal(sampled, spread_rows(ROWS, 90))
    reconstructed, all_rows = (each.read_output("pca", "x_hat", "learn") for each in (many, few))
    np.testing.assert_array_equal(reconstructed, all_rows[sampled])


def test_the_log_says_once_what_is_not_as_with_few_rows(both, tmp_path, caplog):
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        _, many = both
        again = RunDirectory(many.path, many.graph, categories={"": LABELS})
        for commit in ("round-001", "round-002"):
            again.record(commit)
    assert sorted(record.getMessage() for record in caplog.records) == [
        "module001_pca: x_hat has 90 of the rows, evenly spread; x_hat_rows says which",
        "module001_pca: z_learn: 300 rows are not written as text but as .npy files of 110 rows, such as "
        "z_learn/000000000.npy; read them with numpy.load",
        "module002_gmm: Pdz_learn, class_learn: 300 rows are not written as text but as .npy files of 110 rows, such "
        "as Pdz_learn/000000000.npy; read them with numpy.load",
        "module003_mm: Pdz_learn, msg_learn, viterbi_learn: 300 rows are not written as text but as .npy files of 110 "
        "rows, such as Pdz_learn/000000000.npy; read them with numpy.load",
        "pca: reconstructions of more than 100,000 rows are not sent: no module reads them",
    ]


def test_plots_of_many_rows_have_some_of_them(both, monkeypatch):
    few, many = both
    drawn = {}

    def draw_latents(before, after, colours, file, names):
        drawn[len(after)] = before, after, colours, names
        file.write(b"")

    monkeypatch.setattr(plots, "draw_latents", draw_latents)
    monkeypatch.setattr(artifacts, "MAX_PLOTTED_ROWS", 20_000)
    artifacts.draw_plots(few)
    monkeypatch.setattr(artifacts, "MAX_PLOTTED_ROWS", 50)
    assert {path.name for path in artifacts.draw_plots(many)} >= {"confusion.png", "transitions.png", "latents.png"}
    rows = spread_rows(ROWS, 50)
    for of_few, of_many in zip(drawn[ROWS][:3], drawn[50][:3], strict=True):
        np.testing.assert_array_equal(of_many, of_few[rows])
    assert drawn[ROWS][3] == ("after round 1", "after round 2")
    assert drawn[50][3][1] == "after round 2, 50 of 300 rows"


def test_a_module_without_workers_keeps_and_sends_the_same_of_many_rows(tmp_path, monkeypatch):
    specs = [ModuleSpec("data", "observation"), ModuleSpec("pca", "pca", {"latent_dim": 2})]
    model = Graph(specs, [Connection("data", "pca")], Schedule(1, ()))
    few = recorded_results(model)
    monkeypatch.setattr(module_host, "MAX_WHOLE_ROWS", 200)
    monkeypatch.setattr(module_host, "SAMPLED_OUTPUT_ROWS", 90)
    many, rows = recorded_results(model), spread_rows(ROWS, 90)
    np.testing.assert_array_equal(many.outputs["x_hat"], few.outputs["x_hat"][rows])
    np.testing.assert_array_equal(many.outputs["x_hat_rows"], rows)
    assert "reconstructions" in few.messages
    assert "reconstructions" not in many.messages


def recorded_results(model):
    coordinator = Coordinator(model, InProcessBackend())
    coordinator.start({"data": {"values": X}})
    coordinator.run_rounds()
    return coordinator._router.results["pca"]
