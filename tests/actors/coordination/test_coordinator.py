"""Tests of the coordinator with the in-process backend."""

import time

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.graph.graph import Graph
from actors.graph.schedule import Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.storage.checkpoints import Checkpoints
from tests.support.events import recorder

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
        InProcessBackend(),
        seed=seed,
        checkpoints=checkpoints,
        emit=recorder(events),
    )
    coordinator.start({"data": {"values": values}})
    coordinator.run_rounds()
    return coordinator, events


def test_a_round_updates_the_modules_in_the_order_of_the_schedule():
    _, events = learn(model(rounds=2))
    updates = [(fields["round"], fields["module"]) for name, fields in events if name == "update"]
    assert updates == [(0, "data"), (1, "encoder"), (1, "mirror"), (2, "encoder"), (2, "mirror")]


def test_modules_are_prepared_once_before_their_first_update():
    _, events = learn(model(rounds=3))
    names = [(name, fields.get("module")) for name, fields in events if name in ("prepared", "update")]
    assert names[:4] == [("prepared", "data"), ("update", "data"), ("prepared", "encoder"), ("update", "encoder")]
    assert sum(name == "prepared" for name, _ in names) == 3


def test_messages_are_routed_up_in_a_round_and_down_in_the_next(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=2), checkpoints)
    manifest = checkpoints.manifest("round-002")
    latents = checkpoints.messages(manifest, "encoder")["latents"]
    means = checkpoints.messages(manifest, "mirror")["class_means"]
    assert latents.header.kind == "latent_vectors"
    assert latents.header.sender == "encoder"
    np.testing.assert_array_equal(latents["mean"], checkpoints.outputs(manifest, "encoder")["z"])
    np.testing.assert_allclose(means["means"].mean(0), latents["mean"].mean(0))


def test_the_bits_depend_only_on_the_seed(tmp_path):
    latents = {}
    for run, seed in (("a", 3), ("b", 3), ("c", 4)):
        checkpoints = Checkpoints(tmp_path / run)
        learn(model(), checkpoints, seed)
        latents[run] = checkpoints.outputs(checkpoints.latest(), "encoder")["z"]
    assert latents["a"].tobytes() == latents["b"].tobytes()
    assert latents["a"].tobytes() != latents["c"].tobytes()


def test_parameters_of_a_step_apply_only_to_that_step(tmp_path):
    still = Checkpoints(tmp_path / "still")
    learn(model(1, ("encoder", Step("encoder", {"step": 0.0}))), still)
    moving = Checkpoints(tmp_path / "moving")
    learn(model(1, ("encoder",)), moving)
    first, second = (run.state(run.latest(), "encoder") for run in (still, moving))
    np.testing.assert_array_equal(first["weights"], second["weights"])
    assert (first["updates"], second["updates"]) == (2, 1)


def test_every_round_ends_with_a_commit_and_round_zero_has_the_data(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=3), checkpoints)
    assert checkpoints.names() == ["round-000", "round-001", "round-002", "round-003"]
    assert set(checkpoints.manifest("round-000").modules) == {"data"}
    assert checkpoints.latest().name == "round-003"
    np.testing.assert_array_equal(checkpoints.messages(checkpoints.latest(), "data")["observations"]["values"], ROWS)


def test_unchanged_modules_are_not_written_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(rounds=2), checkpoints)
    assert checkpoints.latest().modules["data"].files["state"].path == "round-000/data.state.safetensors"
    assert not list((tmp_path / "round-002").glob("data.*"))


def test_an_update_outside_the_schedule_is_committed_as_a_step(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    graph = model()
    coordinator = Coordinator(graph, InProcessBackend(), checkpoints=checkpoints)
    coordinator.start({"data": {"values": ROWS}})
    coordinator.update("encoder", 1, 0)
    assert checkpoints.latest().name == "round-001-step-00"
    scheduled = Checkpoints(tmp_path / "scheduled")
    learn(model(1, ("encoder",)), scheduled)
    a, b = (run.state(run.latest(), "encoder")["weights"] for run in (checkpoints, scheduled))
    assert a.tobytes() == b.tobytes()


def test_recognition_of_new_rows_does_not_learn(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    learn(model(), checkpoints)
    manifest = checkpoints.latest()
    states = {name: checkpoints.state(manifest, name) for name in ("encoder", "mirror")}
    other = np.random.default_rng(1).normal(size=(7, 5))
    coordinator = Coordinator(model(), InProcessBackend())
    outputs = coordinator.recognize(states, {"data": {"values": other}}, ordered=True)
    np.testing.assert_array_equal(outputs["encoder"]["z"], other @ states["encoder"]["weights"])


def test_the_exception_of_a_module_is_raised():
    with pytest.raises(ArithmeticError, match="as the test asked"):
        learn(model(fail_in_round=2))


def test_status_has_the_round_and_the_seconds_of_each_module():
    coordinator, _ = learn(model(rounds=2, seconds=0.01))
    status = coordinator.status()
    assert (status["round"], status["rounds"], status["active"]) == (2, 2, {})
    assert status["module_seconds"]["encoder"] >= 0.02


def test_events_say_when_each_module_computed_although_an_answer_is_taken_late():
    sources = [ModuleSpec(name, f"{TOYS}:Source") for name in ("data", "other")]
    encoders = [ModuleSpec(name, f"{TOYS}:Encoder", {"seconds": 0.15}) for name in ("one", "two")]
    graph = Graph(
        [*sources, *encoders],
        [Connection("data", "one"), Connection("other", "two")],
        Schedule(1, (Step("one"), Step("two"))),
    )
    events = []
    coordinator = Coordinator(graph, InProcessBackend(), emit=lambda event: events.append((time.monotonic(), event)))
    coordinator.start({name: {"values": ROWS} for name in ("data", "other")})
    coordinator.run_rounds()
    updated = {event.module: (at, event) for at, event in events if event.event == "updated" and event.round}
    ends = {name: at - event.waited_seconds for name, (at, event) in updated.items()}
    # In process they computed one after the other, and both answers were taken in the end.
    assert updated["one"][1].waited_seconds >= 0.15
    assert ends["two"] - updated["two"][1].seconds >= ends["one"] - 1e-3
