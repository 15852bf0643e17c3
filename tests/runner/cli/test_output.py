"""Errors on stderr: one sentence each, the traceback of an internal error in a file, no control character raw."""

import logging
import stat
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from runner.cli import output
from runner.cli.app import app
from runner.cli.output import _MEANINGS, _meaning_of_evidence, print_result, run_app, say, user_errors, write_traceback
from runner.report.clustering_metrics import Scores
from runner.runs.directory import RunDirectory
from runner.runs.records import RoundScores, build_result
from tests.support.bounded import bounded

ESCAPE = "\x1b]0;forged\x07\x9b31m\u202e"


def reported(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[str, int]:
    """Return what is printed for an error, and the exit status."""
    with pytest.raises(typer.Exit) as end, user_errors():
        raise error
    return capsys.readouterr().err, end.value.exit_code


@pytest.fixture
def run_directory(tmp_path: Path) -> RunDirectory:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    return RunDirectory(tmp_path / "runs" / "a", None)  # type: ignore[arg-type]


def fail_in(directory: RunDirectory, error: Exception) -> None:
    """Raise an error in a function that works on a run directory."""
    assert directory.path.is_dir()
    raise error


def test_the_traceback_of_an_internal_error_is_in_the_run_directory(run_directory, capsys) -> None:
    with pytest.raises(typer.Exit) as end, user_errors():
        fail_in(run_directory, LookupError(f"no such\n{ESCAPE}"))
    file = run_directory.path / "error.txt"
    assert capsys.readouterr().err == f"serket: internal error: LookupError: no such; the traceback is in {file}\n"
    assert end.value.exit_code == 1
    text = file.read_text()
    assert "fail_in" in text
    assert "Traceback" in text
    assert "\x1b" not in text


def test_a_link_in_the_place_of_the_file_is_not_followed(run_directory, tmp_path, capsys) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (run_directory.path / "error.txt").symlink_to(outside)
    with pytest.raises(typer.Exit), user_errors():
        fail_in(run_directory, LookupError("x"))
    assert outside.read_text() == "mine"
    assert "internal error: LookupError: x; the traceback is in" in capsys.readouterr().err


def test_without_a_run_directory_it_is_in_a_private_file_of_the_state_directory(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path / "state"))
    printed, status = reported(KeyError("x"), capsys)
    file = Path(printed.strip().rpartition(" ")[2])
    assert (status, file.parent) == (1, tmp_path / "state")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "KeyError" in file.read_text()


def test_without_a_state_directory_it_is_in_the_temporary_directory(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path / "file" / "state"))
    monkeypatch.setattr(output.tempfile, "tempdir", str(tmp_path))
    file = write_traceback(KeyError("x"))
    assert file is not None
    assert file.parent == tmp_path


@pytest.mark.parametrize(
    "error", [RecursionError(), MemoryError(), AssertionError(), StopIteration(), UnicodeError("\ud800"), ValueError(ESCAPE),
              ZeroDivisionError("a\nb"), ExceptionGroup("x", [ValueError()])], ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_any_exception_is_one_line_without_control_characters(error, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path))
    printed, status = reported(error, capsys)
    assert status == 1
    assert printed.startswith(f"serket: internal error: {type(error).__name__}")
    assert printed.count("\n") == 1
    assert printed[:-1].isprintable()


def test_the_text_of_an_exception_is_bounded(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path))
    from actors.errors import ModuleFailedError

    for error in (KeyError("x" * 10_000_000), ModuleFailedError("\x1b" * 10_000_000)):
        printed, _ = bounded(lambda error=error: reported(error, capsys), size=80_000_000)
        assert len(printed) < 25_000


def test_exits_of_commands_are_no_errors() -> None:
    for end in (typer.Exit(3), typer.Abort()):
        with pytest.raises(type(end)), user_errors():
            raise end


def test_a_closed_stderr_does_not_hide_the_status(monkeypatch) -> None:
    def broken(*_args, **_kwargs):
        raise BrokenPipeError

    monkeypatch.setattr(output.typer, "echo", broken)
    with pytest.raises(typer.Exit) as end, user_errors():
        raise KeyboardInterrupt
    assert end.value.exit_code == 1


def test_errors_outside_of_commands_are_reported_too(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path))
    broken = typer.Typer(pretty_exceptions_enable=False)
    broken.command()(lambda: {}["x"])
    monkeypatch.setattr(sys, "argv", ["serket"])
    with pytest.raises(SystemExit) as end:
        run_app(broken)
    assert end.value.code == 1
    assert "serket: internal error: KeyError: 'x'; the traceback is in" in capsys.readouterr().err


