"""Tests of the progress displays."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from actors.coordination.events import Event, parse_event
from actors.graph.graph import Graph
from runner.report import progress
from runner.report.progress import (
    PlainProgress,
    RichProgress,
    format_duration,
    format_metrics,
    make_progress,
    sparkline,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def graph(rounds: int = 5) -> Graph:
    """Return an object with the attributes of a graph that the displays use."""
    modules = dict.fromkeys(["data", "vae", "gmm", "mm"])
    schedule = SimpleNamespace(rounds=rounds, steps=(1, 2, 3))
    connections = [SimpleNamespace(lower=lower, upper=upper) for lower, upper in pairwise(modules)]
    drawn = SimpleNamespace(modules=modules, sources=("data",), schedule=schedule, connections=connections)
    return cast("Graph", drawn)


def event(name: str, fields: Mapping[str, Any]) -> Event:
    parsed = parse_event(name, fields)
    assert parsed is not None
    return parsed


def updated(module: str, number: int, seconds: float, **metrics: float) -> Event:
    return event("updated", {"round": number, "step": 0, "module": module, **metrics, "seconds": seconds})


EVENTS: list[Event] = [
    event("placed", {"module": "vae", "node": "10.0.0.1", "pid": 77, "device": "cpu"}),
    event("log", {"message": "vae: the cluster has no GPU [so] it runs on the CPU"}),
    updated("data", 0, 0.01),
    event("commit", {"round": 0, "name": "round-000", "whole": True, "seconds": 0.2}),
    event("round", {"round": 1}),
    event("update", {"round": 1, "step": 0, "module": "vae"}),
    updated("vae", 1, 12.34, loss=98.123456),
    updated("gmm", 1, 2.0, evidence=-123456.78),
    event("commit", {"round": 1, "name": "round-001", "whole": True, "seconds": 0.2}),
    event("scores", {"round": 1, "accuracy": 0.83212, "ari": 0.7, "nmi": 0.7, "evidence": -123456.78}),
    event("round", {"round": 2}),
    updated("vae", 2, 3.0, loss=0.000123456),
    event("scores", {"round": 2, "accuracy": None, "ari": None, "nmi": None, "evidence": None}),
]


class TestPlain:
    def test_events_are_written_as_lines(self) -> None:
        stream = io.StringIO()
        plain = PlainProgress(graph(), stream)
        for each in EVENTS:
            plain.event(each)
        plain.close()
        assert stream.getvalue().splitlines() == [
            "placed  vae  node 10.0.0.1  process 77  cpu",
            "vae: the cluster has no GPU [so] it runs on the CPU",
            "round 1/5  vae  12.3 s  loss=98.12",
            "round 1/5  gmm  2.0 s  own evidence=-123456.8 nats",
            "round 1/5  committed  evidence=-123456.8 nats  accuracy=0.832",
            "round 2/5  vae  3.0 s  loss=0.0001235",
            "round 2/5  committed",
        ]

    def test_rounds_after_the_last_scheduled_one_have_no_total(self) -> None:
        stream = io.StringIO()
        plain = PlainProgress(graph(rounds=1), stream)
        plain.event(updated("vae", 1, 1.0))
        plain.event(updated("vae", 2, 1.0))
        assert stream.getvalue() == "round 1  vae  1.0 s\nround 2  vae  1.0 s\n"

    def test_the_selected_chain_is_written(self) -> None:
        stream = io.StringIO()
        fields = {"round": 2, "step": 1, "chain": 3, "origin": "afresh", "evidence": 41.25, "moves": 2}
        PlainProgress(graph(), stream).event(event("selected", fields))
        line = "round 2/5  chains  best: afresh (chain 3)  2 moves kept  evidence=41.25 nats\n"
        assert stream.getvalue() == line

    def test_a_script_has_a_line_for_each_update(self) -> None:
        stream = io.StringIO()
        plain = PlainProgress(graph(rounds=1), stream, single=True)
        for module in ("gmm", "mm"):
            plain.event(updated(module, 1, 0.1, evidence=-3.0))
            plain.event(event("scores", {"round": 1, "evidence": -2.0, "accuracy": 0.75 if module == "gmm" else None}))
        assert stream.getvalue().splitlines() == [
            "round 1  gmm  0.1 s  own evidence=-3 nats  accuracy=0.750",
            "round 1  mm  0.1 s  own evidence=-3 nats",
        ]

    def test_a_script_that_is_not_verbose_has_only_sentences(self, capsys: pytest.CaptureFixture[str]) -> None:
        quiet = progress.make_script_progress(graph(), verbose=False)
        for each in EVENTS:
            quiet.event(each)
        quiet.log("data: 3 rows")
        assert capsys.readouterr().err.splitlines() == [EVENTS[1].message, "data: 3 rows"]  # type: ignore[attr-defined]

    def test_the_progress_of_a_long_update_is_written_after_the_heartbeat_interval(self) -> None:
        stream, clock = io.StringIO(), Clock()
        plain = PlainProgress(graph(), stream, clock)
        active: dict[str, Any] = {"vae": {"doing": "learning", "done": 120, "total": 200, "loss": 101.0}, "mm": {}}
        status = {"round": 1, "rounds": 5, "active": active}
        plain.status(status)
        assert stream.getvalue() == ""
        clock.now += progress.HEARTBEAT_SECONDS
        plain.status(status)
        plain.status(status)
        assert stream.getvalue() == "round 1/5  vae  learning  120/200  loss=101.0\nround 1/5  mm\n"


class TestRich:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    def show(self, rich: RichProgress) -> list[str]:
        """Return the lines of the display, after a check that none is wider than the terminal."""
        console = rich._console
        cast("io.StringIO", console.file).seek(0)
        cast("io.StringIO", console.file).truncate()
        console.print(rich.render())
        lines = [line.rstrip() for line in cast("io.StringIO", console.file).getvalue().splitlines()]
        assert max(map(len, lines)) <= console.width
        return lines

    def quiet(self, clock: Clock, rounds: int = 5, width: int = 100) -> RichProgress:
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, legacy_windows=False)
        return RichProgress(graph(rounds), console, clock, live=False)

    def test_display_shows_rounds_modules_and_scores(self, clock: Clock) -> None:
        rich = self.quiet(clock)
        assert self.show(rich)[0].startswith("starting")
        for each in EVENTS[2:8]:
            rich.event(each)
        clock.now += 20
        rich.event(EVENTS[9])
        rich.event(event("round", {"round": 2}))
        clock.now += 5
        doing = {"doing": "learning", "done": 120, "total": 200, "loss": 101.04}
        rich.status({"round": 2, "rounds": 5, "active": {"vae": doing}})
        lines = self.show(rich)
        assert lines[0].split() == ["round", "2/5", "━" * 5 + "╸", "25.0", "s", "about", "1", "min", "15", "s", "left"]
        assert lines[1] == "  mm"
        assert lines[2].startswith("  └ gmm ")
        assert "own evidence=-123456.8 nats" in lines[2]
        assert lines[3].startswith("▸   └ vae ")
        assert lines[3].split()[-2:] == ["120/200", "loss=101.0"]
        assert lines[4] == "after round 1/5  evidence=-123456.8 nats  accuracy=0.832"
        assert len(lines) == 5

    @pytest.mark.parametrize("width", [60, 100])
    def test_only_metrics_are_truncated(self, clock: Clock, width: int) -> None:
        rich = self.quiet(clock, width=width)
        rich.event(event("round", {"round": 1}))
        rich.event(updated("gmm", 1, 75.0, **{f"figure{number}": 1.0 for number in range(20)}))
        rich.status({"round": 1, "rounds": 5, "active": {"vae": {"done": 100, "total": 200, "a": 1.0, "b" * 90: 2.0}}})
        lines = self.show(rich)
        assert len(lines) == 4
        assert lines[0].startswith("round 1/5")
        assert "100/200" in lines[3]
        assert lines[3].endswith("…")
        assert "1 min 15 s" in lines[2]

    def test_at_the_end_the_bar_is_full_and_no_remaining_time_is_shown(self, clock: Clock) -> None:
        rich = self.quiet(clock, rounds=1)
        rich.event(event("round", {"round": 1}))
        for total, module in enumerate(["vae", "gmm", "mm"]):
            rich.event(updated(module, 1, total))
        rich.event(event("scores", {"round": 1, "accuracy": 1.0, "evidence": -1.5}))
        assert rich._completed() == 1.0
        assert not any("left" in line for line in self.show(rich))

    def test_evidence_is_a_line_of_bars(self, clock: Clock) -> None:
        rich = self.quiet(clock)
        for number, evidence in enumerate([0.0, 7.0, 3.0], start=1):
            rich.event(event("scores", {"round": number, "evidence": evidence}))
        assert self.show(rich)[-1] == "after round 3/5  evidence=3 nats  ▁█▄"

    def test_deaths_are_counted_and_a_module_that_died_is_marked_until_it_is_back(self, clock: Clock) -> None:
        rich = self.quiet(clock)
        rich.event(event("lost", {"module": "gmm", "doing": "update", "times": 1, "reason": "killed"}))
        lines = self.show(rich)
        assert lines[2].split() == ["✗", "└", "gmm", "died", "is", "restarted"]
        assert lines[-1] == "1 death, gmm not back yet"
        rich.event(event("recovered", {"module": "gmm", "seconds": 1.0}))
        lines = self.show(rich)
        assert lines[2] == "  └ gmm"
        assert lines[-1] == "1 death, all are back"

    def test_live_display_leaves_stdout_unchanged_and_restores_the_cursor(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = io.StringIO()
        rich = RichProgress(graph(), Console(file=file, width=80, force_terminal=True, color_system=None))
        for each in EVENTS:
            rich.event(each)
        print('{"run": 1}')
        rich.close()
        rich.close()
        assert "no GPU [so] it runs" in file.getvalue()
        assert "round 2/5" in file.getvalue()
        assert file.getvalue().endswith("\x1b[?25h"), "the cursor is shown again"
        assert capsys.readouterr().out == '{"run": 1}\n'


def test_the_display_depends_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_progress(graph())
    assert isinstance(plain, PlainProgress)
    plain.event(updated("vae", 1, 1.0))
    assert capsys.readouterr() == ("", "round 1/5  vae  1.0 s\n")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    rich = make_progress(graph(), terminal=True)
    rich.close()
    assert isinstance(rich, RichProgress)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([2.0], "▄"),
        ([1.0, 1.0], "▄▄"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([-1.7e308, float("nan"), 1.7e308], "▁█"),
    ],
)
def test_the_least_value_has_the_lowest_bar(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars


def test_a_module_with_two_above_it_is_drawn_once() -> None:
    pairs = [("data", "gmm"), ("gmm", "mlda"), ("words", "mlda"), ("gmm", "mm")]
    connections = [SimpleNamespace(lower=lower, upper=upper) for lower, upper in pairs]
    modules = dict.fromkeys(["data", "words", "gmm", "mlda", "mm"])
    drawn = SimpleNamespace(modules=modules, sources=("data", "words"), connections=connections)
    assert progress._tree_of(cast("Graph", drawn)) == {"mm": "", "gmm": "└ ", "mlda": ""}


def test_only_numeric_metrics_are_formatted() -> None:
    metrics = {"a": 0.00001234, "b": -12345678.9, "c": "text", "d": None, "e": 3, "f": float("nan"), "accuracy": 0.25}
    assert format_metrics(metrics) == ["a=1.234e-05", "b=-12345678.9", "e=3", "f=nan", "accuracy=0.250"]


def test_the_position_in_a_block_is_not_a_metric():
    fields = {"round": 1, "step": 2, "module": "mm", "exchange": 3, "temperature": 0.5, "evidence": 12.5}
    assert event("updated", fields).metrics == {"evidence": 12.5}
