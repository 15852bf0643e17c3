"""What a person sees of a run."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from actors.graph.graph import Graph
from runner.report import progress
from runner.report.progress import PlainProgress, RichProgress, duration, figures, make_progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def graph(rounds: int = 5) -> Graph:
    """As much of a graph as a display looks at."""
    modules = dict.fromkeys(["data", "vae", "gmm", "mm"])
    schedule = SimpleNamespace(rounds=rounds, steps=(1, 2, 3))
    return cast("Graph", SimpleNamespace(modules=modules, sources=("data",), schedule=schedule))


def updated(module: str, number: int, total: float, **metrics: float) -> tuple[str, dict[str, Any]]:
    return "updated", {"round": number, "step": 0, "module": module, **metrics, "total_seconds": total}


EVENTS: list[tuple[str, Mapping[str, Any]]] = [
    ("placed", {"module": "vae", "node": "10.0.0.1", "pid": 77, "device": "cpu"}),
    ("log", {"message": "vae: the cluster has no GPU [so] it runs on the CPU"}),
    updated("data", 0, 0.01),
    ("commit", {"round": 0, "name": "round-000", "seconds": 0.2}),
    ("round", {"round": 1}),
    ("update", {"round": 1, "step": 0, "module": "vae"}),
    updated("vae", 1, 12.34, loss=98.123456),
    updated("gmm", 1, 2.0, evidence=-123456.78),
    ("commit", {"round": 1, "name": "round-001", "seconds": 0.2}),
    ("scores", {"round": 1, "accuracy": 0.83212, "ari": 0.7, "nmi": 0.7, "evidence": -123456.78}),
    ("round", {"round": 2}),
    updated("vae", 2, 15.34, loss=0.000123456),
    ("scores", {"round": 2, "accuracy": None, "ari": None, "nmi": None, "evidence": None}),
    ("something", {"new": 1}),
]


class TestPlain:
    def test_lines(self) -> None:
        stream = io.StringIO()
        plain = PlainProgress(graph(), stream)
        for name, fields in EVENTS:
            plain.event(name, fields)
        plain.close()
        assert stream.getvalue().splitlines() == [
            "placed  vae  node 10.0.0.1  process 77  cpu",
            "vae: the cluster has no GPU [so] it runs on the CPU",
            "round 1/5  vae  12.3 s  loss=98.12",
            "round 1/5  gmm  2.0 s  evidence=-123456.8",
            "round 1/5  committed  evidence=-123456.8  accuracy=0.832",
            "round 2/5  vae  3.0 s  loss=0.0001235",
            "round 2/5  committed",
        ]

    def test_script_has_no_last_round(self) -> None:
        stream = io.StringIO()
        plain = PlainProgress(graph(rounds=1), stream)
        plain.event(*updated("vae", 1, 1.0))
        plain.event(*updated("vae", 2, 2.0))
        assert stream.getvalue() == "round 1  vae  1.0 s\nround 2  vae  1.0 s\n"

    def test_which_chain_was_selected(self) -> None:
        stream = io.StringIO()
        fields = {"round": 2, "step": 1, "chain": 3, "origin": "afresh", "evidence": 41.25, "moves": 2}
        PlainProgress(graph(), stream).event("selected", fields)
        line = "round 2/5  chains  best: afresh (chain 3)  2 moves kept  evidence=41.25\n"
        assert stream.getvalue() == line

    def test_heartbeat_of_a_long_update(self) -> None:
        stream, clock = io.StringIO(), Clock()
        plain = PlainProgress(graph(), stream, clock)
        active: dict[str, Any] = {"vae": {"doing": "learning", "done": 120, "total": 200, "loss": 101.0}, "mm": {}}
        status = {"round": 1, "rounds": 5, "active": active}
        plain.status(status)
        assert stream.getvalue() == ""
        clock.now += progress.HEARTBEAT
        plain.status(status)
        plain.status(status)
        assert stream.getvalue() == "round 1/5  vae  learning  120/200  loss=101.0\nround 1/5  mm\n"


class TestRich:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    def show(self, rich: RichProgress) -> list[str]:
        """Return the lines of the display; none may be wider than the terminal."""
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

    def test_display(self, clock: Clock) -> None:
        rich = self.quiet(clock)
        assert self.show(rich)[0].startswith("starting")
        for name, fields in EVENTS[2:8]:
            rich.event(name, fields)
        clock.now += 20
        rich.event(*EVENTS[9])
        rich.event("round", {"round": 2})
        clock.now += 5
        doing = {"doing": "learning", "done": 120, "total": 200, "loss": 101.04}
        rich.status({"round": 2, "rounds": 5, "active": {"vae": doing}})
        lines = self.show(rich)
        assert lines[0].split() == ["round", "2/5", "━" * 5 + "╸", "25.0", "s", "about", "1", "min", "15", "s", "left"]
        assert lines[1].startswith("▸ vae")
        assert lines[1].split()[-2:] == ["120/200", "loss=101.0"]
        assert "evidence=-123456.8" in lines[2]
        assert lines[3] == "  mm"
        assert lines[4] == "after round 1/5  evidence=-123456.8  accuracy=0.832"
        assert len(lines) == 5

    @pytest.mark.parametrize("width", [60, 100])
    def test_long_figures_are_cut_before_anything_else(self, clock: Clock, width: int) -> None:
        rich = self.quiet(clock, width=width)
        rich.event("round", {"round": 1})
        rich.event(*updated("gmm", 1, 75.0, **{f"figure{number}": 1.0 for number in range(20)}))
        rich.status({"round": 1, "rounds": 5, "active": {"vae": {"done": 100, "total": 200, "a": 1.0, "b" * 90: 2.0}}})
        lines = self.show(rich)
        assert len(lines) == 4
        assert lines[0].startswith("round 1/5")
        assert "100/200" in lines[1]
        assert lines[1].endswith("…")
        assert "1 min 15 s" in lines[2]

    def test_bar_is_full_in_the_end_and_nothing_is_left(self, clock: Clock) -> None:
        rich = self.quiet(clock, rounds=1)
        rich.event("round", {"round": 1})
        for total, module in enumerate(["vae", "gmm", "mm"]):
            rich.event(*updated(module, 1, total))
        rich.event("scores", {"round": 1, "accuracy": 1.0, "evidence": -1.5})
        assert rich._completed() == 1.0
        assert not any("left" in line for line in self.show(rich))

    def test_live(self, capsys: pytest.CaptureFixture[str]) -> None:
        file = io.StringIO()
        rich = RichProgress(graph(), Console(file=file, width=80, force_terminal=True, color_system=None))
        for name, fields in EVENTS:
            rich.event(name, fields)
        print('{"run": 1}')
        rich.close()
        rich.close()
        assert "no GPU [so] it runs" in file.getvalue()
        assert "round 2/5" in file.getvalue()
        assert file.getvalue().endswith("\x1b[?25h"), "the cursor is back"
        assert capsys.readouterr().out == '{"run": 1}\n'


def test_make_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = make_progress(graph())
    assert isinstance(plain, PlainProgress)
    plain.event(*updated("vae", 1, 1.0))
    assert capsys.readouterr() == ("", "round 1/5  vae  1.0 s\n")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    rich = make_progress(graph(), terminal=True)
    rich.close()
    assert isinstance(rich, RichProgress)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (125, "2 min 05 s"), (3725, "1 h 02 min")],
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_figures() -> None:
    fields = {"round": 1, "a": 0.00001234, "b": -12345678.9, "c": "text", "d": None, "e": 3, "f": float("nan")}
    assert figures(fields) == ["a=1.234e-05", "b=-12345678.9", "e=3", "f=nan"]


def test_a_place_in_a_block_is_no_figure():
    fields = {"round": 1, "step": 2, "module": "mm", "exchange": 3, "temperature": 0.5, "evidence": 12.5}
    assert figures(fields) == ["evidence=12.5"]
