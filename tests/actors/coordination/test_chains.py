"""Tests of chains and moves: parallel chains, selection by evidence, and proposals of modules."""

import itertools
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from actors.backends.in_process import InProcessBackend
from actors.coordination.coordinator import Coordinator
from actors.coordination.router import seconds_waited
from actors.errors import GraphError
from actors.graph.graph import Graph
from actors.graph.schedule import Block, Schedule, Step
from actors.graph.spec import Connection, ModuleSpec
from actors.module import Module, Outbox, OutgoingMessage, Port
from actors.storage.checkpoints import Checkpoints
from tests.actors.coordination import test_coordinator
from tests.support.events import recorder

ROWS = np.zeros((1, 1))
HERE = "tests.actors.coordination.test_chains"


class Walker(Module):
    """Does a random walk from a random start or a proposed position; its state has the path and the contexts."""

    ports = (
        Port("observations", "in", "forward", "observations"),
        Port("class_means", "in", "backward", "class_means", optional=True),
        Port("latents", "out", "forward", "latent_vectors"),
    )

    @dataclass(frozen=True)
    class Parameters:
        stride: float = 1.0

    def __init__(self, parameters):
        super().__init__(parameters)
        self.path = np.zeros(0)
        self.contexts = np.zeros((0, 3))

    def update(self, inbox, context):
        proposed = inbox.first("class_means")
        if context.learn:
            here = (
                proposed["means"][0, 0]
                if proposed
                else self.path[-1]
                if len(self.path)
                else 100.0 * context.generator.random()
            )
            self.path = np.append(self.path, here + self.parameters.stride * context.generator.normal())
        self.contexts = np.vstack([self.contexts, [context.chain, context.temperature, context.learn]])
        outgoing = OutgoingMessage("latents", {"mean": self.path[-1:, None]})
        return Outbox([outgoing], metrics={"score": -self.path[-1]}, outputs={"path": self.path})

    recognize = update

    def state(self):
        return {"path": self.path.copy(), "contexts": self.contexts.copy()}

    def load_state(self, state):
        self.path, self.contexts = state["path"].copy(), state["contexts"].copy()


class Judge(Module):
    """Reports more evidence the nearer a position is to `goal`; proposes positions nearer to it."""

    ports = (
        Port("latents", "in", "forward", "latent_vectors"),
        Port("class_means", "out", "backward", "class_means"),
    )

    @dataclass(frozen=True)
    class Parameters:
        goal: float = 1000.0
        proposals: int = 0
        reports: bool = True
        scale: float = 1.0

    def __init__(self, parameters):
        super().__init__(parameters)
        self.updates = 0

    def update(self, inbox, context):
        position = inbox.require("latents")["mean"][0, 0]
        self.updates += 1
        distance = abs(position - self.parameters.goal)
        metrics = {"evidence": -self.parameters.scale * distance} if self.parameters.reports else {}
        return Outbox(metrics=metrics, outputs={"updates": np.array([self.updates])})

    recognize = update

    def propose(self, inbox, context):
        if context.proposal >= self.parameters.proposals:
            return Outbox()
        position = inbox.require("latents")["mean"][0, 0]
        nearer = position + (self.parameters.goal - position) * (0.1 + 0.2 * context.proposal)
        return Outbox(
            [OutgoingMessage("class_means", {"means": np.array([[nearer]]), "responsibilities": np.ones((1, 1))})]
        )

    def state(self):
        return {"updates": self.updates}

    def load_state(self, state):
        self.updates = state["updates"]


def model(*steps, rounds=1, walker=None, **judge):
    return Graph(
        [
            ModuleSpec("data", "tests.support.toy_modules:Source"),
            ModuleSpec("walker", f"{HERE}:Walker", walker or {}),
            ModuleSpec("judge", f"{HERE}:Judge", judge),
        ],
        [Connection("data", "walker"), Connection("walker", "judge")],
        Schedule(rounds, steps),
    )


def block(**options):
    return Block((Step("walker"), Step("judge")), **options)


learn = partial(test_coordinator.learn, values=ROWS)


def fields_of(events, wanted, round=None):
    return [fields for name, fields in events if name == wanted and round in (None, fields["round"])]


def by_origin(events, origin, round):
    return [fields["evidence"] for fields in fields_of(events, "chain", round) if fields["origin"] == origin]


