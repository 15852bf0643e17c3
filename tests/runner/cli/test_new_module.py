"""Test the package written by ``serket new-module``: valid names, and the files."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runner.cli.app import app
from runner.cli.new_module import TemplateError, write_package
from tests.support.distributions import MODULE, Site


def test_the_name_is_used_throughout_the_package(tmp_path: Path) -> None:
    root = write_package("night-sounds", tmp_path)
    assert root == tmp_path / "night-sounds"
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["project"]["name"] == "night-sounds"
    entries = project["project"]["entry-points"]["serket_actors.modules"]
    assert entries == {"night_sounds": "night_sounds.module:NightSounds"}
    tree = ast.parse((root / "night_sounds" / "module.py").read_text())
    assert "NightSounds" in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert "ModuleChecks" in (root / "tests" / "test_contract.py").read_text()
    assert {path.name for path in root.iterdir()} == {
        "pyproject.toml", "README.md", "model.yaml", ".gitignore", "night_sounds", "tests",
    }  # fmt: skip
    assert not [path for path in root.rglob("*") if path.is_file() and "$" in path.read_text()]


def test_the_package_passes_ruff_and_the_module_is_short(tmp_path: Path) -> None:
    root = write_package("sounds", tmp_path)
    for command in (["check", "--select", "E,F,W,I,B,UP,C4,SIM,RUF,PT"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length=120", "--no-cache", "."]
        done = subprocess.run(ruff, cwd=root, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout
    assert len((root / "sounds" / "module.py").read_text().splitlines()) < 130


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gmm", "a module type 'gmm' already exists, in serket-actors"),
        ("GMM", "a module type 'gmm' already exists"),
        ("numpy", "a Python package 'numpy' already exists"),
        ("random", "a Python package 'random' already exists"),
        ("runner", "a Python package 'runner' already exists"),
        ("module", "a class Module is already imported by the template"),
        ("field", "a class Field is already imported by the template"),
        ("class", "is not a valid package name"),
        ("2d", "is not a valid package name"),
        ("night sounds", "is not a valid package name"),
        ("../sounds", "is not a valid package name"),
        ("sounds-", "is not a valid package name"),
        ("", "is not a valid package name"),
    ],
)
def test_an_invalid_or_taken_name_is_rejected(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        write_package(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_name_of_an_installed_plug_in_is_rejected(site: Site, tmp_path: Path) -> None:
    site.install("serket-own", {"own": "own_module:Own"}, own_module=MODULE)
    with pytest.raises(TemplateError, match=r"a module type 'own' already exists, in serket-own 1\.2"):
        write_package("own", tmp_path / "new")


class TestCommand:
    def new_module(self, *arguments: object, code: int) -> str:
        done = CliRunner().invoke(app, ["new-module", *map(str, arguments)])
        assert done.exit_code == code, done.output
        return done.output

    def test_it_prints_the_next_command(self, tmp_path: Path) -> None:
        output = self.new_module("sounds", "--directory", tmp_path / "mine", code=0)
        assert f'cd {tmp_path}/mine/sounds && pip install -e ".[test]" && pytest' in output.replace("\n", "")

    def test_an_existing_directory_is_not_changed(self, tmp_path: Path) -> None:
        (tmp_path / "sounds").mkdir()
        assert "already exists; choose another name" in self.new_module("sounds", "--directory", tmp_path, code=2)
        assert not list((tmp_path / "sounds").iterdir())

    def test_a_location_that_is_not_a_directory_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        output = self.new_module("sounds", "--directory", tmp_path / "file", code=2)
        assert "cannot be written (Not a directory)" in output
