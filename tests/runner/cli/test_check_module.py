"""``serket check``: a module type against the contract, as whoever writes one meets it."""

import sys

import pytest

from actors.conformance import ModuleChecks
from actors.errors import ModuleError
from runner.cli.check_module import checks_of
from runner.config.error_messages import ConfigError
from tests.runner.cli.test_cli import serket

MINE = """
from tests.support.sound_module import Sound
from tests.support.wrong_modules import Curious

class Mine(Sound):
    \"\"\"Somebody's.\"\"\"

class Wrong(Curious):
    \"\"\"Somebody's, and wrong.\"\"\"
"""


@pytest.fixture
def _own_file(tmp_path, monkeypatch):
    """Somebody's module lies in the working directory, and the screen is wide."""
    (tmp_path / "mine_to_check.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])


def rows(done):
    """What stands in the table: a verdict and a sentence a check."""
    cells = [line[1:-1].split("│") for line in done.stdout.splitlines() if line.startswith("│")]
    return {name.strip(): (verdict.strip(), why.strip()) for name, verdict, why in cells}


@pytest.mark.usefixtures("_own_file")
def test_a_module_in_the_working_directory_that_keeps_to_the_contract_ends_with_status_0():
    done = serket("check", "mine_to_check:Mine", "--no-ray", "--set", "classes=3")
    found = rows(done)
    assert done.stdout.splitlines()[0].strip() == "mine_to_check:Mine with classes = 3"
    assert {verdict for verdict, _ in found.values()} == {"passed", "not applicable"}
    assert found["it survives the death of its process"] == ("not applicable", "not run on Ray")
    assert done.stdout.splitlines()[-1] == f"{len(found) - 1} passed, 0 failed, 1 not applicable"


@pytest.mark.usefixtures("_own_file")
def test_one_that_does_not_ends_with_status_1_and_a_sentence():
    found = rows(serket("check", "mine_to_check:Wrong", "--no-ray", code=1))
    ((verdict, why),) = [row for row in found.values() if row[0] == "failed"]
    assert found["recognition learns nothing"] == (verdict, why)
    assert why.startswith("recognize changes the state: centres is")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster", "_own_file")
def test_its_process_is_killed_on_ray(monkeypatch):
    monkeypatch.setattr(ModuleChecks, "deaths", ("before:2",))
    assert rows(serket("check", "mine_to_check:Mine"))["it survives the death of its process"][0] == "passed"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "unknown module type 'nothing'"),
        (["no_such_file:Class"], "No module named 'no_such_file'"),
        (["gmm", "--set", "clases=3"], "clases: Unexpected keyword argument"),
        (["gmm", "--set", "classes"], "expected key.path=value"),
        (["gmm", "--size", "K"], "expected LETTER=NUMBER"),
        (["gmm", "--size", "K=0"], "expected LETTER=NUMBER"),
        (["gmm", "--size", "K=2x2"], "only ... may have several numbers"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence_and_status_2(words, said):
    done = serket("check", *words, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_parameters_and_sizes_are_those_asked_for():
    checks = checks_of("gmm", ["classes=5", "alpha=1e-2"], ["D=7", "...=8x8", "N=30"])
    assert checks.parameters == {"iterations": 3, "classes": 5, "alpha": 0.01}
    (first, *_), rows = checks().cases, checks.rows
    assert rows == 30
    assert first.later["latent_vectors"]["mean"].shape == (30, 7)
    assert checks().own_sizes["..."] == (8, 8)


@pytest.mark.parametrize(
    ("type_name", "settings", "expected"),
    [
        ("vae", [], {"epochs": 3}),
        ("vae", ["epochs=9"], {"epochs": 9}),
        ("vae", ["itr=9"], {"itr": 9}),
        ("markov", [], {}),
    ],
)
def test_learning_is_kept_short_where_nothing_is_said(type_name, settings, expected):
    assert checks_of(type_name, settings).parameters == expected


def test_errors_are_those_of_the_library():
    with pytest.raises(ModuleError, match="unknown module type"):
        checks_of("nothing")
    with pytest.raises(ConfigError, match="--size"):
        checks_of("gmm", [], ["K"])
