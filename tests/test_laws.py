"""The laws of the code: which files may import which, what is public, and how long a function may be."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("actors", "runner") for path in (ROOT / package).rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]

MAX_FUNCTION = 60


def each_file(law):
    """Return the test that all files keep a law, a function that asserts it of one file; it names those that do not."""

    @functools.wraps(law)
    def test():
        broken = {}
        for path, name in zip(FILES, NAMES, strict=True):
            try:
                law(path)
            except AssertionError as error:
                broken[name] = str(error)
        assert broken == {}

    del test.__wrapped__  # by which pytest would look for a fixture `path`
    return test


@functools.cache
def tree_of(source):
    return ast.parse(source)


@functools.cache
def imports_in(source, package=()):
    """Return the names of the modules that Python code imports, at its top or anywhere within."""
    found = set()
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def imported(path):
    return imports_in(path.read_text(), path.relative_to(ROOT).parent.parts)


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def forbidden_imports(path, packages):
    return [name for name in imported(path) if within(name, packages)]


def test_there_is_something_to_judge():
    assert {"actors/messaging/message.py", "runner/cli/app.py", "actors/coordination/router.py"} <= set(NAMES)
    assert any(name.startswith("actors/kernels/mixture/") for name in NAMES)
    assert {"numpy", "actors.messaging.codec", "actors.coordination.backend"} <= imported(
        ROOT / "actors/backends/module_host.py"
    )


# --- who may import whom ------------------------------------------------------------------------------------------


@each_file
def test_actors_never_import_runner(path):
    if path.is_relative_to(ROOT / "actors"):
        assert not forbidden_imports(path, ["runner"])


@each_file
def test_kernels_import_numerics_the_standard_library_and_each_other_alone(path):
    allowed = {"numpy", "scipy", "torch", "numba", "llvmlite", "actors.kernels", *sys.stdlib_module_names}
    if path.is_relative_to(ROOT / "actors" / "kernels"):
        assert not [name for name in imported(path) if not within(name, allowed) and name != "actors"]


@each_file
def test_coordination_imports_neither_ray_nor_an_implementation_of_a_backend(path):
    if path.is_relative_to(ROOT / "actors" / "coordination"):
        assert not forbidden_imports(path, ["ray", "actors.backends"])


MODULES = "actors.modules"
PROTOCOLS = {
    "actors/module.py": [MODULES, "actors.graph", "actors.storage", "actors.coordination", "actors.backends"],
    "actors/coordination/backend.py": [MODULES, "actors.backends", "actors.coordination.coordinator"],
    "actors/coordination/events.py": [MODULES, "actors.backends", "actors.coordination.coordinator"],
    "actors/messaging/message.py": [MODULES, "actors.module", "actors.graph", "actors.coordination", "actors.backends"],
    "actors/messaging/kinds.py": [MODULES, "actors.module", "actors.graph", "actors.coordination", "actors.backends"],
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_import_no_implementation(name):
    assert not forbidden_imports(ROOT / name, PROTOCOLS[name])


@each_file
def test_only_the_graph_and_the_conformance_checks_reach_module_types_and_by_name(path):
    """The registry has the built-in types as text, so that nothing is imported before it is used."""
    if not path.is_relative_to(ROOT / "actors" / "modules"):
        assert not forbidden_imports(path, [MODULES])


@each_file
def test_built_in_modules_import_what_an_author_could_and_numerics(path):
    if path.is_relative_to(ROOT / "actors" / "modules"):
        assert not forbidden_imports(
            path,
            ["actors.graph", "actors.storage", "actors.coordination", "actors.backends", "actors.conformance", "ray"],
        )


@each_file
def test_production_imports_no_fault_injection(path):
    allowed = ("actors/backends/fault_injection.py", "actors/conformance/ray_runs.py")
    if path.relative_to(ROOT).as_posix() not in allowed:
        assert not forbidden_imports(path, ["actors.backends.fault_injection"])


RAY = ("actors/backends/ray/", "actors/conformance/ray_runs.py", "runner/cluster/connection.py")
CLIENT = "runner/runs/coordinator_client.py"
DATA = "runner/data/shards_by_ray.py"
SWEEPS = "runner/sweeps/tune.py"


@each_file
def test_ray_is_imported_by_its_backend_and_by_five_other_files_alone(path):
    """Ray Data and Ray Tune are two of them: files are converted, and trials are runs, before a run has a backend."""
    if not path.relative_to(ROOT).as_posix().startswith((*RAY, CLIENT, DATA, SWEEPS)):
        assert not forbidden_imports(path, ["ray"])


@each_file
def test_nothing_unpickles(path):
    assert not forbidden_imports(path, ["pickle", "cloudpickle", "dill", "joblib", "shelve"])


READS_VARIABLES = "actors/kernels/variables.py"


def reads_environment(source):
    """Return the lines on which code reads an environment variable; setting one for others is no reading."""
    lines = []
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("getenv", "environ", "environb"):
            lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            lines += [node.lineno for alias in node.names if alias.name in ("environ", "getenv", "environb")]
    return lines


SETS_VARIABLES = {
    "runner/__init__.py": 4,  # before Ray is imported: RAY_AUTH_MODE and RAY_USAGE_STATS_ENABLED
    "runner/tracking/mlflow.py": 1,  # of MLflow itself, which reports its use by default
    "runner/sweeps/tune.py": 2,  # of Ray Tune, which writes files and changes directories by default
    "runner/cluster/connection.py": 1,  # for the processes that it starts
    "runner/cli/doctor.py": 1,  # names those that are set
    "actors/kernels/neural/__init__.py": 3,  # of OpenMP, while torch is imported
    "actors/backends/ray/start_on_demand.py": 1,  # a script that imports nothing; Ray's own, of the raylet's process
}


@each_file
def test_environment_variables_are_read_in_one_place(path):
    name = path.relative_to(ROOT).as_posix()
    if name != READS_VARIABLES:
        assert len(reads_environment(path.read_text())) <= SETS_VARIABLES.get(name, 0)


def test_the_law_on_environment_variables_sees_each_way_to_read_one():
    for source in ("import os; os.environ['A']", "import os; os.getenv('A')", "from os import environ", "os.environb"):
        assert reads_environment(source)
    assert reads_environment((ROOT / READS_VARIABLES).read_text())


# --- what is public -----------------------------------------------------------------------------------------------

PUBLIC = ("actors", "actors.conformance", "runner")
TEMPLATES = sorted((ROOT / "runner/cli/templates").rglob("*.py.template"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def code_blocks(document):
    return re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def non_public_names(source):
    """Return what code imports of this project that is not a name of a public face."""
    odd = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            odd += [a.name for a in node.names if within(a.name, ("actors", "runner")) and a.name not in PUBLIC]
        elif isinstance(node, ast.ImportFrom) and within(node.module or "", ("actors", "runner")):
            public = getattr(importlib.import_module(node.module), "__all__", ()) if node.module in PUBLIC else ()
            odd += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public]
    return odd


def test_each_name_of_a_public_face_exists():
    for package in PUBLIC:
        face = importlib.import_module(package)
        assert face.__all__
        assert not [name for name in face.__all__ if not hasattr(face, name)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_import_public_names_alone(document):
    assert [name for block in code_blocks(document) for name in non_public_names(block)] == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_templates_import_public_names_alone(template):
    source = re.sub(r"\$\{?(\w+)\}?", r"\1", template.read_text(encoding="utf-8"))
    assert non_public_names(source) == []


def test_templates_and_documents_have_code_that_imports_them():
    assert any("import" in block for document in DOCUMENTS for block in code_blocks(document))
    assert any("from actors import" in template.read_text() for template in TEMPLATES)


def test_the_packages_are_typed():
    assert (ROOT / "actors" / "py.typed").exists()
    assert (ROOT / "runner" / "py.typed").exists()


# --- what is loaded ---------------------------------------------------------------------------------------------

LIGHT = (
    "actors",
    "actors.backends.module_host",
    "actors.coordination.coordinator",
    "actors.graph.graph",
    "actors.graph.registry",
    "actors.modules.markov",
    "actors.modules.mixture.gmm",
    "actors.modules.network.network",
    "actors.modules.observation",
    "actors.modules.vae",
    "runner.cli.app",
    "runner.config.run_config",
)

IMPORT_EACH = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    for heavy in ("torch", "ray", "actors.backends.fault_injection"):
        if heavy in sys.modules:
            sys.exit(f"{name} imports {heavy}")
"""


