"""Test ``serket check``, which checks a module type against the contract of modules."""

import sys

import pytest

from actors.conformance import ModuleChecks
from actors.errors import ModuleError
from runner.cli.check_module import build_checks
from runner.config.error_messages import ConfigError
from tests.runner.cli.test_cli import serket

MINE = """
from tests.support.sound_module import Sound
from tests.support.wrong_modules import LearnsAtRecognition

class Mine(Sound):
    \"\"\"A correct module.\"\"\"

class Wrong(LearnsAtRecognition):
    \"\"\"A module that violates the contract.\"\"\"
"""


@pytest.fixture
def _module_file(tmp_path, monkeypatch):
    """Write a module file into the working directory, and make the terminal wide."""
    (tmp_path / "mine_to_check.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])


def rows(done):
    """Return the verdict and the sentence of each check in the printed table."""
    cells = [line[1:-1].split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    return {name.strip(): (verdict.strip(), why.strip()) for name, verdict, why in cells}


@pytest.mark.usefixtures("_module_file")
def test_a_correct_module_in_the_working_directory_gives_status_0():
    done = serket("check", "mine_to_check:Mine", "--no-ray", "--set", "classes=3")
    outcomes = rows(done)
    assert done.stdout.splitlines()[0].strip() == "mine_to_check:Mine with classes = 3"
    assert {verdict for verdict, _ in outcomes.values()} == {"passed", "not applicable"}
    assert outcomes["it survives the death of its process"] == ("not applicable", "not run on Ray")
    passed = sum(verdict == "passed" for verdict, _ in outcomes.values())
    assert passed == len(outcomes) - 5  # the death, and what only modules have whose rows workers share
    assert done.stdout.splitlines()[-1] == f"{passed} passed, 0 failed, 5 not applicable"


@pytest.mark.usefixtures("_module_file")
def test_a_module_that_violates_the_contract_gives_status_1_and_a_reason():
    outcomes = rows(serket("check", "mine_to_check:Wrong", "--no-ray", code=1))
    ((verdict, why),) = [row for row in outcomes.values() if row[0] == "failed"]
    assert outcomes["recognition learns nothing"] == (verdict, why)
    assert why.startswith("recognize changes the state: centres is")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "_module_file")
def test_the_process_of_the_module_is_killed_on_ray(monkeypatch):
    monkeypatch.setattr(ModuleChecks, "deaths", ("before:2",))
    assert rows(serket("check", "mine_to_check:Mine"))["it survives the death of its process"][0] == "passed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "unknown module type 'nothing'"),
        (["no_such_file:Class"], "No module named 'no_such_file'"),
        (["gmm", "--set", "clases=3"], "--set clases: unknown parameter"),
        (["gmm", "--size", "Q=3"], "no message of gmm has such a dimension; they have ..., D, K, N"),
        (["gmm", "--set", "classes"], "expected key.path=value"),
        (["gmm", "--size", "K"], "expected LETTER=NUMBER"),
        (["gmm", "--size", "K=0"], "expected LETTER=NUMBER"),
        (["gmm", "--size", "K=2x2"], "only ... may have several numbers"),
    ],
)
def test_user_errors_give_one_sentence_and_status_2(arguments, message):
    done = serket("check", *arguments, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_parameters_and_sizes_are_those_given():
    checks = build_checks("gmm", ["classes=5", "alpha=1e-2"], ["D=7", "...=8x8", "N=30"])
    assert checks.parameters == {"iterations": 3, "classes": 5, "alpha": 0.01}
    (first, *_), rows = checks().cases, checks.rows
    assert rows == 30
    assert first.later_messages["latent_vectors"]["mean"].shape == (30, 7)
    assert checks().forward_sizes["..."] == (8, 8)


@pytest.mark.parametrize(
    ("type_name", "settings", "expected"),
    [
        ("vae", [], {"epochs": 3}),
        ("vae", ["epochs=9"], {"epochs": 9}),
        ("vae", ["itr=9"], {"itr": 9}),
        ("markov", [], {}),
    ],
)
def test_the_default_duration_of_training_is_short(type_name, settings, expected):
    assert build_checks(type_name, settings).parameters == expected


def test_building_checks_raises_the_errors_of_the_library():
    with pytest.raises(ModuleError, match="unknown module type"):
        build_checks("nothing")
    with pytest.raises(ConfigError, match="--size"):
        build_checks("gmm", [], ["K"])