def test_nothing_printed_has_a_control_character(capsys) -> None:
    say(ESCAPE)
    print_result({f"a{ESCAPE}": ESCAPE, "seconds": {f"b{ESCAPE}": 1.0, "c": "x"}, "n": [ESCAPE]}, as_json=False)
    print_result({"a": ESCAPE}, as_json=True)
    user = user_errors()
    with user:
        logging.getLogger("x").warning("%s", ESCAPE)
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert "\x1b" not in text
        assert "\x9b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", f"{ESCAPE}.yaml"], ["inspect", ESCAPE], ["resume", "a\0b"], ["attach", "x" * 5000], ["stop", "\ud800"],
        ["modules", ESCAPE], ["modules", f"{ESCAPE}:X"], ["modules", ":"], ["modules", ".:x"], ["modules", "x" * 100_000],
        ["modules", "a:" + "b" * 400], ["new-module", ESCAPE], ["new-module", "a" * 10_000], ["check", "gmm", "--size", "K=" + "9" * 5000],
        ["check", "gmm", "--size", "K=1000000000"], ["check", "gmm", "--size", "...=" + "1x" * 5000 + "1"],
        ["check", "gmm", "--size", f"{ESCAPE}=x"], ["check", "gmm", "--set", f"{ESCAPE}=1"], ["check", "gmm", "--set", "a.b.c=1"],
        ["check", "gmm", "--set", "classes=" + "9" * 5000], ["check", "gmm", "--set", "classes.x=&a [*a]"], ["check", ESCAPE],
        ["inspect", "nothing", "--runs", ESCAPE],
    ],
    ids=lambda arguments: ascii(" ".join(arguments)[:30]),
)  # fmt: skip
def test_hostile_arguments_give_one_sentence(arguments, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERKET_STATE_DIR", str(tmp_path / "state"))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, (done.output, done.exception)
    assert "internal error" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr[:-1].isprintable()
    assert len(done.stderr) < 25_000


@pytest.mark.parametrize(
    "arguments", [["run", "a", ESCAPE], ["run", f"--{ESCAPE}"], [ESCAPE], ["generate", "a", "--length", ESCAPE]]
)
def test_an_error_of_usage_repeats_no_control_character_of_the_arguments(arguments) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert not {"\x1b", "\x07", "\u202e"} & set(done.output)
    assert done.output.startswith("serket: ")


def test_an_error_of_usage_is_short() -> None:
    done = CliRunner().invoke(app, ["generate", "a", "--seed", "9" * 100_000])
    assert done.exit_code == 2
    assert len(done.output) < 3_000


def test_each_figure_of_a_result_has_its_unit_and_a_line_that_explains_it(capsys):
    figures = {"evidence": 112.71, "score": -299.5, "accuracy": 0.9934, "overhead_share": 0.195, "ari": None}
    print_result({"run": "hmm", **figures}, as_json=False)
    evidence, score = (line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()[1:3])
    assert evidence[:3] == ["evidence", "112.7", "nats"]
    assert evidence[3].startswith("log-density of the rows, or a bound of it; the higher, the better")
    assert score[:3] == ["score", "-299.5", "nats"]
    assert score[3] == "the evidence plus what other modules add to it; rounds end when it rises no more"
    print_result(figures, as_json=False, evidence="another one")
    assert "112.7 nats      another one" in capsys.readouterr().out
    print_result(figures, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "accuracy  0.9934          share of rows whose class is matched to their category" in lines[2]
    assert "overhead share  19.5%           of the time of the rounds, in which no module computed" in lines[3]
    assert lines[4].strip() == "ari  –"
    result = build_result(RoundScores(1, 2.0, Scores(1.0, 1.0, 1.0, 0.1), 3.0), "hmm", 4.0, {"gmm": 1.0})
    explained = {"overhead_share", "first_output", *_MEANINGS}
    assert {name for name, value in result.items() if isinstance(value, float)} <= explained


@pytest.mark.parametrize(
    ("model", "begins"),
    [
        (
            "hmm",
            "what the order of the rows explains, relative to the density of each row alone; the higher, the better",
        ),
        ("motion", ""),
        ("mnist", "what the order of the rows explains"),
    ],
)
def test_evidence_is_called_a_density_of_the_rows_only_where_it_is_one(model: str, begins: str) -> None:
    from runner.config.model_files import find_model

    meaning = _meaning_of_evidence(find_model(model).load().graph)
    assert meaning.startswith(begins)
    assert bool(meaning) == bool(begins)