def test_the_chain_with_the_most_evidence_is_kept():
    coordinator, events = learn(model(block(repeat=2, chains=5)))
    evidence = by_origin(events, "afresh", 1)
    assert len(set(evidence)) == 5
    assert fields_of(events, "selected")[0]["evidence"] == max(evidence)
    assert coordinator.state("walker")["path"][-1] == pytest.approx(1000.0 + max(evidence))


@pytest.mark.parametrize("seed", range(3))
def test_the_module_itself_continues_from_the_end_of_the_best_chain(seed):
    chains = block(repeat=2, chains=5)
    first, _ = learn(model(chains), seed=seed)
    further, _ = learn(model(chains, Step("walker")), seed=seed)
    np.testing.assert_array_equal(further.state("walker")["path"][:-1], first.state("walker")["path"])


def test_of_chains_with_about_the_same_evidence_the_one_with_the_highest_score_is_kept():
    coordinator, events = learn(model(block(chains=5), scale=1e-6))
    positions = [1000.0 + 1e6 * fields["evidence"] for fields in fields_of(events, "chain")]
    assert coordinator.state("walker")["path"][-1] == pytest.approx(min(positions))  # the score is minus the position


def test_the_first_fresh_chain_equals_a_block_without_chains():
    alone, _ = learn(model(block(repeat=3)))
    _, events = learn(model(block(repeat=3, chains=4)))
    first = next(fields for fields in fields_of(events, "chain") if fields["chain"] == 0)
    assert first["evidence"] == pytest.approx(alone.state("walker")["path"][-1] - 1000.0)


def test_the_incumbent_competes_unchanged_and_continued():
    _, events = learn(model(block(repeat=2, chains=2), rounds=2, walker={"stride": 30.0}))
    before = fields_of(events, "selected", 1)[0]["evidence"]
    origins = sorted(fields["origin"] for fields in fields_of(events, "chain", 2))
    assert origins == ["afresh", "afresh", "continued", "incumbent"]
    assert by_origin(events, "incumbent", 2) == [before]


def test_evidence_never_decreases_if_no_module_below_the_block_learns():
    for seed in range(5):
        _, events = learn(model(block(repeat=1, chains=1), rounds=6, walker={"stride": 50.0}), seed=seed)
        evidence = [fields["evidence"] for fields in fields_of(events, "selected")]
        assert evidence == sorted(evidence)


def test_fresh_chains_are_annealed_and_the_incumbent_is_not():
    calls = []

    class Recording(InProcessBackend):
        def submit_chain(self, call, objects):
            calls.append(call)
            return super().submit_chain(call, objects)

    graph, routed = model(block(repeat=3, anneal=(0.2, 1.0), chains=2), rounds=2), []
    coordinator = Coordinator(graph, Recording(), emit=recorder(routed))
    coordinator.start({"data": {"values": ROWS}})
    coordinator.run_rounds()
    submitted = [(call.position.round, call.position.chain, call.position.learn, call.block.anneal) for call in calls]
    assert sorted(submitted) == [
        (1, 1, True, (0.2, 1.0)),
        (2, 0, False, (1.0, 1.0)),
        (2, 1, True, (0.2, 1.0)),
        (2, 2, True, (0.2, 1.0)),
    ]
    for number, expected in ((1, [0.2, 0.6, 1.0]), (2, [1.0, 1.0, 1.0])):
        updates = fields_of(routed, "update", number)
        assert [f["temperature"] for f in updates if f["module"] == "walker"] == pytest.approx(expected)


def test_proposals_are_accepted_as_long_as_they_raise_the_evidence():
    still = {"stride": 1e-6}
    _, events = learn(model(block(repeat=1, moves=5), proposals=2, walker=still))
    selected = fields_of(events, "selected")[0]
    start = by_origin(events, "afresh", 1)[0]
    assert selected["moves"] == 5
    assert selected["evidence"] == pytest.approx(start * 0.7**5, rel=1e-3)  # the better of two proposals each time
    assert len(by_origin(events, "move 1", 1)) == 2


