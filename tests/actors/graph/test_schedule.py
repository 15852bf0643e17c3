"""Blocks of steps: exchanges, temperatures, early ends, and unique positions of updates."""

import pytest

from actors.graph.schedule import Block, Schedule, Step, numbered
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination.test_coordinator import learn, model

INNER = Block((Step("encoder"), Step("mirror")), repeat=3, anneal=(0.5, 1.0))


def updates(events):
    return [fields for name, fields in events if name == "update" and fields["round"]]


def test_a_block_repeats_its_steps_and_raises_the_temperature_linearly():
    _, events = learn(model(1, (INNER,)))
    assert [(f["module"], f["exchange"], f["temperature"]) for f in updates(events)] == [
        ("encoder", 0, 0.5), ("mirror", 0, 0.5), ("encoder", 1, 0.75), ("mirror", 1, 0.75),
        ("encoder", 2, 1.0), ("mirror", 2, 1.0),
    ]  # fmt: skip


def test_steps_are_numbered_in_written_order_through_blocks():
    steps = (Step("a"), Block((Step("b"), Block((Step("c"),)), Step("d"))), Step("e"))
    assert [index for index, _ in numbered(steps)] == [0, 1, 4]
    assert [step.module for step in Schedule(1, steps).leaves()] == ["a", "b", "c", "d", "e"]


def test_nested_blocks_multiply_temperatures_and_positions_are_unique():
    outer = Block((Step("encoder"), INNER), repeat=2, anneal=(0.5, 1.0))
    _, events = learn(model(2, (Step("encoder"), outer, Step("mirror"))))
    done = updates(events)
    positions = [(f["round"], f["step"], f.get("exchange", 0)) for f in done]
    assert len(set(positions)) == len(positions) == 2 * (1 + 2 * (1 + 3 * 2) + 1)
    assert [f["temperature"] for f in done if f["module"] == "mirror" and f["round"] == 1 and "exchange" in f] == [
        0.25, 0.375, 0.5, 0.5, 0.75, 1.0,
    ]  # fmt: skip


def test_a_block_of_one_exchange_has_the_last_temperature():
    assert Block((), repeat=1, anneal=(0.2, 0.9)).temperature(0) == 0.9


@pytest.mark.parametrize(("step", "exchanges"), [(0.0, 2), (1.0, 6)])
def test_exchanges_end_early_at_the_last_temperature_when_the_evidence_is_constant(step, exchanges):
    # The encoder's evidence depends on its weights alone: with step 0 nothing changes after the first exchange.
    steps = (Step("encoder"), Block((Step("encoder", {"step": step}),), repeat=6, anneal=(1.0, 1.0), tolerance=1e-9))
    _, events = learn(model(1, steps))
    block = next(fields for name, fields in events if name == "block")
    assert block["exchanges"] == exchanges


def test_exchanges_do_not_end_before_the_last_temperature():
    steps = (Block((Step("encoder", {"step": 0.0}),), repeat=4, anneal=(0.5, 1.0), tolerance=1e9),)
    _, events = learn(model(1, steps))
    assert next(fields for name, fields in events if name == "block")["exchanges"] == 4


def test_events_outside_blocks_have_no_exchange():
    _, events = learn(model(1))
    assert all("exchange" not in fields for fields in updates(events))


def constant_score_model(rounds, tolerance, **encoder):
    graph = model(rounds, ("encoder",), **encoder)
    graph.schedule = Schedule(rounds, graph.schedule.steps, tolerance)
    return graph


def test_a_run_ends_with_the_round_that_does_not_raise_the_score():
    coordinator, events = learn(constant_score_model(9, 0.5, step=0.0))
    assert coordinator.round == 2
    assert [fields["rise"] for name, fields in events if name == "settled"] == [0.0]


def test_rounds_continue_while_the_score_rises_or_without_a_tolerance():
    assert learn(constant_score_model(5, -1e9))[0].round == 5
    assert learn(constant_score_model(5, None, step=0.0))[0].round == 5


def test_the_score_is_committed_with_the_round(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    coordinator, _ = learn(constant_score_model(3, None), checkpoints)
    evidence = checkpoints.latest().modules["encoder"].metrics["evidence"]
    assert checkpoints.latest().score == coordinator.score() == evidence
