"""The module in docs/workers.md, as a reader would copy it: 40 lines that any number of workers can run."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.conformance import iter_outcomes
from actors.conformance.sharing_checks import SharingChecks
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing

PAGE = Path(__file__).parents[3] / "docs/workers.md"


@pytest.fixture
def module(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "documented_kmeans.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield "documented_kmeans:KMeans", code
    sys.modules.pop("documented_kmeans", None)


def test_its_class_has_about_forty_lines(module):
    body = module[1].partition("class KMeans")[2].splitlines()
    assert sum(bool(line.strip()) for line in body) <= 40


def test_it_learns_clusters_with_any_number_of_workers(module):
    X = np.random.default_rng(0).normal(size=(600, 2)) + 8.0 * np.array([[0, 0], [1, 0], [0, 1]])[np.arange(600) % 3]
    found = []
    for workers in (1, 4):
        specs = [
            ModuleSpec("data", "observation"),
            ModuleSpec("pca", "pca", {"latent_dim": 2}),
            ModuleSpec("kmeans", module[0], {"iterations": 10}, sharing=Sharing(workers, chunk=100)),
        ]
        connections = [Connection("data", "pca"), Connection("pca", "kmeans")]
        graph = Graph(specs, connections, Schedule(1, (Step("pca"), Step("kmeans"))))
        coordinator = Coordinator(graph, InProcessBackend(), seed=1)
        coordinator.start({"data": {"values": X}})
        coordinator.run_rounds()
        found.append(coordinator.outputs("kmeans"))
    np.testing.assert_array_equal(found[0]["class"], found[1]["class"])
    assert len({tuple(found[0]["class"][k::3]) for k in range(3)}) == 3
    for k in range(3):
        assert len(set(found[0]["class"][k::3].tolist())) == 1


def test_it_shares_rows_as_the_checks_demand(module):
    class Checks(SharingChecks):
        module = "documented_kmeans:KMeans"

    names = {name.removeprefix("test_") for name in vars(SharingChecks) if name.startswith("test_")}
    names -= {"runs_that_it_has_learnt_in_can_be_merged"}  # its state has no counts
    verdicts = {outcome.name: outcome for outcome in iter_outcomes(Checks) if outcome.name in names}
    assert {outcome.verdict for outcome in verdicts.values()} == {"passed"}, verdicts
    assert len(verdicts) == len(names) == 3