def test_moves_end_when_none_raises_the_evidence():
    _, events = learn(model(block(repeat=1, moves=5), proposals=2, goal=50.0, walker={"stride": 1e4}))
    selected = fields_of(events, "selected")[0]
    moves = {fields["origin"] for fields in fields_of(events, "chain") if fields["origin"].startswith("move")}
    assert len(moves) == min(selected["moves"] + 1, 5)


def test_a_module_without_proposals_makes_no_moves():
    _, events = learn(model(block(repeat=1, moves=5)))
    assert fields_of(events, "selected")[0]["moves"] == 0
    assert len(fields_of(events, "chain")) == 1


def test_every_chain_has_its_own_random_numbers_in_nested_blocks():
    outer = Block((block(repeat=1, chains=3),), repeat=1, chains=3)
    coordinator, events = learn(model(outer))
    assert len({fields["evidence"] for fields in fields_of(events, "chain")}) >= 3
    assert coordinator.state("walker")["contexts"][0, 0] in range(16)


def test_the_same_seed_gives_the_same_bits(tmp_path):
    digests = []
    for name in ("a", "b"):
        checkpoints = Checkpoints(tmp_path / name)
        learn(model(block(repeat=2, chains=3, moves=2), rounds=3, proposals=3), checkpoints)
        files = checkpoints.latest().modules["walker"].files
        digests.append({label: record.digest for label, record in files.items()})
    assert digests[0] == digests[1]


def test_chains_without_evidence_are_rejected():
    with pytest.raises(GraphError, match=r"none of its modules \(walker, judge\) reports one"):
        learn(model(block(chains=2), reports=False))


def test_the_event_of_a_chain_says_for_how_long_and_until_when_it_computed():
    events = []
    coordinator = Coordinator(
        model(block(repeat=3, chains=3, moves=1), proposals=1),
        InProcessBackend(),
        emit=lambda event: events.append((time.monotonic(), event)),
    )
    coordinator.start({"data": {"values": ROWS}})
    began = time.monotonic()
    coordinator.run_rounds()
    chains = [(at, event) for at, event in events if event.event == "chain"]
    spans = sorted(
        (at - event.waited_seconds - event.seconds, at - event.waited_seconds) for at, event in chains if event.seconds
    )
    own = [event for _, event in chains if not event.seconds]
    assert [(event.chain, event.origin) for event in own] == [(0, "afresh")]  # its updates have events of their own
    assert spans[0][0] > began
    # In this process one chain follows another; each computed before the next one began.
    assert all(ended <= started + 1e-3 for (_, ended), (started, _) in itertools.pairwise(spans))
    assert any(event.event == "proposed" and event.seconds > 0 for _, event in events)


def test_an_end_by_the_clock_of_another_machine_says_nothing():
    now = time.monotonic()
    assert seconds_waited(now - 1.0, 2.0, now - 4.0) == pytest.approx(1.0, abs=0.5)
    assert seconds_waited(now + 1e6, 2.0, now - 4.0) == 0.0
    assert seconds_waited(now - 1e6, 2.0, now - 4.0) == 0.0
    assert seconds_waited(0.0, 0.0, now) == 0.0  # a result that does not say it


@pytest.mark.parametrize(("rounds", "moves", "expected"), [(1, 0, 2), (3, 0, 4), (1, 1, 4)])
def test_chains_are_prepared_for_once_before_the_first_update(rounds, moves, expected):
    prepared, events = [], []

    class Recording(InProcessBackend):
        def prepare_chains(self, block, chains):
            prepared.append((block, chains, [name for name, _ in events]))

    chosen = block(repeat=2, chains=3, moves=moves)
    coordinator = Coordinator(model(Step("walker"), chosen, rounds=rounds), Recording(), emit=recorder(events))
    coordinator.start({"data": {"values": ROWS}})
    coordinator.run_rounds()
    [(asked, chains, before)] = prepared
    assert (asked, chains) == (chosen, expected)
    assert before.count("update") == 1  # only that of the source
    assert before[-1] == "prepared"


def test_a_schedule_that_begins_with_chains_has_nothing_to_prepare_them_beside():
    class Refusing(InProcessBackend):
        def prepare_chains(self, block, chains):
            raise AssertionError

    coordinator = Coordinator(model(block(repeat=2, chains=3), rounds=2), Refusing())
    coordinator.start({"data": {"values": ROWS}})
    coordinator.run_rounds()
