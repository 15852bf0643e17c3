"""The history of a run: who worked when, what was measured in each round, and what died."""

from actors.coordination.events import (
    ChainFinished,
    ModuleDied,
    ModulePlaced,
    ModuleRecovered,
    TimedEvent,
    UpdateFinished,
    UpdateStarted,
)
from runner.runs import history
from runner.runs.history import RunHistory


def read(*events):
    return RunHistory.read(TimedEvent(when, event) for when, event in events)


def test_a_module_computed_from_its_end_back_but_not_before_it_was_called():
    found = read(
        (100.0, ModulePlaced("gmm", "10.0.0.1", 7, "cpu")),
        (110.0, UpdateStarted(0, "gmm", 1)),
        (116.0, UpdateFinished(0, "gmm", 1, seconds=3.0, waited_seconds=1.0)),
        (120.0, UpdateStarted(0, "gmm", 1)),
        (122.0, UpdateFinished(0, "gmm", 1, seconds=9.0)),
    )
    assert found.spans == {"gmm": [(12.0, 3.0), (20.0, 2.0)]}
    assert found.places == {"gmm": "10.0.0.1, process 7, cpu"}


def test_the_last_update_of_a_round_gives_its_metrics():
    found = read(
        (1.0, UpdateFinished(0, "gmm", 0, metrics={"evidence": 9.0})),
        (2.0, UpdateFinished(0, "gmm", 1, metrics={"evidence": 1.0})),
        (3.0, UpdateFinished(1, "gmm", 1, metrics={"evidence": 2.0, "bound": 5.0})),
        (4.0, UpdateFinished(0, "gmm", 2, metrics={"evidence": 3.0})),
    )
    assert found.metrics == {"gmm": {"evidence": [(1, 2.0), (2, 3.0)], "bound": [(1, 5.0)]}}


def test_chains_have_spans_of_their_own():
    found = read(
        (10.0, ChainFinished(1, 0, 0, "incumbent", 1.0)),
        (20.0, ChainFinished(1, 0, 1, "afresh", 1.0, seconds=4.0, waited_seconds=2.0)),
    )
    assert found.chains == [(4.0, 4.0)]


def test_deaths_and_recoveries_are_listed_and_of_many_the_last(monkeypatch):
    monkeypatch.setattr(history, "MAX_INCIDENTS", 2)
    found = read(
        (1.0, ModuleDied("gmm", "update", 1, "killed")),
        (2.0, ModuleRecovered("gmm", 0.5)),
        (3.0, ModuleDied("mm", "update", 1, "out of memory")),
    )
    assert [(each.time, each.what, each.module) for each in found.incidents] == [
        (2.0, "recovered", "gmm"),
        (3.0, "died", "mm"),
    ]
    assert found.omitted == 1
