"""Tests of the search for code: this software's packages win over files of the same name."""

import subprocess
import sys
from pathlib import Path

import pytest

from runner.cluster.code_paths import directories_of_code, hides_own_packages

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["actors.py", "actors/__init__.py", "runner.py", "runner/notes.txt"])
def test_a_directory_that_hides_a_package_is_not_searched_by_workers(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert hides_own_packages(tmp_path) == Path(name).parts[0]
    paths = directories_of_code()
    paths.extend([str(tmp_path), "/usr"])
    assert paths == ["/usr"]


def test_the_directory_of_the_packages_themselves_is_searched():
    paths = directories_of_code()
    paths.extend([str(ROOT), "/usr"])
    assert paths == [str(ROOT), "/usr"]


def run_script(folder, text):
    (folder / "script.py").write_text(text)
    command = [sys.executable, str(folder / "script.py")]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_script_beside_a_file_of_that_name_imports_this_softwares_package(tmp_path):
    (tmp_path / "actors.py").write_text("raise AssertionError('the wrong one')")
    ended = run_script(tmp_path, "import runner, actors; from actors import Module; print(actors.__file__)")
    assert (ended.returncode, ended.stdout.strip()) == (0, str(ROOT / "actors" / "__init__.py")), ended.stderr


def test_a_script_that_has_imported_another_package_of_that_name_is_told_to_rename_it(tmp_path):
    (tmp_path / "actors.py").touch()
    ended = run_script(tmp_path, "import actors, runner")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].endswith("actors.py hides the package 'actors' of serket-actors: rename it")
