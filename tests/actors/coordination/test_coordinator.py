"""What the coordinator does, over the transport that needs no Ray."""

import numpy as np
import pytest
from actors.graph.spec import Connection, ModuleSpec

from actors.backends.in_process import InProcess
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.storage.checkpoints import Checkpoints

TOYS = "tests.support.toy_modules"
ROWS = np.random.default_rng(0).normal(size=(40, 5))


def model(rounds=2, steps=("encoder", "mirror"), **encoder):
    return Graph(
        [
            ModuleSpec("data", f"{TOYS}:Source"),
            ModuleSpec("encoder", f"{TOYS}:Encoder", encoder),
            ModuleSpec("mirror", f"{TOYS}:Mirror"),
        ],
        [Connection("data", "encoder"), Connection("encoder", "mirror")],
        Schedule(rounds, tuple(Step(step) if isinstance(step, str) else step for step in steps)),
    )


def learn(graph, checkpoints=None, seed=0, values=ROWS):
    events = []
    coordinator = Coordinator(
        graph,
        InProcess(),
        seed=seed,
        checkpoints=checkpoints,
        emit=lambda name, fields: events.append((name, dict(fields))),
    )
    coordinator.start({"data": {"values": values}})
    coordinator.run_rounds()
    return coordinator, events


def test_a_round_lets_every_module_learn_in_the_written_order():
    _, events = learn(model(rounds=2))
    updates = [(fields["round"], fields["module"]) for name, fields in events if name == "update"]
    assert updates == [(0, "data"), (1, "encoder"), (1, "mirror"), (2, "encoder"), (2, "mirror")]


def test_modules_are_prepared_before_their_first_update_and_once():
    _, events = learn(model(rounds=3))
    names = [(name, fields.get("module")) for name, fields in events if name in ("prepared", "update")]
    assert names[:4] == [("prepared", "data"), ("update", "data"), ("prepared", "encoder"), ("update", "encoder")]
    assert sum(name == "prepared" for name, _ in names) == 3


def test_messages_reach_the_next_module_and_come_back_down_in_the_next_round(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=2), checkpoints)
    manifest = checkpoints.manifest("round-002")
    latents = checkpoints.messages(manifest, "encoder")["latents"]
    means = checkpoints.messages(manifest, "mirror")["class_means"]
    assert latents.header.kind == "latent_vectors"
    assert latents.header.sender == "encoder"
    np.testing.assert_array_equal(latents["mean"], checkpoints.outputs(manifest, "encoder")["z"])
    np.testing.assert_allclose(means["means"].mean(0), latents["mean"].mean(0))


def test_one_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    latents = {}
    for run, seed in (("a", 3), ("b", 3), ("c", 4)):
        checkpoints = Checkpoints(tmp_path / run)
        learn(model(), checkpoints, seed)
        latents[run] = checkpoints.outputs(checkpoints.latest(), "encoder")["z"]
    assert latents["a"].tobytes() == latents["b"].tobytes()
    assert latents["a"].tobytes() != latents["c"].tobytes()


def test_parameters_set_for_a_step_hold_for_that_step_alone(tmp_path):
    still = Checkpoints(tmp_path / "still")
    learn(model(1, ("encoder", Step("encoder", {"step": 0.0}))), still)
    moving = Checkpoints(tmp_path / "moving")
    learn(model(1, ("encoder",)), moving)
    first, second = (run.state(run.latest(), "encoder") for run in (still, moving))
    np.testing.assert_array_equal(first["weights"], second["weights"])
    assert (first["updates"], second["updates"]) == (2, 1)


def test_every_round_ends_with_a_commit_and_round_zero_holds_the_data(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=3), checkpoints)
    assert checkpoints.names() == ["round-000", "round-001", "round-002", "round-003"]
    assert set(checkpoints.manifest("round-000").modules) == {"data"}
    assert checkpoints.latest().name == "round-003"
    np.testing.assert_array_equal(checkpoints.messages(checkpoints.latest(), "data")["observations"]["values"], ROWS)


def test_what_did_not_change_is_not_written_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=2), checkpoints)
    assert checkpoints.latest().modules["data"].files["state"].path == "round-000/data.state.safetensors"
    assert not list((tmp_path / "round-002").glob("data.*"))


def test_a_single_update_outside_the_schedule_is_a_step_and_a_commit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    graph = model()
    coordinator = Coordinator(graph, InProcess(), checkpoints=checkpoints)
    coordinator.start({"data": {"values": ROWS}})
    coordinator.update("encoder", 1, 0)
    assert checkpoints.latest().name == "round-001-step-00"
    scheduled = Checkpoints(tmp_path / "scheduled")
    learn(model(1, ("encoder",)), scheduled)
    a, b = (run.state(run.latest(), "encoder")["weights"] for run in (checkpoints, scheduled))
    assert a.tobytes() == b.tobytes()


def test_recognition_answers_for_other_rows_and_learns_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(), checkpoints)
    manifest = checkpoints.latest()
    learnt = {name: checkpoints.state(manifest, name) for name in ("encoder", "mirror")}
    other = np.random.default_rng(1).normal(size=(7, 5))
    coordinator = Coordinator(model(), InProcess())
    outputs = coordinator.recognize(learnt, {"data": {"values": other}}, ordered=True)
    np.testing.assert_array_equal(outputs["encoder"]["z"], other @ learnt["encoder"]["weights"])


def test_what_a_module_raises_reaches_whoever_drives_the_run():
    with pytest.raises(ArithmeticError, match="as the test asked"):
        learn(model(fail_in_round=2))


def test_status_says_the_round_and_how_long_each_module_has_learnt():
    coordinator, _ = learn(model(rounds=2, seconds=0.01))
    status = coordinator.status()
    assert (status["round"], status["rounds"], status["active"]) == (2, 2, {})
    assert status["module_seconds"]["encoder"] >= 0.02