def test_modules_coordinator_and_command_line_start_without_torch_and_ray():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, *LIGHT], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr


# --- form ---------------------------------------------------------------------------------------------------------

FOLDERS = {"actors", "runner", "tests", "configs", "docs"}


def test_nothing_lies_beside_the_folders_of_the_design():
    """Hidden folders and those that git ignores aside."""
    lines = (ROOT / ".gitignore").read_text().splitlines()
    ignored = [line.strip("/") for line in lines if line.endswith("/")]
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    extra = {name for name in found - FOLDERS if not any(fnmatch(name, pattern) for pattern in ignored)}
    assert not extra


@each_file
def test_every_file_says_what_it_holds(path):
    """In the first line of its docstring, as a sentence or a phrase with a stop or a colon."""
    docstring = ast.get_docstring(tree_of(path.read_text()))
    assert docstring
    assert len(docstring.splitlines()[0]) >= 20


@each_file
def test_no_function_is_long(path):
    """Its documentation aside, which is as long as it has to be."""
    functions = [
        node for node in ast.walk(tree_of(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: node.end_lineno - node.lineno + 1 - docstring_lines(node) for node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION} == {}


def docstring_lines(function):
    if ast.get_docstring(function) is None:
        return 0
    return function.body[0].end_lineno - function.body[0].lineno + 1
