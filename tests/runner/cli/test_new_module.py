"""The package that a module of one's own begins as: which names it may have, and what is written."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runner.cli.app import app
from runner.cli.new_module import TemplateError, new_module
from tests.support.distributions import MODULE, Site


def test_it_is_called_what_it_is_to_be_called_throughout(tmp_path: Path) -> None:
    home = new_module("night-sounds", tmp_path)
    assert home == tmp_path / "night-sounds"
    project = tomllib.loads((home / "pyproject.toml").read_text())
    assert project["project"]["name"] == "night-sounds"
    entries = project["project"]["entry-points"]["serket_actors.modules"]
    assert entries == {"night_sounds": "night_sounds.module:NightSounds"}
    tree = ast.parse((home / "night_sounds" / "module.py").read_text())
    assert "NightSounds" in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert "ModuleChecks" in (home / "tests" / "test_contract.py").read_text()
    assert {path.name for path in home.iterdir()} == {
        "pyproject.toml", "README.md", "model.yaml", ".gitignore", "night_sounds", "tests",
    }  # fmt: skip
    assert not [path for path in home.rglob("*") if path.is_file() and "$" in path.read_text()]


def test_it_is_clean_and_short_enough_to_be_read_at_once(tmp_path: Path) -> None:
    home = new_module("sounds", tmp_path)
    for words in (["check", "--select", "E,F,W,I,B,UP,C4,SIM,RUF,PT"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *words, "--isolated", "--line-length=120", "--no-cache", "."]
        done = subprocess.run(ruff, cwd=home, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout
    assert len((home / "sounds" / "module.py").read_text().splitlines()) < 130


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gmm", "a module type 'gmm' is there already, in serket-actors"),
        ("GMM", "a module type 'gmm' is there already"),
        ("numpy", "a Python package 'numpy' is there already"),
        ("random", "a Python package 'random' is there already"),
        ("runner", "a Python package 'runner' is there already"),
        ("module", "a class Module is in the contract"),
        ("field", "a class Field is in the contract"),
        ("class", "cannot be a package's name"),
        ("2d", "cannot be a package's name"),
        ("night sounds", "cannot be a package's name"),
        ("../sounds", "cannot be a package's name"),
        ("sounds-", "cannot be a package's name"),
        ("", "cannot be a package's name"),
    ],
)
def test_a_name_that_is_none_or_somebody_elses_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(TemplateError, match=said):
        new_module(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_name_of_an_installed_plug_in_is_refused(site: Site, tmp_path: Path) -> None:
    site.install("serket-own", {"own": "own_module:Own"}, own_module=MODULE)
    with pytest.raises(TemplateError, match=r"a module type 'own' is there already, in serket-own 1\.2"):
        new_module("own", tmp_path / "new")


class TestCommand:
    def new_module(self, *words: object, code: int) -> str:
        done = CliRunner().invoke(app, ["new-module", *map(str, words)])
        assert done.exit_code == code, done.output
        return done.output

    def test_it_says_what_to_do_next(self, tmp_path: Path) -> None:
        said = self.new_module("sounds", "--directory", tmp_path / "mine", code=0)
        assert f'cd {tmp_path}/mine/sounds && pip install -e ".[test]" && pytest' in said.replace("\n", "")

    def test_a_directory_that_is_there_stays_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "sounds").mkdir()
        assert "is there already; choose another name" in self.new_module("sounds", "--directory", tmp_path, code=2)
        assert not list((tmp_path / "sounds").iterdir())

    def test_a_place_that_is_no_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        said = self.new_module("sounds", "--directory", tmp_path / "file", code=2)
        assert "cannot be written (Not a directory)" in said
