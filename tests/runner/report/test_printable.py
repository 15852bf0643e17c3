"""What terminals and spreadsheets may be shown of texts from outside."""

import csv
import io
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.report.clustering_metrics import Scores
from runner.report.console import SafeConsole
from runner.report.printable import PrintableFormatter, csv_cell, printable, printable_line
from runner.runs.records import MetricsFile, RoundScores
from tests.support.bounded import bounded

ATTACKS = [
    "\x1b[31mred", "\x1b]0;title\x07", "\x1b]52;c;aGk=\x07", "\x9b31m", "\x08\x08\x08ok", "a\rserket: done", "\x00", "\x7f",
    "\u202etxt.exe", "\u2066x\u2069", "\u200b", "\u200fx", "\u2028line", "\ud800", "\udcff", "\ufeff", "\U000e0041", "\x0b\x0c",
]  # fmt: skip


def unsafe(text: str) -> list[str]:
    """Return the characters of a text that a terminal could act upon."""
    kept = "\n\t\u200c\u200d"
    return [c for c in text if c not in kept and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@pytest.mark.parametrize("attack", ATTACKS, ids=ascii)
def test_control_characters_are_escaped(attack: str) -> None:
    assert not unsafe(printable(attack))
    assert "\\" in printable(attack)
    assert printable(attack).encode()


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_is_unsafe_and_what_is_safe_is_unchanged(text: str) -> None:
    shown = printable(text)
    common = [c for c in unsafe(shown) if not (0x600 <= ord(c) <= 0x8FF or ord(c) > 0x10000)]  # signs of scripts
    assert not common
    assert printable(shown) == shown
    assert printable_line(text).count("\n") == 0


def test_lines_and_letters_of_all_scripts_are_kept() -> None:
    for text in ("a\n\tb", "Grüße, 日本語, नमस्ते, می‌خواهم", "👩‍👩‍👧", "K=4 → 5 µs"):
        assert printable(text) == text
    assert printable_line("a\n\tb") == "a\\n\\tb"


def test_long_texts_lose_their_middle_soon() -> None:
    text = "a" + "\x1b" * 50_000_000 + "z"
    shown = bounded(lambda: printable(text, 1000), seconds=0.1, size=1_000_000)
    assert len(shown) <= 1000
    assert shown[0] == "a"
    assert shown[-1] == "z"
    assert "characters" in shown


def test_an_exception_whose_text_cannot_be_computed_has_its_name() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert printable(BrokenError()) == "BrokenError (its text cannot be computed: RuntimeError)"


def test_log_records_are_escaped() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s: cannot be read", ("\x1b[31mname",), None)
    assert PrintableFormatter().format(record) == "\\x1b[31mname: cannot be read"


@pytest.mark.parametrize(
    "attack", ["\x1b[31mred", "\x9b31m", "\u202etxt", "[red]x[/red]", "[link=file:///x]y[/link]", ":bomb:"]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_escapes_what_it_is_given_and_reads_no_markup(attack: str, terminal: bool) -> None:
    stream = io.StringIO()
    console = SafeConsole(file=stream, force_terminal=terminal, width=100, color_system="standard")
    table = Table("name", attack, title=attack)
    table.add_row(attack, Text(attack, "red"))
    console.print(attack)
    console.print(table)
    with Live(table, console=console, redirect_stdout=False, redirect_stderr=False):
        console.print(Text(attack))
    shown = stream.getvalue()
    assert attack not in shown or printable(attack) == attack
    assert shown.count(printable(attack)) >= 4
    assert not unsafe(shown.replace("\x1b", "").replace("\r", ""))


def test_colours_of_the_program_itself_are_kept() -> None:
    stream = io.StringIO()
    SafeConsole(file=stream, force_terminal=True, color_system="standard").print(Text("x", "red"))
    assert stream.getvalue() == "\x1b[31mx\x1b[0m\n"


FORMULAS = ["=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"]


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_a_cell_with_a_formula_is_a_text(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


def test_numbers_and_other_texts_are_unchanged_cells() -> None:
    for value in (-1.5, 3, None, "gmm", "a=1", "", float("nan")):
        assert csv_cell(value) is value


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_a_formula_in_a_metric_does_not_reach_metrics_csv(tmp_path, text: str) -> None:
    (tmp_path / "run").mkdir()
    file = MetricsFile(tmp_path / "run" / "metrics.csv")
    file.append(RoundScores(1, text, Scores(0.5, 0.25, 0.125), -3.5))
    file.append(RoundScores(2, -1e5, None, text))
    with file.path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[1:] == [["1", "", "-3.5", "0.5", "0.25", "0.125"], ["2", "-100000.0", "", "", "", ""]]
    assert file.rows()[0]["accuracy"] == 0.5


def test_stdout_is_not_what_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    sys.stdout.write(printable("\x1b[2J"))
    assert capsys.readouterr().out == "\\x1b[2J"
