"""Test the template package from installation in a fresh environment to a training run."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    "--set", "data.count=200", "--set", "modules.vae.epochs=5", "--set", "modules.vae.hidden=16",
    "--set", "schedule.rounds=1", "--set", "schedule.steps.1.repeat=2", "--set", "schedule.steps.1.chains=0",
]  # fmt: skip

pytestmark = pytest.mark.guide


class Environment:
    """A fresh virtual environment with the installed packages of this one, but without this repository."""

    def __init__(self, path: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True, timeout=60)
        self.bin = path / "bin"
        purelib = sysconfig.get_path("purelib", vars={"base": str(path)})
        Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *arguments, cwd, timeout=120.0):
        """Run a command of the environment; return its stdout."""
        variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
        command = [str(self.bin / arguments[0]), *map(str, arguments[1:])]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=variables, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, source: Path, *options) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet"]
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *offline, *options, source], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return an environment with serket-actors installed from a wheel, without files outside the wheel."""
    path = tmp_path_factory.mktemp("fresh")
    source = path / "source"
    for name in ("actors", "runner", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environment = Environment(path / "venv")
    environment.install(source)
    return environment


@pytest.fixture(scope="module")
def package(environment, tmp_path_factory):
    path = tmp_path_factory.mktemp("packages")
    environment.run("serket", "new-module", "night-sounds", cwd=path)
    environment.install(path / "night-sounds", "-e")
    return path / "night-sounds"


def test_an_included_model_runs_in_an_empty_directory_by_its_name(environment, tmp_path):
    """The wheel holds the model files: nothing of the repository is there."""
    names = [
        entry["name"] for entry in json.loads(environment.run("serket", "models", "--json", cwd=tmp_path))["models"]
    ]
    assert names == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    result = json.loads(environment.run("serket", "run", "hmm", "--local", "--json", cwd=tmp_path).splitlines()[-1])
    assert (result["run"], result["accuracy"]) == ("hmm", 1.0)
    digits = ["run", "digits", *SMALL, "--json"]
    assert json.loads(environment.run("serket", *digits, cwd=tmp_path).splitlines()[-1])["rounds"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_the_package_passes_its_own_tests(environment, package):
    environment.run("python", "-m", "pytest", cwd=package)


def test_the_module_is_listed_with_its_distribution(environment, package, tmp_path):
    listed = json.loads(environment.run("serket", "modules", "night_sounds", "--json", cwd=tmp_path))["modules"]
    described = [(entry["type"], entry["origin"], entry["from"], entry["version"]) for entry in listed]
    assert described == [("night_sounds", "plug-in", "night-sounds", "0.1.0")]
    assert "night_sounds  plug-in: night-sounds 0.1.0" in environment.run("serket", "modules", cwd=tmp_path)


def test_the_module_is_trained_between_vae_and_mm_on_actors(environment, package, tmp_path):
    arguments = ["run", package / "model.yaml", *SMALL, "--runs", tmp_path, "--json"]
    result = json.loads(environment.run("serket", *arguments, cwd=tmp_path).splitlines()[-1])
    assert result["rounds"] == 1
    assert result["accuracy"] >= 0.2
    assert result["module_seconds"].keys() == {"data", "vae", "night_sounds", "mm"}
    assert (tmp_path / "night_sounds" / "module002_night_sounds" / "class_learn.txt").exists()
