"""Tests that kill the workers of a module in every phase: the results stay bit-identical."""

import numpy as np
import pytest

from actors.backends.fault_injection import HANGS
from actors.coordination.recovery import RecoveryPolicy
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec, Sharing
from actors.limits import STRETCH_ROWS
from actors.storage.checkpoints import Checkpoints
from tests.actors.backends.test_shared_modules import X, graph
from tests.actors.kernels.mixture.test_autoregression import made_rows
from tests.actors.modules.test_models_by_workers import dynamics
from tests.conftest import wait_until
from tests.faults.runs import deaths, digests, named_actors, run, run_undisturbed
from tests.faults.test_matrix import add_to_table

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.usefixtures("ray_cluster")]


def check(tmp_path, faults, rounds, **options):
    expected = run_undisturbed(graph(1, rounds=rounds), tmp_path / "undisturbed", X)
    root = tmp_path / "run" / "checkpoints"
    events = run(graph(3, rounds=rounds), root, faults, X, **options)
    assert len(deaths(root)) == len(faults)
    assert Checkpoints(root).names() == expected.names()
    for fault in faults:
        target, phase, round = fault.split(":")
        assert add_to_table(target, phase, int(round), events, root, expected)
    assert all(digests(Checkpoints(root), name) == digests(expected, name) for name in expected.names())
    wait_until(lambda: not named_actors())


@pytest.mark.parametrize("target", ["kmeans", "kmeans#1", "kmeans#2"])
def test_a_worker_may_die_before_in_and_after_its_part_of_an_update(tmp_path, target):
    phases = ("before", "inside", "after", "answered", *(("save",) if target == "kmeans" else ()))
    check(tmp_path, [f"{target}:{phase}:{2 * n + 1}" for n, phase in enumerate(phases)], 2 * len(phases))


@pytest.mark.parametrize("phase", HANGS)
def test_a_worker_that_does_not_answer_is_replaced(tmp_path, phase):
    check(tmp_path, [f"kmeans#1:{phase}:2"], 3, recovery=RecoveryPolicy(timeout=5.0))


@pytest.mark.parametrize("target", ["ar", "ar#1"])
def test_workers_of_autoregressions_may_die(tmp_path, target):
    """Those after a death get the rows before their chunks again."""
    rows, _, _ = made_rows(blocks=14, length=50)
    expected = run_undisturbed(dynamics(1, rounds=3), tmp_path / "undisturbed", rows)
    root = tmp_path / "run"
    run(dynamics(2, rounds=3), root, [f"{target}:inside:2", f"{target}:after:3"], rows)
    assert len(deaths(root)) == 2
    assert all(digests(Checkpoints(root), name) == digests(expected, name) for name in expected.names())
    wait_until(lambda: not named_actors())


def test_two_workers_may_die_at_once(tmp_path):
    check(tmp_path, ["kmeans#1:inside:2", "kmeans#2:inside:2"], 3)


def test_workers_that_die_while_they_write_their_parts_of_a_commit_write_them_again(tmp_path):
    rows = np.random.default_rng(0).normal(size=(STRETCH_ROWS + 270_000, 3)).astype(np.float32)
    pca = ModuleSpec("pca", "pca", {"latent_dim": 2}, sharing=Sharing(2, 32_768))
    steps = Schedule(2, (Step("pca"),))
    model = Graph([ModuleSpec("data", "observation"), pca], [Connection("data", "pca")], steps)
    expected = run_undisturbed(model, tmp_path / "undisturbed", rows)
    root = tmp_path / "run" / "checkpoints"
    run(model, root, ["pca#1:save:1", "pca:save:2"], rows)
    assert len(deaths(root)) == 2
    assert len(Checkpoints(root).latest().modules["pca"].parts_of("outputs")) == 3
    assert digests(Checkpoints(root), "round-002") == digests(expected, "round-002")
    wait_until(lambda: not named_actors())
