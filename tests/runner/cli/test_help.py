"""Test the help of each command, and completion in shells."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from runner.cli.app import app
from runner.cli.completion import Shell, complete_model, script

GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)

each_command = pytest.mark.parametrize("name", COMMANDS)


def help_of(*arguments):
    done = CliRunner().invoke(app, [*arguments, "--help"], env={"TERMINAL_WIDTH": "200"})
    assert done.exit_code == 0
    return done.output


def example_of(text):
    """Return the command line at the end of a help, which a narrow terminal may have broken."""
    before, _, line = text.rpartition("Example: ")
    assert before, text
    return " ".join(line.split())


@each_command
def test_the_help_ends_with_an_example_that_the_command_takes(name):
    line = example_of(help_of(name))
    words = shlex.split(line.replace("source <(", "").rstrip(")").partition(" > ")[0])
    assert words[:2] == ["serket", name]
    GROUP.commands[name].make_context(name, words[2:])  # raises an error of usage if it takes anything else


@each_command
def test_the_help_explains_every_option_and_argument(name):
    unexplained = [each.name for each in GROUP.commands[name].params if not getattr(each, "help", None)]
    assert unexplained == []


def test_the_help_of_all_begins_with_what_it_does_and_ends_with_an_example():
    assert example_of(help_of()) == "serket run mnist"
    assert "Train models of probabilistic modules" in help_of()


def test_the_short_option_and_the_version():
    assert CliRunner().invoke(app, ["run", "-h"]).output == CliRunner().invoke(app, ["run", "--help"]).output
    assert CliRunner().invoke(app, ["--version"]).output.startswith("serket-actors 0.")


# --- completion ----------------------------------------------------------------------------------------------------


def completed(words, cwd):
    """Return what bash is told for the last of `words`, by the command itself."""
    variables = {"COMP_WORDS": shlex.join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", "from runner.cli.app import main; main()"],
        env={**os.environ, **variables, "_SERKET_COMPLETE": "complete_bash"}, cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def place(tmp_path):
    """A directory with two runs, a model file, and a folder."""
    for run in ("runs/robot", "runs/robot-2", "other/arm"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "config.yaml").touch()
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "notes.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["serket", "rec"], ["recognize"], marks=pytest.mark.slow),
        (["serket", "run", "m"], ["many_classes", "mnist", "mnist_conv", "motion", "mine.yaml"]),
        pytest.param(["serket", "inspect", "ro"], ["robot", "robot-2"], marks=pytest.mark.slow),
    ],
)
def test_commands_models_and_runs_are_completed(place, words, expected):
    assert completed(words, place) == expected


def test_a_run_elsewhere_is_completed_by_its_path(place, monkeypatch):
    from runner.cli.completion import complete_run

    class Context:
        params = {"runs": None}

    monkeypatch.chdir(place)
    assert complete_run(Context(), "ro") == ["robot", "robot-2"]
    assert complete_run(Context(), "other/a") == ["other/arm"]
    assert complete_run(Context(), "oth") == ["other/"]
    Context.params = {"runs": place / "missing"}
    assert complete_run(Context(), "robot") == []
    assert complete_model("notes") == []


@pytest.mark.parametrize("shell", list(Shell))
def test_the_code_of_each_shell_is_valid_where_the_shell_is_there(shell):
    code = script(shell)
    assert "_SERKET_COMPLETE" in code
    assert CliRunner().invoke(app, ["completion", shell.value]).output.strip() == code.strip()
    program = shutil.which(shell.value)
    if program:
        assert subprocess.run([program, "-n"], input=code, text=True, capture_output=True).returncode == 0


@pytest.mark.slow
def test_bash_completes_a_line_by_the_printed_code(place):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    command = place / "serket"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from runner.cli.app import main; main()' \"$@\"\n")
    command.chmod(0o755)
    asked = "COMP_WORDS=(serket run mi)\nCOMP_CWORD=2\n_serket_completion serket\necho ${COMPREPLY[@]}"
    lines = f"{script(Shell.BASH)}\n{asked}"
    variables = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", lines], cwd=place, env=variables, capture_output=True, text=True)
    assert done.stdout.split() == ["mine.yaml"]
