"""The laws of the code: who may import whom, and how long a file and a function may be."""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("actors", "runner") for path in (ROOT / package).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

MAX_FILE = 400
MAX_FUNCTION = 60

each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def imported(path):
    """Names of the modules that a file imports, at its top or anywhere within."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_there_is_something_to_judge():
    assert "actors/messaging/message.py" in NAMES
    assert "runner/cli/app.py" in NAMES
    assert any(name.startswith("actors/kernels/") for name in NAMES)
    assert {"numpy", "actors.messaging.message", "actors.messaging.kinds"} <= imported(
        ROOT / "actors/backends/module_host.py"
    ) | imported(ROOT / "actors/messaging/message.py")


@each_file
def test_actors_never_import_runner(path):
    if path.is_relative_to(ROOT / "actors"):
        assert not [name for name in imported(path) if within(name, ["runner"])]


@each_file
def test_kernels_import_numerics_the_standard_library_and_each_other_alone(path):
    allowed = {"numpy", "scipy", "torch", "numba", "actors.kernels", *sys.stdlib_module_names}
    if path.is_relative_to(ROOT / "actors" / "kernels"):
        assert not [name for name in imported(path) if not within(name, allowed) and name != "actors"]


@each_file
def test_ray_is_imported_in_files_of_that_name_and_by_two_of_the_runner_alone(path):
    name = str(path.relative_to(ROOT))
    if not name.startswith(("actors/backends/ray/", "actors/conformance/ray_runs.py")) and name not in (
        "runner/cluster/connection.py",
        "runner/runs/coordinator_client.py",
    ):
        assert not [name for name in imported(path) if within(name, ["ray"])]


@each_file
def test_nothing_unpickles(path):
    assert not [name for name in imported(path) if within(name, ["pickle", "cloudpickle", "dill", "joblib", "shelve"])]


LIGHT = (
    "modules.vae",
    "modules.mixture.gmm",
    "modules.markov",
    "modules.network.network",
    "coordination.coordinator",
    "graph.graph",
    "messaging.message",
    "module",
    "graph.registry",
    "backends.module_host",
    "modules.observation",
)

IMPORT_EACH = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    for heavy in ("torch", "ray"):
        if heavy in sys.modules:
            sys.exit(f"{name} imports {heavy}")
"""


def test_modules_coordinator_and_command_line_start_without_torch_and_ray():
    names = [*(f"actors.{name}" for name in LIGHT), "runner.config.run_config", "runner.cli.app"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, *names], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr


FOLDERS = {"actors", "runner", "tests", "configs", "docs"}


def test_nothing_lies_beside_the_folders_of_the_design():
    """Hidden folders and those that git ignores aside."""
    lines = (ROOT / ".gitignore").read_text().splitlines()
    ignored = [line.strip("/") for line in lines if line.endswith("/")]
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    extra = {name for name in found - FOLDERS if not any(fnmatch(name, pattern) for pattern in ignored)}
    assert not extra


@each_file
def test_no_file_is_long(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_FILE, f"{lines} lines, at most {MAX_FILE} are allowed"


@each_file
def test_no_function_is_long(path):
    """Its documentation aside, which is as long as it has to be."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: node.end_lineno - node.lineno + 1 - docstring_lines(node) for node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION} == {}


def docstring_lines(function):
    if ast.get_docstring(function) is None:
        return 0
    return function.body[0].end_lineno - function.body[0].lineno + 1
