"""Compares the documents with the code: message kinds, links, file names, and the imports of code blocks."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from actors.messaging.kinds import BUILT_IN, KINDS, Semantics

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "actors" / "kernels" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PLUGINS = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
PUBLIC = {"actors", "actors.conformance", "runner"}
"""The modules that a reader's own code may import from this project."""

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def relative_links(text):
    """Return the targets of links and pictures within the project."""
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def named_paths(text):
    """Return the paths of the form actors/… or runner/… that a text names; … and a final dot are not part of one."""
    paths = re.findall(r"(?<![\w./-])((?:actors|runner)/[\w./-]*)", text.replace("\\_", "_"))
    return [path.rstrip(".") for path in paths]


def imported_modules(code):
    """Return the modules that a code block imports from this project."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name for name in names if name.partition(".")[0] in ("actors", "runner")}


def test_plugins_md_lists_the_message_kinds_with_their_arrays():
    rows = [f"| `{name}` | {KINDS[name]} |" for name in KINDS if name in BUILT_IN]
    assert rows
    assert [row for row in rows if row not in PLUGINS.splitlines()] == []


def test_plugins_md_lists_every_semantics():
    table = PLUGINS.partition("| semantics |")[2]
    assert [name for name in get_args(Semantics) if f"`{name}`" not in table] == []


@each_document
def test_every_relative_link_leads_to_a_file(document):
    links = relative_links(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@each_document
def test_every_named_path_of_the_packages_exists(document):
    paths = named_paths(document.read_text(encoding="utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_tree_in_architecture_md_names_every_python_file():
    """The drawing has one folder for each of the packages' and names every file in it, and no others."""
    tree = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## The tree")[2].split("```")[1]
    named = re.findall(r"\b\w+\.py\b", tree)
    there = [path.name for package in ("actors", "runner") for path in (ROOT / package).rglob("*.py")]
    ignored = {"__init__.py", "__main__.py"}
    assert set(there) - set(named) - ignored == set()
    assert set(named) - set(there) == set()


@each_document
def test_code_blocks_import_only_the_public_faces(document):
    blocks = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for block in blocks for name in imported_modules(block) if name not in PUBLIC] == []


def test_the_checks_find_what_they_look_for():
    text = "[a](docs/x.md#part) ![b](y.png) [c](https://z.org/w) see `actors/nothing.py`, runner/cli/app.py."
    assert relative_links(text) == ["docs/x.md", "y.png"]
    assert named_paths(text) == ["actors/nothing.py", "runner/cli/app.py"]
    assert imported_modules("from actors.module import Port\nimport numpy\nimport runner as srk") == {
        "actors.module",
        "runner",
    }


def test_the_newest_version_of_the_changelog_is_that_of_the_package():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    first = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first.group(1) == version.group(1)


def test_the_readme_has_what_a_newcomer_looks_for_in_this_order():
    """A picture that a run made, how to install, own data, Python, and how to cite; in at most 220 lines."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = ("docs/images/mnist_run.png", "pip install", "serket run mnist", "serket new-model data.csv", "```python",
              "docs/tutorial.md", "@software{")  # fmt: skip
    places = [readme.find(each) for each in wanted]
    assert min(places) >= 0, wanted[places.index(-1)] if -1 in places else ""
    assert places == sorted(places)
    lines = readme.splitlines()
    assert len(lines) <= 220
    assert lines.index("```python") < 120
